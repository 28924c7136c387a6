"""What a comparison shows while it runs and at its end: a live table on a terminal, plain lines elsewhere."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from rmt_rl.common.files import open_file
from rmt_rl.common.output import on_terminal
from rmt_rl.comparison.cells import TRAINING, Cell
from rmt_rl.comparison.store import number, read_cells
from rmt_rl.config.files import typed
from rmt_rl.runs.metrics import clock, short

#: Seconds between two plain lines about running cells, and between two looks at the files for the live table.
PLAIN_INTERVAL, LIVE_INTERVAL = 30.0, 1.0
#: Bytes at the end of metrics.jsonl that hold its last row.
TAIL = 8_192


class Overview:
    """Shows the cells of a comparison. `look` is cheap and may be called often.

    cells: all of the comparison. finished rows are read from the folder.
    """

    def __init__(self, folder: Path, cells: Sequence[Cell], workers: int) -> None:
        self._folder, self._workers = folder, workers
        self._cells = {cell.key: cell for cell in cells}
        self._reported = {row["key"] for row in read_cells(folder)}
        self._last = time.monotonic() - (LIVE_INTERVAL if on_terminal() else 0)
        self._size = -1
        self._rows: list[dict[str, Any]] = []
        self._live: Any = None
        if on_terminal():
            from rich.live import Live

            self._live = Live(refresh_per_second=2, transient=True)

    def __enter__(self) -> Overview:
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live is not None:
            self._live.stop()

    def look(self, running: Sequence[str], stopping: bool) -> None:
        """Show what changed. running: the keys of cells in progress."""
        self._read()
        for row in self._rows:
            if row["key"] in self._cells and row["key"] not in self._reported:
                self._reported.add(row["key"])
                print(f"[{self._done()}/{len(self._cells)}] {describe(row)}", flush=True)
        interval = PLAIN_INTERVAL if self._live is None else LIVE_INTERVAL
        if time.monotonic() - self._last < interval:
            return
        self._last = time.monotonic()
        lines = [self._line(key, stopping) for key in running]
        if self._live is not None:
            from rich.text import Text

            self._live.update(Text("\n".join([self._total(running), *lines, "", *self._means()]), overflow="ellipsis"))
        elif lines:
            print("\n".join([self._total(running), *lines]), flush=True)

    def _read(self) -> None:
        path = self._folder / "cells.jsonl"
        size = path.stat().st_size if path.exists() else 0
        if size != self._size:
            self._rows, self._size = read_cells(self._folder), size

    def _done(self) -> int:
        return sum(key in self._cells for key in self._reported)

    def _line(self, key: str, stopping: bool) -> str:
        cell, last = self._cells[key], last_row(self._folder / "runs" / key / "metrics.jsonl")
        if stopping:
            return f"  {key}  is stopping"
        if last is None:
            return f"  {key}  is starting"
        steps, seconds = last["steps"], max(last.get("wall_s") or 0.0, 1e-9)
        if steps >= cell.config.steps:
            return f"  {key}  is being evaluated"
        speed = steps / seconds
        left = clock((cell.config.steps - steps) / speed)
        shown = last.get("success") if last.get("success") is not None else last.get("return")
        done = f"{steps / cell.config.steps:4.0%} of {short(cell.config.steps)} steps"
        score = "" if shown is None else f"  {shown:.3f}"
        return f"  {key}  {done}  {short(round(speed))}/s{score}  {left} left"

    def _total(self, running: Sequence[str]) -> str:
        failed = sum(row["status"] == "failed" for row in self._rows if row["key"] in self._cells)
        text = f"{self._done()} of {len(self._cells)} cells done" + (f", {failed} failed" if failed else "")
        costs = [number((row.get("cost") or {}).get("steps_per_cpu_s")) for row in self._rows]
        speeds = [speed for speed in costs if speed is not None and speed > 0]
        remaining = 0
        for key, cell in self._cells.items():
            if key in self._reported:
                continue
            last = last_row(self._folder / "runs" / key / "metrics.jsonl") if key in running else None
            if last is not None and last.get("wall_s"):
                speeds.append(last["steps"] / last["wall_s"])
            remaining += cell.config.steps - (last["steps"] if last is not None else 0)
        if not speeds or not remaining:
            return text
        speed = len(speeds) / sum(1 / speed for speed in speeds)
        return f"{text}, about {clock(remaining / speed / self._workers)} of training left"

    def _means(self) -> list[str]:
        return table([row for row in self._rows if row["key"] in self._cells], [*self._cells.values()])


def last_row(path: Path) -> dict[str, Any] | None:
    """The last row of a metrics.jsonl that a process is writing; None where there is none yet."""
    return next(_newest_rows(path, TAIL), None)


def eval_rows(path: Path) -> list[tuple[int, float]]:
    """Steps and value of the evaluations among the newest rows of a metrics.jsonl that a process is writing, oldest first."""
    found = []
    for row in _newest_rows(path, 32 * TAIL):
        value = row.get("eval_return") if row.get("eval_success") is None else row["eval_success"]
        if isinstance(value, (int, float)):
            found.append((row["steps"], float(value)))
    return found[::-1]


def eval_points(row: Mapping[str, Any]) -> list[tuple[int, float]]:
    """Steps and value of the evaluations in the row of a cell, those without a finite value left out."""
    curve = row.get("curve") or {}
    pairs = zip(curve.get("eval_steps") or (), curve.get("eval") or (), strict=False)
    points = [(number(step), number(value)) for step, value in pairs]
    return [(int(step), value) for step, value in points if step is not None and value is not None]


def _newest_rows(path: Path, size: int) -> Iterator[dict[str, Any]]:
    """The rows in the last bytes of a metrics.jsonl, newest first."""
    try:
        with os.fdopen(open_file(path), "rb") as file:
            file.seek(max(0, os.fstat(file.fileno()).st_size - size))
            lines = file.read(size).splitlines(keepends=True)
    except OSError:  # the run has not begun
        return
    for line in reversed(lines):
        if line.endswith(b"\n") and line.startswith(b"{"):
            try:
                row = json.loads(line)
            except ValueError:  # the beginning of a row that was cut
                continue
            if isinstance(row, dict) and isinstance(row.get("steps"), int) and row["steps"] > 0:
                yield row


def describe(row: Mapping[str, Any]) -> str:
    """One line about a cell that ended."""
    if row["status"] == "failed":
        return f"{row['key']}: failed: {row['error']}"
    parts = []
    for name, score in (row.get("final") or {}).items():
        where = "" if name == TRAINING else f"{name}: "
        parts.append(f"{where}{score.get('measure') or 'return'} {_number(score.get('value'))}")
    seconds = number((row.get("cost") or {}).get("cpu_s"))
    return f"{row['key']}: {', '.join(parts) or 'nothing was evaluated'}" + (
        "" if seconds is None else f"  ({seconds:.0f} CPU-seconds)"
    )


def table(rows: Sequence[Mapping[str, Any]], cells: Sequence[Cell]) -> list[str]:
    """Lines of a table of means over seeds, of the final policies; one line for every task, policy and variant."""
    found = {row["key"]: row for row in rows if row["status"] == "finished"}
    lines: list[tuple[str, ...]] = []
    for task in dict.fromkeys(cell.task for cell in cells):
        own = [cell for cell in cells if cell.task == task]
        known = [found[cell.key] for cell in own if cell.key in found]
        if not known:
            continue
        tests = [*own[0].tests]
        finals = [row.get("final") or {} for row in known]
        scores = {name: final[name] for name in tests for final in finals[::-1] if name in final}
        heads = [name if name != TRAINING else "as trained" for name in scores]
        lines.append((task, "seeds", *heads))
        for kind in dict.fromkeys((cell.policy, _variant(cell.variant)) for cell in own):
            same = [found[c.key] for c in own if c.key in found and (c.policy, _variant(c.variant)) == kind]
            values = [_mean([(row.get("final") or {}).get(name, {}).get("value") for row in same]) for name in scores]
            lines.append((f"  {' '.join(kind).strip()}", str(len(same)), *values))
        for bound in ("floor", "ceiling"):
            found_bounds = [_bound([final[name].get(bound) for final in finals if name in final]) for name in scores]
            if any(found_bounds):
                lines.append((f"  {bound}", "", *found_bounds))
    widths: dict[int, int] = {}
    for line in lines:
        widths |= {i: max(len(text), widths.get(i, 0)) for i, text in enumerate(line)}
    return [
        "  ".join(f"{text:<{widths[i]}}" if i == 0 else f"{text:>{widths[i]}}" for i, text in enumerate(line))
        for line in lines
    ]


def _variant(variant: Mapping[str, Any]) -> str:
    return " ".join(f"{key}={typed(value)}" for key, value in variant.items())


def _number(value: Any) -> str:
    return "-" if (known := number(value)) is None else f"{known:.3f}"


def _bound(found: Sequence[Any]) -> str:
    """The floor or ceiling of a test; the lowest and the highest where variants of the task differ."""
    values = sorted({value for value in map(number, found) if value is not None})
    return " to ".join(f"{value:.3f}" for value in dict.fromkeys((values[0], values[-1]))) if values else ""


def _mean(found: Sequence[Any]) -> str:
    values = [value for value in map(number, found) if value is not None]
    if not values:
        return "-"
    mean = sum(values) / len(values)
    return f"{mean:.3f} ({min(values):.3f} to {max(values):.3f})" if len(values) > 1 else f"{mean:.3f}"
