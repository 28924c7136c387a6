"""Hooks into a training run from Python: `rmt_rl.train(..., callbacks=[...])`."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from rmt_rl.algos.base import Learner
from rmt_rl.common.errors import ConfigError
from rmt_rl.config.commands import TrainConfig
from rmt_rl.config.fields import show
from rmt_rl.policies.actor_critic import ActorCritic
from rmt_rl.rollouts.statistics import Score


@dataclasses.dataclass
class Run:
    """A run in progress, as callbacks see it.

    steps: environment steps so far. row: the numbers of the latest update, as in metrics.jsonl. cpu_s: CPU-seconds of the run
    until the end of that update, those before it was resumed included.
    """

    config: TrainConfig
    folder: Path
    learner: Learner
    steps: int = 0
    row: dict[str, Any] = dataclasses.field(default_factory=dict)
    cpu_s: float = 0.0
    #: Why the run ends early, or None.
    stopped: str | None = None

    @property
    def policy(self) -> ActorCritic:
        return self.learner.policy

    def stop(self, reason: str) -> None:
        """End training after this update. The final evaluation and saving take place as usual."""
        self.stopped = self.stopped or " ".join(str(reason).split()) or "by a callback"


class Callback:
    """Base class with empty hooks. An object with only one or two of these methods works too."""

    def on_update(self, run: Run) -> None:
        """After every update."""

    def on_evaluate(self, run: Run, score: Score) -> None:
        """After every evaluation during training (`evaluate_every`)."""

    def on_end(self, run: Run, result: dict[str, Any]) -> None:
        """After training and the final evaluation. result: what result.json holds."""


def check_callbacks(callbacks: Any) -> Sequence[Any]:
    """The callbacks; raises ConfigError for anything that would never be called, or fail at its first call."""
    if not isinstance(callbacks, Iterable):
        raise ConfigError(f"callbacks={show(callbacks)}: expected a list, such as callbacks=[StopWhenSolved()]")
    found = tuple(callbacks)
    for callback in found:
        hooks = [name for name in vars(Callback) if name.startswith("on_") and hasattr(callback, name)]
        if isinstance(callback, type) or not hooks:
            what = "is a class" if isinstance(callback, type) else "has none of on_update, on_evaluate and on_end"
            raise ConfigError(
                f"callbacks: {show(callback)} {what}; expected an object of a class derived from rmt_rl.Callback"
            )
    return found


def notify(callbacks: Sequence[Any], hook: str, *arguments: Any) -> None:
    """Call a hook of every callback that has it."""
    for callback in callbacks:
        if (method := getattr(callback, hook, None)) is not None:
            method(*arguments)
