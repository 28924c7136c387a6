"""Trains and evaluates one cell, and writes its row: `python -m rmt_rl.comparison.worker`, with the job on standard input.

The parent keeps standard input open. When it closes, the parent wants the worker to stop, or is gone: the worker then saves a
checkpoint and ends, and the next worker of this cell continues from there to the same bits.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import platform
import signal
import sys
import threading
import time
import traceback
from pathlib import Path
from typing import Any

import filelock
import torch

import rmt_rl
from rmt_rl.common.device import choose_device
from rmt_rl.common.errors import ConfigError, RunError, Stopped
from rmt_rl.common.files import reason, remove
from rmt_rl.common.process import configure_process, exit_on_signal
from rmt_rl.common.state import leaves
from rmt_rl.comparison.cells import Cell, Matrix, expand
from rmt_rl.comparison.request import load_modules
from rmt_rl.comparison.rows import base_row, difference, failed_row, options_of
from rmt_rl.comparison.scores import check_tests, curves, measure_of, score_of
from rmt_rl.comparison.store import append_cell, cell_lock, from_dict
from rmt_rl.config.fields import show
from rmt_rl.config.files import load_yaml, to_dict
from rmt_rl.config.resolve import change
from rmt_rl.policies.actor_critic import ActorCritic
from rmt_rl.policies.saving import load_policy
from rmt_rl.runs.callbacks import Callback, Run
from rmt_rl.runs.checkpoints import NAME
from rmt_rl.runs.folder import read_result
from rmt_rl.train import train

#: Seconds to wait for the worker of a parent that is gone, which stops at its next step.
PATIENCE = 600.0


class CpuBudget(Callback):
    """Ends the training of a cell after a number of CPU-seconds, those before it was resumed included."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds

    def on_update(self, run: Run) -> None:
        if run.cpu_s >= self.seconds:
            run.stop(f"budget.cpu_s={self.seconds:g} is used")


def run_cell(folder: Path, matrix: Matrix, cell: Cell) -> bool:
    """Train and evaluate a cell and append its row; False where a signal stopped it, so that it has none."""
    row = locked_row(folder, matrix, cell)
    if row is not None:
        append_cell(folder, row)
    return row is not None


def locked_row(folder: Path, matrix: Matrix, cell: Cell) -> dict[str, Any] | None:
    """The row of a cell, which no other process runs meanwhile; None where a signal stopped it, or another one does not end."""
    lock = cell_lock(folder, cell.key)
    try:
        # the worker of a killed command needs a moment to stop
        with lock.acquire(timeout=PATIENCE):
            return _row(folder, matrix, cell)
    except filelock.Timeout:
        print(f"another process runs {cell.key} since {PATIENCE:.0f} seconds; stop it", flush=True)
        return None


def _row(folder: Path, matrix: Matrix, cell: Cell) -> dict[str, Any] | None:
    """Train and evaluate a cell. What goes wrong becomes the row of a failed cell."""
    try:
        if not train_cell(folder, matrix, cell):
            return None
        row = finished_row(folder, matrix, cell)
        json.dumps(row, allow_nan=False)  # a number that no file can hold is an error of this cell
        return row
    except (ConfigError, RunError) as error:
        return failed_row(matrix, cell, str(error))
    except Stopped:
        raise
    except (Exception, SystemExit) as error:  # of an environment or a policy of the user
        traceback.print_exc()
        text = f"{type(error).__name__}: {show(' '.join(str(error).split()), 300)}; logs/{cell.key}.log has the details"
        return failed_row(matrix, cell, text)


def train_cell(folder: Path, matrix: Matrix, cell: Cell) -> bool:
    """Train a cell from its beginning or its newest checkpoint; False where a signal stopped it."""
    place = folder / "runs" / cell.key
    config = cell.config
    if place.is_symlink() or (os.path.lexists(place) and not place.is_dir()):
        raise ConfigError(f"{place}: is no folder of its own; remove it, then repeat the command with retry=true")
    if place.is_dir():
        wait_for_other(place)
        if not has_checkpoint(place):  # a worker was killed before its first one
            remove(place)
    if place.is_dir():
        saved = load_yaml(
            place / "config.yaml", trust=True
        )  # nothing is imported, and it must be what this cell asks for
        if (name := difference(saved, config, fitted=True)) is not None:
            raise ConfigError(
                f"{place / 'config.yaml'}: {name} is not that of this cell; remove {place}, then repeat the command with"
                " retry=true"
            )
        result = place / "result.json"
        if result.is_file() and not read_result(result).get("interrupted"):
            return True
        config = dataclasses.replace(saved, env=config.env, resume=str(place))
    else:
        check_tests(config, cell.tests)
    callbacks = [] if matrix.cpu_s is None else [CpuBudget(matrix.cpu_s)]
    summary = train(config, root=folder / "runs", callbacks=callbacks).summary
    return not summary["interrupted"]


def wait_for_other(place: Path) -> None:
    """Wait until no other process trains in a run's folder: the worker of a killed parent needs a moment to stop."""
    try:
        with filelock.FileLock(place / ".lock", timeout=PATIENCE):
            pass
    except filelock.Timeout as error:
        raise RunError(f"{place}: another process trains there since {PATIENCE:.0f} seconds; stop it") from error
    except OSError as error:
        raise ConfigError(f"{place}: cannot be opened: {reason(error)}") from error


def has_checkpoint(place: Path) -> bool:
    """Whether a run's folder holds something to continue from."""
    folder = place / "checkpoints"
    found = os.listdir(folder) if folder.is_dir() and not folder.is_symlink() else []
    return (place / "config.yaml").is_file() and any(NAME.fullmatch(name) for name in found)


def finished_row(folder: Path, matrix: Matrix, cell: Cell) -> dict[str, Any]:
    """Evaluate the policies of a trained cell, and collect everything that is known about it."""
    place = folder / "runs" / cell.key
    result = read_result(place / "result.json")
    saved = load_yaml(place / "config.yaml", trust=True)
    device = choose_device(cell.config.device)
    begin, cpu = time.monotonic(), time.process_time()
    policies = {"final": load_policy(place / "policy", device, trust=True)}
    if result["best"] is not None:
        policies["best"] = load_policy(place / "best", device, trust=True)
    scores: dict[str, dict[str, Any]] = {"final": {}, "best": {}}
    if "best" in policies and have_equal_weights(**policies):
        del policies["best"]
        scores["best"] = scores["final"]  # they play the same episodes
    for name, changes in cell.tests.items():
        env = cell.config.env if not changes else change(cell.config.env, "env", changes)
        for which, policy in policies.items():
            print(f"evaluating the {which} policy: {name}", flush=True)
            scores[which][name] = score_of(policy, env, cell.config, cell.episodes, device)
    measures = [score["measure"] for score in scores["final"].values()]
    measure = measures[0] if measures else measure_of(place)
    policy = policies["final"]
    return {
        **base_row(matrix, cell),
        "status": "finished",
        "error": None,
        "parameters": sum(p.numel() for p in policy.parameters()),
        "steps": result["steps"],
        "stopped": result["stopped"],
        **scores,
        "best_steps": result["best"] and result["best"]["steps"],
        "curve": curves(place, measure),
        "options": options_of(cell, to_dict(saved)),
        "versions": {
            "rmt_rl": rmt_rl.__version__,
            "torch": str(torch.__version__),
            "python": platform.python_version(),
        },
        "cost": {
            "cpu_s": result["cpu_s"],
            "wall_s": result["wall_s"],
            "steps_per_cpu_s": result["steps_per_cpu_s"],
            "evaluation_cpu_s": round(time.process_time() - cpu, 2),
            "evaluation_wall_s": round(time.monotonic() - begin, 2),
            "peak_memory_mb": peak_memory(),
            "state_bytes_per_row": state_bytes(policy),
            "cpu": cpu_name(),
        },
    }


def have_equal_weights(final: ActorCritic, best: ActorCritic) -> bool:
    """Whether two policies of one run are the same: the best one was that of the last step."""
    mine, theirs = final.state_dict(), best.state_dict()
    return all(torch.equal(mine[name], theirs[name]) for name in mine)


def state_bytes(policy: ActorCritic) -> int:
    """Bytes of what one row of the policy remembers from step to step."""
    return sum(x.numel() * x.element_size() for x in leaves(policy.initial_state(1)).values())


def peak_memory() -> int | None:
    """MB of memory that this process needed at most, or None where the system does not tell."""
    try:
        import resource
    except ImportError:  # Windows
        return None
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10))


def cpu_name() -> str:
    """The processor, as the system names it."""
    with contextlib.suppress(OSError), open("/proc/cpuinfo", encoding="utf-8") as file:
        for line in file:
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def stop_when_closed() -> None:
    """End this process as SIGTERM does, once nothing holds the other end of standard input any more."""

    def watch() -> None:
        # not through sys.stdin, whose lock would be held when Python exits
        while os.read(0, 4096):
            pass
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=watch, daemon=True).start()


def main() -> int:
    """The exit status: 0 where the row was written, 128 + signal where the worker was stopped."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, exit_on_signal)
    job = json.loads(sys.stdin.buffer.readline())
    stop_when_closed()
    matrix = from_dict(job["matrix"])
    load_modules(matrix.plugins, matrix.tasks)
    cell = next(cell for cell in expand(matrix) if cell.key == job["key"])
    if not job["scored"]:  # for a search, the evaluations during training are enough
        cell = dataclasses.replace(cell, tests={})
    configure_process(cell.config.threads)
    return 0 if run_cell(Path(job["folder"]), matrix, cell) else 128 + signal.SIGTERM


if __name__ == "__main__":
    sys.exit(main())
