"""PPO end to end on symbolic MiniGrid-MemoryS7: our rmt and lstm beside sb3-contrib's RecurrentPPO, as a markdown table.

    pip install stable-baselines3 sb3-contrib
    python experiments/speed/bench_ppo.py

All have about 160,000 parameters, MiniGrid's own view of 7 and 7 actions, and 4 epochs. The peer runs in its own
process with 16 environments, 128 steps of each, minibatches of 512 steps and a shared LSTM
(experiments/peers/sb3_recurrent.py). Ours uses 256 environments (`--rows`), 32 steps of each and minibatches of 2,048
steps. The unit is environment steps per CPU-second, one thread, medians over rounds in which all take turns. A second
table shows where our time goes, and the share of the core's matrix multiplication rate that the update reaches.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from pathlib import Path
from typing import Any

import torch
from machine import machine, matrix_rate  # beside this file
from torch.utils.flop_counter import FlopCounterMode

from rmt_rl import config
from rmt_rl.algos.ppo import PPO
from rmt_rl.common import rng
from rmt_rl.common.process import configure_process
from rmt_rl.envs.minigrid.memory import MiniGridMemory
from rmt_rl.policies import linear
from rmt_rl.policies.actor_critic import ActorCritic
from rmt_rl.policies.spec import make_spec
from rmt_rl.rollouts.collector import Collector

sys.path.insert(0, str(Path(__file__).parent.parent))
from common import PEERS, rmt_of_the_paper, run_program

TASK = config.MiniGridMemoryConfig(size=7, view=7, actions=7)
POLICIES = {"rmt": config.RMTConfig(), "rmt of the paper": rmt_of_the_paper(), "lstm": config.LSTMConfig(width=90)}
PEER = PEERS / "sb3_recurrent.py"


class Ours:
    """One of our agents in the middle of training."""

    def __init__(self, name: str, rows: int) -> None:
        self.options = config.PPOConfig(num_envs=rows)
        env = MiniGridMemory(self.options.num_envs, size=TASK.size, view=TASK.view, actions=TASK.actions)
        torch.manual_seed(0)
        self.policy = ActorCritic(make_spec(env, TASK, POLICIES[name]))
        self.ppo = PPO(self.policy, self.options)
        self.collector = Collector(env, self.policy, 0, rng.generator(0, "act"))
        self.steps = self.options.num_envs * self.options.rollout
        self.parameters = sum(p.numel() for p in self.policy.parameters())
        self.once()

    def once(self) -> dict[str, float]:
        """CPU-seconds of one rollout and one update."""
        begin = time.process_time()
        rollout, _ = self.collector.collect(self.options.rollout)
        between = time.process_time()
        self.ppo.update(rollout, 0.0)
        return {"collect": between - begin, "update": time.process_time() - between}

    def update_flops(self) -> int:
        """Floating-point operations of the matrix products in one update."""
        rollout, _ = self.collector.collect(self.options.rollout)
        linear.AVAILABLE = False  # torch's counter knows only its own products
        with FlopCounterMode(display=False) as counter:
            self.ppo.update(rollout, 0.0)
        linear.AVAILABLE = True
        return counter.get_total_flops()


def peer_speed(steps: int) -> dict[str, Any]:
    arguments = ["--env", "MiniGrid-MemoryS7-v0", "--n-envs", "16", "--shared", "--batch-size", "512"]
    return run_program(str(PEER), *arguments, "--max-steps", str(steps))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=256, help="our environments")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--updates", type=int, default=5, help="our updates in each round")
    parser.add_argument("--peer-steps", type=int, default=20_000)
    parser.add_argument("--no-peer", action="store_true")
    arguments = parser.parse_args()
    configure_process(threads=1)
    agents = {name: Ours(name, arguments.rows) for name in POLICIES}
    times: dict[str, list[dict[str, float]]] = {name: [] for name in agents}
    peers: list[dict[str, Any]] = []
    rates = []
    for _ in range(arguments.rounds):
        for name, agent in agents.items():
            times[name] += [agent.once() for _ in range(arguments.updates)]
        rates.append(matrix_rate())
        if not arguments.no_peer:
            peers.append(peer_speed(arguments.peer_steps))
    rate = statistics.median(rates)

    print(machine())
    print("| agent | parameters | steps per CPU-second | x sb3 |\n|---|---|---|---|")
    base = statistics.median(p["steps_per_cpu_s"] for p in peers) if peers else None
    if base is not None:
        print(f"| sb3-contrib RecurrentPPO | {peers[0]['params']:,} | {base:,.0f} | 1.0 |")
    for name, agent in agents.items():
        speed = statistics.median(agent.steps / sum(t.values()) for t in times[name])
        ratio = f"{speed / base:.1f}" if base is not None else "-"
        print(f"| rmt_rl {name} | {agent.parameters:,} | {speed:,.0f} | {ratio} |")
    print(f"\nOne core multiplies matrices at {rate / 1e9:.0f} GFLOP/s.\n")
    print(
        "| agent | collect, us/step | update, us/step | update, MFLOP/step | of the matrix rate |\n|---|---|---|---|---|"
    )
    for name, agent in agents.items():
        flops = agent.update_flops() / agent.steps
        collect, update = (
            statistics.median(t[part] for t in times[name]) / agent.steps for part in ("collect", "update")
        )
        # torch's counter does not see the products of the fused LSTM, which are added here
        if name == "lstm":
            width = POLICIES[name].width
            flops += agent.options.epochs * 3 * 2 * 8 * width**2
        print(
            f"| {name} | {collect * 1e6:.1f} | {update * 1e6:.1f} | {flops / 1e6:.2f} | {flops / update / rate:.0%} |"
        )


if __name__ == "__main__":
    main()
