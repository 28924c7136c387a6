"""A linear read-out of the hidden variable from the memory: what does the memory know, and since when?

For every step t, new episodes with other seeds are the data: the memory after step t is the input, the value the class.
The read-out is a ridge regression to one-hot classes (solved in its dual form, because memories have more numbers than there are
episodes), and its outputs, clipped at 0 and divided by their sum, count as probabilities. Its accuracy is cross-validated. Each
step has a read-out of its own, so nothing is assumed about how a memory codes a value over time.

Letters: N episodes, T steps, F numbers of a part of the memory, V values of a variable.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch

from rmt_rl.common import rng
from rmt_rl.envs.base import Obs, TorchVectorEnv
from rmt_rl.policies.actor_critic import ActorCritic, PolicyState
from rmt_rl.rollouts.episodes import first_episodes
from rmt_rl.viewing.episode import Episode, hidden_of, memory_parts

#: Penalty of the ridge regression, in units of the mean squared length of the inputs.
RIDGE = 0.1
FOLDS = 8
#: A step that fewer of the episodes reach has no read-out.
FEWEST = 16
#: Variables that are read out; a task may name a thousand.
MOST_VARIABLES = 8


@dataclass(frozen=True)
class ReadOut:
    """The read-out of one variable from one part of the memory along an episode; NaN where a step has none.

    probability: [T, V] of each value, after step t of the episode. accuracy: [T] cross-validated, on the other episodes.
    chance: [T] the share of the most frequent value, the accuracy of a guess.
    """

    probability: np.ndarray
    accuracy: np.ndarray
    chance: np.ndarray


@dataclass(frozen=True)
class Moment:
    """One step of N episodes that are played at the same time.

    obs, state: before the step. hidden: [N] by variable, of that observation. parts: the memory after the step, [N, F] by
    name. running: [N] episodes that have this step. distinct: how many had different observations so far.
    """

    obs: Obs
    state: PolicyState
    hidden: dict[str, torch.Tensor]
    parts: dict[str, torch.Tensor]
    running: torch.Tensor
    distinct: int


@dataclass(frozen=True)
class Probe:
    """readouts[variable][part of the memory]. episodes: played; distinct: with different observations."""

    readouts: dict[str, dict[str, ReadOut]]
    episodes: int
    distinct: int


def probe(
    policy: ActorCritic,
    env: TorchVectorEnv,
    episode: Episode,
    seed: int,
    deterministic: bool,
    on_step: Callable[[int], None] = lambda steps: None,
) -> Probe | None:
    """The read-outs along `episode`, learned from one episode of each row of `env`; None where there is nothing to read.

    env: the task of the episode, with as many rows as there are to be episodes. on_step: is called with the number of steps
    that are read.
    """
    names, parts = list(episode.hidden[0])[:MOST_VARIABLES], list(episode.parts[0])
    if not names or not parts:
        return None
    named = env.names_of_hidden()
    found: dict[str, dict[str, list[np.ndarray]]] = {name: {part: [] for part in parts} for name in names}
    before: dict[str, tuple[torch.Tensor, torch.Tensor, list[np.ndarray]]] = {}
    different = 0
    # one step of all episodes at a time, because the memories of all steps would not fit
    for t, now in enumerate(moments(policy, env, seed, deterministic, len(episode))):
        running = now.running
        if int(running.sum()) < FEWEST:
            break
        different = now.distinct
        classes = torch.stack([now.hidden[name][running] for name in names])
        sizes = [
            len(named.get(name, ()))
            or 1 + max(int(y.max()), episode.hidden[t][name])  # values without names are counted
            for name, y in zip(names, classes, strict=True)
        ]
        for part in parts:
            inputs = torch.cat([now.parts[part][running], episode.parts[t][part][None]])
            last = before.get(part)
            # memory tokens change at writes only
            if last is None or not torch.equal(last[0], inputs) or not torch.equal(last[1], classes):
                last = before[part] = inputs, classes, fit(inputs, classes, sizes)
            for name, result in zip(names, last[2], strict=True):
                found[name][part].append(result)
        on_step(t + 1)
    readouts = {
        name: {part: _read_out(steps, len(episode)) for part, steps in by_part.items()}
        for name, by_part in found.items()
    }
    return Probe(readouts, env.num_envs, different)


def _read_out(steps: list[np.ndarray], length: int) -> ReadOut:
    """The results of `fit` for each step as arrays over `length` steps."""
    values = max((len(step) - 2 for step in steps), default=1)
    table = np.full((length, values + 2), np.nan)
    for t, step in enumerate(steps):
        table[t] = np.concatenate([step[:-2], np.zeros(values + 2 - len(step)), step[-2:]])
    return ReadOut(table[:, :-2], table[:, -2], table[:, -1])


@torch.no_grad()
def moments(policy: ActorCritic, env: TorchVectorEnv, seed: int, deterministic: bool, steps: int) -> Iterator[Moment]:
    """The steps of one episode of each row of `env`, at most `steps`."""
    generator, state = rng.generator(seed, "probe-act", env.device), policy.initial_state(env.num_envs)
    histories = [0] * env.num_envs
    before: tuple[PolicyState, dict[str, torch.Tensor]] = state, {}

    def act(obs: Obs, first: torch.Tensor) -> torch.Tensor:
        nonlocal state, before
        before = state, hidden_of(env)  # of the observation, before the step
        action, state = policy.act(obs, state, first, deterministic, generator)
        return action

    for step in first_episodes(env, act, rng.seed(seed, "probe"), steps):
        columns = [x.reshape(env.num_envs, -1).numpy() for x in _tensors(step.obs)]
        for row in step.running.nonzero().flatten().tolist():
            histories[row] = hash((histories[row], *(x[row].tobytes() for x in columns)))
        parts = memory_parts(policy, state.memory)
        yield Moment(step.obs, *before, parts, step.running, len(set(histories)))


def _tensors(obs: Obs) -> list[torch.Tensor]:
    return list(obs.values()) if isinstance(obs, dict) else [obs]


def fit(inputs: torch.Tensor, classes: torch.Tensor, sizes: list[int]) -> list[np.ndarray]:
    """For each variable [V + 2]: probabilities of its values for the last input, accuracy and chance on the others.

    inputs: [n + 1, F]. classes: [variables, n].
    """
    n = classes.shape[1]
    inputs = inputs.double() - inputs[:n].double().mean(0)
    kernel = inputs @ inputs[:n].T  # [n + 1, n]
    scale = float(kernel[:n].trace()) / n
    targets = torch.cat(
        [torch.nn.functional.one_hot(y, size).double() for y, size in zip(classes, sizes, strict=True)], dim=1
    )
    chances = [float(y.bincount().max()) / n for y in classes]
    if scale < 1e-12:  # the memory is the same in all episodes: only a guess remains
        scores, accuracies = targets.mean(0), chances
    else:
        kernel = kernel / scale
        scores = _predict(kernel[:n], targets, kernel[n:])[0]
        # folds with equal shares of the values of the first variable
        fold = torch.empty(n, dtype=torch.int64)
        fold[classes[0].argsort(stable=True)] = torch.arange(n) % FOLDS
        predicted = torch.empty_like(targets)
        for k in range(FOLDS):
            out, rest = fold == k, fold != k
            predicted[out] = _predict(kernel[:n][rest][:, rest], targets[rest], kernel[:n][out][:, rest])
        pairs = zip(predicted.split(sizes, dim=1), classes, strict=True)
        accuracies = [float((p.argmax(1) == y).double().mean()) for p, y in pairs]
    found = []
    for score, accuracy, chance in zip(scores.split(sizes), accuracies, chances, strict=True):
        share = score.clamp(min=0)
        found.append(np.append((share / share.sum()).numpy(), [accuracy, chance]))
    return found


def _predict(kernel: torch.Tensor, targets: torch.Tensor, to_new: torch.Tensor) -> torch.Tensor:
    """Ridge regression in its dual form, with an intercept: the outputs for new inputs."""
    mean = targets.mean(0)
    ridge = RIDGE * torch.eye(len(kernel), dtype=kernel.dtype)
    return mean + to_new @ torch.linalg.solve(kernel + ridge, targets - mean)
