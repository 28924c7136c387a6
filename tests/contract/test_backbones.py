"""The backbone contract (`rmt_rl.policies.checks.contract`) on every registered policy, in many variants."""

import functools
import itertools
import os

import pytest
import torch

from rmt_rl import config
from rmt_rl.common.state import where_rows
from rmt_rl.config.registry import GROUPS
from rmt_rl.envs.checks.runner import Broken
from rmt_rl.policies.base import Backbone
from rmt_rl.policies.checks import contract
from rmt_rl.policies.checks.contract import CHECKS, Make, at_once, expect_close, make_case
from rmt_rl.policies.recurrent import Recurrent
from rmt_rl.policies.registry import make_backbone

WIDTH = 8
#: Random cases of every claim; `make contract` runs 300, from experiments/reliability/contract.py.
CASES = int(os.environ.get("RMT_RL_CASES", "1"))


def rmt(**options):
    return config.RMTConfig(**{"width": WIDTH, "heads": 2, "segment": 4, "memory_tokens": 3} | options)


VARIANTS = {
    "rmt": rmt(),
    "rmt-gate": rmt(heads=1, segment=3, memory_tokens=1, memory_update="gate"),
    "rmt-hard-gate": rmt(memory_update="hard_gate", write_cost=0.3, replay=True, segment=2),
    "rmt-mrv": rmt(memory_update="mrv", memory_norm=True),
    "rmt-one-step-segments": rmt(heads=1, segment=1, memory_tokens=2, layers=1),
    "rmt-without-memory": rmt(segment=5, memory_tokens=0),
    "rmt-front": rmt(memory_place="front", segment=3),
    "rmt-learned-writes": rmt(write_from="learned", positions="none"),
    "rmt-blank-memory-hidden": rmt(blank_memory="hidden"),
    "rmt-blank-memory-hidden-cache-front": rmt(
        blank_memory="hidden", cache=5, positions="none", cache_gradient=2, memory_place="front", segment=3
    ),
    "rmt-associative": rmt(memory_kind="associative", memory_size=2),
    "rmt-associative-cache": rmt(
        memory_kind="associative", cache=5, positions="none", replay=True, segment=3, layers=3
    ),
    "rmt-slots": rmt(memory_kind="slots", memory_size=3, segment=2),
    "rmt-slots-one-token": rmt(memory_kind="slots", memory_size=5, memory_tokens=1, gating="gru", segment=3),
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
    "rmt-glu": rmt(glu=True, norm="scale", segment=3),
    "trxl": config.TrXLConfig(width=WIDTH, heads=2, segment=3, cache=5),
    "gtrxl": config.GTrXLConfig(width=WIDTH, heads=2, segment=4, cache=2, cache_gradient=1),
    "window": config.WindowConfig(width=WIDTH, heads=2, segment=4),
    "lstm": config.LSTMConfig(width=WIDTH, layers=2),
    "gru": config.GRUConfig(width=WIDTH, layers=1),
    "mlp": config.MLPConfig(width=WIDTH),
    "mingru": config.MinGRUConfig(width=WIDTH),
    "mingru-hard": config.MinGRUConfig(width=WIDTH, layers=1, hard_gates=True),
    "deltanet": config.DeltaNetConfig(width=WIDTH),
    "deltanet-hard": config.DeltaNetConfig(width=WIDTH, heads=4, hard_gates=True),
    "deltanet-plain": config.DeltaNetConfig(width=WIDTH, layers=1, decay=False),
    "mlstm": config.MLSTMConfig(width=WIDTH),
    "rwkv4": config.RWKV4Config(width=WIDTH),
    "rwkv7": config.RWKV7Config(width=WIDTH, low_rank=3),
    "ffm": config.FFMConfig(width=WIDTH, traces=5, contexts=3),
    "hierarchical": config.HierarchicalConfig(width=WIDTH, window=3),
    "reformer": config.ReformerConfig(width=WIDTH, slots=3, window=3),
    "reformer-local": config.ReformerConfig(width=WIDTH, layers=1, heads=4, local_heads=2, rounds=1, buckets=2),
    "routing": config.RoutingConfig(width=WIDTH, buckets=3, slots=2, window=2),
}
#: Variants that carry nothing over 30 steps, or carry it without gradient.
FORGETFUL = (
    "mlp",
    "window",
    "rmt-without-memory",
    "rmt-bptt",
    "rmt-everything",
    "trxl",
    "gtrxl",
    "routing",
    "reformer-local",
)
#: Variants of the RMT with one option each are left out by `make check`; `rmt-everything` has most of them together.
FEW = ("rmt", "rmt-everything", "rmt-cache", "rmt-hard-gate")
backbones = pytest.mark.parametrize(
    "variant",
    [
        pytest.param(name, marks=[pytest.mark.thorough] if name.startswith("rmt") and name not in FEW else [])
        for name in VARIANTS
    ],
)


def maker(variant):
    return Make(functools.partial(make_backbone, VARIANTS[variant]), WIDTH)


def test_every_registered_policy_of_the_package_is_covered():
    ours = {entry.config for entry in GROUPS["policy"].values() if entry.config.__module__.startswith("rmt_rl.")}
    assert {type(v) for v in VARIANTS.values()} == ours


def test_a_fifth_of_the_cases_begins_with_a_reset_and_another_fifth_ends_with_one():
    """Cases 0, 20, ... and 16, 36, ... have no other resets."""
    for number, place in ((0, 0), (20, 0), (16, -1), (36, -1), (8, None), (12, None)):
        first = make_case(maker("mlp"), number).first
        expected = torch.zeros_like(first)
        if place is not None:
            expected[:, place] = True
        assert torch.equal(first, expected)


@backbones
@pytest.mark.parametrize(
    "check",
    [pytest.param(c, marks=[pytest.mark.slow] if "float32" in c.claim else [], id=c.claim) for c in CHECKS],
)
def test_the_contract_holds(check, variant):
    for number in range(CASES):
        check.run(maker(variant), number)


@pytest.mark.slow
@backbones
def test_an_early_input_still_matters_where_there_is_memory(variant):
    """A difference in the first input reaches the output 30 steps later, except where there is no memory to carry it."""
    case = make_case(maker(variant), 0)
    torch.manual_seed(0)
    case.x, case.first = torch.randn(1, 31, WIDTH, dtype=torch.float64), torch.zeros(1, 31, dtype=torch.bool)
    case.first[:, 0] = True
    case.state = case.backbone.initial_state(1)
    case.x.requires_grad_()
    outputs, _ = at_once(case, case.state)
    (gradient,) = torch.autograd.grad(outputs[0, -1].sum(), case.x)
    assert bool(gradient[0, 0].abs().max() > 0) == (variant not in FORGETFUL)


# ------------------------------------------------------------------------------------- the checks find planted mistakes


class Overwrites(Recurrent):
    """Writes the new state over the old one."""

    def step(self, x, state, first):
        y, after = super().step(x, state, first)
        state.hidden.copy_(after.hidden)
        return y, state


class Leaky(Recurrent):
    """Multiplies the state by zero at a reset instead of selecting."""

    def step(self, x, state, first):
        keep = (~first)[:, None, None].to(x.dtype)
        y, after = self._run(x[None], state.hidden * keep, state.cell * keep)
        return self.norm(y[0]), after


class OffByOne(Recurrent):
    """Resets one step late in unroll."""

    def unroll(self, x, state, first):
        late = torch.cat([torch.zeros_like(first[:, :1]), first[:, :-1]], dim=1)
        return super().unroll(x, state, late)


class SeesTheFuture(Recurrent):
    """Adds the mean over time to every input."""

    def unroll(self, x, state, first):
        return super().unroll(x + x.mean(1, keepdim=True), state, first)


class MixesRows(Recurrent):
    """Adds the mean over rows to every input."""

    def unroll(self, x, state, first):
        return super().unroll(x + x.roll(1, 0), state, first)


class Remembers(Recurrent):
    """Keeps the state as an attribute."""

    def step(self, x, state, first):
        y, self.last_state = super().step(x, state, first)
        return y, self.last_state


class Grows(Recurrent):
    """Its state gets longer with every step."""

    def step(self, x, state, first):
        y, after = super().step(x, state, first)
        return y, type(after)(torch.cat([after.hidden, after.hidden[:, :1]], dim=1), after.cell)

    def _run(self, x, hidden, cell):
        layers = self.rnn.num_layers
        return super()._run(x, hidden[:, :layers], cell[:, :layers])


class LearnsWhileActing(Recurrent):
    """Changes a weight in unroll."""

    def unroll(self, x, state, first):
        with torch.no_grad():
            self.norm.weight += 0.1
        return super().unroll(x, state, first)


class VectorLoss(Recurrent):
    """Reports an auxiliary loss per row instead of a scalar."""

    def unroll_with_losses(self, x, state, first):
        y, after = self.unroll(x, state, first)
        return y, after, {"extra": y.mean((1, 2))}


class OtherOutputsWithLosses(Recurrent):
    """Gives other outputs where losses are asked for."""

    def unroll_with_losses(self, x, state, first):
        y, after = self.unroll(x, state, first)
        return y + 1e-6, after, {}


class OtherStateWithLosses(Recurrent):
    """Gives another state where losses are asked for."""

    def unroll_with_losses(self, x, state, first):
        y, after = self.unroll(x, state, first)
        return y, type(after)(after.hidden + 1e-6, after.cell), {}


class EndlessLoss(Recurrent):
    """Reports an infinite auxiliary loss."""

    def unroll_with_losses(self, x, state, first):
        return *self.unroll(x, state, first), {"extra": torch.tensor(torch.inf)}


class TrainsBetweenUpdates(Recurrent):
    """Changes a parameter in between_updates."""

    def between_updates(self, x, state, first, generator):
        self.norm.weight += 0.1


class SlightlyOff(Recurrent):
    """One number of the outputs of unroll is off by a millionth."""

    def unroll(self, x, state, first):
        y, after = super().unroll(x, state, first)
        error = torch.zeros_like(y)
        error[-1, -1, -1] = 1e-6
        return y + error, after


class SeesALaterStep(Recurrent):
    """A thousandth of a millionth of the next step is added to every step from the seventh on."""

    def unroll(self, x, state, first):
        following = torch.cat([x[:, 7:], x[:, -1:]], dim=1) if x.shape[1] > 6 else x[:, :0]
        return super().unroll(torch.cat([x[:, :6], x[:, 6:] + 1e-9 * following[:, : x.shape[1] - 6]], 1), state, first)


class MixesRowsSlightly(Recurrent):
    """Adds a thousandth of a millionth of the row before."""

    def unroll(self, x, state, first):
        return super().unroll(x + 1e-9 * x.roll(1, 0), state, first)


class Recorded(Recurrent):
    """Correct, with one number per row in the state that counts the steps and has no influence on outputs."""

    def initial_state(self, batch):
        start = super().initial_state(batch)
        return type(start)(start.hidden, start.hidden[:, :, :1])

    def step(self, x, state, first):
        y, after = super().step(x, state, first)
        return y, type(after)(after.hidden, after.cell + 1)

    def unroll(self, x, state, first):
        y, after = super().unroll(x, state, first)
        steps = torch.arange(1, 1 + x.shape[1])
        begin = torch.where(first, steps, 0).amax(1)[
            :, None, None
        ]  # of the row's last episode, counted from 1; 0 = earlier
        return y, type(after)(after.hidden, torch.where(begin == 0, state.cell, 1 - begin) + x.shape[1])


class LeaksIntoTheState(Recorded):
    """The number of a discarded state is kept."""

    def step(self, x, state, first):
        y, after = super().step(x, state, first)
        return y, type(after)(after.hidden, state.cell + 1)


class LeaksInUnroll(Recorded):
    """`unroll` multiplies the number of a discarded state by zero and adds it to the outputs."""

    def unroll(self, x, state, first):
        y, after = super().unroll(x, state, first)
        return y + 0 * state.cell[:, :1], after


class MixesRowsInTheState(Recorded):
    """The number counts the rows, too."""

    def unroll(self, x, state, first):
        y, after = super().unroll(x, state, first)
        return y, type(after)(after.hidden, after.cell + torch.arange(len(x))[:, None, None])


class LearnsItsStart(Recurrent):
    """Correct; the state of an episode starts at a function of a parameter."""

    def __init__(self, config):
        super().__init__(config)
        self.start = torch.nn.Parameter(torch.zeros(config.layers, config.width))

    def initial_state(self, batch):
        start = super().initial_state(batch)
        return type(start)(self.start.tanh().expand_as(start.hidden), start.cell)

    def step(self, x, state, first):
        start = self.initial_state(len(x))
        return super().step(x, type(state)(where_rows(first, start.hidden, state.hidden), state.cell), first & False)

    def unroll(self, x, state, first):
        outputs = []
        for t in range(x.shape[1]):
            y, state = self.step(x[:, t], state, first[:, t])
            outputs.append(y)
        return torch.stack(outputs, 1), state


@pytest.mark.parametrize(
    "planted, claim",
    [
        (Leaky, "discards"),
        (OffByOne, "unroll equals"),
        (SeesTheFuture, "future"),
        (MixesRows, "rows are independent"),
        (Remembers, "module holds"),
        (Grows, "fixed size"),
        (LearnsWhileActing, "module holds"),
        (VectorLoss, "auxiliary"),
        (Overwrites, "never modified"),
        (TrainsBetweenUpdates, "between_updates"),
        (OtherOutputsWithLosses, "auxiliary"),
        (OtherStateWithLosses, "auxiliary"),
        (EndlessLoss, "auxiliary"),
        (SlightlyOff, "unroll equals"),
        (SeesALaterStep, "future"),
        (MixesRowsSlightly, "rows are independent"),
        (LeaksIntoTheState, "discards"),
        (LeaksInUnroll, "discards"),
        (MixesRowsInTheState, "rows are independent"),
    ],
)
def test_a_planted_mistake_is_found(planted: type[Backbone], claim):
    make = Make(lambda: planted(config.GRUConfig(width=WIDTH, layers=2)), WIDTH)
    (check, *_) = [check for check in CHECKS if claim in check.claim]
    with pytest.raises(Broken):
        for number in range(10):
            check.run(make, number)


def test_a_number_of_the_state_that_has_no_influence_on_outputs_is_allowed():
    make = Make(lambda: Recorded(config.GRUConfig(width=WIDTH, layers=2)), WIDTH)
    for check, number in itertools.product(CHECKS, range(4)):
        check.run(make, number)


def test_episodes_may_start_at_a_function_of_a_parameter():
    make = Make(lambda: LearnsItsStart(config.GRUConfig(width=WIDTH, layers=2)), WIDTH)
    new = next(number for number in range(100) if make_case(make, number).state.hidden.requires_grad)  # no step before
    for check, number in itertools.product(CHECKS, (0, 1, new)):
        check.run(make, number)


def test_unroll_is_compared_in_chunks_of_every_length_from_one_step_to_all(monkeypatch):
    given = []
    monkeypatch.setattr(contract, "in_chunks", lambda case, state, chunk: given.append((chunk, case.x.shape[1])))
    monkeypatch.setattr(contract, "results", lambda case, run: (run(case, case.state), ([], []))[1])
    monkeypatch.setattr(contract, "by_steps", lambda case, state: None)
    make = Make(lambda: Recorded(config.GRUConfig(width=2, layers=1)), 2)
    for number in range(40):
        contract.unroll_equals_steps(make, number, torch.float32, 1e-5)
    whole, parts = given[::2], given[1::2]
    assert len(parts) == 40 and all(chunk == steps for chunk, steps in whole)
    assert all(1 <= chunk <= steps for chunk, steps in parts)
    assert {chunk for chunk, steps in parts if chunk < steps} >= set(range(1, 7))


def test_the_cases_have_all_sizes_all_kinds_of_resets_and_any_phase():
    make = Make(lambda: Recorded(config.GRUConfig(width=2, layers=1)), 2)
    cases = [make_case(make, number) for number in range(120)]
    assert {case.x.shape[0] for case in cases} == {1, 2, 3, 4}
    assert {case.x.shape[1] for case in cases} == set(range(1, 20))
    assert {int(n) for case in cases for n in case.state.cell} == set(range(12))
    inner = [torch.cat([c.first[:, 1:-1].flatten() for c in cases[kind::4]]).double().mean() for kind in range(4)]
    assert inner == pytest.approx([0, 0.1, 0.5, 1], abs=0.05)
    without = cases[::4]  # but for those that begin or end with a reset
    for at in (0, -1):
        assert {bool(case.first[:, at].all()) for case in without if case.x.shape[1] > 1} == {True, False}


def test_every_number_is_compared_relative_to_the_largest_of_its_tensor():
    expected = [torch.tensor([0.0, 3.0]).double(), torch.zeros(0), torch.tensor([0.0, -7.0]).double()]

    def off(tensor, element, error, together=False):
        found = [x.clone() for x in expected]
        found[tensor][element] += error
        expect_close(found, expected, 0.5, "x", together)

    for element in (0, 1):
        for tensor, most in ((0, 2.0), (2, 4.0)):
            for error in (most, -most):
                off(tensor, element, error)
                with pytest.raises(Broken) as caught:
                    off(tensor, element, 1.1 * error)
                assert str(caught.value) == f"x differ by {1.1 * most:.1e}; allowed is {most:.1e}"
            off(tensor, element, 4.0, together=True)
            with pytest.raises(Broken, match=r"allowed is 4\.0e\+00$"):
                off(tensor, element, 4.1, together=True)
    with pytest.raises(Broken, match=r"^x: shape \(1,\); expected \(2,\)$"):
        expect_close([torch.zeros(1)], [torch.zeros(2)], 0.5, "x")
