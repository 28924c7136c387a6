"""env.add_info: an entry of the info becomes an entry of the observation, whatever the observation was."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces

from rmt_rl.common.errors import ConfigError
from rmt_rl.envs.gym.info import ShowInfo, with_info


class Reports(gymnasium.Env[Any, Any]):
    """Reports a number, or what it is given, in every info."""

    observation_space: Any = spaces.Dict(a=spaces.Discrete(3), b=spaces.Box(-1, 1, (2,), np.float32))
    action_space: Any = spaces.Discrete(2)

    def __init__(self, *reports: Any, back: Any = None) -> None:
        self.reports, self.back = list(reports), back

    def seen(self) -> Any:
        return {"a": 1, "b": np.zeros(2, np.float32)}

    def info(self) -> Any:
        return {"place": self.reports.pop(0)}

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        self.given = (seed, options)
        return self.seen(), self.info()

    def step(self, action: Any) -> Any:
        return (self.seen(), 0.5, False, True, self.info()) if self.back is None else self.back


class Plain(Reports):
    observation_space = spaces.Discrete(3)

    def seen(self) -> Any:
        return 2


@pytest.mark.parametrize(("cls", "before"), [(Reports, ["a", "b"]), (Plain, ["observation"])])
def test_the_entry_stands_beside_the_others_or_beside_the_whole_observation(cls: Any, before: list[str]) -> None:
    env = with_info(cls([1, 2], (3, 4), np.array([5, 6])), "place")
    space: Any = env.observation_space
    assert sorted(space.spaces) == sorted([*before, "place"])
    assert space["place"] == spaces.Box(-np.inf, np.inf, (2,), np.float32)
    inner = cls.observation_space
    assert all(space[name] == (inner[name] if name in ("a", "b") else inner) for name in before)
    obs, info = env.reset(seed=3, options={"x": 1})
    assert space.contains(obs) and obs["place"].tolist() == [3, 4] and info == {"place": (3, 4)}
    assert env.unwrapped.given == (3, {"x": 1})  # type: ignore[attr-defined]
    back = env.step(0)
    assert space.contains(back[0]) and back[0]["place"].tolist() == [5, 6]
    assert back[1:4] == (0.5, False, True) and list(back[4]) == ["place"]


def test_without_a_name_nothing_is_added_and_a_number_has_no_axis() -> None:
    env = Reports(1)
    assert with_info(env, None) is env
    assert ShowInfo(Reports(7, True), "place").observation_space["place"].shape == ()  # type: ignore[index]


def test_the_shown_numbers_are_a_copy() -> None:
    kept = np.ones(2, np.float32)
    env = ShowInfo(Reports(kept, kept), "place")
    obs, _ = env.reset()
    kept += 1
    assert obs["place"].tolist() == [1, 1]


@pytest.mark.parametrize(
    ("reports", "name", "sentence"),
    [
        ([1], "action_mask", "env.add_info=action_mask: a mask of the actions comes from env.action_mask=info"),
        ([1], "a", "env.add_info=a: the observation of Reports has the entry 'a' already; leave the option out"),
        (
            ["text"],
            "place",
            "reset returned info['place'] = 'text'; expected numbers, as an array of one shape in every info",
        ),
        ([None], "place", "info['place'] = None; expected numbers"),
        ([1], "plce", "info['plce'] = None; expected numbers"),
        ([[1, 2], [1]], "place", "info['place'] = [1]; expected numbers of shape (2,), as an array of one shape"),
        ([1, [1]], "place", "info['place'] = [1]; expected numbers of shape ()"),
    ],
)
def test_an_entry_that_cannot_be_shown_is_one_sentence(reports: Any, name: str, sentence: str) -> None:
    with pytest.raises(ConfigError) as caught:
        ShowInfo(Reports(*reports), name).reset()
    assert sentence in str(caught.value) and "\n" not in str(caught.value)


def test_results_of_another_form_are_left_to_the_row_that_names_them() -> None:
    env = ShowInfo(Reports(1, back=(1, 2, 3)), "place")
    assert env.step(0) == (1, 2, 3)
    env.env.reset = lambda **given: "text"  # type: ignore[method-assign,assignment,return-value]
    assert env.reset() == "text"
