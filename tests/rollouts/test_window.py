"""The latest episodes that the progress line and metrics.jsonl average: a share of the run's steps."""

import pytest
import torch

from rmt_rl.rollouts.statistics import Episodes, EpisodeStats


def played(returns: list[float], length: int) -> Episodes:
    size = len(returns)
    return Episodes(torch.tensor(returns).double(), torch.full((size,), length), torch.ones(size).double())


def test_long_episodes_of_the_beginning_are_forgotten_before_the_end_of_the_run() -> None:
    stats = EpisodeStats(steps=64 * 200 * 40)
    for update in range(40):  # 64 rows play episodes of 200 steps
        stats.add(played([float(update)] * 64, 200))
    # the last 5 % of the run are 128 episodes
    assert stats.means() == {"success": 1.0, "return": 38.5, "length": 200.0}


def test_at_least_20_episodes_count_however_long_they_are() -> None:
    stats = EpisodeStats(steps=10_000)
    for number in range(30):
        stats.add(played([float(number)], 1_000))
    assert stats.means()["return"] == pytest.approx(sum(range(10, 30)) / 20)


def test_at_most_500_episodes_count_however_short_they_are() -> None:
    stats = EpisodeStats(steps=10**6)
    for number in range(600):
        stats.add(played([float(number)], 1))
    assert stats.means()["return"] == pytest.approx(sum(range(100, 600)) / 500)


def test_episodes_of_a_checkpoint_continue_exactly() -> None:
    stats, again = EpisodeStats(steps=8_000), EpisodeStats(steps=8_000)
    for number in range(60):
        stats.add(played([float(number)], number))
    again.load_state_dict(stats.state_dict())
    for number in range(40):
        for each in (stats, again):
            each.add(played([-float(number)], 7 * number))
        assert stats.means() == again.means()


def test_a_checkpoint_of_a_version_that_kept_500_episodes_loads() -> None:
    stats = EpisodeStats(steps=10_000)
    rows = torch.stack([torch.ones(500), torch.arange(500), torch.full((500,), 200)], dim=1).double()
    stats.load_state_dict({"episodes": rows})
    assert stats.means()["return"] == pytest.approx(sum(range(480, 500)) / 20)
