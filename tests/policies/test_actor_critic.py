"""The policy around its backbone: any number of rows, episode starts, the previous action, wrong inputs."""

import dataclasses

import numpy as np
import pytest
import torch
from gymnasium import spaces

from rmt_rl import config
from rmt_rl.common.state import map_obs, map_state, select_rows
from rmt_rl.envs.actions import MixedActions
from rmt_rl.envs.registry import make_from_config
from rmt_rl.policies.actor_critic import ActorCritic
from rmt_rl.policies.spec import PolicySpec, make_spec

POLICIES = {
    "rmt": config.RMTConfig(width=16, heads=2, segment=4, memory_tokens=2),
    "rmt-gate": config.RMTConfig(width=16, heads=1, segment=3, memory_tokens=3, memory_update="gate"),
    "lstm": config.LSTMConfig(width=16),
    "gru": config.GRUConfig(width=16, layers=2),
    "mlp": config.MLPConfig(width=16),
}
OBSERVATIONS = spaces.Box(-np.inf, np.inf, (3,), np.float32)
ACTIONS = {
    "Discrete": spaces.Discrete(4),
    "MultiDiscrete": spaces.MultiDiscrete([[2, 3], [4, 5]]),
    "Box": spaces.Box(-1, 1, (2, 2), np.float32),
    "choices and reals": MixedActions([2, 3], [-1, -1], [1, 1]),
}


def inside_bounds(action, action_name):
    """`act` clips real numbers to the bounds of their space."""
    if action_name == "choices and reals":
        return torch.cat([action[..., :2], action[..., 2:].clamp(-1, 1)], dim=-1)
    return action.clamp(-1, 1) if action_name == "Box" else action


every_policy = pytest.mark.parametrize("policy_name", POLICIES)
every_action = pytest.mark.parametrize("action_name", ACTIONS)
with_memory = pytest.mark.parametrize("policy_name", [name for name in POLICIES if name != "mlp"])


def make_policy(policy_name, action_name="Discrete", observations=OBSERVATIONS, **changes):
    options = dataclasses.replace(POLICIES[policy_name], **changes)
    spec = PolicySpec(options, observations, ACTIONS[action_name], config.TMazeConfig())
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        policy = ActorCritic(spec)
        for parameter in policy.parameters():  # heads start so small that a wrong memory would hardly show
            parameter.data += 0.3 * torch.randn_like(parameter)
    return policy


def generator_of(seed=0):
    return torch.Generator().manual_seed(seed)


def observations(rows, steps, seed=0):
    return torch.randn(rows, steps, 3, generator=generator_of(seed))


def resets(rows, steps, share=0.2):
    first = torch.rand(rows, steps, generator=generator_of(1)) < share
    first[:, 0] = True
    return first


def tensors(state):
    found = []
    map_state(lambda x: found.append(x) or x, state)
    return found


def explore(policy, obs, first, state=None, seed=0):
    """Actions, log-probabilities, values [B, T] and the last state."""
    state = policy.initial_state(len(obs)) if state is None else state
    generator, columns = generator_of(seed), []
    for t in range(obs.shape[1]):
        action, log_prob, value, state = policy.explore(obs[:, t], state, first[:, t], generator)
        columns.append((action, log_prob, value))
    return *(torch.stack(column, dim=1) for column in zip(*columns, strict=True)), state


def middle(policy, rows=6, steps=7):
    """A state in which every row is at another step of its episode."""
    return explore(policy, observations(rows, steps, seed=9), resets(rows, steps))[3]


def act_greedily(policy, obs, first):
    state, actions = policy.initial_state(len(obs)), []
    for t in range(obs.shape[1]):
        action, state = policy.act(obs[:, t], state, first[:, t], deterministic=True)
        actions.append(action)
    return torch.stack(actions, dim=1)


# ------------------------------------------------------------------------------------------------------ rows are free


@every_policy
def test_a_row_acts_alone_as_it_acts_among_64(policy_name):
    policy = make_policy(policy_name)
    obs, first = observations(64, 20), resets(64, 20)
    together = act_greedily(policy, obs, first)
    assert len(together.unique()) > 1
    for row in (0, 17, 63):
        one = slice(row, row + 1)
        assert torch.equal(act_greedily(policy, obs[one], first[one]), together[one])


@pytest.mark.thorough
@every_policy
@every_action
def test_rows_of_a_state_can_be_taken_out_reordered_and_joined(policy_name, action_name):
    policy = make_policy(policy_name, action_name)
    state = middle(policy)
    obs, first = observations(6, 9), resets(6, 9)
    first[:, 0] = False
    action = explore(policy, obs, first, state)[0]

    def values(rows, state):
        with torch.no_grad():
            return policy.unroll(obs[rows], action[rows], state, first[rows])[1]

    everything = values(torch.arange(6), state)
    rows = torch.tensor([4, 0, 2])
    torch.testing.assert_close(values(rows, select_rows(state, rows)), everything[rows], rtol=1e-4, atol=1e-5)
    parts = [select_rows(state, torch.tensor([row])) for row in (5, 1)]
    joined = map_state(lambda *x: torch.cat(x), *parts)
    torch.testing.assert_close(values(torch.tensor([5, 1]), joined), everything[[5, 1]], rtol=1e-4, atol=1e-5)


@every_policy
@every_action
def test_every_tensor_of_a_state_has_the_rows_on_axis_0(policy_name, action_name):
    policy = make_policy(policy_name, action_name)
    for state in (policy.initial_state(5), middle(policy, rows=5)):
        assert all(len(x) == 5 for x in tensors(state))


# ---------------------------------------------------------------------------------------------------- episodes begin


@every_policy
def test_the_state_has_no_influence_where_an_episode_begins(policy_name):
    policy = make_policy(policy_name, previous_action=True)
    obs, first = observations(6, 5), resets(6, 5)
    old, new = middle(policy), policy.initial_state(6)
    poisoned = map_state(lambda x: torch.full_like(x, torch.nan) if x.is_floating_point() else x, old)
    expected = explore(policy, obs, first, new)
    for state in (old, poisoned):
        found = explore(policy, obs, first, state)
        assert all(torch.equal(a, b) for a, b in zip(found[:3], expected[:3], strict=True))
        with torch.no_grad():
            after = policy.unroll(obs, expected[0], state, first)
            fresh = policy.unroll(obs, expected[0], new, first)
        assert torch.equal(after[0], fresh[0])
        assert torch.equal(after[1], fresh[1])


@with_memory
def test_where_no_episode_begins_the_state_matters(policy_name):
    policy = make_policy(policy_name, previous_action=False)
    obs, first = observations(6, 1), torch.zeros(6, 1, dtype=torch.bool)
    old = middle(policy)
    others = select_rows(old, torch.arange(6).roll(1))
    difference = explore(policy, obs, first, old)[2] - explore(policy, obs, first, others)[2]
    assert float(difference.abs().min()) > 1e-4


# ------------------------------------------------------------------------------------------------ the previous action


def another(action):
    if action.shape[-1:] == (4,):  # two choices and two real numbers
        return torch.cat([(action[..., :2] + 1) % 2, 1 - action[..., 2:].clamp(-1, 1)], dim=-1)
    return 1 - action if action.is_floating_point() else (action + 1) % 2


def with_another_action(state):
    return dataclasses.replace(state, action=another(state.action))


@pytest.mark.thorough
@every_policy
@every_action
@pytest.mark.parametrize("asked", [True, False])
def test_the_previous_action_is_seen_if_asked_for_and_not_where_an_episode_begins(policy_name, action_name, asked):
    policy = make_policy(policy_name, action_name, previous_action=asked)
    obs, state = observations(6, 1)[:, 0], middle(policy)
    first = torch.tensor([True, False] * 3)
    _, _, value, _ = policy.explore(obs, state, first, generator_of())
    _, _, other, _ = policy.explore(obs, with_another_action(state), first, generator_of())
    assert torch.equal(value[first], other[first])
    assert bool(((value - other)[~first].abs() > 1e-5).all()) == asked
    with torch.no_grad():
        actions = torch.zeros_like(state.action)[:, None]
        columns = [
            policy.unroll(obs[:, None], actions, s, first[:, None])[1] for s in (state, with_another_action(state))
        ]
    assert torch.equal(columns[0][first], columns[1][first])
    assert bool(((columns[0] - columns[1])[~first].abs() > 1e-5).all()) == asked


@every_action
def test_an_action_inside_an_unrolled_row_is_seen_one_step_later(action_name):
    policy = make_policy("rmt", action_name)
    obs, first = observations(1, 6), torch.zeros(1, 6, dtype=torch.bool)
    first[:, 0] = True
    action = explore(policy, obs, first)[0]
    changed = action.clone()
    changed[:, 2] = another(changed[:, 2])
    with torch.no_grad():
        value, other = (policy.unroll(obs, a, policy.initial_state(1), first)[1][0] for a in (action, changed))
    assert torch.equal(value[:3], other[:3])
    assert float((value - other)[3].abs()) > 1e-5


@every_action
def test_the_state_holds_the_action_that_was_just_taken(action_name):
    policy = make_policy("lstm", action_name)
    obs, first = observations(4, 3), resets(4, 3)
    action, _, _, state = explore(policy, obs, first)
    assert torch.equal(state.action, action[:, -1])
    assert torch.equal(policy.unroll(obs, action, policy.initial_state(4), first)[2].action, action[:, -1])
    taken, state = policy.act(obs[:, 0], state, first[:, 0], deterministic=True)
    assert torch.equal(state.action, taken)


def test_the_start_of_an_episode_is_encoded_differently_from_every_action():
    policy = make_policy("mlp", previous_action=True)
    obs, state = observations(1, 1)[:, 0].expand(4, 3), policy.initial_state(4)
    state = dataclasses.replace(state, action=torch.arange(4))
    values = [policy.explore(obs, state, torch.full((4,), first), generator_of())[2] for first in (True, False)]
    assert len(torch.cat(values).unique()) == 5


# --------------------------------------------------------------------------------------------------------- step and unroll


@every_policy
@every_action
def test_unroll_gives_the_log_probabilities_and_values_of_step(policy_name, action_name):
    policy = make_policy(policy_name, action_name).double()  # so large random weights magnify the rounding of float32
    obs, first = observations(5, 11).double(), resets(5, 11)
    first[::2, 0] = False
    state = middle(policy, rows=5)
    action, log_prob, value, after = explore(policy, obs, first, state)
    parameters, unrolled, final = policy.unroll(obs, action, state, first)
    torch.testing.assert_close(policy.head.log_prob(parameters, action), log_prob, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(unrolled, value, rtol=1e-5, atol=1e-5)
    for ours, theirs in zip(tensors(final), tensors(after), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


def test_step_and_unroll_take_a_dict_whose_first_entry_has_no_axes():
    space = spaces.Dict({"direction": spaces.Discrete(4), "image": spaces.Box(0, 255, (3, 3, 3), np.uint8)})
    policy = make_policy("rmt", observations=space)
    obs = {
        "direction": torch.randint(4, (2, 6), generator=generator_of()),
        "image": torch.randint(11, (2, 6, 3, 3, 3), generator=generator_of()).byte(),
    }
    first, state = resets(2, 6), policy.initial_state(2)
    values, actions = [], []
    for t in range(6):
        here = map_obs(lambda x, t=t: x[:, t], obs)
        action, _, value, state = policy.explore(here, state, first[:, t], generator_of(t))
        values.append(value)
        actions.append(action)
    unrolled = policy.unroll(obs, torch.stack(actions, dim=1), policy.initial_state(2), first)[1]
    torch.testing.assert_close(unrolled, torch.stack(values, dim=1), rtol=1e-5, atol=1e-5)


@every_policy
def test_value_is_that_of_exploring_and_only_reads_the_state(policy_name):
    policy = make_policy(policy_name)
    obs, state = observations(6, 1)[:, 0], middle(policy)
    before = map_state(torch.clone, state)
    inside = torch.zeros(6, dtype=torch.bool)
    assert torch.equal(policy.value(obs, state), policy.explore(obs, state, inside, generator_of())[2])
    assert all(torch.equal(a, b) for a, b in zip(tensors(state), tensors(before), strict=True))


# ------------------------------------------------------------------------------------------------------------ acting


@every_action
def test_acting_draws_the_actions_that_exploring_draws(action_name):
    policy = make_policy("gru", action_name)
    obs, first, state = observations(6, 1)[:, 0], torch.ones(6, dtype=torch.bool), policy.initial_state(6)
    before = torch.get_rng_state()
    action, _ = policy.act(obs, state, first, generator=generator_of())
    drawn = policy.explore(obs, state, first, generator_of())[0]
    assert torch.equal(action, inside_bounds(drawn, action_name))
    assert torch.equal(torch.get_rng_state(), before), "with a generator the global stream is left alone"


def test_without_a_generator_actions_are_drawn_from_the_global_stream():
    policy = make_policy("gru")
    obs, first, state = observations(64, 1)[:, 0], torch.ones(64, dtype=torch.bool), policy.initial_state(64)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(5)
        action, _ = policy.act(obs, state, first)
    assert torch.equal(action, policy.act(obs, state, first, generator=generator_of(5))[0])


@every_action
def test_the_deterministic_action_is_the_likeliest_and_draws_nothing(action_name):
    policy = make_policy("lstm", action_name)
    obs, first, state = observations(6, 1)[:, 0], torch.ones(6, dtype=torch.bool), policy.initial_state(6)
    generator, before = generator_of(), torch.get_rng_state()
    action, _ = policy.act(obs, state, first, deterministic=True, generator=generator)
    with torch.no_grad():
        parameters = policy.unroll(obs[:, None], action[:, None], state, first[:, None])[0][:, 0]
    likeliest = inside_bounds(policy.head.mode(parameters), action_name)
    assert torch.equal(action, likeliest) or action.is_floating_point()
    torch.testing.assert_close(action, likeliest, rtol=1e-4, atol=1e-5)
    assert torch.equal(generator.get_state(), generator_of().get_state())
    assert torch.equal(torch.get_rng_state(), before)


@every_policy
def test_acting_builds_no_graph(policy_name):
    policy = make_policy(policy_name)
    state = policy.initial_state(3)
    for t in range(9):
        action, state = policy.act(observations(3, 9)[:, t], state, torch.full((3,), t == 0))
    assert not any(x.requires_grad for x in [action, *tensors(state)])


GOOD = {"obs": torch.zeros(3, 3), "first": torch.ones(3, dtype=torch.bool)}


@every_policy
@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (
            {"first": torch.ones(1, dtype=torch.bool)},
            ValueError,
            r"first has shape \[1\]; expected \[3\], for the 3 rows",
        ),
        ({"first": torch.ones(3)}, TypeError, r"first is of type torch.float32; expected torch.bool"),
        ({"first": True}, ValueError, "first is one value, but the state has 3 rows; expected 3 values"),
        (
            {"obs": torch.zeros(1, 3)},
            ValueError,
            r"obs has shape \[1, 3\]; expected \[3, 3\], for the 3 rows of the state",
        ),
        ({"obs": torch.zeros(3, 4)}, ValueError, r"obs has shape \[3, 4\]; expected \[3, 3\]"),
        ({"obs": np.zeros((3, 3))}, TypeError, "obs is a ndarray; expected a torch tensor"),
        (
            {"obs": {"image": torch.zeros(3, 3)}},
            ValueError,
            r"obs is \['image'\]; expected one tensor: rmt_rl.make_task",
        ),
        ({"state": None}, TypeError, r"state is a NoneType; expected the result of initial_state\(batch\)"),
        ({"state": 1}, ValueError, r"first has shape \[3\]; expected \[1\], for the 1 rows of the state"),
    ],
)
def test_wrong_shapes_and_types_raise(policy_name, change, error, message):
    policy = make_policy(policy_name)
    given = {**GOOD, "state": policy.initial_state(3), **change}
    if given["state"] == 1:
        given["state"] = policy.initial_state(1)
    with pytest.raises(error, match=message):
        policy.act(**given, deterministic=True)


def test_a_key_that_is_missing_is_named():
    space = spaces.Dict({"a": OBSERVATIONS, "b": OBSERVATIONS})
    policy = make_policy("lstm", observations=space)
    with pytest.raises(ValueError, match=r"obs is \['a'\]; expected \['a', 'b'\]"):
        policy.act({"a": torch.zeros(2, 3)}, policy.initial_state(2), torch.ones(2, dtype=torch.bool))
    with pytest.raises(ValueError, match=r"obs is one tensor; expected \['a', 'b'\]"):
        policy.act(torch.zeros(2, 3), policy.initial_state(2), torch.ones(2, dtype=torch.bool))


# --------------------------------------------------------------------------------------------------------------- masks


@every_policy
def test_unroll_equals_step_with_masks(policy_name):
    space = spaces.Dict(seen=OBSERVATIONS, action_mask=spaces.MultiBinary(14))
    policy = make_policy(policy_name, "MultiDiscrete", space).double().eval()
    masks = (torch.rand(3, 12, 14, generator=generator_of(3)) < 0.5).to(torch.int8)
    masks[..., [0, 2, 5, 9]] = 1  # the first choice of every element
    obs, first = {"seen": observations(3, 12).double(), "action_mask": masks}, resets(3, 12)
    state, columns = policy.initial_state(3), []
    for t in range(12):
        now = {key: x[:, t] for key, x in obs.items()}
        parameters, value, _ = policy.step(now, state, first[:, t])
        action, log_prob, _, state = policy.explore(now, state, first[:, t], generator_of(t))
        columns.append((parameters, value, action, log_prob))
    parameters, value, action, log_prob = (torch.stack(column, dim=1) for column in zip(*columns, strict=True))
    along, values, _ = policy.unroll(obs, action, policy.initial_state(3), first)
    torch.testing.assert_close(along, parameters, rtol=0, atol=1e-10)
    torch.testing.assert_close(values, value, rtol=0, atol=1e-10)
    torch.testing.assert_close(policy.head.log_prob(along, action), log_prob, rtol=0, atol=1e-10)
    assert bool((along == torch.finfo(torch.float64).min).eq(masks == 0).all())


def test_values_start_near_zero():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        env = make_from_config(config.TMazeConfig(), 1)
        head = ActorCritic(make_spec(env, config.TMazeConfig(), config.MLPConfig(width=1024))).value_head
    assert float(head.weight.detach().std()) == pytest.approx(0.01, rel=0.1)
    assert float(head.bias.detach()) == 0


def test_a_backbone_that_changes_buffers_gets_the_inputs_that_it_learned_from(monkeypatch):
    policy, learned, given = make_policy("gru", critic="separate"), [], []
    obs, first = observations(3, 4), resets(3, 4)
    state = policy.initial_state(3, critic=True)
    action = torch.tensor([[0, 1, 2, 3]] * 3)
    unroll = type(policy.backbone).unroll
    monkeypatch.setattr(
        type(policy.backbone),
        "unroll",
        lambda self, *inputs: (learned.append((self, *inputs)), unroll(self, *inputs))[1],
    )
    monkeypatch.setattr(
        type(policy.backbone), "between_updates", lambda self, *inputs: given.append((self, *inputs)), raising=False
    )
    policy.unroll(obs, action, state, first)
    generator = generator_of()
    policy.between_updates(obs, action, state, first, generator)
    assert [one[0] for one in given] == [policy.backbone, policy.critic.backbone] == [one[0] for one in learned]
    for (_, x, memory, starts), (_, x_given, memory_given, starts_given, noise) in zip(learned, given, strict=True):
        assert torch.equal(x, x_given) and torch.equal(starts, starts_given) and noise is generator
        assert all(torch.equal(a, b) for a, b in zip(tensors(memory), tensors(memory_given), strict=True))


def test_a_backbone_without_buffers_costs_nothing_between_updates(monkeypatch):
    policy = make_policy("gru")
    monkeypatch.setattr(policy, "embed", None)
    policy.between_updates(observations(3, 4), None, policy.initial_state(3), resets(3, 4), generator_of())
