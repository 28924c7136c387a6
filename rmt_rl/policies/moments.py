"""Mean and deviation of observations, gathered while learning, and of recorded actions."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import nn

from rmt_rl.common.errors import ConfigError
from rmt_rl.config.fields import show

#: Normalised numbers are cut off at this many deviations, as OpenAI Baselines' VecNormalize does.
CUT = 10.0
#: A deviation below this share of the mean is rounding: the numbers are all the same.
ROUNDING = 1e-6
#: Added to the variance, so that an element that never changes is not divided by zero.
SMALLEST = 1e-8


class RunningMoments(nn.Module):
    """[N, E] -> the same with mean 0 and deviation 1 over all rows that were added; without any, unchanged.

    chosen: [E] which elements are normalised; the others pass. The update merges the moments of a batch with those before it
    (Chan et al. 1983), in float64.
    """

    chosen: torch.Tensor
    count: torch.Tensor
    mean: torch.Tensor
    squares: torch.Tensor

    def __init__(self, chosen: torch.Tensor) -> None:
        super().__init__()
        self.register_buffer("chosen", chosen, persistent=False)
        self.register_buffer("count", torch.zeros((), dtype=torch.float64))
        self.register_buffer("mean", torch.zeros(len(chosen), dtype=torch.float64))
        self.register_buffer("squares", torch.zeros(len(chosen), dtype=torch.float64))

    @torch.no_grad()
    def add(self, x: torch.Tensor) -> None:
        """Add [N, E] rows."""
        x = x.double()
        mean, total = x.mean(0), self.count + len(x)
        difference = mean - self.mean
        self.squares += (x - mean).square().sum(0) + difference.square() * self.count * len(x) / total
        self.mean += difference * len(x) / total
        self.count.copy_(total)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        variance = torch.where(self.count > 0, self.squares / self.count.clamp(min=1), 1.0)
        normal = ((x - self.mean) / (variance + SMALLEST).sqrt()).clamp(-CUT, CUT).to(x.dtype)
        return torch.where(self.chosen & (self.count > 0), normal, x)

    def deviation(self) -> torch.Tensor:
        """[E] the standard deviation of the rows that were added."""
        return (self.squares / self.count.clamp(min=1)).sqrt()


@dataclasses.dataclass(frozen=True)
class ActionScale:
    """Mean and standard deviation of each element of recorded actions: the network's units where an element has no bounds."""

    mean: tuple[float, ...]
    deviation: tuple[float, ...]

    @staticmethod
    def of(actions: Iterable[torch.Tensor], size: int) -> ActionScale:
        """The scale of [N, size] actions; an element that never changes has deviation 1."""
        moments = RunningMoments(torch.ones(size, dtype=torch.bool))
        for rows in actions:
            moments.add(rows)
        deviation = moments.deviation()
        constant = deviation <= ROUNDING * moments.mean.abs()
        deviation = torch.where(constant, 1.0, deviation)
        return ActionScale(tuple(moments.mean.tolist()), tuple(deviation.tolist()))

    def of_last(self, size: int) -> ActionScale:
        """The scale of the last `size` elements."""
        return ActionScale(self.mean[-size:], self.deviation[-size:])

    def to_json(self) -> dict[str, list[float]]:
        """Plain values, which `from_json` reads again."""
        return {"mean": list(self.mean), "deviation": list(self.deviation)}

    @staticmethod
    def from_json(saved: Any, size: int) -> ActionScale | None:
        """The reverse of `to_json` for actions of `size` elements; raises ConfigError where `saved` is something else."""
        if saved is None:
            return None
        given: Mapping[str, Any] = saved if isinstance(saved, Mapping) and len(saved) == 2 else {}
        numbers: list[Any] = [given.get("mean"), given.get("deviation")]
        good = all(
            isinstance(side, list) and len(side) == size and all(_is_finite(x) for x in side) for side in numbers
        )
        if not good or not all(x > 0 for x in numbers[1]):
            raise ConfigError(
                f"action_scale={show(saved)}: expected null, or mean and deviation with {size} numbers each, above 0 in deviation"
            )
        return ActionScale(*(tuple(float(x) for x in side) for side in numbers))


def _is_finite(x: Any) -> bool:
    return type(x) in (int, float) and abs(x) <= torch.finfo(torch.float32).max and math.isfinite(x)
