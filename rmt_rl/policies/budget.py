"""How wide a policy must be to have a given number of parameters."""

from __future__ import annotations

import bisect
import dataclasses
from typing import Any

import torch

from rmt_rl.common.errors import ConfigError
from rmt_rl.config.bases import EnvConfig
from rmt_rl.envs.base import TorchVectorEnv
from rmt_rl.policies.actor_critic import ActorCritic
from rmt_rl.policies.spec import UnregisteredEnv, make_spec

WIDEST = 16_384


def fit_width(env: TorchVectorEnv, env_config: EnvConfig | UnregisteredEnv, policy_config: Any) -> Any:
    """The policy's options with the width for which the whole network comes nearest to `params` parameters.

    Unchanged where params is None. Raises ConfigError where the nearest is more than a tenth off: where the narrowest network is
    too large, the widest too small, or the possible widths are too far apart.
    """
    if policy_config.params is None:
        return policy_config
    unit = policy_config.width_multiple()

    def with_width(units: int) -> Any:
        return dataclasses.replace(policy_config, width=units * unit)

    def parameters(units: int) -> int:
        with torch.device("meta"):  # shapes without numbers
            policy = ActorCritic(make_spec(env, env_config, with_width(units)))
        return sum(p.numel() for p in policy.parameters())

    sizes = range(1, WIDEST // unit + 1)
    above = sizes[min(bisect.bisect_left(sizes, policy_config.params, key=parameters), len(sizes) - 1)]
    nearest = min({max(1, above - 1), above}, key=lambda units: abs(parameters(units) - policy_config.params))
    count = parameters(nearest)
    if abs(count - policy_config.params) > 0.1 * policy_config.params:
        around = sorted({max(1, above - 1), above})
        found = " and ".join(f"{parameters(units):,} at width {units * unit}" for units in around)
        advice = f"; widths are multiples of {unit}, fewer policy.heads make them finer" if unit > 1 else ""
        raise ConfigError(
            f"policy.params={policy_config.params}: no width comes within a tenth of it; this task has {found}{advice}"
        )
    return dataclasses.replace(with_width(nearest), params=None)
