"""The classes from which the options of environments, policies and algorithms derive."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from rmt_rl.common.errors import ConfigError
from rmt_rl.config.fields import Config, option, show

#: What a registered name looks like; a file reads null, true and 1 as other values than text.
CHOICE = r"(?!(?i:null|true|false)$)[^\W\d_][\w.-]*"

#: Names in a list begin and end without a space.
NO_SPACES = r"(?!\s|.*(,\s|\s,|\s$))"


@dataclass(frozen=True)
class EnvConfig(Config):
    """Base class of the options of an environment."""

    def arguments(self) -> dict[str, Any]:
        """The keyword arguments of the environment's class."""
        return {item.name: getattr(self, item.name) for item in dataclasses.fields(self)}


@dataclass(frozen=True)
class PolicyConfig(Config):
    """Base class of the options of a policy. A subclass adds `width`, with a default of its own."""

    #: Whether the backbone processes an episode in segments of `segment` steps.
    has_segments: ClassVar[bool] = False

    params: int | None = option(
        None,
        "choose the width for about this number of parameters in the whole network, a separate critic included; null = use width",
        low=1,
        high=10**10,
    )
    previous_action: bool = option(True, "give the previous action to the network together with the observation")
    normalize_observation: bool = option(
        False,
        "give real numbers without bounds mean 0 and deviation 1, by the moments of all observations of the training",
    )
    critic: str = option(
        "shared",
        "shared = values are read from the actor's memory; separate = from a second network of the same kind and size with a"
        " memory of its own, whose gradient does not reach the actor",
        choices=("shared", "separate"),
    )
    critic_only: str | None = option(
        None,
        "entries of the observation that only the critic sees, separated by commas, such as state; acting does not need them"
        " (policy.critic=separate)",
        form=("names of entries, separated by commas without spaces", NO_SPACES + r"[^,]+(,[^,]+)*"),
    )
    encoder: str = option(
        "auto",
        "what turns an observation into a vector: auto = chosen from its space; or the name of an encoder of your own"
        " (rmt_rl.register_encoder)",
        form=("auto, or the name of a registered encoder", CHOICE),
    )
    encoder_options: dict[str, Any] = option({}, "keyword arguments of the class that policy.encoder names")

    def of_recipe(self, recipe: Mapping[str, Any], memory: Any, given: Collection[str]) -> dict[str, Any]:
        """What a run takes of the recipe of this policy: options by their full names, without those that are given.

        memory: the MemoryConfig of the run without the recipe.
        """
        return {name: value for name, value in recipe.items() if name not in given}

    def width_multiple(self) -> int:
        """Widths that `params` tries are multiples of this number."""
        return 1

    def problems(self) -> Iterator[str]:
        if self.params is not None and self.width != type(self).width:  # type: ignore[attr-defined]
            yield (
                f"policy.params={self.params}: chooses the width, but policy.width={self.width} is given too;"  # type: ignore[attr-defined]
                " give only one of them"
            )
        if self.critic_only is not None and self.critic == "shared":
            yield (
                f"policy.critic_only={show(self.critic_only)}: a shared critic sees what the actor sees; expected"
                " policy.critic=separate"
            )
        if self.encoder_options and self.encoder == "auto":
            yield (
                f"policy.encoder_options={show(self.encoder_options)}: has no effect with policy.encoder=auto; expected"
                " policy.encoder=<the name of an encoder of your own>"
            )

    @classmethod
    def complete(cls, given: Mapping[str, Any]) -> Mapping[str, Any]:
        """A number of parameters replaces a width from before, and a width replaces such a number; both together contradict."""
        if given.get("params") is None:
            return {**given, "params": None} if "width" in given else given
        # `problems` cannot distinguish a width that was given from the default
        if "width" in given:
            raise ConfigError(
                f"policy.params={given['params']}: policy.width={given['width']} is given too; give only one of them"
            )
        return {**given, "width": cls.width}  # type: ignore[attr-defined]


@dataclass(frozen=True)
class AlgoConfig(Config):
    """Base class of the options of an algorithm."""

    #: Whether it learns from recorded episodes (data=) instead of acting in the environment.
    offline: ClassVar[bool] = False
    #: Whether it imitates whole episodes, so that recipes and options about acting and carrying memory over do not apply.
    imitates: ClassVar[bool] = False
    #: The extra of this package that it needs, and the packages in it; empty = none.
    requires: ClassVar[tuple[str, ...]] = ()

    def training_rows(self) -> int:
        """Rows B of the environment that the algorithm trains on."""
        return getattr(self, "num_envs", 1)

    def summary(self) -> str:
        """What one update learns from, for the banner."""
        return f"{self.training_rows()} rows"

    def problems_with(self, run: Any) -> Iterator[str]:
        """One sentence for each option elsewhere in the run that does not fit this algorithm. run: a TrainConfig."""
        return iter(())
