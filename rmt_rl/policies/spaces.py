"""Observation and action spaces as JSON, so that a saved policy knows what it was built for."""

from __future__ import annotations

import math
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces

from rmt_rl.common.errors import ConfigError
from rmt_rl.config.fields import show
from rmt_rl.envs.actions import MixedActions
from rmt_rl.envs.text import TextBytes

#: Numbers of the largest observation or action, and dictionaries inside each other, that a file may describe.
LARGEST, DEEPEST = 2**24, 16


def to_json(space: gymnasium.Space[Any], own: bool = False) -> dict[str, Any]:
    """A space as plain values; raises ConfigError for a space that no policy is written for.

    own: a space of the environment itself may also be a Tuple, and its whole numbers may start elsewhere than at 0.
    """
    start = getattr(space, "start", 0)
    if own and isinstance(space, spaces.Tuple):
        return {"type": "tuple", "entries": [to_json(entry, own) for entry in space]}
    if own and isinstance(space, spaces.Dict):
        return {"type": "dict", "entries": {key: to_json(entry, own) for key, entry in space.items()}}
    if own and np.any(start):
        return {**to_json(_from_zero(space)), "start": np.asarray(start).tolist()}
    if isinstance(space, TextBytes):
        return {"type": "text", "shape": list(space.shape), "characters": space.characters}
    if isinstance(space, MixedActions):
        bounds = {"low": _bound(space.reals.low), "high": _bound(space.reals.high)}
        return {"type": "mixed", "sizes": space.sizes, "shape": list(space.reals.shape), **bounds}
    if isinstance(space, spaces.Dict):
        return {"type": "dict", "entries": {key: to_json(entry) for key, entry in space.items()}}
    if isinstance(space, spaces.Discrete) and space.start == 0:
        return {"type": "discrete", "n": int(space.n)}
    if isinstance(space, spaces.MultiDiscrete) and not space.start.any():
        return {"type": "multi_discrete", "nvec": space.nvec.tolist()}
    if isinstance(space, spaces.MultiBinary):
        return {"type": "multi_binary", "shape": list(space.shape)}
    if isinstance(space, spaces.Box):
        bounds = {"low": _bound(space.low), "high": _bound(space.high)}
        return {"type": "box", "shape": list(space.shape), "dtype": str(space.dtype), **bounds}
    raise ConfigError(
        f"space {space} is not supported; supported are Box, Discrete and MultiDiscrete from 0, MultiBinary and Dict of these"
    )


def from_json(value: dict[str, Any], depth: int = 0) -> gymnasium.Space[Any]:
    """The space that `to_json` wrote; raises ConfigError where it has more numbers than fit into memory."""
    kind = value["type"]
    if kind == "dict":
        if depth == DEEPEST:
            raise ConfigError(f"space: has more than {DEEPEST} dictionaries inside each other")
        return spaces.Dict({key: from_json(entry, depth + 1) for key, entry in value["entries"].items()})
    if kind == "tuple":
        if depth == DEEPEST:
            raise ConfigError(f"space: has more than {DEEPEST} dictionaries inside each other")
        return spaces.Tuple([from_json(entry, depth + 1) for entry in value["entries"]])
    _check_size(kind, value)
    if kind == "discrete":
        return spaces.Discrete(value["n"], start=value.get("start", 0))
    if kind == "multi_discrete":
        nvec = np.array(value["nvec"])
        return spaces.MultiDiscrete(nvec, start=np.array(value["start"]) if "start" in value else None)
    if kind == "text":
        return TextBytes(math.prod(value["shape"]), bool(value["characters"]))
    if kind == "mixed":
        low, high = (_array(value[side], np.dtype(np.float32), tuple(value["shape"])) for side in ("low", "high"))
        return MixedActions(value["sizes"], low, high)
    if kind == "multi_binary":
        return spaces.MultiBinary(value["shape"])
    if kind == "box":
        dtype, shape = np.dtype(value["dtype"]), tuple(value["shape"])
        low, high = (_array(value[side], dtype, shape) for side in ("low", "high"))
        return spaces.Box(low, high, shape, dtype.type)
    raise ConfigError(
        f"space type {kind!r} is unknown; known are box, dict, discrete, mixed, multi_binary, multi_discrete, text, tuple"
    )


def _from_zero(space: Any) -> gymnasium.Space[Any]:
    return spaces.Discrete(int(space.n)) if isinstance(space, spaces.Discrete) else spaces.MultiDiscrete(space.nvec)


def _check_size(kind: str, value: dict[str, Any]) -> None:
    """Raise ConfigError before memory is taken for a space with more than LARGEST numbers."""
    shape = value["shape"] if kind in ("box", "mixed", "multi_binary", "text") else ()
    shape = shape if isinstance(shape, list | tuple) else (shape,)
    if not all(type(n) is int and n >= 0 for n in shape):
        raise ConfigError(f"space {kind}: shape={show(shape)}; expected whole numbers, at least 0")
    if (size := math.prod(shape)) > LARGEST:
        raise ConfigError(f"space {kind}: has {show(size)} numbers; at most {LARGEST:,} are supported")


def _array(value: Any, dtype: np.dtype, shape: tuple[int, ...]) -> np.ndarray:
    array = np.array(value, np.float64 if dtype.kind == "f" else dtype).astype(dtype)
    return array.reshape(shape) if array.ndim else np.full(shape, array)


def _bound(bound: np.ndarray) -> Any:
    """One number where all are equal, as in pictures; infinities as text, because JSON has none."""
    same = bound.size > 0 and bool(np.all(bound == bound.flat[0]))
    return _number(bound.flat[0].item()) if same else [_number(value) for value in bound.flatten().tolist()]


def _number(value: float) -> float | str:
    return str(value) if math.isinf(value) else value
