"""RGB observations against the `minigrid` package's own wrapper."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from minigrid.envs import DoorKeyEnv, MemoryEnv, RedBlueDoorEnv
from minigrid.wrappers import RGBImgPartialObsWrapper

from rmt_rl.common.errors import ConfigError
from rmt_rl.envs.registry import make_env

# enough of each action to carry keys and open doors
CHANCES = (0.12, 0.12, 0.4, 0.14, 0.04, 0.18)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "options", "theirs", "tile"),
    [
        ("minigrid-memory", {"size": 7, "view": 3, "actions": 7}, MemoryEnv(size=7, agent_view_size=3), 28),
        ("minigrid-memory", {"size": 13, "view": 7, "actions": 7}, MemoryEnv(size=13), 8),
        ("minigrid-doorkey", {"size": 6, "view": 7}, DoorKeyEnv(size=6), 8),
        ("minigrid-redbluedoors", {"size": 6, "view": 5}, RedBlueDoorEnv(size=6, agent_view_size=5), 4),
    ],
)
def test_images_equal_those_of_minigrid(name: str, options: dict[str, Any], theirs: Any, tile: int) -> None:
    env, reference, rng = (
        make_env(name, 1, tile=tile, **options),
        RGBImgPartialObsWrapper(theirs, tile),
        np.random.default_rng(1),
    )
    obs, seen = env.reset(seed=3)[0], reference.reset(seed=3)[0]
    for _ in range(500):
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


def test_a_missing_minigrid_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(
        ConfigError, match=r"env\.tile=8: needs the package minigrid, which draws the tiles; pip install minigrid"
    ):
        make_env("minigrid-memory", 1, tile=8)
