"""What every environment shares, by hand: infos, seeds, masks of resets and actions."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
import pytest
import torch

from rmt_rl.common.errors import ConfigError
from rmt_rl.envs.base import TorchVectorEnv, checked_seeds, close_env, reported_names, reset_rows, row_seeds, step_info
from rmt_rl.envs.gym.reports import batched, reports_in

YES_NO = torch.tensor([True, False, False])


def test_the_info_of_a_step_says_who_reports_what() -> None:
    distance, who = torch.tensor([1.0, 2.0, 3.0]), torch.tensor([True, True, False])
    reports = {"success": YES_NO.clone(), "distance": distance, "_distance": who, "start": YES_NO.clone()}
    info = step_info(torch.zeros(3), YES_NO, reports)
    masks = {name: info[f"_{name}"].tolist() for name in ("success", "distance", "start", "final_obs", "final_info")}
    one = [True, False, False]
    assert masks == {
        "success": one,
        "distance": [True, True, False],
        "start": [True] * 3,
        "final_obs": one,
        "final_info": one,
    }
    assert info["distance"] is distance and "__distance" not in info
    # of the rows that ended only
    final = info["final_info"]
    assert {name: final[name].tolist() for name in ("_success", "_distance", "_start")} == dict.fromkeys(
        ("_success", "_distance", "_start"), one
    )
    assert set(final) == {"success", "_success", "distance", "_distance", "start", "_start"}


def test_the_numbers_that_rows_report_are_the_vectors_without_a_meaning_of_their_own() -> None:
    vector = torch.zeros(3)
    named = dict.fromkeys(("success", "final_obs", "episode_over", "inner_start", "distance", "_distance"), vector)
    assert reported_names({**named, "place": torch.zeros(3, 2), "list": [1, 2, 3], "one": torch.tensor(1.0)}) == [
        "distance"
    ]


def test_reports_of_some_rows_become_arrays_with_masks() -> None:
    found = batched({0: {"success": True, "distance": 2.5}, 2: {"distance": 1.0}}, 3)
    assert {name: value.tolist() for name, value in found.items()} == {
        "success": [True, False, False],
        "_success": [True, False, False],
        "distance": [2.5, 0.0, 1.0],
        "_distance": [True, False, True],
    }
    assert (found["success"].dtype, found["distance"].dtype) == (np.bool_, np.float64)


@pytest.mark.parametrize(
    ("info", "found"),
    [
        ({"success": True, "distance": np.float32(0.5), "count": 3, "done": False}, [True, 0.5, 3.0, 0.0]),
        ({"is_success": 0.0, "success": True, "a": np.ones(1)}, [False, 1.0]),  # Stable-Baselines3's name counts
        ({"is_success": None, "success": np.array([1, 1])}, [True]),  # of several agents
        ({"success": [True, False]}, [False]),
        ({"success": None, "a": 1}, [1.0]),
        ({"_a": 1, "final_obs": 1, "final_info": 1, "action_mask": 1, "episode_over": 1, 5: 1}, []),
        ({"place": [1, 2], "name": "x", "nothing": None, "nested": {"a": 1}}, []),
    ],
)
def test_an_info_reports_its_success_and_its_single_numbers(info: Any, found: list[Any]) -> None:
    values = list(reports_in(info, "Env").values())
    assert values == found and list(map(type, values)) == list(map(type, found))


@pytest.mark.parametrize("success", [0.5, 2, "yes", [], [True, 3]])
def test_a_success_that_is_neither_is_one_sentence(success: Any) -> None:
    with pytest.raises(ConfigError, match=r"^Env: step returned the info 'success' = .*; expected True or False$"):
        reports_in({"success": success}, "Env")


def test_an_error_on_closing_is_one_warning(capsys: pytest.CaptureFixture[str]) -> None:
    class Once:
        def close(self) -> None:
            raise KeyError("window\nlost")

    for _ in range(2):
        close_env(Once())
    assert capsys.readouterr().err == "warning: Once: close raised KeyError: 'window\\nlost'; nothing is lost\n"


@pytest.mark.parametrize(
    ("seed", "found"),
    [
        (None, None),
        (0, [0, 1, 2]),
        (2**63 - 3, [2**63 - 3, 2**63 - 2, 2**63 - 1]),
        ((4, None, 0), [4, None, 0]),
        (np.array([4, 4, 9]), [4, 4, 9]),
        (torch.tensor(5), [5, 6, 7]),
    ],
)
def test_seeds_are_read(seed: Any, found: Any) -> None:
    assert checked_seeds(seed, 3) == found
    drawn = row_seeds(seed, 3)
    assert all(
        0 <= own < 2**62 if given is None else own == given
        for own, given in zip(drawn, found or [None] * 3, strict=True)
    )


@pytest.mark.parametrize(
    ("seed", "says"),
    [
        (-1, "seed -1 is outside"),
        (2**63 - 2, f"seed {2**63} is outside"),
        ([0, -1, 0], "seed -1 is outside"),
        ([0, 1], "seed is a list of 2 for 3 rows"),
        (1.0, "seed is 1.0; expected a whole number"),
        (True, "seed is True; expected a whole number"),
        ([0, np.bool_(True), 1], "expected a whole number"),
    ],
)
def test_other_seeds_are_one_sentence(seed: Any, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        checked_seeds(seed, 3)


def test_masks_of_resets_are_read() -> None:
    assert reset_rows(None, 2).tolist() == reset_rows({}, 2).tolist() == [True, True]
    assert reset_rows(None, 2, started=False).tolist() == [True, True]
    for mask in ([True, False], np.array([True, False]), torch.tensor([True, False])):
        assert reset_rows({"reset_mask": mask}, 2).tolist() == [True, False]
    for wrong in ([False, False], [1, 0], [True], [[True, False]], True):
        with pytest.raises(
            ValueError, match=r"reset_mask is .*; expected 2 values True or False, at least one of them True"
        ):
            reset_rows({"reset_mask": wrong}, 2)
    with pytest.raises(ValueError, match="before the first reset"):
        reset_rows({"reset_mask": [True, False]}, 2, started=False)


def test_actions_are_whole_numbers_in_their_range() -> None:
    space = gymnasium.spaces.Discrete(3)
    env = TorchVectorEnv(2, "cpu", space, space)
    for given in ([0, 2], np.array([0, 2], np.uint8), torch.tensor([0, 2], dtype=torch.int8)):
        read = env._read_action(given, 3)
        assert read.tolist() == [0, 2] and read.dtype == torch.int64
    for wrong, says in (
        ([0, 3], r"action \[0, 3\] is outside 0..2"),
        ([-1, 0], r"action \[-1, 0\] is outside 0..2"),
        ([0], r"action has shape \(1,\); expected \(2,\)"),
        ([[0], [1]], r"action has shape \(2, 1\); expected \(2,\)"),
        ([0.0, 1.0], "action has dtype torch.float32; expected integers"),
        ([True, False], "action has dtype torch.bool; expected integers"),
        ([1j, 0], "action has dtype torch.complex64; expected integers"),
        (["a", "b"], "action cannot be read .*; expected 2 integers"),
        (None, "action cannot be read .*; expected 2 integers"),
    ):
        with pytest.raises(ValueError, match=says):
            env._read_action(wrong, 3)
    with pytest.raises(ValueError, match="num_envs is 0; it must be at least 1"):
        TorchVectorEnv(0, "cpu", space, space)
