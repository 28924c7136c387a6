"""Batched environments on torch tensors; importing this registers ours with gymnasium and does not import torch."""

from rmt_rl.envs.registry import make_env, make_from_config, register_with_gymnasium

__all__ = ["make_env", "make_from_config", "register_with_gymnasium"]

register_with_gymnasium()
