"""Videos during training: one episode every `video_every` steps, drawn as `python -m rmt_rl.play` draws it."""

from __future__ import annotations

from collections.abc import Callable

from rmt_rl.common import rng
from rmt_rl.common.errors import ConfigError, RunError
from rmt_rl.common.files import make_folder, reason, write_file
from rmt_rl.envs.base import TorchVectorEnv
from rmt_rl.runs.callbacks import Run
from rmt_rl.runs.metrics import Metrics

#: Steps after which a video ends, and its frames per second.
STEPS, FPS = 100, 4.0


def check_drawable(env: TorchVectorEnv, option: str) -> None:
    """Raise ConfigError where the task cannot be drawn, before the run begins. option: that asks for it, as video_every=9."""
    # matplotlib is imported where it is used: most runs have no videos
    from rmt_rl.envs.drawing import draw
    from rmt_rl.viewing.film import new_figure

    obs, _ = env.reset(seed=0)
    try:
        draw(new_figure().add_subplot(), env, obs)
    except (ConfigError, RunError) as error:
        raise ConfigError(
            f"{option}: a picture of the task cannot be drawn: {error}; correct it, or leave it out"
        ) from error


def record_video(run: Run, env: TorchVectorEnv, metrics: Metrics, check_stop: Callable[[], None]) -> None:
    """Play a new episode with the most likely actions, and give its GIF to videos/, TensorBoard and Weights & Biases.

    env: one row of its own. The episode follows from the run's seed and steps, so a resumed run records the same one.
    """
    from rmt_rl.viewing.film import Gif, frames, new_figure, policy_player

    seed = rng.counter_seed(rng.seed(run.config.seed, "video"), run.steps)
    figure, gif = new_figure(), Gif()
    for _ in frames(env, policy_player(run.policy, seed, deterministic=True), figure, seed, STEPS):
        gif.add(figure)
        check_stop()
    data, path = gif.to_bytes(FPS), run.folder / "videos" / f"{run.steps}.gif"
    try:
        make_folder(path.parent)
        write_file(path, data)
    except OSError as error:
        print(f"{path} was not written: {reason(error)}; the run continues without it", flush=True)
        return
    metrics.video(run.steps, path, data)
