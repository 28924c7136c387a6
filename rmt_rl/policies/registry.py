"""From the options of a policy to its backbone."""

from __future__ import annotations

from typing import Any

from rmt_rl.config.policies import PolicyConfig
from rmt_rl.config.registry import entry_of
from rmt_rl.policies.base import Backbone


def make_backbone(config: PolicyConfig) -> Backbone[Any]:
    """The backbone that the options describe, with new weights from torch's global stream."""
    import dataclasses

    from rmt_rl.policies.mlp import MLP
    from rmt_rl.policies.recurrent import Recurrent
    from rmt_rl.policies.rmt import RMT

    cls = entry_of(config).load()
    if cls is RMT:
        c = config.as_rmt()
        o = {f.name: getattr(c, f.name) for f in dataclasses.fields(c) if f.name not in ("params", "previous_action")}
        backbone = RMT(**o)
    elif cls is Recurrent:
        backbone = Recurrent(config.width, config.layers, config.name)
    elif cls is MLP:
        backbone = MLP(config.width, config.layers)
    else:
        backbone = cls(config)
    return backbone
