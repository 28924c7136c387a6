"""MiniGrid worlds whose grid changes (doors, keys, carrying), batched; episodes are bit for bit those of the `minigrid` package.

A cell is one byte, and a step is gathers and masks over the rows. A task is a class with `_draw` (the first grid of an
episode) and `_outcome` (the end of an episode), as in `doors.py`. Where the grid never changes, tables are fifty times
faster: `memory.py`. Boxes, moving balls and lava are not implemented.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
import torch
from gymnasium import spaces

from rmt_rl.common.state import check_tensor
from rmt_rl.envs.base import Obs, TorchVectorEnv, row_generator, row_seeds, step_info, task_rows

#: MiniGrid's actions 0..6.
ACTIONS = ("left", "right", "forward", "pickup", "drop", "toggle", "done")
LEFT, RIGHT, FORWARD, PICKUP, DROP, TOGGLE = range(6)
COLORS = ("red", "green", "blue", "purple", "yellow", "grey")
OPEN, CLOSED, LOCKED = range(3)
#: (x, y) moved by "forward", by direction: right, down, left, up.
STEP = np.array([(1, 0), (0, 1), (-1, 0), (0, -1)])

_WALL, _DOOR, _KEY, _BALL, _GOAL = 2, 4, 5, 6, 8  # MiniGrid's OBJECT_TO_IDX


def cell(kind: int, color: str = "red", state: int = 0) -> int:
    """The byte of MiniGrid's triple (object, color, state); 0 is "unseen"."""
    return kind * 18 + COLORS.index(color) * 3 + state


def door(color: str, state: int) -> int:
    return cell(_DOOR, color, state)


def key(color: str) -> int:
    return cell(_KEY, color)


EMPTY, WALL, GOAL = cell(1), cell(_WALL, "grey"), cell(_GOAL, "green")


class MiniGridDirect(TorchVectorEnv):
    """The rules that all MiniGrid worlds share.

    obs["image"]: [B, view, view, 3] uint8, indexed [x, y], with the agent at the bottom center facing up; the object that it
        carries is at the agent's own cell
    obs["direction"]: [B] int64, 0 = right, 1 = down, 2 = left, 3 = up
    action: [B] integers, MiniGrid's seven: left, right, forward, pickup, drop, toggle, done (no effect)
    reward: 1 - 0.9 * steps / max_steps (float64) for success, else 0; after max_steps steps the episode is truncated

    Source: Chevalier-Boisvert et al. 2023 (arXiv 2306.13831), `minigrid_env.py` and `core/grid.py` of minigrid 3.2. The
    episodes of a seed are those of gymnasium's SyncVectorEnv with SAME_STEP. The observation has no "mission" string, which is
    constant.
    """

    episode_steps = None

    action_names = ACTIONS
    #: The tensors of `state_dict`.
    _STATE = ("grid", "position", "direction", "carrying", "steps")

    def __init__(
        self,
        num_envs: int,
        device: str | torch.device,
        width: int,
        height: int,
        usual_steps: int,
        max_steps: int | None,
        view: int,
    ) -> None:
        if view not in range(3, 12, 2):
            raise ValueError(f"view is {view}; it must be an odd number from 3 to 11")
        high = np.broadcast_to(np.array([10, 5, 3], dtype=np.uint8), (view, view, 3))
        image = spaces.Box(low=np.zeros_like(high), high=high, dtype=np.uint8)
        observation_space = spaces.Dict(image=image, direction=spaces.Discrete(4))
        super().__init__(num_envs, device, observation_space, spaces.Discrete(len(ACTIONS)))
        self.width, self.height, self.view, self.max_steps = width, height, view, max_steps or usual_steps
        if self.max_steps < usual_steps:
            self.ceiling = None  # the goal may be out of reach
        # a border of walls as wide as the view: MiniGrid shows walls outside the grid, and no index leaves the grid
        self._border = view - 1
        self._column = height + 2 * self._border
        self._size = (width + 2 * self._border) * self._column
        self._ahead = self._to_device(STEP @ [self._column, 1])
        right, up = np.meshgrid(np.arange(view) - view // 2, view - 1 - np.arange(view), indexing="ij")
        seen = up[..., None] * STEP[:, None, None] + right[..., None] * np.roll(STEP, -1, axis=0)[:, None, None]
        self._seen = self._to_device((seen @ [self._column, 1]).reshape(4, -1))
        self._light = self._to_device(_light(view))
        self._bit = 1 << torch.arange(view, device=self.device)
        self._cells = {name: self._to_device(table) for name, table in _cell_tables().items()}
        # entry 0 is for all steps without success; Python floats, so that the arithmetic is MiniGrid's
        reward = [0.0] + [1 - 0.9 * (t / self.max_steps) for t in range(1, self.max_steps + 1)]
        self._reward = torch.tensor(reward, dtype=torch.float64, device=self.device)
        self._generators: list[np.random.Generator] = []
        self._seeds: list[int] = []  # empty before the first reset, like the generators

    def _draw(self, generator: np.random.Generator) -> tuple[np.ndarray, tuple[int, int], int]:
        """The start of an episode: grid [width, height], the agent's (x, y), its direction. Draws in MiniGrid's order."""
        raise NotImplementedError(f"{type(self).__name__} does not implement _draw")

    def _outcome(self, action_B: torch.Tensor, ahead_B: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """(terminated, success) [B] after a step; ahead_B: the cell in front of the agent before the step."""
        raise NotImplementedError(f"{type(self).__name__} does not implement _outcome")

    def reset(
        self, *, seed: int | list[int] | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Obs, dict[str, Any]]:
        """Start a new episode in every row, or in those of options["reset_mask"].

        Without a seed the generators of the rows continue, or get random seeds.
        """
        started = bool(self._generators)
        rows = task_rows(options, self, started).nonzero().squeeze(1)
        if seed is not None or not started:
            new = dict(enumerate(row_seeds(seed, self.num_envs)))
            if not started:
                self._generators, self._seeds = [row_generator(0)] * self.num_envs, [-1] * self.num_envs
                self._grid = torch.empty(self.num_envs, self._size, dtype=torch.uint8, device=self.device)
                self._position, self._direction, self._carrying, self._steps = (
                    torch.empty(self.num_envs, dtype=dtype, device=self.device)
                    for dtype in (torch.int64, torch.int64, torch.uint8, torch.int64)
                )
            for row in rows.tolist():
                self._generators[row], self._seeds[row] = row_generator(new[row]), new[row]
        self._begin(rows)
        return self._observe(torch.arange(self.num_envs, device=self.device)), {}

    @property
    def np_random_seed(self) -> Any:
        return tuple(self._seeds) if self._seeds else None

    def step(self, action_B: torch.Tensor) -> tuple[Obs, torch.Tensor, torch.Tensor, torch.Tensor, dict[str, Any]]:
        """One step of every row; see `TorchVectorEnv` for the results."""
        if not self._generators:
            raise RuntimeError("step was called before reset; call reset(seed=...) first")
        action_B = self._read_action(action_B, len(ACTIONS))
        place = self._position + self._ahead[self._direction]
        ahead = self._grid.gather(1, place[:, None]).squeeze(1)
        self._change(action_B, place, ahead)
        turn = (action_B == RIGHT).long() - (action_B == LEFT).long()
        self._direction = (self._direction + turn) & 3
        free = self._cells["can_overlap"][ahead.long()]
        self._position = torch.where((action_B == FORWARD) & free, place, self._position)
        self._steps = self._steps + 1

        terminated, success = self._outcome(action_B, ahead)
        truncated = self._steps >= self.max_steps
        ended = terminated | truncated
        reward = self._reward[self._steps * success]
        rows = torch.arange(self.num_envs, device=self.device)
        obs = final_obs = self._observe(rows)
        over = ended.nonzero().squeeze(1)
        if len(over):
            self._begin(over)
            new = self._observe(over)
            obs = {name: final_obs[name].index_copy(0, over, new[name]) for name in final_obs}
        return obs, reward, terminated, truncated, step_info(final_obs, ended, {"success": success})

    def _change(self, action_B: torch.Tensor, place_B: torch.Tensor, ahead_B: torch.Tensor) -> None:
        """Apply the actions that change the grid: pick up, drop, open, close, unlock."""
        kind, free_hands = ahead_B.long(), self._carrying == EMPTY
        pick = (action_B == PICKUP) & self._cells["can_pickup"][kind] & free_hands
        drop = (action_B == DROP) & (ahead_B == EMPTY) & ~free_hands
        unlock = (self._carrying == self._cells["key"][kind]) & ~free_hands
        toggled = torch.where(unlock, self._cells["unlocked"][kind], self._cells["toggled"][kind])
        after = torch.where(action_B == TOGGLE, toggled, ahead_B)
        after = torch.where(pick, EMPTY, torch.where(drop, self._carrying, after))
        self._grid.scatter_(1, place_B[:, None], after[:, None])
        self._carrying = torch.where(pick, ahead_B, torch.where(drop, EMPTY, self._carrying))

    def _begin(self, rows: torch.Tensor) -> None:
        grids = np.full((len(rows), self.width + 2 * self._border, self._column), WALL, dtype=np.uint8)
        inside = grids[:, self._border : -self._border, self._border : -self._border]
        positions, directions = [], []
        for i, row in enumerate(rows.tolist()):
            inside[i], (x, y), direction = self._draw(self._generators[row])
            positions.append((x + self._border) * self._column + y + self._border)
            directions.append(direction)
        self._grid[rows] = self._to_device(grids.reshape(len(rows), -1))
        # not in place: returned tensors may share their memory
        self._position = self._position.index_copy(0, rows, torch.tensor(positions, device=self.device))
        self._direction = self._direction.index_copy(0, rows, torch.tensor(directions, device=self.device))
        self._carrying = self._carrying.index_fill(0, rows, EMPTY)
        self._steps = self._steps.index_fill(0, rows, 0)

    def _observe(self, rows: torch.Tensor) -> dict[str, torch.Tensor]:
        """The observations of some rows."""
        view, direction = self.view, self._direction[rows]
        place = self._position[rows, None] + self._seen[direction]
        seen = self._grid[rows].gather(1, place)
        # visibility spreads from the agent's cell, row after row: Grid.process_vis, with a table for the scan of one row
        clear = (self._cells["see_behind"][seen.long()].view(-1, view, view) * self._bit[:, None]).sum(1)
        lit = clear.new_full((len(rows),), 1 << (view // 2))
        rows_lit = []
        for y in reversed(range(view)):
            packed = self._light[(lit << view) | clear[:, y]]
            rows_lit.append(packed & ((1 << view) - 1))
            lit = packed >> view
        visible = (torch.stack(rows_lit[::-1], dim=1)[:, None] & self._bit[:, None]) != 0
        shown = seen.view(-1, view, view)
        shown[:, view // 2, view - 1] = self._carrying[rows]
        return {"image": self._cells["image"][(shown * visible).long()], "direction": direction}

    def world(self, row: int) -> tuple[np.ndarray, tuple[int, int], int]:
        """For pictures: the objects of all cells [width, height, 3], the agent's (x, y) and its direction."""
        x, y = divmod(int(self._position[row]), self._column)
        grid = self._grid[row].cpu().numpy().reshape(-1, self._column)
        inside = grid[self._border : -self._border, self._border : -self._border]
        image = self._cells["image"].cpu().numpy()[inside]
        return image, (x - self._border, y - self._border), int(self._direction[row])

    def state_dict(self) -> dict[str, Any]:
        """The grid and the agent of every row, and the states of the numpy generators as plain integers."""
        if not self._generators:
            raise RuntimeError("state_dict was called before reset; there is no state yet")
        generators = [generator.bit_generator.state for generator in self._generators]
        return {**{name: getattr(self, f"_{name}").clone() for name in self._STATE}, "generators": generators}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue exactly from a result of `state_dict`; configuration and number of rows must be the same."""
        if state["grid"].shape != (self.num_envs, self._size):
            rows, size = state["grid"].shape
            raise ValueError(
                f"the state has {rows} rows of {size} cells; expected {self.num_envs} rows of {self._size} cells"
            )
        read = self._checked(state)
        self._generators, self._seeds = [row_generator(0) for _ in range(self.num_envs)], [-1] * self.num_envs
        for generator, saved in zip(self._generators, state["generators"], strict=True):
            generator.bit_generator.state = saved
        for name, tensor in read.items():
            setattr(self, f"_{name}", tensor)

    def _checked(self, state: dict[str, Any]) -> dict[str, torch.Tensor]:
        """The tensors of a state; raises ValueError where the agent is, or could get, outside the grid."""
        rows = torch.zeros(self.num_envs, dtype=torch.int64, device=self.device)
        grid = torch.zeros(self.num_envs, self._size, dtype=torch.uint8, device=self.device)
        read = {
            "grid": check_tensor("grid", state["grid"], grid),
            "position": check_tensor("position", state["position"], rows, 0, self._size - 1),
            "direction": check_tensor("direction", state["direction"], rows, 0, 3),
            "carrying": check_tensor("carrying", state["carrying"], rows.to(torch.uint8)),
            "steps": check_tensor("steps", state["steps"], rows, 0, self.max_steps - 1),
        }
        inside = torch.zeros(self._size // self._column, self._column, dtype=torch.bool, device=self.device)
        inside[self._border : -self._border, self._border : -self._border] = True
        if not bool(inside.flatten()[read["position"]].all()):
            raise ValueError("position lies outside the grid")
        if bool((read["grid"][:, ~inside.flatten()] != WALL).any()):
            raise ValueError("grid is not surrounded by walls")
        return read

    def _to_device(self, table: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(table).to(self.device)


def empty_room(width: int, height: int) -> np.ndarray:
    """[width, height] empty cells surrounded by walls."""
    grid = np.full((width, height), WALL, dtype=np.uint8)
    grid[1:-1, 1:-1] = EMPTY
    return grid


def place(
    generator: np.random.Generator,
    grid: np.ndarray,
    left: int,
    right: int,
    agent: tuple[int, int] | None = None,
) -> tuple[int, int]:
    """A random free cell with left <= x < right, as MiniGridEnv.place_obj draws it: repeated until the cell is free."""
    while True:
        x, y = int(generator.integers(left, right)), int(generator.integers(0, grid.shape[1]))
        if grid[x, y] == EMPTY and (x, y) != agent:
            return x, y


@lru_cache(maxsize=1)
def _cell_tables() -> dict[str, np.ndarray]:
    """Properties of every cell byte. Source: core/world_object.py of minigrid 3.2."""
    number = np.arange(256)
    kind, color, state = number // 18, number // 3 % 6, number % 3
    is_door, locked = kind == _DOOR, (kind == _DOOR) & (state == LOCKED)
    opened = number - state
    flipped = np.where(state == OPEN, opened + CLOSED, opened)
    return {
        "image": np.stack([kind, color, state], axis=1).astype(np.uint8),
        "can_overlap": (number == EMPTY) | (kind == _GOAL) | (is_door & (state == OPEN)),
        "can_pickup": (kind == _KEY) | (kind == _BALL),
        "see_behind": ~((kind == _WALL) | (is_door & (state != OPEN))),
        "toggled": np.where(is_door & ~locked, flipped, number).astype(np.uint8),
        # the key that opens a locked door, and the door after that; EMPTY, which cannot be carried, for all other cells
        "key": np.where(locked, _KEY * 18 + color * 3, EMPTY).astype(np.uint8),
        "unlocked": np.where(locked, opened, number).astype(np.uint8),
    }


@lru_cache(maxsize=8)
def _light(view: int) -> np.ndarray:
    """[4^view] visibility of one row of cells, as bits. Index: the row's visible cells, and below them its transparent cells.
    Value: the visible cells of the next row, and below them all visible cells of this row.

    Source: Grid.process_vis of minigrid 3.2. A scan from left to right and one from right to left; each visible and transparent
    cell makes its neighbor, the cell above and the cell above the neighbor visible.
    """
    lit, clear = np.divmod(np.arange(4**view), 2**view)
    above = np.zeros_like(lit)
    for i, side in [(i, i + 1) for i in range(view - 1)] + [(i, i - 1) for i in reversed(range(1, view))]:
        shines = (lit >> i) & (clear >> i) & 1
        lit |= shines << side
        above |= (shines << side) | (shines << i)
    return lit | (above << view)
