"""The return that is still to come, shown to a policy that was trained to reach what it is told."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
import torch

from rmt_rl.common.errors import ConfigError
from rmt_rl.common.state import where_rows
from rmt_rl.config.commands import ReturnConditioning
from rmt_rl.envs.base import Obs, TorchVectorEnv

KEY = "return_to_go"


def with_return(space: gymnasium.Space[Any], returns: ReturnConditioning) -> gymnasium.spaces.Dict:
    """The observation space `space` with the return to go beside it; a space that is no Dict becomes "observation"."""
    entries = dict(space.spaces) if isinstance(space, gymnasium.spaces.Dict) else {"observation": space}
    if KEY in entries:
        raise ConfigError(
            f"the task's observations have a key {KEY!r} already, which returns add; take algo.returns=false"
        )
    entries[KEY] = gymnasium.spaces.Box(np.float32(returns.low), np.float32(returns.high), (1,), np.float32)
    return gymnasium.spaces.Dict(entries)


class ReturnToGo(TorchVectorEnv):
    """`env` whose observations say how much return is asked for from here to the end of the episode.

    observation: what `env` shows (its own keys, or "observation") and "return_to_go" [1] float32: `returns.target` less the
        rewards so far (Chen et al. 2021, "Decision Transformer", arXiv 2106.01345). All else is as `env` has it.
    """

    def __init__(self, env: TorchVectorEnv, returns: ReturnConditioning) -> None:
        space = with_return(env.single_observation_space, returns)
        super().__init__(env.num_envs, env.device, space, env.single_action_space)
        self.env, self.target = env, returns.target
        told = env.rewards_tell or env.returns_tell  # by what is left of the target
        self.floor, self.ceiling, self.measure = None if told else env.floor, env.ceiling, env.measure
        self.action_names = env.action_names
        self.render_mode = env.render_mode
        self.task = f"{env.task}; asked for a return of {returns.target:.4g}"
        if not returns.low <= returns.target <= returns.high:
            self.task += f", beyond the {returns.low:.4g} to {returns.high:.4g} that the policy was trained on"

    def reset(
        self, *, seed: int | list[int] | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Obs, dict[str, Any]]:
        obs, info = self.env.reset(seed=seed, options=options)  # type: ignore[arg-type]  # gymnasium's says int, its code lists too
        self._left = torch.full((self.num_envs,), self.target, dtype=torch.float64, device=self.device)
        return self._observe(obs, self._left), info

    def step(self, action_B: torch.Tensor) -> tuple[Obs, torch.Tensor, torch.Tensor, torch.Tensor, dict[str, Any]]:
        obs, reward, terminated, truncated, info = self.env.step(action_B)
        left = self._left - reward
        final = self._observe(info["final_obs"], left)
        self._left = where_rows(terminated | truncated, torch.full_like(left, self.target), left)
        return self._observe(obs, self._left), reward, terminated, truncated, {**info, "final_obs": final}

    def render(self) -> Any:
        return self.env.render()

    def oracle(self) -> torch.Tensor:
        return self.env.oracle()

    def state_dict(self) -> dict[str, Any]:
        return {"env": self.env.state_dict(), "left": self._left}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.env.load_state_dict(state["env"])
        self._left = state["left"].to(self.device)

    def close(self, **options: Any) -> None:
        self.env.close(**options)

    def without(self, obs: Obs) -> Obs:
        """What `env` itself shows of an observation."""
        assert isinstance(obs, dict)
        inner = {key: value for key, value in obs.items() if key != KEY}
        return inner if isinstance(self.env.single_observation_space, gymnasium.spaces.Dict) else inner["observation"]

    def _observe(self, obs: Obs, left: torch.Tensor) -> Obs:
        shown = obs if isinstance(obs, dict) else {"observation": obs}
        return {**shown, KEY: left.float()[:, None]}
