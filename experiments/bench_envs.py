"""How many environment steps one CPU thread makes: our batched environments, MiniGrid's beside gymnasium's, as a markdown
table. Tasks that are named as on the command line have their usual options.

    python experiments/bench_envs.py

Actions are random and drawn beforehand; observations and autoresets are part of a step, creation is not. The unit is
steps per CPU-second of this process (`time.process_time`), because wall time on a shared machine measures the others.
Neighbours still slow a core down, so all candidates take turns, and medians are taken over the rounds, for the ratio
too.
"""

from __future__ import annotations

import itertools
import statistics
import time
from collections.abc import Callable

import gymnasium
import minigrid  # noqa: F401  registers the MiniGrid ids
import numpy as np
import torch

from rmt_rl.envs.base import TorchVectorEnv
from rmt_rl.envs.minigrid_memory import MiniGridMemory
from rmt_rl.envs.registry import ENVIRONMENTS, make_env
from rmt_rl.envs.tmaze import TMaze

ROUNDS = 15
SECONDS = 0.2  # CPU time of one candidate in one round
ROWS = (64, 1024, 8192)
TASK_ROWS = 1024


def gymnasium_steps(env_id: str) -> Callable[[], int]:
    """A function that makes some steps and returns how many."""
    env = gymnasium.make(env_id)
    env.reset(seed=0)
    actions = np.random.default_rng(0).integers(7, size=64).tolist()

    def run() -> int:
        for action in actions:
            _, _, terminated, truncated, _ = env.step(action)
            if terminated or truncated:
                env.reset()
        return len(actions)

    return run


def our_steps(env: TorchVectorEnv, num_actions: int) -> Callable[[], int]:
    env.reset(seed=0)
    generator = torch.Generator().manual_seed(0)
    actions = itertools.cycle([torch.randint(num_actions, (env.num_envs,), generator=generator) for _ in range(256)])

    def run() -> int:
        for action in itertools.islice(actions, 16):
            env.step(action)
        return 16 * env.num_envs

    return run


def rate(run: Callable[[], int]) -> float:
    steps, begin = 0, time.process_time()
    while (spent := time.process_time() - begin) < SECONDS:
        steps += run()
    return steps / spent


def main() -> None:
    torch.set_num_threads(1)
    candidates: dict[tuple[str, int], Callable[[], int]] = {
        ("gymnasium MiniGrid-MemoryS13-v0", 1): gymnasium_steps("MiniGrid-MemoryS13-v0")
    }
    for rows in ROWS:
        env = MiniGridMemory(rows, size=13, view=7, actions=7)
        candidates["MiniGridMemory S13, view 7, 7 actions", rows] = our_steps(env, 7)
    for rows in ROWS:
        candidates["MiniGridMemory S13, view 3, 3 actions", rows] = our_steps(MiniGridMemory(rows, size=13), 3)
    for rows in ROWS:
        candidates["TMaze, length 50", rows] = our_steps(TMaze(rows, length=50), 4)
    for name in ENVIRONMENTS:
        if name not in ("minigrid-memory", "tmaze", "gym"):
            env = make_env(name, TASK_ROWS)
            candidates[f"`{name}`", TASK_ROWS] = our_steps(env, int(env.single_action_space.n))

    rounds = [[rate(run) for run in candidates.values()] for _ in range(ROUNDS + 1)][1:]  # the first one warms up
    print(f"torch {torch.__version__}, 1 thread, median of {ROUNDS} rounds\n")
    print("| environment | rows | steps per CPU-second | times gymnasium |")
    print("|---|---|---|---|")
    for i, (name, rows) in enumerate(candidates):
        steps = statistics.median(rates[i] for rates in rounds)
        ratio = statistics.median(rates[i] / rates[0] for rates in rounds)
        print(f"| {name} | {rows:,} | {steps:,.0f} | {f'{ratio:,.0f}' if 'MiniGrid' in name else ''} |")


if __name__ == "__main__":
    main()
