"""Plays new episodes with a saved policy: `python -m rmt_rl.evaluate policy=<folder> [env=… episodes=… env.length=…]`."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rmt_rl.common.errors import ConfigError
from rmt_rl.common.process import CallableModule, configure_process
from rmt_rl.config.commands import EvaluateConfig, metric_names, metrics_problems
from rmt_rl.config.files import to_dict

if TYPE_CHECKING:
    import torch

    from rmt_rl.policies.actor_critic import ActorCritic
    from rmt_rl.rollouts.statistics import Score


def evaluate(
    policy: ActorCritic | str | Path,
    env: Any = None,
    episodes: int = 400,
    *,
    seed: int = 0,
    deterministic: bool = True,
    num_envs: int = 64,
    target_return: float | None = None,
    episode_steps: int | None = None,
    device: str | torch.device | None = None,
    trust: bool = False,
    metrics: str | None = None,
    **given: Any,
) -> Score:
    """The score of a policy on new episodes.

        rmt_rl.evaluate("runs/tmaze-rmt-ppo-s0", episodes=100, **{"env.length": 10_000})

    policy: a policy, or the folder of one, or zoo:<name>. env: None = the task that it was trained on; or a name, a dictionary of
    its options, a dataclass of rmt_rl.config, an environment, or a class or function that makes one. num_envs: episodes played at
    the same time. device: None = where the policy is, the CPU for a folder. episode_steps: steps after which an episode is cut;
    None = 5,000 where it may never end. trust: the files of the policy may name a module to import. metrics: numbers in the last
    infos of episodes to average, such as "distance,collisions". episodes: at most; fewer where the task has only a few different
    ones (`distinct_episodes`) and a deterministic policy has played them all: the score is exact then. given: options of the
    task, such as "env.length".
    Raises ConfigError where an argument is not allowed, or where the policy cannot act in the environment.
    """
    from rmt_rl.config.fields import options, read
    from rmt_rl.envs.objects import close_unless_borrowed
    from rmt_rl.policies.actor_critic import ActorCritic
    from rmt_rl.policies.saving import chosen_task, load_policy, make_task
    from rmt_rl.rollouts.episodes import evaluate as play

    arguments = {"episodes": episodes, "seed": seed, "num_envs": num_envs, "deterministic": deterministic}
    known = options(EvaluateConfig)
    episodes, seed, num_envs, deterministic = (read(name, known[name], value) for name, value in arguments.items())
    episode_steps = read("episode_steps", known["episode_steps"], episode_steps)
    metrics = read("metrics", known["metrics"], metrics)
    for problem in metrics_problems(metrics):
        raise ConfigError(problem)
    if not isinstance(policy, ActorCritic):
        policy = load_policy(policy, device or "cpu", trust=trust)
    task = chosen_task(policy, env, given)
    batch = make_task(policy, task, min(num_envs, episodes), device or policy.device, target_return)
    try:
        how: dict[str, Any] = {"metrics": metric_names(metrics), "count": deterministic}
        return play(policy, batch, episodes, seed, deterministic, episode_steps, **how)
    finally:
        close_unless_borrowed(task, batch)


def main(argv: Sequence[str] | None = None) -> int:
    """The exit status of the command."""
    from rmt_rl.config.cli import run

    return run(command, argv)


def command(argv: list[str]) -> int:
    from rmt_rl.config.cli import gives_id, parse_evaluate, resolve_env
    from rmt_rl.config.help import help_text, wants_help

    if wants_help(argv):
        print(help_text(EvaluateConfig, argv))
        return 0
    options = parse_evaluate(argv)
    from rmt_rl.common.device import choose_device
    from rmt_rl.envs.base import close_env
    from rmt_rl.policies.saving import env_config, load_policy, make_task, policy_folder
    from rmt_rl.policies.zoo import in_zoo
    from rmt_rl.rollouts.episodes import evaluate as play
    from rmt_rl.rollouts.statistics import format_score

    folder = policy_folder(options.policy)
    configure_process(options.threads)
    device = choose_device(options.device)
    policy = load_policy(folder, device, trust=options.trust)
    trained = None if options.env else env_config(policy, typed=gives_id(options.env_overrides))
    task = resolve_env(trained, options.env, options.env_overrides)
    env = make_task(policy, task, options.num_envs, device, options.target_return)
    begin, cpu = time.monotonic(), time.process_time()
    print(env.task or f"task: {task}", flush=True)
    try:
        score = play(
            policy,
            env,
            options.episodes,
            options.seed,
            options.deterministic,
            options.episode_steps,
            metrics=metric_names(options.metrics),
            count=options.deterministic,
        )
    except KeyboardInterrupt:
        print("stopped; no score was computed", file=sys.stderr)
        return 130
    print(format_score(score, env))
    result = {
        "policy": options.policy if in_zoo(options.policy) else str(folder),
        "env": to_dict(task),
        "seed": options.seed,
        "deterministic": options.deterministic,
        "target_return": getattr(env, "target", None),
        "eval": score.to_json(),
        "floor": env.floor,
        "ceiling": env.ceiling,
        "wall_s": round(time.monotonic() - begin, 2),
        "cpu_s": round(time.process_time() - cpu, 2),
    }
    print(json.dumps(result))
    close_env(env)
    return 0


if __name__ == "__main__":
    sys.exit(main())
else:
    sys.modules[__name__].__class__ = CallableModule
