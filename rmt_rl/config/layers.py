"""What is given for a configuration in one place, a file or a call, before it is read."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Mapping
from typing import Any

from rmt_rl.common.errors import ConfigError
from rmt_rl.config.fields import Config, options, show
from rmt_rl.config.memory import MemoryConfig


@dataclasses.dataclass(frozen=True)
class Layer:
    """names: the chosen name of each group. bases: groups given as dataclasses. values: options by their full names."""

    names: dict[str, Any]
    bases: dict[str, Any]
    values: dict[str, Any]

    def add(self, key: str, value: Any) -> None:
        if key in self.values:
            raise ConfigError(
                f"{show(key)}={show(value)}: is given twice, {show(key)}={show(self.values[key])} before; expected once"
            )
        self.values[key] = value

    def drop(self, groups_of_others: Collection[str]) -> None:
        """Forget the single options of groups that another layer gives as complete dataclasses."""
        for key in [key for key in self.values if "." in key and key.partition(".")[0] in groups_of_others]:
            del self.values[key]

    def first_of(self, group: str, dataclasses: bool) -> str | None:
        """What the layer gives for a group, as typed, or None. dataclasses: whether one given as a dataclass counts."""
        if group in self.names and (dataclasses or group not in self.bases):
            return f"{group}={show(self.names[group])}"
        return next((f"{key}={show(value)}" for key, value in self.values.items() if key.startswith(f"{group}.")), None)


def flatten(given: Mapping[str, Any], usual: Mapping[str, str]) -> Layer:
    """The layer of options that are given by full names, or as dictionaries of a group. usual: the groups."""
    layer = Layer({}, {}, {})
    for key, value in given.items():
        if not isinstance(key, str):
            raise ConfigError(f"{show(key)}: no such option; names of options are text")
        if key not in usual:
            layer.add(key, value)
        elif isinstance(value, Config):
            layer.bases[key], layer.names[key] = value, value.name
        elif isinstance(value, Mapping):
            if "name" in value:
                layer.names[key] = value["name"]
            for name, entry in value.items():
                if name != "name":
                    layer.add(f"{key}.{name}", entry)
        else:
            layer.names[key] = value
    return layer


def combined(options: Mapping[str, Any], others: Mapping[str, Any]) -> dict[str, Any]:
    """Options by their full names from two places; raises ConfigError where one is in both."""
    layer = Layer({}, {}, dict(options))
    for key, value in others.items():
        layer.add(key, value)
    return layer.values


def memory_typed(layers: list[Layer], saved: bool) -> set[str]:
    """The options of memory that were typed. saved: the file has all of them; then those that are not the defaults."""
    in_file = {key: value for key, value in layers[0].values.items() if key.startswith("memory.")}
    if base := layers[0].bases.get("memory"):
        in_file |= {f"memory.{name}": getattr(base, name) for name in options(type(base))}
    usual = {f"memory.{name}": known.default for name, known in options(MemoryConfig).items()}
    edited = {key for key, value in in_file.items() if not saved or value != usual.get(key)}
    typed = edited | {key for key in layers[1].values if key.startswith("memory.")}
    return {key.partition(".")[2] for key in typed}
