"""How long trained policies hold the cue of a T-maze: one walk of millions of steps, tested at many lengths on the way.

An agent that never loses a step sees the same observations whatever its policy is. So a memory can read the corridor through
`unroll`, which equals acting step by step and is much faster. At every length, each row is also shown the junction that an
episode of that length has there. It passes where its turn is the correct one and all its greedy actions before were steps to
the right, because a lost step is a lost episode.

    python experiments/learning/long_walks.py POLICY [POLICY ...] [--lengths 1000 1000000] [--rows 64] [--seed 1000000]

POLICY is the policy folder of a run with env=tmaze; its own `distractors` are used. Every line is printed as JSON.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence

import torch

import rmt_rl
from rmt_rl.common.errors import ConfigError
from rmt_rl.envs.tmaze.passive import RIGHT, TMaze, turn
from rmt_rl.policies.actor_critic import ActorCritic

LENGTHS = (1_000, 10_007, 100_003, 1_000_000)
#: The most steps that are unrolled at once.
PIECE = 1_000


class Corridor(TMaze):
    """The same few corridors without end, of which any cells can be seen at once."""

    def __init__(self, rows: int, distractors: bool, seed: int) -> None:
        super().__init__(rows, length=10**9, distractors=distractors)
        self.reset(seed=seed)
        self.goals, self._keys = self._goal, self._seed

    def cells(self, start: int, end: int) -> torch.Tensor:
        """[B, T, ...] what an agent sees at the cells start..end - 1; cell 0 shows the cue."""
        count = end - start
        assert self._keys is not None
        self._seed, self._goal = (x.repeat_interleave(count) for x in (self._keys, self.goals))
        self._t = self._x = torch.arange(start, end).repeat(self.num_envs)
        self._episode = self._y = torch.zeros_like(self._x)
        self._length = torch.full_like(self._x, self.longest)
        return self._observe().unflatten(0, (self.num_envs, count))


@torch.no_grad()
def walk(
    policy: ActorCritic, lengths: Sequence[int] = LENGTHS, rows: int = 64, seed: int = 1_000_000
) -> dict[str, float]:
    """Length -> share of `rows` episodes of that length that end with success."""
    task, memory = policy.spec.env, policy.spec.memory
    plain = task.name == "tmaze" and not task.end_at_turn and memory.scope == "episode" and policy.spec.returns is None
    if not plain or not lengths or min(lengths) < 1 or rows < 1 or seed < 0:
        raise SystemExit(
            "expected a policy of env=tmaze with end_at_turn=false, memory.scope=episode and without a target return, lengths and"
            " rows from 1 on, and a seed from 0 on"
        )
    corridor = Corridor(rows, bool(task.distractors), seed)
    state, straight, step = policy.initial_state(rows, critic=True), torch.ones(rows, dtype=torch.bool), 0
    success = {}
    for length in sorted(lengths):
        while step < length:
            end = min(length, step + PIECE)
            seen, first = corridor.cells(step, end), torch.zeros(rows, end - step, dtype=torch.bool)
            first[:, 0] = step == 0
            rights = torch.full(first.shape, RIGHT)
            parameters, _, state = policy.unroll(seen, rights, state, first)
            straight &= (policy.head.mode(parameters) == RIGHT).all(1)
            step = end
        junction = corridor.cells(length, length + 1)[:, 0].clone()
        junction[:, 0] = 1
        turned, _ = policy.act(junction, state, torch.zeros(rows, dtype=torch.bool), deterministic=True)
        success[f"{length:,}"] = float((straight & (turned == turn(corridor.goals))).double().mean())
    return success


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("policies", nargs="+")
    parser.add_argument("--lengths", nargs="+", type=int, default=list(LENGTHS))
    parser.add_argument("--rows", type=int, default=64)
    parser.add_argument("--seed", type=int, default=1_000_000, help="of the first row; the others follow")
    arguments = parser.parse_args()
    for folder in arguments.policies:
        started = time.process_time()
        try:
            policy = rmt_rl.load_policy(folder)
        except ConfigError as error:
            sys.exit(str(error))
        success = walk(policy, arguments.lengths, arguments.rows, arguments.seed)
        ups = int((Corridor(arguments.rows, False, arguments.seed).goals > 0).sum())
        found = {"policy": folder, "success": success, "up": ups, "down": arguments.rows - ups}
        print(json.dumps({**found, "cpu_s": round(time.process_time() - started)}), flush=True)


if __name__ == "__main__":
    main()
