"""Options of the MiniGrid tasks. Each class is registered together with the environment that it configures."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from rmt_rl.common.errors import ConfigError
from rmt_rl.config.bases import EnvConfig
from rmt_rl.config.fields import option, show
from rmt_rl.config.registry import builtin

MINIGRID_IDS: dict[str, dict[str, Any]] = {
    "MiniGrid-MemoryS7-v0": {"size": 7, "random": False},
    "MiniGrid-MemoryS9-v0": {"size": 9, "random": False},
    "MiniGrid-MemoryS11-v0": {"size": 11, "random": False},
    "MiniGrid-MemoryS13-v0": {"size": 13, "random": False},
    "MiniGrid-MemoryS13Random-v0": {"size": 13, "random": True},
    "MiniGrid-MemoryS17Random-v0": {"size": 17, "random": True},
}


@builtin("env", "minigrid-memory", "rmt_rl.envs.minigrid.pixels:make_memory")
@dataclass(frozen=True)
class MiniGridMemoryConfig(EnvConfig):
    """MiniGrid-Memory: look at an object, walk to a fork, turn towards the same object."""

    id: str | None = option(
        None, "a registered id such as MiniGrid-MemoryS13Random-v0; sets size and random", choices=MINIGRID_IDS
    )
    size: int = option(7, "width and height of the grid: 7, 9, 11, 13 or 17", choices=(7, 9, 11, 13, 17))
    random: bool = option(False, "draw the length of the corridor anew for every episode (13 and 17 only)")
    view: int = option(
        3, "side of the square that the agent sees, odd; 7 is MiniGrid's own and makes S7 and S9 easy", low=3, high=99
    )
    actions: int = option(
        3, "3 = left, right, forward; 7 = all of MiniGrid's, four of which do nothing here", choices=(3, 7)
    )
    max_steps: int | None = option(
        None, "steps after which an episode is truncated; null = 5 * size^2, MiniGrid's own", low=1, high=10_000_000
    )
    tile: int = option(
        0, "side of a cell in pixels: the agent sees RGB pictures of (view x tile)^2; 0 = symbols", low=0, high=64
    )

    def problems(self) -> Iterator[str]:
        if self.view % 2 == 0:
            yield f"env.view={self.view}: expected an odd number; the agent stands in the middle"
        if self.random and self.size not in (13, 17):
            yield f"env.random=true: env.size={self.size} has no random corridor; expected env.size=13 or env.size=17"
        if self.id is not None and (self.size, self.random) != tuple(MINIGRID_IDS[self.id].values()):
            yield f"env.id={self.id}: contradicts env.size={self.size} and env.random={show(self.random)}; leave these out"

    @classmethod
    def complete(cls, given: Mapping[str, Any]) -> Mapping[str, Any]:
        """A registered id sets size and random; a size or random without an id removes the id of before."""
        if given.get("id") is None:
            return given if given.keys().isdisjoint(("size", "random")) else {**given, "id": None}
        implied = MINIGRID_IDS[given["id"]]
        for key, value in implied.items():
            if given.get(key, value) != value:
                raise ConfigError(
                    f"env.{key}={show(given[key])}: env.id={given['id']} means env.{key}={show(value)}; give only one of them"
                )
        return {**given, **implied}

    def arguments(self) -> dict[str, Any]:
        return {key: value for key, value in super().arguments().items() if key != "id"}


@builtin("env", "minigrid-doorkey", "rmt_rl.envs.minigrid.pixels:make_doorkey")
@dataclass(frozen=True)
class DoorKeyConfig(EnvConfig):
    """MiniGrid-DoorKey: fetch the key, unlock the door, reach the goal. A control: needs little memory."""

    size: int = option(8, "width and height of the grid; registered are 5, 6, 8 and 16", low=5, high=99)
    view: int = option(7, "side of the square that the agent sees, odd; 7 is MiniGrid's own", low=3, high=11)
    max_steps: int | None = option(
        None, "steps after which an episode is truncated; null = 10 * size^2, MiniGrid's own", low=1, high=10_000_000
    )
    tile: int = option(
        0, "side of a cell in pixels: the agent sees RGB pictures of (view x tile)^2; 0 = symbols", low=0, high=64
    )

    def problems(self) -> Iterator[str]:
        if self.view % 2 == 0:
            yield f"env.view={self.view}: expected an odd number; the agent stands in the middle"


@builtin("env", "minigrid-redbluedoors", "rmt_rl.envs.minigrid.pixels:make_redbluedoors")
@dataclass(frozen=True)
class RedBlueDoorsConfig(EnvConfig):
    """MiniGrid-RedBlueDoors: open the red door, then the blue one. A control: solvable without memory."""

    size: int = option(8, "height of the grid, even; registered are 6 and 8", low=4, high=98)
    view: int = option(7, "side of the square that the agent sees, odd; 7 is MiniGrid's own", low=3, high=11)
    max_steps: int | None = option(
        None, "steps after which an episode is truncated; null = 20 * size^2, MiniGrid's own", low=1, high=10_000_000
    )
    tile: int = option(
        0, "side of a cell in pixels: the agent sees RGB pictures of (view x tile)^2; 0 = symbols", low=0, high=64
    )

    def problems(self) -> Iterator[str]:
        if self.view % 2 == 0:
            yield f"env.view={self.view}: expected an odd number; the agent stands in the middle"
        if self.size % 2:
            yield f"env.size={self.size}: expected an even number; the room is the middle half"
