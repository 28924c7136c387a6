"""The endless T-maze against a plain-Python implementation, its ceiling, its floor and its limit of steps."""

import itertools

import pytest
import torch
from pure_python import episode, follow

from rmt_rl.envs.tmaze.endless import FORWARD, LEFT, RIGHT, TMazeEndless
from rmt_rl.envs.tmaze.passive import TMaze


class Endless:
    """Cells of one corridor after the other; `draw(i)` decides the hint and the length of corridor i."""

    def __init__(self, draw, corridors=3, length=5, uniform=True):
        self.draw, self.n, self.longest, self.uniform = draw, corridors, length, uniform
        self.walked, self.x, self.time = 0, 0, 0

    @property
    def hint(self):
        return [LEFT, RIGHT][self.draw(self.walked) % 2]

    @property
    def end(self):
        return 1 + self.draw(self.walked) // 2 % self.longest if self.uniform else self.longest

    def observation(self):
        place = 1.0 if self.x == self.end else float(torch.tensor(self.x) / (self.longest + 1))
        return [place, float(self.x == 0 and self.hint == LEFT), float(self.x == 0 and self.hint == RIGHT)]

    def good(self):
        return self.hint if self.x == self.end else FORWARD

    def step(self, action):
        self.time += 1
        if self.x < self.end:
            self.x += action == FORWARD
            return (0.0 if action == FORWARD else -0.01), False, False
        if action == FORWARD:
            return -0.01, False, False
        if action != self.hint:
            return -0.01, True, False
        self.walked, self.x = self.walked + 1, 0
        return 1.0, self.walked == self.n, self.walked == self.n


@pytest.mark.slow
@pytest.mark.parametrize(
    "options", [{}, {"corridors": 1, "length": 1}, {"corridors": 5, "length": 3, "uniform": False}]
)
def test_every_step_follows_the_rules(options):
    env = TMazeEndless(32, **options)
    env.limit = 10_000  # cut episodes are tested below
    successes, failures = follow(env, lambda draw: Endless(draw, **options), 10_000)
    assert min(successes, failures) >= 4


def test_rewards_by_hand():
    """Nothing for a step forward in the corridor, 1 for the right turn, -0.01 for a turn in the corridor, a wrong turn at the
    junction, and no turn there."""
    env = TMazeEndless(5, corridors=2, length=2, uniform=False)
    env.reset(seed=0)
    hint = env.oracle()  # steps forward, until the junction
    assert bool((hint == FORWARD).all())
    turns = torch.tensor([FORWARD, FORWARD, FORWARD, LEFT, RIGHT])
    assert env.step(turns)[1].tolist() == pytest.approx([0, 0, 0, -0.01, -0.01])
    assert env.step(torch.full((5,), FORWARD))[1].tolist() == [0.0] * 5
    right = env.oracle()
    at_junction = torch.tensor([True, True, True, False, False])
    assert (right != FORWARD).tolist() == at_junction.tolist()
    action = torch.stack([right[0], LEFT + RIGHT - right[1], torch.tensor(FORWARD), *right[3:]])
    _, reward, terminated, _, _ = env.step(action)
    assert reward.tolist() == pytest.approx([1.0, -0.01, -0.01, 0, 0])
    assert terminated.tolist() == [False, True, False, False, False]


def test_an_episode_is_cut_after_six_times_the_steps_that_it_may_need():
    env = TMazeEndless(2, corridors=2, length=3, uniform=False)
    env.reset(seed=0)
    for t in range(1, 6 * 4 * 2 + 1):
        _, reward, terminated, truncated, info = env.step(torch.tensor([LEFT, FORWARD]))
        assert not bool(terminated.any())
        assert truncated.tolist() == [t == 48] * 2
        assert torch.equal(info["_final_obs"], truncated)
    assert float(reward[0]) == -0.01
    assert env.state_dict()["t"].tolist() == [0, 0]


@pytest.mark.parametrize("corridors", [1, 2])
def test_no_policy_without_memory_exceeds_the_floor_and_the_oracle_reaches_the_ceiling(corridors):
    def solved(turn_of):
        """Success over all hints of a policy that walks to each junction and turns there as turn_of(its number) says."""
        wins = 0
        for hints in itertools.product((0, 1), repeat=corridors):
            game, over, success = (
                Endless(lambda i, hints=hints: hints[min(i, corridors - 1)], corridors, 1, False),
                False,
                False,
            )
            while not over:
                action = FORWARD if game.x < game.end else turn_of(game)
                _, over, success = game.step(action)
            wins += success
        return wins / 2**corridors

    without = max(solved(lambda game, side=side: side) for side in (LEFT, RIGHT))
    assert without == TMazeEndless(1, corridors=corridors).floor == 0.5**corridors
    assert solved(lambda game: game.hint) == TMazeEndless.ceiling == 1


def test_a_later_corridor_does_not_depend_on_how_the_ones_before_were_walked():
    shown = []
    for detour in (0, 3):
        env = TMazeEndless(1, corridors=4, length=2)
        obs, _ = env.reset(seed=3)
        seen = []
        for _ in range(detour):
            obs, *_ = env.step(torch.tensor([RIGHT if float(obs[0, 0]) < 1 else FORWARD]))
        for _ in range(6):
            seen.append(obs.tolist())
            obs, *_ = env.step(env.oracle())
        shown.append(seen)
    assert shown[0] == shown[1]


def test_distractors_change_no_cue_and_differ_between_steps_and_episodes():
    plain, noisy = TMaze(64, length=4), TMaze(64, length=4, distractors=True)
    a, b = plain.reset(seed=1)[0], noisy.reset(seed=1)[0]
    steps = []
    for _ in range(10):
        assert torch.equal(a, b[:, :2])
        assert noisy.single_observation_space.contains(b[0].numpy())
        steps.append(b[:, 2:])
        action = plain.oracle()
        a, b = plain.step(action)[0], noisy.step(action)[0]
    noise = torch.stack(steps)
    assert set(noise[..., :2].unique().tolist()) == {-1.0, 1.0}
    assert abs(float(noise[..., :2].mean())) < 4 / (2 * 640) ** 0.5
    assert float(noise[..., 2].min()) < -0.9 < 0.9 < float(noise[..., 2].max())
    assert len({tuple(row) for row in noise.flatten(0, 1).tolist()}) > 600


def test_the_games_of_the_reference_are_those_of_the_rows():
    game = episode(Endless, 7, 0)
    obs, _ = TMazeEndless(1).reset(seed=7)
    assert obs[0].tolist() == game.observation()
