"""Policies of rmt_rl as recurrent modules of torchrl."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable
from typing import Any

import torch
from gymnasium import spaces
from torch import distributions
from torch.nn import functional

from rmt_rl.common.errors import ConfigError
from rmt_rl.common.state import leaves, map_state
from rmt_rl.policies.actor_critic import ActorCritic, PolicyState
from rmt_rl.policies.heads import CategoricalHead, GaussianHead, Head, MixedHead
from rmt_rl.torchrl.envs import observation_of, require_type

try:
    from tensordict import TensorDict, TensorDictBase
    from tensordict.nn import TensorDictModuleBase
    from torchrl import data
    from torchrl.envs import TensorDictPrimer
    from torchrl.modules import ProbabilisticActor, recurrent_mode, set_recurrent_mode
except ModuleNotFoundError as error:
    raise ImportError("rmt_rl.torchrl needs torchrl and tensordict; pip install 'rmt_rl[torchrl]'") from error

BatchFunction = Callable[[TensorDictBase], TensorDictBase]


class TorchRLPolicy(TensorDictModuleBase):
    """An ActorCritic as a recurrent module of torchrl. It shares the weights of `policy`.

    Reads "observation", torchrl's "is_init" and what `make_tensordict_primer` adds;
    `torchrl.modules.utils.get_env_transforms_from_module` makes the transforms for all of them. Writes the parameters of the
    action distribution ("logits", or "loc" and "scale") and "state_value" [..., 1]. `actor` puts the distribution on top.

    has_memory: [..., 1] bool, false before the first step of an episode. There the policy's own initial memory is used, and
        learned, whatever "memory" holds. This does not depend on is_init, so it is right in every mode.
    previous_action: [..., *action], without influence before the first step of an episode
    memory: the tensors of the backbone's state, with a separate critic those of both states, numbered. The name has no
        underscore, because worker processes of collectors drop such keys before `postproc` is called
    memory_at_start: the memory that `keep_start` keeps

    One step at a time, any batch axes: the memory is read, and written under "next". Under `set_recurrent_mode(True)` time is
    the last batch axis: the memory is read at the first step of a row and wherever is_init is true, carried in between, and
    not written. So the "next" half of a batch, which begins one step after each reset, has the same values as acting. A GAE
    needs `deactivate_vmap=True` for that, and `set_recurrent_mode(True)` around its call.
    """

    def __init__(self, policy: ActorCritic) -> None:
        require_type(policy, ActorCritic, "rmt_rl.load_policy returns")
        if isinstance(policy.head, MixedHead):
            raise ConfigError(
                f"action space {policy.spec.own_actions}: choices and real numbers together have no distribution in torchrl;"
                " train such a policy with rmt_rl.train"
            )
        super().__init__()
        self.policy = policy
        space = policy.spec.observation_space
        observation = [("observation", key) for key in space] if isinstance(space, spaces.Dict) else ["observation"]
        memory = [("memory", str(i)) for i in range(len(_tensors(self._example())))]
        self.in_keys = [*observation, "previous_action", "has_memory", "is_init", *memory, "memory_at_start"]
        parameters = ["logits"] if isinstance(policy.head, CategoricalHead) else ["loc", "scale"]
        self.out_keys = [*parameters, "state_value", ("next", "has_memory"), *(("next", *key) for key in memory)]

    def actor(self) -> ProbabilisticActor:
        """This module with the action distribution on top: the policy of a collector and the actor of a loss."""
        keys = [key for key in self.out_keys if key in ("logits", "loc", "scale")]
        return ProbabilisticActor(
            self,
            in_keys=keys,
            distribution_class=functools.partial(_distribution, len(self.policy.head.shape)),
            return_log_prob=True,
        )

    def make_tensordict_primer(self) -> TensorDictPrimer:
        """The transform that carries memory and previous action from step to step, and clears them at resets."""
        head = self.policy.head
        memory = [data.Unbounded(shape=x.shape[1:], dtype=x.dtype) for x in _tensors(self._example())]
        specs = {
            "previous_action": data.Unbounded(shape=head.shape, dtype=head.action_dtype),
            "has_memory": data.Categorical(2, shape=(1,), dtype=torch.bool),
            "memory": data.Composite({str(i): spec for i, spec in enumerate(memory)}),
        }
        return _Primer(data.Composite(specs), expand_specs=True)

    def postproc(self, estimator: BatchFunction) -> BatchFunction:
        """The `postproc` of a collector: advantages by `estimator`, such as torchrl's GAE, then `keep_start`.

        A GAE needs `value_network=` this module and `deactivate_vmap=True`, because torch.vmap does not support the memory;
        a VTrace, which has no such argument, needs `num_chunks=1`.
        """
        return functools.partial(self._estimate_and_keep_start, estimator)

    def _estimate_and_keep_start(self, estimator: BatchFunction, batch: TensorDictBase) -> TensorDictBase:
        # a copy, because collectors reuse their buffers; without the values that the actor wrote, because an estimator needs
        # them in both halves of a batch or in none
        with set_recurrent_mode(True):
            return self.keep_start(estimator(batch.copy().exclude("state_value")))

    def keep_start(self, batch: TensorDictBase) -> TensorDictBase:
        """A batch [..., T] with one memory per row, the one before its first step, instead of two per step.

        A loss needs no more; values of the "next" half must be computed before, see `postproc`. A tensordict cannot hold one
        value for a whole row, so the bytes of the memory are stored along the time axis: "memory_at_start"
        [..., T, 1 + bytes], uint8, with a leading 1 at the first step. Rows of such a batch can be selected, but not cut;
        `forward` raises ValueError for cut rows. Raises ValueError where a collector joined rows along time.
        """
        *rows, T = batch.shape
        trajectory = batch.get(("collector", "traj_ids"), None)
        if trajectory is not None and T > 1:
            other = (trajectory[..., 1:] != trajectory[..., :-1]) & batch["has_memory"][..., 1:, 0]
            if bool(other.any()):  # another episode, but not its first step
                raise ValueError(
                    "rows of several workers are joined along time; give the MultiSyncCollector cat_results=0 or 'stack'"
                )
        start = _numbered(batch["memory"][..., 0].detach())
        flat = torch.cat([_bytes(x.contiguous(), len(rows)) for x in start], dim=-1)
        share = -(-flat.shape[-1] // T)
        laid = functional.pad(flat, (0, share * T - flat.shape[-1])).view(*rows, T, share)
        mark = functional.pad(laid.new_ones(*rows, 1, 1), (0, 0, 0, T - 1))
        return batch.exclude("memory", ("next", "memory")).set("memory_at_start", torch.cat([mark, laid], dim=-1))

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
        if given.get("memory", None) is None:
            raise KeyError(
                "no memory in the tensordict; a batch after keep_start or postproc is for set_recurrent_mode(True) only"
            )
        state = PolicyState(self._memory_of(_numbered(given["memory"])), given["previous_action"])
        first = ~given["has_memory"].squeeze(-1)
        parameters, value, memory = self.policy.step(observation_of(given), state, first)
        kept = {str(i): x for i, x in enumerate(_tensors(memory))}
        after = {"has_memory": torch.ones_like(first)[:, None], "memory": kept}
        return TensorDict({**self._written(parameters, value), "next": after}, given.shape)

    def _along_time(self, given: TensorDictBase) -> TensorDictBase:
        """given: [B, T]"""
        B, T = given.shape
        read = (given["is_init"] & given["has_memory"]).squeeze(-1)
        read[:, 0] = True
        if not bool(read[:, 1:].any()):
            return self._unroll(given)
        # A row is split where a memory is read in its middle. Short parts are padded with the steps that follow them, which
        # changes nothing before them.
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
        # the last action influences only the state after it, which is not used
        action = torch.cat([previous[:, 1:], previous[:, -1:]], dim=1)
        parameters, value, _ = self.policy.unroll(observation_of(given), action, state, first)
        return TensorDict(self._written(parameters, value), given.shape)

    def _first_memory(self, given: TensorDictBase) -> Any:
        """The backbone's state before the first steps of `given` [B, T]."""
        memory, laid = given.get("memory", None), given.get("memory_at_start", None)
        if memory is not None:
            return self._memory_of(_numbered(memory[:, 0]))
        if laid is not None:
            return self._memory_of(self._unpacked(laid))
        if bool(given["has_memory"][:, 0].any()):
            raise KeyError(
                "no memory in the tensordict for rows that begin inside an episode, or in the 'next' half of a batch; give the "
                "collector postproc=module.postproc(estimator), or postproc=module.keep_start where nothing is estimated"
            )
        return self.policy.initial_state(len(given), critic=True).memory

    def _unpacked(self, laid: torch.Tensor) -> list[torch.Tensor]:
        """The memory that `keep_start` stored along the time axis: laid [B, T, 1 + bytes]."""
        like = _tensors(self._example())
        sizes = [x[0].numel() * x.element_size() for x in like]
        flat = laid[..., 1:].flatten(1)
        if not bool(laid[:, 0, 0].all()) or bool(laid[:, 1:, 0].any()) or flat.shape[1] < sum(sizes):
            raise ValueError("rows of a batch from keep_start were cut or joined along time; take whole rows")
        tensors = [x.new_empty(len(flat), *x.shape[1:]) for x in like]
        for x, part in zip(tensors, flat[:, : sum(sizes)].split(sizes, dim=1), strict=True):
            _bytes(x, 1).copy_(part)  # a copy, because the bytes of the part may not be aligned
        return tensors

    def _memory_of(self, tensors: Iterable[torch.Tensor]) -> Any:
        remaining = iter(tensors)
        return map_state(lambda _: next(remaining), self._example())

    def _example(self) -> Any:
        return self.policy.initial_state(1, critic=True).memory

    def _written(self, parameters: torch.Tensor, value: torch.Tensor) -> dict[str, torch.Tensor]:
        return {**_named(self.policy.head, parameters), "state_value": value[..., None]}


class _Primer(TensorDictPrimer):
    def _step(self, tensordict: TensorDictBase, next_tensordict: TensorDictBase) -> TensorDictBase:
        return super()._step(tensordict, next_tensordict.set("previous_action", tensordict["action"]))


def _named(head: Head, parameters: torch.Tensor) -> dict[str, torch.Tensor]:
    """The parameters of a head's distribution [..., n] under torch's names, the action's axes in their places."""
    leading = parameters.shape[:-1]
    if isinstance(head, GaussianHead):
        loc, log_scale = (x.reshape(*leading, *head.shape) for x in parameters.chunk(2, dim=-1))
        return {"loc": loc, "scale": log_scale.exp()}
    assert isinstance(head, CategoricalHead)
    most = max(head.sizes)
    # components with fewer choices than others are padded with choices of probability 0
    parts = [functional.pad(x, (0, most - x.shape[-1]), value=-torch.inf) for x in parameters.split(head.sizes, dim=-1)]
    return {"logits": torch.stack(parts, dim=-2).reshape(*leading, *head.shape, most)}


def _distribution(axes: int, **parameters: torch.Tensor) -> distributions.Distribution:
    """The distribution of actions with this number of axes."""
    each = (
        distributions.Categorical(logits=parameters["logits"])
        if "logits" in parameters
        else distributions.Normal(parameters["loc"], parameters["scale"])
    )
    return distributions.Independent(each, axes) if axes else each


def _tensors(state: Any) -> list[torch.Tensor]:
    return list(leaves(state).values())


def _numbered(memory: TensorDictBase) -> list[torch.Tensor]:
    return [memory[str(i)] for i in range(len(memory.keys()))]


def _bytes(x: torch.Tensor, axes: int) -> torch.Tensor:
    """A contiguous tensor as uint8, with all but its first axes flattened to one; shares its storage."""
    return x.unsqueeze(-1).flatten(axes).view(torch.uint8)
