"""The active T-maze, that of RATE and the trial against plain-Python implementations, their ceiling, and their floor."""

import itertools

import pytest
import torch
from pure_python import follow, play
from scipy.stats import chisquare

from rmt_rl.envs.tmaze.passive import DOWN, LEFT, RIGHT, UP
from rmt_rl.envs.tmaze.variants import TMazeActive, TMazeRATE, TMazeTrial

STEP = {RIGHT: (1, 0), UP: (0, 1), LEFT: (-1, 0), DOWN: (0, -1)}
LENGTHS = [{"length": 1}, {"length": 5}, {"length": 50}, {"length": 9, "min_length": 2}]


class Maze:
    """TMazeBase of both: cells, walls, and the cue, which is observed at x = 0 once."""

    def __init__(self, draw, oracle, length=10, min_length=None):
        span = length - (length if min_length is None else min_length) + 1
        self.goal = draw(0) % 2 * 2 - 1
        self.length = length - span + 1 + draw(0) // 2 % span
        self.oracle, self.end = oracle, oracle + self.length
        self.cells = {(x, 0) for x in range(self.end + 1)} | {(self.end, 1), (self.end, -1)}
        self.draw, self.place, self.time, self.visited = draw, (oracle, 0), 0, False
        self.look()

    def look(self):
        self.cue = self.goal if self.place[0] == 0 and not self.visited else 0
        self.visited = self.visited or self.place[0] == 0

    def good(self):
        if not self.visited:
            return LEFT
        return RIGHT if self.place[0] < self.end else UP if self.goal > 0 else DOWN

    def move(self, action):
        ahead = self.place[0] + STEP[action][0], self.place[1] + STEP[action][1]
        if ahead in self.cells:
            self.place = ahead
        self.time += 1
        self.look()


class Active(Maze):
    """TMazeClassicActive of Memory-RL, with penalty -1/length."""

    def __init__(self, draw, **options):
        super().__init__(draw, 1, **options)

    def observation(self):
        x, y = self.place
        return [1.0, float(y)] if x == self.end else [0.0, float(self.cue)]

    def step(self, action):
        self.move(action)
        x, y = self.place
        if self.time >= self.length + 2 * self.oracle + 1:
            return float(y == self.goal), True, y == self.goal
        return (-1 / self.length if x < self.time - self.oracle else 0.0), False, False


class Rate(Maze):
    """TMazeClassicPassive of RATE as its get_returns_TMaze plays it: episode_length = length + 2, {y, hint, flag, noise}."""

    def __init__(self, draw, **options):
        super().__init__(draw, 0, **options)

    def observation(self):
        x, y = self.place
        return [float(y), float(self.cue), float(x == self.end), float(self.draw(1 + self.time) % 3 - 1)]

    def step(self, action):
        self.move(action)
        y = self.place[1]
        terminated = self.time >= self.length + 2 or y != 0
        return float(terminated and y == self.goal), terminated, terminated and y == self.goal


class Trial(Maze):
    """Walks of length + 1 steps through one passive maze, one after the other."""

    def __init__(self, draw, episodes=4, **options):
        self.walk, self.episodes = 0, episodes
        super().__init__(draw, 0, **options)

    def observation(self):
        x, y = self.place
        over = self.walk == self.episodes
        return [float(x == self.end), float(self.cue or y), float(self.time == 0 and not over)]

    def step(self, action):
        self.move(action)
        x, y = self.place
        if self.time <= self.length:
            return (-1 / self.length if x < self.time else 0.0), False, False
        self.walk += 1
        over, success = self.walk == self.episodes, y == self.goal
        if not over:
            self.place, self.time, self.cue = (0, 0), 0, 0
        return float(success), over, over and success


@pytest.mark.slow
@pytest.mark.parametrize("options", [*({"episodes": n, **LENGTHS[1]} for n in (2, 5)), *LENGTHS])
def test_every_step_of_a_trial_follows_the_rules(options):
    successes, failures = follow(TMazeTrial(64, **options), lambda draw: Trial(draw, **options), 40_000)
    assert min(successes, failures) >= 4


def test_memory_across_walks_reaches_the_ceiling_of_a_trial_and_memory_within_walks_the_floor():
    for forget, expected in ((False, [1.0, 1.0, 1.0]), (True, [1.0, 0.5, 0.5])):
        env = TMazeTrial(2, episodes=3, length=6)
        obs, _ = env.reset(seed=0)
        env.load_state_dict({**env.state_dict(), "goal": torch.tensor([1, -1])})
        cue, rates = torch.tensor([1.0, -1.0]), []
        for t in range(21):
            if forget and t > 0:
                cue = torch.where(obs[:, 2] == 1, 1.0, cue)
            action = torch.where(obs[:, 0] == 0, RIGHT, torch.where(cue > 0, UP, DOWN))
            obs, _, terminated, _, info = env.step(action)
            assert bool(info["inner_start"].all()) == (t in (6, 13))
            if t % 7 == 6:
                rates.append(float(info["inner_success"].double().mean()))
        assert rates == expected and bool(terminated.all())
    assert (TMazeTrial.floor, TMazeTrial.ceiling) == (0.5, 1.0)


@pytest.mark.parametrize("options", [{"length": 1}, {"length": 6, "min_length": 2}])
@pytest.mark.parametrize(("cls", "game"), [(TMazeActive, Active), (TMazeRATE, Rate), (TMazeTrial, Trial)])
def test_the_first_episodes_follow_the_rules(cls, game, options):
    follow(cls(8, **options), lambda draw: game(draw, **options), steps=800)


@pytest.mark.slow
@pytest.mark.parametrize("options", LENGTHS)
@pytest.mark.parametrize(("cls", "game"), [(TMazeActive, Active), (TMazeRATE, Rate)])
def test_every_step_follows_the_rules(cls, game, options):
    successes, failures = follow(cls(64, **options), lambda draw: game(draw, **options))
    assert min(successes, failures) >= 4


def success_rate(game, length, policy):
    """Exact success rate over both goals of a policy {observation without noise: probability of each action}."""
    rate = 0.0
    for goal in (0, 1):
        games = {0: (1.0, game(lambda i, goal=goal: goal, length=length))}
        while games:
            after = {}
            for chance, one in games.values():
                for action, likely in enumerate(policy[tuple(one.observation()[:3])]):
                    if chance * likely == 0:
                        continue
                    new = game(lambda i, goal=goal: goal, length=length)
                    new.place, new.time, new.visited, new.cue = one.place, one.time, one.visited, one.cue
                    _, terminated, success = new.step(action)
                    if terminated:
                        rate += 0.5 * chance * likely * success
                        continue
                    state = (new.place, new.visited, new.cue)
                    after[state] = (after.get(state, (0.0,))[0] + chance * likely, new)
            games = after
    return rate


SEEN = {
    Active: [(0.0, 0.0), (0.0, 1.0), (0.0, -1.0), (1.0, 0.0), (1.0, 1.0), (1.0, -1.0)],
    Rate: [(0.0, 1.0, 0.0), (0.0, -1.0, 0.0), (0.0, 0.0, 0.0), (0.0, 0.0, 1.0)],
}


MAZES = [(TMazeActive, Active), (TMazeRATE, Rate)]


@pytest.mark.parametrize(("cls", "game"), MAZES)
@pytest.mark.parametrize("length", [1, 2])
def test_no_policy_without_memory_exceeds_the_floor(cls, game, length):
    seen, fixed = SEEN[game], torch.eye(4).tolist()
    # a policy that does not go right in the corridor never reaches the junction
    choices = itertools.product(*(fixed if any(look) else fixed[:1] for look in seen))
    rates = [success_rate(game, length, dict(zip(seen, choice, strict=True))) for choice in choices]
    assert max(rates) == cls.floor == 0.5
    weights = torch.rand(100, len(seen), 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64) ** 4
    tossing = (weights / weights.sum(2, keepdim=True)).tolist()
    assert max(success_rate(game, length, dict(zip(seen, policy, strict=True))) for policy in tossing) < 0.5


@pytest.mark.parametrize("options", LENGTHS)
def test_a_policy_that_fetches_and_remembers_the_cue_reaches_the_ceiling_without_a_penalty(options):
    env, cue = TMazeActive(100, **options), torch.zeros(100)

    def remember(obs):
        corridor, sight = obs[:, 0] == 0, obs[:, 1]
        cue.copy_(torch.where(corridor & (sight != 0), sight, cue))
        return torch.where(cue == 0, LEFT, torch.where(corridor, RIGHT, torch.where(cue > 0, UP, DOWN)))

    returns, success = play(env, remember)
    assert returns.tolist() == success.tolist() == [1.0] * 100
    assert env.ceiling == 1.0


@pytest.mark.parametrize("options", LENGTHS)
def test_a_policy_that_remembers_the_cue_of_rate_reaches_the_ceiling(options):
    env, cue = TMazeRATE(100, **options), torch.zeros(100)

    def remember(obs):
        cue.copy_(torch.where(obs[:, 1] != 0, obs[:, 1], cue))
        return torch.where(obs[:, 2] == 0, RIGHT, torch.where(cue > 0, UP, DOWN))

    returns, success = play(env, remember)
    assert returns.tolist() == success.tolist() == [1.0] * 100
    assert env.ceiling == 1.0


def test_an_active_maze_by_hand():
    env = TMazeActive(2, length=2)
    env.reset(seed=0)
    goal = env.state_dict()["goal"]
    turn = torch.where(goal > 0, UP, DOWN)
    both = torch.tensor([LEFT, LEFT])
    seen, paid = [], []
    # the second row loses a step at the cue and is penalized from then on
    for actions in (both, torch.tensor([RIGHT, LEFT]), both * 0, both * 0, turn):
        _, reward, terminated, _, info = env.step(actions)
        seen.append(info["final_obs"].tolist())
        paid.append(reward.tolist())
    cue = [float(g) for g in goal]
    assert seen == [[[0, cue[0]], [0, cue[1]]], [[0, 0]] * 2, [[0, 0]] * 2, [[1, 0], [0, 0]], [[1, cue[0]], [0, 0]]]
    assert paid == [[0, 0], [0, -0.5], [0, -0.5], [0, -0.5], [1, 0]]
    assert terminated.tolist() == [True, True]


def test_one_step_may_be_lost_in_the_maze_of_rate_but_not_two():
    env = TMazeRATE(3, length=2)
    env.reset(seed=0)
    turn = torch.where(env.state_dict()["goal"] > 0, UP, DOWN).tolist()
    ends = []
    for actions in ([RIGHT, LEFT, LEFT], [RIGHT, RIGHT, LEFT], [turn[0], RIGHT, RIGHT], [RIGHT, turn[1], RIGHT]):
        _, _, terminated, _, info = env.step(torch.tensor(actions))
        ends.append(list(zip(terminated.tolist(), info["success"].tolist(), strict=True)))
    no = (False, False)
    assert ends[:2] == [[no] * 3] * 2
    assert ends[2] == [(True, True), no, no]
    assert ends[3] == [no, (True, True), (True, False)]


@pytest.mark.parametrize("cls", [TMazeActive, TMazeRATE])
def test_goals_lengths_and_noise_are_uniform_and_independent(cls):
    env = cls(20_000, length=6, min_length=3)
    obs, _ = env.reset(seed=0)
    state = env.state_dict()
    cells = (state["goal"] + 1) // 2 * 4 + state["length"] - 3
    if cls is TMazeRATE:
        again, *_ = env.step(torch.zeros(20_000, dtype=torch.int64))
        cells = (cells * 3 + obs[:, 3].long() + 1) * 3 + again[:, 3].long() + 1
    assert chisquare(torch.bincount(cells, minlength=8 if cls is TMazeActive else 72).numpy()).pvalue > 0.001
