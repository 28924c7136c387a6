"""Options of `python -m rmt_rl.memory`."""

from __future__ import annotations

from dataclasses import dataclass

from rmt_rl.config.commands import env_option, target_return_option, trust_option
from rmt_rl.config.fields import Config, option


@dataclass(frozen=True)
class MemoryReportConfig(Config):
    """What a trained policy keeps in its memory, and for how long."""

    policy: str = option(
        text="the folder of a trained policy, or zoo:<name>", form=("the folder of a trained policy", r".+")
    )
    env: str | None = env_option()
    env_overrides: tuple[str, ...] = ()  # the env.* options as typed; `resolve_env` applies them
    trust: bool = trust_option()
    episodes: int = option(128, "episodes to play at the same time", low=32, high=4_096)
    steps: int = option(1_000, "steps after which an episode is cut", low=2, high=1_000_000)
    hold: int | None = option(
        None,
        "the step whose observation is repeated to look for fixed points; null = the middle of the shortest episode, or the step"
        " after which the first variable is stored if that is later",
        low=0,
        high=1_000_000,
    )
    repeats: int = option(
        500, "segments (steps of a policy without segments) of that observation", low=1, high=1_000_000
    )
    out: str | None = option(
        None,
        "a new folder for the figure, the table and the numbers; null = only printed",
        form=("the path of a new folder", r".+"),
    )
    seed: int = option(0, "seeds the environments and sampling", low=0, high=2**31 - 1)
    threads: int = option(1, "CPU threads for torch", low=1, high=1_024)
    target_return: float | None = target_return_option()
    deterministic: bool = option(True, "take the most likely action; false = sample")
