"""One transformer block, and the attention kernels behind it.

`attention` chooses the kernel, `Layout` is the mask where all rows are alike, `Block` is the layer. The caller (`rmt.py`)
decides which keys a token may see.
"""

from __future__ import annotations

import dataclasses
import functools
import importlib.util
from collections.abc import Callable
from typing import Any

import torch
from einops import einsum
from torch import nn
from torch.nn import functional as F

from rmt_rl.common.errors import ConfigError
from rmt_rl.policies.linear import Linear

# --------------------------------------------------------------------------------------------------------- the mask


@dataclasses.dataclass(frozen=True)
class Layout:
    """Which token sees which, where all rows of a batch are alike. Sizes in tokens:

    keys     [ left | read | steps | write ]
    queries         [ read | steps | write ]   without the read tokens where `read_queries` is false

    All but the read tokens see the cache of earlier steps (`left`); read tokens see the read tokens; step i
    sees the read tokens and steps j <= i; write tokens see all, except the read tokens where `write_sees_read` is false.
    """

    left: int
    read: int
    steps: int
    write: int
    read_queries: bool = True
    write_sees_read: bool = True

    def without_read_queries(self) -> Layout:
        return dataclasses.replace(self, read_queries=False)

    @functools.lru_cache(maxsize=1024)  # noqa: B019  a layout is a few numbers, and there are few
    def dense(self, device: torch.device) -> torch.Tensor:
        """[queries, keys], true where the query sees the key; do not write to it."""
        read, write_from = self.read, self.read + self.steps
        query = torch.arange(0 if self.read_queries else read, write_from + self.write, device=device)[:, None]
        key = torch.arange(-self.left, write_from + self.write, device=device)
        is_left, is_read = key < 0, (key >= 0) & (key < read)
        seen = torch.where(query < read, is_read, is_left | is_read | (key <= query) | (query >= write_from))
        if not self.write_sees_read:
            seen = seen & ~((query >= write_from) & is_read)
        return seen

    def where(self, exists_PK: torch.Tensor, queries: int) -> torch.Tensor:
        """Mask [P, 1, queries, keys] of the last `queries` queries, for rows that lack some keys.

        exists_PK: whether a row has each of the first K keys; it has all keys behind them.
        """
        dense = self.dense(exists_PK.device)
        exists_PK = F.pad(exists_PK, (0, dense.shape[1] - exists_PK.shape[1]), value=True)
        return (dense[len(dense) - queries :] & exists_PK[:, None])[:, None]


def attention(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    mask: torch.Tensor | Layout | None,
    backend: str = "sdpa",
) -> torch.Tensor:
    """Softmax attention, [P, Q, H, d] over [P, K, H, d] -> [P, Q, H, d].

    mask: None = all keys are seen; [Q, K] or [P, 1, Q, K], true = is seen; or a Layout.
    backend: the kernel where the mask is a Layout; other masks use sdpa.
    """
    if isinstance(mask, Layout):
        if backend == "flash":
            return _by_three_calls(query, key, value, mask, _flash_attn)
        if backend == "flex":
            return _flex(query, key, value, mask)
        mask = mask.dense(query.device)
    q, k, v = (x.transpose(1, 2) for x in (query, key, value))
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask).transpose(1, 2)


def _by_three_calls(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, layout: Layout, call: Callable[..., torch.Tensor]
) -> torch.Tensor:
    """A Layout, by kernels that support only "everything" and "causal, aligned at the bottom right" (flash-attn >= 2.1)."""
    left, read, steps = layout.left, layout.read, layout.steps
    first_step = read if layout.read_queries else 0
    parts = []
    if first_step:
        here = slice(left, left + read)
        parts.append(call(query[:, :read], key[:, here], value[:, here], causal=False))
    end = left + read + steps
    parts.append(call(query[:, first_step : first_step + steps], key[:, :end], value[:, :end], causal=True))
    if layout.write:
        write = query[:, first_step + steps :]
        if layout.write_sees_read:
            parts.append(call(write, key, value, causal=False))
        else:
            k, v = (torch.cat([x[:, :left], x[:, left + read :]], dim=1) for x in (key, value))
            parts.append(call(write, k, v, causal=False))
    return torch.cat(parts, dim=1)


def _flash_attn(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, causal: bool) -> torch.Tensor:
    """flash-attn, which computes in half precision only: others are rounded to bfloat16, 8 significant bits."""
    from flash_attn import flash_attn_func  # type: ignore[import-not-found,unused-ignore]

    half = q.dtype if q.dtype in (torch.float16, torch.bfloat16) else torch.bfloat16
    out: torch.Tensor = flash_attn_func(q.to(half), k.to(half), v.to(half), causal=causal)
    return out.to(q.dtype)


def _flex(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, layout: Layout) -> torch.Tensor:
    if query.device.type != "cuda":
        raise RuntimeError(
            "policy.attention=flex needs a CUDA device: torch's flex_attention has no backward pass on a CPU"
        )
    q, k, v = (x.transpose(1, 2) for x in (query, key, value))
    out: torch.Tensor = _compiled_flex()(q, k, v, block_mask=_block_mask(layout, query.device)).transpose(1, 2)
    return out


@functools.cache
def _compiled_flex() -> Callable[..., Any]:
    from torch.nn.attention.flex_attention import flex_attention

    return torch.compile(flex_attention, dynamic=True)


@functools.lru_cache(maxsize=1024)
def _block_mask(layout: Layout, device: torch.device) -> Any:
    from torch.nn.attention.flex_attention import create_block_mask

    seen = layout.dense(device)
    Q, K = seen.shape
    return create_block_mask(lambda b, h, q, k: seen[q, k], None, None, Q, K, device=str(device))


def check_backend(policy_config: Any, device: torch.device) -> None:
    """Raises ConfigError where the policy's attention cannot be computed on this device."""
    backend = getattr(policy_config, "attention", "sdpa")
    if backend == "sdpa":
        return
    if device.type != "cuda":
        raise ConfigError(
            f"policy.attention={backend}: needs a CUDA device, found {device}; take policy.attention=sdpa"
        )
    if backend == "flash" and importlib.util.find_spec("flash_attn") is None:
        raise ConfigError("policy.attention=flash: needs the package flash-attn; pip install 'rmt_rl[flash]'")


# --------------------------------------------------------------------------------------------------------- rotation


def rotary_table(first: int, last: int, size: int) -> torch.Tensor:
    """What `rotate` needs for positions first..last, size even (Su et al. 2021, arXiv 2104.09864).

    Returns [positions, 2 size] float64: cosines for both halves of a vector, then sines, for the first half with a minus.
    """
    frequency = 10_000.0 ** (-torch.arange(0, size, 2, dtype=torch.float64) / size)
    angle = torch.arange(first, last + 1)[:, None] * frequency
    cos, sin = angle.cos(), angle.sin()
    return torch.cat([cos, cos, -sin, sin], dim=-1)


def rotate(x: torch.Tensor, table: torch.Tensor) -> torch.Tensor:
    """x [..., K, H, d] turned by the angles of its positions, table [..., K, 2d]."""
    cos, sin = table.unsqueeze(-2).chunk(2, dim=-1)
    a, b = x.chunk(2, dim=-1)
    # (a, b) cos + (b, a) (-sin, sin): half as many passes over x as with one product for each of the four parts
    return torch.addcmul(x * cos, torch.cat([b, a], dim=-1), sin)


# ------------------------------------------------------------------------------------------------------------ block


class Block(nn.Module):
    """Pre-norm transformer block (LayerNorm, SiLU, no biases): x + attention, then x + feed-forward.

    SiLU and LayerNorm because on a CPU their backward passes cost half of GELU's and RMSNorm's.

    Callers project with `qkv`, decide which keys a query may see, call `attend`, and end with `residual_ffn`.

    sharpness: factor of the initial attention scores; 1 is torch's initialisation of a linear layer, whose standard deviation of
        0.33 spreads attention evenly
    glu: feed-forward W2 (SiLU(A x) * B x) with 8/3 D hidden units (Shazeer 2020, arXiv 2002.05202), which has as many weights as
        the usual W2 SiLU(W1 x) with 4 D
    norm: layer, or scale = g x / |x| with g = sqrt(D) at the start (ScaleNorm, Nguyen and Salazar 2019, arXiv 1910.05895)
    gating: the residual connection "x +": none; rezero = x + a y with a = 0 at the start (Bachlechner et al. 2020, arXiv
        2003.04887);
        gru = GTrXL's gate (Parisotto et al. 2019, arXiv 1910.06764)
    null_key_value: one learned key and value per head that all tokens see
    value_residual: layers after the first mix in the first layer's values (Zhou et al. 2024, arXiv 2410.17897), by a learned
        gate for each head
    """

    def __init__(
        self,
        width: int,
        heads: int,
        *,
        sharpness: float = 4.5,
        glu: bool = False,
        norm: str = "layer",
        gating: str = "none",
        null_key_value: bool = False,
        value_residual: bool = False,
        dropout: float = 0.0,
        backend: str = "sdpa",
    ) -> None:
        super().__init__()
        self.heads, self.dropout, self.backend = heads, dropout, backend
        # the order of the modules is that of the optimizer's state in checkpoints
        self.attention_norm = make_norm(norm, width)
        self.project = Linear(width, 3 * width, bias=False)
        self.output = Linear(width, width, bias=False)
        self.forward_norm = make_norm(norm, width)
        self.glu, hidden = glu, max(1, 8 * width // 3) if glu else 4 * width
        self.up = Linear(width, 2 * hidden if glu else hidden, bias=False)
        self.down = Linear(hidden, width, bias=False)
        with torch.no_grad():
            self.project.weight[: 2 * width] *= sharpness**0.5
        gate = {"none": None, "gru": GRUGate, "rezero": ReZero}[gating]
        self.attention_gate = gate(width) if gate else None
        self.forward_gate = gate(width) if gate else None
        self.null = nn.Parameter(torch.randn(2 * width)) if null_key_value else None
        self.mix_values = nn.Linear(width, heads) if value_residual else None

    def qkv(self, h: torch.Tensor, first_value: torch.Tensor | None = None) -> torch.Tensor:
        """Queries, keys and values [..., 3D] of the normalised input h [..., D].

        first_value: the first layer's values [..., D] of the same tokens; needed after the first layer of a value residual.
        """
        D = h.shape[-1]
        qkv: torch.Tensor = self.project(h)
        if self.mix_values is not None and first_value is not None:
            share = self.mix_values(h).sigmoid().repeat_interleave(D // self.heads, dim=-1)
            qkv = torch.cat([qkv[..., : 2 * D], torch.lerp(qkv[..., 2 * D :], first_value, share)], dim=-1)
        return qkv

    def residual_ffn(self, x: torch.Tensor, attended: torch.Tensor, drop: bool = False) -> torch.Tensor:
        """The residual stream after attention and feed-forward. drop: whether dropout applies; never when acting."""
        x = _join(self.attention_gate, x, self._drop(self.output(attended), drop))
        hidden, in_place = self.up(self.forward_norm(x)), not torch.is_grad_enabled()
        if self.glu:
            gate, hidden = hidden.chunk(2, dim=-1)
            hidden = F.silu(gate, in_place) * hidden
        else:
            hidden = F.silu(hidden, in_place)
        return _join(self.forward_gate, x, self._drop(self.down(hidden), drop))

    def attend(
        self,
        qkv: torch.Tensor,
        context: tuple[torch.Tensor, torch.Tensor] | None,
        mask: torch.Tensor | Layout | None,
        angles: torch.Tensor | None = None,
        skip: int = 0,
        weights: list[torch.Tensor] | None = None,
    ) -> torch.Tensor:
        """N new tokens attend to cached keys and values and to each other, [P, N, 3D] -> [P, N - skip, D].

        context: cached keys, rotated already, and values, [P, K, H, d] each. mask: as in `attention`, of K + N keys.
        angles: [N, 2d] or [P, N, 2d] of the new tokens, for rotary positions. skip: leading tokens that attend to nothing.
        weights: a list to which the attention weights [P, H, N - skip, K + N] (null key first) are appended.
        """
        H, heads = self.heads, qkv.unflatten(-1, (3 * self.heads, -1))
        if angles is None:
            q, k, v = heads.chunk(3, dim=-2)
        else:
            qk, v = heads.split([2 * H, H], dim=-2)
            q, k = rotate(qk, angles).chunk(2, dim=-2)
        if context is not None:
            k, v = torch.cat([context[0], k], dim=1), torch.cat([context[1], v], dim=1)
        q = q[:, skip:] if skip else q
        if self.null is not None:
            null_k, null_v = (x.view(1, 1, self.heads, -1).expand(len(k), -1, -1, -1) for x in self.null.chunk(2))
            k, v = torch.cat([null_k, k], dim=1), torch.cat([null_v, v], dim=1)
            mask = _see_null(mask, q.device)
        if weights is not None:
            weights.append(_weights(q, k, mask))
        return attention(q, k, v, mask, self.backend).flatten(2)

    def _drop(self, x: torch.Tensor, drop: bool) -> torch.Tensor:
        return F.dropout(x, self.dropout) if drop and self.dropout else x


def _join(gate: nn.Module | None, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    return x + y if gate is None else gate(x, y)


def _see_null(mask: torch.Tensor | Layout | None, device: torch.device) -> torch.Tensor | None:
    dense = mask.dense(device) if isinstance(mask, Layout) else mask
    return None if dense is None else F.pad(dense, (1, 0), value=True)


def _weights(q: torch.Tensor, k: torch.Tensor, mask: torch.Tensor | Layout | None) -> torch.Tensor:
    scores = einsum(q, k, "p q h d, p k h d -> p h q k") / q.shape[-1] ** 0.5
    if mask is not None:
        scores = scores.masked_fill(~(mask.dense(q.device) if isinstance(mask, Layout) else mask), -torch.inf)
    return scores.softmax(-1)


def make_norm(norm: str, width: int) -> nn.Module:
    return ScaleNorm(width) if norm == "scale" else nn.LayerNorm(width, bias=False)


class ScaleNorm(nn.Module):
    """g x / |x|, with one learned number g."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(width**0.5))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.normalize(x, dim=-1, eps=1e-5) * self.scale


class ReZero(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.zeros(()))

    def forward(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return torch.addcmul(x, y, self.scale)


class GRUGate(nn.Module):
    """GTrXL's gate: (1 - z) x + z h with z = sigmoid(W y + U x - b), b = 2 at the start, so that x passes through at first.

    r = sigmoid(W y + U x); h = tanh(W y + U (r x)). As in the paper, y goes through a ReLU first.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.from_y = Linear(width, 3 * width, bias=False)
        self.from_x = Linear(width, 2 * width, bias=False)
        self.from_rx = Linear(width, width, bias=False)
        self.bias = nn.Parameter(torch.full((width,), 2.0))

    def forward(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        y_r, y_z, y_h = self.from_y(F.relu(y)).chunk(3, dim=-1)
        x_r, x_z = self.from_x(x).chunk(2, dim=-1)
        z = torch.sigmoid(y_z + x_z - self.bias)
        h = torch.tanh(y_h + self.from_rx(torch.sigmoid(y_r + x_r) * x))
        return torch.lerp(x, h, z)
