"""Environments of rmt_rl as torchrl environments, and the reverse."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
import torch
from gymnasium import spaces
from torch.nn import functional

from rmt_rl.common.errors import ConfigError
from rmt_rl.common.state import Obs
from rmt_rl.envs.base import TorchVectorEnv, reset_rows, row_seeds
from rmt_rl.envs.wrappers.return_to_go import KEY

try:
    from tensordict import TensorDict, TensorDictBase
    from torchrl import data
    from torchrl.envs import EnvBase
except ModuleNotFoundError as error:
    raise ImportError("rmt_rl.torchrl needs torchrl and tensordict; pip install 'rmt_rl[torchrl]'") from error


class TorchRLEnv(EnvBase):
    """The B rows of one of our environments as a torchrl environment of batch size [B].

    observation: as the environment returns it; the entries of a Dict are nested, ("observation", key)
    action: [B] or [B, ...]; whole numbers for Discrete and MultiDiscrete
    reward: [B, 1] float32
    terminated, truncated, done: [B, 1] bool
    success: [B, 1] bool, this step ended the episode at its goal; false where the environment does not report it

    ("next", "observation") of the step that ends an episode is the last observation of that episode. Our environments have
    already drawn the first one of the next episode; resetting the rows that ended, as collectors do, returns it.
    `set_seed` takes effect at the next reset of all rows; row i gets seed + i. Rows that are reset inside their episodes, as a
    time limit by a transform does it, start their next ones; ValueError where the environment cannot reset single rows.
    """

    def __init__(self, env: TorchVectorEnv) -> None:
        require_type(env, TorchVectorEnv, "rmt_rl.make_env returns")
        super().__init__(device=env.device, batch_size=torch.Size([env.num_envs]))
        self._env = env
        self._seed: int | None = None
        self._ended = torch.zeros(env.num_envs, 1, dtype=torch.bool, device=env.device)
        flag = data.Categorical(2, shape=(1,), dtype=torch.bool)
        self.observation_spec = self._rows(observation=_spec(env.single_observation_space), success=flag)
        self.action_spec = self._rows(action=_spec(env.single_action_space))
        self.reward_spec = self._rows(reward=data.Unbounded(shape=(1,)))
        self.done_spec = self._rows(done=flag, terminated=flag, truncated=flag)

    def _rows(self, **specs: data.TensorSpec) -> data.Composite:
        composite = data.Composite({key: spec.clone() for key, spec in specs.items()})
        return composite.expand(self.batch_size).to(self.device)

    def _step(self, tensordict: TensorDictBase) -> TensorDictBase:
        self._obs, reward, terminated, truncated, info = self._env.step(tensordict["action"])
        done = terminated | truncated
        self._ended = done[:, None]
        success = info.get("success", torch.zeros_like(done))
        flags = {"terminated": terminated, "truncated": truncated, "done": done, "success": success}
        return self._tensordict(info["final_obs"], reward=reward.float(), **flags)

    def _reset(self, tensordict: TensorDictBase | None = None, **kwargs: Any) -> TensorDictBase:
        requested = None if tensordict is None else tensordict.get("_reset", None)
        everyone = requested is None
        requested = torch.ones_like(self._ended) if requested is None else requested
        inside = requested & ~self._ended
        if everyone or (bool(inside.any()) and bool(requested.all())):
            self._obs, _ = self._env.reset(seed=self._seed, **kwargs)
            self._seed = None
        elif bool(inside.any()):  # those that ended show their next episodes already
            options = {**(kwargs.pop("options", None) or {}), "reset_mask": inside.flatten()}
            self._obs, _ = self._env.reset(options=options, **kwargs)
        self._ended = self._ended & ~requested
        return self._tensordict(self._obs, success=torch.zeros_like(requested))

    def _tensordict(self, obs: Obs, **columns: torch.Tensor) -> TensorDictBase:
        entries = {key: column.view(-1, 1) for key, column in columns.items()}
        return TensorDict({"observation": obs, **entries}, self.batch_size, device=self.device)

    def _set_seed(self, seed: int | None) -> None:
        self._seed = seed

    def close(self, *, raise_if_closed: bool = True) -> None:
        super().close(raise_if_closed=raise_if_closed)
        self._env.close()


class FromTorchRL(TorchVectorEnv):
    """A torchrl environment of batch size [B], such as a `SerialEnv` or a `ParallelEnv`, as one of ours.

    observation: one entry, or a dictionary of all leaves of the observation spec, nested keys joined by a dot. Bounded and
        Unbounded become Box, Categorical Discrete, MultiCategorical MultiDiscrete, OneHot and Binary MultiBinary.
    action: Discrete for Categorical and OneHot, MultiDiscrete for MultiCategorical, Box for Bounded
    Rows are seeded by torchrl's own rule, and the state cannot be saved. Raises ConfigError for other specs
    and batch sizes.
    """

    measure = "return"  # torchrl environments report no success

    def __init__(self, env: EnvBase) -> None:
        require_type(env, EnvBase, "torchrl.envs.SerialEnv(rows, make) returns")
        if len(env.batch_size) != 1:
            raise ConfigError(
                f"batch size {tuple(env.batch_size)}: expected one axis of rows, as torchrl.envs.SerialEnv(rows, make) returns"
            )
        self._keys = {".".join(_path(key)): key for key in env.full_observation_spec.keys(True, True)}
        entries = {name: _space(env.full_observation_spec[key], name) for name, key in self._keys.items()}
        self._dtypes = {name: torch.from_numpy(np.empty(0, entry.dtype)).dtype for name, entry in entries.items()}
        single = next(iter(entries.values())) if len(entries) == 1 else spaces.Dict(entries)
        spec = env.action_spec
        self._one_hot = isinstance(spec, data.OneHot)
        action_space = spaces.Discrete(int(spec.space.n)) if self._one_hot else _space(spec, "action")
        super().__init__(env.batch_size[0], env.device or "cpu", single, action_space)
        self._env, self._root = env, None
        self.task = f"{type(env).__name__} of torchrl"

    def reset(
        self, *, seed: int | list[int] | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Obs, dict[str, Any]]:
        if isinstance(seed, (list, tuple)) or np.ndim(seed) > 0:  # type: ignore[arg-type]
            raise ValueError("a list of seeds was given; torchrl seeds its rows from one number")
        rows = torch.from_numpy(reset_rows(options, self.num_envs, self._root is not None)).to(self.device)
        given = {name: value for name, value in (options or {}).items() if name != "reset_mask"}
        if seed is not None:
            self._env.set_seed(row_seeds(seed, 1)[0])
        # all rows without "_reset": an environment may not read it
        before = None if self._root is None or bool(rows.all()) else self._root.copy().set("_reset", rows[:, None])
        self._root = self._env.reset(before, **given)
        return self._observation(self._root), {}

    def step(self, action_B: torch.Tensor) -> tuple[Obs, torch.Tensor, torch.Tensor, torch.Tensor, dict[str, Any]]:
        if self._root is None:
            raise RuntimeError("step was called before reset; call reset(seed=...) first")
        if isinstance(self.single_action_space, spaces.Discrete):
            action_B = self._read_action(action_B, int(self.single_action_space.n))
        elif (action_B := torch.as_tensor(action_B, device=self.device)).shape != self.action_space.shape:
            raise ValueError(f"action has shape {tuple(action_B.shape)}; expected {self.action_space.shape}")
        if self._one_hot:
            action_B = functional.one_hot(action_B, int(self.single_action_space.n))
        done, self._root = self._env.step_and_maybe_reset(self._root.set(self._env.action_key, action_B))
        last = done["next"]
        terminated, ended = last["terminated"].squeeze(-1), last["done"].squeeze(-1)
        info = {"final_obs": self._observation(last), "_final_obs": ended}
        reward = last[self._env.reward_key].squeeze(-1).double()
        return self._observation(self._root), reward, terminated, ended & ~terminated, info

    def close_extras(self, **options: Any) -> None:
        self._env.close()

    def _observation(self, root: TensorDictBase) -> Obs:
        # copies, because torchrl may write into a tensordict that it has returned
        found = {name: root[key].to(self._dtypes[name], copy=True) for name, key in self._keys.items()}
        return found if len(found) > 1 else next(iter(found.values()))


def require_type(given: Any, kind: type, such_as: str) -> None:
    if not isinstance(given, kind):
        raise TypeError(f"{type(given).__name__} was given; expected a {kind.__name__}, as {such_as}")


def observation_of(given: TensorDictBase) -> Obs:
    obs = given["observation"]
    return dict(obs.items()) if isinstance(obs, TensorDictBase) else obs


def _path(key: Any) -> tuple[str, ...]:
    return key if isinstance(key, tuple) else (key,)


def _space(spec: data.TensorSpec, name: str) -> spaces.Space[Any]:
    """One row of a torchrl spec [B, ...] as a gymnasium space."""
    shape, dtype = tuple(spec.shape[1:]), torch.empty(0, dtype=spec.dtype).numpy().dtype
    if isinstance(spec, data.OneHot | data.Binary):
        return spaces.MultiBinary(shape)
    if isinstance(spec, data.MultiCategorical):
        return spaces.MultiDiscrete(spec.nvec[0].tolist() if spec.nvec.dim() > 1 else spec.nvec.tolist())
    if isinstance(spec, data.Categorical):
        n = int(spec.space.n)
        return spaces.MultiDiscrete(np.full(shape, n)) if shape else spaces.Discrete(n)
    if isinstance(spec, data.Bounded):
        low, high = (bound[0].cpu().numpy() for bound in (spec.space.low, spec.space.high))
        return spaces.Box(low, high, dtype=dtype)
    if isinstance(spec, data.Unbounded):
        return spaces.Box(-np.inf, np.inf, shape, dtype)
    raise ConfigError(
        f"{name}: the spec {type(spec).__name__} of shape {tuple(spec.shape)} is not supported; supported are Bounded, Unbounded,"
        " OneHot, Binary, Categorical and MultiCategorical"
    )


def _spec(space: gymnasium.Space[Any]) -> data.TensorSpec:
    """The spec of one row for a space of our environments."""
    if isinstance(space, spaces.Dict):
        # what remains of a target return may leave the range of the data
        to_go = data.Unbounded(shape=(1,))
        return data.Composite({key: to_go if key == KEY else _spec(entry) for key, entry in space.items()})
    if isinstance(space, spaces.Discrete):
        return data.Categorical(int(space.n))
    if isinstance(space, spaces.MultiDiscrete):
        return data.MultiCategorical(torch.from_numpy(space.nvec), remove_singleton=False)
    if isinstance(space, spaces.MultiBinary):
        return data.Bounded(0, 1, shape=space.shape, dtype=torch.int8)
    if isinstance(space, spaces.Box):
        low, high = torch.from_numpy(space.low), torch.from_numpy(space.high)
        # torchrl samples NaN where a bound is infinite
        if np.isfinite(space.low).all() and np.isfinite(space.high).all():
            return data.Bounded(low, high, shape=low.shape, dtype=low.dtype)
        return data.Unbounded(shape=low.shape, dtype=low.dtype)
    raise ConfigError(f"space {space} has no spec; supported are Box, Discrete, MultiDiscrete, MultiBinary and Dict")
