"""What every memory costs: the time of an acting step, of learning from a step, and what it remembers, as a markdown table.

    python experiments/speed/bench_memories.py

All policies have about the same number of parameters on the T-maze (`--params`). `act` is one step of 64 rows without gradients;
`learn` is `unroll` of 64 rows x 96 steps with its backward pass, in which one step in forty begins an episode. Both are
microseconds of CPU time for one step of one row, one thread, medians over rounds in which all policies take turns; beside them
the speed as a multiple of the LSTM's. The network around the memory (encoder, heads) is the same for all and is part of both.
"""

from __future__ import annotations

import argparse
import dataclasses
import statistics
import time
from collections.abc import Callable

import torch
from machine import machine  # beside this file

from rmt_rl import config
from rmt_rl.common.process import configure_process
from rmt_rl.comparison.worker import state_bytes
from rmt_rl.config.registry import GROUPS
from rmt_rl.envs.tmaze.passive import TMaze
from rmt_rl.policies.actor_critic import ActorCritic
from rmt_rl.policies.budget import fit_width
from rmt_rl.policies.spec import make_spec

ROWS, STEPS, EPISODE, ACTS = 64, 96, 40, 20
LSTM = "lstm"


class Timed:
    """One policy, with inputs for acting and learning."""

    def __init__(self, name: str, params: int) -> None:
        task, env = config.TMazeConfig(), TMaze(ROWS)
        options = dataclasses.replace(GROUPS["policy"][name].config(), params=params)
        torch.manual_seed(0)
        self.policy = ActorCritic(make_spec(env, task, fit_width(env, task, options)))
        self.parameters = sum(p.numel() for p in self.policy.parameters())
        self.state = self.policy.initial_state(ROWS)
        self.obs = torch.randn(ROWS, STEPS, *env.single_observation_space.shape)
        self.action = torch.randint(3, (ROWS, STEPS))
        self.first = torch.rand(ROWS, STEPS) < 1 / EPISODE
        self.times: dict[str, list[float]] = {"act": [], "learn": []}

    def once(self) -> None:
        self.times["act"].append(seconds(self.act) / (ROWS * ACTS))
        self.times["learn"].append(seconds(self.learn) / (ROWS * STEPS))

    def act(self) -> None:
        state = self.state
        with torch.no_grad():
            for t in range(ACTS):
                _, state = self.policy.act(self.obs[:, t], state, self.first[:, t])

    def learn(self) -> None:
        logits, value, _, losses = self.policy.unroll_with_losses(self.obs, self.action, self.state, self.first)
        (logits.square().mean() + value.square().mean() + sum(losses.values())).backward()
        self.policy.zero_grad()

    def median(self, kind: str) -> float:
        return statistics.median(self.times[kind])


def seconds(work: Callable[[], None]) -> float:
    begin = time.process_time()
    work()
    return time.process_time() - begin


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--params", type=int, default=110_000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--policies", nargs="+", default=list(GROUPS["policy"]), choices=list(GROUPS["policy"]))
    arguments = parser.parse_args()
    configure_process(threads=1)
    timed = {name: Timed(name, arguments.params) for name in dict.fromkeys([LSTM, *arguments.policies])}
    for one in timed.values():  # compiles kernels and fills caches
        one.act()
        one.learn()
    for _ in range(arguments.rounds):
        for one in timed.values():
            one.once()
    print(machine())
    print(
        "| policy | parameters | act, us | x lstm | learn, us | x lstm | bytes remembered per row |\n"
        + "|---" * 7
        + "|"
    )
    lstm = timed[LSTM]
    for name, one in sorted(timed.items(), key=lambda item: item[1].median("learn")):
        columns = [
            f"{one.median(kind) * 1e6:.1f} | {lstm.median(kind) / one.median(kind):.2f}" for kind in ("act", "learn")
        ]
        print(f"| {name} | {one.parameters:,} | {' | '.join(columns)} | {state_bytes(one.policy):,} |")


if __name__ == "__main__":
    main()
