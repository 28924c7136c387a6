"""A vector environment whose rows live in Ray actors, on this machine or spread over those of a cluster, several in each.

For environments that are slow and foreign: a step of all rows takes as long as the slowest worker, and about a millisecond more.
"""

from __future__ import annotations

import contextlib
import math
import os
import sys
from collections.abc import Sequence
from typing import Any, Literal

from rmt_rl.common.ray_cluster import connect, cores
from rmt_rl.envs.gym.lockstep import CLOSE, Fault, Lockstep, Row
from rmt_rl.envs.gym.row_server import Answer, Make, RowServer


class RayVectorEnv(Lockstep["_Row"]):
    """`rows` environments in actors of `rows_per_worker` each; None = spread evenly over the cluster's cores.

    A worker that dies or hangs takes its other rows with it: they are restarted too. The deadline is for a step of all its rows.
    """

    def __init__(
        self,
        make: Make,
        rows: int,
        deadline: float,
        on_fault: Literal["fail", "restart"],
        rows_per_worker: int | None = None,
    ) -> None:
        self._ray, self._make = connect("env.workers=ray"), make
        size = rows_per_worker or math.ceil(rows / cores(self._ray))
        # no share of a core: an evaluation starts its own workers, while those of the training wait
        self._actor = self._ray.remote(num_cpus=0, scheduling_strategy="SPREAD")(RowActor)
        self._workers = [_Worker(range(first, min(first + size, rows))) for first in range(0, rows, size)]
        super().__init__([_Row(row, worker) for worker in self._workers for row in worker.rows], deadline, on_fault)

    def _start(self, rows: Sequence[_Row]) -> list[Any]:
        calls = {}
        for worker, mine in _by_worker(rows).items():
            if worker.actor is None:
                worker.actor = self._actor.remote(sys.path)
            calls[worker] = worker.actor.make.remote(self._make, [row.number for row in mine])
        return self._gather(rows, calls, self._start_deadline)

    def _ask(self, requests: list[tuple[str, Any]], rows: Sequence[_Row]) -> list[Any]:
        asked = dict(zip(rows, requests, strict=True))
        calls = {
            worker: worker.actor.answer.remote([(row.number, *asked[row]) for row in mine])
            for worker, mine in _by_worker(rows).items()
        }
        return self._gather(rows, calls, self._deadline)

    def _gather(self, rows: Sequence[_Row], calls: dict[_Worker, Any], deadline: float) -> list[Any]:
        """The answers of rows, or a Fault; a worker that gives none is killed."""
        self._ray.wait([*calls.values()], num_returns=len(calls), timeout=deadline)
        answers: dict[int, Any] = {}
        for worker, call in calls.items():
            try:
                answers |= self._ray.get(call, timeout=0)
            except self._ray.exceptions.GetTimeoutError:
                self._lose(worker, answers, f"gave no answer within {deadline:g} s")
            except self._ray.exceptions.RayActorError:
                self._lose(worker, answers, "died")
            except self._ray.exceptions.RayError as error:
                self._lose(worker, answers, f"raised {' '.join(str(error).split())[-300:]}")
        return [self._checked_or_fault(answers[row.number]) for row in rows]

    def _checked_or_fault(self, answer: Answer | Fault) -> Any:
        return answer if isinstance(answer, Fault) else self._checked(answer)

    def _lose(self, worker: _Worker, answers: dict[int, Any], how: str) -> None:
        """Give every row of a worker a Fault, and kill the worker."""
        rows = worker.rows
        of = "lost its worker, which" if len(rows) == 1 else f"lost its worker (rows {rows[0]} to {rows[-1]}), which"
        answers |= {row: Fault(f"{of} {how}") for row in rows}
        self._kill(worker)

    def _end(self, row: _Row) -> None:
        """Nothing to do: a row that raised is made again by its worker, and a worker that was lost has been killed."""

    def close(self, **options: Any) -> None:
        if self._ray.is_initialized():  # its shutdown has ended all actors
            calls = [worker.actor.close.remote() for worker in self._workers if worker.actor is not None]
            if calls:
                self._ray.wait(calls, num_returns=len(calls), timeout=CLOSE)
        self.kill()

    def kill(self) -> None:
        for worker in self._workers:
            self._kill(worker)

    def _kill(self, worker: _Worker) -> None:
        if worker.actor is not None and self._ray.is_initialized():
            self._ray.kill(worker.actor, no_restart=True)
        worker.actor = None


class _Worker:
    """An actor, None before its start and after its end, and the numbers of its rows."""

    def __init__(self, rows: range) -> None:
        self.rows = rows
        self.actor: Any = None


class _Row(Row):
    def __init__(self, number: int, worker: _Worker) -> None:
        super().__init__(number)
        self.worker = worker


def _by_worker(rows: Sequence[_Row]) -> dict[_Worker, list[_Row]]:
    found: dict[_Worker, list[_Row]] = {}
    for row in rows:
        found.setdefault(row.worker, []).append(row)
    return found


class RowActor:
    """The environments of some rows, in a process of their own; a Ray actor. path: folders in which the run finds modules."""

    def __init__(self, path: list[str]) -> None:
        sys.path += [folder for folder in path if folder not in sys.path]
        self._rows = dict[int, RowServer]()

    def make(self, make: Make, rows: list[int]) -> dict[int, Answer]:
        """Make the environments of rows, and drop those that they had; what each row answers."""
        for row in rows:
            if row in self._rows:
                self._close(self._rows.pop(row))
            self._rows[row] = RowServer(make)
        return {row: self._rows[row].made for row in rows}

    def answer(self, requests: list[tuple[int, str, Any]]) -> dict[int, Answer]:
        return {row: self._rows[row].answer(request, argument) for row, request, argument in requests}

    def pid(self) -> int:
        return os.getpid()

    def close(self) -> None:
        for row in self._rows.values():
            self._close(row)

    def _close(self, row: RowServer) -> None:
        with contextlib.suppress(Exception):
            row.close()
