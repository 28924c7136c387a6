"""From the options of a policy to its backbone, and to an encoder from outside."""

from __future__ import annotations

import copy
import dataclasses
import inspect
from collections.abc import Callable
from typing import Any

import gymnasium
import numpy as np
import torch
from torch import nn
from torch.nn.parameter import is_lazy

from rmt_rl.common.errors import ConfigError
from rmt_rl.common.process import command_line
from rmt_rl.common.state import changed_in_place, leaves, versions_of
from rmt_rl.config.bases import PolicyConfig
from rmt_rl.config.fields import show
from rmt_rl.config.registry import entry_of, find_encoder
from rmt_rl.policies.base import Backbone
from rmt_rl.policies.encoders import WIDEST_BOUNDS, ObservationEncoder


def make_backbone(config: PolicyConfig) -> Backbone[Any]:
    """The backbone that the options describe, with new weights from torch's global stream."""
    backbone: Backbone[Any] = entry_of(config).load()(config)
    return backbone


def encoder_maker(config: PolicyConfig) -> Callable[[gymnasium.Space[Any], int], nn.Module] | None:
    """What makes the encoder of the user that the options name; None where the observation space chooses one of ours."""
    own = find_encoder(config.encoder)
    if own is None:
        return None

    def make(space: gymnasium.Space[Any], width: int) -> nn.Module:
        try:
            inspect.signature(own).bind(space, width, **config.encoder_options)
        except TypeError as error:
            raise ConfigError(
                f"policy.encoder_options={show(config.encoder_options)}: the encoder {config.encoder} is called as"
                f" cls(space, width, **options) and does not take them ({error})"
            ) from None
        made = own(space, width, **config.encoder_options)
        if not isinstance(made, nn.Module):
            raise ConfigError(
                f"policy.encoder={config.encoder}: a {type(made).__name__} was made; expected a torch.nn.Module"
            )
        for name, tensor in (*made.named_parameters(), *made.named_buffers()):
            if is_lazy(tensor):
                raise ConfigError(
                    f"policy.encoder={config.encoder}: its class has {name}, whose shape is not known before its first call, so"
                    " that no saved policy could be loaded; expected layers whose sizes are computed from the space"
                )
        return made

    return make


@torch.no_grad()
def check_encoder(encoder: ObservationEncoder, config: PolicyConfig, device: torch.device) -> None:
    """Raise ConfigError where an encoder from outside returns other things than vectors [N, width], before a run starts.

    Draws from torch's global stream where the encoder does.
    """
    if config.encoder == "auto":
        return
    rows, width, learning = 2, config.width, encoder.training  # type: ignore[attr-defined]
    space = copy.deepcopy(encoder.space)

    def example(part: gymnasium.Space[Any]) -> torch.Tensor:
        part.seed(0)
        return torch.as_tensor(np.stack([part.sample() for _ in range(rows)]), device=device)

    parts = dict(space.items()) if isinstance(space, gymnasium.spaces.Dict) else None
    obs: Any = example(space) if parts is None else {key: example(part) for key, part in parts.items()}
    encoder.eval()
    found = encoder.encoder(obs)
    encoder.train(learning)
    if isinstance(found, torch.Tensor) and found.shape == (rows, width) and found.dtype == torch.float32:
        # a space whose bounds are those of float32 has samples that overflow in any network
        small = all(bool((x.abs() <= WIDEST_BOUNDS).all()) for x in ([obs] if parts is None else obs.values()))
        if small and not bool(found.isfinite().all()):
            number = float(found[~found.isfinite()][0])
            raise ConfigError(
                f"policy.encoder={config.encoder}: its class returned {number} for a sample of its space; expected finite numbers"
            )
        return
    what = f"{list(found.shape)} of {found.dtype}" if isinstance(found, torch.Tensor) else f"a {type(found).__name__}"
    raise ConfigError(
        f"policy.encoder={config.encoder}: its class returned {what} for {rows} observations; expected {[rows, width]} of"
        " torch.float32, one vector of the policy's width for each"
    )


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
    kept = {"first": first_BT, **leaves(state)}
    before = versions_of(kept)

    def check(method: str, result: Any, shape: tuple[int, ...], values: int = 2) -> Any:
        _check_result(config, method, result, shape, values)
        if changed := changed_in_place(kept, before):
            raise _wrong(config, method, f"after it had changed {', '.join(changed)} in place", "new tensors")
        return result

    check("step", backbone.step(x_BTD[:, 0], state, first_BT[:, 0]), (rows, width))
    check("unroll", backbone.unroll(x_BTD, state, first_BT), (rows, steps, width))
    losses = check("unroll_with_losses", backbone.unroll_with_losses(x_BTD, state, first_BT), (rows, steps, width), 3)
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
