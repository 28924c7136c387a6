"""Success on MiniGrid-Memory of random actions, of the best policy without memory, and of perfect memory: a markdown table.

    python experiments/proofs/minigrid_floors.py     (minutes; the numbers in FLOORS of the environment come from it)

All numbers are computed from the exact tables of `rmt_rl.envs.minigrid.memory`; none is sampled:

- uniform: success of uniformly random actions within max_steps.
- without memory: success of the best stochastic policy on (image, direction) within max_steps, one policy for all
  corridor lengths. Where every length hides the cue from the fork, 1/2 is proven (see the class's docstring for "at
  most") and attained (here, by "forward, and left where a wall is ahead"). Elsewhere it is the best of several runs of
  gradient ascent on the exact success rate: a lower bound, with an upper bound beside it that counts 1 for every
  corridor length whose fork shows the cue and 1/2 for the others.
- with memory: the fewest expected steps of a policy that never errs, by search over all beliefs, and what it returns.

DoorKey and RedBlueDoors, whose grids change, are small enough for the same computation in their smallest sizes: every
reachable state is found with the direct stepper. Gradient ascent without memory comes close to 1, so they are not
memory tasks.

This file does not evaluate trained policies.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator
from math import lcm, prod
from typing import Any, NamedTuple
from unittest import mock

import numpy as np
import torch

from rmt_rl.envs.minigrid import doors as minigrid_doors
from rmt_rl.envs.minigrid.direct import ACTIONS, EMPTY, MiniGridDirect
from rmt_rl.envs.minigrid.doors import DoorKey, RedBlueDoors
from rmt_rl.envs.minigrid.memory import RANDOM_SIZES, SIZES, WALL, Tables, tables

Belief = frozenset[tuple[int, int]]  # (state, weight) of every state that is possible


class World(NamedTuple):
    """All states of a task. The first `num_success` end with success, the first `num_terminal` end.

    next: [states, actions] the state after each action. observation: [states] the number of what a state shows.
    start: [states] how likely an episode begins there.
    """

    next: torch.Tensor
    observation: torch.Tensor
    start: torch.Tensor
    num_success: int
    num_terminal: int


def memory_world(table: Tables) -> World:
    states = len(table.next)
    start = torch.zeros(states, dtype=torch.float64)
    for h, starts in enumerate(table.starts, start=table.shortest):
        start[torch.from_numpy(starts[:h].flatten())] = 1 / (len(table.starts) * 4 * h)
    return World(
        table.next, numbers(table.image, torch.arange(states) % 4), start, table.num_success, table.num_terminal
    )


def numbers(image: torch.Tensor, direction: torch.Tensor) -> torch.Tensor:
    """[states] the number of the (image, direction) that a state shows."""
    rows = torch.cat([image.flatten(1).long(), direction[:, None]], dim=1)
    return torch.unique(rows, dim=0, return_inverse=True)[1]


class Branch:
    """A random generator whose draws are those of `path`, and the lowest value after its end."""

    def __init__(self, path: list[int]) -> None:
        self.path = path
        self.sizes: list[int] = []

    def integers(self, low: int, high: int) -> int:
        if len(self.sizes) == len(self.path):
            self.path.append(0)
        self.sizes.append(high - low)
        return low + self.path[len(self.sizes) - 1]


def all_draws(draw: Callable[[Any], Any]) -> Iterator[tuple[float, Any]]:
    """Every outcome of `draw(generator)` with its probability."""
    path: list[int] = []
    while True:
        branch = Branch(path)
        outcome = draw(branch)
        yield 1 / prod(branch.sizes), outcome
        while path and path[-1] + 1 == branch.sizes[len(path) - 1]:
            path.pop()
        if not path:
            return
        path[-1] += 1


def place_at_once(
    branch: Any, grid: np.ndarray, left: int, right: int, agent: tuple[int, int] | None = None
) -> tuple[int, int]:
    """`rmt_rl.envs.minigrid.direct.place` without its rejections: one draw from the cells at which they end."""
    free = [(left + int(x), int(y)) for x, y in np.argwhere(grid[left:right] == EMPTY)]
    free = [cell for cell in free if cell != agent]
    return free[branch.integers(0, len(free))]


def door_world(make: Callable[[int], MiniGridDirect]) -> World:
    """Every state of a task on the direct stepper that can be reached; state 0 is success, state 1 any other end."""
    parts = ("grid", "position", "direction", "carrying")
    start: dict[bytes, float] = defaultdict(float)
    states: dict[bytes, list[torch.Tensor]] = {}

    def collect(state: dict[str, Any], row: int) -> bytes:
        values = [state[part][row] for part in parts]
        key = b"".join(value.numpy().tobytes() for value in values)
        states.setdefault(key, values)
        return key

    def begin(branch: Any) -> dict[str, Any]:
        env._generators = [branch]
        env._begin(torch.zeros(1, dtype=torch.int64))
        return {part: getattr(env, f"_{part}").clone() for part in parts}

    env = make(1)
    env.reset(seed=0)
    with mock.patch.object(minigrid_doors, "place", place_at_once):
        for probability, state in all_draws(begin):
            start[collect(state, 0)] += probability
    following: dict[bytes, list[bytes]] = {}
    images, directions, actions = [], [], len(ACTIONS)
    while todo := [key for key in states if key not in following]:
        env = make(len(todo) * actions)
        env.reset(seed=0)
        state = env.state_dict()
        for i, part in enumerate(parts):
            state[part] = torch.stack([states[key][i] for key in todo]).repeat_interleave(actions, dim=0)
        env.load_state_dict(state)
        shown = env._observe(torch.arange(0, env.num_envs, actions))
        images.append(shown["image"])
        directions.append(shown["direction"])
        _, _, terminated, _, info = env.step(torch.arange(actions).repeat(len(todo)))
        after = env.state_dict()
        ends = [
            b"success" if win else b"failure" if end else b""
            for win, end in zip(info["success"], terminated, strict=True)
        ]
        rows = [end or collect(after, row) for row, end in enumerate(ends)]
        following |= {key: rows[i * actions : (i + 1) * actions] for i, key in enumerate(todo)}
    number = {b"success": 0, b"failure": 1} | {key: i + 2 for i, key in enumerate(following)}
    table = torch.tensor([[0] * actions, [1] * actions, *([number[k] for k in row] for row in following.values())])
    weight = torch.zeros(len(table), dtype=torch.float64)
    for key, probability in start.items():
        weight[number[key]] = probability
    observation = numbers(torch.cat(images), torch.cat(directions))
    return World(table, torch.cat([torch.zeros(2, dtype=torch.int64), observation]), weight, 1, 2)


def success_rate(world: World, policy: torch.Tensor, max_steps: int) -> torch.Tensor:
    """[runs] exact success within max_steps; policy: [runs, states, actions], the rest of the probability does nothing."""
    state = torch.arange(len(world.next))
    right, ended = (state < world.num_success).double(), state < world.num_terminal
    idle = 1 - policy.sum(-1)
    value = right.expand(len(policy), -1)
    for _ in range(max_steps):
        value = torch.where(ended, right, (policy * value[:, world.next]).sum(-1) + idle * value)
    return (value * world.start).sum(-1)


def climb(world: World, max_steps: int, runs: int, iterations: int = 300) -> float:
    """The best success rate that gradient ascent finds for a policy on what is seen."""
    generator = torch.Generator().manual_seed(0)
    shape = (runs, int(world.observation.max()) + 1, world.next.shape[1])
    logits = torch.randn(shape, generator=generator, dtype=torch.float64)
    optimizer = torch.optim.Adam([logits.requires_grad_()], lr=0.5)
    best = [0.0]
    for _ in range(iterations):
        rate = success_rate(world, logits.softmax(-1)[:, world.observation], max_steps)
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
    return float(success_rate(memory_world(table), policy[None], max_steps))


def fewest_steps(table: Tables) -> float:
    """Expected steps of the fastest policy with perfect memory that never goes to the wrong object.

    V(b) = min over actions of |b| + sum over observations of V(the part of b that fits it), by sweeps until nothing changes;
    beliefs carry weights that are not normalised, so |b| counts one step for every weight in b.
    """
    observation = memory_world(table).observation.tolist()
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
    world = memory_world(table)
    uniform = [
        float(success_rate(world, torch.full((1, len(table.next), 3), 1 / actions).double(), max_steps))
        for actions in (3, 7)
    ]
    hidden = table.fork_hides_cue
    lower = coin(table, max_steps) if hidden.all() else climb(world, max_steps, runs=2 if random else 8)
    upper = float(np.where(hidden, 0.5, 1.0).mean())
    steps = fewest_steps(table)
    name = f"S{size}{'Random' if random else ''}"
    return (
        f"| {name} | {view} | {uniform[0]:.3f} | {uniform[1]:.3f} | {lower:.3f} | {upper:.3f} | 1.000 "
        f"| {1 - 0.9 * steps / max_steps:.4f} | {steps:.2f} |"
    )


def describe_doors(cls: type[DoorKey] | type[RedBlueDoors], size: int, view: int) -> str:
    world, max_steps = door_world(lambda rows: cls(rows, size=size, view=view)), cls(1, size=size).max_steps
    uniform = float(success_rate(world, torch.full((1, *world.next.shape), 1 / len(ACTIONS)).double(), max_steps))
    found = climb(world, max_steps, runs=1)
    return f"| {cls.__name__} {size} | {view} | {len(world.next):,} | {uniform:.4f} | {found:.4f} |"


def main() -> None:
    torch.set_num_threads(1)
    print("| size | view | uniform, 3 actions | uniform, 7 | without memory | at most | with memory | return | steps |")
    print("|---|---|---|---|---|---|---|---|---|")
    for size, random in [*((size, False) for size in SIZES), *((size, True) for size in RANDOM_SIZES)]:
        for view in (3, 5, 7):
            print(describe(size, random, view), flush=True)
    print("\n| task | view | states | uniform, 7 actions | without memory |\n|---|---|---|---|---|")
    for cls, size in ((DoorKey, 5), (RedBlueDoors, 4), (RedBlueDoors, 6)):
        for view in (3, 7):
            print(describe_doors(cls, size, view), flush=True)


if __name__ == "__main__":
    main()
