"""Translates spaces and observations of gymnasium to those that policies accept, for environments and recorded data."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from gymnasium import spaces

from rmt_rl.common.errors import ConfigError
from rmt_rl.config.fields import show

Arrays = np.ndarray | dict[str, np.ndarray]
Path = tuple[Any, ...]  # keys of dictionaries, indices of tuples


class UnsupportedSpace(ConfigError):
    """An observation or action space that has no tensor form."""


class BadObservation(ConfigError):
    """An observation that does not have the form of its space; the message continues "returned an observation"."""


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
            found = "has only text" if self.left_out else "is empty"
            raise UnsupportedSpace(f"observation: {space} {found}; expected at least one part of numbers")
        self.space: spaces.Space[Any] = (
            spaces.Dict({name: part for name, (_, part, _) in self._parts.items()})
            if isinstance(space, spaces.Dict | spaces.Tuple)
            else self._parts[""][1]
        )

    def __call__(self, obs: Any) -> Arrays:
        """Raises BadObservation where `obs` has another form."""
        arrays = {}
        for name, (path, space, start) in self._parts.items():
            part = _part(obs, path)
            try:
                value = np.array(part, dtype=space.dtype)
            except (TypeError, ValueError, OverflowError) as error:
                where = f" in the part {name!r}" if name else ""
                raise BadObservation(
                    f"with {show(part)}{where}, which is no array of {space.dtype} ({show(str(error))}); expected an array of"
                    f" shape {space.shape}"
                ) from error
            arrays[name] = value if start is None else value - start
        return arrays if isinstance(self.space, spaces.Dict) else arrays[""]


def _part(obs: Any, path: Path) -> Any:
    """The part of an observation that a path of keys and indices leads to; raises BadObservation where there is none."""
    part = obs
    for key in path:
        kind = tuple | list if isinstance(key, int) else Mapping
        try:
            if not isinstance(part, kind):
                raise TypeError
            part = part[key]
        except (KeyError, IndexError, TypeError) as error:
            raise BadObservation(f"without the part {key!r}; found {show(part)}") from error
    return part


def _leaves(space: spaces.Space[Any], path: Path = ()) -> Iterator[tuple[Path, spaces.Space[Any]]]:
    if isinstance(space, spaces.Dict | spaces.Tuple):
        for key, part in space.items() if isinstance(space, spaces.Dict) else enumerate(space):
            yield from _leaves(part, (*path, key))
    else:
        yield path, space


def _observation_space(space: spaces.Space[Any], name: str) -> tuple[spaces.Space[Any], Any]:
    """The translated space, and the offset to subtract from its values (None = 0)."""
    where = f"observation {name!r}" if name else "observation"
    _refuse_empty(space, where)
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
    raise UnsupportedSpace(
        f"{where}: {space} is not supported; supported are Box (up to int64), Discrete, MultiDiscrete, MultiBinary, "
        "and Dict and Tuple of these and of text"
    )


def _refuse_empty(space: spaces.Space[Any], where: str) -> None:
    if space.shape is not None and 0 in space.shape:
        raise UnsupportedSpace(f"{where}: {space} holds no number; expected a space of at least one number")


def action_space(space: spaces.Space[Any]) -> spaces.Space[Any]:
    """The translated action space."""
    _refuse_empty(space, "action")
    if isinstance(space, spaces.Discrete):
        return spaces.Discrete(int(space.n))
    if isinstance(space, spaces.MultiDiscrete):
        return spaces.MultiDiscrete(space.nvec.astype(np.int64))
    if isinstance(space, spaces.Box) and space.dtype.kind == "f":
        with np.errstate(over="ignore"):
            return spaces.Box(space.low.astype(np.float32), space.high.astype(np.float32), dtype=np.float32)
    raise UnsupportedSpace(f"action: {space} is not supported; supported are Discrete, MultiDiscrete and Box of floats")
