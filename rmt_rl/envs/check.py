"""Is this environment what a trainer needs? `python -m rmt_rl.envs.check <name | gymnasium id | module:Class> [option=value …]`

Every check is one claim of the contract in `base.py`, with random actions and a few hundred steps; what is wrong is said in a
sentence. The tests of this package run the same checks over its own registry. A module:Class may be a `TorchVectorEnv`, which is
made with `num_envs`, or a `gymnasium.Env`, which then runs behind `gym_adapter.py`, as with env=gym.

Not a proof: what random actions do not reach is not seen, and whether a task needs memory is not asked.
"""

from __future__ import annotations

import importlib
import random
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import gymnasium
import numpy as np
import torch
from gymnasium.vector import AutoresetMode
from gymnasium.vector.utils import batch_space

from rmt_rl.config import GROUPS, ConfigError, choose
from rmt_rl.envs.base import Obs, TorchVectorEnv
from rmt_rl.envs.registry import make_env

Make = Callable[[int], TorchVectorEnv]

ROWS, STEPS = 4, 60
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
    return len(left) == len(right) and all(_equal(x, y) for x, y in zip(left, right, strict=True))


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


def rows_and_dtypes(make: Make) -> None:
    env = make(ROWS)
    expect(env.num_envs == ROWS, f"num_envs is {env.num_envs} after {ROWS} were asked for")
    mode = env.metadata.get("autoreset_mode")
    expect(mode is AutoresetMode.SAME_STEP, f'metadata["autoreset_mode"] is {mode}; expected SAME_STEP')
    for name in ("observation", "action"):
        single, batched = getattr(env, f"single_{name}_space"), getattr(env, f"{name}_space")
        expect(batched == batch_space(single, ROWS), f"{name}_space is not single_{name}_space for {ROWS} rows")
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
                f"two environments with seed 3 and equal actions differ at step {t}: {_short(one)} and {_short(other)}"
            )


def another_seed_other_episodes(make: Make) -> None:
    if same(play(make(ROWS), 300, seed=3), play(make(ROWS), 300, seed=300)):
        raise Broken(
            "seeds 3 and 300 give the same 300 steps: the seed is not used, or there is no chance in this task"
        )


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


def autoreset_in_the_same_step(make: Make) -> None:
    env, twin = make(ROWS), make(ROWS)
    env.reset(seed=2)
    try:
        env.state_dict()
    except NotImplementedError:
        raise NotChecked("an environment that cannot say its state may draw random numbers in its steps") from None
    firsts = [twin.reset(seed=2)[0]]
    ends = [0] * ROWS
    for t, action in enumerate(actions(env, PATIENCE)):
        obs, _, _, _, info = env.step(action)
        for row in info["_final_obs"].nonzero().flatten().tolist():
            ends[row] += 1
            while len(firsts) <= ends[row]:
                firsts.append(twin.reset()[0])
            if not same(_row(obs, row), _row(firsts[ends[row]], row)):
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
    ended = 0
    for t, action in enumerate(actions(env, PATIENCE)):
        obs, _, terminated, truncated, info = env.step(action)
        if not torch.equal(info["_final_obs"], terminated | truncated):
            raise Broken(f'info["_final_obs"] is not terminated | truncated at step {t + 1}')
        for row in (~info["_final_obs"]).nonzero().flatten().tolist():
            if not same(_row(obs, row), _row(info["final_obs"], row)):
                raise Broken(
                    f'info["final_obs"] differs from the observation in row {row}, whose episode goes on (step {t + 1})'
                )
        ended += int(info["_final_obs"].sum())
        if ended >= ROWS:
            return
    raise NotChecked(f"no {ROWS} episodes ended within {PATIENCE:,} random steps")


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
        kept.append(env.reset(seed=0) if action is None else env.step(action))
        copies.append([tensor.clone() for tensor in tensors(kept[-1])])
    for t, (one, copy) in enumerate(zip(kept, copies, strict=True)):
        expect(same(one, copy), f"a tensor that call {t} handed out was written to later; hand out copies")


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
    bad = {"of the wrong shape": good[:-1]}
    if isinstance(env.single_action_space, gymnasium.spaces.Discrete):
        bad |= {
            "too large": torch.full_like(good, int(env.single_action_space.n)),
            "negative": torch.full_like(good, -1),
        }
    for what, action in bad.items():
        try:
            env.step(action)
        except ValueError:
            continue
        raise Broken(f"an action {what} is taken without a ValueError")
    expect(same(env.step(good), twin.step(good)), "a refused action changed the environment")


def step_needs_a_reset(make: Make) -> None:
    env = make(ROWS)
    try:
        env.step(next(actions(env)))
    except (RuntimeError, gymnasium.error.ResetNeeded):
        return
    raise Broken("step before the first reset does not raise a RuntimeError")


def floor_below_ceiling(make: Make) -> None:
    env = make(1)
    if env.floor is None or env.ceiling is None:
        raise NotChecked("floor or ceiling is not known; a score will stand alone")
    expect(env.floor <= env.ceiling, f"floor is {env.floor} and ceiling {env.ceiling}")
    expect(bool(env.task), "task is empty; say in one line what has to be remembered, and for how long")


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
    Check("floor and ceiling are known", floor_below_ceiling),
)


@dataclass(frozen=True)
class Result:
    """What one check found: verdict "ok", "wrong" or "not checked", and a sentence but for "ok"."""

    claim: str
    verdict: str
    found: str = ""


def check(make: Make) -> Iterator[Result]:
    """The results of all checks, one after the other. `make(num_envs)` makes the environment anew."""
    for each in CHECKS:
        try:
            each.run(make)
        except Broken as error:
            yield Result(each.claim, "wrong", str(error))
        except NotChecked as error:
            yield Result(each.claim, "not checked", str(error))
        except Exception as error:  # whatever a stranger's environment raises is a finding
            yield Result(
                each.claim, "wrong", f"{type(error).__name__}: {' '.join(str(error).split())} ({_where(error)})"
            )
        else:
            yield Result(each.claim, "ok")


def maker(name: str, given: dict[str, Any]) -> Make:
    """How to make the environment that a user names: one of ours, an id of gymnasium, or module:Class."""
    if name in GROUPS["env"]:
        return lambda num_envs: make_env(name, num_envs, **given)
    module, colon, attribute = name.partition(":")
    if not colon and not name.count("-v") and "/" not in name:
        choose("env", name)  # neither an id nor a class: says what there is
    cls = None
    if colon:
        try:
            cls = getattr(importlib.import_module(module), attribute, None)
        except ModuleNotFoundError as error:
            raise ConfigError(f"{name}: {error}; expected a module that can be imported from here") from None
    if isinstance(cls, type) and issubclass(cls, TorchVectorEnv):
        return lambda num_envs: cls(num_envs, **given)
    if isinstance(cls, type) and issubclass(cls, gymnasium.Env):
        name = f"rmt_rl-check/{attribute}-v0"
        gymnasium.register(name, entry_point=cls)  # type: ignore[arg-type]  # a class is called like a function
    elif cls is not None or (colon and attribute not in gymnasium.registry):
        raise ConfigError(f"{name}: expected a class that is a TorchVectorEnv or a gymnasium.Env, found {_kind(cls)}")
    return lambda num_envs: make_env("gym", num_envs, id=name, options=given)


def main(argv: Sequence[str] | None = None) -> int:
    argv = sys.argv[1:] if argv is None else argv
    if not argv or {"-h", "--help"} & set(argv):
        print(__doc__)
        return 0 if argv else 2
    try:
        name, given = argv[0], dict(_option(text) for text in argv[1:])
        make = maker(name, given)
        make(1).close()
    except ConfigError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    count = {"ok": 0, "not checked": 0, "wrong": 0}
    for result in check(make):
        count[result.verdict] += 1
        print(
            f"{result.verdict:>11}  {result.claim}" + (f"\n{'':13}{result.found}" if result.found else ""), flush=True
        )
    print(f"{name}: " + ", ".join(f"{number} {verdict}" for verdict, number in count.items()))
    return 1 if count["wrong"] else 0


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
    sys.exit(main())
