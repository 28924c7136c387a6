"""Action masks: what an environment forbids is never chosen, wherever the environment reports it."""

from __future__ import annotations

import itertools
from typing import Any, ClassVar

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium import spaces

from rmt_rl.common.errors import ConfigError, RunError
from rmt_rl.config import LSTMConfig, TMazeConfig
from rmt_rl.envs.check import check, maker
from rmt_rl.envs.registry import make_env
from rmt_rl.evaluate import main as evaluate
from rmt_rl.export import step_module
from rmt_rl.policies.actor_critic import ActorCritic
from rmt_rl.policies.saving import load_policy, make_policy
from rmt_rl.policies.spec import PolicySpec
from rmt_rl.rollouts.collector import Collector
from rmt_rl.rollouts.episodes import random_actor, record
from rmt_rl.train import main as train

SMALL = [
    "policy=lstm",
    "policy.width=8",
    "algo.num_envs=2",
    "algo.rollout=16",
    "algo.minibatches=2",
    "steps=64",
    "evaluate_episodes=4",
]


class Masked(gymnasium.Env[Any, Any]):
    """Every step allows other actions, and raises for the rest. The mask is in the observation."""

    observation_space: Any = spaces.Dict(seen=spaces.Box(-1, 1, (2,), np.float32), action_mask=spaces.MultiBinary(4))
    action_space: Any = spaces.Discrete(4, start=3)
    taken: ClassVar[list[Any]] = []

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        self.t = 0
        return self.show(), self.info()

    def step(self, action: Any) -> Any:
        if not self.allows(action):
            raise AssertionError(f"{action} is not allowed by {self.mask}")
        Masked.taken.append(action)
        self.t += 1
        return self.show(), 1.0, self.t >= 5, False, self.info()

    def allows(self, action: Any) -> bool:
        return bool(self.mask[action - 3])

    def draw(self) -> None:
        self.mask = np.roll(np.array([1, 0, 1, 0] if self.t % 3 else [0, 0, 0, 1], np.int8), self.t)

    def seen(self) -> np.ndarray:
        return self.np_random.uniform(-1, 1, 2).astype(np.float32)

    def show(self) -> Any:
        self.draw()
        return {"seen": self.seen(), "action_mask": self.mask}

    def info(self) -> dict[str, Any]:
        return {}


class InInfo(Masked):
    observation_space = spaces.Box(-1, 1, (2,), np.float32)

    def show(self) -> Any:
        self.draw()
        return self.seen()

    def info(self) -> dict[str, Any]:
        return {"action_mask": self.mask}


class InMethod(InInfo):
    def info(self) -> dict[str, Any]:
        return {}

    def action_masks(self) -> np.ndarray:
        return self.mask.astype(bool)


class Several(Masked):
    """MultiDiscrete, with the choices of all elements side by side."""

    observation_space = spaces.Dict(
        seen=spaces.Box(-1, 1, (2,), np.float32), action_mask=spaces.Box(0, 1, (5,), np.float32)
    )
    action_space = spaces.MultiDiscrete([2, 3])

    def draw(self) -> None:
        self.mask = np.array([1, 0, 0, 1, 1] if self.t % 2 else [1, 1, 1, 0, 0], np.float32)

    def allows(self, action: Any) -> bool:
        return bool(self.mask[action[0]] and self.mask[2 + action[1]])


class Mixed(Masked):
    """A choice and a real number."""

    observation_space = spaces.Dict(seen=spaces.Box(-1, 1, (2,), np.float32), action_mask=spaces.MultiBinary(3))
    action_space = spaces.Tuple([spaces.Box(-1, 1, (1,), np.float32), spaces.Discrete(3, start=-1)])

    def draw(self) -> None:
        self.mask = np.array([0, self.t % 2, 1], np.int8)

    def allows(self, action: Any) -> bool:
        return bool(self.mask[action[1] + 1]) and self.action_space.contains(action)


class Stuck(Masked):
    def draw(self) -> None:
        self.mask = np.array([1, 0, 0, self.t < 2], np.int8) * (self.t < 3)


KINDS = {"observation": Masked, "info": InInfo, "method": InMethod, "several": Several}
every_kind = pytest.mark.parametrize("kind", KINDS)
with_mixed = pytest.mark.parametrize("kind", [*KINDS, "mixed"])


def words(kind: str) -> dict[str, Any]:
    cls = Mixed if kind == "mixed" else KINDS.get(kind, Stuck)
    id = f"Masks{cls.__name__}-v0"
    if id not in gymnasium.registry:
        gymnasium.register(id, entry_point=cls)
    return {"id": id, **({"action_mask": "info"} if kind == "info" else {})}


def env_of(kind: str, rows: int = 2, **more: Any) -> Any:
    return make_env("gym", rows, **words(kind), **more)


@pytest.mark.slow
@with_mixed
def test_training_saving_loading_and_evaluating_never_take_a_forbidden_action(
    kind: str, tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    given = [f"env.{key}={value}" for key, value in words(kind).items()]
    assert train(["env=gym", *given, *SMALL, "run=run"]) == 0
    assert evaluate(["policy=runs/run", "episodes=4"]) == 0


@every_kind
def test_greedy_and_sampled_actions_are_allowed_and_all_allowed_ones_occur(kind: str) -> None:
    env = env_of(kind, 4)
    policy = make_policy(env, "gru", width=8)
    Masked.taken.clear()
    Collector(env, policy).collect(60)
    seen = {str(action) for action in Masked.taken}
    assert len(seen) == (6 if kind == "several" else 4) - (2 if kind == "several" else 0)


def test_the_mask_is_no_input_of_the_network() -> None:
    policy = make_policy(env_of("observation"), "mlp", width=8).eval()
    state, first = policy.initial_state(1), torch.ones(1, dtype=torch.bool)
    seen = torch.ones(1, 2)
    one, other = (
        policy.step({"seen": seen, "action_mask": torch.tensor([mask])}, state, first)
        for mask in ([1, 1, 0, 1], [1, 0, 1, 1])
    )
    assert torch.equal(one[1], other[1]) and torch.equal(one[0][:, 0], other[0][:, 0])
    assert len(list(policy.encoder.parameters())) == 2


@pytest.mark.slow
def test_an_exported_step_obeys_the_mask_that_it_is_given() -> None:
    policy = make_policy(env_of("observation"), "rmt", width=8).eval()
    module, inputs, names, _ = step_module(policy, 2)
    inputs = (torch.tensor([[0, 0, 1, 0], [0, 1, 0, 0]], dtype=torch.int8), *inputs[1:])
    program = torch.export.export(module, inputs, strict=False).module()
    assert names[0] == "observation.action_mask"
    assert program(*inputs)[0].tolist() == [2, 1]


def test_a_mask_that_allows_nothing_is_one_sentence() -> None:
    env = env_of("stuck", 1)
    policy = make_policy(env, "mlp", width=8)
    with pytest.raises(RunError, match=r"observation 'action_mask' of row 0 allows no action, 3 steps into the run"):
        Collector(env, policy).collect(5)
    obs = {"seen": np.zeros(2, np.float32), "action_mask": np.zeros(4, np.int8)}
    with pytest.raises(ValueError, match="'action_mask' of row 0 allows no action"):
        policy.act(obs, policy.initial_state(1), True)


def test_the_last_observation_of_an_episode_may_allow_nothing() -> None:
    class Ends(Masked):
        def draw(self) -> None:
            self.mask = np.array([1, 0, 0, 1], np.int8) * (self.t < 5)

    gymnasium.register("MasksEnds-v0", entry_point=Ends)
    env = make_env("gym", 2, id="MasksEnds-v0", options={"max_episode_steps": 5})
    Collector(env, make_policy(env, "mlp", width=8)).collect(12)


def test_a_mask_of_another_size_is_one_sentence() -> None:
    class Wrong(Masked):
        observation_space = spaces.Dict(seen=spaces.Box(-1, 1, (2,), np.float32), action_mask=spaces.MultiBinary(3))

    class Real(Masked):
        action_space = spaces.Box(-1, 1, (2,), np.float32)

    class Only(Masked):
        observation_space = spaces.Dict(action_mask=spaces.MultiBinary(4))

    for cls, found in (
        (Wrong, r"has shape \(3,\), .* expected one vector of 4 numbers"),
        (Real, ".*real numbers have no mask"),
        (Only, "is the only part"),
    ):
        gymnasium.register(f"Masks{cls.__name__}-v0", entry_point=cls)
        with pytest.raises(ConfigError, match=f"observation 'action_mask': {found}"):
            make_policy(make_env("gym", 1, id=f"Masks{cls.__name__}-v0"), "mlp", width=8)


def test_a_mask_in_info_that_is_not_used_is_a_warning_that_names_the_option() -> None:
    with pytest.warns(UserWarning, match=r"info\['action_mask'\] is not used; env=gym env.action_mask=info"):
        make_env("gym", 1, id=words("info")["id"]).reset(seed=0)


def test_a_missing_mask_in_info_is_one_sentence() -> None:
    with pytest.raises(ConfigError, match=r"reset with info\['action_mask'\] = None; expected 4 numbers"):
        make_env("gym", 1, id=words("method")["id"], action_mask="info").reset(seed=0)


@with_mixed
def test_random_actions_are_allowed_and_those_of_one_seed_are_the_same(kind: str) -> None:
    env = env_of(kind)
    drawn = [[r.action.tolist() for wave in record(env, random_actor(env, 0), 4, 0) for r in wave] for _ in range(2)]
    assert len(drawn[0]) == 4 and drawn[0] == drawn[1]


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["method", "several", "mixed"])
def test_the_checks_of_an_environment_respect_its_mask(kind: str) -> None:
    make, raw = maker(words(kind)["id"], {})
    results = [*itertools.islice(check(make, raw), 11)]
    assert [result.found for result in results if result.verdict == "wrong"] == []


def test_a_policy_of_before_masks_takes_the_mask_as_a_part_of_the_observation() -> None:
    env = env_of("observation")
    saved = PolicySpec(
        LSTMConfig(width=8), env.single_observation_space, env.single_action_space, TMazeConfig()
    ).to_json()
    del saved["rules"]
    policy = ActorCritic(PolicySpec.from_json(saved))
    assert not policy.masked and len(policy.encoder.encoder.keys) == 2


def test_a_masked_policy_is_masked_after_loading(tmp_path: Any) -> None:
    policy = make_policy(env_of("observation"), "mlp", width=8)
    policy.save_pretrained(tmp_path)
    assert load_policy(tmp_path).masked
