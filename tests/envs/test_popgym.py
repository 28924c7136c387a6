"""The POPGym tasks equal the package seed for seed; their floors and ceilings; and numbers as numpy's generators make them."""

from __future__ import annotations

import functools
import math

import gymnasium
import numpy as np
import pytest
import torch
from popgym import envs as package

from rmt_rl.envs.base import row_generator
from rmt_rl.envs.popgym import boards, cards
from rmt_rl.envs.registry import make_env
from rmt_rl.envs.words import Words

THEIRS = {
    "autoencode": "Autoencode",
    "repeat-first": "RepeatFirst",
    "repeat-previous": "RepeatPrevious",
    "count-recall": "CountRecall",
    "higher-lower": "HigherLower",
    "concentration": "Concentration",
    "battleship": "Battleship",
    "minesweeper": "MineSweeper",
    "multiarmed-bandit": "MultiarmedBandit",
    "position-only-cartpole": "PositionOnlyCartPole",
    "velocity-only-cartpole": "VelocityOnlyCartPole",
    "position-only-pendulum": "PositionOnlyPendulum",
    "noisy-position-only-pendulum": "NoisyPositionOnlyPendulum",
}
#: Tasks without an expert.
CONTROL = [name for name in THEIRS if name.endswith(("cartpole", "pendulum"))]
DIFFICULTIES = ("easy", "medium", "hard")
ROWS, SEED = 4, 11


def flat(x):
    return np.asarray(x).reshape(-1)


def compare(name, difficulty, steps, ours=None):
    """Play both; an expert's actions, and one in four at random, reach deep into an episode and make all mistakes."""
    theirs = [getattr(package, THEIRS[name] + difficulty.capitalize())() for _ in range(ROWS)]
    ours = ours or make_env(f"popgym-{name}", ROWS, difficulty=difficulty)
    draw, ends = np.random.default_rng(0), 0
    shown = ours.reset(seed=SEED)[0]
    for row, env in enumerate(theirs):
        assert np.array_equal(flat(shown[row]), flat(env.reset(seed=SEED + row)[0]))
    for _ in range(steps):
        random = np.stack([ours.single_action_space.sample() for _ in range(ROWS)])
        action = random if name in CONTROL else ours.oracle().numpy()
        wild = draw.random(ROWS) < 0.25
        action = np.where(wild.reshape(-1, *[1] * (action.ndim - 1)), random, action)
        shown, reward, terminated, truncated, info = ours.step(action)
        for row, env in enumerate(theirs):
            obs, expected, their_end, cut, _ = env.step(action[row])
            # the package squares single numbers of a pendulum as a power, which rounds some of them otherwise
            assert abs(float(reward[row]) - float(expected)) <= (1e-11 if name.endswith("pendulum") else 0)
            assert (bool(terminated[row]), bool(truncated[row])) == (their_end, cut and not their_end)
            assert np.array_equal(flat(info["final_obs"][row]), flat(obs))
            if their_end or cut:
                ends += 1
                obs, _ = env.reset()
            assert np.array_equal(flat(shown[row]), flat(obs))
    return ends


@pytest.mark.slow
@pytest.mark.parametrize("difficulty", DIFFICULTIES)
@pytest.mark.parametrize("name", THEIRS)
def test_episodes_are_those_of_the_package(name, difficulty) -> None:
    assert compare(name, difficulty, steps=5_000) >= 5 * ROWS


def test_spaces_are_those_of_the_package_with_tuples_as_one_tensor() -> None:
    for name, theirs in THEIRS.items():
        for difficulty in DIFFICULTIES:
            env = make_env(f"popgym-{name}", 1, difficulty=difficulty)
            their = getattr(package, theirs + difficulty.capitalize())()
            own, parts = (
                env.single_observation_space,
                getattr(their.observation_space, "spaces", [their.observation_space]),
            )
            assert env.single_action_space == their.action_space
            if isinstance(own, gymnasium.spaces.Box):
                assert [own] == parts
            else:
                assert np.array_equal(sizes(own), np.concatenate([sizes(part) for part in parts]))


def sizes(space):
    return flat(getattr(space, "nvec", getattr(space, "n", None)))


# ------------------------------------------------------------------------------------------------------------ numbers


def test_words_give_what_the_generator_gives_one_at_a_time_and_unused_ones_are_given_back() -> None:
    ours, theirs = [row_generator(seed) for seed in (3, 4)], [row_generator(seed) for seed in (3, 4)]
    words = Words(ours, ahead=5)
    # of the largest one, a third of the words is refused
    for n, rows in ((10, [0, 1]), (2, [1]), (3 * 2**30, [0, 1]), (7, [0]), *[(3 * 2**30, [0, 1])] * 20):
        expected = [int(theirs[row].integers(n)) for row in rows]
        assert words.below(n, np.array(rows)).tolist() == expected
    words.close()
    assert [g.bit_generator.state for g in ours] == [g.bit_generator.state for g in theirs]


def test_a_board_of_mines_whose_words_are_refused_is_drawn_as_the_package_does(monkeypatch) -> None:
    usual = boards.lemire

    def refuse_some(words, n):
        chosen, again = usual(words, n)
        return chosen, again | (words % 5 == 0)

    monkeypatch.setattr(boards, "lemire", refuse_some)
    assert compare("minesweeper", "hard", steps=60) > 0


# ------------------------------------------------------------------------------------------------- floors and ceilings


def mean_return(name, difficulty, act, episodes=4_000):
    """The mean return of `act(env, obs, previous action)` and its standard error."""
    env = make_env(f"popgym-{name}", episodes, difficulty=difficulty)
    obs, _ = env.reset(seed=5)
    total, over = torch.zeros(episodes, dtype=torch.float64), torch.zeros(episodes, dtype=torch.bool)
    action = torch.zeros(episodes, dtype=torch.int64)
    while not bool(over.all()):
        action = act(env, obs, action)
        obs, reward, terminated, truncated, _ = env.step(action)
        total += torch.where(over, 0.0, reward)
        over |= terminated | truncated
    return float(total.mean()), float(total.std()) / math.sqrt(episodes), env


def best_counts(cards, kinds):
    """The most likely count where the kinds are the same, and where they differ, from decks that are shuffled here."""
    rng = np.random.default_rng(0)
    same, other = np.zeros(cards), np.zeros(cards)
    for _ in range(4_000):
        value = rng.permuted(np.arange(cards) % kinds)[: cards - 1]
        for kind in range(kinds):
            count = (value == kind).cumsum()
            same += np.bincount(count[value == kind], minlength=cards)
            other += np.bincount(count[value != kind], minlength=cards)
    return int(same.argmax()), int(other.argmax())


FLOORS = {
    "repeat-first": lambda env, obs, _: obs,
    "repeat-previous": lambda env, obs, _: (obs + 1) % 4,
    "autoencode": lambda env, obs, _: obs[:, 1],
    "higher-lower": lambda env, obs, _: (obs > 6).long(),
    "multiarmed-bandit": lambda env, obs, last: torch.where(obs == 1, last, (last + 1) % env.arms),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", FLOORS)
def test_the_policy_that_the_docstring_names_has_the_return_of_the_floor(name) -> None:
    mean, error, env = mean_return(name, "easy", FLOORS[name])
    assert abs(mean - env.floor) < 4 * error + 1e-12


@pytest.mark.slow
@pytest.mark.parametrize("difficulty", ["easy", "medium"])
def test_the_most_likely_count_has_the_return_of_the_floor(difficulty) -> None:
    decks, kinds = cards.CountRecall.sizes[difficulty]
    same, other = best_counts(52 * decks, kinds)
    mean, error, env = mean_return(
        "count-recall", difficulty, lambda env, obs, _: torch.where(obs[:, 0] == obs[:, 1], same, other)
    )
    assert abs(mean - env.floor) < 4 * error


def by_counting(decks: int) -> float:
    """The mean return of the best player of HigherLower who remembers all cards.

    Given the rank of the shown card, the higher and lower ones among the m that are left are multivariate hypergeometric.
    """
    deck, total = 52 * decks, 0.0
    for rank in range(13):
        higher, lower, same = 4 * decks * (12 - rank), 4 * decks * rank, 4 * decks - 1
        difference = np.abs(np.arange(higher + 1)[:, None] - np.arange(lower + 1))
        rest = np.add.outer(np.arange(higher + 1), np.arange(lower + 1))
        ways = np.add.outer(log_choose(higher), log_choose(lower))
        for left in range(1, deck):
            other = left - rest
            possible = (other >= 0) & (other <= same)
            logs = ways + log_choose(same)[np.where(possible, other, 0)] - log_choose(deck - 1)[left]
            total += float((np.exp(logs) * difference * possible).sum()) / left / 13
    return total / deck


@functools.cache
def log_choose(n: int) -> np.ndarray:
    return np.array([math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1) for k in range(n + 1)])


def test_the_ceiling_of_higher_lower_is_that_of_counting() -> None:
    assert {decks: by_counting(decks) for decks in (1, 2, 3)} == pytest.approx(cards.COUNTING, abs=1e-12)
    mean, error, env = mean_return("higher-lower", "easy", lambda env, obs, _: env.oracle())
    assert abs(mean - env.ceiling) < 4 * error


# -------------------------------------------------------------------------------------------------------------- states


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s["state"].update(key=s["state"]["key"] + 1), "key is not the place"),
        (lambda s: s["drawn"]["asked"].fill_(10**6), "asked has values out of range"),
        (lambda s: s["drawn"].pop("asked"), "asked is a NoneType"),
        (lambda s: s["state"].update(t=s["state"]["t"] + 500), "t has values out of range"),
        (lambda s: s["count"].fill_(0), "count and until_check do not fit"),
        (lambda s: s["state"].update(begin=s["state"]["begin"] + 1), "begin is not that of the episode"),
        (lambda s: s.update(until_check=10**9), "count and until_check do not fit"),
        (lambda s: s["count"].fill_(2**61), "count and until_check do not fit"),
        (lambda s: s["state"].update(episode=s["state"]["episode"] + 8), "count and until_check do not fit"),
    ],
)
def test_a_state_that_no_play_has_is_refused_and_changes_nothing(change, message) -> None:
    env, other = (make_env("popgym-autoencode", 3) for _ in range(2))
    for one in (env, other):
        one.reset(seed=0)
    for _ in range(110):
        env.step(env.oracle())
    state = env.state_dict()
    change(state)
    with pytest.raises((ValueError, IndexError), match=message):
        other.load_state_dict(state)
    fresh = make_env("popgym-autoencode", 3)
    fresh.reset(seed=0)
    for _ in range(110):
        action = fresh.oracle()
        assert torch.equal(other.oracle(), action)
        assert torch.equal(other.step(action)[0], fresh.step(action)[0])


@pytest.mark.slow
@pytest.mark.parametrize("name", ["minesweeper", "concentration"])
def test_every_state_that_is_saved_can_be_loaded_and_goes_on_alike(name) -> None:
    """Rows end at different times, so that each has drawn another number of episodes ahead."""
    env, other = (make_env(f"popgym-{name}", 16) for _ in range(2))
    for one in (env, other):
        one.reset(seed=0)
        one.action_space.seed(0)
    for step in range(121):
        env.step(env.action_space.sample())
        if step % 3 == 0:
            other.load_state_dict(env.state_dict())
            for name_, value in other.state_dict().items():
                assert str(value) == str(env.state_dict()[name_])
    for _ in range(60):
        action = env.action_space.sample()
        for x, y in zip(env.step(action)[:4], other.step(action)[:4], strict=True):
            assert torch.equal(x, y)
