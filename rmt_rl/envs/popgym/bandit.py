"""POPGym's MultiarmedBandit: find the arms that pay most often.

Source: popgym 1.0.7 (Morad et al. 2023, arXiv 2303.01859). From the same seed the episodes are those of
the package, as long as none is reset before its end.
"""

from __future__ import annotations

from collections.abc import Sequence
from types import MappingProxyType

import gymnasium
import numpy as np
import torch

from rmt_rl.envs.episodic import State
from rmt_rl.envs.popgym.drawn import DrawnEnv
from rmt_rl.envs.tasks.bandit import stay_or_next


class MultiarmedBandit(DrawnEnv):
    """Pull one of `arms` arms, each with its own probability to pay, which is uniform in [0, 1] and new in every episode.

    observation [] int64: 1 = the last pull paid. The arm is the previous action.
    actions: the number of an arm. reward: 1/length where it pays, else -1/length. Episodes are truncated after `length` pulls.
    Easy, medium and hard: 10 arms and 200 pulls, 20 and 400, 30 and 600.

    Floor: "stay after a payout, else go to the next arm" needs no memory beside the previous action; it is the best policy
    without memory that we know of (`stay_or_next`). Ceiling (arms - 1)/(arms + 1): that of an agent that knows the probabilities.
    """

    sizes = MappingProxyType({"easy": (10, 200), "medium": (20, 400), "hard": (30, 600)})
    return_reveals_cue = True  # the number of payouts; whether it helps without memory of the arms is not known

    def __init__(self, num_envs: int, device: str | torch.device = "cpu", *, difficulty: str = "easy") -> None:
        self.arms, self.length = self.sizes[difficulty]
        self.longest = self.length
        super().__init__(num_envs, device, gymnasium.spaces.Discrete(2), self.arms)
        self._reward = torch.tensor([-1 / self.length, 1 / self.length], dtype=torch.float64, device=self.device)
        self.floor, self.ceiling = 2 * stay_or_next(self.arms, self.length) - 1, (self.arms - 1) / (self.arms + 1)
        self.hidden_values = {"best arm": tuple(f"arm {i}" for i in range(self.arms))}
        self.action_names = self.hidden_values["best arm"]
        self.task = f"popgym-multiarmed-bandit: remember the payouts of {self.arms} arms for {self.length} pulls"

    def _draw(self, generators: Sequence[np.random.Generator], count: int) -> dict[str, np.ndarray]:
        chance = np.empty((len(generators), count, self.arms), dtype=np.float32)
        luck = np.empty((len(generators), count, self.length), dtype=np.float32)
        for row, generator in enumerate(generators):
            for episode in range(count):
                chance[row, episode] = generator.random(self.arms, dtype=np.float32)
                # the package compares a Python float with a number of float32, which numpy 2 does in float32
                luck[row, episode] = generator.random(self.length)
        return {"chance": chance, "luck": luck}

    def _begin(self, key_B: torch.Tensor) -> State:
        return {"paid": torch.zeros_like(key_B)}

    def _advance(self, state: State, action_B: torch.Tensor) -> tuple[State, torch.Tensor, torch.Tensor, State]:
        chance, luck = self._drawn["chance"].view(-1), self._drawn["luck"].view(-1)
        needed = chance.index_select(0, state["key"] * self.arms + action_B)
        paid = luck.index_select(0, state["key"] * self.length + state["t"]) < needed
        return {"paid": paid.long()}, self._reward.index_select(0, paid.long()), torch.zeros_like(paid), {}

    def _observe(self, state: State) -> torch.Tensor:
        return state["paid"]

    def _best(self, state: State) -> torch.Tensor:
        return self._drawn["chance"].index_select(0, state["key"]).argmax(1)

    def _answer(self, state: State) -> torch.Tensor:
        return self._best(state)

    def _hidden(self, state: State) -> State:
        return {"best arm": self._best(state)}

    def _shown(self, state: State) -> State:
        return {"best arm": torch.zeros_like(state["t"], dtype=torch.bool)}  # payouts only make it likely

    def _in_words(self, state: State) -> str:
        return f"pull {int(state['t']) + 1} of {self.length}"
