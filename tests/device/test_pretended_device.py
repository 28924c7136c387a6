"""The branches for accelerators, without one."""

import os
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.slow
def test_everything_runs_on_a_pretended_device() -> None:
    """In a process of its own, because torch knows one device of this kind for the whole process."""
    file = Path(__file__).with_name("on_pretended_device.py")
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:xdist", "-p", "no:cacheprovider", str(file)]
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([str(file.parent), os.environ.get("PYTHONPATH", "")])}
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, env=env)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-2000:]
