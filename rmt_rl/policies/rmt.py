"""Recurrent Memory Transformer on continuous inputs (Bulatov et al. 2022, arXiv 2207.06881).

A segment is the sequence [read memory M | steps S | write memory M]:

    query \\ key   read   steps            write
    read          all    no               no
    step i        all    j <= i           no
    write         all    all              all

What the write tokens become is the read memory of the next segment. Steps never see the future and read tokens never see
the segment, so acting step by step with a cache of keys and values gives what the learner computes at once.

How we differ from the paper: inputs are vectors, not tokens; attention inside a segment is causal; a segment is S steps *of
one episode*: every row has its own clock, which restarts with the episode. So an episode's outcome does not depend on
where in a rollout, or in which row, it happens to start, rows can be taken out of a batch and put into another, and the
memory is never written by a segment that spans two episodes. `memory_update="gate"` is ours.

How `unroll` works: the rows are cut at resets and at segment ends into pieces. Pieces that hand memory on are processed
level by level, k-th segments of all episodes side by side; all the others, on which nothing depends, in one go at the end.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Literal

import torch
from torch import nn
from torch.nn import functional

from rmt_rl.data import map_state, select_rows
from rmt_rl.policies.attention import Block
from rmt_rl.policies.base import Backbone, parameter_device_and_type, where_rows
from rmt_rl.policies.linear import Linear
from rmt_rl.policies.pieces import Group, Pieces, cut


@dataclasses.dataclass(frozen=True)
class RMTState:
    """memory: [B, M, D] read memory of the present segment.
    phase: [B] how many steps of the present segment are past, 0..S-1.
    cache: [B, L, M+S, 2D] keys and values of the read tokens (out of date at phase 0, renewed by the next step) and of the
        steps of the segment; zero from step slot `phase` on.
    """

    memory: torch.Tensor
    phase: torch.Tensor
    cache: torch.Tensor


class RMT(Backbone[RMTState]):
    """`layers` blocks over segments of `segment` steps, with `memory_tokens` vectors from segment to segment."""

    def __init__(
        self,
        width: int,
        layers: int,
        heads: int,
        segment: int,
        memory_tokens: int,
        memory_update: Literal["replace", "gate"],
    ) -> None:
        super().__init__()
        self.width, self.segment, self.memory_tokens = width, segment, memory_tokens
        blocks = [Block(width, heads) for _ in range(layers)]
        self.blocks: Sequence[Block] = nn.ModuleList(blocks)  # type: ignore[assignment]
        self.norm = nn.RMSNorm(width)
        self.position = nn.Parameter(0.1 * torch.randn(segment, width))
        # distinct vectors: equal ones would stay equal, and M tokens would hold no more than one
        self.initial_memory = nn.Parameter(torch.randn(memory_tokens, width))
        self.read_position = nn.Parameter(0.1 * torch.randn(memory_tokens, width))
        self.write_position = nn.Parameter(0.1 * torch.randn(memory_tokens, width))
        self.update = {"replace": Replace, "gate": Gate}[memory_update](width)
        for block in blocks:
            for linear in (block.output, block.down):
                nn.init.normal_(linear.weight, std=0.1 / layers**0.5)  # each block starts near the identity
        self.memory = f"{memory_tokens} memory tokens x {width}, written every {segment} steps ({memory_update})"

    def initial_state(self, batch: int) -> RMTState:
        M, S, D, L = self.memory_tokens, self.segment, self.width, len(self.blocks)
        like = parameter_device_and_type(self)
        return RMTState(
            memory=self.initial_memory.expand(batch, M, D),
            phase=torch.zeros(batch, dtype=torch.int64, device=like["device"]),
            cache=torch.zeros(batch, L, M + S, 2 * D, **like),
        )

    # ------------------------------------------------------------------------------------------------------- acting

    def step(self, x_BD: torch.Tensor, state: RMTState, first_B: torch.Tensor) -> tuple[torch.Tensor, RMTState]:
        state = self._begin(state, first_B)
        M = self.memory_tokens
        slot = torch.arange(-M, self.segment, device=x_BD.device)
        past = slot < state.phase[:, None]  # [B, M+S]
        here = (slot == state.phase[:, None])[..., None].to(x_BD.dtype)
        kept, seen = past[..., None].to(x_BD.dtype), (past | (slot == state.phase[:, None]))[:, None, None]
        x = (x_BD + self.position[state.phase])[:, None]
        caches = []
        for layer, block in enumerate(self.blocks):
            query, key_value = block.qkv(x)
            # products, not torch.where, which is 5 times slower here; what is left of a reset row is finite by now
            caches.append(torch.addcmul(key_value * here, state.cache[:, layer], kept))
            x = block.finish(x, block.attend(query, caches[-1], seen))
        return self.norm(x[:, 0]), self._end(RMTState(state.memory, state.phase + 1, torch.stack(caches, dim=1)))

    def _begin(self, state: RMTState, first_B: torch.Tensor) -> RMTState:
        """Forget what `first` discards, and read the memory where a segment begins."""
        memory, phase, cache = state.memory, torch.where(first_B, 0, state.phase), state.cache
        if rows := _Rows(first_B):
            memory = rows.put(memory, self.initial_memory)
            cache = rows.put(cache, cache.new_zeros(()))
        if self.memory_tokens and (rows := _Rows(phase == 0)):
            read = self._read(rows.take(memory))
            cache = torch.cat(
                [rows.put(cache[:, :, : self.memory_tokens], read), cache[:, :, self.memory_tokens :]], dim=2
            )
        return RMTState(memory, phase, cache)

    def _end(self, state: RMTState) -> RMTState:
        """Write the memory where a segment is full."""
        full = state.phase == self.segment
        rows = _Rows(full)
        if not rows:
            return state
        M, memory, cache = self.memory_tokens, state.memory, state.cache
        if M:
            memory = rows.put(memory, self._write(rows.take(memory), rows.take(cache)))
        steps = rows.put(cache[:, :, M:], cache.new_zeros(()))
        return RMTState(memory, torch.where(full, 0, state.phase), torch.cat([cache[:, :, :M], steps], dim=2))

    def _read(self, memory_BMD: torch.Tensor) -> torch.Tensor:
        """Keys and values of the read tokens in every layer, [B, L, M, 2D]."""
        if not self.memory_tokens:
            return memory_BMD.new_zeros(len(memory_BMD), len(self.blocks), 0, 2 * self.width)
        x, cache = memory_BMD + self.read_position, []
        for layer, block in enumerate(self.blocks):
            query, key_value = block.qkv(x)
            cache.append(key_value)
            if layer + 1 < len(self.blocks):
                x = block.finish(x, block.attend(query, key_value, None))
        return torch.stack(cache, dim=1)

    def _write(self, memory_BMD: torch.Tensor, cache: torch.Tensor) -> torch.Tensor:
        """The memory after a full segment, [B, M, D], from the keys and values [B, L, M+S, 2D]."""
        x = memory_BMD + self.write_position
        for layer, block in enumerate(self.blocks):
            query, key_value = block.qkv(x)
            keys_values = torch.cat([cache[:, layer], key_value], dim=1)
            x = block.finish(x, block.attend(query, keys_values, None))
        return self.update(memory_BMD, self.norm(x))

    # ----------------------------------------------------------------------------------------------------- learning

    def unroll(self, x_BTD: torch.Tensor, state: RMTState, first_BT: torch.Tensor) -> tuple[torch.Tensor, RMTState]:
        B, T, D = x_BTD.shape
        S = self.segment
        pieces = cut(first_BT, state.phase, S)
        slot = pieces.slot_BT.flatten()
        x_PSD = x_BTD.new_zeros(pieces.count * S, D).index_copy(0, slot, x_BTD.reshape(B * T, D)).view(-1, S, D)
        x_PSD = x_PSD + self.position
        initial = self.initial_memory[None]
        initial_cache = self._read(initial)
        outputs: list[torch.Tensor] = []
        written: list[torch.Tensor] = []
        ends: list[tuple[torch.Tensor, RMTState]] = []
        for group in pieces.groups:
            n, here = group.end - group.begin, slice(group.begin, group.end)
            cache, past = None, None
            if group.kind == "fresh":
                memory, cache = initial.expand(n, -1, -1), initial_cache.expand(n, -1, -1, -1)
            elif group.kind == "carried":
                rows = pieces.row[here]
                memory, past = state.memory[rows], self._past(select_rows(state, rows))
            else:
                memory = torch.cat(written).index_select(0, pieces.source[here])
            y, caches = self._segment(x_PSD[here, : group.length], memory, cache, past, group.hands_on)
            outputs.append(functional.pad(y[:, : group.length], (0, 0, 0, S - group.length)))
            after = memory
            if group.hands_on:
                after = self.update(memory, y[:, group.length :])
                written.append(after)
            ends.append(self._ends(pieces, group, memory, after, caches))
        y_BTD = torch.cat(outputs).view(-1, D).index_select(0, slot).view(B, T, D)
        return y_BTD, self._final_state(ends)

    def _segment(
        self,
        x_PSD: torch.Tensor,
        memory: torch.Tensor,
        read_cache: torch.Tensor | None,
        past: tuple[torch.Tensor, torch.Tensor] | None,
        writes: bool,
    ) -> tuple[torch.Tensor, list[torch.Tensor]]:
        """Outputs of the steps and, if `writes`, of the write tokens behind them; keys and values of every layer.

        read_cache: keys and values of the read tokens where they are known; otherwise they are computed here.
        past: keys and values that are known already, [P, L, M+S+M, 2D], and where they stand, [P, M+S+M, 1].
        """
        M, S = self.memory_tokens, x_PSD.shape[1]
        parts = [x_PSD]
        if read_cache is None:
            parts.insert(0, memory + self.read_position)
        if writes:
            parts.append(memory + self.write_position)
        x = torch.cat(parts, dim=1) if len(parts) > 1 else x_PSD
        mask = _mask(M, S, M if writes else 0, x.device)[M if read_cache is not None else 0 :]
        caches = []
        for layer, block in enumerate(self.blocks):
            query, key_value = block.qkv(x)
            if read_cache is not None:
                key_value = torch.cat([read_cache[:, layer], key_value], dim=1)
            if past is not None:
                key_value = torch.where(past[1], past[0][:, layer], key_value)
            caches.append(key_value)
            if read_cache is None and layer + 1 == len(self.blocks):
                query, x, mask = query[:, M:], x[:, M:], mask[M:]  # nobody looks at what the read tokens become
            x = block.finish(x, block.attend(query, key_value, mask))
        return self.norm(x), caches

    def _past(self, state: RMTState) -> tuple[torch.Tensor, torch.Tensor]:
        M = self.memory_tokens
        slot = torch.arange(-M, self.segment, device=state.phase.device)
        # at phase 0 nothing is known, not even the read tokens
        known = (slot < state.phase[:, None]) & (state.phase > 0)[:, None]
        unknown = slot.new_zeros(len(known), M, dtype=torch.bool)
        return functional.pad(state.cache, (0, 0, 0, M)), torch.cat([known, unknown], dim=1)[..., None]

    def _ends(
        self,
        pieces: Pieces,
        group: Group,
        memory: torch.Tensor,
        after: torch.Tensor,
        caches: list[torch.Tensor],
    ) -> tuple[torch.Tensor, RMTState]:
        """The rows that end in this group, and their state."""
        M, S, ends = self.memory_tokens, self.segment, group.ends
        rows, full = pieces.row[group.begin + ends], pieces.full[group.begin + ends]
        phase = pieces.phase_B[rows]
        cache = torch.stack([c[ends, : M + group.length] for c in caches], dim=1)
        cache = functional.pad(cache, (0, 0, 0, S - group.length))
        kept = torch.arange(-M, S, device=full.device) < phase[:, None]
        cache = torch.where(kept[:, None, :, None], cache, cache.new_zeros(()))
        return rows, RMTState(where_rows(full, after[ends], memory[ends]), phase, cache)

    def _final_state(self, ends: list[tuple[torch.Tensor, RMTState]]) -> RMTState:
        order = torch.argsort(torch.cat([rows for rows, _ in ends]))
        first, *rest = (state for _, state in ends)
        return map_state(lambda *parts: torch.cat(parts)[order], first, *rest)


class Replace(nn.Module):
    """The paper's rule: the write tokens are the next memory."""

    def __init__(self, width: int) -> None:
        super().__init__()

    def forward(self, old: torch.Tensor, new: torch.Tensor) -> torch.Tensor:
        return new


class Gate(nn.Module):
    """old + sigmoid(G [old, new] + b) * (tanh(W new) - old): a memory that is kept unless something asks for change."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.gate = Linear(2 * width, width)
        self.candidate = Linear(width, width)
        nn.init.constant_(self.gate.bias, -1.0)

    def forward(self, old: torch.Tensor, new: torch.Tensor) -> torch.Tensor:
        gate = torch.sigmoid(self.gate(torch.cat([old, new], dim=-1)))
        return old + gate * (torch.tanh(self.candidate(new)) - old)


def _mask(read: int, steps: int, write: int, device: torch.device) -> torch.Tensor:
    """[query, key], true where the query may look; the table at the head of this file."""
    n = read + steps + write
    index = torch.arange(n, device=device)
    query, key = index[:, None], index
    return (key < read) | ((query >= read) & (key <= query)) | (query >= read + steps)


class _Rows:
    """Some rows of a batch: on a CPU by their indices, so that only they are worked on; on a GPU by a mask, because to ask
    which they are would make the host wait for the device at every step."""

    def __init__(self, mask_B: torch.Tensor) -> None:
        self.mask = mask_B
        self.index = mask_B.nonzero().squeeze(1) if mask_B.device.type == "cpu" else None

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
