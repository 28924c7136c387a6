"""Supervised learning: the correct answers of new episodes, as sequence models are trained on the papers' tasks.

The task's oracle acts, and the policy learns its actions where they count (`TorchVectorEnv.asks`): in `copy` the answers, not
the steps at which symbols are shown. The gradient reaches through the whole episode. A curriculum lengthens the episodes: in
stage k of n the option `grows` of the task has k/n of its value, and the next stage begins when almost all episodes are right
(Bulatov et al. 2023, arXiv 2304.11062, from one segment to many; the rule for the next stage is ours).
"""

from __future__ import annotations

import dataclasses
import math
from collections import deque
from typing import Any

import torch

from rmt_rl.algos.base import Learner
from rmt_rl.algos.optimizer import guarded_gradient, load_optimizer_state, optimizer_state, schedule
from rmt_rl.common import rng
from rmt_rl.common.errors import ConfigError, RunError
from rmt_rl.common.finite import Guard, check_weights
from rmt_rl.common.state import check_count, map_obs
from rmt_rl.config.bases import EnvConfig
from rmt_rl.config.commands import TrainConfig
from rmt_rl.config.resolve import validate
from rmt_rl.envs.base import TorchVectorEnv, close_env
from rmt_rl.envs.observations import ObservationCheck
from rmt_rl.envs.registry import make_from_config
from rmt_rl.policies.actor_critic import ActorCritic
from rmt_rl.policies.weights import load_weights

#: Episodes whose share without a wrong answer decides about the next stage.
ENOUGH = 256
#: Steps after which an episode that the oracle does not end is an error, where the task names no limit.
LONGEST = 10_000_000


@dataclasses.dataclass(frozen=True)
class Lesson:
    """Episodes of the oracle, [B, T] each; a row whose episode has ended goes on with others that do not count.

    obs: [B, T, ...]. action: the oracle's. first: an episode begins here. asked: the action counts. nonfinite: the first NaN or
    infinity that the environment returned, as text; such episodes are skipped.
    """

    obs: Any
    action: torch.Tensor
    first: torch.Tensor
    asked: torch.Tensor
    nonfinite: str | None = None

    @property
    def steps(self) -> int:
        """Environment steps of all rows."""
        return self.asked.numel()


class SupervisedLearner(Learner):
    """Imitates the oracle of a task in new episodes; `train` uses it for algo=supervised."""

    shown = ("success", "loss")

    def __init__(self, run: TrainConfig, env: TorchVectorEnv, policy: ActorCritic, data: Any = None) -> None:
        super().__init__(run, env, policy)
        self.options, self.run, self.seed = run.algo, run, run.seed
        self.continuous = policy.head.action_dtype.is_floating_point
        self._check = ObservationCheck(env.single_observation_space, env.single_action_space if policy.masked else None)
        self.whole, self.first_seed = env, rng.seed(run.seed, "env")
        self.dropout = rng.generator(run.seed, "dropout", env.device)
        self.guard, self.updates = Guard(run.algo.skip_nonfinite), 0
        self.optimizer = torch.optim.AdamW(
            policy.parameters(), lr=run.algo.learning_rate, weight_decay=run.algo.weight_decay, fused=True
        )
        self._solved: deque[bool] = deque(maxlen=ENOUGH)
        self._check_stages()
        self._enter(1)
        self.env.reset(seed=0)
        self.env.oracle()  # raises ConfigError where the task has none

    def _check_stages(self) -> None:
        """Raises ConfigError, before anything is learned, where a stage cannot be, or would not end."""
        stages = self.options.stages
        if stages > 1 and self.continuous:
            raise ConfigError(
                f"algo.stages={stages}: continuous actions are never exactly the oracle's, so that no stage would end; expected 1"
            )
        whole = dataclasses.replace(self.options, stages=1)
        for stage in range(1, stages):
            try:
                validate(dataclasses.replace(self.run, env=self._shorter(stage), algo=whole))
            except ConfigError as error:
                raise ConfigError(f"algo.stages={stages}: in stage {stage} {error}") from error

    def _shorter(self, stage: int) -> EnvConfig:
        """The options of the task in a stage before the last."""
        o, task = self.options, self.run.env
        return dataclasses.replace(task, **{o.grows: math.ceil(getattr(task, o.grows) * stage / o.stages)})

    def _enter(self, stage: int) -> None:
        """Begin a stage of the curriculum, with the episodes that it has."""
        o = self.options
        self.stage = stage
        self._solved.clear()
        if stage == o.stages:
            self.env = self.whole
            return
        made = self.whole.num_envs, self.whole.device, self.run.memory
        self.env = make_from_config(self._shorter(stage), *made, returns=self.policy.spec.returns)
        for name in ("single_observation_space", "single_action_space"):
            if getattr(self.env, name) != getattr(self.whole, name):
                raise ConfigError(
                    f"algo.grows={o.grows}: changes the {name[7:].replace('_', ' ')}; expected another option"
                )

    def collect(self, progress: float) -> Lesson:
        """One new episode of the oracle in every row."""
        env = self.env
        obs, _ = env.reset(seed=(self.first_seed + self.updates * env.num_envs) % 2**62)
        columns: list[tuple[Any, ...]] = []
        first = running = torch.ones(env.num_envs, dtype=torch.bool, device=env.device)
        found: str | None = None
        while bool(running.any()):
            if len(columns) == (env.episode_steps or LONGEST):
                raise ConfigError(
                    f"env={self.run.env.name}: the oracle has not ended an episode after {len(columns):,} steps"
                )
            self.check_stop()
            if wrong := self._check.outside("observation", obs) or self._check.no_action("observation", obs):
                raise RunError(f"{wrong}: the environment returned it")
            found = found or self._check.unusable("observation", obs)
            action = env.oracle()
            # copies, because an environment may use its tensors again
            columns.append((map_obs(torch.clone, obs), action.clone(), first, env.asks().bool() & running))
            obs, _, terminated, truncated, _ = env.step(action)
            first = terminated | truncated
            running = running & ~first
        shown, *others = zip(*columns, strict=True)
        stacked = map_obs(lambda *x: torch.stack(x, dim=1), *shown)
        action, first, asked = (torch.stack(x, dim=1) for x in others)
        if not bool(asked.any()):
            raise ConfigError(
                f"env={self.run.env.name}: no action of its episodes counts (`asks`), so nothing can be learned"
            )
        return Lesson(stacked, action, first, asked, found)

    def update(self, batch: Lesson, progress: float) -> dict[str, float | None]:
        """One optimizer step, at `progress` (0..1) of the run."""
        o, policy = self.options, self.policy
        self.updates += 1
        if batch.nonfinite:
            self.guard.stop_or_skip(batch.nonfinite)
            return {**self.guard.counts()}
        scale_unknown = policy.without_moments()
        if scale_unknown:
            policy.add_observations(batch.obs)
        for group in self.optimizer.param_groups:
            group["lr"] = schedule(o.schedule, progress) * o.learning_rate
        # the mean over the answers that count
        with rng.as_global(self.dropout):
            state = policy.initial_state(len(batch.asked))
            parameters, _, _, auxiliary = policy.unroll_with_losses(batch.obs, batch.action, state, batch.first)
            count = batch.asked.sum()
            losses = policy.head.imitation_loss(parameters, batch.action)
            loss = torch.where(batch.asked, losses, 0.0).sum() / count
            terms = {f"auxiliary/{name}": value for name, value in auxiliary.items()}
            total = loss + sum(auxiliary.values())
            norm = guarded_gradient(self.optimizer, total, policy, o.max_grad_norm, self.guard, terms)
        if norm is None:
            return {**self.guard.counts()}
        self.optimizer.step()
        check_weights(policy)
        with torch.no_grad():
            right = policy.head.mode(parameters) == batch.action
            right = right.flatten(batch.asked.dim()).all(-1) if right.dim() > batch.asked.dim() else right
            solved = (right | ~batch.asked).all(1)
        generator = rng.generator(rng.counter_seed(self.seed, self.updates), "between-updates", policy.device)
        policy.between_updates(batch.obs, batch.action, state, batch.first, generator)
        if not scale_unknown:
            policy.add_observations(batch.obs)
        row: dict[str, float | None] = {
            "loss": float(loss.detach()),
            "accuracy": float((right & batch.asked).sum() / count),
            "success": float(solved.double().mean()),
            **{name: float(value.detach()) for name, value in terms.items()},
            "gradient_norm": float(norm),
            "learning_rate": self.optimizer.param_groups[0]["lr"],
            **self.guard.counts(),
        }
        if self.continuous:  # continuous actions are never exactly the oracle's
            del row["accuracy"], row["success"]
        if o.stages > 1:
            row["stage"] = self.stage
            self._advance(solved)
        return row

    def _advance(self, solved_B: torch.Tensor) -> None:
        """Begin the next stage where enough of the latest episodes have no wrong answer."""
        self._solved.extend(solved_B.tolist())
        solved = sum(self._solved) / len(self._solved)
        if self.stage < self.options.stages and len(self._solved) == ENOUGH and solved >= self.options.advance:
            close_env(self.env)
            self._enter(self.stage + 1)

    def state_dict(self) -> dict[str, Any]:
        return {
            "policy": self.policy.state_dict(),
            "optimizer": optimizer_state(self.optimizer),
            "dropout": self.dropout.get_state(),
            "guard": self.guard.state_dict(),
            "updates": self.updates,
            "stage": self.stage,
            "solved": list(self._solved),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        load_weights(self.policy, state["policy"])
        load_optimizer_state(self.optimizer, state["optimizer"])
        self.dropout.set_state(state["dropout"])
        self.guard.load_state_dict(state["guard"])
        self.updates = check_count("updates", state["updates"])
        stage, solved = check_count("stage", state["stage"]), state["solved"]
        if not 1 <= stage <= self.options.stages:
            raise ValueError(f"stage is {stage}; expected 1 to {self.options.stages}")
        if not isinstance(solved, list) or len(solved) > ENOUGH or any(type(x) is not bool for x in solved):
            raise ValueError(f"solved is {solved!r}; expected at most {ENOUGH} times true or false")
        self._enter(stage)
        self._solved.extend(solved)
