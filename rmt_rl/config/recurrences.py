"""Options of recurrences that compute all steps of a row at once (`rmt_rl/policies/recurrences`)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from rmt_rl.config.bases import PolicyConfig
from rmt_rl.config.fields import nearest_divisor, option
from rmt_rl.config.registry import builtin


@dataclass(frozen=True)
class StackConfig(PolicyConfig):
    """Options of a stack of recurrent layers."""

    width: int = option(64, "width D of the network", low=1, high=65_536)
    layers: int = option(2, "layers, each with a state of its own", low=1, high=1_000)


@dataclass(frozen=True)
class HeadsConfig(StackConfig):
    """Options of layers that remember matrices, one for each head."""

    heads: int = option(
        2, "heads, each with a matrix of width / heads rows and columns; must divide width", low=1, high=65_536
    )

    def width_multiple(self) -> int:
        return self.heads

    def problems(self) -> Iterator[str]:
        yield from super().problems()
        if self.params is None and self.width % self.heads:
            yield (
                f"policy.heads={self.heads}: expected a divisor of policy.width={self.width},"
                f" such as {nearest_divisor(self.width, self.heads)}"
            )


@builtin("policy", "mingru", "rmt_rl.policies.recurrences.mingru:MinGRU")
@dataclass(frozen=True)
class MinGRUConfig(StackConfig):
    """minGRU (Feng et al. 2024, arXiv 2410.01201): gates that see the input alone."""

    hard_gates: bool = option(False, "gates that reach 0 and 1, so that what is not written is kept to the bit")


@builtin("policy", "deltanet", "rmt_rl.policies.recurrences.deltanet:DeltaNet")
@dataclass(frozen=True)
class DeltaNetConfig(HeadsConfig):
    """DeltaNet (Yang et al. 2024, arXiv 2406.06484, 2412.06464): a matrix that is corrected where a key is written again."""

    decay: bool = option(True, "forget by a gate (gated DeltaNet); false = the plain delta rule")
    hard_gates: bool = option(False, "gates of writing that reach 0 and 1, and of forgetting that reach 1")


@builtin("policy", "mlstm", "rmt_rl.policies.recurrences.mlstm:MLSTM")
@dataclass(frozen=True)
class MLSTMConfig(HeadsConfig):
    """mLSTM, the matrix memory of xLSTM (Beck et al. 2024, arXiv 2405.04517)."""


@builtin("policy", "rwkv4", "rmt_rl.policies.recurrences.rwkv4:RWKV4")
@dataclass(frozen=True)
class RWKV4Config(StackConfig):
    """RWKV-4 (Peng et al. 2023, arXiv 2305.13048): averages of values with a decay for each channel."""


@builtin("policy", "rwkv7", "rmt_rl.policies.recurrences.rwkv7:RWKV7")
@dataclass(frozen=True)
class RWKV7Config(HeadsConfig):
    """RWKV-7 (Peng et al. 2025, arXiv 2503.14456): the delta rule with a decay and a writing rate for each channel."""

    low_rank: int = option(
        16, "width of the small networks that make decays, writing rates and gates", low=1, high=65_536
    )


@builtin("policy", "ffm", "rmt_rl.policies.recurrences.ffm:FFM")
@dataclass(frozen=True)
class FFMConfig(StackConfig):
    """Fast and Forgetful Memory (Morad et al. 2023, arXiv 2310.04128): traces that fade and turn."""

    traces: int = option(32, "traces, each with a rate at which it fades", low=1, high=65_536)
    contexts: int = option(4, "frequencies at which each trace turns", low=1, high=65_536)


@builtin("policy", "hierarchical", "rmt_rl.policies.recurrences.hierarchical:Hierarchical")
@dataclass(frozen=True)
class HierarchicalConfig(HeadsConfig):
    """Attention over streams of 1, 2 and 8 steps a token, merged in every layer (Simple Hierarchical Transformer, 2022)."""

    heads: int = option(2, "attention heads; must divide width / 2, the width of a stream", low=1, high=65_536)
    window: int = option(12, "tokens of every stream that a step sees", low=1, high=4_096)
    sharpness: float = option(
        4.5, "scale of the initial attention scores, 1 = torch's initialisation", above=0, high=100
    )
    prediction: float = option(
        0.1, "weight of the auxiliary loss: predict the next token of every stream", low=0, high=1_000
    )

    def width_multiple(self) -> int:
        return 2 * self.heads

    def problems(self) -> Iterator[str]:
        yield from PolicyConfig.problems(self)
        if self.params is None and (self.width % 2 or self.width // 2 % self.heads):
            yield (
                f"policy.heads={self.heads}: expected policy.width to be a multiple of {2 * self.heads}, because each stream has"
                f" half of policy.width={self.width}"
            )


@dataclass(frozen=True)
class BucketsConfig(HeadsConfig):
    """Options of attention over bounded buckets."""

    buckets: int = option(4, "buckets of each head", low=2, high=4_096)
    slots: int = option(8, "steps that a bucket keeps, the newest ones", low=1, high=65_536)
    window: int = option(8, "steps before the present one that are always seen", low=1, high=65_536)
    local_heads: int = option(0, "heads that see the window only", low=0, high=65_536)
    sharpness: float = option(4.5, "initial factor of the cosine between query and key", above=0, high=100)

    def problems(self) -> Iterator[str]:
        yield from super().problems()
        if self.local_heads >= self.heads:
            yield f"policy.local_heads={self.local_heads}: expected less than policy.heads={self.heads}; others see no bucket"


@builtin("policy", "reformer", "rmt_rl.policies.recurrences.buckets:Reformer")
@dataclass(frozen=True)
class ReformerConfig(BucketsConfig):
    """LSH attention (Kitaev et al. 2020, arXiv 2001.04451) over a bounded cache of buckets."""

    rounds: int = option(2, "rounds of hashing, each with buckets of its own", low=1, high=64)

    def problems(self) -> Iterator[str]:
        yield from super().problems()
        if self.buckets % 2:
            yield f"policy.buckets={self.buckets}: expected an even number; every direction makes two buckets"


@builtin("policy", "routing", "rmt_rl.policies.recurrences.buckets:Routing")
@dataclass(frozen=True)
class RoutingConfig(BucketsConfig):
    """Routing Transformer (Roy et al. 2020, arXiv 2003.05997) over a bounded cache of clusters."""

    commitment: float = option(
        0.01, "weight of the auxiliary loss: keys near the centroid of their cluster", low=0, high=100
    )
