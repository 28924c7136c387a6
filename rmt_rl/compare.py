"""Compares policies: `python -m rmt_rl.compare env=tmaze policy=rmt,lstm seeds=5 out=<folder>`, or `rmt_rl.compare(...)`.

Every combination of task, policy, option and seed is a cell, which a process of its own trains and evaluates. The folder keeps
what was finished, so the same command continues a comparison that was stopped, and `out=<folder>` alone does, too.
"""

from __future__ import annotations

import dataclasses
import os
import shlex
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rmt_rl.common.errors import ConfigError
from rmt_rl.common.process import CallableModule
from rmt_rl.config.comparison import Cluster, CompareConfig
from rmt_rl.config.fields import show


@dataclasses.dataclass(frozen=True)
class Comparison:
    """What a comparison produced.

    folder: where everything is. rows: one dictionary for each finished or failed cell, as in cells.jsonl (docs/comparing.md).
    report: the file to look at, None where nothing is finished. table: means over seeds, as text. signal: what stopped it.
    """

    folder: Path
    rows: list[dict[str, Any]]
    report: Path | None
    table: str
    signal: int | None = None

    @property
    def failed(self) -> list[dict[str, Any]]:
        """The rows of the cells that failed."""
        return [row for row in self.rows if row["status"] == "failed"]

    def __str__(self) -> str:
        return self.table


def compare(**given: Any) -> Comparison:
    """Train and evaluate every combination of tasks, policies, options and seeds, and write a report; see docs/comparing.md.

        rmt_rl.compare(env="tmaze", policy=["rmt", "lstm"], seeds=3, out="mine", steps=100_000, **{"policy.segment": [4, 8]})
        rmt_rl.compare(out="mine")    # continues it

    env: names of tasks, or classes and functions of a module that make an environment. policy: names. Lists are axes. seeds: a
    number, or a list. Other options are those of `rmt_rl.train` and of `python -m rmt_rl.compare`, such as workers, params=None,
    **{"test.env.length": [80, 1000]} or **{"budget.cpu_s": 60}.
    Raises ConfigError where an option is not allowed, before anything is trained.
    """
    from rmt_rl.comparison.request import from_python

    return _run(*from_python(given))


def _run(config: CompareConfig, matrix: Any, cluster: Cluster) -> Comparison:
    """Run, continue or report a comparison. matrix: None = the one in the folder. cluster: where cells are jobs."""
    from rmt_rl.comparison.cells import expand, notes
    from rmt_rl.comparison.executors import check_cluster, check_devices, run_cells
    from rmt_rl.comparison.extending import check_extends, trusted_cells
    from rmt_rl.comparison.overview import Overview
    from rmt_rl.comparison.space import REQUEST as SEARCH
    from rmt_rl.comparison.store import forget_failed, load_request, locked, prepare, read_cells, repair, save_request

    folder = Path(config.out)
    if config.report is not None:
        return _report(folder, [Path(name) for name in config.report.split(",")])
    check_cluster(cluster)
    if matrix is None:
        matrix = load_request(folder)
        if matrix is None:
            raise ConfigError(
                f"out={folder}: there is no comparison to continue; expected what to compare, such as env=tmaze policy=rmt,lstm"
            )
        cells = trusted_cells(folder, matrix, config.trust)
    else:
        if config.trust:
            raise ConfigError(
                "trust=true: has no effect beside env= and policy=; it is about the modules that a folder names"
            )
        cells = expand(matrix)
    if os.path.lexists(folder / SEARCH):
        raise ConfigError(f"out={folder}: holds a search for settings; choose another out=")
    prepare(folder)
    with locked(folder):
        if (old := load_request(folder)) is not None:
            check_extends(folder, old, matrix, cells)
        messages = [*notes(matrix), repair(folder)]
        again = forget_failed(folder) if config.retry else 0
        known = {row["key"]: row for row in read_cells(folder)}
        pending = [cell for cell in cells if cell.key not in known]
        messages.append(_changed(folder, known, cells))
        if cluster is None:
            check_devices(pending)  # finished cells are reported without their device
        save_request(folder, matrix, command_of(matrix))
        messages.append(_opening(folder, len(cells), len(pending), again))
        print("\n".join(message for message in messages if message), flush=True)
        workers = min(config.workers or (cores() if cluster is None else len(pending)), len(pending)) or 1
        with Overview(folder, cells, workers) as overview:
            stopped = run_cells(folder, matrix, pending, workers, overview.look, cluster)
        return _finish(folder, cells, stopped)


def _opening(folder: Path, cells: int, pending: int, again: int) -> str:
    text = f"comparison in {folder}: {cells} cells, {pending} to run"
    return text + (f", {again} of them failed before" if again else "")


def _changed(folder: Path, known: Mapping[str, Mapping[str, Any]], cells: Sequence[Any]) -> str:
    """Names finished cells that would be trained with other options today, which is no reason to lose them."""
    from rmt_rl.comparison.rows import changed
    from rmt_rl.comparison.store import ROWS

    finished = [
        (cell, known[cell.key]) for cell in cells if cell.key in known and known[cell.key]["status"] == "finished"
    ]
    found = [(cell.key, difference) for cell, row in finished if (difference := changed(row, cell))]
    if not found:
        return ""
    key, (name, then, now) = found[0]
    return (
        f"finished cells with options that are no longer the defaults: {len(found)}, such as {key} with {name}={show(then)}"
        f" instead of {show(now)}; they are kept: remove their lines from {folder / ROWS} to train them again"
    )


def cores() -> int:
    """CPU cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _finish(folder: Path, cells: Sequence[Any], stopped: int | None) -> Comparison:
    """Print the table of results, and write the report."""
    from rmt_rl.comparison.overview import table
    from rmt_rl.comparison.report import write_report
    from rmt_rl.comparison.store import read_cells

    keys = {cell.key for cell in cells}
    rows = [row for row in read_cells(folder) if row["key"] in keys]
    lines = table(rows, cells)
    report = None
    if lines and stopped is None:
        report = write_report([folder], folder / "report")
    for row in rows:
        if row["status"] == "failed":
            print(f"failed: {row['key']}: {row['error']}", flush=True)
    if lines:
        print("\n".join(["final policies, mean over seeds (lowest to highest):", *lines]), flush=True)
    if report is not None:
        print(f"report: {report}", flush=True)
    if stopped is not None:
        print(f"stopped; {len(cells) - len(rows)} cells are not finished; the same command continues them", flush=True)
        if lines:
            print(f"report={folder} out=<another folder> writes a report of the finished cells", flush=True)
    elif any(row["status"] == "failed" for row in rows):
        print("retry=true runs the failed cells again", flush=True)
    return Comparison(folder, rows, report, "\n".join(lines), stopped)


def _report(out: Path, folders: list[Path]) -> Comparison:
    """One report of several comparisons."""
    from rmt_rl.comparison.report import write_report
    from rmt_rl.comparison.store import REQUEST, read_cells

    for folder in folders:
        if not os.path.isfile(folder / REQUEST):
            raise ConfigError(
                f"report={show(str(folder), 300)}: there is no {REQUEST} in it; expected the folder of a comparison"
            )
    if os.path.isfile(out / REQUEST):
        raise ConfigError(
            f"out={show(str(out), 300)}: is the folder of a comparison; choose another one for the report"
        )
    report = write_report(folders, out)
    print(f"report: {report}", flush=True)
    return Comparison(out, [row for folder in folders for row in read_cells(folder)], report, "")


def command_of(matrix: Any, out: str | None = None) -> str:
    """What starts a comparison in a shell."""
    from rmt_rl.comparison.cells import is_class, python_command
    from rmt_rl.config.files import typed

    if any(map(is_class, matrix.tasks)):
        given: dict[str, Any] = {
            "env": list(matrix.tasks),
            "policy": list(matrix.policies),
            "seeds": list(matrix.seeds),
        }
        given |= {key: list(items) for key, items in matrix.axes.items()} | dict(matrix.options)
        given |= {f"test.{key}": list(items) for key, items in matrix.tests.items()} | {"params": matrix.params}
        given |= {} if matrix.cpu_s is None else {"budget.cpu_s": matrix.cpu_s}
        given |= {} if out is None else {"out": out}
        return python_command("compare", given, matrix.plugins)

    def values(items: Sequence[Any]) -> str:
        texts = [typed(item) for item in items]
        return ",".join(f"'{text}'" if "," in text and text[:1] not in "[{'\"" else text for text in texts)

    words = {"env": values(matrix.tasks), "policy": values(matrix.policies)}
    listed = list(matrix.seeds)
    words["seeds"] = str(len(listed)) if listed == list(range(len(listed))) else f"[{','.join(map(str, listed))}]"
    words |= {key: values(items) for key, items in matrix.axes.items()}
    words |= {key: values([value]) for key, value in matrix.options.items()}
    words |= {f"test.{key}": values(items) for key, items in matrix.tests.items()}
    words["params"] = "none" if matrix.params is None else str(matrix.params)
    words |= {} if matrix.cpu_s is None else {"budget.cpu_s": typed(matrix.cpu_s)}
    words |= {"plugins": ",".join(matrix.plugins)} if matrix.plugins else {}
    words |= {} if out is None else {"out": typed(out)}
    return shlex.join(["python", "-m", "rmt_rl.compare", *(f"{key}={text}" for key, text in words.items())])


def main(argv: Sequence[str] | None = None) -> int:
    """The exit status of the command."""
    from rmt_rl.config.cli import run

    return run(command, argv)


def command(argv: list[str]) -> int:
    from rmt_rl.comparison.request import parse_compare
    from rmt_rl.config.help import help_text, wants_help

    if wants_help(argv):
        print(help_text(CompareConfig, argv))
        return 0
    found = _run(*parse_compare(argv))
    if found.signal is not None:
        return 128 + found.signal
    return 1 if found.failed else 0


if __name__ == "__main__":
    sys.exit(main())
else:
    sys.modules[__name__].__class__ = CallableModule
