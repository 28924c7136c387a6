"""Runs that were killed, stopped or hit a full disk resume to the same bits."""

import contextlib
import errno
import itertools
import json
import os
import re
import shutil
import signal
import stat
import time
from pathlib import Path

import pytest
import torch
from commands import Command
from test_checkpoints import forge

from rmt_rl.algos.ppo import PPOLearner
from rmt_rl.algos.rate import RATELearner
from rmt_rl.algos.supervised import SupervisedLearner
from rmt_rl.common.errors import ConfigError, RunError, Stopped
from rmt_rl.config.cli import parse
from rmt_rl.runs.checkpoints import Checkpoints, _pack, _unpack
from rmt_rl.runs.metrics import Metrics
from rmt_rl.runs.setup import setup_run
from rmt_rl.train import train

TINY = ["algo.num_envs=8", "algo.rollout=12", "algo.minibatches=2", "policy.width=16", "evaluate_episodes=8"]
PPO = [*TINY, "algo.epochs=1", "steps=800", "checkpoint_steps=200"]
OFFLINE = ["algo=rate", "policy.width=16", "steps=1000", "checkpoint_steps=150", "evaluate_episodes=8", "algo.batch=8"]
OFFLINE += ["algo.validation=0.02"]
MAZE = ["env=tmaze", "env.length=8", "env.min_length=3"]
RUNS = {
    "rmt": [*MAZE, *PPO, "policy.cache=8", "policy.positions=rotary", "policy.dropout=0.1"],
    "rmt mrv shift": [*MAZE, *PPO, "policy.memory_update=mrv", "policy.token_shift=true", "policy.replay=true"],
    "rmt carry": [
        *MAZE,
        *PPO,
        "policy.memory_update=hard_gate",
        "policy.write_cost=0.1",
        "memory.carry=0.5",
        "memory.ramp_end=1",
    ],
    "gtrxl": [*MAZE, *PPO, "policy=gtrxl"],
    "lstm": [*MAZE, *PPO, "policy=lstm"],
    "mlp": [*MAZE, *PPO, "policy=mlp"],
    "minigrid": ["env=minigrid-memory", *PPO],
    "doors": ["env=minigrid-redbluedoors", "env.size=6", "env.max_steps=40", *PPO],
    "trial": [*MAZE, *PPO, "memory.scope=trial", "memory.episodes=3"],
    "bandit": ["env=bandit", *PPO, "algo.normalize_reward=true"],
    "rate": ["env=tmaze-rate", "env.length=20", "env.min_length=3", *OFFLINE, "policy.dropout=0.1"],
    "supervised": [
        "env=copy",
        "env.length=4",
        "algo=supervised",
        "algo.num_envs=8",
        "algo.stages=2",
        "policy.dropout=0.1",
        "steps=500",
        "checkpoint_steps=100",
        "evaluate_episodes=8",
    ],
    "rate detached": ["env=tmaze-rate", "env.length=20", *OFFLINE, "algo.detach_memory=true", "algo.cut=varied"],
}


class Killed(Stopped):
    """Stands for the death of the process: after any other error, a run saves its state."""


def die_after(monkeypatch, updates):
    """The next run dies after so many updates."""
    for learner in (PPOLearner, RATELearner, SupervisedLearner):
        collect, remaining = learner.collect, itertools.count(updates, -1)

        def dying(self, progress, collect=collect, remaining=remaining):
            if next(remaining) <= 0:
                raise Killed
            return collect(self, progress)

        monkeypatch.setattr(learner, "collect", dying)


def metrics(folder):
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{key: value for key, value in row.items() if key != "wall_s"} for row in rows]


def assert_same_run(left: Path, right: Path) -> None:
    newest = [max((run / "checkpoints").iterdir(), key=lambda p: int(p.name[5:])) for run in (left, right)]
    assert newest[0].name == newest[1].name
    assert (newest[0] / "state.safetensors").read_bytes() == (newest[1] / "state.safetensors").read_bytes()
    assert metrics(left) == metrics(right)
    for file in ("policy/model.safetensors", "policy/config.json"):
        assert (left / file).read_bytes() == (right / file).read_bytes()


@pytest.mark.slow
@pytest.mark.parametrize("name", RUNS)
def test_a_run_that_died_resumes_to_the_same_bits(name, tmp_path, monkeypatch) -> None:
    """It dies between checkpoints, some of the runs twice. Updates after the checkpoint are repeated and logged once."""
    train(parse([*RUNS[name], "run=whole"]), root=tmp_path)
    run = parse([*RUNS[name], "run=killed"])
    for updates in (4, 2) if name in {"rmt", "rate"} else (4,):
        with monkeypatch.context() as patch:
            die_after(patch, updates)
            with pytest.raises(Killed):
                train(run, root=tmp_path)
        torch.manual_seed(updates)  # no random number comes from global generators
        run = parse([f"resume={tmp_path / 'killed'}"])
    train(run, root=tmp_path)
    assert_same_run(tmp_path / "whole", tmp_path / "killed")


@pytest.mark.slow
@pytest.mark.parametrize("name", ["rmt", "lstm", "rate"])
def test_a_restored_learner_has_the_saved_state(name, tmp_path) -> None:
    with contextlib.ExitStack() as stack:
        one, other = (setup_run(parse([*RUNS[name], f"run={run}"]), tmp_path, stack).learner for run in "ab")
    for _ in range(3):
        one.update(one.collect(0.5), 0.5)
    text, tensors = _pack(one.state_dict())
    other.load_state_dict(_unpack(json.loads(text), tensors))
    again, found = _pack(other.state_dict())
    assert text == again and tensors.keys() == found.keys()
    assert all(torch.equal(tensors[key], found[key]) for key in tensors)
    assert one.update(one.collect(0.5), 0.5) == other.update(other.collect(0.5), 0.5)


@pytest.mark.slow
def test_more_checkpoints_do_not_change_a_run(tmp_path) -> None:
    train(parse([*RUNS["rmt"], "run=often"]), root=tmp_path)
    train(parse([*MAZE, *PPO[:-1], *RUNS["rmt"][-3:], "checkpoint_steps=null", "run=never"]), root=tmp_path)
    assert metrics(tmp_path / "often") == metrics(tmp_path / "never")


@pytest.mark.slow
def test_an_environment_without_a_state_restarts_its_episodes_and_prints_it(tmp_path, monkeypatch, capsys) -> None:
    with monkeypatch.context() as patch:
        die_after(patch, 4)
        with pytest.raises(Killed):
            train(parse(["env=gym", *PPO, "run=a"]), root=tmp_path)
    manifest = json.loads((tmp_path / "a/checkpoints/step-288/manifest.json").read_text())
    assert manifest["resume"] == "from_reset"
    capsys.readouterr()
    train(parse([f"resume={tmp_path / 'a'}"]), root=tmp_path)
    assert "(resume: from_reset)" in capsys.readouterr().out
    assert [row["steps"] for row in metrics(tmp_path / "a")] == list(range(96, 865, 96))


@pytest.fixture
def stopped(tmp_path, monkeypatch):
    """A run that died at step 768, with its checkpoints at 672 and 480."""
    with monkeypatch.context() as patch:
        die_after(patch, 8)
        with pytest.raises(Killed):
            train(parse([*RUNS["mlp"], "run=a"]), root=tmp_path)
    return tmp_path / "a"


@pytest.mark.slow
def test_a_damaged_checkpoint_is_reported_and_the_one_before_it_is_used(stopped, capsys) -> None:
    before = stopped.with_name("whole")
    train(parse([*RUNS["mlp"], "run=whole"]), root=stopped.parent)
    assert sorted(os.listdir(stopped / "checkpoints")) == ["step-480", "step-672"]
    file = stopped / "checkpoints/step-672/state.safetensors"
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)
    capsys.readouterr()
    train(parse([f"resume={stopped}"]), root=stopped.parent)
    out = capsys.readouterr().out
    assert "not used: checkpoints/step-672: state.safetensors is not what was written (sha256)" in out
    assert "continuing from checkpoints/step-480" in out
    assert_same_run(before, stopped)


def test_without_a_complete_checkpoint_the_error_names_all(stopped) -> None:
    for step in (480, 672):
        (stopped / f"checkpoints/step-{step}/manifest.json").unlink()
    with pytest.raises(
        ConfigError, match=r"no complete checkpoint to resume from: .*step-672: manifest.json is missing; .*step-480"
    ):
        train(parse([f"resume={stopped}"]))
    shutil.rmtree(stopped / "checkpoints")
    with pytest.raises(ConfigError, match="no checkpoints/step-<N> in it"):
        train(parse([f"resume={stopped}"]))


@pytest.mark.slow
def test_the_error_for_a_run_that_cannot_be_resumed_names_the_reason(stopped, tmp_path) -> None:
    with pytest.raises(ConfigError, match=r"seed=1: a run is resumed with its own configuration"):
        parse([f"resume={stopped}", "seed=1"])
    with pytest.raises(ConfigError, match=r"no such folder; expected the folder of a run"):
        parse([f"resume={tmp_path / 'nowhere'}"])
    owner = Checkpoints(stopped)
    with pytest.raises(ConfigError, match="another process is training there"):
        train(parse([f"resume={stopped}"]))
    owner.close()
    text = (stopped / "config.yaml").read_text()
    (stopped / "config.yaml").write_text(text.replace("width: 16", "width: 24"))
    with pytest.raises(ConfigError, match="does not fit this version of rmt_rl or the run's"):
        train(parse([f"resume={stopped}"]))
    (stopped / "config.yaml").write_text(text)
    rows = (stopped / "metrics.jsonl").read_bytes()
    (stopped / "metrics.jsonl").write_bytes(rows[:100])
    with pytest.raises(
        ConfigError, match=r"metrics.jsonl: has 100 bytes, and had [\d,]+ at checkpoints/step-672; restore it"
    ):
        train(parse([f"resume={stopped}"]))
    (stopped / "metrics.jsonl").write_bytes(rows)
    (stopped / "result.json").write_text("[1")
    with pytest.raises(ConfigError, match=r"result.json: is damaged \(JSONDecodeError\); remove it to resume the run"):
        train(parse([f"resume={stopped}"]))
    (stopped / "result.json").unlink()
    train(parse([f"resume={stopped}"]))
    with pytest.raises(
        ConfigError, match=r"the run is finished; init=.* steps=<more than 800> beside resume continues it"
    ):
        train(parse([f"resume={stopped}"]))


@pytest.mark.slow
def test_other_data_are_rejected(tmp_path, monkeypatch) -> None:
    with monkeypatch.context() as patch:
        die_after(patch, 4)
        with pytest.raises(Killed):
            train(parse([*RUNS["rate"], "run=a"]), root=tmp_path)
    text = (tmp_path / "a/config.yaml").read_text()
    (tmp_path / "a/config.yaml").write_text(
        text.replace("seed: 0", "seed: 1")
    )  # which also seeds the episodes of the oracle
    with pytest.raises(ConfigError, match="the episodes differ from those that the run started with"):
        train(parse([f"resume={tmp_path / 'a'}"]))


def test_other_episodes_of_the_same_length_are_other_data() -> None:
    """With an oracle in a maze of one length, all lengths and returns are equal."""
    sums = set()
    for seed in (0, 0, 1):
        data = RATELearner.load_data(parse(["env=tmaze-rate", "env.length=4", "algo=rate", f"seed={seed}"]))
        sums.add((seed, data.fingerprint()))
    assert len(sums) == 2 and len({text for _, text in sums}) == 2


@pytest.mark.slow
def test_a_run_with_init_resumes_without_the_initial_policy(tmp_path, monkeypatch) -> None:
    train(parse([*RUNS["rate"], "run=base"]), root=tmp_path)
    options = ["env=tmaze-rate", "env.length=20", *(o for o in PPO if not o.startswith("policy."))]
    options += [f"init={tmp_path / 'base'}"]
    train(parse([*options, "run=whole"]), root=tmp_path)
    with monkeypatch.context() as patch:
        die_after(patch, 4)
        with pytest.raises(Killed):
            train(parse([*options, "run=killed"]), root=tmp_path)
    (tmp_path / "base").rename(tmp_path / "elsewhere")
    train(parse([f"resume={tmp_path / 'killed'}"]), root=tmp_path)
    assert_same_run(tmp_path / "whole", tmp_path / "killed")


@pytest.mark.slow
def test_an_edited_configuration_is_reported(stopped, capsys) -> None:
    file = stopped / "config.yaml"
    file.write_text(file.read_text().replace("learning_rate: 0.001", "learning_rate: 0.002"))
    train(parse([f"resume={stopped}"]))
    assert "config.yaml was edited: the run continues, but not to the same bits" in capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.parametrize("name", ["metrics.jsonl", "checkpoints", "policy"])
def test_a_link_in_an_untrusted_run_is_not_followed(stopped, name, tmp_path) -> None:
    if (stopped / name).exists():
        (stopped / name).rename(tmp_path / "mine")
    (stopped / name).symlink_to(tmp_path / "mine")
    with pytest.raises(ConfigError, match=rf"{name}: is a link; links are not followed"):
        train(parse([f"resume={stopped}"]))


@pytest.mark.slow
def test_metrics_that_cannot_be_written_end_the_run_with_one_line(tmp_path, monkeypatch) -> None:
    write, rows = Metrics.write, itertools.count()

    def full(self, steps, row, *more):
        if next(rows) == 5:
            self._file.close()
            self._file = Path("/dev/full").open("ab", buffering=0)  # noqa: SIM115  Metrics closes it
        write(self, steps, row, *more)

    with monkeypatch.context() as patch:
        patch.setattr(Metrics, "write", full)
        with pytest.raises(
            RunError, match=r"cannot be written: No space left on device; free space, then resume the run"
        ):
            train(parse([*RUNS["mlp"], "run=a"]), root=tmp_path)
    train(parse([*RUNS["mlp"], "run=whole"]), root=tmp_path)
    train(parse([f"resume={tmp_path / 'a'}"]), root=tmp_path)
    assert_same_run(tmp_path / "whole", tmp_path / "a")


@pytest.mark.slow
def test_a_full_disk_loses_a_checkpoint_but_not_the_run(tmp_path, monkeypatch, capsys) -> None:
    write, calls = os.write, itertools.count()

    def full(file, data):
        if not stat.S_ISREG(os.fstat(file).st_mode):  # pipes of multiprocessing, whose writes are not deterministic
            return write(file, data)
        if next(calls) > 3:  # the three files of the first checkpoint
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return write(file, data)

    with monkeypatch.context() as patch:
        patch.setattr(os, "write", full)
        train(parse([*RUNS["mlp"], "run=a"]), root=tmp_path)
    assert (
        "checkpoints/step-288 was not written: No space left on device; the run continues without it"
        in capsys.readouterr().out
    )
    assert os.listdir(tmp_path / "a/checkpoints") == ["step-0"]
    assert Checkpoints(tmp_path / "a").newest()[0] == 0


@pytest.mark.slow
@pytest.mark.parametrize(
    ("text", "instead"),
    [
        ('"updates": ', '"updates": "many", "x": '),
        ('"episodes": ', '"episodes": 3, "x": '),
        ('"env": {', '"env": 3, "x": {'),
        ('"policy": {', '"policy": {}, "x": {'),
        ('"first": ', '"first": {"<tensor>": "/learner/collector/episode_length"}, "x": '),
        ('"generator": ', '"generator": {"<tensor>": "/learner/collector/first"}, "x": '),
        ('"metrics": ', '"metrics": "all", "x": '),
    ],
)
def test_a_checkpoint_of_another_form_with_a_valid_checksum_is_rejected_in_one_line(stopped, text, instead) -> None:
    place = stopped / "checkpoints/step-672"
    content = (place / "state.json").read_text()
    assert text in content
    forge(place, "state.json", content.replace(text, instead, 1).encode())
    with pytest.raises(ConfigError, match=r"does not fit this version of rmt_rl or the run's config.yaml"):
        train(parse([f"resume={stopped}"]))


def start(*arguments, cwd):
    return Command("-m", "rmt_rl.train", *arguments, cwd=cwd)


def count(run: Path) -> int:
    """Rows of metrics so far."""
    file = run / "metrics.jsonl"
    return file.read_bytes().count(b"\n") if file.exists() else 0


def wait_for(run: Path, lines: int, process) -> None:
    deadline = time.monotonic() + 120
    while count(run) < lines:
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.01)


@pytest.mark.slow
def test_signals_write_a_checkpoint_and_give_the_exit_codes_that_shells_expect(tmp_path) -> None:
    options = [*MAZE, *TINY, "steps=10000000", "checkpoint_steps=null", "run=a"]
    run = tmp_path / "runs/a"
    process = start(*options, cwd=tmp_path)
    wait_for(run, 1, process)
    assert os.listdir(run / "checkpoints") == ["step-0"]
    process.send_signal(signal.SIGUSR1)
    deadline = time.monotonic() + 60
    while len(os.listdir(run / "checkpoints")) < 2:
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(signal.SIGTERM)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 143, err
    assert json.loads((run / "result.json").read_text())["signal"] == signal.SIGTERM
    steps = [row["steps"] for row in metrics(run)]
    assert Checkpoints(run).newest()[0] == steps[-1]

    process = start(f"resume={run}", cwd=tmp_path)
    wait_for(run, len(steps) + 2, process)
    begun = time.monotonic()
    process.send_signal(signal.SIGINT)
    time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    assert time.monotonic() - begun < 5
    assert f"continuing from checkpoints/step-{steps[-1]}" in out
    assert Checkpoints(run).newest()[0] >= steps[-1]
    assert [row["steps"] for row in metrics(run)][: len(steps)] == steps


@pytest.mark.slow
def test_a_run_that_is_killed_at_random_moments_ends_in_the_same_bits(tmp_path) -> None:
    """`kill -9` of separate processes, every other time while a checkpoint is being written.

    RMT_RL_FAULTS=50: fifty runs with one to five deaths each.
    """
    generator = torch.Generator().manual_seed(0)
    options = [*RUNS["rmt"][:-3], "policy.cache=8", "policy.positions=rotary", "policy.memory_tokens=4"]
    train(parse([*options, "run=whole"]), root=tmp_path / "runs")
    updates, inside = len(metrics(tmp_path / "runs/whole")), 0
    for number in range(int(os.environ.get("RMT_RL_FAULTS", "1"))):
        run = tmp_path / "runs" / f"killed{number}"
        deaths = 1 + int(torch.randint(5, (), generator=generator)) if "RMT_RL_FAULTS" in os.environ else 2
        for death in range(deaths):
            begun = (run / "checkpoints/step-0").exists()
            process = start(*([f"resume={run}"] if begun else [*options, f"run={run.name}"]), cwd=tmp_path)
            moment = int(torch.randint(1, updates, (), generator=generator))
            while process.poll() is None and (not run.exists() or count(run) < moment):
                time.sleep(0.005)
            if death % 2 == number % 2:
                while process.poll() is None and not list(run.glob("checkpoints/.new-*")):
                    pass
                inside += process.poll() is None
            else:
                time.sleep(0.05 * float(torch.rand((), generator=generator)))
            process.kill()
            process.communicate()
        if not (run / "result.json").exists():
            process = start(f"resume={run}", cwd=tmp_path)
            out, err = process.communicate(timeout=120)
            assert process.returncode == 0, err
            assert re.search(r"continuing from checkpoints/step-\d+", out)
        assert_same_run(tmp_path / "runs/whole", run)
        assert all(not name.startswith(".") for name in os.listdir(run / "checkpoints"))
    assert inside > 0
