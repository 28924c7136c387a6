"""The command line: `name=value` arguments become the frozen dataclasses of this package.

Hydra is not used: of its command line only the composition of groups was, and its sweeps and launchers belong to comparisons of
runs. `config=<file>` reads options from a YAML file, and what is typed wins over it.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import MISSING, fields, replace
from pathlib import Path
from typing import Any, TypeVar

from rmt_rl.common.errors import ConfigError, RunError, Stopped, is_out_of_memory
from rmt_rl.common.output import output_problem, prepare_output
from rmt_rl.common.process import command_line
from rmt_rl.config.commands import CollectConfig, EvaluateConfig, ExportConfig, PlayConfig, TrainConfig, ZooConfig
from rmt_rl.config.diagnosis import MemoryReportConfig
from rmt_rl.config.fields import Config, Option, groups, options, read, show
from rmt_rl.config.files import load_yaml, source_of
from rmt_rl.config.registry import choose, load_plugins
from rmt_rl.config.resolve import change, find_option, make_config, task_of_data, unknown_option, validate
from rmt_rl.config.trust import Source, check_trusted
from rmt_rl.config.yaml_files import plain_value, read_yaml

PlayerT = TypeVar("PlayerT", PlayConfig, CollectConfig)
ConfigT = TypeVar("ConfigT", bound=Config)

#: The modules of the commands; `command_line` makes of them what is typed in a shell.
TRAIN, EVALUATE, PLAY, EXPORT, COLLECT, COMPARE, TUNE, ZOO, MEMORY = (
    f"rmt_rl.{command}"
    for command in ("train", "evaluate", "play", "export", "collect", "compare", "tune", "zoo", "memory")
)

#: What `policy=` takes beside the folders of trained policies.
PLAYERS: dict[type, tuple[str, ...]] = {PlayConfig: ("random", "human-keys"), CollectConfig: ("oracle", "random")}


def parse(argv: Sequence[str], prog: str = TRAIN) -> TrainConfig:
    """The validated configuration of a training run; raises ConfigError."""
    given = split_arguments(argv)
    if given.get("resume", "null") != "null":
        return resumed_config(given, prog)
    trust = _trust(given)
    path = given.pop("config", None)
    if trust and path is None:
        raise ConfigError(
            "trust=true: has no effect without config= or resume=; it is about the modules that files name"
        )
    file = {} if path is None else read_options(path)
    usual = groups(TrainConfig)
    named = {group: _name_of(part, usual[group]) for group, part in file.items() if group in usual}
    chosen = {group: given.pop(group) for group in usual if group in given}
    recorded = task_of_data(file, chosen, {"data": data} if (data := given.get("data", "null")) != "null" else {})
    named |= {group: part["name"] for group, part in recorded.items()}
    classes = {group: choose(group, name).config for group, name in (usual | named | chosen).items()}
    values = _read_text(given, options(TrainConfig), classes, prog)
    config = make_config(file, **chosen, **values)
    if path is not None:
        check_trusted(config.env, source_of(path, trust), typed="env.id" in values)
    return config


def _trust(given: dict[str, Any]) -> bool:
    """Whether the user trusts the files that are read; removes the option, which no file may hold."""
    allowed = Option(bool, False, False, "", {}, (), None)
    return bool(read("trust", allowed, given.pop("trust", False)))


def config_from_file(given: Mapping[str, Any]) -> TrainConfig:
    """The configuration in the YAML file given["config"], with the other options of `given`, in their own types, on top."""
    given = dict(given)
    path, trust = given.pop("config"), _trust(given)
    if not isinstance(path, str | os.PathLike):
        raise ConfigError(
            f"config={show(path)}: expected the path of a YAML file of options; a TrainConfig is given as the first argument"
        )
    config = make_config(read_options(os.fspath(path)), **given)
    env = given.get("env")
    typed = "env.id" in given or isinstance(env, Config) or (isinstance(env, Mapping) and "id" in env)
    check_trusted(config.env, source_of(os.fspath(path), trust), typed=typed)
    return config


def read_options(path: str) -> dict[str, Any]:
    """The options in a YAML file, as `make_config` takes them; raises ConfigError.

    A file that `save_yaml` wrote, which names its format, is a complete configuration, that of a run: no recipe changes it.
    """
    if not path:
        raise ConfigError(
            "config=: cannot be read: no path; expected a YAML file, such as config=runs/<name>/config.yaml"
        )
    options = read_yaml(path, by_hand=True)
    if not isinstance(options, Mapping):
        raise ConfigError(f"config={show(path)}: expected a file of options, such as `env: tmaze` and `steps: 100000`")
    if "format" not in options:
        return dict(options)
    saved = load_yaml(path, trust=True)  # `parse` checks the configuration that it becomes
    return {item.name: getattr(saved, item.name) for item in fields(saved)}


def _name_of(part: Any, usual: str) -> Any:
    """The name of what a file chooses in a group."""
    if isinstance(part, Config):
        return part.name
    return part.get("name", usual) if isinstance(part, Mapping) else part


def resumed_config(given: Mapping[str, Any], prog: str = TRAIN) -> TrainConfig:
    """The configuration with which the run in the folder given["resume"] was started; raises ConfigError.

    given: beside it only a later end, steps=<more>; trust=true; or its env.id once more, which the user then trusts.
    """
    given = dict(given)
    trust = _trust(given)
    if others := [key for key in given if key not in ("resume", "env.id", "steps")]:
        own = show(f"{others[0]}={given[others[0]]}")
        raise ConfigError(
            f"{own}: a run is resumed with its own configuration; leave it out, or start a new run with init=<the run>;"
            " only steps=<more> can be given, to continue a finished run"
        )
    folder = _read_text({"resume": str(given["resume"])}, options(TrainConfig), {}, prog)["resume"]
    try:
        if (Path(folder) / "config.yaml").is_file():
            return _with_end(_trusted_run(folder, given.get("env.id"), trust), given)
        found = "no config.yaml in it" if Path(folder).exists() else "no such folder"
    except OSError as error:
        found = f"cannot be read: {error.strerror}"
    raise ConfigError(f"resume={show(folder, limit=1_000)}: {found}; expected the folder of a run, such as runs/<name>")


def _trusted_run(folder: str, id: Any, trust: bool) -> TrainConfig:
    """The configuration of the run in `folder`. id: the env.id= that the user repeated, or None."""
    file = Path(folder) / "config.yaml"
    config = load_yaml(file, trust=True)
    saved = getattr(config.env, "id", None)
    if id is not None and id != saved:
        raise ConfigError(
            f"env.id={show(id)}: a run is resumed with its own configuration; expected env.id={show(saved)} or no env.id="
            if saved is not None
            else f"env.id={show(id)}: a run is resumed with its own configuration; leave it out"
        )
    check_trusted(config.env, Source(str(file), file.parent, trust), typed=id is not None)
    return replace(config, resume=folder)


def _with_end(own: TrainConfig, given: Mapping[str, Any]) -> TrainConfig:
    """The configuration of a run with the later end that given["steps"] names, if it does."""
    if "steps" not in given:
        return own
    steps = read("steps", options(TrainConfig)["steps"], given["steps"])
    if steps <= own.steps:
        raise ConfigError(
            f"steps={steps}: the run in {show(own.resume, limit=1_000)} ends at step {own.steps}; expected more, the new end of"
            " the run"
        )
    return replace(own, steps=steps)


def parse_evaluate(argv: Sequence[str], prog: str = EVALUATE) -> EvaluateConfig:
    """The validated configuration of an evaluation; raises ConfigError."""
    return _parse_saved(argv, EvaluateConfig, prog)


def parse_play(argv: Sequence[str], prog: str = PLAY) -> PlayConfig:
    """The validated configuration of a picture; raises ConfigError."""
    return _check_player(_parse_saved(argv, PlayConfig, prog))


def parse_collect(argv: Sequence[str], prog: str = COLLECT) -> CollectConfig:
    """The validated configuration of a recording; raises ConfigError."""
    return _check_player(_parse_saved(argv, CollectConfig, prog))


def parse_export(argv: Sequence[str], prog: str = EXPORT) -> ExportConfig:
    """The validated configuration of an export; raises ConfigError."""
    return _parse_saved(argv, ExportConfig, prog)


def parse_memory(argv: Sequence[str], prog: str = MEMORY) -> MemoryReportConfig:
    """The validated configuration of a report about a memory; raises ConfigError."""
    return _parse_saved(argv, MemoryReportConfig, prog)


def parse_zoo(argv: Sequence[str], prog: str = ZOO) -> ZooConfig:
    """The validated options of the command about the zoo; raises ConfigError."""
    return _parse_saved(argv, ZooConfig, prog)


def _check_player(config: PlayerT) -> PlayerT:
    known = config.policy in PLAYERS[type(config)]
    if config.env is None and known:
        raise ConfigError(f"env: missing; policy={config.policy} was not trained on a task, expected env=<a task>")
    if known and config.trust:
        raise ConfigError(f"trust=true: has no effect with policy={config.policy}; expected a trained policy")
    if known and not config.deterministic:
        raise ConfigError(f"deterministic=false: has no effect with policy={config.policy}; expected a trained policy")
    return config


def _parse_saved(argv: Sequence[str], cls: type[ConfigT], prog: str) -> ConfigT:
    """The configuration of a command about a trained policy, whose env.* options are kept as text.

    With `env=` they are checked here; without it only `resolve_env` can, which knows the task of the policy.
    """
    given = split_arguments(argv)
    overrides: tuple[str, ...] = ()
    if "env_overrides" in cls.__dataclass_fields__:
        overrides = tuple(f"{key}={given.pop(key)}" for key in list(given) if key.startswith("env."))
    values = _read_text(given, options(cls), {}, prog)
    for name, known in options(cls).items():
        if known.default is MISSING and name not in values:
            raise ConfigError(f"{name}: missing; expected {name}=<{known.help}>")
    if values.get("env") is not None:
        resolve_env(None, values["env"], overrides, prog)
        usual = getattr(choose("env", values["env"]).config(), "id", None)
        if usual is not None and not gives_id(overrides):
            raise ConfigError(
                f"env={values['env']}: which one is missing; expected env.id=<id>, such as env.id={usual}"
            )
    if overrides:
        values["env_overrides"] = overrides
    return validate(cls(**values))


def resolve_env(base: Any, name: str | None, overrides: Sequence[str], prog: str = EVALUATE) -> Any:
    """The environment's dataclass with `env.*` overrides applied: to `base`, or to the defaults of env `name`."""
    if name is not None:
        base = choose("env", name).config()
    return change(base, "env", _read_text(split_arguments(overrides), {}, {"env": type(base)}, prog))


def gives_id(overrides: Sequence[str]) -> bool:
    """Whether the user typed an env.id=, so that it does not come from the policy's files."""
    return any(override.startswith("env.id=") for override in overrides)


def split_arguments(argv: Sequence[str]) -> dict[str, str]:
    """The arguments by name, each still as text; imports the modules that `plugins=` names."""
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
    if "plugins" in given:
        load_plugins(given.pop("plugins"))
    return given


def _read_text(
    given: Mapping[str, str], top: Mapping[str, Option], classes: Mapping[str, type], prog: str
) -> dict[str, Any]:
    """The arguments by name, each in its option's type."""
    values = {}
    for key, text in given.items():
        allowed = find_option(key, top, classes)
        if allowed is None:
            raise ConfigError(f"{show(key)}={show(text)}: {unknown_option(key, top, classes, command_line(prog))}")
        values[key] = read_argument(key, allowed, text)
    return values


def read_argument(key: str, allowed: Option, text: str) -> Any:
    """The value that a user typed for an option, in the option's type; raises ConfigError."""
    if allowed.kind is dict:
        try:
            value = plain_value(text)
        except ValueError:
            value = object()  # which `read` rejects
        inner = key.split(".")[2:]
        nested = value
        for name in reversed(inner):
            nested = {name: nested}
        read(key, allowed, nested, shown=text)
        return value
    if text == "null":
        return read(key, allowed, None, shown=text)
    if len(text) > 1 and text[0] == text[-1] and text[0] in "'\"":
        text = text[1:-1]
    return read(key, allowed, text, shown=text)


def run(main: Callable[[list[str]], int], argv: Sequence[str] | None = None) -> int:
    """The exit status of a command. Errors that users can act on become one line; a closed output ends the command quietly."""
    prepare_output()
    try:
        _refuse_several_processes()
        status = main(list(sys.argv[1:] if argv is None else argv))
        sys.stdout.flush()
    except ConfigError as error:
        sys.stderr.write(f"error: {error}\n")  # at once, because other processes may write, too
        return 2
    except RunError as error:
        sys.stderr.write(f"error: {error}\n")
        return 1
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        print(
            "error: the memory is full; use a smaller network, fewer rows (num_envs) or fewer episodes", file=sys.stderr
        )
        return 1
    except Stopped:
        raise
    except SystemExit as error:
        place = traceback.extract_tb(error.__traceback__)[-1]
        where = f"{os.path.basename(place.filename)}, line {place.lineno},"
        print(f"error: {where} called sys.exit({error.code!r}); expected code that raises an error", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 128 + signal.SIGINT
    except OSError:
        problem = output_problem()
        if problem is None:
            raise  # an environment's own pipe or file, for instance
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or Python complains once more when it exits
        if isinstance(problem, BrokenPipeError):
            return 128 + 13  # what the shell reports for a program that SIGPIPE ended
        print(f"error: what the command prints cannot be written: {problem.strerror}", file=sys.stderr)
        return 1
    return status


def _refuse_several_processes() -> None:
    """Raises ConfigError where torchrun starts a command in several processes that is not made for them."""
    spec = sys.modules["__main__"].__spec__
    name = "" if spec is None else spec.name
    several = "TORCHELASTIC_RUN_ID" in os.environ and os.environ.get("WORLD_SIZE", "1") != "1"
    if several and name.startswith("rmt_rl.") and name != "rmt_rl.train":
        raise ConfigError(f"{name}: runs in one process; start it without torchrun")


def in_main_thread() -> bool:
    """Whether Python allows signal handlers here."""
    return threading.current_thread() is threading.main_thread()
