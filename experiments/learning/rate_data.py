"""RATE on data of others: a shortest-path expert, and a PPO agent that is no good.

    python experiments/rate_data.py --seeds 5

expert: MiniGrid-Memory (default task), 2,000 episodes of the expert, segments of 3 steps, so that the cue is outside of the one
    in which the agent turns: RATE, behaviour cloning with the same memory, and a window of one segment, which cannot know.
mediocre: T-maze of 5 to 20 steps, 2,000 episodes of a PPO agent without memory, which finds the junction and guesses there. RATE
    asks for the best return in these data; behaviour cloning repeats what it was shown. RATE asked for 0 shows that it listens.

Finished runs are lines of the results file and are not run again. Prints a markdown table: greedy success on 400 fresh episodes,
the mean over seeds and its 95 % interval (Student's t over seeds).
"""

from __future__ import annotations

import argparse
import functools
import os
from pathlib import Path

from compare import mean_and_interval, measure_once, read_results

from rmt_rl import collect
from rmt_rl.common.process import prepare
from rmt_rl.config.cli import parse
from rmt_rl.policies.saving import load_policy, make_task
from rmt_rl.rollouts.evaluation import evaluate
from rmt_rl.train import train

EXPERT = ["env=minigrid-memory", "algo=rate", "policy.segment=3", "steps=600000"]
TMAZE = ["env=tmaze", "env.min_length=5", "env.length=20"]
# so much entropy that it still takes both arms: an arm that is never taken cannot be learned from its returns
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
    own = {option.partition("=")[0] for option in variant}
    train(
        parse([*[o for o in EXPERT if o.partition("=")[0] not in own], *variant, f"seed={seed}", "run=learned"]), root
    )
    return {"success": success(root / "learned", seed)}


def mediocre(variant: list[str], seed: int, root: Path) -> dict[str, float]:
    os.environ["MINARI_DATASETS_PATH"] = str(root / "datasets")
    train(parse([*GUESSES, f"seed={seed}"]), root)
    recorded = collect.main(
        [f"policy={root / 'guesses'}", "out=guesses/ppo-v0", "episodes=2000", "deterministic=false", f"seed={seed}"]
    )
    if recorded:
        raise SystemExit(recorded)
    train(parse([*MEDIOCRE, *variant, f"seed={seed}", "run=learned"]), root)
    found = {"success": success(root / "learned", seed), "of the data": success(root / "guesses", seed)}
    return found if variant else found | {"asked for 0": success(root / "learned", seed, 0.0)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--data", nargs="+", choices=tuple(VARIANTS), default=list(VARIANTS))
    parser.add_argument("--results", type=Path, default=Path(__file__).parent / "results" / "rate_data.jsonl")
    arguments = parser.parse_args()
    prepare(threads=1)
    runs = {"expert": expert, "mediocre": mediocre}
    for data in arguments.data:
        for seed in range(arguments.seeds):
            for name, variant in VARIANTS[data].items():
                run = {"data": data, "variant": name, "seed": seed}
                measure_once(arguments.results, run, functools.partial(runs[data], variant, seed))
    rows = [row for row in read_results(arguments.results) if row["seed"] < arguments.seeds]
    print("\n| data | learner | seeds | success | of the agent in the data, greedy | asked for a return of 0 |")
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
