"""Detect and reasoning: facts at random times among distractors, and a question at the end.

Memory: one fact (`detect`) or two (`reasoning`), until the last step.
Source: "detect and memorize" and "reasoning" of Bulatov et al. 2023, "Scaling Transformer to 1M tokens and beyond with RMT"
(arXiv 2304.11062), as control tasks. Its "memorize", with the fact at the start, corresponds to the T-maze.
"""

from __future__ import annotations

import gymnasium
import torch

from rmt_rl.common.rng import counter_bits
from rmt_rl.envs.episodic import EpisodicEnv, State, draws

_NOISE = 2**32  # index of the first random number of the distractors


class _Facts(EpisodicEnv):
    """`facts` facts of `values` values at different random times among the first `length` observations.

    observation [] int64: 0 is the question, then one symbol for each (fact, value), then the distractors, which are uniform
        and independent. The last observation of an episode is 0 too.
    The correct answer is the sum of the facts modulo `values`.
    """

    episode_steps = None  # every episode ends by itself
    ceiling = 1.0

    def __init__(
        self, num_envs: int, device: str | torch.device, facts: int, values: int, distractors: int, length: int
    ) -> None:
        super().__init__(num_envs, device, gymnasium.spaces.Discrete(1 + facts * values + distractors), values)
        self.facts, self.values, self.distractors, self.length = facts, values, distractors, length
        self.floor = 1 / values

    def _begin(self, key_B: torch.Tensor) -> State:
        first, later = draws(key_B, 0, 2).unbind(1)
        time = first % self.length
        times = [time]
        if self.facts == 2:
            times.append((time + 1 + later % (self.length - 1)) % self.length)  # any other time
        return {"time": torch.stack(times, dim=1), "fact": draws(key_B, 2, self.facts) % self.values}

    def _advance(self, state: State, action_B: torch.Tensor) -> tuple[State, torch.Tensor, torch.Tensor, State]:
        ended = state["t"] == self.length
        success = ended & (action_B == self._answer(state))
        return {}, success.double(), ended, {"success": success}

    def _answer(self, state: State) -> torch.Tensor:
        return state["fact"].sum(1) % self.values

    def _hidden(self, state: State) -> State:
        if self.facts == 1:
            return {"cue": state["fact"][:, 0]}
        first, second = state["fact"].unbind(1)
        return {"answer": self._answer(state), "fact 1": first, "fact 2": second}

    def _asks(self, state: State) -> torch.Tensor:
        return state["t"] == self.length

    def _shown(self, state: State) -> State:
        now_BF = state["time"] == state["t"][:, None]
        if self.facts == 1:
            return {"cue": now_BF[:, 0]}
        return {
            "answer": state["time"].amax(1) == state["t"],
            "fact 1": now_BF[:, 0],
            "fact 2": now_BF[:, 1],
        }

    def _in_words(self, state: State) -> str:
        symbol, facts = int(self._observe(state)), self.facts * self.values
        if not symbol:
            return f"the question; the answer is {(self.action_names or range(self.values))[int(self._answer(state))]}"
        if symbol > facts:
            return f"distractor {symbol - facts}"
        fact, value = divmod(symbol - 1, self.values)
        return f"fact {fact + 1} is {value}" if self.facts > 1 else f"cue {value + 1}"

    def _observe(self, state: State) -> torch.Tensor:
        t = state["t"]
        noise = counter_bits(state["key"], t + _NOISE) % self.distractors
        now_BF = state["time"] == t[:, None]
        symbol_BF = 1 + state["fact"] + self.values * torch.arange(self.facts, device=self.device)
        symbol = torch.where(now_BF.any(1), (now_BF * symbol_BF).sum(1), 1 + self.facts * self.values + noise)
        return torch.where(t < self.length, symbol, 0)


class Detect(_Facts):
    """Detect and memorize: one cue at a random time among distractors; the last action must name it.

    observation [] int64: 0 the question, 1..cues the cue, cues + 1..cues + distractors the distractors. The cue occurs once,
        at a uniformly random one of `length` steps; then the question follows.
    actions: 0..cues - 1, the cue; before the question they have no effect.
    reward: 1 for the correct cue, else 0. The episode has length + 1 steps. success: the correct cue.
    Differences from the source: the paper's distractors are text, and its fact is at the start of a segment.

    Floor 1/cues: the question looks the same for all cues, which are uniform. Ceiling 1.
    """

    def __init__(
        self,
        num_envs: int,
        device: str | torch.device = "cpu",
        *,
        cues: int = 4,
        distractors: int = 8,
        length: int = 20,
    ) -> None:
        super().__init__(num_envs, device, 1, cues, distractors, length)
        self.action_names = tuple(f"cue {i + 1}" for i in range(cues))  # as observed
        self.hidden_values = {"cue": self.action_names}
        self.task = f"detect: find one of {cues} cues among distractors, and remember it for {_up_to(length)}"


class Reasoning(_Facts):
    """Two facts at random times among distractors; the answer depends on both, and on neither alone.

    observation [] int64: 0 the question, 1..values the first fact, values + 1..2 * values the second one, then the
        distractors. Each fact occurs once, at different uniformly random ones of `length` steps, in any order; then the
        question follows.
    actions: 0..values - 1, the answer: (first fact + second fact) modulo `values`, both counted from 0; before the question
        they have no effect.
    reward: 1 for the correct answer, else 0. The episode has length + 1 steps. success: the correct answer.
    Differences from the source: the paper's facts are sentences about the positions of places, also with 6 answers. We use
        the sum because one fact alone gives no information about it.

    Floor 1/values, also for an agent that remembers one of the facts: given one fact, the sum is uniform. Ceiling 1.
    """

    def __init__(
        self,
        num_envs: int,
        device: str | torch.device = "cpu",
        *,
        values: int = 6,
        distractors: int = 8,
        length: int = 20,
    ) -> None:
        super().__init__(num_envs, device, 2, values, distractors, length)
        self.task = (
            f"reasoning: find two facts among distractors, and remember them, or their sum, for {_up_to(length)}"
        )


def _up_to(length: int) -> str:
    return f"1 to {length} steps" if length > 1 else "1 step"
