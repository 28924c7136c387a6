"""Vector to action distribution. Chosen from the action space.

A head turns vectors into *parameters* of a distribution (one tensor) and has four pure functions of them: `sample`, `mode`,
`log_prob`, `entropy`. Torch's own distributions are not used because they draw from the global random stream.

`noise_size` real numbers of an action are mean + deviation * noise; `sample` draws this noise, [..., noise_size] standard normal
numbers, unless it is given.
"""

from __future__ import annotations

import math
from typing import Any

import gymnasium
import numpy as np
import torch
from gymnasium import spaces
from torch import nn

from rmt_rl.common import rng
from rmt_rl.common.errors import ConfigError
from rmt_rl.envs.actions import MixedActions
from rmt_rl.policies.moments import ActionScale

#: Bounds of a Box that are farther away than this stand for "any number".
FAR = 1e6


def make_head(space: gymnasium.Space[Any], width: int, masked: bool = False, scale: ActionScale | None = None) -> Head:
    """The head for an action space: Discrete, MultiDiscrete, Box or `MixedActions`.

    masked: observations have an action mask. scale: the units of elements of a Box without bounds.
    """
    if isinstance(space, MixedActions):
        return MixedHead(space, width, masked, scale)
    if isinstance(space, spaces.Discrete):
        return CategoricalHead([int(space.n)], (), width, masked)
    if isinstance(space, spaces.MultiDiscrete):
        return CategoricalHead([int(n) for n in space.nvec.flatten()], space.shape, width, masked)
    if isinstance(space, spaces.Box) and np.issubdtype(space.dtype, np.floating):
        return GaussianHead(space, width, scale)
    raise ConfigError(
        f"action space {space} is not supported; supported are Discrete, MultiDiscrete and Box of floats, and with env=gym also"
        " MultiBinary, Box of whole numbers, Tuple and Dict"
    )


def lacks_bounds(space: gymnasium.Space[Any]) -> bool:
    """Whether the space is a Box that has elements without bounds, of which nobody knows how large they are."""
    if not isinstance(space, spaces.Box):
        return False
    space = space.reals if isinstance(space, MixedActions) else space
    ends = np.stack([space.low, space.high]).astype(np.float64)
    return not bool((np.abs(ends) <= FAR).all() and (ends[0] < ends[1]).all())


class CategoricalHead(nn.Module):
    """One independent choice for each component. Actions: int64 [..., *shape]; parameters: logits [..., sum(sizes)].

    inputs: numbers of `one_hot`. masked: `mask` is applied to the logits before anything else.
    """

    action_dtype = torch.int64
    noise_size = 0

    def __init__(self, sizes: list[int], shape: tuple[int, ...], width: int, masked: bool = False) -> None:
        super().__init__()
        self.sizes, self.shape, self.inputs, self.masked = sizes, shape, sum(sizes), masked
        self.linear = nn.Linear(width, sum(sizes))
        _start_small(self.linear)

    def forward(self, y: torch.Tensor) -> torch.Tensor:
        return self.linear(y)

    def mask(self, logits: torch.Tensor, allowed: torch.Tensor) -> torch.Tensor:
        """Logits whose distribution gives probability 0 to what is not allowed; its gradients are finite.

        The lowest finite number instead of -inf: 0 * -inf in the entropy would be NaN. exp() of it is 0 as well.
        """
        return torch.where(allowed.reshape(logits.shape) != 0, logits, _lowest(logits))

    def sample(self, logits: torch.Tensor, generator: rng.Stream, noise: torch.Tensor | None = None) -> torch.Tensor:
        """noise: none of it is needed; every head accepts it."""
        # the largest of p / Exp(1) is a draw from p, and takes one pass on any device
        waiting = rng.exponential(logits, generator)
        if self.masked:  # exactly 0 would choose an action that is not allowed
            waiting = waiting.clamp(min=torch.finfo(waiting.dtype).tiny)
        return self._best(logits - waiting.log())

    def mode(self, logits: torch.Tensor) -> torch.Tensor:
        return self._best(logits)

    def clip(self, action: torch.Tensor) -> torch.Tensor:
        """The action itself: every choice is one of the space."""
        return action

    def log_prob(self, logits: torch.Tensor, action: torch.Tensor) -> torch.Tensor:
        parts = zip(self._split(logits), self._components(action), strict=True)
        return torch.stack([p.log_softmax(-1).gather(-1, a).squeeze(-1) for p, a in parts]).sum(0)

    def imitation_loss(self, logits: torch.Tensor, action: torch.Tensor) -> torch.Tensor:
        """[...] cross-entropy."""
        return -self.log_prob(logits, action)

    def entropy(self, logits: torch.Tensor) -> torch.Tensor:
        logs = [p.log_softmax(-1) for p in self._split(logits)]
        return torch.stack([-(log.exp() * log).sum(-1) for log in logs]).sum(0)

    def kl_from_uniform(self, logits: torch.Tensor) -> torch.Tensor:
        """[...] KL(uniform || policy), summed over the components: -log n - mean of log p, over the n allowed choices."""
        if self.masked:
            return torch.stack([_kl_from_uniform_allowed(part) for part in self._split(logits)]).sum(0)
        return torch.stack(
            [-math.log(n) - p.log_softmax(-1).mean(-1) for n, p in zip(self.sizes, self._split(logits), strict=True)]
        ).sum(0)

    def one_hot(self, action: torch.Tensor) -> torch.Tensor:
        """[..., sum(sizes)], what the network sees of its previous action."""
        parts = zip(self._components(action), self.sizes, strict=True)
        hot = [nn.functional.one_hot(a.squeeze(-1), n) for a, n in parts]
        return torch.cat(hot, dim=-1).to(self.linear.weight.dtype)

    def ends(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Lowest and highest number of every element of an action."""
        high = torch.tensor(self.sizes, device=self.linear.weight.device).view(self.shape) - 1
        return torch.zeros_like(high), high

    def _split(self, logits: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return logits.split(self.sizes, dim=-1)

    def _components(self, action: torch.Tensor) -> tuple[torch.Tensor, ...]:
        leading = action.shape[: action.dim() - len(self.shape)]
        return action.reshape(*leading, len(self.sizes)).split(1, dim=-1)

    def _best(self, scores: torch.Tensor) -> torch.Tensor:
        best = torch.stack([p.argmax(-1) for p in self._split(scores)], dim=-1)
        return best.view(*best.shape[:-1], *self.shape)


class GaussianHead(nn.Module):
    """Independent normal distributions with a learned deviation that does not depend on the state.

    Actions: float [..., *shape], not bounded; the environment clips them to its bounds. Parameters:
    mean and log deviation side by side, [..., 2 * size].

    Where an element of the space has bounds, the network counts from their middle in units of half their distance: a task whose
    actions are between -1000 and 1000 is learned as the same one between -1 and 1. At the start the mean is the middle and
    the deviation one such unit, or 0 and 1 without bounds. Bounds beyond `FAR` count as none.
    scale: mean and deviation of recorded actions, which take the place of 0 and 1 in elements without bounds.
    """

    action_dtype = torch.float32
    middle: torch.Tensor
    unit: torch.Tensor
    low: torch.Tensor
    high: torch.Tensor

    def __init__(self, space: spaces.Box, width: int, scale: ActionScale | None = None) -> None:
        super().__init__()
        self.shape, self.size = space.shape, math.prod(space.shape)
        self.inputs = self.noise_size = self.size
        self.linear = nn.Linear(width, self.size)
        self.log_deviation = nn.Parameter(torch.zeros(self.size))
        _start_small(self.linear)
        low, high = (torch.as_tensor(bound, dtype=torch.float64).flatten() for bound in (space.low, space.high))
        bounded = (low.abs() <= FAR) & (high.abs() <= FAR) & (low < high)
        # from the space, because a network without numbers (torch's meta device) has no values
        self.bounded = not lacks_bounds(space)
        scale = scale or ActionScale((0.0,) * self.size, (1.0,) * self.size)
        mean, deviation = (torch.tensor(numbers, dtype=torch.float64) for numbers in (scale.mean, scale.deviation))
        middle, unit = torch.where(bounded, (low + high) / 2, mean), torch.where(bounded, (high - low) / 2, deviation)
        for name, buffer in {"middle": middle, "unit": unit, "low": low, "high": high}.items():
            self.register_buffer(name, buffer.to(torch.get_default_dtype()), persistent=False)

    def forward(self, y: torch.Tensor) -> torch.Tensor:
        mean = self.middle + self.unit * self.linear(y)
        return torch.cat([mean, (self.log_deviation + self.unit.log()).expand_as(mean)], dim=-1)

    def sample(
        self, parameters: torch.Tensor, generator: rng.Stream, noise: torch.Tensor | None = None
    ) -> torch.Tensor:
        mean, log_deviation = parameters.chunk(2, dim=-1)
        noise = rng.normal(mean, generator) if noise is None else noise
        return self._shaped(mean + log_deviation.exp() * noise)

    def mode(self, parameters: torch.Tensor) -> torch.Tensor:
        return self._shaped(parameters[..., : self.size])

    def clip(self, action: torch.Tensor) -> torch.Tensor:
        """The action inside its bounds, which is what an environment of this package makes of it."""
        flat = action.reshape(*action.shape[: action.dim() - len(self.shape)], self.size)
        return self._shaped(flat.clamp(self.low, self.high))

    def log_prob(self, parameters: torch.Tensor, action: torch.Tensor) -> torch.Tensor:
        mean, log_deviation = parameters.chunk(2, dim=-1)
        z = (action.reshape(mean.shape) - mean) / log_deviation.exp()
        return -(0.5 * z.square() + log_deviation + 0.5 * math.log(2 * math.pi)).sum(-1)

    def imitation_loss(self, parameters: torch.Tensor, action: torch.Tensor) -> torch.Tensor:
        """[...] squared error of the mean, as in RATE, in the network's units.

        A learned deviation would shrink to nothing on an expert's actions.
        """
        error = parameters[..., : self.size] - action.reshape(*parameters.shape[:-1], self.size)
        return (error / self.unit).square().mean(-1)

    def entropy(self, parameters: torch.Tensor) -> torch.Tensor:
        return (parameters[..., self.size :] + 0.5 * math.log(2 * math.pi * math.e)).sum(-1)

    def kl_from_uniform(self, parameters: torch.Tensor) -> torch.Tensor:
        """[...] KL(uniform between the bounds || policy), summed over the elements.

        With mean m and deviation s in the network's units, where the bounds are -1 and 1 and a uniform number has the square
        1/3 on average: -log 2 + log s + log(2 pi) / 2 + (1/3 + m^2) / (2 s^2). Raises ConfigError without bounds.
        """
        if not self.bounded:
            raise ConfigError(
                "a distribution that is uniform between the bounds needs bounds, and the action space has elements without"
            )
        mean, log_deviation = parameters.chunk(2, dim=-1)
        m, log_s = (mean - self.middle) / self.unit, log_deviation - self.unit.log()
        return (0.5 * math.log(math.pi / 2) + log_s + (1 / 3 + m.square()) / (2 * (2 * log_s).exp())).sum(-1)

    def one_hot(self, action: torch.Tensor) -> torch.Tensor:
        """[..., size], what the network sees of its previous action: what the environment took of it, in the network's units."""
        flat = action.reshape(*action.shape[: action.dim() - len(self.shape)], self.size)
        return (flat.clamp(self.low, self.high) - self.middle) / self.unit

    def ends(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Lowest and highest number of every element of an action: an action that is sampled may leave the bounds."""
        high = torch.full(self.shape, math.inf, device=self.low.device)
        return -high, high

    def _shaped(self, flat: torch.Tensor) -> torch.Tensor:
        return flat.reshape(*flat.shape[:-1], *self.shape)


class MixedHead(nn.Module):
    """Choices and real numbers, all independent of each other: log-probabilities, entropies and divergences add up.

    Actions: float32 [..., k + r], the choices first, as in `MixedActions`. Parameters: logits, then means and log deviations.
    """

    action_dtype = torch.float32

    def __init__(self, space: MixedActions, width: int, masked: bool = False, scale: ActionScale | None = None) -> None:
        super().__init__()
        self.shape, self.count, self.logits = space.shape, len(space.sizes), sum(space.sizes)
        self.choices = CategoricalHead(space.sizes, (self.count,), width, masked)
        self.reals = GaussianHead(space.reals, width, scale and scale.of_last(len(space.low) - self.count))
        self.inputs, self.bounded = self.choices.inputs + self.reals.inputs, self.reals.bounded
        self.noise_size = self.reals.noise_size

    def forward(self, y: torch.Tensor) -> torch.Tensor:
        return torch.cat([self.choices(y), self.reals(y)], dim=-1)

    def mask(self, parameters: torch.Tensor, allowed: torch.Tensor) -> torch.Tensor:
        """Parameters with the mask of the choices."""
        logits, reals = self._logits_and_reals(parameters)
        return torch.cat([self.choices.mask(logits, allowed), reals], dim=-1)

    def sample(
        self, parameters: torch.Tensor, generator: rng.Stream, noise: torch.Tensor | None = None
    ) -> torch.Tensor:
        logits, reals = self._logits_and_reals(parameters)
        return self._joined(self.choices.sample(logits, generator), self.reals.sample(reals, generator, noise))

    def mode(self, parameters: torch.Tensor) -> torch.Tensor:
        logits, reals = self._logits_and_reals(parameters)
        return self._joined(self.choices.mode(logits), self.reals.mode(reals))

    def clip(self, action: torch.Tensor) -> torch.Tensor:
        choices, reals = self._actions(action)
        return self._joined(choices, self.reals.clip(reals))

    def log_prob(self, parameters: torch.Tensor, action: torch.Tensor) -> torch.Tensor:
        (logits, reals), (a, x) = self._logits_and_reals(parameters), self._actions(action)
        return self.choices.log_prob(logits, a) + self.reals.log_prob(reals, x)

    def imitation_loss(self, parameters: torch.Tensor, action: torch.Tensor) -> torch.Tensor:
        """[...] the sum of both losses."""
        (logits, reals), (a, x) = self._logits_and_reals(parameters), self._actions(action)
        return self.choices.imitation_loss(logits, a) + self.reals.imitation_loss(reals, x)

    def entropy(self, parameters: torch.Tensor) -> torch.Tensor:
        logits, reals = self._logits_and_reals(parameters)
        return self.choices.entropy(logits) + self.reals.entropy(reals)

    def kl_from_uniform(self, parameters: torch.Tensor) -> torch.Tensor:
        """[...] the sum of both divergences; raises ConfigError where a real number has no bounds."""
        logits, reals = self._logits_and_reals(parameters)
        return self.choices.kl_from_uniform(logits) + self.reals.kl_from_uniform(reals)

    def one_hot(self, action: torch.Tensor) -> torch.Tensor:
        """[..., inputs], what the network sees of its previous action."""
        choices, reals = self._actions(action)
        return torch.cat([self.choices.one_hot(choices), self.reals.one_hot(reals)], dim=-1)

    def ends(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Lowest and highest number of every element of an action."""
        (low, high), (least, most) = self.choices.ends(), self.reals.ends()
        return torch.cat([low.to(least), least]), torch.cat([high.to(most), most])

    def _logits_and_reals(self, parameters: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return parameters[..., : self.logits], parameters[..., self.logits :]

    def _actions(self, action: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return action[..., : self.count].long(), action[..., self.count :]

    def _joined(self, choices: torch.Tensor, reals: torch.Tensor) -> torch.Tensor:
        return torch.cat([choices.to(reals.dtype), reals], dim=-1)


Head = CategoricalHead | GaussianHead | MixedHead


def _lowest(logits: torch.Tensor) -> float:
    return torch.finfo(logits.dtype).min


def _kl_from_uniform_allowed(logits: torch.Tensor) -> torch.Tensor:
    """[...] KL(uniform over the allowed choices || policy) of one component whose logits are masked."""
    allowed = logits > _lowest(logits)
    n = allowed.sum(-1).clamp(min=1).to(logits.dtype)
    return -n.log() - torch.where(allowed, logits.log_softmax(-1), 0.0).sum(-1) / n


def _start_small(linear: nn.Linear) -> None:
    # near-equal logits at the start: exploration is even, and no action is favoured by chance
    nn.init.normal_(linear.weight, std=0.01)
    nn.init.zeros_(linear.bias)
