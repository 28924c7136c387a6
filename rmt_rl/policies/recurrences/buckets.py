"""Attention over bounded buckets: the Reformer's LSH buckets and the Routing Transformer's clusters as a cache with eviction.

A step's key puts it into one bucket per round. Every head keeps the last `slots` steps of each bucket. A step attends to the last
`window` steps and itself, and to the bucket that its own key falls into; what stands in several places counts once for each.

    reformer    `rounds` rounds, bucket = argmax of [k R, -k R] with a fixed random rotation R (Kitaev et al. 2020, arXiv
                2001.04451)
    routing     one round, bucket = the nearest of `buckets` centroids (Roy et al. 2020, arXiv 2003.05997)

How we differ from both: they sort or choose steps over a whole sequence, which shows the future to the past and cannot act
step by step. Here a bucket is a ring of earlier steps, which satisfies the contract of all policies, at the price of eviction:
what was pushed out of its bucket and out of the window is forgotten. Rotations never change; centroids move between updates only.

Shapes: R rounds, N buckets, W slots, P steps of the window, d numbers of a head.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from rmt_rl.config.recurrences import BucketsConfig, ReformerConfig, RoutingConfig
from rmt_rl.policies.base import parameter_device_and_type
from rmt_rl.policies.linear import Linear
from rmt_rl.policies.recurrences.stack import FeedForward, Layer, Stack, episode_starts, small

#: Share of the mean of its keys that a centroid moves by after an update.
CENTROID_RATE = 0.05
#: A centroid that fewer of the keys came to is dead, and starts again beside the most frequented one.
DEAD = 1e-3


@dataclasses.dataclass(frozen=True)
class BucketsState:
    """ring: [B, L, H, R, N, W, 2d] keys and values of every bucket. count: [B, L, H, R, N] steps that ever came into it.
    near: [B, L, P, H, 2d] those of the last P steps, the newest last. age: [B, L] steps of the episode so far.
    """

    ring: torch.Tensor
    count: torch.Tensor
    near: torch.Tensor
    age: torch.Tensor


class BucketsLayer(Layer[BucketsState]):
    rotations: torch.Tensor
    centroids: torch.Tensor

    def __init__(self, config: BucketsConfig) -> None:
        super().__init__()
        D, H, self.local = config.width, config.heads, config.local_heads
        self.heads, self.size, self.slots, self.window, self.buckets = (
            H,
            D // H,
            config.slots,
            config.window,
            config.buckets,
        )
        self.rounds = config.rounds if isinstance(config, ReformerConfig) else 1
        self.commitment = config.commitment if isinstance(config, RoutingConfig) else 0.0
        self.norm = nn.LayerNorm(D, bias=False)
        self.project = Linear(D, 3 * D, bias=False)  # query, key, value
        self.scale = nn.Parameter(torch.full((H, 1, 1), float(config.sharpness)))
        self.nearness = nn.Parameter(torch.zeros(H, 1, 1))  # logarithm of how often a step in the window counts
        self.output = small(Linear(D, D, bias=False), config.layers)
        self.feed_forward = FeedForward(D, config.layers)
        self.clustered = isinstance(config, RoutingConfig)
        if self.clustered:
            self.register_buffer("centroids", F.normalize(torch.randn(H, self.buckets, self.size), dim=-1))
        else:
            self.register_buffer("rotations", torch.randn(H, self.rounds, self.size, self.buckets // 2))

    def zero_state(self, batch: int, **like: Any) -> BucketsState:
        H, R, N, W, d = self.heads, self.rounds, self.buckets, self.slots, self.size
        whole = {"dtype": torch.int64, "device": like["device"]}
        return BucketsState(
            torch.zeros(batch, H, R, N, W, 2 * d, **like),
            torch.zeros(batch, H, R, N, **whole),
            torch.zeros(batch, self.window, H, 2 * d, **like),
            torch.zeros(batch, **whole),
        )

    def forward(
        self, x_BTD: torch.Tensor, state: BucketsState, first_BT: torch.Tensor
    ) -> tuple[torch.Tensor, BucketsState]:
        return self._run(x_BTD, state, first_BT)[:2]

    def forward_with_losses(
        self, x_BTD: torch.Tensor, state: BucketsState, first_BT: torch.Tensor
    ) -> tuple[torch.Tensor, BucketsState, dict[str, torch.Tensor]]:
        y, after, key, bucket = self._run(x_BTD, state, first_BT)
        if not self.commitment:
            return y, after, {}
        head = torch.arange(self.heads, device=key.device)[:, None]
        own = self.centroids[head, bucket[:, :, 0]]  # [B, H, T, d]
        return y, after, {"commitment": self.commitment * (key - own).square().sum(-1).mean()}

    @torch.no_grad()
    def move_centroids(self, x_BTD: torch.Tensor, generator: torch.Generator) -> None:
        """Each centroid moves towards the mean of the keys of its bucket; dead ones start again beside the fullest."""
        key = self._project(x_BTD)[1]
        bucket = F.one_hot(self._bucket(key)[:, :, 0], self.buckets).to(key.dtype)
        count = bucket.sum((0, 2))[..., None]  # [H, N, 1]
        mean = torch.einsum("bhtn,bhtd->hnd", bucket, key) / count.clamp(min=1)
        moved = torch.where(count > 0, torch.lerp(self.centroids, mean, CENTROID_RATE), self.centroids)
        fullest = moved.gather(1, count.argmax(1, keepdim=True).expand(-1, 1, self.size))
        noise = torch.randn(moved.shape, generator=generator, dtype=torch.float32, device=generator.device)
        noise = F.normalize(noise.to(moved), dim=-1)
        dead = count < DEAD * count.sum(1, keepdim=True)
        self.centroids.copy_(F.normalize(torch.where(dead, fullest + 0.3 * noise, moved), dim=-1))

    def _project(self, x_BTD: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Queries, keys (both of length 1) and values, [B, H, T, d]."""
        q, k, v = (
            x.unflatten(-1, (self.heads, -1)).transpose(1, 2) for x in self.project(self.norm(x_BTD)).chunk(3, -1)
        )
        return F.normalize(q, dim=-1, eps=1e-6), F.normalize(k, dim=-1, eps=1e-6), v

    @torch.no_grad()
    def _bucket(self, key: torch.Tensor) -> torch.Tensor:
        """The bucket of every key [B, H, T, d] in every round, [B, H, R, T]."""
        if self.clustered:
            return torch.einsum("bhtd,hnd->bhtn", key, self.centroids).argmax(-1)[:, :, None]
        turned = torch.einsum("bhtd,hrdn->bhrtn", key, self.rotations)
        return torch.cat([turned, -turned], dim=-1).argmax(-1)

    def _run(
        self, x_BTD: torch.Tensor, state: BucketsState, first_BT: torch.Tensor
    ) -> tuple[torch.Tensor, BucketsState, torch.Tensor, torch.Tensor]:
        """Outputs, the state after them, and the keys with their buckets."""
        B, T, _ = x_BTD.shape
        H, R, N, W, P, d = self.heads, self.rounds, self.buckets, self.slots, self.window, self.size
        query, key, value = self._project(x_BTD)
        bucket = self._bucket(key)
        step = torch.arange(T, device=x_BTD.device)
        begun = episode_starts(first_BT)
        from_state = begun <= 0  # where an episode begins with the first step, the state is all zeros
        age = torch.where(begun < 0, state.age[:, None] + step, step - begun)
        same = (begun[:, :, None] == begun[:, None]) & (step[:, None] >= step)  # [B, T, T]

        # the number of each step in its bucket, counted from the start of the episode
        together = (bucket[..., :, None] == bucket[..., None, :]) & same[:, None, None]
        before = torch.where(from_state[:, None, None], state.count.gather(3, bucket), 0)
        number = before + together.sum(-1) - 1  # [B, H, R, T]

        # how often a step sees another one of these T: once for each bucket that still has it, and once in the window
        routed = torch.arange(H, device=x_BTD.device) >= self.local
        in_bucket = together & (number[..., :, None] - number[..., None, :] < W) & routed[:, None, None, None]
        weight = self.nearness.exp()
        times = in_bucket.sum(2).to(key.dtype) + (same & (step[:, None] - step <= P))[:, None] * weight
        # the same for the steps in the rings of the state, and for the last ones before
        slot = torch.arange(W, device=x_BTD.device)
        newest = state.count[..., None] - 1
        ring_number = newest - (newest - slot) % W  # [B, H, R, N, W], below 0 where the slot is empty
        here = F.one_hot(bucket, N).bool()[..., None]  # [B, H, R, T, N, 1]
        seen = here & (ring_number >= 0)[:, :, :, None] & (number[..., None, None] - ring_number[:, :, :, None] < W)
        seen = seen & from_state[:, None, None, :, None, None] & routed[:, None, None, None, None]
        back = step[:, None] + P - torch.arange(P, device=x_BTD.device)  # steps from a step back to a slot of `near`
        near = from_state[..., None] & (back <= P) & (back <= age[..., None])  # [B, T, P]
        times_before = seen.permute(0, 1, 3, 2, 4, 5).flatten(3).to(key.dtype)
        times = torch.cat([times_before, near[:, None] * weight, times], dim=-1)

        # attention
        key_value = torch.cat([key, value], dim=-1)
        columns = torch.cat([state.ring.flatten(2, 4), state.near.transpose(1, 2), key_value], dim=2)
        scores = ((query @ columns[..., :d].mT) * self.scale).masked_fill(times == 0, -torch.inf)
        weights = (scores - scores.amax(-1, keepdim=True).detach()).exp() * times
        y = (weights / weights.sum(-1, keepdim=True)) @ columns[..., d:]
        y_BTD = self.feed_forward(x_BTD + self.output(y.transpose(1, 2).flatten(2)))

        # the state afterwards: of the last episode of every row only
        last = begun == begun[:, -1:]
        kept = from_state[:, -1]
        place = bucket * W + number % W  # [B, H, R, T]
        writer = torch.full((B, H, R, N * W), -1, device=x_BTD.device)
        writer = writer.scatter_reduce(3, place, torch.where(last[:, None, None], step, -1).expand(B, H, R, T), "amax")
        source = key_value[:, :, None].expand(B, H, R, T, 2 * d)
        taken = source.gather(3, writer.clamp(min=0)[..., None].expand(-1, -1, -1, -1, 2 * d))
        old = torch.where(kept.view(B, 1, 1, 1, 1, 1), state.ring, 0.0)
        ring = torch.where((writer >= 0).view(B, H, R, N, W, 1), taken.view(B, H, R, N, W, 2 * d), old)
        came = (here[..., 0] & last[:, None, None, :, None]).sum(3)
        recent = torch.cat([state.near, key_value.transpose(1, 2)], dim=1)[:, T:]
        exists = torch.arange(P, 0, -1, device=x_BTD.device) <= age[:, -1:] + 1
        after = BucketsState(
            ring,
            torch.where(kept.view(B, 1, 1, 1), state.count, 0) + came,
            torch.where(exists[:, :, None, None], recent, 0.0),
            age[:, -1] + 1,
        )
        return y_BTD, after, key, bucket


class Reformer(Stack[BucketsState]):
    most_steps = 128

    def __init__(self, config: ReformerConfig) -> None:
        super().__init__(
            config.width,
            [BucketsLayer(config) for _ in range(config.layers)],
            f"the last {config.slots} steps of each of {config.buckets} hash buckets in {config.rounds} rounds, per layer and"
            f" head, and the last {config.window} steps",
        )


class Routing(Stack[BucketsState]):
    most_steps = 128

    def __init__(self, config: RoutingConfig) -> None:
        super().__init__(
            config.width,
            [BucketsLayer(config) for _ in range(config.layers)],
            f"the last {config.slots} steps of each of {config.buckets} clusters, per layer and head, and the last"
            f" {config.window} steps",
        )

    def between_updates(
        self, x_BTD: torch.Tensor, state: BucketsState, first_BT: torch.Tensor, generator: torch.Generator
    ) -> None:
        # layers above the first see their input without what was remembered from before these steps
        x_BTD, first_BT = x_BTD[:, : self.most_steps], first_BT[:, : self.most_steps]
        like = parameter_device_and_type(self)
        for layer in self.layers:
            assert isinstance(layer, BucketsLayer)
            layer.move_centroids(x_BTD, generator)
            x_BTD, _ = layer(x_BTD, layer.zero_state(len(x_BTD), **like), first_BT)
