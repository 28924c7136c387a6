"""A process that dies, hangs or returns invalid values is reported within its deadline; a restart does not affect other rows."""

import multiprocessing
import os
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import gymnasium
import numpy as np
import pytest
import torch
from commands import run

from rmt_rl.common import rng
from rmt_rl.common.errors import ConfigError
from rmt_rl.envs.gym import lockstep, workers
from rmt_rl.envs.gym.lockstep import EnvironmentFault
from rmt_rl.envs.registry import make_env
from rmt_rl.train import main as train_command

ROWS, DEADLINE, BAD_ROW, BAD_STEP = 4, 2.0, 2, 5


class Zoo(gymnasium.Env):
    """Episodes of 9 steps with random numbers from the seed. In the row with seed 102 the fifth step fails."""

    observation_space = gymnasium.spaces.Box(-10, 10, (3,), np.float32)
    action_space = gymnasium.spaces.Discrete(2)

    def __init__(self, fault="none", forever=False, bad_seed=100 + BAD_ROW, bad_step=BAD_STEP):
        self.fault, self.forever, self.bad_seed, self.bad_step, self.steps = fault, forever, bad_seed, bad_step, 0

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.bad = seed == self.bad_seed or (seed is None and self.bad_seed is None)
        self.t = 0
        if self.forever and seed is not None and seed > 1000:  # restarted
            os._exit(7)
        return self.np_random.normal(size=3).astype(np.float32), {}

    def step(self, action):
        self.t, self.steps = self.t + 1, self.steps + 1
        if self.bad and self.steps == self.bad_step and self.fault != "none":
            back = getattr(self, self.fault)()
            if back is not None:
                return back
        obs = self.np_random.normal(size=3).astype(np.float32) + action
        return obs, float(self.t), self.t == 9, False, {"success": self.t == 9}

    def killed(self):
        os.kill(os.getpid(), signal.SIGKILL)

    def exits(self):
        os._exit(3)

    def stopped(self):
        os.kill(os.getpid(), signal.SIGSTOP)

    def loops(self):
        while True:
            pass

    def sleeps(self):
        time.sleep(1000)

    def raises(self):
        raise ArithmeticError("a wall was hit")

    def eof(self):
        raise EOFError("the server is gone")

    def alarm(self):
        os.kill(os.getpid(), signal.SIGRTMIN + 2)

    def shape(self):
        return np.zeros(4, np.float32), 0.0, False, False, {}

    def reward(self):
        return np.zeros(3, np.float32), object(), False, False, {}

    def nothing(self):
        return (None,)

    def memory(self):
        import resource

        resource.setrlimit(resource.RLIMIT_AS, (2**30, 2**30))
        np.ones(2**31, np.float64)


gymnasium.register("rmt-zoo/Zoo-v0", entry_point=Zoo, disable_env_checker=True)

FAULTS = {
    "killed": "was killed by SIGKILL",
    "exits": "exited with code 3",
    "stopped": "gave no answer within 2 s",
    "loops": "gave no answer within 2 s",
    "raises": "raised ArithmeticError: a wall was hit",
    "eof": "raised EOFError: the server is gone",
    "alarm": f"was killed by signal {signal.SIGRTMIN + 2}",
    "shape": r"returned an observation of shape \(4,\) and dtype float32; its space has \(3,\) and float32",
    "reward": "raised ConfigError: Zoo: step returned the reward",
    "nothing": "raised ConfigError: Zoo: step returned 1 values",
    "memory": "raised .*MemoryError",
}


def zoo(fault, on_fault="fail", **options):
    return make_env(
        "gym",
        ROWS,
        id="rmt-zoo/Zoo-v0",
        options={"fault": fault, **options},
        workers="async",
        deadline=DEADLINE,
        on_fault=on_fault,
    )


def play(env, steps):
    """All results, one list per step."""
    obs, _ = env.reset(seed=100)
    record = [[obs]]
    for t in range(steps):
        obs, reward, terminated, truncated, info = env.step(torch.arange(ROWS) % 2 * (t % 2))
        success = info.get("success", torch.zeros(ROWS, dtype=torch.bool))
        record.append([obs, reward, terminated, truncated, info["final_obs"], success])
    return record


def row_processes():
    return [child for child in multiprocessing.active_children() if child.name.startswith("rmt_rl row")]


@pytest.fixture(autouse=True)
def _clean():
    """Kill the processes that a failed test leaves."""
    yield
    for child in row_processes():
        child.kill()
        child.join()


@pytest.mark.slow
@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_names_row_step_seed_action_and_cause_within_the_deadline(fault) -> None:
    env = zoo(fault)
    env.reset(seed=100)
    for t in range(BAD_STEP - 1):
        env.step(torch.full((ROWS,), t % 2))
    begun = time.monotonic()
    expected = rf"^row {BAD_ROW} {FAULTS[fault]}.* at step {BAD_STEP} after reset with seed 102, last action 1$"
    with pytest.raises(EnvironmentFault, match=expected):
        env.step(torch.ones(ROWS, dtype=torch.int64))
    assert time.monotonic() - begun < DEADLINE + 1
    assert not row_processes()


def play_and_close(env, steps):
    record = play(env, steps)
    env.close()
    return record


@pytest.fixture(scope="module")
def undisturbed():
    return play_and_close(zoo("none"), 14)


@pytest.mark.slow
@pytest.mark.parametrize("fault", FAULTS)
def test_a_restarted_row_is_truncated_and_the_other_rows_are_not_affected(fault, undisturbed) -> None:
    found, expected = play_and_close(zoo(fault, "restart"), 14), undisturbed
    others = [row for row in range(ROWS) if row != BAD_ROW]
    for ours_, theirs in zip(found, expected, strict=True):
        assert all(torch.equal(a[others], b[others]) for a, b in zip(ours_, theirs, strict=True))
    obs, reward, terminated, truncated, final, success = (part[BAD_ROW] for part in found[BAD_STEP])
    assert (float(reward), bool(terminated), bool(truncated), bool(success)) == (0.0, False, True, False)
    assert torch.equal(final, found[BAD_STEP - 1][0][BAD_ROW])  # its last observation
    assert not torch.equal(obs, final)
    # the new episode has nine steps
    assert [bool(step[2][BAD_ROW]) for step in found[1:]] == [False] * (BAD_STEP + 8) + [True]
    assert not row_processes()


@pytest.mark.slow
def test_the_episodes_of_a_restarted_row_are_repeated_with_the_same_seed() -> None:
    one, other = (play_and_close(zoo("killed", "restart"), 14) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(one[-1], other[-1], strict=True))


@pytest.mark.slow
def test_a_row_that_keeps_failing_ends_the_run() -> None:
    env = zoo("killed", "restart", forever=True)
    env.reset(seed=100)
    with pytest.raises(EnvironmentFault, match=r"^row 2 exited with code 7 at reset with seed \d+, 6 times in a row$"):
        for _ in range(BAD_STEP):
            env.step(torch.zeros(ROWS, dtype=torch.int64))
    assert not row_processes()


PARENT = """
import os, signal, sys, threading, torch
from test_workers import BAD_STEP, row_processes, zoo
if __name__ == "__main__":
    env = zoo(sys.argv[1])
    env.reset(seed=100)
    print(*(child.pid for child in row_processes()), flush=True)
    threading.Timer(1.0, os.kill, (os.getpid(), signal.SIGKILL)).start()
    for _ in range(BAD_STEP):
        env.step(torch.zeros(4, dtype=torch.int64))
    signal.pause()
"""


@pytest.mark.slow
@pytest.mark.parametrize("fault", ["none", "sleeps"])
def test_processes_exit_when_their_parent_is_killed(fault, tmp_path) -> None:
    (tmp_path / "parent.py").write_text(PARENT)
    path = os.pathsep.join([str(Path(__file__).parent), *sys.path])
    done = run(tmp_path / "parent.py", fault, cwd=tmp_path, env={"PYTHONPATH": path})
    assert done.returncode == -signal.SIGKILL, done.stderr
    pids = [int(pid) for pid in done.stdout.split()]
    assert len(pids) == ROWS
    deadline = time.monotonic() + 10
    while any(alive(pid) for pid in pids) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not any(alive(pid) for pid in pids)


MINE = """
import os, time
import gymnasium, numpy as np
class Mine(gymnasium.Env):
    observation_space = gymnasium.spaces.Discrete(3)
    action_space = gymnasium.spaces.Discrete(2)
    def __init__(self, mode="fine"):
        self.mode = mode
        if mode == "raises":
            raise RuntimeError("no display")
        if mode == "rejects":
            raise ValueError("mode is unknown")
        if mode == "hangs":
            time.sleep(1000)
        if mode == "dies":
            os._exit(4)
    def reset(self, *, seed=None, options=None):
        return 0, {}
    def step(self, action):
        return 7 if self.mode == "outside" else 1, 1.0, False, True, {}
gymnasium.register("Mine-v0", entry_point="zoo_of_mine:Mine", disable_env_checker=True)
"""


@pytest.mark.slow
def test_an_environment_of_a_module_is_made_in_another_process_and_its_errors_are_reported(
    tmp_path, monkeypatch
) -> None:
    (tmp_path / "zoo_of_mine.py").write_text(MINE)
    monkeypatch.syspath_prepend(tmp_path)

    def make(mode):
        return make_env("gym", 2, id="zoo_of_mine:Mine-v0", options={"mode": mode}, workers="async", deadline=DEADLINE)

    env = make("fine")
    assert env.reset(seed=0)[0].tolist() == [0, 0]
    assert env.step(torch.zeros(2, dtype=torch.int64))[4]["final_obs"].tolist() == [1, 1]
    env.close()
    with pytest.raises(ConfigError, match=r"env.options=.* does not accept them: mode is unknown"):
        make("rejects")
    for mode, said in (
        ("raises", "raised RuntimeError: no display"),
        ("dies", "exited with code 4"),
    ):
        with pytest.raises(
            EnvironmentFault, match=rf"^row [01] {said}.* when the environment was made \(a script needs"
        ):
            make(mode)
    with monkeypatch.context() as patch:
        patch.setattr("rmt_rl.envs.gym.lockstep.START", 3.0)
        with pytest.raises(
            EnvironmentFault, match=r"^row [01] gave no answer within 3 s when the environment was made"
        ):
            make("hangs")
    env = make("outside")
    env.reset(seed=0)
    with pytest.raises(EnvironmentFault, match=r"^row 0 returned an observation outside Discrete\(3\)"):
        env.step(torch.zeros(2, dtype=torch.int64))
    assert not row_processes()


@pytest.mark.slow
def test_a_signal_to_the_process_group_is_handled_by_the_training_process_only(tmp_path) -> None:
    options = [
        "env=gym",
        "env.workers=async",
        "algo.num_envs=2",
        "algo.rollout=8",
        "algo.minibatches=1",
        "policy.width=16",
    ]
    process = subprocess.Popen(
        [sys.executable, "-m", "rmt_rl.train", *options, "run=a"],
        cwd=tmp_path,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        text=True,
        start_new_session=True,
    )
    metrics, deadline = tmp_path / "runs/a/metrics.jsonl", time.monotonic() + 120
    for number in (signal.SIGUSR1, signal.SIGTERM):
        rows = metrics.read_bytes().count(b"\n") if metrics.exists() else 0
        while not metrics.exists() or metrics.read_bytes().count(b"\n") < rows + 2:
            assert process.poll() is None and time.monotonic() < deadline
            time.sleep(0.02)
        os.killpg(process.pid, number)
    err = process.communicate(timeout=60)[1]
    assert (process.returncode, err) == (143, "")


def alive(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] != "Z"  # a zombie: its exit code was not read yet
    except FileNotFoundError:
        return False


@pytest.mark.slow
def test_the_train_command_reports_a_fault_in_one_line_and_the_run_can_be_resumed(
    tmp_path, monkeypatch, capsys
) -> None:
    monkeypatch.chdir(tmp_path)
    options = ["env=gym", "env.id=rmt-zoo/Zoo-v0", "env.workers=async", "algo.num_envs=4", "algo.rollout=8", "steps=96"]
    options += ["policy.width=16", "evaluate_episodes=4", "run=a", "checkpoint_steps=null"]
    seed = rng.seed(0, "env")  # the seed of row 0
    # the ninth step of its first episode fails, in the second rollout
    options.append(f"env.options={{fault: exits, bad_seed: {seed}, bad_step: 9}}")
    assert train_command(options) == 1
    err = capsys.readouterr().err
    assert re.fullmatch(r"error: row 0 exited with code 3 at step 9 after reset with seed \d+, last action [01]\n", err)
    assert sorted(path.name for path in (tmp_path / "runs/a/checkpoints").iterdir()) == ["step-0", "step-32"]
    assert not row_processes()
    # after a resume every row has another seed, so the fault does not occur again
    assert train_command([f"resume={tmp_path / 'runs/a'}"]) == 0
    assert "(resume: from_reset)" in capsys.readouterr().out


class Large(Zoo):
    """Actions of 400 kB, more than a pipe holds."""

    action_space = gymnasium.spaces.Box(-1, 1, (100_000,))

    def step(self, action):
        return super().step(action[:3])


class Parent(Zoo):
    """Starts a process of its own, which does nothing, and observes its id."""

    observation_space = gymnasium.spaces.Box(0, np.inf, (1,), np.float64)

    def __init__(self):
        super().__init__()
        self.child = multiprocessing.get_context("fork").Process(target=time.sleep, args=(1000,))
        self.child.start()

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return np.array([self.child.pid], np.float64), {}


gymnasium.register("rmt-zoo/Large-v0", entry_point=Large, disable_env_checker=True)
gymnasium.register("rmt-zoo/Parent-v0", entry_point=Parent, disable_env_checker=True)


def is_running(pid: int) -> bool:
    """Whether a process exists and is no zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


@pytest.mark.slow
@pytest.mark.parametrize("on_fault", ["fail", "restart"])
def test_the_deadline_holds_for_actions_that_a_pipe_does_not_hold(on_fault) -> None:
    """The stopped process does not read, and the rows behind it still get their actions."""
    env = make_env("gym", 3, id="rmt-zoo/Large-v0", workers="async", deadline=DEADLINE, on_fault=on_fault)
    env.reset(seed=100)
    action = torch.zeros(3, 100_000)
    env.step(action)
    os.kill(env._env._rows[0].process.pid, signal.SIGSTOP)
    begin = time.monotonic()
    if on_fault == "fail":
        with pytest.raises(EnvironmentFault, match="row 0 gave no answer within 2 s"):
            env.step(action)
        assert time.monotonic() - begin < DEADLINE + 1
    else:
        _, reward, _, truncated, _ = env.step(action)
        assert (reward.tolist(), truncated.tolist()) == ([0.0, 2.0, 2.0], [True, False, False])
    env.close()
    assert not row_processes()


@pytest.mark.slow
def test_an_environment_may_start_processes_which_end_with_its_row() -> None:
    env = make_env("gym", 2, id="rmt-zoo/Parent-v0", workers="async", deadline=DEADLINE)
    children = [int(pid) for pid in env.reset(seed=0)[0].flatten().tolist()]
    assert len(set(children)) == 2 and all(map(is_running, children))
    env.close()
    deadline = time.monotonic() + 5
    while any(map(is_running, children)) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not any(map(is_running, children))


def test_a_longer_deadline_holds_for_the_start_too(monkeypatch) -> None:
    class Stopped(Exception):
        pass

    waited = []

    def gather(self, rows, deadline):
        waited.append(deadline)
        raise Stopped

    monkeypatch.setattr(workers.ProcessVectorEnv, "_gather", gather)
    monkeypatch.setattr(workers.ProcessVectorEnv, "_start_process", lambda self, row: None)
    for deadline in (2.0, 600.0):
        with pytest.raises(Stopped):
            workers.ProcessVectorEnv(Zoo, 1, deadline, "fail")
    assert waited == [lockstep.START, 600.0]


def test_an_answer_within_the_deadline_is_waited_for() -> None:
    env, row = object.__new__(workers.ProcessVectorEnv), workers._Row(0)
    row.pipe, theirs = multiprocessing.Pipe()
    threading.Timer(0.1, theirs.send, [("made", "an answer")]).start()
    assert env._gather([row], 60.0) == ["an answer"]


def test_a_row_whose_process_did_not_start_has_nothing_to_kill() -> None:
    row = workers._Row(0)
    row.kill()
    row.process = multiprocessing.Process()
    row.kill()
    assert row.process.pid is None
