"""memory_len against bsuite's code without dm_env, its ceiling, and its floor."""

import itertools

import numpy as np
import pytest
import torch
from pure_python import best_without_memory, episode, follow, play, shown
from scipy.stats import chisquare

from rmt_rl.envs.tasks.memory_len import MemoryLen

CASES = {
    "usual": {},
    "1": {"length": 1},
    "2, five bits": {"length": 2, "bits": 5},
    "100": {"length": 100},
    "7, forty bits": {"length": 7, "bits": 40},
}


class Game:
    """MemoryChain of bsuite 0.3.6 without dm_env: `_reset`, `_get_observation` and `_step`, line by line."""

    def __init__(self, draw, length=10, bits=1):
        self.length, self.bits, self.timestep = length, bits, 0
        self.query = draw(0) % bits
        self.context = [draw(1 + i) % 2 for i in range(bits)]
        self.seen = self.look()

    def look(self):
        obs = np.zeros(2 + self.bits, dtype=np.float32)
        obs[0] = 1 - self.timestep / self.length
        if self.timestep == self.length - 1:
            obs[1] = self.query
        if self.timestep == 0:
            obs[2:] = 2 * np.array(self.context) - 1
        return obs.tolist()

    def observation(self):
        return self.seen

    def good(self):
        return self.context[self.query]

    def step(self, action):
        self.seen = self.look()
        self.timestep += 1
        if self.timestep - 1 < self.length:
            return 0.0, False, False
        right = action == self.context[self.query]
        return (1.0 if right else -1.0), True, right


@pytest.mark.parametrize("case", ["usual", "2, five bits"])
def test_the_first_episodes_follow_the_rules(case):
    follow(MemoryLen(8, **CASES[case]), lambda draw: Game(draw, **CASES[case]), steps=400)


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_every_step_follows_the_rules(case):
    options = CASES[case]
    successes, failures = follow(MemoryLen(64, **options), lambda draw: Game(draw, **options))
    assert min(successes, failures) > 20


@pytest.mark.parametrize("options", [{"length": 1}, {"length": 2}, {"length": 3, "bits": 2}, {"length": 1, "bits": 2}])
def test_no_policy_without_memory_exceeds_the_floor(options):
    bits = options.get("bits", 1)
    draws = list(itertools.product(range(bits), *[range(2)] * bits))
    episodes = [(1 / len(draws), shown(Game(drawn.__getitem__, **options), 1)) for drawn in draws]
    success, share = best_without_memory(episodes, 2)
    assert success == share == pytest.approx(MemoryLen(1, **options).floor)


@pytest.mark.parametrize("case", CASES)
def test_a_policy_that_remembers_the_bits_reaches_the_ceiling(case):
    env, context = MemoryLen(300, **CASES[case]), []

    def remember(obs):
        context.append(obs[:, 2:])
        query = obs[:, 1].long()  # 0 before the last step, where no answer counts
        return (context[0].gather(1, query[:, None]).squeeze(1) > 0).long()

    returns, success = play(env, remember)
    assert returns.tolist() == success.tolist() == [1.0] * 300
    assert env.ceiling == 1.0


def test_the_context_is_observed_twice_and_the_query_once_as_in_bsuite():
    env = MemoryLen(1, length=3, bits=3)
    seed = next(seed for seed in range(99) if episode(lambda draw: Game(draw, 3, 3), seed, 0).query == 2)
    seen = [env.reset(seed=seed)[0][0]]
    for _ in range(4):
        _, reward, terminated, _, info = env.step(torch.tensor([0]))
        seen.append(info["final_obs"][0])
    assert [float(o[0]) for o in seen] == pytest.approx([1, 1, 2 / 3, 1 / 3, 0])
    assert [float(o[1]) for o in seen] == [0, 0, 0, 2, 0]
    assert [bool(o[2:].any()) for o in seen] == [True, True, False, False, False]
    assert terminated.tolist() == [True]
    assert abs(float(reward)) == 1


def test_bits_and_queries_are_uniform():
    env = MemoryLen(20_000, length=3, bits=4)
    env.reset(seed=0)
    state = env.state_dict()
    cells = state["query"] * 16 + state["context"] @ torch.tensor([8, 4, 2, 1])
    assert chisquare(torch.bincount(cells, minlength=64).numpy()).pvalue > 0.001
