"""The fault tests of peers_reliability.py that are possible with Sample Factory.

    pip install torch==2.13.0 sample-factory     # in a separate virtual environment: it pins gymnasium 0.29
    python experiments/reliability/peers_sample_factory.py

CartPole, APPO in its serial mode, so that a run can be repeated at all: 1,024 steps of 2 rows. Every run is a separate
process with the command that a user types; the same command resumes a run. Prints rows of the same markdown table.
"""

from __future__ import annotations

import logging
import subprocess
import sys
import tempfile
from pathlib import Path

import torch

try:
    from sample_factory.algo.learning.learner import Learner
except ModuleNotFoundError as error:
    sys.exit(f"this script needs the package {error.name}, which is not installed; pip install sample-factory")

FLIPS, STEPS = 50, 1_024
# the program of a process: Sample Factory's own example, after lines that may inject a fault
MAIN = "import os, sys, io, math, torch\n{}\nfrom sf_examples.train_gym_env import main\nsys.exit(main())"
OPTIONS = "--algo=APPO --env=CartPole-v1 --device=cpu --num_workers=1 --num_envs_per_worker=2 --serial_mode=True"
OPTIONS += " --async_rl=False --batch_size=64 --rollout=32 --num_batches_per_epoch=1 --use_rnn=False --seed=0"
DYING = """
save, count = torch.save, iter(range(100))
def dying(state, path):
    if next(count) == {}:
        data = io.BytesIO()
        save(state, data)
        open(path, "wb").write(data.getvalue()[: len(data.getvalue()) // 2])
        os._exit(9)
    save(state, path)
torch.save = dying"""
POISONED = """
from gymnasium.envs.classic_control.cartpole import CartPoleEnv
step, count = CartPoleEnv.step, iter(range(10**9))
def poisoned(self, action):
    obs, reward, *rest = step(self, action)
    return obs, math.nan if next(count) == 200 else reward, *rest
CartPoleEnv.step = poisoned"""


def train(root: Path, name: str, steps: int = STEPS, before: str = "") -> str:
    """Run or resume; returns the log."""
    arguments = [*OPTIONS.split(), f"--train_dir={root}", f"--experiment={name}", f"--train_for_env_steps={steps}"]
    done = subprocess.run(
        [sys.executable, "-c", MAIN.format(before), *arguments], capture_output=True, text=True, timeout=300
    )
    return done.stdout + done.stderr


def checkpoints(root: Path, name: str) -> list[str]:
    return list(Learner.get_checkpoints(str(root / name / "checkpoint_p0")))


def weights(root: Path, name: str) -> torch.Tensor:
    model = Learner.load_checkpoint(checkpoints(root, name), "cpu")["model"]
    return torch.cat([value.flatten() for key, value in model.items() if "normalizer" not in key])


def resume(root: Path) -> str:
    train(root, "whole")
    train(root, "again")
    repeated = float((weights(root, "whole") - weights(root, "again")).abs().max())
    if repeated:
        return f"the whole run itself, repeated with its seed, differs by up to {repeated:.1e}"
    train(root, "half", STEPS // 2)
    train(root, "half")
    difference = float((weights(root, "whole") - weights(root, "half")).abs().max())
    return f"weights differ by up to {difference:.1e}" if difference else "the same bits"


def flipped(root: Path) -> str:
    train(root, "a", STEPS // 2)
    file = Path(checkpoints(root, "a")[-1])
    whole, undetected = file.read_bytes(), 0
    for i in range(FLIPS):
        at = (2 * i + 1) * len(whole) // (2 * FLIPS)
        file.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
        undetected += Learner.load_checkpoint([str(file)], "cpu") is not None
    return f"detected {FLIPS - undetected} of {FLIPS} times"


def cut(root: Path) -> str:
    train(root, "a", STEPS // 2)
    file = Path(checkpoints(root, "a")[-1])
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    return how_it_started(train(root, "a"))


def killed(root: Path) -> str:
    train(root, "a", STEPS // 2)
    train(root, "a", before=DYING.format(0))
    names = ", ".join(Path(path).name for path in checkpoints(root, "a"))
    return f"{how_it_started(train(root, 'a'))} (beside {names})"


def how_it_started(log: str) -> str:
    """Whether a resumed run continued or started from the beginning."""
    continued = "Loaded experiment state" in log
    failed = "Could not load from checkpoint" in log
    return f"{'tried, failed and ' if failed else ''}{'continued' if continued else 'started from the beginning'}"


def poison(root: Path) -> str:
    log = train(root, "a", before=POISONED)
    left = f"weights finite: {bool(weights(root, 'a').isfinite().all())}" if checkpoints(root, "a") else "no checkpoint"
    said = [
        line.strip() for line in log.splitlines() if line.startswith(("ValueError", "RuntimeError", "AssertionError"))
    ]
    return f"{left}; {said[-1][:110] if said else 'nothing is reported'}"


PROBES = {
    "half a run, saved, loaded, continued: compared with the whole run": resume,
    "one flipped bit in the saved file": flipped,
    "the saved file is truncated in the middle": cut,
    "killed while it saves again": killed,
    "one reward is NaN": poison,
}


def main() -> None:
    logging.disable(logging.CRITICAL)
    for name, probe in PROBES.items():
        with tempfile.TemporaryDirectory() as root:
            print(f"| {name} | Sample Factory | {probe(Path(root))} |", flush=True)


if __name__ == "__main__":
    main()
