"""The backbone contract: a sequence model of vectors, with memory, that acts step by step and learns from whole rows.

`step` acts, `unroll` learns. `python -m rmt_rl.policies.check <name | module:Class>` and the tests hold every backbone to:

- `unroll` equals T calls of `step`: outputs, final state, and the gradients of parameters and of the incoming state, for
  every T, every way to split T into chunks, every pattern of `first` and every starting phase.
- Where `first` is true the incoming state has no influence at all, even if it is NaN.
- Causal in time, independent between rows.
- State is an argument, never an attribute. Its size does not grow with the episode.
"""

from __future__ import annotations

import dataclasses
from typing import Any, Generic, TypeVar

import torch
from torch import nn

StateT = TypeVar("StateT")


class Backbone(nn.Module, Generic[StateT]):
    """Sequence model of width D. A module holds weights and nothing else."""

    #: One line for people: what this backbone remembers.
    description: str = ""
    #: Names of auxiliary losses whose weight rises during the run as `memory.ramp_start` and `memory.ramp_end` say.
    ramped_losses: tuple[str, ...] = ()

    def initial_state(self, batch: int) -> StateT:
        """The state of `batch` rows before their first step: a frozen dataclass of tensors, batch on axis 0 of each."""
        raise NotImplementedError(f"{type(self).__name__} does not define initial_state(batch)")

    def step(self, x_BD: torch.Tensor, state: StateT, first_B: torch.Tensor) -> tuple[torch.Tensor, StateT]:
        """One step of every row: outputs [B, D] and the state after it. first_B: bool, true where an episode begins."""
        raise NotImplementedError(f"{type(self).__name__} does not define step(x, state, first)")

    def unroll(self, x_BTD: torch.Tensor, state: StateT, first_BT: torch.Tensor) -> tuple[torch.Tensor, StateT]:
        """T steps of every row at once: outputs [B, T, D] and the state after the last."""
        raise NotImplementedError(f"{type(self).__name__} does not define unroll(x, state, first)")

    def unroll_with_losses(
        self, x_BTD: torch.Tensor, state: StateT, first_BT: torch.Tensor
    ) -> tuple[torch.Tensor, StateT, dict[str, torch.Tensor]]:
        """`unroll`, and auxiliary losses: scalars by name, already weighted, which the trainer adds to its loss and logs.

        A backbone with auxiliary losses overrides this and defines `unroll` as its first two results.
        """
        return (*self.unroll(x_BTD, state, first_BT), {})

    def between_updates(
        self, x_BTD: torch.Tensor, state: StateT, first_BT: torch.Tensor, generator: torch.Generator
    ) -> None:
        """Called without gradient after every update, with the inputs that it learned from: the only place to change buffers.

        Buffers (for instance centroids that follow an average) are saved with the weights. Does nothing by default.
        """


def has_between_updates(backbone: Backbone[Any]) -> bool:
    """Whether the backbone changes buffers between updates."""
    return type(backbone).between_updates is not Backbone.between_updates


@dataclasses.dataclass(frozen=True)
class NoState:
    """The state of a backbone without memory.

    empty: [B, 0]; it exists only to carry the number of rows.
    """

    empty: torch.Tensor


def parameter_device_and_type(module: nn.Module) -> dict[str, Any]:
    parameter = next(module.parameters())
    return {"device": parameter.device, "dtype": parameter.dtype}
