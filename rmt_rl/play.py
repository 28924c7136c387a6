"""Draws episodes into a file: `python -m rmt_rl.play policy=<folder> | env=<task> [policy=random|human-keys] [name=value ...]`.

Beside the task it draws the policy's action probabilities and, for a transformer, its attention weights: a row for each layer and
head, a column for each memory token, cached step and step of the segment. `out=episode.html` makes a page about the memory
instead (`viewing/`). Opens no window.
"""

from __future__ import annotations

import shlex
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rmt_rl.common.errors import ConfigError
from rmt_rl.common.files import reason, require_new
from rmt_rl.common.process import CallableModule, configure_process
from rmt_rl.config.commands import PlayConfig
from rmt_rl.config.fields import show

if TYPE_CHECKING:
    import torch

    from rmt_rl.common.state import Obs
    from rmt_rl.envs.base import TorchVectorEnv
    from rmt_rl.policies.actor_critic import ActorCritic
    from rmt_rl.viewing.film import Choice, Player

#: Seconds without output after which `play` reports that it is still drawing.
PATIENCE = 10.0


def random_player(env: TorchVectorEnv, seed: int) -> Player:
    import numpy as np
    import torch

    from rmt_rl.envs.masks import has_mask
    from rmt_rl.rollouts.episodes import random_actor
    from rmt_rl.viewing.film import Choice

    if has_mask(env.single_observation_space, env.single_action_space):
        actor = random_actor(env, seed)()
        return lambda obs, first: Choice(actor(obs, first))
    env.single_action_space.seed(seed)
    return lambda obs, first: Choice(torch.from_numpy(np.asarray(env.single_action_space.sample()))[None])


def human_player(env: TorchVectorEnv) -> Player:
    import gymnasium
    import torch

    from rmt_rl.envs.masks import has_mask, mask_of
    from rmt_rl.viewing.film import Choice

    space = env.single_action_space
    masked = has_mask(env.single_observation_space, space)
    if not isinstance(space, gymnasium.spaces.Discrete):
        raise ConfigError(f"policy=human-keys: needs actions that are numbers 0, 1, ...; this task has {space}")
    names = ", ".join(f"{i} {name}" for i, name in enumerate(env.action_names))
    names = names or f"an action from 0 to {int(space.n) - 1}"

    def act(obs: Obs, first: torch.Tensor) -> Choice:
        while True:
            new, seen = "a new episode: " if bool(first) else "", _plain(obs, env.single_observation_space)
            print(f"{new}you see {seen}; {names}; an empty line ends the game", flush=True)
            text = sys.stdin.readline().strip()
            if not text:
                raise EOFError
            if text.isdecimal() and int(text) < int(space.n):
                if not masked or bool(mask_of(obs).flatten()[int(text)] != 0):
                    return Choice(torch.tensor([int(text)]))
                print(f"{text}: is not allowed in this step, see action_mask")
                continue
            print(f"{text}: expected a number from 0 to {int(space.n) - 1}")

    return act


def _plain(obs: Obs, space: Any) -> Any:
    from rmt_rl.envs.text import TextBytes, from_bytes

    if isinstance(obs, dict):
        return {name: _plain(part, space[name]) for name, part in obs.items()}
    if isinstance(space, TextBytes):
        return from_bytes(obs[0].numpy())
    # the numbers of a picture would fill the terminal
    return obs[0].tolist() if obs[0].numel() <= 400 else f"{tuple(obs[0].shape)} numbers"


def record(env: TorchVectorEnv, player: Player, options: PlayConfig, path: Path) -> int:
    """Write the picture; returns the number of its frames."""
    from matplotlib.animation import FFMpegWriter
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    from rmt_rl.viewing.film import DPI, Gif, frames, new_figure

    figure, gif = new_figure(), Gif()
    FigureCanvasAgg(figure)
    if path.suffix == ".mp4" and not FFMpegWriter.isAvailable():
        raise ConfigError(f"out={path}: needs ffmpeg, which is not installed; expected a name that ends in .gif")
    if path.suffix == ".gif" and options.fps > 50:
        raise ConfigError(
            f"fps={options.fps}: a GIF counts in hundredths of a second, and viewers slow down; expected at most 50"
        )
    movie = FFMpegWriter(fps=options.fps) if path.suffix == ".mp4" else None  # type: ignore[arg-type]  # any number
    shown, last_report = 0, time.monotonic()
    unfinished = path.with_name(f".{path.stem}.part{path.suffix}")
    try:
        unfinished.unlink(missing_ok=True)  # a write would follow a link of this name
        for result in frames(env, player, figure, options.seed, options.frames, options.episodes):
            if result is not None:
                print(result)
            if movie is None:
                gif.add(figure)
            else:
                if shown == 0:  # not before the loop, because a writer without frames cannot be finished
                    movie.setup(figure, str(unfinished), dpi=DPI)
                movie.grab_frame()
            shown += 1
            if time.monotonic() - last_report > PATIENCE:
                last_report = time.monotonic()
                print(f"drawn: {shown} frames", flush=True)
        if shown:
            if movie is None:
                unfinished.write_bytes(gif.to_bytes(options.fps))
            else:
                movie.finish()
            unfinished.rename(path)
    except OSError as error:
        raise ConfigError(f"out={path}: cannot be written: {error.strerror}") from error
    finally:
        unfinished.unlink(missing_ok=True)
    return shown


def write_page(policy: ActorCritic, task: Any, options: PlayConfig, path: Path, command: str = "") -> int:
    """Write a page about one episode of the policy and its memory; returns the number of its steps.

    task: the options of the environment. command: that makes the page again, for its footer.
    """
    from rmt_rl.envs.base import close_env
    from rmt_rl.envs.drawing import numbers
    from rmt_rl.policies.saving import make_task
    from rmt_rl.viewing.episode import record_episode
    from rmt_rl.viewing.film import action_text, with_pixels
    from rmt_rl.viewing.frames import Frames
    from rmt_rl.viewing.page import Heading, render
    from rmt_rl.viewing.probe import probe

    shown = with_pixels(task)
    env = make_task(policy, shown, target_return=options.target_return)
    frames, last_report = Frames(env), time.monotonic()

    def report(done: str, steps: int) -> None:
        nonlocal last_report
        if time.monotonic() - last_report > PATIENCE:
            last_report = time.monotonic()
            print(f"{done}: {steps} steps", flush=True)

    def on_step(obs: Obs) -> None:
        frames.add(obs)
        report("drawn", len(frames.order))

    describe = (numbers, lambda action: action_text(env, action))
    choice = (options.seed, options.deterministic)
    episode = record_episode(policy, env, *choice, options.frames, on_step, describe)
    found = None
    if episode.hidden[0] and episode.parts[0]:
        batch = make_task(policy, task, options.probe, target_return=options.target_return)
        found = probe(policy, batch, episode, *choice, lambda steps: report("memory read", steps))
        close_env(batch)
    about = task.id if shown != task else env.task  # without the render mode, which nobody typed
    heading = Heading(f"{task.name} · {policy.config.name}", about, command, options.fps)
    text = render(heading, policy, env, episode, (frames.uris(), frames.order), found)
    unfinished = path.with_name(f".{path.stem}.part{path.suffix}")
    try:
        unfinished.unlink(missing_ok=True)  # a write would follow a link of this name
        unfinished.write_text(text, encoding="utf-8")
        unfinished.rename(path)
    except OSError as error:
        raise ConfigError(f"out={path}: cannot be written: {error.strerror}") from error
    finally:
        unfinished.unlink(missing_ok=True)
    close_env(env)
    return len(episode)


def play(
    policy: ActorCritic | str | Path,
    env: Any = None,
    out: str | Path = "episode.html",
    *,
    seed: int = 0,
    deterministic: bool = True,
    frames: int = 200,
    episodes: int = 1,
    fps: float = 4.0,
    probe: int = 128,
    target_return: float | None = None,
    trust: bool = False,
    **given: Any,
) -> Path:
    """Draw an episode of a policy into a new file, a page (.html), .gif or .mp4; returns its path.

        rmt_rl.play("runs/tmaze-rmt-ppo-s0", out="episode.html", **{"env.length": 20})

    policy: a policy, or the folder of one. env: None = the task that it was trained on; or a name, a dictionary of its options,
    a dataclass of rmt_rl.config, or a class or function that makes one. given: options of the task, such as "env.length". The
    other arguments are the options of `python -m rmt_rl.play`.
    Raises ConfigError where an argument is not allowed, or where the policy cannot act in the environment.
    """
    from rmt_rl.config.resolve import validate
    from rmt_rl.envs.objects import is_borrowed
    from rmt_rl.policies.actor_critic import ActorCritic
    from rmt_rl.policies.saving import chosen_task, load_policy

    loaded = isinstance(policy, ActorCritic)
    options = validate(
        PlayConfig(
            policy="a policy" if loaded else str(policy),
            out=str(out),
            seed=seed,
            deterministic=deterministic,
            frames=frames,
            episodes=episodes,
            fps=fps,
            probe=probe,
            target_return=target_return,
        )
    )
    acting = policy if isinstance(policy, ActorCritic) else load_policy(policy, trust=trust)
    task = chosen_task(acting, env, given)
    if is_borrowed(task):
        raise ConfigError(
            f"env={type(env).__name__}: is an object with rows of its own; expected a name, a dataclass of rmt_rl.config, or a"
            " class or function that makes it"
        )
    path = Path(out)
    _require_new(path)
    _draw_policy(acting, task, options, path)
    return path


def _draw_policy(policy: ActorCritic, task: Any, options: PlayConfig, path: Path, command: str = "") -> int:
    """Draw episodes of a policy into `path`; returns the number of frames or steps."""
    from rmt_rl.envs.base import close_env
    from rmt_rl.policies.saving import make_task
    from rmt_rl.viewing.film import policy_player, with_pixels

    if path.suffix == ".html":
        return write_page(policy, task, options, path, command)
    env = make_task(policy, with_pixels(task), target_return=options.target_return)
    drawn = record(env, policy_player(policy, options.seed, options.deterministic), options, path)
    close_env(env)
    return drawn


def _draw_without_policy(task: Any, options: PlayConfig, path: Path) -> int:
    """Draw episodes of random or typed actions into `path`; returns the number of frames."""
    from rmt_rl.envs.base import close_env
    from rmt_rl.envs.registry import make_from_config
    from rmt_rl.viewing.film import with_pixels

    if options.target_return is not None:
        raise ConfigError(
            f"target_return={options.target_return}: policy={options.policy} is not return-conditioned; leave it out"
        )
    env = make_from_config(with_pixels(task), 1)
    player = random_player(env, options.seed) if options.policy == "random" else human_player(env)
    drawn = record(env, player, options, path)
    close_env(env)
    return drawn


def _require_new(path: Path) -> None:
    try:
        require_new(path)
    except OSError as error:
        raise ConfigError(f"out={show(str(path), 300)}: {reason(error)}; choose another out=") from error


def main(argv: Sequence[str] | None = None) -> int:
    """The exit status of the command."""
    from rmt_rl.config.cli import run

    return run(command, argv)


def command(argv: list[str]) -> int:
    from rmt_rl.config.cli import PLAYERS, gives_id, parse_play, resolve_env
    from rmt_rl.config.help import help_text, wants_help

    if wants_help(argv):
        print(help_text(PlayConfig, argv))
        return 0
    options = parse_play(argv)
    from rmt_rl.config.trust import check_trusted
    from rmt_rl.policies.saving import env_config, load_policy

    configure_process(threads=1)
    # the task and what acts in it
    policy = None if options.policy in PLAYERS[PlayConfig] else load_policy(options.policy, trust=options.trust)
    trained = None if policy is None or options.env else env_config(policy, typed=gives_id(options.env_overrides))
    task = resolve_env(trained, options.env, options.env_overrides)
    path = Path(options.out) if options.out else _free_name(task.name, options.seed)
    # the picture
    try:
        if policy is None:
            _require_new(path)
            drawn = _draw_without_policy(task, options, path)
        else:
            check_trusted(task, policy.spec.source, typed=True)  # before `with_pixels` imports its module
            _require_new(path)
            again = f"python -m rmt_rl.play {' '.join(map(shlex.quote, argv))}"
            drawn = _draw_policy(policy, task, options, path, again)
    except KeyboardInterrupt:
        print("stopped; nothing was written", file=sys.stderr)
        return 130
    unit = "steps" if path.suffix == ".html" else "frames"
    print(f"wrote {path}, {drawn} {unit}" if drawn else "no step was played, nothing was written")
    return 0


def _free_name(task: str, seed: int) -> Path:
    path, number = Path(f"play-{task}-s{seed}.gif"), 2
    while path.exists():
        path, number = Path(f"play-{task}-s{seed}-{number}.gif"), number + 1
    return path


if __name__ == "__main__":
    sys.exit(main())
else:
    sys.modules[__name__].__class__ = CallableModule
