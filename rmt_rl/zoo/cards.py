"""The card of a policy of the zoo: card.json, and what people read of it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rmt_rl.common.errors import ConfigError
from rmt_rl.common.files import read_text
from rmt_rl.policies.zoo import PREFIX


def read_card(folder: Path) -> dict[str, Any]:
    """What card.json in the folder of a policy holds; raises ConfigError where it is damaged."""
    path = folder / "card.json"
    try:
        return dict(json.loads(read_text(path)))
    except (OSError, RecursionError, TypeError, ValueError) as error:
        raise ConfigError(f"{path}: is damaged ({type(error).__name__}); install rmt_rl again") from error


def score_text(score: Mapping[str, Any]) -> str:
    """`success 0.975 [0.963, 0.983]`; without an interval where all episodes that the task has were played."""
    interval = score["interval"]
    around = "exact" if interval is None else f"[{interval[0]:.3f}, {interval[1]:.3f}]"
    return f"{score['measure']} {score['value']:.3f} {around}"


def card_text(card: Mapping[str, Any]) -> str:
    """The card for people, in Markdown."""
    score, training = card["score"], card["training"]
    actions = "the most likely actions" if score["deterministic"] else "sampled actions"
    played = f"{score['episodes']:,} new episodes, seed {score['seed']}, {actions}"
    if score["interval"] is None:
        played += f"; the task has only {score['distinct']} different ones, and all were among them"
    elif score["distinct"] < score["episodes"]:
        played += f"; {score['distinct']} of them differ, each counts once"
    name, task = PREFIX + card["name"], " ".join([f"env={card['task']}", *card["env_options"]])
    rows = {
        "task": f"`{task}`",
        "policy": f"{card['policy']}, {card['parameters']:,} parameters, {card['bytes'] / 1_000:.0f} KB",
        "score": score_text(score),
        "floor, ceiling": ", ".join("not known" if x is None else f"{x:.3f}" for x in (card["floor"], card["ceiling"])),
        "measured over": played,
        "trained for": f"{training['steps']:,} steps, seed {training['seed']}, {training['cpu_s']:.0f} CPU-seconds",
        "date": card["date"],
        "versions": ", ".join(f"{package} {version}" for package, version in card["versions"].items()),
        "sha256 of the weights": f"`{card['sha256']['model.safetensors']}`",
    }
    lines = [f"# {name}", "", "| | |", "|---|---|", *(f"| {key} | {value} |" for key, value in rows.items())]
    lines += [
        "",
        "Trained by",
        "",
        "```sh",
        training["command"],
        "```",
        "",
        "Watch it, or continue from it:",
        "",
        "```sh",
    ]
    lines += [f"python -m rmt_rl.play policy={name}", f"python -m rmt_rl.train {task} init={name}", "```"]
    return "\n".join(lines) + "\n"
