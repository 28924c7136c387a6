"""Action masks that a gymnasium environment reports elsewhere than in its observation become a part of the observation."""

from __future__ import annotations

from typing import Any, Literal

import gymnasium
import numpy as np
from gymnasium import spaces

from rmt_rl.common.errors import ConfigError
from rmt_rl.config.fields import show
from rmt_rl.envs.actions import ActionTranslation, choice_sizes
from rmt_rl.envs.gym.translate import plain_array
from rmt_rl.envs.masks import KEY

#: Where masks come from if the observation has none: the method action_masks() of the environment, info["action_mask"], nowhere.
Source = Literal["method", "info", "none"]
#: The method of environments that are written for sb3-contrib's MaskablePPO.
METHOD = "action_masks"


def with_mask(env: gymnasium.Env[Any, Any], source: Source) -> gymnasium.Env[Any, Any]:
    """`env` whose observation has the entry "action_mask", if `source` has one; otherwise `env` itself."""
    shown = isinstance(env.observation_space, spaces.Dict) and KEY in env.observation_space.spaces
    if source == "none" or shown or (source == "method" and not env.has_wrapper_attr(METHOD)):
        return env
    return ShowMask(env, source)


class ShowMask(gymnasium.Wrapper[Any, Any, Any, Any]):
    """Adds the mask to a Dict observation; any other observation becomes the entry "observation" beside it."""

    def __init__(self, env: gymnasium.Env[Any, Any], source: Source) -> None:
        super().__init__(env)
        self._name, self._source = type(env.unwrapped).__name__, source
        self._choices = sum(choice_sizes(ActionTranslation(env.action_space).space))
        if not self._choices:
            raise ConfigError(
                f"env.action_mask={source}: {self._name} has the actions {env.action_space}; expected Discrete or MultiDiscrete"
            )
        inner = env.observation_space
        entries = dict(inner.spaces) if isinstance(inner, spaces.Dict) else {"observation": inner}
        self.observation_space = spaces.Dict({**entries, KEY: spaces.MultiBinary(self._choices)})

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        back: Any = self.env.reset(seed=seed, options=options)
        if not isinstance(back, tuple) or len(back) != 2:
            return back  # `_Row` says what is wrong with it
        return self._shown(back[0], back[1], "reset", over=False), back[1]

    def step(self, action: Any) -> Any:
        back: Any = self.env.step(action)
        if not isinstance(back, tuple) or len(back) != 5:
            return back
        return self._shown(back[0], back[4], "step", over=bool(back[2]) or bool(back[3])), *back[1:]

    def _shown(self, obs: Any, info: Any, where: str, over: bool) -> Any:
        entries = obs if isinstance(obs, dict) else {"observation": obs}
        return {**entries, KEY: self._mask(info, where, over)}

    def _mask(self, info: Any, where: str, over: bool) -> np.ndarray:
        if self._source == "info":
            found = info.get(KEY) if isinstance(info, dict) else None
            shown = f"info[{KEY!r}]"
            if found is None and over:  # no action follows
                return np.ones(self._choices, np.int8)
        else:
            found, shown = self.env.get_wrapper_attr(METHOD)(), f"{METHOD}()"
        parts = found if isinstance(found, tuple | list) and np.ndim(plain_array(found[0] if found else 0)) else [found]
        arrays = [plain_array(part).ravel() for part in parts]
        if all(part.dtype.kind in "biuf" for part in arrays):
            mask = np.concatenate(arrays)
            if mask.size == self._choices:
                return (mask != 0).astype(np.int8)
        raise ConfigError(
            f"{self._name}: {where} with {shown} = {show(repr(found))}; expected {self._choices} numbers, 0 where an action is"
            " not allowed"
        )
