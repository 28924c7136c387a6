"""What a checkpoint and the checks for NaN cost, compared with the training that they protect.

    python experiments/reliability/bench_reliability.py

The default task and the T-maze with their default options, one thread: CPU-seconds of an iteration (a rollout and an
update), of the checks in it (observations and rewards at every step, the gradient's norm at every minibatch, the
weights once), and of one checkpoint, with its size. Medians. A checkpoint is written every `checkpoint_steps`
(100,000), and its share is of that many steps.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import itertools
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from rmt_rl.common.finite import check_weights, first_nonfinite
from rmt_rl.common.process import configure_process
from rmt_rl.config.cli import parse
from rmt_rl.config.commands import TrainConfig
from rmt_rl.runs.checkpoints import Checkpoints
from rmt_rl.runs.setup import setup_run

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


def iterate(learner: Any) -> None:
    learner.update(learner.collect(0.0), 0.0)


def checkpoint_cost(learner: Any, folder: Path) -> tuple[float, float, int]:
    """CPU-seconds and wall seconds of one checkpoint, and its bytes."""
    checkpoints, numbers = Checkpoints(folder), itertools.count()
    begun = time.monotonic()
    saving = cost(lambda: checkpoints.save(next(numbers), {"learner": learner.state_dict()}, {}), 4)
    wall = (time.monotonic() - begun) / (4 * ROUNDS)
    size = sum(f.stat().st_size for f in (checkpoints.folder / f"step-{checkpoints.steps()[-1]}").iterdir())
    checkpoints.close()
    return saving, wall, size


def describe(name: str, options: list[str], folder: Path, stack: contextlib.ExitStack) -> str:
    """The row of one task."""
    with contextlib.redirect_stdout(io.StringIO()):
        parts = setup_run(parse(options), folder, stack)
    run, env, learner = parts.config, parts.env, parts.learner
    iterate(learner)
    iteration = cost(lambda: iterate(learner), 1)
    obs, reward = learner.collector.obs, torch.zeros(env.num_envs, dtype=torch.float64)  # type: ignore[attr-defined]
    looks = cost(lambda: (first_nonfinite("o", obs), first_nonfinite("r", reward)), 200)
    norm = torch.tensor(1.0)
    norms = cost(lambda: bool(torch.stack([norm, norm]).isfinite().all()), 200)
    weights = cost(lambda: check_weights(learner.policy), 50)
    checks = looks * run.algo.rollout + norms * run.algo.epochs * run.algo.minibatch_count() + weights
    saving, wall, size = checkpoint_cost(learner, folder / "checkpoints-of-this-benchmark")
    between = TrainConfig.checkpoint_steps / (env.num_envs * run.algo.rollout) * iteration
    return (
        f"| {name} | {1e3 * iteration:.0f} | {checks / iteration:.2%} | {1e3 * saving:.0f} | {1e3 * wall:.0f} |"
        f" {size / 1e6:.1f} | {saving / between:.2%} |"
    )


def main() -> None:
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    configure_process(threads=1)
    print("| task | iteration, CPU-ms | checks | checkpoint, CPU-ms | wall ms | MB | of the run |")
    print("|---|---|---|---|---|---|---|")
    for name, options in TASKS.items():
        with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
            print(describe(name, options, Path(folder), stack), flush=True)


if __name__ == "__main__":
    main()
