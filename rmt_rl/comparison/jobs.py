"""Cells as jobs of a Slurm cluster, through submitit. `Jobs` submits them and follows them, `CellJob` is what a job runs.

A job and the command that follows it know of each other through files in jobs/, beside those of submitit: <cell>.job says which
job it is, <cell>.stop asks it to save and to end, <cell>.row is its row. A job needs no command that waits for it.
"""

from __future__ import annotations

import dataclasses
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

from rmt_rl.common.errors import ConfigError, RunError, Stopped
from rmt_rl.common.files import make_folder, open_to_append, read_bytes, read_text, reason, remove, write_file
from rmt_rl.common.process import exit_on_signal, require_packages
from rmt_rl.comparison.cells import Cell, Matrix, expand
from rmt_rl.comparison.request import load_modules, search_path
from rmt_rl.comparison.store import LARGEST_ROWS, append_cell, check_row, from_dict, is_locked, to_dict
from rmt_rl.config.comparison import SlurmConfig
from rmt_rl.config.fields import show

#: How often a job may reach its time limit. submitit's own limit is 3, but a job that continues from a checkpoint makes progress.
TIMEOUTS = 10_000
#: Options of sbatch that have an option of ours, or that would start a cell more than once.
TAKEN = {
    "partition": "expected slurm.partition=",
    "time": "expected slurm.minutes=",
    "timeout_min": "expected slurm.minutes=",
    "cpus_per_task": "expected slurm.cpus=",
    **dict.fromkeys(("nodes", "ntasks_per_node", "tasks_per_node"), "a cell is one process; leave it out"),
}


def check_slurm(slurm: SlurmConfig) -> None:
    """Raise ConfigError where no job could be submitted; nothing is written."""
    require_packages("executor=slurm", "slurm", "submitit")
    missing = [name for name in ("sbatch", "srun", "scontrol") if shutil.which(name) is None]
    if slurm.cluster == "slurm" and missing:
        raise ConfigError(
            f"executor=slurm: the command {missing[0]} was not found; start the comparison where jobs can be submitted, or try"
            " it with slurm.cluster=local"
        )
    with tempfile.TemporaryDirectory() as folder:
        _executor(Path(folder), slurm)


def _executor(place: Path, slurm: SlurmConfig) -> Any:
    """submitit's executor with these options; raises ConfigError where one is not allowed."""
    import submitit

    for key, advice in TAKEN.items():
        if key in slurm.options:
            raise ConfigError(f"slurm.options={show(slurm.options)}: {key} is not allowed; {advice}")
    executor = submitit.AutoExecutor(
        place, cluster=slurm.cluster, slurm_max_num_timeout=TIMEOUTS, local_max_num_timeout=TIMEOUTS
    )
    own = {"timeout_min": slurm.minutes, "cpus_per_task": slurm.cpus, "slurm_partition": slurm.partition}
    try:
        executor.update_parameters(**own, **{f"slurm_{key}": value for key, value in slurm.options.items()})
    except (AssertionError, NameError, TypeError, ValueError) as error:  # which submitit raises for names and types
        text = str(error).partition("\n")[0]
        raise ConfigError(f"slurm.options={show(slurm.options)}: {show(text, 900)}") from error
    return executor


class Jobs:
    """The jobs of a comparison, or of a search."""

    def __init__(self, folder: Path, slurm: SlurmConfig) -> None:
        self._folder, self._slurm = folder, slurm
        if "%" in str(folder.absolute()):
            raise ConfigError(f"out={folder}: submitit replaces parts of paths with %; choose another out=")
        try:
            make_folder(folder / "jobs")
        except OSError as error:
            raise ConfigError(f"{folder / 'jobs'}: cannot be used: {reason(error)}") from error
        self._executor = _executor(folder / "jobs", slurm)

    def start(self, matrix: Matrix, cell: Cell, scored: bool = True) -> Job:
        """The job of a cell: that of an earlier command where it is still queued or runs, or left its row; else a new one.

        scored: whether the policies are evaluated on new episodes after training.
        """
        job = Job(self._folder, cell.key)
        if not job.find():
            task = CellJob(str(self._folder), to_dict(matrix), cell.key, scored)
            job.submit(self._executor, task, self._slurm.cluster)
        return job


class Job:
    """One job, as `run_cells` sees it."""

    def __init__(self, folder: Path, key: str) -> None:
        self._folder, self._key = folder, key
        self._job: Any = None
        self._has_row = self._asked = self._cancelled = self._killed = self._ended = False

    def _file(self, kind: str) -> Path:
        return self._folder / "jobs" / f"{self._key}.{kind}"

    def find(self) -> bool:
        """Whether a job of an earlier command is still queued or runs, or left its row."""
        import submitit

        try:
            known = json.loads(read_text(self._file("job")))
            kind = {"slurm": submitit.SlurmJob, "local": submitit.LocalJob}[known["cluster"]]
            if re.fullmatch(r"[0-9]+(_[0-9]+)?", known["id"]) is None:
                raise ValueError
        except (FileNotFoundError, KeyError, RecursionError, TypeError, ValueError):
            return os.path.lexists(self._file("row"))
        self._job = kind(self._folder / "jobs", known["id"])
        # a job that Slurm has forgotten is UNKNOWN for ever, and done() does not count it as done
        gone = self._job.done(force_check=True) or self._job.state.upper() == "UNKNOWN"
        return not gone or os.path.lexists(self._file("row")) or is_locked(self._folder, self._key)

    def submit(self, executor: Any, task: CellJob, cluster: str) -> None:
        from submitit.core.utils import environment_variables

        for kind in ("row", "stop"):
            remove(self._file(kind))
        try:
            with environment_variables(PYTHONPATH=search_path()):
                executor.update_parameters(name=self._key)
                self._job = executor.submit(task)
        except (OSError, RuntimeError, subprocess.SubprocessError) as error:
            text = " ".join(str(error).split())
            raise RunError(f"{self._key}: the job was not accepted: {show(text, 300)}") from error
        write_file(self._file("job"), json.dumps({"cluster": cluster, "id": self._job.job_id}).encode())

    def poll(self) -> int | None:
        """None while the job is queued or runs, 0 where it has left its row, which is written to cells.jsonl then, and else 1."""
        if not self._ended and not self._collect():
            # the lock is held by a job that is being cancelled, and by one of another command on this machine
            over = self._cancelled or self._job is None or self._job.done()
            if not self._killed and (not over or is_locked(self._folder, self._key)):
                return None
            self._collect()  # it may have ended between the two looks
        self._ended = True
        remove(self._file("job"))
        return 0 if self._has_row else 1

    def _collect(self) -> bool:
        path = self._file("row")
        if os.path.lexists(path):
            try:
                row = json.loads(read_bytes(path, LARGEST_ROWS))
                check_row(row, str(path))
                good = row["key"] == self._key
            except (OSError, RecursionError, ValueError):  # ConfigError is one
                good = False
            if not good:
                raise ConfigError(f"{path}: is not the row of this cell; remove it, and the cell is run again")
            append_cell(self._folder, row)
            remove(path)
            self._has_row = True
        return self._has_row

    def stop(self) -> None:
        """Ask the job to save a checkpoint and to end; one that still waits in the queue is cancelled."""
        if self._ended or self._asked:
            return
        self._asked = True
        write_file(self._file("stop"), b"")
        if self._job is not None and not self._job.done(force_check=True) and self._job.state.upper() != "RUNNING":
            self._cancel()

    def kill(self) -> None:
        """Cancel the job without waiting for its checkpoint."""
        if not self._killed and self._job is not None:
            self._cancel()
        self._killed = True

    def _cancel(self) -> None:
        self._cancelled = True
        self._job.cancel(check=False)

    def wait(self) -> None:
        while self.poll() is None:
            time.sleep(1.0)

    def ending(self) -> str:
        """How the job ended, in words."""
        return f"its job {self._job.job_id} ended as {self._job.state}"


class CellJob:
    """What a job runs: it trains and evaluates a cell and leaves the row. Slurm starts the same object again after a preemption.

    SIGTERM and SIGUSR2, with which Slurm announces a preemption or the time limit, save a checkpoint, and submitit queues the job
    again, which then continues from there to the same bits.
    """

    #: of jobs that an earlier version submitted
    scored = True

    def __init__(self, folder: str, matrix: dict[str, Any], key: str, scored: bool = True) -> None:
        self.folder, self.matrix, self.key, self.scored = folder, matrix, key, scored

    def checkpoint(self) -> Any:
        """What submitit runs when the job starts again."""
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(self)

    def __call__(self) -> None:
        place, stop = Path(self.folder), Path(self.folder) / "jobs" / f"{self.key}.stop"
        with open_to_append(place / "logs" / f"{self.key}.log") as log:
            for number in (1, 2):
                os.dup2(log.fileno(), number)
        # submitit's handler is not safe at any moment: an update may be half done. It is called where everything is saved.
        queue_again = signal.getsignal(signal.SIGUSR2)
        assert callable(queue_again)
        handled = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR2)
        for number in handled:
            signal.signal(number, exit_on_signal)
        threading.Thread(target=_end_when_asked, args=(stop,), daemon=True).start()
        try:
            row = self._run(place)
        except Stopped:
            row = None
        for number in handled:
            signal.signal(number, signal.SIG_IGN)
        if row is not None:
            write_file(stop.with_suffix(".row"), json.dumps(row, allow_nan=False).encode())
        elif not stop.exists():
            try:
                queue_again(signal.SIGUSR2, None)
            except (OSError, subprocess.SubprocessError) as error:
                print(f"the job was not queued again ({error}); the command starts it again", flush=True)
                sys.exit(1)

    def _run(self, folder: Path) -> dict[str, Any] | None:
        from rmt_rl.common.process import configure_process
        from rmt_rl.comparison.worker import locked_row

        matrix = from_dict(self.matrix)
        load_modules(matrix.plugins, matrix.tasks)
        cell = next(cell for cell in expand(matrix) if cell.key == self.key)
        if not self.scored:
            cell = dataclasses.replace(cell, tests={})
        configure_process(cell.config.threads)
        return locked_row(folder, matrix, cell)


def _end_when_asked(stop: Path) -> None:
    """End this process as SIGTERM does, once a command asks for it."""
    while not stop.exists():
        time.sleep(1.0)
    os.kill(os.getpid(), signal.SIGTERM)
