"""Claims about --help: complete, short, true, fast, and without torch. And about how a command ends."""

from __future__ import annotations

import io
import resource
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import MISSING
from pathlib import Path
from typing import Any

import pytest

from rmt_rl import config as cfg
from rmt_rl.common.errors import ConfigError
from rmt_rl.common.output import on_terminal
from rmt_rl.common.process import command_line
from rmt_rl.config.cli import (
    parse,
    parse_collect,
    parse_evaluate,
    parse_export,
    parse_memory,
    parse_play,
    parse_zoo,
    run,
)
from rmt_rl.config.commands import CollectConfig, EvaluateConfig, ExportConfig, PlayConfig, TrainConfig, ZooConfig
from rmt_rl.config.diagnosis import MemoryReportConfig
from rmt_rl.config.help import PROGRAMS, help_text
from rmt_rl.config.registry import GROUPS

PARSERS: dict[type, Callable[[Sequence[str]], Any]] = {
    TrainConfig: parse,
    EvaluateConfig: parse_evaluate,
    PlayConfig: parse_play,
    ExportConfig: parse_export,
    CollectConfig: parse_collect,
    MemoryReportConfig: parse_memory,
    ZooConfig: parse_zoo,
}
CHOICES = [(group, name) for group, entries in GROUPS.items() for name in entries]


# ------------------------------------------------------------------------------------------------------- what it shows


@pytest.mark.parametrize("argv", [[], *([group] for group in GROUPS), *([f"{g}={n}"] for g, n in CHOICES)], ids=str)
def test_help_fits_a_screen(argv: list[str]) -> None:
    lines = help_text(TrainConfig, argv).splitlines()
    assert len(lines) <= 50 and max(map(len, lines)) <= 120


@pytest.mark.parametrize("command", PARSERS)
def test_the_overview_shows_every_option_of_the_command_with_its_default_and_its_help(command: type) -> None:
    text = unwrapped(help_text(command))
    for name, known in cfg.options(command).items():
        used = getattr(parse([]), name) if command is TrainConfig else known.default
        value = "<required>" if known.default is MISSING else cfg.show(used)
        assert f" {name}={value} {known.help}" in text


def test_the_overview_names_every_choice_and_shows_the_groups_that_have_only_one() -> None:
    text = unwrapped(help_text())
    for group, entries in GROUPS.items():
        if list(entries) == [group]:
            for name, known in cfg.options(entries[group].config).items():
                assert f" {group}.{name}={cfg.show(known.default)} {known.help}" in text
        else:
            listed = text.partition("groups: ")[2].partition(f" {group}={next(iter(entries))} ")[1:]
            listed = "".join(listed).partition("=")[2].split(" | ")
            families = ["popgym-..."] if group == "env" else []
            named = [name for name in entries if not name.startswith("popgym")]
            found = [name.split()[0] for name in listed]
            assert [name for name in found if name not in families][: len(named)] == named
            assert set(families) <= set(found)


@pytest.mark.parametrize(("group", "name"), CHOICES)
def test_the_help_of_a_choice_shows_its_options_with_the_values_that_a_run_uses(group: str, name: str) -> None:
    text = unwrapped(help_text(TrainConfig, [f"{group}={name}"]))
    assert text.startswith(f"{group}={name}: ")
    part = getattr(parse([f"{group}={name}"]), group)
    for option, known in cfg.options(type(part)).items():
        assert f" {group}.{option}={cfg.show(getattr(part, option))} {known.help}" in text


@pytest.mark.parametrize("group", GROUPS)
def test_the_help_of_a_group_describes_every_choice(group: str) -> None:
    text = unwrapped(help_text(TrainConfig, [group]))
    for name, entry in GROUPS[group].items():
        assert f" {name} {(entry.config.__doc__ or '').splitlines()[0]}" in text


def test_the_values_are_those_of_the_task() -> None:
    assert " steps=1000000 " in unwrapped(help_text())
    assert " steps=4000000 " in unwrapped(help_text(TrainConfig, ["env=bandit"]))
    assert " steps=750000 " in unwrapped(help_text(TrainConfig, ["env=tmaze"]))
    assert " algo.rollout=100 " in unwrapped(help_text(TrainConfig, ["env=bandit", "algo=ppo"]))
    assert " policy.sharpness=1.0 " in unwrapped(help_text(TrainConfig, ["policy=rmt"]))
    assert " policy.sharpness=4.5 " in unwrapped(help_text(TrainConfig, ["env=tmaze", "policy=rmt"]))


@pytest.mark.parametrize("name", [name for name, entry in GROUPS["env"].items() if entry.recipe.options])
def test_the_help_of_a_task_shows_every_change_that_its_recipe_makes(name: str) -> None:
    text = unwrapped(help_text(TrainConfig, [f"env={name}"]))
    assert all(f" {key}={cfg.show(value)}" in text for key, value in GROUPS["env"][name].recipe.options.items())


@pytest.mark.parametrize("command", PARSERS)
def test_the_examples_of_the_help_are_accepted(command: type) -> None:
    prog = command_line(PROGRAMS[command])
    lines = help_text(command).splitlines()
    examples = [line.split(prog)[1].split() for line in lines if line.startswith(f"  {prog}")]
    assert len(examples) == 2
    for argv in examples:
        assert type(PARSERS[command](argv)) is command


@pytest.mark.parametrize("command", [EvaluateConfig, PlayConfig, CollectConfig])
def test_the_help_of_a_command_for_saved_policies_shows_the_environments_but_no_algorithm(command: type) -> None:
    text = help_text(command)
    assert "tmaze-active" in text and "lstm" not in text
    assert not any(line.startswith(("  algo", "  memory", "  until")) for line in text.splitlines())
    assert "  env.length=" in help_text(command, ["env=tmaze"])


@pytest.mark.parametrize(
    ("command", "argument", "message"),
    [
        (TrainConfig, "steps", "steps: --help describes a group, such as env, or a choice, such as env=tmaze; "),
        (TrainConfig, "seed=3", "has env, algo, policy, memory, until"),
        (TrainConfig, "policy=ltsm", "did you mean lstm?"),
        (EvaluateConfig, "policy=rmt", "python -m rmt_rl.evaluate has env"),
        (ExportConfig, "env", "python -m rmt_rl.export has no groups"),
        (TrainConfig, "plugins=no_such_module", "importing no_such_module failed"),
    ],
)
def test_a_question_that_help_cannot_answer_is_reported_in_one_line(command: type, argument: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        help_text(command, [argument])
    assert message in str(caught.value) and str(caught.value).isprintable()


def unwrapped(text: str) -> str:
    """The text with single blanks, whatever its lines were."""
    return " ".join(text.split())


# --------------------------------------------------------------------------------------------------------------- speed


def child(*arguments: str) -> tuple[subprocess.CompletedProcess[str], float]:
    """A fresh Python, and the CPU seconds that it took."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run([sys.executable, *arguments], capture_output=True, text=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return done, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


@pytest.mark.slow
@pytest.mark.parametrize(
    ("command", "status"),
    [
        ("train --help", 0),
        ("train --help env=bandit policy=rmt", 0),
        ("evaluate --help", 0),
        ("play --help", 0),
        ("collect --help", 0),
        ("export --help", 0),
        ("train env=tmaze policy.width=64 policy.heads=3", 2),
        ("evaluate policy=p episods=3", 2),
    ],
)
def test_help_and_mistakes_are_answered_fast_and_without_torch(command: str, status: int) -> None:
    module, *argv = command.split()
    done, seconds = child("-X", "importtime", "-m", f"rmt_rl.{module}", *argv)
    imported = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines() if line.startswith("import time:")}
    assert done.returncode == status and seconds < 1.5
    assert "rmt_rl.config" in imported
    assert imported.isdisjoint(("torch", "minigrid", "scipy", "matplotlib"))


# ------------------------------------------------------------------------------------------------ how a command ends


@pytest.mark.slow
@pytest.mark.parametrize("command", ["rmt_rl", "rmt_rl.train", "rmt_rl.evaluate", "rmt_rl.play", "rmt_rl.export"])
def test_a_reader_of_the_output_may_stop_early(command: str) -> None:
    arguments = [sys.executable, "-m", command, "--help"]
    with subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None and process.stderr is not None
        process.stdout.close()
        assert (process.stderr.read(), process.wait(timeout=60)) == (b"", 128 + 13)


def test_a_broken_pipe_that_is_not_the_output_is_an_error() -> None:
    def main(argv: list[str]) -> int:
        raise BrokenPipeError("of an environment")

    with pytest.raises(BrokenPipeError, match="of an environment"):
        run(main, [])


def test_letters_that_the_output_cannot_show_are_escaped(monkeypatch: pytest.MonkeyPatch) -> None:
    out = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr(sys, "stdout", out)

    def main(argv: list[str]) -> int:
        print("runs/é")
        return 0

    assert run(main, []) == 0
    out.seek(0)
    assert out.read() == "runs/\\xe9\n"


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")
def test_an_output_on_a_full_disk_is_one_sentence(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def main(argv: list[str]) -> int:
        print("a result")
        return 0

    with open("/dev/full", "w", encoding="utf-8") as full:
        monkeypatch.setattr(sys, "stdout", full)
        assert run(main, []) == 1
    message = "error: what the command prints cannot be written: No space left on device\n"
    assert capsys.readouterr().err == message


def test_a_command_whose_output_is_closed_does_its_work(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdout", None)
    monkeypatch.setattr(sys, "stderr", None)
    assert not on_terminal()

    def main(argv: list[str]) -> int:
        print("a result")
        assert not sys.stdout.isatty()
        return 0

    assert run(main, []) == 0
    sys.stdout.close()
    sys.stderr.close()


def test_parsing_writes_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    parse(["env=tmaze"])
    assert not list(tmp_path.iterdir())


# ------------------------------------------------------------------------------------- commands that can be typed as they are


@pytest.mark.parametrize("command", PARSERS)
def test_printed_commands_use_the_interpreter_in_use(command: type, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/opt/own/bin/python9")
    monkeypatch.chdir("/opt")
    lines = help_text(command).splitlines()
    assert lines[0].startswith("usage: own/bin/python9 -m rmt_rl.")
    assert all("own/bin/python9 -m" in line for line in lines if "-m rmt_rl" in line)
    with pytest.raises(ConfigError, match=r"\(see own/bin/python9 -m rmt_rl\.\w+ --help\)"):
        PARSERS[command](["nothing=3"])
    with pytest.raises(ConfigError, match="own/bin/python9 -m rmt_rl"):
        help_text(command, ["nothing=3"])


def test_the_list_of_commands_uses_the_interpreter_in_use(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from rmt_rl.__main__ import COMMANDS, main

    monkeypatch.setattr(sys, "executable", "/opt/own/bin/python9")
    monkeypatch.chdir("/opt")
    monkeypatch.setattr(sys, "argv", ["rmt_rl"])
    assert main() == 0
    listed = [line for line in capsys.readouterr().out.splitlines() if "-m rmt_rl" in line]
    assert [line.split()[:3] for line in listed] == [["own/bin/python9", "-m", f"rmt_rl.{name}"] for name in COMMANDS]
    monkeypatch.setattr(sys, "argv", ["rmt_rl", "train"])
    assert main() == 2
    assert "as in own/bin/python9 -m rmt_rl.train" in capsys.readouterr().err


@pytest.mark.parametrize("chosen", [["policy=rmt"], ["algo=ppo"], ["policy=lstm", "algo=rate"]])
def test_values_without_a_task_name_the_task_that_they_are_for(chosen: list[str]) -> None:
    told = (
        f"The values are those for env=minigrid-memory; `--help env=<task> {' '.join(chosen)}` shows those for another."
    )
    assert told in unwrapped(help_text(TrainConfig, chosen))
    assert "The values are those for" not in help_text(TrainConfig, [*chosen, "env=tmaze"])


@pytest.mark.parametrize("parser", [parse_evaluate, parse_play, parse_collect])
def test_a_gymnasium_environment_without_an_id_is_asked_for_one(parser: Callable[[Sequence[str]], Any]) -> None:
    given = ["env=gym", "policy=random", *(["out=x/y-v0"] if parser is parse_collect else [])]
    with pytest.raises(ConfigError, match=r"env=gym: which one is missing; expected env\.id=<id>"):
        parser(given)
    assert parser([*given, "env.id=CartPole-v1"]).env == "gym"
