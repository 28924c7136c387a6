"""From a player to a dataset, from the dataset to a policy, and from that to online training, as a user types it."""

import errno
import json
import math
import re
import shutil
from pathlib import Path
from types import SimpleNamespace

import minari
import pytest
import torch

from rmt_rl import collect, config
from rmt_rl.algos.data import load
from rmt_rl.common.errors import ConfigError
from rmt_rl.config.cli import parse
from rmt_rl.policies.saving import load_policy, make_task
from rmt_rl.train import train

TASK = ["env=tmaze-rate", "env.length=5", "env.min_length=2"]


@pytest.fixture(scope="module")
def datasets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("datasets")


@pytest.fixture(autouse=True)
def there(datasets: Path, monkeypatch: pytest.MonkeyPatch) -> None:
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
        result = train(parse([*TASK, *options]), root)
    assert {"validation_loss", "validation_loss_kept"} <= result.keys()
    return root / "rate"


def test_what_is_recorded_is_a_dataset_for_everybody_with_its_numbers_beside_it(recorded: Path) -> None:
    dataset = minari.load_dataset("tmaze/oracle-v0")
    assert dataset.total_episodes == 70
    lengths = [len(episode.rewards) for episode in dataset.iterate_episodes()]
    assert set(lengths) == {3, 4, 5, 6} and dataset.total_steps == sum(lengths)
    told = json.loads((recorded / "data" / "metadata.json").read_text())["rmt_rl"]
    assert told["success"] == told["return_mean"] == 1.0 and told["env"]["length"] == 5
    data = load(
        config.TrainConfig(
            env=config.TMazeRATEConfig(length=5, min_length=2), algo=config.RATEConfig(), data="tmaze/oracle-v0"
        )
    )
    assert len(data) == 70
    assert (
        load(
            config.TrainConfig(env=config.TMazeRATEConfig(), algo=config.RATEConfig(), data=str(recorded))
        ).length.tolist()
        == lengths
    )


def test_nothing_is_written_over_and_nothing_is_left_of_what_failed(
    recorded: Path, datasets: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    before = sorted(str(path) for path in datasets.rglob("*"))
    assert collect.main([*TASK, "out=tmaze/oracle-v0", "episodes=3"]) == 2
    assert "exists already and is not written over" in capsys.readouterr().err
    assert collect.main(["env=bandit", "out=bandit/oracle-v0"]) == 2
    assert "has no oracle" in capsys.readouterr().err
    for odd in ("no spaces allowed", "noversion", "x" * 300 + "-v0"):
        assert collect.main([*TASK, f"out={odd}"]) == 2
        assert "expected a Minari id such as tmaze/oracle-v0" in capsys.readouterr().err
    assert collect.main([*TASK, "out=tmaze/oracle-v0/inner-v0"]) == 2
    assert "is no folder for datasets" in capsys.readouterr().err

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("rmt_rl.rollouts.episodes.record", lambda *_: (interrupted() for _ in range(1)))
    assert collect.main([*TASK, "out=tmaze/other-v0", "episodes=3"]) == 130
    assert sorted(str(path) for path in datasets.rglob("*")) == before


def test_a_disk_without_room_ends_a_recording_in_one_sentence(
    datasets: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Asked before, since HDF5 may end the process; and where somebody else was faster, HDF5's own complaint."""
    out = ["policy=oracle", "out=full/oracle-v0", "episodes=8"]
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "disk_usage", lambda folder: SimpleNamespace(free=8 * 32 * 1024))
        assert collect.main([*TASK, *out]) == 2
    assert re.search(r"cannot be written: \S+ has room for 262,144 bytes, needed are 26\d,\d+", capsys.readouterr().err)

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


def test_a_policy_and_a_random_player_are_recorded_too(datasets: Path, tmp_path: Path) -> None:
    train(parse([*TASK, "algo.num_envs=8", "steps=200", "evaluate_episodes=4", "run=ppo"]), tmp_path)
    assert collect.main([f"policy={tmp_path / 'ppo'}", "out=tmaze/ppo-v0", "episodes=5"]) == 0
    assert collect.main(["policy=random", "env=minigrid-memory", "out=minigrid/random-v0", "episodes=3"]) == 0
    found = minari.load_dataset("minigrid/random-v0")
    assert sorted(found.observation_space) == ["direction", "image"] and found.total_episodes == 3


def test_a_policy_that_is_asked_for_returns_knows_what_for(trained: Path) -> None:
    policy = load_policy(trained)
    assert policy.spec["returns"] == {
        "name": "returns",
        "target": 1.0,
        "low": 0.0 + policy.spec["returns"]["low"],
        "high": 1.0,
    }
    env = make_task(policy, rows=2, target_return=0.5)
    obs, _ = env.reset(seed=0)
    assert obs["return_to_go"].tolist() == [[0.5], [0.5]]
    action, _ = policy.act(obs, policy.initial_state(2), torch.ones(2, dtype=torch.bool), deterministic=True)
    assert action.shape == (2,)


def test_a_request_beyond_the_data_is_told_and_one_that_is_no_number_refused(trained: Path) -> None:
    policy = load_policy(trained)
    assert make_task(policy, target_return=7.0).task.endswith(
        "a return of 7, beyond the 0 to 1 that the policy was trained on"
    )
    assert make_task(policy, target_return=0.5).task.endswith("asked for a return of 0.5")
    for wrong in (math.nan, math.inf, 1e300, "0.5"):
        with pytest.raises(ConfigError, match="expected a number from -1e\\+12 to 1e\\+12"):
            make_task(policy, target_return=wrong)  # type: ignore[arg-type]


def test_an_offline_policy_is_where_online_training_begins(trained: Path, tmp_path: Path) -> None:
    options = [*TASK, f"init={trained}", "algo.num_envs=8", "evaluate_episodes=4"]
    train(parse([*options, "algo.learning_rate=1e-12", "steps=1", "run=on"]), tmp_path)
    before, after = load_policy(trained).state_dict(), load_policy(tmp_path / "on").state_dict()
    assert all(torch.allclose(before[name], after[name], atol=1e-6) for name in before)
    assert load_policy(tmp_path / "on").spec["returns"] == load_policy(trained).spec["returns"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["init=runs/x", "policy=lstm"], "policy=lstm: the policy of init brings its own options"),
        (["init=runs/x", "policy.width=32"], "policy.width=32: the policy of init brings its own options"),
        (["data=tmaze/oracle-v0"], "data=tmaze/oracle-v0: means nothing with algo=ppo"),
        (["algo=rate", "memory.scope=trial"], "memory.scope=trial: algo=rate learns from single episodes"),
        (["algo=rate", "policy=lstm", "algo.detach_memory=true"], "which policy=lstm does not have"),
        (["algo=rate", "policy=gru", "algo.cut=varied"], "algo.cut=varied: is about segments"),
        (["algo=rate", "algo.returns=false", "algo.target_return=1"], "means nothing with algo.returns=false"),
        (
            ["algo=rate", "algo.detach_memory=true", "policy.bptt_segments=2"],
            "policy.bptt_segments: means nothing with",
        ),
        (["algo=rate", "algo.num_envs=8"], "algo=rate has no such option"),
    ],
)
def test_what_means_nothing_is_refused(options: list[str], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse([*TASK, *options])
    assert message in str(caught.value)


def test_a_policy_of_another_task_or_without_returns_is_no_beginning(trained: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="its observation space differs from the one that the policy was trained on"):
        train(parse(["env=tmaze", f"init={trained}", "steps=1"]), tmp_path)
    with pytest.raises(ConfigError, match="init=nowhere: no such folder"):
        train(parse([*TASK, "init=nowhere"]), tmp_path)
    with pytest.raises(
        ConfigError, match=r"memory.scope=run: the policy of init remembers otherwise; expected memory.scope=episode"
    ):
        train(parse([*TASK, "memory.scope=run", f"init={trained}"]), tmp_path)
    assert parse([*TASK, "init=null", "policy=lstm"]).policy.name == "lstm"
    with pytest.raises(ConfigError, match="the policy of init was asked for returns before"):
        train(parse([*TASK, "algo=rate", "algo.returns=false", f"init={trained}"]), tmp_path)
