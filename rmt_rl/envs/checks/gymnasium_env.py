"""The checks of a single gymnasium.Env, before the adapter translates it."""

from __future__ import annotations

import copy
from typing import Any

import gymnasium
import numpy as np
from gymnasium.utils.env_checker import data_equivalence

from rmt_rl.envs.checks.masked import sample_own
from rmt_rl.envs.checks.runner import STEPS, Broken, brief, describe_type, expect


def returns_of_reset_and_step(env: gymnasium.Env[Any, Any]) -> None:
    for name in ("observation_space", "action_space"):
        found = getattr(env, name, None)
        expect(
            isinstance(found, gymnasium.Space),
            f"{name} is {found!r}; expected a gymnasium.Space, set in the class or __init__",
        )
    env.action_space.seed(0)
    back: Any = _reset(env)
    _expect_reset(back)
    obs, info = back
    for _ in range(STEPS):
        back = env.step(sample_own(env, obs, info))
        wanted = "expected (observation, reward, terminated, truncated, info)"
        expect(isinstance(back, tuple) and len(back) == 5, f"step returned {describe_type(back)}; {wanted}")
        obs, reward, terminated, truncated, info = back
        number = isinstance(reward, int | float | np.integer | np.floating)
        expect(number, f"the reward is {describe_type(reward)}; expected a number")
        for name, flag in (("terminated", terminated), ("truncated", truncated)):
            expect(isinstance(flag, bool | np.bool_), f"{name} is {describe_type(flag)}; expected True or False")
        expect(isinstance(info, dict), f"info is {describe_type(info)}; expected a dictionary")
        if terminated or truncated:
            back = _reset(env)
            _expect_reset(back)
            obs, info = back


def observations_match_the_space(env: gymnasium.Env[Any, Any]) -> None:
    env.action_space.seed(0)
    (obs, info), where = _reset(env), "reset"
    for t in range(200):
        if found := _mismatch(env.observation_space, obs):
            raise Broken(f"{where} returned {found}")
        obs, _, terminated, truncated, info = env.step(sample_own(env, obs, info))
        where = f"step {t + 1}"
        if terminated or truncated:
            (obs, info), where = _reset(env), "reset"


def observations_are_never_modified(env: gymnasium.Env[Any, Any]) -> None:
    env.action_space.seed(0)
    obs, info = _reset(env)
    for t in range(20):
        kept = copy.deepcopy(obs)
        new, _, terminated, truncated, info = env.step(sample_own(env, obs, info))
        if not data_equivalence(obs, kept):
            raise Broken(f"step {t + 1} modified the previously returned observation; return a copy")
        obs, info = _reset(env) if terminated or truncated else (new, info)


def _reset(env: gymnasium.Env[Any, Any]) -> Any:
    try:
        return env.reset(seed=0)
    except TypeError as error:
        if "reset() got an unexpected keyword argument" in str(error):
            raise Broken(f"{error}; expected reset(self, *, seed=None, options=None)") from error
        raise


def _expect_reset(back: Any) -> None:
    pair = isinstance(back, tuple) and len(back) == 2 and isinstance(back[1], dict)
    expect(pair, f"reset returned {describe_type(back)}; expected (observation, info)")


def _mismatch(space: gymnasium.Space[Any], value: Any, name: str = "an observation") -> str:
    """What is wrong with a value of a space, or ""."""
    if isinstance(space, gymnasium.spaces.Dict | gymnasium.spaces.Tuple):
        parts: dict[Any, Any] = (
            dict(space.items()) if isinstance(space, gymnasium.spaces.Dict) else dict(enumerate(space))
        )
        if not isinstance(value, dict | tuple):
            return f"{name} that is {describe_type(value)}; the space is {space}"
        found: dict[Any, Any] = value if isinstance(value, dict) else dict(enumerate(value))
        if set(found) != set(parts):
            return f"{name} with the parts {list(found)}; the space has {list(parts)}"
        return next((text for key in parts if (text := _mismatch(parts[key], found[key], f"{key!r}"))), "")
    if isinstance(space, gymnasium.spaces.Box):
        if not isinstance(value, np.ndarray):
            return f"{name} that is {describe_type(value)}; the space has numpy arrays {space.dtype} {space.shape}"
        if value.dtype != space.dtype or value.shape != space.shape:
            return f"{name} of {value.dtype} {value.shape}; the space has {space.dtype} {space.shape}"
        if np.isnan(value).any():
            return f"{name} with NaN"
    return "" if space.contains(value) else f"{name} outside its space {space}: {brief(value)}"


RAW_CHECKS = (
    ("reset and step return what gymnasium requires", returns_of_reset_and_step),
    ("observations match the observation space", observations_match_the_space),
    ("returned observations are never modified", observations_are_never_modified),
)
