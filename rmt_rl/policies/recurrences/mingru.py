"""minGRU (Feng et al. 2024, arXiv 2410.01201): a GRU whose gate and candidate see the input alone, not the hidden state.

    h_t = (1 - z_t) h_{t-1} + z_t c_t,   z_t = sigmoid(W_z x_t + b),   c_t = W_c x_t

so that all steps of a row are computed at once. How we differ: the candidate may be negative (the paper's log-space scan needs
positive ones), x is mixed with the step before it, the output is gated by the input, and a feed-forward part follows. With
`hard_gates` z reaches 0 and 1, so that a number that is not written is kept to the bit.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from rmt_rl.config.recurrences import MinGRUConfig
from rmt_rl.policies.gates import gate
from rmt_rl.policies.linear import Linear
from rmt_rl.policies.recurrences.scan import linear_scan
from rmt_rl.policies.recurrences.stack import FeedForward, Layer, Stack, TokenShift, small


@dataclasses.dataclass(frozen=True)
class MinGRUState:
    """hidden: [B, L, D]. last: [B, L, D] the normalised input of the step before, zero before an episode."""

    hidden: torch.Tensor
    last: torch.Tensor


class MinGRULayer(Layer[MinGRUState]):
    def __init__(self, config: MinGRUConfig) -> None:
        super().__init__()
        D = config.width
        self.hard = config.hard_gates
        self.norm, self.shift = nn.LayerNorm(D, bias=False), TokenShift(D)
        self.project = Linear(D, 3 * D, bias=False)  # gate, candidate, output gate
        self.bias = nn.Parameter(torch.full((D,), -2.0))  # writes little at the start
        self.output = small(Linear(D, D, bias=False), config.layers)
        self.feed_forward = FeedForward(D, config.layers)

    def zero_state(self, batch: int, **like: Any) -> MinGRUState:
        return MinGRUState(*(torch.zeros(batch, len(self.bias), **like) for _ in range(2)))

    def forward(
        self, x_BTD: torch.Tensor, state: MinGRUState, first_BT: torch.Tensor
    ) -> tuple[torch.Tensor, MinGRUState]:
        h = self.norm(x_BTD)
        z, candidate, side = self.project(self.shift(h, state.last, first_BT)).chunk(3, dim=-1)
        z = gate(z + self.bias, self.hard)
        keep = torch.where(first_BT[..., None], z.new_zeros(()), 1 - z)
        hidden = linear_scan(keep.transpose(0, 1), (z * candidate).transpose(0, 1), state.hidden)
        x_BTD = x_BTD + self.output(hidden.transpose(0, 1) * F.silu(side))
        return self.feed_forward(x_BTD), MinGRUState(hidden[-1], h[:, -1])


class MinGRU(Stack[MinGRUState]):
    def __init__(self, config: MinGRUConfig) -> None:
        numbers = config.layers * config.width
        super().__init__(
            config.width,
            [MinGRULayer(config) for _ in range(config.layers)],
            f"minGRU state of {numbers} numbers, carried from step to step",
        )
