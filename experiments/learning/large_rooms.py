"""MiniGrid-MemoryS11 and S13 at MiniGrid's own view of 7, the sizes at which no policy without memory exceeds 0.5.

    python experiments/learning/large_rooms.py --seeds 5

The difficulty is exploration: most episodes start past the object, and an agent that walks on never sees it again.
Finished runs are lines of the results file, with their learning curves, and are not run again. Prints a markdown table
with one row for each run: greedy success of the final policy on 400 new episodes with its Wilson interval, with
env.random=true also in the room whose corridor has its full length in every episode ("fixed room"), the step from which
the rollouts' success stayed above 0.95, and the cost. Arguments name=value go to the train command.
"""

from __future__ import annotations

import argparse
import functools
import json
import sys
from pathlib import Path
from typing import Any

from rmt_rl.common.process import configure_process
from rmt_rl.config.cli import parse
from rmt_rl.evaluate import evaluate
from rmt_rl.train import train

sys.path.insert(0, str(Path(__file__).parent.parent))
from common import RESULTS, measure_once, read_results, with_overrides

OPTIONS = [
    "env=minigrid-memory",
    "env.view=7",
    "algo.num_envs=256",
    "algo.rollout=64",
    "algo.entropy_coef=0.03",
    "algo.gamma=0.995",
    "steps=2500000",
]
SOLVED, POINTS = 0.95, 60
#: The room of `env.random=true` whose corridor has its full length in every episode.
FIXED: dict[str, Any] = {"env.random": False}


def measure(size: int, seed: int, extra: list[str], root: Path) -> dict[str, Any]:
    run = parse(with_overrides(OPTIONS, [f"env.size={size}", f"seed={seed}", "run=rooms", *extra]))
    result = train(run, root=root).summary
    if result["interrupted"]:
        raise SystemExit(130)
    rows = [json.loads(line) for line in (root / "rooms/metrics.jsonl").read_text().splitlines()]
    curve = [(row["steps"], row["success"]) for row in rows if row.get("success") is not None]
    below = [steps for steps, success in curve if success < SOLVED]
    solved = next((steps for steps, _ in curve if not below or steps > below[-1]), None)
    policy = root / "rooms/policy"
    fixed = {"fixed": evaluate(policy, episodes=400, **FIXED).success} if run.env.random else {}
    return {
        "success": result["eval"]["success"],
        **fixed,
        "ci95": result["eval"]["ci95"],
        "solved_at": solved,
        "steps": result["steps"],
        "cpu_s": result["cpu_s"],
        "curve": curve[:: max(1, len(curve) // POINTS)],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs="+", default=[11, 13])
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--results", type=Path, default=RESULTS / "large_rooms.jsonl")
    arguments, extra = parser.parse_known_args()
    configure_process(threads=1)
    for size in arguments.sizes:
        for seed in range(arguments.seeds):
            run = {"size": size, "seed": seed, "extra": extra}
            measure_once(arguments.results, run, functools.partial(measure, size, seed, extra))
    print(
        "\n| size | options | seed | success | fixed room | above 0.95 from | steps | CPU-seconds |\n"
        + "|---" * 8
        + "|"
    )
    for row in sorted(read_results(arguments.results), key=lambda row: (row["size"], row["extra"], row["seed"])):
        m = row["measured"]
        low, high = m["ci95"]
        solved = f"{m['solved_at']:,}" if m["solved_at"] else "never"
        print(
            f"| {row['size']} | {' '.join(row['extra'])} | {row['seed']} | {m['success']:.3f} [{low:.3f}, {high:.3f}] "
            f"| {format(m['fixed'], '.3f') if 'fixed' in m else '-'} "
            f"| {solved} | {m['steps']:,} | {m['cpu_s']:.0f} |"
        )


if __name__ == "__main__":
    main()
