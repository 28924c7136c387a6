"""Returns and advantages: pure functions of tensors."""

from __future__ import annotations

import torch


def gae(
    reward_BT: torch.Tensor,
    value_BT: torch.Tensor,
    next_value_BT: torch.Tensor,
    terminated_BT: torch.Tensor,
    truncated_BT: torch.Tensor,
    gamma: float,
    gae_lambda: float,
) -> torch.Tensor:
    """Generalised advantage estimates [B, T].

        delta_t = r_t + gamma * (1 - terminated_t) * V(s_{t+1}) - V(s_t)
        A_t     = delta_t + gamma * lambda * (1 - terminated_t) * (1 - truncated_t) * A_{t+1}

    next_value_BT: V(s_{t+1}) in the same episode. Where an episode is truncated this is the value of its final
        observation, not of the next episode's first: truncation cuts the sum, but the future is still worth something.
    Source: Schulman et al. 2016 (arXiv 1506.02438), eq. 11 and 16, with the ends spelled out.
    """
    delta_TB = (reward_BT + gamma * next_value_BT * ~terminated_BT - value_BT).t()
    keep_TB = gamma * gae_lambda * (~(terminated_BT | truncated_BT)).to(value_BT.dtype).t()
    advantage_TB = torch.empty_like(delta_TB)
    following = torch.zeros_like(delta_TB[0])
    for t in reversed(range(len(delta_TB))):
        following = torch.addcmul(delta_TB[t], keep_TB[t], following)
        advantage_TB[t] = following
    return advantage_TB.t()
