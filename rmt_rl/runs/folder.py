"""The folder of a run, and its result.json."""

from __future__ import annotations

import json
import os
import stat
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rmt_rl.common.errors import ConfigError
from rmt_rl.common.files import read_text, write_file
from rmt_rl.config.commands import TrainConfig

if TYPE_CHECKING:
    import torch

#: Bytes of the largest result.json that is read: it holds three numbers for each of up to ten million episodes.
LARGEST_RESULT = 2**30
#: Everything that a run writes, and the files of it that are changed in place.
FILES = ("config.yaml", "metrics.jsonl", "result.json", ".result.json", ".lock", "wandb-id.txt", ".wandb-id.txt")
FOLDERS = ("checkpoints", "policy", "best", "report", "tensorboard", "videos", "wandb")
IN_PLACE = ("metrics.jsonl", ".lock")


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


def check_run_folder(folder: Path) -> None:
    """Raise ConfigError where a run that is resumed in `folder` would write to another place, or could not write."""
    for name in (*FILES, *FOLDERS):
        try:
            found = os.lstat(folder / name)
        except FileNotFoundError:
            continue
        except OSError as error:
            raise ConfigError(f"{folder / name}: cannot be read: {error.strerror}") from error
        if stat.S_ISLNK(found.st_mode):
            raise ConfigError(f"{folder / name}: is a link; links are not followed, because the run writes there")
        if not (stat.S_ISREG if name in FILES else stat.S_ISDIR)(found.st_mode):
            kind = "regular file" if name in FILES else "folder"
            raise ConfigError(f"{folder / name}: is no {kind}, and the run writes there; remove it to resume the run")
        if name in IN_PLACE and found.st_nlink > 1:
            raise ConfigError(
                f"{folder / name}: is one of {found.st_nlink} names of the same file (hard links), which would all change;"
                f" resume a copy with files of its own, as cp -r makes it"
            )


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
    write_file(folder / "result.json", (json.dumps(result, indent=2) + "\n").encode())


def read_result(path: Path) -> dict[str, Any]:
    """What `write_result` wrote; raises ConfigError where the file is damaged."""
    try:
        return dict(json.loads(read_text(path, LARGEST_RESULT)))
    except (OSError, RecursionError, TypeError, ValueError) as error:
        raise ConfigError(f"{path}: is damaged ({type(error).__name__}); remove it to resume the run") from error
