"""Encoder + backbone + heads: the only policy class that algorithms and users see."""

from __future__ import annotations

import dataclasses
import numbers
from collections.abc import Mapping
from typing import Any, NoReturn

import gymnasium
import numpy as np
import torch
from huggingface_hub import PyTorchModelHubMixin
from safetensors.torch import load_file, save_file
from torch import nn

from rmt_rl.common.errors import ConfigError
from rmt_rl.common.rng import Stream, global_generator
from rmt_rl.common.state import Obs, leaves, map_state, state_from_tree, state_to_tree
from rmt_rl.envs.actions import ActionTranslation
from rmt_rl.envs.masks import mask_of, without_mask
from rmt_rl.envs.observations import ObservationCheck
from rmt_rl.envs.text import TextBytes, to_bytes
from rmt_rl.policies.base import has_between_updates
from rmt_rl.policies.heads import make_head
from rmt_rl.policies.network import Critic, Memories, Network, critic_only_entries, memories_in
from rmt_rl.policies.registry import check_encoder, check_shapes
from rmt_rl.policies.rmt import RMT, Attention
from rmt_rl.policies.spec import PolicySpec
from rmt_rl.policies.weights import load_weights


@dataclasses.dataclass(frozen=True)
class PolicyState:
    """Everything that a policy remembers between steps.

    memory: the state of the backbone; with a separate critic, where its values are wanted, `Memories`. action: [B, ...] the
    previous action.

    `state[rows]` selects rows by an index, a slice or a mask, `state.to(device)` moves it, and `policy.state_to_dict(state)`
    makes nested dictionaries of tensors, which `torch.save` can write.
    """

    memory: Any
    action: torch.Tensor

    def __len__(self) -> int:
        return len(self.action)

    def __getitem__(self, rows: Any) -> PolicyState:
        """The state of some rows; one integer keeps the batch axis."""
        if isinstance(rows, slice):
            rows = list(range(len(self)))[rows]
        elif np.ndim(rows) == 0:
            rows = [range(len(self))[rows]]  # raises IndexError outside, where a loop over the rows ends
        selected = torch.as_tensor(rows, device=self.action.device)
        selected = selected if len(selected) else selected.long()
        return map_state(lambda x: x[selected], self)

    def to(self, device: str | torch.device) -> PolicyState:
        return map_state(lambda x: x.to(device), self)


#: README.md of a saved policy; huggingface_hub fills in what the Hub reads.
CARD = """---
{{ card_data }}
---

A policy with memory, trained with rmt_rl. `config.json` describes the network and the task that it was trained on.

```python
import torch
from rmt_rl.policies.saving import load_policy, make_task

policy = load_policy("<this folder>")
env = make_task(policy, rows=16)
obs, _ = env.reset(seed=0)
state, first = policy.initial_state(16), torch.ones(16, dtype=torch.bool)
for _ in range(100):
    action, state = policy.act(obs, state, first, deterministic=True)
    obs, reward, terminated, truncated, info = env.step(action)
    first = terminated | truncated
```
"""


class ActorCritic(
    Network,
    PyTorchModelHubMixin,
    library_name="rmt_rl",
    model_card_template=CARD,
    pipeline_tag="reinforcement-learning",
    tags=["deep-reinforcement-learning", "reinforcement-learning"],
):
    """A policy and its value function: on one memory, or on one each (`policy.critic=separate`).

        state = policy.initial_state(n)
        action, state = policy.act(obs, state, first, deterministic=True)

    `first` is true in rows whose episode begins with this observation; the incoming state has no influence there.
    The number of rows is free: a policy that was trained on 64 rows acts on 1.

    `act`, `act_step` and `explain` never use a separate critic. Values do: `step`, `value`, `explore` and `unroll` then need a
    state with its memory, initial_state(n, critic=True).

    spec: everything that the network is built from; `save_pretrained` (huggingface_hub) writes it to config.json.
    """

    def __init__(self, spec: PolicySpec | Mapping[str, Any]) -> None:
        super().__init__()
        # huggingface_hub's from_pretrained passes the plain values of config.json
        spec = spec if isinstance(spec, PolicySpec) else PolicySpec.from_json(spec)
        self.spec, self.config = spec, spec.policy
        width = self.config.width  # type: ignore[attr-defined]
        space, self.masked = spec.observation_space, spec.masked
        seen = without_mask(space) if self.masked else space
        self._hidden = critic_only_entries(self.config, space, self.masked)
        #: The observations that acting needs: without the entries that only the critic sees.
        self.acting_space = without(space, self._hidden)
        self._shapes, self._whole = shapes_of(space), whole_numbers_of(self.acting_space)
        entries = parts_of(self.acting_space)
        self._texts = {name: part for name, part in entries.items() if isinstance(part, TextBytes)}
        self._check = ObservationCheck(self.acting_space, spec.action_space if self.masked else None)
        self._own_actions = None if spec.own_actions is None else ActionTranslation(spec.own_actions)
        self._state_shapes: dict[str, torch.Size] | None = None  # of one row; known at the first action
        self.add_encoder(self.config, without(seen, self._hidden), spec.rules)
        self.head = make_head(spec.action_space, width, self.masked, spec.action_scale)
        self.value_head = nn.Linear(width, 1)
        nn.init.normal_(self.value_head.weight, std=0.01)
        nn.init.zeros_(self.value_head.bias)
        self.add_memory(self.config, self.head.inputs)
        # last, so that the actor starts from the same weights with and without it
        separate = self.config.critic == "separate"
        self.critic = Critic(self.config, seen, spec.rules, self.head.inputs) if separate else None

    def save_pretrained(self, save_directory: Any, *, config: Any = None, **given: Any) -> Any:
        """huggingface_hub's: writes model.safetensors, config.json and a model card."""
        return super().save_pretrained(save_directory, config=config or {"spec": self.spec.to_json()}, **given)

    def _save_pretrained(self, save_directory: Any) -> None:
        # cuDNN keeps all weights of an LSTM or GRU in one storage, which safetensors' own save_model refuses
        tensors = {name: value.cpu().clone().contiguous() for name, value in self.state_dict().items()}
        save_file(tensors, save_directory / "model.safetensors")

    @classmethod
    def _load_as_safetensor(cls, model: Any, model_file: str, map_location: str, strict: bool) -> Any:
        """Part of huggingface_hub's `from_pretrained`: the same checks as in `load_policy`, whatever `strict` says."""
        load_weights(model, load_file(model_file))
        return model.to(map_location).eval()

    @classmethod
    def _load_as_pickle(cls, model: Any, model_file: str, map_location: str, strict: bool) -> NoReturn:
        raise ConfigError(f"{model_file}: is a pickle, which is not read; expected model.safetensors")

    @property
    def device(self) -> torch.device:
        return self.value_head.weight.device

    def initial_state(self, batch: int, critic: bool = False) -> PolicyState:
        """The state of `batch` rows before their first step. critic: with the memory of a separate critic, if there is one."""
        if not isinstance(batch, numbers.Integral) or isinstance(batch, bool) or batch < 0:
            raise ValueError(f"initial_state({batch!r}): expected a number of rows, 0 or more")
        memory = self.backbone.initial_state(batch)
        if critic and self.critic is not None:
            memory = Memories(memory, self.critic.backbone.initial_state(batch))
        return PolicyState(memory, self._no_action(batch))

    def state_to_dict(self, state: PolicyState) -> dict[str, Any]:
        """The state as nested dictionaries of tensors."""
        tree: dict[str, Any] = state_to_tree(state)
        return tree

    def state_from_dict(self, tree: dict[str, Any]) -> PolicyState:
        """The reverse of `state_to_dict`; raises ValueError where it belongs to another kind of policy."""
        action = tree.get("action") if isinstance(tree, Mapping) else None
        if not isinstance(action, torch.Tensor) or not action.dim():
            raise ValueError(f"a {type(tree).__name__} without actions was found; expected the result of state_to_dict")
        memory = tree.get("memory")
        both = isinstance(memory, Mapping) and {*memory} == {field.name for field in dataclasses.fields(Memories)}
        return state_from_tree(self.initial_state(len(action), critic=both), tree)

    @torch.no_grad()
    def act(
        self,
        obs: Obs | np.ndarray | dict[str, np.ndarray],
        state: PolicyState,
        first: torch.Tensor | np.ndarray | bool,
        deterministic: bool = False,
        generator: torch.Generator | None = None,
    ) -> tuple[Any, PolicyState]:
        """Actions [B, ...] for observations [B, ...] and the state after them.

        Actions and observations are those of `spec.action_space` and `spec.observation_space`: whole numbers count from 0, and
        an environment whose own actions start elsewhere takes `action + spec.action_start`. Continuous actions are inside
        their bounds. Where the environment's own actions are MultiBinary, a Box of whole numbers, a Tuple or a Dict
        (`spec.own_actions`), numpy arrays in give exactly these, as `env.step` takes them.
        first: [B] bool. deterministic: the most likely action; otherwise a sample, drawn from `generator`, or from torch's
        global stream where none is given.

        Entries of the observation that only the critic sees (`policy.critic_only`) have no influence and may be missing.

        Where observations have an "action_mask", only what it allows is chosen; raises ValueError where it allows nothing.

        The state after it has no memory of a separate critic, which acting does not advance.

        numpy arrays in give a numpy array out. With a state of one row, the observation of a single environment is accepted too,
        without the batch axis, with `first` as one bool; the action then has no batch axis either.
        """
        if not isinstance(first, torch.Tensor):
            return self._act_on_arrays(obs, state, first, deterministic, generator)
        obs, state = self.for_actor(obs), self._of_actor(state)
        self._require_own(obs, state)
        self._require_values(obs, state, first)
        parameters, memory = self.act_step(obs, state, first)  # type: ignore[arg-type]
        if deterministic:
            action = self.head.mode(parameters)
        else:
            action = self.head.sample(parameters, generator or global_generator(parameters.device))
        action = self.head.clip(action)
        return action, PolicyState(memory, action)

    def _act_on_arrays(
        self, obs: Any, state: PolicyState, first: Any, deterministic: bool, generator: torch.Generator | None
    ) -> tuple[Any, PolicyState]:
        """`act` for numpy arrays, or for one environment without the batch axis."""
        single = np.ndim(first) == 0
        if single and isinstance(state, PolicyState) and len(state) != 1:
            raise ValueError(f"first is one value, but the state has {len(state)} rows; expected {len(state)} values")

        def convert(x: Any) -> torch.Tensor:
            if isinstance(x, Mapping):
                raise ValueError(
                    f"obs has a dictionary as an entry; expected one array for each of {sorted(self._shapes)}, such as"
                    " {**obs, 'return_to_go': ...}"
                )
            x = x.copy() if isinstance(x, np.ndarray) and min(x.strides, default=0) < 0 else x  # a flipped picture
            tensor = torch.as_tensor(x, device=self.device)
            tensor = tensor.float() if tensor.dtype == torch.float64 else tensor
            return tensor[None] if single else tensor

        obs = self.for_actor(obs)
        if isinstance(obs, Mapping):  # parts that are text and that training left out
            obs = {key: convert(x) for key, x in self._bytes(obs).items() if key in self._shapes or not _is_text(x)}
        else:
            obs = convert(self._bytes({"": obs})[""])
        action, state = self.act(obs, state, convert(first), deterministic, generator)
        action = action.cpu().numpy()
        action = action[0] if single else action
        return (action if self._own_actions is None else self._own_actions.to_own(action)), state

    def _bytes(self, parts: Mapping[str, Any]) -> dict[str, Any]:
        """The parts of an observation, with bytes in place of text that the policy reads."""
        found = dict(parts)
        for name in self._texts.keys() & {name for name, x in parts.items() if _is_text(x)}:
            encoded = to_bytes(parts[name], self._texts[name])
            if encoded is None:
                raise ValueError(
                    f"obs {name!r} is longer than {self._texts[name].shape[0]} bytes in UTF-8, the most of its task"
                )
            found[name] = encoded
        return found

    @torch.no_grad()
    def explore(
        self,
        obs: Obs,
        state: PolicyState,
        first: torch.Tensor,
        generator: Stream,
        noise: torch.Tensor | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, PolicyState]:
        """What PPO collects: sampled actions, their log-probabilities [B], values [B], and the state after them.

        noise: [B, head.noise_size] standard normal numbers for continuous actions, instead of new ones from `generator`.
        """
        parameters, value, memory = self.step(obs, state, first)
        action = self.head.sample(parameters, generator, noise)
        return action, self.head.log_prob(parameters, action), value, PolicyState(memory, action)

    @torch.no_grad()
    def value(self, obs: Obs, state: PolicyState) -> torch.Tensor:
        """Values [B] of observations inside running episodes; the state is only read."""
        first = torch.zeros(len(state.action), dtype=torch.bool, device=state.action.device)
        return self.step(obs, state, first)[1]

    @torch.no_grad()
    def explain(self, obs: Obs, state: PolicyState, first: torch.Tensor) -> Attention:
        """Attention weights of the step that `act` would make: over memory, cache and steps, per layer and head.

        Shapes: see `Attention`. The state is only read. Raises TypeError where the policy has no attention.
        """
        obs, state = self.for_actor(obs), self._of_actor(state)
        self._require_shapes(obs, state, first, acting=True)
        if not isinstance(self.backbone, RMT):
            raise TypeError(f"policy {self.config.name} has no attention to explain; transformer policies have")
        return self.backbone.explain(self.embed(obs, self._input(state.action), first), state.memory, first)

    def unroll(
        self, obs: Obs, action: torch.Tensor, state: PolicyState, first_BT: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, PolicyState]:
        """Distribution parameters [B, T, ...] and values [B, T] along rows of T steps whose actions were `action` [B, T, ...]."""
        parameters, value, after, _ = self.unroll_with_losses(obs, action, state, first_BT)
        return parameters, value, after

    def unroll_with_losses(
        self, obs: Obs, action: torch.Tensor, state: PolicyState, first_BT: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, PolicyState, dict[str, torch.Tensor]]:
        """`unroll`, and the auxiliary losses of the backbones by name: scalars to add to the loss."""
        self._require_critic(state)
        previous = self._previous(action, state)
        actor, *critic = memories_in(state.memory)
        y, memory, losses = self.backbone.unroll_with_losses(self.embed(obs, previous, first_BT), actor, first_BT)
        parameters, value_y = self._distribution(y, obs), y
        if self.critic is not None:
            x = self.critic.embed(obs, previous, first_BT)
            value_y, after, more = self.critic.backbone.unroll_with_losses(x, critic[0], first_BT)
            memory, losses = Memories(memory, after), losses | {f"critic_{name}": loss for name, loss in more.items()}
        return parameters, self.value_head(value_y).squeeze(-1), PolicyState(memory, action[:, -1]), losses

    @torch.no_grad()
    def between_updates(
        self, obs: Obs, action: torch.Tensor, state: PolicyState, first_BT: torch.Tensor, generator: torch.Generator
    ) -> None:
        """Let the backbones change their buffers after an update; arguments as in `unroll`. Free where they have none."""
        if has_between_updates(self.backbone):
            self._require_critic(state)
            previous = self._previous(action, state)
            for network, memory in zip(self._networks(), memories_in(state.memory), strict=True):
                network.backbone.between_updates(network.embed(obs, previous, first_BT), memory, first_BT, generator)

    def without_moments(self) -> bool:
        """Whether moments of the observations are wanted, and none was added yet."""
        return any(network.encoder.without_moments() for network in self._networks())

    @property
    def normalizes(self) -> bool:
        """Whether observations are normalised by the moments of those that were added."""
        return any(network.encoder.normalizes for network in self._networks())

    def add_observations(self, obs: Obs) -> None:
        """Add observations, with any leading axes, to the moments that normalise them."""
        for network in self._networks():
            network.encoder.add(obs)

    def check_outside_parts(self) -> None:
        """Raise ConfigError where a backbone or an encoder from outside returns other things than its contract says."""
        for network in self._networks():
            check_shapes(network.backbone, self.config)
            check_encoder(network.encoder, self.config, self.device)

    def _networks(self) -> list[Network]:
        """The actor, and a separate critic."""
        return [self] if self.critic is None else [self, self.critic]

    def step(self, obs: Obs, state: PolicyState, first_B: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, Any]:
        """Distribution parameters [B, ...], values [B] and the memory after one observation; no action is taken.

        Raises TypeError or ValueError where obs, state and first are not tensors of the same B rows.
        """
        self._require_critic(state)
        self._require_shapes(obs, state, first_B)
        previous, (actor, *critic) = self._input(state.action), memories_in(state.memory)
        y, memory = self.backbone.step(self.embed(obs, previous, first_B), actor, first_B)
        parameters, value_y = self._distribution(y, obs), y
        if self.critic is not None:
            value_y, after = self.critic.backbone.step(self.critic.embed(obs, previous, first_B), critic[0], first_B)
            memory = Memories(memory, after)
        return parameters, self.value_head(value_y).squeeze(-1), memory

    def act_step(self, obs: Obs, state: PolicyState, first_B: torch.Tensor) -> tuple[torch.Tensor, Any]:
        """`step` without the value: distribution parameters, and the memory after one observation, which is the actor's."""
        obs, state = self.for_actor(obs), self._of_actor(state)
        self._require_shapes(obs, state, first_B, acting=True)
        x = self.embed(obs, self._input(state.action), first_B)
        y, memory = self.backbone.step(x, state.memory, first_B)
        return self._distribution(y, obs), memory

    def spaces_to_act_in(self) -> list[gymnasium.Space[Any]]:
        """The spaces of the observations that `act` takes: the whole one, and those without what only the critic sees."""
        found = [self.spec.observation_space]
        if self._hidden:
            found.append(self.acting_space)
            if [*parts_of(self.acting_space)] == ["observation"]:
                found.append(parts_of(self.acting_space)["observation"])
        return found

    def for_actor(self, obs: Any) -> Any:
        """The part of an observation that acting needs: without the entries that only the critic sees, if there are any.

        An observation that was made the entry "observation" beside them may come as it is.
        """
        if not self._hidden:
            return obs
        if not isinstance(obs, Mapping):
            return {"observation": obs} if [*parts_of(self.acting_space)] == ["observation"] else obs
        # "state" may be a dictionary, of which the entries are "state.position" and so on
        hidden = self._hidden | {*str(self.config.critic_only).split(",")}
        return {name: x for name, x in obs.items() if name not in hidden}

    def _of_actor(self, state: Any) -> Any:
        """The state without the memory of a separate critic."""
        both = isinstance(state, PolicyState) and isinstance(state.memory, Memories) and self.critic is not None
        return PolicyState(state.memory.actor, state.action) if both else state

    def _require_critic(self, state: Any) -> None:
        """Raises ValueError where values are wanted and the state lacks the memory of a separate critic."""
        if self.critic is not None and isinstance(state, PolicyState) and not isinstance(state.memory, Memories):
            raise ValueError(
                "state has no memory of the critic, which this policy has for itself (policy.critic=separate); expected the"
                " result of initial_state(batch, critic=True) or of a step from it"
            )

    def _distribution(self, y: torch.Tensor, obs: Obs) -> torch.Tensor:
        """The parameters of the head, with the action mask of the observation."""
        parameters = self.head(y)
        return self.head.mask(parameters, mask_of(obs)) if self.masked else parameters  # type: ignore[operator]

    def _require_own(self, obs: Any, state: Any) -> None:
        """Raises where the state is that of another policy, or where whole numbers are shown as fractions."""
        if isinstance(state, PolicyState):
            self._state_shapes = self._state_shapes or _row_shapes(self.initial_state(1))
            if _row_shapes(state) != self._state_shapes:
                raise ValueError(
                    "state is that of another policy; expected the result of this policy's initial_state(batch)"
                )
        shown = obs if isinstance(obs, dict) else {"": obs}
        for name in self._whole & shown.keys():
            if isinstance(shown[name], torch.Tensor) and shown[name].is_floating_point():
                what = f"obs {name!r}" if name else "obs"
                raise TypeError(
                    f"{what} is of type {shown[name].dtype}; expected whole numbers, as in the space of the task"
                )

    def _require_values(self, obs: Any, state: Any, first: torch.Tensor) -> None:
        """Raises ValueError where an observation holds a NaN, or a whole number that would stand for another category."""
        if torch.compiler.is_compiling():  # an exported program has no branches that depend on values
            return
        self._require_shapes(obs, state, first, acting=True)
        if (
            found := self._check.outside("obs", obs)
            or self._check.unusable("obs", obs)
            or self._check.no_action("obs", obs)
        ):
            raise ValueError(f"{found}; expected an observation as the task shows it")

    def _require_shapes(self, obs: Obs, state: PolicyState, first: torch.Tensor, acting: bool = False) -> None:
        """Raises where shapes differ: broadcasting would reset only part of the memory, or act on the memory of other rows.

        acting: the entries that only the critic sees are left out already.
        """
        if not isinstance(state, PolicyState):
            raise TypeError(
                f"state is a {type(state).__name__}; expected the result of initial_state(batch) or of the previous step"
            )
        rows = len(state.action)
        shapes = {name: shape for name, shape in self._shapes.items() if not (acting and name in self._hidden)}
        given = {"first": first, **(obs if isinstance(obs, dict) else {"": obs})}
        if given.keys() != {"first", *shapes}:
            names = [name for name in shapes if name] or "one tensor"
            found = list(obs) if isinstance(obs, dict) else "one tensor"
            raise ValueError(
                f"obs is {found}; expected {names}: rmt_rl.make_task(policy) makes an environment that shows it"
            )
        for name, shape in {"first": (), **shapes}.items():
            what = "first" if name == "first" else f"obs {name!r}" if name else "obs"
            if not isinstance(given[name], torch.Tensor):
                raise TypeError(f"{what} is a {type(given[name]).__name__}; expected a torch tensor")
            if given[name].shape != (rows, *shape):
                raise ValueError(
                    f"{what} has shape {list(given[name].shape)}; expected {[rows, *shape]}, for the {rows} rows of the state"
                )
        if first.dtype != torch.bool:
            raise TypeError(f"first is of type {first.dtype}; expected torch.bool, true where an episode begins")

    def _previous(self, action: torch.Tensor, state: PolicyState) -> torch.Tensor | None:
        """The previous actions of a row of steps as an input; that of the first step is in the state."""
        previous = torch.cat([state.action[:, None], action[:, :-1]], dim=1)
        return self._input(previous)

    def _input(self, action: torch.Tensor) -> torch.Tensor | None:
        """Previous actions as an input of the network; None where they are none."""
        return self.head.one_hot(action) if self.config.previous_action else None

    def _no_action(self, batch: int) -> torch.Tensor:
        return torch.zeros(batch, *self.head.shape, dtype=self.head.action_dtype, device=self.value_head.weight.device)


def parts_of(space: gymnasium.Space[Any]) -> dict[str, gymnasium.Space[Any]]:
    """The spaces of an observation's entries; "" where it is one tensor."""
    return dict(space.spaces) if isinstance(space, gymnasium.spaces.Dict) else {"": space}


def without(space: gymnasium.Space[Any], names: set[str]) -> gymnasium.Space[Any]:
    """The space without some of its entries."""
    kept = {name: part for name, part in parts_of(space).items() if name not in names}
    return gymnasium.spaces.Dict(kept) if names else space


def shapes_of(space: gymnasium.Space[Any]) -> dict[str, tuple[int, ...]]:
    """The shape of one row's observation by its key; "" where it is one tensor."""
    return {name: tuple(part.shape or ()) for name, part in parts_of(space).items()}


def whole_numbers_of(space: gymnasium.Space[Any]) -> set[str]:
    """The keys of one row's observation whose values are whole numbers."""
    return {name for name, part in parts_of(space).items() if part.dtype is not None and part.dtype.kind in "iu"}


def _row_shapes(state: PolicyState) -> dict[str, torch.Size]:
    return {name: x.shape[1:] for name, x in leaves(state.memory).items()}


def _is_text(x: Any) -> bool:
    return np.asarray(x).dtype.kind == "U" if isinstance(x, (str, list, tuple, np.ndarray)) else False
