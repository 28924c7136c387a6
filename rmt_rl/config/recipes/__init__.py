"""Recipes: training options that a task, policy or algorithm changes unless the user gives them, and where each was measured.

A task has one where the defaults were measured to fail. Options that the chosen policy or algorithm does not have are left out,
and those of the algorithm where it learns from recorded episodes. The recipe of a policy is for algorithms that act, and a task's
recipe wins over it, as over that of an algorithm. The recipe of a built-in choice is <name>.yaml in this folder:

    options: {algo.gamma: 0.997, ...}
    provenance: {command: ..., seeds: ..., date: ..., score: ..., page: ...}
    policies: {lstm: {options: {...}, provenance: {...}}}      # what changes besides with policy=lstm
    ids: {Pendulum: {options: {...}, provenance: {...}}}    # what changes besides with this env.id

`options` of a policy or an id may be missing: then it was measured with those above.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rmt_rl.common.errors import ConfigError
from rmt_rl.config.fields import did_you_mean, show
from rmt_rl.config.yaml_files import read_yaml

FOLDER = Path(__file__).parent
#: Training options by their full names, or the YAML file that holds them.
Source = Mapping[str, Any] | Path
#: What a recipe says about its measurement, in words; "not recorded" where nobody knows any more.
PROVENANCE = ("command", "seeds", "date", "score", "page")
#: The entries of a recipe file, and of a policy or an id in it.
ENTRIES, PARTS = ("options", "provenance", "policies", "ids"), ("options", "provenance")


@dataclass(frozen=True)
class Recipe:
    """options: training options by their full names. policies, ids: recipes for one policy or env.id, on top of the options.

    provenance: where the options were measured; empty for a recipe that is a dictionary in code.
    """

    options: Mapping[str, Any] = field(default_factory=dict)
    provenance: Mapping[str, str] = field(default_factory=dict)
    policies: Mapping[str, Recipe] = field(default_factory=dict)
    ids: Mapping[str, Recipe] = field(default_factory=dict)

    def options_for(self, policy: str) -> dict[str, Any]:
        """The options for a policy by its name."""
        own = self.policies.get(policy)
        return {**self.options, **({} if own is None else own.options)}


def builtin_recipe(name: str) -> Path | None:
    """The file of a built-in task, policy or algorithm; None where it has no recipe."""
    path = FOLDER / f"{name}.yaml"
    return path if path.is_file() else None


@functools.cache
def read_recipe(path: Path) -> Recipe:
    """The recipe in a YAML file; raises ConfigError where it cannot be read or has another form than this module describes."""
    where = show(str(path), limit=1_000)
    found = _entries(where, read_yaml(path, by_hand=True), ENTRIES)
    own = _recipe(where, found)
    policies, ids = (
        {
            name: _recipe(f"{where}: {kind}: {show(name)}", _entries(f"{where}: {kind}: {show(name)}", part, PARTS))
            for name, part in _entries(f"{where}: {kind}", found.get(kind, {})).items()
        }
        for kind in ("policies", "ids")
    )
    return Recipe(own.options, own.provenance, policies, ids)


def _recipe(where: str, found: Mapping[str, Any]) -> Recipe:
    """The options and the provenance of a file, or of a policy or an id in it."""
    options = _entries(f"{where}: options", found.get("options", {}))
    provenance = _entries(f"{where}: provenance", found.get("provenance"), PROVENANCE)
    for name in PROVENANCE:
        value = provenance.get(name)
        if not (isinstance(value, str) and value.strip()):
            raise ConfigError(
                f"{where}: provenance: {name}={show(value)}: expected text, or `not recorded` where it is not known"
            )
    return Recipe(options, provenance)


def _entries(where: str, found: Any, known: tuple[str, ...] = ()) -> Mapping[str, Any]:
    """`found` as a dictionary with text as keys; known: the only keys it may have, or () for any."""
    if not (isinstance(found, Mapping) and all(isinstance(key, str) for key in found)):
        keys = f" with entries of {', '.join(known)}" if known else ""
        raise ConfigError(f"{where}: found {show(found)}; expected a dictionary{keys}")
    for key in found:
        if known and key not in known:
            raise ConfigError(
                f"{where}: {show(key)}: no such entry; expected {', '.join(known)}{did_you_mean(key, known)}"
            )
    return found
