"""Compares RMT with Transformer-XL, GTrXL, LSTM, GRU, a window and no memory: same trainer, parameters, task and seeds.

    python experiments/learning/compare.py --seeds 5

Every finished run is a line of the results file, and a run in that file is not run again. The command can therefore be
interrupted, continued, and split over processes (`--policies`). The file in the repository holds what
docs/benchmarks.md shows; give another one with --results, or delete it, to measure again.

Prints one markdown table for each task. T-maze: trained on corridors of 5 to 80 steps; the frozen final policy is
tested on 80, 1,000 and 100,000 steps. MiniGrid-Memory: the default task. Success on new episodes is the mean over seeds
with its 95 % interval (Student's t over seeds); speed is steps per CPU-second of training.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import itertools
import statistics
import sys
from pathlib import Path
from typing import Any

from rmt_rl import config
from rmt_rl.common.process import configure_process
from rmt_rl.config.cli import parse
from rmt_rl.envs.registry import make_from_config
from rmt_rl.rollouts.episodes import evaluate
from rmt_rl.train import train

sys.path.insert(0, str(Path(__file__).parent.parent))
from common import RESULTS, mean_and_interval, measure_once, read_results, with_overrides

POLICIES = ("rmt", "trxl", "gtrxl", "lstm", "gru", "window", "mlp")
TMAZE = ["env=tmaze", "env.min_length=5", "env.length=80", "algo.rollout=96", "steps=1100000"]


def tmaze(policy: str, seed: int, params: int, extra: list[str], root: Path) -> dict[str, float]:
    given = [f"policy={policy}", f"policy.params={params}", f"seed={seed}", *extra]
    run = parse(with_overrides([*TMAZE, "evaluate_episodes=10"], given))
    result = train(run, root=root)
    row = {"steps/s": result.summary["steps_per_cpu_s"]}
    for length, episodes in ((80, 400), (1_000, 200), (100_000, 32)):
        env = make_from_config(dataclasses.replace(run.env, length=length, min_length=None), min(episodes, 200))
        row[f"{length:,}"] = evaluate(result.policy, env, episodes, seed).success or 0.0
    return row


def minigrid(policy: str, seed: int, params: int, extra: list[str], root: Path) -> dict[str, float]:
    run = parse([f"policy={policy}", f"policy.params={params}", f"seed={seed}", *extra])
    result = train(run, root=root).summary
    return {"steps/s": result["steps_per_cpu_s"], "success": result["eval"]["success"]}


TASKS = {"tmaze": tmaze, "minigrid": minigrid}


def table(rows: list[dict[str, Any]], policies: list[str]) -> str:
    """The markdown table of one task."""
    columns = [key for key in rows[0]["measured"] if key != "steps/s"]
    lines = [f"| policy | seeds | {' | '.join(columns)} | steps per CPU-second |", "|" + "---|" * (len(columns) + 3)]
    for policy in policies:
        of = [row["measured"] for row in rows if row["policy"] == policy]
        if of:
            cells = [mean_and_interval([row[column] for row in of]) for column in columns]
            speed = statistics.median(row["steps/s"] for row in of)
            lines.append(f"| {policy} | {len(of)} | {' | '.join(cells)} | {speed:,.0f} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--params", type=int, default=110_000)
    parser.add_argument("--tasks", nargs="+", choices=tuple(TASKS), default=list(TASKS))
    parser.add_argument("--policies", nargs="+", choices=tuple(config.GROUPS["policy"]), default=list(POLICIES))
    parser.add_argument("--results", type=Path, default=RESULTS / "compare.jsonl")
    arguments, extra = parser.parse_known_args()
    configure_process(threads=1)
    for task in arguments.tasks:
        for seed, policy in itertools.product(range(arguments.seeds), arguments.policies):
            run = {"task": task, "policy": policy, "seed": seed, "params": arguments.params, "extra": extra}
            measure = functools.partial(TASKS[task], policy, seed, arguments.params, extra)
            measure_once(arguments.results, run, measure)
        rows = [
            row
            for row in read_results(arguments.results)
            if (row["task"], row["params"], row["extra"]) == (task, arguments.params, extra)
            and row["seed"] < arguments.seeds
        ]
        print(f"\n{task}, about {arguments.params:,} parameters\n\n{table(rows, arguments.policies)}", flush=True)


if __name__ == "__main__":
    main()
