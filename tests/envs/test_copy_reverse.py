"""Copy and reverse against a plain-Python implementation of the rules, their ceiling, and their floor."""

import itertools

import pytest
import torch
from pure_python import best_without_memory, follow, play, shown
from scipy.stats import chisquare

from rmt_rl.envs.tasks.copy_reverse import Copy

CASES = {
    "usual": {},
    "reverse": {"symbols": 3, "length": 4, "reverse": True},
    "delay": {"symbols": 2, "length": 3, "delay": 7},
    "one": {"symbols": 2, "length": 1},
    "long": {"symbols": 5, "length": 40, "delay": 2, "reverse": True},
}


class Game:
    def __init__(self, draw, symbols=8, length=5, delay=0, reverse=False):
        string = [draw(i) % symbols for i in range(length)]
        self.answers = [None] * (length + delay) + (string[::-1] if reverse else string) + [None]
        self.screen = [s + 1 for s in string] + [0] * delay + [symbols + 1] * length + [0]
        self.length, self.time, self.errors = length, 0, 0

    def observation(self):
        return self.screen[self.time]

    def good(self):
        return self.answers[self.time] or 0

    def step(self, action):
        right = self.answers[self.time]
        self.errors += right is not None and action != right
        self.time += 1
        over = self.time == len(self.screen) - 1
        return (1 / self.length if action == right else 0.0), over, over and not self.errors


@pytest.mark.parametrize("case", ["usual", "reverse", "delay"])
def test_the_first_episodes_follow_the_rules(case):
    follow(Copy(8, **CASES[case]), lambda draw: Game(draw, **CASES[case]), steps=400)


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_every_step_follows_the_rules(case):
    options = CASES[case]
    successes, failures = follow(Copy(64, **options), lambda draw: Game(draw, **options))
    assert min(successes, failures) >= 6


def test_an_episode_by_hand():
    env = Copy(1, symbols=3, length=2, delay=1, reverse=True)
    first, _ = env.reset(seed=0)
    second, *_ = env.step(torch.tensor([0]))
    wait, *_ = env.step(torch.tensor([0]))
    ask, nothing, *_ = env.step(torch.tensor([0]))
    ask_again, half, *_ = env.step(second - 1)
    _, wrong, terminated, _, info = env.step(first % 3)  # the symbol after the first one
    assert {int(first), int(second)} <= {1, 2, 3}
    assert [int(o) for o in (wait, ask, ask_again, info["final_obs"])] == [0, 4, 4, 0]
    assert [float(r) for r in (nothing, half, wrong)] == [0, 0.5, 0]
    assert (bool(terminated), bool(info["success"])) == (True, False)


@pytest.mark.parametrize("options", [{"symbols": 2, "length": 3}, {"symbols": 3, "length": 2, "reverse": True}])
def test_no_policy_without_memory_exceeds_the_floor(options):
    strings = list(itertools.product(range(options["symbols"]), repeat=options["length"]))
    episodes = [(1 / len(strings), shown(Game(s.__getitem__, **options), options["length"])) for s in strings]
    success, share = best_without_memory(episodes, options["symbols"])
    assert success == pytest.approx(Copy(1, **options).floor, rel=1e-12)
    assert share == pytest.approx(1 / options["symbols"], rel=1e-12)


@pytest.mark.parametrize("case", CASES)
def test_a_policy_that_remembers_the_sequence_reaches_the_ceiling(case):
    env, string = Copy(200, **CASES[case]), []

    def remember(obs):
        if bool((obs == env.symbols + 1).all()):
            return string.pop(-1 if env.reverse else 0)
        if bool((obs > 0).all()):
            string.append(obs - 1)
        return torch.zeros_like(obs)

    returns, success = play(env, remember)
    assert torch.allclose(returns, torch.ones(200, dtype=torch.float64), atol=1e-12)
    assert success.mean() == env.ceiling == 1.0


def test_symbols_are_uniform_and_independent():
    env = Copy(20_000, symbols=3, length=2)
    first, _ = env.reset(seed=0)
    second, *_ = env.step(torch.zeros_like(first))
    pairs = torch.bincount((first - 1) * 3 + second - 1, minlength=9)
    episodes = torch.bincount((first - 1) * 3 + env.reset()[0] - 1, minlength=9)
    assert chisquare(pairs.numpy()).pvalue > 0.001
    assert chisquare(episodes.numpy()).pvalue > 0.001
