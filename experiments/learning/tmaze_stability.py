"""Does a solved T-maze stay solved when training continues? Ours over seeds, beside sb3-contrib's RecurrentPPO.

    pip install stable-baselines3 sb3-contrib
    python experiments/learning/tmaze_stability.py --seeds 5

Ours: `env=tmaze env.length=10` with all defaults and a step size that falls to zero over the whole run. Every ten
updates the frozen policy is tested on new episodes, greedy and sampled. The table shows the last test within 20
CPU-seconds of training, the worst test of the 300,000 steps after it, and the score of the final policy. CPU-seconds
are those of collecting and updating, without tests. The peer (experiments/peers/sb3_recurrent.py) runs its own defaults
on the same maze until it is solved, and then continues.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path
from typing import Any

import torch

from rmt_rl import config
from rmt_rl.algos.ppo import PPO
from rmt_rl.common import rng
from rmt_rl.common.process import configure_process
from rmt_rl.config.cli import parse
from rmt_rl.envs.registry import make_from_config
from rmt_rl.policies.actor_critic import ActorCritic
from rmt_rl.policies.spec import make_spec
from rmt_rl.rollouts.collector import Collector
from rmt_rl.rollouts.episodes import evaluate

sys.path.insert(0, str(Path(__file__).parent.parent))
from common import PEERS, run_program, with_overrides

SECONDS, FURTHER = 20.0, 300_000
PEER = PEERS / "sb3_recurrent.py"


def checks(run: config.TrainConfig, every: int) -> list[dict[str, Any]]:
    """Train until `FURTHER` steps after the first `SECONDS` CPU-seconds, with tests on new episodes on the way."""
    env = make_from_config(run.env, run.algo.num_envs)
    torch.manual_seed(rng.seed(run.seed, "weights"))
    policy = ActorCritic(make_spec(env, run.env, run.policy))
    ppo = PPO(policy, run.algo, run.seed)
    collector = Collector(env, policy, rng.seed(run.seed, "env"), rng.generator(run.seed, "act"))
    test_env = make_from_config(run.env, 200)
    rows: list[dict[str, Any]] = []
    steps, cpu, stop = 0, 0.0, run.steps
    while steps < stop:
        begin = time.process_time()
        rollout, _ = collector.collect(run.algo.rollout)
        ppo.update(rollout, min(steps / run.steps, 1.0))
        cpu += time.process_time() - begin
        steps += run.algo.num_envs * run.algo.rollout
        if cpu <= SECONDS:
            stop = steps + FURTHER
        if ppo.updates % every == 0 or steps >= stop:
            greedy, sampled = (evaluate(policy, test_env, 200, run.seed, greedy).success for greedy in (True, False))
            rows.append({"steps": steps, "cpu": cpu, "greedy": greedy, "sampled": sampled})
    return rows


def peer(seed: int, steps: int, keep_going: bool) -> dict[str, Any]:
    arguments = ["--env", "tmaze:10", "--seed", str(seed), "--max-steps", str(steps), *["--keep-going"] * keep_going]
    return run_program(str(PEER), *arguments)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--every", type=int, default=10, help="updates between two tests")
    parser.add_argument("--peer-seeds", type=int, default=2)
    parser.add_argument("--peer-steps", type=int, default=160_000)
    arguments, overrides = parser.parse_known_args()
    configure_process(threads=1)
    print(
        "| agent, seed | at 20 CPU-s: steps | greedy | sampled | worst greedy after | final greedy | final sampled | end |"
    )
    print("|---|---|---|---|---|---|---|---|")
    for seed in range(arguments.seeds):
        rows = checks(
            parse(with_overrides(["env=tmaze", "steps=450000"], [f"seed={seed}", *overrides])), arguments.every
        )
        early = [row for row in rows if row["cpu"] <= SECONDS][-1]
        later = [row for row in rows if row["steps"] > early["steps"]]
        print(
            f"| rmt_rl, {seed} | {early['steps']:,} | {early['greedy']:.3f} | {early['sampled']:.3f} | "
            f"{min(row['greedy'] for row in later):.3f} | {rows[-1]['greedy']:.3f} | {rows[-1]['sampled']:.3f} | "
            f"{rows[-1]['steps']:,} |",
            flush=True,
        )
    for seed in range(arguments.peer_seeds):
        r = peer(seed, arguments.peer_steps, keep_going=True)
        first = r["confirmed"] or {"steps": 0, "cpu": float("nan")}
        print(
            f"| sb3-contrib, {seed} | solved at {first['steps']:,} ({first['cpu']:.1f} CPU-s) | - | - | - | "
            f"{r['eval']['det']:.3f} | {r['eval']['sampled']:.3f} | {r['steps']:,} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
