"""POPGym's cart-poles and pendulums: classic control of which a part of the state is not shown.

Source: popgym 1.0.7 (Morad et al. 2023, arXiv 2303.01859), on top of gymnasium 1.4's CartPole and Pendulum. On a CPU the episodes
of a seed are those of the package to the last bit; rewards of pendulums differ by less than 1e-11. Other devices round sines
differently.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from types import MappingProxyType
from typing import Any

import gymnasium
import numpy as np
import torch

from rmt_rl.envs.episodic import State
from rmt_rl.envs.popgym.drawn import DrawnEnv


class CartPole(DrawnEnv):
    """Keep a pole upright on a cart.

    observation [2] float32: two of the four numbers of the state (cart position, its velocity, pole angle, its velocity).
    actions: 0 push to the left, 1 to the right. reward: 1/length at every step. The episode ends when the cart is 2.4 or the pole
        12 degrees away from the middle, and is truncated after `length` steps: 200, 400 or 600 (easy, medium, hard).
    There is no success. Ceiling 1: the pole stays up. Which floor a policy without memory has is not known.

    places: the numbers that a step shows; a reset shows the position and the angle, in `VelocityOnlyCartPole`, too.
    """

    sizes = MappingProxyType({"easy": 200, "medium": 400, "hard": 600})
    ceiling = 1.0
    action_names = ("left", "right")
    places: tuple[int, int]
    high: tuple[float, float]  # of the observation
    far = 2.4, 12 * 2 * math.pi / 360

    def __init__(self, num_envs: int, device: str | torch.device = "cpu", *, difficulty: str = "easy") -> None:
        self.longest = self.length = self.sizes[difficulty]
        high = np.array(self.high, dtype=np.float32)
        super().__init__(num_envs, device, gymnasium.spaces.Box(-high, high, dtype=np.float32), 2)
        self.task = f"popgym {type(self).__name__}: remember what tells the two numbers that are not shown"

    def _draw(self, generators: Sequence[np.random.Generator], count: int) -> dict[str, np.ndarray]:
        return {"start": np.stack([g.uniform(-0.05, 0.05, size=(count, 4)) for g in generators])}

    def _begin(self, key_B: torch.Tensor) -> State:
        return {"numbers": self._drawn["start"].index_select(0, key_B)}

    def _advance(self, state: State, action_B: torch.Tensor) -> tuple[State, torch.Tensor, torch.Tensor, State]:
        # gymnasium's CartPoleEnv.step, in its order of operations
        x, x_dot, theta, theta_dot = state["numbers"].unbind(1)
        force = torch.where(action_B == 1, 10.0, -10.0).double()
        cos, sin = cosine(theta), sine(theta)
        mass, pole_mass, half = 1.1, 0.1, 0.5
        moment = pole_mass * half
        temp = (force + moment * theta_dot.square() * sin) / mass
        theta_acc = (9.8 * sin - cos * temp) / (half * (4.0 / 3.0 - pole_mass * cos.square() / mass))
        x_acc = temp - moment * theta_acc * cos / mass
        x, x_dot = x + 0.02 * x_dot, x_dot + 0.02 * x_acc
        theta, theta_dot = theta + 0.02 * theta_dot, theta_dot + 0.02 * theta_acc
        fallen = (x.abs() > self.far[0]) | (theta.abs() > self.far[1])
        reward = torch.full_like(x, 1 / self.length)
        return {"numbers": torch.stack([x, x_dot, theta, theta_dot], dim=1)}, reward, fallen, {}

    def _observe(self, state: State) -> torch.Tensor:
        return state["numbers"][:, list(self.places)].float()

    def _in_words(self, state: State) -> str:
        x, _, theta, _ = state["numbers"][0].tolist()
        return f"cart at {x:.2f}, pole at {math.degrees(theta):.1f} degrees"


class PositionOnlyCartPole(CartPole):
    """The position of the cart and the angle of the pole are shown; see `CartPole`."""

    places = 0, 2
    high = 2 * CartPole.far[0], 2 * CartPole.far[1]


class VelocityOnlyCartPole(CartPole):
    """The velocities of cart and pole are shown, after a reset their positions, as in the package; see `CartPole`."""

    places = 1, 3
    high = math.inf, math.inf

    def _observe(self, state: State) -> torch.Tensor:
        start = state["t"] == 0
        return torch.where(start[:, None], state["numbers"][:, ::2], state["numbers"][:, 1::2]).float()


class PositionOnlyPendulum(DrawnEnv):
    """Swing a pendulum up and keep it there.

    observation [2] float32: cosine and sine of its angle, without its velocity. `noise`: the deviation of normal noise on both,
        which are then clipped to [-1, 1].
    actions [1] float32: the torque, clipped to [-2, 2].
    reward: gymnasium's, shifted and scaled to [-1, 1] and divided by `length`.
    Every episode is truncated after `length` steps: 200, 150 or 100 (easy, medium, hard).
    There is no success, and neither floor nor ceiling is known.
    """

    sizes: MappingProxyType[str, Any] = MappingProxyType({"easy": (200, 0.0), "medium": (150, 0.0), "hard": (100, 0.0)})

    def __init__(self, num_envs: int, device: str | torch.device = "cpu", *, difficulty: str = "easy") -> None:
        self.length, self.noise = self.sizes[difficulty]
        self.longest = self.length
        box = gymnasium.spaces.Box
        super().__init__(num_envs, device, box(-1.0, 1.0, (2,), np.float32), box(-2.0, 2.0, (1,), np.float32))
        self.task = f"popgym {type(self).__name__}: remember what tells the velocity of a pendulum"

    def _draw(self, generators: Sequence[np.random.Generator], count: int) -> dict[str, np.ndarray]:
        start = np.empty((len(generators), count, 2))
        noise = np.zeros((len(generators), count, self.length + 1, 2), dtype=np.float32)
        high = np.array([np.pi, 1.0])
        for row, generator in enumerate(generators):
            for episode in range(count):
                start[row, episode] = generator.uniform(-high, high)
                if self.noise:
                    noise[row, episode] = generator.normal(0, self.noise, size=noise.shape[2:])
        return {"start": start, "noise": noise}

    def _begin(self, key_B: torch.Tensor) -> State:
        return {"numbers": self._drawn["start"].index_select(0, key_B)}

    def _read(self, action_B: Any) -> torch.Tensor:
        action = self._as_tensor(action_B, f"{self.num_envs} x 1 real numbers")
        if action.shape != (self.num_envs, 1) or not action.is_floating_point():
            raise ValueError(
                f"action has shape {tuple(action.shape)} and dtype {action.dtype}; expected {(self.num_envs, 1)} real numbers"
            )
        if not bool(action.isfinite().all()):
            raise ValueError("action is not finite")
        return action.float()

    def _advance(self, state: State, action_B: torch.Tensor) -> tuple[State, torch.Tensor, torch.Tensor, State]:
        # gymnasium's PendulumEnv.step, in its order of operations
        angle, velocity = state["numbers"].unbind(1)
        torque = action_B[:, 0].clamp(-2.0, 2.0)
        upright = torch.remainder(angle + math.pi, 2 * math.pi) - math.pi
        costs = upright.square() + 0.1 * velocity.square() + (0.001 * torque.square()).double()
        velocity = (velocity + (15.0 * sine(angle) + (3.0 * torque).double()) * 0.05).clamp(-8.0, 8.0)
        numbers = torch.stack([angle + velocity * 0.05, velocity], dim=1)
        half = 16.2736044 / 2
        return {"numbers": numbers}, (half - costs) / half / self.length, torch.zeros_like(angle, dtype=torch.bool), {}

    def _observe(self, state: State) -> torch.Tensor:
        angle = state["numbers"][:, 0]
        shown = torch.stack([cosine(angle), sine(angle)], dim=1).float()
        if not self.noise:
            return shown
        noise = self._drawn["noise"].view(-1, 2).index_select(0, state["key"] * (self.length + 1) + state["t"])
        return (shown + noise).clamp(-1.0, 1.0)

    def _in_words(self, state: State) -> str:
        return f"{math.degrees(float(state['numbers'][0, 0])) % 360:.0f} degrees from upright"


class NoisyPositionOnlyPendulum(PositionOnlyPendulum):
    """The same with noise of the deviation 0.1, 0.2 or 0.3 (easy, medium, hard), for 200 steps; see `PositionOnlyPendulum`."""

    sizes = MappingProxyType({"easy": (200, 0.1), "medium": (200, 0.2), "hard": (200, 0.3)})


def sine(x: torch.Tensor) -> torch.Tensor:
    """On a CPU numpy's, which rounds one number as it does many; torch's differs in the last bit of some."""
    return torch.from_numpy(np.sin(x.numpy())) if x.device.type == "cpu" else x.sin()


def cosine(x: torch.Tensor) -> torch.Tensor:
    """See `sine`."""
    return torch.from_numpy(np.cos(x.numpy())) if x.device.type == "cpu" else x.cos()
