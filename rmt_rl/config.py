"""All options of rmt_rl: frozen, torch-free dataclasses, the only place where a field, its default and its help live.

Below them stand the checks. `validate` is the only judge of a configuration, wherever it came from: command line, file
or Python. This file is not for parsing the command line; that is `cli.py`.
"""

from __future__ import annotations

import dataclasses
import difflib
import json
import math
import numbers
import operator
import re
import shlex
import types
import typing
from collections.abc import Callable, Iterable, Mapping
from dataclasses import MISSING, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

T = TypeVar("T", bound="DataclassInstance")


class RunError(RuntimeError):
    """Why a run cannot go on, in one sentence, where neither its configuration nor this package is to blame."""


class ConfigError(ValueError):
    """A mistake of the user, told in one line: the option, the value found, what is allowed."""


def option(
    default: Any,
    text: str,
    *,
    low: float | None = None,
    high: float | None = None,
    above: float | None = None,
    below: float | None = None,
    choices: Iterable[Any] = (),
    form: tuple[str, str] | None = None,
) -> Any:
    """A dataclass field with a one-line help text, printed by --help, and its allowed values.

    low, high: bounds of a number. above, below: bounds that are not allowed themselves.
    choices: the allowed values. form: what a text must look like, in words and as a regular expression.
    """
    bounds = {"low": low, "above": above, "high": high, "below": below}
    return field(default=default, metadata={"help": text, "bounds": bounds, "choices": tuple(choices), "form": form})


#: Returns are told to a network in float32, in which larger ones lose their differences.
LARGEST_RETURN = 1e12

DEVICE = ("cpu, cuda, cuda:N or auto", r"auto|cpu|cuda(:[0-9]{1,3})?")
FOLDER = ("a folder name without slashes that does not start with a dot", r"[^./\\\s][^/\\]*")

# ---------------------------------------------------------------------------------------------------- environments

MINIGRID_IDS: dict[str, dict[str, Any]] = {
    "MiniGrid-MemoryS7-v0": {"size": 7, "random": False},
    "MiniGrid-MemoryS9-v0": {"size": 9, "random": False},
    "MiniGrid-MemoryS11-v0": {"size": 11, "random": False},
    "MiniGrid-MemoryS13-v0": {"size": 13, "random": False},
    "MiniGrid-MemoryS13Random-v0": {"size": 13, "random": True},
    "MiniGrid-MemoryS17Random-v0": {"size": 17, "random": True},
}


@dataclass(frozen=True)
class MiniGridMemory:
    """MiniGrid-Memory: look at an object, walk to a fork, turn towards the same object."""

    name: str = "minigrid-memory"
    id: str | None = option(
        None, "a registered id such as MiniGrid-MemoryS13Random-v0; sets size and random", choices=MINIGRID_IDS
    )
    size: int = option(7, "width and height of the grid: 7, 9, 11, 13 or 17", choices=(7, 9, 11, 13, 17))
    random: bool = option(False, "draw the length of the corridor anew for every episode (13 and 17 only)")
    view: int = option(
        3, "side of the square that the agent sees, odd; 7 is MiniGrid's own and makes S7 and S9 easy", low=3, high=99
    )
    actions: int = option(
        3, "3 = left, right, forward; 7 = all of MiniGrid's, four of which do nothing here", choices=(3, 7)
    )
    max_steps: int | None = option(
        None, "steps after which an episode is cut off; null = 5 * size^2, MiniGrid's own", low=1, high=10_000_000
    )
    tile: int = option(
        0, "side of a cell in pixels: the agent sees RGB pictures of (view x tile)^2; 0 = symbols", low=0, high=64
    )


@dataclass(frozen=True)
class DoorKey:
    """MiniGrid-DoorKey: fetch the key, unlock the door, reach the goal. A control: it needs little memory."""

    name: str = "minigrid-doorkey"
    size: int = option(8, "width and height of the grid; registered are 5, 6, 8 and 16", low=5, high=99)
    view: int = option(7, "side of the square that the agent sees, odd; 7 is MiniGrid's own", low=3, high=11)
    max_steps: int | None = option(
        None, "steps after which an episode is cut off; null = 10 * size^2, MiniGrid's own", low=1, high=10_000_000
    )
    tile: int = option(
        0, "side of a cell in pixels: the agent sees RGB pictures of (view x tile)^2; 0 = symbols", low=0, high=64
    )


@dataclass(frozen=True)
class RedBlueDoors:
    """MiniGrid-RedBlueDoors: open the red door, then the blue one. A control: it can be solved without memory."""

    name: str = "minigrid-redbluedoors"
    size: int = option(8, "height of the grid, even; registered are 6 and 8", low=4, high=98)
    view: int = option(7, "side of the square that the agent sees, odd; 7 is MiniGrid's own", low=3, high=11)
    max_steps: int | None = option(
        None, "steps after which an episode is cut off; null = 20 * size^2, MiniGrid's own", low=1, high=10_000_000
    )
    tile: int = option(
        0, "side of a cell in pixels: the agent sees RGB pictures of (view x tile)^2; 0 = symbols", low=0, high=64
    )


@dataclass(frozen=True)
class TMaze:
    """Passive T-maze (Ni et al. 2023): the cue is seen at the first step, the turn comes `length` steps later."""

    name: str = "tmaze"
    length: int = option(
        10, "steps from the cue to the junction; with min_length: the longest corridor", low=1, high=10_000_000
    )
    min_length: int | None = option(
        None, "draw the length of every episode from min_length..length; null = all equal", low=1, high=10_000_000
    )
    end_at_turn: bool = option(False, "end the episode when an arm is entered, instead of after length + 1 steps")


@dataclass(frozen=True)
class TMazeActive:
    """Active T-maze (Ni et al. 2023): the cue is one step behind the start and must be fetched first."""

    name: str = "tmaze-active"
    length: int = option(
        10, "steps from the start to the junction; with min_length: the longest corridor", low=1, high=10_000_000
    )
    min_length: int | None = option(
        None, "draw the length of every episode from min_length..length; null = all equal", low=1, high=10_000_000
    )


@dataclass(frozen=True)
class TMazeRATE:
    """The passive T-maze of RATE (Cherepanov et al. 2023): noise, a flag at the junction, no penalty."""

    name: str = "tmaze-rate"
    length: int = option(
        28, "steps from the cue to the junction, RATE's T - 2; with min_length: the longest", low=1, high=10_000_000
    )
    min_length: int | None = option(
        None, "draw the length of every episode from min_length..length; null = all equal", low=1, high=10_000_000
    )


@dataclass(frozen=True)
class TMazeTrial:
    """Several walks through one passive T-maze, of which only the first shows the cue: memory across episodes."""

    name: str = "tmaze-trial"
    episodes: int = option(4, "walks of a trial, which is one episode", low=2, high=1_000_000)
    length: int = option(
        10, "steps from the start to the junction; with min_length: the longest corridor", low=1, high=10_000_000
    )
    min_length: int | None = option(
        None, "draw the length of every trial from min_length..length; null = all equal", low=1, high=10_000_000
    )


@dataclass(frozen=True)
class MemoryLen:
    """bsuite's memory_len (Osband et al. 2020): say a bit that was shown at the first step."""

    name: str = "memory-len"
    length: int = option(10, "the bit was last seen length - 1 steps ago", low=1, high=10_000_000)
    bits: int = option(
        1, "bits that are shown, one of which is asked for; above 1 as in memory_size", low=1, high=1_000
    )


@dataclass(frozen=True)
class Copy:
    """Copy or reverse (Bulatov et al. 2022): see a string of symbols, then say it."""

    name: str = "copy"
    symbols: int = option(8, "how many different symbols there are", low=2, high=1_000)
    length: int = option(5, "symbols of a string", low=1, high=1_000_000)
    delay: int = option(0, "steps between the last symbol and the first answer", low=0, high=10_000_000)
    reverse: bool = option(False, "say the last symbol first")


@dataclass(frozen=True)
class AssociativeRetrieval:
    """Associative retrieval (Bulatov et al. 2022, Rodkin et al. 2024): pairs of key and value, then a key."""

    name: str = "associative-retrieval"
    keys: int = option(8, "how many different keys there are", low=1, high=10_000)
    values: int = option(8, "how many different values there are", low=2, high=1_000)
    pairs: int = option(4, "pairs that are shown", low=1, high=10_000)
    queries: int = option(1, "keys that are asked for, one after the other", low=1, high=1_000)
    delay: int = option(0, "steps between the last pair and the first query", low=0, high=10_000_000)
    rewrite: bool = option(False, "keys come again, and their latest value counts; false = no key is shown twice")


@dataclass(frozen=True)
class Detect:
    """Detect and memorise (Bulatov et al. 2023): a cue at a random time among distractors, asked for at the end."""

    name: str = "detect"
    cues: int = option(4, "how many different cues there are", low=2, high=1_000)
    distractors: int = option(8, "how many different distractors there are; 1 = silence", low=1, high=1_000)
    length: int = option(20, "steps before the question, the cue is at one of them", low=1, high=10_000_000)


@dataclass(frozen=True)
class Reasoning:
    """Reasoning (Bulatov et al. 2023): two facts at random times among distractors, the answer needs both."""

    name: str = "reasoning"
    values: int = option(6, "values of each fact, and answers", low=2, high=1_000)
    distractors: int = option(8, "how many different distractors there are; 1 = silence", low=1, high=1_000)
    length: int = option(20, "steps before the question, the facts are at two of them", low=2, high=10_000_000)


@dataclass(frozen=True)
class RepeatFirst:
    """POPGym's RepeatFirst (Morad et al. 2023): say the suit of the first card at every step."""

    name: str = "repeat-first"
    decks: int = option(1, "decks of 52 cards; 1, 8, 16 = POPGym's easy, medium, hard", low=1, high=100_000)


@dataclass(frozen=True)
class RepeatPrevious:
    """POPGym's RepeatPrevious (Morad et al. 2023): say the suit of the card seen k - 1 steps ago."""

    name: str = "repeat-previous"
    decks: int = option(1, "decks of 52 cards; 1, 2, 3 = POPGym's easy, medium, hard", low=1, high=100_000)
    k: int = option(4, "which card, 1 would be the one in view; 4, 32, 64 = easy, medium, hard", low=2, high=100_000)


@dataclass(frozen=True)
class Bandit:
    """Bernoulli bandit (RL^2, Duan et al. 2016): one trial of many pulls is one episode."""

    name: str = "bandit"
    arms: int = option(5, "arms, each with a chance of its own to pay", low=2, high=1_000)
    length: int = option(100, "pulls of a trial", low=1, high=1_000)


@dataclass(frozen=True)
class DarkRoom:
    """Dark Room (Laskin et al. 2022): a hidden goal on 9 x 9 cells, the same for all inner episodes of a trial."""

    name: str = "dark-room"
    episodes: int = option(
        5, "inner episodes of a trial, which is one episode; 1 = the control without a trial", low=1, high=1_000_000
    )


@dataclass(frozen=True)
class Gym:
    """Any gymnasium environment, through gymnasium.make_vec."""

    name: str = "gym"
    id: str = option("CartPole-v1", "an id known to gymnasium, or module:id", form=("an id without spaces", r"\S+"))
    options: dict[str, Any] = field(default_factory=dict, metadata={"help": "keyword arguments for gymnasium.make"})
    workers: str = option("sync", "sync = one process, async = one process for each row", choices=("sync", "async"))
    deadline: float = option(
        60.0, "seconds that the process of a row may take for a step or a reset (workers=async)", above=0, high=1e6
    )
    on_fault: str = option(
        "fail",
        "when the process of a row dies, hangs or errs (workers=async): fail = the run ends and says which; restart = that"
        " row's episode counts as truncated and a new process begins another",
        choices=("fail", "restart"),
    )


# -------------------------------------------------------------------------------------------------------- policies


@dataclass(frozen=True)
class Policy:
    """What all policies have; each has a width too, with a default of its own."""

    name: str = ""
    params: int | None = option(
        None, "choose the width so that the network has about so many parameters; null = width", low=1, high=10**10
    )
    previous_action: bool = option(True, "give the previous action to the network beside the observation")


@dataclass(frozen=True)
class Transformer(Policy):
    """What all transformer policies have."""

    width: int = option(64, "width D of the network", low=1, high=65_536)
    layers: int = option(2, "transformer blocks", low=1, high=1_000)
    heads: int = option(2, "attention heads; must divide width", low=1, high=65_536)
    segment: int = option(8, "steps S that are processed in one attention window", low=1, high=65_536)
    sharpness: float = option(
        4.5,
        "attention scores at the start, in units of torch's initialisation; 1 spreads attention evenly, in which a cue gets lost",
        above=0,
        high=100,
    )
    dropout: float = option(
        0.0, "share of each block's outputs that is dropped when learning, never when acting", low=0, below=1
    )
    attention: str = option(
        "sdpa",
        "who computes attention: sdpa = torch, flash = flash-attn (CUDA, half precision), flex = flex_attention (CUDA)",
        choices=("sdpa", "flash", "flex"),
    )
    replay: bool = option(
        False, "compute segments again in the backward pass instead of keeping their activations (arXiv 2010.06891)"
    )


@dataclass(frozen=True)
class RMT(Transformer):
    """Recurrent Memory Transformer (Bulatov et al. 2022, arXiv 2207.06881) on continuous inputs."""

    name: str = "rmt"
    memory_tokens: int = option(4, "memory tokens M that are handed from segment to segment", low=0, high=65_536)
    memory_update: str = option(
        "replace",
        "replace = the paper's, gate = old + sigmoid * (tanh(new) - old), mrv = memory retention valve (arXiv 2306.09459)",
        choices=("replace", "gate", "mrv"),
    )
    memory_place: str = option(
        "both",
        "both = read tokens in front, write tokens behind; front = one block (arXiv 2304.11062)",
        choices=("both", "front"),
    )
    memory_norm: bool = option(False, "divide every memory vector by its root mean square after the update")
    write_from: str = option(
        "memory",
        "write tokens start from the read memory (the paper) or from learned vectors alone",
        choices=("memory", "learned"),
    )
    cache: int = option(
        0,
        "steps C before the segment that every layer still sees (arXiv 1901.02860); needs rotary or no positions",
        low=0,
        high=65_536,
    )
    cache_gradient: int = option(
        0, "newest cached steps that gradients reach; 0 = none, as in the paper", low=0, high=65_536
    )
    positions: str = option(
        "learned",
        "learned = a vector for each slot of the segment, rotary = by distance (arXiv 2104.09864), none",
        choices=("learned", "rotary", "none"),
    )
    bptt_segments: int | None = option(
        None,
        "cut the gradient through the memory after every n segments of an episode; null = never",
        low=1,
        high=10**9,
    )
    gating: str = option(
        "none",
        "residual connections: none = x + y, gru = GTrXL's gate (arXiv 1910.06764), rezero = x + a y (arXiv 2003.04887)",
        choices=("none", "gru", "rezero"),
    )
    null_key_value: bool = option(False, "a learned key and value for every head that says: nothing to see")
    value_residual: bool = option(False, "mix the first layer's values into those of later layers (arXiv 2410.17897)")
    token_shift: bool = option(
        False, "half of a step's input to each layer is that of the step before (arXiv 2305.13048)"
    )


@dataclass(frozen=True)
class TrXL(Transformer):
    """Transformer-XL (Dai et al. 2019, arXiv 1901.02860): keys and values of the steps before, with rotary relative positions."""

    name: str = "trxl"
    cache: int = option(32, "steps C before the segment that stay visible in every layer", low=1, high=65_536)
    cache_gradient: int = option(
        0, "newest cached steps that gradients reach; 0 = none, as in the paper", low=0, high=65_536
    )


@dataclass(frozen=True)
class GTrXL(TrXL):
    """Gated Transformer-XL (Parisotto et al. 2019, arXiv 1910.06764): `trxl` with GRU gates around its blocks."""

    name: str = "gtrxl"


@dataclass(frozen=True)
class Window(Transformer):
    """Attention over the steps of the present segment and nothing before: a stack of 1 to `segment` frames."""

    name: str = "window"


@dataclass(frozen=True)
class Recurrent(Policy):
    """What recurrent networks have."""

    width: int = option(128, "width D of the encoder and of the hidden state", low=1, high=65_536)
    layers: int = option(1, "stacked recurrent layers", low=1, high=1_000)


@dataclass(frozen=True)
class LSTM(Recurrent):
    """Long short-term memory (Hochreiter & Schmidhuber 1997)."""

    name: str = "lstm"


@dataclass(frozen=True)
class GRU(Recurrent):
    """Gated recurrent unit (Cho et al. 2014, arXiv 1406.1078)."""

    name: str = "gru"


@dataclass(frozen=True)
class MLP(Policy):
    """The control without memory: two hidden layers on the present observation."""

    name: str = "mlp"
    width: int = option(128, "width D of the hidden layers", low=1, high=65_536)
    layers: int = option(2, "hidden layers", low=1, high=1_000)
    previous_action: bool = option(False, "give the previous action to the network: a memory of one step")


# ------------------------------------------------------------------------------------------------------ algorithms


@dataclass(frozen=True)
class PPO:
    """Proximal policy optimisation (Schulman et al. 2017) on whole rows with memory."""

    name: str = "ppo"
    num_envs: int = option(64, "rows B: environments that run side by side", low=1, high=2**20)
    rollout: int = option(32, "steps T that every row takes between two updates", low=1, high=1_000_000)
    epochs: int = option(4, "passes over each rollout", low=1, high=10_000)
    minibatches: int = option(4, "parts that the rows are split into; must divide num_envs", low=1, high=2**20)
    learning_rate: float = option(1e-3, "AdamW's step size at the start", above=0, high=10)
    schedule: str = option(
        "linear",
        "step size and entropy bonus over the run: constant, linear to zero, or cosine to zero",
        choices=("constant", "linear", "cosine"),
    )
    gamma: float = option(0.99, "discount of the next step's value", above=0, high=1)
    gae_lambda: float = option(0.95, "weight of longer advantage estimates (GAE)", low=0, high=1)
    clip: float = option(0.2, "how far a probability ratio may leave 1", above=0, below=1)
    value_coef: float = option(0.5, "weight of the value loss", low=0, high=1_000)
    entropy_coef: float = option(0.02, "weight of the entropy bonus at the start", low=0, high=1_000)
    max_grad_norm: float = option(0.5, "gradients are scaled down to this norm", above=0, high=1_000_000)
    skip_nonfinite: int = option(
        0,
        "steps of the optimizer in a row that may be left out because the loss or a gradient is not finite (a rollout with such"
        " an observation or reward counts as one); one more ends the run",
        low=0,
        high=10**6,
    )
    kl_coef: float = option(
        0.3, "weight of a penalty on leaving the old policy, which pulls back where the clip lets go", low=0, high=1_000
    )
    advantage_floor: float = option(
        0.2, "advantages are divided by their deviation, but never by less than this", above=0, high=1_000_000
    )
    normalize_advantage: bool = option(True, "give advantages mean 0 and deviation 1 in each minibatch")
    normalize_reward: bool = option(
        False,
        "divide rewards by the running deviation of the discounted return, for tasks whose returns are far from 1: the value"
        " loss and its weight keep their size",
    )


@dataclass(frozen=True)
class RATE:
    """Offline: recorded episodes imitated, given the return to come (RATE, Cherepanov et al. 2023, arXiv 2306.09459)."""

    name: str = "rate"
    returns: bool = option(True, "tell the policy the return to come; false = behaviour cloning")
    target_return: float | None = option(
        None, "return to ask for when acting; null = the best in the data", low=-LARGEST_RETURN, high=LARGEST_RETURN
    )
    batch: int = option(16, "episodes in a batch", low=1, high=2**20)
    length: int | None = option(
        None, "steps to learn from in every episode, counted from its start; null = all", low=1, high=10**9
    )
    cut: str = option(
        "none",
        "cut episodes shorter still: varied = every batch after a random number of segments, growing = after one segment at"
        " first and nowhere from the middle of the run on (a curriculum, arXiv 2304.11062)",
        choices=("none", "varied", "growing"),
    )
    detach_memory: bool = option(
        False, "cut the gradient between segments and take a step for each, as the released code does"
    )
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
        "steps of the optimizer in a row that may be left out because loss or gradients are not finite; one more ends the run",
        low=0,
        high=10**6,
    )
    validation: float = option(
        0.1, "share of the episodes held out; the weights that do best on them are kept", low=0, below=1
    )


# ---------------------------------------------------------------------------------------------------- the commands


@dataclass(frozen=True)
class Memory:
    """How long a policy keeps its memory."""

    name: str = "memory"
    scope: str = option(
        "episode",
        "memory is reset at the end of every episode, of every trial of `memory.episodes` episodes, or never (run);"
        " trial and run show the policy the previous reward and where an episode starts",
        choices=("episode", "trial", "run"),
    )
    episodes: int = option(4, "episodes of a trial; scope run is evaluated in trials of so many", low=1, high=10**6)


@dataclass(frozen=True)
class Returns:
    """The return that a policy is asked for; it was trained on returns from `low` to `high`."""

    name: str = "returns"
    target: float = option(0.0, "return of the whole episode to ask for", low=-LARGEST_RETURN, high=LARGEST_RETURN)
    low: float = option(0.0, "the least return to go in the data", low=-LARGEST_RETURN, high=LARGEST_RETURN)
    high: float = option(1.0, "the largest return to go in the data", low=-LARGEST_RETURN, high=LARGEST_RETURN)


# The registry: what `env=`, `algo=`, `policy=` and `memory` choose from.
GROUPS: dict[str, dict[str, type]] = {
    "env": {
        "minigrid-memory": MiniGridMemory,
        "minigrid-doorkey": DoorKey,
        "minigrid-redbluedoors": RedBlueDoors,
        "tmaze": TMaze,
        "tmaze-active": TMazeActive,
        "tmaze-rate": TMazeRATE,
        "tmaze-trial": TMazeTrial,
        "memory-len": MemoryLen,
        "copy": Copy,
        "associative-retrieval": AssociativeRetrieval,
        "detect": Detect,
        "reasoning": Reasoning,
        "repeat-first": RepeatFirst,
        "repeat-previous": RepeatPrevious,
        "bandit": Bandit,
        "dark-room": DarkRoom,
        "gym": Gym,
    },
    "algo": {"ppo": PPO, "rate": RATE},
    "policy": {
        "rmt": RMT,
        "trxl": TrXL,
        "gtrxl": GTrXL,
        "window": Window,
        "lstm": LSTM,
        "gru": GRU,
        "mlp": MLP,
    },
    "memory": {"memory": Memory},
}

# What a task changes in the usual settings when it is trained from the command line; what the user gives wins. A task stands
# here where one setting for all was measured to fail (docs/benchmarks.md), and --help and config.yaml show what applies. Options
# that the chosen policy does not have are left out.
RECIPES: dict[str, dict[str, Any]] = {
    "minigrid-memory": {
        "algo.num_envs": 128,
        "algo.minibatches": 8,
        "algo.gamma": 0.997,
        "algo.entropy_coef": 0.1,
        "algo.kl_coef": 0.0,
        "policy.positions": "none",
        "policy.sharpness": 1.0,
        "steps": 1_250_000,
    },
    "bandit": {
        "algo.num_envs": 128,
        "algo.rollout": 100,  # a trial, so that gradients reach from its end to its beginning
        "algo.entropy_coef": 0.01,
        "algo.kl_coef": 0.0,
        "algo.normalize_reward": True,
        "policy.segment": 20,
        "policy.positions": "none",
        "policy.sharpness": 1.0,
        "steps": 4_000_000,
    },
    "dark-room": {
        "algo.num_envs": 128,
        "algo.rollout": 104,  # a trial of five inner episodes, so that gradients reach from its end to its beginning
        "algo.gamma": 0.98,
        "algo.entropy_coef": 0.01,
        "algo.kl_coef": 0.0,
        "algo.normalize_reward": True,
        "policy.segment": 21,  # an inner episode
        "policy.positions": "none",
        "policy.sharpness": 1.0,
        "steps": 4_000_000,
    },
}


@dataclass(frozen=True)
class Train:
    """One training run."""

    # one of the dataclasses of its row in GROUPS; `group` names the usual one
    env: Any = field(default=None, metadata={"help": "the task", "group": "minigrid-memory"})
    algo: Any = field(default=None, metadata={"help": "how the policy learns", "group": "ppo"})
    policy: Any = field(default=None, metadata={"help": "the network that acts and remembers", "group": "rmt"})
    memory: Any = field(default=None, metadata={"help": "how long memory is kept", "group": "memory"})
    seed: int = option(0, "seeds environments, weights and sampling", low=0, high=2**31 - 1)
    steps: int = option(
        750_000,
        "environment steps to train for, all rows together; for algo=rate recorded steps to learn from",
        low=1,
        high=10**12,
    )
    data: str | None = option(
        None,
        "recorded episodes for algo=rate: the id of a local Minari dataset, or its folder; null = 2,000 episodes of the task's"
        " oracle, recorded on the spot",
        form=("the id or the folder of a Minari dataset", r".+"),
    )
    init: str | None = option(
        None,
        "the folder of a trained policy whose weights to begin with; it brings its policy.* options",
        form=("the folder of a trained policy", r".+"),
    )
    resume: str | None = option(
        None,
        "the folder of a run that was stopped or killed: go on from its newest checkpoint, as it was configured; nothing else may"
        " be given",
        form=("the folder of a run", r".+"),
    )
    checkpoint_steps: int | None = option(
        100_000,
        "environment steps between checkpoints, of which two are kept; null = only at the start and when stopped",
        low=1,
        high=10**12,
    )
    run: str | None = option(
        None, "name of the folder under runs/; null = made from task, policy and seed", form=FOLDER
    )
    device: str = option("auto", "cpu, cuda, cuda:N, or auto = a GPU where there is one", form=DEVICE)
    threads: int = option(1, "CPU threads for the arithmetic; 1 is the fastest for small networks", low=1, high=1_024)
    evaluate_episodes: int = option(
        400, "fresh episodes played with the final policy, at least 1", low=1, high=10_000_000
    )
    tensorboard: bool = option(False, "write TensorBoard event files too")
    wandb: bool = option(False, "log to Weights & Biases too (needs the extra: pip install 'rmt_rl[wandb]')")


@dataclass(frozen=True)
class Evaluate:
    """One evaluation of a saved policy."""

    policy: str = option(MISSING, "the folder of a trained policy", form=("the folder of a trained policy", r".+"))
    env: str | None = option(
        None, "the task; null = the one that the policy was trained on, changed by env.* options", choices=GROUPS["env"]
    )
    env_overrides: tuple[str, ...] = ()  # the env.* options as typed; `cli.resolve_env` applies them
    episodes: int = option(400, "episodes to play", low=1, high=10_000_000)
    seed: int = option(0, "seeds environments and sampling", low=0, high=2**31 - 1)
    device: str = option("auto", "cpu, cuda, cuda:N, or auto = a GPU where there is one", form=DEVICE)
    threads: int = option(1, "CPU threads for the arithmetic", low=1, high=1_024)
    num_envs: int = option(64, "episodes that are played side by side; never more than episodes", low=1, high=2**20)
    target_return: float | None = option(
        None,
        "return to ask for, of a policy that was trained on returns; null = the one it was saved with",
        low=-LARGEST_RETURN,
        high=LARGEST_RETURN,
    )
    deterministic: bool = option(True, "take the most likely action; false = sample")


@dataclass(frozen=True)
class Play:
    """A picture of some episodes."""

    policy: str = option(
        "random",
        "the folder of a trained policy, or random, or human-keys = the actions are read from the terminal",
        form=("the folder of a trained policy, random or human-keys", r".+"),
    )
    env: str | None = option(
        None, "the task; null = the one that the policy was trained on, changed by env.* options", choices=GROUPS["env"]
    )
    env_overrides: tuple[str, ...] = ()  # the env.* options as typed; `cli.resolve_env` applies them
    episodes: int = option(
        1,
        "episodes to play, one after the other; trials, for a policy whose memory.scope is trial or run",
        low=1,
        high=1_000,
    )
    frames: int = option(
        200, "steps after which the picture ends, whatever is left; all are held in memory", low=1, high=2_000
    )
    fps: float = option(4.0, "frames shown in a second; a GIF takes up to 50", low=0.1, high=60.0)
    out: str | None = option(
        None,
        "the file to write, .gif, or .mp4 where ffmpeg is installed; null = play-<task>-s<seed>.gif here",
        form=("the path of a new .gif or .mp4 file", r".+\.(gif|mp4)"),
    )
    seed: int = option(0, "seeds the environment and sampling", low=0, high=2**31 - 1)
    target_return: float | None = option(
        None,
        "return to ask for, of a policy that was trained on returns; null = the one it was saved with",
        low=-LARGEST_RETURN,
        high=LARGEST_RETURN,
    )
    deterministic: bool = option(True, "take the most likely action; false = sample")


@dataclass(frozen=True)
class Collect:
    """Recorded episodes."""

    out: str = option(
        MISSING,
        "id of the Minari dataset to write, such as tmaze/oracle-v0",
        form=("an id such as tmaze/oracle-v0", r".+"),
    )
    policy: str = option(
        "oracle",
        "who plays: the folder of a trained policy, or oracle = who knows what is hidden, or random",
        form=("the folder of a trained policy, oracle or random", r".+"),
    )
    env: str | None = option(
        None, "the task; null = the one that the policy was trained on, changed by env.* options", choices=GROUPS["env"]
    )
    env_overrides: tuple[str, ...] = ()  # the env.* options as typed; `cli.resolve_env` applies them
    episodes: int = option(2_000, "episodes to record", low=1, high=10_000_000)
    seed: int = option(0, "seeds environments and sampling", low=0, high=2**31 - 1)
    num_envs: int = option(256, "episodes that are played side by side, and held in memory", low=1, high=2**20)
    deterministic: bool = option(True, "take the most likely action; false = sample")
    device: str = option("auto", "cpu, cuda, cuda:N, or auto = a GPU where there is one", form=DEVICE)
    threads: int = option(1, "CPU threads for the arithmetic", low=1, high=1_024)


@dataclass(frozen=True)
class Export:
    """One saved policy, written as a program of tensors."""

    policy: str = option(MISSING, "the folder of a trained policy", form=("the folder of a trained policy", r".+"))
    out: str | None = option(
        None, "the folder to write; null = export beside the policy's folder", form=("the path of a new folder", r".+")
    )
    num_envs: int = option(1, "rows that the program takes at a time", low=1, high=65_536)
    onnx: bool = option(False, "write step.onnx too (needs the extra: pip install 'rmt_rl[onnx]')")


# ------------------------------------------------------------------------------------------------------ the checks


@dataclass(frozen=True)
class Option:
    """What is known of one field that a user can set; `kind` is its type without `| None`."""

    kind: type
    nullable: bool
    default: Any
    help: str
    bounds: Mapping[str, float | None]
    choices: tuple[Any, ...]
    form: tuple[str, str] | None

    @property
    def expected(self) -> str:
        """The allowed values in words."""
        words = {
            bool: "true or false",
            int: "a whole number",
            float: "a number",
            dict: "plain values, as in '{key: 1}'",
        }
        text = words.get(self.kind, "printable text")
        if self.choices:
            text = "one of " + ", ".join(map(str, self.choices))
        elif self.form:
            text = self.form[0]
        elif self.kind in (int, float):
            names = {"low": "at least", "above": "above", "high": "at most", "below": "below"}
            text += ", " + " and ".join(f"{names[k]} {self.bounds[k]}" for k in names if self.bounds[k] is not None)
        return text + (", or null" if self.nullable else "")


def options(cls: type) -> dict[str, Option]:
    """The fields of a dataclass that a user can set to a value: those with a help text, unlike `name`."""
    hints, found = typing.get_type_hints(cls), {}
    for item in dataclasses.fields(cls):
        meta, hint = item.metadata, hints[item.name]
        if "help" not in meta or meta.get("group"):
            continue
        union = isinstance(hint, types.UnionType)
        kind = next(t for t in typing.get_args(hint) if t is not types.NoneType) if union else hint
        default = item.default if item.default_factory is MISSING else item.default_factory()
        allowed = meta.get("bounds", {}), meta.get("choices", ()), meta.get("form")
        found[item.name] = Option(typing.get_origin(kind) or kind, union, default, meta["help"], *allowed)
    return found


def groups(cls: type) -> dict[str, str]:
    """The groups of a command, each with the name of its usual choice."""
    return {item.name: item.metadata["group"] for item in dataclasses.fields(cls) if item.metadata.get("group")}


def show(value: Any, limit: int = 80) -> str:
    """A value as the user would type it, on one short line whatever it is."""
    if isinstance(value, str):
        text = value if value.isprintable() else ascii(value)
    elif value is None or isinstance(value, bool):
        text = json.dumps(value)
    else:
        try:
            text = " ".join(ascii(value).split())
        except ValueError:  # Python does not write whole numbers of more than 4,300 digits
            text = "a number of thousands of digits"
    return text if len(text) <= limit else f"{text[: limit - 3]}..."


def as_typed(group: str, part: Any) -> list[str]:
    """The options of a dataclass that are not the usual ones, as they are typed in a shell."""
    given, usual = to_dict(part), to_dict(type(part)())
    return [shlex.quote(f"{group}.{key}={show(value)}") for key, value in given.items() if value != usual[key]]


def did_you_mean(word: str, names: Iterable[str]) -> str:
    """`; did you mean <name>?` for the nearest name, or nothing; `width` finds `policy.width`."""
    known = {name.lower(): name for name in names}
    tail = [name for name in known if name.rpartition(".")[2] == word.lower()]
    near = tail or difflib.get_close_matches(word.lower(), known, n=1)
    return f"; did you mean {known[near[0]]}?" if near else ""


def read(key: str, allowed: Option, value: Any, shown: Any = None) -> Any:
    """The value in its field's type, or a ConfigError that shows it; numbers may come as text.

    Text, because YAML 1.1 takes 1e-4 for text, and because 2e6 steps is what people type for a whole number.
    """
    try:
        result = None if value is None and allowed.nullable else _convert(allowed.kind, value)
        if result is None or _allows(allowed, result):
            return result
    except (TypeError, ValueError, OverflowError, RecursionError):
        pass
    hint = did_you_mean(value, allowed.choices) if isinstance(value, str) and allowed.kind is str else ""
    raise ConfigError(f"{show(key)}={show(value if shown is None else shown)}: expected {allowed.expected}{hint}")


def _convert(kind: type, value: Any) -> Any:
    if kind in (int, float):
        number = _number(value)
        if isinstance(value, bool) or (kind is int and number != int(number)):
            raise ValueError
        return kind(number)
    if kind is bool and isinstance(value, str):
        value = {"true": True, "false": False}.get(value.lower(), value)
    if not isinstance(value, kind):
        raise TypeError
    _check_plain(value)
    return value


def _number(value: Any) -> Any:
    if isinstance(value, numbers.Real):
        return value
    try:
        return int(value)
    except ValueError:
        return float(value)


def _check_plain(value: Any) -> None:
    """Raises unless the value survives the way to JSON, YAML and OmegaConf and back."""
    if isinstance(value, str):
        # to OmegaConf these two mean something; to us they are mistakes
        if not value.isprintable() or "${" in value or value == "???":
            raise ValueError
    elif isinstance(value, dict):
        for key, item in value.items():
            if not isinstance(key, str):
                raise TypeError
            _check_plain(key)
            _check_plain(item)
    elif isinstance(value, list):
        for item in value:
            _check_plain(item)
    elif isinstance(value, float):
        if not math.isfinite(value):
            raise ValueError
    elif value is not None and not isinstance(value, int):
        raise TypeError


def _allows(allowed: Option, value: Any) -> bool:
    if allowed.choices:
        return value in allowed.choices
    if allowed.form:
        return re.fullmatch(allowed.form[1], value) is not None
    compare = {"low": operator.ge, "above": operator.gt, "high": operator.le, "below": operator.lt}
    return all(compare[name](value, bound) for name, bound in allowed.bounds.items() if bound is not None)


@dataclass(frozen=True)
class Rule:
    """What must hold between the options of a dataclass, and what to say where it does not."""

    cls: type | tuple[type, ...]
    holds: Callable[[Any], bool]
    message: Callable[[Any], str]


RULES = (
    Rule(
        (MiniGridMemory, DoorKey, RedBlueDoors),
        lambda env: env.view % 2 == 1,
        lambda env: f"env.view={env.view}: expected an odd number, the agent stands in the middle",
    ),
    Rule(
        RedBlueDoors,
        lambda env: env.size % 2 == 0,
        lambda env: f"env.size={env.size}: expected an even number, the room is the middle half",
    ),
    Rule(
        MiniGridMemory,
        lambda env: not env.random or env.size in (13, 17),
        lambda env: f"env.random=true: env.size={env.size} has no random corridor; expected env.size=13 or env.size=17",
    ),
    *(
        Rule(
            maze,
            lambda env: env.min_length is None or env.min_length <= env.length,
            lambda env: f"env.min_length={env.min_length}: expected at most env.length={env.length}",
        )
        for maze in (TMaze, TMazeActive, TMazeRATE, TMazeTrial)
    ),
    Rule(
        AssociativeRetrieval,
        lambda env: env.rewrite or env.pairs <= env.keys,
        lambda env: f"env.pairs={env.pairs}: expected at most env.keys={env.keys}, or env.rewrite=true",
    ),
    Rule(
        AssociativeRetrieval,
        lambda env: env.queries <= env.pairs,
        lambda env: f"env.queries={env.queries}: expected at most env.pairs={env.pairs}",
    ),
    Rule(
        RepeatPrevious,
        lambda env: env.k < 52 * env.decks,
        lambda env: (
            f"env.k={env.k}: expected at most {52 * env.decks - 1}, one less than the cards of env.decks={env.decks}"
        ),
    ),
    Rule(
        (Transformer, Recurrent, MLP),
        lambda policy: policy.params is None or policy.width == type(policy).width,
        lambda policy: (
            f"policy.params={policy.params}: chooses the width, but policy.width={policy.width} is given too;"
            " give only one of them"
        ),
    ),
    Rule(
        Transformer,
        lambda policy: policy.params is not None or policy.width % policy.heads == 0,
        lambda policy: (
            f"policy.heads={policy.heads}: expected a divisor of policy.width={policy.width},"
            f" such as {nearest_divisor(policy.width, policy.heads)}"
        ),
    ),
    Rule(
        Transformer,
        lambda policy: policy.params is not None or not _is_rotary(policy) or policy.width // policy.heads % 2 == 0,
        lambda policy: (
            f"policy.heads={policy.heads}: rotary positions need an even number of features for each head;"
            f" policy.width={policy.width} gives {policy.width // policy.heads}"
        ),
    ),
    Rule(
        RMT,
        lambda policy: policy.cache == 0 or policy.positions != "learned",
        lambda policy: (
            f"policy.cache={policy.cache}: needs policy.positions=rotary or none;"
            " learned positions are slots of the segment and say nothing about steps before it"
        ),
    ),
    Rule(
        RMT,
        lambda policy: policy.memory_tokens > 0 or not _without_memory(policy),
        lambda policy: (
            f"policy.{_without_memory(policy)[0]}={show(getattr(policy, _without_memory(policy)[0]))}: means nothing without"
            " memory; expected policy.memory_tokens of at least 1"
        ),
    ),
    Rule(
        RMT,
        lambda policy: not policy.value_residual or policy.layers > 1,
        lambda policy: "policy.value_residual=true: means nothing with one layer; expected policy.layers of at least 2",
    ),
    Rule(
        (RMT, TrXL),
        lambda policy: policy.cache_gradient <= policy.cache,
        lambda policy: f"policy.cache_gradient={policy.cache_gradient}: expected at most policy.cache={policy.cache}",
    ),
    Rule(
        RMT,
        lambda policy: policy.bptt_segments != 1 or policy.cache_gradient == 0,
        lambda policy: (
            f"policy.cache_gradient={policy.cache_gradient}: means nothing with policy.bptt_segments=1, which cuts it where"
            " the segment ends"
        ),
    ),
    Rule(
        RMT,
        lambda policy: not policy.token_shift or policy.width > 1,
        lambda policy: "policy.token_shift=true: expected policy.width of at least 2, half of it is shifted",
    ),
    Rule(
        Memory,
        lambda memory: memory.scope != "episode" or memory.episodes == Memory.episodes,
        lambda memory: (
            f"memory.episodes={memory.episodes}: means nothing with memory.scope=episode; expected trial or run"
        ),
    ),
    Rule(
        PPO,
        lambda algo: algo.num_envs % algo.minibatches == 0,
        lambda algo: (
            f"algo.minibatches={algo.minibatches}: expected a divisor of algo.num_envs={algo.num_envs},"
            f" such as {nearest_divisor(algo.num_envs, algo.minibatches)}"
        ),
    ),
    Rule(
        PPO,
        lambda algo: algo.normalize_advantage or algo.advantage_floor == PPO.advantage_floor,
        lambda algo: (
            f"algo.advantage_floor={algo.advantage_floor:g}: means nothing with algo.normalize_advantage=false; leave it out"
        ),
    ),
    Rule(
        Gym,
        lambda env: env.workers == "async" or (env.deadline, env.on_fault) == (Gym.deadline, Gym.on_fault),
        lambda env: (
            f"env.{'deadline' if env.deadline != Gym.deadline else 'on_fault'}: is about processes of rows; expected"
            " env.workers=async"
        ),
    ),
    Rule(
        RATE,
        lambda algo: algo.returns or algo.target_return is None,
        lambda algo: (
            f"algo.target_return={algo.target_return}: means nothing with algo.returns=false; give only one of them"
        ),
    ),
    Rule(
        Train,
        lambda train: not getattr(train.algo, "detach_memory", False) or not _gradient_options(train.policy),
        lambda train: (
            f"policy.{_gradient_options(train.policy)[0]}: means nothing with algo.detach_memory=true, which cuts the gradient at"
            " the end of every segment; leave one of them out"
        ),
    ),
    Rule(
        Train,
        lambda train: isinstance(train.algo, RATE) or train.data is None,
        lambda train: f"data={show(train.data)}: means nothing with algo={train.algo.name}; expected algo=rate",
    ),
    Rule(
        Train,
        lambda train: not isinstance(train.algo, RATE) or train.memory.scope == "episode",
        lambda train: (
            f"memory.scope={train.memory.scope}: algo=rate learns from single episodes; expected memory.scope=episode"
        ),
    ),
    Rule(
        Train,
        lambda train: (
            not isinstance(train.algo, RATE)
            or isinstance(train.policy, Transformer)
            or (not train.algo.detach_memory and train.algo.cut == "none")
        ),
        lambda train: (
            f"algo.{'detach_memory=true' if train.algo.detach_memory else f'cut={train.algo.cut}'}: is about segments, which"
            f" policy={train.policy.name} does not have; expected one of rmt, trxl, gtrxl, window"
        ),
    ),
    Rule(
        Train,
        lambda train: train.run is None or len(train.run.encode()) <= 200,
        lambda train: f"run={show(train.run)}: expected at most 200 bytes, found {len(train.run.encode())}",
    ),
)


def _without_memory(policy: RMT) -> list[str]:
    """The changed options that are about memory tokens."""
    names = ["memory_update", "memory_place", "memory_norm", "write_from"]
    if policy.cache_gradient == 0:  # else it is the cache's gradient that is cut
        names.append("bptt_segments")
    return [name for name in names if getattr(policy, name) != getattr(RMT, name)]


def _gradient_options(policy: Any) -> list[str]:
    """The changed options that say how far gradients reach over the end of a segment."""
    names = ("bptt_segments", "cache_gradient")
    return [name for name in names if getattr(policy, name, None) != getattr(type(policy), name, None)]


def _is_rotary(policy: Any) -> bool:
    return isinstance(policy, TrXL) or (isinstance(policy, RMT) and policy.positions == "rotary")


def nearest_divisor(number: int, wish: int) -> int:
    return min((d for d in range(1, number + 1) if number % d == 0), key=lambda d: abs(d - wish))


def choose(group: str, name: Any) -> type:
    """The dataclass of that name in GROUPS[group]."""
    if isinstance(name, str) and name in GROUPS[group]:
        return GROUPS[group][name]
    hint = did_you_mean(name, GROUPS[group]) if isinstance(name, str) else ""
    # memory=trial is memory.scope=trial
    inside = [(key, known) for cls in GROUPS[group].values() for key, known in options(cls).items()]
    for key in dict.fromkeys(key for key, known in inside if name in known.choices):
        hint = hint or f"; did you mean {group}.{key}={show(name)}?"
    raise ConfigError(f"{group}={show(name)}: expected one of {', '.join(GROUPS[group])}{hint}")


def size_and_random(env_id: str, given: Mapping[str, Any]) -> dict[str, Any]:
    """What a registered MiniGrid id stands for; `given` is what the user said beside it and must agree."""
    for key, value in given.items():
        if value != MINIGRID_IDS[env_id][key]:
            fixed = show(MINIGRID_IDS[env_id][key])
            raise ConfigError(
                f"env.{key}={show(value)}: env.id={env_id} means env.{key}={fixed}; give only one of them"
            )
    return MINIGRID_IDS[env_id]


def validate(config: T, prefix: str = "") -> T:
    """The configuration with every value checked, in its field's type and resolved; raises ConfigError.

    Takes a command's dataclass or one of a group, whose `prefix` is then "env." for instance. Resolved means: a
    MiniGrid id has set size and random, and an evaluation has no more rows than episodes. Twice is the same as once.
    """
    values = {
        name: read(prefix + name, allowed, getattr(config, name)) for name, allowed in options(type(config)).items()
    }
    for name, usual_choice in groups(type(config)).items():
        part: Any = getattr(config, name)
        if part is None and name == usual_choice:  # nothing to choose
            part = GROUPS[name][name]()
        cls = type(part)
        if cls not in GROUPS[name].values() or cls is not choose(name, part.name):
            raise ConfigError(f"{name}={show(part)}: expected one of {', '.join(GROUPS[name])}")
        values[name] = validate(part, f"{name}.")
    if isinstance(config, MiniGridMemory) and values["id"] is not None:
        usual = options(MiniGridMemory)
        # a Python caller's default cannot be told from a value given on purpose; the command line tells them apart
        given = {key: values[key] for key in ("size", "random") if values[key] != usual[key].default}
        values |= size_and_random(values["id"], given)
    if isinstance(config, Evaluate):
        values["num_envs"] = min(values["num_envs"], values["episodes"])
    config = dataclasses.replace(config, **values)
    for rule in RULES:
        if isinstance(config, rule.cls) and not rule.holds(config):
            raise ConfigError(rule.message(config))
    return config


# ------------------------------------------------------------------------------------------------------- the files


def to_dict(config: Any) -> dict[str, Any]:
    """The configuration as plain dictionaries and values that JSON and YAML can hold."""
    return dataclasses.asdict(config)


def from_dict(mapping: Any, schema: type[Train] = Train) -> Train:
    """The reverse of `to_dict`, validated. Every field must be there: a file is not filled up with today's defaults."""
    config: Train = _build(schema, mapping)
    return validate(config)


def part_from_dict(group: str, mapping: Any) -> Any:
    """The validated dataclass of one group, or of "returns", from what `to_dict` made of it."""
    name = mapping.get("name") if isinstance(mapping, Mapping) else mapping
    cls = Returns if group == "returns" else choose(group, name)
    return validate(_build(cls, mapping, f"{group}."), f"{group}.")


def _build(cls: type, mapping: Any, prefix: str = "") -> Any:
    if not isinstance(mapping, Mapping):
        raise ConfigError(f"{prefix.rstrip('.') or 'configuration'}={show(mapping)}: expected a dictionary of options")
    names = [item.name for item in dataclasses.fields(cls)]
    for key in mapping:
        if key not in names:
            raise ConfigError(f"{prefix}{show(key)}: no such option{did_you_mean(str(key), names)}")
    missing = [name for name in names if name not in mapping]
    if missing:
        raise ConfigError(f"{prefix}{missing[0]}: missing; expected all of {', '.join(names)}")
    values = dict(mapping)
    for name in groups(cls):
        part = mapping[name]
        values[name] = _build(choose(name, part.get("name") if isinstance(part, Mapping) else part), part, f"{name}.")
    return cls(**values)


def save_yaml(config: Any, path: str | Path) -> None:
    import yaml

    Path(path).write_text(yaml.safe_dump(to_dict(config), sort_keys=False, allow_unicode=True), encoding="utf-8")


def load_yaml(path: str | Path, schema: type[Train] = Train) -> Train:
    """The configuration in a file that `save_yaml` wrote, perhaps edited by hand; nothing in it can run code."""
    import yaml

    where = show(str(path), limit=1_000)
    try:
        text = Path(path).read_text(encoding="utf-8")
        # major footgun: a few lines of aliases of aliases unfold to more than any memory ("billion laughs")
        if any(isinstance(event, yaml.AliasEvent) for event in yaml.parse(text, Loader=yaml.SafeLoader)):
            raise ConfigError(f"{where}: YAML aliases (*name) are not allowed")
        mapping = yaml.safe_load(text)
    except OSError as error:
        raise ConfigError(f"{where}: cannot be read: {error.strerror}") from error
    except ConfigError:
        raise
    except (ValueError, RecursionError, yaml.YAMLError) as error:
        raise ConfigError(f"{where}: not valid YAML: {show(' '.join(str(error).split()), limit=200)}") from error
    try:
        return from_dict(mapping, schema)
    except ConfigError as error:
        raise ConfigError(f"{where}: {error}") from error
