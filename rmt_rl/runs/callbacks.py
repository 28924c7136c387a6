"""Hooks into a training run from Python: `rmt_rl.train(..., callbacks=[...])`."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rmt_rl.algos.base import Learner
from rmt_rl.config.commands import TrainConfig
from rmt_rl.policies.actor_critic import ActorCritic
from rmt_rl.rollouts.statistics import Score


@dataclasses.dataclass
class Run:
    """A run in progress, as callbacks see it.

    steps: environment steps so far. row: the numbers of the latest update, as in metrics.jsonl.
    """

    config: TrainConfig
    folder: Path
    learner: Learner
    steps: int = 0
    row: dict[str, Any] = dataclasses.field(default_factory=dict)
    #: Why the run ends early, or None.
    stopped: str | None = None

    @property
    def policy(self) -> ActorCritic:
        return self.learner.policy

    def stop(self, reason: str) -> None:
        """End training after this update. The final evaluation and saving take place as usual."""
        self.stopped = self.stopped or reason


class Callback:
    """Base class with empty hooks. An object with only some of these methods works too."""

    def on_update(self, run: Run) -> None:
        """After every update."""

    def on_evaluate(self, run: Run, score: Score) -> None:
        """After every evaluation during training (`evaluate_every`)."""

    def on_end(self, run: Run, result: dict[str, Any]) -> None:
        """After training and the final evaluation. result: what result.json holds."""


def notify(callbacks: Sequence[Any], hook: str, *arguments: Any) -> None:
    """Call a hook of every callback that has it."""
    for callback in callbacks:
        if (method := getattr(callback, hook, None)) is not None:
            method(*arguments)
