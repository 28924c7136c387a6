"""Dark Room against a plain-Python implementation of the rules, its ceiling, and its floor."""

import pytest
import torch
from pure_python import follow
from scipy.stats import chisquare

from rmt_rl.envs.tasks.dark_room import DOWN, LEFT, RIGHT, STAY, UP, DarkRoom

TURN = {RIGHT: UP, UP: LEFT, LEFT: DOWN, DOWN: RIGHT}  # a quarter to the left


class Game:
    """One trial, cell by cell: 20 moves, a step back to the middle, 20 moves, ..."""

    def __init__(self, draw, episodes=5):
        cell = draw(0) % 81
        self.goal, self.episodes, self.inner = (cell % 9, cell // 9), episodes, 1
        self.start()

    def start(self):
        self.place, self.moves, self.paid = (4, 4), 0, 0
        self.found = self.place == self.goal

    def observation(self):
        return [*self.place, int(self.moves == 0), self.paid]

    def good(self):
        (x, y), (goal_x, goal_y) = self.place, self.goal
        if x != goal_x:
            return RIGHT if x < goal_x else LEFT
        return STAY if y == goal_y else UP if y < goal_y else DOWN

    def step(self, action):
        if self.moves == 20:
            self.start()
            self.inner += 1
            return 0.0, False, False
        dx, dy = {LEFT: (-1, 0), RIGHT: (1, 0), UP: (0, 1), DOWN: (0, -1), STAY: (0, 0)}[action]
        self.place = tuple(min(8, max(0, v)) for v in (self.place[0] + dx, self.place[1] + dy))
        self.moves += 1
        self.paid = int(self.place == self.goal)
        self.found = self.found or self.place == self.goal
        terminated = self.inner == self.episodes and self.moves == 20
        return float(self.paid), terminated, terminated and self.found


@pytest.mark.parametrize("episodes", [1, 2, 5])
def test_every_step_follows_the_rules(episodes):
    successes, failures = follow(DarkRoom(64, episodes=episodes), lambda draw: Game(draw, episodes))
    assert min(successes, failures) > 10


def every_goal(episodes):
    """A room for each of the 81 goals, and its first observation."""
    env, cell = DarkRoom(81, episodes=episodes), torch.arange(81)
    obs, _ = env.reset(seed=0)
    env.load_state_dict({**env.state_dict(), "goal_x": cell % 9, "goal_y": cell // 9, "found": cell == 40})
    return env, obs


def spiral(turns):
    """The path from the middle through a quarter of the room, as {cell: action}: 20 moves, no cell twice."""
    way, place = {}, (4, 4)
    for action in [RIGHT, *[UP] * 4, RIGHT, *[DOWN] * 4, RIGHT, *[UP] * 4, RIGHT, *[DOWN] * 4]:
        for _ in range(turns):
            action = TURN[action]
        way[place] = action
        dx, dy = {LEFT: (-1, 0), RIGHT: (1, 0), UP: (0, 1), DOWN: (0, -1)}[action]
        place = place[0] + dx, place[1] + dy
    return way


def successes(env, act):
    """How many of the 81 goals were found in each inner episode; `act`: (inner episode, x, y, reward, goal) -> action."""
    env, obs = env
    found, goal = [], [None] * 81
    terminated = torch.zeros(81, dtype=torch.bool)
    begins = 0
    while not bool(terminated.any()):
        begins += int(obs[0, 2])
        action = []
        for row, (x, y, _, reward) in enumerate(obs.tolist()):
            goal[row] = (x, y) if reward else goal[row]
            action.append(act(begins - 1, x, y, reward, goal[row]))
        obs, _, terminated, _, info = env.step(torch.tensor(action))
        if int(obs[0, 2]) or bool(terminated.any()):
            assert bool(terminated.any()) or bool(info["inner_start"].all())
            begin = [[4, 4, 1, 0]] * 81
            assert obs.tolist() == begin, "the first observation of an inner episode depends on the previous one"
        if bool(info["inner_success"].any()):
            found.append(int(info["inner_success"].sum()))
    assert found[-1] == int(info["success"].sum())
    return found


def test_four_spirals_find_every_goal_and_memory_returns_to_it():
    ways = [spiral(turns) for turns in range(4)]
    assert len({cell for way in ways for cell in way}) == 4 * 20 - 3  # the middle is in all, the last cells are in none

    def search(inner, x, y, reward, goal):
        if goal is None:
            return ways[min(inner, 3)].get((x, y), STAY)
        gx, gy = goal
        return RIGHT if x < gx else LEFT if x > gx else UP if y < gy else DOWN if y > gy else STAY

    found = successes(every_goal(6), search)
    assert found == [21, 41, 61, 81, 81, 81]
    assert [DarkRoom(1, episodes=n + 1).ceiling for n in range(6)] == pytest.approx([n / 81 for n in found])


def test_the_same_spiral_in_every_inner_episode_needs_no_memory_and_attains_the_floor():
    way = spiral(2)
    found = successes(every_goal(4), lambda inner, x, y, reward, goal: STAY if reward else way.get((x, y), STAY))
    assert found == [21] * 4
    assert DarkRoom.floor == 21 / 81


def test_an_expert_that_knows_the_goal_is_rewarded_from_the_end_of_the_shortest_path_on():
    env, obs = every_goal(1)
    total = torch.zeros(81, dtype=torch.float64)
    for _ in range(20):
        goal_x, goal_y = env.state_dict()["goal_x"], env.state_dict()["goal_y"]
        x, y = obs[:, 0], obs[:, 1]
        right, up = (goal_x - x).sign(), (goal_y - y).sign()
        action = torch.where(right > 0, RIGHT, torch.where(right < 0, LEFT, torch.where(up > 0, UP, DOWN)))
        obs, reward, *_ = env.step(torch.where((right == 0) & (up == 0), STAY, action))
        total += reward
    ways = [abs(x - 4) + abs(y - 4) for x in range(9) for y in range(9)]
    assert float(total.mean()) == pytest.approx(sum(min(20, 21 - way) for way in ways) / 81)
    assert float(total.mean()) == pytest.approx(16.54, abs=0.01)


def test_goals_are_uniform():
    env = DarkRoom(20_000)
    env.reset(seed=0)
    state = env.state_dict()
    assert chisquare(torch.bincount(state["goal_x"] * 9 + state["goal_y"], minlength=81).numpy()).pvalue > 0.001
