"""Associative retrieval: observe pairs of a key and a value; later observe a key and answer its value.

Memory: `pairs` values with their keys, until the last query.
Source: Bulatov et al. 2022 (RMT, arXiv 2207.06881); with rewriting, Rodkin et al. 2024 (ARMT, arXiv 2407.04841). Both are
language-model tasks; here they are control tasks.
"""

from __future__ import annotations

import math

import gymnasium
import torch

from rmt_rl.envs.episodic import EpisodicEnv, State, at, draws

_STREAM = 2**32  # number of random numbers of an episode reserved for one purpose


class AssociativeRetrieval(EpisodicEnv):
    """Observe `pairs` pairs, one per step, wait `delay` steps, and answer `queries` queries, one per step.

    observation [2] int64: (key, value), each from 1, 0 = none. A pair has both, a query has a key only; (0, 0) during the
        delay and at the end.
    actions: 0..values - 1, where action a means the value that is observed as a + 1; without a query they have no effect.
    rewrite=false: each key occurs in one pair at most. rewrite=true: the key of each pair is uniform over all `keys`, and the
        correct answer is the latest value of the key.
    A query is the key of a pair. The pairs of the queries are drawn without replacement; with rewrite=true two of them can
        have the same key, which is then queried twice.
    reward: 1/queries for a correct answer, else 0. The episode has pairs + delay + queries steps.
    success: all answers were correct.
    Differences from the source: a pair is one step here and several tokens there; keys and values are single symbols.

    Floor E[values^-D], where D is the number of different queried keys (D = queries unless keys are rewritten). Given the
    keys, their values are uniform and independent. Let an agent without memory answer key k with value v with probability
    q(v|k). All m answers to k are correct with probability (mean over v of q(v|k)^m) <= 1/values. A fixed value for every key
    attains it. Ceiling 1.
    """

    episode_steps = None  # every episode ends by itself
    ceiling = 1.0

    def __init__(
        self,
        num_envs: int,
        device: str | torch.device = "cpu",
        *,
        keys: int = 8,
        values: int = 8,
        pairs: int = 4,
        queries: int = 1,
        delay: int = 0,
        rewrite: bool = False,
    ) -> None:
        super().__init__(num_envs, device, gymnasium.spaces.MultiDiscrete([keys + 1, values + 1]), values)
        self.keys, self.values, self.pairs, self.rewrite = keys, values, pairs, rewrite
        self.queries, self.delay = queries, delay
        self.action_names = tuple(f"value {i + 1}" for i in range(values))  # as observed
        self._values_of = tuple(f"value of key {i + 1}" for i in range(keys))
        self.hidden_values = dict.fromkeys(self._values_of, ("no pair", *self.action_names))
        different = _different(keys, queries) if rewrite else [0.0] * queries + [1.0]
        self.floor = math.fsum(chance * float(values) ** -d for d, chance in enumerate(different))
        shortest, longest = delay + 1, pairs + delay + queries - 1
        steps = (
            "1 step"
            if longest == 1
            else f"{longest} steps"
            if shortest == longest
            else f"{shortest} to {longest} steps"
        )
        self.task = (
            f"associative retrieval: remember {pairs} of {values} values by their keys"
            f"{', which are rewritten,' if rewrite else ''} for {steps}"
        )

    def _begin(self, key_B: torch.Tensor) -> State:
        if self.rewrite:
            key_BP = draws(key_B, 0, self.pairs) % self.keys
        else:
            key_BP = draws(key_B, 0, self.keys).argsort(1)[:, : self.pairs]
        value_BP = draws(key_B, _STREAM, self.pairs) % self.values
        query_BQ = draws(key_B, 2 * _STREAM, self.pairs).argsort(1)[:, : self.queries]
        return {
            "keys": key_BP,
            "values": value_BP,
            "asked": key_BP.gather(1, query_BQ),
            "mistaken": torch.zeros_like(key_B, dtype=torch.bool),
        }

    def _advance(self, state: State, action_B: torch.Tensor) -> tuple[State, torch.Tensor, torch.Tensor, State]:
        query = state["t"] - self.pairs - self.delay
        asked = query >= 0
        right = asked & (action_B == self._answer(state))
        mistaken = state["mistaken"] | (asked & ~right)
        ended = query == self.queries - 1
        return {"mistaken": mistaken}, right.double() / self.queries, ended, {"success": ended & ~mistaken}

    def _answer(self, state: State) -> torch.Tensor:
        match_BP = state["keys"] == at(state["asked"], state["t"] - self.pairs - self.delay)[:, None]
        latest = (match_BP * torch.arange(self.pairs, device=self.device)).amax(1)
        return at(state["values"], latest)

    def _asks(self, state: State) -> torch.Tensor:
        return state["t"] >= self.pairs + self.delay

    def _latest(self, state: State) -> torch.Tensor:
        """[B, keys] the last pair in which each key occurs; -1 = none."""
        match_BKP = state["keys"][:, None] == torch.arange(self.keys, device=self.device)[:, None]
        place_P = torch.arange(self.pairs, device=self.device)
        return torch.where(match_BKP, place_P, -1).amax(2)

    def _hidden(self, state: State) -> State:
        latest = self._latest(state)
        value_BK = torch.where(latest >= 0, state["values"].gather(1, latest.clamp(min=0)) + 1, 0)
        return dict(zip(self._values_of, value_BK.unbind(1), strict=True))

    def _shown(self, state: State) -> State:
        return dict(zip(self._values_of, (self._latest(state) == state["t"][:, None]).unbind(1), strict=True))

    def _in_words(self, state: State) -> str:
        key, value = self._observe(state)[0].tolist()
        if not key:
            return "wait"
        return (
            f"key {key} has value {value}"
            if value
            else f"query: key {key}; answer: value {int(self._answer(state)) + 1}"
        )

    def _observe(self, state: State) -> torch.Tensor:
        t = state["t"]
        query = t - self.pairs - self.delay
        pair = t < self.pairs
        asked = (query >= 0) & (query < self.queries)
        key = pair * (at(state["keys"], t) + 1) + asked * (at(state["asked"], query) + 1)
        return torch.stack([key, pair * (at(state["values"], t) + 1)], dim=1)


def _different(keys: int, draws: int) -> list[float]:
    """[draws + 1] probabilities that `draws` independent uniform keys have 0, 1, ..., draws different values."""
    chance = [1.0] + [0.0] * draws
    for _ in range(draws):
        chance = [0.0] + [chance[d] * d / keys + chance[d - 1] * (keys - d + 1) / keys for d in range(1, draws + 1)]
    return chance
