"""Searches for good settings: `python -m rmt_rl.tune env=tmaze policy=rmt algo.learning_rate=1e-4..1e-2 trials=20 out=<folder>`.

An option with a range or with several values is tuned, for every task and policy by itself. The folder keeps all trials, so the
same command continues a search that was stopped.
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
from rmt_rl.common.process import command_line, require_packages
from rmt_rl.config.comparison import TuneConfig

if TYPE_CHECKING:
    from rmt_rl.comparison.search import Search
    from rmt_rl.comparison.space import Space


def _run(config: TuneConfig, space: Space) -> int:
    """Run or continue a search; the exit status."""
    from rmt_rl.compare import cores
    from rmt_rl.comparison.search import Search
    from rmt_rl.comparison.space import check_same
    from rmt_rl.comparison.store import locked, prepare, repair

    folder = Path(config.out)
    prepare(folder)
    with locked(folder):
        check_same(folder, space)
        if message := repair(folder):
            print(message, flush=True)
        pairs = [(task, policy) for task in space.matrix.tasks for policy in space.matrix.policies]
        searches = [Search(folder, space, *pair, config.pruning) for pair in pairs]
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
            return 128 + stopped
        for search in searches:
            print("\n".join(report(folder, space, search)), flush=True)
    return 0


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


def report(folder: Path, space: Space, search: Search) -> list[str]:
    """Write the file of the best settings; lines about them and about what to do with them."""
    import yaml

    from rmt_rl.common.files import write_file
    from rmt_rl.compare import command_of
    from rmt_rl.comparison.space import fresh_seeds

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
    again = command_of(dataclasses.replace(matrix, seeds=tuple(fresh_seeds(matrix.seeds))))
    again = again.removeprefix("python -m rmt_rl.compare")
    plugins = f" plugins={','.join(matrix.plugins)}" if matrix.plugins else ""
    return [
        f"{search.task} {search.policy}: {score}, trial {best.number}: {path}",
        f"  {command_line('rmt_rl.train')} config={shlex.quote(str(path))}{plugins}",
        "The best of several trials is optimistic, because it was chosen by these results. For a result that you can report, run",
        "it again with seeds and episodes that the search did not see:",
        f"  {command_line('rmt_rl.compare')}{again} out={shlex.quote(f'{folder}-check-{name}')}",
    ]


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
    config, space = parse_tune(argv)
    require_packages("rmt_rl.tune", "tune", "optuna")
    return _run(config, space)


if __name__ == "__main__":
    sys.exit(main())
