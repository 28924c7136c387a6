"""Bernoulli bandit: find the arm with the highest payout probability, and pull it.

Memory: the number of pulls and of payouts of each arm, for the `length` pulls of a trial, which is one episode.
Source: Duan et al. 2016, "RL^2" (arXiv 1611.02779). Every pull counts, so this is not best-arm identification.
"""

from __future__ import annotations

from functools import lru_cache

import gymnasium
import numpy as np
import torch

from rmt_rl.common.rng import counter_bits
from rmt_rl.envs.episodic import EpisodicEnv, State, draws


class Bandit(EpisodicEnv):
    """`arms` arms with payout probabilities that are uniform in [0, 1] and new in every trial.

    observation [2] int64: (the arm of the previous pull, from 1, or 0 at the first step; 1 if it paid, else 0).
    actions: 0..arms - 1, the arm to pull.
    reward: 1/length if the arm pays, else 0. The return of a trial is therefore its mean payout. There is no success;
        floor and ceiling are returns.
    Differences from the source: RL^2 pays 1 per pull and reports the sum.

    Floor: the previous pull is observed, so "stay after a payout, else go to the next arm" needs no memory. It is the best
    policy without memory that we know of; the tests try all of them on small trials. `stay_or_next` computes its exact
    return. An agent that does not observe the payout gets 1/2. Ceiling arms/(arms + 1): the mean of the largest of `arms`
    uniform numbers. An agent that knows the probabilities attains it; one that must find them out gets less (docs/tasks.md).
    """

    episode_steps = None  # every episode ends by itself
    measure = "return"
    return_reveals_cue = True  # the number of payouts; whether it helps without memory of the arms is not known

    def __init__(self, num_envs: int, device: str | torch.device = "cpu", *, arms: int = 5, length: int = 100) -> None:
        super().__init__(num_envs, device, gymnasium.spaces.MultiDiscrete([arms + 1, 2]), arms)
        self.arms, self.length = arms, length
        self.action_names = tuple(f"arm {i + 1}" for i in range(arms))  # as observed
        self.hidden_values = {"best arm": self.action_names}
        self.floor, self.ceiling = stay_or_next(arms, length), arms / (arms + 1)
        self.task = f"bandit: remember the payouts of {arms} arms for {length} pull{'s' if length > 1 else ''}"

    def _begin(self, key_B: torch.Tensor) -> State:
        return {"arm": torch.zeros_like(key_B), "paid": torch.zeros_like(key_B)}

    def _advance(self, state: State, action_B: torch.Tensor) -> tuple[State, torch.Tensor, torch.Tensor, State]:
        chance = counter_bits(state["key"], action_B)  # payout probability times 2^63
        paid = counter_bits(state["key"], self.arms + state["t"]) < chance
        return (
            {"arm": action_B + 1, "paid": paid.long()},
            paid.double() / self.length,
            state["t"] == self.length - 1,
            {},
        )

    def _hidden(self, state: State) -> State:
        return {"best arm": draws(state["key"], 0, self.arms).argmax(1)}

    def _shown(self, state: State) -> State:
        return {"best arm": torch.zeros_like(state["t"], dtype=torch.bool)}  # payouts only make it likely

    def _in_words(self, state: State) -> str:
        return f"pull {int(state['t']) + 1} of {self.length}"

    def _observe(self, state: State) -> torch.Tensor:
        return torch.stack([state["arm"], state["paid"]], dim=1)


@lru_cache(maxsize=32)
def stay_or_next(arms: int, length: int) -> float:
    """Mean payout of "stay after a payout, else go to the next arm, and from the last arm to the first".

    A visit of an arm ends with its first pull without a payout (a blank). The mean payout is 1 minus the mean number of blanks
    per pull. The first m visits of an arm take T pulls in total, with P(T = t) = m/(t(t+1)) for t >= m: there are
    choose(t-1, m-1) orders of t - m payouts and m blanks that end with a blank, each of probability B(t-m+1, m+1). The arms
    are independent, so the pull of the L-th blank has as its distribution a convolution of these, in which L mod arms arms
    are one visit ahead of the others.
    """
    pulls = np.arange(length + 1)

    def sums(visits: int) -> list[np.ndarray]:
        """Probabilities that `visits` visits of each of 0, 1, ..., arms arms take 0, 1, ..., length pulls."""
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
