"""MiniGridDirect against the `minigrid` package, and against the tables of MiniGrid-Memory, which share no code with it."""

from __future__ import annotations

import itertools
import os
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from minigrid.envs import DoorKeyEnv, RedBlueDoorEnv

from rmt_rl.common.errors import ConfigError
from rmt_rl.envs.minigrid.direct import (
    ACTIONS,
    CLOSED,
    COLORS,
    EMPTY,
    FORWARD,
    GOAL,
    LEFT,
    LOCKED,
    OPEN,
    TOGGLE,
    WALL,
    MiniGridDirect,
    cell,
    door,
    empty_room,
    key,
)
from rmt_rl.envs.minigrid.doors import DoorKey, RedBlueDoors
from rmt_rl.envs.minigrid.memory import tables
from rmt_rl.envs.registry import make_env

GREEN_KEY, GREEN_BALL = key("green"), cell(6, "green")
# left, right, forward, pickup, drop, toggle, done: enough of each to use all rules of carrying and doors
CHANCES = (0.12, 0.12, 0.4, 0.12, 0.04, 0.18, 0.02)

#: Steps of every comparison with minigrid, all rows together.
STEPS = 20_800 if "RMT_RL_FAULTS" in os.environ else 3_200


def assert_same_obs(ours: Any, theirs: Any) -> None:
    for name in ("image", "direction"):
        np.testing.assert_array_equal(ours[name].numpy(), theirs[name])


def follow(ours: Any, theirs: Any, size: int, view: int, rows: int, steps: int, max_steps: int) -> int:
    """Assert that random steps equal those of minigrid, and return the number of episodes that ended."""
    rng = np.random.default_rng(0)
    env = ours(rows, size=size, view=view, max_steps=max_steps)

    def make() -> gymnasium.Env[Any, Any]:
        return theirs(size=size, agent_view_size=view, max_steps=max_steps)

    reference: Any = SyncVectorEnv([make] * rows, autoreset_mode=AutoresetMode.SAME_STEP)
    assert_same_obs(env.reset(seed=7)[0], reference.reset(seed=7)[0])
    ends = 0
    for _ in range(steps):
        action = rng.choice(len(ACTIONS), size=rows, p=CHANCES)
        obs, reward, terminated, truncated, info = env.step(torch.from_numpy(action))
        obs_, reward_, terminated_, truncated_, info_ = reference.step(action)
        assert_same_obs(obs, obs_)
        assert reward.numpy().tobytes() == reward_.tobytes()
        np.testing.assert_array_equal(terminated.numpy(), terminated_)
        np.testing.assert_array_equal(truncated.numpy(), truncated_)
        np.testing.assert_array_equal(info["success"].numpy(), reward_ > 0)
        ended = terminated_ | truncated_
        for name, row in itertools.product(("image", "direction"), ended.nonzero()[0]):
            obs_[name][row] = info_["final_obs"][row][name]
        assert_same_obs(info["final_obs"], obs_)
        ends += int(ended.sum())
    return ends


@pytest.mark.slow
@pytest.mark.parametrize(
    ("ours", "theirs", "size", "view"),
    [
        (DoorKey, DoorKeyEnv, 5, 7),
        (DoorKey, DoorKeyEnv, 6, 3),
        (DoorKey, DoorKeyEnv, 8, 7),
        (DoorKey, DoorKeyEnv, 16, 11),
        (RedBlueDoors, RedBlueDoorEnv, 6, 7),
        (RedBlueDoors, RedBlueDoorEnv, 8, 5),
    ],
)
def test_same_seed_gives_the_same_episodes_as_minigrid(ours: Any, theirs: Any, size: int, view: int) -> None:
    # the limit on episodes keeps resets frequent
    assert follow(ours, theirs, size, view, rows=16, steps=STEPS // 16, max_steps=150) > STEPS // 300


@pytest.mark.parametrize(("ours", "theirs", "size"), [(DoorKey, DoorKeyEnv, 5), (RedBlueDoors, RedBlueDoorEnv, 4)])
def test_the_first_episodes_are_those_of_minigrid(ours: Any, theirs: Any, size: int) -> None:
    assert follow(ours, theirs, size, view=5, rows=4, steps=60, max_steps=20) >= 12


def ahead(cls: Any, **cells: Any) -> Any:
    """Two rows of a task whose agent looks to the right at (2, 1) of a world with these cells, named "x_y"."""

    class Ahead(cls):
        def _draw(self, generator: np.random.Generator) -> Any:
            grid = empty_room(self.width, self.height)
            for place, what in cells.items():
                x, y = map(int, place[1:].split("_"))
                grid[x, y] = what
            return grid, (2, 1), 0

    env = Ahead(2, size=6, max_steps=10)
    env.reset(seed=0)
    return env


def test_doorkey_ends_with_success_on_the_goal_only() -> None:
    # row 0 walks onto the goal, row 1 turns beside it
    *_, info = (back := ahead(DoorKey, c3_1=GOAL).step(torch.tensor([FORWARD, LEFT])))
    assert back[1].tolist() == [1 - 0.9 * 0.1, 0.0] and back[2].tolist() == [True, False] and not back[3].any()
    assert info["success"].tolist() == [True, False]
    *_, info = (back := ahead(DoorKey, c2_2=GOAL).step(torch.tensor([FORWARD, TOGGLE])))
    assert not back[2].any() and not info["success"].any() and not back[1].any()


@pytest.mark.parametrize("red", [OPEN, CLOSED])
def test_the_blue_door_ends_the_episode_and_the_red_one_before_it_is_the_success(red: int) -> None:
    doors = {"c3_1": door("blue", CLOSED), "c2_4": door("red", red)}
    *_, info = (back := ahead(RedBlueDoors, **doors).step(torch.tensor([TOGGLE, FORWARD])))
    assert back[2].tolist() == [True, False] and info["success"].tolist() == [red == OPEN, False]
    assert back[1].tolist() == [(1 - 0.9 * 0.1) * (red == OPEN), 0.0]
    # opening the red one, or closing the blue one, is no end
    for first in (door("red", CLOSED), door("blue", OPEN)):
        back = ahead(RedBlueDoors, c3_1=first, c2_4=door("red", OPEN)).step(torch.tensor([TOGGLE, TOGGLE]))
        assert not back[2].any()


@pytest.mark.parametrize(("ours", "theirs", "size"), [(DoorKey, DoorKeyEnv, 5), (RedBlueDoors, RedBlueDoorEnv, 6)])
def test_the_default_time_limit_is_that_of_minigrid(ours: Any, theirs: Any, size: int) -> None:
    usual = theirs(size=size).max_steps
    assert (ours(1, size=size).max_steps, ours(1, size=size).ceiling) == (usual, 1.0)
    assert (ours(1, size=size, max_steps=9).max_steps, ours(1, size=size, max_steps=9).ceiling) == (9, None)


class DirectMemory(MiniGridDirect):
    """MiniGrid-Memory on MiniGridDirect: the reference for the tables of `minigrid/memory.py`."""

    def __init__(self, num_envs: int, size: int, view: int) -> None:
        super().__init__(num_envs, "cpu", size, size, 5 * size**2, None, view)

    def grid(self, cue: int, order: int) -> np.ndarray:
        """MemoryEnv._gen_grid of a fixed corridor; cue 0 = key, order 0 = the ball at the upper end."""
        size, middle, h = self.width, self.width // 2, self.width - 3
        grid, (first, second) = empty_room(size, size), ((GREEN_KEY, GREEN_BALL) if order else (GREEN_BALL, GREEN_KEY))
        for y in (middle - 2, middle + 2):
            grid[1:5, y] = WALL
        for y in (middle - 1, middle + 1):
            grid[4 : h + 1, y] = WALL
        grid[h, :middle] = grid[h, middle + 1 :] = WALL
        grid[h + 2] = WALL
        grid[1, middle - 1] = (GREEN_KEY, GREEN_BALL)[cue]
        grid[h + 1, middle - 2], grid[h + 1, middle + 2] = first, second
        return grid

    def _draw(self, generator: np.random.Generator) -> tuple[np.ndarray, tuple[int, int], int]:
        return self.grid(0, 0), (1, self.width // 2), 0

    def _outcome(self, action_B: torch.Tensor, ahead_B: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        never = torch.zeros(self.num_envs, dtype=torch.bool)
        return never, never


@pytest.mark.parametrize("view", [3, 5, 7])
@pytest.mark.parametrize("size", [7, 9, 11, 13])
def test_the_tables_of_minigrid_memory_equal_minigrid_direct_in_every_state(size: int, view: int) -> None:
    table = tables(size, False, view)
    states = len(table.next)
    direct = DirectMemory(states, size, view)
    direct.reset(seed=0)
    state = direct.state_dict()
    border, column = view - 1, size + 2 * (view - 1)
    grids = np.full((len(table.cells), column, column), WALL, dtype=np.uint8)
    for grid, (_, cue, order, _, _) in zip(grids, table.cells.tolist(), strict=True):
        grid[border:-border, border:-border] = direct.grid(cue, order)
    x, y = torch.from_numpy(table.cells[:, 3:].T.copy()).repeat_interleave(4, dim=1)
    position = (x + border) * column + y + border
    state["grid"] = torch.from_numpy(grids.reshape(len(grids), -1)).repeat_interleave(4, dim=0)
    state["position"], state["direction"] = position, torch.arange(4).repeat(len(table.cells))

    for action in (0, 1, 2):
        direct.load_state_dict(state)
        obs, *_ = direct.step(torch.full((states,), action))
        after = table.next[:, action]
        assert torch.equal(obs["image"], table.image[after])
        assert torch.equal(obs["direction"], after & 3)
        assert torch.equal(direct.state_dict()["position"], position[after])


def test_no_agent_carries_an_object_at_the_start_of_an_episode() -> None:
    env = DoorKey(64, size=5, max_steps=40)
    env.reset(seed=0)
    generator = torch.Generator().manual_seed(0)
    carried = False
    for _ in range(200):
        _, _, terminated, truncated, _ = env.step(torch.randint(0, 6, (64,), generator=generator))
        carrying = env.state_dict()["carrying"] != EMPTY
        carried |= bool(carrying.any())
        assert not carrying[terminated | truncated].any()
    assert carried


def test_a_locked_door_opens_with_the_key_of_its_color_only_and_other_doors_without() -> None:
    hands = [EMPTY, *map(key, COLORS)]
    cases = list(itertools.product(COLORS, (OPEN, CLOSED, LOCKED), hands))
    env = DirectMemory(len(cases), 7, 3)
    env.reset(seed=0)
    state = env.state_dict()
    rows = torch.arange(len(cases))
    ahead = state["position"] + env._ahead[state["direction"]]
    state["grid"][rows, ahead] = torch.tensor([door(color, was) for color, was, _ in cases], dtype=torch.uint8)
    state["carrying"] = torch.tensor([hand for *_, hand in cases], dtype=state["carrying"].dtype)
    env.load_state_dict(state)
    env.step(torch.full((len(cases),), TOGGLE))
    after = env.state_dict()["grid"][rows, ahead].tolist()
    for (color, was, hand), found in zip(cases, after, strict=True):
        opened = OPEN if hand == key(color) else LOCKED
        assert found == door(color, {OPEN: CLOSED, CLOSED: OPEN, LOCKED: opened}[was]), (color, was, hand)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("minigrid-doorkey", {"view": 4}, "env.view=4: expected an odd number"),
        ("minigrid-doorkey", {"view": 13}, "env.view=13: expected a whole number, at least 3 and at most 11"),
        ("minigrid-doorkey", {"size": 4}, "env.size=4: expected a whole number, at least 5"),
        ("minigrid-redbluedoors", {"size": 7}, "env.size=7: expected an even number"),
    ],
)
def test_an_impossible_configuration_is_rejected(name: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make_env(name, **options)


@pytest.mark.parametrize(("cls", "size"), [(DoorKey, 4), (RedBlueDoors, 2), (RedBlueDoors, 3), (RedBlueDoors, 5)])
def test_a_world_that_minigrid_cannot_make_raises(cls: Any, size: int) -> None:
    with pytest.raises(ValueError, match=rf"^size is {size}; it must be "):
        cls(1, size=size)
    assert cls(1, size={DoorKey: 5, RedBlueDoors: 4}[cls]).num_envs == 1
