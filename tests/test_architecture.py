"""The layout of the package and the direction of its imports, read off the sources."""

import ast
import graphlib
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "inception_jax"
FILES = sorted(PACKAGE.rglob("*.py"))
SCRIPTS = sorted([*(ROOT / "benchmarks").rglob("*.py"), *(ROOT / "experiments").glob("*.py")])

# Each may import what stands on the lines above it, and its own folder.
LAYERS = [
    ["errors"],
    ["system"],
    ["config"],
    ["models", "optim"],
    ["data", "steps", "runs", "checkpoint"],
    ["build", "compare"],
    ["weights", "benchmark"],
    ["predict", "evaluation", "train"],
    ["cli"],
    ["__main__"],
]
RANK = {name: rank for rank, names in enumerate(LAYERS) for name in names}
# It starts the command line in a process of its own; nothing imports it.
START_UP_PROBE = PACKAGE / "benchmark" / "startup_probe.py"


def part_of(path):
    """The module or folder at the top of the package that a file is, or is in."""
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def files_of(*parts):
    """The files of modules or folders, or those named by their paths; fails where there is none."""
    found = []
    for part in parts:
        own = [path for path in FILES if part_of(path) == part or path == PACKAGE / part]
        assert own, f"there is no {part}"
        found += own
    return found


def name_of(path):
    """The dotted name that a file is imported by."""
    base = ROOT if PACKAGE in path.parents else ROOT / path.relative_to(ROOT).parts[0]
    return ".".join(path.relative_to(base).with_suffix("").parts).removesuffix(".__init__")


def imports(path):
    """The dotted names that a file imports, wherever in it; of `from a import b` both a and a.b."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
        elif isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
    return names


def imported_parts(path):
    return {name.split(".")[1] for name in imports(path) if re.match(r"inception_jax\.\w", name)} & set(RANK)


def imported_libraries(path):
    return {name.split(".")[0] for name in imports(path)} - {"inception_jax"}


def files_that_match(pattern):
    return [path for path in FILES if re.search(pattern, path.read_text())]


def test_every_module_and_folder_has_its_place():
    assert {part_of(path) for path in FILES} - {"__init__"} == set(RANK)
    modules = {path.name for path in PACKAGE.glob("*.py")} - {"__init__.py", "__main__.py"}
    assert len(modules) <= 8
    assert len({path.parent for path in PACKAGE.glob("*/*.py")}) <= 11


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_run_one_way(path):
    part = part_of(path)
    if part == "__init__":
        return
    for other in imported_parts(path):
        inside = path.parent != PACKAGE and other == part
        allowed = path == START_UP_PROBE and other in ("cli", "train")
        assert inside or allowed or RANK[other] < RANK[part], f"{path} imports {other}"


def test_the_rule_is_broken_by_an_import_upward(tmp_path):
    file = tmp_path / "x.py"
    file.write_text("def f():\n    from inception_jax import train\n    import inception_jax.cli.main\n")
    assert imported_parts(file) == {"train", "cli"}


def test_no_modules_import_each_other_in_a_circle():
    names = {name_of(path): path for path in [*FILES, *SCRIPTS]}
    assert "inception_jax.train.loop" in names and "peers.contestant" in names and "chaos" in names
    # `from package import module` is an import of the module and not of the package, whose __init__ may import it.
    graph = {}
    for name, path in names.items():
        found = imports(path) & set(names)
        packages = {other.rpartition(".")[0] for other in found}
        graph[name] = {other for other in found if other not in packages or other in symbols_from(path, names)} - {name}
    assert graph["inception_jax.train.run"] >= {"inception_jax.train.loop", "inception_jax.build"}
    graphlib.TopologicalSorter(graph).prepare()  # raises CycleError, which names the modules


def symbols_from(path, names):
    """The modules from which a file imports something that is no module itself."""
    return {
        node.module
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.ImportFrom) and any(f"{node.module}.{alias.name}" not in names for alias in node.names)
    }


def test_only_the_start_up_probe_and_main_import_the_command_line():
    assert START_UP_PROBE in FILES
    users = [path for path in FILES if "cli" in imported_parts(path) and part_of(path) != "cli"]
    assert users == [PACKAGE / "__main__.py", START_UP_PROBE]


@pytest.mark.parametrize("part", ["models", "optim", "steps", "data"])
def test_the_experiment_is_unknown_below_build(part):
    for path in files_of(part):
        assert "inception_jax.config.Experiment" not in imports(path), path
        assert not re.search(r"\bconfig\.Experiment\b", path.read_text()), path


def test_orbax_is_imported_by_one_file():
    assert [path for path in FILES if "orbax" in imported_libraries(path)] == files_of("checkpoint/storage.py")


def test_pmap_and_pmean_are_called_in_one_place():
    assert files_that_match(r"\bpmap\(") == files_of("steps")
    assert files_that_match(r"\b(pmean|psum)\(") == files_of("steps")
    text = (PACKAGE / "steps.py").read_text()
    assert len(re.findall(r"\bpmap\(", text)) == len(re.findall(r"\bpmean\(", text)) == 1


def test_layers_are_walked_in_one_place():
    assert files_that_match(r"\bintercept_methods\(") == files_of("models/calls.py")


def test_images_are_decoded_in_data_alone():
    # The benchmark's photographs are encoded.
    decoders = [path for path in FILES if {"cv2", "PIL", "simplejpeg"} & imported_libraries(path)]
    assert {part_of(path) for path in decoders} == {"data", "benchmark"}
    assert [path for path in decoders if part_of(path) == "benchmark"] == files_of("benchmark/photographs.py")


def test_what_needs_no_jax_imports_none():
    with_jax = files_of("system/hosts.py", "system/preemption.py")
    for path in files_of(
        "config",
        "runs",
        "compare",
        "system",
        "cli/experiment_files.py",
        "cli/packaged.py",
        "train/clock.py",
        "train/watchdog.py",
    ):
        if path not in with_jax:
            assert not {"jax", "flax", "optax"} & imported_libraries(path), path


def test_experiments_import_the_configuration_and_runs_alone():
    paths = sorted((ROOT / "experiments").glob("*.py"))
    assert paths
    for path in paths:
        assert imported_parts(path) <= {"config", "runs"}, path


def test_config_is_stdlib_only():
    (path,) = files_of("config")
    assert imported_libraries(path) <= {"dataclasses", "collections", "typing"}


def test_tensorflow_and_pytorch_are_never_required():
    for path in FILES:
        assert not {"tensorflow", "keras"} & imported_libraries(path), path
    requirements = (ROOT / "requirements.txt").read_text()
    assert "jax" in requirements and not re.search(r"^(tensorflow|torch|keras)\b(?!-)", requirements, re.M)


def docstrings(path):
    """All docstrings of a file, those of fields included."""
    for node in ast.walk(ast.parse(path.read_text())):
        body = getattr(node, "body", None)
        for statement in body if isinstance(body, list) else []:
            if isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant):
                if isinstance(statement.value.value, str):
                    yield statement.value.value


def test_docstrings_begin_with_a_noun_phrase_or_an_imperative():
    found = [(path, text) for path in [*FILES, *SCRIPTS] for text in docstrings(path)]
    assert len(found) > 1_000
    stranded = re.compile(r"(Of|What|That|How|Who|Which|Where)\b")
    assert [(str(path), text.splitlines()[0]) for path, text in found if stranded.match(text)] == []
