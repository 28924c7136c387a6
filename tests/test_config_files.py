"""Claims about configurations in files: they survive, old ones keep their meaning, and no file can do harm."""

from __future__ import annotations

import dataclasses
import json
import time
from pathlib import Path
from typing import Any

import pytest
import yaml

from rmt_rl import config as cfg
from rmt_rl.common.errors import ConfigError
from rmt_rl.config.bases import PolicyConfig
from rmt_rl.config.cli import parse
from rmt_rl.config.files import FORMAT, part_from_dict, save_yaml
from rmt_rl.config.registry import GROUPS, Entry

DATA = Path(__file__).parent / "fixtures" / "format1_configs"


def one_line(error: ConfigError) -> str:
    message = str(error)
    assert message and message.isprintable() and len(message.splitlines()) == 1
    return message


CONFIGS = [
    ["policy=lstm", "seed=7", "run=1e5", "algo.learning_rate=1e-5"],
    ["env=gym", "env.options={a: 1.5, b: [true, null, 'x y', 1e-7], c: {d: '1e5'}}", "policy=mlp"],
    ["env.id=MiniGrid-MemoryS17Random-v0", "run=it's: über #1"],
    ["env=tmaze", "until.success=0.9", "evaluate_every=5000", "memory.scope=trial", "memory.episodes=2"],
]


@pytest.mark.parametrize("argv", CONFIGS)
def test_a_configuration_survives_yaml_and_json(argv: list[str], tmp_path: Path) -> None:
    config = parse(argv)
    cfg.save_yaml(config, tmp_path / "config.yaml")
    assert cfg.load_yaml(tmp_path / "config.yaml") == config
    assert cfg.from_dict(json.loads(json.dumps(cfg.to_dict(config)))) == config


def test_a_file_may_write_small_numbers_without_a_point(tmp_path: Path) -> None:
    cfg.save_yaml(parse(["algo.learning_rate=0.5"]), tmp_path / "config.yaml")
    text = (tmp_path / "config.yaml").read_text().replace("learning_rate: 0.5", "learning_rate: 1e-4")
    (tmp_path / "config.yaml").write_text(text)
    assert cfg.load_yaml(tmp_path / "config.yaml").algo.learning_rate == 1e-4


def test_a_dictionary_with_an_unknown_option_or_a_wrong_value_is_rejected() -> None:
    whole = cfg.to_dict(parse(["env=tmaze"]))
    for changed, message in (
        (whole | {"sede": 1}, "sede: no such option; did you mean seed?"),
        ({k: v for k, v in whole.items() if k != "env"}, "env=null: expected one of"),
        (whole | {"env": whole["env"] | {"lenght": 1}}, "env.lenght: no such option; did you mean length?"),
        (whole | {"env": {"length": 3}}, "env=null: expected one of"),
        (whole | {"env": {"name": ["tmaze"]}}, "env=['tmaze']: expected one of"),
        (whole | {"env": "tmaze"}, "env=tmaze: expected a dictionary"),
        (whole | {"seed": "x"}, "seed=x: expected a whole number"),
        (whole | {3: 4}, "3: no such option"),
        ([], "configuration=[]: expected a dictionary"),
        (None, "configuration=null: expected a dictionary"),
    ):
        with pytest.raises(ConfigError) as caught:
            cfg.from_dict(changed)
        assert one_line(caught.value).startswith(message)


# -------------------------------------------------------------------------------------------- files of other versions


RMT_OF_THEN = [
    "policy.segment=8",
    "policy.memory_update=replace",
    "policy.write_from=memory",
    "policy.blank_memory=seen",
]
OLD = {
    "minigrid-memory-rmt-ppo.yaml": [
        "algo.barrier_coef=0",  # younger than the file
        *["algo.rollout=32", "algo.gamma=0.997", "algo.entropy_coef=0.1", "steps=1250000"],  # the recipe of then
        *RMT_OF_THEN,
    ],
    "tmaze-lstm-ppo.yaml": ["env=tmaze", "policy=lstm", "seed=7", "algo.barrier_coef=0", "algo.minibatches=4"],
    "gym-mlp-rate.yaml": [
        *["env=gym", "env.options.a=1", "algo=rate", "policy=mlp", "data=x/y-v0"],
        "policy.normalize_observation=false",  # the recipe of env=gym is younger
        *["env.action_mask=none", "env.text=false"],  # younger than the file
    ],
}


@pytest.mark.parametrize("name", OLD)
def test_a_file_of_the_first_format_means_what_it_meant(name: str) -> None:
    """The files were written by the first version, from these arguments, before `until` and `evaluate_every` existed."""
    old = yaml.safe_load((DATA / name).read_text())
    assert not old.keys() & {"format", "until", "evaluate_every", "validation_episodes"}
    assert cfg.load_yaml(DATA / name) == parse(OLD[name])


@pytest.mark.parametrize("group", [None, *GROUPS])
def test_a_missing_field_takes_its_default(group: str | None) -> None:
    # what files from before these options, or before these defaults, mean
    before = dict(argument.split("=") for argument in [*RMT_OF_THEN, "policy.positions=learned", "algo.barrier_coef=0"])
    config = cfg.make_config({"env": "tmaze", **before})
    whole = cfg.to_dict(config)
    part = whole if group is None else whole[group]
    for name in cfg.options(type(config if group is None else getattr(config, group))):
        without = {key: value for key, value in part.items() if key != name}
        assert cfg.from_dict(without if group is None else whole | {group: without}) == config


def test_a_missing_field_takes_the_value_that_keeps_the_meaning_of_the_file(monkeypatch: pytest.MonkeyPatch) -> None:
    @dataclasses.dataclass(frozen=True)
    class YoungConfig(PolicyConfig):
        width: int = cfg.option(5, "an old option", low=1, high=9)
        norm: bool = cfg.option(True, "a newer option; networks saved before had no norm", absent=False)

    YoungConfig.name = "young"
    monkeypatch.setitem(GROUPS["policy"], "young", Entry(YoungConfig, ""))
    assert part_from_dict("policy", {"name": "young"}) == YoungConfig(norm=False)
    assert part_from_dict("policy", {"name": "young", "norm": True}) == YoungConfig(norm=True)
    assert cfg.make_config(policy="young").policy == YoungConfig(norm=True)
    assert cfg.make_config(policy={"name": "young"}).policy == YoungConfig(norm=True)


@pytest.mark.parametrize("version", [FORMAT + 1, 0, -1, True, None, "2", 1.0, [1]])
def test_a_file_of_an_unknown_format_is_rejected_by_name(version: Any, tmp_path: Path) -> None:
    file = tmp_path / "config.yaml"
    file.write_text(yaml.safe_dump(cfg.to_dict(parse([])) | {"format": version}))
    expected = f"format={cfg.show(version)}: expected a whole number from 1 to {FORMAT}"
    if version == FORMAT + 1:
        expected = (
            f"format={version}: this version of rmt_rl reads formats 1 to {FORMAT}; a newer rmt_rl wrote the file"
        )
    with pytest.raises(ConfigError) as caught:
        cfg.load_yaml(file)
    assert one_line(caught.value) == f"{file}: {expected}"
    with pytest.raises(ConfigError) as caught:
        parse([f"config={file}"])
    assert one_line(caught.value).endswith(f"config.yaml: {expected}")


def test_a_saved_file_names_its_format() -> None:
    assert cfg.to_dict(parse([]))["format"] == FORMAT


# -------------------------------------------------------------------------------------------------- untrusted files


@pytest.mark.parametrize(
    "text",
    [
        "!!python/object/apply:os.system ['touch ran']",
        "seed: !!python/name:os.system",
        "seed: [",
        "- 1",
        "seed: !!timestamp 2026-99-99",
        "seed: " + "[" * 1000,
        "seed: \x00",
        "",
    ],
)
def test_an_untrusted_file_is_rejected_and_runs_nothing(
    text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("config.yaml").write_text(text)
    with pytest.raises(ConfigError) as caught:
        cfg.load_yaml("config.yaml")
    assert one_line(caught.value).startswith("config.yaml: ")
    with pytest.raises(ConfigError) as caught:
        parse(["config=config.yaml"])
    assert "config.yaml: " in one_line(caught.value)
    assert [path.name for path in tmp_path.iterdir()] == ["config.yaml"]


def test_a_file_cannot_name_a_plugin(tmp_path: Path) -> None:
    """Importing a module runs it; only what is typed may do that."""
    (tmp_path / "config.yaml").write_text("plugins: antigravity")
    with pytest.raises(ConfigError, match="plugins=antigravity: no such option"):
        parse([f"config={tmp_path / 'config.yaml'}"])


def test_a_file_cannot_unfold_to_more_than_was_written(tmp_path: Path) -> None:
    laughs = "".join(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]\n" for n in range(1, 40))
    (tmp_path / "config.yaml").write_text(f"a0: &a0 [x]\n{laughs}")
    with pytest.raises(ConfigError, match="aliases"):
        cfg.load_yaml(tmp_path / "config.yaml")


@pytest.mark.parametrize("text", ["[" * 100_000, "{a: " * 100_000, "- " * 100_000])
def test_a_file_cannot_take_long_to_read_because_it_is_nested(tmp_path: Path, text: str) -> None:
    (tmp_path / "config.yaml").write_text(text)
    before = time.process_time()
    with pytest.raises(ConfigError, match="more than 32 lists and dictionaries inside each other"):
        cfg.load_yaml(tmp_path / "config.yaml")
    assert time.process_time() - before < 2


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("env: tmaze\nenv: gym", "env"),
        ("env: {name: tmaze, length: 3, length: 4}", "length"),
        ("env: {name: gym, options: {a: {b: 1, b: 2}}}", "b"),
    ],
)
def test_a_name_that_a_file_gives_twice_is_rejected(text: str, name: str, tmp_path: Path) -> None:
    """YAML would keep the last value without a word."""
    file = tmp_path / "options.yaml"
    file.write_text(text)
    with pytest.raises(ConfigError) as caught:
        parse([f"config={file}"])
    assert one_line(caught.value) == f"{file}: {name} is given twice; expected once"
    with pytest.raises(ConfigError, match="expected plain values"):
        parse(["env=gym", "env.options={a: 1, a: 2}"])


@pytest.mark.parametrize(
    ("text", "expected"),
    [("steps: 0777", 777), ("run: 2026-01-31", "2026-01-31"), ("run: 1:30", "1:30"), ("run: on", "on")],
)
def test_a_file_reads_an_option_like_the_command_line(text: str, expected: Any, tmp_path: Path) -> None:
    """YAML 1.1 makes 511, a date, 90 and true of these."""
    file = tmp_path / "options.yaml"
    file.write_text(text)
    name, _, typed = text.partition(": ")
    assert getattr(parse([f"config={file}"]), name) == getattr(parse([f"{name}={typed}"]), name) == expected


@pytest.mark.parametrize(
    "text", ["1e3", "-.5", "0777", "1:30", "on", "No", "2026-01-31", "null", "~", "0x1F", "1_0", "", "'"]
)
def test_a_text_that_looks_like_something_else_survives_a_file(text: str, tmp_path: Path) -> None:
    config = cfg.make_config(env="gym", **{"env.options": {"a": text, text or "key": [text]}})
    cfg.save_yaml(config, tmp_path / "config.yaml")
    assert cfg.load_yaml(tmp_path / "config.yaml") == parse([f"config={tmp_path / 'config.yaml'}"]) == config


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    (tmp_path / "binary.yaml").write_bytes(b"\xff\xfe\x00")
    for name in ("absent.yaml", "binary.yaml"):
        with pytest.raises(ConfigError, match=name) as caught:
            cfg.load_yaml(tmp_path / name)
        one_line(caught.value)


# ------------------------------------------------------------------------------------------------- files written by hand

HANDWRITTEN = [
    "env: {name: gym, options: {a: 1e-3, b: [2E5, '1e-3'], c: {d: 1e-7}}}",
    "env: gym\nenv.options: {a: 1e-3, b: [2E5, '1e-3'], c: {d: 1e-7}}",
    "env: gym\nenv.options.a: 1e-3\nenv.options.b: [2E5, '1e-3']\nenv.options.c.d: 1e-7",
    "env: {name: gym, options.a: 1e-3, options.b: [2E5, '1e-3'], options.c: {d: 1e-7}}",
]


@pytest.mark.parametrize("text", HANDWRITTEN)
def test_numbers_inside_env_options_are_numbers_in_a_file_as_on_the_command_line(text, tmp_path):
    file = tmp_path / "mine.yaml"
    file.write_text(text + "\nalgo.learning_rate: 1e-3\nsteps: 1e6\nrun: 1e5\n")
    typed = parse(["env=gym", "env.options={a: 1e-3, b: [2E5, '1e-3'], c: {d: 1e-7}}"])
    read = parse([f"config={file}"])
    assert read.env.options == typed.env.options == {"a": 0.001, "b": [200_000.0, "1e-3"], "c": {"d": 1e-7}}
    assert (read.algo.learning_rate, read.steps, read.run) == (0.001, 1_000_000, "1e5")


def test_text_that_looks_like_a_number_stays_text_in_the_file_of_a_run(tmp_path):
    config = parse(["env=gym", "env.options={a: '1e-3', b: 1e-3}"])
    save_yaml(config, tmp_path / "config.yaml")
    assert parse([f"config={tmp_path / 'config.yaml'}"]).env == config.env


def test_train_reads_a_file_from_python_as_on_the_command_line(tmp_path):
    from rmt_rl.train import resolve

    file = tmp_path / "mine.yaml"
    file.write_text("env: {name: tmaze, length: 7}\npolicy: lstm\nsteps: 1e6\n")
    for path in (file, str(file)):
        assert resolve(None, {"config": path, "seed": 3}) == parse([f"config={file}", "seed=3"])
    assert resolve(None, {"config": file, "env.length": 5}).env.length == 5
    with pytest.raises(
        ConfigError,
        match=r"config=.*: expected the path of a YAML file of options; a TrainConfig is given as the first",
    ):
        resolve(None, {"config": parse([])})


def test_a_file_given_from_python_names_no_module_unless_it_is_trusted(tmp_path):
    from rmt_rl.train import resolve

    file = tmp_path / "mine.yaml"
    file.write_text("env: {name: gym, id: 'some_module:X-v0'}\n")
    with pytest.raises(ConfigError, match="names the module some_module"):
        resolve(None, {"config": file})
    for more in ({"trust": True}, {"env.id": "some_module:X-v0"}):
        assert resolve(None, {"config": file, **more}).env.id == "some_module:X-v0"


def test_a_removed_option_is_ignored_where_it_changed_nothing() -> None:
    saved = cfg.to_dict(cfg.RMTConfig())
    assert part_from_dict("policy", {**saved, "memory_heads": 0}) == cfg.RMTConfig()
    with pytest.raises(ConfigError, match=r"policy\.memory_heads: no such option"):
        part_from_dict("policy", {**saved, "memory_heads": 1})
