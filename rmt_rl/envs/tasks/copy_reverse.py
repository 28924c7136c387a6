"""Copy and reverse: observe a sequence of symbols, then repeat it.

Memory: `length` symbols and the number of symbols already repeated, for up to 2 * length + delay steps.
Source: Bulatov et al. 2022, "Recurrent Memory Transformer" (arXiv 2207.06881), as a control task. For one symbol among
distractors see `detect`.
"""

from __future__ import annotations

import gymnasium
import torch

from rmt_rl.common.rng import counter_bits
from rmt_rl.envs.base import FEW_EPISODES, if_few
from rmt_rl.envs.episodic import EpisodicEnv, State


class Copy(EpisodicEnv):
    """Observe `length` symbols, wait `delay` steps, and repeat the symbols in order, or from the last to the first.

    observation [] int64: 0 wait, 1..symbols the symbols, symbols + 1 "answer the next symbol". It does not say which symbol
        is next. The last observation of an episode is 0.
    actions: 0..symbols - 1, the symbol; before the first "answer the next symbol" they have no effect.
    reward: 1/length for a correct symbol, else 0. The episode has 2 * length + delay steps.
    success: all symbols were correct.
    Differences from the source: the paper's sequences are digits, and its copy task repeats them twice.

    Floor symbols^-length (and a return of 1/symbols): the observations during the answers are the same for all sequences, so
    the answers of an agent without memory are independent of the sequence, which is uniform over symbols^length. Ceiling 1.
    """

    episode_steps = None  # every episode ends by itself
    ceiling = 1.0

    def __init__(
        self,
        num_envs: int,
        device: str | torch.device = "cpu",
        *,
        symbols: int = 8,
        length: int = 5,
        delay: int = 0,
        reverse: bool = False,
    ) -> None:
        super().__init__(num_envs, device, gymnasium.spaces.Discrete(symbols + 2), symbols)
        self.symbols, self.length, self.delay, self.reverse = symbols, length, delay, reverse
        self.action_names = tuple(f"symbol {i + 1}" for i in range(symbols))  # as observed
        self._places = tuple(f"place {i + 1}" for i in range(length))
        self.hidden_values = dict.fromkeys(self._places, self.action_names)
        self.floor = float(symbols) ** -length
        self.distinct_episodes = if_few(symbols ** min(length, FEW_EPISODES.bit_length()))  # the sequences
        things = f"one of {symbols} symbols" if length == 1 else f"a sequence of {length} of {symbols} symbols"
        order = "in reverse order" if reverse else "in order"
        self.task = f"copy: remember {things}, and repeat it {order} after {delay} step{'' if delay == 1 else 's'}"

    def _begin(self, key_B: torch.Tensor) -> State:
        return {"mistaken": torch.zeros_like(key_B, dtype=torch.bool)}

    def _advance(self, state: State, action_B: torch.Tensor) -> tuple[State, torch.Tensor, torch.Tensor, State]:
        answered = (
            state["t"] - self.length - self.delay
        )  # number of answers before this step; negative before the first
        asked = answered >= 0
        right = asked & (action_B == self._answer(state))
        mistaken = state["mistaken"] | (asked & ~right)
        ended = answered == self.length - 1
        return {"mistaken": mistaken}, right.double() / self.length, ended, {"success": ended & ~mistaken}

    def _answer(self, state: State) -> torch.Tensor:
        answered = state["t"] - self.length - self.delay
        return self._symbol(state, self.length - 1 - answered if self.reverse else answered)

    def _asks(self, state: State) -> torch.Tensor:
        return state["t"] >= self.length + self.delay

    def _hidden(self, state: State) -> State:
        return {name: self._symbol(state, torch.full_like(state["t"], i)) for i, name in enumerate(self._places)}

    def _shown(self, state: State) -> State:
        return {name: state["t"] == i for i, name in enumerate(self._places)}

    def _in_words(self, state: State) -> str:
        t, answered = int(state["t"]), int(state["t"]) - self.length - self.delay
        if answered < 0:
            return f"symbol {int(self._symbol(state, state['t'])) + 1} is shown" if t < self.length else "wait"
        return f"answer {answered + 1} of {self.length}: symbol {int(self._answer(state)) + 1}"

    def _observe(self, state: State) -> torch.Tensor:
        t = state["t"]
        asked = (t >= self.length + self.delay) & (t < 2 * self.length + self.delay)
        return torch.where(t < self.length, self._symbol(state, t) + 1, asked * (self.symbols + 1))

    def _symbol(self, state: State, place_B: torch.Tensor) -> torch.Tensor:
        return counter_bits(state["key"], place_B) % self.symbols
