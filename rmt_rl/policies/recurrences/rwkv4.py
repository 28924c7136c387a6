"""RWKV-4 (Peng et al. 2023, arXiv 2305.13048): an average of values, weighted by keys and by a fixed decay for each channel.

    y_t = sum_{s<t} e^{k_s - (t-1-s) w} v_s + e^{u + k_t} v_t,  divided by the same sum without v

Numerator and denominator are kept divided by e^top, the largest weight so far, so that exp never overflows; top has no gradient,
because nothing that the layer computes depends on it. How we differ: the last matrix of each residual branch starts small instead
of zero, and decays start e^3 times slower than in the source, whose slowest channel halves in 100 steps.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from rmt_rl.config.recurrences import RWKV4Config
from rmt_rl.policies.linear import Linear
from rmt_rl.policies.recurrences.scan import Elements, associative_scan
from rmt_rl.policies.recurrences.stack import Layer, Stack, previous, small


@dataclasses.dataclass(frozen=True)
class RWKV4State:
    """numerator, denominator: [B, L, D] divided by e^top. top: [B, L, D].
    time, channel: [B, L, D] normalised inputs of both halves of the layer at the step before, zero before an episode.
    """

    numerator: torch.Tensor
    denominator: torch.Tensor
    top: torch.Tensor
    time: torch.Tensor
    channel: torch.Tensor


def combine(a: Elements, b: Elements) -> Elements:
    """Two stretches of steps as one. Each is (log decay, top, numerator, denominator, 1 or 0 = an episode begins in it)."""
    decayed = a[1] + b[0]
    top = torch.where(b[4] > 0, torch.maximum(decayed, b[1]), b[1]).detach()
    from_a, from_b = b[4] * (torch.where(b[4] > 0, decayed, top) - top).exp(), (b[1] - top).exp()
    return (
        a[0] + b[0],
        top,
        torch.addcmul(b[2] * from_b, a[2], from_a),
        torch.addcmul(b[3] * from_b, a[3], from_a),
        a[4] * b[4],
    )


class RWKV4Layer(Layer[RWKV4State]):
    def __init__(self, config: RWKV4Config, layer: int) -> None:
        super().__init__()
        D, layers = config.width, config.layers
        self.time_norm, self.channel_norm = nn.LayerNorm(D), nn.LayerNorm(D)
        ramp, depth, part = torch.arange(D) / max(1, D - 1), 1 - layer / layers, layer / max(1, layers - 1)
        base = ramp**depth
        self.time_mix = nn.Parameter(
            torch.stack([base, base + 0.3 * part, ramp ** (0.5 * depth)])
        )  # k, v, r: share of now
        self.log_decay = nn.Parameter(-8 + 8 * ramp ** (0.7 + 1.3 * part))  # log w
        self.bonus = nn.Parameter(torch.log(torch.tensor(0.3)) + 0.5 * ((torch.arange(D) + 1) % 3 - 1))
        self.key, self.value, self.receptance = (Linear(D, D, bias=False) for _ in range(3))
        self.output = small(Linear(D, D, bias=False), layers)
        self.channel_mix = nn.Parameter(torch.stack([base, base]))  # k, r
        self.up, self.gate = Linear(D, 4 * D, bias=False), Linear(D, D, bias=False)
        self.down = small(Linear(4 * D, D, bias=False), layers)

    def zero_state(self, batch: int, **like: Any) -> RWKV4State:
        return RWKV4State(*(torch.zeros(batch, len(self.bonus), **like) for _ in range(5)))

    def forward(
        self, x_BTD: torch.Tensor, state: RWKV4State, first_BT: torch.Tensor
    ) -> tuple[torch.Tensor, RWKV4State]:
        h = self.time_norm(x_BTD)
        before = previous(h, state.time, first_BT)
        mixed = [torch.lerp(before, h, mix) for mix in self.time_mix]
        k, v = self.key(mixed[0]), self.value(mixed[1])
        y, numerator, denominator, top = self._average(k, v, state, first_BT)
        x_BTD = x_BTD + self.output(self.receptance(mixed[2]).sigmoid() * y)

        c = self.channel_norm(x_BTD)
        before = previous(c, state.channel, first_BT)
        up, gate = (torch.lerp(before, c, mix) for mix in self.channel_mix)
        x_BTD = x_BTD + self.gate(gate).sigmoid() * self.down(F.relu(self.up(up)).square())
        return x_BTD, RWKV4State(numerator, denominator, top, h[:, -1], c[:, -1])

    def _average(
        self, k: torch.Tensor, v: torch.Tensor, state: RWKV4State, first_BT: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
        """y of every step [B, T, D]; numerator, denominator and top after the last."""
        k, v, keep = k.transpose(0, 1), v.transpose(0, 1), (~first_BT.T)[..., None].to(k.dtype)
        decay = (-self.log_decay.exp()).expand_as(k)
        # the state is an element before the steps; the prefix of t elements is what step t finds
        start = (torch.zeros_like(k[0]), state.top, state.numerator, state.denominator, torch.ones_like(k[0]))
        steps = (decay, k.detach(), v * (k - k.detach()).exp(), (k - k.detach()).exp(), keep.expand_as(k))
        found = associative_scan(combine, tuple(torch.cat([a[None], b]) for a, b in zip(start, steps, strict=True)))
        _, top, numerator, denominator, _ = (x[:-1] for x in found)
        # where an episode begins nothing was found
        numerator, denominator, top = numerator * keep, denominator * keep, torch.where(keep > 0, top, 0.0)
        own = self.bonus + k
        largest = torch.maximum(torch.where(denominator > 0, top, own), own).detach()
        old, new = torch.where(denominator > 0, top - largest, -torch.inf).exp(), (own - largest).exp()
        y = torch.addcmul(new * v, old, numerator) / torch.addcmul(new, old, denominator)
        return y.transpose(0, 1), found[2][-1], found[3][-1], found[1][-1].detach()


class RWKV4(Stack[RWKV4State]):
    def __init__(self, config: RWKV4Config) -> None:
        super().__init__(
            config.width,
            [RWKV4Layer(config, layer) for layer in range(config.layers)],
            f"{2 * config.layers * config.width} sums, each with a decay of its own, updated at every step",
        )
