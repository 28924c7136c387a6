"""The page is one file without network, escapes all text, and runs in a browser without an error."""

from __future__ import annotations

import base64
import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import rmt_rl
from rmt_rl.common.errors import ConfigError
from rmt_rl.play import main
from rmt_rl.policies.saving import save_policy
from rmt_rl.viewing import frames

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


def policy_of(name: str, task: str = "tmaze", env: dict[str, Any] | None = None, **options: Any) -> Any:
    return rmt_rl.make_policy(rmt_rl.make_env(task, 1, **(env or {})), name, seed=0, width=8, **options)


def data_of(page: Path) -> dict[str, Any]:
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', page.read_text(), re.S)
    assert found is not None
    loaded: dict[str, Any] = json.loads(found[1])
    return loaded


def test_a_page_is_one_file_that_needs_no_network(tmp_path: Path) -> None:
    page = rmt_rl.play(
        policy_of("rmt", segment=4, memory_update="gate"), "tmaze", tmp_path / "a.html", probe=16, **{"env.length": 5}
    )
    text, data = page.read_text(), data_of(page)
    assert not re.search(r"https?://|<script[^>]+src|<link[^>]+href=\"(?!data:)|@import|url\(", text)
    assert len(data["steps"]) == len(data["picture"]) == len(data["values"]) == 6
    assert data["writes"]["steps"] == [3] and len(data["writes"]["gate"][0]) == data["writes"]["tokens"] == 4
    assert data["probe"]["variables"][0]["values"] == ["down", "up"]
    attention = data["attention"]
    size = 6 * attention["layers"] * attention["heads"] * sum(attention["sizes"])
    assert len(base64.b64decode(attention["weights"])) == size
    assert all(picture.startswith("data:image/png;base64,") for picture in data["pictures"])
    assert [path.name for path in tmp_path.iterdir()] == ["a.html"]


#: Names of a task may hold anything, also half a surrogate pair.
NASTY = "</title></script><img src=x onerror=alert(1)>\u2028&amp;"


def hostile_maze(num_envs: int, device: Any) -> Any:
    env = rmt_rl.make_env("tmaze", num_envs, device)
    env.action_names = (f"{NASTY}\ud800",) * 4
    return env


def test_text_cannot_leave_its_place(tmp_path: Path) -> None:
    hostile_maze.__qualname__ = NASTY
    page = rmt_rl.play(policy_of("gru"), hostile_maze, tmp_path / "a.html", frames=2, probe=16)
    text, data = page.read_text(), data_of(page)
    assert "<img src=x" not in text and "\u2028" not in text.partition("<body>")[2]
    assert text.count("</script>") == 2 and text.count("</title>") == 1
    assert data["steps"][0]["action"] == f"{NASTY}?" and NASTY in data["title"]


@pytest.mark.parametrize(
    ("name", "task", "there", "absent"),
    [
        ("lstm", "tmaze", ("hidden", "probe"), ("attention", "writes")),
        ("window", "tmaze", ("attention", "probe"), ("hidden", "writes")),
        ("mlp", "tmaze", ("noMemory",), ("attention", "writes", "hidden", "probe")),
    ],
)
def test_a_page_has_the_parts_that_the_memory_has(
    name: str, task: str, there: tuple[str, ...], absent: tuple[str, ...], tmp_path: Path
) -> None:
    data = data_of(rmt_rl.play(policy_of(name), task, tmp_path / "a.html", frames=3, probe=16))
    assert all(data[part] for part in there) and not any(data[part] for part in absent)
    if name == "lstm":
        assert [group["name"] for group in data["hidden"]["groups"]] == ["hidden", "cell"]
        assert len(base64.b64decode(data["hidden"]["state"])) == 3 * 16
        assert "the episode goes on" in data["result"]


def test_continuous_actions_are_lines_instead_of_probabilities(tmp_path: Path) -> None:
    policy = policy_of("gru", "gym", {"id": "MountainCarContinuous-v0"})
    task = rmt_rl.make_config(env="gym", **{"env.id": "MountainCarContinuous-v0"}).env
    data = data_of(rmt_rl.play(policy, task, tmp_path / "a.html", frames=2))
    assert data["actions"]["names"] == [] and np.shape(data["actions"]["numbers"]) == (2, 1)
    assert data["probe"] is None and data["task"] == "MountainCarContinuous-v0"


def test_many_pictures_are_drawn_smaller(monkeypatch: pytest.MonkeyPatch) -> None:
    env = rmt_rl.make_env("tmaze", 1, length=9)
    obs, _ = env.reset(seed=0)
    drawn = frames.Frames(env)
    for _ in range(3):
        drawn.add(obs)
        obs, *_ = env.step(np.array([0]))
    drawn.add(obs), drawn.add(obs)
    assert drawn.order == [0, 1, 2, 3, 3] and len(drawn.uris()) == 4
    monkeypatch.setattr(frames, "MOST_BYTES", 6_000)
    assert sum(len(base64.b64decode(uri.partition(",")[2])) for uri in drawn.uris()) <= 6_000


def test_an_environment_object_has_rows_of_its_own(tmp_path: Path) -> None:
    env = rmt_rl.make_env("tmaze", 2)
    with pytest.raises(ConfigError, match="env=TMaze: is an object with rows of its own; expected a name"):
        rmt_rl.play(policy_of("gru"), env, tmp_path / "a.html")


@pytest.mark.slow
def test_the_command_writes_the_page_and_names_itself_in_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    save_policy(policy_of("rmt", segment=4), tmp_path / "policy")
    arguments = ["policy=policy", "env=tmaze", "env.length=4", "out=a.html", "probe=16"]
    assert main(arguments) == 0
    assert capsys.readouterr().out.splitlines()[-1] == "wrote a.html, 5 steps"
    assert data_of(tmp_path / "a.html")["command"] == f"python -m rmt_rl.play {' '.join(arguments)}"
    assert main(arguments) == 2
    assert "out=a.html: exists already and is not overwritten" in capsys.readouterr().err
    assert main([*arguments[:3], "out=nowhere/a.html"]) == 2
    assert "out=nowhere/a.html: cannot be written" in capsys.readouterr().err


def browse(page: Path, step: int, width: int) -> tuple[str, str]:
    """The page's document after it was opened at a step, and what the console said."""
    command = [str(CHROMIUM), "--headless", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr", "--v=0"]
    command += [f"--window-size={width},900", "--virtual-time-budget=2000", "--dump-dom", f"{page.as_uri()}#t={step}"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    return done.stdout, "\n".join(line for line in done.stderr.splitlines() if "CONSOLE" in line)


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="needs chromium")
@pytest.mark.parametrize("name", ["rmt", "lstm"])
def test_a_browser_shows_the_step_of_the_address_without_an_error(name: str, tmp_path: Path) -> None:
    options = {"segment": 4, "cache": 4, "positions": "rotary"} if name == "rmt" else {}
    page = rmt_rl.play(policy_of(name, **options), "tmaze", tmp_path / "a.html", probe=16)
    document, errors = browse(page, 7, 390 if name == "rmt" else 1280)
    assert errors == ""
    # 7: the present step, in the text, the slider and the read-out
    assert "step 7 / 10: action" in document and "After step 7 it says" in document
    sentence = data_of(page)["probe"]["variables"][0]["sentence"]
    assert sentence in document
    # the charts are drawn as wide as the window allows
    widths = [int(w) for w in re.findall(r'<canvas[^>]* width="(\d+)"', document)]
    assert len(widths) >= 6 and max(widths) <= 1240
