"""Names of logged numbers: in groups at TensorBoard and Weights & Biases, explained in docs/metrics.md."""

import dataclasses
import json
import re
from pathlib import Path

import pytest
import torch

import rmt_rl
from rmt_rl.algos.ppo import PPOLearner
from rmt_rl.policies.network import Memories, remembered
from rmt_rl.runs.metrics import GROUPS, Laps, Metrics, grouped

PAGE = (Path(__file__).parent.parent.parent / "docs/metrics.md").read_text(encoding="utf-8")
#: Names on the page, by the column: of metrics.jsonl, and of TensorBoard.
OWN, THEIRS = (
    {
        name
        for line in PAGE.splitlines()
        if line.startswith("| ")
        for name in re.findall("`([^`]+)`", line.split(" | ")[column])
    }
    for column in (0, 1)
)
TINY = {
    "env": "tmaze",
    "env.length": 3,
    "policy.width": 8,
    "evaluate_episodes": 4,
    "evaluate_every": 32,
    "validation_episodes": 2,
}
PPO = {**TINY, "steps": 96, "algo.num_envs": 4, "algo.rollout": 8, "algo.minibatches": 1, "algo.skip_nonfinite": 1}
PPO |= {"policy.dropout": 0.1, "evaluate_every": 64}
RATE = {
    **TINY,
    "algo": "rate",
    "env": "tmaze-rate",
    "env.length": 4,
    "steps": 200,
    "policy": "gru",
    "algo.skip_nonfinite": 1,
}


def logged(calls):
    return {name for _, numbers in calls.logged for name in numbers}


def rows_of(result):
    """The rows of metrics.jsonl without the time, which differs between equal runs."""
    found = [json.loads(line) for line in (result.folder / "metrics.jsonl").read_text().splitlines()]
    return [{**row, "wall_s": None} for row in found]


def check_names(rows, names):
    """What a run logged has its place on the page, and keeps its old name in metrics.jsonl."""
    own = {name for row in rows for name in row} - {"steps"}
    assert own <= OWN and names <= THEIRS and all(name.startswith(GROUPS) for name in names)
    assert not [name for name in own if name.startswith(("time/", "memory/", "train/"))]
    times = {f"time/{name}" for name in ("collect_s", "update_s", "evaluate_s", "steps_per_s", "wall_s")}
    assert times | {"eval/return", "final/return"} <= names


@pytest.mark.slow
def test_every_number_of_ppo_is_on_the_page_and_has_one_name_everywhere_and_changes_nothing(wandb, tmp_path):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    result = rmt_rl.train(root=tmp_path, wandb=True, tensorboard=True, **PPO)
    check_names(rows_of(result), logged(wandb))
    assert {"memory/change", "memory/size"} <= logged(wandb)
    # at evaluations only
    assert [steps for steps, numbers in wandb.logged if "memory/gradient_reach" in numbers] == [64, 96]
    events = EventAccumulator(str(result.folder / "tensorboard"))
    events.Reload()
    assert set(events.Tags()["scalars"]) == logged(wandb)
    assert rows_of(rmt_rl.train(root=tmp_path, **PPO)) == rows_of(result)


@pytest.mark.slow
def test_every_number_of_rate_is_on_the_page_and_in_a_group(wandb, tmp_path):
    pytest.importorskip("torchrl")
    result = rmt_rl.train(root=tmp_path, wandb=True, **RATE)
    check_names(rows_of(result), logged(wandb))


def test_the_page_pairs_every_name_with_its_group():
    rows = [line.split(" | ") for line in PAGE.splitlines() if line.startswith("| `") and "`result.json`" not in line]
    pairs = [(re.findall("`([^`]+)`", row[0]), re.findall("`([^`]+)`", row[1])) for row in rows]
    pairs = [
        (own, theirs)
        for own, theirs in pairs
        if not own[0].startswith(("eval.", "validation_loss_kept", "metrics.jsonl"))
    ]
    assert len(pairs) > 20
    assert all([grouped(name) for name in own] == theirs for own, theirs in pairs)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("success", "train/success"),
        ("metrics/distance", "train/metrics/distance"),
        ("eval_success_low", "eval/success_low"),
        ("eval_metrics/my_number", "eval/metrics/my_number"),
        ("wall_s", "time/wall_s"),
        ("memory/change", "memory/change"),
    ],
)
def test_the_group_of_a_name(name, expected):
    assert grouped(name) == expected


def test_numbers_for_others_are_not_computed_without_them(tmp_path):
    metrics = Metrics(tmp_path, {"tensorboard": False, "wandb": False})
    metrics.write(1, {"success": 0.5}, lambda: pytest.fail("computed"))
    metrics.close()


def test_the_laps_of_an_update_are_its_seconds(monkeypatch):
    times = iter([10.0, 12.0, 15.0, 15.5])
    monkeypatch.setattr("time.perf_counter", lambda: next(times))
    laps = Laps()
    for name in ("collect", "update", "evaluate"):
        laps.lap(name)
    assert laps.numbers(100) == {
        "time/collect_s": 2.0,
        "time/update_s": 3.0,
        "time/evaluate_s": 0.5,
        "time/steps_per_s": 20.0,
    }


@pytest.mark.parametrize(
    ("name", "shapes"), [("rmt", [(3, 4, 8)]), ("lstm", [(3, 1, 8)] * 2), ("mlp", []), ("trxl", [])]
)
def test_what_counts_as_remembered(name, shapes):
    policy = rmt_rl.make_policy(rmt_rl.make_env("tmaze", num_envs=3), name, width=8)
    memory = policy.initial_state(3).memory
    assert [tuple(x.shape) for x in remembered(memory)] == shapes
    assert [tuple(x.shape) for x in remembered(Memories(memory, memory))] == shapes  # the actor's alone


def test_the_change_of_memory_by_hand():
    env = rmt_rl.make_env("tmaze", num_envs=2, length=3)
    policy = rmt_rl.make_policy(env, "gru", width=2, layers=1)
    learner = object.__new__(PPOLearner)
    state = policy.initial_state(2, critic=True)

    def with_hidden(numbers):
        hidden = torch.tensor(numbers).view_as(state.memory.hidden)
        return dataclasses.replace(state, memory=dataclasses.replace(state.memory, hidden=hidden))

    learner._before = with_hidden([0.0, 1.0, 0.0, 0.0])
    learner.collector = type("Collected", (), {"state": with_hidden([3.0, 1.0, 0.0, 1.0])})
    found = learner.diagnostics()
    assert found["memory/change"] == pytest.approx((10 / 4) ** 0.5)
    assert found["memory/size"] == pytest.approx((11 / 4) ** 0.5)
