"""Mistakes that new users make are one sentence with what to write instead."""

import importlib
import sys
from pathlib import Path

import pytest
import torch
from commands import run

import rmt_rl
from rmt_rl.common.errors import ConfigError
from rmt_rl.common.finite import NotFinite
from rmt_rl.config.algos import PPOConfig
from rmt_rl.config.cli import parse
from rmt_rl.config.files import check_format
from rmt_rl.rollouts.minari_reader import read_minari
from rmt_rl.runs import metrics
from rmt_rl.train import main

EXPERIMENTS = Path(__file__).parent.parent / "experiments"
TINY = ["policy.width=16", "algo.num_envs=4", "algo.rollout=8", "algo.minibatches=2", "steps=64", "evaluate_episodes=2"]


@pytest.mark.parametrize(
    ("argument", "hint"),
    [
        ("env=CartPole-v1", "did you mean env=gym env.id=CartPole-v1?"),
        ("env=CartPol-v1", "did you mean env=gym env.id=CartPole-v1?"),
        ("env.id=CartPol-v1", "did you mean env=gym env.id=CartPole-v1?"),
        ("env=Unheard-v1", "did you mean env=gym env.id=Unheard-v1?"),
        ("env=my_module:Mine-v3", "did you mean env=gym env.id=my_module:Mine-v3?"),
        ("env=MiniGrid-DoorKey-8x8-v0", "did you mean env=gym env.id=MiniGrid-DoorKey-8x8-v0?"),
        ("env.id=CartPole-v1", "did you mean env=gym env.id=CartPole-v1?"),
        ("lr=0.1", "did you mean algo.learning_rate?"),
        ("policy.lr=0.1", "did you mean algo.learning_rate?"),
        ("policy.learning_rate=0.1", "did you mean algo.learning_rate?"),
        ("algo.lr=0.1", "did you mean algo.learning_rate?"),
        ("features_extractor_class=deep", "did you mean policy.encoder?"),
        ("info_keywords=distance", "did you mean metrics?"),
        ("env.seed=1", "did you mean seed?"),
        ("algo.steps=100", "did you mean steps?"),
        ("policy.gamma=1", "did you mean algo.gamma?"),
    ],
)
def test_a_name_of_another_place_or_library_is_answered_with_ours(argument, hint) -> None:
    with pytest.raises(ConfigError) as caught:
        parse([argument])
    assert str(caught.value).endswith(hint)


@pytest.mark.slow
def test_a_name_of_a_run_that_is_no_formula_is_drawn_as_it_is(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["env=tmaze", "policy=mlp", *TINY, "run=$^$"]) == 0
    assert (tmp_path / "runs/$^$/report/learning_curve.png").exists()


@pytest.mark.parametrize("version", ["2", None, 0, -1, True, 1.5])
def test_a_version_that_is_none_is_not_called_newer(version) -> None:
    with pytest.raises(ConfigError, match=r"expected a whole number from 1 to 2$"):
        check_format(version)
    with pytest.raises(ConfigError, match="a newer rmt_rl wrote the file"):
        check_format(3)


@pytest.mark.parametrize("form", [("a colour", "red|("), ("a colour",), "red", ("a colour", None)], ids=repr)
def test_the_form_of_an_option_must_be_words_and_a_regular_expression(form) -> None:
    with pytest.raises(
        ConfigError, match=r"^option\(form=.*expected what the text looks like, in words and as a regular"
    ):
        rmt_rl.option("red", "a colour", form=form)


@pytest.mark.parametrize("rows", [-1, 1.5, "two", True, None])
def test_a_number_of_rows_that_is_none_is_rejected_by_initial_state(rows) -> None:
    policy = rmt_rl.make_policy(rmt_rl.make_env("tmaze", 2), "lstm", width=8)
    with pytest.raises(ValueError, match=r"^initial_state\(.*\): expected a number of rows"):
        policy.initial_state(rows)


def test_a_root_that_is_no_folder_is_rejected_before_the_run() -> None:
    with pytest.raises(ConfigError, match=r"^root=None: expected the folder in which"):
        rmt_rl.train(env="tmaze", root=None)


def test_a_device_that_holds_no_numbers_is_rejected() -> None:
    with pytest.raises(ConfigError, match=r"^device=meta: "):
        rmt_rl.make_env("tmaze", 2, device="meta")


@pytest.mark.parametrize("other", [{"policy": "gru"}, {"policy": "lstm", "width": 16}, {"policy": "rmt", "width": 8}])
def test_a_rollout_of_another_policy_is_rejected_by_ppo(other) -> None:
    env = rmt_rl.make_env("tmaze", 4, length=3)
    ours = rmt_rl.make_policy(env, "lstm", width=8)
    rollout, _ = rmt_rl.Collector(env, rmt_rl.make_policy(env, **{"width": 8} | other)).collect(4)
    with pytest.raises(ConfigError, match=r"^PPO.update: the rollout was collected with another policy"):
        rmt_rl.PPO(ours, PPOConfig(num_envs=4, minibatches=2)).update(rollout, 0.0)


def test_a_constant_auxiliary_loss_of_nan_ends_the_update(monkeypatch) -> None:
    """Its gradients are finite: none reaches a parameter."""
    env = rmt_rl.make_env("tmaze", 4, length=3)
    policy = rmt_rl.make_policy(env, "lstm", width=8)
    unroll = policy.unroll_with_losses
    monkeypatch.setattr(policy, "unroll_with_losses", lambda *a: (*unroll(*a)[:3], {"x": torch.tensor(float("nan"))}))
    rollout, _ = rmt_rl.Collector(env, policy).collect(4)
    before = {name: value.clone() for name, value in policy.state_dict().items()}
    with pytest.raises(NotFinite, match="the loss is nan, from auxiliary/x"):
        rmt_rl.PPO(policy, PPOConfig(num_envs=4, minibatches=2)).update(rollout, 0.0)
    assert all(torch.equal(value, before[name]) for name, value in policy.state_dict().items())


def test_the_file_of_a_dataset_is_not_taken_for_its_id(tmp_path) -> None:
    (tmp_path / "main_data").write_text("")
    for name in ("x.hdf5", str(tmp_path / "main_data")):
        with pytest.raises(
            ConfigError, match="is the name of a file; expected the id of a local Minari dataset or its"
        ):
            read_minari(name)


def test_wandb_without_a_login_is_rejected_before_the_folder_is_made(monkeypatch, tmp_path) -> None:
    class Api:
        api_key = None

    class Wandb:
        api = Api

    monkeypatch.setitem(sys.modules, "wandb", Wandb)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: Wandb)
    for name in ("WANDB_MODE", "WANDB_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(
        ConfigError, match="wandb=true: nobody is logged in to Weights & Biases here; type `wandb login`"
    ):
        rmt_rl.train(env="tmaze", wandb=True, root=tmp_path)
    assert not list(tmp_path.iterdir())
    monkeypatch.setenv("WANDB_MODE", "offline")
    metrics.check_loggers(False, True)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("script", "package", "install"),
    [
        ("peers/lucidrains_rmt.py", "recurrent_memory_transformer_pytorch", "recurrent-memory-transformer-pytorch"),
        ("peers/sb3_recurrent.py", "stable_baselines3", "sb3-contrib"),
        ("reliability/peers_sample_factory.py", "sample_factory", "sample-factory"),
        ("speed/bench_jax_envs.py", "gymnax", "gymnax xminigrid jax"),
        ("speed/bench_envs.py", "minigrid", "minigrid"),
    ],
)
def test_an_experiment_names_the_package_that_it_lacks(script, package, install, tmp_path) -> None:
    path = str(EXPERIMENTS / script)
    code = f"import runpy, sys; sys.modules[{package!r}] = None; runpy.run_path({path!r}, run_name='__main__')"
    done = run("-c", code, cwd=tmp_path)
    name = f"this script needs the package {package}"
    assert done.returncode == 1 and done.stderr.strip().startswith(name), done.stderr
    assert done.stderr.strip().endswith(f"which is not installed; pip install {install}")


LONG = "a" * 300


@pytest.mark.parametrize(
    ("command", "words"),
    [
        ("compare", [f"report={LONG}"]),
        ("compare", ["env=tmaze", "policy=mlp", f"out={LONG}"]),
        ("tune", ["env=tmaze", "policy=mlp", "algo.gamma=0.9,0.99", f"out={LONG}"]),
        ("memory", ["policy=zoo:tmaze-rmt", f"out={LONG}"]),
        ("export", ["policy=zoo:tmaze-rmt", f"out={LONG}"]),
        ("play", ["policy=random", "env=tmaze", f"out={LONG}.gif"]),
        ("play", ["policy=random", "env=tmaze", f"out={LONG}/x.gif"]),
        ("zoo.__main__", ["add=runs/x", f"name={LONG}"]),
        ("train", ["algo=rate", f"data={LONG}"]),
    ],
)
def test_a_path_that_is_too_long_is_one_sentence(command, words, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert importlib.import_module(f"rmt_rl.{command}").main(words) == 2
    text = capsys.readouterr().err
    assert text.startswith("error: ") and text.count("\n") == 1 and list(tmp_path.iterdir()) == []


@pytest.mark.skipif(not Path("/proc/self").is_dir(), reason="needs a folder in which not even root can make a file")
@pytest.mark.parametrize("command", ["memory", "play", "export"])
def test_an_output_that_cannot_be_made_is_refused_before_the_work_for_it(command, capsys, monkeypatch):
    monkeypatch.setattr("rmt_rl.policies.actor_critic.ActorCritic.act", None)  # nothing may act
    words = ["policy=zoo:tmaze-rmt", "out=/proc/folder/x.gif"]
    assert importlib.import_module(f"rmt_rl.{command}").main(words) == 2
    assert "out=/proc/folder/x.gif: cannot be made: /proc takes no files" in capsys.readouterr().err


def test_a_link_that_leads_nowhere_is_not_overwritten(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name, command in (("a.gif", "play"), ("b", "export"), ("c", "memory")):
        Path(name).symlink_to("nowhere")
        policy = "random" if command == "play" else "zoo:tmaze-rmt"
        words = [f"policy={policy}", f"out={name}", *(["env=tmaze"] if command == "play" else [])]
        assert importlib.import_module(f"rmt_rl.{command}").main(words) == 2
        assert f"out={name}: exists already and is not overwritten" in capsys.readouterr().err
