"""policy.critic_only: what only the critic sees has no influence on actions, and is not needed where a policy only acts."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, ClassVar

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium import spaces

import rmt_rl
from rmt_rl.config.resolve import make_config
from rmt_rl.export import export, step_module
from rmt_rl.policies.actor_critic import ActorCritic
from rmt_rl.policies.spec import PolicySpec, UnregisteredEnv
from rmt_rl.rollouts.collector import Collector

ROWS = 3
SPACE = spaces.Dict(
    {
        "seen": spaces.Box(-1, 1, (2,), np.float32),
        "state.cue": spaces.Discrete(4),
        "state.place": spaces.Box(-np.inf, np.inf, (3,), np.float32),
    }
)
SMALL = {"algo.num_envs": 2, "algo.rollout": 8, "algo.minibatches": 1, "algo.epochs": 1, "policy.width": 8}


class Hidden(gymnasium.Env[Any, Any]):
    """A bit is shown at the first step only and reported in every info."""

    observation_space: Any = spaces.Box(-1, 1, (1,), np.float32)
    action_space: Any = spaces.Discrete(2)
    name: ClassVar[str] = "state"

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        self.t, self.bit = 0, int(self.np_random.integers(2))
        return np.full(1, 2.0 * self.bit - 1, np.float32), self.info()

    def step(self, action: Any) -> Any:
        self.t += 1
        return np.zeros(1, np.float32), float(action == self.bit), self.t >= 3, False, self.info()

    def info(self) -> dict[str, Any]:
        return {"state": [self.bit, self.t]}


class Shrinks(Hidden):
    def info(self) -> dict[str, Any]:
        return {"state": [1] * (3 - self.t)}


class Stops(Hidden):
    def info(self) -> dict[str, Any]:
        return {} if self.t else {"state": 1.0}


class Words(Hidden):
    def info(self) -> dict[str, Any]:
        return {"state": {"bit": 1}}


class Alone(Hidden):
    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        return super().reset(seed=seed)[0]


for cls in (Hidden, Shrinks, Stops, Words, Alone):
    gymnasium.register(f"rmt-test/{cls.__name__}-v0", entry_point=cls)


def make(kind: str = "lstm", space: Any = SPACE, **options: Any) -> ActorCritic:
    given = {"width": 8, "critic": "separate", "critic_only": "state", **options}
    config = make_config(env="gym", policy=kind, **{f"policy.{key}": value for key, value in given.items()}).policy
    torch.manual_seed(0)
    return ActorCritic(PolicySpec(config, space, spaces.Discrete(3), UnregisteredEnv("outside", {}))).eval()


def observations(steps: int = 6) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    return {
        "seen": torch.rand(ROWS, steps, 2, generator=generator),
        "state.cue": torch.randint(4, (ROWS, steps), generator=generator),
        "state.place": torch.randn(ROWS, steps, 3, generator=generator),
    }


@pytest.mark.parametrize("kind", ["rmt", "lstm", "mlp"])
def test_another_state_changes_the_value_and_no_bit_of_the_actor(kind: str) -> None:
    policy = make(kind)
    obs, action = observations(), torch.zeros(ROWS, 6, dtype=torch.int64)
    other = {**obs, "state.cue": 3 - obs["state.cue"], "state.place": 1e6 * obs["state.place"]}
    first, state = torch.zeros(ROWS, 6, dtype=torch.bool), policy.initial_state(ROWS, critic=True)
    parameters, values, after = policy.unroll(obs, action, state, first)
    others, other_values, other_after = policy.unroll(other, action, state, first)
    assert torch.equal(parameters, others) and not torch.equal(values, other_values)
    same = [torch.equal(x, y) for x, y in zip(flat(after.memory.actor), flat(other_after.memory.actor), strict=True)]
    assert all(same)
    now, changed = ({key: x[:, 0] for key, x in o.items()} for o in (obs, other))
    chosen = [policy.explore(o, state, first[:, 0], torch.Generator().manual_seed(2)) for o in (now, changed)]
    assert torch.equal(chosen[0][0], chosen[1][0]) and torch.equal(chosen[0][1], chosen[1][1])
    assert not torch.equal(chosen[0][2], chosen[1][2])


def flat(state: Any) -> list[torch.Tensor]:
    from rmt_rl.common.state import leaves

    return list(leaves(state).values())


def test_acting_takes_observations_with_without_and_with_a_broken_state() -> None:
    policy, first = make("rmt"), torch.ones(ROWS, dtype=torch.bool)
    obs = {key: x[:, 0] for key, x in observations().items()}
    expected, _ = policy.act(obs, policy.initial_state(ROWS), first, deterministic=True)
    alone = {"seen": obs["seen"]}
    for shown in (alone, {**obs, "state.place": obs["state.place"] * torch.nan}):
        assert torch.equal(policy.act(shown, policy.initial_state(ROWS), first, deterministic=True)[0], expected)
    arrays = {key: x.numpy() for key, x in alone.items()}
    action = policy.act(arrays, policy.initial_state(ROWS), np.ones(ROWS, bool), deterministic=True)[0]
    assert action.tolist() == expected.tolist()
    nested = {
        "seen": arrays["seen"][0],
        "state": {"cue": 1, "place": np.zeros(3)},
    }  # as the environment itself shows it
    assert policy.act(nested, policy.initial_state(1), True, deterministic=True)[0] == action[0]
    assert policy.explain(alone, policy.initial_state(ROWS), first).steps.shape[0] == ROWS


def test_a_value_without_the_state_is_one_sentence() -> None:
    policy = make()
    obs = {"seen": torch.zeros(ROWS, 2)}
    with pytest.raises(ValueError, match=r"^obs is \['seen'\]; expected \['seen', 'state.cue', 'state.place'\]"):
        policy.value(obs, policy.initial_state(ROWS, critic=True))
    with pytest.raises(ValueError, match=r"^obs is \[\]; expected \['seen'\]"):
        policy.act({"state.cue": torch.zeros(ROWS)}, policy.initial_state(ROWS), torch.ones(ROWS, dtype=torch.bool))


@pytest.mark.parametrize(
    "given, space, sentence",
    [
        (
            {"critic": "shared"},
            SPACE,
            "policy.critic_only=state: a shared critic sees what the actor sees; expected policy.cr",
        ),
        (
            {"critic_only": "stat"},
            SPACE,
            "policy.critic_only=stat: the observation has no entry stat, it has seen, state.cue, ",
        ),
        (
            {"critic_only": "seen,state"},
            SPACE,
            "policy.critic_only=seen,state: names all that there is to see; expected at",
        ),
        (
            {},
            SPACE["seen"],
            r"policy.critic_only=state: the observation has no entries, it is Box\(.*env.add_info=<name>",
        ),
        (
            {"critic_only": "action_mask"},
            spaces.Dict({"seen": SPACE["seen"], "action_mask": spaces.MultiBinary(3)}),
            "policy.critic_only=action_mask: the actor needs action_mask; leave it out",
        ),
    ],
)
def test_entries_that_cannot_be_hidden_are_one_sentence(given: dict[str, Any], space: Any, sentence: str) -> None:
    with pytest.raises(rmt_rl.ConfigError, match=f"^{sentence}"):
        make(space=space, **given)


def test_a_space_beside_a_comma_is_one_sentence() -> None:
    with pytest.raises(rmt_rl.ConfigError, match=r"names of entries, separated by commas without spaces"):
        make(critic_only="seen, state")


def test_an_exported_program_has_no_input_for_the_state(tmp_path: Path) -> None:
    policy = make()
    _, inputs, names, _ = step_module(policy, 2)
    assert names[:2] == ["observation.seen", "first"] and inputs[0].shape == (2, 2)


@pytest.mark.slow
def test_the_exported_program_acts_as_the_policy(tmp_path: Path) -> None:
    policy = make()
    export(policy, tmp_path / "program", ROWS, onnx=False)
    names = [entry["name"] for entry in json.loads((tmp_path / "program" / "io.json").read_text())["inputs"]]
    assert not [name for name in names if "state." in name and name.startswith("observation")]
    obs, first = torch.rand(ROWS, 2), torch.ones(ROWS, dtype=torch.bool)
    program = torch.export.load(tmp_path / "program" / "step.pt2").module()
    action, *_ = program(obs, first, *flat(policy.initial_state(ROWS)))
    assert torch.equal(action, policy.act({"seen": obs}, policy.initial_state(ROWS), first, deterministic=True)[0])


@pytest.mark.slow
def test_a_policy_learns_with_the_state_of_infos_and_acts_without_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    result = rmt_rl.train(
        env="gym",
        policy="gru",
        steps=32,
        evaluate_episodes=4,
        run="hidden",
        device="cpu",
        **SMALL,
        **{"env.id": "rmt-test/Hidden-v0", "env.add_info": "state"},
        **{"policy.critic": "separate", "policy.critic_only": "state"},
    )
    assert result.score is not None
    policy = rmt_rl.load_policy(result.folder)
    # the environment as it is: one array, no state
    single, state, first, obs = Hidden(), policy.initial_state(1), True, Hidden().reset(seed=0)[0]
    action, state = policy.act(obs, state, first)
    assert single.action_space.contains(action)
    assert rmt_rl.evaluate(policy, Hidden, episodes=2).episodes == 2


def test_a_policy_is_evaluated_but_not_trained_where_the_state_is_missing() -> None:
    full, bare = (rmt_rl.make_env("gym", 2, id="rmt-test/Hidden-v0", add_info=name) for name in ("state", None))
    policy = rmt_rl.make_policy(full, "gru", width=8, critic="separate", critic_only="state")
    assert rmt_rl.evaluate(policy, bare, episodes=2).episodes == 2
    with pytest.raises(rmt_rl.ConfigError, match="its observation space differs"):
        Collector(bare, policy)
    plain = rmt_rl.make_policy(full, "gru", width=8)
    with pytest.raises(rmt_rl.ConfigError, match="its observation space differs"):
        rmt_rl.evaluate(plain, bare, episodes=2)


def test_info_becomes_an_entry_also_of_the_last_observation_and_repeats_with_the_seed() -> None:
    env = rmt_rl.make_env("gym", 2, id="rmt-test/Hidden-v0", add_info="state")
    assert env.single_observation_space["state"] == spaces.Box(-np.inf, np.inf, (2,), np.float32)
    obs, _ = env.reset(seed=5)
    again, _ = env.reset(seed=5)
    assert torch.equal(obs["state"], again["state"]) and torch.equal(2 * obs["state"][:, :1] - 1, obs["observation"])
    for t in (1, 2, 3):
        after, *_, info = env.step(torch.zeros(2, dtype=torch.int64))
        if t < 3:
            assert after["state"][:, 1].tolist() == [t, t]
    assert info["final_obs"]["state"][:, 1].tolist() == [3, 3] and after["state"][:, 1].tolist() == [0, 0]


@pytest.mark.parametrize(
    "name, entry, sentence",
    [
        (
            "Hidden",
            "observation",
            "the observation of Hidden has the entry 'observation' already; leave the option out",
        ),
        ("Hidden", "action_mask", "a mask of the actions comes from env.action_mask=info"),
        ("Hidden", "place", r"Hidden: reset returned info\['place'\] = None; expected numbers, as an array"),
        ("Words", "state", r"Words: reset returned info\['state'\] = \{'bit': 1\}; expected numbers, as an array"),
        (
            "Shrinks",
            "state",
            r"Shrinks: step returned info\['state'\] = \[1, 1\]; expected numbers of shape \(3,\), as an",
        ),
        ("Stops", "state", r"Stops: step returned info\['state'\] = None; expected numbers of shape \(\), as an array"),
    ],
)
def test_an_info_that_cannot_be_shown_is_one_sentence(name: str, entry: str, sentence: str) -> None:
    with pytest.raises(rmt_rl.ConfigError, match=f"^env.add_info={entry}: {sentence}"):
        env = rmt_rl.make_env("gym", 2, id=f"rmt-test/{name}-v0", add_info=entry)
        env.reset(seed=0)
        env.step(torch.zeros(2, dtype=torch.int64))


def test_a_reset_without_an_info_is_one_sentence() -> None:
    with pytest.raises(rmt_rl.ConfigError, match=r"^Alone: reset returned .*; expected \(observation, info\)"):
        rmt_rl.make_env("gym", 2, id="rmt-test/Alone-v0", add_info="state")


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_stable_baselines_predict_takes_observations_with_and_without_the_state() -> None:
    pytest.importorskip("stable_baselines3")
    from rmt_rl.sb3 import SB3Policy

    full = rmt_rl.make_env("gym", 2, id="rmt-test/Hidden-v0", add_info="state")
    policy = SB3Policy(rmt_rl.make_policy(full, "gru", width=8, critic="separate", critic_only="state"))
    obs = {key: x.numpy() for key, x in full.reset(seed=0)[0].items()}
    expected, _ = policy.predict(obs, deterministic=True)
    for shown in ({"observation": obs["observation"]}, obs["observation"]):
        assert policy.predict(shown, deterministic=True)[0].tolist() == expected.tolist()  # type: ignore[arg-type]
    assert np.ndim(policy.predict(obs["observation"][0], deterministic=True)[0]) == 0


class Rich(gymnasium.Env[Any, Any]):
    """Only the critic sees a text and two pictures; the actor sees one number, and which actions are allowed."""

    observation_space: Any = spaces.Dict(
        seen=spaces.Box(-1, 1, (2,), np.float32),
        action_mask=spaces.MultiBinary(3),
        state=spaces.Dict(
            words=spaces.Text(8),
            large=spaces.Box(0, 255, (36, 36, 3), np.uint8),
            small=spaces.Box(0, 1, (3, 3, 1), np.uint8),
        ),
    )
    action_space: Any = spaces.Discrete(3)

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        return self.show(), {}

    def show(self) -> dict[str, Any]:
        state = {"words": "go left", "large": np.zeros((36, 36, 3), np.uint8), "small": np.zeros((3, 3, 1), np.uint8)}
        return {"seen": np.ones(2, np.float32), "action_mask": np.array([1, 0, 1], np.int8), "state": state}

    def step(self, action: Any) -> Any:
        assert action != 1
        return self.show(), 1.0, bool(self.np_random.random() < 0.3), False, {}


gymnasium.register("rmt-test/Rich-v0", entry_point=Rich)


@pytest.mark.slow
@pytest.mark.parametrize("hidden", ["state", "state.words,state.large"])
def test_texts_and_pictures_may_be_for_the_critic_alone_and_masks_stay(hidden: str, tmp_path: Path) -> None:
    env = rmt_rl.make_env("gym", 2, id="rmt-test/Rich-v0")
    policy = rmt_rl.make_policy(env, "gru", width=8, critic="separate", critic_only=hidden).eval()
    rollout, _ = Collector(env, policy).collect(6)
    assert not bool((rollout.action == 1).any())
    export(policy, tmp_path / "program", 2, onnx=False)
    names = [entry["name"] for entry in json.loads((tmp_path / "program" / "io.json").read_text())["inputs"]]
    shown = [name.removeprefix("observation.") for name in names if name.startswith("observation.")]
    assert shown == ["action_mask", "seen", *([] if hidden == "state" else ["state.small"])]
    obs, first = {name: env.reset(seed=0)[0][name] for name in shown}, torch.ones(2, dtype=torch.bool)
    state = policy.initial_state(2)
    expected, _ = policy.act(obs, state, first, deterministic=True)
    action, *_ = torch.export.load(tmp_path / "program" / "step.pt2").module()(*obs.values(), first, *flat(state))
    assert torch.equal(action, expected)


@pytest.mark.slow
def test_an_onnx_program_has_no_inputs_for_what_only_the_critic_sees(tmp_path: Path) -> None:
    for package in ("onnx", "onnxscript"):
        pytest.importorskip(package)
    runtime = pytest.importorskip("onnxruntime")
    env = rmt_rl.make_env("gym", 2, id="rmt-test/Rich-v0")
    policy = rmt_rl.make_policy(env, "gru", width=8, critic="separate", critic_only="state").eval()
    export(policy, tmp_path / "program", 2, onnx=True)
    program = runtime.InferenceSession(tmp_path / "program" / "step.onnx")
    state, first, obs = policy.initial_state(2), torch.ones(2, dtype=torch.bool), env.reset(seed=0)[0]
    values = [obs["action_mask"], obs["seen"], first, *flat(state)]
    names = [entry.name for entry in program.get_inputs()]
    inputs = {name: x.numpy() for name, x in zip(names, values, strict=True)}
    expected, _ = policy.act({name: obs[name] for name in ("action_mask", "seen")}, state, first, deterministic=True)
    assert not [name for name in names if name.startswith("observation.state")]
    assert program.run(None, inputs)[0].tolist() == expected.tolist()
