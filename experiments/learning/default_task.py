"""The default task over seeds: does `python -m rmt_rl.train` learn MiniGrid-Memory, and how long does it take?

    python experiments/learning/default_task.py --seeds 5
    python experiments/learning/default_task.py --seeds 5 env=tmaze steps=110000

Arguments name=value go to the train command. Prints a markdown table with the success on new episodes, its 95 %
interval, and wall and CPU seconds of every seed. The seeds run one after another, because parallel runs slow each other
down.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path

from rmt_rl.common.process import configure_process
from rmt_rl.config.cli import parse
from rmt_rl.train import train


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--root", type=Path, help="where the run folders go; by default a temporary folder")
    arguments, overrides = parser.parse_known_args()
    root = arguments.root or Path(tempfile.mkdtemp())
    configure_process(threads=1)
    first = arguments.first_seed
    results = [
        train(parse([*overrides, f"seed={seed}"]), root=root).summary for seed in range(first, first + arguments.seeds)
    ]
    print(
        "\n| seed | success | 95 % interval | steps | wall s | CPU s | steps per CPU-second |\n|---|---|---|---|---|---|---|"
    )
    for r in results:
        low, high = r["eval"]["ci95"]
        print(
            f"| {r['seed']} | {r['eval']['success']:.3f} | {low:.3f} to {high:.3f} | {r['steps']:,} | {r['wall_s']:.0f} | "
            f"{r['cpu_s']:.0f} | {r['steps_per_cpu_s']:,.0f} |"
        )
    solved = sum(r["eval"]["success"] >= 0.95 for r in results)
    print(
        f"\n{solved} of {len(results)} at 0.95 or above; floor {results[0]['floor']}, ceiling {results[0]['ceiling']}"
    )
    print(json.dumps(results))


if __name__ == "__main__":
    main()
