"""Bernoulli bandit: find out which of several arms pays most, and pull it.

What must be remembered: how often each arm was pulled and how often it paid, over the `length` pulls of a trial, which is
one episode here. The task of Duan et al. 2016, "RL^2" (arXiv 1611.02779). Not for finding a best arm without a cost.
"""

from __future__ import annotations

from functools import lru_cache

import gymnasium
import numpy as np
import torch

from rmt_rl.common.rng import counter_bits
from rmt_rl.envs.episodic import EpisodicEnv, State


class Bandit(EpisodicEnv):
    """`arms` arms, each of which pays with a probability of its own, uniform in [0, 1] and drawn anew for every trial.

    observation, two whole numbers: (the arm that was pulled last, counted from 1, or 0 at the first pull; whether it paid).
    actions: 0..arms - 1, the arm to pull.
    reward: 1/length if the arm pays, else 0, so the return of a trial of `length` pulls is its mean payout. There is no
        success; floor and ceiling are about the return.
    How we differ: RL^2 pays 1 a pull, and reports the sum.

    Floor: the last pull is in view, so "stay after a payout, else go to the next arm" needs no memory. It is the best such
    policy that we know of (the tests try all of them on small trials); `stay_or_next` has its exact return. Whoever is
    not told what the last pull paid gets 1/2. Ceiling arms/(arms + 1), the mean of the best of `arms` uniform numbers:
    whoever knows the arms gets it, and an agent that must find them out gets less (docs/tasks.md).
    """

    measure = "return"
    returns_tell = True  # how often it paid so far; whether that is worth something without the arms is not known

    def __init__(self, num_envs: int, device: str | torch.device = "cpu", *, arms: int = 5, length: int = 100) -> None:
        super().__init__(num_envs, device, gymnasium.spaces.MultiDiscrete([arms + 1, 2]), arms)
        self.arms, self.length = arms, length
        self.action_names = tuple(f"arm {i + 1}" for i in range(arms))  # as they are seen
        self.floor, self.ceiling = stay_or_next(arms, length), arms / (arms + 1)
        self.task = f"bandit: remember what each of {arms} arms paid, over {length} pulls"

    def _begin(self, key_B: torch.Tensor) -> State:
        return {"arm": torch.zeros_like(key_B), "paid": torch.zeros_like(key_B)}

    def _advance(self, state: State, action_B: torch.Tensor) -> tuple[State, torch.Tensor, torch.Tensor, State]:
        chance = counter_bits(state["key"], action_B)  # of 2^63
        paid = counter_bits(state["key"], self.arms + state["t"]) < chance
        return (
            {"arm": action_B + 1, "paid": paid.long()},
            paid.double() / self.length,
            state["t"] == self.length - 1,
            {},
        )

    def _in_words(self, state: State) -> str:
        return f"pull {int(state['t']) + 1} of {self.length}"

    def _observe(self, state: State) -> torch.Tensor:
        return torch.stack([state["arm"], state["paid"]], dim=1)


@lru_cache(maxsize=32)
def stay_or_next(arms: int, length: int) -> float:
    """Mean payout of "stay after a payout, else go to the next arm, after the last one to the first".

    Every pull without a payout ends a visit, so the mean number of those is what is left of 1. An arm's first m visits
    take T pulls together with P(T = t) = m/(t(t+1)), t >= m: choose(t-1, m-1) orders of t - m payouts and m blanks that
    end in a blank, each of probability B(t-m+1, m+1). The arms are independent, so the L-th blank comes at a pull whose
    distribution is a convolution of these, in which L mod arms arms are one visit ahead of the others.
    """
    pulls = np.arange(length + 1)

    def sums(visits: int) -> list[np.ndarray]:
        """How likely `visits` visits each to 0, 1, ..., arms arms take 0, 1, ..., length pulls."""
        one = np.where(pulls >= visits, visits / np.maximum(1, pulls * (pulls + 1)), 0.0) if visits else none
        powers = [none]
        for _ in range(arms):
            powers.append(np.convolve(powers[-1], one)[: length + 1])
        return powers

    none = (pulls == 0).astype(float)
    blanks, behind = 0.0, sums(0)
    for visits in range(1, length // arms + 2):
        ahead = sums(visits)
        blanks += sum(np.convolve(ahead[n], behind[arms - n])[: length + 1].sum() for n in range(1, arms + 1))
        behind = ahead
    return 1 - float(blanks) / length
