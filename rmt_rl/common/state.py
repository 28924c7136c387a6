"""Functions on policy states and observations.

A state is a frozen dataclass of tensors (or of such dataclasses), batch on axis 0 of every tensor. Therefore one function,
`map_state`, selects, stacks, detaches and moves the state of any policy.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import torch

StateT = TypeVar("StateT")
Obs = torch.Tensor | dict[str, torch.Tensor]


def map_state(function: Callable[..., torch.Tensor], state: StateT, *others: StateT) -> StateT:
    """Apply `function` to every tensor of a state, or to the corresponding tensors of several states."""
    if isinstance(state, torch.Tensor):
        return function(state, *others)  # type: ignore[return-value]
    values = {
        f.name: map_state(function, getattr(state, f.name), *(getattr(other, f.name) for other in others))
        for f in dataclasses.fields(state)  # type: ignore[arg-type]
    }
    return type(state)(**values)


def all_same_shape(state: Any, other: Any) -> bool:
    """Whether two states have the same tensors; raises AttributeError where `other` lacks one."""
    if isinstance(state, torch.Tensor):
        return isinstance(other, torch.Tensor) and state.shape == other.shape
    return all(all_same_shape(getattr(state, f.name), getattr(other, f.name)) for f in dataclasses.fields(state))


def select_rows(state: StateT, rows: torch.Tensor) -> StateT:
    """The state of some rows, in the order of the indices `rows`."""
    return map_state(lambda x: x[rows], state)


def detach(state: StateT) -> StateT:
    return map_state(torch.Tensor.detach, state)


def leaves(state: Any, prefix: str = "state") -> dict[str, torch.Tensor]:
    """The tensors of a state by dotted name, in the order of its fields."""
    if isinstance(state, torch.Tensor):
        return {prefix: state}
    found: dict[str, torch.Tensor] = {}
    for field in dataclasses.fields(state):
        found |= leaves(getattr(state, field.name), f"{prefix}.{field.name}")
    return found


def rebuild(state: StateT, values: Mapping[str, torch.Tensor], prefix: str = "state") -> StateT:
    """A state like `state` with the tensors of `values`: the reverse of `leaves`."""
    if isinstance(state, torch.Tensor):
        return values[prefix]  # type: ignore[return-value]
    fields = dataclasses.fields(state)  # type: ignore[arg-type]
    return type(state)(**{f.name: rebuild(getattr(state, f.name), values, f"{prefix}.{f.name}") for f in fields})


def state_to_tree(state: Any) -> Any:
    """A state as dictionaries of tensors."""
    if isinstance(state, torch.Tensor):
        return state
    return {f.name: state_to_tree(getattr(state, f.name)) for f in dataclasses.fields(state)}


def state_from_tree(like: StateT, tree: Any) -> StateT:
    """The reverse of `state_to_tree`; raises ValueError where shapes or dtypes differ from those of `like`."""
    if not isinstance(like, torch.Tensor):
        names = [field.name for field in dataclasses.fields(like)]  # type: ignore[arg-type]
        if not isinstance(tree, Mapping) or sorted(names) != sorted(tree):
            found = list(tree) if isinstance(tree, Mapping) else type(tree).__name__
            raise ValueError(f"{found} was found; expected {names}")
        return type(like)(**{name: state_from_tree(getattr(like, name), tree[name]) for name in names})
    if not isinstance(tree, torch.Tensor):
        raise ValueError(f"a {type(tree).__name__} was found; expected a tensor")
    if (tree.shape, tree.dtype) != (like.shape, like.dtype):
        raise ValueError(f"{tuple(tree.shape)} {tree.dtype} was found; expected {tuple(like.shape)} {like.dtype}")
    return tree.to(like.device)  # type: ignore[return-value]


def where_rows(mask_B: torch.Tensor, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """x in the rows where the mask is true, y elsewhere. A NaN in the operand that is not selected has no effect."""
    return torch.where(mask_B.view(-1, *[1] * (y.dim() - 1)), x, y)


def map_obs(function: Callable[..., torch.Tensor], obs: Obs, *others: Obs) -> Obs:
    """Apply `function` to an observation tensor, or to every entry of a dictionary of them."""
    if isinstance(obs, dict):
        return {key: function(value, *(other[key] for other in others)) for key, value in obs.items()}  # type: ignore[index]
    return function(obs, *others)


def changed_in_place(shown: Mapping[str, torch.Tensor], versions: Mapping[str, int]) -> list[str]:
    """The names of tensors that were written to since `versions_of` counted it."""
    return [name for name, count in versions_of(shown).items() if count != versions[name]]


def versions_of(shown: Mapping[str, torch.Tensor]) -> dict[str, int]:
    """How often each tensor, or one that shares its memory, was written to; not known of tensors made in inference mode."""
    return {name: x._version for name, x in shown.items() if not x.is_inference()}


def copy_tree(tree: Any) -> Any:
    """A copy of dictionaries and lists of tensors and plain values that later changes in place do not reach; on the CPU."""
    if isinstance(tree, torch.Tensor):
        return tree.detach().to("cpu", copy=True)
    if isinstance(tree, dict):
        return {key: copy_tree(value) for key, value in tree.items()}
    return [copy_tree(value) for value in tree] if isinstance(tree, list | tuple) else tree


def check_tensor(
    name: str,
    x: Any,
    like: torch.Tensor,
    low: float | torch.Tensor | None = None,
    high: float | torch.Tensor | None = None,
) -> torch.Tensor:
    """`x`, from a file, on the device of `like`; raises ValueError where its form differs or values lie outside low..high."""
    if not isinstance(x, torch.Tensor) or (x.shape, x.dtype) != (like.shape, like.dtype):
        found = f"{tuple(x.shape)} {x.dtype}" if isinstance(x, torch.Tensor) else f"a {type(x).__name__}"
        raise ValueError(f"{name} is {found}; expected {tuple(like.shape)} {like.dtype}")
    x = x.to(like.device, copy=True)
    if x.is_floating_point() and not bool(x.isfinite().all()):
        raise ValueError(f"{name} is not finite")
    if (low is not None and bool((x < low).any())) or (high is not None and bool((x > high).any())):
        raise ValueError(f"{name} has values out of range")
    return x


def check_count(name: str, value: Any) -> int:
    """A number of steps, updates or the like from a file; raises ValueError where it is none."""
    if type(value) is not int or not 0 <= value < 2**62:
        raise ValueError(f"{name} is no number of steps; expected a whole number, at least 0")
    return value
