"""Success rates of policies without memory in DoorKey and RedBlueDoors, by exact search over all states."""

import importlib.util
import os
import sys
from pathlib import Path

import pytest
import torch

from rmt_rl.envs.minigrid.doors import DoorKey, RedBlueDoors


@pytest.fixture(scope="module")
def floors():
    path = Path(__file__).parents[2] / "experiments" / "proofs" / "minigrid_floors.py"
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = sys.modules[path.stem] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


SMALL = [(DoorKey, 5, 7), (RedBlueDoors, 4, 3)]


@pytest.mark.slow
@pytest.mark.parametrize(("cls", "size", "view"), SMALL)
def test_the_exact_success_rate_of_random_actions_is_that_of_the_environment(floors, cls, size, view):
    world, rows, max_steps = floors.door_world(lambda n: cls(n, size=size, view=view)), 4_000, 60
    actions = world.next.shape[1]
    exact = float(floors.success_rate(world, torch.full((1, *world.next.shape), 1 / actions).double(), max_steps))
    env, generator = cls(rows, size=size, view=view), torch.Generator().manual_seed(0)
    env.reset(seed=0)
    running, won = torch.ones(rows, dtype=torch.bool), torch.zeros(rows, dtype=torch.bool)
    for _ in range(max_steps):
        _, _, terminated, _, info = env.step(torch.randint(actions, (rows,), generator=generator))
        won, running = won | (running & info["success"]), running & ~terminated
    assert float(won.double().mean()) == pytest.approx(exact, abs=4 * (exact * (1 - exact) / rows) ** 0.5)


@pytest.mark.slow
@pytest.mark.parametrize(("cls", "size", "view"), SMALL if "RMT_RL_FAULTS" in os.environ else SMALL[:1])
def test_a_policy_without_memory_solves_the_smallest_rooms(floors, cls, size, view):
    world = floors.door_world(lambda n: cls(n, size=size, view=view))
    assert floors.climb(world, cls(1, size=size).max_steps, runs=1) > 0.97
