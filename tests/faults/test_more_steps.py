"""`resume=<run> steps=<more>` continues a finished run."""

import json
import math

import pytest
from test_resume import OFFLINE, TINY, assert_same_run, die_after, metrics
from test_resume import Killed as Death

import rmt_rl
from rmt_rl.common.errors import ConfigError
from rmt_rl.config.cli import parse
from rmt_rl.train import main, train

MAZE = ["env=tmaze", "env.length=8", "env.min_length=3", "policy=mlp", *TINY, "steps=400"]


@pytest.fixture
def finished(tmp_path):
    """A run that ended after step 480, the first one at or after its end of 400 steps."""
    train(parse([*MAZE, "run=a"]), root=tmp_path)
    return tmp_path / "a"


@pytest.mark.slow
def test_more_steps_continue_a_finished_run(finished, capsys) -> None:
    first = json.loads((finished / "result.json").read_text())
    capsys.readouterr()
    assert main([f"resume={finished}", "steps=800"]) == 0
    out = capsys.readouterr().out
    assert "the run ended at step 400 and now ends at step 800; schedules follow the new end" in out
    assert "edited" not in out
    rows = metrics(finished)
    assert [row["steps"] for row in rows] == list(range(96, 865, 96))
    # linear to zero over 400 steps, then over 800: the step size rises where the run continues
    rates = [row["learning_rate"] for row in rows]
    assert all(math.isclose(rates[k], 1e-3 * (1 - 96 * k / (400 if k < 5 else 800))) for k in range(9))
    assert json.loads((finished / "result-480.json").read_text()) == first
    assert json.loads((finished / "result.json").read_text())["steps"] == 864
    with pytest.raises(
        ConfigError, match=r"the run is finished; init=.*, and steps=<more than 800> beside resume continues it"
    ):
        train(parse([f"resume={finished}"]))


@pytest.mark.slow
def test_a_continued_run_that_died_resumes_to_the_same_bits(tmp_path, monkeypatch, capsys) -> None:
    for name in ("whole", "killed"):
        train(parse([*MAZE, f"run={name}"]), root=tmp_path)
    train(parse([f"resume={tmp_path / 'whole'}", "steps=1000"]))
    with monkeypatch.context() as patch:
        die_after(patch, 2)
        with pytest.raises(Death):
            train(parse([f"resume={tmp_path / 'killed'}", "steps=1000"]))
    capsys.readouterr()
    train(parse([f"resume={tmp_path / 'killed'}"]))
    assert "edited" not in capsys.readouterr().out
    assert_same_run(tmp_path / "whole", tmp_path / "killed")


@pytest.mark.slow
def test_an_end_that_the_run_has_passed_is_rejected_and_changes_nothing(finished) -> None:
    before = {file.name: file.read_bytes() for file in finished.iterdir() if file.is_file()}
    with pytest.raises(ConfigError, match=r"steps=400: the run in .* ends at step 400; expected more"):
        train(parse([f"resume={finished}", "steps=400"]))
    with pytest.raises(ConfigError, match=r"steps=480: the run in .* has taken 480 steps already; expected more"):
        rmt_rl.train(resume=finished, steps=480)
    with pytest.raises(ConfigError, match="steps=many: expected a whole number"):
        rmt_rl.train(resume=finished, steps="many")
    with pytest.raises(ConfigError, match=r"seed=1: a run is resumed with its own configuration; .*only steps="):
        parse([f"resume={finished}", "steps=800", "seed=1"])
    assert before == {file.name: file.read_bytes() for file in finished.iterdir() if file.is_file()}


@pytest.mark.slow
def test_a_continued_run_of_rate_is_validated_on_the_way(tmp_path) -> None:
    options = ["env=tmaze-rate", "env.length=20", *OFFLINE, "policy=mlp"]
    train(parse([*options, "run=a"]), root=tmp_path)
    before = len(metrics(tmp_path / "a"))
    train(parse([f"resume={tmp_path / 'a'}", "steps=4500"]))
    assert any("validation_loss" in row for row in metrics(tmp_path / "a")[before:-1])


@pytest.mark.slow
def test_a_stopped_run_gets_a_new_end_too(tmp_path) -> None:
    class Stop:
        def on_update(self, run):
            run.stop("enough")

    rmt_rl.train(config := parse([*MAZE, "run=a"]), root=tmp_path, callbacks=[Stop()])
    assert config.steps == 400
    result = rmt_rl.train(resume=tmp_path / "a", steps=500)
    assert result.summary["steps"] == 576 and result.summary["stopped"] is None
