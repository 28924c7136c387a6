"""Memory that a row keeps at the end of an episode while it learns, the cost of writing, and when both rise."""

import math

import pytest
import torch

from rmt_rl import config, make_config
from rmt_rl.algos.ppo import PPOLearner
from rmt_rl.common.errors import ConfigError
from rmt_rl.common.state import map_state
from rmt_rl.envs.registry import make_from_config
from rmt_rl.policies.actor_critic import ActorCritic
from rmt_rl.policies.spec import make_spec
from rmt_rl.rollouts.collector import Collector
from rmt_rl.rollouts.statistics import Episodes, EpisodeStats

TASK = config.TMazeConfig(length=3, min_length=1)
RMT = config.RMTConfig(width=16, heads=2, segment=2, memory_tokens=2, memory_update="hard_gate", write_cost=0.5)


def collector(policy=RMT, seed=0):
    env = make_from_config(TASK, 16)
    torch.manual_seed(0)
    return Collector(env, ActorCritic(make_spec(env, TASK, policy)), seed)


def test_a_row_keeps_its_memory_at_the_end_of_an_episode_with_the_given_probability():
    rollout, _ = collector(config.GRUConfig(width=8)).collect(150, carry=0.8)
    ends = (rollout.terminated | rollout.truncated)[:, :-1]
    assert torch.equal(rollout.begins[:, 1:], ends)
    resets, n = int(rollout.first[:, 1:].sum()), int(ends.sum())
    assert not bool((rollout.first & ~rollout.begins).any())
    assert abs(resets / n - 0.2) < 4 * math.sqrt(0.16 / n)


@pytest.mark.parametrize("carry, kept", [(0.0, False), (1.0, True)])
def test_without_carrying_every_episode_resets_the_memory_and_with_certainty_none_does(carry, kept):
    rollout, _ = collector().collect(20, carry=carry)
    assert bool(rollout.begins[:, 1:].any())
    assert bool((rollout.first == rollout.begins)[:, 1:].all()) != kept
    assert bool(rollout.first[:, 1:].any()) != kept


@pytest.mark.parametrize("policy", [RMT, config.LSTMConfig(width=16), config.GTrXLConfig(width=16, segment=2, cache=3)])
def test_learning_recomputes_what_acted_with_a_memory_that_was_kept(policy):
    made = collector(policy)
    for _ in range(2):
        rollout, _ = made.collect(12, carry=0.5)
        with torch.no_grad():
            parameters, value, after = made.policy.unroll(rollout.obs, rollout.action, rollout.state, rollout.first)
        log_prob = made.policy.head.log_prob(parameters, rollout.action)
        torch.testing.assert_close(log_prob, rollout.log_prob, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(value, rollout.value, atol=1e-5, rtol=1e-5)
        map_state(lambda a, b: torch.testing.assert_close(a, b, atol=1e-4, rtol=1e-4), after, made.state)


@pytest.mark.slow
def test_returns_of_episodes_are_counted_per_episode_whatever_the_memory_does():
    (_, kept), (_, reset) = collector().collect(100, carry=1.0), collector().collect(100)
    assert int(kept.lengths.max()) == int(reset.lengths.max()) == 4


@pytest.mark.parametrize("carry", [2.0, -0.1, math.nan])
def test_a_carry_that_is_no_probability_is_refused(carry):
    with pytest.raises(ValueError, match="it must be a probability, 0 to 1"):
        collector().collect(1, carry=carry)


def run_of(**options):
    given = {"env": TASK, "policy": RMT, "algo": config.PPOConfig(num_envs=4, rollout=8, epochs=1, minibatches=1)}
    return make_config(**given, **options)


def learner_of(run):
    env = make_from_config(TASK, 4)
    torch.manual_seed(0)
    return PPOLearner(run, env, ActorCritic(make_spec(env, TASK, run.policy)))


def test_the_cost_of_writing_is_the_mean_opening_of_the_gates_times_its_weight():
    policy = collector().policy
    obs, action = torch.randn(3, 8, 2), torch.zeros(3, 8, dtype=torch.int64)
    first = torch.zeros(3, 8, dtype=torch.bool)
    policy.backbone.update.gate.weight.data.zero_()
    for bias, opened in ((-9.0, 0.0), (0.0, 0.5), (9.0, 1.0)):
        policy.backbone.update.gate.bias.data.fill_(bias)
        *_, losses = policy.unroll_with_losses(obs, action, policy.initial_state(3), first)
        assert float(losses["write"].detach()) == 0.5 * opened


def test_the_cost_of_writing_and_carrying_rise_between_the_two_shares_of_the_run():
    memory = config.MemoryConfig(carry=1.0, ramp_start=0.25, ramp_end=0.75)
    assert [memory.risen(p, 1.0) for p in (0.0, 0.25, 0.5, 0.75, 1.0)] == [0.0, 0.0, 0.5, 1.0, 1.0]
    assert config.MemoryConfig().risen(0.0, None) == 1.0
    learner = learner_of(run_of(memory=memory))
    logged = [learner.update(learner.collect(p), p)["auxiliary/write"] for p in (0.0, 0.5)]
    assert logged[0] == 0 < logged[1]
    assert not bool(learner.collect(1.0).first[:, 1:].any())


def test_the_cost_of_writing_and_carrying_rise_with_the_success_of_the_latest_episodes():
    memory = config.MemoryConfig(carry=1.0, ramp="success", ramp_start=0.5, ramp_end=0.75)
    assert [memory.risen(1.0, s) for s in (None, 0.0, 0.5, 0.625, 0.75, 1.0)] == [0.0, 0.0, 0.0, 0.5, 1.0, 1.0]
    learner = learner_of(run_of(memory=memory))
    for success, kept in ((0.0, False), (1.0, True), (0.4, False)):
        ended = torch.full((20,), success, dtype=torch.float64)
        learner.stats.add(Episodes(ended, torch.full((20,), 10**5), ended))  # they fill the window
        rollout = learner.collect(0.5)
        assert bool((rollout.first == rollout.begins)[:, 1:].all()) != kept
        learner.stats.add(Episodes(ended, torch.full((20,), 10**5), ended))
        assert (learner.update(rollout, 0.5)["auxiliary/write"] > 0) == kept


def test_with_the_best_success_nothing_falls_again():
    memory = config.MemoryConfig(carry=1.0, ramp="best_success", ramp_start=0.5, ramp_end=0.75)
    learner = learner_of(run_of(memory=memory))
    risen = [learner.risen(0.0)]
    for success in (0.4, 0.6, 0.0, 1.0, 0.0):
        ended = torch.full((500,), success, dtype=torch.float64)
        learner.stats.add(Episodes(ended, torch.full((500,), 10**5), ended))  # they fill the window
        risen.append(learner.risen(0.0))
    assert risen == pytest.approx([0.0, 0.0, 0.4, 0.4, 1.0, 1.0])


def test_a_ramp_by_success_stays_at_zero_where_no_success_is_reported_and_says_so_once(capsys):
    learner = learner_of(run_of(memory=config.MemoryConfig(carry=1.0, ramp="success", ramp_end=0.75)))
    learner.collect(0.0)
    unknown = torch.full((20,), math.nan, dtype=torch.float64)
    learner.stats = EpisodeStats(100)
    learner.stats.add(Episodes(unknown, torch.full((20,), 100), unknown))
    assert learner.risen(0.9) == learner.risen(1.0) == 0
    assert capsys.readouterr().out.count("memory.ramp=success: env=tmaze reports no success") == 1


@pytest.mark.slow
@pytest.mark.parametrize(
    "option, value",
    [("carry", 0.9), ("ramp_end", 1.0), ("ramp_start", 0.5), ("ramp", "success"), ("ramp", "best_success")],
)
def test_every_option_of_carrying_changes_a_run(option, value):
    usual = {"carry": 0.5, "ramp_end": 0.6}
    weights = []
    for memory in (usual, {**usual, option: value}):
        learner = learner_of(run_of(memory=config.MemoryConfig(**memory)))
        for progress in (0.3, 0.55):
            learner.update(learner.collect(progress), progress)
        weights.append(torch.cat([p.detach().flatten() for p in learner.policy.parameters()]))
    assert not torch.equal(*weights)


REPLACED = {"policy.memory_update": "replace"}


@pytest.mark.parametrize(
    "options, message",
    [
        ({"policy": "lstm", "memory.ramp_start": 0.5}, "memory.ramp_start=0.5: expected at most memory.ramp_end=0"),
        ({"memory.carry": 0.5, "memory.scope": "run"}, "memory.carry=0.5: has no effect with memory.scope=run"),
        ({"memory.carry": 1.5}, "memory.carry=1.5: expected"),
        (
            {"memory.carry": 0.5, "algo": "rate", "data": "some/where-v0"},
            "memory.carry=0.5: algo=rate learns from single",
        ),
        ({"memory.carry": 0.5, "policy": "mlp"}, "memory.carry=0.5: has no effect with policy=mlp"),
        (
            {"policy": "lstm", "memory.carry": 0.5, "memory.ramp": "success"},
            "memory.ramp=success: has no effect with memory.ramp_end=0",
        ),
        (
            {"policy": "lstm", "memory.carry": 0.5, "memory.ramp": "best_success"},
            "memory.ramp=best_success: has no effect with memory.ramp_end=0",
        ),
        (
            {"policy": "lstm", "memory.carry": 0.5, "memory.ramp_start": 1, "memory.ramp_end": 1},
            "memory.ramp_start=1: nothing would rise",
        ),
        ({"policy": "lstm", "memory.ramp_end": 0.5}, "memory.ramp_end=0.5: has no effect, because nothing rises"),
        (
            {**REPLACED, "policy.write_cost": 0.1},
            "policy.write_cost=0.1: has no effect with policy.memory_update=replace",
        ),
        ({"policy.write_cost": 0.1, "policy.memory_tokens": 0}, "policy.write_cost=0.1: has no effect without memory"),
    ],
)
def test_options_that_do_not_fit_are_one_sentence(options, message):
    with pytest.raises(ConfigError, match=message.replace("(", r"\(")):
        make_config(env="tmaze", **options)


def test_a_ramp_without_width_is_a_step():
    memory = config.MemoryConfig(carry=0.5, ramp="success", ramp_start=0.5, ramp_end=0.5)
    assert [memory.risen(0.0, success) for success in (None, 0.0, 0.49, 0.5, 1.0)] == [0, 0, 0, 1, 1]
