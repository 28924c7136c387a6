"""Options of all policies."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from rmt_rl.config.bases import PolicyConfig
from rmt_rl.config.fields import nearest_divisor, option, show
from rmt_rl.config.memory import RAMP, MemoryConfig, ramp_beside
from rmt_rl.config.registry import builtin


@dataclass(frozen=True)
class TransformerConfig(PolicyConfig):
    """Options of all transformer policies."""

    has_segments: ClassVar[bool] = True

    width: int = option(64, "width D of the network", low=1, high=65_536)
    layers: int = option(2, "transformer blocks", low=1, high=1_000)
    heads: int = option(2, "attention heads; must divide width", low=1, high=65_536)
    segment: int = option(8, "steps S processed in one attention window", low=1, high=65_536)
    sharpness: float = option(
        4.5,
        "scale of the initial attention scores; 1 = torch's, which spread attention evenly",
        above=0,
        high=100,
    )
    dropout: float = option(
        0.0, "dropout rate of each block's outputs when learning; acting never drops", low=0, below=1
    )
    attention: str = option(
        "sdpa",
        "attention kernel: sdpa = torch, flash = flash-attn, flex = flex_attention (the last two: CUDA)",
        choices=("sdpa", "flash", "flex"),
    )
    replay: bool = option(False, "recompute segments in the backward pass instead of storing them (arXiv 2010.06891)")
    glu: bool = option(False, "gated feed-forward layers, as large as those without gates (SwiGLU, arXiv 2002.05202)")
    norm: str = option(
        "layer",
        "layer = LayerNorm, scale = ScaleNorm (arXiv 1910.05895)",
        choices=("layer", "scale"),
    )

    @property
    def rotary(self) -> bool:
        """Whether positions are rotations of pairs of features."""
        return self.as_rmt().positions == "rotary"

    def as_rmt(self) -> RMTConfig:
        """The options of the `RMT` class that this policy is a special case of: one without memory tokens."""
        return RMTConfig(**self._shared(), memory_tokens=0, positions="learned")

    def _shared(self) -> dict[str, Any]:
        known = {item.name for item in dataclasses.fields(RMTConfig)}
        return {item.name: getattr(self, item.name) for item in dataclasses.fields(self) if item.name in known}

    def width_multiple(self) -> int:
        return 2 * self.heads if self.rotary else self.heads  # rotary positions turn pairs of features

    def problems(self) -> Iterator[str]:
        yield from super().problems()
        if self.params is not None:
            return
        if self.width % self.heads:
            yield (
                f"policy.heads={self.heads}: expected a divisor of policy.width={self.width},"
                f" such as {nearest_divisor(self.width, self.heads)}"
            )
        elif self.rotary and self.width // self.heads % 2:
            yield (
                f"policy.heads={self.heads}: rotary positions need an even number of features for each head;"
                f" policy.width={self.width} gives {self.width // self.heads}"
            )


#: Values of `memory_update` that have a gate.
GATED = ("gate", "hard_gate")
#: Options that say something of memory tokens only.
OF_TOKENS = ("memory_update", "write_cost", "memory_place", "blank_memory", "memory_norm", "write_from")


@builtin("policy", "rmt", "rmt_rl.policies.rmt:RMT")
@dataclass(frozen=True)
class RMTConfig(TransformerConfig):
    """Recurrent Memory Transformer (Bulatov et al. 2022, arXiv 2207.06881) on continuous inputs."""

    removed: ClassVar[Mapping[str, Any]] = {"memory_heads": 0}

    segment: int = option(
        4, "steps S processed in one attention window, between two writes of the memory", low=1, high=65_536, absent=8
    )
    memory_tokens: int = option(4, "memory tokens M passed from segment to segment", low=0, high=65_536)
    memory_kind: str = option(
        "tokens",
        "tokens = as in the paper, associative = a matrix in each layer (ARMT), slots = vectors in each layer (ELMUR)",
        choices=("tokens", "associative", "slots"),
    )
    memory_size: int = option(
        8,
        "size of a key of the associative memory, number of slots",
        low=1,
        high=4_096,
    )
    memory_update: str = option(
        "hard_gate",
        "replace (the paper), gate, hard_gate = one that reaches 0 and 1, mrv = the valve of RATE",
        choices=("replace", "gate", "hard_gate", "mrv"),
        absent="replace",
    )
    write_cost: float = option(
        0.0, "cost of writing the memory: weight of how far its gates are open on average", low=0, high=1_000
    )
    memory_place: str = option(
        "both",
        "both = read tokens in front, write tokens behind; front = one block (arXiv 2304.11062)",
        choices=("both", "front"),
    )
    blank_memory: str = option(
        "hidden",
        "seen: an episode's first segment attends to the memory, which is still blank (the paper); hidden: it does not",
        choices=("seen", "hidden"),
        absent="seen",
    )
    memory_norm: bool = option(False, "divide every memory vector by its root mean square after the update")
    write_from: str = option(
        "learned",
        "write tokens start from the read memory (the paper) or from learned vectors alone",
        choices=("memory", "learned"),
        absent="memory",
    )
    cache: int = option(
        0,
        "steps C before the segment that stay visible in every layer, as in Transformer-XL",
        low=0,
        high=65_536,
    )
    cache_gradient: int = option(
        0, "newest cached steps that gradients reach; 0 = none, as in the paper", low=0, high=65_536
    )
    positions: str = option(
        "none",
        "learned = a vector per slot of the segment, rotary = by distance (RoPE), none",
        choices=("learned", "rotary", "none"),
        absent="learned",
    )
    bptt_segments: int | None = option(
        None,
        "cut the gradient through the memory after every n segments of an episode; null = never",
        low=1,
        high=10**9,
    )
    gating: str = option(
        "none",
        "residual connections: none = x + y, gru = GTrXL's gate, rezero = x + a y",
        choices=("none", "gru", "rezero"),
    )
    null_key_value: bool = option(False, "a learned key and value per head that attention can fall back on")
    value_residual: bool = option(False, "mix the first layer's values into those of later layers (arXiv 2410.17897)")
    token_shift: bool = option(False, "half of each layer's input is that of the previous step (arXiv 2305.13048)")

    def as_rmt(self) -> RMTConfig:
        return self

    def of_recipe(self, recipe: Mapping[str, Any], memory: MemoryConfig, given: Collection[str]) -> dict[str, Any]:
        """Carrying the memory and a cost of writing need a gate; if one bound of the ramp is given, the other follows."""
        gated = self.memory_update in GATED and self._has_tokens()
        if not gated or memory.scope != "episode":
            return {}
        taken = super().of_recipe(recipe, memory, given)
        rises = taken.get("policy.write_cost", self.write_cost) or taken.get("memory.carry", memory.carry)
        ramp = {name: recipe[f"memory.{name}"] for name in RAMP if f"memory.{name}" in recipe}
        own = {name: getattr(memory, name) for name in RAMP if f"memory.{name}" in given}
        kept = ramp_beside(ramp, own, bool(rises))
        without = {name: value for name, value in taken.items() if name.partition(".")[2] not in RAMP}
        return without | {f"memory.{name}": value for name, value in kept.items()}

    def fitted(self, recommended: Collection[str]) -> RMTConfig:
        unfit = [] if self._has_tokens() else [name for name in OF_TOKENS if name in recommended]
        if self.cache and self.positions == "learned" and "positions" in recommended:
            unfit.append("positions")
        return dataclasses.replace(self, **{name: getattr(RMTConfig, name) for name in unfit})

    def _has_tokens(self) -> bool:
        return self.memory_kind == "tokens" and self.memory_tokens > 0

    def problems(self) -> Iterator[str]:
        yield from super().problems()
        if self.cache and self.positions == "learned":
            yield (
                f"policy.cache={self.cache}: needs policy.positions=rotary or none;"
                " learned positions number the steps of one segment and do not cover steps before it"
            )
        if self.write_cost and self.memory_tokens and self.memory_update not in GATED:
            yield (
                f"policy.write_cost={self.write_cost:g}: has no effect with policy.memory_update={self.memory_update}, which has"
                " no gate; expected policy.memory_update=gate or hard_gate"
            )
        if self.memory_kind != "tokens":
            for name in self._options_of_tokens():
                yield (
                    f"policy.{name}={show(getattr(self, name))}: has no effect with policy.memory_kind={self.memory_kind};"
                    f" expected {show(getattr(RMTConfig, name))}, or policy.memory_kind=tokens"
                )
        elif self.memory_size != RMTConfig.memory_size:
            yield f"policy.memory_size={self.memory_size}: needs policy.memory_kind=associative or slots"
        if self.memory_tokens == 0 and (names := self._changed_memory_options()):
            yield (
                f"policy.{names[0]}={show(getattr(self, names[0]))}: has no effect without memory;"
                " expected policy.memory_tokens of at least 1"
            )
        if self.value_residual and self.layers == 1:
            yield "policy.value_residual=true: has no effect with one layer; expected policy.layers of at least 2"
        yield from _cache_problems(self)
        if self.bptt_segments == 1 and self.cache_gradient:
            yield (
                f"policy.cache_gradient={self.cache_gradient}: has no effect with policy.bptt_segments=1, which cuts the gradient"
                " at the end of every segment"
            )
        if self.token_shift and self.width == 1:
            yield "policy.token_shift=true: expected policy.width of at least 2; half of it is shifted"

    def _options_of_tokens(self) -> list[str]:
        """Options of memory tokens that are not as by default."""
        return [name for name in OF_TOKENS if getattr(self, name) != getattr(RMTConfig, name)]

    def _changed_memory_options(self) -> list[str]:
        names = self._options_of_tokens() + ["memory_kind"]
        if self.cache_gradient == 0:  # otherwise bptt_segments cuts the gradient of the cache
            names.append("bptt_segments")
        return [name for name in names if getattr(self, name) != getattr(RMTConfig, name)]


def _cache_problems(policy: RMTConfig | TrXLConfig) -> Iterator[str]:
    if policy.cache_gradient > policy.cache:
        yield f"policy.cache_gradient={policy.cache_gradient}: expected at most policy.cache={policy.cache}"


@builtin("policy", "trxl", "rmt_rl.policies.rmt:RMT")
@dataclass(frozen=True)
class TrXLConfig(TransformerConfig):
    """Transformer-XL (Dai et al. 2019, arXiv 1901.02860): keys and values of the steps before, with rotary relative positions."""

    cache: int = option(32, "steps C before the segment that stay visible in every layer", low=1, high=65_536)
    cache_gradient: int = option(
        0, "newest cached steps that gradients reach; 0 = none, as in the paper", low=0, high=65_536
    )

    def as_rmt(self) -> RMTConfig:
        return RMTConfig(**self._shared(), memory_tokens=0, positions="rotary")

    def problems(self) -> Iterator[str]:
        yield from super().problems()
        yield from _cache_problems(self)


@builtin("policy", "gtrxl", "rmt_rl.policies.rmt:RMT")
@dataclass(frozen=True)
class GTrXLConfig(TrXLConfig):
    """Gated Transformer-XL (Parisotto et al. 2019, arXiv 1910.06764): `trxl` with GRU gates around its blocks."""

    def as_rmt(self) -> RMTConfig:
        return dataclasses.replace(super().as_rmt(), gating="gru")


@builtin("policy", "window", "rmt_rl.policies.rmt:RMT")
@dataclass(frozen=True)
class WindowConfig(TransformerConfig):
    """Attention over the steps of the current segment only: a stack of 1 to `segment` frames."""


@dataclass(frozen=True)
class RecurrentConfig(PolicyConfig):
    """Options of recurrent networks."""

    width: int = option(128, "width D of the encoder and of the hidden state", low=1, high=65_536)
    layers: int = option(1, "stacked recurrent layers", low=1, high=1_000)


@builtin("policy", "lstm", "rmt_rl.policies.recurrent:Recurrent")
@dataclass(frozen=True)
class LSTMConfig(RecurrentConfig):
    """Long short-term memory (Hochreiter & Schmidhuber 1997)."""


@builtin("policy", "gru", "rmt_rl.policies.recurrent:Recurrent")
@dataclass(frozen=True)
class GRUConfig(RecurrentConfig):
    """Gated recurrent unit (Cho et al. 2014, arXiv 1406.1078)."""


@builtin("policy", "mlp", "rmt_rl.policies.mlp:MLP")
@dataclass(frozen=True)
class MLPConfig(PolicyConfig):
    """The control without memory: hidden layers on the current observation."""

    width: int = option(128, "width D of the hidden layers", low=1, high=65_536)
    layers: int = option(2, "hidden layers", low=1, high=1_000)
    previous_action: bool = option(False, "give the previous action to the network: a memory of one step")
