"""The README and the pages of docs/ work as they are written: every Python example runs, every command is accepted.

docs/extending.md has tests of its own, in test_extending.py.
"""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from commands import run

from rmt_rl import export
from rmt_rl.comparison.cells import expand
from rmt_rl.comparison.request import parse_compare
from rmt_rl.comparison.space import parse_tune
from rmt_rl.config.cli import parse, parse_collect, parse_evaluate, parse_export, parse_memory, parse_play, parse_zoo
from rmt_rl.config.registry import GROUPS
from rmt_rl.train import train

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
PAGES = {page.name: page.read_text(encoding="utf-8") for page in [ROOT / "README.md", *sorted(ROOT.glob("docs/*.md"))]}


def parse_comparison(arguments):
    matrix = parse_compare(arguments)[1]
    return None if matrix is None else expand(matrix)


PARSERS = {
    "compare": parse_comparison,
    "train": parse,
    "evaluate": parse_evaluate,
    "play": parse_play,
    "collect": parse_collect,
    "export": parse_export,
    "memory": parse_memory,
    "zoo": parse_zoo,
    "tune": parse_tune,
}
#: What an example prints, by its page and its place on it.
OUTPUTS = {
    "README.md 0": r".*\nruns/tmaze-rmt-ppo-s0(-\d+)? [\d.]+ -?[\d.]+\n",
    "README.md 1": r"\d+ of 2 episodes solved\n",
    "comparing.md 0": r".*report: small/report/\S+\nsmall/report/\S+ 2\n",
    "torchrl.md 0": r"([^\n]*'loss_critic'[^\n]*\n){2}",
    "using.md 0": r"(True\n){4}",
    "using.md 1": "",
    "using.md 2": r"tensor\(\[\d, \d, \d, \d\]\)\n",
    "tutorial.md 0": r"\d+ of \d+ episodes solved\n",
    "state.md 0": r"all of \d+ episodes solved: True\n",
    "state.md 1": r"50 of 50 actions are the same\n",
    "state.md 2": r"1 2 3\n4\n",
    "state.md 3": r"\['a', 'b'\]\n",
    "state.md 4": r"torch.Size\(\[8, 32\]\) True\n",
    "moving.md 0": r".*runs/gym-mlp-ppo-s0\S*\n.*",
    "tasks.md 0": "",
    "faq.md 0": "",
    "faq.md 1": "",
    **dict.fromkeys((f"sources.md {number}" for number in range(5)), ""),
}


def blocks(kind: str) -> dict[str, str]:
    """The code blocks of all pages, by page and number."""
    return {
        f"{name} {number}": block
        for name, text in PAGES.items()
        if name != "extending.md"
        for number, block in enumerate(re.findall(rf"```{kind}\n(.*?)```", text, re.DOTALL))
    }


def commands() -> list[str]:
    """The commands of rmt_rl in all pages, in blocks and between backticks, without comments and placeholders."""
    lines = [line for block in blocks("sh").values() for line in block.splitlines()]
    for name, text in PAGES.items():
        if name != "extending.md":
            lines += [" ".join(line.split()) for line in re.findall(r"`(python -m rmt_rl\.[^`]*)`", text)]
    lines = [re.sub(r'^make train ARGS="(.*?)"', r"python -m rmt_rl.train \1", line) for line in lines]
    found = {line.partition(" #")[0].strip() for line in lines if re.match(r"python -m rmt_rl\.\w+ \S", line)}
    return sorted(line for line in found if not re.search(r"\.check|--help|resume=|\.\.\.", line))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with the run that the examples load, and its export."""
    folder = tmp_path_factory.mktemp("readme")
    config = parse(["algo.num_envs=8", "algo.minibatches=1", "steps=1", "evaluate_episodes=1"])
    run = train(config, root=folder / "runs").folder
    assert export.main([f"policy={run}", "num_envs=4"]) == 0
    return folder


SLOW = {"comparing.md 0"}  # trains two policies
EXAMPLES = [pytest.param(name, marks=[pytest.mark.slow] if name in SLOW else []) for name in blocks("python")]


@pytest.mark.slow
@pytest.mark.parametrize("name", EXAMPLES)
def test_every_python_example_runs(name, folder):
    """As written, but with fewer steps of training and fewer episodes."""
    if name.startswith("torchrl"):
        pytest.importorskip("torchrl", reason="torchrl is not installed: pip install 'rmt_rl[torchrl]'")
    example = re.sub(r"steps=[\d_]+", "steps=512, evaluate_episodes=4", blocks("python")[name])
    example = example.replace("episodes < 20", "episodes < 2")
    done = run("-c", example, cwd=folder, timeout=240)
    assert done.returncode == 0, done.stderr
    assert re.fullmatch(OUTPUTS[name], done.stdout, re.DOTALL), done.stdout


@pytest.mark.parametrize("command", commands())
def test_every_command_is_accepted(command):
    module, *arguments = shlex.split(command)[2:]
    PARSERS[module.removeprefix("rmt_rl.")]([re.sub("[<>]", "", argument) for argument in arguments])


def test_the_planted_bugs_are_those_of_the_present_source():
    """The script stops where a line that it would replace no longer exists."""
    script = ROOT / "experiments/reliability/planted_bugs.py"
    done = subprocess.run([sys.executable, script, "--list"], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "") and done.stdout.count("\n") == 25


def test_every_script_that_is_named_exists():
    scripts = {path for text in PAGES.values() for path in re.findall(r"experiments/[\w/]+\.(?:py|jsonl)", text)}
    scripts |= set(re.findall(r"experiments/[\w/]+\.py", (ROOT / "Makefile").read_text()))
    assert len(scripts) > 10
    assert [path for path in sorted(scripts) if not (ROOT / path).is_file()] == []


@pytest.mark.parametrize("name", PAGES)
def test_every_linked_page_and_picture_exists(name):
    folder = ROOT if name == "README.md" else ROOT / "docs"
    for link in re.findall(r"\]\((?!http)([^)#]+)", PAGES[name]):
        assert (folder / link).is_file(), link


def test_every_page_is_linked_from_the_readme():
    assert [name for name in PAGES if name != "README.md" and f"(docs/{name})" not in README] == []


@pytest.mark.parametrize(("group", "page"), [("policy", "policies.md"), ("env", "tasks.md")])
def test_every_policy_and_task_has_its_place_in_the_docs(group, page):
    assert [name for name in GROUPS[group] if f"`{name}`" not in PAGES[page]] == []
