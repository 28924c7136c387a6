"""The numbers of a run, on screen and in files: progress bar, metrics.jsonl, TensorBoard, Weights & Biases."""

from __future__ import annotations

import hashlib
import json
import math
import os
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rmt_rl.common.errors import ConfigError, RunError
from rmt_rl.common.files import open_file, open_to_append, read_text, reason, write_file
from rmt_rl.common.output import on_terminal
from rmt_rl.config.fields import show

#: Seconds between two plain lines where the output is not a terminal.
PLAIN_INTERVAL = 5.0
#: Columns of the bar, and of the line beside it, so that both fit into a terminal of 80 columns.
BAR, LINE = 12, 66
#: Bytes of the largest metrics.jsonl that is read.
LARGEST_METRICS = 2**30
#: The file with the id of the run at Weights & Biases, under which a resumed run continues there.
WANDB_ID = "wandb-id.txt"
#: How the names of the groups begin at TensorBoard and Weights & Biases.
GROUPS = ("train/", "eval/", "time/", "memory/", "final/")
#: The name of videos there.
VIDEO = "eval/video"


def grouped(name: str) -> str:
    """The name of a number of metrics.jsonl at TensorBoard and Weights & Biases, which show one section for each group.

    The groups are train/, eval/ (evaluations during training), time/, memory/ and final/ (docs/metrics.md).
    """
    if name.startswith(GROUPS):
        return name
    if name.startswith("eval_"):
        return name.replace("_", "/", 1)
    return f"time/{name}" if name == "wall_s" else f"train/{name}"


class Laps:
    """Seconds of the parts of one update."""

    def __init__(self) -> None:
        self._last, self._seconds = time.perf_counter(), dict[str, float]()

    def lap(self, name: str) -> None:
        """The time since the last call was spent on `name`."""
        now = time.perf_counter()
        self._seconds[name], self._last = now - self._last, now

    def numbers(self, steps: int) -> dict[str, float]:
        """The seconds for the log, and the environment steps per second of collecting and learning from `steps` of them."""
        learning = self._seconds["collect"] + self._seconds["update"]
        return {f"time/{name}_s": x for name, x in self._seconds.items()} | {"time/steps_per_s": steps / learning}


class Metrics:
    """Appends one row of numbers per update to metrics.jsonl, and to TensorBoard and wandb where they are enabled."""

    def __init__(self, folder: Path, config: dict[str, Any], start: int = 0, length: int | None = None) -> None:
        """start: steps of the resumed checkpoint. length: bytes of metrics.jsonl at that checkpoint; later rows are removed."""
        self._wandb = _wandb(folder, config) if config["wandb"] else None
        # unbuffered, so that a full disk raises in `write` and not later
        self._path = folder / "metrics.jsonl"
        self._sum = hashlib.sha256(b"" if length is None else read_start(self._path, length))
        self._file = open_to_append(self._path, length)
        self._config, self._exit_code = config, 1  # failed, until `finish` is called
        self._tensorboard = _tensorboard(folder, None if length is None else start) if config["tensorboard"] else None

    def write(self, steps: int, row: dict[str, float | None], more: Callable[[], dict[str, float]] = dict) -> None:
        """One row, after `steps` environment steps. more: further numbers, for TensorBoard and wandb only."""
        numbers = {key: value for key, value in row.items() if value is not None and math.isfinite(value)}
        line = (json.dumps({"steps": steps, **{key: numbers.get(key) for key in row}}) + "\n").encode()
        try:
            while line:  # without a buffer, a disk that is nearly full takes a part
                written = self._file.write(line)
                self._sum.update(line[:written])
                line = line[written:]
        except OSError as error:
            raise RunError(
                f"{self._path}: cannot be written: {reason(error)}; free space, then resume the run"
            ) from error
        if self._tensorboard is None and self._wandb is None:
            return
        numbers = {grouped(key): value for key, value in {**numbers, **more()}.items()}
        if self._tensorboard is not None:
            for key, value in numbers.items():
                self._tensorboard.add_scalar(key, value, steps)
        if self._wandb is not None:
            self._wandb.log(numbers, step=steps)

    def video(self, steps: int, path: Path, data: bytes) -> None:
        """The video of an episode after `steps` environment steps. path: of the GIF. data: its bytes."""
        if self._tensorboard is not None:
            self._tensorboard.file_writer.add_summary(_gif_summary(VIDEO, data), steps)
        if self._wandb is not None:
            import wandb

            self._wandb.log({VIDEO: wandb.Video(str(path), format="gif")}, step=steps)

    def sync(self) -> None:
        """Force all rows to the disk."""
        os.fsync(self._file.fileno())

    def length(self) -> int:
        """Bytes of metrics.jsonl."""
        return os.fstat(self._file.fileno()).st_size

    def checksum(self) -> str:
        """The sha256 of these bytes."""
        return self._sum.hexdigest()

    def finish(self, result: dict[str, Any]) -> None:
        """Give TensorBoard the options and wandb the final scores of a run that did not fail. result: what result.json holds."""
        self._exit_code = 128 + result["signal"] if result["interrupted"] else 0
        score = result["eval"] or {}
        final = {f"final/{name}": score[name] for name in ("success", "return") if score.get(name) is not None}
        final |= {f"final/metrics/{name}": x for name, x in score.get("metrics", {}).items() if x is not None}
        if self._tensorboard is not None:
            # "." keeps them in the same folder as the curves; the default is a folder of its own
            self._tensorboard.add_hparams(_flat(self._config), final, run_name=".", global_step=result["steps"])
        if self._wandb is not None and final:
            self._wandb.log(final, step=result["steps"])

    def close(self) -> None:
        """Close all files. A run without `finish` is marked as failed at Weights & Biases."""
        self._file.close()
        if self._tensorboard is not None:
            self._tensorboard.close()
        if self._wandb is not None:
            self._wandb.finish(exit_code=self._exit_code)


def read_start(path: Path, length: int) -> bytes:
    """The first `length` bytes of metrics.jsonl; raises ConfigError where it cannot be read or has fewer."""
    try:
        with os.fdopen(open_file(path), "rb") as file:
            data = file.read(min(length, LARGEST_METRICS + 1))
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {reason(error)}") from error
    if len(data) > LARGEST_METRICS:
        raise ConfigError(f"{path}: has more than {LARGEST_METRICS:,} bytes, the most that are read")
    return data


def read_rows(path: Path, data: bytes | None = None) -> list[dict[str, float | None]]:
    """The rows of metrics.jsonl, or of its first bytes `data`; raises ConfigError where one is not what `Metrics` writes."""
    lines = (read_start(path, LARGEST_METRICS + 1) if data is None else data).splitlines()
    rows = []
    for number, line in enumerate(lines, start=1):
        try:
            row = json.loads(line)
            steps = row["steps"]
            good = type(steps) is int and steps >= 0 and all(map(_is_number, row.values()))
        except (KeyError, OverflowError, RecursionError, TypeError, ValueError):
            good = False
        if not good:
            raise ConfigError(
                f"{path}: line {number} is {show(line.decode(errors='replace'))}; expected a dictionary of steps and numbers;"
                " restore the file"
            )
        rows.append(row)
    return rows


def _is_number(value: Any) -> bool:
    return value is None or (type(value) in (int, float) and math.isfinite(float(value)))


def check_loggers(tensorboard: bool, wandb: bool) -> None:
    """Raise ConfigError before a run starts where a requested logger is not installed or cannot log in."""
    import importlib.util

    for wanted, package in ((tensorboard, "tensorboard"), (wandb, "wandb")):
        if wanted and importlib.util.find_spec(package) is None:
            raise ConfigError(f"{package}=true: the package is not installed; pip install 'rmt_rl[{package}]'")
    if wandb:
        _check_login()


def _check_login() -> None:
    """Raise ConfigError where wandb would fail or ask for a key after the run's folder is made."""
    if os.environ.get("WANDB_MODE") in ("offline", "disabled", "dryrun") or os.environ.get("WANDB_API_KEY"):
        return
    import wandb

    api = getattr(wandb, "api", None)  # deprecated in version 0.31; without it, `wandb.init` raises the error
    if api is not None and not api.api_key:
        raise ConfigError(
            "wandb=true: nobody is logged in to Weights & Biases here; type `wandb login`, or set WANDB_MODE=offline"
        )


def _tensorboard(folder: Path, start: int | None) -> Any:
    from torch.utils.tensorboard import SummaryWriter

    # points after the checkpoint are removed
    return SummaryWriter(str(folder / "tensorboard"), purge_step=None if start is None else start + 1)


def _gif_summary(name: str, data: bytes) -> Any:
    """A GIF as an image for TensorBoard, which plays it. (`add_video` encodes frames itself, and needs moviepy for it.)"""
    from tensorboard.compat.proto.summary_pb2 import Summary

    # a GIF begins with six letters, its width and its height
    width, height = (int.from_bytes(data[start : start + 2], "little") for start in (6, 8))
    image = Summary.Image(height=height, width=width, colorspace=3, encoded_image_string=data)  # 3 = red, green, blue
    return Summary(value=[Summary.Value(tag=name, image=image)])


def _wandb(folder: Path, config: dict[str, Any]) -> Any:
    import wandb

    # wandb reads WANDB_ENTITY itself, but what is given here would win over its other variables
    usual = {"WANDB_PROJECT": ("project", "rmt_rl"), "WANDB_NAME": ("name", folder.name)}
    given = dict(value for variable, value in usual.items() if not os.environ.get(variable))
    try:
        return wandb.init(id=_wandb_id(folder), resume="allow", dir=str(folder), config=config, **given)
    except wandb.Error as error:
        raise RunError(
            f"wandb=true: the run could not be started at Weights & Biases: {' '.join(str(error).split())}; correct it (see"
            f" WANDB_PROJECT, WANDB_ENTITY, WANDB_MODE), remove {folder} where it is new, and start again"
        ) from error


def _wandb_id(folder: Path) -> str:
    """The id of the run at Weights & Biases: the one in the run's folder, or a new one, which is written there."""
    path = folder / WANDB_ID
    try:
        if os.path.lexists(path):
            found = read_text(path).strip()
            if not 0 < len(found) <= 128 or not found.isprintable() or set(found) & set("/\\#?%:"):
                raise ConfigError(
                    f"{path}: holds {show(found)}, which is no id of Weights & Biases; restore or remove it"
                )
            return found
        new = os.environ.get("WANDB_RUN_ID") or uuid.uuid4().hex[:8]
        write_file(path, f"{new}\n".encode())
    except (OSError, UnicodeDecodeError) as error:
        found = reason(error) if isinstance(error, OSError) else "is not text"
        raise ConfigError(f"{path}: cannot be read or written: {found}") from error
    return new


def _flat(config: Any, prefix: str = "") -> dict[str, Any]:
    """The options by their full name, such as algo.learning_rate; what TensorBoard has no type for, as text."""
    if not isinstance(config, dict) or not config:
        return {prefix: config if isinstance(config, (bool, int, float, str)) else str(config)}
    return {
        name: value
        for key, part in config.items()
        for name, value in _flat(part, f"{prefix}.{key}" if prefix else str(key)).items()
    }


class Progress:
    """One live bar on a terminal, plain lines elsewhere: steps, steps per second, scores, time left.

    total: steps of the whole run. start: steps before it was resumed.
    """

    def __init__(self, total: int, start: int = 0) -> None:
        self.total, self.start, self.started, self._last_line = total, start, time.monotonic(), -PLAIN_INTERVAL
        self._shown: dict[str, float] = {}
        self._bar: Any = None
        if on_terminal():
            from rich.progress import BarColumn, TextColumn
            from rich.progress import Progress as RichProgress

            self._bar = RichProgress(BarColumn(bar_width=BAR), TextColumn("{task.description}"))
            self._task = self._bar.add_task("", total=total)
            self._bar.start()

    def update(self, steps: int, shown: dict[str, float | None]) -> None:
        """Show the steps so far and the latest known value of each number."""
        self._shown |= {name: value for name, value in shown.items() if value is not None}
        line = self._line(steps)
        if self._bar is not None:
            self._bar.update(self._task, completed=steps, description=line)
        elif time.monotonic() - self.started - self._last_line >= PLAIN_INTERVAL or steps >= self.total:
            self._last_line = time.monotonic() - self.started
            print(line, flush=True)

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """Stop the bar, which shows the terminal's cursor again."""
        if self._bar is not None:
            self._bar.stop()
            self._bar = None

    def _line(self, steps: int) -> str:
        """The line in at most LINE columns; without some numbers where it would be longer."""
        seconds = max(time.monotonic() - self.started, 1e-9)
        done = steps - self.start
        remaining = (self.total - steps) * seconds / max(done, 1)
        speed = f"{short(round(done / seconds))}/s"
        numbers = [f"{name} {_number(value)}" for name, value in self._shown.items()]
        parts = [f"{short(steps)}/{short(self.total)} steps", speed, *numbers, f"{clock(max(remaining, 0))} left"]
        for surplus in [*numbers[1:-1], speed, *numbers[1:][-1:]]:
            if len("  ".join(parts)) > LINE:
                parts.remove(surplus)
        return "  ".join(parts)


def short(steps: int) -> str:
    """1,250,000 as 1.25M."""
    for unit, size in (("B", 10**9), ("M", 10**6), ("k", 10**3)):
        if steps >= size:
            return f"{steps / size:.4g}{unit}"
    return str(steps)


def _number(value: float) -> str:
    return f"{value:.3f}" if abs(value) < 1_000 else f"{value:.4g}"


def clock(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"
