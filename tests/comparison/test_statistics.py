"""Statistics by hand on few numbers, and their properties."""

from __future__ import annotations

import numpy as np
import pytest

from rmt_rl.comparison.statistics import (
    Estimate,
    band,
    common_curve,
    episode_interval,
    estimate,
    iqm,
    mean,
    mean_estimate,
    optimality_gap,
    performance_profile,
    probability_of_improvement,
    resample,
    sample_efficiency,
    steps_to_threshold,
)


def column(*values: float) -> np.ndarray:
    return np.array(values, dtype=np.float64)[:, None]


def test_iqm_is_the_mean_of_the_middle_half() -> None:
    assert iqm(np.array([100.0, 1, 2, 3, 4, 5, 6, -100])) == pytest.approx(3.5)  # of 2, 3, 4, 5


def test_the_optimality_gap_does_not_count_scores_above_one() -> None:
    assert optimality_gap(np.array([0.5, 2.0])) == pytest.approx(0.25)


def test_estimates_are_the_same_in_every_call() -> None:
    scores = [column(0.1, 0.5, 0.9, 1.0), column(0.2, 0.3, 0.4)]
    assert estimate(scores, iqm) == estimate(scores, iqm)


def test_an_interval_contains_the_estimate_and_lies_inside_the_scores() -> None:
    one = mean_estimate(np.array([0.1, 0.5, 0.9, 1.0]))
    assert one.low is not None and one.high is not None
    assert 0.1 <= one.low < one.value < one.high <= 1.0


def test_equal_runs_have_an_interval_of_no_width() -> None:
    assert mean_estimate(np.array([0.5, 0.5, 0.5])) == Estimate(0.5, 0.5, 0.5)


@pytest.mark.parametrize("runs", [1, 2])
def test_one_or_two_runs_have_no_interval(runs: int) -> None:
    values = np.linspace(0, 1, runs)
    assert mean_estimate(values).low is None
    assert band(values[:, None])[1] is None
    few, many = [column(*values)], [column(0.1, 0.2, 0.3)]
    assert probability_of_improvement(few, many).low is None
    assert performance_profile(few, np.array([0.5]))[1] is None


def test_one_task_with_two_runs_takes_the_interval_from_the_aggregate() -> None:
    assert estimate([column(0.1, 0.2, 0.3), column(0.1, 0.2)], mean).low is None


def test_runs_are_resampled_within_their_task() -> None:
    """Between two tasks of equal scores nothing varies, however different the tasks are."""
    one = estimate([column(0, 0, 0), column(1, 1, 1)], mean)
    assert one == Estimate(0.5, 0.5, 0.5)


def test_the_tests_of_a_run_are_resampled_together() -> None:
    """Two tests that cancel in every run leave nothing to vary."""
    scores = np.array([[0.0, 1.0], [1.0, 0.0], [0.3, 0.7], [0.5, 0.5]])
    one = estimate([scores], mean)
    assert one.low == pytest.approx(0.5) and one.high == pytest.approx(0.5)


def test_the_probability_of_improvement_counts_won_pairs_and_half_of_the_equal_ones() -> None:
    one = probability_of_improvement([column(1, 2, 3)], [column(1, 1, 2)])
    assert one.value == pytest.approx((0.5 + 0.5 + 0 + 1 + 1 + 0.5 + 3) / 9)


def test_the_probability_of_improvement_of_a_policy_over_itself_is_a_half() -> None:
    scores = [column(0.1, 0.5, 0.5, 0.7)]
    assert probability_of_improvement(scores, scores).value == 0.5


def test_policies_that_are_compared_are_resampled_independently() -> None:
    """The same scores twice: with common resamples the probability would always be a half."""
    scores = [column(0.1, 0.3, 0.5, 0.7)]
    one = probability_of_improvement(scores, scores)
    assert one.low is not None and one.low < 0.4


def test_a_performance_profile_is_the_share_of_scores_above_each_threshold() -> None:
    share, low, high = performance_profile(
        [column(0.2, 0.4, 1.0), column(0.0, 0.4, 0.6)], np.array([0.0, 0.4, 0.99, 1.0])
    )
    assert share.tolist() == pytest.approx([5 / 6, 2 / 6, 1 / 6, 0])
    assert low is not None and high is not None
    assert np.all(low <= share) and np.all(share <= high)


def test_the_threshold_must_be_kept_to_the_end() -> None:
    steps, values = np.array([10.0, 20, 30, 40]), np.array([0.95, 0.5, 0.9, 0.9])
    assert steps_to_threshold(steps, values, 0.9) == 30
    assert steps_to_threshold(steps, values, 0.5) == 10
    assert steps_to_threshold(steps, values, 0.91) is None


def test_a_median_over_runs_counts_those_that_never_reach_the_threshold() -> None:
    steps = np.array([10.0, 20.0])
    good, slow, bad = (steps, np.array([1.0, 1.0])), (steps, np.array([0.0, 1.0])), (steps, np.array([0.0, 0.0]))
    found = sample_efficiency([good, slow, bad], 0.9)
    assert (found.median, found.reached, found.runs) == (20, 2, 3)
    found = sample_efficiency([good, bad], 0.9)
    assert (found.median, found.reached, found.runs) == (None, 1, 2)


def test_curves_of_different_steps_are_interpolated_where_all_have_points() -> None:
    one = np.array([0.0, 10.0, 20.0]), np.array([0.0, 1.0, 2.0])
    other = np.array([5.0, 30.0]), np.array([0.5, 3.0])
    steps, values = common_curve([one, other])
    assert (steps[0], steps[-1]) == (5, 20)
    assert np.allclose(values, steps / 10)


def test_wilsons_interval_counts_distinct_episodes() -> None:
    low, high = episode_interval([1, 1, 1, 0]) or (None, None)
    assert (low, high) == (pytest.approx(0.3006, abs=1e-4), pytest.approx(0.9544, abs=1e-4))


def test_values_between_failure_and_success_have_no_wilson_interval() -> None:
    assert episode_interval([0.5, 1.0]) is None
    assert episode_interval([]) is None


def test_resamples_of_two_tasks_differ() -> None:
    one, other = resample([5, 5])
    assert not np.array_equal(one, other)
