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
from rmt_rl.config.registry import OBJECTS
from rmt_rl.config.resolve import make_config
from rmt_rl.envs.objects import env_config_of
from rmt_rl.envs.registry import make_from_config
from rmt_rl.envs.tmaze.passive import TMaze

TINY = {"policy": "lstm", "steps": 200, "evaluate_episodes": 12, "policy.width": 8}
TINY |= {"algo.num_envs": 8, "algo.rollout": 12, "algo.minibatches": 2}


def test_train_returns_the_policy_the_metrics_as_arrays_and_the_score(tmp_path):
    result = rmt_rl.train(env="tmaze", root=tmp_path, **TINY, **{"env.length": 3})
    assert result.metrics["steps"].tolist() == [96, 192, 288]
    assert all(isinstance(x, np.ndarray) and x.dtype == np.float64 for x in result.metrics.values())
    assert {"policy_loss", "success", "return", "wall_s"} <= result.metrics.keys()
    assert result.folder.parent == tmp_path and (result.folder / "policy" / "model.safetensors").is_file()
    assert result.score.episodes == 2 and result.score.success == result.summary["eval"]["success"]
    assert result.best is None and result.summary["best"] is None
    env = rmt_rl.make_task(result.policy, rows=4)
    first = torch.ones(4, dtype=torch.bool, device=env.device)  # that of the policy
    action, _ = result.policy.act(env.reset(seed=0)[0], result.policy.initial_state(4), first)
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
    assert rmt_rl.evaluate(result.policy, env, episodes=8).episodes == 2  # all that this maze has
    assert Maze.closed == 0


def test_an_environment_object_cannot_be_evaluated_while_it_is_trained_on(tmp_path):
    """The evaluation would step the environment between two rollouts."""
    with pytest.raises(ConfigError, match=r"evaluate_every=96: evaluations need an environment of their own"):
        rmt_rl.train(env=Maze(8), root=tmp_path, **TINY, evaluate_every=96)
    assert not list(tmp_path.iterdir())


def test_a_policy_acts_in_an_environment_that_is_given_to_make_task(policy):
    for env in ("tmaze", {"name": "tmaze", "length": 7}, TMazeConfig(), Maze, Maze(2)):
        task = rmt_rl.make_task(policy, env, rows=2)
        obs, _ = task.reset(seed=0)
        assert policy.act(obs, policy.initial_state(2), torch.ones(2, dtype=torch.bool))[0].shape == (2,)


def test_make_task_refuses_an_environment_that_the_policy_does_not_fit(policy):
    with pytest.raises(
        ConfigError, match=r"env=tmaze: its observation space differs from the one that the policy was trained"
    ):
        rmt_rl.make_task(policy, {"name": "tmaze", "distractors": True})


def test_an_option_that_is_given_in_two_places_is_refused(policy):
    with pytest.raises(ConfigError, match=r"env.length=9: is given twice, env.length=5 before"):
        rmt_rl.evaluate(policy, {"name": "tmaze", "length": 5}, 4, **{"env.length": 9})


@pytest.mark.parametrize(
    "rows, env, message",
    [
        (0, None, "rows=0: expected a whole number, at least 1"),
        (2.0, None, "rows=2.0: expected a whole number"),
        (5, Maze(2), "rows=5: the environment has 2 rows; leave rows out, or give 2"),
    ],
)
def test_rows_that_make_task_cannot_make_are_refused(policy, rows, env, message):
    with pytest.raises(ConfigError, match=message):
        rmt_rl.make_task(policy, env, rows=rows)


@pytest.mark.slow
@pytest.mark.parametrize("make", [Maze, lambda num_envs, device: Maze(num_envs, device)], ids=["class", "function"])
def test_a_class_or_a_function_makes_environments_that_are_closed(make, tmp_path):
    result = rmt_rl.train(env=make, root=tmp_path, **TINY, evaluate_every=96)
    assert result.best is not None
    assert Maze.made == Maze.closed == 3  # training, evaluation during training, final evaluation


@pytest.mark.slow
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


def test_a_task_of_a_gymnasium_class_has_the_name_of_the_class():
    env = make_from_config(env_config_of(Corridor), 2)
    assert env.task == f"{__name__}:Corridor"
    env.close()


@pytest.mark.parametrize(("env", "normalised"), [(Corridor, True), ("gym", True), (Maze, False), ("tmaze", False)])
def test_units_of_environments_from_elsewhere_do_not_matter(env, normalised):
    made = make_config(env=env if isinstance(env, str) else env_config_of(env))
    assert made.policy.normalize_observation == made.algo.normalize_reward == normalised
    given = make_config(
        env=env if isinstance(env, str) else env_config_of(env), **{"algo.normalize_reward": not normalised}
    )
    assert given.algo.normalize_reward != normalised


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


# ------------------------------------------------------------------------------------------- mistakes with objects


def maze_of(length):
    class Inner(TMaze):
        def __init__(self, num_envs, device="cpu"):
            super().__init__(num_envs, device, length=length)

    return Inner


@pytest.mark.slow
def test_environments_of_the_same_name_are_not_confused(tmp_path):
    short = rmt_rl.train(env=maze_of(3), root=tmp_path, **TINY)
    long = rmt_rl.train(env=maze_of(9), root=tmp_path, **TINY)
    assert rmt_rl.evaluate(short.policy, episodes=12) == short.score
    assert rmt_rl.evaluate(long.policy, episodes=12) == long.score
    with pytest.raises(ConfigError, match=r"was trained on this class, given in Python; give it again"):
        rmt_rl.evaluate(short.folder, episodes=12)
    assert rmt_rl.evaluate(short.folder, maze_of(3), episodes=12) == short.score
    with pytest.raises(ConfigError, match="env=nope: expected one of") as caught:
        rmt_rl.make_env("nope")
    assert "Inner" not in str(caught.value)


def test_an_object_does_not_take_the_place_of_its_class(tmp_path):
    result = rmt_rl.train(env=Maze, root=tmp_path, device="cpu", **TINY)
    rmt_rl.evaluate(result.policy, Maze(2), episodes=4)
    for policy in (result.policy, result.folder):
        assert rmt_rl.evaluate(policy, episodes=12) == result.score


def test_a_run_on_a_class_resumes_in_another_process_if_the_class_is_given_again(tmp_path, monkeypatch):
    folder = rmt_rl.train(root=tmp_path, env=Maze, **TINY).folder
    monkeypatch.delitem(OBJECTS, f"{__name__}:Maze")  # as in another process
    with pytest.raises(ConfigError, match=r"is given in Python, as rmt_rl\.train\(env=<it>\), also beside resume="):
        rmt_rl.train(resume=folder, steps=2 * TINY["steps"])
    with pytest.raises(ConfigError, match=r"was started with env=.*:Maze; expected the same class"):
        OBJECTS[f"{__name__}:Maze"] = env_config_of(Maze).entry
        rmt_rl.train(resume=folder, steps=2 * TINY["steps"], env=Corridor)
    monkeypatch.delitem(OBJECTS, f"{__name__}:Maze")
    assert rmt_rl.train(resume=folder, steps=2 * TINY["steps"], env=Maze).summary["steps"] >= 2 * TINY["steps"]


def test_an_object_decides_the_number_of_rows(tmp_path):
    options = {name: value for name, value in TINY.items() if name != "algo.num_envs"}
    with pytest.raises(
        ConfigError, match=r"algo\.num_envs=16: the environment object has 8 rows; expected algo\.num_envs=8"
    ):
        rmt_rl.train(env=Maze(8), root=tmp_path, **options, **{"algo.num_envs": 16})
    with pytest.raises(ConfigError, match=r"algo\.minibatches=2: expected a divisor of algo\.num_envs=9"):
        rmt_rl.train(env=Maze(9), root=tmp_path, **options)
    with pytest.raises(ConfigError, match="made 4 rows; expected num_envs=8"):
        rmt_rl.train(env=lambda num_envs, device: Maze(4), root=tmp_path, **TINY)
    assert not list(tmp_path.iterdir())
    given = {name: value for name, value in options.items() if not name.startswith("algo.")}
    algo = {"name": "ppo", "minibatches": 2, "rollout": 12}
    assert rmt_rl.train(env=Maze(8), algo=algo, root=tmp_path, **given).summary["steps"] == 288


def test_classes_and_functions_that_cannot_make_an_environment_are_rejected_before_the_run(tmp_path):
    for wrong in (lambda: Maze(8), rmt_rl.TorchVectorEnv):
        with pytest.raises(ConfigError, match=r"cannot be called as f\(num_envs, device\)"):
            rmt_rl.train(env=wrong, root=tmp_path, **TINY)
    for wrong in (int, TMazeConfig):
        with pytest.raises(ConfigError, match=r"expected a name, a dataclass of rmt_rl\.config, a TorchVectorEnv"):
            rmt_rl.train(env=wrong, root=tmp_path, **TINY)
    assert not list(tmp_path.iterdir())


@pytest.fixture(scope="module")
def policy():
    return rmt_rl.make_policy(rmt_rl.make_env("tmaze", 2), "gru", width=8).eval()


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"episodes": 0}, "episodes=0: expected a whole number, at least 1"),
        ({"episodes": 1.5}, "episodes=1.5: expected a whole number"),
        ({"num_envs": -3}, "num_envs=-3: expected a whole number"),
        ({"seed": None}, "seed=null: expected a whole number"),
        ({"seed": 2**70}, "seed=1180591620717411303424: expected a whole number"),
        ({"deterministic": "no"}, "deterministic=no: expected true or false"),
        ({"device": "tpu"}, "device=tpu: expected cpu, cuda"),
        ({"env": rmt_rl.config.LSTMConfig()}, "env=LSTMConfig.*: expected the options of an environment"),
        ({"env": {"name": "tmaze", "lenght": 3}}, "env.lenght=3: env=tmaze has no such option"),
        ({"policy": None}, "policy=null: neither a policy nor a path"),
        ({"policy": torch.nn.Linear(2, 2)}, "policy=Linear.*: neither a policy nor a path"),
    ],
)
def test_a_mistake_in_an_evaluation_is_reported_in_one_line(given, message, policy):
    with pytest.raises(ConfigError, match=message):
        rmt_rl.evaluate(**{"policy": policy, "env": "tmaze", "episodes": 4} | given)


def test_an_evaluation_takes_a_dictionary_and_text_like_the_command_line(policy):
    expected = rmt_rl.evaluate(policy, TMazeConfig(length=4), episodes=4, deterministic=False)
    assert rmt_rl.evaluate(policy, {"name": "tmaze", "length": 4}, "4", deterministic="false") == expected


def test_a_loop_of_ones_own_reports_arguments_that_do_not_fit(policy):
    env = rmt_rl.make_env("tmaze", 2)
    for wrong in ("tmaze", TMaze, gymnasium.make("CartPole-v1")):
        with pytest.raises(ConfigError, match="is not an environment of many rows"):
            rmt_rl.make_policy(wrong)
        with pytest.raises(ConfigError, match="expected an environment and a policy"):
            rmt_rl.Collector(wrong, policy)
    with pytest.raises(ConfigError, match=r"seed=1\.5: expected a whole number"):
        rmt_rl.make_policy(env, seed=1.5)
    with pytest.raises(ConfigError, match="its observation space differs"):
        rmt_rl.Collector(rmt_rl.make_env("bandit", 2), policy)
    with pytest.raises(ValueError, match="steps is 0; it must be at least 1"):
        rmt_rl.Collector(env, policy).collect(0)
    for wrong in ({"gamma": 0.9}, None):
        with pytest.raises(ConfigError, match=r"expected PPO\(policy, options\)"):
            rmt_rl.PPO(policy, wrong)
    with pytest.raises(ConfigError, match=r"algo\.gamma=5: expected a number"):
        rmt_rl.PPO(policy, rmt_rl.PPOConfig(gamma=5))
    assert rmt_rl.PPO(policy, rmt_rl.PPOConfig(minibatches=3, learning_rate="1e-3")).options.learning_rate == 1e-3
    for wrong in (2.5, "2", True):
        with pytest.raises(ConfigError, match=r"num_envs is .*; it must be a whole number"):
            rmt_rl.make_env("tmaze", wrong)


def test_a_run_that_uses_the_default_environment_of_gymnasium_says_so(tmp_path, capsys):
    options = {"env": "gym", "policy": "mlp", "steps": 1, "evaluate_episodes": 1, "policy.width": 8}
    options |= {"algo.num_envs": 2, "algo.rollout": 4, "algo.minibatches": 1, "episode_steps": 20}
    rmt_rl.train(root=tmp_path, **options)
    assert "task  CartPole-v1 of gymnasium (the default; env.id=<id> chooses another)" in capsys.readouterr().out
    rmt_rl.train(root=tmp_path, **options, **{"env.id": "Acrobot-v1"})
    assert "the default" not in capsys.readouterr().out


SHARED = {"maze": None, "corridor": None}


def one_maze(num_envs, device):
    """Returns the same environment in every call."""
    SHARED["maze"] = SHARED["maze"] or Maze(num_envs, device=device)
    return SHARED["maze"]


def one_corridor():
    SHARED["corridor"] = SHARED["corridor"] or Corridor()
    return SHARED["corridor"]


gymnasium.register("OneCorridor-v0", entry_point=one_corridor)


@pytest.mark.parametrize("memory", ["episode", "trial"])
def test_a_function_that_returns_the_same_environment_again_cannot_be_evaluated_while_training(memory, tmp_path):
    options = TINY | {"evaluate_every": 96, "validation_episodes": 8, "memory.scope": memory}
    with pytest.raises(ConfigError, match=r"evaluate_every=96: .* returned the same object again; make a new one"):
        rmt_rl.train(env=one_maze, root=tmp_path, **options)
    assert not list(tmp_path.iterdir())


def test_an_entry_point_that_returns_the_same_environment_again_is_refused(tmp_path):
    options = TINY | {"env": "gym", "env.id": "OneCorridor-v0", "policy": "mlp"}
    with pytest.raises(ConfigError, match="returned the same environment object for several rows; expected a new one"):
        rmt_rl.train(root=tmp_path, **options)
    alone = options | {"algo.num_envs": 1, "algo.minibatches": 1, "evaluate_every": 96, "validation_episodes": 1}
    with pytest.raises(ConfigError, match=r"evaluate_every=96: .* returned the same object again; make a new one"):
        rmt_rl.train(root=tmp_path, **alone)
    assert not list(tmp_path.iterdir())


def test_training_from_python_has_the_threads_of_its_option_and_restores_those_of_the_process(tmp_path) -> None:
    seen = []

    class Threads(rmt_rl.Callback):
        def on_update(self, run) -> None:
            seen.append(torch.get_num_threads())
            run.stop("seen")

    before = torch.get_num_threads()
    options = {"algo.num_envs": 4, "algo.rollout": 8, "algo.minibatches": 1, "evaluate_episodes": 0}
    rmt_rl.train(env="tmaze", policy="mlp", threads=before + 1, root=tmp_path, callbacks=[Threads()], **options)
    assert (seen, torch.get_num_threads()) == ([before + 1], before)
