"""No file that the package reads can run code: the source has none of the calls that would."""

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
