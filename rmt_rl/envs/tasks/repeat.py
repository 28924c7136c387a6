"""RepeatFirst and RepeatPrevious of POPGym: cards are dealt one by one; the action names the suit of an earlier card.

Memory: one suit for the whole episode (`repeat-first`), or the last k suits in order (`repeat-previous`).
Source: popgym 1.0.7 (Morad et al. 2023, "POPGym: Benchmarking Partially Observable Reinforcement Learning", arXiv
2303.01859). A card is its suit only; ranks do not affect the rules.
"""

from __future__ import annotations

import math
from types import MappingProxyType

import gymnasium
import torch

from rmt_rl.common.rng import counter_bits
from rmt_rl.envs.episodic import EpisodicEnv, State

SUITS = 4
CARDS = 52


class _Repeat(EpisodicEnv):
    """One card is dealt at each step, until the last one of `decks` shuffled decks.

    observation [] int64: the suit 0..3 (spades, diamonds, clubs, hearts) of the card dealt last.
    actions: 0..3, the suit to answer.
    The episode has 52 * decks - 1 steps: reset deals the first card, and the last card is dealt after the last action.
    success: no answer was wrong.

    The state holds the number of undealt cards of each suit instead of the deck. Dealing each of them with equal probability
    gives the same distribution as dealing from a shuffled deck.
    """

    episode_steps = None  # every episode ends by itself
    ceiling = 1.0
    action_names = ("spades", "diamonds", "clubs", "hearts")

    def __init__(self, num_envs: int, device: str | torch.device, decks: int) -> None:
        super().__init__(num_envs, device, gymnasium.spaces.Discrete(SUITS), SUITS)
        self.decks, self.cards = decks, CARDS * decks
        self._suits = torch.arange(SUITS, device=self.device)

    def _in_words(self, state: State) -> str:
        dealt, answer = (self.action_names[int(suit)] for suit in (state["suit"], self._answer(state)))
        return f"dealt: {dealt}; answer: {answer}"

    def _full(self, key_B: torch.Tensor) -> torch.Tensor:
        return torch.full((len(key_B), SUITS), self.cards // SUITS, device=self.device)

    def _deal(
        self, key_B: torch.Tensor, place_B: torch.Tensor, left_BS: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """The suit [B] of card number `place`, and the number of undealt cards of each suit after it [B, 4]."""
        drawn = counter_bits(key_B, place_B) % (self.cards - place_B)
        suit = (drawn[:, None] >= left_BS.cumsum(1)).sum(1)
        return suit, left_BS - (suit[:, None] == self._suits).long()


class RepeatFirst(_Repeat):
    """Answer the suit of the first card at every step.

    observation, actions, success, end: see `_Repeat`.
    reward: 1/(52 * decks - 1) for the correct suit, minus that for a wrong one.
    decks: 1, 8, 16 are POPGym's easy, medium and hard, with 51, 415 and 831 steps.

    Floor 0.25: without memory an answer depends on the observed suit only. Every suit is observed, spades too, so all answers
    are s with probability at most q(s|spades). The mean of that over the four first suits s is 1/4; "always spades" attains
    it, with a return of -0.5. The best return without memory is that of answering the observed suit, which is correct at the
    first step and then with probability (13 * decks - 1)/(52 * decks - 1): -0.4994 with one deck. Ceiling 1, also of the return.
    """

    floor = 0.25
    hidden_values = MappingProxyType({"first suit": _Repeat.action_names})

    def __init__(self, num_envs: int, device: str | torch.device = "cpu", *, decks: int = 1) -> None:
        super().__init__(num_envs, device, decks)
        self.task = f"repeat-first: remember one of {SUITS} suits for {self.cards - 2} steps"

    def _begin(self, key_B: torch.Tensor) -> State:
        suit, left = self._deal(key_B, torch.zeros_like(key_B), self._full(key_B))
        return {"first": suit, "suit": suit, "left": left, "mistaken": torch.zeros_like(key_B, dtype=torch.bool)}

    def _advance(self, state: State, action_B: torch.Tensor) -> tuple[State, torch.Tensor, torch.Tensor, State]:
        right = action_B == self._answer(state)
        mistaken = state["mistaken"] | ~right
        place = state["t"] + 1
        ended = place == self.cards - 1
        suit, left = self._deal(state["key"], place, state["left"])
        reward = (right.double() - (~right).double()) / (self.cards - 1)
        return {"suit": suit, "left": left, "mistaken": mistaken}, reward, ended, {"success": ended & ~mistaken}

    def _answer(self, state: State) -> torch.Tensor:
        return state["first"]

    def _hidden(self, state: State) -> State:
        return {"first suit": state["first"]}

    def _shown(self, state: State) -> State:
        return {"first suit": state["t"] == 0}

    def _observe(self, state: State) -> torch.Tensor:
        return state["suit"]


class RepeatPrevious(_Repeat):
    """Answer the suit of the card that was observed k - 1 steps ago; k = 1 would be the observed card.

    observation, actions, success, end: see `_Repeat`. reward: 1/(52 * decks - k) for the correct suit, minus that for a wrong
        one; 0 at the first k - 1 steps, when that card does not exist and any answer is accepted.
    (decks, k): (1, 4), (2, 32), (3, 64) are POPGym's easy, medium and hard, with 51, 103 and 155 steps.

    Floor: an upper bound, which prints as 0. Without memory an episode with the suits c_0, c_1, ... has no wrong answer with
    probability prod_t q(c_t | c_{t+k-1}). The sum of this over all sequences of suits is 4^(k-1), because q(.|c) sums to 1 and
    k - 1 cards are never queried. Each order of the suits of the deck has probability 1/N, N = (52d)!/((13d)!)^4. So the
    success rate is at most 4^(k-1)/N, and `floor` is that number (1e-27 for easy). It is None where the bound is not below
    1e-6, that is where few cards are queried. Ceiling 1, also of the return.

    `hidden` is the correct answer, which changes at every step; before one exists it is the first card.
    """

    hidden_values = MappingProxyType({"suit to answer": _Repeat.action_names})

    def __init__(self, num_envs: int, device: str | torch.device = "cpu", *, decks: int = 1, k: int = 4) -> None:
        super().__init__(num_envs, device, decks)
        self.k = k
        bound = all_right_bound(SUITS, self.cards, k)
        self.floor = bound if bound < 1e-6 else None
        self.task = f"repeat-previous: remember the last {k} suits at every step"

    def _begin(self, key_B: torch.Tensor) -> State:
        suit, left = self._deal(key_B, torch.zeros_like(key_B), self._full(key_B))
        mistaken = torch.zeros_like(key_B, dtype=torch.bool)
        # a second copy of the deck, from which the same cards are dealt k - 1 steps later
        return {"suit": suit, "left": left, "left_later": self._full(key_B), "mistaken": mistaken}

    def _advance(self, state: State, action_B: torch.Tensor) -> tuple[State, torch.Tensor, torch.Tensor, State]:
        place = state["t"] + 1
        asked = place >= self.k
        answer, left_later = self._due(state)
        right = action_B == answer
        mistaken = state["mistaken"] | (asked & ~right)
        suit, left = self._deal(state["key"], place, state["left"])
        ended = place == self.cards - 1
        reward = ((asked & right).double() - (asked & ~right).double()) / (self.cards - self.k)
        left_later = torch.where(asked[:, None], left_later, state["left_later"])
        changes = {"suit": suit, "left": left, "left_later": left_later, "mistaken": mistaken}
        return changes, reward, ended, {"success": ended & ~mistaken}

    def _in_words(self, state: State) -> str:
        if int(state["t"]) + 1 < self.k:  # that card does not exist yet
            return f"dealt: {self.action_names[int(state['suit'])]}; any answer"
        return super()._in_words(state)

    def _due(self, state: State) -> tuple[torch.Tensor, torch.Tensor]:
        """The correct answer [B], and the second copy of the deck after it [B, 4]."""
        place = (state["t"] + 1 - self.k).clamp(min=0)
        return self._deal(state["key"], place, state["left_later"])

    def _answer(self, state: State) -> torch.Tensor:
        return self._due(state)[0]

    def _asks(self, state: State) -> torch.Tensor:
        return state["t"] + 1 >= self.k

    def _hidden(self, state: State) -> State:
        return {"suit to answer": self._answer(state)}

    def _shown(self, state: State) -> State:
        return {"suit to answer": torch.zeros_like(state["mistaken"])}  # it was shown k - 1 steps ago

    def _observe(self, state: State) -> torch.Tensor:
        return state["suit"]


def all_right_bound(suits: int, cards: int, k: int) -> float:
    """The bound suits^(k-1) / N of RepeatPrevious's docstring, for any number of equally frequent suits; at most 1."""
    log_orders = math.lgamma(cards + 1) - suits * math.lgamma(cards // suits + 1)
    return min(1.0, math.exp((k - 1) * math.log(suits) - log_orders))
