"""Searches for good settings: `python -m rmt_rl.tune env=tmaze policy=rmt algo.learning_rate=1e-4..1e-2 trials=20 out=<folder>`.

Or `rmt_rl.tune(...)`. An option with a range or with several values is tuned, for every task and policy by itself. The folder
keeps all trials, so the same command continues a search that was stopped.
"""

from __future__ import annotations

import csv
import dataclasses
import io
import re
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rmt_rl.common.errors import RunError
from rmt_rl.common.process import CallableModule, command_line, require_packages
from rmt_rl.config.comparison import Cluster, TuneConfig

if TYPE_CHECKING:
    from rmt_rl.comparison.cells import Matrix
    from rmt_rl.comparison.search import Search
    from rmt_rl.comparison.space import Space


@dataclasses.dataclass(frozen=True)
class Best:
    """The best trial of a task and a policy.

    score: the mean over its seeds, chosen as the highest of several, so too good. options: those of `rmt_rl.train`, without a
    seed. trial: its number. trials: how many have ended. file: the same options for config=.
    """

    task: str
    policy: str
    score: float
    options: dict[str, Any]
    trial: int
    trials: int
    file: Path


@dataclasses.dataclass(frozen=True)
class Tuning:
    """What a search found.

    folder: where everything is. best: for each task and policy with a completed trial. failed: one sentence for each of the
    others. signal: what stopped the search, which has no best then.
    """

    folder: Path
    best: list[Best]
    failed: list[str]
    signal: int | None = None


def tune(**given: Any) -> Tuning:
    """Search for the best settings of each task and policy with Optuna, and write them to files; see docs/tuning.md.

        found = rmt_rl.tune(env="tmaze", policy="rmt", trials=20, out="tuned", **{"algo.learning_rate": "1e-4..1e-2"})
        rmt_rl.train(**found.best[0].options, seed=7)

    Options are those of `python -m rmt_rl.tune` and of `rmt_rl.train`. A text "low..high" is a range, and a list are choices; at
    least one option has either. env and policy as for `rmt_rl.compare`. The same call continues a search.
    Raises ConfigError where an option is not allowed, before anything is trained.
    """
    from rmt_rl.comparison.space import tune_from_python

    return _run(*tune_from_python(given))


def _run(config: TuneConfig, space: Space, cluster: Cluster) -> Tuning:
    """Run or continue a search. cluster: where trials are jobs."""
    from rmt_rl.compare import cores
    from rmt_rl.comparison.executors import check_cluster, check_devices, starter
    from rmt_rl.comparison.search import Search
    from rmt_rl.comparison.space import REQUEST, check_same
    from rmt_rl.comparison.store import locked, prepare, repair

    require_packages("rmt_rl.tune", "tune", "optuna")
    check_cluster(cluster)
    folder = Path(config.out)
    prepare(folder)
    pairs = [(task, policy) for task in space.matrix.tasks for policy in space.matrix.policies]
    with locked(folder):
        # the machines of a cluster may have devices that this one lacks, and a search that is finished needs none
        if cluster is None and not (folder / REQUEST).exists():
            check_devices([space.example(*pair) for pair in pairs])
        check_same(folder, space)
        if message := repair(folder):
            print(message, flush=True)
        start = starter(folder, cluster)
        searches = [Search(folder, space, *pair, config.pruning, start, cluster is not None) for pair in pairs]
        stopped = None
        for search in searches:
            done = len(search.finished())
            print(
                f"{search.task} {search.policy}: {config.trials} trials, {max(0, config.trials - done)} to run",
                flush=True,
            )
            stopped = search.run(config.trials, config.workers or cores(), lambda text: print(text, flush=True))
            if stopped is not None:
                break
        write_trials(folder, searches)
        if stopped is not None:
            print("stopped; the same command continues", flush=True)
            return Tuning(folder, [], [], stopped)
        best, failed = [], []
        for search in searches:
            try:
                best.append(write_best(folder, space, search))
            except RunError as error:
                failed.append(str(error))
                print(f"failed: {error}", flush=True)
    return Tuning(folder, best, failed)


def write_trials(folder: Path, searches: Sequence[Search]) -> None:
    """Write trials.csv: every trial with its settings and its value."""
    from rmt_rl.common.files import write_file

    rows = [
        {"task": search.task, "policy": search.policy, "trial": trial.number, "state": trial.state.name.lower()}
        | {"value": trial.value}
        | trial.params
        | {"error": trial.user_attrs.get("error")}
        for search in searches
        for trial in search.study.trials
    ]
    names = list(dict.fromkeys(name for row in rows for name in row if name != "error"))
    text = io.StringIO()
    table = csv.DictWriter(text, [*names, "error"], lineterminator="\n")
    table.writeheader()
    table.writerows(rows)
    write_file(folder / "trials.csv", text.getvalue().encode())


def write_best(folder: Path, space: Space, search: Search) -> Best:
    """Write the file of the best settings, and print what to do with them; raises RunError where no trial was completed."""
    import yaml

    from rmt_rl.common.files import write_file
    from rmt_rl.comparison.cells import is_class, python_command

    done = [trial for trial in search.finished() if trial.state.name == "COMPLETE"]
    if not done:
        errors = [trial.user_attrs["error"] for trial in search.finished() if "error" in trial.user_attrs]
        why = f"; the last error: {errors[-1]}" if errors else ""
        raise RunError(f"{search.task} {search.policy}: no trial was completed{why}")
    best = max(done, key=lambda trial: trial.value)
    matrix, cells = space.cells(search.task, search.policy, best.params)
    settings: dict[str, Any] = {"env": search.task, "policy": search.policy, **matrix.options}
    settings |= {} if matrix.params is None else {"policy.params": matrix.params}
    settings |= {**best.params, "evaluate_every": cells[0].config.evaluate_every}
    name = re.sub(r"[^a-z0-9._=-]+", "_", f"{search.task}-{search.policy}".lower())
    path = folder / f"best-{name}.yaml"
    score = f"best of {len(search.finished())} trials: {best.value:.3f}"
    title = f"# {score}; run it again with fresh seeds before you report it\n"
    write_file(path, (title + yaml.safe_dump(settings, sort_keys=False, allow_unicode=True)).encode())
    train = python_command("train", settings, matrix.plugins)
    if not is_class(search.task):
        plugins = f" plugins={','.join(matrix.plugins)}" if matrix.plugins else ""
        train = f"{command_line('rmt_rl.train')} config={shlex.quote(str(path))}{plugins}"
    lines = [
        f"{search.task} {search.policy}: {score}, trial {best.number}: {path}",
        f"  {train}",
        "The best of several trials is optimistic, because it was chosen by these results. For a result that you can report, run",
        "it again with seeds and episodes that the search did not see:",
        f"  {_check_command(matrix, f'{folder}-check-{name}')}",
    ]
    print("\n".join(lines), flush=True)
    return Best(search.task, search.policy, best.value, settings, best.number, len(search.finished()), path)


def _check_command(matrix: Matrix, out: str) -> str:
    """The comparison that runs the best settings again, with seeds that the search did not use."""
    from rmt_rl.compare import command_of
    from rmt_rl.comparison.space import fresh_seeds

    text = command_of(dataclasses.replace(matrix, seeds=tuple(fresh_seeds(matrix.seeds))), out)
    beginning = "python -m rmt_rl.compare "
    return f"{command_line('rmt_rl.compare')} {text.removeprefix(beginning)}" if text.startswith(beginning) else text


def main(argv: Sequence[str] | None = None) -> int:
    """The exit status of the command."""
    from rmt_rl.config.cli import run

    return run(command, argv)


def command(argv: list[str]) -> int:
    from rmt_rl.comparison.space import parse_tune
    from rmt_rl.config.help import help_text, wants_help

    if wants_help(argv):
        print(help_text(TuneConfig, argv))
        return 0
    found = _run(*parse_tune(argv))
    if found.signal is not None:
        return 128 + found.signal
    return 1 if found.failed else 0


if __name__ == "__main__":
    sys.exit(main())
else:
    sys.modules[__name__].__class__ = CallableModule
