"""Options: dataclass fields with a help text and allowed values, and how a value of one is read.

Every option of the package is such a field, and its default and its help live nowhere else. Torch-free.
"""

from __future__ import annotations

import dataclasses
import difflib
import functools
import json
import math
import numbers
import operator
import os
import re
import types
import typing
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import MISSING, dataclass, field
from decimal import Decimal
from typing import Any, ClassVar

from rmt_rl.common.errors import ConfigError
from rmt_rl.common.gymnasium_ids import meant_id

#: The network sees returns in float32, in which larger ones lose their differences.
LARGEST_RETURN = 1e12

#: Names that other libraries use for our options.
OTHER_NAMES = {
    "lr": "learning_rate",
    "n_steps": "rollout",
    "n_envs": "num_envs",
    "n_epochs": "epochs",
    "ent_coef": "entropy_coef",
    "vf_coef": "value_coef",
    "clip_range": "clip",
    "total_timesteps": "steps",
    "hidden_size": "width",
    "features_extractor_class": "encoder",
    "features_extractor_kwargs": "encoder_options",
    "info_keywords": "metrics",
}

DEVICE = ("cpu, cuda, cuda:N or auto", r"auto|cpu|cuda(:[0-9]{1,3})?")
FOLDER = ("a folder name without slashes that does not start with a dot", r"[^./\\\s][^/\\]*")


def option(
    default: Any = MISSING,
    text: str = "",
    *,
    low: float | None = None,
    high: float | None = None,
    above: float | None = None,
    below: float | None = None,
    choices: Iterable[Any] | Callable[[], Iterable[Any]] = (),
    form: tuple[str, str] | None = None,
    absent: Any = MISSING,
) -> Any:
    """A dataclass field that users can set: its default, its one-line help text and its allowed values.

    low, high: bounds of a number. above, below: bounds that are not allowed themselves.
    choices: the allowed values, or a function that returns them. form: what a text must look like, in words and as a regular
    expression. absent: the value for files that were written before the option existed, where the default would change what
    they mean; files without it take the default otherwise.
    """
    if form is not None:
        _check_form(form)
    bounds = {"low": low, "above": above, "high": high, "below": below}
    metadata = {"help": text, "bounds": bounds, "choices": choices, "form": form, "absent": absent}
    if isinstance(default, dict):
        return field(default_factory=lambda: dict(default), metadata=metadata)
    return field(default=default, metadata=metadata)


def _check_form(form: Any) -> None:
    """Raise ConfigError where `form` is not a pair of words and a regular expression."""
    found = ""
    try:
        words, pattern = form
        if isinstance(words, str) and isinstance(pattern, str):
            re.compile(pattern)
            return
    except (TypeError, ValueError):
        pass
    except re.error as error:
        found = f" ({error})"
    raise ConfigError(
        f"option(form={show(form)}): expected what the text looks like, in words and as a regular expression{found}, such as"
        " ('a colour', 'red|green')"
    )


@dataclass(frozen=True)
class Config:
    """Base class of all option dataclasses.

    name: what the user types to choose it, as in env=<name>; set when it is registered.
    """

    name: ClassVar[str] = ""

    def problems(self) -> Iterator[str]:
        """One sentence for each pair of options that do not fit each other; single options are checked before."""
        return iter(())

    #: Options that no longer exist, with the value at which they changed nothing; files may still have them.
    removed: ClassVar[Mapping[str, Any]] = {}

    def fitted(self, recommended: Collection[str]) -> Config:
        """These options without those of the task's recipe, `recommended`, that contradict what the user gave."""
        return self

    @classmethod
    def complete(cls, given: Mapping[str, Any]) -> Mapping[str, Any]:
        """The explicitly given options together with those that they imply; raises ConfigError where they contradict."""
        return given


@dataclass(frozen=True)
class Option:
    """What is known of one option; `kind` is its type without `| None`."""

    kind: type
    nullable: bool
    default: Any
    help: str
    bounds: Mapping[str, float | None]
    choices: tuple[Any, ...]
    form: tuple[str, str] | None

    @property
    def expected(self) -> str:
        """The allowed values in words."""
        words = {
            bool: "true or false",
            int: "a whole number",
            float: "a number",
            dict: "plain values, as in '{key: 1}'",
        }
        text = words.get(self.kind, "printable text")
        if self.choices:
            text = "one of " + ", ".join(map(str, self.choices))
        elif self.form:
            text = self.form[0]
        elif self.kind in (int, float):
            names = {"low": "at least", "above": "above", "high": "at most", "below": "below"}
            text += ", " + " and ".join(f"{names[k]} {self.bounds[k]}" for k in names if self.bounds[k] is not None)
            text = text.rstrip(", ")
        return text + (", or null" if self.nullable else "")

    def allows(self, value: Any) -> bool:
        """Whether a value of the right type is one of the allowed ones."""
        if self.choices:
            return value in self.choices
        if self.form:
            return re.fullmatch(self.form[1], value) is not None
        compare = {"low": operator.ge, "above": operator.gt, "high": operator.le, "below": operator.lt}
        return all(compare[name](value, bound) for name, bound in self.bounds.items() if bound is not None)


# annotations are texts, which take long to evaluate
_hints = functools.lru_cache(maxsize=1_000)(typing.get_type_hints)


def options(cls: type) -> dict[str, Option]:
    """The fields of a dataclass that users can set to a value: those with a help text, unlike `name`."""
    hints, found = _hints(cls), {}
    for item in dataclasses.fields(cls):
        meta, hint = item.metadata, hints[item.name]
        if "help" not in meta or meta.get("group"):
            continue
        union = typing.get_origin(hint) in (types.UnionType, typing.Union)
        kind = next(t for t in typing.get_args(hint) if t is not types.NoneType) if union else hint
        default = item.default if item.default_factory is MISSING else item.default_factory()
        choices = meta.get("choices", ())
        choices = tuple(choices() if callable(choices) else choices)
        found[item.name] = Option(
            typing.get_origin(kind) or kind,
            union,
            default,
            meta["help"],
            meta.get("bounds", {}),
            choices,
            meta.get("form"),
        )
    return found


def document(cls: type) -> None:
    """Add the options of a dataclass to its docstring, for `help()` and editors."""
    lines = [f"    {name}: {known.help}; default {show(known.default)}" for name, known in options(cls).items()]
    if lines and "Options:" not in (cls.__doc__ or ""):
        cls.__doc__ = "\n".join([(cls.__doc__ or "").rstrip(), "", "Options:", *lines])


def groups(cls: type) -> dict[str, str]:
    """The groups of a command (env, algo, policy, ...), each with the name of its default choice."""
    return {item.name: item.metadata["group"] for item in dataclasses.fields(cls) if item.metadata.get("group")}


def show(value: Any, limit: int = 80) -> str:
    """A value as the user would type it, on one short line whatever it is."""
    if isinstance(value, str):
        text = value if value.isprintable() else ascii(value)
    elif value is None or isinstance(value, bool):
        text = json.dumps(value)
    else:
        try:
            text = " ".join(ascii(value).split())
        except ValueError:  # Python does not write whole numbers of more than 4,300 digits
            text = "a number of thousands of digits"
    return text if len(text) <= limit else f"{text[: limit - 3]}..."


def is_gymnasium_id(text: str) -> bool:
    """Whether a text has the form of an id of gymnasium, such as CartPole-v1 or my_module:Mine-v0."""
    return re.fullmatch(r"\S+-v[0-9]+", text) is not None


def without_families(names: Iterable[str]) -> list[str]:
    """Names for a sentence, those of a large family such as popgym-<task> as one."""
    listed = list(names)
    heads = [name.partition("-")[0] for name in listed]
    short = [
        f"{head}-... ({n})" if (n := heads.count(head)) > 6 else name for name, head in zip(listed, heads, strict=True)
    ]
    return list(dict.fromkeys(short))


def did_you_mean(word: str, names: Iterable[str]) -> str:
    """`; did you mean <name>?` for the nearest name, or nothing; `width` finds `policy.width`."""
    known = {name.lower(): name for name in names}
    word = OTHER_NAMES.get(word.lower(), word)
    tail = [name for name in known if name.rpartition(".")[2] == word.lower()]
    near = tail or difflib.get_close_matches(word.lower(), known, n=1)
    return f"; did you mean {known[near[0]]}?" if near else ""


def read(key: str, allowed: Option, value: Any, shown: Any = None) -> Any:
    """The value in its field's type; raises a ConfigError that shows it. Numbers may come as text.

    As text, because YAML 1.1 reads 1e-4 as text, and because people type 2e6 for a whole number of steps.
    """
    try:
        result = None if value is None and allowed.nullable else _convert(allowed.kind, value)
        if result is None or allowed.allows(result):
            return result
    except (TypeError, ValueError, OverflowError, RecursionError):
        pass
    hint = did_you_mean(value, allowed.choices) if isinstance(value, str) and allowed.kind is str else ""
    if key == "env.id" and isinstance(value, str) and is_gymnasium_id(value) and not hint:
        hint = f"; did you mean env=gym env.id={show(meant_id(value))}?"
    raise ConfigError(f"{show(key)}={show(value if shown is None else shown)}: expected {allowed.expected}{hint}")


def nearest_divisor(number: int, wish: int) -> int:
    return min((d for d in range(1, number + 1) if number % d == 0), key=lambda d: abs(d - wish))


def _convert(kind: type, value: Any) -> Any:
    value = _without_library(value)
    if kind in (int, float):
        number = _number(value)
        # no file of ours can hold NaN and infinity
        if isinstance(value, bool) or not math.isfinite(number) or (kind is int and number != int(number)):
            raise ValueError
        return kind(number)
    if kind is str and isinstance(value, os.PathLike):
        value = os.fspath(value)
    if kind is bool and isinstance(value, str):
        value = {"true": True, "false": False}.get(value.lower(), value)
    if not isinstance(value, kind):
        raise TypeError
    return plain(value)


def _without_library(value: Any) -> Any:
    """A single number or text of numpy or torch as one of Python; other values as they are."""
    return value.item() if getattr(value, "ndim", None) == 0 and hasattr(value, "item") else value


def _number(value: Any) -> Any:
    if isinstance(value, numbers.Real):
        return value
    if isinstance(value, Decimal):
        return float(value)
    if not isinstance(value, str):
        raise TypeError
    try:
        return int(value)
    except ValueError:
        return float(value)


def plain(value: Any) -> Any:
    """A copy in Python's own types, which JSON and YAML hold and give back; raises for any other value."""
    value = _without_library(value)
    if isinstance(value, str):
        # ${...} is an interpolation elsewhere and would be taken literally here
        if not value.isprintable() or "${" in value or value == "???":
            raise ValueError
        return str.__str__(value)
    if isinstance(value, dict):
        if not all(isinstance(key, str) for key in value):
            raise TypeError
        return {plain(key): plain(item) for key, item in value.items()}
    if isinstance(value, list):
        return [plain(item) for item in value]
    if isinstance(value, float):
        if not math.isfinite(value):
            raise ValueError
        return float(value)
    if value is None or isinstance(value, bool):
        return value
    if not isinstance(value, int):
        raise TypeError
    return int(value)
