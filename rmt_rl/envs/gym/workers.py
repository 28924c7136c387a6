"""A vector environment with one process per row of a gymnasium environment and a deadline for every answer.

gymnasium's AsyncVectorEnv waits forever for a process that hangs, and reports a dead process as a broken pipe. Here
`Lockstep` names the row, or restarts it. Used by `GymAdapter`, whose translated rows it steps.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Sequence
from multiprocessing.connection import Connection, wait
from multiprocessing.reduction import ForkingPickler
from typing import Any, Literal

from gymnasium.vector.utils import CloudpickleWrapper

from rmt_rl.envs.gym.lockstep import CLOSE, Fault, Lockstep, Row
from rmt_rl.envs.gym.row_server import Answer, Make, RowServer, error_answer

#: Requests of at most so many bytes fit into the empty buffer of a pipe, so that sending them never waits.
FITS_PIPE = 16_384
#: Signals for the training process only, although the whole process group may get them; empty on platforms without signal masks.
PARENT_SIGNALS = (
    {signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2} if hasattr(signal, "pthread_sigmask") else set()
)


class ProcessVectorEnv(Lockstep["_Row"]):
    """`rows` processes in lockstep."""

    _hint = ' (a script needs `if __name__ == "__main__":` around its main code)'

    def __init__(self, make: Make, rows: int, deadline: float, on_fault: Literal["fail", "restart"]) -> None:
        self._make = CloudpickleWrapper(make)
        # never forked from this process: locks that its threads hold at that moment (autograd, HDF5) would never be released
        if "forkserver" in multiprocessing.get_all_start_methods():
            self._context: Any = multiprocessing.get_context("forkserver")
            self._context.set_forkserver_preload(["rmt_rl.envs.gym.adapter"])
        else:
            self._context = multiprocessing.get_context("spawn")
        super().__init__([_Row(row) for row in range(rows)], deadline, on_fault)

    def close(self, **options: Any) -> None:
        """Close the environment of every row, and kill the rows that take longer than CLOSE seconds."""
        try:
            waiting = [row for row in self._rows if row.request_close()]
            end = time.monotonic() + CLOSE
            while waiting and (left := end - time.monotonic()) > 0:
                wait([row.process.sentinel for row in waiting], timeout=left)
                waiting = [row for row in waiting if row.process.is_alive()]
        finally:
            self.kill()

    def kill(self) -> None:
        for row in self._rows:
            row.kill()

    def _end(self, row: _Row) -> None:
        row.kill()

    def _start(self, rows: Sequence[_Row]) -> list[Any]:
        for row in rows:
            self._start_process(row)
        return self._gather(rows, self._start_deadline)

    def _start_process(self, row: _Row) -> None:
        row.pipe, theirs = self._context.Pipe()
        alive, row.alive = self._context.Pipe(duplex=False)
        row.process = self._context.Process(
            target=_work, args=(theirs, alive, self._make), name=f"rmt_rl row {row.number}", daemon=True
        )
        # the first process starts the fork server, which must not end by signals for this process
        blocked = signal.pthread_sigmask(signal.SIG_BLOCK, PARENT_SIGNALS) if PARENT_SIGNALS else None
        try:
            row.process.start()
        finally:
            if blocked is not None:
                signal.pthread_sigmask(signal.SIG_SETMASK, blocked)
            theirs.close()
            alive.close()

    def _ask(self, requests: list[tuple[str, Any]], rows: Sequence[_Row]) -> list[Any]:
        for row, request in zip(rows, requests, strict=True):
            row.send(request)
        return self._gather(rows, self._deadline)

    def _gather(self, rows: Sequence[_Row], deadline: float) -> list[Any]:
        answers: dict[int, Any] = {}
        end = time.monotonic() + deadline

        def kill_late_rows() -> None:
            for row in rows:
                if row.number not in answers:
                    with contextlib.suppress(ValueError):  # closed at the same moment
                        row.end_processes()

        # `recv` would block on a row that stops in the middle of its answer
        watchdog = threading.Timer(deadline + 0.5, kill_late_rows)
        watchdog.daemon = True
        watchdog.start()
        try:
            while waiting := {row.pipe: row for row in rows if row.number not in answers}:
                ready = [
                    pipe for pipe in wait(list(waiting), timeout=max(0.0, end - time.monotonic())) if pipe in waiting
                ]
                for pipe in ready or waiting:
                    row = waiting[pipe]
                    answer = self._answer(row) if ready else None
                    late = not ready or (isinstance(answer, Fault) and time.monotonic() > end)
                    answers[row.number] = Fault(f"gave no answer within {deadline:g} s") if late else answer
        finally:
            watchdog.cancel()
        return [answers[row.number] for row in rows]

    def _answer(self, row: _Row) -> Any:
        try:
            return self._checked(row.pipe.recv())
        except (EOFError, OSError):
            return Fault(row.exit_text())


class _Row(Row):
    """The process of a row."""

    pipe: Connection
    alive: Connection
    process: multiprocessing.process.BaseProcess

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self._sender: threading.Thread | None = None

    def send(self, request: Any) -> None:
        """Send without waiting for the process; `_answer` reports a dead one."""

        def write() -> None:
            with contextlib.suppress(OSError):
                self.pipe.send_bytes(data)

        data = ForkingPickler.dumps(request)
        if len(data) <= FITS_PIPE:
            return write()
        # a process that does not read would block us here, before its deadline begins
        self._sender = threading.Thread(target=write, daemon=True)
        self._sender.start()

    def request_close(self) -> bool:
        """Ask the process to close its environment and to end; returns False where there is none that reads requests."""
        if not hasattr(self, "process") or self.process.pid is None:
            return False
        if self._sender is not None and self._sender.is_alive():
            return False
        self.send(("close", None))
        return True

    def end_processes(self) -> None:
        """Kill the process and those that its environment started: they are in its process group."""
        pid = self.process.pid
        if hasattr(os, "killpg") and pid is not None:
            with contextlib.suppress(
                ProcessLookupError, PermissionError
            ):  # it has not made its group yet, or all have ended
                os.killpg(pid, signal.SIGKILL)
        self.process.kill()  # SIGTERM may be blocked, and does not end a stopped process

    def exit_text(self) -> str:
        """How the process ended."""
        self.process.join(1)
        code = self.process.exitcode
        if code is None:
            return "closed its pipe"
        if code >= 0:
            return f"exited with code {code}"
        named = {number.value: number.name for number in signal.Signals}
        return f"was killed by {named.get(-code, f'signal {-code}')}"

    def kill(self) -> None:
        """End the process, in whatever state it is, and close its pipes."""
        if hasattr(self, "process") and self.process.pid is not None:
            self.end_processes()
            self.process.join()
            if self._sender is not None:
                self._sender.join()
            self.process.close()
            self.pipe.close()
            self.alive.close()
            del self.process


def _work(pipe: Connection, alive: Connection, make: Make) -> None:
    """The main loop of the process of a row, until it is asked to close or killed, or its parent ends.

    alive: a pipe that never carries data; it closes when the parent ends.
    """
    # a daemon, so that the parent ends it at its exit, but one whose environment may start processes, which end with its group
    multiprocessing.current_process().daemon = False
    if hasattr(os, "setpgid"):
        os.setpgid(0, 0)
    for number in PARENT_SIGNALS:  # the whole group gets them; the parent saves and then kills this process
        signal.signal(number, lambda *_: None)  # not SIG_IGN, which child processes of the environment would inherit
    if PARENT_SIGNALS:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, PARENT_SIGNALS)
    threading.Thread(target=_exit_with_parent, args=(alive,), daemon=True).start()
    row = RowServer(make)
    answer = row.made
    try:
        while _sent(pipe, answer):
            request, argument = pipe.recv()
            if request == "close":
                return row.close()
            answer = row.answer(request, argument)
    except (EOFError, OSError):  # the parent has ended
        return


def _sent(pipe: Connection, answer: Answer) -> bool:
    """Send an answer, or the error that prevents it; True where the row can go on."""
    try:
        pipe.send(answer)
    except OSError:
        raise
    except Exception as error:  # something of the environment that cannot be pickled
        answer = error_answer(error)
        pipe.send(answer)
    return answer[0] != "error"


def _exit_with_parent(alive: Connection) -> None:
    alive.poll(None)
    if hasattr(os, "killpg"):
        os.killpg(0, signal.SIGKILL)  # with the processes that the environment started
    os._exit(0)  # at once, even in the middle of a step
