"""Cells on a Ray cluster: each in a process that an actor starts, on the machine where Ray has placed the actor.

An actor, not a task, because a cell must be asked to save and to end. Ray Tune is not used: the comparison and Optuna know what
is to run, and a cell that is lost continues from its checkpoint. All machines must see the folder under the same path.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Mapping
from typing import Any

from rmt_rl.common.errors import RunError
from rmt_rl.common.ray_cluster import add_to_path, connect
from rmt_rl.comparison.cell_process import CellProcess
from rmt_rl.comparison.cells import Cell, Matrix
from rmt_rl.config.comparison import RayConfig


class RayCells:
    """Starts cells. job_of: what a `CellProcess` must know of a cell (matrix, cell, scored)."""

    def __init__(self, config: RayConfig, job_of: Callable[[Matrix, Cell, bool], Mapping[str, Any]]) -> None:
        self._ray, self._job_of = connect("executor=ray"), job_of
        wanted = {"CPU": config.cpus, "GPU": config.gpus}
        machines = [node["Resources"] for node in self._ray.nodes() if node["Alive"]]
        if not any(all(has.get(kind, 0) >= n for kind, n in wanted.items()) for has in machines):
            needs = f"ray.cpus={config.cpus:g} ray.gpus={config.gpus:g}"
            print(f"executor=ray: no machine of the cluster has {needs}; cells wait until one joins it", flush=True)
        # a thread waits for the process, another one may be asked to stop it
        self._actor = self._ray.remote(num_cpus=config.cpus, num_gpus=config.gpus, max_concurrency=3)(CellActor)

    def start(self, matrix: Matrix, cell: Cell, scored: bool = True) -> RayCell:
        return RayCell(self._ray, self._actor.remote(sys.path), self._job_of(matrix, cell, scored))


class RayCell:
    """One cell, as `run_cells` sees it."""

    def __init__(self, ray: Any, actor: Any, job: Mapping[str, Any]) -> None:
        self._ray, self._actor, self._ended = ray, actor, False
        self._begun = actor.begin.remote(job)
        self._end = actor.end.remote(self._begun)  # waits for it
        self._status, self._how = 1, ""

    def poll(self) -> int | None:
        """The exit status of the process, 1 where its actor was lost, or None while it waits or runs.

        Raises RunError where the process could not be started, as one on this machine does.
        """
        if not self._ended and self._ready(self._end):
            problem = None
            try:
                problem, self._status, self._how = self._ray.get(self._end)
            except self._ray.exceptions.RayError as error:
                self._how = f"its Ray actor was lost: {' '.join(str(error).split())[-300:]}"
            self._ended = True
            self._ray.kill(self._actor)  # so that its cores are free
            if problem is not None:
                raise RunError(problem)
        return self._status if self._ended else None

    def stop(self) -> None:
        """Ask the process to save a checkpoint and to end; a cell that still waits for a place is given up."""
        if self._ready(self._begun):
            self._actor.stop.remote()
        else:
            self._ray.kill(self._actor)

    def kill(self) -> None:
        self._actor.kill.remote()

    def wait(self) -> None:
        while self.poll() is None:
            time.sleep(0.2)

    def ending(self) -> str:
        """How it ended, in words."""
        return self._how

    def _ready(self, call: Any) -> bool:
        return bool(self._ray.wait([call], timeout=0)[0])


class CellActor:
    """The process of a cell, wherever Ray has placed it; a Ray actor. path: folders in which the command finds modules."""

    def __init__(self, path: list[str]) -> None:
        add_to_path(path)

    def begin(self, job: Mapping[str, Any]) -> str | None:
        """Start the process; why it could not be started, or None."""
        try:
            self._process = CellProcess(job)
        except RunError as error:
            return str(error)
        return None

    def end(self, problem: str | None) -> tuple[str | None, int, str]:
        """Wait for the process; why it was not started, its exit status, and how it ended."""
        if problem is not None:
            return problem, 1, ""
        self._process.wait()
        return None, self._process.process.returncode, self._process.ending()

    def stop(self) -> None:
        self._process.stop()

    def kill(self) -> None:
        self._process.kill()
