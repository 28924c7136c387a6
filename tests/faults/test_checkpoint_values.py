"""Values that no run writes, in a checkpoint whose checksums are right: one sentence when it is loaded, no error later."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import rmt_rl
from rmt_rl.algos.ppo import PPOLearner
from rmt_rl.config.files import save_yaml
from rmt_rl.config.resolve import make_config
from rmt_rl.policies.actor_critic import ActorCritic
from rmt_rl.policies.spec import make_spec
from rmt_rl.runs.checkpoints import Checkpoints
from rmt_rl.runs.resume import ResumePoint

TASKS: dict[str, dict[str, Any]] = {
    "memory": {"env": "minigrid-memory"},
    "doors": {"env": "minigrid-redbluedoors", "env.size": 6},
    "tmaze": {"env": "tmaze", "env.length": 3},
    "dark": {"env": "dark-room"},
    "trial": {"env": "tmaze", "memory.scope": "trial"},
    "scaled": {"env": "bandit", "algo.normalize_reward": True},
    "critic": {"env": "tmaze", "env.length": 3, "policy.critic": "separate"},
}


def learner(task: str) -> Any:
    options = {"algo.num_envs": 2, "algo.minibatches": 1, "algo.rollout": 7, "policy.width": 16}
    config = make_config(**TASKS[task], **options)
    env = rmt_rl.envs.registry.make_from_config(config.env, 2, memory=config.memory)  # type: ignore[attr-defined]
    policy = ActorCritic(make_spec(env, config.env, config.policy, config.memory))
    return PPOLearner(config, env, policy)


def put(*path: str, value: Any) -> Callable[[Any], None]:
    """Set state[path...]; a function as value changes what is there."""

    def change(state: Any) -> None:
        for key in path[:-1]:
            state = state[key]
        state[path[-1]] = value(state[path[-1]]) if callable(value) else value

    return change


def constant(number: float) -> Callable[[torch.Tensor], torch.Tensor]:
    return lambda x: torch.full_like(x, number)


ENV = ("collector", "env")
LIES = [
    ("memory", put(*ENV, "state", value=constant(10**6))),
    ("memory", put(*ENV, "state", value=constant(-1))),
    ("memory", put(*ENV, "state", value=constant(0))),  # an end
    ("memory", put(*ENV, "steps", value=constant(10**6))),
    ("memory", put(*ENV, "steps", value=constant(-1))),
    ("memory", put(*ENV, "queue", value=constant(10**6))),
    ("memory", put(*ENV, "cursor", value=constant(-1))),
    ("memory", put(*ENV, "cursor", value=constant(63))),
    ("memory", put(*ENV, "until_refill", value=10**6)),
    ("memory", put(*ENV, "until_refill", value=-1)),
    ("memory", put(*ENV, "known", value=lambda x: x.long())),
    ("memory", put(*ENV, "state", value=lambda x: x.float())),
    ("doors", put(*ENV, "position", value=constant(0))),
    ("doors", put(*ENV, "position", value=constant(-1))),
    ("doors", put(*ENV, "direction", value=constant(4))),
    ("doors", put(*ENV, "grid", value=constant(4))),
    ("doors", put(*ENV, "steps", value=constant(10**9))),
    ("tmaze", put(*ENV, "x", value=constant(99))),
    ("tmaze", put(*ENV, "y", value=lambda x: x.float())),
    ("tmaze", put(*ENV, "length", value=constant(99))),
    ("dark", put(*ENV, "x", value=constant(99))),
    ("dark", put(*ENV, "found", value=lambda x: x.long())),
    ("dark", put(*ENV, "t", value=constant(-1))),
    ("trial", put(*ENV, "episode", value=constant(99))),
    ("memory", put("collector", "obs", "direction", value=constant(9))),
    ("memory", put("collector", "obs", "image", value=constant(200))),
    ("tmaze", put("collector", "obs", value=constant(math.nan))),
    ("tmaze", put("collector", "state", "action", value=constant(99))),
    ("tmaze", put("collector", "state", "action", value=constant(-1))),
    ("tmaze", put("collector", "state", "memory", "age", value=constant(-5))),
    ("tmaze", put("collector", "state", "memory", "memory", value=constant(math.inf))),
    ("tmaze", put("collector", "episode_return", value=constant(math.nan))),
    ("tmaze", put("collector", "episode_length", value=constant(-1))),
    ("tmaze", put("collector", "steps", value=-1)),
    ("tmaze", put("collector", "steps", value=10**40)),
    ("critic", put("collector", "state", "memory", "critic", "age", value=constant(-5))),
    ("critic", put("collector", "state", "memory", "critic", "memory", value=constant(math.nan))),
    ("critic", put("collector", "state", "memory", value=lambda x: x["actor"])),
    ("scaled", put("deviation", "squares", value=-1.0)),
    ("scaled", put("deviation", "mean", value=math.nan)),
    ("scaled", put("deviation", "steps", value=-1)),
    ("scaled", put("deviation", "past", value=torch.zeros(3, dtype=torch.float64))),
    ("scaled", put("deviation", "past", value=torch.zeros(2))),
    ("scaled", put("deviation", "past", value=[1.0, 2.0])),
    ("tmaze", put("recent", "episodes", value=torch.zeros(4, 2, dtype=torch.float64))),
    ("tmaze", put("recent", "episodes", value=torch.zeros(10_000, 3, dtype=torch.float64))),
    ("tmaze", put("recent", "episodes", value=torch.full((2, 3), math.inf))),
    ("tmaze", put("recent", "episodes", value=torch.zeros(3))),
    ("tmaze", put("guard", "in_a_row", value=-(10**30))),
    ("tmaze", put("updates", value=10**40)),
    ("tmaze", put("policy", "value_head.bias", value=constant(math.nan))),
    ("tmaze", put("policy", "value_head.bias", value=lambda x: x.to(torch.int8))),
    ("tmaze", put("policy", "value_head.bias", value=3)),
    ("tmaze", put("optimizer", "0", value=lambda x: {"step": x["step"]})),
    ("tmaze", put("optimizer", "0", "exp_avg_sq", value=constant(-1))),
    ("tmaze", put("optimizer", "0", "exp_avg", value=constant(math.nan))),
    ("tmaze", put("optimizer", "99", value={})),
]


@pytest.fixture(scope="module")
def states() -> Callable[[str], Any]:
    """The state of a learner after one update, by task."""
    kept: dict[str, Any] = {}

    def state_of(task: str) -> Any:
        if task not in kept:
            made = learner(task)
            made.update(made.collect(0.0), 0.0)
            made.collect(0.0)
            kept[task] = made.state_dict()
        return copy.deepcopy(kept[task])

    return state_of


@pytest.mark.slow
@pytest.mark.parametrize("task", TASKS)
def test_the_state_of_a_run_is_loaded(task: str, states: Callable[[str], Any]) -> None:
    loaded = learner(task)
    loaded.load_state_dict(states(task))
    loaded.update(loaded.collect(0.5), 0.5)


@pytest.mark.thorough
@pytest.mark.parametrize(("task", "lie"), LIES, ids=range(len(LIES)))
def test_a_value_that_no_run_writes_is_one_sentence(
    task: str, lie: Callable[[Any], None], states: Callable[[str], Any], tmp_path: Path
) -> None:
    state = states(task)
    lie(state)
    point = ResumePoint(Checkpoints(tmp_path), steps=1, tree={"learner": state})
    with pytest.raises(rmt_rl.ConfigError, match="does not fit this version of rmt_rl or the run's") as caught:
        point.restore(learner(task))
    assert str(caught.value).isprintable()
    point.checkpoints.close()


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("wall_s", math.nan),
        ("cpu_s", math.inf),
        ("wall_s", -1.0),
        ("metrics", -1),
        ("metrics", 0.5),
        ("best", 3),
        ("best", {"steps": "x", "success": None, "mean_return": 0.0}),
        ("best", {"steps": 1, "success": 2.0, "mean_return": 0.0}),
        ("best", {"steps": 1, "success": None, "mean_return": math.nan}),
    ],
)
def test_a_wrong_number_of_the_run_is_one_sentence(key: str, value: Any, tmp_path: Path) -> None:
    tree = {"metrics": 0, "wall_s": 1.0, "cpu_s": 1.0, "returns": None, "best": None}
    (tmp_path / "metrics.jsonl").touch()
    save_yaml(make_config(env="tmaze"), tmp_path / "config.yaml")
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(1, tree, {})
    checkpoints.save(2, tree | {key: value}, {})
    checkpoints.close()
    with pytest.raises(rmt_rl.ConfigError, match=r"checkpoints/step-2 does not fit this version of rmt_rl"):
        ResumePoint.newest(tmp_path)
