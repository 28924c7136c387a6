"""The folder of a comparison: comparison.yaml, what was asked, and cells.jsonl, one line per finished or failed cell. Torch-free.

Several processes append to cells.jsonl, one at a time. A line that a killed process left unfinished is removed by the next one.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import NoneType
from typing import Any

import filelock
import yaml

from rmt_rl.common.errors import ConfigError, RunError
from rmt_rl.common.files import make_folder, open_file, read_bytes, reason, write_and_sync, write_file
from rmt_rl.comparison.cells import Matrix
from rmt_rl.config.fields import show
from rmt_rl.config.files import read_yaml

#: Version of comparison.yaml; increases when older files cannot be read any more.
FORMAT = 1
ROWS, REQUEST, LOCK, ROWS_LOCK = "cells.jsonl", "comparison.yaml", ".lock", ".cells.lock"
#: Bytes of the largest cells.jsonl that is read, and of one row of it.
LARGEST_ROWS = 2**30
#: Seconds to wait for another process that appends a row.
PATIENCE = 60.0
#: The entries that every row has.
PLACE: dict[str, type] = {"key": str, "task": str, "policy": str, "seed": int, "status": str}
#: The types of a score's entries, and their names in messages.
SCORE: dict[str, tuple[tuple[type, ...], str]] = {
    "measure": ((str,), "text"),
    "per_episode": ((list,), "a list"),
    **dict.fromkeys(("episodes", "distinct"), ((int,), "a whole number")),
    **dict.fromkeys(("value", "floor", "ceiling", "mean_steps"), ((int, float), "a number")),
}
RUN = "a run with key, task, policy, seed and status"
WITHOUT_LINE = "remove the line, and its cell is run again"


def prepare(folder: Path) -> None:
    """Make the folder and those inside it; raises ConfigError where something else has their names."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name in ("runs", "logs", "report"):
            make_folder(folder / name)
        for name in (ROWS, REQUEST, LOCK, ROWS_LOCK):
            if os.path.lexists(folder / name):
                os.close(open_file(folder / name))
    except OSError as error:
        raise ConfigError(
            f"out={folder}: {error.filename or folder} cannot be used: {reason(error)}; choose another out="
        ) from error


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """The lock of a comparison's folder; raises ConfigError where another process holds it.

    An operation on files that fails inside, as on a full disk, raises RunError.
    """
    lock = filelock.FileLock(folder / LOCK)
    try:
        lock.acquire(timeout=0)
    except filelock.Timeout as error:
        raise ConfigError(f"out={folder}: another command is running there; wait for it, or stop it") from error
    except OSError as error:
        raise ConfigError(f"out={folder}: cannot be used: {reason(error)}") from error
    try:
        yield
    except BrokenPipeError:  # nobody reads the output any more
        raise
    except OSError as error:
        where = folder if error.filename is None else show(os.fsdecode(error.filename), 300)
        raise RunError(f"{where}: {reason(error)}; once that is solved, the same command continues") from error
    finally:
        lock.release()


def cell_lock(folder: Path, key: str) -> filelock.BaseFileLock:
    """The lock of a cell, which the process that trains and evaluates it holds: it never runs twice at a time."""
    (folder / "runs").mkdir(exist_ok=True)
    return filelock.FileLock(folder / "runs" / f".{key}.lock")


def is_locked(folder: Path, key: str) -> bool:
    """Whether a process trains or evaluates a cell now, on this machine or another one with the same file system."""
    try:
        with cell_lock(folder, key).acquire(timeout=0):
            return False
    except filelock.Timeout:
        return True


def read_cells(folder: Path) -> list[dict[str, Any]]:
    """The latest row of every cell, in the order in which they ended; a finished row rather than a failed one."""
    found: dict[str, dict[str, Any]] = {}
    for row in read_rows(folder):
        if row["status"] == "finished" or found.get(row["key"], row)["status"] == "failed":
            found.pop(row["key"], None)
            found[row["key"]] = row
    return list(found.values())


def read_rows(folder: Path) -> list[dict[str, Any]]:
    """Every row of cells.jsonl, checked by `check_row`. A link may lead to the file, because it is only read.

    A last line without its end, from a process that was killed while it wrote, does not count. Raises ConfigError where another
    line is not a row.
    """
    return _rows(folder / ROWS)[0]


def _rows(path: Path) -> tuple[list[dict[str, Any]], int]:
    """The rows of a file, and its bytes without an unfinished last line."""
    if not os.path.lexists(path):
        return [], 0
    try:
        data = read_bytes(path, LARGEST_ROWS, follow=True)
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {reason(error)}") from error
    complete = data[: data.rfind(b"\n") + 1]
    rows = []
    for number, line in enumerate(complete.split(b"\n")[:-1], start=1):
        where = f"{path}: line {number}"
        try:
            row = json.loads(line.decode())
            if b"\\ud" in line.lower():  # half of a pair, which no other file can hold
                json.dumps(row, ensure_ascii=False).encode()
        except (RecursionError, ValueError) as error:
            raise ConfigError(f"{where} is not JSON; {WITHOUT_LINE}") from error
        check_row(row, where)
        rows.append(row)
    return rows, len(complete)


def check_row(row: Any, where: str) -> None:
    """Raise ConfigError unless a value has, in its kind, what readers of rows rely on. where: file and line.

    Entries other than those of `PLACE` may be missing. Numbers need not be finite: those that are not count as missing.
    """

    def need(good: bool, what: str, value: Any, expected: str) -> None:
        if not good:
            plain = show(repr(value)) if isinstance(value, (str, NoneType)) else show(value)
            found = f"a {type(value).__name__}" if expected in ("a mapping", RUN) else plain
            raise ConfigError(f"{where}{what} is {found}; expected {expected}; {WITHOUT_LINE}")

    need(isinstance(row, dict), "", row, RUN)
    for name, kind in PLACE.items():
        need(type(row.get(name)) is kind, f": {name}", row.get(name), "text" if kind is str else "a whole number")
    need(row["status"] in ("finished", "failed"), ": status", row["status"], "finished or failed")
    for name in ("variant", "final", "best", "curve", "options", "versions", "cost"):
        need(isinstance(row.get(name, {}), (dict, NoneType)), f": {name}", row.get(name), "a mapping")
    for name in ("parameters", "steps"):
        need(type(row.get(name)) in (int, NoneType), f": {name}", row.get(name), "a whole number")
    if row["status"] == "failed":
        need(isinstance(row.get("error"), str), ": error", row.get("error"), "text")
    for name, values in (row.get("curve") or {}).items():
        need(isinstance(values, (list, NoneType)), f": curve.{show(name)}", values, "a list")
    scores = [(which, test, score) for which in ("final", "best") for test, score in (row.get(which) or {}).items()]
    for which, test, score in scores:
        at = f": {which} {show(test)}"
        need(isinstance(score, dict), at, score, "a mapping")
        for name, (kinds, expected) in SCORE.items():
            need(type(score.get(name)) in (*kinds, NoneType), f"{at} {name}", score.get(name), expected)


def number(value: Any) -> float | None:
    """A finite number, or None."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    try:
        return float(value) if math.isfinite(value) else None
    except OverflowError:  # a whole number that no float can hold
        return None


def append_cell(folder: Path, row: Mapping[str, Any]) -> None:
    """Add a row and force it to the disk; one process at a time. A cell that is finished already keeps its row."""
    path = folder / ROWS
    data = (json.dumps(row, allow_nan=False) + "\n").encode()
    try:
        with filelock.FileLock(folder / ROWS_LOCK, timeout=PATIENCE):
            rows, length = _rows(path)
            if any(known["key"] == row["key"] and known["status"] == "finished" for known in rows):
                return
            file = open_file(path, os.O_WRONLY | os.O_CREAT)
            try:
                if os.fstat(file).st_nlink > 1:
                    raise ConfigError(
                        f"{path}: has several names (hard links), which would all change; replace it by a copy"
                    )
                os.ftruncate(file, length)  # an unfinished line of a killed process
                os.lseek(file, length, os.SEEK_SET)
                write_and_sync(file, data)
            finally:
                os.close(file)
    except filelock.Timeout as error:
        raise RunError(f"{path}: another process holds {ROWS_LOCK} beside it; stop that process") from error
    except OSError as error:
        raise RunError(f"{path}: cannot be written: {reason(error)}; free space, then repeat the command") from error


def forget_failed(folder: Path) -> int:
    """Remove the rows of failed cells, so that they are run again; returns their number."""
    rows = read_cells(folder)
    kept = [row for row in rows if row["status"] == "finished"]
    if len(kept) < len(rows):
        write_file(folder / ROWS, "".join(json.dumps(row) + "\n" for row in kept).encode())
    return len(rows) - len(kept)


def repair(folder: Path) -> str | None:
    """A sentence about an unfinished last line of cells.jsonl, which is removed; None where there is none."""
    path = folder / ROWS
    _, length = _rows(path)
    if not os.path.lexists(path) or path.stat().st_size == length:
        return None
    with contextlib.closing(os.fdopen(open_file(path, os.O_WRONLY), "wb")) as file:
        os.ftruncate(file.fileno(), length)
        os.fsync(file.fileno())
    return f"{path}: the last line was not complete and was removed; its cell is run again"


def save_request(folder: Path, matrix: Matrix, command: str) -> None:
    """Write comparison.yaml."""
    content = {"format": FORMAT, **to_dict(matrix), "command": command}
    write_file(folder / REQUEST, yaml.safe_dump(content, sort_keys=False, allow_unicode=True).encode())


def read_request(folder: Path) -> dict[str, Any] | None:
    """The contents of comparison.yaml; None where there is none. Raises ConfigError where it is of another kind or format."""
    path = folder / REQUEST
    if not os.path.lexists(path):
        return None
    content = read_yaml(path)
    if not isinstance(content, dict):
        raise ConfigError(f"{path}: expected what a comparison was asked for, found a {type(content).__name__}")
    if content.get("format") != FORMAT:
        raise ConfigError(f"{path}: format={show(content.get('format'))}: this version of rmt_rl reads format {FORMAT}")
    return content


def load_request(folder: Path) -> Matrix | None:
    """What the comparison in a folder was asked for; None where there is none. Raises ConfigError where the file is damaged."""
    content = read_request(folder)
    if content is None:
        return None
    try:
        return from_dict(content)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise ConfigError(
            f"{folder / REQUEST}: is not what a comparison writes ({type(error).__name__}: {show(str(error))}); restore it, or"
            " choose another out="
        ) from error


def to_dict(matrix: Matrix) -> dict[str, Any]:
    """A matrix as plain values, which YAML and JSON can hold."""
    return {
        "tasks": [*matrix.tasks],
        "policies": [*matrix.policies],
        "axes": {key: [*values] for key, values in matrix.axes.items()},
        "seeds": [*matrix.seeds],
        "options": dict(matrix.options),
        "tests": {key: [*values] for key, values in matrix.tests.items()},
        "params": matrix.params,
        "budget": {"cpu_s": matrix.cpu_s},
        "plugins": [*matrix.plugins],
    }


def from_dict(content: Mapping[str, Any]) -> Matrix:
    """The reverse of `to_dict`; raises what Python raises where the values are of other kinds."""
    texts = {name: _texts(content[name]) for name in ("tasks", "policies", "plugins")}
    seeds, params, cpu_s = tuple(content["seeds"]), content["params"], content["budget"]["cpu_s"]
    if not texts["tasks"] or not texts["policies"]:
        raise TypeError("expected tasks and policies")
    if not seeds or not all(type(seed) is int and 0 <= seed < 2**31 for seed in seeds):
        raise TypeError("expected seeds")
    if not (params is None or type(params) is int) or not (cpu_s is None or type(cpu_s) in (int, float)):
        raise TypeError("expected numbers for params and budget")
    return Matrix(
        texts["tasks"],
        texts["policies"],
        seeds,
        _values(content["axes"]),
        {str(key): value for key, value in content["options"].items()},
        _values(content["tests"]),
        params,
        cpu_s,
        texts["plugins"],
    )


def _values(axes: Any) -> dict[str, tuple[Any, ...]]:
    """The values of every axis, which are one at least."""
    if not all(isinstance(values, list) and values for values in axes.values()):
        raise TypeError("expected a list of values for every axis and test")
    return {str(key): tuple(values) for key, values in axes.items()}


def _texts(values: Any) -> tuple[str, ...]:
    if not isinstance(values, list) or not all(isinstance(value, str) for value in values):
        raise TypeError("expected a list of names")
    return tuple(values)
