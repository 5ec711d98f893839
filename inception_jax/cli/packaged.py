"""Files of the experiments shipped with the package."""

import ast
from pathlib import Path

from inception_jax.errors import UserError


def directory() -> Path:
    """Folder of the experiments: inside the package if installed, beside it in a checkout."""
    inside = Path(__file__).parents[1] / "experiments"
    return inside if inside.is_dir() else Path(__file__).parents[2] / "experiments"


def files() -> dict[str, Path]:
    """Files of the experiments, keyed by name in alphabetical order."""
    return {path.stem: path for path in sorted(directory().glob("*.py"))}


def file(name: str) -> Path:
    """File of the experiment `name`; UserError if there is none."""
    known = files()
    if name not in known:
        raise UserError(f"there is no packaged experiment {name!r}; there are {', '.join(known)}.")
    return known[name]


def first_line(path: Path) -> str:
    """First line of the docstring of an experiment's file."""
    return (ast.get_docstring(ast.parse(path.read_bytes())) or "").partition("\n")[0]


def neighbours(path: Path) -> list[str]:
    """Names of the other packaged experiments that a file imports."""
    nodes = [node for node in ast.walk(ast.parse(path.read_bytes())) if isinstance(node, ast.ImportFrom | ast.Import)]
    names = {node.module if isinstance(node, ast.ImportFrom) else node.names[0].name for node in nodes}
    return [name for name in files() if name in names]
