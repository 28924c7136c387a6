"""The tables of a comparison, as values, CSV, LaTeX and text for a terminal."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from rmt_rl.comparison.results import IDENTITY, KINDS, TRAINING, Kind, Results, Run, load, plain, title_of_test
from rmt_rl.comparison.statistics import (
    Array,
    Efficiency,
    Estimate,
    episode_interval,
    estimate,
    iqm,
    mean,
    mean_estimate,
    optimality_gap,
    probability_of_improvement,
    sample_efficiency,
)
from rmt_rl.comparison.store import number

#: Sample efficiency: the shares of the way from floor to ceiling that a learning curve must reach and keep.
SHARES = (0.5, 0.9)

#: What the two kinds of curves are means of.
CURVES = {"eval": "evaluations during training", "train": "latest training episodes"}


@dataclasses.dataclass(frozen=True)
class Column:
    """A test: what its numbers are, between which they lie, and from which episodes they come."""

    test: str
    title: str
    measure: str
    floor: float | None
    ceiling: float | None
    episodes: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class Cell:
    """The mean over `runs` runs. best: its interval lies above those of all other policies of the column."""

    estimate: Estimate | None
    runs: int
    best: bool = False


@dataclasses.dataclass(frozen=True)
class TaskTable:
    task: str
    columns: tuple[Column, ...]
    rows: tuple[tuple[str, tuple[Cell, ...]], ...]


def task_table(results: Results, task: str, kind: Kind = "final") -> TaskTable:
    """Every policy in every test of a task."""
    labels = results.labels_of(task)
    columns = [_column(results, task, test) for test in results.tests[task]]
    cells = []
    for column in columns:
        values = [results.values(task, label, column.test, kind) for label in labels]
        estimates = [mean_estimate(own) if len(own) else None for own in values]
        best = best_of(estimates)
        cells.append(
            [Cell(one, len(own), one is not None and one is best) for one, own in zip(estimates, values, strict=True)]
        )
    rows = tuple((label, tuple(column[index] for column in cells)) for index, label in enumerate(labels))
    return TaskTable(task, tuple(columns), rows)


def best_of(estimates: Iterable[Estimate | None]) -> Estimate | None:
    """The estimate whose interval lies above those of all others; None where there is none, or nothing to compare it with."""
    known = [one for one in estimates if one is not None]
    for one in known:
        if len(known) > 1 and all(one.above(other) for other in known if other is not one):
            return one
    return None


def _column(results: Results, task: str, test: str) -> Column:
    example = results.example(task, test)
    scores = [
        score
        for label in results.labels_of(task)
        for kind in KINDS
        for score in results.scores(task, label, test, kind)
    ]
    if example.exact:
        episodes = [f"exact: {example.distinct} episodes" if example.distinct else "exact"]
    else:
        played, distinct = span(score.episodes for score in scores), span(score.distinct for score in scores)
        episodes = [f"{played} episodes"] if played else []
        episodes += [f"{distinct} distinct"] if distinct and distinct != played else []
    return Column(test, title_of_test(test), example.measure, example.floor, example.ceiling, tuple(episodes))


def span(values: Iterable[int | None]) -> str:
    """Whole numbers as text: "400", or "380 to 400" where they differ."""
    known = [value for value in values if value is not None]
    if not known:
        return ""
    return f"{min(known):,}" if min(known) == max(known) else f"{min(known):,} to {max(known):,}"


# Aggregates over tasks


@dataclasses.dataclass(frozen=True)
class Aggregation:
    """Scores between floor (0) and ceiling (1) of some tests, [N, K] per task, for every policy that has runs in all tasks.

    tests: the tests by task. notes: sentences about tasks, tests and policies that are left out.
    """

    title: str
    tests: Mapping[str, tuple[str, ...]]
    scores: Mapping[str, list[Array]]
    notes: tuple[str, ...]


def aggregations(results: Results) -> list[Aggregation]:
    """Of the final policies: over the tasks as they were trained, and over all tests where there are others."""
    found = [_aggregation(results, "as trained", [TRAINING])]
    every = list(dict.fromkeys(test for task in results.tasks for test in results.tests[task]))
    if every != [TRAINING]:
        found.append(_aggregation(results, "all tests", every))
    return [one for one in found if one.scores]


def _aggregation(results: Results, title: str, wanted: Sequence[str]) -> Aggregation:
    tests, notes = {}, []
    for task in results.tasks:
        known = [test for test in results.tests[task] if test in wanted and results.bounds(task, test)]
        shared = [
            test for test in known if all(len(results.values(task, label, test)) for label in results.labels_of(task))
        ]
        if shared:
            tests[task] = tuple(shared)
        missing = [title_of_test(test) for test in results.tests[task] if test in wanted and test not in known]
        if missing:
            which = f" ({'; '.join(missing)})" if known else ""
            notes.append(f"{task}{which} is left out of the aggregates: its floor or its ceiling is not known.")
        if partly := [title_of_test(test) for test in known if test not in shared]:
            notes.append(f"{task} ({'; '.join(partly)}) is left out of the aggregates: not every policy has this test.")
    scores = {}
    for label in results.labels if tests else ():
        absent = [task for task in tests if not results.runs.get((task, label))]
        if absent:
            notes.append(f"{label} is left out of the aggregates: it has no finished run of {', '.join(absent)}.")
        else:
            scores[label] = [_normalised(results, task, label, own) for task, own in tests.items()]
    return Aggregation(
        title, tests, {label: own for label, own in scores.items() if all(len(task) for task in own)}, tuple(notes)
    )


def _normalised(results: Results, task: str, label: str, tests: Sequence[str]) -> Array:
    """[N, K]: (value - floor) / (ceiling - floor) of the runs that have all tests."""
    rows = []
    for run in results.runs[task, label]:
        if all(test in run.scores["final"] for test in tests):
            row = []
            for test in tests:
                floor, ceiling = results.bounds(task, test) or (0.0, 1.0)
                row.append((run.scores["final"][test].value - floor) / (ceiling - floor))
            rows.append(row)
    return np.array(rows, dtype=np.float64).reshape(len(rows), len(tests))


def aggregate_rows(aggregation: Aggregation) -> list[tuple[str, tuple[Cell, ...]]]:
    """IQM, mean and optimality gap of every policy; best: of the IQM."""
    rows = []
    for label, scores in aggregation.scores.items():
        runs = sum(len(task) for task in scores)
        rows.append((label, [Cell(estimate(scores, statistic), runs) for statistic in (iqm, mean, optimality_gap)]))
    best = best_of(cells[0].estimate for _, cells in rows)
    return [
        (label, (dataclasses.replace(cells[0], best=best is not None and cells[0].estimate is best), *cells[1:]))
        for label, cells in rows
    ]


def improvement_rows(aggregation: Aggregation) -> list[tuple[str, list[Estimate | None]]]:
    """P(row's policy scores higher than the column's), for every pair; None on the diagonal."""
    labels = list(aggregation.scores)
    found: dict[tuple[str, str], Estimate] = {}
    for index, x in enumerate(labels):
        for y in labels[index + 1 :]:
            one = probability_of_improvement(aggregation.scores[x], aggregation.scores[y])
            found[x, y] = one
            # P(y > x) = 1 - P(x > y), because equal scores count half on both sides
            turned = (None, None) if one.low is None or one.high is None else (1 - one.high, 1 - one.low)
            found[y, x] = Estimate(1 - one.value, *turned)
    return [(x, [found.get((x, y)) for y in labels]) for x in labels]


def efficiency_rows(results: Results, task: str) -> list[tuple[str, list[Efficiency]]] | None:
    """Steps until every share of SHARES, for every policy; None where the task has no floor or no ceiling."""
    bounds = results.bounds(task, TRAINING) if TRAINING in results.tests[task] else None
    if bounds is None:
        return None
    floor, ceiling = bounds
    thresholds = [floor + share * (ceiling - floor) for share in SHARES]
    # a return may be counted in losses, so that its ceiling lies below its floor
    sign = 1 if ceiling > floor else -1
    rows = []
    for label in results.labels_of(task):
        curves = [(steps, sign * values) for steps, values in results.curves(task, label)]
        rows.append((label, [sample_efficiency(curves, sign * threshold) for threshold in thresholds]))
    return rows


# Numbers as text


def text_of(value: float | None, measure: str = "success") -> str:
    """Three decimals of a share; four digits of a return."""
    if value is None:
        return "-"
    if measure == "success":
        text = f"{value:.3f}"
    elif abs(value) >= 999.95:
        text = f"{value:,.0f}"
    else:
        text = f"{value:#.4g}"
    return text.removeprefix("-") if text.strip("-0.,") == "" else text


def interval_text(one: Estimate, measure: str = "success") -> str:
    if one.low is None or one.high is None:
        return ""
    return f"[{text_of(one.low, measure)}, {text_of(one.high, measure)}]"


def steps_text(steps: float) -> str:
    """12,345 as 12k, for tables that are read from a telephone."""
    for size, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if steps >= size:
            return f"{steps / size:.3g}{unit}"
    return f"{steps:.0f}"


def bounds_lines(column: Column) -> list[str]:
    """Floor and ceiling of a test, where they are known."""
    known = [("floor", column.floor), ("ceiling", column.ceiling)]
    return [f"{name} {text_of(value, column.measure)}" for name, value in known if value is not None]


def value_text(value: Any) -> str:
    """The value of an option as it is typed."""
    if isinstance(value, (dict, list, tuple)):
        return plain(json.dumps(value, sort_keys=True, default=str))
    return "null" if value is None else plain(value)


# Settings


@dataclasses.dataclass(frozen=True)
class Settings:
    """The options of all runs.

    common: option -> its only value, and which policies have the option where not all do
    different: option -> every value and who has it
    per_run: options that differ between the runs of one policy in one task
    """

    common: Mapping[str, tuple[str, str]]
    different: Mapping[str, tuple[tuple[str, str], ...]]
    per_run: tuple[str, ...]


def settings(results: Results) -> Settings:
    common: dict[str, tuple[str, str]] = {}
    different: dict[str, tuple[tuple[str, str], ...]] = {}
    per_run = []
    # the names of task and policy are in the tables already
    for name in sorted({name for run in results.all_runs() for name in run.options} - {"env", "policy"}):
        values = {
            place: {value_text(run.options[name]) for run in runs if name in run.options}
            for place, runs in results.runs.items()
        }
        if any(len(own) > 1 for own in values.values()):
            per_run.append(name)
            continue
        having: dict[str, list[tuple[str, str]]] = {}
        for task in results.tasks:
            for label in results.labels_of(task):
                for value in values[task, label]:
                    having.setdefault(value, []).append((task, label))
        if len(having) == 1:
            value, places = next(iter(having.items()))
            common[name] = value, "" if len(places) == len(values) else f"({who(results, places)} only)"
        elif name not in IDENTITY:
            different[name] = tuple((value, who(results, places)) for value, places in having.items())
    return Settings(common, different, tuple(per_run))


def who(results: Results, places: Sequence[tuple[str, str]]) -> str:
    """These (task, label) as names of tasks or of policies, where they are all of a task or of a policy."""
    every = set(results.runs)
    tasks, labels = {task for task, _ in places}, {label for _, label in places}
    if {place for place in every if place[0] in tasks} == set(places):
        return ", ".join(task for task in results.tasks if task in tasks)
    if {place for place in every if place[1] in labels} == set(places):
        return ", ".join(label for label in results.labels if label in labels)
    return ", ".join(f"{label} in {task}" for task, label in places)


def versions(results: Results) -> dict[str, int]:
    """Every combination of versions, with its number of runs."""
    texts = [
        ", ".join(f"{plain(name)} {plain(version)}" for name, version in sorted(run.versions.items())) or "not recorded"
        for run in results.all_runs()
    ]
    return {text: texts.count(text) for text in sorted(set(texts))}


# Files

RESULT_COLUMNS = (
    "task", "test", "label", "policy", "variant", "seed", "which", "measure", "value", "floor", "ceiling", "normalised",
    "low", "high", "exact", "episodes", "distinct", "mean_steps", "parameters", "steps",
)  # fmt: skip


def results_csv(results: Results) -> str:
    """One line per run, test and kind of policy. low, high: Wilson's interval over distinct episodes."""
    rows = []
    for run in results.all_runs():
        for test in results.tests[run.task]:
            for kind in KINDS:
                if test in run.scores[kind]:
                    rows.append(_csv_row(results, run, test, kind))
    return _csv(RESULT_COLUMNS, rows)


def _csv_row(results: Results, run: Run, test: str, kind: Kind) -> list[Any]:
    score, bounds = run.scores[kind][test], results.bounds(run.task, test)
    low, high = seed_interval(run, test, kind) or (None, None)
    variant = " ".join(f"{axis}={plain(value)}" for axis, value in sorted(run.variant.items()))
    normalised = None if bounds is None else (score.value - bounds[0]) / (bounds[1] - bounds[0])
    return [
        run.task, test, run.label, run.policy, variant, run.seed, kind, score.measure, score.value, score.floor, score.ceiling,
        normalised, low, high, score.exact, score.episodes, score.distinct, score.mean_steps, run.parameters, run.steps,
    ]  # fmt: skip


def seed_interval(run: Run, test: str, kind: Kind) -> tuple[float, float] | None:
    """Wilson's interval of one run's success rate; None of a return, and where all episodes of a test were played."""
    score = run.scores[kind][test]
    return None if score.exact or score.measure != "success" else episode_interval(score.per_episode)


SPEED_COLUMNS = ("steps_per_cpu_s", "cpu_s", "wall_s", "peak_memory_mb", "state_bytes_per_row", "cpu")


def speed_csv(results: Results) -> str:
    """What every run cost."""
    rows = [
        [run.task, run.label, run.seed, *(run.cost.get(name) for name in SPEED_COLUMNS)] for run in results.all_runs()
    ]
    return _csv(("task", "label", "seed", *SPEED_COLUMNS), rows)


def speed_rows(results: Results, task: str) -> list[tuple[str, list[float | None]]]:
    """The median cost of every policy's runs, in the order of SPEED_COLUMNS without the name of the CPU."""
    rows = []
    for label in results.labels_of(task):
        medians = []
        for name in SPEED_COLUMNS[:-1]:
            known = [x for run in results.runs[task, label] if (x := number(run.cost.get(name))) is not None]
            medians.append(float(np.median(known)) if known else None)
        rows.append((label, medians))
    return rows


def _csv(columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows(rows)
    return file.getvalue()


TEX_START = r"""% Tables of a comparison. \usepackage{booktabs} gives the lines their weights; without it they are \hline.
% Characters that plain LaTeX does not have are written as ?.
\providecommand{\toprule}{\hline}
\providecommand{\midrule}{\hline}
\providecommand{\bottomrule}{\hline}
"""

_TEX = {
    "\\": r"\textbackslash{}", "{": r"\{", "}": r"\}", "$": r"\$", "&": r"\&", "#": r"\#", "_": r"\_", "%": r"\%",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": r"\textless{}", ">": r"\textgreater{}",
    "|": r"\textbar{}", '"': r"\textquotedbl{}",
}  # fmt: skip


def tex(text: str) -> str:
    """Text for LaTeX: special characters escaped, and those of other scripts as ?."""
    # \textquotedbl needs another font encoding than the default one
    special = _TEX | {'"': "''"}
    return "".join(special.get(c, c if c.isascii() else "?") for c in text)


def results_tex(results: Results) -> str:
    """One tabular for each task, of the final policies."""
    parts = [TEX_START]
    for task in results.tasks:
        table = task_table(results, task)
        if table.columns:
            parts.append(_tabular(table))
    return "\n".join(parts)


def _tabular(table: TaskTable) -> str:
    head = " & ".join(["policy", *(tex(column.title) for column in table.columns)])
    bounds = " & ".join(["", *(tex(", ".join(bounds_lines(column))) for column in table.columns)])
    lines = [
        f"% {tex(table.task)}: means over runs, with 95 % bootstrap intervals",
        rf"\begin{{tabular}}{{l{'c' * len(table.columns)}}}",
    ]
    lines += [r"\toprule", rf"{head} \\", rf"{bounds} \\", r"\midrule"]
    for label, cells in table.rows:
        # braces, because [ or * at the start of a line would belong to the \\ before it
        row = [f"{{{tex(label)}}}"]
        for cell, column in zip(cells, table.columns, strict=True):
            row.append(_tex_cell(cell, column.measure))
        lines.append(rf"{' & '.join(row)} \\")
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}", ""])


def _tex_cell(cell: Cell, measure: str) -> str:
    if cell.estimate is None:
        return "--"
    value = text_of(cell.estimate.value, measure).replace("-", "$-$")
    value = rf"\textbf{{{value}}}" if cell.best else value
    around = interval_text(cell.estimate, measure).replace("-", "$-$")
    return rf"{value} {{\footnotesize {around}}}" if around else value


def summary_table(folder: Path) -> str:
    """The final policies of every task and the failed runs, as text for a terminal."""
    results = load([folder])
    blocks = [_text_block(task_table(results, task)) for task in results.tasks if results.tests[task]]
    if not blocks:
        blocks = ["no run has finished yet"]
    if results.failed:
        lines = [f"  {run.key}: {run.error}" for run in results.failed]
        blocks.append("\n".join([f"{len(results.failed)} failed:", *lines]))
    return "\n\n".join(blocks)


def _text_block(table: TaskTable) -> str:
    rows = [[plain(table.task), *(column.title for column in table.columns), "runs"]]
    rows.append(["", *(", ".join(bounds_lines(column)) for column in table.columns), ""])
    for label, cells in table.rows:
        row = [label]
        for cell, column in zip(cells, table.columns, strict=True):
            one = cell.estimate
            row.append(
                "-"
                if one is None
                else f"{text_of(one.value, column.measure)} {interval_text(one, column.measure)}".strip()
            )
        rows.append([*row, span(cell.runs for cell in cells)])
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    return "\n".join([*lines, "means over runs; in brackets 95 % bootstrap intervals, from 3 runs on"])
