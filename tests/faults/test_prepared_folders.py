"""Links, pipes and leftovers in the folder of a run: nothing outside it is written, and nothing waits forever."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import pytest

import rmt_rl
from rmt_rl.common.files import make_folder, open_to_append, read_bytes, remove, write_file
from rmt_rl.config.cli import parse
from rmt_rl.runs.plots import learning_curve

SMALL: dict[str, Any] = {
    "env": "tmaze",
    "policy": "mlp",
    "steps": 384,
    "checkpoint_steps": 96,
    "evaluate_episodes": 2,
    "run": "run",
    "env.length": 3,
    "algo.num_envs": 8,
    "algo.rollout": 12,
    "algo.minibatches": 2,
    "policy.width": 16,
}


class Killed(Exception):
    """Stands for the death of the process."""


class DieAfter:
    """A callback that ends the run in its third update, after two checkpoints."""

    def on_update(self, run: Any) -> None:
        if run.steps >= 288:
            raise Killed


@pytest.fixture(scope="module")
def killed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("runs")
    with pytest.raises(Killed):
        rmt_rl.train(root=root, callbacks=[DieAfter()], **SMALL)
    return root / "run"


@pytest.fixture
def run(killed: Path, tmp_path: Path) -> Path:
    """A copy of the run, beside a folder `victim` whose contents must stay."""
    (tmp_path / "victim").mkdir()
    (tmp_path / "victim/file").write_text("precious")
    return Path(shutil.copytree(killed, tmp_path / "run"))


def resume(run: Path) -> Any:
    return rmt_rl.train(parse([f"resume={run}"]))


def rejection(run: Path) -> str:
    """The message of a resume that changes nothing."""
    before = {path: path.lstat().st_mtime_ns for path in run.rglob("*") if path.name != ".lock"}
    with pytest.raises(rmt_rl.ConfigError) as caught:
        resume(run)
    assert before == {path: path.lstat().st_mtime_ns for path in run.rglob("*") if path.name != ".lock"}
    assert str(caught.value).isprintable()
    return str(caught.value)


def victim_is_unchanged(run: Path) -> bool:
    victim = run.parent / "victim"
    return os.listdir(victim) == ["file"] and (victim / "file").read_text() == "precious"


@pytest.mark.parametrize("name", ["report", "tensorboard", "videos", "wandb", "checkpoints", "policy", "best"])
def test_a_link_in_place_of_a_folder_is_not_followed(name: str, run: Path) -> None:
    remove(run / name)
    (run / name).symlink_to(run.parent / "victim")
    assert f"{name}: is a link" in rejection(run)
    assert victim_is_unchanged(run)


@pytest.mark.parametrize("name", [".lock", "metrics.jsonl", "config.yaml", "result.json", ".result.json"])
@pytest.mark.parametrize("kind", ["link", "pipe", "folder"])
def test_only_a_regular_file_is_used_in_place_of_a_file(kind: str, name: str, run: Path) -> None:
    remove(run / name)
    if kind == "link":
        (run / name).symlink_to(run.parent / "victim/file")
    elif kind == "pipe":
        os.mkfifo(run / name)
    else:
        (run / name).mkdir()
    assert name in rejection(run)
    assert victim_is_unchanged(run)


@pytest.mark.parametrize("name", ["report", "tensorboard", "videos", "wandb", "policy", "best"])
def test_a_file_in_place_of_a_folder_is_reported_before_the_run_goes_on(name: str, run: Path) -> None:
    (run / name).touch()
    assert f"{name}: is no folder" in rejection(run)


@pytest.mark.parametrize("name", ["metrics.jsonl", ".lock"])
def test_a_file_that_is_changed_in_place_has_one_name(name: str, run: Path) -> None:
    os.link(run / name, run.parent / "victim/other")
    assert f"{name}: is one of 2 names of the same file (hard links)" in rejection(run)


@pytest.mark.slow
@pytest.mark.parametrize("target", ["link", "pipe", "hard link"])
def test_files_of_the_end_of_a_run_replace_what_has_their_names(target: str, run: Path) -> None:
    victim = run.parent / "victim/file"
    for name in ("report/learning_curve.png", "policy/model.safetensors", "policy/.new-x", "policy/sha256.json"):
        (run / name).parent.mkdir(exist_ok=True)
        if target == "link":
            (run / name).symlink_to(victim)
        elif target == "pipe":
            os.mkfifo(run / name)
        else:
            os.link(victim, run / name)
    folder = resume(run).folder
    assert victim_is_unchanged(run)
    assert (folder / "report/learning_curve.png").read_bytes().startswith(b"\x89PNG")
    rmt_rl.load_policy(folder)
    assert not list((folder / "policy").glob(".new-*"))


@pytest.mark.slow
def test_leftovers_of_any_kind_do_not_stop_later_checkpoints(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    victim = run.parent / "victim"
    (run / "checkpoints/.old-1").symlink_to(victim)
    (run / "checkpoints/.new-file").touch()
    os.mkfifo(run / "checkpoints/.new-pipe")
    (run / "checkpoints/.new-2").mkdir()
    (run / "checkpoints/.new-2/inner").symlink_to(victim)
    resume(run)
    assert "was not written" not in capsys.readouterr().out
    assert sorted(os.listdir(run / "checkpoints")) == ["step-288", "step-384"]
    assert victim_is_unchanged(run)


@pytest.mark.slow
def test_a_checkpoint_that_was_moved_and_linked_is_used_and_left_alone(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    moved = run.parent / "moved"
    (run / "checkpoints/step-192").rename(moved)
    (run / "checkpoints/step-192").symlink_to(moved)
    before = sorted(os.listdir(moved))
    resume(run)
    out = capsys.readouterr().out
    assert "continuing from checkpoints/step-192" in out and "was not written" not in out
    assert sorted(os.listdir(run / "checkpoints")) == ["step-288", "step-384"]
    assert sorted(os.listdir(moved)) == before


# --------------------------------------------------------------------------------------------------------- metrics


def test_metrics_that_differ_from_the_checkpoint_are_reported(run: Path) -> None:
    file = run / "metrics.jsonl"
    text = file.read_text()
    file.write_text(text.replace('"steps": 96', '"steps": 95', 1))
    assert "metrics.jsonl: is not what was written until checkpoints/step-192 (sha256)" in rejection(run)
    file.write_text(text)
    resume(run)


@pytest.mark.parametrize(
    "line", [b"[" * 10_000, b"[1]", b"{}", b'{"steps": -1}', b'{"steps": "x"}', b'{"steps": 1, "a": 1e999}', b"\xff"]
)
def test_a_line_of_metrics_that_is_no_row_is_one_sentence(line: bytes, tmp_path: Path) -> None:
    (tmp_path / "metrics.jsonl").write_bytes(b'{"steps": 1, "success": 0.5}\n' + line + b"\n")
    with pytest.raises(rmt_rl.ConfigError, match=r"line 2 is .*; expected a dictionary of steps and numbers") as caught:
        learning_curve(tmp_path, None, None)
    assert len(str(caught.value)) < 300 + len(str(tmp_path))


# --------------------------------------------------------------------------------------------------------- functions


def test_a_file_is_read_up_to_a_limit_and_only_where_it_is_regular(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_bytes(b"12345")
    assert read_bytes(file, 5) == b"12345"
    with pytest.raises(OSError, match="has 5 bytes; at most 4 are read"):
        read_bytes(file, 4)
    (tmp_path / "link").symlink_to(file)
    assert read_bytes(tmp_path / "link", follow=True) == b"12345"
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "zero").symlink_to("/dev/zero")
    for name, follow in (("link", False), ("pipe", False), ("pipe", True), ("zero", True), ("", False)):
        with pytest.raises(OSError, match=r"is a link|is not a regular file"):
            read_bytes(tmp_path / name, follow=follow)


def test_a_pipe_is_not_opened_to_append(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for length in (None, 0):
        with pytest.raises(OSError, match="is not a regular file"):
            open_to_append(tmp_path / "pipe", length)


def test_writing_replaces_the_name_and_not_its_target(tmp_path: Path) -> None:
    (tmp_path / "target").write_text("old")
    (tmp_path / "name").symlink_to(tmp_path / "target")
    (tmp_path / ".name").symlink_to(tmp_path / "target")
    write_file(tmp_path / "name", b"new")
    assert (tmp_path / "target").read_text() == "old" and (tmp_path / "name").read_text() == "new"
    assert sorted(os.listdir(tmp_path)) == ["name", "target"]


def test_a_link_is_no_folder(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path)
    with pytest.raises(OSError, match="links are not followed"):
        make_folder(tmp_path / "link")
    make_folder(tmp_path / "new")
    make_folder(tmp_path / "new")


def test_a_configuration_that_is_a_pipe_or_huge_is_one_sentence(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.yaml")
    (tmp_path / "huge.yaml").touch()
    os.truncate(tmp_path / "huge.yaml", 2**33)  # sparse: takes no disk space
    for name, message in (("pipe", "is not a regular file"), ("huge", "has 8,589,934,592 bytes; at most")):
        with pytest.raises(rmt_rl.ConfigError, match=message):
            parse([f"config={tmp_path / name}.yaml"])
