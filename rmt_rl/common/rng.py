"""Named random streams: torch generators by name, and counter-based bits for batched environments.

Nothing in this package draws from torch's, numpy's or Python's global stream.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
from collections.abc import Callable, Iterator

import torch

_GOLDEN = -7046029254386353131  # 0x9E3779B97F4A7C15 as a signed 64-bit number
_MIX_1 = -4658895280553007687  # 0xBF58476D1CE4E5B9
_MIX_2 = -7723592293110705685  # 0x94D049BB133111EB


def counter_bits(seed_B: torch.Tensor, counter_B: torch.Tensor) -> torch.Tensor:
    """63 random bits for each row, a pure function of (seed, counter): int64 [B] in 0..2**63-1.

    SplitMix64's output function (Steele et al. 2014), applied to the seed and then to the counter, so that rows whose
    seeds are neighbours do not share a stream. No state, no host synchronisation, the same bits on every device.
    """
    return _mix(_mix(seed_B) + counter_B * _GOLDEN) & 0x7FFFFFFFFFFFFFFF


def _mix(z: torch.Tensor) -> torch.Tensor:
    z = z + _GOLDEN
    z = (z ^ _shift(z, 30)) * _MIX_1
    z = (z ^ _shift(z, 27)) * _MIX_2
    return z ^ _shift(z, 31)


def _shift(z: torch.Tensor, bits: int) -> torch.Tensor:
    # torch's >> keeps the sign; the algorithm shifts zeros in
    return (z >> bits) & ((1 << (64 - bits)) - 1)


def seed(run_seed: int, name: str) -> int:
    """A seed for one use, in 0..2**31-1; different names give unrelated seeds of the same run seed."""
    return counter_seed(run_seed, int.from_bytes(hashlib.blake2b(name.encode(), digest_size=7).digest(), "little"))


def counter_seed(seed: int, counter: int) -> int:
    """A seed in 0..2**31-1 that follows from another one and a number."""
    return int(counter_bits(torch.tensor([seed]), torch.tensor([counter]))) & 0x7FFFFFFF


def generator(run_seed: int, name: str, device: str | torch.device = "cpu") -> torch.Generator:
    """A torch generator for one use."""
    return torch.Generator(device).manual_seed(seed(run_seed, name))


@dataclasses.dataclass(frozen=True)
class SharedStream:
    """A stream that several processes draw alike: numbers for all rows, of which each keeps those of its own rows.

    rows: which of all `total` rows.
    """

    generator: torch.Generator
    rows: slice
    total: int


Stream = torch.Generator | SharedStream


def exponential(like: torch.Tensor, stream: Stream) -> torch.Tensor:
    """Numbers with the exponential distribution, one for each element of `like` [B, ...]."""
    return _drawn(torch.Tensor.exponential_, like, stream)


def normal(like: torch.Tensor, stream: Stream) -> torch.Tensor:
    """Standard normal numbers, one for each element of `like` [B, ...]."""
    return _drawn(torch.Tensor.normal_, like, stream)


def uniform(like: torch.Tensor, stream: Stream) -> torch.Tensor:
    """Numbers between 0 and 1, one for each element of `like` [B, ...]."""
    return _drawn(torch.Tensor.uniform_, like, stream)


def _drawn(fill: Callable[..., torch.Tensor], like: torch.Tensor, stream: Stream) -> torch.Tensor:
    if isinstance(stream, torch.Generator):
        return fill(torch.empty_like(like), generator=stream)
    return fill(like.new_empty(stream.total, *like.shape[1:]), generator=stream.generator)[stream.rows]


def global_generator(device: torch.device) -> torch.Generator:
    """The generator that torch uses by default on a device."""
    if device.type == "cpu":
        return torch.default_generator
    index = torch.cuda.current_device() if device.index is None else device.index
    return torch.cuda.default_generators[index]


@contextlib.contextmanager
def as_global(generator: torch.Generator) -> Iterator[None]:
    """Inside, torch's default generator is this one. Dropout accepts no generator, so this is the only way to seed it."""
    default = global_generator(generator.device)
    before = default.get_state()
    default.set_state(generator.get_state())
    try:
        yield
    finally:
        generator.set_state(default.get_state())
        default.set_state(before)
