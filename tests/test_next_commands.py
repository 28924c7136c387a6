"""Commands that are printed for the user to type parse to the task that they are about."""

from __future__ import annotations

import os
import shlex
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from rmt_rl import collect, config
from rmt_rl.config.cli import parse, parse_evaluate
from rmt_rl.config.files import as_typed, to_dict
from rmt_rl.config.registry import PLUGINS
from rmt_rl.envs.registry import make_env
from rmt_rl.rollouts.statistics import Episodes, Score
from rmt_rl.runs.console import format_summary

OPTIONS: list[dict[str, Any]] = [
    {"max_episode_steps": 200},
    {"a": 1, "b": ["x", "y"], "c": {"d": {"e": 1}}},
    {"a": True, "b": None, "c": -1, "d": 1.5e-7, "e": 1e300, "f": 10**18},
    {
        "a": "it is",
        "b": "q'q",
        "c": 'd"d',
        "d": "x: y",
        "e": "x # y",
        "f": "",
        "g": " x ",
        "h": "a\\b",
        "i": "$HOME `x`",
    },
    {
        "a": "12",
        "b": "true",
        "c": "null",
        "d": "1e-3",
        "e": "~",
        "f": "0x1f",
        "g": "1.5",
        "h": "{a: 1}",
        "i": "&x",
        "j": "*x",
    },
    {"ключ": "é", "b c": "😀", "12": "漢字", "true": 1},
    {"long": "x" * 500},
]


@pytest.fixture(autouse=True)
def no_plugins_stay_loaded() -> Any:
    before = list(PLUGINS)
    PLUGINS.clear()  # those of other tests' folders cannot be imported here
    yield
    PLUGINS[:] = before


@pytest.mark.parametrize("given", OPTIONS)
@pytest.mark.parametrize("id", ["CartPole-v1", "my_module:Mine-v0", "'quoted'", "null", "x" * 200])
def test_options_of_an_environment_are_typed_as_they_are_read(given: dict[str, Any], id: str) -> None:
    task = config.GymConfig(id=id, options=given, workers="async", deadline=1e-3)
    again = parse(shlex.split(" ".join(["env=gym", *as_typed("env", task)]))).env
    assert to_dict(again) == to_dict(task)


def test_options_of_every_other_kind_are_typed_as_they_are_read() -> None:
    task = config.MiniGridMemoryConfig(size=13, random=True, max_steps=100)
    memory = config.MemoryConfig(scope="trial", episodes=7)
    words = ["env=minigrid-memory", *as_typed("env", task), *as_typed("memory", memory)]
    again = parse(shlex.split(" ".join(words)))
    assert (again.env, again.memory) == (task, memory)


def commands(text: str) -> list[list[str]]:
    """The words of the commands below "next:"; each begins with the interpreter in use."""
    found = []
    for line in text.partition("next:\n")[2].splitlines():
        python, flag, module, *words = shlex.split(line, comments=True)
        assert os.path.abspath(shutil.which(python) or python) == os.path.abspath(sys.executable)
        assert flag == "-m"
        found.append([module, *words])
    return found


@pytest.mark.parametrize("plugins", [[], ["json", "string"]])
@pytest.mark.parametrize("given", [OPTIONS[0], OPTIONS[3]])
def test_commands_after_a_run_are_about_the_same_task(
    given: dict[str, Any], plugins: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("rmt_rl.runs.console.PLUGINS", plugins)
    folder = Path("runs/it's a run")
    folder.mkdir(parents=True)
    (folder / "metrics.jsonl").write_text("")
    run = parse(["env=gym", *shlex.split(" ".join(as_typed("env", config.GymConfig(options=given))))])
    resume, evaluate, other = commands(format_summary(folder, run, make_env("tmaze"), None, None, 0))
    chosen = [f"plugins={','.join(plugins)}"] if plugins else []
    assert resume == ["rmt_rl.train", *chosen, f"resume={folder}"]
    assert parse_evaluate(evaluate[1:]).policy == str(folder)
    assert to_dict(parse(other[1:]).env) == to_dict(run.env)


def test_the_command_with_another_memory_has_the_steps_of_the_run(tmp_path: Path) -> None:
    (tmp_path / "metrics.jsonl").write_text("")
    run = parse(["env=tmaze", "steps=15000"])
    *_, other = commands(format_summary(tmp_path, run, make_env("tmaze"), None, None, 0))
    assert parse(other[1:]).steps == 15_000


@pytest.mark.parametrize(
    "options, longest, success, advised",
    [
        ("policy=gru algo.rollout=32", 33, 0.5, True),
        ("policy=gru algo.rollout=32", 32, 0.5, False),
        ("policy=gru algo.rollout=32", 33, 0.95, False),
        ("policy=mlp algo.rollout=32", 33, 0.5, False),
    ],
)
def test_a_run_that_fails_in_episodes_longer_than_its_rollouts_is_told_so(
    options: str, longest: int, success: float, advised: bool, tmp_path: Path
) -> None:
    (tmp_path / "metrics.jsonl").write_text("")
    each = Episodes(torch.zeros(2), torch.tensor([5, longest]), torch.tensor([success, success]))
    score = Score(success, (0.0, 1.0), success, None, 10.0, 2, each)
    text = format_summary(tmp_path, parse(["env=tmaze", *options.split()]), make_env("tmaze"), score, None, 0)
    assert ("episodes have up to 33 steps and rollouts 32" in text and "try algo.rollout=33" in text) == advised


def test_the_command_after_a_recording_is_about_the_same_task(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path))
    options = "env.options={max_episode_steps: 3, sutton_barto_reward: true}"
    assert (
        collect.main(["policy=random", "env=gym", "env.id=CartPole-v1", options, "out=cart/pole-v0", "episodes=2"]) == 0
    )
    ((module, *words),) = commands(capsys.readouterr().out)
    found = parse(words)
    assert (module, found.algo.name, found.data) == ("rmt_rl.train", "rate", "cart/pole-v0")
    assert found.env.options == {"max_episode_steps": 3, "sutton_barto_reward": True}
