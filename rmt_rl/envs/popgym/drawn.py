"""Base class of tasks that play the episodes of another package seed for seed.

Every row has the numpy generator that gymnasium gives an environment of its seed, and draws its episodes from it one after the
other, ahead of time and several at once.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import gymnasium
import numpy as np
import torch

from rmt_rl.common.state import check_count, check_tensor, where_rows
from rmt_rl.envs.base import row_generator, row_seeds, task_rows
from rmt_rl.envs.episodic import EpisodicEnv, State

#: Episodes that a row draws at a time; it keeps room for two times as many.
BLOCK = 4
ROOM = 2 * BLOCK


class DrawnEnv(EpisodicEnv):
    """An `EpisodicEnv` whose `key` is not random bits, but the place of the episode in the tensors of `_drawn`.

    A subclass implements `_draw` beside the functions of `EpisodicEnv`, and sets `longest`. What is random may not depend on the
    actions. Where a package draws during an episode, too, a reset before its end gives another next episode than the package.
    """

    episode_steps = None  # every episode ends by itself
    measure = "return"
    #: Steps that an episode has at most; it is truncated then, unless the subclass says otherwise.
    longest: int

    def __init__(
        self,
        num_envs: int,
        device: str | torch.device,
        observation_space: gymnasium.Space[Any],
        actions: int | gymnasium.Space[Any],
    ) -> None:
        super().__init__(num_envs, device, observation_space, actions)
        self._first_place = torch.arange(num_envs, device=self.device) * ROOM
        self._generators: list[np.random.Generator] = []
        self._until_check = 0
        #: [B] how many episodes each row has drawn; the last ROOM of them are in `_drawn`, [B * ROOM, ...], in a ring
        self._count = torch.zeros_like(self._first_place)
        self._drawn: State = {}

    def _draw(self, generators: Sequence[np.random.Generator], count: int) -> dict[str, np.ndarray]:
        """[len(generators), count, ...] each: all that is random in the next `count` episodes of some rows."""
        raise NotImplementedError(f"{type(self).__name__} does not implement _draw")

    def reset(
        self, *, seed: int | list[int] | None = None, options: dict[str, Any] | None = None
    ) -> tuple[torch.Tensor, dict[str, Any]]:
        rows = task_rows(options, self, started=bool(self._state))
        if seed is not None or not self._state:
            first = self._seed_rows(rows, row_seeds(seed, self.num_envs))
        else:
            first = self._following(self._state)
        self._state = {name: where_rows(rows, new, self._state.get(name, new)) for name, new in first.items()}
        return self._observe(self._state), {}

    def state_dict(self) -> dict[str, Any]:
        states = [generator.bit_generator.state for generator in self._generators]
        drawn = {name: x.clone() for name, x in self._drawn.items()}  # a later draw writes to them
        ahead = {"drawn": drawn, "count": self._count.clone(), "until_check": self._until_check}
        return {"state": super().state_dict(), "generators": states, **ahead}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        if len(state["generators"]) != self.num_envs:
            raise ValueError(f"the state has {len(state['generators'])} rows; expected {self.num_envs} rows")
        generators = [row_generator(0) for _ in range(self.num_envs)]
        for generator, saved in zip(generators, state["generators"], strict=True):
            generator.bit_generator.state = saved
        before = self._drawn, self._count, self._until_check
        self._drawn = {name: check_tensor(name, state["drawn"].get(name), x) for name, x in self._room().items()}
        self._count = check_tensor("count", state["count"], self._count)
        self._until_check = check_count("until_check", state["until_check"])
        try:
            self._check_drawn()
            super().load_state_dict(state["state"])
        except BaseException:
            self._drawn, self._count, self._until_check = before
            raise
        self._generators = generators

    def _check_state(self, state: State) -> None:
        if not torch.equal(state["key"], self._place(state["episode"])):
            raise ValueError("key is not the place of the episode")
        check_tensor("t", state["t"], state["t"], 0, self.longest - 1)
        ahead = self._count - state["episode"] - 1  # episodes that were drawn and not begun
        if bool(((ahead < self._until_check) | (ahead >= ROOM)).any()):
            raise ValueError("count and until_check do not fit the episode")

    def _truncates(self, state: State) -> torch.Tensor:
        return state["t"] >= self.longest

    def _check_drawn(self) -> None:
        """Raises ValueError where the tensors of `_drawn` have values that no draw has."""

    def _following(self, state: State) -> State:
        # a row begins at most one episode at a call, so a check every BLOCK calls is enough; on a GPU it waits for the device
        if self._until_check == 0:
            self._draw_more(state["episode"] + 1)
        self._until_check -= 1
        return super()._following(state)

    def _first(self, seed_B: torch.Tensor, episode_B: torch.Tensor) -> State:
        """The state at the start of episodes that have been drawn."""
        place_B = self._place(episode_B)
        return {
            "seed": seed_B,
            "episode": episode_B,
            "key": place_B,
            "t": torch.zeros_like(place_B),
            **self._begin(place_B),
        }

    def _begin(self, key_B: torch.Tensor) -> State:
        return {}

    def _place(self, episode_B: torch.Tensor) -> torch.Tensor:
        return self._first_place + episode_B % ROOM

    def _room(self) -> State:
        """Zeros in the form of `_drawn`."""
        drawn = {name: torch.from_numpy(x) for name, x in self._draw([row_generator(0)], 1).items()}
        shape = self.num_envs * ROOM
        return {name: torch.zeros(shape, *x.shape[2:], dtype=x.dtype, device=self.device) for name, x in drawn.items()}

    def _seed_rows(self, rows_B: torch.Tensor, seeds: list[int]) -> State:
        """New generators for some rows, and the state at the start of their first episodes."""
        self._drawn = self._drawn or self._room()
        numbers = rows_B.nonzero().squeeze(1)
        new = {row: row_generator(seeds[row]) for row in numbers.tolist()}
        self._generators = [new[row] if row in new else self._generators[row] for row in range(self.num_envs)]
        self._count = torch.where(rows_B, 0, self._count)
        self._append(numbers, [*new.values()], ROOM)
        seed_B = torch.tensor(seeds, device=self.device)
        return self._first(seed_B, torch.zeros_like(seed_B))

    def _draw_more(self, next_B: torch.Tensor) -> None:
        """Draw a block of episodes for the rows that have begun one. next_B: the number of the episode after the present one."""
        rows = (self._count - next_B < BLOCK).nonzero().squeeze(1)
        if len(rows):
            self._append(rows, [self._generators[row] for row in rows.tolist()], BLOCK)
        self._until_check = BLOCK

    def _append(self, rows: torch.Tensor, generators: list[np.random.Generator], count: int) -> None:
        numbers = self._count[rows, None] + torch.arange(count, device=self.device)
        places = (self._first_place[rows, None] + numbers % ROOM).flatten()
        for name, x in self._draw(generators, count).items():
            self._drawn[name].index_copy_(0, places, torch.from_numpy(x).to(self.device).flatten(0, 1))
        self._count[rows] += count
