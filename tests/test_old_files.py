"""Files of format 1, written by version 0.1.0 before the package got its present layout, still load and mean the same.

tests/fixtures/format1/<run>/ holds config.yaml, metrics.jsonl, result.json and policy/ of tiny runs. policy/expected.json has
observations of 12 steps of three rows, and the actions, logits and values that the old code answered with.
interrupted-tmaze was stopped by SIGTERM; continued.json is the next row of metrics.jsonl in the same run without the stop.
"""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from rmt_rl.config.files import load_yaml, part_from_dict, to_dict
from rmt_rl.evaluate import main as evaluate
from rmt_rl.policies.saving import load_policy, make_task
from rmt_rl.train import main as train

FORMAT1 = Path(__file__).parent / "fixtures" / "format1"
INTERRUPTED = "interrupted-tmaze"
RUNS = sorted(path.name for path in FORMAT1.iterdir())
POLICIES = [run for run in RUNS if run != INTERRUPTED]


def observations(saved: Any, dtype: Any) -> Any:
    if isinstance(saved, dict):
        return {key: observations(value, dtype[key]) for key, value in saved.items()}
    return torch.tensor(saved, dtype=getattr(torch, dtype.removeprefix("torch.")))


@pytest.mark.parametrize("run", POLICIES)
def test_a_policy_of_format_1_acts_as_before(run: str) -> None:
    policy = load_policy(FORMAT1 / run)
    expected = json.loads((FORMAT1 / run / "policy" / "expected.json").read_text())
    state = policy.initial_state(3)
    for step in expected["steps"]:
        obs, first = observations(step["obs"], expected["obs_dtype"]), torch.tensor(step["first"])
        with torch.no_grad():
            logits, value, _ = policy.step(obs, state, first)
        action, state = policy.act(obs, state, first, deterministic=True)
        assert action.tolist() == step["action"]
        torch.testing.assert_close(logits, torch.tensor(step["logits"]), rtol=0, atol=1e-5)
        torch.testing.assert_close(value, torch.tensor(step["value"]), rtol=0, atol=1e-5)


@pytest.mark.parametrize("run", POLICIES)
def test_the_task_of_a_policy_of_format_1_shows_the_same_first_observation(run: str) -> None:
    policy = load_policy(FORMAT1 / run)
    expected = json.loads((FORMAT1 / run / "policy" / "expected.json").read_text())
    obs, _ = make_task(policy, rows=3).reset(seed=0)
    torch.testing.assert_close(obs, observations(expected["steps"][0]["obs"], expected["obs_dtype"]), rtol=0, atol=1e-6)


@pytest.mark.parametrize("run", RUNS)
def test_a_config_of_format_1_keeps_the_value_of_every_option(run: str) -> None:
    import yaml

    old = yaml.safe_load((FORMAT1 / run / "config.yaml").read_text())
    new = to_dict(load_yaml(FORMAT1 / run / "config.yaml"))
    for key, value in old.items():
        if isinstance(value, dict):
            assert {name: new[key][name] for name in value} == value
        else:
            assert new[key] == value


def test_return_conditioning_of_format_1_is_kept() -> None:
    returns = load_policy(FORMAT1 / "rate-tmaze-rate").spec.returns
    assert returns == part_from_dict("returns", {"low": 0.0, "high": 1.0, "target": 1.0})


@pytest.mark.parametrize("run", POLICIES)
def test_the_evaluate_command_plays_a_policy_of_format_1(run: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert evaluate([f"policy={FORMAT1 / run}", "episodes=4"]) == 0
    assert re.search(r"over 4 episodes|exact: 2 distinct episodes", capsys.readouterr().out)


@pytest.mark.slow
def test_an_interrupted_run_of_format_1_resumes_to_its_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    folder = Path("runs") / INTERRUPTED
    shutil.copytree(FORMAT1 / INTERRUPTED, folder)
    before = (folder / "metrics.jsonl").read_text().splitlines()
    assert train([f"resume={folder}"]) == 0
    assert "continuing from checkpoints/step-336" in capsys.readouterr().out
    result = json.loads((folder / "result.json").read_text())
    assert (result["steps"], result["interrupted"], result["eval"]["episodes"]) == (800, False, 2)
    after = (folder / "metrics.jsonl").read_text().splitlines()
    assert after[: len(before)] == before
    assert [json.loads(line)["steps"] for line in after] == list(range(16, 801, 16))
    # the next update is the one that the old code would have made
    expected = json.loads((FORMAT1 / INTERRUPTED / "continued.json").read_text())
    found = json.loads(after[len(before)])
    windowed = ("success", "return", "length")  # the old code averaged more episodes; those of the checkpoint load
    assert all(found[key] is not None for key in windowed)
    measured = [key for key in expected if not key.endswith("_s") and key not in windowed]
    assert {key: found[key] for key in measured} == pytest.approx({key: expected[key] for key in measured}, abs=1e-5)
