"""Mistakes in an environment or in the options of one are one sentence that names what is wrong."""

import sys
import types

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces

import rmt_rl
from rmt_rl import play
from rmt_rl.common.errors import ConfigError
from rmt_rl.envs.check import maker
from rmt_rl.envs.gym.translate import UnsupportedSpace
from rmt_rl.train import main

BOX = spaces.Box(-1, 1, (2,))


class Walk(gymnasium.Env):
    """Episodes of three steps."""

    observation_space, action_space = BOX, spaces.Discrete(2)
    metadata = {"render_modes": ["rgb_array"], "render_fps": 4}  # noqa: RUF012
    value = np.zeros(2, np.float32)

    def __init__(self, render_mode=None):
        self.render_mode = render_mode

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.t = 0
        return self.value, {}

    def step(self, action):
        self.t += 1
        return self.value, 1.0, self.t == 3, False, {}


@pytest.fixture
def register(monkeypatch, tmp_path):
    """Registers a class of a module that exists in memory only."""
    monkeypatch.chdir(tmp_path)
    module, ids = types.ModuleType("odd_walks"), []
    monkeypatch.setitem(sys.modules, "odd_walks", module)

    def known(cls, id="Odd-v0"):
        monkeypatch.setattr(module, cls.__name__, cls, raising=False)
        gymnasium.register(id, entry_point=f"odd_walks:{cls.__name__}")
        ids.append(id)
        return id

    yield known
    for id in ids:
        gymnasium.registry.pop(id, None)


def test_an_error_of_the_constructor_names_its_code_and_no_option_that_nobody_gave(register) -> None:
    class Init(Walk):
        def __init__(self, render_mode=None):
            self.speed = {}["speed"]

    with pytest.raises(
        ConfigError,
        match=r"^env.id=Odd-v0: cannot be made: its code raised KeyError: 'speed' \(test_gym_mistakes.py:\d+\)$",
    ):
        rmt_rl.make_env("gym", 2, id=register(Init))


def test_an_error_of_the_constructor_that_is_no_valueerror_is_one_sentence_too(register) -> None:
    class Init(Walk):
        def __init__(self, render_mode=None):
            raise RuntimeError("no display")

    with pytest.raises(ConfigError, match=r"its code raised RuntimeError: no display \(test_gym_mistakes.py:\d+\)"):
        rmt_rl.make_env("gym", 2, id=register(Init))


def test_an_option_that_does_not_exist_is_still_named(register) -> None:
    with pytest.raises(ConfigError, match=r"^env.options={'speed': 3}: Odd-v0 does not accept them: .*'speed'"):
        rmt_rl.make_env("gym", 2, id=register(Walk), options={"speed": 3})


@pytest.mark.parametrize(
    ("space", "value", "found"),
    [
        (BOX, [[1.0, 2.0], [3.0]], r"that is .*\[\[1.0, 2.0\], \[3.0\]\].*; expected numbers of Box"),
        (spaces.Discrete(3), None, "that is .?None.?; expected numbers of Discrete"),
        (BOX, np.ma.array([0.5, 7.0], mask=[False, True]), r"that is .*masked.*; expected numbers of Box"),
        (BOX, "abc", "that is .*abc.*; expected numbers of Box"),
        (BOX, {"a": 1}, r"that is .*{'a': 1}.*; expected numbers of Box"),
        (spaces.Dict(a=BOX), np.zeros(2), r"without the part 'a'; found array\(\[0., 0.\]\)"),
        (spaces.Dict(a=BOX), None, "without the part 'a'; found null"),
        (spaces.Tuple([BOX, BOX]), {0: np.zeros(2)}, "without the part 0; found {0: "),
        (spaces.Dict(a=spaces.Dict(b=BOX)), {"a": [1, 2]}, r"without the part 'b'; found \[1, 2\]"),
        (spaces.Dict(a=BOX), {"a": "x"}, "'a' that is .*x.*; expected numbers of Box"),
        (spaces.Box(0, 255, (1,), np.uint8), [300], "that holds 300, which uint8 cannot; expected numbers of Box"),
    ],
)
def test_an_observation_of_another_form_is_one_sentence(space, value, found, register) -> None:
    class Malformed(Walk):
        observation_space = space

    Malformed.value = value
    env = rmt_rl.make_env("gym", 1, id=register(Malformed))
    with pytest.raises(ConfigError, match=f"^Malformed: reset returned an observation {found}"):
        env.reset(seed=0)


@pytest.mark.parametrize(
    ("observation", "action", "found"),
    [
        (spaces.Box(0, 1, (0,)), Walk.action_space, r"observation: Box.* holds no number"),
        (spaces.Dict({}), Walk.action_space, r"observation: Dict\(\) is empty"),
        (spaces.Tuple([]), Walk.action_space, r"observation: Tuple\(\) is empty"),
        (spaces.Dict(a=BOX, b=spaces.Box(0, 1, (2, 0))), Walk.action_space, "observation 'b': Box.* holds no number"),
        (BOX, spaces.Box(-1, 1, (0,)), r"action: Box.* holds no number"),
    ],
)
def test_a_space_without_numbers_is_rejected(observation, action, found, register) -> None:
    class Empty(Walk):
        observation_space, action_space = observation, action

    with pytest.raises(UnsupportedSpace, match=found):
        rmt_rl.make_env("gym", 1, id=register(Empty))


def test_an_id_of_an_own_module_is_not_taken_for_that_of_a_package(register) -> None:
    assert rmt_rl.make_env("gym", 1, id=f"odd_walks:{register(Walk, 'MysteryPath-Mine-v0')}").num_envs == 1
    with pytest.raises(ConfigError, match=r"^env.id=odd_walks:Endless-None-v0: is not registered with gymnasium"):
        rmt_rl.make_env("gym", 1, id="odd_walks:Endless-None-v0")


@pytest.mark.slow
@pytest.mark.parametrize(
    "frame", [None, [], [np.zeros((8, 8, 3), np.uint8)], "text", np.zeros(3), np.zeros((2, 8, 8, 3))], ids=repr
)
def test_a_frame_that_cannot_be_shown_is_replaced_by_the_observation(frame, register, tmp_path) -> None:
    class Odd(Walk):
        def render(self):
            return frame

    out = tmp_path / "a.gif"
    assert play.main(["env=gym", f"env.id={register(Odd)}", "policy=random", f"out={out}"]) == 0
    assert out.stat().st_size


def test_an_environment_that_takes_no_render_mode_is_drawn_from_its_observation(register, tmp_path) -> None:
    class NoArgument(Walk):
        def __init__(self):
            pass

    out = tmp_path / "a.gif"
    assert play.main(["env=gym", f"env.id={register(NoArgument)}", "policy=random", f"out={out}"]) == 0


def test_an_error_of_render_is_one_sentence(register, tmp_path, capsys) -> None:
    class Broken(Walk):
        def render(self):
            raise OSError("no graphics card")

    assert play.main(["env=gym", f"env.id={register(Broken)}", "policy=random", f"out={tmp_path / 'a.gif'}"]) == 1
    assert "error: Odd-v0: render raised OSError: no graphics card (test_gym_mistakes.py:" in capsys.readouterr().err


def test_play_names_the_package_that_draws_a_grid(monkeypatch, tmp_path, capsys) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name, *_: None)
    assert play.main(["env=minigrid-memory", "policy=random", f"out={tmp_path / 'a.gif'}"]) == 2
    assert "the package minigrid is not installed; pip install 'rmt_rl[eval]'" in capsys.readouterr().err


@pytest.mark.parametrize("value", [1e22, 1e7])
def test_observations_too_large_for_float32_are_named(value, register, capsys) -> None:
    class Huge(Walk):
        observation_space = spaces.Box(-np.inf, np.inf, (2,))

    Huge.value = np.array([value, -value], np.float32)
    options = ["policy=lstm", "policy.width=8", "algo.num_envs=4", "algo.rollout=8", "steps=64", "evaluate_episodes=1"]
    status = main(["env=gym", f"env.id={register(Huge)}", *options])
    err = capsys.readouterr().err
    assert "step` and `unroll" not in err and (status == 0 or f"{value:.3g}" in err)
    assert status == (1 if value > 1e20 else status)


@pytest.mark.parametrize(
    "id, hint",
    [
        ("CartPol-v1", r"did you mean CartPole-v1 or phys2d/CartPole-v1\?$"),
        ("cartpole", r"did you mean CartPole-v1 or phys2d/CartPole-v1\?$"),
        ("phys2d/CartPol-v1", r"did you mean phys2d/CartPole-v1 or CartPole-v1\?$"),
        ("CartPole-v9", r"did you mean CartPole-v1 or phys2d/CartPole-v1\?$"),
        ("rmt_rl/TMaz-v0", r"did you mean rmt_rl/TMaze-v0"),
        ("Foo-v1", r"for an id of another package, install it and use module:id"),
        ("Unheard-v0", r"for an id of another package, install it and use module:id"),
    ],
)
def test_an_unknown_id_gets_ids_of_a_similar_name_or_none(id: str, hint: str) -> None:
    with pytest.raises(ConfigError, match=rf"^env\.id={id}: is not registered with gymnasium; {hint}"):
        rmt_rl.make_env("gym", 1, id=id)
    with pytest.raises(
        ConfigError, match=rf"^{id}: expected a task of rmt_rl, an id of gymnasium, or module:Class"
    ) as caught:
        maker(id, {})
    assert ("did you mean" in str(caught.value)) == hint.startswith("did you mean")
