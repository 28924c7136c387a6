"""Pictures show what happened, and nothing is written where an option is wrong."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from matplotlib.text import Text
from minigrid.envs import DoorKeyEnv, MemoryEnv, RedBlueDoorEnv
from PIL import Image

from rmt_rl import config
from rmt_rl.config.registry import GROUPS
from rmt_rl.envs.drawing import draw
from rmt_rl.envs.minigrid.doors import DoorKey, RedBlueDoors
from rmt_rl.envs.minigrid.memory import MiniGridMemory
from rmt_rl.envs.registry import make_env, make_from_config
from rmt_rl.play import main
from rmt_rl.policies.actor_critic import ActorCritic
from rmt_rl.policies.saving import save_policy
from rmt_rl.policies.spec import make_spec
from rmt_rl.viewing.film import Choice, draw_step, policy_player, with_pixels


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def frames(path: Path) -> int:
    with Image.open(path) as image:
        return int(getattr(image, "n_frames", 1))


def shown_on(figure: Figure) -> np.ndarray:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="rgba")
    return np.frombuffer(buffer.getvalue(), dtype=np.uint8)


@pytest.mark.slow
@pytest.mark.parametrize("name", GROUPS["env"])
def test_every_task_has_a_picture_that_changes_with_what_happens(name: str) -> None:
    env = make_env(name, 1)
    obs, _ = env.reset(seed=1)
    env.single_action_space.seed(1)  # otherwise one run in thirty never moves
    pictures = []
    for _ in range(12):
        figure = Figure(figsize=(3, 2))
        draw(figure.add_subplot(), env, obs)
        pictures.append(shown_on(figure).tobytes())
        obs, *_ = env.step(torch.from_numpy(np.asarray(env.single_action_space.sample()))[None])
    assert len(set(pictures)) > 1


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (MiniGridMemory(1, size=9, view=7, actions=7), MemoryEnv(size=9)),
        (MiniGridMemory(1, size=13, random=True), MemoryEnv(size=13, random_length=True)),
        (DoorKey(1, size=6), DoorKeyEnv(size=6)),
        (RedBlueDoors(1, size=6), RedBlueDoorEnv(size=6)),
    ],
)
def test_the_drawn_world_is_that_of_minigrid(ours: Any, theirs: Any) -> None:
    rng = np.random.default_rng(0)
    ours.reset(seed=4)
    theirs.reset(seed=4)
    for _ in range(40):
        world, place, direction = ours.world(0)
        np.testing.assert_array_equal(world, theirs.grid.encode())
        assert (place, direction) == (tuple(int(v) for v in theirs.agent_pos), theirs.agent_dir)
        action = int(rng.integers(min(6, int(ours.single_action_space.n))))
        *_, terminated, truncated, _ = ours.step(torch.tensor([action]))
        theirs.step(action)
        if bool(terminated | truncated):
            theirs.reset()


@pytest.mark.slow
def test_a_random_episode_is_as_long_as_the_task_says(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["env=tmaze", "env.length=6", "episodes=2"]) == 0
    assert frames(folder / "play-tmaze-s0.gif") == 2 * (7 + 1)  # seven steps, and the last one again with the result
    output = capsys.readouterr().out
    assert "episode 2 ended after 7 steps: return" in output
    assert output.splitlines()[-1] == "wrote play-tmaze-s0.gif, 16 frames"


def test_the_same_command_again_takes_another_name(folder: Path) -> None:
    for _ in range(3):
        assert main(["env=tmaze", "frames=2"]) == 0
    assert sorted(path.name for path in folder.iterdir()) == [f"play-tmaze-s0{i}.gif" for i in ("-2", "-3", "")]


@pytest.mark.slow
@pytest.mark.parametrize("policy_config", [config.RMTConfig(), config.LSTMConfig()])
def test_a_policy_is_drawn_with_its_probabilities_and_attention(policy_config: Any, folder: Path) -> None:
    task = config.TMazeConfig(length=4)
    env = make_from_config(task, 1)
    torch.manual_seed(0)
    policy = ActorCritic(make_spec(env, task, policy_config))
    player, state = policy_player(policy, 0, True), policy.initial_state(1)
    obs, _ = env.reset(seed=0)
    first = torch.ones(1, dtype=torch.bool)
    for _ in range(5):
        choice = player(obs, first)
        with torch.no_grad():
            np.testing.assert_allclose(
                choice.probabilities, policy.step(obs, state, first)[0].softmax(-1)[0], rtol=1e-6
            )
        action, state = policy.act(obs, state, first, deterministic=True)
        assert torch.equal(choice.action, action)
        if policy_config.name == "rmt":
            assert choice.columns == (policy_config.memory_tokens, policy_config.cache, policy_config.segment)
            assert choice.attention is not None and choice.attention.shape[1] == sum(choice.columns)
            np.testing.assert_allclose(choice.attention.sum(1), 1.0, rtol=1e-5)
        else:
            assert choice.attention is None
        obs, _, terminated, _, _ = env.step(action)
        first = terminated
    save_policy(policy, folder / "policy")
    assert main([f"policy={folder / 'policy'}", "env.length=7", "out=a.gif"]) == 0
    assert frames(folder / "a.gif") == 9


def test_actions_can_be_typed_in_the_terminal(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], folder: Path
) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("0\n9\nx\n1\n\n0\n"))
    assert main(["env=tmaze", "policy=human-keys", "out=mine.gif"]) == 0
    output = capsys.readouterr().out
    assert "a new episode: you see [" in output and output.count("expected a number from 0 to 3") == 2
    assert frames(folder / "mine.gif") == 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["policy=random"], "env: missing; policy=random was not trained on a task"),
        (["env=tmaze", "fps=0.0001"], "fps=0.0001: expected a number, at least 0.1"),
        (
            ["env=tmaze", "fps=60"],
            "fps=60.0: a GIF counts in hundredths of a second, and viewers slow down; expected at most 50",
        ),
        (["env=tmaze", "out=a.png"], "out=a.png: expected the path of a new .gif, .mp4 or .html file"),
        (["env=tmaze", "out=nowhere/a.gif"], "out=nowhere/a.gif: cannot be written"),
        (["env=tmaze", "out=taken.gif"], "out=taken.gif: exists already and is not overwritten"),
        (["env=tmaze", "out=a.html"], "out=a.html: a page shows the memory of a trained policy; expected policy="),
        (["policy=nowhere", "out=a.html", "episodes=2"], "episodes=2: a page shows one episode; expected episodes=1"),
        (["env=tmaze", "probe=20"], "probe=20: has no effect without a page; expected out=<the path of an .html file>"),
        (["env=tmaze", "env.lenght=3"], "did you mean env.length?"),
        (["policy=nowhere", "env=tmaze"], "nowhere"),
        (["env=gym", "env.id=Pendulum-v1", "policy=human-keys"], "needs actions that are numbers"),
        (["env=gym", "env.id=Nothing-v0"], "env.id=Nothing-v0: is not registered with gymnasium"),
    ],
)
def test_a_mistake_is_reported_in_one_line_and_leaves_no_file(
    arguments: list[str], message: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "taken.gif").write_text("mine")
    assert main(arguments) == 2
    error = capsys.readouterr().err
    assert message in error and error.startswith("error: ") and error.count("\n") == 1
    assert [path.name for path in folder.iterdir()] == ["taken.gif"]
    assert (folder / "taken.gif").read_text() == "mine"


def test_mp4_without_ffmpeg_is_rejected(
    monkeypatch: pytest.MonkeyPatch, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("matplotlib.animation.FFMpegWriter.isAvailable", lambda: False)
    assert main(["env=tmaze", "out=a.mp4"]) == 2
    assert "needs ffmpeg, which is not installed; expected a name that ends in .gif" in capsys.readouterr().err
    assert not list(folder.iterdir())


def test_a_gymnasium_environment_draws_itself() -> None:
    env = make_env("gym", 1, id="CartPole-v1", options={"render_mode": "rgb_array"})
    obs, _ = env.reset(seed=0)
    axes = Figure().add_subplot()
    draw(axes, env, obs)
    assert len(axes.images) == 1 and isinstance(env.single_action_space, gymnasium.spaces.Discrete)


def test_nothing_is_written_where_no_step_was_played(
    monkeypatch: pytest.MonkeyPatch, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO(""))
    assert main(["env=tmaze", "policy=human-keys"]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == "no step was played, nothing was written"
    assert not list(folder.iterdir())


def test_minigrid_through_gymnasium_draws_itself_too(folder: Path) -> None:
    assert with_pixels(config.GymConfig(id="MiniGrid-Empty-5x5-v0")).options == {"render_mode": "rgb_array"}
    assert main(["env=gym", "env.id=MiniGrid-Empty-5x5-v0", "frames=2", "out=m.gif"]) == 0
    assert frames(folder / "m.gif") == 2


@pytest.mark.slow
def test_a_trial_is_called_trial_and_keeps_the_names_of_actions(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    task, memory = config.TMazeConfig(length=3), config.MemoryConfig(scope="trial", episodes=2)
    env = make_from_config(task, 1, memory=memory)
    assert env.action_names == ("right", "up", "left", "down")
    save_policy(ActorCritic(make_spec(env, task, config.LSTMConfig(width=8), memory)), folder / "policy")
    assert main([f"policy={folder / 'policy'}", "out=t.gif"]) == 0
    assert "trial 1 ended after 8 steps" in capsys.readouterr().out


@pytest.mark.parametrize(
    "name", ["copy", "associative-retrieval", "detect", "reasoning", "repeat-first", "repeat-previous", "memory-len"]
)
def test_a_picture_of_a_question_shows_the_right_answer(name: str) -> None:
    env = make_env(name, 1)
    env.reset(seed=2)
    last, seen, successes = "", set(), 0
    for _ in range(200):
        answer = env.oracle()
        last = env.in_words(0)
        seen.add(last)
        *_, info = env.step(answer)
        if bool(info["_final_obs"]):  # the question was the last observation
            successes += int(info["success"])
            assert last.endswith((env.action_names or ("0", "1", "2", "3", "4", "5"))[int(answer)])
    assert successes > 2 and len(seen) > 4


def test_the_text_under_a_picture_counts_the_episodes_inside_a_trial() -> None:
    room, maze = make_env("dark-room", 1, episodes=2), make_env("tmaze-trial", 1, length=2, episodes=2)
    room.reset(seed=0), maze.reset(seed=0)
    walks, moves = [], []
    for _ in range(22):
        moves.append(room.in_words(0))
        walks.append(maze.in_words(0))
        room.step(torch.tensor([4])), maze.step(torch.tensor([0]))
    assert walks[:7] == ["walk 1 of 2"] * 3 + ["walk 2 of 2"] * 3 + ["walk 1 of 2"]
    assert moves[0] == "inner episode 1 of 2, 0 of 20 moves made; goal not found yet"
    assert moves[20].startswith("inner episode 1 of 2, 20 of 20") and moves[21].startswith(
        "inner episode 2 of 2, 0 of 20 moves"
    )


def test_the_title_names_the_next_action(monkeypatch: pytest.MonkeyPatch) -> None:
    titles: list[str] = []
    monkeypatch.setattr("matplotlib.figure.Figure.suptitle", lambda self, text, **kwargs: titles.append(text))
    assert main(["env=repeat-first", "frames=3"]) == 0
    assert main(["env=gym", "env.id=Pendulum-v1", "frames=3"]) == 0
    assert [title.split("next: ")[1] in ("spades", "diamonds", "clubs", "hearts") for title in titles[:3]] == [True] * 3
    assert titles[3].split("next: ")[1][0] == "["


@pytest.mark.slow
def test_the_terminal_lists_the_actions_and_does_not_print_the_numbers_of_a_picture(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("0\n\n"))
    assert main(["env=minigrid-memory", "env.tile=28", "policy=human-keys", "out=a.gif"]) == 0
    output = capsys.readouterr().out
    assert "(84, 84, 3) numbers" in output and len(output) < 2_000
    monkeypatch.setattr("sys.stdin", io.StringIO("0\n\n"))
    assert main(["env=bandit", "policy=human-keys", "out=b.gif"]) == 0
    assert "; 0 arm 1, 1 arm 2, 2 arm 3, 3 arm 4, 4 arm 5; an empty line ends the game" in capsys.readouterr().out


@pytest.mark.parametrize("name", ["tmaze-trial", "dark-room", "associative-retrieval"])
def test_no_label_of_a_picture_is_cut_off_and_all_are_legible(name: str) -> None:
    env = make_env(name, 1)
    obs, _ = env.reset(seed=0)
    names = env.action_names
    choice = Choice(torch.tensor([0]), np.full(len(names), 1 / len(names)), np.full((4, 12), 0.1), (4, 0, 8))
    figure = Figure(figsize=(8, 4), dpi=90, layout="constrained")
    draw_step(figure, env, obs, choice, f"trial 1000, step 1000, return -1000.00; next: {'a long name ' * 8}")
    figure.savefig(io.BytesIO(), format="rgba")
    # every part of the figure with its labels, and the sentence above
    boxes = [axes.get_tightbbox() for axes in figure.axes] + [
        figure.get_tightbbox().transformed(figure.dpi_scale_trans)
    ]
    assert len(boxes) == 4
    for box in boxes:
        assert box.x0 >= -1 and box.x1 <= 721 and box.y0 >= -1 and box.y1 <= 361
    texts = [text for text in figure.findobj(Text) if text.get_text().strip()]
    assert len(texts) > 8 and min(text.get_fontsize() for text in texts) >= 10


class Camera(gymnasium.Env[Any, Any]):
    """Returns a red picture and a number, and has no render mode."""

    observation_space = gymnasium.spaces.Dict(
        number=gymnasium.spaces.Discrete(3), picture=gymnasium.spaces.Box(0, 255, (20, 24, 3), np.uint8)
    )
    action_space = gymnasium.spaces.Discrete(2)

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        return {"number": 1, "picture": np.full((20, 24, 3), (255, 0, 0), np.uint8)}, {}

    def step(self, action: Any) -> Any:
        return self.reset()[0], 0.0, False, False, {}


def test_pixels_that_the_agent_sees_are_drawn_as_a_picture(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(
        gymnasium.registry, "Camera-v0", gymnasium.envs.registration.EnvSpec("Camera-v0", entry_point=Camera)
    )
    env = make_env("gym", 1, id="Camera-v0")
    axes = Figure().add_subplot()
    draw(axes, env, env.reset(seed=0)[0])
    assert axes.images[0].get_array().shape == (20, 24, 3) and not axes.texts
