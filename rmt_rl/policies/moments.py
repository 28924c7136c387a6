"""Mean and deviation of observations, gathered while learning."""

from __future__ import annotations

import torch
from torch import nn

#: Normalised numbers are cut off at this many deviations, as OpenAI Baselines' VecNormalize does.
CUT = 10.0
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
