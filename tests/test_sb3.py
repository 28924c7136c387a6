"""Our tasks and policies in Stable-Baselines3. These tests run where it is installed; the requirements do not contain it."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch

import rmt_rl
from rmt_rl.config.commands import ReturnConditioning
from rmt_rl.config.envs import TMazeConfig
from rmt_rl.envs.registry import make_from_config

pytest.importorskip("stable_baselines3")
pytestmark = pytest.mark.filterwarnings("ignore")  # those of other packages while they are imported

from stable_baselines3 import PPO  # noqa: E402
from stable_baselines3.common.evaluation import evaluate_policy  # noqa: E402
from stable_baselines3.common.utils import check_for_correct_spaces  # noqa: E402
from stable_baselines3.common.vec_env import VecMonitor, VecNormalize  # noqa: E402

from rmt_rl.sb3 import SB3Policy, SB3VecEnv, evaluation_seed, make_vec_env  # noqa: E402

ROWS = 4
TASKS: dict[str, dict[str, Any]] = {
    "tmaze": {"length": 6, "min_length": 2},
    "minigrid-memory": {"max_steps": 30},
    "bandit": {"length": 10},
    "gym": {"id": "CartPole-v1"},
}


@pytest.mark.parametrize("name", TASKS)
@pytest.mark.parametrize("kind", ["rmt", "lstm", "mlp"])
def test_evaluate_policy_gives_the_returns_and_lengths_of_our_evaluation(name: str, kind: str) -> None:
    env = rmt_rl.make_env(name, ROWS, **TASKS[name])
    policy = rmt_rl.make_policy(env, kind, width=16)
    theirs = VecMonitor(make_vec_env(name, ROWS, seed=evaluation_seed(3), **TASKS[name]))
    returns, lengths = evaluate_policy(SB3Policy(policy), theirs, n_eval_episodes=ROWS, return_episode_rewards=True)
    ours = rmt_rl.evaluate(policy, env, episodes=ROWS, num_envs=ROWS, seed=3).each
    assert sorted(lengths) == sorted(ours.lengths.tolist())
    assert np.allclose(sorted(returns), sorted(ours.returns.tolist()), atol=1e-5)


def test_the_stream_is_that_of_our_environment_with_the_ends_in_infos() -> None:
    ours, theirs = rmt_rl.make_env("tmaze", ROWS, length=3), make_vec_env("tmaze", ROWS, seed=5, length=3)
    check_for_correct_spaces(theirs, ours.single_observation_space, ours.single_action_space)
    obs, _ = ours.reset(seed=5)
    assert np.array_equal(theirs.reset(), obs.numpy())
    generator, ends = np.random.default_rng(0), 0
    for _ in range(30):
        action = generator.integers(0, 4, ROWS)
        obs, reward, terminated, truncated, info = ours.step(torch.from_numpy(action))
        seen, found, done, infos = theirs.step(action)
        assert np.array_equal(seen, obs.numpy()) and np.array_equal(done, (terminated | truncated).numpy())
        assert np.array_equal(found, reward.float().numpy()) and found.dtype == np.float32
        for row, each in enumerate(infos):
            assert ("terminal_observation" in each) == bool(done[row])
            if done[row]:
                ends += 1
                assert np.array_equal(each["terminal_observation"], info["final_obs"][row].numpy())
                assert each["TimeLimit.truncated"] == bool(truncated[row] and not terminated[row])
                assert each["is_success"] == bool(info["success"][row])
    assert ends > ROWS


@pytest.mark.parametrize("kind", ["rmt", "gru", "trxl", "mlp"])
def test_predict_carries_the_memory_of_acting_through_resets(kind: str) -> None:
    env = rmt_rl.make_env("tmaze", ROWS, length=3, min_length=1)
    policy = rmt_rl.make_policy(env, kind, width=16)
    ours, state, first = policy.initial_state(ROWS), None, torch.ones(ROWS, dtype=torch.bool)
    obs, _ = env.reset(seed=0)
    for _ in range(20):
        action, ours = policy.act(obs, ours, first, deterministic=True)
        found, state = SB3Policy(policy).predict(obs.numpy(), state, first.numpy(), deterministic=True)
        assert np.array_equal(found, action.numpy())
        assert all(isinstance(x, np.ndarray) and len(x) == ROWS for x in state)
        obs, _, terminated, truncated, _ = env.step(action)
        first = terminated | truncated
    assert first.shape == (ROWS,)


def test_one_observation_without_the_axis_of_rows_gives_one_action() -> None:
    for name, space in (("tmaze", "Box"), ("minigrid-memory", "Dict")):
        env = rmt_rl.make_env(name, 1)
        assert type(env.single_observation_space).__name__ == space
        obs, _ = env.reset(seed=0)
        single = {k: x[0].numpy() for k, x in obs.items()} if isinstance(obs, dict) else obs[0].numpy()
        policy = SB3Policy(rmt_rl.make_policy(env, "lstm", width=8))
        action, state = policy.predict(single)
        assert np.shape(action) == () and len(state[0]) == 1
        assert np.shape(policy.predict(single, state, np.array([False]))[0]) == ()
        with pytest.raises(ValueError, match="state has 1 arrays; expected the"):
            policy.predict(single, state[:1])


def test_a_return_conditioned_policy_plays_in_the_task_that_is_made_for_it() -> None:
    task = make_from_config(TMazeConfig(length=3), ROWS, returns=ReturnConditioning(1.0, 0.0, 1.0))
    env = SB3VecEnv(task, seed=0)
    policy = rmt_rl.make_policy(task, "rmt", width=16)
    assert sorted(env.reset()) == ["observation", "return_to_go"]
    mean, _ = evaluate_policy(SB3Policy(policy), env, n_eval_episodes=ROWS, warn=False)
    assert np.isfinite(mean)


def test_seeds_and_options_apply_to_the_next_reset_only() -> None:
    env = make_vec_env("tmaze", ROWS, seed=7)
    first = env.reset()
    other = env.reset()
    env.seed(7)
    assert np.array_equal(env.reset(), first)
    assert not np.array_equal(first, other) or not np.array_equal(env.reset(), first)
    env.set_options([{"a": 1}] + [{}] * (ROWS - 1))
    with pytest.raises(ValueError, match="set_options was given other options for some rows"):
        env.reset()


def test_what_rows_that_share_one_object_cannot_do_is_one_sentence() -> None:
    env = make_vec_env("tmaze", ROWS)
    assert env.get_attr("measure") == ["success"] * ROWS and env.env_is_wrapped(object) == [False] * ROWS
    with pytest.raises(ValueError, match="the rows share one object"):
        env.set_attr("measure", "return", indices=[0])
    with pytest.raises(NotImplementedError, match=r"call its method once, as .env.oracle"):
        env.env_method("oracle")
    with pytest.raises(RuntimeError, match="step_wait was called before step_async"):
        env.step_wait()
    for wrong in (SB3VecEnv, SB3Policy):
        with pytest.raises(TypeError, match="int was given"):
            wrong(3)  # type: ignore[arg-type]


@pytest.mark.slow
def test_their_ppo_learns_through_monitor_and_normalization() -> None:
    env = VecNormalize(VecMonitor(make_vec_env("gym", 8, seed=0, id="CartPole-v1")))
    model = PPO("MlpPolicy", env, n_steps=32, batch_size=64, seed=0, device="cpu").learn(2_000)
    assert model.num_timesteps >= 2_000 and len(model.ep_info_buffer) > 0
    PPO("MultiInputPolicy", make_vec_env("minigrid-memory", 8), n_steps=16, batch_size=64, device="cpu").learn(128)


@pytest.mark.slow
def test_the_example_of_the_documentation_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = (Path(__file__).parent.parent / "docs" / "using.md").read_text(encoding="utf-8")
    (example,) = (code for code in re.findall(r"```py\n(.*?)```", text, re.DOTALL) if "stable_baselines3" in code)
    monkeypatch.chdir(tmp_path)
    env = rmt_rl.make_env("tmaze", 1, length=4)
    policy = rmt_rl.train(env="tmaze", steps=64, evaluate_episodes=0, **{"env.length": 4, "policy.width": 16}).policy
    assert policy.spec.observation_space == env.single_observation_space
    rmt_rl.save_policy(policy, "runs/minigrid-memory-rmt-ppo-s0")
    exec(compile(example.replace("8_000", "512"), "using.md", "exec"), {})


class Parts(gymnasium.Env[Any, Any]):
    """Actions that are whole numbers from -1 and a choice; each step pays 1."""

    observation_space = gymnasium.spaces.Box(-1, 1, (2,), np.float32)
    action_space = gymnasium.spaces.Tuple(
        [gymnasium.spaces.Box(-1, 1, (2,), np.int32), gymnasium.spaces.Discrete(3, start=5)]
    )

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        self.left = 3
        return np.zeros(2, np.float32), {}

    def step(self, action: Any) -> Any:
        assert self.action_space.contains(action)
        self.left -= 1
        return np.zeros(2, np.float32), 1.0, self.left == 0, False, {}


@pytest.mark.parametrize("own", [None, gymnasium.spaces.Box(-1, 1, (2,), np.int32)])
def test_predict_gives_the_actions_that_the_vec_env_takes(own: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    if own is not None:
        monkeypatch.setattr(Parts, "action_space", own)
    monkeypatch.setitem(gymnasium.registry, "SB3Parts-v0", gymnasium.envs.registration.EnvSpec("SB3Parts-v0", Parts))
    env = make_vec_env("gym", 2, seed=0, id="SB3Parts-v0")
    policy = SB3Policy(rmt_rl.make_policy(env.env, "lstm", width=8))
    action, _ = policy.predict(env.reset())
    assert all(policy.action_space.contains(row) for row in action)
    assert evaluate_policy(policy, env, 4)[0] == 3.0


class Masked(gymnasium.Env[Any, Any]):
    """Every step forbids other actions, and raises where one of them is taken. Row 0 and row 1 begin with other masks."""

    observation_space: Any = gymnasium.spaces.Dict(
        seen=gymnasium.spaces.Box(-1, 1, (2,), np.float32), action_mask=gymnasium.spaces.MultiBinary(5)
    )
    action_space: Any = gymnasium.spaces.MultiDiscrete([2, 3])

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        self.t = 0
        return self.show(), {}

    def show(self) -> Any:
        one, other = self.np_random.integers([2, 3])
        self.mask = np.array([one != 0, one != 1, other != 0, other != 1, True], np.int8)
        return {"seen": np.full(2, one, np.float32), "action_mask": self.mask}

    def step(self, action: Any) -> Any:
        assert self.mask[action[0]] and self.mask[2 + action[1]]
        self.t += 1
        return self.show(), 1.0, self.t == 5, False, {}


@pytest.fixture
def masked(monkeypatch: pytest.MonkeyPatch) -> SB3VecEnv:
    spec = gymnasium.envs.registration.EnvSpec("SB3Masked-v0", Masked)
    monkeypatch.setitem(gymnasium.registry, "SB3Masked-v0", spec)
    return make_vec_env("gym", 3, seed=0, id="SB3Masked-v0")


def test_every_row_has_the_masks_of_the_observation_that_was_shown_last(masked: SB3VecEnv) -> None:
    env = VecMonitor(masked)
    assert env.has_attr("action_masks") and not make_vec_env("tmaze", 2).has_attr("action_masks")
    with pytest.raises(RuntimeError, match="action_masks was called before reset"):
        env.env_method("action_masks")
    obs, random = env.reset(), np.random.default_rng(0)
    for _ in range(12):
        masks = np.stack(env.env_method("action_masks"))
        assert masks.dtype == bool and isinstance(obs, dict) and np.array_equal(masks, obs["action_mask"] != 0)
        assert [method().tolist() for method in env.get_attr("action_masks", [2, 0])] == masks[[2, 0]].tolist()
        allowed = [[random.choice(np.flatnonzero(part)) for part in (row[:2], row[2:])] for row in masks]
        obs = env.step(np.array(allowed))[0]
    with pytest.raises(AttributeError, match=r"^env_method\('action_masks'\): the observation .* has no action mask"):
        make_vec_env("tmaze", 2).env_method("action_masks")


@pytest.mark.slow
def test_maskable_ppo_takes_only_what_our_masks_allow(masked: SB3VecEnv) -> None:
    contrib = pytest.importorskip("sb3_contrib")
    from sb3_contrib.common.maskable.evaluation import evaluate_policy as evaluate_masked
    from sb3_contrib.common.maskable.utils import is_masking_supported

    env = VecMonitor(masked)
    assert is_masking_supported(env)
    kind = {"n_steps": 16, "batch_size": 16, "n_epochs": 1, "device": "cpu"}
    model = contrib.MaskablePPO("MultiInputPolicy", env, policy_kwargs={"net_arch": [8]}, **kind).learn(96)
    assert evaluate_masked(model, env, 6)[0] == 5.0
