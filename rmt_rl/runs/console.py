"""What a run prints before and after training."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

import torch
from torch import nn

from rmt_rl.common.process import command_line
from rmt_rl.config.bases import EnvConfig
from rmt_rl.config.commands import TrainConfig
from rmt_rl.config.envs import NoEnvConfig
from rmt_rl.config.files import as_typed
from rmt_rl.config.memory import MemoryConfig
from rmt_rl.config.policies import MLPConfig
from rmt_rl.config.registry import PLUGINS
from rmt_rl.envs.base import TorchVectorEnv
from rmt_rl.envs.objects import is_object
from rmt_rl.policies.actor_critic import ActorCritic
from rmt_rl.policies.pictures import describe_pictures
from rmt_rl.rollouts.statistics import Score, format_score
from rmt_rl.runs.plots import learning_curve

#: Success below which a run is given advice.
NEARLY_SOLVED = 0.9


def banner(
    config: TrainConfig,
    env: TorchVectorEnv,
    policy: ActorCritic,
    device: torch.device,
    folder: Path,
    data: Any,
    processes: int = 1,
) -> str:
    """A summary of the run: task, floor, policy, memory, training, data, device, folder."""
    parameters = parameters_of(policy)
    threads = f"{config.threads} thread{'s' if config.threads > 1 else ''}"
    lines = [("task", (env.task or f"{config.env}") + default_id(config.env))]
    if env.floor is not None and env.ceiling is not None:
        lines.append(("floor", f"{env.floor:.3f} {env.measure} without memory, {env.ceiling:.3f} with perfect memory"))
    own_rules = policy.spec.rules > 1 and config.policy.encoder == "auto"
    lines += [
        *(("input", text) for text in describe_pictures(env.single_observation_space) if own_rules),
        ("policy", f"{config.policy.name}, width {config.policy.width}, {parameters:,} parameters"),
        *(
            [("critic", f"separate, {parameters_of(policy.critic, policy.value_head):,} of the parameters")]
            if policy.critic
            else []
        ),
        *([("encoder", config.policy.encoder)] if config.policy.encoder != "auto" else []),
        ("memory", policy.backbone.description),
        ("training", f"{config.algo.name}, {config.steps:,} steps, {config.algo.summary()}"),
        *([("data", f"{config.data or 'recorded now from the oracle'}: {data}")] if data is not None else []),
        ("device", f"{device}, {threads}" if processes == 1 else f"{device}, {processes} processes, {threads} each"),
        ("folder", str(folder)),
    ]
    return "\n".join(f"{name:>9}  {text}" for name, text in lines)


def parameters_of(*modules: nn.Module) -> int:
    """The parameters of some modules."""
    return sum(p.numel() for module in modules for p in module.parameters())


def default_id(env: EnvConfig) -> str:
    """What to say beside the task where the id of the environment may not have been chosen; "" otherwise."""
    usual = getattr(type(env), "id", None)
    return " (the default; env.id=<id> chooses another)" if usual is not None and env.id == usual else ""  # type: ignore[attr-defined]


def format_summary(
    folder: Path,
    config: TrainConfig,
    env: TorchVectorEnv,
    final: Score | None,
    best: Score | None,
    best_steps: int,
    interrupted: bool = False,
) -> str:
    """The result, the files that were written, and commands to type next.

    interrupted: a signal ended the run; without it, a run that should have a final score and has none counts as interrupted.
    """
    interrupted = interrupted or (final is None and config.evaluate_episodes > 0)
    without_env = isinstance(config.env, NoEnvConfig)
    if interrupted:
        lines = [f"stopped early; the policy is saved in {folder}"]
    elif final is None:
        why = "env=none has no environment" if without_env else "evaluate_episodes=0"
        lines = [f"not evaluated ({why}); the policy is saved in {folder}"]
        if best_steps:
            lines.append(
                f"the best policy by the evaluations during training, of step {best_steps:,}: {folder / 'best'}"
            )
    else:
        lines = [format_score(final, env)]
        if best is not None:
            lines = [f"final policy: {lines[0]}", f"best policy, of step {best_steps:,}: {format_score(best, env)}"]
        lines += _short_rollout(config, final)
    picture = learning_curve(folder, env.floor, env.ceiling, env.measure)
    if picture is not None:
        lines.append(f"learning curve: {picture}")
    plugins = f" plugins={','.join(PLUGINS)}" if PLUGINS else ""
    train, evaluate = (f"{command_line(f'rmt_rl.{name}')}{plugins}" for name in ("train", "evaluate"))
    lines.append("next:")
    if is_object(config.env):  # no name that could be typed in a shell
        lines.append(f"  rmt_rl.evaluate({str(folder)!r}, env=...)    # in Python, with the same environment")
        return "\n".join(lines)
    if interrupted:
        lines.append(f"  {train} {shlex.quote(f'resume={folder}')}    # continue this run")
    lines += [
        f"  {evaluate} {shlex.quote(f'policy={folder}')}{' env=<a task>' if without_env else ''}",
        f"  {train} {_task(config)} steps={config.steps} policy={'lstm' if config.policy.name == 'rmt' else 'rmt'}"
        "    # the same task with another memory",
    ]
    return "\n".join(lines)


def _short_rollout(config: TrainConfig, final: Score) -> list[str]:
    """A line where a task was not learned and its episodes are longer than what one update looks back."""
    rollout, longest = getattr(config.algo, "rollout", None), int(final.each.lengths.max())
    if isinstance(config.policy, MLPConfig) or rollout is None or final.success is None:
        return []
    if final.success >= NEARLY_SOLVED or longest <= rollout:
        return []
    return [
        f"episodes have up to {longest:,} steps and rollouts {rollout}: gradients reach back over one rollout only;"
        f" if the task needs a longer memory, try algo.rollout={longest}"
    ]


def _task(config: TrainConfig) -> str:
    """The task of the run as it is typed in a shell."""
    # of memory.*, how long it is kept belongs to the task, and what training does with it to the policy
    kept = MemoryConfig(scope=config.memory.scope, episodes=config.memory.episodes)
    words = [shlex.quote(f"env={config.env.name}"), *as_typed("env", config.env), *as_typed("memory", kept)]
    if config.algo.imitates:
        words += [f"algo={config.algo.name}", *([shlex.quote(f"data={config.data}")] if config.data else [])]
    return " ".join(words)
