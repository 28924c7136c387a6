"""Memory across episodes: a wrapper that joins several episodes of an environment to one trial, or all episodes to one run.

A policy's memory is reset at the end of an episode. With this wrapper the learner sees a trial as one episode: memory and
advantages continue across the inner episodes.

Source: Duan et al. 2016, "RL^2" (arXiv 1611.02779); Wang et al. 2016 (arXiv 1611.05763). The inner episodes are those of the
wrapped environment: the wrapper does not keep its hidden state (a goal, a maze) fixed during a trial. Tasks that need this,
such as `dark-room` and `tmaze-trial`, do it themselves.
"""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
import torch

from rmt_rl.common.errors import ConfigError
from rmt_rl.common.state import check_tensor, map_obs, where_rows
from rmt_rl.envs.base import Obs, TorchVectorEnv, reported_names, reset_rows, step_info

NEW_KEYS = ("previous_reward", "episode_start")


class MemoryScope(TorchVectorEnv):
    """`env` with episodes joined to trials of `episodes` episodes; None = one trial that never ends.

    observation: a dictionary of the observation of `env` (its own keys, or "observation"), "previous_reward" [1] float32 and
        "episode_start" (0 or 1). The last two show the agent where an inner episode ended and its result.
    terminated, truncated, final_obs, success: of the trial; its success is that of its last inner episode.
    info["episode_over"], info["episode_success"], info["_episode_success"]: [B] bool, of the inner episodes.
    floor: that of `env`, None where `env.reward_reveals_cue`. A floor and a ceiling that are returns are those of all episodes of
        a trial together, and None where it never ends.
    """

    _episode: torch.Tensor

    def __init__(self, env: TorchVectorEnv, episodes: int | None) -> None:
        space = env.single_observation_space
        entries = dict(space.spaces) if isinstance(space, gymnasium.spaces.Dict) else {"observation": space}
        if clash := [key for key in NEW_KEYS if key in entries]:
            raise ConfigError(
                f"memory.scope: adds the key {clash[0]!r} to the observation, but the task's observation already has it"
            )
        entries["previous_reward"] = gymnasium.spaces.Box(-np.inf, np.inf, (1,), np.float32)
        entries["episode_start"] = gymnasium.spaces.Discrete(2)
        super().__init__(env.num_envs, env.device, gymnasium.spaces.Dict(entries), env.single_action_space)
        self.env, self.episodes = env, episodes
        self._shown: tuple[torch.Tensor, torch.Tensor] | None = None  # previous reward and episode start, as shown last
        self.episode_steps = None if env.episode_steps is None else env.episode_steps * (episodes or 1)
        self.floor = None if env.reward_reveals_cue else env.floor
        self.ceiling, self.measure = env.ceiling, env.measure
        if self.measure == "return":  # that of a trial is the sum over its episodes
            self.floor, self.ceiling = (
                None if bound is None or episodes is None else episodes * bound for bound in (self.floor, self.ceiling)
            )
        self.action_names, self.render_mode = env.action_names, env.render_mode
        span = (
            "the whole run" if episodes is None else "an episode" if episodes == 1 else f"trials of {episodes} episodes"
        )
        self.action_start, self.own_actions = env.action_start, env.own_actions
        self.task = f"{env.task}; memory is kept for {span}"

    def reset(
        self, *, seed: int | list[int] | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Obs, dict[str, Any]]:
        rows = torch.from_numpy(reset_rows(options, self.num_envs)).to(self.device)
        if not bool(rows.all()) and self._shown is None:
            raise ValueError("reset_mask was given before the first reset or step; reset all rows, or step first")
        obs, _ = self.env.reset(seed=seed, options=options)  # type: ignore[arg-type]  # gymnasium's says int, its code lists too
        episode = torch.zeros(self.num_envs, dtype=torch.int64, device=self.device)
        reward, start = torch.zeros_like(episode, dtype=torch.float64), torch.ones_like(rows)
        if self._shown is not None:  # rows outside options["reset_mask"] go on, and are shown again what they saw
            episode = torch.where(rows, episode, self._episode)
            reward, start = (torch.where(rows, new, old) for new, old in zip((reward, start), self._shown, strict=True))
        self._episode, self._shown = episode, (reward, start)
        return self._observe(obs, reward, start), {}

    def step(self, action_B: torch.Tensor) -> tuple[Obs, torch.Tensor, torch.Tensor, torch.Tensor, dict[str, Any]]:
        obs, reward, terminated, truncated, info = self.env.step(action_B)
        ended = terminated | truncated
        self._episode = self._episode + ended
        over = torch.zeros_like(ended) if self.episodes is None else ended & (self._episode == self.episodes)
        self._episode = torch.where(over, 0, self._episode)
        last = map_obs(lambda final, new: where_rows(over, final, new), info["final_obs"], obs)
        found: dict[str, torch.Tensor] = {"episode_over": ended}
        found |= {key: info[key] for key in ("inner_start", "inner_success") if key in info}
        for name in reported_names(info):
            found |= {name: info[name], f"_{name}": info.get(f"_{name}", ended) & ended}
        if "success" in info:
            reported = info.get("_success", ended)
            found |= {"success": info["success"] & over, "_success": reported & over}
            found |= {"episode_success": info["success"], "_episode_success": reported}
        self._shown = torch.where(over, 0.0, reward), ended
        new = self._observe(obs, *self._shown)
        final = self._observe(last, reward, ended & ~over)
        return new, reward, terminated & over, truncated & over, step_info(final, over, found)

    def render(self) -> Any:
        return self.env.render()

    def oracle(self) -> torch.Tensor:
        return self.env.oracle()

    def asks(self) -> torch.Tensor:
        return self.env.asks()

    def state_dict(self) -> dict[str, Any]:
        return {"env": self.env.state_dict(), "episode": self._episode}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.env.load_state_dict(state["env"])
        rows = torch.zeros(self.num_envs, dtype=torch.int64, device=self.device)
        self._episode = check_tensor("episode", state["episode"], rows, 0, self.episodes and self.episodes - 1)
        self._shown = None

    def close_extras(self, **options: Any) -> None:
        self.env.close(**options)

    def _observe(self, obs: Obs, reward: torch.Tensor, start: torch.Tensor) -> Obs:
        inner = obs if isinstance(obs, dict) else {"observation": obs}
        return {**inner, "previous_reward": reward.float()[:, None], "episode_start": start.long()}
