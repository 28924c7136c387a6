"""Environments that are given as Python objects instead of names."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable
from typing import Any

import gymnasium
import torch
from gymnasium.vector import VectorEnv

from rmt_rl.common.errors import ConfigError
from rmt_rl.config.bases import EnvConfig
from rmt_rl.config.fields import Config, show
from rmt_rl.config.recipes import builtin_recipe
from rmt_rl.config.registry import OBJECTS, Entry, choose, entry_of
from rmt_rl.envs.base import TorchVectorEnv, close_env

#: Name of the option dataclasses that are made here.
OBJECT = "ObjectEnvConfig"


@dataclasses.dataclass(frozen=True)
class _Instance:
    """A factory that returns one environment object, which the caller made and will close.

    env: a TorchVectorEnv, or a vector environment of another library, which the adapter makes one of.
    """

    env: Any
    borrowed = True

    def __call__(self, num_envs: int, device: Any) -> TorchVectorEnv:
        if isinstance(self.env, TorchVectorEnv):
            return self.env
        from rmt_rl.envs.gym.adapter import VectorAdapter

        return VectorAdapter(self.env, device)


def as_env_config(env: Any) -> Any:
    """The options of an environment that is given as a name, a dataclass of rmt_rl.config, or as in `env_config_of`."""
    if isinstance(env, str):
        return choose("env", env).config()
    return env if isinstance(env, Config) else env_config_of(env)


def env_config_of(env: Any) -> EnvConfig:
    """Register an environment object, class or function in this process; returns its option dataclass, which has no fields.

    The dataclass stands for this object, also after another one of the same name was given. Its name, in a saved configuration
    or policy, stands for the latest class or function of that name.

    env: a `TorchVectorEnv`; or a class or function that makes one, called as f(num_envs, device); or a gymnasium.Env class,
    of which the adapter of env=gym runs num_envs copies; or a vector environment of another library, as an object, or as a class
    that is called as cls(num_envs=...). Raises ConfigError for anything else.
    """
    cls: Any
    factory: Callable[..., TorchVectorEnv]
    recipe: Any = {}  # as in `Entry.source`
    if isinstance(env, TorchVectorEnv):
        cls, factory = type(env), _Instance(env)
    elif isinstance(env, type) and issubclass(env, gymnasium.Env):
        cls, factory, recipe = env, _gymnasium_factory(env), builtin_recipe("gym")
    elif isinstance(env, type) and issubclass(env, VectorEnv) and not issubclass(env, TorchVectorEnv):
        cls, factory, recipe = env, _vector_factory(env), builtin_recipe("gym")
    elif is_vector_env(env):
        cls, factory, recipe = type(env), _Instance(env), builtin_recipe("gym")
    elif callable(env) and (not isinstance(env, type) or issubclass(env, TorchVectorEnv)):
        cls, factory = env, _checked(env)
    else:
        raise ConfigError(
            f"env={show(env)}: expected a name, a dataclass of rmt_rl.config, a TorchVectorEnv, another vector environment, a"
            " gymnasium.Env class, or a function f(num_envs, device) that makes a TorchVectorEnv"
        )
    cls = cls if hasattr(cls, "__qualname__") else type(cls)  # functools.partial, for instance
    name = f"{cls.__module__}:{cls.__qualname__}"
    config: Any = dataclasses.make_dataclass(OBJECT, [], bases=(EnvConfig,), frozen=True)
    config.name, config.entry = name, Entry(config, factory, recipe)
    known = OBJECTS.get(name)
    if known is None or not isinstance(factory, _Instance) or isinstance(known.target, _Instance):
        OBJECTS[name] = config.entry
    made: EnvConfig = config()
    return made


def is_vector_env(env: Any) -> bool:
    """Whether an object is a batch of environments; not every library derives its class from gymnasium's."""
    acts = hasattr(env, "single_action_space") or hasattr(env, "action_space")
    return not isinstance(env, type) and acts and all(hasattr(env, name) for name in ("num_envs", "reset", "step"))


def close_unless_borrowed(config: EnvConfig, env: TorchVectorEnv) -> None:
    """Close an environment, unless it is an object that the caller of `train` made."""
    if not is_borrowed(config):
        close_env(env)


def is_borrowed(config: EnvConfig) -> bool:
    """Whether the options stand for one environment object that the caller made."""
    return isinstance(entry_of(config).target, _Instance)


def innermost(env: Any) -> list[Any]:
    """The environment objects inside the wrappers of an environment: one, or one for each row."""
    while isinstance(env, TorchVectorEnv) and isinstance(
        inner := getattr(env, "env", None), gymnasium.vector.VectorEnv
    ):
        env = inner
    rows = getattr(getattr(env, "_env", None), "envs", None)  # of the adapter of env=gym, without worker processes
    return [row.unwrapped for row in rows] if rows else [env]


def is_object(config: EnvConfig) -> bool:
    """Whether the options stand for a Python object, class or function, which has no name on the command line."""
    return type(config).__name__ == OBJECT


def _checked(factory: Callable[..., Any]) -> Callable[..., TorchVectorEnv]:
    name = getattr(factory, "__qualname__", factory)
    try:
        inspect.signature(factory).bind(1, "cpu")
    except ValueError:  # some functions in C do not tell their parameters
        pass
    except TypeError as error:
        raise ConfigError(
            f"env={name}: cannot be called as f(num_envs, device), which makes the environment: {error}"
        ) from error

    def make(num_envs: int, device: Any) -> TorchVectorEnv:
        env = factory(num_envs, device)
        if not isinstance(env, TorchVectorEnv) and is_vector_env(env):
            from rmt_rl.envs.gym.adapter import VectorAdapter

            return VectorAdapter(env, device, borrowed=False)
        if not isinstance(env, TorchVectorEnv):
            raise ConfigError(f"env={name}: returned a {type(env).__name__}; expected a TorchVectorEnv")
        return env

    return make


def _vector_factory(cls: type[VectorEnv[Any, Any, Any]]) -> Callable[..., TorchVectorEnv]:
    def make(num_envs: int, device: str | torch.device) -> TorchVectorEnv:
        from rmt_rl.envs.gym.adapter import VectorAdapter

        return VectorAdapter(cls(num_envs=num_envs), device, borrowed=False)  # type: ignore[call-arg]  # as make_vec calls it

    return make


def _gymnasium_factory(cls: type[gymnasium.Env[Any, Any]]) -> Callable[..., TorchVectorEnv]:
    id = f"rmt_rl-object/{cls.__qualname__.replace('.', '-').replace('<locals>-', '')}-v0"

    def make(num_envs: int, device: str | torch.device) -> TorchVectorEnv:
        from rmt_rl.envs.gym.adapter import GymAdapter

        gymnasium.registry.pop(id, None)  # another class of the same name, from an earlier call
        gymnasium.register(id, entry_point=cls)  # type: ignore[arg-type]
        env = GymAdapter(num_envs, device, id=id)
        env.task = f"{cls.__module__}:{cls.__qualname__}"
        return env

    return make
