"""How long a policy keeps its memory."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from rmt_rl.common.errors import ConfigError
from rmt_rl.config.fields import Config, option, options, show
from rmt_rl.config.registry import builtin

#: The options of MemoryConfig that say when carry and the cost of writing rise.
RAMP = ("ramp", "ramp_start", "ramp_end")


@builtin("memory", "memory", "")
@dataclass(frozen=True)
class MemoryConfig(Config):
    """How long a policy keeps its memory."""

    scope: str = option(
        "episode",
        "memory is reset after each episode, each trial of `memory.episodes` episodes, or never (run); trial and run"
        " add the previous reward and an episode-start flag",
        choices=("episode", "trial", "run"),
    )
    episodes: int = option(4, "episodes per trial; scope run is evaluated in trials of this many", low=1, high=10**6)
    carry: float = option(
        0.0,
        "probability that a row keeps its memory at the end of an episode, in training only",
        low=0,
        high=1,
    )
    ramp: str = option(
        "steps",
        "carry and policy.write_cost rise with steps, success in training, or its best so far",
        choices=("steps", "success", "best_success"),
    )
    ramp_start: float = option(0.0, "where they begin to rise, as a share of the run or as success", low=0, high=1)
    ramp_end: float = option(0.0, "where they have their full value; 0 = from the first step", low=0, high=1)

    def risen(self, progress: float, success: float | None) -> float:
        """The factor (0..1) of `carry` and of the cost of writing, at `progress` of the run and `success` (both 0..1).

        success: of the latest episodes, or the best so far with ramp=best_success.
        """
        reached = progress if self.ramp == "steps" else success or 0.0
        if reached >= self.ramp_end:
            return 1.0
        if reached <= self.ramp_start:
            return 0.0
        return (reached - self.ramp_start) / (self.ramp_end - self.ramp_start)

    def beside(self, given: Mapping[str, Any], costs: float) -> MemoryConfig:
        """These options, of a policy that training starts from, with the `given` ones changed. costs: the policy's write_cost.

        A ramp that the given options contradict is left out, as it is of a recipe.
        """
        taken = dataclasses.replace(self, **given)
        usual = {name: getattr(MemoryConfig, name) for name in RAMP if name not in given}
        own = {name: getattr(self, name) for name in RAMP}
        return dataclasses.replace(taken, **usual | ramp_beside(own, given, bool(taken.carry or costs)))

    def problems_together(self) -> Iterator[str]:
        """What does not fit together; beside `init`, only once the options of its policy are known."""
        if self.ramp_start > self.ramp_end:
            yield (
                f"memory.ramp_start={self.ramp_start:g}: expected at most memory.ramp_end={self.ramp_end:g};"
                " between the two memory.carry and policy.write_cost rise"
            )
        if self.ramp == "steps" and self.ramp_start == 1:
            yield "memory.ramp_start=1: nothing would rise before the run ends; expected a share of the run below 1"
        if self.ramp != "steps" and not self.ramp_end:
            yield (
                f"memory.ramp={self.ramp}: has no effect with memory.ramp_end=0; expected a success above 0, such as 0.95"
            )
        if self.carry and self.scope == "run":
            yield f"memory.carry={self.carry:g}: has no effect with memory.scope=run, which never resets the memory; leave it out"
        if self.scope == "episode" and self.episodes != MemoryConfig.episodes:
            yield f"memory.episodes={self.episodes}: has no effect with memory.scope=episode; expected trial or run"


def ramp_beside(ramp: Mapping[str, Any], given: Mapping[str, Any], rises: bool) -> dict[str, Any]:
    """What still holds of a ramp, of a recipe or of a policy that training starts from, beside the `given` options.

    Both by names in MemoryConfig. rises: whether there is anything to rise. If one bound is given, the other follows it.
    """
    kinds = {given.get("ramp"), ramp.get("ramp", given.get("ramp"))}
    steps_and_success = "ramp" in given and "steps" in kinds and len(kinds) > 1  # their bounds mean different things
    if steps_and_success or given.get("ramp_end") == 0 or not rises:
        return {}
    kept = {name: value for name, value in ramp.items() if name not in given}
    if "ramp_end" in given and "ramp_start" in kept:
        kept["ramp_start"] = min(kept["ramp_start"], given["ramp_end"])
    if "ramp_start" in given and "ramp_end" in kept:
        kept["ramp_end"] = max(kept["ramp_end"], given["ramp_start"])
    return kept


def check_memory_given(names: Any) -> None:
    """Raise ConfigError where `TrainConfig.memory_given`, as read from a file, is something else."""
    known = options(MemoryConfig)
    if names is not None and not (isinstance(names, list) and all(isinstance(x, str) and x in known for x in names)):
        raise ConfigError(f"memory_given={show(names)}: expected a list of names of options of memory, such as carry")
