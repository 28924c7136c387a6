"""Games of POPGym on a board that the agent uncovers: MineSweeper, Battleship and Concentration.

Source: popgym 1.0.7 (Morad et al. 2023, arXiv 2303.01859). From the same seed the episodes are those of the package. A step that
both ends and cuts off an episode only ends it here.
The agent is shown what it uncovers, not where: the place is its previous action (`policy.previous_action`).
"""

from __future__ import annotations

from collections.abc import Sequence
from types import MappingProxyType

import gymnasium
import numpy as np
import torch

from rmt_rl.common.state import check_tensor
from rmt_rl.envs.episodic import State, at
from rmt_rl.envs.popgym.cards import CARDS, RANKS, SUITS
from rmt_rl.envs.popgym.drawn import DrawnEnv
from rmt_rl.envs.words import Words, draw_words, lemire


class MineSweeper(DrawnEnv):
    """Uncover all cells without a mine.

    observation [] int64: the mines among the cell that was chosen last and its neighbours; 0 at the start.
    actions [2] int64: row and column of a cell. With n cells without a mine,
    reward: 1/n for a new cell, -0.5/(n - 2) for one that was uncovered before, -0.5 - 1/n for a mine, which ends the episode.
        It also ends when no cell is left, and is truncated after n steps.
    Easy, medium and hard: 4 x 4 cells with 2 mines, 6 x 6 with 6, 8 x 8 with 10.
    There is no success. Ceiling 1: the sum of the rewards of an episode without a mistake.
    `oracle` knows the mines. Which floor a policy without memory has is not known.
    """

    sizes = MappingProxyType({"easy": (4, 2), "medium": (6, 6), "hard": (8, 10)})
    ceiling = 1.0

    def __init__(self, num_envs: int, device: str | torch.device = "cpu", *, difficulty: str = "easy") -> None:
        self.side, self.mines = self.sizes[difficulty]
        shown, cell = (
            gymnasium.spaces.Discrete(min(self.mines + 1, 10)),
            gymnasium.spaces.MultiDiscrete([self.side] * 2),
        )
        super().__init__(num_envs, device, shown, cell)
        self.cells = self.side**2
        self.longest = self.clear = self.cells - self.mines
        # of a mine, of a cell that was uncovered before, and of a new one
        rewards = [-0.5 - 1 / self.clear, -0.5 / (self.clear - 2), 1 / self.clear]
        self._reward = torch.tensor(rewards, dtype=torch.float64, device=self.device)
        self.task = f"popgym-minesweeper: remember the uncovered cells of {self.side} x {self.side}"

    def _draw(self, generators: Sequence[np.random.Generator], count: int) -> dict[str, np.ndarray]:
        before = [generator.bit_generator.state for generator in generators]
        words = np.stack([draw_words(generator, count * (2 * self.mines - 1)) for generator in generators])
        words = words.reshape(-1, 2 * self.mines - 1)
        mines, again = np.zeros((len(words), self.cells), dtype=bool), np.zeros(len(words), dtype=bool)
        episodes = np.arange(len(words))
        # Generator.choice without replacement is Floyd's method: a number up to j, or j where that one was taken before
        for i, j in enumerate(range(self.clear, self.cells)):
            chosen, more = lemire(words[:, i], j + 1)
            again |= more
            mines[episodes, np.where(mines[episodes, chosen], j, chosen)] = True
        for i, left in enumerate(range(self.mines, 1, -1), start=self.mines):  # it shuffles them, too
            again |= lemire(words[:, i], left)[1]
        boards = mines.reshape(len(generators), count, -1)
        for row in np.flatnonzero(again.reshape(len(generators), count).any(1)).tolist():
            generators[row].bit_generator.state = before[row]
            boards[row] = False
            for episode in range(count):
                boards[row, episode, generators[row].choice(self.cells, size=self.mines, replace=False)] = True
        # how many mines a cell and its neighbours have
        wide = np.pad(boards.reshape(-1, self.side, self.side), [(0, 0), (1, 1), (1, 1)]).astype(np.int8)
        lines = wide[:, :-2] + wide[:, 1:-1] + wide[:, 2:]
        near = lines[:, :, :-2] + lines[:, :, 1:-1] + lines[:, :, 2:]
        return {"mines": boards, "near": near.reshape(boards.shape)}

    def _check_drawn(self) -> None:
        near = self._drawn["near"]
        if bool(((near < 0) | (near > 9)).any()):
            raise ValueError("near has values out of range")

    def _begin(self, key_B: torch.Tensor) -> State:
        covered = ~self._drawn["mines"].index_select(0, key_B)
        return {"covered": covered, "left": torch.full_like(key_B, self.clear), "shown": torch.zeros_like(key_B)}

    def _advance(self, state: State, action_B: torch.Tensor) -> tuple[State, torch.Tensor, torch.Tensor, State]:
        chosen = action_B[:, 0] * self.side + action_B[:, 1]
        place = state["key"] * self.cells + chosen
        mine, shown = (self._drawn[name].view(-1).index_select(0, place) for name in ("mines", "near"))
        new = state["covered"].gather(1, chosen[:, None]).squeeze(1).long()  # never a mine
        reward = self._reward.index_select(0, torch.where(mine, 0, 1 + new))
        covered, left = state["covered"].scatter(1, chosen[:, None], False), state["left"] - new
        return {"covered": covered, "left": left, "shown": shown.long()}, reward, mine | (left == 0), {}

    def _observe(self, state: State) -> torch.Tensor:
        return state["shown"]

    def _answer(self, state: State) -> torch.Tensor:
        chosen = state["covered"].int().argmax(1)  # the first one, or any where none is left
        return torch.stack([chosen // self.side, chosen % self.side], dim=1)

    def _in_words(self, state: State) -> str:
        mines = self._drawn["mines"][state["key"]]
        return drawn_board(torch.where(mines, 1, torch.where(state["covered"], 0, 2)), self.side, ".*o")


class Battleship(DrawnEnv):
    """Hit four ships of 2, 3, 3 and 4 cells.

    observation [] int64: 1 = the last shot was a new hit. actions [2] int64: row and column of a cell.
    reward: 1/12 for a new hit, else -1/(cells - 12). The episode ends with the last hit, and is truncated after as many steps as
        there are cells.
    Easy, medium and hard: 8 x 8, 10 x 10 and 12 x 12 cells.
    There is no success. Ceiling 1: every shot hits. To shoot at one cell after the other brings at least 0.
    `oracle` knows the ships. Which floor a policy without memory has is not known.
    """

    sizes = MappingProxyType({"easy": 8, "medium": 10, "hard": 12})
    ships = (2, 3, 3, 4)
    ceiling = 1.0

    def __init__(self, num_envs: int, device: str | torch.device = "cpu", *, difficulty: str = "easy") -> None:
        self.side = self.sizes[difficulty]
        cell = gymnasium.spaces.MultiDiscrete([self.side] * 2)
        super().__init__(num_envs, device, gymnasium.spaces.Discrete(2), cell)
        self.longest = self.cells = self.side**2
        needed = sum(self.ships)
        self._reward = torch.tensor([-1 / (self.cells - needed), 1 / needed], dtype=torch.float64, device=self.device)
        self.task = f"popgym-battleship: remember the shots at {self.side} x {self.side} cells"

    def _draw(self, generators: Sequence[np.random.Generator], count: int) -> dict[str, np.ndarray]:
        words, side = Words(generators, count * len(self.ships) * 8), self.side
        boards = np.zeros((len(generators), count, side, side), dtype=bool)
        for episode in range(count):
            for ship in self.ships:
                waiting = np.arange(len(generators))  # rows whose ship has no place yet
                while len(waiting):
                    start = np.stack([words.below(side, waiting) for _ in range(2)])
                    axis, sign = (words.below(2, waiting) for _ in range(2))
                    end = start.copy()
                    end[axis, np.arange(len(waiting))] += np.where(sign == 1, -1, 1) * (ship - 1)
                    low, high = np.minimum(start, end), np.maximum(start, end)
                    line = np.arange(side)
                    inside = [(line >= low[i, :, None]) & (line <= high[i, :, None]) for i in range(2)]
                    cells = inside[0][:, :, None] & inside[1][:, None, :]
                    free = ((end >= 0) & (end < side)).all(0) & ~(boards[waiting, episode] & cells).any((1, 2))
                    boards[waiting[free], episode] |= cells[free]
                    waiting = waiting[~free]
        words.close()
        return {"ships": boards.reshape(len(generators), count, -1)}

    def _begin(self, key_B: torch.Tensor) -> State:
        ships = self._drawn["ships"].index_select(0, key_B)
        return {"afloat": ships, "left": torch.full_like(key_B, sum(self.ships)), "hit": torch.zeros_like(key_B)}

    def _advance(self, state: State, action_B: torch.Tensor) -> tuple[State, torch.Tensor, torch.Tensor, State]:
        chosen = (action_B[:, 0] * self.side + action_B[:, 1])[:, None]
        hit = state["afloat"].gather(1, chosen).squeeze(1).long()
        afloat, left = state["afloat"].scatter(1, chosen, False), state["left"] - hit
        return {"afloat": afloat, "left": left, "hit": hit}, self._reward.index_select(0, hit), left == 0, {}

    def _observe(self, state: State) -> torch.Tensor:
        return state["hit"]

    def _answer(self, state: State) -> torch.Tensor:
        chosen = state["afloat"].int().argmax(1)
        return torch.stack([chosen // self.side, chosen % self.side], dim=1)

    def _in_words(self, state: State) -> str:
        ships = self._drawn["ships"][state["key"]]
        return drawn_board(torch.where(state["afloat"], 1, torch.where(ships, 2, 0)), self.side, ".ox")


class Concentration(DrawnEnv):
    """Turn two cards at a time; two of a kind stay face up.

    observation [cards] int64: the kind of every card that is face up, and the number of kinds where it is face down. The second
        card of a try is shown with the first one.
    actions: the number of a card. With the cards n and the longest episode T = ceil(2 n - n / (2 n - 1)),
    reward: 2/n for a pair, -2/T for two cards that are none or the same card twice, -1/T for every card of a try in which one was
        turned that is face up already; that ends the try. The episode ends when all are face up, and is truncated after T steps.
    Easy, medium and hard: 52 cards of 2 colours, 104 of 2 colours, 52 of 13 ranks.
    There is no success. Ceiling 1: a pair with every try; `oracle` knows the cards. Which floor a policy without
    memory has is not known.
    """

    sizes = MappingProxyType({"easy": (1, 2), "medium": (2, 2), "hard": (1, RANKS)})
    ceiling = 1.0

    def __init__(self, num_envs: int, device: str | torch.device = "cpu", *, difficulty: str = "easy") -> None:
        decks, self.kinds = self.sizes[difficulty]
        self.cards = CARDS * decks
        shown = gymnasium.spaces.MultiDiscrete([self.kinds + 1] * self.cards)
        super().__init__(num_envs, device, shown, self.cards)
        n = self.cards
        self.longest = int(np.ceil(2 * n - (n / (2 * n - 1))))
        failure = -1 / self.longest
        # nothing yet, one card face up already, a pair, two cards without success
        rewards = [0.0, failure, 1 / (n // 2), 2 * failure]
        self._reward = torch.tensor(rewards, dtype=torch.float64, device=self.device)
        self.task = f"popgym-concentration: remember where the {self.kinds} kinds of {n} cards are"

    def _draw(self, generators: Sequence[np.random.Generator], count: int) -> dict[str, np.ndarray]:
        ordered = np.tile(np.arange(self.cards), (count, 1))
        decks = np.stack([generator.permuted(ordered, axis=1) for generator in generators])
        return {"kind": (decks // SUITS % RANKS if self.kinds == RANKS else decks % self.kinds).astype(np.int16)}

    def _check_drawn(self) -> None:
        kind = self._drawn["kind"]
        if bool(((kind < 0) | (kind >= self.kinds)).any()):
            raise ValueError("kind has values out of range")

    def _begin(self, key_B: torch.Tensor) -> State:
        shown = torch.full((len(key_B), self.cards), self.kinds, device=self.device)
        none = torch.full((len(key_B), 2), -1, device=self.device)
        # the observation; the cards of the latest try that lie face down again, and the first card of the present one, or -1
        return {"shown": shown, "turned": none, "first": none[:, 0], "left": torch.full_like(key_B, self.cards)}

    def _advance(self, state: State, action_B: torch.Tensor) -> tuple[State, torch.Tensor, torch.Tensor, State]:
        first, turned = state["first"], state["turned"]
        second = first >= 0
        # what the latest try has shown is turned down, but not the first card of this one
        down = (turned >= 0) & (turned != first[:, None])
        up = state["shown"].gather(1, action_B[:, None]).squeeze(1) != self.kinds
        up = up & ~(down & (turned == action_B[:, None])).any(1)
        same = second & (first == action_B)
        bad = up & ~same
        kind, other = self._kind(state, action_B), self._kind(state, first.clamp(min=0))
        pair = second & ~up & (kind == other)
        shown = state["shown"].scatter(1, torch.where(down, turned, action_B[:, None]), self.kinds)
        shown = shown.scatter_(1, action_B[:, None], kind[:, None])
        left = state["left"] - 2 * pair
        result = torch.where(bad, 1 + 2 * second.long(), torch.where(second, 3 - pair.long(), 0))
        now = torch.stack([torch.where(up, -1, action_B), first], dim=1)
        turned = torch.where(pair[:, None], -1, now)
        changes = {"shown": shown, "turned": turned, "first": torch.where(bad | second, -1, action_B), "left": left}
        done = left == 0
        return changes, self._reward.index_select(0, result), done, {}

    def _check_state(self, state: State) -> None:
        super()._check_state(state)
        for name in ("first", "turned"):
            check_tensor(name, state[name], state[name], -1, self.cards - 1)
        check_tensor("left", state["left"], state["left"], 1, self.cards)

    def _kind(self, state: State, card_B: torch.Tensor) -> torch.Tensor:
        """[B] the kind of one card of every row."""
        return self._drawn["kind"].view(-1).index_select(0, state["key"] * self.cards + card_B).long()

    def _observe(self, state: State) -> torch.Tensor:
        return state["shown"]

    def _answer(self, state: State) -> torch.Tensor:
        kinds, first, turned = self._drawn["kind"].index_select(0, state["key"]), state["first"], state["turned"]
        number = torch.arange(self.cards, device=self.device)
        down = (state["shown"] == self.kinds) | (number == turned[:, :1]) | (number == turned[:, 1:])
        same = kinds == at(kinds, first)[:, None]
        fits = down & (same | (first < 0)[:, None]) & (number != first[:, None])
        return fits.int().argmax(1)

    def _in_words(self, state: State) -> str:
        return f"{self.cards - int(state['left'])} of {self.cards} cards are face up"


def drawn_board(cells: torch.Tensor, side: int, signs: str) -> str:
    """A board as text: the sign of each cell's number, rows with blanks between them."""
    text = "".join(signs[i] for i in cells.flatten().tolist())
    return " ".join(text[i : i + side] for i in range(0, len(text), side))
