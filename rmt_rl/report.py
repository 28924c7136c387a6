"""Pictures of a run."""

from __future__ import annotations

import json
from pathlib import Path


def learning_curve(folder: Path, floor: float | None, ceiling: float | None, measure: str = "success") -> Path | None:
    """Draw success (or return, where the environment tells no success) over steps into report/learning_curve.png.

    measure: which of the two floor and ceiling are about.

    Returns None, and draws nothing, where no episode ended.
    """
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    quantity = "success" if any(row["success"] is not None for row in rows) else "return"
    points = [(row["steps"], row[quantity]) for row in rows if row[quantity] is not None]
    if not points:
        return None
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.subplots()
    marker = "o" if len(points) == 1 else None
    axes.plot(*zip(*points, strict=True), color="tab:blue", marker=marker, label=f"{quantity} of the latest episodes")
    axes.set_xlim(left=0)
    if quantity == measure:
        for value, style, name in (
            (floor, ":", "floor: best without memory"),
            (ceiling, "--", "ceiling: perfect memory"),
        ):
            if value is not None:
                axes.axhline(value, color="black", linestyle=style, linewidth=1, label=name)
    if quantity == "success":
        axes.set_ylim(-0.02, 1.05)
    axes.set_xlabel("environment steps")
    axes.set_ylabel(quantity)
    axes.set_title(folder.name)
    axes.grid(alpha=0.3)
    axes.legend(loc="lower right")
    path = folder / "report" / "learning_curve.png"
    path.parent.mkdir(exist_ok=True)
    figure.savefig(path, dpi=120)
    return path
