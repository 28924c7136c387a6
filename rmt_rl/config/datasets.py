"""What a Minari dataset says about itself in its metadata.json, and the task that it names. Torch-free."""

from __future__ import annotations

import json
import os
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import gymnasium

from rmt_rl.common.errors import ConfigError
from rmt_rl.common.files import read_text
from rmt_rl.common.gymnasium_ids import GYMNASIUM_IDS, without_version
from rmt_rl.common.process import require_packages
from rmt_rl.config.bases import EnvConfig
from rmt_rl.config.envs import BUILTIN, GymConfig
from rmt_rl.config.fields import show
from rmt_rl.config.registry import GROUPS, load_entry_points
from rmt_rl.config.trust import PACKAGES, module_of

#: Bytes of metadata.json, with the bounds of every number of an observation.
LARGEST_METADATA = 2**26


def find_dataset(data: str) -> tuple[Path, dict[str, Any]]:
    """The folder of a Minari dataset that holds its metadata.json, and the values in it. data: its id, or its folder.

    Raises ConfigError where there is none, or where it cannot be read.
    """
    if Path(data).suffix in (".hdf5", ".h5") or os.path.isfile(data):
        raise ConfigError(
            f"data={data}: is the name of a file; expected the id of a local Minari dataset or its folder, which holds"
            " data/main_data.hdf5 and data/metadata.json"
        )
    require_packages(f"data={data}", "offline", "minari")
    import minari

    path = None
    try:
        path = Path(data) if os.path.isdir(data) else Path(minari.storage.get_dataset_path(data))
        path = path if (path / "metadata.json").is_file() or not (path / "data").is_dir() else path / "data"
        metadata = json.loads(read_text(path / "metadata.json", LARGEST_METADATA, follow=True))
    except FileNotFoundError as error:
        raise ConfigError(f"data={data}: no Minari dataset is there; local ones are {_local()}") from error
    except (OSError, ValueError, RecursionError) as error:
        raise ConfigError(f"data={data}: {path}: metadata.json cannot be read: {short(error)}") from error
    if not isinstance(metadata, dict):
        raise ConfigError(f"data={data}: metadata.json lacks everything")
    return path, metadata


def recorded_task(data: str, metadata: Mapping[str, Any]) -> dict[str, Any]:
    """The task in which a dataset was recorded: its name and its options, as `make_config` takes them.

    Raises ConfigError where the dataset names none, one that is not registered, or one whose module would be imported.
    """
    task = _named(metadata)
    instead = "give env=<the task>, or env=none to learn from the data alone"
    if task is None:
        raise ConfigError(f"data={data}: its metadata.json names no environment; {instead}")
    if task["name"] not in GROUPS["env"]:
        load_entry_points()
    if task["name"] not in GROUPS["env"]:
        raise ConfigError(
            f"data={data}: its task {show(task['name'])} is not registered; import its module (plugins=<module>), or {instead}"
        )
    module = module_of(task["name"], task.get("id"))
    if module and module not in [known for _, known, _ in PACKAGES]:
        raise ConfigError(
            f"data={data}: its metadata.json names the module {show(module)}, and importing it can run any code; if you trust"
            f" it, give env={task['name']} env.id={show(task['id'])}, or env=none to learn from the data alone"
        )
    return task


def check_recorded_in(data: str, metadata: Mapping[str, Any], env: EnvConfig) -> None:
    """Raise ConfigError where the dataset names another task than `env`.

    Tasks of this package are compared by name and gymnasium's by id without version: with other options, or as the user's own
    class, an environment may well fit the data. Spaces are compared where the episodes are read.
    """
    task = _named(metadata)
    if task is None:
        return
    own, name = "", task["name"]
    if name == env.name == GymConfig.name and _bare(task["id"]) != _bare(getattr(env, "id", "")):
        own, name = f" env.id={getattr(env, 'id', '')}", f"{name} env.id={show(task['id'])}"
    elif env.name == name or {name, env.name} - set(BUILTIN) or GymConfig.name in (name, env.name):
        return
    raise ConfigError(
        f"data={data}: was recorded in env={name}, but env={env.name}{own} is given; leave env= out, or give env=none and"
        " evaluate the policy in another environment afterwards"
    )


def _named(metadata: Mapping[str, Any]) -> dict[str, Any] | None:
    """The task that metadata.json names, by `collect` or by gymnasium's EnvSpec."""
    ours = metadata.get("rmt_rl")
    task = ours.get("env") if isinstance(ours, Mapping) else None
    task = task if isinstance(task, Mapping) else {}
    if isinstance(task.get("name"), str) and (task["name"] != GymConfig.name or isinstance(task.get("id"), str)):
        return dict(task)
    try:
        spec = json.loads(metadata["env_spec"])
        id, given, limit = spec["id"], dict(spec.get("kwargs") or {}), spec.get("max_episode_steps")
    except (KeyError, TypeError, ValueError, RecursionError):
        return None
    if not isinstance(id, str) or not id:
        return None
    if id in GYMNASIUM_IDS:
        return {**given, "name": GYMNASIUM_IDS[id]}
    given.pop("render_mode", None)  # pictures of the recording are not needed
    known = gymnasium.registry.get(id)
    if limit is not None and (known is None or known.max_episode_steps != limit):
        given["max_episode_steps"] = limit
    return {"name": GymConfig.name, "id": id, "options": given}


def _bare(id: str) -> str:
    """An id of gymnasium without module, namespace and version."""
    return without_version(id).rpartition("/")[2]


def _local() -> str:
    import minari

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return ", ".join(sorted(minari.list_local_datasets())) or "none"
        except Exception as error:  # minari fails on any folder that only looks like a dataset
            return f"unknown ({short(error)})"


def short(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:160]}"
