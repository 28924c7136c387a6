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

from rmt_rl.config.commands import ReturnConditioning
from rmt_rl.config.memory import MemoryConfig
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


@pytest.mark.parametrize("kind", ["gym", "tmaze", "minigrid-doorkey", "trials", "returns"])
def test_rows_that_a_mask_does_not_name_go_on(kind: str) -> None:
    env = KINDS[kind]()
    first = _arrays(env.reset(seed=0)[0])
    stepped = _arrays(env.step(env.action_space.sample())[0])
    mask = {"reset_mask": np.array([True, True, False])}
    again = _arrays(env.reset(seed=[0, 1, 0], options=mask)[0])  # type: ignore[arg-type]
    assert all(np.array_equal(new[:2], old[:2]) for new, old in zip(again, first, strict=True))
    assert all(np.array_equal(new[2], old[2]) for new, old in zip(again, stepped, strict=True))
    assert env.np_random_seed == (0, 1, 2)


def test_the_rows_of_a_gymnasium_environment_are_asked_and_set_one_by_one() -> None:
    env = make_env("gym", ROWS, memory=MemoryConfig(scope="trial", episodes=2), id="CartPole-v1")
    env.set_attr("length", [0.5, 0.6, 0.7])
    assert env.get_attr("length") == (0.5, 0.6, 0.7) == env.call("length")
    assert [space.n for space in env.get_attr("action_space")] == [2] * ROWS
    assert env.call("has_wrapper_attr", "gravity") == (True,) * ROWS
    with pytest.raises(AttributeError, match="no_such"):
        env.get_attr("no_such")


def test_rows_that_are_no_objects_say_what_to_do_instead() -> None:
    env = KINDS["trials"]()
    assert env.get_attr("longest") == (3,) * ROWS == env.call("longest")
    with pytest.raises(
        NotImplementedError, match=r"^call\('oracle'\): the rows of TMaze share one object; call .*\.oracle\(\.\.\.\)"
    ):
        env.call("oracle")
    with pytest.raises(NotImplementedError, match=r"^set_attr\('longest'\): the rows of TMaze .* with other options$"):
        env.set_attr("longest", 4)
    with pytest.raises(AttributeError, match="no_such"):
        env.get_attr("no_such")


@pytest.mark.parametrize("kind", ["tmaze", "bandit", "minigrid-doorkey"])
def test_a_seed_is_not_known_before_the_first_reset_and_in_worlds_that_save_generators_only(kind: str) -> None:
    env, other = KINDS[kind](), KINDS[kind]()
    assert env.np_random_seed is None
    env.reset(seed=4)
    other.load_state_dict(env.state_dict())
    assert other.np_random_seed == ((-1,) * ROWS if kind == "minigrid-doorkey" else (4, 5, 6))


def test_a_batch_knows_its_spec() -> None:
    env: Any = gymnasium.make_vec("rmt_rl/TMaze-v0", ROWS, length=3)
    assert env.spec.id == "rmt_rl/TMaze-v0" and env.spec.kwargs["length"] == 3


def _arrays(obs: Any) -> list[np.ndarray]:
    found = to_numpy(obs)
    return list(found.values()) if isinstance(found, dict) else [found]
