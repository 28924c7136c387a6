"""The figures of a comparison: learning curves, matrix of tests, performance profile.

Equal results give equal bytes: no dates, fixed ids. Figures are five inches wide, so that their text is legible on a telephone.
"""

from __future__ import annotations

import dataclasses
import io
import math
import warnings
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from rmt_rl.common.palette import PALETTE
from rmt_rl.comparison.results import TRAINING, Results
from rmt_rl.comparison.statistics import band, common_curve, performance_profile
from rmt_rl.comparison.tables import CURVES, Aggregation, TaskTable, steps_text, task_table, text_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

LINES = ("-", "--", "-.", ":")
#: report.py replaces these three by the colours of the page, so that figures are dark where the page is.
INK, GRID, PAPER = "#1b1f25", "#dadde1", "#fefefe"
#: More lines than these cannot be told apart in one panel.
MOST_IN_ONE_PANEL = 8
WIDTH = 5.0
#: The name of the vertical axis of success rates.
SUCCESS = "success rate"
#: Letters of a name in a figure.
LONGEST_NAME = 22

STYLE: dict[Any, Any] = {
    "svg.hashsalt": "rmt_rl",
    "svg.fonttype": "none",
    "pdf.fonttype": 42,  # TrueType: publishers refuse the Type 3 fonts of matplotlib's default
    "font.family": "DejaVu Sans",
    "font.size": 9.5,
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "axes.facecolor": PAPER,
    "axes.linewidth": 0.8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "figure.facecolor": PAPER,
    "text.color": INK,
    "text.parse_math": False,
    "xtick.color": INK,
    "ytick.color": INK,
    "grid.color": GRID,
    "grid.linewidth": 0.6,
    "lines.linewidth": 1.7,
}


@dataclasses.dataclass(frozen=True)
class Picture:
    """One figure: the name of its files without their ending, what it shows, and the files."""

    name: str
    title: str
    text: str
    svg: bytes
    png: bytes
    pdf: bytes


def shorten(name: str, longest: int = LONGEST_NAME) -> str:
    """A name with its middle left out where it is long."""
    if len(name) <= longest:
        return name
    half = (longest - 1) // 2
    return f"{name[: longest - 1 - half]}…{name[-half:]}"


def short_labels(labels: Sequence[str], longest: int = LONGEST_NAME) -> dict[str, str]:
    """Shortened names that stay different."""
    found: dict[str, str] = {}
    for label in labels:
        short, count = shorten(label, longest), 1
        while short in found.values():
            count += 1
            short = f"{shorten(label, longest - 3)} {count}"
        found[label] = short
    return found


def styles(labels: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Colour and kind of line of every policy, the same in all figures of a report."""
    return {
        label: {
            "color": PALETTE[index % len(PALETTE)],
            "linestyle": LINES[(index // len(PALETTE) + index) % len(LINES)],
        }
        for index, label in enumerate(labels)
    }


def _new(width: float, height: float) -> Figure:
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


def _files(figure: Figure, name: str, title: str, text: str) -> Picture:
    """All files of a figure."""
    svg, png, pdf = io.BytesIO(), io.BytesIO(), io.BytesIO()
    with warnings.catch_warnings():
        # PNG and PDF have boxes in place of letters that the font lacks. The SVG, and so the page, uses the fonts of its reader.
        warnings.filterwarnings("ignore", message=r"Glyph .* missing from font")
        figure.savefig(svg, format="svg", metadata={"Date": None, "Creator": None})
        figure.set_layout_engine("none")  # the layout of the first file stands in the others, too
        figure.savefig(png, format="png", dpi=200, metadata={"Software": None})
        figure.savefig(pdf, format="pdf", metadata={"CreationDate": None, "Creator": None, "Producer": None})
    return Picture(name, title, text, svg.getvalue(), png.getvalue(), pdf.getvalue())


def learning_curves(results: Results, task: str, name: str) -> Picture | None:
    """Means over runs with 95 % bands; a panel for every policy where there are many. None where there are no curves."""
    import matplotlib

    kind = results.curve_kind(task)
    curves = {label: own for label in results.labels_of(task) if (own := results.curves(task, label))}
    if kind is None:
        return None
    example = results.example(task, TRAINING) if TRAINING in results.tests[task] else None
    bounds = {"floor": example.floor, "ceiling": example.ceiling} if example else {}
    measure = {"success": SUCCESS}.get(example.measure, example.measure) if example else "score"
    means = {label: _mean_curve(own) for label, own in curves.items()}
    with matplotlib.rc_context(STYLE):
        look = styles(results.labels)
        if len(curves) <= MOST_IN_ONE_PANEL:
            figure = _new(WIDTH, 3.2)
            axes = figure.subplots()
            for label, curve in means.items():
                _draw_curve(axes, curve, look[label])
            _draw_bounds(axes, bounds)
            _finish_curves(axes, means, measure)
            _direct_labels(axes, {label: curve[1][-1] for label, curve in means.items()}, look)
        else:
            figure = _panels(means, look, bounds, measure)
        text = f"Mean over runs of the {CURVES[kind]}; the band is its 95 % interval, from three runs on."
        return _files(figure, name, f"Learning curves of {task}", text)


Curve = tuple[Any, Any, Any, Any]


def _mean_curve(curves: Sequence[tuple[Any, Any]]) -> Curve:
    steps, values = common_curve(curves)
    return steps, *band(values)


def _draw_curve(axes: Axes, curve: Curve, look: Mapping[str, Any]) -> None:
    steps, middle, low, high = curve
    axes.plot(steps, middle, marker="o" if len(steps) == 1 else None, **look)
    if low is not None:
        axes.fill_between(steps, low, high, color=look["color"], alpha=0.15, linewidth=0)


def _draw_bounds(axes: Axes, bounds: Mapping[str, float | None], size: float = 8.5) -> None:
    """A line and its name for floor and ceiling, where they are known."""
    for name, value in bounds.items():
        if value is not None:
            axes.axhline(value, color=INK, linewidth=0.8, linestyle=(0, (1, 2)))
            # outside of the space between them, where the curves are
            above = name == "ceiling"
            place: dict[str, Any] = {"xycoords": ("axes fraction", "data"), "textcoords": "offset points"}
            axes.annotate(
                name, (0, value), (4, 2 if above else -2), va="bottom" if above else "top", size=size, **place
            )


def _finish_curves(axes: Axes, curves: Mapping[str, Curve], measure: str) -> None:
    from matplotlib.ticker import FuncFormatter, MaxNLocator

    axes.set_xlim(0, max(float(curve[0][-1]) for curve in curves.values()))
    axes.xaxis.set_major_locator(MaxNLocator(5))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda steps, _: steps_text(steps)))
    axes.set_xlabel("environment steps")
    axes.set_ylabel(measure)
    axes.margins(y=0.1)
    if measure == SUCCESS:
        # a part of the axis would make small differences look large
        axes.set_ylim(-0.04, 1.1)
        axes.set_yticks(np.linspace(0, 1, 6))
    axes.grid(axis="y")


def _direct_labels(axes: Axes, ends: Mapping[str, float], look: Mapping[str, Mapping[str, Any]]) -> None:
    """Names at the right ends of lines, moved apart so that none covers another."""
    low, high = axes.get_ylim()
    gap = 0.072
    places = {label: (float(value) - low) / (high - low) for label, value in ends.items()}
    # from the lowest to the highest; of equal ones, the first is the highest
    order = sorted(reversed(places), key=lambda label: places[label])
    moved: list[float] = []
    for label in order:
        moved.append(max(places[label], moved[-1] + gap) if moved else places[label])
    # what was pushed over the top moves down again, together with what it then touches
    top = 1.0
    for index in reversed(range(len(moved))):
        moved[index] = min(moved[index], top)
        top = moved[index] - gap
    short = short_labels(list(ends))
    for label, place in zip(order, moved, strict=True):
        colour = look[label]["color"]
        line = {"color": colour, "linewidth": 0.8, "transform": axes.transAxes, "clip_on": False}
        axes.plot([1.0, 1.035], [places[label], place], **line)
        axes.text(
            1.045, place, short[label], transform=axes.transAxes, va="center", size=9, color=colour, weight="bold"
        )


def _panels(
    means: Mapping[str, Curve], look: Mapping[str, Any], bounds: Mapping[str, float | None], measure: str
) -> Figure:
    """One panel for every policy, with the others in grey."""
    rows = math.ceil(len(means) / 2)
    figure = _new(WIDTH, 0.5 + 1.6 * rows)
    panels = figure.subplots(rows, 2, sharex=True, sharey=True, squeeze=False).ravel()
    short = short_labels(list(means))
    for axes, (label, curve) in zip(panels, means.items(), strict=False):
        for other in means.values():
            axes.plot(other[0], other[1], color=GRID, linewidth=0.8)
        _draw_bounds(axes, bounds, 7)
        _draw_curve(axes, curve, look[label] | {"linestyle": "-"})
        _finish_curves(axes, means, measure)
        axes.set_title(short[label], color=look[label]["color"], weight="bold", size=9, loc="left")
        axes.label_outer()
    for axes in panels[len(means) :]:
        axes.set_visible(False)
    return figure


def matrix(results: Results) -> Picture | None:
    """Every policy in every test, as numbers on colours; a panel for every task. None where no task has a test."""
    import matplotlib

    tables = [table for task in results.tasks if (table := task_table(results, task)).columns and table.rows]
    if not tables:
        return None
    heights = [1.0 + 0.32 * len(table.rows) for table in tables]
    widest = max(len(table.columns) for table in tables)
    with matplotlib.rc_context(STYLE | {"axes.spines.left": False, "axes.spines.bottom": False}):
        figure = _new(max(WIDTH, 1.6 + 0.85 * widest), sum(heights))
        panels = figure.subplots(len(tables), height_ratios=heights, squeeze=False)[:, 0]
        for axes, table in zip(panels, tables, strict=True):
            _draw_matrix(axes, table, results)
        text = (
            "Mean over runs of the final policies in every test. Dark is better: colours go from floor to ceiling. Where these "
            "are not known they go from 0 to 1 for success rates, otherwise from the lowest to the highest number of the task."
        )
        return _files(figure, "matrix", "Every policy in every test", text)


def _values(table: TaskTable) -> np.ndarray:
    return np.array([[cell.estimate.value if cell.estimate else math.nan for cell in cells] for _, cells in table.rows])


def shade(results: Results, table: TaskTable) -> np.ndarray:
    """How good every number of a table is, from 0 to 1; NaN where there is none. Equal numbers without a scale are 0.5."""
    values = _values(table)
    known = values[np.isfinite(values)]
    scaled = np.full(values.shape, math.nan)
    for index, column in enumerate(table.columns):
        bounds = results.bounds(table.task, column.test) or ((0.0, 1.0) if column.measure == "success" else None)
        low, high = bounds or (known.min(), known.max())
        scaled[:, index] = np.clip((values[:, index] - low) / (high - low), 0, 1) if low != high else 0.5
        scaled[~np.isfinite(values[:, index]), index] = math.nan
    return scaled


def _draw_matrix(axes: Axes, table: TaskTable, results: Results) -> None:
    from matplotlib import colormaps

    values, scaled = _values(table), shade(results, table)
    # light to dark, which stays the order of brightness when printed in grey
    colours = colormaps["YlGnBu"]
    # rectangles instead of imshow, which would put a picture into the SVG
    edges = [np.arange(size + 1) - 0.5 for size in reversed(values.shape)]
    axes.pcolormesh(
        *edges, np.ma.masked_invalid(0.05 + 0.85 * scaled), cmap=colours, vmin=0, vmax=1, edgecolors=PAPER, linewidth=1
    )
    axes.invert_yaxis()
    for (row, index), value in np.ndenumerate(values):
        text = text_of(value, table.columns[index].measure) if math.isfinite(value) else "-"
        dark = math.isfinite(value) and scaled[row, index] > 0.5
        ink = INK if not math.isfinite(value) else "#ffffff" if dark else "#000000"
        axes.text(index, row, text, ha="center", va="center", color=ink, size=9)
    short = short_labels([label for label, _ in table.rows])
    titles = short_labels([column.title for column in table.columns], 16)
    axes.set_xticks(range(len(table.columns)), [titles[column.title] for column in table.columns], size=8.5)
    axes.set_yticks(range(len(table.rows)), [short[label] for label, _ in table.rows])
    axes.tick_params(length=0)
    axes.set_title(shorten(table.task, 50), loc="left", weight="bold", size=10)


def profile(aggregations: Sequence[Aggregation], labels: Sequence[str]) -> Picture | None:
    """The share of runs above every score; None where no task has floor and ceiling."""
    import matplotlib

    if not aggregations:
        return None
    thresholds = np.linspace(0, 1, 201)
    with matplotlib.rc_context(STYLE):
        figure = _new(WIDTH, 0.3 + 2.7 * len(aggregations))
        panels = figure.subplots(len(aggregations), squeeze=False)[:, 0]
        for axes, aggregation in zip(panels, aggregations, strict=True):
            _draw_profile(axes, aggregation, thresholds, styles(labels))
        text = (
            "Share of runs whose score lies above a threshold, where the floor of a task is 0 and its ceiling is 1. Higher is "
            f"better. Bands, where there are at most {MOST_IN_ONE_PANEL} policies, are 95 % intervals."
        )
        return _files(figure, "profile", "Performance profile", text)


def _draw_profile(axes: Axes, aggregation: Aggregation, thresholds: Any, look: Mapping[str, Any]) -> None:
    ends = {}
    for label, scores in aggregation.scores.items():
        share, low, high = performance_profile(scores, thresholds)
        steps = _changes(share) if low is None else _changes(share, low, high)
        axes.step(thresholds[steps], share[steps], where="post", **look[label])
        if low is not None and high is not None and len(aggregation.scores) <= MOST_IN_ONE_PANEL:
            area = {"color": look[label]["color"], "alpha": 0.1, "linewidth": 0}
            axes.fill_between(thresholds[steps], low[steps], high[steps], step="post", **area)
        # a curve is labelled where it is before the fall at its end
        ends[label] = float(share[int(0.9 * len(share))])
    axes.set_xlim(0, 1)
    axes.set_ylim(-0.03, 1.05)
    axes.grid(axis="y")
    axes.set_xlabel("score (0 floor, 1 ceiling)")
    axes.set_ylabel("share of runs above")
    axes.set_title(aggregation.title, loc="left", weight="bold", size=10)
    if len(ends) <= MOST_IN_ONE_PANEL:
        _direct_labels(axes, ends, look)
    else:
        handles = [axes.plot([], [], **look[label])[0] for label in ends]
        short = short_labels(list(ends))
        axes.legend(
            handles,
            [short[label] for label in ends],
            loc="upper left",
            bbox_to_anchor=(1, 1),
            fontsize=7.5,
            frameon=False,
        )


def _changes(*curves: Any) -> Any:
    """The points at which a curve of steps has another value than before, and the last one."""
    values = np.stack(curves)
    changed = np.any(values[:, 1:] != values[:, :-1], axis=0)
    changed = np.concatenate([[True], changed])
    changed[-1] = True
    return changed
