"""executor=ray: cells on a Ray cluster, here one of this machine; a cell whose actor or process is killed continues."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import socket
import sys
import threading
import time

import pytest
from commands import Command, run
from test_jobs import GIVEN, undisturbed, wait_for, without_cost  # noqa: F401

from rmt_rl.common.errors import ConfigError, RunError
from rmt_rl.common.ray_cluster import PATIENCE, connect
from rmt_rl.compare import command
from rmt_rl.comparison.cells import expand
from rmt_rl.comparison.request import from_python, parse_compare
from rmt_rl.comparison.space import parse_tune
from rmt_rl.config.comparison import RayConfig

RAY = ["executor=ray", "ray.cpus=0.5"]


def test_what_a_cell_reserves_comes_from_the_shell_and_from_python():
    assert parse_compare([*GIVEN, *RAY])[2] == RayConfig(cpus=0.5)
    assert from_python({"out": "x", "executor": "ray", "ray.gpus": 1})[2] == RayConfig(gpus=1.0)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["ray.cpus=3"], r"ray\.cpus=3: has no effect with executor=local; expected executor=ray"),
        (
            ["executor=ray", "slurm.minutes=3"],
            r"slurm\.minutes=3: has no effect with executor=ray; expected executor=slurm",
        ),
        (["executor=ray", "ray.cpu=3"], r"ray\.cpu: no such option, .*did you mean ray\.cpus"),
        (["executor=ray", "ray.cpus=-1"], r"ray\.cpus=-1: expected a number, at least 0"),
    ],
)
def test_a_mistake_in_what_a_cell_reserves_is_one_sentence(given, message):
    with pytest.raises(ConfigError, match=message):
        parse_compare([*GIVEN, *given])


def test_a_search_on_a_cluster_needs_the_number_of_trials_at_a_time():
    words = ["env=tmaze", "policy=mlp", "algo.learning_rate=1e-4..1e-2", *RAY]
    with pytest.raises(
        ConfigError, match=r"executor=ray: workers= is missing; expected the number of trials at a time"
    ):
        parse_tune(words)


def test_without_ray_nothing_is_written_and_the_sentence_says_what_to_do(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ConfigError, match=r"ray is not installed; pip install 'rmt_rl\[ray\]'"):
        command([*GIVEN, *RAY])
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("address", ["127.0.0.1:1", "ray://127.0.0.1:1", "127.0.0.1:99999", "no-such-host:6379"])
def test_an_address_that_does_not_answer_is_one_sentence(monkeypatch, address):
    pytest.importorskip("ray")
    monkeypatch.setenv("RAY_ADDRESS", address)
    with pytest.raises(
        RunError, match=f"executor=ray: RAY_ADDRESS={address} does not answer: .*; expected the address"
    ):
        connect("executor=ray")


@pytest.mark.slow
@pytest.mark.parametrize("answer", [b"", b"HTTP/1.1 400 Bad Request\r\n\r\n"])
def test_an_address_of_another_program_is_one_sentence_and_nothing_is_written(tmp_path, monkeypatch, answer):
    pytest.importorskip("ray")
    monkeypatch.chdir(tmp_path)
    with contextlib.ExitStack() as held:
        server = held.enter_context(socket.create_server(("127.0.0.1", 0)))

        def serve():
            with contextlib.suppress(OSError):  # the server is closed
                while True:
                    held.enter_context(server.accept()[0]).sendall(answer)

        thread = threading.Thread(target=serve)
        thread.start()
        address = f"127.0.0.1:{server.getsockname()[1]}"
        monkeypatch.setenv("RAY_ADDRESS", address)
        begun = time.monotonic()
        with pytest.raises(RunError, match=f"^executor=ray: RAY_ADDRESS={address} is not the address of a running Ray"):
            command([*GIVEN, *RAY])
        assert time.monotonic() - begun < 2 * PATIENCE
        server.shutdown(socket.SHUT_RDWR)
        thread.join()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_a_log_that_cannot_be_written_is_one_sentence_there_too(tmp_path):
    pytest.importorskip("ray")
    for cell in expand(parse_compare(GIVEN)[1]):
        (tmp_path / "x" / "logs" / f"{cell.key}.log").mkdir(parents=True)
    done = run("-m", "rmt_rl.compare", *GIVEN, *RAY, "out=x", cwd=tmp_path)
    assert done.returncode != 0
    lines = [line for line in done.stderr.splitlines() if "raylet" not in line]
    assert len(lines) == 1 and re.fullmatch(r"error: .*\.log: cannot be written: .*", lines[0]), done.stderr


def _processes(word):
    """Process numbers whose command has this word."""
    found = []
    for name in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{name}/cmdline", "rb") as file:
                if word.encode() in file.read():
                    found.append(int(name))
        except OSError:
            pass
    return found


@pytest.mark.slow
def test_cells_whose_process_or_actor_is_killed_continue_and_give_the_same_rows(tmp_path, undisturbed):  # noqa: F811
    pytest.importorskip("ray")
    folder, cells = tmp_path / "x", expand(parse_compare(GIVEN)[1])
    mine = os.fspath(tmp_path)
    process = Command("-m", "rmt_rl.compare", *GIVEN, *RAY, "out=x", cwd=tmp_path, env={"RMT_RL_TEST": mine})
    wait_for(lambda: len(list(folder.glob("runs/*/checkpoints/step-0"))) == len(cells))

    def belongs(pid):
        try:
            with open(f"/proc/{pid}/environ", "rb") as file:
                return f"RMT_RL_TEST={mine}".encode() in file.read()
        except OSError:
            return False

    (one, *_), (actor, *_) = (
        [pid for pid in _processes(word) if belongs(pid)] for word in ("rmt_rl.comparison.worker", "ray::CellActor")
    )
    os.kill(one, signal.SIGKILL)
    os.kill(actor, signal.SIGKILL)
    assert process.wait(200) == 0, process.communicate()
    assert "it continues from its checkpoint in a new one" in process.communicate()[0]
    assert without_cost(folder) == undisturbed


@pytest.mark.slow
def test_a_signal_stops_the_cells_and_the_same_command_continues_to_the_same_rows(tmp_path, undisturbed):  # noqa: F811
    pytest.importorskip("ray")
    folder = tmp_path / "x"
    words = ["-m", "rmt_rl.compare", *GIVEN, "executor=ray", "ray.cpus=1000", "out=x"]
    waiting = Command(*words, cwd=tmp_path)  # for cores that there are not
    wait_for(lambda: "cells wait" in waiting.output())
    waiting.send_signal(signal.SIGTERM)
    assert waiting.wait(60) == 128 + signal.SIGTERM, waiting.communicate()
    assert "no machine of the cluster has ray.cpus=1000 ray.gpus=0; cells wait" in waiting.communicate()[0]
    assert not list(folder.glob("runs/*"))
    words[-2] = "ray.cpus=0"
    begun = Command(*words, cwd=tmp_path)
    wait_for(lambda: list(folder.glob("runs/*/checkpoints/step-0")))
    begun.send_signal(signal.SIGTERM)
    assert begun.wait(60) == 128 + signal.SIGTERM
    assert list(folder.glob("runs/*/checkpoints/step-*")) and without_cost(folder).keys() != undisturbed.keys()
    done = run(*words, cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert without_cost(folder) == undisturbed
