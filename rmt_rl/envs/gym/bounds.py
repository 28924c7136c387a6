"""What the class of a gymnasium environment states about its scores: floor, ceiling and their unit."""

from __future__ import annotations

import inspect
import math
import warnings
from collections.abc import Iterator
from typing import Any

import gymnasium

from rmt_rl.config.fields import show
from rmt_rl.envs.gym.translate import plain_array

MISSING = object()
MEASURES = ("success", "return")
FLAGS = ("reward_reveals_cue", "return_reveals_cue")


def stated_bounds(env: Any) -> dict[str, Any]:
    """The attributes of `TorchVectorEnv` about scores that the class of an environment, or of a wrapper around it, declares.

    A name counts where a class has it with a number or None (`floor`, `ceiling`), one of MEASURES (`measure`), or True or False
    (FLAGS); `__init__` may then change it. Attributes of another kind, such as a method `floor`, are the environment's own.
    """
    found = {}
    for name in ("measure", "floor", "ceiling", *FLAGS):
        layer = next((layer for layer in _layers(env) if _declares(type(layer), name)), None)
        if layer is not None:
            found[name] = getattr(layer, name)
    if found.get("measure", MEASURES[0]) not in MEASURES:
        _warn(env, "measure", found.pop("measure"), "expected 'success' or 'return'")
    success = found.get("measure", MEASURES[0]) == "success"
    for name in [name for name in ("floor", "ceiling") if found.get(name) is not None]:
        given, value = found[name], _number(found[name])
        found[name] = None
        if value is None or not math.isfinite(value):
            _warn(env, name, given, "expected a finite number, or None where it is not known")
        elif success and not 0 <= value <= 1:
            _warn(
                env, name, given, "a success rate is between 0 and 1; measure = 'return' in the class makes it a return"
            )
        else:
            found[name] = value
    return found


def _layers(env: Any) -> Iterator[Any]:
    """An environment from its outermost wrapper to its inside."""
    yield env
    while isinstance(env, gymnasium.Wrapper):
        env = env.env
        yield env


def _declares(cls: type, name: str) -> bool:
    value = inspect.getattr_static(cls, name, MISSING)
    if name == "measure":
        return isinstance(value, str) and value in MEASURES
    if name in FLAGS:
        return isinstance(value, bool)
    return value is None or (value is not MISSING and _number(value) is not None)


def _number(value: Any) -> float | None:
    """A single number, also an array of one, as a float; None for anything else."""
    array = plain_array(value)
    return float(array) if array.ndim == 0 and array.dtype.kind in "iuf" else None


def _warn(env: Any, name: str, value: Any, why: str) -> None:
    text = f"{type(env.unwrapped).__name__}: {name} = {show(value)} is not used: {why}"
    warnings.warn(text, stacklevel=3)
