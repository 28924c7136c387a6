"""No file imports a module: an id such as module:Evil-v0 is one only where the user typed it or trusts the file."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import gymnasium
import pytest

import rmt_rl
from rmt_rl import collect, evaluate, play
from rmt_rl.config import registry
from rmt_rl.config.cli import parse
from rmt_rl.config.envs import GymConfig
from rmt_rl.config.files import load_yaml, save_yaml
from rmt_rl.config.resolve import make_config
from rmt_rl.config.trust import lies_below
from rmt_rl.policies.actor_critic import ActorCritic
from rmt_rl.policies.saving import env_config
from rmt_rl.policies.spec import make_spec

#: A module that leaves a mark and registers an environment.
PAYLOAD = """
import pathlib
import gymnasium
from gymnasium.envs.classic_control import CartPoleEnv
with (pathlib.Path(__file__).parent / "ran").open("a") as file:
    file.write("x")
gymnasium.register("Evil-v0", entry_point=CartPoleEnv, max_episode_steps=5)
"""
ID = "payload_module:Evil-v0"


def save_run(folder: Path, id: str) -> None:
    """A policy and a config.yaml of a run whose task is the gymnasium id `id`."""
    env = rmt_rl.make_env("gym", id="CartPole-v1")
    config = make_config(env="gym", policy="mlp", **{"env.id": id})
    policy = ActorCritic(make_spec(env, config.env, config.policy))
    folder.mkdir(parents=True, exist_ok=True)
    rmt_rl.save_policy(policy, folder / "policy")
    save_yaml(config, folder / "config.yaml")


@pytest.fixture
def outside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An importable folder with the module, beside the folder of a run `stranger` that names it."""
    (tmp_path / "modules").mkdir()
    (tmp_path / "modules/payload_module.py").write_text(PAYLOAD)
    save_run(tmp_path / "stranger", ID)
    monkeypatch.syspath_prepend(tmp_path / "modules")
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "datasets"))
    monkeypatch.chdir(tmp_path)
    yield tmp_path
    sys.modules.pop("payload_module", None)
    gymnasium.registry.pop("Evil-v0", None)


def ran(folder: Path) -> bool:
    return any(folder.rglob("ran"))


def sentence(call: Callable[[], Any]) -> str:
    with pytest.raises(rmt_rl.ConfigError) as caught:
        call()
    assert str(caught.value).isprintable()
    return str(caught.value)


COMMANDS = {
    "evaluate": lambda *more: evaluate.main(["policy=stranger", "episodes=2", *more]),  # type: ignore[attr-defined]
    "play": lambda *more: play.main(["policy=stranger", "out=x.gif", "frames=2", *more]),
    "collect": lambda *more: collect.main(["policy=stranger", "out=mine/evil-v0", *more]),
}


@pytest.mark.parametrize("command", COMMANDS)
def test_a_policy_does_not_name_a_module_to_import(
    command: str, outside: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert COMMANDS[command]() == 2
    error = capsys.readouterr().err
    assert error.startswith(f"error: env.id={ID}: ") and error.count("\n") == 1
    assert "trust=true or repeat the env.id=" in error and "stranger/policy/config.json" in error
    assert not ran(outside)


@pytest.mark.parametrize("more", ["trust=true", f"env.id={ID}"])
def test_the_user_can_trust_a_policy_or_repeat_its_id(more: str, outside: Path) -> None:
    assert COMMANDS["evaluate"](more) == 0
    assert ran(outside)


def test_the_functions_of_python_import_no_module_that_a_policy_names(outside: Path) -> None:
    policy = rmt_rl.load_policy("stranger")
    for call in (
        lambda: rmt_rl.make_task(policy),
        lambda: rmt_rl.evaluate("stranger", episodes=2),
        lambda: rmt_rl.evaluate(policy, episodes=2),
        lambda: env_config(ActorCritic.from_pretrained(outside / "stranger/policy")),
    ):
        assert ID in sentence(call)
    assert not ran(outside)
    assert rmt_rl.make_task(rmt_rl.load_policy("stranger", trust=True)).num_envs == 1


def test_a_policy_that_was_made_here_names_its_module_freely(outside: Path) -> None:
    env = rmt_rl.make_env("gym", id=ID)
    policy = ActorCritic(make_spec(env, GymConfig(id=ID), make_config(policy="mlp").policy))
    assert rmt_rl.make_task(policy).num_envs == 1


def test_a_run_is_not_resumed_with_a_module_that_its_file_names(outside: Path) -> None:
    assert ID in sentence(lambda: parse(["resume=stranger"]))
    assert ID in sentence(lambda: rmt_rl.train(resume="stranger"))
    assert ID in sentence(lambda: load_yaml("stranger/config.yaml"))
    assert parse(["resume=stranger", "trust=true"]).env.id == ID
    assert parse(["resume=stranger", f"env.id={ID}"]).env.id == ID
    assert "with its own configuration" in sentence(lambda: parse(["resume=stranger", "env.id=CartPole-v1"]))
    assert not ran(outside)


def test_a_file_of_options_names_no_module(outside: Path) -> None:
    (outside / "mine.yaml").write_text(f"env: {{name: gym, id: '{ID}'}}\npolicy: mlp\n")
    for file in ("mine.yaml", "stranger/config.yaml"):
        assert ID in sentence(lambda file=file: parse([f"config={file}"]))
        assert parse([f"config={file}", "env.id=CartPole-v1"]).env.id == "CartPole-v1"
        assert parse([f"config={file}", f"env.id={ID}"]).env.id == ID
        assert parse([f"config={file}", "trust=true"]).env.id == ID
    assert parse(["config=stranger/config.yaml", "env=tmaze"]).env.name == "tmaze"
    assert "no effect without config=" in sentence(lambda: parse(["trust=true"]))


@pytest.mark.parametrize("key", ["plugins", "trust"])
def test_a_file_holds_neither_plugins_nor_trust(key: str, outside: Path) -> None:
    (outside / "mine.yaml").write_text(f"env: tmaze\n{key}: payload_module\n")
    assert key in sentence(lambda: parse(["config=mine.yaml"]))
    with (outside / "stranger/config.yaml").open("a") as file:
        file.write(f"{key}: payload_module\n")
    assert f"{key}: no such option" in sentence(lambda: parse(["resume=stranger", "trust=true"]))
    assert not ran(outside)


@pytest.mark.parametrize("more", ["trust=true", "env.id=inner.payload_module:Evil-v0"])
def test_no_module_below_the_loaded_folder_is_imported(
    more: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    save_run(tmp_path / "stranger", "inner.payload_module:Evil-v0")
    (tmp_path / "stranger/inner").mkdir()
    for name in ("__init__", "payload_module"):
        (tmp_path / f"stranger/inner/{name}.py").write_text(PAYLOAD)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path / "stranger")
    assert COMMANDS["evaluate"](more) == 2
    assert "no code in there is run" in capsys.readouterr().err
    assert "no code in there is run" in sentence(lambda: parse(["resume=stranger", more]))
    assert not ran(tmp_path)


def test_a_folder_with_the_name_of_a_known_package_is_not_imported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_run(tmp_path / "popgym", "popgym-Evil-v0")
    (tmp_path / "popgym/__init__.py").write_text(PAYLOAD)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    assert "no code in there is run" in sentence(lambda: rmt_rl.make_task(rmt_rl.load_policy("popgym", trust=True)))
    assert not ran(tmp_path)


def test_ids_of_known_packages_go_on_working_from_files(tmp_path: Path) -> None:
    for number, id in enumerate(
        ["MiniGrid-Empty-5x5-v0", "popgym-RepeatFirstEasy-v0", "minigrid:MiniGrid-Empty-5x5-v0"]
    ):
        save_run(tmp_path / str(number), id)
        assert env_config(rmt_rl.load_policy(tmp_path / str(number))).id == id  # type: ignore[attr-defined]
        assert load_yaml(tmp_path / str(number) / "config.yaml").env.id == id


def test_an_environment_of_the_old_gym_is_not_made_from_a_file(tmp_path: Path) -> None:
    save_run(tmp_path, "GymV26Environment-v0")  # its option env_id would name the module
    assert "names the module gym" in sentence(lambda: env_config(rmt_rl.load_policy(tmp_path)))


def test_a_module_is_found_without_running_the_packages_around_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for package in ("outer", "outer/inner"):
        (tmp_path / package).mkdir()
        (tmp_path / package / "__init__.py").write_text(PAYLOAD)
    (tmp_path / "outer/inner/last.py").touch()
    (tmp_path / "away").symlink_to(tmp_path / "outer/inner")
    monkeypatch.syspath_prepend(tmp_path)
    assert lies_below("outer.inner.last", tmp_path / "outer/inner")
    assert lies_below("away.last", tmp_path / "outer")
    assert not lies_below("outer.nowhere", tmp_path / "outer/inner")
    assert not lies_below("gymnasium", tmp_path)
    assert not ran(tmp_path)


def test_the_current_folder_brings_no_entry_points(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "evil-1.0.dist-info").mkdir()
    (tmp_path / "evil-1.0.dist-info/METADATA").write_text("Metadata-Version: 2.1\nName: evil\nVersion: 1.0\n")
    (tmp_path / "evil-1.0.dist-info/entry_points.txt").write_text("[rmt_rl.plugins]\nmine = payload_module\n")
    (tmp_path / "payload_module.py").write_text(PAYLOAD)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(registry, "_entry_points_loaded", False)
    registry.load_entry_points()
    assert not ran(tmp_path)
