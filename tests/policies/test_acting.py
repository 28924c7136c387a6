"""Acting from outside: numpy arrays, single environments, and states that are selected, moved and saved."""

import gymnasium
import numpy as np
import pytest
import torch

import rmt_rl
from rmt_rl.common.state import leaves
from rmt_rl.config.registry import GROUPS

POLICIES = {name: {"width": 16} for name in GROUPS["policy"]} | {"rmt": {"width": 16, "segment": 3, "memory_tokens": 2}}
every_policy = pytest.mark.parametrize("name", POLICIES)


def make(name, env="tmaze", rows=4, **options):
    """An environment and a policy whose actions depend on what it sees and remembers."""
    env = rmt_rl.make_env(env, rows, **options)
    policy = rmt_rl.make_policy(env, name, **POLICIES[name]).eval()
    generator = torch.Generator().manual_seed(0)
    for parameter in policy.parameters():
        parameter.data += 0.3 * torch.randn(parameter.shape, generator=generator)
    return env, policy


def play(policy, env, steps, convert=lambda x: x, back=lambda action: action):
    """Sampled actions along a stream of episodes; `convert` is applied to what `act` gets, `back` to what it returns."""
    obs, _ = env.reset(seed=0)
    first, state, actions = torch.ones(env.num_envs, dtype=torch.bool), policy.initial_state(env.num_envs), []
    generator = torch.Generator().manual_seed(0)
    for _ in range(steps):
        given = {key: convert(x) for key, x in obs.items()} if isinstance(obs, dict) else convert(obs)
        action, state = policy.act(given, state, convert(first), generator=generator)
        actions.append(back(action))
        obs, _, terminated, truncated, _ = env.step(actions[-1])
        first = terminated | truncated
    return torch.stack(actions), state


def same(left, right):
    pairs = zip(leaves(left).values(), leaves(right).values(), strict=True)
    return all(torch.equal(a, b) for a, b in pairs)


@every_policy
@pytest.mark.parametrize(
    "env", [("tmaze", {"length": 4, "min_length": 1}), ("minigrid-memory", {})], ids=["box", "dict"]
)
def test_numpy_arrays_give_the_actions_of_tensors(name, env):
    task, options = env
    batch, policy = make(name, task, **options)
    actions, state = play(policy, batch, 12)
    arrays, after = play(policy, batch, 12, convert=lambda x: x.numpy(), back=torch.from_numpy)
    assert torch.equal(actions, arrays) and same(state, after)
    assert len(actions.unique()) > 1


@every_policy
def test_a_single_environment_gives_the_actions_of_a_batch_of_one(name):
    env, policy = make(name, rows=1, length=4, min_length=1)
    actions, state = play(policy, env, 12)
    alone, after = play(
        policy, env, 12, convert=lambda x: x[0].numpy(), back=lambda action: torch.from_numpy(np.asarray(action))[None]
    )
    assert torch.equal(actions, alone) and same(state, after)


def test_a_policy_plays_a_gymnasium_environment_directly():
    batch, policy = make("lstm", "gym", rows=1, id="CartPole-v1")
    batch.close()
    env = gymnasium.make("CartPole-v1")
    obs, _ = env.reset(seed=0)
    state, first = policy.initial_state(1), True
    for _ in range(10):
        action, state = policy.act(obs, state, first, deterministic=True)
        assert env.action_space.contains(action)
        obs, _, terminated, truncated, _ = env.step(action)
        first = terminated or truncated
    env.close()


def test_arrays_of_float64_are_accepted_and_one_first_for_many_rows_is_rejected():
    env, policy = make("gru")
    obs, state = env.reset(seed=0)[0], policy.initial_state(4)
    first = torch.ones(4, dtype=torch.bool)
    expected, _ = policy.act(obs, state, first, deterministic=True)
    action, _ = policy.act(obs.double().numpy(), state, first.numpy(), deterministic=True)
    assert isinstance(action, np.ndarray) and action.tolist() == expected.tolist()
    with pytest.raises(ValueError, match="first is one value, but the state has 4 rows"):
        policy.act(obs.numpy(), state, True)


@every_policy
@pytest.mark.parametrize("rows", [[2, 0], slice(1, 3), torch.tensor([False, True, False, True]), 3, -1], ids=str)
def test_rows_of_a_state_act_as_they_do_in_the_batch(name, rows):
    env, policy = make(name, length=6)
    _, state = play(policy, env, 3)
    obs, first = env.reset(seed=1)[0], torch.zeros(4, dtype=torch.bool)
    index = torch.arange(4)[rows].reshape(-1)
    selected = state[rows]
    assert len(state) == 4 and len(selected) == len(index)
    whole, _ = policy.act(obs, state, first, deterministic=True)
    part, _ = policy.act(obs[index], selected, first[index], deterministic=True)
    assert torch.equal(whole[index], part)
    assert same(state.to("cpu"), state)


@every_policy
def test_a_state_survives_torch_save_with_weights_only(name, tmp_path):
    env, policy = make(name, length=6)
    _, state = play(policy, env, 5)
    torch.save(policy.state_to_dict(state), tmp_path / "state.pt")
    loaded = policy.state_from_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    assert type(loaded) is type(state) and type(loaded.memory) is type(state.memory) and same(loaded, state)


def test_the_state_of_another_policy_is_rejected():
    _, policy = make("lstm")
    other = rmt_rl.make_policy(rmt_rl.make_env("tmaze", 4), "lstm", width=8)
    with pytest.raises(ValueError, match="was found; expected"):
        policy.state_from_dict(other.state_to_dict(other.initial_state(4)))
