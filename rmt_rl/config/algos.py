"""Options of all algorithms."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from rmt_rl.config.bases import AlgoConfig
from rmt_rl.config.fields import LARGEST_RETURN, nearest_divisor, option
from rmt_rl.config.registry import builtin

if TYPE_CHECKING:
    from rmt_rl.config.commands import TrainConfig


#: Minibatches per epoch, where as many divide the rows and nobody chose another number.
MOST_MINIBATCHES = 4


@builtin("algo", "ppo", "rmt_rl.algos.ppo:PPOLearner")
@dataclass(frozen=True)
class PPOConfig(AlgoConfig):
    """Proximal policy optimisation (Schulman et al. 2017) on whole rows with memory."""

    num_envs: int = option(64, "rows B: environments stepped together", low=1, high=2**20)
    rollout: int = option(32, "steps T of every row between two updates", low=1, high=1_000_000)
    epochs: int = option(4, "passes over each rollout", low=1, high=10_000)
    minibatches: int | None = option(
        None,
        f"minibatches per epoch; must divide num_envs; null = the largest divisor up to {MOST_MINIBATCHES}",
        low=1,
        high=2**20,
    )
    learning_rate: float = option(1e-3, "AdamW's step size at the start", above=0, high=10)
    schedule: str = option(
        "linear",
        "step size, entropy bonus and log barrier over the run: constant, linear to zero, or cosine to zero",
        choices=("constant", "linear", "cosine"),
    )
    gamma: float = option(0.99, "discount of the next step's value", above=0, high=1)
    gae_lambda: float = option(0.95, "weight of longer advantage estimates (GAE)", low=0, high=1)
    clip: float = option(0.2, "how far a probability ratio may move away from 1", above=0, below=1)
    value_coef: float = option(0.5, "weight of the value loss", low=0, high=1_000)
    entropy_coef: float = option(0.02, "weight of the entropy bonus at the start", low=0, high=1_000)
    barrier_coef: float | None = option(
        None,
        "weight at the start of the log barrier KL(uniform || policy), which keeps every action possible;"
        " null = 0.01 for discrete actions, 0 for continuous ones",
        low=0,
        high=1_000,
        absent=0.0,  # runs from before it was added
    )
    noise_correlation: float = option(
        0.0,
        "correlation of the exploration noise of continuous actions between neighbouring steps: it pushes in one direction for"
        " about 1 / (1 - correlation) steps",
        low=0,
        below=1,
    )
    max_grad_norm: float = option(0.5, "gradients are scaled down to this norm", above=0, high=1_000_000)
    skip_nonfinite: int = option(
        0,
        "optimizer steps in a row that may be skipped because the loss or a gradient is NaN or infinite (a rollout with such an"
        " observation or reward counts as one); one more ends the run",
        low=0,
        high=10**6,
    )
    kl_coef: float = option(
        0.3,
        "weight of the penalty KL(old || new), which still acts where the clipped ratio has no gradient",
        low=0,
        high=1_000,
    )
    advantage_floor: float = option(
        0.2, "advantages are divided by their standard deviation, but never by less than this", above=0, high=1_000_000
    )
    normalize_advantage: bool = option(True, "give advantages mean 0 and standard deviation 1 in each minibatch")
    normalize_reward: bool = option(
        False,
        "divide rewards by the running standard deviation of the discounted return, for tasks whose returns are far from 1",
    )

    def summary(self) -> str:
        return f"{self.num_envs} rows x {self.rollout} steps per update"

    def minibatch_count(self) -> int:
        """Minibatches per epoch."""
        if self.minibatches is not None:
            return self.minibatches
        return max(count for count in range(1, MOST_MINIBATCHES + 1) if self.num_envs % count == 0)

    def fitted(self, recommended: Collection[str]) -> PPOConfig:
        unfit = "minibatches" in recommended and self.minibatches is not None and self.num_envs % self.minibatches
        return dataclasses.replace(self, minibatches=None) if unfit else self

    def problems(self) -> Iterator[str]:
        if self.minibatches is not None and self.num_envs % self.minibatches:
            yield (
                f"algo.minibatches={self.minibatches}: expected a divisor of algo.num_envs={self.num_envs},"
                f" such as {nearest_divisor(self.num_envs, self.minibatches)}"
            )
        if not self.normalize_advantage and self.advantage_floor != PPOConfig.advantage_floor:
            yield (
                f"algo.advantage_floor={self.advantage_floor:g}: has no effect with algo.normalize_advantage=false; leave it out"
            )


@dataclass(frozen=True)
class ImitationConfig(AlgoConfig):
    """Options of algorithms that imitate whole episodes."""

    learning_rate: float = option(1e-3, "AdamW's step size at the start", above=0, high=10)
    weight_decay: float = option(0.0, "AdamW's decay of weights", low=0, high=10)
    schedule: str = option(
        "linear",
        "step size over the run: constant, linear to zero, or cosine to zero",
        choices=("constant", "linear", "cosine"),
    )
    max_grad_norm: float = option(1.0, "gradients are scaled down to this norm", above=0, high=1_000_000)
    skip_nonfinite: int = option(
        0,
        "optimizer steps in a row that may be skipped because the loss or a gradient is NaN or infinite; one more ends the run",
        low=0,
        high=10**6,
    )

    imitates: ClassVar[bool] = True

    def problems_with(self, run: TrainConfig) -> Iterator[str]:
        name = run.algo.name
        if run.memory.scope != "episode":
            yield f"memory.scope={run.memory.scope}: algo={name} learns from single episodes; expected memory.scope=episode"
        if run.memory.carry:
            yield f"memory.carry={run.memory.carry:g}: algo={name} learns from single episodes; leave it out"
        if run.policy.critic == "separate":
            expected = "policy.critic=shared" if run.init is None else "init=<a policy with policy.critic=shared>"
            yield f"policy.critic=separate: algo={name} learns no values; expected {expected}"


@builtin("algo", "supervised", "rmt_rl.algos.supervised:SupervisedLearner")
@dataclass(frozen=True)
class SupervisedConfig(ImitationConfig):
    """Supervised: the correct answers in new episodes of the task, with a curriculum (Bulatov et al. 2023, arXiv 2304.11062)."""

    num_envs: int = option(
        64, "rows B: whole episodes in a batch, of which one optimizer step is made", low=1, high=2**20
    )
    stages: int = option(
        1,
        "stages of the curriculum; in stage k of n the task's option `grows` has k/n of its value",
        low=1,
        high=1_000,
    )
    grows: str = option(
        "length",
        "the option of the task that grows from stage to stage, such as pairs",
        form=("the name of an option", r"[a-z_]+"),
    )
    advance: float = option(
        0.95, "share of 256 episodes without a wrong answer from which on the next stage begins", above=0, high=1
    )

    def summary(self) -> str:
        stages = f", {self.stages} stages of {self.grows}" if self.stages > 1 else ""
        return f"{self.num_envs} episodes per update{stages}"

    def problems_with(self, run: TrainConfig) -> Iterator[str]:
        yield from super().problems_with(run)
        full = getattr(run.env, self.grows, None)
        if self.stages > 1 and (isinstance(full, bool) or not isinstance(full, int)):
            yield (
                f"algo.grows={self.grows}: env={run.env.name} has no such option with a whole number; expected one that it has"
            )
        elif self.stages > 1 and isinstance(full, int) and full < self.stages:
            yield f"algo.stages={self.stages}: env.{self.grows} is {full}; expected at most as many stages"


@builtin("algo", "rate", "rmt_rl.algos.rate:RATELearner")
@dataclass(frozen=True)
class RATEConfig(ImitationConfig):
    """Offline: return-conditioned imitation of recorded episodes (RATE, Cherepanov et al. 2023, arXiv 2306.09459)."""

    returns: bool = option(True, "condition the policy on the return to go; false = behaviour cloning")
    target_return: float | None = option(
        None, "target return when acting; null = the best in the data", low=-LARGEST_RETURN, high=LARGEST_RETURN
    )
    batch: int = option(16, "episodes in a batch", low=1, high=2**20)
    length: int | None = option(
        None, "steps of every episode to learn from, counted from its start; null = all", low=1, high=10**9
    )
    cut: str = option(
        "none",
        "shorten episodes further: varied = each batch to a random number of segments, growing = from one segment at the start to"
        " the whole episode at the middle of the run (a curriculum, arXiv 2304.11062)",
        choices=("none", "varied", "growing"),
    )
    detach_memory: bool = option(
        False, "cut the gradient between segments and make one optimizer step per segment, as the released code does"
    )
    validation: float = option(
        0.1, "share of the episodes held out for validation; the weights that do best on them are kept", low=0, below=1
    )

    offline: ClassVar[bool] = True
    requires: ClassVar[tuple[str, ...]] = ("offline", "minari", "h5py", "torchrl", "tensordict")

    def training_rows(self) -> int:
        return 1

    def summary(self) -> str:
        return f"{self.batch} episodes per batch"

    def problems(self) -> Iterator[str]:
        if not self.returns and self.target_return is not None:
            yield f"algo.target_return={self.target_return}: has no effect with algo.returns=false; give only one of them"

    def problems_with(self, run: TrainConfig) -> Iterator[str]:
        yield from super().problems_with(run)
        changed = [
            name
            for name in ("bptt_segments", "cache_gradient")
            if getattr(run.policy, name, None) != getattr(type(run.policy), name, None)
        ]
        if self.detach_memory and changed:
            yield (
                f"policy.{changed[0]}: has no effect with algo.detach_memory=true, which cuts the gradient at the end of every"
                " segment; leave one of them out"
            )
        if not run.policy.has_segments and (self.detach_memory or self.cut != "none"):
            option = "detach_memory=true" if self.detach_memory else f"cut={self.cut}"
            yield (
                f"algo.{option}: works on segments, which policy={run.policy.name} does not have; expected one of rmt, trxl,"
                " gtrxl, window"
            )
