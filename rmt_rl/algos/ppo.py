"""Proximal policy optimisation on whole rows: minibatches split rows, never time."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from rmt_rl.algos.base import Learner
from rmt_rl.algos.losses import approximate_kl, clipped_surrogate, standardise, value_loss
from rmt_rl.algos.optimizer import guarded_gradient, load_optimizer_state, optimizer_state, schedule
from rmt_rl.algos.reach import gradient_reach
from rmt_rl.algos.returns import ReturnDeviation, gae
from rmt_rl.common import rng
from rmt_rl.common.errors import ConfigError, RunError
from rmt_rl.common.finite import Guard, check_weights
from rmt_rl.common.process import command_line
from rmt_rl.common.ranks import ALONE, Ranks
from rmt_rl.common.state import all_same_shape, check_count, map_obs, map_state, select_rows
from rmt_rl.config.algos import PPOConfig
from rmt_rl.config.commands import TrainConfig, metric_names
from rmt_rl.config.resolve import with_values_read
from rmt_rl.envs.base import TorchVectorEnv
from rmt_rl.policies.actor_critic import ActorCritic
from rmt_rl.policies.base import has_between_updates
from rmt_rl.policies.heads import CategoricalHead, Head
from rmt_rl.policies.network import remembered
from rmt_rl.policies.weights import load_weights
from rmt_rl.rollouts.collector import Collector, Rollout
from rmt_rl.rollouts.statistics import EpisodeStats

#: Recomputed log-probabilities may differ from the stored ones by this much before the first optimizer step.
RATIO_TOLERANCE = 1e-5

#: Observations above this may make float32 results of `step` and `unroll` differ by more than that.
LARGE = 1e4

#: Weight of the log barrier for discrete actions, unless algo.barrier_coef says otherwise.
DEFAULT_BARRIER = 0.01


class PPO:
    """The update of PPO, and its state between updates: the optimizer, the scale of returns, the number of updates.

        ppo = PPO(policy, PPOConfig())
        rollout, episodes = collector.collect(32)
        metrics = ppo.update(rollout, progress=0.0)

    seed: for the order of the minibatches and for dropout. ranks: the processes of which each updates with the rollout of its own
    rows, all to the same weights.
    """

    check_stop: Callable[[], None] = staticmethod(lambda: None)  # see `Learner`

    def __init__(self, policy: ActorCritic, options: PPOConfig, seed: int = 0, ranks: Ranks = ALONE) -> None:
        if not (isinstance(policy, ActorCritic) and isinstance(options, PPOConfig)):
            raise ConfigError(
                f"PPO({type(policy).__name__}, {type(options).__name__}): expected PPO(policy, options), with the result of"
                " rmt_rl.make_policy and a PPOConfig"
            )
        options = with_values_read(options, "algo.")  # how they fit num_envs does not matter here
        device = policy.device
        self.policy, self.options, self.updates, self.guard = policy, options, 0, Guard(options.skip_nonfinite)
        self.barrier = barrier_weight(options, policy.head)
        self.deviation = ReturnDeviation(options.gamma) if options.normalize_reward else None
        self.seed, self.ranks = seed, ranks
        self.shuffle = rng.generator(seed, "shuffle", device)
        self.dropout = rng.generator(seed, "dropout", device)
        self.optimizer = torch.optim.AdamW(
            policy.parameters(), lr=options.learning_rate, eps=1e-5, weight_decay=0.0, fused=True
        )

    def risen(self, progress: float) -> float:
        """The factor (0..1) of the backbone's `ramped_losses` at `progress` (0..1) of the run."""
        return 1.0

    def update(self, rollout: Rollout, progress: float) -> dict[str, float | None]:
        """All epochs over one rollout, at `progress` (0..1) of the run; returns means over the minibatches.

        Raises NotFinite where the rollout, a loss or a gradient is not finite, more often in a row than `skip_nonfinite` allows.
        """
        o, ranks = self.options, self.ranks
        self._check_policy(rollout)
        found = rollout.nonfinite or _too_large(rollout)
        if ranks.any(found is not None):
            self.guard.stop_or_skip(found or "the rollout of another process holds numbers that are not finite")
            return {**self.guard.counts()}
        # step size
        scale = schedule(o.schedule, progress)
        for group in self.optimizer.param_groups:
            group["lr"] = scale * o.learning_rate
        # rewards, advantages and value targets of the whole rollout, before the first step changes the policy
        reward = rollout.reward
        if self.deviation is not None:
            reward = reward / self.deviation.add(ranks.gather(reward), ranks.gather(rollout.begins))
        advantage = gae(
            reward,
            rollout.value,
            rollout.next_value,
            rollout.terminated,
            rollout.truncated,
            o.gamma,
            o.gae_lambda,
        )
        target, risen = advantage + rollout.value, self.risen(progress)
        if self.updates == 0:
            self._check_ratio(rollout)
        # epochs of minibatches of whole rows: a row cut in time would lose its memory
        dropout = self._dropout()
        metrics: list[dict[str, torch.Tensor]] = []
        for _ in range(o.epochs):
            for rows in self._minibatches(len(advantage), advantage.device):
                self.check_stop()
                with rng.as_global(dropout):
                    loss, measured = self._loss(rollout, advantage[rows], target[rows], rows, scale, risen)
                    extra = {name: value for name, value in measured.items() if name.startswith("auxiliary/")}
                    norm = guarded_gradient(
                        self.optimizer, loss, self.policy, o.max_grad_norm, self.guard, extra, ranks
                    )
                if norm is not None:
                    self.optimizer.step()
                    metrics.append({**measured, "gradient_norm": norm})
        check_weights(self.policy)
        self._between_updates(rollout)
        self._add_observations(rollout)  # not before: the update must see what acting saw
        self.updates += 1
        # means over the minibatches, for the log
        means: dict[str, float] = {}
        if metrics:  # empty when all minibatches were skipped
            stacked = torch.stack([torch.stack(list(row.values())) for row in metrics])
            means = dict(zip(metrics[0], ranks.mean(stacked.mean(0)).tolist(), strict=True))
        target, value = ranks.gather(target), ranks.gather(rollout.value)
        explained = 1 - (target - value).var() / target.var().clamp(min=1e-12)
        more = {"explained_variance": float(explained), "learning_rate": scale * o.learning_rate}
        return {**means, **more, **self.guard.counts()}

    def _between_updates(self, rollout: Rollout) -> None:
        seed = rng.counter_seed(self.seed, self.updates)  # other noise in every update
        generator = rng.generator(seed, "between-updates", rollout.reward.device)
        obs, action, state, first = rollout.obs, rollout.action, rollout.state, rollout.first
        if self.ranks.count > 1 and has_between_updates(self.policy.backbone):
            obs, state = map_obs(self.ranks.gather, obs), map_state(self.ranks.gather, state)
            action, first = self.ranks.gather(action), self.ranks.gather(first)
        self.policy.between_updates(obs, action, state, first, generator)

    def _add_observations(self, rollout: Rollout) -> None:
        obs = rollout.obs
        if self.ranks.count > 1 and self.policy.normalizes:
            obs = map_obs(self.ranks.gather, obs)
        self.policy.add_observations(obs)

    def _minibatches(self, rows: int, device: torch.device) -> list[torch.Tensor]:
        """Which of `rows` are in every minibatch of an epoch. The orders of all shares of the rows are drawn in every process."""
        ranks, count = self.ranks, self.options.minibatch_count()
        share = rows * ranks.count // ranks.shares
        orders = [torch.randperm(share, generator=self.shuffle, device=device) for _ in range(ranks.shares)]
        own = [orders[ranks.number]] if ranks.count > 1 else orders
        parts = [(order + number * share).chunk(count) for number, order in enumerate(own)]
        return [torch.cat(of_shares) for of_shares in zip(*parts, strict=True)]

    def _dropout(self) -> torch.Generator:
        """The generator for dropout: one stream over the run, or, with several processes, one for each of them and update."""
        if self.ranks.count == 1:
            return self.dropout
        return rng.generator(
            rng.counter_seed(self.seed, self.updates), f"dropout {self.ranks.number}", self.policy.device
        )

    def _loss(
        self,
        rollout: Rollout,
        advantage: torch.Tensor,
        target: torch.Tensor,
        rows: torch.Tensor,
        scale: float,
        risen: float = 1.0,
    ) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """The loss of the given rows and the numbers to log.

        scale: the schedule's factor of the bonus and the barrier. risen: that of the auxiliary losses in `ramped_losses`.

            L = L_clip + c_v * L_value - c_e * entropy + c_b * KL(uniform || new) + c_kl * KL(old || new) + auxiliary losses

        Sources: Schulman et al. 2017, eq. 9; the log barrier c_b is that of Agarwal et al. 2019 (arXiv 1908.00261, sec. 5). The
        gradient of the entropy vanishes with the probability of an action, that of the barrier does not (docs/tmaze.md). The
        last two terms are ours.
        """
        o = self.options
        obs = map_obs(lambda x: x[rows], rollout.obs)
        action, first = rollout.action[rows], rollout.first[rows]
        state = select_rows(rollout.state, rows)
        parameters, value, _, auxiliary = self.policy.unroll_with_losses(obs, action, state, first)
        log_ratio = self.policy.head.log_prob(parameters, action) - rollout.log_prob[rows]
        if o.normalize_advantage:
            advantage = standardise(advantage, o.advantage_floor, self.ranks.gather(advantage))
        policy_loss = clipped_surrogate(log_ratio, advantage, o.clip)
        values = value_loss(value, target)
        entropy = self.policy.head.entropy(parameters).mean()
        loss = (
            policy_loss
            + o.value_coef * values
            + o.kl_coef * approximate_kl(log_ratio)
            - scale * o.entropy_coef * entropy
        )
        if self.barrier:
            loss = loss + scale * self.barrier * self.policy.head.kl_from_uniform(parameters).mean()
        with torch.no_grad():
            clipped = ((log_ratio.exp() - 1).abs() > o.clip).float().mean()
            measured = {
                "policy_loss": policy_loss,
                "value_loss": values,
                "entropy": entropy,
                "approx_kl": approximate_kl(log_ratio),
                "clip_fraction": clipped,
            }
        for name, extra in auxiliary.items():
            if name.removeprefix("critic_") in self.policy.backbone.ramped_losses:
                extra = risen * extra
            loss, measured[f"auxiliary/{name}"] = loss + extra, extra
        return loss, {name: value.detach() for name, value in measured.items()}

    def _check_policy(self, rollout: Rollout) -> None:
        """Raises ConfigError where the rollout holds the states of a policy of another form."""
        expected = self.policy.initial_state(len(rollout.first), critic=True)
        try:
            same = all_same_shape(expected, rollout.state)
        except AttributeError:
            same = False
        if not same:
            raise ConfigError(
                "PPO.update: the rollout was collected with another policy than the one that is updated; expected a rollout of"
                " Collector(env, policy) with the policy of PPO(policy, options)"
            )

    @torch.no_grad()
    def _check_ratio(self, rollout: Rollout) -> None:
        """Raises RuntimeError where `unroll` and `step` compute different policies: every update would be wrong."""
        learning = self.policy.training
        self.policy.eval()  # acting uses no dropout, learning may
        parameters, _, _ = self.policy.unroll(rollout.obs, rollout.action, rollout.state, rollout.first)
        self.policy.train(learning)
        log_ratio = self.policy.head.log_prob(parameters, rollout.action) - rollout.log_prob
        worst = float((log_ratio.abs() / rollout.log_prob.abs().clamp(min=1)).max())
        if not worst <= RATIO_TOLERANCE and (largest := _largest(rollout.obs)) > LARGE:
            raise RunError(
                f"observation: numbers up to {largest:.3g} are too large for the network, whose float32 results then depend on"
                f" their order of computation; scale them to about 1, at most to {LARGE:g}"
            )
        if not worst <= RATIO_TOLERANCE:
            check = f"check it with {command_line('rmt_rl.policies.check')}"
            part = f"backbone disagree; {check}"
            if (own := self.policy.config.encoder) != "auto":
                part = (
                    f"policy disagree: the encoder {own} must return the same vector for the same observation, alone and in any"
                    " batch, while it learns and while it acts (no dropout, no batch normalisation, no state); or the backbone"
                    f" does not, {check}"
                )
            raise RuntimeError(
                f"before the first update the log-probabilities of `unroll` differ from those of `step` by {worst:.1e}; "
                f"allowed is {RATIO_TOLERANCE:.0e}. `step` and `unroll` of the {part}. In a loop of your own, the rollout may be"
                " that of another policy"
            )


def _root_mean_square(x: torch.Tensor) -> float:
    return float(x.square().mean().sqrt())


def _largest(obs: Any) -> float:
    """The largest absolute value of the floats in an observation."""
    parts = obs.values() if isinstance(obs, dict) else [obs]
    return max((float(x.abs().max()) for x in parts if x.is_floating_point() and x.numel()), default=0.0)


def _too_large(rollout: Rollout) -> str | None:
    """Why no update can be made of finite observations: they are so large that the policy's own outputs are not finite."""
    for name, x in (
        ("log-probability", rollout.log_prob),
        ("value", rollout.value),
        ("next value", rollout.next_value),
    ):
        if not bool(x.isfinite().all()) and (largest := _largest(rollout.obs)) > LARGE:
            return (
                f"observation: with numbers up to {largest:.3g} the {name} of the policy is not finite; scale them to about 1, at"
                f" most to {LARGE:g}"
            )
    return None


def barrier_weight(options: PPOConfig, head: Head) -> float:
    """The weight of the log barrier for these actions; raises ConfigError where it is not defined for them."""
    if options.barrier_coef is None:
        return DEFAULT_BARRIER if isinstance(head, CategoricalHead) else 0.0
    if options.barrier_coef and not isinstance(head, CategoricalHead) and not head.bounded:
        raise ConfigError(
            f"algo.barrier_coef={options.barrier_coef:g}: the actions have no bounds, between which a uniform policy is defined;"
            " expected 0 or an environment with bounded actions"
        )
    return options.barrier_coef


class PPOLearner(PPO, Learner):
    """PPO with the environment that it acts in: what `train` runs for algo=ppo."""

    shown = ("success", "return")

    def __init__(
        self, run: TrainConfig, env: TorchVectorEnv, policy: ActorCritic, data: None = None, ranks: Ranks = ALONE
    ) -> None:
        PPO.__init__(self, policy, run.algo, run.seed, ranks)
        ranks.check_rows(run.algo.num_envs, run.algo.minibatch_count())
        self.memory, self.task, self._noted = run.memory, run.env.name, False
        acting = rng.generator(run.seed, "act", env.device)
        metrics = metric_names(run.metrics)
        self.collector = Collector(
            env,
            policy,
            rng.seed(run.seed, "env"),
            acting,
            metrics,
            noise_correlation=run.algo.noise_correlation,
            ranks=ranks,
        )
        self.stats = EpisodeStats(run.steps, metrics)
        self.resumes_exactly = self.collector.own_state()["env"] is not None

    def collect(self, progress: float) -> Rollout:
        if self.policy.without_moments():  # one rollout only to learn the scale of the observations
            first, _ = self.collector.collect(
                self.options.rollout, skip_nonfinite=self.guard.allowed > 0, between_steps=self.check_stop
            )
            if not self.ranks.any(first.nonfinite is not None):
                self._add_observations(first)
        rollout, episodes = self.collector.collect(
            self.options.rollout,
            skip_nonfinite=self.guard.allowed > 0,
            between_steps=self.check_stop,
            carry=self.memory.carry * self.risen(progress),
        )
        self.stats.add(episodes, self.ranks.gather((rollout.terminated | rollout.truncated).any(1)))
        self._before = rollout.state
        return rollout

    def risen(self, progress: float) -> float:
        """The factor of `memory.carry` and of the backbone's `ramped_losses`."""
        latest = self.stats.means()
        unknown = latest["success"] is None and latest["length"] is not None
        if self.memory.ramp != "steps" and unknown and not self._noted:
            self._noted = True
            if self.ranks.first:
                print(
                    f"memory.ramp={self.memory.ramp}: env={self.task} reports no success, so memory.carry and"
                    " policy.write_cost stay 0; memory.ramp=steps memory.ramp_end=0.5 lets them rise in the first half of the"
                    " run",
                    flush=True,
                )
        best = self.memory.ramp == "best_success"
        return self.memory.risen(progress, self.stats.best_success if best else latest["success"])

    def statistics(self) -> dict[str, float | None]:
        """Success, return, length and metrics of the latest episodes."""
        return self.stats.means()

    def diagnostics(self) -> dict[str, float]:
        """How much the latest rollout changed what the policy remembers, and its size: root mean squares over its numbers."""
        before, after = (remembered(state.memory) for state in (self._before, self.collector.state))
        if not after:  # mlp, and transformers without memory tokens
            return {}
        changes = torch.cat([(new - old).flatten() for new, old in zip(after, before, strict=True)])
        numbers = torch.cat([new.flatten() for new in after])
        return {"memory/change": _root_mean_square(changes), "memory/size": _root_mean_square(numbers)}

    def costly_diagnostics(self, batch: Rollout) -> dict[str, float]:
        """How many steps back the gradient reaches through the memory."""
        with rng.as_global(rng.generator(self.seed, "reach", self.policy.device)):  # training's dropout stays as it is
            reach = None if batch.nonfinite else gradient_reach(self.policy, batch)
        return {} if reach is None else {"memory/gradient_reach": reach}

    def state_dict(self) -> dict[str, Any]:
        return {
            "policy": self.policy.state_dict(),
            "optimizer": optimizer_state(self.optimizer),
            "updates": self.updates,
            "deviation": None if self.deviation is None else self.deviation.state_dict(),
            "guard": self.guard.state_dict(),
            "collector": self.collector.state_dict(),
            "shuffle": self.shuffle.get_state(),
            "dropout": self.dropout.get_state(),
            "recent": self.stats.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        load_weights(self.policy, state["policy"])
        load_optimizer_state(self.optimizer, state["optimizer"])
        self.updates = check_count("updates", state["updates"])
        if self.deviation is not None:
            self.deviation.load_state_dict(state["deviation"], self.collector.env.num_envs * self.ranks.count)
        self.guard.load_state_dict(state["guard"])
        self.collector.load_state_dict(state["collector"])
        self.shuffle.set_state(state["shuffle"])
        self.dropout.set_state(state["dropout"])
        self.stats.load_state_dict(state["recent"])
