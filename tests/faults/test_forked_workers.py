"""What test_workers.py tests with processes that are forked from the tests and start in milliseconds."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import time
from types import SimpleNamespace

import gymnasium
import numpy as np
import pytest

from rmt_rl.common.errors import ConfigError
from rmt_rl.common.rng import counter_seed
from rmt_rl.envs.gym import workers
from rmt_rl.envs.gym.lockstep import CannotBeMade, EnvironmentFault
from rmt_rl.envs.gym.workers import ProcessVectorEnv

pytestmark = [
    pytest.mark.skipif("fork" not in multiprocessing.get_all_start_methods(), reason="processes are forked here"),
    pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning"),
]


class Counter(gymnasium.Env):
    """Observes [its last seed or 0, steps, action]. Episodes of 4 steps. `fault` happens in the row of seed 7 at step 2."""

    observation_space = gymnasium.spaces.Box(-1, 2.0**62, (3,), np.float64)
    action_space = gymnasium.spaces.Discrete(5)
    own = has_time_limit = True

    def __init__(self, fault=None):
        self.fault, self.seed = fault, 0
        if fault in (ConfigError, ValueError, OSError):
            raise fault("not here")

    def reset(self, *, seed=None, options=None):
        self.seed, self.t = self.seed if seed is None else seed, 0
        self.has_options = options is not None
        if self.seed > 100 and self.fault == "again":  # after a restart
            os._exit(5)
        return self.obs(-1), {}

    def obs(self, action):
        return np.array([self.seed, self.t, action], np.float64)

    def step(self, action):
        self.t += 1
        if self.seed == 7 and self.t == 2:
            if self.fault in ("exit", "again"):
                os._exit(3)
            if self.fault == "raise":
                raise ArithmeticError("a wall")
            if self.fault == "hang":
                time.sleep(1000)
            if self.fault == "shape":
                return np.zeros(2), 0.0, False, False, {}
            if self.fault == "last shape":
                return np.zeros(2), 0.0, True, False, {}
        return self.obs(action), self.t / 2, self.t == 4, self.t == 3 and action == 4, {"success": self.t == 4}

    def render(self):
        if self.fault == "no picture":
            raise RuntimeError("no display")
        return f"step {self.t}"


@pytest.fixture
def make(monkeypatch):
    """Makes environments with a fault, and closes them."""
    context, made = multiprocessing.get_context("fork"), []
    monkeypatch.setattr(workers.multiprocessing, "get_context", lambda method: context)

    def make(fault=None, rows=2, on_fault="fail", deadline=20.0):
        made.append(ProcessVectorEnv(lambda: Counter(fault), rows, deadline, on_fault))
        return made[-1]

    yield make
    for env in made:
        env.kill()


def processes():
    return [child for child in multiprocessing.active_children() if child.name.startswith("rmt_rl row")]


def test_rows_step_in_processes_of_their_own_as_one_batch(make) -> None:
    env = make()
    obs, info = env.reset(seed=[5, 7], options=None)
    assert (obs.tolist(), info) == ([[5, 0, -1], [7, 0, -1]], {})
    assert [child.name for child in sorted(processes(), key=lambda child: child.name)] == [
        "rmt_rl row 0",
        "rmt_rl row 1",
    ]
    obs, reward, terminated, truncated, info = env.step(np.array([1, 2]))
    assert (obs.tolist(), reward.tolist()) == ([[5, 1, 1], [7, 1, 2]], [0.5, 0.5])
    assert not terminated.any() and not truncated.any() and info["final_obs"] == [None, None]


def test_starting_processes_leaves_the_signals_that_this_one_blocks(make) -> None:
    before = signal.pthread_sigmask(signal.SIG_BLOCK, [])
    make()
    assert signal.pthread_sigmask(signal.SIG_BLOCK, []) == before and not before & workers.PARENT_SIGNALS


def test_an_episode_that_ends_starts_the_next_one_in_the_same_step(make) -> None:
    env = make()
    env.reset(seed=[5, 7], options=None)
    env.step(np.array([0, 0]))
    env.step(np.array([0, 0]))
    obs, _, terminated, truncated, info = env.step(np.array([4, 0]))
    assert (obs.tolist(), terminated.tolist(), truncated.tolist()) == (
        [[5, 0, -1], [7, 3, 0]],
        [False, False],
        [True, False],
    )
    assert info["final_obs"][0].tolist() == [5, 3, 4] and info["final_obs"][1] is None
    obs, reward, terminated, truncated, info = env.step(np.array([0, 1]))
    assert (obs.tolist(), terminated.tolist(), truncated.tolist()) == (
        [[5, 1, 0], [7, 0, -1]],
        [False, True],
        [False, False],
    )
    assert info["final_obs"][1].tolist() == [7, 4, 1] and reward.tolist() == [0.5, 2.0]
    assert info["final_info"]["success"].tolist()[1] and info["final_info"]["_success"].tolist() == [False, True]


def test_a_reset_mask_restarts_its_rows_with_their_seeds_and_the_others_go_on(make) -> None:
    env = make()
    env.reset(seed=[5, 7], options=None)
    env.step(np.array([1, 2]))
    obs, _ = env.reset(seed=[8, 9], options={"reset_mask": np.array([False, True])})
    assert obs.tolist() == [[5, 1, 1], [9, 0, -1]] and env.np_random_seed == (5, 9)
    obs, _ = env.reset(seed=None, options={"reset_mask": np.array([True, False])})
    assert obs.tolist() == [[5, 0, -1], [9, 0, -1]] and env.np_random_seed == (5, 9)


def test_a_row_without_a_seed_is_shown_as_minus_one(make) -> None:
    env = make()
    env.reset(seed=[5, None], options=None)
    assert env.np_random_seed == (5, -1)


FAULTS = {
    "exit": "exited with code 3",
    "raise": r"raised ArithmeticError: a wall \(test_forked_workers.py:\d+\)",
    "shape": r"returned an observation of shape \(2,\) and dtype float64; its space has \(3,\) and float64",
    "last shape": r"returned an observation of shape \(2,\) and dtype float64; its space has \(3,\) and float64",
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_ends_all_rows_and_names_row_step_seed_and_action(make, fault) -> None:
    env = make(fault)
    env.reset(seed=[5, 7], options=None)
    env.step(np.array([0, 0]))
    with pytest.raises(
        EnvironmentFault, match=f"^row 1 {FAULTS[fault]} at step 2 after reset with seed 7, last action 3$"
    ):
        env.step(np.array([1, 3]))
    assert not processes()


def test_a_row_that_hangs_is_reported_at_the_deadline(make) -> None:
    env = make("hang", deadline=0.3)
    env.reset(seed=[5, 7], options=None)
    env.step(np.array([0, 0]))
    with pytest.raises(EnvironmentFault, match=r"^row 1 gave no answer within 0.3 s at step 2 after reset with seed 7"):
        env.step(np.array([1, 3]))
    assert not processes()


@pytest.mark.parametrize("fault", FAULTS)
def test_a_restarted_row_is_cut_with_its_latest_observation_and_goes_on_with_another_seed(make, fault) -> None:
    env = make(fault, on_fault="restart")
    env.reset(seed=[5, 7], options=None)
    env.step(np.array([0, 2]))
    obs, reward, terminated, truncated, info = env.step(np.array([1, 3]))
    seed = counter_seed(7, 1)
    assert obs.tolist() == [[5, 2, 1], [float(seed), 0, -1]] and env.np_random_seed == (5, seed)
    assert (reward.tolist(), terminated.tolist(), truncated.tolist()) == ([1.0, 0.0], [False, False], [False, True])
    assert info["final_obs"][0] is None and info["final_obs"][1].tolist() == [7, 1, 2]
    obs, *_ = env.step(np.array([1, 3]))
    assert obs[1].tolist() == [float(seed), 1, 3] and len(processes()) == 2


def test_a_row_that_dies_at_every_reset_ends_the_run_after_five_restarts(make) -> None:
    env = make("again", on_fault="restart")
    env.reset(seed=[5, 7], options=None)
    env.step(np.array([0, 0]))
    with pytest.raises(EnvironmentFault, match=r"^row 1 exited with code 5 at reset with seed \d+, 6 times in a row$"):
        env.step(np.array([0, 0]))
    assert not processes()


def test_a_step_without_a_fault_forgets_the_restarts_before_it(make) -> None:
    env = make("exit", on_fault="restart")
    for _ in range(6):
        env.reset(seed=[5, 7], options=None)
        env.step(np.array([0, 0]))
        assert env.step(np.array([0, 0]))[3].tolist() == [False, True]


@pytest.mark.parametrize(
    ("fault", "error", "message"),
    [
        (ConfigError, ConfigError, "^not here$"),
        (ValueError, CannotBeMade, "ValueError.*not here"),
        (OSError, EnvironmentFault, "^row 0 raised OSError: not here .* when the environment was made "),
    ],
)
def test_an_environment_that_cannot_be_made_is_an_error_of_its_kind(make, fault, error, message) -> None:
    with pytest.raises(error, match=message):
        make(fault)
    assert not processes()


def test_a_row_that_cannot_draw_is_named(make) -> None:
    env = make("no picture")
    env.reset(seed=[5, 7], options=None)
    with pytest.raises(EnvironmentFault, match=r"^row 0 raised RuntimeError: no display"):
        env.render()


def test_every_row_draws_its_own_picture(make) -> None:
    env = make()
    env.reset(seed=[5, 7], options=None)
    env.step(np.array([0, 0]))
    env.reset(seed=None, options={"reset_mask": np.array([True, False])})
    assert env.render() == ("step 0", "step 1")


def test_rows_end_without_being_killed_when_they_are_closed(make, monkeypatch) -> None:
    env, codes = make(), []
    kill = workers._Row.kill
    monkeypatch.setattr(workers._Row, "kill", lambda row: (codes.append(row.process.exitcode), kill(row)))
    env.close()
    assert codes == [0, 0]
    monkeypatch.undo()
    env.close()  # nothing is left to close
    assert not processes()


class Process:
    """A process that records what is done with it."""

    pid = 4_000_000

    def __init__(self):
        self.calls = []

    def __getattr__(self, name):
        return lambda: self.calls.append(name)


def test_where_there_are_no_process_groups_the_process_alone_is_killed(monkeypatch) -> None:
    monkeypatch.delattr(workers.os, "killpg")
    row = workers._Row(0)
    row.process = Process()
    row.end_processes()
    assert row.process.calls == ["kill"]


def test_a_request_that_is_still_being_sent_ends_before_the_pipe_is_closed(monkeypatch) -> None:
    monkeypatch.delattr(workers.os, "killpg")
    row, sent = workers._Row(0), threading.Event()
    row.process = process = Process()
    row.pipe = SimpleNamespace(close=lambda: process.calls.append(f"closed, sent: {sent.is_set()}"))
    row.alive = SimpleNamespace(close=lambda: None)

    def send():
        time.sleep(0.05)
        sent.set()

    row._sender = threading.Thread(target=send)
    row._sender.start()
    assert not row.request_close()  # another request would wait behind it
    row.kill()
    assert process.calls == ["kill", "join", "close", "closed, sent: True"]


def test_a_large_request_is_sent_without_waiting_for_the_process() -> None:
    row = workers._Row(0)
    row.pipe, theirs = multiprocessing.Pipe()
    row.send(np.zeros(1_000_000))
    assert theirs.recv().shape == (1_000_000,)
    row._sender.join(10)
    assert not row._sender.is_alive()
