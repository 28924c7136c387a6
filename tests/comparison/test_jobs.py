"""executor=slurm: cells as jobs. Processes on this machine stand for a cluster, as slurm.cluster=local starts them."""

from __future__ import annotations

import shutil
import signal
import sys
import time

import pytest
from commands import Command, run

from rmt_rl.common.errors import ConfigError
from rmt_rl.compare import command
from rmt_rl.comparison.cells import expand
from rmt_rl.comparison.jobs import CellJob, Job, check_slurm
from rmt_rl.comparison.request import from_python, parse_compare
from rmt_rl.comparison.store import cell_lock, prepare, read_cells, to_dict
from rmt_rl.comparison.worker import run_cell
from rmt_rl.config.comparison import SlurmConfig

GIVEN = ["env=tmaze", "policy=mlp,gru", "seeds=1", "steps=30000", "env.length=3", "policy.width=16", "algo.num_envs=16"]
GIVEN += ["algo.rollout=16", "algo.epochs=1", "validation_episodes=8", "evaluate_every=15000", "evaluate_episodes=8"]
JOBS = ["executor=slurm", "slurm.cluster=local"]


def without_cost(folder):
    return {row["key"]: {name: value for name, value in row.items() if name != "cost"} for row in read_cells(folder)}


def wait_for(condition, seconds=200.0):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "took too long"
        time.sleep(0.02)


# ----------------------------------------------------------------------------------------------------------------- options


def test_jobs_have_options_of_their_own_from_the_shell_and_from_python():
    typed = parse_compare([*GIVEN, "executor=slurm", "slurm.minutes=30", "slurm.options={account: mine, mem: 4GB}"])
    assert typed[2] == SlurmConfig(minutes=30, options={"account": "mine", "mem": "4GB"})
    given = {"slurm.minutes": 30, "slurm.options": {"account": "mine", "mem": "4GB"}}
    assert from_python({"out": "x", "executor": "slurm", **given}) == (
        typed[0].__class__(out="x", executor="slurm"),
        None,
        typed[2],
    )
    assert parse_compare(GIVEN)[2] is None


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["slurm.minutes=3"], "slurm.minutes=3: has no effect with executor=local; expected executor=slurm"),
        (["executor=slurm", "slurm.minuts=3"], "slurm.minuts: no such option, .*did you mean slurm.minutes"),
        (["executor=slurm", "slurm.cpus=0"], "slurm.cpus=0: expected a whole number, at least 1"),
        (["executor=slurm", "slurm.cpus=1,2"], "slurm.cpus=1,2: all cells have the same slurm; expected one value"),
        (["executor=pbs"], "executor=pbs: expected one of local, slurm"),
    ],
)  # fmt: skip
def test_a_mistake_in_the_options_of_jobs_is_one_sentence(given, message):
    with pytest.raises(ConfigError, match=message):
        parse_compare([*GIVEN, *given])


def test_jobs_have_no_effect_on_a_report():
    with pytest.raises(ConfigError, match="executor: has no effect with report="):
        parse_compare(["report=x", "executor=slurm"])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"acount": "me"}, "Unknown argument 'acount' for executor 'slurm'.*account"),
        ({"time": 5}, r"time is not allowed; expected slurm\.minutes="),
        ({"nodes": 2}, "nodes is not allowed; a cell is one process"),
    ],
)
def test_an_option_that_sbatch_does_not_have_is_one_sentence(options, message):
    pytest.importorskip("submitit")
    with pytest.raises(ConfigError, match=message) as found:
        check_slurm(SlurmConfig(cluster="local", options=options))
    assert "\n" not in str(found.value)


def test_without_submitit_or_a_cluster_nothing_is_written_and_the_sentence_says_what_to_do(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, "submitit", None)
    with pytest.raises(ConfigError, match=r"submitit is not installed; pip install 'rmt_rl\[slurm\]'"):
        command([*GIVEN, "executor=slurm"])
    monkeypatch.delitem(sys.modules, "submitit")
    pytest.importorskip("submitit")
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with pytest.raises(ConfigError, match=r"sbatch was not found; .* slurm\.cluster=local"):
        command([*GIVEN, "executor=slurm"])
    assert list(tmp_path.iterdir()) == []


# -------------------------------------------------------------------------------------------------------------------- jobs


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """The rows of both cells, made in this process."""
    folder, matrix = tmp_path_factory.mktemp("undisturbed"), parse_compare(GIVEN)[1]
    for cell in expand(matrix):
        assert run_cell(folder, matrix, cell)
    return without_cost(folder)


class Submitted:
    """A job of the second cell, which submitit's own code runs, and which is started again by hand."""

    def __init__(self, folder, scored=True, steps=30_000):
        from submitit.helpers import DelayedSubmission

        self.matrix = parse_compare([word.replace("=30000", f"={steps}") for word in GIVEN])[1]
        self.key = expand(self.matrix)[1].key
        self.folder = folder / "x"
        prepare(self.folder)
        (self.folder / "jobs").mkdir()
        delayed = DelayedSubmission(CellJob("x", to_dict(self.matrix), self.key, scored))
        delayed.set_timeout(60, 3)
        delayed.dump(self.folder / "jobs/7_submitted.pkl")

    def start(self):
        env = {"SUBMITIT_EXECUTOR": "local", "SUBMITIT_LOCAL_JOB_ID": "7"}
        self.process = Command("-m", "submitit.core._submit", "x/jobs", cwd=self.folder.parent, env=env)

    def trains(self):
        """Whether it has done an update."""
        rows = self.folder / "runs" / self.key / "metrics.jsonl"
        return rows.exists() and rows.read_bytes().count(b"\n") > 0


@pytest.mark.slow
def test_a_preempted_job_saves_is_queued_again_and_continues_to_the_same_row(tmp_path, undisturbed):
    pytest.importorskip("submitit")
    from submitit.local.local import LOCAL_REQUEUE_RETURN_CODE

    job = Submitted(tmp_path)
    job.start()
    wait_for(job.trains)
    for number in (signal.SIGTERM, signal.SIGUSR2):
        job.process.send_signal(number)
    assert job.process.wait(60) == LOCAL_REQUEUE_RETURN_CODE, job.process.communicate()
    assert not list((tmp_path / "x/jobs").glob("*.row")) and not read_cells(tmp_path / "x")
    job.start()
    assert job.process.wait(120) == 0
    log = (tmp_path / "x/logs" / f"{job.key}.log").read_text()
    assert "continuing from checkpoints/step-" in log and "continuing from checkpoints/step-0" not in log
    assert Job(tmp_path / "x", job.key).find()
    assert Job(tmp_path / "x", job.key).poll() == 0
    assert without_cost(tmp_path / "x")[job.key] == undisturbed[job.key]
    assert not list((tmp_path / "x/jobs").glob("*.row"))


@pytest.mark.slow
def test_a_job_that_the_command_asks_to_end_saves_and_is_not_queued_again(tmp_path):
    pytest.importorskip("submitit")
    job = Submitted(tmp_path, steps=900_000)  # it would take minutes
    job.start()
    wait_for(job.trains)
    Job(job.folder, job.key).stop()
    assert job.process.wait(60) == 0
    assert "stopped early" in (job.folder / "logs" / f"{job.key}.log").read_text()
    assert not list(job.folder.glob("jobs/*.row"))


@pytest.mark.slow
def test_a_job_of_a_search_has_the_curve_and_no_evaluation_of_its_own(tmp_path, undisturbed):
    pytest.importorskip("submitit")
    job = Submitted(tmp_path, scored=False)
    job.start()
    assert job.process.wait(120) == 0
    assert Job(job.folder, job.key).poll() == 0
    (row,) = read_cells(job.folder)
    assert (row["final"], row["curve"]) == ({}, undisturbed[job.key]["curve"])


class Known:
    """A job that a cluster knows, in a state."""

    job_id = "7"

    def __init__(self, state):
        self.state, self.cancelled = state, False

    def done(self, force_check=False):
        return self.state not in ("PENDING", "RUNNING")

    def cancel(self, check):
        self.cancelled = True


def known(folder, state):
    prepare(folder)
    (folder / "jobs").mkdir(exist_ok=True)
    job = Job(folder, "a")
    job._job = Known(state)
    return job


def test_a_stop_cancels_a_queued_job_and_asks_a_running_one_to_save(tmp_path):
    queued, running = known(tmp_path, "PENDING"), known(tmp_path, "RUNNING")
    for job in (queued, running):
        assert job.poll() is None
        job.stop()
    assert (tmp_path / "jobs/a.stop").exists()
    assert (queued._job.cancelled, queued.poll()) == (True, 1)
    assert (running._job.cancelled, running.poll()) == (False, None)
    running.kill()
    assert (running._job.cancelled, running.poll()) == (True, 1)


def test_a_job_that_ended_without_a_row_says_how_and_one_whose_cell_still_runs_has_not_ended(tmp_path):
    job = known(tmp_path, "OUT_OF_MEMORY")
    with cell_lock(tmp_path, "a"):
        assert job.poll() is None
    assert job.poll() == 1 and job.ending() == "its job 7 ended as OUT_OF_MEMORY"


def test_a_row_of_another_cell_is_one_sentence(tmp_path):
    job = known(tmp_path, "COMPLETED")
    (tmp_path / "jobs/a.row").write_text('{"key": "b"}')
    with pytest.raises(ConfigError, match=r"a\.row: is not the row of this cell; remove it"):
        job.poll()


@pytest.mark.slow
def test_jobs_outlive_the_command_are_found_again_and_give_the_same_rows(tmp_path, undisturbed):
    pytest.importorskip("submitit")
    folder, cells = tmp_path / "x", expand(parse_compare(GIVEN)[1])
    words = ["-m", "rmt_rl.compare", *GIVEN, *JOBS, "out=x"]
    first = Command(*words, cwd=tmp_path)
    wait_for(lambda: len(list(folder.glob("runs/*/checkpoints/step-0"))) == len(cells))
    first.kill()
    done = run(*words, cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert without_cost(folder) == undisturbed
    assert len((folder / "cells.jsonl").read_text().splitlines()) == len(cells)
    assert len(list(folder.glob("jobs/*_submitted.pkl"))) == len(cells)  # none was submitted twice
