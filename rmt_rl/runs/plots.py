"""Pictures of a run."""

from __future__ import annotations

import io
from pathlib import Path

from rmt_rl.common.files import make_folder, write_file
from rmt_rl.runs.metrics import read_rows

#: Quantities for the curve; the first one that the run has is drawn.
LABELS = {
    "success": "success of the latest episodes",
    "return": "return of the latest episodes",
    "validation_accuracy": "accuracy on held-out episodes",
    "validation_loss": "loss on held-out episodes",
}


def learning_curve(folder: Path, floor: float | None, ceiling: float | None, measure: str = "success") -> Path | None:
    """Draw the learning curve to report/learning_curve.png; returns its path, or None where metrics.jsonl has nothing to draw.

    The curve shows the first quantity of LABELS that the run has. measure: the quantity, success or return, of floor and ceiling.
    """
    rows = read_rows(folder / "metrics.jsonl")
    known = [name for name in LABELS if any(row.get(name) is not None for row in rows)]
    if not known:
        return None
    quantity = known[0]
    points = [(row["steps"], row[quantity]) for row in rows if row.get(quantity) is not None]
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.subplots()
    marker = "o" if len(points) == 1 else None
    axes.plot(*zip(*points, strict=True), color="tab:blue", marker=marker, label=LABELS[quantity])
    axes.set_xlim(left=0)
    if quantity == measure:
        for value, style, name in (
            (floor, ":", "floor: best without memory"),
            (ceiling, "--", "ceiling: perfect memory"),
        ):
            if value is not None:
                axes.axhline(value, color="black", linestyle=style, linewidth=1, label=name)
    if quantity in ("success", "validation_accuracy"):
        axes.set_ylim(-0.02, 1.05)
    axes.set_xlabel("steps")
    axes.set_ylabel(quantity.replace("_", " "))
    axes.set_title(folder.name, parse_math=False)  # a name may contain $
    axes.grid(alpha=0.3)
    axes.legend(loc="lower right")
    path = folder / "report" / "learning_curve.png"
    make_folder(path.parent)
    picture = io.BytesIO()
    figure.savefig(picture, dpi=120)
    write_file(path, picture.getvalue())
    return path
