"""A diagnosis of a memory as text, as a table, as JSON and as a figure."""

from __future__ import annotations

import dataclasses
import io
import json
import math
from pathlib import Path
from typing import Any

import numpy as np

from rmt_rl.common.errors import ConfigError
from rmt_rl.common.files import reason, write_file
from rmt_rl.common.palette import PALETTE
from rmt_rl.viewing.diagnosis import SAME, Diagnosis, Rest

#: Rows of the printed table.
ROWS = 12


def write_report(found: Diagnosis, folder: Path) -> Path:
    """Write memory.png, memory.csv and memory.json to a new folder; returns the path of the figure."""
    try:
        folder.mkdir(parents=True)
        write_file(folder / "memory.json", (json.dumps(to_json(found), indent=1) + "\n").encode())
        write_file(folder / "memory.csv", to_csv(found).encode())
        write_file(folder / "memory.png", draw(found))
    except OSError as error:
        raise ConfigError(f"out={folder}: cannot be written: {reason(error)}") from error
    return folder / "memory.png"


def describe(found: Diagnosis) -> str:
    """The findings as text: a table over time, when each variable was stored and lost, and where the memory comes to rest."""
    o = found.over_time
    how = f", written every {found.period} steps" if found.is_written else ""
    lines = [
        f"{found.part}: {found.numbers} numbers{how}",
        f"{found.episodes} episodes of {found.lengths[0]} to {found.lengths[1]} steps, {found.distinct} of them different",
        "",
    ]
    variables = list(o.accuracy)
    heads = [
        "step",
        "episodes",
        "last change",
        "size",
        *(f"{name}: read-out (chance)  between/within" for name in variables),
    ]
    widths = [max(8, len(head)) for head in heads]
    lines.append("  ".join(f"{head:>{width}}" for head, width in zip(heads, widths, strict=True)))
    for t in _rows(found):
        changes = o.change[: t + 1][o.change[: t + 1] > 0]  # memory tokens do not change at every step
        cells = [f"{t}", f"{o.running[t]:.0f}", f"{changes[-1]:.3f}" if len(changes) else "-", f"{o.size[t]:.3f}"]
        for head, name in zip(heads[4:], variables, strict=True):
            text = f"{o.accuracy[name][t]:.3f} ({o.chance[name][t]:.3f})" if o.accuracy[name][t] >= 0 else "-"
            text += f"  {o.between[name][t]:.3f}/{o.within[name][t]:.3f}"
            cells.append(f"{text:>{len(head)}}")
        lines.append("  ".join(f"{cell:>8}" for cell in cells))
    lines.append("")
    for name in variables:
        measured = bool(np.isfinite(o.accuracy[name]).any())
        found_out = (
            _stored(o.stored[name], o.lost[name]) if measured else "not measured, it has one value or few episodes"
        )
        lines.append(f"{name}: {found_out}")
    if found.left_out:
        lines.append(f"{found.left_out} more variables were not examined")
    lines += ["", f"rest: if the observation of step {found.hold} were repeated without end, the memory:"]
    unit = "segment" if found.period > 1 else "step"
    for rest in found.rests:
        who = f"{found.variable}={rest.value}: " if found.variable else ""
        settled = (
            f"moves by {rest.moves:.1e} of its size in the last {unit} and has not come to rest"
            if rest.settled is None
            else f"rests after {rest.settled} {unit}{'s' * (rest.settled != 1)}"
        )
        lines.append(f"  {who}{settled}; top eigenvalue {rest.eigenvalue:.3f}{_apart(rest)}")
    return "\n".join(lines)


def _rows(found: Diagnosis) -> list[int]:
    """Steps of the table: those with a read-out, ever further apart, and where a variable was stored or lost."""
    steps = len(found.over_time.running)
    measured = [a for a in found.over_time.accuracy.values() if np.isfinite(a).any()]
    fitted = [t for t in range(steps) if measured and all(math.isfinite(a[t]) for a in measured)] or [0]
    wanted = {round(math.exp(k / (ROWS - 1) * math.log(steps))) - 1 for k in range(ROWS)}
    o = found.over_time
    events = {t for of_all in (o.stored, o.lost) for t in of_all.values() if t is not None}
    return sorted({min(fitted, key=lambda t: abs(t - w)) for w in wanted} | events)


def _stored(stored: int | None, lost: int | None) -> str:
    if stored is None:
        return "never in this part of the memory"
    return f"stored after step {stored}, " + ("held to the end" if lost is None else f"lost after step {lost}")


def _apart(rest: Rest) -> str:
    if math.isnan(rest.apart):
        return ""
    if rest.apart < SAME and rest.settled is not None and rest.apart_before >= SAME:
        return "; the same place as another value, so it would be forgotten"
    return f"; {rest.apart:.3f} of its size from the nearest other value ({rest.apart_before:.3f} before)"


def to_json(found: Diagnosis) -> dict[str, object]:
    """Everything but the table, for programs; numbers that are not finite are null."""
    content = dataclasses.asdict(found)
    del content["over_time"]
    content |= {"stored": found.over_time.stored, "lost": found.over_time.lost}

    def finite(x: object) -> object:
        if isinstance(x, dict):
            return {key: finite(value) for key, value in x.items()}
        if isinstance(x, list | tuple):
            return [finite(value) for value in x]
        return None if isinstance(x, float) and not math.isfinite(x) else x

    return finite(content)  # type: ignore[return-value]


def to_csv(found: Diagnosis) -> str:
    """The table over time, one row per step; empty where nothing was measured."""
    o = found.over_time
    columns = {"running": o.running, "change": o.change, "size": o.size}
    for name in o.accuracy:
        columns |= {f"{name} {key}": getattr(o, key)[name] for key in ("within", "between", "accuracy", "chance")}
    lines = [",".join(["step", *columns])]
    for t in range(len(o.running)):
        lines.append(",".join([str(t), *("" if math.isnan(x[t]) else f"{x[t]:.6g}" for x in columns.values())]))
    return "\n".join(lines) + "\n"


def draw(found: Diagnosis) -> bytes:
    """A PNG: the change of the memory, the distances between and within values, and the read-outs, over the steps."""
    from matplotlib.figure import Figure

    o = found.over_time
    figure = Figure(figsize=(7, 7), layout="constrained")
    change, distance, readout = figure.subplots(3, sharex=True)
    moved = o.change > 0  # memory tokens are written at the end of a segment only
    _line(change, o.change, moved, PALETTE[0], "-", "change in one write" if found.is_written else "change in one step")
    change.axhline(float(o.size[-1]), color="gray", linewidth=1, linestyle=":", label="size of the memory")
    if moved.any():
        change.set_yscale("log")
    change.set_ylabel("root mean square")
    for color, name in zip(PALETTE, o.accuracy, strict=False):
        _line(distance, o.between[name], o.between[name] >= 0, color, "-", f"between values of {name}")
        _line(distance, o.within[name], o.within[name] >= 0, color, "--", f"within values of {name}")
        _line(readout, o.accuracy[name], o.accuracy[name] >= 0, color, "-", f"read-out of {name}")
        _line(readout, o.chance[name], o.chance[name] >= 0, color, ":", f"chance of {name}")
        if (lost := o.lost[name]) is not None:
            readout.axvline(lost + 1, color=color, linewidth=1)
            readout.annotate(
                f"lost after step {lost}", (lost + 1, 0.02), color=color, rotation=90, fontsize=8, ha="right"
            )
    distance.set_ylabel("distance")
    readout.set_ylabel("accuracy")
    readout.set_ylim(-0.02, 1.05)
    readout.set_xlabel("step of the episode, counted from 1")
    readout.set_xscale("log")
    change.set_title(f"{found.part}: {found.numbers} numbers, {found.episodes} episodes", parse_math=False)
    for axes in (change, distance, readout):
        axes.grid(alpha=0.3)
        if axes.get_legend_handles_labels()[0]:
            axes.legend(loc="best", fontsize=8, framealpha=0.5)
    picture = io.BytesIO()
    figure.savefig(picture, dpi=120, metadata={"Software": None})
    return picture.getvalue()


def _line(axes: Any, values: Any, where: Any, color: str, style: str, label: str) -> None:
    """A line through the steps at which something was measured."""
    steps = where.nonzero()[0]
    if len(steps):
        axes.plot(steps + 1, values[steps], style, color=color, label=label, linewidth=1.4)
