"""Plays whole episodes and keeps all of them: what `collect` writes, and what `algo=rate` learns from.

Episode k is the first episode of seed `base + k`, whatever the number of rows, as in `evaluate`.
"""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import torch

from rmt_rl import rng
from rmt_rl.data import map_obs, where_rows
from rmt_rl.envs.base import Obs, TorchVectorEnv
from rmt_rl.policies.actor_critic import ActorCritic

Actor = Callable[[Obs, torch.Tensor], torch.Tensor]


@dataclasses.dataclass(frozen=True)
class Recorded:
    """One episode of T steps. obs: arrays [T + 1, ...], the last one after the last action; action [T, ...]; reward [T] float64.

    success: None where the environment does not say.
    """

    obs: Any
    action: np.ndarray
    reward: np.ndarray
    terminated: bool
    truncated: bool
    success: bool | None
    seed: int


def record(env: TorchVectorEnv, actor: Callable[[], Actor], episodes: int, seed: int) -> Iterator[list[Recorded]]:
    """`episodes` fresh episodes of `env`, as many at a time as it has rows. actor: makes who acts, anew for every wave."""
    base = rng.seed(seed, "record")
    for begin in range(0, episodes, env.num_envs):
        yield _first_episodes(env, actor(), base + begin)[: episodes - begin]


def check_room(folder: str | Path, needed: int, variable: str) -> None:
    """Raises OSError where a disk has less than `needed` bytes. variable: of the shell, where another one can be named."""
    if (free := shutil.disk_usage(folder).free) < needed:
        raise OSError(f"{folder} has room for {free:,} bytes, needed are {needed:,}; set {variable} to another disk")


def _first_episodes(env: TorchVectorEnv, act: Actor, seed: int) -> list[Recorded]:
    obs, _ = env.reset(seed=seed)
    first = torch.ones(env.num_envs, dtype=torch.bool, device=env.device)
    length, success = torch.zeros(env.num_envs, dtype=torch.int64), torch.full((env.num_envs,), torch.nan)
    ended = torch.zeros(2, env.num_envs, dtype=torch.bool)
    running, shown, actions, rewards = torch.ones(env.num_envs, dtype=torch.bool), [obs], [], []
    while bool(running.any()):
        action = act(obs, first)
        obs, reward, terminated, truncated, info = env.step(action)
        first = terminated | truncated
        shown.append(map_obs(partial(where_rows, first), info["final_obs"], obs))
        actions.append(done_by(action, env).cpu())
        rewards.append(reward.double().cpu())
        over = running & first.cpu()
        length += running
        ended |= over & torch.stack([terminated, truncated]).cpu()
        if "success" in info:
            success = torch.where(over, info["success"].float().cpu(), success)
        running = running & ~over
    action_BT, reward_BT = torch.stack(actions, 1).numpy(), torch.stack(rewards, 1).numpy()
    obs_BT = map_obs(lambda *x: torch.stack([v.cpu() for v in x], 1), *shown)
    return [
        Recorded(
            obs=_row(obs_BT, row, T + 1),
            action=action_BT[row, :T],
            reward=reward_BT[row, :T],
            terminated=bool(ended[0, row]),
            truncated=bool(ended[1, row]),
            success=None if bool(success[row].isnan()) else bool(success[row]),
            seed=seed + row,
        )
        for row, T in enumerate(length.tolist())
    ]


def done_by(action_B: torch.Tensor, env: TorchVectorEnv) -> torch.Tensor:
    """What the environment does where it is told `action_B`: numbers are clipped to their bounds."""
    space = env.single_action_space
    if not isinstance(space, gymnasium.spaces.Box):
        return action_B
    low, high = (torch.from_numpy(bound).to(action_B) for bound in (space.low, space.high))
    return action_B.clamp(low, high)


def _row(obs_BT: Any, row: int, steps: int) -> Any:
    if isinstance(obs_BT, dict):
        return {key: value[row, :steps].numpy() for key, value in obs_BT.items()}
    return obs_BT[row, :steps].numpy()


def oracle_actor(env: TorchVectorEnv) -> Callable[[], Actor]:
    """Who knows what is hidden; raises ConfigError where the task has no such rule."""
    env.reset(seed=0)
    env.oracle()
    return lambda: lambda obs, first: env.oracle()


def random_actor(env: TorchVectorEnv, seed: int) -> Callable[[], Actor]:
    """Who takes any action."""
    env.action_space.seed(seed)
    return lambda: lambda obs, first: torch.from_numpy(np.asarray(env.action_space.sample())).to(env.device)


def policy_actor(policy: ActorCritic, env: TorchVectorEnv, seed: int, deterministic: bool) -> Callable[[], Actor]:
    """A trained policy, which remembers."""
    generator = rng.generator(seed, "record-act", env.device)

    def begin() -> Actor:
        state = policy.initial_state(env.num_envs)

        def act(obs: Obs, first: torch.Tensor) -> torch.Tensor:
            nonlocal state
            action, state = policy.act(obs, state, first, deterministic, generator)
            return action

        return act

    return begin
