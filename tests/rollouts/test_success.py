"""Success that an environment reports: one rule for every number of rows, in training, evaluation and recording."""

from __future__ import annotations

import math
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch

from rmt_rl.common.errors import ConfigError, RunError
from rmt_rl.config.memory import MemoryConfig
from rmt_rl.envs.gym.adapter import GymAdapter
from rmt_rl.envs.gym.lockstep import EnvironmentFault
from rmt_rl.envs.registry import wrap
from rmt_rl.rollouts.collector import Collector
from rmt_rl.rollouts.episodes import evaluate, random_actor, record
from rmt_rl.rollouts.minari_writer import _Statistics
from rmt_rl.rollouts.statistics import Episodes, EpisodeStats

EPISODES = 24


class Lottery(gymnasium.Env[Any, Any]):
    """Half of the episodes are won, after 2 to 8 steps; `told(won)` is the last info."""

    observation_space = gymnasium.spaces.Box(-1, 1, (2,), np.float32)
    action_space = gymnasium.spaces.Discrete(2)

    def __init__(self, told: Any = None) -> None:
        self.told = told or (lambda won: {"is_success": True} if won else {})

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.left, self.win = int(self.np_random.integers(2, 9)), bool(self.np_random.random() < 0.5)
        return np.zeros(2, np.float32), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self.left -= 1
        over = self.left == 0
        won = over and self.win
        return np.zeros(2, np.float32), float(won), over, False, self.told(won) if over else {"is_success": "unknown"}


@pytest.fixture(autouse=True)
def registered() -> Any:
    gymnasium.register("rmt-test/Lottery-v0", Lottery, disable_env_checker=True)
    yield
    del gymnasium.registry["rmt-test/Lottery-v0"]


def lottery(rows: int, told: Any = None, memory: MemoryConfig | None = None, **options: Any) -> Any:
    return wrap(GymAdapter(rows, id="rmt-test/Lottery-v0", options={"told": told}, **options), memory)


class Still:
    def initial_state(self, batch: int) -> torch.Tensor:
        return torch.zeros(batch)

    def act(self, obs: Any, state: torch.Tensor, first: Any, deterministic: bool, generator: Any) -> Any:
        return torch.zeros(len(state), dtype=torch.int64), state


def score(rows: int, told: Any = None, memory: MemoryConfig | None = None) -> Any:
    return evaluate(Still(), lottery(rows, told, memory), EPISODES)  # type: ignore[arg-type]


def test_an_environment_that_reports_only_what_was_won_has_one_success_rate_for_any_number_of_rows() -> None:
    scores = [score(rows) for rows in (1, 4, EPISODES)]
    assert [each.success for each in scores] == [scores[0].mean_return] * 3
    assert 0 < scores[0].success < 1
    told = scores[0].to_json(each=True)
    assert told["successes"] == [value == 1 for value in told["returns"]]


def test_recorded_episodes_have_the_success_that_an_evaluation_of_them_has() -> None:
    rates, episodes = [], []
    for rows in (1, 4, EPISODES):
        env, stats = lottery(rows), _Statistics()
        for wave in record(env, random_actor(env, 0), EPISODES, 0):
            stats.add(wave)
            episodes.append([episode.success for episode in wave])
        rates.append((stats.summary()["success"], stats.summary()["return_mean"]))
    assert rates == [(rates[0][1], rates[0][1])] * 3
    assert [success for wave in episodes[:EPISODES] for success in wave] == episodes[-1]
    assert set(episodes[-1]) == {True, None}


def test_success_stays_unknown_where_no_episode_reports_it() -> None:
    for rows in (1, 4):
        assert score(rows, lambda won: {}).success is None
        assert score(rows, lambda won: {"success": None}).success is None


@pytest.mark.parametrize("rows", [1, 4])
def test_the_success_of_a_trial_is_that_of_its_last_episode_for_any_number_of_rows(rows: int) -> None:
    memory = MemoryConfig(scope="trial", episodes=2)
    expected = score(EPISODES, lambda won: {"is_success": won}, memory)
    found = score(rows, None, memory)
    assert found.success == expected.success
    assert 0 < found.success < 1


def test_missing_reports_count_as_failures_while_training_too() -> None:
    from rmt_rl.policies.saving import make_policy

    env = lottery(3)
    _, episodes = Collector(env, make_policy(env, "mlp", width=16)).collect(64)
    assert [math.isnan(x) for x in episodes.success.tolist()] == [x == 0 for x in episodes.returns.tolist()]
    stats = EpisodeStats(steps=10_000)
    stats.add(episodes)
    assert stats.means()["success"] == stats.means()["return"]


def test_the_latest_episodes_remember_that_success_is_reported() -> None:
    def some(success: list[float]) -> Episodes:
        return Episodes(torch.zeros(len(success)), torch.ones(len(success)), torch.tensor(success))

    stats, again = EpisodeStats(10**6), EpisodeStats(10**6)
    stats.add(some([math.nan] * 3))
    assert stats.means()["success"] is None
    stats.add(some([1.0]))
    assert stats.means()["success"] == 0.25
    stats.add(some([math.nan] * 499))
    again.load_state_dict(stats.state_dict())
    for each in (stats, again):
        each.add(some([math.nan]))
        assert each.means()["success"] == 0.0


@pytest.mark.parametrize("value", [2.0, -0.5, math.inf])
def test_a_success_outside_0_to_1_is_refused(value: float) -> None:
    with pytest.raises(RunError, match=r'info\["success"\] of an episode is .*; expected true or false, or 0 to 1'):
        some_success([1.0, math.nan, value])


def some_success(success: list[float]) -> Episodes:
    return Episodes(torch.zeros(len(success)), torch.full((len(success),), 10**6), torch.tensor(success))


def test_the_best_success_so_far_is_kept_and_needs_a_hundred_episodes() -> None:
    stats, again = EpisodeStats(10**6), EpisodeStats(10**6)
    best = []
    for success in ([1.0] * 99, [0.0] * 101, [1.0] * 200, [0.0] * 500, [math.nan] * 3):
        stats.add(some_success(success))
        best.append(stats.best_success)
    assert best == [0, 0.495, 0.7475, 0.7475, 0.7475]  # of 400 episodes 299
    again.load_state_dict(stats.state_dict())
    assert again.best_success == 0.7475
    wrong: list[tuple[str, Any]] = [("best_success", 1.5), ("best_success", "much"), ("for_best", torch.tensor([2.0]))]
    for name, value in [*wrong, ("ended", torch.ones(3))]:
        with pytest.raises(ValueError, match=name):
            again.load_state_dict(stats.state_dict() | {name: value})


def test_the_first_episodes_that_end_are_those_that_succeed_and_do_not_count_as_the_best() -> None:
    stats, ended = EpisodeStats(10**6), torch.tensor([True, False])
    stats.add(some_success([1.0] * 200), ended)
    again = EpisodeStats(10**6)
    again.load_state_dict(stats.state_dict())
    for each in (stats, again):
        each.add(some_success([1.0] * 200), ~ended)  # now an episode has ended in both rows
        assert each.best_success == 0
        each.add(some_success([0.5] * 100), ended)
        assert each.best_success == 0.5


@pytest.mark.parametrize("value", [True, np.True_, 1, 1.0, np.float32(1), np.ones(1), torch.tensor(True), [True, 1]])
def test_true_and_one_count_as_success(value: Any) -> None:
    assert score(2, lambda won: {"success": value}).success == 1


@pytest.mark.parametrize("value", [False, 0, 0.0, np.zeros(2, bool), [True, False]])
def test_false_and_zero_count_as_failure(value: Any) -> None:
    assert score(2, lambda won: {"success": value}).success == 0


@pytest.mark.parametrize("value", [math.nan, "no", 0.3, 2, -1, [], {}, [[1], [1, 0]], object(), 1j])
def test_any_other_success_is_refused_in_one_sentence(value: Any) -> None:
    with pytest.raises(
        ConfigError, match=r"^Lottery: step returned the info 'success' = .*; expected True or False"
    ) as caught:
        score(2, lambda won: {"success": value})
    assert "\n" not in str(caught.value)


@pytest.mark.slow
def test_any_other_success_is_refused_in_worker_processes_too() -> None:
    env = lottery(2, told=lambda won: {"success": "no"}, workers="async")
    with pytest.raises(EnvironmentFault, match=r"the info 'success' = 'no'; expected True or False"):
        evaluate(Still(), env, 2)  # type: ignore[arg-type]


@pytest.mark.slow
def test_worker_processes_report_success_row_by_row() -> None:
    env = lottery(3, workers="async")
    found = evaluate(Still(), env, EPISODES)  # type: ignore[arg-type]
    env.close()
    assert found.success == score(1).success
