"""One run in two processes: they learn what one process learns, and end, continue and fail together."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from rmt_rl.common import rng
from rmt_rl.common.errors import ConfigError
from rmt_rl.common.ranks import Ranks
from rmt_rl.config.cli import parse
from rmt_rl.runs.setup import build_learner

SHARE_ROWS = Path(__file__).with_name("share_rows.py")
TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
RUN = ["-m", "rmt_rl.train", "env=tmaze", "env.length=6", "algo.num_envs=16", "policy.width=16", "policy.heads=2"]
RUN += ["evaluate_episodes=0", "checkpoint_steps=2048", "memory.carry=0.5"]


def start(*arguments, cwd):
    return subprocess.Popen(
        [*TORCHRUN, *map(str, arguments)], cwd=cwd, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )


def finish(process):
    output, _ = process.communicate(timeout=300)
    return output


@pytest.mark.slow
def test_two_processes_learn_what_one_learns_and_have_equal_weights(tmp_path):
    process = start(SHARE_ROWS, tmp_path, cwd=tmp_path)
    output = finish(process)
    assert process.returncode == 0, output  # a group that is not destroyed aborts when the interpreter ends
    subprocess.run([sys.executable, SHARE_ROWS, tmp_path], check=True, timeout=300)
    alone, first, second = (torch.load(tmp_path / f"{name}.pt") for name in ("0-of-1", "0-of-2", "1-of-2"))
    for case in alone:
        assert torch.equal(first[case], second[case]), case
        assert float((alone[case] - first[case]).abs().max()) <= 1e-6, case


def wait_for(path, process):
    end = time.monotonic() + 120
    while not path.exists():
        assert process.poll() is None and time.monotonic() < end, path
        time.sleep(0.05)


def children(process):
    """The processes that torchrun started, by their number."""
    found = {}
    for folder in Path("/proc").iterdir():
        try:
            of = int((folder / "stat").read_text().rsplit(")", 1)[1].split()[1])
            if of == process.pid:
                variables = (folder / "environ").read_bytes().split(b"\0")
                found[next(int(v[5:]) for v in variables if v.startswith(b"RANK="))] = int(folder.name)
        except (OSError, ValueError, StopIteration):
            continue
    return found


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="needs /proc to find the processes")
def test_a_killed_process_ends_the_run_which_continues_to_the_same_bits(tmp_path):
    finish(start(*RUN, "steps=6144", "run=whole", cwd=tmp_path))
    process = start(*RUN, "steps=6144", "run=parts", cwd=tmp_path)
    wait_for(tmp_path / "runs/parts/checkpoints/step-2048", process)
    os.kill(children(process)[1], signal.SIGKILL)
    began = time.monotonic()
    output = finish(process)
    assert time.monotonic() - began < 60
    assert "error: process 0 of 2: another process of the run has ended or does not answer" in output
    assert process.returncode != 0

    output = finish(start("-m", "rmt_rl.train", "resume=runs/parts", cwd=tmp_path))
    assert "device  cpu, 2 processes, 1 thread each" in output
    assert output.count("continuing from checkpoints/step-") == 1  # one process prints
    whole, parts = ((tmp_path / "runs" / run / "policy/model.safetensors").read_bytes() for run in ("whole", "parts"))
    assert whole == parts
    metrics = tmp_path / "runs/parts/metrics.jsonl"
    rows = [json.loads(line)["steps"] for line in metrics.read_text().splitlines()]
    assert rows == list(range(512, 6145, 512))


@pytest.mark.slow
def test_ctrl_c_ends_two_processes_after_an_update_and_one_process_continues(tmp_path):
    process = start(*RUN, "steps=10000000", "run=a", cwd=tmp_path)
    wait_for(tmp_path / "runs/a/checkpoints/step-2048", process)
    process.send_signal(signal.SIGINT)
    assert "stopped early; the policy is saved in runs/a" in finish(process)
    end = json.loads((tmp_path / "runs/a/result.json").read_text())["steps"]
    config = tmp_path / "runs/a/config.yaml"
    config.write_text(config.read_text().replace("steps: 10000000", f"steps: {end + 512}"))
    done = subprocess.run(
        [sys.executable, "-m", "rmt_rl.train", "resume=runs/a"], cwd=tmp_path, text=True, capture_output=True
    )
    assert "processes was 2 and is 1: the run continues, but not to the same bits" in done.stdout, done.stderr
    assert "with another number of processes all rows start new episodes" in done.stdout
    assert json.loads((tmp_path / "runs/a/result.json").read_text())["steps"] == end + 512


TWICE = """
import rmt_rl
small = {"algo.num_envs": 8, "policy.width": 16, "policy.heads": 2, "evaluate_episodes": 4}
for seed in range(2):
    result = rmt_rl.train(env="tmaze", steps=256, seed=seed, **small)
    print("scored", seed, result.score is not None)
"""


@pytest.mark.slow
def test_a_script_trains_twice_in_two_processes(tmp_path):
    (tmp_path / "twice.py").write_text(TWICE)
    process = start("twice.py", cwd=tmp_path)
    output = finish(process)
    assert process.returncode == 0, output
    assert [output.count(f"scored {seed} {scored}") for seed in (0, 1) for scored in (True, False)] == [1, 1, 1, 1]
    assert json.loads((tmp_path / "runs/tmaze-rmt-ppo-s0/result.json").read_text())["steps"] == 256


@pytest.mark.slow
def test_other_commands_refuse_several_processes(tmp_path):
    output = finish(start("-m", "rmt_rl.evaluate", "policy=zoo:tmaze-rmt", cwd=tmp_path))
    assert "error: rmt_rl.evaluate: runs in one process; start it without torchrun" in output


def test_two_processes_draw_for_their_rows_what_one_process_draws_for_all():
    for draw in (rng.exponential, rng.normal, rng.uniform):
        whole = draw(torch.empty(6, 3), torch.Generator().manual_seed(1))
        for number in range(2):
            stream = rng.SharedStream(torch.Generator().manual_seed(1), Ranks(number, 2).share(6), 6)
            assert torch.equal(draw(torch.empty(3, 3), stream), whole[3 * number : 3 * number + 3])


def test_what_two_processes_cannot_run_is_refused():
    with contextlib.ExitStack() as stack, pytest.raises(ConfigError, match="algo=rate: runs in one process, found 2"):
        build_learner(parse(["env=tmaze", "algo=rate"]), Ranks(0, 2, 2), stack)
    Ranks(0, 2, 2).check_rows(16, 4)
    with pytest.raises(ConfigError, match=r"algo\.num_envs=12: 2 processes and 4 minibatches need a multiple of 8"):
        Ranks(0, 2, 2).check_rows(12, 4)
    Ranks().check_rows(13, 4)
