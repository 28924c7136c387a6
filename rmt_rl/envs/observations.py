"""Which numbers an observation may hold: finite ones, and whole numbers inside the bounds of their space.

An encoder turns whole numbers into categories. One above its bound would light up a category of the next element, without an
error. Real numbers may leave their bounds, as many environments do now and then.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import torch
from gymnasium import spaces

from rmt_rl.common.state import Obs
from rmt_rl.envs.actions import choice_sizes
from rmt_rl.envs.masks import KEY, has_mask, mask_of, no_action, some_action

#: Real numbers farther from zero than this are refused: the squares that a network computes of them overflow float32.
LARGEST = 1e15


def whole_number_ends(space: spaces.Space[Any]) -> tuple[Any, Any] | None:
    """Lowest and highest value of a space of whole numbers; None for other spaces."""
    if isinstance(space, spaces.Discrete):
        return int(space.start), int(space.start + space.n - 1)
    if isinstance(space, spaces.MultiDiscrete):
        return space.start, space.start + space.nvec - 1
    if isinstance(space, spaces.MultiBinary):
        return 0, 1
    whole = isinstance(space, spaces.Box) and space.dtype.kind in "iu"
    return (space.low, space.high) if whole else None  # type: ignore[attr-defined]


class ObservationCheck:
    """Finds numbers that no observation [B, ...] of a space holds, and names the row.

    actions: the action space; None where an action mask is not used as one.
    """

    def __init__(self, space: spaces.Space[Any], actions: spaces.Space[Any] | None) -> None:
        self._sizes = choice_sizes(actions) if actions is not None and has_mask(space, actions) else []
        self._parts = dict(space.spaces) if isinstance(space, spaces.Dict) else {"": space}
        self._ends = {name: _compact(whole_number_ends(part)) for name, part in self._parts.items()}
        self._tensors: dict[tuple[str, torch.device], tuple[torch.Tensor, torch.Tensor]] = {}

    def outside(self, name: str, obs: Obs) -> str | None:
        """The first whole number outside the bounds of its space, as text, or None."""
        for key, x in self._entries(obs):
            ends = self._ends[key]
            if ends is None or not x.numel():
                continue
            if isinstance(ends[0], int):
                if x.dtype == torch.uint8 and ends == (0, 255):  # pictures, which are large
                    continue
                x = x.long()
                if x.device.type == "cpu":  # one pass; on a GPU the host would wait for two numbers
                    lowest, highest = torch.aminmax(x)
                    if lowest.item() >= ends[0] and highest.item() <= ends[1]:
                        continue
            low, high = self._ends_on(x.device, key)
            outside = (x < low) | (x > high)
            if bool(outside.any()):
                bad = outside.nonzero()
                value, space = int(x[tuple(bad[0])]), " ".join(str(self._parts[key]).split())
                return f"{_named(name, key)} of row {int(bad[0, 0])} is {value}, outside {space}"
        return None

    def _ends_on(self, device: torch.device, key: str) -> tuple[torch.Tensor, torch.Tensor]:
        """The bounds of an entry on a device, where they are kept."""
        if (key, device) not in self._tensors:
            low, high = (torch.as_tensor(end, device=device) for end in self._ends[key] or ())
            self._tensors[key, device] = low, high
        return self._tensors[key, device]

    def unusable(self, name: str, obs: Obs) -> str | None:
        """The first NaN, infinity or number too large for a network, as text, or None."""
        for key, x in self._entries(obs):
            if not x.is_floating_point() or not x.numel() or float(x.abs().amax()) <= LARGEST:
                continue
            bad = (~(x.abs() <= LARGEST)).nonzero()
            value = float(x[tuple(bad[0])])
            why = f", and numbers beyond {LARGEST:g} overflow in a network" if abs(value) < float("inf") else ""
            return f"{_named(name, key)} of row {int(bad[0, 0])} is {value:g}{why}"
        return None

    def finds_nothing(self, shown: Iterable[Obs], reward: torch.Tensor, cut: torch.Tensor | None = None) -> bool:
        """Whether no check would find anything in the observations, the reward is finite, and no row is `cut`.

        A device is asked once, because the host waits for every answer. A CPU is not asked (False): the checks are cheap there.
        """
        if reward.device.type == "cpu":
            return False
        flags = [flag for obs in shown for flag in self._flags(obs)]
        if cut is not None:
            flags.append(~cut.any())
        return bool(torch.stack([*flags, reward.float().sum().isfinite()]).all())

    def _flags(self, obs: Obs) -> Iterator[torch.Tensor]:
        """Flags that are all true where `outside`, `unusable` and `no_action` find nothing."""
        for key, x in self._entries(obs):
            if not x.numel():
                continue
            if x.is_floating_point():
                yield x.abs().amax() <= LARGEST
            if self._ends[key] is not None:
                low, high = self._ends_on(x.device, key)
                yield ((x >= low) & (x <= high)).all()
        if self._sizes:
            yield some_action(mask_of(obs), self._sizes).all()

    def no_action(self, name: str, obs: Obs) -> str | None:
        """The first action mask that allows no action, as text, or None. The last observation of an episode may have one."""
        row = no_action(mask_of(obs), self._sizes) if self._sizes else None
        return None if row is None else f"{_named(name, KEY)} of row {row} allows no action"

    def _entries(self, obs: Obs) -> list[tuple[str, torch.Tensor]]:
        return list(obs.items()) if isinstance(obs, dict) else [("", obs)]


def usable(x: torch.Tensor) -> torch.Tensor:
    """x with zeros in place of the numbers that `unusable` finds."""
    return torch.where(x.abs() <= LARGEST, x, 0.0) if x.is_floating_point() else x


def _named(name: str, key: str) -> str:
    return f"{name} {key!r}" if key else name


def _compact(ends: tuple[Any, Any] | None) -> tuple[Any, Any] | None:
    """Two ints where all elements have the same bounds, otherwise arrays of int64."""
    if ends is None:
        return None
    low, high = (np.asarray(end) for end in ends)
    if low.size and (low == low.flat[0]).all() and (high == high.flat[0]).all():
        return int(low.flat[0]), int(high.flat[0])
    return np.broadcast_to(low, np.broadcast(low, high).shape).astype(np.int64), high.astype(np.int64)
