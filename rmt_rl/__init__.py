"""rmt_rl: reinforcement learning for agents that must remember.

env = rmt_rl.make_env("tmaze", num_envs=4, length=100)
policy = rmt_rl.load_policy("runs/tmaze-rmt-ppo-s0")
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from rmt_rl.checkpoint import load_policy as load_policy
    from rmt_rl.checkpoint import save_policy as save_policy
    from rmt_rl.config import ConfigError as ConfigError
    from rmt_rl.envs.registry import make_env as make_env

# Looked up on first use, because importing torch takes seconds and --help must not wait for it.
_PUBLIC = {
    "ConfigError": "rmt_rl.config",
    "load_policy": "rmt_rl.checkpoint",
    "make_env": "rmt_rl.envs.registry",
    "save_policy": "rmt_rl.checkpoint",
}
__all__ = ["ConfigError", "load_policy", "make_env", "save_policy"]


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module 'rmt_rl' has no attribute {name!r}; it has {', '.join(__all__)}")
    return getattr(importlib.import_module(_PUBLIC[name]), name)
