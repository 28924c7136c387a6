"""RMT against Transformer-XL, GTrXL, LSTM, GRU, a window and no memory: same trainer, same parameters, same task, over seeds.

    python experiments/compare.py --seeds 5

Every finished run is a line of the results file; a run that stands there is not run again, so that the command can be
interrupted, continued, and shared between processes (`--policies`). The file that is kept in the repository holds what
docs/benchmarks.md shows; give another one, or delete it, to measure anew. Prints one markdown table per task. T-maze: trained on
corridors of 5 to 80 steps, the frozen final policy on 80, 1,000 and 100,000. MiniGrid-Memory: the default task. Success on fresh
episodes: the mean over seeds and its 95 % interval (Student's t over seeds), and steps per CPU-second of training.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import itertools
import json
import statistics
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from scipy import stats

from rmt_rl import config
from rmt_rl.common.process import prepare
from rmt_rl.config.cli import parse
from rmt_rl.envs.registry import make_from_config
from rmt_rl.policies.saving import load_policy
from rmt_rl.rollouts.evaluation import evaluate
from rmt_rl.train import train

POLICIES = ("rmt", "trxl", "gtrxl", "lstm", "gru", "window", "mlp")
TMAZE = ["env=tmaze", "env.min_length=5", "env.length=80", "algo.rollout=96", "steps=1100000"]


def mean_and_interval(values: list[float]) -> str:
    mean = statistics.mean(values)
    if len(values) < 2:
        return f"{mean:.3f}"
    half = stats.t.ppf(0.975, len(values) - 1) * statistics.stdev(values) / len(values) ** 0.5
    return f"{mean:.3f} [{max(0, mean - half):.3f}, {min(1, mean + half):.3f}]"


def tmaze(policy: str, seed: int, params: int, root: Path, extra: list[str]) -> dict[str, float]:
    given = {argument.partition("=")[0] for argument in extra}
    task = [argument for argument in TMAZE if argument.partition("=")[0] not in given]
    run = parse([*task, f"policy={policy}", f"policy.params={params}", f"seed={seed}", "evaluate_episodes=10", *extra])
    result = train(run, root)
    agent = load_policy(root / f"tmaze-{policy}-ppo-s{seed}")
    row = {"steps/s": result["steps_per_cpu_s"]}
    for length, episodes in ((80, 400), (1_000, 200), (100_000, 32)):
        env = dataclasses.replace(run.env, length=length, min_length=None)
        row[f"{length:,}"] = evaluate(agent, make_from_config(env, min(episodes, 200)), episodes, seed).success or 0.0
    return row


def minigrid(policy: str, seed: int, params: int, root: Path, extra: list[str]) -> dict[str, float]:
    result = train(parse([f"policy={policy}", f"policy.params={params}", f"seed={seed}", *extra]), root)
    return {"steps/s": result["steps_per_cpu_s"], "success": result["eval"]["success"]}


TASKS = {"tmaze": tmaze, "minigrid": minigrid}


def read_results(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def measure_once(results: Path, run: dict[str, Any], measure: Callable[[Path], dict[str, Any]]) -> None:
    """Append `run` with what `measure`, given an empty folder, returns; nothing where the run stands there already."""
    if any(run.items() <= done.items() for done in read_results(results)):
        return
    with tempfile.TemporaryDirectory() as root:
        measured = measure(Path(root))
    results.parent.mkdir(parents=True, exist_ok=True)
    with results.open("a") as file:
        file.write(json.dumps({**run, "measured": measured}) + "\n")


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
    parser.add_argument("--results", type=Path, default=Path(__file__).parent / "results" / "compare.jsonl")
    arguments, extra = parser.parse_known_args()
    prepare(threads=1)
    for task in arguments.tasks:
        for seed, policy in itertools.product(range(arguments.seeds), arguments.policies):
            run = {"task": task, "policy": policy, "seed": seed, "params": arguments.params, "extra": extra}
            measure = functools.partial(TASKS[task], policy, seed, arguments.params, extra=extra)
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
