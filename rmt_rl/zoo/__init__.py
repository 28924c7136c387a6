"""The trained policies that come with this package: `python -m rmt_rl.zoo [show=<name>]`.

    policy = rmt_rl.load_policy("zoo:tmaze-rmt")

Each is a folder beside this file: the files of a saved policy, card.json with its score and how it was trained, and the same as
README.md. `python -m rmt_rl.zoo add=<run> name=<name>` makes one of a run (`adding.py`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rmt_rl.policies.zoo import zoo_folder, zoo_names
from rmt_rl.zoo.cards import card_text, read_card, score_text


def cards() -> dict[str, dict[str, Any]]:
    """The card of every policy of the zoo, by its name."""
    return {name: read_card(zoo_folder(name, name)) for name in zoo_names()}


def table() -> str:
    """All policies of the zoo with their scores, one line each."""
    head = ("name", "task", "policy", "score", "floor", "ceiling", "steps")
    rows = [
        (
            name,
            card["task"],
            card["policy"],
            score_text(card["score"]),
            _bound(card["floor"]),
            _bound(card["ceiling"]),
            f"{card['training']['steps']:,}",
        )
        for name, card in cards().items()
    ]
    widths = [max(len(row[column]) for row in (head, *rows)) for column in range(len(head))]
    lines = ["  ".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True)) for row in (head, *rows)]
    return "\n".join(line.rstrip() for line in lines)


def _bound(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def main(argv: Sequence[str] | None = None) -> int:
    """The exit status of the command."""
    from rmt_rl.config.cli import run

    return run(command, argv)


def command(argv: list[str]) -> int:
    from rmt_rl.common.process import command_line, configure_process
    from rmt_rl.config.cli import parse_zoo
    from rmt_rl.config.commands import ZooConfig
    from rmt_rl.config.fields import show
    from rmt_rl.config.help import help_text, wants_help

    if wants_help(argv):
        print(help_text(ZooConfig, argv))
        return 0
    options = parse_zoo(argv)
    if options.add is not None:
        configure_process(threads=1)
        from rmt_rl.zoo.adding import add

        folder = add(options.add, str(options.name), options.episodes, options.seed, options.deterministic)
        print(f"{card_text(read_card(folder))}\nwrote {folder}")
    elif options.show is not None:
        print(card_text(read_card(zoo_folder(options.show, f"show={show(options.show)}"))), end="")
    else:
        print(f"{table()}\n\n{command_line('rmt_rl.play')} policy=zoo:<name>")
    return 0
