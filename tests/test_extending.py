"""The examples of docs/extending.md run as written, from a folder outside the package."""

import re
import subprocess
import sys
from pathlib import Path

import commands
import pytest

PAGE = (Path(__file__).parent.parent / "docs/extending.md").read_text(encoding="utf-8")
MEMORY, _, ENVIRONMENT, LOOP, CALLBACK = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
COMMANDS = [
    line.partition("#")[0].split()[1:]
    for block in re.findall(r"```sh\n(.*?)```", PAGE, re.DOTALL)
    for line in block.splitlines()
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with the two plugins."""
    folder = tmp_path_factory.mktemp("plugins")
    (folder / "my_memory.py").write_text(MEMORY)
    (folder / "my_env.py").write_text(ENVIRONMENT)
    return folder


def run(arguments, folder, status=0):
    done = commands.run(*arguments, cwd=folder, timeout=300)
    assert done.returncode == status, done.stdout + done.stderr
    return done.stdout


def test_the_memory_example_has_at_most_60_lines_and_the_loop_at_most_25():
    assert MEMORY.count("\n") <= 60
    assert LOOP.count("\n") <= 25


@pytest.mark.slow
def test_every_command_of_the_page_runs_from_outside_the_package(folder):
    checked = 0
    for command in COMMANDS:
        assert command[0] == "-m"
        output = run(command, folder)
        if command[1].endswith(".check"):
            assert "0 not checked, 0 wrong" in output
        elif command[1] == "rmt_rl.train" and "--help" not in command:
            assert float(re.findall(r"^success (\S+)", output, re.MULTILINE)[-1]) > 0.95
        checked += 1
    assert checked == 6


@pytest.mark.slow
def test_the_check_of_a_memory_reports_a_planted_off_by_one(folder):
    """A memory that resets one step late in `unroll`."""
    planted = MEMORY.replace(
        "        outputs = []\n",
        "        outputs = []\n        first_BT = torch.cat([torch.zeros_like(first_BT[:, :1]), first_BT[:, :-1]], dim=1)\n",
    )
    assert planted != MEMORY
    (folder / "late_memory.py").write_text(planted.replace("diagonal-rnn", "late-rnn"))
    output = run(["-m", "rmt_rl.policies.check", "late_memory:DiagonalRNN", "width=8"], folder, status=1)
    assert "wrong  unroll equals T calls of step" in output


@pytest.mark.slow
def test_the_own_loop_runs(folder):
    """With few updates; tests/learning shows that PPO learns."""
    short = LOOP.replace("updates = 30", "updates = 3").replace("update % 10 == 9", "update % 3 == 2")
    assert "updates = 3\n" in short and "% 3 == 2" in short
    printed = run(["-c", short], folder).splitlines()
    assert printed[-2].startswith("6144 steps, success ") and re.fullmatch(
        r"success 0\.\d\d in 100 new episodes", printed[-1]
    )


@pytest.mark.slow
def test_the_callback_stops_the_run(folder):
    assert re.match(r"solved (1\.0|0\.9\d*) 0\.9", run(["-c", CALLBACK], folder).splitlines()[-1])


def test_an_unregistered_class_is_rejected_with_what_to_do(folder):
    done = subprocess.run(  # a new Python
        [sys.executable, "-m", "rmt_rl.policies.check", "collections:OrderedDict"],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1 and "@rmt_rl.register_policy" in done.stderr
