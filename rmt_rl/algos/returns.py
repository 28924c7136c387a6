"""Advantages of a rollout, and the scale of returns over a run."""

from __future__ import annotations

import math
from typing import Any

import torch

from rmt_rl.common.state import check_count, check_tensor


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
        observation, not of the next episode's first: truncation ends the sum, but the state after it still has a value.
    Values of states that do not count, after a termination or of the next episode, have no influence even where they are NaN.
    Source: Schulman et al. 2016 (arXiv 1506.02438), eq. 11 and 16. The terms for termination and truncation are ours.
    """
    delta_TB = (reward_BT + torch.where(terminated_BT, 0.0, gamma * next_value_BT) - value_BT).t()
    ended_TB = (terminated_BT | truncated_BT).t()
    keep = torch.full_like(delta_TB[0], gamma * gae_lambda)
    advantage_TB = torch.empty_like(delta_TB)
    following = torch.zeros_like(delta_TB[0])
    for t in reversed(range(len(delta_TB))):
        following = torch.where(ended_TB[t], delta_TB[t], torch.addcmul(delta_TB[t], keep, following))
        advantage_TB[t] = following
    return advantage_TB.t()


class ReturnDeviation:
    """Standard deviation of the discounted return, over all steps of a run so far.

    The return is that of the past, from the start of the episode:

        G_t = r_t + gamma * G_{t-1}

    Rewards divided by its deviation give value targets of about 1 on any task, so one weight of the value loss fits all tasks.
    Source: the reward scaling of PPO's reference code, as described by Engstrom et al. 2020 (arXiv 2005.12729), section 3;
    gymnasium's NormalizeReward is the same. Means and squares of batches are combined as in Chan et al. 1979.
    """

    def __init__(self, gamma: float) -> None:
        self.gamma, self.steps, self.mean, self.squares = gamma, 0, 0.0, 0.0
        self.past_B: torch.Tensor | None = None  # G of each row's current episode

    def add(self, reward_BT: torch.Tensor, first_BT: torch.Tensor) -> float:
        """Add steps and return the deviation, or 1 while all returns are equal. first_BT: an episode starts here."""
        none = torch.zeros_like(reward_BT[:, 0], dtype=torch.float64)
        past_B = none if self.past_B is None else self.past_B.to(none.device)  # a checkpoint holds it on the CPU
        columns = []
        for reward_B, first_B in zip(reward_BT.double().unbind(1), first_BT.unbind(1), strict=True):
            past_B = reward_B + self.gamma * past_B * ~first_B
            columns.append(past_B)
        self.past_B = past_B
        returns = torch.stack(columns)
        steps, mean = returns.numel(), float(returns.mean())
        total, difference = self.steps + steps, mean - self.mean
        self.squares += float((returns - mean).square().sum()) + difference**2 * self.steps * steps / total
        self.mean += difference * steps / total
        self.steps = total
        return (self.squares / self.steps) ** 0.5 or 1.0

    def state_dict(self) -> dict[str, Any]:
        return {"steps": self.steps, "mean": self.mean, "squares": self.squares, "past": self.past_B}

    def load_state_dict(self, state: dict[str, Any], rows: int) -> None:
        """rows: B of the environment, whose returns are continued."""
        steps, mean, squares = check_count("steps", state["steps"]), float(state["mean"]), float(state["squares"])
        if not (math.isfinite(mean) and math.isfinite(squares) and squares >= 0):
            raise ValueError(
                f"mean {mean} and squares {squares} of the returns; expected finite numbers, squares at least 0"
            )
        past = state["past"]
        if past is not None:
            check_tensor("past", past, torch.zeros(rows, dtype=torch.float64))
        self.steps, self.mean, self.squares, self.past_B = steps, mean, squares, past
