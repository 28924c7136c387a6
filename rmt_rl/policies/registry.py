"""Short name to backbone. A new backbone is one file, its dataclass in config.py and one line here."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

from rmt_rl import config
from rmt_rl.policies.base import Backbone
from rmt_rl.policies.mlp import MLP
from rmt_rl.policies.recurrent import Recurrent
from rmt_rl.policies.rmt import RMT


def _rmt(c: config.RMT) -> RMT:
    options = {field.name: getattr(c, field.name) for field in dataclasses.fields(c)}
    for name in ("name", "params", "previous_action"):
        del options[name]
    return RMT(**options)


def _without_memory_tokens(c: Any, **options: Any) -> RMT:
    """Transformers that are an RMT without memory tokens; what they do not say is as in `config.RMT`."""
    common = {f.name: getattr(c, f.name) for f in dataclasses.fields(c)}
    return _rmt(config.RMT(**common | options | {"name": "rmt", "memory_tokens": 0}))


BACKBONES: dict[type, Callable[[Any], Backbone[Any]]] = {
    config.RMT: _rmt,
    config.TrXL: lambda c: _without_memory_tokens(c, positions="rotary"),
    config.GTrXL: lambda c: _without_memory_tokens(c, positions="rotary", gating="gru"),
    config.Window: _without_memory_tokens,
    config.LSTM: lambda c: Recurrent(c.width, c.layers, "lstm"),
    config.GRU: lambda c: Recurrent(c.width, c.layers, "gru"),
    config.MLP: lambda c: MLP(c.width, c.layers),
}


def make_backbone(policy_config: Any) -> Backbone[Any]:
    """The backbone that a policy dataclass of config.py describes."""
    return BACKBONES[type(policy_config)](policy_config)
