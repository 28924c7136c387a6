"""One process for each row of a gymnasium environment, and no wait without an end.

gymnasium's AsyncVectorEnv waits for ever for a process that hangs, and says of one that died that a pipe broke. Here every answer
has a deadline, the message names row, step, seed and last action, and a row can be started again while the others go on
bit for bit as if nothing had happened. Only for `GymAdapter`, whose translated rows it steps.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable
from multiprocessing.connection import Connection, wait
from typing import Any, Literal

import gymnasium
import numpy as np
from gymnasium.vector.utils import CloudpickleWrapper, batch_space, concatenate, create_empty_array

from rmt_rl.common.errors import ConfigError, RunError
from rmt_rl.common.rng import counter_seed

#: A row that fails so often without a step in between is not started again.
RESTARTS = 5
#: Seconds that a process may take to start and to make its environment: the first one imports torch for all.
START = 120.0
#: Signals that are meant for the training process, also where a whole group gets them; none where there are no masks.
OURS = {signal.SIGINT, signal.SIGTERM, signal.SIGUSR1} if hasattr(signal, "pthread_sigmask") else set()


class EnvironmentFault(RunError):
    """A row's process died, hung, or gave what its spaces do not allow."""


class ProcessVectorEnv:
    """`rows` processes in lockstep with SAME_STEP autoreset; what `GymAdapter` needs of a `gymnasium.vector.VectorEnv`.

    deadline: seconds that a row may take for a step or a reset; its process may take START to start.
    on_fault: fail = raise EnvironmentFault; restart = that row's episode counts as truncated, with the last observation that it
        gave and no reward, and a new process begins another one, with a seed made of the row's and the number of restarts.
    """

    def __init__(
        self,
        make: Callable[[], gymnasium.Env[Any, Any]],
        rows: int,
        deadline: float,
        on_fault: Literal["fail", "restart"],
    ) -> None:
        self._make, self._deadline, self._on_fault = CloudpickleWrapper(make), deadline, on_fault
        # never forked from this process: what its threads hold at that moment (autograd's, HDF5's) would be held for ever
        if "forkserver" in multiprocessing.get_all_start_methods():
            self._context: Any = multiprocessing.get_context("forkserver")
            self._context.set_forkserver_preload(["rmt_rl.envs.gym.adapter"])
        else:
            self._context = multiprocessing.get_context("spawn")
        self._rows = [_Row(row) for row in range(rows)]
        try:
            for row in self._rows:
                self._start(row)
            answers = self._gather(self._rows, START)
            for row, answer in zip(self._rows, answers, strict=True):
                if isinstance(answer, _Fault):
                    self._refuse(row, answer)
        except BaseException:
            self.close()
            raise
        self.single_observation_space, self.single_action_space, self.render_mode, self.left_out = answers[0]
        self.observation_space = batch_space(self.single_observation_space, rows)

    def reset(self, *, seed: int | list[int] | None, options: dict[str, Any] | None) -> tuple[Any, dict[str, Any]]:
        rows = len(self._rows)
        seeds: list[Any] = [seed + i for i in range(rows)] if isinstance(seed, int) else seed or [None] * rows
        for row, own in zip(self._rows, seeds, strict=True):
            row.seed = own if own is not None else row.seed
            row.action, row.steps = None, 0
        answers = self._ask([("reset", (own, options)) for own in seeds])
        for row, answer in zip(self._rows, answers, strict=True):
            row.last = answer if not isinstance(answer, _Fault) else self._begun_again(row, answer)
        return self._batch(), {}

    def step(self, action_B: np.ndarray) -> tuple[Any, np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]:
        for row, action in zip(self._rows, action_B, strict=True):
            row.action, row.steps = action, row.steps + 1
        answers = self._ask([("step", action) for action in action_B])
        rewards, flags = np.zeros(len(answers)), np.zeros((2, len(answers)), dtype=bool)
        final_obs: list[Any] = [None] * len(answers)
        success: dict[int, bool] = {}
        for i, (row, answer) in enumerate(zip(self._rows, answers, strict=True)):
            if isinstance(answer, _Fault):
                final_obs[i], flags[:, i] = row.last, (False, True)
                row.last = self._begun_again(row, answer)
                continue
            row.last, rewards[i], terminated, truncated, final = answer
            row.restarts = 0
            flags[:, i] = terminated, truncated
            if final is not None:
                final_obs[i], told = final
                success |= {i: told["success"]} if "success" in told else {}
        info: dict[str, Any] = {"final_obs": final_obs, "final_info": {}}
        if success:
            info["final_info"]["success"] = np.array([success.get(i, False) for i in range(len(answers))])
        return self._batch(), rewards, flags[0], flags[1], info

    def get_attr(self, name: str) -> tuple[Any, ...]:
        return (getattr(self, name),)

    def render(self) -> tuple[Any, ...]:
        answers = self._ask([("render", None)] * len(self._rows))
        for row, answer in zip(self._rows, answers, strict=True):
            if isinstance(answer, _Fault):
                self._fail(row, answer)
        return tuple(answers)

    def close(self, **options: Any) -> None:
        for row in self._rows:
            row.end()

    def _batch(self) -> Any:
        out: Any = create_empty_array(self.single_observation_space, n=len(self._rows))
        return concatenate(self.single_observation_space, [row.last for row in self._rows], out)

    def _start(self, row: _Row) -> None:
        row.pipe, theirs = self._context.Pipe()
        lives, row.lives = self._context.Pipe(duplex=False)
        row.process = self._context.Process(
            target=_work, args=(theirs, lives, self._make), name=f"rmt_rl row {row.number}", daemon=True
        )
        # the fork server, which the first one starts, is not to end by what is meant for this process
        blocked = signal.pthread_sigmask(signal.SIG_BLOCK, OURS) if OURS else None
        try:
            row.process.start()
        finally:
            if blocked is not None:
                signal.pthread_sigmask(signal.SIG_SETMASK, blocked)
            theirs.close()
            lives.close()

    def _ask(self, requests: list[tuple[str, Any]], rows: list[_Row] | None = None) -> list[Any]:
        """The answers of the rows (None = all), or the _Fault of a row that gave none in time."""
        rows = self._rows if rows is None else rows
        for row, request in zip(rows, requests, strict=True):
            row.asked = True
            try:
                row.pipe.send(request)
            except OSError:  # it died before, which shows when it is asked for its answer
                continue
        return self._gather(rows, self._deadline)

    def _gather(self, rows: list[_Row], deadline: float) -> list[Any]:
        answers: dict[int, Any] = {}
        end = time.monotonic() + deadline

        def end_the_late() -> None:
            for row in rows:
                if row.number not in answers:
                    with contextlib.suppress(ValueError):  # it was closed in this very moment
                        row.process.kill()

        # a row that stops in the middle of its answer would hold us in `recv`
        watchdog = threading.Timer(deadline + 0.5, end_the_late)
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
            return _Fault(row.ended())
        if kind == "error":
            return _Fault(*answer)
        observations = [answer] if kind == "reset" else []
        if kind == "step":
            observations = [answer[0]] if answer[4] is None else [answer[0], answer[4][0]]
        wrong = [text for obs in observations if (text := misfit(obs, self.single_observation_space))]
        return _Fault(wrong[0]) if wrong else answer

    def _begun_again(self, row: _Row, fault: _Fault) -> Any:
        """The first observation of a new process in the row's place; raises EnvironmentFault where that is not wanted."""
        while True:
            row.restarts += 1
            if self._on_fault == "fail" or row.restarts > RESTARTS:
                self._fail(row, fault)
            row.end()
            self._start(row)
            row.seed = None if row.seed is None else counter_seed(row.seed, row.restarts)
            row.action, row.steps = None, 0
            (answer,) = self._gather([row], START)
            if not isinstance(answer, _Fault):
                (answer,) = self._ask([("reset", (row.seed, None))], [row])
            if not isinstance(answer, _Fault):
                return answer
            fault = answer

    def _refuse(self, row: _Row, fault: _Fault) -> None:
        """Raise what an environment that cannot be made calls for: a wrong option is not a fault of a process."""
        if fault.kind == "ConfigError":
            raise ConfigError(fault.text)
        if fault.kind in ("AssertionError", "KeyError", "TypeError", "ValueError"):
            raise ValueError(fault.text)
        self._fail(row, fault)

    def _fail(self, row: _Row, fault: _Fault) -> None:
        again = f", {row.restarts} times in a row" if row.restarts > 1 else ""
        where = f"when it was reset with seed {row.seed}"
        if row.steps:
            where = f"at step {row.steps} since it was reset with seed {row.seed}, last action {row.action}"
        elif not row.asked:
            where = 'when it was made (a script of yours needs `if __name__ == "__main__":` around what it does)'
        self.close()
        raise EnvironmentFault(f"row {row.number} {fault.what} {where}{again}")


class _Fault:
    """what: in words. kind, text: of an error that the environment raised."""

    def __init__(self, what: str, kind: str = "", text: str = "") -> None:
        self.what, self.kind, self.text = what, kind, text


class _Row:
    """A process and what is known of it. steps: since its last reset. last: its latest observation."""

    pipe: Connection
    lives: Connection
    process: multiprocessing.process.BaseProcess

    def __init__(self, number: int) -> None:
        self.number, self.steps, self.restarts, self.asked = number, 0, 0, False
        self.seed: int | None = None
        self.action: Any = None
        self.last: Any = None

    def ended(self) -> str:
        """How the process went, in words."""
        self.process.join(1)
        code = self.process.exitcode
        if code is None:
            return "closed its pipe"
        if code >= 0:
            return f"ended with exit code {code}"
        named = {number.value: number.name for number in signal.Signals}
        return f"was ended by {named.get(-code, f'signal {-code}')}"

    def end(self) -> None:
        """Leave no process and no pipe, whatever state it is in."""
        if hasattr(self, "process") and self.process.pid is not None:
            self.process.kill()  # SIGTERM may be blocked, or wait behind a stop
            self.process.join()
            self.process.close()
            self.pipe.close()
            self.lives.close()
            del self.process


def misfit(obs: Any, space: gymnasium.Space[Any]) -> str | None:
    """What is wrong with an observation, in words, or None."""
    if isinstance(space, gymnasium.spaces.Dict):
        if not isinstance(obs, dict) or set(obs) != set(space):
            return f"gave an observation of other keys than {sorted(space)}"
        return next((text for key in space if (text := misfit(obs[key], space[key]))), None)
    whole = gymnasium.spaces.Discrete | gymnasium.spaces.MultiDiscrete | gymnasium.spaces.MultiBinary
    shape, dtype = getattr(obs, "shape", None), getattr(obs, "dtype", None)
    if (shape, dtype) != (space.shape, space.dtype):
        return f"gave an observation of shape {shape} and type {dtype}; its space has {space.shape} and {space.dtype}"
    # numbers leave their bounds every now and then; there is no fourth thing of three
    if isinstance(space, whole) and not space.contains(obs):
        return f"gave an observation outside {space}"
    return None


def _work(pipe: Connection, lives: Connection, make: Callable[[], gymnasium.Env[Any, Any]]) -> None:
    """What the process of a row does until it is ended, or its parent is.

    lives: nothing is ever sent there; its end is the parent's.
    """
    for number in OURS:  # they reach the whole group; the parent saves, and then ends this one
        signal.signal(number, lambda *_: None)  # not SIG_IGN, which processes of the environment's own would inherit
    if OURS:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, OURS)
    threading.Thread(target=_end_with, args=(lives,), daemon=True).start()
    try:
        env = make()
        spaces = env.observation_space, env.action_space
        pipe.send(("made", (*spaces, env.render_mode, env.get_wrapper_attr("left_out"))))
    except Exception as error:
        return _tell(pipe, error)
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
            elif request == "reset":
                answer = env.reset(seed=argument[0], options=argument[1])[0]
            else:
                answer = env.render()
        except Exception as error:
            return _tell(pipe, error)
        try:
            pipe.send((request, answer))
        except OSError:
            return None


def _tell(pipe: Connection, error: Exception) -> None:
    text = " ".join(str(error).split())[:300]
    kind = "ConfigError" if isinstance(error, ConfigError) else type(error).__name__
    with contextlib.suppress(OSError):  # nobody is there to be told
        pipe.send(("error", (f"raised {type(error).__name__}: {text}", kind, text)))


def _end_with(lives: Connection) -> None:
    lives.poll(None)
    os._exit(0)  # whatever the environment is in the middle of
