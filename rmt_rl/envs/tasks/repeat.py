"""POPGym's RepeatFirst and RepeatPrevious: cards are dealt one by one, and the suit of an earlier one has to be said.

What must be remembered: one suit for a whole episode (`repeat-first`), or the last k suits, in order and renewed at every
step (`repeat-previous`). Rules of popgym 1.0.7 (Morad et al. 2023, "POPGym: Benchmarking Partially Observable
Reinforcement Learning", arXiv 2303.01859). Not for ranks and colours, which no rule looks at.
"""

from __future__ import annotations

import math

import gymnasium
import torch

from rmt_rl.common.rng import counter_bits
from rmt_rl.envs.episodic import EpisodicEnv, State

SUITS = 4
CARDS = 52


class _Repeat(EpisodicEnv):
    """One card is seen at a time, until the last one of `decks` shuffled decks.

    observation, one whole number: the suit 0..3 (spades, diamonds, clubs, hearts) of the card that was dealt last.
    actions: 0..3, the suit to say.
    The episode has 52 * decks - 1 steps: the first card is dealt by the reset, the last one after the last action.
    success: no answer was wrong.

    The state does not hold the deck, only how many cards of each suit are left: dealing one of them with equal chances is
    the same as dealing from a shuffled deck.
    """

    ceiling = 1.0
    action_names = ("spades", "diamonds", "clubs", "hearts")

    def __init__(self, num_envs: int, device: str | torch.device, decks: int) -> None:
        super().__init__(num_envs, device, gymnasium.spaces.Discrete(SUITS), SUITS)
        self.decks, self.cards = decks, CARDS * decks
        self._suits = torch.arange(SUITS, device=self.device)

    def _in_words(self, state: State) -> str:
        return f"{self.action_names[int(state['suit'])]} is dealt; say {self.action_names[int(self._answer(state))]}"

    def _full(self, key_B: torch.Tensor) -> torch.Tensor:
        return torch.full((len(key_B), SUITS), self.cards // SUITS, device=self.device)

    def _deal(
        self, key_B: torch.Tensor, place_B: torch.Tensor, left_BS: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """The suit of card number `place` [B], and how many cards of each suit are left after it [B, 4]."""
        drawn = counter_bits(key_B, place_B) % (self.cards - place_B)
        suit = (drawn[:, None] >= left_BS.cumsum(1)).sum(1)
        return suit, left_BS - (suit[:, None] == self._suits).long()


class RepeatFirst(_Repeat):
    """Say the suit of the first card at every step.

    observation, actions, end: see `_Repeat`. reward: 1/(52 * decks - 1) for the right suit, minus that for a wrong one.
    decks: 1, 8, 16 are POPGym's easy, medium, hard, of 51, 415 and 831 steps.

    Floor 0.25: without memory an answer depends on the suit in view only. Every suit comes into view, spades too, so all
    answers are s with probability at most q(s|spades), and the mean of that over the four first suits s is 1/4; "always
    spades" attains it. Its return is -0.5; the best without memory says the suit in view, which is right at the first
    step and then with probability (13 * decks - 1)/(52 * decks - 1): -0.4994 with one deck. Ceiling 1, also of the return.
    """

    floor = 0.25

    def __init__(self, num_envs: int, device: str | torch.device = "cpu", *, decks: int = 1) -> None:
        super().__init__(num_envs, device, decks)
        self.task = f"repeat-first: remember one of 4 suits for {self.cards - 2} steps"

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

    def _observe(self, state: State) -> torch.Tensor:
        return state["suit"]


class RepeatPrevious(_Repeat):
    """Say the suit of the card that was seen k - 1 steps ago; k = 1 would be the card in view.

    observation, actions, end: see `_Repeat`. reward: 1/(52 * decks - k) for the right suit, minus that for a wrong one;
        0 at the first k - 1 steps, at which that card does not exist and any answer will do.
    (decks, k): (1, 4), (2, 32), (3, 64) are POPGym's easy, medium, hard, of 51, 103 and 155 steps.

    Floor 0 to all printed digits: without memory an episode whose suits are c_0, c_1, ... has no wrong answer with
    probability prod_t q(c_t | c_{t+k-1}). The sum of that over all sequences of suits is 4^(k-1), because q(.|c) sums to 1
    and k - 1 cards are not asked for, and each order of the deck's suits has probability 1/N, N = (52d)!/((13d)!)^4. So
    the floor is at most 4^(k-1)/N, and that is what stands here (1e-27 for easy); None where it is not below 1e-6, which is where
    few cards are asked for. Ceiling 1, also of the return.
    """

    def __init__(self, num_envs: int, device: str | torch.device = "cpu", *, decks: int = 1, k: int = 4) -> None:
        super().__init__(num_envs, device, decks)
        self.k = k
        bound = all_right_bound(SUITS, self.cards, k)
        self.floor = bound if bound < 1e-6 else None
        self.task = f"repeat-previous: remember the last {k} suits at every step"

    def _begin(self, key_B: torch.Tensor) -> State:
        suit, left = self._deal(key_B, torch.zeros_like(key_B), self._full(key_B))
        mistaken = torch.zeros_like(key_B, dtype=torch.bool)
        # the deck a second time, from which the same cards are dealt k - 1 steps later
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
        if int(state["t"]) + 1 < self.k:  # nothing was dealt so long ago
            return f"{self.action_names[int(state['suit'])]} is dealt; say anything"
        return super()._in_words(state)

    def _due(self, state: State) -> tuple[torch.Tensor, torch.Tensor]:
        """The suit that is asked for, and what is left of the later deck after it."""
        place = (state["t"] + 1 - self.k).clamp(min=0)
        return self._deal(state["key"], place, state["left_later"])

    def _answer(self, state: State) -> torch.Tensor:
        return self._due(state)[0]

    def _observe(self, state: State) -> torch.Tensor:
        return state["suit"]


def all_right_bound(suits: int, cards: int, k: int) -> float:
    """suits^(k-1) / N of RepeatPrevious's docstring, for any number of suits with equally many cards; at most 1."""
    log_orders = math.lgamma(cards + 1) - suits * math.lgamma(cards // suits + 1)
    return min(1.0, math.exp((k - 1) * math.log(suits) - log_orders))
