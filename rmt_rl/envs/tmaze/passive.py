"""Passive T-maze: the cue at the first step determines which way to turn at the end of a corridor.

Memory: one bit for `length` steps (1 to 10,000,000).
Source: Ni et al. 2023, "When do transformers shine in RL?" (arXiv 2307.03864), class TMazeClassicPassive of their Memory-RL code.
The active T-maze, whose cue is behind the start, is in `variants.py`.
"""

from __future__ import annotations

from types import MappingProxyType
from typing import Any

import gymnasium
import numpy as np
import torch

from rmt_rl.common.rng import counter_bits
from rmt_rl.common.state import check_tensor
from rmt_rl.envs.base import TorchVectorEnv, if_few, row_seeds, step_info, task_rows

RIGHT, UP, LEFT, DOWN = range(4)
#: Separates the key of an episode's distractors from other uses of its key.
_DISTRACTORS = 0x6469737472616374


def turn(goal_B: torch.Tensor) -> torch.Tensor:
    """[B] the action that enters the arm of the goal, +1 = up or -1 = down."""
    return torch.where(goal_B > 0, UP, DOWN)


class TMaze(TorchVectorEnv):
    """Walk `length` cells to the right, then enter the arm of the cue.

    observation [2] float32: (0, cue) at the first step, cue = -1 or +1; (0, 0) in the corridor; (1, y) at the junction
        (y = 0) and in the arms (y = +1 up, -1 down).
    actions: 0 right, 1 up, 2 left, 3 down; a move into a wall leaves the agent where it is.
    reward at step t = 1, 2, ...: -1/length while x < t, that is when the agent has lost a step; 1 in the correct arm at the
        last step. The episode terminates at step length + 1: after one lost step the arm can no longer be reached.
    success: the agent is in the correct arm at the last step.
    `min_length`: the length of each episode is uniform over min_length..length.
    `distractors`: every observation also shows two coins, -1 or +1, and a number in -1..1, which mean nothing. All episodes
        then differ, and a memory has to hold under input that changes. The source has no such variant.
    `end_at_turn`: the episode terminates when an arm is entered (reward 1 in the correct one) and is truncated after
        2 * (length + 1) steps. The source has no such variant; it is easier to explore and needs the same memory.

    Floor 0.5: without memory the junction looks the same for both cues, so any turn is correct half of the time. Ceiling 1.
    With `end_at_turn` the floor does not hold for an agent that observes the previous reward: it can lose a step on purpose for
    one of the cues, after which every reward up to the junction reveals the cue. Otherwise a lost step is a lost episode.
    """

    episode_steps = None

    floor = 0.5
    ceiling = 1.0
    action_names = ("right", "up", "left", "down")
    hidden_values = MappingProxyType({"cue": ("down", "up")})

    def __init__(
        self,
        num_envs: int,
        device: str | torch.device = "cpu",
        *,
        length: int = 10,
        min_length: int | None = None,
        end_at_turn: bool = False,
        distractors: bool = False,
    ) -> None:
        shortest = length if min_length is None else min_length
        if not 1 <= shortest <= length:
            raise ValueError(f"min_length is {shortest} and length is {length}; expected 1 <= min_length <= length")
        observation_space = gymnasium.spaces.Box(-1.0, 1.0, (5 if distractors else 2,), np.float32)
        super().__init__(num_envs, device, observation_space, gymnasium.spaces.Discrete(4))
        self.distractors = distractors
        self.shortest, self.longest, self.end_at_turn = shortest, length, end_at_turn
        # a cue and a length, unless distractors make many of them
        self.distinct_episodes = None if distractors else if_few(2 * (length - shortest + 1))
        self.reward_reveals_cue = end_at_turn  # by the penalty for a step lost on purpose; see above
        span = f"{length}" if shortest == length else f"{shortest} to {length}"
        self.task = f"T-maze: remember one bit for {span} step{'s' if length > 1 else ''}"
        self._dx = torch.tensor([1, 0, -1, 0], device=self.device)
        self._dy = torch.tensor([0, 1, 0, -1], device=self.device)
        self._seed: torch.Tensor | None = None

    def reset(
        self, *, seed: int | list[int] | None = None, options: dict[str, Any] | None = None
    ) -> tuple[torch.Tensor, dict[str, Any]]:
        rows = task_rows(options, self, started=self._seed is not None)
        if seed is not None or self._seed is None:
            seeds = torch.tensor(row_seeds(seed, self.num_envs), device=self.device)
            if self._seed is None:
                self._seed = seeds
                self._episode, self._goal, self._length, self._x, self._y, self._t = torch.zeros_like(seeds).expand(
                    6, -1
                )
            self._seed = torch.where(rows, seeds, self._seed)
            self._episode = torch.where(rows, -1, self._episode)  # `_begin` counts on
        return self._begin(rows, self._observe()), {}

    @property
    def np_random_seed(self) -> Any:
        return None if self._seed is None else tuple(self._seed.tolist())

    def step(
        self, action_B: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor, dict[str, Any]]:
        if self._seed is None:
            raise RuntimeError("step was called before reset; call reset first")
        action_B = self._read_action(action_B, 4)
        self._t = self._t + 1
        self._move(action_B)
        in_arm, late = self._y != 0, self._x < self._t
        if self.end_at_turn:
            terminated, truncated = in_arm, ~in_arm & (self._t >= 2 * (self._length + 1))
            ended = terminated | truncated
        else:
            terminated, truncated = self._t > self._length, torch.zeros_like(in_arm)
            ended = terminated
        success = terminated & (self._y == self._goal)
        penalty = -1.0 / self._length.double()
        reward = torch.where(terminated, success.double(), torch.where(late, penalty, 0.0))
        final_obs = self._observe()
        obs = final_obs if self.device.type == "cpu" and not bool(ended.any()) else self._begin(ended, final_obs)
        return obs, reward, terminated, truncated, step_info(final_obs, ended, {"success": success})

    def oracle(self) -> torch.Tensor:
        if self._seed is None:
            raise RuntimeError("oracle was called before reset; call reset first")
        return torch.where(self._x < self._length, RIGHT, turn(self._goal))

    def hidden(self) -> dict[str, torch.Tensor]:
        if self._seed is None:
            raise RuntimeError("hidden was called before reset; call reset first")
        return {"cue": (self._goal > 0).long()}

    def shown(self) -> dict[str, torch.Tensor]:
        if self._seed is None:
            raise RuntimeError("shown was called before reset; call reset first")
        return {"cue": self._t == 0}

    def state_dict(self) -> dict[str, Any]:
        if self._seed is None:
            raise RuntimeError("state_dict was called before reset; there is no state yet")
        return {name: getattr(self, f"_{name}") for name in ("seed", "episode", "goal", "length", "x", "y", "t")}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        if any(value.shape != (self.num_envs,) for value in state.values()):
            raise ValueError(f"the state has {len(state['seed'])} rows; expected {self.num_envs} rows")
        rows = torch.zeros(self.num_envs, dtype=torch.int64, device=self.device)
        length = check_tensor("length", state["length"], rows, self.shortest, self.longest)
        read = {"seed": check_tensor("seed", state["seed"], rows), "length": length}
        for name, low, high in (("episode", 0, None), ("goal", -1, 1), ("x", 0, length), ("y", -1, 1), ("t", 0, None)):
            read[name] = check_tensor(name, state[name], rows, low, high)
        for name, tensor in read.items():
            setattr(self, f"_{name}", tensor)

    def _move(self, action_B: torch.Tensor) -> None:
        x, y = self._x + self._dx[action_B], self._y + self._dy[action_B]
        in_corridor = (y == 0) & (x >= 0) & (x <= self._length)
        in_crossing = (x == self._length) & (y.abs() <= 1)
        free = in_corridor | in_crossing
        self._x, self._y = torch.where(free, x, self._x), torch.where(free, y, self._y)

    def _begin(self, ended: torch.Tensor, final_obs: torch.Tensor) -> torch.Tensor:
        self._episode = self._episode + ended
        goal, length = self._draw()
        self._goal = torch.where(ended, goal, self._goal)
        self._length = torch.where(ended, length, self._length)
        self._x, self._y, self._t = (torch.where(ended, 0, v) for v in (self._x, self._y, self._t))
        return torch.where(ended[:, None], self._observe(), final_obs)

    def _draw(self) -> tuple[torch.Tensor, torch.Tensor]:
        assert self._seed is not None
        bits = counter_bits(self._seed, self._episode)
        goal = (bits & 1) * 2 - 1
        return goal, self.shortest + (bits >> 1) % (self.longest - self.shortest + 1)

    def _observe(self) -> torch.Tensor:
        at_end = self._x == self._length
        cue = torch.where(self._t == 0, self._goal, self._y)
        shown = torch.stack([at_end, cue], dim=1).float()
        if not self.distractors:
            return shown
        assert self._seed is not None
        # a stream of its own, so that the cue and the length are those of the same seed without distractors
        bits = counter_bits(counter_bits(self._seed, self._episode) ^ _DISTRACTORS, self._t)
        coins = torch.stack([bits & 1, bits >> 1 & 1], dim=1).float() * 2 - 1
        number = (bits >> 2 & 1023).float() / 511.5 - 1
        return torch.cat([shown, coins, number[:, None]], dim=1)
