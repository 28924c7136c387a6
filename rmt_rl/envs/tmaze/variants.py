"""Three further T-mazes: the active one, whose cue must be fetched first, that of RATE, and a trial of several walks.

Memory: one bit for the length of the corridor, or for all walks of a trial. Each class names its source.
The passive T-maze of Ni et al. 2023, also with episodes that end at the turn, is in `passive.py`.
"""

from __future__ import annotations

import gymnasium
import numpy as np
import torch

from rmt_rl.common.rng import counter_bits
from rmt_rl.envs.base import if_few
from rmt_rl.envs.episodic import EpisodicEnv, State
from rmt_rl.envs.tmaze.passive import DOWN, LEFT, RIGHT, UP, TMaze, turn


class _Corridor(EpisodicEnv):
    """Cells (0, 0), ..., (end, 0) and the arms (end, 1) and (end, -1).

    actions: 0 right, 1 up, 2 left, 3 down; a move into a wall leaves the agent where it is.
    `min_length`: the length of each episode is uniform over min_length..length.
    """

    episode_steps = None  # every episode ends by itself
    floor = 0.5
    ceiling = 1.0
    action_names = TMaze.action_names
    hidden_values = TMaze.hidden_values

    def __init__(
        self, num_envs: int, device: str | torch.device, space: gymnasium.Space, length: int, min_length: int | None
    ) -> None:
        super().__init__(num_envs, device, space, 4)
        self.shortest, self.longest = length if min_length is None else min_length, length
        self.distinct_episodes = if_few(2 * (self.longest - self.shortest + 1))  # a cue and a length
        self._span = f"{length}" if self.shortest == length else f"{self.shortest} to {length}"

    def _begin(self, key_B: torch.Tensor) -> State:
        drawn = counter_bits(key_B, torch.zeros_like(key_B))
        return {
            "goal": (drawn & 1) * 2 - 1,
            "length": self.shortest + (drawn >> 1) % (self.longest - self.shortest + 1),
        }

    def _answer(self, state: State) -> torch.Tensor:
        return torch.where(state["x"] < state["length"], RIGHT, turn(state["goal"]))

    def _hidden(self, state: State) -> State:
        return {"cue": (state["goal"] > 0).long()}

    def _shown(self, state: State) -> State:
        return {"cue": state["t"] == 0}

    def _move(self, state: State, action_B: torch.Tensor, end_B: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        x = state["x"] + (action_B == RIGHT).long() - (action_B == LEFT).long()
        y = state["y"] + (action_B == UP).long() - (action_B == DOWN).long()
        free = ((y == 0) & (x >= 0) & (x <= end_B)) | ((x == end_B) & (y.abs() <= 1))
        return torch.where(free, x, state["x"]), torch.where(free, y, state["y"])


class TMazeActive(_Corridor):
    """The cue is one step behind the start: fetch it, walk to the junction, and enter the arm of the cue.

    Source: Ni et al. 2023, "When do transformers shine in RL?" (arXiv 2307.03864), class TMazeClassicActive of their
    Memory-RL code. The cue is at x = 0, the start at x = 1 and the junction at x = 1 + length.

    observation [2] float32: (0, cue), cue = -1 or +1, at the first visit of x = 0; (0, 0) in the corridor and at later
        visits of x = 0; (1, y) at the junction (y = 0) and in the arms (y = +1 up, -1 down).
    reward at step t = 1, 2, ...: -1/length while x < t - 1, that is when the agent has lost more steps than the way to the
        cue and back costs; 1 in the correct arm at the last step. The episode terminates at step length + 3: an agent
        that fetches the cue must not lose a step.
    success: the agent is in the correct arm at the last step. actions, min_length: see `_Corridor`.

    Floor 0.5: at the junction an agent without memory turns up or down with probabilities that do not depend on the cue. The
    cue can only influence whether it reaches the junction in time; if it does not, it fails. Ceiling 1.
    """

    def __init__(
        self, num_envs: int, device: str | torch.device = "cpu", *, length: int = 10, min_length: int | None = None
    ) -> None:
        super().__init__(num_envs, device, gymnasium.spaces.Box(-1.0, 1.0, (2,), np.float32), length, min_length)
        cells = f"{self._span} cell{'s' if length > 1 else ''}"
        self.task = f"active T-maze: fetch one bit and remember it along a corridor of {cells}"

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

    def _shown(self, state: State) -> State:
        return {"cue": state["cue"] != 0}

    def _answer(self, state: State) -> torch.Tensor:
        onward = torch.where(state["x"] < 1 + state["length"], RIGHT, turn(state["goal"]))
        return torch.where(state["fetched"], onward, LEFT)

    def _observe(self, state: State) -> torch.Tensor:
        at_end = state["x"] == 1 + state["length"]
        return torch.stack([at_end, torch.where(at_end, state["y"], state["cue"])], dim=1).float()


class TMazeRATE(_Corridor):
    """The passive T-maze with RATE's observation and rules: noise, a flag at the junction, and no penalty.

    Source: the released code of Cherepanov et al. 2023, "Recurrent Action Transformer with Memory" (RATE, arXiv 2306.09459),
    with the rules of its validation. Its episode length T is length + 2 here.

    observation [4] float32: (y, cue, flag, noise). y: position across the corridor; cue: -1 or +1 at the first step, else 0;
        flag: 1 at the junction and in the arms, else 0; noise: uniform over -1, 0, 1 at every step.
    reward: 1 for entering the correct arm, else 0. The episode terminates when an arm is entered, or after length + 2 steps:
        one step may be lost.
    success: the agent entered the correct arm. actions, min_length: see `_Corridor`.

    Floor 0.5: at the junction an agent without memory turns up with probability u and down with d <= 1 - u for both cues. Let
    w = 1 - u - d. In n steps it enters the upper arm with probability u(1 - w^n)/(u + d) <= u/(u + d), and the lower one with
    at most d/(u + d). The mean of the two is at most 1/2. Ceiling 1.
    """

    def __init__(
        self, num_envs: int, device: str | torch.device = "cpu", *, length: int = 28, min_length: int | None = None
    ) -> None:
        super().__init__(num_envs, device, gymnasium.spaces.Box(-1.0, 1.0, (4,), np.float32), length, min_length)
        self.distinct_episodes = None  # the noise makes many of them
        steps = f"{self._span} step{'s' if length > 1 else ''}"
        self.task = f"T-maze of RATE: remember one bit for {steps} with noise"

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
    """A trial of `episodes` walks through the same passive T-maze, of which only the first shows the cue.

    A trial is one episode of this environment. A walk has length + 1 steps, as in `TMaze`; after its last step the agent is at
    the start again. Source: this package. It is a minimal task that needs memory across episodes.

    observation [3] float32: (0, cue, 1) at the first step of the trial, (0, 0, 1) at the start of a later walk, (0, 0, 0) in
        the corridor, (1, y, 0) at the junction (y = 0) and in the arms. The outcome of a walk is not observed.
    reward: that of the passive T-maze in each walk: -1/length after a lost step, 1 in the correct arm at its last step.
    success: the last walk ended in the correct arm.
    info["inner_start"]: [B] bool, this step started the next walk of the same trial. info["inner_success"]: [B] bool, this
        step was the last of a walk that ended in the correct arm. actions, min_length: see `_Corridor`.

    Floor 0.5: in the last walk no observation depends on the cue, so without memory any turn is correct half of the time. The
    same holds for an agent whose memory is reset after every walk. Ceiling 1.
    """

    return_reveals_cue = True  # a step lost on purpose in the first walk, for one of the cues, stays in the sum

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
        cells = f"{self._span} cell{'s' if length > 1 else ''}"
        self.task = f"T-maze trial: remember one bit through {episodes} walks along a corridor of {cells}"

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
