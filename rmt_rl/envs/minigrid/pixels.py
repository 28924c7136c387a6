"""MiniGrid tasks with RGB images as observations, equal to those of `RGBImgPartialObsWrapper` of `minigrid`.

An image is one gather in a table of tiles. The `minigrid` package draws the tiles once, so this file needs it, unlike the
tasks. Pictures of the whole world are in `rmt_rl/envs/drawing.py`.
"""

from __future__ import annotations

import importlib.util
from functools import lru_cache
from typing import Any

import gymnasium
import numpy as np
import torch

from rmt_rl.common.errors import ConfigError
from rmt_rl.envs.base import Obs, TorchVectorEnv
from rmt_rl.envs.minigrid.doors import DoorKey, RedBlueDoors
from rmt_rl.envs.minigrid.memory import MiniGridMemory

#: Index of the first tile with the agent on it; the 256 tiles without the agent come first.
AGENT = 256


def make_memory(num_envs: int, device: str | torch.device = "cpu", *, tile: int = 0, **options: Any) -> TorchVectorEnv:
    """env=minigrid-memory; with images where `tile` is not 0."""
    return _with_tiles(MiniGridMemory(num_envs, device, **options), tile)


def make_doorkey(num_envs: int, device: str | torch.device = "cpu", *, tile: int = 0, **options: Any) -> TorchVectorEnv:
    """env=minigrid-doorkey; with images where `tile` is not 0."""
    return _with_tiles(DoorKey(num_envs, device, **options), tile)


def make_redbluedoors(
    num_envs: int, device: str | torch.device = "cpu", *, tile: int = 0, **options: Any
) -> TorchVectorEnv:
    """env=minigrid-redbluedoors; with images where `tile` is not 0."""
    return _with_tiles(RedBlueDoors(num_envs, device, **options), tile)


def _with_tiles(env: TorchVectorEnv, tile: int) -> TorchVectorEnv:
    return MiniGridPixels(env, tile) if tile else env


class MiniGridPixels(TorchVectorEnv):
    """`env`, a MiniGrid task of this package, with images instead of symbols.

    obs["image"]: [B, view * tile, view * tile, 3] uint8, rows from top to bottom, with the agent at the bottom center facing up
    Everything else is that of `env`. `symbols` is the latest observation of `env`.
    """

    episode_steps = None

    def __init__(self, env: TorchVectorEnv, tile: int) -> None:
        if importlib.util.find_spec("minigrid") is None:
            raise ConfigError(
                f"env.tile={tile}: needs the package minigrid, which draws the tiles; pip install minigrid"
            )
        space: Any = env.single_observation_space
        self.view = space["image"].shape[0]
        side = self.view * tile
        image = gymnasium.spaces.Box(0, 255, (side, side, 3), np.uint8)
        entries = {**space.spaces, "image": image}
        super().__init__(env.num_envs, env.device, gymnasium.spaces.Dict(entries), env.single_action_space)
        self.env, self.tile = env, tile
        self.floor, self.ceiling, self.measure = env.floor, env.ceiling, env.measure
        self.task, self.action_names = f"{env.task}, images of {side} x {side} pixels", env.action_names
        self._tiles = torch.from_numpy(_tiles(tile)).to(self.device)
        # object, color and state as one number, and an offset at the agent's cell
        self._weight = torch.tensor([18, 3, 1], device=self.device)
        self._agent = torch.zeros(self.view, self.view, dtype=torch.int64, device=self.device)
        self._agent[self.view // 2, self.view - 1] = AGENT

    def reset(
        self, *, seed: int | list[int] | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Obs, dict[str, Any]]:
        obs, info = self.env.reset(seed=seed, options=options)  # type: ignore[arg-type]  # gymnasium's says int, its code lists too
        self.symbols = obs
        return self._drawn(obs), info

    def step(self, action_B: torch.Tensor) -> tuple[Obs, torch.Tensor, torch.Tensor, torch.Tensor, dict[str, Any]]:
        obs, reward, terminated, truncated, info = self.env.step(action_B)
        new = self._drawn(obs)
        # the final observation differs only where an episode ended
        over = info["_final_obs"].nonzero().squeeze(1)
        last = self._drawn({name: part[over] for name, part in info["final_obs"].items()})
        final = {name: new[name].index_copy(0, over, last[name]) for name in new} if len(over) else new
        self.symbols = obs
        return new, reward, terminated, truncated, {**info, "final_obs": final}

    def oracle(self) -> torch.Tensor:
        return self.env.oracle()

    def asks(self) -> torch.Tensor:
        return self.env.asks()

    def state_dict(self) -> dict[str, Any]:
        return self.env.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.env.load_state_dict(state)

    def close_extras(self, **options: Any) -> None:
        self.env.close(**options)

    def _drawn(self, obs: Obs) -> dict[str, torch.Tensor]:
        assert isinstance(obs, dict)
        number = (obs["image"] * self._weight).sum(-1) + self._agent
        side = self.view * self.tile
        # [B, x, y, rows, columns, 3] -> [B, y, rows, x, columns, 3]
        image = self._tiles[number].permute(0, 2, 3, 1, 4, 5).reshape(-1, side, side, 3)
        return {**obs, "image": image}


@lru_cache(maxsize=8)
def _tiles(tile: int) -> np.ndarray:
    """[512, tile, tile, 3] the tile of object * 18 + color * 3 + state, highlighted; 0 is a cell that is not visible."""
    from minigrid.core.constants import OBJECT_TO_IDX
    from minigrid.core.grid import Grid
    from minigrid.core.world_object import WorldObj

    tiles = np.zeros((2 * AGENT, tile, tile, 3), dtype=np.uint8)
    tiles[0] = Grid.render_tile(None, tile_size=tile)
    kinds = {"empty": [(0, 0)], "wall": [(5, 0)], "goal": [(1, 0)]}
    kinds |= {name: [(color, 0) for color in range(6)] for name in ("key", "ball")}
    kinds["door"] = [(color, state) for color in range(6) for state in range(3)]
    for name, variants in kinds.items():
        for color, state in variants:
            kind = OBJECT_TO_IDX[name]
            number, thing = kind * 18 + color * 3 + state, WorldObj.decode(kind, color, state)
            tiles[number] = Grid.render_tile(thing, highlight=True, tile_size=tile)
            if name in ("empty", "key", "ball"):  # a carried object is drawn under the agent
                tiles[AGENT + number] = Grid.render_tile(thing, agent_dir=3, highlight=True, tile_size=tile)
    return tiles
