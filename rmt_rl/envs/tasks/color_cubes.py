"""Color-Cubes: walk to the cube of a given color, whose place was shown some steps ago, over and over.

Memory: the place of the target, which is replaced with every phase. It does not move within one, so other cubes only distract.
Source: "Color-Cubes" of arXiv 2601.15086, from its text; its code is not public, so the rules marked with * are ours.
"""

from __future__ import annotations

from types import MappingProxyType
from typing import Any

import gymnasium
import numpy as np
import torch

from rmt_rl.common.rng import counter_bits
from rmt_rl.common.state import check_tensor
from rmt_rl.envs.episodic import EpisodicEnv, State, at, draws

LEFT, RIGHT, UP, DOWN = range(4)
#: Names of colors, for pictures and texts; further cubes have numbers.
COLORS = ("red", "green", "blue", "orange", "purple", "brown", "pink", "olive")


class ColorCubes(EpisodicEnv):
    """A room of size x size cells with `cubes` cubes of different colors. In each of `phases` phases one of them is the target.

    A phase begins with the full state and the color of the target. The agent reaches the target by stepping into its cell; the
    target is then moved to another cell, and the next phase begins with a new one. While the agent walks, after every step that
    reaches nothing, with probability `teleport` one of the other cubes is moved to another cell, and the full state is shown
    once, without the color of the target. `hide_colors` shows the cells of the cubes then, and not which is where ("extreme" in
    the paper).

    observation [2 size + cubes + cubes size^2 (+ size^2 with hide_colors)] float32, of zeros and ones: row and column of the
        agent*; the color of the target, in the first step of a phase only; for every cube the cell in which it is, where the
        state is shown; with `hide_colors` the cells of all cubes, where it is shown without colors.
    actions: 0 left, 1 right, 2 up, 3 down*; a move into a wall leaves the agent where it is.
    reward: 1 for reaching the target. The episode is truncated after 2 (size - 1) `phases` steps*, enough for every walk from
        corner to corner.
    success: the target was reached in all phases. info["phases"]: [B] phases completed, as a share of all.
    The agent may stand in the cell of another cube*, which has no effect. Cubes are moved to any cell without a cube in which
    the agent is not, with equal probability; the cube that is moved, and the target of every phase, are drawn evenly*.
    `hidden` is the row and column of the target, which changes with the phase.

    The paper calls cubes=1 phases=1 trivial; it does not state size, cubes, phases and probability of its other two cases.
    The floor is not known: a policy without memory sees its own place, and may walk through as many cells as it has steps.
    Ceiling 1: the target itself never moves within a phase.
    """

    episode_steps = None  # every episode ends by itself
    floor = None
    ceiling = 1.0
    action_names = ("left", "right", "up", "down")

    def __init__(
        self,
        num_envs: int,
        device: str | torch.device = "cpu",
        *,
        size: int = 5,
        cubes: int = 3,
        phases: int = 3,
        teleport: float = 0.1,
        hide_colors: bool = False,
    ) -> None:
        self.size, self.cubes, self.phases, self.teleport, self.hides = size, cubes, phases, teleport, hide_colors
        self.cells = size**2
        shown = 2 * size + cubes + (cubes + hide_colors) * self.cells
        super().__init__(num_envs, device, gymnasium.spaces.Box(0.0, 1.0, (shown,), np.float32), 4)
        self.limit = 2 * (size - 1) * phases
        self.hidden_values = MappingProxyType(
            dict.fromkeys(("target row", "target column"), tuple(map(str, range(size))))
        )
        plural = "s" if cubes > 1 else ""
        self.task = f"color cubes: reach the right one of {cubes} cube{plural} on {size} x {size} cells, {phases} times"

    def _begin(self, key_B: torch.Tensor) -> State:
        order = draws(key_B, 0, self.cells).argsort(1)  # all cells in a random order
        start = torch.ones_like(key_B, dtype=torch.bool)
        return {
            "place": order[:, : self.cubes],
            "agent": order[:, self.cubes],
            "target": draws(key_B, self.cells, 1)[:, 0] % self.cubes,
            "phase": torch.zeros_like(key_B),
            "told": start,
            "moved": ~start,
        }

    def _advance(self, state: State, action_B: torch.Tensor) -> tuple[State, torch.Tensor, torch.Tensor, State]:
        agent, place, target = self._walk(state["agent"], action_B), state["place"], state["target"]
        reached = agent == at(place, target)
        phase = state["phase"] + reached
        terminated = phase == self.phases
        # a cube that was reached is moved, or by chance one of the others
        first = self.cells + 1 + 4 * state["t"]  # the numbers before are those of the start
        chance, which, where, color = (counter_bits(state["key"], first + i) for i in range(4))
        by_chance = ~reached & (chance / 2**63 < self.teleport) & (self.cubes > 1)
        other = (target + 1 + which % max(1, self.cubes - 1)) % self.cubes
        cube = torch.where(reached, target, other)
        new = torch.where(reached | by_chance, self._free(place, agent, where), at(place, cube))
        changes = {
            "place": place.scatter(1, cube[:, None], new[:, None]),
            "agent": agent,
            "target": torch.where(reached, color % self.cubes, target),
            "phase": phase,
            "told": reached,
            "moved": by_chance,
        }
        return changes, reached.double(), terminated, {"success": terminated, "phases": phase.double() / self.phases}

    def _walk(self, agent_B: torch.Tensor, action_B: torch.Tensor) -> torch.Tensor:
        """The cell after a move."""
        row = agent_B // self.size - (action_B == UP).long() + (action_B == DOWN).long()
        column = agent_B % self.size - (action_B == LEFT).long() + (action_B == RIGHT).long()
        return row.clamp(0, self.size - 1) * self.size + column.clamp(0, self.size - 1)

    def _free(self, place_BN: torch.Tensor, agent_B: torch.Tensor, random_B: torch.Tensor) -> torch.Tensor:
        """A cell without a cube and without the agent, drawn with a random number."""
        taken = self._map(torch.cat([place_BN, agent_B[:, None]], dim=1)).any(1)
        number = (~taken).cumsum(1)  # free cells up to each cell
        wanted = random_B % number[:, -1]
        return (number <= wanted[:, None]).sum(1)

    def _map(self, cell_BN: torch.Tensor) -> torch.Tensor:
        """[B, N, cells] true at each of N cells."""
        return cell_BN[..., None] == torch.arange(self.cells, device=cell_BN.device)

    def _truncates(self, state: State) -> torch.Tensor:
        return state["t"] >= self.limit

    def _answer(self, state: State) -> torch.Tensor:
        """First along the row, then along the column."""
        target = at(state["place"], state["target"])
        right = target % self.size - state["agent"] % self.size
        down = target // self.size - state["agent"] // self.size
        along = torch.where(right > 0, RIGHT, LEFT)
        return torch.where(right != 0, along, torch.where(down > 0, DOWN, UP))

    def _hidden(self, state: State) -> State:
        target = at(state["place"], state["target"])
        return {"target row": target // self.size, "target column": target % self.size}

    def _shown(self, state: State) -> State:
        return dict.fromkeys(("target row", "target column"), state["told"])

    def _in_words(self, state: State) -> str:
        phase, target = int(state["phase"]), color_name(int(state["target"]))
        return f"phase {min(phase + 1, self.phases)} of {self.phases}; the target is {target}"

    def _observe(self, state: State) -> torch.Tensor:
        told, moved, agent = state["told"], state["moved"], state["agent"]
        steps = torch.arange(self.size, device=agent.device)
        color = torch.arange(self.cubes, device=agent.device) == state["target"][:, None]
        cubes = self._map(state["place"])
        in_color = told if self.hides else told | moved
        parts = [
            agent[:, None] // self.size == steps,
            agent[:, None] % self.size == steps,
            color & told[:, None],
            (cubes & in_color[:, None, None]).flatten(1),
        ]
        if self.hides:
            parts.append(cubes.any(1) & moved[:, None])
        return torch.cat(parts, dim=1).float()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        ends = {"place": self.cells - 1, "agent": self.cells - 1, "target": self.cubes - 1, "phase": self.phases - 1}
        for name, end in ends.items():
            if name in state:
                check_tensor(name, state[name], state[name], 0, end)
        super().load_state_dict(state)


def color_name(cube: int) -> str:
    """The name of the color of a cube, by its number."""
    return COLORS[cube] if cube < len(COLORS) else f"color {cube + 1}"
