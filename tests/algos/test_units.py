"""Offline learning does not depend on the units of actions and observations that have no bounds."""

import json
import math
from pathlib import Path

import gymnasium
import minari
import numpy as np
import pytest
import torch
from gymnasium import spaces
from minari.data_collector import EpisodeBuffer

import rmt_rl
from rmt_rl.algos.rate import RATELearner
from rmt_rl.common.errors import ConfigError
from rmt_rl.common.state import leaves
from rmt_rl.config.resolve import make_config
from rmt_rl.export import export
from rmt_rl.policies.moments import ActionScale
from rmt_rl.policies.spec import PolicySpec
from rmt_rl.rollouts.dataset import Dataset, Episode

UNBOUNDED = spaces.Box(-np.inf, np.inf, (2,), np.float32)


class Follow(gymnasium.Env):
    """The best action is the observation, both in units of their own: a * unit + zero."""

    observation_space, action_space = UNBOUNDED, UNBOUNDED
    unit, zero, length = np.float32(1), np.float32(0), 5

    def _observe(self) -> np.ndarray:
        self.x = self.np_random.uniform(-1, 1, 2).astype(np.float32)
        return self.x * self.unit + self.zero

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.t = 0
        return self._observe(), {}

    def step(self, action):
        self.t += 1
        reward = -float(np.abs((action - self.zero) / self.unit - self.x).mean())
        return self._observe(), reward, self.t >= self.length, False, {}


class RawUnits(Follow):
    unit, zero = np.float32(500), np.float32(3_000)


ENVS = {cls: f"{cls.__name__}Units-v0" for cls in (Follow, RawUnits)}
for cls, name in ENVS.items():
    gymnasium.register(name, entry_point=cls)


def record(cls: type[Follow], episodes: int = 60) -> str:
    """The id of a new dataset of the best actions."""
    rng, T = np.random.default_rng(0), cls.length
    buffers = []
    for _ in range(episodes):
        obs = rng.uniform(-1, 1, (T + 1, 2)).astype(np.float32) * cls.unit + cls.zero
        end = np.arange(T) == T - 1
        rewards = np.zeros(T)
        buffers.append(
            EpisodeBuffer(
                observations=obs, actions=obs[:T], rewards=rewards, terminations=end, truncations=end & False, infos={}
            )
        )
    minari.create_dataset_from_buffers(
        f"units/{cls.__name__.lower()}-v0", buffers, observation_space=UNBOUNDED, action_space=UNBOUNDED
    )
    return f"units/{cls.__name__.lower()}-v0"


OPTIONS = {"env": "gym", "algo": "rate", "policy": "mlp", "policy.width": 16, "algo.returns": False, "steps": 15_000}
OPTIONS |= {"evaluate_episodes": 20, "algo.learning_rate": 0.02, "algo.batch": 32}


@pytest.fixture
def datasets(tmp_path, monkeypatch):
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "datasets"))
    (tmp_path / "datasets").mkdir()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_actions_and_observations_in_raw_units_are_imitated(datasets, tmp_path):
    result = rmt_rl.train(root=tmp_path, data=record(RawUnits), **OPTIONS, **{"env.id": ENVS[RawUnits]})
    assert result.score.mean_return > -0.5  # -2.5 where nothing is learned
    # the units are saved with the policy, and acted with
    again = rmt_rl.load_policy(result.folder)
    assert again.spec.action_scale == result.policy.spec.action_scale is not None
    assert rmt_rl.evaluate(result.folder, episodes=20) == result.score


def data_of(actions: np.ndarray, space: spaces.Box) -> Dataset:
    obs, reward = np.zeros((len(actions), 1), np.float32), np.zeros(len(actions))
    return Dataset([Episode(obs, actions.astype(np.float32), reward)], len(actions), UNBOUNDED, space)


def scale_of(actions: np.ndarray, space: spaces.Box = UNBOUNDED) -> ActionScale | None:
    return RATELearner.action_scale(make_config(env="tmaze-rate", algo="rate"), data_of(actions, space), None)


def test_the_scale_is_mean_and_deviation_of_the_recorded_actions():
    found = scale_of(np.array([[1.0, 10.0], [3.0, 50.0], [2.0, 30.0]]))
    assert found.mean == pytest.approx([2, 30])
    assert found.deviation == pytest.approx([math.sqrt(2 / 3), 20 * math.sqrt(2 / 3)])


def test_an_action_that_never_changes_has_deviation_1():
    assert scale_of(np.full((3, 2), 0.1)).deviation == (1.0, 1.0)


def test_an_action_that_changes_by_rounding_only_has_deviation_1_and_one_around_zero_its_own():
    found = scale_of(np.array([[1e6, 3e-7], [1e6 + 0.1, -3e-7]]))
    assert found.deviation == pytest.approx((1.0, 3e-7), rel=1e-3)


def test_actions_with_bounds_keep_the_units_of_their_bounds():
    assert scale_of(np.ones((3, 2)), spaces.Box(-1000, 1000, (2,), np.float32)) is None


def test_actions_too_large_for_float32_are_refused():
    with pytest.raises(ConfigError, match="actions: some numbers are too large for float32; scale them"):
        scale_of(np.full((3, 2), np.inf))


def network(scale: ActionScale | None) -> rmt_rl.ActorCritic:
    config = make_config(env="gym", policy="mlp", **{"policy.width": 8, "env.id": ENVS[Follow]})
    torch.manual_seed(0)
    return rmt_rl.ActorCritic(PolicySpec(config.policy, UNBOUNDED, UNBOUNDED, config.env, action_scale=scale))


def test_a_network_with_a_scale_computes_the_same_in_other_units():
    plain, scaled = network(None), network(ActionScale((3.0, -1.0), (0.5, 8.0)))
    unit, zero = torch.tensor([0.5, 8.0]), torch.tensor([3.0, -1.0])
    obs, state, first = torch.randn(4, 2), plain.initial_state(4), torch.ones(4, dtype=torch.bool)
    actions = [policy.act(obs, state, first, deterministic=True)[0] for policy in (plain, scaled)]
    assert torch.allclose(actions[1], actions[0] * unit + zero)
    parameters = [policy.step(obs, state, first)[0] for policy in (plain, scaled)]
    target = torch.randn(4, 2)
    losses = [
        plain.head.imitation_loss(parameters[0], target),
        scaled.head.imitation_loss(parameters[1], target * unit + zero),
    ]
    assert torch.allclose(*losses, atol=1e-5)
    assert torch.allclose(scaled.head.one_hot(target * unit + zero), plain.head.one_hot(target), atol=1e-5)


def test_a_policy_of_a_version_without_a_scale_acts_as_before(tmp_path):
    policy = network(None)
    rmt_rl.save_policy(policy, tmp_path)
    saved = json.loads((tmp_path / "config.json").read_text())
    del saved["spec"]["action_scale"]
    (tmp_path / "config.json").write_text(json.dumps(saved))
    (tmp_path / "sha256.json").unlink()
    again = rmt_rl.load_policy(tmp_path)
    assert again.spec.action_scale is None
    obs, state, first = torch.randn(4, 2), policy.initial_state(4), torch.ones(4, dtype=torch.bool)
    assert torch.equal(*(each.act(obs, state, first, deterministic=True)[0] for each in (policy, again)))


@pytest.mark.parametrize(
    "scale",
    [3, [], {}, {"mean": [0, 0]}, {"mean": [0], "deviation": [1]}, {"mean": [0, 0], "deviation": [1, 0]}]
    + [{"mean": [0, 0], "deviation": [1, math.inf]}, {"mean": [0, 10**400], "deviation": [1, 1]}]
    + [{"mean": [0, True], "deviation": [1, 1]}, {"mean": "00", "deviation": [1, 1]}],
)
def test_a_scale_in_a_file_that_no_run_writes_is_refused(scale, tmp_path: Path):
    rmt_rl.save_policy(network(None), tmp_path)
    saved = json.loads((tmp_path / "config.json").read_text())
    saved["spec"]["action_scale"] = scale
    (tmp_path / "config.json").write_text(json.dumps(saved))
    with pytest.raises(ConfigError, match=r"action_scale=.*: expected null, or mean and deviation with 2 numbers each"):
        rmt_rl.load_policy(tmp_path)


@pytest.mark.slow
def test_the_exported_program_acts_in_the_units_of_the_data(tmp_path):
    policy = network(ActionScale((300.0, -1.0), (50.0, 8.0))).eval()
    export(policy, tmp_path / "out", 3, onnx=False)
    step = torch.export.load(tmp_path / "out" / "step.pt2").module()
    obs, state, first = torch.randn(3, 2), policy.initial_state(3), torch.ones(3, dtype=torch.bool)
    expected, _ = policy.act(obs, state, first, deterministic=True)
    action, *_ = step(obs, first, *leaves(state).values())
    assert torch.allclose(action, expected) and bool((action[:, 0] > 200).all())


class Stop:
    def on_update(self, run):
        if run.steps > 100:
            raise KeyboardInterrupt


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_a_resumed_run_keeps_the_units_and_the_bits(datasets, tmp_path):
    options = {**OPTIONS, "steps": 600, "env.id": ENVS[RawUnits], "data": record(RawUnits)}
    whole = rmt_rl.train(root=tmp_path / "a", **options)
    with pytest.raises(KeyboardInterrupt):
        rmt_rl.train(root=tmp_path / "b", run="x", checkpoint_steps=1, callbacks=[Stop()], **options)
    again = rmt_rl.train(resume=tmp_path / "b" / "x")
    assert again.policy.spec.action_scale == whole.policy.spec.action_scale is not None
    assert all(torch.equal(x, again.policy.state_dict()[name]) for name, x in whole.policy.state_dict().items())
    # online training from these weights keeps their units
    online = {"env": "gym", "env.id": ENVS[RawUnits], "init": str(again.folder), "steps": 64, "evaluate_episodes": 4}
    online |= {"algo.num_envs": 4, "algo.rollout": 16, "algo.minibatches": 1}
    assert rmt_rl.train(root=tmp_path / "c", **online).policy.spec.action_scale == whole.policy.spec.action_scale
