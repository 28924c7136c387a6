"""The promises of `policies/base.py` as checks over random cases: each raises `Broken` where one does not hold."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import torch

from rmt_rl.common.state import changed_in_place, leaves, map_state, versions_of
from rmt_rl.envs.checks.runner import expect
from rmt_rl.policies.base import Backbone, has_between_updates

#: A way to compute outputs [B, T, D] and the final state of a case from a state.
Run = Callable[["Case", Any], tuple[torch.Tensor, Any]]


@dataclasses.dataclass(frozen=True)
class Make:
    """Makes backbones with new weights. width: D of their inputs."""

    backbone: Callable[[], Backbone[Any]]
    width: int


@dataclasses.dataclass(frozen=True)
class Check:
    """One claim, and the function that raises `Broken` where it does not hold for case `number`."""

    claim: str
    run: Callable[[Make, int], None]


@dataclasses.dataclass
class Case:
    """A backbone in use. x: [B, T, D] inputs. first: [B, T]. state: after a random number of steps, at a random phase."""

    backbone: Backbone[Any]
    x: torch.Tensor
    first: torch.Tensor
    state: Any


def make_case(make: Make, number: int, dtype: torch.dtype = torch.float64) -> Case:
    """Case `number`: rows, steps, resets and starting phase vary with it; the same number gives the same case."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1000 + number)
        backbone = make.backbone().to(dtype)
        for parameter in backbone.parameters():  # initial values are too small, or equal, for some mistakes to show
            parameter.data += 0.1 * torch.randn_like(parameter)
        B, T = int(torch.randint(1, 5, ())), int(torch.randint(1, 20, ()))
        x = torch.randn(B, T, make.width, dtype=dtype)
        first = torch.rand(B, T) < [0.0, 0.1, 0.5, 1.0][number % 4]
        if number % 5 == 0:
            first[:, 0] = True
        if number % 5 == 1:
            first[:, -1] = True
        state = backbone.initial_state(B)
        with torch.no_grad():
            for _ in range(int(torch.randint(0, 12, ()))):
                _, state = backbone.step(torch.randn(B, make.width, dtype=dtype), state, torch.rand(B) < 0.2)
    return Case(backbone, x, first, state)


def tensors(state: Any) -> list[torch.Tensor]:
    return list(leaves(state).values())


def by_steps(case: Case, state: Any) -> tuple[torch.Tensor, Any]:
    """T calls of `step`."""
    outputs = []
    for t in range(case.x.shape[1]):
        y, state = case.backbone.step(case.x[:, t], state, case.first[:, t])
        outputs.append(y)
    return torch.stack(outputs, dim=1), state


def in_chunks(case: Case, state: Any, chunk: int) -> tuple[torch.Tensor, Any]:
    """Calls of `unroll` for `chunk` steps each."""
    outputs = []
    for t in range(0, case.x.shape[1], chunk):
        y, state = case.backbone.unroll(case.x[:, t : t + chunk], state, case.first[:, t : t + chunk])
        outputs.append(y)
    return torch.cat(outputs, dim=1), state


def at_once(case: Case, state: Any) -> tuple[torch.Tensor, Any]:
    """One call of `unroll`."""
    return in_chunks(case, state, case.x.shape[1])


def results(case: Case, run: Run) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    """Outputs and final state, and the gradients of a random linear function of both."""

    def leaf(x: torch.Tensor) -> torch.Tensor:
        return x.detach().clone().requires_grad_() if x.is_floating_point() else x

    start = map_state(leaf, case.state)
    case.x.requires_grad_()
    outputs, state = run(case, start)
    generator = torch.Generator().manual_seed(5)
    loss = torch.zeros((), dtype=case.x.dtype)
    for value in [outputs, *tensors(state)]:
        if value.is_floating_point():
            loss = loss + (value * torch.randn(value.shape, generator=generator, dtype=value.dtype)).sum()
    inputs = [*case.backbone.parameters(), case.x, *(v for v in tensors(start) if v.is_floating_point())]
    gradients = torch.autograd.grad(loss, inputs, allow_unused=True, materialize_grads=True)
    return [outputs, *tensors(state)], list(gradients)


def expect_close(
    found: list[torch.Tensor], expected: list[torch.Tensor], tolerance: float, what: str, together: bool = False
) -> None:
    """Raises `Broken` where two lists of tensors differ, relative to 1 + the largest number of each expected one.

    together: relative to the largest number of all of them.
    """
    scales = [1 + float(b.detach().abs().max()) if b.numel() else 1.0 for b in expected]
    for a, b, scale in zip(found, expected, scales, strict=True):
        expect(a.shape == b.shape, f"{what}: shape {tuple(a.shape)}; expected {tuple(b.shape)}")
        if b.numel():
            difference = float((a - b).detach().abs().max())
            allowed = tolerance * (max(scales) if together else scale)
            expect(difference <= allowed, f"{what} differ by {difference:.1e}; allowed is {allowed:.1e}")


def unroll_equals_steps(make: Make, number: int, dtype: torch.dtype, tolerance: float) -> None:
    case = make_case(make, number, dtype)
    steps = results(case, by_steps)
    for size in (case.x.shape[1], 1 + number % case.x.shape[1]):
        found = results(case, lambda c, s, n=size: in_chunks(c, s, n))  # type: ignore[misc]
        where = f"case {number}, chunks of {size} steps"
        expect_close(found[0], steps[0], tolerance, f"{where}: outputs or final state of unroll and step")
        # A gradient is a sum over steps that may cancel: in one case 1 of 6 was left of parts of up to 300, and float32 was off
        # by 1.5e-4 where float64 agrees to 1e-12. Rounding is relative to the parts, and in one case of thousands float32 was
        # off by just over 2e-5 of them.
        together = dtype == torch.float32
        expect_close(found[1], steps[1], tolerance, f"{where}: gradients of unroll and step", together)


def unroll_equals_steps_float64(make: Make, number: int) -> None:
    unroll_equals_steps(make, number, torch.float64, 1e-10)


def unroll_equals_steps_float32(make: Make, number: int) -> None:
    unroll_equals_steps(make, number, torch.float32, 5e-5)


@torch.no_grad()
def discarded_state_has_no_influence(make: Make, number: int) -> None:
    case = make_case(make, number)
    case.first[: (len(case.first) + 1) // 2, 0] = True
    discarded = case.first[:, 0]

    def poison(x: torch.Tensor) -> torch.Tensor:
        if not x.is_floating_point():
            return x
        return torch.where(discarded.view(-1, *[1] * (x.dim() - 1)), torch.nan, x)

    for name, run in (("step", by_steps), ("unroll", at_once)):
        clean, poisoned = run(case, case.state), run(case, map_state(poison, case.state))
        equal = torch.equal(clean[0], poisoned[0])
        for a, b in zip(tensors(clean[1]), tensors(poisoned[1]), strict=True):
            equal = equal and torch.equal(a, b)
        expect(
            equal, f"case {number}: {name} changes with NaN in a state that `first` discards; select with torch.where"
        )


@torch.no_grad()
def the_future_has_no_influence(make: Make, number: int) -> None:
    case = make_case(make, number)
    t = number % case.x.shape[1]
    before, _ = at_once(case, case.state)
    changed = dataclasses.replace(case, x=case.x.clone())
    changed.x[:, t:] += 1.0
    after, _ = at_once(changed, case.state)
    expect_close(
        [after[:, :t]], [before[:, :t]], 1e-12, f"case {number}: outputs before step {t}, where the input changed,"
    )


@torch.no_grad()
def rows_are_independent(make: Make, number: int) -> None:
    case = make_case(make, number)
    rows = torch.randperm(len(case.x), generator=torch.Generator().manual_seed(number))
    outputs, state = at_once(case, case.state)
    permuted = Case(case.backbone, case.x[rows], case.first[rows], map_state(lambda v: v[rows], case.state))
    found, found_state = at_once(permuted, permuted.state)
    expected = [outputs[rows], *(v[rows] for v in tensors(state))]
    expect_close([found, *tensors(found_state)], expected, 1e-12, f"case {number}: results of permuted rows")


@torch.no_grad()
def state_has_a_fixed_size(make: Make, number: int) -> None:
    case = make_case(make, number)
    state = case.backbone.initial_state(2)
    sizes = {name: tuple(x.shape) for name, x in leaves(state).items()}
    for name, shape in sizes.items():
        expect(shape[:1] == (2,), f"{name} has shape {shape}; expected the 2 rows on axis 0")
    for step in range(30):
        x = torch.randn(2, case.x.shape[-1], dtype=case.x.dtype)
        _, state = case.backbone.step(x, state, torch.zeros(2, dtype=torch.bool))
        now = {name: tuple(x.shape) for name, x in leaves(state).items()}
        expect(now == sizes, f"after {step + 1} steps the state has shapes {now}; expected {sizes}")


def module_holds_weights_only(make: Make, number: int) -> None:
    case = make_case(make, number)
    before = {name: value.clone() for name, value in case.backbone.state_dict().items()}
    attributes = set(vars(case.backbone))
    in_chunks(case, case.state, 3)
    by_steps(case, case.state)
    added = set(vars(case.backbone)) - attributes
    expect(not added, f"step or unroll set the attributes {sorted(added)}; state is an argument")
    changed = [name for name, value in case.backbone.state_dict().items() if not torch.equal(value, before[name])]
    expect(not changed, f"step or unroll changed {changed}; weights and buffers change between updates only")


@torch.no_grad()
def arguments_are_never_modified(make: Make, number: int) -> None:
    case = make_case(make, number)
    kept = {"first": case.first, **leaves(case.state)}
    before = versions_of(kept)
    for name, run in (("step", by_steps), ("unroll", at_once)):
        run(case, case.state)
        changed = changed_in_place(kept, before)
        expect(not changed, f"{name} changed {changed} in place, which rollouts keep; return new tensors")


def auxiliary_losses_are_scalars(make: Make, number: int) -> None:
    case = make_case(make, number)
    y, state = at_once(case, case.state)
    with_losses, after, losses = case.backbone.unroll_with_losses(case.x, case.state, case.first)
    same = torch.equal(y, with_losses) and all(map(torch.equal, tensors(state), tensors(after)))
    expect(same, f"case {number}: unroll_with_losses and unroll give different outputs or states")
    for name, loss in losses.items():
        finite = loss.dim() == 0 and bool(loss.isfinite())
        expect(finite, f"case {number}: auxiliary loss {name!r} is {loss}; expected one finite number")


def between_updates_changes_buffers_only(make: Make, number: int) -> None:
    case = make_case(make, number)
    if not has_between_updates(case.backbone):
        return
    before = {name: value.clone() for name, value in case.backbone.named_parameters()}
    with torch.no_grad():
        case.backbone.between_updates(case.x, case.state, case.first, torch.Generator().manual_seed(0))
    changed = [name for name, value in case.backbone.named_parameters() if not torch.equal(value, before[name])]
    expect(not changed, f"between_updates changed the parameters {changed}; expected changes of buffers only")


CHECKS = (
    Check("unroll equals T calls of step in outputs, state and gradients (float64)", unroll_equals_steps_float64),
    Check("unroll equals T calls of step in outputs, state and gradients (float32)", unroll_equals_steps_float32),
    Check("a state that `first` discards has no influence, even if it is NaN", discarded_state_has_no_influence),
    Check("the future has no influence on the past", the_future_has_no_influence),
    Check("rows are independent of each other", rows_are_independent),
    Check("the state has a fixed size, with the rows on axis 0", state_has_a_fixed_size),
    Check("a module holds weights and nothing else", module_holds_weights_only),
    Check("`first` and the state are never modified", arguments_are_never_modified),
    Check("auxiliary losses are finite scalars and change no output", auxiliary_losses_are_scalars),
    Check("between_updates changes buffers only", between_updates_changes_buffers_only),
)
