"""RGB observations against the `minigrid` package's own wrapper."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from minigrid.envs import DoorKeyEnv, MemoryEnv, RedBlueDoorEnv
from minigrid.wrappers import RGBImgPartialObsWrapper

from rmt_rl.common.errors import ConfigError
from rmt_rl.envs.registry import make_env

# enough of each action to carry keys and open doors
CHANCES = (0.12, 0.12, 0.4, 0.14, 0.04, 0.18)


CASES = [
    ("minigrid-memory", {"size": 7, "view": 3, "actions": 7}, lambda: MemoryEnv(size=7, agent_view_size=3), 28),
    ("minigrid-memory", {"size": 13, "view": 7, "actions": 7}, lambda: MemoryEnv(size=13), 8),
    ("minigrid-doorkey", {"size": 6, "view": 7}, lambda: DoorKeyEnv(size=6), 8),
    ("minigrid-redbluedoors", {"size": 6, "view": 5}, lambda: RedBlueDoorEnv(size=6, agent_view_size=5), 4),
]


@pytest.mark.parametrize(
    ("case", "steps"),
    [
        *((case, 20) for case in CASES[2:]),  # drawing the tiles takes long
        *(pytest.param(case, 500, marks=pytest.mark.slow) for case in CASES),
    ],
)
def test_images_equal_those_of_minigrid(case: Any, steps: int) -> None:
    name, options, theirs, tile = case
    env, reference = make_env(name, 1, tile=tile, **options), RGBImgPartialObsWrapper(theirs(), tile)
    rng = np.random.default_rng(1)
    obs, seen = env.reset(seed=3)[0], reference.reset(seed=3)[0]
    for _ in range(steps):
        assert isinstance(obs, dict)
        np.testing.assert_array_equal(obs["image"][0].numpy(), seen["image"])
        assert int(obs["direction"][0]) == seen["direction"]
        action = int(rng.choice(6, p=CHANCES))
        obs, _, terminated, truncated, info = env.step(torch.tensor([action]))
        seen, _, ended, cut, _ = reference.step(action)
        assert (bool(terminated), bool(truncated)) == (ended, cut)
        np.testing.assert_array_equal(info["final_obs"]["image"][0].numpy(), seen["image"])
        if ended or cut:
            seen, _ = reference.reset()


def test_the_final_image_is_that_of_the_row_whose_episode_ended() -> None:
    # row 0 goes on; row 1 turns on the spot and is cut after three steps
    options = {"max_steps": 3, "tile": 4}
    env, plain = make_env("minigrid-memory", 2, **options), make_env("minigrid-memory", 2, max_steps=3)
    for each in (env, plain):
        each.reset(seed=1)
        each.step(torch.tensor([0, 0]))
        each.reset(options={"reset_mask": [True, False]})
        each.step(torch.tensor([0, 0]))
    obs, *_, info = env.step(torch.tensor([2, 1]))
    symbols, *_, expected = plain.step(torch.tensor([2, 1]))
    assert info["_final_obs"].tolist() == [False, True]
    drawn = env._drawn(expected["final_obs"])  # type: ignore[attr-defined]
    assert isinstance(obs, dict) and isinstance(symbols, dict)
    assert torch.equal(info["final_obs"]["image"], drawn["image"])
    assert torch.equal(info["final_obs"]["direction"], expected["final_obs"]["direction"])
    assert not torch.equal(obs["image"][1], drawn["image"][1])
    assert torch.equal(env.symbols["image"], symbols["image"])  # type: ignore[attr-defined]


def test_pixels_are_described_and_solved_like_the_symbols() -> None:
    env, plain = make_env("minigrid-memory", 2, tile=4), make_env("minigrid-memory", 2)
    assert env.single_observation_space["image"] == gymnasium.spaces.Box(0, 255, (12, 12, 3), np.uint8)  # type: ignore[index]
    assert (env.floor, env.ceiling, env.measure) == (plain.floor, plain.ceiling, plain.measure)
    assert (env.action_names, env.episode_steps) == (plain.action_names, None)
    assert env.task == f"{plain.task}, images of 12 x 12 pixels"
    env.reset(seed=2), plain.reset(seed=2)
    assert torch.equal(env.oracle(), plain.oracle())


def test_a_missing_minigrid_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(
        ConfigError, match=r"env\.tile=8: needs the package minigrid, which draws the tiles; pip install minigrid"
    ):
        make_env("minigrid-memory", 1, tile=8)
