"""Associative retrieval against a plain-Python implementation of the rules, its ceiling, and its floor."""

import itertools

import pytest
import torch
from pure_python import best_without_memory, follow, play, shown
from scipy.stats import chisquare

from rmt_rl.envs.tasks.associative_retrieval import AssociativeRetrieval

STREAM = 2**32
CASES = {
    "usual": {},
    "many queries": {"keys": 4, "values": 3, "pairs": 4, "queries": 3},
    "delay": {"keys": 5, "values": 2, "pairs": 2, "queries": 2, "delay": 6},
    "rewrite": {"keys": 3, "values": 4, "pairs": 6, "queries": 1, "rewrite": True},
    "rewrite, many queries": {"keys": 2, "values": 2, "pairs": 5, "queries": 4, "delay": 1, "rewrite": True},
    "one": {"keys": 1, "values": 2, "pairs": 1},
    "wide": {"keys": 40, "values": 30, "pairs": 25, "queries": 5},
}


class Game:
    def __init__(self, draw, keys=8, values=8, pairs=4, queries=1, delay=0, rewrite=False):
        shuffled = sorted(range(keys), key=draw)
        names = [draw(i) % keys for i in range(pairs)] if rewrite else shuffled[:pairs]
        worth = [draw(STREAM + i) % values for i in range(pairs)]
        asked = [names[i] for i in sorted(range(pairs), key=lambda i: draw(2 * STREAM + i))[:queries]]
        self.screen = [[k + 1, v + 1] for k, v in zip(names, worth, strict=True)] + [[0, 0]] * delay
        self.screen += [[k + 1, 0] for k in asked] + [[0, 0]]
        latest = dict(zip(names, worth, strict=True))  # a later pair overwrites
        self.answers = [None] * (pairs + delay) + [latest[k] for k in asked]
        self.queries, self.time, self.errors = queries, 0, 0

    def observation(self):
        return self.screen[self.time]

    def good(self):
        return self.answers[self.time] or 0

    def step(self, action):
        answer = self.answers[self.time]
        self.errors += answer is not None and action != answer
        self.time += 1
        over = self.time == len(self.answers)
        return (1 / self.queries if action == answer else 0.0), over, over and not self.errors


@pytest.mark.parametrize("case", ["delay", "rewrite, many queries"])
def test_the_first_episodes_follow_the_rules(case):
    follow(AssociativeRetrieval(8, **CASES[case]), lambda draw: Game(draw, **CASES[case]), steps=600)


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_every_step_follows_the_rules(case):
    options = CASES[case]
    successes, failures = follow(AssociativeRetrieval(64, **options), lambda draw: Game(draw, **options))
    assert min(successes, failures) >= 10


@pytest.mark.parametrize(
    "options",
    [
        {"keys": 3, "values": 2, "pairs": 2, "queries": 1},
        {"keys": 2, "values": 3, "pairs": 2, "queries": 2},
        {"keys": 2, "values": 2, "pairs": 3, "queries": 1, "rewrite": True},
        {"keys": 2, "values": 2, "pairs": 3, "queries": 2, "rewrite": True},
        {"keys": 3, "values": 2, "pairs": 3, "queries": 3, "rewrite": True},
    ],
)
def test_no_policy_without_memory_exceeds_the_floor(options):
    keys, pairs = options["keys"], options["pairs"]
    shuffled, drawn_anew = itertools.permutations(range(keys)), itertools.product(range(keys), repeat=pairs)
    names = drawn_anew if "rewrite" in options else shuffled
    worth = itertools.product(range(options["values"]), repeat=pairs)
    games = []
    for name, value, order in itertools.product(names, worth, itertools.permutations(range(pairs))):
        draws = {}
        for start, drawn in enumerate((name, value, order)):
            draws |= {start * STREAM + i: number for i, number in enumerate(drawn)}
        games.append(Game(lambda i, draws=draws: draws.get(i, 0), **options))
    episodes = [(1 / len(games), shown(game, options["queries"])) for game in games]
    success, share = best_without_memory(episodes, options["values"])
    assert success == pytest.approx(AssociativeRetrieval(1, **options).floor, rel=1e-9)
    assert share == pytest.approx(1 / options["values"], rel=1e-9)


@pytest.mark.parametrize("case", CASES)
def test_a_policy_that_remembers_the_pairs_reaches_the_ceiling(case):
    rows, env = 200, AssociativeRetrieval(200, **CASES[case])
    table, row = torch.zeros(rows, env.keys + 1, dtype=torch.int64), torch.arange(rows)

    def remember(obs):
        key, value = obs.unbind(1)
        table[row, key] = torch.where(value > 0, value - 1, table[row, key])
        return table[row, key]

    returns, success = play(env, remember)
    assert torch.allclose(returns, torch.ones(rows, dtype=torch.float64), atol=1e-12)
    assert success.mean() == env.ceiling == 1.0


def test_a_policy_that_answers_the_first_value_of_a_key_fails_where_keys_are_rewritten():
    rows, env = 4000, AssociativeRetrieval(4000, keys=2, values=2, pairs=6, rewrite=True)
    table, row = torch.full((rows, 3), -1), torch.arange(rows)

    def remember_the_first(obs):
        key, value = obs.unbind(1)
        table[row, key] = torch.where((value > 0) & (table[row, key] < 0), value - 1, table[row, key])
        return table[row, key].clamp(min=0)

    _, success = play(env, remember_the_first)
    assert 0.5 < float(success.mean()) < 0.62  # a key is shown three times on average


def test_keys_values_and_queries_are_uniform():
    env = AssociativeRetrieval(20_000, keys=3, values=2, pairs=2)
    env.reset(seed=0)
    state = env.state_dict()
    orders = state["keys"] @ torch.tensor([3, 1])
    assert sorted(orders.unique().tolist()) == [1, 2, 3, 5, 6, 7]  # no key occurs twice
    pairs = orders.unique(return_inverse=True)[1] * 4 + state["values"] @ torch.tensor([2, 1])
    last = (state["asked"][:, 0] == state["keys"][:, 1]).long()
    assert chisquare(torch.bincount(pairs * 2 + last, minlength=48).numpy()).pvalue > 0.001


@pytest.mark.parametrize(
    ("options", "span"),
    [
        ({"pairs": 1}, "1 step"),
        ({"pairs": 1, "delay": 3}, "4 steps"),
        ({"pairs": 4}, "1 to 4 steps"),
        ({"pairs": 3, "queries": 2, "delay": 5}, "6 to 9 steps"),
    ],
)
def test_the_task_says_how_long_a_pair_is_remembered(options, span):
    assert AssociativeRetrieval(1, **options).task.endswith(f" for {span}")
