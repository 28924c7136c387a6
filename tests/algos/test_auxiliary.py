"""A backbone with auxiliary losses and with buffers that change between updates, under PPO and RATE."""

from dataclasses import dataclass

import numpy as np
import pytest
import torch
from torch import nn

import rmt_rl
from rmt_rl import config
from rmt_rl.algos.rate import RATELearner
from rmt_rl.config.registry import GROUPS
from rmt_rl.envs.registry import make_from_config
from rmt_rl.policies.actor_critic import ActorCritic
from rmt_rl.policies.base import Backbone, NoState
from rmt_rl.policies.saving import load_policy
from rmt_rl.policies.spec import make_spec
from rmt_rl.rollouts.dataset import Dataset, Episode

PPO = {"env": "tmaze", "steps": 500, "evaluate_episodes": 4, "env.length": 3}
PPO |= {"algo.num_envs": 8, "algo.rollout": 12, "algo.minibatches": 2}
RATE = {"env": "tmaze-rate", "algo": "rate", "steps": 300, "evaluate_episodes": 4, "env.length": 4, "algo.batch": 8}
both = pytest.mark.parametrize("options", [PPO, RATE], ids=["ppo", "rate"])


@dataclass(frozen=True)
class CenteredConfig(rmt_rl.PolicyConfig):
    """A layer on the present input, with its mean input in a buffer."""

    width: int = rmt_rl.option(8, "width D", low=1, high=64)
    weight: float = rmt_rl.option(0.0, "weight of the auxiliary loss", low=0, high=10)
    follow: float = rmt_rl.option(0.0, "how fast the buffer follows the inputs", low=0, high=1)


class Centered(Backbone):
    """y = W (x - mean) + b; the auxiliary loss draws b to 3."""

    description = "none; with a buffer"

    def __init__(self, config):
        super().__init__()
        self.config, self.layer = config, nn.Linear(config.width, config.width)
        self.register_buffer("mean", torch.zeros(config.width))
        self.register_buffer("calls", torch.zeros((), dtype=torch.int64))

    def initial_state(self, batch):
        return NoState(self.mean.new_zeros(batch, 0))

    def step(self, x, state, first):
        return self.layer(x - self.mean), state

    def unroll(self, x, state, first):
        return self.unroll_with_losses(x, state, first)[:2]

    def unroll_with_losses(self, x, state, first):
        losses = {"bias": self.config.weight * (self.layer.bias - 3).square().mean()} if self.config.weight else {}
        return self.layer(x - self.mean), state, losses

    def between_updates(self, x, state, first, generator):
        noise = 0.01 * torch.randn(x.shape[-1], generator=generator, device=x.device)
        self.mean += self.config.follow * (x.flatten(0, 1).mean(0) + noise - self.mean)
        self.calls += 1


@pytest.fixture(autouse=True)
def registered():
    rmt_rl.register_policy("test-centered", CenteredConfig)(Centered)
    yield
    del GROUPS["policy"]["test-centered"]


def train(root, options, **given):
    return rmt_rl.train(root=root, policy="test-centered", **options, **given)


def bias(result):
    return float(result.policy.backbone.layer.bias.detach().mean())


@pytest.mark.slow
@both
def test_auxiliary_losses_are_added_to_the_loss_and_logged_by_name(options, tmp_path):
    without, with_loss = (train(tmp_path, options, **{"policy.weight": weight}) for weight in (0.0, 10.0))
    column = with_loss.metrics["auxiliary/bias"]
    assert column[0] == pytest.approx(90, rel=0.2)  # 10 (0 - 3)^2
    assert column[-1] < column[0] and "auxiliary/bias" not in without.metrics
    assert bias(with_loss) > bias(without) + 1e-3


def logged_by_rate(losses, **options):
    """The row of one update of `algo=rate` on episodes of 7, 6, 5 and 4 steps; `losses`: of the parts of the batch in turn."""
    run = config.make_config(env=config.TMazeRATEConfig(length=6, min_length=3), algo="rate", **options)
    env = make_from_config(run.env, 1)
    size = env.single_observation_space.shape[0]
    episodes = [Episode(np.ones((n, size), np.float32), np.zeros(n, np.int64), np.ones(n)) for n in (7, 6, 5, 4)]
    data = Dataset(episodes, 22, env.single_observation_space, env.single_action_space)
    policy = ActorCritic(make_spec(env, run.env, config.RMTConfig(width=8, heads=1, segment=3, memory_tokens=1)))
    learner = RATELearner(run, env, policy, data)
    losses = iter(losses)
    unroll = policy.backbone.unroll_with_losses

    def unroll_with_losses(x, state, first):
        return *unroll(x, state, first)[:2], {"extra": policy.head.linear.bias.sum() * 0 + next(losses)}

    policy.backbone.unroll_with_losses = unroll_with_losses
    row = learner.update(data.batch(torch.arange(4), None, False, torch.device("cpu")), 0.5)
    assert next(losses, None) is None, "not every loss was used"
    return row


def test_the_logged_auxiliary_loss_of_segments_is_their_mean_by_steps():
    """Of the segments of 3 steps, 12 steps are in the first ones, 9 in the second and 1 in the third."""
    options = {"algo.detach_memory": True, "algo.returns": False, "algo.validation": 0}
    assert logged_by_rate([1.0, 2.0, 5.0], **options)["auxiliary/extra"] == pytest.approx((12 + 2 * 9 + 5) / 22)


def test_the_logged_auxiliary_loss_of_whole_episodes_is_that_of_the_batch():
    options = {"algo.returns": False, "algo.validation": 0}
    assert logged_by_rate([3.0], **options)["auxiliary/extra"] == pytest.approx(3.0)


@pytest.mark.slow
@both
def test_auxiliary_losses_do_not_change_the_other_losses_of_the_first_update(options, tmp_path):
    """They are logged beside the loss of the task, which stays comparable between policies."""
    name = "loss" if options is RATE else "value_loss"
    options = options | {"algo.learning_rate": 1e-9}
    first = [train(tmp_path, options, **{"policy.weight": w}).metrics[name][0] for w in (0.0, 10.0)]
    assert first[0] == pytest.approx(first[1], rel=1e-5)


@pytest.mark.slow
@both
def test_between_updates_is_called_once_per_update_and_its_buffers_are_saved(options, tmp_path):
    result = train(tmp_path, options, **{"policy.follow": 0.5})
    updates = len(result.metrics["steps"])
    saved = load_policy(result.folder).backbone
    assert int(saved.mean.count_nonzero()) > 0
    if options is PPO:  # RATE selects the weights and buffers with the lowest validation loss
        assert int(saved.calls) == updates
    assert torch.equal(saved.mean, result.policy.backbone.mean.cpu())


class Killed(Exception):
    pass


class KillAt:
    def __init__(self, updates):
        self.updates = updates

    def on_update(self, run):
        self.updates -= 1
        if self.updates == 0:
            raise Killed


@pytest.mark.slow
@both
def test_buffers_are_resumed_to_the_same_bits(options, tmp_path):
    options = options | {"policy.follow": 0.5, "policy.weight": 1.0, "checkpoint_steps": options["steps"] // 4}
    whole = train(tmp_path, options, run="whole")
    updates = len(whole.metrics["steps"])
    assert updates >= 4
    with pytest.raises(Killed):
        train(tmp_path, options, run="killed", callbacks=[KillAt(updates - 1)])
    resumed = rmt_rl.train(resume=tmp_path / "killed")
    ours, theirs = whole.policy.state_dict(), resumed.policy.state_dict()
    assert "backbone.mean" in ours
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


@pytest.mark.slow
@both
def test_the_noise_between_updates_differs_from_update_to_update_and_from_seed_to_seed(options, tmp_path):
    """The generator that a backbone gets must not repeat, or noise becomes a constant."""
    seen = []

    class Recording(Centered):
        def between_updates(self, x, state, first, generator):
            seen.append(torch.randn(1, generator=generator, device=x.device).item())

    rmt_rl.register_policy("test-centered", CenteredConfig)(Recording)
    for run_seed in (0, 1):
        train(tmp_path, options, seed=run_seed)
    assert len(set(seen)) == len(seen) > 5
