"""Files of weights where a checkpoint is wanted: the command that imports them."""

import shlex
from pathlib import Path

from inception_jax.errors import UserError
from inception_jax.weights.convert import saved_metadata
from inception_jax.weights.peers import checks, files


def refuse(path: str | Path) -> None:
    """Raises UserError if `path` is a file, with the command that makes a checkpoint of it if it holds weights."""
    path = Path(path)
    if not path.is_file():
        return
    formats = [format for format, suffixes in files.SUFFIXES.items() if path.name.endswith(suffixes)]
    if not formats:
        raise UserError(f"{path} is a file and not a checkpoint; give a run or an imported checkpoint, a directory.")
    out = path.name.partition(".")[0]
    command = f"inception-jax import {shlex.quote(str(path))} {shlex.quote(out)} {_flags(path, formats[0])}"
    raise UserError(f"{path} is a file of weights; import it first with `{command}` and give {out}.")


def _flags(path: Path, format: str) -> str:
    """--model and --format, as far as they can be read off the file."""
    name = "NAME"
    try:
        own = saved_metadata(path)
        if own:
            format, name = own["format"], own["model"]["name"]
        else:
            format, name = checks.recognise(files.read(path, format)) or (format, name)
    except (UserError, KeyError):
        pass  # `import` says what is wrong with it.
    return f"--model {name}" + ("" if format == "timm" else f" --format {format}")
