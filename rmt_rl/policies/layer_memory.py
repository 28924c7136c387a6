"""Memories that lie in the layers of an RMT, instead of tokens that the segments pass on (`policy.memory_kind`).

Every layer has its own. All tokens of a segment read it before they attend; at the end of the segment the outputs of the layer's
write tokens change it. Within a segment it stays as it is, so acting and learning compute the same.

Shapes: P pieces, N tokens, M write tokens, D width, K numbers of a key, J slots.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn
from torch.nn import functional as F

from rmt_rl.policies.linear import Linear

#: Keeps divisions by a sum of nonnegative numbers finite where nothing is stored.
EPSILON = 1e-5
#: What a layer finds at the start is this small beside the tokens, so that it starts near the identity.
SMALL = 0.1


class LayerMemory(nn.Module):
    """The memory of one layer: a table [P, *shape], all zeros where an episode begins. Its last column only counts."""

    shape: tuple[int, int]

    def read(self, x_PND: torch.Tensor, table: torch.Tensor) -> torch.Tensor:
        """What the tokens find, [P, N, D]; it is added to them. All zeros where nothing is stored."""
        raise NotImplementedError

    def write(self, table: torch.Tensor, new_PMD: torch.Tensor) -> torch.Tensor:
        """The table after a segment; new: the outputs of its write tokens in this layer."""
        raise NotImplementedError


class Associative(LayerMemory):
    """A matrix A [K, D] of associations, written by the delta rule (ARMT, Rodkin et al. 2024, arXiv 2407.04841).

        read    x + phi(Q x) A / (phi(Q x) z)
        write   k = phi(K m), v = V m, b = sigmoid(B m);  A + b k (v - k A / (k z));  z + max(0, 1 - k z / |k|^2) k

    phi is DPFP-3 (arXiv 2102.11174), K = 6 `size`. z sums up which keys exist, so that what is found does not depend on how often
    a key was written. The table is [A | z].
    How we differ: queries and keys come from normalised vectors; V is small at the start, where the authors' is zero.
    """

    def __init__(self, width: int, size: int, heads: int) -> None:
        super().__init__()
        self.shape = (6 * size, width + 1)
        self.query, self.key = Linear(width, size, bias=False), Linear(width, size, bias=False)
        self.value, self.strength = Linear(width, width, bias=False), nn.Linear(width, 1)
        nn.init.normal_(self.value.weight, std=SMALL / width**0.5)

    def read(self, x_PND: torch.Tensor, table: torch.Tensor) -> torch.Tensor:
        return self._found(_dpfp(self.query(_normalised(x_PND))), table)

    def write(self, table: torch.Tensor, new_PMD: torch.Tensor) -> torch.Tensor:
        m = _normalised(new_PMD)
        key, value, strength = _dpfp(self.key(m)), self.value(m), self.strength(m).sigmoid()
        change = strength * (value - self._found(key, table))
        known = (key @ table[..., -1:]) / (key.square().sum(-1, keepdim=True) + EPSILON)
        return table + key.transpose(1, 2) @ torch.cat([change, (1 - known).clamp(0, 1).detach()], dim=-1)

    def _found(self, key_PNK: torch.Tensor, table: torch.Tensor) -> torch.Tensor:
        found, count = (key_PNK @ table).tensor_split([-1], dim=-1)
        return found / (count + EPSILON)


class Slots(LayerMemory):
    """J vectors, of which every segment changes one for each write token (ELMUR, Cherepanov et al. 2025, arXiv 2510.07151).

    The next slot to be written is the first empty one, or else the one that was written longest ago:

        read    x + attention of x over the slots that are in use
        write   slot (1 - a) + a (slot + MLP [slot | m]), a = 1 where it was empty, otherwise `blend`; then divided by its RMS

    The table is [slots | how many writes ago, from 1; 0 = empty].
    How we differ: a write token has looked at the segment, instead of the slots themselves; no bias by age; the slot is
    normalised, so that it stays finite over any number of segments.
    """

    blend = 0.999

    def __init__(self, width: int, size: int, heads: int) -> None:
        super().__init__()
        self.shape, self.heads = (size, width + 1), heads
        self.query, self.key_value = Linear(width, width, bias=False), Linear(width, 2 * width, bias=False)
        self.output = Linear(width, width, bias=False)
        self.up, self.down = Linear(2 * width, 2 * width, bias=False), Linear(2 * width, width, bias=False)
        nn.init.normal_(self.output.weight, std=SMALL / width**0.5)

    def read(self, x_PND: torch.Tensor, table: torch.Tensor) -> torch.Tensor:
        slots, used = table[..., :-1], table[..., -1].round() > 0
        query = self.query(_normalised(x_PND)).unflatten(-1, (self.heads, -1)).transpose(1, 2)
        key, value = (v.unflatten(-1, (self.heads, -1)).transpose(1, 2) for v in self.key_value(slots).chunk(2, dim=-1))
        # one more key without content, so that no row of the softmax is empty
        key, value = F.pad(key, (0, 0, 1, 0)), F.pad(value, (0, 0, 1, 0))
        mask = F.pad(used, (1, 0), value=True)[:, None, None]
        found = F.scaled_dot_product_attention(query, key, value, attn_mask=mask)
        return self.output(found.transpose(1, 2).flatten(2))

    def write(self, table: torch.Tensor, new_PMD: torch.Tensor) -> torch.Tensor:
        for m in _normalised(new_PMD).unbind(1):
            slots, age = (
                table[..., :-1],
                table[..., -1].round(),
            )  # `python -m rmt_rl.memory` disturbs all numbers of a state
            empty = age == 0
            # empty slots come first, by their number; then the oldest
            order = torch.where(empty, torch.inf, age)
            here = F.one_hot(order.argmax(1), slots.shape[1]).to(table.dtype)
            old = (slots * here[..., None]).sum(1)
            was_empty = (empty * here).sum(1, keepdim=True)
            blend = was_empty + (1 - was_empty) * self.blend
            new = old + blend * self.down(F.silu(self.up(torch.cat([old, m], dim=-1))))
            new = F.rms_norm(new, new.shape[-1:])
            slots = torch.where(here[..., None] > 0, new[:, None], slots)
            age = torch.where(here > 0, 1, age + (age > 0))
            table = torch.cat([slots, age[..., None]], dim=-1)
        return table


#: `policy.memory_kind` -> the class.
LAYER_MEMORIES: dict[str, Callable[[int, int, int], LayerMemory]] = {"associative": Associative, "slots": Slots}


def _normalised(x: torch.Tensor) -> torch.Tensor:
    return F.layer_norm(x, x.shape[-1:])


def _dpfp(x: torch.Tensor) -> torch.Tensor:
    """Deterministic parameter-free projection with nu = 3 (Schlag et al. 2021, arXiv 2102.11174): products of
    rectified numbers with their neighbours, [..., n] -> [..., 6 n]."""
    r = torch.cat([x, -x], dim=-1).relu()
    return torch.cat([r * r.roll(shift, -1) for shift in (1, 2, 3)], dim=-1)
