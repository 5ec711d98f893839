"""Metadata of exported files: the network, its preprocessing and the names of its classes.

Files that hold named texts (safetensors, Keras' HDF5, ONNX) have one for each entry: its name after "inception_jax.",
and its value as JSON. A StableHLO program holds none; a JSON file beside it has all of them.
"""

import json
import os
from collections.abc import Mapping
from typing import Any

from inception_jax.data.preprocess import Preprocessing
from inception_jax.errors import UserError, reason
from inception_jax.system.file_format import FORMAT, check_format

_KEY = "inception_jax."
# Not "format", which is the layout: whose names the arrays have. Its value alone is no JSON.
_FILE_FORMAT, _LAYOUT = "file_format", "format"


def to_texts(entries: Mapping[str, Any]) -> dict[str, str]:
    """The texts of a file: of each entry that is not None, and of the file's format number."""
    named = {_FILE_FORMAT: FORMAT, **entries}
    # ASCII, so that every format can hold a class name that is not UTF-8.
    return {
        _KEY + key: value if key == _LAYOUT else json.dumps(value) for key, value in named.items() if value is not None
    }


def preprocessing_in(path: str | os.PathLike, entries: Mapping[str, Any]) -> Preprocessing | None:
    """The preprocessing among the entries of a file, None where there is none.

    Raises:
      UserError: it is no preprocessing.
    """
    values = entries.get("preprocessing")
    if values is None:
        return None
    try:
        return Preprocessing.from_dict(values)
    except (UserError, TypeError, AttributeError) as error:
        raise UserError(f"the metadata of {os.fspath(path)} cannot be used: {reason(error)}.") from error


def from_texts(path: str | os.PathLike, texts: Mapping[str, Any]) -> dict[str, Any]:
    """The entries of `to_texts`, {} where a file has none of them.

    Raises:
      UserError: a text is not JSON, or the file has a newer format.
    """
    found = {key.removeprefix(_KEY): text for key, text in texts.items() if key.startswith(_KEY)}
    try:
        entries = {key: str(text) if key == _LAYOUT else json.loads(text) for key, text in found.items()}
    except (ValueError, TypeError, RecursionError) as error:
        raise UserError(f"the metadata of {os.fspath(path)} cannot be read: {reason(error)}.") from error
    check_format(path, entries.pop(_FILE_FORMAT, None))
    return entries
