"""What MiniGrid-Memory gives to chance, to the best policy without memory, and to perfect memory: a markdown table.

    python experiments/minigrid_floors.py            (minutes; the numbers in FLOORS of the environment come from it)

All numbers are computed from the exact tables of `rmt_rl.envs.minigrid_memory`, none is sampled:

- uniform: success of uniformly random actions within max_steps.
- without memory: success of the best stochastic policy on (image, direction) within max_steps, one policy for all
  corridor lengths. Where every length hides the cue from the fork, 1/2 is proven (see the class's docstring for "at
  most") and attained (here, by "forward, and left where a wall is ahead"). Elsewhere it is the best of several runs of
  gradient ascent on the exact success rate: a lower bound, with an upper bound beside it that counts 1 for every
  corridor length whose fork shows the cue and 1/2 for the others.
- with memory: the fewest expected steps of a policy that never errs, by search over all beliefs, and what it returns.

This file is not for the return of trained policies.
"""

from __future__ import annotations

from collections import defaultdict
from math import lcm

import numpy as np
import torch

from rmt_rl.envs.minigrid_memory import RANDOM_SIZES, SIZES, WALL, Tables, tables

Belief = frozenset[tuple[int, int]]  # (state, weight) of everything that may be the case


def start_weights(table: Tables) -> torch.Tensor:
    """[states] how likely an episode starts in each state."""
    weight = torch.zeros(len(table.next), dtype=torch.float64)
    for h, starts in enumerate(table.starts, start=table.shortest):
        weight[torch.from_numpy(starts[:h].flatten())] = 1 / (len(table.starts) * 4 * h)
    return weight


def observation_numbers(table: Tables) -> torch.Tensor:
    """[states] the number of the (image, direction) that a state shows."""
    direction = torch.arange(len(table.next))[:, None] % 4
    rows = torch.cat([table.image.flatten(1).long(), direction], dim=1)
    return torch.unique(rows, dim=0, return_inverse=True)[1]


def success_rate(table: Tables, policy: torch.Tensor, max_steps: int) -> torch.Tensor:
    """[runs] exact success within max_steps; policy: [runs, states, 3], what is missing to 1 does nothing."""
    right = torch.zeros(len(table.next), dtype=torch.float64)
    right[: table.num_success] = 1
    ended = torch.arange(len(right)) < table.num_terminal
    idle = 1 - policy.sum(-1)
    value = right.expand(len(policy), -1)
    for _ in range(max_steps):
        value = torch.where(ended, right, (policy * value[:, table.next]).sum(-1) + idle * value)
    return (value * start_weights(table)).sum(-1)


def climb(table: Tables, max_steps: int, runs: int, iterations: int = 300) -> float:
    """The best success rate that gradient ascent finds for a policy on (image, direction)."""
    observation = observation_numbers(table)
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(runs, int(observation.max()) + 1, 3, generator=generator, dtype=torch.float64)
    optimizer = torch.optim.Adam([logits.requires_grad_()], lr=0.5)
    best = [0.0]
    for _ in range(iterations):
        rate = success_rate(table, logits.softmax(-1)[:, observation], max_steps)
        best.append(max(best[-1], float(rate.detach().max())))
        if len(best) > 60 and best[-1] - best[-40] < 1e-5:
            break
        optimizer.zero_grad()
        (-rate.sum()).backward()
        optimizer.step()
    return best[-1]


def coin(table: Tables, max_steps: int) -> float:
    """Success of "forward, and left where a wall is ahead", a policy without memory."""
    view = table.image.shape[1]
    wall = table.image[:, view // 2, view - 2, 0] == WALL
    policy = torch.stack([wall, torch.zeros_like(wall), ~wall], dim=-1).double()
    return float(success_rate(table, policy[None], max_steps))


def fewest_steps(table: Tables) -> float:
    """Expected steps of the fastest policy with perfect memory that never goes to the wrong object.

    V(b) = min over actions of |b| + sum over observations of V(what is left of b), by sweeps until nothing changes;
    beliefs carry weights that are not normalised, so |b| counts one step for every weight in b.
    """
    observation = observation_numbers(table).tolist()
    following = table.next.tolist()
    lengths = range(table.shortest, table.shortest + len(table.starts))
    unit = lcm(*lengths)  # whole numbers for weights: x0 is uniform over h cells

    def split(weights: dict[int, int]) -> list[Belief]:
        parts: dict[int, dict[int, int]] = defaultdict(dict)
        for state, weight in weights.items():
            if state >= table.num_success:
                parts[observation[state]][state] = weight
        return [frozenset(part.items()) for part in parts.values()]

    first: dict[int, int] = {}
    for h, starts in zip(lengths, table.starts, strict=True):
        first |= {int(state): unit // h for state in starts[:h].flatten()}

    todo = split(first)
    children: dict[Belief, list[list[Belief]]] = {}
    while todo:
        belief = todo.pop()
        if belief in children:
            continue
        children[belief] = []
        for action in range(3):
            after: dict[int, int] = defaultdict(int)
            for state, weight in belief:
                after[following[state][action]] += weight
            if not any(table.num_success <= state < table.num_terminal for state in after):
                children[belief].append(split(after))
                todo += children[belief][-1]
    steps = dict.fromkeys(children, float("inf"))
    changed = True
    while changed:
        changed = False
        for belief in reversed(children):
            cost = sum(weight for _, weight in belief) + min(sum(steps[b] for b in part) for part in children[belief])
            if cost < steps[belief]:
                steps[belief], changed = cost, True
    return sum(steps[b] for b in split(first)) / sum(first.values())


def describe(size: int, random: bool, view: int) -> str:
    table, max_steps = tables(size, random, view), 5 * size**2
    uniform = [
        float(success_rate(table, torch.full((1, len(table.next), 3), 1 / actions).double(), max_steps))
        for actions in (3, 7)
    ]
    hidden = table.fork_hides_cue
    lower = coin(table, max_steps) if hidden.all() else climb(table, max_steps, runs=2 if random else 8)
    upper = float(np.where(hidden, 0.5, 1.0).mean())
    steps = fewest_steps(table)
    name = f"S{size}{'Random' if random else ''}"
    return (
        f"| {name} | {view} | {uniform[0]:.3f} | {uniform[1]:.3f} | {lower:.3f} | {upper:.3f} | 1.000 "
        f"| {1 - 0.9 * steps / max_steps:.4f} | {steps:.2f} |"
    )


def main() -> None:
    torch.set_num_threads(1)
    print("| size | view | uniform, 3 actions | uniform, 7 | without memory | at most | with memory | return | steps |")
    print("|---|---|---|---|---|---|---|---|---|")
    for size, random in [*((size, False) for size in SIZES), *((size, True) for size in RANDOM_SIZES)]:
        for view in (3, 5, 7):
            print(describe(size, random, view), flush=True)


if __name__ == "__main__":
    main()
