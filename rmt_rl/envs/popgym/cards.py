"""Card games of POPGym: the deck decides what is shown and what is right, whatever the actions are.

Source: popgym 1.0.7 (Morad et al. 2023, "POPGym: Benchmarking Partially Observable Reinforcement Learning", arXiv 2303.01859).
From the same seed the episodes are those of the package.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from types import MappingProxyType
from typing import Any

import gymnasium
import numpy as np
import torch

from rmt_rl.envs.episodic import EpisodicEnv, State
from rmt_rl.envs.popgym.drawn import DrawnEnv

CARDS, SUITS, RANKS = 52, 4, 13
SUIT_NAMES = ("spades", "diamonds", "clubs", "hearts")
RANK_NAMES = ("ace", *(str(n) for n in range(2, 11)), "jack", "queen", "king")
#: Mean return of HigherLower for a player who counts the cards, by decks. With m cards left, of which h are higher and l lower, a
#: step brings |h - l| / m / cards on average; the sum over all hands is in the tests.
COUNTING = {1: 0.5275997079036479, 2: 0.5161030706739268, 3: 0.5114590610484353}
#: Answer at a step at which none is asked for.
NOTHING = -1


class CardTask(DrawnEnv):
    """An episode of `steps` steps in which some are asked for an answer.

    reward: 1/`asked` for the correct answer, minus that for a wrong one, 0 where none is asked for.
    There is no success; floor and ceiling are returns. The floor does not hold for a policy that observes rewards, which tell
    whether an answer was right. `hidden` is the correct answer, which changes during an episode; 0 where none is asked for.

    decks: how many decks of 52 cards are shuffled together. shuffles: how many such decks an episode has.
    shows: the observation for each code, [codes, ...]; `_script` turns decks into codes and answers.
    """

    ceiling: float | None = 1.0
    _truncates = EpisodicEnv._truncates  # never: the deck ends it
    reward_reveals_cue = return_reveals_cue = True

    def __init__(
        self,
        num_envs: int,
        device: str | torch.device,
        space: gymnasium.Space[Any],
        num_actions: int,
        *,
        decks: int,
        asked: int,
        shows: torch.Tensor,
        shuffles: int = 1,
    ) -> None:
        super().__init__(num_envs, device, space, num_actions)
        self._num_actions = num_actions
        self.cards, self._shuffles = CARDS * decks, shuffles
        self._shows = shows.to(self.device)
        self.longest = self.steps = self._script(np.zeros((1, shuffles, self.cards), dtype=np.int64))[1].shape[1]
        # of an answer, from NOTHING on, and an action
        right = 2 * torch.eye(num_actions, dtype=torch.float64) - 1
        reward = torch.cat([torch.zeros(1, num_actions, dtype=torch.float64), right]) * (1 / asked)
        self._reward = reward.flatten().to(self.device)

    def _script(self, dealt: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Codes of the observations [N, steps + 1] and answers [N, steps] of episodes.

        dealt: [N, shuffles, cards] the numbers of the cards in the order in which they are dealt. Card i has the suit i % 4, the
        rank i % 52 // 4 and the colour i % 2.
        """
        raise NotImplementedError(f"{type(self).__name__} does not implement _script")

    def _draw(self, generators: Sequence[np.random.Generator], count: int) -> dict[str, np.ndarray]:
        ordered = np.tile(np.arange(self.cards), (count * self._shuffles, 1))
        decks = np.stack([generator.permuted(ordered, axis=1) for generator in generators])
        dealt = decks.reshape(-1, self._shuffles, self.cards)[:, :, ::-1]  # the package deals from the end
        shown, answer = self._script(dealt)
        # where the rewards of an answer begin; tables of the same size have the same places
        asked = np.zeros(shown.shape, dtype=np.int32)
        asked[:, :-1] = (answer - NOTHING) * self._num_actions
        shape = (len(generators), count, self.steps + 1)
        return {"shown": shown.astype(np.int32).reshape(shape), "asked": asked.reshape(shape)}

    def _check_drawn(self) -> None:
        for name, end, unit in (("shown", len(self._shows), 1), ("asked", len(self._reward), self._num_actions)):
            x = self._drawn[name]
            if bool(((x < 0) | (x >= end) | (x % unit != 0)).any()):
                raise ValueError(f"{name} has values out of range")

    def _check_state(self, state: State) -> None:
        super()._check_state(state)
        if not torch.equal(state["begin"], self._begin(state["key"])["begin"]):
            raise ValueError("begin is not that of the episode")

    def _begin(self, key_B: torch.Tensor) -> State:
        return {"begin": key_B * (self.steps + 1)}

    def _take(self, name: str, state: State) -> torch.Tensor:
        """[B] int32: the entry of the present step."""
        return self._drawn[name].view(-1).index_select(0, state["begin"] + state["t"])

    def _advance(self, state: State, action_B: torch.Tensor) -> tuple[State, torch.Tensor, torch.Tensor, State]:
        reward = self._reward.index_select(0, action_B + self._take("asked", state))
        return {}, reward, state["t"] == self.steps - 1, {}

    def _observe(self, state: State) -> torch.Tensor:
        return self._shows.index_select(0, self._take("shown", state))

    def _answer(self, state: State) -> torch.Tensor:
        return (self._take("asked", state).long() // self._num_actions + NOTHING).clamp(min=0)

    def _asks(self, state: State) -> torch.Tensor:
        return self._take("asked", state) != 0

    def _hidden(self, state: State) -> State:
        return {"answer": self._answer(state)}

    def _shown(self, state: State) -> State:
        return {"answer": torch.zeros_like(state["t"], dtype=torch.bool)}


class RepeatFirst(CardTask):
    """Answer the suit of the first card at every step; see `CardTask`.

    observation [] int64: the suit 0..3 of the card dealt last. actions: 0..3, a suit.
    Easy, medium and hard have 1, 8, 16 decks, so 51, 415 and 831 steps. Every step asks.

    Floor: the best answer without memory is the suit that is shown: it is right at the first step, and then with probability
    (13 decks - 1) / (52 decks - 1).
    """

    sizes = MappingProxyType({"easy": 1, "medium": 8, "hard": 16})
    action_names = SUIT_NAMES
    hidden_values = MappingProxyType({"answer": SUIT_NAMES})

    def __init__(self, num_envs: int, device: str | torch.device = "cpu", *, difficulty: str = "easy") -> None:
        decks = self.sizes[difficulty]
        cards = CARDS * decks
        space = gymnasium.spaces.Discrete(SUITS)
        super().__init__(num_envs, device, space, SUITS, decks=decks, asked=cards - 1, shows=torch.arange(SUITS))
        right = 1 + (self.steps - 1) * (RANKS * decks - 1) / (cards - 1)
        self.floor = 2 * right / self.steps - 1
        self.task = f"popgym-repeat-first: remember one of {SUITS} suits for {self.steps - 1} steps"

    def _script(self, dealt: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        suits = dealt[:, 0] % SUITS
        return suits, suits[:, :1].repeat(self.cards - 1, axis=1)

    def _shown(self, state: State) -> State:
        return {"answer": state["t"] == 0}

    def _in_words(self, state: State) -> str:
        dealt, answer = (SUIT_NAMES[int(x)] for x in (self._take("shown", state), self._answer(state)))
        return f"dealt: {dealt}; answer: {answer}"


class RepeatPrevious(CardTask):
    """Answer the suit of the card that was shown k - 1 steps ago; see `CardTask`.

    observation [] int64: the suit 0..3 of the card dealt last. actions: 0..3, a suit.
    Easy, medium and hard have 1, 2, 3 decks and k = 4, 32, 64, so 51, 103 and 155 steps. The first k - 1 steps ask nothing.

    Floor: another card has a given other suit with probability 13 decks / (52 decks - 1), and the shown suit more rarely.
    """

    sizes = MappingProxyType({"easy": (1, 4), "medium": (2, 32), "hard": (3, 64)})
    action_names = SUIT_NAMES
    hidden_values = MappingProxyType({"answer": SUIT_NAMES})

    def __init__(self, num_envs: int, device: str | torch.device = "cpu", *, difficulty: str = "easy") -> None:
        decks, self.k = self.sizes[difficulty]
        cards = CARDS * decks
        space = gymnasium.spaces.Discrete(SUITS)
        super().__init__(num_envs, device, space, SUITS, decks=decks, asked=cards - self.k, shows=torch.arange(SUITS))
        self.floor = 2 * RANKS * decks / (cards - 1) - 1
        self.task = f"popgym-repeat-previous: remember the last {self.k} suits at every step"

    def _script(self, dealt: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        suits = dealt[:, 0] % SUITS
        answer = np.full((len(suits), self.cards - 1), NOTHING, dtype=np.int64)
        answer[:, self.k - 1 :] = suits[:, : self.cards - self.k]
        return suits, answer

    def _in_words(self, state: State) -> str:
        dealt = SUIT_NAMES[int(self._take("shown", state))]
        return f"dealt: {dealt}; " + (
            f"answer: {SUIT_NAMES[int(self._answer(state))]}" if bool(self._asks(state)) else "any answer"
        )


class Autoencode(CardTask):
    """Watch all cards, then answer their suits in reverse order; see `CardTask`.

    observation [2] int64: (1 while cards are shown, 0 while answers are asked for; the suit of the card dealt last, 0 while
        answers are asked for). The last card is shown with the first question. actions: 0..3, a suit.
    Easy, medium and hard have 1, 2, 3 decks, so 103, 207 and 311 steps.

    Floor: -1/2 + 1.5/cards. With the first question the last card's suit is shown. Later questions show (0, 0), as the first
    one does for spades; there one suit is as good as another, and spades is right at the first one, too.
    """

    sizes = MappingProxyType({"easy": 1, "medium": 2, "hard": 3})
    action_names = SUIT_NAMES
    hidden_values = MappingProxyType({"answer": SUIT_NAMES})

    def __init__(self, num_envs: int, device: str | torch.device = "cpu", *, difficulty: str = "easy") -> None:
        decks = self.sizes[difficulty]
        shows = torch.tensor([[mode, suit] for mode in range(2) for suit in range(SUITS)])
        space = gymnasium.spaces.MultiDiscrete([2, SUITS])
        super().__init__(num_envs, device, space, SUITS, decks=decks, asked=CARDS * decks, shows=shows)
        self.floor = -0.5 + 1.5 / self.cards
        self.task = f"popgym-autoencode: remember {self.cards} suits and their order"

    def _script(self, dealt: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        suits, n = (dealt[:, 0] % SUITS), dealt.shape[2]
        shown = np.zeros((len(suits), 2 * n), dtype=np.int64)
        shown[:, : n - 1], shown[:, n - 1] = SUITS + suits[:, :-1], suits[:, -1]
        answer = np.full((len(suits), 2 * n - 1), NOTHING, dtype=np.int64)
        answer[:, n - 1 :] = suits[:, ::-1]
        return shown, answer

    def _in_words(self, state: State) -> str:
        if not bool(self._asks(state)):
            return f"dealt: {SUIT_NAMES[int(self._take('shown', state)) % SUITS]}"
        return f"answer: {SUIT_NAMES[int(self._answer(state))]}"


class CountRecall(CardTask):
    """Answer how many cards of the asked kind have been dealt so far; see `CardTask`.

    observation [2] int64: (kind of the card dealt last, kind that is asked for). The kinds asked for are those of a second
        shuffled deck. actions: 0..cards of a kind, a number of cards.
    Easy: 1 deck, 2 colours; medium: 2 decks, 4 suits; hard: 4 decks, 13 ranks; so 51, 103 and 207 steps. Every step asks.

    Floor: that of the most likely number for each observation, at a step that is not known (`best_count`).
    """

    sizes = MappingProxyType({"easy": (1, 2), "medium": (2, 4), "hard": (4, 13)})

    def __init__(self, num_envs: int, device: str | torch.device = "cpu", *, difficulty: str = "easy") -> None:
        decks, kinds = self.sizes[difficulty]
        self.kinds, cards = kinds, CARDS * decks
        shows = torch.tensor([[value, query] for value in range(kinds) for query in range(kinds)])
        space = gymnasium.spaces.MultiDiscrete([kinds, kinds])
        super().__init__(
            num_envs, device, space, cards // kinds + 1, decks=decks, asked=cards - 1, shows=shows, shuffles=2
        )
        self.floor = 2 * best_count(cards, kinds) - 1
        self.task = f"popgym-count-recall: count {cards} cards of {kinds} kinds"

    def _script(self, dealt: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        kind = dealt // SUITS % RANKS if self.kinds == RANKS else dealt % self.kinds
        value, query = kind[:, 0], kind[:, 1]
        count = np.cumsum(value[:, :, None] == np.arange(self.kinds), axis=1, dtype=np.int16)
        answer = np.take_along_axis(count, query[:, :, None], axis=2)[:, :-1, 0]
        return value * self.kinds + query, answer

    def _in_words(self, state: State) -> str:
        value, query = divmod(int(self._take("shown", state)), self.kinds)
        return f"dealt: kind {value}; how many of kind {query}? answer: {int(self._answer(state))}"


class HigherLower(CardTask):
    """Guess whether the next card has a higher or a lower rank than the one that is shown; see `CardTask`.

    observation [] int64: the rank 0..12 of the card dealt last. actions: 0 higher, 1 lower.
    reward: 1/cards for a correct guess, minus that for a wrong one, 0 where the next rank is the same.
    Easy, medium and hard have 1, 2, 3 decks, so 51, 103 and 155 steps.

    Floor 84/169: without memory "higher" below the middle rank, else "lower". Ceiling: the mean return of a player who counts the
    cards and guesses what is more frequent among the others (COUNTING); `oracle` is this player.
    """

    sizes = MappingProxyType({"easy": 1, "medium": 2, "hard": 3})
    action_names = ("higher", "lower")
    floor = 84 / 169

    def __init__(self, num_envs: int, device: str | torch.device = "cpu", *, difficulty: str = "easy") -> None:
        decks = self.sizes[difficulty]
        cards = CARDS * decks
        space = gymnasium.spaces.Discrete(RANKS)
        super().__init__(num_envs, device, space, 2, decks=decks, asked=cards, shows=torch.arange(RANKS))
        self.ceiling = COUNTING[decks]
        self.task = f"popgym-higher-lower: count the ranks of {cards} cards"

    def _script(self, dealt: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        ranks = dealt[:, 0] // SUITS % RANKS
        step = np.diff(ranks, axis=1)
        return ranks, np.where(step == 0, NOTHING, step < 0)

    def _answer(self, state: State) -> torch.Tensor:
        ranks = self._drawn["shown"].index_select(0, state["key"])[:, : self.cards]
        later = torch.arange(self.cards, device=self.device) > state["t"][:, None]
        side = torch.sign(ranks - self._take("shown", state)[:, None])
        return ((side * later).sum(1) < 0).long()

    def _asks(self, state: State) -> torch.Tensor:
        return torch.ones_like(state["t"], dtype=torch.bool)

    def _hidden(self, state: State) -> State:
        return {}

    def _shown(self, state: State) -> State:
        return {}

    def _in_words(self, state: State) -> str:
        return f"dealt: {RANK_NAMES[int(self._take('shown', state))]}"


@functools.lru_cache(maxsize=8)
def best_count(cards: int, kinds: int) -> float:
    """Probability that the most likely count of CountRecall is right, given the kinds shown and asked for, but not the step.

    At step t a card of kind v is shown; of the t cards that were dealt before it those of kind q are hypergeometric. v and q are
    the same with probability 1/kinds.
    """
    each, steps = cards // kinds, cards - 1

    def most_likely(of_kind: int, more: int) -> float:
        chance = np.zeros(cards + 1)
        for t in range(steps):
            for n in range(max(0, of_kind - (cards - 1 - t)), min(of_kind, t) + 1):
                ways = math.comb(t, n) * math.comb(cards - 1 - t, of_kind - n)
                chance[n + more] += ways / math.comb(cards - 1, of_kind) / steps
        return float(chance.max())

    return (most_likely(each - 1, 1) + (kinds - 1) * most_likely(each, 0)) / kinds
