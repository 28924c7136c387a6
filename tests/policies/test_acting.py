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


@pytest.mark.slow
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


@pytest.mark.thorough
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


def test_a_loop_over_the_rows_of_a_state_ends():
    _, policy = make("gru")
    state = policy.initial_state(4)
    assert [len(row) for row in state] == [1, 1, 1, 1]
    for row in (4, -5):
        with pytest.raises(IndexError):
            state[row]
    with pytest.raises(TypeError):
        state[None]


@pytest.mark.parametrize(
    ("rows", "length"), [(np.int64(-1), 1), (torch.tensor(2), 1), (slice(None, None, -1), 4), ([], 0), ((0, 3), 2)]
)
def test_rows_of_a_state_may_be_given_by_numpy_and_torch(rows, length):
    _, policy = make("rmt")
    assert len(policy.initial_state(4)[rows]) == length


def test_a_dictionary_of_no_state_is_rejected():
    _, policy = make("lstm")
    tree = policy.state_to_dict(policy.initial_state(4))
    rmt = make("rmt")[1]
    wrong = [{}, None, tree | {"extra": 1}, tree | {"memory": None}, tree | {"action": torch.tensor(1)}]
    for other in [*wrong, rmt.state_to_dict(rmt.initial_state(4))]:
        with pytest.raises(ValueError, match="was found; expected"):
            policy.state_from_dict(other)


@pytest.mark.parametrize(("name", "other"), [("gru", "lstm"), ("mlp", "lstm"), ("lstm", "rmt"), ("rmt", "gru")])
def test_a_policy_does_not_act_on_the_state_of_another_one(name, other):
    """gru and mlp would, and forget everything."""
    env, policy = make(name)
    state = make(other)[1].initial_state(4)
    for first in (torch.ones(4, dtype=torch.bool), np.ones(4, bool)):
        with pytest.raises(ValueError, match="state is that of another policy; expected"):
            policy.act(env.reset(seed=0)[0], state, first)


def test_fractions_in_place_of_whole_numbers_are_rejected():
    """A picture that is divided by 255 already would be divided once more."""
    env, policy = make("gru", "minigrid-memory", tile=4)
    obs = {key: x.numpy() for key, x in env.reset(seed=0)[0].items()}
    assert obs["image"].dtype == np.uint8
    with pytest.raises(TypeError, match=r"obs 'image' is of type torch.float32; expected whole numbers"):
        policy.act(obs | {"image": obs["image"] / 255}, policy.initial_state(4), np.ones(4, bool))


def test_an_observation_may_be_flipped_and_have_text_beside_it():
    """As of MiniGrid through gymnasium, whose mission no policy sees."""
    env, policy = make("gru", "minigrid-memory")
    obs = {key: x.numpy() for key, x in env.reset(seed=0)[0].items()}
    state, first = policy.initial_state(4), np.ones(4, bool)
    expected, _ = policy.act(obs, state, first, deterministic=True)
    flipped = {key: x[::-1].copy()[::-1] for key, x in obs.items()} | {"mission": ["go"] * 4}
    assert policy.act(flipped, state, first, deterministic=True)[0].tolist() == expected.tolist()
    alone = {key: x[0] for key, x in obs.items()} | {"mission": "go"}
    assert policy.act(alone, policy.initial_state(1), True, deterministic=True)[0] == expected[0]


def test_a_dictionary_inside_an_observation_is_rejected():
    env, policy = make("gru", "minigrid-memory")
    obs = {key: x.numpy() for key, x in env.reset(seed=0)[0].items()}
    with pytest.raises(
        ValueError, match=r"a dictionary as an entry; expected one array for each of \['direction', 'image'\]"
    ):
        policy.act({"observation": obs}, policy.initial_state(4), np.ones(4, bool))
