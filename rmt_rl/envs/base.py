"""The environment contract: a batch of environments on torch tensors that is a `gymnasium.vector.VectorEnv`.

Every environment of this package satisfies these rules; `tests/contract/test_envs.py` checks them over the registry:

- Observations, rewards and flags are torch tensors on one device, batch on axis 0.
- Autoreset is SAME_STEP: the step that ends an episode returns the first observation of the next one.
  `info["final_obs"]` holds the last observation of the episode that ended.
- Row i is seeded with `seed + i` and does not depend on the number of rows.
- After `load_state_dict` an environment continues bit for bit from the saved state.
- `floor` and `ceiling` are the best scores without memory and with perfect memory, in the unit that `measure` names.

`gym/adapter.py` wraps environments of gymnasium.
"""

from __future__ import annotations

import copy
import operator
import sys
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Literal

import gymnasium
import numpy as np
import torch
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space

from rmt_rl.common.errors import ConfigError, Stopped
from rmt_rl.config.fields import show

Obs = torch.Tensor | dict[str, torch.Tensor]


#: Keys of an info that have a meaning here; all other [B] tensors are numbers that rows report.
OWN_KEYS = (
    *("success", "final_obs", "final_info"),
    *("episode_over", "episode_success", "inner_start", "inner_success"),
)

#: A task with more different episodes than these is evaluated on a sample of them.
FEW_EPISODES = 1_000


def if_few(episodes: int) -> int | None:
    """`TorchVectorEnv.distinct_episodes` of a task with so many of them."""
    return episodes if episodes <= FEW_EPISODES else None


class TorchVectorEnv(VectorEnv):
    """A batch of environments whose whole state is a few torch tensors.

    A subclass sets `single_observation_space` and `single_action_space`, calls this constructor, and implements
    `reset`, `step`, `state_dict` and `load_state_dict`.

    `step` returns (obs, reward [B], terminated [B], truncated [B], info) with
        info["final_obs"]: like obs, the observation before the autoreset; equal to obs in rows whose episode continues
        info["_final_obs"]: [B] bool, the rows whose episode ended at this step
        info["success"]: [B] bool, the episode ended and reached the goal; only where `measure` is "success"
        info["_success"]: [B] bool, the rows that report their success at this step; where it is missing, all that ended do
        info[<name>]: [B] any number that describes an episode, at its last step, for `metrics=<name>`; info["_<name>"]: [B] bool,
            the rows that report it; where it is missing, all that ended do
        info["final_info"], info["_final_info"]: the same reports for the rows whose episode ended, as gymnasium's SAME_STEP has
            them; with masks (`step_info` makes them)
        info["episode_over"], info["episode_success"], info["_episode_success"]: [B] bool, the same of the inner episodes,
            where an episode is a trial of several (`MemoryScope`)
    The environment never writes to a tensor after it has returned it. `metadata` belongs to the object, not to its class.
    """

    metadata: dict[str, Any] = {  # noqa: RUF012  gymnasium declares it like this
        "autoreset_mode": AutoresetMode.SAME_STEP,
        "render_modes": [],
    }

    #: The unit of floor and ceiling: the "success" rate, or the mean "return".
    measure: Literal["success", "return"] = "success"
    #: Score of the best policy without memory, or None where it is not known.
    floor: float | None = None
    #: Score of the best policy with perfect memory, or None where it is not known.
    ceiling: float | None = None
    #: Whether the previous reward can reveal hidden information. If so, `floor` does not hold for an agent that observes it.
    reward_reveals_cue: bool = False
    #: The same for the sum of the rewards since the start of the episode.
    return_reveals_cue: bool = False
    #: How many different episodes there are, all equally likely, where that is known and at most FEW_EPISODES; None = many or
    #: unknown. An evaluation then plays each of them instead of a sample.
    distinct_episodes: int | None = None
    #: One line: what the agent must remember, and for how long.
    task: str = ""
    #: What the environment itself adds to the whole numbers of an action; one number, or one for each element.
    action_start: int | list[Any] = 0
    #: The action space of the environment itself, where policies see another one and `action_start` does not tell the difference.
    own_actions: gymnasium.Space[Any] | None = None
    #: gymnasium's EnvSpec of one row as JSON, or None where it has none that a file can hold.
    env_spec: str | None = None
    #: Steps after which an evaluation or a recording cuts an episode; None where every episode ends by itself.
    episode_steps: int | None = 5_000
    #: Names of the actions for pictures; empty = their numbers.
    action_names: tuple[str, ...] = ()
    #: Names of the values of each variable in `hidden`: value i is called names[i]. A variable without names has numbers.
    hidden_values: Mapping[str, tuple[str, ...]] = MappingProxyType({})

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
        self.metadata = copy.deepcopy(self.metadata)  # a change concerns this environment only

    def oracle(self) -> torch.Tensor:
        """[B] the actions of an expert that knows the hidden state; always acting like this reaches the ceiling.

        Raises ConfigError where the task has no expert.
        """
        raise ConfigError(
            f"{self.task or type(self).__name__}: has no oracle; learn from recorded episodes (data=), or record policy=random"
            " or a trained policy"
        )

    def asks(self) -> torch.Tensor:
        """[B] bool: whether the next action counts; where it does not, any action has the same outcome. All do by default."""
        return torch.ones(self.num_envs, dtype=torch.bool, device=self.device)

    @property
    def np_random_seed(self) -> Any:
        """The seeds of the rows, as gymnasium's SyncVectorEnv has them; -1 = not known, after `load_state_dict`."""
        inner = self._inside()
        return super().np_random_seed if inner is None else inner.np_random_seed

    def call(self, name: str, *args: Any, **options: Any) -> tuple[Any, ...]:
        """What the method `name` returns for each row; where it is no method, `get_attr`.

        Raises NotImplementedError where the rows are not objects: here, but not with `env=gym`.
        """
        if (inner := self._inside()) is not None:
            return inner.call(name, *args, **options)
        if callable(getattr(self, name)):
            raise NotImplementedError(
                f"call({name!r}): the rows of {type(self).__name__} share one object; call its own method once, .{name}(...)"
            )
        return self.get_attr(name)

    def get_attr(self, name: str) -> tuple[Any, ...]:
        """The attribute `name` of each row; that of this object for every row, where they are not objects."""
        inner = self._inside()
        return (getattr(self, name),) * self.num_envs if inner is None else inner.get_attr(name)

    def set_attr(self, name: str, values: Any) -> None:
        """Set the attribute `name` of each row. Raises NotImplementedError where the rows are not objects."""
        if (inner := self._inside()) is None:
            raise NotImplementedError(
                f"set_attr({name!r}): the rows of {type(self).__name__} share one object, whose options are fixed; make another"
                " environment with other options"
            )
        inner.set_attr(name, values)

    def _inside(self) -> TorchVectorEnv | None:
        """The environment that this one wraps."""
        inner = getattr(self, "env", None)
        return inner if isinstance(inner, TorchVectorEnv) else None

    def own_spaces(self) -> tuple[gymnasium.Space[Any], gymnasium.Space[Any]]:
        """The observation and action space of one row before they were translated for policies."""
        return self.single_observation_space, self.single_action_space

    def to_own(self, obs: Any, action: np.ndarray) -> tuple[Any, Any]:
        """Recorded observations [T + 1, ...] and actions [T, ...] as elements of `own_spaces`; numpy arrays."""
        return obs, action

    def hidden(self) -> dict[str, torch.Tensor]:
        """What the agent must remember or find out, by name: [B] int64, counted from 0; {} = the task does not say.

        The values belong to the latest observation. They are constant within an episode of the task unless its class says
        otherwise. Policies never see them; `play` shows whether the memory holds them.
        """
        inner = self._inside()
        return {} if inner is None else inner.hidden()

    def shown(self) -> dict[str, torch.Tensor]:
        """[B] bool for each variable of `hidden`: the latest observation shows its value, or the last part of it."""
        inner = self._inside()
        return {} if inner is None else inner.shown()

    def names_of_hidden(self) -> Mapping[str, tuple[str, ...]]:
        """`hidden_values` of the task inside all wrappers."""
        inner = self._inside()
        return self.hidden_values if inner is None else inner.names_of_hidden()

    def in_words(self, row: int) -> str:
        """The caption of a picture of a row, hidden state included; "" = none."""
        return ""

    def state_dict(self) -> dict[str, Any]:
        """Everything that determines the future of every row: tensors, and values that JSON can hold."""
        raise NotImplementedError(f"{type(self).__name__} does not implement state_dict")

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue exactly from a result of `state_dict`; the number of rows must be the same."""
        raise NotImplementedError(f"{type(self).__name__} does not implement load_state_dict")

    def _as_tensor(self, action_B: Any, expected: str) -> torch.Tensor:
        """Actions on the device; raises ValueError for what is no tensor of numbers."""
        try:
            return torch.as_tensor(action_B, device=self.device)
        except (TypeError, RuntimeError, ValueError) as error:  # torch raises these for text, None and ragged lists
            why = " ".join(str(error).split())
            raise ValueError(f"action cannot be read ({why}); expected {expected}") from error

    def _read_action(self, action_B: Any, num_actions: int, parts: int | None = None) -> torch.Tensor:
        """The actions as an int64 tensor [B]; [B, parts] where an action has several parts, each below `num_actions`.

        Accepts numpy arrays too, which `action_space.sample()` returns.
        """
        shape = (self.num_envs,) if parts is None else (self.num_envs, parts)
        action_B = self._as_tensor(action_B, f"{' x '.join(map(str, shape))} integers")
        if action_B.is_floating_point() or action_B.is_complex() or action_B.dtype == torch.bool:
            raise ValueError(f"action has dtype {action_B.dtype}; expected integers")
        action_B = action_B.long()  # some dtypes have no aminmax, and uint8 would index rows as a mask
        if action_B.shape != shape:
            raise ValueError(f"action has shape {tuple(action_B.shape)}; expected {shape}")
        # on a GPU this waits for the device; without it an action out of range would read the table of the next state
        if action_B.device.type == "cpu":  # one pass
            lowest, highest = torch.aminmax(action_B)
            inside = lowest.item() >= 0 and highest.item() < num_actions
        else:
            inside = not bool(((action_B < 0) | (action_B >= num_actions)).any())
        if not inside:
            raise ValueError(f"action {action_B.tolist()[:8]} is outside 0..{num_actions - 1}")
        return action_B


def reported_names(info: dict[str, Any]) -> list[str]:
    """The numbers that rows report in an info, beside their success."""
    return [
        name
        for name, x in info.items()
        if not name.startswith("_") and name not in OWN_KEYS and isinstance(x, torch.Tensor) and x.dim() == 1
    ]


def step_info(final_obs: Obs, ended_B: torch.Tensor, reports: dict[str, torch.Tensor]) -> dict[str, Any]:
    """The info of a step, in the form of gymnasium's SAME_STEP; see `TorchVectorEnv`.

    reports: [B, ...] values by name, and where given the mask [B] of the rows that report them, under `_name`. Without a mask
    the rows that ended report "success", and all rows report anything else.
    """
    masks = {
        f"_{name}": reports.get(f"_{name}", ended_B if name == "success" else torch.ones_like(ended_B))
        for name in reports
        if not name.startswith("_")
    }
    final = {**reports, **{name: mask & ended_B for name, mask in masks.items()}}
    info = {"final_obs": final_obs, "_final_obs": ended_B, "final_info": final, "_final_info": ended_B}
    return {**info, **reports, **masks}


def row_seeds(seed: Any, num_envs: int) -> list[int]:
    """The seed of each row, by gymnasium's rule: an int means seed, seed + 1, ...; None draws random seeds, also inside a list.

    Accepts numpy's and torch's whole numbers and arrays too. Raises ValueError for anything else.
    """
    given = checked_seeds(seed, num_envs)
    drawn = torch.randint(0, 2**62, (num_envs,), generator=_system_generator()).tolist()
    return drawn if given is None else [mine if own is None else own for own, mine in zip(given, drawn, strict=True)]


def row_generator(seed: int) -> np.random.Generator:
    """The random numbers of a row of this seed, as gymnasium makes them."""
    # PCG64 by name: it is the generator that gymnasium uses, even if numpy's default changes
    return np.random.Generator(np.random.PCG64(seed))


def checked_seeds(seed: Any, num_envs: int) -> list[int | None] | None:
    """`row_seeds` without the random ones: None, or one whole number or None for each row."""
    if seed is None:
        return None
    listed = isinstance(seed, (list, tuple)) or np.ndim(seed) == 1
    if listed and len(seed) != num_envs:
        raise ValueError(f"seed is a list of {len(seed)} for {num_envs} rows; expected one int or a list of {num_envs}")
    if not listed:
        first = _whole_seed(seed)
        found: list[int | None] = [first + row for row in range(num_envs)]
    else:
        found = [None if own is None else _whole_seed(own) for own in seed]
    for own in found:
        if own is not None and not 0 <= own < 2**63:
            raise ValueError(f"seed {own} is outside 0..2**63-1")
    return found


def _whole_seed(seed: Any) -> int:
    try:
        if isinstance(seed, (bool, np.bool_)):
            raise TypeError
        return operator.index(seed)
    except TypeError as error:
        raise ValueError(f"seed is {show(repr(seed))}; expected a whole number, or one for each row") from error


def task_rows(options: dict[str, Any] | None, env: TorchVectorEnv, started: bool) -> torch.Tensor:
    """[B] bool: the rows that a task's `reset` restarts; see `reset_rows`. Raises ValueError for any other option."""
    if others := sorted(set(options or {}) - {"reset_mask"}):
        raise ValueError(f"options {others} are not supported by {type(env).__name__}; pass none, or reset_mask")
    return torch.from_numpy(reset_rows(options, env.num_envs, started)).to(env.device)


def reset_rows(options: dict[str, Any] | None, num_envs: int, started: bool = True) -> np.ndarray:
    """[B] bool: the rows that `reset` restarts, from gymnasium's options["reset_mask"]; all where there is none.

    started: whether there was a reset before this one; without it no row could go on.
    """
    if options is None or "reset_mask" not in options:
        return np.ones(num_envs, dtype=bool)
    if not started:
        raise ValueError("reset_mask was given before the first reset; reset all rows first")
    mask = options["reset_mask"]
    array = mask.cpu().numpy() if isinstance(mask, torch.Tensor) else np.asarray(mask)
    if array.dtype != np.bool_ or array.shape != (num_envs,) or not array.any():
        raise ValueError(
            f"reset_mask is {show(repr(mask))}; expected {num_envs} values True or False, at least one of them True"
        )
    return array


def _system_generator() -> torch.Generator:
    # a separate generator, so that an unseeded reset does not advance torch's global one
    generator = torch.Generator()
    generator.seed()
    return generator


#: The warnings of `report_close_error` so far: a run closes several environments of the same kind.
_REPORTED: set[str] = set()


def close_env(env: Any) -> None:
    """Close an environment. An error on the way is a warning, because it must not cost what the environment was used for."""
    try:
        env.close()
    except Stopped:
        raise
    except (Exception, SystemExit) as error:
        report_close_error(type(env).__name__, error)


def report_close_error(name: str, error: Exception | SystemExit) -> None:
    """Print a warning that the environment `name` raised while it was closed, once per process."""
    text = (
        f"warning: {name}: close raised {type(error).__name__}: {' '.join(str(error).split())[:200]}; nothing is lost"
    )
    if text not in _REPORTED:
        _REPORTED.add(text)
        print(text, file=sys.stderr, flush=True)
