"""Memory across episodes: success by inner episode on Dark Room, and the bandit's payout beside Thompson sampling.

    python experiments/learning/trials.py --seeds 3

Prints markdown tables of frozen final policies on new trials: the mean over seeds with its 95 % interval (Student's t).
The control is Dark Room with `episodes=1`: the goal changes with every inner episode, so nothing from earlier episodes
can help. Finished runs are lines of the results file and are not run again. Arguments name=value go to the train
command.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import sys
from pathlib import Path
from typing import Any

import torch

from rmt_rl.common.process import configure_process
from rmt_rl.config.cli import parse
from rmt_rl.envs.registry import make_from_config
from rmt_rl.policies.actor_critic import ActorCritic
from rmt_rl.rollouts.episodes import evaluate
from rmt_rl.train import train

sys.path.insert(0, str(Path(__file__).parent.parent))
from common import RESULTS, mean_and_interval, measure_once, read_results, with_overrides

TRIALS = 400
EPISODES = 5
#: Beside the task's recipe. Trained on trials of 7 inner episodes and scored on trials of 5: finding the goal in the last inner
#: episode earns almost nothing, so an agent trained on 5 learns to stop searching in the fifth.
DARK_ROOM = ["env=dark-room", "env.episodes=7", "algo.rollout=146", "steps=8000000"]
CONTROL = ["env=dark-room", "env.episodes=1", "algo.rollout=20", "steps=1000000"]
BANDIT = ["env=bandit"]


def agent(arguments: list[str], seed: int, extra: list[str], root: Path) -> tuple[Any, ActorCritic, dict[str, Any]]:
    """The run, its final policy, and what it cost."""
    run = parse(with_overrides([*arguments, "evaluate_episodes=64"], [f"seed={seed}", "run=trials", *extra]))
    result = train(run, root=root)
    if result.summary["interrupted"]:
        raise SystemExit(130)
    return run, result.policy, {key: result.summary[key] for key in ("steps", "cpu_s")}


def by_inner_episode(policy: ActorCritic, task: Any) -> list[float]:
    """Success in inner episode 1, 2, ... of new trials."""
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
    return evaluate(policy, make_from_config(task, 500), 2_000, 10**6, deterministic=False).mean_return * task.length


def dark_room(seed: int, extra: list[str], root: Path) -> dict[str, Any]:
    run, policy, cost = agent(DARK_ROOM, seed, extra, root)
    return {"success": by_inner_episode(policy, dataclasses.replace(run.env, episodes=EPISODES)), **cost}


def control(seed: int, extra: list[str], root: Path) -> dict[str, Any]:
    run, policy, cost = agent(CONTROL, seed, extra, root)
    return {"success": by_inner_episode(policy, run.env), **cost}


def bandit(seed: int, extra: list[str], root: Path) -> dict[str, Any]:
    run, policy, cost = agent(BANDIT, seed, extra, root)
    return {"payout": payout(policy, run.env) / run.env.length, **cost}


TASKS = {"dark-room": dark_room, "control": control, "bandit": bandit}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", nargs="+", choices=tuple(TASKS), default=list(TASKS))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--results", type=Path, default=RESULTS / "trials.jsonl")
    arguments, extra = parser.parse_known_args()
    configure_process(threads=1)
    for task in arguments.tasks:
        for seed in range(arguments.seeds):
            run = {"task": task, "seed": seed, "extra": extra}
            measure_once(arguments.results, run, functools.partial(TASKS[task], seed, extra))
    rows = [row for row in read_results(arguments.results) if row["seed"] < arguments.seeds and row["extra"] == extra]
    of = {task: [row["measured"] for row in rows if row["task"] == task] for task in TASKS}
    if of["dark-room"]:
        print("\n| inner episode | success | ideal searcher |\n|---|---|---|")
        curves = zip(*(measured["success"] for measured in of["dark-room"]), strict=True)
        for i, (rates, ideal) in enumerate(zip(curves, (21, 41, 61, 81, 81), strict=True)):
            print(f"| {i + 1} | {mean_and_interval(list(rates))} | {ideal / 81:.3f} |")
    if of["control"]:
        rates = [measured["success"][0] for measured in of["control"]]
        print(f"\nmemory of one inner episode: {mean_and_interval(rates)}, of which at most 0.259 is possible")
    if of["bandit"]:
        found = mean_and_interval([measured["payout"] for measured in of["bandit"]])
        print(f"\nbandit, payout a pull: {found}; stay-or-next 0.683, Thompson sampling 0.749, ceiling 0.833")
    for task, measured in of.items():
        if measured:
            print(
                f"{task}: {len(measured)} seeds, {measured[0]['steps']:,} steps, CPU-s {[m['cpu_s'] for m in measured]}"
            )


if __name__ == "__main__":
    main()
