"""Freed memory is kept for speed, and given back where memory is what is wanted."""

import subprocess
import sys

import pytest

PROGRAM = """
import torch
from rmt_rl.common.allocator import give_back_freed_memory, keep_freed_memory

def resident():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * 4096 / 2**20

keep_freed_memory()
before = resident()
tensors = [torch.ones(2**18) for _ in range(200)]  # 1 MiB each
full = resident()
kept = tensors[::2]  # holes between tensors that live
del tensors
holes = resident()
give_back_freed_memory()
print(full - before, holes - before, resident() - before, sum(float(x.sum()) for x in kept) == 100 * 2**18)
"""


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc's allocator is Linux's")
def test_freed_tensors_are_kept_until_they_are_given_back() -> None:
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, timeout=120, check=True)
    full, holes, after, intact = done.stdout.split()
    assert intact == "True"
    assert float(full) > 190 and float(holes) > 190
    assert 90 < float(after) < 130
