"""What stands for the environment where a policy is trained from recorded episodes alone (env=none)."""

from __future__ import annotations

from typing import Any, NoReturn

import gymnasium
import torch

from rmt_rl.common.errors import ConfigError
from rmt_rl.envs.base import TorchVectorEnv

INSTEAD = "env=none: there is no environment to act in; expected env=<a task>, such as env=gym env.id=<id>"


def no_environment(num_envs: int, device: str | torch.device) -> NoReturn:
    raise ConfigError(INSTEAD)


class RecordedSpaces(TorchVectorEnv):
    """The spaces of recorded episodes, from which networks are built. It cannot be reset or stepped."""

    measure = "return"
    task = "none: recorded episodes alone; no evaluation, so no success, no return and no floor"

    def __init__(
        self,
        device: str | torch.device,
        observations: gymnasium.Space[Any],
        actions: gymnasium.Space[Any],
        action_start: int | list[Any] = 0,
        own_actions: gymnasium.Space[Any] | None = None,
    ) -> None:
        super().__init__(1, device, observations, actions)
        self.action_start, self.own_actions = action_start, own_actions

    def reset(self, **options: Any) -> NoReturn:
        raise ConfigError(INSTEAD)

    def step(self, action_B: torch.Tensor) -> NoReturn:
        raise ConfigError(INSTEAD)
