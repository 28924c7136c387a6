"""Trained policies that come with this package: zoo:<name> stands for the folder rmt_rl/zoo/<name>.

What makes and lists them is `rmt_rl.zoo`; here is only what loading one needs.
"""

from __future__ import annotations

import difflib
from pathlib import Path

from rmt_rl.common.errors import ConfigError
from rmt_rl.common.process import command_line
from rmt_rl.config.fields import show

#: A folder for each policy.
ZOO = Path(__file__).parent.parent / "zoo"
#: How the name of a policy of the zoo begins where a folder is expected.
PREFIX = "zoo:"


def zoo_names() -> list[str]:
    """The names of all policies of the zoo."""
    return sorted(folder.name for folder in ZOO.iterdir() if (folder / "card.json").is_file())


def zoo_folder(name: str, given: str) -> Path:
    """The folder of a policy of the zoo; raises ConfigError with near names where there is none. given: what the user typed."""
    names = zoo_names()
    if name in names:  # and not a path, such as ../other
        return ZOO / name
    near = difflib.get_close_matches(name.lower(), names, n=3, cutoff=0.4)
    hint = f"; did you mean {' or '.join(near)}?" if near else ""
    raise ConfigError(f"{given}: no such policy in the zoo, which `{command_line('rmt_rl.zoo')}` lists{hint}")


def in_zoo(path: object) -> bool:
    """Whether a policy is given by its name in the zoo."""
    return isinstance(path, str) and path.startswith(PREFIX)


def zoo_path(path: str, option: str) -> Path:
    """The folder of zoo:<name>, given as the option `option`."""
    return zoo_folder(path.removeprefix(PREFIX), f"{option}={show(path)}")
