"""The contract of the backbones on many random cases: every check on every variant of tests/contract/test_backbones.py.

    python experiments/reliability/contract.py [--cases 300] [--workers 2]

More than an hour of CPU for 300 cases. A finished pair of a check and a variant is kept in the results file and is not repeated
until the source of a backbone or of the checks changes, so the script continues where it was stopped. Exits with 1 if a check
fails.
"""

from __future__ import annotations

import argparse
import hashlib
import multiprocessing
import sys
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))
sys.path.insert(0, str(Path(__file__).parents[2] / "tests/contract"))
import torch
from common import RESULTS, add_result, read_results
from test_backbones import VARIANTS, maker

from rmt_rl.policies.checks.contract import CHECKS

ROOT = Path(__file__).parents[2]
#: What the results depend on, below rmt_rl/.
SOURCES = (
    *(
        "common/allocator.py",
        "common/state.py",
        "policies/base.py",
        "policies/checks/contract.py",
        "policies/linear.py",
    ),
    *(
        "policies/memory_update.py",
        "policies/mlp.py",
        "policies/recurrent.py",
        "policies/registry.py",
        "policies/rmt.py",
    ),
    *("policies/rmt_state.py", "policies/rows.py", "policies/segments.py", "policies/transformer.py"),
)


def measure(pair: tuple[int, str, int]) -> tuple[str, str, dict[str, Any]]:
    """Claim, variant, and what was found. pair: number of the check, variant, number of cases."""
    number, variant, cases = pair
    torch.set_num_threads(1)
    begin, check, found = time.process_time(), CHECKS[number], "pass"
    try:
        for case in range(cases):
            check.run(maker(variant), case)
    except Exception as error:  # any error of a check, which the table reports
        found = f"{type(error).__name__}: {error}"
    return check.claim, variant, {"result": found, "cpu_s": round(time.process_time() - begin, 1)}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=int, default=300)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--results", type=Path, default=RESULTS / "contract.jsonl")
    arguments = parser.parse_args()
    source = hashlib.sha256(b"".join((ROOT / "rmt_rl" / name).read_bytes() for name in SOURCES)).hexdigest()[:16]

    def described(claim: str, variant: str) -> dict[str, Any]:
        options = repr(VARIANTS[variant])
        return {"check": claim, "variant": variant, "options": options, "cases": arguments.cases, "source": source}

    def stored() -> list[dict[str, Any]]:
        rows = read_results(arguments.results)
        wanted = [described(check.claim, variant) for check in CHECKS for variant in VARIANTS]
        return [row for row in rows if any(run.items() <= row.items() for run in wanted)]

    done = {(row["check"], row["variant"]) for row in stored()}
    pairs = [(number, variant, arguments.cases) for number in range(len(CHECKS)) for variant in VARIANTS]
    left = [pair for pair in pairs if (CHECKS[pair[0]].claim, pair[1]) not in done]
    with multiprocessing.get_context("spawn").Pool(arguments.workers) as pool:
        for claim, variant, measured in pool.imap_unordered(measure, left):
            add_result(arguments.results, {**described(claim, variant), "measured": measured})
            print(f"{measured['result']}  {variant}  {claim}", flush=True)
    rows = stored()
    failed = [row for row in rows if row["measured"]["result"] != "pass"]
    seconds = sum(row["measured"]["cpu_s"] for row in rows)
    passed = len(rows) - len(failed)
    print(f"{len(rows)} of {len(pairs)} pairs on {arguments.cases} cases: {passed} pass, {seconds / 60:.0f} CPU-min")
    for row in failed:
        print(f"  {row['variant']}, {row['check']}: {row['measured']['result']}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
