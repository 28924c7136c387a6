"""Heads against torch's own distributions, which are right but draw from the global stream."""

import numpy as np
import pytest
import torch
from gymnasium import spaces
from torch.distributions import Categorical, Independent, Normal, Uniform, kl_divergence

from rmt_rl.common.errors import ConfigError
from rmt_rl.envs.actions import MixedActions
from rmt_rl.policies.heads import CategoricalHead, GaussianHead, make_head

WIDTH = 8
DISCRETE = {
    "Discrete": spaces.Discrete(5),
    "Discrete of one": spaces.Discrete(1),
    "MultiDiscrete": spaces.MultiDiscrete([2, 3, 4]),
    "MultiDiscrete 2-d": spaces.MultiDiscrete([[2, 3], [4, 5]]),
}
BOX = {
    "Box": spaces.Box(-1, 1, (3,), np.float32),
    "Box 2-d": spaces.Box(-np.inf, np.inf, (2, 3), np.float32),
}
LEADING = [(1,), (7,), (4, 3)]

discrete = pytest.mark.parametrize("name", DISCRETE)
box = pytest.mark.parametrize("name", BOX)
every = pytest.mark.parametrize("name", [*DISCRETE, *BOX])


def head_of(name):
    return make_head((DISCRETE | BOX)[name], WIDTH)


def parameters_of(head, *leading):
    """Distribution parameters such as a trained network gives: far from even, deviations far from 1."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        size = head(torch.zeros(WIDTH)).shape[-1]
    return torch.randn(*leading, size, generator=generator)


def generator_of(seed=0):
    return torch.Generator().manual_seed(seed)


def categoricals(head, logits):
    """Torch's distribution of every component."""
    return [Categorical(logits=part) for part in logits.split(head.sizes, dim=-1)]


def normal(head, parameters):
    mean, log_deviation = parameters[..., : head.size], parameters[..., head.size :]
    return Independent(Normal(mean, log_deviation.exp()), 1)


def test_a_number_with_only_one_allowed_value_has_the_unit_of_unbounded_ones():
    """Half the distance of its bounds is 0, and no probability has a deviation of 0."""
    head = make_head(spaces.Box(np.array([2.0, -4.0], np.float32), np.array([2.0, 0.0], np.float32)), WIDTH)
    assert (head.middle.tolist(), head.unit.tolist()) == ([0.0, -2.0], [1.0, 2.0])
    parameters = head(torch.zeros(WIDTH))
    assert bool(head.log_prob(parameters, torch.tensor([2.0, -1.0])).isfinite())


def test_the_head_is_chosen_from_the_action_space():
    assert all(isinstance(make_head(space, WIDTH), CategoricalHead) for space in DISCRETE.values())
    assert all(isinstance(make_head(space, WIDTH), GaussianHead) for space in BOX.values())


@pytest.mark.parametrize("space", [spaces.MultiBinary(3), spaces.Text(4), spaces.Dict({"a": spaces.Discrete(2)})])
def test_an_unsupported_action_space_is_one_line_that_names_the_supported_ones(space):
    with pytest.raises(ConfigError, match="supported are Discrete, MultiDiscrete and Box") as caught:
        make_head(space, WIDTH)
    assert "\n" not in str(caught.value)


# ------------------------------------------------------------------------------------------- log-probability, entropy


@discrete
@pytest.mark.parametrize("leading", LEADING)
def test_log_probabilities_and_entropies_of_choices_equal_torchs(name, leading):
    head, shape = head_of(name), DISCRETE[name].shape
    logits = parameters_of(head, *leading)
    action = head.sample(logits, generator_of())
    assert action.shape == (*leading, *shape)
    assert action.dtype == torch.int64
    each = action.reshape(*leading, len(head.sizes)).unbind(-1)
    theirs = categoricals(head, logits)
    expected = sum(d.log_prob(a) for d, a in zip(theirs, each, strict=True))
    torch.testing.assert_close(head.log_prob(logits, action), expected, rtol=0, atol=1e-5)
    torch.testing.assert_close(head.entropy(logits), sum(d.entropy() for d in theirs), rtol=0, atol=1e-5)


@box
@pytest.mark.parametrize("leading", LEADING)
def test_log_probabilities_and_entropies_of_real_actions_equal_torchs(name, leading):
    head, shape = head_of(name), BOX[name].shape
    parameters = parameters_of(head, *leading)
    action = head.sample(parameters, generator_of())
    assert action.shape == (*leading, *shape)
    assert action.dtype == torch.float32
    theirs = normal(head, parameters)
    expected = theirs.log_prob(action.reshape(*leading, head.size))
    torch.testing.assert_close(head.log_prob(parameters, action), expected, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(head.entropy(parameters), theirs.entropy(), rtol=1e-5, atol=1e-5)


@discrete
@pytest.mark.parametrize("leading", LEADING)
def test_the_distance_of_choices_from_uniform_equals_torchs(name, leading):
    head = head_of(name)
    logits = parameters_of(head, *leading)
    expected = sum(kl_divergence(Categorical(torch.ones_like(d.probs)), d) for d in categoricals(head, logits))
    torch.testing.assert_close(head.kl_from_uniform(logits), expected, rtol=0, atol=1e-5)


def test_the_distance_of_real_actions_from_uniform_equals_torchs():
    low, high = torch.tensor([-3.0, 0.0]), torch.tensor([5.0, 0.5])
    head = make_head(spaces.Box(low.numpy(), high.numpy()), WIDTH)
    parameters = parameters_of(head, 7)
    mean, log_deviation = parameters.chunk(2, dim=-1)
    expected = kl_divergence(Uniform(low, high), Normal(mean, log_deviation.exp())).sum(-1)
    torch.testing.assert_close(head.kl_from_uniform(parameters), expected, rtol=1e-5, atol=1e-5)


def test_without_bounds_there_is_no_uniform_distribution():
    head = head_of("Box 2-d")
    with pytest.raises(ConfigError, match="needs bounds"):
        head.kl_from_uniform(parameters_of(head, 3))


def test_probabilities_of_all_actions_sum_to_one():
    head = head_of("MultiDiscrete 2-d")
    logits = parameters_of(head)
    actions = torch.cartesian_prod(*(torch.arange(n) for n in head.sizes)).view(-1, 2, 2)
    total = head.log_prob(logits.expand(len(actions), -1), actions).exp().sum()
    assert float(total) == pytest.approx(1, abs=1e-5)


@every
def test_gradients_of_log_probability_and_entropy_reach_every_weight(name):
    head = head_of(name)
    if name == "Discrete of one":
        pytest.skip("there is nothing to learn where there is no choice")
    parameters = head(torch.randn(6, WIDTH, generator=generator_of()))
    action = head.sample(parameters.detach(), generator_of())
    (head.log_prob(parameters, action).sum() + head.entropy(parameters).sum()).backward()
    assert all(float(p.grad.abs().max()) > 0 for p in head.parameters())


# -------------------------------------------------------------------------------------------------- samples and modes


@discrete
def test_choices_come_as_often_as_their_probabilities_say(name):
    head, n = head_of(name), 40_000
    logits = parameters_of(head)
    actions = head.sample(logits.expand(n, -1), generator_of()).view(n, -1)
    # joint frequencies: components that were drawn with the same noise would show here
    everything = torch.cartesian_prod(*(torch.arange(k) for k in head.sizes)).view(-1, len(head.sizes))
    codes = torch.tensor([int(np.prod(head.sizes[i + 1 :])) for i in range(len(head.sizes))])
    counts = torch.bincount((actions * codes).sum(1), minlength=len(everything))
    probability = head.log_prob(logits.expand(len(everything), -1), everything.view(-1, *DISCRETE[name].shape)).exp()
    deviation = (probability * (1 - probability) / n).sqrt()
    assert bool(((counts / n - probability).abs() <= 4.5 * deviation + 1e-6).all())


@box
def test_real_actions_have_their_mean_and_deviation_and_are_independent(name):
    head, n = head_of(name), 40_000
    parameters = parameters_of(head)
    actions = head.sample(parameters.expand(n, -1), generator_of()).view(n, -1)
    mean, deviation = parameters[: head.size], parameters[head.size :].exp()
    z = (actions - mean) / deviation
    assert float(z.mean(0).abs().max()) < 4.5 / n**0.5
    assert float((z.var(0) - 1).abs().max()) < 4.5 * (2 / n) ** 0.5
    correlation = torch.corrcoef(z.T) - torch.eye(head.size)
    assert float(correlation.abs().max()) < 4.5 / n**0.5


@every
def test_samples_follow_from_the_generator_and_leave_the_global_stream_alone(name):
    head = head_of(name)
    parameters = parameters_of(head, 50)
    before = torch.get_rng_state()
    samples = [head.sample(parameters, generator_of(seed)) for seed in (0, 0, 1)]
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(samples[0], samples[1])
    assert torch.equal(samples[0], samples[2]) == (name == "Discrete of one")


@discrete
def test_the_mode_is_the_likeliest_action(name):
    head = head_of(name)
    logits = parameters_of(head, 20)
    expected = torch.stack([part.argmax(-1) for part in logits.split(head.sizes, dim=-1)], dim=-1)
    assert torch.equal(head.mode(logits), expected.view(20, *DISCRETE[name].shape))


@box
def test_the_mode_of_a_normal_distribution_is_its_mean(name):
    head = head_of(name)
    parameters = parameters_of(head, 20)
    assert torch.equal(head.mode(parameters), parameters[:, : head.size].view(20, *BOX[name].shape))


@every
def test_no_action_is_favoured_at_the_start(name):
    head = head_of(name)
    parameters = head(torch.randn(100, WIDTH, generator=generator_of()))
    assert float(parameters.detach().abs().max()) < 0.2


# ------------------------------------------------------------------------------------- what the network sees of actions


@discrete
def test_the_network_tells_all_previous_actions_apart(name):
    head = head_of(name)
    everything = torch.cartesian_prod(*(torch.arange(k) for k in head.sizes)).view(-1, *DISCRETE[name].shape)
    seen = head.one_hot(everything)
    assert seen.shape == (len(everything), sum(head.sizes))
    assert seen.sum(-1).tolist() == [len(head.sizes)] * len(everything)
    assert len(seen.unique(dim=0)) == len(everything)


def test_the_network_sees_a_real_action_without_bounds_as_it_is():
    head = head_of("Box 2-d")
    action = head.sample(parameters_of(head, 4, 3), generator_of())
    assert torch.equal(head.one_hot(action), action.reshape(4, 3, head.size))


BOUNDS = spaces.Box(np.array([-2, 10, 0, -3e38], np.float32), np.array([2, 30, np.inf, 3e38], np.float32))


def test_the_network_sees_what_an_environment_with_bounds_took():
    action = torch.tensor([[1.0, 25.0, 7.0, -7.0], [-5.0, 40.0, -1.0, 7.0]])
    assert make_head(BOUNDS, WIDTH).one_hot(action).tolist() == [[0.5, 0.5, 7.0, -7.0], [-1.0, 1.0, 0.0, 7.0]]


def test_actions_begin_in_the_middle_of_their_bounds_and_reach_them():
    parameters = make_head(BOUNDS, WIDTH)(torch.zeros(WIDTH)).detach()
    assert parameters[:4].tolist() == [0.0, 20.0, 0.0, 0.0]
    assert parameters[4:].exp().tolist() == pytest.approx([2.0, 10.0, 1.0, 1.0])


def test_imitation_is_the_same_in_any_unit():
    small, large = (make_head(spaces.Box(-size, size, (3,), np.float32), WIDTH) for size in (1.0, 1024.0))
    large.load_state_dict(small.state_dict())
    y, action = torch.randn(2, 7, WIDTH, generator=generator_of())
    losses = [head.imitation_loss(head(y), unit * action[:, :3]) for head, unit in ((small, 1.0), (large, 1024.0))]
    assert torch.equal(*losses)


def test_a_box_without_axes_is_one_number():
    head = make_head(spaces.Box(-1, 1, (), np.float32), WIDTH)
    parameters = parameters_of(head, 7)
    action = head.sample(parameters, generator_of())
    assert action.shape == head.mode(parameters).shape == (7,)
    assert head.log_prob(parameters, action).shape == (7,)
    assert head.one_hot(action).shape == (7, 1)


# --------------------------------------------------------------------------------------------------------------- masks

SIZES = [4, 3]
MASK = torch.tensor([[1, 0, 1, 1, 0, 1, 1], [0, 1, 0, 0, 1, 1, 1], [1, 1, 1, 1, 0, 0, 1]])


def masked_logits():
    head = make_head(spaces.MultiDiscrete(SIZES), WIDTH, masked=True)
    raw = torch.randn(3, 7, generator=generator_of(), dtype=torch.float64).requires_grad_()
    return head, raw, head.mask(raw, MASK)


def allowed_parts(raw, row):
    """Torch's distribution over the allowed choices alone, of every component, and their numbers."""
    for logits, mask in zip(raw[row].split(SIZES), MASK[row].split(SIZES), strict=True):
        chosen = mask.nonzero().squeeze(1)
        yield Categorical(logits=logits[chosen]), chosen


def test_a_mask_is_the_same_as_having_the_allowed_choices_only():
    head, raw, logits = masked_logits()
    for row in range(3):
        parts = list(allowed_parts(raw, row))
        uniform = [Categorical(logits=torch.zeros(len(chosen), dtype=raw.dtype)) for _, chosen in parts]
        action = torch.tensor([int(chosen[-1]) for _, chosen in parts])
        torch.testing.assert_close(head.entropy(logits)[row], sum(part.entropy() for part, _ in parts))
        barrier = sum(kl_divergence(one, part) for one, (part, _) in zip(uniform, parts, strict=True))
        torch.testing.assert_close(head.kl_from_uniform(logits)[row], barrier)
        log_prob = sum(part.log_prob(torch.tensor(len(chosen) - 1)) for part, chosen in parts)
        torch.testing.assert_close(head.log_prob(logits, action.expand(3, 2))[row], log_prob)


def test_gradients_through_a_mask_are_finite_and_zero_for_what_is_not_allowed():
    head, raw, logits = masked_logits()
    action = head.mode(logits)
    for number in (head.entropy(logits), head.kl_from_uniform(logits), head.log_prob(logits, action)):
        (gradient,) = torch.autograd.grad(number.sum(), raw, retain_graph=True)
        assert bool(gradient.isfinite().all()) and bool((gradient[MASK == 0] == 0).all())
        assert bool((gradient[0, :4][MASK[0, :4] == 1] != 0).any())


def test_draws_under_a_mask_have_the_frequencies_of_the_allowed_choices():
    head, raw, logits = masked_logits()
    n = 20_000
    for row in range(3):
        drawn = head.sample(logits[row].detach().expand(n, 7), generator_of(1))
        for component, (part, chosen) in enumerate(allowed_parts(raw.detach(), row)):
            counts = torch.bincount(drawn[:, component], minlength=SIZES[component]) / n
            expected = torch.zeros(SIZES[component], dtype=raw.dtype).index_put((chosen,), part.probs)
            assert bool(((counts == 0) == (expected == 0)).all())
            torch.testing.assert_close(counts.double(), expected, rtol=0, atol=0.02)


def test_the_lowest_and_the_highest_action_of_a_head_are_those_that_it_may_draw():
    choices, reals = head_of("MultiDiscrete 2-d"), head_of("Box 2-d")
    assert [end.tolist() for end in choices.ends()] == [[[0, 0], [0, 0]], [[1, 2], [3, 4]]]
    assert [end.tolist() for end in reals.ends()] == [[[-np.inf] * 3] * 2, [[np.inf] * 3] * 2]
    low, high = make_head(MixedActions([2, 3], [-1.0], [1.0]), WIDTH).ends()
    assert (low.tolist(), high.tolist()) == ([0, 0, -np.inf], [1, 2, np.inf])
