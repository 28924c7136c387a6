"""Twenty updates of small learners, by this process alone or by those that torchrun started; the weights go to a folder.

Run by `test_processes.py`: python share_rows.py <folder>, alone with minibatches drawn as for two processes.
"""

import contextlib
import sys
from pathlib import Path

import torch

from rmt_rl.common.ranks import Ranks, joined
from rmt_rl.config.cli import parse
from rmt_rl.runs.setup import build_learner

SMALL = ["algo.num_envs=8", "algo.rollout=16", "algo.minibatches=2", "algo.epochs=2", "policy.width=16"]
TMAZE = ["env=tmaze", "env.min_length=2", "env.length=5", *SMALL]
CASES = {
    "rmt": [
        *TMAZE,
        "policy.heads=2",
        "policy.write_cost=0",
        "memory.carry=0.5",
        "memory.ramp=steps",
        "memory.ramp_end=0.01",
    ],
    "trxl": [*TMAZE, "policy=trxl", "policy.heads=2", "policy.cache=4", "algo.normalize_reward=true"],
    "lstm": ["env=minigrid-memory", "policy=lstm", *SMALL],
    "normalised": ["env=gym", "env.id=CartPole-v1", "policy=gru", "policy.normalize_observation=true", *SMALL],
    "reals": ["env=gym", "env.id=Pendulum-v1", "policy=mlp", "algo.noise_correlation=0.5", *SMALL],
    "centroids": [*TMAZE, "policy=routing", "policy.heads=2"],
}


def weights_after(options: list[str], ranks: Ranks, updates: int = 20) -> torch.Tensor:
    with contextlib.ExitStack() as stack:
        learner = build_learner(parse(options), ranks, stack).learner
        for update in range(updates):
            learner.update(learner.collect(update / updates), update / updates)
        return torch.cat([x.flatten().double() for x in learner.policy.state_dict().values()])


def main(folder: Path) -> None:
    with joined() as ranks:
        of = Ranks(shares=2) if ranks.count == 1 else ranks
        found = {name: weights_after(options, of) for name, options in CASES.items()}
        torch.save(found, folder / f"{ranks.number}-of-{ranks.count}.pt")


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(Path(sys.argv[1]))
