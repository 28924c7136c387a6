"""Twenty bugs, planted one at a time, and the test that sees each: who sees none has tests that cannot fail.

    python experiments/planted_bugs.py

Every bug is one replacement in a copy of the package; the script stops where the lines it replaces are gone. Prints a markdown
table, and exits with 1 if a bug goes unseen. Most are mistakes that other libraries have made.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parent.parent


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
        "policies/pieces.py",
        "reset_BT = torch.where(first_BT, t, -1)",
        "reset_BT = torch.where(first_BT.roll(1, 1), t, -1)",
        CONTRACT,
    ),
    Bug(
        "positions and segments go on in the next episode",
        "policies/rmt.py",
        "memory, age, cache, shifted = state.memory, torch.where(first_B, 0, state.age)",
        "memory, age, cache, shifted = state.memory, state.age",
        CONTRACT,
    ),
    Bug(
        "the cache is one step too short (acting)",
        "policies/rmt.py",
        "cached = (age_B // S * S).clamp(max=self.cache_steps)",
        "cached = (age_B // S * S).clamp(max=max(0, self.cache_steps - 1))",
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
        "the action of a step is shown to it (learning)",
        "policies/actor_critic.py",
        "previous = torch.cat([state.action[:, None], action[:, :-1]], dim=1)",
        "previous = action",
        "tests/policies/test_actor_critic.py",
    ),
    Bug(
        "truncation does not end a memory",
        "rollout.py",
        "            self.first = terminated | truncated\n",
        "            self.first = terminated\n",
        "tests/test_rollout.py",
    ),
    Bug(
        "bootstrap from the next episode's first observation",
        "rollout.py",
        'final_obs = map_obs(lambda x: x[rows], info["final_obs"])',
        "final_obs = map_obs(lambda x: x[rows], self.obs)",
        "tests/test_rollout.py",
    ),
    Bug(
        "truncation counts as termination",
        "algos/returns.py",
        "gamma * next_value_BT * ~terminated_BT",
        "gamma * next_value_BT * ~(terminated_BT | truncated_BT)",
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
        "advantages are divided by next to nothing",
        "algos/losses.py",
        ".clamp(min=floor)",
        ".clamp(min=1e-8)",
        "tests/algos/test_losses.py",
    ),
    Bug(
        "the return so far in place of the return to go",
        "algos/dataset.py",
        "to_go = episode.reward[::-1].cumsum()[::-1]",
        "to_go = episode.reward.cumsum()",
        "tests/algos/test_dataset.py",
    ),
    Bug(
        "evaluation begins with the memory of another episode",
        "evaluate.py",
        "first = torch.ones(env.num_envs, dtype=torch.bool, device=env.device)",
        "first = torch.zeros(env.num_envs, dtype=torch.bool, device=env.device)",
        "tests/test_evaluate.py",
    ),
    Bug(
        "a random stream is not restored",
        "rollout.py",
        '        self.generator.set_state(state["generator"])\n',
        "",
        RESUME,
    ),
    Bug(
        "what the optimizer has gathered is not restored",
        "algos/ppo.py",
        '        load_optimizer_state(self.ppo.optimizer, state["optimizer"])\n',
        "",
        RESUME,
    ),
    Bug(
        "live memory is not restored",
        "rollout.py",
        '        self.state = state_from_tree(self.state, state["state"])\n',
        "",
        RESUME,
    ),
    Bug(
        "a checkpoint is written in place",
        "resume.py",
        '(f"step-{steps}", f".new-{steps}", f".old-{steps}")',
        '(f"step-{steps}", f"step-{steps}", f".old-{steps}")',
        RESUME,
    ),
    Bug(
        "a checkpoint's sums are not looked at",
        "resume.py",
        'if _sum(contents[name]) != expected["sha256"]:',
        "if False:",
        RESUME,
    ),
    Bug(
        "a step is made of a gradient that is not finite",
        "algos/optimizer.py",
        "    if not math.isfinite(float(norm)):",
        "    if False:",
        "tests/faults/test_poison.py",
    ),
]


def seen_by(bug: Bug) -> str | None:
    """The first test that fails with the bug, or None."""
    with tempfile.TemporaryDirectory() as copy:
        for part in ("rmt_rl", "tests", "experiments", "pyproject.toml"):
            (shutil.copytree if (ROOT / part).is_dir() else shutil.copy)(ROOT / part, Path(copy) / part)
        file = Path(copy) / "rmt_rl" / bug.file
        text = file.read_text(encoding="utf-8")
        if text.count(bug.right) != 1:
            raise SystemExit(f"{bug.name}: {bug.file} has the lines {text.count(bug.right)} times; expected once")
        file.write_text(text.replace(bug.right, bug.wrong), encoding="utf-8")
        done = subprocess.run(
            [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", "-m", "not slow", bug.tests],
            cwd=copy,
            env={**os.environ, "PYTHONPATH": copy, "OMP_NUM_THREADS": "1"},
            capture_output=True,
            text=True,
        )
    failed = re.search(r"^(?:FAILED|ERROR) (\S.*?)(?: - .*)?$", done.stdout, re.MULTILINE)
    return failed[1] if failed and done.returncode == 1 else None


def main() -> None:
    print("| bug | seen by |\n|---|---|")
    unseen = 0
    for bug in BUGS:
        test = seen_by(bug)
        unseen += test is None
        print(f"| {bug.name} | {'**nobody**' if test is None else f'`{test}`'} |", flush=True)
    raise SystemExit(unseen > 0)


if __name__ == "__main__":
    main()
