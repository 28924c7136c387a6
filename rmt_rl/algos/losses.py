"""Losses: pure functions of tensors, no options object, no logging."""

from __future__ import annotations

import torch


def clipped_surrogate(log_ratio: torch.Tensor, advantage: torch.Tensor, clip: float) -> torch.Tensor:
    """PPO's policy loss, the mean of -min(r A, clamp(r, 1 - clip, 1 + clip) A) with r = exp(log_ratio).

    Source: Schulman et al. 2017 (arXiv 1707.06347), eq. 7.
    """
    ratio = log_ratio.exp()
    return -torch.min(ratio * advantage, ratio.clamp(1 - clip, 1 + clip) * advantage).mean()


def value_loss(value: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Half of the mean squared error; targets are not differentiated."""
    return 0.5 * (value - target.detach()).square().mean()


def standardise(advantage: torch.Tensor, floor: float, among: torch.Tensor | None = None) -> torch.Tensor:
    """Advantages with mean 0 and deviation 1 over all elements; a deviation below `floor` is replaced by `floor`.

    among: the advantages whose mean and deviation count, of which these are a part; None = these.

    The floor is ours. When all episodes of a batch have the same result, the advantages contain only the error of the
    value function; scaled up to deviation 1 it can destroy a solved policy in one update (docs/tmaze.md).
    """
    among = advantage if among is None else among
    return (advantage - among.mean()) / among.std(correction=min(1, among.numel() - 1)).clamp(min=floor)


def approximate_kl(log_ratio: torch.Tensor) -> torch.Tensor:
    """Mean of r - 1 - log r, an estimate of KL(old || new) that is never negative (Schulman 2020, "k3")."""
    return (log_ratio.expm1() - log_ratio).mean()
