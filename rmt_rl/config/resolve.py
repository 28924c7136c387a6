"""From what a user gives to one validated configuration: the only way in, for command line, YAML file and Python alike."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Collection, Mapping
from typing import Any, TypeVar

from rmt_rl.common.errors import ConfigError
from rmt_rl.common.gymnasium_ids import without_version
from rmt_rl.config.bases import PolicyConfig
from rmt_rl.config.commands import EvaluateConfig, TrainConfig
from rmt_rl.config.fields import OTHER_NAMES, Config, Option, did_you_mean, groups, options, read, show
from rmt_rl.config.layers import Layer, flatten, memory_typed
from rmt_rl.config.memory import check_memory_given
from rmt_rl.config.recipes import Recipe
from rmt_rl.config.registry import GROUPS, belongs_to, choose, entry_of, find_encoder

ConfigT = TypeVar("ConfigT", bound=Config)


def make_config(file: Mapping[str, Any] | TrainConfig | None = None, /, **given: Any) -> TrainConfig:
    """The validated configuration of a training run; raises ConfigError.

        make_config(env="tmaze", policy="lstm", seed=3, **{"env.length": 20, "algo.gamma": 0.997})
        make_config(env={"name": "tmaze", "length": 20}, policy=RMTConfig(segment=16))

    A group (env, algo, policy, memory, until) is given by its name, by a dictionary with the name in it, or as a dataclass of
    rmt_rl.config; single options of it by their full names. file: the same in one dictionary, as read from a YAML file, or a
    complete configuration to change.

    What is given wins over the file, the file over the task's recipe, and the recipe over the defaults. A dataclass is complete:
    no recipe changes it. Where neither names an env, the dataset of data= does, with its options.
    """
    usual = groups(TrainConfig)
    file = _as_options(file)
    # of a configuration that starts from a policy and was not run yet, the other options of memory are that policy's
    waiting = file.pop("memory_given", None)
    check_memory_given(waiting)
    recorded = flatten(task_of_data(file, given), usual)
    layers = [flatten(file, usual), flatten(given, usual)]
    layers[0].drop(layers[1].bases)
    names = usual | recorded.names | layers[0].names | layers[1].names
    bases = {group: base for group, base in layers[0].bases.items() if group not in layers[1].names} | layers[1].bases
    classes = {
        group: type(bases[group]) if group in bases else choose(group, name).config for group, name in names.items()
    }
    _check_starting_point(layers)

    # a dataclass is complete; an environment that is a Python object has no options of its own, but it may have a recipe
    entry = vars(type(bases["env"])).get("entry") if "env" in bases else choose("env", names["env"])
    recipe = Recipe() if entry is None else entry.recipe
    values = _recommended(f"env={names['env']}", recipe.options_for(classes["policy"].name), bases, classes)
    given_id = next((layer.values["env.id"] for layer in reversed(layers) if "env.id" in layer.values), None)
    known_id = without_version(str(given_id))
    if "env" not in bases and known_id in recipe.ids:
        values |= _recommended(f"env={names['env']} env.id={given_id}", recipe.ids[known_id].options, bases, classes)
    # of the algorithm's recipe, what it says for this policy; a policy that is a dataclass, or that of init=, is complete
    complete = "policy" in bases or any(layer.values.get("init") is not None for layer in layers)
    by_algo = {} if complete else choose("algo", names["algo"]).recipe.options_for(classes["policy"].name)
    values = _recommended(f"algo={names['algo']}", by_algo, bases, classes) | values
    recommended = {*values} - {*layers[0].values, *layers[1].values}
    nested: dict[str, Any] = {}
    for group, cls in classes.items():
        nested |= _dictionaries(group, bases[group] if group in bases else cls())
    values |= _read_recorded(recorded, classes, nested | values, {**file, **given}.get("data"))
    for layer in layers:
        values |= _complete(_read_all(layer.values, options(TrainConfig), classes, nested | values), classes)
    parts: dict[str, Any] = {}
    for group, cls in classes.items():
        changed = {key.partition(".")[2]: value for key, value in values.items() if key.startswith(f"{group}.")}
        made: Config = dataclasses.replace(bases[group], **changed) if group in bases else cls(**changed)
        parts[group] = made.fitted([name for name in changed if f"{group}.{name}" in recommended])
    # the recipe of the policy is for algorithms that act, and changes policy and memory together
    if not complete and "memory" not in bases and not by_algo and not getattr(classes["algo"], "imitates", False):
        parts |= _with_own_recipe(parts, values)
    top = {key: value for key, value in values.items() if "." not in key}
    waiting = None if "memory" in layers[1].bases else waiting
    if top.get("init") is not None and ("memory" not in bases or waiting is not None):
        top["memory_given"] = sorted({*(waiting or []), *memory_typed(layers, waiting is not None)})
    return validate(TrainConfig(**parts, **top))


def task_of_data(*layers: Mapping[str, Any]) -> dict[str, Any]:
    """The env that the dataset of an offline run names, where no layer of options names one; empty otherwise.

    Raises ConfigError where the dataset cannot be read or names no environment.
    """
    given = {key: value for layer in layers for key, value in layer.items()}
    named = [layer["env"] for layer in layers if "env" in layer]
    if given.get("data") is None or any(not isinstance(env, Mapping) or "name" in env for env in named):
        return {}
    algo = given.get("algo", groups(TrainConfig)["algo"])
    name = algo.get("name", groups(TrainConfig)["algo"]) if isinstance(algo, Mapping) else algo
    cls: Any = type(algo) if isinstance(algo, Config) else choose("algo", name).config
    if not getattr(cls, "offline", False):  # a dataclass of another group is refused later
        return {}
    from rmt_rl.config.datasets import find_dataset, recorded_task

    data = read("data", options(TrainConfig)["data"], given["data"])
    return {"env": recorded_task(data, find_dataset(data)[1])}


def _read_recorded(
    recorded: Layer, classes: Mapping[str, type], before: Mapping[str, Any], data: Any
) -> dict[str, Any]:
    """The options of the task that a dataset names; an error names the dataset, because the user did not type them."""
    try:
        return _complete(_read_all(recorded.values, {}, classes, before), classes)
    except ConfigError as error:
        raise ConfigError(f"data={show(data)}: metadata.json: {error}; give env=<the task>") from error


def change(base: ConfigT, group: str, given: Mapping[str, Any]) -> ConfigT:
    """`base`, a dataclass of `group`, with the options `given` by their full names changed; validated."""
    cls = type(base)
    values = _complete(_read_all(given, {}, {group: cls}, _dictionaries(group, base)), {group: cls})
    changed = {key.partition(".")[2]: value for key, value in values.items()}
    return validate(dataclasses.replace(base, **changed), f"{group}.")


def with_values_read(config: ConfigT, prefix: str) -> ConfigT:
    """The dataclass with every single value checked and in its field's type; raises ConfigError."""
    known = options(type(config))
    return dataclasses.replace(
        config, **{name: read(prefix + name, allowed, getattr(config, name)) for name, allowed in known.items()}
    )


def validate(config: ConfigT, prefix: str = "") -> ConfigT:
    """The configuration with every value checked and in its field's type; raises ConfigError.

    config: a command's dataclass, or one of a group, with a `prefix` such as "env." then. Validating twice changes nothing.
    """
    cls = type(config)
    known = options(cls)
    values = {name: read(prefix + name, allowed, getattr(config, name)) for name, allowed in known.items()}
    given = {name: value for name, value in values.items() if value != known[name].default}
    values |= cls.complete(given)
    for name, usual in groups(cls).items():
        part: Any = getattr(config, name)
        if part is None and name == usual:  # a group with one choice
            part = choose(name, name).config()
        if not belongs_to(name, part):
            raise ConfigError(
                f"{name}={show(part)}: expected one of {', '.join(GROUPS[name])}, as a dataclass of rmt_rl.config;"
                f" rmt_rl.make_config({name}=<name>) makes one"
            )
        values[name] = validate(part, f"{name}.")
    if prefix:
        entry_of(config)  # raises for a dataclass that is not registered
    if isinstance(config, EvaluateConfig):
        values["num_envs"] = min(values["num_envs"], values["episodes"])
    config = dataclasses.replace(config, **values)
    if isinstance(config, PolicyConfig):
        find_encoder(config.encoder)
    for problem in config.problems():
        raise ConfigError(problem)
    return config


def find_option(key: str, top: Mapping[str, Option], classes: Mapping[str, type]) -> Option | None:
    """The option called `key`, such as "steps", "policy.width" or "env.options.max_episode_steps"; None where there is none."""
    group, _, name = key.partition(".")
    if group not in classes or "" in key.split("."):
        return top.get(key)
    name, _, inner = name.partition(".")
    allowed = options(classes[group]).get(name)
    return allowed if not inner or (allowed and allowed.kind is dict) else None


def unknown_option(key: str, top: Mapping[str, Option], classes: Mapping[str, type], help_command: str = "") -> str:
    """The sentence about a name that does not exist, or that belongs to a choice that was not made."""
    group, _, name = key.partition(".")
    if group in classes:
        known = options(classes[group])
        owners = [f"{group}={choice}" for choice, entry in GROUPS[group].items() if name in options(entry.config)]
        hint = did_you_mean(key, [f"{group}.{option}" for option in known])
        # an option of another group, or of none
        name = OTHER_NAMES.get(name.lower(), name)
        elsewhere = [f"{other}.{name}" for other, cls in classes.items() if name in options(cls)]
        elsewhere += [name] if name in top else []
        hint = f"; did you mean {elsewhere[0]}?" if elsewhere else hint
        if owners:
            hint = f"; {name} is an option of {', '.join(owners)}"
        if name == "name":
            hint = f"; did you mean {group}=<name>?"
        return f"{group}={classes[group].name} has no such option, it has {', '.join(known) or 'none'}{hint}"  # type: ignore[attr-defined]
    # an evaluation chooses no groups, but takes the options of every environment
    nested = [f"{g}.{n}" for g in classes or ["env"] for entry in GROUPS[g].values() for n in options(entry.config)]
    names = [*classes, *top]
    see = f" (see {help_command} --help)" if help_command else ""
    return f"no such option, expected one of {', '.join(names)}{see}{did_you_mean(key, [*names, *nested])}"


def _with_own_recipe(parts: Mapping[str, Any], given: Collection[str]) -> dict[str, Any]:
    """Policy and memory with what they take of the recipe of the policy. given: names of options that others have set."""
    policy, changed = parts["policy"], {}
    recipe = choose("policy", policy.name).recipe.options
    classes = {group: type(part) for group, part in parts.items()}
    typed = _recommended(f"policy={policy.name}", recipe, {}, classes)
    taken = policy.of_recipe(typed, parts["memory"], given)
    for group in ("policy", "memory"):
        own = {name.partition(".")[2]: value for name, value in taken.items() if name.startswith(f"{group}.")}
        changed[group] = dataclasses.replace(parts[group], **own)
    return changed


def _recommended(
    owner: str, recipe: Mapping[str, Any], bases: Mapping[str, Any], classes: Mapping[str, type]
) -> dict[str, Any]:
    """The training options that the task or policy `owner` recommends, of the choices that are made and are not complete already.

    Recipes are measured with algo=ppo: what they say of the algorithm is not for learning from recorded episodes.
    """
    values, top = {}, options(TrainConfig)
    complete = {*bases, *(["algo"] if getattr(classes["algo"], "imitates", False) else [])}
    for key, value in recipe.items():
        group, _, name = key.partition(".")
        if allowed := find_option(key, top, classes):
            if group not in complete:
                values[key] = read(f"recipe of {owner}: {key}", allowed, value)
        elif not any(name in options(entry.config) for entry in GROUPS.get(group, {}).values()):
            raise ConfigError(f"recipe of {owner}: {show(key)}: {unknown_option(key, top, classes)}")
    return values


def _as_options(file: Any) -> dict[str, Any]:
    """What `make_config` gets as a whole, as options by name."""
    if isinstance(file, TrainConfig):
        return {item.name: getattr(file, item.name) for item in dataclasses.fields(file)}
    if file is not None and not isinstance(file, Mapping):
        raise ConfigError(
            f"{show(file)}: expected a dictionary of options, such as {{'env': 'tmaze'}}, or options by name, such as"
            " make_config(env='tmaze')"
        )
    return dict(file or {})


def _check_starting_point(layers: list[Layer]) -> None:
    """Raise ConfigError where options would be ignored because the run starts from a policy (init) or a run (resume)."""
    source = max((number for number, layer in enumerate(layers) if "init" in layer.values), default=0)
    for number, layer in enumerate(layers):
        # a dataclass in a file is the policy of init itself, in the saved configuration of a run
        own = layer.first_of("policy", dataclasses=number > 0)
        if number >= source and own and layers[source].values.get("init") is not None:
            raise ConfigError(
                f"{own}: the policy of init comes with its own options; leave it out, or give init=null for a new policy"
            )
        if (run := layer.values.get("resume")) is not None:
            raise ConfigError(
                f"resume={show(run)}: a run is resumed with its own configuration; expected resume=<folder> alone or with"
                " steps=<more>, on the command line or in rmt_rl.train(resume=<folder>)"
            )


def _dictionaries(group: str, part: Config) -> dict[str, Any]:
    """The options of a dataclass that are dictionaries, by their full names."""
    return {f"{group}.{key}": getattr(part, key) for key, known in options(type(part)).items() if known.kind is dict}


def _read_all(
    given: Mapping[str, Any], top: Mapping[str, Option], classes: Mapping[str, type], before: Mapping[str, Any]
) -> dict[str, Any]:
    """The options in their fields' types. Dictionaries, and keys inside them, are merged into those of `before`."""
    values: dict[str, Any] = {}
    for key, value in given.items():
        allowed = find_option(key, top, classes)
        if allowed is None:
            raise ConfigError(f"{show(key)}={show(value)}: {unknown_option(key, top, classes)}")
        path, inner = ".".join(key.split(".")[:2]), key.split(".")[2:]
        if allowed.kind is not dict:
            values[key] = read(key, allowed, value)
            continue
        if path not in values:
            values[path] = copy.deepcopy(before.get(path, {}))
        for name in reversed(inner):
            value = {name: value}
        _merge(key, values[path], copy.deepcopy(read(key, allowed, value)))
    return values


def _merge(key: str, into: dict[str, Any], new: Mapping[str, Any]) -> None:
    for name, value in new.items():
        if isinstance(value, dict) and name in into:
            if not isinstance(into[name], dict):
                path = ".".join(key.split(".")[:2])
                raise ConfigError(f"{show(key)}: expected something that fits the {path} before it")
            _merge(key, into[name], value)
        else:
            into[name] = value


def _complete(values: Mapping[str, Any], classes: Mapping[str, type]) -> dict[str, Any]:
    """The options together with those that they imply."""
    completed = dict(values)
    for group, cls in classes.items():
        inside = {key.partition(".")[2]: value for key, value in values.items() if key.startswith(f"{group}.")}
        if inside:
            completed |= {f"{group}.{key}": value for key, value in cls.complete(inside).items()}  # type: ignore[attr-defined]
    return completed
