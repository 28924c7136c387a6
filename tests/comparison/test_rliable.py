"""Our statistics equal those of rliable (which needs another version of pandas, so it is not among our requirements)."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from rmt_rl.comparison import statistics

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # of its dependencies
    metrics = pytest.importorskip("rliable.metrics")
    library = pytest.importorskip("rliable.library")

RANDOM = np.random.RandomState(3)
#: [runs, tasks], with equal scores among them
X, Y = RANDOM.rand(7, 3).round(1), (RANDOM.rand(5, 3) * 1.2).round(1)
RESAMPLES = 300


def tasks(scores: np.ndarray) -> list[np.ndarray]:
    return [scores[:, [task]] for task in range(scores.shape[1])]


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (statistics.iqm, metrics.aggregate_iqm),
        (statistics.mean, metrics.aggregate_mean),
        (statistics.optimality_gap, metrics.aggregate_optimality_gap),
    ],
)
def test_aggregates_and_their_intervals_are_equal(ours: Callable[..., Any], theirs: Callable[..., Any]) -> None:
    """The interval with the same resamples: rliable draws them from numpy's global generator."""
    np.random.seed(0)
    points, intervals = library.get_interval_estimates(
        {"x": X}, lambda scores: np.array([theirs(scores)]), reps=RESAMPLES
    )
    np.random.seed(0)
    drawn = [np.random.choice(len(X), X.shape, replace=True) for _ in range(RESAMPLES)]
    indices = [np.stack([index[:, task] for index in drawn]) for task in range(X.shape[1])]
    one = statistics.estimate(tasks(X), ours, indices)
    assert one.value == pytest.approx(float(points["x"][0]), abs=1e-6)
    assert [one.low, one.high] == pytest.approx(intervals["x"][:, 0].tolist(), abs=1e-6)


def test_the_probability_of_improvement_is_equal() -> None:
    ours = statistics.probability_of_improvement(tasks(X), tasks(Y)).value
    assert ours == pytest.approx(float(metrics.probability_of_improvement(X, Y)), abs=1e-6)
    same = statistics.probability_of_improvement(tasks(X), tasks(X)).value
    assert same == pytest.approx(float(metrics.probability_of_improvement(X, X)), abs=1e-6)


def test_its_interval_is_that_of_rliable_up_to_the_resamples() -> None:
    np.random.seed(0)
    _, intervals = library.get_interval_estimates(
        {"x": [X, Y]}, lambda x, y: np.array([metrics.probability_of_improvement(x, y)]), reps=RESAMPLES
    )
    ours = statistics.probability_of_improvement(tasks(X), tasks(Y))
    assert [ours.low, ours.high] == pytest.approx(intervals["x"][:, 0].tolist(), abs=0.03)


def test_the_performance_profile_is_equal() -> None:
    thresholds = np.linspace(0, 1, 21)
    ours, _, _ = statistics.performance_profile(tasks(X), thresholds)
    assert ours == pytest.approx(library.score_distributions(X, thresholds), abs=1e-6)
