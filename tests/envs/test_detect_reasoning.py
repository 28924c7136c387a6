"""`detect` and `reasoning` against a plain-Python implementation of the rules, their ceiling, and their floors."""

import itertools

import pytest
import torch
from pure_python import best_without_memory, follow, play, shown
from scipy.stats import chisquare

from rmt_rl.envs.tasks.detect_reasoning import Detect, Reasoning

NOISE = 2**32
CASES = {
    "detect": (Detect, {}),
    "detect, one step": (Detect, {"cues": 3, "distractors": 1, "length": 1}),
    "detect, long": (Detect, {"cues": 2, "distractors": 20, "length": 90}),
    "reasoning": (Reasoning, {}),
    "reasoning, two steps": (Reasoning, {"values": 2, "distractors": 1, "length": 2}),
    "reasoning, long": (Reasoning, {"values": 4, "distractors": 3, "length": 70}),
}


class Game:
    def __init__(self, draw, facts, values, distractors, length):
        times = [draw(0) % length]
        if facts == 2:
            others = [t for t in range(length) if t != times[0]]
            others = others[times[0] :] + others[: times[0]]  # from the next one on
            times.append(others[draw(1) % (length - 1)])
        facts_drawn = [draw(2 + i) % values for i in range(facts)]
        self.answer, self.length, self.time = sum(facts_drawn) % values, length, 0
        self.screen = [1 + facts * values + draw(NOISE + t) % distractors for t in range(length)] + [0, 0]
        for i, (time, fact) in enumerate(zip(times, facts_drawn, strict=True)):
            self.screen[time] = 1 + i * values + fact

    def observation(self):
        return self.screen[self.time]

    def good(self):
        return self.answer

    def step(self, action):
        over = self.time == self.length
        self.time += 1
        return float(over and action == self.answer), over, over and action == self.answer


def game(cls, options):
    usual = {"values": 4 if cls is Detect else 6, "distractors": 8, "length": 20}
    values = usual | {name.replace("cues", "values"): value for name, value in options.items()}
    return lambda draw: Game(draw, facts=1 if cls is Detect else 2, **values)


@pytest.mark.parametrize("case", ["detect", "detect, one step", "reasoning", "reasoning, two steps"])
def test_the_first_episodes_follow_the_rules(case):
    cls, options = CASES[case]
    follow(cls(8, **options), game(cls, options), steps=400)


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_every_step_follows_the_rules(case):
    cls, options = CASES[case]
    successes, failures = follow(cls(64, **options), game(cls, options))
    assert min(successes, failures) >= 20


@pytest.mark.parametrize(
    ("cls", "options"),
    [
        (Detect, {"cues": 3, "distractors": 2, "length": 3}),
        (Reasoning, {"values": 3, "distractors": 2, "length": 3}),
        (Reasoning, {"values": 2, "distractors": 1, "length": 4}),
    ],
)
def test_no_policy_without_memory_exceeds_the_floor(cls, options):
    length, facts = options["length"], 1 if cls is Detect else 2
    values = options.get("cues") or options["values"]
    ranges = {0: length, 1: length - 1} if facts == 2 else {0: length}
    ranges |= {2 + i: values for i in range(facts)} | {NOISE + t: options["distractors"] for t in range(length)}
    draws = [dict(zip(ranges, drawn, strict=True)) for drawn in itertools.product(*map(range, ranges.values()))]
    episodes = [(1 / len(draws), shown(game(cls, options)(drawn.__getitem__), 1)) for drawn in draws]
    success, share = best_without_memory(episodes, values)
    assert success == share == pytest.approx(cls(1, **options).floor, rel=1e-9)
    # a policy that remembers one of the two facts does not exceed it either
    for i in range(facts if facts == 2 else 0):
        partial = [(p, [(str(drawn[2 + i]), steps[-1][1])]) for (p, steps), drawn in zip(episodes, draws, strict=True)]
        assert best_without_memory(partial, values)[0] == pytest.approx(1 / values, rel=1e-9)


@pytest.mark.parametrize("case", CASES)
def test_a_policy_that_remembers_the_facts_reaches_the_ceiling(case):
    cls, options = CASES[case]
    env = cls(300, **options)
    total = torch.zeros(300, dtype=torch.int64)

    def remember(obs):
        fact = (obs > 0) & (obs <= env.facts * env.values)
        total.add_(torch.where(fact, (obs - 1) % env.values, 0))
        return total % env.values

    returns, success = play(env, remember)
    assert returns.tolist() == success.tolist() == [1.0] * 300
    assert env.ceiling == 1.0


def test_the_two_facts_occur_at_every_pair_of_different_times():
    env = Reasoning(20_000, values=2, length=4)
    env.reset(seed=0)
    state = env.state_dict()
    first, second = state["time"].unbind(1)
    assert not bool((first == second).any())
    cells = torch.bincount((first * 4 + second) * 4 + state["fact"] @ torch.tensor([2, 1]), minlength=64)
    assert chisquare(cells[cells > 0].numpy()).pvalue > 0.001
    assert int((cells > 0).sum()) == 12 * 4


def test_the_cue_occurs_once_at_a_uniform_time_among_uniform_distractors():
    env, rows = Detect(5000, cues=3, distractors=4, length=6), 5000
    obs, _ = env.reset(seed=0)
    times, noise = torch.zeros(6, dtype=torch.int64), torch.zeros(4, dtype=torch.int64)
    for t in range(6):
        times[t] = ((obs >= 1) & (obs <= 3)).sum()
        noise += torch.bincount(obs[obs > 3] - 4, minlength=4)
        obs, *_ = env.step(torch.zeros(rows, dtype=torch.int64))
    assert obs.tolist() == [0] * rows
    assert int(times.sum()) == rows
    assert chisquare(times.numpy()).pvalue > 0.001
    assert chisquare(noise.numpy()).pvalue > 0.001
