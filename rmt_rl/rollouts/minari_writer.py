"""Writes recorded episodes as a Minari dataset."""

from __future__ import annotations

import os
import shutil
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from rmt_rl.common.errors import ConfigError
from rmt_rl.common.gymnasium_ids import task_spec
from rmt_rl.envs.text import texts_of

if TYPE_CHECKING:
    from rmt_rl.envs.base import TorchVectorEnv
    from rmt_rl.rollouts.episodes import Recorded

#: Overhead of HDF5 per episode: 15 kB with one observation tensor, more with several.
EPISODE_BYTES = 32 * 1024


def write_minari(
    waves: Iterator[list[Recorded]], id: str, env: TorchVectorEnv, by: str, task: dict[str, Any]
) -> tuple[Path, dict[str, float]]:
    """Write recorded episodes as the Minari dataset `id`; returns its folder and the statistics in its metadata.

    The dataset appears under its name only when it is complete. Raises ConfigError where it exists already.
    """
    import minari

    from rmt_rl.rollouts.episodes import check_room

    place = dataset_place(id)
    root = Path(tempfile.mkdtemp(prefix=".recording-", dir=minari.storage.get_dataset_path()))
    previous = os.environ.get("MINARI_DATASETS_PATH")
    stats = _Statistics()
    try:
        # minari writes into a temporary folder, of which the complete dataset is moved to its place
        os.environ["MINARI_DATASETS_PATH"] = str(root)
        dataset = None
        for wave in waves:
            # HDF5 on a full disk may crash the process (we saw a segmentation fault), so free space is checked first
            size = sum(_bytes(part) for episode in wave for part in (episode.obs, episode.action, episode.reward))
            check_room(root, size + len(wave) * EPISODE_BYTES, "MINARI_DATASETS_PATH")
            stats.add(wave)
            if dataset is None:
                dataset = _create(id, wave, env, by)
            else:
                dataset.storage.update_episodes([_buffer(episode, env) for episode in wave])
        assert dataset is not None
        summary = stats.summary()
        # minari itself would make an environment to write its spec
        spec = {name: text for name, text in [("env_spec", env.env_spec or task_spec(task))] if text is not None}
        ours = {"env": task, "text": texts_of(env.single_observation_space), **summary}
        dataset.storage.update_metadata({"rmt_rl": ours, **spec})
        place.parent.mkdir(parents=True, exist_ok=True)
        (root / id).rename(place)
    except (OSError, RuntimeError) as error:  # also where another process wrote the same dataset first
        # on a full disk h5py raises a second error, a RuntimeError, while it closes its file
        cause = error if isinstance(error, OSError) else error.__context__
        if not isinstance(cause, OSError):
            raise
        what = os.strerror(cause.errno) if cause.errno else " ".join(str(cause).split())
        raise ConfigError(f"out={id}: cannot be written: {what}") from error
    finally:
        if previous is None:
            os.environ.pop("MINARI_DATASETS_PATH", None)
        else:
            os.environ["MINARI_DATASETS_PATH"] = previous
        shutil.rmtree(root, ignore_errors=True)
    return place, summary


class _Statistics:
    """Returns, lengths and successes of the episodes written so far."""

    def __init__(self) -> None:
        self.returns: list[float] = []
        self.lengths: list[int] = []
        self.successes: list[bool | None] = []

    def add(self, wave: list[Recorded]) -> None:
        self.returns += [float(episode.reward.sum()) for episode in wave]
        self.lengths += [len(episode.reward) for episode in wave]
        self.successes += [episode.success for episode in wave]

    def summary(self) -> dict[str, float]:
        values = {
            "return_mean": float(np.mean(self.returns)),
            "return_min": min(self.returns),
            "return_max": max(self.returns),
            "length_mean": float(np.mean(self.lengths)),
        }
        if all(success is None for success in self.successes):
            return values
        # some environments report only what was won: no report is then a failure, as in `score`
        return values | {"success": sum(success is True for success in self.successes) / len(self.successes)}


def _create(id: str, wave: list[Recorded], env: TorchVectorEnv, by: str) -> Any:
    """A new Minari dataset with the first episodes."""
    import minari

    observations, actions = env.own_spaces()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # about the missing id of the environment
        return minari.create_dataset_from_buffers(
            id,
            [_buffer(episode, env) for episode in wave],
            observation_space=observations,
            action_space=actions,
            algorithm_name=by,
            author="unknown",
            author_email="unknown",
            code_permalink="unknown",
            description=f"{env.task}. Recorded by rmt_rl.collect.",
            jpeg_encoding=False,  # minari's default is lossy
        )


def _buffer(episode: Recorded, env: TorchVectorEnv) -> Any:
    """An episode as Minari takes it, in the environment's own spaces."""
    from minari.data_collector import EpisodeBuffer

    observations, actions = env.to_own(episode.obs, episode.action)
    return EpisodeBuffer(
        seed=episode.seed,
        observations=observations,
        actions=actions,
        rewards=episode.reward,
        terminations=_flags(len(episode.reward), episode.terminated),
        truncations=_flags(len(episode.reward), episode.truncated),
        infos={},
    )


def dataset_place(id: str) -> Path:
    """The folder of the Minari dataset `id`; raises ConfigError where the id is invalid or the dataset exists."""
    import minari
    from minari.dataset.minari_dataset import parse_dataset_id

    try:
        parse_dataset_id(id)
        root = Path(minari.storage.get_dataset_path())
        place = root / id
        exists = place.exists()
    except (OSError, TypeError, ValueError) as error:
        raise ConfigError(f"out={id}: expected a Minari id such as tmaze/oracle-v0 ({error})") from error
    if exists:
        raise ConfigError(f"out={id}: {place} exists already and is not overwritten; choose another name or version")
    for parent in (parent for parent in place.parents if root in parent.parents):
        if (parent / "data").exists() or not (parent.is_dir() or not parent.exists()):
            raise ConfigError(f"out={id}: {parent} is not a folder for datasets; choose another name")
    return place


def _bytes(part: Any) -> int:
    return sum(map(_bytes, part.values())) if isinstance(part, dict) else int(part.nbytes)


def _flags(steps: int, last: bool) -> Any:
    flags = np.zeros(steps, dtype=bool)
    flags[-1] = last
    return flags
