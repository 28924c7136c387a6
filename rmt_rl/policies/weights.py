"""Weights from a file, checked before they are used: names, shapes and types, and that every number is finite.

A policy of NaN would act, and score 0.000. And a description of 400 bytes can ask for a network of any size, so a network that is
made for a file takes little more memory than the file has weights.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import nn
from torch.overrides import TorchFunctionMode

from rmt_rl.common.files import machine_memory, open_file
from rmt_rl.config.bases import PolicyConfig

#: Functions that make the tensors of a new network. Their first argument is a size, or their arguments are its numbers.
FACTORIES = (torch.empty, torch.zeros, torch.ones, torch.full, torch.rand, torch.randn)
#: Numbers that a network may make beside its weights, such as tables of positions.
BESIDE = 2**24


class BadWeights(ValueError):
    """Tensors that are not the weights of a network, in one sentence."""


class Sized(TorchFunctionMode):
    """Inside `with`, new tensors may have `numbers` numbers in all, and `BESIDE` more; raises BadWeights before one is made.

    torch's meta device makes networks without memory, but its first use imports torch's compiler, which takes seconds.
    """

    def __init__(self, numbers: int) -> None:
        super().__init__()
        self.numbers, self.made = numbers, 0

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in FACTORIES:
            size = (kwargs or {}).get("size", args if args and isinstance(args[0], int) else args[0] if args else ())
            self.made += math.prod(size)
            if self.made > self.numbers + BESIDE:
                raise BadWeights(f"the network needs more than the {self.numbers:,} numbers of the file")
        return func(*args, **(kwargs or {}))


def numbers_in(file: Path, config: PolicyConfig) -> int:
    """How many numbers a safetensors file has; reads its header only.

    Raises BadWeights where they do not fit into memory, or where there are fewer tensors than layers, and SafetensorError where
    the header is damaged or does not describe the whole file.
    """
    os.close(open_file(file, follow=True))  # safetensors would wait for a pipe
    with safe_open(file, framework="pt") as opened:
        shapes = [opened.get_slice(name).get_shape() for name in opened.keys()]  # noqa: SIM118  no dictionary
    layers = getattr(config, "layers", 1)
    if len(shapes) < layers:  # a layer takes time to make even where it is small
        raise BadWeights(f"has {len(shapes)} tensors for {layers} layers")
    size, memory = os.stat(file).st_size, machine_memory()
    if memory is not None and size > memory:
        raise BadWeights(f"has {size:,} bytes; this machine has {memory:,} bytes of memory")
    return sum(map(math.prod, shapes))


def load_weights(policy: nn.Module, tensors: Mapping[str, Any]) -> None:
    """Copy weights into a network; raises BadWeights, before anything is copied, where they are not usable as they are."""
    own = policy.state_dict()
    if odd := sorted(map(str, own.keys() ^ tensors.keys())):
        raise BadWeights(f"{odd[0]} is {'missing' if odd[0] in own else 'not a weight of this network'}")
    trained = {name for name, _ in policy.named_parameters()}
    for name, expected in own.items():
        found = tensors[name]
        if not isinstance(found, torch.Tensor) or found.shape != expected.shape:
            shape = list(found.shape) if isinstance(found, torch.Tensor) else type(found).__name__
            raise BadWeights(f"{name} has shape {shape}; expected {list(expected.shape)}")
        if found.dtype != expected.dtype and not (found.is_floating_point() and expected.is_floating_point()):
            raise BadWeights(f"{name} is of type {found.dtype}; expected {expected.dtype}")
        if not found.is_floating_point():
            continue
        if bool(found.isnan().any()) or (name in trained and not bool(found.isfinite().all())):
            raise BadWeights(f"{name} has values that are not finite (NaN or infinity); every weight must be a number")
        if found.dtype != expected.dtype and not bool((found.to(expected.dtype).isfinite() | found.isinf()).all()):
            raise BadWeights(
                f"{name} has values that {expected.dtype} cannot hold; the largest is {found.abs().max():.3g}"
            )
    policy.load_state_dict(dict(tensors))
