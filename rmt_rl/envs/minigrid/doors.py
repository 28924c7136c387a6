"""DoorKey and RedBlueDoors of MiniGrid. They are controls, not memory tests; each class says how much memory helps."""

from __future__ import annotations

import numpy as np
import torch

from rmt_rl.envs.minigrid.direct import (
    CLOSED,
    FORWARD,
    GOAL,
    LOCKED,
    OPEN,
    TOGGLE,
    WALL,
    MiniGridDirect,
    door,
    empty_room,
    key,
    place,
)


class DoorKey(MiniGridDirect):
    """MiniGrid-DoorKey: fetch the key, unlock the door, reach the goal. Observation, actions, reward: see `MiniGridDirect`.

    The observation shows the carried object and the state of the door, so memory only helps to explore: it tells where the
    agent has already looked. `floor` is None: in the 5 x 5 room a stochastic policy without memory reaches 1.000
    (experiments/proofs/minigrid_floors.py, exact); larger rooms were not searched. `ceiling` is 1: everything is reachable, and
    10 * size^2 steps suffice to pass every cell. With a smaller `max_steps` it is None.
    """

    ceiling = 1.0

    def __init__(
        self,
        num_envs: int,
        device: str | torch.device = "cpu",
        *,
        size: int = 8,
        view: int = 7,
        max_steps: int | None = None,
    ) -> None:
        if size < 5:
            raise ValueError(f"size is {size}; it must be at least 5")
        super().__init__(num_envs, device, size, size, 10 * size**2, max_steps, view)
        self.task = f"MiniGrid-DoorKey {size}x{size}, view {view}: fetch a key, open a door, reach the goal"

    def _draw(self, generator: np.random.Generator) -> tuple[np.ndarray, tuple[int, int], int]:
        grid = empty_room(self.width, self.height)
        grid[-2, -2] = GOAL
        split = int(generator.integers(2, self.width - 2))
        grid[split] = WALL
        agent = place(generator, grid, 0, split)
        direction = int(generator.integers(0, 4))
        grid[split, generator.integers(1, self.height - 2)] = door("yellow", LOCKED)
        grid[place(generator, grid, 0, split, agent)] = key("yellow")
        return grid, agent, direction

    def _outcome(self, action_B: torch.Tensor, ahead_B: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        arrived = (action_B == FORWARD) & (ahead_B == GOAL)
        return arrived, arrived


class RedBlueDoors(MiniGridDirect):
    """MiniGrid-RedBlueDoors: open the red door, then the blue one. Observation, actions, reward: see `MiniGridDirect`.

    Often called a memory task, but MiniGrid's documentation says that it is "solvable without memory". It is no evidence for
    memory: with size 6 a stochastic policy without memory reaches 0.978 (view 3) and 0.998 (view 7)
    (experiments/proofs/minigrid_floors.py, exact). `floor` is None, because larger rooms were not searched. `ceiling` is 1:
    20 * size^2 steps suffice to pass every cell. With a smaller `max_steps` it is None.
    """

    ceiling = 1.0

    def __init__(
        self,
        num_envs: int,
        device: str | torch.device = "cpu",
        *,
        size: int = 8,
        view: int = 7,
        max_steps: int | None = None,
    ) -> None:
        if size < 4 or size % 2:
            raise ValueError(f"size is {size}; it must be an even number of at least 4")
        super().__init__(num_envs, device, 2 * size, size, 20 * size**2, max_steps, view)
        self.task = f"MiniGrid-RedBlueDoors {size}x{size}, view {view}: open the red door, then the blue one"

    def _draw(self, generator: np.random.Generator) -> tuple[np.ndarray, tuple[int, int], int]:
        grid, size = empty_room(self.width, self.height), self.height
        left = size // 2
        right = left + size - 1
        grid[[left, right]] = WALL
        agent = place(generator, grid, left, right + 1)
        direction = int(generator.integers(0, 4))
        grid[left, generator.integers(1, size - 1)] = door("red", CLOSED)
        grid[right, generator.integers(1, size - 1)] = door("blue", CLOSED)
        return grid, agent, direction

    def _outcome(self, action_B: torch.Tensor, ahead_B: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        opened = (action_B == TOGGLE) & (ahead_B == door("blue", CLOSED))
        return opened, opened & (self._grid == door("red", OPEN)).any(dim=1)
