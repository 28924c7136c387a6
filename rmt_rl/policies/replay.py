"""Computes without keeping activations, and again in the backward pass.

As `torch.utils.checkpoint`, but autograd keeps one node for a call instead of one for every operation in it: over many
thousand steps these nodes grew, not the activations. Gradients of gradients are not supported.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeVar

import torch
from torch import nn
from torch.autograd.function import once_differentiable

Result = TypeVar("Result")


def replay(
    function: Callable[..., Result], parameters: Iterable[nn.Parameter], *arguments: Any, random: bool = False
) -> Result:
    """function(*arguments), whose activations are computed again in the backward pass (gradient checkpointing).

    parameters: these, and the tensors in the arguments, are what gradients reach. Arguments and result may hold tensors
        in tuples, lists and dataclasses. What the function detaches gets no gradient, as elsewhere.
    random: whether the function draws random numbers, as dropout does.
    """
    tensors: list[torch.Tensor] = []
    rebuild = _take_tensors(arguments, tensors)
    call = _Call(function, rebuild, len(tensors), random)
    outputs = _Replay.apply(call, *tensors, *parameters)
    return call.result(list(outputs))


class _Call:
    """What both passes compute; result: makes the function's result of its tensors, known after the first one."""

    result: Callable[[list[torch.Tensor]], Any]

    def __init__(self, function: Callable[..., Any], rebuild: Callable[..., Any], count: int, random: bool) -> None:
        self._function, self._rebuild, self.count = function, rebuild, count
        self._states = _random_states() if random else None

    def __call__(self, tensors: list[torch.Tensor]) -> list[torch.Tensor]:
        outputs: list[torch.Tensor] = []
        self.result = _take_tensors(self._function(*self._rebuild(tensors)), outputs)
        return outputs

    @contextlib.contextmanager
    def again(self) -> Iterator[None]:
        """Inside, random numbers are those of the first pass."""
        if self._states is None:
            yield
            return
        now = _random_states()
        _set_random_states(self._states)
        try:
            yield
        finally:
            _set_random_states(now)


class _Replay(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, call: _Call, *tensors: torch.Tensor) -> tuple[torch.Tensor, ...]:
        ctx.call = call
        ctx.save_for_backward(*tensors)
        ctx.set_materialize_grads(False)
        outputs = call(list(tensors[: call.count]))
        ctx.mark_non_differentiable(*(x for x in outputs if not x.is_floating_point()))
        return tuple(outputs)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: torch.Tensor | None) -> tuple[torch.Tensor | None, ...]:
        call, needed = ctx.call, ctx.needs_input_grad[1:]
        saved = ctx.saved_tensors
        inputs = [x.detach().requires_grad_(need) for x, need in zip(saved[: call.count], needed, strict=False)]
        with torch.enable_grad(), call.again():
            outputs = call(inputs)
        pairs = [(y, g) for y, g in zip(outputs, gradients, strict=True) if g is not None and y.requires_grad]
        wanted = [x for x, need in zip([*inputs, *saved[call.count :]], needed, strict=True) if need]
        if not pairs or not wanted:
            return (None,) * (1 + len(needed))
        found = iter(torch.autograd.grad([y for y, _ in pairs], wanted, [g for _, g in pairs], allow_unused=True))
        return None, *(next(found) if need else None for need in needed)


def _take_tensors(value: Any, tensors: list[torch.Tensor]) -> Callable[[list[torch.Tensor]], Any]:
    """Append the tensors in a value to a list; returns what makes the value again of such a list with others."""
    if isinstance(value, torch.Tensor):
        number = len(tensors)
        tensors.append(value)
        return lambda others: others[number]
    kind = type(value)
    if isinstance(value, (tuple, list)):
        parts = [_take_tensors(part, tensors) for part in value]
        return lambda others: kind(part(others) for part in parts)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        before = len(tensors)
        fields = {f.name: _take_tensors(getattr(value, f.name), tensors) for f in dataclasses.fields(value)}
        if len(tensors) > before:  # a function that held the value would keep its tensors
            return lambda others: kind(**{name: field(others) for name, field in fields.items()})
    return lambda others: value


def _random_states() -> tuple[torch.Tensor, list[int], list[torch.Tensor]]:
    """The states of torch's global generators: of the CPU, and of the GPUs in use."""
    devices = [torch.cuda.current_device()] if torch.cuda.is_initialized() else []
    return torch.get_rng_state(), devices, [torch.cuda.get_rng_state(device) for device in devices]


def _set_random_states(states: tuple[torch.Tensor, list[int], list[torch.Tensor]]) -> None:
    cpu, devices, of_devices = states
    torch.set_rng_state(cpu)
    for device, state in zip(devices, of_devices, strict=True):
        torch.cuda.set_rng_state(state, device)
