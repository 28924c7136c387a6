"""Encoder + backbone + heads: the only policy class that algorithms and users see."""

from __future__ import annotations

import dataclasses
from typing import Any

import gymnasium
import torch
from huggingface_hub import PyTorchModelHubMixin
from torch import nn

from rmt_rl import config
from rmt_rl.data import Obs
from rmt_rl.envs.base import TorchVectorEnv
from rmt_rl.policies import spaces
from rmt_rl.policies.encoders import ObservationEncoder
from rmt_rl.policies.heads import make_head
from rmt_rl.policies.registry import make_backbone
from rmt_rl.policies.rmt import RMT, Attention
from rmt_rl.rng import global_generator


@dataclasses.dataclass(frozen=True)
class PolicyState:
    """All that a policy remembers between steps.

    memory: the backbone's state
    action: [B, ...] the previous action
    """

    memory: Any
    action: torch.Tensor


#: README.md of a saved policy; huggingface_hub fills in what the Hub reads.
CARD = """---
{{ card_data }}
---

A policy with memory, trained with rmt_rl. `config.json` says what it is made of and what it was trained on.

```python
import torch
from rmt_rl.checkpoint import load_policy, make_task

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


class ActorCritic(nn.Module, PyTorchModelHubMixin, library_name="rmt_rl", model_card_template=CARD):
    """A policy and its value function on one memory.

        state = policy.initial_state(n)
        action, state = policy.act(obs, state, first, deterministic=True)

    `first` is true in rows whose episode begins with this observation; what the state holds there has no influence.
    The number of rows is free: a policy that was trained on 64 rows acts on 1.

    spec: all that the network is built from, as plain values, so that `save_pretrained` (huggingface_hub) writes it to
        config.json: "policy", "observation_space", "action_space", and "env", "memory" and "returns", the task it is for, how
        long its memory lasts there, and which return it is asked for. `policy_spec` makes it.
    """

    def __init__(self, spec: dict[str, Any]) -> None:
        super().__init__()
        self.spec = spec
        self.config = config.choose("policy", spec["policy"]["name"])(**spec["policy"])
        observation_space, action_space = (spaces.from_json(spec[key]) for key in ("observation_space", "action_space"))
        width = self.config.width
        self._shapes = shapes_of(observation_space)
        self.encoder = ObservationEncoder(observation_space, width)
        self.head = make_head(action_space, width)
        self.value_head = nn.Linear(width, 1)
        nn.init.normal_(self.value_head.weight, std=0.01)
        nn.init.zeros_(self.value_head.bias)
        if self.config.previous_action:
            size = self.head.one_hot(self._no_action(1)).shape[-1]
            self.action_embedding = nn.Linear(size, width, bias=False)
            self.no_action = nn.Parameter(torch.randn(width))  # stands for "an episode begins"
            nn.init.normal_(self.action_embedding.weight)
        self.norm = nn.LayerNorm(width, bias=False)
        self.backbone = make_backbone(self.config)

    def initial_state(self, batch: int) -> PolicyState:
        """The state of `batch` rows before their first step."""
        return PolicyState(self.backbone.initial_state(batch), self._no_action(batch))

    @torch.no_grad()
    def act(
        self,
        obs: Obs,
        state: PolicyState,
        first: torch.Tensor,
        deterministic: bool = False,
        generator: torch.Generator | None = None,
    ) -> tuple[torch.Tensor, PolicyState]:
        """Actions [B, ...] for observations [B, ...] and the state after them.

        first: [B] bool. deterministic: the most likely action; otherwise a sample, drawn from `generator`, or from torch's
        global stream where none is given.
        """
        parameters, _, memory = self.step(obs, state, first)
        if deterministic:
            action = self.head.mode(parameters)
        else:
            action = self.head.sample(parameters, generator or global_generator(parameters.device))
        return action, PolicyState(memory, action)

    @torch.no_grad()
    def explore(
        self, obs: Obs, state: PolicyState, first: torch.Tensor, generator: torch.Generator
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, PolicyState]:
        """What a learner collects: sampled actions, their log-probabilities [B], values [B], and the state after them."""
        parameters, value, memory = self.step(obs, state, first)
        action = self.head.sample(parameters, generator)
        return action, self.head.log_prob(parameters, action), value, PolicyState(memory, action)

    @torch.no_grad()
    def value(self, obs: Obs, state: PolicyState) -> torch.Tensor:
        """Values [B] of observations inside running episodes; the state is only read."""
        first = torch.zeros(len(state.action), dtype=torch.bool, device=state.action.device)
        return self.step(obs, state, first)[1]

    @torch.no_grad()
    def explain(self, obs: Obs, state: PolicyState, first: torch.Tensor) -> Attention:
        """Where the step that `act` would make looks: attention over memory, cache and steps, per layer and head.

        Shapes: see `Attention`. The state is only read. Raises TypeError where the policy has no attention.
        """
        self._check(obs, state, first)
        if not isinstance(self.backbone, RMT):
            raise TypeError(f"policy {self.config.name} has no attention to explain; transformer policies have")
        return self.backbone.explain(self._embed(obs, state.action, first), state.memory, first)

    def unroll(
        self, obs: Obs, action: torch.Tensor, state: PolicyState, first_BT: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, PolicyState]:
        """Distribution parameters [B, T, ...] and values [B, T] along rows of T steps whose actions were `action` [B, T, ...]."""
        previous = torch.cat([state.action[:, None], action[:, :-1]], dim=1)
        x = self._embed(obs, previous, first_BT)
        y, memory = self.backbone.unroll(x, state.memory, first_BT)
        return self.head(y), self.value_head(y).squeeze(-1), PolicyState(memory, action[:, -1])

    def step(self, obs: Obs, state: PolicyState, first_B: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, Any]:
        """Distribution parameters [B, ...], values [B] and the memory after one observation; no action is taken.

        Raises TypeError or ValueError where obs, state and first are not tensors of the same B rows.
        """
        self._check(obs, state, first_B)
        x = self._embed(obs, state.action, first_B)
        y, memory = self.backbone.step(x, state.memory, first_B)
        return self.head(y), self.value_head(y).squeeze(-1), memory

    def _check(self, obs: Obs, state: PolicyState, first: torch.Tensor) -> None:
        """Broadcasting would make half a reset of a `first` that is too short, and act on the memory of other rows."""
        if not isinstance(state, PolicyState):
            raise TypeError(
                f"state is a {type(state).__name__}; expected what initial_state(batch) gave, or the step before"
            )
        rows = len(state.action)
        given = {"first": first, **(obs if isinstance(obs, dict) else {"": obs})}
        if given.keys() != {"first", *self._shapes}:
            names = [name for name in self._shapes if name] or "one tensor"
            found = list(obs) if isinstance(obs, dict) else "one tensor"
            raise ValueError(
                f"obs is {found}; expected {names}: make_task(policy) of rmt_rl.checkpoint makes the environment that shows it"
            )
        for name, shape in {"first": (), **self._shapes}.items():
            what = "first" if name == "first" else f"obs {name!r}" if name else "obs"
            if not isinstance(given[name], torch.Tensor):
                raise TypeError(f"{what} is a {type(given[name]).__name__}; expected a torch tensor")
            if given[name].shape != (rows, *shape):
                raise ValueError(
                    f"{what} has shape {list(given[name].shape)}; expected {[rows, *shape]}, for the {rows} rows of the state"
                )
        if first.dtype != torch.bool:
            raise TypeError(f"first is of type {first.dtype}; expected torch.bool, true where an episode begins")

    def _embed(self, obs: Obs, previous: torch.Tensor, first: torch.Tensor) -> torch.Tensor:
        x = self.encoder(obs)
        if self.config.previous_action:
            embedded = self.action_embedding(self.head.one_hot(previous))
            x = x + torch.where(first[..., None], self.no_action, embedded)
        return self.norm(x)

    def _no_action(self, batch: int) -> torch.Tensor:
        return torch.zeros(batch, *self.head.shape, dtype=self.head.action_dtype, device=self.value_head.weight.device)


def shapes_of(space: gymnasium.Space[Any]) -> dict[str, tuple[int, ...]]:
    """The shape of one row's observation by its key; "" where it is one tensor."""
    parts = space.spaces if isinstance(space, gymnasium.spaces.Dict) else {"": space}
    return {name: tuple(part.shape or ()) for name, part in parts.items()}


def policy_spec(
    env: TorchVectorEnv,
    env_config: Any,
    policy_config: Any,
    memory: config.Memory | None = None,
    returns: config.Returns | None = None,
) -> dict[str, Any]:
    """What an ActorCritic for this environment is built from."""
    return {
        "policy": dataclasses.asdict(policy_config),
        "observation_space": spaces.to_json(env.single_observation_space),
        "action_space": spaces.to_json(env.single_action_space),
        "env": dataclasses.asdict(env_config),
        "memory": dataclasses.asdict(memory or config.Memory()),
        "returns": None if returns is None else dataclasses.asdict(returns),
    }
