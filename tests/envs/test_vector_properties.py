"""The properties that gymnasium tests of its own vector environments, on ours. docs/extending.md lists them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium.vector import AutoresetMode, VectorWrapper
from gymnasium.vector.utils import batch_space

from rmt_rl.config.commands import MemoryConfig, ReturnConditioning
from rmt_rl.envs.base import TorchVectorEnv
from rmt_rl.envs.registry import env_options, make_env, make_from_config
from rmt_rl.envs.single import to_numpy

ROWS = 3
KINDS: dict[str, Callable[[], TorchVectorEnv]] = {
    "tmaze": lambda: make_env("tmaze", ROWS, length=3),
    "bandit": lambda: make_env("bandit", ROWS, length=5),
    "minigrid-doorkey": lambda: make_env("minigrid-doorkey", ROWS, size=5, max_steps=5),
    "gym": lambda: make_env("gym", ROWS, id="CartPole-v1"),
    "trials": lambda: make_env("tmaze", ROWS, memory=MemoryConfig(scope="trial", episodes=2), length=3),
    "returns": lambda: make_from_config(
        env_options("tmaze-rate", {"length": 3}), ROWS, returns=ReturnConditioning(target=1.0)
    ),
}


@pytest.fixture(params=KINDS)
def env(request: pytest.FixtureRequest) -> TorchVectorEnv:
    made = KINDS[request.param]()
    made.action_space.seed(0)
    return made


def test_spaces_are_those_of_a_row_batched(env: TorchVectorEnv) -> None:
    assert env.observation_space == batch_space(env.single_observation_space, ROWS)
    assert env.action_space == batch_space(env.single_action_space, ROWS)
    assert env.metadata["autoreset_mode"] is AutoresetMode.SAME_STEP
    obs, _ = env.reset(seed=0)
    assert env.observation_space.contains(to_numpy(obs))
    obs, *_ = env.step(env.action_space.sample())
    assert env.observation_space.contains(to_numpy(obs))


def test_a_list_of_seeds_is_one_seed_for_each_row(env: TorchVectorEnv) -> None:
    first, _ = env.reset(seed=4)
    again, _ = env.reset(seed=[4, 5, 6])  # type: ignore[arg-type]  # gymnasium's says int, its code lists too
    assert all(map(np.array_equal, _arrays(first), _arrays(again)))
    with pytest.raises(ValueError, match="list of 2 for 3 rows"):
        env.reset(seed=[4, 5])  # type: ignore[arg-type]


def test_the_number_of_actions_must_be_that_of_the_rows(env: TorchVectorEnv) -> None:
    env.reset(seed=0)
    right = env.action_space.sample()
    assert all(len(part) == ROWS for part in env.step(right)[1:4])
    for wrong in (right[:-1], np.concatenate([right, right[:1]]), 0):
        with pytest.raises(ValueError, match="action has shape"):
            env.step(wrong)  # type: ignore[arg-type]


def test_the_infos_of_an_end_have_masks_and_final_info(env: TorchVectorEnv) -> None:
    env.reset(seed=0)
    ends = 0
    for _ in range(40):
        _, _, terminated, truncated, info = env.step(env.action_space.sample())
        ended = terminated | truncated
        ends += int(ended.sum())
        assert torch.equal(info["_final_obs"], ended) and torch.equal(info["_final_info"], ended)
        assert env.observation_space.contains(to_numpy(info["final_obs"]))
        for found in (info, info["final_info"]):
            assert all(
                torch.equal(found[f"_{key}"], found[f"_{key}"].bool()) for key in found if not key.startswith("_")
            )
    assert ends


def test_a_wrapper_of_gymnasium_passes_everything_on(env: TorchVectorEnv) -> None:
    wrapper: Any = VectorWrapper(env)
    assert (wrapper.num_envs, wrapper.unwrapped, wrapper.metadata) == (ROWS, env.unwrapped, env.metadata)
    assert wrapper.observation_space == env.observation_space and wrapper.single_action_space == env.single_action_space
    first, _ = wrapper.reset(seed=3)
    assert all(map(np.array_equal, _arrays(first), _arrays(env.reset(seed=3)[0])))


def test_closing_twice_is_allowed_and_is_remembered(env: TorchVectorEnv) -> None:
    env.close()
    env.close()
    assert env.closed


@pytest.mark.parametrize("mode", ["gym", "other"])
def test_rows_are_reset_by_a_mask_or_the_error_says_that_they_cannot_be(mode: str) -> None:
    env = KINDS["gym" if mode == "gym" else "tmaze"]()
    first, _ = env.reset(seed=0)
    stepped, *_ = env.step(env.action_space.sample())
    mask = {"reset_mask": np.array([True, True, False])}
    if mode == "gym":
        again, _ = env.reset(seed=[0, 1, 0], options=mask)  # type: ignore[arg-type]
        assert torch.equal(again[:2], first[:2]) and torch.equal(again[2], stepped[2])  # type: ignore[index]
    else:
        with pytest.raises(ValueError, match=r"options \['reset_mask'\] are not supported"):
            env.reset(options=mask)


def test_a_batch_knows_its_spec() -> None:
    env: Any = gymnasium.make_vec("rmt_rl/TMaze-v0", ROWS, length=3)
    assert env.spec.id == "rmt_rl/TMaze-v0" and env.spec.kwargs["length"] == 3


def _arrays(obs: Any) -> list[np.ndarray]:
    found = to_numpy(obs)
    return list(found.values()) if isinstance(found, dict) else [found]
