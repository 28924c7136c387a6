"""PPO on whole rows with memory: the ratio starts at one, rows stay whole, gradients cross segments."""

import dataclasses
import functools
import math

import numpy as np
import pytest
import torch
from gymnasium import spaces
from torch import nn

from rmt_rl import config
from rmt_rl.algos import ppo as ppo_module
from rmt_rl.algos.ppo import PPO, RATIO_TOLERANCE, barrier_weight, schedule
from rmt_rl.common import rng
from rmt_rl.common.errors import ConfigError, RunError
from rmt_rl.common.finite import NotFinite
from rmt_rl.common.state import map_state, select_rows
from rmt_rl.envs.registry import make_from_config
from rmt_rl.policies.actor_critic import ActorCritic
from rmt_rl.policies.heads import CategoricalHead, make_head
from rmt_rl.policies.spec import make_spec
from rmt_rl.rollouts.collector import Collector

ROWS = 8
POLICIES = {
    "rmt": config.RMTConfig(width=16, heads=2, segment=4, memory_tokens=2),
    "rmt-gate": config.RMTConfig(width=16, heads=2, segment=5, memory_tokens=2, memory_update="gate"),
    "lstm": config.LSTMConfig(width=16),
    "gru": config.GRUConfig(width=16),
    "mlp": config.MLPConfig(width=16),
}
ENVS = {
    "mixed lengths": config.TMazeConfig(length=9, min_length=2),
    "truncating": config.TMazeConfig(length=3, min_length=1, end_at_turn=True),
}
OPTIONS = config.PPOConfig(num_envs=ROWS, rollout=7, epochs=2, minibatches=2, learning_rate=1e-3, advantage_floor=1e-6)

every_policy = pytest.mark.parametrize("policy_name", POLICIES)
every_env = pytest.mark.parametrize("env_name", ENVS)


class Spy(ActorCritic):
    """Records what the learner unrolls."""

    def unroll_with_losses(self, obs, action, state, first_BT):
        self.__dict__.setdefault("seen", []).append((obs, action, state, first_BT))
        return super().unroll_with_losses(obs, action, state, first_BT)


def make_policy(env, env_config, policy_config, seed=0, cls=ActorCritic):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        policy = cls(make_spec(env, env_config, policy_config))
        for parameter in policy.parameters():  # heads start so small that a wrong memory would hardly show
            parameter.data += 0.2 * torch.randn_like(parameter)
    return policy


def start(policy_name="rmt", env_name="mixed lengths", options=OPTIONS, seed=0, cls=ActorCritic, warm_up=(3,)):
    """A learner before its first update, and a collector in the middle of its episodes."""
    env = make_from_config(ENVS[env_name], ROWS)
    policy = make_policy(env, ENVS[env_name], POLICIES[policy_name], seed, cls)
    collector = Collector(env, policy, seed, torch.Generator().manual_seed(seed))
    for steps in warm_up:
        collector.collect(steps)
    return PPO(policy, options, seed), collector


def changed(**options):
    return dataclasses.replace(OPTIONS, **options)


def weights(policy):
    return [parameter.detach().clone() for parameter in policy.parameters()]


def same(left, right):
    return all(torch.equal(a, b) for a, b in zip(left, right, strict=True))


def worst_log_ratio(policy, rollout):
    with torch.no_grad():
        parameters, _, _ = policy.unroll(rollout.obs, rollout.action, rollout.state, rollout.first)
    return float((policy.head.log_prob(parameters, rollout.action) - rollout.log_prob).abs().max())


# ------------------------------------------------------------------------------------------------------- ratio is one


@pytest.mark.slow
@every_policy
@every_env
@pytest.mark.parametrize("warm_up, steps", [((), 7), ((3,), 7), ((7, 7), 13), ((1, 2, 5), 1)])
def test_before_the_first_update_the_learner_computes_the_same_policy_as_acting(policy_name, env_name, warm_up, steps):
    ppo, collector = start(policy_name, env_name, warm_up=warm_up)
    rollout, _ = collector.collect(steps)
    assert worst_log_ratio(ppo.policy, rollout) <= RATIO_TOLERANCE
    ppo.update(rollout, 0.0)


def test_the_cases_above_include_many_phases_and_truncated_episodes():
    """Rows at many phases, episodes that begin inside a rollout, truncated episodes: otherwise the claim is empty."""
    _, collector = start("rmt", "mixed lengths", warm_up=(7, 7))
    assert len(set((collector.state.memory.age % 8).tolist())) >= 3
    assert bool(collector.collect(13)[0].first[:, 1:].any())
    _, collector = start("rmt", "truncating", warm_up=(7, 7))
    assert bool(collector.collect(13)[0].truncated.any())


def corrupt_log_prob(rollout):
    log_prob = rollout.log_prob.clone()
    log_prob[:, 2] += 1e-3
    return dataclasses.replace(rollout, log_prob=log_prob)


def shift_first(rollout):
    return dataclasses.replace(rollout, first=rollout.first.roll(1, dims=1))


def swap_states(rollout):
    return dataclasses.replace(rollout, state=select_rows(rollout.state, torch.arange(ROWS).roll(1)))


def shift_actions(rollout):
    return dataclasses.replace(rollout, action=rollout.action.roll(1, dims=1))


def poison(rollout):
    return dataclasses.replace(rollout, log_prob=torch.full_like(rollout.log_prob, torch.nan))


@pytest.mark.parametrize("fault", [corrupt_log_prob, shift_first, swap_states, shift_actions, poison])
def test_a_mismatch_between_acting_and_learning_raises_before_any_weight_changes(fault):
    ppo, collector = start(warm_up=(7, 3))
    rollout, _ = collector.collect(7)
    before = weights(ppo.policy)
    with pytest.raises(RuntimeError, match=r"log-probabilities of `unroll` differ from those of `step`"):
        ppo.update(fault(rollout), 0.0)
    assert same(weights(ppo.policy), before)
    assert not ppo.optimizer.state
    assert ppo.updates == 0


@pytest.mark.parametrize(
    ("stored", "difference", "allowed"),
    [(-0.01, 0.8e-5, True), (-0.01, 1.2e-5, False), (-100.0, 0.8e-3, True), (-100.0, 1.2e-3, False)],
)
def test_acting_and_learning_may_differ_by_1e_5_times_the_log_probability_if_that_is_above_one(
    stored, difference, allowed, monkeypatch
):
    ppo, collector = start()
    rollout, _ = collector.collect(2)
    rollout = dataclasses.replace(rollout, log_prob=torch.full_like(rollout.log_prob, stored))
    learned = rollout.log_prob.clone()
    learned[3, 1] += difference  # one step of one row
    monkeypatch.setattr(ppo.policy.head, "log_prob", lambda parameters, action: learned)
    if allowed:
        return ppo._check_ratio(rollout)
    with pytest.raises(RuntimeError, match="differ from those of `step`"):
        ppo._check_ratio(rollout)


@pytest.mark.parametrize(("number", "error"), [(-20_000.0, RunError), (-10_000.0, RuntimeError)])
def test_a_mismatch_at_large_observations_is_blamed_on_them(number, error):
    ppo, collector = start()
    rollout = corrupt_log_prob(collector.collect(7)[0])
    rollout.obs[0, 0, 0] = number
    with pytest.raises(error) as caught:
        ppo.update(rollout, 0.0)
    assert type(caught.value) is error
    sentence = (
        "observation: numbers up to 2e+04 are too large for the network, whose float32 results then depend on their"
    )
    assert str(caught.value).startswith(sentence) == (error is RunError)


@pytest.mark.parametrize(
    ("column", "name"), [("log_prob", "log-probability"), ("value", "value"), ("next_value", "next value")]
)
def test_outputs_that_are_not_finite_at_large_observations_are_blamed_on_them(column, name):
    ppo, collector = start()
    rollout = collector.collect(7)[0]
    getattr(rollout, column)[0, 0] = math.inf
    assert ppo_module._too_large(rollout) is None
    rollout.obs[0, 0, 0] = -20_000
    with pytest.raises(
        NotFinite, match=f"^observation: with numbers up to 2e\\+04 the {name} of the policy is not finite; "
    ):
        ppo.update(rollout, 0.0)


def test_the_largest_number_of_an_observation_is_that_of_its_real_numbers():
    obs = {"a": torch.tensor([[2.0, -3.0]]), "b": torch.tensor([99]), "c": torch.zeros(1, 0), "d": torch.tensor([1.0])}
    assert ppo_module._largest(obs) == ppo_module._largest(obs["a"]) == 3
    assert ppo_module._largest(obs["b"]) == 0


def test_the_numbers_to_log_hold_no_graph():
    """They are kept until the end of the update, and with them a graph of every minibatch would be."""
    ppo, collector = start()
    rollout, _ = collector.collect(2)
    loss, measured = ppo._loss(rollout, rollout.value, rollout.value, torch.arange(ROWS), 1.0)
    assert loss.requires_grad and not any(number.requires_grad for number in measured.values())


def test_after_a_rejected_rollout_the_next_one_is_still_checked_and_learned_from():
    ppo, collector = start()
    rollout, _ = collector.collect(7)
    for _ in range(2):
        with pytest.raises(RuntimeError, match="before the first update"):
            ppo.update(corrupt_log_prob(rollout), 0.0)
    ppo.update(rollout, 0.0)
    assert ppo.updates == 1


def test_the_ratio_is_not_checked_after_the_first_update():
    ppo, collector = start(options=changed(learning_rate=1e-2))
    rollout, _ = collector.collect(7)
    assert ppo.update(rollout, 0.0)["approx_kl"] > 1e-5
    ppo.update(corrupt_log_prob(collector.collect(7)[0]), 0.0)


@pytest.mark.slow
@every_policy
@every_env
def test_without_a_step_size_the_ratio_stays_one_through_all_epochs(policy_name, env_name):
    ppo, collector = start(policy_name, env_name, changed(epochs=4, minibatches=4, schedule="linear"))
    rollout, _ = collector.collect(11)
    before = weights(ppo.policy)
    measured = ppo.update(rollout, progress=1.0)
    assert measured["learning_rate"] == 0
    assert abs(measured["approx_kl"]) < 1e-8
    assert measured["clip_fraction"] == 0
    assert measured["gradient_norm"] > 0
    assert same(weights(ppo.policy), before)


# -------------------------------------------------------------------------------------------------------- minibatches


def numbered(rollout):
    """The rollout with each row's number in every tensor that the learner reads."""
    number = torch.arange(ROWS)
    state = map_state(lambda x: x.clone(), rollout.state)
    state.memory.memory[:] = number[:, None, None]
    state.action[:] = number % 4
    columns = {"action": number[:, None] % 4, "first": number[:, None] % 2 == 0, "log_prob": number[:, None].float()}
    columns = {name: value.expand(ROWS, rollout.first.shape[1]) for name, value in columns.items()}
    obs = number[:, None, None].expand(rollout.obs.shape).float()
    return dataclasses.replace(rollout, obs=obs, state=state, **columns)


def test_minibatches_split_rows_and_never_time():
    ppo, collector = start(options=changed(epochs=3, minibatches=4), cls=Spy)
    ppo.updates = 1  # made-up rows would not pass the ratio check
    ppo.update(numbered(collector.collect(7)[0]), 0.0)
    seen = ppo.policy.seen
    assert len(seen) == 3 * 4
    for obs, action, state, first in seen:
        rows = obs[:, 0, 0].long()
        assert torch.equal(obs, rows[:, None, None].expand(2, 7, 2).float())
        assert torch.equal(action, rows[:, None].expand(2, 7) % 4)
        assert torch.equal(first, rows[:, None].expand(2, 7) % 2 == 0)
        assert torch.equal(state.action, rows % 4)
        assert torch.equal(state.memory.memory, rows[:, None, None].expand(2, 2, 16).float())
    for epoch in range(3):
        rows = [int(row) for obs, *_ in seen[4 * epoch : 4 * epoch + 4] for row in obs[:, 0, 0]]
        assert sorted(rows) == list(range(ROWS)), "every row exactly once in each epoch"


def test_every_row_is_used_with_its_own_advantage_and_target(monkeypatch):
    """Every step ends an episode with the row's number as its return, and all predicted values are zero."""
    received = {}
    for name in ("clipped_surrogate", "value_loss"):
        original = getattr(ppo_module, name)

        def recorded(x, y, *rest, name=name, original=original):
            received.setdefault(name, []).append(y)
            return original(x, y, *rest)

        monkeypatch.setattr(ppo_module, name, recorded)
    ppo, collector = start(options=changed(normalize_advantage=False), cls=Spy)
    ppo.updates = 1  # made-up rows would not pass the ratio check
    rollout = numbered(collector.collect(7)[0])
    worth, nothing = rollout.log_prob, torch.zeros_like(rollout.value)
    always = torch.ones_like(rollout.terminated)
    ppo.update(dataclasses.replace(rollout, reward=worth, value=nothing, terminated=always), 0.0)
    for k, (obs, *_) in enumerate(ppo.policy.seen):
        assert torch.equal(received["clipped_surrogate"][k], obs[..., 0])
        assert torch.equal(received["value_loss"][k], obs[..., 0])


def test_epochs_shuffle_the_rows_anew():
    ppo, collector = start(options=changed(epochs=2, minibatches=1), cls=Spy)
    ppo.update(collector.collect(7)[0], 0.0)
    _, first_epoch, second_epoch = (seen[0] for seen in ppo.policy.seen)
    assert not torch.equal(first_epoch, second_epoch)


def test_advantages_are_standardised_over_the_minibatch_only_with_the_option(monkeypatch):
    seen = []

    def recorded(log_ratio, advantage, clip):
        seen.append(advantage)
        return original(log_ratio, advantage, clip)

    original = ppo_module.clipped_surrogate
    monkeypatch.setattr(ppo_module, "clipped_surrogate", recorded)
    for enabled in (True, False):
        seen.clear()
        ppo, collector = start(options=changed(normalize_advantage=enabled))
        ppo.update(collector.collect(7)[0], 0.0)
        assert len(seen) == 4
        assert all((abs(float(x.std()) - 1) < 1e-4 and abs(float(x.mean())) < 1e-5) == enabled for x in seen)


# ------------------------------------------------------------------------------------------------------ reproducible


def learn(seed, policy_name="rmt"):
    ppo, collector = start(policy_name, seed=seed)
    for _ in range(2):
        ppo.update(collector.collect(7)[0], 0.0)
    return weights(ppo.policy)


@pytest.mark.slow
@every_policy
def test_the_same_seed_gives_the_same_bits_after_two_updates_and_another_seed_others(policy_name):
    weights_of_seed_0 = learn(0, policy_name)
    assert same(learn(0, policy_name), weights_of_seed_0)
    assert not same(learn(1, policy_name), weights_of_seed_0)


def test_an_update_draws_from_its_own_generator_only():
    ppo, collector = start()
    rollout, _ = collector.collect(7)
    before = torch.get_rng_state()
    ppo.update(rollout, 0.0)
    assert torch.equal(torch.get_rng_state(), before)


def test_an_update_does_not_change_the_rollout():
    ppo, collector = start()
    rollout, _ = collector.collect(7)
    names = {f.name for f in dataclasses.fields(rollout)} - {"state", "nonfinite"}
    fields = {name: getattr(rollout, name).clone() for name in names}
    cache = rollout.state.memory.cache.clone()
    ppo.update(rollout, 0.0)
    assert all(torch.equal(getattr(rollout, name), value) for name, value in fields.items())
    assert torch.equal(rollout.state.memory.cache, cache)


def test_the_stored_state_carries_no_gradient():
    _, collector = start(warm_up=())
    for _ in range(2):
        state = collector.collect(7)[0].state
        assert not any(x.requires_grad for x in (state.action, state.memory.memory, state.memory.cache))


# ---------------------------------------------------------------------------------------------- options and metrics


@pytest.mark.parametrize(
    "kind, expected",
    [
        ("constant", [1, 1, 1, 1]),
        ("linear", [1, 0.75, 0.5, 0]),
        ("cosine", [1, 0.5 + 0.5 * 0.5**0.5, 0.5, 0]),
    ],
)
def test_schedules_by_hand(kind, expected):
    assert [schedule(kind, progress) for progress in (0, 0.25, 0.5, 1)] == pytest.approx(expected)


@pytest.mark.parametrize("rate, kind, progress, used", [(1e-3, "linear", 0.9, 1e-4), (1e-3, "constant", 0.9, 1e-3)])
def test_the_step_size_is_the_scheduled_one(rate, kind, progress, used):
    ppo, collector = start(options=changed(epochs=1, minibatches=1, learning_rate=rate, schedule=kind))
    before = weights(ppo.policy)
    assert ppo.update(collector.collect(7)[0], progress)["learning_rate"] == pytest.approx(used)
    # Adam's first step is about as long as the step size in every weight with a large gradient
    moved = max(float((a - b).abs().max()) for a, b in zip(weights(ppo.policy), before, strict=True))
    assert moved == pytest.approx(used, rel=0.02)


def after_an_update(measure, progress=0.0, **options):
    """`measure` of one rollout's metrics, in the last of some updates on it."""
    ppo, collector = start("lstm", options=changed(schedule="linear", minibatches=1, **options))
    rollout, _ = collector.collect(7)
    return [ppo.update(rollout, progress)[measure] for _ in range(5)][-1]


def test_the_entropy_bonus_raises_the_entropy_and_follows_the_schedule():
    after = functools.partial(after_an_update, "entropy", barrier_coef=0.0)
    assert after(entropy_coef=1.0) > after(entropy_coef=0.0) + 0.01
    # the bonus at half of the step size and half of its own size, with everything else equal
    faded = after(progress=0.5, entropy_coef=1.0, learning_rate=2e-3)
    assert faded == pytest.approx(after(entropy_coef=0.5, learning_rate=1e-3))


def test_the_log_barrier_raises_the_entropy_and_follows_the_schedule():
    after = functools.partial(after_an_update, "entropy", entropy_coef=0.0)
    assert after(barrier_coef=1.0) > after(barrier_coef=0.0) + 0.01
    faded = after(progress=0.5, barrier_coef=1.0, learning_rate=2e-3)
    assert faded == pytest.approx(after(barrier_coef=0.5, learning_rate=1e-3))


def test_the_log_barrier_pushes_a_forgotten_action_back_where_the_entropy_bonus_does_not():
    """Logits by hand: the gradient of the barrier is pi - 1/n, that of the entropy vanishes with the probability."""
    head = CategoricalHead([4], (), 8)
    logits = torch.tensor([20.0, 0.0, 0.0, 0.0], requires_grad=True)
    (barrier,) = torch.autograd.grad(head.kl_from_uniform(logits), logits)
    torch.testing.assert_close(barrier, torch.tensor([0.75, -0.25, -0.25, -0.25]), atol=1e-6, rtol=0)
    (entropy,) = torch.autograd.grad(-head.entropy(logits), logits)
    assert float(entropy.abs().max()) < 1e-6


@pytest.mark.parametrize(
    ("space", "usual"), [(spaces.Discrete(3), 0.01), (spaces.MultiDiscrete([2, 2]), 0.01), (spaces.Box(-2, 3), 0.0)]
)
def test_the_log_barrier_is_on_by_default_for_discrete_actions_only(space, usual):
    head = make_head(space, 8)
    assert barrier_weight(config.PPOConfig(), head) == usual
    assert barrier_weight(config.PPOConfig(barrier_coef=0.1), head) == 0.1


def test_a_log_barrier_for_actions_without_bounds_is_rejected():
    head = make_head(spaces.Box(-np.inf, np.inf, (2,)), 8)
    assert barrier_weight(config.PPOConfig(), head) == barrier_weight(config.PPOConfig(barrier_coef=0.0), head) == 0
    with pytest.raises(ConfigError, match=r"algo\.barrier_coef=0\.1: the actions have no bounds"):
        barrier_weight(config.PPOConfig(barrier_coef=0.1), head)


def test_the_kl_penalty_keeps_the_policy_near_the_one_that_acted():
    free, held = (after_an_update("approx_kl", kl_coef=weight, learning_rate=1e-2) for weight in (0.0, 30.0))
    assert held < 0.5 * free


def test_the_value_loss_decreases_if_it_has_weight():
    without, learned = (after_an_update("value_loss", value_coef=weight, learning_rate=1e-2) for weight in (0.0, 1.0))
    assert learned < 0.7 * without


def test_normalized_rewards_make_the_same_updates_in_any_unit():
    def weights(unit):
        ppo, collector = start(options=changed(normalize_reward=True))
        for _ in range(2):
            rollout, _ = collector.collect(7)
            ppo.update(dataclasses.replace(rollout, reward=unit * rollout.reward), 0.0)
        return list(ppo.policy.parameters())

    assert all(map(torch.equal, weights(1.0), weights(2.0**10)))


def test_metrics_are_finite_and_explained_variance_is_one_minus_the_unexplained_share():
    ppo, collector = start()
    rollout, _ = collector.collect(7)
    measured = ppo.update(rollout, 0.0)
    assert all(isinstance(value, float) and value == value for value in measured.values())
    advantage = ppo_module.gae(
        *(rollout.reward, rollout.value, rollout.next_value, rollout.terminated, rollout.truncated),
        *(OPTIONS.gamma, OPTIONS.gae_lambda),
    )
    expected = 1 - float(advantage.var()) / float((advantage + rollout.value).var())
    assert measured["explained_variance"] == pytest.approx(expected, rel=1e-4)


def test_the_numbers_to_log_keep_no_graph():
    ppo, collector = start()
    rollout, _ = collector.collect(7)
    loss, measured = ppo._loss(rollout, rollout.value, rollout.value, torch.arange(ROWS), 1.0)
    assert loss.requires_grad and not any(value.requires_grad for value in measured.values())


def test_between_updates_gets_other_noise_in_every_update_and_for_every_seed(monkeypatch):
    drawn = []
    monkeypatch.setattr(ActorCritic, "between_updates", lambda *given: drawn.append(torch.rand(1, generator=given[-1])))
    for seed in (0, 1):
        ppo, collector = start(seed=seed)
        for _ in range(2):
            ppo.update(collector.collect(7)[0], 0.0)
    assert len({float(x) for x in drawn}) == 4


def test_the_optimizer_sees_gradients_of_at_most_max_grad_norm(monkeypatch):
    norms = []
    ppo, collector = start(options=changed(max_grad_norm=0.01))
    step = ppo.optimizer.step

    def recorded():
        norms.append(float(torch.cat([p.grad.flatten() for p in ppo.policy.parameters()]).norm()))
        return step()

    monkeypatch.setattr(ppo.optimizer, "step", recorded)
    measured = ppo.update(collector.collect(7)[0], 0.0)
    assert measured["gradient_norm"] > 0.01
    assert max(norms) <= 0.01 * 1.001


# ------------------------------------------------------------------------------------------- gradient through memory


@pytest.mark.parametrize("memory_update", ["gate", "replace"])
def test_gradient_of_the_last_segment_reaches_the_first_observation_and_the_whole_update_rule(memory_update):
    task, S = config.TMazeConfig(length=50), 4
    env = make_from_config(task, 3)
    rmt = config.RMTConfig(width=16, heads=2, segment=S, memory_tokens=2, memory_update=memory_update)
    policy = make_policy(env, task, rmt)
    obs = torch.randn(3, 3 * S, 2, generator=torch.Generator().manual_seed(0), requires_grad=True)
    first = torch.zeros(3, 3 * S, dtype=torch.bool)
    first[:, 0] = True
    action = torch.zeros(3, 3 * S, dtype=torch.int64)
    parameters, value, _ = policy.unroll(obs, action, policy.initial_state(3), first)
    loss = parameters[:, 2 * S :].square().sum() + value[:, 2 * S :].square().sum()
    loss.backward()
    assert bool((obs.grad[:, :S].abs().amax(-1) > 1e-6).all()), "the encoder's input in the first segment"
    for name, parameter in policy.backbone.update.named_parameters():
        assert parameter.grad is not None, name
        assert float(parameter.grad.abs().max()) > 1e-6, name
    assert len(list(policy.backbone.update.parameters())) == (0 if memory_update == "replace" else 4)


def test_no_gradient_crosses_the_beginning_of_an_episode():
    task = config.TMazeConfig(length=50)
    policy = make_policy(make_from_config(task, 1), task, POLICIES["rmt"])
    obs = torch.randn(1, 12, 2, generator=torch.Generator().manual_seed(0), requires_grad=True)
    first = torch.zeros(1, 12, dtype=torch.bool)
    first[:, [0, 6]] = True
    _, value, _ = policy.unroll(obs, torch.zeros(1, 12, dtype=torch.int64), policy.initial_state(1), first)
    value[:, 6:].square().sum().backward()
    assert float(obs.grad[:, :6].abs().max()) == 0
    assert float(obs.grad[:, 6].abs().max()) > 0


@every_policy
def test_an_update_changes_every_weight(policy_name):
    """A parameter without gradient is a missing connection."""
    ppo, collector = start(policy_name, warm_up=())
    rollout, _ = collector.collect(13)
    before = dict(zip([name for name, _ in ppo.policy.named_parameters()], weights(ppo.policy), strict=True))
    for _ in range(2):
        ppo.update(rollout, 0.0)
    still = [name for name, value in ppo.policy.named_parameters() if torch.equal(value, before[name])]
    assert still == []


def test_one_update_raises_the_probability_of_a_rewarded_action():
    """Action 0 is rewarded by hand and becomes more likely."""
    ppo, collector = start("lstm", options=changed(gamma=0.01, entropy_coef=0.0, value_coef=0.0, learning_rate=3e-3))
    rollout, _ = collector.collect(7)
    rollout = dataclasses.replace(rollout, reward=(rollout.action == 0).float(), value=torch.zeros_like(rollout.value))

    def probability():
        with torch.no_grad():
            logits, _, _ = ppo.policy.unroll(rollout.obs, rollout.action, rollout.state, rollout.first)
        return float(nn.functional.softmax(logits, dim=-1)[..., 0].mean())

    before = probability()
    ppo.update(rollout, 0.0)
    assert probability() > before + 0.01


def test_dropout_is_on_in_learning_and_off_in_the_check_of_the_ratio():
    """Acting uses no dropout; the check compares with acting, so it must not use it either, and learning must."""
    env, policy_config = make_from_config(config.TMazeConfig(), 8), config.RMTConfig(width=16, dropout=0.3)
    torch.manual_seed(0)
    policy = ActorCritic(make_spec(env, config.TMazeConfig(), policy_config))
    ppo = PPO(policy, config.PPOConfig(num_envs=8, rollout=16))
    rollout, _ = Collector(env, policy, 0, rng.generator(0, "act")).collect(16)
    ppo.update(rollout, 0.0)
    assert policy.training
