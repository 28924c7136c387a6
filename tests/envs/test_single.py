"""Tasks behind gymnasium's own interfaces: one environment, a batch of numpy arrays, ids, infos and pictures."""

from __future__ import annotations

import pickle
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium.utils.env_checker import check_env, data_equivalence
from gymnasium.wrappers import vector as wrappers

import rmt_rl
from rmt_rl.common.errors import ConfigError
from rmt_rl.common.gymnasium_ids import GYMNASIUM_IDS
from rmt_rl.config.registry import GROUPS
from rmt_rl.envs.registry import BUILTIN, make_env
from rmt_rl.envs.single import NumpyVectorEnv, SingleEnv, to_numpy

#: Options that make episodes short, so that a few steps see several.
SHORT: dict[str, dict[str, Any]] = {
    "tmaze": {"length": 3, "min_length": 2},
    "tmaze-active": {"length": 3},
    "tmaze-rate": {"length": 3},
    "tmaze-trial": {"length": 2, "episodes": 2},
    "memory-len": {"length": 4},
    "minigrid-memory": {"max_steps": 6},
    "minigrid-doorkey": {"size": 5, "max_steps": 6},
    "minigrid-redbluedoors": {"size": 4, "max_steps": 6},
    "bandit": {"length": 7},
    "dark-room": {"episodes": 1},
}


def code(text: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", text], capture_output=True, text=True, timeout=60)


def numbers(value: Any) -> Any:
    return {key: numbers(part) for key, part in value.items()} if isinstance(value, dict) else np.asarray(value)


# ------------------------------------------------------------------------------------------------------------- ids


def test_the_written_ids_are_those_of_the_registered_tasks() -> None:
    names = [name for name in BUILTIN if name != "gym"]
    assert list(GYMNASIUM_IDS.values()) == names
    classes = [GROUPS["env"][name].config.__name__.removesuffix("Config") for name in names]
    assert list(GYMNASIUM_IDS) == [f"rmt_rl/{name}-v0" for name in classes]


def test_the_documentation_lists_every_id_beside_its_name() -> None:
    text = (Path(__file__).parents[2] / "docs" / "tasks.md").read_text(encoding="utf-8")
    for id, name in GYMNASIUM_IDS.items():
        assert any(f"`{id}`" in line and f"`{name}`" in line for line in text.splitlines()), id


def test_importing_rmt_rl_registers_the_ids() -> None:
    done = code("import gymnasium, rmt_rl\nprint(gymnasium.spec('rmt_rl/TMaze-v0').kwargs)")
    assert (done.stdout.strip(), done.stderr) == ("{'name': 'tmaze'}", "")


@pytest.mark.slow
def test_gymnasium_makes_a_task_by_module_and_id() -> None:
    done = code("import gymnasium\nprint(gymnasium.make('rmt_rl:rmt_rl/TMaze-v0', length=3).spec.kwargs)")
    assert (done.stdout.strip(), done.stderr) == ("{'name': 'tmaze', 'length': 3}", "")


def test_importing_rmt_rl_imports_neither_torch_nor_the_tasks() -> None:
    heavy = "[name for name in sys.modules if name in ('torch', 'rmt_rl.config', 'rmt_rl.envs')]"
    assert code(f"import rmt_rl, sys; print({heavy})").stdout.strip() == "[]"


# ---------------------------------------------------------------------------------------------------- one environment


@pytest.mark.thorough
@pytest.mark.parametrize("id", GYMNASIUM_IDS)
def test_one_environment_equals_row_0_of_a_batch_with_the_same_seed(id: str) -> None:
    name = GYMNASIUM_IDS[id]
    options = SHORT.get(name, {})
    env, batch = gymnasium.make(id, **options), make_env(name, 3, **options)
    env.action_space.seed(0)
    seen, _ = env.reset(seed=5)
    expected, _ = batch.reset(seed=5)
    ends = 0
    for _ in range(60):
        assert env.observation_space.contains(seen)
        assert data_equivalence(numbers(seen), numbers(to_numpy(_first(expected))), exact=True)
        action = env.action_space.sample()
        seen, reward, terminated, truncated, found = env.step(action)
        expected, rewards, terminations, truncations, info = batch.step(np.stack([action] * 3))
        assert data_equivalence(numbers(seen), numbers(to_numpy(_first(info["final_obs"]))), exact=True)
        assert (reward, terminated, truncated) == (rewards[0].item(), terminations[0].item(), truncations[0].item())
        if terminated or truncated:
            ends += 1
            assert found.get("success", None) == (info["success"][0].item() if "success" in info else None)
            seen, _ = env.reset()
        else:
            assert "success" not in found
    # a deck has 52 cards
    assert ends or name in ("repeat-first", "repeat-previous") or name.startswith("popgym")


def _first(obs: Any) -> Any:
    return {key: part[0] for key, part in obs.items()} if isinstance(obs, dict) else obs[0]


@pytest.mark.slow
@pytest.mark.parametrize(
    "id", [pytest.param(id, marks=[pytest.mark.slow] if "MiniGrid" in id else []) for id in GYMNASIUM_IDS]
)
def test_gymnasiums_own_checker_finds_nothing(id: str) -> None:
    if "minigrid" in GYMNASIUM_IDS[id]:
        pytest.importorskip("minigrid")  # draws the pictures
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        # spaces of POPGym that gymnasium does not recommend
        warnings.filterwarnings("ignore", ".*minimum value is -infinity|.*maximum value is infinity|.*normalized space")
        env = gymnasium.make(id)
        check_env(env.unwrapped)
        env.close()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"lenght": 3},
            "env.lenght: no such option; tmaze has length, min_length, end_at_turn, distractors; did you mean length?",
        ),
        ({"length": 0}, "env.length=0: expected a whole number, at least 1 and at most 10000000"),
        ({"num_envs": 3}, "env.num_envs: no such option"),
        ({"length": 3, "min_length": 4}, "env.min_length=4: expected at most env.length=3"),
    ],
)
def test_a_wrong_option_of_make_gives_one_sentence(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        gymnasium.make("rmt_rl/TMaze-v0", **options)
    assert str(caught.value).startswith(message) and "\n" not in str(caught.value)


def test_wrong_calls_give_one_sentence_and_change_nothing() -> None:
    env = SingleEnv("tmaze", length=3)
    for call in (lambda: env.step(0), lambda: SingleEnv("tmaze", render_mode="ansi").render()):
        with pytest.raises(RuntimeError, match="was called before reset; call reset first"):
            call()
    first, _ = env.reset(seed=np.int64(3))
    for wrong in (7, -1, 1.5, "up", None, [0, 1], True):
        with pytest.raises(ValueError, match="action"):
            env.step(wrong)
    for seed in (-1, 1.5, "x"):
        with pytest.raises(ValueError, match="seed"):
            env.reset(seed=seed)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"options \['x'\] are not supported"):
        env.reset(options={"x": 1})
    assert [env.step(0)[2] for _ in range(4)] == [False, False, False, True]
    with pytest.raises(RuntimeError, match="after the end of the episode; call reset first"):
        env.step(0)
    assert np.array_equal(env.reset(seed=3)[0], first)


def test_metadata_belongs_to_one_environment() -> None:
    env = gymnasium.make("rmt_rl/TMaze-v0").unwrapped
    env.metadata["render_modes"].append("human")
    batch = make_env("tmaze")
    batch.metadata["render_modes"].append("human")
    assert SingleEnv.metadata["render_modes"] == gymnasium.make("rmt_rl/TMaze-v0").metadata["render_modes"]
    assert make_env("tmaze").metadata["render_modes"] == type(batch).metadata["render_modes"] == []


def test_the_info_of_one_environment_has_plain_numbers_and_only_what_its_row_reports() -> None:
    env = SingleEnv("tmaze", length=3)
    env.reset(seed=0)
    inner = env._batch.step
    yes, no = torch.tensor([True]), torch.tensor([False])
    more = {
        "count": torch.tensor([3]),
        "distance": torch.tensor([0.5], dtype=torch.float64),
        "place": torch.tensor([[1, 2]]),
        "map": {"row": torch.tensor([[4.0]])},
        "early": torch.tensor([1]),
        "_early": no,
        "late": torch.tensor([2]),
        "_late": yes,
    }
    env._batch.step = lambda action: (*(back := inner(action))[:4], back[4] | more)  # type: ignore[method-assign]
    found = env.step(0)[4]
    place, nested = found.pop("place"), found.pop("map")["row"]
    assert found == {"count": 3, "distance": 0.5, "late": 2}
    assert [type(value) for value in found.values()] == [int, float, int]
    assert (place.tolist(), nested.tolist()) == ([1, 2], [4.0])
    assert isinstance(place, np.ndarray) and isinstance(nested, np.ndarray)
    env.step(0), env.step(0)
    success = env.step(0)[4]["success"]
    assert type(success) is bool


def test_the_title_counts_steps_and_rewards() -> None:
    env = SingleEnv("tmaze", "ansi", length=2)
    titles = []
    for action in (None, 0, 2, 1):
        env.reset(seed=1) if action is None else env.step(action)
        titles.append(str(env.render()).splitlines()[0])
    assert titles == [
        "step 0",
        "step 1, return 0.00",
        "step 2, return -0.50",
        "the episode ended after 3 steps: return -0.50, no success",
    ]
    env.reset()
    assert str(env.render()).splitlines()[0] == "step 0"
    bandit = SingleEnv("bandit", "ansi", length=1)  # has no success
    bandit.reset(seed=0)
    bandit.step(0)
    assert str(bandit.render()).splitlines()[0] in [
        f"the episode ended after 1 steps: return {total}" for total in ("0.00", "1.00")
    ]


def test_arrays_of_a_numpy_batch_share_no_memory_with_its_tensors() -> None:
    tensor = torch.ones(2, requires_grad=True)
    array = to_numpy({"a": [tensor], "b": tensor, "c": 3})["b"]
    array += 1
    assert tensor.tolist() == [1, 1] and to_numpy({"c": 3}) == {"c": 3}


@pytest.mark.parametrize("name", ["tmaze", "bandit"])
def test_a_picture_is_drawn_and_does_not_change_the_episode(name: str) -> None:
    env, twin = SingleEnv(name, "rgb_array", **SHORT.get(name, {})), SingleEnv(name, **SHORT.get(name, {}))
    env.reset(seed=1)
    twin.reset(seed=1)
    pictures = [env.render()]
    for _ in range(3):
        assert data_equivalence(env.step(0), twin.step(0), exact=True)
        pictures.append(env.render())
    assert all(picture.dtype == np.uint8 and picture.shape == (480, 640, 3) for picture in pictures)
    assert any(not np.array_equal(pictures[0], other) for other in pictures[1:])


def test_the_text_after_the_last_step_is_that_of_the_episode_that_ended() -> None:
    env = gymnasium.make("rmt_rl/Copy-v0", render_mode="ansi", symbols=3, length=1)
    env.reset(seed=0)
    assert str(env.render()).splitlines()[1] == "symbol 2 is shown"
    env.step(0)
    *_, ended, _, info = env.step(1)  # symbols are shown from 1
    assert ended and info["success"]
    assert str(env.render()).splitlines()[0] == "the episode ended after 2 steps: return 1.00, success"
    assert "is shown" not in str(env.render())


def test_a_task_that_a_user_registered_is_a_single_environment_too() -> None:
    env = SingleEnv("tmaze", length=3)
    again = pickle.loads(pickle.dumps(env))
    assert np.array_equal(again.reset(seed=0)[0], env.reset(seed=0)[0])


def test_env_gym_trains_on_the_single_environment_like_on_the_batch() -> None:
    ours, through = make_env("tmaze", 2, length=3), make_env("gym", 2, id="rmt_rl/TMaze-v0", options={"length": 3})
    assert torch.equal(ours.reset(seed=0)[0], through.reset(seed=0)[0])
    for action in (0, 0, 0, 1, 0):
        one, other = (env.step(torch.full((2,), action)) for env in (ours, through))
        assert all(torch.equal(a, b) for a, b in zip(one[:4], other[:4], strict=True))
        assert not other[2].any() or torch.equal(one[4]["success"], other[4]["success"])


# ------------------------------------------------------------------------------------------------------------ batches


@pytest.mark.parametrize("name", ["tmaze", "tmaze-trial", "bandit", "minigrid-memory", "minigrid-doorkey"])
def test_infos_have_masks_and_the_final_info_of_gymnasium(name: str) -> None:
    env = make_env(name, 4, **SHORT[name])
    env.reset(seed=0)
    ended = 0
    for _ in range(20):
        _, _, terminated, truncated, info = env.step(env.action_space.sample())
        over = terminated | truncated
        ended += int(over.sum())
        assert torch.equal(info["_final_info"], over) and torch.equal(info["_final_obs"], over)
        for found in (info, info["final_info"]):
            plain = {key for key in found if not key.startswith("_")}
            assert plain == {key[1:] for key in found if key.startswith("_")}
        for key, mask in info["final_info"].items():
            assert not key.startswith("_") or not bool((mask & ~over).any())
    assert ended


def test_wrappers_that_count_and_list_work_on_numpy_batches() -> None:
    env: Any = gymnasium.make_vec("rmt_rl/TMaze-v0", num_envs=3, length=3)
    env = wrappers.DictInfoToList(wrappers.RecordEpisodeStatistics(NumpyVectorEnv(env)))
    env.reset(seed=0)
    for _ in range(4):
        obs, reward, *_, infos = env.step(np.array([0, 0, 1]))
    assert isinstance(obs, np.ndarray) and isinstance(reward, np.ndarray)
    assert [info["final_info"]["success"] for info in infos] == [False, False, False]
    assert [info["episode"]["l"] for info in infos] == [4, 4, 4]
    assert np.array_equal(infos[0]["final_obs"], np.array([1, 0], np.float32))


def test_wrappers_of_observations_work_on_rows_that_gymnasium_batches() -> None:
    env: Any = gymnasium.make_vec("rmt_rl/TMaze-v0", num_envs=3, vectorization_mode="sync", length=3)
    env = wrappers.NormalizeReward(wrappers.RescaleObservation(env, np.float32(0), np.float32(1)))
    obs, _ = env.reset(seed=7)
    expected, _ = make_env("tmaze", 3, length=3).reset(seed=7)
    assert np.allclose(obs, (expected.numpy() + 1) / 2)  # type: ignore[union-attr]


def test_gymnasiums_array_conversion_makes_numpy_arrays() -> None:
    pytest.importorskip("array_api_compat")
    env: Any = rmt_rl.make_env("tmaze", 3, length=3)
    env = wrappers.RecordEpisodeStatistics(wrappers.ArrayConversion(env, torch, np))
    assert isinstance(env.reset(seed=0)[0], np.ndarray)
    for _ in range(4):
        *_, info = env.step(np.zeros(3, np.int64))
    assert info["episode"]["l"].tolist() == [4, 4, 4]
