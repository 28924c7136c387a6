"""Runs the cells of a comparison, some at a time: each in a process of its own on this machine, or as a job of a cluster."""

from __future__ import annotations

import functools
import os
import signal
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any

from rmt_rl.common.process import require_packages
from rmt_rl.common.ray_cluster import check_address
from rmt_rl.comparison.cell_process import CellProcess, CellRun
from rmt_rl.comparison.cells import Cell, Matrix
from rmt_rl.comparison.jobs import Jobs, check_slurm
from rmt_rl.comparison.ray_cells import RayCells
from rmt_rl.comparison.rows import failed_row
from rmt_rl.comparison.store import append_cell, read_cells, to_dict
from rmt_rl.config.comparison import Cluster, SlurmConfig

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


class Worker(CellProcess):
    """The process of one cell; scored: whether the policies are evaluated on new episodes after training."""

    def __init__(self, folder: Path, matrix: Matrix, cell: Cell, scored: bool = True) -> None:
        super().__init__(job_of(folder, matrix, cell, scored))


def job_of(folder: Path, matrix: Matrix, cell: Cell, scored: bool) -> dict[str, Any]:
    """What a `CellProcess` must know."""
    return {"folder": str(folder.absolute()), "key": cell.key, "matrix": to_dict(matrix), "scored": scored}


def check_cluster(cluster: Cluster) -> None:
    """Raise ConfigError where no cell could be started there; nothing is written."""
    if isinstance(cluster, SlurmConfig):
        check_slurm(cluster)
    elif cluster is not None:
        require_packages("executor=ray", "ray", "ray")
        check_address("executor=ray", os.environ.get("RAY_ADDRESS"))


def starter(folder: Path, cluster: Cluster) -> Callable[..., CellRun]:
    """What starts a cell, (matrix, cell, scored=True)."""
    if cluster is None:
        return functools.partial(Worker, folder)
    if isinstance(cluster, SlurmConfig):
        return Jobs(folder, cluster).start
    return RayCells(cluster, functools.partial(job_of, folder)).start


def run_cells(
    folder: Path,
    matrix: Matrix,
    cells: Sequence[Cell],
    workers: int,
    look: Callable[[Sequence[str], bool], None],
    cluster: Cluster = None,
) -> int | None:
    """Run cells, `workers` at a time, until each has a row; returns the signal that ended it early, or None.

    look: is called with the keys of the running cells, and whether they are being stopped, again and again. cluster: where
    cells are jobs, None = processes on this machine.
    """
    pending, running, deaths = list(cells), dict[str, tuple[Cell, CellRun]](), dict[str, int]()
    with StopSignals() as signals:
        start = starter(folder, cluster)
        try:
            while running or (pending and signals.received is None):
                while pending and len(running) < workers and signals.received is None:
                    cell = pending.pop(0)
                    running[cell.key] = cell, start(matrix, cell)
                look([*running], signals.received is not None)
                time.sleep(INTERVAL if cluster is None else JOB_INTERVAL)
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
