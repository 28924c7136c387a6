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

if TYPE_CHECKING:
    from rmt_rl.envs.base import TorchVectorEnv
    from rmt_rl.rollouts.episodes import Recorded

#: What HDF5 takes for an episode beside its numbers: 15 kB with one kind of observation, more with several.
EPISODE_BYTES = 32 * 1024


def write_minari(
    waves: Iterator[list[Recorded]], id: str, env: TorchVectorEnv, by: str, task: dict[str, Any]
) -> tuple[Path, dict[str, float]]:
    """Write recorded episodes as the Minari dataset `id`; returns its folder and what its metadata say of the episodes.

    The dataset appears when it is complete. Raises ConfigError where it exists already.
    """
    import minari
    from minari.data_collector import EpisodeBuffer

    from rmt_rl.rollouts.episodes import check_room

    place = dataset_place(id)
    root = Path(tempfile.mkdtemp(prefix=".recording-", dir=minari.storage.get_dataset_path()))
    kept = os.environ.get("MINARI_DATASETS_PATH")
    returns, lengths, successes = [], [], []
    try:
        os.environ["MINARI_DATASETS_PATH"] = str(root)
        dataset = None
        for wave in waves:
            buffers = [
                EpisodeBuffer(
                    seed=episode.seed,
                    observations=episode.obs,
                    actions=episode.action,
                    rewards=episode.reward,
                    terminations=_flags(len(episode.reward), episode.terminated),
                    truncations=_flags(len(episode.reward), episode.truncated),
                    infos={},
                )
                for episode in wave
            ]
            # HDF5 on a full disk may end the process (a segmentation fault was seen), so this is asked before
            size = sum(_bytes(part) for episode in wave for part in (episode.obs, episode.action, episode.reward))
            check_room(root, size + len(wave) * EPISODE_BYTES, "MINARI_DATASETS_PATH")
            returns += [float(episode.reward.sum()) for episode in wave]
            lengths += [len(episode.reward) for episode in wave]
            successes += [episode.success for episode in wave if episode.success is not None]
            if dataset is None:
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore", UserWarning)  # of an environment that minari could make by an id
                    dataset = minari.create_dataset_from_buffers(
                        id,
                        buffers,
                        observation_space=env.single_observation_space,
                        action_space=env.single_action_space,
                        algorithm_name=by,
                        author="unknown",
                        author_email="unknown",
                        code_permalink="unknown",
                        description=f"{env.task}. Recorded by rmt_rl.collect.",
                        jpeg_encoding=False,  # minari's default loses what a cue looks like
                    )
            else:
                dataset.storage.update_episodes(buffers)
        assert dataset is not None
        stats = {
            "return_mean": float(np.mean(returns)),
            "return_min": min(returns),
            "return_max": max(returns),
            "length_mean": float(np.mean(lengths)),
        }
        if successes:
            stats["success"] = float(np.mean(successes))
        dataset.storage.update_metadata({"rmt_rl": {"env": task, **stats}})
        place.parent.mkdir(parents=True, exist_ok=True)
        (root / id).rename(place)
    except (OSError, RuntimeError) as error:  # somebody may have been faster, too
        # a full disk fails h5py once more, with a RuntimeError, when it closes its file on the way out
        cause = error if isinstance(error, OSError) else error.__context__
        if not isinstance(cause, OSError):
            raise
        what = os.strerror(cause.errno) if cause.errno else " ".join(str(cause).split())
        raise ConfigError(f"out={id}: cannot be written: {what}") from error
    finally:
        if kept is None:
            os.environ.pop("MINARI_DATASETS_PATH", None)
        else:
            os.environ["MINARI_DATASETS_PATH"] = kept
        shutil.rmtree(root, ignore_errors=True)
    return place, stats


def dataset_place(id: str) -> Path:
    """Where the Minari dataset `id` will lie; raises ConfigError where it cannot be made or exists."""
    import minari
    from minari.dataset.minari_dataset import parse_dataset_id

    try:
        parse_dataset_id(id)
        root = Path(minari.storage.get_dataset_path())
        place = root / id
        there = place.exists()
    except (OSError, TypeError, ValueError) as error:
        raise ConfigError(f"out={id}: expected a Minari id such as tmaze/oracle-v0 ({error})") from error
    if there:
        raise ConfigError(f"out={id}: {place} exists already and is not written over; take another name or version")
    for parent in (parent for parent in place.parents if root in parent.parents):
        if (parent / "data").exists() or not (parent.is_dir() or not parent.exists()):
            raise ConfigError(f"out={id}: {parent} is no folder for datasets; take another name")
    return place


def _bytes(part: Any) -> int:
    return sum(map(_bytes, part.values())) if isinstance(part, dict) else int(part.nbytes)


def _flags(steps: int, last: bool) -> Any:
    flags = np.zeros(steps, dtype=bool)
    flags[-1] = last
    return flags
