"""Endless T-maze: one corridor after the other, each with a hint of its own. The memory has to be overwritten.

Memory: one bit for the length of a corridor, replaced by another one at the start of the next.
Source: "Endless T-Maze" of arXiv 2601.15086, rules as in its released code; this implementation is ours.
"""

from __future__ import annotations

from types import MappingProxyType

import gymnasium
import numpy as np
import torch

from rmt_rl.common.rng import counter_bits
from rmt_rl.envs.episodic import EpisodicEnv, State

FORWARD, LEFT, RIGHT = range(3)
#: Reward of a wrong turn, a turn inside a corridor, and a step into the wall at the junction.
MISTAKE = -0.01


class TMazeEndless(EpisodicEnv):
    """Walk through `corridors` corridors; at the end of each, turn to the side that its first cell showed.

    observation [3] float32: (place, left, right). place: x / (length + 1) at cell x of a corridor, 1 at the junction. left,
        right: 1 for the side of the hint in the first cell of every corridor, else 0.
    actions: 0 forward, 1 left, 2 right.
    reward: 1 for the correct turn at a junction, which leads into the first cell of the next corridor; -0.01 for the wrong one,
        which terminates the episode; -0.01 for a turn inside a corridor or a step forward at the junction, which do not move the
        agent; 0 for a step along a corridor. The episode is truncated after 6 (length + 1) `corridors` steps.
    success: all corridors were walked. info["corridors"]: [B] corridors walked so far, as a share of all.
    `hidden` is the correct turn, which changes with the corridor.
    `uniform`: the length of every corridor is uniform over 1..length; otherwise all have `length` steps to the junction.

    Floor 0.5 ** corridors: a junction shows nothing of its hint, so a policy without memory turns to the same side with the same
    probability for both hints, and the hints are independent. Ceiling 1. The paper and its page give -1 for a wrong turn, the
    code -0.01.
    """

    hidden_values = MappingProxyType({"turn": ("left", "right")})
    episode_steps = None  # every episode ends by itself
    ceiling = 1.0
    return_reveals_cue = True  # a turn in the first cell costs 0.01, for one of the hints only, and stays in the sum
    action_names = ("forward", "left", "right")

    def __init__(
        self,
        num_envs: int,
        device: str | torch.device = "cpu",
        *,
        corridors: int = 3,
        length: int = 5,
        uniform: bool = True,
    ) -> None:
        super().__init__(num_envs, device, gymnasium.spaces.Box(0.0, 1.0, (3,), np.float32), 3)
        self.corridors, self.longest, self.uniform = corridors, length, uniform
        self.floor = 0.5**corridors
        self.limit = 6 * (length + 1) * corridors
        span = f"1 to {length}" if uniform and length > 1 else f"{length}"
        self.task = f"endless T-maze: {corridors} corridors of {span} steps, each with a new bit to remember"

    def _begin(self, key_B: torch.Tensor) -> State:
        return {"corridor": torch.zeros_like(key_B), "x": torch.zeros_like(key_B)}

    def corridor(self, state: State) -> tuple[torch.Tensor, torch.Tensor]:
        """[B] the correct turn (LEFT or RIGHT) and the length of the corridor in which the agent is."""
        bits = counter_bits(state["key"], state["corridor"])
        length = 1 + (bits >> 1) % self.longest if self.uniform else torch.full_like(bits, self.longest)
        return torch.where(bits & 1 == 1, RIGHT, LEFT), length

    def _advance(self, state: State, action_B: torch.Tensor) -> tuple[State, torch.Tensor, torch.Tensor, State]:
        hint, length = self.corridor(state)
        junction, turns = state["x"] == length, action_B != FORWARD
        correct = junction & (action_B == hint)
        walks = ~junction & ~turns
        corridor = state["corridor"] + correct
        success = correct & (corridor == self.corridors)
        terminated = success | (junction & turns & ~correct)
        reward = correct.double() + MISTAKE * (~correct & ~walks).double()
        x = torch.where(correct, 0, state["x"] + walks)
        info = {"success": success, "corridors": corridor.double() / self.corridors}
        return {"corridor": corridor, "x": x}, reward, terminated, info

    def _truncates(self, state: State) -> torch.Tensor:
        return state["t"] >= self.limit

    def _answer(self, state: State) -> torch.Tensor:
        hint, length = self.corridor(state)
        return torch.where(state["x"] < length, FORWARD, hint)

    def _observe(self, state: State) -> torch.Tensor:
        hint, length = self.corridor(state)
        place = torch.where(state["x"] == length, 1.0, state["x"] / (self.longest + 1))
        start = state["x"] == 0
        return torch.stack([place, start & (hint == LEFT), start & (hint == RIGHT)], dim=1).float()

    def _hidden(self, state: State) -> dict[str, torch.Tensor]:
        return {"turn": (self.corridor(state)[0] == RIGHT).long()}

    def _shown(self, state: State) -> dict[str, torch.Tensor]:
        return {"turn": state["x"] == 0}

    def _in_words(self, state: State) -> str:
        return f"corridor {min(int(state['corridor']) + 1, self.corridors)} of {self.corridors}"
