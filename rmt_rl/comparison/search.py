"""Searches for the best settings of a task and a policy: Optuna suggests them, worker processes or jobs train them.

Only the command's own process reads and writes Optuna's journal. A trial has a run for each seed, one after the other; its value
is the mean of the last evaluations during training, whose episodes are not those of a comparison.
"""

from __future__ import annotations

import dataclasses
import functools
import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from rmt_rl.common.errors import ConfigError
from rmt_rl.common.files import open_to_append, read_bytes, reason, remove
from rmt_rl.comparison.cell_process import CellRun
from rmt_rl.comparison.cells import Cell, Matrix
from rmt_rl.comparison.executors import INTERVAL, JOB_INTERVAL, RESTARTS, StopSignals, starter
from rmt_rl.comparison.overview import eval_points, eval_rows
from rmt_rl.comparison.space import Space
from rmt_rl.comparison.store import LARGEST_ROWS, number, read_cells
from rmt_rl.config.fields import show
from rmt_rl.config.files import typed

JOURNAL = "optuna.log"
#: Finished trials before the first one can be pruned, and the part of its training after which.
PRUNE_AFTER, PRUNE_FROM = 4, 0.25
#: Seconds between two looks at the evaluations of a run.
LOOK = 1.0


@dataclasses.dataclass
class Running:
    """A trial in progress. reported: the evaluations that the pruner knows. values: of the seeds that are finished."""

    trial: Any
    matrix: Matrix
    cells: list[Cell]
    worker: CellRun | None = None
    reported: set[int] = dataclasses.field(default_factory=set)
    values: list[float] = dataclasses.field(default_factory=list)
    deaths: int = 0
    pruned: bool = False
    looked: float = 0.0

    @property
    def cell(self) -> Cell:
        """The run of the seed that is next."""
        return self.cells[len(self.values)]


def _open_study(path: Path, name: str, distributions: Mapping[str, Any]) -> Any:
    """The trials in a journal, to which nothing else writes, because the folder is locked; raises ConfigError."""
    import optuna
    from optuna.storages.journal import JournalFileBackend

    try:
        # of a killed command: its lock, on which Optuna would wait, and a line without its end
        remove(path.with_name(f"{path.name}.lock"))
        if os.path.lexists(path):
            complete = read_bytes(path, LARGEST_ROWS).rfind(b"\n") + 1
            open_to_append(path, complete).close()
        storage = optuna.storages.JournalStorage(JournalFileBackend(str(path)))
        study = optuna.create_study(storage=storage, study_name=name, direction="maximize", load_if_exists=True)
        _check_study(study, distributions)
        return study
    except OSError as error:
        raise ConfigError(f"{path}: cannot be used: {reason(error)}; choose another out=") from error
    except Exception as error:  # whatever Optuna raises for contents of another kind
        text = f"{type(error).__name__}: {show(' '.join(str(error).split()), 200)}"
        raise ConfigError(f"{path}: is not a journal of this search in Optuna ({text}); choose another out=") from error


def _check_study(study: Any, distributions: Mapping[str, Any]) -> None:
    """Raise ValueError unless the trials have the settings that this search tunes, in their ranges, and values that are numbers.

    A journal of somebody else could otherwise set any option of a run, also one that names a module to import.
    """
    if [direction.name for direction in study.directions] != ["MAXIMIZE"]:
        raise ValueError("it does not maximise one value")
    for trial in study.trials:
        for name, value in trial.params.items():
            known = distributions.get(name)
            if (
                known is None
                or trial.distributions[name] != known
                or not known._contains(known.to_internal_repr(value))
            ):
                raise ValueError(f"trial {trial.number} has {name}={value}, which is not searched")
        if trial.state.name == "COMPLETE" and (
            number(trial.value) is None or trial.params.keys() != distributions.keys()
        ):
            raise ValueError(f"trial {trial.number} is complete without a value or a setting")
        numbers = [*trial.intermediate_values, *trial.intermediate_values.values()]
        if not all(isinstance(x, (int, float)) for x in numbers) or not isinstance(
            trial.user_attrs.get("error", ""), str
        ):
            raise ValueError(f"trial {trial.number} has evaluations that are no numbers, or an error that is no text")


class Search:
    """The trials of one task and one policy. start: what starts their runs, None = processes here. far: on a cluster."""

    def __init__(
        self,
        folder: Path,
        space: Space,
        task: str,
        policy: str,
        pruning: bool,
        start: Callable[..., CellRun] | None = None,
        far: bool = False,
    ) -> None:
        import optuna

        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self._optuna, self._folder, self._space, self._pruning = optuna, folder, space, pruning
        self.task, self.policy, self._interval = task, policy, JOB_INTERVAL if far else INTERVAL
        self._start: Callable[[Matrix, Cell], CellRun] = functools.partial(start or starter(folder, None), scored=False)
        self.study = _open_study(folder / JOURNAL, f"{task}-{policy}", self._distributions())
        # a sampler begins anew in every command; with the same seed it would repeat its first suggestions
        self.study.sampler = optuna.samplers.TPESampler(seed=len(self.study.trials))
        config = space.example(task, policy).config
        points = config.steps // (config.evaluate_every or 1)
        self.study.pruner = optuna.pruners.MedianPruner(PRUNE_AFTER, n_warmup_steps=int(PRUNE_FROM * points))
        self._stopped = [trial for trial in self.study.trials if trial.state == optuna.trial.TrialState.RUNNING]

    def finished(self) -> list[Any]:
        """The trials that have ended, with a value, pruned or failed."""
        return [trial for trial in self.study.trials if trial.state.is_finished()]

    def run(self, trials: int, workers: int, say: Callable[[str], None]) -> int | None:
        """Run trials until so many have ended; returns the signal that ended it early, or None."""
        running: list[Running] = []
        with StopSignals() as signals:
            try:
                while True:
                    while signals.received is None and len(running) < workers:
                        if (new := self._next(trials - len(self.finished()) - len(running), say)) is None:
                            break
                        running.append(new)
                    if not running:
                        break
                    time.sleep(self._interval)
                    for one in list(running):
                        if signals.received is not None and one.worker is not None:
                            one.worker.kill() if signals.twice else one.worker.stop()
                        if self._advance(one, signals.received is not None, say):
                            running.remove(one)
            finally:  # an error here must not leave workers behind
                for one in running:
                    if one.worker is not None:
                        one.worker.stop()
                for one in running:
                    if one.worker is not None:
                        one.worker.wait()
        return signals.received

    def _next(self, missing: int, say: Callable[[str], None]) -> Running | None:
        """The next trial: one of a stopped command, or a new one; None where none is missing."""
        while missing > 0:
            if self._stopped:
                known = self._stopped.pop(0)
                trial = self._optuna.trial.Trial(self.study, known._trial_id)
                reported = set(known.intermediate_values)
                # as `ask` does; the command may have been killed before all were chosen
                for key, distribution in self._distributions().items():
                    trial._suggest(key, distribution)
            else:
                trial, reported = self.study.ask(self._distributions()), set()
            try:
                matrix, cells = self._space.cells(self.task, self.policy, trial.params)
            except ConfigError as error:  # settings that do not fit each other
                self._fail(trial, str(error), say)
                missing -= 1
                continue
            return Running(trial, matrix, cells, reported=reported)
        return None

    def _distributions(self) -> dict[str, Any]:
        kinds = self._optuna.distributions
        found: dict[str, Any] = {}
        for key, values in self._space.tuned(self.task, self.policy).items():
            if key not in self._space.log:
                found[key] = kinds.CategoricalDistribution(values)
            else:
                kind = kinds.IntDistribution if isinstance(values[0], int) else kinds.FloatDistribution
                found[key] = kind(*values, log=self._space.log[key])
        return found

    def _advance(self, one: Running, stopping: bool, say: Callable[[str], None]) -> bool:
        """Look at a trial, start its next run, and tell Optuna what is known; True where the trial has ended or is stopped."""
        if one.worker is not None and one.worker.poll() is None:
            self._look(one)
            return False
        row = next((row for row in read_cells(self._folder) if row["key"] == one.cell.key), None)
        if row is None and stopping:
            return True
        if row is None and one.pruned:
            self.study.tell(one.trial, state=self._optuna.trial.TrialState.PRUNED)
            say(f"{self._title(one.trial)}: pruned")
            return True
        if row is None:
            if one.worker is not None:
                one.deaths += 1
                if one.deaths > RESTARTS:
                    return self._fail(one.trial, f"{one.worker.ending()}; logs/{one.cell.key}.log has its output", say)
            one.worker = self._start(one.matrix, one.cell)
            return False
        if row["status"] == "failed":
            return self._fail(one.trial, row["error"], say)
        points = eval_points(row)
        if not points:
            return self._fail(one.trial, "no evaluation during training has a finite value", say)
        self._report(one, points)
        one.values.append(points[-1][1])
        one.worker = None
        if len(one.values) < len(one.cells):
            return False
        value = sum(one.values) / len(one.values)
        self.study.tell(one.trial, value)
        say(f"{self._title(one.trial)}: {value:.3f}")
        return True

    def _look(self, one: Running) -> None:
        """Report the newest evaluations of a run, and stop it where it is worse than those before."""
        if one.pruned or time.monotonic() - one.looked < LOOK:
            return
        one.looked = time.monotonic()
        self._report(one, eval_rows(self._folder / "runs" / one.cell.key / "metrics.jsonl"))
        if self._pruning and one.trial.should_prune() and one.worker is not None:
            one.pruned = True
            one.worker.stop()

    def _report(self, one: Running, points: list[tuple[int, float]]) -> None:
        """Tell the pruner evaluations. Those of later seeds count together with the results of the seeds before."""
        config, done = one.cell.config, len(one.values)
        every = config.evaluate_every or 1
        for steps, value in points:
            place = done * (config.steps // every + 1) + steps // every
            if place not in one.reported:
                one.reported.add(place)
                one.trial.report((sum(one.values) + value) / (done + 1), place)

    def _fail(self, trial: Any, error: str, say: Callable[[str], None]) -> bool:
        trial.set_user_attr("error", error)
        self.study.tell(trial, state=self._optuna.trial.TrialState.FAIL)
        say(f"{self._title(trial)}: failed: {show(error, 300)}")
        return True

    def _title(self, trial: Any) -> str:
        words = " ".join(f"{key}={typed(value)}" for key, value in trial.params.items())
        return f"{self.task} {self.policy} trial {trial.number}: {words}"
