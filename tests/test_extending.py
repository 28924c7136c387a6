"""The examples of docs/extending.md run as written, from a folder outside the package."""

import contextlib
import dataclasses
import re
import subprocess
import sys
from pathlib import Path

import commands
import pytest
import torch

from rmt_rl import config
from rmt_rl.common.errors import ConfigError
from rmt_rl.config.registry import GROUPS, register_policy
from rmt_rl.envs.checks.runner import Result
from rmt_rl.policies import check
from rmt_rl.policies.checks.contract import Check
from rmt_rl.policies.mlp import MLP
from rmt_rl.policies.registry import check_shapes

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


def test_the_check_of_a_memory_runs_every_claim_in_so_many_cases(monkeypatch):
    numbers = []
    monkeypatch.setattr("rmt_rl.policies.checks.contract.CHECKS", [Check("a claim", lambda make, n: numbers.append(n))])
    monkeypatch.setattr("rmt_rl.export.export", lambda policy, folder, rows, onnx: numbers.append((rows, onnx)))
    results = list(check.check(config.MLPConfig(width=8), cases=3))
    assert numbers == [0, 1, 2, (2, False)]
    assert [result.verdict for result in results] == ["ok"] * 3, results


@pytest.mark.parametrize(("verdicts", "status"), [([], 0), (["not checked"], 0), (["wrong"], 1), (["wrong", "ok"], 1)])
def test_the_check_of_a_memory_counts_its_results_and_fails_where_one_is_wrong(verdicts, status, monkeypatch, capsys):
    given = {}

    def results(policy, cases):
        given.update(policy=policy, cases=cases)
        return [Result(f"claim {n}", verdict, "" if verdict == "ok" else "found") for n, verdict in enumerate(verdicts)]

    monkeypatch.setattr(check, "check", results)
    assert check.main(["mlp", "width=8", "policy.layers=1", "params=null", "cases=2"]) == status
    assert given == {"policy": config.MLPConfig(width=8, layers=1), "cases": 2}
    *lines, last = capsys.readouterr().out.splitlines()
    count = {verdict: verdicts.count(verdict) for verdict in ("ok", "not checked", "wrong")}
    assert last == f"mlp: {count['ok']} ok, {count['not checked']} not checked, {count['wrong']} wrong"
    expected = [
        line
        for n, verdict in enumerate(verdicts)
        for line in [f"{verdict:>11}  claim {n}", *([] if verdict == "ok" else [" " * 13 + "found"])]
    ]
    assert lines == expected


def test_the_check_of_a_memory_is_asked_for_with_the_name_of_one(capsys):
    for arguments, status in (([], 2), (["--help"], 0), (["mlp", "-h"], 0)):
        assert check.main(arguments) == status
        assert "python -m rmt_rl.policies.check rmt segment=4" in capsys.readouterr().out
    for cases in ("0", "x", "-1", "100001"):
        assert check.main(["mlp", f"cases={cases}"]) == 2
        assert "expected a whole number, at least 1 and at most 100000" in capsys.readouterr().err


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


@pytest.mark.parametrize(
    ("unroll", "found"),
    [
        (lambda y, state: (y, state, {}), "unroll of its class returned 3 values; expected (outputs, state)"),
        (lambda y, state: y, "unroll of its class returned a Tensor; expected (outputs, state)"),
        (lambda y, state: (y[:, 0], state), "returned outputs [2, 8] of torch.float32; expected outputs [2, 3, 8]"),
        (lambda y, state: (y.double(), state), "returned outputs [2, 3, 8] of torch.float64; expected"),
        (lambda y, state: (None, state), "returned outputs of NoneType; expected"),
        (lambda y, state: (y, y), "unroll of its class returned a state of Tensor; expected a frozen dataclass"),
    ],
)
def test_a_result_that_is_not_outputs_and_state_is_described(unroll, found):
    @register_policy("test-results", dataclasses.make_dataclass("Options", [], bases=(config.MLPConfig,), frozen=True))
    class Results(MLP):
        def unroll(self, x, state, first):
            return unroll(*super().unroll(x, state, first))

    options = GROUPS["policy"]["test-results"].config(width=8)
    with pytest.raises(ConfigError) as caught:
        check_shapes(Results(options), options)
    assert found in str(caught.value)


@pytest.mark.parametrize(
    ("losses", "wrong"),
    [({}, False), ({"own": torch.zeros(())}, False), ({"own": torch.zeros(2)}, True), ({"own": 0.0}, True), ([], True)],
)
def test_auxiliary_losses_are_a_dictionary_of_scalar_tensors(losses, wrong):
    @register_policy("test-losses", dataclasses.make_dataclass("Options", [], bases=(config.MLPConfig,), frozen=True))
    class Losses(MLP):
        def unroll_with_losses(self, x, state, first):
            return *self.unroll(x, state, first), losses

    options = GROUPS["policy"]["test-losses"].config(width=8)
    with pytest.raises(ConfigError, match="a dictionary of scalar tensors") if wrong else contextlib.nullcontext():
        check_shapes(Losses(options), options)
