"""Batched environments on torch tensors. Importing this registers the built-in tasks with gymnasium; it does not import torch."""

from rmt_rl.envs.registry import make_env, make_from_config, register_with_gymnasium

__all__ = ["make_env", "make_from_config", "register_with_gymnasium"]

register_with_gymnasium()
