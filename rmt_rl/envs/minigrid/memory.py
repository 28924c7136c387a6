"""MiniGrid-Memory as lookup tables: bit for bit the episodes of the `minigrid` package, thousands of times faster.

The grid never changes during an episode: pickup is remapped to toggle, which has no effect on a key, a ball or a wall. So
observation, next state and outcome are pure functions of (layout, cell, direction), and a step is a few gathers.

MiniGrid environments whose grid changes are in `direct.py`. This file does not import `minigrid`; the tests compare with it.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
from gymnasium import spaces

from rmt_rl.common.state import check_count, check_tensor
from rmt_rl.envs.base import Obs, TorchVectorEnv, row_generator, row_seeds, step_info, task_rows
from rmt_rl.envs.minigrid.direct import ACTIONS as NAMES
from rmt_rl.envs.words import lemire

SIZES = (7, 9, 11, 13, 17)
RANDOM_SIZES = (13, 17)
ACTIONS = (3, 7)

EMPTY, WALL, KEY, BALL = 1, 2, 5, 6  # MiniGrid's OBJECT_TO_IDX; 0 is "unseen"
COLOR = np.array([0, 0, 5, 0, 0, 1, 1], dtype=np.uint8)  # by object: walls are gray, key and ball are green
STEP = np.array([(1, 0), (0, 1), (-1, 0), (0, -1)])  # (x, y) moved by "forward", by direction: right, down, left, up

#: Best success rate found for a policy without memory, by (size, random, view), where the cue is visible from the fork, so
#: that more than 0.5 is possible. Output of experiments/proofs/minigrid_floors.py.
FLOORS = {
    (7, False, 5): 0.976,
    (7, False, 7): 0.976,
    (9, False, 7): 0.984,
    (13, True, 5): 0.570,
    (13, True, 7): 0.711,
    (17, True, 5): 0.545,
    (17, True, 7): 0.635,
}

#: Number of episode starts that are drawn for a row at a time; the queue of a row is two blocks long.
BLOCK = 16


class MiniGridMemory(TorchVectorEnv):
    """MiniGrid-Memory: look at an object, walk to a fork, turn towards the same object.

    An episode starts in the corridor between a room with a key or a ball (the cue) and a fork with a key and a ball at its
    ends. The agent often starts past the cue, facing away from it. The episode terminates at either object, with reward
    1 - 0.9 * steps / max_steps (float64) at the one that equals the cue and 0 at the other. It is truncated after max_steps
    steps, by default 5 * size^2. Both can happen in one step.

    obs["image"]: [B, view, view, 3] uint8, indexed [x, y], with the agent at the bottom center facing up: object, color and
        door state as category indices, with the bounds 10, 5 and 3
    obs["direction"]: [B] int64, 0 = right, 1 = down, 2 = left, 3 = up
    action: [B] integers, 0 = left, 1 = right, 2 = forward; with actions=7 also MiniGrid's 3..6, which have no effect here
    success: the agent reached the object that equals the cue

    `floor` is 0.5 where the cue is not visible from the fork cell in any direction. Proof: the fork cell is entered only from
    the corridor, facing right. From that state a policy without memory takes the upper end with probability a, the lower end
    with probability b, or goes back; a and b depend on the objects at the fork, not on the cue. Let n_cue be the mean number of
    visits to the fork. Given the two ends, each cue makes one of them correct, so the success rate is
    (n_key a + n_ball b) / 2, or the same with a and b exchanged; n_cue (a + b) <= 1 makes it at most 1/2. A time limit can only
    remove successes. "Forward, and left where a wall is ahead" attains 1/2. Where the cue is visible from the fork, `floor` is
    the number in FLOORS, found by experiments/proofs/minigrid_floors.py, or None where that did not search.
    `ceiling` is 1: in every view the cue is visible from the room and the ends from the fork. With a smaller `max_steps`,
    `ceiling` is None, and `floor` is known only where it is 0.5 and the `size` - 1 steps of that walk fit in.

    Source: Chevalier-Boisvert et al. 2023 (arXiv 2306.13831), `minigrid/envs/memory.py` of minigrid 3.2. The episodes of a
    seed are those of gymnasium's SyncVectorEnv with SAME_STEP. Differences: the observation has no "mission" string, which is
    constant; `actions=3`, our default, omits the four actions without effect.
    """

    episode_steps = None

    ceiling: float | None = 1.0
    hidden_values = MappingProxyType({"cue": ("key", "ball")})

    def __init__(
        self,
        num_envs: int,
        device: str | torch.device = "cpu",
        *,
        size: int = 7,
        random: bool = False,
        view: int = 3,
        actions: int = 3,
        max_steps: int | None = None,
    ) -> None:
        allowed = RANDOM_SIZES if random else SIZES
        if size not in allowed:
            raise ValueError(f"size is {size}; with random={random} it must be one of {allowed}")
        if view < 3 or view % 2 == 0:
            raise ValueError(f"view is {view}; it must be an odd number of at least 3")
        if actions not in ACTIONS:
            raise ValueError(f"actions is {actions}; it must be one of {ACTIONS}")
        high = np.broadcast_to(np.array([10, 5, 3], dtype=np.uint8), (view, view, 3))
        image = spaces.Box(low=np.zeros_like(high), high=high, dtype=np.uint8)
        super().__init__(
            num_envs, device, spaces.Dict(image=image, direction=spaces.Discrete(4)), spaces.Discrete(actions)
        )
        usual_steps = 5 * size**2
        self.max_steps = max_steps or usual_steps
        self.task = (
            f"MiniGrid-Memory S{size}{'Random' if random else ''}, view {view}: remember a key or a ball "
            f"along a corridor of {'up to ' if random else ''}{size - 6} cell{'s' if size > 7 else ''}"
        )
        self.action_names = NAMES[:actions]
        self._config = {"size": size, "random": random, "view": view, "actions": actions, "max_steps": self.max_steps}
        self._tables = tables(size, random, view)
        # a position, a cue and an order of the ends; with random corridors some are more likely than others
        self.distinct_episodes = None if random else 4 * self._tables.shortest
        self.floor = 0.5 if self._tables.fork_hides_cue.all() else FLOORS.get((size, random, view))
        if self.max_steps < usual_steps:
            self.ceiling = None
            # "Forward, and left where a wall is ahead" arrives after at most size - 1 steps, from the first cell
            self.floor = self.floor if self.floor == 0.5 and self.max_steps >= size - 1 else None

        stay = torch.arange(len(self._tables.next))[:, None].expand(-1, actions - 3)
        self._num_actions = actions
        self._next = torch.cat([self._tables.next, stay], dim=1).flatten().to(self.device)
        self._image = self._tables.image.to(self.device)
        self._cue = torch.from_numpy(self._tables.cells[:, 1]).long().repeat_interleave(4).to(self.device)
        # entry 0 is for all steps without success; Python floats, so that the arithmetic is MiniGrid's
        reward = [0.0] + [1 - 0.9 * (t / self.max_steps) for t in range(1, self.max_steps + 1)]
        self._reward = torch.tensor(reward, dtype=torch.float64, device=self.device)
        self._generators: list[np.random.Generator] = []
        # The next starts of row b are _queue[_cursor[b]:] up to the end of its two blocks.
        self._queue_begin = torch.arange(num_envs, device=self.device) * (2 * BLOCK)
        self._queue = torch.zeros(num_envs * 2 * BLOCK, dtype=torch.int64, device=self.device)
        self._cursor, self._until_refill = self._queue_begin.clone(), BLOCK
        self._state, self._steps, self._known = self._queue_begin, torch.zeros_like(self._cursor), self._unknown()
        self._seeds: list[int] = []  # empty before the first reset

    def reset(
        self, *, seed: int | list[int] | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Obs, dict[str, Any]]:
        """Start a new episode in every row, or in those of options["reset_mask"].

        Without a seed the generators of the rows continue, or get random seeds.
        """
        rows = task_rows(options, self, started=bool(self._generators))
        if seed is not None or not self._generators:
            self._seed_rows(rows.nonzero().squeeze(1), row_seeds(seed, self.num_envs))
        self._steps = torch.where(rows, 0, self._steps)
        self._known = self._known & ~rows
        self._state = torch.where(rows, self._take_starts(rows), self._state)
        return self._observe(self._state), {}

    @property
    def np_random_seed(self) -> Any:
        return tuple(self._seeds) if self._seeds else None

    def step(self, action_B: torch.Tensor) -> tuple[Obs, torch.Tensor, torch.Tensor, torch.Tensor, dict[str, Any]]:
        """One step of every row; see `TorchVectorEnv` for the results."""
        if not self._generators:
            raise RuntimeError("step was called before reset; call reset(seed=...) first")
        action_B = self._read_action(action_B, self._num_actions)
        last = self._next.index_select(0, torch.add(action_B, self._state, alpha=self._num_actions))
        self._steps += 1
        success = last < self._tables.num_success
        terminated = last < self._tables.num_terminal
        truncated = self._steps >= self.max_steps
        ended = terminated | truncated
        reward = self._reward.index_select(0, self._steps * success)

        self._state = torch.where(ended, self._take_starts(ended), last)
        self._steps.masked_fill_(ended, 0)
        info = step_info(self._observe(last), ended, {"success": success})
        return self._observe(self._state), reward, terminated, truncated, info

    def state_dict(self) -> dict[str, Any]:
        """Configuration, episode and queue of every row, and the states of the numpy generators as plain integers."""
        if not self._generators:
            raise RuntimeError("state_dict was called before reset; there is no state yet")
        return {
            "config": dict(self._config),
            "state": self._state.clone(),
            "steps": self._steps.clone(),
            "queue": self._queue.clone(),
            "cursor": self._cursor.clone(),
            "known": self._known.clone(),
            "until_refill": self._until_refill,
            "generators": [generator.bit_generator.state for generator in self._generators],
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue exactly from a result of `state_dict`; configuration and number of rows must be the same."""
        if state["config"] != self._config:
            raise ValueError(f"the state has the configuration {state['config']}; expected {self._config}")
        if len(state["generators"]) != self.num_envs:
            raise ValueError(f"the state has {len(state['generators'])} rows; expected {self.num_envs} rows")
        generators = [row_generator(0) for _ in range(self.num_envs)]
        for generator, saved in zip(generators, state["generators"], strict=True):
            generator.bit_generator.state = saved
        # an index out of range would be an error of torch, many steps later
        rows, begin = torch.zeros(self.num_envs, dtype=torch.int64, device=self.device), self._queue_begin
        queue, playing = rows.repeat_interleave(2 * BLOCK), (self._tables.num_terminal, len(self._image) - 1)
        refill = check_count("until_refill", state["until_refill"])
        read = {
            "state": check_tensor("state", state["state"], rows, *playing),
            "steps": check_tensor("steps", state["steps"], rows, 0, self.max_steps - 1),
            "queue": check_tensor("queue", state["queue"], queue, *playing),
            # a row takes one start at each call until the queue is refilled
            "cursor": check_tensor("cursor", state["cursor"], rows, begin, begin + 2 * BLOCK - refill),
            # absent in states of format 1; without it the expert looks again
            "known": check_tensor("known", state.get("known", torch.zeros(2, len(rows)).bool()), self._unknown()),
        }
        for name, tensor in read.items():
            setattr(self, f"_{name}", tensor)
        self._until_refill = refill
        self._generators, self._seeds = generators, [-1] * self.num_envs

    def oracle(self) -> torch.Tensor:
        """[B] actions of an expert that uses only what it has observed: it walks to the nearest state whose view reveals the cue,
        then to the nearest state at the fork whose view reveals its ends, then to the correct end.

        A policy that imitates it has therefore observed everything that the actions depend on. The environment records what each
        row has observed at the calls of this method in an episode; call it at every step.
        """
        if not self._generators:
            raise RuntimeError("oracle was called before reset; call reset(seed=...) first")
        expert = _expert(*(self._config[key] for key in ("size", "random", "view")))
        reveals, ways = (table.to(self.device) for table in expert)
        started = self._steps == 0
        self._known = torch.where(started, False, self._known) | reveals.index_select(1, self._state)
        goal = torch.where(self._known[0], torch.where(self._known[1], 2, 1), 0)
        return ways[goal, self._state]

    def hidden(self) -> dict[str, torch.Tensor]:
        if not self._generators:
            raise RuntimeError("hidden was called before reset; call reset(seed=...) first")
        return {"cue": self._cue.index_select(0, self._state)}

    def shown(self) -> dict[str, torch.Tensor]:
        if not self._generators:
            raise RuntimeError("shown was called before reset; call reset(seed=...) first")
        reveals, _ = _expert(*(self._config[key] for key in ("size", "random", "view")))
        return {"cue": reveals[0].to(self.device).index_select(0, self._state)}

    def world(self, row: int) -> tuple[np.ndarray, tuple[int, int], int]:
        """For pictures: the objects of all cells [size, size, 3], the agent's (x, y) and its direction."""
        state = int(self._state[row])
        h, cue, order, x, y = self._tables.cells[state // 4].tolist()
        objects = _grids(self._config["size"], range(h, h + 1))[0, cue, order]
        return np.stack([objects, COLOR[objects], np.zeros_like(objects)], axis=-1), (x, y), state % 4

    def _unknown(self) -> torch.Tensor:
        return torch.zeros(2, self.num_envs, dtype=torch.bool, device=self.device)

    def _observe(self, state_B: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"image": self._image.index_select(0, state_B), "direction": state_B & 3}

    def _seed_rows(self, rows: torch.Tensor, seeds: list[int]) -> None:
        """New generators for the rows with these numbers, and the first two blocks of their queues."""
        new, old = {row: seeds[row] for row in rows.tolist()}, (self._generators, self._seeds)
        self._generators = [row_generator(new[row]) if row in new else old[0][row] for row in range(self.num_envs)]
        self._seeds = [new[row] if row in new else old[1][row] for row in range(self.num_envs)]
        drawn = torch.from_numpy(self._draw_starts(list(new), 2 * BLOCK)).to(self.device)
        self._queue.view(self.num_envs, 2 * BLOCK)[rows] = drawn
        self._cursor[rows] = self._queue_begin[rows]

    def _take_starts(self, taken_B: torch.Tensor) -> torch.Tensor:
        """[B] the next start of every row; only the rows of `taken_B` consume theirs."""
        # A row takes at most one start per call, so a check every BLOCK calls suffices; on a GPU a check waits for the device.
        if self._until_refill == 0:
            self._refill()
        self._until_refill -= 1
        start_B = self._queue.index_select(0, self._cursor)
        self._cursor += taken_B
        return start_B

    def _refill(self) -> None:
        """In rows that have consumed the first block of their queue, move the second one there and draw another."""
        rows = (self._cursor - self._queue_begin >= BLOCK).nonzero().squeeze(1)
        drawn = torch.from_numpy(self._draw_starts(rows.tolist(), BLOCK)).to(self.device)
        queue_BQ = self._queue.view(self.num_envs, 2 * BLOCK)
        queue_BQ[rows] = torch.cat([queue_BQ[rows, BLOCK:], drawn], dim=1)
        self._cursor[rows] -= BLOCK
        self._until_refill = BLOCK

    def _draw_starts(self, rows: Sequence[int], count: int) -> np.ndarray:
        """[rows, count] start states, each row from its own generator."""
        generators = [self._generators[row] for row in rows]
        words = np.empty((len(generators), count, 4 if self._config["random"] else 3), dtype=np.uint64)
        for i, generator in enumerate(generators):
            words[i] = generator.integers(2**32, size=words.shape[1:], dtype=np.uint32)

        redraw = np.zeros(words.shape[:2], dtype=bool)
        columns = iter(np.moveaxis(words, -1, 0))

        def below(n: int | np.ndarray) -> np.ndarray:
            drawn, again = lemire(next(columns), n)
            redraw[again] = True
            return drawn

        starts = self._tables.start(below)
        for i in np.flatnonzero(redraw.any(axis=1)).tolist():
            starts[i] = self._draw_slowly(words[i].flatten().tolist(), generators[i], count)
        return starts

    def _draw_slowly(self, words: list[int], generator: np.random.Generator, count: int) -> list[int]:
        """The starts of one row that needs more words than usual, one start at a time."""
        more = iter(lambda: int(generator.integers(2**32, dtype=np.uint32)), None)
        stream = itertools.chain(words, more)

        def below(n: int) -> int:
            while (product := next(stream) * n) & 0xFFFFFFFF < 2**32 % n:
                pass
            return product >> 32

        return [int(self._tables.start(below)) for _ in range(count)]


@dataclass(frozen=True)
class Tables:
    """All states of one (size, random, view), numbered 4 * cell + direction; the number of a cell includes the layout.

    cells: [states / 4, 5] the cells that an agent can reach, as (corridor end h, cue, order, x, y); cue 0 = key,
        1 = ball; order 0 = ball at the upper end, 1 = key there
    num_success: in the states below this number the agent is at the correct object
    num_terminal: in the states below this number the agent is at an object
    next: [states, 3] the state after left, right, forward
    image: [states, view, view, 3] uint8
    starts: [h - shortest, x - 1, cue, order] the first state of an episode
    shortest: the smallest h
    fork_hides_cue: [h - shortest] whether all views from the fork cell are the same with a key and a ball as the cue
    """

    cells: np.ndarray
    num_success: int
    num_terminal: int
    next: torch.Tensor
    image: torch.Tensor
    starts: np.ndarray
    shortest: int
    fork_hides_cue: np.ndarray

    def start(self, below: Callable[[Any], Any]) -> Any:
        """The start of an episode, with MiniGrid's random draws in its order; below(n): the next integer or array from 0..n-1."""
        # fixed sizes do not draw a length
        h = below(len(self.starts)) if len(self.starts) > 1 else 0
        x = below(h + self.shortest)
        cue = below(2)
        order = below(2)
        return self.starts[h, x, cue, order]


@lru_cache(maxsize=32)
def tables(size: int, random: bool, view: int) -> Tables:
    """The tables of a configuration; the tests compare them with the `minigrid` package."""
    middle = size // 2
    lengths = range(4, size - 2) if random else range(size - 3, size - 2)
    cells = np.array(
        [
            (h, cue, order, x, y)
            for h, cue, order in itertools.product(lengths, (0, 1), (0, 1))
            for x, y in itertools.product(range(1, h + 2), range(middle - 1, middle + 2))
            if (x <= 3 or y == middle or x == h + 1) and (x, y) != (1, middle - 1)
        ]
    )
    h, cue, order, x, y = cells.T
    terminal = (x == h + 1) & (y != middle)
    success = terminal & ((y < middle) == (cue != order))
    cells = cells[np.argsort(np.where(success, 0, np.where(terminal, 1, 2)), kind="stable")]

    h, cue, order, x, y = cells.T
    number = np.full((size, 2, 2, size, size), -1)
    number[h, cue, order, x, y] = np.arange(len(cells))
    ahead = number[h[:, None], cue[:, None], order[:, None], x[:, None] + STEP[:, 0], y[:, None] + STEP[:, 1]]
    direction = np.arange(4)
    forward = 4 * np.where(ahead < 0, np.arange(len(cells))[:, None], ahead) + direction
    turned = [4 * np.arange(len(cells))[:, None] + (direction + turn) % 4 for turn in (-1, 1)]

    image = _images(size, view, lengths, cells)
    ends = np.array(lengths)
    fork = image[4 * number[ends, :, :, ends + 1, middle][..., None] + direction]
    starts = np.stack([number[end, :, :, 1:size, middle] for end in lengths])
    return Tables(
        cells=cells,
        num_success=4 * int(success.sum()),
        num_terminal=4 * int(terminal.sum()),
        next=torch.from_numpy(np.stack([*turned, forward], axis=-1).reshape(-1, 3)),
        image=torch.from_numpy(image),
        starts=4 * np.ascontiguousarray(starts.transpose(0, 3, 1, 2)),
        shortest=lengths[0],
        fork_hides_cue=(fork[:, 0] == fork[:, 1]).reshape(len(ends), -1).all(axis=1),
    )


@lru_cache(maxsize=32)
def _expert(size: int, random: bool, view: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Tables of the oracle: [2, states] whether the view reveals the cue, and the order of the ends; [3, states] the first action
    of a shortest path to a state that reveals the cue, to one at the fork that reveals the order, and to the correct end."""
    known = tables(size, random, view)
    image, following = known.image.numpy(), known.next.numpy()
    number = {tuple(cell): i for i, cell in enumerate(known.cells.tolist())}
    others = [
        np.array([number[h, cue ^ flip_cue, order ^ flip_order, x, y] for h, cue, order, x, y in known.cells.tolist()])
        for flip_cue, flip_order in ((1, 0), (0, 1))
    ]
    other_state = [(4 * other[:, None] + np.arange(4)).flatten() for other in others]
    reveals = np.stack([(image != image[other]).any(axis=(1, 2, 3)) for other in other_state])
    state = np.arange(len(image))
    # the order only counts at the fork: to use a view from afar, the agent would have to know the length of the corridor
    fork = np.repeat(known.cells[:, 3] == known.cells[:, 0] + 1, 4)
    ends, ways = state < known.num_terminal, []
    for goal in (reveals[0] & ~ends, reveals[1] & ~ends & fork, state < known.num_success):
        distance = np.where(goal, 0.0, np.inf)
        while True:
            nearer = np.where(ends, distance, np.minimum(distance, 1 + distance[following].min(axis=1)))
            if (nearer == distance).all():
                break
            distance = nearer
        ways.append(distance[following].argmin(axis=1))
    return torch.from_numpy(reveals), torch.from_numpy(np.stack(ways))


def _grids(size: int, lengths: range) -> np.ndarray:
    """[lengths, cue, order, x, y] the object of every cell, as MemoryEnv._gen_grid places them."""
    middle = size // 2
    grids = np.full((len(lengths), 2, 2, size, size), EMPTY, dtype=np.uint8)
    grids[..., [0, -1], :] = WALL
    grids[..., :, [0, -1]] = WALL
    grids[..., 1:5, [middle - 2, middle + 2]] = WALL
    for grid, h in zip(grids, lengths, strict=True):
        grid[..., 4 : h + 1, [middle - 1, middle + 1]] = WALL
        grid[..., h, :middle] = WALL
        grid[..., h, middle + 1 :] = WALL
        grid[..., h + 2, :] = WALL
        for first, second in ((KEY, BALL), (BALL, KEY)):
            grid[int(first == BALL), :, 1, middle - 1] = first
            grid[:, int(first == KEY), h + 1, middle - 2] = first
            grid[:, int(first == KEY), h + 1, middle + 2] = second
    return grids


def _images(size: int, view: int, lengths: range, cells: np.ndarray) -> np.ndarray:
    """[4 * cells, view, view, 3] the observation from each cell in each direction."""
    outside = [(0, 0)] * 3 + [(view, view)] * 2  # MiniGrid shows walls outside the grid
    grids = np.pad(_grids(size, lengths), outside, constant_values=WALL)
    right, up = np.meshgrid(np.arange(view) - view // 2, view - 1 - np.arange(view), indexing="ij")
    offset = up[..., None] * STEP[:, None, None] + right[..., None] * np.roll(STEP, -1, axis=0)[:, None, None]
    h, cue, order, x, y = (column[:, None, None, None] for column in cells.T)
    seen = grids[h - lengths[0], cue, order, x + view + offset[..., 0], y + view + offset[..., 1]]
    seen = seen.reshape(-1, view, view)
    lit = _visible(np.ascontiguousarray(np.moveaxis(seen == WALL, 0, -1)))
    seen = np.where(np.moveaxis(lit, -1, 0), seen, 0)
    return np.stack([seen, COLOR[seen], np.zeros_like(seen)], axis=-1)


def _visible(opaque: np.ndarray) -> np.ndarray:
    """[view, view, states] the visible cells.

    Source: Grid.process_vis of minigrid 3.2, with the loop over states innermost. The order of the scan matters: visibility
    spreads from cells that became visible earlier in the same row.
    """
    view = len(opaque)
    lit = np.zeros_like(opaque)
    lit[view // 2, view - 1] = True
    for j in reversed(range(view)):
        for i, side in [(i, i + 1) for i in range(view - 1)] + [(i, i - 1) for i in reversed(range(1, view))]:
            shines = lit[i, j] & ~opaque[i, j]
            lit[side, j] |= shines
            if j > 0:
                lit[side, j - 1] |= shines
                lit[i, j - 1] |= shines
    return lit
