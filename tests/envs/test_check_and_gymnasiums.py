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
from rmt_rl.envs.checks.gymnasium_env import RAW_CHECKS, SINGLE_CHECKS, equal_actions_equal_steps, reset_uses_its_seed
from rmt_rl.envs.checks.runner import Result, run_check

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


#: The finding of every fault that the checks of the single environment see; those of a space follow its name.
SENTENCES = {
    "text": "is 'error'; expected a gymnasium.Space, set in the class or __init__",
    "Box with another shape of low": ": Box has shape (2,) and bounds of shape (3,) and (2,); expected one shape",
    "Box with another shape of high": ": Box has shape (2,) and bounds of shape (2,) and (3,); expected one shape",
    "Box with low > high": ": Box(2.0, 1.0, (2,), float32) has a low above its high",
    "Discrete(-1)": ": Discrete has n = -1; expected at least 1",
    "MultiDiscrete with nvec -1": ": MultiDiscrete has nvec = [2, -1]; expected at least 1",
    "MultiDiscrete of another shape": ": MultiDiscrete has shape (2, 1, 2) and nvec of shape (2,); expected one shape",
    "MultiBinary of a shape below 1": ": MultiBinary has shape (2, -1); expected at least 1",
    "empty Tuple": ": Tuple has no parts; expected at least one",
    "empty Dict": ": Dict has no parts; expected at least one",
    "reset: no argument seed": "got an unexpected keyword argument 'seed'",
    "reset: no argument options": "reset has no argument options; expected reset(self, *, seed=None, options=None)",
    "reset: seed=23 by default": "the argument seed of reset has the default 23; expected None",
    "reset: an argument return_info": "reset has an argument return_info, which nothing gives",
    "reset: np_random is never made": "reset(seed=123) does not seed self.np_random",
    "reset: np_random is not seeded": "reset(seed=123) leaves self.np_random in two states",
    "reset: np_random always has one seed": "reset(seed=123) and reset(seed=456) leave self.np_random in one state",
    "reset: observations ignore the seed": "reset(seed=123) gives [",
    "reset: a list": "reset returned a list of 2 values; expected (observation, info)",
    "reset: three values": "reset returned a tuple of 3 values; expected (observation, info)",
    "reset: an info that is a list": "reset returned a tuple of 2 values; expected (observation, info)",
    "reset: an observation outside its space": "reset returned an observation outside its space Box(0.0, 1.0, (2,), float32): [",
    "a method seed": "it has a method seed, which nothing calls",
    "step: text": "step returned str error; expected (observation, reward, terminated, truncated, info)",
    "step: three values": "step returned a tuple of 3 values; expected",
    "step: four values, the old form": "step returned a tuple of 4 values; expected",
    "step: random observations": "the first step after reset(seed=123) returns the observation [",
    "step: random rewards": "the first step after reset(seed=123) returns the reward",
    "step: random infos": "the first step after reset(seed=123) returns the info {'value': ",
    "step: terminated is text": "terminated is str error; expected True or False",
    "step: truncated is text": "truncated is str error; expected True or False",
    "step: truncated at the first step": "the first step truncates the episode",
    "step: the reward is text": "the reward is str error; expected a number",
    "step: the info is text": "info is str error; expected a dictionary",
    "step: changes an observation that it returned": "modified the previously returned observation; return a copy",
    "observation: outside its Discrete": "reset returned an observation outside its space Discrete(2): 3",
    "observation: uint8 for a Discrete": "an observation of Discrete(2) is uint8 0; expected int or np.int64",
    "observation: a list for a Tuple": "an observation that is a list of 2 values; the space is Tuple(",
    "observation: too long for a Tuple": "an observation with the parts [0, 1, 2]; the space has [0, 1]",
    "observation: a set for a Dict": "an observation that is set {1, 2}; the space is Dict(",
    "observation: another key of a Dict": "an observation with the parts ['a', 'c']; the space has ['a', 'b']",
    "observation: float64 for float32": "an observation of float64 (2,); the space has float32 (2,)",
    "observation: a list for a Box": "an observation that is a list of 2 values; the space has numpy arrays float32 (2,)",
    "render: render_modes is None": "render_mode is 'rgb_array'; metadata[\"render_modes\"] has []",
    "render: render_modes is text": "metadata[\"render_modes\"] is 'rgb_array'; expected a list of names",
    "render: a mode that is no text": "metadata[\"render_modes\"] is ['ansi', 1]; expected a list of names",
    "render: no frames per second": 'metadata["render_fps"] is None; expected a number of frames per second',
    "render: frames per second as text": "metadata[\"render_fps\"] is 'fps'; expected a number of frames per second",
    "render: a mode although there are none": "render_mode is 'ansi'; metadata[\"render_modes\"] has []",
    "render: a mode that is not declared": "render_mode is 'ansi'; metadata[\"render_modes\"] has ['rgb_array']",
    "render: a picture of floats": "render returns an array float64 (4, 4, 3); expected an array uint8 [height, width, 3]",
    "close: a second time raises": "the second close raises RuntimeError: closed already",
    "no observation space": "observation_space is None; expected a gymnasium.Space, set in the class or __init__",
    "no action space": "action_space is None; expected a gymnasium.Space, set in the class or __init__",
    "observation space: Box with low = high": "reset returned an observation outside its space Box(0.0, 0.0, (2,), float32)",
    "action space: Box with low = high": "Box(0.0, 0.0, (2,), float32) has elements whose low is their high",
    "action space: Box without bounds": "action_space Box(-inf, inf, (2,), float32) has no bounds",
    **dict.fromkeys(("step: the reward is NaN", "step: the reward is infinite"), "ok"),  # found in a batch
    **dict.fromkeys(("observation space: Box without bounds", "action space: Box from -2 to 2"), "ok"),
}
#: Those that are advice.
ADVICE = (
    "method seed",
    "return_info",
    "step truncates",
    "uint8 0",
    "of names",
    "per second",
    "low is their",
    "no bounds",
)


def findings(cls: Any) -> list[Any]:
    """The findings of the checks of the single environment, with "ok" where there are none."""
    checks = (*RAW_CHECKS, *SINGLE_CHECKS)
    results = [run_check(claim, lambda run=run: run(cls())) for claim, run in checks]  # type: ignore[misc]
    return [result for result in results if result.verdict != "ok"] or [Result("", "ok", "ok")]


@pytest.mark.slow
@pytest.mark.parametrize("name", FAULTS)
def test_every_fault_has_a_finding_that_names_it(name: str) -> None:
    expected = SENTENCES.get(name) or SENTENCES[name.split(": ")[1]]
    first = findings(made(name))[0]
    advice = any(words in expected for words in ADVICE)
    assert expected in first.found
    assert first.verdict == ("ok" if expected == "ok" else "warning" if advice else "wrong")


@pytest.mark.parametrize(
    ("value", "other", "is_equal"),
    [
        (np.nan, np.nan, True),  # an info may say that a number is not known
        (np.array([np.nan, 1.0]), np.array([np.nan, 1.0]), True),
        ([np.array(["a"]), {"x": (1, None)}], [np.array(["a"]), {"x": (1, None)}], True),
        (np.array([{"a": np.nan}, None]), np.array([{"a": np.nan}, None]), True),
        (np.array([np.nan, 1.0]), np.array([1.0, np.nan]), False),
        (1.0, np.nan, False),
        (np.nan, 1.0, False),
        (1, 1.0, False),
        (np.zeros(2), np.zeros(3), False),
        (np.zeros(2), np.zeros(2, np.float32), False),
        (np.array([{"a": 1}, None]), np.array([{"a": 2}, None]), False),
        (np.float32(1.0), np.float32(1.0 + 1e-6), False),
        ({"a": 1}, {"b": 1}, False),
        ({"a": 1, "b": 2}, {"a": 1, "b": 3}, False),
        ([1, 2], [1], False),
        ([1, 2], [1, 3], False),
    ],
)
def test_equal_steps_are_equal_in_every_number_and_nan_equals_nan(value: Any, other: Any, is_equal: bool) -> None:
    answers = iter([value, other])
    step = returning(info=lambda: {"value": next(answers)})
    cls: Any = type("Reports", (Right,), {"step": step})
    result = run_check("", lambda: equal_actions_equal_steps(cls()))
    assert result.verdict == ("ok" if is_equal else "wrong"), result
    assert is_equal or "returns the info {'value': " in result.found


def nested(space: spaces.Space[Any]) -> list[spaces.Space[Any]]:
    return [spaces.Dict(a=spaces.Discrete(2), b=space), spaces.Tuple([spaces.Discrete(2), spaces.Dict(b=space)])]


@pytest.mark.slow
@pytest.mark.parametrize("index", [0, 1])
def test_faults_of_a_part_of_a_dict_or_a_tuple_are_found(index: int) -> None:
    def first(**attributes: Any) -> str:
        return str(findings(type("Parts", (Right,), attributes))[0].found)

    for space, found in (
        (changed(spaces.Discrete(5), n=0), "Discrete has n = 0; expected at least 1"),
        (changed(box(), low=np.full(2, 2, np.float32)), "has a low above its high"),
        (spaces.Dict(), "Dict has no parts"),
    ):
        for name in ("observation_space", "action_space"):
            assert first(**{name: nested(space)[index]}).startswith(f"{name}: ") and found in first(
                **{name: nested(space)[index]}
            )
    for bounds, found in (((-np.inf, np.inf), "has no bounds"), ((0, 0), "elements whose low is their high")):
        assert found in first(action_space=nested(box(*bounds))[index])
    for low, high in ((-np.inf, 1), (0, np.inf)):
        assert "has no bounds" in first(action_space=nested(box(low, high))[index])
    assert first(action_space=nested(spaces.Box(-2.0, 2.0, (2,), np.float32))[index]) == "ok"
    one_wrong = spaces.Box(np.array([0, 1], np.float32), np.array([1, 1], np.float32))
    seen = {"a": 0, "b": np.ones(2, np.float32)}
    values = [seen, (0, {"b": seen["b"]})]
    found_bounds = first(observation_space=nested(one_wrong)[index], seen=lambda self: copy.deepcopy(values[index]))
    assert "elements whose low is their high" in found_bounds
    whole = [{"a": 0, "b": np.uint8(1)}, (0, {"b": np.uint8(1)})]
    shown_as = first(observation_space=nested(spaces.Discrete(3))[index], seen=lambda self: whole[index])
    assert shown_as == "an observation of Discrete(3) is uint8 1; expected int or np.int64"
    right = [{"a": np.int64(0), "b": 1}, (0, {"b": np.int64(1)})]
    assert first(observation_space=nested(spaces.Discrete(3))[index], seen=lambda self: right[index]) == "ok"


@pytest.mark.thorough
@pytest.mark.parametrize(
    ("attributes", "found"),
    [
        ({"metadata": {"render_modes": ["ansi"], "render_fps": True}}, 'metadata["render_fps"] is True'),
        ({"metadata": {"render_modes": ["ansi"], "render_fps": 29.97}}, "ok"),
        ({"metadata": {"render_modes": ("ansi",), "render_fps": 4}}, "ok"),
        ({"metadata": {"render_modes": [], "render_fps": "none"}}, "ok"),  # nothing is rendered
        (shown("rgb_array", ["rgb_array"], 4, np.zeros((4, 5, 3), np.uint8)), "ok"),
        (
            shown("rgb_array", ["rgb_array"], 4, np.zeros((4, 5, 4), np.uint8)),
            "render returns an array uint8 (4, 5, 4)",
        ),
        (shown("rgb_array", ["rgb_array"], 4, np.zeros((4, 5), np.uint8)), "render returns an array uint8 (4, 5)"),
        (
            shown("rgb_array", ["rgb_array"], 4, np.zeros((4, 5, 3), np.int64)),
            "render returns an array int64 (4, 5, 3)",
        ),
        (shown("rgb_array", ["rgb_array"], 4, [1]), "render returns a list of 1 values"),
        (shown("ansi", ["rgb_array", "ansi"], 4, "text"), "ok"),
        ({"step": returning(reward=np.int64(1), terminated=np.bool_(False))}, "ok"),
        ({"step": returning(reward=2)}, "ok"),
        ({"step": returning(reward=np.ones(1))}, "the reward is an array float64 (1,); expected a number"),
        ({"step": returning(terminated=0)}, "terminated is int 0; expected True or False"),
        (
            {"reset": lambda self, seed, options=None: Right.reset(self, seed=seed)},
            "the argument seed of reset has no default; expected None",
        ),
        (
            {"reset": lambda self, seed=None, options=1: Right.reset(self, seed=seed)},
            "the argument options of reset has the default 1; expected None",
        ),
        ({"reset": lambda self, seed=None, **more: Right.reset(self, seed=seed)}, "ok"),
        ({"reset": lambda self, **given: Right.reset(self, **given)}, "ok"),
        (
            {"seen": lambda self: np.array([self.np_random.random(), np.nan], np.float32)},
            "reset returned an observation with NaN",
        ),
        (
            {"seen": lambda self: np.full(2, 0.5 + 9 * (self.t == 15), np.float32)},
            "step 15 returned an observation outside its space",
        ),
    ],
)
def test_a_form_is_right_or_named(attributes: dict[str, Any], found: str) -> None:
    assert found in findings(type("Form", (Right,), attributes))[0].found


def test_several_pieces_of_advice_are_one_warning() -> None:
    cls = type("Two", (Right,), {"seed": lambda self: None, "metadata": {}})
    (result,) = findings(cls)
    assert result.found == (
        'metadata["render_modes"] is None; expected a list of names, empty where nothing is rendered; it has a method seed,'
        " which nothing calls; seeds come with reset(seed=...)"
    )


def test_a_reset_that_forgets_its_seed_afterwards_is_found() -> None:
    class Forgets(Right):
        """The first episode follows the seed, the next one does not."""

        def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
            super().reset(seed=seed)
            return (np.random.random(2).astype(np.float32) if seed is None else self.seen()), {}

    assert findings(Forgets)[0].found.startswith("reset() after reset(seed=123) gives [")


def test_what_a_nondeterministic_environment_says_of_itself_is_believed() -> None:
    for fault_name, says in (("step: random infos", "its spec says that it is nondeterministic"), ("", "ok")):
        env = made(fault_name or "reset: observations ignore the seed")()
        env.spec = EnvSpec("rmt-test/Random-v0", entry_point="x:y", nondeterministic=True)
        checked = equal_actions_equal_steps if fault_name else reset_uses_its_seed
        result = run_check("", lambda checked=checked, env=env: checked(env))  # type: ignore[misc]
        assert (result.verdict, result.found) == (("not checked", says) if fault_name else ("ok", ""))


@pytest.mark.slow
@pytest.mark.parametrize("name", FAULTS)
def test_every_finding_of_gymnasiums_checker_is_one_of_ours(name: str) -> None:
    theirs, ours = gymnasiums_verdict(made(name)), our_verdict(made(name))
    accepted = {"raises": {"wrong"}, "warns": {"wrong", "warning"}}[theirs]
    assert ours in ({"ok", "warning"} if name in LESS else accepted), (theirs, ours)
    why = f": {LESS[name]}" if name in LESS else ""
    assert f"| {name} | {theirs} | {ours}{why} |" in PAGE.read_text(encoding="utf-8").splitlines()
