"""One memory for two skills: to hold a bit for much longer than in training, and to overwrite it, over and over.

Trained on an endless T-maze of 3 corridors (`overwrite`), on T-mazes of 5 to 80 steps (`hold`), and on the same with distractors
(`hold distractors`); tested with frozen weights on many more corridors and on much longer ones. Every policy has the same
options in all three. Success of the final policy in new episodes; those of `hold` are two distinct ones for each length. A
finished run is kept in the results file and not repeated.

A longer corridor also shows places that a corridor of 5 steps does not have: its last cells look almost like the junction
(28 / 31 and 1). `familiar` tests have the same corridors with places of training only, and so test the memory alone.
`1,000 x 30, walked` is the share of the corridors that were walked, not a success. The longest mazes with distractors are one
walk (`long_walks.py`), of ten minutes with an RMT. A policy that walks 100 corridors in fewer than nine episodes of ten is not
tested in a thousand of them, where an agent that turns inside a corridor stays for 186,000 steps; one that has forgotten at
10,007 steps is not walked.

    python experiments/learning/hold_and_overwrite.py [name=value ...] [--tasks overwrite] [--policies rmt lstm] [--seeds 0 1 2]
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).parents[1]))
from common import (
    RESULTS,
    RMT_OF_THE_PAPER,
    check_options,
    mean_and_interval,
    measure_once,
    read_results,
    with_overrides,
)
from long_walks import walk

import rmt_rl
from rmt_rl.config.cli import parse
from rmt_rl.envs.tmaze.endless import TMazeEndless

MAZE = ["env=tmaze", "env.min_length=5", "env.length=80"]
#: Task -> (options, tests by name: options and episodes).
TASKS: dict[str, tuple[list[str], dict[str, tuple[dict[str, Any], int]]]] = {
    "overwrite": (
        ["env=tmaze-endless", "steps=750000"],
        {
            f"{corridors} x {length}": ({"env.corridors": corridors, "env.length": length}, episodes)
            for corridors, length, episodes in ((10, 5, 64), (10, 10, 64), (100, 10, 32), (30, 30, 32))
        },
    ),
    "hold": (
        [*MAZE, "steps=1100000"],
        {f"{length:,}": ({"env.min_length": length, "env.length": length}, 16) for length in (1_000, 10_007)},
    ),
    "hold distractors": (
        [*MAZE, "env.distractors=true", "steps=1100000"],
        {f"{length:,}": ({"env.min_length": length, "env.length": length}, 64) for length in (1_000, 10_007)},
    ),
}
#: What carries the memory over where its update has no gate.
CARRY = ["memory.carry=0.8", "memory.ramp=success", "memory.ramp_start=0.8", "memory.ramp_end=0.95"]
#: What the last cell before the junction shows in the longest corridor of training.
LAST_PLACE = 4 / 6
FAMILIAR = {"30 x 30, familiar": 30, "1,000 x 30, familiar": 1_000}
LONGEST: dict[str, Any] = {"env.corridors": 1_000, "env.length": 30}
#: The share of the thousand corridors that were walked.
WALKED = "1,000 x 30, walked"
#: Lengths of mazes with distractors that are tested in one walk.
WALKS = (100_003, 1_000_000)
#: Options that no run can have: what they say is a part of the table, or its tests need it.
DECIDED = ("seed", "env", "policy", "evaluate_episodes", "memory.scope", "env.end_at_turn", "metrics")
#: Success in 100 corridors, or at 10,007 steps, from which on a policy is worth the longest tests.
HOLDS = 0.9
#: Tests of a task beside those of `TASKS`.
MORE_TESTS = {"overwrite": [*FAMILIAR, "1,000 x 30", WALKED], "hold": [], "hold distractors": [f"{n:,}" for n in WALKS]}
POLICIES = {
    "rmt": [],
    "rmt, blank memory seen": ["policy.blank_memory=seen"],
    "rmt, no carry-over": ["memory.carry=0"],
    "rmt, no cost of writing": ["policy.write_cost=0"],
    "rmt, memory replaced": ["policy.memory_update=replace", *CARRY],
    "rmt, segments of 8": ["policy.segment=8"],
    "rmt, one layer": ["policy.layers=1"],
    "rmt, learned positions": ["policy.positions=learned"],
    "rmt, write tokens from the memory": ["policy.write_from=memory"],
    "rmt of the paper": RMT_OF_THE_PAPER,
    "rmt of the paper, blank memory hidden": with_overrides(RMT_OF_THE_PAPER, ["policy.blank_memory=hidden"]),
    "lstm": ["policy=lstm"],
    "lstm, carry": ["policy=lstm", "memory.carry=0.8", "memory.ramp_start=0.33", "memory.ramp_end=0.67"],
    "gru": ["policy=gru"],
    "gru, carry": ["policy=gru", *CARRY],
    "gtrxl": ["policy=gtrxl"],
    "gtrxl, carry": ["policy=gtrxl", *CARRY],
    "window": ["policy=window"],
    "mlp": ["policy=mlp"],
    "mingru": ["policy=mingru"],
    "mingru, hard gates": ["policy=mingru", "policy.hard_gates=true"],
    "mingru, hard gates, carry": ["policy=mingru", "policy.hard_gates=true", *CARRY],
    "deltanet": ["policy=deltanet"],
    "deltanet, hard gates": ["policy=deltanet", "policy.hard_gates=true"],
    "deltanet, no decay": ["policy=deltanet", "policy.decay=false", "policy.hard_gates=true"],
    "mlstm": ["policy=mlstm"],
    "ffm": ["policy=ffm"],
    "rwkv4": ["policy=rwkv4"],
    "rwkv7": ["policy=rwkv7"],
    "trxl": ["policy=trxl"],
    "reformer": ["policy=reformer"],
    "routing": ["policy=routing"],
    "hierarchical": ["policy=hierarchical"],
    "rmt, associative memory": ["policy.memory_kind=associative"],
    "rmt, slots": ["policy.memory_kind=slots"],
}


class FamiliarPlaces(TMazeEndless):
    """Cells whose place is beyond that of training look like the last one of training."""

    def _observe(self, state: dict[str, torch.Tensor]) -> torch.Tensor:
        place, hints = super()._observe(state).split([1, 2], dim=1)
        return torch.cat([torch.where(place < 1, place.clamp(max=LAST_PLACE), place), hints], dim=1)


def arguments_of(run: dict[str, Any]) -> list[str]:
    """The arguments of `rmt_rl.train`."""
    usual = [*TASKS[run["task"]][0], "algo.rollout=96", *POLICIES[run["policy"]], f"seed={run['seed']}"]
    return with_overrides(usual, run["options"])


def measure(run: dict[str, Any], folder: Path) -> dict[str, Any]:
    """The success of a new run's final policy on its own task and on every test, and what it cost."""
    _, tests = TASKS[run["task"]]
    result = rmt_rl.train(parse(arguments_of(run)), root=folder)
    assert result.score is not None
    success = {"own": result.score.success}
    for name, (given_env, episodes) in tests.items():
        success[name] = rmt_rl.evaluate(result.policy, episodes=episodes, **given_env).success
    if run["task"] == "overwrite":
        for name, corridors in FAMILIAR.items():
            if corridors < 1_000 or success["100 x 10"] >= HOLDS:
                env = FamiliarPlaces(32, corridors=corridors, length=30)
                success[name] = rmt_rl.evaluate(result.policy, env=env, episodes=32).success
        if success["100 x 10"] >= HOLDS:
            longest = rmt_rl.evaluate(result.policy, episodes=32, metrics="corridors", **LONGEST)
            success |= {"1,000 x 30": longest.success, WALKED: longest.metrics["corridors"]}
    if run["task"] == "hold distractors" and success["10,007"] >= HOLDS:
        success |= walk(result.policy, WALKS)
    return {"success": success, "steps": result.summary["steps"], "cpu_s": result.summary["cpu_s"]}


def _over_seeds(values: list[float | None]) -> str:
    """The mean with its interval, and of how many seeds where some are older than the test or had failed before it."""
    known = [value for value in values if value is not None]
    if not known:
        return "-"
    return mean_and_interval(known) + (f" ({len(known)} of {len(values)} seeds)" if len(known) < len(values) else "")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("options", nargs="*", help="options of rmt_rl.train, such as algo.barrier_coef=0")
    parser.add_argument("--tasks", nargs="+", default=list(TASKS), choices=list(TASKS))
    parser.add_argument("--policies", nargs="+", default=list(POLICIES), choices=list(POLICIES))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2, 3, 4])
    parser.add_argument("--results", type=Path, default=RESULTS / "hold_and_overwrite.jsonl")
    parser.add_argument("--stored", action="store_true", help="print the finished runs, and start none")
    arguments = parser.parse_args()
    runs = [
        {"task": task, "policy": policy, "seed": seed, "options": arguments.options}
        for seed in arguments.seeds
        for task in arguments.tasks
        for policy in arguments.policies
    ]
    check_options(parser, arguments.options, DECIDED, [] if arguments.stored else [arguments_of(run) for run in runs])
    for run in [] if arguments.stored else runs:
        measure_once(arguments.results, run, lambda folder, run=run: measure(run, folder))
    stored = read_results(arguments.results)
    for task in arguments.tasks:
        names = ["own", *TASKS[task][1], *MORE_TESTS[task]]
        print(f"\n{task}\n\n| policy | seeds | {' | '.join(names)} | CPU s |\n|---|---|{'---|' * len(names)}---|")
        for policy in arguments.policies:
            wanted = [run for run in runs if (run["task"], run["policy"]) == (task, policy)]
            cell = [row["measured"] for row in stored if any(run.items() <= row.items() for run in wanted)]
            if cell:
                by_test = " | ".join(_over_seeds([m["success"].get(name) for m in cell]) for name in names)
                cpu = sum(m["cpu_s"] for m in cell) / len(cell)
                print(f"| {policy} | {len(cell)} | {by_test} | {cpu:.0f} |")


if __name__ == "__main__":
    main()
