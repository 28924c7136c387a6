"""From the option `device` to a torch device."""

from __future__ import annotations

import torch

from rmt_rl.common.errors import ConfigError


def choose_device(name: str | torch.device) -> torch.device:
    """The torch device for cpu, cuda, cuda:N or auto (a GPU if there is one); raises ConfigError where it does not exist."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
    except (RuntimeError, TypeError) as error:
        raise ConfigError(f"device={name}: expected cpu, cuda, cuda:N or auto") from error
    if device.type == "cuda" and not (torch.cuda.is_available() and (device.index or 0) < torch.cuda.device_count()):
        raise ConfigError(
            f"device={name}: this machine has {torch.cuda.device_count()} GPUs that torch can use; expected device=cpu"
        )
    return device
