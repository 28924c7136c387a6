"""Splits rows of steps at episode and segment boundaries, into pieces that a segment-wise backbone processes side by side.

A row is cut where an episode begins (`first`) and where a segment of S steps is full. Only pieces whose memory a later piece
reads have to be processed in order; their *level* is the number of earlier segments of the same episode.

Every piece is left-aligned: its first step is at place 0, even where the piece begins in the middle of a segment.
"""

from __future__ import annotations

import dataclasses
from typing import Literal

import torch

Kind = Literal["carried", "fresh", "continued"]

_LAST = 1 << 40  # sorts behind every level


@dataclasses.dataclass(frozen=True)
class Group:
    """Pieces number begin..end-1, processed at once.

    kind: carried = begins in the incoming state; fresh = begins with an episode; continued = begins with a segment, from the
        state after an earlier piece
    length: steps of the longest piece
    writes_memory: whether a later piece, or the final state, needs the memory after the segment of these pieces. All pieces of
        such a group end with their segment, except in a carried group, where some may not
    sources: begin and end of numbers among which are those of the pieces from which these continue (continued pieces only)
    ends: pieces of the group with which a row ends, counted from `begin`
    """

    kind: Kind
    begin: int
    end: int
    length: int
    writes_memory: bool
    sources: tuple[int, int]
    ends: torch.Tensor

    @property
    def all_full(self) -> bool:
        """Whether all pieces are known to end with their segment."""
        return self.writes_memory and self.kind != "carried"


@dataclasses.dataclass(frozen=True)
class Pieces:
    """P pieces, numbered in the order in which they are processed; those whose memory is read later come first.

    count: P
    row: [P] which row the piece was cut from
    source: [P] the piece from which this one continues (meaningful in continued pieces only)
    length: [P] steps of the piece
    place_BT: [B, T] the place of step t of row b among the P * S places
    """

    count: int
    row: torch.Tensor
    source: torch.Tensor
    length: torch.Tensor
    place_BT: torch.Tensor
    groups: list[Group]


def split_at_boundaries(first_BT: torch.Tensor, age_B: torch.Tensor, segment: int) -> Pieces:
    """Pieces of B rows, whose episodes are `age_B` steps old, with segments of `segment` steps."""
    B, T = first_BT.shape
    device = first_BT.device
    # the age of every step's episode, and from it slot, segment and level
    t = torch.arange(T, device=device)
    reset_BT = torch.where(first_BT, t, -1).cummax(dim=1).values  # the latest reset at or before t
    carried_BT = reset_BT < 0
    age_BT = torch.where(carried_BT, t + age_B[:, None], t - reset_BT)
    slot_BT, segment_BT = age_BT % segment, age_BT // segment
    level_BT = segment_BT - torch.where(carried_BT, age_B[:, None] // segment, 0)

    # begin and end of every piece, in the order of the rows
    begins = ((slot_BT == 0) | (t == 0)).flatten()
    begin = begins.nonzero().squeeze(1)
    last = torch.cat([begin[1:], begin.new_full((1,), B * T)]) - 1
    count = len(begin)
    length = last - begin + 1
    full = slot_BT.flatten()[last] == segment - 1
    row_ends = (last + 1) % T == 0
    writes_memory = full & (row_ends | ~first_BT.flatten()[(last + 1) % (B * T)])
    level = level_BT.flatten()[begin]
    carried = carried_BT.flatten()[begin] & (begin % T == 0)

    # the order of processing: carried pieces, then those whose memory is read level by level, then all the others
    key = torch.where(writes_memory, level + 1, torch.where(level == 0, _LAST, _LAST + 1))
    key = torch.where(carried, 0, key)
    order = torch.argsort(key, stable=True)
    number = torch.empty_like(order).index_copy(0, order, torch.arange(count, device=device))

    # where every step goes
    piece = begins.cumsum(0) - 1
    place = number[piece] * segment + torch.arange(B * T, device=device) - begin[piece]
    return Pieces(
        count=count,
        row=(begin // T)[order],
        source=number[(order - 1).clamp(min=0)],
        length=length[order],
        place_BT=place.view(B, T),
        groups=_group(key[order], length[order], row_ends[order], B),
    )


def _group(key: torch.Tensor, length: torch.Tensor, row_ends: torch.Tensor, rows: int) -> list[Group]:
    """Groups of pieces that are sorted by `key`. rows: B; each has one piece that is its last."""
    ends = torch.argsort(~row_ends, stable=True)[:rows]  # in order; `nonzero` would make the host wait for their number
    # what the host needs of them, at once
    on_host = torch.stack([key, length, row_ends.long()]).cpu()
    keys, counts = on_host[0].unique_consecutive(return_counts=True)
    groups, begin, ended = [], 0, 0
    begins: dict[int, int] = {}
    for value, n in zip(keys.tolist(), counts.tolist(), strict=True):
        here = slice(begin, begin + n)
        kind: Kind = "carried" if value == 0 else "fresh" if value in (1, _LAST) else "continued"
        # level k continues from level k - 1; the pieces at the end continue from any level
        first_source = begins[value - 1] if 2 < value < _LAST else 0
        own_ends = int(on_host[2, here].sum())
        groups.append(
            Group(
                kind=kind,
                begin=begin,
                end=begin + n,
                length=int(on_host[1, here].max()),
                writes_memory=value < _LAST,
                sources=(first_source, begin),
                ends=ends[ended : ended + own_ends] - begin,
            )
        )
        begins[value] = begin
        begin, ended = begin + n, ended + own_ends
    return groups
