"""Action spaces beside Discrete, MultiDiscrete and Box of floats: the environment always gets an element of its own space."""

from __future__ import annotations

import itertools
import json
from typing import Any, ClassVar

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium import spaces
from torch.distributions import Categorical, Independent, Normal

from rmt_rl.collect import main as collect
from rmt_rl.common.errors import ConfigError
from rmt_rl.envs.actions import ActionTranslation, MixedActions, UnsupportedSpace
from rmt_rl.envs.check import check, maker
from rmt_rl.envs.registry import make_env
from rmt_rl.evaluate import main as evaluate
from rmt_rl.export import export
from rmt_rl.policies.heads import make_head
from rmt_rl.policies.saving import load_policy, make_policy, save_policy
from rmt_rl.policies.spec import PolicySpec
from rmt_rl.rollouts.episodes import random_actor, record
from rmt_rl.train import main as train

SMALL = [
    "policy=mlp",
    "policy.width=8",
    "algo.num_envs=2",
    "algo.rollout=8",
    "algo.minibatches=2",
    "steps=32",
    "evaluate_episodes=2",
]

SPACES: dict[str, Any] = {
    "MultiBinary": spaces.MultiBinary([2, 2]),
    "Box of integers": spaces.Box(np.array([-3, 5], np.int16), np.array([3, 7], np.int16)),
    "Box of one integer": spaces.Box(2, 4, (), np.uint8),
    "Tuple of both": spaces.Tuple((spaces.Discrete(2, start=4), spaces.Box(-2, 2, (2,), np.float64))),
    "Dict of choices": spaces.Dict(move=spaces.Discrete(3), keys=spaces.MultiBinary(2)),
    "Tuple of reals": spaces.Tuple((spaces.Box(0, 1, (1,)), spaces.Box(-1, 1, (2, 2)))),
    "nested": spaces.Dict(
        a=spaces.Tuple((spaces.MultiDiscrete([2, 3], start=[1, 1]), spaces.Box(-1, 1))), b=spaces.Discrete(2)
    ),
}
every_space = pytest.mark.parametrize("name", SPACES)


class Env(gymnasium.Env[Any, Any]):
    """Raises for an action outside its space."""

    observation_space: Any = spaces.Box(-1, 1, (2,), np.float32)
    taken: ClassVar[list[Any]] = []

    def __init__(self, space: str, render_mode: str | None = None) -> None:
        self.action_space = SPACES[space]

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        self.t = 0
        return self.seen(), {}

    def step(self, action: Any) -> Any:
        assert self.action_space.contains(action), f"{action!r} is outside {self.action_space}"
        Env.taken.append(action)
        self.t += 1
        return self.seen(), 1.0, self.t >= 5, False, {}

    def seen(self) -> np.ndarray:
        return self.np_random.uniform(-1, 1, 2).astype(np.float32)


gymnasium.register("Actions-v0", entry_point=Env)


def env_of(name: str, rows: int = 2) -> Any:
    return make_env("gym", rows, id="Actions-v0", options={"space": name})


@pytest.mark.slow
@pytest.mark.parametrize("name", ["MultiBinary", "Box of integers", "nested"])
def test_training_saving_loading_and_evaluating_give_the_environment_its_own_actions(
    name: str, tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert train(["env=gym", "env.id=Actions-v0", f"env.options={{space: {name}}}", *SMALL, "run=run"]) == 0
    assert evaluate(["policy=runs/run", "episodes=2"]) == 0


@every_space
@pytest.mark.filterwarnings("error")
def test_a_policy_shown_numpy_arrays_acts_in_the_environments_own_space(name: str, tmp_path: Any) -> None:
    save_policy(make_policy(env_of(name), "lstm", width=8), tmp_path)
    policy, env = load_policy(tmp_path), Env(name)
    (obs, _), state, first = env.reset(seed=0), policy.initial_state(1), True
    for _ in range(5):
        action, state = policy.act(obs, state, first)
        obs, _, first, _, _ = env.step(action)


@every_space
def test_an_action_that_is_translated_and_back_is_the_same(name: str) -> None:
    translation = ActionTranslation(SPACES[name])
    SPACES[name].seed(0)
    translation.space.seed(0)
    for _ in range(20):
        action = translation.space.sample()
        own = translation.to_own(np.asarray(action))
        assert SPACES[name].contains(own)
        arrays = []
        for part in translation.parts:
            value: Any = own
            for key in part.path:
                value = value[key]
            arrays.append(np.asarray(value)[None].astype(part.space.dtype) - part.start.astype(part.space.dtype))
        np.testing.assert_array_equal(translation.join(arrays)[0], action)


def test_one_number_is_at_most_65536_choices() -> None:
    with pytest.raises(
        UnsupportedSpace, match=r"action: Box.* has 4,294,967,296 values for one number, .* Box of floats"
    ):
        ActionTranslation(spaces.Box(-(2**31), 2**31 - 1, (2,), np.int32))
    ActionTranslation(spaces.Box(0, 65_535, (1,), np.int64))
    low, high = np.zeros(2, np.int64), np.array([3, 65_536])
    with pytest.raises(UnsupportedSpace, match=r"action: Box.* has 65,537 values for one number"):
        ActionTranslation(spaces.Box(low, high, dtype=np.int64))
    with pytest.raises(UnsupportedSpace, match="more than 65,536 choices"):
        ActionTranslation(spaces.Discrete(2**40))
    with pytest.raises(UnsupportedSpace, match=r"action 'a': Text.* is not supported"):
        ActionTranslation(spaces.Dict(a=spaces.Text(3)))
    with pytest.raises(UnsupportedSpace, match="is empty"):
        ActionTranslation(spaces.Tuple(()))


def test_choices_and_real_numbers_together_add_up() -> None:
    head = make_head(MixedActions([2, 3], [-2.0, 0.0], [2.0, 1.0]), 8)
    parameters = torch.randn(4, 5 + 4, generator=torch.Generator().manual_seed(0), requires_grad=True)
    action = head.sample(parameters, torch.Generator().manual_seed(1))
    parts = [Categorical(logits=parameters[:, :2]), Categorical(logits=parameters[:, 2:5])]
    mean, deviation = parameters[:, 5:7], parameters[:, 7:].exp()
    reals = Independent(Normal(mean, deviation), 1)
    expected = sum(part.log_prob(action[:, i].long()) for i, part in enumerate(parts)) + reals.log_prob(action[:, 2:])
    torch.testing.assert_close(head.log_prob(parameters, action), expected)
    torch.testing.assert_close(head.entropy(parameters), sum(part.entropy() for part in parts) + reals.entropy())
    gradients = torch.autograd.grad(
        (head.log_prob(parameters, action) + head.kl_from_uniform(parameters)).sum(), parameters
    )
    assert bool((gradients[0] != 0).all())
    assert head.one_hot(action).shape == (4, head.inputs)
    assert torch.equal(head.clip(action)[:, :2], action[:, :2])


@pytest.mark.slow
def test_an_export_says_what_the_environments_own_actions_are(tmp_path: Any) -> None:
    policy = make_policy(env_of("Tuple of both"), "mlp", width=8)
    export(policy, tmp_path / "export", 1, onnx=False)
    output = json.loads((tmp_path / "export" / "io.json").read_text())["outputs"][0]
    assert output["shape"] == [1, 3] and output["own_space"]["entries"][0] == {"type": "discrete", "n": 2, "start": 4}


@pytest.mark.slow
@pytest.mark.parametrize("name", ["Dict of choices", "nested", "Box of one integer"])
def test_random_actions_are_recorded_as_the_environments_own_and_learned(
    name: str, tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("minari")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path))
    task = ["env=gym", "env.id=Actions-v0", f"env.options={{space: {name}}}"]
    assert collect([*task, "policy=random", "episodes=4", "out=own/actions-v0"]) == 0
    offline = ["algo=rate", "policy=rmt", "policy.width=8", "policy.layers=1", "data=own/actions-v0", "steps=40"]
    assert train([*task, *offline, "evaluate_episodes=2", "run=run"]) == 0


@pytest.mark.parametrize("name", ["nested", "Box of integers"])
def test_the_checks_of_an_environment_accept_its_actions(name: str) -> None:
    results = list(itertools.islice(check(*maker("Actions-v0", {"space": name})), 5))
    assert [result.found for result in results if result.verdict == "wrong"] == []


def test_random_choices_of_mixed_actions_are_whole_numbers() -> None:
    env = env_of("Tuple of both")
    waves = list(record(env, random_actor(env, 0), 4, 0))
    choices = np.concatenate([episode.action[:, 0] for wave in waves for episode in wave])
    assert set(choices.tolist()) == {0.0, 1.0}


def test_a_file_whose_own_actions_are_others_than_the_policys_is_refused() -> None:
    saved = make_policy(env_of("Tuple of both"), "mlp", width=8).spec.to_json()
    assert PolicySpec.from_json(saved).own_actions == SPACES["Tuple of both"]
    saved["own_actions"]["entries"].pop()
    with pytest.raises(ConfigError, match=r"spec.own_actions: is not the environment's form of spec.action_space"):
        PolicySpec.from_json(saved)


def test_a_file_of_later_rules_is_refused() -> None:
    saved = make_policy(env_of("MultiBinary"), "mlp", width=8).spec.to_json()
    with pytest.raises(ConfigError, match=r"spec.rules=9: expected a whole number from 1 to 2"):
        PolicySpec.from_json({**saved, "rules": 9})


def test_torchrl_refuses_choices_and_real_numbers_together() -> None:
    bridge = pytest.importorskip("rmt_rl.torchrl")
    with pytest.raises(ConfigError, match="have no distribution in torchrl"):
        bridge.TorchRLPolicy(make_policy(env_of("Tuple of both"), "mlp", width=8))


def test_a_choice_beyond_its_bounds_reaches_the_environment_as_the_nearest_one() -> None:
    own = spaces.Tuple([spaces.Discrete(3, start=5), spaces.MultiDiscrete([2, 4]), spaces.Box(-1, 1, (1,), np.float32)])
    move, pair, real = ActionTranslation(own).to_own(np.array([7.2, -1.0, 2.6, 3.0], np.float32))
    assert (move, pair.tolist(), real.tolist()) == (7, [0, 3], [1.0])


class Takes(gymnasium.Env[Any, Any]):
    observation_space: Any = spaces.Box(-1, 1, (2,), np.float32)

    def __init__(self, space: Any) -> None:
        self.action_space, self.taken = space, None

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        return np.zeros(2, np.float32), {}

    def step(self, action: Any) -> Any:
        self.taken = action
        return np.zeros(2, np.float32), 0.0, False, False, {}


def takes(space: Any) -> Any:
    gymnasium.register("rmt-test/Takes-v0", entry_point=Takes, kwargs={"space": space})
    try:
        env = make_env("gym", 2, id="rmt-test/Takes-v0")
    finally:
        gymnasium.registry.pop("rmt-test/Takes-v0")
    env.reset(seed=0)
    return env


def test_actions_of_a_network_that_learns_are_taken_as_numbers() -> None:
    env = takes(spaces.Box(-1, 1, (2,), np.float64))
    env.step(torch.tensor([[0.5, -3.0], [2.0, 0.25]], requires_grad=True))
    assert [taken.tolist() for taken in env.get_attr("taken")] == [[0.5, -1.0], [1.0, 0.25]]


@pytest.mark.parametrize(
    ("space", "action", "says"),
    [
        (spaces.Discrete(3, start=5), [0, 3], r"action \[0, 3\] is outside 0..2"),
        (spaces.Discrete(3, start=5), [-1, 0], r"action \[-1, 0\] is outside 0..2"),
        (spaces.Discrete(3), [0.0, 1.0], r"action has dtype torch.float32; expected integers, for Discrete\(3\)"),
        (spaces.Discrete(3), [0], r"action has shape \(1,\); expected \(2,\)"),
        (spaces.MultiDiscrete([2, 3]), [[0, 2], [1, 3]], r"is outside 0..\[1, 2\]"),
        (spaces.MultiDiscrete([2, 3]), [[2, 0], [0, 0]], r"is outside 0..\[1, 2\]"),
        (spaces.MultiDiscrete([2, 3]), [[0, 0], [0, -1]], r"is outside 0..\[1, 2\]"),
        (spaces.Box(-1, 1, (1,)), [[0.0], [float("nan")]], "action is NaN; expected numbers, which are clipped"),
    ],
)
def test_an_action_outside_the_space_is_one_sentence_and_reaches_no_row(space: Any, action: Any, says: str) -> None:
    env = takes(space)
    with pytest.raises(ValueError, match=says):
        env.step(torch.tensor(action))
    assert env.get_attr("taken") == (None, None)


def test_the_highest_and_the_lowest_actions_are_taken() -> None:
    for space, action in ((spaces.Discrete(3, start=5), [0, 2]), (spaces.MultiDiscrete([2, 3]), [[0, 2], [1, 0]])):
        env = takes(space)
        env.step(torch.tensor(action))
        start = 5 if isinstance(space, spaces.Discrete) else 0
        assert [np.asarray(taken).tolist() for taken in env.get_attr("taken")] == (np.array(action) + start).tolist()
