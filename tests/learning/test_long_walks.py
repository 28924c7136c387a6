"""The experiment that tests a memory at many lengths in one walk."""

import importlib.util
from pathlib import Path

import pytest
import torch

import rmt_rl
from rmt_rl.envs.tmaze.passive import TMaze

SCRIPT = Path(__file__).parents[2] / "experiments" / "learning" / "long_walks.py"


@pytest.fixture(scope="module")
def script():
    spec = importlib.util.spec_from_file_location("long_walks", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def played(policy, length, rows, seed):
    """The share of episodes of this length that end with success, played step by step."""
    env = TMaze(rows, length=length)
    obs, _ = env.reset(seed=seed)
    state, first = policy.initial_state(rows), torch.ones(rows, dtype=torch.bool)
    for _ in range(length + 1):
        action, state = policy.act(obs, state, first, deterministic=True)
        obs, _, first, _, info = env.step(action)
    assert bool(first.all())
    return float(info["success"].double().mean())


def test_a_walk_finds_the_success_of_episodes_that_are_played_step_by_step(script, monkeypatch):
    monkeypatch.setattr(script, "PIECE", 33)  # so that lengths are inside and at the end of pieces
    for name, lengths in (("zoo:tmaze-rmt", (6, 66, 120, 200)), ("zoo:tmaze-gru", (66, 300))):
        policy = rmt_rl.load_policy(name)
        found = script.walk(policy, lengths, rows=16, seed=7)
        assert found == {f"{n:,}": played(policy, n, 16, 7) for n in lengths}
    assert found["66"] > 0


def test_a_policy_whose_lost_step_is_no_lost_episode_is_refused(script):
    policy = rmt_rl.load_policy("zoo:tmaze-gru")
    with pytest.raises(SystemExit, match="end_at_turn=false"):
        script.walk(rmt_rl.load_policy("zoo:copy-gru"), [3], rows=4)
    with pytest.raises(SystemExit, match="lengths and rows from 1 on"):
        script.walk(policy, [3, -1], rows=4)


def test_the_cells_of_a_walk_are_those_of_the_task(script):
    env = TMaze(5, length=40, distractors=True)
    obs, _ = env.reset(seed=3)
    seen = [obs]
    for _ in range(40):
        obs, *_ = env.step(torch.zeros(5, dtype=torch.int64))
        seen.append(obs)
    corridor = script.Corridor(5, True, 3)
    assert torch.equal(torch.stack(seen[:40], dim=1), torch.cat([corridor.cells(0, 7), corridor.cells(7, 40)], dim=1))
    junction = corridor.cells(40, 41)[:, 0]
    assert torch.equal(seen[40][:, 0], torch.ones(5)) and torch.equal(seen[40][:, 1:], junction[:, 1:])
