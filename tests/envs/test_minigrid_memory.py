"""MiniGridMemory against the `minigrid` package itself: same seed, same actions, same bits."""

from __future__ import annotations

import itertools
import json
import operator
import os
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from minigrid.envs import MemoryEnv

from rmt_rl.envs.minigrid.memory import BLOCK, RANDOM_SIZES, SIZES, WALL, MiniGridMemory, _expert, tables

NOTHING = 6  # MiniGrid's "done", which has no effect

#: Steps of every comparison with minigrid, all rows together.
STEPS = 20_800 if "RMT_RL_FAULTS" in os.environ else 5_000


def reference(num_envs: int, size: int, random: bool = False, view: int = 7) -> Any:
    def make() -> gymnasium.Env[Any, Any]:
        if size == 17 and not random:  # the one that is not registered
            return MemoryEnv(size=17, agent_view_size=view)
        name = f"MiniGrid-MemoryS{size}{'Random' if random else ''}-v0"
        return gymnasium.make(name, agent_view_size=view, disable_env_checker=True)

    return SyncVectorEnv([make] * num_envs, autoreset_mode=AutoresetMode.SAME_STEP)


def assert_same_obs(ours: Any, theirs: Any) -> None:
    for key in ("image", "direction"):
        np.testing.assert_array_equal(ours[key].numpy(), theirs[key])


def to_an_object(obs: Any) -> torch.Tensor:
    """Forward, and left where a wall is ahead: the shortest way to the upper object."""
    view = obs["image"].shape[1]
    return torch.where(obs["image"][:, view // 2, view - 2, 0] == WALL, 0, 2)


def play(env: MiniGridMemory, obs: Any, steps: int, seed: int) -> tuple[Any, list[torch.Tensor]]:
    """Steps mostly towards an object, so that many episodes end. Returns the last observation and all returned tensors."""
    generator = torch.Generator().manual_seed(seed)
    record = []
    for _ in range(steps):
        action = torch.randint(3, (env.num_envs,), generator=generator)
        action = torch.where(torch.rand(env.num_envs, generator=generator) < 0.8, to_an_object(obs), action)
        obs, reward, terminated, truncated, info = env.step(action)
        record += [*obs.values(), reward, terminated, truncated, *info["final_obs"].values()]
        record += [info["_final_obs"], info["success"]]
    return obs, record


def assert_same_record(left: list[torch.Tensor], right: list[torch.Tensor]) -> None:
    assert all(a.dtype == b.dtype and torch.equal(a, b) for a, b in zip(left, right, strict=True))


def assert_same_state(left: dict[str, Any], right: dict[str, Any]) -> None:
    assert left.keys() == right.keys()
    for key in left:
        same = torch.equal if isinstance(left[key], torch.Tensor) else operator.eq
        assert same(left[key], right[key]), key


@pytest.mark.slow
@pytest.mark.parametrize(
    ("size", "random", "view", "actions"),
    [(size, False, 7, 7) for size in SIZES] + [(13, True, 7, 7), (17, True, 7, 7), (7, False, 3, 3), (13, True, 5, 3)],
)
def test_same_seed_gives_the_same_episodes_as_minigrid(size: int, random: bool, view: int, actions: int) -> None:
    rows, rng, episodes = 16, np.random.default_rng(0), np.zeros(16, dtype=int)
    ours = MiniGridMemory(rows, size=size, random=random, view=view, actions=actions)
    theirs = reference(rows, size, random, view)
    obs, _ = ours.reset(seed=11)
    assert_same_obs(obs, theirs.reset(seed=11)[0])
    for _ in range(STEPS // rows + 1):
        # Row 0 acts at random, the last row goes straight to an object: queues are consumed at different speeds.
        straight = rng.random(rows) < np.linspace(0, 1, rows)
        action = np.where(straight, to_an_object(obs).numpy(), rng.integers(actions, size=rows))
        obs, reward, terminated, truncated, info = ours.step(torch.from_numpy(action))
        obs_, reward_, terminated_, truncated_, info_ = theirs.step(action)
        assert_same_obs(obs, obs_)
        assert reward.numpy().tobytes() == reward_.tobytes()
        np.testing.assert_array_equal(terminated.numpy(), terminated_)
        np.testing.assert_array_equal(truncated.numpy(), truncated_)
        ended = terminated_ | truncated_
        np.testing.assert_array_equal(info["_final_obs"].numpy(), ended)
        np.testing.assert_array_equal(info["success"].numpy(), reward_ > 0)
        for key, row in itertools.product(("image", "direction"), ended.nonzero()[0]):
            obs_[key][row] = info_["final_obs"][row][key]
        assert_same_obs(info["final_obs"], obs_)
        episodes += ended
    assert episodes.max() > 2 * BLOCK > episodes.min()


@pytest.mark.slow
@pytest.mark.parametrize(("size", "view"), [(size, view) for size in (7, 9, 11, 13) for view in (3, 7)])
def test_the_tables_equal_minigrid_in_every_reachable_state(size: int, view: int) -> None:
    table: Any = tables(size, False, view)
    env: Any = MemoryEnv(size=size, agent_view_size=view)
    layouts = {}
    for seed in range(40):
        env.reset(seed=seed)
        upper, cue = (env.grid.get(*cell).type for cell in ((size - 2, size // 2 - 2), (1, size // 2 - 1)))
        layouts[size - 3, int(cue == "ball"), int(upper == "key")] = env.grid.copy()
    assert len(layouts) == 4
    compared = 0
    for layout, env.grid in layouts.items():
        cells, todo = set(), [(1, size // 2)]
        while todo:
            x, y = todo.pop()
            if (x, y) not in cells and env.grid.get(x, y) is None:
                cells.add((x, y))
                todo += [(x + 1, y), (x - 1, y), (x, y + 1), (x, y - 1)]
        ours = {tuple(row[3:]): i for i, row in enumerate(table.cells.tolist()) if tuple(row[:3]) == layout}
        assert set(ours) == cells
        for cell, direction in itertools.product(cells, range(4)):
            state = 4 * ours[cell] + direction
            env.agent_pos, env.agent_dir = cell, direction
            np.testing.assert_array_equal(table.image[state].numpy(), env.gen_obs()["image"])
            for action in range(3) if state >= table.num_terminal else ():
                env.agent_pos, env.agent_dir = cell, direction
                env.step(action)
                assert table.next[state, action] == 4 * ours[tuple(env.agent_pos)] + env.agent_dir
            compared += 1
    assert compared == len(table.image)


def test_episode_is_truncated_after_max_steps() -> None:
    ours, theirs = MiniGridMemory(1, size=7, view=7), reference(1, size=7)
    ours.reset(seed=0), theirs.reset(seed=0)
    for _ in range(5 * 7**2 - 1):
        obs, _, terminated, truncated, _ = ours.step(torch.zeros(1, dtype=torch.int64))
        theirs.step(np.zeros(1, dtype=int))
        assert not terminated and not truncated
    obs, reward, terminated, truncated, info = ours.step(torch.zeros(1, dtype=torch.int64))
    obs_, reward_, terminated_, truncated_, info_ = theirs.step(np.zeros(1, dtype=int))
    assert (truncated.item(), terminated.item(), reward.item(), info["success"].item()) == (True, False, 0.0, False)
    assert (truncated_.item(), terminated_.item(), reward_.item()) == (True, False, 0.0)
    assert_same_obs(obs, obs_)
    np.testing.assert_array_equal(info["final_obs"]["image"][0].numpy(), info_["final_obs"][0]["image"])


def test_last_step_can_both_terminate_and_truncate() -> None:
    rows = 8  # seeds 0..7 have both outcomes
    ours, theirs = MiniGridMemory(rows, size=7, view=7, actions=7), reference(rows, size=7)
    ours.reset(seed=0), theirs.reset(seed=0)
    way = [5 - env.unwrapped.agent_pos[0] + 2 for env in theirs.envs]  # forward to x = 5, left, forward
    actions = np.full((5 * 7**2, rows), NOTHING)
    for row, steps in enumerate(way):
        actions[-steps:, row] = [2] * (steps - 2) + [0, 2]
    for action in actions:
        _, reward, terminated, truncated, info = ours.step(torch.from_numpy(action))
        _, reward_, terminated_, truncated_, _ = theirs.step(action)
    assert terminated_.all() and truncated_.all()
    assert terminated.all() and truncated.all()
    assert reward.numpy().tobytes() == reward_.tobytes()
    assert sorted(set(reward.tolist())) == [0.0, 1 - 0.9 * 1.0]
    assert torch.equal(info["success"], reward > 0)


@pytest.mark.parametrize(("size", "random"), [(9, False), (13, True)])
def test_reset_without_seed_continues_the_random_numbers_over_many_refills(size: int, random: bool) -> None:
    ours, theirs = MiniGridMemory(3, size=size, random=random, view=7), reference(3, size, random)
    ours.reset(seed=3), theirs.reset(seed=3)
    for _ in range(5 * BLOCK):
        assert_same_obs(ours.reset()[0], theirs.reset()[0])


def test_a_word_that_numpy_rejects_is_drawn_again() -> None:
    # PCG64 steps and then gives low ^ high half of its state, rotated by the top six bits: a state of 2^63 gives the
    # 32-bit words 0 and 2^31. The first is for the length (one of 11), and numpy rejects 0 because 2^32 mod 11 > 0.
    ours, theirs = MiniGridMemory(2, size=17, random=True, view=7), reference(2, size=17, random=True)
    ours.reset(seed=5), theirs.reset(seed=5)
    state = ours.state_dict()
    generator = state["generators"][0]["state"]
    generator["state"] = (2**63 - generator["inc"]) * pow(0x2360ED051FC65DA44385DF649FCCF645, -1, 2**128) % 2**128
    for env, planted in zip(theirs.envs, state["generators"], strict=True):
        env.unwrapped.np_random.bit_generator.state = planted
    ours.load_state_dict(state)
    for _ in range(2 * BLOCK - 1):  # starts that were drawn before
        ours.reset()
    for _ in range(3 * BLOCK):
        assert_same_obs(ours.reset()[0], theirs.reset()[0])
    words_left = [env.unwrapped.np_random.bit_generator.state["has_uint32"] for env in theirs.envs]
    assert words_left == [1, 0]  # row 0 consumed an odd number of words


@pytest.mark.parametrize("random", [False, True])
def test_a_restored_state_continues_bit_for_bit(random: bool) -> None:
    env = MiniGridMemory(5, size=13, random=random)
    obs, _ = play(env, env.reset(seed=1)[0], steps=100, seed=0)
    state = env.state_dict()
    state |= json.loads(json.dumps({k: v for k, v in state.items() if not isinstance(v, torch.Tensor)}))
    _, expected = play(env, obs, steps=600, seed=1)
    fresh = MiniGridMemory(5, size=13, random=random)
    fresh.load_state_dict(state)
    assert_same_state(fresh.state_dict(), state)
    assert (
        fresh.np_random_seed == (-1,) * 5
    )  # gymnasium's sign for a seed that is not known: only generators were saved
    assert_same_record(play(fresh, obs, steps=600, seed=1)[1], expected)
    fresh.load_state_dict(state)  # the first play did not modify the saved state
    assert_same_record(play(fresh, obs, steps=600, seed=1)[1], expected)


def test_row_does_not_depend_on_the_number_of_rows() -> None:
    many, alone = MiniGridMemory(4, size=13, random=True), MiniGridMemory(1, size=13, random=True)
    obs: Any = many.reset(seed=7)[0]
    obs_alone: Any = alone.reset(seed=7 + 2)[0]
    for _ in range(1000):
        assert torch.equal(obs["image"][2:3], obs_alone["image"])
        action = to_an_object(obs)
        obs, reward, *_ = many.step(action)
        obs_alone, reward_alone, *_ = alone.step(action[2:3])
        assert torch.equal(reward[2:3], reward_alone)


def test_returned_tensors_are_never_modified() -> None:
    env = MiniGridMemory(4, size=7)
    obs: Any = env.reset(seed=0)[0]
    returned = list(obs.values())
    copies = [tensor.clone() for tensor in returned]
    for step in range(200):
        obs, record = play(env, obs, steps=1, seed=step)
        returned += record
        copies += [tensor.clone() for tensor in record]
    env.reset(seed=1)
    assert_same_record(returned, copies)


@pytest.mark.parametrize("view", [3, 7])
def test_observations_are_inside_the_observation_space(view: int) -> None:
    env = MiniGridMemory(4, size=7, view=view, actions=7)
    obs: Any = env.reset(seed=0)[0]
    for _ in range(200):
        numpy_obs = {key: value.numpy() for key, value in obs.items()}
        assert env.observation_space.contains(numpy_obs)
        obs, *_ = env.step(env.action_space.sample())  # a numpy array


@pytest.mark.parametrize(
    ("size", "random", "view", "floor"),
    [(13, False, 7, 0.5), (17, True, 3, 0.5), (9, False, 5, 0.5), (7, False, 7, 0.976), (9, False, 9, None)],
)
def test_the_floor_is_half_where_the_cue_is_not_visible_from_the_fork(
    size: int, random: bool, view: int, floor: float | None
) -> None:
    assert MiniGridMemory(1, size=size, random=random, view=view).floor == floor


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"size": 8}, "size is 8"),
        ({"size": 7, "random": True}, "size is 7; with random=True"),
        ({"view": 4}, "view is 4"),
        ({"view": 1}, "view is 1"),
        ({"actions": 4}, "actions is 4"),
        ({"num_envs": 0}, "num_envs is 0"),
    ],
)
def test_an_impossible_configuration_is_rejected(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        MiniGridMemory(**{"num_envs": 1, **options})


@pytest.mark.parametrize("action", [[0, -1], [0, 3], [0], [[0, 1]]])
def test_an_invalid_action_raises_and_changes_nothing(action: list[Any]) -> None:
    env = MiniGridMemory(2)
    env.reset(seed=0)
    before = env.state_dict()
    with pytest.raises(ValueError, match="action"):
        env.step(torch.tensor(action))
    assert_same_state(env.state_dict(), before)


def test_options_of_reset_are_rejected() -> None:
    with pytest.raises(ValueError, match="options"):
        MiniGridMemory(1).reset(seed=0, options={"size": 9})


def test_step_before_reset_raises() -> None:
    with pytest.raises(RuntimeError, match="before reset"):
        MiniGridMemory(1).step(torch.zeros(1, dtype=torch.int64))


@pytest.mark.parametrize(
    ("other", "message"), [({"num_envs": 2}, "2 rows"), ({"size": 9}, "size"), ({"actions": 7}, "actions")]
)
def test_a_state_of_another_environment_is_rejected(other: dict[str, Any], message: str) -> None:
    donor = MiniGridMemory(**{"num_envs": 3, "size": 7, **other})
    donor.reset(seed=0)
    with pytest.raises(ValueError, match=message):
        MiniGridMemory(3, size=7).load_state_dict(donor.state_dict())


def test_another_time_limit_works_as_in_minigrid() -> None:
    ours, theirs = MiniGridMemory(1, size=7, view=7, max_steps=20), MemoryEnv(size=7, max_steps=20)
    obs, _ = ours.reset(seed=1)
    theirs.reset(seed=1)
    rng, truncations, paid = np.random.default_rng(0), 0, 0
    for _ in range(600):
        action = int(rng.integers(3)) if rng.random() < 0.5 else int(to_an_object(obs))
        obs, reward, terminated, truncated, _ = ours.step(torch.tensor([action]))
        _, reward_, terminated_, truncated_, _ = theirs.step(action)
        assert (float(reward), bool(terminated), bool(truncated)) == (reward_, terminated_, truncated_)
        truncations, paid = truncations + truncated_, paid + (reward_ > 0)
        if terminated_ or truncated_:
            theirs.reset()
    assert min(truncations, paid) > 3
    assert (ours.floor, ours.ceiling) == (None, None)  # with view 7, cue and ends are visible together
    assert (MiniGridMemory(1, max_steps=20).floor, MiniGridMemory(1, max_steps=20).ceiling) == (0.5, None)


@pytest.mark.slow
@pytest.mark.parametrize("random", [False, True])
@pytest.mark.parametrize("view", [3, 7])
def test_the_expert_uses_only_what_it_has_observed(view: int, random: bool) -> None:
    """After the same observations and actions it acts the same, in mazes that differ in cue, ends and start."""
    for size in RANDOM_SIZES if random else SIZES:
        env = MiniGridMemory(256, size=size, view=view, random=random)
        obs, _ = env.reset(seed=0)
        seen, done = [b""] * env.num_envs, {}
        for _ in range(60):
            action = env.oracle()
            image, chosen = obs["image"].numpy(), action.tolist()
            for row in range(env.num_envs):
                seen[row] += image[row].tobytes() + bytes([int(obs["direction"][row])])
                assert done.setdefault(seen[row], chosen[row]) == chosen[row]
            obs, _, terminated, truncated, _ = env.step(action)
            seen = [b"" if over else text for over, text in zip((terminated | truncated).tolist(), seen, strict=True)]
        assert len(done) > 20


def test_the_expert_by_hand() -> None:
    """S7, view 3: the fork is at x = 5, the end is a turn and a step from it; looking at the wrong end first takes two more.

    x = 1: the cue is visible, 4 steps. x = 2: a turn to the left shows it, a turn back, 3 steps. x = 3: two turns, two turns,
    2 steps. x = 4: two turns, which also show the upper end, a step back to x = 3, two turns, 2 steps.
    """
    env = MiniGridMemory(1)
    lengths: dict[tuple[int, int], set[int]] = {}
    for seed in range(40):
        env.reset(seed=seed)
        start = env.world(0)[1]
        steps, over = 0, False
        while not over:
            *_, terminated, truncated, info = env.step(env.oracle())
            steps, over = steps + 1, bool(terminated | truncated)
        assert bool(info["success"])
        lengths.setdefault(start, set()).add(steps)
    assert lengths == {(1, 3): {6, 8}, (2, 3): {7, 9}, (3, 3): {8, 10}, (4, 3): {9}}


@pytest.mark.parametrize(("size", "random", "view"), [(7, False, 3), (9, True, 5)])
def test_the_expert_takes_shortest_ways(size: int, random: bool, view: int) -> None:
    """To a view of the cue, to one of the order at the fork, to the end: by a search through all states, backwards from each."""
    known = tables(size, random, view)
    reveals, ways = _expert(size, random, view)
    following, states = known.next.tolist(), range(known.num_terminal, len(known.next))
    before: dict[int, set[int]] = {}
    for state in states:
        for other in following[state]:
            before.setdefault(other, set()).add(state)
    cell = known.cells.tolist()
    at_fork = [state for state in states if cell[state // 4][3] == cell[state // 4][0] + 1]
    goals = [
        [state for state in states if reveals[0, state]],
        [state for state in at_fork if reveals[1, state]],
        list(range(known.num_success)),
    ]
    for goal, way in zip(goals, ways.tolist(), strict=True):
        distance = dict.fromkeys(goal, 0)
        for state in goal:  # the list grows
            new = [other for other in before.get(state, ()) if other not in distance]
            distance |= dict.fromkeys(new, distance[state] + 1)
            goal += new
        for state in states:
            if distance.get(state):
                assert distance[following[state][way[state]]] == distance[state] - 1


@pytest.mark.parametrize("size", [11, 13])
def test_with_fewer_steps_the_floor_is_known_where_the_walk_without_memory_fits_in(size):
    """Forward, and left where a wall is ahead: from the first cell of the corridor that takes size - 1 steps."""

    def walk(max_steps):
        env = MiniGridMemory(2_000, size=size, view=7, max_steps=max_steps)
        obs, _ = env.reset(seed=0)
        ended = successes = 0
        for _ in range(60):
            ahead = obs["image"][:, 3, 5, 0]
            *_, info = found = env.step(torch.where(ahead == 2, 0, 2))
            obs, ended = found[0], ended + int(info["_final_obs"].sum())
            successes += int(info["success"].sum())
        return env.floor, successes / ended

    floor, rate = walk(size - 1)
    assert floor == 0.5 and rate == pytest.approx(0.5, abs=0.02)
    floor, rate = walk(size - 2)
    assert floor is None and rate < 0.48
