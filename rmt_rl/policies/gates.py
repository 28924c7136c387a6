"""Gates between 0 and 1."""

from __future__ import annotations

import torch


def hard_sigmoid(logits: torch.Tensor) -> torch.Tensor:
    """A sigmoid that reaches 0 and 1: clamp(1.2 s - 0.1, 0, 1) with s = sigmoid(logits), in the backward pass that of s.

    The stretch is that of hard concrete gates (Louizos et al. 2018, arXiv 1712.01312). Without the straight-through gradient a
    closed gate could not learn to open.
    """
    soft = torch.sigmoid(logits)
    return soft + ((1.2 * soft - 0.1).clamp(0, 1) - soft).detach()


def gate(logits: torch.Tensor, hard: bool) -> torch.Tensor:
    return hard_sigmoid(logits) if hard else torch.sigmoid(logits)
