"""How long does a memory hold a hidden variable, and why does it lose it?

- change: how far one write moves the memory.
- distance: between the memories of episodes whose hidden variable differs, and of those where it is the same.
- read-out: whether a linear read-out still finds the variable (`probe.py`), with noise on the memory. Without noise it would
  find differences that are too small for any policy to use.
- fixed points: one observation is repeated, the same for all values of the variable, so that only the memory moves. A memory that
  comes to rest holds for ever under that input. If two values of a variable come to rest at one place, the variable is lost. The
  top eigenvalue of the map from segment to segment says whether small errors shrink (below 1) or grow (above 1) there.

Letters: N episodes, T steps, F numbers of a part of the memory, V values of a variable.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from rmt_rl.common.errors import ConfigError, RunError
from rmt_rl.common.state import Obs, leaves, map_obs, rebuild, select_rows
from rmt_rl.envs.base import TorchVectorEnv
from rmt_rl.policies.actor_critic import ActorCritic, PolicyState
from rmt_rl.policies.rmt import RMT
from rmt_rl.viewing.episode import LAYERS, TOKENS, memory_parts
from rmt_rl.viewing.probe import FEWEST, MOST_VARIABLES, Moment, fit, moments

#: A read-out has failed when it is nearer to chance than to certainty: half of the way from one to the other.
HALFWAY = 0.5
#: Standard deviation of the noise on every number of the memory that is read, as a share of the memory's root mean square.
NOISE = 0.05
#: A memory rests when a segment moves it by less than this share of its size.
REST = 1e-6
#: Two values are one when the distance of their memories is less than this share of the memory's size.
SAME = 1e-3
#: Steps of the power iteration, and how many of the last ones are averaged.
ITERATIONS, AVERAGED = 60, 20
#: Length of a disturbance, as a share of the memory's.
DISTURBANCE = 1e-5
#: A read-out finds a variable only where luck would do so at any step of an episode with less than this probability.
LUCK = 0.01
#: Read-outs are fitted at every step up to this one, then at ever larger distances.
DENSE = 256


@dataclass(frozen=True)
class OverTime:
    """What happens to one part of the memory along the episodes; [T] each, NaN where nothing was measured.

    running: episodes that have the step. change: root mean square over the numbers and the episodes of how far the step moved
    the memory; size: the same of the memory. By variable: within, between: distances (root mean square over the numbers) of
    the memories to the mean of their value, and of these means to each other; accuracy, chance: of the read-out.
    stored: the first step at which the read-out is nearer to certainty than to chance, and not by luck (`LUCK`), or None.
    lost: the first one after it from which on it is not, at nine of ten steps, or None.
    """

    running: np.ndarray
    change: np.ndarray
    size: np.ndarray
    within: dict[str, np.ndarray]
    between: dict[str, np.ndarray]
    accuracy: dict[str, np.ndarray]
    chance: dict[str, np.ndarray]
    stored: dict[str, int | None]
    lost: dict[str, int | None]


@dataclass(frozen=True)
class Rest:
    """Where the memory of one value goes while an observation is repeated.

    value: of the variable. settled: segments until it rests, or None. moves: by what share of its size the last segment moved it.
    eigenvalue: the spectral radius of the segment's map at the end. apart_before, apart: distance of the memory to the nearest
    one of another value, at the beginning and at the end, as a share of its size; NaN where there is only one value.
    """

    value: str
    settled: int | None
    moves: float
    eigenvalue: float
    apart_before: float
    apart: float


@dataclass(frozen=True)
class Diagnosis:
    """part: the part of the memory that was looked at, of `numbers` numbers; period: steps of a segment (1 without segments).

    lengths: steps of the shortest and of the longest episode. distinct: episodes with different observations. hold: the step
    whose observation was repeated. variable: of `rests`, the first of the task, or None. left_out: variables that were not
    examined, because there are so many.
    """

    part: str
    numbers: int
    period: int
    episodes: int
    distinct: int
    lengths: tuple[int, int]
    over_time: OverTime
    hold: int
    variable: str | None
    rests: tuple[Rest, ...]
    left_out: int = 0

    @property
    def is_written(self) -> bool:
        """Whether the part changes at the end of a segment only."""
        return self.part in (TOKENS, LAYERS) and self.period > 1


def diagnose(
    policy: ActorCritic,
    env: TorchVectorEnv,
    *,
    seed: int = 0,
    steps: int = 1_000,
    hold: int | None = None,
    repeats: int = 500,
    deterministic: bool = True,
    on_step: Callable[[int], None] = lambda steps: None,
) -> Diagnosis | None:
    """The diagnosis from one episode of each row of `env`; None where the policy remembers nothing.

    For the arguments see `MemoryReportConfig`. on_step: is called with the number of steps that were played. Raises ConfigError
    where no episode has the step `hold`.
    """
    start = memory_parts(policy, policy.initial_state(env.num_envs).memory)
    if not start:
        return None
    part = next(iter(start))
    over_time, distinct = _over_time(policy, env, part, start[part], (seed, deterministic, steps), on_step)
    shortest = int((over_time.running == env.num_envs).sum())
    longest = len(over_time.running)
    if hold is not None and hold >= longest:
        raise ConfigError(
            f"hold={hold}: no episode has this step; expected 0 to {longest - 1}, the last one of the longest episode, which"
            f" steps={steps} may have cut"
        )
    if hold is None:  # not before the memory holds the first variable
        stored = next(iter(over_time.stored.values()), None)
        hold = min(max(shortest // 2, stored or 0), longest - 1)
    *_, now = moments(policy, env, seed, deterministic, hold + 1)
    variable, labels, rows = _one_of_each(env, now)
    period = policy.backbone.segment if isinstance(policy.backbone, RMT) else 1
    # one observation for all values: what differs afterwards is the memory
    same = rows[:1].expand(len(rows))
    obs = map_obs(lambda x: x[same], now.obs)
    exact = copy.deepcopy(policy).double()  # differences of a few parts in 10^5 would drown in float32
    exact.encoder = _Float32(policy.encoder)  # type: ignore[assignment]  # an encoder of the user's may compute in float32 only
    rests = _rests(exact, obs, _to_double(select_rows(now.state, rows)), labels, part, period, repeats)
    return Diagnosis(
        part,
        start[part].shape[1],
        period,
        env.num_envs,
        distinct,
        (shortest, longest),
        over_time,
        hold,
        variable,
        rests,
        max(0, len(now.hidden) - MOST_VARIABLES),
    )


@torch.no_grad()
def _over_time(
    policy: ActorCritic,
    env: TorchVectorEnv,
    part: str,
    before: torch.Tensor,
    how: tuple[int, bool, int],
    on_step: Callable[[int], None],
) -> tuple[OverTime, int]:
    """What happens to the memory along the episodes, and how many of them are different. before: the memory at the start."""
    names = env.names_of_hidden()
    rows: list[dict[str, float]] = []
    variables: list[str] = []
    distinct, generator = 0, torch.Generator().manual_seed(0)
    for t, now in enumerate(moments(policy, env, *how)):
        variables, distinct = list(now.hidden)[:MOST_VARIABLES], now.distinct
        memory, running = now.parts[part].double(), now.running
        if not bool(memory[running].isfinite().all()):
            raise RunError(f"the policy's memory is not finite after step {t} of an episode; its numbers overflow")
        row = {
            "running": float(running.sum()),
            "change": _rms(memory[running] - before[running].double()),
            "size": _rms(memory[running]),
        }
        before = now.parts[part]
        for name in variables:
            value = now.hidden[name][running]
            row |= {f"{key} {name}": x for key, x in _distances(memory[running], value).items()}
            # where there is one value, any read-out is right
            if len(value) >= FEWEST and _is_fitted(t) and bool((value != value[0]).any()):
                size = max(len(names.get(name, ())), 1 + int(value.max()))
                if bool((memory[running] == memory[running][:1]).all()):  # the noise alone can be fitted, too
                    guess = float(value.bincount().max()) / len(value)
                    row |= {f"accuracy {name}": guess, f"chance {name}": guess}
                    continue
                noise = torch.randn(memory[running].shape, generator=generator, dtype=memory.dtype)
                inputs = memory[running] + NOISE * row["size"] * noise
                inputs = torch.cat([inputs, inputs[:1]])  # `fit` predicts its last input, which is not needed here
                *_, row[f"accuracy {name}"], row[f"chance {name}"] = fit(inputs, value[None], [size])[0]
        rows.append(row)
        on_step(t + 1)
    table = {key: np.array([row.get(key, np.nan) for row in rows]) for key in {k: 0 for row in rows for k in row}}
    blank = np.full(len(rows), np.nan)

    def of(key: str) -> dict[str, np.ndarray]:
        return {name: table.get(f"{key} {name}", blank) for name in variables}

    accuracy, chance = of("accuracy"), of("chance")
    held = {name: accuracy[name] >= chance[name] + HALFWAY * (1 - chance[name]) for name in variables}
    stored = {
        name: _first(held[name] & _is_no_luck(accuracy[name], chance[name], table["running"])) for name in variables
    }
    # steps without a read-out are NaN, of which every comparison is false
    failed = {name: accuracy[name] < chance[name] + HALFWAY * (1 - chance[name]) for name in variables}
    lost = {name: _from_which_on(failed[name], held[name], stored[name]) for name in variables}
    columns = (table["running"], table["change"], table["size"])
    return OverTime(*columns, of("within"), of("between"), accuracy, chance, stored, lost), distinct


def _is_no_luck(accuracy: np.ndarray, chance: np.ndarray, episodes: np.ndarray) -> np.ndarray:
    """Whether that many right read-outs, or more, would hardly be guesses at any of the steps [T].

    Counted as half as many episodes: the read-outs of different episodes are fitted to the same others, so they err together.
    """
    from scipy.stats import binom

    n = episodes // 2
    right = np.floor(np.nan_to_num(accuracy) * n)
    return np.asarray(binom.sf(right - 1, n, chance) < LUCK / max(1, np.isfinite(accuracy).sum()))


def _is_fitted(t: int) -> bool:
    """Every step at first, then one of ever more."""
    return t % (1 + t // DENSE) == 0


def _first(where: np.ndarray, begin: int = 0) -> int | None:
    """The first index from `begin` on at which `where` is true, or None."""
    found = np.flatnonzero(where[begin:])
    return begin + int(found[0]) if len(found) else None


def _from_which_on(failed: np.ndarray, held: np.ndarray, stored: int | None) -> int | None:
    """The first index after `stored` at which `failed` is true and from which on it is so nine times out of ten; or None.

    A single read-out may fail or succeed by chance, in particular where few episodes are left.
    """
    if stored is None:
        return None
    failures, known = (np.cumsum(x[::-1])[::-1] for x in (failed, failed | held))
    return _first(failed & (failures >= 0.9 * known), stored)


def _rms(x: torch.Tensor) -> float:
    return float(x.square().mean().sqrt()) if x.numel() else math.nan


def _distances(memory: torch.Tensor, value: torch.Tensor) -> dict[str, float]:
    """Root mean square distances within and between the values [n] of memories [n, F]."""
    values = value.unique()
    means = torch.stack([memory[value == v].mean(0) for v in values])
    own = means[torch.searchsorted(values, value)]
    pairs = [(i, j) for i in range(len(values)) for j in range(i)]
    between = _rms(torch.stack([means[i] - means[j] for i, j in pairs])) if pairs else math.nan
    return {"within": _rms(memory - own), "between": between}


def _one_of_each(env: TorchVectorEnv, now: Moment) -> tuple[str | None, list[str], torch.Tensor]:
    """The first hidden variable, the names of its values, and a row of a running episode for each; at most `MOST_VARIABLES`."""
    running = now.running.nonzero().flatten()
    if not now.hidden:
        return None, [""], running[:1]
    name, value = next(iter(now.hidden.items()))
    found = value[running].unique()[:MOST_VARIABLES]
    known = env.names_of_hidden().get(name, ())
    labels = [known[int(v)] if int(v) < len(known) else str(int(v)) for v in found]
    return name, labels, torch.stack([running[(value[running] == v).nonzero()[0, 0]] for v in found])


class _Float32(nn.Module):
    """An encoder as it is, whose outputs are float64."""

    def __init__(self, encoder: nn.Module) -> None:
        super().__init__()
        self.encoder = copy.deepcopy(encoder)

    def forward(self, obs: Obs) -> torch.Tensor:
        return self.encoder(obs).double()


def _to_double(state: PolicyState) -> PolicyState:
    return rebuild(state, {n: x.double() if x.is_floating_point() else x for n, x in leaves(state).items()})


@torch.no_grad()
def _rests(
    policy: ActorCritic, obs: Obs, state: PolicyState, labels: list[str], part: str, period: int, repeats: int
) -> tuple[Rest, ...]:
    """Where the memories of some rows go while their observation is repeated."""
    never = torch.zeros(len(labels), dtype=torch.bool)

    def play(state: PolicyState, steps: int) -> PolicyState:
        for _ in range(steps):
            _, state = policy.act(obs, state, never, True)
        return state

    # to the beginning of a segment, where an RMT's memory is all that it carries
    age = leaves(state).get("state.memory.age")
    state = play(state, 0 if age is None else int(-age.flatten()[0]) % period)  # some memories count in every layer
    begin = memory = memory_parts(policy, state.memory)[part]
    settled: list[int | None] = [None] * len(labels)
    moves = torch.full((len(labels),), math.nan)
    for number in range(1, repeats + 1):
        state = play(state, period)
        after = memory_parts(policy, state.memory)[part]
        moves = (after - memory).norm(dim=1) / after.norm(dim=1).clamp(min=1e-300)
        memory = after
        for row, moved in enumerate(moves.tolist()):
            settled[row] = settled[row] or number if moved < REST else None
        if None not in settled:
            break
    radius = _spectral_radius(lambda given: play(given, period), state)
    return tuple(map(Rest, labels, settled, moves.tolist(), radius, _apart(begin), _apart(memory)))


def _apart(memory: torch.Tensor) -> list[float]:
    """The distance of each row to the nearest other one, as a share of its size; NaN for a single row."""
    distance = torch.cdist(memory, memory).fill_diagonal_(math.inf).min(dim=1).values
    return (distance / memory.norm(dim=1).clamp(min=1e-300)).tolist() if len(memory) > 1 else [math.nan]


def _spectral_radius(step: Callable[[PolicyState], PolicyState], state: PolicyState) -> list[float]:
    """The largest modulus of an eigenvalue of the derivative of `step` at each row, by power iteration on central differences.

    The mean growth of the last iterations: a pair of complex eigenvalues makes the growth of a single one swing. Only real
    numbers are disturbed, not counters and actions.
    """
    numbers = {
        name: x for name, x in leaves(state).items() if x.is_floating_point() and x.numel() and name != "state.action"
    }
    rows = len(next(iter(numbers.values())))
    sizes = [x[0].numel() for x in numbers.values()]
    point = torch.cat([x.flatten(1) for x in numbers.values()], dim=1)
    scale = DISTURBANCE * point.norm(dim=1, keepdim=True).clamp(min=1e-12)

    def moved(vector: torch.Tensor) -> torch.Tensor:
        parts = zip(numbers.items(), (point + vector).split(sizes, dim=1), strict=True)
        given = rebuild(state, leaves(state) | {name: x.view_as(old) for (name, old), x in parts})
        after = leaves(step(given))
        return torch.cat([after[name].flatten(1) for name in numbers], dim=1)

    vector = torch.randn(point.shape, generator=torch.Generator().manual_seed(0), dtype=point.dtype)
    vector /= vector.norm(dim=1, keepdim=True)
    growths = []
    for _ in range(ITERATIONS):
        change = (moved(scale * vector) - moved(-scale * vector)) / (2 * scale)
        growth = change.norm(dim=1, keepdim=True)
        vector = change / growth.clamp(min=1e-300)
        growths.append(growth)
    radius = torch.stack(growths[-AVERAGED:]).clamp(min=1e-300).log().mean(0).exp()
    return [0.0 if r < 1e-100 else r for r in radius.view(rows).tolist()]
