"""Classic control without velocities, with the settings of `env=gym`.

CartPole, Pendulum and MountainCarContinuous show positions only, as the NoVel tasks of rl-baselines3-zoo do: a policy has to
remember to estimate the rest. The settings are those of the task with velocities. Mean return of the final policy in 64 new
episodes. A finished run is kept in the results file and not repeated.

    python experiments/learning/no_velocities.py [name=value ...] [--tasks CartPoleNoVel] [--policies rmt lstm] [--seeds 0 1 2]
"""

from __future__ import annotations

import argparse
import math
import sys
from functools import partial
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))
import gymnasium
import numpy as np
from common import RESULTS, mean_and_interval, measure_once, with_overrides

import rmt_rl
from rmt_rl.common.gymnasium_ids import without_version
from rmt_rl.config.cli import parse
from rmt_rl.config.registry import GROUPS

#: Task -> (gymnasium id, the elements of its observation that are shown, steps of training).
TASKS = {
    "CartPoleNoVel": ("CartPole-v1", [0, 2], 100_000),
    "PendulumNoVel": ("Pendulum-v1", [0, 1], 100_000),
    "MountainCarContinuousNoVel": ("MountainCarContinuous-v0", [0], 300_000),
}

#: No episode can return more.
BEST = {"CartPoleNoVel": 500.0, "PendulumNoVel": 0.0, "MountainCarContinuousNoVel": 100.0}


def without_velocities(of: str, shown: list[int], **given: Any) -> gymnasium.Env[Any, Any]:
    """The environment with only some elements of its observation."""
    env = gymnasium.make(of, **given)
    space: Any = env.observation_space
    box = gymnasium.spaces.Box(space.low[shown], space.high[shown], dtype=np.float32)
    return gymnasium.wrappers.TransformObservation(env, lambda obs: obs[shown], box)


def register() -> None:
    for task, (of, shown, _) in TASKS.items():
        gymnasium.register(
            f"rmt_rl_experiments/{task}-v0",
            without_velocities,
            kwargs={"of": of, "shown": shown},
            disable_env_checker=True,
        )


def measure(run: dict[str, Any], folder: Path) -> dict[str, Any]:
    usual = ["env=gym", f"env.id=rmt_rl_experiments/{run['task']}-v0", f"policy={run['policy']}", f"seed={run['seed']}"]
    usual += [f"steps={TASKS[run['task']][2]}", "evaluate_episodes=64"]
    own = GROUPS["env"]["gym"].recipe.ids.get(without_version(TASKS[run["task"]][0]))
    usual += [f"{name}={value}" for name, value in (own.options if own else {}).items()]
    summary = rmt_rl.train(parse(with_overrides(usual, run["options"])), root=folder).summary
    return {"return": summary["eval"]["return"], "cpu_s": summary["cpu_s"]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("options", nargs="*", help="options of rmt_rl.train, such as algo.normalize_reward=false")
    parser.add_argument("--tasks", nargs="+", default=list(TASKS), choices=list(TASKS))
    parser.add_argument("--policies", nargs="+", default=["rmt", "lstm"])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2, 3, 4])
    parser.add_argument("--results", type=Path, default=RESULTS / "no_velocities.jsonl")
    arguments = parser.parse_args()
    register()
    runs = [
        {"task": task, "policy": policy, "seed": seed, "options": arguments.options}
        for task in arguments.tasks
        for policy in arguments.policies
        for seed in arguments.seeds
    ]
    measured = [measure_once(arguments.results, run, partial(measure, run)) for run in runs]
    print(
        "\n| task | policy | mean of the seeds (95 % interval) | mean return by seed | CPU s |\n|---|---|---|---|---|"
    )
    for task in arguments.tasks:
        for policy in arguments.policies:
            cell = [m for run, m in zip(runs, measured, strict=True) if (run["task"], run["policy"]) == (task, policy)]
            returns = [m["return"] for m in cell]
            mean = mean_and_interval(returns, -math.inf, BEST[task], digits=1)
            by_seed = ", ".join(f"{value:.1f}" for value in returns)
            cpu = sum(m["cpu_s"] for m in cell) / len(cell)
            print(f"| {task} | {policy} | {mean} | {by_seed} | {cpu:.0f} |")


if __name__ == "__main__":
    main()
