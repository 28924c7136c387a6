"""The trained policies that come with the package."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import tomllib
import torch

import rmt_rl
from rmt_rl.common.errors import ConfigError
from rmt_rl.common.files import sha256_file
from rmt_rl.config.cli import parse
from rmt_rl.config.files import to_dict
from rmt_rl.evaluate import main as evaluate
from rmt_rl.export import main as export
from rmt_rl.play import main as play
from rmt_rl.policies import zoo
from rmt_rl.policies.actor_critic import ActorCritic
from rmt_rl.policies.saving import load_policy
from rmt_rl.zoo import cards, main, table
from rmt_rl.zoo.adding import LARGEST, add, command_of, score_of
from rmt_rl.zoo.cards import card_text

CARDS = cards()
NAMES = sorted(CARDS)
ROOT = Path(__file__).parent.parent
TINY = {"env": "tmaze", "policy": "mlp", "policy.width": 8, "env.length": 3, "steps": 32, "evaluate_episodes": 0}
TINY |= {"algo.num_envs": 4, "algo.rollout": 8, "algo.minibatches": 1}


@pytest.fixture
def empty_zoo(tmp_path, monkeypatch):
    """A zoo without policies, for tests that add one."""
    monkeypatch.setattr(zoo, "ZOO", folder := tmp_path / "zoo")
    folder.mkdir()
    return folder


# ------------------------------------------------------------------------------------------------------ what is in it


@pytest.mark.parametrize("name", NAMES)
def test_the_files_of_a_policy_are_those_that_its_card_describes(name):
    folder, card = zoo.ZOO / name, CARDS[name]
    assert card["name"] == name
    assert all(sha256_file(folder / part) == found for part, found in card["sha256"].items())
    assert (folder / "model.safetensors").stat().st_size == card["bytes"] <= LARGEST
    assert (folder / "README.md").read_text(encoding="utf-8").endswith(card_text(card))


@pytest.mark.parametrize("name", NAMES)
def test_every_score_is_clearly_above_the_floor(name):
    score, floor = CARDS[name]["score"], CARDS[name]["floor"]
    assert floor is None or (score["interval"] or [score["value"]])[0] > floor


@pytest.mark.parametrize("name", NAMES)
def test_the_command_of_a_card_trains_the_network_that_is_there(name):
    words = CARDS[name]["training"]["command"].removeprefix("python -m rmt_rl.train ").split()
    config, spec = parse(words), load_policy(f"zoo:{name}").spec
    assert config.env == spec.env and config.policy == spec.policy and config.memory == spec.memory
    assert config.seed == CARDS[name]["training"]["seed"]


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_a_policy_that_plays_again_has_the_score_of_its_card(name):
    """The same episodes; rounding of another machine may change a few of them. Of an exact score enough to see each of them."""
    card = CARDS[name]["score"]
    episodes = card["episodes"] if card["interval"] else min(card["episodes"], 12 * card["distinct"])
    again, bounds, _ = score_of(load_policy(f"zoo:{name}"), episodes, card["seed"], card["deterministic"])
    assert again["value"] == pytest.approx(card["value"], abs=0.02 * max(1.0, abs(card["value"])))
    assert again["measure"] == card["measure"] and abs(again["distinct"] - card["distinct"]) <= 0.05 * card["episodes"]
    assert bounds == {"floor": CARDS[name]["floor"], "ceiling": CARDS[name]["ceiling"]}


def test_a_wheel_holds_the_zoo_and_the_recipes():
    patterns = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["package-data"]["rmt_rl"]
    held = {file for pattern in patterns for file in (ROOT / "rmt_rl").glob(pattern)}
    files = [*zoo.ZOO.glob("*/*"), *(ROOT / "rmt_rl").glob("**/*.yaml")]
    assert files and {file for file in files if file.is_file() and file.suffix != ".pyc"} <= held


# ------------------------------------------------------------------------------------------------------------- using it


@pytest.mark.slow
def test_every_command_takes_a_policy_of_the_zoo(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert evaluate(["policy=zoo:tmaze-rmt", "episodes=4"]) == 0
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["policy"] == "zoo:tmaze-rmt"
    assert play(["policy=zoo:tmaze-rmt", "env.length=5", "frames=2", "out=x.gif"]) == 0
    options = {**TINY, "run": "x", "init": "zoo:tmaze-rmt"}
    del options["policy"], options["policy.width"]
    assert isinstance(rmt_rl.train(**options).policy.config, rmt_rl.config.RMTConfig)
    monkeypatch.setattr("rmt_rl.export.export", lambda policy, folder, rows, onnx: [folder])
    assert export(["policy=zoo:tmaze-rmt"]) == 0
    assert "wrote export-tmaze-rmt" in capsys.readouterr().out  # and not into the package


def test_an_unknown_name_is_one_sentence_with_near_names():
    with pytest.raises(
        ConfigError, match=r"policy=zoo:tmaze-rnn: no such policy in the zoo.*did you mean tmaze-"
    ) as caught:
        rmt_rl.load_policy("zoo:tmaze-rnn")
    assert "\n" not in str(caught.value)
    with pytest.raises(ConfigError, match=r"init=zoo:\.\./zoo/tmaze-rmt: no such policy in the zoo"):
        load_policy("zoo:../zoo/tmaze-rmt", option="init")


def test_the_list_has_a_line_with_the_score_for_each_policy(capsys):
    assert main([]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines[1 : 1 + len(NAMES)]] == NAMES
    assert max(map(len, table().splitlines())) <= 120


def test_show_prints_the_card(capsys):
    assert main(["show=tmaze-rmt"]) == 0
    assert capsys.readouterr().out == card_text(CARDS["tmaze-rmt"])
    assert main(["show=tmaze-rm"]) == 2
    assert "did you mean tmaze-rmt" in capsys.readouterr().err


@pytest.mark.slow
def test_the_list_needs_no_torch():
    code = "import sys, rmt_rl.zoo; rmt_rl.zoo.main([]); assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)


def test_hugging_faces_from_pretrained_loads_a_local_folder_with_the_same_actions():
    """Of an id on the Hub it downloads the same files first."""
    ours, theirs = load_policy("zoo:tmaze-rmt"), ActorCritic.from_pretrained(zoo.ZOO / "tmaze-rmt")
    obs, first = torch.randn(3, *ours.spec.observation_space.shape).clamp(-1, 1), torch.ones(3, dtype=torch.bool)
    state = ours.initial_state(3)
    assert torch.equal(ours.act_step(obs, state, first)[0], theirs.act_step(obs, state, first)[0])


# -------------------------------------------------------------------------------------------------------- adding to it


def test_a_run_becomes_a_policy_of_the_zoo(empty_zoo, tmp_path, monkeypatch):
    run = rmt_rl.train(root=tmp_path, run="x", seed=3, **{**TINY, "env.end_at_turn": True}).folder
    monkeypatch.setattr("rmt_rl.zoo.adding._bounds", lambda env: {"floor": None, "ceiling": 1.0})
    assert main([f"add={run}", "name=mine", "episodes=20", "seed=5"]) == 0
    card = cards()["mine"]
    assert zoo.zoo_names() == ["mine"] and not list(empty_zoo.glob(".new-*"))
    # a T-maze of one length has two episodes
    assert card["score"]["distinct"] == 2 and card["score"]["interval"] is None
    assert "env.end_at_turn=true" in card["training"]["command"] and "seed=3" in card["training"]["command"]
    assert load_policy("zoo:mine").spec == load_policy(run).spec
    with pytest.raises(ConfigError, match=r"name=mine: .* exists already"):
        add(str(run), "mine")


def test_a_policy_at_the_floor_is_refused_and_nothing_is_written(empty_zoo, tmp_path):
    run = rmt_rl.train(root=tmp_path, run="x", **TINY).folder
    with pytest.raises(ConfigError, match=r"is not clearly above the floor 0\.500; train longer"):
        add(str(run), "mine", episodes=20)
    assert not list(empty_zoo.iterdir())


def test_a_policy_that_is_too_large_is_refused(empty_zoo, tmp_path, monkeypatch):
    run = rmt_rl.train(root=tmp_path, run="x", **TINY).folder
    monkeypatch.setattr("rmt_rl.zoo.adding.LARGEST", 1_000)
    with pytest.raises(ConfigError, match=r"the weights have [\d,]+ bytes; expected at most 1,000"):
        add(str(run), "mine", episodes=20)


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["add=x"], "name: missing; expected name="),
        (["name=x"], "name=x: has no effect without add="),
        (["seed=3"], "seed=3: has no effect without add="),
        (["add=x", "name=y", "show=z"], "show=z: has no effect with add="),
        (["add=x", "name=../y"], r"name=\.\./y: expected a name"),
        (["add=nowhere", "name=y"], "add=nowhere: no such folder"),
    ],
)
def test_wrong_options_are_one_sentence(argv, message, capsys, empty_zoo):
    import re

    assert main(argv) == 2
    error = capsys.readouterr().err
    assert re.search(message, error) and error.count("\n") == 1


@pytest.mark.parametrize(
    "words",
    [
        ["env=tmaze", "env.length=7", "steps=5000", "seed=2"],
        ["env=minigrid-memory", "algo.num_envs=64", "policy=gru", "policy.width=32"],
        ["env=gym", "env.id=Pendulum-v1", "env.options={a: [1, 'x y']}", "policy=lstm"],
        ["env=tmaze", "policy.params=9000", "memory.scope=trial", "until.success=0.5", "evaluate_every=100"],
        ["env=tmaze-rate", "algo=rate", "algo.cut=varied"],
    ],
)
def test_the_command_of_a_configuration_gives_it_again(words):
    import shlex

    config = parse([*words, "run=x"])
    command = shlex.split(command_of(config))
    assert command[:3] == ["python", "-m", "rmt_rl.train"] and "run=x" not in command
    assert to_dict(parse(command[3:])) == to_dict(config) | {"run": None}
