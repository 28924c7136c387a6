"""From the options of a policy to its backbone."""

from __future__ import annotations

from typing import Any

from rmt_rl.config.bases import PolicyConfig
from rmt_rl.config.registry import entry_of
from rmt_rl.policies.base import Backbone


def make_backbone(config: PolicyConfig) -> Backbone[Any]:
    """The backbone that the options describe, with new weights from torch's global stream."""
    backbone: Backbone[Any] = entry_of(config).load()(config)
    return backbone
