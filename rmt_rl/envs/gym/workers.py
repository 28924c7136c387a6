"""A vector environment with one process per row of a gymnasium environment and a deadline for every answer.

gymnasium's AsyncVectorEnv waits forever for a process that hangs, and reports a dead process as a broken pipe. Here the error
names row, step, seed and last action, and a row can be restarted while the other rows continue bit for bit. Used by
`GymAdapter`, whose translated rows it steps.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import threading
import time
import traceback
from collections.abc import Callable
from multiprocessing.connection import Connection, wait
from multiprocessing.reduction import ForkingPickler
from typing import Any, Literal

import gymnasium
import numpy as np
from gymnasium.vector.utils import CloudpickleWrapper, batch_space, concatenate, create_empty_array

from rmt_rl.common.errors import ConfigError, RunError
from rmt_rl.common.rng import counter_seed
from rmt_rl.envs.gym.reports import batched
from rmt_rl.envs.observations import whole_number_ends

#: Number of restarts of a row without a step in between, after which the environment fails.
RESTARTS = 5
#: Least seconds for a process to start and to make its environment; the first process also imports torch for all others.
START = 120.0
#: Seconds in which all rows together may close their environments; then they are killed.
CLOSE = 5.0
#: Requests of at most so many bytes fit into the empty buffer of a pipe, so that sending them never waits.
FITS_PIPE = 16_384
#: Signals for the training process only, although the whole process group may get them; empty on platforms without signal masks.
PARENT_SIGNALS = (
    {signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2} if hasattr(signal, "pthread_sigmask") else set()
)


class EnvironmentFault(RunError):
    """The process of a row died, hung, or returned an observation outside its space."""


class CannotBeMade(Exception):
    """The constructor of an environment raised; the arguments are what `describe` says."""


class ProcessVectorEnv:
    """`rows` processes in lockstep with SAME_STEP autoreset: the part of `gymnasium.vector.VectorEnv` that `GymAdapter` needs.

    deadline: seconds for a step or a reset of a row; at least START seconds for the start of its process.
    on_fault: fail = raise EnvironmentFault; restart = truncate the row's episode, with its latest observation and reward 0, and
        start a new process and episode, with a seed derived from the row's seed and the number of restarts.
    """

    def __init__(
        self,
        make: Callable[[], gymnasium.Env[Any, Any]],
        rows: int,
        deadline: float,
        on_fault: Literal["fail", "restart"],
    ) -> None:
        self._make, self._deadline, self._on_fault = CloudpickleWrapper(make), deadline, on_fault
        self._start_deadline = max(START, deadline)
        # never forked from this process: locks that its threads hold at that moment (autograd, HDF5) would never be released
        if "forkserver" in multiprocessing.get_all_start_methods():
            self._context: Any = multiprocessing.get_context("forkserver")
            self._context.set_forkserver_preload(["rmt_rl.envs.gym.adapter"])
        else:
            self._context = multiprocessing.get_context("spawn")
        self._rows = [_Row(row) for row in range(rows)]
        try:
            for row in self._rows:
                self._start(row)
            answers = self._gather(self._rows, self._start_deadline)
            for row, answer in zip(self._rows, answers, strict=True):
                if isinstance(answer, _Fault):
                    self._fail_to_make(row, answer)
        except BaseException:
            self.kill()  # nothing to close yet
            raise
        self.single_observation_space, self.single_action_space, self.render_mode, attributes = answers[0]
        self.own, self.has_time_limit = attributes
        self.observation_space = batch_space(self.single_observation_space, rows)

    def reset(self, *, seed: list[int | None] | None, options: dict[str, Any] | None) -> tuple[Any, dict[str, Any]]:
        """Start new episodes, in the rows of options["reset_mask"] only where it is given; the others go on."""
        seeds = seed or [None] * len(self._rows)
        mask = None if options is None else options.pop("reset_mask", None)
        chosen = [i for i in range(len(self._rows)) if mask is None or mask[i]]
        rows = [self._rows[i] for i in chosen]
        for i, row in zip(chosen, rows, strict=True):
            row.seed = seeds[i] if seeds[i] is not None else row.seed
            row.action, row.steps = None, 0
        answers = self._ask([("reset", (seeds[i], options)) for i in chosen], rows)
        for row, answer in zip(rows, answers, strict=True):
            row.last = answer if not isinstance(answer, _Fault) else self._restart(row, answer)
        return self._batch(), {}

    def step(self, action_B: np.ndarray) -> tuple[Any, np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]:
        for row, action in zip(self._rows, action_B, strict=True):
            row.action, row.steps = action, row.steps + 1
        answers = self._ask([("step", action) for action in action_B])
        rewards, flags = np.zeros(len(answers)), np.zeros((2, len(answers)), dtype=bool)
        final_obs: list[Any] = [None] * len(answers)
        reports: dict[int, dict[str, Any]] = {}
        for i, (row, answer) in enumerate(zip(self._rows, answers, strict=True)):
            if isinstance(answer, _Fault):
                final_obs[i], flags[:, i] = row.last, (False, True)
                row.last = self._restart(row, answer)
                continue
            row.last, rewards[i], terminated, truncated, final = answer
            row.restarts = 0
            flags[:, i] = terminated, truncated
            if final is not None:
                final_obs[i], reports[i] = final
        info = {"final_obs": final_obs, "final_info": batched(reports, len(answers))}
        return self._batch(), rewards, flags[0], flags[1], info

    @property
    def np_random_seed(self) -> tuple[int, ...]:
        """The seeds of the rows; -1 = it was never given one."""
        return tuple(-1 if row.seed is None else row.seed for row in self._rows)

    def get_attr(self, name: str) -> tuple[Any, ...]:
        return (getattr(self, name),)

    def render(self) -> tuple[Any, ...]:
        answers = self._ask([("render", None)] * len(self._rows))
        for row, answer in zip(self._rows, answers, strict=True):
            if isinstance(answer, _Fault):
                self._fail(row, answer)
        return tuple(answers)

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

    def _batch(self) -> Any:
        out: Any = create_empty_array(self.single_observation_space, n=len(self._rows))
        return concatenate(self.single_observation_space, [row.last for row in self._rows], out)

    def _start(self, row: _Row) -> None:
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

    def _ask(self, requests: list[tuple[str, Any]], rows: list[_Row] | None = None) -> list[Any]:
        """The answers of the rows (None = all); a _Fault for a row that does not answer in time."""
        rows = self._rows if rows is None else rows
        for row, request in zip(rows, requests, strict=True):
            row.asked = True
            row.send(request)
        return self._gather(rows, self._deadline)

    def _gather(self, rows: list[_Row], deadline: float) -> list[Any]:
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
                    late = not ready or (isinstance(answer, _Fault) and time.monotonic() > end)
                    answers[row.number] = _Fault(f"gave no answer within {deadline:g} s") if late else answer
        finally:
            watchdog.cancel()
        return [answers[row.number] for row in rows]

    def _answer(self, row: _Row) -> Any:
        try:
            kind, answer = row.pipe.recv()
        except (EOFError, OSError):
            return _Fault(row.exit_text())
        if kind == "error":
            return _Fault(*answer)
        observations = [answer] if kind == "reset" else []
        if kind == "step":
            observations = [answer[0]] if answer[4] is None else [answer[0], answer[4][0]]
        wrong = [text for obs in observations if (text := observation_error(obs, self.single_observation_space))]
        return _Fault(wrong[0]) if wrong else answer

    def _restart(self, row: _Row, fault: _Fault) -> Any:
        """The first observation of the row's new process; raises EnvironmentFault with on_fault=fail or after RESTARTS."""
        while True:
            row.restarts += 1
            if self._on_fault == "fail" or row.restarts > RESTARTS:
                self._fail(row, fault)
            row.kill()
            self._start(row)
            row.seed = None if row.seed is None else counter_seed(row.seed, row.restarts)
            row.action, row.steps = None, 0
            (answer,) = self._gather([row], self._start_deadline)
            if not isinstance(answer, _Fault):
                (answer,) = self._ask([("reset", (row.seed, None))], [row])
            if not isinstance(answer, _Fault):
                return answer
            fault = answer

    def _fail_to_make(self, row: _Row, fault: _Fault) -> None:
        """Raise the error of an environment that cannot be made; for wrong options it is not an EnvironmentFault."""
        if fault.kind == "ConfigError":
            raise ConfigError(fault.text)
        if fault.kind in ("AssertionError", "KeyError", "TypeError", "ValueError"):
            raise CannotBeMade(fault.kind, fault.text)
        self._fail(row, fault)

    def _fail(self, row: _Row, fault: _Fault) -> None:
        again = f", {row.restarts} times in a row" if row.restarts > 1 else ""
        where = f"at reset with seed {row.seed}"
        if row.steps:
            where = f"at step {row.steps} after reset with seed {row.seed}, last action {row.action}"
        elif not row.asked:
            where = 'when the environment was made (a script needs `if __name__ == "__main__":` around its main code)'
        row.kill()  # one that hangs would make the others wait
        self.close()
        raise EnvironmentFault(f"row {row.number} {fault.what} {where}{again}")


class _Fault:
    """what: the fault in words. kind, text: class and message of an error that the environment raised."""

    def __init__(self, what: str, kind: str = "", text: str = "") -> None:
        self.what, self.kind, self.text = what, kind, text


class _Row:
    """The process of a row. steps: since its last reset. last: its latest observation."""

    pipe: Connection
    alive: Connection
    process: multiprocessing.process.BaseProcess

    def __init__(self, number: int) -> None:
        self.number, self.steps, self.restarts, self.asked = number, 0, 0, False
        self.seed: int | None = None
        self.action: Any = None
        self.last: Any = None
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


def observation_error(obs: Any, space: gymnasium.Space[Any]) -> str | None:
    """What is wrong with an observation of `space`, or None."""
    if isinstance(space, gymnasium.spaces.Dict):
        if not isinstance(obs, dict) or set(obs) != set(space):
            return f"returned an observation with other keys than {sorted(space)}"
        return next((text for key in space if (text := observation_error(obs[key], space[key]))), None)
    shape, dtype = getattr(obs, "shape", None), getattr(obs, "dtype", None)
    if (shape, dtype) != (space.shape, space.dtype):
        return (
            f"returned an observation of shape {shape} and dtype {dtype}; its space has {space.shape} and {space.dtype}"
        )
    ends = whole_number_ends(space)
    if ends is not None and (bad := (obs < ends[0]) | (obs > ends[1])).any():
        return f"returned an observation outside {' '.join(str(space).split())}: {obs[bad].flat[0]}"
    return None


def _work(pipe: Connection, alive: Connection, make: Callable[[], gymnasium.Env[Any, Any]]) -> None:
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
    try:
        env = make()
        spaces = env.observation_space, env.action_space
        attributes = [env.get_wrapper_attr(name) for name in ("own", "has_time_limit")]
        pipe.send(("made", (*spaces, env.render_mode, attributes)))
    except Exception as error:
        return _send_error(pipe, error)
    while True:
        try:
            request, argument = pipe.recv()
        except (EOFError, OSError):
            return None
        answer: Any
        try:
            if request == "step":
                obs, reward, terminated, truncated, info = env.step(argument)
                final = None
                if terminated or truncated:
                    final, obs = (obs, info), env.reset()[0]
                answer = obs, float(reward), bool(terminated), bool(truncated), final
            elif request == "close":
                return env.close()  # its wrapper prints a warning where it raises
            elif request == "reset":
                answer = env.reset(seed=argument[0], options=argument[1])[0]
            else:
                answer = env.render()
        except Exception as error:
            return _send_error(pipe, error)
        try:
            pipe.send((request, answer))
        except OSError:
            return None


def _send_error(pipe: Connection, error: Exception) -> None:
    if isinstance(error, ConfigError):
        kind, text = "ConfigError", " ".join(str(error).split())[:300]
    else:
        kind, text = describe(error)
    with contextlib.suppress(OSError):  # the parent has ended
        pipe.send(("error", (f"raised {kind}: {text}", kind, text)))


def describe(error: Exception) -> tuple[str, str]:
    """An error of foreign code as its class, and its message with the file and line where it was raised."""
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if not frame.filename.startswith("<")]
    where = f" ({os.path.basename(frames[-1].filename)}:{frames[-1].lineno})" if frames else ""
    return type(error).__name__, " ".join(str(error).split())[:300] + where


def _exit_with_parent(alive: Connection) -> None:
    alive.poll(None)
    if hasattr(os, "killpg"):
        os.killpg(0, signal.SIGKILL)  # with the processes that the environment started
    os._exit(0)  # at once, even in the middle of a step
