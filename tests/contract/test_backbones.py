"""The promises of `policies/base.py`, checked on every registered backbone over random cases."""

import dataclasses
import os

import pytest
import torch

from rmt_rl import config
from rmt_rl.common.state import map_state
from rmt_rl.policies.registry import BACKBONES, make_backbone

WIDTH = 8
#: `make contract` runs 300.
CASES = int(os.environ.get("RMT_RL_CASES", "6"))


def rmt(**options):
    return config.RMTConfig(**{"width": WIDTH, "heads": 2, "segment": 4, "memory_tokens": 3} | options)


VARIANTS = {
    "rmt": rmt(),
    "rmt-gate": rmt(heads=1, segment=3, memory_tokens=1, memory_update="gate"),
    "rmt-mrv": rmt(memory_update="mrv", memory_norm=True),
    "rmt-one-step-segments": rmt(heads=1, segment=1, memory_tokens=2, layers=1),
    "rmt-without-memory": rmt(segment=5, memory_tokens=0),
    "rmt-front": rmt(memory_place="front", segment=3),
    "rmt-learned-writes": rmt(write_from="learned", positions="none"),
    "rmt-cache": rmt(cache=3, positions="rotary"),
    "rmt-long-cache-with-gradient": rmt(cache=10, cache_gradient=10, positions="none", memory_tokens=2, segment=3),
    "rmt-cache-with-some-gradient": rmt(cache=7, cache_gradient=3, positions="rotary", segment=2, memory_place="front"),
    "rmt-rotary": rmt(positions="rotary", segment=5),
    "rmt-bptt": rmt(bptt_segments=2, cache=2, cache_gradient=2, positions="rotary", segment=2),
    "rmt-gru-gates": rmt(gating="gru", null_key_value=True),
    "rmt-rezero": rmt(gating="rezero", value_residual=True),
    "rmt-token-shift": rmt(token_shift=True, segment=3),
    "rmt-replay": rmt(replay=True, cache=3, positions="rotary"),
    "rmt-everything": rmt(
        layers=3,
        segment=3,
        memory_tokens=2,
        memory_update="mrv",
        memory_place="front",
        memory_norm=True,
        write_from="learned",
        cache=4,
        cache_gradient=2,
        positions="rotary",
        bptt_segments=3,
        gating="gru",
        null_key_value=True,
        value_residual=True,
        token_shift=True,
        replay=True,
    ),
    "trxl": config.TrXLConfig(width=WIDTH, heads=2, segment=3, cache=5),
    "gtrxl": config.GTrXLConfig(width=WIDTH, heads=2, segment=4, cache=2, cache_gradient=1),
    "window": config.WindowConfig(width=WIDTH, heads=2, segment=4),
    "lstm": config.LSTMConfig(width=WIDTH, layers=2),
    "gru": config.GRUConfig(width=WIDTH, layers=1),
    "mlp": config.MLPConfig(width=WIDTH),
}
#: Those that carry nothing over 30 steps, or carry it without gradient.
FORGETFUL = ("mlp", "window", "rmt-without-memory", "rmt-bptt", "rmt-everything", "trxl", "gtrxl")
backbones = pytest.mark.parametrize("variant", VARIANTS)


def test_every_registered_backbone_is_in_these_tests():
    assert {type(v) for v in VARIANTS.values()} == set(BACKBONES)


@dataclasses.dataclass
class Case:
    """A backbone in the middle of its life: inputs, resets, and a state at a random phase."""

    backbone: torch.nn.Module
    x: torch.Tensor
    first: torch.Tensor
    state: object


def make_case(variant, number, dtype=torch.float64):
    torch.manual_seed(1000 + number)
    backbone = make_backbone(VARIANTS[variant]).to(dtype)
    for parameter in backbone.parameters():  # initial values are too small, or equal, for some mistakes to show
        parameter.data += 0.1 * torch.randn_like(parameter)
    B, T = int(torch.randint(1, 5, ())), int(torch.randint(1, 20, ()))
    x = torch.randn(B, T, WIDTH, dtype=dtype)
    first = torch.rand(B, T) < [0.0, 0.1, 0.5, 1.0][number % 4]
    if number % 5 == 0:
        first[:, 0] = True
    if number % 5 == 1:
        first[:, -1] = True
    state = backbone.initial_state(B)
    with torch.no_grad():
        for _ in range(int(torch.randint(0, 12, ()))):
            _, state = backbone.step(torch.randn(B, WIDTH, dtype=dtype), state, torch.rand(B) < 0.2)
    return Case(backbone, x, first, state)


def leaf(state):
    def copy(x):
        return x.detach().clone().requires_grad_() if x.is_floating_point() else x

    return map_state(copy, state)


def tensors(state):
    found = []
    map_state(lambda x: found.append(x) or x, state)
    return found


def by_steps(case, state):
    outputs = []
    for t in range(case.x.shape[1]):
        y, state = case.backbone.step(case.x[:, t], state, case.first[:, t])
        outputs.append(y)
    return torch.stack(outputs, dim=1), state


def by_chunks(case, state, chunk):
    outputs = []
    for t in range(0, case.x.shape[1], chunk):
        y, state = case.backbone.unroll(case.x[:, t : t + chunk], state, case.first[:, t : t + chunk])
        outputs.append(y)
    return torch.cat(outputs, dim=1), state


def results(case, run):
    """Outputs and final state, and the gradients of a random linear function of both."""
    start = leaf(case.state)
    case.x.requires_grad_()
    outputs, state = run(case, start)
    generator = torch.Generator().manual_seed(5)
    loss = 0
    for value in [outputs, *tensors(state)]:
        if value.is_floating_point():
            loss = loss + (value * torch.randn(value.shape, generator=generator, dtype=value.dtype)).sum()
    leaves = [*case.backbone.parameters(), case.x, *(v for v in tensors(start) if v.is_floating_point())]
    gradients = torch.autograd.grad(loss, leaves, allow_unused=True, materialize_grads=True)
    return [outputs, *tensors(state)], list(gradients)


def assert_close(ours, theirs, tolerance, together=False):
    """together: relative to the largest number of all of them, in place of each one's own."""
    scales = [1 + float(b.detach().abs().max()) if b.numel() else 1.0 for b in theirs]
    for a, b, scale in zip(ours, theirs, scales, strict=True):
        assert a.shape == b.shape
        if b.numel():
            assert float((a - b).detach().abs().max()) <= tolerance * (max(scales) if together else scale)


@backbones
@pytest.mark.parametrize("dtype, tolerance", [(torch.float64, 1e-10), (torch.float32, 2e-5)])
def test_unroll_equals_steps_in_outputs_state_and_gradients(variant, dtype, tolerance):
    for number in range(CASES):
        case = make_case(variant, number, dtype)
        chunk = 1 + number % case.x.shape[1]
        steps = results(case, by_steps)
        for size in (case.x.shape[1], chunk):
            found = results(case, lambda c, s, n=size: by_chunks(c, s, n))
            assert_close(found[0], steps[0], tolerance)
            # A gradient is a sum over steps that may cancel: in case 260 of rmt-front one of 6 was left of parts of up to 300,
            # and float32 was off by 1.5e-4 where float64 agrees to 1e-12. Rounding is relative to the parts.
            assert_close(found[1], steps[1], tolerance, together=dtype == torch.float32)


@backbones
def test_a_discarded_state_of_nan_changes_no_bit(variant):
    for number in range(CASES):
        case = make_case(variant, number)
        case.first[: (len(case.first) + 1) // 2, 0] = True

        def poison(x, discarded=case.first[:, 0]):
            if not x.is_floating_point():
                return x
            return torch.where(discarded.view(-1, *[1] * (x.dim() - 1)), torch.nan, x)

        for run in (by_steps, lambda c, s: by_chunks(c, s, c.x.shape[1])):
            clean, poisoned = run(case, case.state), run(case, map_state(poison, case.state))
            assert torch.equal(clean[0], poisoned[0])
            for a, b in zip(tensors(clean[1]), tensors(poisoned[1]), strict=True):
                assert torch.equal(a, b)


@backbones
def test_the_future_changes_nothing_before_it(variant):
    for number in range(CASES):
        case = make_case(variant, number)
        t = number % case.x.shape[1]
        before, _ = by_chunks(case, case.state, case.x.shape[1])
        case.x = case.x.clone()
        case.x[:, t:] += 1.0
        after, _ = by_chunks(case, case.state, case.x.shape[1])
        assert_close([after[:, :t]], [before[:, :t]], 1e-12)


@backbones
def test_rows_do_not_see_each_other(variant):
    for number in range(CASES):
        case = make_case(variant, number)
        rows = torch.randperm(len(case.x))
        outputs, state = by_chunks(case, case.state, case.x.shape[1])
        case.x, case.first, case.state = case.x[rows], case.first[rows], map_state(lambda v, r=rows: v[r], case.state)
        permuted, permuted_state = by_chunks(case, case.state, case.x.shape[1])
        expected = [outputs[rows], *(v[rows] for v in tensors(state))]
        assert_close([permuted, *tensors(permuted_state)], expected, 1e-12)


@backbones
def test_the_state_does_not_grow(variant):
    backbone = make_backbone(VARIANTS[variant])
    state = backbone.initial_state(2)
    sizes = [x.shape for x in tensors(state)]
    for _ in range(30):
        _, state = backbone.step(torch.randn(2, WIDTH), state, torch.zeros(2, dtype=torch.bool))
        assert [x.shape for x in tensors(state)] == sizes


@backbones
def test_a_module_holds_weights_and_nothing_else(variant):
    case = make_case(variant, 3)
    before = {name: value.clone() for name, value in case.backbone.state_dict().items()}
    attributes = set(vars(case.backbone))
    by_chunks(case, case.state, 3)
    by_steps(case, case.state)
    assert set(vars(case.backbone)) == attributes
    assert all(torch.equal(value, before[name]) for name, value in case.backbone.state_dict().items())


@backbones
def test_what_was_seen_long_ago_still_matters(variant):
    """A difference in the first input reaches the output 30 steps later, except where there is no memory to carry it."""
    case = make_case(variant, 0)
    torch.manual_seed(0)
    case.x, case.first = torch.randn(1, 31, WIDTH, dtype=torch.float64), torch.zeros(1, 31, dtype=torch.bool)
    case.first[:, 0] = True
    case.state = case.backbone.initial_state(1)
    case.x.requires_grad_()
    outputs, _ = by_chunks(case, case.state, 31)
    (gradient,) = torch.autograd.grad(outputs[0, -1].sum(), case.x)
    assert bool(gradient[0, 0].abs().max() > 0) == (variant not in FORGETFUL)
