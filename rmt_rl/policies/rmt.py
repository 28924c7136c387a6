r"""Recurrent Memory Transformer on continuous inputs (Bulatov et al. 2022, arXiv 2207.06881), with a Transformer-XL cache.

A segment is the sequence [cache C | read memory M | steps S | write memory M]:

    query \ key   cache   read   steps            write
    read          no      all    no               no
    step i        all     all    j <= i           no
    write         all     all    all              all

What the write tokens become is the read memory of the next segment; the cache holds keys and values of the C steps before
the segment. Steps never see the future and read tokens never see the segment, so acting step by step with a cache of keys
and values gives what the learner computes at once.

How we differ from the paper: inputs are vectors, not tokens; attention inside a segment is causal; a segment is S steps *of
one episode*: every row has its own clock, which restarts with the episode. So an episode's outcome does not depend on
where in a rollout, or in which row, it happens to start, rows can be taken out of a batch and put into another, and the
memory is never written by a segment that spans two episodes. `memory_update="gate"` is ours.

M = 0 and C > 0 is a Transformer-XL (Dai et al. 2019, arXiv 1901.02860), with gating="gru" a GTrXL (Parisotto et al. 2019, arXiv
1910.06764), and M = 0, C = 0 sees the present segment only.

How `unroll` works: the rows are cut at resets and at segment ends into pieces. Pieces that hand memory on are processed
level by level, k-th segments of all episodes side by side; all the others, on which nothing depends, in one go at the end.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from rmt_rl.common.allocator import give_back_freed_memory
from rmt_rl.common.state import map_state, select_rows, where_rows
from rmt_rl.policies.base import Backbone, parameter_device_and_type
from rmt_rl.policies.memory_update import UPDATES
from rmt_rl.policies.segments import Group, Pieces, cut
from rmt_rl.policies.transformer import Backend, Block, Gating, Layout, rotary_table

#: Bytes of a segment's input from which on replay gives freed memory back between segments; it takes a millisecond or more.
WORTH_GIVING_BACK = 2**18


@dataclasses.dataclass(frozen=True)
class RMTState:
    """memory: [B, M, D] read memory of the present segment.
    age: [B] steps of the episode that are past. Slot of the next step: age % S; number of its segment: age // S.
    cache: [B, L, C+M+S, 2D] keys and values, without rotation: of the C steps before the segment, the newest last and zero where
        the episode is younger; of the read tokens (out of date at slot 0, renewed by the next step); of the steps of the
        segment, zero from the next slot on.
    shifted: [B, L, D/2] token shift's half of the last step's input to each layer, zero at slot 0; [B, L, 0] without it.
    """

    memory: torch.Tensor
    age: torch.Tensor
    cache: torch.Tensor
    shifted: torch.Tensor


@dataclasses.dataclass(frozen=True)
class Attention:
    """Where one step looked, for every layer and head; the four sum to 1 along the last axis taken together.

    read: [B, L, H, M] memory tokens. cache: [B, L, H, C] steps before the segment, the newest last.
    steps: [B, L, H, S] steps of the segment, itself included. null: [B, L, H, 1] the null key, or [B, L, H, 0] without one.
    """

    read: torch.Tensor
    cache: torch.Tensor
    steps: torch.Tensor
    null: torch.Tensor


class RMT(Backbone[RMTState]):
    """`layers` blocks over segments of `segment` steps, with `memory_tokens` vectors from segment to segment.

    cache: C. cache_gradient: gradients reach this many of the newest cached steps; 0 is the paper's stop-gradient.
    positions: learned = one vector for each slot of the segment, added to the input; rotary (arXiv 2104.09864) = by distance,
        also into the cache, with read tokens at the first slot and write tokens behind the last; none. A cache needs one of
        the last two, because a learned slot says nothing about steps of an earlier segment.
    write_from: what write tokens start from: the read memory (2207.06881) or learned vectors alone.
    memory_place: both = read tokens in front and write tokens behind, as above; front = one block of memory tokens, as in the
        encoder variant (2304.11062): the same tokens that the steps read, with the same embedding, look at themselves and at the
        segment, and not at separate read tokens. The look at the segment comes after its last step, so that it stays causal.
    memory_update: replace = the paper's; gate (ours); mrv = memory retention valve (RATE, arXiv 2306.09459).
    memory_norm: divide every memory vector by its root mean square after the update.
    bptt_segments: gradients do not pass the end of every n-th segment of an episode; None = they pass all.
    token_shift: half of a step's input to every layer is that of the step before it in the segment (RWKV, arXiv 2305.13048).
    replay: keep no activations of segments, compute them again in the backward pass (memory replay, Memformer, arXiv
        2010.06891): the same gradients of any loss on the outputs, for memory that does not grow with the number of segments.
    sharpness, gating, null_key_value, value_residual, dropout, attention: see `Block`.
    """

    rotary: torch.Tensor

    def __init__(
        self,
        width: int,
        layers: int,
        heads: int,
        segment: int,
        memory_tokens: int,
        *,
        sharpness: float = 4.5,
        memory_update: Literal["replace", "gate", "mrv"] = "replace",
        cache: int = 0,
        cache_gradient: int = 0,
        positions: Literal["learned", "rotary", "none"] = "learned",
        write_from: Literal["memory", "learned"] = "memory",
        memory_place: Literal["both", "front"] = "both",
        memory_norm: bool = False,
        bptt_segments: int | None = None,
        gating: Gating = "none",
        null_key_value: bool = False,
        value_residual: bool = False,
        token_shift: bool = False,
        dropout: float = 0.0,
        replay: bool = False,
        attention: Backend = "sdpa",
    ) -> None:
        super().__init__()
        self.width, self.segment, self.memory_tokens = width, segment, memory_tokens
        self.cache_steps, self.cache_gradient, self.bptt_segments = cache, min(cache, cache_gradient), bptt_segments
        self.positions, self.write_from, self.memory_norm, self.replay = positions, write_from, memory_norm, replay
        self.value_residual = value_residual
        self.front, self.shift = memory_place == "front", width // 2 if token_shift else 0
        blocks = [
            Block(
                width,
                heads,
                sharpness=sharpness,
                gating=gating,
                null_key_value=null_key_value,
                value_residual=value_residual and layer > 0,
                dropout=dropout,
                backend=attention,
            )
            for layer in range(layers)
        ]
        self.blocks: Sequence[Block] = nn.ModuleList(blocks)  # type: ignore[assignment]
        self.norm = nn.RMSNorm(width)
        if positions == "learned":
            self.position = nn.Parameter(0.1 * torch.randn(segment, width))
        if positions == "rotary":
            table = rotary_table(-cache, segment, width // heads).to(torch.get_default_dtype())
            self.register_buffer("rotary", table, persistent=False)
        # distinct vectors: equal ones would stay equal, and M tokens would hold no more than one
        self.initial_memory = nn.Parameter(torch.randn(memory_tokens, width))
        self.read_position = nn.Parameter(0.1 * torch.randn(memory_tokens, width))
        if not self.front:
            self.write_position = nn.Parameter(0.1 * torch.randn(memory_tokens, width))
        self.update = UPDATES[memory_update](width, heads)
        for block in blocks:
            for linear in (block.output, block.down):
                nn.init.normal_(linear.weight, std=0.1 / layers**0.5)  # each block starts near the identity
        self.description = _describe(memory_tokens, width, segment, memory_update, cache)

    def initial_state(self, batch: int) -> RMTState:
        C, M, S, D, L = self.cache_steps, self.memory_tokens, self.segment, self.width, len(self.blocks)
        like = parameter_device_and_type(self)
        return RMTState(
            memory=self.initial_memory.expand(batch, M, D),
            age=torch.zeros(batch, dtype=torch.int64, device=like["device"]),
            cache=torch.zeros(batch, L, C + M + S, 2 * D, **like),
            shifted=torch.zeros(batch, L, self.shift, **like),
        )

    # ------------------------------------------------------------------------------------------------------- acting

    def step(self, x_BD: torch.Tensor, state: RMTState, first_B: torch.Tensor) -> tuple[torch.Tensor, RMTState]:
        return self._step(x_BD, state, first_B, None)

    def explain(self, x_BD: torch.Tensor, state: RMTState, first_B: torch.Tensor) -> Attention:
        """Where the step that `step` would make looks."""
        weights: list[torch.Tensor] = []
        self._step(x_BD, state, first_B, weights)
        w = torch.stack(weights, dim=1)[:, :, :, 0]  # [B, L, H, (null) C+M+S]
        C, M, S = self.cache_steps, self.memory_tokens, self.segment
        null, cache, read, steps = w.split([w.shape[-1] - C - M - S, C, M, S], dim=-1)
        return Attention(read, cache, steps, null)

    def _step(
        self, x_BD: torch.Tensor, state: RMTState, first_B: torch.Tensor, weights: list[torch.Tensor] | None
    ) -> tuple[torch.Tensor, RMTState]:
        state = self._begin(state, first_B)
        slot = state.age % self.segment
        past = self._past(state.age)
        here = (
            torch.arange(past.shape[1], device=slot.device) == (self.cache_steps + self.memory_tokens + slot)[:, None]
        )
        kept, now, seen = past[..., None].to(x_BD.dtype), here[..., None].to(x_BD.dtype), (past | here)[:, None, None]
        angles = self._angles(self.cache_steps, self.segment, 0)
        rotation = None if angles is None else (self.rotary[self.cache_steps + slot][:, None], angles)
        x = (x_BD + self.position[slot] if self.positions == "learned" else x_BD)[:, None]
        before = state.shifted * (slot > 0)[:, None, None] if self.shift else state.shifted
        caches, shifted, first_value = [], [], None
        for layer, block in enumerate(self.blocks):
            h = block.attention_norm(x)
            if self.shift:
                shifted.append(h[:, 0, -self.shift :])
                h = torch.cat([h[..., : -self.shift], before[:, layer, None]], dim=-1)
            query, key_value = block.qkv(h, first_value)
            first_value = key_value[..., self.width :] if first_value is None else first_value
            # products, not torch.where, which is 5 times slower here; what is left of a reset row is finite by now
            caches.append(torch.addcmul(key_value * now, state.cache[:, layer], kept))
            x = block.finish(x, block.attend(query, caches[-1], seen, rotation, weights))
        after = RMTState(
            state.memory,
            state.age + 1,
            torch.stack(caches, dim=1),
            torch.stack(shifted, dim=1) if self.shift else state.shifted,
        )
        return self.norm(x[:, 0]), self._end(after)

    def _past(self, age_B: torch.Tensor) -> torch.Tensor:
        """[B, C+M+S], where in the cache something stands that the next step may look at."""
        M, S = self.memory_tokens, self.segment
        place = torch.arange(-self.cache_steps - M, S, device=age_B.device)
        cached = (age_B // S * S).clamp(max=self.cache_steps)
        return (place < (age_B % S)[:, None]) & (place >= -(M + cached)[:, None])

    def _begin(self, state: RMTState, first_B: torch.Tensor) -> RMTState:
        """Forget what `first` discards, and read the memory where a segment begins."""
        C, M = self.cache_steps, self.memory_tokens
        memory, age, cache, shifted = state.memory, torch.where(first_B, 0, state.age), state.cache, state.shifted
        if rows := _Rows(first_B):
            memory = rows.put(memory, self.initial_memory)
            cache, shifted = (rows.put(x, x.new_zeros(())) for x in (cache, shifted))
        if M and (rows := _Rows(age % self.segment == 0)):
            read = self._read(rows.take(memory))
            cache = torch.cat([cache[:, :, :C], rows.put(cache[:, :, C : C + M], read), cache[:, :, C + M :]], dim=2)
        return RMTState(memory, age, cache, shifted)

    def _end(self, state: RMTState) -> RMTState:
        """Where a segment is full: write the memory, and let its steps move on into the cache."""
        C, M = self.cache_steps, self.memory_tokens
        rows = _Rows(state.age % self.segment == 0)
        if not rows:
            return state
        memory, cache, age = state.memory, state.cache, rows.take(state.age)
        full = rows.take(cache)
        if M:
            memory = rows.put(memory, self._stop(self._write(rows.take(memory), full, age), age // self.segment))
        parts = [cache[:, :, : C + M], rows.put(cache[:, :, C + M :], cache.new_zeros(()))]
        if C:
            left = self._stop(self._hand_on(full[:, :, :C], full[:, :, C + M :]), age // self.segment)
            parts = [rows.put(cache[:, :, :C], left), cache[:, :, C : C + M], parts[1]]
        shifted = rows.put(state.shifted, cache.new_zeros(())) if self.shift else state.shifted
        return RMTState(memory, state.age, torch.cat(parts, dim=2), shifted)

    def _read(self, memory_BMD: torch.Tensor) -> torch.Tensor:
        """Keys and values of the read tokens in every layer, [B, L, M, 2D]."""
        if not self.memory_tokens:
            return memory_BMD.new_zeros(len(memory_BMD), len(self.blocks), 0, 2 * self.width)
        x, cache, first_value = memory_BMD + self.read_position, [], None
        for layer, block in enumerate(self.blocks):
            query, key_value = block.qkv(block.attention_norm(x), first_value)
            first_value = key_value[..., self.width :] if first_value is None else first_value
            cache.append(key_value)
            if layer + 1 < len(self.blocks):
                x = block.finish(x, block.attend(query, key_value, None))
        return torch.stack(cache, dim=1)

    def _write(self, memory_BMD: torch.Tensor, cache: torch.Tensor, age_B: torch.Tensor) -> torch.Tensor:
        """The memory after a full segment, [B, M, D], from the keys and values [B, L, C+M+S, 2D]; age after its last step."""
        C, M, S = self.cache_steps, self.memory_tokens, self.segment
        mask = None
        if C or self.front:
            seen = self._past(age_B - 1)
            seen[:, -1] = True  # the last step itself
            if self.front:
                seen[:, C : C + M] = False
            mask = F.pad(seen, (0, M), value=True)[:, None, None]
        angles = self._angles(C, S, M)
        rotation = None if angles is None else (angles[-M:], angles)
        x, first_value = self._write_tokens(memory_BMD), None
        for layer, block in enumerate(self.blocks):
            query, key_value = block.qkv(block.attention_norm(x), first_value)
            first_value = key_value[..., self.width :] if first_value is None else first_value
            keys_values = torch.cat([cache[:, layer], key_value], dim=1)
            x = block.finish(x, block.attend(query, keys_values, mask, rotation))
        return self._update(memory_BMD, self.norm(x))

    def _write_tokens(self, memory_BMD: torch.Tensor) -> torch.Tensor:
        position = self.read_position if self.front else self.write_position
        return memory_BMD + position if self.write_from == "memory" else position.expand_as(memory_BMD)

    def _update(self, old: torch.Tensor, new: torch.Tensor) -> torch.Tensor:
        memory: torch.Tensor = self.update(old, new)
        return F.rms_norm(memory, (self.width,)) if self.memory_norm else memory

    def _hand_on(self, left: torch.Tensor | None, steps: torch.Tensor) -> torch.Tensor:
        """The cache [P, L, C, 2D] after a full segment, from that before it (None where the episode began with it)."""
        C, S, k = self.cache_steps, self.segment, self.cache_gradient
        if left is None or S >= C:
            left = F.pad(steps[:, :, max(0, S - C) :], (0, 0, max(0, C - S), 0))
        else:
            left = torch.cat([left[:, :, S:], steps], dim=2)
        return torch.cat([left[:, :, : C - k].detach(), left[:, :, C - k :]], dim=2) if k else left.detach()

    def _stop(self, x: torch.Tensor, segments_B: torch.Tensor) -> torch.Tensor:
        """x, cut off from the graph in rows whose episode is a multiple of bptt_segments old."""
        if self.bptt_segments is None or not torch.is_grad_enabled():
            return x
        return where_rows(segments_B % self.bptt_segments == 0, x.detach(), x)

    # ----------------------------------------------------------------------------------------------------- learning

    def unroll(self, x_BTD: torch.Tensor, state: RMTState, first_BT: torch.Tensor) -> tuple[torch.Tensor, RMTState]:
        B, T, D = x_BTD.shape
        S, C, M = self.segment, self.cache_steps, self.memory_tokens
        pieces = cut(first_BT, state.age, S)
        slot = pieces.slot_BT.flatten()
        x_PSD = x_BTD.new_zeros(pieces.count * S, D).index_copy(0, slot, x_BTD.reshape(B * T, D)).view(-1, S, D)
        x_groups = x_PSD.split([group.end - group.begin for group in pieces.groups])
        initial = self.initial_memory[None]
        initial_cache = self._read(initial)
        outputs: list[torch.Tensor] = []
        written: list[_Written] = []
        ends: list[tuple[torch.Tensor, RMTState]] = []
        for group, x in zip(pieces.groups, x_groups, strict=True):
            n, here = group.end - group.begin, slice(group.begin, group.end)
            segment = pieces.segment[here]
            read, known, left = None, None, None
            if group.kind == "fresh":
                memory, read = initial.expand(n, -1, -1), initial_cache.expand(n, -1, -1, -1)
            elif group.kind == "carried":
                carried = select_rows(state, pieces.row[here])
                memory, left, known = carried.memory, self._carried_left(carried), self._known(carried)
            else:
                memory, left = _gather(written, group.sources, pieces.source[here])
            arguments = (
                x[:, : group.length],
                memory,
                read,
                known,
                *self._visible(left, segment),
                group.hands_on,
            )
            if self.replay and torch.is_grad_enabled():
                y, caches, shifted = checkpoint(self._replayed, *arguments, use_reentrant=False)
            else:
                y, caches, shifted = self._segment(*arguments)
            outputs.append(_pad(y[:, : group.length], S))
            after = _Written(group.begin, memory, left)
            if group.hands_on:
                left_after = self._hand_on(left, torch.stack([c[:, M:] for c in caches], dim=1)) if C else None
                after = _Written(
                    group.begin,
                    self._stop(self._update(memory, y[:, group.length :]), segment + 1),
                    None if left_after is None else self._stop(left_after, segment + 1),
                )
                written.append(after)
            if len(group.ends):
                ends.append(self._ends(pieces, group, _Written(group.begin, memory, left), after, caches, shifted))
        y_BTD = torch.cat(outputs).view(-1, D).index_select(0, slot).view(B, T, D)
        return y_BTD, self._final_state(ends)

    def _replayed(
        self, x_PSD: torch.Tensor, *arguments: Any
    ) -> tuple[torch.Tensor, list[torch.Tensor], list[torch.Tensor]]:
        """`_segment` for who wants little memory: what the segment before has freed is given back first."""
        if x_PSD.device.type == "cpu" and x_PSD.nbytes >= WORTH_GIVING_BACK:
            give_back_freed_memory()
        return self._segment(x_PSD, *arguments)

    def _segment(
        self,
        x_PSD: torch.Tensor,
        memory: torch.Tensor,
        read: torch.Tensor | None,
        known: _Known | None,
        left: torch.Tensor | None,
        seen_left: torch.Tensor | None,
        writes: bool,
    ) -> tuple[torch.Tensor, list[torch.Tensor], list[torch.Tensor]]:
        """Outputs of the steps and, if `writes`, of the write tokens behind them; then, of every layer, the keys and values of
        read tokens and steps, [P, M+S, 2D], and the shifted half of the steps' input, [P, S, D/2].

        read: keys and values of the read tokens where they are known; otherwise they are computed here.
        left: keys and values of the steps before the segment, [P, L, K, 2D]; seen_left: [P, K] which exist, None = all.
        """
        M, S, K = self.memory_tokens, x_PSD.shape[1], 0 if left is None else left.shape[2]
        parts = [x_PSD + self.position[:S] if self.positions == "learned" else x_PSD]
        if read is None:
            parts.insert(0, memory + self.read_position)
        if writes:
            parts.append(self._write_tokens(memory))
        x = torch.cat(parts, dim=1) if len(parts) > 1 else parts[0]
        begin = M if read is None else 0  # of the steps among the queries
        layout = Layout(K, M, S, M if writes else 0, read is None, not self.front)
        angles = self._angles(K, S, layout.write)
        mask = layout if seen_left is None else _mask(layout, seen_left)

        def run(
            layer: int, x: torch.Tensor, first_value: torch.Tensor | None
        ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
            block, h, half = self.blocks[layer], self.blocks[layer].attention_norm(x), x.new_zeros(())
            if self.shift:
                half = h[:, begin : begin + S, -self.shift :]
                h = _shift(h, begin, half, known, layer)
            query, key_value = block.qkv(h, first_value)
            value = key_value[..., self.width :]
            if read is not None:
                key_value = torch.cat([read[:, layer], key_value], dim=1)
            if known is not None:
                key_value = torch.where(known.here, known.keys_values[:, layer], key_value)
            cache = key_value[:, : M + S]
            if left is not None:
                key_value = torch.cat([left[:, layer], key_value], dim=1)
            seen = mask
            if layer + 1 == len(self.blocks):  # nobody looks at what the read tokens become
                query, x = query[:, begin:], x[:, begin:]
                seen = mask[..., begin:, :] if isinstance(mask, torch.Tensor) else mask.without_read_queries()
            rotation = None if angles is None else (angles[-query.shape[1] :], angles)
            return block.finish(x, block.attend(query, key_value, seen, rotation), self.training), cache, half, value

        caches, shifted, first_value = [], [], None
        for layer in range(len(self.blocks)):
            if self.replay and torch.is_grad_enabled():
                x, cache, half, value = checkpoint(run, layer, x, first_value, use_reentrant=False)
            else:
                x, cache, half, value = run(layer, x, first_value)
            caches.append(cache)
            shifted.append(half)
            if self.value_residual and first_value is None:
                first_value = value
        return self.norm(x), caches, shifted

    def _angles(self, left: int, steps: int, write: int) -> torch.Tensor | None:
        """Rotary angles of the keys [left | read | steps | write]; those of queries are the last of them."""
        if self.positions != "rotary":
            return None
        C, at = self.cache_steps, self.rotary
        read_at, write_at = at[C : C + 1].expand(self.memory_tokens, -1), at[-1:].expand(write, -1)
        return torch.cat([at[C - left : C], read_at, at[C : C + steps], write_at])

    def _known(self, state: RMTState) -> _Known:
        M, S = self.memory_tokens, self.segment
        slot = (state.age % S)[:, None]
        place = torch.arange(-M, S, device=slot.device)
        # at slot 0 nothing is known, not even the read tokens
        here = F.pad((place < slot) & (slot > 0), (0, M))[..., None]
        keys_values = F.pad(state.cache[:, :, self.cache_steps :], (0, 0, 0, M))
        return _Known(keys_values, here, state.shifted, ((place[M:] == slot) & (slot > 0))[..., None])

    def _carried_left(self, state: RMTState) -> torch.Tensor | None:
        C = self.cache_steps
        if not C:
            return None
        exists = self._past(state.age)[:, None, :C, None]
        return state.cache[:, :, :C] * exists.to(state.cache.dtype)

    def _visible(
        self, left: torch.Tensor | None, segment_P: torch.Tensor
    ) -> tuple[torch.Tensor | None, torch.Tensor | None]:
        """The cached steps that at least one piece has, and [P, K] who has which, None where all have all."""
        if left is None:
            return None, None
        count, longest = (segment_P * self.segment).clamp(max=self.cache_steps), self.cache_steps
        if left.device.type == "cpu":  # to ask a GPU would make the host wait
            shortest, longest = (int(n) for n in torch.aminmax(count))
            if shortest == longest:
                return (left[:, :, self.cache_steps - longest :] if longest else None), None
        place = torch.arange(-longest, 0, device=left.device)
        return left[:, :, self.cache_steps - longest :], place >= -count[:, None]

    def _ends(
        self,
        pieces: Pieces,
        group: Group,
        before: _Written,
        after: _Written,
        caches: list[torch.Tensor],
        shifted: list[torch.Tensor],
    ) -> tuple[torch.Tensor, RMTState]:
        """The rows that end in this group, and their state."""
        C, M, S, ends = self.cache_steps, self.memory_tokens, self.segment, group.ends
        rows, full = pieces.row[group.begin + ends], pieces.full[group.begin + ends]
        age = pieces.age_B[rows]
        slot = age % S
        cache = _pad(torch.stack([c[ends] for c in caches], dim=1), M + S)
        kept = torch.arange(-M, S, device=full.device) < slot[:, None]
        cache = torch.where(kept[:, None, :, None], cache, cache.new_zeros(()))
        if C:
            zeros = cache.new_zeros(1, 1, 1, 1).expand(len(rows), len(self.blocks), C, 2 * self.width)
            left, left_after = (zeros if w.left is None else w.left[ends] for w in (before, after))
            cache = torch.cat([where_rows(full, left_after, left), cache], dim=2)
        last = cache.new_zeros(len(rows), len(self.blocks), self.shift)
        if self.shift:
            place = (slot - 1).clamp(min=0)[:, None, None, None].expand(-1, len(self.blocks), 1, self.shift)
            half = torch.stack([s[ends] for s in shifted], dim=1).gather(2, place).squeeze(2)
            last = where_rows(slot > 0, half, last)
        return rows, RMTState(where_rows(full, after.memory[ends], before.memory[ends]), age, cache, last)

    def _final_state(self, ends: list[tuple[torch.Tensor, RMTState]]) -> RMTState:
        order = torch.argsort(torch.cat([rows for rows, _ in ends]))
        first, *rest = (state for _, state in ends)
        if not rest:  # pieces of a group are in the order of their rows
            return first
        return map_state(lambda *parts: torch.cat(parts)[order], first, *rest)


class _Known(NamedTuple):
    """What is known of a segment that began before the unroll.

    keys_values: [P, L, M+S+M, 2D], and here: [P, M+S+M, 1] where; shifted: [P, L, D/2], and shift_to: [P, S, 1] the slot that it
    goes to.
    """

    keys_values: torch.Tensor
    here: torch.Tensor
    shifted: torch.Tensor
    shift_to: torch.Tensor


class _Written(NamedTuple):
    """Memory [P, M, D] and cached steps [P, L, C, 2D] (None = none yet) of the pieces from number `begin` on."""

    begin: int
    memory: torch.Tensor
    left: torch.Tensor | None


def _gather(
    written: list[_Written], sources: tuple[int, int], index: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Memory and cached steps that the pieces with the numbers `index`, within `sources`, handed on."""
    parts = [w for w in written if sources[0] < w.begin + len(w.memory) and w.begin < sources[1]]
    index = index - parts[0].begin
    left = [w.left for w in parts if w.left is not None]
    return (
        torch.cat([w.memory for w in parts]).index_select(0, index),
        torch.cat(left).index_select(0, index) if left else None,
    )


def _shift(h: torch.Tensor, begin: int, half: torch.Tensor, known: _Known | None, layer: int) -> torch.Tensor:
    """h with the last half of each step's input replaced by that of the step before it; memory tokens keep theirs."""
    end = begin + half.shape[1]
    before = F.pad(half[:, :-1], (0, 0, 1, 0))
    if known is not None:
        before = torch.where(known.shift_to, known.shifted[:, layer, None], before)
    steps = torch.cat([h[:, begin:end, : -half.shape[-1]], before], dim=-1)
    return torch.cat([h[:, :begin], steps, h[:, end:]], dim=1)


def _pad(x: torch.Tensor, length: int) -> torch.Tensor:
    """[..., n, D] -> [..., length, D] with zeros behind."""
    return x if x.shape[-2] == length else F.pad(x, (0, 0, 0, length - x.shape[-2]))


def _mask(layout: Layout, seen_left: torch.Tensor) -> torch.Tensor:
    """The layout [Q, K] without the cached steps that a piece does not have: [P, 1, Q, K]."""
    dense = layout.dense(seen_left.device)
    exists = F.pad(seen_left, (0, dense.shape[1] - layout.left), value=True)
    return (dense & exists[:, None])[:, None]


def _describe(memory_tokens: int, width: int, segment: int, memory_update: str, cache: int) -> str:
    parts = []
    if memory_tokens:
        parts.append(f"{memory_tokens} memory tokens x {width}, written every {segment} steps ({memory_update})")
    if cache:
        parts.append(f"keys and values of the {cache} steps before the segment")
    return ", ".join(parts) or f"none beyond the segment of {segment} steps"


class _Rows:
    """Some rows of a batch: on a CPU by their indices, so that only they are worked on; on a GPU by a mask, because to ask
    which they are would make the host wait for the device at every step."""

    def __init__(self, mask_B: torch.Tensor) -> None:
        self.mask = mask_B
        indices = (
            mask_B.device.type == "cpu" and not torch.compiler.is_compiling()
        )  # a program has one way for all values
        self.index = mask_B.nonzero().squeeze(1) if indices else None

    def __bool__(self) -> bool:
        return self.index is None or len(self.index) > 0

    def take(self, x: torch.Tensor) -> torch.Tensor:
        """The rows; on a GPU all of them."""
        return x if self.index is None else x[self.index]

    def put(self, x: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
        """x with the rows replaced by `value`, which is as `take` gives them or broadcasts."""
        if self.index is None:
            return where_rows(self.mask, value, x)
        return x.index_copy(0, self.index, value.expand(len(self.index), *x.shape[1:]))
