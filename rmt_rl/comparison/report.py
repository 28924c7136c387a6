"""The report of one or several comparisons: a page, tables and figures, in a folder of their own.

index.html, the results tables and the figures hold nothing that differs between two runs of the same cells. Times and memory
are in speed.html and speed.csv.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from rmt_rl.common.errors import RunError
from rmt_rl.common.files import make_folder, reason, remove, write_file
from rmt_rl.comparison import tables
from rmt_rl.comparison.figures import Picture, learning_curves, matrix, profile
from rmt_rl.comparison.page import Html, breakable, cell, details, element, figure, first, join, page, section, table
from rmt_rl.comparison.results import KINDS, Results, Run, load, natural, plain, title_of_test
from rmt_rl.comparison.statistics import FEWEST_RUNS, RESAMPLES, Efficiency, Estimate

#: Names of files that a report writes, so that an earlier report leaves none of its own behind.
OWN_FILES = re.compile(
    r"(index|speed)\.html|(results|speed)\.csv|results\.tex|(curves-.*|matrix|profile)\.(pdf|png|svg)"
)
LONGEST_FILE_NAME = 60
#: Runs from which on bootstrap intervals contain the mean nearly as often as they should (docs/statistics.md).
ENOUGH_RUNS = 10


def write_report(folders: Sequence[Path], out: Path) -> Path:
    """Write the report of these comparisons into the folder `out`; returns the path of its index.html.

    Policies of several folders stand side by side. A label under which two folders have the same run, or runs with other
    options, gets the folder's name.
    """
    results = load(folders)
    aggregations = tables.aggregations(results)
    curves = {
        task: learning_curves(results, task, f"curves-{name}") for task, name in file_names(results.tasks).items()
    }
    others = {"matrix": matrix(results), "profile": profile(aggregations, results.labels)}
    pictures = {name: picture for name, picture in [*curves.items(), *others.items()] if picture is not None}
    files = {
        "results.csv": tables.results_csv(results).encode(),
        "results.tex": tables.results_tex(results).encode(),
        "speed.csv": tables.speed_csv(results).encode(),
        "speed.html": speed_page(results).encode(),
        "index.html": results_page(results, aggregations, curves, others).encode(),
    }
    for picture in pictures.values():
        files |= {f"{picture.name}.{end}": getattr(picture, end) for end in ("svg", "png", "pdf")}
    _write(out, files)
    return out / "index.html"


def _write(out: Path, files: Mapping[str, bytes]) -> None:
    """Write all files, index.html last, and remove those of an earlier report that this one does not have."""
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        make_folder(out)
        for name in sorted(files, key=lambda name: name == "index.html"):
            write_file(out / name, files[name])
        for path in out.iterdir():
            if OWN_FILES.fullmatch(path.name) and path.name not in files:
                remove(path)
    except OSError as error:
        raise RunError(f"cannot write the report to {out}: {reason(error)}") from error


def file_names(tasks: Iterable[str]) -> dict[str, str]:
    """Names of tasks as parts of file names, different ones for different tasks."""
    found: dict[str, str] = {}
    for task in tasks:
        name = re.sub(r"[^a-z0-9._=-]+", "-", task.lower())[:LONGEST_FILE_NAME].strip(".-") or "task"
        different = (f"{name}-{count}" if count > 1 else name for count in itertools.count(1))
        found[task] = next(one for one in different if one not in found.values())
    return found


# The page of results


def results_page(
    results: Results,
    aggregations: Sequence[tables.Aggregation],
    curves: Mapping[str, Picture | None],
    others: Mapping[str, Picture | None],
) -> str:
    parts: list[tuple[str, str, Iterable[Html]]] = [("compared", "What was compared", _compared(results))]
    if results.failed:
        parts.append(("failed", "Failed runs", _failed(results)))
    if results.all_runs():
        parts += [
            ("results", "Results", _headline(results)),
            ("aggregates", "Over all tasks", _aggregates(results, aggregations)),
            ("curves", "Learning curves", _curves(curves)),
            ("matrix", "Every policy in every test", _picture(others["matrix"])),
            ("profile", "Performance profile", _picture(others["profile"])),
            ("improvement", "Probability of improvement", _improvement(aggregations)),
            ("efficiency", "Steps until a threshold", _efficiency(results)),
            ("settings", "Settings and versions", _settings(results)),
            ("runs", "Every run", _every_run(results)),
        ]
    contents = [(id_, title, list(children)) for id_, title, children in parts]
    contents = [part for part in contents if part[2]]
    links = [element("a", title, href=f"#{id_}") for id_, title, _ in contents]
    links.append(element("a", "Speed and memory", href="speed.html"))
    sections = [
        section(id_, title, *children, class_="failed" if id_ == "failed" else None)
        for id_, title, children in contents
    ]
    title = f"{', '.join(results.labels)} in {', '.join(results.tasks)}" if results.tasks else "Comparison"
    title = title if len(title) <= 200 else f"{len(results.labels)} policies in {len(results.tasks)} tasks"
    return page(title, element("h1", title), element("nav", *links), *sections)


def _compared(results: Results) -> Iterable[Html]:
    runs = results.all_runs()
    swept: dict[str, dict[str, None]] = {}
    for run in [*runs, *results.failed]:
        for axis, value in run.variant.items():
            swept.setdefault(axis, {})[tables.value_text(value)] = None
    seeds = sorted({run.seed for run in [*runs, *results.failed]})
    facts = {
        "Tasks": ", ".join(results.tasks),
        "Policies": ", ".join(results.labels),
        "Swept options": "; ".join(
            f"{axis}: {', '.join(sorted(own, key=natural))}" for axis, own in sorted(swept.items())
        ),
        "Seeds": ", ".join(map(str, seeds)),
        "Finished runs": f"{len(runs)} ({len(results.failed)} failed)" if results.failed else str(len(runs)),
        "Parameters": tables.span(run.parameters for run in runs),
        "Steps of training": tables.span(run.steps for run in runs),
    }
    if not runs:
        yield element("p", "No run has finished yet.")
    shown = [item for name, text in facts.items() if text for item in (element("dt", name), element("dd", text))]
    yield element("dl", *shown, class_="facts")
    for folder, asked in zip(results.folders, results.asked, strict=True):
        if command := asked.get("command"):
            # the name of the only folder is left out, so that a copy of it has the same page
            name = f" of {plain(folder.name)}" if len(results.folders) > 1 else ""
            yield element("p", f"The command{name}:")
            yield element("pre", element("code", plain(command)))


def _failed(results: Results) -> Iterable[Html]:
    yield element("p", "These runs are missing from all numbers below.")
    items = []
    for run in results.failed:
        where = element("b", f"{run.label} in {run.task}, seed {run.seed}: ")
        items.append(element("li", where, str(run.error)))
    yield element("ul", *items)


def _headline(results: Results) -> Iterable[Html]:
    most = max(map(len, results.runs.values()))
    few = [
        f"{label} in {task} ({_runs(len(runs))})"
        for (task, label), runs in results.runs.items()
        if len(runs) < FEWEST_RUNS
    ]
    yield element(
        "p",
        f"Means over {_runs(most)} with different seeds, or as many as written under a policy; final policies. In brackets 95 % "
        f"bootstrap intervals over runs ({RESAMPLES:,} resamples). Bold: the interval lies above those of all other policies.",
    )
    if FEWEST_RUNS <= most < ENOUGH_RUNS:
        yield element("p", f"Intervals of fewer than {ENOUGH_RUNS} runs are too narrow (docs/statistics.md).")
    if few:
        yield element("p", f"With fewer than {FEWEST_RUNS} runs there is no interval: {', '.join(few)}.")
    if any(results.example(task, test).exact for task in results.tasks for test in results.tests[task]):
        yield element(
            "p",
            "Exact: the test has only these different episodes, and the value is their mean. The interval is over runs alone.",
        )
    for task in results.tasks:
        for kind, name in KINDS.items():
            shown = tables.task_table(results, task, kind)
            if shown.columns and any(one.estimate for _, cells in shown.rows for one in cells):
                block = _task_table(results, shown, most)
                if kind == "final":
                    yield element("h3", task)
                    yield block
                else:
                    yield details(f"{task}: {name}", block)


def _task_table(results: Results, shown: tables.TaskTable, most: int) -> Html:
    head = ["policy"]
    for column in shown.columns:
        lines = [column.measure, *tables.bounds_lines(column), *column.episodes]
        head.append(join([breakable(column.title, "=_./,-"), *(element("small", line) for line in lines)]))
    rows = []
    for label, cells in shown.rows:
        runs = len(results.runs[shown.task, label])
        row = [first(label, *([element("small", _runs(runs))] if runs != most else []))]
        for one, column in zip(cells, shown.columns, strict=True):
            fewer = [element("small", _runs(one.runs))] if one.estimate and one.runs != runs else []
            row.append(cell(*_estimate(one.estimate, column.measure), *fewer, class_="best" if one.best else None))
        rows.append(row)
    return table(head, rows)


def _runs(count: int) -> str:
    return "1 run" if count == 1 else f"{count} runs"


def _estimate(one: Estimate | None, measure: str = "success") -> list[Html]:
    """A number, and its interval below it."""
    if one is None:
        return [join(["-"])]
    around = tables.interval_text(one, measure)
    return [join([tables.text_of(one.value, measure)]), *([element("small", around)] if around else [])]


def _aggregates(results: Results, aggregations: Sequence[tables.Aggregation]) -> Iterable[Html]:
    if not aggregations:
        yield element(
            "p", "No task has both a floor and a ceiling for all policies, so there are no aggregates over tasks."
        )
        return
    yield element(
        "p",
        "Scores of the final policies, with the floor of every task as 0 and its ceiling as 1. IQM is the mean of the middle "
        "half of all runs; the optimality gap is what is missing to 1 on average.",
    )
    for aggregation in aggregations:
        parts = [f"{task} ({'; '.join(map(title_of_test, tests))})" for task, tests in aggregation.tests.items()]
        yield element("h3", aggregation.title)
        yield element("p", f"Over {', '.join(parts)}.", class_="soft")
        rows = [
            [first(label), *(cell(*_estimate(one.estimate), class_="best" if one.best else None) for one in cells)]
            for label, cells in tables.aggregate_rows(aggregation)
        ]
        yield table(["policy", "IQM", "mean", "optimality gap"], rows)
    for note in dict.fromkeys(note for aggregation in aggregations for note in aggregation.notes):
        yield element("p", note, class_="soft")


def _curves(curves: Mapping[str, Picture | None]) -> Iterable[Html]:
    missing = [task for task, picture in curves.items() if picture is None]
    for task, picture in curves.items():
        if picture is not None:
            yield element("h3", task)
            yield figure(picture)
    if missing:
        yield element("p", f"No learning curve was recorded in {', '.join(missing)}.")


def _picture(picture: Picture | None) -> Iterable[Html]:
    if picture is not None:
        yield figure(picture)


def _improvement(aggregations: Sequence[tables.Aggregation]) -> Iterable[Html]:
    for aggregation in aggregations:
        if len(aggregation.scores) > 1:
            yield element("h3", aggregation.title)
            rows = []
            for label, others in tables.improvement_rows(aggregation):
                better = [one is not None and one.low is not None and one.low > 0.5 for one in others]
                cells = zip(others, better, strict=True)
                rows.append(
                    [first(label), *(cell(*_percent(one), class_="best" if bold else None) for one, bold in cells)]
                )
            yield table(["P(row > column)", *aggregation.scores], rows)
            yield element(
                "p",
                "The probability that a run of the row scores higher than a run of the column, equal scores counting half. "
                "Bold: the 95 % interval lies above 50 %.",
                class_="soft",
            )


def _percent(one: Estimate | None) -> list[Html]:
    if one is None:
        return [Html()]
    around = f"[{100 * one.low:.0f}, {100 * one.high:.0f}]" if one.low is not None and one.high is not None else ""
    return [join([f"{100 * one.value:.0f} %"]), *([element("small", around)] if around else [])]


def _efficiency(results: Results) -> Iterable[Html]:
    for task in results.tasks:
        rows, kind = tables.efficiency_rows(results, task), results.curve_kind(task)
        if rows is None:
            yield element(
                "p", f"{task}: its floor or its ceiling is not known, so there is no threshold.", class_="soft"
            )
        elif kind is not None:
            yield element("h3", task)
            shares = [f"{100 * share:.0f} %" for share in tables.SHARES]
            yield table(["policy", *shares], [[first(label), *map(_steps, own)] for label, own in rows])
            yield element(
                "p",
                f"Steps after which the curve of the {tables.CURVES[kind]} stays at or above this share of the way from floor "
                "to ceiling: median over runs, where a run that does not reach it counts as infinity.",
                class_="soft",
            )


def _steps(one: Efficiency) -> Html:
    if not one.runs:
        return cell("no curve")
    reached = element("small", f"{one.reached} of {one.runs} runs")
    return cell("not reached" if one.median is None else tables.steps_text(one.median), reached)


def _settings(results: Results) -> Iterable[Html]:
    sizes = [
        [
            first(label),
            *(
                cell(tables.span(run.parameters for run in results.runs.get((task, label), ())) or "-")
                for task in results.tasks
            ),
        ]
        for label in results.labels
    ]
    yield element("h3", "Parameters")
    yield table(["policy", *results.tasks], sizes)
    found = tables.settings(results)
    if found.different:
        yield element("h3", "Different settings")
        rows = []
        for name, values in found.different.items():
            items = [element("div", element("code", value), f" {who}") for value, who in values]
            rows.append([first(name), cell(*items)])
        yield table(["option", "value"], rows, "wide texts")
    if found.per_run:
        yield element(
            "p", f"Different from run to run: {', '.join(found.per_run)}. The commands below have the values."
        )
    if found.common:
        rows = [
            [first(name), cell(element("code", value), f" {who}" if who else "")]
            for name, (value, who) in found.common.items()
        ]
        yield details(f"Common settings ({len(rows)})", table(["option", "value"], rows, "wide texts"))
    yield element("h3", "Versions")
    for versions, count in tables.versions(results).items():
        yield element("p", f"{versions} ({_runs(count)})")


def _every_run(results: Results) -> Iterable[Html]:
    for task in results.tasks:
        columns = results.tests[task]
        runs = [run for run in results.all_runs() if run.task == task]
        rows = [
            [first(run.label), cell(str(run.seed)), *(cell(*_of_run(run, test)) for test in columns)] for run in runs
        ]
        if columns and rows:
            yield details(
                f"Values of every run in {task}", table(["policy", "seed", *map(title_of_test, columns)], rows)
            )
    yield element(
        "p",
        "In brackets Wilson's 95 % intervals of success rates over distinct episodes. Best: the policy that the evaluations "
        "during training chose.",
        class_="soft",
    )
    every = [*results.all_runs(), *results.failed]
    commands = [item for run in every for item in (element("dt", run.key), element("dd", element("code", run.command)))]
    yield details(f"The command of every run ({len(every)})", element("dl", *commands))


def _of_run(run: Run, test: str) -> list[Html]:
    """The value of a run with its interval over episodes, and that of its best policy."""
    parts = []
    if (score := run.scores["final"].get(test)) is not None:
        interval = tables.seed_interval(run, test, "final")
        parts += _estimate(Estimate(score.value, *(interval or (None, None))), score.measure)
    if (score := run.scores["best"].get(test)) is not None:
        parts.append(element("small", f"best {tables.text_of(score.value, score.measure)}"))
    return parts or [join(["-"])]


# The page of costs


def speed_page(results: Results) -> str:
    parts: list[Html] = [
        element("h1", "Speed and memory"),
        element("p", element("a", "Back to the results", href="index.html")),
        element(
            "p",
            "Medians over runs. They depend on the machine and on what else ran on it; compare ratios within one table. ",
            element("a", "speed.csv", href="speed.csv"),
            " has every run.",
        ),
    ]
    for number, task in enumerate(results.tasks):
        rows = tables.speed_rows(results, task)
        if rows:
            parts.append(section(f"task{number}", task, _speed_table(rows)))
    processors = sorted({plain(run.cost["cpu"]) for run in results.all_runs() if run.cost.get("cpu")})
    if processors:
        parts.append(element("p", f"Processors: {', '.join(processors)}"))
    return page("Speed and memory", *parts)


def _speed_table(rows: Sequence[tuple[str, list[float | None]]]) -> Html:
    head = ["policy", "steps per CPU second", "CPU seconds", "wall seconds", "peak memory, MB", "state per row, bytes"]
    fastest = max((own[0] or 0.0 for _, own in rows), default=0.0)
    shown = []
    for label, numbers in rows:
        texts = ["-" if number is None else f"{number:,.0f}" for number in numbers]
        share = 100 * (numbers[0] or 0.0) / fastest if fastest else 0.0
        bar = element("span", class_="bar", style=f"width: {share:.0f}%")
        shown.append([first(label), cell(texts[0], bar), *(cell(text) for text in texts[1:])])
    return table(head, shown)
