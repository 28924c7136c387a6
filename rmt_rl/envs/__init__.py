"""Batched environments on torch tensors. Importing this does not import torch."""

from rmt_rl.common.gymnasium_ids import register_with_gymnasium
from rmt_rl.envs.registry import make_env, make_from_config

__all__ = ["make_env", "make_from_config", "register_with_gymnasium"]
