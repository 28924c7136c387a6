"""What gymnasium's own checker refuses or warns about, `rmt_rl.envs.check` finds as well. docs/extending.md has the table."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.envs.registration import EnvSpec
from gymnasium.utils.env_checker import check_env

from rmt_rl.common.errors import ConfigError
from rmt_rl.envs.check import _require_constructible, check, maker

PAGE = Path(__file__).parents[2] / "docs" / "extending.md"


class Right(gymnasium.Env[Any, Any]):
    """An environment without a fault; those below have one each."""

    observation_space: Any = spaces.Box(0.0, 1.0, (2,), np.float32)
    action_space: Any = spaces.Box(-1.0, 1.0, (1,), np.float32)
    metadata: dict[str, Any] = {"render_modes": []}  # noqa: RUF012  as in gymnasium

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        self.t = 0
        return self.seen(), {}

    def step(self, action: Any) -> Any:
        self.t += 1
        return self.seen(), 0.5, self.t == 20, False, {}

    def seen(self) -> Any:
        return self.np_random.random(2, dtype=np.float32)


#: Faults by their name in the table. A value is what differs from `Right`.
FAULTS: dict[str, dict[str, Any]] = {}


def fault(name: str, **attributes: Any) -> None:
    FAULTS[name] = attributes


def changed(space: spaces.Space[Any], **attributes: Any) -> spaces.Space[Any]:
    for name, value in attributes.items():
        setattr(space, name, value)
    return space


def box(low: Any = 0.0, high: Any = 1.0) -> spaces.Box:
    return spaces.Box(np.full(2, low, np.float32), np.full(2, high, np.float32))


def returning(**parts: Any) -> Callable[..., Any]:
    """A `step` that returns other parts."""

    def step(self: Any, action: Any) -> Any:
        names = ("observation", "reward", "terminated", "truncated", "info")
        found = zip(names, Right.step(self, action), strict=True)
        return tuple(parts[name]() if callable(parts.get(name)) else parts.get(name, part) for name, part in found)

    return step


def plain_reset(change: Callable[[Any, int | None], Any]) -> Callable[..., Any]:
    """A `reset` that calls `change(self, seed)`; the observation is the same in every episode."""

    def reset(self: Any, *, seed: int | None = None, options: Any = None) -> Any:
        self.t = 0
        change(self, seed)
        return np.zeros(2, np.float32), {}

    return reset


def seeds_np_random(self: Any, seed: int | None) -> None:
    gymnasium.Env.reset(self, seed=seed)


def default_seed(self: Any, *, seed: int | None = 23, options: Any = None) -> Any:
    return Right.reset(self, seed=seed)


def no_seed(self: Any, *, options: Any = None) -> Any:
    return Right.reset(self)


def no_options(self: Any, *, seed: int | None = None) -> Any:
    return Right.reset(self, seed=seed)


def return_info(self: Any, *, seed: int | None = None, options: Any = None, return_info: bool = True) -> Any:
    return Right.reset(self, seed=seed)


def changes_its_observation(self: Any, action: Any) -> Any:
    back = Right.step(self, action)
    if not hasattr(self, "kept"):
        self.kept = back[0]
    self.kept[:] = back[0]
    return (self.kept, *back[1:])


def closes_once(self: Any) -> None:
    if getattr(self, "closed", False):
        raise RuntimeError("closed already")
    self.closed = True


def shown(mode: Any, modes: Any, fps: Any, frame: Any = None) -> dict[str, Any]:
    return {"metadata": {"render_modes": modes, "render_fps": fps}, "render_mode": mode, "render": lambda self: frame}


for which in ("observation", "action"):
    key = f"{which}_space"
    fault(f"no {which} space", **{key: None})
    fault(f"{which} space: text", **{key: "error"})
    fault(f"{which} space: Box with another shape of low", **{key: changed(box(), low=np.zeros(3, np.float32))})
    fault(f"{which} space: Box with another shape of high", **{key: changed(box(), high=np.ones(3, np.float32))})
    fault(f"{which} space: Box with low = high", **{key: box(0, 0)})
    fault(f"{which} space: Box with low > high", **{key: changed(box(), low=np.full(2, 2, np.float32))})
    fault(f"{which} space: Discrete(-1)", **{key: changed(spaces.Discrete(5), n=-1)})
    fault(
        f"{which} space: MultiDiscrete with nvec -1",
        **{key: changed(spaces.MultiDiscrete([2, 2]), nvec=np.array([2, -1]))},
    )
    fault(
        f"{which} space: MultiDiscrete of another shape",
        **{key: changed(spaces.MultiDiscrete([2, 2]), _shape=(2, 1, 2))},
    )
    fault(
        f"{which} space: MultiBinary of a shape below 1", **{key: changed(spaces.MultiBinary((2, 2)), _shape=(2, -1))}
    )
    fault(f"{which} space: empty Tuple", **{key: spaces.Tuple([])})
    fault(f"{which} space: empty Dict", **{key: spaces.Dict()})
    fault(f"{which} space: Box without bounds", **{key: box(-np.inf, np.inf)})
fault("action space: Box from -2 to 2", action_space=spaces.Box(-2.0, 2.0, (1,), np.float32))

fault("reset: no argument seed", reset=no_seed)
fault("reset: no argument options", reset=no_options)
fault("reset: seed=23 by default", reset=default_seed)
fault("reset: an argument return_info", reset=return_info)
fault("reset: np_random is never made", reset=plain_reset(lambda self, seed: None))
fault("reset: np_random is not seeded", reset=plain_reset(lambda self, seed: self.np_random.random()))
fault("reset: np_random always has one seed", reset=plain_reset(lambda self, seed: seeds_np_random(self, 1)))
fault("reset: observations ignore the seed", seen=lambda self: np.random.random(2).astype(np.float32))
fault("reset: a list", reset=lambda self, seed=None, options=None: list(Right.reset(self, seed=seed)))
fault("reset: three values", reset=lambda self, seed=None, options=None: (*Right.reset(self, seed=seed), 1))
fault(
    "reset: an info that is a list",
    reset=lambda self, seed=None, options=None: (Right.reset(self, seed=seed)[0], ["a"]),
)
fault(
    "reset: an observation outside its space",
    reset=lambda self, seed=None, options=None: (Right.reset(self, seed=seed)[0] + 2, {}),
)
fault("a method seed", seed=lambda self, seed=None: None)

fault("step: text", step=lambda self, action: "error")
fault("step: three values", step=lambda self, action: (1, 2, 3))
fault("step: four values, the old form", step=lambda self, action: (*Right.step(self, action)[:3], {}))
fault("step: random observations", step=returning(observation=lambda: np.random.random(2).astype(np.float32)))
fault("step: random rewards", step=returning(reward=lambda: float(np.random.normal())))
fault("step: random infos", step=returning(info=lambda: {"value": float(np.random.normal())}))
fault("step: terminated is text", step=returning(terminated="error"))
fault("step: truncated is text", step=returning(truncated="error"))
fault("step: truncated at the first step", step=returning(truncated=True))
fault("step: the reward is text", step=returning(reward="error"))
fault("step: the reward is NaN", step=returning(reward=np.nan))
fault("step: the reward is infinite", step=returning(reward=np.inf))
fault("step: the info is text", step=returning(info="error"))
fault("step: changes an observation that it returned", step=changes_its_observation)

pair = spaces.Tuple([spaces.Discrete(2), spaces.Discrete(2)])
named = spaces.Dict(a=spaces.Discrete(2), b=spaces.Discrete(2))
fault("observation: outside its Discrete", observation_space=spaces.Discrete(2), seen=lambda self: 3)
fault("observation: uint8 for a Discrete", observation_space=spaces.Discrete(2), seen=lambda self: np.uint8(0))
fault("observation: a list for a Tuple", observation_space=pair, seen=lambda self: [0, 1])
fault("observation: too long for a Tuple", observation_space=pair, seen=lambda self: (0, 1, 1))
fault("observation: a set for a Dict", observation_space=named, seen=lambda self: {1, 2})
fault("observation: another key of a Dict", observation_space=named, seen=lambda self: {"a": 0, "c": 1})
fault("observation: float64 for float32", seen=lambda self: self.np_random.random(2))
fault("observation: a list for a Box", seen=lambda self: [0.0, 0.5])

fault("render: render_modes is None", metadata={"render_modes": None}, render_mode="rgb_array")
fault("render: render_modes is text", **shown("rgb_array", "rgb_array", 1, np.zeros((4, 4, 3), np.uint8)))
fault("render: a mode that is no text", **shown("ansi", ["ansi", 1], 1, "text"))
fault("render: no frames per second", **shown("ansi", ["ansi"], None, "text"))
fault("render: frames per second as text", **shown("ansi", ["ansi"], "fps", "text"))
fault("render: a mode although there are none", **shown("ansi", [], 30, "text"))
fault("render: a mode that is not declared", **shown("ansi", ["rgb_array"], 30, "text"))
fault("render: a picture of floats", **shown("rgb_array", ["rgb_array"], 30, np.zeros((4, 4, 3))))
fault("close: a second time raises", close=closes_once)

#: Findings of gymnasium that are less for us, with the reason.
LESS = {
    "step: truncated at the first step": "an episode of one step may be meant",
    "observation space: Box without bounds": "policies normalise such observations (`policy.normalize_observation`)",
    "action space: Box from -2 to 2": "policies scale actions to their bounds",
}


def made(name: str) -> Any:
    cls: Any = type("Faulty", (Right,), copy.deepcopy(FAULTS.get(name, {})))
    cls.__module__ = __name__
    globals()["Faulty"] = cls
    return cls


def gymnasiums_verdict(cls: Any) -> str:
    env = cls()
    env.spec = EnvSpec("rmt-test/Faulty-v0", entry_point=lambda render_mode=None: cls(), max_episode_steps=100)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            check_env(env, skip_render_check=True)
            if env.render_mode is not None:
                gymnasium.utils.passive_env_checker.env_render_passive_checker(env)
        except Exception:
            return "raises"
    return "warns" if caught else "passes"


def our_verdict(cls: Any) -> str:
    """The first finding; "refuses" where nothing can be checked."""
    name = f"{__name__}:{cls.__name__}"
    make, raw = maker(name, {})
    try:
        _require_constructible(name, {}, make, raw)
    except ConfigError as error:
        assert "\n" not in str(error)
        return "refuses"
    warned = False
    for result in check(make, raw):
        if result.verdict == "wrong":
            return "wrong"
        warned |= result.verdict == "warning"
        if warned or result.claim == "observations and rewards are finite":
            break
    return "warning" if warned else "ok"


@pytest.mark.slow
def test_no_check_finds_a_fault_in_a_right_environment() -> None:
    make, raw = maker(f"{__name__}:Right", {})
    assert {result.verdict for result in check(make, raw)} <= {"ok", "not checked"}


def test_both_find_nothing_in_a_right_environment() -> None:
    assert (gymnasiums_verdict(made("")), our_verdict(made(""))) == ("passes", "ok")


@pytest.mark.slow
@pytest.mark.parametrize("name", FAULTS)
def test_every_finding_of_gymnasiums_checker_is_one_of_ours(name: str) -> None:
    theirs, ours = gymnasiums_verdict(made(name)), our_verdict(made(name))
    accepted = {"raises": {"wrong"}, "warns": {"wrong", "warning"}}[theirs]
    assert ours in ({"ok", "warning"} if name in LESS else accepted), (theirs, ours)
    why = f": {LESS[name]}" if name in LESS else ""
    assert f"| {name} | {theirs} | {ours}{why} |" in PAGE.read_text(encoding="utf-8").splitlines()
