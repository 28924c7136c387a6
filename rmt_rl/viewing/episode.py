"""Records one episode of a policy with everything that it computed.

Letters: T steps of the episode, A actions, L layers, H heads, M memory tokens, C cached steps, S steps of a segment, W writes.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import gymnasium
import numpy as np
import torch

from rmt_rl.common import rng
from rmt_rl.common.errors import ConfigError
from rmt_rl.common.state import Obs, leaves
from rmt_rl.config.fields import show
from rmt_rl.envs.base import TorchVectorEnv
from rmt_rl.envs.observations import ObservationCheck
from rmt_rl.policies.actor_critic import ActorCritic, PolicyState, parts_of
from rmt_rl.policies.memory_update import Gate, HardGate
from rmt_rl.policies.network import memories_in, remembering
from rmt_rl.policies.rmt import RMT
from rmt_rl.rollouts.episodes import require_usable

#: Values of a hidden variable, at most; each has a column in read-outs.
MOST_VALUES = 100_000
#: Names of the parts of a memory.
TOKENS, STEPS, CACHE, HIDDEN = "memory tokens", "segment steps", "cache and steps", "hidden state"
LAYERS = "memory of the layers"


@dataclass(frozen=True)
class Write:
    """One write of the memory, after step `step`.

    change: [M] length of the change of every token, divided by the length of the token before. gate: [M] how far the gate of
    every token was open, on average over its numbers; None where the update has no gate. A memory in the layers counts as one
    token for each layer; its change is 1 where nothing was stored before.
    """

    step: int
    change: np.ndarray
    gate: np.ndarray | None


@dataclass
class Episode:
    """One episode of T steps; lists have an entry for each step, and what is computed at a step stands beside its observation.

    observations, words, actions: as text. action: the numbers of the action. probabilities: [A], for discrete actions.
    values: empty where the critic sees what the environment does not show. attention: read [L, H, M], cache [L, H, C],
    steps [L, H, S] and null [L, H, 0 or 1]. ages: steps before this one. influence: the total variation distance of the
    action probabilities from those without memory. parts: the memory after the step, [F] by name. hidden, shown: of the task.
    success: None where it is not reported, or where the episode was cut.
    """

    observations: list[str] = field(default_factory=list)
    words: list[str] = field(default_factory=list)
    actions: list[str] = field(default_factory=list)
    action: list[np.ndarray] = field(default_factory=list)
    rewards: list[float] = field(default_factory=list)
    probabilities: list[np.ndarray] = field(default_factory=list)
    values: list[float] = field(default_factory=list)
    attention: list[dict[str, np.ndarray]] = field(default_factory=list)
    influence: list[float] = field(default_factory=list)
    parts: list[dict[str, torch.Tensor]] = field(default_factory=list)
    hidden: list[dict[str, int]] = field(default_factory=list)
    shown: list[dict[str, bool]] = field(default_factory=list)
    writes: list[Write] = field(default_factory=list)
    ended: bool = False
    success: bool | None = None

    def __len__(self) -> int:
        return len(self.rewards)


def memory_parts(policy: ActorCritic, memory: Any) -> dict[str, torch.Tensor]:
    """What the actor remembers, [B, F] by name; {} where it remembers nothing.

    memory tokens, memory of the layers: what an RMT carries from segment to segment. segment steps, cache and steps: the keys and
    values of these steps. hidden state: everything that another backbone carries.
    """
    state = memories_in(memory)[0]
    if isinstance(policy.backbone, RMT):
        xl_cache, _, steps = policy.backbone.columns.split(state.cache)
        kept = LAYERS if policy.backbone.by_layer else TOKENS
        tokens = {kept: remembering(state.memory).flatten(1)} if policy.backbone.memory_tokens else {}
        name = CACHE if policy.backbone.cache_steps else STEPS
        return {**tokens, name: torch.cat([xl_cache, steps], dim=2).flatten(1)}
    found = [x.flatten(1) for x in leaves(state).values() if x.is_floating_point() and x.numel()]
    return {HIDDEN: torch.cat(found, dim=1)} if found else {}


def hidden_groups(policy: ActorCritic) -> list[tuple[str, int]]:
    """The names and sizes of what the hidden state consists of, in order."""
    found = leaves(policy.backbone.initial_state(1))
    return [
        (name.removeprefix("state."), x.numel()) for name, x in found.items() if x.is_floating_point() and x.numel()
    ]


def record_episode(
    policy: ActorCritic,
    env: TorchVectorEnv,
    seed: int,
    deterministic: bool,
    steps: int,
    on_step: Callable[[Obs], None],
    describe: tuple[Callable[[Obs], str], Callable[[torch.Tensor], str]],
) -> Episode:
    """The first episode of `env`, one row, after reset(seed=seed), cut after `steps` steps.

    on_step: is called before every step with the observation, to draw it. describe: observations and actions as text.
    Raises RunError where the environment returns numbers that nobody can act on.
    """
    episode, check = Episode(), ObservationCheck(env.single_observation_space, env.single_action_space)
    generator, state = rng.generator(seed, "play-act"), policy.initial_state(1, critic=True)
    obs, _ = env.reset(seed=seed)
    require_usable(check, f"from reset(seed={seed})", obs)
    first = torch.ones(1, dtype=torch.bool)
    for number in range(steps):
        on_step(obs)
        episode.observations.append(describe[0](obs))
        episode.words.append(env_words(env))
        episode.hidden.append({name: int(value[0]) for name, value in hidden_of(env).items()})
        shown = env.shown()  # a task may leave out variables of which it does not know
        episode.shown.append({name: name in shown and bool(shown[name][0]) for name in episode.hidden[-1]})
        action, state = _think(policy, env, obs, state, first, episode, (deterministic, generator))
        episode.actions.append(describe[1](action))
        episode.action.append(action[0].numpy().astype(np.float64).reshape(-1))
        obs, reward, terminated, truncated, info = env.step(action)
        require_usable(check, f"after step {number + 1}", obs, reward, info["final_obs"])
        episode.rewards.append(float(reward[0]))
        first = terminated | truncated
        if bool(first[0]):
            episode.ended = True
            episode.success = bool(info["success"][0]) if "success" in info else None
            break
    return episode


def hidden_of(env: TorchVectorEnv) -> dict[str, torch.Tensor]:
    """[B] int64 by name, what the task hides; raises ConfigError where a task from outside returns something else."""
    hidden = env.hidden()
    if not isinstance(hidden, Mapping):
        raise ConfigError(
            f"{type(env).__name__}.hidden: returned {show(hidden)}; expected a dictionary of tensors by name"
        )
    found = {}
    for name, value in hidden.items():
        what = f"{type(env).__name__}.hidden: {show(name)}"
        expected = (
            f"expected {env.num_envs} whole numbers from 0 to {MOST_VALUES - 1:,}, the number of a value for every row"
        )
        if not isinstance(value, torch.Tensor):
            raise ConfigError(f"{what} is a {type(value).__name__}; {expected}, as a tensor")
        if value.shape != (env.num_envs,) or value.is_floating_point() or value.is_complex():
            raise ConfigError(f"{what} has shape {list(value.shape)} and type {value.dtype}; {expected}")
        found[name] = value.long()
        low, high = int(found[name].min()), int(found[name].max())
        if low < 0 or high >= MOST_VALUES:
            raise ConfigError(f"{what} has the value {low if low < 0 else high}; {expected}")
    return found


def env_words(env: TorchVectorEnv) -> str:
    """`in_words` of the task inside all wrappers."""
    while isinstance(inner := getattr(env, "env", None), TorchVectorEnv):
        env = inner
    return env.in_words(0)


@torch.no_grad()
def _think(
    policy: ActorCritic,
    env: TorchVectorEnv,
    obs: Obs,
    state: PolicyState,
    first: torch.Tensor,
    episode: Episode,
    choice: tuple[bool, torch.Generator],
) -> tuple[torch.Tensor, PolicyState]:
    """The action and the state after it; adds to `episode` what the policy computes on the way."""
    backbone = policy.backbone
    action, _ = policy.act(obs, state, first, *choice)
    with _gates(policy) as gates:
        if _sees_all(policy, env):
            parameters, value, memory = policy.step(obs, state, first)
            episode.values.append(float(value[0]))
        else:
            parameters, memory = policy.act_step(obs, state, first)
    if isinstance(policy.spec.action_space, gymnasium.spaces.Discrete):
        now = parameters.softmax(-1)
        blank = PolicyState(policy.initial_state(1).memory, state.action)
        without = policy.act_step(obs, blank, torch.zeros_like(first))[0].softmax(-1)
        episode.probabilities.append(now[0].numpy())
        # at the first step there is nothing to forget
        episode.influence.append(0.0 if bool(first[0]) else float((now - without).abs().sum() / 2))
    if isinstance(backbone, RMT):
        weights = policy.explain(obs, state, first)
        names = ("read", "cache", "steps", "null")
        episode.attention.append({name: getattr(weights, name)[0].numpy() for name in names})
    parts = memory_parts(policy, memory)
    after = memories_in(memory)[0]
    if isinstance(backbone, RMT) and backbone.memory_tokens and int(after.age[0]) % backbone.segment == 0:
        young = bool(first[0])
        old = (backbone.initial_state(1) if young else memories_in(state.memory)[0]).memory[0]
        old, new = remembering(old[None])[0].flatten(1), remembering(after.memory)[0].flatten(1)
        size, change = old.norm(dim=1), (new - old).norm(dim=1)
        change = torch.where(size > 0, change / size, 1.0)  # a memory in a layer is empty at first
        gate = gates[-1][0].mean(1).numpy() if gates else None
        episode.writes.append(Write(len(episode), change.numpy(), gate))
    episode.parts.append({name: x[0] for name, x in parts.items()})
    return action, PolicyState(memory, action)


def _sees_all(policy: ActorCritic, env: TorchVectorEnv) -> bool:
    """Whether the environment shows everything that the critic sees."""
    return parts_of(policy.spec.observation_space).keys() == parts_of(env.single_observation_space).keys()


@contextlib.contextmanager
def _gates(policy: ActorCritic) -> Iterator[list[torch.Tensor]]:
    """Collects the gates [1, M, D] of the memory updates of the actor, while it is open."""
    found: list[torch.Tensor] = []
    update = policy.backbone.update if isinstance(policy.backbone, RMT) else None
    if not isinstance(update, Gate | HardGate):
        yield found
        return
    hook = update.gate.register_forward_hook(lambda module, inputs, output: found.append(update.opening(output)))
    try:
        yield found
    finally:
        hook.remove()
