"""Commands of the package in processes that are forked from one process, which has imported torch and the package once.

    done = run("-m", "rmt_rl.train", "env=tmaze", cwd=tmp_path)
    process = Command("-m", "rmt_rl.train", "env=tmaze", cwd=tmp_path)

A new Python imports for five to seven seconds of CPU time before it trains. A forked process has its own arguments, folder,
environment variables, plugins, signals, files for its output, and exit code. What an import or the start of Python fixes, it
shares with its siblings: the order of sets, the loaded modules, variables that libraries read when they are imported. It ends
after the functions of atexit, without taking its modules apart. Tests of these, of time, memory and process groups start a new
Python, and so does one test of every kind of command.
"""

import atexit
import contextlib
import functools
import gc
import importlib
import importlib.util
import json
import os
import runpy
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import types

#: What the commands import. torch imports _dynamo at the first optimizer.
MODULES = (
    "torch._dynamo",
    "torch.export",
    "matplotlib.figure",
    "matplotlib.backends.backend_agg",
    "huggingface_hub.repocard",
    "rmt_rl.runs.setup",
    "rmt_rl.algos.ppo",
    "rmt_rl.algos.rate",
    "rmt_rl.policies.checks.contract",
    "rmt_rl.envs.checks.runner",
)
OPTIONAL = ("torchrl.data",)
ANSWER = struct.Struct("i")


class Command:
    """A running command, with the part of `subprocess.Popen` that the tests use. Its output goes to files without names."""

    def __init__(self, *arguments: str, cwd: os.PathLike, env: dict[str, str] | None = None):
        self.args, self.returncode = arguments, None
        self._out, self._err = (tempfile.TemporaryFile() for _ in range(2))  # noqa: SIM115, read after the end
        self._answers, theirs = socket.socketpair()
        with theirs, open(os.devnull) as nothing:
            files = [nothing, self._out, self._err, theirs]
            socket.send_fds(_server()[0], [b"1"], [file.fileno() for file in files])
        request = {"arguments": arguments, "cwd": os.fspath(cwd), "env": {**os.environ, **(env or {})}}
        self._answers.sendall(json.dumps(request).encode() + b"\n")
        self.pid = self._answer(300)  # the first one waits for the imports

    def _answer(self, timeout: float | None) -> int:
        self._answers.settimeout(timeout)
        data = self._answers.recv(ANSWER.size)
        if not data:
            raise RuntimeError("the process that forks commands has ended")
        return ANSWER.unpack(data)[0]

    def poll(self) -> int | None:
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.wait(0)
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        if self.returncode is None:
            try:
                self.returncode = self._answer(timeout)
            except (TimeoutError, BlockingIOError):
                raise subprocess.TimeoutExpired(self.args, timeout) from None
        return self.returncode

    def communicate(self, timeout: float | None = None) -> tuple[str, str]:
        self.wait(timeout)
        return self.output(), self._read(self._err)

    def output(self) -> str:
        """What it has printed so far."""
        return self._read(self._out)

    @staticmethod
    def _read(file) -> str:
        # a position of its own: that of the file is shared with the command, which writes there
        return os.pread(file.fileno(), os.fstat(file.fileno()).st_size, 0).decode()

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def __del__(self) -> None:
        for part in (self._answers, self._out, self._err):
            part.close()


def run(*arguments: str, cwd: os.PathLike, env: dict[str, str] | None = None, timeout: float = 300):
    """What `subprocess.run([sys.executable, *arguments], capture_output=True, text=True)` returns."""
    command = Command(*map(str, arguments), cwd=cwd, env=env)
    try:
        out, err = command.communicate(timeout)
    finally:
        command.kill()
    return subprocess.CompletedProcess(arguments, command.returncode, out, err)


@functools.cache
def _server() -> tuple[socket.socket, subprocess.Popen]:
    """The connection to the process that forks, and that process, which ends with the connection."""
    ours, theirs = socket.socketpair()
    with theirs:
        server = subprocess.Popen(
            [sys.executable, __file__, str(theirs.fileno())],
            pass_fds=[theirs.fileno()],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )
    atexit.register(lambda: (ours.close(), server.wait()))
    return ours, server


# ------------------------------------------------------------------------------------------------- the process that forks


def serve(control: socket.socket) -> dict:
    """The request of a command, in the process that is forked for it; the caller itself never returns."""
    while True:
        _, files, _, _ = socket.recv_fds(control, 1, 4)
        with contextlib.suppress(ChildProcessError):
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        if not files:
            os._exit(0)  # the tests have ended
        if os.fork() == 0:
            control.close()
            return watch(files)
        for file in files:
            os.close(file)


def watch(files: list[int]) -> dict:
    """Fork the command, and tell how it ends."""
    answers = socket.socket(fileno=files.pop())
    with answers.makefile() as lines:
        request = json.loads(lines.readline())
    pid = os.fork()
    if pid == 0:
        answers.close()
        for place, file in enumerate(files):
            os.dup2(file, place)
            os.close(file)
        return request
    for file in files:
        os.close(file)
    answers.sendall(ANSWER.pack(pid))
    answers.sendall(ANSWER.pack(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])))
    os._exit(0)


def become(arguments: list[str], cwd: str, env: dict[str, str], installed: list[str]) -> None:
    """Run `python *arguments` in this process. installed: the part of sys.path that does not depend on the command."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.chdir(cwd)
    os.environ.clear()
    os.environ.update(env)
    tempfile.tempdir = None  # TMPDIR is read again
    if "numpy" in sys.modules:
        sys.modules["numpy"].random.seed()  # Python's own generator is seeded by the fork
    importlib.invalidate_caches()
    kind, *rest = arguments
    first = {"-m": cwd, "-c": ""}.get(kind, os.path.dirname(os.path.abspath(kind)))
    sys.path[:] = [first, *(env["PYTHONPATH"].split(os.pathsep) if env.get("PYTHONPATH") else []), *installed]
    if kind == "-m":
        sys.argv[:] = rest
        runpy.run_module(rest[0], run_name="__main__", alter_sys=True)
    elif kind == "-c":
        sys.argv[:] = [kind, *rest[1:]]
        sys.modules["__main__"] = main = types.ModuleType("__main__")
        exec(compile(rest[0], "<string>", "exec"), main.__dict__)
    else:
        sys.argv[:] = arguments
        runpy.run_path(kind, run_name="__main__")


def leave() -> None:
    """End with the exit code of Python for `ending`, the exception that ended the command, or None."""
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    if isinstance(ending, KeyboardInterrupt):
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGINT)
    code = ending.code if isinstance(ending, SystemExit) else None if ending is None else 1
    os._exit(code if isinstance(code, int) else int(code is not None))


if __name__ == "__main__":
    # taking thousands of modules apart takes half a second; functions of atexit are called last to first, so this one is the last
    ending: BaseException | None = None
    atexit.register(leave)
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    connection = socket.socket(fileno=int(sys.argv[1]))
    given = [path for path in os.environ.get("PYTHONPATH", "").split(os.pathsep) if path]
    installed = sys.path[1 + len(given) :]
    sys.path[:] = sys.path[1:]  # not this folder, which has modules for tests
    for module in [*MODULES, *(name for name in OPTIONAL if importlib.util.find_spec(name.partition(".")[0]))]:
        importlib.import_module(module)
    gc.collect()
    gc.freeze()  # a command neither searches nor copies these objects
    if sys.platform.startswith("linux") and len(os.listdir("/proc/self/task")) > 1:
        raise SystemExit("a process with several threads cannot fork commands")
    request = serve(connection)
    try:
        become(**request, installed=installed)
    except BaseException as error:
        ending = error
        raise
