"""Floor and ceiling that the class of a gymnasium environment states."""

from __future__ import annotations

import warnings

import gymnasium
import numpy as np
import pytest

import rmt_rl
from rmt_rl.comparison.scores import to_json
from rmt_rl.config.commands import ReturnConditioning
from rmt_rl.envs.gym.adapter import GymAdapter, VectorAdapter
from rmt_rl.envs.objects import env_config_of
from rmt_rl.envs.registry import make_from_config
from rmt_rl.envs.wrappers.memory_scope import MemoryScope
from rmt_rl.envs.wrappers.return_to_go import ReturnToGo
from rmt_rl.rollouts.episodes import evaluate


class Guess(gymnasium.Env):
    """A bit is shown, then two steps later it must be said."""

    floor, ceiling = 0.5, 1
    observation_space = gymnasium.spaces.Box(-1.0, 1.0, (1,), np.float32)
    action_space = gymnasium.spaces.Discrete(2)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.bit, self.t = int(self.np_random.integers(2)), 0
        return np.array([2 * self.bit - 1], np.float32), {}

    def step(self, action):
        self.t += 1
        right = self.t == 2 and action == self.bit
        return np.zeros(1, np.float32), float(right), self.t == 2, False, {"success": right} if self.t == 2 else {}


class Gift(Guess):
    """The same in returns, of which the ceiling depends on an option."""

    measure, floor, ceiling = "return", -3.0, None

    def __init__(self, prize=2):
        self.ceiling = np.float32(prize)


def bounds(env):
    return env.measure, env.floor, env.ceiling


def made(cls, num_envs=2):
    return make_from_config(env_config_of(cls), num_envs, "cpu")


def test_the_class_of_an_environment_states_them_and_its_constructor_may_change_them():
    assert bounds(made(Guess)) == ("success", 0.5, 1.0)
    assert bounds(made(Gift)) == ("return", -3.0, 2.0)
    gymnasium.register("StatedGift-v0", entry_point=Gift)
    assert bounds(GymAdapter(1, id="StatedGift-v0", options={"prize": 7})) == ("return", -3.0, 7.0)


def test_a_wrapper_that_states_them_wins_over_what_it_wraps_and_another_one_passes_them_on():
    class Silent(gymnasium.Wrapper):
        def __init__(self):
            super().__init__(Guess())

    class Unknown(Silent):
        floor = None

    assert bounds(made(Silent)) == ("success", 0.5, 1.0)
    assert bounds(made(Unknown)) == ("success", None, 1.0)


def test_a_vector_environment_states_them_in_its_class():
    class Batch(gymnasium.vector.SyncVectorEnv):
        floor, ceiling = 0.25, 1.0

        def __init__(self, num_envs):
            super().__init__([Guess] * num_envs)

    assert bounds(VectorAdapter(Batch(2))) == ("success", 0.25, 1.0)


def test_attributes_that_are_something_else_are_left_alone():
    class House(Guess):
        ceiling = np.zeros((3, 3))
        measure = "metres"

        def floor(self):
            return 5

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert bounds(made(House)) == ("success", None, None)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"floor": 3}, "floor = 3 is not used: a success rate is between 0 and 1; measure = 'return' in the class"),
        ({"ceiling": float("inf")}, "ceiling = inf is not used: expected a finite number, or None"),
        ({"floor": "low"}, "floor = low is not used: expected a finite number"),
        ({"measure": "metres"}, "measure = metres is not used: expected 'success' or 'return'"),
    ],
)
def test_a_bound_that_is_none_is_unknown_with_one_sentence(values, message):
    class Mine(Guess):
        measure = "success"

        def __init__(self):
            for name, value in values.items():
                setattr(self, name, value)

    with pytest.warns(UserWarning, match=message) as found:
        env = made(Mine, 1)
    assert len(found) == 1 and "\n" not in str(found[0].message)
    (name,) = values
    assert getattr(env, name) == {"measure": "success"}.get(name)


def test_the_row_of_a_comparison_has_them():
    for cls, expected in ((Guess, ("success", 0.5, 1.0)), (Gift, ("return", -3.0, 2.0))):
        env = made(cls)
        policy = rmt_rl.make_policy(env, "mlp", width=8)
        score = to_json(evaluate(policy, env, 4, count=True), None, env)
        assert (score["measure"], score["floor"], score["ceiling"]) == expected


def test_returns_of_a_trial_are_the_sum_over_its_episodes_and_a_trial_without_end_has_none():
    assert bounds(MemoryScope(made(Gift), 3)) == ("return", -9.0, 6.0)
    assert bounds(MemoryScope(made(Gift), None)) == ("return", None, None)
    assert bounds(MemoryScope(made(Guess), 3)) == ("success", 0.5, 1.0)


def test_a_floor_that_rewards_reveal_does_not_hold_where_the_policy_sees_them():
    class Revealing(Guess):
        reward_reveals_cue = True

    assert bounds(MemoryScope(made(Revealing), 2)) == ("success", None, 1.0)
    assert bounds(ReturnToGo(made(Revealing), ReturnConditioning(0.0, 1.0, 1.0))) == ("success", None, 1.0)
