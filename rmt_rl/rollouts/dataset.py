"""Recorded episodes on disk, drawn in batches of whole episodes.

The steps of all episodes are stored one after the other in memory-mapped tensors (torchrl's replay storage), so a dataset may
be larger than the machine's memory. A batch is one row of T steps that holds some episodes one after the other, each from its
first step. No padding is needed, because every backbone accepts resets at any step.

torchrl's MinariExperienceReplay is not used: version 0.14.1 returns zeros (it fills the storage before the memory-mapped copy).
"""

from __future__ import annotations

import dataclasses
import hashlib
import shutil
import tempfile
import weakref
from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from tensordict import TensorDict
from torchrl.data import LazyMemmapStorage, TensorDictReplayBuffer

from rmt_rl.common.errors import ConfigError
from rmt_rl.common.state import Obs
from rmt_rl.config.algos import RATEConfig
from rmt_rl.config.commands import ReturnConditioning
from rmt_rl.config.fields import show
from rmt_rl.envs.gym.translate import Arrays
from rmt_rl.envs.wrappers.return_to_go import KEY
from rmt_rl.policies.encoders import WIDEST_BOUNDS
from rmt_rl.rollouts.episodes import check_room

#: Steps that are written to disk at a time.
CHUNK = 16_384


@dataclasses.dataclass(frozen=True)
class Episode:
    """T steps. obs: arrays [T, ...], one before each action; action: [T, ...]; reward: [T] float64."""

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

    @property
    def steps(self) -> int:
        """Environment steps of all episodes."""
        return self.first.shape[1]


class Dataset:
    """Recorded episodes on disk.

    begin, length: [E] the number of an episode's first step, and how many it has. total: [E] undiscounted returns, float64.
    space, action_space: of one step's observation, as recorded, and of its action. action_start, own_actions: as in `PolicySpec`,
    of the environment of the recording. low, high: bounds of the return to go.
    """

    def __init__(
        self,
        episodes: Iterable[Episode],
        steps: int,
        space: spaces.Space[Any],
        actions: spaces.Space[Any],
        action_start: int | list[Any] = 0,
        own_actions: spaces.Space[Any] | None = None,
    ) -> None:
        """`episodes` have `steps` steps in total. They are kept in a temporary folder, which is removed with this object."""
        self.space, self.action_space = space, actions
        self.action_start, self.own_actions = action_start, own_actions
        self.folder = tempfile.mkdtemp(prefix="rmt_rl-")
        weakref.finalize(self, shutil.rmtree, self.folder, ignore_errors=True)
        self._steps = TensorDictReplayBuffer(storage=LazyMemmapStorage(steps, scratch_dir=self.folder))
        # write the episodes in chunks, and note length and return of each
        lengths: list[int] = []
        totals, low, high = [], [], []
        waiting, count = [], 0
        self._sum = hashlib.blake2b(digest_size=32)
        for episode in episodes:
            to_go = episode.reward[::-1].cumsum()[::-1]
            obs = episode.obs if isinstance(episode.obs, dict) else {"observation": episode.obs}
            with np.errstate(over="ignore"):  # `returns` raises an error where they are used
                shown = to_go.astype(np.float32)
            fields = {**{f"obs/{k}": v for k, v in obs.items()}, "action": episode.action, "to_go": shown}
            if not lengths:
                # writing a memory-mapped file on a full disk kills the process, so free space is checked first
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
        # index of the episodes, and the range of returns to go
        self.length = torch.tensor(lengths)
        self.begin = self.length.cumsum(0) - self.length
        self.total = torch.tensor(totals, dtype=torch.float64)
        # 0 is the return to go after the last step. Without it the small differences of an expert's returns would fill the whole
        # range, and a policy could read the number of remaining steps from them instead of using the observation.
        self.low, self.high = float(min(0.0, *low)), float(max(0.0, *high))

    def __len__(self) -> int:
        """Episodes."""
        return len(self.length)

    def fingerprint(self) -> str:
        """A checksum of all numbers of all episodes, in their order."""
        return self._sum.hexdigest()

    def __str__(self) -> str:
        best = float(self.total.max())
        return f"{len(self):,} episodes, {int(self.length.sum()):,} steps, returns {float(self.total.min()):.4g} to {best:.4g}"

    def returns(self, algo: RATEConfig, trained: bool, saved: ReturnConditioning | None) -> ReturnConditioning | None:
        """The return conditioning of a policy on these data. trained: the policy comes from `init=`, and `saved` is its own."""
        if trained and algo.returns != (saved is not None):
            raise ConfigError(
                f"algo.returns={show(algo.returns)}: the policy of init is {'' if saved else 'not '}return-conditioned;"
                f" expected algo.returns={show(saved is not None)}"
            )
        if not algo.returns:
            return None
        bounds = saved or self
        if not bounds.high - bounds.low <= WIDEST_BOUNDS:
            raise ConfigError(
                f"algo.returns=true: returns of {bounds.low:.3g} to {bounds.high:.3g} differ by more than"
                f" {WIDEST_BOUNDS:.0g}, the most that can be encoded; scale the rewards, or use algo.returns=false"
            )
        target = float(self.total.max()) if algo.target_return is None else algo.target_return
        return ReturnConditioning(target=target, low=bounds.low, high=bounds.high)

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

    def actions(self, episodes: torch.Tensor) -> torch.Tensor:
        """[T, ...] the actions of the episodes with these numbers, one after the other."""
        index, _ = spans(self.begin, self.length, episodes, None)
        actions: torch.Tensor = self._steps[index]["action"]
        return actions

    def _write(self, waiting: list[dict[str, torch.Tensor]]) -> None:
        steps = {key: torch.cat([fields[key] for fields in waiting]) for key in waiting[0]}
        self._steps.extend(TensorDict(steps, batch_size=[len(steps["to_go"])]))


def spans(
    begin: torch.Tensor, length: torch.Tensor, episodes: torch.Tensor, limit: int | None
) -> tuple[torch.Tensor, torch.Tensor]:
    """Numbers [T] of the first `limit` steps of some episodes, one after the other, and [T] which of them are the first."""
    steps = length[episodes] if limit is None else length[episodes].clamp(max=limit)
    row = torch.repeat_interleave(torch.arange(len(episodes)), steps)
    within = torch.arange(int(steps.sum())) - (steps.cumsum(0) - steps)[row]
    return begin[episodes][row] + within, within == 0


def but_last(obs: Any) -> Any:
    """Observations without the last one, which no action follows."""
    return {key: value[:-1] for key, value in obs.items()} if isinstance(obs, dict) else obs[:-1]
