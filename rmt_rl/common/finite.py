"""Numbers that are not finite are caught before a step of the optimizer is made of them, and named."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import torch
from torch import nn

from rmt_rl.common.errors import RunError
from rmt_rl.common.state import Obs


class NotFinite(RunError):
    """A NaN or an infinity where a number is needed; the message says where it was first seen."""


class Guard:
    """Decides what happens to a step that cannot be made: `allowed` in a row are left out, one more is an error.

    A step of an optimizer counts as one, and so does a rollout of which none is made.
    """

    def __init__(self, allowed: int) -> None:
        self.allowed, self.in_a_row, self.skipped = allowed, 0, 0

    def stop_or_skip(self, what: str) -> None:
        """Count a step that is left out because of `what`; raises NotFinite where there were too many of them."""
        self.in_a_row += 1
        self.skipped += 1
        if self.in_a_row > self.allowed:
            times = f" ({self.in_a_row} in a row)" if self.allowed else ""
            raise NotFinite(f"{what}{times}; no step was made of it, the weights are those of the step before")

    def passed(self) -> None:
        self.in_a_row = 0

    def counts(self) -> dict[str, float]:
        """For metrics: how many were left out so far, where that is allowed."""
        return {"skipped": self.skipped} if self.allowed else {}

    def state_dict(self) -> dict[str, Any]:
        return {"in_a_row": self.in_a_row, "skipped": self.skipped}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.in_a_row, self.skipped = int(state["in_a_row"]), int(state["skipped"])


def finite(x: torch.Tensor) -> torch.Tensor:
    """x with zeros in place of what is no number."""
    return torch.nan_to_num(x, nan=0.0, posinf=0.0, neginf=0.0)


def first_nonfinite(name: str, x: Obs) -> str | None:
    """Which row of [B, ...] holds a number that is not finite, in words, or None; entries of dictionaries by their names."""
    if isinstance(x, dict):
        found = (first_nonfinite(f"{name} {key!r}", entry) for key, entry in x.items())
        return next((text for text in found if text), None)
    # the sum is finite if all are, unless it overflows; one pass, where to look at each number would take several
    if not x.is_floating_point() or math.isfinite(float(x.sum())):
        return None
    bad = (~x.isfinite()).nonzero()
    return f"{name} of row {int(bad[0, 0])} is {float(x[tuple(bad[0])])}" if len(bad) else None


def nonfinite_in_update(loss: torch.Tensor, named: Iterable[tuple[str, nn.Parameter]]) -> str:
    """What is not finite in an update whose gradient norm is not."""
    if not math.isfinite(float(loss)):
        return f"the loss is {float(loss)}"
    for name, parameter in named:
        if parameter.grad is not None and not bool(parameter.grad.isfinite().all()):
            return f"the gradient of {name} is not finite, at a loss of {float(loss):.3g}"
    return "the gradients are too large for their norm to be a number"


def check_weights(policy: nn.Module) -> None:
    """Raises NotFinite where a step of the optimizer has left a weight that is not a number."""
    weights = [parameter.detach() for parameter in policy.parameters()]
    if not math.isfinite(float(torch.stack(torch._foreach_norm(weights)).sum())):
        bad = [name for name, parameter in policy.named_parameters() if not bool(parameter.isfinite().all())]
        if bad:
            raise NotFinite(f"the weight {bad[0]} is not finite after an update of finite gradients")
