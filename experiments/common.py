"""What the experiments share: the results files, means with their intervals, and options that a user replaces.

A script in a folder beside this file puts `experiments/` on sys.path and imports it as `common`.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from scipy import stats

from rmt_rl.common.errors import ConfigError
from rmt_rl.config import RMTConfig
from rmt_rl.config.cli import parse

#: Where finished runs are kept, and the programs of other libraries.
RESULTS = Path(__file__).parent / "results"
PEERS = Path(__file__).parent / "peers"
#: Bulatov et al. 2022, arXiv 2207.06881, with the segments that most results here were measured with.
RMT_OF_THE_PAPER = [
    "policy.memory_update=replace",
    "policy.write_from=memory",
    "policy.blank_memory=seen",
    "policy.segment=8",
    "policy.positions=learned",
]


def mean_and_interval(values: Sequence[float], low: float = 0, high: float = 1, digits: int = 3) -> str:
    """The mean over seeds with its 95 % interval (Student's t) inside `low` to `high`, those of a success rate by default."""
    mean = statistics.mean(values)
    if len(values) < 2:
        return f"{mean:.{digits}f}"
    half = stats.t.ppf(0.975, len(values) - 1) * statistics.stdev(values) / len(values) ** 0.5
    return f"{mean:.{digits}f} [{max(low, mean - half):.{digits}f}, {min(high, mean + half):.{digits}f}]"


def read_results(path: Path) -> list[dict[str, Any]]:
    """The rows of a results file; none where it does not exist."""
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def add_result(path: Path, row: dict[str, Any]) -> None:
    """Append a row to a results file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        file.write(json.dumps(row) + "\n")


def measure_once(results: Path, run: dict[str, Any], measure: Callable[[Path], dict[str, Any]]) -> dict[str, Any]:
    """What `measure(empty folder)` returns, which is appended to the file with `run`; a run that the file has is not repeated."""
    for row in read_results(results):
        if run.items() <= row.items():
            return dict(row["measured"])
    with tempfile.TemporaryDirectory() as folder:
        measured = measure(Path(folder))
    add_result(results, {**run, "measured": measured})
    return measured


def with_overrides(usual: Sequence[str], given: Sequence[str]) -> list[str]:
    """The arguments `name=value` of an experiment, of which those that a user gives replace the usual ones.

    The word `paper` stands for the options of the RMT of the paper, which was the default until 2026-11-27.
    """
    given = [option for word in given for option in (RMT_OF_THE_PAPER if word == "paper" else [word])]
    names = {argument.partition("=")[0] for argument in given}
    return [*(argument for argument in usual if argument.partition("=")[0] not in names), *given]


def check_options(
    parser: argparse.ArgumentParser, given: Sequence[str], decided: Sequence[str], runs: Sequence[Sequence[str]]
) -> None:
    """End the program, before anything is trained, where the experiment itself decides an option or a run is refused."""
    for option in given:
        if option.partition("=")[0] in decided:
            parser.error(f"{option}: the experiment decides this itself; leave it out")
    for arguments in runs:
        try:
            parse([*arguments])
        except ConfigError as error:
            parser.error(str(error))


def rmt_of_the_paper(**options: Any) -> RMTConfig:
    """The same as a dataclass, with some options changed."""
    values = dict(option.removeprefix("policy.").split("=") for option in RMT_OF_THE_PAPER)
    return RMTConfig(**{**values, "segment": int(values["segment"]), **options})


def run_program(*command: str) -> dict[str, Any]:
    """The JSON in the last line that a Python program prints; where it fails, what it says ends this program, too."""
    done = subprocess.run(
        [sys.executable, *command], env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True
    )
    if done.returncode:
        sys.exit(done.stderr.strip())
    return dict(json.loads(done.stdout.splitlines()[-1]))
