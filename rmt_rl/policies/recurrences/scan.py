"""Recurrences that are linear in their state, for all steps of a row at once."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

#: Tensors that describe a stretch of steps, time on axis 0 of each.
Elements = tuple[torch.Tensor, ...]


def linear_scan(keep: torch.Tensor, x: torch.Tensor, before: torch.Tensor) -> torch.Tensor:
    """h_t = keep_t * h_{t-1} + x_t with h_{-1} = before. keep, x: [T, B, ...]; before: [B, ...]; returns all h, [T, B, ...].

    Complex numbers are allowed. A CPU runs the loop, which reads every number once; other devices run log2(T) rounds.
    """
    if len(x) == 1:
        return torch.addcmul(x, keep, before[None])
    if x.device.type == "cpu":
        return _Loop.apply(keep, x, before)
    return scan_by_rounds(keep, x, before)


def scan_by_rounds(keep: torch.Tensor, x: torch.Tensor, before: torch.Tensor) -> torch.Tensor:
    """`linear_scan` in log2(T) rounds."""
    x = torch.cat([torch.addcmul(x[:1], keep[:1], before[None]), x[1:]])
    return associative_scan(lambda a, b: (a[0] * b[0], torch.addcmul(b[1], b[0], a[1])), (keep, x))[1]


def associative_scan(combine: Callable[[Elements, Elements], Elements], elements: Elements) -> Elements:
    """Every prefix of T elements combined, in log2(T) rounds (Hillis & Steele 1986).

    combine(earlier, later): the element for both stretches of steps, one after the other; it must be associative.
    """
    steps, distance = len(elements[0]), 1
    while distance < steps:
        both = combine(tuple(x[:-distance] for x in elements), tuple(x[distance:] for x in elements))
        elements = tuple(torch.cat([x[:distance], y]) for x, y in zip(elements, both, strict=True))
        distance *= 2
    return elements


class _Loop(torch.autograd.Function):
    """`linear_scan` step by step, with a backward pass that is such a loop, too: autograd would record T operations."""

    @staticmethod
    def forward(ctx: Any, keep: torch.Tensor, x: torch.Tensor, before: torch.Tensor) -> torch.Tensor:
        h, out = before, torch.empty_like(x)
        for t in range(len(x)):
            h = torch.addcmul(x[t], keep[t], h, out=out[t])
        ctx.save_for_backward(keep, before, out)
        return out

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        keep, before, out = ctx.saved_tensors
        keep, found = keep.conj(), torch.empty_like(out)
        found[-1] = gradient[-1]
        for t in range(len(keep) - 2, -1, -1):
            torch.addcmul(gradient[t], keep[t + 1], found[t + 1], out=found[t])
        return found * torch.cat([before[None], out[:-1]]).conj(), found, keep[0] * found[0]
