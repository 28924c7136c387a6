"""From the options of a policy to its backbone."""

from __future__ import annotations

import dataclasses
from typing import Any

import torch

from rmt_rl.common.errors import ConfigError
from rmt_rl.common.process import command_line
from rmt_rl.config.bases import PolicyConfig
from rmt_rl.config.registry import entry_of
from rmt_rl.policies.base import Backbone


def make_backbone(config: PolicyConfig) -> Backbone[Any]:
    """The backbone that the options describe, with new weights from torch's global stream."""
    backbone: Backbone[Any] = entry_of(config).load()(config)
    return backbone


@torch.no_grad()
def check_shapes(backbone: Backbone[Any], config: PolicyConfig) -> None:
    """Raise ConfigError where a backbone from outside returns other things than its contract says, before a run starts.

    `rmt_rl.policies.check` checks the rest. Draws from torch's global stream where the backbone does.
    """
    if isinstance(entry_of(config).target, str):  # built in
        return
    rows, steps, width = 2, 3, config.width  # type: ignore[attr-defined]
    x_BTD = next(backbone.parameters()).new_zeros(rows, steps, width)
    first_BT = torch.ones(rows, steps, dtype=torch.bool, device=x_BTD.device)
    learning = backbone.training
    backbone.eval()
    state = backbone.initial_state(rows)
    _check_state(config, "initial_state(batch)", state, rows)
    stepped = backbone.step(x_BTD[:, 0], state, first_BT[:, 0])
    _check_result(config, "step", stepped, (rows, width), 2)
    _check_result(config, "unroll", backbone.unroll(x_BTD, state, first_BT), (rows, steps, width), 2)
    losses = backbone.unroll_with_losses(x_BTD, state, first_BT)
    _check_result(config, "unroll_with_losses", losses, (rows, steps, width), 3)
    if not isinstance(losses[2], dict) or not all(
        isinstance(x, torch.Tensor) and not x.dim() for x in losses[2].values()
    ):
        raise _wrong(config, "unroll_with_losses", str(losses[2]), "a dictionary of scalar tensors as its third value")
    backbone.train(learning)


def _check_result(config: PolicyConfig, method: str, result: Any, shape: tuple[int, ...], values: int) -> None:
    if not isinstance(result, tuple) or len(result) != values:
        found = f"{len(result)} values" if isinstance(result, tuple) else f"a {type(result).__name__}"
        raise _wrong(config, method, found, "(outputs, state)" if values == 2 else "(outputs, state, losses)")
    y, state = result[:2]
    if not isinstance(y, torch.Tensor) or y.shape != shape or y.dtype != torch.float32:
        found = (
            f"outputs {list(y.shape)} of {y.dtype}" if isinstance(y, torch.Tensor) else f"outputs of {type(y).__name__}"
        )
        raise _wrong(config, method, found, f"outputs {list(shape)} of torch.float32 for inputs of that shape")
    _check_state(config, method, state, shape[0])


def _check_state(config: PolicyConfig, method: str, state: Any, rows: int) -> None:
    """A state is a dataclass of tensors, or of such dataclasses, with the rows on axis 0."""
    if isinstance(state, torch.Tensor) or not dataclasses.is_dataclass(state):
        raise _wrong(config, method, f"a state of {type(state).__name__}", "a frozen dataclass of tensors as its state")
    for field in dataclasses.fields(state):
        part = getattr(state, field.name)
        if not isinstance(part, torch.Tensor):
            _check_state(config, method, part, rows)
        elif part.dim() == 0 or len(part) != rows:
            found = f"a state whose {field.name} is {list(part.shape)}"
            raise _wrong(config, method, found, f"the {rows} rows on axis 0 of every tensor of the state")


def _wrong(config: PolicyConfig, method: str, found: str, expected: str) -> ConfigError:
    return ConfigError(
        f"policy={config.name}: {method} of its class returned {found}; expected {expected}"
        f" ({command_line('rmt_rl.policies.check')} checks the contract)"
    )
