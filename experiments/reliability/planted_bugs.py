"""Twenty-five bugs, planted one at a time, and the first test that detects each. A bug that no test detects needs one.

    python experiments/reliability/planted_bugs.py [--list] [word in a bug's name ...]

Every bug is one replacement in a copy of the package; the script stops with an error where the lines to replace no
longer exist. Prints a markdown table, and exits with 1 if a bug is not detected. Most are mistakes that other libraries
have made.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parent.parent.parent


class Bug(NamedTuple):
    name: str
    file: str
    right: str
    wrong: str
    tests: str


CONTRACT, RESUME = "tests/contract/test_backbones.py", "tests/faults/test_resume.py"
BUGS = [
    Bug(
        "memory is never reset (LSTM, acting)",
        "policies/recurrent.py",
        "hidden, cell = where_rows(first_B, zero, state.hidden), where_rows(first_B, zero, state.cell)",
        "hidden, cell = state.hidden + zero, state.cell",
        CONTRACT,
    ),
    Bug(
        "reset by multiplication, through which a NaN leaks",
        "policies/recurrent.py",
        "hidden, cell = where_rows(first_B, zero, state.hidden), where_rows(first_B, zero, state.cell)",
        "hidden, cell = (x * ~first_B[:, None, None] + zero for x in (state.hidden, state.cell))",
        CONTRACT,
    ),
    Bug(
        "reset one step late (RMT, learning)",
        "policies/segments.py",
        "reset_BT = torch.where(first_BT, t, -1)",
        "reset_BT = torch.where(first_BT.roll(1, 1), t, -1)",
        CONTRACT,
    ),
    Bug(
        "positions and segments continue in the next episode",
        "policies/rmt.py",
        "age = state.age if first_B is None else torch.where(first_B, 0, state.age)",
        "age = state.age",
        CONTRACT,
    ),
    Bug(
        "the cache is one step too short (acting)",
        "policies/rmt.py",
        "        # the step sees what exists in the cache, and itself\n",
        "        exists[:, : min(1, self.cache_steps)] = False\n",
        CONTRACT,
    ),
    Bug(
        "no gradient from segment to segment",
        "policies/rmt.py",
        "        if self.bptt_segments is None or not torch.is_grad_enabled():\n            return x\n",
        "        if self.bptt_segments is None:\n            return x.detach()\n",
        "tests/policies/test_rmt.py",
    ),
    Bug(
        "a step observes its own action (learning)",
        "policies/actor_critic.py",
        "previous = torch.cat([state.action[:, None], action[:, :-1]], dim=1)",
        "previous = action",
        "tests/policies/test_actor_critic.py",
    ),
    Bug(
        "truncation does not end a memory",
        "rollouts/collector.py",
        "            self.begins = self.first = terminated | truncated\n",
        "            self.begins = self.first = terminated\n",
        "tests/rollouts/test_collector.py",
    ),
    Bug(
        "bootstrap from the next episode's first observation",
        "rollouts/collector.py",
        'final_obs = map_obs(lambda x: x[rows], info["final_obs"])',
        "final_obs = map_obs(lambda x: x[rows], self.obs)",
        "tests/rollouts/test_collector.py",
    ),
    Bug(
        "truncation counts as termination",
        "algos/returns.py",
        "torch.where(terminated_BT, 0.0, gamma * next_value_BT)",
        "torch.where(terminated_BT | truncated_BT, 0.0, gamma * next_value_BT)",
        "tests/algos/test_returns.py",
    ),
    Bug(
        "a minibatch mixes the resets of other rows",
        "algos/ppo.py",
        "action, first = rollout.action[rows], rollout.first[rows]",
        "action, first = rollout.action[rows], rollout.first[: len(rows)]",
        "tests/algos/test_ppo.py",
    ),
    Bug(
        "advantages are divided by almost zero",
        "algos/losses.py",
        ".clamp(min=floor)",
        ".clamp(min=1e-8)",
        "tests/algos/test_losses.py",
    ),
    Bug(
        "the return so far instead of the return to go",
        "rollouts/dataset.py",
        "to_go = episode.reward[::-1].cumsum()[::-1]",
        "to_go = episode.reward.cumsum()",
        "tests/rollouts/test_dataset.py",
    ),
    Bug(
        "evaluation starts with the memory of another episode",
        "rollouts/episodes.py",
        "first = torch.ones(env.num_envs, dtype=torch.bool, device=env.device)",
        "first = torch.zeros(env.num_envs, dtype=torch.bool, device=env.device)",
        "tests/rollouts/test_evaluation.py",
    ),
    Bug(
        "a random stream is not restored",
        "rollouts/collector.py",
        '        self.generator.set_state(state["generator"])\n',
        "",
        RESUME,
    ),
    Bug(
        "the state of the optimizer is not restored",
        "algos/ppo.py",
        '        load_optimizer_state(self.optimizer, state["optimizer"])\n',
        "",
        RESUME,
    ),
    Bug(
        "the memory of running episodes is not restored",
        "rollouts/collector.py",
        '        self.state = state_from_tree(self.state, state["state"])\n',
        "",
        RESUME,
    ),
    Bug(
        "a checkpoint is written in place",
        "runs/checkpoints.py",
        '(f"step-{steps}", f".new-{steps}", f".old-{steps}")',
        '(f"step-{steps}", f"step-{steps}", f".old-{steps}")',
        RESUME,
    ),
    Bug(
        "the checksums of a checkpoint are not verified",
        "runs/checkpoints.py",
        'if sha256(contents[name]) != expected["sha256"]:',
        "if False:",
        RESUME,
    ),
    Bug(
        "an optimizer step uses a gradient that is not finite",
        "algos/optimizer.py",
        "    if not bool(finite):",
        "    if False:",
        "tests/faults/test_poison.py",
    ),
    Bug(
        "the sign of the gate's bias, so that a GTrXL starts by forgetting its input",
        "policies/transformer.py",
        "y_z + x_z - self.bias",
        "y_z + x_z + self.bias",
        "tests/policies/test_by_differences.py",
    ),
    Bug(
        "the memory retention valve without its residual",
        "policies/memory_update.py",
        "self.norm(old + self.output(",
        "self.norm(self.output(",
        "tests/policies/test_dense_reference.py",
    ),
    Bug(
        "no gradient from actions to the learned deviation",
        "policies/heads.py",
        "- mean) / log_deviation.exp()\n",
        "- mean) / log_deviation.detach().exp()\n",
        "tests/policies/test_by_differences.py",
    ),
    Bug(
        "validation on the first step only",
        "algos/rate.py",
        "total + float(losses.sum()), right + float(hits.sum()), steps + losses.numel()",
        "total + float(losses[0, 0]), right + float(hits[0, 0]), steps + 1",
        "tests/algos/test_by_hand.py",
    ),
    Bug(
        "pictures are not divided by 255",
        "policies/encoders.py",
        ".to(self.linear.weight.dtype) / self.picture.highest",
        ".to(self.linear.weight.dtype)",
        "tests/policies/test_inputs_by_hand.py",
    ),
]


def planted(bug: Bug) -> str:
    """The text of the file with the bug."""
    text = (ROOT / "rmt_rl" / bug.file).read_text(encoding="utf-8")
    if text.count(bug.right) != 1:
        raise SystemExit(f"{bug.name}: {bug.file} has the lines {text.count(bug.right)} times; expected once")
    return text.replace(bug.right, bug.wrong)


def detected_by(bug: Bug) -> str | None:
    """The first test that fails with the bug, or None."""
    with tempfile.TemporaryDirectory() as copy:
        for part in ("rmt_rl", "tests", "experiments", "pyproject.toml"):
            (shutil.copytree if (ROOT / part).is_dir() else shutil.copy)(ROOT / part, Path(copy) / part)
        (Path(copy) / "rmt_rl" / bug.file).write_text(planted(bug), encoding="utf-8")
        done = subprocess.run(
            [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", "-m", "not slow", bug.tests],
            cwd=copy,
            env={**os.environ, "PYTHONPATH": copy, "OMP_NUM_THREADS": "1"},
            capture_output=True,
            text=True,
        )
    if done.returncode not in (0, 1):
        raise SystemExit(f"{bug.name}: the tests could not run: {' '.join(done.stdout.splitlines()[-2:])}")
    failed = re.search(r"^(?:FAILED|ERROR) (\S.*?)(?: - .*)?$", done.stdout, re.MULTILINE)
    return failed[1] if failed else None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--list", action="store_true", help="check that all lines to replace exist, and run no test")
    parser.add_argument("words", nargs="*", help="only bugs with one of these words in their names")
    arguments = parser.parse_args()
    bugs = [bug for bug in BUGS if not arguments.words or any(word in bug.name for word in arguments.words)]
    if arguments.list:
        for bug in bugs:
            planted(bug)
            print(bug.name)
        return
    print("| bug | detected by |\n|---|---|")
    undetected = 0
    for bug in bugs:
        test = detected_by(bug)
        undetected += test is None
        print(f"| {bug.name} | {'**no test**' if test is None else f'`{test}`'} |", flush=True)
    raise SystemExit(undetected > 0)


if __name__ == "__main__":
    main()
