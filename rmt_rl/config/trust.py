"""Which modules a file may name. Importing a module runs it, so an untrusted file could run any code by naming one."""

from __future__ import annotations

import importlib.machinery
import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rmt_rl.common.errors import ConfigError
from rmt_rl.config.fields import show

#: (prefixes of gymnasium ids, the module that registers them, how to install it). Files may name these modules and no others.
PACKAGES = (
    (("MiniGrid-", "BabyAI-"), "minigrid", "pip install minigrid"),
    (("popgym-",), "popgym", "pip install popgym, or 'rmt_rl[suites]'"),
    (
        ("MortarMayhem", "MysteryPath", "SearingSpotlights", "Endless-"),
        "memory_gym",
        "pip install --no-deps memory-gym, because its requirements pin an older gymnasium",
    ),
)

#: Ids with which shimmy makes an environment of the old gym, whose own id, an option, may name a module, too.
OLD_GYM = ("GymV21Environment", "GymV26Environment")


@dataclass(frozen=True)
class Source:
    """The file that options were read from.

    folder: what was loaded with it, such as the folder of a run, or None where that is not known. trusted: the user said
    trust=true.
    """

    file: str
    folder: Path | None = None
    trusted: bool = False


def run_folder(folder: Path) -> Path:
    """The folder of the run to which a policy's folder belongs, or that folder itself."""
    return folder.parent if folder.resolve().name in ("policy", "best") else folder


def check_trusted(env: Any, source: Source | None, typed: bool = False) -> None:
    """Raise ConfigError where `env`, an environment's options, would import a module because an untrusted file names it.

    typed: the user gave the id, so it does not come from the file. A module below the folder that is loaded is never imported.
    """
    module = module_of(getattr(env, "name", None), getattr(env, "id", None))
    if source is None or not module:
        return
    if source.folder is not None and lies_below(module, source.folder):
        raise ConfigError(
            f"env.id={show(env.id)}: its module {show(module)} lies in {show(str(source.folder), 1_000)}, which is being loaded,"
            " and no code in there is run; if you trust the module, move it out of that folder"
        )
    if not (typed or source.trusted or module in [known for _, known, _ in PACKAGES]):
        raise ConfigError(
            f"env.id={show(env.id)}: {show(source.file, 1_000)} names the module {show(module)}, and importing it can run any"
            " code; if you trust it, give trust=true or repeat the env.id="
        )


def module_of(name: Any, id: Any) -> str:
    """The module that making the environment `name` imports because its option `id` names it; "" for none."""
    if name != "gym" or not isinstance(id, str):
        return ""
    module, colon, name = id.rpartition(":")
    if name.rpartition("/")[2].startswith(OLD_GYM):
        return f"{module}{colon}gym"
    if colon:
        return module
    return next((module for prefixes, module, _ in PACKAGES if name.startswith(prefixes)), "")


def lies_below(module: str, folder: Path) -> bool:
    """Whether `import module` would run a file below `folder`; imports nothing, not even the packages around it."""
    below, python = os.path.realpath(folder), os.path.realpath(sys.prefix)
    places = [place or os.curdir for place in sys.path]
    for part in module.split("."):
        # the part alone: with its whole name Python would look up the packages around it, which are not imported
        spec = importlib.machinery.PathFinder.find_spec(part, places)
        if spec is None:
            return False
        places = list(spec.submodule_search_locations or ())
        found = [*places, *([spec.origin] if spec.origin and spec.has_location else [])]
        real = [Path(os.path.realpath(place)) for place in found]
        # a virtual environment below the folder is the one that runs already
        if any(path.is_relative_to(below) and not path.is_relative_to(python) for path in real):
            return True
    return False
