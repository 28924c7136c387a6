"""RATE on recorded data from two sources: a shortest-path expert, and a PPO agent that guesses.

    python experiments/learning/rate_data.py --seeds 5

expert: MiniGrid-Memory (default task), 2,000 episodes of the expert. Segments have 3 steps, so that the cue lies
    outside the segment in which the agent turns. Compared are RATE, behaviour cloning with the same memory, and a
    window of one segment, which cannot know the cue.
mediocre: T-maze of 5 to 20 steps, 2,000 episodes of a PPO agent without memory, which finds the junction and guesses
    there. RATE is conditioned on the best return in these data; behaviour cloning imitates all of them. RATE
    conditioned on 0 shows that it follows its target.

Finished runs are lines of the results file and are not run again. Prints a markdown table: greedy success on 400 new
episodes, the mean over seeds with its 95 % interval (Student's t over seeds).
"""

from __future__ import annotations

import argparse
import functools
import os
import sys
from pathlib import Path

from rmt_rl import collect
from rmt_rl.common.process import configure_process
from rmt_rl.config.cli import parse
from rmt_rl.policies.saving import load_policy, make_task
from rmt_rl.rollouts.episodes import evaluate
from rmt_rl.train import train

sys.path.insert(0, str(Path(__file__).parent.parent))
from common import RESULTS, mean_and_interval, measure_once, read_results, with_overrides

EXPERT = ["env=minigrid-memory", "algo=rate", "policy.segment=3", "steps=600000"]
TMAZE = ["env=tmaze", "env.min_length=5", "env.length=20"]
# this much entropy keeps it taking both arms: the return of an arm that is never taken cannot be learned
GUESSES = [*TMAZE, "policy=mlp", "algo.rollout=32", "algo.entropy_coef=0.1", "steps=100000", "run=guesses"]
MEDIOCRE = [*TMAZE, "algo=rate", "data=guesses/ppo-v0", "steps=600000"]
VARIANTS = {
    "expert": {"RATE": [], "behaviour cloning": ["algo.returns=false"], "window": ["policy=window"]},
    "mediocre": {"RATE": [], "behaviour cloning": ["algo.returns=false"]},
}


def success(policy: Path, seed: int, target_return: float | None = None) -> float:
    agent = load_policy(policy)
    return evaluate(agent, make_task(agent, None, 100, target_return=target_return), 400, seed).success or 0.0


def expert(variant: list[str], seed: int, root: Path) -> dict[str, float]:
    train(parse(with_overrides(EXPERT, [*variant, f"seed={seed}", "run=learned"])), root=root)
    return {"success": success(root / "learned", seed)}


def mediocre(variant: list[str], seed: int, root: Path) -> dict[str, float]:
    os.environ["MINARI_DATASETS_PATH"] = str(root / "datasets")
    train(parse([*GUESSES, f"seed={seed}"]), root=root)
    status = collect.main(
        [f"policy={root / 'guesses'}", "out=guesses/ppo-v0", "episodes=2000", "deterministic=false", f"seed={seed}"]
    )
    if status:
        raise SystemExit(status)
    train(parse([*MEDIOCRE, *variant, f"seed={seed}", "run=learned"]), root=root)
    found = {"success": success(root / "learned", seed), "of the data": success(root / "guesses", seed)}
    return found if variant else found | {"asked for 0": success(root / "learned", seed, 0.0)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--data", nargs="+", choices=tuple(VARIANTS), default=list(VARIANTS))
    parser.add_argument("--results", type=Path, default=RESULTS / "rate_data.jsonl")
    arguments = parser.parse_args()
    configure_process(threads=1)
    runs = {"expert": expert, "mediocre": mediocre}
    for data in arguments.data:
        for seed in range(arguments.seeds):
            for name, variant in VARIANTS[data].items():
                run = {"data": data, "variant": name, "seed": seed}
                measure_once(arguments.results, run, functools.partial(runs[data], variant, seed))
    rows = [row for row in read_results(arguments.results) if row["seed"] < arguments.seeds]
    print("\n| data | learner | seeds | success | of the agent in the data, greedy | with target return 0 |")
    print("|---|---|---|---|---|---|")
    for data, variants in VARIANTS.items():
        for name in variants:
            of = [row["measured"] for row in rows if (row["data"], row["variant"]) == (data, name)]
            cells = [
                mean_and_interval([m[key] for m in of]) if of and key in of[0] else ""
                for key in ("success", "of the data", "asked for 0")
            ]
            if of:
                print(f"| {data} | {name} | {len(of)} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
