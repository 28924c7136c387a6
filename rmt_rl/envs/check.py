"""Is this environment what a trainer needs? `python -m rmt_rl.envs.check <name | gymnasium id | module:Class> [option=value …]`

Every check is one claim of the contract in `base.py`, with random actions and a few hundred steps; what is wrong is said in a
sentence. The tests of this package run the same checks over its own registry. A module:Class may be a `TorchVectorEnv`, which is
made with `num_envs`, or a `gymnasium.Env`, which then runs behind `gym_adapter.py`, as with env=gym.

    python -m rmt_rl.envs.check tmaze length=20
    python -m rmt_rl.envs.check CartPole-v1
    python -m rmt_rl.envs.check my_module:MyEnv size=7

Exit status: 0, or 1 where something is wrong, or 2 where nothing could be checked. Not a proof: what random actions do not
reach is not seen, and whether a task needs memory is not asked.
"""

from __future__ import annotations

import contextlib
import copy
import functools
import importlib
import random
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import gymnasium
import numpy as np
import torch
from gymnasium.utils.env_checker import data_equivalence
from gymnasium.vector import AutoresetMode
from gymnasium.vector.utils import batch_space

from rmt_rl import cli
from rmt_rl.config import GROUPS, ConfigError, did_you_mean
from rmt_rl.envs.base import Obs, TorchVectorEnv
from rmt_rl.envs.gym_adapter import GymAdapter, register_package
from rmt_rl.envs.registry import make_env
from rmt_rl.envs.translate import Translation, action_space

Make = Callable[[int], TorchVectorEnv]

ROWS, STEPS = 4, 60
#: Seconds after which a check is given up.
DEADLINE = 60
#: Random steps of a row after which the search for the end of an episode is given up.
PATIENCE = 2_000


class Broken(Exception):
    """A claim does not hold; the message says what was found."""


class NotChecked(Exception):
    """A claim could not be looked at; the message says why."""


@dataclass(frozen=True)
class Check:
    """One claim, and the function that raises `Broken` where it does not hold."""

    claim: str
    run: Callable[[Make], None]


def actions(env: TorchVectorEnv, steps: int = STEPS) -> Iterator[torch.Tensor]:
    """Random actions; a row's do not depend on how many rows there are. Half of the time a row does what it did before."""
    space = env.single_action_space
    draws = []
    for row in range(env.num_envs):
        space.seed(row)
        rng = np.random.default_rng(row)
        chosen: list[np.ndarray] = []
        for _ in range(steps):
            chosen.append(chosen[-1] if chosen and rng.random() < 0.5 else np.asarray(space.sample()))
        draws.append(np.stack(chosen))
    for at_once in np.stack(draws, axis=1):
        yield torch.from_numpy(at_once).to(env.device)


def parts(obs: Obs) -> dict[str, torch.Tensor]:
    return obs if isinstance(obs, dict) else {"observation": obs}


def tensors(value: Any) -> list[torch.Tensor]:
    """All tensors in nested tuples, lists and dictionaries, in one order."""
    if isinstance(value, torch.Tensor):
        return [value]
    inside = [value[key] for key in sorted(value)] if isinstance(value, dict) else value
    return [t for item in inside for t in tensors(item)] if isinstance(inside, tuple | list) else []


def same(a: Any, b: Any) -> bool:
    left, right = tensors(a), tensors(b)
    # nothing is not the same as nothing: a comparison that compares no tensor may not pass
    return bool(left) and len(left) == len(right) and all(map(_equal, left, right))


def _equal(x: torch.Tensor, y: torch.Tensor) -> bool:
    if x.shape != y.shape or x.dtype != y.dtype:
        return False
    return torch.equal(x, y) or (x.is_floating_point() and bool(torch.isclose(x, y, 0, 0, equal_nan=True).all()))


def play(env: TorchVectorEnv, steps: int = STEPS, **reset: Any) -> list[Any]:
    """All that a reset and some steps hand out."""
    return [env.reset(**reset), *(env.step(action) for action in actions(env, steps))]


def expect(holds: bool, found: str) -> None:
    if not holds:
        raise Broken(found)


# ------------------------------------------------------------------------- a gymnasium.Env, before anything translates it


def returns_of_reset_and_step(env: gymnasium.Env[Any, Any]) -> None:
    for name in ("observation_space", "action_space"):
        found = getattr(env, name, None)
        expect(
            isinstance(found, gymnasium.Space),
            f"{name} is {found!r}; expected a gymnasium.Space, set in the class or __init__",
        )
    env.action_space.seed(0)
    _expect_reset(_reset(env))
    for _ in range(STEPS):
        back = env.step(env.action_space.sample())
        wanted = "expected (observation, reward, terminated, truncated, info)"
        expect(isinstance(back, tuple) and len(back) == 5, f"step returned {_what(back)}; {wanted}")
        _, reward, terminated, truncated, info = back
        number = isinstance(reward, int | float | np.integer | np.floating)
        expect(number, f"the reward is {_what(reward)}; expected a number")
        for name, flag in (("terminated", terminated), ("truncated", truncated)):
            expect(isinstance(flag, bool | np.bool_), f"{name} is {_what(flag)}; expected True or False")
        expect(isinstance(info, dict), f"info is {_what(info)}; expected a dictionary")
        if terminated or truncated:
            _expect_reset(_reset(env))


def observations_are_what_the_space_says(env: gymnasium.Env[Any, Any]) -> None:
    env.action_space.seed(0)
    obs, where = _reset(env)[0], "reset"
    for t in range(200):
        if found := _mismatch(env.observation_space, obs):
            raise Broken(f"{where} returned {found}")
        obs, _, terminated, truncated, _ = env.step(env.action_space.sample())
        where = f"step {t + 1}"
        if terminated or truncated:
            obs, where = _reset(env)[0], "reset"


def observations_are_not_written_again(env: gymnasium.Env[Any, Any]) -> None:
    env.action_space.seed(0)
    obs = _reset(env)[0]
    for t in range(20):
        kept = copy.deepcopy(obs)
        new, _, terminated, truncated, _ = env.step(env.action_space.sample())
        if not data_equivalence(obs, kept):
            raise Broken(f"step {t + 1} wrote into the observation that was returned before it; return a copy")
        obs = _reset(env)[0] if terminated or truncated else new


def _reset(env: gymnasium.Env[Any, Any]) -> Any:
    try:
        return env.reset(seed=0)
    except TypeError as error:
        if "reset() got an unexpected keyword argument" in str(error):
            raise Broken(f"{error}; expected reset(self, *, seed=None, options=None)") from error
        raise


def _expect_reset(back: Any) -> None:
    pair = isinstance(back, tuple) and len(back) == 2 and isinstance(back[1], dict)
    expect(pair, f"reset returned {_what(back)}; expected (observation, info)")


def _mismatch(space: gymnasium.Space[Any], value: Any, name: str = "an observation") -> str:
    """What is wrong with a value of a space, or nothing."""
    if isinstance(space, gymnasium.spaces.Dict | gymnasium.spaces.Tuple):
        parts: dict[Any, Any] = (
            dict(space.items()) if isinstance(space, gymnasium.spaces.Dict) else dict(enumerate(space))
        )
        if not isinstance(value, dict | tuple):
            return f"{name} that is {_what(value)}; the space says {space}"
        found: dict[Any, Any] = value if isinstance(value, dict) else dict(enumerate(value))
        if set(found) != set(parts):
            return f"{name} with the parts {list(found)}; the space has {list(parts)}"
        return next((text for key in parts if (text := _mismatch(parts[key], found[key], f"{key!r}"))), "")
    if isinstance(space, gymnasium.spaces.Box):
        if not isinstance(value, np.ndarray):
            return f"{name} that is {_what(value)}; the space says a numpy array {space.dtype} {space.shape}"
        if value.dtype != space.dtype or value.shape != space.shape:
            return f"{name} of {value.dtype} {value.shape}; the space says {space.dtype} {space.shape}"
        if np.isnan(value).any():
            return f"{name} with NaN"
    return "" if space.contains(value) else f"{name} outside its space {space}: {_brief(value)}"


def _what(value: Any) -> str:
    if isinstance(value, tuple | list):
        return f"a {type(value).__name__} of {len(value)} values"
    return (
        f"an array {value.dtype} {value.shape}"
        if isinstance(value, np.ndarray)
        else f"{type(value).__name__} {_brief(value)}"
    )


def _brief(value: Any) -> str:
    text = " ".join(str(value).split())
    return text if len(text) <= 100 else f"{text[:100]}…"


RAW_CHECKS = (
    ("reset and step return what gymnasium asks for", returns_of_reset_and_step),
    ("observations are what the observation space says", observations_are_what_the_space_says),
    ("observations are not written again", observations_are_not_written_again),
)


# ---------------------------------------------------------------------------------------------------------- the contract


def rows_and_dtypes(make: Make) -> None:
    env = make(ROWS)
    expect(env.num_envs == ROWS, f"num_envs is {env.num_envs} after {ROWS} were asked for")
    mode = env.metadata.get("autoreset_mode")
    expect(mode is AutoresetMode.SAME_STEP, f'metadata["autoreset_mode"] is {mode}; expected SAME_STEP')
    for name in ("observation", "action"):
        single, batched = getattr(env, f"single_{name}_space"), getattr(env, f"{name}_space")
        expect(batched == batch_space(single, ROWS), f"{name}_space is not single_{name}_space for {ROWS} rows")
    expect(env.measure in ("success", "return"), f'measure is {env.measure!r}; expected "success" or "return"')
    first, *steps = play(env, 20, seed=0)
    _expect_observation(env, first[0], "reset")
    for obs, reward, terminated, truncated, info in steps:
        _expect_observation(env, obs, "step")
        expect("final_obs" in info and "_final_obs" in info, "info has no final_obs and _final_obs")
        _expect_observation(env, info["final_obs"], 'info["final_obs"]')
        _expect_tensor(env, reward, (ROWS,), torch.float64, "reward")
        flags = {"terminated": terminated, "truncated": truncated, 'info["_final_obs"]': info["_final_obs"]}
        if "success" in info:
            flags['info["success"]'] = info["success"]
        elif env.measure == "success" and not isinstance(env, GymAdapter):  # which has it at ends only
            raise Broken('info has no success, which is the measure; say it, or set measure = "return"')
        for name, flag in flags.items():
            _expect_tensor(env, flag, (ROWS,), torch.bool, name)


def _expect_observation(env: TorchVectorEnv, obs: Obs, where: str) -> None:
    space: Any = env.single_observation_space
    spaces = dict(space.spaces) if isinstance(space, gymnasium.spaces.Dict) else {"observation": space}
    found = parts(obs)
    expect(set(found) == set(spaces), f"{where} returns {sorted(found)}; the space has {sorted(spaces)}")
    for name, part in spaces.items():
        dtype = torch.from_numpy(np.empty(0, dtype=part.dtype)).dtype
        shape = (env.num_envs, *(part.shape or ()))
        _expect_tensor(env, found[name], shape, dtype, f"{where}: {name}")


def _expect_tensor(env: TorchVectorEnv, found: Any, shape: tuple[int, ...], dtype: torch.dtype, what: str) -> None:
    expect(isinstance(found, torch.Tensor), f"{what} is a {type(found).__name__}; expected a torch tensor")
    expect(tuple(found.shape) == shape, f"{what} has shape {tuple(found.shape)}; expected {shape}")
    expect(found.dtype == dtype, f"{what} has dtype {found.dtype}; expected {dtype}")
    expect(found.device.type == env.device.type, f"{what} lies on {found.device}; expected {env.device}")


def inside_the_space(make: Make) -> None:
    env = make(ROWS)
    first, *steps = play(env, 200, seed=1)
    for obs in (first[0], *(step[0] for step in steps), *(step[4]["final_obs"] for step in steps)):
        arrays = {name: part.cpu().numpy() for name, part in parts(obs).items()}
        if not env.observation_space.contains(arrays if isinstance(obs, dict) else arrays["observation"]):
            raise Broken(f"an observation lies outside {env.single_observation_space}: {_short(obs)}")


def numbers_are_finite(make: Make) -> None:
    env = make(ROWS)
    first, *steps = play(env, 200, seed=1)
    for t, tensor in enumerate([first[0], *((obs, reward, info["final_obs"]) for obs, reward, _, _, info in steps)]):
        for each in tensors(tensor):
            if each.is_floating_point() and not bool(each.isfinite().all()):
                raise Broken(f"NaN or infinity in an observation or a reward at step {t}: {_short(each)}")


def same_seed_same_episodes(make: Make) -> None:
    first, again = play(make(ROWS), seed=3), play(make(ROWS), seed=3)
    for t, (one, other) in enumerate(zip(first, again, strict=True)):
        if not same(one, other):
            raise Broken(
                f"two environments with seed 3 and equal actions differ at step {t}: {_short(one)} and {_short(other)};"
                " draw from a generator of the seed only (gymnasium: super().reset(seed=seed), then self.np_random)"
            )


def another_seed_other_episodes(make: Make) -> None:
    rows = _enough_rows(make)
    env = make(rows)
    if same(play(env, 300, seed=3), play(make(rows), 300, seed=300)):
        found = "seeds 3 and 300 give the same 300 steps: the seed is not used, or there is no chance in this task"
        # a task of gymnasium may be without chance; one of memory would then need none
        raise NotChecked(found) if isinstance(env, GymAdapter) else Broken(found)
    if same(play(env, 300), play(env, 300)):
        found = "two resets without a seed give the same 300 steps; expected the episodes that come next"
        raise NotChecked(found) if isinstance(env, GymAdapter) else Broken(found)


def _enough_rows(make: Make) -> int:
    """So many that one hidden bit in each cannot agree by chance; a foreign environment may be slow, and is not accused."""
    return ROWS if isinstance(make(1), GymAdapter) else 20


def a_seeded_reset_starts_over(make: Make) -> None:
    env = make(ROWS)
    expect(same(play(env, seed=3), play(env, seed=3)), "a second reset(seed=3) does not give the episodes of the first")


def rows_are_independent(make: Make) -> None:
    few, many = play(make(2), seed=5), play(make(5), seed=5)
    for t, (one, other) in enumerate(zip(few, many, strict=True)):
        if not same(tensors(one), [tensor[:2] for tensor in tensors(other)]):
            raise Broken(f"the first two rows differ at step {t} between 2 and 5 rows with seed 5")
    listed, counted = play(make(3), seed=[5, 6, 7]), play(make(3), seed=5)
    expect(same(listed, counted), "reset(seed=5) of 3 rows is not reset(seed=[5, 6, 7])")
    alone = make(1)
    second = [alone.reset(seed=6), *(alone.step(action[1:]) for action in actions(make(2)))]
    for t, (one, other) in enumerate(zip(second, few, strict=True)):
        if not same(tensors(one), [tensor[1:] for tensor in tensors(other)]):
            raise Broken(f"row 1 of seed 5 differs at step {t} from one row of seed 6 that does the same")
    rows = _enough_rows(make)
    if not isinstance(env := make(rows), GymAdapter):  # whose rows may be without chance
        other = play(env, 300, seed=[5, *range(300, 299 + rows)])
        expect(not same(other, play(make(rows), 300, seed=5)), "reset(seed=[5, 300, ...]) is reset(seed=[5, 6, ...])")


def autoreset_in_the_same_step(make: Make) -> None:
    env, twin = make(ROWS), make(ROWS)
    env.reset(seed=2)
    firsts = [twin.reset(seed=2)[0]]
    ends = [0] * ROWS
    for t, action in enumerate(actions(env, PATIENCE)):
        obs, _, _, _, info = env.step(action)
        for row in info["_final_obs"].nonzero().flatten().tolist():
            ends[row] += 1
            while len(firsts) <= ends[row]:
                firsts.append(twin.reset()[0])
            if not same(_row(obs, row), _row(firsts[ends[row]], row)):
                if isinstance(env, GymAdapter):
                    raise NotChecked(
                        "the next episode hangs on what was done before, as where steps draw random numbers"
                    )
                raise Broken(
                    f"row {row} shows {_short(_row(obs, row))} after the end at step {t + 1}; its next episode begins with"
                    f" {_short(_row(firsts[ends[row]], row))}"
                )
        if min(ends) >= 2:
            return
    raise NotChecked(f"no two episodes of every row ended within {PATIENCE:,} random steps")


def flags_and_last_observations_agree(make: Make) -> None:
    env = make(ROWS)
    env.reset(seed=2)
    firsts: list[list[torch.Tensor]] = []
    overwritten = 0
    for t, action in enumerate(actions(env, PATIENCE)):
        obs, _, terminated, truncated, info = env.step(action)
        if not torch.equal(info["_final_obs"], terminated | truncated):
            raise Broken(f'info["_final_obs"] is not terminated | truncated at step {t + 1}')
        for row in (~info["_final_obs"]).nonzero().flatten().tolist():
            if not same(_row(obs, row), _row(info["final_obs"], row)):
                raise Broken(
                    f'info["final_obs"] differs from the observation in row {row}, whose episode goes on (step {t + 1})'
                )
        for row in info["_final_obs"].nonzero().flatten().tolist():
            firsts.append(_row(obs, row))
            overwritten += same(firsts[-1], _row(info["final_obs"], row))
        if len(firsts) >= (4 * ROWS if overwritten == len(firsts) else ROWS):
            break
    if len(firsts) < ROWS:
        raise NotChecked(f"no {ROWS} episodes ended within {PATIENCE:,} random steps")
    # a task may end as it begins, but hardly as the next episode does where episodes begin differently
    alike = all(same(first, firsts[0]) for first in firsts)
    if overwritten == len(firsts) and not alike and not isinstance(env, GymAdapter):
        raise Broken(
            f'info["final_obs"] is the first observation of the next episode in all of {len(firsts)} ends; keep the last one of'
            " the ended episode there"
        )


def success_is_an_end(make: Make) -> None:
    env = make(ROWS)
    for t, (_, _, _, _, info) in enumerate(play(env, 300, seed=0)[1:]):
        if "success" in info and bool((info["success"] & ~info["_final_obs"]).any()):
            raise Broken(f"success in a row whose episode goes on (step {t + 1})")


def a_saved_state_continues(make: Make) -> None:
    def go_on(env: TorchVectorEnv) -> list[Any]:
        # many episodes, so that what is drawn ahead runs out and the random streams themselves are needed
        return [*(env.step(action) for action in actions(env)), *(env.reset() for _ in range(40)), *play(env)]

    env = make(ROWS)
    play(env, 33, seed=4)
    try:
        state = env.state_dict()
    except NotImplementedError as error:
        raise NotChecked(str(error)) from None
    expected = go_on(env)
    for other, whose in ((make(ROWS), "a fresh environment"), (env, "the same environment, later")):
        other.load_state_dict(state)
        expect(same(go_on(other), expected), f"{whose} does not go on to the same bits after load_state_dict")


def nothing_is_written_again(make: Make) -> None:
    env = make(ROWS)
    kept, copies = [], []
    for action in (None, *actions(env), None):
        given = None if action is None else action.clone()
        kept.append(env.reset(seed=0) if action is None else env.step(action))
        if given is not None:
            expect(same(action, given), f"step {len(kept) - 1} wrote into the action that it was given")
        copies.append([tensor.clone() for tensor in tensors(kept[-1])])
    for t, (one, before) in enumerate(zip(kept, copies, strict=True)):
        expect(same(one, before), f"a tensor that call {t} handed out was written to later; hand out copies")


def no_global_stream(make: Make) -> None:
    def streams() -> list[Any]:
        of_numpy = [x.tolist() if isinstance(x, np.ndarray) else x for x in np.random.get_state()]
        return [random.getstate(), of_numpy, torch.get_rng_state().tolist()]

    before = streams()
    play(make(ROWS), 20)  # without a seed
    play(make(ROWS), 20, seed=0)
    for name, one, other in zip(("random", "numpy.random", "torch"), before, streams(), strict=True):
        expect(one == other, f"the global random stream of {name} is used; keep a generator of your own, from the seed")


def bad_actions_are_refused(make: Make) -> None:
    env, twin = make(ROWS), make(ROWS)
    env.reset(seed=0)
    twin.reset(seed=0)
    good = next(actions(env))
    bad = {"of too few rows": good[:-1], "with an axis too many": good[:, None]}
    if isinstance(env.single_action_space, gymnasium.spaces.Discrete):
        bad |= {
            "too large": torch.full_like(good, int(env.single_action_space.n)),
            "negative": torch.full_like(good, -1),
            "of floats": good.double() + 0.5,
        }
    for what, action in bad.items():
        try:
            env.step(action.clone())
        except ValueError:
            continue
        raise Broken(f"an action {what} is taken without a ValueError")
    later = list(actions(env, 10))
    if not same(play(make(ROWS), 10, seed=0), play(make(ROWS), 10, seed=0)):
        raise NotChecked(
            "refused; whether that changed anything cannot be seen where equal seeds give different episodes"
        )
    expect(all(same(env.step(a), twin.step(a)) for a in later), "a refused action changed the environment")


def step_needs_a_reset(make: Make) -> None:
    env = make(ROWS)
    try:
        env.step(next(actions(env)))
    except Exception as error:
        # whatever a stranger raises refuses it; ours say what to do
        if isinstance(env, GymAdapter) or (isinstance(error, RuntimeError) and "reset" in str(error)):
            return
        raise
    raise Broken("step before the first reset is taken without an error")


def the_oracle_succeeds(make: Make) -> None:
    env = make(ROWS)
    env.reset(seed=0)
    ended = 0
    for t in range(PATIENCE):
        try:
            action = env.oracle()
        except ConfigError:  # says that there is none
            return
        space: Any = env.single_action_space
        dtype = torch.from_numpy(np.empty(0, dtype=space.dtype)).dtype
        _expect_tensor(env, action, (ROWS, *(space.shape or ())), dtype, "oracle()")
        if not env.action_space.contains(action.cpu().numpy()):
            raise Broken(f"oracle() gives an action outside {env.single_action_space} at step {t}: {action.tolist()}")
        _, _, _, _, info = env.step(action)
        over = info["_final_obs"]
        if env.measure == "success" and env.ceiling == 1 and bool((over & ~info["success"]).any()):
            raise Broken(f"the oracle fails in the episode that ends at step {t + 1}, though the ceiling is 1")
        ended += int(over.sum())
        if ended >= 10 * ROWS:
            return
    if not ended:
        raise NotChecked(f"no episode of the oracle ended within {PATIENCE:,} steps")


def floor_below_ceiling(make: Make) -> None:
    env = make(1)
    expect(bool(env.task), "task is empty; say in one line what has to be remembered, and for how long")
    for name, score in (("floor", env.floor), ("ceiling", env.ceiling)):
        if score is not None and env.measure == "success":
            expect(0 <= score <= 1, f"{name} is {score}; the measure is a rate of success, between 0 and 1")
    if env.floor is None or env.ceiling is None:
        raise NotChecked("floor or ceiling is not known; a score will stand alone")
    expect(env.floor <= env.ceiling, f"floor is {env.floor} and ceiling {env.ceiling}")


CHECKS = (
    Check("shapes, dtypes, devices and spaces are those of a TorchVectorEnv", rows_and_dtypes),
    Check("observations lie inside the declared space", inside_the_space),
    Check("observations and rewards are finite", numbers_are_finite),
    Check("the same seed gives the same episodes", same_seed_same_episodes),
    Check("another seed gives other episodes", another_seed_other_episodes),
    Check("a second seeded reset starts over", a_seeded_reset_starts_over),
    Check("a row depends on its own seed only, whatever the number of rows", rows_are_independent),
    Check("the step that ends an episode returns the first observation of the next", autoreset_in_the_same_step),
    Check("final_obs and the flags agree", flags_and_last_observations_agree),
    Check("success comes with the end of an episode", success_is_an_end),
    Check("a saved state continues to the same bits", a_saved_state_continues),
    Check("tensors that were handed out are never written again", nothing_is_written_again),
    Check("no global random stream is touched", no_global_stream),
    Check("a bad action raises a ValueError and changes nothing", bad_actions_are_refused),
    Check("a step before the first reset is refused", step_needs_a_reset),
    Check(
        "the oracle, where there is one, acts inside the space and succeeds where the ceiling is 1", the_oracle_succeeds
    ),
    Check("floor and ceiling are known", floor_below_ceiling),
)


@dataclass(frozen=True)
class Result:
    """What one check found: verdict "ok", "wrong" or "not checked", and a sentence but for "ok"."""

    claim: str
    verdict: str
    found: str = ""


def check(make: Make, raw: Callable[[], gymnasium.Env[Any, Any]] | None = None) -> Iterator[Result]:
    """The results of all checks, one after the other. `make(num_envs)` makes the environment anew.

    raw: makes the single environment that `make` has rows of, where there is one. The first thing that is wrong with it is told
        alone, because every other check would stumble over it.
    """
    for claim, run in RAW_CHECKS if raw is not None else ():
        result = _result(claim, lambda run=run: run(raw()))  # type: ignore[misc]
        yield result
        if result.verdict == "wrong":
            yield Result("the other claims", "not checked", "mend this first")
            return
    for each in CHECKS:
        yield _result(each.claim, lambda each=each: each.run(make))  # type: ignore[misc]


def _result(claim: str, run: Callable[[], None]) -> Result:
    try:
        with _deadline():
            run()
    except Broken as error:
        return Result(claim, "wrong", str(error))
    except NotChecked as error:
        return Result(claim, "not checked", str(error))
    except (Exception, SystemExit) as error:  # whatever a stranger's environment raises is a finding
        return Result(claim, "wrong", f"{type(error).__name__}: {_brief(error)} ({_where(error)})")
    return Result(claim, "ok")


@contextlib.contextmanager
def _deadline() -> Iterator[None]:
    """Raise `Broken` in what takes too long; only the main thread of a Unix program can be interrupted."""
    if threading.current_thread() is not threading.main_thread() or not hasattr(signal, "setitimer"):
        yield
        return

    def late(signum: int, frame: Any) -> None:
        raise Broken(f"nothing came back within {DEADLINE} s; it was at {frame.f_code.co_filename}:{frame.f_lineno}")

    before = signal.signal(signal.SIGALRM, late)
    signal.setitimer(signal.ITIMER_REAL, DEADLINE)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def maker(name: str, given: dict[str, Any]) -> tuple[Make, Callable[[], gymnasium.Env[Any, Any]] | None]:
    """How to make the environment that a user names (one of ours, an id of gymnasium, or module:Class), and its raw form."""
    if name in GROUPS["env"]:
        inner = isinstance(given.get("id"), str) and name == "gym"
        raw = maker(given["id"], given.get("options") or {})[1] if inner else None
        return lambda num_envs: make_env(name, num_envs, **given), raw
    module, colon, attribute = name.partition(":")
    cls = None
    if colon:
        try:
            cls = getattr(importlib.import_module(module), attribute, None)
        except ImportError as error:
            raise ConfigError(f"{name}: {error}; expected a module that can be imported from here") from None
    if isinstance(cls, type) and issubclass(cls, TorchVectorEnv):
        return lambda num_envs: cls(num_envs, **given), None
    if isinstance(cls, type) and issubclass(cls, gymnasium.Env):
        single: Any = cls
        id = f"rmt_rl-check/{attribute}-v0"
        gymnasium.register(id, entry_point=single)
        return lambda num_envs: make_env("gym", num_envs, id=id, options=given), lambda: single(**given)
    if cls is not None or (colon and attribute not in gymnasium.registry):
        raise ConfigError(f"{name}: expected a class that is a TorchVectorEnv or a gymnasium.Env, found {_kind(cls)}")
    register_package(name, name.split(":")[-1])
    if name.split(":")[-1] not in gymnasium.registry:
        hint = did_you_mean(name, [*GROUPS["env"], *gymnasium.registry])
        raise ConfigError(f"{name}: expected one of our tasks, an id of gymnasium, or module:Class{hint}")
    raw = functools.partial(gymnasium.make, name, disable_env_checker=True, **given)
    return lambda num_envs: make_env("gym", num_envs, id=name, options=given), raw


def main(argv: Sequence[str] | None = None) -> int:
    argv = sys.argv[1:] if argv is None else argv
    if not argv or {"-h", "--help"} & set(argv):
        print(__doc__)
        return 0 if argv else 2
    try:
        name, given = argv[0].removeprefix("env="), dict(_option(text) for text in argv[1:])
        make, raw = maker(name, given)
        _can_be_made(name, given, make, raw)
    except ConfigError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    count = {"ok": 0, "not checked": 0, "wrong": 0}
    for result in check(make, raw):
        count[result.verdict] += 1
        print(
            f"{result.verdict:>11}  {result.claim}" + (f"\n{'':13}{result.found}" if result.found else ""), flush=True
        )
    print(f"{name}: " + ", ".join(f"{number} {verdict}" for verdict, number in count.items()))
    return 1 if count["wrong"] else 0


def _can_be_made(
    name: str, given: dict[str, Any], make: Make, raw: Callable[[], gymnasium.Env[Any, Any]] | None
) -> None:
    try:
        single = make(1) if raw is None else raw()
        # raise ConfigError, because every check would stumble over it; a space that is missing is the first check's business
        for name, translate in (("observation_space", Translation), ("action_space", action_space)):
            if raw is not None and isinstance(space := getattr(single, name, None), gymnasium.Space):
                translate(space)
        single.close()
    except ConfigError:
        raise
    except Exception as error:
        raise ConfigError(
            f"{name}: cannot be made with {given or 'no options'}: {type(error).__name__}: {_brief(error)}"
        ) from error


def _option(text: str) -> tuple[str, Any]:
    import yaml

    key, equals, value = text.partition("=")
    if not equals or not key:
        raise ConfigError(f"{text}: expected option=value")
    try:
        return key.removeprefix("env."), yaml.safe_load(value)
    except yaml.YAMLError:
        raise ConfigError(f"{text}: expected a plain value, such as {key}=3") from None


def _kind(found: Any) -> str:
    return "nothing of that name" if found is None else f"a {type(found).__name__}"


def _where(error: BaseException) -> str:
    at = error.__traceback__
    while at is not None and at.tb_next is not None:
        at = at.tb_next
    return f"{at.tb_frame.f_code.co_filename}:{at.tb_lineno}" if at is not None else "nowhere"


def _row(obs: Obs, row: int) -> list[torch.Tensor]:
    return [part[row] for part in tensors(obs)]


def _short(value: Any) -> str:
    text = ", ".join(str(tensor.tolist()) for tensor in tensors(value))
    return text if len(text) <= 100 else f"{text[:100]}…"


if __name__ == "__main__":
    sys.exit(cli.run(main))
