"""What a person sees while a run goes on, and the files that remember it: metrics.jsonl, TensorBoard, Weights & Biases."""

from __future__ import annotations

import json
import math
import os
import sys
import time
from pathlib import Path
from typing import Any

from rmt_rl.config import ConfigError, RunError

#: Seconds between two plain lines where the output is not a terminal.
PLAIN_INTERVAL = 5.0


class Metrics:
    """Appends one row of numbers an update to metrics.jsonl, and to TensorBoard and wandb where they are asked for."""

    def __init__(self, folder: Path, config: dict[str, Any], begun: int = 0, length: int | None = None) -> None:
        """begun: steps of a run that is resumed, and `length` the bytes of its metrics.jsonl then; what came later is cut off."""
        if length is not None:
            os.truncate(folder / "metrics.jsonl", length)
        self._file = (folder / "metrics.jsonl").open("ab", buffering=0)  # so that nothing waits for a disk that is full
        self._tensorboard = _tensorboard(folder, None if length is None else begun) if config["tensorboard"] else None
        self._wandb = _wandb(folder, config) if config["wandb"] else None

    def write(self, steps: int, row: dict[str, float | None]) -> None:
        numbers = {key: value for key, value in row.items() if value is not None and math.isfinite(value)}
        line = json.dumps({"steps": steps, **{key: numbers.get(key) for key in row}}) + "\n"
        try:
            self._file.write(line.encode())
        except OSError as error:
            raise RunError(
                f"{self._file.name}: cannot be written: {error.strerror}; make room, then resume the run"
            ) from error
        if self._tensorboard is not None:
            for key, value in numbers.items():
                self._tensorboard.add_scalar(key, value, steps)
        if self._wandb is not None:
            self._wandb.log(numbers, step=steps)

    def length(self) -> int:
        """Bytes of metrics.jsonl, all of them on the disk."""
        os.fsync(self._file.fileno())
        return os.fstat(self._file.fileno()).st_size

    def close(self) -> None:
        self._file.close()
        if self._tensorboard is not None:
            self._tensorboard.close()
        if self._wandb is not None:
            self._wandb.finish()


def check_loggers(tensorboard: bool, wandb: bool) -> None:
    """Raise ConfigError where a logger is asked for whose package is missing, before a run begins."""
    import importlib.util

    for wanted, package in ((tensorboard, "tensorboard"), (wandb, "wandb")):
        if wanted and importlib.util.find_spec(package) is None:
            raise ConfigError(f"{package}=true: the package is not installed; pip install 'rmt_rl[{package}]'")


def _tensorboard(folder: Path, begun: int | None) -> Any:
    from torch.utils.tensorboard import SummaryWriter

    # what a resumed run had shown after its checkpoint is shown no more
    return SummaryWriter(str(folder / "tensorboard"), purge_step=None if begun is None else begun + 1)


def _wandb(folder: Path, config: dict[str, Any]) -> Any:
    import wandb

    return wandb.init(project="rmt_rl", name=folder.name, dir=str(folder), config=config)


class Progress:
    """One live bar on a terminal, plain lines elsewhere: steps, steps per second, how it goes, time left."""

    def __init__(self, total: int, begun: int = 0) -> None:
        self.total, self.begun, self.started, self._spoke = total, begun, time.monotonic(), -PLAIN_INTERVAL
        self._bar: Any = None
        if sys.stdout.isatty():
            from rich.progress import BarColumn, TextColumn
            from rich.progress import Progress as RichProgress

            self._bar = RichProgress(BarColumn(bar_width=30), TextColumn("{task.description}"))
            self._task = self._bar.add_task("", total=total)
            self._bar.start()

    def update(self, steps: int, shown: dict[str, float | None]) -> None:
        """Say where the run stands, with the numbers of `shown` that are known."""
        line = self._line(steps, shown)
        if self._bar is not None:
            self._bar.update(self._task, completed=steps, description=line)
        elif time.monotonic() - self.started - self._spoke >= PLAIN_INTERVAL or steps >= self.total:
            self._spoke = time.monotonic() - self.started
            print(line, flush=True)

    def close(self) -> None:
        if self._bar is not None:
            self._bar.stop()
            self._bar = None

    def _line(self, steps: int, shown: dict[str, float | None]) -> str:
        seconds = max(time.monotonic() - self.started, 1e-9)
        made = steps - self.begun
        left = (self.total - steps) * seconds / max(made, 1)
        parts = [f"{steps:>11,}/{self.total:,} steps", f"{made / seconds:>7,.0f} steps/s"]
        parts += [f"{name} {value:.3f}" for name, value in shown.items() if value is not None]
        return "  ".join([*parts, f"{_clock(max(left, 0))} left"])


def _clock(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"
