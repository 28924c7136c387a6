"""The two errors that users see as one line."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    pass


class RunError(RuntimeError):
    """Why a run cannot go on, in one sentence, where neither its configuration nor this package is to blame."""


class ConfigError(ValueError):
    """A mistake of the user, told in one line: the option, the value found, what is allowed."""
