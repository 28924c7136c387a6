"""What a search for settings was asked for, in a shell or in Python, and the settings among which it searches."""

from __future__ import annotations

import dataclasses
import itertools
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from rmt_rl.common.errors import ConfigError
from rmt_rl.common.files import write_file
from rmt_rl.comparison.cells import Cell, Matrix, all_classes, applies, classes_of, expand, find_known
from rmt_rl.comparison.request import matrix_of, python_request, take_cluster, typed_request
from rmt_rl.comparison.store import to_dict
from rmt_rl.config.comparison import Cluster, TuneConfig
from rmt_rl.config.fields import show
from rmt_rl.config.files import typed
from rmt_rl.config.resolve import validate
from rmt_rl.config.yaml_files import read_yaml

#: A range as it is typed: 1e-4..1e-2, with :log or :linear where the ratio of its ends does not say which.
NUMBER = r"[-+]?[0-9][0-9_]*(?:\.[0-9]+)?(?:[eE][-+]?[0-9]+)?"
RANGE = re.compile(rf"(?P<low>{NUMBER})\.\.(?P<high>{NUMBER})(?P<scale>:log|:linear)?")
#: Ranges whose ends have at least this ratio are searched on a logarithmic scale.
LOG_RATIO = 100
REQUEST = "tune.yaml"
#: Combinations of values among which one that fits is looked for, before anything is trained.
MOST_TRIED = 100
#: Options of a run of which no value is better than another.
NOT_LEARNED = {
    "device",
    "threads",
    "checkpoint_steps",
    "evaluate_every",
    "validation_episodes",
    "episode_steps",
    "metrics",
}
NOT_LEARNED |= {"tensorboard", "wandb"}


@dataclasses.dataclass(frozen=True)
class Space:
    """matrix: the tasks and policies, each of which is searched for by itself, and the values of each tuned option as axes.

    log: for each tuned option that is a range, whose two ends are the values, whether its scale is logarithmic. Other tuned
    options are choices.
    """

    matrix: Matrix
    log: Mapping[str, bool]

    def tuned(self, task: str, policy: str) -> dict[str, tuple[Any, ...]]:
        """The tuned options that a task and a policy have, with their values."""
        algo = self.matrix.options.get("algo", "ppo")
        classes = classes_of(task, policy, algo)
        return {key: values for key, values in self.matrix.axes.items() if applies(self.matrix, key, classes)}

    def cells(self, task: str, policy: str, chosen: Mapping[str, Any]) -> tuple[Matrix, list[Cell]]:
        """The runs of one trial, one for each seed; raises ConfigError where the chosen settings do not fit each other."""
        axes = {key: (value,) for key, value in chosen.items()}
        classes = classes_of(task, policy, self.matrix.options.get("algo", "ppo"))
        given = {
            key: value
            for key, value in self.matrix.options.items()
            if key == "algo" or applies(self.matrix, key, classes)
        }
        matrix = dataclasses.replace(self.matrix, tasks=(task,), policies=(policy,), axes=axes, options=given)
        return matrix, expand(matrix)

    def example(self, task: str, policy: str) -> Cell:
        """A run of the first settings that fit each other; raises the first ConfigError where none do."""
        tuned, first = self.tuned(task, policy), None
        for values in itertools.islice(itertools.product(*tuned.values()), MOST_TRIED):
            try:
                return self.cells(task, policy, dict(zip(tuned, values, strict=True)))[1][0]
            except ConfigError as error:
                first = first or error
        assert first is not None  # every option has a value
        raise first


#: The options of a search, its space, and the jobs of executor=slurm or ray.
Request = tuple[TuneConfig, Space, Cluster]


def parse_tune(argv: Sequence[str]) -> Request:
    """What was typed; raises ConfigError."""
    return _request(*typed_request(argv, TuneConfig))


def tune_from_python(given: Mapping[str, Any]) -> Request:
    """`parse_tune` for the arguments of `rmt_rl.tune`; lists are choices, and ranges are text as on the command line."""
    return _request(*python_request(given, TuneConfig))


def _request(values: dict[str, Any], lists: dict[str, list[str]]) -> Request:
    config = validate(TuneConfig(**values))
    cluster = take_cluster(config.executor, lists)
    if others := [key for key in lists if key.startswith("test.") or key in ("budget.cpu_s", "evaluate_episodes")]:
        raise ConfigError(f"{show(others[0])}: has no effect on a search; expected it in the comparison that follows")
    alone = {key: texts[0] for key, texts in lists.items() if len(texts) == 1}
    ranges = {key: found for key, text in alone.items() if (found := RANGE.fullmatch(text))}
    lists |= {key: [*found.group("low", "high")] for key, found in ranges.items()}
    matrix = matrix_of(config, lists, "params" in values)
    if "algo" in matrix.axes:
        raise ConfigError(f"algo={','.join(lists['algo'])}: one algorithm at a time is tuned; expected one name")
    if measured := [key for key in matrix.axes if key in NOT_LEARNED]:
        raise ConfigError(
            f"{measured[0]}={','.join(map(typed, matrix.axes[measured[0]]))}: changes how a trial runs or is measured, and not"
            " what it learns; expected one value"
        )
    if not matrix.axes:
        raise ConfigError(
            "nothing is tuned; expected options with a range or several values, such as algo.learning_rate=1e-4..1e-2"
            " policy.segment=4,8,16"
        )
    log = {key: _scale(key, alone[key], found.group("scale"), matrix) for key, found in ranges.items()}
    space = Space(matrix, log)
    for task in matrix.tasks:
        for policy in matrix.policies:
            tuned = space.tuned(task, policy)
            if not tuned:
                raise ConfigError(
                    f"policy={policy}: {', '.join(matrix.axes)} is no option of it with env={task}; leave it out"
                )
            if space.example(task, policy).config.evaluate_every is None:
                raise ConfigError("evaluate_every=null: a trial is scored by evaluations during training; leave it out")
    return config, space, cluster


def _scale(key: str, text: str, scale: str | None, matrix: Matrix) -> bool:
    """Whether a range is searched on a logarithmic scale; raises ConfigError where it is none."""
    low, high = matrix.axes[key]
    if find_known(key, list(all_classes(matrix))).kind not in (int, float):
        raise ConfigError(f"{key}={show(text)}: a range is for numbers; expected values separated by commas")
    if low > high:
        raise ConfigError(f"{key}={show(text)}: the range has no values; expected the lower number first")
    if scale == ":log" and low <= 0:
        raise ConfigError(
            f"{key}={show(text)}: a logarithmic scale begins above 0; expected :linear, or a higher start"
        )
    return scale == ":log" or (scale is None and low > 0 and high / low >= LOG_RATIO)


def check_same(folder: Path, space: Space) -> None:
    """Raise ConfigError where the folder has another search, or something else."""
    path, asked = folder / REQUEST, {**to_dict(space.matrix), "log": dict(space.log)}
    if (folder / "comparison.yaml").exists():
        raise ConfigError(f"out={folder}: holds a comparison; choose another out=")
    if not path.exists():
        write_file(path, yaml.safe_dump(asked, sort_keys=False, allow_unicode=True).encode())
        return
    known = read_yaml(path)
    plain = yaml.safe_load(yaml.safe_dump(asked))
    if known != plain:
        names = [name for name in plain if not isinstance(known, dict) or known.get(name) != plain[name]]
        raise ConfigError(
            f"out={folder}: holds a search with other {', '.join(names) or 'options'}; give the same options, or another out="
        )


def fresh_seeds(seeds: Sequence[int]) -> list[int]:
    """Five seeds beyond those of the search."""
    first = (max(seeds) + 1) % (2**31 - 5)
    return [first + number for number in range(5)]
