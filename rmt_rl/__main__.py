"""`python -m rmt_rl`: the list of commands."""

import sys
from collections.abc import Sequence

from rmt_rl import __version__
from rmt_rl.common.errors import ConfigError
from rmt_rl.common.process import command_line
from rmt_rl.config.cli import run

COMMANDS = {
    "train": ("env=minigrid-memory algo=ppo", "train a memory agent"),
    "evaluate": ("policy=runs/<name>", "score a trained policy on new episodes"),
    "compare": ("env=tmaze policy=rmt,lstm seeds=5 out=<folder>", "compare policies over tasks, options and seeds"),
    "tune": ("env=tmaze policy=rmt algo.learning_rate=1e-4..1e-2 out=<folder>", "search for good settings"),
    "memory": ("policy=runs/<name>", "report how long a memory holds, and why it loses"),
    "play": ("policy=runs/<name>", "draw episodes into a GIF"),
    "collect": ("env=tmaze out=tmaze/oracle-v0", "record episodes as a Minari dataset"),
    "export": ("policy=runs/<name>", "write one acting step as a program of tensors"),
    "zoo": ("", "list the trained policies that come with the package"),
    "envs.check": ("my_module:MyEnv", "check an environment"),
    "policies.check": ("my_module:MyMemory", "check a backbone"),
}


def main(argv: Sequence[str] | None = None) -> int:
    """The exit status of the command."""
    return run(command, argv)


def command(argv: list[str]) -> int:
    if argv and not {"-h", "--help"} & set(argv):
        train = command_line("rmt_rl.train")
        raise ConfigError(f"{argv[0]}: commands are written with a dot, as in {train}")
    print(f"rmt_rl {__version__}: reinforcement learning for agents that must remember\n")
    typed = {f"{command_line(f'rmt_rl.{name}')} {example}": text for name, (example, text) in COMMANDS.items()}
    for command, text in typed.items():
        print(f"  {command:<{max(map(len, typed))}}  {text}")
    print("\nEvery command explains its options with --help.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
