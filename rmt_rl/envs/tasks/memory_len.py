"""memory_len of bsuite: observe bits at the first step, and answer one of them `length` steps later.

Memory: `bits` bits for `length` - 1 steps. Only the last action matters, so the task needs no exploration, unlike the T-maze.
Source: MemoryChain in bsuite 0.3.6 (Osband et al. 2020, "Behaviour Suite for Reinforcement Learning", arXiv 1908.03568):
memory_len with bits=1, memory_size with length=2.
"""

from __future__ import annotations

import gymnasium
import numpy as np
import torch

from rmt_rl.envs.base import if_few
from rmt_rl.envs.episodic import EpisodicEnv, State, at, draws


class MemoryLen(EpisodicEnv):
    """Answer the bit that the query names.

    observation [2 + bits] float32: (remaining time 1 - n/length, query, context). The context is +-1 for every bit while
        n = 0, else 0; the query is the number of a bit at n = length - 1, else 0. As in bsuite, n is 0 at the first *two*
        observations and then increases by 1.
    actions: 0 or 1, the bit; all but the last have no effect.
    reward: 1 or -1 at the last step, else 0. The episode has length + 1 steps. success: the correct bit.
    Differences from the source: bsuite's observation has shape [1, 2 + bits], and a step with any action starts the next
        episode there.

    Floor 0.5: at the last step n = length - 1 > 0, so the context is not observed, and the bits are uniform. With length=1
    the agent observes context and query at the last step, and the floor is 1. Ceiling 1.
    """

    episode_steps = None  # every episode ends by itself
    ceiling = 1.0

    def __init__(self, num_envs: int, device: str | torch.device = "cpu", *, length: int = 10, bits: int = 1) -> None:
        low = np.array([0] * 2 + [-1] * bits, dtype=np.float32)
        high = np.array([1, max(1, bits - 1)] + [1] * bits, dtype=np.float32)
        super().__init__(num_envs, device, gymnasium.spaces.Box(low, high), 2)
        self.length, self.bits = length, bits
        self.floor = 1.0 if length == 1 else 0.5
        self.distinct_episodes = if_few(bits * 2**bits)  # a query and the bits
        steps = f"{length - 1} step{'' if length == 2 else 's'}"
        self._bits = ("bit",) if bits == 1 else tuple(f"bit {i}" for i in range(bits))  # numbers as in the query
        self.task = f"memory_len: remember {bits} bit{'s' if bits > 1 else ''} for {steps}"

    def _begin(self, key_B: torch.Tensor) -> State:
        drawn = draws(key_B, 0, self.bits + 1)
        return {"context": drawn[:, 1:] & 1, "query": drawn[:, 0] % self.bits}

    def _advance(self, state: State, action_B: torch.Tensor) -> tuple[State, torch.Tensor, torch.Tensor, State]:
        ended = state["t"] == self.length
        success = ended & (action_B == self._answer(state))
        return {}, success.double() - (ended & ~success).double(), ended, {"success": success}

    def _answer(self, state: State) -> torch.Tensor:
        return at(state["context"], state["query"])

    def _asks(self, state: State) -> torch.Tensor:
        return state["t"] == self.length

    def _hidden(self, state: State) -> State:
        return dict(zip(self._bits, state["context"].unbind(1), strict=True))

    def _shown(self, state: State) -> State:
        return dict.fromkeys(self._bits, state["t"] < 2)

    def _in_words(self, state: State) -> str:
        t = int(state["t"])
        if t >= self.length:
            return f"query: bit {int(state['query'])}; answer: {int(self._answer(state))}"
        return f"the bits are {state['context'][0].tolist()}" if t < 2 else "wait"

    def _observe(self, state: State) -> torch.Tensor:
        n = (state["t"] - 1).clamp(min=0)
        left = 1 - n.double() / self.length
        query = (n == self.length - 1) * state["query"]
        context = (n == 0)[:, None] * (2 * state["context"] - 1)
        return torch.cat([torch.stack([left, query], dim=1), context], dim=1).float()
