"""A stand-in for the report: results.csv alone."""

from __future__ import annotations

import csv
import io
from pathlib import Path

from rmt_rl.common.files import write_file
from rmt_rl.comparison.store import read_cells


def write_report(folders: list[Path], out: Path) -> Path:
    """Write the results of some comparisons to `out`; returns the file to look at."""
    text = io.StringIO()
    table = csv.writer(text)
    table.writerow(["task", "policy", "variant", "seed", "test", "which", "measure", "value"])
    rows = [row for folder in folders for row in read_cells(folder) if row["status"] == "finished"]
    for row in sorted(rows, key=lambda row: row["key"]):
        for which in ("final", "best"):
            for test, score in (row[which] or {}).items():
                cell = [row["task"], row["policy"], row["variant"], row["seed"]]
                table.writerow([*cell, test, which, score["measure"], score["value"]])
    out.mkdir(exist_ok=True)
    write_file(out / "results.csv", text.getvalue().encode())
    return out / "results.csv"
