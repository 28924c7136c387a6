"""Statistics of finished episodes: of a whole evaluation, and of the latest ones while training."""

from __future__ import annotations

import dataclasses
import math
from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from rmt_rl.common.errors import RunError
from rmt_rl.envs.base import TorchVectorEnv, reported_names

#: Success and return on screen and in metrics.jsonl are means over the latest episodes whose steps together are this share of the
#: run's, but over no fewer and no more episodes than these. Long episodes would otherwise be averaged over nearly the whole run.
SHARE, FEWEST, MOST = 0.05, 20, 500
#: Successive episodes, at least, whose success may be the best so far; of fewer the highest mean would be luck.
ENOUGH = 100

#: A standard normal number lies between -_Z and _Z with probability 0.95.
_Z = 1.959963984540054


@dataclasses.dataclass(frozen=True)
class Episodes:
    """One number for each finished episode, in the order in which they ended.

    returns, lengths, success: [E] float64, int64, float64; success is NaN where the environment does not report it.
    metrics: [E] float64 by name, the numbers that `metrics=` names; NaN where an episode does not report a finite one.
    Raises RunError where a success is outside 0 to 1.
    """

    returns: torch.Tensor
    lengths: torch.Tensor
    success: torch.Tensor
    metrics: Mapping[str, torch.Tensor] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        outside = (self.success < 0) | (self.success > 1)  # not NaN
        if bool(outside.any()):
            raise RunError(
                f'info["success"] of an episode is {float(self.success[outside][0]):g}; expected true or false, or 0 to 1;'
                " a score of another size belongs into the reward"
            )

    def take(self, index_E: torch.Tensor) -> Episodes:
        """The episodes of these numbers."""
        metrics = {name: values[index_E] for name, values in self.metrics.items()}
        return Episodes(self.returns[index_E], self.lengths[index_E], self.success[index_E], metrics)


def success_of(info: dict[str, Any], ended_B: torch.Tensor, key: str = "success") -> torch.Tensor:
    """[B] float64: the success of the rows whose episode ended with a step; NaN where it is not reported."""
    if key not in info:
        return torch.full(ended_B.shape, math.nan, dtype=torch.float64, device=ended_B.device)
    return torch.where(info.get(f"_{key}", ended_B), info[key].double(), math.nan)


def number_of(info: dict[str, Any], ended_B: torch.Tensor, name: str) -> torch.Tensor:
    """[B] float64: a number that the rows whose episode ended with a step report; NaN where there is none, or no finite one."""
    if name not in reported_names(info):
        return torch.full(ended_B.shape, math.nan, dtype=torch.float64, device=ended_B.device)
    value = info[name].double()
    return torch.where(ended_B & info.get(f"_{name}", ended_B) & value.isfinite(), value, math.nan)


def mean_of_reported(values: Sequence[float]) -> float | None:
    """The mean of the numbers that are not NaN; None where there is none."""
    known = [value for value in values if not math.isnan(value)]
    return sum(known) / len(known) if known else None


def missing_is_failure(success: torch.Tensor) -> torch.Tensor:
    """Success [E] with 0 for NaN, unless all are NaN.

    Some environments report success only where an episode was won; no report is then a failure, in whatever row it was played.
    """
    return success if bool(success.isnan().all()) else success.nan_to_num(0.0)


class EpisodeStats:
    """Means over the latest episodes. As soon as one reports its success, all without a report count as failures.

    steps: environment steps of the whole run, of which the window is a share. metrics: names of further numbers.
    """

    def __init__(self, steps: int, metrics: Sequence[str] = ()) -> None:
        self._window, self._metrics = SHARE * steps, tuple(metrics)
        #: success, return, length, and the metrics of every episode
        self._episodes: deque[tuple[float, ...]] = deque(maxlen=MOST)
        #: the highest mean success of at least ENOUGH and at most MOST successive episodes so far; 0 before there is one
        self.best_success = 0.0
        self._for_best: deque[float] = deque(maxlen=MOST)
        self._ended: torch.Tensor | None = None

    def add(self, episodes: Episodes, ended_B: torch.Tensor | None = None) -> None:
        """Count more episodes. ended_B: the rows in which an episode has ended; None = all rows."""
        columns = episodes.success.tolist(), episodes.returns.tolist(), episodes.lengths.tolist()
        more = (episodes.metrics[name].tolist() for name in self._metrics)
        latest = [*self._episodes, *zip(*columns, *more, strict=True)]
        success = missing_is_failure(torch.tensor([own for own, *_ in latest], dtype=torch.float64)).tolist()
        self._episodes.clear()
        self._episodes.extend((own, *others) for own, (_, *others) in zip(success, latest, strict=True))
        self._forget()
        self._compare(episodes, ended_B)

    def _compare(self, episodes: Episodes, ended_B: torch.Tensor | None) -> None:
        """Update the best success. Where success ends an episode early, the first ones that end are those that succeed; so
        nothing counts before an episode has ended in every row.
        """
        if ended_B is not None and (self._ended is None or not bool(self._ended.all())):
            self._ended = ended_B.cpu() | (False if self._ended is None else self._ended)
            return
        self._for_best.extend(episodes.success.tolist())
        success = missing_is_failure(torch.tensor(self._for_best, dtype=torch.float64))
        if len(success) >= ENOUGH and not bool(success.isnan().any()):
            self.best_success = max(self.best_success, float(success.mean()))

    def _forget(self) -> None:
        """Remove the oldest episodes, as long as the others fill the window."""
        steps = sum(episode[2] for episode in self._episodes)
        while len(self._episodes) > FEWEST and steps - self._episodes[0][2] >= self._window:
            steps -= self._episodes.popleft()[2]

    def state_dict(self) -> dict[str, Any]:
        episodes = torch.tensor(list(self._episodes), dtype=torch.float64).view(-1, 3 + len(self._metrics))
        for_best = torch.tensor(self._for_best, dtype=torch.float64)
        ended = torch.ones(0, dtype=torch.bool) if self._ended is None else self._ended
        return {"episodes": episodes, "best_success": self.best_success, "for_best": for_best, "ended": ended}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        episodes, columns = state["episodes"], 3 + len(self._metrics)
        if episodes.shape != (min(len(episodes), MOST), columns):
            raise ValueError(f"episodes has shape {tuple(episodes.shape)}; expected [at most {MOST}, {columns}]")
        if not bool(episodes[:, 1:3].isfinite().all()):
            raise ValueError("episodes has returns or lengths that are not finite")
        if bool(episodes[:, 3:].isinf().any()):
            raise ValueError("episodes has metrics that are infinite")
        if "for_best" in state:  # no option of earlier versions depends on it
            best, for_best, ended = state["best_success"], state["for_best"], state["ended"]
            if not (isinstance(best, float) and 0 <= best <= 1):
                raise ValueError(f"best_success={best!r}; expected a number from 0 to 1")
            if for_best.ndim != 1 or len(for_best) > MOST or bool(((for_best < 0) | (for_best > 1)).any()):
                raise ValueError(
                    f"for_best has shape {tuple(for_best.shape)}; expected at most {MOST} numbers from 0 to 1"
                )
            if ended.ndim != 1 or ended.dtype != torch.bool:
                raise ValueError(f"ended has shape {tuple(ended.shape)}; expected a flag for every row")
            self.best_success, self._ended = best, ended.cpu() if len(ended) else None
            self._for_best.clear()
            self._for_best.extend(for_best.tolist())
        self._episodes.clear()
        self._episodes.extend(tuple(episode) for episode in state["episodes"].tolist())
        self._forget()  # the end of the run may have moved, and earlier versions kept more episodes

    def means(self) -> dict[str, float | None]:
        n = len(self._episodes)
        columns = [*zip(*self._episodes, strict=True)] if n else [()] * (3 + len(self._metrics))
        success, returns, lengths = (sum(column) / n if n else None for column in columns[:3])
        reported = success is not None and not math.isnan(success)
        means = {"success": success if reported else None, "return": returns, "length": lengths}
        more = zip(self._metrics, columns[3:], strict=True)
        return means | {f"metrics/{name}": mean_of_reported(column) for name, column in more}


@dataclasses.dataclass(frozen=True)
class Distinct:
    """The different episodes of an evaluation, each once, in the order in which they were played first.

    known: how many there are, where the task says so.
    """

    each: Episodes
    known: int | None

    def __len__(self) -> int:
        return len(self.each.returns)

    @property
    def exact(self) -> bool:
        """Whether every episode of the task was played. They are equally likely, so their mean is the score, without an error."""
        return len(self) == self.known

    @property
    def success(self) -> float | None:
        """Share of the different episodes that reached the goal, or None where it is not reported."""
        return None if bool(self.each.success.isnan().any()) else float(self.each.success.mean())

    @property
    def mean_return(self) -> float:
        return float(self.each.returns.mean())

    def to_json(self) -> dict[str, Any]:
        """Plain values. exact: whether success and return are those of the task, not of a sample."""
        return {"episodes": len(self), "exact": self.exact, "success": self.success, "return": self.mean_return}

    def __str__(self) -> str:
        return f"{'exact: ' if self.exact else ''}{len(self):,} distinct episode{'s' if len(self) > 1 else ''}"


@dataclasses.dataclass(frozen=True)
class Score:
    """The result of an evaluation.

    success: share of the episodes that reached the goal, or None where the environment does not report it
    ci95: 95 % interval of success (Wilson 1927), or None; without width where all episodes that the task has were played
    mean_return, return_ci95: mean of the undiscounted returns and its 95 % interval (normal; None with one episode)
    mean_length: steps per episode
    episodes: number of episodes
    each: return, length, success and metrics of every episode
    metrics: the means of the numbers that `metrics=` names, over the episodes that report them; None where none does
    cut: number of episodes that had not ended after `episode_steps` steps; they count as they were until then
    distinct: the different ones among the episodes, of a deterministic policy; None where they were not counted

    Printed it is one line with rounded numbers.
    """

    success: float | None
    ci95: tuple[float, float] | None
    mean_return: float
    return_ci95: tuple[float, float] | None
    mean_length: float
    episodes: int
    each: Episodes = dataclasses.field(repr=False, compare=False)
    cut: int = 0
    metrics: Mapping[str, float | None] = dataclasses.field(default_factory=dict)
    distinct: Distinct | None = dataclasses.field(default=None, repr=False, compare=False)

    def __str__(self) -> str:
        return self.in_words(f", {self.cut} of them cut" if self.cut else "")

    def in_words(self, beside: str, word: str = "episodes") -> str:
        """One line for people. beside: what is said after the number of episodes. word: what an episode is called."""
        if self.distinct is not None and self.distinct.exact:
            return f"{self.means()}  {self.distinct} of {self.mean_length:.1f} steps{beside}"
        counted = f"; {self.distinct}" if self.distinct is not None else ""
        return f"{self.means()}  over {self.episodes} {word} of {self.mean_length:.1f} steps{beside}{counted}"

    def means(self) -> str:
        """Success and return with their intervals, and metrics, rounded for people; without intervals where they are exact."""
        exact = self.distinct is not None and self.distinct.exact
        line = f"return {self.mean_return:.3f}"
        if self.return_ci95 is not None and not exact:
            line += f" [{self.return_ci95[0]:.3f}, {self.return_ci95[1]:.3f}]"
        if self.success is not None and self.ci95 is not None:
            interval = "" if exact else f" [{self.ci95[0]:.3f}, {self.ci95[1]:.3f}]"
            line = f"success {self.success:.3f}{interval}  {line}"
        for name, value in self.metrics.items():
            line += f"  {name} not reported" if value is None else f"  {name} {value:.4g}"
        return line

    def to_json(self, each: bool = False) -> dict[str, Any]:
        """Plain values. each: with the return, length and success of every episode."""
        values: dict[str, Any] = {
            "return": self.mean_return,
            "success": self.success,
            "ci95": self.ci95,
            "return_ci95": self.return_ci95,
            "mean_length": self.mean_length,
            "episodes": self.episodes,
            "cut": self.cut,
            "metrics": dict(self.metrics),
            "distinct": None if self.distinct is None else self.distinct.to_json(),
        }
        if each:
            values |= (
                {"each_metrics": {name: _plain(x) for name, x in self.each.metrics.items()}} if self.metrics else {}
            )
            values["returns"] = self.each.returns.tolist()
            values["lengths"] = [int(length) for length in self.each.lengths.tolist()]
            if self.success is not None:
                values["successes"] = [bool(success) for success in self.each.success.tolist()]
        return values

    def rank(self) -> tuple[float, float]:
        """For comparisons: by success, then by mean return; without reported success by mean return alone."""
        return (-math.inf if self.success is None else self.success, self.mean_return)


def _plain(values_E: torch.Tensor) -> list[float | None]:
    return [None if math.isnan(value) else value for value in values_E.tolist()]


def score(episodes: Episodes, cut: int = 0) -> Score:
    """Means and intervals over some episodes, of which `cut` did not end by themselves."""
    n = len(episodes.returns)
    rate, interval = None, None
    episodes = dataclasses.replace(episodes, success=missing_is_failure(episodes.success))
    if not bool(episodes.success.isnan().any()):
        rate = float(episodes.success.mean())
        interval = success_interval(round(rate * n), n)
    mean = float(episodes.returns.mean())
    half = 1.96 * float(episodes.returns.std()) / math.sqrt(n) if n > 1 else None
    return_interval = None if half is None else (mean - half, mean + half)
    metrics = {name: mean_of_reported(x.tolist()) for name, x in episodes.metrics.items()}
    length = float(episodes.lengths.double().mean())
    return Score(rate, interval, mean, return_interval, length, n, episodes, cut, metrics)


def exact_score(episodes: Episodes, cut: int = 0) -> Score:
    """The score of all episodes that a task has, each of them once: nothing is estimated, and the intervals have no width."""
    found = score(episodes, cut)
    rate, mean = found.success, found.mean_return
    return dataclasses.replace(found, ci95=None if rate is None else (rate, rate), return_ci95=(mean, mean))


def success_interval(successes: int, episodes: int) -> tuple[float, float]:
    """95 % interval of a success rate (Wilson 1927), to the same bits as scipy, whose import takes a second.

    (p + z^2 / 2n  -+  z sqrt(p (1 - p) / n + z^2 / 4n^2)) / (1 + z^2 / n)
    """
    n, p, z2 = episodes, successes / episodes, _Z**2
    middle = (2 * n * p + z2) / (2 * (n + z2))
    half = _Z / (2 * (n + z2)) * math.sqrt(4 * n * p * (1 - p) + z2)
    # without rounding these are the ends of the interval
    return 0.0 if successes == 0 else middle - half, 1.0 if successes == episodes else middle + half


def format_score(score: Score, env: TorchVectorEnv) -> str:
    """One line for people: the score together with floor and ceiling."""
    from rmt_rl.envs.wrappers.memory_scope import MemoryScope

    known = [
        f"{name} {value:.3f}" for name, value in (("floor", env.floor), ("ceiling", env.ceiling)) if value is not None
    ]
    beside = f"  ({', '.join(known)})" if known else ""
    word = "trials" if isinstance(env, MemoryScope) and env.episodes != 1 else "episodes"
    if score.cut:
        longest = int(score.each.lengths.max())
        beside += f"; {score.cut} of {score.episodes} {word} had not ended after {longest:,} steps and were cut (episode_steps)"
    return score.in_words(beside, word)
