"""The finished and failed runs of one or several folders, in an order that does not depend on when they ended."""

from __future__ import annotations

import dataclasses
import itertools
import json
import math
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np

from rmt_rl.common.errors import ConfigError
from rmt_rl.comparison.statistics import Array
from rmt_rl.comparison.store import REQUEST, ROWS, number, read_request, read_rows

#: The policy at the end of training, and the one that the evaluations during training chose.
Kind = Literal["final", "best"]
KINDS: dict[Kind, str] = {"final": "final policy", "best": "policy chosen by the evaluations during training"}

TRAINING = "training"
#: Beginnings of options that change the task, so that runs with them are another task and not another policy. `memory.carry` and
#: its ramp change training only.
TASK_OPTIONS = ("env.", "memory.scope", "memory.episodes")
#: Options that may differ between runs that are equal in everything that matters.
IDENTITY = frozenset({"seed", "run", "resume", "out"})


@dataclasses.dataclass(frozen=True)
class CellScore:
    """The result of one policy in one test. per_episode: distinct episodes only."""

    measure: str
    value: float
    floor: float | None
    ceiling: float | None
    per_episode: tuple[float, ...] = ()
    episodes: int | None = None
    distinct: int | None = None
    exact: bool = False
    mean_steps: float | None = None


@dataclasses.dataclass(frozen=True)
class Run:
    """One row of cells.jsonl.

    label, task: policy and task with the swept options that belong to each, as the report names them.
    """

    key: str
    task_name: str
    task: str
    policy: str
    label: str
    variant: Mapping[str, Any]
    seed: int
    finished: bool
    error: str | None
    command: str
    parameters: int | None
    steps: int | None
    scores: Mapping[Kind, Mapping[str, CellScore]]
    curves: Mapping[str, tuple[Array, Array]]
    options: Mapping[str, Any]
    versions: Mapping[str, str]
    cost: Mapping[str, Any]
    folder: Path


@dataclasses.dataclass(frozen=True)
class Results:
    """All runs by task and label. tasks, labels and tests are in the order of comparison.yaml."""

    tasks: tuple[str, ...]
    labels: tuple[str, ...]
    tests: Mapping[str, tuple[str, ...]]
    runs: Mapping[tuple[str, str], tuple[Run, ...]]
    failed: tuple[Run, ...]
    asked: tuple[Mapping[str, Any], ...]
    folders: tuple[Path, ...]

    def all_runs(self) -> list[Run]:
        """Finished runs by task, label and seed."""
        return [run for task in self.tasks for label in self.labels for run in self.runs.get((task, label), ())]

    def labels_of(self, task: str) -> list[str]:
        return [label for label in self.labels if (task, label) in self.runs]

    def scores(self, task: str, label: str, test: str, kind: Kind = "final") -> list[CellScore]:
        """The scores of the runs that have this test."""
        runs = self.runs.get((task, label), ())
        return [run.scores[kind][test] for run in runs if test in run.scores[kind]]

    def values(self, task: str, label: str, test: str, kind: Kind = "final") -> Array:
        return np.array([score.value for score in self.scores(task, label, test, kind)], dtype=np.float64)

    def example(self, task: str, test: str) -> CellScore:
        """Any score of a test, for what all have in common; with floor and ceiling where one has them."""
        found = [score for label in self.labels for kind in KINDS for score in self.scores(task, label, test, kind)]
        known = [score for score in found if score.floor is not None and score.ceiling is not None]
        return (known or found)[0]

    def bounds(self, task: str, test: str) -> tuple[float, float] | None:
        """Floor and ceiling of a test, where both are known and scores can be put between them."""
        score = self.example(task, test)
        if score.floor is None or score.ceiling is None or score.floor == score.ceiling:
            return None
        return score.floor, score.ceiling

    def curves(self, task: str, label: str) -> list[tuple[Array, Array]]:
        kind = self.curve_kind(task)
        return [run.curves[kind] for run in self.runs.get((task, label), ()) if kind is not None and kind in run.curves]

    def curve_kind(self, task: str) -> Literal["eval", "train"] | None:
        """Which curves of a task are shown: the evaluations during training, otherwise the training; None where it has none."""
        found = {kind for run in self.all_runs() if run.task == task for kind in run.curves}
        return "eval" if "eval" in found else "train" if found else None


# Reading


def load(folders: Sequence[Path]) -> Results:
    """The runs of these folders. A label that would mix two folders gets the folder's name."""
    folders = list({folder.resolve(): folder for folder in folders}.values())
    for folder in folders:
        if not os.path.isfile(folder / ROWS) and not os.path.isfile(folder / REQUEST):
            raise ConfigError(
                f"{folder}: has no comparison.yaml and no cells.jsonl; expected the folder of a comparison"
            )
    asked = [read_request(folder) or {} for folder in folders]
    rows = [(folder, row) for folder in folders for row in read_rows(folder)]
    names = short_names({axis for _, row in rows for axis in row.get("variant") or {}})
    runs = [_run(folder, row, names) for folder, row in _unique(rows)]
    runs = _separate_folders(runs, folders)
    return _arrange(runs, asked, folders)


def _unique(rows: Iterable[tuple[Path, Any]]) -> list[tuple[Path, dict[str, Any]]]:
    """One row for each key of a folder, by key: a finished one rather than a failed one, whatever the order of the lines."""
    best: dict[tuple[Path, str], tuple[tuple[bool, str], dict[str, Any]]] = {}
    for folder, row in rows:
        rest = {name: value for name, value in row.items() if name != "cost"}
        rank = row["status"] == "finished", json.dumps(rest, sort_keys=True)
        place = folder, row["key"]
        if place not in best or rank > best[place][0]:
            best[place] = rank, row
    return [(folder, best[folder, key][1]) for folder, key in sorted(best, key=lambda place: (str(place[0]), place[1]))]


def _run(folder: Path, row: dict[str, Any], names: Mapping[str, str]) -> Run:
    variant = row.get("variant") or {}
    parts = {axis: f"{names[axis]}={plain(value)}" for axis, value in sorted(variant.items())}
    of_task = [part for axis, part in parts.items() if axis.startswith(TASK_OPTIONS)]
    of_policy = [part for axis, part in parts.items() if not axis.startswith(TASK_OPTIONS)]
    finished = row["status"] == "finished"
    kinds: tuple[Kind, ...] = ("final", "best")
    scores = {kind: _scores(row.get(kind) or {}) if finished else {} for kind in kinds}
    return Run(
        row["key"], row["task"], " ".join([plain(row["task"]), *of_task]),
        row["policy"], " ".join([plain(row["policy"]), *of_policy]), variant, row["seed"],
        finished, row.get("error"), str(row.get("command") or ""), row.get("parameters"), row.get("steps"),
        scores, _curves(row.get("curve") or {}),
        row.get("options") or {}, row.get("versions") or {}, row.get("cost") or {}, folder,
    )  # fmt: skip


def _scores(found: Mapping[str, Any]) -> dict[str, CellScore]:
    """The scores by test; one without a finite value is missing."""
    scores = {}
    for test, score in found.items():
        if (value := number(score.get("value"))) is not None:
            episodes = tuple(x for x in map(number, score.get("per_episode") or ()) if x is not None)
            scores[test] = CellScore(
                score.get("measure") or "return", value, number(score.get("floor")), number(score.get("ceiling")), episodes,
                score.get("episodes"), score.get("distinct"), bool(score.get("exact")), number(score.get("mean_steps")),
            )  # fmt: skip
    return scores


def _curves(curve: Mapping[str, Any]) -> dict[str, tuple[Array, Array]]:
    """Steps and values of the training and of the evaluations during it, by steps, without points that are not numbers."""
    curves = {}
    for name, steps, values in (("train", "steps", "train"), ("eval", "eval_steps", "eval")):
        pairs = zip(curve.get(steps) or (), curve.get(values) or (), strict=False)
        points = {x: y for step, value in pairs if (x := number(step)) is not None and (y := number(value)) is not None}
        if points:
            curves[name] = np.array(sorted(points)), np.array([points[step] for step in sorted(points)])
    return curves


# Names and their order


def plain(value: Any) -> str:
    """Text without control characters, which SVG and LaTeX cannot contain."""
    text = str(value).lower() if isinstance(value, bool) else str(value)
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text)


def short_names(options: Iterable[str]) -> dict[str, str]:
    """Options by the last part of their name, or by all of it where two of them share it."""
    options = sorted(options)
    last = [option.rpartition(".")[2] for option in options]
    return {option: part if last.count(part) == 1 else option for option, part in zip(options, last, strict=True)}


def natural(text: str) -> list[tuple[float, str]]:
    """A sorting key that puts 80 before 1000."""
    parts = re.split(r"(\d+(?:\.\d+)?)", text)
    return [(float(part), "") if index % 2 else (-1.0, part) for index, part in enumerate(parts)]


def _separate_folders(runs: Sequence[Run], folders: Sequence[Path]) -> list[Run]:
    """Append the folder's name to labels under which folders have the same run, or runs with other options.

    Otherwise seeds of one policy that were run in two folders belong together.
    """
    names = _folder_names(folders)
    by_label: dict[str, dict[Path, list[Run]]] = {}
    for run in runs:
        by_label.setdefault(run.label, {}).setdefault(run.folder, []).append(run)
    mixed = set()
    for label, found in by_label.items():
        for one, other in itertools.combinations(found.values(), 2):
            settings = {run.task: _settings(run) for run in one if run.finished}
            same_run = {run.key for run in one} & {run.key for run in other}
            if same_run or any(
                _settings(run) != settings.get(run.task, _settings(run)) for run in other if run.finished
            ):
                mixed.add(label)
    return [
        dataclasses.replace(run, label=f"{run.label} ({names[run.folder]})") if run.label in mixed else run
        for run in runs
    ]


def _settings(run: Run) -> dict[str, Any]:
    return {name: value for name, value in run.options.items() if name not in IDENTITY}


def _folder_names(folders: Sequence[Path]) -> dict[Path, str]:
    """The last parts of every path, as many as make them different."""
    parts = {folder: folder.resolve().parts for folder in folders}
    count = 1
    while len({own[-count:] for own in parts.values()}) < len(parts):
        count += 1
    return {folder: plain("/".join(own[-count:])) for folder, own in parts.items()}


def _arrange(runs: Sequence[Run], asked: Sequence[Mapping[str, Any]], folders: Sequence[Path]) -> Results:
    """Sort everything in the order of comparison.yaml, and what it does not name by its name."""
    asked_tasks, asked_policies = _places(_texts(asked, "tasks")), _places(_texts(asked, "policies"))
    task_keys, label_keys = {}, {}
    for run in runs:
        task_keys[run.task] = asked_tasks.get(run.task_name, math.inf), natural(run.task)
        label_keys[run.label] = asked_policies.get(run.policy, math.inf), natural(run.label)
    tasks, labels = (tuple(sorted(keys, key=keys.__getitem__)) for keys in (task_keys, label_keys))
    grouped = {
        place: tuple(sorted(own, key=lambda run: (run.seed, run.key)))
        for place in itertools.product(tasks, labels)
        if (own := [run for run in runs if run.finished and (run.task, run.label) == place])
    }
    failed = sorted(
        (run for run in runs if not run.finished),
        key=lambda run: (tasks.index(run.task), labels.index(run.label), run.seed, run.key),
    )
    order = _places([TRAINING, *_asked_tests(asked)])
    tests = {}
    for task in tasks:
        found = {
            test
            for (name, _), own in grouped.items()
            if name == task
            for run in own
            for kind in KINDS
            for test in run.scores[kind]
        }
        tests[task] = tuple(sorted(found, key=lambda test: (order.get(test, math.inf), natural(test))))
    return Results(tasks, labels, tests, grouped, tuple(failed), tuple(asked), tuple(folders))


def _places(names: Sequence[str]) -> dict[str, int]:
    """The first place of every name."""
    return {name: index for index, name in reversed(list(enumerate(names)))}


def _texts(asked: Sequence[Mapping[str, Any]], name: str) -> list[str]:
    found = [one.get(name) for one in asked]
    return [str(text) for texts in found if isinstance(texts, list) for text in texts]


def _asked_tests(asked: Sequence[Mapping[str, Any]]) -> list[str]:
    """The names of the tests that comparison.yaml asks for, in its order."""
    names = []
    for one in asked:
        axes = one.get("tests")
        if isinstance(axes, dict):
            lists = [
                [f"{axis}={plain(value)}" for value in values]
                for axis, values in axes.items()
                if isinstance(values, list)
            ]
            names += [",".join(product) for product in itertools.product(*lists)]
    return names


def title_of_test(test: str) -> str:
    """The name of a test for people: "as trained", or its options without their group."""
    return "as trained" if test == TRAINING else plain(re.sub(r"(^|,)[\w.]*\.(?=\w+=)", r"\1", test).replace(",", ", "))
