"""Steps a vector environment with a policy for T steps."""

from __future__ import annotations

import dataclasses
import math
from collections import deque
from typing import Any

import torch

from rmt_rl.data import Obs, Rollout, detach, map_obs, select_rows
from rmt_rl.envs.base import TorchVectorEnv
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
        self.env, self.policy, self.generator = env, policy, generator
        self.obs: Obs = env.reset(seed=seed)[0]
        self.state: PolicyState = detach(policy.initial_state(env.num_envs))
        self.first = torch.ones(env.num_envs, dtype=torch.bool, device=env.device)
        self.episode_return = torch.zeros(env.num_envs, dtype=torch.float64, device=env.device)
        self.episode_length = torch.zeros(env.num_envs, dtype=torch.int64, device=env.device)

    @torch.no_grad()
    def collect(self, steps: int) -> tuple[Rollout, Episodes]:
        """`steps` steps of every row under the policy's present weights."""
        start, rows, ended = self.state, [], []
        for _ in range(steps):
            obs, first = self.obs, self.first
            action, log_prob, value, self.state = self.policy.explore(obs, self.state, first, self.generator)
            self.obs, reward, terminated, truncated, info = self.env.step(action)
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
        rollout = Rollout(obs, action, log_prob, value, next_value, reward, terminated, truncated, first, state=start)
        return rollout, _episodes(ended)

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

    def means(self) -> dict[str, float | None]:
        n = len(self._episodes)
        success, returns, lengths = (
            (sum(column) / n for column in zip(*self._episodes, strict=True)) if n else (None,) * 3
        )
        told = success is not None and success == success  # NaN where the environment does not say
        return {"success": success if told else None, "return": returns, "length": lengths}
