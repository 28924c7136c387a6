"""What tasks state about themselves, by hand: spaces, numbers of episodes, what rewards reveal, hidden variables, distractors."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces
from pure_python import bits

from rmt_rl.config.commands import ReturnConditioning
from rmt_rl.envs.registry import BUILTIN, make_env
from rmt_rl.envs.wrappers.return_to_go import ReturnToGo


def box(low: list[float], high: list[float]) -> spaces.Box:
    return spaces.Box(np.array(low, np.float32), np.array(high, np.float32))


@pytest.mark.parametrize(
    ("name", "options", "observations", "actions"),
    [
        ("tmaze", {}, box([-1] * 2, [1] * 2), 4),
        ("tmaze", {"distractors": True}, box([-1] * 5, [1] * 5), 4),
        ("tmaze-active", {}, box([-1] * 2, [1] * 2), 4),
        ("tmaze-rate", {}, box([-1] * 4, [1] * 4), 4),
        ("tmaze-trial", {}, box([-1] * 3, [1] * 3), 4),
        ("tmaze-endless", {}, box([0] * 3, [1] * 3), 3),
        ("color-cubes", {"size": 3, "cubes": 2}, box([0] * 26, [1] * 26), 4),
        ("color-cubes", {"size": 3, "cubes": 2, "hide_colors": True}, box([0] * 35, [1] * 35), 4),
        ("memory-len", {"bits": 1}, box([0, 0, -1], [1, 1, 1]), 2),
        ("memory-len", {"bits": 4}, box([0, 0, *[-1] * 4], [1, 3, *[1] * 4]), 2),
        ("copy", {"symbols": 3}, spaces.Discrete(5), 3),
        ("associative-retrieval", {"keys": 4, "values": 6}, spaces.MultiDiscrete([5, 7]), 6),
        ("detect", {"cues": 3, "distractors": 5}, spaces.Discrete(9), 3),
        ("reasoning", {"values": 3, "distractors": 5}, spaces.Discrete(12), 3),
        ("repeat-first", {}, spaces.Discrete(4), 4),
        ("repeat-previous", {}, spaces.Discrete(4), 4),
        ("bandit", {"arms": 3}, spaces.MultiDiscrete([4, 2]), 3),
        ("dark-room", {}, spaces.MultiDiscrete([9, 9, 2, 2]), 5),
    ],
    ids=str,
)
def test_spaces_are_no_larger_than_what_occurs_in_them(name, options, observations, actions) -> None:
    env = make_env(name, 1, **options)
    assert (env.single_observation_space, env.single_action_space) == (observations, spaces.Discrete(actions))


CARD_GAMES = {f"popgym-{x}" for x in ("autoencode", "repeat-first", "repeat-previous", "count-recall", "higher-lower")}


def test_the_sum_of_rewards_reveals_the_cue_in_some_tasks() -> None:
    """By right answers, payouts, the outcome of the earlier walks, the moves that ended on the goal, and turns on purpose."""
    revealed = {name for name in BUILTIN if name not in ("gym", "none") and make_env(name, 1).return_reveals_cue}
    assert revealed == {*CARD_GAMES, "bandit", "popgym-multiarmed-bandit", "dark-room", "tmaze-trial", "tmaze-endless"}


def test_the_return_to_go_is_a_memory_in_the_endless_tmaze() -> None:
    """A function of the present observation turns in the first cell until the parity of the penalties is that of the hint."""
    env = ReturnToGo(make_env("tmaze-endless", 100), ReturnConditioning(low=-1.0, high=3.0, target=3.0))
    obs, _ = env.reset(seed=0)
    ended = won = torch.zeros(100, dtype=torch.bool)
    while not bool(ended.all()):
        place, left, right = obs["observation"].unbind(1)
        left_in_go = obs["return_to_go"][:, 0].double()
        odd = ((left_in_go - (left_in_go + 0.005).floor()) * 100).round() % 2 == 1
        in_first_cell = (left > 0) | (right > 0)
        turns = torch.where(in_first_cell, (left > 0) != odd, place == 1)
        side = torch.where(in_first_cell | odd, 1, 2)
        obs, _, terminated, truncated, info = env.step(torch.where(turns, side, 0))
        won = won | (~ended & info["success"])
        ended = ended | terminated | truncated
    assert bool(won.all()) and env.floor is None


def test_the_previous_reward_reveals_the_cue_in_card_games_only_by_default() -> None:
    revealed = {name for name in BUILTIN if name not in ("gym", "none") and make_env(name, 1).reward_reveals_cue}
    assert revealed == CARD_GAMES


def test_the_previous_reward_reveals_the_cue_in_a_tmaze_that_ends_at_the_turn() -> None:
    assert make_env("tmaze", 1, end_at_turn=True).reward_reveals_cue


TASKS = sorted(set(BUILTIN) - {"gym", "none", "minigrid-memory", "minigrid-doorkey", "minigrid-redbluedoors"})


@pytest.mark.parametrize("name", TASKS)
def test_episodes_end_by_themselves(name) -> None:
    assert make_env(name, 1).episode_steps is None


@pytest.mark.parametrize(
    ("name", "options", "episodes"),
    [
        ("tmaze", {"length": 503, "min_length": 4}, 1000),  # 500 lengths and two cues
        ("tmaze", {"length": 504, "min_length": 4}, None),
        ("tmaze", {"length": 5, "distractors": True}, None),
        ("tmaze-active", {"length": 5, "min_length": 3}, 6),
        ("tmaze-rate", {"length": 5}, None),
        ("memory-len", {"bits": 1}, 2),
        ("memory-len", {"bits": 3}, 24),
        ("memory-len", {"bits": 1_000}, None),
        ("copy", {"symbols": 2, "length": 9}, 512),
        ("copy", {"symbols": 10, "length": 3}, 1000),
        ("copy", {"symbols": 2, "length": 10}, None),
        ("copy", {"symbols": 2, "length": 100_000}, None),
        ("dark-room", {}, 81),
        ("bandit", {}, None),
        ("minigrid-memory", {}, 16),
        ("minigrid-memory", {"size": 11, "view": 7}, 32),
        ("minigrid-memory", {"size": 13, "random": True}, None),
    ],
    ids=str,
)
def test_tasks_of_at_most_a_thousand_episodes_tell_their_number(name, options, episodes) -> None:
    assert make_env(name, 1, **options).distinct_episodes == episodes


def in_states(name: str, options: dict[str, Any], states: list[dict[str, Any]]) -> tuple[list[Any], list[Any]]:
    """The values of `hidden` and `shown` of row 1 of a task in these states; row 0 stays as it is."""
    env = make_env(name, 2, **options)
    env.reset(seed=0)
    usual, hidden, shown = env.state_dict(), [], []
    for state in states:
        entries = {key: torch.stack([usual[key][0], torch.as_tensor(value)]) for key, value in state.items()}
        env.load_state_dict(usual | entries)
        found, now = env.hidden(), env.shown()
        assert found.keys() == now.keys()
        hidden.append({key: int(value[1]) for key, value in found.items()})
        shown.append([key for key, value in now.items() if value[1]])
    return hidden, shown


CORRIDOR = [{"t": 0, "x": 0}, {"t": 1, "x": 1}, {"t": 2, "x": 0}]


@pytest.mark.parametrize(
    ("name", "options", "fixed", "states", "hidden", "shown"),
    [
        ("tmaze", {"length": 3}, {"goal": -1}, CORRIDOR, {"cue": 0}, [["cue"], [], []]),
        ("tmaze", {"length": 3}, {"goal": 1}, CORRIDOR, {"cue": 1}, [["cue"], [], []]),
        ("tmaze-rate", {"length": 3}, {"goal": 1}, CORRIDOR, {"cue": 1}, [["cue"], [], []]),
        ("tmaze-trial", {"length": 1, "episodes": 2}, {"goal": -1}, CORRIDOR, {"cue": 0}, [["cue"], [], []]),
        (
            "tmaze-active",
            {"length": 3},
            {"goal": 1},
            [{"t": 0, "x": 1, "cue": 0}, {"t": 1, "x": 0, "cue": 1}, {"t": 2, "x": 0, "cue": 0}],
            {"cue": 1},
            [[], ["cue"], []],
        ),
        (
            "memory-len",
            {"length": 4, "bits": 1},
            {"context": [1]},
            [{"t": t} for t in range(4)],
            {"bit": 1},
            [["bit"], ["bit"], [], []],
        ),
        (
            "memory-len",
            {"length": 4, "bits": 2},
            {"context": [1, 0]},
            [{"t": t} for t in (1, 2)],
            {"bit 0": 1, "bit 1": 0},
            [["bit 0", "bit 1"], []],
        ),
        (
            "associative-retrieval",
            {"keys": 3, "values": 4, "pairs": 2},
            {"keys": [2, 0], "values": [1, 3], "asked": [0]},
            [{"t": t} for t in range(3)],
            {"value of key 1": 4, "value of key 2": 0, "value of key 3": 2},
            [["value of key 3"], ["value of key 1"], []],
        ),
        (
            "associative-retrieval",
            {"keys": 2, "values": 4, "pairs": 3, "rewrite": True},
            {"keys": [1, 0, 1], "values": [1, 3, 2], "asked": [1]},
            [{"t": t} for t in range(3)],
            {"value of key 1": 4, "value of key 2": 3},
            [[], ["value of key 1"], ["value of key 2"]],  # its latest value
        ),
        (
            "detect",
            {"length": 3},
            {"time": [1], "fact": [2]},
            [{"t": t} for t in range(4)],
            {"cue": 2},
            [[], ["cue"], [], []],
        ),
        (
            "reasoning",
            {"length": 4, "values": 5},
            {"time": [2, 1], "fact": [2, 4]},
            [{"t": t} for t in range(5)],
            {"answer": 1, "fact 1": 2, "fact 2": 4},
            [[], ["fact 2"], ["answer", "fact 1"], [], []],
        ),
        (
            "repeat-first",
            {},
            {"first": 3, "suit": 1},
            [{"t": t} for t in range(2)],
            {"first suit": 3},
            [["first suit"], []],
        ),
        (
            "dark-room",
            {},
            {"goal_x": 3, "goal_y": 7},
            [{"t": 1, "reward": 0}, {"t": 2, "reward": 1}],
            {"goal x": 3, "goal y": 7},
            [[], ["goal x", "goal y"]],
        ),
    ],
    ids=str,
)
def test_hidden_variables_are_shown_at_the_steps_whose_observation_depends_on_them(
    name, options, fixed, states, hidden, shown
) -> None:
    found = in_states(name, options, [fixed | state for state in states])
    assert found == ([hidden] * len(states), shown)


def test_the_places_of_copy_are_the_symbols_in_the_order_in_which_they_are_observed() -> None:
    env = make_env("copy", 3, symbols=5, length=4, delay=2, reverse=True)
    obs, _ = env.reset(seed=1)
    places, seen, shown = env.hidden(), [], []
    for _ in range(6):
        seen.append(obs)
        shown.append([name for name, now in env.shown().items() if now.all()])
        obs = env.step(torch.zeros(3, dtype=torch.int64))[0]
    assert [*places] == ["place 1", "place 2", "place 3", "place 4"]
    assert torch.equal(torch.stack([*places.values()]) + 1, torch.stack(seen[:4]))
    assert shown == [["place 1"], ["place 2"], ["place 3"], ["place 4"], [], []]


def test_the_hidden_card_of_repeat_previous_is_the_answer_and_never_observed_at_that_step() -> None:
    env = make_env("repeat-previous", 4, k=3)
    obs, _ = env.reset(seed=0)
    dealt = []
    for t in range(20):
        dealt.append(obs)
        assert not env.shown()["suit to answer"].any()
        assert torch.equal(env.hidden()["suit to answer"], dealt[max(0, t - 2)])
        obs = env.step(torch.zeros(4, dtype=torch.int64))[0]


def test_the_best_arm_of_a_bandit_is_that_with_the_highest_chance_and_never_observed() -> None:
    env = make_env("bandit", 20, arms=3, length=4)
    env.reset(seed=0)
    keys = env.state_dict()["key"].tolist()
    chances = [[bits(key, arm) for arm in range(3)] for key in keys]
    assert env.hidden()["best arm"].tolist() == [row.index(max(row)) for row in chances]
    assert not env.shown()["best arm"].any()
    assert env.names_of_hidden() == {"best arm": ("arm 1", "arm 2", "arm 3")}


def test_the_turn_of_an_endless_tmaze_is_the_hint_of_the_corridor_and_shown_in_its_first_cell() -> None:
    env = make_env("tmaze-endless", 8, corridors=3, length=2)
    obs, _ = env.reset(seed=0)
    turns = set()
    for _ in range(9):
        turn, first = env.hidden()["turn"], env.shown()["turn"]
        assert torch.equal(first, obs[:, 1:].any(1))
        assert torch.equal(obs[first, 1:].argmax(1), turn[first]) and obs[first, 1:].sum(1).eq(1).all()
        turns |= set(turn.tolist())
        obs = env.step(env.oracle())[0]
    assert turns == {0, 1} and env.names_of_hidden() == {"turn": ("left", "right")}


def test_distractors_are_two_coins_and_a_number_of_a_stream_of_their_own() -> None:
    env = make_env("tmaze", 16, length=4, distractors=True)
    obs, _ = env.reset(seed=3)
    stream = int.from_bytes(b"distract", "big")
    for t in range(3):
        for row, shown in enumerate(obs[:, 2:].tolist()):
            drawn = bits(bits(3 + row, 0) ^ stream, t)
            first, second, number = drawn % 2, drawn // 2 % 2, drawn // 4 % 1024
            assert shown == pytest.approx([2 * first - 1, 2 * second - 1, number / 1023 * 2 - 1], abs=1e-6)
        obs = env.step(torch.zeros(16, dtype=torch.int64))[0]
