"""Action masks: the entry "action_mask" of an observation says which actions are allowed in this step.

One number for every choice: n for Discrete(n); for several elements the choices of all of them side by side, as in sb3-contrib.
0 = not allowed, anything else = allowed. A policy gives probability 0 to what is not allowed, and does not see the mask.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from gymnasium import spaces

from rmt_rl.common.errors import ConfigError
from rmt_rl.common.state import Obs
from rmt_rl.envs.actions import MixedActions, choice_sizes

KEY = "action_mask"


def has_mask(observations: spaces.Space[Any], actions: spaces.Space[Any]) -> bool:
    """Whether observations have a mask of these actions."""
    entries = observations.spaces if isinstance(observations, spaces.Dict) else {}
    return KEY in entries and _fits(tuple(entries[KEY].shape or ()), choice_sizes(actions))


def check_mask(observations: spaces.Space[Any], actions: spaces.Space[Any]) -> None:
    """Raises ConfigError where an "action_mask" is no mask of these actions, or all that there is to see."""
    entries = observations.spaces if isinstance(observations, spaces.Dict) else {}
    parts = [name for name in entries if name == KEY or name.startswith(f"{KEY}.")]
    if parts == [KEY] and has_mask(observations, actions):
        if len(entries) == 1:
            raise ConfigError(f"observation {KEY!r}: is the only part; expected another one beside it to act by")
    elif parts:
        sizes, shown = choice_sizes(actions), " ".join(str(actions).split())
        found = f"shape {tuple(entries[KEY].shape or ())}" if parts == [KEY] else f"the parts {parts}"
        wanted = f"one vector of {sum(sizes)} numbers" if sizes else "another name, because real numbers have no mask"
        raise ConfigError(f"observation {KEY!r}: has {found}, and the action space is {shown}; expected {wanted}")


def _fits(shape: tuple[int, ...], sizes: list[int]) -> bool:
    """One number for each choice: side by side, or a row for each element where all have equally many."""
    square = len(set(sizes)) == 1 and shape[-1:] == (sizes[0],)
    return bool(sizes) and math.prod(shape) == sum(sizes) and (len(shape) == 1 or square)


def without_mask(observations: spaces.Space[Any]) -> spaces.Space[Any]:
    """The part of the observation that a policy sees."""
    assert isinstance(observations, spaces.Dict)
    return spaces.Dict({name: part for name, part in observations.items() if name != KEY})


def mask_of(obs: Obs | dict[str, np.ndarray]) -> Any:
    """The mask in a batch of observations."""
    return obs[KEY]  # type: ignore[index]


def some_action(mask_BN: torch.Tensor, sizes: list[int]) -> torch.Tensor:
    """[B] whether every element has an allowed choice."""
    parts = (mask_BN.flatten(1) != 0).split(sizes, dim=1)
    return torch.stack([part.any(1) for part in parts]).all(0)


def no_action(mask_BN: torch.Tensor, sizes: list[int]) -> int | None:
    """The first row in which some element has no allowed choice, or None."""
    bad = ~some_action(mask_BN, sizes)
    return int(bad.nonzero()[0, 0]) if bool(bad.any()) else None


def is_allowed(mask_BN: np.ndarray, action_B: np.ndarray, sizes: list[int]) -> np.ndarray:
    """[B] whether the mask allows every element of the action."""
    offsets = np.cumsum([0, *sizes[:-1]])
    flat, choices = mask_BN.reshape(len(mask_BN), -1) != 0, action_B.reshape(len(action_B), -1)[:, : len(sizes)]
    chosen = np.take_along_axis(flat, choices.astype(np.int64) + offsets, axis=1)
    return np.asarray(chosen.all(1))


def sample_allowed(mask_BN: np.ndarray, actions: spaces.Space[Any], random: np.random.Generator) -> np.ndarray:
    """[B, ...] one of the allowed actions of every row, each as likely as any other."""
    sizes = choice_sizes(actions)
    flat = mask_BN.reshape(len(mask_BN), -1) != 0
    scores = np.where(flat, random.random(flat.shape), -1.0)
    parts = np.split(scores, np.cumsum(sizes)[:-1], axis=1)
    choices = np.stack([part.argmax(1) for part in parts], axis=1)
    if isinstance(actions, MixedActions):
        space = actions.reals
        space.seed(int(random.integers(2**31)))
        reals = np.stack([space.sample() for _ in choices])
        return np.concatenate([choices.astype(reals.dtype), reals], axis=1)
    return choices.reshape(len(flat), *(actions.shape or ()))
