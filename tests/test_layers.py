"""The structure of the package: imports point downwards, without a circle, and files and functions stay short."""

from __future__ import annotations

import ast
import statistics
from collections.abc import Collection
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "rmt_rl"

#: From the bottom to the top. A module may import from its own layer and from lower ones.
LAYERS = ("common", "config", "envs", "policies", "rollouts", "viewing", "algos", "runs")
#: Above the commands that they use: the comparison, and then the commands about comparisons.
ABOVE = {"comparison": 1, "compare": 2, "tune": 2, "zoo": 2}
#: Modules inside lower folders that are commands, and so belong to the top.
COMMANDS = {"rmt_rl.envs.check", "rmt_rl.policies.check"}


def module_name(path: Path, root: Path = PACKAGE.parent) -> str:
    parts = path.relative_to(root).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports_of(text: str, modules: Collection[str]) -> set[str]:
    """Those of `modules` that a file imports, inside functions and under TYPE_CHECKING, too."""
    found = set()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            # from package import module, or from module import name
            inside = (f"{node.module}.{alias.name}" for alias in node.names)
            found |= {name if name in modules else node.module for name in inside}
    return found & set(modules)


def layer(module: str) -> int:
    """The height of a module; commands, the bridges to other libraries and the package itself are above the layers."""
    parts = module.split(".")
    if module in COMMANDS or len(parts) < 2 or parts[1] not in LAYERS:
        return len(LAYERS) + (ABOVE.get(parts[1], 0) if len(parts) > 1 else max(ABOVE.values()))
    return LAYERS.index(parts[1])


def graph() -> dict[str, set[str]]:
    """What every module imports, by module."""
    modules = {module_name(path): path for path in sorted(PACKAGE.rglob("*.py"))}
    edges = {}
    for name, path in modules.items():
        edges[name] = imports_of(path.read_text(encoding="utf-8"), modules) - {name, "rmt_rl"}
    return edges


def upward(edges: dict[str, set[str]]) -> list[str]:
    return [
        f"{module} imports {target}"
        for module, targets in edges.items()
        for target in targets
        if layer(target) > layer(module)
    ]


def circles(edges: dict[str, set[str]]) -> list[list[str]]:
    """The shortest circle through each module that is in one."""
    found = []
    for start in edges:
        paths = [[start]]
        seen = set()
        while paths:
            path = paths.pop(0)
            for target in edges.get(path[-1], ()):
                if target == start:
                    found.append(path)
                    paths = []
                    break
                if target not in seen:
                    seen.add(target)
                    paths.append([*path, target])
    return found


def test_no_module_imports_from_a_higher_layer() -> None:
    assert upward(graph()) == []


def test_no_modules_import_each_other_in_a_circle() -> None:
    assert circles(graph()) == []


@pytest.mark.slow
@pytest.mark.parametrize("line", ["from rmt_rl.runs.setup import Evaluator", "def f():\n    import rmt_rl.train"])
def test_a_planted_upward_import_is_found(line: str) -> None:
    edges = graph()
    edges["rmt_rl.envs.base"] |= imports_of(line, edges)
    assert upward(edges) != []


@pytest.mark.slow
def test_a_planted_circle_is_found() -> None:
    edges = graph()
    edges["rmt_rl.common.rng"] = {"rmt_rl.common.state"}
    edges["rmt_rl.common.state"] = {"rmt_rl.common.rng"}
    assert circles(edges) != []


def test_no_file_is_longer_than_600_lines_and_no_config_file_longer_than_350() -> None:
    for path in [*PACKAGE.rglob("*.py"), *(ROOT / "experiments").rglob("*.py")]:
        lines = path.read_text(encoding="utf-8").count("\n")
        assert lines <= (350 if path.parent.name == "config" else 600), path


def test_functions_are_short() -> None:
    """The median is at most 20 lines, and no function has more than 90."""
    lengths = []
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef):
                length = (node.end_lineno or 0) - node.lineno + 1
                lengths.append(length)
                assert length <= 90, f"{path.name}: {node.name} has {length} lines"
    assert statistics.median(lengths) <= 20


def users_of(*packages: str) -> set[str]:
    """The modules that import one of these packages, inside functions, too."""
    users = set()
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            names += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if any(name.split(".")[0] in packages for name in names):
                users.add(module_name(path))
    return users


def test_only_the_torchrl_bridge_and_the_dataset_import_torchrl() -> None:
    users = {"rmt_rl.rollouts.dataset", "rmt_rl.torchrl.envs", "rmt_rl.torchrl.policies"}
    assert users_of("torchrl", "tensordict") == users


def test_only_the_bridge_to_stable_baselines3_imports_it() -> None:
    assert users_of("stable_baselines3") == {"rmt_rl.sb3"}


def test_only_jobs_of_comparisons_import_submitit() -> None:
    assert users_of("submitit") == {"rmt_rl.comparison.jobs"}


def test_only_searches_import_optuna() -> None:
    assert users_of("optuna") == {"rmt_rl.comparison.search"}


@pytest.mark.slow
def test_nothing_imports_a_bridge_to_another_library() -> None:
    """So `import rmt_rl`, and every command, works without these libraries."""
    for bridge in ("rmt_rl.sb3", "rmt_rl.torchrl"):
        inside = {module for module in graph() if module == bridge or module.startswith(f"{bridge}.")}
        assert not [module for module, targets in graph().items() if targets & inside and module not in inside]
