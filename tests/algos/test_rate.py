"""RATE: its loss, the gradient of the memory, and equality of acting and learning."""

import dataclasses

import pytest
import torch
from torch.nn import functional as F

from rmt_rl import config
from rmt_rl.algos.rate import RATELearner
from rmt_rl.common import rng
from rmt_rl.common.state import map_obs
from rmt_rl.envs.registry import make_from_config
from rmt_rl.policies.actor_critic import ActorCritic
from rmt_rl.policies.spec import make_spec
from rmt_rl.rollouts.dataset import Dataset

TASK = config.TMazeRATEConfig(length=20, min_length=9)
SEGMENT = 4
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def data() -> Dataset:
    return RATELearner.load_data(config.make_config(env=TASK, algo="rate"))


def make(data: Dataset, policy: config.PolicyConfig | None = None, **options) -> RATELearner:
    """A learner on the data, before its first update."""
    algo = config.RATEConfig(**{"batch": 8} | options)
    policy = policy or config.RMTConfig(width=16, layers=2, segment=SEGMENT, memory_tokens=3)
    returns = data.returns(algo, trained=False, saved=None)
    env = make_from_config(TASK, 1, returns=returns)
    torch.manual_seed(0)
    network = ActorCritic(make_spec(env, TASK, policy, returns=returns))
    return RATELearner(config.make_config(env=TASK, algo=algo, policy=policy), env, network, data)


def learn(rate: RATELearner) -> dict:
    """The row of one update at the beginning of the run."""
    return rate.update(rate.collect(0.0), 0.0)


def test_the_loss_is_the_cross_entropy_of_each_episode_by_itself(data) -> None:
    rate, episodes = make(data), torch.tensor([3, 0, 7])
    batch = data.batch(episodes, None, True, CPU)
    losses, right, _, _ = rate._losses(batch.obs, batch.action, rate.policy.initial_state(1), batch.first)
    alone = []
    for episode in episodes:
        one = data.batch(episode[None], None, True, CPU)
        logits, _, _ = rate.policy.unroll(one.obs, one.action, rate.policy.initial_state(1), one.first)
        alone.append(F.cross_entropy(logits[0], one.action[0], reduction="none"))
    assert torch.allclose(losses[0], torch.cat(alone), atol=1e-5)
    assert right.shape == losses.shape


@pytest.mark.slow
@pytest.mark.parametrize("update", ["replace", "gate", "mrv"])
def test_one_step_gives_every_parameter_of_the_memory_a_gradient(data, update) -> None:
    """In the released code the gradient stops between segments, so its retention valve never gets one."""
    rate = make(
        data, config.RMTConfig(width=16, segment=SEGMENT, memory_tokens=3, memory_update=update, blank_memory="seen")
    )
    learn(rate)
    names = ("write_position", "read_position", "initial_memory", "update.")
    found = {n: p.grad for n, p in rate.policy.backbone.named_parameters() if n.startswith(names)}
    assert len(found) >= 3 + (update != "replace")
    for name, gradient in found.items():
        assert gradient is not None and float(gradient.abs().max()) > 0, name


@pytest.mark.slow
def test_with_detached_memory_reading_is_trained_and_writing_is_not(data) -> None:
    policy = config.RMTConfig(width=16, segment=SEGMENT, memory_tokens=3, memory_update="mrv")
    rate = make(data, policy, detach_memory=True)
    before = {name: p.detach().clone() for name, p in rate.policy.backbone.named_parameters()}
    for _ in range(3):
        learn(rate)
    after = dict(rate.policy.backbone.named_parameters())
    for name in ("write_position", "update.query.weight", "update.output.weight"):
        assert torch.equal(before[name], after[name]), name
    assert not torch.equal(before["read_position"], after["read_position"])


def test_detached_memory_gives_the_same_loss(data) -> None:
    """At a tiny learning rate one step per segment changes no weight, and the cut changes only the gradient."""
    rows = [learn(make(data, detach_memory=detach, learning_rate=1e-12)) for detach in (False, True)]
    assert rows[0]["loss"] == pytest.approx(rows[1]["loss"], rel=1e-5)
    assert rows[0]["accuracy"] == pytest.approx(rows[1]["accuracy"])


@torch.no_grad()
@pytest.mark.parametrize(
    "policy",
    [config.RMTConfig(segment=SEGMENT), config.TrXLConfig(), config.LSTMConfig(), config.MLPConfig()],
    ids=lambda p: p.name,
)
def test_acting_step_by_step_gives_the_logits_of_learning(data, policy) -> None:
    rate = make(data, policy)
    rate.policy.eval()
    returns = data.returns(rate.options, trained=False, saved=None)
    rows = 6
    env = make_from_config(TASK, rows, returns=returns)
    oracle = make_from_config(TASK, rows)
    obs, _ = env.reset(seed=4)
    oracle.reset(seed=4)
    state, first = rate.policy.initial_state(rows), torch.ones(rows, dtype=torch.bool)
    seen, actions, firsts, logits = [], [], [], []
    for _ in range(30):  # through resets
        parameters, _, memory = rate.policy.step(obs, state, first)
        action = oracle.oracle()
        seen.append(obs)
        actions.append(action)
        firsts.append(first)
        logits.append(parameters)
        state = dataclasses.replace(state, memory=memory, action=action)
        obs, _, terminated, truncated, _ = env.step(action)
        oracle.step(action)
        first = terminated | truncated
    together = map_obs(lambda *x: torch.stack(x, 1), *seen)
    learned, _, _ = rate.policy.unroll(
        together, torch.stack(actions, 1), rate.policy.initial_state(rows), torch.stack(firsts, 1)
    )
    assert float((learned - torch.stack(logits, 1)).abs().max()) < 2e-5
    assert together["return_to_go"][torch.stack(firsts, 1)].unique().tolist() == [1.0]


def test_acting_with_the_return_of_the_data_shows_the_observations_of_the_recorded_episode(data) -> None:
    """Acting conditioned on the return of the data gives at every step the observation that learning used."""
    rate = make(data)
    batch = data.batch(torch.tensor([0]), None, True, CPU)
    env = make_from_config(TASK, 1, returns=data.returns(rate.options, trained=False, saved=None))
    obs, _ = env.reset(seed=rng.seed(0, "record"))
    for t in range(batch.first.shape[1]):
        for key, value in obs.items():
            assert torch.equal(value[0], batch.obs[key][0, t]), (key, t)
        obs, *_ = env.step(batch.action[0, t : t + 1])


def test_batches_are_cut_at_segments_according_to_the_options(data) -> None:
    episodes, longest = torch.arange(len(data)), int(data.length.max())
    assert make(data)._limit(episodes, 0.0) is None
    assert make(data, length=6)._limit(episodes, 0.0) == 6
    growing = make(data, cut="growing")
    assert [growing._limit(episodes, p) for p in (0.0, 0.25, 0.5, 1.0)] == [SEGMENT, 12, longest, longest]
    growing = make(data, cut="growing", length=6)
    assert [growing._limit(episodes, p) for p in (0.0, 0.3, 1.0)] == [SEGMENT, 6, 6]
    assert make(data, cut="growing", length=99)._limit(episodes, 1.0) == longest
    short = int(data.length.argmin())
    assert make(data, cut="growing")._limit(torch.tensor([short]), 1.0) == int(data.length[short]) < longest
    varied = make(data, cut="varied")
    drawn = {varied._limit(episodes, 0.0) for _ in range(200)}
    assert drawn == {4, 8, 12, 16, 20, longest}


@pytest.mark.slow
def test_the_weights_with_the_lowest_validation_loss_are_selected(data) -> None:
    rate = make(data, validation=0.2)
    assert len(rate.held_out) == 0.2 * len(data) and not set(rate.held_out.tolist()) & set(rate.training.tolist())
    learn(rate)
    best = {name: value.clone() for name, value in rate.best.items()}
    loss = rate.best_loss
    rate.policy.head.linear.bias.data[2] += 50.0  # training goes wrong
    result = rate.select_weights()
    assert result["validation_loss_kept"] == loss < result["validation_loss"]
    assert all(torch.equal(best[name], value) for name, value in rate.policy.state_dict().items())


def test_continuous_actions_are_learned_by_their_squared_error() -> None:
    from gymnasium import spaces

    from rmt_rl.policies.heads import make_head

    head = make_head(spaces.Box(-1, 1, (2,)), 4)
    parameters = torch.tensor([[0.5, -1.0, 0.0, 0.0]])
    assert head.imitation_loss(parameters, torch.tensor([[1.5, 1.0]])).tolist() == [(1.0 + 4.0) / 2]


def test_at_least_one_episode_is_used_for_training(data) -> None:
    assert len(make(data, validation=0.9999).training) == 1


def test_of_equal_validation_losses_the_earliest_weights_are_kept(data) -> None:
    rate = make(data, validation=0.01)
    first = rate.validate()
    best = rate.best
    assert rate.validate() == first and rate.best is best


def test_the_weights_of_the_last_validation_are_not_selected_where_an_earlier_one_was_better(data) -> None:
    rate = make(data, validation=0.01)
    rate.validate()
    best = rate.policy.head.linear.bias.detach().clone()
    rate.policy.head.linear.bias.data[2] += 50.0  # training goes wrong
    result = rate.select_weights()
    assert result["validation_loss_kept"] == rate.best_loss < result["validation_loss"]
    assert torch.equal(rate.policy.head.linear.bias, best)


def test_a_run_can_be_stopped_between_the_batches_of_a_validation(data) -> None:
    def stop() -> None:
        raise KeyboardInterrupt

    rate = make(data, validation=0.01)
    rate.check_stop = stop
    with pytest.raises(KeyboardInterrupt):
        rate.validate()


def test_without_validation_the_last_weights_are_selected(data) -> None:
    rate = make(data, validation=0.0)
    last = {name: value.clone() for name, value in rate.policy.state_dict().items()}
    assert rate.select_weights() == {}
    assert all(torch.equal(last[name], value) for name, value in rate.policy.state_dict().items())
