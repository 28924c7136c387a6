"""The two errors that commands print as one line without a traceback, and the two that end what a signal stops."""

from __future__ import annotations


class RunError(RuntimeError):
    """A run cannot continue for a reason outside its configuration, such as a full disk or a crashed environment."""


class ConfigError(ValueError):
    """A mistake in the options. The message is one line: the option, the value found, what is allowed."""


class Interrupted(Exception):
    """A signal asks the run to stop. `train` saves the last complete state and ends the run."""


class Stopped(SystemExit):
    """A signal ends the process at once. `SystemExit` itself is an environment's or another module's call of sys.exit()."""


def is_out_of_memory(error: BaseException) -> bool:
    """Whether memory could not be allocated: Python's and numpy's error, or torch's, which are RuntimeErrors."""
    return (
        isinstance(error, MemoryError)
        or type(error).__name__ == "OutOfMemoryError"
        or "DefaultCPUAllocator" in str(error)
    )
