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
