"""Memory scopes: trials and runs of several episodes."""

import numpy as np
import pytest
import torch
from gymnasium import spaces

from rmt_rl import config
from rmt_rl.algos.ppo import PPO
from rmt_rl.common import rng
from rmt_rl.common.errors import ConfigError
from rmt_rl.config.memory import MemoryConfig
from rmt_rl.envs.registry import make_env, make_from_config
from rmt_rl.envs.wrappers.memory_scope import MemoryScope
from rmt_rl.policies.actor_critic import ActorCritic
from rmt_rl.policies.spec import make_spec
from rmt_rl.rollouts.collector import Collector
from rmt_rl.rollouts.episodes import evaluate

TASK = config.TMazeConfig(length=5, min_length=1, end_at_turn=True)
ROWS, STEPS = 4, 120


def walk(scope, actions):
    """The results of the environment with that scope and without one, for equal actions."""
    scoped, bare = (make_from_config(TASK, ROWS, memory=memory) for memory in (scope, None))
    first = [(scoped.reset(seed=0)[0], bare.reset(seed=0)[0])]
    return first, [(scoped.step(a), bare.step(a)) for a in actions]


@pytest.fixture
def actions():
    return torch.randint(0, 4, (STEPS, ROWS), generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("episodes", [1, 3])
def test_a_trial_ends_only_with_its_last_episode(episodes, actions):
    _, steps = walk(MemoryConfig(scope="trial", episodes=episodes), actions)
    count = [0] * ROWS
    ends = 0
    for (_, _, terminated, truncated, info), (_, _, end, cut, bare) in steps:
        for row in range(ROWS):
            count[row] += bool(end[row] | cut[row])
            over = bool(end[row] | cut[row]) and count[row] % episodes == 0
            ends += over
            assert bool(terminated[row]) == (over and bool(end[row]))
            assert bool(truncated[row]) == (over and bool(cut[row]))
            assert bool(info["_final_obs"][row]) == over
            assert bool(info["success"][row]) == (over and bool(bare["success"][row]))
            assert bool(info["episode_over"][row]) == bool(end[row] | cut[row])
            assert bool(info["episode_success"][row]) == bool(bare["success"][row])
    assert ends > 10


def test_a_run_never_ends(actions):
    _, steps = walk(MemoryConfig(scope="run"), actions)
    assert not any(bool((terminated | truncated).any()) for (_, _, terminated, truncated, _), _ in steps)
    assert sum(int(info["episode_over"].sum()) for (*_, info), _ in steps) > 10


def test_observations_are_those_of_the_task_with_the_previous_reward_and_the_start_of_episodes(actions):
    (first,), steps = walk(MemoryConfig(scope="trial", episodes=2), actions)
    assert torch.equal(first[0]["observation"], first[1])
    assert first[0]["episode_start"].tolist() == [1] * ROWS and not first[0]["previous_reward"].any()
    for (obs, reward, terminated, truncated, info), (bare_obs, bare_reward, end, cut, bare) in steps:
        over = terminated | truncated
        assert torch.equal(obs["observation"], bare_obs) and torch.equal(reward, bare_reward)
        assert torch.equal(obs["episode_start"].bool(), end | cut)
        assert torch.equal(obs["previous_reward"][:, 0], torch.where(over, 0.0, reward).float())
        final = info["final_obs"]
        assert torch.equal(final["previous_reward"][:, 0], reward.float())
        assert torch.equal(final["observation"][over], bare["final_obs"][over])
        assert torch.equal(final["observation"][~over], bare_obs[~over])
        assert torch.equal(final["episode_start"].bool(), (end | cut) & ~over)


def test_a_restored_scope_continues_bit_for_bit(actions):
    memory = MemoryConfig(scope="trial", episodes=3)
    env, other = make_from_config(TASK, ROWS, memory=memory), make_from_config(TASK, ROWS, memory=memory)
    env.reset(seed=5)
    for action in actions[:50]:
        env.step(action)
    other.reset(seed=9)
    other.load_state_dict(env.state_dict())
    for action in actions[50:]:
        ours, theirs = env.step(action), other.step(action)
        assert all(torch.equal(a, b) for a, b in zip(ours[1:4], theirs[1:4], strict=True))
        assert all(torch.equal(ours[0][key], theirs[0][key]) for key in ours[0])


def test_a_task_with_one_of_the_added_keys_is_rejected():
    inner = make_env("tmaze", 2, memory=MemoryConfig(scope="trial"))
    with pytest.raises(ConfigError, match="previous_reward"):
        MemoryScope(inner, 2)


@pytest.mark.slow
@pytest.mark.parametrize("scope", ["trial", "run"])
@pytest.mark.parametrize("policy_config", [config.RMTConfig(), config.LSTMConfig()])
def test_acting_and_learning_carry_memory_across_the_episodes_of_a_trial(scope, policy_config):
    """PPO raises if acting and learning disagree. Memory is reset exactly at the start of a trial."""
    memory = MemoryConfig(scope=scope, episodes=3)
    env = make_from_config(TASK, 8, memory=memory)
    torch.manual_seed(0)
    policy = ActorCritic(make_spec(env, TASK, policy_config, memory))
    options = config.PPOConfig(num_envs=8, rollout=40)
    collector, ppo = Collector(env, policy, 0, rng.generator(0, "act")), PPO(policy, options, seed=0)
    early, _ = collector.collect(17)
    rollout, episodes = collector.collect(40)
    ppo.update(rollout, 0.0)
    assert len(episodes.returns) > 20  # of episodes, not of trials
    starts = torch.cat([early.obs["episode_start"], rollout.obs["episode_start"]], dim=1).bool()
    number = starts.cumsum(1) - 1  # of the row's present episode
    expected = starts & (number % 3 == 0 if scope == "trial" else number == 0)
    assert int(starts.sum()) > 40 and torch.equal(torch.cat([early.first, rollout.first], dim=1), expected)
    if scope == "run" and policy_config.name == "rmt":
        assert int(collector.state.memory.age.min()) == 57


def test_an_evaluation_of_a_run_plays_trials():
    memory = MemoryConfig(scope="run", episodes=3)
    env = make_from_config(TASK, 8, memory=memory, evaluation=True)
    policy = ActorCritic(make_spec(env, TASK, config.RMTConfig(), memory))
    trials = make_from_config(TASK, 8, memory=MemoryConfig(scope="trial", episodes=3))
    single = make_from_config(TASK, 8, memory=MemoryConfig(scope="trial", episodes=1))
    score = evaluate(policy, env, 8, 0)
    assert score == evaluate(policy, trials, 8, 0) and score.mean_length > evaluate(policy, single, 8, 0).mean_length


@pytest.mark.parametrize("end_at_turn", [True, False])
def test_the_floor_of_the_tmaze_is_none_where_the_previous_reward_reveals_the_cue(end_at_turn):
    """This policy without memory loses a step for one of the cues, and reads the cue off the penalty at the junction."""
    env = make_env("tmaze", 64, length=10, end_at_turn=end_at_turn, memory=MemoryConfig(scope="trial", episodes=1))
    obs, _ = env.reset(seed=0)
    ended = successes = 0
    for _ in range(200):
        (at_end, second), reward = obs["observation"].T, obs["previous_reward"][:, 0]
        loses_a_step = (obs["episode_start"] == 1) & (second < 0)
        turn = torch.where(reward < 0, 3, 1)
        obs, _, terminated, truncated, info = env.step(torch.where(at_end == 1, turn, torch.where(loses_a_step, 2, 0)))
        ended += int((terminated | truncated).sum())
        successes += int(info["success"].sum())
    assert env.ceiling == 1
    if end_at_turn:
        assert successes == ended > 500 and env.floor is None
    else:
        assert successes / ended == pytest.approx(0.5, abs=0.05) and env.floor == 0.5


def test_a_scope_keeps_the_info_about_inner_episodes():
    scoped, bare = (
        make_env("dark-room", 3, episodes=2, memory=m) for m in (MemoryConfig(scope="trial", episodes=1), None)
    )
    scoped.reset(seed=0), bare.reset(seed=0)
    for _ in range(50):
        info, expected = (env.step(torch.zeros(3, dtype=torch.int64))[4] for env in (scoped, bare))
        assert torch.equal(info["inner_start"], expected["inner_start"])
        assert torch.equal(info["inner_success"], expected["inner_success"])


def test_the_added_entries_of_an_observation_are_a_reward_without_bounds_and_a_flag():
    bare = make_env("tmaze", 2, length=5)
    space = MemoryScope(bare, 2).single_observation_space
    reward = spaces.Box(-np.inf, np.inf, (1,), np.float32)
    flag, inner = spaces.Discrete(2), bare.single_observation_space
    assert space == spaces.Dict({"observation": inner, "previous_reward": reward, "episode_start": flag})


def test_a_scope_is_described_by_its_environment_and_its_episodes():
    env = make_env("gym", 2, id="CartPole-v1")
    env.episode_steps, env.action_start, env.action_names = 7, 3, ("left", "right")
    env.floor, env.ceiling, env.measure = 9.0, 500.0, "return"
    for episodes, steps, span in ((None, 7, "the whole run"), (1, 7, "an episode"), (3, 21, "trials of 3 episodes")):
        scope = MemoryScope(env, episodes)
        assert scope.episode_steps == steps and scope.task == f"{env.task}; memory is kept for {span}"
        bounds = (None, None) if episodes is None else (9.0 * episodes, 500.0 * episodes)  # returns of a whole trial
        assert (scope.floor, scope.ceiling, scope.measure) == (*bounds, "return")
        assert (scope.action_start, scope.action_names, scope.own_actions) == (3, ("left", "right"), env.own_actions)
    env.episode_steps, env.reward_reveals_cue = None, True
    scope = MemoryScope(env, 3)
    assert scope.episode_steps is None and scope.floor is None


def test_a_scope_renders_its_environment():
    env = make_env("gym", 2, id="CartPole-v1", options={"render_mode": "rgb_array"}, memory=MemoryConfig(scope="run"))
    env.reset(seed=0)
    assert env.render_mode == "rgb_array" and [frame.ndim for frame in env.render()] == [3, 3]


@pytest.mark.parametrize(
    ("memory", "says"),
    [
        (MemoryConfig(scope="x"), "memory.scope=x: expected one of episode, trial, run"),
        (MemoryConfig(scope="trial", episodes=0), "memory.episodes=0: expected a whole number, at least 1"),
        ("trial", "memory='trial': expected a rmt_rl.config.MemoryConfig"),
    ],
)
def test_an_invalid_scope_raises_in_python_too(memory, says):
    with pytest.raises(ConfigError, match=says):
        make_env("tmaze", 2, memory=memory)
