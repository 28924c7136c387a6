"""What --help prints. `--help` lists the options of the command and the names in each group; `--help policy=rmt` one choice."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import MISSING, fields
from typing import Any

from rmt_rl.common.errors import ConfigError
from rmt_rl.common.process import command_line
from rmt_rl.config.cli import COLLECT, COMPARE, EVALUATE, EXPORT, MEMORY, PLAY, TRAIN, TUNE, ZOO
from rmt_rl.config.commands import CollectConfig, EvaluateConfig, ExportConfig, PlayConfig, TrainConfig, ZooConfig
from rmt_rl.config.comparison import BudgetConfig, CompareConfig, RayConfig, SlurmConfig, TuneConfig
from rmt_rl.config.diagnosis import MemoryReportConfig
from rmt_rl.config.envs import NoEnvConfig
from rmt_rl.config.fields import groups, options, show, without_families
from rmt_rl.config.files import to_dict
from rmt_rl.config.recipes import Recipe
from rmt_rl.config.registry import GROUPS, choose, load_entry_points, load_plugins
from rmt_rl.config.resolve import make_config

WIDTH = 120

SUMMARIES = {
    TrainConfig: "Trains a policy and writes it, with everything that was measured, to a new folder under runs/.",
    EvaluateConfig: "Plays new episodes with a saved policy and prints the score.",
    PlayConfig: "Draws episodes, with the policy's action probabilities and attention, into a GIF. Opens no window.",
    CollectConfig: "Plays episodes and writes them as a Minari dataset, from which algo=rate learns.",
    CompareConfig: "Trains and evaluates every combination of tasks, policies, options and seeds, and writes a report.",
    TuneConfig: "Searches for good settings of every task and policy, and writes the best ones as a file for rmt_rl.train.",
    ExportConfig: "Writes one acting step of a saved policy as a program (torch.export, ONNX) that takes and returns its memory.",
    MemoryReportConfig: "Reports how long a trained policy's memory holds the hidden variable of a task, and why it loses it.",
    ZooConfig: "Lists the trained policies that come with this package, with their scores. Other commands take zoo:<name>.",
}
PROGRAMS = {
    TrainConfig: TRAIN,
    EvaluateConfig: EVALUATE,
    PlayConfig: PLAY,
    CollectConfig: COLLECT,
    CompareConfig: COMPARE,
    TuneConfig: TUNE,
    ExportConfig: EXPORT,
    MemoryReportConfig: MEMORY,
    ZooConfig: ZOO,
}
EXAMPLES = {
    TrainConfig: (
        "env=minigrid-memory algo=ppo policy.width=128 steps=100000",
        "env=tmaze env.length=20 policy=lstm seed=1 run=first",
    ),
    EvaluateConfig: (
        "policy=runs/first/policy",
        "policy=runs/first/policy env.length=10000 episodes=100 deterministic=true",
    ),
    PlayConfig: ("policy=runs/first", "env=tmaze env.length=8 policy=random out=maze.gif"),
    CollectConfig: (
        "env=tmaze-rate env.min_length=1 env.length=88 out=tmaze/oracle-v0",
        "policy=runs/first out=tmaze/ppo-v0",
    ),
    CompareConfig: (
        "env=tmaze,minigrid-memory policy=rmt,trxl,lstm,mlp seeds=5 workers=2 out=first",
        "env=tmaze policy=rmt seeds=3 policy.segment=4,8,16 test.env.length=80,1000 out=lengths",
        "out=first executor=slurm slurm.partition=cpu",
    ),
    TuneConfig: (
        "env=tmaze policy=rmt algo.learning_rate=1e-4..1e-2 policy.segment=4,8 out=tuned",
        "env=tmaze policy=rmt,lstm algo.entropy_coef=0.001..0.03:log seeds=3 trials=40 out=entropy",
    ),
    ExportConfig: ("policy=runs/first", "policy=runs/first out=first-program onnx=true"),
    MemoryReportConfig: (
        "policy=runs/first env.length=10000 steps=2000",
        "policy=zoo:tmaze-rmt env.min_length=400 env.length=400 out=report",
    ),
    ZooConfig: ("show=tmaze-rmt", "add=runs/first name=tmaze-first"),
}

#: What the options of a comparison mean beside those listed.
MATRIX = (
    "Beside them env=<tasks>, policy=<policies> and every option of rmt_rl.train (see its --help). Values separated by commas"
    " are an axis of the comparison; commas in [ ], { } or quotes separate nothing. An option that a policy or a task does not"
    " have does not apply to it. test.env.<option>=<values> evaluates the trained policies on changed tasks, too. out=<folder>"
    " alone continues."
)
#: The same for a search.
SPACE = (
    "Beside them env=<tasks>, policy=<policies>, each of which is searched for by itself, and every option of rmt_rl.train (see"
    " its --help). An option with a range of numbers, low..high, or with several values separated by commas is tuned. A range"
    " whose ends have at least a ratio of 100 is logarithmic; low..high:log and low..high:linear say which. An option that a"
    " policy or a task does not have does not apply to it. The same command continues."
)


def wants_help(argv: Sequence[str]) -> bool:
    return not {"-h", "--help"}.isdisjoint(argv)


def help_text(command: type = TrainConfig, argv: Sequence[str] = ()) -> str:
    """The help of a command. argv: the arguments beside --help, such as env=tmaze, policy or policy=rmt.

    Raises ConfigError where an argument is not a group of the command or a choice of one.
    """
    load_entry_points()
    words = [argument for argument in argv if argument not in ("-h", "--help")]
    for word in words:
        if word.startswith("plugins="):
            load_plugins(word.partition("=")[2])
    words = [word for word in words if not word.startswith("plugins=")]
    for word in words:
        _check_topic(command, word)
    chosen = dict(word.split("=", 1) for word in words if "=" in word)
    if listed := [word for word in words if "=" not in word]:
        return "\n\n".join(_list_group(group) for group in listed)
    return _choices(command, chosen) if chosen else _overview(command)


def _check_topic(command: type, word: str) -> None:
    """Raise ConfigError unless the word is a group of the command, such as env, or a choice of one, such as env=tmaze."""
    group, equals, name = word.partition("=")
    if group not in _groups(command):
        known = ", ".join(_groups(command)) or "no groups"
        raise ConfigError(
            f"{show(word)}: --help describes a group, such as env, or a choice, such as env=tmaze;"
            f" {command_line(PROGRAMS[command])} has {known}"
        )
    if equals:
        choose(group, name)


def _groups(command: type) -> dict[str, str]:
    """The groups of a command with their default choices; commands for saved policies take env.* options, without a default."""
    return groups(command) or ({"env": ""} if "env_overrides" in command.__dataclass_fields__ else {})  # type: ignore[attr-defined]


def _overview(command: type) -> str:
    prog = command_line(PROGRAMS[command])
    lines = [f"usage: {prog} [name=value ...]", "", SUMMARIES[command], "", "examples:"]
    lines += [f"  {prog} {example}" for example in EXAMPLES[command]]
    lines += ["", "options, with their defaults:"]
    config = make_config() if command is TrainConfig else None
    lines += _option_lines(command, config=config)
    clusters = [*_option_lines(SlurmConfig, "slurm."), *_option_lines(RayConfig, "ray.")]
    if command is CompareConfig:
        lines += [*_option_lines(BudgetConfig, "budget."), *clusters, "", *_wrap(MATRIX)]
    if command is TuneConfig:
        lines += [*clusters, "", *_wrap(SPACE)]
    shown = _groups(command)
    for group in shown:
        if list(GROUPS[group]) == [group]:  # nothing to choose
            lines += _option_lines(GROUPS[group][group].config, f"{group}.")
    if shown:
        lines += _group_lines(shown)
    lines += [
        "",
        *_wrap(
            f"plugins=my_module,... imports modules that register environments, policies or algorithms.{_more(command)}"
        ),
    ]
    return "\n".join(lines)


def _group_lines(shown: dict[str, str]) -> list[str]:
    group, example = ("policy", "policy=rmt") if "policy" in shown else ("env", "env=tmaze")
    lines = [
        "",
        f"groups: `--help {group}` describes the choices, `--help {example}` the options of one, with the values it will use",
    ]
    for group, usual in shown.items():
        if list(GROUPS[group]) != [group]:
            names = without_families(GROUPS[group])
            text = f"  {group}=" + " | ".join(f"{name} (default)" if name == usual else name for name in names)
            lines += _wrap(text, 8)
    return lines


def _more(command: type) -> str:
    if command is not TrainConfig:
        return ""
    usual = groups(command)["env"]
    return (
        " config=<file> reads options from a YAML file; typed ones win. trust=true: that file, or resume=, may name a module."
        f" The values above are those of env={usual}; `--help env=tmaze` shows those of another task."
    )


def _list_group(group: str) -> str:
    lines = [f"{group}=<name>, one of:"]
    for name, entry in GROUPS[group].items():
        lines += _wrap(f"  {name:<22} {_summary(entry.config)}", 25)
    return "\n".join([*lines, "", f"`--help {group}={next(iter(GROUPS[group]))}` describes the options of one."])


def _choices(command: type, chosen: dict[str, str]) -> str:
    """The options of the chosen ones, with the values that a run with them uses."""
    # a configuration without an environment is complete with data only
    needed = {"algo": "rate", "data": "<id>"} if chosen.get("env") == NoEnvConfig.name else {}
    config = make_config(**{**needed, **chosen})
    parts = []
    for group, name in chosen.items():
        entry = choose(group, name)
        parts += [
            "",
            *_wrap(f"{group}={name}: {_summary(entry.config)}", 4),
            *_option_lines(entry.config, f"{group}.", getattr(config, group)),
        ]
        if command is TrainConfig and group == "env":
            parts += _option_lines(TrainConfig, config=config, only=("steps",))
        if command is TrainConfig and (group == "env" or _follows(config, entry.recipe)):
            parts += _recipe_lines(group, entry.recipe)
    if command is TrainConfig and "env" not in chosen:
        usual, words = groups(command)["env"], " ".join(f"{group}={name}" for group, name in chosen.items())
        parts += [
            "",
            *_wrap(f"The values are those for env={usual}; `--help env=<task> {words}` shows those for another."),
        ]
    return "\n".join(parts[1:])


def _follows(config: TrainConfig, recipe: Recipe) -> bool:
    """Whether a run has the options of a recipe; a task's own recipe may have others."""
    found = {**to_dict(config.policy), **to_dict(config.memory)}
    return all(found.get(key.partition(".")[2]) == value for key, value in recipe.options.items())


def _recipe_lines(group: str, recipe: Recipe) -> list[str]:
    """What the recipe of a task or a policy changes, and where that was measured."""
    single = {f"policy={name}": part for name, part in recipe.policies.items() if part.options}
    single |= {f"env.id={id}": part for id, part in recipe.ids.items()}
    lines = []
    for title, part in {
        f"  recipe of this {'task' if group == 'env' else group}": recipe,
        **{f"  and with {key}": one for key, one in single.items()},
    }.items():
        changes = " ".join(f"{key}={show(value)}" for key, value in part.options.items())
        lines += _wrap(f"{title}: {changes}" if changes else "", 4)
        if part.provenance:
            lines += _wrap(f"    measured: {part.provenance['score']} ({part.provenance['page']})", 6)
    return lines


def _summary(cls: type) -> str:
    return (cls.__doc__ or "").partition("\n")[0]


def _option_lines(cls: type, prefix: str = "", config: Any = None, only: Sequence[str] = ()) -> list[str]:
    """One line for each option: its name, the value that is used, its help. only: the names to show, or none for all."""
    table = {}
    for item in fields(cls):
        if not only and (usual := item.metadata.get("group")) and usual != item.name:
            table[f"{item.name}={usual}"] = item.metadata["help"]
    for name, known in options(cls).items():
        value = known.default if config is None else getattr(config, name)
        if not only or name in only:
            table[f"{prefix}{name}={'<required>' if value is MISSING else show(value)}"] = known.help
    return [line for setting, text in table.items() for line in _wrap(f"  {setting:<30} {text}", 33)]


def _wrap(text: str, indent: int = 0) -> list[str]:
    return textwrap.wrap(text, WIDTH, subsequent_indent=" " * indent, break_on_hyphens=False)
