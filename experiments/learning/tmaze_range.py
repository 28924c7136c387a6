"""The RMT on T-mazes of 5 to 80 steps over seeds: `python experiments/learning/tmaze_range.py [name=value ...] [--seeds 0 1 2]`.

Success of the final policy on 400 new mazes of the same lengths, its success with frozen weights in much longer corridors (16
mazes each, which contain both cues), and CPU-seconds. A finished run is kept in the results file
and not repeated, so the script continues where it was stopped.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))
from common import RESULTS, check_options, mean_and_interval, measure_once, read_results, with_overrides

import rmt_rl
from rmt_rl.config.cli import parse

LONGER = [1_000, 10_007, 100_003]
USUAL = ["env=tmaze", "env.min_length=5", "env.length=80", "algo.rollout=96", "steps=1100000"]


def arguments_of(seed: int, options: list[str]) -> list[str]:
    """The arguments of `rmt_rl.train`."""
    return with_overrides([*USUAL, f"seed={seed}"], options)


def measure(seed: int, options: list[str], folder: Path) -> dict[str, Any]:
    """One run: success of its final policy with its interval, and what it cost."""
    config = parse(arguments_of(seed, options))
    result = rmt_rl.train(config, root=folder)
    score = result.score
    assert score is not None
    longer = {
        length: rmt_rl.evaluate(result.policy, episodes=16, **{"env.min_length": length, "env.length": length}).success
        for length in LONGER
    }
    return {"success": score.success, "ci95": score.ci95, "longer": longer, "cpu_s": result.summary["cpu_s"]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2, 3, 4, 21, 22, 23, 24, 25])
    parser.add_argument("--results", type=Path, default=RESULTS / "tmaze_range.jsonl")
    parser.add_argument("options", nargs="*", help="options of rmt_rl.train, such as policy=lstm")
    arguments = parser.parse_args()
    runs = [arguments_of(seed, arguments.options) for seed in arguments.seeds]
    check_options(parser, arguments.options, ("seed", "env", "evaluate_episodes"), runs)
    for seed in arguments.seeds:
        run = {"seed": seed, "options": arguments.options}
        measure_once(arguments.results, run, lambda folder, seed=seed: measure(seed, arguments.options, folder))
    rows = [
        row
        for row in read_results(arguments.results)
        if row["seed"] in arguments.seeds and row["options"] == arguments.options
    ]
    print("\n| seed | success | 95 % interval | 1,000 · 10,007 · 100,003 steps | CPU s |\n|---|---|---|---|---|")
    for row in rows:
        low, high = row["measured"]["ci95"]
        longer = " · ".join(f"{success:g}" for success in row["measured"].get("longer", {}).values()) or "not measured"
        print(
            f"| {row['seed']} | {row['measured']['success']:.3f} | {low:.3f} to {high:.3f} | {longer} |"
            f" {row['measured']['cpu_s']:.0f} |"
        )
    print(f"\nmean success over seeds: {mean_and_interval([row['measured']['success'] for row in rows])}")


if __name__ == "__main__":
    main()
