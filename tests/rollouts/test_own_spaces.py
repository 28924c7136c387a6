"""Recorded episodes and exported policies speak the language of the environment itself, or say what differs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import gymnasium
import minari
import numpy as np
import pytest
import torch
from gymnasium import spaces

import rmt_rl
from rmt_rl import collect, config
from rmt_rl.envs.gym.adapter import GymAdapter
from rmt_rl.envs.gym.translate import Translation
from rmt_rl.export import export
from rmt_rl.policies.saving import load_policy, make_policy, save_policy
from rmt_rl.rollouts.minari_reader import read_minari

OWN = {
    "a": spaces.Dict(b=spaces.Box(-0.1, 0.1, (2,), np.float64), words=spaces.Text(5)),
    "kind": spaces.Discrete(3, start=-1),
    "small": spaces.Box(-9, 9, (2,), np.int16),
    "two": spaces.Tuple([spaces.MultiDiscrete([2, 3], start=[1, 5]), spaces.MultiBinary(2)]),
    "text": spaces.Tuple([spaces.Text(5), spaces.Discrete(2)]),
}


class Strict(gymnasium.Env[Any, Any]):
    """Random observations, of which a bound is one; accepts only actions of its own space."""

    observation_space = spaces.Dict(OWN)

    def __init__(self, continuous: bool = False, length: int = 4) -> None:
        whole = spaces.Discrete(3, start=5)
        self.action_space = spaces.Box(-0.1, 0.1, (2,), np.float64) if continuous else whole
        self.length = length

    def show(self) -> Any:
        shown = self.observation_space.sample()
        shown["a"]["b"][0] = 0.1
        return shown

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.t = 0
        return self.show(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        assert self.action_space.contains(action), action
        self.t += 1
        return self.show(), 1.0, self.t == self.length, False, {}


@pytest.fixture(autouse=True)
def registered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    gymnasium.register("rmt-test/Strict-v0", Strict, disable_env_checker=True)
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path))
    yield
    del gymnasium.registry["rmt-test/Strict-v0"]


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("continuous", [False, True])
@pytest.mark.parametrize("workers", ["sync", pytest.param("async", marks=pytest.mark.slow)])
def test_a_recording_can_be_replayed_in_the_environment_that_it_recovers(continuous: bool, workers: str) -> None:
    options = f"env.options={{continuous: {str(continuous).lower()}, length: 6}}"
    task = ["env=gym", "env.id=rmt-test/Strict-v0", options, f"env.workers={workers}"]
    assert collect.main(["policy=random", *task, "out=own/strict-v0", "episodes=2"]) == 0
    dataset = minari.load_dataset("own/strict-v0")
    env = dataset.recover_environment()
    assert dataset.action_space == env.action_space
    text = spaces.Box(0, 255, (5,), np.uint8)  # the bytes of the text
    expected = {**OWN, "a": spaces.Dict(b=OWN["a"]["b"], words=text), "text": spaces.Tuple([text, spaces.Discrete(2)])}
    assert dataset.observation_space == spaces.Dict(expected)
    for episode in dataset.iterate_episodes():
        env.reset(seed=0)
        assert [env.step(action)[2] for action in episode.actions] == [False] * 5 + [True]
        for step in range(7):
            shown = {key: at(value, step) for key, value in episode.observations.items()}
            assert dataset.observation_space.contains(shown), shown
    # and it is read again as what a policy sees
    again, shown = read_minari("own/strict-v0").space, GymAdapter(1, id="rmt-test/Strict-v0").single_observation_space
    assert {name: (part.shape, part.dtype) for name, part in again.items()} == {
        name: (part.shape, part.dtype) for name, part in shown.items()
    }


def at(value: Any, step: int) -> Any:
    """One step of recorded observations."""
    if isinstance(value, dict):
        return {key: at(part, step) for key, part in value.items()}
    if isinstance(value, tuple):
        return tuple(at(part, step) for part in value)
    return value[step]


def test_restored_observations_are_those_of_the_environment() -> None:
    space = spaces.Dict({key: OWN[key] for key in ("kind", "small", "two")})
    translation = Translation(space)
    for _ in range(20):
        shown = space.sample()
        restored = translation.restore(translation(shown))
        assert space.contains(restored)
        assert json.dumps(restored, default=lambda x: x.tolist()) == json.dumps(shown, default=lambda x: x.tolist())


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_an_environment_that_no_file_can_name_is_recorded_without_its_spec() -> None:
    class Local(Strict):
        pass

    gymnasium.register("rmt-test/Local-v0", Local, disable_env_checker=True)
    arguments = ["policy=random", "env=gym", "env.id=rmt-test/Local-v0", "out=own/local-v0", "episodes=1"]
    assert collect.main(arguments) == 0
    assert minari.load_dataset("own/local-v0").env_spec is None
    del gymnasium.registry["rmt-test/Local-v0"]


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_a_saved_policy_knows_where_the_actions_of_its_environment_start(tmp_path: Path) -> None:
    env = GymAdapter(2, id="rmt-test/Strict-v0")
    save_policy(
        make_policy(rmt_rl.envs.registry.wrap(env, config.MemoryConfig(scope="trial")), "mlp", width=16), tmp_path / "p"
    )
    policy = load_policy(tmp_path / "p")
    assert policy.spec.action_start == 5
    saved = json.loads((tmp_path / "p/config.json").read_text())
    del saved["spec"]["action_start"]  # a file of an earlier version
    (tmp_path / "p/config.json").write_text(json.dumps(saved))
    (tmp_path / "p/sha256.json").unlink()
    assert load_policy(tmp_path / "p").spec.action_start == 0


@pytest.mark.parametrize("deterministic", [False, True])
def test_actions_of_a_policy_are_inside_their_bounds(deterministic: bool) -> None:
    env = rmt_rl.make_env("gym", 64, id="Pendulum-v1")
    policy = make_policy(env, "mlp", width=16, previous_action=True)
    policy.head.linear.bias.data += 0.9
    obs, state = env.reset(seed=0)[0], policy.initial_state(64)
    generator = torch.Generator().manual_seed(0)
    action, state = policy.act(obs, state, torch.ones(64, dtype=torch.bool), deterministic, generator)
    assert bool((action.abs() <= 2).all())
    assert deterministic or float(action.max()) == 2.0
    assert torch.equal(state.action, action)


@pytest.mark.slow
def test_io_json_says_the_start_and_the_bounds_of_actions(tmp_path: Path) -> None:
    for name, options, expected in (
        ("whole", {}, {"start": 5}),
        ("real", {"continuous": True}, {"low": pytest.approx(-0.1), "high": pytest.approx(0.1)}),
    ):
        env = GymAdapter(2, id="rmt-test/Strict-v0", options=options)
        policy = make_policy(env, "mlp", width=16)
        policy.head.linear.bias.data += 9.0
        export(policy, tmp_path / name, 2, onnx=False)
        described = json.loads((tmp_path / name / "io.json").read_text())
        action = described["outputs"][0]
        assert {key: action[key] for key in expected} == expected
        inputs = [torch.zeros(each["shape"], dtype=getattr(torch, each["dtype"])) for each in described["inputs"]]
        program = torch.export.load(tmp_path / name / "step.pt2").module()
        with torch.no_grad():
            action = program(*inputs)[0]
        assert float(action.max()) <= (2 if name == "whole" else 0.1001)
