"""Options of all commands."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from rmt_rl.config.bases import CHOICE, NO_SPACES
from rmt_rl.config.envs import NoEnvConfig
from rmt_rl.config.fields import DEVICE, FOLDER, LARGEST_RETURN, Config, option, show
from rmt_rl.config.memory import check_memory_given
from rmt_rl.config.policies import MLPConfig
from rmt_rl.config.registry import builtin, names


def _episode_steps() -> Any:
    return option(
        None,
        "steps after which an evaluation cuts an episode; null = 5,000 where one may never end",
        low=1,
        high=10**12,
    )


def _metrics_option() -> Any:
    return option(
        None,
        "numbers in the last info of episodes to average, such as distance,collisions",
        form=("names of numbers, separated by commas without spaces", NO_SPACES + r"[^,\[\]]+(,[^,\[\]]+)*"),
    )


def metric_names(metrics: str | None) -> tuple[str, ...]:
    """The names in the option `metrics`."""
    return () if metrics is None else tuple(metrics.split(","))


def metrics_problems(metrics: str | None) -> Iterator[str]:
    """One sentence for each name in the option `metrics` that cannot be meant."""
    names = metric_names(metrics)
    if known := [name for name in names if name in ("success", "return", "length")]:
        yield f"metrics={show(metrics)}: {known[0]} is measured anyway; leave it out"
    if len({*names}) < len(names):
        yield f"metrics={show(metrics)}: has a name twice; expected each once"


@builtin("until", "until", "")
@dataclass(frozen=True)
class UntilConfig(Config):
    """When a run may end before its last step."""

    success: float | None = option(
        None,
        "stop at an evaluation with this success rate; needs evaluate_every",
        above=0,
        high=1,
    )
    mean_return: float | None = option(
        None,
        "stop at an evaluation with this mean return; needs evaluate_every",
        low=-LARGEST_RETURN,
        high=LARGEST_RETURN,
    )


@dataclass(frozen=True)
class ReturnConditioning(Config):
    """The target return of a return-conditioned policy, which was trained on returns to go from `low` to `high`."""

    target: float = option(0.0, "target return of the whole episode", low=-LARGEST_RETURN, high=LARGEST_RETURN)
    low: float = option(0.0, "smallest return to go in the data", low=-LARGEST_RETURN, high=LARGEST_RETURN)
    high: float = option(1.0, "largest return to go in the data", low=-LARGEST_RETURN, high=LARGEST_RETURN)


ReturnConditioning.name = "returns"


@dataclass(frozen=True)
class TrainConfig(Config):
    """One training run."""

    # each holds a dataclass of its group in the registry; "group" names the default choice
    env: Any = field(
        default=None,
        metadata={
            "help": "the task; without env= that of data=; none = learn from data= alone",
            "group": "minigrid-memory",
        },
    )
    algo: Any = field(default=None, metadata={"help": "how the policy learns", "group": "ppo"})
    policy: Any = field(default=None, metadata={"help": "the network that acts and remembers", "group": "rmt"})
    memory: Any = field(default=None, metadata={"help": "how long memory is kept", "group": "memory"})
    until: Any = field(default=None, metadata={"help": "when to stop early", "group": "until"})
    # names of options in `memory` that win over those of the policy of init; None = all of them
    memory_given: list[str] | None = None
    seed: int = option(0, "seeds environments, weights and sampling", low=0, high=2**31 - 1)
    steps: int = option(
        750_000,
        "environment steps of all rows together; for algo=rate recorded steps to learn from",
        low=1,
        high=10**12,
    )
    data: str | None = option(
        None,
        "recorded episodes for algo=rate: Minari id or folder; null = 2,000 of the task's oracle",
        form=("the id or the folder of a Minari dataset", r".+"),
    )
    init: str | None = option(
        None,
        "trained policy to start from, a folder or zoo:<name>; its policy.* options come with it",
        form=("the folder of a trained policy", r".+"),
    )
    resume: str | None = option(
        None,
        "folder of a run to continue, with its own configuration; steps=<more>: beyond its end",
        form=("the folder of a run", r".+"),
    )
    checkpoint_steps: int | None = option(
        100_000,
        "environment steps between checkpoints; two are kept; null = only at start and stop",
        low=1,
        high=10**12,
    )
    run: str | None = option(
        None, "name of the new folder under runs/; null = made from task, policy and seed", form=FOLDER
    )
    device: str = option("auto", "cpu, cuda, cuda:N, or auto = a GPU if there is one", form=DEVICE)
    threads: int = option(1, "CPU threads for torch; 1 is the fastest for small networks", low=1, high=1_024)
    evaluate_episodes: int = option(
        400, "new episodes played with the final policy after training; 0 = none", low=0, high=10_000_000
    )
    evaluate_every: int | None = option(
        None, "training steps between evaluations; keeps the best policy in best/; null = never", low=1, high=10**12
    )
    validation_episodes: int = option(64, "episodes of each evaluation during training", low=1, high=10_000_000)
    video_every: int | None = option(
        None, "training steps between videos of an episode (videos/, loggers); null = none", low=1, high=10**12
    )
    episode_steps: int | None = _episode_steps()
    metrics: str | None = _metrics_option()
    tensorboard: bool = option(False, "write TensorBoard event files too")
    wandb: bool = option(False, "log to Weights & Biases too (needs the extra: pip install 'rmt_rl[wandb]')")

    def problems(self) -> Iterator[str]:
        if self.data is not None and not self.algo.offline:
            yield f"data={show(self.data)}: has no effect with algo={self.algo.name}; expected algo=rate"
        yield from self.algo.problems_with(self)
        check_memory_given(self.memory_given)
        if self.memory_given is None:  # otherwise policy and memory are not known yet
            yield from self._problems_of_memory()
        yield from metrics_problems(self.metrics)
        if isinstance(self.env, NoEnvConfig):
            yield from self._problems_without_env()
        if self.run is not None and len(self.run.encode()) > 200:
            yield f"run={show(self.run)}: expected at most 200 bytes, found {len(self.run.encode())}"
        for name in ("success", "mean_return"):
            if getattr(self.until, name) is not None and self.evaluate_every is None:
                yield f"until.{name}={getattr(self.until, name)}: needs evaluations during training; give evaluate_every=<steps>"

    def _problems_of_memory(self) -> Iterator[str]:
        if self.memory.carry and isinstance(self.policy, MLPConfig) and not self.policy.previous_action:
            yield f"memory.carry={self.memory.carry:g}: has no effect with policy=mlp, which has no memory; leave it out"
        rises = self.memory.carry or (getattr(self.policy, "write_cost", 0) and not self.algo.imitates)
        if (self.memory.ramp_end or self.memory.ramp != "steps") and not rises:
            name = "ramp_end" if self.memory.ramp_end else "ramp"
            what = f"memory.{name}={show(getattr(self.memory, name))}: has no effect, because nothing rises"
            yield f"{what}; expected memory.carry, or policy.write_cost with an algorithm that acts in an environment"
        yield from self.memory.problems_together()

    def _problems_without_env(self) -> Iterator[str]:
        if not self.algo.offline:
            yield f"env=none: algo={self.algo.name} acts in an environment; expected algo=rate with data=<a Minari dataset>"
        if self.data is None:
            yield "env=none: there are no episodes to learn from; expected data=<the id or the folder of a Minari dataset>"
        unset = dict.fromkeys(("evaluate_every", "video_every", "episode_steps", "metrics"))
        for name, value in {"evaluate_episodes": 0, **unset}.items():
            if getattr(self, name) != value:
                yield (
                    f"{name}={getattr(self, name)}: env=none has no environment to play in; expected {name}={show(value)}, or"
                    " env=<a task>"
                )


def env_option() -> Any:
    return option(
        None,
        "the task; null = the one that the policy was trained on, changed by env.* options",
        choices=lambda: names("env"),
    )


def trust_option() -> Any:
    return option(
        False,
        "the policy's files may name a module to import, as in env.id=module:id, which can run any code; not one in its folder",
    )


def target_return_option() -> Any:
    return option(
        None,
        "target return of a return-conditioned policy; null = the one it was saved with",
        low=-LARGEST_RETURN,
        high=LARGEST_RETURN,
    )


@dataclass(frozen=True)
class EvaluateConfig(Config):
    """One evaluation of a saved policy."""

    policy: str = option(
        text="the folder of a trained policy, or zoo:<name>", form=("the folder of a trained policy", r".+")
    )
    env: str | None = env_option()
    env_overrides: tuple[str, ...] = ()  # the env.* options as typed; `resolve_env` applies them
    trust: bool = trust_option()
    episodes: int = option(400, "episodes to play; fewer where these are all that a task has", low=1, high=10_000_000)
    seed: int = option(0, "seeds environments and sampling", low=0, high=2**31 - 1)
    device: str = option("auto", "cpu, cuda, cuda:N, or auto = a GPU if there is one", form=DEVICE)
    threads: int = option(1, "CPU threads for torch", low=1, high=1_024)
    num_envs: int = option(64, "episodes played at the same time; never more than episodes", low=1, high=2**20)
    target_return: float | None = target_return_option()
    deterministic: bool = option(True, "take the most likely action; false = sample")
    episode_steps: int | None = _episode_steps()
    metrics: str | None = _metrics_option()

    def problems(self) -> Iterator[str]:
        yield from metrics_problems(self.metrics)


@dataclass(frozen=True)
class PlayConfig(Config):
    """A picture of some episodes, or a page about the memory in one."""

    policy: str = option(
        "random",
        "the folder of a trained policy, or zoo:<name>, or random, or human-keys = actions are read from the terminal",
        form=("the folder of a trained policy, random or human-keys", r".+"),
    )
    env: str | None = env_option()
    env_overrides: tuple[str, ...] = ()  # the env.* options as typed; `resolve_env` applies them
    trust: bool = trust_option()
    episodes: int = option(
        1,
        "episodes to play, one after the other; trials for a policy whose memory.scope is trial or run",
        low=1,
        high=1_000,
    )
    frames: int = option(200, "steps after which the picture ends; all frames are held in memory", low=1, high=2_000)
    fps: float = option(4.0, "frames per second; a GIF allows up to 50", low=0.1, high=60.0)
    probe: int = option(
        128,
        "with a page: other episodes from which it learns to read the task's hidden variable from the memory",
        low=16,
        high=4_096,
    )
    out: str | None = option(
        None,
        "the file to write: .gif; .mp4 where ffmpeg is installed; .html = a page that shows one episode and the memory of a"
        " trained policy; null = play-<task>-s<seed>.gif in the current folder",
        form=("the path of a new .gif, .mp4 or .html file", r".+\.(gif|mp4|html)"),
    )
    seed: int = option(0, "seeds the environment and sampling", low=0, high=2**31 - 1)
    target_return: float | None = target_return_option()
    deterministic: bool = option(True, "take the most likely action; false = sample")

    def problems(self) -> Iterator[str]:
        page = self.out is not None and self.out.endswith(".html")
        if page and self.policy in ("random", "human-keys"):
            yield (
                f"out={show(self.out)}: a page shows the memory of a trained policy; expected policy=<its folder>, or the path"
                " of a .gif file"
            )
        if page and self.episodes != 1:
            yield f"episodes={self.episodes}: a page shows one episode; expected episodes=1, or the path of a .gif file"
        if not page and self.probe != 128:
            yield f"probe={self.probe}: has no effect without a page; expected out=<the path of an .html file>"


@dataclass(frozen=True)
class CollectConfig(Config):
    """Recorded episodes."""

    out: str = option(
        text="id of the Minari dataset to write, such as tmaze/oracle-v0", form=("an id such as tmaze/oracle-v0", r".+")
    )
    policy: str = option(
        "oracle",
        "what acts: the folder of a trained policy, or zoo:<name>, or oracle = the task's optimal rule with the hidden"
        " information, or random",
        form=("the folder of a trained policy, oracle or random", r".+"),
    )
    env: str | None = env_option()
    env_overrides: tuple[str, ...] = ()  # the env.* options as typed; `resolve_env` applies them
    trust: bool = trust_option()
    episodes: int = option(2_000, "episodes to record", low=1, high=10_000_000)
    seed: int = option(0, "seeds environments and sampling", low=0, high=2**31 - 1)
    num_envs: int = option(256, "episodes played at the same time and held in memory", low=1, high=2**20)
    deterministic: bool = option(True, "take the most likely action; false = sample")
    episode_steps: int | None = _episode_steps()
    device: str = option("auto", "cpu, cuda, cuda:N, or auto = a GPU if there is one", form=DEVICE)
    threads: int = option(1, "CPU threads for torch", low=1, high=1_024)


@dataclass(frozen=True)
class ExportConfig(Config):
    """One saved policy as a program of tensors."""

    policy: str = option(
        text="the folder of a trained policy, or zoo:<name>", form=("the folder of a trained policy", r".+")
    )
    out: str | None = option(
        None,
        "the folder to write; null = export/ beside the policy's folder, and export-<name>/ in the current one for zoo:<name>",
        form=("the path of a new folder", r".+"),
    )
    num_envs: int = option(1, "rows that the program takes at a time", low=1, high=65_536)
    onnx: bool = option(False, "write step.onnx too (needs the extra: pip install 'rmt_rl[onnx]')")


@dataclass(frozen=True)
class ZooConfig(Config):
    """The trained policies that come with this package; without options they are listed."""

    show: str | None = option(None, "name of the policy whose card is printed", form=("the name of a policy", r".+"))
    add: str | None = option(
        None,
        "folder of a run whose policy becomes one of the zoo; for developers of this package",
        form=("the folder of a run", r".+"),
    )
    name: str | None = option(None, "name of the new policy (add=)", form=("a name", CHOICE))  # type: ignore[assignment,misc]
    episodes: int = option(1_000, "episodes that score the new policy (add=)", low=2, high=100_000)
    seed: int = option(0, "seeds these episodes (add=)", low=0, high=2**31 - 1)
    deterministic: bool = option(True, "these episodes take the most likely action; false = sample (add=)")

    def problems(self) -> Iterator[str]:
        if self.add is not None and self.show is not None:
            yield f"show={show(self.show)}: has no effect with add=; expected one of the two"
        if self.add is not None and self.name is None:
            yield "name: missing; expected name=<name of the new policy>, such as name=tmaze-rmt"
        changed = [
            key
            for key in ("name", "episodes", "seed", "deterministic")
            if getattr(self, key) != getattr(ZooConfig, key)
        ]
        if changed and self.add is None:
            yield f"{changed[0]}={show(getattr(self, changed[0]))}: has no effect without add=<the folder of a run>"
