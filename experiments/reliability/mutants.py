"""Bugs planted by rule, one at a time, and whether the tests of the changed module detect them.

    python experiments/reliability/mutants.py [--count 96] [--seed 0] [--list] [--again] [--slow] [--passing] [--only policies]
        [--workers 1]

Every place of rmt_rl/policies, algos, rollouts and envs at which a rule of `RULES` applies is a mutant. The rules are drawn in
turn and a place of each at random, so rare rules count as much as frequent ones; a larger --count adds mutants and changes none.
A mutant is killed if a fast test of its module's files (`TESTS`) fails, timed out if they take four times as long as without it.
With --passing the tests are known to pass without a mutant and do not run without one first; the time limit is 15 minutes.
--workers runs so many mutants at a time.

Finished mutants are kept in experiments/results/mutants.jsonl as they end and are not repeated; --again repeats the survivors,
for instance after tests were added, and --slow runs the tests marked as slow, too. The table at the end, also after an
interrupt, is markdown.

Some mutants compute the same as the original, or differ in speed or on a GPU only. `EQUIVALENT` gives the reason for each, and
the share of killed mutants leaves them out.
"""

from __future__ import annotations

import argparse
import ast
import hashlib
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from queue import SimpleQueue
from typing import Any, NamedTuple

sys.path.insert(0, str(Path(__file__).parents[1]))
from common import RESULTS, add_result, read_results

ROOT = Path(__file__).parents[2]
STORED = RESULTS / "mutants.jsonl"
PARTS = ("policies", "algos", "rollouts", "envs")
#: Seconds after which tests without a mutant are ended.
LONGEST = 3_600
#: Seconds after which tests with a mutant are ended with --passing.
PATIENCE = 900

#: Mutants that no test can detect, by file and lines, and why.
EQUIVALENT: dict[str, str] = {
    "policies/encoders.py: where, kind = _kinds((x_NE.long() * weight).sum(1, keepdim=True))"
    " -> where, kind = _kinds(((x_NE.long() / weight)).sum(1, keepdim=True))": (
        "another hash; rows that share one are told apart by the rows themselves"
    ),
    "policies/transformer.py: seen = torch.where(query < read, is_read,"
    " is_left | is_read | (key <= query) | (query >= write_from))"
    " -> seen = torch.where(query < read, is_read, (is_left & is_read) | (key <= query) | (query >= write_from))": (
        "keys of the cache are numbered below 0 and read tokens below every other query, so key <= query holds for both"
    ),
    "envs/minigrid/memory.py: rows = (self._cursor - self._queue_begin >= BLOCK).nonzero().squeeze(1)"
    " -> rows = ((self._cursor - self._queue_begin > BLOCK)).nonzero().squeeze(1)": (
        "a row that has used exactly one block has a second one until the next check, which then draws the same numbers"
    ),
    "envs/observations.py: if lowest.item() >= ends[0] and highest.item() <= ends[1]:"
    " -> if lowest.item() >= ends[0] and (highest.item() < ends[1]):": (
        "the slower search that follows finds nothing where the highest number is the end"
    ),
    'envs/tasks/memory_len.py: context = (n == 0)[:, None] * (2 * state["context"] - 1)'
    " -> context = ((n == 0)[:, None] / (2 * state['context'] - 1))": (
        "a number divided by -1 or 1 is the number times it"
    ),
    'envs/tmaze/passive.py: return {"cue": (self._goal > 0).long()}'
    ' -> return {"cue": ((self._goal >= 0)).long()}': "a goal is -1 or 1",
    "envs/checks/vector_env.py: first, *steps = play(env, 20, seed=0) -> first, *steps = play(env, 20, seed=(1))": (
        "one seed is as good as another"
    ),
    'envs/checks/vector_env.py: for name, one, other in zip(("random", "numpy.random", "torch"), before, states(), strict=True):'
    ' -> for name, one, other in zip(("random", "numpy.random", "torch"), before, states(), strict=(False)):': (
        "one function makes both, with three entries"
    ),
    "envs/gym/lockstep.py: for row, answer in zip(rows, answers, strict=True):"
    " -> for row, answer in zip(rows, answers, strict=(False)):": "there is one answer for each row",
    "policies/rmt.py: young = Rows(age // S * S < C) if C else None"
    " -> young = Rows((age // S * S <= C)) if C else None": "with C steps before the segment every column exists and is kept",
    "envs/minigrid/memory.py: for goal in (reveals[0] & ~ends, reveals[1] & ~ends & fork, state < known.num_success):"
    " -> for goal in (reveals[0] & ~ends, reveals[1] & (ends) & fork, state < known.num_success):": (
        "the ways differ only where the view shows the order already, and there this way is not taken"
    ),
    "policies/rmt.py: if self.cache_steps and group.writes_memory: -> if (self.cache_steps or group.writes_memory):": (
        "steps are appended to the caches of all pieces, of which those that need one are then taken: slower"
    ),
    "policies/transformer.py: is_left, is_read = key < 0, (key >= 0) & (key < read)"
    " -> is_left, is_read = key < (1), (key >= 0) & (key < read)": (
        "key 0 is seen by all queries but the read tokens anyway, and those do not ask for is_left"
    ),
}

NETWORK = (
    "policies/test_by_differences policies/test_segments policies/test_transformer policies/test_dense_reference"
    " policies/test_rmt contract/test_backbones"
)
#: The test files of each module, by the start of its path; the longest start counts. [word]: only the tests with this word.
TESTS = {
    "policies/": "policies/test_actor_critic test_every_option contract/test_backbones",
    "policies/rmt": NETWORK,
    "policies/rows": NETWORK,
    "policies/segments": NETWORK,
    "policies/transformer": NETWORK,
    "policies/memory_update": NETWORK,
    "policies/layer_memory": NETWORK,
    "policies/gates": "policies/test_recurrences policies/test_dense_reference",
    "policies/recurrences": "policies/test_recurrences contract/test_backbones",
    "policies/sequence": "policies/test_sequence",
    "policies/recurrent": "policies/test_other_references contract/test_backbones",
    "policies/mlp": "policies/test_other_references contract/test_backbones",
    "policies/linear": "policies/test_linear",
    "policies/heads": "policies/test_by_differences policies/test_heads",
    "policies/encoders": "policies/test_inputs_by_hand policies/test_encoders policies/test_own_encoder",
    "policies/moments": "policies/test_moments algos/test_units",
    "policies/pictures": "policies/test_encoders policies/test_inputs_by_hand",
    "policies/words": "policies/test_encoders envs/test_gym_text",
    "policies/weights": "policies/test_saving faults/test_untrusted",
    "policies/actor_critic": "policies/test_inputs_by_hand policies/test_actor_critic policies/test_acting policies/test_saving",
    "policies/budget": "policies/test_budget",
    "policies/saving": "policies/test_saving test_old_files",
    "policies/sp": "policies/test_saving test_old_files test_plugins",
    "policies/registry": "test_plugins test_extending contract/test_backbones",
    "policies/check": "test_extending contract/test_backbones",
    "algos/": "algos/test_by_hand algos/test_ppo algos/test_rate algos/test_auxiliary test_every_option faults/test_poison"
    " faults/test_resume",
    "algos/losses": "algos/test_losses algos/test_by_hand",
    "algos/rate": "algos/test_by_hand algos/test_rate algos/test_auxiliary algos/test_units test_every_option"
    " faults/test_poison faults/test_resume",
    "algos/returns": "algos/test_returns algos/test_by_hand algos/test_ppo faults/test_resume",
    "rollouts/": "rollouts/test_evaluation rollouts/test_success faults/test_wrong_numbers test_collect",
    "rollouts/collector": "rollouts/test_collector rollouts/test_metrics faults/test_poison faults/test_wrong_numbers"
    " faults/test_resume",
    "rollouts/dataset": "algos/test_by_hand rollouts/test_dataset algos/test_rate",
    "rollouts/minari": "rollouts/test_dataset test_collect",
    "rollouts/minari_writer": "rollouts/test_own_spaces rollouts/test_dataset test_collect",
    "rollouts/statistics": "rollouts/test_window rollouts/test_distinct rollouts/test_success rollouts/test_metrics"
    " rollouts/test_evaluation rollouts/test_collector test_train",
    "envs/": "envs/test_base envs/test_seeds envs/test_resets envs/test_vector_properties contract/test_envs",
    "envs/actions": "envs/test_gym_actions",
    "envs/masks": "envs/test_gym_masks",
    "envs/text": "envs/test_gym_text",
    "envs/observations": "faults/test_wrong_numbers envs/test_gym_mistakes envs/test_gym_masks",
    "envs/single": "envs/test_single envs/test_vector_properties",
    "envs/recorded": "rollouts/test_without_environment",
    "envs/check": "envs/test_check_by_hand envs/test_check envs/test_check_and_gymnasiums contract/test_envs",
    "envs/checks/masked": "envs/test_check_by_hand envs/test_gym_masks",
    "envs/drawing": "envs/test_drawing test_play",
    "envs/objects": "runs/test_python_api",
    "envs/registry": "contract/test_envs test_plugins",
    "envs/gym/": "envs/test_gym_adapter envs/test_gym_mistakes envs/test_gym_masks contract/test_envs[cartpole]",
    "envs/gym/adapter": "envs/test_gym_actions envs/test_gym_adapter envs/test_gym_mistakes envs/test_gym_masks"
    " rollouts/test_own_spaces contract/test_envs[cartpole]",
    "envs/gym/info": "envs/test_gym_info policies/test_critic_only",
    "envs/gym/reports": "envs/test_base envs/test_gym_adapter envs/test_gym_mistakes",
    "envs/gym/translate": "envs/test_gym_adapter envs/test_gym_mistakes envs/test_gym_masks envs/test_gym_text"
    " contract/test_envs[cartpole]",
    "envs/gym/vector_rows": "envs/test_vector_envs",
    "envs/gym/lockstep": "faults/test_forked_workers faults/test_workers envs/test_gym_adapter",
    "envs/gym/row_server": "faults/test_forked_workers faults/test_workers envs/test_gym_adapter",
    "envs/gym/actors": "faults/test_ray_rows",
    "envs/gym/workers": "faults/test_forked_workers faults/test_worker_close faults/test_workers envs/test_gym_adapter",
    "envs/minigrid/": "envs/test_minigrid_memory envs/test_minigrid_floors contract/test_envs[minigrid] test_play",
    "envs/minigrid/direct": "envs/test_minigrid_direct test_play contract/test_envs[minigrid]",
    "envs/minigrid/doors": "envs/test_minigrid_direct envs/test_descriptions contract/test_envs[doorkey|doors]",
    "envs/minigrid/pixels": "envs/test_minigrid_pixels envs/test_drawing",
    "envs/tasks/associative": "envs/test_task_facts envs/test_associative_retrieval envs/test_descriptions"
    " contract/test_envs[retrieval]",
    "envs/tasks/bandit": "envs/test_task_facts envs/test_bandit envs/test_descriptions contract/test_envs[bandit]",
    "envs/tasks/copy": "envs/test_task_facts envs/test_copy_reverse envs/test_descriptions contract/test_envs[copy]",
    "envs/tasks/dark": "envs/test_task_facts envs/test_dark_room envs/test_descriptions contract/test_envs[dark]",
    "envs/tasks/detect": "envs/test_task_facts envs/test_detect_reasoning envs/test_descriptions"
    " contract/test_envs[detect|reasoning]",
    "envs/tasks/memory_len": "envs/test_task_facts envs/test_memory_len envs/test_descriptions contract/test_envs[memory-len]",
    "envs/tasks/repeat": "envs/test_task_facts envs/test_repeat envs/test_descriptions contract/test_envs[repeat]",
    "envs/tmaze/": "envs/test_task_facts envs/test_tmaze envs/test_tmaze_endless envs/test_tmaze_variants envs/test_descriptions"
    " contract/test_envs[tmaze]",
    "envs/wrappers/memory_scope": "envs/test_memory_scope contract/test_envs[trial]",
    "envs/wrappers/return_to_go": "envs/test_return_to_go algos/test_rate",
}


class Mutant(NamedTuple):
    """file: below rmt_rl/. before, after: the changed lines. source: the whole file with the change."""

    file: str
    line: int
    rule: str
    before: str
    after: str
    source: str

    @property
    def name(self) -> str:
        return f"{self.file}: {self.before} -> {self.after}"

    @property
    def key(self) -> str:
        """The same for the same change of the same file, whatever else is drawn."""
        return hashlib.sha256(f"{self.file}\n{self.source}".encode()).hexdigest()[:16]


# ------------------------------------------------------------------------------------------------------------ the rules

COMPARISONS = {
    ast.Lt: ast.LtE,
    ast.LtE: ast.Lt,
    ast.Gt: ast.GtE,
    ast.GtE: ast.Gt,
    ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq,
    ast.Is: ast.IsNot,
    ast.IsNot: ast.Is,
    ast.In: ast.NotIn,
    ast.NotIn: ast.In,
}
ARITHMETIC = {ast.Add: ast.Sub, ast.Sub: ast.Add}
PRODUCTS = {ast.Mult: ast.Div, ast.Div: ast.Mult, ast.FloorDiv: ast.Mult, ast.Mod: ast.FloorDiv, ast.Pow: ast.Mult}
LOGIC = {ast.And: ast.Or, ast.Or: ast.And, ast.BitAnd: ast.BitOr, ast.BitOr: ast.BitAnd}
EXTREMES = {"min": "max", "max": "min", "minimum": "maximum", "maximum": "minimum", "amin": "amax", "amax": "amin"}


def _copy(node: ast.AST, **changes: Any) -> Any:
    return type(node)(**{**{name: getattr(node, name, None) for name in node._fields}, **changes})


def _swapped(node: Any, table: dict[Any, Any]) -> Any:
    return _copy(node, op=table[type(node.op)]()) if type(node.op) in table else None


def comparison(node: ast.AST) -> Any:
    if isinstance(node, ast.Compare) and type(node.ops[0]) in COMPARISONS:
        return _copy(node, ops=[COMPARISONS[type(node.ops[0])](), *node.ops[1:]])
    return None


def plus_minus(node: ast.AST) -> Any:
    return _swapped(node, ARITHMETIC) if isinstance(node, ast.BinOp) else None


def times_divide(node: ast.AST) -> Any:
    return _swapped(node, PRODUCTS) if isinstance(node, ast.BinOp) else None


def and_or(node: ast.AST) -> Any:
    return _swapped(node, LOGIC) if isinstance(node, (ast.BinOp, ast.BoolOp)) else None


def constant(node: ast.AST) -> Any:
    if not isinstance(node, ast.Constant) or not isinstance(node.value, (bool, int, float)):
        return None
    value = node.value
    if isinstance(value, bool):
        return ast.Constant(not value)
    return ast.Constant(1 - value if value in (0, 1) else value + 1)


def dropped_not(node: ast.AST) -> Any:
    return node.operand if isinstance(node, ast.UnaryOp) and isinstance(node.op, (ast.Not, ast.Invert)) else None


def dropped_minus(node: ast.AST) -> Any:
    numbers = isinstance(node, ast.UnaryOp) and isinstance(node.operand, ast.Constant)
    return node.operand if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub) and not numbers else None


def min_max(node: ast.AST) -> Any:
    if not isinstance(node, ast.Call):
        return None
    function = node.func
    if isinstance(function, ast.Name) and function.id in EXTREMES:
        return _copy(node, func=ast.Name(EXTREMES[function.id]))
    if isinstance(function, ast.Attribute) and function.attr in EXTREMES:
        return _copy(node, func=_copy(function, attr=EXTREMES[function.attr]))
    if isinstance(function, ast.Attribute) and function.attr == "clamp" and len(node.keywords) == 1:
        (keyword,) = node.keywords
        return _copy(node, keywords=[_copy(keyword, arg=EXTREMES.get(keyword.arg or "", keyword.arg))])
    return None


def no_detach(node: ast.AST) -> Any:
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "detach":
        return node.func.value
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "detach":
        return node.args[0]
    return None


def condition(node: ast.AST) -> Any:
    if isinstance(node, ast.IfExp):
        return _copy(node, body=node.orelse, orelse=node.body)
    return None


def branch(node: ast.AST) -> Any:
    """The test of an `if`, which is what is replaced."""
    return ast.UnaryOp(ast.Not(), node.test) if isinstance(node, ast.If) else None


def removed(node: ast.AST) -> Any:
    """A call whose result is not used, an assignment to an attribute or an element, or x += y."""
    call = isinstance(node, ast.Expr) and isinstance(node.value, ast.Call)
    target = isinstance(node, ast.Assign) and isinstance(node.targets[0], (ast.Attribute, ast.Subscript))
    return ast.Pass() if call or target or isinstance(node, ast.AugAssign) else None


RULES = {
    "swapped comparison": comparison,
    "+ and -": plus_minus,
    "* and /": times_divide,
    "and and or": and_or,
    "constant": constant,
    "dropped not": dropped_not,
    "dropped minus": dropped_minus,
    "min and max": min_max,
    "removed detach": no_detach,
    "swapped branches": condition,
    "negated condition": branch,
    "removed statement": removed,
}


# ------------------------------------------------------------------------------------------------------------ the draw


def nodes(tree: ast.AST) -> Iterator[ast.AST]:
    """All nodes whose change can change a result: no types, messages of errors, texts or imports."""
    skipped = (ast.Raise, ast.JoinedStr, ast.Import, ast.ImportFrom, ast.Assert)
    for name, value in ast.iter_fields(tree):
        if name in ("annotation", "returns", "decorator_list", "bases"):
            continue
        for node in value if isinstance(value, list) else [value]:
            if isinstance(node, ast.AST) and not isinstance(node, skipped):
                yield node
                yield from nodes(node)


def spliced(source: str, node: Any, new: ast.AST) -> str:
    """The source with the text of `node` replaced."""
    lines = source.splitlines(keepends=True)
    offset = [0]
    for line in lines:
        offset.append(offset[-1] + len(line.encode()))
    begin = offset[node.lineno - 1] + node.col_offset
    end = offset[node.end_lineno - 1] + node.end_col_offset
    text = ast.unparse(ast.fix_missing_locations(new))
    whole = source.encode()
    text = text if isinstance(new, ast.Pass) else f"({text})"
    return (whole[:begin] + text.encode() + whole[end:]).decode()


def mutants_of(file: str, source: str) -> Iterator[Mutant]:
    before = source.splitlines()
    for node in nodes(ast.parse(source)):
        for rule, change in RULES.items():
            new = change(node)
            if new is None:
                continue
            place: Any = node.test if isinstance(node, ast.If) else node
            changed = spliced(source, place, new)
            try:
                compile(changed, file, "exec")
            except SyntaxError:  # for instance (x)=1 as a keyword argument of a call that was cut out of a longer one
                continue
            old = " ".join(line.strip() for line in before[place.lineno - 1 : place.end_lineno])
            last = place.end_lineno + len(changed.splitlines()) - len(before)
            found = " ".join(line.strip() for line in changed.splitlines()[place.lineno - 1 : last])
            yield Mutant(file, place.lineno, rule, old, found, changed)


def drawn(count: int, seed: int) -> list[Mutant]:
    """`count` mutants: a rule in turn, a place of it at random."""
    draw, by_rule = random.Random(seed), {rule: [] for rule in RULES}
    for path in sorted(path for part in PARTS for path in (ROOT / "rmt_rl" / part).rglob("*.py")):
        for mutant in mutants_of(str(path.relative_to(ROOT / "rmt_rl")), path.read_text(encoding="utf-8")):
            by_rule[mutant.rule].append(mutant)
    for places in by_rule.values():
        draw.shuffle(places)
    turns = range(max(map(len, by_rule.values())))
    return [places[turn] for turn in turns for places in by_rule.values() if turn < len(places)][:count]


# ----------------------------------------------------------------------------------------------------------- the tests


def tests_of(file: str) -> list[list[str]]:
    """The arguments of one or more calls of pytest, of which each runs only if those before it passed."""
    start = max((start for start in TESTS if file.startswith(start)), key=len)
    whole, parts = [], []
    for name in TESTS[start].split():
        name, _, words = name.removesuffix("]").partition("[")
        if words:
            parts.append([f"tests/{name}.py", "-k", words.replace("|", " or ")])
        else:
            whole.append(f"tests/{name}.py")
    return [whole, *parts]


def run_tests(copy: Path, calls: list[list[str]], limit: float) -> tuple[str, str]:
    """How the tests in the copy ended (passed, failed or timed out), and the first test that failed."""
    end = time.monotonic() + limit
    for tests in calls:
        ended, failed = run_pytest(copy, tests, end - time.monotonic())
        if ended != "passed":
            return ended, failed
    return "passed", ""


def run_pytest(copy: Path, tests: list[str], limit: float) -> tuple[str, str]:
    process = subprocess.Popen(
        [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", *tests],
        cwd=copy,
        # no compiled files: two mutants of one size, written in one second, would share them
        env={
            **os.environ,
            "PYTHONPATH": os.pathsep.join([str(copy), *filter(None, [os.environ.get("PYTHONPATH")])]),
            "PYTHONDONTWRITEBYTECODE": "1",
            "OMP_NUM_THREADS": "1",
        },
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    try:
        output, _ = process.communicate(timeout=limit)
    except subprocess.TimeoutExpired:
        return "timed out", ""
    finally:  # also after an interrupt: neither the tests nor what they started stays behind
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    if process.returncode in (4, 5):
        raise SystemExit(f"{' '.join(tests)}: the tests could not run: {' '.join(output.splitlines()[-2:])}")
    failed = re.search(r"^(?:FAILED|ERROR) (\S.*?)(?: - .*)?$", output, re.MULTILINE)
    return ("passed", "") if process.returncode == 0 else ("failed", failed[1] if failed else "an error")


class Bench:
    """A copy of the repository in which one file at a time is changed, and the time that each set of tests takes in it."""

    def __init__(self, copy: Path, slow: bool, passing: bool) -> None:
        self.copy, self.passing, self.seconds, self.marked = copy, passing, {}, [] if slow else ["-m", "not slow"]
        copy.mkdir()
        for part in ("rmt_rl", "tests", "experiments", "docs", "README.md", "CHANGELOG.md", "pyproject.toml"):
            if (ROOT / part).is_dir():
                shutil.copytree(ROOT / part, copy / part, ignore=shutil.ignore_patterns("__pycache__"))
            else:
                shutil.copy(ROOT / part, copy / part)

    def outcome(self, mutant: Mutant) -> tuple[str, str]:
        """killed, survived or timed out, and the test that killed it."""
        tests = [[*call, *self.marked] for call in tests_of(mutant.file)]
        if self.passing:
            self.seconds[str(tests)] = (PATIENCE - 60) / 4
        if str(tests) not in self.seconds:
            begin = time.monotonic()
            ended, failed = run_tests(self.copy, tests, LONGEST)
            if ended != "passed":
                raise SystemExit(f"{failed or tests}: {ended} without a mutant; tests that are red detect nothing")
            self.seconds[str(tests)] = time.monotonic() - begin
        path = self.copy / "rmt_rl" / mutant.file
        original = path.read_text(encoding="utf-8")
        path.write_text(mutant.source, encoding="utf-8")
        try:
            ended, failed = run_tests(self.copy, tests, 60 + 4 * self.seconds[str(tests)])
        finally:
            path.write_text(original, encoding="utf-8")
        return {"passed": "survived", "failed": "killed"}.get(ended, ended), failed


def print_table(mutants: list[Mutant], finished: dict[str, dict[str, Any]]) -> None:
    print("\n| mutant | rule | outcome |\n|---|---|---|")
    counts: dict[str, int] = {}
    for mutant in mutants:
        row = finished.get(mutant.key)
        if row is None:
            continue
        outcome = "equivalent" if mutant.name in EQUIVALENT and row["outcome"] == "survived" else row["outcome"]
        counts[outcome] = counts.get(outcome, 0) + 1
        shown = {"killed": f"`{row['by']}`", "equivalent": EQUIVALENT.get(mutant.name)}.get(outcome, f"**{outcome}**")
        change = f"`{mutant.before}` to `{mutant.after}`".replace("|", "\\|")
        print(f"| {mutant.file}:{mutant.line} {change} | {mutant.rule} | {shown} |")
    judged = sum(count for outcome, count in counts.items() if outcome != "equivalent")
    detected = counts.get("killed", 0) + counts.get("timed out", 0)
    share = f"{detected / judged:.0%}" if judged else "none"
    parts = ", ".join(f"{count} {outcome}" for outcome, count in sorted(counts.items()))
    print(
        f"\n{sum(counts.values())} of {len(mutants)} mutants have run: {parts}. Detected: {share} of those not equivalent."
    )


def is_due(mutant: Mutant, finished: dict[str, dict[str, Any]], again: bool) -> bool:
    """Whether a mutant has to run: it has not yet, or it survived and is to run again."""
    stored = finished.get(mutant.key, {}).get("outcome")
    return not stored or (again and stored == "survived" and mutant.name not in EQUIVALENT)


def judge(mutant: Mutant, benches: SimpleQueue[Bench]) -> dict[str, Any]:
    """The row of a mutant in the results file, after its tests ran in a free copy."""
    bench = benches.get()
    try:
        begin = time.monotonic()
        outcome, by = bench.outcome(mutant)
    finally:
        benches.put(bench)
    row = {"key": mutant.key, **mutant._asdict(), "outcome": outcome, "by": by}
    row["seconds"] = round(time.monotonic() - begin)
    del row["source"]
    add_result(STORED, row)
    print(f"{outcome:9} {mutant.file}:{mutant.line} {mutant.rule}: {mutant.before} -> {mutant.after}", flush=True)
    return row


def stop(number: int, frame: Any) -> None:
    raise KeyboardInterrupt


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=96, help="number of mutants")
    parser.add_argument("--seed", type=int, default=0, help="of the draw")
    parser.add_argument(
        "--list", action="store_true", help="print the mutants and the stored outcomes, and run no test"
    )
    parser.add_argument("--again", action="store_true", help="run the stored survivors again")
    parser.add_argument("--slow", action="store_true", help="run the tests marked as slow, too")
    parser.add_argument("--passing", action="store_true", help="the tests are known to pass without a mutant")
    parser.add_argument("--only", default="", help="only mutants of files whose path starts with this")
    parser.add_argument("--workers", type=int, default=1, help="mutants that run at a time")
    arguments = parser.parse_args()
    mutants = [m for m in drawn(arguments.count, arguments.seed) if m.file.startswith(arguments.only)]
    finished = {row["key"]: row for row in read_results(STORED)}  # the newest of a mutant counts
    todo = [] if arguments.list else [m for m in mutants if is_due(m, finished, arguments.again)]
    signal.signal(signal.SIGTERM, stop)
    try:
        with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(arguments.workers) as pool:
            benches: SimpleQueue[Bench] = SimpleQueue()
            for worker in range(arguments.workers):
                copy = Path(folder).resolve() / str(worker)
                benches.put(Bench(copy, arguments.slow, arguments.passing))
            try:
                for row in pool.map(lambda mutant: judge(mutant, benches), todo):
                    finished[row["key"]] = row
            except BaseException:  # no further mutant starts; those that run end first
                pool.shutdown(cancel_futures=True)
                raise
    except KeyboardInterrupt:
        print("interrupted; what has finished is stored")
    if arguments.list:
        for mutant in mutants:
            print(f"{finished.get(mutant.key, {}).get('outcome', ''):9} {mutant.file}:{mutant.line} {mutant.rule}")
            print(f"          {mutant.before}\n       -> {mutant.after}")
    print_table(mutants, finished)


if __name__ == "__main__":
    main()
