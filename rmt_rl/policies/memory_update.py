"""How the memory of the next segment is made: update(old [P, M, D], new [P, M, D] as the write tokens left it) -> [P, M, D]."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn

from rmt_rl.policies.linear import Linear
from rmt_rl.policies.transformer import attention


class Replace(nn.Module):
    """The paper's rule: the write tokens are the next memory."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()

    def forward(self, old: torch.Tensor, new: torch.Tensor) -> torch.Tensor:
        return new


class Gate(nn.Module):
    """old + sigmoid(G [old, new] + b) * (tanh(W new) - old): a memory that is kept unless something asks for change."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.gate = Linear(2 * width, width)
        self.candidate = Linear(width, width)
        nn.init.constant_(self.gate.bias, -1.0)

    def forward(self, old: torch.Tensor, new: torch.Tensor) -> torch.Tensor:
        gate = torch.sigmoid(self.gate(torch.cat([old, new], dim=-1)))
        return old + gate * (torch.tanh(self.candidate(new)) - old)


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

    def forward(self, old: torch.Tensor, new: torch.Tensor) -> torch.Tensor:
        q, k, v = (x.unflatten(-1, (self.heads, -1)) for x in (self.query(old), *self.key_value(new).chunk(2, dim=-1)))
        return self.norm(old + self.output(attention(q, k, v, None).flatten(2)))


UPDATES: dict[str, Callable[[int, int], nn.Module]] = {"replace": Replace, "gate": Gate, "mrv": MRV}
