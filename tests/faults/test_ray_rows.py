"""env.workers=ray: actors step rows as this process does, and a row that dies, hangs or raises is named or restarted."""

import os
import signal
import subprocess
import sys
import threading
import time

import gymnasium
import numpy as np
import pytest
import torch
from test_workers import BAD_ROW, BAD_STEP, DEADLINE, ROWS, play_and_close

from rmt_rl.common import rng
from rmt_rl.common.errors import ConfigError, RunError
from rmt_rl.envs.gym.lockstep import EnvironmentFault
from rmt_rl.envs.registry import make_env

ray = pytest.importorskip("ray")
pytestmark = [
    pytest.mark.slow,
    # ray's own: its processes outlive the object that started them
    pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore:.*ray.*:FutureWarning"),
]
#: Two actors, of rows 0 to 2 and of row 3.
SIZE = 3


def zoo(fault, on_fault="fail", workers="ray", **options):
    given = {"id": "rmt-zoo/Zoo-v0", "options": {"fault": fault, **options}}
    if workers == "ray":
        given |= {"workers": "ray", "deadline": DEADLINE, "on_fault": on_fault, "rows_per_worker": SIZE}
    return make_env("gym", ROWS, **given)


class Odd(gymnasium.Env):
    """Endless episodes; the observation is the number of steps since the reset. A reset with seed `hangs` hangs."""

    observation_space = gymnasium.spaces.Box(0, 1000, (1,), np.float32)
    action_space = gymnasium.spaces.Discrete(2)
    metadata = {"render_modes": ["rgb_array"]}  # noqa: RUF012 - as gymnasium writes it

    def __init__(self, hangs=(), draws="frame", render_mode=None):
        self.hangs, self.draws, self.render_mode = hangs, draws, render_mode

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        if seed in self.hangs:
            time.sleep(1000)
        self.seed, self.t = seed, 0
        return np.zeros(1, np.float32), {}

    def step(self, action):
        if action and self.seed == 102:
            sys.exit("the simulator has ended")
        self.t += 1
        return np.full(1, self.t, np.float32), 0.0, False, False, {}

    def render(self):
        return threading.Lock() if self.draws == "lock" and self.seed == 102 else np.zeros((4, 4, 3), np.uint8)


gymnasium.register("rmt-zoo/Odd-v0", entry_point=Odd, disable_env_checker=True)


def odd(on_fault="restart", **options):
    given = {"workers": "ray", "deadline": DEADLINE, "on_fault": on_fault, "rows_per_worker": SIZE}
    return make_env("gym", ROWS, id="rmt-zoo/Odd-v0", options={"render_mode": "rgb_array", **options}, **given)


ACTION = torch.zeros(ROWS, dtype=torch.int64)


@pytest.fixture(scope="module")
def undisturbed():
    return play_and_close(zoo("none", workers="sync"), 14)


def test_actors_give_what_rows_in_this_process_give(undisturbed) -> None:
    found = play_and_close(zoo("none"), 14)
    assert all(
        torch.equal(a, b)
        for one, other in zip(found, undisturbed, strict=True)
        for a, b in zip(one, other, strict=True)
    )


FAULTS = {
    "killed": r"lost its worker \(rows 0 to 2\), which died",
    "sleeps": r"lost its worker \(rows 0 to 2\), which gave no answer within 2 s",
    "raises": "raised ArithmeticError: a wall was hit",
    "shape": r"returned an observation of shape \(4,\)",
}
#: Where a worker dies, the first of its rows is named.
NAMED = {"killed": 0, "sleeps": 0, "raises": BAD_ROW, "shape": BAD_ROW}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_names_the_row_or_the_rows_of_its_worker_within_the_deadline(fault) -> None:
    env = zoo(fault)
    env.reset(seed=100)
    for _ in range(BAD_STEP - 1):
        env.step(torch.zeros(ROWS, dtype=torch.int64))
    begun = time.monotonic()
    named = NAMED[fault]
    expected = rf"^row {named} {FAULTS[fault]}.* at step {BAD_STEP} after reset with seed {100 + named}, last action 1$"
    with pytest.raises(EnvironmentFault, match=expected):
        env.step(torch.ones(ROWS, dtype=torch.int64))
    assert time.monotonic() - begun < DEADLINE + 3


@pytest.mark.parametrize("fault", FAULTS)
def test_rows_beside_a_restarted_one_go_on_unless_its_worker_was_lost(fault, undisturbed) -> None:
    found = play_and_close(zoo(fault, "restart"), 14)
    lost = range(SIZE) if NAMED[fault] == 0 else [BAD_ROW]
    others = [row for row in range(ROWS) if row not in lost]
    for ours_, theirs in zip(found, undisturbed, strict=True):
        assert all(torch.equal(a[others], b[others]) for a, b in zip(ours_, theirs, strict=True))
    for row in lost:
        _, reward, terminated, truncated, final, success = (part[row] for part in found[BAD_STEP])
        assert (float(reward), bool(terminated), bool(truncated), bool(success)) == (0.0, False, True, False)
        assert torch.equal(final, found[BAD_STEP - 1][0][row])
        # the new episode has nine steps
        assert [bool(step[2][row]) for step in found[1:]] == [False] * (BAD_STEP + 8) + [True]


def test_a_worker_that_is_killed_from_outside_is_replaced() -> None:
    env = zoo("none", "restart")
    env.reset(seed=100)
    worker = env._env._workers[1]
    os.kill(ray.get(worker.actor.pid.remote()), signal.SIGKILL)
    truncated = env.step(torch.zeros(ROWS, dtype=torch.int64))[3]
    assert truncated.tolist() == [False, False, False, True]
    assert not env.step(torch.zeros(ROWS, dtype=torch.int64))[3].any()
    env.close()


def test_a_row_that_hangs_at_a_reset_of_its_own_ends_each_of_its_neighbours_episodes_once() -> None:
    env = odd(hangs=[7])
    env.reset(seed=100)
    env.step(ACTION)
    mask = torch.tensor([False, True, False, False])
    env.reset(seed=[0, 7, 0, 0], options={"reset_mask": mask})  # row 1 hangs, and is given another seed
    obs, _, _, truncated, info = env.step(ACTION)
    # the neighbours learn of it now; the new episode of row 1 and the other actor go on
    assert truncated.tolist() == [True, False, True, False]
    assert obs[:, 0].tolist() == [0, 1, 0, 2]
    assert info["final_obs"][[0, 2], 0].tolist() == [1, 1]
    obs, _, _, truncated, _ = env.step(ACTION)
    assert not truncated.any()
    assert obs[:, 0].tolist() == [1, 2, 1, 3]
    env.close()


def test_a_restart_that_hangs_does_not_end_the_new_episodes_of_rows_that_are_made_after_it() -> None:
    second = rng.counter_seed(101, 1)
    env = odd(hangs=[second])
    env.reset(seed=100)
    os.kill(ray.get(env._env._workers[0].actor.pid.remote()), signal.SIGKILL)
    obs, _, _, truncated, _ = env.step(ACTION)  # row 0 is made again, then row 1 hangs and takes row 0 with it
    assert truncated.tolist() == [True, True, True, False]
    obs, _, _, truncated, _ = env.step(ACTION)
    assert truncated.tolist() == [True, False, False, False]
    assert obs[:, 0].tolist() == [0, 1, 1, 2]
    env.close()


def test_an_environment_that_ends_its_process_by_an_exception_is_restarted_alone() -> None:
    env = odd()
    env.reset(seed=100)
    assert env.step(ACTION + 1)[3].tolist() == [False, False, True, False]
    env.close()
    env = odd("fail")
    env.reset(seed=100)
    with pytest.raises(EnvironmentFault, match=r"^row 2 raised SystemExit: the simulator has ended .* at step 1 after"):
        env.step(ACTION + 1)


def test_an_answer_that_cannot_be_sent_names_its_row() -> None:
    env = odd(draws="lock")
    env.reset(seed=100)
    with pytest.raises(EnvironmentFault, match=r"^row 2 raised TypeError: cannot pickle '_thread.lock' object"):
        env.render()


def test_frames_can_be_drawn_on() -> None:
    env = odd()
    env.reset(seed=100)
    frames = env.render()
    frames[0][0, 0] = 255
    assert frames[0].sum() == 3 * 255
    assert frames[1].sum() == 0
    env.close()


@pytest.mark.parametrize("end", ["close", "shutdown"])
def test_a_step_after_the_end_is_one_sentence_and_closing_again_does_nothing(end) -> None:
    env = odd()
    env.reset(seed=100)
    env.close() if end == "close" else ray.shutdown()
    with pytest.raises(
        RunError, match=r"^env\.workers=ray: the environment was closed, or Ray was shut down; make a new one$"
    ):
        env.step(ACTION)
    env.close()
    other = odd()  # in a new session of Ray
    other.reset(seed=100)
    env.close()
    assert not other.step(ACTION)[3].any()
    other.close()


def test_a_row_that_keeps_failing_ends_the_run() -> None:
    env = zoo("raises", "restart", bad_step=1, bad_seed=None)
    env.reset()
    for _ in range(5):  # each ends in the first step after a restart
        assert env.step(torch.zeros(ROWS, dtype=torch.int64))[3].all()
    with pytest.raises(EnvironmentFault, match=r"^row 0 .*, 6 times in a row$"):
        env.step(torch.zeros(ROWS, dtype=torch.int64))


def test_an_environment_that_cannot_be_made_is_an_error_of_its_options() -> None:
    with pytest.raises(ConfigError, match=r"env\.options=.* does not accept them: .*unknown"):
        zoo("none", unknown=3)


def test_no_process_of_rays_outlives_a_killed_run(tmp_path) -> None:
    script = tmp_path / "script.py"
    script.write_text(
        "import os\nfrom rmt_rl.envs.registry import make_env\n"
        "env = make_env('gym', 2, id='CartPole-v1', workers='ray')\nenv.reset(seed=0)\n"
        "import ray\nprint(ray.get([w.actor.pid.remote() for w in env._env._workers]), flush=True)\n"
        "os.kill(os.getpid(), 9)\n"
    )
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, timeout=120)
    pids = [int(pid) for pid in done.stdout.split("[")[-1].split("]")[0].split(",")]
    end = time.monotonic() + 60
    while any(os.path.exists(f"/proc/{pid}") for pid in pids) and time.monotonic() < end:
        time.sleep(0.2)
    assert not any(os.path.exists(f"/proc/{pid}") for pid in pids)
