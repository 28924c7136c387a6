"""DeltaNet (Yang et al. 2024, arXiv 2406.06484) and gated DeltaNet (arXiv 2412.06464): a matrix of associations per head.

    S_t = alpha_t (I - beta_t k_t k_t^T) S_{t-1} + beta_t k_t v_t^T,   y_t = S_t^T q_t

Where a key is written again, its old value is removed first. `decay` false: alpha = 1, so that nothing is forgotten by itself.
With `hard_gates` beta reaches 0 and 1 and alpha reaches 1: a matrix that is not written to is kept to the bit.
How we differ: the input is mixed with the step before it instead of a convolution of four.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from rmt_rl.config.recurrences import DeltaNetConfig
from rmt_rl.policies.gates import gate
from rmt_rl.policies.linear import Linear
from rmt_rl.policies.recurrences.delta_rule import STRONGEST_DECAY, delta_rule
from rmt_rl.policies.recurrences.stack import FeedForward, Layer, Stack, TokenShift, small


@dataclasses.dataclass(frozen=True)
class DeltaNetState:
    """matrix: [B, L, H, K, V]. last: [B, L, D] the normalised input of the step before, zero before an episode."""

    matrix: torch.Tensor
    last: torch.Tensor


class DeltaNetLayer(Layer[DeltaNetState]):
    def __init__(self, config: DeltaNetConfig) -> None:
        super().__init__()
        D, self.heads, self.hard, self.decay = config.width, config.heads, config.hard_gates, config.decay
        self.norm, self.shift = nn.LayerNorm(D, bias=False), TokenShift(D)
        self.project = Linear(D, 3 * D, bias=False)  # query, key, value
        self.write = nn.Linear(D, self.heads)
        if self.decay:
            self.forget = nn.Linear(D, self.heads)
            nn.init.constant_(self.forget.bias, 4.0)  # 0.982 a step at the start
        self.side = Linear(D, D, bias=False)
        self.head_norm = nn.RMSNorm(D // self.heads, eps=1e-5)
        self.output = small(Linear(D, D, bias=False), config.layers)
        self.feed_forward = FeedForward(D, config.layers)

    def zero_state(self, batch: int, **like: Any) -> DeltaNetState:
        D = self.side.in_features
        size = D // self.heads
        return DeltaNetState(torch.zeros(batch, self.heads, size, size, **like), torch.zeros(batch, D, **like))

    def forward(
        self, x_BTD: torch.Tensor, state: DeltaNetState, first_BT: torch.Tensor
    ) -> tuple[torch.Tensor, DeltaNetState]:
        h = self.norm(x_BTD)
        mixed = self.shift(h, state.last, first_BT)
        q, k, v = (x.unflatten(-1, (self.heads, -1)) for x in F.silu(self.project(mixed)).chunk(3, dim=-1))
        q, k = F.normalize(q, dim=-1, eps=1e-6), F.normalize(k, dim=-1, eps=1e-6)
        beta = gate(self.write(mixed), self.hard)[..., None]
        if self.decay:
            log_alpha = gate(self.forget(mixed), self.hard).clamp(min=1e-9).log().clamp(min=STRONGEST_DECAY)[..., None]
        else:
            log_alpha = torch.zeros_like(beta)
        y, matrix = delta_rule(q, log_alpha, -log_alpha.exp() * beta * k, k, k, beta * v, state.matrix, first_BT)
        x_BTD = x_BTD + self.output(self.head_norm(y).flatten(2) * F.silu(self.side(h)))
        return self.feed_forward(x_BTD), DeltaNetState(matrix, h[:, -1])


class DeltaNet(Stack[DeltaNetState]):
    def __init__(self, config: DeltaNetConfig) -> None:
        size = config.width // config.heads
        super().__init__(
            config.width,
            [DeltaNetLayer(config) for _ in range(config.layers)],
            f"{config.layers * config.heads} matrices of {size} x {size}, written by the delta rule at every step",
        )
