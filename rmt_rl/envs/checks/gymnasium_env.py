"""The checks of a single gymnasium.Env, before the adapter translates it."""

from __future__ import annotations

import copy
import inspect
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces

from rmt_rl.envs.checks.masked import sample_own
from rmt_rl.envs.checks.runner import STEPS, Broken, Doubtful, NotChecked, brief, describe_type, expect


def spaces_are_well_formed(env: gymnasium.Env[Any, Any]) -> None:
    for name in ("observation_space", "action_space"):
        found = getattr(env, name, None)
        expect(
            isinstance(found, gymnasium.Space),
            f"{name} is {found!r}; expected a gymnasium.Space, set in the class or __init__",
        )
        if fault := malformed_space(found):
            raise Broken(f"{name}: {fault}")


def malformed_space(space: Any) -> str:
    """What is wrong with a space, whatever its environment returns, or ""."""
    if isinstance(space, spaces.Dict | spaces.Tuple):
        parts = list(space.values()) if isinstance(space, spaces.Dict) else list(space)
        faults = [fault for part in parts if (fault := malformed_space(part))]
        return faults[0] if faults else "" if parts else f"{type(space).__name__} has no parts; expected at least one"
    if isinstance(space, spaces.Box):
        if not space.shape == space.low.shape == space.high.shape:
            return f"Box has shape {space.shape} and bounds of shape {space.low.shape} and {space.high.shape}; expected one shape"
        return f"{brief(space)} has a low above its high" if (space.low > space.high).any() else ""
    if isinstance(space, spaces.Discrete):
        return f"Discrete has n = {space.n}; expected at least 1" if space.n < 1 else ""
    if isinstance(space, spaces.MultiDiscrete):
        if space.shape != space.nvec.shape:
            return f"MultiDiscrete has shape {space.shape} and nvec of shape {space.nvec.shape}; expected one shape"
        return f"MultiDiscrete has nvec = {space.nvec.tolist()}; expected at least 1" if (space.nvec < 1).any() else ""
    if isinstance(space, spaces.MultiBinary) and min(space.shape, default=1) < 1:
        return f"MultiBinary has shape {space.shape}; expected at least 1"
    return ""


def returns_of_reset_and_step(env: gymnasium.Env[Any, Any]) -> None:
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
        if not _equal(obs, kept):
            raise Broken(f"step {t + 1} modified the previously returned observation; return a copy")
        obs, info = _reset(env) if terminated or truncated else (new, info)


def reset_uses_its_seed(env: gymnasium.Env[Any, Any]) -> None:
    parameters = inspect.signature(env.unwrapped.reset).parameters
    for name in ("seed", "options"):
        if name not in parameters and not any(p.kind is p.VAR_KEYWORD for p in parameters.values()):
            raise Broken(f"reset has no argument {name}; expected reset(self, *, seed=None, options=None)")
        if name in parameters and parameters[name].default is not None:
            default = parameters[name].default
            shown = "no default" if default is inspect.Parameter.empty else f"the default {default!r}"
            raise Broken(f"the argument {name} of reset has {shown}; expected None, so that unseeded episodes differ")
    env.reset(options={})
    found = []
    for seed in (123, 123, 456):
        first = env.reset(seed=seed)[0]
        generator = getattr(env.unwrapped, "_np_random", None)
        if generator is None:
            raise Broken(f"reset(seed={seed}) does not seed self.np_random; call super().reset(seed=seed) first")
        state = copy.deepcopy(generator.bit_generator.state)
        found.append((first, env.reset()[0], state))
    (one, second, state), (again, second_again, same_state), (_, _, other_state) = found
    remedy = "call super().reset(seed=seed), then draw all random numbers from self.np_random"
    if env.spec is None or not env.spec.nondeterministic:
        expect(_equal(one, again), f"reset(seed=123) gives {brief(one)} and {brief(again)}; {remedy}")
        equal = _equal(second, second_again)
        expect(equal, f"reset() after reset(seed=123) gives {brief(second)} and {brief(second_again)}; {remedy}")
    expect(
        _equal(state, same_state),
        f"reset(seed=123) leaves self.np_random in two states; {remedy}",
    )
    differ = not _equal(state, other_state)
    expect(differ, f"reset(seed=123) and reset(seed=456) leave self.np_random in one state; {remedy}")


def equal_actions_equal_steps(env: gymnasium.Env[Any, Any]) -> None:
    if env.spec is not None and env.spec.nondeterministic:
        raise NotChecked("its spec says that it is nondeterministic")
    env.action_space.seed(123)
    action = sample_own(env, *env.reset(seed=123))
    steps = []
    for _ in range(2):
        env.reset(seed=123)
        steps.append(env.step(copy.deepcopy(action)))
    for name, one, other in zip(("observation", "reward", "terminated", "truncated", "info"), *steps, strict=True):
        equal = _equal(one, other)
        expect(equal, f"the first step after reset(seed=123) returns the {name} {brief(one)}, then {brief(other)}")


def rendering_and_closing(env: gymnasium.Env[Any, Any]) -> None:
    modes = env.metadata.get("render_modes") or []
    if env.render_mode is not None:
        expect(env.render_mode in modes, f'render_mode is {env.render_mode!r}; metadata["render_modes"] has {modes}')
        env.reset(seed=0)
        frame = env.render()
        if env.render_mode == "rgb_array":
            right = (
                isinstance(frame, np.ndarray) and frame.dtype == np.uint8 and frame.ndim == 3 and frame.shape[2] == 3
            )
            expect(right, f"render returns {describe_type(frame)}; expected an array uint8 [height, width, 3]")
    for time in ("first", "second"):
        try:
            env.close()
        except Exception as error:
            raise Broken(f"the {time} close raises {type(error).__name__}: {brief(error)}") from error


def gymnasiums_advice(env: gymnasium.Env[Any, Any]) -> None:
    """Findings about which gymnasium's own checker warns, too. Each may be meant."""
    advice = [*_action_bounds(env.action_space), *_equal_bounds(env.observation_space)]
    modes, fps = (env.metadata.get(name) for name in ("render_modes", "render_fps"))
    if not isinstance(modes, list | tuple) or not all(isinstance(mode, str) for mode in modes):
        advice.append(
            f'metadata["render_modes"] is {modes!r}; expected a list of names, empty where nothing is rendered'
        )
    elif modes and (isinstance(fps, bool) or not isinstance(fps, int | float)):
        advice.append(f'metadata["render_fps"] is {fps!r}; expected a number of frames per second')
    if callable(getattr(env.unwrapped, "seed", None)):
        advice.append("it has a method seed, which nothing calls; seeds come with reset(seed=...)")
    if "return_info" in inspect.signature(env.unwrapped.reset).parameters:
        advice.append("reset has an argument return_info, which nothing gives; it always returns (observation, info)")
    env.action_space.seed(0)
    obs, info = _reset(env)
    *_, truncated, _ = env.step(sample_own(env, obs, info))
    if truncated:
        advice.append("the first step truncates the episode")
    advice.extend(_types(env.observation_space, obs))
    if advice:
        raise Doubtful("; ".join(advice))


def _action_bounds(space: gymnasium.Space[Any]) -> list[str]:
    # bounded actions need not be normalised: policies scale them
    if isinstance(space, spaces.Dict | spaces.Tuple):
        parts = space.values() if isinstance(space, spaces.Dict) else space
        return [each for part in parts for each in _action_bounds(part)]
    if isinstance(space, spaces.Box) and not np.isfinite([space.low, space.high]).all():
        return [
            f"action_space {brief(space)} has no bounds, so policies cannot know the unit of actions; give it bounds"
        ]
    return _equal_bounds(space)


def _equal_bounds(space: gymnasium.Space[Any]) -> list[str]:
    if isinstance(space, spaces.Dict | spaces.Tuple):
        return [
            each
            for part in (space.values() if isinstance(space, spaces.Dict) else space)
            for each in _equal_bounds(part)
        ]
    equal = isinstance(space, spaces.Box) and bool((space.low == space.high).any())
    return [f"{brief(space)} has elements whose low is their high"] if equal else []


def _types(space: gymnasium.Space[Any], value: Any) -> list[str]:
    if isinstance(space, spaces.Dict | spaces.Tuple):
        parts = space.items() if isinstance(space, spaces.Dict) else enumerate(space)
        return [each for key, part in parts for each in _types(part, value[key])]
    if isinstance(space, spaces.Discrete) and not isinstance(value, int | np.int64):
        return [f"an observation of {space} is {describe_type(value)}; expected int or np.int64"]
    return []


def _reset(env: gymnasium.Env[Any, Any]) -> Any:
    try:
        return env.reset(seed=0)
    except TypeError as error:
        if "reset() got an unexpected keyword argument" in str(error):
            raise Broken(f"{error}; expected reset(self, *, seed=None, options=None)") from error
        raise


def _equal(one: Any, other: Any) -> bool:
    """Whether two observations, infos or states are the same, types included. NaN equals NaN, unlike in gymnasium's
    `data_equivalence`: an info may say that a number is not known."""
    if type(one) is not type(other):
        return False
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(_equal(one[key], other[key]) for key in one)
    listed = isinstance(one, tuple | list)
    if listed or (isinstance(one, np.ndarray) and one.dtype == object and one.shape == other.shape and one.ndim):
        return len(one) == len(other) and all(map(_equal, one, other))
    if isinstance(one, np.ndarray):
        return one.dtype == other.dtype and np.array_equal(one, other, equal_nan=one.dtype.kind in "fc")
    return bool(one == other) or bool(one != one and other != other)


def _expect_reset(back: Any) -> None:
    pair = isinstance(back, tuple) and len(back) == 2 and isinstance(back[1], dict)
    expect(pair, f"reset returned {describe_type(back)}; expected (observation, info)")


def _mismatch(space: gymnasium.Space[Any], value: Any, name: str = "an observation") -> str:
    """What is wrong with a value of a space, or ""."""
    if isinstance(space, gymnasium.spaces.Dict | gymnasium.spaces.Tuple):
        parts: dict[Any, Any] = (
            dict(space.items()) if isinstance(space, gymnasium.spaces.Dict) else dict(enumerate(space))
        )
        if not isinstance(value, dict if isinstance(space, gymnasium.spaces.Dict) else tuple):
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


#: The form of what the environment has and returns. Where one fails, the others would, too.
RAW_CHECKS = (
    ("the observation space and the action space are well formed", spaces_are_well_formed),
    ("reset and step return what gymnasium requires", returns_of_reset_and_step),
    ("observations match the observation space", observations_match_the_space),
    ("returned observations are never modified", observations_are_never_modified),
)
#: The other checks.
SINGLE_CHECKS = (
    ("reset takes a seed and options, and the seed alone decides the episodes", reset_uses_its_seed),
    ("equal seeds and actions give equal steps, infos included", equal_actions_equal_steps),
    ("render_mode is one of the declared ones, and close may be called twice", rendering_and_closing),
    ("actions have bounds, and types and metadata are as gymnasium advises", gymnasiums_advice),
)
