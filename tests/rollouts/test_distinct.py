"""Different episodes are counted, and a task with few of them is evaluated exactly."""

from __future__ import annotations

import itertools

import pytest
import torch

import rmt_rl
from rmt_rl.rollouts import distinct
from rmt_rl.rollouts.distinct import Watched, digest
from rmt_rl.rollouts.episodes import evaluate

#: Tasks and the number of their episodes that they claim; None = many.
CLAIMS = [
    ("tmaze", {"length": 3}, 2),
    ("tmaze", {"length": 5, "min_length": 3}, 6),
    ("tmaze", {"length": 4, "min_length": 3, "end_at_turn": True}, 4),
    ("tmaze-active", {"length": 3, "min_length": 2}, 4),
    ("tmaze-trial", {"length": 3, "min_length": 2, "episodes": 2}, 4),
    ("tmaze-rate", {"length": 3}, None),
    ("memory-len", {"length": 3, "bits": 1}, 2),
    ("memory-len", {"length": 3, "bits": 3}, 24),
    ("memory-len", {"length": 3, "bits": 8}, None),
    ("copy", {"symbols": 3, "length": 2, "delay": 1}, 9),
    ("copy", {"symbols": 8, "length": 5}, None),
    ("dark-room", {"episodes": 2}, 81),
    ("repeat-first", {}, None),
    ("minigrid-memory", {}, 16),
    ("minigrid-memory", {"size": 9, "view": 5, "max_steps": 60}, 24),
    ("minigrid-memory", {"size": 13, "random": True}, None),
    ("tmaze", {"length": 10_000, "min_length": 1}, None),
]


def flat(obs, rows):
    parts = obs.values() if isinstance(obs, dict) else [obs]
    return torch.cat([x.reshape(rows, -1).double() for x in parts], 1)


def played(env, choose):
    """[B, n] the hidden values of the first episode of every row, and [B, m] everything that is shown in it."""
    obs, _ = env.reset(seed=0)
    rows = env.num_envs
    hidden = torch.cat([x.reshape(rows, -1) for x in env.hidden().values()], 1)
    course, running = [flat(obs, rows)], torch.ones(rows, dtype=torch.bool)
    for t in itertools.count():
        _, reward, terminated, truncated, info = env.step(choose(t))
        numbers = torch.stack([reward, terminated.double(), info["success"].double()], 1)
        course.append(running[:, None] * torch.cat([flat(info["final_obs"], rows), numbers], 1))
        running &= ~(terminated | truncated)
        if not bool(running.any()):
            return hidden, torch.cat(course, 1)


@pytest.mark.parametrize(("name", "options", "claimed"), CLAIMS, ids=lambda x: str(x))
def test_a_task_has_the_number_of_episodes_that_it_claims(name, options, claimed):
    """By brute force: so many different courses are seen, and each as often as the others."""
    env = rmt_rl.make_env(name, 64 if claimed is None else 24 * claimed, **options)
    assert env.distinct_episodes == claimed
    if claimed is None:
        return
    blind = lambda t: torch.full((env.num_envs,), t % 2)  # noqa: E731
    # who turns on the spot does not see in which of these rooms it is
    for choose in (lambda t: env.oracle(), *([] if name == "minigrid-memory" else [blind])):
        try:
            hidden, courses = played(env, choose)
        except rmt_rl.ConfigError:  # this task has no oracle
            continue
        _, counts = torch.cat([hidden, courses], 1).unique(dim=0, return_counts=True)
        assert len(counts) == claimed and counts.max() < 24 + 8 * 24**0.5, "they are not all, or not equally likely"


def always_up(env):
    policy = rmt_rl.make_policy(env, "mlp", width=8)

    def act(obs, state, first, deterministic, generator):
        return torch.where(obs[:, 0] == 1, 1, 0), state

    policy.act = act
    return policy


def test_the_exact_score_of_a_policy_that_knows_one_of_two_cues_is_a_half():
    env = rmt_rl.make_env("tmaze", 7, length=3)
    score = rmt_rl.evaluate(always_up(env), env, episodes=7)
    # seven episodes are no even number, so each of the two counts once
    assert (score.episodes, score.success, score.ci95, score.mean_length) == (2, 0.5, (0.5, 0.5), 4.0)
    assert score.return_ci95 == (score.mean_return, score.mean_return)
    assert score.distinct.exact and (len(score.distinct), score.distinct.success) == (2, 0.5)
    assert (
        str(score) == f"success 0.500  return {score.distinct.mean_return:.3f}  exact: 2 distinct episodes of 4.0 steps"
    )
    own = score.distinct.each
    assert own.success.tolist().count(1.0) == 1 and own.lengths.tolist() == [4, 4]
    assert score.to_json()["distinct"] == {
        "episodes": 2,
        "exact": True,
        "success": 0.5,
        "return": score.distinct.mean_return,
    }


def test_an_evaluation_ends_when_all_episodes_were_played():
    env = rmt_rl.make_env("tmaze", 8, length=5, min_length=3)
    steps = 0

    def count():
        nonlocal steps
        steps += 1

    score = evaluate(always_up(env), env, 10_000, between_steps=count, count=True)
    assert steps < 200 and score.episodes == 6 and score.distinct.exact and len(score.distinct) == 6


def test_an_exact_score_does_not_depend_on_the_number_of_rows_or_episodes():
    env = rmt_rl.make_env("tmaze", 1, length=4, min_length=2)
    policy = rmt_rl.make_policy(env, "gru", width=8)
    scores = [
        rmt_rl.evaluate(policy, "tmaze", n, num_envs=rows, **{"env.length": 4, "env.min_length": 2})
        for n, rows in ((400, 64), (300, 7))
    ]
    assert scores[0] == scores[1] and scores[0].episodes == 6
    assert torch.equal(scores[0].each.returns, scores[1].each.returns)


def test_what_was_not_played_is_not_exact():
    env = rmt_rl.make_env("tmaze", 4, length=50, min_length=3)
    score = rmt_rl.evaluate(always_up(env), env, episodes=4)
    assert not score.distinct.exact and str(score).endswith(" distinct episodes")


def test_an_agent_that_samples_its_actions_has_no_exact_score():
    env = rmt_rl.make_env("tmaze", 4, length=3)
    policy = rmt_rl.make_policy(env, "mlp", width=8)
    assert rmt_rl.evaluate(policy, env, episodes=4, deterministic=False).distinct is None


def test_counting_changes_no_number():
    env = rmt_rl.make_env("tmaze-rate", 8, length=3)
    policy = rmt_rl.make_policy(env, "gru", width=8)
    assert evaluate(policy, env, 20, count=True) == evaluate(policy, env, 20)


@pytest.mark.parametrize("together", [1, 3, 100])
def test_episodes_are_told_apart_by_what_every_step_shows_until_they_end(together, monkeypatch):
    """However many steps are hashed together, and where the environment writes every observation into the same memory."""
    monkeypatch.setattr(distinct, "KEPT_STEPS", together)
    shown = torch.arange(10.0).repeat(5, 1)[..., None]  # [rows, steps, 1]
    shown[1, [4, 5]] = shown[1, [5, 4]]  # row 1 shows two steps in another order
    shown[2, 6] = -1.0  # row 2 differs in the last step of its first episode
    shown[3, 7] = -1.0  # row 3 differs in the next episode only
    env = rmt_rl.make_env("repeat-first", 5)
    env.reset(seed=0)
    env.hidden = dict
    watched, obs = Watched(env, lambda obs, first: first), torch.empty(5, 1)
    for t in range(10):
        watched(obs.copy_(shown[:, t]), torch.full((5,), t in (0, 7)))
    keys = list(watched.keys([torch.zeros(5)]))
    assert keys[0] == keys[3] == keys[4]
    assert len({keys[0], keys[1], keys[2]}) == 3


def test_a_hash_depends_on_every_value_its_place_and_its_key_and_on_its_row_alone():
    x = torch.zeros(9, 3)
    x[1, 0], x[2, 1], x[3, 2], x[4, :2], x[5, 0] = 1.0, 1.0, 1.0, 1.0, -1.0
    x[6, 0] = -0.0
    x[8, 1] = 0.25  # no whole number
    found = digest({"": x}, 9).tolist()
    assert len({*found[:6], found[8]}) == 7 and found[0] == found[6] == found[7]
    assert digest({"": x[3:]}, 6).tolist() == found[3:]
    assert digest({"a": x, "b": 0 * x}, 9).tolist() != digest({"a": 0 * x, "b": x}, 9).tolist()
    large = torch.tensor([[2**62], [2**62 + 1]])  # equal as floating-point numbers
    assert len(set(digest({"": large}, 2).tolist())) == 2
    assert digest({}, 2).tolist() == [0, 0]
