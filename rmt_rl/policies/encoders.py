"""Observation to vector of width D. Chosen from the observation space, never from the name of an environment.

whole numbers in a small range, Discrete, MultiDiscrete, MultiBinary -> one-hot of every element, then linear
the same with more than 64 values                                    -> a learned vector for every value of every element
a grid [height, width, channels] of numbers in a small range         -> as one-hot, plus which values occur anywhere in it
pictures (`pictures.py`) of at least 36 x 36 pixels                  -> three convolutions (Mnih et al. 2015), linear
smaller uint8 pictures [height, width, channels]                     -> standardised, linear
text, as its bytes                                                   -> vectors of words or characters (`words.py`), linear
Box of real numbers                                                  -> scaled to [-1, 1] where bounded, linear; elements
                                                                        without bounds by their moments, if asked for
Dict                                                                 -> the sum of its entries' vectors
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable
from typing import Any

import gymnasium
import numpy as np
import torch
from gymnasium import spaces
from torch import nn
from torch.nn import functional as F

from rmt_rl.common.device import exact_cudnn
from rmt_rl.common.errors import ConfigError
from rmt_rl.common.rng import counter_bits
from rmt_rl.common.state import Obs, changed_in_place, versions_of
from rmt_rl.envs.text import TextBytes
from rmt_rl.policies.linear import Linear
from rmt_rl.policies.moments import RunningMoments
from rmt_rl.policies.pictures import Picture, picture_of
from rmt_rl.policies.spec import RULES
from rmt_rl.policies.words import SHORT, SIZE, Words

#: A whole-number element with at most this many values is a category, not a quantity.
MAX_CATEGORIES = 64

#: Values of all elements of an observation, each of which has a learned vector.
MOST_VALUES = 2**20

#: From this many rows on, categories are encoded once for every distinct row: MiniGrid's worlds are small, and in 2,048
#: steps of MemoryS7 there are 54 different pictures of 3 x 3 cells.
MANY_ROWS = 512

#: Bounds that are farther apart say "any number" rather than where the numbers lie.
WIDEST_BOUNDS = 1e6


def make_encoder(space: gymnasium.Space[Any], width: int, normalize: bool = False, rules: int = RULES) -> nn.Module:
    """A module from observations [..., *space.shape] to vectors [..., width].

    normalize: real numbers without bounds are given mean 0 and deviation 1 (`RunningMoments`). rules: 1 in policies of before
    learned vectors for large categories, and before pictures other than uint8 [height, width, channels].
    """
    if isinstance(space, spaces.Dict) and len(space):
        return Sum({key: make_encoder(entry, width, normalize, rules) for key, entry in space.items()})
    if isinstance(space, TextBytes):
        short = space.characters and space.shape[0] <= SHORT
        return CharactersInPlace(space, width) if short else Words(space, width)
    sizes = category_sizes(space)
    if sizes is not None:
        if rules > 1 and sum(sizes) > MOST_VALUES:
            raise ConfigError(
                f"observation space {' '.join(str(space).split())} has {sum(sizes):,} values; at most {MOST_VALUES:,} can have a"
                " learned vector each: split them into several numbers, such as the digits, or show a Box of floats"
            )
        if rules > 1 and max(sizes) > MAX_CATEGORIES:
            return LookUp(sizes, width)
        low = int(space.low.flat[0]) if isinstance(space, spaces.Box) else 0
        channels = space.shape[-1] if isinstance(space, spaces.Box) and len(space.shape) == 3 else None
        if channels and sizes == sizes[:channels] * (len(sizes) // channels):
            return CategoryPicture(sizes[:channels], len(sizes) // channels, low, width)
        return Categories(sizes, low, width)
    if isinstance(space, spaces.Box):
        picture = picture_of(space)
        if picture is not None and picture.large and (rules > 1 or picture.known_before):
            return Image(picture, width)
        return Vector(space, width, normalize)
    raise ConfigError(
        f"observation space {' '.join(str(space).split())} is not supported; "
        "supported are Box, Discrete, MultiDiscrete, MultiBinary and Dict"
    )


def category_sizes(space: gymnasium.Space[Any]) -> list[int] | None:
    """How many values each element of the flattened space has, or None where elements are quantities."""
    if isinstance(space, spaces.Discrete):
        return [int(space.n)]
    if isinstance(space, spaces.MultiDiscrete):
        return [int(n) for n in space.nvec.flatten()]
    if isinstance(space, spaces.MultiBinary):
        return [2] * math.prod(space.shape)
    if isinstance(space, spaces.Box) and np.issubdtype(space.dtype, np.integer):
        low, high = space.low.flatten().tolist(), space.high.flatten().tolist()
        sizes = [h - b + 1 for b, h in zip(low, high, strict=True)]  # in Python, because int64 may overflow
        if max(sizes) <= MAX_CATEGORIES and len(set(low)) == 1:
            return sizes
    return None


def distinct_rows(x_NE: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """`where` [U], the place of one row of each kind, and `kind` [N], so that x[where][kind] equals x; whole numbers only.

    By a hash, which sorts N numbers instead of N rows; should two different rows share one, by the rows themselves.
    """
    element = torch.arange(x_NE.shape[1], device=x_NE.device)
    weight = counter_bits(torch.zeros_like(element), element)
    where, kind = _kinds((x_NE.long() * weight).sum(1, keepdim=True))
    if not torch.equal(x_NE[where].index_select(0, kind), x_NE):
        where, kind = _kinds(x_NE)
    return where, kind


def _kinds(x_NE: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    if x_NE.shape[1] == 1:
        values, kind = torch.unique(x_NE[:, 0], return_inverse=True)
    else:
        values, kind = torch.unique(x_NE, dim=0, return_inverse=True)
    place = torch.arange(len(kind), device=kind.device)
    return kind.new_full((len(values),), len(kind)).scatter_reduce_(0, kind, place, "amin"), kind


class Categories(nn.Module):
    """One-hot of every element side by side, then linear: the sum of one learned vector for each (element, value)."""

    offsets: torch.Tensor

    def __init__(self, sizes: list[int], low: int, width: int) -> None:
        super().__init__()
        self.elements, self.total = len(sizes), sum(sizes)
        offsets = torch.tensor([0, *itertools.accumulate(sizes)][:-1])
        self.register_buffer("offsets", offsets - low, persistent=False)
        self.linear = Linear(self.total, width)
        # a sum of `elements` vectors: each drawn so that the sum has deviation 1
        nn.init.normal_(self.linear.weight, std=self.elements**-0.5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x.reshape(-1, self.elements)
        # on a GPU the product is cheap, and to ask how many distinct rows there are would make the host wait
        if len(x) < MANY_ROWS or x.device.type != "cpu" or torch.compiler.is_compiling():
            return self.encode(x)
        where, kind = distinct_rows(x)
        return F.embedding(kind, self.encode(x[where]))

    def encode(self, x: torch.Tensor) -> torch.Tensor:
        """[rows, elements] -> [rows, width]."""
        return self.linear(self.one_hot(x))

    def one_hot(self, x: torch.Tensor) -> torch.Tensor:
        """[rows, total], one 1 for each element."""
        index = x.long() + self.offsets
        return self.linear.weight.new_zeros(len(index), self.total).scatter_(1, index, 1.0)


class LookUp(nn.Module):
    """The sum of one learned vector for each (element, value), by its number: what `Categories` computes, without the zeros."""

    offsets: torch.Tensor

    def __init__(self, sizes: list[int], width: int) -> None:
        super().__init__()
        self.elements = len(sizes)
        self.register_buffer("offsets", torch.tensor([0, *itertools.accumulate(sizes)][:-1]), persistent=False)
        self.table = nn.Embedding(sum(sizes), width)
        nn.init.normal_(self.table.weight, std=self.elements**-0.5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.table(x.reshape(-1, self.elements).long() + self.offsets).sum(1)


class CharactersInPlace(nn.Module):
    """A short text without words: the sum of one learned vector for each (place, byte), then linear."""

    def __init__(self, space: TextBytes, width: int) -> None:
        super().__init__()
        self.look_up, self.linear = LookUp([256] * space.shape[0], SIZE), Linear(SIZE, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.linear(self.look_up(x))


class CategoryPicture(Categories):
    """A grid of cells [height, width, channels] whose channels are categories, such as MiniGrid's objects and colours.

    Beside what `Categories` does, every value has a vector of its own for occurring anywhere in the picture. So what is
    learned of a key in one corner of the view holds in the others.
    """

    def __init__(self, channel_sizes: list[int], cells: int, low: int, width: int) -> None:
        super().__init__(channel_sizes * cells, low, width)
        self.cells = cells
        self.anywhere = Linear(sum(channel_sizes), width, bias=False)
        nn.init.normal_(self.anywhere.weight, std=len(channel_sizes) ** -0.5)

    def encode(self, x: torch.Tensor) -> torch.Tensor:
        one_hot = self.one_hot(x)
        present = one_hot.view(len(one_hot), self.cells, -1).amax(1)
        return self.linear(one_hot) + self.anywhere(present)


def bounds_of(space: spaces.Box) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Lower and upper bound of every element, and whether they say where its numbers lie."""
    low, high = (torch.from_numpy(np.asarray(b, np.float64).flatten()) for b in (space.low, space.high))
    return low, high, (high > low) & (high - low <= WIDEST_BOUNDS)


class Vector(nn.Module):
    """Real numbers, scaled to [-1, 1] by their bounds where they have any; small uint8 pictures are standardised."""

    middle: torch.Tensor
    scale: torch.Tensor

    def __init__(self, space: spaces.Box, width: int, normalize: bool = False) -> None:
        super().__init__()
        low, high, bounded = bounds_of(space)
        self.register_buffer("middle", torch.where(bounded, (low + high) / 2, 0.0).float(), persistent=False)
        self.register_buffer("scale", torch.where(bounded, 2 / (high - low), 1.0).float(), persistent=False)
        # symbolic pictures use a small part of 0..255, in which scaling by the bounds would leave next to nothing
        self.standardise = space.dtype == np.uint8 and len(space.shape) == 3
        self.size = len(low)
        self.moments = RunningMoments(~bounded) if normalize and not bool(bounded.all()) else None
        self.linear = Linear(self.size, width)

    def scaled(self, x: torch.Tensor) -> torch.Tensor:
        """[rows, size], scaled by the bounds."""
        return (x.reshape(-1, self.size).to(self.scale.dtype) - self.middle) * self.scale

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.scaled(x)
        if self.moments is not None:
            x = self.moments(x)
        return self.linear(F.layer_norm(x, (self.size,)) if self.standardise else x)


class Image(nn.Module):
    """The three convolutions of Mnih et al. 2015 ("Human-level control"), height and width at least 36."""

    def __init__(self, picture: Picture, width: int) -> None:
        super().__init__()
        self.picture = picture
        self.convolutions = nn.Sequential(
            *(nn.Conv2d(picture.channels, 32, 8, stride=4), nn.ReLU(), nn.Conv2d(32, 64, 4, stride=2), nn.ReLU()),
            *(nn.Conv2d(64, 64, 3, stride=1), nn.ReLU(), nn.Flatten()),
        )
        with torch.no_grad():
            size = self.convolutions(torch.zeros(1, picture.channels, picture.height, picture.width)).shape[1]
        self.linear = Linear(size, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x.reshape(-1, *self.picture.shape).to(self.linear.weight.dtype) / self.picture.highest
        with exact_cudnn(x):
            return self.linear(self.convolutions(self.picture.channels_first(x)))


class Sum(nn.Module):
    """The sum of the vectors of a dictionary's entries."""

    def __init__(self, entries: dict[str, nn.Module]) -> None:
        super().__init__()
        # not a ModuleDict, which takes no name with a dot and none of its own methods' names
        self.keys, self.encoders = list(entries), nn.ModuleList(entries.values())

    def forward(self, x: dict[str, torch.Tensor]) -> torch.Tensor:
        vectors = [encoder(x[key]) for key, encoder in zip(self.keys, self.encoders, strict=True)]
        return torch.stack(vectors).sum(0) if len(vectors) > 1 else vectors[0]


class Normalizer(nn.Module):
    """Real numbers in their own shape, of which those without bounds get mean 0 and deviation 1."""

    def __init__(self, space: Any) -> None:
        super().__init__()
        unbounded = ~bounds_of(space)[2]
        self.size, self.moments = len(unbounded), RunningMoments(unbounded)

    def scaled(self, x: torch.Tensor) -> torch.Tensor:
        """[rows, size], as they are."""
        return x.reshape(-1, self.size)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.moments(self.scaled(x)).view(x.shape)


class Outside(nn.Module):
    """An encoder from outside (`register_encoder`): observations [N, *shape], or a dictionary of them, to [N, width].

    Normalisation, where it is asked for, comes before it.
    """

    def __init__(self, encoder: nn.Module, space: gymnasium.Space[Any], normalize: bool) -> None:
        super().__init__()
        parts = space.spaces if isinstance(space, spaces.Dict) else {"": space}
        self.encoder, self.shapes = encoder, {key: tuple(part.shape or ()) for key, part in parts.items()}
        self.normalizers = nn.ModuleList(
            Normalizer(part) if normalize and _has_unbounded(part) else nn.Identity() for part in parts.values()
        )

    def forward(self, obs: Obs) -> torch.Tensor:
        shown = obs if isinstance(obs, dict) else {"": obs}
        if torch.compiler.is_compiling():  # tensors without values
            return self._encode(shown, isinstance(obs, dict))
        before = versions_of(shown)
        encoded = self._encode(shown, isinstance(obs, dict))
        if changed := changed_in_place(shown, before):
            names = f" ({', '.join(changed)})" if isinstance(obs, dict) else ""
            raise ConfigError(
                f"policy.encoder: {type(self.encoder).__name__} changed its observation{names} in place, which is kept for"
                " learning; change a copy"
            )
        return encoded

    def _encode(self, shown: dict[str, torch.Tensor], several: bool) -> torch.Tensor:
        flat = {
            key: normalize(shown[key].reshape(-1, *shape))
            for (key, shape), normalize in zip(self.shapes.items(), self.normalizers, strict=True)
        }
        return self.encoder(flat if several else flat[""])


def _has_unbounded(space: gymnasium.Space[Any]) -> bool:
    """Whether a space has real numbers without bounds."""
    return isinstance(space, spaces.Box) and space.dtype.kind == "f" and not bool(bounds_of(space)[2].all())


class ObservationEncoder(nn.Module):
    """Encodes the observations of a space, any leading axes kept: [..., *shape] -> [..., width]."""

    def __init__(
        self,
        space: gymnasium.Space[Any],
        width: int,
        normalize: bool = False,
        rules: int = RULES,
        make_own: Callable[[gymnasium.Space[Any], int], nn.Module] | None = None,
    ) -> None:
        """make_own: makes an encoder from outside; None = it is chosen from the space."""
        super().__init__()
        self.space = space
        self.encoder = (
            make_encoder(space, width, normalize, rules)
            if make_own is None
            else Outside(make_own(space, width), space, normalize)
        )
        entry = next(iter(space.items())) if isinstance(space, spaces.Dict) else ("", space)
        self.key, self.event_axes = entry[0], len(entry[1].shape or ())

    def forward(self, obs: Obs) -> torch.Tensor:
        x = obs[self.key] if isinstance(obs, dict) else obs
        leading = x.shape[: x.dim() - self.event_axes]
        return self.encoder(obs).view(*leading, -1)

    @property
    def normalizes(self) -> bool:
        """Whether observations are normalised by the moments of those that were added."""
        return bool(self._normalized())

    def without_moments(self) -> bool:
        """Whether moments are wanted, and no observation was added yet."""
        return any(float(vector.moments.count) == 0 for _, vector in self._normalized())

    def add(self, obs: Obs) -> None:
        """Add observations, with any leading axes, to the moments that normalise them."""
        for key, vector in self._normalized():
            vector.moments.add(vector.scaled(obs[key] if isinstance(obs, dict) else obs))

    def _normalized(self) -> list[tuple[str, Any]]:
        parts: Iterable[tuple[str, nn.Module]] = [("", self.encoder)]
        if isinstance(self.encoder, Sum):
            parts = zip(self.encoder.keys, self.encoder.encoders, strict=True)
        if isinstance(self.encoder, Outside):
            parts = zip(self.encoder.shapes, self.encoder.normalizers, strict=True)
        return [
            (key, part) for key, part in parts if isinstance(part, Vector | Normalizer) and part.moments is not None
        ]
