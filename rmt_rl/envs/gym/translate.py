"""Translates spaces and observations of gymnasium to those that policies accept, for environments and recorded data."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from gymnasium import spaces

from rmt_rl.common.errors import ConfigError
from rmt_rl.config.fields import show
from rmt_rl.envs.actions import UnsupportedSpace, refuse_empty
from rmt_rl.envs.text import TextBytes, is_text, text_bytes, to_bytes, unreadable

Arrays = np.ndarray | dict[str, np.ndarray]
Path = tuple[Any, ...]  # keys of dictionaries, indices of tuples


class WrongObservation(ConfigError):
    """An observation that does not fit its space. The message begins with "an observation"."""


def plain_array(value: Any) -> np.ndarray:
    """A value as an array; of dtype object where numpy cannot make one of numbers or text, as of a ragged list.

    Of dtype object, too, where numbers are masked: numpy would return what lies below the mask.
    """
    try:
        return np.asarray(value, dtype=object if np.ma.is_masked(value) else None)
    except (TypeError, ValueError, RuntimeError):  # a torch tensor on a GPU, for instance
        array = np.empty((), dtype=object)
        array[()] = value
        return array


class Translation:
    """Maps observations of `space` to arrays of `self.space`; the rules are in `GymAdapter`.

    An observation may have leading axes, the same for all its parts. text: parts that are text become their bytes; otherwise they
    are left out. left_out: their names. own: `space` with bytes in place of text, or without it. Raises WrongObservation where a
    part is missing, has another form, or would become another number in the type of its space.
    """

    def __init__(self, space: spaces.Space[Any], text: bool = False) -> None:
        self.left_out: list[str] = []
        self._parts: dict[str, tuple[Path, spaces.Space[Any], Any]] = {}
        for path, part in _leaves(space):
            name = ".".join(map(str, path))
            if is_text(part) and not text:
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
        self.own = _recorded(space, text)

    def __call__(self, obs: Any) -> Arrays:
        """Raises WrongObservation where `obs` has another form."""
        arrays = {}
        for name, (path, space, start) in self._parts.items():
            value = _exact(part_of(obs, path), space, name)
            arrays[name] = value if start is None else value - start
        return arrays if isinstance(self.space, spaces.Dict) else arrays[""]

    def restore(self, arrays: Any) -> Any:
        """The reverse, as elements of `own`: batches of observations with leading axes. Real numbers stay rounded to float32."""
        return self._restore(self.own, arrays if isinstance(arrays, dict) else {"": arrays}, "")

    def _restore(self, own: spaces.Space[Any], arrays: dict[str, np.ndarray], name: str) -> Any:
        if isinstance(own, spaces.Dict | spaces.Tuple):
            items = own.items() if isinstance(own, spaces.Dict) else enumerate(own)
            parts = {key: self._restore(part, arrays, f"{name}.{key}" if name else str(key)) for key, part in items}
            return parts if isinstance(own, spaces.Dict) else tuple(parts.values())
        value, start = arrays[name], self._parts[name][2]
        if isinstance(own, spaces.Box) and own.dtype.kind == "f":
            with np.errstate(over="ignore"):
                low, high = own.low.astype(np.float32), own.high.astype(np.float32)
            # the bound itself, rounded to float32, may lie outside
            return np.where(value == low, own.low, np.where(value == high, own.high, value)).astype(own.dtype)
        return (value if start is None else value + start).astype(own.dtype)


def _recorded(space: spaces.Space[Any], text: bool) -> Any:
    """The space with text as bytes, or without it, or None. A Tuple that loses a part becomes a Dict, so that names stay."""
    if not isinstance(space, spaces.Dict | spaces.Tuple):
        return space if not is_text(space) else text_bytes(space) if text else None
    items = list(space.items()) if isinstance(space, spaces.Dict) else [(str(i), part) for i, part in enumerate(space)]
    kept = {key: own for key, part in items if (own := _recorded(part, text)) is not None}
    if isinstance(space, spaces.Tuple) and len(kept) == len(items):
        return spaces.Tuple(list(kept.values()))
    return spaces.Dict(kept) if kept else None


def _exact(value: Any, space: spaces.Space[Any], name: str) -> np.ndarray:
    """A copy of a value in the type of its space; real numbers are rounded to float32."""
    what, shown = f"an observation {name!r}" if name else "an observation", " ".join(str(space).split())
    if isinstance(space, TextBytes) and getattr(value, "dtype", None) != np.uint8:
        found = to_bytes(value, space)
        if found is None:
            raise WrongObservation(
                f"{what} that is {show(repr(value))}; expected text of at most {space.shape[0]} bytes in UTF-8"
            )
        return found
    array = plain_array(value)
    if array.dtype.kind not in "biuf":
        raise WrongObservation(f"{what} that is {show(repr(value))}; expected numbers of {shown}")
    with np.errstate(over="ignore", invalid="ignore"):
        exact = np.array(array, dtype=space.dtype)
    # a picture of numbers from 0 to 1 would turn black in uint8, and 300 would become 44
    if exact.dtype != array.dtype and exact.dtype.kind != "f" and (changed := exact != array).any():
        raise WrongObservation(
            f"{what} that holds {array[changed].flat[0]!s}, which {space.dtype} cannot; expected numbers of {shown}"
        )
    return exact


def part_of(obs: Any, path: Path) -> Any:
    """The part of an observation that a path of keys and indices leads to; raises WrongObservation where there is none."""
    part = obs
    for key in path:
        kind = tuple | list if isinstance(key, int) else Mapping
        try:
            if not isinstance(part, kind):
                raise TypeError
            part = part[key]
        except (KeyError, IndexError, TypeError) as error:
            raise WrongObservation(f"an observation without the part {key!r}; found {show(part)}") from error
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
    if is_text(space):
        if lost := unreadable(space):
            raise UnsupportedSpace(
                f"{where}: its alphabet has {', '.join(map(ascii, lost[:5]))}, which text in UTF-8 cannot keep; leave such"
                " characters out of charset, or the text out with env.text=false"
            )
        return text_bytes(space), None
    refuse_empty(space, where)
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
