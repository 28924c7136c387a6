"""Ray's cluster (the extra `ray`): that of the environment variable RAY_ADDRESS, or one that this process starts for itself."""

from __future__ import annotations

import functools
import logging
import os
import re
import signal
import socket
import subprocess
import sys
import threading
from typing import Any

from rmt_rl.common.errors import RunError, Stopped
from rmt_rl.common.process import require_packages

#: Seconds in which the machine of RAY_ADDRESS must accept a connection, and Ray there say that it is well.
PATIENCE = 20.0


def connect(what: str) -> Any:
    """The module `ray`, connected. what: the option that needs it, for errors.

    A cluster that is started here has this machine's cores and ends with this process. Raises ConfigError where ray is not
    installed, RunError where the cluster of RAY_ADDRESS cannot be reached.
    """
    require_packages(what, "ray", "ray")
    # read when the module is imported
    for name in ("RAY_USAGE_STATS_ENABLED", "RAY_SCHEDULER_EVENTS"):
        os.environ.setdefault(name, "0")
    import ray

    if ray.is_initialized():
        return ray
    address = os.environ.get("RAY_ADDRESS")
    check_address(what, address)
    before = signal.getsignal(signal.SIGTERM)
    try:
        ray.init(include_dashboard=False, logging_level=logging.ERROR)
    except (ConnectionError, OSError, RuntimeError, ValueError) as error:
        where = "a cluster cannot be started here" if address is None else f"RAY_ADDRESS={address} cannot be reached"
        raise RunError(f"{what}: {where}: {' '.join(str(error).split())[:300]}") from error
    except SystemExit as error:  # Ray's handler of SIGTERM
        raise Stopped(128 + signal.SIGTERM) from error
    finally:
        # Ray's handler exits at once; that of a run saves a checkpoint first
        if before is not None and threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, before)
    return ray


@functools.cache
def check_address(what: str, address: str | None) -> None:
    """Raise RunError where no Ray answers at host:port; `ray.init` itself would try for minutes, and no signal would end it.

    Addresses of other forms are left to it. The check of a cluster that answers takes seconds, and is made once.
    """
    found = re.fullmatch(r"(ray://)?(\[[0-9a-fA-F:]+\]|[^:/]+):([0-9]{1,5})", address or "")
    if found is None:
        return
    try:
        socket.create_connection((found[2].strip("[]"), int(found[3])), timeout=PATIENCE).close()
        if found[1] is None:
            command = [sys.executable, "-m", "ray.scripts.scripts", "health-check", "--address", str(address)]
            subprocess.run(command, capture_output=True, check=True, timeout=PATIENCE)
    except subprocess.SubprocessError as error:
        raise RunError(
            f"{what}: RAY_ADDRESS={address} is not the address of a running Ray cluster; correct it, or leave it out for a"
            " cluster on this machine"
        ) from error
    except (OSError, OverflowError) as error:
        raise RunError(
            f"{what}: RAY_ADDRESS={address} does not answer: {error}; expected the address of a running cluster, or none, for a"
            " cluster on this machine"
        ) from error


def add_to_path(folders: list[str]) -> None:
    """Let this process, an actor, find modules where the run finds them."""
    sys.path += [folder for folder in folders if folder not in sys.path]


def cores(ray: Any) -> int:
    """CPU cores of the whole cluster, at least 1."""
    return max(1, int(ray.cluster_resources().get("CPU", 1)))
