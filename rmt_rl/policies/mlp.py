"""The control without memory: a task that it cannot learn, but the others can, needs memory."""

from __future__ import annotations

import torch
from torch import nn

from rmt_rl.config.policies import MLPConfig
from rmt_rl.policies.base import Backbone, NoState, parameter_device_and_type
from rmt_rl.policies.linear import Linear


class MLP(Backbone[NoState]):
    """`layers` residual hidden layers on the present input."""

    def __init__(self, config: MLPConfig) -> None:
        super().__init__()
        width = config.width
        self.layers = nn.ModuleList(
            nn.Sequential(nn.LayerNorm(width, bias=False), Linear(width, width), nn.SiLU())
            for _ in range(config.layers)
        )
        self.norm = nn.LayerNorm(width, bias=False)
        self.description = "none: the control that shows which score is possible without memory"

    def initial_state(self, batch: int) -> NoState:
        return NoState(torch.zeros(batch, 0, **parameter_device_and_type(self)))

    def step(self, x_BD: torch.Tensor, state: NoState, first_B: torch.Tensor) -> tuple[torch.Tensor, NoState]:
        return self._forward(x_BD), state

    def unroll(self, x_BTD: torch.Tensor, state: NoState, first_BT: torch.Tensor) -> tuple[torch.Tensor, NoState]:
        return self._forward(x_BTD), state

    def _forward(self, x: torch.Tensor) -> torch.Tensor:
        for layer in self.layers:
            x = x + layer(x)
        return self.norm(x)
