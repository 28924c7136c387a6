"""A vector environment whose rows live in Ray actors, on this machine or spread over those of a cluster, several in each.

For environments that are slow and foreign: a step of all rows takes as long as the slowest worker, and a few milliseconds more.
"""

from __future__ import annotations

import contextlib
import math
import os
import sys
from collections.abc import Sequence
from typing import Any, Literal, cast

import numpy as np
from gymnasium.vector.utils import CloudpickleWrapper

from rmt_rl.common.errors import RunError
from rmt_rl.common.ray_cluster import add_to_path, connect, cores
from rmt_rl.envs.gym.lockstep import CLOSE, Fault, Lockstep, Row
from rmt_rl.envs.gym.row_server import Answer, Make, RowServer, error_answer


class RayVectorEnv(Lockstep["_Row"]):
    """`rows` environments in actors of `rows_per_worker` each; None = spread evenly over the cluster's cores.

    A worker that dies or hangs takes its other rows with it: they are restarted too. The deadline is for a step of all its rows.
    """

    _hint = " (with env.workers=ray a class is registered itself, or env.id=module:id, not as '__main__:Name')"

    def __init__(
        self,
        make: Make,
        rows: int,
        deadline: float,
        on_fault: Literal["fail", "restart"],
        rows_per_worker: int | None = None,
    ) -> None:
        self._ray, self._make, self._closed = connect("env.workers=ray"), make, False
        self._node = self._ray.get_runtime_context().get_node_id()
        size = rows_per_worker or math.ceil(rows / cores(self._ray))
        # no share of a core: an evaluation starts its own workers, while those of the training wait
        self._actor = self._ray.remote(num_cpus=0, scheduling_strategy="SPREAD")(RowActor)
        self._workers = [_Worker(range(first, min(first + size, rows))) for first in range(0, rows, size)]
        super().__init__([_Row(row, worker) for worker in self._workers for row in worker.rows], deadline, on_fault)

    def _start(self, rows: Sequence[_Row]) -> list[Any]:
        self._require_session()
        calls = {}
        for worker, mine in _by_worker(rows).items():
            if worker.actor is None:
                worker.actor = self._actor.remote(sys.path)
            for row in mine:
                worker.lost.pop(row.number, None)
            calls[worker] = worker.actor.make.remote(self._make, [row.number for row in mine])
        return self._gather(rows, calls, self._start_deadline)

    def _ask(self, requests: list[tuple[str, Any]], rows: Sequence[_Row]) -> list[Any]:
        self._require_session()
        asked = dict(zip(rows, requests, strict=True))
        calls = {}
        for worker, mine in _by_worker(rows).items():
            # rows that were lost when another one was asked learn of it now
            if here := [(row.number, *asked[row]) for row in mine if row.number not in worker.lost]:
                calls[worker] = worker.actor.answer.remote(here)
        return self._gather(rows, calls, self._deadline)

    def _require_session(self) -> None:
        if not self._connected() or self._closed:
            raise RunError("env.workers=ray: the environment was closed, or Ray was shut down; make a new one")

    def _connected(self) -> bool:
        """Whether the cluster is still that in which the actors live."""
        return self._ray.is_initialized() and self._ray.get_runtime_context().get_node_id() == self._node

    def _gather(self, rows: Sequence[_Row], calls: dict[_Worker, Any], deadline: float) -> list[Any]:
        """The answers of rows, or a Fault; a worker that gives none is killed."""
        if calls:
            self._ray.wait([*calls.values()], num_returns=len(calls), timeout=deadline)
        answers: dict[int, Answer] = {}
        for worker, call in calls.items():
            try:
                try:
                    answers |= self._ray.get(call, timeout=0)
                except self._ray.exceptions.RayTaskError:  # an answer that Ray could not send
                    answers |= self._ray.get(worker.actor.sendable.remote(), timeout=deadline)
            except self._ray.exceptions.GetTimeoutError:
                self._lose(worker, f"gave no answer within {deadline:g} s")
            except self._ray.exceptions.RayActorError:
                self._lose(worker, "died")
            except self._ray.exceptions.RayError as error:
                self._lose(worker, f"raised {' '.join(str(error).split())[-300:]}")
        return [row.worker.lost.get(row.number) or self._checked(answers[row.number]) for row in rows]

    def _lose(self, worker: _Worker, how: str) -> None:
        """Kill a worker, and note a Fault for every row of it."""
        rows = worker.rows
        of = "lost its worker, which" if len(rows) == 1 else f"lost its worker (rows {rows[0]} to {rows[-1]}), which"
        worker.lost = {row: Fault(f"{of} {how}") for row in rows}
        self._kill(worker)

    def _end(self, row: _Row) -> None:
        """Nothing to do: a row that raised is made again by its worker, and a worker that was lost has been killed."""

    def render(self) -> tuple[Any, ...]:
        # what comes from Ray's memory cannot be written to
        return tuple(np.array(frame) if isinstance(frame, np.ndarray) else frame for frame in super().render())

    def close(self, **options: Any) -> None:
        if self._connected():  # the end of a cluster has ended all actors
            calls = [worker.actor.close.remote() for worker in self._workers if worker.actor is not None]
            if calls:
                self._ray.wait(calls, num_returns=len(calls), timeout=CLOSE)
        self.kill()
        self._closed = True

    def kill(self) -> None:
        for worker in self._workers:
            self._kill(worker)

    def _kill(self, worker: _Worker) -> None:
        if worker.actor is not None and self._connected():
            self._ray.kill(worker.actor, no_restart=True)
        worker.actor = None


class _Worker:
    """An actor, None before its start and after its end; the numbers of its rows; and those that were lost and not made again."""

    def __init__(self, rows: range) -> None:
        self.rows, self.lost = rows, dict[int, Fault]()
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
        add_to_path(path)
        self._rows, self._latest = dict[int, RowServer](), dict[int, Answer]()

    def make(self, make: Make, rows: list[int]) -> dict[int, Answer]:
        """Make the environments of rows, and drop those that they had; what each row answers."""
        for row in rows:
            if row in self._rows:
                self._close(self._rows.pop(row))
            self._rows[row] = RowServer(make)
        self._latest = {row: self._rows[row].made for row in rows}
        return self._latest

    def answer(self, requests: list[tuple[int, str, Any]]) -> dict[int, Answer]:
        self._latest = {row: self._answer(row, request, argument) for row, request, argument in requests}
        return self._latest

    def _answer(self, row: int, request: str, argument: Any) -> Answer:
        try:
            return self._rows[row].answer(request, argument)
        except BaseException as error:  # such as sys.exit(), which would end the actor and its other rows
            return error_answer(error)

    def sendable(self) -> dict[int, Answer]:
        """The latest answers, with an error in place of those that cannot be sent."""
        for row, answer in self._latest.items():
            try:
                CloudpickleWrapper(cast(Any, answer)).__getstate__()
            except Exception as error:
                self._latest[row] = error_answer(error)
        return self._latest

    def pid(self) -> int:
        return os.getpid()

    def close(self) -> None:
        for row in self._rows.values():
            self._close(row)

    def _close(self, row: RowServer) -> None:
        with contextlib.suppress(Exception):
            row.close()
