"""GAE against numbers on paper, its limits, and torchrl's two implementations."""

import gymnasium
import numpy as np
import pytest
import torch
from torchrl.objectives.value.functional import generalized_advantage_estimate, vec_generalized_advantage_estimate

from rmt_rl.algos.returns import ReturnDeviation, gae

GAMMA, LAMBDA = 0.9, 0.5
REWARD = [1.0, 0.0, 2.0, 0.0, -1.0]
VALUE = [0.5, 0.4, 0.3, 0.2, 0.1]
NEXT_VALUE = [0.4, 0.3, 0.2, 0.1, 0.6]

D0 = 1.0 + 0.9 * 0.4 - 0.5
D1 = 0.0 + 0.9 * 0.3 - 0.4
D2 = 2.0 + 0.9 * 0.2 - 0.3
D3 = 0.0 + 0.9 * 0.1 - 0.2
D4 = -1.0 + 0.9 * 0.6 - 0.1
K = 0.9 * 0.5


def row(values):
    return torch.tensor([values], dtype=torch.float64)


def ends(*steps):
    """[1, 5] true at these steps."""
    return torch.tensor([[t in steps for t in range(5)]])


def by_hand(terminated=(), truncated=(), next_value=NEXT_VALUE):
    values = row(REWARD), row(VALUE), row(next_value), ends(*terminated), ends(*truncated)
    return gae(*values, GAMMA, LAMBDA)[0].tolist()


def random_batch(seed, dtype=torch.float32, B=6, T=17, ended=0.2):
    """Reward, value, next value, terminated, truncated; inside an episode the next value is the next step's value."""
    generator = torch.Generator().manual_seed(seed)
    reward, value, other = torch.randn(3, B, T, generator=generator, dtype=dtype)
    terminated, truncated = torch.rand(2, B, T, generator=generator) < ended
    follows = torch.cat([value[:, 1:], other[:, -1:]], dim=1)
    return reward, value, torch.where(terminated | truncated, other, follows), terminated, truncated


def test_five_steps_by_hand():
    expected = [
        D0 + K * D1 + K * K * D2 + K * K * K * D3 + K * K * K * K * D4,
        D1 + K * D2 + K * K * D3 + K * K * K * D4,
        D2 + K * D3 + K * K * D4,
        D3 + K * D4,
        D4,
    ]
    assert by_hand() == pytest.approx(expected, abs=1e-6)


def test_termination_cuts_the_sum_and_the_future_is_worth_nothing():
    ended = 2.0 - 0.3  # no 0.9 * 0.2
    assert by_hand(terminated=[2]) == pytest.approx(
        [D0 + K * D1 + K * K * ended, D1 + K * ended, ended, D3 + K * D4, D4], abs=1e-6
    )


def test_truncation_cuts_the_sum_but_the_final_observation_keeps_its_value():
    next_value = [0.4, 0.3, 7.0, 0.1, 0.6]  # 7 at the step that was truncated; the next episode's first value is 0.2
    cut = 2.0 + 0.9 * 7.0 - 0.3
    assert by_hand(truncated=[2], next_value=next_value) == pytest.approx(
        [D0 + K * D1 + K * K * cut, D1 + K * cut, cut, D3 + K * D4, D4], abs=1e-6
    )


def test_a_step_that_is_both_counts_as_terminated():
    assert by_hand(terminated=[2], truncated=[2]) == by_hand(terminated=[2])


def test_the_end_of_the_rollout_is_no_end_of_an_episode():
    assert by_hand()[-1] == pytest.approx(-1.0 + 0.9 * 0.6 - 0.1)
    assert by_hand(terminated=[4])[-1] == pytest.approx(-1.0 - 0.1)


def test_lambda_one_is_the_monte_carlo_return_minus_the_value():
    reward, value, next_value, terminated, truncated = random_batch(0, torch.float64)
    advantage = gae(reward, value, next_value, terminated, truncated, 0.97, 1.0)
    for b in range(len(reward)):
        following = float(next_value[b, -1])
        for t in reversed(range(reward.shape[1])):
            if truncated[b, t]:
                following = float(next_value[b, t])
            if terminated[b, t]:
                following = 0.0
            following = float(reward[b, t]) + 0.97 * following
            assert float(advantage[b, t]) == pytest.approx(following - float(value[b, t]), abs=1e-6)


def test_lambda_zero_is_the_error_of_one_step():
    reward, value, next_value, terminated, truncated = random_batch(1, torch.float64)
    advantage = gae(reward, value, next_value, terminated, truncated, 0.97, 0.0)
    one_step = reward + torch.where(terminated, 0.0, 0.97 * next_value) - value
    torch.testing.assert_close(advantage, one_step, rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    "theirs, gamma, lam",
    [
        *[(generalized_advantage_estimate, g, lam) for g, lam in [(0.99, 0.95), (0.9, 1.0), (1.0, 0.5), (0.99, 0.0)]],
        # theirs fails with an IndexError where gamma * lambda is 0
        *[(vec_generalized_advantage_estimate, g, lam) for g, lam in [(0.99, 0.95), (0.9, 1.0), (1.0, 0.5)]],
    ],
)
@pytest.mark.parametrize("ended", [0.0, 0.2, 1.0])
def test_equals_torchrl_on_random_batches(theirs, gamma, lam, ended):
    for seed in range(5):
        batch = random_batch(seed, ended=ended)
        reward, value, next_value, terminated, truncated = (x[..., None] for x in batch)
        expected, _ = theirs(gamma, lam, value, next_value, reward, terminated | truncated, terminated)
        torch.testing.assert_close(gae(*batch, gamma, lam), expected[..., 0], rtol=1e-5, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("lam", [0.0, 0.95, 1.0])
def test_an_endless_task_cut_into_episodes_is_worth_its_endless_return(lam):
    """Reward 1 for ever is worth 1 / (1 - gamma), however often a time limit interrupts it (SB3's test_gae)."""
    gamma, limit = 0.9, torch.arange(20)[None] % 5 == 4
    reward, never = torch.ones(1, 20, dtype=torch.float64), torch.zeros(1, 20, dtype=torch.bool)

    def learned(terminated, truncated):
        value = torch.zeros(1, 20, dtype=torch.float64)
        for _ in range(300):
            advantage = gae(reward, value, value, terminated, truncated, gamma, lam)
            value = (value + advantage).mean().expand(1, 20)  # there is one state, so one value
        return float(value[0, 0])

    assert learned(never, limit) == pytest.approx(1 / (1 - gamma))
    assert learned(limit, never) < 0.5 / (1 - gamma)


def test_rows_do_not_see_each_other():
    batch = random_batch(2)
    alone = torch.cat([gae(*(x[b : b + 1] for x in batch), GAMMA, LAMBDA) for b in range(len(batch[0]))])
    assert torch.equal(gae(*batch, GAMMA, LAMBDA), alone)


def test_double_precision_is_kept():
    batch = random_batch(3, torch.float64, ended=0.0)
    reward, value, next_value, _, _ = batch
    delta = reward + GAMMA * next_value - value
    expected = sum((GAMMA * LAMBDA) ** k * delta[:, k] for k in range(delta.shape[1]))
    torch.testing.assert_close(gae(*batch, GAMMA, LAMBDA)[:, 0], expected, rtol=0, atol=1e-12)


def test_deviation_of_five_discounted_returns_by_hand():
    # an episode of three steps and one of two: 1, 0 + 0.9, 2 + 0.81 | 0, -1
    deviation = ReturnDeviation(0.9).add(row(REWARD), ends(0, 3))
    assert deviation == pytest.approx(np.std([1.0, 0.9, 2.81, 0.0, -1.0]), abs=1e-12)


def test_deviation_is_the_same_in_one_part_and_in_many():
    reward, _, _, terminated, _ = random_batch(0, torch.float64)
    once, parts = ReturnDeviation(0.9), ReturnDeviation(0.9)
    expected = once.add(reward, terminated)
    for piece, first in zip(reward.split([1, 7, 9], dim=1), terminated.split([1, 7, 9], dim=1), strict=True):
        found = parts.add(piece, first)
    assert found == pytest.approx(expected, rel=1e-12)


def test_deviation_has_the_unit_of_the_rewards_however_small_they_are():
    reward, _, _, first, _ = random_batch(5, torch.float64)
    unit = 2.0**-60  # a power of two, so that nothing is rounded
    ours, theirs = ReturnDeviation(0.9), ReturnDeviation(0.9)
    for part, starts in zip(reward.split(6, dim=1), first.split(6, dim=1), strict=True):
        assert ours.add(part * unit, starts) == theirs.add(part, starts) * unit


def test_deviation_is_one_until_returns_differ():
    assert ReturnDeviation(0.9).add(row([0.0] * 5), ends(0)) == 1.0


class Rewards(gymnasium.vector.VectorEnv):
    """Plays rewards back, for gymnasium's wrapper."""

    def __init__(self, reward):
        self.metadata = {"autoreset_mode": gymnasium.vector.AutoresetMode.NEXT_STEP}
        self.rewards, self.num_envs = iter(reward.t().numpy()), len(reward)
        self.single_observation_space = gymnasium.spaces.Discrete(1)
        self.observation_space = gymnasium.vector.utils.batch_space(self.single_observation_space, self.num_envs)
        self.single_action_space, self.action_space = self.single_observation_space, self.observation_space

    def reset(self, *, seed=None, options=None):
        return np.zeros(self.num_envs, dtype=np.int64), {}

    def step(self, actions):
        none = np.zeros(self.num_envs, dtype=bool)
        return np.zeros(self.num_envs, dtype=np.int64), next(self.rewards), none, none, {}


def test_deviation_is_that_of_gymnasiums_normalize_reward():
    """Theirs begins with one made-up return of deviation 1 and weight 1e-4, which is gone after some thousand steps."""
    reward = torch.randn(4, 5000, generator=torch.Generator().manual_seed(0), dtype=torch.float64) + 0.3
    wrapper = gymnasium.wrappers.vector.NormalizeReward(Rewards(reward), gamma=0.9)
    wrapper.reset()
    for _ in range(reward.shape[1]):
        wrapper.step(np.zeros(4, dtype=np.int64))
    ours = ReturnDeviation(0.9).add(reward, torch.zeros_like(reward, dtype=torch.bool))
    assert ours == pytest.approx(float(np.sqrt(wrapper.return_rms.var)), rel=1e-6)
