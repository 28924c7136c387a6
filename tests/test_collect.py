"""From recorded episodes to a dataset, an offline policy and online training, as a user types it."""

import dataclasses
import errno
import json
import math
import re
import shutil
from pathlib import Path
from types import SimpleNamespace

import minari
import numpy as np
import pytest
import torch

import rmt_rl
from rmt_rl import collect, config
from rmt_rl.algos.rate import RATELearner
from rmt_rl.common.errors import ConfigError
from rmt_rl.common.gymnasium_ids import task_spec
from rmt_rl.config.cli import parse
from rmt_rl.config.files import load_yaml
from rmt_rl.config.memory import MemoryConfig
from rmt_rl.policies.saving import load_policy, make_task
from rmt_rl.train import train

TASK = ["env=tmaze-rate", "env.length=5", "env.min_length=2"]


@pytest.fixture(scope="module")
def datasets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("datasets")


@pytest.fixture(autouse=True)
def minari_folder(datasets: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(datasets))


@pytest.fixture(scope="module")
def recorded(datasets: Path) -> Path:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MINARI_DATASETS_PATH", str(datasets))
        assert collect.main([*TASK, "out=tmaze/oracle-v0", "episodes=70", "num_envs=32"]) == 0
    return datasets / "tmaze" / "oracle-v0"


@pytest.fixture(scope="module")
def trained(recorded: Path, datasets: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("runs")
    options = ["algo=rate", "data=tmaze/oracle-v0", "algo.batch=8", "steps=2000", "evaluate_episodes=10", "run=rate"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MINARI_DATASETS_PATH", str(datasets))
        result = train(parse([*TASK, *options]), root=root).summary
    assert {"validation_loss", "validation_loss_kept"} <= result.keys()
    return root / "rate"


@pytest.mark.slow
def test_the_recording_is_a_minari_dataset_with_statistics_in_its_metadata(recorded: Path) -> None:
    dataset = minari.load_dataset("tmaze/oracle-v0")
    assert dataset.total_episodes == 70
    lengths = [len(episode.rewards) for episode in dataset.iterate_episodes()]
    assert set(lengths) == {3, 4, 5, 6} and dataset.total_steps == sum(lengths)
    stats = json.loads((recorded / "data" / "metadata.json").read_text())["rmt_rl"]
    assert stats["success"] == stats["return_mean"] == 1.0 and stats["env"]["length"] == 5
    for data in ("tmaze/oracle-v0", str(recorded)):
        run = config.make_config(env="tmaze-rate", algo="rate", data=data)
        assert RATELearner.load_data(run).length.tolist() == lengths


def test_nothing_is_overwritten_and_a_failed_recording_leaves_no_files(
    recorded: Path, datasets: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    before = sorted(str(path) for path in datasets.rglob("*"))
    assert collect.main([*TASK, "out=tmaze/oracle-v0", "episodes=3"]) == 2
    assert "exists already and is not overwritten" in capsys.readouterr().err
    assert collect.main(["env=bandit", "out=bandit/oracle-v0"]) == 2
    assert "has no oracle" in capsys.readouterr().err
    for odd in ("no spaces allowed", "noversion", "x" * 300 + "-v0"):
        assert collect.main([*TASK, f"out={odd}"]) == 2
        assert "expected a Minari id such as tmaze/oracle-v0" in capsys.readouterr().err
    assert collect.main([*TASK, "out=tmaze/oracle-v0/inner-v0"]) == 2
    assert "is not a folder for datasets" in capsys.readouterr().err
    (datasets / "file").write_text("")
    assert collect.main([*TASK, "out=file/oracle-v0"]) == 2
    assert f"{datasets / 'file'} is not a folder for datasets" in capsys.readouterr().err
    (datasets / "file").unlink()

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("rmt_rl.rollouts.episodes.record", lambda *_: (interrupted() for _ in range(1)))
    assert collect.main([*TASK, "out=tmaze/other-v0", "episodes=3"]) == 130
    assert sorted(str(path) for path in datasets.rglob("*")) == before


def test_a_full_disk_ends_a_recording_with_one_sentence(
    datasets: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Free space is checked first, since HDF5 may crash the process; HDF5's own error is reported, too."""
    out = ["policy=oracle", "out=full/oracle-v0", "episodes=8"]
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "disk_usage", lambda folder: SimpleNamespace(free=8 * 32 * 1024))
        assert collect.main([*TASK, *out]) == 2
    assert re.search(r"cannot be written: \S+ has 262,144 bytes free, 26\d,\d+ are needed", capsys.readouterr().err)

    def full(*arguments, **options):
        try:
            raise OSError(errno.ENOSPC, "file write failed")
        finally:
            raise RuntimeError("while closing")

    with monkeypatch.context() as patch:
        patch.setattr(minari, "create_dataset_from_buffers", full)
        assert collect.main([*TASK, *out]) == 2
    assert capsys.readouterr().err == "error: out=full/oracle-v0: cannot be written: No space left on device\n"
    assert not (datasets / "full").exists() and not list(datasets.glob(".recording-*"))


@pytest.mark.slow
def test_a_policy_and_random_actions_can_be_recorded(datasets: Path, tmp_path: Path) -> None:
    train(parse([*TASK, "algo.num_envs=8", "steps=200", "evaluate_episodes=4", "run=ppo"]), root=tmp_path)
    assert collect.main([f"policy={tmp_path / 'ppo'}", "out=tmaze/ppo-v0", "episodes=5"]) == 0
    assert collect.main(["policy=random", "env=minigrid-memory", "out=minigrid/random-v0", "episodes=3"]) == 0
    found = minari.load_dataset("minigrid/random-v0")
    assert sorted(found.observation_space) == ["direction", "image"] and found.total_episodes == 3


@pytest.mark.slow
def test_a_return_conditioned_policy_saves_its_target_and_bounds(trained: Path) -> None:
    policy = load_policy(trained)
    assert (policy.spec.returns.target, policy.spec.returns.high) == (1.0, 1.0)
    assert policy.spec.returns.low <= 0
    env = make_task(policy, rows=2, target_return=0.5)
    obs, _ = env.reset(seed=0)
    assert obs["return_to_go"].tolist() == [[0.5], [0.5]]
    action, _ = policy.act(obs, policy.initial_state(2), torch.ones(2, dtype=torch.bool), deterministic=True)
    assert action.shape == (2,)


@pytest.mark.slow
def test_a_target_return_beyond_the_data_is_reported_and_an_invalid_one_is_rejected(trained: Path) -> None:
    policy = load_policy(trained)
    assert make_task(policy, target_return=7.0).task.endswith("target return 7, outside the training range 0 to 1")
    assert make_task(policy, target_return=0.5).task.endswith("target return 0.5")
    for wrong in (math.nan, math.inf, 1e300, "0.5"):
        with pytest.raises(ConfigError, match="expected a number from -1e\\+12 to 1e\\+12"):
            make_task(policy, target_return=wrong)  # type: ignore[arg-type]


@pytest.mark.slow
def test_online_training_starts_from_the_weights_of_an_offline_policy(trained: Path, tmp_path: Path) -> None:
    options = [*TASK, f"init={trained}", "algo.num_envs=8", "evaluate_episodes=4"]
    train(parse([*options, "algo.learning_rate=1e-12", "steps=1", "run=on"]), root=tmp_path)
    before, after = load_policy(trained).state_dict(), load_policy(tmp_path / "on").state_dict()
    assert all(torch.allclose(before[name], after[name], atol=1e-6) for name in before)
    assert load_policy(tmp_path / "on").spec.returns == load_policy(trained).spec.returns


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["init=runs/x", "policy=lstm"], "policy=lstm: the policy of init comes with its own options"),
        (["init=runs/x", "policy.width=32"], "policy.width=32: the policy of init comes with its own options"),
        (["data=tmaze/oracle-v0"], "data=tmaze/oracle-v0: has no effect with algo=ppo"),
        (["algo=rate", "memory.scope=trial"], "memory.scope=trial: algo=rate learns from single episodes"),
        (["algo=rate", "policy=lstm", "algo.detach_memory=true"], "which policy=lstm does not have"),
        (["algo=rate", "policy=gru", "algo.cut=varied"], "algo.cut=varied: works on segments"),
        (["algo=rate", "algo.returns=false", "algo.target_return=1"], "has no effect with algo.returns=false"),
        (
            ["algo=rate", "algo.detach_memory=true", "policy.bptt_segments=2"],
            "policy.bptt_segments: has no effect with",
        ),
        (["algo=rate", "algo.num_envs=8"], "algo=rate has no such option"),
    ],
)
def test_options_without_effect_are_rejected(options: list[str], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse([*TASK, *options])
    assert message in str(caught.value)


@pytest.mark.slow
def test_init_with_a_policy_of_another_task_or_conditioning_is_rejected(trained: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="its observation space differs from the one that the policy was trained on"):
        train(parse(["env=tmaze", f"init={trained}", "steps=1"]), root=tmp_path)
    with pytest.raises(ConfigError, match="init=nowhere: no such folder"):
        train(parse([*TASK, "init=nowhere"]), root=tmp_path)
    with pytest.raises(
        ConfigError,
        match=r"memory.scope=run: the policy of init was trained with memory.scope=episode; expected the same",
    ):
        train(parse([*TASK, "memory.scope=run", f"init={trained}"]), root=tmp_path)
    assert parse([*TASK, "init=null", "policy=lstm"]).policy.name == "lstm"
    with pytest.raises(ConfigError, match="the policy of init is return-conditioned"):
        train(parse([*TASK, "algo=rate", "algo.returns=false", f"init={trained}"]), root=tmp_path)


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("task", [["tmaze", "env.min_length=2"], ["minigrid-memory", "env.size=7"], ["bandit"]])
def test_a_recorded_task_is_recovered_and_replays_its_episodes(task: list[str]) -> None:
    name, *options = task
    assert collect.main(["policy=random", f"env={name}", *options, f"out=recovered/{name}-v0", "episodes=2"]) == 0
    dataset = minari.load_dataset(f"recovered/{name}-v0")
    env = dataset.recover_environment()
    assert (env.observation_space, env.action_space) == (dataset.observation_space, dataset.action_space)
    seeds = [part["seed"] for part in dataset.storage.get_episode_metadata(dataset.episode_indices)]
    for episode, seed in zip(dataset.iterate_episodes(), seeds, strict=True):
        shown = [env.reset(seed=int(seed))[0]]
        rewards = []
        for action in episode.actions:
            obs, reward, *_ = env.step(action)
            shown.append(obs)
            rewards.append(reward)
        assert rewards == episode.rewards.tolist()
        expected = episode.observations
        for key in expected if isinstance(expected, dict) else [None]:
            found = [obs if key is None else obs[key] for obs in shown]
            assert np.array_equal(found, expected if key is None else expected[key])


def test_a_task_of_another_package_has_no_spec_that_a_file_could_name() -> None:
    assert task_spec({"name": "my-task"}) is None


def test_init_takes_what_training_does_with_the_memory_from_the_policy(tmp_path: Path) -> None:
    small = {"env.length": 3, "policy.width": 8, "steps": 256, "algo.num_envs": 4, "evaluate_episodes": 0}
    first = rmt_rl.train(env="tmaze", root=tmp_path, run="first", **small)
    small = {name: value for name, value in small.items() if not name.startswith("policy.")}
    own = load_yaml(first.folder / "config.yaml").memory  # type: ignore[attr-defined]
    # values that are the defaults, and some that fit only together with the policy's
    at_once = {"ramp": "steps", "ramp_start": 0.0, "ramp_end": 0.0}
    for number, (given, more) in enumerate(
        [
            ({}, {}),
            ({"carry": 0.1}, {}),
            ({"carry": 0.0}, {}),  # the cost of writing still rises
            ({"ramp_end": 0.9}, {}),
            ({"ramp_end": 0.5}, {"ramp_start": 0.5}),
            ({"ramp_start": 0.99}, {"ramp_end": 0.99}),
            ({"ramp": "steps"}, at_once),  # bounds that are successes are no shares of the run
            ({"ramp_end": 0.0}, at_once),
        ]
    ):
        typed = {f"memory.{name}": value for name, value in given.items()}
        run = rmt_rl.train(env="tmaze", init=str(first.folder), root=tmp_path, run=f"next-{number}", **small, **typed)
        config = load_yaml(run.folder / "config.yaml")
        assert config.policy.write_cost == 1.0  # type: ignore[attr-defined]
        assert config.memory == dataclasses.replace(own, **more | given)  # type: ignore[attr-defined]


def test_init_with_a_whole_memory_takes_nothing_of_it_from_the_policy(tmp_path: Path) -> None:
    small = {"env.length": 3, "steps": 256, "algo.num_envs": 4, "evaluate_episodes": 0}
    first = rmt_rl.train(env="tmaze", root=tmp_path, run="first", **small, **{"policy.width": 8})
    run = rmt_rl.train(env="tmaze", init=str(first.folder), root=tmp_path, run="next", memory=MemoryConfig(), **small)
    assert load_yaml(run.folder / "config.yaml").memory == MemoryConfig()  # type: ignore[attr-defined]


def test_a_ramp_that_does_not_fit_the_policy_of_init_is_refused(tmp_path: Path) -> None:
    small = {"env.length": 3, "steps": 256, "algo.num_envs": 4, "evaluate_episodes": 0}
    first = rmt_rl.train(env="tmaze", root=tmp_path, run="first", **small, **{"policy.width": 8})
    wrong = {"memory.ramp_start": 0.97, "memory.ramp_end": 0.96}
    with pytest.raises(ConfigError, match=r"memory.ramp_start=0.97: expected at most memory.ramp_end=0.96"):
        rmt_rl.train(env="tmaze", init=str(first.folder), root=tmp_path, **small, **wrong)


def test_init_brings_how_long_its_memory_lasts_and_a_ramp_only_where_something_rises(tmp_path: Path) -> None:
    small = {"env.length": 3, "steps": 256, "algo.num_envs": 4, "evaluate_episodes": 0}
    carry = {"memory.carry": 0.8, "memory.ramp_end": 0.5, "memory.scope": "trial", "memory.episodes": 2}
    first = rmt_rl.train(env="tmaze", policy="gru", root=tmp_path, run="first", **small, **carry)
    run = rmt_rl.train(env="tmaze", init=str(first.folder), root=tmp_path, run="next", **small, **{"memory.carry": 0})
    found = load_yaml(run.folder / "config.yaml").memory  # type: ignore[attr-defined]
    assert found == MemoryConfig(scope="trial", episodes=2)
    with pytest.raises(ConfigError, match=r"memory.episodes=3: the policy of init was trained with memory.episodes=2"):
        rmt_rl.train(env="tmaze", init=str(first.folder), root=tmp_path, **small, **{"memory.episodes": 3})
