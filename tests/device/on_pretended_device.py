"""Every environment, every policy and both trainers on a device other than the CPU: its numbers, and no tensor left behind.

Not collected by name: `test_pretended_device.py` runs this file in a process of its own.
"""

from __future__ import annotations

import functools
import json
from typing import Any

import pytest
import torch
from pretend import Pretend, here, register

from rmt_rl import config
from rmt_rl.algos.ppo import PPOLearner
from rmt_rl.algos.rate import RATELearner
from rmt_rl.common import rng
from rmt_rl.common.finite import NotFinite
from rmt_rl.config.commands import TrainConfig
from rmt_rl.config.registry import GROUPS
from rmt_rl.config.resolve import make_config
from rmt_rl.envs.registry import make_env, make_from_config
from rmt_rl.policies.actor_critic import ActorCritic
from rmt_rl.policies.sequence import SequenceModel
from rmt_rl.policies.spec import make_spec
from rmt_rl.rollouts.episodes import evaluate
from rmt_rl.runs.checkpoints import _pack, _unpack

DEVICE = register()
#: Tasks whose rows are tensors; `gym` has environments of other libraries, which live on the CPU.
TASKS = [name for name in GROUPS["env"] if name not in ("gym", "none")]
POLICIES = {name: entry.config(width=16) for name, entry in GROUPS["policy"].items()}
POLICIES |= {
    "rmt of the paper": config.RMTConfig(width=16, memory_update="replace", write_from="memory", blank_memory="seen"),
    "rmt, valve and cache": config.RMTConfig(
        width=16, memory_update="mrv", cache=5, positions="rotary", memory_place="front"
    ),
    "rmt, replay": config.RMTConfig(width=16, replay=True, token_shift=True),
    "rmt, associative": config.RMTConfig(width=16, memory_kind="associative"),
    "rmt, slots": config.RMTConfig(width=16, memory_kind="slots"),
}


def same(x: Any, y: Any) -> bool:
    if isinstance(x, dict):
        return x.keys() == y.keys() and all(same(x[name], y[name]) for name in x)
    if isinstance(x, torch.Tensor):
        return torch.equal(here(x), here(y))
    return bool(x == y)


#: Tasks whose sines are numpy's on a CPU.
ROUNDED = [name for name in TASKS if name.endswith(("cartpole", "pendulum"))]


def close(x: Any, y: Any) -> bool:
    if isinstance(x, dict):
        return all(close(x[name], y[name]) for name in x)
    return torch.allclose(here(x).double(), here(y).double(), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", TASKS)
def test_an_environment_plays_as_on_the_cpu(name: str) -> None:
    with Pretend():
        there = make_env(name, 6, DEVICE)
        cpu = make_env(name, 6)
        assert same(cpu.reset(seed=3)[0], there.reset(seed=3)[0])
        cpu.action_space.seed(0)
        for t in range(30):
            action = torch.from_numpy(cpu.action_space.sample())
            for x, y in zip(cpu.step(action), there.step(action.to(DEVICE)), strict=True):
                assert same(x, y) or (name in ROUNDED and close(x, y)), t


def ppo(run: TrainConfig, device: torch.device) -> PPOLearner:
    env = make_from_config(run.env, run.algo.num_envs, device)
    torch.manual_seed(0)
    return PPOLearner(run, env, ActorCritic(make_spec(env, run.env, run.policy)).to(device))


def rate(run: TrainConfig, device: torch.device, data: Any) -> RATELearner:
    returns = data.returns(run.algo, trained=False, saved=None)
    env = make_from_config(run.env, 1, device, returns=returns)
    torch.manual_seed(0)
    return RATELearner(run, env, ActorCritic(make_spec(env, run.env, run.policy, returns=returns)).to(device), data)


def weights_after_two_updates(run: TrainConfig, make: Any) -> list[torch.Tensor]:
    """On the CPU and on the device; between the updates a new learner goes on from a checkpoint."""
    weights = []
    with Pretend():
        for device in (torch.device("cpu"), DEVICE):
            first = make(run, device)
            first.update(first.collect(0.0), 0.0)
            text, tensors = _pack(first.state_dict())
            saved = {key: x.cpu() for key, x in tensors.items()}  # as a file has them
            second = make(run, device)
            second.load_state_dict(_unpack(json.loads(text), saved))
            second.update(second.collect(0.5), 0.5)
            weights.append(torch.cat([here(p.detach()).flatten() for p in second.policy.parameters()]))
    return weights


@pytest.mark.parametrize("name", POLICIES)
def test_a_policy_learns_as_on_the_cpu_and_goes_on_from_a_checkpoint(name: str) -> None:
    algo = config.PPOConfig(num_envs=8, rollout=12, epochs=2, minibatches=2, normalize_reward=name == "mlp")
    memory = config.MemoryConfig(carry=0.5) if name == "rmt" else config.MemoryConfig()
    task = config.TMazeConfig(length=4, end_at_turn=True)
    run = make_config(env=task, policy=POLICIES[name], algo=algo, memory=memory)
    torch.testing.assert_close(*weights_after_two_updates(run, ppo), atol=2e-5, rtol=2e-5)


def test_values_of_truncated_episodes_are_those_of_the_cpu() -> None:
    algo = config.PPOConfig(num_envs=8, rollout=24, epochs=1, minibatches=2)
    run = make_config(env=config.ColorCubesConfig(size=3, cubes=1, phases=3), policy=POLICIES["gru"], algo=algo)
    found = []
    with Pretend():
        for device in (torch.device("cpu"), DEVICE):
            learner = ppo(run, device)
            rollout = learner.collect(0.0)
            assert bool(here(rollout.truncated).any())
            found.append(torch.stack([here(rollout.next_value), here(rollout.value)]))
    torch.testing.assert_close(*found, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    "place, value", [("observation", float("nan")), ("reward", float("inf")), ("observation", 1e20)]
)
def test_what_an_environment_must_not_return_is_named_on_a_device_too(place: str, value: float) -> None:
    run = make_config(
        env=config.TMazeConfig(length=4), policy=POLICIES["gru"], algo=config.PPOConfig(num_envs=4, rollout=8)
    )
    with Pretend():
        learner = ppo(run, DEVICE)
        usual = learner.collector.env.step

        def step(action: torch.Tensor) -> Any:
            obs, reward, *rest = usual(action)
            changed = obs if place == "observation" else reward
            changed[2] = value
            return obs, reward, *rest

        learner.collector.env.step = step
        with pytest.raises(NotFinite, match=rf"{place} of row 2 is .*, 4 steps into the run"):
            learner.collect(0.0)


@pytest.mark.parametrize("name", ["rmt", "trxl", "gru"])
def test_a_policy_learns_from_recorded_episodes_as_on_the_cpu(name: str) -> None:
    algo = config.RATEConfig(batch=4)
    run = make_config(env=config.TMazeRATEConfig(length=9, min_length=5), policy=POLICIES[name], algo=algo)
    data = RATELearner.load_data(run)  # outside, because files in memory are tensors of another kind
    made = functools.partial(rate, data=data)
    torch.testing.assert_close(*weights_after_two_updates(run, made), atol=2e-5, rtol=2e-5)


@pytest.mark.parametrize("name", ["rmt", "gru", "trxl"])
def test_an_evaluation_plays_the_episodes_of_the_cpu(name: str) -> None:
    task = config.TMazeConfig(length=6, min_length=3)
    scores = []
    with Pretend():
        for device in (torch.device("cpu"), DEVICE):
            env = make_from_config(task, 8, device, evaluation=True)
            torch.manual_seed(0)
            policy = ActorCritic(make_spec(env, task, POLICIES[name])).to(device)
            scores.append(evaluate(policy, env, 24, seed=5, deterministic=False).each)
    assert torch.equal(scores[0].lengths, scores[1].lengths) and torch.equal(scores[0].returns, scores[1].returns)


@pytest.mark.parametrize("name", ["rmt", "lstm", "mingru"])
def test_a_sequence_model_reads_and_writes_as_on_the_cpu(name: str) -> None:
    found = []
    with Pretend():
        for device in (torch.device("cpu"), DEVICE):
            torch.manual_seed(0)
            model = SequenceModel(11, name, **{"policy.width": 16}).to(device)
            ids = (torch.arange(2 * 13).view(2, 13) * 7 % 11).to(device)
            loss, _ = model.loss(ids)
            loss.backward()
            slopes = [here(p.grad).flatten() for p in model.parameters() if p.grad is not None]
            written, _ = model.generate(ids, 5, temperature=0)
            found.append((torch.cat([here(loss.detach())[None], *slopes]), here(written)))
    torch.testing.assert_close(found[0][0], found[1][0], atol=2e-5, rtol=2e-5)
    assert torch.equal(found[0][1], found[1][1])


#: Waits of the host for each step of a collector and each minibatch of an update. They may only become fewer.
COLLECT = {"tmaze": 2.25, "minigrid-memory": 2.5}
UPDATE = {
    "rmt": 4.5,
    "trxl": 4.5,
    "lstm": 9.5,
    "gru": 9.5,
    "mlp": 2.5,
    "deltanet": 2.5,
    "reformer": 2.5,
    "routing": 3.0,
}


@pytest.mark.parametrize("name", UPDATE)
@pytest.mark.parametrize("task", COLLECT)
def test_the_host_waits_no_more_often_than_it_did(task: str, name: str) -> None:
    steps, epochs, minibatches = 16, 2, 2
    algo = config.PPOConfig(num_envs=8, rollout=steps, epochs=epochs, minibatches=minibatches)
    env = config.TMazeConfig(length=4) if task == "tmaze" else config.MiniGridMemoryConfig()
    run = make_config(env=env, policy=POLICIES[name], algo=algo)
    with Pretend() as device:
        learner = ppo(run, DEVICE)
        learner.update(learner.collect(0.0), 0.0)
        with device.count() as acting:
            rollout, _ = learner.collector.collect(steps)
        with device.count() as learning:
            learner.update(rollout, 0.0)
    assert acting.total() / steps <= COLLECT[task], acting.most_common()
    assert learning.total() / (epochs * minibatches) <= UPDATE[name], learning.most_common()


def test_a_planted_wait_a_cpu_tensor_and_a_cpu_generator_are_found() -> None:
    """The faults for which this device exists: the tests above would be green without it."""
    with Pretend() as device:
        x = torch.ones(3, device=DEVICE)
        with device.count() as waits:
            (x + 1).mul_(2)
            assert not waits
            x.sum().item()
            x[x > 0]
            x.cpu()
        assert waits.total() == 3, waits
        with pytest.raises(RuntimeError, match="tensors on"):
            x + torch.ones(3)
        with pytest.raises(RuntimeError, match="a generator of the CPU"):
            torch.rand(3, device=DEVICE, generator=torch.Generator())
        torch.rand(3, device=DEVICE, generator=rng.generator(0, "test", DEVICE))
        with pytest.raises(TypeError, match="can't convert"):
            x.numpy()
