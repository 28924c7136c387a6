"""How the memory of the next segment is made.

update(old [P, M, D], new [P, M, D] as the write tokens left it) -> the memory [P, M, D], and how far its gate was open, [P] in
0..1, or None where it has no gate whose opening can cost something (`policy.write_cost`).
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn

from rmt_rl.policies.gates import hard_sigmoid
from rmt_rl.policies.linear import Linear
from rmt_rl.policies.transformer import attention

#: The memory [P, M, D], and how far the gate was open [P], or None.
Updated = tuple[torch.Tensor, torch.Tensor | None]


class Replace(nn.Module):
    """The paper's rule: the write tokens are the next memory."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()

    def forward(self, old: torch.Tensor, new: torch.Tensor) -> Updated:
        return new, None


class Gate(nn.Module):
    """old + sigmoid(G [old, new] + b) * (tanh(W new) - old): a memory that is kept unless something asks for change."""

    #: How far the gate is open, 0..1.
    opening = staticmethod(torch.sigmoid)

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.gate = Linear(2 * width, width)
        self.candidate = Linear(width, width)
        nn.init.constant_(self.gate.bias, -1.0)

    def forward(self, old: torch.Tensor, new: torch.Tensor) -> Updated:
        gate = self.opening(self.gate(torch.cat([old, new], dim=-1)))
        return old + gate * (torch.tanh(self.candidate(new)) - old), gate.mean((-1, -2))


class HardGate(nn.Module):
    """`Gate` with a gate that reaches 0 and 1: a channel that is closed keeps its number to the bit.

        g = clamp(1.2 * s - 0.1, 0, 1) with s = sigmoid(G [old, new]), in the backward pass that of s (straight-through)

    A sigmoid never closes, so a gated memory still loses a little at every write.
    """

    opening = staticmethod(hard_sigmoid)

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.gate = Linear(2 * width, width)
        self.candidate = Linear(width, width)

    def forward(self, old: torch.Tensor, new: torch.Tensor) -> Updated:
        gate = self.opening(self.gate(torch.cat([old, new], dim=-1)))
        # torch.lerp would round differently for a gate of exactly 0
        return old + gate * (torch.tanh(self.candidate(new)) - old), gate.mean((-1, -2))


class MRV(nn.Module):
    """Memory retention valve of RATE: the old memory attends to the new one.

    Ours adds the old memory to what was found, and normalises the sum; theirs keeps nothing of the old but its queries.
    """

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query = Linear(width, width, bias=False)
        self.key_value = Linear(width, 2 * width, bias=False)
        self.output = Linear(width, width, bias=False)
        self.norm = nn.RMSNorm(width)

    def forward(self, old: torch.Tensor, new: torch.Tensor) -> Updated:
        q, k, v = (x.unflatten(-1, (self.heads, -1)) for x in (self.query(old), *self.key_value(new).chunk(2, dim=-1)))
        return self.norm(old + self.output(attention(q, k, v, None).flatten(2))), None


UPDATES: dict[str, Callable[[int, int], nn.Module]] = {
    "replace": Replace,
    "gate": Gate,
    "hard_gate": HardGate,
    "mrv": MRV,
}
