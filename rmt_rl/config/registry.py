"""What env=, algo= and policy= choose from, open to classes from outside this package.

    @rmt_rl.register_policy("diagonal-rnn", DiagonalRNNConfig)
    class DiagonalRNN(rmt_rl.Backbone): ...

A registered name has help, checks, saving, `policy.params` and the contract checks like the built-in ones. A module with
registrations is found by `plugins=my_module` on the command line, by `import` in Python, or as an entry point of an installed
package in the group "rmt_rl.plugins".
"""

from __future__ import annotations

import dataclasses
import importlib
import importlib.metadata
import os
import re
import sys
import types
import typing
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from rmt_rl.common.errors import ConfigError
from rmt_rl.common.gymnasium_ids import meant_id
from rmt_rl.config import recipes
from rmt_rl.config.bases import CHOICE, AlgoConfig, EnvConfig, PolicyConfig
from rmt_rl.config.fields import Config, did_you_mean, document, is_gymnasium_id, options, read, show, without_families

ClassT = TypeVar("ClassT", bound=type)

#: The group in which an installed package names its modules with registrations.
ENTRY_POINTS = "rmt_rl.plugins"


@dataclass(frozen=True)
class Entry:
    """One registered name.

    config: the dataclass of its options. target: its class, or "module:Class", which is imported when it is needed.
    source: options that change with this choice unless the user gives them; a file of them is read when it is needed.
    """

    config: type[Config]
    target: Any
    source: recipes.Source = field(default_factory=dict)

    @property
    def recipe(self) -> recipes.Recipe:
        """The options of `source`, and where they were measured."""
        return recipes.read_recipe(self.source) if isinstance(self.source, Path) else recipes.Recipe(self.source)

    def load(self) -> Any:
        """The class that implements it."""
        if not isinstance(self.target, str):
            return self.target
        module, _, attribute = self.target.partition(":")
        return getattr(importlib.import_module(module), attribute)


#: The class from which the options of a group derive.
BASES: dict[str, type[Config]] = {"env": EnvConfig, "policy": PolicyConfig, "algo": AlgoConfig}

GROUPS: dict[str, dict[str, Entry]] = {"env": {}, "algo": {}, "policy": {}, "memory": {}, "until": {}}

#: What `policy.encoder` chooses from, beside auto.
ENCODERS: dict[str, Any] = {}

#: Environments that are in no list: Python objects, by names with a colon, which no registered name has; and `none`.
OBJECTS: dict[str, Entry] = {}


def register_env(name: str, config: type[Config], recipe: recipes.Source | None = None) -> Callable[[ClassT], ClassT]:
    """Decorator: make a `TorchVectorEnv` class known as `env=<name>`.

    It is called as cls(num_envs, device, **options) with the fields of `config`, a frozen dataclass derived from `EnvConfig`.
    recipe: training options that work better for this task than the defaults, such as {"algo.gamma": 0.997, "steps": 1_000_000};
    or the Path of a YAML file with them, as in rmt_rl/config/recipes.
    """
    return _decorator("env", name, config, recipe)


def register_policy(name: str, config: type[Config]) -> Callable[[ClassT], ClassT]:
    """Decorator: make a `Backbone` class known as `policy=<name>`.

    It is called as cls(config) with an instance of `config`, a frozen dataclass derived from `PolicyConfig` with a field `width`.
    """
    return _decorator("policy", name, config)


def register_algo(name: str, config: type[Config]) -> Callable[[ClassT], ClassT]:
    """Decorator: make a `Learner` class known as `algo=<name>`.

    It is called as cls(run, env, policy, data) with the run's `TrainConfig`; `config` is a frozen dataclass derived from
    `AlgoConfig`.
    """
    return _decorator("algo", name, config)


def register_encoder(name: str) -> Callable[[ClassT], ClassT]:
    """Decorator: make a torch module class known as `policy.encoder=<name>`.

    It is called as cls(space, width, **options) with the observation space that the policy sees and the options of
    `policy.encoder_options`, and turns observations [N, *space.shape] (a dictionary of them where the space is a Dict) into
    vectors [N, width].
    """
    _check_name("policy.encoder", name)
    if name == "auto":
        raise ConfigError("policy.encoder=auto: is the choice by the observation space; choose another name")

    def register(target: ClassT) -> ClassT:
        if not callable(target):
            raise ConfigError(
                f"policy.encoder={name}: {show(target)} is registered; expected the class that it stands for"
            )
        _require_free("policy.encoder", name, ENCODERS.get(name), target)
        ENCODERS[name] = target
        return target

    return register


def find_encoder(name: str) -> Any:
    """The class that is registered as `policy.encoder=<name>`; None for auto. Raises ConfigError where there is none."""
    if name == "auto":
        return None
    if name not in ENCODERS:
        load_entry_points()
    if name in ENCODERS:
        return ENCODERS[name]
    raise ConfigError(
        f"policy.encoder={show(name)}: expected one of {', '.join(['auto', *ENCODERS])}, or one that plugins=<module> registers"
        f"{did_you_mean(name, ENCODERS)}"
    )


def _decorator(
    group: str, name: str, config: type[Config], recipe: recipes.Source | None = None
) -> Callable[[ClassT], ClassT]:
    _check_registration(group, name, config)
    if isinstance(recipe, Path):
        recipes.read_recipe(recipe)
    elif recipe is not None and not (isinstance(recipe, Mapping) and all(isinstance(key, str) for key in recipe)):
        raise ConfigError(
            f"{group}={name}: recipe={show(recipe)}: expected a dictionary of training options, such as {{'algo.gamma': 0.997}}"
        )

    def register(target: ClassT) -> ClassT:
        if not callable(target):
            raise ConfigError(f"{group}={name}: {show(target)} is registered; expected the class that it stands for")
        add(group, name, config, target, recipe)
        return target

    return register


def _check_name(group: str, name: Any) -> None:
    """Raise ConfigError where `name` cannot be typed as a choice."""
    if not isinstance(name, str) or not re.fullmatch(CHOICE, name):
        raise ConfigError(
            f"{group}={show(name)}: expected a name of letters, digits and - . _ that starts with a letter"
        )


def _check_registration(group: str, name: Any, config: Any) -> None:
    """Raise ConfigError where a registration from outside cannot work, with what to write instead."""
    _check_name(group, name)
    base, owner = BASES[group], getattr(config, "__name__", show(config))
    # a subclass without the decorator would inherit the options of its parent
    own = isinstance(config, type) and "__dataclass_fields__" in vars(config)
    if not (own and issubclass(config, base) and config.__dataclass_params__.frozen):
        raise ConfigError(
            f"{group}={name}: {owner} is not a frozen dataclass derived from rmt_rl.{base.__name__};"
            f" expected @dataclass(frozen=True) above class {owner}(rmt_rl.{base.__name__})"
        )
    _check_options(f"{group}={name}: {owner}", config, base)
    if vars(config).get("name", name) != name:  # it knows one name only
        raise ConfigError(
            f"{group}={name}: {owner} is the dataclass of {group}={config.name} already; expected one of its own, such as"
            f" class Other({owner}) with @dataclass(frozen=True) above it"
        )
    if group == "policy" and "width" not in options(config):
        raise ConfigError(
            f"policy={name}: {owner} has no option width; expected `width: int = rmt_rl.option(64, <help>)`"
        )


def _check_options(owner: str, config: type[Config], base: type[Config]) -> None:
    """Every field is an option that can be typed on a command line and has an allowed default."""
    hints, inherited = typing.get_type_hints(config), {item.name for item in dataclasses.fields(base)}
    for item in dataclasses.fields(config):
        if item.name == "name":
            raise ConfigError(
                f"{owner}.name: `name` is what the user types to choose it; expected another name of the option"
            )
        if "help" not in item.metadata:
            raise ConfigError(
                f"{owner}.{item.name} is not an option; expected {item.name}: <type> = rmt_rl.option(<default>, <help>)"
            )
        if hasattr(base, item.name) and item.name not in inherited:
            raise ConfigError(f"{owner}.{item.name}: rmt_rl.{base.__name__} uses this name; expected another one")
        union = typing.get_origin(hints[item.name]) in (types.UnionType, typing.Union)
        if union and len(set(typing.get_args(hints[item.name])) - {types.NoneType}) > 1:
            raise ConfigError(
                f"{owner}.{item.name} is of several types; expected one of bool, int, float, str and dict"
            )
    for key, known in options(config).items():
        if known.kind not in (bool, int, float, str, dict):
            raise ConfigError(f"{owner}.{key} is of type {known.kind.__name__}; expected bool, int, float, str or dict")
        if known.default is dataclasses.MISSING:
            raise ConfigError(f"{owner}.{key} has no default; expected rmt_rl.option(<default>, <help>)")
        read(f"{owner}.{key}", known, known.default)


def add(group: str, name: str, config: type[Config], target: Any, recipe: recipes.Source | None = None) -> type[Config]:
    """Register `name`; raises ConfigError where another class has it."""
    known = GROUPS[group].get(name) or (OBJECTS.get(name) if group == "env" else None)
    _require_free(group, name, None if known is None else known.config, config)
    config.name = name
    document(config)
    GROUPS[group][name] = Entry(config, target, recipe if isinstance(recipe, Path) else dict(recipe or {}))
    return config


def _require_free(group: str, name: str, known: Any, new: Any) -> None:
    """Raise ConfigError where another class than `new` has the name."""
    if known is not None and not _same_class(known, new):
        owner = f"{known.__module__}.{known.__qualname__}"
        raise ConfigError(f"{group}={name}: is registered already, by {owner}; choose another name")


def _same_class(one: type, other: type) -> bool:
    """Whether two classes are one in the source: a file that runs as a script and is a plugin too is imported twice."""
    modules = {one.__module__, other.__module__}
    if one.__qualname__ != other.__qualname__ or (len(modules) == 2 and "__main__" not in modules):
        return False
    files = {getattr(sys.modules.get(module), "__file__", None) for module in modules}
    return len({None if file is None else os.path.realpath(file) for file in files}) == 1


def builtin(group: str, name: str, target: str) -> Callable[[ClassT], ClassT]:
    """Decorator on a dataclass of this package: register it, and the recipe of a task, with the class at "module:Class"."""

    def register(config: ClassT) -> ClassT:
        add(group, name, config, target, recipes.builtin_recipe(name))
        return config

    return register


def names(group: str) -> Iterable[str]:
    """The registered names of a group, those of installed packages included."""
    load_entry_points()
    return GROUPS[group]


def choose(group: str, name: Any) -> Entry:
    """The entry of that name; raises ConfigError with the nearest name where there is none."""
    if isinstance(name, str):
        if name not in GROUPS[group]:
            load_entry_points()
        if name in GROUPS[group]:
            return GROUPS[group][name]
        if group == "env" and name in OBJECTS:
            return OBJECTS[name]
    hint = did_you_mean(name, GROUPS[group]) if isinstance(name, str) else ""
    if group == "env" and isinstance(name, str) and is_gymnasium_id(name):
        hint = f"; did you mean env=gym env.id={show(meant_id(name))}?"
    elif group == "env" and isinstance(name, str) and ":" in name:
        hint = (
            "; a class, function or object is given in Python, as rmt_rl.train(env=<it>), also beside resume=; on the command"
            " line register the class with gymnasium and give env=gym env.id=<module>:<id>"
        )
    # memory=trial means memory.scope=trial
    inside = [(key, known) for entry in GROUPS[group].values() for key, known in options(entry.config).items()]
    for key in dict.fromkeys(key for key, known in inside if name in known.choices):
        hint = hint or f"; did you mean {group}.{key}={show(name)}?"
    plugin = ", or one that plugins=<module> registers" if group in ("env", "algo", "policy") else ""
    raise ConfigError(
        f"{group}={show(name)}: expected one of {', '.join(without_families(GROUPS[group]))}{plugin}{hint}"
    )


def belongs_to(group: str, part: Any) -> bool:
    """Whether a value is a dataclass instance of a choice of this group."""
    known = {**GROUPS[group], **(OBJECTS if group == "env" else {})}
    return isinstance(part, BASES.get(group, Config)) and part.name in known


def entry_of(config: Config) -> Entry:
    """The entry that a dataclass instance belongs to."""
    own: Entry | None = vars(type(config)).get("entry")  # of an environment that is a Python object
    if own is not None:
        return own
    for parts in GROUPS.values():
        entry = parts.get(type(config).name)
        if entry is not None and entry.config is type(config):
            return entry
    raise ConfigError(
        f"{type(config).__name__}: is not registered; expected a dataclass of rmt_rl.config, or one that rmt_rl.register_env,"
        " register_policy or register_algo names"
    )


_entry_points_loaded = False
#: Modules that `plugins=` named in this process; printed commands need them, too.
PLUGINS: list[str] = []


def load_entry_points() -> None:
    """Import the modules that installed packages name in the entry-point group "rmt_rl.plugins", once."""
    global _entry_points_loaded
    if _entry_points_loaded:
        return
    _entry_points_loaded = True
    # `python -m` searches the current folder, too, and there untrusted files may look like an installed package
    here = os.path.realpath(os.curdir)
    places = [place for place in sys.path if os.path.realpath(place or os.curdir) != here]
    points = {
        (point.name, point.module)
        for package in importlib.metadata.distributions(path=places)
        for point in package.entry_points
        if point.group == ENTRY_POINTS
    }
    for name, module in sorted(points):
        _import(module, f"entry point {name} of {ENTRY_POINTS}")


def load_plugins(modules: str) -> None:
    """Import modules, given as one comma-separated text, so that they register what they define."""
    for module in modules.split(","):
        if not module or not all(part.isidentifier() for part in module.split(".")):
            raise ConfigError(
                f"plugins={show(modules)}: expected modules separated by commas, such as plugins=my_module"
            )
        _import(module, f"plugins={module}")
        PLUGINS.extend([module] if module not in PLUGINS else [])


def _import(module: str, what: str) -> None:
    try:
        importlib.import_module(module)
    except ConfigError:
        raise
    except Exception as error:  # whatever the user's module raises while it is imported
        text = " ".join(str(error).split())
        raise ConfigError(f"{what}: importing {module} failed: {type(error).__name__}: {show(text, 200)}") from error
