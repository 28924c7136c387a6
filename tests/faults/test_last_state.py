"""What a run has learned is not lost: not by errors of the environment, not by a full disk at the end, not by a signal."""

import itertools
import json
import os
import signal
import sys

import gymnasium
import numpy as np
import pytest
from safetensors import SafetensorError
from test_resume import TINY, assert_same_run

import rmt_rl
from rmt_rl.algos.ppo import PPO
from rmt_rl.algos.rate import RATELearner
from rmt_rl.common.errors import RunError
from rmt_rl.config.cli import parse
from rmt_rl.envs.base import close_env
from rmt_rl.envs.tmaze.passive import TMaze
from rmt_rl.policies.actor_critic import ActorCritic
from rmt_rl.rollouts import episodes
from rmt_rl.runs.checkpoints import Checkpoints
from rmt_rl.train import main, train

MAZE = ["env=tmaze", "env.length=8", "env.min_length=3", "policy=mlp", *TINY, "steps=500"]
RATE = [
    "env=tmaze-rate",
    "env.length=6",
    "algo=rate",
    "policy=mlp",
    "policy.width=16",
    "steps=600",
    "evaluate_episodes=8",
]


class Counter(gymnasium.Env):
    """Episodes of five steps."""

    observation_space, action_space = gymnasium.spaces.Box(-1, 1, (2,)), gymnasium.spaces.Discrete(2)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.t = 0
        return np.zeros(2, np.float32), {}

    def step(self, action):
        self.t += 1
        return np.zeros(2, np.float32), 1.0, self.t == 5, False, {}


class CannotBeClosed(Counter):
    def close(self):
        raise RuntimeError("the viewer was closed already")


class Exits(Counter):
    """Somebody closes the window of a simulator."""

    steps, last, end = 0, 10**9, SystemExit(0)

    def step(self, action):
        Exits.steps += 1
        if Exits.steps > self.last:
            raise self.end
        return super().step(action)


class ExitsWhenClosed(Counter):
    def close(self):
        sys.exit(0)


class NotesWhatIsSaved(Counter):
    seen: list = []  # noqa: RUF012

    def close(self):
        self.seen.append(os.path.exists("runs/a/policy/model.safetensors") and os.path.exists("runs/a/result.json"))


def command(*arguments):
    return main(["env=gym", "policy=mlp", *TINY, "steps=200", *arguments])


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for cls in (Counter, CannotBeClosed, Exits, ExitsWhenClosed, NotesWhatIsSaved):
        gymnasium.register(f"{cls.__name__}-v0", entry_point=cls)
    yield tmp_path
    for cls in (Counter, CannotBeClosed, Exits, ExitsWhenClosed, NotesWhatIsSaved):
        gymnasium.registry.pop(f"{cls.__name__}-v0")


def test_an_error_of_close_is_one_warning_after_a_complete_run(folder, capsys) -> None:
    assert command("env.id=CannotBeClosed-v0", "run=a") == 0
    assert json.loads((folder / "runs/a/result.json").read_text())["eval"]["return"] == 5.0
    err = capsys.readouterr().err
    assert err.count("warning: CannotBeClosed: close raised RuntimeError: the viewer was closed already") == 1, err


@pytest.mark.parametrize(("end", "status"), [(SystemExit(0), 1), (KeyboardInterrupt(), 130)])
def test_an_environment_that_ends_the_process_costs_no_update(folder, capsys, monkeypatch, end, status) -> None:
    monkeypatch.setattr(Exits, "steps", 0)
    monkeypatch.setattr(Exits, "last", 100)
    monkeypatch.setattr(Exits, "end", end)
    assert command("env.id=Exits-v0", "run=a", "checkpoint_steps=200") == status
    out, err = capsys.readouterr()
    assert "resume=runs/a continues there" in out and (folder / "runs/a/checkpoints/step-96").is_dir()
    if status == 1:
        assert err.endswith("called sys.exit(0); expected code that raises an error\n") and "test_last_state.py" in err


def test_an_environment_that_exits_when_it_is_closed_is_one_warning(folder, capsys) -> None:
    assert command("env.id=ExitsWhenClosed-v0", "run=a") == 0
    assert "warning: ExitsWhenClosed: close raised SystemExit: 0; nothing is lost" in capsys.readouterr().err
    close_env(ExitsWhenClosed())
    assert "warning: ExitsWhenClosed: close raised SystemExit: 0" not in capsys.readouterr().err  # said once


def test_an_error_of_the_close_of_a_batch_is_a_warning(folder, capsys, monkeypatch) -> None:
    def close(self, **options):
        raise ArithmeticError("a bug in a batch")

    monkeypatch.setattr(TMaze, "close_extras", close)
    policy = rmt_rl.make_policy(rmt_rl.make_env("tmaze", 2, length=3), "mlp", width=8)
    rmt_rl.evaluate(policy, "tmaze", 2, **{"env.length": 3})
    assert "warning: TMaze: close raised ArithmeticError: a bug in a batch" in capsys.readouterr().err


def test_policy_and_result_are_saved_before_the_last_environments_are_closed(folder) -> None:
    """A `close` that hangs then costs nothing."""
    NotesWhatIsSaved.seen.clear()
    assert command("env.id=NotesWhatIsSaved-v0", "run=a", "evaluate_every=100") == 0
    assert NotesWhatIsSaved.seen and all(NotesWhatIsSaved.seen)


def test_a_full_disk_at_the_end_is_one_sentence(folder, monkeypatch, capsys) -> None:
    def full(self, place, **options):
        raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")

    monkeypatch.setattr(ActorCritic, "save_pretrained", full)
    assert command("env.id=Counter-v0", "run=a") == 1
    assert (
        "runs/a: cannot be written: No space left on device; free space, then resume=runs/a" in capsys.readouterr().err
    )


def test_an_oserror_of_an_environment_is_not_taken_for_a_full_disk(folder, monkeypatch) -> None:
    def final(*arguments, **options):
        raise FileNotFoundError(2, "No such file or directory", "map.txt")

    monkeypatch.setattr("rmt_rl.runs.setup.evaluate", final)
    with pytest.raises(FileNotFoundError, match=r"map\.txt"):
        train(parse([*MAZE, "run=a"]), root=folder)


def fail_once(monkeypatch, owner, name, call, act) -> None:
    """The given call of a method first does `act`."""
    method, calls = getattr(owner, name), itertools.count(1)

    def failing(self, *arguments, **options):
        if next(calls) == call:
            act()
        return method(self, *arguments, **options)

    monkeypatch.setattr(owner, name, failing)


@pytest.mark.slow
def test_after_an_error_of_step_the_last_complete_update_is_resumed_to_the_same_bits(
    folder, monkeypatch, capsys
) -> None:
    def fall():
        raise ZeroDivisionError("a bug in the maze")

    train(parse([*MAZE, "run=whole"]), root=folder)
    with monkeypatch.context() as patch:
        fail_once(patch, TMaze, "step", 3 * 12 + 5, fall)
        with pytest.raises(ZeroDivisionError, match="a bug in the maze"):
            train(parse([*MAZE, "run=a"]), root=folder)
    assert Checkpoints(folder / "a").steps() == [0, 288]
    assert f"the state after 288 steps is saved; resume={folder / 'a'} continues there" in capsys.readouterr().out
    train(parse([f"resume={folder / 'a'}"]), root=folder)
    assert_same_run(folder / "whole", folder / "a")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("options", "owner", "name", "call"),
    [
        (MAZE, PPO, "_loss", 8 * 3 + 3),
        (MAZE, TMaze, "step", 3 * 12 + 5),
        ([*MAZE, "evaluate_every=96", "validation_episodes=8"], episodes, "_report_running", 3),
        (RATE, RATELearner, "_losses", 40),
    ],
    ids=["between minibatches", "between steps", "in an evaluation", "rate"],
)
def test_a_signal_inside_an_update_ends_the_run_at_its_last_complete_state(
    options, owner, name, call, folder, monkeypatch
) -> None:
    monkeypatch.setattr(episodes, "PATIENCE", -1.0)  # then every step of an evaluation is reported
    train(parse([*options, "run=whole"]), root=folder)
    with monkeypatch.context() as patch:
        fail_once(patch, owner, name, call, lambda: os.kill(os.getpid(), signal.SIGTERM))
        result = train(parse([*options, "run=a"]), root=folder)
    assert result.summary["signal"] == signal.SIGTERM and result.score is None
    steps = result.summary["steps"]
    assert Checkpoints(folder / "a").newest()[0] == steps < 500
    train(parse([f"resume={folder / 'a'}"]), root=folder)
    assert_same_run(folder / "whole", folder / "a")


def test_a_full_disk_is_named_where_the_run_begins(folder, monkeypatch) -> None:
    def full(config, path):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("rmt_rl.runs.setup.save_yaml", full)
    with pytest.raises(RunError, match="cannot be written: No space left on device"):
        train(parse([*MAZE, "run=a"]), root=folder)
