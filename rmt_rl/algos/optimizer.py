"""What PPO and RATE do alike with their optimizer: step sizes over the run, a guarded step, and what is saved of it."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import nn

from rmt_rl.guards import Guard, culprit_in_update


def schedule(kind: str, progress: float) -> float:
    """What the step size and the entropy bonus are multiplied with when `progress` (0..1) of the run is over."""
    if kind == "constant":
        return 1.0
    return 1 - progress if kind == "linear" else 0.5 + 0.5 * math.cos(math.pi * progress)


def guarded_step(
    optimizer: torch.optim.Optimizer, loss: torch.Tensor, policy: nn.Module, max_norm: float, guard: Guard
) -> torch.Tensor | None:
    """One step down the gradient of `loss`, scaled down to `max_norm`; the norm before that, or None where no step was made.

    Raises NotFinite where the gradient is not finite and `guard` does not let it pass.
    """
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    parameters = [parameter for parameter in policy.parameters() if parameter.grad is not None]
    norm = nn.utils.get_total_norm(p.grad for p in parameters if p.grad is not None)
    if not math.isfinite(float(norm)):  # before it is scaled, which would spread one NaN to all
        guard.stop_or_skip(culprit_in_update(loss.detach(), policy.named_parameters()))
        return None
    guard.passed()
    nn.utils.clip_grads_with_norm_(parameters, max_norm, norm)
    optimizer.step()
    return norm


def optimizer_state(optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """What an optimizer has gathered, by the number of the parameter; its settings are the run's."""
    return {str(number): dict(gathered) for number, gathered in optimizer.state_dict()["state"].items()}


def load_optimizer_state(optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> None:
    """Put back what `optimizer_state` took; raises ValueError where it belongs to other parameters."""
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    for number, gathered in state.items():
        for name, value in gathered.items():
            if value.dim() and value.shape != parameters[int(number)].shape:
                raise ValueError(f"{name} of parameter {number} has shape {tuple(value.shape)}")
    numbered = {int(number): gathered for number, gathered in state.items()}
    optimizer.load_state_dict({"state": numbered, "param_groups": optimizer.state_dict()["param_groups"]})
