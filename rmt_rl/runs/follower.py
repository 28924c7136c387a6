"""What the processes of a run after the first one do: collect and learn with their share of the rows, in step with the first."""

from __future__ import annotations

import contextlib
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rmt_rl.common.ranks import Ranks
from rmt_rl.config.commands import TrainConfig
from rmt_rl.runs.setup import build_learner


def follow(config: TrainConfig, ranks: Ranks, stack: contextlib.ExitStack) -> dict[str, Any]:
    """Take part in the run until the first process ends it; the fields of a `TrainResult`, without score and metrics."""
    built = build_learner(config, ranks, stack)
    learner, steps, began = built.learner, 0, time.process_time()
    if built.resumed is not None:
        built.resumed.restore(learner)
        steps = built.resumed.steps
    folder = Path(ranks.told(None))
    with _signals_left_to_the_first():
        if built.resumed is None:
            learner.state_dict()  # the first process saves the beginning
        goes_on = steps < config.steps
        while goes_on:
            batch = learner.collect(steps / config.steps)
            learner.update(batch, steps / config.steps)
            steps += batch.steps * ranks.count
            if ranks.agree(False):
                learner.state_dict()  # the first process saves the state of all
            goes_on = ranks.agree(False)
        ranks.collect(time.process_time() - began)
    summary = {"steps": steps, "interrupted": False, "process": ranks.number}
    return {
        "policy": learner.policy.eval(),
        "folder": folder,
        "metrics": {},
        "score": None,
        "best": None,
        "summary": summary,
    }


@contextlib.contextmanager
def _signals_left_to_the_first() -> Iterator[None]:
    """Ctrl-C and SIGTERM reach all processes; the first one decides when all of them end."""
    try:
        before = {number: signal.signal(number, signal.SIG_IGN) for number in (signal.SIGINT, signal.SIGTERM)}
    except ValueError:  # outside the main thread Python allows no signal handlers
        before = {}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
