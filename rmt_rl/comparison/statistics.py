"""Statistics over the runs of a comparison: estimates with 95 % intervals.

The definitions are those of rliable (Agarwal et al. 2021, "Deep Reinforcement Learning at the Edge of the Statistical
Precipice"); tests/comparison/test_rliable.py holds the two equal to 1e-6. docs/statistics.md explains every number.

Letters: N runs (seeds) of a task, K tests of a run, R resamples, P points of a curve. `Scores` has one [N, K] array per task,
and N may differ between tasks. A resample draws whole runs, within each task: the tests of one run belong together.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from rmt_rl.rollouts.statistics import success_interval

Array = NDArray[np.float64]
Scores = Sequence[Array]

#: rliable takes 50,000, which changes the third digit of an interval and takes 25 times as long.
RESAMPLES = 2_000
CONFIDENCE = 0.95
#: With fewer runs than this of any task there is no interval: resamples of two runs take three values.
FEWEST_RUNS = 3


@dataclasses.dataclass(frozen=True)
class Estimate:
    """A number with its interval; low and high are None where there are too few runs for one."""

    value: float
    low: float | None = None
    high: float | None = None

    def above(self, other: Estimate) -> bool:
        """Whether both have intervals, and this one is above the other without overlap."""
        return self.low is not None and other.high is not None and self.low > other.high


def resample(runs: Sequence[int], resamples: int = RESAMPLES) -> list[NDArray[np.int64]]:
    """[R, N] drawn runs, one array for each number of runs. The same in every call, so that reports are reproducible."""
    # RandomState, because numpy keeps its numbers the same in every version.
    random = np.random.RandomState(0)
    return [random.randint(0, n, size=(resamples, n)) for n in runs]


def interval(statistics_R: Array) -> tuple[Array, Array]:
    """The percentile interval of resampled statistics [R, ...]."""
    tail = 100 * (1 - CONFIDENCE) / 2
    low, high = np.percentile(statistics_R, [tail, 100 - tail], axis=0)
    return low, high


def iqm(scores: Array) -> Array:
    """The interquartile mean along the last axis: the mean without the lowest and highest quarter, rounded down."""
    from scipy.stats import trim_mean

    return np.asarray(trim_mean(scores, proportiontocut=0.25, axis=-1))


def mean(scores: Array) -> Array:
    return np.asarray(scores.mean(-1))


def optimality_gap(scores: Array) -> Array:
    """By how much scores miss 1 on average; scores above 1 count as 1."""
    return np.asarray(1 - np.minimum(scores, 1.0).mean(-1))


def estimate(
    scores: Scores, statistic: Callable[[Array], Array], indices: Sequence[NDArray[np.int64]] | None = None
) -> Estimate:
    """A statistic over all runs, tasks and tests, with its stratified bootstrap interval. indices: the resamples to use."""
    value = float(statistic(np.concatenate([task.ravel() for task in scores])))
    if min(len(task) for task in scores) < FEWEST_RUNS:
        return Estimate(value)
    indices = resample([len(task) for task in scores]) if indices is None else indices
    drawn = [task[index].reshape(len(index), -1) for task, index in zip(scores, indices, strict=True)]
    low, high = interval(statistic(np.concatenate(drawn, axis=1)))
    return Estimate(value, float(low), float(high))


def mean_estimate(values_N: Array) -> Estimate:
    """The mean over the runs of one task, with its bootstrap interval."""
    return estimate([values_N[:, None]], mean)


def _counts(index_RN: NDArray[np.int64]) -> Array:
    """[R, N] how often each resample drew each run."""
    runs = np.arange(index_RN.shape[1])
    return (index_RN[:, :, None] == runs).sum(1).astype(np.float64)


def probability_of_improvement(x: Scores, y: Scores) -> Estimate:
    """P(a run of x scores higher than one of y), equal scores counting half, averaged over tests.

    It is Mann-Whitney's U / (N_x N_y).
    """
    x_runs, y_runs = [len(task) for task in x], [len(task) for task in y]
    tests = sum(task.shape[1] for task in x)
    # [N_x, N_y] for every task: the number of tests in which one run wins against the other
    wins = [
        ((a[:, None] > b[None]) + 0.5 * (a[:, None] == b[None])).sum(-1).astype(np.float64)
        for a, b in zip(x, y, strict=True)
    ]
    value = float(sum(win.mean() for win in wins)) / tests
    if min(x_runs + y_runs) < FEWEST_RUNS:
        return Estimate(value)
    # one stream for both, or equal numbers of runs would draw the same runs of x and of y
    drawn = resample(x_runs + y_runs)
    total = np.zeros(RESAMPLES)
    for win, index_x, index_y in zip(wins, drawn[: len(x)], drawn[len(x) :], strict=True):
        total += np.einsum("rn,nm,rm->r", _counts(index_x), win, _counts(index_y)) / win.size
    low, high = interval(total / tests)
    return Estimate(value, float(low), float(high))


def performance_profile(scores: Scores, thresholds_P: Array) -> tuple[Array, Array | None, Array | None]:
    """The share of runs that score above each threshold, over all tasks and tests, and its interval."""
    above = [(task[:, :, None] > thresholds_P).sum(1).astype(np.float64) for task in scores]  # [N, P] each
    total = sum(task.size for task in scores)
    value = np.sum([task.sum(0) for task in above], axis=0) / total
    if min(len(task) for task in scores) < FEWEST_RUNS:
        return value, None, None
    drawn = resample([len(task) for task in scores])
    share = np.sum([_counts(index) @ task for index, task in zip(drawn, above, strict=True)], axis=0) / total
    return value, *interval(share)


def band(curves_NP: Array) -> tuple[Array, Array | None, Array | None]:
    """The mean curve over runs and its interval at every point."""
    runs = len(curves_NP)
    if runs < FEWEST_RUNS:
        return curves_NP.mean(0), None, None
    return curves_NP.mean(0), *interval(_counts(resample([runs])[0]) @ curves_NP / runs)


def common_curve(curves: Sequence[tuple[Array, Array]]) -> tuple[Array, Array]:
    """Steps [P] and values [N, P] of curves (steps, values) that may have been measured at different steps.

    Equal steps stay as they are. Otherwise curves are interpolated between the latest first and the earliest last point.
    """
    steps = curves[0][0]
    if all(np.array_equal(steps, other) for other, _ in curves):
        return steps, np.stack([values for _, values in curves])
    first, last = max(steps[0] for steps, _ in curves), min(steps[-1] for steps, _ in curves)
    grid = np.unique(np.linspace(min(first, last), last, 200))
    return grid, np.stack([np.interp(grid, steps, values) for steps, values in curves])


def steps_to_threshold(steps_P: Array, values_P: Array, threshold: float) -> float | None:
    """The steps of the first point from which on a curve stays at or above a threshold; None where its last point is below."""
    below = np.flatnonzero(values_P < threshold)
    first = 0 if not below.size else int(below[-1]) + 1
    return float(steps_P[first]) if first < len(values_P) else None


@dataclasses.dataclass(frozen=True)
class Efficiency:
    """Median steps to a threshold over runs. A run that does not reach it counts as infinity, and None is a median of infinity.

    reached, runs: how many runs reach it, of how many.
    """

    median: float | None
    reached: int
    runs: int


def sample_efficiency(curves: Sequence[tuple[Array, Array]], threshold: float) -> Efficiency:
    found = [steps_to_threshold(steps, values, threshold) for steps, values in curves]
    middle = float(np.median([math.inf if steps is None else steps for steps in found])) if found else math.inf
    return Efficiency(middle if math.isfinite(middle) else None, sum(steps is not None for steps in found), len(curves))


def episode_interval(per_episode: Sequence[float]) -> tuple[float, float] | None:
    """The Wilson interval of a success rate over distinct episodes; None where there are none, or one is neither 0 nor 1."""
    if not per_episode or any(value not in (0, 1) for value in per_episode):
        return None
    return success_interval(int(sum(per_episode)), len(per_episode))
