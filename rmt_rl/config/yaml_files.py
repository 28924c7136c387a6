"""YAML files as plain values, without the parts of YAML 1.1 that nobody means. Nothing in a file can run code."""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rmt_rl.common.errors import ConfigError
from rmt_rl.common.files import read_text
from rmt_rl.config.fields import show

#: Bytes of the largest YAML file that is read; PyYAML takes seconds for them.
LARGEST_YAML = 2**20
#: Lists and dictionaries inside each other.
DEEPEST = 32


def read_yaml(path: str | Path, by_hand: bool = False) -> Any:
    """The plain values in a YAML file; raises ConfigError where it cannot be read or is not plain.

    by_hand: inside options that are dictionaries, such as env.options, 1e-3 is a number, as on the command line, unless the file
    names its format: then `save_yaml` wrote it, which writes the text 1e-3 without quotes.
    """
    import yaml

    where = show(str(path), limit=1_000)
    try:
        text = read_text(path, LARGEST_YAML, follow=True)
        _refuse_unbounded(text, where)
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


def _refuse_unbounded(text: str, where: str) -> None:
    """Raise ConfigError where a small text would take much memory or time to read."""
    import yaml

    depth = 0
    for event in yaml.parse(text, Loader=yaml.SafeLoader):
        # a few lines of aliases of aliases unfold to more than any memory can hold ("billion laughs")
        if isinstance(event, yaml.AliasEvent):
            raise ConfigError(f"{where}: YAML aliases (*name) are not allowed")
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if depth > DEEPEST:  # the time that PyYAML takes grows with the square of the depth
            raise ConfigError(f"{where}: has more than {DEEPEST} lists and dictionaries inside each other")


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
