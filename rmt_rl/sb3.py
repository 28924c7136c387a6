"""Environments and policies of rmt_rl for Stable-Baselines3. Needs the extra `sb3`.

env = rmt_rl.sb3.make_vec_env("tmaze", num_envs=16, seed=0, length=10)
model = stable_baselines3.PPO("MlpPolicy", env).learn(10_000)

policy = rmt_rl.sb3.SB3Policy(rmt_rl.load_policy("runs/<name>"))
stable_baselines3.common.evaluation.evaluate_policy(policy, env)
"""

from __future__ import annotations

import functools
from typing import Any

import gymnasium
import numpy as np
import torch
from gymnasium import spaces

from rmt_rl.common import rng
from rmt_rl.common.state import Obs, leaves, rebuild
from rmt_rl.config.memory import MemoryConfig
from rmt_rl.envs.base import TorchVectorEnv
from rmt_rl.envs.masks import has_mask, mask_of
from rmt_rl.envs.registry import make_env
from rmt_rl.policies.actor_critic import ActorCritic

try:
    from stable_baselines3.common.vec_env import VecEnv
except ModuleNotFoundError as error:
    raise ImportError("rmt_rl.sb3 needs stable-baselines3; pip install 'rmt_rl[sb3]'") from error

Arrays = np.ndarray | dict[str, np.ndarray]

#: The method with which sb3-contrib's MaskablePPO asks an environment for its mask.
MASKS = "action_masks"


def make_vec_env(
    name: str,
    num_envs: int = 1,
    seed: int | None = None,
    device: str | torch.device = "cpu",
    memory: MemoryConfig | None = None,
    **given: Any,
) -> SB3VecEnv:
    """`num_envs` rows of the environment `name` as a VecEnv: make_vec_env("tmaze", num_envs=16, seed=0, length=10).

    seed: row i plays seed + i, from the first reset on; None = random. The other arguments are those of `rmt_rl.make_env`.
    """
    return SB3VecEnv(make_env(name, num_envs, device, memory, **given), seed)


def evaluation_seed(seed: int = 0) -> int:
    """The seed with which the first episodes of the rows are those that `rmt_rl.evaluate(policy, seed=seed)` plays."""
    return rng.seed(seed, "evaluate")


class SB3VecEnv(VecEnv):
    """The B rows of one of our environments, such as `rmt_rl.make_task(policy, rows=16)` makes them, as a VecEnv.

    Observations, rewards [B] float32 and ends [B] are numpy arrays. The step that ends an episode returns the first observation
    of the next one, as everywhere in Stable-Baselines3. infos[i] of that step holds
        terminal_observation: the last observation of the episode
        TimeLimit.truncated: whether it was truncated and not terminated
        is_success: whether it reached its goal, where the environment reports that
    The rows share one object: an attribute is the same for all rows, and cannot be set for some of them.
    Where the observation has an action mask, every row has the method `action_masks()` of sb3-contrib's MaskablePPO, too.
    """

    def __init__(self, env: TorchVectorEnv, seed: int | None = None) -> None:
        if not isinstance(env, TorchVectorEnv):
            raise TypeError(f"{type(env).__name__} was given; expected a TorchVectorEnv, as rmt_rl.make_env returns")
        self.env = env
        self._actions: torch.Tensor | None = None
        self._obs: Obs | None = None  # the latest one: its mask is that of the next step
        self._masked = has_mask(env.single_observation_space, env.single_action_space)
        super().__init__(env.num_envs, env.single_observation_space, env.single_action_space)
        if seed is not None:
            self.seed(seed)

    def reset(self) -> Arrays:
        options = self._options[0]
        if any(other != options for other in self._options):
            raise ValueError("set_options was given other options for some rows; expected the same for all rows")
        seed: Any = None if None in self._seeds else self._seeds
        if seed is not None and seed == [*range(seed[0], seed[0] + len(seed))]:
            seed = seed[0]  # not every environment takes a list
        obs, _ = self.env.reset(seed=seed, options=options or None)
        self._obs = obs
        self._reset_seeds()
        self._reset_options()
        return _arrays(obs)

    def step_async(self, actions: np.ndarray) -> None:
        self._actions = torch.as_tensor(actions, device=self.env.device)

    def step_wait(self) -> tuple[Arrays, np.ndarray, np.ndarray, list[dict[str, Any]]]:
        if self._actions is None:
            raise RuntimeError("step_wait was called before step_async; call step_async(actions) first")
        obs, reward, terminated, truncated, info = self.env.step(self._actions)
        self._actions, self._obs = None, obs
        done = (terminated | truncated).cpu().numpy()
        infos: list[dict[str, Any]] = [{} for _ in range(self.num_envs)]
        if done.any():
            last = _arrays(info["final_obs"])
            cut = (truncated & ~terminated).cpu().numpy()
            reported = (
                info.get("_success", terminated | truncated) if "success" in info else torch.zeros_like(terminated)
            )
            reported = reported.cpu().numpy()
            for row in np.flatnonzero(done).tolist():
                infos[row]["terminal_observation"] = _row(last, row)
                infos[row]["TimeLimit.truncated"] = bool(cut[row])
                if reported[row]:
                    infos[row]["is_success"] = bool(info["success"][row])
        return _arrays(obs), reward.float().cpu().numpy(), done, infos

    def close(self) -> None:
        self.env.close()

    def get_attr(self, attr_name: str, indices: Any = None) -> list[Any]:
        rows = self._get_indices(indices)
        if attr_name == MASKS and self._masked:
            return [functools.partial(self._mask, row) for row in rows]
        return [getattr(self.env, attr_name) for _ in rows]

    def set_attr(self, attr_name: str, value: Any, indices: Any = None) -> None:
        if {*self._get_indices(indices)} != {*range(self.num_envs)}:
            raise ValueError(
                f"set_attr({attr_name!r}) was called for some rows; the rows share one object, expected all"
            )
        setattr(self.env, attr_name, value)

    def env_method(self, method_name: str, *args: Any, indices: Any = None, **options: Any) -> list[Any]:
        if method_name == MASKS:
            if not self._masked:
                raise AttributeError(
                    f"env_method({MASKS!r}): the observation of this environment has no action mask; use PPO without masks"
                )
            return [method(*args, **options) for method in self.get_attr(MASKS, indices)]
        raise NotImplementedError(
            f"env_method({method_name!r}): the rows share one object; call its method once, as .env.{method_name}(...)"
        )

    def env_is_wrapped(
        self, wrapper_class: type[gymnasium.Wrapper[Any, Any, Any, Any]], indices: Any = None
    ) -> list[bool]:
        return [False for _ in self._get_indices(indices)]

    def _mask(self, row: int) -> np.ndarray:
        """[choices] bool: what row `row` may do in its next step, with the choices of several elements side by side."""
        if self._obs is None:
            raise RuntimeError(f"{MASKS} was called before reset; call reset first")
        mask: torch.Tensor = mask_of(self._obs)[row]
        return (mask != 0).flatten().cpu().numpy()

    def get_images(self) -> list[np.ndarray | None]:
        frames: Any = self.env.render()
        return list(frames)


class SB3Policy:
    """One of our policies with the `predict` of Stable-Baselines3's models.

    Its state is a tuple of arrays, the rows on axis 0. Where episode_start is true the state has no influence, so one state
    is carried through any number of episodes.
    """

    def __init__(self, policy: ActorCritic) -> None:
        if not isinstance(policy, ActorCritic):
            raise TypeError(f"{type(policy).__name__} was given; expected a policy, as rmt_rl.load_policy returns")
        self.policy = policy
        self.observation_space, self.action_space = policy.spec.observation_space, policy.spec.action_space

    def predict(
        self,
        observation: Arrays,
        state: tuple[np.ndarray, ...] | None = None,
        episode_start: np.ndarray | None = None,
        deterministic: bool = False,
    ) -> tuple[np.ndarray, tuple[np.ndarray, ...]]:
        """Actions for observations [B, ...], and the state after them; or of one environment, without the axis B.

        state: the second value of the previous call; None = all episodes begin. episode_start: [B] bool, the rows whose episode
        begins with this observation; None = none, after the first call. deterministic: the most likely action; false = sample.
        """
        observation = self.policy.for_actor(observation)
        single = self._is_single(observation)
        if single:
            observation = (
                {key: np.asarray(part)[None] for key, part in observation.items()}
                if isinstance(observation, dict)
                else np.asarray(observation)[None]
            )
        rows = len(next(iter(observation.values())) if isinstance(observation, dict) else observation)
        memory = self.policy.initial_state(rows)
        if state is None:
            first = np.ones(rows, dtype=bool)
        else:
            names = list(leaves(memory))
            if len(state) != len(names):
                raise ValueError(
                    f"state has {len(state)} arrays; expected the {len(names)} that this policy's predict returned"
                )
            arrays = (torch.as_tensor(x, device=self.policy.device) for x in state)
            memory = rebuild(memory, dict(zip(names, arrays, strict=True)))
            first = np.zeros(rows, dtype=bool) if episode_start is None else np.asarray(episode_start, dtype=bool)
            first = first.reshape(-1)
        # from 0 and as one array, as `SB3VecEnv` takes them; `act` itself may return those of the environment inside
        _, memory = self.policy.act(observation, memory, first, deterministic)
        action = memory.action.cpu().numpy()
        return (action[0] if single else action), tuple(x.cpu().numpy() for x in leaves(memory).values())

    def _is_single(self, observation: Arrays) -> bool:
        space: gymnasium.Space[Any] = self.policy.acting_space
        shown: Any = observation
        if isinstance(space, spaces.Dict) and isinstance(shown, dict):
            key = next(iter(space))
            space, shown = space[key], shown[key]
        return np.shape(shown) == space.shape


def _arrays(obs: Obs) -> Arrays:
    return {key: x.cpu().numpy() for key, x in obs.items()} if isinstance(obs, dict) else obs.cpu().numpy()


def _row(obs: Arrays, row: int) -> Any:
    return {key: x[row] for key, x in obs.items()} if isinstance(obs, dict) else obs[row]
