"""`cut` against a slow loop that walks along every row and keeps a list of what it finds."""

import dataclasses

import pytest
import torch

from rmt_rl.policies.segments import cut

CASES = 300


@dataclasses.dataclass
class Piece:
    """What the loop knows of one piece: its row, the steps (t, age) in it, its kind, and the piece before it."""

    row: int
    kind: str
    before: "Piece | None"
    steps: list[tuple[int, int]]
    number: int = -1


def walk(first_BT, age_B, segment):
    """All pieces, found step by step."""
    pieces = []
    for b, row in enumerate(first_BT.tolist()):
        age, current = int(age_B[b]), None
        for t, first in enumerate(row):
            if first:
                age = 0
            slot = age % segment
            if first or t == 0 or slot == 0:
                kind = "fresh" if first else "carried" if t == 0 else "continued"
                current = Piece(b, kind, None if kind != "continued" else current, [])
                pieces.append(current)
            current.steps.append((t, age))
            age += 1
    return pieces


def make_case(number):
    generator = torch.Generator().manual_seed(number)

    def randint(low, high):
        return int(torch.randint(low, high, (), generator=generator))

    B, T, S = randint(1, 6), randint(1, 21), randint(1, 7)
    first_BT = torch.rand(B, T, generator=generator) < [0.0, 0.1, 0.4, 1.0][number % 4]
    if number % 3 == 0:
        first_BT[randint(0, B), 0] = True
    if number % 5 == 0:
        first_BT[randint(0, B), -1] = True
    return first_BT, torch.randint(4 * S, (B,), generator=generator), S


def matched(number):
    """A case, what `cut` made of it, and the loop's pieces with the numbers that `cut` gave them."""
    first_BT, age_B, S = make_case(number)
    pieces, expected = cut(first_BT, age_B, S), walk(first_BT, age_B, S)
    for piece in expected:
        piece.number = int(pieces.slot_BT[piece.row, piece.steps[0][0]]) // S
    return first_BT, S, pieces, expected


def group_of(pieces, number):
    (group,) = [g for g in pieces.groups if g.begin <= number < g.end]
    return group


every_case = pytest.mark.parametrize("begin", range(0, CASES, 100))


def cases(begin):
    return (matched(number) for number in range(begin, begin + 100))


@every_case
def test_every_step_stands_in_its_piece_at_its_slot(begin):
    for _, S, pieces, expected in cases(begin):
        assert pieces.count == len(expected)
        assert sorted(piece.number for piece in expected) == list(range(len(expected)))
        for piece in expected:
            for t, age in piece.steps:
                assert int(pieces.slot_BT[piece.row, t]) == piece.number * S + age % S
                assert int(pieces.segment[piece.number]) == age // S
            assert int(pieces.row[piece.number]) == piece.row


@every_case
def test_groups_follow_each_other_and_know_what_their_pieces_begin_with(begin):
    for _, _, pieces, expected in cases(begin):
        assert [group.begin for group in pieces.groups] == [0, *(group.end for group in pieces.groups)][:-1]
        assert pieces.groups[-1].end == pieces.count
        for piece in expected:
            assert group_of(pieces, piece.number).kind == piece.kind


@every_case
def test_a_piece_reads_the_memory_of_the_piece_before_it_which_was_written_by_then(begin):
    for _, _, pieces, expected in cases(begin):
        for piece in expected:
            if piece.kind == "continued":
                source = int(pieces.source[piece.number])
                begin_of_sources, end_of_sources = group_of(pieces, piece.number).sources
                assert begin_of_sources <= source < end_of_sources
                assert source == piece.before.number
                assert group_of(pieces, source).hands_on
                assert group_of(pieces, source).end <= group_of(pieces, piece.number).begin


@every_case
def test_memories_are_written_in_the_order_of_the_piece_numbers(begin):
    """A source is looked up by its number among the memories written so far: those who hand on come first."""
    for _, _, pieces, _ in cases(begin):
        hands_on = [group.hands_on for group in pieces.groups]
        assert hands_on == sorted(hands_on, reverse=True)


@every_case
def test_memory_is_written_where_somebody_needs_it_and_only_there(begin):
    for first_BT, S, pieces, expected in cases(begin):
        T = first_BT.shape[1]
        for piece in expected:
            t, age = piece.steps[-1]
            full = age % S == S - 1
            assert bool(pieces.full[piece.number]) == full
            needed = full and (t == T - 1 or not bool(first_BT[piece.row, t + 1]))
            if piece.kind == "carried":  # all in one go, whoever needs it
                assert group_of(pieces, piece.number).hands_on
            else:
                assert group_of(pieces, piece.number).hands_on == needed


@every_case
def test_groups_are_as_long_as_their_longest_piece_and_carried_ones_a_whole_segment(begin):
    for _, S, pieces, expected in cases(begin):
        for group in pieces.groups:
            inside = [piece for piece in expected if group.begin <= piece.number < group.end]
            longest = max(piece.steps[-1][1] % S + 1 for piece in inside)
            assert group.length == (S if group.kind == "carried" else longest)


@every_case
def test_every_row_ends_in_exactly_one_piece_with_its_age(begin):
    for first_BT, _, pieces, expected in cases(begin):
        B, T = first_BT.shape
        ends = torch.cat([group.begin + group.ends for group in pieces.groups])
        last = {piece.row: piece for piece in expected if piece.steps[-1][0] == T - 1}
        assert sorted(ends.tolist()) == sorted(piece.number for piece in last.values())
        assert len(last) == B
        assert pieces.age_B.tolist() == [last[b].steps[-1][1] + 1 for b in range(B)]


def test_pieces_of_one_level_are_processed_side_by_side():
    """Without a reset, T steps from phase 0 need as many groups as segments, whatever the number of rows."""
    pieces = cut(torch.zeros(7, 12, dtype=torch.bool), torch.zeros(7, dtype=torch.int64), 4)
    assert [(g.kind, g.end - g.begin) for g in pieces.groups] == [("carried", 7), ("continued", 7), ("continued", 7)]


def test_a_row_by_hand():
    """Segment 3, phase 1, reset at step 4: | 1 2 | 0 1 | 0 1 2 | 0 |, where the second piece leads nowhere."""
    first = torch.tensor([[False, False, False, False, True, False, False, False]])
    pieces = cut(first, torch.tensor([1]), 3)
    assert [(g.kind, g.begin, g.end, g.length, g.hands_on) for g in pieces.groups] == [
        ("carried", 0, 1, 3, True),
        ("fresh", 1, 2, 3, True),
        ("continued", 2, 4, 2, False),
    ]
    assert pieces.slot_BT.tolist() == [[1, 2, 6, 7, 3, 4, 5, 9]]
    assert pieces.source.tolist()[2:] == [0, 1]
    assert pieces.full.tolist() == [True, True, False, False]
    assert pieces.age_B.tolist() == [4]
    assert pieces.segment.tolist() == [0, 0, 1, 1]
    assert [g.ends.tolist() for g in pieces.groups] == [[], [], [1]]
