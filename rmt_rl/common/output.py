"""Standard output of commands: it may be closed, on a full disk, or in an encoding that lacks letters."""

from __future__ import annotations

import io
import os
import sys


def prepare_output() -> None:
    """Let nothing that is printed end a command: streams that the shell closed, and letters that an encoding lacks."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:  # closed, as by >&-
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115  for the rest of the process
        elif isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def output_problem() -> OSError | None:
    """Why nothing can be written to standard output any more, or None."""
    try:
        print(flush=True)  # a flush alone does not write again what failed before
    except OSError as error:
        return error
    return None


def on_terminal() -> bool:
    """Whether standard output is a terminal; there is none where it was closed, as by >&-."""
    return sys.stdout is not None and sys.stdout.isatty()
