"""What RATE costs at the size of the released T-maze model: a segment of training, and a step of acting, in CPU time.

    python experiments/speed/bench_rate.py

10 layers of width 64 with 4 heads, 15 memory tokens with the retention valve, segments of K = 50 steps, 3 of them in an
episode, batches of 128 episodes, one thread. A segment step is what the released code calls one: forward, backward and
AdamW for one segment of all episodes. Ours makes one optimizer step for all three segments, so its time is divided by
3; with `algo.detach_memory=true` it makes three. The numbers of the released code were measured on another day on a
loaded machine (CPU-seconds, T = 150: 10.0 for a segment step, 0.0192 for acting at step 50), and the code cannot be run
here. It feeds three tokens per step; ours feeds their sum as one.
"""

from __future__ import annotations

import statistics
import sys
import time
from pathlib import Path

import torch
from machine import machine  # beside this file

from rmt_rl import config
from rmt_rl.algos.rate import RATELearner
from rmt_rl.common.process import configure_process
from rmt_rl.envs.registry import make_from_config
from rmt_rl.policies.actor_critic import ActorCritic
from rmt_rl.policies.spec import make_spec

sys.path.insert(0, str(Path(__file__).parent.parent))
from common import rmt_of_the_paper

K, N, BATCH, ROUNDS = 50, 3, 128, 5
THEIR_SEGMENT, THEIR_ACT = 10.0, 0.0192
TASK = config.TMazeRATEConfig(length=K * N - 2)
POLICY = rmt_of_the_paper(layers=10, heads=4, segment=K, memory_tokens=15, memory_update="mrv")


def main() -> None:
    configure_process(threads=1)
    data = RATELearner.load_data(config.make_config(env=TASK, algo="rate", policy=POLICY))
    print(machine())
    print("| what | ours, CPU-ms | of the released code |\n|---|---|---|")
    for detach in (False, True):
        algo = config.RATEConfig(batch=BATCH, detach_memory=detach, validation=0.0)
        run = config.make_config(env=TASK, algo=algo, policy=POLICY)
        returns = RATELearner.return_conditioning(run, data, None)
        env = make_from_config(TASK, 1, returns=returns)
        torch.manual_seed(0)
        policy = ActorCritic(make_spec(env, TASK, POLICY, returns=returns))
        rate = RATELearner(run, env, policy, data)
        rate.update(rate.collect(0.0), 0.0)
        spent = []
        for _ in range(ROUNDS):
            begin = time.process_time()
            batch = rate.collect(0.0)
            rate.update(batch, 0.0)
            # the oracle wastes no step: every episode has length + 1 of them
            assert batch.steps == BATCH * (K * N - 1)
            spent.append((time.process_time() - begin) / N)
        name = "a segment of training, memory detached" if detach else "a segment of training, gradient through memory"
        cost = statistics.median(spent)
        print(f"| {name} | {1e3 * cost:,.0f} | {cost / THEIR_SEGMENT:.3f} |", flush=True)
    policy.eval()
    found: dict[int, list[float]] = {1: [], 25: [], 50: []}
    for _ in range(40):
        obs, _ = env.reset(seed=0)
        state, first = policy.initial_state(1), torch.ones(1, dtype=torch.bool)
        for slot in range(1, K + 1):
            begin = time.process_time()
            action, state = policy.act(obs, state, first, deterministic=True)
            if slot in found:
                found[slot].append(time.process_time() - begin)
            obs, *_ = env.step(torch.zeros_like(action))
            first = torch.zeros(1, dtype=torch.bool)
    for slot, spent in found.items():
        cost = statistics.median(spent)
        print(f"| acting, one row, step {slot} of a segment | {1e3 * cost:.2f} | {cost / THEIR_ACT:.3f} |")


if __name__ == "__main__":
    main()
