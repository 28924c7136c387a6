"""Three further T-mazes: the active one, in which the cue must be fetched first, the one of RATE, and a trial of many walks.

What must be remembered: one bit, for as many steps as the corridor is long, or through all walks of a trial. Not for the
passive T-maze of Ni et al. 2023, nor for leaving a maze of that kind at the turn; those are `tmaze`.
"""

from __future__ import annotations

import gymnasium
import numpy as np
import torch

from rmt_rl.common.rng import counter_bits
from rmt_rl.envs.episodic import EpisodicEnv, State
from rmt_rl.envs.tmaze.passive import DOWN, LEFT, RIGHT, UP, TMaze, turn


class _Corridor(EpisodicEnv):
    """Cells (0, 0), ..., (end, 0) and the arms (end, 1) and (end, -1).

    actions: 0 right, 1 up, 2 left, 3 down; a move into a wall is a step on the spot.
    `min_length`: every episode draws its length uniformly from min_length..length.
    """

    floor = 0.5
    ceiling = 1.0
    action_names = TMaze.action_names

    def __init__(
        self, num_envs: int, device: str | torch.device, space: gymnasium.Space, length: int, min_length: int | None
    ) -> None:
        super().__init__(num_envs, device, space, 4)
        self.shortest, self.longest = length if min_length is None else min_length, length
        self._span = f"{length}" if self.shortest == length else f"{self.shortest} to {length}"

    def _begin(self, key_B: torch.Tensor) -> State:
        drawn = counter_bits(key_B, torch.zeros_like(key_B))
        return {
            "goal": (drawn & 1) * 2 - 1,
            "length": self.shortest + (drawn >> 1) % (self.longest - self.shortest + 1),
        }

    def _answer(self, state: State) -> torch.Tensor:
        return torch.where(state["x"] < state["length"], RIGHT, turn(state["goal"]))

    def _move(self, state: State, action_B: torch.Tensor, end_B: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        x = state["x"] + (action_B == RIGHT).long() - (action_B == LEFT).long()
        y = state["y"] + (action_B == UP).long() - (action_B == DOWN).long()
        free = ((y == 0) & (x >= 0) & (x <= end_B)) | ((x == end_B) & (y.abs() <= 1))
        return torch.where(free, x, state["x"]), torch.where(free, y, state["y"])


class TMazeActive(_Corridor):
    """The cue is one step behind the start: fetch it, walk back and on to the junction, and turn as it said.

    Rules of Ni et al. 2023, "When do transformers shine in RL?" (arXiv 2307.03864), class TMazeClassicActive of their
    Memory-RL code. The corridor has the cue at x = 0, the start at x = 1 and the junction at x = 1 + length.

    observation [2] float32: (0, cue), cue = -1 or +1, when x = 0 for the first time; (0, 0) in the corridor and when x = 0
        again; (1, y) at the junction (y = 0) and in the arms (y = +1 up, -1 down).
    reward at step t = 1, 2, ...: -1/length while x < t - 1, that is once the agent is later than by the way to the cue and
        back; 1 for standing in the right arm at the last step. The episode ends at step length + 3, so whoever fetches
        the cue must lose no step.
    success: standing in the right arm at the last step. actions, min_length: see `_Corridor`.

    Floor 0.5: at the junction an agent without memory turns up or down with the same chances whatever the cue was. The cue
    can only decide whether it comes to the junction in time, and not to come loses. Ceiling 1.
    """

    def __init__(
        self, num_envs: int, device: str | torch.device = "cpu", *, length: int = 10, min_length: int | None = None
    ) -> None:
        super().__init__(num_envs, device, gymnasium.spaces.Box(-1.0, 1.0, (2,), np.float32), length, min_length)
        self.task = f"active T-maze: fetch one bit and remember it along a corridor of {self._span} cells"

    def _begin(self, key_B: torch.Tensor) -> State:
        zero = torch.zeros_like(key_B)
        start = {"x": zero + 1, "y": zero, "cue": zero, "fetched": torch.zeros_like(key_B, dtype=torch.bool)}
        return super()._begin(key_B) | start

    def _advance(self, state: State, action_B: torch.Tensor) -> tuple[State, torch.Tensor, torch.Tensor, State]:
        length, t = state["length"], state["t"] + 1
        x, y = self._move(state, action_B, 1 + length)
        cue = torch.where((x == 0) & ~state["fetched"], state["goal"], 0)
        ended = t == length + 3
        success = ended & (y == state["goal"])
        reward = torch.where(ended, success.double(), torch.where(x < t - 1, -1.0 / length.double(), 0.0))
        changes = {"x": x, "y": y, "cue": cue, "fetched": state["fetched"] | (x == 0)}
        return changes, reward, ended, {"success": success}

    def _answer(self, state: State) -> torch.Tensor:
        onward = torch.where(state["x"] < 1 + state["length"], RIGHT, turn(state["goal"]))
        return torch.where(state["fetched"], onward, LEFT)

    def _observe(self, state: State) -> torch.Tensor:
        at_end = state["x"] == 1 + state["length"]
        return torch.stack([at_end, torch.where(at_end, state["y"], state["cue"])], dim=1).float()


class TMazeRATE(_Corridor):
    """The passive T-maze with RATE's inputs and rules: noise and a flag for the junction, and no penalty.

    Rules of the released code of Cherepanov et al. 2023, "Recurrent Action Transformer with Memory" (RATE, arXiv
    2306.09459), as its validation plays them; its episode length T is length + 2 here.

    observation [4] float32: (y, cue, flag, noise): the place across the corridor; -1 or +1 at the first step, else 0; 1 at
        the junction and in the arms, else 0; uniform over -1, 0, 1 at every step.
    reward: 1 for entering the right arm, else 0. The episode ends when an arm is entered, or after length + 2 steps: one
        step may be lost.
    success: the right arm was entered. actions, min_length: see `_Corridor`.

    Floor 0.5: at the junction an agent without memory turns up with probability u and down with d <= 1 - u, whatever the
    cue was. With w = 1 - u - d, n chances to turn end in the upper arm with probability u(1 - w^n)/(u + d) <= u/(u + d), and
    in the lower one with at most d/(u + d); the mean of the two is at most 1/2. Ceiling 1.
    """

    def __init__(
        self, num_envs: int, device: str | torch.device = "cpu", *, length: int = 28, min_length: int | None = None
    ) -> None:
        super().__init__(num_envs, device, gymnasium.spaces.Box(-1.0, 1.0, (4,), np.float32), length, min_length)
        self.task = f"T-maze of RATE: remember one bit for {self._span} steps with noise"

    def _begin(self, key_B: torch.Tensor) -> State:
        zero = torch.zeros_like(key_B)
        return super()._begin(key_B) | {"x": zero, "y": zero}

    def _advance(self, state: State, action_B: torch.Tensor) -> tuple[State, torch.Tensor, torch.Tensor, State]:
        x, y = self._move(state, action_B, state["length"])
        ended = (y != 0) | (state["t"] + 1 == state["length"] + 2)
        success = ended & (y == state["goal"])
        return {"x": x, "y": y}, success.double(), ended, {"success": success}

    def _observe(self, state: State) -> torch.Tensor:
        cue = (state["t"] == 0) * state["goal"]
        noise = counter_bits(state["key"], 1 + state["t"]) % 3 - 1
        return torch.stack([state["y"], cue, state["x"] == state["length"], noise], dim=1).float()


class TMazeTrial(_Corridor):
    """`episodes` walks through the same passive T-maze, of which only the first one shows the cue; a trial is one episode here.

    Ours: the smallest task that needs memory across episodes. A walk has length + 1 steps, as in `TMaze`; the step after its last
    one stands at the start again.

    observation [3] float32: (0, cue, 1) at the first step of the trial, (0, 0, 1) where a later walk starts, (0, 0, 0) in the
        corridor, (1, y, 0) at the junction (y = 0) and in the arms. The outcome of a walk is not shown.
    reward: for each walk that of the passive T-maze: -1/length for a step that is late, 1 in the right arm at its last step.
    success: the last walk ended in the right arm. info: "inner_start" [B] bool, this step led to the next walk of the same
        trial; "inner_success" [B] bool, it was the last one of a walk, in the right arm. actions, min_length: see `_Corridor`.

    Floor 0.5: nothing in the last walk depends on the cue but what the agent remembers, so any turn is right half of the time.
    That holds for an agent whose memory is reset at every walk, too. Ceiling 1.
    """

    returns_tell = True  # a step lost in the first walk for one of the cues is in the sum for ever

    def __init__(
        self,
        num_envs: int,
        device: str | torch.device = "cpu",
        *,
        episodes: int = 4,
        length: int = 10,
        min_length: int | None = None,
    ) -> None:
        super().__init__(num_envs, device, gymnasium.spaces.Box(-1.0, 1.0, (3,), np.float32), length, min_length)
        self.episodes = episodes
        self.task = f"T-maze trial: remember one bit through {episodes} walks along a corridor of {self._span} cells"

    def _begin(self, key_B: torch.Tensor) -> State:
        zero = torch.zeros_like(key_B)
        return super()._begin(key_B) | {"x": zero, "y": zero}

    def _advance(self, state: State, action_B: torch.Tensor) -> tuple[State, torch.Tensor, torch.Tensor, State]:
        length = state["length"]
        x, y = self._move(state, action_B, length)
        done = state["t"] % (length + 1)  # steps of this walk before this one
        last = done == length
        ended = state["t"] + 1 == self.episodes * (length + 1)
        success = last & (y == state["goal"])
        reward = torch.where(last, success.double(), torch.where(x <= done, -1.0 / length.double(), 0.0))
        again = last & ~ended
        x, y = (torch.where(again, 0, place) for place in (x, y))
        info = {"success": success & ended, "inner_start": again, "inner_success": success}
        return {"x": x, "y": y}, reward, ended, info

    def _in_words(self, state: State) -> str:
        return f"walk {int(state['t']) // (int(state['length']) + 1) + 1} of {self.episodes}"

    def _observe(self, state: State) -> torch.Tensor:
        t, walk = state["t"], state["length"] + 1
        start = (t % walk == 0) & (t < self.episodes * walk)
        across = torch.where(t == 0, state["goal"], state["y"])
        return torch.stack([state["x"] == state["length"], across, start], dim=1).float()
