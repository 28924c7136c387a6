"""Vector environments of other people (gymnasium's, envpool's, SuperSuit's, gymnax's wrappers) as rows that `GymAdapter` steps.

`GymAdapter` needs SAME_STEP autoreset, numpy arrays and translated spaces. Vector environments restart episodes in three ways:

- SAME_STEP: as needed. The last observation of an episode is in info["final_obs"], info["final_observation"], or a row's
  "terminal_observation".
- DISABLED, and NEXT_STEP of gymnasium's own two classes: the rows that ended are reset by options["reset_mask"].
- NEXT_STEP of other classes: the step after the end ignores the action and returns the first observation of the next episode.
  No row can be restarted without a step of all others, so that step counts as the last one of the old episode, with reward 0:
  the returns are the same, and every episode is one step longer.
"""

from __future__ import annotations

import inspect
import sys
from typing import Any

import numpy as np
from gymnasium import Env, spaces
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, SyncVectorEnv

from rmt_rl.common.errors import ConfigError
from rmt_rl.config.fields import show
from rmt_rl.envs.actions import ActionTranslation
from rmt_rl.envs.gym.bounds import stated_bounds
from rmt_rl.envs.gym.masks import METHOD
from rmt_rl.envs.gym.reports import batched, reports_in
from rmt_rl.envs.gym.translate import Arrays, Translation, WrongObservation, plain_array
from rmt_rl.envs.masks import KEY, has_mask, mask_of

#: Names of the last observation of an episode: of gymnasium from 1.1 and before, and of Stable-Baselines3 and SuperSuit.
FINAL = ("final_obs", "final_observation", "terminal_observation")
FLAGS = ("terminations", "truncations")


class VectorRows:
    """`env` with SAME_STEP autoreset and translated spaces: the part of `gymnasium.vector.VectorEnv` that `GymAdapter` needs.

    Raises ConfigError where the environment lacks an attribute or returns another form than gymnasium's.
    """

    def __init__(self, env: Any) -> None:
        self.inner, self._name = env, type(env).__name__
        rows = env.num_envs
        if isinstance(rows, bool) or not isinstance(rows, int | np.integer) or rows < 1:
            raise ConfigError(f"{self._name}: num_envs is {show(rows)}; expected a whole number, at least 1")
        self.num_envs = int(rows)
        # envpool and SuperSuit call the spaces of one row observation_space and action_space
        own: list[Any] = [
            getattr(env, f"single_{name}", getattr(env, name, None)) for name in ("observation_space", "action_space")
        ]
        for name, space in zip(("observation_space", "action_space"), own, strict=True):
            if not isinstance(space, spaces.Space):
                raise ConfigError(f"{self._name}: has no single_{name}; expected a gymnasium.Space, that of one row")
        self._translated, self._actions = Translation(own[0]), ActionTranslation(own[1])
        self.own = (own[0], own[1], None, stated_bounds(env))
        self.single_observation_space, self.single_action_space = self._translated.space, self._actions.space
        self.render_mode = getattr(env, "render_mode", None)
        self.has_time_limit = getattr(getattr(env, "spec", None), "max_episode_steps", None) is not None
        self._mode = self._autoreset_mode()
        # both accept options["reset_mask"] with every mode; of other classes only DISABLED demands it
        self._resets_rows = self._mode is AutoresetMode.DISABLED or type(env) in (SyncVectorEnv, AsyncVectorEnv)
        parameters = inspect.signature(env.reset).parameters
        self._seeds = "seed" in parameters or any(p.kind is p.VAR_KEYWORD for p in parameters.values())
        self._warned: set[str] = set()
        self._obs: Arrays = {}
        # terminated and truncated: the next step restarts these rows
        self._ending = np.zeros((2, self.num_envs), dtype=bool)
        self._reports: dict[int, dict[str, Any]] = {}  # of the rows that are ending

    def reset(self, *, seed: list[int | None] | None, options: dict[str, Any] | None) -> tuple[Arrays, dict[str, Any]]:
        mask = None if options is None else options.get("reset_mask")
        if mask is not None and not self._resets_rows:
            raise ValueError(f"{self._name}: reset_mask was given, but it cannot restart single rows; reset all rows")
        given: dict[str, Any] = {} if options is None else {"options": options}
        if self._seeds:
            # a whole number where the rows have consecutive seeds: not every class accepts a list
            counted = seed is not None and seed[0] is not None and seed == [seed[0] + i for i in range(self.num_envs)]
            given["seed"] = seed[0] if counted and seed is not None else seed
        elif seed is not None:
            self._warn("reset has no argument seed; its episodes are not reproducible unless it was made with a seed")
        back: Any = self.inner.reset(**given)
        if not isinstance(back, tuple) or len(back) != 2:
            raise ConfigError(f"{self._name}: reset returned {kind_of(back)}; expected (observations, infos)")
        self._obs = self._observations(back[0], "reset")
        if mask is None:
            self._ending, self._reports = np.zeros_like(self._ending), {}
        self._warn_of_unused_mask(back[1])
        return self._obs, {}

    def step(self, action_B: np.ndarray) -> tuple[Arrays, np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]:
        back: Any = self.inner.step(self._actions.to_own(action_B))
        if not isinstance(back, tuple) or len(back) != 5:
            wanted = "expected (observations, rewards, terminations, truncations, infos)"
            raise ConfigError(f"{self._name}: step returned {kind_of(back)}; {wanted}")
        obs, rewards, infos = self._observations(back[0], "step"), self._rewards(back[1]), back[4]
        flags: Any = np.stack([self._flags(name, flag) for name, flag in zip(FLAGS, back[2:4], strict=True)])
        if self._mode is AutoresetMode.NEXT_STEP and not self._resets_rows:
            # rows whose episode ended with the step before are restarted by this one
            ended, reports = np.asarray(self._ending.any(axis=0)), self._reports
            last = {row: _row_of(self._obs, row) for row in np.flatnonzero(ended).tolist()}
            flags, self._ending = self._ending, flags & ~ended
            rewards = np.where(ended, 0.0, rewards)
            self._reports = self._reported(infos, np.asarray(self._ending.any(axis=0)))
            obs = self._allowing(np.asarray(self._ending.any(axis=0)), obs)
        else:
            ended = np.asarray(flags.any(axis=0))
            rows, reports = np.flatnonzero(ended).tolist(), self._reported(infos, ended)
            if self._mode is AutoresetMode.SAME_STEP:
                last = {row: self._last(infos, row, flags[:, row]) for row in rows}
            else:
                last = {row: _row_of(obs, row) for row in rows}
                obs = self._restarted(ended, obs) if rows else obs
        self._obs = obs
        found = batched(reports, self.num_envs)
        final = [last.get(row) for row in range(self.num_envs)]
        return obs, rewards, flags[0], flags[1], {"final_obs": final, "final_info": found}

    def _restarted(self, ended: np.ndarray, obs: Arrays) -> Arrays:
        """The observations after the rows that ended were reset."""
        back = self.inner.reset(options={"reset_mask": ended})
        fresh: Arrays = _select(ended, self._observations(back[0], "reset"), obs)
        return fresh

    def _allowing(self, ending: np.ndarray, obs: Arrays) -> Arrays:
        """`obs` with masks that allow everything in rows of which the next action is ignored: those of last observations may
        allow nothing."""
        if not has_mask(self.single_observation_space, self.single_action_space):
            return obs
        masks = mask_of(obs)  # type: ignore[arg-type]
        return {**obs, KEY: _select(ending, np.ones_like(masks), masks)}  # type: ignore[dict-item]

    @property
    def np_random_seed(self) -> Any:
        return getattr(self.inner, "np_random_seed", None)

    def get_attr(self, name: str) -> tuple[Any, ...]:
        return (getattr(self, name),)

    def render(self) -> Any:
        return self.inner.render()

    def close(self, **options: Any) -> None:
        self.inner.close(**options)

    def _autoreset_mode(self) -> AutoresetMode:
        mode = (getattr(self.inner, "metadata", None) or {}).get("autoreset_mode")
        try:
            return mode if isinstance(mode, AutoresetMode) else AutoresetMode(mode)
        except ValueError:
            found = "is missing" if mode is None else f"is {show(repr(mode))}"
            raise ConfigError(
                f'{self._name}: metadata["autoreset_mode"] {found}; set it to gymnasium.vector.AutoresetMode.NEXT_STEP where'
                " the step after the end of an episode restarts it (envpool), to SAME_STEP where the last step does (gymnax,"
                " SuperSuit), or to DISABLED"
            ) from None

    def _observations(self, obs: Any, where: str) -> Arrays:
        """The translated observations of all rows."""
        return self._checked(self._translate(obs, where), where, (self.num_envs,))

    def _checked(self, arrays: Arrays, where: str, rows: tuple[int, ...]) -> Arrays:
        for name, part in arrays.items() if isinstance(arrays, dict) else [("", arrays)]:
            space = self.single_observation_space[name] if name else self.single_observation_space  # type: ignore[index]
            shape = (*rows, *(space.shape or ()))
            if part.shape != shape:
                what = f"observations {name!r}" if name else "observations"
                raise ConfigError(f"{self._name}: {where} returned {what} of shape {part.shape}; expected {shape}")
        return arrays

    def _translate(self, obs: Any, where: str) -> Arrays:
        try:
            return self._translated(obs)
        except WrongObservation as error:
            raise ConfigError(f"{self._name}: {where} returned {error}") from error

    def _rewards(self, found: Any) -> np.ndarray:
        array = plain_array(found)
        if array.shape != (self.num_envs,) or array.dtype.kind not in "biuf":
            raise ConfigError(
                f"{self._name}: step returned the rewards {show(repr(found))}; expected {self.num_envs} numbers"
            )
        return array.astype(np.float64)

    def _flags(self, name: str, found: Any) -> np.ndarray:
        array = plain_array(found)
        if array.dtype != np.bool_ or array.shape not in ((), (self.num_envs,)):
            raise ConfigError(
                f"{self._name}: step returned {name} = {show(repr(found))}; expected {self.num_envs} values True or False,"
                " or one for all rows"
            )
        return np.broadcast_to(array, (self.num_envs,))

    def _reported(self, infos: Any, ended: np.ndarray) -> dict[int, dict[str, Any]]:
        """What the rows that ended report."""
        final = infos.get("final_info", infos) if isinstance(infos, dict) else infos
        found = {}
        for row in np.flatnonzero(ended).tolist():
            own = final if isinstance(final, dict) else final[row] or {}
            found[row] = reports_in({key: _of_row(final, key, row) for key in own}, self._name)
        return found

    def _last(self, infos: Any, row: int, flags: np.ndarray) -> Arrays:
        """The last observation of the episode that ended in a row, with SAME_STEP."""
        found = next((each for key in FINAL if (each := _of_row(infos, key, row)) is not None), None)
        if found is not None:
            return self._checked(self._translate(found, "step"), "step", ())
        if not flags[0]:
            raise ConfigError(
                f'{self._name}: row {row} was truncated and info["final_obs"] has no last observation of it; the value of that'
                " observation replaces the rewards that would have followed, so the environment must report it"
            )
        self._warn(
            'info["final_obs"] has no last observations; those before the last steps are used, which no learner reads'
        )
        return _row_of(self._obs, row)

    def _warn_of_unused_mask(self, infos: Any) -> None:
        if isinstance(self.own[0], spaces.Dict) and KEY in self.own[0].spaces:
            return
        rows = getattr(self.inner, "envs", None) or [self.inner]
        method = any(hasattr(row, METHOD) or (isinstance(row, Env) and row.has_wrapper_attr(METHOD)) for row in rows)
        if method or any(_of_row(infos, KEY, row) is not None for row in range(self.num_envs)):
            where = f"{METHOD}()" if method else f"info[{KEY!r}]"
            self._warn(
                f"{where} is not used; an entry {KEY!r} of a Dict observation keeps the policy from actions that it forbids"
            )

    def _warn(self, text: str) -> None:
        if text not in self._warned:
            self._warned.add(text)
            print(f"warning: {self._name}: {text}", file=sys.stderr, flush=True)


def _of_row(infos: Any, key: str, row: int) -> Any:
    """What a row reports under a name: from one dictionary with a mask `_key`, or from a list of one dictionary per row."""
    if isinstance(infos, list | tuple | np.ndarray):
        return None if infos[row] is None else infos[row].get(key)
    if not isinstance(infos, dict) or key not in infos:
        return None
    mask = infos.get(f"_{key}")
    if mask is not None and not plain_array(mask)[row]:
        return None
    return _part(infos[key], row)


def _part(value: Any, row: int) -> Any:
    """Entry `row` of a value that holds one entry per row; None for a value of another kind."""
    if isinstance(value, dict):
        return {key: _part(part, row) for key, part in value.items()}
    try:
        return value[row]
    except (TypeError, IndexError, KeyError):  # a value for all rows
        return None


def _row_of(batch: Arrays, row: int) -> Arrays:
    return {key: part[row] for key, part in batch.items()} if isinstance(batch, dict) else batch[row]


def _select(mask: np.ndarray, new: Any, old: Any) -> Any:
    """`new` in the rows of the mask, `old` in the others."""
    if isinstance(new, dict):
        return {key: _select(mask, new[key], old[key]) for key in new}
    return np.where(mask.reshape(-1, *[1] * (new.ndim - 1)), new, old)


def kind_of(back: Any) -> str:
    return f"{len(back)} values" if isinstance(back, tuple) else f"one {type(back).__name__}"
