"""Whether a folder's comparison may become another one: more tasks, policies, seeds and values, the same options. Torch-free."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rmt_rl.common.errors import ConfigError
from rmt_rl.comparison.cells import Cell, Matrix, expand
from rmt_rl.comparison.request import load_modules
from rmt_rl.comparison.rows import difference, flat
from rmt_rl.comparison.store import REQUEST
from rmt_rl.config.fields import show
from rmt_rl.config.files import to_dict, typed
from rmt_rl.config.registry import OBJECTS, PLUGINS
from rmt_rl.config.trust import Source, check_trusted, lies_below

ADVICE = "give the same options, or another out="


def check_extends(folder: Path, old: Matrix, new: Matrix, cells: Sequence[Cell]) -> None:
    """Raise ConfigError unless every cell of the comparison in a folder is, unchanged, one of the cells of a new one."""
    where = f"out={folder}"
    asked: dict[str, tuple[tuple[Any, ...], tuple[Any, ...]]] = {
        "env": (old.tasks, new.tasks),
        "policy": (old.policies, new.policies),
        "seeds": (old.seeds, new.seeds),
    }
    for name, (before, now) in asked.items():
        if missing := [str(value) for value in before if value not in now]:
            raise ConfigError(
                f"{name}={','.join(map(str, now))}: leaves out {', '.join(missing)} of the comparison in {where}; give all, or"
                " another out="
            )
    if old.cpu_s != new.cpu_s:
        raise ConfigError(f"budget.cpu_s={typed(new.cpu_s)}: {where} has budget.cpu_s={typed(old.cpu_s)}; {ADVICE}")
    found = {cell.key: cell for cell in cells}
    for cell in expand(old):
        same = found.get(cell.key)
        if same is None:
            variant = " ".join(f"{key}={typed(value)}" for key, value in cell.variant.items()) or "no variants"
            raise ConfigError(f"{where}: its cell {cell.key} ({variant}) is none of this comparison; {ADVICE}")
        if (changed := difference(cell.config, same.config)) is not None:
            own, other = (show(flat(to_dict(one.config)).get(changed)) for one in (cell, same))
            raise ConfigError(f"{changed}={other}: {where} has {changed}={own} in its cell {cell.key}; {ADVICE}")
        if cell.episodes != same.episodes:
            raise ConfigError(
                f"evaluate_episodes={same.episodes}: {where} has evaluate_episodes={cell.episodes}; {ADVICE}"
            )
        if cell.tests != same.tests:
            tests = [name for name in {**cell.tests, **same.tests} if cell.tests.get(name) != same.tests.get(name)]
            raise ConfigError(
                f"test: {tests[0]} is tested in one of this comparison and that in {where} only; {ADVICE}"
            )


def trusted_cells(folder: Path, matrix: Matrix, trust: bool) -> list[Cell]:
    """The cells of the comparison in a folder that is continued by its name alone.

    Raises ConfigError where its file names a module that would be imported, unless the user trusts it or named it, too.
    """
    file = folder / REQUEST
    modules = [module for module in matrix.plugins if module not in PLUGINS]
    modules += [task.partition(":")[0] for task in matrix.tasks if ":" in task and task not in OBJECTS]
    for module in modules:
        if lies_below(module, folder):
            raise ConfigError(
                f"{file}: its module {show(module)} lies in {folder}, and no code in there is run; move it"
            )
        if not trust:
            raise ConfigError(
                f"{file}: names the module {show(module)}, and importing it can run any code; if you trust it, give trust=true or"
                f" plugins={show(module)}"
            )
    load_modules(matrix.plugins, matrix.tasks)
    cells = expand(matrix)
    for cell in cells:
        check_trusted(cell.config.env, Source(str(file), folder, trust))
    return cells
