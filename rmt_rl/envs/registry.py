"""Makes environments by name or from their option dataclasses. Importing this does not import torch."""

from __future__ import annotations

import numbers
from typing import TYPE_CHECKING, Any

from rmt_rl.common.errors import ConfigError
from rmt_rl.config.bases import EnvConfig
from rmt_rl.config.commands import ReturnConditioning
from rmt_rl.config.envs import BUILTIN as BUILTIN
from rmt_rl.config.fields import did_you_mean, options, show
from rmt_rl.config.memory import MemoryConfig
from rmt_rl.config.registry import choose, entry_of
from rmt_rl.config.resolve import change, validate

if TYPE_CHECKING:
    import torch

    from rmt_rl.envs.base import TorchVectorEnv


def make_env(
    name: str, num_envs: int = 1, device: str | torch.device = "cpu", memory: MemoryConfig | None = None, **given: Any
) -> TorchVectorEnv:
    """`num_envs` rows of the environment `name`. given: its options, the fields of its dataclass in rmt_rl.config.

    make_env("tmaze", 64, length=100)
    make_env("minigrid-memory", 64, id="MiniGrid-MemoryS13Random-v0", view=7)
    make_env("gym", 16, id="CartPole-v1", options={"max_episode_steps": 200})
    make_env("tmaze", 64, memory=MemoryConfig(scope="trial", episodes=4))    # memory across episodes

    Raises ConfigError for an unknown name or option and for a value that is not allowed.
    """
    return make_from_config(env_options(name, given), num_envs, device, memory)


def env_options(name: str, given: dict[str, Any]) -> EnvConfig:
    """The option dataclass of the environment `name`; raises ConfigError."""
    cls: Any = choose("env", name).config
    known = options(cls)
    for key in given:
        if key not in known:
            hint = did_you_mean(key, known)
            raise ConfigError(f"env.{key}: no such option; {name} has {', '.join(known)}{hint}")
    config: EnvConfig = change(cls(), "env", {f"env.{key}": value for key, value in given.items()})
    return config


def make_from_config(
    env: EnvConfig,
    num_envs: int = 1,
    device: str | torch.device = "cpu",
    memory: MemoryConfig | None = None,
    evaluation: bool = False,
    returns: ReturnConditioning | None = None,
) -> TorchVectorEnv:
    """`num_envs` rows of the environment that an option dataclass of rmt_rl.config describes.

    memory: when the policy's memory is reset; None = after every episode. evaluation: with memory.scope=run, use trials
    of memory.episodes episodes, because a run never ends. returns: the target return of a return-conditioned policy;
    None = the policy is not return-conditioned.
    """
    from rmt_rl.common.device import choose_device

    if not isinstance(env, EnvConfig):
        raise ConfigError(f"env={show(env)}: expected the options of an environment, such as TMazeConfig(length=20)")
    if isinstance(num_envs, bool) or not isinstance(num_envs, numbers.Integral) or num_envs < 1:
        raise ConfigError(f"num_envs is {show(num_envs)}; it must be a whole number, at least 1")
    env, device = validate(env, "env."), choose_device(device)
    target = entry_of(env).load()
    made: TorchVectorEnv = target(int(num_envs), device, **env.arguments())
    if made.num_envs != num_envs and not getattr(target, "borrowed", False):
        raise ConfigError(f"env={env.name}: made {made.num_envs} rows; expected num_envs={num_envs}")
    return wrap(made, memory, evaluation, returns)


def wrap(
    env: TorchVectorEnv,
    memory: MemoryConfig | None = None,
    evaluation: bool = False,
    returns: ReturnConditioning | None = None,
) -> TorchVectorEnv:
    """`env` with the return-to-go in its observation and with episodes joined to trials; see `make_from_config`."""
    if returns is not None:
        from rmt_rl.envs.wrappers.return_to_go import ReturnToGo

        env = ReturnToGo(env, returns)
    if memory is None:
        return env
    if not isinstance(memory, MemoryConfig):
        raise ConfigError(
            f"memory={memory!r}: expected a rmt_rl.config.MemoryConfig, such as MemoryConfig(scope='trial', episodes=4)"
        )
    memory = validate(memory, "memory.")
    if memory.scope == "episode":
        return env
    from rmt_rl.envs.wrappers.memory_scope import MemoryScope

    return MemoryScope(env, None if memory.scope == "run" and not evaluation else memory.episodes)
