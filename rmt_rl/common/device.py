"""The device that a user names."""

from __future__ import annotations

import torch

from rmt_rl.common.errors import ConfigError


def choose_device(name: str | torch.device) -> torch.device:
    """cpu, cuda or cuda:N; auto is a GPU where there is one. Raises ConfigError where this machine has no such device."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ConfigError(f"device={name}: expected cpu, cuda, cuda:N or auto") from error
    if device.type == "cuda" and not (torch.cuda.is_available() and (device.index or 0) < torch.cuda.device_count()):
        raise ConfigError(
            f"device={name}: this machine has {torch.cuda.device_count()} GPUs that torch can use; take device=cpu"
        )
    return device
