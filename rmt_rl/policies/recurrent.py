"""LSTM and GRU behind the backbone contract, on torch's own fused modules.

`unroll` cuts the rows at resets and hands the pieces to the fused module as one packed sequence, so that cuDNN or oneDNN
runs the loop over time; a loop in Python with a reset mask is 3 to 5 times slower on a CPU.
"""

from __future__ import annotations

import dataclasses

import torch
from torch import nn
from torch.nn.utils.rnn import PackedSequence

from rmt_rl.common.device import exact_cudnn
from rmt_rl.common.state import map_state, select_rows, where_rows
from rmt_rl.config.policies import GRUConfig, LSTMConfig
from rmt_rl.policies.base import Backbone, parameter_device_and_type


@dataclasses.dataclass(frozen=True)
class RecurrentState:
    """hidden: [B, L, D] output of every layer at the last step.
    cell: [B, L, D] LSTM's cell; [B, L, 0] for a GRU.
    """

    hidden: torch.Tensor
    cell: torch.Tensor


class Recurrent(Backbone[RecurrentState]):
    """nn.LSTM or nn.GRU of the given width; the state of an episode starts at zero."""

    def __init__(self, config: LSTMConfig | GRUConfig) -> None:
        super().__init__()
        width, layers = config.width, config.layers
        self.has_cell = isinstance(config, LSTMConfig)
        self.rnn = (nn.LSTM if self.has_cell else nn.GRU)(width, width, layers)
        self.norm = nn.LayerNorm(width, bias=False)
        parts = 2 if self.has_cell else 1
        kind = "LSTM" if self.has_cell else "GRU"
        self.description = f"{kind} state of {parts * layers * width} numbers, carried from step to step"

    def initial_state(self, batch: int) -> RecurrentState:
        hidden = torch.zeros(batch, self.rnn.num_layers, self.rnn.hidden_size, **parameter_device_and_type(self))
        return RecurrentState(hidden, torch.zeros_like(hidden) if self.has_cell else hidden[:, :, :0])

    def step(
        self, x_BD: torch.Tensor, state: RecurrentState, first_B: torch.Tensor
    ) -> tuple[torch.Tensor, RecurrentState]:
        zero = x_BD.new_zeros(())
        hidden, cell = where_rows(first_B, zero, state.hidden), where_rows(first_B, zero, state.cell)
        y_1BD, state = self._run(x_BD[None], hidden, cell)
        return self.norm(y_1BD[0]), state

    def unroll(
        self, x_BTD: torch.Tensor, state: RecurrentState, first_BT: torch.Tensor
    ) -> tuple[torch.Tensor, RecurrentState]:
        B, T, D = x_BTD.shape
        starts = first_BT.clone()
        starts[:, 0] = True
        piece_row, piece_start = starts.nonzero(as_tuple=True)
        next_start = torch.cat([piece_start[1:], piece_start.new_full((1,), T)])
        next_start = torch.where(next_start > piece_start, next_start, T)  # a row's last piece ends with the row
        length = next_start - piece_start

        outputs, indices, rows, states = [], [], [], []
        # Rows without a reset apart from the others: only where all pieces of a call are equally long does torch take its fused
        # path, which is 3 to 4 times faster on a CPU.
        for group in ((length == T).nonzero().squeeze(1), (length < T).nonzero().squeeze(1)):
            if not len(group):
                continue
            group = group[torch.argsort(length[group], descending=True, stable=True)]
            row, start, steps = piece_row[group], piece_start[group], length[group]
            # step k of the packed sequence holds time start + k of every piece that is longer than k
            k = torch.arange(int(steps[0]), device=row.device)[:, None]
            alive = k < steps
            index = (row * T + start + k)[alive]
            packed = PackedSequence(x_BTD.reshape(B * T, D).index_select(0, index), alive.sum(1).cpu())

            carried = ((start == 0) & ~first_BT[row, 0])[:, None, None]
            zero = x_BTD.new_zeros(())
            hidden = torch.where(carried, state.hidden[row], zero)
            cell = torch.where(carried, state.cell[row], zero)
            y, after = self._run(packed, hidden, cell)
            outputs.append(y)
            indices.append(index)
            ends = (start + steps == T).nonzero().squeeze(1)
            rows.append(row[ends])
            states.append(select_rows(after, ends))
        y_BTD = x_BTD.new_zeros(B * T, D).index_copy(0, torch.cat(indices), torch.cat(outputs)).view(B, T, D)
        order = torch.argsort(torch.cat(rows))
        final = map_state(lambda *parts: torch.cat(parts)[order], states[0], *states[1:])
        return self.norm(y_BTD), final

    def _run(
        self, x: torch.Tensor | PackedSequence, hidden: torch.Tensor, cell: torch.Tensor
    ) -> tuple[torch.Tensor, RecurrentState]:
        hidden = hidden.transpose(0, 1).contiguous()  # torch puts layers on axis 0
        # in evaluation mode cuDNN has no backward pass, which a loaded policy needs when others train it further
        with exact_cudnn(hidden, enabled=self.training or not torch.is_grad_enabled()):
            if self.has_cell:
                y, (hidden, new_cell) = self.rnn(x, (hidden, cell.transpose(0, 1).contiguous()))
                cell = new_cell.transpose(0, 1)
            else:
                y, hidden = self.rnn(x, hidden)
        return y.data if isinstance(y, PackedSequence) else y, RecurrentState(hidden.transpose(0, 1), cell)
