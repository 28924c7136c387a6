"""Base class of tasks whose random numbers are a function of the row's seed and the episode's number.

A task implements three functions of a state. Reset, autoreset, saving and loading are here.
"""

from __future__ import annotations

from typing import Any

import gymnasium
import torch

from rmt_rl.common.rng import counter_bits
from rmt_rl.common.state import check_tensor, where_rows
from rmt_rl.envs.base import TorchVectorEnv, row_seeds, step_info, task_rows

State = dict[str, torch.Tensor]


class EpisodicEnv(TorchVectorEnv):
    """A batch of environments whose state is a dict of tensors, batch on axis 0. A step makes new tensors.

    seed, episode: [B] identify the episode: counter_bits(seed, episode) is its key
    key: [B] counter_bits(key, 0), counter_bits(key, 1), ... are the random numbers of the episode
    t: [B] number of steps done in the episode
    num_actions: how many actions there are, or the action space: a MultiDiscrete with parts of one size, or another one, for
        which the subclass defines `_read`.
    `_begin` adds the tensors of the task. A subclass implements `_begin`, `_advance` and `_observe`.
    """

    def __init__(
        self,
        num_envs: int,
        device: str | torch.device,
        observation_space: gymnasium.Space[Any],
        num_actions: int | gymnasium.Space[Any],
    ) -> None:
        space = gymnasium.spaces.Discrete(num_actions) if isinstance(num_actions, int) else num_actions
        super().__init__(num_envs, device, observation_space, space)
        # how many values a part of an action has, and how many parts; an action that is one number has none
        self._sizes = (
            (int(space.nvec[0]), len(space.nvec)) if hasattr(space, "nvec") else (int(getattr(space, "n", 0)), None)
        )
        self._cuts = type(self)._truncates is not EpisodicEnv._truncates
        self._state: State = {}

    def _begin(self, key_B: torch.Tensor) -> State:
        """The state at the start of an episode, without seed, episode, key and t."""
        raise NotImplementedError(f"{type(self).__name__} does not implement _begin")

    def _advance(self, state: State, action_B: torch.Tensor) -> tuple[State, torch.Tensor, torch.Tensor, State]:
        """(changed entries of the state except t, reward [B] float64, terminated [B], entries of info)."""
        raise NotImplementedError(f"{type(self).__name__} does not implement _advance")

    def _truncates(self, state: State) -> torch.Tensor:
        """[B] whether the episode is cut off in this state, after a step that did not end it; never by default."""
        return torch.zeros_like(state["t"], dtype=torch.bool)

    def _answer(self, state: State) -> torch.Tensor:
        """[B] the correct action; any action where none is correct."""
        return super().oracle()

    def _asks(self, state: State) -> torch.Tensor:
        """[B] whether the action in this state counts; always by default."""
        return torch.ones_like(state["t"], dtype=torch.bool)

    def _observe(self, state: State) -> torch.Tensor:
        raise NotImplementedError(f"{type(self).__name__} does not implement _observe")

    def reset(
        self, *, seed: int | list[int] | None = None, options: dict[str, Any] | None = None
    ) -> tuple[torch.Tensor, dict[str, Any]]:
        rows = task_rows(options, self, started=bool(self._state))
        if seed is not None or not self._state:
            seed_B = torch.tensor(row_seeds(seed, self.num_envs), device=self.device)
            first = self._first(seed_B, torch.zeros_like(seed_B))
        else:
            first = self._following(self._state)
        self._state = {name: where_rows(rows, new, self._state.get(name, new)) for name, new in first.items()}
        return self._observe(self._state), {}

    def step(
        self, action_B: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor, dict[str, Any]]:
        if not self._state:
            raise RuntimeError("step was called before reset; call reset first")
        action_B = self._read(action_B)
        changes, reward, terminated, info = self._advance(self._state, action_B)
        state = self._state | changes | {"t": self._state["t"] + 1}
        if self._cuts:
            truncated = self._truncates(state) & ~terminated
            ended = terminated | truncated
        else:
            truncated, ended = torch.zeros_like(terminated), terminated
        final_obs = obs = self._observe(state)
        # on a GPU, reading whether a row ended would wait for the device at every step
        if self.device.type != "cpu" or bool(ended.any()):
            first = self._following(state)
            state = {name: where_rows(ended, first[name], value) for name, value in state.items()}
            obs = self._observe(state)
        self._state = state
        return obs, reward, terminated, truncated, step_info(final_obs, ended, info)

    def _read(self, action_B: Any) -> torch.Tensor:
        """The actions as a tensor; raises ValueError for those outside the action space."""
        return self._read_action(action_B, *self._sizes)

    def oracle(self) -> torch.Tensor:
        if not self._state:
            raise RuntimeError("oracle was called before reset; call reset first")
        return self._answer(self._state)

    def asks(self) -> torch.Tensor:
        if not self._state:
            raise RuntimeError("asks was called before reset; call reset first")
        return self._asks(self._state)

    def hidden(self) -> dict[str, torch.Tensor]:
        if not self._state:
            raise RuntimeError("hidden was called before reset; call reset first")
        return self._hidden(self._state)

    def shown(self) -> dict[str, torch.Tensor]:
        if not self._state:
            raise RuntimeError("shown was called before reset; call reset first")
        return self._shown(self._state)

    def _hidden(self, state: State) -> dict[str, torch.Tensor]:
        """`hidden` for a state."""
        return {}

    def _shown(self, state: State) -> dict[str, torch.Tensor]:
        """`shown` for a state."""
        return {}

    @property
    def np_random_seed(self) -> Any:
        return tuple(self._state["seed"].tolist()) if self._state else None

    def in_words(self, row: int) -> str:
        if not self._state:
            raise RuntimeError("in_words was called before reset; call reset first")
        return self._in_words({name: value[row : row + 1] for name, value in self._state.items()})

    def _in_words(self, state: State) -> str:
        """`in_words` for a state of one row."""
        return ""

    def state_dict(self) -> dict[str, Any]:
        if not self._state:
            raise RuntimeError("state_dict was called before reset; there is no state yet")
        return dict(self._state)

    def load_state_dict(self, state: dict[str, Any]) -> None:
        seed_B = torch.zeros(self.num_envs, dtype=torch.int64, device=self.device)
        expected = {name: value.shape for name, value in self._first(seed_B, seed_B).items()}
        found = {name: value.shape for name, value in state.items()}
        if found != expected:
            rows = f"{len(state['seed'])} rows" if state else "no rows"
            raise ValueError(
                f"the state has {rows} and shapes {found}; expected {self.num_envs} rows and shapes {expected}"
            )
        first = self._first(seed_B, seed_B)
        read = {name: check_tensor(name, state[name], value) for name, value in first.items()}
        for name in ("t", "episode"):
            check_tensor(name, read[name], seed_B, 0, 2**62)
        self._check_state(read)
        # an index out of range raises IndexError; what the other values mean, the observation shows
        shown, space = self._observe(read), self.single_observation_space
        if not shown.is_floating_point() and not all(space.contains(row) for row in shown.cpu().numpy()):
            raise ValueError(f"its observation is outside {' '.join(str(space).split())}")
        self._state = read

    def _following(self, state: State) -> State:
        """The state at the start of every row's next episode."""
        return self._first(state["seed"], state["episode"] + 1)

    def _check_state(self, state: State) -> None:
        """Raises ValueError where a state from a file has values that no episode has; its shapes are known to be right."""

    def _first(self, seed_B: torch.Tensor, episode_B: torch.Tensor) -> State:
        key_B = counter_bits(seed_B, episode_B)
        return {"seed": seed_B, "episode": episode_B, "key": key_B, "t": torch.zeros_like(key_B), **self._begin(key_B)}


def draws(key_B: torch.Tensor, first: int, count: int) -> torch.Tensor:
    """int64 [B, count]: counter_bits(key, first), ..., counter_bits(key, first + count - 1) of every row."""
    return counter_bits(key_B[:, None], torch.arange(first, first + count, device=key_B.device))


def at(table_BN: torch.Tensor, index_B: torch.Tensor) -> torch.Tensor:
    """[B] table[b, index[b]] of every row; an index beyond either end is clamped to it."""
    return table_BN.gather(1, index_B.clamp(0, table_BN.shape[1] - 1)[:, None]).squeeze(1)
