"""Short name to backbone. A new backbone is one file, its dataclass in config.py and one line here."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from rmt_rl import config
from rmt_rl.policies.base import Backbone
from rmt_rl.policies.mlp import MLP
from rmt_rl.policies.recurrent import Recurrent
from rmt_rl.policies.rmt import RMT

BACKBONES: dict[type, Callable[[Any], Backbone[Any]]] = {
    config.RMT: lambda c: RMT(c.width, c.layers, c.heads, c.segment, c.memory_tokens, c.memory_update),
    config.LSTM: lambda c: Recurrent(c.width, c.layers, "lstm"),
    config.GRU: lambda c: Recurrent(c.width, c.layers, "gru"),
    config.MLP: lambda c: MLP(c.width, c.layers),
}


def make_backbone(policy_config: Any) -> Backbone[Any]:
    """The backbone that a policy dataclass of config.py describes."""
    return BACKBONES[type(policy_config)](policy_config)
