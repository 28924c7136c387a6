"""No file that the package reads can run code: the source has none of the calls that would.

Imports by value, where the name of the module is no literal, are listed one by one. `test_untrusted_modules.py` shows that no
file reaches them.
"""

import ast
from pathlib import Path

import rmt_rl

SOURCES = sorted(Path(rmt_rl.__file__).parent.rglob("*.py"))
#: Modules that unpickle, and calls that run code or build arbitrary objects.
MODULES = {"pickle", "cPickle", "cloudpickle", "dill", "joblib", "marshal", "shelve"}
BUILTINS = {"eval", "exec", "compile", "__import__"}
CALLS = {
    ("torch", "load"),
    ("numpy", "load"),
    ("np", "load"),
    ("yaml", "load"),
    ("yaml", "unsafe_load"),
    ("yaml", "full_load"),
    ("hydra.utils", "instantiate"),
    ("utils", "instantiate"),
    ("os", "system"),
    ("os", "popen"),
}

#: Calls that import a module, by the last part of their name.
IMPORTS = {
    "EntryPoint",
    "entry_points",
    "find_spec",
    "import_module",
    "load_env_creator",
    "make",
    "make_vec",
    "module_from_spec",
    "resolve_name",
    "run_module",
    "run_path",
    "spec",
}
#: The calls with a name that is computed, by file. Each gets it from this package or from the user, never from a file.
IMPORTED_BY_VALUE = {
    # names in the source of this package
    "__init__.py": ["importlib.import_module(module)", "importlib.import_module(f'rmt_rl.{name}')"],
    "common/process.py": ["importlib.util.find_spec(package)"],
    "runs/metrics.py": ["importlib.util.find_spec(package)"],
    # targets of the built-in choices, plugins= as typed, entry points of installed packages
    "config/registry.py": ["importlib.import_module(module)", "importlib.import_module(module)"],
    # finds, imports nothing
    "config/trust.py": ["importlib.machinery.PathFinder.find_spec(part, places)"],
    # arguments of the command line
    "envs/check.py": ["importlib.import_module(module)", "gymnasium.make"],
    "policies/check.py": ["importlib.import_module(module)"],
    # env=module:name as typed, or after `check_trusted`
    "comparison/request.py": ["importlib.import_module(module)"],
    # ids and modules after `check_trusted`
    "envs/gym/adapter.py": [
        "importlib.import_module(id.split(':')[0])",
        "gymnasium.make_vec(id, num_envs, vectorization_mode='vector_entry_point', **options)",
        "gymnasium.make(found, **keywords)",
        "gymnasium.make_vec(id, num_envs, vectorization_mode='sync', vector_kwargs={'autoreset_mode': AutoresetMode.SAME_STEP},"
        " wrappers=[make_row], **keywords)",
        "importlib.util.find_spec(module)",
        "importlib.import_module(module)",
    ],
    "viewing/film.py": ["gymnasium.envs.registration.load_env_creator(spec.entry_point)"],
}


def imported_by_value(tree: ast.AST) -> list[str]:
    """The calls that import a module whose name is no literal, and such functions that are passed on, in their order."""
    called = {id(node.func): node for node in ast.walk(tree) if isinstance(node, ast.Call)}
    found = []
    for node in ast.walk(tree):
        name = node.attr if isinstance(node, ast.Attribute) else node.id if isinstance(node, ast.Name) else ""
        if name not in IMPORTS or (isinstance(node, ast.Attribute) and not _is_library(node.value)):
            continue
        if isinstance(node, ast.Name) and name in ("make", "spec"):  # local names
            continue
        call = called.get(id(node))
        if call is None or not (call.args and isinstance(call.args[0], ast.Constant)):
            found.append((node.lineno, node.col_offset, ast.unparse(call or node)))
    return [text for _, _, text in sorted(found)]


def _is_library(node: ast.AST) -> bool:
    return ast.unparse(node).partition(".")[0] in ("importlib", "gymnasium", "pkgutil", "runpy", "registration")


def found_in(tree: ast.AST) -> list[str]:
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names if alias.name.partition(".")[0] in MODULES]
        elif isinstance(node, ast.ImportFrom):
            module = node.module or ""
            found += [module] if module.partition(".")[0] in MODULES else []
            found += [f"{module}.{a.name}" for a in node.names if (module, a.name) in CALLS or a.name == "instantiate"]
        elif isinstance(node, ast.Call):
            call = node.func
            if isinstance(call, ast.Name) and call.id in BUILTINS:
                found.append(call.id)
            if isinstance(call, ast.Attribute) and (ast.unparse(call.value), call.attr) in CALLS:
                found.append(ast.unparse(call))
            found += [
                ast.unparse(k) for k in node.keywords if k.arg == "allow_pickle" and ast.unparse(k.value) != "False"
            ]
    return found


def test_the_source_has_no_call_that_runs_code_from_a_file() -> None:
    assert len(SOURCES) > 40
    assert {
        str(path): found for path in SOURCES if (found := found_in(ast.parse(path.read_text(encoding="utf-8"))))
    } == {}


def test_the_search_finds_such_calls() -> None:
    bad = [
        "import pickle",
        "from joblib import load",
        "torch.load(f)",
        "eval(x)",
        "np.load(f, allow_pickle=True)",
        "os.system(x)",
    ]
    bad += ["yaml.load(x)", "from hydra.utils import instantiate"]
    assert all(found_in(ast.parse(line)) for line in bad)
    assert not found_in(ast.parse("policy.eval(); yaml.safe_load(x); re.compile(x); safetensors.load(x)"))


def test_only_the_listed_places_import_a_module_by_value() -> None:
    root = Path(rmt_rl.__file__).parent
    found = {
        str(path.relative_to(root)): calls
        for path in SOURCES
        if (calls := imported_by_value(ast.parse(path.read_text(encoding="utf-8"))))
    }
    assert found == IMPORTED_BY_VALUE


def test_the_search_finds_imports_by_value() -> None:
    bad = ["importlib.import_module(x)", "gymnasium.make(id=x)", "gymnasium.make_vec(x, 3)", "runpy.run_path(x)"]
    bad += ["from importlib import import_module\nimport_module(x)", "load = importlib.import_module"]
    bad += ["importlib.metadata.entry_points(group=x)", "gymnasium.spec(x)"]
    assert all(imported_by_value(ast.parse(line)) for line in bad)
    assert not imported_by_value(ast.parse("importlib.util.find_spec('torch'); env.make(x); spec = 1; make(x)"))
