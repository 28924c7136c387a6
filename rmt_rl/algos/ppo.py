"""Proximal policy optimisation on whole rows: minibatches split rows, never time."""

from __future__ import annotations

from typing import Any

import torch

from rmt_rl import config, rng
from rmt_rl.algos.losses import approximate_kl, clipped_surrogate, standardise, value_loss
from rmt_rl.algos.optimizer import guarded_step, load_optimizer_state, optimizer_state, schedule
from rmt_rl.algos.returns import ReturnDeviation, gae
from rmt_rl.data import Rollout, map_obs, select_rows
from rmt_rl.envs.base import TorchVectorEnv
from rmt_rl.guards import Guard, check_weights
from rmt_rl.policies.actor_critic import ActorCritic
from rmt_rl.rollout import Collector, Recent

#: Recomputed log-probabilities may differ from the stored ones by this much before the first optimizer step.
RATIO_TOLERANCE = 1e-5


class PPO:
    """Holds what is saved between updates: the policy, its optimizer, how large returns are, and how many updates were made."""

    def __init__(self, policy: ActorCritic, options: config.PPO) -> None:
        self.policy, self.options, self.updates, self.guard = policy, options, 0, Guard(options.skip_nonfinite)
        self.deviation = ReturnDeviation(options.gamma) if options.normalize_reward else None
        self.optimizer = torch.optim.AdamW(
            policy.parameters(), lr=options.learning_rate, eps=1e-5, weight_decay=0.0, fused=True
        )

    def update(self, rollout: Rollout, progress: float, generator: torch.Generator) -> dict[str, float]:
        """All epochs over one rollout, when `progress` (0..1) of the run is over; the means of what is worth watching."""
        o = self.options
        scale = schedule(o.schedule, progress)
        for group in self.optimizer.param_groups:
            group["lr"] = scale * o.learning_rate
        reward = rollout.reward
        if self.deviation is not None:
            reward = reward / self.deviation.add(reward, rollout.first)
        advantage = gae(
            reward,
            rollout.value,
            rollout.next_value,
            rollout.terminated,
            rollout.truncated,
            o.gamma,
            o.gae_lambda,
        )
        target = advantage + rollout.value
        if self.updates == 0:
            self._check_ratio(rollout)
        metrics = []
        for _ in range(o.epochs):
            for rows in torch.randperm(len(advantage), generator=generator, device=advantage.device).chunk(
                o.minibatches
            ):
                loss, measured = self._loss(rollout, advantage[rows], target[rows], rows, scale * o.entropy_coef)
                norm = guarded_step(self.optimizer, loss, self.policy, o.max_grad_norm, self.guard)
                if norm is not None:
                    metrics.append(torch.stack([*measured, norm]))
        check_weights(self.policy)
        self.updates += 1
        names = ("policy_loss", "value_loss", "entropy", "approx_kl", "clip_fraction", "gradient_norm")
        means: dict[str, float] = {}
        if metrics:  # else all were skipped
            means = dict(zip(names, torch.stack(metrics).mean(0).tolist(), strict=True))
        explained = 1 - (target - rollout.value).var() / target.var().clamp(min=1e-12)
        shown = {"explained_variance": float(explained), "learning_rate": scale * o.learning_rate}
        return {**means, **shown, **self.guard.shown()}

    def _loss(
        self,
        rollout: Rollout,
        advantage: torch.Tensor,
        target: torch.Tensor,
        rows: torch.Tensor,
        entropy_coef: float,
    ) -> tuple[torch.Tensor, list[torch.Tensor]]:
        o = self.options
        obs = map_obs(lambda x: x[rows], rollout.obs)
        action, first = rollout.action[rows], rollout.first[rows]
        parameters, value, _ = self.policy.unroll(obs, action, select_rows(rollout.state, rows), first)
        log_ratio = self.policy.head.log_prob(parameters, action) - rollout.log_prob[rows]
        if o.normalize_advantage:
            advantage = standardise(advantage, o.advantage_floor)
        policy_loss = clipped_surrogate(log_ratio, advantage, o.clip)
        values = value_loss(value, target)
        entropy = self.policy.head.entropy(parameters).mean()
        loss = policy_loss + o.value_coef * values + o.kl_coef * approximate_kl(log_ratio) - entropy_coef * entropy
        with torch.no_grad():
            clipped = ((log_ratio.exp() - 1).abs() > o.clip).float().mean()
            measured = [policy_loss, values, entropy, approximate_kl(log_ratio), clipped]
        return loss, [m.detach() for m in measured]

    @torch.no_grad()
    def _check_ratio(self, rollout: Rollout) -> None:
        """Acting and learning must compute the same policy; if not, every update is wrong in a way that no curve shows."""
        learning = self.policy.training
        self.policy.eval()  # acting never drops, learning may
        parameters, _, _ = self.policy.unroll(rollout.obs, rollout.action, rollout.state, rollout.first)
        self.policy.train(learning)
        log_ratio = self.policy.head.log_prob(parameters, rollout.action) - rollout.log_prob
        worst = float((log_ratio.abs() / rollout.log_prob.abs().clamp(min=1)).max())
        if not worst <= RATIO_TOLERANCE:
            raise RuntimeError(
                f"before the first update the log-probabilities of `unroll` differ from those of `step` by {worst:.1e}; "
                f"allowed is {RATIO_TOLERANCE:.0e}. The backbone's two doors disagree: run tests/contract/test_backbones.py on it"
            )


class Online:
    """Plays, then learns from what was played: what `train` runs for algo=ppo."""

    def __init__(self, run: config.Train, env: TorchVectorEnv, policy: ActorCritic) -> None:
        self.policy, self.ppo = policy, PPO(policy, run.algo)
        acting = rng.generator(run.seed, "act", env.device)
        self.collector = Collector(env, policy, rng.seed(run.seed, "env"), acting)
        self.shuffle = rng.generator(run.seed, "shuffle", env.device)
        self.dropout = rng.generator(run.seed, "dropout", env.device)
        self.recent = Recent()
        #: Whether a resumed run ends in the same bits.
        self.exact = self.collector.state_dict()["env"] is not None

    def learn(self, progress: float) -> tuple[int, dict[str, float | None], dict[str, float | None]]:
        """A rollout and an update, when `progress` (0..1) of the run is over: its steps, what to keep, what to show."""
        guard = self.ppo.guard
        rollout, episodes = self.collector.collect(self.ppo.options.rollout, keep_on=guard.allowed > 0)
        if self.collector.wrong is None:
            with rng.as_global(self.dropout):
                row = self.ppo.update(rollout, progress, self.shuffle)
        else:
            guard.stop_or_skip(self.collector.wrong)
            row = guard.shown()
        self.recent.add(episodes)
        means = self.recent.means()
        return rollout.reward.numel(), {**row, **means}, {key: means[key] for key in ("success", "return")}

    def state_dict(self) -> dict[str, Any]:
        return {
            "policy": self.ppo.policy.state_dict(),
            "optimizer": optimizer_state(self.ppo.optimizer),
            "updates": self.ppo.updates,
            "deviation": None if self.ppo.deviation is None else self.ppo.deviation.state_dict(),
            "guard": self.ppo.guard.state_dict(),
            "collector": self.collector.state_dict(),
            "shuffle": self.shuffle.get_state(),
            "dropout": self.dropout.get_state(),
            "recent": self.recent.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.ppo.policy.load_state_dict(state["policy"])
        load_optimizer_state(self.ppo.optimizer, state["optimizer"])
        self.ppo.updates = int(state["updates"])
        if self.ppo.deviation is not None:
            self.ppo.deviation.load_state_dict(state["deviation"])
        self.ppo.guard.load_state_dict(state["guard"])
        self.collector.load_state_dict(state["collector"])
        self.shuffle.set_state(state["shuffle"])
        self.dropout.set_state(state["dropout"])
        self.recent.load_state_dict(state["recent"])

    def finish(self) -> dict[str, float]:
        """Nothing to choose: the last weights are the policy."""
        return {}
