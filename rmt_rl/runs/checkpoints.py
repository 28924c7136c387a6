"""Checkpoints of a run: everything that decides how it continues, so that a killed and resumed run ends in the same bits.

    <run>/checkpoints/step-<N>/state.safetensors   every tensor
                               state.json          every other value, and the place of each tensor
                               manifest.json       size and sha256 of both, and of itself; written last

A checkpoint is written to a folder with a temporary name, forced to the disk and then renamed, so a folder step-<N> was complete
once; later damage is detected by its checksums. Nothing that is read can run code. Trained policies are saved by
`policies/saving.py`, in a format that other programs can read.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import stat
from pathlib import Path
from typing import Any

import filelock
import torch
from safetensors import SafetensorError
from safetensors import torch as safetensors

from rmt_rl.common.errors import ConfigError
from rmt_rl.common.files import fsync, machine_memory, read_bytes, reason, remove, sha256, write_and_sync

#: Version of the format; increases when older files cannot be read any more.
FORMAT = 1
#: Number of checkpoints that are kept.
KEPT = 2
FILES = ("state.json", "state.safetensors")
NAME = re.compile(r"step-(0|[1-9][0-9]{0,14})")
#: The key in state.json that marks a tensor; its value is the tensor's name.
TENSOR = "<tensor>"
LARGEST_MANIFEST, LARGEST_TEXT = 2**20, 2**28

Tree = Any  # dictionaries and lists of tensors and of values that JSON can hold


class Damaged(Exception):
    """A checkpoint that differs from what was written."""


class Checkpoints:
    """The checkpoints of a run. The object holds the lock of the run's folder, so only one process can train there."""

    def __init__(self, run: Path, lock: bool = True) -> None:
        """lock: false in a process that only reads. Raises ConfigError where another process holds the lock, or where the folder
        cannot be used."""
        self.run, self.folder = run, run / "checkpoints"
        self._lock = filelock.FileLock(run / ".lock")
        if not lock:
            return
        try:
            self._lock.acquire(timeout=0)
        except filelock.Timeout as error:
            raise ConfigError(f"{run}: another process is training there; wait for it, or stop it") from error
        except OSError as error:
            raise ConfigError(f"{run}: cannot be opened: {reason(error)}") from error

    def close(self) -> None:
        self._lock.release()

    def steps(self) -> list[int]:
        """Steps of the existing checkpoints, oldest first; some may be damaged."""
        if not self.folder.is_dir():
            return []
        matches = (NAME.fullmatch(name) for name in os.listdir(self.folder))
        return sorted(int(match[1]) for match in matches if match)

    def save(self, steps: int, tree: Tree, info: dict[str, Any]) -> None:
        """Write checkpoint `steps`, and keep it and the one before (KEPT). info: plain values for the manifest.

        Raises OSError where the disk is full or fails; the earlier checkpoints are unchanged then.
        """
        if steps in self.steps() and _is_complete(self.folder / f"step-{steps}", steps):
            return  # replacing it would leave a moment without a checkpoint
        text, tensors = _pack(tree)
        contents = {"state.json": text, "state.safetensors": safetensors.save(tensors)}
        manifest = _dump(
            _signed(
                {
                    "format": FORMAT,
                    "steps": steps,
                    **info,
                    "files": {name: {"bytes": len(data), "sha256": sha256(data)} for name, data in contents.items()},
                }
            )
        )
        # write to a temporary folder, force it to the disk, rename it
        self._sweep()
        place, new, old = (self.folder / name for name in (f"step-{steps}", f".new-{steps}", f".old-{steps}"))
        if not self.folder.exists():
            os.mkdir(self.folder)
            fsync(self.run)
        try:
            os.mkdir(new)
            for name, data in {**contents, "manifest.json": manifest}.items():
                _write(new / name, data)
            fsync(new)
            if place.exists():  # damaged, and written again by a run that was resumed from the one before
                os.rename(place, old)
            os.rename(new, place)
            fsync(self.folder)
        except OSError:
            shutil.rmtree(new, ignore_errors=True)
            raise
        # remove old ones, and later ones, which were damaged when the run was resumed
        for surplus in [s for s in self.steps() if s > steps] + [s for s in self.steps() if s <= steps][:-KEPT]:
            os.rename(self.folder / f"step-{surplus}", self.folder / f".old-{surplus}")
        self._sweep()

    def newest(self) -> tuple[int, Tree, dict[str, Any], list[str]]:
        """Steps, tree and manifest of the newest complete checkpoint, and one message for each damaged one after it.

        Raises ConfigError where there is none.
        """
        damaged: list[str] = []
        for steps in reversed(self.steps()):
            try:
                return steps, *_read(self.folder / f"step-{steps}", steps), damaged
            except (Damaged, OSError) as error:
                damaged.append(f"checkpoints/step-{steps}: {error}")
        found = "; ".join(damaged) or "no checkpoints/step-<N> in it"
        raise ConfigError(f"resume={self.run}: no complete checkpoint to resume from: {found}")

    def _sweep(self) -> None:
        """Remove unfinished folders of a killed save, and folders that are no longer needed."""
        if self.folder.is_dir():
            for name in os.listdir(self.folder):
                if name.startswith((".new-", ".old-")):
                    remove(self.folder / name)


def _is_complete(place: Path, steps: int) -> bool:
    try:
        _read(place, steps)
    except (Damaged, OSError):
        return False
    return True


def _read(place: Path, steps: int) -> tuple[Tree, dict[str, Any]]:
    manifest = _manifest(place, steps)
    if (size := manifest["files"]["state.json"]["bytes"]) > LARGEST_TEXT:
        raise Damaged(f"state.json has {size:,} bytes; at most {LARGEST_TEXT:,} are read")
    contents = {}
    for name in FILES:
        expected = manifest["files"][name]
        contents[name] = _read_bytes(place / name, expected["bytes"], exactly=True)
        if sha256(contents[name]) != expected["sha256"]:
            raise Damaged(f"{name} is not what was written (sha256)")
    try:
        return _unpack(json.loads(contents["state.json"]), safetensors.load(contents["state.safetensors"])), manifest
    except (KeyError, MemoryError, RecursionError, SafetensorError, TypeError, ValueError) as error:
        raise Damaged(f"cannot be read ({type(error).__name__}: {' '.join(str(error).split())[:120]})") from error


def _manifest(place: Path, steps: int) -> dict[str, Any]:
    text = _read_bytes(place / "manifest.json", LARGEST_MANIFEST)
    try:
        found = json.loads(text)
        # a newer version may use another form, but every form has a version number
        if isinstance(found, dict) and isinstance(found.get("format"), int) and found["format"] > FORMAT:
            raise Damaged(f"is of format {found['format']}, written by a newer rmt_rl; this one reads up to {FORMAT}")
        intact = _dump(found) == text and _signed(found) == found and found["steps"] == steps
        intact = intact and all(
            type(found["files"][name]["bytes"]) is int and found["files"][name]["sha256"] for name in FILES
        )
    except (KeyError, RecursionError, TypeError, ValueError) as error:
        raise Damaged("manifest.json is not what was written") from error
    if not intact:
        raise Damaged("manifest.json is not what was written")
    return dict(found)


def _signed(manifest: dict[str, Any]) -> dict[str, Any]:
    """The manifest with the checksum of its other entries."""
    body = {key: value for key, value in manifest.items() if key != "sha256"}
    return {**body, "sha256": sha256(_dump(body))}


def _dump(value: Any) -> bytes:
    return (json.dumps(value, indent=1) + "\n").encode()


def _pack(tree: Tree) -> tuple[bytes, dict[str, torch.Tensor]]:
    """The tree as JSON with the names of its tensors, and the tensors by name."""
    tensors: dict[str, torch.Tensor] = {}

    def plain(value: Any, path: str) -> Any:
        if isinstance(value, torch.Tensor):
            # a copy, because shared or non-contiguous tensors cannot be written
            tensors[path] = value.detach().to("cpu", copy=True).contiguous()
            return {TENSOR: path}
        if isinstance(value, dict):
            return {key: plain(entry, f"{path}/{key}") for key, entry in value.items()}
        if isinstance(value, list | tuple):
            return [plain(entry, f"{path}/{i}") for i, entry in enumerate(value)]
        return value

    return _dump(plain(tree, "")), tensors


def _unpack(value: Any, tensors: dict[str, torch.Tensor]) -> Tree:
    """The reverse of `_pack`."""
    if isinstance(value, dict):
        if set(value) == {TENSOR}:
            return tensors[value[TENSOR]]
        return {key: _unpack(entry, tensors) for key, entry in value.items()}
    return [_unpack(entry, tensors) for entry in value] if isinstance(value, list) else value


def _read_bytes(path: Path, size: int, exactly: bool = False) -> bytes:
    """The contents of a regular file of at most, or exactly, `size` bytes; checked before it is read."""
    try:
        found = os.lstat(path)
    except FileNotFoundError as error:
        raise Damaged(f"{path.name} is missing") from error
    if not stat.S_ISREG(found.st_mode):
        raise Damaged(f"{path.name} is no file")
    if found.st_size > size or (exactly and found.st_size != size):
        raise Damaged(f"{path.name} has {found.st_size:,} bytes; expected {'' if exactly else 'at most '}{size:,}")
    if (memory := machine_memory()) is not None and found.st_size > memory:
        raise Damaged(f"{path.name} has {found.st_size:,} bytes; this machine has {memory:,} bytes of memory")
    return read_bytes(path, size)


def _write(path: Path, data: bytes) -> None:
    """Write a new file and force it to the disk."""
    file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
    try:
        write_and_sync(file, data)
    finally:
        os.close(file)
