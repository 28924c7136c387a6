"""Detects NaN and infinity before `optimizer.step()`, and reports where it came from."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import nn

from rmt_rl.common.errors import RunError
from rmt_rl.common.state import check_count


class NotFinite(RunError):
    """A NaN or an infinity; the message names the place where it was first found."""


class Guard:
    """Counts skipped optimizer steps: `allowed` in a row are skipped, one more raises `NotFinite`.

    A skipped rollout counts as one step.
    """

    def __init__(self, allowed: int) -> None:
        self.allowed, self.in_a_row, self.skipped = allowed, 0, 0

    def stop_or_skip(self, what: str) -> None:
        """Count a step that is skipped because of `what`; raises NotFinite where more than `allowed` were skipped in a row."""
        self.in_a_row += 1
        self.skipped += 1
        if self.in_a_row > self.allowed:
            times = f" ({self.in_a_row} in a row)" if self.allowed else ""
            raise NotFinite(f"{what}{times}; no optimizer step was made with it; the weights are unchanged")

    def passed(self) -> None:
        self.in_a_row = 0

    def counts(self) -> dict[str, float]:
        """For metrics: the number of skipped steps, where skipping is allowed."""
        return {"skipped": self.skipped} if self.allowed else {}

    def state_dict(self) -> dict[str, Any]:
        return {"in_a_row": self.in_a_row, "skipped": self.skipped}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.in_a_row = check_count("in_a_row", state["in_a_row"])
        self.skipped = check_count("skipped", state["skipped"])


def finite(x: torch.Tensor) -> torch.Tensor:
    """x with zeros in place of NaN and infinity."""
    return torch.nan_to_num(x, nan=0.0, posinf=0.0, neginf=0.0)


def first_nonfinite(name: str, x: torch.Tensor) -> str | None:
    """The first row of x [B, ...] with a NaN or an infinity, as text, or None."""
    # the sum is finite if all numbers are, unless it overflows; this is one pass, isfinite on all numbers takes several
    if not x.is_floating_point() or math.isfinite(float(x.sum())):
        return None
    bad = (~x.isfinite()).nonzero()
    return f"{name} of row {int(bad[0, 0])} is {float(x[tuple(bad[0])])}" if len(bad) else None


def nonfinite_in_update(
    loss: torch.Tensor, named: Iterable[tuple[str, nn.Parameter]], terms: Mapping[str, torch.Tensor]
) -> str:
    """What is not finite in an update: the loss, with the first of its terms, or the gradient of a parameter by its name."""
    if not math.isfinite(float(loss)):
        source = next((f", from {name}" for name, x in terms.items() if not math.isfinite(float(x.detach()))), "")
        return f"the loss is {float(loss)}{source}"
    for name, parameter in named:
        if parameter.grad is not None and not bool(parameter.grad.isfinite().all()):
            return f"the gradient of {name} is not finite, at a loss of {float(loss):.3g}"
    return "the norm of the gradients overflows"


def check_weights(policy: nn.Module) -> None:
    """Raises NotFinite where a weight is NaN or infinite after an optimizer step."""
    weights = [parameter.detach() for parameter in policy.parameters()]
    if not math.isfinite(float(torch.stack(torch._foreach_norm(weights)).sum())):
        bad = [name for name, parameter in policy.named_parameters() if not bool(parameter.isfinite().all())]
        if bad:
            raise NotFinite(f"the weight {bad[0]} is not finite after an update of finite gradients")
