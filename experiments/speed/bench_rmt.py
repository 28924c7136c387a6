"""The RMT alone beside lucidrains' recurrent-memory-transformer-pytorch, and the cost of one acting step, as markdown tables.

    pip install recurrent-memory-transformer-pytorch
    python experiments/speed/bench_rmt.py

First table: dim 256, depth 4, heads 4, 16 memory tokens, 8 segments of 64 steps, batch 16, one thread, medians over
rounds in which all take turns, every measurement in a separate process. The share of the matrix rate counts useful work only:
not what replay computes again. Ours works on vectors; it is given an embedding
of 256 tokens and a linear layer to 256 logits with cross-entropy, so that both do the same work. Second table: `step`
of the policies (2 layers x 64) for one row, early and late in an episode.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import sys
import time
from pathlib import Path
from typing import Any

import torch
from machine import machine  # beside this file
from torch import nn
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from rmt_rl import config
from rmt_rl.common.process import configure_process
from rmt_rl.policies import linear
from rmt_rl.policies.linear import Linear
from rmt_rl.policies.registry import make_backbone

sys.path.insert(0, str(Path(__file__).parent.parent))
from common import PEERS, rmt_of_the_paper, run_program

PEER = PEERS / "lucidrains_rmt.py"
DIM, TOKENS, SEGMENT, SEGMENTS, BATCH, MEMORIES = 256, 256, 64, 8, 16, 16
MODES = ("forward", "bptt", "replay")


class LanguageModel(nn.Module):
    """Our RMT between an embedding and logits."""

    def __init__(self, replay: bool) -> None:
        super().__init__()
        task = rmt_of_the_paper(width=DIM, layers=4, heads=4, segment=SEGMENT, memory_tokens=MEMORIES, replay=replay)
        self.embedding = nn.Embedding(TOKENS, DIM)
        self.rmt = make_backbone(task)
        self.logits = Linear(DIM, TOKENS, bias=False)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        first = torch.zeros(tokens.shape, dtype=torch.bool)
        first[:, 0] = True
        y, _ = self.rmt.unroll(self.embedding(tokens), self.rmt.initial_state(len(tokens)), first)
        return self.logits(y)


def ours(mode: str, reps: int) -> dict[str, Any]:
    """Tokens per CPU-second, growth of the peak of resident memory, and FLOP per token; to be run in a separate process."""
    configure_process(threads=1)
    torch.manual_seed(0)
    net = LanguageModel(replay=mode == "replay")
    x = torch.randint(0, TOKENS, (BATCH, SEGMENT * SEGMENTS + 1))
    # The first optimizer makes torch load its compiler, 110 MB of modules, which must not count as activations.
    torch.optim.AdamW(net.parameters())
    base = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

    def once(grad: bool = mode != "forward") -> None:
        if mode == "forward":
            with torch.set_grad_enabled(grad):
                net(x[:, :-1])
        else:
            F.cross_entropy(net(x[:, :-1]).transpose(1, 2), x[:, 1:]).backward()
        net.zero_grad(set_to_none=True)

    once()
    tokens, speeds = BATCH * SEGMENT * SEGMENTS, []
    for _ in range(reps):
        begin = time.process_time()
        once()
        speeds.append(tokens / (time.process_time() - begin))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    linear.AVAILABLE = False  # torch's counter knows only its own products
    net.rmt.replay = False  # nor does it work inside of replay; so what replay computes again is not counted
    with FlopCounterMode(display=False) as counter:
        once(grad=True)  # which it counts only with gradients on
    return {
        "tokens_per_cpu_s": statistics.median(speeds),
        "rss_growth_mb": (peak - base) / 1024,
        "flop_per_token": counter.get_total_flops() / tokens,
    }


def matrix_rate() -> float:
    """FLOP/s of one thread on a product of this network's size, by oneDNN."""
    layer, x = Linear(DIM, 4 * DIM, bias=False), torch.randn(1536, DIM)
    rates = []
    with torch.no_grad():
        for _ in range(30):
            begin = time.process_time()
            layer(x)
            rates.append(2 * x.numel() * 4 * DIM / (time.process_time() - begin))
    return statistics.median(rates)


def acting(steps: int, blocks: tuple[int, ...], block: int) -> None:
    configure_process(threads=1)
    torch.manual_seed(0)
    print("\n| policy | from step | CPU-ms for one step of one row |\n|---|---|---|")
    for task in (
        rmt_of_the_paper(),
        rmt_of_the_paper(cache=32, positions="rotary"),
        config.TrXLConfig(),
        config.LSTMConfig(),
    ):
        backbone = make_backbone(task)
        state, none = backbone.initial_state(1), torch.zeros(1, dtype=torch.bool)
        x, begins = torch.randn(1, task.width), dict[int, float]()
        name = task.name + (" with cache" if getattr(task, "cache", 0) and task.name == "rmt" else "")
        with torch.no_grad():
            for step in range(steps):
                if step in blocks:
                    begins[step] = time.process_time()
                _, state = backbone.step(x, state, none)
                if step + 1 - block in blocks:
                    each = (time.process_time() - begins[step + 1 - block]) / block
                    print(f"| {name} | {step + 1 - block:,} | {each * 1e3:.3f} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--reps", type=int, default=3, help="repetitions in each round")
    parser.add_argument("--no-peer", action="store_true")
    parser.add_argument("--steps", type=int, default=101_000, help="steps of acting")
    parser.add_argument("--ours", choices=MODES, help=argparse.SUPPRESS)
    a = parser.parse_args()
    if a.ours:
        print(json.dumps(ours(a.ours, a.reps)))
        return
    results: dict[tuple[str, str], list[dict[str, Any]]] = {}
    rates = []
    for _ in range(a.rounds):
        rates.append(matrix_rate())
        for mode in MODES:
            results.setdefault(("rmt_rl", mode), []).append(
                run_program(__file__, "--ours", mode, "--reps", str(a.reps))
            )
            if not a.no_peer:
                run = run_program(str(PEER), "--mode", mode, "--reps", str(a.reps))
                results.setdefault(("lucidrains", mode), []).append(run)
    rate = statistics.median(rates)
    print(machine())
    print(f"One core multiplies matrices of this size at {rate / 1e9:.0f} GFLOP/s.\n")
    print("| mode | who | tokens per CPU-second | x theirs | peak memory, MB | x theirs | of the matrix rate |")
    print("|---|---|---|---|---|---|---|")
    for mode in MODES:
        # the same products for both: attention, projections, feed-forward of steps, read and write tokens
        flop = statistics.median(r["flop_per_token"] for r in results["rmt_rl", mode])
        theirs = results.get(("lucidrains", mode))
        for who in ("lucidrains", "rmt_rl"):
            if (who, mode) not in results:
                continue
            speed, memory = (
                statistics.median(r[key] for r in results[who, mode]) for key in ("tokens_per_cpu_s", "rss_growth_mb")
            )
            ratios = ["-", "-"]
            if theirs:
                base = [statistics.median(r[key] for r in theirs) for key in ("tokens_per_cpu_s", "rss_growth_mb")]
                ratios = [f"{speed / base[0]:.2f}", f"{memory / base[1]:.2f}"]
            print(
                f"| {mode} | {who} | {speed:,.0f} | {ratios[0]} | {memory:,.0f} | {ratios[1]} | {flop * speed / rate:.0%} |"
            )
    acting(a.steps, (1, 1_000, 10_000, 100_000), 1_000)


if __name__ == "__main__":
    main()
