"""What the last info of an episode reports: its success, and any single numbers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from rmt_rl.common.errors import ConfigError
from rmt_rl.config.fields import show
from rmt_rl.envs.base import OWN_KEYS
from rmt_rl.envs.gym.translate import plain_array
from rmt_rl.envs.masks import KEY

SUCCESS = ("is_success", "success")


def reports_in(info: Mapping[Any, Any], name: str) -> dict[str, Any]:
    """The success of an episode, if it is reported, and its single numbers as floats, by their keys."""
    success = success_in(info, name)
    found: dict[str, Any] = {} if success is None else {"success": success}
    for key, value in info.items():
        if not isinstance(key, str) or key.startswith("_") or key in (*SUCCESS, *OWN_KEYS, KEY) or value is None:
            continue
        array = plain_array(value)
        if array.size == 1 and array.dtype.kind in "biuf":
            found[key] = float(array.reshape(()))
    return found


def success_in(info: Mapping[Any, Any], name: str) -> bool | None:
    """The success that the last info of an episode reports; of several values, as of several agents, all must be true."""
    key = next((key for key in SUCCESS if info.get(key) is not None), None)
    if key is None:
        return None
    values = plain_array(info[key])
    if values.size and values.dtype.kind in "biuf" and np.isin(values, (0, 1)).all():
        return bool(values.all())
    raise ConfigError(f"{name}: step returned the info {key!r} = {show(repr(info[key]))}; expected True or False")


def batched(reports: Mapping[int, Mapping[str, Any]], rows: int) -> dict[str, np.ndarray]:
    """The reports of some rows as one array for each key, with the mask of the rows that have it under `_key`."""
    found = {}
    for key in dict.fromkeys(key for report in reports.values() for key in report):
        kind: Any = np.bool_ if key == "success" else np.float64
        found[key] = np.array([reports.get(row, {}).get(key, 0) for row in range(rows)], dtype=kind)
        found[f"_{key}"] = np.array([key in reports.get(row, {}) for row in range(rows)])
    return found
