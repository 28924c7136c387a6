"""A vector environment whose rows are stepped elsewhere, together, with SAME_STEP autoreset: what all kinds of workers share.

A row that dies, hangs or raises is named with its step, seed and last action, and can be restarted while the other rows continue
bit for bit. How rows are started, asked and ended is left to `workers.py` (processes) and `actors.py` (Ray).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, Generic, Literal, TypeVar

import gymnasium
import numpy as np
from gymnasium.vector.utils import batch_space, concatenate, create_empty_array

from rmt_rl.common.errors import ConfigError, RunError
from rmt_rl.common.rng import counter_seed
from rmt_rl.envs.gym.reports import batched
from rmt_rl.envs.gym.row_server import Answer
from rmt_rl.envs.observations import whole_number_ends

#: Number of restarts of a row without a step in between, after which the environment fails.
RESTARTS = 5
#: Least seconds for a worker to start and to make its environment; the first one also imports torch.
START = 120.0
#: Seconds in which all rows together may close their environments; then they are killed.
CLOSE = 5.0


class EnvironmentFault(RunError):
    """The worker of a row died, hung, or returned an observation outside its space."""


class CannotBeMade(Exception):
    """The constructor of an environment raised; the arguments are what `describe` says."""


class Fault:
    """what: the fault in words. kind, text: class and message of an error that the environment raised."""

    def __init__(self, what: str, kind: str = "", text: str = "") -> None:
        self.what, self.kind, self.text = what, kind, text


class Row:
    """One row. steps: since its last reset. restarts: since its last step. last: its latest observation."""

    def __init__(self, number: int) -> None:
        self.number, self.steps, self.restarts, self.asked = number, 0, 0, False
        self.seed: int | None = None
        self.action: Any = None
        self.last: Any = None


SomeRow = TypeVar("SomeRow", bound=Row)


class Lockstep(ABC, Generic[SomeRow]):
    """The part of `gymnasium.vector.VectorEnv` that `GymAdapter` needs, for rows that live in workers.

    deadline: seconds for a step or a reset; at least START seconds for the start of a worker.
    on_fault: fail = raise EnvironmentFault; restart = truncate the row's episode, with its latest observation and reward 0, and
        start a new worker and episode, with a seed derived from the row's seed and the number of restarts.
    """

    #: Advice where a worker does not start.
    _hint = ""

    def __init__(self, rows: Sequence[SomeRow], deadline: float, on_fault: Literal["fail", "restart"]) -> None:
        self._rows, self._deadline, self._on_fault = rows, deadline, on_fault
        self._start_deadline = max(START, deadline)
        try:
            answers = self._start(rows)
            for row, answer in zip(rows, answers, strict=True):
                if isinstance(answer, Fault):
                    self._fail_to_make(row, answer)
        except BaseException:
            self.kill()  # nothing to close yet
            raise
        self.single_observation_space, self.single_action_space, self.render_mode, attributes = answers[0]
        self.own, self.has_time_limit = attributes
        self.observation_space = batch_space(self.single_observation_space, len(rows))

    @abstractmethod
    def _start(self, rows: Sequence[SomeRow]) -> list[Any]:
        """Start the workers of rows; what `RowServer.made` answers for each, or a Fault."""

    @abstractmethod
    def _ask(self, requests: list[tuple[str, Any]], rows: Sequence[SomeRow]) -> list[Any]:
        """The answer of every row to its request, checked by `_checked`, or a Fault where there is none in time."""

    @abstractmethod
    def _end(self, row: SomeRow) -> None:
        """End what runs for a row, in whatever state it is."""

    @abstractmethod
    def close(self, **options: Any) -> None:
        """Close the environment of every row, and kill the workers that take longer than CLOSE seconds."""

    @abstractmethod
    def kill(self) -> None:
        """End all workers at once."""

    def reset(self, *, seed: list[int | None] | None, options: dict[str, Any] | None) -> tuple[Any, dict[str, Any]]:
        """Start new episodes, in the rows of options["reset_mask"] only where it is given; the others go on."""
        seeds = seed or [None] * len(self._rows)
        mask = None if options is None else options.pop("reset_mask", None)
        chosen = [i for i in range(len(self._rows)) if mask is None or mask[i]]
        rows = [self._rows[i] for i in chosen]
        for i, row in zip(chosen, rows, strict=True):
            row.seed = seeds[i] if seeds[i] is not None else row.seed
            row.action, row.steps, row.asked = None, 0, True
        answers = self._ask([("reset", (seeds[i], options)) for i in chosen], rows)
        for row, answer in zip(rows, answers, strict=True):
            row.last = answer if not isinstance(answer, Fault) else self._restart(row, answer)
        return self._batch(), {}

    def step(self, action_B: np.ndarray) -> tuple[Any, np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]:
        for row, action in zip(self._rows, action_B, strict=True):
            row.action, row.steps = action, row.steps + 1
        answers = self._ask([("step", action) for action in action_B], self._rows)
        rewards, flags = np.zeros(len(answers)), np.zeros((2, len(answers)), dtype=bool)
        final_obs: list[Any] = [None] * len(answers)
        reports: dict[int, dict[str, Any]] = {}
        for i, (row, answer) in enumerate(zip(self._rows, answers, strict=True)):
            if isinstance(answer, Fault):
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
        for row in self._rows:
            row.asked = True
        answers = self._ask([("render", None)] * len(self._rows), self._rows)
        for row, answer in zip(self._rows, answers, strict=True):
            if isinstance(answer, Fault):
                self._fail(row, answer)
        return tuple(answers)

    def _batch(self) -> Any:
        out: Any = create_empty_array(self.single_observation_space, n=len(self._rows))
        return concatenate(self.single_observation_space, [row.last for row in self._rows], out)

    def _checked(self, answer: Answer) -> Any:
        """What a row answered, or a Fault where it raised or an observation is outside its space."""
        kind, value = answer
        if kind == "error":
            return Fault(*value)
        observations = [value] if kind == "reset" else []
        if kind == "step":
            observations = [value[0]] if value[4] is None else [value[0], value[4][0]]
        wrong = [text for obs in observations if (text := observation_error(obs, self.single_observation_space))]
        return Fault(wrong[0]) if wrong else value

    def _restart(self, row: SomeRow, fault: Fault) -> Any:
        """The first observation of the row's new worker; raises EnvironmentFault with on_fault=fail or after RESTARTS."""
        while True:
            row.restarts += 1
            if self._on_fault == "fail" or row.restarts > RESTARTS:
                self._fail(row, fault)
            self._end(row)
            row.seed = None if row.seed is None else counter_seed(row.seed, row.restarts)
            row.action, row.steps = None, 0
            (answer,) = self._start([row])
            if not isinstance(answer, Fault):
                (answer,) = self._ask([("reset", (row.seed, None))], [row])
            if not isinstance(answer, Fault):
                return answer
            fault = answer

    def _fail_to_make(self, row: SomeRow, fault: Fault) -> None:
        """Raise the error of an environment that cannot be made; for wrong options it is not an EnvironmentFault."""
        if fault.kind == "ConfigError":
            raise ConfigError(fault.text)
        if fault.kind in ("AssertionError", "KeyError", "TypeError", "ValueError"):
            raise CannotBeMade(fault.kind, fault.text)
        self._fail(row, fault)

    def _fail(self, row: SomeRow, fault: Fault) -> None:
        again = f", {row.restarts} times in a row" if row.restarts > 1 else ""
        where = f"at reset with seed {row.seed}"
        if row.steps:
            where = f"at step {row.steps} after reset with seed {row.seed}, last action {row.action}"
        elif not row.asked:
            where = f"when the environment was made{self._hint}"
        self._end(row)  # one that hangs would make the others wait
        self.close()
        raise EnvironmentFault(f"row {row.number} {fault.what} {where}{again}")


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
