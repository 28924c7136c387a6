"""The kernels that torch has for one step of an LSTM and a GRU on devices only, in terms of other operations.

A workspace holds what the backward pass needs; its layout is ours. Gates are [B, 4 H] (LSTM) or [B, 3 H] (GRU), states [B, H].
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

aten = torch.ops.aten


def lstm(
    of_input: torch.Tensor, of_hidden: torch.Tensor, cell: torch.Tensor, *biases: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """New hidden state, new cell, workspace."""
    take, keep, candidate, show = sum(biases, of_input + of_hidden).chunk(4, dim=1)
    take, keep, candidate, show = take.sigmoid(), keep.sigmoid(), candidate.tanh(), show.sigmoid()
    new = keep * cell + take * candidate
    return show * new.tanh(), new, torch.cat([take, keep, candidate, show], dim=1)


def lstm_backward(
    of_hidden: torch.Tensor | None,
    of_cell: torch.Tensor | None,
    cell: torch.Tensor,
    new: torch.Tensor,
    workspace: torch.Tensor,
    has_bias: bool,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
    """Gradients of the gates, the cell and the biases."""
    take, keep, candidate, show = workspace.chunk(4, dim=1)
    out = torch.zeros_like(cell) if of_hidden is None else of_hidden
    squashed = new.tanh()
    of_new = out * show * (1 - squashed**2) + (0 if of_cell is None else of_cell)
    of_candidate = of_new * take * (1 - candidate**2)
    slopes = of_new * candidate * take * (1 - take), of_new * cell * keep * (1 - keep), of_candidate
    gates = torch.cat([*slopes, out * squashed * show * (1 - show)], dim=1)
    return gates, of_new * keep, gates.sum(0) if has_bias else None


def gru(
    of_input: torch.Tensor, of_hidden: torch.Tensor, hidden: torch.Tensor, *biases: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """New hidden state, workspace."""
    if biases:
        of_input, of_hidden = of_input + biases[0], of_hidden + biases[1]
    (reset_x, keep_x, new_x), (reset_h, keep_h, new_h) = of_input.chunk(3, dim=1), of_hidden.chunk(3, dim=1)
    reset, keep = (reset_x + reset_h).sigmoid(), (keep_x + keep_h).sigmoid()
    new = (new_x + reset * new_h).tanh()
    return new + keep * (hidden - new), torch.cat([reset, keep, new, hidden, new_h], dim=1)


def gru_backward(gradient: torch.Tensor, workspace: torch.Tensor, has_bias: bool) -> tuple[torch.Tensor | None, ...]:
    """Gradients of the gates of the input and of the hidden state, of the hidden state, and of both biases."""
    reset, keep, new, hidden, new_h = workspace.chunk(5, dim=1)
    of_new = gradient * (1 - keep) * (1 - new**2)
    of_keep = gradient * (hidden - new) * keep * (1 - keep)
    of_reset = of_new * new_h * reset * (1 - reset)
    of_input, of_hidden = (torch.cat([of_reset, of_keep, x], dim=1) for x in (of_new, of_new * reset))
    biases = (of_input.sum(0), of_hidden.sum(0)) if has_bias else (None, None)
    return of_input, of_hidden, gradient * keep, *biases


KERNELS: dict[Any, Callable[..., Any]] = {
    aten._thnn_fused_lstm_cell: lstm,
    aten._thnn_fused_lstm_cell_backward_impl: lstm_backward,
    aten._thnn_fused_gru_cell: gru,
    aten._thnn_fused_gru_cell_backward: gru_backward,
}
