"""Every option of every policy, of PPO and of RATE changes something of a small run, or stands here with the reason why not."""

import dataclasses
import types

import numpy as np
import pytest
import torch
from gymnasium import spaces

import rmt_rl
from rmt_rl import config
from rmt_rl.algos.ppo import PPOLearner
from rmt_rl.algos.rate import RATELearner
from rmt_rl.algos.supervised import SupervisedLearner
from rmt_rl.common.state import leaves
from rmt_rl.config.registry import GROUPS
from rmt_rl.config.resolve import make_config
from rmt_rl.envs.registry import make_from_config
from rmt_rl.policies.actor_critic import ActorCritic
from rmt_rl.policies.budget import fit_width
from rmt_rl.policies.spec import PolicySpec, UnregisteredEnv
from rmt_rl.rollouts.dataset import Dataset, Episode

pytestmark = pytest.mark.thorough

STEPS = 14
#: Options of every policy.
COMMON = {
    "params": 40_000,
    "previous_action": False,
    "normalize_observation": True,
    "critic": "separate",
    "critic_only": ("b", {"critic": "separate"}),
    "encoder": "outside",
    "encoder_options": ({"scale": 3.0}, {"encoder": "outside"}),
}


@rmt_rl.register_encoder("outside")
class Outside(torch.nn.Module):
    def __init__(self, space, width, scale=2.0):
        super().__init__()
        self.scale, self.layer = scale, torch.nn.Linear(*space.shape, width)

    def forward(self, obs):
        return self.scale * self.layer(obs)


TRANSFORMER = {
    "width": 24,
    "layers": 3,
    "heads": 4,
    "segment": 5,
    "sharpness": 1.0,
    "glu": True,
    "norm": "scale",
    "dropout": 0.5,
    **COMMON,
}
RECURRENT = {"width": 24, "layers": 2, **COMMON}
STACK = {"width": 24, "layers": 3, **COMMON}
BUCKETS = {**STACK, "heads": 4, "buckets": 6, "slots": 1, "window": 2, "local_heads": 1, "sharpness": 1.0}
#: Another value for every option of every policy; the options in a tuple's second part make it possible.
POLICIES = {
    "rmt": {
        **TRANSFORMER,
        "memory_tokens": 2,
        "memory_update": "gate",
        "write_cost": (0.5, {"memory_update": "hard_gate"}),
        "memory_place": "front",
        "blank_memory": "seen",
        "memory_kind": "slots",
        "memory_size": (2, {"memory_kind": "associative"}),
        "memory_norm": True,
        "write_from": "memory",
        "cache": (3, {"positions": "rotary"}),
        "cache_gradient": (2, {"positions": "rotary", "cache": 3}),
        "positions": "learned",
        "bptt_segments": 1,
        "gating": "gru",
        "null_key_value": True,
        "value_residual": True,
        "token_shift": True,
    },
    "trxl": {**TRANSFORMER, "cache": 3, "cache_gradient": 2},
    "gtrxl": {**TRANSFORMER, "cache": 3, "cache_gradient": 2},
    "window": TRANSFORMER,
    "lstm": RECURRENT,
    "gru": RECURRENT,
    "mlp": {**RECURRENT, "layers": 1, "previous_action": True},
    "mingru": {**STACK, "hard_gates": True},
    "deltanet": {**STACK, "heads": 4, "decay": False, "hard_gates": True},
    "mlstm": {**STACK, "heads": 4},
    "rwkv4": STACK,
    "rwkv7": {**STACK, "heads": 4, "low_rank": 3},
    "ffm": {**STACK, "traces": 7, "contexts": 3},
    "hierarchical": {**STACK, "heads": 4, "window": 3, "sharpness": 1.0, "prediction": 0.0},
    "reformer": {**BUCKETS, "rounds": 1},
    "routing": {**BUCKETS, "commitment": 0.0},
}
#: Other values of options with several, of which each has to differ from all others.
CHOICES = {
    "rmt": {
        "memory_update": ["replace", "gate", "hard_gate", "mrv"],
        "positions": ["learned", "rotary", "none"],
        "gating": ["none", "gru", "rezero"],
        "bptt_segments": [None, 1, 2],
    }
}
#: Options of policies that change no number, and why.
SAME = {
    "replay": "keeps less in memory and computes the same numbers",
    "attention": "chooses a kernel for the same numbers; the other two need CUDA",
}
ALGOS = {
    "ppo": {
        "num_envs": 6,
        "rollout": 5,
        "epochs": 1,
        "minibatches": 1,
        "learning_rate": 1e-2,
        "schedule": "cosine",
        "gamma": 0.5,
        "gae_lambda": 0.5,
        "clip": 0.001,
        "value_coef": 2.0,
        "entropy_coef": 0.5,
        "barrier_coef": 0.5,
        "noise_correlation": 0.5,
        "max_grad_norm": 1e-3,
        "skip_nonfinite": 3,
        "kl_coef": 5.0,
        "advantage_floor": 50.0,
        "normalize_advantage": False,
        "normalize_reward": True,
    },
    "rate": {
        "returns": False,
        "target_return": 0.25,
        "batch": 3,
        "length": 4,
        "cut": "varied",
        "detach_memory": True,
        "learning_rate": 1e-2,
        "weight_decay": 0.5,
        "schedule": "cosine",
        "max_grad_norm": 1e-3,
        "skip_nonfinite": 3,
        "validation": 0.5,
    },
    "supervised": {
        "num_envs": 6,
        "stages": 1,
        "grows": "length",
        "advance": 0.5,
        "learning_rate": 1e-2,
        "weight_decay": 0.5,
        "schedule": "cosine",
        "max_grad_norm": 1e-3,
        "skip_nonfinite": 3,
    },
}


def names_of(options):
    return {field.name for field in dataclasses.fields(options)}


def test_every_option_of_every_policy_and_algorithm_stands_here():
    assert set(POLICIES) == {name for name, entry in GROUPS["policy"].items() if isinstance(entry.target, str)}
    assert set(ALGOS) == {name for name, entry in GROUPS["algo"].items() if isinstance(entry.target, str)}
    for name, options in POLICIES.items():
        assert set(options) | (set(SAME) & names_of(GROUPS["policy"][name].config)) == names_of(
            GROUPS["policy"][name].config
        )
    for name, options in ALGOS.items():
        assert set(options) == names_of(GROUPS["algo"][name].config)


# ------------------------------------------------------------------------------------------------------------- policies


def numbers_of(options, entries=False):
    """Outputs, values, final state and gradients of a policy with fixed inputs, learning with dropout.

    entries: the observation has two, "a" and "b".
    """
    observations = spaces.Box(-np.inf, np.inf, (2,), np.float32)
    if entries:
        observations = spaces.Dict({name: spaces.Box(-np.inf, np.inf, (1,), np.float32) for name in "ab"})
    actions, task = spaces.Discrete(3), UnregisteredEnv("outside", {})
    env = types.SimpleNamespace(
        single_observation_space=observations, single_action_space=actions, action_start=0, own_actions=None
    )
    options = fit_width(env, task, options)
    torch.manual_seed(0)
    policy = ActorCritic(PolicySpec(options, observations, actions, task))
    generator = torch.Generator().manual_seed(1)
    for parameter in policy.parameters():
        parameter.data += 0.2 * torch.randn(parameter.shape, generator=generator)
    obs = torch.randn(2, STEPS, 2, generator=generator)
    obs = {"a": obs[..., :1], "b": obs[..., 1:]} if entries else obs
    action = torch.randint(3, (2, STEPS), generator=generator)
    first = torch.zeros(2, STEPS, dtype=torch.bool)
    first[:, 0] = first[1, 9] = True
    policy.add_observations(obs)
    torch.manual_seed(2)
    logits, value, state, losses = policy.unroll_with_losses(obs, action, policy.initial_state(2, critic=True), first)
    parameters = list(policy.parameters())
    loss = logits.sin().sum() + value.sum() + sum(losses.values())
    gradients = torch.autograd.grad(loss, parameters, allow_unused=True, materialize_grads=True)
    return [x.detach() for x in (logits, value, *leaves(state).values(), *gradients)]


def same(left, right):
    return len(left) == len(right) and all(
        a.shape == b.shape and torch.equal(a, b) for a, b in zip(left, right, strict=True)
    )


def base_of(name, **options):
    """Small options, in which a rollout has several segments."""
    kind = GROUPS["policy"][name].config
    small = {"width": 16, "heads": 2, "segment": 4, "cache": 4, "cache_gradient": 0}
    small = {key: value for key, value in small.items() if key in names_of(kind) and (key != "cache" or name != "rmt")}
    found = kind(**{**small, **options})
    assert not list(found.problems())
    return found


@pytest.mark.parametrize("name, option", [(name, option) for name in POLICIES for option in POLICIES[name]])
def test_every_option_of_a_policy_changes_numbers(name, option):
    value, needed = POLICIES[name][option], {}
    if isinstance(value, tuple):
        value, needed = value
    if option == "params":
        needed = {"width": GROUPS["policy"][name].config.width}
    before = base_of(name, **needed)
    assert getattr(before, option) != value
    changed = base_of(name, **needed, **({option: value} if option not in needed else {}))
    entries = option == "critic_only"
    assert not same(numbers_of(before, entries), numbers_of(changed, entries))


@pytest.mark.parametrize("name", ["rmt", "trxl", "gtrxl", "window"])
def test_replay_changes_no_number(name):
    for before, after in zip(numbers_of(base_of(name)), numbers_of(base_of(name, replay=True)), strict=True):
        torch.testing.assert_close(before, after, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name, option", [(name, option) for name in CHOICES for option in CHOICES[name]])
def test_every_choice_differs_from_every_other(name, option):
    found = [numbers_of(base_of(name, **{option: value})) for value in CHOICES[name][option]]
    assert not any(same(a, b) for i, a in enumerate(found) for b in found[:i])


# ----------------------------------------------------------------------------------------------------------- algorithms

TASK = config.TMazeConfig(length=5, min_length=2)
#: Options of continuous actions.
CONTINUOUS = {"noise_correlation"}


def numbers_of_ppo(task=TASK, **options):
    """Weights and metrics after two updates at different progress."""
    algo = config.PPOConfig(**{"num_envs": 4, "rollout": 8, "epochs": 2, "minibatches": 2, **options})
    assert not list(algo.problems())
    run = make_config(env=task, algo=algo, policy=config.RMTConfig(width=16, segment=4, memory_tokens=2))
    env = make_from_config(task, algo.num_envs)
    torch.manual_seed(0)
    policy = ActorCritic(PolicySpec(run.policy, env.single_observation_space, env.single_action_space, task))
    learner = PPOLearner(run, env, policy)
    rows = [learner.update(learner.collect(progress), progress) for progress in (0.0, 0.3)]
    return rows, [p.detach() for p in policy.parameters()]


def numbers_of_rate(**options):
    """Weights and metrics after two updates at different progress, and the return that acting asks for."""
    draw = np.random.default_rng(0)
    observations, actions = spaces.Box(-np.inf, np.inf, (2,), np.float32), spaces.Discrete(3)
    episodes = [
        Episode(draw.normal(size=(n, 2)).astype(np.float32), draw.integers(3, size=n), draw.normal(size=n))
        for n in (9, 7, 6, 12, 5, 3, 8, 11)
    ]
    data = Dataset(episodes, sum(len(episode.reward) for episode in episodes), observations, actions)
    algo = config.RATEConfig(**{"batch": 4, **options})
    assert not list(algo.problems())
    returns = data.returns(algo, trained=False, saved=None)
    if returns:
        bounds = spaces.Box(returns.low, returns.high, (1,), np.float32)
        observations = spaces.Dict({"observation": observations, "return_to_go": bounds})
    torch.manual_seed(0)
    small = config.RMTConfig(width=16, segment=4, memory_tokens=2)
    policy = ActorCritic(PolicySpec(small, observations, actions, UnregisteredEnv("outside", {}), returns=returns))
    run, env = types.SimpleNamespace(algo=algo, seed=0), types.SimpleNamespace(device=torch.device("cpu"))
    learner = RATELearner(run, env, policy, data)
    rows = [learner.update(learner.collect(progress), progress) for progress in (0.0, 0.3)]
    return [*rows, returns], [p.detach() for p in policy.parameters()]


def numbers_of_supervised(**options):
    """Weights and metrics after two updates at different progress, and a stage that almost right episodes may end."""
    task = config.CopyConfig(length=4, delay=2)
    usual = {"num_envs": 4, "stages": 2, "grows": "delay"}
    run = make_config(
        env=task,
        algo=config.SupervisedConfig(**{**usual, **options}),
        policy=config.RMTConfig(width=16, segment=4, memory_tokens=2),
    )
    env = make_from_config(task, run.algo.num_envs)
    torch.manual_seed(0)
    policy = ActorCritic(PolicySpec(run.policy, env.single_observation_space, env.single_action_space, task))
    learner = SupervisedLearner(run, env, policy)
    rows = [learner.update(learner.collect(progress), progress) for progress in (0.0, 0.3)]
    learner._advance(torch.arange(256) % 10 < 7)
    return [*rows, learner.stage], [p.detach() for p in policy.parameters()]


NUMBERS = {"ppo": numbers_of_ppo, "rate": numbers_of_rate, "supervised": numbers_of_supervised}
USUAL = {}


@pytest.mark.parametrize("name, option", [(name, option) for name in ALGOS for option in ALGOS[name]])
def test_every_option_of_an_algorithm_changes_numbers(name, option):
    task = {"task": config.GymConfig(id="Pendulum-v1")} if option in CONTINUOUS else {}
    usual = f"{name} {task}"
    if usual not in USUAL:
        USUAL[usual] = NUMBERS[name](**task)
    rows, weights = NUMBERS[name](**task, **{option: ALGOS[name][option]})
    assert rows != USUAL[usual][0] or not same(weights, USUAL[usual][1])


@pytest.mark.parametrize("name", ALGOS)
def test_the_same_options_give_the_same_numbers(name):
    """Without which the differences above would say nothing."""
    (rows, weights), (again, weights_again) = NUMBERS[name](), NUMBERS[name]()
    assert rows == again and same(weights, weights_again)


@pytest.mark.parametrize(
    "name, option, values",
    [
        ("ppo", "schedule", ["constant", "linear", "cosine"]),
        ("rate", "schedule", ["constant", "linear", "cosine"]),
        ("rate", "cut", ["none", "varied", "growing"]),
        ("supervised", "schedule", ["constant", "linear", "cosine"]),
    ],
)
def test_every_choice_of_an_algorithm_differs_from_every_other(name, option, values):
    found = [NUMBERS[name](**{option: value}) for value in values]
    for i, (rows, weights) in enumerate(found):
        assert all(rows != others or not same(weights, theirs) for others, theirs in found[:i])
