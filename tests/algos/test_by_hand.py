"""The loss of PPO, its rewards and RATE's losses, computed by hand from what the policy returns for one step at a time."""

import copy
import dataclasses
import math
import types

import numpy as np
import pytest
import torch
from gymnasium import spaces

from rmt_rl import config
from rmt_rl.algos import ppo as ppo_module
from rmt_rl.algos.ppo import PPO
from rmt_rl.algos.rate import VALIDATIONS, RATELearner
from rmt_rl.policies.actor_critic import ActorCritic, PolicyState
from rmt_rl.policies.spec import PolicySpec, UnregisteredEnv
from rmt_rl.rollouts.collector import Rollout
from rmt_rl.rollouts.dataset import Dataset, Episode

OBS = spaces.Box(-np.inf, np.inf, (2,), np.float32)
CHOICE, BOX = spaces.Discrete(3), spaces.Box(-2, 2, (2,), np.float32)


def policy_of(actions=CHOICE, seed=0, **options):
    torch.manual_seed(seed)
    usual = {"width": 8, "segment": 3, "memory_tokens": 2, "memory_update": "replace", "blank_memory": "seen"}
    options = config.RMTConfig(**usual | {"positions": "learned", "write_from": "memory"} | options)
    policy = ActorCritic(PolicySpec(options, OBS, actions, UnregisteredEnv("outside", {})))
    for parameter in policy.parameters():  # heads start so small that a wrong loss would hardly show
        parameter.data += 0.2 * torch.randn_like(parameter)
    return policy


# ------------------------------------------------------------------------------------------------------------------ PPO


def rollout_of(rows, steps, seed=0):
    """A made-up rollout, whose numbers are far from zero and from each other."""
    g = torch.Generator().manual_seed(seed)
    first = torch.zeros(rows, steps, dtype=torch.bool)
    first[:, 0] = True
    log_prob, value, next_value, reward = torch.randn(4, rows, steps, generator=g)
    policy = policy_of()
    return Rollout(
        obs=torch.randn(rows, steps, 2, generator=g),
        action=torch.randint(3, (rows, steps), generator=g),
        log_prob=-1 - 0.2 * log_prob.abs(),
        value=value,
        next_value=next_value,
        reward=reward,
        terminated=torch.rand(rows, steps, generator=g) < 0.2,
        truncated=torch.rand(rows, steps, generator=g) < 0.2,
        first=first,
        begins=first,
        state=policy.initial_state(rows),
    )


@pytest.mark.parametrize("normalize", [True, False])
@pytest.mark.parametrize("scale", [1.0, 0.25])
def test_the_loss_of_ppo_is_the_sum_of_its_terms_step_by_step(normalize, scale):
    options = config.PPOConfig(
        num_envs=3,
        clip=0.1,
        value_coef=0.7,
        kl_coef=0.4,
        entropy_coef=0.03,
        barrier_coef=0.2,
        advantage_floor=0.5,
        normalize_advantage=normalize,
    )
    policy, rollout, rows = policy_of(), rollout_of(3, 5), torch.tensor([2, 0])
    advantage, target = torch.randn(2, 2, 5, generator=torch.Generator().manual_seed(9)).unbind(0)
    with torch.no_grad():
        loss, measured = PPO(policy, options)._loss(rollout, advantage, target, rows, scale)
    adv = np.array(advantage.tolist())
    if normalize:
        adv = (adv - adv.mean()) / max(adv.std(ddof=1), 0.5)
    sums = dict.fromkeys(("policy", "value", "entropy", "barrier", "kl", "clipped"), 0.0)
    for i, row in enumerate(rows.tolist()):
        for t, (p, value) in enumerate(by_steps(policy, rollout.obs[row], rollout.action[row])):
            ratio = math.exp(math.log(p[rollout.action[row, t]]) - float(rollout.log_prob[row, t]))
            inside = min(max(ratio, 0.9), 1.1)
            sums["policy"] -= min(ratio * adv[i, t], inside * adv[i, t])
            sums["value"] += 0.5 * (value - float(target[i, t])) ** 2
            sums["entropy"] -= sum(q * math.log(q) for q in p)
            sums["barrier"] += sum(math.log(1 / 3 / q) for q in p) / 3
            sums["kl"] += ratio - 1 - math.log(ratio)
            sums["clipped"] += abs(ratio - 1) > 0.1
    mean = {name: total / 10 for name, total in sums.items()}
    expected = mean["policy"] + 0.7 * mean["value"] + 0.4 * mean["kl"]
    expected += scale * (0.2 * mean["barrier"] - 0.03 * mean["entropy"])
    assert float(loss) == pytest.approx(expected, rel=1e-5)
    names = {"policy": "policy_loss", "value": "value_loss", "entropy": "entropy", "kl": "approx_kl"}
    names["clipped"] = "clip_fraction"
    assert {ours: float(measured[ours]) for ours in names.values()} == pytest.approx(
        {ours: mean[name] for name, ours in names.items()}, rel=1e-5
    )


def add_auxiliary_losses(policy):
    """Two losses of the backbone, of 0.75 together in every call."""
    unroll = policy.backbone.unroll_with_losses
    losses = {"one": torch.tensor(1.25), "two": torch.tensor(-0.5)}
    policy.backbone.unroll_with_losses = lambda x, state, first: (*unroll(x, state, first)[:2], losses)
    return policy


@torch.no_grad()
def test_auxiliary_losses_of_the_backbone_are_added_to_the_loss_of_ppo():
    policy, rollout, rows = policy_of(), rollout_of(3, 5), torch.tensor([2, 0])
    given = rollout, torch.ones(2, 5), torch.ones(2, 5), rows, 1.0
    without, _ = PPO(policy, config.PPOConfig(num_envs=3))._loss(*given)
    loss, measured = PPO(add_auxiliary_losses(policy), config.PPOConfig(num_envs=3))._loss(*given)
    assert float(loss - without) == pytest.approx(0.75, abs=1e-5)
    assert (float(measured["auxiliary/one"]), float(measured["auxiliary/two"])) == (1.25, -0.5)


@torch.no_grad()
def by_steps(policy, obs, action):
    """For every step of one episode its probabilities as a list and its value, from `step` alone."""
    state, found = policy.initial_state(1), []
    for t in range(len(obs)):
        logits, value, memory = policy.step(obs[t][None], state, torch.tensor([t == 0]))
        state = PolicyState(memory, action[t][None])
        e = [math.exp(x) for x in logits[0].tolist()]
        found.append(([x / sum(e) for x in e], float(value)))
    return found


@pytest.mark.parametrize("normalize", [True, False])
def test_advantages_and_targets_of_an_update_by_hand(normalize, monkeypatch):
    """Three rollouts, so that the scale of the rewards has a past."""
    gamma, lam, steps = 0.9, 0.8, 5
    options = config.PPOConfig(
        num_envs=2, gamma=gamma, gae_lambda=lam, epochs=1, minibatches=1, normalize_reward=normalize
    )
    ppo, received = PPO(policy_of(), options), []
    ppo.updates = 1  # made-up log-probabilities would not pass the check of the ratio

    def recorded(rollout, advantage, target, rows, scale, risen):
        order = rows.argsort()
        received.append((advantage[order], target[order]))
        return PPO._loss(ppo, rollout, advantage, target, rows, scale, risen)

    monkeypatch.setattr(ppo, "_loss", recorded)
    returns, past = [], [0.0, 0.0]
    for number in range(3):
        rollout = rollout_of(2, steps, seed=number)
        rollout.first[:, 0], rollout.first[1, 3] = number == 0, True
        ppo.update(rollout, 0.0)
        for row in range(2):
            for t in range(steps):
                past[row] = float(rollout.reward[row, t]) + (0 if rollout.first[row, t] else gamma * past[row])
                returns.append(past[row])
        unit = float(np.std(returns)) if normalize else 1.0
        for row in range(2):
            following = 0.0
            for t in reversed(range(steps)):
                ended, cut = bool(rollout.terminated[row, t]), bool(rollout.truncated[row, t])
                value, after = float(rollout.value[row, t]), 0.0 if ended else float(rollout.next_value[row, t])
                delta = float(rollout.reward[row, t]) / unit + gamma * after - value
                following = delta + (0.0 if ended or cut else gamma * lam * following)
                advantage, target = (x[row, t].item() for x in received[-1])
                assert advantage == pytest.approx(following, rel=1e-4, abs=1e-5)
                assert target == pytest.approx(following + value, rel=1e-4, abs=1e-5)


def test_the_metrics_of_an_update_are_means_over_its_minibatches(monkeypatch):
    ppo = PPO(policy_of(), config.PPOConfig(num_envs=4, epochs=3, minibatches=2))
    ppo.updates, numbers = 1, iter([1.0, 2.0, 4.0, 8.0, 16.0, 32.0])
    original = ppo._loss

    def counted(*arguments):
        loss, measured = original(*arguments)
        return loss, {
            name: torch.full_like(value, number) for number in [next(numbers)] for name, value in measured.items()
        }

    monkeypatch.setattr(ppo, "_loss", counted)
    row = ppo.update(rollout_of(4, 5), 0.0)
    assert {row[name] for name in ("policy_loss", "value_loss", "entropy")} == {63 / 6}


def test_five_steps_of_the_surrogate_by_hand():
    """Ratios on both sides of the clip range, and advantages of both signs."""
    ratio, advantage = [0.5, 1.5, 0.5, 1.5, 1.05], [2.0, 2.0, -2.0, -2.0, 1.0]
    terms = [0.5 * 2.0, 1.2 * 2.0, 0.8 * -2.0, 1.5 * -2.0, 1.05]
    found = ppo_module.clipped_surrogate(torch.tensor(ratio).log(), torch.tensor(advantage), 0.2)
    assert float(found) == pytest.approx(-sum(terms) / 5, rel=1e-5)


def test_five_advantages_are_standardised_by_hand():
    x = [1.0, 2.0, 4.0, 8.0, 0.0]
    deviation = math.sqrt(sum((v - 3.0) ** 2 for v in x) / 4)
    for floor, divisor in ((0.1, deviation), (10.0, 10.0)):
        found = ppo_module.standardise(torch.tensor(x), floor).tolist()
        assert found == pytest.approx([(v - 3.0) / divisor for v in x])


# ----------------------------------------------------------------------------------------------------------------- RATE


def data_of(lengths, actions=CHOICE, seed=0):
    draw = np.random.default_rng(seed)
    episodes = [
        Episode(
            draw.normal(size=(n, 2)).astype(np.float32),
            draw.integers(3, size=n) if actions is CHOICE else draw.uniform(-2, 2, (n, 2)).astype(np.float32),
            draw.normal(size=n),
        )
        for n in lengths
    ]
    return Dataset(episodes, sum(lengths), OBS, actions), episodes


LENGTHS = [1, 7, 3, 12, 5, 2, 9, 4]


def learner_of(actions=CHOICE, policy=None, lengths=LENGTHS, **options):
    """A learner on made-up episodes, and those. A tiny step size leaves the weights as they are."""
    data, episodes = data_of(lengths, actions)
    algo = config.RATEConfig(**{"returns": False, "batch": 2, "learning_rate": 1e-30, "validation": 0.6} | options)
    run, env = types.SimpleNamespace(algo=algo, seed=0), types.SimpleNamespace(device=torch.device("cpu"))
    return RATELearner(run, env, policy or policy_of(actions), data), episodes


@torch.no_grad()
def losses_of(policy, episode, limit=None):
    """The loss of every step of one episode and whether its action was the likeliest, from `step` alone."""
    state, losses, hits = policy.initial_state(1), [], []
    actions = torch.from_numpy(episode.action)
    for t in range(len(actions) if limit is None else min(limit, len(actions))):
        found, _, memory = policy.step(torch.from_numpy(episode.obs[t])[None], state, torch.tensor([t == 0]))
        state = PolicyState(memory, actions[t][None])
        if actions.is_floating_point():
            middle, unit = 0.0, 2.0
            mean = found[0, :2].tolist()
            error = [
                ((m - middle) / unit - (a - middle) / unit) ** 2 for m, a in zip(mean, actions[t].tolist(), strict=True)
            ]
            losses.append(sum(error) / 2)
        else:
            losses.append(float(found[0].logsumexp(0) - found[0, actions[t]]))
            hits.append(int(found[0].argmax()) == int(actions[t]))
    return losses, hits


@pytest.mark.parametrize("actions", [CHOICE, BOX], ids=["choice", "box"])
@pytest.mark.parametrize("options", [{}, {"length": 4}, {"batch": 3}, {"batch": 100}], ids=str)
def test_the_validation_loss_is_the_mean_over_all_steps_of_all_held_out_episodes(actions, options):
    """Every step has the same weight, whatever the length of its episode and the batch that it is in."""
    learner, episodes = learner_of(actions, **options)
    assert len(learner.held_out) == 5
    losses, hits = [], []
    for number in learner.held_out.tolist():
        found = losses_of(learner.policy, episodes[number], options.get("length"))
        losses, hits = losses + found[0], hits + found[1]
    assert len(losses) > 10
    found = learner.validate()
    assert found["validation_loss"] == pytest.approx(np.mean(losses), rel=1e-5)
    if actions is CHOICE:
        assert found["validation_accuracy"] == pytest.approx(np.mean(hits))
    else:
        assert "validation_accuracy" not in found


def test_at_most_a_batch_of_episodes_is_validated_at_a_time(monkeypatch):
    learner, _ = learner_of(batch=2)
    sizes, batch = [], learner.data.batch
    monkeypatch.setattr(
        learner.data, "batch", lambda episodes, *given: (sizes.append(len(episodes)), batch(episodes, *given))[1]
    )
    learner.validate()
    assert sizes == [2, 2, 1]


def test_validation_uses_no_dropout_and_learning_goes_on_with_it():
    learner, episodes = learner_of(policy=policy_of(dropout=0.5))
    losses = [loss for number in learner.held_out.tolist() for loss in losses_of(learner.policy, episodes[number])[0]]
    assert learner.validate()["validation_loss"] == pytest.approx(np.mean(losses), rel=1e-5)
    assert learner.policy.training


def test_every_twentieth_of_a_run_is_validated_once_also_where_a_longer_run_begins_at_an_earlier_part_of_it():
    learner, _ = learner_of()
    row = learner.collect(0.0)
    # the run ends at 0.2 and continues as one of twice the length
    progress = [0.0, 0.03, 0.05, 0.09, 0.12, 0.2, 0.1, 0.12, 0.15]
    validated = ["validation_loss" in learner.update(row, p) for p in progress]
    assert validated == [True, False, True, False, True, True, True, False, True]


@pytest.mark.parametrize("actions", [CHOICE, BOX], ids=["choice", "box"])
@pytest.mark.parametrize("detach", [False, True])
def test_the_training_loss_is_the_mean_over_all_steps_of_the_batch(actions, detach):
    learner, episodes = learner_of(actions, batch=4, detach_memory=detach)
    numbers = torch.tensor([3, 0, 6, 4])
    losses, hits = [], []
    for number in numbers.tolist():
        found = losses_of(learner.policy, episodes[number])
        losses, hits = losses + found[0], hits + found[1]
    row = learner.update(learner.data.batch(numbers, None, False, torch.device("cpu")), 0.0)
    assert row["loss"] == pytest.approx(np.mean(losses), rel=1e-5)
    if actions is CHOICE:
        assert row["accuracy"] == pytest.approx(np.mean(hits))


@pytest.mark.parametrize("detach", [False, True])
def test_every_step_of_a_part_has_the_same_weight_in_its_gradient(detach):
    """Episodes of 12, 1, 9 and 5 steps have 4, 1, 3 and 2 segments of 3 steps; padding counts nothing."""
    learner, episodes = learner_of(batch=4, detach_memory=detach)
    numbers = torch.tensor([3, 0, 6, 4])
    batch = learner.data.batch(numbers, None, False, torch.device("cpu"))
    each = [losses_of(learner.policy, episodes[number])[0] for number in numbers.tolist()]
    parts = [[loss for losses in each for loss in losses]]
    if detach:
        parts = [[loss for losses in each for loss in losses[k : k + 3]] for k in range(0, 12, 3)]
    found = list(learner._segments(batch) if detach else learner._episodes(batch))
    assert [part.steps for part in found] == [len(part) for part in parts]
    assert [float(part.objective.detach()) for part in found] == pytest.approx([np.mean(x) for x in parts], rel=1e-5)
    assert [part.loss for part in found] == pytest.approx([sum(x) for x in parts], rel=1e-5)


@pytest.mark.parametrize("detach", [False, True])
def test_auxiliary_losses_of_the_backbone_are_added_to_the_objective_of_every_part(detach):
    learner, _ = learner_of(batch=4, detach_memory=detach, policy=add_auxiliary_losses(policy_of()))
    batch = learner.data.batch(torch.tensor([3, 0, 6, 4]), None, False, torch.device("cpu"))
    parts = list(learner._segments(batch) if detach else learner._episodes(batch))
    added = [float(part.objective.detach()) - part.loss / part.steps for part in parts]
    assert len(parts) == (4 if detach else 1) and added == pytest.approx([0.75] * len(parts), abs=1e-5)


def test_a_run_is_validated_twenty_times_at_even_distances():
    learner, _ = learner_of(batch=1, lengths=[1, 1, 1], policy=policy_of(layers=1))
    validated = [k for k in range(40) if "validation_loss" in learner.update(learner.collect(k / 40), k / 40)]
    assert validated == [2 * k for k in range(VALIDATIONS)]


def test_weights_are_kept_where_the_validation_loss_is_the_lowest_so_far():
    learner, _ = learner_of()
    losses = []
    for bias in (3.0, 0.0, 1.0):
        with torch.no_grad():
            learner.policy.head.linear.bias.copy_(torch.tensor([bias, 0.0, 0.0]))
        losses.append(learner.validate()["validation_loss"])
    assert learner.best_loss == min(losses) == losses[1]
    assert learner.best["head.linear.bias"].tolist() == [0.0, 0.0, 0.0]


def test_the_share_that_is_held_out_is_rounded_up_and_apart_from_the_rest():
    for share, count in ((0.0, 0), (0.1, 1), (0.25, 2), (0.26, 3), (0.99, 7)):
        learner, _ = learner_of(validation=share)
        assert len(learner.held_out) == count
        assert sorted(learner.held_out.tolist() + learner.training.tolist()) == list(range(8))


def test_batches_are_drawn_from_the_training_episodes_only():
    learner, episodes = learner_of(batch=1)
    steps = {tuple(map(tuple, learner.collect(0.0).obs[0].tolist())) for _ in range(60)}
    training = {tuple(map(tuple, episodes[number].obs.tolist())) for number in learner.training.tolist()}
    assert steps == training


def test_the_return_to_go_of_a_step_is_the_sum_of_the_rewards_from_it_on():
    data, episodes = data_of(LENGTHS)
    batch = data.batch(torch.tensor([4, 1]), 4, True, torch.device("cpu"))
    expected = [sum(episodes[number].reward[t:]) for number in (4, 1) for t in range(4)]
    assert batch.obs["return_to_go"][0, :, 0].tolist() == pytest.approx(expected, rel=1e-5)
    assert batch.first[0].tolist() == [t == 0 for _ in range(2) for t in range(4)]


def test_the_norm_of_an_update_is_the_mean_over_its_optimizer_steps():
    learner, _ = learner_of(batch=4, detach_memory=True)
    batch = learner.data.batch(torch.tensor([3, 0, 6, 4]), None, False, torch.device("cpu"))
    norms = []
    for part in learner._segments(batch):
        gradients = torch.autograd.grad(part.objective, list(learner.policy.parameters()), allow_unused=True)
        norms.append(math.sqrt(sum(float(g.square().sum()) for g in gradients if g is not None)))
    assert learner.update(batch, 0.0)["gradient_norm"] == pytest.approx(np.mean(norms), rel=1e-4)


def test_a_learner_that_loads_a_state_goes_on_as_the_one_that_saved_it():
    """Batches, dropout, the best weights so far and when to validate next."""

    def learner():
        options = {"learning_rate": 0.01, "cut": "varied"}
        return learner_of(policy=policy_of(dropout=0.3), **options)[0]

    one, other = learner(), learner()
    for progress in (0.0, 0.3):
        one.update(one.collect(progress), progress)
    other.load_state_dict(copy.deepcopy(one.state_dict()))
    for progress in (0.31, 0.6):
        rows = [each.update(each.collect(progress), progress) for each in (one, other)]
        assert rows[0] == rows[1]
    for name, value in one.policy.state_dict().items():
        assert torch.equal(value, other.policy.state_dict()[name]), name
    assert one.select_weights() == other.select_weights()
    assert all(map(torch.equal, one.policy.parameters(), other.policy.parameters()))


def test_between_updates_of_rate_gets_other_noise_in_every_update(monkeypatch):
    drawn = []
    monkeypatch.setattr(ActorCritic, "between_updates", lambda *given: drawn.append(torch.rand(1, generator=given[-1])))
    learner, _ = learner_of()
    for progress in (0.0, 1e-6, 0.5):
        learner.update(learner.collect(progress), progress)
    assert len({float(x) for x in drawn}) == 3


def test_the_step_size_of_rate_follows_its_schedule():
    learner, _ = learner_of(learning_rate=1e-3)
    assert learner.update(learner.collect(0.0), 0.25)["learning_rate"] == pytest.approx(7.5e-4)
    assert dataclasses.asdict(learner.options)["schedule"] == "linear"
