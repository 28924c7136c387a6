"""Numbers that a gymnasium environment reports in its info become an entry of the observation, for a critic that sees more."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces

from rmt_rl.common.errors import ConfigError
from rmt_rl.config.fields import show
from rmt_rl.envs.gym.translate import plain_array
from rmt_rl.envs.gym.vector_rows import kind_of
from rmt_rl.envs.masks import KEY


def with_info(env: gymnasium.Env[Any, Any], name: str | None) -> gymnasium.Env[Any, Any]:
    """`env` whose observation has info[name] as an entry; `env` itself where name is None."""
    return env if name is None else ShowInfo(env, name)


class ShowInfo(gymnasium.Wrapper[Any, Any, Any, Any]):
    """Adds info[name] to a Dict observation, as float32; any other observation becomes the entry "observation" beside it.

    An info has no space, so the environment is reset once here: every info must have numbers of the same shape.
    """

    def __init__(self, env: gymnasium.Env[Any, Any], name: str) -> None:
        super().__init__(env)
        self._class, self._entry = type(env.unwrapped).__name__, name
        if name == KEY:
            raise ConfigError(f"env.add_info={KEY}: a mask of the actions comes from env.action_mask=info")
        inner = env.observation_space
        entries = dict(inner.spaces) if isinstance(inner, spaces.Dict) else {"observation": inner}
        if name in entries:
            raise ConfigError(
                f"env.add_info={name}: the observation of {self._class} has the entry {name!r} already; leave the option out"
            )
        self._shape: tuple[int, ...] | None = None
        back: Any = env.reset(seed=0)
        if not isinstance(back, tuple) or len(back) != 2:
            raise ConfigError(f"{self._class}: reset returned {kind_of(back)}; expected (observation, info)")
        self._shape = self._numbers(back[1], "reset").shape
        self.observation_space = spaces.Dict({**entries, name: spaces.Box(-np.inf, np.inf, self._shape, np.float32)})

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        back: Any = self.env.reset(seed=seed, options=options)
        if not isinstance(back, tuple) or len(back) != 2:
            return back  # `_Row` says what is wrong with it
        return self._shown(back[0], back[1], "reset"), back[1]

    def step(self, action: Any) -> Any:
        back: Any = self.env.step(action)
        if not isinstance(back, tuple) or len(back) != 5:
            return back
        return self._shown(back[0], back[4], "step"), *back[1:]

    def _shown(self, obs: Any, info: Any, where: str) -> Any:
        entries = obs if isinstance(obs, dict) else {"observation": obs}
        return {**entries, self._entry: self._numbers(info, where)}

    def _numbers(self, info: Any, where: str) -> np.ndarray:
        found = info.get(self._entry) if isinstance(info, dict) else None
        array = plain_array(found)
        if array.dtype.kind in "biuf" and self._shape in (None, array.shape):
            return array.astype(np.float32)  # a copy
        what = f"numbers of shape {self._shape}" if self._shape is not None else "numbers"
        raise ConfigError(
            f"env.add_info={self._entry}: {self._class}: {where} returned info[{self._entry!r}] = {show(repr(found))}; expected"
            f" {what}, as an array of one shape in every info"
        )
