"""The environment contract: batched torch environments that are `gymnasium.vector.VectorEnv`s.

What every environment of this package promises, and `tests/contract/test_envs.py` checks over the registry:

- Observations, rewards and flags are torch tensors on one device, batch on axis 0.
- Autoreset is SAME_STEP: the step that ends an episode returns the first observation of the next one, and the last
  observation of the ended one stands in `info["final_obs"]`.
- Row i is seeded with `seed + i` and does not depend on the number of rows.
- `state_dict` / `load_state_dict` continue to the same bits.
- `floor` and `ceiling` are the best scores without memory and with perfect memory; `measure` says what is scored.

This file is not for wrapping foreign environments; that is `gym_adapter.py`.
"""

from __future__ import annotations

from typing import Any, Literal

import gymnasium
import torch
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space

from rmt_rl.common.errors import ConfigError

Obs = torch.Tensor | dict[str, torch.Tensor]


class TorchVectorEnv(VectorEnv):
    """A batch of environments whose whole state is a few torch tensors.

    A subclass sets `single_observation_space` and `single_action_space`, calls this constructor, and implements
    `reset`, `step`, `state_dict` and `load_state_dict`.

    `step` returns (obs, reward [B], terminated [B], truncated [B], info) with
        info["final_obs"]: like obs, the observation before the autoreset; equal to obs in rows whose episode goes on
        info["_final_obs"]: [B] bool, which rows ended an episode at this step
        info["success"]: [B] bool, ended and reached the goal; only where `measure` is "success"
        info["episode_over"], info["episode_success"]: [B] bool, where one episode is a trial of several: those inside
    Tensors that are handed out are never written to again.
    """

    metadata: dict[str, Any] = {  # noqa: RUF012  gymnasium declares it so
        "autoreset_mode": AutoresetMode.SAME_STEP,
        "render_modes": [],
    }

    #: What floor and ceiling are about: the rate of "success", or the mean "return".
    measure: Literal["success", "return"] = "success"
    #: Score of the best policy without memory, or None where it is not known.
    floor: float | None = None
    #: Score of the best policy with perfect memory, or None where it is not known.
    ceiling: float | None = None
    #: Whether the last reward tells what the observation does not: `floor` does not hold for an agent that is shown it.
    rewards_tell: bool = False
    #: The same of the sum of all rewards since the episode began.
    returns_tell: bool = False
    #: One line for people: what has to be remembered, and for how long.
    task: str = ""
    #: The actions in words, for pictures; empty = their numbers.
    action_names: tuple[str, ...] = ()

    def __init__(
        self,
        num_envs: int,
        device: str | torch.device,
        single_observation_space: gymnasium.Space[Any],
        single_action_space: gymnasium.Space[Any],
    ) -> None:
        if num_envs < 1:
            raise ValueError(f"num_envs is {num_envs}; it must be at least 1")
        self.num_envs = num_envs
        self.device = torch.device(device)
        self.single_observation_space = single_observation_space
        self.single_action_space = single_action_space
        self.observation_space = batch_space(single_observation_space, num_envs)
        self.action_space = batch_space(single_action_space, num_envs)

    def oracle(self) -> torch.Tensor:
        """[B] what to do now for somebody who knows what is hidden: who always does it reaches the ceiling.

        Raises ConfigError where a task has no such rule.
        """
        raise ConfigError(
            f"{self.task or type(self).__name__}: has no oracle; learn from recorded episodes (data=), or record policy=random"
            " or a trained policy"
        )

    def in_words(self, row: int) -> str:
        """What a picture says of a row, the hidden things included; "" = nothing but what the agent sees."""
        return ""

    def state_dict(self) -> dict[str, Any]:
        """All that decides the future of every row: tensors, and values that JSON can hold."""
        raise NotImplementedError(f"{type(self).__name__} does not say what its state is")

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue exactly where `state_dict` was taken; the number of rows must be the same."""
        raise NotImplementedError(f"{type(self).__name__} does not say how its state is restored")

    def _read_action(self, action_B: Any, num_actions: int) -> torch.Tensor:
        """The actions as a tensor; numpy's are taken too, which is what `action_space.sample()` gives."""
        try:
            action_B = torch.as_tensor(action_B, device=self.device)
        except (TypeError, RuntimeError, ValueError) as error:  # what torch raises for text, None and ragged lists
            why = " ".join(str(error).split())
            raise ValueError(f"action cannot be read ({why}); expected {self.num_envs} whole numbers") from error
        if action_B.is_floating_point() or action_B.is_complex() or action_B.dtype == torch.bool:
            raise ValueError(f"action has dtype {action_B.dtype}; expected whole numbers")
        action_B = action_B.long()  # some dtypes have no minimum, and uint8 would pick rows as a mask
        # Only on the CPU: on a GPU reading the maximum would wait for the device at every step.
        if action_B.shape != (self.num_envs,):
            raise ValueError(f"action has shape {tuple(action_B.shape)}; expected ({self.num_envs},)")
        if action_B.device.type == "cpu":
            lowest, highest = torch.aminmax(action_B)
            if lowest.item() < 0 or highest.item() >= num_actions:
                raise ValueError(f"action {action_B.tolist()[:8]} is outside 0..{num_actions - 1}")
        return action_B


def row_seeds(seed: int | list[int] | None, num_envs: int) -> list[int]:
    """The seed of each row, by gymnasium's rule: an int means seed, seed+1, ...; None draws from the system."""
    if seed is None:
        return torch.randint(0, 2**62, (num_envs,), generator=_system_generator()).tolist()
    if isinstance(seed, int):
        return [seed + i for i in range(num_envs)]
    if len(seed) != num_envs:
        raise ValueError(f"{len(seed)} seeds were given for {num_envs} rows; give one int or a list of {num_envs}")
    return list(seed)


def _system_generator() -> torch.Generator:
    # A generator of its own, so that an unseeded reset does not move the caller's global torch stream.
    generator = torch.Generator()
    generator.seed()
    return generator
