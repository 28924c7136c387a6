"""Evaluation: a score counts every new episode once, whatever the number of rows."""

import dataclasses
import itertools
import json
import math
import random
from types import SimpleNamespace
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch

import rmt_rl
from rmt_rl import config
from rmt_rl.common import rng
from rmt_rl.envs.episodic import EpisodicEnv
from rmt_rl.envs.registry import BUILTIN, make_from_config
from rmt_rl.envs.tmaze.passive import DOWN, RIGHT, UP
from rmt_rl.envs.wrappers.memory_scope import MemoryScope
from rmt_rl.policies.actor_critic import ActorCritic
from rmt_rl.policies.spec import make_spec
from rmt_rl.rollouts.episodes import evaluate, record
from rmt_rl.rollouts.statistics import Episodes, Score, format_score, success_interval

POLICIES = {
    "rmt": config.RMTConfig(width=16, heads=2, segment=4, memory_tokens=2),
    "lstm": config.LSTMConfig(width=16),
    "gru": config.GRUConfig(width=16),
    "mlp": config.MLPConfig(width=16, previous_action=True),
}
MIXED = config.TMazeConfig(length=12, min_length=1)
TURN = config.TMazeConfig(length=4, min_length=1, end_at_turn=True)


def make_policy(policy_name="rmt", task=TURN):
    """An untrained policy whose actions depend on the observation."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        policy = ActorCritic(make_spec(make_from_config(task), task, POLICIES[policy_name]))
        for parameter in policy.parameters():
            parameter.data += 0.3 * torch.randn_like(parameter)
    return policy


class Player:
    """Walks to the right and turns up: no network, no memory; `evaluate` needs only these two methods."""

    def initial_state(self, batch):
        return torch.zeros(batch)

    def act(self, obs, state, first, deterministic, generator):
        return torch.where(obs[:, 0] == 1, UP, RIGHT), state


def record_resets(env):
    """Make `env.reset` append the seeds that it is given to the list that is returned here."""
    seeds, reset = [], env.reset

    def recorded(*, seed):
        seeds.extend(seed + row for row in range(env.num_envs))
        return reset(seed=seed)

    env.reset = recorded
    return seeds


def first_episodes(task, seeds):
    """Goal and length of the first episode of every seed."""
    env = make_from_config(task, len(seeds))
    env.reset(seed=list(seeds))
    return env.state_dict()["goal"], env.state_dict()["length"]


# -------------------------------------------------------------------------------------------------- whatever the rows


@pytest.mark.slow
@pytest.mark.parametrize("policy_name", POLICIES)
def test_a_deterministic_score_does_not_depend_on_the_number_of_rows(policy_name):
    policy = make_policy(policy_name)
    scores = [evaluate(policy, make_from_config(TURN, rows), 21) for rows in (1, 3, 16, 64)]
    assert all(score == scores[0] for score in scores)
    assert scores[0].episodes == 21


def test_the_scores_above_are_not_all_failures_of_one_length():
    score = evaluate(make_policy("mlp"), make_from_config(TURN, 64), 64)
    assert 0 < score.success < 1
    assert score.mean_length != round(score.mean_length)


def test_short_episodes_are_not_counted_twice():
    """Forty rows end their short episodes first; counting whatever ends first would prefer short episodes."""
    n, env = 40, make_from_config(MIXED, 40)
    score = evaluate(Player(), env, n)
    base = rng.seed(0, "evaluate")
    goal, length = first_episodes(MIXED, range(base, base + n))
    assert score.mean_length == float((length + 1).double().mean())
    assert score.success == score.mean_return == float((goal == 1).double().mean())


@pytest.mark.parametrize("rows, episodes", [(1, 1), (4, 3), (4, 4), (4, 5), (3, 10)])
def test_exactly_the_requested_number_of_episodes_is_counted(rows, episodes):
    score = evaluate(Player(), make_from_config(MIXED, rows), episodes)
    base = rng.seed(0, "evaluate")
    _, length = first_episodes(MIXED, range(base, base + episodes))
    assert score.episodes == episodes
    assert score.mean_length == float((length + 1).double().mean())


def test_a_policy_that_keeps_the_cue_in_its_state_reaches_the_ceiling():
    """The state after one step is passed to the next step, in every row."""

    class KeepsCue(Player):
        def act(self, obs, state, first, deterministic, generator):
            state = torch.where(first, obs[:, 1], state)
            turn = torch.where(state > 0, UP, DOWN)
            return torch.where(obs[:, 0] == 1, turn, RIGHT), state

    score = evaluate(KeepsCue(), make_from_config(MIXED, 8), 30)
    assert score.success == score.mean_return == 1.0
    assert score.ci95 == success_interval(30, 30)


def test_memory_is_reset_for_every_episode():
    """Episodes played before, in this evaluation or another, change nothing."""
    policy, env = make_policy(), make_from_config(TURN, 4)
    once = evaluate(policy, env, 12)
    assert evaluate(policy, env, 12) == once


# --------------------------------------------------------------------------------------------------------------- seeds


def test_every_episode_has_a_seed_of_its_own():
    env = make_from_config(MIXED, 4)
    seeds = record_resets(env)
    evaluate(Player(), env, 10)
    base = rng.seed(0, "evaluate")
    assert seeds == list(range(base, base + 12))


def test_the_episodes_are_not_those_of_training():
    for run_seed in range(20):
        training, evaluation = rng.seed(run_seed, "env"), rng.seed(run_seed, "evaluate")
        assert abs(training - evaluation) > 10_000


def test_another_seed_plays_other_episodes():
    seeds = []
    for seed in (0, 1):
        env = make_from_config(MIXED, 4)
        seeds.append(record_resets(env))
        evaluate(Player(), env, 8, seed=seed)
    assert not set(seeds[0]) & set(seeds[1])


# -------------------------------------------------------------------------------------------------------------- random


@pytest.mark.parametrize("deterministic", [True, False])
def test_evaluating_changes_no_global_random_stream_and_no_weight(deterministic):
    policy, env = make_policy(), make_from_config(TURN, 8)
    weights = [p.detach().clone() for p in policy.parameters()]
    before = torch.get_rng_state(), np.random.get_state()[1].copy(), random.getstate()
    evaluate(policy, env, 16, deterministic=deterministic)
    assert torch.equal(torch.get_rng_state(), before[0])
    assert np.array_equal(np.random.get_state()[1], before[1])
    assert random.getstate() == before[2]
    assert all(torch.equal(a, b) for a, b in zip(policy.parameters(), weights, strict=True))
    assert all(p.grad is None for p in policy.parameters())


def test_every_seed_has_its_own_stream_of_actions():
    streams = []

    class Recording(Player):
        def act(self, obs, state, first, deterministic, generator):
            streams.append(generator.initial_seed())
            return super().act(obs, state, first, deterministic, generator)

    for seed in (0, 1):
        evaluate(Recording(), make_from_config(MIXED, 2), 2, seed=seed)
    assert len(set(streams)) == 2


@pytest.mark.slow
def test_sampled_actions_are_determined_by_the_seed():
    policy, env = make_policy(), make_from_config(TURN, 8)
    scores = [evaluate(policy, env, 64, seed=seed, deterministic=False) for seed in (0, 0, 1)]
    assert scores[0] == scores[1]
    assert scores[0] != scores[2]
    assert scores[0] != evaluate(policy, env, 64, deterministic=True)


# ------------------------------------------------------------------------------------------------------------- numbers


@pytest.mark.parametrize("successes, episodes", [(0, 10), (10, 10), (7, 10), (1, 3), (203, 400), (1, 1)])
def test_the_interval_of_a_success_rate_is_wilsons(successes, episodes):
    p, n, z = successes / episodes, episodes, 1.959963984540054
    middle = (p + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    expected = max(middle - half, 0), min(middle + half, 1)
    assert success_interval(successes, episodes) == pytest.approx(expected, abs=1e-9)


def test_the_interval_of_a_success_rate_has_the_bits_of_scipy():
    from scipy.stats import binomtest

    for n in (1, 2, 3, 20, 100, 1000):
        for k in {*range(0, n, max(1, n // 10)), n}:
            interval = binomtest(k, n).proportion_ci(confidence_level=0.95, method="wilson")
            assert success_interval(k, n) == (interval.low, interval.high)


def test_the_interval_in_the_score_is_that_of_its_successes():
    score = evaluate(Player(), make_from_config(MIXED, 8), 30)
    assert 0 < score.success < 1
    assert score.ci95 == success_interval(round(30 * score.success), 30)
    assert score.ci95[0] < score.success < score.ci95[1]


def test_the_interval_of_the_return_by_hand():
    """Always right and up in a T-maze returns 1 or 0, so mean p and deviation sqrt(p (1 - p) n / (n - 1))."""
    n = 30
    score = evaluate(Player(), make_from_config(MIXED, 8), n)
    p = score.mean_return
    half = 1.96 * math.sqrt(p * (1 - p) * n / (n - 1)) / math.sqrt(n)
    assert score.return_ci95 == pytest.approx((p - half, p + half))


def test_returns_are_undiscounted_sums_over_the_first_episode_only():
    """Never moving costs 1/length at each of the length steps before the last, so -1 in all, whatever the length is."""

    class Sleeper(Player):
        def act(self, obs, state, first, deterministic, generator):
            return torch.full((len(obs),), 2), state

    score = evaluate(Sleeper(), make_from_config(MIXED, 8), 16)
    assert score.mean_return == pytest.approx(-1)
    assert score.success == 0


def test_first_is_true_at_the_first_step_and_after_every_end():
    seen = []

    class Recording(Player):
        def act(self, obs, state, first, deterministic, generator):
            seen.append(first.tolist())
            return super().act(obs, state, first, deterministic, generator)

    evaluate(Recording(), make_from_config(config.TMazeConfig(length=2), 2), 4)
    assert seen == [[True, True], [False, False], [False, False]] * 2


def test_the_option_deterministic_reaches_the_policy():
    seen = set()

    class Recording(Player):
        def act(self, obs, state, first, deterministic, generator):
            seen.add(deterministic)
            return super().act(obs, state, first, deterministic, generator)

    for deterministic in (True, False):
        evaluate(Recording(), make_from_config(MIXED, 2), 2, deterministic=deterministic)
    assert seen == {True, False}


# ------------------------------------------------------------------------------------------------- score as text


def test_success_is_none_where_the_environment_does_not_report_it():
    task = config.GymConfig(id="CartPole-v1", options={"max_episode_steps": 4})
    env = make_from_config(task, 2)
    score = evaluate(make_policy("mlp", task), env, 3)
    env.close()
    assert (score.success, score.ci95) == (None, None)
    assert score.mean_return == score.mean_length == 4.0
    assert format_score(score, env) == "return 4.000 [4.000, 4.000]  over 3 episodes of 4.0 steps"


def test_a_printed_score_is_one_line_of_rounded_numbers():
    each = Episodes(*(torch.zeros(3, dtype=torch.float64) for _ in range(3)))
    score = Score(2 / 3, (1 / 7, 0.99), 1 / 3, (-1 / 9, 2.0), 4.0, 3, each)
    assert (
        str(score)
        == f"{score}"
        == "success 0.667 [0.143, 0.990]  return 0.333 [-0.111, 2.000]  over 3 episodes of 4.0 steps"
    )
    assert score.ci95 == (1 / 7, 0.99) and "0.14285714" in repr(score)
    bare = Score(None, None, 1 / 3, None, 4.0, 3, each, cut=2)
    assert str(bare) == "return 0.333  over 3 episodes of 4.0 steps, 2 of them cut"


def test_the_text_has_floor_and_ceiling_beside_the_score():
    none = Episodes(*torch.empty(3, 0))
    score = Score(0.5, (0.25, 0.75), 0.5, (0.2, 0.8), 11.0, 20, none)
    assert format_score(score, make_from_config(MIXED)) == (
        "success 0.500 [0.250, 0.750]  return 0.500 [0.200, 0.800]  over 20 episodes of 11.0 steps"
        "  (floor 0.500, ceiling 1.000)"
    )


def test_a_score_is_plain_json():
    score = evaluate(Player(), make_from_config(MIXED, 2), 2)
    assert json.loads(json.dumps(score.to_json(), allow_nan=False))["return"] == score.mean_return
    assert set(score.to_json()) == {f.name for f in dataclasses.fields(Score)} - {"mean_return", "each"} | {"return"}


def test_the_score_of_one_episode_is_plain_json_too():
    json.dumps(evaluate(Player(), make_from_config(MIXED), 1).to_json(), allow_nan=False)


class Endless(gymnasium.Env):
    """Ends at action 1, with success; an agent that never takes it walks on."""

    observation_space, action_space = gymnasium.spaces.Box(-1, 1, (1,)), gymnasium.spaces.Discrete(2)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return np.array([self.np_random.random() - 0.5], np.float32), {}

    def step(self, action):
        ends = action == 1
        return np.zeros(1, np.float32), 1.0, bool(ends), False, {"success": True} if ends else {}


class Never:
    """Takes action 1 where the first observation is positive, and never otherwise."""

    def initial_state(self, batch):
        return torch.zeros(batch)

    def act(self, obs, state, first, deterministic, generator):
        return (obs[:, 0] > 0).long(), state


@pytest.fixture
def endless():
    gymnasium.register("Endless-v0", entry_point=Endless)
    yield "Endless-v0"
    gymnasium.registry.pop("Endless-v0")


def test_episodes_that_do_not_end_are_cut_and_counted(endless) -> None:
    env = rmt_rl.make_env("gym", 4, id=endless)
    score = evaluate(Never(), env, 12, episode_steps=50)
    lengths = score.each.lengths.tolist()
    assert set(lengths) == {1, 50} and score.cut == lengths.count(50) == score.to_json()["cut"]
    assert score.success == lengths.count(1) / 12  # an episode that was cut has no success
    assert f"; {score.cut} of 12 episodes had not ended after 50 steps and were cut (episode_steps)" in format_score(
        score, env
    )


def test_an_episode_that_ends_in_the_last_step_before_the_cut_is_not_cut(endless) -> None:
    score = evaluate(Never(), rmt_rl.make_env("gym", 4, id=endless), 12, episode_steps=1)
    assert 0 < score.cut < 12 and score.success == 1 - score.cut / 12


def test_an_environment_without_a_time_limit_has_a_step_budget_of_its_own(endless) -> None:
    assert rmt_rl.make_env("gym", 1, id=endless).episode_steps == 5_000
    assert rmt_rl.make_env("gym", 1, id=endless, options={"max_episode_steps": 9}).episode_steps is None
    assert rmt_rl.make_env("gym", 1, id="CartPole-v1").episode_steps is None
    assert rmt_rl.make_env("tmaze", 1, length=100_000).episode_steps is None
    trial = config.MemoryConfig(scope="trial", episodes=3)
    gym = config.GymConfig(id=endless)
    assert make_from_config(gym, 1, memory=trial).episode_steps == 15_000


def test_an_evaluation_of_an_agent_that_never_ends_its_episode_ends(endless) -> None:
    env = rmt_rl.make_env("gym", 2, id=endless)
    env.episode_steps = 30
    policy = rmt_rl.make_policy(env, "mlp", width=8)
    policy.head.mode = lambda parameters: torch.zeros(2, dtype=torch.int64)
    score = evaluate(policy, env, 3)
    assert (score.cut, score.mean_length, score.success) == (3, 30.0, None)


def test_a_long_evaluation_reports_that_it_is_still_running(endless, monkeypatch, capsys) -> None:
    """Of a clock that shows 12 seconds more at every step, and with 20 seconds of patience."""
    now = itertools.count(0)
    clock = SimpleNamespace(monotonic=lambda: 12 * next(now) + 1000)
    monkeypatch.setattr("rmt_rl.rollouts.episodes.time", clock)
    length = config.TMazeConfig(length=6)
    evaluate(Player(), make_from_config(length, 2), 2)
    none = "no episode has ended yet; episode_steps=<steps> sets a limit"
    # every report reads the clock once more
    assert capsys.readouterr().out == (
        f"still playing: 2 steps, {none}\nstill playing: 4 steps, {none}\nstill playing: 6 steps, {none}\n"
    )
    score = evaluate(Never(), rmt_rl.make_env("gym", 4, id=endless), 4, episode_steps=3)
    ended = score.each.lengths.tolist().count(1)
    assert 0 < ended < 4
    assert capsys.readouterr().out == f"still playing: 2 steps, {ended} of 4 episodes have ended\n"


def test_scores_are_compared_by_success_and_then_by_return() -> None:
    none = Episodes(*torch.empty(3, 0))

    def rank(success, mean_return):
        return Score(success, None, mean_return, None, 1.0, 1, none).rank()

    assert rank(None, 9.0) < rank(0.0, -1.0) < rank(0.5, -2.0) < rank(0.5, 1.0)
    assert rank(None, 1.0) < rank(None, 2.0)


def test_a_recorded_episode_that_is_cut_is_truncated(endless) -> None:
    env = rmt_rl.make_env("gym", 2, id=endless)
    actor = lambda: lambda obs, first: torch.zeros(2, dtype=torch.int64)  # noqa: E731
    for episode in next(record(env, actor, 2, 0, 7)):
        assert (len(episode.reward), len(episode.obs), episode.terminated, episode.truncated) == (7, 8, False, True)


class Wanders(EpisodicEnv):
    """An episode ends when the agent takes action 1."""

    def __init__(self, num_envs: int, device: str | torch.device = "cpu") -> None:
        super().__init__(num_envs, device, gymnasium.spaces.Discrete(2), 2)

    def _begin(self, key_B: torch.Tensor) -> dict[str, torch.Tensor]:
        return {}

    def _advance(self, state: Any, action_B: torch.Tensor) -> Any:
        return {}, torch.ones(len(action_B), dtype=torch.float64), action_B == 1, {}

    def _observe(self, state: Any) -> torch.Tensor:
        return state["key"] % 2


def test_a_task_of_the_user_has_the_step_budget_unless_it_says_otherwise() -> None:
    env = Wanders(2)
    assert env.episode_steps == 5_000
    policy = rmt_rl.make_policy(env, "mlp", width=8)
    policy.head.mode = lambda parameters: torch.zeros(2, dtype=torch.int64)
    score = evaluate(policy, env, 2, episode_steps=7)
    assert (score.cut, score.mean_length) == (2, 7.0)
    assert MemoryScope(env, 3).episode_steps == 15_000


@pytest.mark.parametrize("name", [name for name in BUILTIN if name != "gym"])
def test_every_built_in_task_ends_by_itself(name: str) -> None:
    assert rmt_rl.make_env(name, 1).episode_steps is None
