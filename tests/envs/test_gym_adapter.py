"""The gymnasium adapter against a plain loop over single environments, and its translations and errors by hand."""

from __future__ import annotations

import importlib.util
import multiprocessing
import re
import warnings
from typing import Any, ClassVar

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium import spaces

from rmt_rl.common.errors import ConfigError
from rmt_rl.envs.gym.adapter import GymAdapter
from rmt_rl.envs.gym.translate import UnsupportedSpace
from rmt_rl.envs.registry import make_env

ROWS, LIMIT = 5, 7


class Probe(gymnasium.Env[Any, Any]):
    """Every kind of observation at once, drawn at each step into the same arrays; ends at random.

    It modifies the arrays that it has returned, as gymnasium allows, and the shapes in its info change.
    """

    observation_space = spaces.Dict(
        {
            "vector": spaces.Box(-1.0, 0.1, (3,), np.float64),
            "one": spaces.Box(-np.inf, np.inf, (1,), np.float32),
            "image": spaces.Box(0, 255, (4, 4, 3), np.uint8),
            "kind": spaces.Discrete(3, start=-1),
            "pair": spaces.MultiDiscrete([2, 3], start=[1, 5]),
            "bits": spaces.MultiBinary(4),
            "words": spaces.Text(8),
            "inner": spaces.Dict({"deep": spaces.Box(-9, 9, (2,), np.int16), "words": spaces.Text(8)}),
        }
    )
    action_space = spaces.Discrete(4)

    def __init__(self) -> None:
        self.arrays = {key: np.zeros(space.shape, space.dtype) for key, space in self.numbers().items()}

    def numbers(self) -> dict[str, spaces.Space[Any]]:
        parts = dict(self.observation_space.items(), deep=self.observation_space["inner"]["deep"])
        return {key: space for key, space in parts.items() if key not in ("words", "inner")}

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        return self.draw(), {"success": True, "path": np.zeros(3)}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        reward, ended = float(self.np_random.random() + action), bool(self.np_random.random() < 0.2)
        return self.draw(), reward, ended, False, {"is_success": reward > 2, "path": np.zeros(action)}

    def draw(self) -> dict[str, Any]:
        for key, space in self.numbers().items():
            low, high = (-1, 0) if isinstance(space, spaces.Box) and space.dtype.kind == "f" else bounds(space)
            self.arrays[key][...] = low + self.np_random.random(space.shape) * (high - low + 1)
        outer = {key: array for key, array in self.arrays.items() if key not in ("deep", "kind")}
        kind = np.int64(self.arrays["kind"])
        return {**outer, "kind": kind, "words": "go", "inner": {"deep": self.arrays["deep"], "words": "go"}}


def bounds(space: Any) -> tuple[Any, Any]:
    if isinstance(space, spaces.Discrete | spaces.MultiDiscrete):
        return space.start, space.start + (space.n if isinstance(space, spaces.Discrete) else space.nvec) - 1
    return (0, 1) if isinstance(space, spaces.MultiBinary) else (space.low.astype(int), space.high.astype(int))


class Tiny(gymnasium.Env[Any, Any]):
    """Spaces, actions and info as given; `log` collects the actions that arrive; ends at step `length`."""

    metadata: ClassVar[dict[str, Any]] = {"render_modes": ["rgb_array"], "render_fps": 4}

    def __init__(
        self,
        observation_space: Any = None,
        action_space: Any = None,
        log: list[Any] | None = None,
        info: dict[str, Any] | None = None,
        length: int = 3,
        render_mode: str | None = None,
    ) -> None:
        self.observation_space = observation_space or spaces.Discrete(9)
        self.action_space = action_space or spaces.Discrete(2)
        self.log, self.info, self.length, self.render_mode = log, info or {}, length, render_mode

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.t = 0
        return self.t, {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self.t += 1
        if self.log is not None:
            self.log.append(action)
        return self.t, 0.5, self.t == self.length, False, self.info

    def render(self) -> Any:
        return np.full((2, 2, 3), self.t, np.uint8)


def needs_a_package() -> None:
    raise gymnasium.error.DependencyNotInstalled("Box9D is not installed, run `pip install box9d`")


@pytest.fixture(autouse=True)
def registered() -> Any:
    # without gymnasium's own checker, which warns about things that are not tested here
    common = {"disable_env_checker": True}
    gymnasium.register("rmt-test/Probe-v0", Probe, max_episode_steps=LIMIT, **common)
    gymnasium.register("rmt-test/Tiny-v0", Tiny, **common)
    gymnasium.register("rmt-test/Needs-v0", needs_a_package)
    gymnasium.register("rmt-test/VectorOnly-v0", vector_entry_point=Tiny)
    yield
    for name in ("Probe", "Tiny", "Needs", "VectorOnly"):
        del gymnasium.registry[f"rmt-test/{name}-v0"]


def tiny(num_envs: int = 2, **options: Any) -> GymAdapter:
    env = GymAdapter(num_envs, id="rmt-test/Tiny-v0", options=options)
    env.reset(seed=0)
    return env


def translated_probe(obs: Any) -> dict[str, torch.Tensor]:
    """The expected translation of one observation of Probe."""
    return {
        "bits": torch.tensor(obs["bits"], dtype=torch.int8),
        "image": torch.tensor(obs["image"], dtype=torch.uint8),
        "inner.deep": torch.tensor(obs["inner"]["deep"], dtype=torch.int64),
        "kind": torch.tensor(obs["kind"] + 1, dtype=torch.int64),
        "one": torch.tensor(obs["one"], dtype=torch.float32),
        "pair": torch.tensor(obs["pair"] - np.array([1, 5]), dtype=torch.int64),
        "vector": torch.tensor(obs["vector"]).float(),
    }


def translated_minigrid(obs: Any) -> dict[str, torch.Tensor]:
    return {"direction": torch.tensor(int(obs["direction"])), "image": torch.tensor(obs["image"])}


def translated_box(obs: Any) -> dict[str, torch.Tensor]:
    return {"": torch.tensor(obs)}


def translated_discrete(obs: Any) -> dict[str, torch.Tensor]:
    return {"": torch.tensor(int(obs))}


def equal(batch: Any, row: int, expected: dict[str, torch.Tensor]) -> bool:
    parts = batch if isinstance(batch, dict) else {"": batch}
    assert list(parts) == list(expected)
    return all(torch.equal(parts[k][row], v) and parts[k].dtype == v.dtype for k, v in expected.items())


def make(id: str, workers: Any = "sync") -> GymAdapter:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*text is left out.*")
        return GymAdapter(ROWS, id=id, workers=workers, text=False)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("id", "workers", "steps", "translated"),
    [
        ("rmt-test/Probe-v0", "sync", 150, translated_probe),
        ("rmt-test/Probe-v0", "async", 60, translated_probe),
        ("CartPole-v1", "sync", 150, translated_box),
        ("FrozenLake-v1", "sync", 150, translated_discrete),
        ("MiniGrid-MemoryS7-v0", "sync", 260, translated_minigrid),
    ],
)
def test_rows_equal_a_plain_loop_over_single_environments(id: str, workers: str, steps: int, translated: Any) -> None:
    env = make(id, workers)
    singles = [gymnasium.make(id) for _ in range(ROWS)]
    obs, info = env.reset(seed=3)
    assert info == {}
    for b, single in enumerate(singles):
        assert equal(obs, b, translated(single.reset(seed=3 + b)[0]))
    generator = torch.Generator().manual_seed(0)
    seen = {"ended": 0, "terminated": 0, "truncated": 0, "together": 0}
    for _ in range(steps):
        action = torch.randint(int(env.single_action_space.n), (ROWS,), generator=generator)
        obs, reward, terminated, truncated, info = env.step(action)
        for b, single in enumerate(singles):
            last, r, term, trunc, last_info = single.step(int(action[b]))
            ended = term or trunc
            assert (reward[b].item(), terminated[b].item(), truncated[b].item()) == (r, term, trunc)
            assert info["_final_obs"][b].item() is ended
            # before single.reset: Probe overwrites the arrays that it returned
            assert equal(info["final_obs"], b, translated(last))
            assert equal(obs, b, translated(single.reset()[0] if ended else last))
            if "is_success" in last_info and "success" in info:
                assert info["success"][b].item() is (ended and last_info["is_success"])
            seen["terminated"] += term
            seen["truncated"] += trunc
        seen["ended"] += bool(info["_final_obs"].any())
        seen["together"] += bool(info["_final_obs"].sum() > 1)
        assert ("success" in info) == ("Probe" in id and bool(info["_final_obs"].any()))
    env.close()
    assert seen["ended"] > 0
    if "Probe" in id:
        assert min(seen.values()) > 0  # the comparison covers every case


def test_translated_spaces_by_hand() -> None:
    env = make("rmt-test/Probe-v0")
    assert env.single_observation_space == spaces.Dict(
        {
            "bits": spaces.MultiBinary(4),
            "image": spaces.Box(0, 255, (4, 4, 3), np.uint8),
            "inner.deep": spaces.Box(-9, 9, (2,), np.int64),
            "kind": spaces.Discrete(3),
            "one": spaces.Box(-np.inf, np.inf, (1,), np.float32),
            "pair": spaces.MultiDiscrete([2, 3]),
            "vector": spaces.Box(-1.0, 0.1, (3,), np.float32),
        }
    )
    assert env.single_action_space == spaces.Discrete(4)
    assert (env.floor, env.ceiling) == (None, None)


def test_a_bound_beyond_float32_becomes_infinite_without_a_warning() -> None:
    env = tiny(observation_space=spaces.Box(-1e300, 1e300, (), np.float64))
    assert env.single_observation_space == spaces.Box(-np.inf, np.inf, (), np.float32)


def test_keys_that_are_not_text_become_text() -> None:
    options = {"observation_space": spaces.Dict({1: spaces.Discrete(2)})}
    env = GymAdapter(1, id="rmt-test/Tiny-v0", options=options)
    assert env.single_observation_space == spaces.Dict({"1": spaces.Discrete(2)})


def test_large_integers_keep_their_value() -> None:
    class Large(Tiny):
        def reset(self, **kwargs: Any) -> tuple[Any, dict[str, Any]]:
            return 2**31 + 5, super().reset(**kwargs)[1]

    gymnasium.registry["rmt-test/Tiny-v0"].entry_point = Large
    env = GymAdapter(1, id="rmt-test/Tiny-v0", options={"observation_space": spaces.Box(0, 2**32 - 1, (), np.uint32)})
    assert env.reset()[0].tolist() == [2**31 + 5]


def test_discrete_actions_are_counted_from_zero_and_shifted_to_start() -> None:
    log: list[Any] = []
    env = tiny(3, action_space=spaces.Discrete(3, start=-1), log=log)
    env.step(torch.tensor([0, 1, 2]))
    assert env.single_action_space == spaces.Discrete(3)
    assert log == [-1, 0, 1]
    assert all(spaces.Discrete(3, start=-1).contains(action) for action in log)


def test_multidiscrete_actions_are_counted_from_zero_and_shifted_to_start() -> None:
    log: list[Any] = []
    space = spaces.MultiDiscrete([2, 3], start=[5, -1])
    env = tiny(action_space=space, log=log)
    env.step(torch.tensor([[0, 0], [1, 2]]))
    assert env.single_action_space == spaces.MultiDiscrete([2, 3])
    assert [action.tolist() for action in log] == [[5, -1], [6, 1]]
    assert all(space.contains(action) for action in log)


def test_box_actions_are_clipped_in_the_dtype_of_the_environment() -> None:
    log: list[Any] = []
    # 0.1 as float32 is above 0.1 as float64, so clipping to the public bound would leave the box
    space = spaces.Box(np.array([-0.1, -np.inf]), np.array([0.1, np.inf]), dtype=np.float64)
    env = tiny(3, action_space=space, log=log)
    env.step(torch.tensor([[9.0, 9.0], [-9.0, -9.0], [float(np.float32(0.1)), 0.0]]))
    assert [action.tolist() for action in log] == [[0.1, 9.0], [-0.1, -9.0], [0.1, 0.0]]
    assert all(space.contains(action) for action in log)


@pytest.mark.parametrize(
    ("space", "action"),
    [
        (spaces.Discrete(2), torch.tensor([0, 2])),
        (spaces.Discrete(2), torch.tensor([0, -1])),
        (spaces.Discrete(2), torch.tensor([0.0, 1.0])),
        (spaces.Discrete(2), torch.tensor([0])),
        (spaces.MultiDiscrete([2, 3]), torch.tensor([[0, 0], [2, 0]])),
        (spaces.MultiDiscrete([2, 3]), torch.tensor([0, 0])),
        (spaces.Box(-1, 1, (1,)), torch.tensor([[0.0], [float("nan")]])),
        (spaces.Box(-1, 1, (1,)), torch.tensor([0.0, 0.0])),
    ],
)
def test_an_invalid_action_raises_before_it_reaches_the_environment(space: Any, action: torch.Tensor) -> None:
    log: list[Any] = []
    env = tiny(action_space=space, log=log)
    with pytest.raises(ValueError, match=r"^action "):
        env.step(action)
    assert log == []


@pytest.mark.parametrize(("limit", "flags"), [(2, (False, True)), (3, (True, True)), (4, (True, False))])
def test_termination_and_truncation_are_separate(limit: int, flags: tuple[bool, bool]) -> None:
    env = tiny(max_episode_steps=limit, length=3)
    for _ in range(min(limit, 3) - 1):
        _, _, terminated, truncated, info = env.step(torch.zeros(2, dtype=torch.int64))
        assert not (terminated | truncated | info["_final_obs"]).any()
    obs, _, terminated, truncated, info = env.step(torch.zeros(2, dtype=torch.int64))
    assert (terminated.tolist(), truncated.tolist()) == ([flags[0]] * 2, [flags[1]] * 2)
    assert (obs.tolist(), info["final_obs"].tolist()) == ([0, 0], [min(limit, 3)] * 2)


@pytest.mark.parametrize(
    ("info", "expected"),
    [
        ({"is_success": True}, True),
        ({"is_success": np.float32(0)}, False),
        ({"success": np.bool_(True)}, True),
        ({"is_success": False, "success": True}, False),
        ({"other": True}, None),
    ],
)
def test_success_is_what_the_last_info_of_the_episode_reports(info: dict[str, Any], expected: bool | None) -> None:
    env = tiny(info=info)
    reports = [env.step(torch.zeros(2, dtype=torch.int64))[4].get("success") for _ in range(3)]
    assert reports[:2] == [None, None]
    assert (reports[2] if expected is None else reports[2].tolist()) == (None if expected is None else [expected] * 2)


@pytest.mark.parametrize(
    ("kind", "space", "words"),
    [
        ("observation", spaces.Sequence(spaces.Discrete(2)), ["Sequence"]),
        ("observation", spaces.Dict(a=spaces.Dict(b=spaces.Sequence(spaces.Discrete(2)))), ["'a.b'", "Sequence"]),
        ("observation", spaces.Dict({"a.b": spaces.Discrete(2), "a": spaces.Dict(b=spaces.Discrete(2))}), ["'a.b'"]),
        ("observation", spaces.Box(0, 2**64 - 2, (), np.uint64), ["uint64", "int64"]),
        ("action", spaces.Text(3), ["Text"]),
        ("action", spaces.Dict(a=spaces.Sequence(spaces.Discrete(2))), ["'a'", "Sequence"]),
        ("action", spaces.Box(0, 2**40, (1,), np.int64), ["int64", "Box of floats"]),
    ],
)
def test_an_unsupported_space_is_named_in_one_line(kind: str, space: Any, words: list[str]) -> None:
    with pytest.raises(UnsupportedSpace) as caught:
        tiny(**{f"{kind}_space": space})
    assert str(caught.value).startswith(kind)
    assert all(word in str(caught.value) for word in words)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"id": "CartPol-v1"}, ["env.id=CartPol-v1", "did you mean CartPole-v1"]),
        ({"id": "CartPole-v77"}, ["did you mean CartPole-v1"]),
        ({"id": "MiniGrid-MemoryS8-v0"}, ["did you mean", "MiniGrid-MemoryS7-v0"]),
        ({"id": "Nothing/Like-v1"}, ["env.id=Nothing/Like-v1", "module:id"]),
        ({"id": "no_such_module_:Like-v1"}, ["No module named 'no_such_module_'"]),
        ({"id": "a:b:c"}, ["env.id=a:b:c", "module:id"]),
        ({"id": "what is this?"}, ["Malformed"]),
        ({"id": "rmt-test/Needs-v0"}, ["rmt-test/Needs-v0", "pip install box9d"]),
        ({"id": "rmt-test/VectorOnly-v0"}, ["rmt-test/VectorOnly-v0", "its code raised TypeError"]),
        ({"id": "CartPole-v1", "options": {"sutton": 1}}, ["env.options={'sutton': 1}", "CartPole-v1"]),
        ({"id": "CartPole-v1", "options": {"num_envs": 3}}, ["'num_envs'"]),
        ({"id": "CartPole-v1", "workers": "many"}, ["env.workers=many", "sync, async"]),
        ({"id": "CartPole-v1", "num_envs": 0}, ["num_envs is 0"]),
    ],
)
def test_the_error_for_an_impossible_environment_is_one_line_with_the_reason(
    arguments: dict[str, Any], words: list[str]
) -> None:
    with pytest.raises(ValueError) as caught, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        GymAdapter(**{"num_envs": 2, **arguments})
    assert all(word in str(caught.value) for word in words), caught.value
    assert "\n" not in str(caught.value)


def test_a_warning_names_the_text_that_is_left_out_once() -> None:
    with pytest.warns(UserWarning, match=r"\['inner.words', 'words'\]") as caught:
        GymAdapter(ROWS, id="rmt-test/Probe-v0", text=False)
    assert len(caught) == 1


def test_an_observation_of_text_alone_cannot_be_left_out() -> None:
    for space in (spaces.Text(3), spaces.Dict(a=spaces.Text(3))):
        with pytest.raises(UnsupportedSpace, match="has only text"):
            GymAdapter(1, id="rmt-test/Tiny-v0", options={"observation_space": space}, text=False)


def test_an_id_can_name_the_module_that_registers_it(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    line = "gymnasium.register('rmt-test/Late-v0', 'gymnasium.envs.classic_control:CartPoleEnv', max_episode_steps=9)"
    (tmp_path / "registers_late.py").write_text(f"import gymnasium\n{line}\n")
    monkeypatch.syspath_prepend(tmp_path)
    env = GymAdapter(2, id="registers_late:rmt-test/Late-v0")
    del gymnasium.registry["rmt-test/Late-v0"]
    assert env.reset(seed=0)[0].shape == (2, 4)


def test_saving_the_state_raises() -> None:
    env = tiny()
    for call in (env.state_dict, lambda: env.load_state_dict({})):
        with pytest.raises(NotImplementedError, match="cannot be resumed exactly"):
            call()


def test_options_of_reset_are_not_modified() -> None:
    options = {"reset_mask": np.array([True, False])}
    env = tiny()
    env.step(torch.tensor([0, 0]))
    assert env.reset(options=options)[0].tolist() == [0, 1]
    assert list(options) == ["reset_mask"]


def test_render_returns_a_frame_of_every_row() -> None:
    env = tiny(render_mode="rgb_array")
    env.step(torch.tensor([0, 0]))
    assert env.render_mode == "rgb_array"
    assert [int(frame.max()) for frame in env.render()] == [1, 1]


@pytest.mark.slow
def test_close_ends_the_worker_processes() -> None:
    env = make("CartPole-v1", "async")
    processes = {child.pid for child in multiprocessing.active_children() if child.name.startswith("rmt_rl row")}
    assert len(processes) == ROWS
    env.close()
    env.close()
    assert not processes & {child.pid for child in multiprocessing.active_children()}


@pytest.mark.parametrize("id", ["popgym-RepeatFirstEasy-v0", "popgym-AutoencodeEasy-v0", "popgym-BattleshipEasy-v0"])
def test_an_id_of_popgym_imports_the_package(id: str) -> None:
    pytest.importorskip("popgym", reason="popgym is not installed")
    env = make_env("gym", 2, id=id)
    obs, _ = env.reset(seed=0)
    if id == "popgym-AutoencodeEasy-v0":  # a tuple
        assert isinstance(obs, dict) and list(obs) == ["0", "1"]
    env.step(torch.from_numpy(np.asarray(env.action_space.sample())))


@pytest.mark.parametrize(
    "id", ["MortarMayhem-v0", "MysteryPath-Grid-v0", "SearingSpotlights-v0", "Endless-MortarMayhem-v0"]
)
def test_an_id_of_memory_gym_imports_the_package(id: str, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("memory_gym", reason="memory-gym is not installed, because its pins exclude this gymnasium")
    monkeypatch.setenv("SDL_AUDIODRIVER", "dummy")
    env = make_env("gym", 2, id=id)
    env.reset(seed=0)
    obs, *_ = env.step(torch.from_numpy(np.asarray(env.action_space.sample())))
    assert isinstance(obs, torch.Tensor) and obs.shape == (2, 84, 84, 3)


@pytest.mark.parametrize(
    ("id", "module", "says"),
    [
        ("popgym-RepeatFirstEasy-v0", "popgym", "pip install popgym"),
        ("MysteryPath-v0", "memory_gym", "pip install --no-deps memory-gym"),
        ("MiniGrid-Nothing-v7", "minigrid", "pip install minigrid"),
    ],
)
def test_a_missing_package_is_named(id: str, module: str, says: str, monkeypatch: pytest.MonkeyPatch) -> None:
    found = importlib.util.find_spec
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name == module else found(name))
    monkeypatch.setattr("gymnasium.registry", {})
    with pytest.raises(ConfigError, match=f"env.id={id}: its package is not installed; {says}"):
        make_env("gym", 2, id=id)


class Wrong(Tiny):
    """Tiny with one mistake."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        obs, info = super().reset(seed=seed, options=options)
        return (np.zeros(7, np.float32) if self.kind == "first" else obs), info

    def step(self, action: Any) -> Any:
        obs, reward, terminated, truncated, info = super().step(action)
        if self.kind == "flag":
            return obs, reward, None, truncated, info
        if self.kind == "info":
            return obs, reward, terminated, truncated, None
        wrong = {
            "shape": (np.zeros(7, np.float32), reward),
            "array": (obs, np.array([1.0])),
            "text": (obs, "1"),
            "far": (9, reward),
        }
        return (*wrong.get(self.kind, (obs, reward)), terminated, truncated, info)


class OldReset(Tiny):
    def reset(self) -> Any:  # type: ignore[override]
        return super().reset()


@pytest.mark.parametrize(
    ("kind", "says"),
    [
        ("first", "Wrong: reset returned an observation of shape (7,) and dtype"),
        ("shape", "Wrong: step returned an observation of shape (7,) and dtype"),
        ("array", "Wrong: step returned the reward array([1.]); expected a number"),
        ("text", "Wrong: step returned the reward '1'; expected a number"),
        ("far", "Wrong: step returned an observation outside Discrete(9)"),
        ("flag", "Wrong: step returned terminated = None; expected True or False"),
        ("info", "Wrong: step returned the info None; expected a dictionary"),
    ],
)
def test_a_wrong_result_of_reset_or_step_is_reported_in_one_line(
    kind: str, says: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = gymnasium.envs.registration.EnvSpec("Wrong-v0", entry_point=Wrong)
    monkeypatch.setitem(gymnasium.registry, "Wrong-v0", spec)
    env = GymAdapter(2, id="Wrong-v0", options={"kind": kind})
    with pytest.raises(ConfigError, match=re.escape(says)):
        env.reset(seed=0)
        env.step(torch.zeros(env.action_space.shape, dtype=torch.int64))


def test_a_reset_with_the_old_signature_is_reported_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    spec = gymnasium.envs.registration.EnvSpec("Old-v0", entry_point=OldReset)
    monkeypatch.setitem(gymnasium.registry, "Old-v0", spec)
    with pytest.raises(ConfigError, match=r"expected reset\(self, \*, seed=None, options=None\)"):
        GymAdapter(2, id="Old-v0").reset(seed=0)


class HalfADict(Tiny):
    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        return {"a": 1}, {}


@pytest.mark.slow
@pytest.mark.parametrize("workers", ["sync", "async"])
def test_a_missing_part_of_an_observation_is_named(workers: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(
        gymnasium.registry, "Half-v0", gymnasium.envs.registration.EnvSpec("Half-v0", entry_point=HalfADict)
    )
    space = spaces.Dict(a=spaces.Discrete(2), b=spaces.Discrete(2))
    env = GymAdapter(2, id="Half-v0", options={"observation_space": space}, workers=workers)
    with pytest.raises(Exception, match="HalfADict: reset returned an observation without the part 'b'"):
        env.reset(seed=0)
    env.close()
