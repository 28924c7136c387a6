"""Seeds of every type, and resets of some rows, mean the same in every environment and in its wrappers."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
import pytest
import torch

from rmt_rl import config
from rmt_rl.envs.registry import make_env, wrap

ENVS = ("tmaze", "minigrid-memory", "minigrid-doorkey", "copy", "gym")
asynchronous = pytest.param("async", marks=pytest.mark.slow)


def seen(env: Any, seed: Any) -> Any:
    obs = env.reset(seed=seed)[0]
    shown = obs if isinstance(obs, dict) else {"": obs}
    return {key: value.tolist() for key, value in shown.items()}


@pytest.mark.parametrize("name", ENVS)
def test_whole_numbers_of_every_library_are_seeds(name: str) -> None:
    env = make_env(name, 2)
    expected = seen(env, 5)
    for seed in (
        np.int64(5),
        np.uint8(5),
        torch.tensor(5),
        np.array(5),
        [5, 6],
        (5, 6),
        np.array([5, 6]),
        torch.tensor([5, 6]),
    ):
        assert seen(env, seed) == expected, seed
    assert seen(env, [np.int64(5), np.int32(6)]) == expected
    partly = seen(env, [None, 6])
    assert {key: value[1] for key, value in partly.items()} == {key: value[1] for key, value in expected.items()}
    seen(env, 2**63 - 2)


BAD = [
    -1,
    2**63,
    2**63 - 1,
    [1],
    [1, -1],
    1.0,
    "5",
    True,
    [1, "x"],
    np.array([1.0, 2.0]),
    np.array([[1, 2]]),
    [True, 1],
    {},
]


@pytest.mark.parametrize("name", ENVS)
def test_other_seeds_raise_one_sentence_and_change_nothing(name: str) -> None:
    env, twin = make_env(name, 2), make_env(name, 2)
    seen(env, 3)
    seen(twin, 3)
    for seed in BAD:
        with pytest.raises(ValueError, match=r"^seed ") as caught:
            env.reset(seed=seed)  # type: ignore[arg-type]
        assert "\n" not in str(caught.value)
    assert seen(env, None) == seen(twin, None)


@pytest.mark.slow
def test_a_bad_seed_does_not_close_worker_processes() -> None:
    env = make_env("gym", 2, workers="async")
    expected = seen(env, 3)
    for seed in BAD:
        with pytest.raises(ValueError, match=r"^seed "):
            env.reset(seed=seed)  # type: ignore[arg-type]
    assert seen(env, 3) == expected
    env.close()


class Count(gymnasium.Env[Any, Any]):
    """Shows the number of steps of the episode, and pays it."""

    observation_space = gymnasium.spaces.Discrete(100)
    action_space = gymnasium.spaces.Discrete(2)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[int, dict[str, Any]]:
        super().reset(seed=seed)
        self.t = 0
        return 0, {}

    def step(self, action: Any) -> tuple[int, float, bool, bool, dict[str, Any]]:
        self.t += 1
        return self.t, float(self.t), self.t == 4, False, {}


@pytest.fixture
def counters() -> Any:
    gymnasium.register("rmt-test/Count-v0", Count, disable_env_checker=True)
    yield lambda workers: make_env("gym", 3, id="rmt-test/Count-v0", workers=workers)
    del gymnasium.registry["rmt-test/Count-v0"]


MASKS = [np.array([False, True, False]), torch.tensor([False, True, False]), [False, True, False]]


@pytest.mark.parametrize("workers", ["sync", asynchronous])
def test_a_mask_restarts_its_rows_only(counters: Any, workers: str) -> None:
    env = counters(workers)
    with pytest.raises(ValueError, match=r"^reset_mask was given before the first reset"):
        env.reset(options={"reset_mask": MASKS[0]})
    env.reset(seed=0)
    for mask in MASKS:
        env.reset(seed=0)
        for _ in range(2):
            env.step(torch.zeros(3, dtype=torch.int64))
        options = {"reset_mask": mask}
        assert env.reset(options=options)[0].tolist() == [2, 0, 2]
        assert list(options) == ["reset_mask"] and env.np_random_seed == (0, 1, 2)
        assert env.step(torch.zeros(3, dtype=torch.int64))[0].tolist() == [3, 1, 3]
    for bad in (np.zeros(3, bool), np.ones(2, bool), np.ones(3), "x", None):
        with pytest.raises(ValueError, match=r"^reset_mask is .*; expected 3 values True or False"):
            env.reset(options={"reset_mask": bad})
    assert env.step(torch.zeros(3, dtype=torch.int64))[1].tolist() == [4.0, 2.0, 4.0]
    if workers == "async":
        with pytest.raises(
            NotImplementedError, match=r"^get_attr\('n'\): rows of env.workers=async .* use env.workers=sync"
        ):
            env.get_attr("n")
    env.close()


def test_the_return_to_go_of_rows_that_go_on_is_kept(counters: Any) -> None:
    env = wrap(counters("sync"), returns=config.ReturnConditioning(target=10.0, low=0.0, high=10.0))
    env.reset(seed=0)
    for _ in range(2):
        env.step(torch.zeros(3, dtype=torch.int64))
    obs = env.reset(options={"reset_mask": MASKS[0]})[0]
    assert obs["return_to_go"].flatten().tolist() == [7.0, 10.0, 7.0]
    assert env.step(torch.zeros(3, dtype=torch.int64))[0]["return_to_go"].flatten().tolist() == [4.0, 9.0, 4.0]


def test_trials_of_rows_that_go_on_are_kept(counters: Any) -> None:
    env = wrap(counters("sync"), config.MemoryConfig(scope="trial", episodes=2))
    with pytest.raises(ValueError, match=r"^reset_mask was given before the first reset or step"):
        env.reset(options={"reset_mask": MASKS[0]})
    env.reset(seed=0)
    for _ in range(4):
        shown = env.step(torch.zeros(3, dtype=torch.int64))[0]
    assert shown["episode_start"].tolist() == [1, 1, 1]
    obs = env.reset(options={"reset_mask": MASKS[0]})[0]
    assert obs["previous_reward"].flatten().tolist() == [4.0, 0.0, 4.0]
    assert obs["episode_start"].tolist() == [1, 1, 1]
    ends = [env.step(torch.zeros(3, dtype=torch.int64))[2].tolist() for _ in range(8)]
    assert ends[3] == [True, False, True]
    assert ends[7] == [False, True, False]
