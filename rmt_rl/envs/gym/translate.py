"""Translates spaces and observations of gymnasium to those that policies accept, for environments and recorded data."""

from __future__ import annotations

from collections.abc import Iterator
from functools import reduce
from typing import Any

import numpy as np
from gymnasium import spaces

from rmt_rl.common.errors import ConfigError

Arrays = np.ndarray | dict[str, np.ndarray]
Path = tuple[Any, ...]  # keys of dictionaries, indices of tuples


class UnsupportedSpace(ConfigError):
    """An observation or action space that has no tensor form."""


def plain_array(value: Any) -> np.ndarray:
    """A value as an array; of dtype object where numpy cannot make one of numbers or text, as of a ragged list."""
    try:
        return np.asarray(value)
    except (TypeError, ValueError, RuntimeError):  # a torch tensor on a GPU, for instance
        array = np.empty((), dtype=object)
        array[()] = value
        return array


class Translation:
    """Maps observations of `space` to arrays of `self.space`; the rules are in `GymAdapter`.

    An observation may have leading axes, the same for all its parts. left_out: names of the parts that are text.
    """

    def __init__(self, space: spaces.Space[Any]) -> None:
        self.left_out: list[str] = []
        self._parts: dict[str, tuple[Path, spaces.Space[Any], Any]] = {}
        for path, part in _leaves(space):
            name = ".".join(map(str, path))
            if part.dtype is not None and part.dtype.kind == "U":  # Text, MiniGrid's mission
                self.left_out.append(name)
            elif name in self._parts:
                raise UnsupportedSpace(f"observation: two parts would have the name {name!r}; rename one of the keys")
            else:
                self._parts[name] = (path, *_observation_space(part, name))
        if not self._parts:
            raise UnsupportedSpace(f"observation: {space} has only text; expected at least one part of numbers")
        self.space: spaces.Space[Any] = (
            spaces.Dict({name: part for name, (_, part, _) in self._parts.items()})
            if isinstance(space, spaces.Dict | spaces.Tuple)
            else self._parts[""][1]
        )

    def __call__(self, obs: Any) -> Arrays:
        arrays = {}
        for name, (path, space, start) in self._parts.items():
            value = np.array(reduce(lambda part, key: part[key], path, obs), dtype=space.dtype)
            arrays[name] = value if start is None else value - start
        return arrays if isinstance(self.space, spaces.Dict) else arrays[""]


def _leaves(space: spaces.Space[Any], path: Path = ()) -> Iterator[tuple[Path, spaces.Space[Any]]]:
    if isinstance(space, spaces.Dict | spaces.Tuple):
        for key, part in space.items() if isinstance(space, spaces.Dict) else enumerate(space):
            yield from _leaves(part, (*path, key))
    else:
        yield path, space


def _observation_space(space: spaces.Space[Any], name: str) -> tuple[spaces.Space[Any], Any]:
    """The translated space, and the offset to subtract from its values (None = 0)."""
    if isinstance(space, spaces.Discrete):
        return spaces.Discrete(int(space.n)), np.int64(space.start)
    if isinstance(space, spaces.MultiDiscrete):
        return spaces.MultiDiscrete(space.nvec.astype(np.int64)), space.start.astype(np.int64)
    if isinstance(space, spaces.MultiBinary):
        return spaces.MultiBinary(space.n), None
    if isinstance(space, spaces.Box) and not (space.dtype == np.uint64 and (space.high > np.iinfo(np.int64).max).any()):
        floating = space.dtype.kind == "f"
        dtype = np.float32 if floating else np.uint8 if space.dtype == np.uint8 else np.int64
        with np.errstate(over="ignore"):  # a bound outside float32 becomes infinite, like the values
            return spaces.Box(space.low.astype(dtype), space.high.astype(dtype), dtype=dtype), None
    where = f"observation {name!r}" if name else "observation"
    raise UnsupportedSpace(
        f"{where}: {space} is not supported; supported are Box (up to int64), Discrete, MultiDiscrete, MultiBinary, "
        "and Dict and Tuple of these and of text"
    )


def action_space(space: spaces.Space[Any]) -> spaces.Space[Any]:
    """The translated action space."""
    if isinstance(space, spaces.Discrete):
        return spaces.Discrete(int(space.n))
    if isinstance(space, spaces.MultiDiscrete):
        return spaces.MultiDiscrete(space.nvec.astype(np.int64))
    if isinstance(space, spaces.Box) and space.dtype.kind == "f":
        with np.errstate(over="ignore"):
            return spaces.Box(space.low.astype(np.float32), space.high.astype(np.float32), dtype=np.float32)
    raise UnsupportedSpace(f"action: {space} is not supported; supported are Discrete, MultiDiscrete and Box of floats")
