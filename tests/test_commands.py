"""Commands that are forked (commands.py) behave as in a new Python."""

import os
import signal
import subprocess
import sys
import time

import pytest
from commands import Command, run

SHOW = "import os, sys; print(sys.argv, sys.path[0], os.getcwd(), os.environ.get('SEEN'), __name__, open(0).read())"
ENDS = ["import sys; sys.exit(3)", "raise SystemExit('said')", "import os; os.kill(os.getpid(), 9)"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("folder")
    (folder / "shows.py").write_text(f"{SHOW}\nprint(sys.modules['__main__'].__spec__ and __spec__.name)")
    return folder


def new_python(*arguments, cwd, env):
    env = {**os.environ, **env}
    return subprocess.run(
        [sys.executable, *arguments], cwd=cwd, env=env, stdin=subprocess.DEVNULL, capture_output=True, text=True
    )


@pytest.mark.slow
@pytest.mark.parametrize("arguments", [["-m", "shows", "a=1"], ["-c", SHOW, "a=1"], ["shows.py", "a=1"]])
def test_a_command_has_its_own_arguments_folder_and_environment(folder, arguments):
    one, other = (start(*arguments, cwd=folder, env={"SEEN": "here"}) for start in (run, new_python))
    assert (one.returncode, one.stdout, one.stderr) == (other.returncode, other.stdout, other.stderr)
    assert str(folder) in one.stdout and "here" in one.stdout


@pytest.mark.slow
@pytest.mark.parametrize("code", ENDS)
def test_a_command_ends_as_in_a_new_python(folder, code):
    one, other = (start("-c", code, cwd=folder, env={}) for start in (run, new_python))
    assert (one.returncode, one.stdout, one.stderr) == (other.returncode, other.stdout, other.stderr)


def test_output_of_child_processes_is_kept_and_functions_at_exit_are_called(folder):
    code = "import atexit, os; atexit.register(print, 'last'); print('first', flush=True)"
    done = run("-c", f"{code}; os.system('echo second; echo error >&2')", cwd=folder)
    assert (done.returncode, done.stdout, done.stderr) == (0, "first\nsecond\nlast\n", "error\n")


def test_a_signal_reaches_the_command_and_a_deadline_is_kept(folder):
    process = Command("-c", "import time; print(1, flush=True); time.sleep(60)", cwd=folder)
    assert process.poll() is None
    with pytest.raises(subprocess.TimeoutExpired):
        process.wait(0.05)
    deadline = time.monotonic() + 20
    while not process.output() and time.monotonic() < deadline:
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=20)
    assert process.returncode == -signal.SIGINT and out == "1\n" and err.endswith("KeyboardInterrupt\n")


def test_no_two_commands_draw_the_same_random_numbers(folder):
    code = "import random, numpy; print(random.random(), numpy.random.random())"
    assert run("-c", code, cwd=folder).stdout != run("-c", code, cwd=folder).stdout
