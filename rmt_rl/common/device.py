"""From the option `device` to a torch device."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

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
    if device.type not in ("cpu", "cuda"):
        try:
            torch.zeros(1, device=device).item()
        except (AssertionError, NotImplementedError, RuntimeError) as error:
            raise ConfigError(
                f"device={name}: holds no numbers that torch can read here; expected cpu, cuda or cuda:N"
            ) from error
    return device


def exact_cudnn(x: torch.Tensor, enabled: bool = True) -> AbstractContextManager[None]:
    """Inside, cuDNN keeps all bits of float32, or is not used at all.

    By default it rounds products to 10 bits, differently for few and for many rows, so that acting steps and updates would
    compute different policies.
    """
    if not x.is_cuda:
        return nullcontext()
    cudnn = torch.backends.cudnn
    kept = {"benchmark": cudnn.benchmark, "deterministic": cudnn.deterministic}
    return cudnn.flags(enabled=enabled and cudnn.enabled, **kept, allow_tf32=False)
