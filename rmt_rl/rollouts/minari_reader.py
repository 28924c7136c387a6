"""Reads Minari datasets and validates every episode, because the files may be untrusted."""

from __future__ import annotations

import itertools
import operator
import os
import stat
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from gymnasium import spaces

from rmt_rl.common.errors import ConfigError
from rmt_rl.config.datasets import find_dataset, short
from rmt_rl.envs.actions import ActionTranslation, Part, choice_sizes
from rmt_rl.envs.gym.translate import Translation, WrongObservation, part_of
from rmt_rl.envs.masks import has_mask, is_allowed, mask_of
from rmt_rl.envs.observations import LARGEST, whole_number_ends
from rmt_rl.envs.text import with_texts
from rmt_rl.rollouts.dataset import Dataset, Episode, but_last

#: Required keys of metadata.json.
NEEDED = ("observation_space", "action_space", "total_steps", "total_episodes")
#: Bytes of an unpacked episode: a compressed file of some kilobytes can hold terabytes of zeros.
LARGEST_EPISODE = 2**32


def read_minari(
    data: str, fits: Callable[[spaces.Space[Any], spaces.Space[Any]], None] = lambda *_: None, text: bool = False
) -> Dataset:
    """The Minari dataset with the id `data`, or in the folder `data`. fits: raises ConfigError where its spaces do not fit.

    text: text in observations is read as its bytes; otherwise it is left out.

    Raises ConfigError with the dataset, the episode and the field where something is missing or invalid.
    """
    path, metadata = find_dataset(data)
    from minari.dataset.minari_storage import MinariStorage
    from PIL import EpsImagePlugin

    # minari decodes pictures with Pillow, which runs Ghostscript on PostScript
    EpsImagePlugin.gs_binary = False
    if missing := [name for name in NEEDED if name not in metadata]:
        # without the spaces minari would build the environment that the file names, and the file could run any code
        raise ConfigError(f"data={data}: metadata.json lacks {missing[0]}")
    # translate its spaces, and compare them with the task
    try:
        _check_files(path)
        storage = MinariStorage.read(path)
        translated = Translation(storage.observation_space, text)
        actions = ActionTranslation(storage.action_space)
        ours = metadata.get("rmt_rl")
        space = with_texts(translated.space, ours.get("text") if text and isinstance(ours, Mapping) else None)
        fits(space, actions.space)
        count, steps = operator.index(metadata["total_episodes"]), operator.index(metadata["total_steps"])
    except ConfigError as error:
        raise ConfigError(f"data={data}: {error}") from error
    except Exception as error:  # any error that a damaged file causes in minari
        raise ConfigError(f"data={data}: cannot be read as a Minari dataset: {short(error)}") from error
    if not 1 <= count <= steps:
        raise ConfigError(
            f"data={data}: has {count} episodes of {steps} steps in total; expected at least one episode and one step each"
        )

    def episodes() -> Iterator[Episode]:
        found, recorded, sizes = 0, iter(storage.get_episodes(range(count))), _sizes(path)
        for number in range(count):
            where = f"data={data}: episode {number}"
            try:
                if (size := next(sizes)) > LARGEST_EPISODE:
                    raise ConfigError(f"{where}: has {size:,} bytes; at most {LARGEST_EPISODE:,} are read")
                episode = _checked(next(recorded), translated, actions, where)
            except ConfigError:
                raise
            except Exception as error:  # any error that a damaged file causes in h5py, minari or Pillow
                raise ConfigError(f"{where}: cannot be read: {short(error)}") from error
            found += len(episode.reward)
            if found > steps:
                raise ConfigError(f"{where}: there are more steps than the {steps:,} of metadata.json")
            yield episode
        if found != steps:
            raise ConfigError(f"data={data}: has {found:,} steps, but {steps:,} according to metadata.json")

    try:
        return Dataset(episodes(), steps, space, actions.space, actions.own_start, actions.own_to_keep)
    except (OSError, RuntimeError) as error:
        raise ConfigError(f"data={data}: cannot be copied to a temporary folder: {short(error)}") from error


def _check_files(path: Path) -> None:
    """Raise ConfigError where something in the dataset is neither file nor folder: opening a pipe waits forever."""
    for place, _, names in os.walk(path):
        for name in names:
            if not stat.S_ISREG((Path(place) / name).stat().st_mode):
                raise ConfigError(f"{Path(place) / name}: is not a regular file")


def _sizes(path: Path) -> Iterator[int]:
    """Bytes of episode 0, 1, ..., from HDF5 metadata before the data are read; 0 for other formats.

    Raises ValueError where an episode is a link: HDF5 would follow it to any file.
    """
    import h5py

    if not (path / "main_data.hdf5").is_file():
        yield from itertools.repeat(0)

    def size(group: Any, name: str) -> int:
        link = group.get(name, getlink=True)
        # raises KeyError where it does not exist
        item = group[name] if link is None or isinstance(link, h5py.HardLink) else None
        if item is None or (isinstance(item, h5py.Dataset) and (item.external or item.is_virtual)):
            raise ValueError(f"{name} is a link, and links are not followed")
        return int(item.nbytes) if isinstance(item, h5py.Dataset) else sum(size(item, part) for part in item)

    with h5py.File(path / "main_data.hdf5", "r") as file:
        for number in itertools.count():
            yield size(file, f"episode_{number}")


def _checked(raw: dict[str, Any], translated: Translation, actions: ActionTranslation, where: str) -> Episode:
    """The episode with every field checked; raises ConfigError."""
    # rewards, which define the number of steps
    reward = np.asarray(raw["rewards"])
    if reward.dtype.kind not in "biuf":
        raise ConfigError(f"{where}: rewards are of type {reward.dtype}; expected real numbers")
    reward = reward.astype(np.float64)
    T = reward.size
    if reward.ndim != 1 or T < 1:
        raise ConfigError(
            f"{where}: rewards have shape {reward.shape}; expected one number per step, and at least one step"
        )
    if not np.isfinite(reward).all():
        at = int(np.flatnonzero(~np.isfinite(reward))[0])
        raise ConfigError(f"{where}: rewards: step {at} is {reward[at]}; expected finite numbers")
    # ends
    for name in ("terminations", "truncations"):
        flags = np.asarray(raw[name])
        if flags.shape != (T,) or flags[:-1].any():
            raise ConfigError(f"{where}: {name}: expected {T} flags of which only the last may be true")
    # observations
    try:
        obs = translated(raw["observations"])
    except WrongObservation as error:
        raise ConfigError(f"{where}: observations: {error}") from error
    parts = obs if isinstance(obs, dict) else {"": obs}
    known = translated.space.spaces if isinstance(translated.space, spaces.Dict) else {"": translated.space}
    for name, value in parts.items():
        field = f"observations {name!r}" if name else "observations"
        # Minari also keeps the observation after the last action
        if value.shape != (T + 1, *(known[name].shape or ())):
            raise ConfigError(
                f"{where}: {field} have shape {value.shape}; expected {(T + 1, *(known[name].shape or ()))}"
            )
        if value.dtype.kind == "f" and not (good := np.abs(value) <= LARGEST).all():
            at = int(np.flatnonzero(~good.reshape(T + 1, -1).all(1))[0])
            raise ConfigError(f"{where}: {field}: step {at} is not finite, or beyond {LARGEST:g}")
        ends = whole_number_ends(known[name])
        if ends is not None and not (inside := (value >= ends[0]) & (value <= ends[1])).all():
            at = int(np.flatnonzero(~inside.reshape(T + 1, -1).all(1))[0])
            raise ConfigError(f"{where}: {field}: step {at} is outside {known[name]}")
    action = actions.join([_checked_action(raw["actions"], part, T, where) for part in actions.parts])
    if has_mask(translated.space, actions.space):
        allowed = is_allowed(mask_of(obs)[:-1], action, choice_sizes(actions.space))  # type: ignore[arg-type]
        if not allowed.all():
            at = int(np.flatnonzero(~allowed)[0])
            raise ConfigError(
                f"{where}: actions: step {at} is {action[at].tolist()}, which the action_mask of its observation does not allow"
            )
    return Episode(but_last(obs), action, reward)


def _checked_action(raw: Any, part: Part, T: int, where: str) -> np.ndarray:
    """One part of the actions [T, ...] in its translated space; raises ConfigError."""
    where = f"{where}: actions" + (f" {part.name!r}" if part.path else "")
    try:
        action, space = np.asarray(part_of(raw, part.path)), part.space
    except WrongObservation as error:
        raise ConfigError(f"{where}: {str(error).replace('an observation', 'actions')}") from error
    if action.shape != (T, *(space.shape or ())):
        raise ConfigError(f"{where} have shape {action.shape}; expected {(T, *(space.shape or ()))}")
    if isinstance(space, spaces.Box):
        good = np.isfinite(action)
        action = np.clip(action.astype(np.float32), space.low, space.high)  # as the environment did
    elif action.dtype.kind not in "iub":
        raise ConfigError(f"{where} are of type {action.dtype}; expected whole numbers")
    else:
        action = action.astype(np.int64) - part.start
        lowest, highest = whole_number_ends(space)  # type: ignore[misc]
        good = (action >= lowest) & (action <= highest)
    if not good.all():
        at = int(np.flatnonzero(~good.reshape(T, -1).all(1))[0])
        raise ConfigError(f"{where}: step {at} is {action[at].tolist()}, outside {space}")
    return action
