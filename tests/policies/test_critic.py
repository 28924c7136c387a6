"""policy.critic=separate: a second network for the values, with its own memory, which acting does not need."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

import rmt_rl
from rmt_rl.algos.ppo import PPOLearner
from rmt_rl.common.state import all_same_shape, copy_tree, leaves
from rmt_rl.config.resolve import make_config
from rmt_rl.export import export
from rmt_rl.policies.actor_critic import ActorCritic
from rmt_rl.policies.network import Memories
from rmt_rl.rollouts.collector import Collector
from rmt_rl.runs.console import banner

KINDS: dict[str, dict[str, Any]] = {
    "rmt": {"width": 8, "segment": 3, "memory_tokens": 2},
    "trxl": {"width": 8, "segment": 3, "cache": 4},
    "lstm": {"width": 8},
    "mlp": {"width": 8},
}
ROWS, STEPS = 3, 8

every_kind = pytest.mark.parametrize("kind", KINDS)


def make(kind: str, critic: str = "separate", **options: Any) -> ActorCritic:
    env = rmt_rl.make_env("tmaze", ROWS, length=3)
    return rmt_rl.make_policy(env, kind, seed=1, critic=critic, **{**KINDS[kind], **options})


def row(policy: ActorCritic) -> tuple[Any, torch.Tensor, torch.Tensor]:
    """Observations, actions and starts of rows of steps, with an episode that begins in the middle."""
    generator = torch.Generator().manual_seed(0)
    obs = torch.rand(ROWS, STEPS, *policy.spec.observation_space.shape, generator=generator)
    first = torch.zeros(ROWS, STEPS, dtype=torch.bool)
    first[:, 0] = first[1, 5] = True
    return obs, torch.randint(4, (ROWS, STEPS), generator=generator), first


def learner() -> PPOLearner:
    options = {
        "algo.num_envs": ROWS,
        "algo.minibatches": 1,
        "algo.rollout": 5,
        "env.length": 3,
        "policy.critic": "separate",
    }
    options |= {f"policy.{key}": value for key, value in KINDS["rmt"].items()}
    run = make_config(env="tmaze", **options)
    return PPOLearner(run, rmt_rl.make_env("tmaze", ROWS, length=3), make("rmt"))


@every_kind
def test_the_actor_starts_from_the_same_weights_as_with_a_shared_critic(kind: str) -> None:
    shared, separate = make(kind, "shared").state_dict(), make(kind).state_dict()
    assert all(torch.equal(value, separate[name]) for name, value in shared.items())
    more = separate.keys() - shared.keys()
    assert more and all(name.startswith("critic.") for name in more)


@every_kind
def test_the_gradient_of_values_does_not_reach_the_actor_and_the_reverse(kind: str) -> None:
    policy = make(kind)
    obs, action, first = row(policy)
    parameters, value, _ = policy.unroll(obs, action, policy.initial_state(ROWS, critic=True), first)
    value.square().sum().backward(retain_graph=True)
    reached = {name for name, p in policy.named_parameters() if p.grad is not None and bool(p.grad.any())}
    assert reached and all(name.startswith(("critic.", "value_head.")) for name in reached)
    policy.zero_grad(set_to_none=True)
    parameters.sin().sum().backward()
    reached = {name for name, p in policy.named_parameters() if p.grad is not None and bool(p.grad.any())}
    assert reached and not any(name.startswith(("critic.", "value_head.")) for name in reached)


@every_kind
def test_values_and_both_memories_of_unroll_equal_those_of_step(kind: str) -> None:
    policy = make(kind).double()
    obs, action, first = row(policy)
    obs = obs.double()
    state = policy.initial_state(ROWS, critic=True)
    _, values, after = policy.unroll(obs, action, state, first)
    for t in range(STEPS):
        _, value, memory = policy.step(obs[:, t], state, first[:, t])
        torch.testing.assert_close(value, values[:, t])
        state = type(state)(memory, action[:, t])
    assert isinstance(state.memory, Memories)
    for stepped, unrolled in zip(leaves(state).values(), leaves(after).values(), strict=True):
        torch.testing.assert_close(stepped, unrolled)


@every_kind
def test_acting_needs_no_memory_of_the_critic_and_gives_none(kind: str) -> None:
    policy = make(kind)
    obs, first = row(policy)[0][:, 0], torch.ones(ROWS, dtype=torch.bool)
    alone, state = policy.act(obs, policy.initial_state(ROWS), first, deterministic=True)
    both, after = policy.act(obs, policy.initial_state(ROWS, critic=True), first, deterministic=True)
    assert torch.equal(alone, both) and all_same_shape(state, after)
    shared = make(kind, "shared")
    assert torch.equal(alone, shared.act(obs, shared.initial_state(ROWS), first, deterministic=True)[0])


def test_values_of_a_state_without_the_critics_memory_are_one_sentence() -> None:
    policy = make("rmt")
    obs, action, first = row(policy)
    state = policy.initial_state(ROWS)
    with pytest.raises(ValueError, match=r"^state has no memory of the critic.*initial_state\(batch, critic=True\)"):
        policy.value(obs[:, 0], state)
    with pytest.raises(ValueError, match=r"^state has no memory of the critic"):
        policy.unroll(obs, action, state, first)


def test_a_shared_critic_has_one_memory_whatever_is_asked_for() -> None:
    policy = make("rmt", "shared")
    assert all_same_shape(policy.initial_state(2), policy.initial_state(2, critic=True))


def test_a_state_with_both_memories_goes_through_a_dictionary() -> None:
    policy = make("lstm")
    for critic in (False, True):
        state = policy.initial_state(ROWS, critic=critic)
        again = policy.state_from_dict(policy.state_to_dict(state))
        assert all_same_shape(again, state) and isinstance(again.memory, Memories) == critic
        assert len(state[1:].to("cpu")) == ROWS - 1


def test_attention_is_explained_from_a_state_with_both_memories() -> None:
    policy = make("rmt")
    obs, first = row(policy)[0][:, 0], torch.ones(ROWS, dtype=torch.bool)
    attention = policy.explain(obs, policy.initial_state(ROWS, critic=True), first)
    assert torch.equal(attention.steps, policy.explain(obs, policy.initial_state(ROWS), first).steps)


def test_learning_continues_from_a_checkpoint_with_the_same_bits() -> None:
    one = learner()
    one.update(one.collect(0.0), 0.0)
    tree = one.state_dict()
    assert {*tree["collector"]["state"]["memory"]} == {"actor", "critic"}
    two = learner()
    two.load_state_dict(copy_tree(tree))
    for each in (one, two):
        each.update(each.collect(0.5), 0.5)
    for name, value in one.policy.state_dict().items():
        assert torch.equal(value, two.policy.state_dict()[name]), name


def test_a_checkpoint_with_a_broken_memory_of_the_critic_is_refused() -> None:
    one = learner()
    one.collect(0.0)
    tree = copy_tree(one.collector.state_dict())
    memory = tree["state"]["memory"]["critic"]
    memory["age"] = memory["age"] - 1_000
    with pytest.raises(ValueError, match=r"^age has values out of range"):
        learner().collector.load_state_dict(tree)


def test_a_policy_with_a_critic_is_saved_and_loaded(tmp_path: Path) -> None:
    policy = make("rmt")
    rmt_rl.save_policy(policy, tmp_path)
    again = rmt_rl.load_policy(tmp_path)
    assert again.config.critic == "separate"
    assert all(torch.equal(value, again.state_dict()[name]) for name, value in policy.state_dict().items())


def test_a_budget_and_the_banner_count_the_critic() -> None:
    env = rmt_rl.make_env("tmaze", ROWS, length=3)
    policy = rmt_rl.make_policy(env, "lstm", critic="separate", params=20_000)
    assert abs(sum(p.numel() for p in policy.parameters()) - 20_000) < 2_000
    run = make_config(env="tmaze", policy=policy.config)
    text = banner(run, env, policy, torch.device("cpu"), Path("runs/x"), None)
    count = sum(p.numel() for name, p in policy.named_parameters() if name.startswith(("critic.", "value_head.")))
    assert f"critic  separate, {count:,} of the parameters" in text
    shared = rmt_rl.make_policy(env, "lstm", width=8)
    assert "critic" not in banner(run, env, shared, torch.device("cpu"), Path("runs/x"), None)


def test_a_rollout_of_a_policy_with_another_critic_is_refused() -> None:
    env = rmt_rl.make_env("tmaze", ROWS, length=3)
    rollout, _ = Collector(env, make("lstm", "shared")).collect(4)
    with pytest.raises(rmt_rl.ConfigError, match="was collected with another policy"):
        rmt_rl.PPO(make("lstm"), rmt_rl.PPOConfig()).update(rollout, 0.0)


def test_rate_which_learns_no_values_refuses_a_separate_critic() -> None:
    with pytest.raises(
        rmt_rl.ConfigError, match=r"^policy\.critic=separate: algo=rate learns no values; expected policy\.crit"
    ):
        make_config(env="tmaze", algo="rate", **{"policy.critic": "separate"})
    run = dataclasses.replace(make_config(env="tmaze", algo="rate"), init="runs/x", policy=make("lstm").config)
    assert "expected init=<a policy with policy.critic=shared>" in next(run.problems())


@pytest.mark.slow
def test_an_exported_program_has_no_critic(tmp_path: Path) -> None:
    policy = make("lstm")
    export(policy, tmp_path / "program", 2, onnx=False)
    program = torch.export.load(tmp_path / "program" / "step.pt2")
    assert not [name for name in program.state_dict if name.startswith("critic.")]
    state = load_file(tmp_path / "program" / "initial_state.safetensors")
    names = [entry["name"] for entry in json.loads((tmp_path / "program" / "io.json").read_text())["inputs"]]
    obs, first = torch.rand(2, *policy.spec.observation_space.shape), torch.ones(2, dtype=torch.bool)
    action, *_ = program.module()(obs, first, *(state[name] for name in names[2:]))
    assert torch.equal(action, policy.act(obs, policy.initial_state(2), first, deterministic=True)[0])
    assert policy.critic is not None


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_torchrl_carries_both_memories() -> None:
    pytest.importorskip("torchrl")
    from tensordict import TensorDict
    from torchrl.modules import set_recurrent_mode

    from rmt_rl.torchrl.policies import TorchRLPolicy

    policy = make("lstm")
    module = TorchRLPolicy(policy)
    obs, action, first = row(policy)
    expected = policy.unroll(obs, action, policy.initial_state(ROWS, critic=True), first)[1]
    previous = torch.cat([action[:, :1], action[:, :-1]], dim=1)
    memory = {str(i): x for i, x in enumerate(leaves(policy.initial_state(ROWS, critic=True).memory).values())}
    found = []
    for t in range(STEPS):
        given = {"observation": obs[:, t], "previous_action": previous[:, t], "has_memory": ~first[:, t, None]}
        given |= {"is_init": first[:, t, None], "memory": TensorDict(memory, [ROWS])}
        out = module(TensorDict(given, [ROWS]))
        found.append(out["state_value"][:, 0])
        memory = {key: out["next", "memory", key] for key in memory}
    torch.testing.assert_close(torch.stack(found, dim=1), expected)
    whole = {
        "observation": obs,
        "previous_action": previous,
        "has_memory": ~first[..., None],
        "is_init": first[..., None],
    }
    with set_recurrent_mode(True):
        values = module(TensorDict(whole, [ROWS, STEPS]))["state_value"].squeeze(-1)
    torch.testing.assert_close(values, expected)
