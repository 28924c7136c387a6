"""CartPole whose observations are in other units, with the settings of `env=gym`, with and without normalized observations.

`offset` adds 1,000 to every element, `scale` multiplies the two positions by 1,000; what there is to learn stays the same. Mean
return of the final policy in 64 new episodes. A finished run is kept in the results file and not repeated. The same tasks with
Stable-Baselines3's PPO: experiments/peers/sb3_classic.py.

    python experiments/learning/units.py [--seeds 0 1 2 3 4] [--steps 100000]
"""

from __future__ import annotations

import argparse
import sys
from functools import partial
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))
import gymnasium
import numpy as np
from common import RESULTS, mean_and_interval, measure_once

import rmt_rl

#: Task -> (the factor of every element, what is added).
TASKS = {"plain": ([1, 1, 1, 1], 0), "offset": ([1, 1, 1, 1], 1000), "scale": ([1000, 1, 1000, 1], 0)}


def in_other_units(factor: list[float], offset: float, **given: Any) -> gymnasium.Env[Any, Any]:
    """CartPole-v1 with other observations, of which no bounds are known."""
    box = gymnasium.spaces.Box(-np.inf, np.inf, (4,), np.float32)
    scale = np.array(factor, np.float32)
    return gymnasium.wrappers.TransformObservation(
        gymnasium.make("CartPole-v1", **given), lambda obs: (obs * scale + offset).astype(np.float32), box
    )


def register() -> None:
    for task, (factor, offset) in TASKS.items():
        gymnasium.register(
            f"rmt_rl_experiments/CartPole-{task}-v0",
            in_other_units,
            kwargs={"factor": factor, "offset": offset},
            disable_env_checker=True,
        )


def measure(run: dict[str, Any], folder: Path) -> dict[str, Any]:
    given = {
        "env.id": f"rmt_rl_experiments/CartPole-{run['task']}-v0",
        "policy.normalize_observation": run["normalized"],
    }
    result = rmt_rl.train(
        env="gym", policy="mlp", seed=run["seed"], steps=run["steps"], evaluate_episodes=64, root=folder, **given
    )
    return {"return": result.summary["eval"]["return"], "cpu_s": result.summary["cpu_s"]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2, 3, 4])
    parser.add_argument("--steps", type=int, default=100_000)
    parser.add_argument("--results", type=Path, default=RESULTS / "units.jsonl")
    arguments = parser.parse_args()
    register()
    print("| task | normalized | mean return (95 % interval) | by seed |\n|---|---|---|---|")
    for task in TASKS:
        for normalized in (True, False):
            returns = []
            for seed in arguments.seeds:
                run = {"task": task, "normalized": normalized, "seed": seed, "steps": arguments.steps}
                returns.append(measure_once(arguments.results, run, partial(measure, run))["return"])
            by_seed = ", ".join(f"{value:.0f}" for value in returns)
            print(f"| {task} | {normalized} | {mean_and_interval(returns, 0, 500, digits=1)} | {by_seed} |", flush=True)


if __name__ == "__main__":
    main()
