"""What the processes of a run after the first one do: collect and learn with their share of the rows, in step with the first."""

from __future__ import annotations

import contextlib
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rmt_rl.common.errors import RunError
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

    def take_part_in_saving() -> None:
        ranks.collect(time.process_time() - began)
        learner.state_dict()

    with _signals_left_to_the_first(), _naming_the_process(ranks, config.algo.training_rows()):
        if built.resumed is None:
            take_part_in_saving()
        goes_on = steps < config.steps
        while goes_on:
            batch = learner.collect(steps / config.steps)
            learner.update(batch, steps / config.steps)
            steps += batch.steps * ranks.count
            if ranks.agree(False):
                take_part_in_saving()
            goes_on = ranks.agree(False)
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
    """Ctrl-C and other signals reach all processes; the first one decides when all of them end or save."""
    left = [signal.SIGINT, signal.SIGTERM, *([signal.SIGUSR1, signal.SIGUSR2] if hasattr(signal, "SIGUSR1") else [])]
    try:
        before = {number: signal.signal(number, signal.SIG_IGN) for number in left}
    except ValueError:  # outside the main thread Python allows no signal handlers
        before = {}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def _naming_the_process(ranks: Ranks, rows: int) -> Iterator[None]:
    """Errors say in which process they are raised, because they count its own rows."""
    try:
        yield
    except RunError as error:
        who = f"process {ranks.number} of {ranks.count}"
        if str(error).startswith(who):
            raise
        raise RunError(f"{who}, whose row 0 is row {ranks.share(rows).start} of all: {error}") from error
