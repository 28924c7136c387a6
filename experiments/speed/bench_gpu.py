"""Trained steps per second by number of rows on one GPU: `python experiments/speed/bench_gpu.py [--rows 128 1024]`.

T-maze of length 10, PPO with the default options except for the number of rows. A step counts when it has been collected and
learned from. Prints one JSON line per cell: wall seconds are medians over updates after a warm-up, with the device idle at both
ends of every measurement.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from pathlib import Path
from typing import Any

import torch

from rmt_rl import config
from rmt_rl.algos.ppo import PPO
from rmt_rl.common import rng
from rmt_rl.common.process import configure_process
from rmt_rl.envs.registry import make_from_config
from rmt_rl.policies.actor_critic import ActorCritic
from rmt_rl.policies.spec import make_spec
from rmt_rl.rollouts.collector import Collector

sys.path.insert(0, str(Path(__file__).parent.parent))
from common import rmt_of_the_paper

POLICIES = {"rmt": rmt_of_the_paper(), "lstm": config.LSTMConfig(), "trxl": config.TrXLConfig()}


def measure(name: str, rows: int, device: str, rounds: int) -> dict[str, Any]:
    """Seconds to collect and to update once, and trained steps per second."""
    task, options = config.TMazeConfig(), config.PPOConfig(num_envs=rows)
    env = make_from_config(task, rows, device)
    torch.manual_seed(0)
    policy = ActorCritic(make_spec(env, task, POLICIES[name])).to(device)
    ppo = PPO(policy, options)
    collector = Collector(env, policy, 0, rng.generator(0, "act", torch.device(device)))

    def settle() -> float:
        if device != "cpu":
            torch.cuda.synchronize()
        return time.perf_counter()

    times: list[tuple[float, float]] = []
    for _ in range(rounds + 1):
        begin = settle()
        rollout, _ = collector.collect(options.rollout)
        middle = settle()
        ppo.update(rollout, 0.0)
        times.append((middle - begin, settle() - middle))
    collect, update = (statistics.median(column) for column in zip(*times[1:], strict=True))
    steps = rows * options.rollout
    return {"collect_s": collect, "update_s": update, "steps_per_s": steps / (collect + update)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", nargs="+", type=int, default=[128, 1_024, 4_096, 16_384])
    parser.add_argument("--policies", nargs="+", default=list(POLICIES), choices=list(POLICIES))
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    configure_process(threads=1)
    for name in arguments.policies:
        for rows in arguments.rows:
            cell = {"policy": name, "rows": rows, "device": arguments.device}
            print(json.dumps({**cell, **measure(name, rows, arguments.device, arguments.rounds)}), flush=True)


if __name__ == "__main__":
    main()
