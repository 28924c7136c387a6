"""RWKV-7 (Peng et al. 2025, arXiv 2503.14456): a matrix per head, with decays, removal and writing for each channel.

    S_t = diag(w_t) S_{t-1} - (kappa_t * a_t) (kappa_t^T S_{t-1}) + k_t v_t^T,   y_t = S_t^T r_t + (r_t . (rho * k_t)) v_t

kappa is the normalised key of what is removed, a how much of it. w, a and the output gate come from small networks. How we
differ: the first layer's values are not mixed into those of later layers, and the last matrix of each residual branch starts
small instead of zero.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from rmt_rl.config.recurrences import RWKV7Config
from rmt_rl.policies.linear import Linear
from rmt_rl.policies.recurrences.delta_rule import delta_rule
from rmt_rl.policies.recurrences.stack import Layer, Stack, previous, small

#: Logarithm of the strongest decay of a step: w = exp(-exp(-1/2) sigmoid(..)).
STRONGEST = -math.exp(-0.5)


@dataclasses.dataclass(frozen=True)
class RWKV7State:
    """matrix: [B, L, H, K, V]. time, channel: [B, L, D] normalised inputs of both halves of the layer at the step before."""

    matrix: torch.Tensor
    time: torch.Tensor
    channel: torch.Tensor


class LowRank(nn.Module):
    """bias + B f(A x) with a hidden layer of `rank` units."""

    def __init__(self, width: int, rank: int, bias: torch.Tensor) -> None:
        super().__init__()
        self.inner, self.outer = Linear(width, rank, bias=False), Linear(rank, width, bias=False)
        nn.init.normal_(self.outer.weight, std=0.1)
        self.bias = nn.Parameter(bias)

    def forward(self, x: torch.Tensor, tanh: bool = False) -> torch.Tensor:
        h = self.inner(x)
        return self.bias + self.outer(h.tanh() if tanh else h)


class RWKV7Layer(Layer[RWKV7State]):
    def __init__(self, config: RWKV7Config, layer: int) -> None:
        super().__init__()
        D, layers, self.heads = config.width, config.layers, config.heads
        self.time_norm, self.channel_norm = nn.LayerNorm(D), nn.LayerNorm(D)
        ramp, depth = torch.arange(D) / max(1, D - 1), 1 - layer / layers
        power = torch.tensor([0.2, 0.9, 0.7, 0.7, 0.9, 0.2])[:, None] * depth
        self.time_mix = nn.Parameter(1 - ramp**power)  # r, w, k, v, a, g: share of the step before
        self.receptance, self.key, self.value = (Linear(D, D, bias=False) for _ in range(3))
        for linear in (self.receptance, self.key, self.value):
            nn.init.orthogonal_(linear.weight)
        self.decay = LowRank(D, config.low_rank, -7 + 5 * ramp ** (0.85 + depth**0.5))
        self.rate = LowRank(D, config.low_rank, torch.zeros(D))
        self.gate_in, self.gate_out = Linear(D, config.low_rank, bias=False), Linear(config.low_rank, D, bias=False)
        self.removed = nn.Parameter(torch.full((D,), 0.85))
        self.written = nn.Parameter(torch.ones(D))
        self.bonus = nn.Parameter(torch.zeros(D))
        self.head_norm = nn.GroupNorm(self.heads, D, eps=64e-5)
        self.output = small(Linear(D, D, bias=False), layers)
        self.channel_mix = nn.Parameter(1 - ramp ** (depth**4))
        self.up, self.down = Linear(D, 4 * D, bias=False), small(Linear(4 * D, D, bias=False), layers)

    def zero_state(self, batch: int, **like: Any) -> RWKV7State:
        D = len(self.bonus)
        size = D // self.heads
        zero = torch.zeros(batch, D, **like)
        return RWKV7State(torch.zeros(batch, self.heads, size, size, **like), zero, zero)

    def forward(
        self, x_BTD: torch.Tensor, state: RWKV7State, first_BT: torch.Tensor
    ) -> tuple[torch.Tensor, RWKV7State]:
        B, T, D = x_BTD.shape
        h = self.time_norm(x_BTD)
        change = previous(h, state.time, first_BT) - h
        for_r, for_w, for_k, for_v, for_a, for_g = (torch.addcmul(h, change, mix) for mix in self.time_mix)
        r, k, v = self.receptance(for_r), self.key(for_k), self.value(for_v)
        log_decay = STRONGEST * self.decay(for_w, tanh=True).sigmoid()
        a = self.rate(for_a).sigmoid()
        g = 1 + self.gate_out(self.gate_in(for_g).sigmoid() - 0.5)

        kappa = F.normalize((k * self.removed).unflatten(-1, (self.heads, -1)), dim=-1, eps=1e-6)
        k = k * (1 + (a - 1) * self.written)
        r, k, v, a, log_decay = (x.unflatten(-1, (self.heads, -1)) for x in (r, k, v, a, log_decay))
        y, matrix = delta_rule(r, log_decay, -kappa, kappa * a, k, v, state.matrix, first_BT)
        y = self.head_norm(y.reshape(B * T, D)).view_as(r)
        y = y + (r * k * self.bonus.view(self.heads, -1)).sum(-1, keepdim=True) * v
        x_BTD = x_BTD + self.output(y.flatten(2) * g)

        c = self.channel_norm(x_BTD)
        mixed = torch.lerp(c, previous(c, state.channel, first_BT), self.channel_mix)
        return x_BTD + self.down(F.relu(self.up(mixed)).square()), RWKV7State(matrix, h[:, -1], c[:, -1])


class RWKV7(Stack[RWKV7State]):
    def __init__(self, config: RWKV7Config) -> None:
        size = config.width // config.heads
        super().__init__(
            config.width,
            [RWKV7Layer(config, layer) for layer in range(config.layers)],
            f"{config.layers * config.heads} matrices of {size} x {size}, decayed and corrected at every step",
        )
