"""RATE: imitation of recorded episodes through the memory (Cherepanov et al. 2023, arXiv 2306.09459).

The policy sees the return to come, the observation and its previous action, added up to one vector for every step, and learns
the recorded action. How we differ from the paper: it has three tokens for a step where we have their sum; its memory is cut
from the gradient after every segment, so that what writes it is never trained for what comes later, which we do on demand only
(`detach_memory`); the action is that of the same RMT which PPO trains, acting with a cache of keys and values.
"""

from __future__ import annotations

import copy
import math
from typing import Any

import torch

from rmt_rl import config, rng
from rmt_rl.algos.dataset import Batch, Dataset
from rmt_rl.algos.optimizer import guarded_step, load_optimizer_state, optimizer_state, schedule
from rmt_rl.data import detach, map_obs, select_rows
from rmt_rl.guards import Guard, check_weights
from rmt_rl.policies.actor_critic import ActorCritic

#: The policy is tried on the episodes that were held out so many times in a run.
CHECKS = 20
#: Episodes that are tried at a time, if a batch may have as many.
TRIED = 256


class RATE:
    """The policy, its optimizer, the data, and the best weights so far."""

    exact = True

    def __init__(
        self, policy: ActorCritic, options: config.RATE, data: Dataset, seed: int, device: torch.device
    ) -> None:
        self.policy, self.options, self.data, self.device = policy, options, data, device
        self.generator = rng.generator(seed, "batches")
        self.dropout, self.guard = rng.generator(seed, "dropout", device), Guard(options.skip_nonfinite)
        order = torch.randperm(len(data), generator=self.generator)
        held_out = min(math.ceil(options.validation * len(data)), len(data) - 1)
        self.held_out, self.learned = order[:held_out], order[held_out:]
        self.optimizer = torch.optim.AdamW(
            policy.parameters(), lr=options.learning_rate, weight_decay=options.weight_decay, fused=True
        )
        self.best: dict[str, Any] | None = None
        self.best_loss, self._checks = math.inf, 0

    def learn(self, progress: float) -> tuple[int, dict[str, float | None], dict[str, float | None]]:
        """One batch, when `progress` (0..1) of the run is over: its steps, what is worth keeping, and what is worth showing."""
        o = self.options
        for group in self.optimizer.param_groups:
            group["lr"] = schedule(o.schedule, progress) * o.learning_rate
        drawn = self.learned[torch.randint(len(self.learned), (o.batch,), generator=self.generator)]
        batch = self.data.batch(drawn, self._limit(drawn, progress), o.returns, self.device)
        with rng.as_global(self.dropout):
            if o.detach_memory:
                loss, accuracy, norm = self._segment_by_segment(batch)
            else:
                losses, right, _ = self._losses(batch.obs, batch.action, self.policy.initial_state(1), batch.first)
                norm = self._step(losses.mean())
                loss, accuracy = float(losses.detach().mean()), float(right.mean())
        check_weights(self.policy)
        row = {
            "loss": loss,
            "accuracy": accuracy,
            "gradient_norm": norm,
            "learning_rate": self.optimizer.param_groups[0]["lr"],
            **self.guard.shown(),
        }
        shown: dict[str, float | None] = {"loss": loss}
        if not batch.action.is_floating_point():  # numbers are never exactly the recorded ones
            row["accuracy"] = shown["accuracy"] = accuracy
        if len(self.held_out) and progress * CHECKS >= self._checks:
            row |= self.check()
        return batch.first.shape[1], row, shown

    def check(self) -> dict[str, float]:
        """Loss and accuracy on the episodes that were held out; keeps the weights if they are the best so far."""
        self._checks += 1
        total, right, steps = 0.0, 0.0, 0
        self.policy.eval()
        with torch.no_grad():
            for episodes in self.held_out.split(min(TRIED, self.options.batch)):
                batch = self.data.batch(episodes, self.options.length, self.options.returns, self.device)
                losses, hits, _ = self._losses(batch.obs, batch.action, self.policy.initial_state(1), batch.first)
                total, right, steps = total + float(losses.sum()), right + float(hits.sum()), steps + losses.numel()
        self.policy.train()
        if total / steps < self.best_loss:
            self.best_loss, self.best = total / steps, copy.deepcopy(self.policy.state_dict())
        found = {"validation_loss": total / steps}
        return found if batch.action.is_floating_point() else found | {"validation_accuracy": right / steps}

    def finish(self) -> dict[str, float]:
        """Give the policy the weights that did best on what was held out, or the last ones; what result.json tells of it."""
        last = self.check() if len(self.held_out) else {}
        if self.best is not None:
            self.policy.load_state_dict(self.best)
            last |= {"validation_loss_kept": self.best_loss}
        return last

    def state_dict(self) -> dict[str, Any]:
        return {
            "policy": self.policy.state_dict(),
            "optimizer": optimizer_state(self.optimizer),
            "generator": self.generator.get_state(),
            "dropout": self.dropout.get_state(),
            "guard": self.guard.state_dict(),
            "checks": self._checks,
            "best": self.best,
            "best_loss": torch.tensor(self.best_loss, dtype=torch.float64),  # JSON has no infinity
            "data": self.data.fingerprint(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        if state["data"] != self.data.fingerprint():
            raise config.ConfigError("data: the episodes are not those with which the run began; put them back")
        self.policy.load_state_dict(state["policy"])
        load_optimizer_state(self.optimizer, state["optimizer"])
        self.generator.set_state(state["generator"])
        self.dropout.set_state(state["dropout"])
        self.guard.load_state_dict(state["guard"])
        self._checks, self.best, self.best_loss = int(state["checks"]), state["best"], float(state["best_loss"])

    def _limit(self, episodes: torch.Tensor, progress: float) -> int | None:
        """After how many steps the episodes of a batch are cut."""
        o = self.options
        if o.cut == "none":
            return o.length
        longest = int(self.data.length[episodes].max())
        longest = longest if o.length is None else min(longest, o.length)
        segments = math.ceil(longest / self._segment())
        if o.cut == "varied":
            segments = 1 + int(torch.randint(segments, (), generator=self.generator))
        else:
            segments = max(1, math.ceil(min(1.0, 2 * progress) * segments))
        return min(longest, segments * self._segment())

    def _segment(self) -> int:
        return int(self.policy.config.segment)

    def _losses(
        self, obs: Any, action: torch.Tensor, state: Any, first: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, Any]:
        """[B, T] loss and whether the action is the recorded one, and the state afterwards."""
        parameters, _, state = self.policy.unroll(obs, action, state, first)
        mode = self.policy.head.mode(parameters.detach())
        same = (mode == action).flatten(first.dim()).all(-1) if mode.dim() > first.dim() else mode == action
        return self.policy.head.imitation_loss(parameters, action), same.float(), state

    def _segment_by_segment(self, batch: Batch) -> tuple[float, float, float]:
        """A step of the optimizer for the k-th segments of all episodes, k = 0, 1, ...; memory goes on, its gradient ends."""
        S = self._segment()
        begin = batch.first[0].nonzero().squeeze(1)
        length = torch.diff(begin, append=begin.new_tensor([batch.first.shape[1]]))
        state, running = self.policy.initial_state(len(begin)), torch.arange(len(begin), device=begin.device)
        loss, right, count, norms = 0.0, 0.0, 0, []
        for k in range(math.ceil(int(length.max()) / S)):
            stays = length[running] > k * S
            running, state = running[stays], detach(select_rows(state, stays.nonzero().squeeze(1)))
            step = k * S + torch.arange(S, device=begin.device)
            inside = step < length[running][:, None]
            index = begin[running][:, None] + torch.minimum(step, length[running][:, None] - 1)
            obs = map_obs(lambda x, index=index: x[0][index], batch.obs)
            losses, hits, state = self._losses(obs, batch.action[0][index], state, batch.first[0][index] & inside)
            norms.append(self._step((losses * inside).sum() / inside.sum()))
            loss, right = loss + float((losses.detach() * inside).sum()), right + float((hits * inside).sum())
            count += int(inside.sum())
        return loss / count, right / count, sum(norms) / len(norms)

    def _step(self, loss: torch.Tensor) -> float:
        norm = guarded_step(self.optimizer, loss, self.policy, self.options.max_grad_norm, self.guard)
        return math.nan if norm is None else float(norm)
