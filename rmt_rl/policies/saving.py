"""Trained policies on disk: a folder with config.json, model.safetensors and their checksums; nothing in it can run code.

Written by huggingface_hub's `save_pretrained`, so that the folder can be pushed to the Hub as it is. Only the policy is saved
here; what a stopped run needs to continue is in `runs/checkpoints.py`.
"""

from __future__ import annotations

import dataclasses
import errno
import json
import numbers
import os
import re
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from rmt_rl.common import rng
from rmt_rl.common.device import choose_device
from rmt_rl.common.errors import ConfigError
from rmt_rl.common.files import fsync, read_text, remove, sha256_file
from rmt_rl.config.bases import EnvConfig
from rmt_rl.config.commands import ReturnConditioning, TrainConfig
from rmt_rl.config.envs import NoEnvConfig
from rmt_rl.config.fields import LARGEST_RETURN, options, read, show
from rmt_rl.config.layers import combined
from rmt_rl.config.memory import MemoryConfig
from rmt_rl.config.registry import choose
from rmt_rl.config.resolve import change
from rmt_rl.config.trust import Source, check_trusted, run_folder
from rmt_rl.envs.base import TorchVectorEnv
from rmt_rl.envs.objects import as_env_config, close_unless_borrowed, is_vector_env
from rmt_rl.envs.registry import make_from_config
from rmt_rl.policies.actor_critic import ActorCritic
from rmt_rl.policies.budget import fit_width
from rmt_rl.policies.spaces import to_json
from rmt_rl.policies.spec import PolicySpec, UnregisteredEnv, make_spec
from rmt_rl.policies.transformer import check_backend
from rmt_rl.policies.weights import BadWeights, Sized, load_weights, numbers_in
from rmt_rl.policies.zoo import in_zoo, zoo_path

#: The files of a policy, and the one with their checksums.
PARTS, SUMS = ("config.json", "model.safetensors"), "sha256.json"

#: What Python raises where a file holds other values than expected.
BROKEN = (ArithmeticError, AttributeError, KeyError, MemoryError, OSError, TypeError, ValueError)


def make_policy(env: TorchVectorEnv, policy: str = "rmt", seed: int = 0, **given: Any) -> ActorCritic:
    """A new policy for the rows of `env`: make_policy(env, "rmt", segment=16, memory_tokens=8).

    given: options of the policy; the others have their defaults, and observations are normalised. seed: of the initial weights;
    torch's global stream is left alone.
    """
    if not isinstance(env, TorchVectorEnv):
        raise ConfigError(
            f"{show(env)}: is not an environment of many rows; expected the result of rmt_rl.make_env(...)"
        )
    seed = read("seed", options(TrainConfig)["seed"], seed)
    changed = {"normalize_observation": True, **given}
    usual = choose("policy", policy).config()
    config = change(usual, "policy", {f"policy.{key}": value for key, value in changed.items()})
    task = UnregisteredEnv(type(env).__name__, {"name": type(env).__name__})
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(rng.seed(seed, "weights"))
        made = ActorCritic(make_spec(env, task, fit_width(env, task, config))).to(env.device)
        made.check_outside_parts()
    return made


def save_policy(policy: ActorCritic, folder: str | Path) -> None:
    """Write the policy's weights, what it was built from, and the checksums of both; other files in `folder` stay.

    A process that is killed on the way leaves the old files, or checksums that do not match, which `load_policy` detects.
    Raises OSError where the disk is full or fails.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    for unfinished in folder.glob(".new-*"):  # from a process that was killed here
        remove(unfinished)
    with tempfile.TemporaryDirectory(prefix=".new-", dir=folder) as new:
        try:
            policy.save_pretrained(new)
        except SafetensorError as error:
            raise _disk_error(error) from error
        sums = {name: sha256_file(Path(new) / name) for name in PARTS}
        (Path(new) / SUMS).write_text(json.dumps(sums, indent=1) + "\n", encoding="utf-8")
        for file in sorted(Path(new).iterdir()):
            fsync(file)
            os.replace(file, folder / file.name)
        fsync(folder)


def load_policy(
    path: str | Path, device: str | torch.device = "cpu", option: str = "policy", trust: bool = False
) -> ActorCritic:
    """The policy saved in the folder `path`, or in `path`/policy, or the one of the zoo that zoo:<name> names, on `device`.

    option: the name of the command-line option that gave the path, for messages. trust: the files may name a module that is
    imported to make the policy's task (env.id=module:id); not from below the folder.
    Raises ConfigError where there is no policy, where it is damaged, or where the device does not exist.
    """
    device = choose_device(device)
    folder = policy_folder(path, option)
    try:
        # links are followed, because a folder in the cache of huggingface_hub consists of them
        saved = json.loads(read_text(folder / "config.json", follow=True))["spec"]
        spec = PolicySpec.from_json(saved, Source(str(folder / "config.json"), run_folder(folder), trust))
    except ConfigError as error:
        raise ConfigError(f"{folder / 'config.json'}: {error}") from error
    except (*BROKEN, RecursionError) as error:
        raise ConfigError(f"{folder / 'config.json'}: is not the description of a policy ({_short(error)})") from error
    check_backend(spec.policy, device)
    file = folder / "model.safetensors"
    try:
        policy = _load_network(spec, file)
    except (*BROKEN, RuntimeError, SafetensorError) as error:
        found = str(error) if isinstance(error, BadWeights) else _short(error)
        raise ConfigError(f"{file}: does not fit config.json beside it or is damaged ({found})") from error
    _verify_checksums(folder)
    return policy.to(device).eval()


def _disk_error(error: SafetensorError) -> OSError:
    """The error of the disk that safetensors reports as text of an error of its own."""
    number = re.search(r"os error (\d+)", str(error))
    return OSError(int(number[1]), os.strerror(int(number[1]))) if number else OSError(errno.EIO, str(error))


def _load_network(spec: PolicySpec, file: Path) -> ActorCritic:
    """The network of `spec` with the weights in `file`; it is not made where it would be larger than they are."""
    # the new weights are overwritten at once
    with torch.random.fork_rng(devices=[]), Sized(numbers_in(file, spec.policy)):
        policy = ActorCritic(spec)
    load_weights(policy, load_file(file))
    return policy


def _verify_checksums(folder: Path) -> None:
    """One flipped bit would load as another weight. A folder without checksums, as from `push_to_hub`, is accepted."""
    file = folder / SUMS
    if not file.exists():
        return
    if not file.is_file():
        raise ConfigError(f"{file}: is not a file")
    try:
        sums = json.loads(read_text(file, follow=True))
        changed = [name for name in PARTS if sums[name] != sha256_file(folder / name)]
    except (KeyError, OSError, TypeError, ValueError, RecursionError) as error:
        raise ConfigError(f"{file}: is damaged ({_short(error)})") from error
    if changed:
        raise ConfigError(
            f"{folder / changed[0]}: was changed after it was saved (sha256); if you changed it yourself, remove {SUMS} beside it"
        )


def policy_folder(path: str | Path, option: str = "policy") -> Path:
    """The folder with config.json: `path` itself, or `policy` inside it, so that a run's folder works too; or zoo:<name>."""
    if isinstance(path, str) and in_zoo(path):
        return zoo_path(path, option)
    try:
        for folder in (Path(path), Path(path) / "policy"):
            if (folder / "config.json").is_file() and (folder / "model.safetensors").is_file():
                return folder
        found = "no such folder" if not Path(path).exists() else "no config.json and model.safetensors in it"
    except OSError as error:
        found = f"cannot be read: {error.strerror}"
    except TypeError:
        found = "neither a policy nor a path"
    raise ConfigError(
        f"{option}={show(path, limit=1_000)}: {found}; expected a folder such as runs/<name> or runs/<name>/policy, or"
        " zoo:<name>"
    )


def env_config(policy: ActorCritic, typed: bool = False) -> EnvConfig:
    """The options of the task that the policy was trained on.

    typed: the user gives an env.id, which replaces the one in the file. Raises ConfigError where the task is not registered
    here, or where an untrusted file names a module.
    """
    if isinstance(policy.spec.env, UnregisteredEnv):
        name = policy.spec.env.name
        if ":" in name:  # such as module:Class
            raise ConfigError(
                f"env={name}: the policy was trained on this class, given in Python; give it again (env=<the class>), or register"
                " it with gymnasium and give env=gym env.id=<module>:<id>"
            )
        raise ConfigError(
            f"env={name}: the policy was trained on a task that is not registered; import the module that registers it"
            " (plugins=<module>), or give env="
        )
    if isinstance(policy.spec.env, NoEnvConfig):
        raise ConfigError(
            "env=none: the policy was trained on recorded episodes alone; expected env=<a task> to act in, such as env=gym"
            " env.id=<id>"
        )
    if not typed:
        check_trusted(policy.spec.env, policy.spec.source)
    return policy.spec.env


def memory_config(policy: ActorCritic) -> MemoryConfig:
    """How long the policy's memory lasted when it was trained."""
    return policy.spec.memory


def return_conditioning(policy: ActorCritic) -> ReturnConditioning | None:
    """The target return of the policy, or None where it is not return-conditioned."""
    return policy.spec.returns


def make_task(
    policy: ActorCritic,
    env: Any = None,
    rows: int = 1,
    device: str | torch.device | None = None,
    target_return: float | None = None,
) -> TorchVectorEnv:
    """`rows` rows of the environment in which the policy acts as in training: with its memory scope and its target return.

    env: None = the task that it was trained on; or the name of another one, a dictionary of its options, a dataclass of
    rmt_rl.config, an environment, which keeps its rows, or a class or function that makes one. device: None = the policy's.
    target_return: None = the one it was saved with. Raises ConfigError where the policy cannot act in it.
    """
    if not isinstance(policy, ActorCritic):
        raise ConfigError(f"policy={show(policy)}: expected a policy, as rmt_rl.load_policy(...) returns it")
    rows = _read_rows(env, rows)
    returns = conditioned_on(policy, target_return)
    task = chosen_task(policy, env, {})
    if env is not None:
        check_trusted(task, policy.spec.source, typed=True)
    made = make_from_config(
        task, rows, device or policy.device, memory_config(policy), evaluation=True, returns=returns
    )
    try:
        check_fits(policy, made, task)
    except ConfigError:
        close_unless_borrowed(task, made)
        raise
    return made


def chosen_task(policy: ActorCritic, env: Any, given: dict[str, Any]) -> Any:
    """The options of the task that `env` stands for, with the options `given` by their full names changed; raises ConfigError.

    env: see `make_task`; a dictionary without a name changes the task that the policy was trained on.
    """
    if env is None:
        task: Any = env_config(policy, typed="env.id" in given)
    elif isinstance(env, Mapping):
        given = combined({f"env.{name}": value for name, value in env.items() if name != "name"}, given)
        saved = "name" not in env
        task = env_config(policy, typed="env.id" in given) if saved else choose("env", env["name"]).config()
    else:
        task = as_env_config(env)
    return change(task, "env", given) if given else task


def _read_rows(env: Any, rows: Any) -> int:
    """The number of rows of `make_task`."""
    if isinstance(rows, bool) or not isinstance(rows, numbers.Integral) or rows < 1:
        raise ConfigError(f"rows={show(rows)}: expected a whole number, at least 1")
    if is_vector_env(env) and rows not in (1, env.num_envs):
        raise ConfigError(
            f"rows={rows}: the environment has {env.num_envs} rows; leave rows out, or give {env.num_envs}"
        )
    return int(rows)


def conditioned_on(policy: ActorCritic, target_return: float | None) -> ReturnConditioning | None:
    """The policy's return conditioning with another target; raises ConfigError where it has none."""
    returns = policy.spec.returns
    if target_return is None:
        return returns
    if returns is None:
        raise ConfigError(f"target_return={target_return}: the policy is not return-conditioned; leave it out")
    if not (isinstance(target_return, (int, float)) and abs(target_return) <= LARGEST_RETURN):
        raise ConfigError(
            f"target_return={target_return!r}: expected a number from -{LARGEST_RETURN:g} to {LARGEST_RETURN:g}"
        )
    return dataclasses.replace(returns, target=float(target_return))


def check_fits(policy: ActorCritic, env: TorchVectorEnv, task: Any = None, values: bool = False) -> None:
    """Raises ConfigError where the environment's spaces are not those that the policy was built for, or its device is another.

    values: the critic is used, too, so that entries of the observation that only the critic sees may not be missing.
    """
    if policy.device.type != env.device.type:
        raise ConfigError(
            f"device={env.device}: the policy is on {policy.device}; move it with policy.to({str(env.device)!r}), or make the"
            " environment there"
        )
    like = f"like {policy.spec.env.name} with options that leave its spaces as they are"
    if isinstance(policy.spec.env, NoEnvConfig):
        like = "with the spaces of the data that it learned from"
    name = f"env={task.name}" if task is not None else type(env).__name__
    fitting = {
        "observation_space": [policy.spec.observation_space] if values else policy.spaces_to_act_in(),
        "action_space": [policy.spec.action_space],
    }
    for kind, known in fitting.items():
        if to_json(getattr(env, f"single_{kind}")) not in map(to_json, known):
            raise ConfigError(
                f"{name}: its {kind.replace('_', ' ')} differs from the one that the policy was trained on; expected an"
                f" environment {like}"
            )


def _short(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:120]}"
