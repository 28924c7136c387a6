"""The folder of a run, and its result.json."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rmt_rl.common.errors import ConfigError
from rmt_rl.common.files import fsync
from rmt_rl.config.commands import TrainConfig

if TYPE_CHECKING:
    import torch


def make_run_folder(config: TrainConfig, root: Path) -> Path:
    """A new folder under `root`; an existing one is never used."""
    # of an environment that is a Python object: the last part of the name of its class
    task = config.env.name.rpartition(":")[2].rpartition(".")[2].strip("<>")
    name = config.run or f"{task}-{config.policy.name}-{config.algo.name}-s{config.seed}"
    try:
        root.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"{root}: cannot be created or is not a folder: {error.strerror}") from error
    number = 1
    while True:
        folder = root / (name if number == 1 else f"{name}-{number}")
        try:
            folder.mkdir()
            return folder
        except FileExistsError as error:
            if config.run is not None:
                raise folder_exists(name, folder) from error
            number += 1
        except OSError as error:
            raise ConfigError(f"run={name}: {folder} cannot be created: {error.strerror}") from error


def folder_exists(name: str, folder: Path) -> ConfigError:
    return ConfigError(f"run={name}: {folder} exists already and is not overwritten; choose another name")


def versions(device: torch.device) -> dict[str, Any]:
    """Versions and settings that must stay the same for a resumed run to give the same bits."""
    import torch

    import rmt_rl

    return {
        "rmt_rl": rmt_rl.__version__,
        "torch": torch.__version__,
        "device": str(device),
        "threads": torch.get_num_threads(),
    }


def write_result(result: dict[str, Any], folder: Path) -> None:
    """Write result.json atomically: the old file or the complete new one."""
    new = folder / ".result.json"
    new.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    fsync(new)
    new.replace(folder / "result.json")
    fsync(folder)


def read_result(path: Path) -> dict[str, Any]:
    """What `write_result` wrote; raises ConfigError where the file is damaged."""
    try:
        return dict(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, RecursionError, TypeError, ValueError) as error:
        raise ConfigError(f"{path}: is damaged ({type(error).__name__}); remove it to resume the run") from error
