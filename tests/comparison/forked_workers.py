"""`rmt_rl.tune` with workers that are forked from its process, which has imported torch; a new Python imports for seconds.

Command("-c", FORKED, *arguments, cwd=folder)
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

from rmt_rl.comparison import cell_process, search, worker

FORKED = f"import sys; sys.path.append({str(Path(__file__).parent)!r}); import forked_workers; forked_workers.main(sys.argv[1:])"


class Process:
    """A forked process, with the part of `subprocess.Popen` that `Worker` uses."""

    def __init__(self, arguments, stdin, stdout, stderr, env, start_new_session):
        read, write = os.pipe()
        self.pid, self.returncode = os.fork(), None
        if self.pid == 0:
            os.close(write)
            os.setsid()
            for source, target in ((read, 0), (stdout.fileno(), 1), (stdout.fileno(), 2)):
                os.dup2(source, target)
            os.closerange(3, 256)  # the writing ends of its siblings, too
            signal.signal(signal.SIGINT, signal.default_int_handler)
            status = 1
            try:
                sys.stdin = os.fdopen(0, closefd=False)
                status = worker.main()
            except SystemExit as error:
                status = error.code
            finally:
                sys.stdout.flush()
                os._exit(status)
        os.close(read)
        self.stdin = os.fdopen(write, "wb")

    def poll(self):
        if self.returncode is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            self.returncode = os.waitstatus_to_exitcode(status) if pid else None
        return self.returncode

    def wait(self):
        if self.returncode is None:
            self.returncode = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])

    def kill(self):
        os.kill(self.pid, signal.SIGKILL)


def main(arguments):
    from rmt_rl.tune import main as tune

    cell_process.subprocess.Popen = Process
    search.LOOK = 0.0
    sys.exit(tune(arguments))
