"""Tasks whose best score without memory is known: a policy with memory exceeds it, one without does not."""

import pytest

from rmt_rl.config.cli import parse
from rmt_rl.train import train

pytestmark = pytest.mark.slow

# Shorter than the default maze, so that it is learned in seconds; longer than a segment, so that RMT has to write its memory.
# Mixed lengths, because greedy episodes of one length and two cues would be two observations and not 200.
TASK = ["env=tmaze", "env.length=6", "env.min_length=4", "policy.width=32", "evaluate_episodes=200"]
# A run ends when it has learned the task.
SOLVED = ["evaluate_every=10000", "until.success=0.98"]


def test_rmt_learns_a_task_that_needs_its_memory_tokens(tmp_path):
    result = train(parse([*TASK, *SOLVED, "policy.segment=4", "steps=60000"]), root=tmp_path).summary
    assert result["eval"]["success"] >= 0.95


@pytest.mark.parametrize("policy", ["lstm", "gru"])
def test_recurrent_networks_learn_it_too(tmp_path, policy):
    result = train(parse([*TASK, *SOLVED, f"policy={policy}", "steps=60000"]), root=tmp_path).summary
    assert result["eval"]["success"] >= 0.95


def test_without_memory_the_score_stays_at_the_floor(tmp_path):
    result = train(parse([*TASK, "policy=mlp", "steps=40000"]), root=tmp_path).summary
    assert result["eval"]["success"] <= result["floor"] + 0.1  # 200 episodes: 0.1 is nearly three standard errors


def test_rate_learns_offline_a_task_that_needs_its_memory_tokens(tmp_path):
    task = ["env=tmaze-rate", "env.min_length=1", "env.length=8", "evaluate_episodes=200"]
    options = ["algo=rate", "policy.segment=4", "algo.learning_rate=2e-3", "steps=60000"]
    assert train(parse([*task, *options, *SOLVED]), root=tmp_path).summary["eval"]["success"] >= 0.95


def test_behaviour_cloning_without_memory_stays_at_the_floor(tmp_path):
    task = ["env=tmaze-rate", "env.length=9", "policy=mlp", "evaluate_episodes=200"]
    result = train(parse([*task, "algo=rate", "algo.returns=false", "steps=40000"]), root=tmp_path).summary
    assert result["eval"]["success"] <= result["floor"] + 0.1
