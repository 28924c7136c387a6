"""Videos during training: they show an episode, change no bit of the training, and are the same after a resume."""

import os

import gymnasium
import numpy as np
import pytest
import torch
from PIL import Image

import rmt_rl
from rmt_rl.common.errors import ConfigError
from rmt_rl.runs import videos
from rmt_rl.runs.metrics import Metrics

TINY = {"env": "tmaze", "policy": "rmt", "policy.width": 8, "policy.layers": 1, "policy.dropout": 0.2, "env.length": 1}
TINY |= {"algo.num_envs": 4, "algo.rollout": 8, "algo.minibatches": 1, "steps": 96, "evaluate_episodes": 2, "run": "x"}


class Stop:
    """A callback that ends the run in its second update, before the checkpoint of it."""

    def on_update(self, run):
        if run.steps == 64:
            raise RuntimeError("broken")


def gifs(folder):
    return {path.name: path.read_bytes() for path in (folder / "videos").iterdir()}


@pytest.fixture(scope="module")
def filmed(tmp_path_factory):
    return rmt_rl.train(root=tmp_path_factory.mktemp("filmed"), video_every=64, **TINY)


@pytest.mark.slow
def test_a_video_shows_a_whole_episode_at_multiples_and_at_the_last_step(filmed):
    assert sorted(gifs(filmed.folder)) == ["64.gif", "96.gif"]
    with Image.open(filmed.folder / "videos/96.gif") as video:
        # two steps, and the last one again with the result
        assert (video.size, video.n_frames, video.info["duration"]) == ((720, 360), 3, 250)


@pytest.mark.slow
def test_videos_change_no_bit_of_the_training(filmed, tmp_path):
    without = rmt_rl.train(root=tmp_path, **TINY)
    assert not (without.folder / "videos").exists()
    for name, value in without.policy.state_dict().items():
        assert torch.equal(value, filmed.policy.state_dict()[name]), name
    for name, column in without.metrics.items():
        assert name == "wall_s" or np.array_equal(column, filmed.metrics[name], equal_nan=True), name


@pytest.mark.slow
def test_a_resumed_run_records_the_same_videos(filmed, tmp_path):
    with pytest.raises(RuntimeError, match="broken"):
        rmt_rl.train(root=tmp_path, video_every=96, callbacks=[Stop()], **TINY)
    (tmp_path / "victim").write_text("precious")
    (tmp_path / "x/videos").mkdir()
    os.symlink(tmp_path / "victim", tmp_path / "x/videos/96.gif")  # in the folder of somebody else
    assert gifs(rmt_rl.train(resume=tmp_path / "x").folder) == {"96.gif": gifs(filmed.folder)["96.gif"]}
    assert (tmp_path / "victim").read_text() == "precious"


@pytest.mark.slow
def test_a_video_of_a_long_episode_is_cut(tmp_path, monkeypatch):
    monkeypatch.setattr(videos, "STEPS", 2)
    given = TINY | {"policy": "mlp", "policy.layers": 1, "steps": 32, "evaluate_episodes": 0, "env.length": 50}
    del given["policy.dropout"]
    folder = rmt_rl.train(root=tmp_path, video_every=10**6, **given).folder
    with Image.open(folder / "videos/32.gif") as video:
        assert video.n_frames == 2


@pytest.mark.slow
def test_a_video_that_cannot_be_written_does_not_end_the_run(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(videos, "STEPS", 1)

    def full(path, data):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(videos, "write_file", full)
    rmt_rl.train(root=tmp_path, video_every=64, **TINY | {"steps": 32, "evaluate_episodes": 0})
    said = capsys.readouterr().out
    assert "videos/32.gif was not written: No space left on device; the run continues without it" in said


@pytest.mark.slow
def test_tensorboard_and_wandb_get_the_gif(filmed, wandb, tmp_path):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    path = filmed.folder / "videos/96.gif"
    metrics = Metrics(tmp_path, {"tensorboard": True, "wandb": True})
    metrics.video(96, path, path.read_bytes())
    metrics.close()
    assert wandb.logged == [(96, {"eval/video": ("video", str(path), "gif")})]
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    (image,) = events.Images("eval/video")
    assert (image.step, image.width, image.height) == (96, 720, 360)
    assert image.encoded_image_string == path.read_bytes()


@pytest.mark.slow
def test_wandb_itself_takes_the_gif(filmed, tmp_path, monkeypatch):
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    path = filmed.folder / "videos/96.gif"
    metrics = Metrics(tmp_path, {"tensorboard": False, "wandb": True})
    metrics.video(96, path, path.read_bytes())
    metrics.close()
    (kept,) = (tmp_path / "wandb").glob("offline-run-*/files/media/videos/eval/video_*.gif")
    assert kept.read_bytes() == path.read_bytes()


class Dark(gymnasium.Env):
    """An environment whose pictures cannot be made."""

    observation_space, action_space = gymnasium.spaces.Box(-1, 1, (2,)), gymnasium.spaces.Discrete(2)
    metadata = {"render_modes": ["rgb_array"], "render_fps": 4}  # noqa: RUF012

    def __init__(self, render_mode=None):
        self.render_mode = render_mode

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return np.zeros(2, np.float32), {}

    def step(self, action):
        return np.zeros(2, np.float32), 0.0, True, False, {}

    def render(self):
        raise OSError("no graphics card")


def test_a_task_that_cannot_be_drawn_is_refused_before_the_run_begins(tmp_path, monkeypatch):
    gymnasium.register("Dark-v0", entry_point=f"{__name__}:Dark")
    try:
        with pytest.raises(
            ConfigError, match=r"^video_every=9: a picture of the task cannot be drawn: Dark-v0: "
        ) as error:
            rmt_rl.train(root=tmp_path, env="gym", policy="mlp", video_every=9, run="x", **{"env.id": "Dark-v0"})
    finally:
        gymnasium.registry.pop("Dark-v0")
    assert "no graphics card" in str(error.value) and "\n" not in str(error.value)
    assert not list(tmp_path.iterdir())


def test_a_single_environment_object_has_no_videos(tmp_path):
    env = rmt_rl.make_env("tmaze", 4)
    with pytest.raises(
        ConfigError, match=r"^video_every=9: videos need an environment of their own, but env= is a single"
    ):
        rmt_rl.train(root=tmp_path, env=env, video_every=9)


def test_a_run_without_an_environment_has_no_videos():
    with pytest.raises(ConfigError, match=r"^video_every=9: env=none has no environment to play in"):
        rmt_rl.make_config(env="none", algo="rate", data="x/y-v0", evaluate_episodes=0, video_every=9)
