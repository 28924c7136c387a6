"""Trained policies on disk: a folder with config.json and model.safetensors, nothing in it that could run code.

Written by huggingface_hub's `save_pretrained`, so that the folder can go to and come from the Hub as it is, with the sums of
both beside them. Not for resuming a run, which is `resume.py`: only the policy is saved.
"""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from rmt_rl.config import LARGEST_RETURN, ConfigError, Memory, Returns, part_from_dict
from rmt_rl.device import choose_device
from rmt_rl.envs.base import TorchVectorEnv
from rmt_rl.envs.registry import make_from_config
from rmt_rl.policies.actor_critic import ActorCritic
from rmt_rl.policies.attention import check_backend
from rmt_rl.policies.spaces import to_json
from rmt_rl.resume import force, sum_of

#: The files of a policy, and the one with their sums.
PARTS, SUMS = ("config.json", "model.safetensors"), "sha256.json"


def save_policy(policy: ActorCritic, folder: str | Path) -> None:
    """Write the policy's weights and what it was built from, and the sums of both; other files in `folder` stay.

    Who is killed on the way leaves the files as they were, or sums that do not fit, so that `load_policy` notices.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    for left in folder.glob(".new-*"):  # by somebody who was killed here
        shutil.rmtree(left)
    with tempfile.TemporaryDirectory(prefix=".new-", dir=folder) as new:
        policy.save_pretrained(new)
        sums = {name: sum_of(Path(new) / name) for name in PARTS}
        (Path(new) / SUMS).write_text(json.dumps(sums, indent=1) + "\n", encoding="utf-8")
        for file in sorted(Path(new).iterdir()):
            force(file)
            os.replace(file, folder / file.name)
        force(folder)


def load_policy(path: str | Path, device: str | torch.device = "cpu", option: str = "policy") -> ActorCritic:
    """The policy that was saved in the folder `path`, or in `path`/policy, ready to act on `device`. option: who names it.

    Raises ConfigError, one sentence, where there is none, where it is damaged, or where the device is not there.
    """
    device = choose_device(device)
    folder = policy_folder(path, option)
    try:
        spec = json.loads((folder / "config.json").read_text(encoding="utf-8"))["spec"]
        for group in ("policy", "env", "memory"):
            part_from_dict(group, spec[group])
        if spec.get("returns") is not None:
            part_from_dict("returns", spec["returns"])
    except (AttributeError, KeyError, OSError, TypeError, ValueError, RecursionError) as error:
        raise ConfigError(f"{folder / 'config.json'}: is not the description of a policy ({_short(error)})") from error
    check_backend(part_from_dict("policy", spec["policy"]), device)
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
    _check_sums(folder)
    return policy.to(device).eval()


def _check_sums(folder: Path) -> None:
    """One flipped bit loads as another weight. A folder without sums, as from `push_to_hub`, is taken as it is."""
    file = folder / SUMS
    if not file.exists():
        return
    if not file.is_file():
        raise ConfigError(f"{file}: is no file")
    try:
        sums = json.loads(file.read_text(encoding="utf-8"))
        changed = [name for name in PARTS if sums[name] != sum_of(folder / name)]
    except (KeyError, OSError, TypeError, ValueError, RecursionError) as error:
        raise ConfigError(f"{file}: is damaged ({_short(error)})") from error
    if changed:
        raise ConfigError(
            f"{folder / changed[0]}: is not what was saved (sha256); if you changed it yourself, remove {SUMS} beside it"
        )


def policy_folder(path: str | Path, option: str = "policy") -> Path:
    """The folder with config.json: `path` itself, or `policy` inside it, so that a run's folder can be given too."""
    try:
        for folder in (Path(path), Path(path) / "policy"):
            if (folder / "config.json").is_file() and (folder / "model.safetensors").is_file():
                return folder
        found = "no such folder" if not Path(path).exists() else "no config.json and model.safetensors in it"
    except OSError as error:
        found = f"cannot be read: {error.strerror}"
    raise ConfigError(f"{option}={path}: {found}; expected a folder such as runs/<name> or runs/<name>/policy")


def env_config(policy: ActorCritic) -> Any:
    """The dataclass of the task that the policy was trained on."""
    return part_from_dict("env", policy.spec["env"])


def memory_config(policy: ActorCritic) -> Memory:
    """How long the policy's memory lasted when it was trained."""
    memory: Memory = part_from_dict("memory", policy.spec["memory"])
    return memory


def returns_config(policy: ActorCritic) -> Returns | None:
    """What the policy is asked for, or None where it is not asked."""
    saved = policy.spec.get("returns")
    return None if saved is None else part_from_dict("returns", saved)


def make_task(
    policy: ActorCritic,
    task: Any = None,
    rows: int = 1,
    device: str | torch.device = "cpu",
    target_return: float | None = None,
) -> TorchVectorEnv:
    """`rows` rows of the environment in which the policy acts as it was trained to: with its memory's scope and its returns.

    task: a dataclass of config.py; None = the one that it was trained on. target_return: None = the one it was saved with.
    """
    returns = returns_config(policy)
    if target_return is not None:
        if returns is None:
            raise ConfigError(f"target_return={target_return}: the policy is asked for no return; leave it out")
        if not (isinstance(target_return, (int, float)) and abs(target_return) <= LARGEST_RETURN):
            raise ConfigError(
                f"target_return={target_return!r}: expected a number from -{LARGEST_RETURN:g} to {LARGEST_RETURN:g}"
            )
        returns = dataclasses.replace(returns, target=target_return)
    return make_from_config(
        task or env_config(policy), rows, device, memory_config(policy), evaluation=True, returns=returns
    )


def check_fits(policy: ActorCritic, env: TorchVectorEnv, task: Any) -> None:
    """Raises ConfigError where the policy cannot act in this environment."""
    for name, space in (
        ("observation_space", env.single_observation_space),
        ("action_space", env.single_action_space),
    ):
        if to_json(space) != policy.spec[name]:
            raise ConfigError(
                f"env={task.name}: its {name.replace('_', ' ')} differs from the one that the policy was trained on; expected an "
                f"environment like {policy.spec['env']['name']} with the same options but for sizes and lengths"
            )


def _short(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:120]}"
