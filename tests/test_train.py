"""The command line from end to end, in processes of its own, as a user types it; most are forked (commands.py)."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import commands
import gymnasium
import pytest

import rmt_rl
from rmt_rl.common.errors import ConfigError
from rmt_rl.config.cli import parse
from rmt_rl.runs.signals import OnSignal
from rmt_rl.train import train

TINY = ["env=tmaze", "env.length=3", "algo.num_envs=8", "algo.rollout=12", "steps=200", "evaluate_episodes=20"]


def new_python(name, *arguments, cwd, env=None):
    """Not forked: a Python that starts and imports as a user's does."""
    return subprocess.run(
        [sys.executable, "-m", f"rmt_rl.{name}", *arguments],
        cwd=cwd,
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1", **(env or {})},
        timeout=300,
    )


def run(name, *arguments, cwd):
    done = commands.run("-m", f"rmt_rl.{name}", *arguments, cwd=cwd)
    return done.returncode, done.stdout, done.stderr


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("work")
    done = new_python("train", *TINY, "run=first", cwd=folder)
    assert done.returncode == 0, done.stderr
    return folder, done.stdout, done.stderr


@pytest.mark.slow
def test_a_run_writes_all_its_files(trained):
    folder, _, _ = trained
    files = {
        str(path.relative_to(folder / "runs/first")) for path in (folder / "runs/first").rglob("*") if path.is_file()
    }
    assert {
        "config.yaml",
        "metrics.jsonl",
        "policy/config.json",
        "policy/model.safetensors",
        "report/learning_curve.png",
        "result.json",
    } <= files


@pytest.mark.slow
def test_result_json_holds_the_score_and_the_cost(trained):
    result = json.loads((trained[0] / "runs/first/result.json").read_text())
    assert (result["env"], result["algo"], result["policy"], result["seed"]) == ("tmaze", "ppo", "rmt", 0)
    assert result["steps"] == 288  # three rollouts of 8 x 12: the first multiple that is at least 200
    assert result["steps_per_cpu_s"] == pytest.approx(result["steps"] / result["cpu_s"], rel=0.1)
    assert (result["floor"], result["ceiling"]) == (0.5, 1.0)
    assert result["eval"]["episodes"] == 2  # all that the task has, of the 20 asked for
    low, high = result["eval"]["ci95"]
    assert low <= result["eval"]["success"] <= high


@pytest.mark.slow
def test_the_score_of_a_run_says_how_many_of_its_episodes_differ(trained):
    result = json.loads((trained[0] / "runs/first/result.json").read_text())
    assert result["eval"]["distinct"]["episodes"] == 2  # the two cues
    assert "exact: 2 distinct episodes" in trained[1]


@pytest.mark.slow
def test_the_banner_names_task_floor_parameters_device_and_memory(trained):
    out = trained[1]
    assert "remember one bit for 3 steps" in out
    assert "0.500 success without memory, 1.000 with perfect memory" in out
    assert re.search(r"[\d,]+ parameters", out)
    assert "4 memory tokens x 64" in out
    assert re.search(r"device +(cpu|cuda)", out)


@pytest.mark.slow
def test_the_end_shows_a_score_a_picture_and_two_commands_that_work(trained):
    folder, out, _ = trained
    assert re.search(
        r"success \d\.\d{3}  return .*  exact: 2 distinct episodes of 4.0 steps  \(floor 0\.500, ceiling 1\.000", out
    )
    lines = out.splitlines()
    commands = [line.split("#")[0].split()[2:] for line in lines[lines.index("next:") + 1 :]]
    assert [c[0] for c in commands] == ["rmt_rl.evaluate", "rmt_rl.train"]
    code, out, err = run("evaluate", *commands[0][1:], "episodes=8", cwd=folder)
    assert code == 0, err
    code, _, err = run("train", *commands[1][1:], "algo.num_envs=8", "evaluate_episodes=8", cwd=folder)
    assert code == 0, err


@pytest.mark.slow
def test_output_is_plain_lines_where_it_is_not_a_terminal(trained):
    assert "\x1b" not in trained[1] + trained[2]
    assert "288/200 steps" in trained[1]


@pytest.mark.slow
def test_metrics_have_one_row_per_update(trained):
    rows = [json.loads(line) for line in (trained[0] / "runs/first/metrics.jsonl").read_text().splitlines()]
    assert [row["steps"] for row in rows] == [96, 192, 288]
    assert {"policy_loss", "value_loss", "entropy", "approx_kl", "success", "return", "learning_rate"} <= set(rows[0])


@pytest.mark.slow
def test_a_run_folder_is_never_overwritten(trained):
    folder, _, _ = trained
    before = (folder / "runs/first/result.json").read_text()
    code, _, err = run("train", *TINY, "run=first", cwd=folder)
    assert code == 2
    assert err.count("\n") == 1 and "run=first" in err and "exists" in err
    assert (folder / "runs/first/result.json").read_text() == before


@pytest.mark.slow
def test_without_a_name_the_next_free_name_is_used(tmp_path):
    train(parse(TINY), root=tmp_path)
    train(parse(TINY), root=tmp_path)
    assert {p.name for p in tmp_path.iterdir()} == {"tmaze-rmt-ppo-s0", "tmaze-rmt-ppo-s0-2"}


@pytest.mark.slow
def test_evaluate_plays_the_trained_policy_on_a_longer_task(trained):
    done = new_python("evaluate", "policy=runs/first", "env.length=40", "episodes=10", cwd=trained[0])
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout.splitlines()[-1])
    assert result["eval"]["mean_length"] == 41
    assert result["env"]["length"] == 40


@pytest.mark.slow
@pytest.mark.parametrize(
    "arguments, words",
    [
        (["policy=nowhere"], ["nowhere", "no such folder"]),
        (["policy=runs/first", "env=minigrid-memory"], ["env=minigrid-memory", "observation space"]),
        (["policy=runs/first", "env.lenght=3"], ["env.lenght", "did you mean env.length"]),
        ([], ["policy", "missing"]),
    ],
)
def test_evaluate_reports_a_mistake_in_one_line(trained, arguments, words):
    code, _, err = run("evaluate", *arguments, cwd=trained[0])
    assert code == 2
    assert err.startswith("error: ") and err.count("\n") == 1
    assert all(word in err for word in words)


@pytest.mark.slow
@pytest.mark.parametrize(
    "arguments, words",
    [
        (["env=gym", "env.id=CartPol-v1"], ["CartPol-v1", "did you mean"]),
        (["device=cuda:7"], ["device=cuda:7", "device=cpu"]),
        (["policy.widht=3"], ["policy.widht", "did you mean policy.width"]),
        (["algo.minibatches=7"], ["algo.minibatches=7", "algo.num_envs"]),
    ],
)
def test_train_reports_a_mistake_in_one_line_and_creates_no_folder(tmp_path, arguments, words):
    code, _, err = run("train", *arguments, cwd=tmp_path)
    assert code == 2
    assert err.startswith("error: ") and err.count("\n") == 1
    assert all(word in err for word in words)
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_the_same_seed_gives_the_same_bits(tmp_path):
    def weights(name, seed):
        train(parse([*TINY, f"seed={seed}", f"run={name}"]), root=tmp_path)
        return (tmp_path / name / "policy/model.safetensors").read_bytes()

    first = weights("a", 1)
    assert weights("b", 1) == first
    assert weights("c", 2) != first


@pytest.mark.slow
def test_training_works_in_a_thread(tmp_path):
    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(train, parse(TINY), root=tmp_path).result(timeout=60).summary["steps"] == 288


@pytest.mark.slow
def test_training_does_not_change_global_random_streams(tmp_path):
    import random

    import numpy as np
    import torch

    def states():
        return torch.get_rng_state().tolist(), random.getstate(), np.random.get_state()[1].tolist()

    before = states()
    train(parse(TINY), root=tmp_path)
    assert states() == before


@pytest.mark.slow
def test_another_process_with_another_order_of_sets_gives_the_same_bits(tmp_path):
    train(parse([*TINY, "run=here"]), root=tmp_path)
    order = {"PYTHONHASHSEED": "1"}  # this process has a random one
    done = new_python("train", *TINY, "run=there", cwd=tmp_path, env=order)
    assert done.returncode == 0, done.stderr
    files = [path / "policy/model.safetensors" for path in (tmp_path / "here", tmp_path / "runs/there")]
    assert files[0].read_bytes() == files[1].read_bytes()


@pytest.mark.slow
def test_a_signal_while_data_are_copied_leaves_no_temporary_files(tmp_path):
    copies = tmp_path / "copies"
    copies.mkdir()
    process = commands.Command(
        "-m", "rmt_rl.train", "env=tmaze-rate", "algo=rate", cwd=tmp_path, env={"TMPDIR": str(copies)}
    )
    deadline = time.monotonic() + 60
    while not list(copies.glob("rmt_rl-*/*")) and time.monotonic() < deadline:
        time.sleep(0.01)
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 143, err
    assert list(copies.iterdir()) == []


@pytest.mark.parametrize("numbers", [(15, 12), (12, 15), (12, 12), (12,)])
def test_the_signals_with_which_slurm_ends_a_job_never_exit_before_the_run_is_saved(numbers):
    with OnSignal() as signals:
        for number in numbers:
            signal.raise_signal(number)
        assert signals.stop in numbers
        if 15 in numbers:
            with pytest.raises(SystemExit):
                signal.raise_signal(signal.SIGTERM)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "code"), [("SIGINT", 130), ("SIGTERM", 143)])
def test_one_signal_stops_after_the_update_and_saves(tmp_path, name, code):
    process = commands.Command("-m", "rmt_rl.train", "env=tmaze", "algo.num_envs=8", "run=stopped", cwd=tmp_path)
    metrics = tmp_path / "runs/stopped/metrics.jsonl"
    deadline = time.monotonic() + 60
    while not (metrics.exists() and metrics.read_text()) and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(getattr(signal, name))
    out, err = process.communicate(timeout=30)
    assert process.returncode == code, err
    assert "Traceback" not in err
    result = json.loads((tmp_path / "runs/stopped/result.json").read_text())
    assert result["interrupted"] and result["eval"] is None
    assert "stopped early" in out and "rmt_rl.train resume=runs/stopped" in out
    assert rmt_rl.evaluate(rmt_rl.load_policy(tmp_path / "runs/stopped"), episodes=4).mean_length == 11


@pytest.mark.slow
def test_cartpole_and_pendulum_train_through_gymnasium(tmp_path):
    small = ["algo.num_envs=4", "algo.rollout=16", "algo.minibatches=2", "steps=128", "evaluate_episodes=4"]
    result = train(parse(["env=gym", "env.id=CartPole-v1", *small]), root=tmp_path).summary
    assert result["eval"]["success"] is None and result["eval"]["return"] > 5
    result = train(parse(["env=gym", "env.id=Pendulum-v1", "policy=gru", *small]), root=tmp_path).summary
    assert result["eval"]["return"] < 0


class Endless(gymnasium.Env):
    observation_space = gymnasium.spaces.Sequence(gymnasium.spaces.Discrete(2))
    action_space = gymnasium.spaces.Discrete(2)


def test_unsupported_spaces_raise_one_sentence(tmp_path):
    gymnasium.register("rmt-test/Endless-v0", entry_point=Endless)
    with pytest.raises(ConfigError, match="not supported; supported are"):
        train(parse(["env=gym", "env.id=rmt-test/Endless-v0", "algo.num_envs=4", "steps=128"]), root=tmp_path)
