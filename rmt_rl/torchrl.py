"""Our environments and policies as parts of torchrl, `TorchRLEnv` and `TorchRLPolicy`, and torchrl's environments as ours,
`FromTorchRL`. Needs the extra `torchrl`.

For using the parts of one library with those of the other. `rmt_rl.train` does not come through here, because stepping a
small network through torchrl's collector and losses costs several times what the network itself costs.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable
from typing import Any

import gymnasium
import numpy as np
import torch
from gymnasium import spaces
from torch import distributions
from torch.nn import functional

from rmt_rl.config import ConfigError
from rmt_rl.data import Obs, map_state
from rmt_rl.envs.base import TorchVectorEnv
from rmt_rl.policies.actor_critic import ActorCritic, PolicyState
from rmt_rl.policies.heads import CategoricalHead, GaussianHead
from rmt_rl.policies.spaces import from_json

try:
    from tensordict import TensorDict, TensorDictBase
    from tensordict.nn import TensorDictModuleBase
    from torchrl import data
    from torchrl.envs import EnvBase, TensorDictPrimer
    from torchrl.modules import ProbabilisticActor, recurrent_mode, set_recurrent_mode
except ModuleNotFoundError as error:
    raise ImportError("rmt_rl.torchrl needs torchrl and tensordict; pip install 'rmt_rl[torchrl]'") from error

BatchFunction = Callable[[TensorDictBase], TensorDictBase]


class TorchRLEnv(EnvBase):
    """The B rows of one of our environments as a torchrl environment of batch size [B].

    observation: as the environment gives it; the entries of a Dict are nested, ("observation", key)
    action: [B] or [B, ...]; whole numbers for Discrete and MultiDiscrete
    reward: [B, 1] float32
    terminated, truncated, done: [B, 1] bool
    success: [B, 1] bool, this step ended the episode at its goal; false where the environment does not say

    ("next", "observation") of the step that ends an episode is the last observation of that episode. Our environments have
    drawn the first one of the next episode by then; resetting the rows that ended, as collectors do, hands it out.
    `set_seed` works at the next reset of all rows, and gives row i seed + i. A reset of only some rows inside their episodes
    raises ValueError.
    """

    def __init__(self, env: TorchVectorEnv) -> None:
        _expect(env, TorchVectorEnv, "rmt_rl.make_env gives")
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
        asked = None if tensordict is None else tensordict.get("_reset", None)
        if asked is None or bool((asked & ~self._ended).any()):
            if asked is not None and not bool(asked.all()):
                rows = (asked & ~self._ended).flatten().nonzero().flatten().tolist()
                raise ValueError(
                    f"rows {rows[:8]} are to be reset inside an episode, and this environment can reset all rows or those that "
                    "ended; set a time limit in the environment, not by a transform or the collector"
                )
            self._obs, _ = self._env.reset(seed=self._seed, **kwargs)
            self._seed, asked = None, torch.ones_like(self._ended)
        self._ended = self._ended & ~asked
        return self._tensordict(self._obs, success=torch.zeros_like(asked))

    def _tensordict(self, obs: Obs, **columns: torch.Tensor) -> TensorDictBase:
        entries = {key: column.view(-1, 1) for key, column in columns.items()}
        return TensorDict({"observation": obs, **entries}, self.batch_size, device=self.device)

    def _set_seed(self, seed: int | None) -> None:
        self._seed = seed

    def close(self, *, raise_if_closed: bool = True) -> None:
        super().close(raise_if_closed=raise_if_closed)
        self._env.close()


class FromTorchRL(TorchVectorEnv):
    """A torchrl environment of batch size [B], such as a `SerialEnv` or a `ParallelEnv`, as one of ours: the way back.

    observation: one entry, or a dictionary of all leaves of the observation spec, nested keys joined by a dot. Bounded and
        Unbounded become Box, Categorical Discrete, MultiCategorical MultiDiscrete, OneHot and Binary MultiBinary.
    action: Discrete for Categorical and OneHot, MultiDiscrete for MultiCategorical, Box for Bounded
    Rows are seeded by torchrl's own rule, and the state cannot be saved. Raises ConfigError where a spec or the batch size is
    none of these.
    """

    measure = "return"  # torchrl has no word for success

    def __init__(self, env: EnvBase) -> None:
        _expect(env, EnvBase, "torchrl.envs.SerialEnv(rows, make) gives")
        if len(env.batch_size) != 1:
            raise ConfigError(
                f"batch size {tuple(env.batch_size)}: expected one axis of rows, as torchrl.envs.SerialEnv(rows, make) gives"
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
        if isinstance(seed, list):
            raise ValueError("a seed for each row was given; torchrl seeds its rows from one number")
        if seed is not None:
            self._env.set_seed(seed)
        self._root = self._env.reset(**(options or {}))
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

    def close(self, **options: Any) -> None:
        self._env.close()

    def _observation(self, root: TensorDictBase) -> Obs:
        # copies: torchrl may write into a root that it has handed out
        found = {name: root[key].to(self._dtypes[name], copy=True) for name, key in self._keys.items()}
        return found if len(found) > 1 else next(iter(found.values()))


class TorchRLPolicy(TensorDictModuleBase):
    """An ActorCritic as a recurrent module of torchrl. It shares the weights of `policy`.

    Reads "observation", torchrl's "is_init" and what `make_tensordict_primer` adds;
    `torchrl.modules.utils.get_env_transforms_from_module` makes the transforms for all of them. Writes the parameters of the
    action distribution ("logits", or "loc" and "scale") and "state_value" [..., 1]. `actor` puts the distribution on top.

    has_memory: [..., 1] bool, false before the first step of an episode. There the policy's own initial memory is used, and
        learned, whatever "_memory" holds; because this does not hang on is_init, it is right in every mode.
    previous_action: [..., *action], of no influence before the first step of an episode
    _memory: the tensors of the backbone's state, numbered; the underscore keeps them out of the batches of a collector
    memory_at_start: what `keep_start` keeps of them

    One step at a time, any batch axes: the memory is read, and written under "next". Under `set_recurrent_mode(True)` time is
    the last batch axis: the memory is read at the first step of a row and wherever is_init is true, carried in between, and
    not written. So the "next" half of a batch, which begins one step after each reset, has the values that acting would give;
    a GAE needs `deactivate_vmap=True` for that, and `set_recurrent_mode(True)` around its call.
    """

    def __init__(self, policy: ActorCritic) -> None:
        _expect(policy, ActorCritic, "rmt_rl.load_policy gives")
        super().__init__()
        self.policy = policy
        space = from_json(policy.spec["observation_space"])
        observation = [("observation", key) for key in space] if isinstance(space, spaces.Dict) else ["observation"]
        memory = [("_memory", str(i)) for i in range(len(_tensors(self._example())))]
        self.in_keys = [*observation, "previous_action", "has_memory", "is_init", *memory, "memory_at_start"]
        parameters = ["logits"] if isinstance(policy.head, CategoricalHead) else ["loc", "scale"]
        self.out_keys = [*parameters, "state_value", ("next", "has_memory"), *(("next", *key) for key in memory)]

    def actor(self) -> ProbabilisticActor:
        """This module with the action distribution on top: what a collector acts with and a loss calls its actor."""
        keys = [key for key in self.out_keys if key in ("logits", "loc", "scale")]
        return ProbabilisticActor(
            self,
            in_keys=keys,
            distribution_class=functools.partial(_distribution, len(self.policy.head.shape)),
            return_log_prob=True,
        )

    def make_tensordict_primer(self) -> TensorDictPrimer:
        """The transform that hands memory and previous action on from step to step, and forgets them at resets."""
        head = self.policy.head
        memory = [data.Unbounded(shape=x.shape[1:], dtype=x.dtype) for x in _tensors(self._example())]
        specs = {
            "previous_action": data.Unbounded(shape=head.shape, dtype=head.action_dtype),
            "has_memory": data.Categorical(2, shape=(1,), dtype=torch.bool),
            "_memory": data.Composite({str(i): spec for i, spec in enumerate(memory)}),
        }
        return _Primer(data.Composite(specs), expand_specs=True)

    def postproc(self, estimator: BatchFunction) -> BatchFunction:
        """What a collector takes as `postproc`: advantages by `estimator`, such as torchrl's GAE, then `keep_start`.

        A GAE needs `value_network=` this module and `deactivate_vmap=True`, because a memory does not go through torch.vmap.
        """
        return functools.partial(self._estimate_and_keep_start, estimator)

    def _estimate_and_keep_start(self, estimator: BatchFunction, batch: TensorDictBase) -> TensorDictBase:
        # a copy, because collectors fill the same buffers again; without the values that the actor wrote, because an
        # estimator wants them in both halves of a batch or in none
        with set_recurrent_mode(True):
            return self.keep_start(estimator(batch.copy().exclude("state_value")))

    def keep_start(self, batch: TensorDictBase) -> TensorDictBase:
        """A batch [..., T] with one memory for each row, the one before its first step, instead of two for each step.

        That is all that a loss needs; whoever needs values of the "next" half has to get them before, see `postproc`. A
        tensordict has no place for what belongs to a whole row, so the bytes of the memory are laid along the time axis:
        "memory_at_start" [..., T, 1 + bytes], uint8, the leading one set at the first step. Rows can be taken out of such a
        batch, but not cut; `forward` raises ValueError on rows that were.
        """
        *rows, T = batch.shape
        start = _numbered(batch["_memory"][..., 0].detach())
        flat = torch.cat([_bytes(x.contiguous(), len(rows)) for x in start], dim=-1)
        share = -(-flat.shape[-1] // T)
        laid = functional.pad(flat, (0, share * T - flat.shape[-1])).view(*rows, T, share)
        mark = functional.pad(laid.new_ones(*rows, 1, 1), (0, 0, 0, T - 1))
        return batch.exclude("_memory", ("next", "_memory")).set("memory_at_start", torch.cat([mark, laid], dim=-1))

    def forward(self, tensordict: TensorDictBase) -> TensorDictBase:
        missing = {"observation", "previous_action", "has_memory", "is_init"} - set(tensordict.keys())
        if missing:
            raise KeyError(
                f"{sorted(missing)} are not in the tensordict; give the environment the transforms of "
                "torchrl.modules.utils.get_env_transforms_from_module(module)"
            )
        given = tensordict.select(*self.in_keys, strict=False)
        run, shape = (self._along_time, given.shape[-1:]) if recurrent_mode() else (self._one_step, ())
        out = run(given.reshape(-1, *shape))
        return tensordict.update(out.reshape(tensordict.shape))

    def _one_step(self, given: TensorDictBase) -> TensorDictBase:
        """given: [B]"""
        if given.get("_memory", None) is None:
            raise KeyError("no memory in the tensordict; the batch of a collector is for set_recurrent_mode(True) only")
        state = PolicyState(self._memory_of(_numbered(given["_memory"])), given["previous_action"])
        first = ~given["has_memory"].squeeze(-1)
        parameters, value, memory = self.policy.step(_obs(given), state, first)
        kept = {str(i): x for i, x in enumerate(_tensors(memory))}
        after = {"has_memory": torch.ones_like(first)[:, None], "_memory": kept}
        return TensorDict({**self._written(parameters, value), "next": after}, given.shape)

    def _along_time(self, given: TensorDictBase) -> TensorDictBase:
        """given: [B, T]"""
        B, T = given.shape
        read = (given["is_init"] & given["has_memory"]).squeeze(-1)
        read[:, 0] = True
        if not bool(read[:, 1:].any()):
            return self._unroll(given)
        # A memory that is read in the middle of a row begins a row of its own; the ends of the short ones are filled with
        # steps that come after, which changes nothing before them.
        begin = read.flatten().nonzero().squeeze(1)
        piece = read.flatten().cumsum(0) - 1
        place = torch.arange(B * T, device=begin.device) - begin[piece]
        steps = begin[:, None] + torch.arange(int(place.max()) + 1, device=begin.device)
        out = self._unroll(given.reshape(-1)[steps.clamp(max=B * T - 1)])
        return out[piece, place].reshape(B, T)

    def _unroll(self, given: TensorDictBase) -> TensorDictBase:
        """given: [B, T]; memory is read at the first step only"""
        first, previous = ~given["has_memory"].squeeze(-1), given["previous_action"]
        state = PolicyState(self._first_memory(given), previous[:, 0])
        # the last action has no influence but on the state after it, which nobody asks for
        action = torch.cat([previous[:, 1:], previous[:, -1:]], dim=1)
        parameters, value, _ = self.policy.unroll(_obs(given), action, state, first)
        return TensorDict(self._written(parameters, value), given.shape)

    def _first_memory(self, given: TensorDictBase) -> Any:
        """The backbone's state before the first steps of `given` [B, T]."""
        memory, laid = given.get("_memory", None), given.get("memory_at_start", None)
        if memory is not None:
            return self._memory_of(_numbered(memory[:, 0]))
        if laid is not None:
            return self._memory_of(self._unpacked(laid))
        if bool(given["has_memory"][:, 0].any()):
            raise KeyError(
                "no memory in the tensordict for rows that begin inside an episode, or in the 'next' half of a batch; give the "
                "collector postproc=module.postproc(estimator), or postproc=module.keep_start where nothing is estimated"
            )
        return self.policy.backbone.initial_state(len(given))

    def _unpacked(self, laid: torch.Tensor) -> list[torch.Tensor]:
        """What `keep_start` laid along the time axis: laid [B, T, 1 + bytes]."""
        like = _tensors(self._example())
        sizes = [x[0].numel() * x.element_size() for x in like]
        flat = laid[..., 1:].flatten(1)
        if not bool(laid[:, 0, 0].all()) or bool(laid[:, 1:, 0].any()) or flat.shape[1] < sum(sizes):
            raise ValueError("rows of a batch from keep_start were cut or joined along time; take whole rows")
        tensors = [x.new_empty(len(flat), *x.shape[1:]) for x in like]
        for x, part in zip(tensors, flat[:, : sum(sizes)].split(sizes, dim=1), strict=True):
            _bytes(x, 1).copy_(part)  # not a view of the part, whose bytes need not lie where a number may begin
        return tensors

    def _memory_of(self, tensors: Iterable[torch.Tensor]) -> Any:
        remaining = iter(tensors)
        return map_state(lambda _: next(remaining), self._example())

    def _example(self) -> Any:
        return self.policy.backbone.initial_state(1)

    def _written(self, parameters: torch.Tensor, value: torch.Tensor) -> dict[str, torch.Tensor]:
        return {**_named(self.policy.head, parameters), "state_value": value[..., None]}


class _Primer(TensorDictPrimer):
    def _step(self, tensordict: TensorDictBase, next_tensordict: TensorDictBase) -> TensorDictBase:
        return super()._step(tensordict, next_tensordict.set("previous_action", tensordict["action"]))


def _expect(given: Any, kind: type, such_as: str) -> None:
    if not isinstance(given, kind):
        raise TypeError(f"{type(given).__name__} was given; expected a {kind.__name__}, as {such_as}")


def _tensors(state: Any) -> list[torch.Tensor]:
    """All tensors of a state, in the order in which `map_state` meets them."""
    found: list[torch.Tensor] = []

    def note(x: torch.Tensor) -> torch.Tensor:
        found.append(x)
        return x

    map_state(note, state)
    return found


def _numbered(memory: TensorDictBase) -> list[torch.Tensor]:
    return [memory[str(i)] for i in range(len(memory.keys()))]


def _bytes(x: torch.Tensor, axes: int) -> torch.Tensor:
    """A contiguous tensor as uint8, with all but its first axes made one; shares its storage."""
    return x.unsqueeze(-1).flatten(axes).view(torch.uint8)


def _obs(given: TensorDictBase) -> Obs:
    obs = given["observation"]
    return dict(obs.items()) if isinstance(obs, TensorDictBase) else obs


def _named(head: CategoricalHead | GaussianHead, parameters: torch.Tensor) -> dict[str, torch.Tensor]:
    """The parameters of a head's distribution [..., n] under torch's names, the action's axes in their places."""
    leading = parameters.shape[:-1]
    if isinstance(head, GaussianHead):
        loc, log_scale = (x.reshape(*leading, *head.shape) for x in parameters.chunk(2, dim=-1))
        return {"loc": loc, "scale": log_scale.exp()}
    most = max(head.sizes)
    # components with fewer choices than others are filled up with impossible ones
    parts = [functional.pad(x, (0, most - x.shape[-1]), value=-torch.inf) for x in parameters.split(head.sizes, dim=-1)]
    return {"logits": torch.stack(parts, dim=-2).reshape(*leading, *head.shape, most)}


def _distribution(axes: int, **parameters: torch.Tensor) -> distributions.Distribution:
    """The distribution of actions with so many axes."""
    each = (
        distributions.Categorical(logits=parameters["logits"])
        if "logits" in parameters
        else distributions.Normal(parameters["loc"], parameters["scale"])
    )
    return distributions.Independent(each, axes) if axes else each


def _path(key: Any) -> tuple[str, ...]:
    return key if isinstance(key, tuple) else (key,)


def _space(spec: data.TensorSpec, name: str) -> spaces.Space[Any]:
    """What one row of a torchrl spec [B, ...] is in gymnasium's words."""
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
    """One row's spec of a space that our environments may have."""
    if isinstance(space, spaces.Dict):
        return data.Composite({key: _spec(entry) for key, entry in space.items()})
    if isinstance(space, spaces.Discrete):
        return data.Categorical(int(space.n))
    if isinstance(space, spaces.MultiDiscrete):
        return data.MultiCategorical(torch.from_numpy(space.nvec), remove_singleton=False)
    if isinstance(space, spaces.MultiBinary):
        return data.Bounded(0, 1, shape=space.shape, dtype=torch.int8)
    if isinstance(space, spaces.Box):
        low, high = torch.from_numpy(space.low), torch.from_numpy(space.high)
        # torchrl draws NaN where a bound is infinite
        if np.isfinite(space.low).all() and np.isfinite(space.high).all():
            return data.Bounded(low, high, shape=low.shape, dtype=low.dtype)
        return data.Unbounded(shape=low.shape, dtype=low.dtype)
    raise ConfigError(f"space {space} has no spec; supported are Box, Discrete, MultiDiscrete, MultiBinary and Dict")
