"""What PPO and RATE share: step sizes, gradients checked before the optimizer step, and the saved optimizer state."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from rmt_rl.common.finite import Guard, nonfinite_in_update
from rmt_rl.common.ranks import ALONE, Ranks
from rmt_rl.common.state import check_tensor


def schedule(kind: str, progress: float) -> float:
    """The factor of the step size and the entropy bonus at `progress` (0..1) of the run."""
    if kind == "constant":
        return 1.0
    return 1 - progress if kind == "linear" else 0.5 + 0.5 * math.cos(math.pi * progress)


def guarded_gradient(
    optimizer: torch.optim.Optimizer,
    loss: torch.Tensor,
    policy: nn.Module,
    max_norm: float,
    guard: Guard,
    terms: Mapping[str, torch.Tensor],
    ranks: Ranks = ALONE,
) -> torch.Tensor | None:
    """Compute the gradient of `loss` for the next `optimizer.step()`, scaled down to `max_norm`; returns its norm before that.

    terms: auxiliary losses by name, for the message. ranks: the processes of whose losses the mean counts. Returns
    None where the loss or the gradient is not finite and `guard` allows to skip it; raises NotFinite where it does not.
    """
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    loss = mean_over_ranks(ranks, policy, loss) if ranks.count > 1 else loss.detach()
    parameters = [parameter for parameter in policy.parameters() if parameter.grad is not None]
    norm = nn.utils.get_total_norm(p.grad for p in parameters if p.grad is not None)
    # before scaling, which would spread one NaN to all gradients; a constant loss of NaN has finite gradients. Both at once,
    # because on a GPU the host waits for the answer.
    finite = torch.stack([norm, loss]).isfinite().all()
    if not bool(finite):
        guard.stop_or_skip(nonfinite_in_update(loss, policy.named_parameters(), terms))
        return None
    guard.passed()
    nn.utils.clip_grads_with_norm_(parameters, max_norm, norm)
    return norm


def mean_over_ranks(ranks: Ranks, policy: nn.Module, loss: torch.Tensor) -> torch.Tensor:
    """Give every process the mean of all processes' gradients, and return the mean of their losses.

    One message for all. A weight on which the loss of no process depends keeps no gradient, so that the optimizer leaves it as it
    is.
    """
    parameters = list(policy.parameters())
    exist = [loss.new_tensor(float(p.grad is not None)) for p in parameters]
    gradients = [torch.zeros_like(p).flatten() if p.grad is None else p.grad.flatten() for p in parameters]
    mean = ranks.mean(torch.cat([loss.detach()[None], torch.stack(exist), *gradients]))
    mean_loss, exist_anywhere, gradients_of_all = mean.split([1, len(exist), len(mean) - 1 - len(exist)])
    sizes = [p.numel() for p in parameters]
    for p, gradient, exists in zip(parameters, gradients_of_all.split(sizes), exist_anywhere.tolist(), strict=True):
        p.grad = gradient.view_as(p) if exists else None
    return mean_loss[0]


def optimizer_state(optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """The averages of an optimizer by the number of the parameter; its settings are in the run's configuration."""
    return {str(number): dict(averages) for number, averages in optimizer.state_dict()["state"].items()}


def load_optimizer_state(optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> None:
    """The reverse of `optimizer_state`; raises ValueError where the shapes of the parameters differ."""
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    for number, averages in state.items():
        parameter = parameters[int(number)]
        if averages.keys() != {"step", "exp_avg", "exp_avg_sq"}:
            raise ValueError(f"parameter {number} has {sorted(averages)}; expected step, exp_avg and exp_avg_sq")
        check_tensor(f"step of parameter {number}", averages["step"], torch.zeros(()), low=0)
        check_tensor(f"exp_avg of parameter {number}", averages["exp_avg"], parameter)
        check_tensor(f"exp_avg_sq of parameter {number}", averages["exp_avg_sq"], parameter, low=0)
    numbered = {int(number): averages for number, averages in state.items()}
    optimizer.load_state_dict({"state": numbered, "param_groups": optimizer.state_dict()["param_groups"]})
