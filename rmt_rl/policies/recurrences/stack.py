"""A stack of residual layers with a state each: what all recurrences in this folder share.

Shapes: B rows, T steps, L layers, D width, H heads, K numbers of a key, V numbers of a value.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Generic, TypeVar

import torch
from torch import nn
from torch.nn import functional as F

from rmt_rl.common.state import map_state, where_rows
from rmt_rl.policies.base import Backbone, parameter_device_and_type
from rmt_rl.policies.linear import Linear

StateT = TypeVar("StateT")


class Layer(nn.Module, Generic[StateT]):
    """A residual layer: T steps of every row and the state before them to the outputs and the state after them.

    Its state is all zeros where an episode begins. The stack has discarded the incoming state where the first step begins an
    episode; resets at later steps are the layer's own concern.
    """

    def zero_state(self, batch: int, **like: Any) -> StateT:
        """The state of `batch` rows before an episode, with the device and dtype `like`."""
        raise NotImplementedError(f"{type(self).__name__} does not define zero_state(batch, **like)")

    def forward(self, x_BTD: torch.Tensor, state: StateT, first_BT: torch.Tensor) -> tuple[torch.Tensor, StateT]:
        raise NotImplementedError(f"{type(self).__name__} does not define forward(x, state, first)")

    def forward_with_losses(
        self, x_BTD: torch.Tensor, state: StateT, first_BT: torch.Tensor
    ) -> tuple[torch.Tensor, StateT, dict[str, torch.Tensor]]:
        """`forward`, and auxiliary losses: scalars by name, already weighted."""
        return (*self(x_BTD, state, first_BT), {})


class Stack(Backbone[StateT]):
    """Equal layers one after the other. Its state is that of a layer, with the layers on axis 1 of every tensor.

    `step` is `unroll` for one step, so both compute the same; the layers' parallel forms have a short way for one step.
    """

    #: Steps that the layers process at once; longer rows are cut, for layers whose work grows with the square of the steps.
    most_steps: int = 10**9

    def __init__(self, width: int, layers: Sequence[Layer[StateT]], description: str) -> None:
        super().__init__()
        self.layers: Sequence[Layer[StateT]] = nn.ModuleList(layers)  # type: ignore[assignment]
        self.norm = nn.LayerNorm(width, bias=False)
        self.description = description

    def initial_state(self, batch: int) -> StateT:
        like = parameter_device_and_type(self)
        states = [layer.zero_state(batch, **like) for layer in self.layers]
        return map_state(lambda *parts: torch.stack(parts, dim=1), states[0], *states[1:])

    def step(self, x_BD: torch.Tensor, state: StateT, first_B: torch.Tensor) -> tuple[torch.Tensor, StateT]:
        y_B1D, state = self.unroll(x_BD[:, None], state, first_B[:, None])
        return y_B1D[:, 0], state

    def unroll(self, x_BTD: torch.Tensor, state: StateT, first_BT: torch.Tensor) -> tuple[torch.Tensor, StateT]:
        return self._unroll(x_BTD, state, first_BT, losses=False)[:2]

    def unroll_with_losses(
        self, x_BTD: torch.Tensor, state: StateT, first_BT: torch.Tensor
    ) -> tuple[torch.Tensor, StateT, dict[str, torch.Tensor]]:
        return self._unroll(x_BTD, state, first_BT, losses=True)

    def _unroll(
        self, x_BTD: torch.Tensor, state: StateT, first_BT: torch.Tensor, losses: bool
    ) -> tuple[torch.Tensor, StateT, dict[str, torch.Tensor]]:
        """Chunk after chunk; auxiliary losses are summed over layers and averaged over chunks, and empty if not wanted."""
        chunks, found = [], list[dict[str, torch.Tensor]]()
        for begin in range(0, x_BTD.shape[1], self.most_steps):
            here = slice(begin, begin + self.most_steps)
            y, state, own = self._chunk(x_BTD[:, here], state, first_BT[:, here], losses)
            chunks.append(y)
            found += own
        names = dict.fromkeys(name for own in found for name in own)
        sums = {name: sum((own[name] for own in found), x_BTD.new_zeros(())) / len(chunks) for name in names}
        return chunks[0] if len(chunks) == 1 else torch.cat(chunks, dim=1), state, sums

    def _chunk(
        self, x_BTD: torch.Tensor, state: StateT, first_BT: torch.Tensor, losses: bool
    ) -> tuple[torch.Tensor, StateT, list[dict[str, torch.Tensor]]]:
        """Outputs and state after some steps, and the auxiliary losses of every layer if they are wanted."""
        # by selection, never by multiplication: what is discarded may be NaN
        state = map_state(lambda s: where_rows(first_BT[:, 0], s.new_zeros(()), s), state)
        after, found = [], []
        for number, layer in enumerate(self.layers):
            before = map_state(lambda v, n=number: v[:, n], state)
            if losses:
                x_BTD, s, own = layer.forward_with_losses(x_BTD, before, first_BT)
                found.append(own)
            else:
                x_BTD, s = layer(x_BTD, before, first_BT)
            after.append(s)
        return self.norm(x_BTD), map_state(lambda *parts: torch.stack(parts, dim=1), after[0], *after[1:]), found


def episode_starts(first_BT: torch.Tensor) -> torch.Tensor:
    """[B, T]: the step with which the episode of each step began; -1 where it began before these steps."""
    step = torch.arange(first_BT.shape[1], device=first_BT.device)
    starts = torch.where(first_BT, step, -1)
    return starts if starts.shape[1] == 1 else starts.cummax(1).values  # ONNX has no cummax, and acting needs none


def previous(h_BTD: torch.Tensor, last_BD: torch.Tensor, first_BT: torch.Tensor) -> torch.Tensor:
    """The step before each step (token shift, RWKV, arXiv 2305.13048); zero where an episode begins.

    last: the step before the first one, discarded already where it does not count.
    """
    if h_BTD.shape[1] == 1:
        return last_BD[:, None]
    before = torch.cat([last_BD[:, None], h_BTD[:, :-1]], dim=1)
    return torch.where(first_BT[..., None], before.new_zeros(()), before)


class TokenShift(nn.Module):
    """x_t + mix * (x_{t-1} - x_t), with a learned share of the step before for each channel, 1/2 at the start."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.mix = nn.Parameter(torch.full((width,), 0.5))

    def forward(self, h_BTD: torch.Tensor, last_BD: torch.Tensor, first_BT: torch.Tensor) -> torch.Tensor:
        return torch.lerp(h_BTD, previous(h_BTD, last_BD, first_BT), self.mix)


class FeedForward(nn.Module):
    """x + W2 SiLU(W1 LayerNorm(x)) with 4 D hidden units, near the identity at the start."""

    def __init__(self, width: int, layers: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width, bias=False)
        self.up, self.down = Linear(width, 4 * width, bias=False), small(Linear(4 * width, width, bias=False), layers)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.down(F.silu(self.up(self.norm(x))))


def small(linear: Linear, layers: int) -> Linear:
    """The last matrix of a residual branch, with weights so small that each of `layers` layers starts near the identity."""
    nn.init.normal_(linear.weight, std=0.1 / layers**0.5)
    return linear
