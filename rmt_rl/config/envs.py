"""Options of all environments (those of MiniGrid: minigrid.py). Each class is registered together with its environment."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

from rmt_rl.config.bases import EnvConfig
from rmt_rl.config.fields import option
from rmt_rl.config.minigrid import MINIGRID_IDS as MINIGRID_IDS
from rmt_rl.config.minigrid import DoorKeyConfig as DoorKeyConfig
from rmt_rl.config.minigrid import MiniGridMemoryConfig as MiniGridMemoryConfig
from rmt_rl.config.minigrid import RedBlueDoorsConfig as RedBlueDoorsConfig
from rmt_rl.config.popgym import POPGymConfig as POPGymConfig
from rmt_rl.config.registry import GROUPS, OBJECTS, Entry, builtin


def _min_length_problems(env: Any) -> Iterator[str]:
    if env.min_length is not None and env.min_length > env.length:
        yield f"env.min_length={env.min_length}: expected at most env.length={env.length}"


@builtin("env", "tmaze", "rmt_rl.envs.tmaze.passive:TMaze")
@dataclass(frozen=True)
class TMazeConfig(EnvConfig):
    """Passive T-maze (Ni et al. 2023): the cue is visible at the first step, the turn comes `length` steps later."""

    length: int = option(
        10, "steps from the cue to the junction; with min_length: the longest corridor", low=1, high=10_000_000
    )
    min_length: int | None = option(
        None, "draw the length of every episode from min_length..length; null = all equal", low=1, high=10_000_000
    )
    end_at_turn: bool = option(False, "end the episode when an arm is entered, instead of after length + 1 steps")
    distractors: bool = option(False, "also show numbers without meaning at every step, so that all episodes differ")

    def problems(self) -> Iterator[str]:
        yield from _min_length_problems(self)


@builtin("env", "tmaze-active", "rmt_rl.envs.tmaze.variants:TMazeActive")
@dataclass(frozen=True)
class TMazeActiveConfig(EnvConfig):
    """Active T-maze (Ni et al. 2023): the cue is one step behind the start and must be fetched first."""

    length: int = option(
        10, "steps from the start to the junction; with min_length: the longest corridor", low=1, high=10_000_000
    )
    min_length: int | None = option(
        None, "draw the length of every episode from min_length..length; null = all equal", low=1, high=10_000_000
    )

    def problems(self) -> Iterator[str]:
        yield from _min_length_problems(self)


@builtin("env", "tmaze-rate", "rmt_rl.envs.tmaze.variants:TMazeRATE")
@dataclass(frozen=True)
class TMazeRATEConfig(EnvConfig):
    """The passive T-maze of RATE (Cherepanov et al. 2023): noise observations, a flag at the junction, no penalty."""

    length: int = option(
        28, "steps from the cue to the junction, RATE's T - 2; with min_length: the longest", low=1, high=10_000_000
    )
    min_length: int | None = option(
        None, "draw the length of every episode from min_length..length; null = all equal", low=1, high=10_000_000
    )

    def problems(self) -> Iterator[str]:
        yield from _min_length_problems(self)


@builtin("env", "tmaze-trial", "rmt_rl.envs.tmaze.variants:TMazeTrial")
@dataclass(frozen=True)
class TMazeTrialConfig(EnvConfig):
    """Several walks through one passive T-maze; only the first shows the cue: memory across episodes."""

    episodes: int = option(4, "walks of a trial, which is one episode", low=2, high=1_000_000)
    length: int = option(
        10, "steps from the start to the junction; with min_length: the longest corridor", low=1, high=10_000_000
    )
    min_length: int | None = option(
        None, "draw the length of every trial from min_length..length; null = all equal", low=1, high=10_000_000
    )

    def problems(self) -> Iterator[str]:
        yield from _min_length_problems(self)


@builtin("env", "tmaze-endless", "rmt_rl.envs.tmaze.endless:TMazeEndless")
@dataclass(frozen=True)
class TMazeEndlessConfig(EnvConfig):
    """Endless T-maze (arXiv 2601.15086): corridor after corridor, each with a new cue that replaces the one before."""

    corridors: int = option(3, "corridors to walk", low=1, high=1_000_000)
    length: int = option(5, "steps of a corridor; with uniform: of the longest", low=1, high=1_000_000)
    uniform: bool = option(True, "draw the length of every corridor from 1..length; false = all equal")


@builtin("env", "color-cubes", "rmt_rl.envs.tasks.color_cubes:ColorCubes")
@dataclass(frozen=True)
class ColorCubesConfig(EnvConfig):
    """Color-Cubes (arXiv 2601.15086): walk to the cube of a given color; cubes that have been moved are shown once."""

    size: int = option(5, "width and height of the room", low=2, high=100)
    cubes: int = option(3, "cubes, each of its own color; 1 with phases=1 is the paper's trivial case", low=1, high=100)
    phases: int = option(3, "targets to reach, one after the other", low=1, high=1_000_000)
    teleport: float = option(0.1, "probability of each step that a cube other than the target is moved", low=0, high=1)
    hide_colors: bool = option(False, "show the cells of all cubes after a move, without their colors (extreme)")

    def problems(self) -> Iterator[str]:
        if self.cubes > self.size**2 - 2:
            most = self.size**2 - 2
            yield f"env.cubes={self.cubes}: expected at most {most}, so that a cell is free with env.size={self.size}"


@builtin("env", "memory-len", "rmt_rl.envs.tasks.memory_len:MemoryLen")
@dataclass(frozen=True)
class MemoryLenConfig(EnvConfig):
    """bsuite's memory_len (Osband et al. 2020): report a bit shown at the first step."""

    length: int = option(10, "the bit was last visible length - 1 steps before the question", low=1, high=10_000_000)
    bits: int = option(1, "bits shown, one of which is queried; more than 1 is bsuite's memory_size", low=1, high=1_000)


@builtin("env", "copy", "rmt_rl.envs.tasks.copy_reverse:Copy")
@dataclass(frozen=True)
class CopyConfig(EnvConfig):
    """Copy or reverse (Bulatov et al. 2022): see a string of symbols, then reproduce it."""

    symbols: int = option(8, "number of different symbols", low=2, high=1_000)
    length: int = option(5, "symbols of a string", low=1, high=1_000_000)
    delay: int = option(0, "steps between the last symbol and the first answer", low=0, high=10_000_000)
    reverse: bool = option(False, "reproduce the last symbol first")


@builtin("env", "associative-retrieval", "rmt_rl.envs.tasks.associative_retrieval:AssociativeRetrieval")
@dataclass(frozen=True)
class AssociativeRetrievalConfig(EnvConfig):
    """Associative retrieval (Bulatov et al. 2022, Rodkin et al. 2024): pairs of key and value, then a key."""

    keys: int = option(8, "number of different keys", low=1, high=10_000)
    values: int = option(8, "number of different values", low=2, high=1_000)
    pairs: int = option(4, "pairs shown", low=1, high=10_000)
    queries: int = option(1, "keys queried, one after the other", low=1, high=1_000)
    delay: int = option(0, "steps between the last pair and the first query", low=0, high=10_000_000)
    rewrite: bool = option(False, "keys repeat and their latest value counts; false = no key is shown twice")

    def problems(self) -> Iterator[str]:
        if self.pairs > self.keys and not self.rewrite:
            yield f"env.pairs={self.pairs}: expected at most env.keys={self.keys}, or env.rewrite=true"
        if self.queries > self.pairs:
            yield f"env.queries={self.queries}: expected at most env.pairs={self.pairs}"


@builtin("env", "detect", "rmt_rl.envs.tasks.detect_reasoning:Detect")
@dataclass(frozen=True)
class DetectConfig(EnvConfig):
    """Detect and memorise (Bulatov et al. 2023): a cue at a random time among distractors, queried at the end."""

    cues: int = option(4, "number of different cues", low=2, high=1_000)
    distractors: int = option(8, "number of different distractors; 1 = silence", low=1, high=1_000)
    length: int = option(20, "steps before the question; the cue is shown at one of them", low=1, high=10_000_000)


@builtin("env", "reasoning", "rmt_rl.envs.tasks.detect_reasoning:Reasoning")
@dataclass(frozen=True)
class ReasoningConfig(EnvConfig):
    """Reasoning (Bulatov et al. 2023): two facts at random times among distractors, the answer needs both."""

    values: int = option(6, "values of each fact, and answers", low=2, high=1_000)
    distractors: int = option(8, "number of different distractors; 1 = silence", low=1, high=1_000)
    length: int = option(20, "steps before the question; the facts are shown at two of them", low=2, high=10_000_000)


@builtin("env", "repeat-first", "rmt_rl.envs.tasks.repeat:RepeatFirst")
@dataclass(frozen=True)
class RepeatFirstConfig(EnvConfig):
    """The rules of POPGym's RepeatFirst (Morad et al. 2023), any number of decks: report the first card's suit at every step."""

    decks: int = option(1, "decks of 52 cards; 1, 8, 16 = POPGym's easy, medium, hard", low=1, high=100_000)


@builtin("env", "repeat-previous", "rmt_rl.envs.tasks.repeat:RepeatPrevious")
@dataclass(frozen=True)
class RepeatPreviousConfig(EnvConfig):
    """The rules of POPGym's RepeatPrevious (Morad et al. 2023), any k: report the suit of the card seen k - 1 steps ago."""

    decks: int = option(1, "decks of 52 cards; 1, 2, 3 = POPGym's easy, medium, hard", low=1, high=100_000)
    k: int = option(4, "which card; 1 would be the visible one; 4, 32, 64 = easy, medium, hard", low=2, high=100_000)

    def problems(self) -> Iterator[str]:
        if self.k >= 52 * self.decks:
            most = 52 * self.decks - 1
            yield f"env.k={self.k}: expected at most {most}, one less than the cards of env.decks={self.decks}"


@builtin("env", "bandit", "rmt_rl.envs.tasks.bandit:Bandit")
@dataclass(frozen=True)
class BanditConfig(EnvConfig):
    """Bernoulli bandit (RL^2, Duan et al. 2016): one trial of many pulls is one episode."""

    arms: int = option(5, "arms, each with its own payout probability", low=2, high=1_000)
    length: int = option(100, "pulls of a trial", low=1, high=1_000)


@builtin("env", "dark-room", "rmt_rl.envs.tasks.dark_room:DarkRoom")
@dataclass(frozen=True)
class DarkRoomConfig(EnvConfig):
    """Dark Room (Laskin et al. 2022): a hidden goal on 9 x 9 cells, the same for all inner episodes of a trial."""

    episodes: int = option(
        5, "inner episodes of a trial, which is one episode; 1 = the control without a trial", low=1, high=1_000_000
    )


@builtin("env", "gym", "rmt_rl.envs.gym.adapter:GymAdapter")
@dataclass(frozen=True)
class GymConfig(EnvConfig):
    """Any gymnasium environment, through gymnasium.make_vec."""

    id: str = option("CartPole-v1", "a registered gymnasium id, or module:id", form=("an id without spaces", r"\S+"))
    options: dict[str, Any] = option({}, "keyword arguments for gymnasium.make")
    action_mask: str = option(
        "method",
        "where masks of the actions come from if the observation has no entry action_mask: method = the environment's method"
        " action_masks(), if it has one; info = info['action_mask']; none = there are none",
        choices=("method", "info", "none"),
        absent="none",
    )
    add_info: str | None = option(
        None,
        "an entry of info, numbers of one shape, that becomes an entry of the observation, such as state for policy.critic_only",
        form=("the name of an entry", r".+"),
    )
    text: bool = option(True, "shows text in the observation to the policy; false = it is left out", absent=False)
    workers: str = option(
        "sync",
        "sync = all rows in this process, async = one process per row, ray = actors of Ray, on the machines of its cluster",
        choices=("sync", "async", "ray"),
    )
    rows_per_worker: int | None = option(
        None, "rows in one actor (workers=ray); null = spread evenly over the cluster's cores", low=1, high=1_000_000
    )
    deadline: float = option(
        60.0,
        "seconds a worker may take for a step or a reset of its rows, and to start if more than 120 (workers=async, ray)",
        above=0,
        high=1e6,
    )
    on_fault: str = option(
        "fail",
        "when a worker dies, hangs or raises (workers=async, ray): fail = the run ends with an error that names the row;"
        " restart = the episode of that row is truncated and a new worker starts the next one",
        choices=("fail", "restart"),
    )

    def problems(self) -> Iterator[str]:
        changed = [name for name in ("deadline", "on_fault") if getattr(self, name) != getattr(GymConfig, name)]
        if changed and self.workers == "sync":
            yield f"env.{changed[0]}: applies to worker processes only; expected env.workers=async or ray"
        if self.rows_per_worker is not None and self.workers != "ray":
            yield "env.rows_per_worker: applies to actors of Ray only; expected env.workers=ray"


@dataclass(frozen=True)
class NoEnvConfig(EnvConfig):
    """No environment: the spaces are those of the dataset, and nothing is evaluated (algo=rate with data=)."""

    entry: ClassVar[Entry]


# it is no task, so it is not listed among them
NoEnvConfig.name = "none"
NoEnvConfig.entry = Entry(NoEnvConfig, "rmt_rl.envs.recorded:no_environment", {"evaluate_episodes": 0})
OBJECTS[NoEnvConfig.name] = NoEnvConfig.entry

#: Names of the built-in environments; users may register more.
BUILTIN = tuple(GROUPS["env"])
