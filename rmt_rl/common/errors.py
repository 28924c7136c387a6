"""The two errors that commands print as one line without a traceback."""

from __future__ import annotations


class RunError(RuntimeError):
    """A run cannot continue for a reason outside its configuration, such as a full disk or a crashed environment."""


class ConfigError(ValueError):
    """A mistake in the options. The message is one line: the option, the value found, what is allowed."""
