"""Runs the cells of a comparison, some at a time: each in a process of its own on this machine, or as a job of a cluster."""

from __future__ import annotations

import contextlib
import functools
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any, BinaryIO

from rmt_rl.common.errors import RunError
from rmt_rl.common.files import open_to_append, reason
from rmt_rl.comparison.cells import Cell, Matrix
from rmt_rl.comparison.jobs import Job, Jobs
from rmt_rl.comparison.request import search_path
from rmt_rl.comparison.rows import failed_row
from rmt_rl.comparison.store import append_cell, read_cells, to_dict
from rmt_rl.config.comparison import SlurmConfig

#: A worker that dies without a row is started again so many times.
RESTARTS = 2
#: Seconds between two looks at the workers.
INTERVAL = 0.2
#: Seconds between two looks at jobs, whose files may lie on a slow file system.
JOB_INTERVAL = 1.0


def check_devices(cells: Sequence[Cell]) -> None:
    """Raise ConfigError for a device that this machine does not have, before every cell fails for it."""
    for name in {cell.config.device for cell in cells} - {"auto", "cpu"}:
        from rmt_rl.common.device import choose_device  # imports torch, which the other cells do not need here

        choose_device(name)


class StopSignals:
    """Ctrl-C and SIGTERM: the first one asks for a stop, the second one ends the workers at once."""

    def __init__(self) -> None:
        self.received: int | None = None
        self.twice = False
        self._before: dict[int, Any] = {}

    def __enter__(self) -> StopSignals:
        if threading.current_thread() is threading.main_thread():
            self._before = {s: signal.signal(s, self._handle) for s in (signal.SIGINT, signal.SIGTERM)}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        self.twice = self.received is not None
        self.received = number


class Worker:
    """The process of one cell. Its output goes to logs/<key>.log.

    scored: whether the policies are evaluated on new episodes after training.
    """

    def __init__(self, folder: Path, matrix: Matrix, cell: Cell, scored: bool = True) -> None:
        job = {"folder": str(folder), "key": cell.key, "matrix": to_dict(matrix), "scored": scored}
        log = _open_log(folder / "logs" / f"{cell.key}.log")
        with log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "rmt_rl.comparison.worker"],
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=subprocess.STDOUT,
                env={**os.environ, "PYTHONPATH": search_path(), "PYTHONUNBUFFERED": "1"},
                start_new_session=True,  # Ctrl-C in a terminal reaches the parent alone, which stops the workers
            )
        assert self.process.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # it died at its start, which `run_cells` notices
            self.process.stdin.write((json.dumps(job) + "\n").encode())
            self.process.stdin.flush()

    def stop(self) -> None:
        """Ask the process to save a checkpoint and to end."""
        assert self.process.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # it has ended already
            self.process.stdin.close()

    def kill(self) -> None:
        self.process.kill()

    def poll(self) -> int | None:
        """The exit status, or None while it runs."""
        return self.process.poll()

    def wait(self) -> None:
        self.process.wait()

    def ending(self) -> str:
        """How the process ended, in words."""
        status = self.process.returncode
        if status >= 0:
            return f"its process ended with status {status}"
        return f"its process was ended by signal {-status} ({_signal_name(-status)})"


def _open_log(path: Path) -> BinaryIO:
    try:
        return open_to_append(path)
    except OSError as error:
        raise RunError(f"{path}: cannot be written: {reason(error)}") from error


def run_cells(
    folder: Path,
    matrix: Matrix,
    cells: Sequence[Cell],
    workers: int,
    look: Callable[[Sequence[str], bool], None],
    slurm: SlurmConfig | None = None,
) -> int | None:
    """Run cells, `workers` at a time, until each has a row; returns the signal that ended it early, or None.

    look: is called with the keys of the running cells, and whether they are being stopped, again and again. slurm: the jobs that
    cells are, None = processes on this machine.
    """
    start: Callable[[Cell], Worker | Job] = functools.partial(Worker, folder, matrix)
    if slurm is not None:
        start = functools.partial(Jobs(folder, slurm).start, matrix)
    pending, running, deaths = list(cells), dict[str, tuple[Cell, Worker | Job]](), dict[str, int]()
    with StopSignals() as signals:
        try:
            while running or (pending and signals.received is None):
                while pending and len(running) < workers and signals.received is None:
                    cell = pending.pop(0)
                    running[cell.key] = cell, start(cell)
                look([*running], signals.received is not None)
                time.sleep(INTERVAL if slurm is None else JOB_INTERVAL)
                if signals.received is not None:
                    for _, worker in running.values():
                        worker.kill() if signals.twice else worker.stop()
                for key, (cell, worker) in list(running.items()):
                    if worker.poll() is None:
                        continue
                    worker.stop()
                    del running[key]
                    if signals.received is None and not _has_row(folder, key):
                        deaths[key] = deaths.get(key, 0) + 1
                        pending[:0] = [cell] if deaths[key] <= RESTARTS else []
                        _report_death(folder, matrix, cell, worker.ending(), deaths[key])
            look([], signals.received is not None)
        finally:
            for _, worker in running.values():  # an error here must not leave workers behind
                worker.stop()
            for _, worker in running.values():
                worker.wait()
    return signals.received


def _has_row(folder: Path, key: str) -> bool:
    return any(row["key"] == key for row in read_cells(folder))


def _report_death(folder: Path, matrix: Matrix, cell: Cell, how: str, times: int) -> None:
    """Say that a worker died, or write the row of its cell where it died too often."""
    if times <= RESTARTS:
        print(f"{cell.key}: {how}; it continues from its checkpoint in a new one", flush=True)
        return
    hint = "; was the memory full? use fewer workers" if "(SIGKILL)" in how else ""
    text = f"{how}, {times} times{hint}; logs/{cell.key}.log has its output"
    append_cell(folder, failed_row(matrix, cell, text))


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return "unknown"
