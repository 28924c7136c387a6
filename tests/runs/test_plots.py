"""The learning curve shows floor and ceiling only beside the quantity that they belong to."""

import json

import pytest
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from rmt_rl.config.cli import parse
from rmt_rl.rollouts.statistics import success_interval
from rmt_rl.runs.plots import learning_curve
from rmt_rl.train import train


@pytest.fixture
def drawn(monkeypatch):
    """The heights of the horizontal lines that are drawn."""
    heights = []
    monkeypatch.setattr("matplotlib.axes.Axes.axhline", lambda axes, y, **style: heights.append(y))
    return heights


@pytest.mark.parametrize("success", [None, 0.5])
@pytest.mark.parametrize("measure", ["success", "return"])
def test_floor_and_ceiling_are_drawn_only_beside_their_own_quantity(success, measure, drawn, tmp_path):
    row = {"steps": 10, "success": success, "return": 0.7}
    (tmp_path / "metrics.jsonl").write_text(json.dumps(row) + "\n")
    assert learning_curve(tmp_path, 0.25, 0.75, measure) is not None
    assert drawn == ([0.25, 0.75] if (measure == "return") == (success is None) else [])


def test_a_task_measured_by_its_return_has_floor_and_ceiling_of_the_return(drawn, tmp_path, capsys):
    arguments = ["env=bandit", "env.arms=2", "env.length=4", "algo.num_envs=4", "algo.minibatches=1"]
    result = train(parse([*arguments, "algo.rollout=8", "steps=1", "evaluate_episodes=4"]), root=tmp_path).summary
    assert result["floor"] < result["ceiling"] == pytest.approx(2 / 3)
    assert "0.564 return without memory, 0.667 with perfect memory" in capsys.readouterr().out
    assert drawn == [result["floor"], result["ceiling"]]


@pytest.fixture
def bars(monkeypatch):
    """What is drawn as points with intervals: steps, values, and lengths below and above."""
    drawn = []
    original = Axes.errorbar

    def errorbar(axes, x, y, yerr, **style):
        drawn.append((list(x), list(y), [list(side) for side in yerr]))
        return original(axes, x, y, yerr=yerr, **style)

    monkeypatch.setattr(Axes, "errorbar", errorbar)
    return drawn


def write_metrics(folder, *rows):
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


@pytest.mark.parametrize("name", ["success", "return"])
def test_evaluations_during_training_are_drawn_with_their_intervals(name, bars, tmp_path):
    evaluated = {f"eval_{name}": 0.5, f"eval_{name}_low": 0.25, f"eval_{name}_high": 0.625}
    rows = [{"steps": step, name: step / 40} for step in (10, 20, 30)]
    write_metrics(tmp_path, rows[0], rows[1] | evaluated, rows[2])
    assert learning_curve(tmp_path, None, None) is not None
    assert bars == [([20], [0.5], [[0.25], [0.125]])]


def test_an_evaluation_without_an_interval_is_drawn_as_a_point(bars, tmp_path):
    ends = {"eval_return_low": None, "eval_return_high": None}
    write_metrics(tmp_path, {"steps": 10, "return": 1.0, "eval_return": 2.0, **ends}, {"steps": 20, "eval_return": 3.0})
    assert learning_curve(tmp_path, None, None) is not None
    assert bars[0][:2] == ([10, 20], [2.0, 3.0])


def test_evaluations_of_offline_learning_are_drawn_beside_the_held_out_episodes(bars, tmp_path, monkeypatch):
    labels = []
    monkeypatch.setattr(Axes, "set_ylabel", lambda axes, text: labels.append(text))
    write_metrics(tmp_path, {"steps": 10, "loss": 1.0, "validation_accuracy": 0.5, "eval_success": 1.0})
    assert learning_curve(tmp_path, None, None) is not None
    assert labels == ["success", "validation accuracy"] and bars[0][:2] == ([10], [1.0])


def test_metrics_hold_the_interval_of_every_evaluation(tmp_path):
    arguments = ["env=tmaze", "env.length=3", "policy=mlp", "policy.width=8", "algo.num_envs=4", "algo.minibatches=1"]
    arguments += ["algo.rollout=16", "steps=1", "evaluate_every=1", "validation_episodes=10", "evaluate_episodes=4"]
    found = {name: float(column[0]) for name, column in train(parse(arguments), root=tmp_path).metrics.items()}
    assert found["eval_success_low"] <= found["eval_success"] <= found["eval_success_high"]
    assert found["eval_return_low"] <= found["eval_return"] <= found["eval_return_high"]
    low, high = success_interval(round(10 * found["eval_success"]), 10)
    assert (found["eval_success_low"], found["eval_success_high"]) == (low, high)


def test_no_legend_covers_a_panel(monkeypatch, tmp_path):
    figures = []
    save = Figure.savefig
    monkeypatch.setattr(
        Figure, "savefig", lambda figure, *given, **how: (figures.append(figure), save(figure, *given, **how))
    )
    rows = [{"steps": step, "success": 0.5, "metrics/distance": 0.5, "eval_success": 0.5} for step in (10, 20)]
    write_metrics(tmp_path, *rows)
    assert learning_curve(tmp_path, 0.25, 0.75) is not None
    panels = [axes.get_window_extent() for axes in figures[0].axes]
    legends = [axes.get_legend().get_window_extent() for axes in figures[0].axes]
    assert len(panels) == 2 and not any(legend.overlaps(panel) for legend in legends for panel in panels)
