"""Which observations count as pictures, and where their channels are.

A Box is a picture if its numbers are uint8, or whole or real numbers from 0 to 255, or real numbers from 0 to 1, and its axes are

    [height, width]                         grey
    [height, width, channels]               the last axis is not longer than the first
    [channels, height, width]               otherwise; stacked grey frames, too
    [frames, height, width, channels]       the last axis is not longer than the second
    [frames, channels, height, width]       otherwise

From 36 x 36 pixels on it is seen through convolutions; a smaller one is flattened.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import torch
from gymnasium import spaces

#: The smallest height and width for which the last of the three convolutions has an output.
SMALLEST = 36


@dataclasses.dataclass(frozen=True)
class Picture:
    """shape: of the observation. axes: what its axes are: "HW", "HWC", "CHW", "KHWC" or "KCHW". highest: the value of white.

    known_before: whether the first version of the rules knew it as a picture.
    """

    shape: tuple[int, ...]
    axes: str
    highest: int
    known_before: bool

    @property
    def height(self) -> int:
        return self.shape[self.axes.index("H")]

    @property
    def width(self) -> int:
        return self.shape[self.axes.index("W")]

    @property
    def channels(self) -> int:
        """Of all frames together."""
        return int(np.prod([n for n, axis in zip(self.shape, self.axes, strict=True) if axis in "CK"], dtype=int))

    @property
    def large(self) -> bool:
        return min(self.height, self.width) >= SMALLEST

    def channels_first(self, x: torch.Tensor) -> torch.Tensor:
        """[rows, *shape] -> [rows, channels, height, width]."""
        if self.axes == "HW":
            return x[:, None]
        if self.axes == "HWC":
            return x.permute(0, 3, 1, 2)
        if self.axes == "KHWC":
            return x.permute(0, 1, 4, 2, 3).flatten(1, 2)
        return x.flatten(1, 2) if self.axes == "KCHW" else x

    def __str__(self) -> str:
        return f"{self.height} x {self.width} pixels, {self.channels} channel{'s' if self.channels > 1 else ''}"


def picture_of(space: spaces.Box) -> Picture | None:
    """The picture that an observation of this space is, or None."""
    white = int(space.high.flat[0]) if space.high.size and np.isfinite(space.high.flat[0]) else 0
    whole_range = bool((space.low == 0).all() and (space.high == white).all())
    real = space.dtype.kind == "f"
    if space.dtype != np.uint8 and not (whole_range and (white == 255 or (real and white == 1))):
        return None
    shape = tuple(space.shape)
    axes = {
        2: "HW",
        3: "HWC" if shape[-1] <= shape[0] else "CHW",
        4: "KHWC" if shape[-1] <= shape[1 % len(shape)] else "KCHW",
    }
    if len(shape) not in axes:
        return None
    known = space.dtype == np.uint8 and len(shape) == 3
    return Picture(shape, axes[len(shape)], 1 if real and white == 1 else 255, known)


def describe_pictures(space: spaces.Space[Any]) -> list[str]:
    """What becomes of every picture of at least 8 x 8 in an observation, in words; smaller grids are symbols."""
    parts = space.spaces if isinstance(space, spaces.Dict) else {"": space}
    found = {name: picture_of(part) for name, part in parts.items() if isinstance(part, spaces.Box)}
    return [
        f"{repr(name) + ': ' if name else ''}a picture of {picture}, "
        + (
            "seen through convolutions"
            if picture.large
            else f"smaller than {SMALLEST} x {SMALLEST}: flattened, no convolutions"
        )
        for name, picture in found.items()
        if picture is not None and min(picture.height, picture.width) >= 8
    ]
