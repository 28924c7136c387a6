"""Plays whole episodes with frozen weights: `python -m rmt_rl.evaluate policy=<folder> [env=… episodes=… env.length=…]`.

Episode k is the first episode of seed `base + k`, whatever the number of rows, so no short episode is counted twice because
it ended early, and a deterministic policy has the same score with 1 row and with 64.
"""

from __future__ import annotations

import dataclasses
import json
import math
import sys
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from rmt_rl.config import ConfigError, Evaluate

if TYPE_CHECKING:
    import torch

    from rmt_rl.envs.base import TorchVectorEnv
    from rmt_rl.policies.actor_critic import ActorCritic

#: Seconds of silence after which `evaluate` says that it is still playing.
PATIENCE = 20.0


@dataclasses.dataclass(frozen=True)
class Score:
    """What `evaluate` found.

    success: share of the episodes that reached the goal, or None where the environment does not say
    ci95: 95 % interval of success (Wilson), or None
    mean_return, return_ci95: mean of the undiscounted returns and its 95 % interval (normal; None of one episode)
    mean_length: steps of an episode
    episodes: how many were played
    """

    success: float | None
    ci95: tuple[float, float] | None
    mean_return: float
    return_ci95: tuple[float, float] | None
    mean_length: float
    episodes: int

    def to_json(self) -> dict[str, Any]:
        values = dataclasses.asdict(self)
        return {"return": values.pop("mean_return"), **values}


def evaluate(
    policy: ActorCritic, env: TorchVectorEnv, episodes: int, seed: int = 0, deterministic: bool = True
) -> Score:
    """Play `episodes` fresh episodes on the rows of `env` and score them."""
    import torch

    from rmt_rl import rng

    generator = rng.generator(seed, "evaluate-act", env.device)
    base = rng.seed(seed, "evaluate")
    columns: tuple[list[torch.Tensor], ...] = ([], [], [])
    for begin in range(0, episodes, env.num_envs):
        wave = _first_episodes(policy, env, base + begin, generator, deterministic)
        n = min(env.num_envs, episodes - begin)
        for column, values in zip(columns, wave, strict=True):
            column.append(values[:n].cpu())
    return _score(*(torch.cat(column) for column in columns))


def _first_episodes(
    policy: ActorCritic, env: TorchVectorEnv, seed: int, generator: torch.Generator, deterministic: bool
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return, length and success (NaN = not told) of the first episode of every row."""
    import torch

    obs, _ = env.reset(seed=seed)
    state = policy.initial_state(env.num_envs)
    first = torch.ones(env.num_envs, dtype=torch.bool, device=env.device)
    running = first.clone()
    returns = torch.zeros(env.num_envs, dtype=torch.float64, device=env.device)
    lengths, success = torch.zeros_like(returns), torch.full_like(returns, math.nan)
    spoke = time.monotonic()
    while bool(running.any()):
        if time.monotonic() - spoke > PATIENCE:  # episodes may be long, or never end
            spoke = time.monotonic()
            steps = f"{int(lengths.max()):,} steps"
            if bool(running.all()):
                end = "no episode has ended yet; if none can, set a limit (env=gym: 'env.options={max_episode_steps: 1000}')"
            else:
                end = f"{env.num_envs - int(running.sum())} of {env.num_envs} episodes have ended"
            print(f"still playing: {steps}, {end}", flush=True)
        action, state = policy.act(obs, state, first, deterministic, generator)
        obs, reward, terminated, truncated, info = env.step(action)
        first = terminated | truncated
        returns += torch.where(running, reward, 0.0)
        lengths += running
        if "success" in info:
            success = torch.where(running & first, info["success"].double(), success)
        running = running & ~first
    return returns, lengths, success


def _score(returns: torch.Tensor, lengths: torch.Tensor, success: torch.Tensor) -> Score:
    n = len(returns)
    rate, interval = None, None
    if not bool(success.isnan().any()):
        rate = float(success.mean())
        interval = success_interval(round(rate * n), n)
    mean = float(returns.mean())
    half = 1.96 * float(returns.std()) / math.sqrt(n) if n > 1 else None
    return_interval = None if half is None else (mean - half, mean + half)
    return Score(rate, interval, mean, return_interval, float(lengths.mean()), n)


def success_interval(successes: int, episodes: int) -> tuple[float, float]:
    """95 % interval of a success rate (Wilson 1927), from scipy."""
    from scipy.stats import binomtest

    interval = binomtest(successes, episodes).proportion_ci(confidence_level=0.95, method="wilson")
    return float(interval.low), float(interval.high)


def report(score: Score, env: TorchVectorEnv) -> str:
    """One line for people: the score with floor and ceiling beside it."""
    from rmt_rl.envs.scope import MemoryScope

    line = f"return {score.mean_return:.3f}"
    if score.return_ci95 is not None:
        line += f" [{score.return_ci95[0]:.3f}, {score.return_ci95[1]:.3f}]"
    if score.success is not None and score.ci95 is not None:
        line = f"success {score.success:.3f} [{score.ci95[0]:.3f}, {score.ci95[1]:.3f}]  {line}"
    known = [
        f"{name} {value:.3f}" for name, value in (("floor", env.floor), ("ceiling", env.ceiling)) if value is not None
    ]
    beside = f"  ({', '.join(known)})" if known else ""
    word = "trials" if isinstance(env, MemoryScope) and env.episodes != 1 else "episodes"
    return f"{line}  over {score.episodes} {word} of {score.mean_length:.1f} steps{beside}"


def main(argv: Sequence[str] | None = None) -> int:
    from rmt_rl.cli import EVALUATE, help_text, parse_evaluate, resolve_env

    argv = sys.argv[1:] if argv is None else argv
    if {"-h", "--help"} & set(argv):
        print(help_text(EVALUATE, Evaluate))
        return 0
    try:
        options = parse_evaluate(argv)
        from rmt_rl.checkpoint import check_fits, env_config, load_policy, make_task, policy_folder
        from rmt_rl.device import choose_device
        from rmt_rl.train import prepare

        folder = policy_folder(options.policy)
        prepare(options.threads)
        device = choose_device(options.device)
        policy = load_policy(folder, device)
        task = resolve_env(env_config(policy), options.env, options.env_overrides)
        env = make_task(policy, task, options.num_envs, device, options.target_return)
        check_fits(policy, env, task)
    except ConfigError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    begin, cpu = time.monotonic(), time.process_time()
    print(env.task or f"task: {task}", flush=True)
    try:
        score = evaluate(policy, env, options.episodes, options.seed, options.deterministic)
    except KeyboardInterrupt:
        print("stopped; nothing was scored", file=sys.stderr)
        return 130
    print(report(score, env))
    result = {
        "policy": str(folder),
        "env": dataclasses.asdict(task),
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
    env.close()
    return 0


if __name__ == "__main__":
    from rmt_rl.cli import run

    sys.exit(run(main))
