"""Collects rollouts: T steps of a batch of environments under a policy whose memory continues from rollout to rollout."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from gymnasium import spaces

from rmt_rl.common import rng
from rmt_rl.common.errors import ConfigError, RunError
from rmt_rl.common.finite import NotFinite, finite, first_nonfinite
from rmt_rl.common.process import command_line
from rmt_rl.common.ranks import ALONE, Ranks
from rmt_rl.common.state import (
    Obs,
    changed_in_place,
    check_count,
    check_tensor,
    detach,
    leaves,
    map_obs,
    map_state,
    select_rows,
    state_from_tree,
    state_to_tree,
    versions_of,
)
from rmt_rl.config.fields import did_you_mean
from rmt_rl.envs.base import TorchVectorEnv, reported_names
from rmt_rl.envs.observations import ObservationCheck, usable
from rmt_rl.policies.actor_critic import ActorCritic, PolicyState
from rmt_rl.policies.encoders import category_sizes
from rmt_rl.policies.network import memories_in
from rmt_rl.policies.rmt_state import RMTState
from rmt_rl.policies.saving import check_fits
from rmt_rl.rollouts.statistics import Episodes, number_of, success_of


@dataclasses.dataclass(frozen=True)
class Rollout:
    """T steps of B rows under one policy.

    obs: observation before each step, [B, T, ...]
    action: [B, T] or [B, T, components]
    log_prob: [B, T] of the action under the policy that chose it
    value: [B, T] of obs
    next_value: [B, T] of the state after the step under the memory that saw it; at the end of an episode that of the final
        observation, not of the next episode's first
    reward, terminated, truncated: [B, T]
    first: [B, T] the policy's memory is reset before this step; nothing before it may influence it
    begins: [B, T] an episode begins with this step; as `first`, unless memory is carried over (`memory.carry`)
    state: the policy's state before the first step, detached
    nonfinite: the first NaN or infinity that the environment returned, as text; such a rollout is skipped
    """

    obs: Any
    action: torch.Tensor
    log_prob: torch.Tensor
    value: torch.Tensor
    next_value: torch.Tensor
    reward: torch.Tensor
    terminated: torch.Tensor
    truncated: torch.Tensor
    first: torch.Tensor
    begins: torch.Tensor
    state: Any
    nonfinite: str | None = None

    @property
    def steps(self) -> int:
        """Environment steps of all rows."""
        return self.reward.numel()


def next_noise(noise: torch.Tensor, first: torch.Tensor, correlation: float, generator: rng.Stream) -> torch.Tensor:
    """The noise [B, n] of the next step: c * noise + sqrt(1 - c^2) * new, and new where an episode begins (`first`, [B]).

    Every step on its own has standard normal noise, so log-probabilities stay those of the policy.
    """
    new = rng.normal(noise, generator)
    return torch.where(first[:, None], new, correlation * noise + math.sqrt(1 - correlation**2) * new)


#: The tensors of a step by name, and how often they had been written to before it.
_Kept = tuple[dict[str, torch.Tensor], dict[str, int]]


def _named(obs: Obs, action: torch.Tensor) -> _Kept:
    shown = {f"observation {key}": x for key, x in obs.items()} if isinstance(obs, dict) else {"observation": obs}
    tensors = {**shown, "action": action}
    return tensors, versions_of(tensors)


class Collector:
    """The environment, the policy, and the state that continues between rollouts: observations, memory, running episodes.

    seed: for the environment's first reset. generator: for the sampled actions. metrics: names of numbers in the last infos of
    episodes, which are returned with them. noise_correlation: of the noise of continuous actions between
    neighbouring steps of an episode. ranks: the processes of which each has a share of the rows, `env` those of this one; the
    rollout has this process's rows, the episodes are those of all.
    """

    def __init__(
        self,
        env: TorchVectorEnv,
        policy: ActorCritic,
        seed: int = 0,
        generator: torch.Generator | None = None,
        metrics: Sequence[str] = (),
        noise_correlation: float = 0.0,
        ranks: Ranks = ALONE,
    ) -> None:
        if not (isinstance(env, TorchVectorEnv) and isinstance(policy, ActorCritic)):
            raise ConfigError(
                f"Collector({type(env).__name__}, {type(policy).__name__}): expected an environment and a policy"
            )
        check_fits(policy, env, values=True)
        if noise_correlation and not policy.head.noise_size:
            raise ConfigError(
                f"algo.noise_correlation={noise_correlation:g}: applies to continuous actions, and this environment has choices"
                " only; leave it out"
            )
        self.env, self.policy, self.seed, self.steps = env, policy, seed, 0
        self.metrics = tuple(metrics)
        self._metrics_seen = not metrics  # whether it is known that the environment reports them
        self._check = ObservationCheck(env.single_observation_space, env.single_action_space if policy.masked else None)
        self.generator = rng.generator(seed, "act", env.device) if generator is None else generator
        self.noise_correlation, self.ranks = noise_correlation, ranks
        rows = env.num_envs * ranks.count
        self.own = ranks.share(rows)
        self.stream: rng.Stream = self.generator
        if ranks.count > 1:
            self.stream = rng.SharedStream(self.generator, self.own, rows)
        self._reset(seed)

    def _reset(self, seed: int) -> None:
        rows, device = self.env.num_envs, self.env.device
        self.obs: Obs = self.env.reset(seed=seed + self.own.start)[0]
        self._require_inside("observation", self.obs, self.steps, acting=True)
        if found := self._check.unusable("observation", self.obs):
            raise NotFinite(f"{found}, {self.steps:,} steps into the run: the environment returned it from reset")
        self.state: PolicyState = detach(self.policy.initial_state(rows, critic=True))
        self.first = self.begins = torch.ones(rows, dtype=torch.bool, device=device)
        self.noise: torch.Tensor | None = None
        if self.noise_correlation:
            self.noise = torch.zeros(rows, self.policy.head.noise_size, device=device)
        self.episode_return = torch.zeros(rows, dtype=torch.float64, device=device)
        self.episode_length = torch.zeros(rows, dtype=torch.int64, device=device)

    @torch.no_grad()
    def collect(
        self,
        steps: int,
        skip_nonfinite: bool = False,
        between_steps: Callable[[], None] = lambda: None,
        carry: float = 0.0,
    ) -> tuple[Rollout, Episodes]:
        """`steps` steps of every row under the policy's current weights, and the episodes that ended during them.

        between_steps: is called before every step, and may raise to leave the rollout. carry: probability that a row whose
        episode ends keeps the policy's memory in the next one.

        Raises NotFinite where the environment returns a NaN or an infinity; with skip_nonfinite `Rollout.nonfinite` reports it.
        """
        # contiguous, as after resuming a run: other strides may select kernels that round differently
        if steps < 1:
            raise ValueError(f"steps is {steps}; it must be at least 1")
        if not 0 <= carry <= 1:
            raise ValueError(f"carry is {carry}; it must be a probability, 0 to 1")
        self.state = start = map_state(torch.Tensor.contiguous, self.state)
        rows, ended, kept = [], [], []
        reported: dict[str, None] = {}
        nonfinite: str | None = None
        for step in range(steps):
            between_steps()
            # act
            obs, first, begins = self.obs, self.first, self.begins
            if self.noise is not None:
                self.noise = next_noise(self.noise, begins, self.noise_correlation, self.stream)
            action, log_prob, value, self.state = self.policy.explore(obs, self.state, first, self.stream, self.noise)
            kept.append(_named(obs, action))
            self.obs, reward, terminated, truncated, info = self.env.step(action)
            # check what the environment returned
            steps_now = self.steps + (step + 1) * len(reward) * self.ranks.count
            found, cut = self._check_step(reward, truncated, info, steps_now)
            if found:
                nonfinite = nonfinite or f"{found}, {steps_now:,} steps into the run"
                if not skip_nonfinite:
                    raise NotFinite(f"{nonfinite}: the environment returned it; no optimizer step was made with it")
                # the rollout is discarded, but memory and the next actions need finite numbers
                self.obs, reward = map_obs(usable, self.obs), finite(reward)
            # record the step; the next one begins an episode where this one ended it, and resets the memory unless it is kept
            self.begins = self.first = terminated | truncated
            if carry:
                carried = rng.uniform(torch.empty(len(reward), device=self.env.device), self.stream) < carry
                self.first = self.begins & ~carried
            final_value = self._final_value(info, cut)
            rows.append(
                (obs, action, log_prob, value, reward.float(), terminated, truncated, first, begins, final_value)
            )
            ended.append(self._count(reward, info.get("episode_over", self.begins), info))
            reported |= dict.fromkeys(reported_names(info) if self.metrics else ())
        self._require_unchanged(kept)
        # stack the steps to [B, T]; the value after the last step is unused in rows whose episode ended
        after = self.policy.value(self.obs, self.state)
        obs_list, *columns = zip(*rows, strict=True)
        action, log_prob, value, reward, terminated, truncated, first, begins, final_value = (
            torch.stack(c, dim=1) for c in columns
        )
        next_value = torch.where(truncated, final_value, torch.cat([value[:, 1:], after[:, None]], dim=1))
        obs = map_obs(lambda *x: torch.stack(x, dim=1), *obs_list)
        self.steps += reward.numel() * self.ranks.count
        rollout = Rollout(
            obs, action, log_prob, value, next_value, reward, terminated, truncated, first, begins, start, nonfinite
        )
        flags, *numbers = (self.ranks.gather(torch.stack(c), dim=1).flatten() for c in zip(*ended, strict=True))
        which = flags.nonzero().squeeze(1)  # once, because on a GPU the host waits for it
        returns, lengths, success, *more = (x[which].cpu() for x in numbers)
        episodes = Episodes(returns, lengths, success, dict(zip(self.metrics, more, strict=True)))
        self._require_metrics(episodes, [*reported])
        return rollout, episodes

    def _require_unchanged(self, kept: list[_Kept]) -> None:
        """Raises RunError where the environment wrote to an action that it got, or to an observation that it had returned."""
        for number, (tensors, before) in enumerate(kept):
            if changed := changed_in_place(tensors, before):
                raise RunError(
                    f"the {changed[0]} of step {number} of a rollout was changed in place, so that the policy would learn from"
                    f" other numbers; the environment ({self.env.task or type(self.env).__name__}) must return new tensors"
                    f" and copy actions before it changes them ({command_line('rmt_rl.envs.check')} checks the contract)"
                )

    def _require_metrics(self, episodes: Episodes, reported: list[str]) -> None:
        """Raises RunError where none of the first episodes reports a number that `metrics` names: it may be misspelt."""
        if self._metrics_seen or not len(episodes.returns):
            return
        for name, values in episodes.metrics.items():
            if bool(values.isnan().all()):
                hint = "" if name in reported else did_you_mean(name, reported)
                raise RunError(
                    f"metrics={','.join(self.metrics)}: none of the first {len(episodes.returns)} episodes reports a finite"
                    f" number {name} in its last info; they report {', '.join(reported) or 'none'}{hint}"
                )
        self._metrics_seen = True

    def state_dict(self) -> dict[str, Any]:
        """Everything that the next rollout depends on except the policy; "env" is None where the environment cannot be saved.

        With several processes the first one has the states of all under "ranks"; all of them must ask for it.
        """
        own = self.own_state()
        return own if self.ranks.count == 1 else {"ranks": self.ranks.collect(own)}

    def own_state(self) -> dict[str, Any]:
        """`state_dict` of the rows of this process."""
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
            "begins": self.begins,
            "noise": self.noise,
            "episode_return": self.episode_return,
            "episode_length": self.episode_length,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue where `state_dict` was taken; without the environment's state all rows start new episodes, and with another
        number of processes."""
        saved = state.get("ranks", [state])
        state = saved[self.ranks.number] if len(saved) == self.ranks.count else saved[0] | {"env": None}
        self.generator.set_state(state["generator"])
        self.steps = check_count("steps", state["steps"])
        self._metrics_seen = self._metrics_seen or self.steps > 0
        if state["env"] is None:
            return self._reset(rng.seed(self.seed, f"resumed after {self.steps} steps"))
        self.env.load_state_dict(state["env"])
        self.obs = map_obs(lambda saved, now: state_from_tree(now, saved), state["obs"], self.obs)
        self.state = state_from_tree(self.state, state["state"])
        self.first = check_tensor("first", state["first"], self.first)
        # checkpoints from before memory.carry reset the memory at every episode's start
        self.begins = check_tensor("begins", state.get("begins", state["first"]), self.first)
        if self.noise is not None:
            self.noise = check_tensor("noise", state["noise"], self.noise, -20, 20)  # standard normal
        self.episode_return = check_tensor("episode_return", state["episode_return"], self.episode_return)
        self.episode_length = check_tensor("episode_length", state["episode_length"], self.episode_length, low=0)
        self._check_loaded()

    def _check_loaded(self) -> None:
        """Raises ValueError where a loaded observation, action or memory is one that no episode has."""
        known = self.env.single_observation_space
        parts = known.spaces if isinstance(known, spaces.Dict) else {"": known}
        shown = self.obs if isinstance(self.obs, dict) else {"": self.obs}
        for name, space in parts.items():
            check_tensor(f"obs {name}", shown[name], shown[name])  # finite
            # the network looks categories up by their number
            categories = category_sizes(space) is not None
            if categories and not all(space.contains(row) for row in shown[name].cpu().numpy()):
                raise ValueError(f"obs {name} is outside {' '.join(str(space).split())}")
        check_tensor("action", self.state.action, self.state.action, *self.policy.head.ends())
        for memory in memories_in(self.state.memory):
            if isinstance(memory, RMTState):
                check_tensor("age", memory.age, memory.age, 0, 2**62)
        for name, x in leaves(self.state.memory).items():
            x = x[~self.first]  # nothing of the other rows is used
            if x.is_floating_point() and not bool(x.isfinite().all()):
                raise ValueError(f"{name} is not finite")

    def _require_inside(self, name: str, obs: Obs, steps: int, acting: bool = False) -> None:
        """Raises RunError where the environment returned a whole number outside the bounds of its space.

        acting: the next actions are chosen with this observation, so its action mask must allow one.
        """
        if found := self._check.outside(name, obs) or (self._check.no_action(name, obs) if acting else None):
            raise RunError(f"{found}, {steps:,} steps into the run: the environment returned it")

    def _check_step(
        self, reward: torch.Tensor, truncated: torch.Tensor, info: dict[str, Any], steps: int
    ) -> tuple[str | None, torch.Tensor]:
        """What is unusable in what the environment returned, as text, or None; and the numbers of the truncated rows.

        Raises RunError where a whole number is outside its bounds.
        """
        if self._check.finds_nothing([self.obs], reward, truncated):
            return None, torch.zeros(0, dtype=torch.int64, device=reward.device)
        self._require_inside("observation", self.obs, steps, acting=True)
        found = self._check.unusable("observation", self.obs) or first_nonfinite("reward", reward.float())
        cut = truncated.nonzero().squeeze(1)
        if not found and len(cut):
            self._require_inside("last observation", info["final_obs"], steps)
            found = self._check.unusable("last observation", info["final_obs"])
        return found, cut

    def _final_value(self, info: dict[str, Any], rows: torch.Tensor) -> torch.Tensor:
        """Values of the last observations of truncated episodes, those of `rows`, under their memory; zero elsewhere."""
        value = torch.zeros(self.env.num_envs, device=rows.device)
        if len(rows):
            final_obs = map_obs(lambda x: x[rows], info["final_obs"])
            value[rows] = self.policy.value(final_obs, select_rows(self.state, rows))
        return value

    def _count(self, reward: torch.Tensor, ended: torch.Tensor, info: dict[str, Any]) -> tuple[torch.Tensor, ...]:
        """[B] each: whether an episode ends with this step, and its return, length, success and metrics so far."""
        self.episode_return = self.episode_return + reward
        self.episode_length = self.episode_length + 1
        success = success_of(info, ended, "episode_success" if "episode_over" in info else "success")
        more = (number_of(info, ended, name) for name in self.metrics)
        counted = ended, self.episode_return, self.episode_length, success, *more
        self.episode_return = torch.where(ended, 0.0, self.episode_return)
        self.episode_length = torch.where(ended, 0, self.episode_length)
        return counted
