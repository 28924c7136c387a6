"""Settings of the whole process, for commands only; and a check for optional packages."""

from __future__ import annotations

import contextlib
import importlib.util
import logging
import os
import shlex
import shutil
import signal
import sys
import threading
import types
from collections.abc import Iterator
from typing import Any, NoReturn

from rmt_rl.common.errors import ConfigError, Stopped


class CallableModule(types.ModuleType):
    """A module that is called like the function of its own name: `rmt_rl.train(...)` beside `python -m rmt_rl.train`."""

    def __call__(self, *args: Any, **options: Any) -> Any:
        return self.__dict__[self.__name__.rpartition(".")[2]](*args, **options)


def command_line(module: str) -> str:
    """How a command of this package is typed in a shell: with this interpreter.

    "python" alone may be another interpreter where the virtual environment is not activated.
    """
    python = "python" if shutil.which("python") == sys.executable else shlex.quote(os.path.relpath(sys.executable))
    return f"{python} -m {module}"


def exit_on_signal(number: int, frame: object) -> NoReturn:
    """A handler for signals that end the process at once, with the status that a shell reports for them."""
    raise Stopped(128 + number)


def require_packages(what: str, extra: str, *packages: str) -> None:
    """Raise ConfigError where `what` is requested and a package of the extra is missing."""
    for package in packages:
        if importlib.util.find_spec(package) is None:
            raise ConfigError(f"{what}: the package {package} is not installed; pip install 'rmt_rl[{extra}]'")


def configure_process(threads: int) -> None:
    """Import torch, and set its threads and the memory allocator for training."""
    with _exit_at_once_on_interrupt():
        import torch

    from rmt_rl.common.allocator import keep_freed_memory

    keep_freed_memory()
    # torchrl logs every storage that it makes; it reads the variable when it is imported
    os.environ.setdefault("RL_LOGGING_LEVEL", "WARNING")
    logging.getLogger("torchrl").setLevel(os.environ["RL_LOGGING_LEVEL"])
    torch.set_num_threads(threads)


@contextlib.contextmanager
def torch_threads(threads: int) -> Iterator[None]:
    """So many threads for torch inside, and as many as before after it: the process may be the user's own."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextlib.contextmanager
def _exit_at_once_on_interrupt() -> Iterator[None]:
    """Ctrl-C during an import ends the process at once: an exception inside an import can leave modules half initialised."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, lambda number, frame: os._exit(128 + number))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
