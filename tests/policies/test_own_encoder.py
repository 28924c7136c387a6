"""Encoders of users: registered by name, checked before a run, and used by training, saving, loading, resuming and export."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium import spaces
from torch import nn

import rmt_rl
from rmt_rl.config import registry
from rmt_rl.config.resolve import make_config
from rmt_rl.export import export
from rmt_rl.policies.actor_critic import ActorCritic
from rmt_rl.policies.spec import PolicySpec, UnregisteredEnv

EXAMPLE = next(
    block
    for block in re.findall(
        r"```python\n(.*?)```", (Path(__file__).parents[2] / "docs/extending.md").read_text(encoding="utf-8"), re.DOTALL
    )
    if "register_encoder" in block
)
TINY = {"env": "tmaze", "policy": "gru", "steps": 32, "evaluate_episodes": 0, "device": "cpu"}
SMALL = {
    "algo.num_envs": 4,
    "algo.minibatches": 1,
    "algo.rollout": 4,
    "algo.epochs": 1,
    "env.length": 2,
    "policy.width": 8,
}
DICT = spaces.Dict({"a": spaces.Box(-np.inf, np.inf, (2, 2), np.float32), "b": spaces.Discrete(3)})


class Seen(nn.Module):
    """Remembers what it is shown."""

    def __init__(self, space: Any, width: int) -> None:
        super().__init__()
        self.space, self.scale, self.seen = space, nn.Parameter(torch.ones(width)), None

    def forward(self, obs: Any) -> torch.Tensor:
        self.seen = obs
        first = obs["a"] if isinstance(obs, dict) else obs
        return first.reshape(len(first), -1).float().sum(1, keepdim=True) * self.scale


@pytest.fixture(autouse=True)
def encoders(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The example of docs/extending.md is registered as `deep`, `Seen` as `seen`, and both are forgotten afterwards."""
    monkeypatch.setattr(registry, "ENCODERS", {})
    exec(EXAMPLE, {"__name__": "my_encoder"})
    rmt_rl.register_encoder("seen")(Seen)
    yield


def make(space: gymnasium.Space[Any], **options: Any) -> ActorCritic:
    config = make_config(env="gym", policy="gru", **{f"policy.{key}": value for key, value in options.items()}).policy
    return ActorCritic(PolicySpec(config, space, spaces.Discrete(2), UnregisteredEnv("outside", {})))


@pytest.mark.slow
def test_the_example_trains_saves_loads_and_resumes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    more = {"policy.encoder": "deep", "policy.encoder_options": {"hidden": 5}, "run": "own"}
    result = rmt_rl.train(**TINY, **SMALL, **more)
    policy = rmt_rl.load_policy(result.folder)
    assert type(policy.encoder.encoder.encoder).__name__ == "Deep"
    assert {5} <= {n for p in policy.encoder.parameters() for n in p.shape}
    for name, value in result.policy.state_dict().items():
        assert torch.equal(value, policy.state_dict()[name])
    again = rmt_rl.train(resume=result.folder, steps=64)
    assert again.summary["steps"] == 64
    assert again.policy.config.encoder == "deep"


def test_the_encoder_sees_the_observation_with_one_leading_axis_in_its_own_dtypes() -> None:
    policy = make(DICT, encoder="seen")
    obs = {"a": torch.randn(3, 5, 2, 2), "b": torch.ones(3, 5, dtype=torch.int64)}
    action, first = torch.zeros(3, 5, dtype=torch.int64), torch.zeros(3, 5, dtype=torch.bool)
    policy.unroll(obs, action, policy.initial_state(3), first)
    seen = policy.encoder.encoder.encoder.seen
    assert torch.equal(seen["a"], obs["a"].view(15, 2, 2)) and seen["b"].dtype == torch.int64 and len(seen["b"]) == 15
    assert policy.encoder.encoder.encoder.space == DICT


def test_an_action_mask_is_not_shown_to_the_encoder() -> None:
    space = spaces.Dict({"a": spaces.Box(-1, 1, (2,), np.float32), "action_mask": spaces.MultiBinary(2)})
    assert list(make(space, encoder="seen").encoder.encoder.encoder.space) == ["a"]


def test_numbers_without_bounds_are_normalised_before_the_encoder() -> None:
    policy = make(DICT, encoder="seen", normalize_observation=True)
    obs = {"a": 100 + 7 * torch.randn(64, 2, 2), "b": torch.ones(64, dtype=torch.int64)}
    assert policy.encoder.without_moments()
    policy.encoder.add(obs)
    assert not policy.encoder.without_moments()
    policy.encoder(obs)
    shown = policy.encoder.encoder.encoder.seen["a"]
    assert shown.shape == (64, 2, 2) and float(shown.mean().abs()) < 1e-4 and abs(float(shown.std()) - 1) < 0.02


def test_a_budget_counts_the_encoder() -> None:
    env = rmt_rl.make_env("tmaze", 2, length=3)
    policy = rmt_rl.make_policy(env, "gru", params=20_000, encoder="deep")
    assert abs(sum(p.numel() for p in policy.parameters()) - 20_000) < 2_000


@pytest.mark.slow
def test_a_policy_with_an_own_encoder_is_exported(tmp_path: Path) -> None:
    env = rmt_rl.make_env("tmaze", 2, length=3)
    export(rmt_rl.make_policy(env, "mlp", encoder="deep"), tmp_path / "program", 2, onnx=False)
    program = torch.export.load(tmp_path / "program" / "step.pt2").module()
    names = [entry["name"] for entry in json.loads((tmp_path / "program" / "io.json").read_text())["inputs"]]
    assert names[:2] == ["observation", "first"] and callable(program)


class Short(nn.Module):
    def __init__(self, space: Any, width: int, extra: int = 1) -> None:
        super().__init__()
        self.layer = nn.Linear(math.prod(space.shape), width + extra)

    def forward(self, obs: torch.Tensor) -> torch.Tensor:
        return self.layer(obs)


class Doubles(Short):
    def forward(self, obs: torch.Tensor) -> torch.Tensor:
        return self.layer(obs)[:, :-1].double()


class Pairs(Short):
    def forward(self, obs: torch.Tensor) -> Any:
        return self.layer(obs), None


class NotANumber(Short):
    def forward(self, obs: torch.Tensor) -> torch.Tensor:
        return self.layer(obs)[:, :-1] * torch.nan


class Lazy(nn.Module):
    def __init__(self, space: Any, width: int) -> None:
        super().__init__()
        self.layer = nn.LazyLinear(width)

    def forward(self, obs: torch.Tensor) -> torch.Tensor:
        return self.layer(obs)


class Drops(Short):
    """Other vectors at every call while it learns."""

    def forward(self, obs: torch.Tensor) -> torch.Tensor:
        return nn.functional.dropout(self.layer(obs)[:, :-1], 0.5, self.training)


WRONG = {
    Short: r"returned \[2, 9\] of torch.float32 for 2 observations; expected \[2, 8\] of torch.float32",
    Doubles: r"returned \[2, 8\] of torch.float64 for 2",
    Pairs: r"returned a tuple for 2",
    NotANumber: "returned nan for a sample of its space",
    Lazy: "has layer.weight, whose shape is not known before its first call, so that no saved policy could be loaded",
}


@pytest.mark.parametrize("wrong", WRONG)
def test_a_wrong_result_is_one_sentence_before_the_run(
    wrong: type, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    rmt_rl.register_encoder("wrong")(wrong)
    with pytest.raises(rmt_rl.ConfigError, match=f"^policy.encoder=wrong: its class {WRONG[wrong]}"):
        rmt_rl.train(**TINY, **SMALL, **{"policy.encoder": "wrong"})
    assert not Path("runs").exists()
    with pytest.raises(rmt_rl.ConfigError, match=r"^policy.encoder=wrong: its class"):
        rmt_rl.make_policy(rmt_rl.make_env("tmaze", 2), "gru", width=8, encoder="wrong")


def test_an_encoder_that_differs_between_acting_and_learning_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    rmt_rl.register_encoder("drops")(Drops)
    with pytest.raises(RuntimeError, match=r"of the policy disagree: the encoder drops .*no dropout"):
        rmt_rl.train(**TINY, **SMALL, **{"policy.encoder": "drops"})


@pytest.mark.parametrize(
    "given, sentence",
    [
        (
            {"encoder": "dep"},
            "policy.encoder=dep: expected one of auto, deep, seen, or one that plugins=<module> registers",
        ),
        ({"encoder": "two words"}, "policy.encoder=two words: expected auto, or the name of a registered encoder"),
        (
            {"encoder_options": {"hidden": 3}},
            "policy.encoder_options=.*: has no effect with policy.encoder=auto; expected",
        ),
    ],
)
def test_a_wrong_name_or_options_without_an_encoder_are_one_sentence(given: dict[str, Any], sentence: str) -> None:
    with pytest.raises(rmt_rl.ConfigError, match=f"^{sentence}"):
        make_config(env="tmaze", policy="gru", **{f"policy.{key}": value for key, value in given.items()})


def test_options_that_the_class_does_not_take_are_one_sentence() -> None:
    with pytest.raises(
        rmt_rl.ConfigError, match=r"the encoder deep is called as .*unexpected keyword argument 'depth'"
    ):
        make(spaces.Box(-1, 1, (2,), np.float32), encoder="deep", encoder_options={"depth": 3})


def test_a_registration_that_cannot_work_is_one_sentence() -> None:
    for name in ("auto", "null", "two words", 3):
        with pytest.raises(rmt_rl.ConfigError, match=r"^policy.encoder="):
            rmt_rl.register_encoder(name)  # type: ignore[arg-type]
    with pytest.raises(
        rmt_rl.ConfigError, match=r"^policy.encoder=seen: is registered already, by .*Seen; choose another"
    ):
        rmt_rl.register_encoder("seen")(Short)
    with pytest.raises(rmt_rl.ConfigError, match=r"^policy.encoder=new: 3 is registered; expected the class"):
        rmt_rl.register_encoder("new")(3)  # type: ignore[type-var]


def test_a_function_that_makes_no_module_is_one_sentence() -> None:
    rmt_rl.register_encoder("function")(lambda space, width: None)  # type: ignore[type-var]
    with pytest.raises(
        rmt_rl.ConfigError, match=r"^policy.encoder=function: a NoneType was made; expected a torch.nn.Module"
    ):
        make(spaces.Box(-1, 1, (2,), np.float32), encoder="function")


def test_a_saved_policy_whose_encoder_is_not_registered_is_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rmt_rl.save_policy(make(DICT, encoder="seen"), tmp_path)
    monkeypatch.setattr(registry, "ENCODERS", {})
    with pytest.raises(
        rmt_rl.ConfigError, match=r"config.json: .*policy.encoder=seen: expected one of auto, or one that plugins="
    ):
        rmt_rl.load_policy(tmp_path)


class InPlace(Short):
    """Changes the observation itself, as `nn.ReLU(inplace=True)` in the first place does."""

    def forward(self, obs: Any) -> torch.Tensor:
        part = obs["observation"] if isinstance(obs, dict) else obs
        return self.layer(part.view(len(part), -1)[:, :2].mul_(2))[:, :-1]


def test_an_encoder_that_changes_its_observation_in_place_is_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    rmt_rl.register_encoder("in-place")(InPlace)
    sentence = "^policy.encoder: InPlace changed its observation in place, which is kept for learning; change a copy$"
    with pytest.raises(rmt_rl.ConfigError, match=sentence):
        rmt_rl.train(**TINY, **SMALL, **{"policy.encoder": "in-place"})
    assert not Path("runs").exists()


def test_an_encoder_that_changes_its_observation_later_is_one_sentence_too() -> None:
    class Late(Short):
        late = False

        def forward(self, obs: torch.Tensor) -> torch.Tensor:
            return self.layer(obs.relu_() if self.late else obs)[:, :-1]

    rmt_rl.register_encoder("late")(Late)
    policy = rmt_rl.make_policy(rmt_rl.make_env("tmaze", 2), "gru", width=8, encoder="late")
    policy.encoder.encoder.encoder.late = True
    first, obs = torch.ones(2, dtype=torch.bool), torch.ones(2, 2)
    with pytest.raises(rmt_rl.ConfigError, match="Late changed its observation in place"):
        policy.act(obs, policy.initial_state(2), first)
    with torch.inference_mode():  # torch does not count there
        policy.act(torch.ones(2, 2), policy.initial_state(2), first)
