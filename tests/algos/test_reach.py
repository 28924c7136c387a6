"""How far back the gradient of the actions reaches through the memory."""

import dataclasses

import pytest
import torch
from torch import nn

import rmt_rl
from rmt_rl.algos.reach import gradient_reach


@dataclasses.dataclass(frozen=True)
class LeakyConfig(rmt_rl.PolicyConfig):
    """An average."""

    width: int = rmt_rl.option(8, "width of the network", low=1, high=64)
    decay: float = rmt_rl.option(0.5, "share that is kept at every step", low=0, high=1)


@dataclasses.dataclass(frozen=True)
class LeakyState:
    """average: [B, D]"""

    average: torch.Tensor


class Leaky(rmt_rl.Backbone):
    """Its gradient with respect to the memory k steps before is decay ** k."""

    def __init__(self, config):
        super().__init__()
        self.decay, self.unused = config.decay, nn.Parameter(torch.zeros(1))

    def initial_state(self, batch):
        return LeakyState(torch.zeros(batch, 8))

    def step(self, x_BD, state, first_B):
        after = self.decay * torch.where(first_B[:, None], 0.0, state.average) + x_BD
        return after, LeakyState(after)

    def unroll(self, x_BTD, state, first_BT):
        outputs = []
        for t in range(x_BTD.shape[1]):
            y, state = self.step(x_BTD[:, t], state, first_BT[:, t])
            outputs.append(y)
        return torch.stack(outputs, dim=1), state


@pytest.fixture(autouse=True, scope="module")
def leaky_memory():
    """Its name is known in this file only: other tests run on every policy that is registered when they are collected."""
    rmt_rl.register_policy("leaky-memory", LeakyConfig)(Leaky)


def collected(name, steps, **options):
    """A policy, and a rollout inside of long episodes."""
    env = rmt_rl.make_env("tmaze", num_envs=3, length=100)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        policy = rmt_rl.make_policy(env, name, **options)
    collector = rmt_rl.Collector(env, policy, 0)
    collector.collect(16)
    rollout, _ = collector.collect(steps)
    assert not rollout.first.any()
    return policy, rollout


@pytest.mark.parametrize(
    ("decay", "steps", "reach"),
    # 0.5 ** (k - 1) is at least 0.01 up to k = 7
    [(0.5, 5, 5), (0.5, 16, 7), (1.0, 16, 16), (0.0, 16, 0)],
)
def test_the_reach_of_a_leaky_memory_by_hand(decay, steps, reach):
    assert gradient_reach(*collected("leaky-memory", steps, decay=decay)) == reach


def test_a_long_rollout_is_measured_at_fewer_places():
    # distances 2, 4, 6, ... and 33 in parts of two: 0.5 ** (k - 2) is at least 0.01 up to k = 8
    assert gradient_reach(*collected("leaky-memory", 33)) == 8


def test_nothing_reaches_beyond_the_begin_of_an_episode_and_the_longest_ones_are_measured():
    policy, rollout = collected("leaky-memory", 16, decay=1.0)
    first = rollout.first.clone()
    first[:, [2, 11]] = True
    # the steps 2 to 10 are one episode: eight steps remember its first one
    assert gradient_reach(policy, dataclasses.replace(rollout, first=first)) == 8
    first[:] = True
    assert gradient_reach(policy, dataclasses.replace(rollout, first=first)) == 0


@pytest.mark.parametrize(
    ("name", "options", "reach"),
    [
        ("mlp", {}, None),
        # rollouts begin at a step where a segment ends, of eight steps or of four
        ("window", {}, 7),
        ("rmt", {"bptt_segments": 1}, 4),
        ("rmt", {}, 16),
        pytest.param("rmt", {"critic": "separate", "replay": True}, 16, marks=pytest.mark.slow),
    ],
)
def test_the_reach_is_that_of_the_memory(name, options, reach):
    policy, rollout = collected(name, 16, **options)
    assert gradient_reach(policy, rollout) == reach
    assert all(parameter.grad is None for parameter in policy.parameters())
