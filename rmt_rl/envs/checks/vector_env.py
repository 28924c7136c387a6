"""The checks of the environment contract (`rmt_rl/envs/base.py`). Each function raises `Broken` if its claim does not hold."""

from __future__ import annotations

import random
from typing import Any

import gymnasium
import numpy as np
import torch
from gymnasium.vector import AutoresetMode
from gymnasium.vector.utils import batch_space

from rmt_rl.common.errors import ConfigError
from rmt_rl.envs.base import Obs, TorchVectorEnv
from rmt_rl.envs.checks.runner import (
    PATIENCE,
    ROWS,
    Broken,
    Check,
    Doubtful,
    Make,
    NotChecked,
    actions,
    expect,
    parts,
    play,
    playing,
    row_of,
    same,
    same_episodes,
    short,
    tensors,
)
from rmt_rl.envs.gym.adapter import GymAdapter


def rows_and_dtypes(make: Make) -> None:
    env = make(ROWS)
    expect(env.num_envs == ROWS, f"num_envs is {env.num_envs}; expected {ROWS}")
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
        elif env.measure == "success" and not isinstance(env, GymAdapter):  # the adapter adds it at ends only
            raise Broken('info has no "success", which is the measure; add it, or set measure = "return"')
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
    expect(found.device.type == env.device.type, f"{what} is on {found.device}; expected {env.device}")


def inside_the_space(make: Make) -> None:
    env = make(ROWS)
    first, *steps = play(env, 200, seed=1)
    for obs in (first[0], *(step[0] for step in steps), *(step[4]["final_obs"] for step in steps)):
        arrays = {name: part.cpu().numpy() for name, part in parts(obs).items()}
        if not env.observation_space.contains(arrays if isinstance(obs, dict) else arrays["observation"]):
            raise Broken(f"an observation is outside {env.single_observation_space}: {short(obs)}")


def numbers_are_finite(make: Make) -> None:
    env = make(ROWS)
    first, *steps = play(env, 200, seed=1)
    for t, tensor in enumerate([first[0], *((obs, reward, info["final_obs"]) for obs, reward, _, _, info in steps)]):
        for each in tensors(tensor):
            if each.is_floating_point() and not bool(each.isfinite().all()):
                raise Broken(f"NaN or infinity in an observation or a reward at step {t}: {short(each)}")


def same_seed_same_episodes(make: Make) -> None:
    first, again = play(make(ROWS), seed=3), play(make(ROWS), seed=3)
    for t, (one, other) in enumerate(zip(first, again, strict=True)):
        if not same(one, other):
            raise Broken(
                f"two environments with seed 3 and equal actions differ at step {t}: {short(one)} and {short(other)};"
                " draw all random numbers from a generator with the seed (gymnasium: super().reset(seed=seed), then"
                " self.np_random)"
            )


def another_seed_other_episodes(make: Make) -> None:
    rows = _enough_rows(make)
    env, other = make(rows), make(rows)
    if same_episodes(playing(env, 300, seed=3), playing(other, 300, seed=300)):
        found = "seeds 3 and 300 give the same 300 steps: the seed is not used, or the task is not random"
        # a gymnasium task may be deterministic; a deterministic memory task would need no memory
        raise NotChecked(found) if isinstance(env, GymAdapter) else Broken(found)
    env.reset(seed=3)
    other.reset(seed=3)
    other.reset()
    if same_episodes(playing(env, 300), playing(other, 300)):
        found = "two resets without a seed give the same 300 steps; expected the next episodes of each row"
        raise NotChecked(found) if isinstance(env, GymAdapter) else Broken(found)


def _enough_rows(make: Make) -> int:
    """Enough rows that one hidden bit per row does not agree by chance. Fewer for a gymnasium environment, which may be slow
    and whose equal episodes count as "not checked"."""
    return ROWS if isinstance(make(1), GymAdapter) else 20


def a_seeded_reset_starts_from_the_beginning(make: Make) -> None:
    env = make(ROWS)
    expect(
        same(play(env, seed=3), play(env, seed=3)), "a second reset(seed=3) does not repeat the episodes of the first"
    )


def _of_rows(result: tuple[Any, ...], rows: slice) -> list[torch.Tensor]:
    """The tensors of some rows, without entries of info that none of them reports: another row may have added them."""
    *arrays, info = result
    masks = {name: info.get(f"_{name.removeprefix('_')}") for name in info}
    reported = {name: x for name, x in info.items() if masks[name] is None or bool(masks[name][rows].any())}
    return [tensor[rows] for tensor in tensors([*arrays, reported])]


def rows_are_independent(make: Make) -> None:
    few, many = play(make(2), seed=5), play(make(5), seed=5)
    for t, (one, other) in enumerate(zip(few, many, strict=True)):
        if not same(_of_rows(one, slice(2)), _of_rows(other, slice(2))):
            found = f"the first two rows differ at step {t} between 2 and 5 rows with seed 5"
            if not getattr(make(2), "rows_have_seeds", True):
                raise Doubtful(f"{found}; evaluations of this vector environment depend on their number of rows")
            raise Broken(found)
    listed, counted = play(make(3), seed=[5, 6, 7]), play(make(3), seed=5)
    expect(same(listed, counted), "reset(seed=5) and reset(seed=[5, 6, 7]) give different episodes")
    alone = make(1)
    second = [alone.reset(seed=6), *(alone.step(action[1:]) for action in actions(make(2)))]
    for t, (one, other) in enumerate(zip(second, few, strict=True)):
        if not same(_of_rows(one, slice(1)), _of_rows(other, slice(1, 2))):
            raise Broken(f"row 1 of seed 5 differs at step {t} from a single row of seed 6 with the same actions")
    rows = _enough_rows(make)
    if not isinstance(env := make(rows), GymAdapter):  # its rows may be deterministic
        other_seeds = playing(env, 300, seed=[5, *range(300, 299 + rows)])
        found = "reset(seed=[5, 300, ...]) and reset(seed=[5, 6, ...]) give the same episodes"
        expect(not same_episodes(other_seeds, playing(make(rows), 300, seed=5)), found)


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
            if not same(row_of(obs, row), row_of(firsts[ends[row]], row)):
                if isinstance(env, GymAdapter):
                    raise NotChecked(
                        "the next episode depends on earlier actions, as it does if steps draw random numbers"
                    )
                raise Broken(
                    f"row {row} returns {short(row_of(obs, row))} after the end at step {t + 1}; its next episode starts with"
                    f" {short(row_of(firsts[ends[row]], row))}"
                )
        if min(ends) >= 2:
            return
    raise NotChecked(f"a row had fewer than two episode ends in {PATIENCE:,} random steps")


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
            if not same(row_of(obs, row), row_of(info["final_obs"], row)):
                raise Broken(
                    f'info["final_obs"] differs from the observation in row {row}, whose episode continues (step {t + 1})'
                )
        for row in info["_final_obs"].nonzero().flatten().tolist():
            firsts.append(row_of(obs, row))
            overwritten += same(firsts[-1], row_of(info["final_obs"], row))
        if len(firsts) >= (4 * ROWS if overwritten == len(firsts) else ROWS):
            break
    if len(firsts) < ROWS:
        raise NotChecked(f"fewer than {ROWS} episodes ended in {PATIENCE:,} random steps")
    # an episode may end with the observation that it started with, but that is not the next first one if these differ
    alike = all(same(first, firsts[0]) for first in firsts)
    if overwritten == len(firsts) and not alike and not isinstance(env, GymAdapter):
        raise Broken(
            f'info["final_obs"] is the first observation of the next episode at all {len(firsts)} ends; expected the last'
            " observation of the episode that ended"
        )


def success_only_at_an_end(make: Make) -> None:
    env = make(ROWS)
    for t, (_, _, _, _, info) in enumerate(play(env, 300, seed=0)[1:]):
        if "success" in info and bool((info["success"] & ~info["_final_obs"]).any()):
            raise Broken(f"success is true in a row whose episode continues (step {t + 1})")


def a_restored_state_continues(make: Make) -> None:
    def go_on(env: TorchVectorEnv) -> list[Any]:
        # many episodes, so that random numbers drawn in advance run out and the generators are used
        return [*(env.step(action) for action in actions(env)), *(env.reset() for _ in range(40)), *play(env)]

    env = make(ROWS)
    play(env, 33, seed=4)
    try:
        state = env.state_dict()
    except NotImplementedError as error:
        raise NotChecked(str(error)) from None
    expected = go_on(env)
    for other, which in ((make(ROWS), "a new environment"), (env, "the same environment, later,")):
        other.load_state_dict(state)
        expect(same(go_on(other), expected), f"{which} does not continue bit for bit after load_state_dict")


def tensors_are_never_modified(make: Make) -> None:
    env = make(ROWS)
    kept, copies = [], []
    for action in (None, *actions(env), None):
        given = None if action is None else action.clone()
        kept.append(env.reset(seed=0) if action is None else env.step(action))
        if given is not None:
            expect(same(action, given), f"step {len(kept) - 1} modified its action argument")
        copies.append([tensor.clone() for tensor in tensors(kept[-1])])
    for t, (one, before) in enumerate(zip(kept, copies, strict=True)):
        expect(same(one, before), f"a tensor that call {t} returned was modified later; return copies")


def no_global_generator(make: Make) -> None:
    def states() -> list[Any]:
        of_numpy = [x.tolist() if isinstance(x, np.ndarray) else x for x in np.random.get_state()]
        return [random.getstate(), of_numpy, torch.get_rng_state().tolist()]

    before = states()
    play(make(ROWS), 20)  # without a seed
    play(make(ROWS), 20, seed=0)
    for name, one, other in zip(("random", "numpy.random", "torch"), before, states(), strict=True):
        expect(one == other, f"the global generator of {name} is used; use a separate generator with the seed")


def invalid_actions_raise(make: Make) -> None:
    env, twin = make(ROWS), make(ROWS)
    env.reset(seed=0)
    twin.reset(seed=0)
    good = next(actions(env))
    bad = {"with too few rows": good[:-1], "with an extra axis": good[:, None]}
    if isinstance(env.single_action_space, gymnasium.spaces.Discrete):
        bad |= {
            "above the range": torch.full_like(good, int(env.single_action_space.n)),
            "below the range": torch.full_like(good, -1),
            "of dtype float": good.double() + 0.5,
        }
    for what, action in bad.items():
        try:
            env.step(action.clone())
        except ValueError:
            continue
        raise Broken(f"an action {what} does not raise ValueError")
    later = list(actions(env, 10))
    if not same(play(make(ROWS), 10, seed=0), play(make(ROWS), 10, seed=0)):
        raise NotChecked(
            "they raise; whether they change anything cannot be checked, because equal seeds give different episodes"
        )
    expect(
        all(same(env.step(a), twin.step(a)) for a in later), "an action that raised an error changed the environment"
    )


def step_before_reset_raises(make: Make) -> None:
    env = make(ROWS)
    try:
        env.step(next(actions(env)))
    except Exception as error:
        # any error is enough for a gymnasium environment; others must name the remedy
        if isinstance(env, GymAdapter) or (isinstance(error, RuntimeError) and "reset" in str(error)):
            return
        raise
    raise Broken("step before the first reset raises no error")


def the_oracle_succeeds(make: Make) -> None:
    env = make(ROWS)
    env.reset(seed=0)
    ended = 0
    for t in range(PATIENCE):
        try:
            action = env.oracle()
        except ConfigError:  # there is none
            return
        space: Any = env.single_action_space
        dtype = torch.from_numpy(np.empty(0, dtype=space.dtype)).dtype
        _expect_tensor(env, action, (ROWS, *(space.shape or ())), dtype, "oracle()")
        if not env.action_space.contains(action.cpu().numpy()):
            raise Broken(f"oracle() returns an action outside {env.single_action_space} at step {t}: {action.tolist()}")
        _, _, _, _, info = env.step(action)
        over = info["_final_obs"]
        if env.measure == "success" and env.ceiling == 1 and bool((over & ~info["success"]).any()):
            raise Broken(f"the oracle fails in the episode that ends at step {t + 1}, but the ceiling is 1")
        ended += int(over.sum())
        if ended >= 10 * ROWS:
            return
    if not ended:
        raise NotChecked(f"no episode of the oracle ended in {PATIENCE:,} steps")


def floor_below_ceiling(make: Make) -> None:
    env = make(1)
    expect(bool(env.task), "task is empty; expected one line: what the agent must remember, and for how long")
    for name, score in (("floor", env.floor), ("ceiling", env.ceiling)):
        if score is not None and env.measure == "success":
            expect(0 <= score <= 1, f"{name} is {score}; a success rate is between 0 and 1")
    if env.floor is None or env.ceiling is None:
        raise NotChecked("floor or ceiling is None; scores cannot be compared with them")
    expect(env.floor <= env.ceiling, f"floor is {env.floor} and ceiling is {env.ceiling}")


CHECKS = (
    Check("shapes, dtypes, devices and spaces are those of a TorchVectorEnv", rows_and_dtypes),
    Check("observations are inside the observation space", inside_the_space),
    Check("observations and rewards are finite", numbers_are_finite),
    Check("the same seed gives the same episodes", same_seed_same_episodes),
    Check("different seeds give different episodes", another_seed_other_episodes),
    Check("a second reset with the same seed starts from the beginning", a_seeded_reset_starts_from_the_beginning),
    Check("a row depends only on its own seed, not on the number of rows", rows_are_independent),
    Check("the step that ends an episode returns the first observation of the next one", autoreset_in_the_same_step),
    Check("final_obs and the episode flags agree", flags_and_last_observations_agree),
    Check("success is true only at the end of an episode", success_only_at_an_end),
    Check("a restored state continues bit for bit", a_restored_state_continues),
    Check("returned tensors are never modified", tensors_are_never_modified),
    Check("no global random generator is used", no_global_generator),
    Check("an invalid action raises ValueError and changes nothing", invalid_actions_raise),
    Check("step before the first reset raises an error", step_before_reset_raises),
    Check("the oracle, if any, returns valid actions and succeeds where the ceiling is 1", the_oracle_succeeds),
    Check("floor and ceiling are known and ordered", floor_below_ceiling),
)
