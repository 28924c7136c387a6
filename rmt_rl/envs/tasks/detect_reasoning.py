"""Facts at random times among observations that do not matter, and a question at the end.

What must be remembered: one fact (`detect`) or two (`reasoning`), from whenever it comes up to the last step. The tasks
"detect and memorise" and "reasoning" of Bulatov et al. 2023, "Scaling Transformer to 1M tokens and beyond with RMT"
(arXiv 2304.11062), as control tasks. "Memorise", with the fact at the start, is the T-maze.
"""

from __future__ import annotations

import gymnasium
import torch

from rmt_rl.common.rng import counter_bits
from rmt_rl.envs.episodic import EpisodicEnv, State, draws

_NOISE = 2**32  # from this random number on come the distractors


class _Facts(EpisodicEnv):
    """`facts` facts of `values` values at different random times among the first `length` observations.

    observation, one whole number: 0 is the question, then one symbol for each (fact, value), then the distractors, which
        are uniform and independent. The last observation of an episode is 0 too.
    The answer to the question is the sum of the facts modulo `values`.
    """

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

    def _in_words(self, state: State) -> str:
        seen, told = int(self._observe(state)), self.facts * self.values
        if not seen:
            return f"the question; the answer is {(self.action_names or range(self.values))[int(self._answer(state))]}"
        if seen > told:
            return f"distractor {seen - told}"
        fact, value = divmod(seen - 1, self.values)
        return f"fact {fact + 1} is {value}" if self.facts > 1 else f"cue {value + 1}"

    def _observe(self, state: State) -> torch.Tensor:
        t = state["t"]
        noise = counter_bits(state["key"], t + _NOISE) % self.distractors
        now_BF = state["time"] == t[:, None]
        symbol_BF = 1 + state["fact"] + self.values * torch.arange(self.facts, device=self.device)
        told = torch.where(now_BF.any(1), (now_BF * symbol_BF).sum(1), 1 + self.facts * self.values + noise)
        return torch.where(t < self.length, told, 0)


class Detect(_Facts):
    """Detect and memorise: one cue at a random time among distractors; at the end it is asked for.

    observation, one whole number: 0 the question, 1..cues the cue, cues + 1..cues + distractors what does not matter. The
        cue is seen once, at a uniformly random one of `length` steps; then the question follows.
    actions: 0..cues - 1, the cue; they do nothing before the question.
    reward: 1 for the right cue, else 0. The episode has length + 1 steps. success: the right cue.
    How we differ: the paper's distractors are text, and its fact stands at the beginning of a segment.

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
        self.action_names = tuple(f"cue {i + 1}" for i in range(cues))  # as they are seen
        self.task = f"detect: find one of {cues} cues among distractors, and remember it for 1 to {length} steps"


class Reasoning(_Facts):
    """Two facts at random times among distractors; the answer depends on both, and on neither alone.

    observation, one whole number: 0 the question, 1..values the first fact, values + 1..2 * values the second one, above
        that what does not matter. Both facts are seen once, at different uniformly random ones of `length` steps, in any
        order; then the question follows.
    actions: 0..values - 1, the answer: (first fact + second fact) modulo `values`, both counted from 0; they do nothing
        before the question.
    reward: 1 for the right answer, else 0. The episode has length + 1 steps. success: the right answer.
    How we differ: the paper's facts are sentences on where places lie, with 6 answers too; our function is the one of
        which one fact alone tells nothing.

    Floor 1/values, also for an agent that remembers one of the facts: given it, the other one, which is uniform, makes
    the sum uniform. Ceiling 1.
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
            f"reasoning: find two facts among distractors, and remember them, or their sum, for 1 to {length} steps"
        )
