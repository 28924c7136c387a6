"""Memory across episodes: success by inner episode on Dark Room, with memory of the whole trial and of one inner episode, and
the bandit's payout beside Thompson sampling.

    python experiments/trials.py --tasks dark-room bandit --seeds 3

Prints markdown tables of frozen final policies on fresh trials: the mean over seeds and its 95 % interval (Student's t). The
control is the same task with `episodes=1`: the goal changes with every inner episode, so that nothing from before it can help.
Arguments name=value go to the train command.
"""

from __future__ import annotations

import argparse
import dataclasses
import tempfile
from pathlib import Path
from typing import Any

import torch
from compare import mean_and_interval

from rmt_rl.checkpoint import load_policy
from rmt_rl.cli import parse
from rmt_rl.envs.registry import make_from_config
from rmt_rl.policies.actor_critic import ActorCritic
from rmt_rl.train import prepare, train

TRIALS = 400
EPISODES = 5
#: A rollout holds a whole trial, so that gradients reach from its end to its beginning.
DARK_ROOM = ["env=dark-room", "algo.rollout=104", "algo.num_envs=64", "algo.gamma=0.99", "steps=4000000"]
CONTROL = ["env=dark-room", "env.episodes=1", "algo.rollout=20", "algo.num_envs=64", "steps=1000000"]
BANDIT = [
    "env=bandit",
    "algo.rollout=100",
    "algo.num_envs=64",
    "algo.gamma=0.99",
    "algo.advantage_floor=0.001",
    "steps=4000000",
]


def agent(arguments: list[str], seed: int, extra: list[str]) -> tuple[Any, ActorCritic]:
    given = {argument.partition("=")[0] for argument in extra}
    usual = [argument for argument in arguments if argument.partition("=")[0] not in given]
    with tempfile.TemporaryDirectory() as root:
        run = parse([*usual, f"seed={seed}", "evaluate_episodes=64", "run=trials", *extra])
        train(run, Path(root))
        return run, load_policy(Path(root) / "trials")


def by_inner_episode(policy: ActorCritic, task: Any) -> list[float]:
    """Success in inner episode 1, 2, ... of fresh trials."""
    env = make_from_config(task, TRIALS)
    obs, _ = env.reset(seed=10**6)
    state, first = policy.initial_state(TRIALS), torch.ones(TRIALS, dtype=torch.bool)
    rates, found = [], torch.zeros(TRIALS, dtype=torch.bool)
    while len(rates) < task.episodes:
        action, state = policy.act(obs, state, first, deterministic=True)
        obs, _, first, _, info = env.step(action)
        found |= info["inner_success"]
        if bool(info["inner_start"].all()) or bool(first.all()):
            rates.append(float(found.double().mean()))
            found = torch.zeros_like(found)
    return rates


def payout(policy: ActorCritic, task: Any) -> float:
    """Mean payout of a trial, times its pulls."""
    from rmt_rl.evaluate import evaluate

    return evaluate(policy, make_from_config(task, 500), 2_000, 10**6, deterministic=False).mean_return * task.length


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", nargs="+", choices=("dark-room", "bandit"), default=["dark-room", "bandit"])
    parser.add_argument("--seeds", type=int, default=3)
    arguments, extra = parser.parse_known_args()
    prepare(threads=1)
    if "dark-room" in arguments.tasks:
        curves, controls = [], []
        for seed in range(arguments.seeds):
            run, policy = agent(DARK_ROOM, seed, extra)
            curves.append(by_inner_episode(policy, dataclasses.replace(run.env, episodes=EPISODES)))
            run, policy = agent(CONTROL, seed, extra)
            controls.append(by_inner_episode(policy, run.env)[0])
        print("\n| inner episode | success | ideal searcher | memory of one inner episode |\n|---|---|---|---|")
        for i, (rates, ideal) in enumerate(zip(zip(*curves, strict=True), (21, 41, 61, 81, 81), strict=True)):
            control = mean_and_interval(controls) if i == 0 else ""
            print(f"| {i + 1} | {mean_and_interval(list(rates))} | {ideal / 81:.3f} | {control} |")
    if "bandit" in arguments.tasks:
        payouts = []
        for seed in range(arguments.seeds):
            run, policy = agent(BANDIT, seed, extra)
            payouts.append(payout(policy, run.env) / run.env.length)
        print(
            f"\nbandit, payout a pull: {mean_and_interval(payouts)}; stay-or-next 0.683, Thompson sampling 0.749, ceiling 0.833"
        )


if __name__ == "__main__":
    main()
