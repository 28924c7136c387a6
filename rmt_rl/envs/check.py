"""Checks an environment: `python -m rmt_rl.envs.check <name | gymnasium id | module:Class> [option=value ...]`

Every check is one claim of the contract in `rmt_rl/envs/base.py`, tested with random actions and a few hundred steps. A failed
check prints what was found. The tests of this package run the same checks on every registered environment. A module:Class is a
`TorchVectorEnv` or another `gymnasium.vector.VectorEnv`, which are called with num_envs, or a `gymnasium.Env`, which runs behind
the adapter of env=gym.

    python -m rmt_rl.envs.check tmaze length=20
    python -m rmt_rl.envs.check CartPole-v1
    python -m rmt_rl.envs.check my_module:MyEnv size=7
    python -m rmt_rl.envs.check my_module:MyVectorEnv

A warning is something that works and that gymnasium's own checker advises against, too.

Exit status: 0, also with warnings, or 1 if a check failed, or 2 if nothing could be checked. The checks are not a proof: they
only see what random actions reach, and they do not test whether a task needs memory.
"""

from __future__ import annotations

import functools
import importlib
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import gymnasium
from gymnasium.vector import VectorEnv

from rmt_rl.common.errors import ConfigError
from rmt_rl.common.gymnasium_ids import near_ids
from rmt_rl.config import cli
from rmt_rl.config.fields import did_you_mean
from rmt_rl.config.registry import GROUPS
from rmt_rl.config.yaml_files import plain_value
from rmt_rl.envs.actions import ActionTranslation
from rmt_rl.envs.base import TorchVectorEnv, close_env
from rmt_rl.envs.checks.gymnasium_env import RAW_CHECKS, SINGLE_CHECKS, malformed_space
from rmt_rl.envs.checks.masked import allowed_only
from rmt_rl.envs.checks.runner import Make, Result, brief, run_check
from rmt_rl.envs.checks.vector_env import CHECKS
from rmt_rl.envs.gym.adapter import VectorAdapter, register_package
from rmt_rl.envs.gym.translate import Translation
from rmt_rl.envs.registry import make_env


def check(make: Make, raw: Callable[[], gymnasium.Env[Any, Any]] | None = None) -> Iterator[Result]:
    """The results of all checks, as they are made. `make(num_envs)` makes a new environment.

    raw: makes the gymnasium.Env that `make` has rows of, if there is one. If it returns another form than gymnasium's, the
    other checks are skipped, because most of them would fail for the same reason.
    """
    for claim, run in RAW_CHECKS if raw is not None else ():
        result = run_check(claim, lambda run=run: run(raw()))  # type: ignore[misc]
        yield result
        if result.verdict == "wrong":
            yield Result("the other checks", "not checked", "fix this first")
            return
    for claim, run in SINGLE_CHECKS if raw is not None else ():
        yield run_check(claim, lambda run=run: run(raw()))  # type: ignore[misc]
    for each in CHECKS:
        yield run_check(each.claim, lambda each=each: each.run(lambda rows: allowed_only(make(rows))))  # type: ignore[misc]


def maker(name: str, given: dict[str, Any]) -> tuple[Make, Callable[[], gymnasium.Env[Any, Any]] | None]:
    """The `make` and `raw` of `check` for a registered task, an id of gymnasium, or module:Class. given: its options.

    Raises ConfigError where there is no such environment.
    """
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
    if isinstance(cls, type) and issubclass(cls, VectorEnv):
        batch: Any = cls
        return lambda num_envs: VectorAdapter(batch(num_envs=num_envs, **given), borrowed=False), None
    if isinstance(cls, type) and issubclass(cls, gymnasium.Env):
        single: Any = cls
        id = f"rmt_rl-check/{attribute}-v0"
        gymnasium.registry.pop(id, None)  # another class of the same name, from an earlier call
        gymnasium.register(id, entry_point=single)
        return lambda num_envs: make_env("gym", num_envs, id=id, options=given), lambda: single(**given)
    if cls is not None or (colon and attribute not in gymnasium.registry):
        raise ConfigError(
            f"{name}: expected a class that is a TorchVectorEnv, another VectorEnv or a gymnasium.Env, found {_kind(cls)}"
        )
    register_package(name, name.split(":")[-1])
    if name.split(":")[-1] not in gymnasium.registry:
        hint = did_you_mean(name, [*GROUPS["env"], *near_ids(name)])
        raise ConfigError(f"{name}: expected a task of rmt_rl, an id of gymnasium, or module:Class{hint}")
    single_env = gymnasium.registry[name.split(":")[-1]].entry_point is not None
    raw = functools.partial(gymnasium.make, name, disable_env_checker=True, **given) if single_env else None
    return lambda num_envs: make_env("gym", num_envs, id=name, options=given), raw


def main(argv: Sequence[str] | None = None) -> int:
    """The exit status of the command."""
    return cli.run(command, argv)


def command(argv: list[str]) -> int:
    if not argv or {"-h", "--help"} & set(argv):
        print(__doc__)
        return 0 if argv else 2
    name, given = argv[0].removeprefix("env="), dict(_option(text) for text in argv[1:])
    make, raw = maker(name, given)
    _require_constructible(name, given, make, raw)
    count = {"ok": 0, "warning": 0, "not checked": 0, "wrong": 0}
    for result in check(make, raw):
        count[result.verdict] += 1
        found = f"\n{'':13}{result.found}" if result.found else ""
        print(f"{result.verdict:>11}  {result.claim}{found}", flush=True)
    print(
        f"{name}: "
        + ", ".join(f"{number} {verdict}" for verdict, number in count.items() if number or verdict != "warning")
    )
    return 1 if count["wrong"] else 0


def _require_constructible(
    name: str, given: dict[str, Any], make: Make, raw: Callable[[], gymnasium.Env[Any, Any]] | None
) -> None:
    """Raise ConfigError where the environment cannot be made or has unsupported spaces: then every check would fail."""
    read_all = functools.partial(Translation, text=True)
    try:
        single = make(1) if raw is None else raw()
        for attribute, translate in (("observation_space", read_all), ("action_space", ActionTranslation)):
            # a missing or malformed space is reported by the first check
            space = getattr(single, attribute, None)
            if raw is not None and isinstance(space, gymnasium.Space) and not malformed_space(space):
                translate(space)
        close_env(single)
    except ConfigError:
        raise
    except Exception as error:
        raise ConfigError(
            f"{name}: cannot be made with {given or 'no options'}: {type(error).__name__}: {brief(error)}"
        ) from error


def _option(text: str) -> tuple[str, Any]:
    key, equals, value = text.partition("=")
    if not equals or not key:
        raise ConfigError(f"{text}: expected option=value")
    try:
        return key.removeprefix("env."), plain_value(value)
    except ValueError:
        raise ConfigError(f"{text}: expected a plain value, such as {key}=3") from None


def _kind(found: Any) -> str:
    return "nothing of that name" if found is None else f"a {type(found).__name__}"


if __name__ == "__main__":
    sys.exit(main())
