"""The backbone contract (`rmt_rl.policies.checks.contract`) on every registered policy, in many variants."""

import functools
import os

import pytest
import torch

from rmt_rl import config
from rmt_rl.config.registry import GROUPS
from rmt_rl.envs.checks.runner import Broken
from rmt_rl.policies.base import Backbone
from rmt_rl.policies.checks.contract import CHECKS, Make, at_once, make_case
from rmt_rl.policies.recurrent import Recurrent
from rmt_rl.policies.registry import make_backbone

WIDTH = 8
#: `make check` runs one; `make contract` runs 300 of each, from experiments/reliability/contract.py.
CASES = int(os.environ.get("RMT_RL_CASES", "2"))


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
#: Variants that carry nothing over 30 steps, or carry it without gradient.
FORGETFUL = ("mlp", "window", "rmt-without-memory", "rmt-bptt", "rmt-everything", "trxl", "gtrxl")
backbones = pytest.mark.parametrize("variant", VARIANTS)


def maker(variant):
    return Make(functools.partial(make_backbone, VARIANTS[variant]), WIDTH)


def test_every_registered_policy_of_the_package_is_covered():
    ours = {entry.config for entry in GROUPS["policy"].values() if entry.config.__module__.startswith("rmt_rl.")}
    assert {type(v) for v in VARIANTS.values()} == ours


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


class TrainsBetweenUpdates(Recurrent):
    """Changes a parameter in between_updates."""

    def between_updates(self, x, state, first, generator):
        self.norm.weight += 0.1


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
        (TrainsBetweenUpdates, "between_updates"),
    ],
)
def test_a_planted_mistake_is_found(planted: type[Backbone], claim):
    make = Make(lambda: planted(config.GRUConfig(width=WIDTH, layers=2)), WIDTH)
    (check, *_) = [check for check in CHECKS if claim in check.claim]
    with pytest.raises(Broken):
        for number in range(6):
            check.run(make, number)
