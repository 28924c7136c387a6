"""Numbers that do not belong to an environment's spaces, or that nobody can score, are refused in one sentence everywhere."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any, ClassVar

import gymnasium
import minari
import numpy as np
import pytest
import torch
from gymnasium import spaces
from minari.data_collector import EpisodeBuffer

from rmt_rl import collect, evaluate, play, train
from rmt_rl.algos.returns import gae
from rmt_rl.common.errors import ConfigError, RunError
from rmt_rl.common.finite import NotFinite
from rmt_rl.envs.base import TorchVectorEnv
from rmt_rl.envs.gym.adapter import GymAdapter
from rmt_rl.envs.gym.lockstep import EnvironmentFault
from rmt_rl.envs.observations import ObservationCheck
from rmt_rl.envs.registry import make_env
from rmt_rl.policies.saving import make_policy
from rmt_rl.rollouts.collector import Collector
from rmt_rl.rollouts.episodes import evaluate as play_episodes
from rmt_rl.rollouts.minari_reader import read_minari

SMALL = ["policy=mlp", "policy.width=16", "algo.num_envs=4", "algo.rollout=8", "algo.minibatches=2", "steps=32"]
NUMBERS = spaces.Box(-np.inf, np.inf, (2,), np.float32)


class Shows(gymnasium.Env[Any, Any]):
    """Shows `value` from step `at` on, before that a sample of its space; pays `reward` there; episodes have five steps."""

    metadata: ClassVar[dict[str, Any]] = {"render_modes": []}
    action_space = spaces.Discrete(2)

    def __init__(self, space: Any, value: Any, at: int = 0, reward: float = 1.0) -> None:
        self.observation_space, self.value, self.at, self.reward = space, value, at, reward

    def show(self) -> Any:
        return self.value if self.t >= self.at else self.observation_space.sample()

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.t = 0
        return self.show(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self.t += 1
        return self.show(), self.reward if self.t >= self.at else 1.0, self.t == 5, False, {}


class NaNReward(Shows):
    def __init__(self) -> None:
        super().__init__(NUMBERS, np.zeros(2, np.float32), 3, math.nan)


class NaNObservation(Shows):
    def __init__(self) -> None:
        super().__init__(NUMBERS, np.full(2, math.nan, np.float32), 3)


class Good(Shows):
    def __init__(self) -> None:
        super().__init__(NUMBERS, np.zeros(2, np.float32))


@pytest.fixture(autouse=True)
def registered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    for cls in (Shows, NaNReward, NaNObservation, Good):
        gymnasium.register(f"rmt-test/{cls.__name__}-v0", cls, disable_env_checker=True)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "datasets"))
    (tmp_path / "datasets").mkdir()
    yield
    for cls in (Shows, NaNReward, NaNObservation, Good):
        del gymnasium.registry[f"rmt-test/{cls.__name__}-v0"]


def shows(space: Any, value: Any, at: int = 0, rows: int = 2, **options: Any) -> GymAdapter:
    return GymAdapter(rows, id="rmt-test/Shows-v0", options={"space": space, "value": value, "at": at}, **options)


# ------------------------------------------------------------------------------------- whole numbers outside their bounds

OUTSIDE = [
    (spaces.Box(0, 5, (3,), np.int64), np.array([0, 0, 7]), "7"),
    (spaces.Box(0, 5, (3,), np.int64), np.array([7, 0, 0]), "7"),
    (spaces.Box(0, 10, (2, 2, 3), np.uint8), np.full((2, 2, 3), 11, np.uint8), "11"),
    (spaces.Box(np.array([0, 3]), np.array([9, 5]), dtype=np.int64), np.array([0, 2]), "2"),
    (spaces.Box(0, 1000, (1,), np.int16), np.array([1001], np.int16), "1001"),
    (spaces.Discrete(3, start=2), 1, "-1"),
    (spaces.MultiDiscrete([2, 3]), np.array([2, 0]), "2"),
    (spaces.MultiBinary(2), np.array([0, 2], np.int8), "2"),
]


@pytest.mark.parametrize(("space", "value", "found"), OUTSIDE)
@pytest.mark.parametrize("at", [0, 3])
def test_an_environment_that_leaves_its_whole_numbers_is_refused(space: Any, value: Any, found: str, at: int) -> None:
    env = shows(space, value, at)
    with pytest.raises(
        ConfigError, match=rf"^Shows: (reset|step) returned an observation outside .*: {found} "
    ) as caught:
        env.reset(seed=0)
        for _ in range(5):
            env.step(torch.zeros(2, dtype=torch.int64))
    assert "\n" not in str(caught.value)


@pytest.mark.slow
def test_a_worker_process_that_leaves_its_whole_numbers_is_refused() -> None:
    env = shows(*OUTSIDE[0][:2], workers="async")
    with pytest.raises(EnvironmentFault, match=r"^row 0 returned an observation outside Box\(0, 5, \(3,\), int64\): 7"):
        env.reset(seed=0)


def test_real_numbers_may_leave_their_bounds() -> None:
    assert (
        shows(spaces.Box(-1, 1, (1,), np.float32), np.full(1, 1.5, np.float32)).reset(seed=0)[0].tolist() == [[1.5]] * 2
    )


# ------------------------------------------------------------------------------------------ numbers that a cast would change

CHANGED = [
    (spaces.Box(0, 255, (4, 4, 3), np.uint8), np.full((4, 4, 3), 0.9, np.float32), "holds 0.9"),
    (spaces.Box(0, 255, (3,), np.uint8), np.array([1, 300, 2]), "holds 300, which uint8 cannot"),
    (spaces.Box(0, 255, (1,), np.uint8), [-1], "holds -1, which uint8 cannot"),
    (spaces.Box(0, 9, (2,), np.int64), np.array([0.7, 3.9]), "holds 0.7, which int64 cannot"),
    (spaces.Box(0, 9, (1,), np.int64), np.array([math.nan]), "holds nan, which int64 cannot"),
    (spaces.Discrete(3), 1.7, "holds 1.7, which int64 cannot"),
    (spaces.Dict(a=spaces.Discrete(3)), {"a": 1.7}, "'a' that holds 1.7"),
    (spaces.Box(-1, 1, (2,), np.float32), [[1.0, 2.0], [3.0]], r"that is \[\[1.0, 2.0\], \[3.0\]\]; expected numbers"),
    (spaces.Box(-1, 1, (2,), np.float32), "abc", "that is 'abc'; expected numbers"),
    (spaces.Box(-1, 1, (2,), np.float32), {"a": 1}, "that is {'a': 1}; expected numbers"),
    (spaces.Box(-1, 1, (1,), np.float32), [1j], "expected numbers"),
    (spaces.Discrete(3), None, "that is None; expected numbers"),
    (spaces.Dict(a=spaces.Discrete(3)), None, "without the part 'a'"),
    (spaces.Dict(a=spaces.Discrete(3)), np.zeros(2), "without the part 'a'"),
    (spaces.Tuple([spaces.Discrete(3)]), (), "without the part 0"),
]


@pytest.mark.parametrize(("space", "value", "says"), CHANGED)
def test_an_observation_that_is_not_one_of_its_space_is_refused(space: Any, value: Any, says: str) -> None:
    with pytest.raises(ConfigError, match=rf"^Shows: reset returned an observation.*{says}") as caught:
        shows(space, value).reset(seed=0)
    assert "\n" not in str(caught.value)


def test_numbers_that_a_cast_keeps_are_accepted() -> None:
    for space, value, expected in (
        (spaces.Box(0, 255, (2,), np.uint8), [3.0, 255], [3, 255]),
        (spaces.Box(-1, 1, (2,), np.float64), np.array([0.1, 1.0]), [np.float32(0.1), 1.0]),
        (spaces.Box(0, 1, (2,), np.int64), np.array([True, False]), [1, 0]),
        (spaces.Discrete(3), np.uint8(2), 2),
    ):
        assert shows(space, value).reset(seed=0)[0][0].tolist() == pytest.approx(expected)


@pytest.mark.parametrize(
    ("space", "values", "says"),
    [
        (spaces.Box(0, 5, (1,), np.int64), np.array([[0], [7]]), r"observations: step 1 is outside"),
        (spaces.Discrete(3), np.array([0.0, 1.7]), r"observations: an observation that holds 1.7"),
        (NUMBERS, np.array([[0.0, 0.0], [1e22, 0.0]]), r"observations: step 1 is not finite, or beyond 1e\+15"),
    ],
)
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_a_dataset_is_refused_for_the_same_numbers(space: Any, values: Any, says: str) -> None:
    episode = EpisodeBuffer(
        observations=values,
        actions=np.array([0]),
        rewards=np.zeros(1),
        terminations=np.array([True]),
        truncations=np.array([False]),
        infos={},
    )
    about = dict.fromkeys(("algorithm_name", "author", "author_email", "code_permalink", "description"), "x")
    minari.create_dataset_from_buffers(
        "odd/numbers-v0", [episode], observation_space=space, action_space=spaces.Discrete(2), **about
    )
    with pytest.raises(ConfigError, match=rf"^data=odd/numbers-v0: episode 0: {says}"):
        read_minari("odd/numbers-v0")


# ---------------------------------------------------------------------------------------------------- policies and actions


def a_policy(space: Any) -> Any:
    return make_policy(shows(space, None), "mlp", width=16)


@pytest.mark.parametrize(
    ("space", "obs", "says"),
    [
        (
            spaces.Box(0, 5, (3,), np.int64),
            np.array([[0, 0, 7]]),
            r"obs of row 0 is 7, outside Box\(0, 5, \(3,\), int64\)",
        ),
        (spaces.Box(0, 255, (2,), np.uint8), np.array([[0, 300]]), r"obs of row 0 is 300, outside"),
        (spaces.Discrete(3), np.array([-1]), r"obs of row 0 is -1, outside Discrete\(3\)"),
        (NUMBERS, np.array([[0, math.nan]], np.float32), r"obs of row 0 is nan; expected an observation"),
        (NUMBERS, np.array([[0, math.inf]], np.float32), r"obs of row 0 is inf; expected an observation"),
        (NUMBERS, np.array([[0, 1e22]], np.float32), r"obs of row 0 is 1e\+22, and numbers beyond 1e\+15 overflow"),
    ],
)
def test_a_policy_refuses_observations_outside_its_space(space: Any, obs: Any, says: str) -> None:
    policy = a_policy(space)
    for given, first in ((obs, np.array([True])), (torch.from_numpy(obs), torch.tensor([True])), (obs[0], True)):
        with pytest.raises(ValueError, match=f"^{says}"):
            policy.act(given, policy.initial_state(1), first)


def test_the_entry_of_a_dictionary_is_named() -> None:
    check = ObservationCheck(spaces.Dict(a=spaces.Discrete(2), b=NUMBERS), None)
    assert check.outside("obs", {"a": torch.tensor([0, 2]), "b": torch.zeros(2, 2)}) == (
        "obs 'a' of row 1 is 2, outside Discrete(2)"
    )
    assert check.unusable("obs", {"a": torch.tensor([0]), "b": torch.full((1, 2), -math.inf)}) == (
        "obs 'b' of row 0 is -inf"
    )
    assert check.outside("obs", {"a": torch.tensor([0, 1]), "b": torch.zeros(2, 2)}) is None
    uneven = ObservationCheck(spaces.Box(np.array([0, 3]), np.array([9, 5]), dtype=np.int64), None)
    assert uneven.outside("obs", torch.tensor([[9, 5], [0, 6]])).startswith("obs of row 1 is 6, outside Box(")
    assert uneven.outside("obs", torch.tensor([[9, 5], [0, 3]])) is None
    assert check.unusable("obs", {"a": torch.tensor([0]), "b": torch.full((1, 2), 1e15)}) is None


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("name", ["tmaze", "minigrid-memory", "copy"])
def test_an_action_out_of_range_is_refused_on_a_gpu_too(name: str) -> None:
    env = make_env(name, 2, "cuda")
    env.reset(seed=0)
    with pytest.raises(ValueError, match="is outside 0"):
        env.step(torch.full((2,), int(env.single_action_space.n), device="cuda"))  # type: ignore[attr-defined]


class Own(TorchVectorEnv):
    """A batch of a user's own, not of gymnasium, that returns `value` from its second step on.

    truncates: its episodes are truncated instead, and return `value` as their last observations only.
    """

    def __init__(self, value: torch.Tensor, space: Any, truncates: bool = False) -> None:
        super().__init__(2, "cpu", space, spaces.Discrete(2))
        self.value, self.truncates = value, truncates
        self.measure = "return"

    def reset(self, *, seed: Any = None, options: Any = None) -> Any:
        self.t = 0
        return torch.zeros_like(self.value).expand(2, -1), {}

    def step(self, action_B: Any) -> Any:
        self.t += 1
        value = self.value if self.t >= 2 else torch.zeros_like(self.value)
        flags = torch.full((2,), self.t == 4)
        obs = value.expand(2, -1)
        info = {"final_obs": obs, "_final_obs": flags}
        ends = (torch.zeros_like(flags), flags) if self.truncates else (flags, torch.zeros_like(flags))
        return torch.zeros_like(obs) if self.truncates else obs, torch.ones(2, dtype=torch.float64), *ends, info


@pytest.mark.parametrize(
    ("space", "value", "error", "says"),
    [
        (
            spaces.Box(0, 5, (3,), np.int64),
            torch.tensor([0, 0, 7]),
            RunError,
            r"observation of row 0 is 7, outside Box",
        ),
        (NUMBERS, torch.tensor([0.0, -1e22]), NotFinite, r"observation of row 0 is -1e\+22, and numbers beyond"),
        (NUMBERS, torch.tensor([0.0, math.nan]), NotFinite, r"observation of row 0 is nan"),
    ],
)
def test_environments_that_are_not_of_gymnasium_are_checked_too(space: Any, value: Any, error: Any, says: str) -> None:
    env = Own(value, space)
    policy = make_policy(env, "mlp", width=16)
    with pytest.raises(error, match=f"^{says}.*, 4 steps into the run: the environment returned it"):
        Collector(env, policy).collect(8)
    with pytest.raises(error, match=rf"^{says}.*, 2 steps after reset\(seed=\d+\): the environment returned it$"):
        play_episodes(policy, env, 2)


@pytest.mark.parametrize(
    ("space", "value", "error", "says"),
    [
        (spaces.Box(0, 5, (3,), np.int64), torch.tensor([0, 0, 7]), RunError, "is 7, outside Box"),
        (NUMBERS, torch.tensor([0.0, math.nan]), NotFinite, "is nan"),
    ],
)
def test_the_last_observations_of_truncated_episodes_are_checked_too(
    space: Any, value: Any, error: Any, says: str
) -> None:
    env = Own(value, space, truncates=True)
    collector = Collector(env, make_policy(env, "mlp", width=16))
    collector.collect(3)
    with pytest.raises(error, match=f"^last observation of row 0 {says}.*, 8 steps into the run: the environment"):
        collector.collect(1)


# --------------------------------------------------------------------------------------------------------- NaN, everywhere


@pytest.fixture
def trained(registered: None) -> Path:
    assert train.main(["env=gym", "env.id=rmt-test/Good-v0", *SMALL, "evaluate_episodes=4", "run=x"]) == 0
    return Path("runs/x")


@pytest.mark.slow
@pytest.mark.parametrize(("name", "what"), [("NaNReward", "reward"), ("NaNObservation", "observation")])
def test_every_command_ends_with_one_line_where_the_environment_returns_nan(
    name: str, what: str, trained: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    task = ["env=gym", f"env.id=rmt-test/{name}-v0"]
    commands = {
        evaluate: [f"policy={trained}", *task[1:], "episodes=4"],
        collect: ["policy=random", *task, "out=odd/nan-v0", "episodes=4"],
        play: ["policy=random", *task, "out=x.gif"],
    }
    for command, arguments in commands.items():
        capsys.readouterr()
        assert command.main(arguments) == 1
        out, err = capsys.readouterr()
        assert err.startswith(f"error: {what} of row 0 is nan, ") and err.count("\n") == 1
        assert "nan" not in out.lower().replace(name.lower(), "")
    assert not Path("datasets/odd").exists() and not Path("x.gif").exists()


def test_the_evaluation_after_training_ends_with_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = [
        "env=gym",
        "env.id=rmt-test/NaNReward-v0",
        *SMALL[:3],
        "policy.normalize_observation=false",  # its first rollout would meet the NaN in training
        "algo.rollout=2",
        "algo.minibatches=2",
        "steps=8",
        "run=y",
    ]
    assert train.main(arguments) == 1
    assert capsys.readouterr().err.startswith("error: reward of row 0 is nan, 3 steps after reset(seed=")
    assert "NaN" not in json.dumps([line for line in Path("runs/y/metrics.jsonl").read_text().splitlines()])


def test_values_that_do_not_count_have_no_influence_on_advantages() -> None:
    reward, value = torch.ones(1, 3), torch.tensor([[0.5, 0.25, math.nan]])
    terminated, truncated = torch.tensor([[False, True, False]]), torch.zeros(1, 3, dtype=torch.bool)
    next_value = torch.tensor([[0.25, math.nan, 0.5]])
    found = gae(reward, value, next_value, terminated, truncated, 0.9, 0.5)
    assert found[0, :2].tolist() == pytest.approx([1 + 0.9 * 0.25 - 0.5 + 0.45 * 0.75, 0.75])
