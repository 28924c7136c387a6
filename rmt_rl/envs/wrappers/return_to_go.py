"""A wrapper that adds the return-to-go to the observation, for return-conditioned policies.

Source: Chen et al. 2021, "Decision Transformer" (arXiv 2106.01345).
"""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
import torch

from rmt_rl.common.errors import ConfigError
from rmt_rl.common.state import check_tensor, where_rows
from rmt_rl.config.commands import ReturnConditioning
from rmt_rl.envs.base import Obs, TorchVectorEnv, reset_rows

KEY = "return_to_go"


def with_return(space: gymnasium.Space[Any], returns: ReturnConditioning) -> gymnasium.spaces.Dict:
    """The observation space `space` with the return-to-go added; a space that is not a Dict becomes its key "observation"."""
    entries = dict(space.spaces) if isinstance(space, gymnasium.spaces.Dict) else {"observation": space}
    if KEY in entries:
        raise ConfigError(
            f"algo.returns: adds the key {KEY!r} to the observation, but the task's observation already has it;"
            " use algo.returns=false"
        )
    entries[KEY] = gymnasium.spaces.Box(np.float32(returns.low), np.float32(returns.high), (1,), np.float32)
    return gymnasium.spaces.Dict(entries)


class ReturnToGo(TorchVectorEnv):
    """`env` with the return that the policy should still collect until the end of the episode.

    observation: a dictionary of the observation of `env` (its own keys, or "observation") and "return_to_go" [1] float32:
        `returns.target` minus the rewards since the start of the episode. Everything else is that of `env`.
    floor: that of `env`; None where the previous reward or the sum of the rewards reveals the cue.
    """

    _remaining: torch.Tensor

    def __init__(self, env: TorchVectorEnv, returns: ReturnConditioning) -> None:
        space = with_return(env.single_observation_space, returns)
        super().__init__(env.num_envs, env.device, space, env.single_action_space)
        self.env, self.target, self.episode_steps = env, returns.target, env.episode_steps
        revealed = env.reward_reveals_cue or env.return_reveals_cue
        self.floor, self.ceiling, self.measure = None if revealed else env.floor, env.ceiling, env.measure
        self.action_names, self.distinct_episodes = env.action_names, env.distinct_episodes
        self.render_mode = env.render_mode
        self.action_start, self.own_actions = env.action_start, env.own_actions
        self.task = f"{env.task}; target return {returns.target:.4g}"
        if not returns.low <= returns.target <= returns.high:
            self.task += f", outside the training range {returns.low:.4g} to {returns.high:.4g}"

    def reset(
        self, *, seed: int | list[int] | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Obs, dict[str, Any]]:
        rows = torch.from_numpy(reset_rows(options, self.num_envs)).to(self.device)
        obs, info = self.env.reset(seed=seed, options=options)  # type: ignore[arg-type]  # gymnasium's says int, its code lists too
        start = torch.full((self.num_envs,), self.target, dtype=torch.float64, device=self.device)
        # rows outside options["reset_mask"] go on
        self._remaining = start if bool(rows.all()) else where_rows(rows, start, self._remaining)
        return self._observe(obs, self._remaining), info

    def step(self, action_B: torch.Tensor) -> tuple[Obs, torch.Tensor, torch.Tensor, torch.Tensor, dict[str, Any]]:
        obs, reward, terminated, truncated, info = self.env.step(action_B)
        remaining = self._remaining - reward
        final = self._observe(info["final_obs"], remaining)
        self._remaining = where_rows(terminated | truncated, torch.full_like(remaining, self.target), remaining)
        return self._observe(obs, self._remaining), reward, terminated, truncated, {**info, "final_obs": final}

    def render(self) -> Any:
        return self.env.render()

    def oracle(self) -> torch.Tensor:
        return self.env.oracle()

    def asks(self) -> torch.Tensor:
        return self.env.asks()

    def state_dict(self) -> dict[str, Any]:
        return {"env": self.env.state_dict(), "left": self._remaining}  # "left" since format 1

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.env.load_state_dict(state["env"])
        rows = torch.zeros(self.num_envs, dtype=torch.float64, device=self.device)
        self._remaining = check_tensor("left", state["left"], rows)

    def close_extras(self, **options: Any) -> None:
        self.env.close(**options)

    def without(self, obs: Obs) -> Obs:
        """The part of an observation that `env` itself returned."""
        assert isinstance(obs, dict)
        inner = {key: value for key, value in obs.items() if key != KEY}
        return inner if isinstance(self.env.single_observation_space, gymnasium.spaces.Dict) else inner["observation"]

    def _observe(self, obs: Obs, remaining_B: torch.Tensor) -> Obs:
        inner = obs if isinstance(obs, dict) else {"observation": obs}
        return {**inner, KEY: remaining_B.float()[:, None]}
