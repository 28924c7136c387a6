"""The parts of a row of cells.jsonl that are known before a cell runs, and comparisons of configurations. Torch-free."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from rmt_rl.comparison.cells import Cell, Matrix
from rmt_rl.config.commands import TrainConfig
from rmt_rl.config.files import to_dict


def difference(one: TrainConfig, other: TrainConfig, fitted: bool = False) -> str | None:
    """The first option, by its full name, in which two configurations differ; None where they are the same.

    fitted: `one` is that of a run, which has the width that was found for policy.params.
    """
    left, right = (flat(to_dict(dataclasses.replace(config, resume=None))) for config in (one, other))
    names = list({**left, **right})
    if fitted and other.policy.params is not None:
        names = [name for name in names if name not in ("policy.params", "policy.width")]
    return next((name for name in names if left.get(name) != right.get(name)), None)


def flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested options by their full names; groups by the name of their choice."""
    found: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, Mapping) and not prefix and "name" in value:
            found[key] = value["name"]
            found |= {f"{key}.{name}": part for name, part in value.items() if name != "name"}
        elif key != "format":
            found[key] = value
    return found


def options_of(cell: Cell, values: Mapping[str, Any]) -> dict[str, Any]:
    """The options of a cell for its row. values: its configuration, in which the comparison has replaced the final evaluation."""
    return flat(values) | {"evaluate_episodes": cell.episodes}


def changed(row: Mapping[str, Any], cell: Cell) -> tuple[str, Any, Any] | None:
    """The first option in which a finished row differs from what its cell would be trained with today: its name and both values.

    A recipe or a default has changed since. An option that is newer than the row is no difference, and neither is what a run
    finds itself: the width for policy.params.
    """
    now = options_of(cell, to_dict(cell.config))
    found = {"resume", *(() if cell.config.policy.params is None else ("policy.params", "policy.width"))}
    then = {name: value for name, value in (row.get("options") or {}).items() if name in now and name not in found}
    return next(((name, value, now[name]) for name, value in then.items() if value != now[name]), None)


def base_row(matrix: Matrix, cell: Cell) -> dict[str, Any]:
    return {
        "key": cell.key,
        "task": cell.task,
        "policy": cell.policy,
        "variant": dict(cell.variant),
        "seed": cell.seed,
        "command": cell.command(matrix.plugins),
    }


def failed_row(matrix: Matrix, cell: Cell, error: str) -> dict[str, Any]:
    """The row of a cell that has no result. error: one sentence."""
    return {
        **base_row(matrix, cell),
        "status": "failed",
        "error": error,
        "options": options_of(cell, to_dict(cell.config)),
        "cost": {},
    }
