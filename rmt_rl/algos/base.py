"""The contract of an algorithm: what `train` calls. `ppo.py` and `rate.py` are the two built in."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

from rmt_rl.config.commands import ReturnConditioning, TrainConfig
from rmt_rl.envs.base import TorchVectorEnv
from rmt_rl.policies.actor_critic import ActorCritic
from rmt_rl.policies.moments import ActionScale


class Batch(Protocol):
    """What one update learns from."""

    @property
    def steps(self) -> int:
        """Environment steps in it, by which a run counts its length."""
        ...


class Learner:
    """Improves a policy update by update, and holds everything that a resumed run needs.

        batch = learner.collect(progress)
        row = learner.update(batch, progress)

    run: the configuration. env: the batch of environments, of `run.algo.training_rows()` rows. data: what `load_data` returned.
    A class whose constructor also takes `ranks`, a `Ranks`, can share the rows among several processes; `env` then has those of
    this one (docs/processes.md).
    """

    #: Whether a resumed run gives the same bits as one that was never stopped.
    resumes_exactly: bool = True
    #: Names of the numbers that the progress line shows.
    shown: tuple[str, ...] = ()
    #: Raises `Interrupted` where a signal asks the run to stop; `train` sets it. An algorithm whose updates take long calls it
    #: where an update can be left, such as between minibatches. What the update did so far is discarded.
    check_stop: Callable[[], None] = staticmethod(lambda: None)

    policy: ActorCritic

    def __init__(self, run: TrainConfig, env: TorchVectorEnv, policy: ActorCritic, data: Any = None) -> None:
        self.policy = policy

    @classmethod
    def load_data(cls, run: TrainConfig) -> Any:
        """The recorded data of an offline algorithm; None otherwise."""
        return None

    @classmethod
    def return_conditioning(cls, run: TrainConfig, data: Any, initial: ActorCritic | None) -> ReturnConditioning | None:
        """The target return that the policy is conditioned on. initial: the policy of `init=`, whose weights are used."""
        return None if initial is None else initial.spec.returns

    @classmethod
    def action_scale(cls, run: TrainConfig, data: Any, initial: ActorCritic | None) -> ActionScale | None:
        """The units of actions without bounds; None = 0 and 1. initial: the policy of `init=`, whose weights count in its own."""
        return None if initial is None else initial.spec.action_scale

    def collect(self, progress: float) -> Any:
        """What the next update learns from, a `Batch`, at `progress` (0..1) of the run."""
        raise NotImplementedError(f"{type(self).__name__} does not define collect(progress)")

    def update(self, batch: Any, progress: float) -> dict[str, float | None]:
        """Improve the policy; returns numbers for metrics.jsonl."""
        raise NotImplementedError(f"{type(self).__name__} does not define update(batch, progress)")

    def statistics(self) -> dict[str, float | None]:
        """More numbers for metrics.jsonl, such as the mean return of the latest episodes."""
        return {}

    def diagnostics(self) -> dict[str, float]:
        """Numbers for TensorBoard and Weights & Biases only, such as memory/change; not computed without them."""
        return {}

    def costly_diagnostics(self, batch: Any) -> dict[str, float]:
        """As `diagnostics`, for numbers that cost more: only after updates with an evaluation. batch: of that update."""
        return {}

    def state_dict(self) -> dict[str, Any]:
        """Everything that decides how training continues: dictionaries of tensors and of what JSON can hold."""
        raise NotImplementedError(f"{type(self).__name__} does not define state_dict()")

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue where `state_dict` was taken."""
        raise NotImplementedError(f"{type(self).__name__} does not define load_state_dict(state)")

    def select_weights(self) -> dict[str, float]:
        """Give the policy its final weights, and return numbers for result.json. By default the last weights are final."""
        return {}
