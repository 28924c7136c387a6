"""Configurations as dictionaries and YAML files, and how files of earlier versions are read."""

from __future__ import annotations

import dataclasses
import functools
import json
import re
import shlex
from collections.abc import Mapping
from dataclasses import MISSING
from pathlib import Path
from typing import Any, TypeVar

from rmt_rl.common.errors import ConfigError
from rmt_rl.common.files import read_text, write_file
from rmt_rl.config.commands import ReturnConditioning, TrainConfig
from rmt_rl.config.fields import Config, did_you_mean, groups, show
from rmt_rl.config.registry import choose
from rmt_rl.config.resolve import validate
from rmt_rl.config.trust import Source, check_trusted

ConfigT = TypeVar("ConfigT", bound=Config)

#: Bytes of the largest YAML file that is read; PyYAML takes seconds for them.
LARGEST_YAML = 2**20

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
    for key in values:
        if key not in known:
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


def read_yaml(path: str | Path, by_hand: bool = False) -> Any:
    """The plain values in a YAML file; raises ConfigError where it cannot be read or is not plain.

    by_hand: inside options that are dictionaries, such as env.options, 1e-3 is a number, as on the command line, unless the file
    names its format: then `save_yaml` wrote it, which writes the text 1e-3 without quotes.
    """
    import yaml

    where = show(str(path), limit=1_000)
    try:
        text = read_text(path, LARGEST_YAML, follow=True)
        # a few lines of aliases of aliases unfold to more than any memory can hold ("billion laughs")
        if any(isinstance(event, yaml.AliasEvent) for event in yaml.parse(text, Loader=yaml.SafeLoader)):
            raise ConfigError(f"{where}: YAML aliases (*name) are not allowed")
        found = _load(text, exponents=False)
        if by_hand and isinstance(found, Mapping) and "format" not in found:
            return _numbers_as_typed(found, _load(text, exponents=True))
        return found
    except _Repeated as error:
        raise ConfigError(f"{where}: {show(error.args[0])} is given twice; expected once") from error
    except OSError as error:
        raise ConfigError(f"{where}: cannot be read: {error.strerror}") from error
    except ConfigError:
        raise
    except (ValueError, RecursionError, yaml.YAMLError) as error:
        raise ConfigError(f"{where}: not valid YAML: {show(' '.join(str(error).split()), limit=200)}") from error


def plain_value(text: str) -> Any:
    """A value as people type it in a shell: `{a: 1, b: [x, y]}`, `1e-3`, `true`, `null` or text; raises ValueError."""
    import yaml

    try:
        value = _load(text, exponents=True)
    except (yaml.YAMLError, RecursionError) as error:
        raise ValueError(text) from error
    if _has_glued_key(value):
        raise ValueError(f"{text}: write a space after each colon")
    return value


def _numbers_as_typed(value: Any, typed: Any, depth: int = 0) -> Any:
    """`value` with the values of `typed` inside of options that are dictionaries, both read from the same text.

    depth: of the key, where a dot counts as one more. Other options read their numbers from text themselves (`fields.read`).
    """
    if depth > 2 or (depth == 2 and isinstance(value, Mapping)):
        return typed
    if not isinstance(value, Mapping):
        return value
    return {
        key: _numbers_as_typed(part, number, depth + 1 + str(key).count("."))
        for (key, part), number in zip(value.items(), typed.values(), strict=True)
    }


class _Repeated(ValueError):
    """A key that a dictionary has twice."""


def _load(text: str, exponents: bool) -> Any:
    """The plain values in YAML text; raises ValueError or YAMLError. exponents: whether 1e-3 is a number."""
    loader = _loader(exponents)(text)
    node = loader.get_single_node()
    if node is None:
        return None
    _refuse_repeated_keys(node)
    return loader.construct_document(node)


def _refuse_repeated_keys(node: Any) -> None:
    """Raise where a dictionary has a key twice; YAML would keep the last value without a word."""
    if not isinstance(node.value, list):
        return
    seen = set()
    for item in node.value:
        pair = item if isinstance(item, tuple) else (item,)
        if len(pair) == 2 and isinstance(pair[0].value, str):
            if pair[0].value in seen:
                raise _Repeated(pair[0].value)
            seen.add(pair[0].value)
        for part in pair:
            _refuse_repeated_keys(part)


@functools.cache
def _loader(exponents: bool) -> Any:
    """yaml.SafeLoader without the parts of YAML 1.1 that YAML 1.2 dropped, because nobody means them.

    yes, no, on, off, dates, 1:30 (which is 90) and 0777 (which is 511) are text. What `save_yaml` writes without quotes
    keeps its meaning.
    """
    import yaml

    class Loader(yaml.SafeLoader):
        pass

    changed = tuple(f"tag:yaml.org,2002:{name}" for name in ("bool", "int", "float", "timestamp"))
    Loader.yaml_implicit_resolvers = {
        first: [(tag, form) for tag, form in forms if tag not in changed]
        for first, forms in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }
    forms = {
        "bool": r"(true|True|TRUE|false|False|FALSE)$",
        "int": r"[-+]?(0|[1-9][\d_]*|0x[\da-fA-F_]+|0b[01_]+)$",
        "float": r"([-+]?\d[\d_]*\.[\d_]*|\.\d[\d_]*)([eE][-+]\d+)?$|([-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN))$",
    }
    if exponents:
        forms["bool"] = r"(?i:true|false)$"
        forms["float"] = r"[-+]?((\d[\d_]*\.[\d_]*|\.\d[\d_]*)|(\d[\d_]*\.?\d*|\.\d+)[eE][-+]?\d+|\.?(?i:nan|inf))$"
    for name, form in forms.items():
        first = list("tTfF" if name == "bool" else "-+.0123456789nNiI")
        Loader.add_implicit_resolver(f"tag:yaml.org,2002:{name}", re.compile(form, re.ASCII), first)
    return Loader


def _has_glued_key(value: Any) -> bool:
    """Whether a dictionary has a key such as "a:1", which YAML makes of {a:1}."""
    if isinstance(value, list):
        return any(map(_has_glued_key, value))
    if not isinstance(value, dict):
        return False
    return any((isinstance(k, str) and ":" in k and v is None) or _has_glued_key(v) for k, v in value.items())
