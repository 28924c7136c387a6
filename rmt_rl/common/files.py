"""Files that survive a crash: forced to the disk, and compared by their checksums."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path


def fsync(path: Path) -> None:
    """Force the contents of a file, or the names in a folder, to the disk. Windows opens no folders, so there it does nothing."""
    if os.name == "nt":
        return
    file = os.open(path, os.O_RDONLY)
    try:
        os.fsync(file)
    finally:
        os.close(file)


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def sha256_file(path: Path) -> str:
    return sha256(path.read_bytes())
