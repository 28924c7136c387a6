"""Checks an environment: `python -m rmt_rl.envs.check <name | gymnasium id | module:Class>`."""

from __future__ import annotations

import functools
import importlib
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import gymnasium

from rmt_rl.common.errors import ConfigError
from rmt_rl.config import cli
from rmt_rl.config.fields import did_you_mean
from rmt_rl.config.registry import GROUPS
from rmt_rl.envs.base import TorchVectorEnv
from rmt_rl.envs.checks.gymnasium_env import RAW_CHECKS
from rmt_rl.envs.checks.runner import Make, Result, brief, run_check
from rmt_rl.envs.checks.vector_env import CHECKS
from rmt_rl.envs.gym.adapter import register_package
from rmt_rl.envs.gym.translate import Translation, action_space
from rmt_rl.envs.registry import make_env


def check(make: Make, raw: Callable[[], gymnasium.Env[Any, Any]] | None = None) -> Iterator[Result]:
    """The results of all checks, one after the other. `make(num_envs)` makes the environment anew.

    raw: makes the single environment that `make` has rows of, where there is one. The first thing that is wrong with it is told
        alone, because every other check would stumble over it.
    """
    for claim, run in RAW_CHECKS if raw is not None else ():
        result = run_check(claim, lambda run=run: run(raw()))  # type: ignore[misc]
        yield result
        if result.verdict == "wrong":
            yield Result("the other claims", "not checked", "mend this first")
            return
    for each in CHECKS:
        yield run_check(each.claim, lambda each=each: each.run(make))  # type: ignore[misc]


def maker(name: str, given: dict[str, Any]) -> tuple[Make, Callable[[], gymnasium.Env[Any, Any]] | None]:
    """How to make the environment that a user names (one of ours, an id of gymnasium, or module:Class), and its raw form."""
    if name in GROUPS["env"]:
        inner = isinstance(given.get("id"), str) and name == "gym"
        raw = maker(given["id"], given.get("options") or {})[1] if inner else None
        return lambda num_envs: make_env(name, num_envs, **given), raw
    module, colon, attribute = name.partition(":")
    cls = None
    if colon:
        try:
            cls = getattr(importlib.import_module(module), attribute, None)
        except ImportError as error:
            raise ConfigError(f"{name}: {error}; expected a module that can be imported from here") from None
    if isinstance(cls, type) and issubclass(cls, TorchVectorEnv):
        return lambda num_envs: cls(num_envs, **given), None
    if isinstance(cls, type) and issubclass(cls, gymnasium.Env):
        single: Any = cls
        id = f"rmt_rl-check/{attribute}-v0"
        gymnasium.register(id, entry_point=single)
        return lambda num_envs: make_env("gym", num_envs, id=id, options=given), lambda: single(**given)
    if cls is not None or (colon and attribute not in gymnasium.registry):
        raise ConfigError(f"{name}: expected a class that is a TorchVectorEnv or a gymnasium.Env, found {_kind(cls)}")
    register_package(name, name.split(":")[-1])
    if name.split(":")[-1] not in gymnasium.registry:
        hint = did_you_mean(name, [*GROUPS["env"], *gymnasium.registry])
        raise ConfigError(f"{name}: expected one of our tasks, an id of gymnasium, or module:Class{hint}")
    raw = functools.partial(gymnasium.make, name, disable_env_checker=True, **given)
    return lambda num_envs: make_env("gym", num_envs, id=name, options=given), raw


def main(argv: Sequence[str] | None = None) -> int:
    argv = sys.argv[1:] if argv is None else argv
    if not argv or {"-h", "--help"} & set(argv):
        print(__doc__)
        return 0 if argv else 2
    try:
        name, given = argv[0].removeprefix("env="), dict(_option(text) for text in argv[1:])
        make, raw = maker(name, given)
        _can_be_made(name, given, make, raw)
    except ConfigError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    count = {"ok": 0, "not checked": 0, "wrong": 0}
    for result in check(make, raw):
        count[result.verdict] += 1
        print(
            f"{result.verdict:>11}  {result.claim}" + (f"\n{'':13}{result.found}" if result.found else ""), flush=True
        )
    print(f"{name}: " + ", ".join(f"{number} {verdict}" for verdict, number in count.items()))
    return 1 if count["wrong"] else 0


def _can_be_made(
    name: str, given: dict[str, Any], make: Make, raw: Callable[[], gymnasium.Env[Any, Any]] | None
) -> None:
    try:
        single = make(1) if raw is None else raw()
        # raise ConfigError, because every check would stumble over it; a space that is missing is the first check's business
        for name, translate in (("observation_space", Translation), ("action_space", action_space)):
            if raw is not None and isinstance(space := getattr(single, name, None), gymnasium.Space):
                translate(space)
        single.close()
    except ConfigError:
        raise
    except Exception as error:
        raise ConfigError(
            f"{name}: cannot be made with {given or 'no options'}: {type(error).__name__}: {brief(error)}"
        ) from error


def _option(text: str) -> tuple[str, Any]:
    import yaml

    key, equals, value = text.partition("=")
    if not equals or not key:
        raise ConfigError(f"{text}: expected option=value")
    try:
        return key.removeprefix("env."), yaml.safe_load(value)
    except yaml.YAMLError:
        raise ConfigError(f"{text}: expected a plain value, such as {key}=3") from None


def _kind(found: Any) -> str:
    return "nothing of that name" if found is None else f"a {type(found).__name__}"


if __name__ == "__main__":
    sys.exit(cli.run(main))
