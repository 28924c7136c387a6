"""Color-Cubes against a plain-Python implementation, its pictures, its limit of steps, and what its memory is needed for."""

import pytest
import torch
from pure_python import follow

from rmt_rl.common.errors import ConfigError
from rmt_rl.config import ColorCubesConfig
from rmt_rl.envs.registry import make_env, make_from_config
from rmt_rl.envs.tasks.color_cubes import ColorCubes

VARIANTS = [
    {"size": 3, "cubes": 1, "phases": 1},
    {"size": 3, "cubes": 3, "phases": 2, "teleport": 0.5},
    {"size": 4, "cubes": 2, "phases": 3, "teleport": 0.4, "hide_colors": True},
]


class Room:
    """Cells are (row, column). `draw(i)` decides the places, then the target, then four numbers for every step."""

    def __init__(self, draw, size=5, cubes=3, phases=3, teleport=0.1, hide_colors=False):
        self.draw, self.size, self.phases, self.teleport, self.hides = draw, size, phases, teleport, hide_colors
        self.cells = [(row, column) for row in range(size) for column in range(size)]
        order = sorted(range(len(self.cells)), key=draw)
        self.place, self.agent = [self.cells[i] for i in order[:cubes]], self.cells[order[cubes]]
        self.target = draw(len(self.cells)) % cubes
        self.phase, self.time, self.told, self.moved = 0, 0, True, False

    def observation(self):
        size, seen = self.size, []
        seen += [float(row == self.agent[0]) for row in range(size)]
        seen += [float(column == self.agent[1]) for column in range(size)]
        seen += [float(self.told and cube == self.target) for cube in range(len(self.place))]
        in_color = self.told or (self.moved and not self.hides)
        for place in self.place:
            seen += [float(in_color and cell == place) for cell in self.cells]
        if self.hides:
            seen += [float(self.moved and cell in self.place) for cell in self.cells]
        return seen

    def good(self):
        (row, column), (to_row, to_column) = self.agent, self.place[self.target]
        if column != to_column:
            return 1 if to_column > column else 0
        return 3 if to_row > row else 2

    def step(self, action):
        chance, which, where, color = (self.draw(len(self.cells) + 1 + 4 * self.time + i) for i in range(4))
        self.time += 1
        row, column = self.agent
        moved = [(row, column - 1), (row, column + 1), (row - 1, column), (row + 1, column)][action]
        self.agent = moved if moved in self.cells else self.agent
        free = [cell for cell in self.cells if cell not in self.place and cell != self.agent]
        self.told = self.agent == self.place[self.target]
        others = [(self.target + 1 + i) % len(self.place) for i in range(len(self.place) - 1)]
        self.moved = not self.told and bool(others) and chance / 2**63 < self.teleport
        if self.told:
            self.phase += 1
            self.place[self.target] = free[where % len(free)]
            self.target = color % len(self.place)
        elif self.moved:
            self.place[others[which % len(others)]] = free[where % len(free)]
        over = self.phase == self.phases
        return float(self.told), over, over


@pytest.mark.parametrize("options", VARIANTS, ids=str)
def test_every_step_follows_the_rules(options):
    env = ColorCubes(8, **options)
    env.limit = 10_000  # cut episodes are tested below
    successes, failures = follow(env, lambda draw: Room(draw, **options), 1_500)
    assert successes > 20 and failures == 0  # an episode ends with its last target


def test_an_expert_reaches_every_target_in_time_even_from_corner_to_corner():
    env = ColorCubes(200, size=3, cubes=2, phases=3, teleport=0.5)
    longest = 0
    env.reset(seed=0)
    for _ in range(60):
        _, _, terminated, truncated, info = env.step(env.oracle())
        assert torch.equal(terminated, info["success"]) and not bool(truncated.any())
        longest = max(longest, int(env.state_dict()["t"].max()))
    assert 6 <= longest <= env.limit == 12


def test_an_episode_is_cut_after_its_limit():
    env = ColorCubes(1, size=5, phases=2, teleport=0.0)
    env.reset(seed=0)
    into_a_wall = torch.tensor([0])
    truncated = [bool(env.step(into_a_wall)[3]) for _ in range(16)]
    assert truncated == [False] * 15 + [True]


def test_cubes_never_share_a_cell_and_the_target_stays_within_a_phase():
    env = ColorCubes(100, size=3, cubes=5, phases=4, teleport=1.0)
    env.reset(seed=1)
    before = env.state_dict()
    for _ in range(12):
        _, _, terminated, truncated, _ = env.step(env.oracle())
        state = env.state_dict()
        assert bool((state["place"].sort(1).values.diff(dim=1) > 0).all())
        walks = ~(terminated | truncated | state["told"])
        assert torch.equal(state["target"][walks], before["target"][walks])
        at_target = (place.gather(1, state["target"][:, None])[walks] for place in (before["place"], state["place"]))
        assert torch.equal(*at_target)
        assert bool(state["moved"][walks].all())
        changed = (state["place"] != before["place"]).sum(1)
        assert bool((changed[walks] == 1).all())
        before = state


def test_a_walk_through_all_cells_without_memory_succeeds_as_often_as_by_hand():
    """A round of 16 cells meets a new target after 1 to 15 steps, all equally likely; three of them sum to at most 18 steps in
    (C(18, 3) - 3) / 15^3 = 0.241 of the cases."""
    env = ColorCubes(1_000, size=4, cubes=1, phases=3)
    obs, _ = env.reset(seed=0)
    running, wins = torch.ones(1_000, dtype=torch.bool), 0
    while bool(running.any()):
        row, column = obs[:, :4].argmax(1), obs[:, 4:8].argmax(1)
        right, left = (row % 2 == 0) & (column < 3), (row == 3) | ((row % 2 == 1) & (column > 1))
        action = torch.where((column == 0) & (row > 0), 2, torch.where(right, 1, torch.where(left, 0, 3)))
        obs, _, terminated, truncated, info = env.step(action)
        wins += int((running & info["success"]).sum())
        running &= ~(terminated | truncated)
    assert wins / 1_000 == pytest.approx(813 / 15**3, abs=0.055)  # four standard deviations


def test_the_hidden_place_of_the_target_is_shown_when_a_phase_begins():
    env = make_env("color-cubes", 1, size=4, cubes=2, phases=2)
    env.reset(seed=0)
    env.load_state_dict(
        env.state_dict() | {"place": torch.tensor([[3, 9]]), "target": torch.tensor([1]), "agent": torch.tensor([8])}
    )
    assert {name: int(value) for name, value in env.hidden().items()} == {"target row": 2, "target column": 1}
    assert all(bool(value) for value in env.shown().values())
    assert env.in_words(0) == "phase 1 of 2; the target is green"
    env.step(torch.tensor([2]))
    assert not any(bool(value) for value in env.shown().values())
    assert env.names_of_hidden() == dict.fromkeys(("target row", "target column"), ("0", "1", "2", "3"))


@pytest.mark.parametrize(
    ("name", "value"), [("place", [[16, 0]]), ("place", [[-1, 0]]), ("agent", [16]), ("target", [2]), ("phase", [2])]
)
def test_a_state_outside_the_room_is_rejected(name, value):
    env = make_env("color-cubes", 1, size=4, cubes=2, phases=2)
    env.reset(seed=0)
    with pytest.raises(ValueError, match=f"^{name} has values out of range"):
        env.load_state_dict(env.state_dict() | {name: torch.tensor(value)})


def test_a_room_needs_a_free_cell():
    with pytest.raises(
        ConfigError, match=r"^env\.cubes=8: expected at most 7, so that a cell is free with env\.size=3"
    ):
        make_from_config(ColorCubesConfig(size=3, cubes=8), 1)
    make_from_config(ColorCubesConfig(size=3, cubes=7), 1).reset(seed=0)
