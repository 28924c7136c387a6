"""A number that is not finite is caught before a step of the optimizer, named, and harms no weight."""

import copy
import json
import math

import pytest
import torch

from rmt_rl import config, train
from rmt_rl.algos.ppo import Online
from rmt_rl.algos.rate import RATE
from rmt_rl.common.finite import NotFinite, first_culprit
from rmt_rl.config.cli import parse, run
from rmt_rl.train import begin

CPU = torch.device("cpu")
OPTIONS = ["env=tmaze", "env.length=5", "algo.num_envs=4", "algo.rollout=8", "algo.minibatches=2", "policy.width=16"]
BAD = [math.nan, math.inf, -math.inf]


def learner(*options) -> Online:
    """After one update; `options` in place of OPTIONS."""
    given = {option.partition("=")[0] for option in options}
    usual = [option for option in OPTIONS if option.partition("=")[0] not in given]
    run, env, policy, _ = begin(parse([*usual, *options]), CPU)
    online = Online(run, env, policy)
    online.learn(0.0)
    return online


def poison(online: Online, monkeypatch, at: int, observation=None, reward=None, rows=(2,)) -> None:
    """The environment's step number `at` from now on gives such numbers in these rows."""
    step, count = online.collector.env.step, iter(range(10**6))

    def poisoned(action):
        obs, paid, *rest = step(action)
        if next(count) == at:
            obs, paid = obs.clone(), paid.clone()
            for row in rows:
                if observation is not None:
                    obs[row, 1] = observation
                if reward is not None:
                    paid[row] = reward
        return obs, paid, *rest

    monkeypatch.setattr(online.collector.env, "step", poisoned)


def weights(online: Online):
    return copy.deepcopy(online.ppo.policy.state_dict())


def same(left, right) -> bool:
    return all(torch.equal(left[key], right[key]) for key in left)


@pytest.mark.parametrize("value", BAD)
@pytest.mark.parametrize("what", ["observation", "reward"])
def test_what_the_environment_gives_is_named_by_row_and_step(what, value, monkeypatch) -> None:
    online = learner()
    before = weights(online)
    poison(online, monkeypatch, 3, **{what: value})
    # 32 steps in the rollout before, then the fourth step of four rows
    with pytest.raises(
        NotFinite, match=rf"^{what} of row 2 is {value}, 48 steps into the run: the environment gave it"
    ):
        online.learn(0.0)
    assert same(before, weights(online))


def test_a_number_that_is_too_large_for_its_square_is_caught_in_the_loss(monkeypatch) -> None:
    online = learner()
    poison(online, monkeypatch, 3, reward=1e38)
    with pytest.raises(NotFinite, match=r"^the loss is (nan|inf); no step was made of it"):
        online.learn(0.0)
    # a minibatch of other rows may have been learned from
    assert all(bool(p.isfinite().all()) for p in online.ppo.policy.parameters())


def test_a_reward_that_is_too_large_for_its_type_is_named(monkeypatch) -> None:
    online = learner()
    poison(online, monkeypatch, 3, reward=1e300)
    with pytest.raises(NotFinite, match=r"^reward of row 2 is inf, 48 steps into the run"):
        online.learn(0.0)


def test_a_first_and_a_last_observation_are_looked_at(monkeypatch) -> None:
    online = learner("env.end_at_turn=true", "env.length=1")
    step, reset = online.collector.env.step, online.collector.env.reset

    def poisoned(action):
        obs, reward, terminated, truncated, info = step(action)
        if bool(truncated.any()):
            info["final_obs"] = torch.where(truncated[:, None], math.nan, info["final_obs"])
        return obs, reward, terminated, truncated, info

    monkeypatch.setattr(online.collector.env, "step", poisoned)
    with pytest.raises(NotFinite, match=r"^last observation of row \d is nan, \d+ steps into the run"):
        for _ in range(20):
            online.learn(0.0)
    monkeypatch.setattr(online.collector.env, "reset", lambda **options: (reset(**options)[0] * math.nan, {}))
    with pytest.raises(NotFinite, match=r"^observation of row 0 is nan, \d+ steps into the run: .* when it was reset"):
        online.collector._begin(0)


def test_a_gradient_is_named_by_its_parameter() -> None:
    online = learner()
    before = weights(online)
    online.ppo.policy.value_head.bias.register_hook(lambda gradient: gradient * math.nan)
    with pytest.raises(NotFinite, match=r"^the gradient of value_head.bias is not finite, at a loss of"):
        online.learn(0.0)
    assert same(before, weights(online))


def test_a_weight_that_is_not_a_number_stops_at_the_next_loss() -> None:
    online = learner()
    with torch.no_grad():
        online.ppo.policy.value_head.bias.fill_(math.nan)
    with pytest.raises(NotFinite, match=r"^the loss is nan"):
        online.learn(0.0)


def test_a_moment_that_is_not_a_number_is_noticed_in_the_weight_that_it_spoils() -> None:
    online = learner()
    ((parameter, state), *_) = online.ppo.optimizer.state.items()
    name = next(name for name, p in online.ppo.policy.named_parameters() if p is parameter)
    state["exp_avg"].fill_(math.nan)
    with pytest.raises(NotFinite, match=rf"^the (loss is nan|weight {name} is not finite)"):
        online.learn(0.0)


@pytest.mark.parametrize("value", BAD)
@pytest.mark.parametrize("policy", ["rmt", "lstm"])
def test_skipping_leaves_the_rollout_out_and_goes_on(value, policy, monkeypatch) -> None:
    online = learner("algo.skip_nonfinite=2", "env.length=500", f"policy={policy}")
    before = weights(online)
    poison(online, monkeypatch, 3, observation=value, reward=math.inf, rows=(1, 3))
    _, row, _ = online.learn(0.0)
    assert row["skipped"] == 1 and online.collector.wrong.startswith(f"observation of row 1 is {value}")
    assert same(before, weights(online))
    _, row, _ = online.learn(0.0)  # memory and episodes are whole
    assert row["skipped"] == 1 and not same(before, weights(online))
    assert all(bool(p.isfinite().all()) for p in online.ppo.policy.parameters())


def test_skipping_ends_after_so_many_in_a_row() -> None:
    online = learner("algo.skip_nonfinite=3")
    before = weights(online)
    online.ppo.policy.value_head.bias.register_hook(lambda gradient: gradient * math.nan)
    with pytest.raises(NotFinite, match=r"\(4 in a row\)"):
        online.learn(0.0)
    assert online.ppo.guard.skipped == 4 and same(before, weights(online))


def test_rate_is_guarded_too() -> None:
    run, _, policy, data = begin(parse(["env=tmaze-rate", "env.length=5", "algo=rate", "policy.width=16"]), CPU)
    rate = RATE(policy, run.algo, data, 0, CPU)
    policy.head.linear.bias.register_hook(lambda gradient: gradient * math.inf)
    before = copy.deepcopy(policy.state_dict())
    with pytest.raises(NotFinite, match=r"^the gradient of head.linear.bias is not finite"):
        rate.learn(0.0)
    assert same(before, policy.state_dict())


def test_large_numbers_are_no_culprits() -> None:
    assert first_culprit("reward", torch.full((100,), 3e38)) is None  # though their sum is infinite
    assert first_culprit("reward", torch.tensor([1, 2])) is None
    entries = {"a": torch.zeros(3, 2), "b": torch.tensor([[0.0], [0.0], [math.nan]])}
    assert first_culprit("observation", entries) == "observation 'b' of row 2 is nan"


def test_the_command_says_it_in_one_line_and_keeps_its_checkpoints(tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    learn, count = Online.learn, iter(range(10))

    def poisoned(self, progress):
        if next(count) == 3:
            self.ppo.policy.value_head.bias.register_hook(lambda gradient: gradient * math.nan)
        return learn(self, progress)

    monkeypatch.setattr(Online, "learn", poisoned)
    assert run(lambda: train.main([*OPTIONS, "steps=500", "checkpoint_steps=64", "run=a"])) == 1
    err = capsys.readouterr().err
    assert err.count("\n") == 1 and err.startswith("error: the gradient of value_head.bias is not finite")
    assert sorted(path.name for path in (tmp_path / "runs/a/checkpoints").iterdir()) == ["step-0", "step-64"]
    rows = [json.loads(line) for line in (tmp_path / "runs/a/metrics.jsonl").read_text().splitlines()]
    assert len(rows) == 3


def test_options_of_the_guard_are_checked() -> None:
    with pytest.raises(config.ConfigError, match=r"algo.skip_nonfinite=-1: expected a whole number, at least 0"):
        parse([*OPTIONS, "algo.skip_nonfinite=-1"])
