"""The bandit against a plain-Python implementation of the rules, the exact value of its floor, and the Bayes optimum."""

import itertools
from fractions import Fraction
from functools import lru_cache

import pytest
import torch
from pure_python import bits, episode, follow, play
from scipy.stats import kstest

from rmt_rl.envs.tasks.bandit import Bandit, stay_or_next

CASES = {"usual": {}, "two": {"arms": 2, "length": 3}, "one pull": {"arms": 4, "length": 1}, "many": {"arms": 40}}


class Game:
    def __init__(self, draw, arms=5, length=100):
        self.chances, self.length = [Fraction(draw(a), 2**63) for a in range(arms)], length
        self.luck = [Fraction(draw(arms + t), 2**63) for t in range(length)]
        self.time, self.seen = 0, [0, 0]

    def observation(self):
        return self.seen

    def good(self):
        return self.chances.index(max(self.chances))

    def step(self, action):
        paid = self.luck[self.time] < self.chances[action]
        self.time, self.seen = self.time + 1, [action + 1, int(paid)]
        return (1 / self.length if paid else 0.0), self.time == self.length, None


@pytest.mark.parametrize("case", ["two", "one pull"])
def test_the_first_episodes_follow_the_rules(case):
    follow(Bandit(8, **CASES[case]), lambda draw: Game(draw, **CASES[case]), steps=300)


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_every_step_follows_the_rules(case):
    options = CASES[case]
    follow(Bandit(64, **options), lambda draw: Game(draw, **options))


def histories(arms, length):
    """Every history of a trial, [(arm, paid), ...], and the probability of its payouts given its arms.

    An arm pays w times in n given pulls with probability w! (n - w)! / (n + 1)!; the next pull pays with (w + 1)/(n + 2).
    """
    for course in itertools.product(itertools.product(range(arms), (0, 1)), repeat=length):
        chance, counts = Fraction(1), [[0, 0] for _ in range(arms)]
        for arm, paid in course:
            chance *= Fraction(counts[arm][paid] + 1, sum(counts[arm]) + 2)
            counts[arm][paid] += 1
        yield course, chance


@pytest.mark.parametrize(("arms", "length"), [(2, 1), (2, 3), (2, 5), (3, 3), (3, 4)])
def test_no_policy_on_the_last_pull_alone_exceeds_the_floor(arms, length):
    # the value as a polynomial in the probabilities of the policy: row 0 is the first pull, row 1 + 2 a + r reward r of arm a
    indices, weights = [], []
    for course, chance in histories(arms, length):
        rows = [0, *(1 + 2 * arm + paid for arm, paid in course[:-1])]
        indices.append([row * arms + arm for row, (arm, _) in zip(rows, course, strict=True)])
        weights.append(float(chance) * sum(paid for _, paid in course) / length)
    index, weight = torch.tensor(indices), torch.tensor(weights, dtype=torch.float64)

    def value(policy):
        return policy.flatten(1)[:, index].prod(2) @ weight

    one_hot = torch.eye(arms, dtype=torch.float64)
    # the first pull is arm 0, because all arms are alike
    choices = torch.tensor(list(itertools.product(range(arms), repeat=2 * arms)))
    policies = one_hot[torch.cat([torch.zeros_like(choices[:, :1]), choices], dim=1)]
    best = max(float(value(part).max()) for part in policies.split(64))
    assert stay_or_next(arms, length) == pytest.approx(best, rel=1e-12)

    # gradient ascent over stochastic policies finds no better one
    logits = torch.randn(20, 1 + 2 * arms, arms, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    optimizer = torch.optim.Adam([logits.requires_grad_()], lr=0.3)
    for _ in range(60):
        optimizer.zero_grad()
        (-value(logits.softmax(2)).sum()).backward()
        optimizer.step()
    found = float(value(logits.detach().softmax(2)).max())
    assert best - 0.01 < found <= best + 1e-12


@lru_cache(None)
def optimum(counts, left):
    """The Bayes-optimal sum of payouts over `left` pulls; counts: (paid, not paid) of every arm."""
    return max((pull_value(counts, arm, left) for arm in range(len(counts))), default=0.0) if left else 0.0


def pull_value(counts, arm, left):
    paid, blank = counts[arm]
    chance = (paid + 1) / (paid + blank + 2)
    after = [counts[:arm] + (count,) + counts[arm + 1 :] for count in ((paid + 1, blank), (paid, blank + 1))]
    return chance * (1 + optimum(after[0], left - 1)) + (1 - chance) * optimum(after[1], left - 1)


def test_the_bayes_optimum_is_between_floor_and_ceiling_and_is_attained():
    rows, length = 2000, 8
    env = Bandit(rows, arms=2, length=length)
    counts, pulls = [((0, 0), (0, 0))] * rows, []

    def act(obs):
        for row, (arm, paid) in enumerate(obs.tolist() if pulls else []):
            before = counts[row]
            new = (before[arm - 1][0] + paid, before[arm - 1][1] + 1 - paid)
            counts[row] = before[: arm - 1] + (new,) + before[arm:]
        left = length - len(pulls)
        pulls.append(left)
        return torch.tensor([int(pull_value(c, 1, left) > pull_value(c, 0, left)) for c in counts])

    returns, _ = play(env, act)
    best = optimum(((0, 0), (0, 0)), length) / length
    assert env.floor < best < env.ceiling == 2 / 3
    assert float(returns.mean()) == pytest.approx(best, abs=4 * float(returns.std()) / rows**0.5)


@pytest.mark.parametrize(("arms", "length"), [(5, 30), (3, 100)])
def test_stay_or_next_has_the_computed_value(arms, length):
    rows, env = 4000, Bandit(4000, arms=arms, length=length)

    def act(obs):
        arm, paid = obs.unbind(1)
        return (arm - paid) % arms  # arms are counted from 1 in the observation; the first pull is arm 0

    returns, _ = play(env, act)
    assert float(returns.mean()) == pytest.approx(env.floor, abs=4 * float(returns.std()) / rows**0.5)


def test_a_policy_that_ignores_the_payouts_gets_one_half():
    rows = 4000
    returns, _ = play(Bandit(rows, arms=3, length=20), lambda obs: torch.zeros(rows, dtype=torch.int64))
    assert float(returns.mean()) == pytest.approx(0.5, abs=4 * float(returns.std()) / rows**0.5)


def test_an_expert_that_knows_the_arms_reaches_the_ceiling():
    rows, arms, length = 2000, 3, 20
    env = Bandit(rows, arms=arms, length=length)
    env.reset(seed=0)

    best = torch.tensor([episode(lambda draw: Game(draw, arms, length), row, 0).good() for row in range(rows)])
    returns, _ = play(env, lambda obs: best)
    assert env.ceiling == 3 / 4
    assert float(returns.mean()) == pytest.approx(env.ceiling, abs=4 * float(returns.std()) / rows**0.5)
    chances = [bits(bits(row, 0), arm) / 2**63 for row in range(rows) for arm in range(arms)]
    assert kstest(chances, "uniform").pvalue > 0.001
