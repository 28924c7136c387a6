"""Does PPO keep a T-maze that it has solved, at several sizes of the network?

    python experiments/learning/tmaze_sizes.py [name=value ...] [--lengths 10 30] [--sizes 30000 110000 400000] [--seeds 0 1 2]

Success of the final policy on 100 new mazes, and the lowest success of training episodes after it first exceeded 0.9. A
finished run is kept in the results file and not repeated, so the script continues where it was stopped.
"""

from __future__ import annotations

import argparse
import json
import sys
from functools import partial
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))
from common import RESULTS, measure_once, with_overrides

import rmt_rl
from rmt_rl.config.cli import parse

SOLVED = 0.9


def measure(run: dict[str, Any], folder: Path) -> dict[str, Any]:
    """One run: the final policy, and how low training success fell after the task was first solved."""
    usual = ["env=tmaze", f"env.length={run['length']}", f"policy.params={run['params']}", f"seed={run['seed']}"]
    usual.append(f"steps={150_000 if run['length'] <= 10 else 300_000}")
    result = rmt_rl.train(parse(with_overrides(usual, run["options"])), root=folder)
    assert result.score is not None
    rows = [json.loads(line) for line in (result.folder / "metrics.jsonl").read_text().splitlines()]
    curve = [(row["steps"], row["success"]) for row in rows if row.get("success") is not None]
    first = next((steps for steps, success in curve if success > SOLVED), None)
    later = [success for steps, success in curve if first is not None and steps >= first]
    return {
        "final": result.score.success,
        "first_solved": first,
        "lowest_after": min(later, default=None),
        "cpu_s": result.summary["cpu_s"],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lengths", nargs="+", type=int, default=[10, 30])
    parser.add_argument("--sizes", nargs="+", type=int, default=[30_000, 110_000, 400_000])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2, 3, 4])
    parser.add_argument("--results", type=Path, default=RESULTS / "tmaze_sizes.jsonl")
    parser.add_argument("options", nargs="*", help="options of rmt_rl.train, such as algo.barrier_coef=0")
    arguments = parser.parse_args()
    runs = [
        {"length": length, "params": params, "seed": seed, "options": arguments.options}
        for length in arguments.lengths
        for params in arguments.sizes
        for seed in arguments.seeds
    ]
    measured = [measure_once(arguments.results, run, partial(measure, run)) for run in runs]
    print(f"\n| length | parameters | seed | final success | lowest after {SOLVED} | first above {SOLVED} | CPU s |")
    print("|---|---|---|---|---|---|---|")
    for run, m in zip(runs, measured, strict=True):
        lowest = "never" if m["lowest_after"] is None else f"{m['lowest_after']:.3f}"
        print(
            f"| {run['length']} | {run['params']:,} | {run['seed']} | {m['final']:.3f} | {lowest} | {m['first_solved']} |"
            f" {m['cpu_s']:.0f} |"
        )


if __name__ == "__main__":
    main()
