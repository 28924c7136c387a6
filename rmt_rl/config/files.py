"""Configurations as dictionaries and YAML files, and how files of earlier versions are read."""

from __future__ import annotations

import dataclasses
import json
import shlex
from collections.abc import Mapping
from dataclasses import MISSING
from pathlib import Path
from typing import Any, TypeVar

from rmt_rl.common.errors import ConfigError
from rmt_rl.common.files import write_file
from rmt_rl.config.commands import ReturnConditioning, TrainConfig
from rmt_rl.config.fields import Config, did_you_mean, groups, show
from rmt_rl.config.registry import choose
from rmt_rl.config.resolve import validate
from rmt_rl.config.trust import Source, check_trusted
from rmt_rl.config.yaml_files import read_yaml

ConfigT = TypeVar("ConfigT", bound=Config)

#: Version of saved configurations. 1: without a version, every field present. 2: fields of later versions may be missing.
FORMAT = 2


def as_typed(group: str, part: Config) -> list[str]:
    """The options of a dataclass that differ from its defaults, as they are typed in a shell."""
    given, usual = to_dict(part), to_dict(type(part)())
    return [shlex.quote(f"{group}.{key}={typed(value)}") for key, value in given.items() if value != usual[key]]


def typed(value: Any) -> str:
    """A value in full as the command line reads it; dictionaries as JSON, which is YAML in flow style too."""
    if not isinstance(value, str):
        return json.dumps(value, ensure_ascii=False)
    # a pair of quotes around text is removed when it is read, and null alone means no value
    quoted = value == "null" or (len(value) > 1 and value[0] == value[-1] and value[0] in "'\"")
    return f"'{value}'" if quoted else value


def to_dict(config: Config) -> dict[str, Any]:
    """The configuration as dictionaries and plain values, which JSON and YAML can hold."""
    values: dict[str, Any] = {"name": config.name} if config.name else {"format": FORMAT}
    for item in dataclasses.fields(config):
        value = getattr(config, item.name)
        if value is None and not item.metadata:  # not for users to set, and not set
            continue
        values[item.name] = to_dict(value) if isinstance(value, Config) else value
    return values


def from_dict(mapping: Any) -> TrainConfig:
    """The reverse of `to_dict`, validated.

    A field missing in the file takes the value that keeps the file's meaning; a field unknown to the code is an error.
    """
    return validate(_build(TrainConfig, mapping))


def part_from_dict(group: str, mapping: Any) -> Any:
    """The validated dataclass of one group, or of "returns", from what `to_dict` made of it."""
    name = mapping.get("name") if isinstance(mapping, Mapping) else mapping
    cls = ReturnConditioning if group == "returns" else choose(group, name).config
    return validate(_build(cls, mapping, f"{group}."), f"{group}." if group != "returns" else "")


def check_format(version: Any, where: str = "") -> None:
    """Raise ConfigError where the version of a file is none, or a later one than this code reads."""
    if type(version) is not int or version < 1:
        raise ConfigError(f"{where}format={show(version)}: expected a whole number from 1 to {FORMAT}")
    if version > FORMAT:
        raise ConfigError(
            f"{where}format={show(version)}: this version of rmt_rl reads formats 1 to {FORMAT}; a newer rmt_rl wrote the file"
        )


def _build(cls: type[ConfigT], mapping: Any, prefix: str = "") -> ConfigT:
    if not isinstance(mapping, Mapping):
        raise ConfigError(f"{prefix.rstrip('.') or 'configuration'}={show(mapping)}: expected a dictionary of options")
    values = {key: value for key, value in mapping.items() if key != ("name" if cls.name else "format")}
    if not cls.name:
        check_format(mapping.get("format", 1))
    known = {item.name: item for item in dataclasses.fields(cls)}
    for key in [*values]:
        if key in cls.removed and values[key] == cls.removed[key]:
            del values[key]
        elif key not in known:
            raise ConfigError(f"{prefix}{show(key)}: no such option{did_you_mean(str(key), known)}")
    for name, item in known.items():
        if name not in values and not item.metadata.get("group"):
            absent = item.metadata.get("absent", MISSING)
            if absent is not MISSING:
                values[name] = absent
            elif item.default is MISSING and item.default_factory is MISSING:
                raise ConfigError(f"{prefix}{name}: missing; expected all of {', '.join(known)}")
    for name, usual in groups(cls).items():
        if name not in values and name == usual:  # a group that is younger than the file
            continue
        part = values.get(name)
        choice = choose(name, part.get("name") if isinstance(part, Mapping) else part).config
        values[name] = _build(choice, part, f"{name}.")
    return cls(**values)


def save_yaml(config: Config, path: str | Path) -> None:
    import yaml

    write_file(Path(path), yaml.safe_dump(to_dict(config), sort_keys=False, allow_unicode=True).encode())


def load_yaml(path: str | Path, trust: bool = False) -> TrainConfig:
    """The configuration in a file that `save_yaml` wrote, perhaps edited by hand; nothing in it can run code.

    trust: the file may name modules to import, or the caller checks that with `check_trusted`.
    """
    mapping = read_yaml(path)
    try:
        config = from_dict(mapping)
    except ConfigError as error:
        raise ConfigError(f"{show(str(path), limit=1_000)}: {error}") from error
    check_trusted(config.env, source_of(path, trust))
    return config


def source_of(path: str | Path, trust: bool) -> Source:
    """A configuration file as the source of options; the folder around it is loaded, too, unless it is the current one."""
    folder = Path(path).absolute().parent
    return Source(str(path), None if folder.resolve() == Path.cwd().resolve() else folder, trust)
