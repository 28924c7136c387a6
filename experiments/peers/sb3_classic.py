"""Stable-Baselines3 on the tasks of experiments/learning/no_velocities.py and units.py: RecurrentPPO, and PPO with VecNormalize.

Settings and steps are those that rl-baselines3-zoo has for these tasks (hyperparams/ppo_lstm.yml and ppo.yml). Mean return of the
final policy, deterministic, in 64 new episodes. A finished run is kept in the results file and not repeated.

    pip install sb3-contrib
    OMP_NUM_THREADS=1 python experiments/peers/sb3_classic.py [--tasks PendulumNoVel] [--seeds 0 1 2 3 4]
"""

from __future__ import annotations

import argparse
import math
import statistics
import sys
import time
from pathlib import Path
from typing import Any

for folder in ("", "learning"):
    sys.path.insert(0, str(Path(__file__).parents[1] / folder))

import no_velocities
import units
from common import RESULTS, mean_and_interval, measure_once, read_results

try:
    from sb3_contrib import RecurrentPPO
    from stable_baselines3 import PPO
    from stable_baselines3.common.env_util import make_vec_env
    from stable_baselines3.common.evaluation import evaluate_policy
    from stable_baselines3.common.vec_env import VecNormalize
except ModuleNotFoundError as error:
    sys.exit(f"this script needs the package {error.name}, which is not installed; pip install sb3-contrib")


def linear(start: float) -> Any:
    return lambda left: start * left


CARTPOLE = {"n_steps": 32, "batch_size": 256, "gae_lambda": 0.8, "gamma": 0.98, "n_epochs": 20, "ent_coef": 0.0}
CARTPOLE |= {"learning_rate": linear(0.001), "clip_range": linear(0.2)}
PENDULUM = {"n_steps": 1024, "gae_lambda": 0.95, "gamma": 0.9, "n_epochs": 10, "ent_coef": 0.0, "learning_rate": 1e-3}
PENDULUM |= {"clip_range": 0.2, "use_sde": True, "sde_sample_freq": 4}
MOUNTAIN = {"batch_size": 256, "n_steps": 8, "gamma": 0.9999, "learning_rate": 7.77e-05, "ent_coef": 0.00429}
MOUNTAIN |= {"clip_range": 0.1, "n_epochs": 10, "gae_lambda": 0.9, "max_grad_norm": 5, "vf_coef": 0.19, "use_sde": True}
MOUNTAIN |= {"policy_kwargs": {"log_std_init": -3.29, "ortho_init": False}}
#: Task -> (algorithm, rows, steps, VecNormalize, settings).
TASKS: dict[str, tuple[Any, int, int, bool, dict[str, Any]]] = {
    "CartPoleNoVel": (RecurrentPPO, 8, 100_000, False, CARTPOLE),
    "PendulumNoVel": (RecurrentPPO, 4, 100_000, False, PENDULUM),
    "MountainCarContinuousNoVel": (RecurrentPPO, 1, 20_000, True, MOUNTAIN),
    **{f"CartPole-{task}": (PPO, 8, 100_000, False, CARTPOLE) for task in units.TASKS},
    **{f"CartPole-{task}, VecNormalize": (PPO, 8, 100_000, True, CARTPOLE) for task in units.TASKS},
}


def measure(run: dict[str, Any]) -> dict[str, Any]:
    algorithm, rows, steps, normalized, settings = TASKS[run["task"]]
    name = f"rmt_rl_experiments/{run['task'].partition(',')[0]}-v0"
    env: Any = make_vec_env(name, rows, seed=run["seed"])
    if normalized:
        env = VecNormalize(env, gamma=settings["gamma"])
    policy = "MlpLstmPolicy" if algorithm is RecurrentPPO else "MlpPolicy"
    begin = time.process_time()
    model = algorithm(policy, env, seed=run["seed"], device="cpu", **settings).learn(steps)
    cpu = time.process_time() - begin
    test: Any = make_vec_env(name, 1, seed=run["seed"] + 10_000)
    if normalized:  # the moments of training, raw rewards
        test = VecNormalize(test, training=False, norm_reward=False)
        test.obs_rms = env.obs_rms
    returns, _ = evaluate_policy(model, test, n_eval_episodes=64, return_episode_rewards=True)
    return {"return": statistics.mean(returns), "cpu_s": round(cpu)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", nargs="+", default=list(TASKS), choices=list(TASKS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2, 3, 4])
    parser.add_argument("--results", type=Path, default=RESULTS / "sb3_classic.jsonl")
    arguments = parser.parse_args()
    no_velocities.register()
    units.register()
    print("| task | steps | mean return (95 % interval) | by seed |\n|---|---|---|---|")
    for task in arguments.tasks:
        returns = []
        for seed in arguments.seeds:
            run = {"task": task, "seed": seed, "steps": TASKS[task][2]}
            measure_once(arguments.results, run, lambda folder, run=run: measure(run))
            row = next(row for row in read_results(arguments.results) if run.items() <= row.items())
            returns.append(row["measured"]["return"])
        by_seed = ", ".join(f"{value:.0f}" for value in returns)
        interval = mean_and_interval(returns, -math.inf, math.inf, digits=1)
        print(f"| {task} | {TASKS[task][2]:,} | {interval} | {by_seed} |", flush=True)


if __name__ == "__main__":
    main()
