"""Trained policies on disk: a folder with config.json and model.safetensors, nothing in it that could run code.

Written by huggingface_hub's `save_pretrained`, so that the folder can go to and come from the Hub as it is. Not for resuming
a run: only the policy is saved.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from rmt_rl.config import ConfigError, Memory, part_from_dict
from rmt_rl.policies.actor_critic import ActorCritic
from rmt_rl.policies.attention import check_backend


def save_policy(policy: ActorCritic, folder: str | Path) -> None:
    """Write the policy's weights and what it was built from."""
    policy.save_pretrained(Path(folder))


def load_policy(path: str | Path, device: str | torch.device = "cpu") -> ActorCritic:
    """The policy that was saved in the folder `path`, or in `path`/policy, ready to act on `device`.

    Raises ConfigError, one sentence, where there is none or where it is damaged.
    """
    folder = policy_folder(path)
    try:
        spec = json.loads((folder / "config.json").read_text(encoding="utf-8"))["spec"]
        for group in ("policy", "env", "memory"):
            part_from_dict(group, spec[group])
    except (AttributeError, KeyError, OSError, TypeError, ValueError, RecursionError) as error:
        raise ConfigError(f"{folder / 'config.json'}: is not the description of a policy ({_short(error)})") from error
    check_backend(part_from_dict("policy", spec["policy"]), torch.device(device))
    try:
        with torch.random.fork_rng(devices=[]):  # the weights that are drawn here are written over at once
            policy = ActorCritic(spec)
        policy.load_state_dict(load_file(folder / "model.safetensors"))
    except (
        ArithmeticError,
        AttributeError,
        KeyError,
        OSError,
        RuntimeError,
        SafetensorError,
        TypeError,
        ValueError,
    ) as error:
        raise ConfigError(
            f"{folder / 'model.safetensors'}: does not fit config.json beside it or is damaged ({_short(error)})"
        ) from error
    return policy.to(device).eval()


def policy_folder(path: str | Path) -> Path:
    """The folder with config.json: `path` itself, or `policy` inside it, so that a run's folder can be given too."""
    try:
        for folder in (Path(path), Path(path) / "policy"):
            if (folder / "config.json").is_file() and (folder / "model.safetensors").is_file():
                return folder
        found = "no such folder" if not Path(path).exists() else "no config.json and model.safetensors in it"
    except OSError as error:
        found = f"cannot be read: {error.strerror}"
    raise ConfigError(f"policy={path}: {found}; expected a folder such as runs/<name> or runs/<name>/policy")


def env_config(policy: ActorCritic) -> Any:
    """The dataclass of the task that the policy was trained on."""
    return part_from_dict("env", policy.spec["env"])


def memory_config(policy: ActorCritic) -> Memory:
    """How long the policy's memory lasted when it was trained."""
    memory: Memory = part_from_dict("memory", policy.spec["memory"])
    return memory


def _short(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:120]}"
