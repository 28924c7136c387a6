"""RATE on its own T-maze: trained offline on corridors of at most 90 steps, tested on up to 1,000,000.

    python experiments/learning/rate_tmaze.py --seeds 5
    python experiments/learning/rate_tmaze.py --seeds 5 --variants rate --lengths 1000000 --episodes 64 --policies kept

Data: 2,000 recorded episodes of an oracle with T = 3..90 (RATE's rules, env=tmaze-rate, whose length is T - 2).
Segments have K = 10 steps, so training sees at most 9 of them. RATE's own setting, K = 30 and 3 segments, is a variant
whose write tokens start from learned vectors. The selected weights are those that do best on 200 held-out episodes; no
test length is evaluated before training has ended.

Variants: memory cut from the gradient with one step for each segment, as the released code trains; without dropout;
without return; with the memory retention valve (MRV); and a window of one segment, which is a Decision Transformer
whose context restarts at every segment. Finished runs are lines of the results file and are not run again. Prints a
markdown table: the mean over seeds with its 95 % interval (Student's t over seeds).
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import shutil
import statistics
import sys
import tempfile
from pathlib import Path

from rmt_rl.common.process import configure_process
from rmt_rl.config.cli import parse
from rmt_rl.policies.saving import load_policy, make_task
from rmt_rl.rollouts.episodes import evaluate
from rmt_rl.train import train

sys.path.insert(0, str(Path(__file__).parent.parent))
from common import RESULTS, add_result, mean_and_interval, read_results, with_overrides

TASK = ["env=tmaze-rate", "env.min_length=1", "env.length=88", "algo=rate", "policy.segment=10", "steps=3000000"]
# without dropout, or with two writes in an episode, most seeds hold the cue for the training lengths only
TASK += ["policy.dropout=0.2"]
VARIANTS = {
    "rate": [],
    "detached": ["algo.detach_memory=true"],
    "window": ["policy=window"],
    "mrv": ["policy.memory_update=mrv"],
    "no return": ["algo.returns=false"],
    "no dropout": ["policy.dropout=0"],
    "K=30": ["policy.segment=30", "policy.write_from=learned"],
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--variants", nargs="+", choices=tuple(VARIANTS), default=list(VARIANTS))
    parser.add_argument("--lengths", nargs="+", type=int, default=[90, 480, 900, 9_600], help="steps T of an episode")
    parser.add_argument("--episodes", type=int, default=200)
    parser.add_argument(
        "--policies", type=Path, default=None, help="a folder that keeps the policies, for later lengths"
    )
    parser.add_argument("--results", type=Path, default=RESULTS / "rate_tmaze.jsonl")
    arguments = parser.parse_args()
    configure_process(threads=1)
    kept = arguments.policies or Path(tempfile.mkdtemp())
    for seed in range(arguments.seeds):
        for variant in arguments.variants:
            name = f"{variant.replace(' ', '-')}-{seed}"
            run = {"variant": variant, "seed": seed}
            known = [row for row in read_results(arguments.results) if run.items() <= row.items()]
            todo = [T for T in arguments.lengths if not any(row["T"] == T for row in known)]
            if not todo:
                continue
            if not (kept / name / "result.json").exists():
                shutil.rmtree(kept / name, ignore_errors=True)
                given = [*VARIANTS[variant], f"seed={seed}", f"run={name}", "evaluate_episodes=10"]
                train(parse(with_overrides(TASK, given)), root=kept)
            result = json.loads((kept / name / "result.json").read_text())
            if result["interrupted"]:
                shutil.rmtree(kept / name)
                raise SystemExit(130)
            agent = load_policy(kept / name)
            for T in todo:
                task = dataclasses.replace(parse(TASK).env, length=T - 2, min_length=None)
                score = evaluate(agent, make_task(agent, task, arguments.episodes), arguments.episodes, seed)
                row = {**run, "T": T, "success": score.success, "episodes": score.episodes, "cpu_s": result["cpu_s"]}
                add_result(arguments.results, row)
    rows = [row for row in read_results(arguments.results) if row["seed"] < arguments.seeds]
    lengths = sorted({row["T"] for row in rows})
    print(f"| variant | seeds | {' | '.join(f'{T:,}' for T in lengths)} | CPU-seconds of training |")
    print("|" + "---|" * (len(lengths) + 3))
    for variant in VARIANTS:
        of = {T: [row for row in rows if (row["variant"], row["T"]) == (variant, T)] for T in lengths}
        if any(of.values()):
            cells = [mean_and_interval([row["success"] for row in of[T]]) if of[T] else "" for T in lengths]
            seeds = {row["seed"]: row["cpu_s"] for each in of.values() for row in each}
            print(f"| {variant} | {len(seeds)} | {' | '.join(cells)} | {statistics.median(seeds.values()):.0f} |")


if __name__ == "__main__":
    main()
