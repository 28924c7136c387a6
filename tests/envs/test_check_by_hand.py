"""The parts of the checks by hand: what counts as equal, which actions they take, and faults of a batch that few checks see."""

from __future__ import annotations

import random
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium import spaces
from gymnasium.vector import AutoresetMode

from rmt_rl.common.errors import ConfigError
from rmt_rl.envs.actions import MixedActions
from rmt_rl.envs.base import TorchVectorEnv
from rmt_rl.envs.checks import runner, vector_env
from rmt_rl.envs.checks.gymnasium_env import _types, malformed_space
from rmt_rl.envs.checks.masked import allowed_only, sample_own
from rmt_rl.envs.checks.runner import Broken, brief, describe_type, run_check, same, short
from rmt_rl.envs.registry import make_env
from rmt_rl.envs.tmaze.passive import TMaze


class Right(TMaze):
    """A task without a fault; those below have one each."""

    def __init__(self, num_envs: int, device: str = "cpu") -> None:
        super().__init__(num_envs, device, length=2)


def faulty(**attributes: Any) -> Any:
    return type("Faulty", (Right,), attributes)


def made(change: Any) -> Any:
    """An environment that is changed after it was made."""

    def __init__(self: Any, num_envs: int) -> None:
        Right.__init__(self, num_envs)
        change(self)

    return faulty(__init__=__init__)


def stepping(change: Any) -> Any:
    """`change(result)` of every step, a list of five parts."""

    def step(self: Any, action: Any) -> Any:
        back = list(Right.step(self, action))
        back[4] = dict(back[4])
        change(back)
        return tuple(back)

    return faulty(step=step)


def resetting(change: Any) -> Any:
    def reset(self: Any, *, seed: Any = None, options: Any = None) -> Any:
        return change(Right.reset(self, seed=seed)[0]), {}

    return faulty(reset=reset)


def counts_invalid_actions(self: Any, action: Any) -> Any:
    """An action that raises an error makes the next one start another episode."""
    try:
        return Right.step(self, action)
    except ValueError:
        self._episode = self._episode + 5
        raise


def forgets_when_restored(self: Any, state: Any) -> None:
    """A new environment continues; one that played before has other episodes."""
    fresh = self._seed is None
    Right.load_state_dict(self, state)
    if not fresh:
        self._episode = self._episode + 7


def other_seeds_in_lists(self: Any, *, seed: Any = None, options: Any = None) -> Any:
    return Right.reset(self, seed=[s + 100 for s in seed] if isinstance(seed, list) else seed)


def other_seed_for_one_row(self: Any, *, seed: Any = None, options: Any = None) -> Any:
    return Right.reset(self, seed=seed + 50 if isinstance(seed, int) and self.num_envs == 1 else seed)


def raising(error: Exception) -> Any:
    def step(self: Any, action: Any) -> Any:
        if self._seed is None:
            raise error
        return Right.step(self, action)

    return step


def without_check_of(shape: str) -> Any:
    def step(self: Any, action: Any) -> Any:
        if shape == "few" and len(action) < self.num_envs:
            action = torch.cat([action, action[:1]])
        if shape == "axis" and action.ndim == 2:
            action = action[:, 0]
        if shape == "negative":
            action = action.clamp(min=0)
        return Right.step(self, action)

    return step


def draws_from(draw: Any) -> Any:
    def step(self: Any, action: Any) -> Any:
        draw()
        return Right.step(self, action)

    return step


def never_ends(self: Any, action: Any) -> Any:
    _, reward, over, _, info = Right.step(self, action)
    no = torch.zeros_like(over)
    return info["final_obs"], reward, no, no, {**info, "_final_obs": no, "success": no}


def one_tensor_for_all_resets(self: Any, *, seed: Any = None, options: Any = None) -> Any:
    obs, info = Right.reset(self, seed=seed)
    self.kept = obs if not hasattr(self, "kept") else self.kept.add_(1)
    return self.kept, info


BATCHED = spaces.Box(-1.0, 1.0, (3, 2), np.float32)


@pytest.mark.thorough
@pytest.mark.parametrize(
    ("check", "planted", "found"),
    [
        ("rows_and_dtypes", made(lambda env: setattr(env, "num_envs", 3)), "num_envs is 3; expected 4"),
        (
            "rows_and_dtypes",
            made(lambda env: env.metadata.update(autoreset_mode=AutoresetMode.NEXT_STEP)),
            "expected SAME_STEP",
        ),
        ("rows_and_dtypes", made(lambda env: env.metadata.clear()), 'metadata["autoreset_mode"] is None'),
        (
            "rows_and_dtypes",
            made(lambda env: setattr(env, "observation_space", BATCHED)),
            "observation_space is not single_observation_space for 4 rows",
        ),
        (
            "rows_and_dtypes",
            made(lambda env: setattr(env, "action_space", spaces.MultiDiscrete([4] * 3))),
            "action_space is not single_action_space for 4 rows",
        ),
        (
            "rows_and_dtypes",
            resetting(lambda obs: {"seen": obs}),
            "reset returns ['seen']; the space has ['observation']",
        ),
        ("rows_and_dtypes", resetting(lambda obs: obs[:2]), "reset: observation has shape (2, 2); expected (4, 2)"),
        ("rows_and_dtypes", resetting(lambda obs: obs.double()), "reset: observation has dtype torch.float64"),
        (
            "rows_and_dtypes",
            resetting(lambda obs: obs.numpy()),
            "reset: observation is a ndarray; expected a torch tensor",
        ),
        ("rows_and_dtypes", resetting(lambda obs: obs.to("meta")), "reset: observation is on meta; expected cpu"),
        ("rows_and_dtypes", stepping(lambda b: b.__setitem__(0, b[0].double())), "step: observation has dtype"),
        ("rows_and_dtypes", stepping(lambda b: b[4].pop("final_obs")), "info has no final_obs and _final_obs"),
        ("rows_and_dtypes", stepping(lambda b: b[4].pop("_final_obs")), "info has no final_obs and _final_obs"),
        (
            "rows_and_dtypes",
            stepping(lambda b: b[4].update(final_obs=b[0][:1])),
            'info["final_obs"]: observation has shape (1, 2); expected (4, 2)',
        ),
        (
            "rows_and_dtypes",
            stepping(lambda b: b.__setitem__(1, b[1][:, None])),
            "reward has shape (4, 1); expected (4,)",
        ),
        ("rows_and_dtypes", stepping(lambda b: b.__setitem__(2, b[2].long())), "terminated has dtype torch.int64"),
        ("rows_and_dtypes", stepping(lambda b: b.__setitem__(3, b[3].float())), "truncated has dtype torch.float32"),
        (
            "rows_and_dtypes",
            stepping(lambda b: b[4].update(success=b[4]["success"].int())),
            'info["success"] has dtype',
        ),
        (
            "rows_and_dtypes",
            stepping(lambda b: b[4].update(_final_obs=b[4]["_final_obs"].int())),
            'info["_final_obs"] has dtype torch.int32',
        ),
        ("inside_the_space", resetting(lambda obs: obs + 2), "an observation is outside Box"),
        ("inside_the_space", stepping(lambda b: b[4].update(final_obs=b[0] + 2)), "an observation is outside Box"),
        (
            "numbers_are_finite",
            resetting(lambda obs: obs / 0),
            "NaN or infinity in an observation or a reward at step 0",
        ),
        ("numbers_are_finite", stepping(lambda b: b[4].update(final_obs=b[0] / 0)), "at step 1"),
        (
            "rows_are_independent",
            faulty(reset=other_seeds_in_lists),
            "reset(seed=5) and reset(seed=[5, 6, 7]) give different episodes",
        ),
        (
            "rows_are_independent",
            faulty(reset=other_seed_for_one_row),
            "row 1 of seed 5 differs at step 0 from a single row of seed 6",
        ),
        (
            "flags_and_last_observations_agree",
            stepping(lambda b: b[4].update(final_obs=1 - b[0])),
            'info["final_obs"] differs from the observation in row 0, whose episode continues (step 1)',
        ),
        ("a_restored_state_continues", faulty(load_state_dict=forgets_when_restored), "the same environment, later,"),
        (
            "tensors_are_never_modified",
            faulty(reset=one_tensor_for_all_resets),
            "a tensor that call 0 returned was modified later",
        ),
        ("no_global_generator", faulty(step=draws_from(random.random)), "the global generator of random is used"),
        (
            "no_global_generator",
            faulty(step=draws_from(np.random.rand)),
            "the global generator of numpy.random is used",
        ),
        ("invalid_actions_raise", faulty(step=without_check_of("few")), "an action with too few rows does not raise"),
        ("invalid_actions_raise", faulty(step=without_check_of("axis")), "an action with an extra axis does not raise"),
        (
            "invalid_actions_raise",
            faulty(step=without_check_of("negative")),
            "an action below the range does not raise",
        ),
        (
            "invalid_actions_raise",
            faulty(step=counts_invalid_actions),
            "an action that raised an error changed the environment",
        ),
        ("step_before_reset_raises", faulty(step=raising(KeyError("seed"))), "KeyError: 'seed'"),
        ("step_before_reset_raises", faulty(step=raising(RuntimeError("no"))), "RuntimeError: no"),
        ("step_before_reset_raises", faulty(step=raising(ValueError("reset"))), "ValueError: reset"),
        ("the_oracle_succeeds", faulty(oracle=lambda self: torch.zeros(4)), "oracle() has dtype torch.float32"),
        ("the_oracle_succeeds", faulty(oracle=lambda self: self._x[:2]), "oracle() has shape (2,); expected (4,)"),
        ("floor_below_ceiling", faulty(floor=-0.1), "floor is -0.1; a success rate is between 0 and 1"),
        ("floor_below_ceiling", faulty(floor=0.1, ceiling=1.1), "ceiling is 1.1; a success rate is between 0 and 1"),
        ("floor_below_ceiling", made(lambda env: setattr(env, "task", "")), "task is empty"),
    ],
)
def test_a_fault_of_a_batch_is_found(check: str, planted: Any, found: str) -> None:
    result = run_check("", lambda: getattr(vector_env, check)(planted))
    assert result.verdict == "wrong" and found in result.found, result


@pytest.mark.parametrize(
    ("check", "env", "found"),
    [
        (
            "autoreset_in_the_same_step",
            faulty(step=never_ends),
            "a row had fewer than two episode ends in 20 random steps",
        ),
        (
            "flags_and_last_observations_agree",
            faulty(step=never_ends),
            "fewer than 4 episodes ended in 20 random steps",
        ),
        ("the_oracle_succeeds", faulty(step=never_ends), "no episode of the oracle ended in 20 steps"),
        ("floor_below_ceiling", faulty(floor=None), "floor or ceiling is None"),
        ("floor_below_ceiling", faulty(ceiling=None), "floor or ceiling is None"),
        (
            "a_restored_state_continues",
            faulty(state_dict=lambda self: TorchVectorEnv.state_dict(self)),
            "Faulty does not implement state_dict",
        ),
    ],
)
def test_what_cannot_be_checked_is_no_fault(check: str, env: Any, found: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vector_env, "PATIENCE", 20)
    result = run_check("", lambda: getattr(vector_env, check)(env))
    assert result.verdict == "not checked" and found in result.found, result


def no_oracle(self: Any) -> Any:
    raise ConfigError("none")


@pytest.mark.parametrize(
    ("check", "env"),
    [
        # returns may be anything
        ("floor_below_ceiling", faulty(measure="return", floor=-200.0, ceiling=475.0)),
        ("floor_below_ceiling", faulty(floor=1, ceiling=1)),
        ("floor_below_ceiling", faulty(floor=0, ceiling=0)),
        ("rows_and_dtypes", type("Return", (stepping(lambda b: b[4].pop("success")),), {"measure": "return"})),
        ("the_oracle_succeeds", faulty(oracle=no_oracle)),
        # an expert may fail where the ceiling says so
        ("the_oracle_succeeds", faulty(ceiling=0.9, oracle=lambda self: torch.zeros(4, dtype=torch.int64))),
        ("success_only_at_an_end", stepping(lambda b: b[4].pop("success"))),
    ],
)
def test_a_right_batch_is_not_blamed(check: str, env: Any) -> None:
    result = run_check("", lambda: getattr(vector_env, check)(env))
    assert (result.verdict, result.found) == ("ok", "")


class Circle(gymnasium.Env[Any, Any]):
    """Every episode starts somewhere and ends there after three steps."""

    observation_space: Any = spaces.Discrete(50)
    action_space: Any = spaces.Discrete(2)

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        self.start, self.t = int(self.np_random.integers(50)), 0
        return self.start, {}

    def step(self, action: Any) -> Any:
        self.t += 1
        return (self.start + self.t % 3) % 50, 0.0, self.t == 3, False, {}


class Fixed(Circle):
    """The same episode always, and observations that end where they start."""

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        self.start = 7
        return 7, {}


class Noisy(Circle):
    """The next episode depends on the steps of this one."""

    def step(self, action: Any) -> Any:
        self.np_random.random()
        return super().step(action)


@pytest.fixture(scope="module")
def registered() -> Any:
    for cls in (Circle, Fixed, Noisy):
        gymnasium.register(f"rmt-test/{cls.__name__}-v0", entry_point=cls)
    yield lambda name: lambda rows: make_env("gym", rows, id=f"rmt-test/{name}-v0")
    for cls in (Circle, Fixed, Noisy):
        gymnasium.registry.pop(f"rmt-test/{cls.__name__}-v0")


@pytest.mark.parametrize(
    ("name", "check", "verdict", "found"),
    [
        ("Circle", "flags_and_last_observations_agree", "ok", ""),
        ("Circle", "autoreset_in_the_same_step", "ok", ""),
        ("Circle", "rows_and_dtypes", "ok", ""),  # reports no success
        ("Circle", "rows_are_independent", "ok", ""),
        ("Circle", "step_before_reset_raises", "ok", ""),  # any error will do
        ("Circle", "a_restored_state_continues", "not checked", "a gymnasium environment cannot be resumed exactly"),
        ("Fixed", "another_seed_other_episodes", "not checked", "the seed is not used, or the task is not random"),
        ("Fixed", "rows_are_independent", "ok", ""),
        ("Noisy", "autoreset_in_the_same_step", "not checked", "the next episode depends on earlier actions"),
    ],
)
def test_a_right_environment_of_gymnasium_is_not_blamed(
    name: str, check: str, verdict: str, found: str, registered: Any
) -> None:
    result = run_check("", lambda: getattr(vector_env, check)(registered(name)))
    assert result.verdict == verdict and found in result.found, result


def test_a_last_observation_is_not_lost_where_all_episodes_start_with_it() -> None:
    start = {"final_obs": torch.zeros(4, 2)}
    # every first observation is the same: it may be the last one, too
    alike = stepping(lambda b: (b.__setitem__(0, torch.zeros(4, 2)), b[4].update(start)))
    assert run_check("", lambda: vector_env.flags_and_last_observations_agree(alike)).verdict == "ok"


# ------------------------------------------------------------------------------------------------------------ what is equal


def test_tensors_are_equal_in_shape_dtype_and_every_number() -> None:
    one, nan = torch.ones(2), torch.tensor([1.0, torch.nan])
    equal = [(one, one.clone()), (nan, nan.clone()), ({"b": one, "a": [nan]}, {"a": [nan], "b": one})]
    differ = [
        (one, torch.ones(1)),
        (torch.ones(1), one),
        (one, one.double()),
        (one, one.long()),
        (one, nan),
        (nan, one),
    ]
    differ += [((one, one), (one,)), ({"a": one}, {"a": 2 * one}), ((), ()), ("text", "text")]
    assert all(same(a, b) for a, b in equal) and not any(same(a, b) for a, b in differ)


def test_a_discrete_observation_is_an_int_or_an_int64() -> None:
    space = spaces.Dict(a=spaces.Tuple([spaces.Discrete(3), spaces.Box(0, 1, (1,))]), b=spaces.Discrete(2))
    for number in (1, np.int64(1)):
        assert _types(space, {"a": (number, np.zeros(1, np.float32)), "b": number}) == []
    found = _types(space, {"a": (np.uint8(1), np.zeros(1, np.float32)), "b": np.array(0)})
    assert [text.split(";")[0] for text in found] == [
        "an observation of Discrete(3) is uint8 1",
        f"an observation of Discrete(2) is {describe_type(np.array(0))}",
    ]


def test_a_multibinary_space_with_one_axis_below_1_is_malformed() -> None:
    space = spaces.MultiBinary((2, 3))
    assert malformed_space(space) == ""
    space._shape = (2, 0)
    assert malformed_space(space) == "MultiBinary has shape (2, 0); expected at least 1"


def test_findings_are_cut_after_100_characters() -> None:
    for length, shown in ((100, "a" * 100), (101, "a" * 100 + "…")):
        assert brief("a" * length) == shown
    numbers = torch.full((25,), 10)  # "[10, 10, ..., 10]" has 100 characters
    assert (short(numbers), short(torch.full((26,), 10))) == (str([10] * 25), str([10] * 26)[:100] + "…")
    assert brief(" two\n lines ") == "two lines"
    assert [describe_type(value) for value in ((1, 2), [1], np.zeros((2, 3)), 1.5)] == [
        "a tuple of 2 values",
        "a list of 1 values",
        "an array float64 (2, 3)",
        "float 1.5",
    ]


def test_the_place_of_an_error_is_where_it_was_raised() -> None:
    def deeper() -> None:
        raise KeyError("x")

    result = run_check("claim", lambda: deeper())
    line = deeper.__code__.co_firstlineno + 1
    assert (result.claim, result.verdict, result.found) == ("claim", "wrong", f"KeyError: 'x' ({__file__}:{line})")


def test_random_actions_of_a_row_do_not_depend_on_the_number_of_rows_and_half_repeat_the_previous_one() -> None:
    env = TMaze(3, length=2)
    env.single_action_space = spaces.Discrete(1000)
    taken = torch.stack(list(runner.actions(env, 400)))
    env.num_envs = 1
    assert torch.equal(torch.stack(list(runner.actions(env, 400))), taken[:, :1])
    assert taken.shape == (400, 3) and not torch.equal(taken[:, 0], taken[:, 1])
    repeated = (taken[1:] == taken[:-1]).double().mean()
    assert 0.42 < float(repeated) < 0.58


# ------------------------------------------------------------------------------------------------------------------- masks


class Allows(TorchVectorEnv):
    """Shows one mask and keeps the actions that reach it."""

    def __init__(self, action_space: Any, mask: list[list[int]]) -> None:
        entries = {"seen": spaces.Discrete(2), "action_mask": spaces.MultiBinary(len(mask[0]))}
        super().__init__(len(mask), "cpu", spaces.Dict(entries), action_space)
        self.mask, self.taken = torch.tensor(mask, dtype=torch.int8), torch.zeros(0)

    def _obs(self) -> Any:
        return {"seen": torch.zeros(self.num_envs, dtype=torch.int64), "action_mask": self.mask}

    def reset(self, *, seed: Any = None, options: Any = None) -> Any:
        return self._obs(), {}

    def step(self, action_B: Any) -> Any:
        self.taken = action_B
        return (self._obs(),)

    def state_dict(self) -> Any:
        return {}

    def load_state_dict(self, state: Any) -> None:
        pass


MIXED = MixedActions([2, 3], [-1.0], [1.0])
PAIR = MixedActions([3], [-1.0, -1.0], [1.0, 1.0])


@pytest.mark.parametrize(
    ("space", "mask", "action", "taken"),
    [
        # the action itself where it is allowed, otherwise the next one that is, from the last on to the first
        (spaces.Discrete(4), [[0, 1, 0, 1]] * 4, [0, 1, 2, 3], [1, 1, 3, 3]),
        (spaces.Discrete(4), [[1, 1, 0, 0], [0, 1, 0, 0]], [2, 2], [0, 1]),
        (spaces.MultiDiscrete([2, 3]), [[1, 0, 0, 1, 0], [0, 1, 1, 0, 1]], [[1, 2], [0, 1]], [[0, 1], [1, 2]]),
        (MIXED, [[1, 0, 0, 1, 0], [0, 1, 1, 0, 1]], [[1, 2, 0.5], [0, 1, -0.7]], [[0, 1, 0.5], [1, 2, -0.7]]),
        (MIXED, [[1, 1, 1, 0, 1]], [[0.6, 0.8, 0.3]], [[1, 2, 0.3]]),  # choices are rounded, real numbers are not
        (PAIR, [[1, 0, 0]], [[2, 0.6, -0.4]], [[0, 0.6, -0.4]]),
        # no actions of the space: they reach the environment, which refuses them
        (spaces.Discrete(4), [[0, 1, 0, 1]], [-1], [-1]),
        (spaces.Discrete(4), [[0, 1, 0, 1]], [4], [4]),
        (spaces.Discrete(4), [[0, 1, 0, 1]], [0.5], [0.5]),
        (spaces.Discrete(4), [[0, 1, 0, 1]] * 2, [0], [0]),
        (spaces.Discrete(4), [[0, 1, 0, 1]] * 2, [[0, 0], [0, 0]], [[0, 0], [0, 0]]),
        (spaces.MultiDiscrete([2, 3]), [[1, 0, 0, 1, 0]], [[1, 3]], [[1, 3]]),
        (spaces.MultiDiscrete([2, 3]), [[1, 0, 0, 1, 0]], [[1]], [[1]]),
        (MIXED, [[1, 0, 0, 1, 0]], [[1, 2.6, 0.5]], [[1, 2.6, 0.5]]),
        (MIXED, [[1, 0, 0, 1, 0]], [[1, 2]], [[1, 2]]),
        (MIXED, [[1, 0, 0, 1, 0]], [[1, 2, 0]], [[1, 2, 0]]),  # whole numbers
    ],
)
def test_an_action_that_a_mask_forbids_becomes_the_next_allowed_one(
    space: Any, mask: Any, action: Any, taken: Any
) -> None:
    env = Allows(space, mask)
    kept = allowed_only(env)
    kept.reset()
    given = torch.tensor(action)
    kept.step(given)
    assert (
        kept is env
        and env.taken.dtype == given.dtype
        and torch.equal(env.taken, torch.tensor(taken, dtype=given.dtype))
    )


def test_a_mask_without_an_allowed_action_is_a_finding_and_one_without_a_mask_is_left_alone() -> None:
    for mask in ([[1, 0, 0, 1], [0, 0, 0, 0]], [[1, 0, 0, 0], [0, 0, 0, 0]]):
        with pytest.raises(Broken, match="action_mask of row 1 allows no action; expected at least one in every step"):
            allowed_only(Allows(spaces.Discrete(4), mask)).reset()
    env = Allows(spaces.Discrete(2), [[1, 0]])
    allowed_only(env).reset()
    env.mask = torch.zeros(1, 2, dtype=torch.int8)
    with pytest.raises(Broken, match="of row 0"):
        env.step(torch.tensor([0]))
    plain = TMaze(1)
    assert allowed_only(plain) is plain and "step" not in vars(plain)


def test_the_mask_that_counts_is_the_one_shown_last_also_after_a_restored_state() -> None:
    env = Allows(spaces.Discrete(2), [[1, 0]])
    kept = allowed_only(env)
    kept.step(torch.tensor([1]))
    assert env.taken.tolist() == [1]  # nothing was shown yet
    kept.reset()
    state = kept.state_dict()
    env.mask.copy_(torch.tensor([[0, 1]], dtype=torch.int8))  # the tensor that was shown is written to
    kept.step(torch.tensor([1]))
    assert env.taken.tolist() == [0]
    kept.step(torch.tensor([0]))
    assert env.taken.tolist() == [1]
    kept.load_state_dict(state)
    kept.step(torch.tensor([1]))
    assert env.taken.tolist() == [0]


class Own(gymnasium.Env[Any, Any]):
    def __init__(self, space: Any, masks: Any = None) -> None:
        self.action_space, self.observation_space = space, spaces.Discrete(2)
        space.seed(0)
        if masks is not None:
            self.action_masks = lambda: masks


def test_random_actions_of_an_environment_obey_its_mask_wherever_it_shows_one() -> None:
    three, both = spaces.Discrete(3, start=5), spaces.MultiDiscrete([2, 3])
    mask = np.array([0, 0, 1])
    drawn = [
        [sample_own(env, obs, info) for _ in range(20)]
        for env, obs, info in (
            (Own(three), {"action_mask": mask, "x": 1}, {}),
            (Own(three), 0, {"action_mask": mask.tolist()}),
            (Own(three, mask.astype(bool)), 0, {}),
            (Own(three, [1, 1, 1]), {"action_mask": mask}, {"action_mask": [1, 1, 1]}),  # the observation counts
            (Own(three, [1, 1, 1]), 0, {"action_mask": mask}),  # then the info
        )
    ]
    assert [set(map(int, actions)) for actions in drawn] == [{7}] * 5
    pairs = {tuple(sample_own(Own(both), {"action_mask": np.array([1, 0, 0, 1, 1])}, {}).tolist()) for _ in range(40)}
    assert pairs <= {(0, 1), (0, 2)}
    # no mask of these actions
    for shown in (None, np.ones(2), np.array(["a", "b", "c"]), np.array([0, 0, 1, 1])):
        env = Own(three)
        assert {int(sample_own(env, 0, {"action_mask": shown})) for _ in range(60)} == {5, 6, 7}
    box = Own(spaces.Box(-1, 1, (3,), np.float32))
    assert sample_own(box, 0, {"action_mask": mask}).shape == (3,)
    for nothing in ([0, 0, 0, 1, 1], [1, 1, 0, 0, 0]):
        with pytest.raises(Broken, match=r"action_mask .* allows no action; expected at least one in every step"):
            sample_own(Own(both), {"action_mask": np.array(nothing)}, {})
