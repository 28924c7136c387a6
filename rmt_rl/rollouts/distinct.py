"""Recognises episodes that were played before.

A deterministic policy plays the same episode again wherever a task draws the same hidden values. 64 episodes of a T-maze with one
length are then two observations, not 64.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch

from rmt_rl.common.rng import counter_bits
from rmt_rl.envs.base import Obs, TorchVectorEnv

#: Steps, and numbers of observations, that are kept until they are hashed together.
KEPT_STEPS, KEPT = 128, 1_000_000


class Watched:
    """An actor that remembers, as a hash, what the environment shows it in the first episode of every row.

    The hidden values that the task names count, too: an agent that never looks at the cue sees no difference.
    """

    def __init__(self, env: TorchVectorEnv, act: Callable[[Obs, torch.Tensor], torch.Tensor]) -> None:
        self._env, self._act = env, act
        self._hash = torch.zeros(env.num_envs, dtype=torch.int64, device=env.device)
        self._running: torch.Tensor | None = None
        self._kept: list[tuple[dict[str, torch.Tensor], torch.Tensor]] = []
        self._steps = 0

    def __call__(self, obs: Obs, first: torch.Tensor) -> torch.Tensor:
        if self._running is None:  # just after the reset, before any row can begin another episode
            self._hash = counter_bits(self._hash, digest(self._env.hidden(), self._env.num_envs).to(self._hash.device))
            self._running = torch.ones_like(first)
        else:
            self._running = self._running & ~first
        shown = obs if isinstance(obs, dict) else {"": obs}
        # a copy, because an environment may write its next observation into the same memory
        self._kept.append(({name: x.clone() for name, x in shown.items()}, self._running))
        if len(self._kept) * sum(x.numel() for x in shown.values()) >= KEPT or len(self._kept) >= KEPT_STEPS:
            self._add()
        return self._act(obs, first)

    def _add(self) -> None:
        """Adds the kept steps to the hash, many at a time: a hash of one step costs as much as a small network."""
        if not self._kept:
            return
        shown, running = zip(*self._kept, strict=True)
        steps, rows = len(shown), self._env.num_envs
        joined = {name: torch.stack([values[name] for values in shown]).flatten(0, 1) for name in shown[0]}
        found = digest(joined, steps * rows)
        number = torch.arange(self._steps, self._steps + steps, device=found.device).repeat_interleave(rows)
        new_TB = counter_bits(found, number).view(steps, rows).to(self._hash.device)
        self._hash = self._hash + torch.where(torch.stack(running), new_TB, 0).sum(0)
        self._steps += steps
        self._kept = []

    def keys(self, totals: Sequence[torch.Tensor]) -> Iterator[tuple[Any, ...]]:
        """What identifies the episode of each of the first n rows. totals: [n] return, length, success and more of them."""
        self._add()
        columns = [self._hash[: len(totals[0])].tolist(), *(column.tolist() for column in totals)]
        for row in zip(*columns, strict=True):
            yield tuple(None if math.isnan(value) else value for value in row)


def digest(values: dict[str, torch.Tensor], rows: int) -> torch.Tensor:
    """int64 [B]: a hash of each row of some tensors [B, ...]."""
    found = torch.zeros(rows, dtype=torch.int64)
    for number, name in enumerate(sorted(values)):
        x = values[name].reshape(rows, -1)
        if x.is_floating_point():
            x = (x.double() + 0.0).view(torch.int64)  # -0.0 is 0.0
        x = x.long()
        # the bits of 1.0 are all at the upper end, where a product would lose them
        x = x ^ (x >> 32)
        place = torch.arange(x.shape[1], device=x.device)
        factor = counter_bits(torch.full_like(place, number), place) | 1
        found = counter_bits(found.to(x.device), (x * factor).sum(1))
    return found
