"""`split_at_boundaries` against a slow loop that walks along every row and keeps a list of what it finds."""

import dataclasses

import pytest
import torch

from rmt_rl.policies.segments import split_at_boundaries

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
    """A case, its pieces, and the pieces that the loop found, with the numbers of the former."""
    first_BT, age_B, S = make_case(number)
    pieces, expected = split_at_boundaries(first_BT, age_B, S), walk(first_BT, age_B, S)
    for piece in expected:
        piece.number = int(pieces.place_BT[piece.row, piece.steps[0][0]]) // S
    return first_BT, S, pieces, expected


def group_of(pieces, number):
    (group,) = [g for g in pieces.groups if g.begin <= number < g.end]
    return group


every_case = pytest.mark.parametrize("begin", range(0, CASES, 100))


def cases(begin):
    return (matched(number) for number in range(begin, begin + 100))


@every_case
def test_every_step_stands_in_its_piece_from_place_0_on_and_carried_pieces_too(begin):
    for _, S, pieces, expected in cases(begin):
        assert pieces.count == len(expected)
        assert sorted(piece.number for piece in expected) == list(range(len(expected)))
        for piece in expected:
            for place, (t, _) in enumerate(piece.steps):
                assert int(pieces.place_BT[piece.row, t]) == piece.number * S + place
            assert int(pieces.length[piece.number]) == len(piece.steps)
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
                assert group_of(pieces, source).writes_memory
                assert group_of(pieces, source).end <= group_of(pieces, piece.number).begin


@every_case
def test_memories_are_written_in_the_order_of_the_piece_numbers(begin):
    """A source is found by its number among the memories written so far, so pieces that write memory come first."""
    for _, _, pieces, _ in cases(begin):
        writes_memory = [group.writes_memory for group in pieces.groups]
        assert writes_memory == sorted(writes_memory, reverse=True)


@every_case
def test_memory_is_written_where_it_is_read_and_only_there(begin):
    for first_BT, S, pieces, expected in cases(begin):
        T = first_BT.shape[1]
        for piece in expected:
            t, age = piece.steps[-1]
            full = age % S == S - 1
            needed = full and (t == T - 1 or not bool(first_BT[piece.row, t + 1]))
            if piece.kind == "carried":  # all in one go, whoever needs it
                assert group_of(pieces, piece.number).writes_memory
            else:
                assert group_of(pieces, piece.number).writes_memory == needed


@every_case
def test_groups_are_as_long_as_their_longest_piece(begin):
    for _, _, pieces, expected in cases(begin):
        for group in pieces.groups:
            inside = [piece for piece in expected if group.begin <= piece.number < group.end]
            assert group.length == max(len(piece.steps) for piece in inside)


@every_case
def test_who_hands_on_is_full_except_in_a_carried_group(begin):
    """So only there can a shorter piece be padded in front of write tokens."""
    for _, S, pieces, expected in cases(begin):
        for piece in expected:
            group = group_of(pieces, piece.number)
            if group.writes_memory and group.kind != "carried":
                assert len(piece.steps) == group.length == S


@every_case
def test_every_row_ends_in_exactly_one_piece(begin):
    for first_BT, _, pieces, expected in cases(begin):
        B, T = first_BT.shape
        ends = torch.cat([group.begin + group.ends for group in pieces.groups])
        last = {piece.row: piece for piece in expected if piece.steps[-1][0] == T - 1}
        assert sorted(ends.tolist()) == sorted(piece.number for piece in last.values())
        assert len(last) == B


def test_pieces_of_one_level_are_processed_side_by_side():
    """Without a reset, T steps from phase 0 need as many groups as segments, whatever the number of rows."""
    pieces = split_at_boundaries(torch.zeros(7, 12, dtype=torch.bool), torch.zeros(7, dtype=torch.int64), 4)
    assert [(g.kind, g.end - g.begin) for g in pieces.groups] == [("carried", 7), ("continued", 7), ("continued", 7)]


def test_a_row_by_hand():
    """Segment 3, phase 1, reset at step 4: | 1 2 | 0 1 | 0 1 2 | 0 |, where the second piece leads nowhere."""
    first = torch.tensor([[False, False, False, False, True, False, False, False]])
    pieces = split_at_boundaries(first, torch.tensor([1]), 3)
    assert [(g.kind, g.begin, g.end, g.length, g.writes_memory) for g in pieces.groups] == [
        ("carried", 0, 1, 2, True),
        ("fresh", 1, 2, 3, True),
        ("continued", 2, 4, 2, False),
    ]
    assert pieces.place_BT.tolist() == [[0, 1, 6, 7, 3, 4, 5, 9]]
    assert pieces.source.tolist()[2:] == [0, 1]
    assert pieces.length.tolist() == [2, 3, 2, 1]
    assert [g.ends.tolist() for g in pieces.groups] == [[], [], [1]]
