"""Films of episodes: the task as people see it, with the action probabilities and the attention of a policy beside it.

`python -m rmt_rl.play` and the videos of a run (`video_every`) are drawn here.
"""

from __future__ import annotations

import dataclasses
import inspect
import io
import itertools
import textwrap
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import gymnasium
import numpy as np
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image

from rmt_rl.common import rng
from rmt_rl.common.state import Obs
from rmt_rl.config.envs import GymConfig
from rmt_rl.envs.base import TorchVectorEnv
from rmt_rl.envs.drawing import SMALL, TEXT, draw, shortened
from rmt_rl.envs.gym.adapter import register_package
from rmt_rl.envs.observations import ObservationCheck
from rmt_rl.envs.wrappers.memory_scope import MemoryScope
from rmt_rl.policies.actor_critic import ActorCritic
from rmt_rl.rollouts.episodes import require_usable

#: (width, height) of a film in inches, and its dots per inch: 720 x 360 pixels.
SIZE, DPI = (8, 4), 90


@dataclass(frozen=True)
class Choice:
    """An action [1, ...] and, for a policy, its probabilities [A] and attention weights [L * H, M + C + S].

    columns: M, C, S.
    """

    action: torch.Tensor
    probabilities: np.ndarray | None = None
    attention: np.ndarray | None = None
    columns: tuple[int, int, int] = (0, 0, 0)


class Gif:
    """Collects pictures of a figure, with 256 colors, so that those of a long episode need little memory.

    Colors are chosen by an octree, which gives equal areas of all pictures the same ones: the file has half the size of one with
    the most frequent colors of each picture.
    """

    def __init__(self) -> None:
        self._pictures: list[Image.Image] = []

    def __len__(self) -> int:
        return len(self._pictures)

    def add(self, figure: Figure) -> None:
        canvas = FigureCanvasAgg(figure)
        canvas.draw()
        pixels = Image.frombuffer("RGBA", canvas.get_width_height(), bytes(canvas.buffer_rgba()), "raw", "RGBA", 0, 1)
        self._pictures.append(pixels.convert("RGB").quantize(256, Image.Quantize.FASTOCTREE))

    def to_bytes(self, fps: float) -> bytes:
        """The file. Needs at least one picture."""
        file, first = io.BytesIO(), self._pictures[0]
        first.save(
            file, "GIF", save_all=True, append_images=self._pictures[1:], duration=int(1000 / fps), loop=0, disposal=1
        )
        return file.getvalue()


def new_figure() -> Figure:
    return Figure(figsize=SIZE, dpi=DPI, layout="constrained")


#: (observation, first) -> choice; a player keeps its own memory.
Player = Callable[[Obs, torch.Tensor], Choice]


def policy_player(policy: ActorCritic, seed: int, deterministic: bool) -> Player:
    """The policy, with a memory of its own. seed: for sampled actions."""
    state, generator = policy.initial_state(1), rng.generator(seed, "play-act", policy.device)
    discrete = isinstance(policy.spec.action_space, gymnasium.spaces.Discrete)

    @torch.no_grad()
    def act(obs: Obs, first: torch.Tensor) -> Choice:
        nonlocal state
        probabilities = policy.act_step(obs, state, first)[0].softmax(-1)[0].cpu().numpy() if discrete else None
        try:
            attention = policy.explain(obs, state, first)
        except TypeError:  # a policy without attention
            attention = None
        action, state = policy.act(obs, state, first, deterministic, generator)
        if attention is None:
            return Choice(action, probabilities)
        spans = (attention.read, attention.cache, attention.steps)
        columns = tuple(span.shape[-1] for span in spans)
        weights = torch.cat(spans, dim=-1)[0].flatten(0, 1).cpu().numpy()
        return Choice(action, probabilities, weights, columns)  # type: ignore[arg-type]

    return act


def action_text(env: TorchVectorEnv, action: torch.Tensor) -> str:
    if isinstance(env.single_action_space, gymnasium.spaces.Discrete):
        return _names(env)[int(action[0])]
    return np.array2string(action[0].cpu().numpy(), precision=2, suppress_small=True, threshold=6)


def _names(env: TorchVectorEnv) -> tuple[str, ...]:
    return env.action_names or tuple(map(str, range(int(env.single_action_space.n))))  # type: ignore[attr-defined]


def frames(
    env: TorchVectorEnv, player: Player, figure: Figure, seed: int, steps: int, episodes: int = 1
) -> Iterator[str | None]:
    """Plays at most `steps` steps of `episodes` episodes, and draws each on `figure`.

    The last step of an episode is drawn twice, the second time with its result, which is also the value; otherwise None.
    """
    word = "trial" if isinstance(env, MemoryScope) else "episode"
    check = ObservationCheck(env.single_observation_space, env.single_action_space)
    obs, _ = env.reset(seed=seed)
    require_usable(check, f"from reset(seed={seed})", obs)
    first, episode, step, total = torch.ones(1, dtype=torch.bool, device=env.device), 1, 0, 0.0
    for _ in range(steps):
        try:
            choice = player(obs, first)
        except EOFError:
            return
        chosen = action_text(env, choice.action)
        draw_step(figure, env, obs, choice, f"{word} {episode}, step {step}, return {total:.2f}; next: {chosen}")
        yield None
        obs, reward, terminated, truncated, info = env.step(choice.action)
        require_usable(check, f"after step {step + 1} of {word} {episode}", obs, reward, info["final_obs"])
        first = terminated | truncated
        step, total = step + 1, total + float(reward[0])
        if bool(first[0]):
            outcome = {True: ", success", False: ", no success"}[bool(info["success"][0])] if "success" in info else ""
            end = f"{word} {episode} ended after {step} steps: return {total:.2f}{outcome}"
            _title(figure, end)
            yield end
            episode, step, total = episode + 1, 0, 0.0
            if episode > episodes:
                return


def draw_step(figure: Figure, env: TorchVectorEnv, obs: Obs, choice: Choice, title: str) -> None:
    """Draw one step on `figure`. obs: the latest observation. choice: what is done next."""
    figure.clear()
    beside = [part for part in (choice.probabilities, choice.attention) if part is not None]
    grid = figure.add_gridspec(max(1, len(beside)), 2 if beside else 1, width_ratios=(3, 2) if beside else None)
    axes = figure.add_subplot(grid[:, 0])
    draw(axes, env, obs)
    _title(figure, title)
    if choice.probabilities is not None:
        axes = figure.add_subplot(grid[0, 1])
        names = _names(env)
        colors = ["tab:orange" if i == int(choice.action[0]) else "0.7" for i in range(len(names))]
        axes.barh(range(len(names)), choice.probabilities, color=colors)
        if len(names) <= 20:  # more names would overlap
            labels = [shortened(name, 16) for name in names]
            axes.set_yticks(range(len(names)), labels, fontsize=SMALL if len(names) <= 8 else 7, parse_math=False)
        axes.tick_params(axis="x", labelsize=SMALL)
        axes.set_xlim(0, 1)
        axes.invert_yaxis()
        axes.set_title("action probabilities", fontsize=SMALL)
    if choice.attention is not None:
        axes = figure.add_subplot(grid[len(beside) - 1, 1])
        axes.imshow(choice.attention, aspect="auto", vmin=0, vmax=1, cmap="viridis", interpolation="nearest")
        borders = list(itertools.accumulate(choice.columns))
        for border in borders[:-1]:
            axes.axvline(border - 0.5, color="white", linewidth=1)
        parts = [name for name, n in zip(("memory", "cache", "steps"), choice.columns, strict=True) if n]
        axes.set_title(f"attention: {' | '.join(parts)}", fontsize=SMALL)
        axes.set_ylabel("layers, heads", fontsize=SMALL)
        axes.set_xticks([])
        axes.set_yticks([])


def _title(figure: Figure, words: str) -> None:
    """Above the whole figure, because a part of it is narrower than a sentence."""
    figure.suptitle(textwrap.fill(words, 84), fontsize=TEXT, parse_math=False)


def with_pixels(task: Any) -> Any:
    """The task with render_mode=rgb_array, where a gymnasium environment supports it and no render_mode is given."""
    if not isinstance(task, GymConfig) or "render_mode" in task.options:
        return task
    register_package(task.id, task.id.split(":")[-1])
    spec = gymnasium.registry.get(task.id.split(":")[-1])
    try:
        entry: Any = (
            gymnasium.envs.registration.load_env_creator(spec.entry_point)
            if spec and isinstance(spec.entry_point, str)
            else None
        )
    except Exception:  # of the module's own code; making the environment reports it
        return task
    if "rgb_array" not in getattr(entry, "metadata", {}).get("render_modes", ()) or not _takes_render_mode(entry):
        return task
    return dataclasses.replace(task, options={**task.options, "render_mode": "rgb_array"})


def _takes_render_mode(entry: Any) -> bool:
    parameters = inspect.signature(entry).parameters
    return "render_mode" in parameters or any(p.kind is p.VAR_KEYWORD for p in parameters.values())
