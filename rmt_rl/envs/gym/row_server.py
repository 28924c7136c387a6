"""One row of a gymnasium environment inside a worker, which answers requests: the worker's side of `lockstep.py`."""

from __future__ import annotations

import os
import traceback
from collections.abc import Callable
from typing import Any, TypeAlias

import gymnasium

from rmt_rl.common.errors import ConfigError

#: The request, or "error", and what is answered to it.
Answer: TypeAlias = tuple[str, Any]
Make: TypeAlias = Callable[[], gymnasium.Env[Any, Any]]


class RowServer:
    """Makes the environment and steps it with SAME_STEP autoreset. No method raises an error of the environment.

    made: ("made", (observation space, action space, render mode, attributes of the row)), or an error.
    """

    def __init__(self, make: Make) -> None:
        try:
            self._env = make()
            attributes = [self._env.get_wrapper_attr(name) for name in ("own", "has_time_limit")]
            spaces = self._env.observation_space, self._env.action_space
            self.made: Answer = "made", (*spaces, self._env.render_mode, attributes)
        except Exception as error:
            self.made = error_answer(error)

    def answer(self, request: str, argument: Any) -> Answer:
        """The answer to step (an action), reset (seed and options) or render; after an error the row must not be asked again."""
        try:
            if request == "step":
                obs, reward, terminated, truncated, info = self._env.step(argument)
                final = None
                if terminated or truncated:
                    final, obs = (obs, info), self._env.reset()[0]
                return request, (obs, float(reward), bool(terminated), bool(truncated), final)
            if request == "reset":
                return request, self._env.reset(seed=argument[0], options=argument[1])[0]
            return request, self._env.render()
        except Exception as error:
            return error_answer(error)

    def close(self) -> None:
        self._env.close()  # its wrapper prints a warning where it raises


def error_answer(error: BaseException) -> Answer:
    """An error of the environment as an answer: what happened in words, its class and its message."""
    if isinstance(error, ConfigError):
        kind, text = "ConfigError", " ".join(str(error).split())[:300]
    else:
        kind, text = describe(error)
    return "error", (f"raised {kind}: {text}", kind, text)


def describe(error: BaseException) -> tuple[str, str]:
    """An error of foreign code as its class, and its message with the file and line where it was raised."""
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if not frame.filename.startswith("<")]
    where = f" ({os.path.basename(frames[-1].filename)}:{frames[-1].lineno})" if frames else ""
    return type(error).__name__, " ".join(str(error).split())[:300] + where
