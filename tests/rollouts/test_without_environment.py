"""Offline training from a dataset alone (env=none), and from a dataset that names its own task."""

from __future__ import annotations

import dataclasses
import json
import warnings
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
import yaml
from gymnasium import spaces

import rmt_rl
from rmt_rl import collect, evaluate, export, play, train
from rmt_rl.common.errors import ConfigError
from rmt_rl.config.cli import parse
from rmt_rl.config.envs import GymConfig, NoEnvConfig, TMazeRATEConfig
from rmt_rl.config.help import help_text

minari = pytest.importorskip("minari")
from minari.data_collector import EpisodeBuffer  # noqa: E402

SMALL = ["algo=rate", "policy=lstm", "policy.width=8", "algo.batch=2", "steps=40"]


def write(id: str, space: spaces.Space, actions: spaces.Space, **metadata: Any) -> None:
    """Two episodes of three steps with random observations and actions."""
    space.seed(0)
    actions.seed(0)
    episodes = [
        EpisodeBuffer(
            observations=np.array([space.sample() for _ in range(4)]),
            actions=np.array([actions.sample() for _ in range(3)]),
            rewards=np.ones(3),
            terminations=[False, False, True],
            truncations=[False] * 3,
            infos={},
        )
        for _ in range(2)
    ]
    about = {"author": "x", "author_email": "x", "code_permalink": "x", "algorithm_name": "x", "description": "x"}
    with warnings.catch_warnings():  # about the environment that is not given
        warnings.simplefilter("ignore", UserWarning)
        made = minari.create_dataset_from_buffers(id, episodes, observation_space=space, action_space=actions, **about)
    made.storage.update_metadata(metadata)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder with the datasets of these tests, and the runs on them."""
    folder = tmp_path_factory.mktemp("offline")
    spec = gymnasium.spec("CartPole-v1").to_json()
    cartpole = gymnasium.make("CartPole-v1")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MINARI_DATASETS_PATH", str(folder))
        write("logged/alone-v0", spaces.Box(-1, 1, (2,), np.float32), spaces.Discrete(3, start=5))
        write("logged/cartpole-v0", spaces.Box(-2, 2, (4,), np.float32), cartpole.action_space, env_spec=spec)
        module = json.dumps(json.loads(spec) | {"id": "strange_module:CartPole-v1"})
        write("logged/module-v0", spaces.Box(-2, 2, (4,), np.float32), cartpole.action_space, env_spec=module)
        ours = ["env=tmaze-rate", "env.length=5", "env.min_length=2", "out=tmaze/oracle-v0", "episodes=6"]
        assert collect.main(ours) == 0
    return folder


@pytest.fixture(autouse=True)
def here(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(place))
    monkeypatch.chdir(place)


@pytest.fixture(scope="module")
def trained(place: Path) -> Path:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MINARI_DATASETS_PATH", str(place))
        patch.chdir(place)
        assert train.main([*SMALL, "env=none", "data=logged/alone-v0", "run=alone"]) == 0
    return place / "runs" / "alone"


def test_a_dataset_alone_trains_a_policy_that_loads_and_acts(trained: Path) -> None:
    policy = rmt_rl.load_policy(trained)
    assert policy.spec.env == NoEnvConfig() and policy.spec.action_start == 5
    obs = {"observation": torch.zeros(3, 2), "return_to_go": torch.full((3, 1), 3.0)}
    action, _ = policy.act(obs, policy.initial_state(3), torch.ones(3, dtype=torch.bool))
    assert action.shape == (3,) and policy.spec.action_space == spaces.Discrete(3)


def test_a_run_without_an_environment_says_that_nothing_is_evaluated(
    place: Path, trained: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = place / "logged" / "alone-v0"
    assert train.main([*SMALL, "env=none", f"data={folder}", "algo.returns=false", "run=folder"]) == 0
    text = capsys.readouterr().out
    assert "recorded episodes alone; no evaluation, so no success, no return and no floor" in text
    assert "not evaluated (env=none has no environment)" in text and "policy=runs/folder env=<a task>" in text
    result = json.loads((place / "runs" / "folder" / "result.json").read_text())
    assert (result["eval"], result["best"], result["floor"], result["interrupted"]) == (None, None, None, False)
    assert yaml.safe_load((trained / "config.yaml").read_text())["env"] == {"name": "none"}


def test_a_run_without_an_environment_continues_with_more_steps(place: Path) -> None:
    assert train.main([*SMALL, "env=none", "data=logged/alone-v0", "run=longer"]) == 0
    assert train.main(["resume=runs/longer", "steps=60"]) == 0
    assert json.loads((place / "runs" / "longer" / "result.json").read_text())["steps"] >= 60


@pytest.mark.parametrize("command", [evaluate, play, collect])
def test_a_policy_without_an_environment_needs_one_to_act_in(
    command: Any, trained: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = {collect: ["out=new/one-v0"], play: ["out=one.gif"]}.get(command, [])
    assert command.main([f"policy={trained}", *out]) == 2
    found = capsys.readouterr().err
    assert found.startswith("error: env=none: the policy was trained on recorded episodes alone; expected env=<a task>")
    assert command.main([f"policy={trained}", "env=tmaze", *out]) == 2
    found = capsys.readouterr().err
    assert " space differs " in found
    assert "expected an environment with the spaces of the data that it learned from" in found
    assert found.count("\n") == 1


def test_a_policy_without_an_environment_is_evaluated_in_one_that_fits(place: Path) -> None:
    task = {"env": "tmaze-rate", "env.length": 4, "env.min_length": 2}
    given = {"algo": "rate", "policy": "lstm", "policy.width": 8, "steps": 20, "run": "fits"}
    result = rmt_rl.train(env="none", data="tmaze/oracle-v0", root=place / "runs", **given)
    assert result.score is None
    with pytest.raises(ConfigError, match=r"^env=none: the policy was trained on recorded episodes alone"):
        rmt_rl.evaluate(result.policy, episodes=3)
    assert rmt_rl.evaluate(result.folder, episodes=3, **task).episodes == 3


@pytest.mark.slow
def test_a_policy_without_an_environment_is_exported(trained: Path, tmp_path: Path) -> None:
    assert export.main([f"policy={trained}", f"out={tmp_path / 'program'}"]) == 0


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("env=none", "env=none: algo=ppo acts in an environment; expected algo=rate with data=<a Minari dataset>"),
        ("env=none algo=rate", "env=none: there are no episodes to learn from; expected data=<"),
        ("env=none algo=rate data=a/b-v0 evaluate_episodes=5", "evaluate_episodes=5: env=none has no environment"),
        ("env=none algo=rate data=a/b-v0 evaluate_every=5", "evaluate_every=5: env=none has no environment"),
        ("env=none algo=rate data=a/b-v0 episode_steps=5", "episode_steps=5: env=none has no environment"),
        ("env=none algo=rate data=a/b-v0 env.length=5", "env.length=5: env=none has no such option, it has none"),
        (
            "algo=rate data=nowhere/b-v0",
            "data=nowhere/b-v0: no Minari dataset is there; local ones are logged/alone-v0",
        ),
        (
            "algo=rate data=logged/alone-v0",
            "data=logged/alone-v0: its metadata.json names no environment; give env=<the",
        ),
        ("algo=rate data=logged/module-v0", "names the module strange_module, and importing it can run any code"),
    ],
)
def test_a_mistake_about_the_environment_of_data_is_one_sentence(line: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse(line.split())
    assert message in str(caught.value) and "\n" not in str(caught.value)


def test_an_environment_that_none_stands_for_cannot_be_made() -> None:
    with pytest.raises(ConfigError, match=r"^env=none: there is no environment to act in"):
        rmt_rl.make_env("none")
    with pytest.raises(ConfigError, match=r"^env=none: is registered already"):
        rmt_rl.register_env("none", dataclasses.make_dataclass("Own", [], bases=(rmt_rl.EnvConfig,), frozen=True))(
            object
        )
    assert help_text(argv=["env=none"]).startswith("env=none: No environment")


def test_data_alone_choose_their_own_task_with_its_options(place: Path) -> None:
    config = parse(["algo=rate", "data=tmaze/oracle-v0"])
    assert config.env == TMazeRATEConfig(length=5, min_length=2)
    assert parse(["algo=rate", "data=tmaze/oracle-v0", "env.length=9"]).env == TMazeRATEConfig(length=9, min_length=2)
    assert rmt_rl.make_config(algo="rate", data="tmaze/oracle-v0") == config
    assert parse(["algo=rate", "data=logged/cartpole-v0"]).env == GymConfig(id="CartPole-v1")
    (place / "o.yaml").write_text("algo: rate\ndata: tmaze/oracle-v0\nenv: {length: 7}\n")
    assert parse(["config=o.yaml"]).env == TMazeRATEConfig(length=7, min_length=2)
    assert parse(["algo=rate"]).env.name == "minigrid-memory"  # without data nothing changes


def test_a_task_of_gymnasium_that_stands_for_one_of_this_package_is_that_one() -> None:
    spec = json.dumps({"id": "rmt_rl/TMaze-v0", "kwargs": {"name": "tmaze", "length": 4}})
    write("logged/ours-v0", spaces.Box(-1, 1, (2,), np.float32), spaces.Discrete(4), env_spec=spec)
    env = parse(["algo=rate", "data=logged/ours-v0"]).env
    assert (env.name, env.length) == ("tmaze", 4)


def test_options_of_a_recorded_task_that_this_version_does_not_know_name_the_dataset() -> None:
    task = {"env": {"name": "tmaze-rate", "colour": 3}}
    write("logged/odd-v0", spaces.Box(-1, 1, (2,), np.float32), spaces.Discrete(4), rmt_rl=task)
    with pytest.raises(ConfigError, match=r"^data=logged/odd-v0: metadata.json: env.colour=3: .*no such option"):
        parse(["algo=rate", "data=logged/odd-v0"])
    other = {"env": {"name": "no-such-task"}}
    write("logged/other-v0", spaces.Box(-1, 1, (2,), np.float32), spaces.Discrete(4), rmt_rl=other)
    with pytest.raises(ConfigError, match=r"^data=logged/other-v0: its task no-such-task is not registered"):
        parse(["algo=rate", "data=logged/other-v0"])


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("env=tmaze data=tmaze/oracle-v0", "was recorded in env=tmaze-rate, but env=tmaze is given; leave env= out"),
        (
            "env=gym env.id=Acrobot-v1 data=logged/cartpole-v0",
            "was recorded in env=gym env.id=CartPole-v1, but env=gym env.id=Acrobot-v1 is given",
        ),
    ],
)
def test_a_task_that_contradicts_the_data_is_one_sentence(
    line: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert train.main([*SMALL, *line.split()]) == 2
    found = capsys.readouterr().err
    assert message in found and found.count("\n") == 1


def test_a_run_may_end_without_an_evaluation(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ["env=tmaze", "policy=lstm", "policy.width=8", "steps=64", "algo.num_envs=4", "algo.rollout=16"]
    assert train.main([*options, "evaluate_episodes=0", "evaluate_every=64", "validation_episodes=4", "run=quick"]) == 0
    text = capsys.readouterr().out
    assert "not evaluated (evaluate_episodes=0)" in text and "stopped early" not in text and "resume=" not in text
    result = json.loads((place / "runs" / "quick" / "result.json").read_text())
    assert result["eval"] is None and result["best"] == {"steps": 64, "eval": None}
