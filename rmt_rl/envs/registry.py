"""Environments by name: one line each here, and their options in `config.py`. Importing this does not import torch.

Not for a list of gymnasium's environments; those are reached as `gym` with their id.
"""

from __future__ import annotations

import dataclasses
import importlib
from typing import TYPE_CHECKING, Any

import gymnasium

from rmt_rl.config import (
    ConfigError,
    Memory,
    MiniGridMemory,
    Returns,
    choose,
    did_you_mean,
    options,
    read,
    size_and_random,
    validate,
)

if TYPE_CHECKING:
    import torch

    from rmt_rl.envs.base import TorchVectorEnv

ENVIRONMENTS = {
    "minigrid-memory": "rmt_rl.envs.minigrid_memory:MiniGridMemory",
    "minigrid-doorkey": "rmt_rl.envs.minigrid_doors:DoorKey",
    "minigrid-redbluedoors": "rmt_rl.envs.minigrid_doors:RedBlueDoors",
    "tmaze": "rmt_rl.envs.tmaze:TMaze",
    "tmaze-active": "rmt_rl.envs.tmaze_variants:TMazeActive",
    "tmaze-rate": "rmt_rl.envs.tmaze_variants:TMazeRATE",
    "tmaze-trial": "rmt_rl.envs.tmaze_variants:TMazeTrial",
    "memory-len": "rmt_rl.envs.memory_len:MemoryLen",
    "copy": "rmt_rl.envs.copy_task:Copy",
    "associative-retrieval": "rmt_rl.envs.associative_retrieval:AssociativeRetrieval",
    "detect": "rmt_rl.envs.facts:Detect",
    "reasoning": "rmt_rl.envs.facts:Reasoning",
    "repeat-first": "rmt_rl.envs.repeat:RepeatFirst",
    "repeat-previous": "rmt_rl.envs.repeat:RepeatPrevious",
    "bandit": "rmt_rl.envs.bandit:Bandit",
    "dark-room": "rmt_rl.envs.dark_room:DarkRoom",
    "gym": "rmt_rl.envs.gym_adapter:GymAdapter",
}

GYMNASIUM_IDS = {
    f"rmt_rl/{target.partition(':')[2]}-v0": name for name, target in ENVIRONMENTS.items() if name != "gym"
}


def make_env(
    name: str, num_envs: int = 1, device: str | torch.device = "cpu", memory: Memory | None = None, **given: Any
) -> TorchVectorEnv:
    """`num_envs` rows of the environment called `name`; the options are those of its dataclass in `config.py`.

    make_env("tmaze", 64, length=100)
    make_env("minigrid-memory", 64, id="MiniGrid-MemoryS13Random-v0", view=7)
    make_env("gym", 16, id="CartPole-v1", options={"max_episode_steps": 200})
    make_env("tmaze", 64, memory=config.Memory(scope="trial", episodes=4))    # see `envs/scope.py`
    """
    cls = choose("env", name)
    allowed = options(cls)
    for key in given:
        if key not in allowed:
            hint = did_you_mean(key, allowed)
            raise ConfigError(f"env.{key}: no such option; {name} has {', '.join(allowed)}{hint}")
    values = {key: read(f"env.{key}", allowed[key], value) for key, value in given.items()}
    if cls is MiniGridMemory and values.get("id") is not None:
        # here and not only in validate, which cannot tell size=7 that was given from size=7 by default
        size_and_random(values["id"], {key: values[key] for key in ("size", "random") if key in values})
    return make_from_config(cls(**values), num_envs, device, memory)


def make_from_config(
    env: Any,
    num_envs: int = 1,
    device: str | torch.device = "cpu",
    memory: Memory | None = None,
    evaluation: bool = False,
    returns: Returns | None = None,
) -> TorchVectorEnv:
    """`num_envs` rows of the environment that one of the dataclasses in `config.py` describes.

    memory: where memory is reset; None = after every episode. evaluation: a run that never ends is cut into trials.
    returns: what the policy is asked for; None = it is not asked.
    """
    env = validate(env, "env.")
    values = {field.name: getattr(env, field.name) for field in dataclasses.fields(env) if field.name != "name"}
    if isinstance(env, MiniGridMemory):
        del values["id"]  # validate has turned it into size and random
    tile = values.pop("tile", 0)
    module, cls = ENVIRONMENTS[env.name].split(":")
    made: TorchVectorEnv = getattr(importlib.import_module(module), cls)(num_envs, device, **values)
    if tile:
        from rmt_rl.envs.minigrid_pixels import MiniGridPixels

        made = MiniGridPixels(made, tile)
    if returns is not None:
        from rmt_rl.envs.returns import ReturnToGo

        made = ReturnToGo(made, returns)
    if memory is None:
        return made
    if not isinstance(memory, Memory):
        raise ConfigError(
            f"memory={memory!r}: expected a rmt_rl.config.Memory, such as Memory(scope='trial', episodes=4)"
        )
    memory = validate(memory, "memory.")
    if memory.scope == "episode":
        return made
    from rmt_rl.envs.scope import MemoryScope

    return MemoryScope(made, None if memory.scope == "run" and not evaluation else memory.episodes)


def register_with_gymnasium() -> None:
    """Make ours known to `gymnasium.make_vec(id, num_envs, device=..., **options)`.

    `gymnasium.make` says that there is no single environment. MiniGridMemory's option `id` cannot be given to make_vec,
    whose own first argument has that name; give size and random.
    """
    for id, name in GYMNASIUM_IDS.items():
        if id not in gymnasium.registry:
            gymnasium.register(id, vector_entry_point=f"{__name__}:make_env", kwargs={"name": name})
