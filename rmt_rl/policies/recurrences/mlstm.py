"""mLSTM, the matrix memory of xLSTM (Beck et al. 2024, arXiv 2405.04517): covariance updates with exponential gates.

    C_t = f_t C_{t-1} + i_t k_t v_t^T,   n_t = f_t n_{t-1} + i_t k_t,   y_t = o_t * C_t^T q_t / max(|n_t . q_t|, 1)
    f_t = sigmoid(..),   i_t = exp(..)

C and n are kept divided by exp(m), where m is the largest exponent so far, so that exp never overflows. m has no gradient:
nothing that the layer computes depends on it. How we differ: the input is mixed with the step before it instead of a
convolution of four, and a feed-forward part follows each layer.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import torch
from torch import nn

from rmt_rl.config.recurrences import MLSTMConfig
from rmt_rl.policies.linear import Linear
from rmt_rl.policies.recurrences.stack import FeedForward, Layer, Stack, TokenShift, episode_starts, small


@dataclasses.dataclass(frozen=True)
class MLSTMState:
    """matrix: [B, L, H, K, V] and norm: [B, L, H, K], both divided by exp(top). top: [B, L, H].
    last: [B, L, D] the normalised input of the step before, zero before an episode.
    """

    matrix: torch.Tensor
    norm: torch.Tensor
    top: torch.Tensor
    last: torch.Tensor


class MLSTMLayer(Layer[MLSTMState]):
    def __init__(self, config: MLSTMConfig) -> None:
        super().__init__()
        D, H = config.width, config.heads
        self.heads, self.size = H, D // H
        self.norm, self.shift = nn.LayerNorm(D, bias=False), TokenShift(D)
        self.project = Linear(D, 3 * D, bias=False)  # query, key, value
        self.gates = nn.Linear(D, 2 * H)  # input and forget gate
        with torch.no_grad():
            self.gates.weight *= 0.1
            self.gates.bias.copy_(torch.cat([torch.full((H,), -1.0), torch.linspace(3.0, 6.0, H)]))
        self.side = Linear(D, D, bias=False)
        self.head_norm = nn.LayerNorm(self.size, bias=False)
        self.output = small(Linear(D, D, bias=False), config.layers)
        self.feed_forward = FeedForward(D, config.layers)

    def zero_state(self, batch: int, **like: Any) -> MLSTMState:
        H, K = self.heads, self.size
        shapes = ((H, K, K), (H, K), (H,), (H * K,))
        return MLSTMState(*(torch.zeros(batch, *shape, **like) for shape in shapes))

    def forward(
        self, x_BTD: torch.Tensor, state: MLSTMState, first_BT: torch.Tensor
    ) -> tuple[torch.Tensor, MLSTMState]:
        h = self.norm(x_BTD)
        mixed = self.shift(h, state.last, first_BT)
        q, k, v = (x.unflatten(-1, (self.heads, -1)).transpose(1, 2) for x in self.project(mixed).chunk(3, dim=-1))
        k = k / self.size**0.5
        write, forget = (x.transpose(1, 2) for x in self.gates(mixed).chunk(2, dim=-1))  # [B, H, T]

        # exponents of what step t sees of step s, and of what it sees of the state; its own episode only
        kept = nn.functional.logsigmoid(forget)
        total = kept.cumsum(-1)
        step, begun = torch.arange(first_BT.shape[1], device=first_BT.device), episode_starts(first_BT)[:, None]
        start = begun.clamp(min=0)
        since = total - (total - kept).gather(2, start.expand_as(total))  # decay since the episode or these steps began
        sees = (begun[..., :, None] == begun[..., None, :]) & (step[:, None] >= step)
        by_step = (since[..., :, None] - since[..., None, :] + write[..., None, :]).masked_fill(~sees, -torch.inf)
        carried = begun <= 0  # where an episode begins with the first step, the state is all zeros
        of_state = since + torch.where(carried, state.top[..., None], 0.0)
        top = torch.maximum(by_step.amax(-1), of_state).detach()

        # outputs
        weights = (by_step - top[..., None]).exp()
        from_state = ((of_state - top).exp() * carried)[..., None]
        scores = (q @ k.mT) * weights
        numerator = scores @ v + from_state * (q @ state.matrix)
        denominator = scores.sum(-1, keepdim=True) + from_state * (q @ state.norm[..., None])
        y = numerator / torch.maximum(denominator.abs(), (-top)[..., None].exp())
        y = self.head_norm(y).transpose(1, 2).flatten(2) * self.side(h).sigmoid()

        # the state after the last step
        written = k * weights[..., -1, :, None]
        after = MLSTMState(
            from_state[..., -1:, :] * state.matrix + written.mT @ v,
            from_state[..., -1, :] * state.norm + written.sum(-2),
            top[..., -1],
            h[:, -1],
        )
        return self.feed_forward(x_BTD + self.output(y)), after


class MLSTM(Stack[MLSTMState]):
    most_steps = 128

    def __init__(self, config: MLSTMConfig) -> None:
        size = config.width // config.heads
        super().__init__(
            config.width,
            [MLSTMLayer(config) for _ in range(config.layers)],
            f"{config.layers * config.heads} matrices of {size} x {size}, decayed and written at every step",
        )
