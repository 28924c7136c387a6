"""Actions of gymnasium as one tensor for policies, and back.

Discrete n                      -> Discrete from 0
MultiDiscrete, MultiBinary      -> MultiDiscrete from 0
Box of whole numbers            -> MultiDiscrete from 0, one choice for each number between the bounds
Box of real numbers             -> Box of float32
Tuple and Dict of these         -> their parts side by side: MultiDiscrete where all are choices, Box where all are real numbers,
                                   otherwise `MixedActions`
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator
from typing import Any

import numpy as np
from gymnasium import spaces

from rmt_rl.common.errors import ConfigError

#: Choices of one action together, each of which is an output of the network.
MOST_CHOICES = 2**16


class UnsupportedSpace(ConfigError):
    """An observation or action space that has no tensor form."""


class MixedActions(spaces.Box):
    """A vector of float32: choices, as whole numbers from 0, and then real numbers. sizes: how many choices there are of each."""

    def __init__(self, sizes: list[int], low: Any, high: Any) -> None:
        ends = (np.zeros(len(sizes)), np.array(sizes) - 1)
        low, high = (
            np.concatenate([end, bound]).astype(np.float32) for end, bound in zip(ends, (low, high), strict=True)
        )
        super().__init__(low, high, dtype=np.float32)
        self.sizes = list(sizes)

    @property
    def reals(self) -> spaces.Box:
        """The space of the real numbers alone."""
        k = len(self.sizes)
        return spaces.Box(self.low[k:], self.high[k:], dtype=np.float32)

    def sample(self, mask: None = None, probability: None = None) -> np.ndarray:
        drawn = super().sample()
        drawn[: len(self.sizes)] = self.np_random.integers(self.sizes)
        return drawn

    def __eq__(self, other: object) -> bool:
        return isinstance(other, MixedActions) and self.sizes == other.sizes and super().__eq__(other)

    __hash__ = None  # type: ignore[assignment]  # like every Box


@dataclasses.dataclass(frozen=True)
class Part:
    """One part of an action. path: keys and indices that lead to it. own: its space in the environment; space: translated.

    start: what is added to whole numbers from 0.
    """

    path: tuple[Any, ...]
    own: Any
    space: Any
    start: np.ndarray

    @property
    def name(self) -> str:
        return ".".join(map(str, self.path))

    @property
    def size(self) -> int:
        return math.prod(self.space.shape)

    def to_own(self, action: np.ndarray) -> Any:
        """[..., *shape] as the environment takes it."""
        if isinstance(self.space, spaces.Box):
            # in the dtype of the environment: the bounds of the translated space are rounded to float32
            return np.asarray(np.clip(action, self.own.low, self.own.high).astype(self.own.dtype))
        whole = action
        if action.dtype.kind == "f":  # a choice of `MixedActions`, whose bounds hold as those of any Box
            highest = np.array(choice_sizes(self.space)).reshape(self.space.shape) - 1
            whole = np.clip(np.rint(action), 0, highest).astype(np.int64)
        own = (whole + self.start).astype(self.own.dtype)
        return np.asarray(own) if isinstance(self.own, spaces.Box) else own  # a Box takes no numpy scalar


class ActionTranslation:
    """Actions of the space `own` as arrays of `space`, and back. parts: in the order of their names or numbers."""

    def __init__(self, own: spaces.Space[Any]) -> None:
        self.own, self.parts = own, list(_parts(own))
        if not self.parts:
            raise UnsupportedSpace(f"action: {own} is empty; expected at least one part")
        self._one = not isinstance(own, spaces.Dict | spaces.Tuple)
        self._choices = [part for part in self.parts if not isinstance(part.space, spaces.Box)]
        self._reals = [part for part in self.parts if isinstance(part.space, spaces.Box)]
        self.space = self.parts[0].space if self._one else self._joined()
        if sum(choice_sizes(self.space)) > MOST_CHOICES:
            raise UnsupportedSpace(
                f"action: {' '.join(str(own).split())} has more than {MOST_CHOICES:,} choices, the most that are supported"
            )

    @property
    def own_start(self) -> Any:
        """What the environment adds to whole numbers from 0: a number, or a list of the shape of the action."""
        if not isinstance(self.own, spaces.Discrete | spaces.MultiDiscrete):
            return 0
        return np.asarray(self.own.start).tolist()

    @property
    def own_to_keep(self) -> spaces.Space[Any] | None:
        """`own`, where `space` and the start of its whole numbers do not say what it was."""
        known = spaces.Discrete | spaces.MultiDiscrete
        real = self._one and isinstance(self.space, spaces.Box)
        return None if real or isinstance(self.own, known) else self.own

    def _joined(self) -> spaces.Space[Any]:
        sizes = [n for part in self._choices for n in choice_sizes(part.space)]
        low, high = (
            np.concatenate([np.zeros(0, np.float32), *(getattr(part.space, end).ravel() for part in self._reals)])
            for end in ("low", "high")
        )
        if not self._reals:
            return spaces.MultiDiscrete(np.array(sizes, np.int64))
        return MixedActions(sizes, low, high) if sizes else spaces.Box(low, high, dtype=np.float32)

    def to_own(self, action: np.ndarray) -> Any:
        """Actions [..., *space.shape] as the environment takes them; parts keep the leading axes."""
        if self._one:
            return self.parts[0].to_own(action)
        pieces = {}
        at = 0
        for part in [*self._choices, *self._reals]:
            flat = action[..., at : at + part.size]
            pieces[part.path] = part.to_own(flat.reshape((*flat.shape[:-1], *part.space.shape))[()])
            at += part.size
        return _rebuilt(self.own, pieces, ())

    def join(self, arrays: list[np.ndarray]) -> np.ndarray:
        """The reverse, of arrays [T, *shape] in the space of each part."""
        if self._one:
            return arrays[0]
        of = {part.path: array for part, array in zip(self.parts, arrays, strict=True)}
        flat = [of[part.path].reshape(len(arrays[0]), part.size) for part in [*self._choices, *self._reals]]
        return np.concatenate(flat, axis=1).astype(self.space.dtype)


def choice_sizes(actions: spaces.Space[Any]) -> list[int]:
    """How many choices each element of a translated action has; empty where all are real numbers."""
    if isinstance(actions, MixedActions):
        return actions.sizes
    if isinstance(actions, spaces.Discrete):
        return [int(actions.n)]
    return [int(n) for n in actions.nvec.flatten()] if isinstance(actions, spaces.MultiDiscrete) else []


def _rebuilt(own: Any, pieces: dict[tuple[Any, ...], Any], path: tuple[Any, ...]) -> Any:
    if isinstance(own, spaces.Dict):
        return {key: _rebuilt(part, pieces, (*path, key)) for key, part in own.items()}
    if isinstance(own, spaces.Tuple):
        return tuple(_rebuilt(part, pieces, (*path, i)) for i, part in enumerate(own))
    return pieces[path]


def _parts(space: spaces.Space[Any], path: tuple[Any, ...] = ()) -> Iterator[Part]:
    if isinstance(space, spaces.Dict | spaces.Tuple):
        # by name, as files keep them: gymnasium sorts the keys of some dictionaries only
        for key, part in (
            sorted(space.items(), key=lambda item: str(item[0])) if isinstance(space, spaces.Dict) else enumerate(space)
        ):
            yield from _parts(part, (*path, key))
    else:
        translated, start = _translated(space, path)
        yield Part(path, space, translated, start)


def _translated(space: spaces.Space[Any], path: tuple[Any, ...]) -> tuple[spaces.Space[Any], np.ndarray]:
    where = f"action {'.'.join(map(str, path))!r}" if path else "action"
    refuse_empty(space, where)
    none = np.int64(0)
    if isinstance(space, spaces.Discrete):
        return spaces.Discrete(int(space.n)), np.asarray(space.start, np.int64)
    if isinstance(space, spaces.MultiDiscrete):
        return spaces.MultiDiscrete(space.nvec.astype(np.int64)), np.asarray(space.start, np.int64)
    if isinstance(space, spaces.MultiBinary):
        return spaces.MultiDiscrete(np.full(space.shape, 2)), np.asarray(none)
    if isinstance(space, spaces.Box) and space.dtype.kind == "f":
        with np.errstate(over="ignore"):
            return spaces.Box(
                space.low.astype(np.float32), space.high.astype(np.float32), dtype=np.float32
            ), np.asarray(none)
    if isinstance(space, spaces.Box):
        # in Python, because int64 may overflow
        ends = zip(space.low.ravel().tolist(), space.high.ravel().tolist(), strict=True)
        sizes = [int(high) - int(low) + 1 for low, high in ends]
        if max(sizes) > MOST_CHOICES:
            raise UnsupportedSpace(
                f"{where}: {' '.join(str(space).split())} has {max(sizes):,} values for one number, and each is a choice;"
                f" expected bounds with at most {MOST_CHOICES:,} values, or a Box of floats"
            )
        start = space.low.astype(np.int64)
        return (
            spaces.MultiDiscrete(np.array(sizes).reshape(space.shape)) if space.shape else spaces.Discrete(sizes[0])
        ), start
    raise UnsupportedSpace(
        f"{where}: {space} is not supported; supported are Discrete, MultiDiscrete, MultiBinary, Box, and Tuple and Dict of these"
    )


def refuse_empty(space: spaces.Space[Any], where: str) -> None:
    if space.shape is not None and 0 in space.shape:
        raise UnsupportedSpace(f"{where}: {space} holds no number; expected a space of at least one number")
