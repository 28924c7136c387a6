"""The process of one cell on this machine."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO, Protocol

from rmt_rl.common.errors import RunError
from rmt_rl.common.files import open_to_append, reason
from rmt_rl.comparison.request import search_path


class CellRun(Protocol):
    """A cell that runs somewhere: in a process of this machine, as a job of Slurm, or on a Ray cluster."""

    def poll(self) -> int | None:
        """The exit status, or None while it runs."""

    def stop(self) -> None:
        """Ask it to save a checkpoint and to end."""

    def kill(self) -> None: ...

    def wait(self) -> None: ...

    def ending(self) -> str:
        """How it ended, in words."""


class CellProcess:
    """Runs `rmt_rl.comparison.worker`. Its output goes to logs/<key>.log.

    job: folder, key (of the cell), matrix (as a dictionary) and scored: whether the policies are evaluated on new episodes after
        training.
    """

    def __init__(self, job: Mapping[str, Any]) -> None:
        log = _open_log(Path(job["folder"]) / "logs" / f"{job['key']}.log")
        with log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "rmt_rl.comparison.worker"],
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=subprocess.STDOUT,
                env={**os.environ, "PYTHONPATH": search_path(), "PYTHONUNBUFFERED": "1"},
                start_new_session=True,  # Ctrl-C in a terminal reaches the parent alone, which stops the workers
            )
        assert self.process.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # it died at its start, which `run_cells` notices
            self.process.stdin.write((json.dumps(job) + "\n").encode())
            self.process.stdin.flush()

    def stop(self) -> None:
        """Ask the process to save a checkpoint and to end."""
        assert self.process.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # it has ended already
            self.process.stdin.close()

    def kill(self) -> None:
        self.process.kill()

    def poll(self) -> int | None:
        """The exit status, or None while it runs."""
        return self.process.poll()

    def wait(self) -> None:
        self.process.wait()

    def ending(self) -> str:
        """How the process ended, in words."""
        status = self.process.returncode
        if status >= 0:
            return f"its process ended with status {status}"
        return f"its process was ended by signal {-status} ({_signal_name(-status)})"


def _open_log(path: Path) -> BinaryIO:
    try:
        return open_to_append(path)
    except OSError as error:
        raise RunError(f"{path}: cannot be written: {reason(error)}") from error


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return "unknown"
