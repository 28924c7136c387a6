"""Environments in worker processes are closed when they are no longer needed, within a deadline."""

import gc
import os
import signal
import time

import gymnasium
import numpy as np
import pytest
import torch

from rmt_rl.envs.gym import workers
from rmt_rl.envs.gym.lockstep import EnvironmentFault
from rmt_rl.envs.registry import make_env


class Notes(gymnasium.Env):
    """Writes a file into `folder` when it is closed; how it behaves then is in `manner`."""

    observation_space = gymnasium.spaces.Box(-1, 1, (1,), np.float32)
    action_space = gymnasium.spaces.Discrete(2)

    def __init__(self, folder, manner="good"):
        self.folder, self.manner = folder, manner

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.number = seed
        return np.zeros(1, np.float32), {}

    def step(self, action):
        if self.manner == "dies" and self.number == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return np.zeros(1, np.float32), 0.0, False, False, {}

    def close(self):
        if self.manner == "hangs" and self.number == 0:
            time.sleep(1_000)
        with open(f"{self.folder}/{self.number}", "w") as file:
            file.write("closed")
        if self.manner == "raises":
            raise ValueError("cannot be closed")


gymnasium.register("Notes-v0", entry_point=Notes)


def make(folder, manner="good"):
    options = {"folder": str(folder), "manner": manner}
    env = make_env("gym", 2, id="Notes-v0", options=options, workers="async")
    env.reset(seed=[0, 1])
    return env


@pytest.mark.slow
def test_every_row_is_closed(tmp_path):
    env = make(tmp_path)
    processes = [row.process for row in env._env._rows]
    env.close()
    assert sorted(os.listdir(tmp_path)) == ["0", "1"]
    assert all(process._closed for process in processes)
    env.close()  # twice changes nothing


@pytest.mark.slow
def test_a_closed_environment_holds_no_open_file(tmp_path):
    def opened():
        gc.collect()
        return len(os.listdir("/proc/self/fd"))

    make(tmp_path).close()  # what is opened once, such as multiprocessing's own pipes
    before = opened()
    env = make(tmp_path)
    assert opened() >= before + 4  # two pipes of two rows
    env.close()
    assert opened() == before


@pytest.mark.slow
def test_a_row_that_hangs_in_close_is_killed_and_the_others_are_closed(tmp_path, monkeypatch):
    monkeypatch.setattr(workers, "CLOSE", 1.0)
    env = make(tmp_path, "hangs")
    begin = time.monotonic()
    env.close()
    assert time.monotonic() - begin < 4
    assert os.listdir(tmp_path) == ["1"]


@pytest.mark.slow
def test_a_row_that_raises_in_close_ends_like_the_others(tmp_path):
    env = make(tmp_path, "raises")
    begin = time.monotonic()
    env.close()
    assert time.monotonic() - begin < workers.CLOSE
    assert sorted(os.listdir(tmp_path)) == ["0", "1"]


@pytest.mark.slow
def test_the_other_rows_are_closed_after_one_died(tmp_path):
    env = make(tmp_path, "dies")
    begin = time.monotonic()
    with pytest.raises(EnvironmentFault, match="was killed by SIGKILL"):
        env.step(torch.zeros(2, dtype=torch.int64))
    assert time.monotonic() - begin < workers.CLOSE
    assert os.listdir(tmp_path) == ["1"]
