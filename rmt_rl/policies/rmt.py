r"""Recurrent Memory Transformer on continuous inputs (Bulatov et al. 2022, arXiv 2207.06881), with a Transformer-XL cache.

A segment is the sequence [cache C | read memory M | steps S | write memory M]:

    query \ key   cache   read   steps            write
    read          no      all    no               no
    step i        all     all    j <= i           no
    write         all     all    all              all

The output of the write tokens is the memory that the next segment reads. The cache holds keys and values of the C steps before
the segment. Steps never see the future and read tokens never see the segment, so acting step by step with cached keys and
values computes what the learner computes at once.

There is one loop over the layers, `_layers`: N new tokens attend to cached keys and values and to each other.

    acting      `_read`, M read tokens where a segment begins; `step`, one step; `_write`, M write tokens where a segment ends
    learning    `_segment`, [read | steps | write] in one pass, for many segments side by side

How we differ from the paper: inputs are vectors, not tokens; attention inside a segment is causal; a segment is S steps *of
one episode*: every row has its own clock, which restarts with the episode. So an episode's outcome does not depend on
where in a rollout, or in which row, it happens to start, rows can be taken out of a batch and put into another, and the
memory is never written by a segment that spans two episodes. `memory_update="gate"` and `"hard_gate"` are ours.

M = 0 and C > 0 is a Transformer-XL (Dai et al. 2019, arXiv 1901.02860), with gating="gru" a GTrXL (Parisotto et al. 2019, arXiv
1910.06764), and M = 0, C = 0 sees the current segment only.

Shapes: B rows, T steps of a rollout, S steps of a segment, M memory tokens, C cached steps, L layers, H heads, D width,
P pieces of segments, N new tokens, K cached columns that the new tokens see.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence

import torch
from einops import rearrange
from torch import nn
from torch.nn import functional as F

from rmt_rl.common.allocator import give_back_freed_memory
from rmt_rl.common.state import map_state, select_rows, where_rows
from rmt_rl.config.policies import TransformerConfig
from rmt_rl.policies.base import Backbone, parameter_device_and_type
from rmt_rl.policies.layer_memory import LAYER_MEMORIES, LayerMemory
from rmt_rl.policies.memory_update import UPDATES
from rmt_rl.policies.replay import replay
from rmt_rl.policies.rmt_state import Attention, Columns, Pass, RMTState, describe, gather_states
from rmt_rl.policies.rows import Rows
from rmt_rl.policies.segments import Group, split_at_boundaries
from rmt_rl.policies.transformer import Block, Layout, rotary_table, rotate

#: Bytes of a segment's input from which on replay gives freed memory back between segments; it takes a millisecond or more.
WORTH_GIVING_BACK = 2**18


class RMT(Backbone[RMTState]):
    """`layers` blocks over segments of `segment` steps, with `memory_tokens` vectors from segment to segment.

    cache: C. cache_gradient: gradients reach this many of the newest cached steps; 0 is the paper's stop-gradient.
    positions: learned = one vector for each slot of the segment, added to the input; rotary (arXiv 2104.09864) = by distance,
        also into the cache, with read tokens at the first slot and write tokens behind the last; none. A cache needs one of
        the last two, because learned positions number the steps of one segment and do not cover earlier ones.
    write_from: what write tokens start from: the read memory (2207.06881) or learned vectors alone.
    memory_place: both = read tokens in front and write tokens behind, as above; front = one block of memory tokens, as in the
        encoder variant (2304.11062): the same tokens that the steps read, with the same embedding, look at themselves and at the
        segment, and not at separate read tokens. The look at the segment comes after its last step, so that it stays causal.
    blank_memory: hidden = no token but the read tokens attends to the memory of an episode's first segment, in which nothing is
        written (ours), so that attention cannot settle there before there is anything to remember; seen = the paper's.
    memory_kind: tokens, or a memory in every layer; see `layer_memory.py`. Then M tokens write, and no token reads.
    memory_update: replace = the paper's; gate, hard_gate (ours); mrv = memory retention valve (RATE, arXiv 2306.09459).
    write_cost: weight of the auxiliary loss "write", how far the gates of the memory update are open on average.
    memory_norm: divide every memory vector by its root mean square after the update.
    bptt_segments: gradients do not pass the end of every n-th segment of an episode; None = they pass all.
    token_shift: half of a step's input to every layer is that of the step before it in the segment (RWKV, arXiv 2305.13048).
    replay: keep no activations of segments, compute them again in the backward pass (memory replay, Memformer, arXiv
        2010.06891): the same gradients of any loss on the outputs, for memory that does not grow with the number of segments.
    sharpness, glu, norm, gating, null_key_value, value_residual, dropout, attention: see `Block`.
    """

    initial_memory: torch.Tensor
    rotary: torch.Tensor
    rotary_of_columns: torch.Tensor
    #: Writing costs nothing before the policy can write what it needs (see `memory.ramp_start`).
    ramped_losses = ("write",)

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        config = config.as_rmt()  # a Transformer-XL or a window is an RMT without memory tokens
        width, heads, M = config.width, config.heads, config.memory_tokens
        self.width, self.segment, self.memory_tokens, self.cache_steps = width, config.segment, M, config.cache
        self.cache_gradient, self.bptt_segments = min(config.cache, config.cache_gradient), config.bptt_segments
        self.positions, self.write_from, self.memory_norm = config.positions, config.write_from, config.memory_norm
        self.replay, self.value_residual = config.replay, config.value_residual
        self.front, self.shift = config.memory_place == "front", width // 2 if config.token_shift else 0
        self.by_layer = config.memory_kind != "tokens"
        of_tokens = M > 0 and not self.by_layer  # what the options of memory tokens say holds
        self.write_cost = config.write_cost if of_tokens else 0.0
        self.hide_blank = of_tokens and config.blank_memory == "hidden"
        self.read_tokens = 0 if self.by_layer else M  # a memory in the layers is read without tokens
        self.columns = Columns(config.cache, self.read_tokens, config.segment, self.hide_blank)
        blocks = [
            Block(
                width,
                heads,
                sharpness=config.sharpness,
                glu=config.glu,
                norm=config.norm,
                gating=config.gating,
                null_key_value=config.null_key_value,
                value_residual=config.value_residual and layer > 0,
                dropout=config.dropout,
                backend=config.attention,
            )
            for layer in range(config.layers)
        ]
        self.blocks: Sequence[Block] = nn.ModuleList(blocks)  # type: ignore[assignment]
        self.norm = nn.RMSNorm(width)
        if config.positions == "learned":
            self.position = nn.Parameter(0.1 * torch.randn(config.segment, width))
        if config.positions == "rotary":
            table = rotary_table(-config.cache, config.segment, width // heads).to(torch.get_default_dtype())
            self.register_buffer("rotary", table, persistent=False)
            self.register_buffer("rotary_of_columns", self.columns.positions(table), persistent=False)
        if self.by_layer:
            make = LAYER_MEMORIES[config.memory_kind]
            tables = [make(width, config.memory_size, heads) for _ in blocks]
            self.tables: Sequence[LayerMemory] = nn.ModuleList(tables)  # type: ignore[assignment]
            blank = torch.zeros(config.layers, *tables[0].shape)
            self.register_buffer("initial_memory", blank, persistent=False)
        else:
            # distinct vectors: equal ones would stay equal, and M tokens would hold no more than one
            self.initial_memory = nn.Parameter(torch.randn(M, width))
            self.read_position = nn.Parameter(0.1 * torch.randn(M, width))
        if not self.front:
            self.write_position = nn.Parameter(0.1 * torch.randn(M, width))
        self.update = UPDATES[config.memory_update if of_tokens else "replace"](width, heads)
        for block in blocks:
            for linear in (block.output, block.down):
                nn.init.normal_(linear.weight, std=0.1 / config.layers**0.5)  # each block starts near the identity
        self.description = describe(config)

    def initial_state(self, batch: int) -> RMTState:
        C, M, S, D, L = self.cache_steps, self.read_tokens, self.segment, self.width, len(self.blocks)
        like = parameter_device_and_type(self)
        return RMTState(
            memory=self.initial_memory.expand(batch, *self.initial_memory.shape),
            age=torch.zeros(batch, dtype=torch.int64, device=like["device"]),
            cache=torch.zeros(batch, L, C + M + S, 2 * D, **like),
            shifted=torch.zeros(batch, L, self.shift, **like),
        )

    # --------------------------------------------------------------------------------------------------- the layers

    def _layers(
        self, x_PND: torch.Tensor, run: Pass
    ) -> tuple[torch.Tensor, list[torch.Tensor], list[torch.Tensor], torch.Tensor | None]:
        """All layers on N new tokens, which attend to cached keys and values and to each other.

        Returns the outputs [P, steps + write, D]; for every layer, the new tokens' own keys and values [P, N, 2D], of the first
        `run.keep` ones, and with token shift the half of the steps' input that is shifted, [P, steps, D/2]; and the memories of
        the layers [P, L, *shape] as the write tokens have left them, None if there are none.
        """
        x, key_values, halves, tables = x_PND, [], [], []
        first_value: torch.Tensor | None = None
        for layer, block in enumerate(self.blocks):
            if self.replay and torch.is_grad_enabled():
                part = [*block.parameters(), *(self.tables[layer].parameters() if self.by_layer else ())]
                of_layer = functools.partial(self._layer, layer, block)
                x, key_value, half, table = replay(of_layer, part, x, first_value, run, random=run.dropout)
            else:
                x, key_value, half, table = self._layer(layer, block, x, first_value, run)
            if self.value_residual and first_value is None:
                first_value = key_value[..., self.width :]
            if run.keep != 0:
                key_values.append(key_value if run.keep is None else key_value[:, : run.keep].clone())
            if half is not None:
                halves.append(half)
            if table is not None:
                tables.append(table)
        return self.norm(x), key_values, halves, torch.stack(tables, dim=1) if tables else None

    def _layer(
        self, layer: int, block: Block, x_PND: torch.Tensor, first_value: torch.Tensor | None, run: Pass
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None, torch.Tensor | None]:
        """One layer of `_layers`: its output, its keys and values, token shift's half, and the layer's memory afterwards."""
        if run.tables is not None:
            x_PND = x_PND + self.tables[layer].read(x_PND, run.tables[:, layer])
        h, half = block.attention_norm(x_PND), None
        # token shift: half of every step's input is that of the step before
        if self.shift and run.steps:
            begin, end = run.reads, run.reads + run.steps
            half = h[:, begin:end, -self.shift :]
            before = torch.zeros_like(half[:, :1]) if run.shifted is None else run.shifted[:, layer, None]
            steps = torch.cat([h[:, begin:end, : -self.shift], torch.cat([before, half[:, :-1]], dim=1)], dim=-1)
            h = torch.cat([h[:, :begin], steps, h[:, end:]], dim=1)
        qkv, mask, skip = block.qkv(h, first_value), run.mask, 0
        key_value = qkv[..., self.width :]
        # the outputs of the read tokens in the last layer are not used
        if run.reads and layer + 1 == len(self.blocks):
            skip, x_PND = run.reads, x_PND[:, run.reads :]
            if not x_PND.shape[1]:
                return x_PND, key_value, half, None
            mask = mask.without_read_queries() if isinstance(mask, Layout) else mask[..., skip:, :]  # type: ignore[index]
        context = run.context[layer] if run.context else None
        attended = block.attend(qkv, context, mask, run.angles, skip, run.weights)
        y, table = block.residual_ffn(x_PND, attended, run.dropout), None
        if run.tables is not None and run.writes:
            table = self.tables[layer].write(run.tables[:, layer], y[:, -run.writes :])
        return y, key_value, half, table

    def _context(self, cache: torch.Tensor, columns: slice) -> Sequence[tuple[torch.Tensor, torch.Tensor]]:
        """Columns of the cache as new tokens see them: rotated keys, and values, [P, K, H, d] each, of every layer."""
        cache = cache[:, :, columns]
        if not cache.shape[2]:
            return ()
        keys, values = cache.unflatten(-1, (2 * self.blocks[0].heads, -1)).chunk(2, dim=-2)
        if self.positions == "rotary":
            keys = rotate(keys, self.rotary_of_columns[columns])
        return list(zip(keys.unbind(1), values.unbind(1), strict=True))

    def _angles(self, reads: int = 0, slots: torch.Tensor | None = None, writes: int = 0) -> torch.Tensor | None:
        """Rotary angles of new tokens: read tokens at slot 0, steps at `slots` [N] or [P, N], write tokens at slot S."""
        if self.positions != "rotary":
            return None
        C, angles = self.cache_steps, self.rotary
        steps = angles[:0] if slots is None else angles[C + slots]
        if not reads and not writes:
            return steps
        rows = steps.shape[:-2]
        read, write = angles[C : C + 1].expand(*rows, reads, -1), angles[-1:].expand(*rows, writes, -1)
        return torch.cat([read, steps, write], dim=-2)

    def _write_tokens(self, memory_BMD: torch.Tensor) -> torch.Tensor:
        """[B, M, D] for the state's memory; where it lies in the layers, write tokens start from learned vectors."""
        if self.by_layer:
            return self.write_position.expand(len(memory_BMD), -1, -1)
        position = self.read_position if self.front else self.write_position
        return memory_BMD + position if self.write_from == "memory" else position.expand_as(memory_BMD)

    # ------------------------------------------------------------------------------------------------------- acting

    def step(self, x_BD: torch.Tensor, state: RMTState, first_B: torch.Tensor) -> tuple[torch.Tensor, RMTState]:
        return self._step(x_BD, state, first_B)

    def explain(self, x_BD: torch.Tensor, state: RMTState, first_B: torch.Tensor) -> Attention:
        """The attention weights of the step that `step` would make."""
        C, M, S = self.cache_steps, self.read_tokens, self.segment
        weights: list[torch.Tensor] = []
        _, after = self._step(x_BD, state, first_B, weights)
        w = rearrange(weights, "l b h 1 k -> b l h k")  # keys [null | cache | read | steps | the new step]
        null, cache, read, steps, new = w.split([w.shape[-1] - C - M - S - 1, C, M, S, 1], dim=-1)
        here = torch.arange(S, device=w.device) == ((after.age - 1) % S)[:, None, None, None]
        return Attention(read, cache, torch.where(here, new, steps), null)

    def _step(
        self, x_BD: torch.Tensor, state: RMTState, first_B: torch.Tensor, weights: list[torch.Tensor] | None = None
    ) -> tuple[torch.Tensor, RMTState]:
        state = self._begin(state, first_B)
        slot_B1 = (state.age % self.segment)[:, None]
        exists = self.columns.cache_mask(state.age // self.segment, slot_B1[:, 0])
        # the step sees what exists in the cache, and itself
        run = Pass(
            steps=1,
            context=self._context(state.cache, slice(None)),
            mask=F.pad(exists, (0, 1), value=True)[:, None, None],
            angles=self._angles(slots=slot_B1),
            shifted=state.shifted,
            weights=weights,
            tables=state.memory if self.by_layer else None,
        )
        x_B1D = x_BD[:, None] + self.position[slot_B1] if self.positions == "learned" else x_BD[:, None]
        y_B1D, key_values, halves, _ = self._layers(x_B1D, run)
        # its keys and values go to its slot; products, not torch.where, which is 5 times slower: all values are finite here
        column = torch.arange(exists.shape[1], device=exists.device)
        here = (column == self.cache_steps + self.read_tokens + slot_B1)[:, None, :, None].to(x_BD.dtype)
        kept = exists[:, None, :, None].to(x_BD.dtype)
        cache = torch.addcmul(torch.stack(key_values, dim=1) * here, state.cache, kept)
        shifted = torch.cat(halves, dim=1) if self.shift else state.shifted
        state = RMTState(state.memory, state.age + 1, cache, shifted)
        # where the segment is full, the memory is written
        rows = Rows(state.age % self.segment == 0)
        if rows:
            full = map_state(rows.take, state)
            state = self._enter(state, self._next_segment(full, self._write(full))[0], rows)
        return y_B1D[:, 0], state

    def _begin(self, state: RMTState, first_B: torch.Tensor | None = None, dropout: bool = False) -> RMTState:
        """Discard the state where `first` is true, and read the memory where a segment begins."""
        C, M, S = self.cache_steps, self.read_tokens, self.segment
        age = state.age if first_B is None else torch.where(first_B, 0, state.age)
        begins = Rows(age % S == 0)
        young = Rows(age // S * S < C) if C else None
        if not begins and not young:
            return state
        # by selection, never by multiplication: what is discarded may be NaN, and its gradient is exactly zero
        memory, shifted, (xl_cache, read, steps) = state.memory, state.shifted, self.columns.split(state.cache)
        zero = steps.new_zeros(())
        if first_B is not None and (first := Rows(first_B)):
            memory, steps = first.put(memory, self.initial_memory), first.put(steps, zero)
        if young:
            exists = young.take(self.columns.cache_mask(age // S, age % S))[:, None, :C, None]
            xl_cache = young.put(xl_cache, torch.where(exists, young.take(xl_cache), zero))
        if self.shift:
            shifted = begins.put(shifted, zero)
        if begins and M:
            # a blank memory that nothing attends to is not read
            written = Rows((age % S == 0) & (age > 0)) if self.hide_blank else begins
            read = begins.put(read, zero) if self.hide_blank else read
            if written:
                read = written.put(read, self._read(written.take(memory), dropout))
        return RMTState(memory, age, torch.cat([xl_cache, read, steps], dim=2), shifted)

    def _read(self, memory_BMD: torch.Tensor, dropout: bool) -> torch.Tensor:
        """Keys and values of the read tokens in every layer, [B, L, M, 2D]."""
        M = self.read_tokens
        run = Pass(reads=M, angles=self._angles(reads=M), dropout=dropout)
        return torch.stack(self._layers(memory_BMD + self.read_position, run)[1], dim=1)

    def _write(self, state: RMTState) -> torch.Tensor:
        """The memory that the write tokens leave after a full segment, as `_next_segment` wants it; `state` is that after its
        last step."""
        C, M, S = self.cache_steps, self.memory_tokens, self.segment
        if not M:
            return state.memory
        mask = None
        if C or self.front or self.hide_blank:
            exists = self.columns.cache_mask(state.age // S - 1, torch.full_like(state.age, S))
            if self.front:
                exists[:, C : C + M] = False
            mask = F.pad(exists, (0, M), value=True)[:, None, None]
        context = self._context(state.cache, slice(None))
        tables = state.memory if self.by_layer else None
        run = Pass(context=context, mask=mask, angles=self._angles(writes=M), tables=tables, writes=M)
        outputs, _, _, written = self._layers(self._write_tokens(state.memory), run)
        return outputs if written is None else written

    # --------------------------------------------------------------------------------------- from segment to segment

    def _next_segment(self, state: RMTState, written: torch.Tensor) -> tuple[RMTState, torch.Tensor | None]:
        """Memory, age and XL cache [B, L, C, 2D] at the start of the next segment, all else empty; and how far the gate of the
        memory was open [B], None without one. state: after a segment's last step; written: outputs of its write tokens
        [B, M, D], or the memories of the layers after them."""
        segments, memory, opened = state.age // self.segment, state.memory, None
        xl_cache = state.cache[:, :, :0]
        if self.memory_tokens:
            memory, opened = self.update(memory, written)
            memory = F.rms_norm(memory, (self.width,)) if self.memory_norm else memory
            memory = self._truncate_gradient(memory, segments)
        if self.cache_steps:
            xl_cache = self._truncate_gradient(self.columns.next_cache(state.cache, self.cache_gradient), segments)
        return RMTState(memory, state.age, xl_cache, state.shifted[:, :, :0]), opened

    def _enter(self, state: RMTState, following: RMTState, rows: Rows) -> RMTState:
        """`state`, in which `rows` enter their next segment as `_next_segment` has made it."""
        xl_cache, read, steps = self.columns.split(state.cache)
        zero = steps.new_zeros(())
        if self.cache_steps:
            xl_cache = rows.put(xl_cache, following.cache)
        cache = torch.cat([xl_cache, read, rows.put(steps, zero)], dim=2)
        shifted = rows.put(state.shifted, zero) if self.shift else state.shifted
        return RMTState(rows.put(state.memory, following.memory), state.age, cache, shifted)

    def _emptied(
        self, following: RMTState, begin: RMTState, ends: torch.Tensor, key_values: list[torch.Tensor]
    ) -> RMTState:
        """What `_enter` would make of the pieces `ends`, of which all are full, without an XL cache. begin: where they began."""
        M = self.read_tokens
        own = M and not begin.cache.shape[2]  # a first segment found its read tokens in the state
        read = torch.stack([kv[ends] for kv in key_values], dim=1) if own else begin.cache[ends, :, :M]
        shifted = read.new_zeros(len(ends), len(self.blocks), self.shift)
        return RMTState(following.memory, following.age, F.pad(read, (0, 0, 0, self.segment)), shifted)

    def _truncate_gradient(self, x: torch.Tensor, segments_B: torch.Tensor) -> torch.Tensor:
        """x, without gradient in rows whose episode is a multiple of bptt_segments old."""
        if self.bptt_segments is None or not torch.is_grad_enabled():
            return x
        return where_rows(segments_B % self.bptt_segments == 0, x.detach(), x)

    # ----------------------------------------------------------------------------------------------------- learning

    def unroll(self, x_BTD: torch.Tensor, state: RMTState, first_BT: torch.Tensor) -> tuple[torch.Tensor, RMTState]:
        return self.unroll_with_losses(x_BTD, state, first_BT)[:2]

    def unroll_with_losses(
        self, x_BTD: torch.Tensor, state: RMTState, first_BT: torch.Tensor
    ) -> tuple[torch.Tensor, RMTState, dict[str, torch.Tensor]]:
        """Splits rows at resets and segment ends into pieces, and processes those that hand memory on level by level, the k-th
        segments of all episodes side by side; all the others, on which nothing depends, follow at once."""
        B, T, D = x_BTD.shape
        # put every step into its piece
        pieces = split_at_boundaries(first_BT, state.age, self.segment)
        place = pieces.place_BT.flatten()
        x = x_BTD.new_zeros(pieces.count * self.segment, D).index_copy_(0, place, rearrange(x_BTD, "b t d -> (b t) d"))
        sizes = [group.end - group.begin for group in pieces.groups]
        x_groups = rearrange(x, "(p s) d -> p s d", p=pieces.count).split(sizes)

        # process the groups, each from the states that its pieces begin with
        fresh = self._begin(self.initial_state(1))
        outputs: list[torch.Tensor] = []
        written: list[tuple[int, RMTState]] = []
        ended: list[tuple[torch.Tensor, RMTState]] = []
        opened: list[torch.Tensor] = []
        for group, size, x_PSD in zip(pieces.groups, sizes, x_groups, strict=True):
            here = slice(group.begin, group.end)
            if group.kind == "fresh":
                before = map_state(lambda v, n=size: v.expand(n, *v.shape[1:]), fresh)
            elif group.kind == "carried":
                before = self._begin(select_rows(state, pieces.row[here]), dropout=self.training)
            else:
                before = gather_states(written, group.sources, pieces.source[here])
            arguments = (x_PSD[:, : group.length], pieces.length[here], before, group)
            if self.replay and torch.is_grad_enabled():
                y, after, last, gates = replay(self._segment, self.parameters(), *arguments, random=self.training)
            else:
                y, after, last, gates = self._segment(*arguments)
            padding = self.segment - y.shape[1]
            outputs.append(F.pad(y, (0, 0, 0, padding)) if padding else y)
            if after is not None:
                written.append((group.begin, after))
            if last is not None:
                ended.append((pieces.row[here][group.ends], last))
            if gates is not None:
                opened.append(gates)
        losses = {}
        if self.write_cost:  # no cost where nothing was written
            losses["write"] = self.write_cost * (torch.cat(opened).mean() if opened else x_BTD.new_zeros(()))

        # put outputs and final states back into the order of rows and steps; without gradients their parts are freed at once
        del x, x_groups, x_PSD, arguments, y
        y_PSD = torch.cat(outputs)
        outputs.clear()
        y_BTD = y_PSD.view(-1, D).index_select(0, place).view(B, T, D)
        order, states = torch.argsort(torch.cat([rows for rows, _ in ended])), [last for _, last in ended]
        if len(states) == 1:  # pieces of a group are in the order of their rows
            return y_BTD, states[0], losses
        return y_BTD, map_state(lambda *parts: torch.cat(parts)[order], states[0], *states[1:]), losses

    def _segment(
        self, x_PSD: torch.Tensor, length_P: torch.Tensor, state: RMTState, group: Group
    ) -> tuple[torch.Tensor, RMTState | None, RMTState | None, torch.Tensor | None]:
        """The steps of one group of pieces, which begin with `state`, and their write tokens, in one pass.

        Returns the outputs of the steps [P, n, D]; the state that every piece hands on, as `_next_segment` gives it, or None
        if none is needed; the state of the pieces with which a row ends, or None if there are none; and how far the gates were
        open, as `_next_segment` gives it.
        """
        C, M, S, n = self.cache_steps, self.read_tokens, self.segment, x_PSD.shape[1]
        # with replay, what earlier segments have freed goes back to the system first
        if self.replay and torch.is_grad_enabled() and x_PSD.device.type == "cpu" and x_PSD.nbytes >= WORTH_GIVING_BACK:
            give_back_freed_memory()
        carried = group.kind == "carried"
        reads = M if group.kind == "continued" else 0
        writes = self.memory_tokens if group.writes_memory else 0

        # the new tokens [read | steps | write]
        step = torch.arange(n, device=x_PSD.device)
        slots = ((state.age % S)[:, None] + step).clamp(max=S - 1) if carried else step
        tokens = [x_PSD + self.position[slots] if self.positions == "learned" else x_PSD]
        if reads:
            tokens.insert(0, state.memory + self.read_position)
        if writes:
            tokens.append(self._write_tokens(state.memory))
        tokens_PND = torch.cat(tokens, dim=1) if len(tokens) > 1 else tokens[0]

        # which keys they see; in the layout, the segment's earlier steps in the context count as steps
        columns, exists = self.columns.visible(state.age, group.kind)
        earlier = max(0, columns.stop - C - M)
        M_seen = 0 if group.kind == "fresh" and self.hide_blank else M
        layout = Layout(max(0, C - columns.start), M_seen, earlier + n, writes, bool(reads), not self.front)
        mask: Layout | torch.Tensor = layout
        if exists is not None:
            if carried:  # write tokens do not see the padding behind a shorter piece
                exists = torch.cat([exists, step < length_P[:, None]], dim=1)
            mask = layout.where(exists, tokens_PND.shape[1])
        elif earlier:
            mask = layout.dense(x_PSD.device)[earlier:]

        # all layers, and the states afterwards
        context, shifted = self._context(state.cache, columns), state.shifted if carried else None
        angles = self._angles(reads, slots, writes)
        tables = state.memory if self.by_layer else None
        # of a full segment the read tokens stay in the state, and that only where a row ends
        passing = not self.cache_steps and (group.all_full or not len(group.ends))
        keep = None if not passing else reads if len(group.ends) else 0
        run = Pass(reads, n, context, mask, angles, shifted, self.training, None, tables, writes, keep)
        outputs, key_values, halves, after = self._layers(tokens_PND, run)
        y_PSD, written = outputs.split([n, writes], dim=1)
        written = written if after is None else after
        return y_PSD, *self._states_after(group, state, length_P, written, key_values, halves)

    def _states_after(
        self,
        group: Group,
        state: RMTState,
        length_P: torch.Tensor,
        written: torch.Tensor,
        key_values: list[torch.Tensor],
        halves: list[torch.Tensor],
    ) -> tuple[RMTState | None, RMTState | None, torch.Tensor | None]:
        """The two states, and the gates, that `_segment` returns."""
        after, ended, ends = dataclasses.replace(state, age=state.age + length_P), None, group.ends
        # append the steps to the cache: of all pieces if an XL cache needs them, otherwise of those with which a row ends
        if self.cache_steps and group.writes_memory:
            after = self.columns.append(state, length_P, None, key_values, halves)
            ended = select_rows(after, ends) if len(ends) else None
        elif len(ends) and not group.all_full:
            ended = self.columns.append(state, length_P, ends, key_values, halves)
        if not group.writes_memory:
            return None, ended, None
        # enter the next segment
        after, opened = self._next_segment(after, written)
        if not self.cache_steps and group.all_full and len(ends):
            ended = self._emptied(select_rows(after, ends), state, ends, key_values)
        elif ended is not None and (rows := Rows(ended.age % self.segment == 0)):
            ended = self._enter(ended, map_state(rows.take, select_rows(after, ends)), rows)
        return after, ended, opened
