"""RATE: imitation of recorded episodes through the memory (Cherepanov et al. 2023, arXiv 2306.09459).

The policy sees the return to go, the observation and its previous action, summed to one vector per step, and learns the recorded
action. How we differ from the paper: one vector per step instead of three tokens; the gradient flows through all memory writes of
an episode (the paper cuts it after every segment, here an option: `detach_memory`); the network is the RMT that PPO trains,
which acts step by step with a cache of keys and values.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import torch
from gymnasium import spaces

from rmt_rl.algos.base import Learner
from rmt_rl.algos.optimizer import guarded_gradient, load_optimizer_state, optimizer_state, schedule
from rmt_rl.common import rng
from rmt_rl.common.errors import ConfigError
from rmt_rl.common.finite import Guard, check_weights
from rmt_rl.common.state import check_count, detach, map_obs, select_rows
from rmt_rl.config.commands import ReturnConditioning, TrainConfig
from rmt_rl.config.datasets import check_recorded_in, find_dataset
from rmt_rl.config.envs import NoEnvConfig
from rmt_rl.envs.base import TorchVectorEnv, close_env
from rmt_rl.envs.registry import make_from_config
from rmt_rl.envs.text import TextBytes
from rmt_rl.policies.actor_critic import ActorCritic
from rmt_rl.policies.heads import lacks_bounds
from rmt_rl.policies.moments import ActionScale
from rmt_rl.policies.spaces import to_json
from rmt_rl.policies.weights import load_weights
from rmt_rl.rollouts.dataset import Batch, Dataset, Episode, but_last
from rmt_rl.rollouts.episodes import oracle_actor, record
from rmt_rl.rollouts.minari_reader import read_minari

#: Validations per run.
VALIDATIONS = 20
#: Episodes validated at a time; at most one batch.
VALIDATION_BATCH = 256
#: Episodes recorded where no data are given, and the number played at the same time.
EPISODES, ROWS = 2_000, 250


class _Part(NamedTuple):
    """The steps of one optimizer step: the objective, and the sums of loss and of correct actions over its steps."""

    objective: torch.Tensor
    loss: float
    right: float
    steps: int
    auxiliary: dict[str, torch.Tensor]


class RATELearner(Learner):
    """Imitates recorded episodes; holds the optimizer, the data and the best weights so far. `train` uses it for algo=rate."""

    shown = ("loss", "accuracy")

    def __init__(self, run: TrainConfig, env: TorchVectorEnv, policy: ActorCritic, data: Dataset) -> None:
        super().__init__(run, env, policy)
        options, seed, device = run.algo, run.seed, env.device
        self.options, self.data, self.device, self.seed = options, data, device, seed
        self.generator = rng.generator(seed, "batches")
        self.dropout, self.guard = rng.generator(seed, "dropout", device), Guard(options.skip_nonfinite)
        order = torch.randperm(len(data), generator=self.generator)
        held_out = min(math.ceil(options.validation * len(data)), len(data) - 1)
        self.held_out, self.training = order[:held_out], order[held_out:]
        self.optimizer = torch.optim.AdamW(
            policy.parameters(), lr=options.learning_rate, weight_decay=options.weight_decay, fused=True
        )
        if policy.without_moments():
            for episodes in self.training.split(VALIDATION_BATCH):
                policy.add_observations(data.batch(episodes, None, options.returns, device).obs)
        self.best: dict[str, Any] | None = None
        self.best_loss, self._validations = math.inf, 0

    @classmethod
    def load_data(cls, run: TrainConfig) -> Dataset:
        """The recorded episodes, or new ones of the task's oracle; raises ConfigError where they do not fit the task."""
        if run.data is not None and isinstance(run.env, NoEnvConfig):
            return read_minari(run.data, text=True)
        if run.data is not None and run.resume is None:
            check_recorded_in(run.data, find_dataset(run.data)[1], run.env)
        env = make_from_config(run.env, ROWS if run.data is None else 1)
        try:
            if run.data is None:
                return _record_oracle(run, env)
            return read_minari(run.data, _fits(run, env), text=getattr(run.env, "text", False))
        finally:
            close_env(env)

    @classmethod
    def return_conditioning(
        cls, run: TrainConfig, data: Dataset, initial: ActorCritic | None
    ) -> ReturnConditioning | None:
        """The largest return of the data as target, or algo.target_return; bounds from the data, or those of `initial`."""
        return data.returns(run.algo, initial is not None, None if initial is None else initial.spec.returns)

    @classmethod
    def action_scale(cls, run: TrainConfig, data: Dataset, initial: ActorCritic | None) -> ActionScale | None:
        """Mean and deviation of the recorded actions where some have no bounds, or those of `initial`."""
        if initial is not None or not lacks_bounds(data.action_space):
            return super().action_scale(run, data, initial)
        size = math.prod(data.action_space.shape or ())
        parts = torch.arange(len(data)).split(VALIDATION_BATCH)
        scale = ActionScale.of((data.actions(part).reshape(-1, size) for part in parts), size)
        if not all(map(math.isfinite, (*scale.mean, *scale.deviation))):
            raise ConfigError(f"data={run.data}: actions: some numbers are too large for float32; scale them")
        return scale

    def collect(self, progress: float) -> Batch:
        """A batch of whole episodes, or of their first steps (`length`, `cut`)."""
        o = self.options
        drawn = self.training[torch.randint(len(self.training), (o.batch,), generator=self.generator)]
        return self.data.batch(drawn, self._limit(drawn, progress), o.returns, self.device)

    def update(self, batch: Batch, progress: float) -> dict[str, float | None]:
        """One optimizer step for the whole episodes, or one per segment (`detach_memory`), at `progress` (0..1) of the run."""
        o = self.options
        for group in self.optimizer.param_groups:
            group["lr"] = schedule(o.schedule, progress) * o.learning_rate
        # one optimizer step per part of the batch; no gradient flows from one part to the next
        loss, right, count, norms = 0.0, 0.0, 0, []
        auxiliary: dict[str, float] = {}
        with rng.as_global(self.dropout):
            for part in self._segments(batch) if o.detach_memory else self._episodes(batch):
                self.check_stop()
                terms = {f"auxiliary/{name}": value for name, value in part.auxiliary.items()}
                norm = guarded_gradient(self.optimizer, part.objective, self.policy, o.max_grad_norm, self.guard, terms)
                if norm is not None:
                    self.optimizer.step()
                norms.append(math.nan if norm is None else float(norm))
                loss, right, count = loss + part.loss, right + part.right, count + part.steps
                for name, value in part.auxiliary.items():
                    auxiliary[name] = auxiliary.get(name, 0.0) + float(value.detach()) * part.steps
        check_weights(self.policy)
        self._between_updates(batch, progress)
        row: dict[str, float | None] = {"loss": loss / count, "accuracy": right / count}
        row |= {f"auxiliary/{name}": total / count for name, total in auxiliary.items()}
        row |= {"gradient_norm": sum(norms) / len(norms), "learning_rate": self.optimizer.param_groups[0]["lr"]}
        if batch.action.is_floating_point():  # continuous actions are never exactly the recorded ones
            del row["accuracy"]
        # a run that continues after its end is at an earlier part of its new length
        self._validations = min(self._validations, math.ceil(progress * VALIDATIONS))
        if len(self.held_out) and progress * VALIDATIONS >= self._validations:
            row |= self.validate()
        return row | self.guard.counts()

    def validate(self) -> dict[str, float]:
        """Loss and accuracy on the held-out episodes; keeps the weights if they are the best so far."""
        self._validations += 1
        total, right, steps = 0.0, 0.0, 0
        self.policy.eval()
        with torch.no_grad():
            for episodes in self.held_out.split(min(VALIDATION_BATCH, self.options.batch)):
                self.check_stop()
                batch = self.data.batch(episodes, self.options.length, self.options.returns, self.device)
                losses, hits, _, _ = self._losses(batch.obs, batch.action, self.policy.initial_state(1), batch.first)
                total, right, steps = total + float(losses.sum()), right + float(hits.sum()), steps + losses.numel()
        self.policy.train()
        if total / steps < self.best_loss:
            self.best_loss, self.best = total / steps, copy.deepcopy(self.policy.state_dict())
        found = {"validation_loss": total / steps}
        return found if batch.action.is_floating_point() else found | {"validation_accuracy": right / steps}

    def select_weights(self) -> dict[str, float]:
        """Give the policy the weights with the lowest validation loss, or the last ones without validation."""
        last = self.validate() if len(self.held_out) else {}
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
            "checks": self._validations,
            "best": self.best,
            "best_loss": torch.tensor(self.best_loss, dtype=torch.float64),  # JSON has no infinity
            "data": self.data.fingerprint(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        if state["data"] != self.data.fingerprint():
            raise ConfigError("data: the episodes differ from those that the run started with; restore them")
        if state["best"] is not None:
            load_weights(self.policy, state["best"])  # at the end of the run they are used
        load_weights(self.policy, state["policy"])
        load_optimizer_state(self.optimizer, state["optimizer"])
        self.generator.set_state(state["generator"])
        self.dropout.set_state(state["dropout"])
        self.guard.load_state_dict(state["guard"])
        self._validations, self.best = check_count("checks", state["checks"]), state["best"]
        self.best_loss = float(state["best_loss"])
        if math.isnan(self.best_loss):
            raise ValueError("best_loss is not a number")

    def _limit(self, episodes: torch.Tensor, progress: float) -> int | None:
        """Number of steps after which the episodes of a batch are cut; None = they are not cut."""
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
        return int(self.policy.config.segment)  # type: ignore[attr-defined]  # `RATEConfig.problems_with` checks it

    def _losses(
        self, obs: Any, action: torch.Tensor, state: Any, first: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, Any, dict[str, torch.Tensor]]:
        """[B, T] loss, [B, T] whether the action is the recorded one, the state afterwards, and the auxiliary losses by name."""
        parameters, _, state, auxiliary = self.policy.unroll_with_losses(obs, action, state, first)
        mode = self.policy.head.mode(parameters)
        same = (mode == action).flatten(first.dim()).all(-1) if mode.dim() > first.dim() else mode == action
        return self.policy.head.imitation_loss(parameters, action), same.float(), state, auxiliary

    def _episodes(self, batch: Batch) -> Iterator[_Part]:
        """The whole batch as one part, with the gradient through all memory writes."""
        losses, hits, _, auxiliary = self._losses(batch.obs, batch.action, self.policy.initial_state(1), batch.first)
        n, objective = losses.numel(), losses.mean() + sum(auxiliary.values())
        yield _Part(objective, n * float(losses.detach().mean()), n * float(hits.mean()), n, auxiliary)

    def _segments(self, batch: Batch) -> Iterator[_Part]:
        """The k-th segments of all episodes as part k = 0, 1, ...; memory continues, its gradient ends."""
        S = self._segment()
        begin = batch.first[0].nonzero().squeeze(1)
        length = torch.diff(begin, append=begin.new_tensor([batch.first.shape[1]]))
        state, running = self.policy.initial_state(len(begin)), torch.arange(len(begin), device=begin.device)
        for k in range(math.ceil(int(length.max()) / S)):
            # the episodes that have a k-th segment, with the detached memory of the previous segment
            stays = length[running] > k * S
            running, state = running[stays], detach(select_rows(state, stays.nonzero().squeeze(1)))
            # the steps of the segment; a shorter last segment repeats its last step, which gets no weight
            step = k * S + torch.arange(S, device=begin.device)
            inside = step < length[running][:, None]
            index = begin[running][:, None] + torch.minimum(step, length[running][:, None] - 1)
            obs = map_obs(lambda x, index=index: x[0][index], batch.obs)
            losses, hits, state, auxiliary = self._losses(
                obs, batch.action[0][index], state, batch.first[0][index] & inside
            )
            objective = (losses * inside).sum() / inside.sum() + sum(auxiliary.values())
            total, right = float((losses.detach() * inside).sum()), float((hits * inside).sum())
            yield _Part(objective, total, right, int(inside.sum()), auxiliary)

    def _between_updates(self, batch: Batch, progress: float) -> None:
        seed = rng.counter_seed(self.seed, round(progress * 1e9))  # other noise in every update
        generator = rng.generator(seed, "between-updates", self.device)
        self.policy.between_updates(batch.obs, batch.action, self.policy.initial_state(1), batch.first, generator)


def _record_oracle(run: TrainConfig, env: TorchVectorEnv) -> Dataset:
    waves = record(env, oracle_actor(env), EPISODES, run.seed)
    episodes = [Episode(but_last(e.obs), e.action, e.reward) for wave in waves for e in wave]
    steps = sum(len(episode.reward) for episode in episodes)
    return Dataset(episodes, steps, env.single_observation_space, env.single_action_space)


def _fits(run: TrainConfig, env: TorchVectorEnv) -> Any:
    """A check of a dataset's spaces: raises ConfigError where the task has others."""

    def check(observations: spaces.Space[Any], actions: spaces.Space[Any]) -> None:
        for kind, found, expected in (
            ("observation", observations, env.single_observation_space),
            ("action", actions, env.single_action_space),
        ):
            if to_json(_as_recorded(found)) != to_json(_as_recorded(expected)):
                theirs, ours = (" ".join(str(space).split()) for space in (found, expected))
                raise ConfigError(
                    f"its {kind} space is {theirs}, but that of env={run.env.name} is {ours}; choose the environment that"
                    " was recorded"
                )

    return check


def _as_recorded(space: spaces.Space[Any]) -> spaces.Space[Any]:
    """The space with text as a plain Box of bytes, which is how a dataset keeps it."""
    if isinstance(space, spaces.Dict):
        return spaces.Dict({name: _as_recorded(part) for name, part in space.items()})
    return spaces.Box(0, 255, space.shape, np.uint8) if isinstance(space, TextBytes) else space
