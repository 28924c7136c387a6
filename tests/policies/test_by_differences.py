"""Gradients of distribution heads and gates against differences of their values, and what the gates do at the start."""

import math

import numpy as np
import pytest
import torch
from gymnasium import spaces

from rmt_rl import config
from rmt_rl.policies.heads import CategoricalHead, GaussianHead, make_head
from rmt_rl.policies.memory_update import UPDATES
from rmt_rl.policies.registry import make_backbone
from rmt_rl.policies.transformer import GRUGate, ReZero

WIDTH = 4
SPACES = {
    "discrete": spaces.Discrete(3),
    "multi-discrete": spaces.MultiDiscrete([2, 3]),
    "bounded box": spaces.Box(np.array([-2, 10], np.float32), np.array([2, 13], np.float32)),
    "box without bounds": spaces.Box(-np.inf, np.inf, (2, 2), np.float32),
}
FUNCTIONS = {
    "log_prob": lambda head, p, action: head.log_prob(p, action),
    "entropy": lambda head, p, action: head.entropy(p),
    "kl_from_uniform": lambda head, p, action: head.kl_from_uniform(p),
    "imitation_loss": lambda head, p, action: head.imitation_loss(p, action),
}
CASES = [
    (name, function)
    for name in SPACES
    for function in FUNCTIONS
    if (name, function) != ("box without bounds", "kl_from_uniform")
]


def double(module):
    """In float64, with weights that are no zeros and no ones."""
    generator = torch.Generator().manual_seed(0)
    module = module.double()
    for parameter in module.parameters():
        parameter.data += 0.4 * torch.randn(parameter.shape, dtype=torch.float64, generator=generator)
    return module


def differences(value, x, step=1e-5):
    """(value(x + h e) - value(x - h e)) / 2 h for every element of x, which is changed in place and put back."""
    flat, found = x.data.view(-1), torch.zeros(x.numel(), dtype=torch.float64)
    for i in range(x.numel()):
        before = float(flat[i])
        flat[i] = before + step
        above = float(value())
        flat[i] = before - step
        found[i] = (above - float(value())) / (2 * step)
        flat[i] = before
    return found.view(x.shape)


def gradients_are_differences(value, tensors):
    """Raises where a gradient of value() is not the slope of its values; names the tensor."""
    gradients = torch.autograd.grad(value(), list(tensors.values()), allow_unused=True, materialize_grads=True)
    with torch.no_grad():
        for (name, tensor), gradient in zip(tensors.items(), gradients, strict=True):
            slope = differences(value, tensor)
            torch.testing.assert_close(
                gradient, slope, atol=1e-7, rtol=1e-7, msg=lambda text, name=name: f"{name}: {text}"
            )


@pytest.mark.parametrize("name, function", CASES)
def test_gradients_of_a_head_are_the_slopes_of_its_values_in_every_weight(name, function):
    head = double(make_head(SPACES[name], WIDTH))
    generator = torch.Generator().manual_seed(1)
    y = torch.randn(5, WIDTH, dtype=torch.float64, generator=generator).requires_grad_()
    weight = torch.randn(5, dtype=torch.float64, generator=generator)
    action = head.sample(head(y).detach(), generator)
    gradients_are_differences(
        lambda: (weight * FUNCTIONS[function](head, head(y), action)).sum(),
        {"input": y, **dict(head.named_parameters())},
    )


@pytest.mark.parametrize("name, function", CASES)
def test_gradients_of_a_head_are_the_slopes_of_its_values_in_every_parameter_of_the_distribution(name, function):
    head = double(make_head(SPACES[name], WIDTH))
    generator = torch.Generator().manual_seed(2)
    parameters = head(torch.randn(4, WIDTH, dtype=torch.float64, generator=generator)).detach().requires_grad_()
    action = head.sample(parameters.detach(), generator)
    gradients_are_differences(
        lambda: FUNCTIONS[function](head, parameters, action).sin().sum(), {"parameters": parameters}
    )


def test_the_learned_deviation_grows_where_actions_lie_far_from_the_mean_and_shrinks_where_they_lie_near():
    head = make_head(SPACES["box without bounds"], WIDTH)
    y = torch.zeros(1, WIDTH)
    for distance, slope in ((3.0, 9.0 - 1.0), (0.0, -1.0)):
        head.zero_grad()
        head.log_prob(head(y), torch.full((1, 2, 2), distance)).sum().backward()
        assert head.log_deviation.grad.tolist() == pytest.approx([slope] * 4)


def test_the_log_probability_of_five_numbers_by_hand():
    head = GaussianHead(spaces.Box(-np.inf, np.inf, (1,), np.float32), WIDTH)
    parameters = torch.tensor([[1.0, math.log(2.0)]], dtype=torch.float64).expand(5, 2)
    action = torch.tensor([[-3.0], [-1.0], [1.0], [2.0], [5.0]], dtype=torch.float64)
    expected = [-0.5 * z * z - math.log(2.0) - 0.5 * math.log(2 * math.pi) for z in (-2, -1, 0, 0.5, 2)]
    assert head.log_prob(parameters, action).tolist() == pytest.approx(expected)
    assert head.entropy(parameters)[0].item() == pytest.approx(0.5 + math.log(2.0) + 0.5 * math.log(2 * math.pi))


def test_entropy_and_distance_from_uniform_of_a_choice_by_hand():
    head = CategoricalHead([2], (), WIDTH)
    logits = torch.tensor([math.log(0.75), math.log(0.25)], dtype=torch.float64)
    assert float(head.entropy(logits)) == pytest.approx(-0.75 * math.log(0.75) - 0.25 * math.log(0.25))
    assert float(head.kl_from_uniform(logits)) == pytest.approx(0.5 * math.log(0.5 / 0.75) + 0.5 * math.log(0.5 / 0.25))
    assert float(head.imitation_loss(logits, torch.tensor(1))) == pytest.approx(-math.log(0.25))


# --------------------------------------------------------------------------------------------------------------- gates


def without_weights(module):
    """The module with all matrices zero, so that its biases alone decide; biases stay as they were made."""
    for parameter in module.parameters():
        if parameter.dim() > 1:
            parameter.data.zero_()
    return module.double()


def pairs():
    generator = torch.Generator().manual_seed(3)
    return torch.randn(2, 6, WIDTH, dtype=torch.float64, generator=generator)


def test_a_new_gru_gate_passes_its_input_and_adds_little():
    """Parisotto et al. 2020, section 3.2: the bias makes the gate pass x at the start; here sigmoid(-2) = 0.12 is let in."""
    x, y = pairs()
    passed = without_weights(GRUGate(WIDTH))(x, y)
    torch.testing.assert_close(passed, x * (1 - 1 / (1 + math.exp(2.0))))


def test_a_larger_bias_of_a_gru_gate_passes_more_of_its_input():
    x, y = pairs()
    gate = double(GRUGate(WIDTH))
    with torch.no_grad():
        gate.bias.fill_(50.0)
        torch.testing.assert_close(gate(x, y), x)
        gate.bias.fill_(-50.0)
        assert float((gate(x, y)).abs().max()) <= 1.0  # tanh alone
        assert not torch.allclose(gate(x, y), x, atol=0.1)


def test_a_new_gtrxl_is_nearer_to_its_input_than_to_anything_else():
    torch.manual_seed(0)
    options = config.GTrXLConfig()
    backbone = make_backbone(options)
    x = torch.randn(4, options.segment, options.width)
    first = torch.zeros(4, options.segment, dtype=torch.bool)
    with torch.no_grad():
        y, _ = backbone.unroll(x, backbone.initial_state(4), first)
    # each of the four gates lets 0.88 of its input pass, and the last norm undoes the loss of size
    assert float(torch.cosine_similarity(x, y, dim=-1).mean()) > 0.85


def test_a_new_rezero_connection_passes_its_input_alone():
    x, y = pairs()
    assert torch.equal(ReZero(WIDTH).double()(x, y), x)


def test_a_new_memory_gate_keeps_most_of_the_old_memory():
    old, new = (x[None] for x in pairs())
    kept = without_weights(UPDATES["gate"](WIDTH, 1))
    kept.candidate.bias.data.zero_()
    torch.testing.assert_close(kept(old, new)[0], old * (1 - 1 / (1 + math.e)))


def hard_gate(bias):
    """A hard gate whose gate is clamp(1.2 sigmoid(bias) - 0.1, 0, 1) for every channel."""
    made = without_weights(UPDATES["hard_gate"](WIDTH, 1))
    made.gate.bias.data.fill_(bias)
    made.candidate.bias.data.fill_(0.5)
    return made


def test_a_closed_hard_gate_keeps_the_memory_to_the_bit_and_an_open_one_replaces_it():
    old, new = (x[None] for x in pairs())
    with torch.no_grad():
        (kept, closed), (replaced, opened), (mixed, half) = (hard_gate(bias)(old, new) for bias in (-3.0, 3.0, 0.0))
    assert torch.equal(kept, old)
    torch.testing.assert_close(replaced, torch.full_like(old, math.tanh(0.5)))
    torch.testing.assert_close(mixed, (old + math.tanh(0.5)) / 2)
    assert (float(closed), float(opened), float(half)) == (0, 1, 0.5)


@pytest.mark.parametrize("bias", [-3.0, 0.0, 3.0])
def test_a_hard_gate_has_the_gradient_of_a_sigmoid_also_where_it_is_closed(bias):
    old, new = (x[None] for x in pairs())
    made = hard_gate(bias)
    made(old, new)[0].sum().backward()
    share = 1 / (1 + math.exp(-bias))
    expected = share * (1 - share) * (math.tanh(0.5) - old).sum((0, 1))
    torch.testing.assert_close(made.gate.bias.grad, expected)


def test_a_retention_valve_that_finds_nothing_keeps_the_direction_of_the_old_memory():
    old, new = (x[None] for x in pairs())
    kept, opened = without_weights(UPDATES["mrv"](WIDTH, 1))(old, new)
    assert opened is None
    torch.testing.assert_close(kept, old / old.square().mean(-1, keepdim=True).sqrt())


@pytest.mark.parametrize(
    "made",
    [
        lambda: GRUGate(WIDTH),
        lambda: ReZero(WIDTH),
        lambda: UPDATES["gate"](WIDTH, 2),
        lambda: UPDATES["mrv"](WIDTH, 2),
    ],
    ids=["gru", "rezero", "gate", "mrv"],
)
def test_gradients_of_a_gate_are_the_slopes_of_its_values_in_every_weight(made):
    gate = double(made())
    x, y = (z[None].clone().requires_grad_() for z in pairs())

    def value():
        found = gate(x, y)
        return sum(part.sin().sum() for part in (found if isinstance(found, tuple) else (found,)) if part is not None)

    gradients_are_differences(value, {"x": x, "y": y, **dict(gate.named_parameters())})


# -------------------------------------------------------------------------------------------------------------- starts


def test_sharpness_is_a_factor_of_the_scores_of_new_weights_and_of_nothing_else():
    made = []
    for sharpness in (1.0, 9.0):
        torch.manual_seed(0)
        made.append(make_backbone(config.RMTConfig(sharpness=sharpness)))
    plain, sharp = (dict(backbone.named_parameters()) for backbone in made)
    width = config.RMTConfig.width
    for name, weight in plain.items():
        factor = torch.ones(len(weight) if weight.dim() else 1)
        if name.endswith("project.weight"):
            factor[: 2 * width] = 3.0  # on queries and on keys, so 9 on their product
        torch.testing.assert_close(sharp[name], weight * factor.view(-1, *[1] * (weight.dim() - 1)))


def test_new_blocks_are_near_the_identity():
    torch.manual_seed(0)
    backbone = make_backbone(config.RMTConfig(layers=4))
    for block in backbone.blocks:
        for linear in (block.output, block.down):
            assert float(linear.weight.detach().std()) == pytest.approx(0.1 / math.sqrt(4), rel=0.05)


def test_new_memory_tokens_are_distinct_and_of_size_one_and_positions_are_small():
    torch.manual_seed(0)
    backbone = make_backbone(config.RMTConfig(memory_tokens=32, segment=32, positions="learned"))
    assert float(backbone.initial_memory.detach().std()) == pytest.approx(1, rel=0.1)
    for position in (backbone.position, backbone.read_position, backbone.write_position):
        assert float(position.detach().std()) == pytest.approx(0.1, rel=0.1)


@pytest.mark.parametrize("name", ["discrete", "bounded box"])
def test_a_new_head_has_small_weights_and_no_bias(name):
    torch.manual_seed(0)
    linear = make_head(SPACES[name], 256).linear
    assert float(linear.weight.detach().std()) == pytest.approx(0.01, rel=0.1)
    assert not linear.bias.any()
