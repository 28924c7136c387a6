"""Which cells a comparison has: one for every task, policy, variant and seed, with its key and its command. Torch-free.

A matrix holds what was asked. An option with several values is an axis. An option that a task or a policy does not have does not
apply to its cells, so an axis of it does not multiply them.
"""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
import json
import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from rmt_rl.common.errors import ConfigError
from rmt_rl.config.cli import parse
from rmt_rl.config.commands import TrainConfig
from rmt_rl.config.envs import NoEnvConfig
from rmt_rl.config.fields import Option, groups, options, show
from rmt_rl.config.files import typed
from rmt_rl.config.memory import RAMP
from rmt_rl.config.policies import MLPConfig
from rmt_rl.config.registry import choose
from rmt_rl.config.resolve import change, find_option, unknown_option, validate

#: Characters of a longer key are cut and a checksum is added.
LONGEST_KEY = 120
#: Evaluations during the training of a cell, unless evaluate_every= is given.
EVALUATIONS = 20
#: Options of a memory that outlives an episode; a policy without memory has none to keep.
OF_CARRIED = {f"memory.{name}" for name in ("carry", *RAMP)}
#: The test of a policy on the task as it was trained on.
TRAINING = "training"


@dataclasses.dataclass(frozen=True)
class Matrix:
    """What a comparison was asked for. Values are in their options' types.

    axes: options with several values. options: those with one. tests: values of options of the task to evaluate on, by names such
    as env.length. params: policy.params of all cells, or None. cpu_s: CPU-seconds after which the training of a cell stops.
    """

    tasks: tuple[str, ...]
    policies: tuple[str, ...]
    seeds: tuple[int, ...]
    axes: Mapping[str, tuple[Any, ...]] = dataclasses.field(default_factory=dict)
    options: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    tests: Mapping[str, tuple[Any, ...]] = dataclasses.field(default_factory=dict)
    params: int | None = None
    cpu_s: float | None = None
    plugins: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class Cell:
    """One run of a comparison.

    variant: the values of the axes that apply to it. given: the options of `python -m rmt_rl.train`. config: the same,
    validated, without a final evaluation. episodes: of each evaluation after training. tests: changed options of the task, by the
    name of the test.
    """

    key: str
    task: str
    policy: str
    variant: Mapping[str, Any]
    seed: int
    given: Mapping[str, Any]
    config: TrainConfig
    episodes: int
    tests: Mapping[str, Mapping[str, Any]]

    def command(self, plugins: tuple[str, ...] = ()) -> str:
        """What repeats the training of this cell in a shell."""
        given = {key: value for key, value in self.given.items() if key != "run"}
        if is_class(self.task):
            return python_command("train", {**given, "env": self.task}, plugins)
        words = [f"{key}={typed(value)}" for key, value in given.items()]
        words += [f"plugins={','.join(plugins)}"] if plugins else []
        return shlex.join(["python", "-m", "rmt_rl.train", *words])


def is_class(task: str) -> bool:
    """Whether a task is a class or function of a module, module:name, which only Python can be given."""
    return ":" in task


def python_command(function: str, given: Mapping[str, Any], plugins: Sequence[str]) -> str:
    """A call of rmt_rl.train or rmt_rl.compare as it is typed in a shell. given: its options; those in env may be classes."""

    def written(key: str, value: Any) -> str:
        if isinstance(value, list):
            return f"[{', '.join(written(key, item) for item in value)}]"
        if not isinstance(value, str):
            return repr(value)
        # double quotes, because the shell's are single
        return value.replace(":", ".") if key == "env" and is_class(value) else json.dumps(value, ensure_ascii=False)

    tasks = given["env"] if isinstance(given["env"], list) else [given["env"]]
    modules = [*plugins, *(task.partition(":")[0] for task in tasks if is_class(task)), "rmt_rl"]
    words = [f"{key}={written(key, value)}" for key, value in given.items() if key.isidentifier()]
    if dotted := [
        f"{json.dumps(key)}: {written(key, value)}" for key, value in given.items() if not key.isidentifier()
    ]:
        words.append(f"**{{{', '.join(dotted)}}}")
    return shlex.join(
        ["python", "-c", f"import {', '.join(dict.fromkeys(modules))}; rmt_rl.{function}({', '.join(words)})"]
    )


def expand(matrix: Matrix) -> list[Cell]:
    """All cells, validated, in the order in which they run: all policies with the first seed, then with the next.

    Raises ConfigError, naming the cell, where a configuration is not allowed, or where an option applies to no cell.
    """
    _check_used(matrix)
    cells = [
        _cell(matrix, seed, task, policy, variant)
        for seed in matrix.seeds
        for task in matrix.tasks
        for policy in matrix.policies
        for variant in variants(matrix, task, policy)
    ]
    seen: set[str] = set()
    for cell in cells:
        if cell.key in seen:
            raise ConfigError(f"cell {cell.key}: two cells have this name; choose other names of tasks and policies")
        seen.add(cell.key)
    return cells


def variants(matrix: Matrix, task: str, policy: str) -> Iterator[dict[str, Any]]:
    """The values of the axes that apply to a task and a policy, in all combinations."""
    algos = matrix.axes.get("algo")
    for algo in algos or (matrix.options.get("algo", groups(TrainConfig)["algo"]),):
        classes = classes_of(task, policy, algo)
        axes = [key for key in matrix.axes if key != "algo" and applies(matrix, key, classes)]
        for values in itertools.product(*(matrix.axes[key] for key in axes)):
            chosen = dict(zip(axes, values, strict=True)) | ({"algo": algo} if algos else {})
            yield {key: chosen[key] for key in matrix.axes if key in chosen}


def classes_of(task: str, policy: str, algo: str) -> dict[str, type]:
    """The dataclass of each group's options in a cell."""
    chosen = groups(TrainConfig) | {"env": task, "policy": policy, "algo": algo}
    return {group: choose(group, name).config for group, name in chosen.items()}


def applies(matrix: Matrix, key: str, classes: Mapping[str, type]) -> bool:
    """Whether a cell with these dataclasses has the option, and something that it changes."""
    if key in OF_CARRIED and _forgets(matrix, classes["policy"]):
        return False
    return key == "algo" or find_option(key, options(TrainConfig), classes) is not None


def all_classes(matrix: Matrix) -> Iterator[dict[str, type]]:
    """The dataclasses of every combination of task, policy and algorithm."""
    algos = matrix.axes.get("algo", (matrix.options.get("algo", groups(TrainConfig)["algo"]),))
    for names in itertools.product(matrix.tasks, matrix.policies, algos):
        yield classes_of(*names)


def find_known(key: str, combinations: list[dict[str, type]]) -> Option:
    """The option `key` of the first cell that has it; raises ConfigError where none has."""
    top = options(TrainConfig)
    for classes in combinations:
        if (known := find_option(key, top, classes)) is not None:
            return known
    what = "no cell of the comparison has this option"
    raise ConfigError(f"{show(key)}: {what}: {unknown_option(key, top, combinations[0], 'python -m rmt_rl.train')}")


def _check_used(matrix: Matrix) -> None:
    combinations = list(all_classes(matrix))
    for key in [*matrix.axes, *matrix.options]:
        if key != "algo":
            find_known(key, combinations)
            if not any(applies(matrix, key, classes) for classes in combinations):
                raise ConfigError(f"{key}: no policy of the comparison has a memory that it would change; leave it out")
    for key in matrix.tests:
        if not any(find_option(key, {}, {"env": classes["env"]}) for classes in combinations):
            found = unknown_option(key, {}, {"env": combinations[0]["env"]})
            raise ConfigError(f"test.{show(key)}: no task of the comparison has this option: {found}")


def notes(matrix: Matrix) -> list[str]:
    """One sentence for each option that does not apply to all tasks or policies."""
    found = []
    given = {key: values for key, values in matrix.axes.items() if key != "algo"}
    for key, values in {**given, **{key: (value,) for key, value in matrix.options.items() if key != "algo"}}.items():
        text = f"{key}={','.join(map(typed, values))}"
        group = key.partition(".")[0]
        names = {"env": matrix.tasks, "policy": matrix.policies}.get(group, ())
        if without := [name for name in names if not find_option(key, {}, {group: choose(group, name).config})]:
            found.append(f"{text}: does not apply to {', '.join(without)}, which {_have(without)} no such option")
        if key in OF_CARRIED and (
            without := [name for name in matrix.policies if _forgets(matrix, choose("policy", name).config)]
        ):
            found.append(f"{text}: does not apply to {', '.join(without)}, which {_have(without)} no memory")
    for key in matrix.tests:
        without = [task for task in matrix.tasks if not find_option(key, {}, {"env": choose("env", task).config})]
        if without:
            found.append(f"test.{key}: does not apply to {', '.join(without)}, which {_have(without)} no such option")
    return found


def _forgets(matrix: Matrix, policy: type) -> bool:
    """Whether a policy remembers nothing, not even its previous action."""
    given = matrix.axes.get("policy.previous_action", (matrix.options.get("policy.previous_action", False),))
    return issubclass(policy, MLPConfig) and not any(given)


def _have(names: list[str]) -> str:
    return "has" if len(names) == 1 else "have"


def _cell(matrix: Matrix, seed: int, task: str, policy: str, variant: Mapping[str, Any]) -> Cell:
    key = key_of(task, policy, variant, seed)
    algo = variant.get("algo", matrix.options.get("algo", groups(TrainConfig)["algo"]))
    classes = classes_of(task, policy, algo)
    given = {name: value for name, value in matrix.options.items() if applies(matrix, name, classes)}
    if matrix.params is not None:
        given["policy.params"] = matrix.params
    values = {**given, **variant}
    if not values.get("memory.carry", 1) and "write_cost" not in options(classes["policy"]):
        for name in RAMP:  # nothing rises in this cell of an axis
            values.pop(f"memory.{name}", None)
    episodes = values.pop("evaluate_episodes", TrainConfig.evaluate_episodes)
    values = {"env": task, "policy": policy, **values, "seed": seed, "run": key}
    try:
        # the recipe of the task may change the steps
        config = parse([f"{name}={typed(value)}" for name, value in values.items()])
        if isinstance(config.env, NoEnvConfig):
            raise ConfigError("env=none: has no environment in which policies could be compared; expected env=<a task>")
        if "evaluate_every" not in values:
            every = max(1, config.steps // EVALUATIONS)
            values["evaluate_every"] = every
            config = dataclasses.replace(config, evaluate_every=every)
        if episodes < 1:
            raise ConfigError(f"evaluate_episodes={episodes}: expected at least 1 in a comparison")
        config = validate(dataclasses.replace(config, evaluate_episodes=0))
        tests = dict(_tests(matrix, classes["env"]))
        for changes in tests.values():
            change(config.env, "env", changes)
    except ConfigError as error:
        raise ConfigError(f"cell {key}: {error}") from error
    return Cell(key, task, policy, dict(variant), seed, values, config, episodes, {TRAINING: {}, **tests})


def _tests(matrix: Matrix, env: type) -> Iterator[tuple[str, dict[str, Any]]]:
    """Name and changed options of each evaluation variant of a task, beside the task itself.

    Named by the options of several values, unless all have only one.
    """
    keys = [key for key in matrix.tests if find_option(key, {}, {"env": env})]
    if not keys:
        return
    shown = [key for key in keys if len(matrix.tests[key]) > 1] or keys
    for values in itertools.product(*(matrix.tests[key] for key in keys)):
        changes = dict(zip(keys, values, strict=True))
        yield ",".join(f"{key}={typed(changes[key])}" for key in shown), changes


def key_of(task: str, policy: str, variant: Mapping[str, Any], seed: int) -> str:
    """The name of a cell and of its folder: only [a-z0-9._=-].

    It depends on the cell alone, not on the rest of the comparison. A checksum is added where characters had to be replaced, or
    where two cells could otherwise get the same name.
    """
    parts = [task, policy, *(f"{name}={typed(value)}" for name, value in variant.items())]
    exact = "-".join(parts)
    plain = re.sub(r"[^a-z0-9._=-]+", "_", exact.lower())
    if plain != exact or len(exact) > LONGEST_KEY or any("-" in part for part in parts[1:]):
        plain = f"{plain[:LONGEST_KEY]}-{hashlib.sha256(repr(parts).encode()).hexdigest()[:8]}"
    return f"{plain}-s{seed}"
