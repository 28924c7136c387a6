"""Draws row 0 of a task for people, with its hidden state.

One function per kind of task, chosen by the environment's class. Tasks without one show their frame, an image in the
observation, or the observation as numbers. Policies never see these pictures.
"""

from __future__ import annotations

import contextlib
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from matplotlib.ticker import MaxNLocator

from rmt_rl.common.process import require_packages
from rmt_rl.common.rng import counter_bits
from rmt_rl.envs.base import Obs, TorchVectorEnv
from rmt_rl.envs.minigrid.direct import STEP, MiniGridDirect
from rmt_rl.envs.minigrid.memory import MiniGridMemory
from rmt_rl.envs.minigrid.pixels import MiniGridPixels
from rmt_rl.envs.tasks.bandit import Bandit
from rmt_rl.envs.tasks.color_cubes import COLORS, ColorCubes, color_name
from rmt_rl.envs.tasks.dark_room import SIZE, DarkRoom
from rmt_rl.envs.tmaze.endless import LEFT, TMazeEndless
from rmt_rl.envs.tmaze.passive import TMaze
from rmt_rl.envs.tmaze.variants import TMazeActive, TMazeRATE, TMazeTrial
from rmt_rl.envs.wrappers.memory_scope import MemoryScope
from rmt_rl.envs.wrappers.return_to_go import ReturnToGo

if TYPE_CHECKING:
    from matplotlib.axes import Axes

CORRIDOR, GOAL, AGENT = "0.88", "tab:green", "tab:blue"
#: Sizes of text in points, legible in a picture 720 pixels wide; letters of a line under a picture that is half as wide.
TEXT, SMALL, LINE = 12, 11, 52


def draw(axes: Axes, env: TorchVectorEnv, obs: Obs) -> None:
    """Draw row 0 of `env` on empty axes. obs: the latest observation of `env`."""
    _draw(axes, *_innermost(env, obs))


@dataclass(frozen=True)
class Snapshot:
    """What is needed to show row 0 of an environment later. env: without wrappers; state: its `state_dict`."""

    env: TorchVectorEnv
    obs: Obs
    state: dict[str, Any]


def snapshot(env: TorchVectorEnv, obs: Obs) -> Snapshot:
    """The present state of `env`. obs: its latest observation."""
    inner, seen = _innermost(env, obs)
    return Snapshot(inner, seen, inner.state_dict())


def picture(shown: Snapshot, title: str, size: tuple[int, int]) -> np.ndarray:
    """[height, width, 3] uint8: a snapshot as `draw` draws it. size: (width, height) in pixels."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(size[0] / 100, size[1] / 100), dpi=100, layout="constrained")
    canvas = FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    with _restored(shown):
        _draw(axes, shown.env, shown.obs)
    axes.set_title(title, fontsize=10, parse_math=False)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()


def text(shown: Snapshot, title: str) -> str:
    """A snapshot in words: the title, the hidden state where the task describes it, and the observation as numbers."""
    with _restored(shown):
        words = shown.env.in_words(0)
    return "\n".join([title, *([words] if words else []), f"the agent observes {numbers(shown.obs)}"])


@contextlib.contextmanager
def _restored(shown: Snapshot) -> Iterator[None]:
    """The environment of a snapshot in that state, for a while."""
    present = shown.env.state_dict()
    shown.env.load_state_dict(shown.state)
    try:
        yield
    finally:
        shown.env.load_state_dict(present)


def _innermost(env: TorchVectorEnv, obs: Obs) -> tuple[TorchVectorEnv, Obs]:
    """The environment without wrappers, and the latest observation of it."""
    while isinstance(env, MemoryScope | MiniGridPixels | ReturnToGo):
        if isinstance(env, MiniGridPixels):
            obs = env.symbols
        elif isinstance(env, ReturnToGo):
            obs = env.without(obs)
        env = env.env
    return env, obs


def _draw(axes: Axes, env: TorchVectorEnv, obs: Obs) -> None:
    if isinstance(env, MiniGridMemory | MiniGridDirect):
        _minigrid(axes, env, obs)
    elif isinstance(env, TMaze | TMazeActive | TMazeRATE | TMazeTrial):
        _tmaze(axes, env, obs)
    elif isinstance(env, TMazeEndless):
        _corridor(axes, env, obs)
    elif isinstance(env, DarkRoom):
        _dark_room(axes, env)
    elif isinstance(env, ColorCubes):
        _color_cubes(axes, env)
    elif isinstance(env, Bandit):
        _bandit(axes, env)
    elif env.render_mode == "rgb_array" and (frame := _frame(env.render())) is not None:
        axes.imshow(frame)
        axes.axis("off")
    elif (pixels := _pixels(obs)) is not None:
        axes.imshow(pixels, cmap="gray" if pixels.ndim == 2 else None, vmin=0, vmax=255)
        axes.axis("off")
    else:
        _text(axes, env, obs)


def _frame(frames: Any) -> np.ndarray | None:
    """The frame of row 0 as an array that can be shown; None where `render` returned none: the observation is drawn then."""
    frame = frames[0] if isinstance(frames, tuple | list) and len(frames) else None
    if isinstance(frame, list):  # the frames since the last call
        frame = frame[-1] if frame else None
    if not isinstance(frame, np.ndarray) or frame.dtype.kind not in "buif" or 0 in frame.shape:
        return None
    return frame if frame.ndim == 2 or (frame.ndim == 3 and frame.shape[-1] in (1, 3, 4)) else None


def _minigrid(axes: Axes, env: MiniGridMemory | MiniGridDirect, obs: Obs) -> None:
    require_packages("drawing this task", "eval", "minigrid")
    from minigrid.core.grid import Grid  # draws the same tiles as MiniGrid's own pictures

    world, (x, y), direction = env.world(0)
    assert isinstance(obs, dict)
    seen = obs["image"][0, :, :, 0].cpu().numpy() != 0
    view = len(seen)
    i, j = np.nonzero(seen)
    cells = (
        np.array([x, y])
        + (view - 1 - j)[:, None] * STEP[direction]
        + (i - view // 2)[:, None] * STEP[(direction + 1) % 4]
    )
    lit = np.zeros(world.shape[:2], dtype=bool)
    lit[tuple(cells.T)] = True  # no cell outside is seen: there are walls around the world
    grid, _ = Grid.decode(world)
    axes.imshow(grid.render(24, (x, y), direction, lit))
    axes.axis("off")


def _tmaze(axes: Axes, env: TorchVectorEnv, obs: Obs) -> None:
    state = {name: int(value[0]) for name, value in env.state_dict().items()}
    _maze(axes, state["length"] + isinstance(env, TMazeActive), state["goal"], state["x"], state["y"])
    walk = f"{env.in_words(0)}; " if env.in_words(0) else ""
    _caption(axes, f"{walk}the agent observes {numbers(obs)}\ngreen: the correct arm")


def _maze(axes: Axes, end: int, goal: int, x: int, y: int) -> None:
    """A corridor of `end` steps with the arms +1 (up) and -1, of which `goal` is green, and the agent at (x, y)."""
    from matplotlib.patches import Rectangle

    tall = max(0.5, end / 12)  # a long corridor would be too thin to see
    axes.add_patch(Rectangle((-0.5, -tall / 2), end + 1, tall, color=CORRIDOR))
    wide, margin = max(1, end / 25), max(1, end / 20)  # the same for the arms
    for arm in (1, -1):
        color = GOAL if arm == goal else CORRIDOR
        axes.add_patch(Rectangle((end + 0.5 - wide, arm * tall - tall / 2), wide, tall, color=color))
    axes.plot(x, y * tall, "o", color=AGENT, markersize=14)
    axes.set_xlim(-margin, end + margin)
    axes.set_ylim(-2 * tall, 2 * tall)
    axes.set_yticks([])
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))


def _corridor(axes: Axes, env: TMazeEndless, obs: Obs) -> None:
    """The corridor in which the agent is; the others are behind its ends."""
    state = {name: value[:1] for name, value in env.state_dict().items()}
    hint, end = (int(value) for value in env.corridor(state))
    _maze(axes, end, 1 if hint == LEFT else -1, int(state["x"]), 0)
    _caption(axes, f"{env.in_words(0)}; the agent observes {numbers(obs)}\ngreen: the correct arm, left is up")


def _room(axes: Axes, size: int) -> None:
    """A room of size x size cells."""
    axes.set_xlim(-0.5, size - 0.5)
    axes.set_ylim(-0.5, size - 0.5)
    axes.set_aspect("equal")
    axes.set_xticks(np.arange(size) + 0.5, [])
    axes.set_yticks(np.arange(size) + 0.5, [])
    axes.grid(color=CORRIDOR)
    axes.tick_params(length=0)


def _color_cubes(axes: Axes, env: ColorCubes) -> None:
    state = {name: value[0].tolist() for name, value in env.state_dict().items()}
    _room(axes, env.size)
    side = 120 / env.size
    for cube, cell in enumerate(state["place"]):
        row, column = divmod(cell, env.size)
        place, name = (column, env.size - 1 - row), color_name(cube)  # row 0 is at the top
        axes.plot(*place, "s", color=f"tab:{name}" if cube < len(COLORS) else "0.5", markersize=side)
        if cube == state["target"]:
            axes.plot(*place, "s", color="black", markersize=side + 6, fillstyle="none")
    row, column = divmod(state["agent"], env.size)
    axes.plot(column, env.size - 1 - row, "o", color="black", markeredgecolor="white", markersize=side / 2)
    seen = (
        "the color of the target and all cubes"
        if state["told"]
        else "all cubes"
        if state["moved"]
        else "its own cell only"
    )
    hidden = " without their colors" if state["moved"] and env.hides else ""
    _caption(axes, f"{env.in_words(0)} (framed)\nthe agent sees {seen}{hidden}")


def _dark_room(axes: Axes, env: DarkRoom) -> None:
    state = {name: int(value[0]) for name, value in env.state_dict().items()}
    _room(axes, SIZE)
    axes.plot(state["goal_x"], state["goal_y"], "s", color=GOAL, markersize=18)
    axes.plot(state["x"], state["y"], "o", color=AGENT, markersize=12)
    _caption(axes, f"{env.in_words(0)}\ngreen: the goal (hidden)")


def _bandit(axes: Axes, env: Bandit) -> None:
    state = env.state_dict()
    chance = counter_bits(state["key"][0], torch.arange(env.arms, device=env.device)).double() / 2.0**63
    pulled, paid = int(state["arm"][0]) - 1, bool(state["paid"][0])
    bars = axes.bar(range(1, env.arms + 1), chance.tolist(), color=CORRIDOR)
    if pulled >= 0:
        bars[pulled].set_color(GOAL if paid else "tab:red")
    axes.set_ylim(0, 1)
    axes.xaxis.set_major_locator(MaxNLocator(nbins=20, integer=True))
    _caption(axes, f"{env.in_words(0)}\narm (the last one: green = paid, red = did not pay)")
    axes.set_ylabel("payout probability (hidden)", fontsize=SMALL)


def _caption(axes: Axes, text: str) -> None:
    """Text under a picture, in lines that are not cut off beside action probabilities, and its ticks."""
    axes.set_xlabel(
        "\n".join(textwrap.fill(line, LINE) for line in text.splitlines()), fontsize=SMALL, parse_math=False
    )
    axes.tick_params(labelsize=SMALL)


def _pixels(obs: Obs) -> np.ndarray | None:
    """The first image [H, W] or [H, W, 3] in the observation of row 0, or None."""
    for part in obs.values() if isinstance(obs, dict) else [obs]:
        if part.dtype == torch.uint8 and part.ndim == 4 and part.shape[-1] in (1, 3) and min(part.shape[1:3]) >= 16:
            return part[0].squeeze(-1).cpu().numpy()
    return None


def _text(axes: Axes, env: TorchVectorEnv, obs: Obs) -> None:
    lines = f"the agent observes\n{numbers(obs)}".splitlines()
    lines = [shortened(line, LINE) for line in lines[:12]] + ["…"] * (len(lines) > 12)
    words = "\n".join(textwrap.fill(part, 34) for part in env.in_words(0).split("; "))
    axes.text(0.5, 0.6, words, ha="center", va="bottom", fontsize=14, parse_math=False)
    # short text in a larger font
    axes.text(
        0.5,
        0.5,
        "\n".join(lines),
        ha="center",
        va="top" if words else "center",
        fontsize=10 if len(lines) > 4 else 13,
        parse_math=False,
    )
    axes.axis("off")


def shortened(words: str, most: int) -> str:
    """Text of at most `most` letters."""
    return words if len(words) <= most else f"{words[: most - 1]}…"


def numbers(obs: Obs) -> str:
    """The observation of row 0 as text."""
    if isinstance(obs, dict):
        return "\n".join(f"{name} {numbers(part)}" for name, part in obs.items())
    with np.printoptions(precision=2, suppress=True, threshold=60):
        return str(obs[0].cpu().numpy())
