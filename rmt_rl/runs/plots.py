"""Pictures of a run."""

from __future__ import annotations

import io
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rmt_rl.common.files import make_folder, write_file
from rmt_rl.runs.metrics import read_rows

#: Quantities for the curve: what the policy does in the task, and what it does with recorded episodes. Of each kind the first
#: one that the run has is drawn.
TASK = {"success": "success of the latest training episodes", "return": "return of the latest training episodes"}
RECORDED = {"validation_accuracy": "accuracy on held-out episodes", "validation_loss": "loss on held-out episodes"}

Row = Mapping[str, float | None]


def learning_curve(folder: Path, floor: float | None, ceiling: float | None, measure: str = "success") -> Path | None:
    """Draw the learning curve to report/learning_curve.png; returns its path, or None where metrics.jsonl has nothing to draw.

    Success or return of the latest training episodes, and of the evaluations during training with their 95 % intervals; for
    recorded episodes, the held-out ones. Every number of `metrics=` has a panel of its own. measure: the quantity, success or
    return, of floor and ceiling.
    """
    rows = read_rows(folder / "metrics.jsonl")
    quantities = [
        *[name for name in TASK if _points(rows, name) or _points(rows, f"eval_{name}")][:1],
        *[name for name in RECORDED if _points(rows, name)][:1],
    ]
    names = dict.fromkeys(name.removeprefix("eval_") for row in rows for name in row)
    quantities += [
        name for name in names if name.startswith("metrics/") and (_points(rows, name) or _points(rows, f"eval_{name}"))
    ]
    if not quantities:
        return None
    from matplotlib.figure import Figure

    # fixed margins in inches: a layout that is computed takes as long as all else
    panel, above, below, title = 2.8, 0.5, 0.55, 0.3
    tall = title + (above + panel) * len(quantities) + below
    figure = Figure(figsize=(7, tall))
    figure.subplots_adjust(
        left=0.1, right=0.98, bottom=below / tall, top=1 - (title + above) / tall, hspace=above / panel
    )
    panels = figure.subplots(len(quantities), sharex=True, squeeze=False)[:, 0]
    for axes, quantity in zip(panels, quantities, strict=True):
        _draw(axes, rows, quantity)
        if quantity == measure:
            for value, style, name in (
                (floor, ":", "floor: best without memory"),
                (ceiling, "--", "ceiling: perfect memory"),
            ):
                if value is not None:
                    axes.axhline(value, color="black", linestyle=style, linewidth=1, label=name)
        if quantity in ("success", "validation_accuracy"):
            axes.set_ylim(-0.02, 1.05)
        axes.set_xlim(left=0)
        axes.set_ylabel(_name(quantity).replace("_", " "))
        axes.grid(alpha=0.3)
        # above the panel, where it covers no line
        axes.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=2, frameon=False, fontsize=9, borderpad=0.2)
    panels[-1].set_xlabel("environment steps")
    # a name may contain $
    figure.suptitle(folder.name, y=1 - 0.06 / tall, fontsize=11, parse_math=False)
    path = folder / "report" / "learning_curve.png"
    make_folder(path.parent)
    picture = io.BytesIO()
    figure.savefig(picture, dpi=120)
    write_file(path, picture.getvalue())
    return path


def _draw(axes: Any, rows: Sequence[Row], quantity: str) -> None:
    """The curve of one quantity, and the evaluations of it with their intervals."""
    if points := _points(rows, quantity):
        marker = "o" if len(points) == 1 else None
        axes.plot(*zip(*points, strict=True), color="tab:blue", marker=marker, label=_label(quantity))
    name = f"eval_{quantity}"
    if points := _points(rows, name):
        ends = [(row.get(f"{name}_low"), row.get(f"{name}_high")) for row in rows if row.get(name) is not None]
        # one episode has no interval, and rows of earlier versions have none
        bars = [
            (math.nan,) * 2 if low is None or high is None else (max(value - low, 0.0), max(high - value, 0.0))
            for (_, value), (low, high) in zip(points, ends, strict=True)
        ]
        style = {"fmt": "o-", "markersize": 4, "capsize": 3, "color": "tab:orange"}
        axes.errorbar(
            *zip(*points, strict=True),
            yerr=list(zip(*bars, strict=True)),
            label="evaluations" if quantity.startswith("metrics/") else "evaluations, with 95 % intervals",
            **style,
        )


def _label(quantity: str) -> str:
    """What the curve of a quantity shows."""
    known = TASK | RECORDED
    return known.get(quantity, f"{_name(quantity)} of the latest training episodes")


def _name(quantity: str) -> str:
    """The name of a quantity, in which $ is no beginning of a formula."""
    return quantity.removeprefix("metrics/").replace("$", r"\$")


def _points(rows: Sequence[Row], name: str) -> list[tuple[float, float]]:
    """Steps and value of every row that has this number."""
    return [
        (steps, value) for row in rows if (value := row.get(name)) is not None and (steps := row["steps"]) is not None
    ]
