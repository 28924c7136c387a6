"""How many steps one CPU thread makes: the POPGym tasks of this package with many rows, and the package's own, as a table.

    python experiments/speed/bench_popgym.py [--rows 1024] [--rounds 5]

Actions are random and drawn beforehand. Steps include autoresets and their random draws. The unit is steps per CPU-second of this
process. Both take turns; medians over the rounds, also of the ratios.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import torch
from machine import machine  # beside this file
from popgym import envs as package

from rmt_rl.common.process import configure_process
from rmt_rl.config.popgym import DIFFICULTIES
from rmt_rl.config.registry import GROUPS
from rmt_rl.envs.registry import make_env

SECONDS = 0.4  # CPU time of one candidate in one round
#: How the package writes what is a part of a name here.
WORDS = {"minesweeper": "MineSweeper", "cartpole": "CartPole"}
STEPS = 20


def ours(name: str, difficulty: str, rows: int) -> Callable[[], int]:
    env = make_env(name, rows, difficulty=difficulty)
    env.reset(seed=0)
    env.action_space.seed(0)
    chosen = [torch.from_numpy(env.action_space.sample()) for _ in range(STEPS)]

    def play() -> int:
        for action in chosen:
            env.step(action)
        return STEPS * rows

    return play


def theirs(name: str, difficulty: str) -> Callable[[], int]:
    words = name.removeprefix("popgym-").split("-")
    env = getattr(package, "".join(WORDS.get(word, word.capitalize()) for word in words) + difficulty.capitalize())()
    env.reset(seed=0)
    env.action_space.seed(0)
    chosen = [env.action_space.sample() for _ in range(10 * STEPS)]

    def play() -> int:
        for action in chosen:
            *_, terminated, truncated, _ = env.step(action)
            if terminated or truncated:
                env.reset()
        return len(chosen)

    return play


def speed(play: Callable[[], int]) -> float:
    begun, steps = time.process_time(), 0
    while time.process_time() - begun < SECONDS:
        steps += play()
    return steps / (time.process_time() - begun)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1024)
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    configure_process(threads=1)
    print(
        f"{machine()}\n\n| task | difficulty | package | rmt_rl, {arguments.rows:,} rows | ratio |\n|---|---|---|---|---|"
    )
    for name in [name for name in GROUPS["env"] if name.startswith("popgym-")]:
        for difficulty in DIFFICULTIES:
            one, many = theirs(name, difficulty), ours(name, difficulty, arguments.rows)
            rounds = [(speed(one), speed(many)) for _ in range(arguments.rounds)]
            package_speed, own_speed = (statistics.median(x) for x in zip(*rounds, strict=True))
            ratio = statistics.median(own / their for their, own in rounds)
            print(f"| `{name}` | {difficulty} | {package_speed:,.0f} | {own_speed:,.0f} | {ratio:.1f} |", flush=True)


if __name__ == "__main__":
    main()
