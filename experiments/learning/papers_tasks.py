"""The papers' tasks by supervised learning: copy, reverse, retrieval, and a cue that is found and held for millions of steps.

Copy and reverse 24 symbols and retrieval of 4 pairs are those of Bulatov et al. 2022 (arXiv 2207.06881), with our symbols;
accuracy is the share of correct answers in 400 new episodes. `detect` is trained on up to 80 steps with a curriculum and tested
on up to 2,043,904, as in Bulatov et al. 2023 (arXiv 2304.11062): accuracy in 64 episodes (the longest: 16), which are read
through `unroll`; actions have no effect before the question, and the policy does not see its own. A finished run is kept in the
results file.

    python experiments/learning/papers_tasks.py [name=value ...] [--tasks copy] [--policies rmt trxl] [--seeds 0 1 2]
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).parents[1]))
from common import (
    RESULTS,
    RMT_OF_THE_PAPER,
    check_options,
    mean_and_interval,
    measure_once,
    read_results,
    with_overrides,
)

import rmt_rl
from rmt_rl.common.state import map_obs
from rmt_rl.config.cli import parse
from rmt_rl.envs.registry import make_env
from rmt_rl.policies.actor_critic import ActorCritic

#: Task -> options; symbols and pairs as in the paper, segments as its sequences are cut.
TASKS: dict[str, list[str]] = {
    "copy": ["env=copy", "env.length=24", "env.symbols=10", "algo.stages=12", "algo.advance=0.8", "steps=10000000"],
    "reverse": [
        "env=copy",
        "env.reverse=true",
        "env.length=24",
        "env.symbols=10",
        "algo.stages=12",
        "algo.advance=0.8",
        "steps=10000000",
    ],
    "retrieval": [
        "env=associative-retrieval",
        "env.pairs=4",
        "env.keys=16",
        "env.values=16",
        "algo.grows=pairs",
        "algo.stages=4",
        "steps=2000000",
    ],
    "detect": ["env=detect", "env.length=80", "algo.stages=8", "policy.previous_action=false", "steps=4000000"],
}
USUAL = ["algo=supervised", "algo.learning_rate=2e-3", "evaluate_episodes=400"]
POLICIES = {
    "rmt": ["policy.segment=8", "policy.memory_tokens=8"],
    "rmt of the paper": [*RMT_OF_THE_PAPER, "policy.memory_tokens=8"],
    "trxl": ["policy=trxl", "policy.segment=8", "policy.cache=8"],
    "lstm": ["policy=lstm"],
    "window": ["policy=window"],
}
#: Steps of `detect` in tests -> episodes.
LENGTHS = {80: 64, 1_000: 64, 10_000: 64, 100_000: 64, 2_043_904: 16}
#: Steps that are read at once.
PIECE = 2_000
#: Accuracy from which on longer episodes are read.
WORTH_READING = 0.5


def arguments_of(run: dict[str, Any]) -> list[str]:
    """The arguments of `rmt_rl.train`."""
    usual = [*USUAL, *TASKS[run["task"]], *POLICIES[run["policy"]], f"seed={run['seed']}"]
    return with_overrides(usual, run["options"])


@torch.no_grad()
def read(policy: ActorCritic, length: int, rows: int) -> float:
    """The share of `rows` episodes of `detect` of that length whose question is answered correctly."""
    task = policy.spec.env
    env = make_env("detect", rows, length=length, cues=task.cues, distractors=task.distractors)
    obs, _ = env.reset(seed=1_000_000)
    state, first = policy.initial_state(rows), torch.ones(rows, dtype=torch.bool)
    none = torch.zeros(rows, dtype=torch.int64)  # an action without effect
    seen: list[tuple[Any, torch.Tensor]] = []
    for step in range(length + 1):
        seen.append((obs, first))
        asked = step == length
        if asked or len(seen) == PIECE:
            shown = map_obs(lambda *x: torch.stack(x, dim=1), *(o for o, _ in seen))
            firsts = torch.stack([f for _, f in seen], dim=1)
            parameters, _, state = policy.unroll(shown, torch.zeros_like(firsts, dtype=torch.int64), state, firsts)
            seen = []
        if not asked:
            obs, *_ = env.step(none)
            first = torch.zeros_like(first)
    return float((policy.head.mode(parameters)[:, -1] == env.oracle()).double().mean())


def measure(run: dict[str, Any], folder: Path) -> dict[str, Any]:
    """The accuracy of a new run's final policy, of `detect` by length, and what it cost."""
    result = rmt_rl.train(parse(arguments_of(run)), root=folder)
    assert result.score is not None
    accuracy = {"own": result.score.mean_return}
    if run["task"] == "detect":
        for length, rows in LENGTHS.items():
            accuracy[f"{length:,}"] = read(result.policy, length, rows)
            if accuracy[f"{length:,}"] < WORTH_READING:
                break
    cost = {name: result.summary[name] for name in ("steps", "cpu_s")}
    return {"accuracy": accuracy, "success": result.score.success, "stage": float(result.metrics["stage"][-1]), **cost}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("options", nargs="*", help="options of rmt_rl.train, such as policy.layers=4")
    parser.add_argument("--tasks", nargs="+", default=list(TASKS), choices=list(TASKS))
    parser.add_argument("--policies", nargs="+", default=list(POLICIES), choices=list(POLICIES))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--results", type=Path, default=RESULTS / "papers_tasks.jsonl")
    arguments = parser.parse_args()
    runs = [
        {"task": task, "policy": policy, "seed": seed, "options": arguments.options}
        for seed in arguments.seeds
        for task in arguments.tasks
        for policy in arguments.policies
    ]
    check_options(parser, arguments.options, ("seed", "env", "policy", "algo"), [arguments_of(run) for run in runs])
    for run in runs:
        measure_once(arguments.results, run, lambda folder, run=run: measure(run, folder))
    stored = read_results(arguments.results)
    for task in arguments.tasks:
        names = ["own", *(f"{n:,}" for n in LENGTHS)] if task == "detect" else ["own"]
        print(f"\n{task}\n\n| policy | seeds | {' | '.join(names)} | CPU s |\n|---|---|{'---|' * len(names)}---|")
        for policy in arguments.policies:
            wanted = [run for run in runs if (run["task"], run["policy"]) == (task, policy)]
            cell = [row["measured"] for row in stored if any(run.items() <= row.items() for run in wanted)]
            if cell:
                known = ([m["accuracy"][n] for m in cell if n in m["accuracy"]] for n in names)
                cpu = sum(m["cpu_s"] for m in cell) / len(cell)
                shown = " | ".join(mean_and_interval(values) if values else "-" for values in known)
                print(f"| {policy} | {len(cell)} | {shown} | {cpu:.0f} |")


if __name__ == "__main__":
    main()
