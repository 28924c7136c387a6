"""The T-maze against a plain-Python implementation of Memory-RL's rules, its ceiling, and its floor."""

import pytest
import torch
from scipy.stats import chisquare

from rmt_rl.envs.tmaze.passive import DOWN, LEFT, RIGHT, UP, TMaze

CASES = {
    "1": {"length": 1},
    "5": {"length": 5},
    "10": {"length": 10},
    "50": {"length": 50},
    "mixed": {"length": 12, "min_length": 1},
    "1, ends at the turn": {"length": 1, "end_at_turn": True},
    "mixed, ends at the turn": {"length": 9, "min_length": 2, "end_at_turn": True},
}


class Reference:
    """One episode of TMazeClassicPassive (Ni et al. 2023), cell by cell; the variant that ends in the arm is not theirs."""

    def __init__(self, goal, length, end_at_turn):
        self.goal, self.length, self.end_at_turn = goal, length, end_at_turn
        self.cells = {(x, 0) for x in range(length + 1)} | {(length, 1), (length, -1)}
        self.place, self.time = (0, 0), 0

    def observation(self):
        x, y = self.place
        if self.time == 0:
            return [0.0, float(self.goal)]
        return [1.0, float(y)] if x == self.length else [0.0, 0.0]

    def step(self, action):
        """Reward, terminated, truncated, success."""
        dx, dy = {0: (1, 0), 1: (0, 1), 2: (-1, 0), 3: (0, -1)}[action]
        ahead = self.place[0] + dx, self.place[1] + dy
        if ahead in self.cells:
            self.place = ahead
        self.time += 1
        x, y = self.place
        if self.end_at_turn:
            terminated = y != 0
            truncated = not terminated and self.time >= 2 * (self.length + 1)
        else:
            terminated, truncated = self.time >= self.length + 1, False
        success = terminated and y == self.goal
        late = -1 / self.length if x < self.time else 0.0
        return (float(success) if terminated else late), terminated, truncated, success


def references(env, rows):
    """New episodes for these rows, with the goal and length that the environment drew."""
    state = env.state_dict()
    return {row: Reference(int(state["goal"][row]), int(state["length"][row]), env.end_at_turn) for row in rows}


def random_actions(env, obs, generator):
    """Row 0 acts at random, the last rows walk straight to an arm: episodes with all outcomes."""
    chance = torch.randint(4, (env.num_envs,), generator=generator)
    turn = torch.where(torch.rand(env.num_envs, generator=generator) < 0.5, UP, DOWN)
    straight = torch.rand(env.num_envs, generator=generator) < torch.linspace(0, 1.5, env.num_envs)
    return torch.where(straight, torch.where(obs[:, 0] == 1, turn, RIGHT), chance)


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_every_step_follows_the_rules(case):
    rows, env = 64, TMaze(64, **CASES[case])
    generator = torch.Generator().manual_seed(0)
    obs, _ = env.reset(seed=5)
    games = references(env, range(rows))
    assert obs.tolist() == [games[row].observation() for row in range(rows)]
    fates = {"success": 0, "failure": 0, "truncated": 0}
    for _ in range(20_000 // rows + 1):
        action = random_actions(env, obs, generator)
        obs, reward, terminated, truncated, info = env.step(action)
        expected = [games[row].step(int(action[row])) for row in range(rows)]
        columns = reward, terminated, truncated, info["success"]
        assert list(zip(*(column.tolist() for column in columns), strict=True)) == expected
        assert info["final_obs"].tolist() == [games[row].observation() for row in range(rows)]
        ended = [row for row in range(rows) if terminated[row] or truncated[row]]
        assert info["_final_obs"].nonzero().flatten().tolist() == ended
        games |= references(env, ended)
        assert obs.tolist() == [games[row].observation() for row in range(rows)]
        fates["truncated"] += int(truncated.sum())
        fates["success"] += int(info["success"].sum())
        fates["failure"] += int((terminated & ~info["success"]).sum())
    assert min(fates["failure"], fates["success"]) > 20
    assert (fates["truncated"] > 10) == bool(CASES[case].get("end_at_turn"))


def play(env, turn):
    """Every row's first episode by "right, and at the junction `turn(cue)`": returns, lengths, success."""
    obs, _ = env.reset(seed=0)
    cue, running = obs[:, 1], torch.ones(env.num_envs, dtype=torch.bool)
    returns, lengths, success = torch.zeros(3, env.num_envs, dtype=torch.float64)
    while bool(running.any()):
        obs, reward, terminated, truncated, info = env.step(torch.where(obs[:, 0] == 1, turn(cue), RIGHT))
        returns += torch.where(running, reward, 0.0)
        lengths += running
        success += running & info["success"]
        running = running & ~(terminated | truncated)
    return returns, lengths, success


def remember(cue):
    return torch.where(cue > 0, UP, DOWN)


def forget(cue):
    return torch.full_like(cue, UP, dtype=torch.int64)


@pytest.mark.parametrize("case", CASES)
def test_a_policy_that_remembers_the_cue_reaches_the_ceiling_without_a_penalty(case):
    env = TMaze(100, **CASES[case])
    returns, lengths, success = play(env, remember)
    assert returns.tolist() == [1.0] * 100
    assert success.mean() == env.ceiling == 1.0
    env.reset(seed=0)
    assert lengths.tolist() == (env.state_dict()["length"] + 1).tolist()


@pytest.mark.parametrize("case", CASES)
def test_a_policy_that_ignores_the_cue_gets_the_floor(case):
    rows = 4000
    env = TMaze(rows, **CASES[case])
    returns, _, success = play(env, forget)
    assert float(success.mean()) == pytest.approx(env.floor, abs=4 * 0.5 / rows**0.5)
    assert torch.equal(returns, success), "a return other than 0 or 1 means a lost step"


def test_one_lost_step_puts_the_arm_out_of_reach():
    env = TMaze(2, length=5)
    obs, _ = env.reset(seed=0)
    action = remember(obs[:, 1])
    right = torch.tensor([RIGHT, RIGHT])
    rewards = []
    # the first row walks into a wall at the first step, the second loses none
    for actions in (torch.tensor([LEFT, RIGHT]), right, right, right, right, action):
        _, reward, terminated, _, _ = env.step(actions)
        rewards.append(reward.tolist())
    assert bool(terminated.all())
    assert rewards == [[-0.2, 0], [-0.2, 0], [-0.2, 0], [-0.2, 0], [-0.2, 0], [0, 1]]


def test_a_move_into_a_wall_leaves_the_agent_where_it_is():
    env = TMaze(1, length=3)
    env.reset(seed=0)
    place = []
    for action in (LEFT, UP, DOWN):
        env.step(torch.tensor([action]))
        place.append((int(env.state_dict()["x"]), int(env.state_dict()["y"])))
    assert place == [(0, 0)] * 3


def test_goals_are_balanced_for_every_length():
    n = 20_000
    env = TMaze(n, length=4, min_length=1)
    env.reset(seed=0)
    state = env.state_dict()
    assert set(state["goal"].tolist()) == {-1, 1}
    assert float((state["goal"] == 1).double().mean()) == pytest.approx(0.5, abs=4 * 0.5 / n**0.5)
    for length in range(1, 5):
        goals = state["goal"][state["length"] == length]
        assert float((goals == 1).double().mean()) == pytest.approx(0.5, abs=4 * 0.5 / len(goals) ** 0.5)


def test_lengths_are_uniform():
    env = TMaze(20_000, length=12, min_length=3)
    env.reset(seed=0)
    counts = torch.bincount(env.state_dict()["length"])
    assert counts[:3].tolist() == [0, 0, 0]
    assert len(counts) == 13
    assert chisquare(counts[3:].numpy()).pvalue > 0.001


def test_the_next_episode_of_a_row_is_independent_of_the_last():
    env = TMaze(20_000, length=1)
    env.reset(seed=0)
    before = env.state_dict()["goal"]
    for _ in range(2):
        _, _, terminated, _, _ = env.step(torch.full((20_000,), RIGHT))
    assert bool(terminated.all())
    agree = (env.state_dict()["goal"] == before).double().mean()
    assert float(agree) == pytest.approx(0.5, abs=4 * 0.5 / 20_000**0.5)


def test_all_lengths_are_equal_without_min_length():
    env = TMaze(100, length=7)
    env.reset(seed=0)
    assert env.state_dict()["length"].tolist() == [7] * 100


def sizes(env):
    return {name: value.numel() for name, value in vars(env).items() if isinstance(value, torch.Tensor)}


def test_a_corridor_of_ten_million_cells_needs_no_more_memory_than_one_of_ten():
    env, short = TMaze(3, length=10_000_000), TMaze(3, length=10)
    for each in (env, short):
        each.reset(seed=0)
    before = sizes(env)
    for _ in range(300):
        obs, reward, terminated, truncated, _ = env.step(torch.full((3,), RIGHT))
        assert not bool((terminated | truncated).any())
        assert obs.tolist() == [[0.0, 0.0]] * 3
        assert reward.tolist() == [0.0] * 3
    assert sizes(env) == before == sizes(short)


def test_the_end_of_ten_million_steps_is_exact():
    n = 10_000_000
    env = TMaze(2, length=n)
    env.reset(seed=0)
    goal = env.state_dict()["goal"]
    almost = torch.tensor([n - 2, n - 3])  # the second row lost one step on the way
    env.load_state_dict({**env.state_dict(), "x": almost, "t": torch.tensor([n - 2, n - 2])})
    right = torch.full((2,), RIGHT)
    obs, reward, *_ = env.step(right)
    assert obs.tolist() == [[0, 0], [0, 0]]
    assert reward.tolist() == [0.0, -1 / n]
    obs, reward, terminated, _, _ = env.step(right)
    assert obs.tolist() == [[1, 0], [0, 0]]
    assert not bool(terminated.any())
    _, reward, terminated, _, info = env.step(remember(goal))
    assert terminated.tolist() == [True, True]
    assert reward.tolist() == [1.0, 0.0]
    assert info["final_obs"].tolist() == [[1.0, float(goal[0])], [0.0, 0.0]]


@pytest.mark.parametrize(
    "options", [{"length": 0}, {"length": -3}, {"length": 5, "min_length": 0}, {"length": 5, "min_length": 6}]
)
def test_impossible_lengths_are_rejected(options):
    with pytest.raises(ValueError, match="expected 1 <= min_length <= length"):
        TMaze(1, **options)


def test_zero_rows_are_rejected():
    with pytest.raises(ValueError, match="num_envs is 0"):
        TMaze(0)


@pytest.mark.parametrize("action", [[4, 0], [0, -1], [0], [[0, 0]]])
def test_invalid_actions_raise_and_change_nothing(action):
    env = TMaze(2)
    env.reset(seed=0)
    before = {name: value.clone() for name, value in env.state_dict().items()}
    with pytest.raises(ValueError, match="action"):
        env.step(torch.tensor(action))
    assert all(torch.equal(value, before[name]) for name, value in env.state_dict().items())


def test_options_of_reset_are_rejected():
    with pytest.raises(ValueError, match="options"):
        TMaze(1).reset(seed=0, options={"length": 3})


def test_a_state_with_another_number_of_rows_is_rejected():
    two, three = TMaze(2), TMaze(3)
    for env in (two, three):
        env.reset(seed=0)
    with pytest.raises(ValueError, match="the state has 2 rows; expected 3 rows"):
        three.load_state_dict(two.state_dict())
