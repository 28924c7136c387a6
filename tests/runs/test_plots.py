"""The learning curve shows floor and ceiling only beside the quantity that they belong to."""

import json

import pytest

from rmt_rl.config.cli import parse
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
