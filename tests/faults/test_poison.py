"""A NaN or an infinity is reported before the optimizer step with its source, and changes no weight."""

import contextlib
import copy
import json
import math

import pytest
import torch

from rmt_rl import config
from rmt_rl.algos.ppo import PPOLearner
from rmt_rl.common.finite import NotFinite, first_nonfinite
from rmt_rl.config.cli import parse
from rmt_rl.runs.setup import setup_run
from rmt_rl.train import main

OPTIONS = ["env=tmaze", "env.length=5", "algo.num_envs=4", "algo.rollout=8", "algo.minibatches=2", "policy.width=16"]
BAD = [math.nan, math.inf, -math.inf]


@pytest.fixture
def make_learner(tmp_path):
    """A function that makes a learner after its first update; its arguments replace those of OPTIONS."""
    with contextlib.ExitStack() as stack:

        def make(*options):
            given = {option.partition("=")[0] for option in options}
            usual = [option for option in OPTIONS if option.partition("=")[0] not in given]
            learner = setup_run(parse([*usual, *options]), tmp_path, stack).learner
            learn(learner)
            return learner

        yield make


def learn(learner) -> dict:
    return learner.update(learner.collect(0.0), 0.0)


def poison(learner: PPOLearner, monkeypatch, at: int, observation=None, reward=None, rows=(2,)) -> None:
    """Make the environment return these numbers in these rows, at its step number `at` from now on."""
    step, count = learner.collector.env.step, iter(range(10**6))

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

    monkeypatch.setattr(learner.collector.env, "step", poisoned)


def weights(learner):
    return copy.deepcopy(learner.policy.state_dict())


def same(left, right) -> bool:
    return all(torch.equal(left[key], right[key]) for key in left)


@pytest.mark.slow
@pytest.mark.parametrize("value", BAD)
@pytest.mark.parametrize("what", ["observation", "reward"])
def test_a_number_from_the_environment_is_reported_with_row_and_step(make_learner, what, value, monkeypatch) -> None:
    learner = make_learner()
    before = weights(learner)
    poison(learner, monkeypatch, 3, **{what: value})
    # 32 steps in the rollout before, then the fourth step of four rows
    found = f"{what} of row 2 is {value}, 48 steps into the run: the environment returned it"
    with pytest.raises(NotFinite, match=f"^{found}"):
        learn(learner)
    assert same(before, weights(learner))


def test_a_reward_whose_square_overflows_is_detected_in_the_loss(make_learner, monkeypatch) -> None:
    learner = make_learner()
    poison(learner, monkeypatch, 3, reward=1e38)
    with pytest.raises(NotFinite, match=r"^the loss is (nan|inf); no optimizer step was made with it"):
        learn(learner)
    # a minibatch of other rows may have been learned from
    assert all(bool(p.isfinite().all()) for p in learner.policy.parameters())


def test_a_reward_that_overflows_float32_is_reported(make_learner, monkeypatch) -> None:
    learner = make_learner()
    poison(learner, monkeypatch, 3, reward=1e300)
    with pytest.raises(NotFinite, match=r"^reward of row 2 is inf, 48 steps into the run"):
        learn(learner)


def test_first_and_last_observations_are_checked(make_learner, monkeypatch) -> None:
    learner = make_learner("env.end_at_turn=true", "env.length=1")
    step, reset = learner.collector.env.step, learner.collector.env.reset

    def poisoned(action):
        obs, reward, terminated, truncated, info = step(action)
        if bool(truncated.any()):
            info["final_obs"] = torch.where(truncated[:, None], math.nan, info["final_obs"])
        return obs, reward, terminated, truncated, info

    monkeypatch.setattr(learner.collector.env, "step", poisoned)
    with pytest.raises(NotFinite, match=r"^last observation of row \d is nan, \d+ steps into the run"):
        for _ in range(20):
            learn(learner)
    monkeypatch.setattr(learner.collector.env, "reset", lambda **options: (reset(**options)[0] * math.nan, {}))
    with pytest.raises(NotFinite, match=r"^observation of row 0 is nan, \d+ steps into the run: .* from reset"):
        learner.collector._reset(0)


def test_a_gradient_is_reported_with_its_parameter(make_learner) -> None:
    learner = make_learner()
    before = weights(learner)
    learner.policy.value_head.bias.register_hook(lambda gradient: gradient * math.nan)
    with pytest.raises(NotFinite, match=r"^the gradient of value_head.bias is not finite, at a loss of"):
        learn(learner)
    assert same(before, weights(learner))


def test_a_weight_that_is_nan_is_detected_in_the_next_loss(make_learner) -> None:
    learner = make_learner()
    with torch.no_grad():
        learner.policy.value_head.bias.fill_(math.nan)
    with pytest.raises(NotFinite, match=r"^the loss is nan"):
        learn(learner)


def test_a_moment_that_is_nan_is_detected_in_the_weight_that_it_changes(make_learner) -> None:
    learner = make_learner()
    ((parameter, state), *_) = learner.optimizer.state.items()
    name = next(name for name, p in learner.policy.named_parameters() if p is parameter)
    state["exp_avg"].fill_(math.nan)
    with pytest.raises(NotFinite, match=rf"^the (loss is nan|weight {name} is not finite)"):
        learn(learner)


@pytest.fixture
def cartpole(tmp_path):
    """A learner that normalises observations, before its first rollout, and the rollouts that its collector makes."""
    options = ["env=gym", "algo.num_envs=2", "algo.rollout=4", "algo.minibatches=1", "policy=mlp", "policy.width=8"]
    with contextlib.ExitStack() as stack:
        learner = setup_run(parse([*options, "algo.skip_nonfinite=2"]), tmp_path, stack).learner
        collect, rollouts = learner.collector.collect, []

        def recorded(*given, **more):
            rollout, episodes = collect(*given, **more)
            rollouts.append(rollout)
            return rollout, episodes

        learner.collector.collect = recorded
        yield learner, rollouts


def test_the_first_of_two_rollouts_sets_the_scale_of_the_observations(cartpole) -> None:
    learner, rollouts = cartpole
    assert learner.collect(0.0) is rollouts[1] and len(rollouts) == 2
    moments = learner.policy.encoder.encoder.moments
    speeds = rollouts[0].obs.flatten(0, 1)[:, [1, 3]]  # without bounds
    assert float(moments.count) == 8 and torch.allclose(moments.mean[[1, 3]], speeds.double().mean(0))
    assert learner.collect(0.0) is rollouts[2] and float(moments.count) == 8


def test_the_scale_of_the_observations_is_not_set_by_a_rollout_with_a_nan(cartpole, monkeypatch) -> None:
    learner, rollouts = cartpole
    poison(learner, monkeypatch, 1, observation=math.nan, rows=(1,))
    learner.collect(0.0)
    assert rollouts[0].nonfinite and float(learner.policy.encoder.encoder.moments.count) == 0
    learner.collect(0.0)
    assert float(learner.policy.encoder.encoder.moments.count) == 8


@pytest.mark.slow
@pytest.mark.parametrize("value", BAD)
@pytest.mark.parametrize("policy", ["rmt", "lstm"])
def test_with_skip_nonfinite_a_rollout_is_skipped_and_the_run_continues(
    make_learner, value, policy, monkeypatch
) -> None:
    learner = make_learner("algo.skip_nonfinite=2", "env.length=500", f"policy={policy}")
    before = weights(learner)
    poison(learner, monkeypatch, 3, observation=value, reward=math.inf, rows=(1, 3))
    rollout = learner.collect(0.0)
    row = learner.update(rollout, 0.0)
    assert row["skipped"] == 1 and rollout.nonfinite.startswith(f"observation of row 1 is {value}")
    assert same(before, weights(learner))
    row = learn(learner)  # memory and episodes are intact
    assert row["skipped"] == 1 and not same(before, weights(learner))
    assert all(bool(p.isfinite().all()) for p in learner.policy.parameters())


def test_more_skipped_steps_in_a_row_than_allowed_raise(make_learner) -> None:
    learner = make_learner("algo.skip_nonfinite=3")
    before = weights(learner)
    learner.policy.value_head.bias.register_hook(lambda gradient: gradient * math.nan)
    with pytest.raises(NotFinite, match=r"\(4 in a row\)"):
        learn(learner)
    assert learner.guard.skipped == 4 and same(before, weights(learner))


def test_rate_is_guarded_too(tmp_path) -> None:
    with contextlib.ExitStack() as stack:
        run = parse(["env=tmaze-rate", "env.length=5", "algo=rate", "policy.width=16"])
        rate = setup_run(run, tmp_path, stack).learner
    policy = rate.policy
    policy.head.linear.bias.register_hook(lambda gradient: gradient * math.inf)
    before = copy.deepcopy(policy.state_dict())
    with pytest.raises(NotFinite, match=r"^the gradient of head.linear.bias is not finite"):
        learn(rate)
    assert same(before, policy.state_dict())


def test_large_finite_numbers_are_accepted() -> None:
    assert first_nonfinite("reward", torch.full((100,), 3e38)) is None  # though their sum is infinite
    assert first_nonfinite("reward", torch.tensor([1, 2])) is None


def test_the_command_reports_it_in_one_line_and_keeps_its_checkpoints(tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    update, count = PPOLearner.update, iter(range(10))

    def poisoned(self, rollout, progress):
        if next(count) == 3:
            self.policy.value_head.bias.register_hook(lambda gradient: gradient * math.nan)
        return update(self, rollout, progress)

    monkeypatch.setattr(PPOLearner, "update", poisoned)
    assert main([*OPTIONS, "steps=500", "checkpoint_steps=64", "run=a"]) == 1
    err = capsys.readouterr().err
    assert err.count("\n") == 1 and err.startswith("error: the gradient of value_head.bias is not finite")
    assert sorted(path.name for path in (tmp_path / "runs/a/checkpoints").iterdir()) == ["step-64", "step-96"]
    rows = [json.loads(line) for line in (tmp_path / "runs/a/metrics.jsonl").read_text().splitlines()]
    assert len(rows) == 3


def test_options_of_the_guard_are_checked() -> None:
    with pytest.raises(config.ConfigError, match=r"algo.skip_nonfinite=-1: expected a whole number, at least 0"):
        parse([*OPTIONS, "algo.skip_nonfinite=-1"])
