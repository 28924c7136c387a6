"""Recorded episodes: read from a Minari dataset or from whoever plays them, kept on disk, drawn in batches of whole episodes.

The steps of all episodes lie end to end in memory-mapped tensors (torchrl's replay storage), so that a dataset may be larger
than the machine's memory. A batch is one row of T steps in which some episodes stand one after the other, each from its first
step on: what must be remembered is in the data, and nothing is padded, because every backbone takes resets anywhere.

Not torchrl's MinariExperienceReplay: that of 0.14.1 returns zeros (its memory-mapped copy is made after filling, without data).
"""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
import json
import operator
import shutil
import tempfile
import warnings
import weakref
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from tensordict import TensorDict
from torchrl.data import LazyMemmapStorage, TensorDictReplayBuffer

from rmt_rl.config import RATE, ConfigError, Returns, Train, show
from rmt_rl.data import Obs
from rmt_rl.envs.base import TorchVectorEnv
from rmt_rl.envs.registry import make_from_config
from rmt_rl.envs.returns import KEY
from rmt_rl.envs.translate import Arrays, Translation, action_space
from rmt_rl.policies.encoders import WIDEST_BOUNDS
from rmt_rl.policies.spaces import to_json
from rmt_rl.record import check_room, oracle_actor, record

#: What is recorded where no data are given, and how many episodes at a time.
EPISODES, ROWS = 2_000, 250
#: What the metadata of a dataset must tell.
NEEDED = ("observation_space", "action_space", "total_steps", "total_episodes")
#: Steps that are written to disk at a time.
CHUNK = 16_384
#: Bytes of an episode, unpacked: a file of some kilobytes can tell of terabytes of zeros.
LARGEST_EPISODE = 2**32


@dataclasses.dataclass(frozen=True)
class Episode:
    """T steps and how they ended. obs: arrays [T, ...], one before each action; action: [T, ...]; reward: [T] float64."""

    obs: Arrays
    action: np.ndarray
    reward: np.ndarray


@dataclasses.dataclass(frozen=True)
class Batch:
    """Some episodes, each from its first step, one after the other in one row of T steps.

    obs: [1, T, ...]. action: [1, T, ...]. first: [1, T] where an episode begins.
    """

    obs: Obs
    action: torch.Tensor
    first: torch.Tensor


class Dataset:
    """Recorded episodes on disk.

    begin, length: [E] the number of an episode's first step, and how many it has. total: [E] undiscounted returns, float64.
    space, action_space: of one step's observation, as recorded, and of its action. returns: bounds of the return to go.
    """

    def __init__(
        self, episodes: Iterable[Episode], steps: int, space: spaces.Space[Any], actions: spaces.Space[Any]
    ) -> None:
        """`episodes` have `steps` steps together; they are kept in a temporary folder, for as long as this object lives."""
        self.space, self.action_space = space, actions
        self.folder = tempfile.mkdtemp(prefix="rmt_rl-")
        weakref.finalize(self, shutil.rmtree, self.folder, ignore_errors=True)
        self._steps = TensorDictReplayBuffer(storage=LazyMemmapStorage(steps, scratch_dir=self.folder))
        lengths: list[int] = []
        totals, low, high = [], [], []
        waiting, count = [], 0
        self._sum = hashlib.blake2b(digest_size=32)
        for episode in episodes:
            to_go = episode.reward[::-1].cumsum()[::-1]
            obs = episode.obs if isinstance(episode.obs, dict) else {"observation": episode.obs}
            with np.errstate(over="ignore"):  # `returns` says so in a sentence, where they are used
                shown = to_go.astype(np.float32)
            fields = {**{f"obs/{k}": v for k, v in obs.items()}, "action": episode.action, "to_go": shown}
            if not lengths:
                # a memory-mapped file on a full disk ends the process, so this is asked before
                check_room(self.folder, steps * sum(value[:1].nbytes for value in fields.values()), "TMPDIR")
            fields = {key: np.ascontiguousarray(value) for key, value in fields.items()}
            for value in fields.values():
                self._sum.update(str((value.shape, value.dtype)).encode() + value.tobytes())
            waiting.append({key: torch.from_numpy(value) for key, value in fields.items()})
            lengths.append(len(to_go))
            totals.append(to_go[0])
            low.append(to_go.min())
            high.append(to_go.max())
            count += len(to_go)
            if count >= CHUNK:
                self._write(waiting)
                waiting, count = [], 0
        if waiting:
            self._write(waiting)
        self.length = torch.tensor(lengths)
        self.begin = self.length.cumsum(0) - self.length
        self.total = torch.tensor(totals, dtype=torch.float64)
        # 0 is what is left at the end. Without it the small differences of an expert's returns would fill the whole range, and
        # a policy would read off them how many steps are left instead of looking.
        self.low, self.high = float(min(0.0, *low)), float(max(0.0, *high))

    def __len__(self) -> int:
        """Episodes."""
        return len(self.length)

    def fingerprint(self) -> str:
        """A sum over all numbers of all episodes, in their order."""
        return self._sum.hexdigest()

    def __str__(self) -> str:
        best = float(self.total.max())
        return f"{len(self):,} episodes, {int(self.length.sum()):,} steps, returns {float(self.total.min()):.4g} to {best:.4g}"

    def returns(self, algo: RATE, begun: bool, saved: Returns | None) -> Returns | None:
        """What a policy is asked for. begun: it has been trained before, and `saved` is what it was asked for then."""
        if begun and algo.returns != (saved is not None):
            raise ConfigError(
                f"algo.returns={show(algo.returns)}: the policy of init was {'' if saved else 'not '}asked for returns before;"
                f" expected algo.returns={show(saved is not None)}"
            )
        if not algo.returns:
            return None
        bounds = saved or self
        if not bounds.high - bounds.low <= WIDEST_BOUNDS:
            raise ConfigError(
                f"algo.returns=true: returns of {bounds.low:.3g} to {bounds.high:.3g} are too far apart to be told; expected at"
                f" most {WIDEST_BOUNDS:.0g}: scale the rewards, or take algo.returns=false"
            )
        target = float(self.total.max()) if algo.target_return is None else algo.target_return
        return Returns(target=target, low=bounds.low, high=bounds.high)

    def batch(self, episodes: torch.Tensor, limit: int | None, returns: bool, device: torch.device) -> Batch:
        """The first `limit` steps (None = all) of the episodes with these numbers. returns: with the return to go."""
        index, first = spans(self.begin, self.length, episodes, limit)
        steps = self._steps[index]
        names = list(self.space) if isinstance(self.space, spaces.Dict) else ["observation"]
        obs = {name: steps[f"obs/{name}"].to(device)[None] for name in names}
        if returns:
            obs[KEY] = steps["to_go"].to(device)[None, :, None]
        shown: Obs = obs if returns or isinstance(self.space, spaces.Dict) else obs["observation"]
        return Batch(shown, steps["action"].to(device)[None], first.to(device)[None])

    def _write(self, waiting: list[dict[str, torch.Tensor]]) -> None:
        steps = {key: torch.cat([fields[key] for fields in waiting]) for key in waiting[0]}
        self._steps.extend(TensorDict(steps, batch_size=[len(steps["to_go"])]))


def load(run: Train) -> Dataset:
    """What a run of algo=rate learns from; raises ConfigError where it does not fit the run's task."""
    env = make_from_config(run.env, ROWS if run.data is None else 1)
    try:
        return _load(run, env)
    finally:
        env.close()


def _load(run: Train, env: TorchVectorEnv) -> Dataset:
    if run.data is None:
        waves = record(env, oracle_actor(env), EPISODES, run.seed)
        episodes = [Episode(_but_last(e.obs), e.action, e.reward) for wave in waves for e in wave]
        steps = sum(len(episode.reward) for episode in episodes)
        return Dataset(episodes, steps, env.single_observation_space, env.single_action_space)

    def fits(space: spaces.Space[Any], actions: spaces.Space[Any]) -> None:
        for kind, found, expected in (
            ("observation", space, env.single_observation_space),
            ("action", actions, env.single_action_space),
        ):
            if to_json(found) != to_json(expected):
                theirs, ours = (" ".join(str(space).split()) for space in (found, expected))
                raise ConfigError(
                    f"its {kind} space is {theirs}, but that of env={run.env.name} is {ours}; choose the environment that"
                    " was recorded"
                )

    return read_minari(run.data, fits)


def spans(
    begin: torch.Tensor, length: torch.Tensor, episodes: torch.Tensor, limit: int | None
) -> tuple[torch.Tensor, torch.Tensor]:
    """Numbers [T] of the first `limit` steps of some episodes, one after the other, and [T] which of them are the first."""
    steps = length[episodes] if limit is None else length[episodes].clamp(max=limit)
    row = torch.repeat_interleave(torch.arange(len(episodes)), steps)
    within = torch.arange(int(steps.sum())) - (steps.cumsum(0) - steps)[row]
    return begin[episodes][row] + within, within == 0


# ------------------------------------------------------------------------------------------------------------ Minari


def read_minari(data: str, fits: Callable[[spaces.Space[Any], spaces.Space[Any]], None] = lambda *_: None) -> Dataset:
    """The Minari dataset with the id `data`, or in the folder `data`. fits: raises ConfigError where its spaces are no use.

    Raises ConfigError, which names the dataset, the episode and the field, where something is missing or makes no sense.
    """
    import minari
    from minari.dataset.minari_storage import MinariStorage
    from PIL import EpsImagePlugin

    # minari decodes pictures with Pillow, which hands PostScript, a language, to a program
    EpsImagePlugin.gs_binary = False
    path = None
    try:
        path = Path(data) if Path(data).is_dir() else Path(minari.storage.get_dataset_path(data))
        path = path if (path / "metadata.json").is_file() or not (path / "data").is_dir() else path / "data"
        metadata = json.loads((path / "metadata.json").read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ConfigError(f"data={data}: no Minari dataset is there; local ones are {_local()}") from error
    except (OSError, ValueError, RecursionError) as error:
        raise ConfigError(f"data={data}: {path}: metadata.json cannot be read: {_short(error)}") from error
    if not isinstance(metadata, dict) or (missing := [name for name in NEEDED if name not in metadata]):
        # without its spaces minari would make the environment that the file names, which runs code that the file chooses
        raise ConfigError(
            f"data={data}: metadata.json lacks {missing[0] if isinstance(metadata, dict) else 'everything'}"
        )
    try:
        storage = MinariStorage.read(path)
        translated = Translation(storage.observation_space)
        actions = action_space(storage.action_space)
        fits(translated.space, actions)
        count, steps = operator.index(metadata["total_episodes"]), operator.index(metadata["total_steps"])
    except ConfigError as error:
        raise ConfigError(f"data={data}: {error}") from error
    except Exception as error:  # whatever a damaged file makes minari raise
        raise ConfigError(f"data={data}: cannot be read as a Minari dataset: {_short(error)}") from error
    if not 1 <= count <= steps:
        raise ConfigError(
            f"data={data}: has {count} episodes of {steps} steps together; expected one of one step at least"
        )

    def episodes() -> Iterator[Episode]:
        found, recorded, sizes = 0, iter(storage.get_episodes(range(count))), _sizes(path)
        for number in range(count):
            where = f"data={data}: episode {number}"
            try:
                if (size := next(sizes)) > LARGEST_EPISODE:
                    raise ConfigError(f"{where}: has {size:,} bytes; at most {LARGEST_EPISODE:,} are read")
                episode = _checked(next(recorded), translated, storage.action_space, actions, where)
            except ConfigError:
                raise
            except Exception as error:  # whatever a damaged file makes h5py, minari or Pillow raise
                raise ConfigError(f"{where}: cannot be read: {_short(error)}") from error
            found += len(episode.reward)
            if found > steps:
                raise ConfigError(f"{where}: there are more steps than the {steps:,} that metadata.json tells of")
            yield episode
        if found != steps:
            raise ConfigError(f"data={data}: has {found:,} steps, but metadata.json tells of {steps:,}")

    try:
        return Dataset(episodes(), steps, translated.space, actions)
    except (OSError, RuntimeError) as error:
        raise ConfigError(f"data={data}: cannot be copied to a temporary folder: {_short(error)}") from error


def _sizes(path: Path) -> Iterator[int]:
    """Bytes of episode 0, 1, ..., which HDF5 knows before it reads them; 0 of another format.

    Raises ValueError where an episode lies elsewhere: HDF5 follows links to any file that its author names.
    """
    import h5py

    if not (path / "main_data.hdf5").is_file():
        yield from itertools.repeat(0)

    def size(group: Any, name: str) -> int:
        link = group.get(name, getlink=True)
        # KeyError where nothing is there
        item = group[name] if link is None or isinstance(link, h5py.HardLink) else None
        if item is None or (isinstance(item, h5py.Dataset) and (item.external or item.is_virtual)):
            raise ValueError(f"{name} is a link to something else, which is not followed")
        return int(item.nbytes) if isinstance(item, h5py.Dataset) else sum(size(item, part) for part in item)

    with h5py.File(path / "main_data.hdf5", "r") as file:
        for number in itertools.count():
            yield size(file, f"episode_{number}")


def _local() -> str:
    import minari

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return ", ".join(sorted(minari.list_local_datasets())) or "none"
        except Exception as error:  # minari stumbles over any folder that looks like a dataset and is none
            return f"not known ({_short(error)})"


def _checked(
    raw: dict[str, Any], translated: Translation, recorded: spaces.Space[Any], actions: spaces.Space[Any], where: str
) -> Episode:
    reward = np.asarray(raw["rewards"])
    if reward.dtype.kind not in "biuf":
        raise ConfigError(f"{where}: rewards are of type {reward.dtype}; expected real numbers")
    reward = reward.astype(np.float64)
    T = reward.size
    if reward.ndim != 1 or T < 1:
        raise ConfigError(
            f"{where}: rewards have shape {reward.shape}; expected one number a step, and a step at least"
        )
    if not np.isfinite(reward).all():
        at = int(np.flatnonzero(~np.isfinite(reward))[0])
        raise ConfigError(f"{where}: rewards: step {at} is {reward[at]}; expected finite numbers")
    for name in ("terminations", "truncations"):
        flags = np.asarray(raw[name])
        if flags.shape != (T,) or flags[:-1].any():
            raise ConfigError(f"{where}: {name}: expected {T} flags of which only the last may be true")
    obs = translated(raw["observations"])
    parts = obs if isinstance(obs, dict) else {"": obs}
    known = translated.space.spaces if isinstance(translated.space, spaces.Dict) else {"": translated.space}
    for name, value in parts.items():
        field = f"observations {name!r}" if name else "observations"
        # Minari keeps the last observation too, before which nothing was done
        if value.shape != (T + 1, *(known[name].shape or ())):
            raise ConfigError(
                f"{where}: {field} have shape {value.shape}; expected {(T + 1, *(known[name].shape or ()))}"
            )
        if value.dtype.kind == "f" and not np.isfinite(value).all():
            at = int(np.flatnonzero(~np.isfinite(value.reshape(T + 1, -1)).all(1))[0])
            raise ConfigError(f"{where}: {field}: step {at} is not finite")
        lowest, highest = _ends(known[name])
        if lowest is not None and not (inside := (value >= lowest) & (value <= highest)).all():
            at = int(np.flatnonzero(~inside.reshape(T + 1, -1).all(1))[0])
            raise ConfigError(f"{where}: {field}: step {at} is outside {known[name]}")
    action = np.asarray(raw["actions"])
    if action.shape != (T, *(actions.shape or ())):
        raise ConfigError(f"{where}: actions have shape {action.shape}; expected {(T, *(actions.shape or ()))}")
    if isinstance(actions, spaces.Box):
        good = np.isfinite(action)
        action = np.clip(action.astype(np.float32), actions.low, actions.high)  # as the environment did
    elif action.dtype.kind not in "iub":
        raise ConfigError(f"{where}: actions are of type {action.dtype}; expected whole numbers")
    else:
        action = action.astype(np.int64) - np.asarray(recorded.start, np.int64)  # type: ignore[attr-defined,arg-type]
        lowest, highest = _ends(actions)
        good = (action >= lowest) & (action <= highest)
    if not good.all():
        at = int(np.flatnonzero(~good.reshape(T, -1).all(1))[0])
        raise ConfigError(f"{where}: actions: step {at} is {action[at].tolist()}, outside {actions}")
    return Episode(_but_last(obs), action, reward)


def _ends(space: spaces.Space[Any]) -> tuple[Any, Any]:
    """The least and the largest value of a space of whole numbers; None, None of others."""
    if isinstance(space, spaces.Discrete):
        return 0, space.n - 1
    if isinstance(space, spaces.MultiDiscrete):
        return 0, space.nvec - 1
    if isinstance(space, spaces.MultiBinary):
        return 0, 1
    whole = isinstance(space, spaces.Box) and space.dtype.kind in "iu"
    return (space.low, space.high) if whole else (None, None)  # type: ignore[attr-defined]


def _but_last(obs: Any) -> Any:
    return {key: value[:-1] for key, value in obs.items()} if isinstance(obs, dict) else obs[:-1]


def _short(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:160]}"
