"""Pictures show the hidden state where it is: positions, colours and texts by hand, and minigrid's own pictures."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from matplotlib.axes import Axes
from matplotlib.colors import to_rgba
from matplotlib.figure import Figure
from minigrid.envs import DoorKeyEnv, MemoryEnv
from pure_python import bits

from rmt_rl.common.errors import ConfigError
from rmt_rl.config.commands import ReturnConditioning
from rmt_rl.config.memory import MemoryConfig
from rmt_rl.envs.base import TorchVectorEnv
from rmt_rl.envs.drawing import draw, picture, snapshot, text
from rmt_rl.envs.minigrid.doors import DoorKey
from rmt_rl.envs.minigrid.memory import MiniGridMemory
from rmt_rl.envs.registry import make_env
from rmt_rl.envs.tasks.bandit import Bandit
from rmt_rl.envs.tasks.dark_room import DarkRoom
from rmt_rl.envs.tmaze.endless import TMazeEndless
from rmt_rl.envs.tmaze.passive import TMaze
from rmt_rl.envs.tmaze.variants import TMazeActive
from rmt_rl.envs.wrappers.return_to_go import ReturnToGo

FREE, GREEN, BLUE, RED = (to_rgba(color) for color in ("0.88", "tab:green", "tab:blue", "tab:red"))


def drawn(env: Any, obs: Any) -> Axes:
    axes = Figure().add_subplot()
    draw(axes, env, obs)
    return axes


def in_state(env: Any, **entries: int) -> Axes:
    """The picture of a task whose row 0 is in a state with these entries."""
    env.reset(seed=1)
    env.load_state_dict(env.state_dict() | {name: torch.tensor([value]) for name, value in entries.items()})
    obs = env._observe(env._state) if hasattr(env, "_state") else env._observe()
    return drawn(env, obs)


def shapes(axes: Axes) -> list[Any]:
    """(left, bottom, width, height, colour) of every rectangle."""
    return [
        (*(round(float(number), 6) for number in patch.get_bbox().bounds), patch.get_facecolor())  # type: ignore[attr-defined]
        for patch in axes.patches
    ]


def marks(axes: Axes) -> list[Any]:
    """(x, y, form, colour) of every mark."""
    return [(*line.get_xydata()[0].tolist(), line.get_marker(), to_rgba(line.get_color())) for line in axes.lines]  # type: ignore[index]


@pytest.mark.parametrize(
    ("env", "state", "expected"),
    [
        # the junction is at x = 3; a corridor up to x = 3.5 of height 0.5, arms of width 1 beside it
        (
            TMaze(1, length=3),
            {"goal": 1, "length": 3, "x": 3, "y": -1, "t": 4},
            [
                [(-0.5, -0.25, 4, 0.5, FREE), (2.5, 0.25, 1, 0.5, GREEN), (2.5, -0.75, 1, 0.5, FREE)],
                [(3, -0.5, "o", BLUE)],
                [(-1, 4), (-1, 1)],
            ],
        ),
        # the corridor of an active maze is one cell longer
        (
            TMazeActive(1, length=3),
            {"goal": -1, "length": 3, "x": 2, "y": 0, "t": 1},
            [
                [(-0.5, -0.25, 5, 0.5, FREE), (3.5, 0.25, 1, 0.5, FREE), (3.5, -0.75, 1, 0.5, GREEN)],
                [(2, 0, "o", BLUE)],
                [(-1, 5), (-1, 1)],
            ],
        ),
        # a long one is a twelfth of its length high, its arms are 4 % of it wide, its margins 5 %
        (
            TMaze(1, length=60),
            {"goal": 1, "length": 60, "x": 60, "y": 1, "t": 61},
            [
                [(-0.5, -2.5, 61, 5, FREE), (58.1, 2.5, 2.4, 5, GREEN), (58.1, -7.5, 2.4, 5, FREE)],
                [(60, 5, "o", BLUE)],
                [(-3, 63), (-10, 10)],
            ],
        ),
    ],
)
def test_a_maze_shows_the_corridor_the_correct_arm_and_the_agent(env: Any, state: Any, expected: Any) -> None:
    axes = in_state(env, **state)
    assert [shapes(axes), marks(axes), [axes.get_xlim(), axes.get_ylim()]] == expected
    assert list(axes.get_yticks()) == []
    assert all(tick == int(tick) for tick in axes.get_xticks())


@pytest.mark.parametrize("side", ["left", "right"])
def test_an_endless_maze_shows_the_corridor_of_the_agent_with_left_as_the_upper_arm(side: str) -> None:
    env = TMazeEndless(1, corridors=4, length=3, uniform=False)
    env.reset(seed=1)
    corridor = next(i for i in range(4) if ["left", "right"][bits(bits(1, 0), i) % 2] == side)
    axes = in_state(env, corridor=corridor, x=2, t=9)
    upper, lower = (GREEN, FREE) if side == "left" else (FREE, GREEN)
    arms = [(2.5, 0.25, 1, 0.5, upper), (2.5, -0.75, 1, 0.5, lower)]
    assert shapes(axes) == [(-0.5, -0.25, 4, 0.5, FREE), *arms]
    assert marks(axes) == [(2, 0, "o", BLUE)]
    said = f"corridor {corridor + 1} of 4; the agent observes [0.5 0. 0. ] green: the correct arm, left is up"
    assert " ".join(axes.get_xlabel().split()) == said


def test_a_room_shows_the_cubes_in_their_colors_the_framed_target_and_the_agent() -> None:
    env = make_env("color-cubes", 1, size=4, cubes=2, phases=3)
    state: Any = {"place": [1, 11], "target": 1, "agent": 12, "phase": 1, "told": False, "moved": True}
    axes = in_state(env, **state)
    red, green, black = to_rgba("tab:red"), to_rgba("tab:green"), to_rgba("black")
    # row 0 is at the top: cell 1 is the second of the first row, 11 the last of the third, 12 the first of the last
    assert marks(axes) == [(1, 3, "s", red), (3, 1, "s", green), (3, 1, "s", black), (0, 0, "o", black)]
    said = "phase 2 of 3; the target is green (framed) the agent sees all cubes"
    assert " ".join(axes.get_xlabel().split()) == said


def test_a_maze_counts_its_cells_in_whole_numbers() -> None:
    ticks = in_state(TMaze(1, length=1), goal=1, length=1, x=0, y=0, t=0).get_xticks()
    assert len(ticks) >= 2 and all(tick == int(tick) for tick in ticks)


def test_the_text_under_a_maze_says_what_the_agent_observes_and_the_walk_of_a_trial() -> None:
    state = {"goal": 1, "length": 2, "x": 2, "y": -1}
    assert (
        in_state(TMaze(1, length=2), t=3, **state).get_xlabel()
        == "the agent observes [ 1. -1.]\ngreen: the correct arm"
    )
    label = in_state(make_env("tmaze-trial", 1, length=2, episodes=3), t=3, **state).get_xlabel()
    assert " ".join(label.split()) == "walk 2 of 3; the agent observes [ 1. -1. 1.] green: the correct arm"


def test_a_dark_room_shows_its_cells_the_goal_and_the_agent() -> None:
    axes = in_state(DarkRoom(1, episodes=2), goal_x=2, goal_y=7, x=5, y=0, t=4)
    assert marks(axes) == [(2, 7, "s", GREEN), (5, 0, "o", BLUE)]
    assert (axes.get_xlim(), axes.get_ylim(), axes.get_aspect()) == ((-0.5, 8.5), (-0.5, 8.5), 1.0)
    # nine cells a side, with a line between them
    for ticks, lines in ((axes.get_xticks(), axes.get_xgridlines()), (axes.get_yticks(), axes.get_ygridlines())):
        assert list(ticks)[:9] == [i + 0.5 for i in range(9)] and all(line.get_visible() for line in lines)
    assert [label.get_text() for label in (*axes.get_xticklabels(), *axes.get_yticklabels())] == [""] * 18
    said = "inner episode 1 of 2, 4 of 20 moves made; goal not found yet green: the goal (hidden)"
    assert " ".join(axes.get_xlabel().split()) == said


def test_a_bandit_shows_the_hidden_chances_and_whether_the_last_arm_paid() -> None:
    for arm, paid, colors in (
        (0, 0, [FREE, FREE, FREE]),
        (3, 1, [FREE, FREE, GREEN]),
        (1, 0, [RED, FREE, FREE]),
    ):
        axes = in_state(Bandit(1, arms=3, length=9), arm=arm, paid=paid, t=1)
        key = bits(1, 0)  # of the first episode of seed 1
        heights = [round(bits(key, i) / 2**63, 6) for i in range(3)]
        assert shapes(axes) == [
            (i + 0.6, 0, 0.8, height, color) for i, (height, color) in enumerate(zip(heights, colors, strict=True))
        ]
        assert axes.get_ylim() == (0, 1) and all(tick == int(tick) for tick in axes.get_xticks())
    said = "pull 2 of 9\narm (the last one: green = paid, red = did not pay)"
    assert (axes.get_xlabel(), axes.get_ylabel()) == (said, "payout probability (hidden)")


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (MiniGridMemory(1, size=9, view=7, actions=7), MemoryEnv(size=9)),
        (MiniGridMemory(1, size=7, view=3, actions=7), MemoryEnv(size=7, agent_view_size=3)),
        (DoorKey(1, size=6), DoorKeyEnv(size=6)),
    ],
)
def test_a_picture_of_minigrid_is_its_own_with_the_cells_that_the_agent_sees_lit(ours: Any, theirs: Any) -> None:
    obs, _ = ours.reset(seed=4)
    theirs.reset(seed=4)
    rng = np.random.default_rng(1)
    for _ in range(6):
        axes = drawn(ours, obs)
        np.testing.assert_array_equal(axes.images[0].get_array(), theirs.get_frame(highlight=True, tile_size=24))
        assert not axes.axison
        action = int(rng.integers(3))
        obs, _, terminated, truncated, _ = ours.step(torch.tensor([action]))
        theirs.step(action)
        assert not bool(terminated | truncated)


def test_a_missing_minigrid_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    env = MiniGridMemory(1)
    obs, _ = env.reset(seed=0)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"drawing this task: the package minigrid is not installed; pip install"):
        drawn(env, obs)


class Shows(TorchVectorEnv):
    """A task without a picture of its own: `draw` shows its frame, a picture in the observation, or its numbers."""

    def __init__(self, frames: Any = None, words: str = "") -> None:
        super().__init__(2, "cpu", gymnasium.spaces.Discrete(2), gymnasium.spaces.Discrete(2))
        self.frames, self.words = frames, words
        self.render_mode = None if frames is None else "rgb_array"

    def render(self) -> Any:
        return self.frames

    def in_words(self, row: int) -> str:
        return self.words if row == 0 else "another row"


def filled(*shape: int, value: Any = 7, dtype: Any = np.uint8) -> np.ndarray:
    return np.full(shape, value, dtype)


@pytest.mark.parametrize(
    ("frames", "shown"),
    [
        ((filled(4, 6, 3), filled(4, 6, 3, value=9)), filled(4, 6, 3)),  # that of row 0
        ([filled(4, 6, 4)], filled(4, 6, 4)),
        ([filled(4, 6)], filled(4, 6)),
        ([filled(4, 6, 1)], filled(4, 6)),
        ([filled(4, 6, 3, value=0.5, dtype=float)], filled(4, 6, 3, value=0.5, dtype=float)),
        ([[filled(4, 6, 3), filled(4, 6, 3, value=9)]], filled(4, 6, 3, value=9)),  # the newest since the last call
        ([[]], None),
        ([], None),
        (filled(2, 4, 6, 3), None),  # no list with a frame of each row
        (["text"], None),
        ([filled(4, 6, 2)], None),
        ([filled(4, 0, 3)], None),
        ([filled(4)], None),
        ([filled(4, 6, value="a", dtype="U1")], None),
    ],
)
def test_a_frame_is_shown_where_it_is_a_picture_and_the_observation_elsewhere(frames: Any, shown: Any) -> None:
    axes = drawn(Shows(frames), torch.tensor([3, 4]))
    assert (len(axes.images), len(axes.texts), axes.axison) == (shown is not None, 0 if shown is not None else 2, False)
    if shown is not None:
        np.testing.assert_array_equal(np.squeeze(axes.images[0].get_array()), shown)


@pytest.mark.parametrize(
    ("shape", "dtype", "is_picture"),
    [
        ((2, 16, 20, 3), torch.uint8, True),
        ((2, 20, 16, 1), torch.uint8, True),
        ((2, 15, 20, 3), torch.uint8, False),  # too small to be looked at
        ((2, 20, 15, 3), torch.uint8, False),
        ((2, 16, 20, 4), torch.uint8, False),  # stacked
        ((2, 16, 20, 3), torch.int64, False),
        ((2, 20, 20), torch.uint8, False),
    ],
)
def test_an_observation_is_a_picture_where_people_can_look_at_it(shape: Any, dtype: Any, is_picture: bool) -> None:
    seen = torch.arange(2)[:, None].expand(2, int(np.prod(shape[1:]))).reshape(shape).to(dtype) + 100
    for obs in (seen, {"number": torch.tensor([3, 4]), "picture": seen}):
        axes = drawn(Shows(), obs)
        assert len(axes.images) == is_picture and bool(axes.texts) != is_picture and not axes.axison
        if is_picture:
            image = axes.images[0]
            grey = shape[-1] == 1
            np.testing.assert_array_equal(image.get_array(), np.full(shape[1:3] if grey else shape[1:], 100))
            # 100 of 255 is dark grey, also where every pixel is 100
            assert image.get_clim() == (0, 255) and (image.get_cmap().name == "gray") == grey


def lines_of(axes: Axes) -> list[str]:
    return [str(found.get_text()) for found in axes.texts]


def test_numbers_are_written_in_a_font_that_fits_and_cut_where_they_are_many() -> None:
    def names(count: int) -> dict[str, torch.Tensor]:
        return {f"n{i}": torch.tensor([i, 9]) for i in range(count)}

    for count, size in ((3, 13), (4, 10), (11, 10), (12, 10)):
        words, said = drawn(Shows(), names(count)).texts
        lines = ["the agent observes", *(f"n{i} {i}" for i in range(min(count, 11))), *["…"] * (count > 11)]
        assert said.get_text().splitlines() == lines and said.get_fontsize() == size
        assert words.get_text() == "" and said.get_position() == (0.5, 0.5)
        assert (said.get_va(), said.get_ha()) == ("center", "center")
    for length in (52, 52 + 1):
        name = "a" * (length - 2)
        line = lines_of(drawn(Shows(), {name: torch.tensor([1, 2])}))[1].splitlines()[1]
        assert line == (f"{name} 1" if length == 52 else "a" * (52 - 1) + "…")


def test_the_words_of_a_task_stand_above_the_numbers() -> None:
    said = "one line of 28 characters: a the question; the answer is a cue"
    above, below = drawn(Shows(words=said), torch.tensor([0, 1])).texts
    assert above.get_text().splitlines() == ["one line of 28 characters: a the", "question", "the answer is a cue"]
    assert (above.get_position(), above.get_va(), above.get_ha()) == ((0.5, 0.6), "bottom", "center")
    assert (below.get_position(), below.get_va(), below.get_ha()) == ((0.5, 0.5), "top", "center")
    assert below.get_text() == "the agent observes\n0"


def test_a_dollar_in_words_and_numbers_is_a_dollar() -> None:
    axes = drawn(Shows(words="it costs $1"), {"$a$": torch.tensor([1, 2])})
    assert not any(found.get_parse_math() for found in axes.texts)


def test_numbers_have_two_digits_and_long_ones_are_left_out_in_the_middle() -> None:
    seen = lines_of(drawn(Shows(), torch.tensor([[0.123456, 1e-9, 2.0], [1, 1, 1]])))[1]
    assert seen == "the agent observes\n[0.12 0.   2.  ]"
    assert "..." in lines_of(drawn(Shows(), torch.zeros(2, 61)))[1]
    assert "..." not in lines_of(drawn(Shows(), torch.zeros(2, 60)))[1]


def test_wrappers_are_drawn_as_what_is_inside() -> None:
    env = ReturnToGo(
        make_env("tmaze", 1, length=3, memory=MemoryConfig(scope="trial", episodes=2)), ReturnConditioning(target=1.0)
    )
    obs, _ = env.reset(seed=1)
    inner = TMaze(1, length=3)
    seen = drawn(inner, inner.reset(seed=1)[0])
    axes = drawn(env, obs)
    assert (shapes(axes), marks(axes)) == (shapes(seen), marks(seen))
    assert "return_to_go" not in axes.get_xlabel()


def test_pixels_are_drawn_as_the_world_that_they_show() -> None:
    env, plain = make_env("minigrid-memory", 1, tile=4), make_env("minigrid-memory", 1)
    shown, expected = (drawn(each, each.reset(seed=1)[0]).images[0].get_array() for each in (env, plain))
    np.testing.assert_array_equal(shown, expected)


def test_a_snapshot_shows_the_state_in_which_it_was_taken_and_leaves_the_present_one() -> None:
    env = DarkRoom(1, episodes=2)
    obs, _ = env.reset(seed=0)
    kept = snapshot(env, obs)
    before = text(kept, "a title").splitlines()
    assert before[0] == "a title" and before[1].startswith("inner episode 1 of 2, 0 of 20 moves made")
    assert before[2] == "the agent observes [4 4 1 0]"
    early = picture(kept, "a title", (320, 240))
    assert early.shape == (240, 320, 3) and early.dtype == np.uint8
    for _ in range(3):
        obs, *_ = env.step(torch.tensor([0]))
    present = env.state_dict()
    assert text(kept, "a title").splitlines() == before
    np.testing.assert_array_equal(picture(kept, "a title", (320, 240)), early)
    assert not np.array_equal(picture(snapshot(env, obs), "a title", (320, 240)), early)
    assert not np.array_equal(picture(kept, r"$\nothing$", (320, 240)), early)
    assert all(torch.equal(present[name], value) for name, value in env.state_dict().items())
    maze = TMaze(1, length=3)  # has no words
    obs, _ = maze.reset(seed=1)
    assert len(text(snapshot(maze, obs), "t").splitlines()) == 2
