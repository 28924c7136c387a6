"""One transformer block, taken apart into the pieces that the step, the read and the write of a memory share."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F

from rmt_rl.policies.linear import Linear


class Block(nn.Module):
    """Pre-norm transformer block (LayerNorm, SiLU, no biases): x + attention, then x + feed-forward.

    SiLU and LayerNorm because on a CPU their backward passes cost half of GELU's and RMSNorm's.

    Callers project with `qkv`, decide themselves which keys a query may see, and end with `finish`.
    """

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.attention_norm = nn.LayerNorm(width, bias=False)
        self.project = Linear(width, 3 * width, bias=False)
        self.output = Linear(width, width, bias=False)
        self.forward_norm = nn.LayerNorm(width, bias=False)
        self.up = Linear(width, 4 * width, bias=False)
        self.down = Linear(4 * width, width, bias=False)

    def qkv(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Queries [..., D], and keys and values together [..., 2D]."""
        query, key_value = self.project(self.attention_norm(x)).split([x.shape[-1], 2 * x.shape[-1]], dim=-1)
        return query, key_value

    def finish(self, x: torch.Tensor, attended: torch.Tensor) -> torch.Tensor:
        x = x + self.output(attended)
        return x + self.down(F.silu(self.up(self.forward_norm(x))))

    def attend(self, query: torch.Tensor, key_value: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
        """Softmax attention: query [P, Q, D], key_value [P, K, 2D], mask [Q, K] or [P, 1, Q, K], true = may be seen."""
        key, value = key_value.chunk(2, dim=-1)
        q, k, v = (x.unflatten(-1, (self.heads, -1)).transpose(1, 2) for x in (query, key, value))
        return F.scaled_dot_product_attention(q, k, v, attn_mask=mask).transpose(1, 2).flatten(2)
