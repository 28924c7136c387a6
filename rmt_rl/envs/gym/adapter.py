"""Any gymnasium environment behind the contract of `base.py`: torch tensors in, torch tensors out.

gymnasium makes and steps the rows. This file translates spaces, observations and actions, and turns gymnasium's errors into
one-line ConfigErrors. Limit: a run cannot be resumed exactly, because the state of the environment cannot be saved.
"""

from __future__ import annotations

import builtins
import copy
import functools
import importlib
import importlib.util
import warnings
from collections.abc import Callable
from typing import Any, Literal, NoReturn

import gymnasium
import numpy as np
import torch
from gymnasium import error, spaces
from gymnasium.envs.registration import EnvSpec
from gymnasium.vector import AutoresetMode
from gymnasium.wrappers import TimeLimit

from rmt_rl.common.errors import ConfigError, RunError, Stopped
from rmt_rl.common.gymnasium_ids import near_ids
from rmt_rl.common.process import command_line
from rmt_rl.config.fields import show
from rmt_rl.config.trust import PACKAGES
from rmt_rl.envs.actions import ActionTranslation
from rmt_rl.envs.base import Obs, TorchVectorEnv, checked_seeds, report_close_error, reset_rows, step_info
from rmt_rl.envs.gym.actors import RayVectorEnv
from rmt_rl.envs.gym.bounds import stated_bounds
from rmt_rl.envs.gym.info import with_info
from rmt_rl.envs.gym.lockstep import CannotBeMade, Lockstep, observation_error
from rmt_rl.envs.gym.masks import Source, with_mask
from rmt_rl.envs.gym.reports import reports_in
from rmt_rl.envs.gym.row_server import Make, describe
from rmt_rl.envs.gym.translate import Arrays, Translation, WrongObservation, plain_array
from rmt_rl.envs.gym.vector_rows import VectorRows, kind_of
from rmt_rl.envs.gym.workers import ProcessVectorEnv
from rmt_rl.envs.masks import KEY


class ActionIsNaN(RunError, ValueError):
    """An action that no environment takes: mostly that of a policy whose numbers overflow."""


class GymAdapter(TorchVectorEnv):
    """`num_envs` rows of the gymnasium environment `id` (or `module:id`), on torch tensors.

    observations: Box as float32 (any float), uint8, or int64 (any other integer); Discrete and MultiDiscrete as int64 from 0;
        MultiBinary as int8. A Dict of these becomes a dict with nested keys joined by a dot ("outer.inner"), a Tuple a dict
        with the keys "0", "1", ...
    actions: Discrete [B] and MultiDiscrete [B, ...] as integers from 0, as are MultiBinary and a Box of integers; Box [B, ...]
        as floats, which are clipped to the bounds before they reach the environment. A Tuple or Dict is one vector
        (`rmt_rl/envs/actions.py`).
    `single_observation_space` and `single_action_space` are these translated spaces; `own_spaces()` are those of the environment,
        with text as bytes, or without it. env_spec: its gymnasium.EnvSpec as JSON, or None where its class has no name in a
        module.
    action_mask: where masks of the actions come from if the observation has no entry "action_mask": "method" = the method
        action_masks() of the environment, if it has one; "info" = info["action_mask"]. They are added to the observation under
        that name; an observation that is no Dict becomes its entry "observation".
    add_info: an entry of info that is added to the observation under its name, as masks are.
    text: text in observations becomes its UTF-8 bytes, a `TextBytes`; false = it is left out, with a warning.
    options: keyword arguments of `gymnasium.make`, such as max_episode_steps and render_mode.
    workers: "sync" steps the rows one after another; "async" runs every row in its own process, and "ray" runs `rows_per_worker`
        of them in each actor of Ray; with `deadline` and `on_fault` as in `Lockstep`.
    measure, floor, ceiling: what the class of the environment states (`rmt_rl/envs/gym/bounds.py`).
    info["success"]: present at steps where a row that ended reports "is_success" or "success" in its last info, with
        info["_success"]; True, False, 1 and 0 are reports, None is none, and anything else raises ConfigError.
    info[<name>], info["_<name>"]: the same for all single numbers in that info, as float64.
    """

    _started = False
    _env: Any = None  # gymnasium 1.1 and 1.2 also close, on deletion, an environment whose constructor raised

    def __init__(
        self,
        num_envs: int,
        device: str | torch.device = "cpu",
        *,
        id: str,
        options: dict[str, Any] | None = None,
        action_mask: Source = "method",
        add_info: str | None = None,
        text: bool = True,
        workers: Literal["sync", "async", "ray"] = "sync",
        deadline: float = 60.0,
        on_fault: Literal["fail", "restart"] = "fail",
        rows_per_worker: int | None = None,
    ) -> None:
        if num_envs < 1:  # gymnasium's own error is unclear
            raise ValueError(f"num_envs is {num_envs}; it must be at least 1")
        if workers not in ("sync", "async", "ray"):
            raise ConfigError(f"env.workers={workers}: expected one of sync, async, ray")
        row_class = _SyncRow if workers == "sync" else _Row
        make_row = functools.partial(row_class, action_mask=action_mask, add_info=add_info, text=text)
        start: Callable[[Make], Lockstep[Any]] | None = None
        if workers == "async":
            start = functools.partial(ProcessVectorEnv, rows=num_envs, deadline=deadline, on_fault=on_fault)
        elif workers == "ray":
            start = functools.partial(
                RayVectorEnv, rows=num_envs, deadline=deadline, on_fault=on_fault, rows_per_worker=rows_per_worker
            )
        made = _make(id, num_envs, dict(options or {}), make_row, start, workers)
        self._connect(made, num_envs, device, id, f"{id} of gymnasium" + (f" with {options}" if options else ""), text)

    def _connect(self, rows: Any, num_envs: int, device: str | torch.device, id: str, task: str, text: bool) -> None:
        """Set the attributes. rows: steps `num_envs` rows with SAME_STEP autoreset and translated spaces."""
        self._id, self._env = id, rows
        # other vector environments may draw the numbers of all rows from one generator
        self.rows_have_seeds = not isinstance(rows, VectorRows)
        self.render_mode = self._env.render_mode
        if self._env.get_attr("has_time_limit")[0]:
            self.episode_steps = None
        observations, own_actions, self.env_spec, bounds = self._env.get_attr("own")[0]
        for name, value in bounds.items():
            setattr(self, name, value)
        self._translation = Translation(observations, text and not isinstance(rows, VectorRows))
        if left_out := self._translation.left_out:
            warnings.warn(f"{id}: text is left out of the observation: {left_out}", stacklevel=2)
        TorchVectorEnv.__init__(
            self, num_envs, device, self._env.single_observation_space, self._env.single_action_space
        )
        self._actions = ActionTranslation(own_actions)
        self.own_actions, self.action_start = self._actions.own_to_keep, self._actions.own_start
        self.task = task

    def reset(
        self, *, seed: int | list[int] | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Obs, dict[str, Any]]:
        # checked before any row is reset; a copy, because gymnasium removes "reset_mask" from the dict
        seeds, rows = checked_seeds(seed, self.num_envs), reset_rows(options, self.num_envs, self._started)
        given = None if options is None else dict(options)
        if given is not None and "reset_mask" in given:
            given["reset_mask"] = rows
        obs, _ = self._env.reset(seed=seeds, options=given)
        self._started = True
        return self._tensors(obs), {}

    def step(self, action_B: torch.Tensor) -> tuple[Obs, torch.Tensor, torch.Tensor, torch.Tensor, dict[str, Any]]:
        obs, reward, terminated, truncated, raw = self._env.step(self._checked(action_B))
        ended = terminated | truncated
        obs_B = self._tensors(obs)
        final_B, found = obs_B, {}
        if ended.any():
            final = {int(row): raw["final_obs"][row] for row in np.flatnonzero(ended)}
            final_B = self._tensors(_with_rows(obs, final))
            found = {key: self._tensors(value) for key, value in raw["final_info"].items()}
        info = step_info(final_B, self._tensors(ended), found)
        return obs_B, self._tensors(reward), self._tensors(terminated), self._tensors(truncated), info

    @property
    def np_random_seed(self) -> Any:
        return self._env.np_random_seed

    def call(self, name: str, *args: Any, **options: Any) -> tuple[Any, ...]:
        return tuple(self._rows(f"call({name!r})").call(name, *args, **options))

    def get_attr(self, name: str) -> tuple[Any, ...]:
        return tuple(self._rows(f"get_attr({name!r})").get_attr(name))

    def set_attr(self, name: str, values: Any) -> None:
        self._rows(f"set_attr({name!r})").set_attr(name, values)

    def _rows(self, call: str) -> Any:
        """The vector environment inside, whose rows are objects."""
        rows = self._env.inner if isinstance(self._env, VectorRows) else self._env
        if not all(hasattr(rows, name) for name in ("call", "get_attr", "set_attr")):
            where = "rows of env.workers=async and ray run in other processes; use env.workers=sync"
            no = f"{type(rows).__name__} has no call, get_attr and set_attr"
            raise NotImplementedError(f"{call}: {where if isinstance(rows, Lockstep) else no}")
        return rows

    def own_spaces(self) -> tuple[spaces.Space[Any], spaces.Space[Any]]:
        return self._translation.own, self._actions.own

    def to_own(self, obs: Any, action: np.ndarray) -> tuple[Any, Any]:
        return self._translation.restore(obs), self._actions.to_own(action)

    def state_dict(self) -> dict[str, Any]:
        self._cannot_resume()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._cannot_resume()

    def render(self) -> tuple[Any, ...] | None:
        """One frame per row, where `options` have a render_mode."""
        try:
            return self._env.render()
        except (ConfigError, RunError):
            raise
        except Exception as e:
            kind, text = describe(e)
            raise RunError(f"{self._id}: render raised {kind}: {text}") from e

    def close_extras(self, **kwargs: Any) -> None:
        if self._env is not None:
            self._env.close(**kwargs)

    def _cannot_resume(self) -> NoReturn:
        raise NotImplementedError(
            "a gymnasium environment cannot be resumed exactly, because its state cannot be saved; reset it with a new seed"
        )

    def _tensors(self, value: Any) -> Any:
        if isinstance(value, dict):
            # in the order of the space, so that both can be iterated together
            return {key: self._tensors(value[key]) for key in self.single_observation_space}  # type: ignore[attr-defined]
        return torch.from_numpy(value).to(self.device)

    def _checked(self, action_B: torch.Tensor) -> np.ndarray:
        space = self.single_action_space
        action = torch.as_tensor(action_B).detach().cpu()
        if action.shape != self.action_space.shape:
            raise ValueError(f"action has shape {tuple(action.shape)}; expected {self.action_space.shape}")
        if isinstance(space, spaces.Box):
            if bool(action.isnan().any()):
                raise ActionIsNaN("action is NaN; expected numbers, which are clipped to the bounds")
            return action.double().numpy()
        if action.is_floating_point():
            raise ValueError(f"action has dtype {action.dtype}; expected integers, for {space}")
        array = action.long().numpy()
        highest = space.nvec - 1 if isinstance(space, spaces.MultiDiscrete) else space.n - 1  # type: ignore[attr-defined]
        if (array < 0).any() or (array > highest).any():
            raise ValueError(f"action {array.tolist()[:8]} is outside 0..{highest.tolist()}")
        return array


class VectorAdapter(GymAdapter):
    """A vector environment of another library, given as an object, on torch tensors; `VectorRows` has the rules.

    borrowed: whoever made `env` closes it.
    """

    def __init__(self, env: Any, device: str | torch.device = "cpu", borrowed: bool = True) -> None:
        self._borrowed = borrowed
        rows, name = VectorRows(env), type(env).__name__
        self._connect(rows, rows.num_envs, device, name, f"{name}, a vector environment", text=False)

    def close_extras(self, **kwargs: Any) -> None:
        if not self._borrowed:
            super().close_extras(**kwargs)


class _Row(gymnasium.Wrapper[Any, Any, Any, Any]):
    """One environment with translated spaces. Its info is reduced to the success and the numbers of an episode that ended.

    The translation comes before gymnasium batches the rows, for two reasons. gymnasium copies the last observation of an episode
    only after it has reset the environment; an environment that reuses its observation array has overwritten it by then, so
    every observation is copied here. And gymnasium fails on infos whose shapes differ between rows.
    """

    def __init__(self, env: gymnasium.Env[Any, Any], action_mask: Source, add_info: str | None, text: bool) -> None:
        self._name = type(env.unwrapped).__name__
        for name in ("observation_space", "action_space"):
            if not isinstance(getattr(env, name, None), spaces.Space):
                raise ConfigError(
                    f"{self._name}: has no {name}; expected a gymnasium.Space, set in the class or in __init__"
                )
        env = with_info(with_mask(env, action_mask), add_info)
        super().__init__(env)
        self._translated = Translation(env.observation_space, text)
        self._warned = isinstance(env.observation_space, spaces.Dict) and KEY in env.observation_space.spaces
        self.own = (env.observation_space, env.action_space, _spec_json(env.spec), stated_bounds(env))
        inner: Any = env
        while isinstance(inner, gymnasium.Wrapper) and not isinstance(inner, TimeLimit):
            inner = inner.env
        self.has_time_limit = isinstance(inner, TimeLimit)
        self.observation_space = self._translated.space
        self._actions = ActionTranslation(env.action_space)
        self.action_space = self._actions.space

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Arrays, dict[str, Any]]:
        try:
            back: Any = self.env.reset(seed=seed, options=options)
        except TypeError as error:
            if "reset() got an unexpected keyword argument" not in str(error):
                raise
            raise ConfigError(f"{self._name}: {error}; expected reset(self, *, seed=None, options=None)") from error
        if not isinstance(back, tuple) or len(back) != 2:
            raise ConfigError(f"{self._name}: reset returned {kind_of(back)}; expected (observation, info)")
        self._warn_of_unused_mask(back[1])
        return self._translate(back[0], "reset"), {}

    def step(self, action: Any) -> tuple[Arrays, Any, bool, bool, dict[str, Any]]:
        back: Any = self.env.step(self._actions.to_own(action))
        if not isinstance(back, tuple) or len(back) != 5:
            raise ConfigError(
                f"{self._name}: step returned {kind_of(back)}; expected (observation, reward, terminated, truncated, info)"
            )
        obs, reward, terminated, truncated, info = back
        number = plain_array(reward)
        if number.ndim or number.dtype.kind not in "biuf":
            raise ConfigError(f"{self._name}: step returned the reward {show(repr(reward))}; expected a number")
        terminated, truncated = self._flag("terminated", terminated), self._flag("truncated", truncated)
        if not isinstance(info, dict):
            raise ConfigError(f"{self._name}: step returned the info {info!r}; expected a dictionary")
        # what an info says before the end of an episode is no result yet
        kept = reports_in(info, self._name) if terminated or truncated else {}
        return self._translate(obs, "step"), float(number), terminated, truncated, kept

    def _flag(self, name: str, value: Any) -> bool:
        array = plain_array(value)  # arrays of jax and torch, for instance, are no bool
        if array.ndim or array.dtype != np.bool_:
            raise ConfigError(f"{self._name}: step returned {name} = {value!r}; expected True or False")
        return bool(array)

    def _warn_of_unused_mask(self, info: Any) -> None:
        if not self._warned and isinstance(info, dict) and KEY in info:
            warnings.warn(
                f"{self._name}: info[{KEY!r}] is not used; env=gym env.action_mask=info, or a method action_masks() of the"
                " environment, keeps the policy from actions that it forbids",
                stacklevel=2,
            )
        self._warned = True

    def close(self) -> None:
        # here and not around all rows, so that every row is closed
        try:
            super().close()
        except Stopped:
            raise
        except (Exception, SystemExit) as error:
            report_close_error(self._name, error)

    def _translate(self, obs: Any, where: str) -> Arrays:
        try:
            return self._translated(obs)
        except WrongObservation as error:
            raise ConfigError(f"{self._name}: {where} returned {error}") from error


class _SyncRow(_Row):
    """A row that also checks every observation; those of a row in another process are checked when they arrive."""

    def _translate(self, obs: Any, where: str) -> Arrays:
        arrays = super()._translate(obs, where)
        if text := observation_error(arrays, self.observation_space):
            raise ConfigError(f"{self._name}: {where} {text} ({command_line('rmt_rl.envs.check')} runs more checks)")
        return arrays


def _spec_json(spec: Any) -> str | None:
    """gymnasium's description of how an environment is made, or None where a file cannot hold it."""
    entry = getattr(spec, "entry_point", None)
    if callable(entry):
        module, name = getattr(entry, "__module__", None), getattr(entry, "__qualname__", "<unknown>")
        if module is None or "<" in name or "." in name:
            return None
        spec = copy.copy(spec)
        spec.entry_point = f"{module}:{name}"
    try:
        return None if spec is None else spec.to_json()
    except (TypeError, ValueError):  # an option that is a Python object
        return None


def _with_rows(batch: Any, rows: dict[int, Any]) -> Any:
    """A copy of `batch` in which the rows with these numbers are replaced."""
    if isinstance(batch, dict):
        return {key: _with_rows(part, {i: row[key] for i, row in rows.items()}) for key, part in batch.items()}
    batch = batch.copy()
    for i, row in rows.items():
        batch[i] = row
    return batch


def _make(
    id: str,
    num_envs: int,
    options: dict[str, Any],
    make_row: functools.partial[Any],
    start: Callable[[Make], Lockstep[Any]] | None,
    workers: str,
) -> Any:
    if id.count(":") > 1:  # gymnasium's own error is unclear
        raise ConfigError(f"env.id={id}: expected an id known to gymnasium, or module:id")
    name = id.split(":")[-1]
    if name not in gymnasium.registry:
        register_package(id, name)
    # `_Row` replaces gymnasium's own checker, whose errors are tracebacks; `rmt_rl.envs.check` finds the rest
    keywords = {"disable_env_checker": True, **options}
    try:
        if ":" in id:
            importlib.import_module(id.split(":")[0])
        found = gymnasium.registry.get(name, id)
        if isinstance(found, EnvSpec) and found.entry_point is None:
            if start is not None:
                raise ConfigError(f"env.workers={workers}: {id} makes all its rows itself; expected env.workers=sync")
            if make_row.keywords["action_mask"] == "info":
                raise ConfigError(
                    f"env.action_mask=info: {id} makes all its rows itself; expected a Dict observation with the entry {KEY!r}"
                )
            if make_row.keywords["add_info"] is not None:
                raise ConfigError(
                    f"env.add_info={make_row.keywords['add_info']}: {id} makes all its rows itself; expected a Dict observation"
                    " that has the entry"
                )
            rows = gymnasium.make_vec(id, num_envs, vectorization_mode="vector_entry_point", **options)
            return _require_rows(VectorRows(rows), num_envs)
        if start is not None:
            # the spec can be sent to a process that is not forked, where the id may not be registered
            return start(lambda: make_row(gymnasium.make(found, **keywords)))
        made: Any = gymnasium.make_vec(
            id,
            num_envs,
            vectorization_mode="sync",
            vector_kwargs={"autoreset_mode": AutoresetMode.SAME_STEP},
            wrappers=[make_row],
            **keywords,
        )
        if len({builtins.id(row.unwrapped) for row in made.envs}) < num_envs:
            raise ConfigError(
                f"env.id={id}: its entry point returned the same environment object for several rows; expected a new one for"
                " every call"
            )
        return made
    except (error.UnregisteredEnv, error.DeprecatedEnv) as e:
        raise ConfigError(f"env.id={id}: is not registered with gymnasium; {_hint(name)}") from e
    except (ConfigError, RunError):
        raise
    except (error.Error, ImportError) as e:
        raise ConfigError(f"env.id={id}: cannot be made: {' '.join(str(e).split())}") from e
    except Exception as e:  # of the environment's own code, or about an argument that it does not have
        kind, text = e.args if isinstance(e, CannotBeMade) else describe(e)
        if options:
            raise ConfigError(f"env.options={show(options)}: {id} does not accept them: {text}, {kind}") from e
        raise ConfigError(f"env.id={id}: cannot be made: its code raised {kind}: {text}") from e


def _require_rows(rows: VectorRows, num_envs: int) -> VectorRows:
    if rows.num_envs != num_envs:
        rows.close()
        raise ConfigError(f"env=gym: made {rows.num_envs} rows; expected num_envs={num_envs}")
    return rows


def register_package(id: str, name: str) -> None:
    """Import the package that registers ids with the prefix of this one; the id names another module in module:id."""
    if ":" in id:
        return
    for prefixes, module, install in PACKAGES:
        if name.startswith(prefixes):
            if importlib.util.find_spec(module) is None:
                raise ConfigError(f"env.id={id}: its package is not installed; {install}")
            importlib.import_module(module)


def _hint(name: str) -> str:
    close = near_ids(name)
    if close:
        return f"did you mean {' or '.join(close)}?"
    return (
        "for an id of another package, install it and use module:id; for a class of your own, call"
        " gymnasium.register(id, entry_point=...) in its module"
    )
