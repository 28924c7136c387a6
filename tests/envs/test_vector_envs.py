"""Vector environments of other libraries, by small ones of their kinds: all run as the same rows."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space

import rmt_rl
from rmt_rl.common.errors import ConfigError
from rmt_rl.envs.check import check, maker
from rmt_rl.envs.gym.adapter import VectorAdapter
from rmt_rl.envs.objects import env_config_of
from rmt_rl.envs.registry import make_from_config

ROWS = 3
SPACE = gymnasium.spaces.Box(0.0, 100.0, (2,), np.float32)
ACTIONS = gymnasium.spaces.Discrete(2, start=5)
TINY: dict[str, Any] = {"policy": "lstm", "policy.width": 8, "steps": 48, "evaluate_episodes": 4}
TINY |= {"algo.rollout": 8, "algo.minibatches": 1}


class ForeignArray:
    """An array of another library: numpy can read it, and that is all."""

    def __init__(self, values: Any) -> None:
        self._values = np.asarray(values)
        self.shape, self.dtype, self.ndim = self._values.shape, self._values.dtype, self._values.ndim

    def __array__(self, dtype: Any = None, copy: Any = None) -> np.ndarray:
        return np.array(self._values, dtype=dtype)

    def __getitem__(self, index: Any) -> ForeignArray:
        return ForeignArray(self._values[index])


class Counting:
    """Episodes of row + 2 steps; an observation is (episode, step). Action 6 pays 1. Even rows succeed, row 1 is truncated."""

    mode: Any = AutoresetMode.SAME_STEP
    array: Any = staticmethod(np.array)
    num_envs = ROWS

    def __init__(self, num_envs: int = ROWS) -> None:
        self.num_envs, self.metadata, self.closed = num_envs, {"autoreset_mode": self.mode}, False
        self.single_observation_space, self.single_action_space = SPACE, ACTIONS
        self.observation_space, self.action_space = batch_space(SPACE, num_envs), batch_space(ACTIONS, num_envs)

    def reset(self, *, seed: Any = None, options: Any = None) -> Any:
        self.seed = seed
        if options is None:
            self.episode, self.t = np.zeros((2, self.num_envs), int)
        else:
            mask = options["reset_mask"]
            self.episode, self.t = self.episode + mask, np.where(mask, 0, self.t)
        self.over = np.zeros(self.num_envs, bool)
        return self._observe(), {}

    def step(self, actions: Any) -> Any:
        assert self.action_space.contains(actions)
        restart = self.over if self.mode is AutoresetMode.NEXT_STEP else np.zeros(self.num_envs, bool)
        self.episode, self.t = self.episode + restart, np.where(restart, 0, self.t + 1)
        over = ~restart & (self.t == np.arange(self.num_envs) + 2)
        self.over, last, infos = over, self._observe(), self._infos(over)
        if self.mode is AutoresetMode.SAME_STEP:
            self.episode, self.t = self.episode + over, np.where(over, 0, self.t)
        cut = over & (np.arange(self.num_envs) == 1)
        reward = np.where(restart, 0.0, actions == 6)
        infos = self._with_last(infos, over, np.asarray(last))
        return self._observe(), self.array(reward), self.array(over & ~cut), self.array(cut), infos

    def _observe(self) -> Any:
        return self.array(np.stack([self.episode, self.t], 1).astype(np.float32))

    def _infos(self, over: np.ndarray) -> Any:
        return {"success": self.array(over & (np.arange(self.num_envs) % 2 == 0)), "_success": self.array(over)}

    def _with_last(self, infos: Any, over: np.ndarray, last: np.ndarray) -> Any:
        return infos

    def close(self, **options: Any) -> None:
        self.closed = True


class SameStep(Counting, VectorEnv):
    """gymnasium 1.1 and later."""

    def _with_last(self, infos: Any, over: np.ndarray, last: np.ndarray) -> Any:
        final = np.array([*last, None], dtype=object)[:-1]
        final[~over] = None
        return {"final_obs": final, "_final_obs": over, "final_info": infos, "_final_info": over}


class Envpool(Counting):
    """Not a class of gymnasium; the spaces are those of one row, and the next step restarts."""

    mode = AutoresetMode.NEXT_STEP

    def __init__(self, num_envs: int = ROWS) -> None:
        super().__init__(num_envs)
        del self.single_observation_space, self.single_action_space
        self.observation_space, self._batched = SPACE, self.action_space
        self.action_space = ACTIONS

    def step(self, actions: Any) -> Any:
        self.action_space = self._batched
        back = super().step(actions)
        self.action_space = ACTIONS
        return back


class SuperSuit(Counting):
    """A list of infos, one for each row, with Stable-Baselines3's name of the last observation."""

    def _with_last(self, infos: Any, over: np.ndarray, last: np.ndarray) -> Any:
        rows = enumerate(zip(over, last, strict=True))
        return [{"terminal_observation": obs, "success": row % 2 == 0} if end else {} for row, (end, obs) in rows]


class Gymnax(SameStep):
    """Arrays of jax."""

    array = ForeignArray

    def _with_last(self, infos: Any, over: np.ndarray, last: np.ndarray) -> Any:
        return {
            "final_observation": ForeignArray(last),
            "final_info": [{"is_success": ForeignArray(i % 2 == 0)} for i in range(3)],
        }


class NextStep(Counting, VectorEnv):
    mode = AutoresetMode.NEXT_STEP


class Disabled(Counting, VectorEnv):
    mode = "Disabled"


KINDS: list[Any] = [SameStep, SuperSuit, Gymnax, Disabled, Envpool, NextStep]


def episodes(env: Any, steps: int = 40) -> list[list[Any]]:
    """For each row the episodes as (observations, return, truncated, success) up to their last observation."""
    obs, _ = env.reset(seed=4)
    seen: list[list[Any]] = [[obs[row].tolist()] for row in range(ROWS)]
    found: list[list[Any]] = [[] for _ in range(ROWS)]
    total = np.zeros(ROWS)
    for _ in range(steps):
        obs, reward, terminated, truncated, info = env.step(torch.ones(ROWS, dtype=torch.int64))
        total += reward.numpy()
        for row in range(ROWS):
            seen[row].append(info["final_obs"][row].tolist())
            if terminated[row] or truncated[row]:
                assert info["_final_obs"][row] and info["_success"][row]
                found[row].append((seen[row], total[row], bool(truncated[row]), bool(info["success"][row])))
                seen[row], total[row] = [obs[row].tolist()], 0
    return found


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_gives_the_same_episodes(kind: Any) -> None:
    # a step that only restarts a row is the last one of its old episode
    extra = kind in (Envpool, NextStep)
    for row, found in enumerate(episodes(VectorAdapter(kind()))):
        assert len(found) >= 5
        for number, (seen, total, truncated, success) in enumerate(found):
            steps = [[number, t] for t in range(row + 3)]
            assert seen == steps + steps[-1:] * extra
            assert (total, truncated, success) == (row + 2, row == 1, row != 1)


def test_gymnasiums_own_vector_environments_give_the_episodes_of_env_gym() -> None:
    ours = rmt_rl.make_env("gym", ROWS, id="CartPole-v1")
    for mode in AutoresetMode:
        made = gymnasium.make_vec(
            "CartPole-v1", ROWS, vectorization_mode="sync", vector_kwargs={"autoreset_mode": mode}
        )
        other = VectorAdapter(made)
        assert torch.equal(ours.reset(seed=3)[0], other.reset(seed=3)[0])
        for t in range(60):
            action = torch.full((ROWS,), t % 3 % 2)
            one, two = ours.step(action), other.step(action)
            assert all(torch.equal(a, b) for a, b in zip(one[:4], two[:4], strict=True))
            assert torch.equal(one[4]["final_obs"], two[4]["final_obs"])


@pytest.mark.slow
@pytest.mark.parametrize("kind", [SameStep, Envpool])
def test_training_takes_an_object_of_another_library_and_leaves_it_open(kind: Any, tmp_path: Any) -> None:
    env = kind()
    result = rmt_rl.train(env=env, root=tmp_path, **TINY)
    assert result.score.episodes == 4 and result.score.success is not None
    assert rmt_rl.evaluate(result.policy, env=env, episodes=4).success is not None
    del result
    assert not env.closed


def test_training_takes_a_class_of_vector_environments(tmp_path: Any) -> None:
    assert rmt_rl.train(env=SameStep, root=tmp_path, **TINY, **{"algo.num_envs": ROWS}).score.episodes == 4


def test_env_gym_takes_an_id_that_is_a_vector_environment_only() -> None:
    gymnasium.register("rmt-test/Counting-v0", vector_entry_point=SameStep)
    try:
        env = rmt_rl.make_env("gym", ROWS, id="rmt-test/Counting-v0")
        assert episodes(env) == episodes(VectorAdapter(SameStep()))
        with pytest.raises(ConfigError, match=r"makes all its rows itself; expected env\.workers=sync"):
            rmt_rl.make_env("gym", ROWS, id="rmt-test/Counting-v0", workers="async")
        with pytest.raises(
            ConfigError, match=r"env\.action_mask=info: rmt-test/Counting-v0 makes all its rows itself; expected"
        ):
            rmt_rl.make_env("gym", ROWS, id="rmt-test/Counting-v0", action_mask="info")
    finally:
        gymnasium.registry.pop("rmt-test/Counting-v0")


def test_the_environments_own_spaces_and_time_limit_are_kept() -> None:
    env = SameStep()
    adapter = VectorAdapter(env)
    assert adapter.own_spaces() == (SPACE, ACTIONS) and adapter.action_start == 5
    assert (adapter.env_spec, adapter.render_mode, adapter.rows_have_seeds) == (None, None, False)
    assert adapter.episode_steps == VectorAdapter.episode_steps == 5000
    assert adapter.task == "SameStep, a vector environment"
    env.spec, env.render_mode = gymnasium.envs.registration.EnvSpec("rmt-test/A-v0", max_episode_steps=7), "ansi"
    again = VectorAdapter(env)
    assert (again.episode_steps, again.render_mode) == (None, "ansi")
    env.spec.max_episode_steps = None
    assert VectorAdapter(env).episode_steps == 5000


@pytest.mark.parametrize(
    ("seed", "given"),
    [
        (5, 5),
        ([5, 6, 7], 5),
        ([5, 9, 7], [5, 9, 7]),
        ([5, 6, None], [5, 6, None]),
        ([None] * 3, [None] * 3),
        (None, None),
    ],
)
def test_consecutive_seeds_reach_the_environment_as_one_number(seed: Any, given: Any) -> None:
    env = SameStep()
    VectorAdapter(env).reset(seed=seed)
    assert env.seed == given and type(env.seed) is type(given)


def test_seeds_reach_a_reset_that_takes_any_argument() -> None:
    env, given = SameStep(), []
    inner = env.reset
    env.reset = lambda **options: (given.append(options), inner())[1]  # type: ignore[method-assign]
    VectorAdapter(env).reset(seed=3)
    assert given == [{"seed": 3}]


@pytest.mark.parametrize("kind", [SameStep, SuperSuit, Envpool])
def test_an_environment_that_cannot_restart_single_rows_says_so(kind: Any) -> None:
    adapter = VectorAdapter(kind())
    adapter.reset(seed=0)
    with pytest.raises(ValueError, match=r"reset_mask was given, but it cannot restart single rows; reset all rows"):
        adapter.reset(options={"reset_mask": np.array([True, False, True])})


def test_a_reset_forgets_the_episodes_that_were_ending() -> None:
    adapter = VectorAdapter(Envpool())
    adapter.reset(seed=0)
    act = torch.ones(ROWS, dtype=torch.int64)
    for _ in range(2):
        adapter.step(act)  # row 0 has ended, and the next step would restart it
    adapter.reset(seed=0)
    _, reward, terminated, truncated, info = adapter.step(act)
    assert reward.tolist() == [1, 1, 1] and not bool((terminated | truncated).any()) and "success" not in info


def test_a_borrowed_environment_stays_open_and_another_is_closed() -> None:
    for borrowed in (True, False):
        env = SameStep()
        VectorAdapter(env, borrowed=borrowed).close()
        assert env.closed != borrowed


class AllowingNext(Counting):
    """The entry "action_mask" allows one action, and nothing after the end of an episode."""

    mode = AutoresetMode.NEXT_STEP

    def __init__(self, num_envs: int = ROWS) -> None:
        super().__init__(num_envs)
        self.single_observation_space = gymnasium.spaces.Dict(seen=SPACE, action_mask=gymnasium.spaces.MultiBinary(2))

    def _observe(self) -> Any:
        mask = np.array([[0, 1]] * self.num_envs, np.int8) * ~self.over[:, None]
        return {"seen": super()._observe(), "action_mask": mask}


def test_a_mask_after_the_end_may_forbid_everything_where_the_next_step_restarts() -> None:
    env = VectorAdapter(AllowingNext())
    policy = rmt_rl.make_policy(env, "lstm", width=8)
    assert rmt_rl.evaluate(policy, AllowingNext(), episodes=3).mean_return == 3.0
    env.reset(seed=0)
    masks = [env.step(torch.ones(ROWS, dtype=torch.int64))[0]["action_mask"].tolist() for _ in range(3)]  # type: ignore[index]
    # row 0 ends after two steps, row 1 after three; the next step ignores its action
    assert masks == [[[0, 1]] * 3, [[1, 1], [0, 1], [0, 1]], [[0, 1], [1, 1], [0, 1]]]


def test_a_mask_that_a_vector_environment_reports_elsewhere_is_a_warning(capsys: Any) -> None:
    env, plain = SameStep(), SameStep()
    env.reset = lambda **_: (env._observe(), {"action_mask": np.ones((ROWS, 2))})  # type: ignore[method-assign]
    env.episode, env.t = np.zeros((2, ROWS), int)
    plain.action_masks = lambda: np.ones((ROWS, 2))  # type: ignore[attr-defined]
    for each in (env, plain):
        VectorAdapter(each).reset(seed=0)
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 2 and "info['action_mask'] is not used; an entry" in lines[0]
    assert "action_masks() is not used; an entry" in lines[1]


def test_flags_of_a_single_environment_may_be_arrays_of_another_library() -> None:
    class OneRow(gymnasium.Env[Any, Any]):
        observation_space, action_space = SPACE, ACTIONS

        def reset(self, *, seed: Any = None, options: Any = None) -> Any:
            return ForeignArray(np.zeros(2, np.float32)), {}

        def step(self, action: Any) -> Any:
            over = ForeignArray(np.array(True))
            return ForeignArray(np.ones(2, np.float32)), ForeignArray(2.0), over, ForeignArray(np.array(False)), {}

    gymnasium.register("rmt-test/OneRow-v0", entry_point=OneRow)
    try:
        env = rmt_rl.make_env("gym", 2, id="rmt-test/OneRow-v0")
        env.reset(seed=0)
        _, reward, terminated, truncated, info = env.step(torch.zeros(2, dtype=torch.int64))
        assert reward.tolist() == [2.0, 2.0] and terminated.all() and not truncated.any()
        assert info["final_obs"].tolist() == [[1.0, 1.0]] * 2
    finally:
        gymnasium.registry.pop("rmt-test/OneRow-v0")


def test_one_flag_may_stand_for_all_rows() -> None:
    env = SameStep()
    inner = env.step
    env.step = lambda actions: (*inner(actions)[:3], ForeignArray(False), {})  # type: ignore[method-assign]
    adapter = VectorAdapter(env)
    adapter.reset(seed=0)
    *_, truncated, _ = adapter.step(torch.zeros(ROWS, dtype=torch.int64))
    assert truncated.tolist() == [False] * ROWS


@pytest.mark.slow
def test_the_check_runs_on_a_class_of_vector_environments() -> None:
    results = list(check(*maker("gymnasium.envs.classic_control.cartpole:CartPoleVectorEnv", {})))
    found = {result.claim: result for result in results if result.verdict not in ("ok", "not checked")}
    assert [result.verdict for result in found.values()] == ["warning"]
    assert "depend on their number of rows" in next(iter(found.values())).found


# -------------------------------------------------------------------------------------------------------------- mistakes


def changed(kind: Any = SameStep, **attributes: Any) -> Any:
    env = kind()
    for name, value in attributes.items():
        setattr(env, name, value)
    return env


def stepping(**parts: Any) -> Any:
    """A SameStep whose `step` returns other parts."""
    env = SameStep()
    inner = env.step

    def step(actions: Any) -> Any:
        names = ("obs", "reward", "terminated", "truncated", "info")
        return tuple(parts.get(name, part) for name, part in zip(names, inner(actions), strict=True))

    env.step = step  # type: ignore[method-assign]
    return env


YES = np.ones(ROWS, bool)


@pytest.mark.parametrize(
    ("env", "message"),
    [
        (
            lambda: changed(metadata={}),
            r'metadata\["autoreset_mode"\] is missing; set it to gymnasium.vector.AutoresetMode',
        ),
        (lambda: changed(metadata={"autoreset_mode": "later"}), r"is 'later'; set it to"),
        (lambda: changed(num_envs="three"), "num_envs is three; expected a whole number"),
        (lambda: changed(single_observation_space=None), "has no single_observation_space"),
        (lambda: changed(reset=lambda seed=None: 3), "reset returned one int; expected"),
        (
            lambda: changed(reset=lambda seed=None: (np.zeros(2), {})),
            r"observations of shape \(2,\); expected \(3, 2\)",
        ),
        (lambda: changed(step=lambda actions: (1, 2, 3, 4)), "step returned 4 values"),
        (lambda: stepping(reward=0.0), "step returned the rewards 0.0; expected 3 numbers"),
        (lambda: stepping(terminated=np.zeros(ROWS)), "terminations = .*; expected 3 values True or False"),
        (
            lambda: stepping(truncated=YES, terminated=~YES, info={}),
            "row 0 was truncated and .* has no last observation",
        ),
        (lambda: stepping(terminated=YES, info={"final_obs": np.zeros((3, 5))}), r"shape \(5,\); expected \(2,\)"),
        (
            lambda: stepping(terminated=YES, info={"final_obs": np.zeros((3, 2)), "success": YES * 2}),
            "expected True or False",
        ),
    ],
)
def test_a_fault_of_a_vector_environment_gives_one_sentence(env: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        adapter = VectorAdapter(env())
        adapter.reset(seed=0)
        adapter.step(torch.zeros(ROWS, dtype=torch.int64))
    assert "\n" not in str(caught.value)


def test_missing_last_observations_and_seeds_are_warnings(capsys: Any) -> None:
    env = stepping(terminated=YES, info={})
    inner = env.reset
    env.reset = lambda: inner()
    adapter = VectorAdapter(env)
    first, _ = adapter.reset(seed=0)
    *_, info = adapter.step(torch.zeros(ROWS, dtype=torch.int64))
    assert torch.equal(info["final_obs"], first)  # type: ignore[arg-type]
    adapter.step(torch.zeros(ROWS, dtype=torch.int64))
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 2 and "reset has no argument seed" in lines[0] and "no last observations" in lines[1]


def test_spaces_of_one_row_are_enough() -> None:
    env = Counting()
    del env.action_space, env.observation_space
    assert make_from_config(env_config_of(env), ROWS).single_action_space == VectorAdapter(env).single_action_space
