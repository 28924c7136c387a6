"""Hierarchical transformer: attention over streams of 1, 2 and 8 steps a token, merged in every layer.

After Simple Hierarchical Transformer (lucidrains, 2022): causal convolutions compress the steps, each level attends within its
own window, and every layer merges all levels. Level c sees at step t the tokens that end at t, t - c, t - 2c, ..., `window` of
them, so every step has a fresh token on every level and no clock is needed. With the defaults a layer sees 89 steps back.

Auxiliary loss "prediction" (predictive coding): after step t each level predicts its token of step t + c; 1 - cosine, weighted.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from rmt_rl.config.recurrences import HierarchicalConfig
from rmt_rl.policies.linear import Linear
from rmt_rl.policies.recurrences.stack import FeedForward, Layer, Stack, episode_starts, small

#: Steps of a token on every level.
LEVELS = (1, 2, 8)


@dataclasses.dataclass(frozen=True)
class HierarchicalState:
    """past: [B, L, P, 2 E levels + D] of the last P steps, the newest last and zero before the episode: keys and values of every
    level, and the normalised input. age: [B, L] steps of the episode so far.
    """

    past: torch.Tensor
    age: torch.Tensor


class HierarchicalLayer(Layer[HierarchicalState]):
    def __init__(self, config: HierarchicalConfig) -> None:
        super().__init__()
        D, self.heads, self.window, self.prediction = config.width, config.heads, config.window, config.prediction
        self.inner = E = config.width // 2  # the width of a level
        self.kept = max((config.window - 1) * LEVELS[-1], LEVELS[-1] - 1)
        self.norm = nn.LayerNorm(D, bias=False)
        self.compress = nn.ParameterList([nn.Parameter(torch.randn(c, D, E) / (D * c) ** 0.5) for c in LEVELS])
        projects = [Linear(E, 3 * E, bias=False) for _ in LEVELS]
        self.project = nn.ModuleList(projects)
        self.distance = nn.ParameterList([nn.Parameter(0.1 * torch.randn(config.window, self.heads)) for _ in LEVELS])
        with torch.no_grad():
            for project in projects:
                project.weight[: 2 * E] *= config.sharpness**0.5
        self.merge = small(Linear(len(LEVELS) * E, D, bias=False), config.layers)
        self.feed_forward = FeedForward(D, config.layers)
        self.predict = nn.ModuleList([Linear(D, E, bias=False) for _ in LEVELS]) if config.prediction else None

    def zero_state(self, batch: int, **like: Any) -> HierarchicalState:
        size = 2 * self.inner * len(LEVELS) + self.norm.normalized_shape[0]
        age = torch.zeros(batch, dtype=torch.int64, device=like["device"])
        return HierarchicalState(torch.zeros(batch, self.kept, size, **like), age)

    def forward(
        self, x_BTD: torch.Tensor, state: HierarchicalState, first_BT: torch.Tensor
    ) -> tuple[torch.Tensor, HierarchicalState]:
        return self._run(x_BTD, state, first_BT)[:2]

    def forward_with_losses(
        self, x_BTD: torch.Tensor, state: HierarchicalState, first_BT: torch.Tensor
    ) -> tuple[torch.Tensor, HierarchicalState, dict[str, torch.Tensor]]:
        y, after, age, tokens = self._run(x_BTD, state, first_BT)
        if self.predict is None:
            return y, after, {}
        loss = y.new_zeros(())
        for c, predict, token in zip(LEVELS, self.predict, tokens, strict=True):
            if c < y.shape[1]:  # only tokens that lie within the episode
                same = age[:, c:] >= c
                off = 1 - F.cosine_similarity(predict(y[:, :-c]), token[:, c:].detach(), dim=-1)
                loss = loss + (off * same).sum() / same.sum().clamp(min=1)
        return y, after, {"prediction": self.prediction * loss}

    def _run(
        self, x_BTD: torch.Tensor, state: HierarchicalState, first_BT: torch.Tensor
    ) -> tuple[torch.Tensor, HierarchicalState, torch.Tensor, list[torch.Tensor]]:
        """Outputs, the state after them, the age of the episode before each step [B, T], and the tokens of every level."""
        T, P, E = x_BTD.shape[1], self.kept, self.inner
        step = torch.arange(T, device=x_BTD.device)
        start = episode_starts(first_BT)
        age = torch.where(start < 0, state.age[:, None] + step, step - start)
        h = self.norm(x_BTD)
        inputs = torch.cat([state.past[..., 2 * E * len(LEVELS) :], h], dim=1)
        slot = torch.arange(self.window, device=x_BTD.device)

        found, key_values, tokens = [], [], []
        for level, c in enumerate(LEVELS):
            # the token of this step: a convolution over c steps, of this episode only
            token = h @ self.compress[level][0]
            for back in range(1, c):
                x = torch.where((age >= back)[..., None], inputs[:, P - back : P - back + T], 0.0)
                token = token + x @ self.compress[level][back]
            query, key_value = self.project[level](token).split([E, 2 * E], dim=-1)
            # the tokens that ended 0, c, 2c, ... steps ago
            kept = state.past[..., 2 * E * level : 2 * E * (level + 1)]
            near = torch.cat([kept, key_value], dim=1)[:, (P + step)[:, None] - c * slot]
            keys, values = (part.unflatten(-1, (self.heads, -1)) for part in near.chunk(2, dim=-1))
            queries = query.unflatten(-1, (self.heads, -1))[:, :, None]
            scores = (queries * keys).sum(-1) / (E // self.heads) ** 0.5 + self.distance[level]
            scores = scores.masked_fill((age[..., None] < c * slot)[..., None], -torch.inf)
            found.append((scores.softmax(2)[..., None] * values).sum(2).flatten(2))
            key_values.append(key_value)
            tokens.append(token)
        y = self.feed_forward(x_BTD + self.merge(torch.cat(found, dim=-1)))

        past = torch.cat([state.past, torch.cat([*key_values, h], dim=-1)], dim=1)[:, T:]
        exists = torch.arange(P, 0, -1, device=past.device) <= age[:, -1:] + 1
        after = HierarchicalState(torch.where(exists[..., None], past, 0.0), age[:, -1] + 1)
        return y, after, age, tokens


class Hierarchical(Stack[HierarchicalState]):
    def __init__(self, config: HierarchicalConfig) -> None:
        seen = (config.window - 1) * LEVELS[-1] + 1
        super().__init__(
            config.width,
            [HierarchicalLayer(config) for _ in range(config.layers)],
            f"keys and values of {config.window} tokens of {', '.join(map(str, LEVELS[:-1]))} and {LEVELS[-1]} steps: the last"
            f" {seen} steps in each of {config.layers} layers",
        )
