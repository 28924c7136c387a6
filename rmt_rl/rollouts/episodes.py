"""Plays whole episodes: the loop that evaluation and recording share.

Episode k is the first episode of seed `base + k`, whatever the number of rows. So short episodes are not counted more often than
long ones, and a deterministic policy has the same score with 1 row and with 64.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import torch

from rmt_rl.common import rng
from rmt_rl.common.errors import RunError
from rmt_rl.common.finite import NotFinite, first_nonfinite
from rmt_rl.common.state import map_obs, where_rows
from rmt_rl.envs.actions import MixedActions
from rmt_rl.envs.base import Obs, TorchVectorEnv
from rmt_rl.envs.masks import has_mask, mask_of, sample_allowed
from rmt_rl.envs.observations import ObservationCheck
from rmt_rl.policies.actor_critic import ActorCritic
from rmt_rl.rollouts.distinct import Watched
from rmt_rl.rollouts.statistics import Distinct, Episodes, Score, exact_score, number_of, score, success_of

#: (observation, first) -> action [B, ...]; an actor keeps its own memory.
Actor = Callable[[Obs, torch.Tensor], torch.Tensor]

#: Seconds without output after which a long evaluation reports that it is still running.
PATIENCE = 20.0


@dataclasses.dataclass(frozen=True)
class Step:
    """One step of B rows. obs, first: before the step. next_obs: after the step and the autoreset.

    running: [B] rows whose first episode includes this step. cut: [B] rows that are still running after the last allowed step;
    they count as truncated.
    """

    obs: Obs
    first: torch.Tensor
    action: torch.Tensor
    reward: torch.Tensor
    terminated: torch.Tensor
    truncated: torch.Tensor
    info: dict[str, Any]
    next_obs: Obs
    running: torch.Tensor
    cut: torch.Tensor

    @property
    def ended(self) -> torch.Tensor:
        """[B] rows whose episode ends with this step."""
        return self.terminated | self.truncated

    @property
    def last_obs(self) -> Obs:
        """The observation after the step; in rows whose episode ends, its last one, before the autoreset."""
        return map_obs(partial(where_rows, self.ended), self.info["final_obs"], self.next_obs)


def first_episodes(env: TorchVectorEnv, act: Actor, seed: int, episode_steps: int | None = None) -> Iterator[Step]:
    """The steps of the first episode of every row, until the last one ends.

    episode_steps: steps after which an episode is cut; None = as the environment says. Raises NotFinite or RunError where the
    environment returns a number that nobody can score or learn from.
    """
    limit = env.episode_steps if episode_steps is None else episode_steps
    check = ObservationCheck(env.single_observation_space, env.single_action_space)
    obs, _ = env.reset(seed=seed)
    require_usable(check, f"from reset(seed={seed})", obs)
    first = torch.ones(env.num_envs, dtype=torch.bool, device=env.device)
    running = first.clone()
    for number in itertools.count(1):
        action = act(obs, first)
        next_obs, reward, terminated, truncated, info = env.step(action)
        require_usable(check, f"{number:,} steps after reset(seed={seed})", next_obs, reward, info["final_obs"])
        last = number == limit
        cut = running & ~(terminated | truncated) if last else torch.zeros_like(running)
        step = Step(obs, first, action, reward, terminated, truncated | cut, info, next_obs, running, cut)
        yield step
        if last or not bool((running & ~step.ended).any()):
            return
        obs, first, running = next_obs, step.ended, running & ~step.ended


def require_usable(
    check: ObservationCheck, when: str, obs: Obs, reward: torch.Tensor | None = None, final_obs: Obs | None = None
) -> None:
    """Raises NotFinite for a NaN or an infinity, and RunError for a whole number outside the bounds of its space.

    The next action is chosen with `obs`, so its action mask must allow one.
    """
    shown = {"observation": obs} | ({} if final_obs is None else {"last observation": final_obs})
    if reward is not None and check.finds_nothing(shown.values(), reward):
        return
    for name, x in shown.items():
        if found := check.outside(name, x):
            raise RunError(f"{found}, {when}: the environment returned it")
    if found := check.no_action("observation", obs):
        raise RunError(f"{found}, {when}: the environment returned it")
    found = None if reward is None else first_nonfinite("reward", reward.float())
    for name, x in shown.items():
        found = found or check.unusable(name, x)
    if found:
        raise NotFinite(f"{found}, {when}: the environment returned it")


def evaluate(
    policy: ActorCritic,
    env: TorchVectorEnv,
    episodes: int,
    seed: int = 0,
    deterministic: bool = True,
    episode_steps: int | None = None,
    between_steps: Callable[[], None] = lambda: None,
    metrics: Sequence[str] = (),
    count: bool = False,
) -> Score:
    """The score of `episodes` new episodes, played with frozen weights on the rows of `env`.

    episode_steps: steps after which an episode is cut (None: as the environment says). between_steps: is called after every step,
    and may raise to leave the evaluation. metrics: names of numbers in the last infos of episodes to average. count: count the
    different episodes, and play no more once a deterministic policy has played all that the task has; each of them counts once,
    so that the score is exact and does not depend on the number of rows.
    """
    generator = rng.generator(seed, "evaluate-act", env.device)
    base = rng.seed(seed, "evaluate")
    waves, keys = [], dict[tuple[Any, ...], int]()
    for begin in range(0, episodes, env.num_envs):
        actor = remember(policy, env.num_envs, deterministic, generator)
        watched = Watched(env, actor) if count else None
        wave = _totals(first_episodes(env, watched or actor, base + begin, episode_steps), env, between_steps, metrics)
        n = min(env.num_envs, episodes - begin)
        waves.append([column[:n].cpu() for column in wave])
        if watched is not None:
            for row, key in enumerate(watched.keys(waves[-1])):
                keys.setdefault(key, begin + row)
            if deterministic and len(keys) == env.distinct_episodes:
                break
    returns, lengths, success, cut, *more = (torch.cat(column) for column in zip(*waves, strict=True))
    if not bool(success[~cut].isnan().any()) and not bool(cut.all()):
        success = torch.where(
            cut & success.isnan(), 0.0, success
        )  # the others report it: an episode that was cut has none
    found = score(Episodes(returns, lengths, success, dict(zip(metrics, more, strict=True))), int(cut.sum()))
    if not count:
        return found
    first = torch.tensor(list(keys.values()))
    each = found.each.take(first)
    distinct = Distinct(each, env.distinct_episodes if deterministic else None)
    if distinct.exact:
        found = exact_score(each, int(cut[first].sum()))
    return dataclasses.replace(found, distinct=distinct)


def _totals(
    steps: Iterator[Step], env: TorchVectorEnv, between_steps: Callable[[], None], metrics: Sequence[str]
) -> tuple[torch.Tensor, ...]:
    """Return, length, success, whether it was cut, and metrics of the first episode of every row; NaN = not reported."""
    returns = torch.zeros(env.num_envs, dtype=torch.float64, device=env.device)
    lengths, success = torch.zeros_like(returns, dtype=torch.int64), torch.full_like(returns, math.nan)
    cut = torch.zeros_like(returns, dtype=torch.bool)
    more = [torch.full_like(returns, math.nan) for _ in metrics]
    last_report = time.monotonic()
    for step in steps:
        returns += torch.where(step.running, step.reward, 0.0)
        lengths += step.running
        success = torch.where(step.running & step.ended, success_of(step.info, step.ended), success)
        last = step.running & step.ended
        more = [torch.where(last, number_of(step.info, last, n), x) for n, x in zip(metrics, more, strict=True)]
        cut |= step.cut
        between_steps()
        if time.monotonic() - last_report > PATIENCE:  # episodes may be long
            last_report = time.monotonic()
            _report_running(step, int(lengths.max()))
    return returns, lengths, success, cut, *more


def _report_running(step: Step, steps: int) -> None:
    running = int((step.running & ~step.ended).sum())
    rows = len(step.running)
    if running == rows:
        end = "no episode has ended yet; episode_steps=<steps> sets a limit"
    else:
        end = f"{rows - running} of {rows} episodes have ended"
    print(f"still playing: {steps:,} steps, {end}", flush=True)


@dataclasses.dataclass(frozen=True)
class Recorded:
    """One episode of T steps. obs: arrays [T + 1, ...], the last one after the last action; action [T, ...]; reward [T] float64.

    success: None where the environment does not report it at the end of this episode.
    """

    obs: Any
    action: np.ndarray
    reward: np.ndarray
    terminated: bool
    truncated: bool
    success: bool | None
    seed: int


def record(
    env: TorchVectorEnv, make_actor: Callable[[], Actor], episodes: int, seed: int, episode_steps: int | None = None
) -> Iterator[list[Recorded]]:
    """`episodes` new episodes of `env`, as many at a time as it has rows, each time with a new actor.

    episode_steps: steps after which an episode is cut, and counts as truncated; None = as the environment says.
    """
    base = rng.seed(seed, "record")
    for begin in range(0, episodes, env.num_envs):
        yield _record_first(env, first_episodes(env, make_actor(), base + begin, episode_steps), base + begin)[
            : episodes - begin
        ]


def _record_first(env: TorchVectorEnv, steps: Iterator[Step], seed: int) -> list[Recorded]:
    # one tensor per step and column, on the CPU; the observations are one longer than the rest
    observations: list[Obs] = []
    columns: dict[str, list[torch.Tensor]] = {name: [] for name in ("action", "reward", "flags", "running", "success")}
    for step in steps:
        observations += [step.last_obs] if observations else [step.obs, step.last_obs]
        columns["action"].append(clip_action(step.action, env).cpu())
        columns["reward"].append(step.reward.double().cpu())
        columns["flags"].append(torch.stack([step.terminated, step.truncated], -1).cpu())
        columns["running"].append(step.running.cpu())
        columns["success"].append(success_of(step.info, step.ended).cpu())
    obs_BT = map_obs(lambda *x: torch.stack([v.cpu() for v in x], 1), *observations)
    action_BT, reward_BT, flags_BT, running_BT, success_BT = (
        torch.stack(column, 1).numpy() for column in columns.values()
    )
    # each row is cut at the end of its first episode
    return [
        Recorded(
            obs=_row(obs_BT, row, T + 1),
            action=action_BT[row, :T],
            reward=reward_BT[row, :T],
            terminated=bool(flags_BT[row, T - 1, 0]),
            truncated=bool(flags_BT[row, T - 1, 1]),
            success=None if math.isnan(success_BT[row, T - 1]) else bool(success_BT[row, T - 1]),
            seed=seed + row,
        )
        for row, T in enumerate(running_BT.sum(1).tolist())
    ]


def _row(obs_BT: Any, row: int, steps: int) -> Any:
    if isinstance(obs_BT, dict):
        return {key: value[row, :steps].numpy() for key, value in obs_BT.items()}
    return obs_BT[row, :steps].numpy()


def check_room(folder: str | Path, needed: int, variable: str) -> None:
    """Raises OSError where a disk has less than `needed` bytes. variable: the shell variable that names another disk."""
    if (free := shutil.disk_usage(folder).free) < needed:
        raise OSError(f"{folder} has {free:,} bytes free, {needed:,} are needed; set {variable} to another disk")


def clip_action(action_B: torch.Tensor, env: TorchVectorEnv) -> torch.Tensor:
    """The action that the environment carries out: continuous actions are clipped to their bounds."""
    space = env.single_action_space
    if not isinstance(space, gymnasium.spaces.Box):
        return action_B
    low, high = (torch.from_numpy(bound).to(action_B) for bound in (space.low, space.high))
    return action_B.clamp(low, high)


def remember(policy: ActorCritic, rows: int, deterministic: bool, generator: torch.Generator) -> Actor:
    """The policy as an actor, with the state of `rows` rows before their first step."""
    state = policy.initial_state(rows)

    def act(obs: Obs, first: torch.Tensor) -> torch.Tensor:
        nonlocal state
        action, state = policy.act(obs, state, first, deterministic, generator)
        return action

    return act


def policy_actor(policy: ActorCritic, env: TorchVectorEnv, seed: int, deterministic: bool) -> Callable[[], Actor]:
    """A trained policy."""
    generator = rng.generator(seed, "record-act", env.device)
    return lambda: remember(policy, env.num_envs, deterministic, generator)


def oracle_actor(env: TorchVectorEnv) -> Callable[[], Actor]:
    """The optimal rule with the hidden information; raises ConfigError where the task has none."""
    env.reset(seed=0)
    env.oracle()
    return lambda: lambda obs, first: env.oracle()


def random_actor(env: TorchVectorEnv, seed: int) -> Callable[[], Actor]:
    """Actions drawn from the action space, where there is an action mask from what it allows."""
    if has_mask(env.single_observation_space, env.single_action_space):
        generator = np.random.default_rng(seed)
        return lambda: (
            lambda obs, first: torch.from_numpy(
                sample_allowed(mask_of(obs).cpu().numpy(), env.single_action_space, generator)
            ).to(env.device)
        )
    if isinstance(space := env.single_action_space, MixedActions):
        space.seed(seed)
        return lambda: lambda obs, first: torch.from_numpy(np.stack([space.sample() for _ in first])).to(env.device)
    env.action_space.seed(seed)
    return lambda: lambda obs, first: torch.from_numpy(np.asarray(env.action_space.sample())).to(env.device)
