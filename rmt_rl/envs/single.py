"""Tasks as gymnasium's users expect them: one environment, or a batch of them, with numpy observations and actions.

    gymnasium.make("rmt_rl/TMaze-v0", length=20)
    NumpyVectorEnv(gymnasium.make_vec("rmt_rl/TMaze-v0", num_envs=8, length=20))

Training does not use this file: `rmt_rl.make_env` makes batches of torch tensors, which are faster.
"""

from __future__ import annotations

import copy
from typing import Any

import gymnasium
import numpy as np
import torch
from gymnasium.vector import VectorEnv, VectorWrapper

from rmt_rl.common.errors import ConfigError
from rmt_rl.common.state import Obs
from rmt_rl.envs.base import checked_seeds
from rmt_rl.envs.registry import env_options, make_from_config

#: Width and height of a picture in pixels.
PICTURE = (640, 480)


class SingleEnv(gymnasium.Env[Any, Any]):
    """Row 0 of the task `name`: with the same seed the same observations, rewards and episodes.

    options: those of the task's dataclass in rmt_rl.config. A name that was registered with `register_env` works as well.
    `reset()` without a seed starts the next episode of the row. `step` after the end of an episode raises RuntimeError.
    info["success"]: at the last step of an episode, where the task reports it.
    render_mode: "rgb_array" draws the task with its hidden state, as `python -m rmt_rl.play` does; "ansi" describes it. After
        the last step both show the state before it, with the result, because the batch has started the next episode.
    """

    metadata: dict[str, Any] = {"render_modes": ["rgb_array", "ansi"], "render_fps": 4}  # noqa: RUF012  as in gymnasium

    def __init__(self, name: str, render_mode: str | None = None, **options: Any) -> None:
        if render_mode is not None and render_mode not in self.metadata["render_modes"]:
            raise ConfigError(f"render_mode={render_mode}: expected one of rgb_array, ansi, or None")
        self._batch = make_from_config(env_options(name, options))
        self.observation_space = self._batch.single_observation_space
        self.action_space = self._batch.single_action_space
        self.metadata = copy.deepcopy(self.metadata)  # a change concerns this environment only
        self.render_mode = render_mode
        self._obs: Obs | None = None  # the latest observation of the batch
        self._ended = False
        self._before: Any = None  # what `drawing.snapshot` kept before the latest step
        self._title = ""

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        given = checked_seeds(seed, 1)
        if options:
            raise ValueError(f"options {sorted(options)} are not supported by a single task; pass none")
        super().reset(seed=None if given is None else given[0])
        # at the end of an episode the batch has started the next one already
        if given is not None or not self._ended or self._obs is None:
            self._obs, _ = self._batch.reset(seed=given)  # type: ignore[arg-type]  # gymnasium's says int, its code lists too
        self._ended, self._step, self._return = False, 0, 0.0
        self._title = "step 0"
        return _row(self._obs), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        if self._obs is None:
            raise RuntimeError("step was called before reset; call reset first")
        if self._ended:
            raise RuntimeError("step was called after the end of the episode; call reset first")
        if self.render_mode is not None:
            from rmt_rl.envs.drawing import snapshot

            self._before = snapshot(self._batch, self._obs)
        batched = action[None] if isinstance(action, torch.Tensor) else np.asarray(action)[None]
        self._obs, reward, terminated, truncated, info = self._batch.step(batched)
        self._ended = bool(terminated[0] | truncated[0])
        self._step, self._return = self._step + 1, self._return + float(reward[0])
        found = _report(info)
        word = {True: ", success", False: ", no success"}.get(found.get("success"), "")  # type: ignore[arg-type]
        end = f"the episode ended after {self._step} steps: return {self._return:.2f}{word}"
        self._title = end if self._ended else f"step {self._step}, return {self._return:.2f}"
        return _row(info["final_obs"]), float(reward[0]), bool(terminated[0]), bool(truncated[0]), found

    def render(self) -> Any:
        """The picture [height, width, 3] uint8 or the text of the present state; None without a render_mode."""
        if self.render_mode is None:
            gymnasium.logger.warn(
                'render was called without a render_mode; use gymnasium.make(..., render_mode="rgb_array")'
            )
            return None
        if self._obs is None:
            raise RuntimeError("render was called before reset; call reset first")
        from rmt_rl.envs import drawing

        shown = self._before if self._ended else drawing.snapshot(self._batch, self._obs)
        return (
            drawing.text(shown, self._title)
            if self.render_mode == "ansi"
            else drawing.picture(shown, self._title, PICTURE)
        )

    def close(self) -> None:
        self._batch.close()


class NumpyVectorEnv(VectorWrapper):
    """A batch of torch tensors as a batch of numpy arrays, so that `gymnasium.wrappers.vector` can wrap it.

    Actions may be numpy arrays or tensors. info["final_obs"] holds batched arrays, as the environment gives them, without the
    rows of episodes that go on being empty; see `rmt_rl.TorchVectorEnv`.
    """

    def __init__(self, env: VectorEnv[Any, Any, Any]) -> None:
        super().__init__(env)

    def reset(self, *, seed: Any = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        obs, info = self.env.reset(seed=seed, options=options)
        return to_numpy(obs), to_numpy(info)

    def step(self, actions: Any) -> tuple[Any, Any, Any, Any, dict[str, Any]]:
        obs, reward, terminated, truncated, info = self.env.step(actions)
        return to_numpy(obs), to_numpy(reward), to_numpy(terminated), to_numpy(truncated), to_numpy(info)


def to_numpy(value: Any) -> Any:
    """`value` with numpy arrays, which do not share memory, in place of the tensors in it."""
    if isinstance(value, torch.Tensor):
        return value.detach().cpu().numpy().copy()
    return {key: to_numpy(part) for key, part in value.items()} if isinstance(value, dict) else value


def _row(obs: Obs) -> Any:
    """Row 0 as numpy arrays, and as a number where its space has no axes."""
    return {key: _row(part) for key, part in obs.items()} if isinstance(obs, dict) else to_numpy(obs[0])[()]


def _report(info: dict[str, Any]) -> dict[str, Any]:
    """What row 0 reports, without the parts that only a batch needs."""
    found = {}
    for key, value in info.items():
        mask = info.get(f"_{key}")
        if key.startswith("_") or key in ("final_obs", "final_info") or (mask is not None and not bool(mask[0])):
            continue
        found[key] = _row(value).item() if isinstance(value, torch.Tensor) and value.ndim == 1 else _row(value)
    return found
