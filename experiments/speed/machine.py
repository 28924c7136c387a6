"""What a table of speeds has to name: the processor, torch, and how fast one core multiplies matrices."""

from __future__ import annotations

import statistics
import time

import torch

from rmt_rl.comparison.worker import cpu_name
from rmt_rl.policies.linear import Linear


def matrix_rate() -> float:
    """FLOP/s of one thread on a product whose operands stay in the cache, by the faster of torch's two libraries."""
    a, layer = torch.randn(512, 512), Linear(512, 512, bias=False)
    best = 0.0
    for product in (lambda: a @ a, lambda: layer(a)):
        rates = []
        for _ in range(20):
            begin = time.process_time()
            with torch.no_grad():
                for _ in range(10):
                    product()
            rates.append(10 * 2 * 512**3 / (time.process_time() - begin))
        best = max(best, statistics.median(rates))
    return best


def machine() -> str:
    """One line to print above a table."""
    rate = f"{matrix_rate() / 1e9:.0f} GFLOP/s"
    return f"{cpu_name()}, torch {torch.__version__}; one core multiplies 512 x 512 matrices at {rate}\n"
