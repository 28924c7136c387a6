"""What the README shows works as it is written."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from rmt_rl import export
from rmt_rl.config.cli import parse
from rmt_rl.config.registry import GROUPS
from rmt_rl.train import train

ROOT = Path(__file__).parent.parent
README, USING = ((ROOT / page).read_text(encoding="utf-8") for page in ("README.md", "docs/using.md"))
EXAMPLES = re.findall(r"```python\n(.*?)```", README + USING, re.DOTALL)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Where the run lies that the examples load."""
    folder = tmp_path_factory.mktemp("readme")
    train(parse(["algo.num_envs=8", "algo.minibatches=1", "steps=1", "evaluate_episodes=1"]), folder / "runs")
    return folder


def output(example, folder):
    done = subprocess.run([sys.executable, "-c", example], cwd=folder, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_python_example_runs_as_written(folder):
    assert re.fullmatch(r"\d+ of \d+ episodes solved\n", output(EXAMPLES[0], folder))


def test_the_torchrl_example_runs_as_written(folder):
    pytest.importorskip("torchrl", reason="torchrl is not installed: pip install 'rmt_rl[torchrl]'")
    assert output(EXAMPLES[1], folder).count("loss_critic") == 2


def test_an_exported_step_runs_as_written(folder):
    assert export.main([f"policy={folder}/runs/minigrid-memory-rmt-ppo-s0", "num_envs=4"]) == 0
    assert re.fullmatch(r"tensor\(\[\d, \d, \d, \d\]\)\n", output(EXAMPLES[2], folder))


def test_every_python_example_is_run_here():
    assert len(EXAMPLES) == 3


def test_the_train_commands_are_understood():
    commands = re.findall(r'make train ARGS="(.*?)"', README)
    assert len(commands) >= 4
    for command in commands:
        parse(command.split())


def test_the_picture_and_every_linked_page_exist():
    for link in re.findall(r"\]\((?!http)([^)#]+)\)", README):
        assert (ROOT / link).is_file(), link


def test_every_policy_and_task_is_in_the_tables():
    for group in ("policy", "env"):
        for name in GROUPS[group]:
            assert f"`{name}`" in README, name
