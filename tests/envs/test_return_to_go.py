"""The wrapper that adds the return-to-go to the observation."""

import pytest
import torch

from rmt_rl.common.errors import ConfigError
from rmt_rl.config.commands import ReturnConditioning
from rmt_rl.config.envs import TMazeConfig, TMazeTrialConfig
from rmt_rl.envs.registry import make_env, make_from_config
from rmt_rl.envs.wrappers.return_to_go import ReturnToGo

RETURNS = ReturnConditioning(target=0.75, low=-1.0, high=1.0)


def test_the_return_to_go_decreases_by_every_reward_and_is_reset_with_the_episode() -> None:
    env = make_from_config(TMazeConfig(length=2), 2, returns=RETURNS)
    plain = make_env("tmaze", 2, length=2)
    obs, _ = env.reset(seed=0)
    plain.reset(seed=0)
    remaining = torch.full((2,), 0.75, dtype=torch.float64)
    for t in range(9):
        assert torch.equal(obs["return_to_go"][:, 0], remaining.float())
        action = torch.tensor([0, 2]) if t % 3 < 2 else torch.tensor([1, 3])
        obs, reward, terminated, _, info = env.step(action)
        expected = plain.step(action)
        assert torch.equal(reward, expected[1]) and torch.equal(obs["observation"], expected[0])
        remaining = remaining - reward
        assert torch.equal(info["final_obs"]["return_to_go"][:, 0], remaining.float())
        remaining = torch.where(terminated, 0.75, remaining)


def test_a_restored_state_continues_bit_for_bit() -> None:
    env, other = (make_from_config(TMazeConfig(length=3), 3, returns=RETURNS) for _ in range(2))
    env.reset(seed=1)
    env.step(torch.tensor([0, 2, 2]))
    other.reset(seed=9)
    other.load_state_dict(env.state_dict())
    for action in torch.randint(4, (20, 3), generator=torch.Generator().manual_seed(0)):
        a, b = env.step(action)[0], other.step(action)[0]
        assert torch.equal(a["return_to_go"], b["return_to_go"]) and torch.equal(a["observation"], b["observation"])


def test_a_task_with_a_return_to_go_of_its_own_is_rejected() -> None:
    env = make_from_config(TMazeConfig(), 1, returns=RETURNS)
    with pytest.raises(
        ConfigError, match="adds the key 'return_to_go' to the observation, but the task's observation already has it"
    ):
        ReturnToGo(env, RETURNS)


def test_the_floor_is_none_where_the_sum_of_the_rewards_reveals_the_cue():
    """This policy without memory loses a step of the first walk for one of the cues, and reads the cue off the return-to-go."""
    env = make_from_config(TMazeTrialConfig(length=10, episodes=2), 32, returns=RETURNS)
    obs, _ = env.reset(seed=0)
    ended = successes = 0
    for _ in range(220):
        (at_end, second, start), to_go = obs["observation"].T, obs["return_to_go"][:, 0]
        loses_a_step = (start == 1) & (second < 0)
        turn = torch.where(to_go > RETURNS.target, 3, 1)
        obs, _, terminated, _, info = env.step(torch.where(at_end == 1, turn, torch.where(loses_a_step, 2, 0)))
        ended += int(terminated.sum())
        successes += int(info["success"].sum())
    assert successes == ended > 100 and env.floor is None
