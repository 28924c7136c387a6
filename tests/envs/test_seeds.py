"""The seeds of the rows of a batch of environments."""

import pytest

from rmt_rl.envs.base import row_seeds


def test_one_seed_counts_up_over_the_rows():
    assert row_seeds(5, 3) == [5, 6, 7]


def test_a_list_has_the_seed_of_each_row():
    assert row_seeds([4, 4, 9], 3) == [4, 4, 9]


@pytest.mark.parametrize("rows", [1, 3])
def test_a_list_of_another_length_is_one_sentence_with_both_numbers(rows):
    with pytest.raises(ValueError, match=rf"seed is a list of 2 for {rows} rows; expected one int or a list of {rows}"):
        row_seeds([1, 2], rows)


def test_without_a_seed_every_row_and_every_call_has_another():
    assert len({*row_seeds(None, 50), *row_seeds(None, 50)}) == 100
