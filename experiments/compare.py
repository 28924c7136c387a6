"""RMT against Transformer-XL, GTrXL, LSTM, GRU, a window and no memory: same trainer, same parameters, same task, over seeds.

    python experiments/compare.py --seeds 5

Prints one markdown table per task. T-maze: trained on corridors of 5 to 80 steps, the frozen final policy on 80, 1,000 and
100,000. MiniGrid-Memory: the default task. Success on fresh episodes: the mean over seeds and its 95 % interval (Student's t over
seeds), and steps per CPU-second of training.
"""

from __future__ import annotations

import argparse
import dataclasses
import statistics
import tempfile
from pathlib import Path

from scipy import stats

from rmt_rl import config
from rmt_rl.checkpoint import load_policy
from rmt_rl.cli import parse
from rmt_rl.envs.registry import make_from_config
from rmt_rl.evaluate import evaluate
from rmt_rl.train import prepare, train

POLICIES = ("rmt", "trxl", "gtrxl", "lstm", "gru", "window", "mlp")
TMAZE = ["env=tmaze", "env.min_length=5", "env.length=80", "algo.rollout=96", "steps=1100000"]


def mean_and_interval(values: list[float]) -> str:
    mean = statistics.mean(values)
    if len(values) < 2:
        return f"{mean:.3f}"
    half = stats.t.ppf(0.975, len(values) - 1) * statistics.stdev(values) / len(values) ** 0.5
    return f"{mean:.3f} [{max(0, mean - half):.3f}, {min(1, mean + half):.3f}]"


def tmaze(policy: str, seed: int, params: int, root: Path, extra: list[str]) -> dict[str, float]:
    run = parse([*TMAZE, f"policy={policy}", f"policy.params={params}", f"seed={seed}", "evaluate_episodes=10", *extra])
    result = train(run, root)
    agent = load_policy(root / f"tmaze-{policy}-ppo-s{seed}")
    row = {"steps/s": result["steps_per_cpu_s"]}
    for length, episodes in ((80, 400), (1_000, 200), (100_000, 32)):
        task = dataclasses.replace(run.env, length=length, min_length=None)
        row[f"{length:,}"] = evaluate(agent, make_from_config(task, min(episodes, 200)), episodes, seed).success or 0.0
    return row


def minigrid(policy: str, seed: int, params: int, root: Path, extra: list[str]) -> dict[str, float]:
    result = train(parse([f"policy={policy}", f"policy.params={params}", f"seed={seed}", *extra]), root)
    return {"steps/s": result["steps_per_cpu_s"], "success": result["eval"]["success"]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--params", type=int, default=110_000)
    parser.add_argument("--tasks", nargs="+", choices=("tmaze", "minigrid"), default=["tmaze", "minigrid"])
    parser.add_argument("--policies", nargs="+", choices=tuple(config.GROUPS["policy"]), default=list(POLICIES))
    arguments, extra = parser.parse_known_args()
    prepare(threads=1)
    for name, run in (("tmaze", tmaze), ("minigrid", minigrid)):
        if name not in arguments.tasks:
            continue
        table = {}
        for policy in arguments.policies:
            rows = []
            for seed in range(arguments.seeds):
                with tempfile.TemporaryDirectory() as root:
                    rows.append(run(policy, seed, arguments.params, Path(root), extra))
            table[policy] = rows
        columns = [key for key in next(iter(table.values()))[0] if key != "steps/s"]
        print(f"\n{name}, {arguments.seeds} seeds, about {arguments.params:,} parameters\n")
        print(f"| policy | {' | '.join(columns)} | steps per CPU-second |")
        print("|" + "---|" * (len(columns) + 2))
        for policy, rows in table.items():
            cells = [mean_and_interval([row[column] for row in rows]) for column in columns]
            print(
                f"| {policy} | {' | '.join(cells)} | {statistics.median(row['steps/s'] for row in rows):,.0f} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
