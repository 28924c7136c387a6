"""What a policy is built from, as one frozen object; as plain values only in config.json."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import gymnasium
import numpy as np

from rmt_rl.common.errors import ConfigError
from rmt_rl.config.bases import EnvConfig, PolicyConfig
from rmt_rl.config.commands import ReturnConditioning
from rmt_rl.config.fields import show
from rmt_rl.config.files import FORMAT, check_format, part_from_dict, to_dict
from rmt_rl.config.memory import MemoryConfig
from rmt_rl.config.registry import GROUPS, OBJECTS, load_entry_points
from rmt_rl.config.trust import Source
from rmt_rl.envs.actions import ActionTranslation
from rmt_rl.envs.base import TorchVectorEnv
from rmt_rl.envs.masks import check_mask, has_mask
from rmt_rl.policies import spaces
from rmt_rl.policies.moments import ActionScale

#: For specs that other programs, such as huggingface_hub, read from a config.json.
UNKNOWN = Source("config.json")

#: Version of the rules by which encoder and head are chosen from the spaces. 1, in files without it: an action mask is an
#: observation like any other.
RULES = 2


@dataclasses.dataclass(frozen=True)
class UnregisteredEnv:
    """The task of a policy, where the module that registers it is not imported. The policy acts all the same."""

    name: str
    saved: Mapping[str, Any]


@dataclasses.dataclass(frozen=True)
class PolicySpec:
    """policy: options of the network. observation_space, action_space: of one row.

    action_scale: units of actions without bounds, from recorded actions; None where there were none, as in online training.
    action_start: what the environment itself adds to the whole numbers of an action: one number, or one for each element.
    own_actions: the action space of the environment itself, where `action_space` is another and action_start does not tell the
    difference.
    env, memory, returns: the task that the policy is trained on, how long its memory lasts there, and its target return, or None
    where it is not return-conditioned. source: the file that it was read from, which may name no modules; None where Python
    made it. rules: the version of the rules by which encoder and head are chosen from the spaces (`RULES`).
    """

    policy: PolicyConfig
    observation_space: gymnasium.Space[Any]
    action_space: gymnasium.Space[Any]
    env: EnvConfig | UnregisteredEnv
    memory: MemoryConfig = dataclasses.field(default_factory=MemoryConfig)
    returns: ReturnConditioning | None = None
    source: Source | None = dataclasses.field(default=None, compare=False)
    action_start: int | list[Any] = 0
    action_scale: ActionScale | None = None
    rules: int = RULES
    own_actions: gymnasium.Space[Any] | None = None

    @property
    def masked(self) -> bool:
        """Whether the observations have an action mask; raises ConfigError where it does not fit the actions."""
        if self.rules < 2:
            return False
        check_mask(self.observation_space, self.action_space)
        return has_mask(self.observation_space, self.action_space)

    def to_json(self) -> dict[str, Any]:
        """Plain values, which `from_json` reads again."""
        return {
            "format": FORMAT,
            "policy": to_dict(self.policy),
            "observation_space": spaces.to_json(self.observation_space),
            "action_space": spaces.to_json(self.action_space),
            "action_start": self.action_start,
            "action_scale": None if self.action_scale is None else self.action_scale.to_json(),
            "own_actions": None if self.own_actions is None else spaces.to_json(self.own_actions, own=True),
            "rules": self.rules,
            "env": dict(self.env.saved) if isinstance(self.env, UnregisteredEnv) else to_dict(self.env),
            "memory": to_dict(self.memory),
            "returns": None if self.returns is None else to_dict(self.returns),
        }

    @staticmethod
    def from_json(saved: Mapping[str, Any], source: Source = UNKNOWN) -> PolicySpec:
        """The reverse of `to_json`, validated. Raises ConfigError, KeyError or TypeError where `saved` is something else."""
        check_format(saved.get("format", 1), "spec.")
        known = {"format", *(field.name for field in dataclasses.fields(PolicySpec))} - {"source"}
        if unknown := saved.keys() - known:
            raise ConfigError(f"spec.{show(sorted(map(str, unknown))[0])}: this version of rmt_rl does not know it")
        returns, actions = saved.get("returns"), spaces.from_json(saved["action_space"])
        own = _own_from_json(saved.get("own_actions"), saved["action_space"])
        return PolicySpec(
            policy=part_from_dict("policy", saved["policy"]),
            observation_space=spaces.from_json(saved["observation_space"]),
            action_space=actions,
            env=_env_from_json(saved["env"]),
            memory=part_from_dict("memory", saved["memory"]),
            returns=None if returns is None else part_from_dict("returns", returns),
            source=source,
            action_start=_start_from_json(saved.get("action_start", 0)),
            # absent in files of earlier versions, whose networks count from 0 in units of 1
            action_scale=ActionScale.from_json(saved.get("action_scale"), math.prod(actions.shape or ())),
            rules=check_rules(saved.get("rules", 1)),
            own_actions=own,
        )


def check_rules(rules: Any) -> int:
    """The version of the rules in a file; raises ConfigError where this code does not have them."""
    if type(rules) is not int or not 1 <= rules <= RULES:
        raise ConfigError(f"spec.rules={show(rules)}: expected a whole number from 1 to {RULES}")
    return rules


def _own_from_json(own: Any, actions: Any) -> gymnasium.Space[Any] | None:
    if own is None:
        return None
    space = spaces.from_json(own)
    if spaces.to_json(ActionTranslation(space).space) != spaces.to_json(spaces.from_json(actions)):
        raise ConfigError("spec.own_actions: is not the environment's form of spec.action_space")
    return space


def _start_from_json(start: Any) -> int | list[Any]:
    array = np.asarray(start)
    if array.dtype.kind != "i":
        raise ConfigError(f"spec.action_start={show(start)}: expected whole numbers")
    found: int | list[Any] = array.tolist()
    return found


def _env_from_json(saved: Any) -> EnvConfig | UnregisteredEnv:
    name = saved.get("name") if isinstance(saved, Mapping) else None
    if isinstance(name, str) and "<" in name:  # a lambda, or made in a function: others may have the same name
        return UnregisteredEnv(name, saved)
    if isinstance(name, str) and name not in GROUPS["env"] | OBJECTS:
        load_entry_points()
        if name not in GROUPS["env"]:
            return UnregisteredEnv(name, saved)
    env: EnvConfig = part_from_dict("env", saved)
    return env


def make_spec(
    env: TorchVectorEnv,
    env_config: EnvConfig | UnregisteredEnv,
    policy_config: PolicyConfig,
    memory: MemoryConfig | None = None,
    returns: ReturnConditioning | None = None,
    action_scale: ActionScale | None = None,
    rules: int = RULES,
) -> PolicySpec:
    """What an `ActorCritic` for this environment is built from."""
    # as they are read from a file again: in the same order of keys, without what no policy uses. Raises for unsupported spaces.
    observations, actions = (
        spaces.from_json(spaces.to_json(space)) for space in (env.single_observation_space, env.single_action_space)
    )
    return PolicySpec(
        policy_config,
        observations,
        actions,
        env_config,
        memory or MemoryConfig(),
        returns,
        action_start=env.action_start,
        action_scale=action_scale,
        rules=rules,
        own_actions=env.own_actions,
    )
