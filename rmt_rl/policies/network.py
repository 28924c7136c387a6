"""Observations and previous actions through a memory: the part that an actor has, and a critic of its own once more."""

from __future__ import annotations

import dataclasses
from typing import Any

import gymnasium
import torch
from torch import nn

from rmt_rl.common.errors import ConfigError
from rmt_rl.common.state import Obs, leaves
from rmt_rl.config.bases import PolicyConfig
from rmt_rl.config.fields import did_you_mean, show
from rmt_rl.envs.masks import KEY
from rmt_rl.policies.base import Backbone
from rmt_rl.policies.encoders import ObservationEncoder
from rmt_rl.policies.registry import encoder_maker, make_backbone
from rmt_rl.policies.rmt_state import RMTState


@dataclasses.dataclass(frozen=True)
class Memories:
    """The memory of a policy with a critic of its own: the states of two backbones."""

    actor: Any
    critic: Any


def memories_in(memory: Any) -> list[Any]:
    """The states of backbones in the memory of a policy."""
    return [memory.actor, memory.critic] if isinstance(memory, Memories) else [memory]


def remembering(memory: torch.Tensor) -> torch.Tensor:
    """The numbers of an RMT's memory that remember something; the last column of a memory in the layers only counts."""
    return memory[..., :-1] if memory.dim() == 4 else memory


def remembered(memory: Any) -> list[torch.Tensor]:
    """What the actor remembers, out of the memory of a policy: its memory tokens where it has them, otherwise all real numbers.

    An RMT's keys and values of the present segment do not count.
    """
    actor = memories_in(memory)[0]
    tensors = leaves(actor)
    if isinstance(actor, RMTState) and actor.memory.numel():
        return [remembering(actor.memory)]
    own = [x for name, x in tensors.items() if name.endswith(".memory")]
    return [x for x in own or tensors.values() if x.is_floating_point() and x.numel()]


def critic_only_entries(config: PolicyConfig, space: gymnasium.Space[Any], masked: bool) -> set[str]:
    """The entries of an observation that the actor does not see; raises ConfigError where there are no such entries.

    A name stands for an entry, or for all entries of a Dict with that name inside the environment's Dict ("state.position").
    """
    if config.critic_only is None:
        return set()
    given = f"policy.critic_only={show(config.critic_only)}"
    if not isinstance(space, gymnasium.spaces.Dict):
        raise ConfigError(
            f"{given}: the observation has no entries, it is {' '.join(str(space).split())}; expected a Dict observation"
            " (env=gym: env.add_info=<name> adds an entry of info)"
        )
    chosen: set[str] = set()
    for name in config.critic_only.split(","):
        found = {entry for entry in space if entry == name or entry.startswith(f"{name}.")}
        if not found:
            raise ConfigError(
                f"{given}: the observation has no entry {name}, it has {', '.join(space)}{did_you_mean(name, space)}"
            )
        chosen |= found
    if masked and KEY in chosen:
        raise ConfigError(f"{given}: the actor needs {KEY}; leave it out")
    if chosen | ({KEY} if masked else set()) == {*space}:
        raise ConfigError(
            f"{given}: names all that there is to see; expected at least one entry beside it for the actor"
        )
    return chosen


class Network(nn.Module):
    """Encoder, embedding of the previous action, and backbone."""

    encoder: ObservationEncoder
    backbone: Backbone[Any]

    def add_encoder(self, config: PolicyConfig, space: gymnasium.Space[Any], rules: int) -> None:
        """The encoder for observations of `space`."""
        width, normalize = config.width, config.normalize_observation  # type: ignore[attr-defined]
        self.encoder = ObservationEncoder(space, width, normalize, rules, encoder_maker(config))

    def add_memory(self, config: PolicyConfig, action_numbers: int) -> None:
        """All behind the encoder; previous actions are vectors of `action_numbers` numbers."""
        width = config.width  # type: ignore[attr-defined]
        if config.previous_action:
            self.action_embedding = nn.Linear(action_numbers, width, bias=False)
            self.no_action = nn.Parameter(torch.randn(width))  # stands for "an episode begins"
            nn.init.normal_(self.action_embedding.weight)
        self.norm = nn.LayerNorm(width, bias=False)
        self.backbone = make_backbone(config)

    def embed(self, obs: Obs, previous: torch.Tensor | None, first: torch.Tensor) -> torch.Tensor:
        """Inputs [..., D] of the backbone. previous: [..., numbers] the previous action; None where it is no input."""
        x = self.encoder(obs)
        if previous is not None:
            x = x + torch.where(first[..., None], self.no_action, self.action_embedding(previous))
        return self.norm(x)


class Critic(Network):
    """A second network of the same kind and size, for the values alone. Its gradient reaches nothing of the actor."""

    def __init__(self, config: PolicyConfig, space: gymnasium.Space[Any], rules: int, action_numbers: int) -> None:
        super().__init__()
        self.add_encoder(config, space, rules)
        self.add_memory(config, action_numbers)
