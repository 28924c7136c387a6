"""From what a user gives to the matrix of a comparison, for the command line and Python alike. Torch-free."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

from rmt_rl.common.errors import ConfigError
from rmt_rl.comparison.cells import Matrix, all_classes, find_known
from rmt_rl.config.cli import read_argument, split_arguments
from rmt_rl.config.commands import TrainConfig
from rmt_rl.config.comparison import BudgetConfig, Cluster, CompareConfig, RayConfig, SlurmConfig, TuneConfig
from rmt_rl.config.fields import Config, Option, did_you_mean, options, plain, read, show
from rmt_rl.config.files import typed
from rmt_rl.config.registry import BASES, ENCODERS, GROUPS, OBJECTS, PLUGINS, choose, entry_of, load_plugins
from rmt_rl.config.resolve import find_option, validate

ConfigT = TypeVar("ConfigT", bound=Config)
#: The options of a comparison, its matrix, None where the folder knows it (`out=` alone), and the jobs of executor=slurm or ray.
Request = tuple[CompareConfig, Matrix | None, Cluster]
#: Options of a run that a comparison chooses itself.
OWN = {
    "seed": "expected seeds=<a number of seeds, or seeds separated by commas>",
    "run": "every cell has a folder of its own; expected out=<the folder of the comparison>",
    "resume": "expected out=<the folder of the comparison> alone, which continues it",
    "init": "a comparison trains new policies; leave it out",
    "config": "a comparison reads no file of options; expected the options themselves",
}


def parse_compare(argv: Sequence[str]) -> Request:
    """What was typed; raises ConfigError."""
    return _request(*typed_request(argv, CompareConfig))


def from_python(given: Mapping[str, Any]) -> Request:
    """`parse_compare` for the arguments of `rmt_rl.compare`; lists are axes."""
    return _request(*python_request(given, CompareConfig))


def typed_request(argv: Sequence[str], cls: type[Config]) -> tuple[dict[str, Any], dict[str, list[str]]]:
    """The values of the options of `cls`, and the others as typed, each as a list of texts; raises ConfigError.

    An option's text is split at commas, unless it is in [ ], { } or quotes.
    """
    given = split_arguments(argv)
    own = {key: given.pop(key) for key in options(cls) if key in given}
    if own.get("params") == "none":
        own["params"] = "null"
    values = {key: read_argument(key, options(cls)[key], text) for key, text in own.items()}
    return values, {key: split(key, text) for key, text in given.items()}


def python_request(given: Mapping[str, Any], cls: type[Config]) -> tuple[dict[str, Any], dict[str, list[str]]]:
    """`typed_request` for the arguments of a function; lists have several values."""
    given = dict(given)
    known = options(cls)
    plugins = given.pop("plugins", None)
    if plugins is not None and plugins != []:
        load_plugins(",".join(map(str, plugins)) if isinstance(plugins, (list, tuple)) else str(plugins))
    values: dict[str, Any] = {}
    for key in known:
        if key not in given:
            continue
        value = given.pop(key)
        if key == "seeds":
            value = f"[{','.join(_text(key, item) for item in _items(value))}]" if _is_list(value) else str(value)
        elif key == "report" and _is_list(value):
            value = ",".join(_folder(item) for item in value)
        values[key] = read(key, known[key], None if key == "params" and value == "none" else value)
    lists = {}
    for key, value in given.items():
        key, items = str(key), _items(value)
        if not items:
            raise ConfigError(f"{show(key)}=[]: has no value; expected at least one")
        if key == "env":
            lists[key] = [name for item in items for name in _task_names(item)]
        elif key == "policy" and isinstance(value, str):
            lists[key] = split(key, value)
        else:
            lists[key] = [_text(key, item) for item in items]
    return values, lists


def _is_list(value: Any) -> bool:
    """Whether a value is several, in an order: a list, or an array of one axis."""
    return isinstance(value, (list, tuple, range)) or (getattr(value, "ndim", 0) == 1 and hasattr(value, "tolist"))


def _items(value: Any) -> list[Any]:
    if not _is_list(value):
        return [value]
    return value.tolist() if hasattr(value, "tolist") else [*value]


def _text(key: str, value: Any) -> str:
    """A value of Python as it is typed in a shell; raises ConfigError where it cannot be typed."""
    try:
        return typed(plain(os.fspath(value) if isinstance(value, os.PathLike) else value))
    except (RecursionError, TypeError, ValueError) as error:
        expected = "a number, text, true, false, null, or a list or a dictionary of these"
        if key in BASES:
            expected = f"its name; its options are given as {key}.<option>"
        raise ConfigError(f"{show(key)}={show(value)}: expected {expected}") from error


def _folder(path: Any) -> str:
    """The path of one of several folders, in which a comma would separate two."""
    text = os.fspath(path) if isinstance(path, os.PathLike) else path
    if not isinstance(text, str) or "," in text:
        raise ConfigError(f"report={show(path)}: expected the path of a folder, without a comma in it")
    return text


def split(key: str, text: str) -> list[str]:
    """The values of an option as typed, separated by commas; raises ConfigError where one is empty."""
    if text[:1] in ("[", "{", "'", '"'):
        return [text]
    parts = text.split(",")
    if len(parts) > 1 and not all(parts):
        raise ConfigError(f"{show(key)}={show(text)}: has an empty value; expected values separated by single commas")
    return parts


def _request(values: dict[str, Any], lists: dict[str, list[str]]) -> Request:
    config = validate(CompareConfig(**values))
    if config.report is not None:
        for key in (*lists, *(key for key in ("seeds", "params", "executor") if key in values)):
            raise ConfigError(f"{key}: has no effect with report=, which trains nothing; leave it out")
    cluster = take_cluster(config.executor, lists)
    if not lists and not {"seeds", "params"} & values.keys():
        return config, None, cluster
    return config, matrix_of(config, lists, params_given="params" in values), cluster


def _take(group: str, lists: dict[str, list[str]]) -> dict[str, list[str]]:
    """The options of a group, such as budget.*, which are removed from the others."""
    return {key: lists.pop(key) for key in list(lists) if key.startswith(f"{group}.")}


def take_cluster(executor: str, lists: dict[str, list[str]]) -> Cluster:
    """The options of jobs, which are removed from the others; None where there are no jobs. Raises ConfigError."""
    found: Cluster = None
    for group, kind in (("slurm", SlurmConfig), ("ray", RayConfig)):
        given = _take(group, lists)
        if executor == group:
            values: Any = validate(_single_values(kind, given))
            found = values
        elif given:
            key, texts = next(iter(given.items()))
            raise ConfigError(
                f"{show(key)}={show(','.join(texts))}: has no effect with executor={executor}; expected executor={group}"
            )
    return found


def matrix_of(config: CompareConfig | TuneConfig, lists: dict[str, list[str]], params_given: bool) -> Matrix:
    """The matrix of options as typed, several values each; raises ConfigError."""
    lists = dict(lists)
    tests = {key.removeprefix("test."): lists.pop(key) for key in list(lists) if key.startswith("test.")}
    budget = _single_values(BudgetConfig, _take("budget", lists))
    for key, why in OWN.items():
        if lists.get(key, ["null"]) != ["null"]:
            raise ConfigError(f"{key}={show(','.join(lists[key]))}: {why}")
    names = {}
    for group, example in (("env", "env=tmaze,minigrid-memory"), ("policy", "policy=rmt,lstm")):
        if group not in lists:
            raise ConfigError(f"{group}: missing; expected names separated by commas, such as {example}")
        names[group] = _each_once(group, lists.pop(group))
        for name in names[group]:
            choose(group, name)
    if budget.steps is not None:
        if "steps" in lists:
            raise ConfigError(
                f"budget.steps={budget.steps}: steps={show(','.join(lists['steps']))} is given too; give one"
            )
        lists["steps"] = [str(budget.steps)]
    skeleton = Matrix(names["env"], names["policy"], _seeds(config.seeds))
    axes, single = _read_options(skeleton, lists)
    known_tests = {}
    for key, texts in tests.items():
        known_tests[key] = _each_once(
            f"test.{key}", [read_argument(key, _test_option(skeleton, key), x) for x in texts]
        )
    own_size = {"policy.params", "policy.width"} & {*axes, *single}
    params = config.params if params_given or not own_size else None
    plugins = _plugins(names, {**single, **axes})
    return Matrix(
        names["env"], names["policy"], skeleton.seeds, axes, single, known_tests, params, budget.cpu_s, plugins
    )


def _read_options(
    skeleton: Matrix, lists: Mapping[str, list[str]]
) -> tuple[dict[str, tuple[Any, ...]], dict[str, Any]]:
    """The options with several values, and those with one, in their types."""
    algos = _each_once("algo", lists["algo"]) if "algo" in lists else None
    for name in algos or ():
        choose("algo", name)
    with_algos = Matrix(skeleton.tasks, skeleton.policies, skeleton.seeds, {"algo": algos} if algos else {})
    combinations = list(all_classes(with_algos))
    axes: dict[str, tuple[Any, ...]] = {}
    single: dict[str, Any] = {}
    for key, texts in lists.items():
        values = algos
        if key != "algo":
            known = find_known(key, combinations)
            values = _each_once(key, [read_argument(key, known, text) for text in texts])
        if values is not None and len(values) > 1:
            axes[key] = values
        elif values is not None:
            single[key] = values[0]
    return axes, single


def _test_option(matrix: Matrix, key: str) -> Option:
    if key.partition(".")[0] != "env":
        raise ConfigError(f"test.{show(key)}: only options of the task can be tested, such as test.env.length=80,1000")
    for classes in all_classes(matrix):
        if (known := find_option(key, {}, {"env": classes["env"]})) is not None:
            return known
    names = [f"env.{name}" for classes in all_classes(matrix) for name in options(classes["env"])]
    raise ConfigError(
        f"test.{show(key)}: no task of the comparison has this option; they have {', '.join(dict.fromkeys(names)) or 'none'}"
        f"{did_you_mean(key, names)}"
    )


def _single_values(cls: type[ConfigT], given: Mapping[str, list[str]]) -> ConfigT:
    """The dataclass of a group whose options have one value for all cells."""
    known, values = options(cls), {}
    for key, texts in given.items():
        name = key.removeprefix(f"{cls.name}.")
        if name not in known:
            names = [f"{cls.name}.{own}" for own in known]
            raise ConfigError(
                f"{show(key)}: no such option, expected one of {', '.join(names)}{did_you_mean(key, names)}"
            )
        if len(texts) > 1:
            raise ConfigError(f"{key}={show(','.join(texts))}: all cells have the same {cls.name}; expected one value")
        values[name] = read_argument(key, known[name], texts[0])
    return cls(**values)


def _seeds(text: str) -> tuple[int, ...]:
    known = options(TrainConfig)["seed"]
    if text.isdigit():
        if len(text) > 5 or not 1 <= int(text) <= 10_000:
            raise ConfigError(
                f"seeds={show(text)}: expected a number of seeds from 1 to 10,000, or seeds separated by commas"
            )
        return tuple(range(int(text)))
    return _each_once("seeds", [read("seeds", known, part) for part in text.strip("[]").split(",")])


def _each_once(key: str, values: Sequence[Any]) -> tuple[Any, ...]:
    shown = [typed(value) for value in values]
    if len({*shown}) < len(shown):
        raise ConfigError(f"{show(key)}={show(','.join(shown))}: has a value twice; expected each once")
    return tuple(values)


def _task_names(env: Any) -> list[str]:
    """The names of one entry of env= in Python; registers a class or function that worker processes can import."""
    if isinstance(env, str):
        return split("env", env)
    from rmt_rl.envs.objects import env_config_of, is_borrowed

    advice = "register it with rmt_rl.register_env in a module of its own, or give a class or function of a module"
    if not callable(env) or not hasattr(env, "__qualname__"):
        raise ConfigError(f"env={show(env)}: worker processes cannot import an object; {advice}")
    made = env_config_of(env)
    module, _, name = made.name.partition(":")
    if module == "__main__" or not name.isidentifier():
        raise ConfigError(f"env={show(made.name)}: worker processes cannot import it from there; {advice}")
    if is_borrowed(made):
        raise ConfigError(f"env={show(made.name)}: is one object; {advice}")
    return [made.name]


def _plugins(names: Mapping[str, tuple[str, ...]], given: Mapping[str, Any]) -> tuple[str, ...]:
    """The modules that worker processes must import, because they register what the comparison names."""
    modules = list(PLUGINS)
    algo = given.get("algo", ())
    chosen = {**names, "algo": algo if isinstance(algo, tuple) else (algo,)}
    found = [
        (group, name, GROUPS[group][name].config) for group in BASES for name in chosen[group] if name in GROUPS[group]
    ]
    encoders = given.get("policy.encoder", ())
    for name in encoders if isinstance(encoders, tuple) else (encoders,):
        found += [("policy.encoder", name, ENCODERS[name])] if name in ENCODERS else []
    for group, name, cls in found:
        module = cls.__module__
        if module == "__main__":
            raise ConfigError(
                f"{group}={name}: is registered in the script that runs, which worker processes do not import; move it to a"
                " module of its own and import that"
            )
        own = module.partition(".")[0] == "rmt_rl"
        if not own and module not in modules and not any(module.startswith(f"{known}.") for known in modules):
            modules.append(module)
    return tuple(modules)


def load_modules(plugins: Sequence[str], tasks: Sequence[str]) -> None:
    """Import what a comparison needs beside this package: its plugins, and the classes that are its tasks, as module:name."""
    import importlib

    if plugins:
        load_plugins(",".join(plugins))
    for task in tasks:
        if ":" not in task or task in OBJECTS:
            continue
        from rmt_rl.envs.objects import env_config_of

        module, _, name = task.partition(":")
        try:
            found = getattr(importlib.import_module(module), name)
        except Exception as error:  # whatever the user's module raises while it is imported
            text = " ".join(str(error).split())
            raise ConfigError(
                f"env={show(task)}: cannot be imported: {type(error).__name__}: {show(text, 200)}"
            ) from error
        entry_of(env_config_of(found))


def search_path() -> str:
    """The folders in which this process finds modules, for PYTHONPATH of worker processes."""
    return os.pathsep.join(dict.fromkeys(os.path.abspath(place) for place in sys.path))
