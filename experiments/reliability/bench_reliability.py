"""What a checkpoint and the guards cost, beside the training that they protect.

    python experiments/bench_reliability.py

The default task and the T-maze with their usual settings, one thread: CPU-seconds of an iteration (a rollout and an update), of
the guards in it (observations and rewards at every step, the gradient's norm at every minibatch, the weights once), and of one
checkpoint, with its bytes. Medians. A checkpoint is written every `checkpoint_steps` (100,000); its share is of so many steps.
"""

from __future__ import annotations

import math
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from rmt_rl.algos.ppo import Online
from rmt_rl.common.finite import check_weights, first_culprit
from rmt_rl.common.process import prepare
from rmt_rl.config.cli import parse
from rmt_rl.config.commands import TrainConfig
from rmt_rl.runs.checkpoints import Checkpoints
from rmt_rl.train import begin

TASKS = {"minigrid-memory": [], "tmaze": ["env=tmaze", "env.length=50"]}
ROUNDS = 5


def cost(work: Callable[[], Any], times: int) -> float:
    """CPU-seconds of one call, the median of rounds of `times` calls."""
    spent = []
    for _ in range(ROUNDS):
        begun = time.process_time()
        for _ in range(times):
            work()
        spent.append((time.process_time() - begun) / times)
    return statistics.median(spent)


def main() -> None:
    prepare(threads=1)
    print("| task | iteration, CPU-ms | guards | checkpoint, CPU-ms | wall ms | MB | of the run |")
    print("|---|---|---|---|---|---|---|")
    for name, options in TASKS.items():
        run, env, policy, _ = begin(parse(options), torch.device("cpu"))
        online = Online(run, env, policy)
        online.learn(0.0)
        iteration = cost(lambda online=online: online.learn(0.0), 1)
        obs, reward = online.collector.obs, torch.zeros(env.num_envs, dtype=torch.float64)
        looks = cost(lambda obs=obs, reward=reward: (first_culprit("o", obs), first_culprit("r", reward)), 200)
        norm = torch.tensor(1.0)
        norms = cost(lambda norm=norm: math.isfinite(float(norm)), 200)
        weights = cost(lambda policy=policy: check_weights(policy), 50)
        guards = looks * run.algo.rollout + norms * run.algo.epochs * run.algo.minibatches + weights
        with tempfile.TemporaryDirectory() as folder:
            checkpoints = Checkpoints(Path(folder))
            numbers = iter(range(10**6))

            def save(checkpoints=checkpoints, numbers=numbers, online=online) -> None:
                checkpoints.save(next(numbers), {"learner": online.state_dict()}, {})

            begun = time.monotonic()
            saving = cost(save, 4)
            wall = (time.monotonic() - begun) / (4 * ROUNDS)
            size = sum(f.stat().st_size for f in (checkpoints.folder / f"step-{checkpoints.steps()[-1]}").iterdir())
            checkpoints.close()
        between = TrainConfig.checkpoint_steps / (env.num_envs * run.algo.rollout) * iteration
        print(
            f"| {name} | {1e3 * iteration:.0f} | {guards / iteration:.2%} | {1e3 * saving:.0f} | {1e3 * wall:.0f} |"
            f" {size / 1e6:.1f} | {saving / between:.2%} |"
        )


if __name__ == "__main__":
    main()
