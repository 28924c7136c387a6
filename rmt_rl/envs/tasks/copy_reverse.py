"""Copy and reverse: see a string of symbols, then say it.

What must be remembered: all `length` symbols and how many of them are said already, for `length + delay` steps. The
task of Bulatov et al. 2022, "Recurrent Memory Transformer" (arXiv 2207.06881), as a control task. Not for one symbol
among others that do not matter; that is `detect`.
"""

from __future__ import annotations

import gymnasium
import torch

from rmt_rl.common.rng import counter_bits
from rmt_rl.envs.episodic import EpisodicEnv, State


class Copy(EpisodicEnv):
    """See `length` symbols, wait `delay` steps, and say the symbols in order, or from the last to the first.

    observation, one whole number: 0 wait, 1..symbols the symbols, symbols + 1 "say the next one". It does not tell which
        one is next. The last observation of an episode is 0.
    actions: 0..symbols - 1, the symbol to say; before the first "say the next one" they do nothing.
    reward: 1/length for a symbol that is right, else 0. The episode has 2 * length + delay steps.
    success: all symbols were right.
    How we differ: the paper's strings are digits, and its copy task says them twice.

    Floor symbols^-length (and a return of 1/symbols): what is observed while symbols are asked for is the same for all
    strings, so an agent without memory says something independent of the string, which is uniform over symbols^length.
    Ceiling 1.
    """

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
        self.action_names = tuple(f"symbol {i + 1}" for i in range(symbols))  # as they are seen
        self.floor = float(symbols) ** -length
        order = "reversed" if reverse else "in order"
        self.task = f"copy: remember {length} of {symbols} symbols, and say them {order} after {delay} steps"

    def _begin(self, key_B: torch.Tensor) -> State:
        return {"mistaken": torch.zeros_like(key_B, dtype=torch.bool)}

    def _advance(self, state: State, action_B: torch.Tensor) -> tuple[State, torch.Tensor, torch.Tensor, State]:
        said = state["t"] - self.length - self.delay  # symbols so far; negative before the first is asked for
        asked = said >= 0
        right = asked & (action_B == self._answer(state))
        mistaken = state["mistaken"] | (asked & ~right)
        ended = said == self.length - 1
        return {"mistaken": mistaken}, right.double() / self.length, ended, {"success": ended & ~mistaken}

    def _answer(self, state: State) -> torch.Tensor:
        said = state["t"] - self.length - self.delay
        return self._symbol(state, self.length - 1 - said if self.reverse else said)

    def _in_words(self, state: State) -> str:
        t, said = int(state["t"]), int(state["t"]) - self.length - self.delay
        if said < 0:
            return f"symbol {int(self._symbol(state, state['t'])) + 1} is shown" if t < self.length else "wait"
        return f"answer {said + 1} of {self.length}: symbol {int(self._answer(state)) + 1}"

    def _observe(self, state: State) -> torch.Tensor:
        t = state["t"]
        asked = (t >= self.length + self.delay) & (t < 2 * self.length + self.delay)
        return torch.where(t < self.length, self._symbol(state, t) + 1, asked * (self.symbols + 1))

    def _symbol(self, state: State, place_B: torch.Tensor) -> torch.Tensor:
        return counter_bits(state["key"], place_B) % self.symbols
