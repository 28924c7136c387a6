"""How many environment steps one CPU thread makes: our batched environments, and MiniGrid's own with gymnasium, as tables.

    python experiments/speed/bench_envs.py

Actions are random and drawn beforehand. Observations, autoresets and, for MiniGrid, the seeded random draws of the
package are part of a step; creating an environment is not. Tasks have their default options. The unit is steps per
CPU-second of this process (`time.process_time`), because wall time on a shared machine measures the other programs too.
gymnasium's AsyncVectorEnv works in other processes, so its lines are steps per second of wall time on all cores; it
needs one process per row and 6 GB at 1,024 rows, and is not run with 8,192. Other programs still slow a core down, so
all candidates take turns, and medians are taken over the rounds, also of the ratios.
"""

from __future__ import annotations

import itertools
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

import gymnasium
import numpy as np
import torch
from gymnasium.vector import AutoresetMode

try:
    from minigrid.wrappers import ImgObsWrapper
except ModuleNotFoundError as error:
    sys.exit(f"this script needs the package {error.name}, which is not installed; pip install minigrid")

from machine import machine  # beside this file

from rmt_rl.common.process import configure_process
from rmt_rl.config.registry import GROUPS
from rmt_rl.envs.base import TorchVectorEnv
from rmt_rl.envs.minigrid.memory import MiniGridMemory
from rmt_rl.envs.registry import make_env
from rmt_rl.envs.tmaze.passive import TMaze

ROUNDS = 9
SECONDS = 0.2  # CPU time of one candidate in one round
ROWS = (64, 1024, 8192)
ASYNC_ROWS = (64, 1024)
#: part of a task's name: what its steps are compared with
BESIDE = {
    "S13": "gymnasium.make, S13",
    "doorkey": "gymnasium.make, DoorKey 8x8",
    "redbluedoors": "gymnasium.make, RedBlueDoors 8x8",
}

Run = Callable[[], int]


def gymnasium_steps(env_id: str) -> Run:
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


def vector_steps(env_id: str, rows: int, mode: str) -> Run:
    env = gymnasium.make_vec(
        env_id, rows, mode, vector_kwargs={"autoreset_mode": AutoresetMode.SAME_STEP}, wrappers=[ImgObsWrapper]
    )
    env.reset(seed=0)
    actions = np.random.default_rng(0).integers(7, size=(max(1, 1024 // rows), rows))

    def run() -> int:
        for action in actions:
            env.step(action)
        return actions.size

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


def lookups(env: MiniGridMemory) -> Run:
    """The limit: one observation of every row, read from the table; a step returns two."""
    env.reset(seed=0)

    def run() -> int:
        for _ in range(16):
            env._observe(env._state)
        return 16 * env.num_envs

    return run


def rate(run: Run, clock: Callable[[], float] = time.process_time) -> float:
    steps, begin = 0, clock()
    while (spent := clock() - begin) < SECONDS:
        steps += run()
    return steps / spent


def main() -> None:
    configure_process(threads=1)
    references = {
        "gymnasium.make, S13": gymnasium_steps("MiniGrid-MemoryS13-v0"),
        **{f"SyncVectorEnv, S13, {rows:,} rows": vector_steps("MiniGrid-MemoryS13-v0", rows, "sync") for rows in ROWS},
        "gymnasium.make, DoorKey 8x8": gymnasium_steps("MiniGrid-DoorKey-8x8-v0"),
        "gymnasium.make, RedBlueDoors 8x8": gymnasium_steps("MiniGrid-RedBlueDoors-8x8-v0"),
    }
    waiting = {rows: vector_steps("MiniGrid-MemoryS13-v0", rows, "async") for rows in ASYNC_ROWS}
    tasks: dict[str, Callable[[int], TorchVectorEnv]] = {
        "`minigrid-memory`, S13, view 7, 7 actions": lambda rows: MiniGridMemory(rows, size=13, view=7, actions=7),
        "`minigrid-memory`, S13, view 3, 3 actions": lambda rows: MiniGridMemory(rows, size=13),
        "`tmaze`, length 50": lambda rows: TMaze(rows, length=50),
    }
    for name in GROUPS["env"]:
        if name not in ("minigrid-memory", "tmaze", "gym"):
            tasks[f"`{name}`"] = lambda rows, name=name: make_env(name, rows)  # type: ignore[misc]
    made = {(name, rows): make(rows) for name, make in tasks.items() for rows in ROWS}
    ours = {key: our_steps(env, int(env.single_action_space.n)) for key, env in made.items()}  # type: ignore[attr-defined]

    references["one observation by table lookup, S13, view 7, 8,192 rows"] = lookups(
        MiniGridMemory(8192, size=13, view=7)
    )
    rounds: list[dict[Any, float]] = []
    for _ in range(ROUNDS + 1):
        found: dict[Any, float] = {name: rate(run) for name, run in references.items()}
        found |= {("async", rows): rate(run, time.perf_counter) for rows, run in waiting.items()}
        rounds.append(found | {key: rate(run) for key, run in ours.items()})
    rounds = rounds[1:]  # the first one warms up

    def median(key: Any, beside: str | None = None) -> float:
        return statistics.median(found[key] / (found[beside] if beside else 1.0) for found in rounds)

    print(f"1 thread, median of {ROUNDS} rounds; {machine()}")
    print("| gymnasium's MiniGrid | steps per CPU-second |\n|---|---|")
    for name in references:
        print(f"| {name} | {median(name):,.0f} |")
    for rows in ASYNC_ROWS:
        print(f"| AsyncVectorEnv, S13, {rows:,} rows (per second of wall time) | {median(('async', rows)):,.0f} |")
    print("\n| environment | 64 rows | 1,024 rows | 8,192 rows | times gymnasium.make |\n|---|---|---|---|---|")
    for name in tasks:
        beside = next((reference for part, reference in BESIDE.items() if part in name), None)
        times = ", ".join(f"{median((name, rows), beside):,.0f}" for rows in ROWS) if beside else ""
        print(f"| {name} | {' | '.join(f'{median((name, rows)):,.0f}' for rows in ROWS)} | {times} |")


if __name__ == "__main__":
    main()
