"""Steps a vector environment with a policy for T steps."""

from __future__ import annotations

import dataclasses
import math
from collections import deque
from typing import Any

import torch

from rmt_rl import rng
from rmt_rl.data import Obs, Rollout, detach, map_obs, map_state, select_rows, state_from_tree, state_to_tree
from rmt_rl.envs.base import TorchVectorEnv
from rmt_rl.guards import NotFinite, finite, first_culprit
from rmt_rl.policies.actor_critic import ActorCritic, PolicyState

#: Success and return on screen and in metrics.jsonl are means over this many of the latest episodes.
RECENT = 500


@dataclasses.dataclass(frozen=True)
class Episodes:
    """The episodes that ended while a rollout was collected: one number each, in the order in which they ended.

    success is NaN where the environment does not say.
    """

    returns: torch.Tensor
    lengths: torch.Tensor
    success: torch.Tensor


class Collector:
    """Where every row stands between two rollouts: its observation, its memory, its running episode."""

    def __init__(self, env: TorchVectorEnv, policy: ActorCritic, seed: int, generator: torch.Generator) -> None:
        self.env, self.policy, self.seed, self.generator, self.steps = env, policy, seed, generator, 0
        #: What is not finite in the latest rollout, or None.
        self.wrong: str | None = None
        self._begin(seed)

    def _begin(self, seed: int) -> None:
        rows, device = self.env.num_envs, self.env.device
        self.obs: Obs = self.env.reset(seed=seed)[0]
        if found := first_culprit("observation", self.obs):
            raise NotFinite(f"{found}, {self.steps:,} steps into the run: the environment gave it when it was reset")
        self.state: PolicyState = detach(self.policy.initial_state(rows))
        self.first = torch.ones(rows, dtype=torch.bool, device=device)
        self.episode_return = torch.zeros(rows, dtype=torch.float64, device=device)
        self.episode_length = torch.zeros(rows, dtype=torch.int64, device=device)

    @torch.no_grad()
    def collect(self, steps: int, keep_on: bool = False) -> tuple[Rollout, Episodes]:
        """`steps` steps of every row under the policy's present weights.

        Raises NotFinite where the environment gives an observation or a reward that is not finite; keep_on: no, `wrong` tells.
        """
        # in one piece, as they are when a run is resumed: other strides may take other kernels, which round differently
        self.state = start = map_state(torch.Tensor.contiguous, self.state)
        rows, ended = [], []
        self.wrong = None
        for step in range(steps):
            obs, first = self.obs, self.first
            action, log_prob, value, self.state = self.policy.explore(obs, self.state, first, self.generator)
            self.obs, reward, terminated, truncated, info = self.env.step(action)
            found = first_culprit("observation", self.obs) or first_culprit("reward", reward.float())
            if not found and bool(truncated.any()):
                found = first_culprit("last observation", info["final_obs"])
            if found:
                self.wrong = self.wrong or f"{found}, {self.steps + (step + 1) * len(reward):,} steps into the run"
                if not keep_on:
                    raise NotFinite(f"{self.wrong}: the environment gave it; no step was made of it")
                # nothing is learned from this rollout; memory and the next actions need numbers all the same
                self.obs, reward = map_obs(finite, self.obs), finite(reward)
            self.first = terminated | truncated
            final_value = self._final_value(info, truncated)
            rows.append((obs, action, log_prob, value, reward.float(), terminated, truncated, first, final_value))
            ended.append(self._count(reward, info.get("episode_over", self.first), info))
        after = self.policy.value(self.obs, self.state)  # rows that begin anew do not use it: they ended
        obs_list, *columns = zip(*rows, strict=True)
        action, log_prob, value, reward, terminated, truncated, first, final_value = (
            torch.stack(c, dim=1) for c in columns
        )
        next_value = torch.where(truncated, final_value, torch.cat([value[:, 1:], after[:, None]], dim=1))
        obs = map_obs(lambda *x: torch.stack(x, dim=1), *obs_list)
        self.steps += reward.numel()
        rollout = Rollout(obs, action, log_prob, value, next_value, reward, terminated, truncated, first, state=start)
        return rollout, _episodes(ended)

    def state_dict(self) -> dict[str, Any]:
        """What the next rollout depends on beside the policy; "env" is None where the environment does not hand out its state."""
        shared = {"generator": self.generator.get_state(), "steps": self.steps, "env": None}
        try:
            env = self.env.state_dict()
        except NotImplementedError:
            return shared
        return {
            **shared,
            "env": env,
            "obs": self.obs,
            "state": state_to_tree(self.state),
            "first": self.first,
            "episode_return": self.episode_return,
            "episode_length": self.episode_length,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where `state_dict` was taken; without the environment's state in it all rows begin new episodes."""
        self.generator.set_state(state["generator"])
        self.steps = int(state["steps"])
        if state["env"] is None:
            return self._begin(rng.seed(self.seed, f"resumed after {self.steps} steps"))
        self.env.load_state_dict(state["env"])
        self.obs = map_obs(lambda saved, now: state_from_tree(now, saved), state["obs"], self.obs)
        self.state = state_from_tree(self.state, state["state"])
        for name in ("first", "episode_return", "episode_length"):
            setattr(self, name, state_from_tree(getattr(self, name), state[name]))

    def _final_value(self, info: dict[str, Any], truncated: torch.Tensor) -> torch.Tensor:
        """Values of the final observations of truncated episodes, under the memory that saw them; zero elsewhere."""
        value = torch.zeros(len(truncated), device=truncated.device)
        rows = truncated.nonzero().squeeze(1)
        if len(rows):
            final_obs = map_obs(lambda x: x[rows], info["final_obs"])
            value[rows] = self.policy.value(final_obs, select_rows(self.state, rows))
        return value

    def _count(self, reward: torch.Tensor, ended: torch.Tensor, info: dict[str, Any]) -> tuple[torch.Tensor, ...]:
        self.episode_return = self.episode_return + reward
        self.episode_length = self.episode_length + 1
        told = info.get("episode_success", info.get("success"))
        success = told.double() if told is not None else torch.full_like(self.episode_return, math.nan)
        counted = self.episode_return[ended], self.episode_length[ended], success[ended]
        self.episode_return = torch.where(ended, 0.0, self.episode_return)
        self.episode_length = torch.where(ended, 0, self.episode_length)
        return counted


def _episodes(ended: list[tuple[torch.Tensor, ...]]) -> Episodes:
    return Episodes(*(torch.cat(column).cpu() for column in zip(*ended, strict=True)))


class Recent:
    """Means over the latest episodes."""

    def __init__(self) -> None:
        self._episodes: deque[tuple[float, float, float]] = deque(maxlen=RECENT)

    def add(self, episodes: Episodes) -> None:
        columns = episodes.success.tolist(), episodes.returns.tolist(), episodes.lengths.tolist()
        self._episodes.extend(zip(*columns, strict=True))

    def state_dict(self) -> dict[str, Any]:
        return {"episodes": torch.tensor(list(self._episodes), dtype=torch.float64).view(-1, 3)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._episodes.clear()
        self._episodes.extend(tuple(episode) for episode in state["episodes"].tolist())

    def means(self) -> dict[str, float | None]:
        n = len(self._episodes)
        success, returns, lengths = (
            (sum(column) / n for column in zip(*self._episodes, strict=True)) if n else (None,) * 3
        )
        told = success is not None and success == success  # NaN where the environment does not say
        return {"success": success if told else None, "return": returns, "length": lengths}
