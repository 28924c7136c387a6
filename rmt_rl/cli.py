"""The command line: `name=value` arguments become the frozen dataclasses of `config.py`.

Hydra's compose API puts the chosen groups together. Its command-line decorator is not used: no output folders, no
logging set-up, and every mistake is one line of ours instead of a page of Hydra's. This file is not for deciding what
is allowed; that is `config.py`.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import MISSING, fields, replace
from pathlib import Path
from typing import Any, TypeVar

from rmt_rl.config import (
    GROUPS,
    RECIPES,
    Collect,
    ConfigError,
    Evaluate,
    Export,
    MiniGridMemory,
    Option,
    Play,
    RunError,
    Train,
    choose,
    did_you_mean,
    from_dict,
    groups,
    load_yaml,
    options,
    read,
    show,
    size_and_random,
    validate,
)

PlayerT = TypeVar("PlayerT", Play, Collect)

TRAIN, EVALUATE, PLAY, EXPORT, COLLECT = (
    f"python -m rmt_rl.{command}" for command in ("train", "evaluate", "play", "export", "collect")
)

#: What `policy=` takes beside the folders of trained policies.
PLAYERS: dict[type, tuple[str, ...]] = {Play: ("random", "human-keys"), Collect: ("oracle", "random")}


def parse(argv: Sequence[str], schema: type[Train] = Train, prog: str = TRAIN) -> Train:
    """The validated configuration of a training run; raises ConfigError."""
    given = _split(argv)
    if given.get("resume", "null") != "null":
        return _resumed(given, prog)
    if given.get("init", "null") != "null" and (own := [key for key in given if key.partition(".")[0] == "policy"]):
        raise ConfigError(f"{own[0]}={show(given[own[0]])}: the policy of init brings its own options; leave it out")
    # `validate` cannot tell a width that was given from the default
    if given.get("policy.params", "null") != "null" and "policy.width" in given:
        params, width = show(given["policy.params"]), show(given["policy.width"])
        raise ConfigError(f"policy.params={params}: policy.width={width} is given too; give only one of them")
    choices = {group: given.pop(group, usual) for group, usual in groups(schema).items()}
    for group, name in choices.items():
        choose(group, name)
    recipe = RECIPES.get(choices["env"], {})
    recipe = {
        key: value for key, value in recipe.items() if _find(key, options(schema), choices)
    }  # what this policy has
    values = recipe | _read_all(given, options(schema), choices, prog)
    return from_dict(_updated(_composed(schema, choices), values), schema)


def _resumed(given: Mapping[str, str], prog: str) -> Train:
    """The configuration of the run that `resume` names, with which it began."""
    if others := [key for key in given if key != "resume"]:
        own = show(f"{others[0]}={given[others[0]]}")
        raise ConfigError(
            f"{own}: a run is resumed as it was configured; leave it out, or take init=<the run> for another one"
        )
    folder = _read_all(given, options(Train), {}, prog)["resume"]
    if not (Path(folder) / "config.yaml").is_file():
        found = "no config.yaml in it" if Path(folder).exists() else "no such folder"
        raise ConfigError(f"resume={folder}: {found}; expected the folder of a run, such as runs/<name>")
    return replace(load_yaml(Path(folder) / "config.yaml"), resume=folder)


def parse_evaluate(argv: Sequence[str], prog: str = EVALUATE) -> Evaluate:
    """The validated configuration of an evaluation; raises ConfigError."""
    values = _read_with_env(argv, Evaluate, prog)
    if "policy" not in values:
        raise ConfigError("policy: missing; expected policy=<the folder of a trained policy>")
    return validate(Evaluate(**values))


def parse_play(argv: Sequence[str], prog: str = PLAY) -> Play:
    """The validated configuration of a picture; raises ConfigError."""
    return _with_player(validate(Play(**_read_with_env(argv, Play, prog))))


def parse_collect(argv: Sequence[str], prog: str = COLLECT) -> Collect:
    """The validated configuration of a recording; raises ConfigError."""
    values = _read_with_env(argv, Collect, prog)
    if "out" not in values:
        raise ConfigError("out: missing; expected out=<the id of a new Minari dataset>, such as out=tmaze/oracle-v0")
    return _with_player(validate(Collect(**values)))


def _with_player(config: PlayerT) -> PlayerT:
    known = config.policy in PLAYERS[type(config)]
    if config.env is None and known:
        raise ConfigError(f"env: missing; policy={config.policy} was trained on nothing, expected env=<a task>")
    if known and not config.deterministic:
        raise ConfigError(f"deterministic=false: means nothing with policy={config.policy}; expected a trained policy")
    return config


def _read_with_env(argv: Sequence[str], schema: type, prog: str) -> dict[str, Any]:
    """The values of a command about a trained policy, whose env.* options are kept as text.

    With `env=` they are checked here; without it only `resolve_env` can, which knows the trained one.
    """
    given = _split(argv)
    overrides = tuple(f"{key}={given.pop(key)}" for key in list(given) if key.startswith("env."))
    values = _read_all(given, options(schema), {}, prog)
    if values.get("env") is not None:
        resolve_env(None, values["env"], overrides, prog)
    return values | {"env_overrides": overrides}


def parse_export(argv: Sequence[str], prog: str = EXPORT) -> Export:
    """The validated configuration of an export; raises ConfigError."""
    values = _read_all(_split(argv), options(Export), {}, prog)
    if "policy" not in values:
        raise ConfigError("policy: missing; expected policy=<the folder of a trained policy>")
    return validate(Export(**values))


def resolve_env(base: Any, name: str | None, overrides: Sequence[str], prog: str = EVALUATE) -> Any:
    """The environment's dataclass with `env.*` overrides applied: to `base`, or to the defaults of env `name`."""
    from omegaconf import OmegaConf

    if name is not None:
        base = choose("env", name)()
    values = _read_all(_split(overrides), {}, {"env": base.name}, prog)
    changed = _updated(OmegaConf.create({"env": _writable(base)}), values)
    return validate(type(base)(**changed["env"]), "env.")


def _split(argv: Sequence[str]) -> dict[str, str]:
    """The arguments by name, each still as text."""
    given: dict[str, str] = {}
    for argument in argv:
        key, equals, text = argument.partition("=")
        name = key.lstrip("-+~")
        if not equals or not name:
            raise ConfigError(f"{show(argument)}: expected name=value, such as seed=1")
        if name != key:
            raise ConfigError(f"{show(argument)}: expected {show(f'{name}={text}')}, without {key[: -len(name)]}")
        if key in given:
            raise ConfigError(f"{show(argument)}: {show(key)} is given twice, {show(given[key])} before; expected once")
        given[key] = text
    return given


def _read_all(
    given: Mapping[str, str], top: Mapping[str, Option], choices: Mapping[str, str], prog: str
) -> dict[str, Any]:
    """The arguments by name, each in its option's type; `choices` are the chosen groups, `top` the other options."""
    values = {}
    for key, text in given.items():
        allowed = _find(key, top, choices)
        if allowed is None:
            raise ConfigError(f"{show(key)}={show(text)}: {_unknown(key, top, choices, prog)}")
        values[key] = _value(key, allowed, text)
    return _with_id(values) if choices.get("env") == MiniGridMemory.name else values


def _find(key: str, top: Mapping[str, Option], choices: Mapping[str, str]) -> Option | None:
    group, _, name = key.partition(".")
    if group not in choices or "" in key.split("."):
        return top.get(key)
    name, _, inner = name.partition(".")
    allowed = options(GROUPS[group][choices[group]]).get(name)
    return allowed if not inner or (allowed and allowed.kind is dict) else None


def _unknown(key: str, top: Mapping[str, Option], choices: Mapping[str, str], prog: str) -> str:
    """What to say of a name that does not exist, or that belongs to a choice that was not made."""
    group, _, name = key.partition(".")
    if group in choices:
        known = options(GROUPS[group][choices[group]])
        owners = [f"{group}={choice}" for choice, cls in GROUPS[group].items() if name in options(cls)]
        hint = did_you_mean(key, [f"{group}.{option}" for option in known])
        if owners:
            hint = f"; {name} is an option of {', '.join(owners)}"
        if name == "name":
            hint = f"; did you mean {group}=<name>?"
        return f"{group}={choices[group]} has no such option, it has {', '.join(known)}{hint}"
    # an evaluation chooses no groups, but takes the options of every environment
    nested = [f"{group}.{n}" for group in choices or ["env"] for cls in GROUPS[group].values() for n in options(cls)]
    names = [*choices, *top]
    hint = did_you_mean(key, [*names, *nested])
    return f"no such option, expected one of {', '.join(names)} (see {prog} --help){hint}"


def _value(key: str, allowed: Option, text: str) -> Any:
    value: Any = text
    if allowed.kind is dict:
        value = _hydra_value(text)
        for name in reversed(key.split(".")[2:]):
            value = {name: value}
    elif text == "null":
        value = None
    elif len(text) > 1 and text[0] == text[-1] and text[0] in "'\"":
        value = text[1:-1]
    return read(key, allowed, value, shown=text)


def _hydra_value(text: str) -> Any:
    """A value in Hydra's grammar, such as `{a: 1, b: [x, y]}`; what is none comes back as something `read` refuses."""
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException

    try:
        return OverridesParser.create().parse_override(f"value={text}").value()
    except (HydraException, ValueError, RecursionError):
        return object()


def _with_id(values: dict[str, Any]) -> dict[str, Any]:
    """env.id and what it stands for, together.

    In an evaluation both may meet another id, size and random from training: the newest word counts, so an id brings
    its own size and random, and a size or random without an id takes the old id away.
    """
    given = {name: values[f"env.{name}"] for name in ("size", "random") if f"env.{name}" in values}
    if values.get("env.id") is not None:
        fixed = size_and_random(values["env.id"], given)
        return values | {f"env.{name}": value for name, value in fixed.items()}
    return values | {"env.id": None} if given else values


def _composed(schema: type[Train], choices: Mapping[str, str]) -> Any:
    """Hydra's configuration for the chosen groups, with their defaults."""
    from hydra import compose, initialize
    from hydra.core.config_store import ConfigStore

    store = ConfigStore.instance()
    for group, parts in GROUPS.items():
        for name, part in parts.items():
            store.store(group=group, name=name, node=_writable(part))
    store.store(name="rmt_rl", node=_writable(schema))
    with initialize(version_base="1.3", config_path=None):
        return compose("rmt_rl", overrides=[f"+{group}={name}" for group, name in choices.items()])


def _writable(part: Any) -> Any:
    """A structured config that may be changed: OmegaConf makes those of frozen dataclasses read-only."""
    from omegaconf import OmegaConf

    node = OmegaConf.structured(part)
    OmegaConf.set_readonly(node, False)
    return node


def _updated(config: Any, values: Mapping[str, Any]) -> dict[str, Any]:
    """An OmegaConf configuration with the values set, as plain dictionaries."""
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    for key, value in values.items():
        # below a dictionary option the rest of the key is already part of the value
        path = ".".join(key.split(".")[:2])
        try:
            OmegaConf.update(config, path, value, force_add=True)
        except OmegaConfBaseException as error:
            # a list in env.options and then a key below it, for instance
            raise ConfigError(f"{show(key)}: expected something that fits the {path} before it") from error
    plain: dict[str, Any] = OmegaConf.to_container(config)  # type: ignore[assignment]
    return plain


# -------------------------------------------------------------------------------------------------------- --help

SUMMARIES = {
    Collect: "Plays episodes and writes them as a Minari dataset, from which algo=rate learns.",
    Train: "Trains a policy and writes it, with everything that was measured, to a new folder under runs/.",
    Evaluate: "Plays fresh episodes with a saved policy and prints how they went.",
    Play: "Draws some episodes, with what the policy does and where it looks, into a GIF. Opens no window.",
    Export: "Writes one acting step of a saved policy as a program (torch.export, ONNX) with its memory as inputs and outputs.",
}
EXAMPLES = {
    Collect: (
        "env=tmaze-rate env.min_length=1 env.length=88 out=tmaze/oracle-v0",
        "policy=runs/first out=tmaze/ppo-v0",
    ),
    Train: (
        "env=minigrid-memory algo=ppo policy.width=128 steps=100000",
        "env=tmaze env.length=20 policy=lstm seed=1 run=first",
    ),
    Evaluate: ("policy=runs/first/policy", "policy=runs/first/policy env.length=10000 episodes=100 deterministic=true"),
    Play: ("policy=runs/first", "env=tmaze env.length=8 policy=random out=maze.gif"),
    Export: ("policy=runs/first", "policy=runs/first out=first-program onnx=true"),
}


def help_text(prog: str = TRAIN, schema: type = Train) -> str:
    """What --help prints: an abstract, two examples, then every option with its default and its one line."""
    lines = [f"usage: {prog} [name=value ...]", "", SUMMARIES[schema], "", "examples:"]
    lines += [f"  {prog} {example}" for example in EXAMPLES[schema]]
    lines += ["", "options, with their defaults:", *_help_lines(schema)]
    chosen = groups(schema) or ({"env": ""} if schema in (Evaluate, Play, Collect) else {})
    for group, usual in chosen.items():
        for name, cls in GROUPS[group].items():
            mark = " (default)" if name == usual else ""
            summary = (cls.__doc__ or "").partition("\n")[0]
            title = group if name == group else f"{group}={name}{mark}"
            lines += ["", f"{title}: {summary}", *_help_lines(cls, f"{group}.")]
            if schema is Train and name in RECIPES:
                changes = " ".join(f"{key}={show(value)}" for key, value in RECIPES[name].items())
                lines.append(f"  unless you say otherwise: {changes}")
    return "\n".join(lines)


def run(main: Callable[[], int]) -> int:
    """The exit status of a command; whoever reads its output may stop early, as `| head` does."""
    try:
        status = main()
        sys.stdout.flush()
    except RunError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except BrokenPipeError:
        if not _reader_is_gone():
            raise  # an environment's own pipe, for instance
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or Python complains once more at its end
        return 128 + 13  # as the shell says of a program that SIGPIPE ended
    return status


def _reader_is_gone() -> bool:
    """Whether standard output leads nowhere any more."""
    try:
        print(flush=True)  # what could not be written before may not be tried again by a flush alone
    except BrokenPipeError:
        return True
    return False


def _help_lines(cls: type, prefix: str = "") -> list[str]:
    table = {}
    for item in fields(cls):
        if (usual := item.metadata.get("group")) and usual != item.name:  # else there is nothing to choose
            table[f"{item.name}={usual}"] = f"{item.metadata['help']}: {', '.join(GROUPS[item.name])}"
    for name, known in options(cls).items():
        default = "<required>" if known.default is MISSING else show(known.default)
        table[f"{prefix}{name}={default}"] = known.help
    return [f"  {setting:<32} {text}" for setting, text in table.items()]
