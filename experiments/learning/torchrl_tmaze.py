"""Our RMT trained by torchrl: its Collector, GAE and ClipPPOLoss on a T-maze, then our own evaluation.

    pip install 'rmt_rl[torchrl]'
    python experiments/learning/torchrl_tmaze.py
    python experiments/learning/torchrl_tmaze.py --length 6 --steps 60000 --seed 1

The settings are those of `python -m rmt_rl.train env=tmaze`, with two exceptions: the entropy bonus is constant, and
there is no KL penalty, which ClipPPOLoss does not have.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

import torch
from tensordict.nn import TensorDictModule
from torchrl.collectors import Collector
from torchrl.objectives import ClipPPOLoss
from torchrl.objectives.value import GAE

from rmt_rl import config
from rmt_rl.algos.losses import standardise
from rmt_rl.common import rng
from rmt_rl.common.process import configure_process
from rmt_rl.envs.registry import make_from_config
from rmt_rl.policies.actor_critic import ActorCritic
from rmt_rl.policies.spec import make_spec
from rmt_rl.rollouts.episodes import evaluate
from rmt_rl.rollouts.statistics import format_score

sys.path.insert(0, str(Path(__file__).parent.parent))
from common import rmt_of_the_paper

from rmt_rl.torchrl.envs import TorchRLEnv
from rmt_rl.torchrl.policies import TorchRLPolicy


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--length", type=int, default=8)
    parser.add_argument("--steps", type=int, default=110_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--episodes", type=int, default=400, help="new episodes at the end")
    options = parser.parse_args()
    configure_process(threads=1)
    ppo, maze = config.PPOConfig(), config.TMazeConfig(length=options.length)
    torch.manual_seed(rng.seed(options.seed, "torchrl"))  # torchrl draws actions from the global stream

    rows = make_from_config(maze, ppo.num_envs)
    policy = ActorCritic(make_spec(rows, maze, rmt_of_the_paper()))
    module = TorchRLPolicy(policy)
    actor = module.actor()
    # The actor's pass computes the values too; a separate critic would be a second pass through the network.
    critic = TensorDictModule(torch.nn.Identity(), ["state_value"], ["state_value"])
    loss = ClipPPOLoss(
        actor,
        critic,
        clip_epsilon=ppo.clip,
        entropy_coeff=ppo.entropy_coef,
        critic_coeff=ppo.value_coef / 2,  # torchrl's l2 is the whole square
        loss_critic_type="l2",
    )
    gae = GAE(gamma=ppo.gamma, lmbda=ppo.gae_lambda, value_network=module, vectorized=False, deactivate_vmap=True)
    optimizer = torch.optim.AdamW(policy.parameters(), lr=ppo.learning_rate, eps=1e-5, weight_decay=0.0)

    env = TorchRLEnv(rows)
    env.set_seed(rng.seed(options.seed, "env"))
    frames = ppo.num_envs * ppo.rollout
    updates = -(-options.steps // frames)
    collector = Collector(
        env,
        actor,
        frames_per_batch=frames,
        total_frames=updates * frames,
        postproc=module.postproc(gae),
        auto_register_policy_transforms=True,
    )
    begin, cpu = time.monotonic(), time.process_time()
    for update, batch in enumerate(collector):
        for group in optimizer.param_groups:
            group["lr"] = ppo.learning_rate * (1 - update / updates)
        # the loss's own normalize_advantage=True has no lower bound on the deviation, which a T-maze needs (docs/tmaze.md)
        batch["advantage"] = standardise(batch["advantage"], ppo.advantage_floor)
        for _ in range(ppo.epochs):
            for part in torch.randperm(len(batch)).chunk(ppo.minibatch_count()):
                losses = loss(batch[part])
                optimizer.zero_grad()
                (losses["loss_objective"] + losses["loss_critic"] + losses["loss_entropy"]).backward()
                torch.nn.utils.clip_grad_norm_(policy.parameters(), ppo.max_grad_norm)
                optimizer.step()
        if update % 5 == 4 or update + 1 == updates:
            ended = batch["next", "done"]
            success = float(batch["next", "success"][ended].float().mean())
            print(
                f"{(update + 1) * frames:>8,} steps  success {success:.3f}  entropy {float(losses['entropy']):.3f}  "
                f"{time.monotonic() - begin:.0f} s",
                flush=True,
            )
    wall, cpu = time.monotonic() - begin, time.process_time() - cpu
    collector.shutdown()
    print(f"{updates * frames:,} steps in {wall:.0f} s ({cpu:.0f} CPU-s); a batch has {batch.bytes() / 2**20:.2f} MiB")
    test_env = make_from_config(maze, ppo.num_envs)
    print(format_score(evaluate(policy, test_env, options.episodes, options.seed), test_env))


if __name__ == "__main__":
    main()
