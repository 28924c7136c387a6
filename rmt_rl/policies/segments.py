"""Cuts rows of steps into the pieces that a segment-wise backbone processes side by side.

A row is cut where an episode begins (`first`) and where a segment of S steps is full. Only pieces that hand memory on to a
later piece have to be processed in order; their *level* is how many segments of the same episode lie before them.
"""

from __future__ import annotations

import dataclasses
from typing import Literal

import torch

_LAST = 1 << 40  # sorts behind every level


@dataclasses.dataclass(frozen=True)
class Group:
    """Pieces number begin..end-1, processed at once.

    kind: carried = begins in the incoming state; fresh = begins with an episode; continued = reads the memory that an
        earlier piece wrote
    length: slots to process: those of the longest piece, or the whole segment where the first slots lie in the past
    hands_on: whether the memory after these pieces is needed
    sources: begin and end of the pieces whose memory these read (continued pieces only)
    ends: pieces of the group with which a row ends, counted from `begin`
    """

    kind: Literal["carried", "fresh", "continued"]
    begin: int
    end: int
    length: int
    hands_on: bool
    sources: tuple[int, int]
    ends: torch.Tensor


@dataclasses.dataclass(frozen=True)
class Pieces:
    """P pieces, numbered in the order in which they are processed; those that hand memory on come first.

    count: P
    row: [P] which row the piece was cut from
    source: [P] the piece whose memory this one reads (meaningful in continued pieces only)
    segment: [P] number of the segment within its episode, from 0
    full: [P] the piece ends with its segment
    slot_BT: [B, T] where step t of row b stands among the P * S slots
    age_B: [B] steps of the last episode that are past after T steps
    """

    count: int
    row: torch.Tensor
    source: torch.Tensor
    segment: torch.Tensor
    full: torch.Tensor
    slot_BT: torch.Tensor
    age_B: torch.Tensor
    groups: list[Group]


def cut(first_BT: torch.Tensor, age_B: torch.Tensor, segment: int) -> Pieces:
    """Pieces of B rows, in whose episodes `age_B` steps are past, with segments of `segment` steps."""
    B, T = first_BT.shape
    device = first_BT.device
    t = torch.arange(T, device=device)
    reset_BT = torch.where(first_BT, t, -1).cummax(dim=1).values  # the latest reset at or before t
    carried_BT = reset_BT < 0
    age_BT = torch.where(carried_BT, t + age_B[:, None], t - reset_BT)
    slot_BT, segment_BT = age_BT % segment, age_BT // segment
    level_BT = segment_BT - torch.where(carried_BT, age_B[:, None] // segment, 0)

    begins = ((slot_BT == 0) | (t == 0)).flatten()
    begin = begins.nonzero().squeeze(1)
    last = torch.cat([begin[1:], begin.new_full((1,), B * T)]) - 1
    count = len(begin)
    row = begin // T
    length = slot_BT.flatten()[last] + 1
    full = length == segment
    row_ends = (last + 1) % T == 0
    hands_on = full & (row_ends | ~first_BT.flatten()[(last + 1) % (B * T)])
    level = level_BT.flatten()[begin]
    carried = carried_BT.flatten()[begin] & (begin % T == 0)

    key = torch.where(hands_on, level + 1, torch.where(level == 0, _LAST, _LAST + 1))
    key = torch.where(carried, 0, key)
    order = torch.argsort(key, stable=True)
    number = torch.empty_like(order).index_copy(0, order, torch.arange(count, device=device))
    piece_BT = number[begins.cumsum(0) - 1]
    return Pieces(
        count=count,
        row=row[order],
        source=number[(order - 1).clamp(min=0)],
        segment=segment_BT.flatten()[begin][order],
        full=full[order],
        slot_BT=piece_BT.view(B, T) * segment + slot_BT,
        age_B=age_BT[:, -1] + 1,
        groups=_group(key[order], length[order], row_ends[order], segment),
    )


def _group(key: torch.Tensor, length: torch.Tensor, row_ends: torch.Tensor, segment: int) -> list[Group]:
    keys, counts = key.unique_consecutive(return_counts=True)
    groups, begin = [], 0
    begins: dict[int, int] = {}
    for value, n in zip(keys.tolist(), counts.tolist(), strict=True):
        here = slice(begin, begin + n)
        kind: Literal["carried", "fresh", "continued"] = (
            "carried" if value == 0 else "fresh" if value in (1, _LAST) else "continued"
        )
        ends = row_ends[here].nonzero().squeeze(1)
        longest = segment if kind == "carried" else int(length[here].max())
        # level k reads what level k - 1 wrote; the pieces at the end read what any level wrote
        first_source = begins.get(value - 1, 0) if 2 < value < _LAST else 0
        last_source = begin if value < _LAST else begins.get(_LAST, begin)
        groups.append(Group(kind, begin, begin + n, longest, value < _LAST, (first_source, last_source), ends))
        begins[value] = begin
        begin += n
    return groups
