"""Training from Python: what `rmt_rl.train` accepts and returns."""

import json
import os
import subprocess
import sys

import gymnasium
import numpy as np
import pytest
import torch

import rmt_rl
from rmt_rl.common.errors import ConfigError
from rmt_rl.config import TMazeConfig
from rmt_rl.envs.objects import env_config_of
from rmt_rl.envs.tmaze.passive import TMaze

TINY = {"policy": "lstm", "steps": 200, "evaluate_episodes": 12, "policy.width": 8}
TINY |= {"algo.num_envs": 8, "algo.rollout": 12, "algo.minibatches": 2}


def test_train_returns_the_policy_the_metrics_as_arrays_and_the_score(tmp_path):
    result = rmt_rl.train(env="tmaze", root=tmp_path, **TINY, **{"env.length": 3})
    assert result.metrics["steps"].tolist() == [96, 192, 288]
    assert all(isinstance(x, np.ndarray) and x.dtype == np.float64 for x in result.metrics.values())
    assert {"policy_loss", "success", "return", "wall_s"} <= result.metrics.keys()
    assert result.folder.parent == tmp_path and (result.folder / "policy" / "model.safetensors").is_file()
    assert result.score.episodes == 12 and result.score.success == result.summary["eval"]["success"]
    assert result.best is None and result.summary["best"] is None
    env = rmt_rl.make_task(result.policy, rows=4)
    action, _ = result.policy.act(env.reset(seed=0)[0], result.policy.initial_state(4), torch.ones(4, dtype=torch.bool))
    env.step(action)


def test_train_is_a_function_and_a_module_that_python_runs():
    """`rmt_rl.train` names both; neither may hide the other."""
    assert callable(rmt_rl.train) and callable(rmt_rl.evaluate)
    from rmt_rl.train import main

    assert rmt_rl.train.main is main
    done = subprocess.run(
        [sys.executable, "-m", "rmt_rl.train", "env=tmaze", "--help"], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0 and "env.length" in done.stdout, done.stderr


def test_evaluate_repeats_the_final_score_of_training(tmp_path):
    result = rmt_rl.train(env="tmaze", root=tmp_path, **TINY, **{"env.length": 3})
    for policy in (result.policy, result.folder):
        assert rmt_rl.evaluate(policy, episodes=12) == result.score


def test_result_json_holds_return_length_and_success_of_every_episode(tmp_path):
    result = rmt_rl.train(env="tmaze", root=tmp_path, **TINY, **{"env.length": 6, "env.min_length": 2})
    scored = json.loads((result.folder / "result.json").read_text())["eval"]
    assert len(scored["returns"]) == len(scored["lengths"]) == len(scored["successes"]) == 12
    assert np.mean(scored["returns"]) == pytest.approx(scored["return"])
    assert np.mean(scored["lengths"]) == pytest.approx(scored["mean_length"])
    assert np.mean(scored["successes"]) == pytest.approx(scored["success"])
    assert len(set(scored["lengths"])) > 1
    assert scored["returns"] == result.score.each.returns.tolist()


def test_options_beside_a_complete_configuration_are_rejected(tmp_path):
    config = rmt_rl.make_config(env="tmaze", **TINY)
    with pytest.raises(ConfigError, match="steps: is given beside a complete configuration; use make_config"):
        rmt_rl.train(config, steps=5, root=tmp_path)
    with pytest.raises(ConfigError, match="expected a TrainConfig, or options such as train"):
        rmt_rl.train("tmaze", root=tmp_path)
    assert not list(tmp_path.iterdir())


# ---------------------------------------------------------------------------------------------- environments as objects


class Maze(TMaze):
    """Counts how often it is made and closed."""

    made, closed = 0, 0

    def __init__(self, num_envs, device="cpu"):
        super().__init__(num_envs, device, length=3)
        type(self).made += 1

    def close(self, **options):
        type(self).closed += 1


@pytest.fixture(autouse=True)
def count():
    Maze.made = Maze.closed = 0


def test_an_environment_object_is_trained_on_and_stays_open(tmp_path):
    env = Maze(8)
    options = {name: value for name, value in TINY.items() if name != "algo.num_envs"}  # the object has its own rows
    result = rmt_rl.train(env=env, root=tmp_path, **options)
    assert (result.summary["steps"], Maze.made, Maze.closed) == (288, 1, 0)
    env.reset(seed=0)
    env.step(torch.zeros(8, dtype=torch.int64))
    assert rmt_rl.evaluate(result.policy, env, episodes=8).episodes == 8
    assert Maze.closed == 0


def test_an_environment_object_cannot_be_evaluated_while_it_is_trained_on(tmp_path):
    """The evaluation would step the environment between two rollouts."""
    with pytest.raises(ConfigError, match=r"evaluate_every=96: evaluations need an environment of their own"):
        rmt_rl.train(env=Maze(8), root=tmp_path, **TINY, evaluate_every=96)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("make", [Maze, lambda num_envs, device: Maze(num_envs, device)], ids=["class", "function"])
def test_a_class_or_a_function_makes_environments_that_are_closed(make, tmp_path):
    result = rmt_rl.train(env=make, root=tmp_path, **TINY, evaluate_every=96)
    assert result.best is not None
    assert Maze.made == Maze.closed == 3  # training, evaluation during training, final evaluation


def test_an_environment_object_trains_to_the_same_bits_as_the_same_task_by_name(tmp_path):
    by_name = rmt_rl.train(env="tmaze", root=tmp_path, **TINY, **{"env.length": 3, "algo.gamma": 0.99})
    as_object = rmt_rl.train(env=Maze, root=tmp_path, **TINY, **{"algo.gamma": 0.99})
    ours, theirs = by_name.policy.state_dict(), as_object.policy.state_dict()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


class Corridor(gymnasium.Env):
    """Ends after five steps, or at once with action 1."""

    observation_space = gymnasium.spaces.Box(-1, 1, (2,), np.float32)
    action_space = gymnasium.spaces.Discrete(2)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.steps = 0
        return np.zeros(2, np.float32), {}

    def step(self, action):
        self.steps += 1
        return np.full(2, 0.1, np.float32), 1.0, bool(action == 1), self.steps >= 5, {}


def test_a_gymnasium_class_is_trained_on(tmp_path):
    result = rmt_rl.train(env=Corridor, root=tmp_path, **TINY)
    assert result.folder.name.startswith("Corridor-lstm-ppo")
    assert result.score.success is None and 1 <= result.score.mean_return <= 5


def test_the_end_of_a_run_on_an_object_prints_no_command_that_cannot_be_typed(tmp_path, capsys):
    rmt_rl.train(env=Maze, root=tmp_path, **TINY)
    end = capsys.readouterr().out.partition("next:")[2]
    assert "rmt_rl.evaluate(" in end and "python -m" not in end


def test_objects_that_make_no_environment_are_rejected(tmp_path):
    with pytest.raises(ConfigError, match=r"expected a name, a dataclass of rmt_rl\.config, a TorchVectorEnv"):
        rmt_rl.train(env=3, root=tmp_path)
    with pytest.raises(ConfigError, match="returned a int; expected a TorchVectorEnv"):
        rmt_rl.train(env=lambda num_envs, device: 3, root=tmp_path, **TINY)
    assert env_config_of(Maze).name.endswith(":Maze")
    assert rmt_rl.train(env=TMazeConfig(length=3), root=tmp_path, **TINY).summary["env"] == "tmaze"


def test_the_default_folder_is_runs_in_the_working_directory(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = rmt_rl.train(env="tmaze", run="here", **TINY)
    assert os.path.samefile(result.folder, tmp_path / "runs" / "here")
