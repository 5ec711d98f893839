"""The rules of the house, read off the sources."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "inception_jax"
FILES = sorted(PACKAGE.rglob("*.py"))

# Each may import what stands on the lines above it, and its own line where it is a folder.
LAYERS = [
    ["errors", "malloc"],
    ["xla_flags"],
    ["config", "packaged", "progress", "whole", "installed", "clock"],
    ["models", "data", "optim", "runs", "inflight", "hosts", "workdir", "preemption"],
    ["steps", "checkpoint", "compare", "weights"],
    ["build", "experiment"],
    ["evaluate", "inference", "memory"],
    ["loop", "importer", "predict", "evaluation", "export", "show", "benchmark"],
    ["train"],
    ["cli"],
    ["__main__", "watched"],
]
RANK = {name: rank for rank, names in enumerate(LAYERS) for name in names}


def module_of(path):
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imports(path):
    """What a file imports of the package, and of others: (ours, theirs)."""
    ours, theirs = set(), set()
    for node in ast.walk(ast.parse(path.read_text())):
        names = []
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            names = [f"{node.module}.{a.name}" for a in node.names] if node.module == "inception_jax" else [node.module]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        for name in names:
            top, *rest = name.split(".")
            ours.add(rest[0]) if top == "inception_jax" and rest else theirs.add(top)
    return ours, theirs


def test_every_module_has_its_place():
    assert {module_of(path) for path in FILES} - {"__init__"} == set(RANK)


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_imports_run_one_way(path):
    module = module_of(path)
    if module == "__init__":
        return
    for other in imports(path)[0]:
        inside = path.parent != PACKAGE and other == module
        below = RANK[other] < RANK[module]
        assert inside or below, f"{path.name} imports {other}"


@pytest.mark.parametrize("module", ["models", "optim", "steps", "data"])
def test_the_experiment_is_unknown_below_build(module):
    for path in FILES:
        if module_of(path) == module:
            assert "config" not in imports(path)[0], path


def files_that_say(pattern):
    return {module_of(p) for p in FILES if re.search(pattern, p.read_text())}


def test_one_file_says_orbax():
    assert {module_of(p) for p in FILES if "orbax" in imports(p)[1]} == {"checkpoint"}


def test_one_file_says_pmap_and_pmean():
    assert files_that_say(r"\bpmap\(") == {"steps"}
    assert files_that_say(r"\b(pmean|psum)\(") == {"steps"}
    text = (PACKAGE / "steps.py").read_text()
    assert len(re.findall(r"\bpmap\(", text)) == len(re.findall(r"\bpmean\(", text)) == 1


@pytest.mark.parametrize(
    "module",
    ["config", "runs", "workdir", "compare", "experiment", "packaged", "progress", "xla_flags", "malloc", "clock"],
)
def test_what_needs_no_jax_imports_none(module):
    for path in FILES:
        if module_of(path) == module:
            assert not {"jax", "flax", "optax"} & imports(path)[1], path


def test_config_is_stdlib_only():
    assert imports(PACKAGE / "config.py")[1] <= {"dataclasses", "collections", "typing"}


def test_tensorflow_and_pytorch_are_never_required():
    for path in FILES:
        assert not {"tensorflow", "keras"} & imports(path)[1], path
    assert not re.search(r"^(tensorflow|torch|keras)\b(?!-)", (ROOT / "requirements.txt").read_text(), re.M)


def test_functions_and_files_are_short():
    for path in FILES:
        text = path.read_text()
        assert text.count("\n") <= 300, path
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef):
                docstring = ast.get_docstring(node, clean=False) or ""
                length = node.end_lineno - node.lineno + 1 - docstring.count("\n")
                assert length <= 45, f"{path.name}: {node.name} has {length} lines"
