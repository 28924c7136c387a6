"""The columns of a rollout against a slow recomputation from the same steps."""

import dataclasses
import math
import random

import gymnasium
import numpy as np
import pytest
import torch

from rmt_rl import config
from rmt_rl.common.errors import ConfigError, RunError
from rmt_rl.common.state import map_obs, map_state, select_rows
from rmt_rl.envs.episodic import EpisodicEnv
from rmt_rl.envs.registry import make_from_config
from rmt_rl.policies.actor_critic import ActorCritic
from rmt_rl.policies.spec import UnregisteredEnv, make_spec
from rmt_rl.rollouts.collector import Collector, next_noise

ROWS, STEPS = 6, 24
POLICIES = {
    "rmt": config.RMTConfig(width=16, heads=2, segment=4, memory_tokens=2),
    "lstm": config.LSTMConfig(width=16),
    "gru": config.GRUConfig(width=16),
    "mlp": config.MLPConfig(width=16, previous_action=True),
}
MIXED = config.TMazeConfig(length=6, min_length=1)
TRUNCATING = config.TMazeConfig(length=3, min_length=1, end_at_turn=True)

every_policy = pytest.mark.parametrize("policy_name", POLICIES)


def record(env):
    """Make `env.step` append everything that it returns to the list that is returned here."""
    steps, step = [], env.step

    def recorded(action):
        steps.append(step(action))
        return steps[-1]

    env.step = recorded
    return steps


def make_policy(env, env_config, policy_config):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        policy = ActorCritic(make_spec(env, env_config, policy_config))
        for parameter in policy.parameters():  # heads start so small that a wrong memory would hardly show
            parameter.data += 0.3 * torch.randn_like(parameter)
    return policy


def make_collector(policy_name="rmt", task=TRUNCATING, rows=ROWS):
    """A collector and the list of what its environment returns."""
    env = make_from_config(task, rows)
    steps = record(env)
    policy = make_policy(env, task, POLICIES[policy_name])
    return Collector(env, policy, 3, torch.Generator().manual_seed(7)), steps


def tensors(state):
    found = []
    map_state(lambda x: found.append(x) or x, state)
    return found


def memories(policy, rollout):
    """The state after every step of the rollout, computed by `unroll` one step at a time."""
    state, after = rollout.state, []
    for t in range(rollout.action.shape[1]):
        here = slice(t, t + 1)
        obs = map_obs(lambda x, here=here: x[:, here], rollout.obs)
        _, _, state = policy.unroll(obs, rollout.action[:, here], state, rollout.first[:, here])
        after.append(state)
    return after


# ----------------------------------------------------------------------------------------------------------- columns


def test_columns_are_what_the_environment_returned():
    collector, steps = make_collector()
    begin = collector.obs
    rollout, _ = collector.collect(STEPS)
    for t, (_, reward, terminated, truncated, _) in enumerate(steps):
        assert torch.equal(rollout.obs[:, t], begin if t == 0 else steps[t - 1][0])
        assert torch.equal(rollout.reward[:, t], reward.float())
        assert torch.equal(rollout.terminated[:, t], terminated)
        assert torch.equal(rollout.truncated[:, t], truncated)
    assert rollout.reward.dtype == rollout.value.dtype == rollout.next_value.dtype == torch.float32
    assert len(steps) == STEPS
    assert bool(rollout.terminated.any())
    assert bool(rollout.truncated.any())


def test_first_is_true_at_the_very_start_and_after_every_end():
    collector, _ = make_collector()
    one, _ = collector.collect(STEPS)
    two, _ = collector.collect(STEPS)
    assert bool(one.first[:, 0].all())
    ended = torch.cat([one.terminated | one.truncated, two.terminated | two.truncated], dim=1)
    first = torch.cat([one.first, two.first], dim=1)
    assert torch.equal(first[:, 1:], ended[:, :-1])


@every_policy
def test_the_memory_between_rollouts_holds_no_gradient(policy_name):
    collector, _ = make_collector(policy_name)
    assert not any(x.requires_grad for x in tensors(collector.state))
    collector.collect(2)
    assert not any(x.requires_grad for x in tensors(collector.state))


def test_observations_of_a_dict_space_are_stacked_entry_by_entry():
    task = config.MiniGridMemoryConfig()
    env = make_from_config(task, 2)
    collector = Collector(env, make_policy(env, task, POLICIES["lstm"]), 0, torch.Generator().manual_seed(0))
    begin = collector.obs
    rollout, _ = collector.collect(3)
    assert rollout.obs.keys() == begin.keys()
    for key, value in begin.items():
        assert rollout.obs[key].shape == (2, 3, *value.shape[1:])
        assert torch.equal(rollout.obs[key][:, 0], value)


# -------------------------------------------------------------------------------------------------------- next_value


@pytest.mark.slow
@every_policy
def test_next_value_at_truncation_is_that_of_the_final_observation_under_the_memory_that_saw_the_episode(policy_name):
    collector, steps = make_collector(policy_name)
    collector.collect(5)  # so that the state at the start of the rollout matters too
    steps.clear()
    rollout, _ = collector.collect(STEPS)
    checked, other_memory, other_obs = 0, [], []
    for t, state in enumerate(memories(collector.policy, rollout)):
        truncated = rollout.truncated[:, t]
        final_obs = steps[t][4]["final_obs"]
        expected = collector.policy.value(final_obs, state)
        torch.testing.assert_close(rollout.next_value[truncated, t], expected[truncated], rtol=0, atol=1e-5)
        checked += int(truncated.sum())
        fresh = collector.policy.value(final_obs, collector.policy.initial_state(ROWS))
        other_memory.append((fresh - expected)[truncated])
        other_obs.append((collector.policy.value(steps[t][0], state) - expected)[truncated])
    assert checked >= 5
    # the claim is not empty: with another memory, or the next episode's observation, the values would differ
    if policy_name != "mlp":
        assert float(torch.cat(other_memory).abs().min()) > 1e-4
    assert float(torch.cat(other_obs).abs().min()) > 1e-4


def test_next_value_inside_an_episode_is_the_next_steps_value():
    collector, _ = make_collector()
    rollout, _ = collector.collect(STEPS)
    inside = ~(rollout.terminated | rollout.truncated)[:, :-1]
    assert bool(inside.any())
    assert torch.equal(rollout.next_value[:, :-1][inside], rollout.value[:, 1:][inside])


@every_policy
def test_next_value_at_the_end_of_the_rollout_is_the_first_value_of_the_next_one(policy_name):
    collector, _ = make_collector(policy_name)
    found = 0
    before, _ = collector.collect(5)
    for _ in range(8):
        rollout, _ = collector.collect(5)
        continues = ~(before.terminated | before.truncated)[:, -1]
        torch.testing.assert_close(before.next_value[continues, -1], rollout.value[continues, 0], rtol=0, atol=1e-6)
        found += int(continues.sum())
        before = rollout
    assert found > 8


def test_next_value_where_an_episode_terminated_changes_no_advantage():
    from rmt_rl.algos.returns import gae

    collector, _ = make_collector()
    rollout, _ = collector.collect(STEPS)

    def advantage(next_value):
        values = rollout.reward, rollout.value, next_value, rollout.terminated, rollout.truncated
        return gae(*values, 0.99, 0.95)

    assert bool(rollout.next_value.isfinite().all())
    other = torch.where(rollout.terminated, 1e6, rollout.next_value)
    assert torch.equal(advantage(other), advantage(rollout.next_value))


# -------------------------------------------------------------------------------------------------------------- state


@every_policy
def test_two_short_rollouts_equal_one_long_one_bit_for_bit(policy_name):
    short, _ = make_collector(policy_name)
    long, _ = make_collector(policy_name)
    parts, episodes = zip(*(short.collect(5) for _ in range(2)), strict=True)
    whole, all_episodes = long.collect(10)
    for name in ("obs", "action", "log_prob", "value", "reward", "terminated", "truncated", "first"):
        assert torch.equal(torch.cat([getattr(part, name) for part in parts], dim=1), getattr(whole, name)), name
    for name in ("returns", "lengths", "success"):
        assert torch.equal(torch.cat([getattr(e, name) for e in episodes]), getattr(all_episodes, name)), name
    assert all(torch.equal(a, b) for a, b in zip(tensors(short.state), tensors(long.state), strict=True))
    next_value = torch.cat([part.next_value for part in parts], dim=1)
    used = ~whole.terminated  # not used where an episode terminated
    torch.testing.assert_close(next_value[used], whole.next_value[used], rtol=0, atol=1e-6)


@every_policy
def test_the_state_of_a_rollout_is_the_one_before_its_first_step(policy_name):
    collector, _ = make_collector(policy_name)
    collector.collect(7)
    before = collector.state
    rollout, _ = collector.collect(6)
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(tensors(rollout.state), tensors(before), strict=True))
    after = memories(collector.policy, rollout)[-1]
    for ours, theirs in zip(tensors(after), tensors(collector.state), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)


def test_one_row_of_a_rollout_computed_alone_gives_the_same_values():
    collector, _ = make_collector(task=MIXED)
    collector.collect(7)
    rollout, _ = collector.collect(9)
    with torch.no_grad():
        for row in range(ROWS):
            one = torch.tensor([row])
            columns = rollout.obs[one], rollout.action[one], select_rows(rollout.state, one), rollout.first[one]
            _, value, _ = collector.policy.unroll(*columns)
            torch.testing.assert_close(value, rollout.value[one], rtol=0, atol=1e-5)


def test_nothing_in_a_rollout_carries_gradient():
    collector, _ = make_collector()
    for _ in range(2):
        rollout, _ = collector.collect(4)
        values = [getattr(rollout, f.name) for f in dataclasses.fields(rollout) if f.name not in ("state", "nonfinite")]
        assert not any(x.requires_grad for x in [*values, *tensors(rollout.state)])


# ----------------------------------------------------------------------------------------------------------- episodes


@pytest.mark.slow
@pytest.mark.parametrize("task", [MIXED, TRUNCATING])
def test_episodes_are_counted_as_a_simple_loop_counts_them(task):
    collector, steps = make_collector(task=task)
    parts = [collector.collect(n)[1] for n in (1, 7, 24, 3, 96)]  # episodes continue from one rollout to the next
    returns, lengths, success = [0.0] * ROWS, [0] * ROWS, []
    ended_returns, ended_lengths = [], []
    for _, reward, terminated, truncated, info in steps:
        for row in range(ROWS):
            returns[row] += float(reward[row])
            lengths[row] += 1
            if terminated[row] or truncated[row]:
                ended_returns.append(returns[row])
                ended_lengths.append(lengths[row])
                success.append(float(info["success"][row]))
                returns[row], lengths[row] = 0.0, 0
    assert len(ended_returns) > 20
    assert 0 < sum(success) < len(success)
    assert torch.cat([e.returns for e in parts]).tolist() == pytest.approx(ended_returns, abs=1e-12)
    assert torch.cat([e.lengths for e in parts]).tolist() == ended_lengths
    assert torch.cat([e.success for e in parts]).tolist() == success


def test_no_episode_ended_gives_empty_columns():
    episodes = make_collector(task=config.TMazeConfig(length=100))[0].collect(3)[1]
    assert [len(column) for column in (episodes.returns, episodes.lengths, episodes.success)] == [0, 0, 0]


def test_success_is_nan_where_the_environment_does_not_report_it():
    task = config.GymConfig(id="CartPole-v1", options={"max_episode_steps": 4})
    env = make_from_config(task, 2)
    collector = Collector(env, make_policy(env, task, POLICIES["lstm"]), 0, torch.Generator().manual_seed(0))
    rollout, episodes = collector.collect(8)
    env.close()
    assert bool(rollout.truncated[:, 3].all())
    assert episodes.lengths.tolist() == [4] * 4
    assert episodes.returns.tolist() == [4.0] * 4
    assert bool(episodes.success.isnan().all())


# ------------------------------------------------------------------------------------------------------------- random


def test_collecting_draws_from_no_global_random_stream():
    before = torch.get_rng_state(), np.random.get_state()[1].copy(), random.getstate()
    collector, _ = make_collector()
    collector.collect(STEPS)
    assert torch.equal(torch.get_rng_state(), before[0])
    assert np.array_equal(np.random.get_state()[1], before[1])
    assert random.getstate() == before[2]


def test_a_rollout_is_determined_by_seed_and_generator():
    rollouts = [make_collector()[0].collect(STEPS)[0] for _ in range(2)]
    assert torch.equal(rollouts[0].action, rollouts[1].action)
    env = make_from_config(TRUNCATING, ROWS)
    policy = make_policy(env, TRUNCATING, POLICIES["rmt"])
    other = Collector(env, policy, 3, torch.Generator().manual_seed(8)).collect(STEPS)[0]
    assert not torch.equal(other.action, rollouts[0].action)


@pytest.mark.parametrize("policy_name", ["rmt", "mlp"])
def test_a_restored_collector_gives_the_next_rollout_bit_for_bit(policy_name):
    whole, begun, resumed = (make_collector(policy_name)[0] for _ in range(3))
    whole.collect(7)
    begun.collect(7)
    resumed.collect(2)  # is somewhere else
    resumed.load_state_dict(begun.state_dict())
    (expected, ended), (found, also_ended) = whole.collect(9), resumed.collect(9)
    assert resumed.steps == whole.steps and len(ended.returns) > 3
    for name in ("obs", "action", "log_prob", "value", "next_value", "reward", "terminated", "first", "begins"):
        assert torch.equal(getattr(found, name), getattr(expected, name)), name
    assert torch.equal(also_ended.returns, ended.returns) and torch.equal(also_ended.lengths, ended.lengths)
    assert all(torch.equal(a, b) for a, b in zip(tensors(found.state), tensors(expected.state), strict=True))


# ------------------------------------------------------------------------------------------- noise of continuous actions


class Push(EpisodicEnv):
    """An action moves a point; episodes of 50 steps."""

    def __init__(self, rows):
        box = gymnasium.spaces.Box
        super().__init__(rows, "cpu", box(-1e4, 1e4, (1,), np.float32), box(-1, 1, (1,), np.float32))

    def _read(self, action):
        return action.clamp(-1, 1)[:, 0].double()

    def _begin(self, key):
        return {"x": torch.zeros(len(key), dtype=torch.float64)}

    def _advance(self, state, action):
        return {"x": state["x"] + action}, -state["x"].abs(), state["t"] == 49, {}

    def _observe(self, state):
        return state["x"].float()[:, None]


def collector_of_noise(correlation, rows=8):
    """Its actions are the noise itself: mean 0 and deviation 1."""
    env = Push(rows)
    policy = make_policy(env, UnregisteredEnv("push", {}), POLICIES["lstm"])
    for parameter in policy.head.parameters():
        parameter.data.zero_()
    return Collector(env, policy, 3, torch.Generator().manual_seed(7), noise_correlation=correlation)


def test_the_noise_of_the_next_step_by_hand():
    noise, first = torch.tensor([[1.0], [2.0], [-3.0]]), torch.tensor([False, True, False])
    new = torch.empty_like(noise).normal_(generator=torch.Generator().manual_seed(5))
    expected = torch.stack([0.6 + 0.8 * new[0], new[1], -1.8 + 0.8 * new[2]])
    torch.testing.assert_close(next_noise(noise, first, 0.6, torch.Generator().manual_seed(5)), expected)


@pytest.mark.slow
@pytest.mark.parametrize("correlation", [0.0, 0.9])
def test_noise_is_correlated_within_an_episode_and_new_in_the_next(correlation):
    rollout, _ = collector_of_noise(correlation, rows=32).collect(500)
    now, before, first = rollout.action[:, 1:, 0], rollout.action[:, :-1, 0], rollout.first[:, 1:]
    assert float((now * before)[~first].mean()) == pytest.approx(correlation, abs=0.06)
    assert float((now * before)[first].mean()) == pytest.approx(0.0, abs=0.2)
    assert float(now.std()) == pytest.approx(1.0, abs=0.05) and float(now.mean()) == pytest.approx(0.0, abs=0.1)


def test_a_saved_collector_continues_with_the_same_noise():
    whole, begun = (collector_of_noise(0.9) for _ in range(2))
    whole.collect(7)
    begun.collect(7)
    resumed = collector_of_noise(0.9)
    resumed.load_state_dict(begun.state_dict())
    assert torch.equal(resumed.collect(9)[0].action, whole.collect(9)[0].action)


@pytest.mark.parametrize("number", [math.nan, 1e30, 20.5, -20.5])
def test_noise_that_no_run_writes_is_rejected(number):
    collector = collector_of_noise(0.9)
    collector.collect(3)
    state = collector.state_dict()
    with pytest.raises(ValueError, match=r"^noise (is not finite|has values out of range)"):
        collector.load_state_dict({**state, "noise": torch.full_like(state["noise"], number)})


def test_correlated_noise_for_choices_is_rejected():
    env = make_from_config(TRUNCATING, 2)
    policy = make_policy(env, TRUNCATING, POLICIES["lstm"])
    with pytest.raises(ConfigError, match=r"algo\.noise_correlation=0\.5: applies to continuous actions"):
        Collector(env, policy, noise_correlation=0.5)


@pytest.mark.parametrize(
    "what, spoil",
    [
        ("observation", lambda env, action: env._shown.mul_(2)),
        ("action", lambda env, action: action.zero_()),
    ],
)
def test_an_environment_that_changes_what_a_rollout_keeps_is_one_sentence(what, spoil) -> None:
    collector, _ = make_collector(task=MIXED)
    env, step = collector.env, collector.env.step
    env._shown = collector.obs

    def in_place(action):
        spoil(env, action)
        return step(action)

    env.step = in_place
    with pytest.raises(
        RunError, match=rf"^the {what} of step 0 of a rollout was changed in place, .*T-maze.*envs\.check"
    ):
        collector.collect(3)
