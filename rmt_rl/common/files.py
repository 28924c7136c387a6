"""Files that survive a crash, and files that somebody else prepared.

Folders of runs, policies and datasets may be untrusted. A link in them could lead a write to any other file, a hard link
shares its contents with one, a pipe makes `open` wait forever, and a sparse file of a few bytes on disk fills the memory.
Therefore everything in them is opened here. All functions raise OSError with a reason in its `strerror`.
"""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
import stat
import tempfile
from pathlib import Path
from typing import BinaryIO

#: Flags that other systems lack. A pipe that is opened without waiting is recognised and closed again.
NO_LINK, NO_WAIT = getattr(os, "O_NOFOLLOW", 0), getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_CLOEXEC", 0)
#: Bytes of the largest JSON file that is read, unless a caller sets another limit.
LARGEST_TEXT = 2**24


def open_file(path: str | Path, flags: int = os.O_RDONLY, *, follow: bool = False) -> int:
    """The descriptor of a regular file. follow: a link may lead to it, for files that are only read."""
    try:
        file = os.open(path, flags | NO_WAIT | getattr(os, "O_BINARY", 0) | (0 if follow else NO_LINK), 0o666)
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise OSError(errno.ELOOP, "is a link, and links are not followed", str(path)) from error
        if error.errno == errno.ENXIO:  # a pipe that nobody reads, or a socket
            raise OSError(errno.ENXIO, "is not a regular file", str(path)) from error
        raise
    if not stat.S_ISREG(os.fstat(file).st_mode):
        os.close(file)
        raise OSError(errno.EINVAL, "is not a regular file", str(path))
    return file


def read_bytes(path: str | Path, limit: int = LARGEST_TEXT, *, follow: bool = False) -> bytes:
    """The contents of a regular file of at most `limit` bytes."""
    with os.fdopen(open_file(path, follow=follow), "rb") as file:
        size = os.fstat(file.fileno()).st_size
        if size > limit:
            raise OSError(errno.EFBIG, f"has {size:,} bytes; at most {limit:,} are read", str(path))
        return file.read(limit)


def read_text(path: str | Path, limit: int = LARGEST_TEXT, *, follow: bool = False) -> str:
    """`read_bytes` as text; raises UnicodeDecodeError, a ValueError, where it is not UTF-8."""
    return read_bytes(path, limit, follow=follow).decode()


def machine_memory() -> int | None:
    """Bytes of this machine's memory, or None where the system does not tell."""
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, OSError, ValueError):
        return None


def write_file(path: Path, data: bytes) -> None:
    """Replace a file atomically: the old one or the complete new one. A link of that name is replaced, not followed."""
    new = path.with_name(f".{path.name}")
    remove(new)  # from a process that was killed here
    with os.fdopen(open_file(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL), "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    os.replace(new, path)
    fsync(path.parent)


def open_to_append(path: Path, length: int | None = None) -> BinaryIO:
    """A file that is written at its end, unbuffered. length: bytes that are kept of it; None = all."""
    flags = os.O_WRONLY | os.O_APPEND | (os.O_CREAT if length is None else 0)
    file = open_file(path, flags)
    try:
        if (names := os.fstat(file).st_nlink) > 1:
            raise OSError(errno.EMLINK, f"is one of {names} names of the same file (hard links)", str(path))
        if length is not None:
            os.ftruncate(file, length)
        return os.fdopen(file, "ab", buffering=0)
    except BaseException:
        os.close(file)
        raise


def make_folder(path: Path) -> None:
    """Make a folder where there is none; a link to one does not count."""
    if not stat.S_ISDIR(path.lstat().st_mode if os.path.lexists(path) else stat.S_IFDIR):
        raise OSError(errno.ENOTDIR, "is not a folder of its own; links are not followed", str(path))
    path.mkdir(exist_ok=True)


def require_new(path: str | Path) -> None:
    """Raise OSError where a file, a folder or a link has this path already, or where none can be made: before the work for it."""
    try:
        os.lstat(path)
    except FileNotFoundError:
        parent = next(folder for folder in Path(path).absolute().parents if folder.exists())
        try:  # a file without a name, which leaves nothing behind; permissions alone do not tell it for root
            with tempfile.TemporaryFile(dir=parent):
                return
        except OSError as error:
            raise OSError(error.errno, f"cannot be made: {parent} takes no files ({reason(error)})") from error
    raise FileExistsError(errno.EEXIST, "exists already and is not overwritten", str(path))


def remove(path: Path) -> None:
    """Remove a file, a link or a folder with everything in it, if there is one; what a link leads to stays."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def reason(error: OSError) -> str:
    """Why an operation failed, in words; errors of shutil have no `strerror`."""
    return error.strerror or " ".join(str(error).split())


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
    """The checksum of a regular file of any size."""
    found = hashlib.sha256()
    with os.fdopen(open_file(path, follow=True), "rb") as file:
        while part := file.read(2**20):
            found.update(part)
    return found.hexdigest()


def write_and_sync(file: int, data: bytes) -> None:
    """Write all bytes to an open file descriptor, and force them to the disk."""
    remaining = memoryview(data)
    while remaining:  # one call may write only a part
        remaining = remaining[os.write(file, remaining) :]
    os.fsync(file)
