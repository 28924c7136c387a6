"""What layers that are not included would cost and save at the sizes of policies: `python experiments/speed/left_out.py`.

First table: one feed-forward layer on the 256 positions of 64 rows x a segment of 4 steps, forward and backward pass, in the
dense form that policies have, as a mixture of experts (each position goes to one of four; Shazeer et al. 2017, arXiv 1701.06538,
without noise and balancing) and as product keys (the best 8 of 32 x 32 values; Lample et al. 2019, arXiv 1907.05242, one head).
Microseconds of CPU time, medians over rounds in which all take turns, one thread.

Second table: growth of the peak of resident memory in one gradient of an RMT over 8,192 tokens by depth, which reversible
residuals would make independent of it (Gomez et al. 2017, arXiv 1707.04585), without and with `replay`.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import time
from pathlib import Path

import torch
from machine import machine  # beside this file
from torch import nn
from torch.nn import functional as F

from rmt_rl.common.process import configure_process

POSITIONS, EXPERTS, KEYS, BEST = 256, 4, 32, 8
DEPTHS, TOKENS = (2, 8, 32), 8_192


class Dense(nn.Sequential):
    """The feed-forward layer of a transformer."""

    def __init__(self, width: int) -> None:
        super().__init__(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))


class Experts(nn.Module):
    """Each position goes to the expert with the highest weight, and its output is multiplied by it."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.choice, self.experts = nn.Linear(width, EXPERTS), nn.ModuleList(Dense(width) for _ in range(EXPERTS))

    def forward(self, x_ND: torch.Tensor) -> torch.Tensor:
        weight, chosen = self.choice(x_ND).softmax(1).max(1)
        out = torch.zeros_like(x_ND)
        for number, expert in enumerate(self.experts):
            rows = (chosen == number).nonzero().flatten()
            out = out.index_add(0, rows, expert(x_ND[rows]))
        return out * weight[:, None]


class ProductKeys(nn.Module):
    """The values of the best pairs of half keys, weighted by softmax."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.query, self.values = nn.Linear(width, width), nn.Embedding(KEYS**2, width)
        self.keys = nn.Parameter(torch.randn(2, KEYS, width // 2) * width**-0.5)

    def forward(self, x_ND: torch.Tensor) -> torch.Tensor:
        halves = self.query(x_ND).view(len(x_ND), 2, -1)
        score, key = torch.einsum("nhd,hkd->nhk", halves, self.keys).topk(BEST, dim=2)
        pairs = (score[:, 0, :, None] + score[:, 1, None]).flatten(1)
        numbers = (key[:, 0, :, None] * KEYS + key[:, 1, None]).flatten(1)
        best, place = pairs.topk(BEST, dim=1)
        return (best.softmax(1)[..., None] * self.values(numbers.gather(1, place))).sum(1)


def layers(rounds: int) -> None:
    """Print the first table."""
    print("| width | layer | parameters | µs | times the dense one |\n|---|---|---|---|---|")
    for width in (64, 128):
        torch.manual_seed(0)
        x = torch.randn(POSITIONS, width, requires_grad=True)
        made = {"dense": Dense(width), "mixture of experts": Experts(width), "product keys": ProductKeys(width)}
        times: dict[str, list[float]] = {name: [] for name in made}
        for number in range(rounds + 3):
            for name, layer in made.items():
                begin = time.process_time()
                for _ in range(20):
                    F.mse_loss(layer(x), x.detach()).backward()
                if number >= 3:
                    times[name].append((time.process_time() - begin) / 20 * 1e6)
        usual = statistics.median(times["dense"])
        for name, layer in made.items():
            taken, weights = statistics.median(times[name]), sum(p.numel() for p in layer.parameters())
            print(f"| {width} | {name} | {weights:,} | {taken:,.0f} | {taken / usual:.2f} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=15)
    arguments = parser.parse_args()
    configure_process(threads=1)
    print(machine(), end="\n\n", flush=True)
    layers(arguments.rounds)
    print("\n| memory | layers | tokens | replay | MB | CPU s |\n|---|---|---|---|---|---|", flush=True)
    for depth in DEPTHS:
        for replay in ("no", "yes"):
            script = str(Path(__file__).with_name("long_sequence.py"))
            subprocess.run([sys.executable, script, "--one", "rmt", str(TOKENS), replay, str(depth)], check=True)


if __name__ == "__main__":
    main()
