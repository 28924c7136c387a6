"""Two processes that share the rows of a run beside one process, as a markdown table.

    python experiments/speed/bench_processes.py [--rounds 3]

Environment steps per second of wall time, collecting and updating, without evaluation and saving; medians over rounds in which
all take turns. "rows" are those of all processes together. Needs as many idle cores as processes. The last line is the largest
message of an update, which is sent once a minibatch.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import statistics
import subprocess
import sys
import time
from typing import Any

import torch
from machine import machine  # beside this file

from rmt_rl.common.ranks import Ranks, joined
from rmt_rl.config.cli import parse
from rmt_rl.runs.console import parameters_of
from rmt_rl.runs.setup import build_learner

TASK = ["env=tmaze", "env.min_length=5", "env.length=80", "algo.rollout=96"]
POLICIES = ("rmt", "lstm")
#: Processes and rows of all together.
CASES = ((1, 64), (2, 64), (2, 128), (1, 128))
UPDATES = 6


def measure(policy: str, rows: int) -> dict[str, Any]:
    """Steps per second of one update after another, from the second on, in this process and those beside it."""
    with joined() as ranks, contextlib.ExitStack() as stack:
        learner = build_learner(parse([*TASK, f"policy={policy}", f"algo.num_envs={rows}"]), ranks, stack).learner
        for update in range(UPDATES + 1):
            if update == 1:
                ranks.any(False)  # all begin at once
                began = time.monotonic()
            batch = learner.collect(0.0)
            learner.update(batch, 0.0)
        ranks.any(False)
        seconds = time.monotonic() - began
        sent = one_message(ranks, parameters_of(learner.policy))
        return {"first": ranks.first, "steps_per_s": UPDATES * batch.steps * ranks.count / seconds, **sent}


def one_message(ranks: Ranks, parameters: int) -> dict[str, float]:
    """Kilobytes and milliseconds of the mean of all gradients, which is sent once a minibatch."""
    x, times = torch.zeros(parameters), []
    for _ in range(50):
        began = time.monotonic()
        ranks.mean(x)
        times.append(time.monotonic() - began)
    return {"message_kb": x.nbytes / 1e3, "message_ms": 1e3 * statistics.median(times)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--measure", nargs=2, metavar=("policy", "rows"), help="one measurement, by this script itself")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    if arguments.measure:
        found = measure(arguments.measure[0], int(arguments.measure[1]))
        if found.pop("first"):
            print(json.dumps(found), flush=True)
        return
    speeds: dict[tuple[str, int, int], list[float]] = {}
    for _ in range(arguments.rounds):
        for policy in POLICIES:
            for processes, rows in CASES:
                together = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
                command = [
                    sys.executable,
                    *(together if processes > 1 else []),
                    __file__,
                    "--measure",
                    policy,
                    str(rows),
                ]
                done = subprocess.run(command, check=True, capture_output=True, text=True)
                found = json.loads(done.stdout.splitlines()[-1])
                speeds.setdefault((policy, processes, rows), []).append(found["steps_per_s"])
                if processes > 1:
                    message = f"{found['message_kb']:.0f} kB in {found['message_ms']:.2f} ms ({policy})"
    print(
        machine(),
        "\n\n| policy | processes | rows | steps per second | x one process with these rows |\n|---|---|---|---|---|",
    )
    for (policy, processes, rows), measured in speeds.items():
        speed = statistics.median(measured)
        ratio = speed / statistics.median(speeds[policy, 1, rows])
        print(f"| {policy} | {processes} | {rows} | {speed:,.0f} | {ratio:.2f} |")
    print(f"\none message of a minibatch: {message}")


if __name__ == "__main__":
    main()
