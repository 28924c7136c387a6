"""The backbone contract: what turns a sequence of vectors into a sequence of vectors with memory.

Two doors, `step` for acting and `unroll` for learning, and no third. `tests/contract/test_backbones.py` holds every
registered backbone to these promises:

- `unroll` equals T calls of `step`: outputs, final state, and the gradients of parameters and of the incoming state, for
  every T, every chunking of T, every pattern of `first` and every starting phase.
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
    memory: str = ""

    def initial_state(self, batch: int) -> StateT:
        """The state of `batch` rows before their first step."""
        raise NotImplementedError(f"{type(self).__name__} has no initial state")

    def step(self, x_BD: torch.Tensor, state: StateT, first_B: torch.Tensor) -> tuple[torch.Tensor, StateT]:
        """One step of every row: outputs [B, D] and the state after it."""
        raise NotImplementedError(f"{type(self).__name__} cannot step")

    def unroll(self, x_BTD: torch.Tensor, state: StateT, first_BT: torch.Tensor) -> tuple[torch.Tensor, StateT]:
        """T steps of every row at once: outputs [B, T, D] and the state after the last."""
        raise NotImplementedError(f"{type(self).__name__} cannot unroll")


@dataclasses.dataclass(frozen=True)
class NoState:
    """The state of a backbone that remembers nothing.

    empty: [B, 0]; there only so that the number of rows can be read off it.
    """

    empty: torch.Tensor


def parameter_device_and_type(module: nn.Module) -> dict[str, Any]:
    parameter = next(module.parameters())
    return {"device": parameter.device, "dtype": parameter.dtype}
