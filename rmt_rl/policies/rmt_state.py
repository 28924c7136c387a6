"""The state of an RMT, the columns of its cache of keys and values, and what one pass over its layers needs to know.

For the letters of shapes see `rmt.py`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import torch

from rmt_rl.common.state import map_state, select_rows
from rmt_rl.config.policies import RMTConfig
from rmt_rl.policies.segments import Kind
from rmt_rl.policies.transformer import Layout


@dataclasses.dataclass(frozen=True)
class RMTState:
    """memory: [B, M, D] read memory of the current segment; if it lies in the layers, [B, L, *shape], see `LayerMemory`.
    age: [B] steps of the episode so far. Slot of the next step: age % S; number of its segment: age // S.
    cache: [B, L, C+M+S, 2D] keys and values, without rotation: of the C steps before the segment (the XL cache), the newest last
        and zero where the episode is younger; of the read tokens (out of date at slot 0, renewed by the next step); of the
        steps of the segment, zero from the next slot on.
    shifted: [B, L, D/2] token shift's half of the last step's input to each layer, zero at slot 0; [B, L, 0] without it.
    """

    memory: torch.Tensor
    age: torch.Tensor
    cache: torch.Tensor
    shifted: torch.Tensor


@dataclasses.dataclass(frozen=True)
class Attention:
    """Attention weights of one step, for every layer and head; together the four sum to 1 along the last axis.

    read: [B, L, H, M] memory tokens. cache: [B, L, H, C] steps before the segment, the newest last.
    steps: [B, L, H, S] steps of the segment, itself included. null: [B, L, H, 1] the null key, or [B, L, H, 0] without one.
    """

    read: torch.Tensor
    cache: torch.Tensor
    steps: torch.Tensor
    null: torch.Tensor


@dataclasses.dataclass(frozen=True)
class Pass:
    """What the layers need to know about N new tokens [read | steps | write], of which each part may be empty.

    reads, steps: number of read tokens and of steps among the new tokens
    context: cached keys, rotated, and values, [P, K, H, d] each, of every layer; empty = none
    mask: which of the K + N keys a new token sees, as in `attention`
    angles: [N, 2d] or [P, N, 2d] rotary angles of the new tokens
    shifted: [P, L, D/2] token shift's half of the step before the first new step; None = the segment begins with it
    dropout: whether dropout applies
    weights: a list to which every layer appends its attention weights
    tables: [P, L, *shape] the memories of the layers, where they have one; writes: number of write tokens that change them
    keep: how many of the new tokens' keys and values are needed afterwards, None = all; those of the others are freed at once
    """

    reads: int = 0
    steps: int = 0
    context: Sequence[tuple[torch.Tensor, torch.Tensor]] = ()
    mask: torch.Tensor | Layout | None = None
    angles: torch.Tensor | None = None
    shifted: torch.Tensor | None = None
    dropout: bool = False
    weights: list[torch.Tensor] | None = None
    tables: torch.Tensor | None = None
    writes: int = 0
    keep: int | None = None


@dataclasses.dataclass(frozen=True)
class Columns:
    """The columns [XL cache C | read M | steps S] of `RMTState.cache`."""

    C: int
    M: int
    S: int
    hide_blank: bool = False  # read tokens do not exist in the first segment of an episode

    def split(self, cache: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        xl_cache, read, steps = cache.split([self.C, self.M, self.S], dim=2)
        return xl_cache, read, steps

    def positions(self, table: torch.Tensor) -> torch.Tensor:
        """The entries of a table for positions -C..S that belong to the columns; read tokens are at position 0."""
        C, M, S = self.C, self.M, self.S
        return torch.cat([table[:C], table[C : C + 1].expand(M, -1), table[C : C + S]])

    def cache_mask(self, segment_B: torch.Tensor, steps_B: torch.Tensor) -> torch.Tensor:
        """[B, C+M+S], which columns exist after `steps` steps of the episode's segment number `segment`.

        Columns of the XL cache that lie before the episode do not exist.
        """
        column = torch.arange(-self.C - self.M, self.S, device=steps_B.device)
        exists = column < steps_B[:, None]
        if self.hide_blank:
            exists = exists & ((segment_B > 0)[:, None] | (column < -self.M) | (column >= 0))
        if not self.C:
            return exists
        cached = (segment_B * self.S).clamp(max=self.C)
        return exists & (column >= -(self.M + cached)[:, None])

    def visible(self, age_P: torch.Tensor, kind: Kind) -> tuple[slice, torch.Tensor | None]:
        """The columns K that the steps of a group of pieces see, and which of them each piece has, [P, K]; None = all have all.

        A piece that begins with a segment computes its read tokens itself, except for the first segment of an episode.
        """
        C, M, S = self.C, self.M, self.S
        if kind == "fresh":
            return slice(C, C if self.hide_blank else C + M), None
        begin, end = 0, C if kind == "continued" else C + M + S
        if end == begin:
            return slice(0, 0), None
        segment, slot = age_P // S, age_P % S
        exists = self.cache_mask(segment, slot)
        if age_P.device.type == "cpu":  # on a GPU the host would wait for the answer
            begin = C - min(C, int(segment.max()) * S)
            end = min(end, C + M + int(slot.max()))
            if bool(exists[:, begin:end].all()):
                return slice(begin, end), None
        return slice(begin, end), exists[:, begin:end]

    def next_cache(self, cache: torch.Tensor, gradient: int) -> torch.Tensor:
        """The XL cache [B, L, C, 2D] after a full segment with this cache [B, L, C+M+S, 2D]: the newest C steps.

        gradient: number of the newest of them that keep their gradient.
        """
        xl_cache, _, steps = self.split(cache if gradient else cache.detach())
        xl_cache = torch.cat([xl_cache[:, :, self.S :], steps[:, :, -self.C :]], dim=2)
        if not 0 < gradient < self.C:
            return xl_cache
        old, new = xl_cache.split([self.C - gradient, gradient], dim=2)
        return torch.cat([old.detach(), new], dim=2)

    def append(
        self,
        state: RMTState,
        length_P: torch.Tensor,
        rows_R: torch.Tensor | None,
        key_values: list[torch.Tensor],
        halves: list[torch.Tensor],
    ) -> RMTState:
        """The state of some pieces (None = all) after their steps.

        state: in which the pieces begin; if they continue from another piece, it has the columns of the XL cache only.
        length: [P] steps of every piece. key_values, halves: what `RMT._layers` returned of [read | steps | write], with the
        read tokens if the pieces continue from another.
        """
        before = state if rows_R is None else select_rows(state, rows_R)
        rows = torch.arange(len(length_P), device=length_P.device) if rows_R is None else rows_R
        length, slot = length_P[rows], before.age % self.S
        # which of the new steps stands in each slot
        step_RS = torch.arange(self.S, device=slot.device) - slot[:, None]
        index_RS = torch.minimum(step_RS.clamp(min=0), length[:, None] - 1)
        new = ((step_RS >= 0) & (step_RS < length[:, None]))[:, None, :, None]
        if before.cache.shape[2] == self.C:
            xl_cache, read = before.cache, torch.stack([kv[rows, : self.M] for kv in key_values], dim=1)
            steps = _place_steps(key_values, rows, self.M, index_RS) * new
        else:
            xl_cache, read, earlier = self.split(before.cache)
            earlier = earlier * (step_RS < 0)[:, None, :, None]
            steps = torch.where(new, _place_steps(key_values, rows, 0, index_RS), earlier)
        shifted = torch.stack([h[rows, length - 1] for h in halves], dim=1) if halves else before.shifted
        return RMTState(before.memory, before.age + length, torch.cat([xl_cache, read, steps], dim=2), shifted)


def _place_steps(
    key_values: list[torch.Tensor], rows_R: torch.Tensor, first: int, index_RS: torch.Tensor
) -> torch.Tensor:
    """[R, L, S, 2D]: in row r and slot s the token `first + index[r, s]` of piece rows[r], of key_values [P, N, 2D] per layer."""
    flat = (rows_R[:, None] * key_values[0].shape[1] + first + index_RS).flatten()
    return torch.stack(
        [kv.flatten(0, 1).index_select(0, flat).unflatten(0, index_RS.shape) for kv in key_values], dim=1
    )


def gather_states(written: list[tuple[int, RMTState]], sources: tuple[int, int], index: torch.Tensor) -> RMTState:
    """The states after the pieces with the numbers `index`, which lie within `sources`."""
    parts = [(begin, state) for begin, state in written if sources[0] < begin + len(state.age) and begin < sources[1]]
    index = index - parts[0][0]
    states = [state for _, state in parts]
    return map_state(lambda *v: (torch.cat(v) if len(v) > 1 else v[0]).index_select(0, index), *states)


def describe(config: RMTConfig) -> str:
    """What an RMT remembers, in one line."""
    parts = []
    if config.memory_tokens:
        kind, every = config.memory_kind, f"written every {config.segment} steps"
        if kind == "tokens":
            parts.append(f"{config.memory_tokens} memory tokens x {config.width}, {every} ({config.memory_update})")
        else:
            what = "slots" if kind == "slots" else "associative memory"
            parts.append(
                f"{what} of size {config.memory_size} in each layer, {every} by {config.memory_tokens} write tokens"
            )
    if config.cache:
        parts.append(f"keys and values of the {config.cache} steps before the segment")
    return ", ".join(parts) or f"none beyond the segment of {config.segment} steps"
