"""`repeat-first` and `repeat-previous` against popgym and a plain-Python implementation, their ceiling, and their floors."""

import itertools
import math
import random

import pytest
import torch
from pure_python import best_without_memory, follow, play, shown
from scipy.stats import chisquare

from rmt_rl.envs.tasks.repeat import RepeatFirst, RepeatPrevious, all_right_bound

FIRST = {"easy": {"decks": 1}, "medium": {"decks": 8}, "hard": {"decks": 16}}
PREVIOUS = {
    "easy": {"decks": 1, "k": 4},
    "medium": {"decks": 2, "k": 32},
    "hard": {"decks": 3, "k": 64},
    "the longest k": {"decks": 1, "k": 51},
}


class First:
    """RepeatFirst of popgym 1.0.7; a card is its suit, and `draw` determines which undealt card is dealt."""

    def __init__(self, draw, decks=1, suits=4, ranks=13):
        self.draw, self.pile, self.hand = draw, sorted([*range(suits)] * ranks * decks), []
        self.cards = len(self.pile)
        self.deal()

    def deal(self):
        self.hand.append(self.pile.pop(self.draw(len(self.hand)) % len(self.pile)))

    def observation(self):
        return self.hand[-1]

    def good(self):
        return self.hand[0]

    def step(self, action):
        scale = 1 / (self.cards - 1)
        reward = scale if action == self.hand[0] else -scale
        self.errors = getattr(self, "errors", 0) + (reward < 0)
        terminated = len(self.pile) == 1
        self.deal()
        return reward, terminated, terminated and not self.errors


class Previous(First):
    """RepeatPrevious of popgym 1.0.7."""

    def __init__(self, draw, decks=1, k=4, suits=4, ranks=13):
        super().__init__(draw, decks, suits, ranks)
        self.k, self.errors = k, 0

    def good(self):
        return self.hand[-self.k] if len(self.hand) >= self.k else 0

    def step(self, action):
        scale = 1 / (self.cards - self.k)
        reward = 0.0
        terminated = len(self.pile) == 1
        if len(self.hand) >= self.k:
            reward = scale if action == self.hand[-self.k] else -scale
        self.errors += reward < 0
        self.deal()
        return reward, terminated, terminated and not self.errors


class Package:
    """popgym's own environment with the cards that `draw` deals."""

    def __init__(self, cls, reading, **options):
        env = cls(num_decks=options["decks"], **{name: value for name, value in options.items() if name == "k"})
        # the reference determines the order of the suits and the expert; the package does the rest
        dealt = [
            reading.observation(),
            *(reading.pile.pop(reading.draw(i) % len(reading.pile)) for i in range(1, reading.cards)),
        ]
        of_suit = [iter(range(suit, reading.cards, 4)) for suit in range(4)]
        order = [next(of_suit[suit]) for suit in dealt]
        env.np_random = Shuffled(order[::-1])  # it deals from the end
        self.env, self.dealt, self.k, self.wrong = env, dealt, options.get("k"), False
        self.seen, self.shown = env.reset()[0], 1

    def observation(self):
        return self.seen

    def good(self):
        if self.k is None:
            return self.dealt[0]
        return self.dealt[self.shown - self.k] if self.shown >= self.k else 0

    def step(self, action):
        self.seen, reward, terminated, _, _ = self.env.step(action)
        self.shown += 1
        self.wrong = self.wrong or reward < 0
        return reward, terminated, terminated and not self.wrong


class Shuffled:
    def __init__(self, order):
        self.order = order

    def shuffle(self, cards):
        cards[:] = self.order


@pytest.mark.slow
@pytest.mark.parametrize("level", FIRST)
def test_repeat_first_equals_that_of_the_popgym_package(level):
    package = pytest.importorskip("popgym.envs.repeat_first", reason="popgym is not installed").RepeatFirst
    options, rows = FIRST[level], 16
    steps = max(12_000, 2 * rows * 52 * options["decks"])
    follow(RepeatFirst(rows, **options), lambda draw: Package(package, First(draw, **options), **options), steps)


@pytest.mark.slow
@pytest.mark.parametrize("level", PREVIOUS)
def test_repeat_previous_equals_that_of_the_popgym_package(level):
    package = pytest.importorskip("popgym.envs.repeat_previous", reason="popgym is not installed").RepeatPrevious
    options = PREVIOUS[level]
    follow(RepeatPrevious(16, **options), lambda draw: Package(package, Previous(draw, **options), **options))


def test_the_first_episodes_follow_the_rules():
    first, previous = FIRST["easy"], PREVIOUS["easy"]
    follow(RepeatFirst(4, **first), lambda draw: First(draw, **first), steps=500)
    follow(RepeatPrevious(4, **previous), lambda draw: Previous(draw, **previous), steps=500)


@pytest.mark.slow
@pytest.mark.parametrize("level", FIRST)
def test_every_step_of_repeat_first_follows_the_rules(level):
    options, rows = FIRST[level], 16
    steps = max(12_000, 2 * rows * 52 * options["decks"])  # two episodes at least
    successes, failures = follow(RepeatFirst(rows, **options), lambda draw: First(draw, **options), steps)
    assert min(successes, failures) >= 2


@pytest.mark.slow
@pytest.mark.parametrize("level", PREVIOUS)
def test_every_step_of_repeat_previous_follows_the_rules(level):
    options = PREVIOUS[level]
    successes, failures = follow(RepeatPrevious(16, **options), lambda draw: Previous(draw, **options))
    assert min(successes, failures) >= 8


def decks(suits, ranks):
    """All orders of a small deck, each as its `draw`; they are equally likely."""
    cards = suits * ranks
    return [drawn.__getitem__ for drawn in itertools.product(*(range(n) for n in range(cards, 0, -1)))]


@pytest.mark.parametrize(("suits", "ranks"), [(2, 2), (2, 3), (3, 2)])
def test_no_policy_without_memory_exceeds_the_floor_of_repeat_first(suits, ranks):
    draws, cards = decks(suits, ranks), suits * ranks
    small = {"suits": suits, "ranks": ranks}
    episodes = [(1 / len(draws), shown(First(draw, **small), cards - 1)) for draw in draws]
    success, share = best_without_memory(episodes, suits)
    assert success == pytest.approx(1 / suits)  # 4 suits: RepeatFirst.floor
    assert RepeatFirst.floor == 1 / 4
    assert share == pytest.approx(
        (1 + (cards - 2) * (ranks - 1) / (cards - 1)) / (cards - 1)
    )  # of answering the observed suit


@pytest.mark.parametrize(("suits", "ranks", "k"), [(2, 2, 2), (2, 3, 2), (2, 3, 3), (3, 2, 2)])
def test_no_policy_without_memory_exceeds_the_bound_of_repeat_previous(suits, ranks, k):
    draws, cards = decks(suits, ranks), suits * ranks
    episodes = [shown(Previous(draw, k=k, suits=suits, ranks=ranks), cards - k) for draw in draws]
    bound = all_right_bound(suits, cards, k)
    success, _ = best_without_memory([(1 / len(draws), steps) for steps in episodes], suits)
    assert success <= bound + 1e-12
    # stochastic policies do not exceed it either
    chance = random.Random(0)
    for _ in range(20):
        policy = {}
        for o in range(suits):
            weights = [chance.random() ** 3 for _ in range(suits)]
            policy[str(o)] = [w / sum(weights) for w in weights]
        rate = sum(math.prod(policy[o][a] for o, a in steps if a is not None) for steps in episodes) / len(draws)
        assert rate <= bound + 1e-12


def test_the_floor_of_repeat_previous_is_that_bound():
    orders = math.factorial(52) // math.factorial(13) ** 4
    assert RepeatPrevious(1).floor == pytest.approx(4**3 / orders, rel=1e-9, abs=0)
    assert all(RepeatPrevious(1, **options).floor < 1e-25 for level, options in PREVIOUS.items() if level in FIRST)
    # only one card is queried, and a constant answer is correct one time in four: the bound, 1, is no floor
    assert all_right_bound(4, 52, 51) == 1 and RepeatPrevious(1, k=51).floor is None


@pytest.mark.parametrize("level", FIRST)
def test_a_policy_that_remembers_the_first_suit_reaches_the_ceiling(level):
    env, first = RepeatFirst(20, **FIRST[level]), []
    returns, success = play(env, lambda obs: first.append(obs) or first[0])
    assert len(first) == {"easy": 51, "medium": 415, "hard": 831}[level]
    assert torch.allclose(returns, torch.ones(20, dtype=torch.float64), atol=1e-12)
    assert success.mean() == env.ceiling == 1.0


@pytest.mark.parametrize("level", PREVIOUS)
def test_a_policy_that_remembers_the_last_k_suits_reaches_the_ceiling(level):
    env, seen = RepeatPrevious(20, **PREVIOUS[level]), []
    returns, success = play(env, lambda obs: seen.append(obs) or seen[max(0, len(seen) - env.k)])
    assert torch.allclose(returns, torch.ones(20, dtype=torch.float64), atol=1e-12)
    assert success.mean() == env.ceiling == 1.0


@pytest.mark.parametrize(("act", "expected"), [(torch.zeros_like, -0.5), (torch.clone, (1 - 50 * 27 / 51) / 51)])
def test_the_returns_without_memory_are_those_of_the_docstring(act, expected):
    rows = 4000
    returns, success = play(RepeatFirst(rows), act)
    assert float(returns.mean()) == pytest.approx(expected, abs=4 * float(returns.std()) / rows**0.5)
    if act is torch.zeros_like:
        assert float(success.mean()) == pytest.approx(RepeatFirst.floor, abs=4 * 0.433 / rows**0.5)


def test_a_whole_deck_is_dealt_in_a_random_order():
    rows, env, suits = 5000, RepeatPrevious(5000), []
    obs, _ = env.reset(seed=0)
    for _ in range(51):
        suits.append(obs)
        obs, _, terminated, _, info = env.step(obs)
    suits.append(info["final_obs"])
    assert bool(terminated.all())
    suits = torch.stack(suits, dim=1)
    assert all(((suits == suit).sum(1) == 13).all() for suit in range(4))
    alike, other = 1 / 4 * 12 / 51, 1 / 4 * 13 / 51
    for a, b in ((0, 1), (0, 51), (20, 33)):
        expected = [rows * (alike if x == y else other) for x in range(4) for y in range(4)]
        counts = torch.bincount(suits[:, a] * 4 + suits[:, b], minlength=16)
        assert chisquare(counts.numpy(), expected).pvalue > 0.001
