"""Fast and Forgetful Memory (Morad et al. 2023, arXiv 2310.04128): traces that fade at fixed rates and turn at fixed frequencies.

    S_t = gamma S_{t-1} + x_t,   gamma = exp(-|alpha|) exp(i omega)   for every trace (alpha) and context (omega)

Input and output are gated by the input; nothing in the recurrence depends on it, so a trace cannot be kept on purpose.
Each layer is one FFM cell behind a normalisation, with a residual connection.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import torch
from torch import nn

from rmt_rl.config.recurrences import FFMConfig
from rmt_rl.policies.linear import Linear
from rmt_rl.policies.recurrences.scan import linear_scan
from rmt_rl.policies.recurrences.stack import Layer, Stack

#: At the start the traces fade to a hundredth within 1 to so many steps.
LONGEST = 1024


@dataclasses.dataclass(frozen=True)
class FFMState:
    """traces: [B, L, traces, contexts, 2] real and imaginary parts."""

    traces: torch.Tensor


class FFMLayer(Layer[FFMState]):
    def __init__(self, config: FFMConfig) -> None:
        super().__init__()
        D, self.traces, self.contexts = config.width, config.traces, config.contexts
        self.norm = nn.LayerNorm(D, bias=False)
        self.input, self.input_gate = nn.Linear(D, self.traces), nn.Linear(D, self.traces)
        steps = LONGEST ** torch.linspace(0, 1, self.traces)
        self.fading = nn.Parameter(math.log(100) / steps)
        self.frequency = nn.Parameter(2 * math.pi / LONGEST ** torch.linspace(0, 1, self.contexts))
        self.read = Linear(2 * self.traces * self.contexts, D)
        self.read_norm = nn.LayerNorm(D, elementwise_affine=False)
        self.output_gate, self.skip = nn.Linear(D, D), nn.Linear(D, D)

    def zero_state(self, batch: int, **like: Any) -> FFMState:
        return FFMState(torch.zeros(batch, self.traces, self.contexts, 2, **like))

    def forward(self, x_BTD: torch.Tensor, state: FFMState, first_BT: torch.Tensor) -> tuple[torch.Tensor, FFMState]:
        h = self.norm(x_BTD)
        x_BTN = self.input(h) * self.input_gate(h).sigmoid()
        traces = self._traces(x_BTN[..., None].expand(-1, -1, -1, self.contexts), state.traces, first_BT)
        z = self.read(traces.flatten(2))
        gate = self.output_gate(h).sigmoid()
        y = self.read_norm(z) * gate + self.skip(h) * (1 - gate)
        return x_BTD + y, FFMState(traces[:, -1])

    def _traces(self, x: torch.Tensor, before: torch.Tensor, first_BT: torch.Tensor) -> torch.Tensor:
        """The traces after every step [B, T, traces, contexts, 2], from the inputs [B, T, traces, contexts]."""
        fading = (-self.fading.abs()).exp()[:, None]
        real, imaginary = fading * self.frequency.cos(), fading * self.frequency.sin()
        if (
            x.shape[1] == 1
        ):  # in real numbers, because programs that act may have no complex ones; `before` is 0 at a reset
            a, b = before.unbind(-1)
            return torch.stack([real * a - imaginary * b + x[:, 0], real * b + imaginary * a], dim=-1)[:, None]
        gamma = torch.complex(real, imaginary)
        keep = torch.where(first_BT[..., None, None], gamma.new_zeros(()), gamma)
        state = torch.view_as_complex(before.contiguous())
        traces = linear_scan(keep.transpose(0, 1), x.transpose(0, 1).to(gamma.dtype), state)
        return torch.view_as_real(traces).transpose(0, 1)


class FFM(Stack[FFMState]):
    def __init__(self, config: FFMConfig) -> None:
        numbers = config.layers * config.traces * config.contexts
        super().__init__(
            config.width,
            [FFMLayer(config) for _ in range(config.layers)],
            f"{numbers} complex traces that fade at learned rates",
        )
