"""Reading of PyTorch's files without PyTorch, and without running the code that a pickle may name.

`torch.save` writes a pickle in which a tensor is a call of `torch._utils._rebuild_tensor_v2` on a storage. Since
PyTorch 1.6 the pickle and the storages are entries of a zip archive; before, they follow each other in one file.
"""

import collections
import io
import math
import os
import pickle
import re
import sys
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import jax.numpy as jnp
import numpy as np

from inception_jax.errors import UserError

_DTYPES = {
    "Double": np.float64,
    "Float": np.float32,
    "Half": np.float16,
    "BFloat16": jnp.bfloat16,
    "Long": np.int64,
    "Int": np.int32,
    "Short": np.int16,
    "Char": np.int8,
    "Byte": np.uint8,
    "Bool": np.bool_,
}
"""NumPy's types by the names of PyTorch's storages, without "Storage"."""

_LEGACY_MAGIC, _LEGACY_PROTOCOL = 0x1950A86A20F9469CFC6C, 1001
_MODULE_PARTS = ("_parameters", "_buffers")


def read(path: Path, *, values: bool = True) -> Any:
    """Reads what `torch.save` wrote: dicts, lists and numbers, with NumPy arrays for the tensors.

    Objects of any other class become `Inert`.

    Args:
      path: path of the file.
      values: read the values of the arrays; otherwise only their shapes and types are right.

    Raises:
      UserError: the file is not one of PyTorch's.
    """
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            return _read_archive(archive, path, values)
    with path.open("rb") as file:
        return _read_legacy(file, path)


def arrays(tree: Any) -> dict[str, np.ndarray]:
    """Arrays of nested dicts and pickled modules by their paths: "state_dict.fc.bias"."""
    found: dict[str, np.ndarray] = {}
    _collect(tree, "", found, depth=0)
    return found


def class_names(tree: Any, count: int) -> tuple[str, ...]:
    """Names of `count` classes beside a state dictionary, as class_to_idx, class_names or classes; () if none."""
    if not isinstance(tree, Mapping):
        return ()
    for part in (tree, *(value for value in tree.values() if isinstance(value, Mapping))):
        numbers = part.get("class_to_idx")
        if isinstance(numbers, Mapping) and all(isinstance(i, int) for i in numbers.values()):
            names = {i: name for name, i in numbers.items()}
        else:
            listed = part.get("class_names", part.get("classes"))
            names = dict(enumerate(listed)) if isinstance(listed, list | tuple) else {}
        if sorted(names) == list(range(count)) and all(isinstance(name, str) for name in names.values()):
            return tuple(names[i] for i in range(count))
    return ()


class Inert(dict):
    """Stands for an object of a class that is not read; it keeps the state that the pickle gives the object."""

    def __new__(cls, *arguments: Any, **options: Any) -> "Inert":
        """Ignores the arguments of whatever is constructed or called."""
        return super().__new__(cls)

    def __init__(self, *arguments: Any, **options: Any):
        super().__init__()
        self.state: Any = None

    def __call__(self, *arguments: Any, **options: Any) -> "Inert":
        """Stands for the result, where the pickle calls what another call has returned."""
        return Inert()

    def __setstate__(self, state: Any) -> None:
        self.state = state

    def __hash__(self) -> int:  # type: ignore[override]
        return id(self)

    def append(self, item: Any) -> None:
        """Ignores an item of what was a list."""

    def extend(self, items: Any) -> None:
        """Ignores the items of what was a list."""


def _collect(tree: Any, path: str, found: dict[str, np.ndarray], depth: int) -> None:
    if isinstance(tree, np.ndarray):
        found[path] = tree
    if depth > 100:
        return
    if isinstance(tree, Mapping):
        for key, value in tree.items():
            _collect(value, f"{path}.{key}" if path else str(key), found, depth + 1)
    if isinstance(tree, Inert) and isinstance(tree.state, Mapping):
        for part in _MODULE_PARTS:
            _collect(tree.state.get(part), path, found, depth + 1)
        _collect(tree.state.get("_modules"), path, found, depth + 1)


# Tensors


class _Storage:
    """A flat array, and NumPy's type of its elements."""

    def __init__(self, flat: np.ndarray):
        self.flat = flat


def _rebuild_tensor(storage: Any, offset: int, shape: Any, strides: Any, *_: Any) -> np.ndarray:
    """A view of a storage, whose bounds are checked because a broken file may point outside it."""
    if not isinstance(storage, _Storage):
        raise ValueError("a tensor has no storage")
    shape, strides = tuple(map(int, shape)), tuple(map(int, strides))
    if len(shape) != len(strides) or min((offset, *shape, *strides)) < 0:
        raise ValueError(f"a tensor has the shape {shape} and the strides {strides}")
    last = offset + sum((size - 1) * stride for size, stride in zip(shape, strides, strict=True))
    if math.prod(shape) and last >= storage.flat.size:
        raise ValueError(f"a tensor of the shape {shape} exceeds its storage")
    flat = storage.flat[offset:] if math.prod(shape) else np.empty(0, storage.flat.dtype)
    steps = tuple(stride * flat.strides[0] for stride in strides)
    return np.lib.stride_tricks.as_strided(flat, shape, steps, writeable=False)


def _rebuild_parameter(tensor: Any, *_: Any) -> Any:
    return tensor


def _rebuild_from_type(function: Callable[..., Any], _: Any, arguments: Any, *__: Any) -> Any:
    return function(*arguments)


_FUNCTIONS: dict[tuple[str, str], Any] = {
    ("collections", "OrderedDict"): collections.OrderedDict,
    ("torch", "Size"): tuple,
    ("torch._utils", "_rebuild_tensor"): _rebuild_tensor,
    ("torch._utils", "_rebuild_tensor_v2"): _rebuild_tensor,
    ("torch._utils", "_rebuild_parameter"): _rebuild_parameter,
    ("torch._utils", "_rebuild_parameter_with_state"): _rebuild_parameter,
    ("torch._tensor", "_rebuild_from_type_v2"): _rebuild_from_type,
}


class _Unpickler(pickle.Unpickler):
    """Calls nothing but `_FUNCTIONS`; every other class and function becomes a kind of `Inert`."""

    def __init__(self, file: BinaryIO | io.BytesIO, load: Callable[[str, np.dtype, int], np.ndarray]):
        super().__init__(file, encoding="utf-8", errors="replace")
        self._load = load
        self._storages: dict[str, _Storage] = {}

    def find_class(self, module: str, name: str) -> Any:
        """A function to call, the type of a storage, or a kind of `Inert`."""
        if module in ("torch", "torch.cuda", "torch.storage") and name.endswith("Storage"):
            return np.dtype(_DTYPES.get(name.removesuffix("Storage"), np.uint8))
        return _FUNCTIONS.get((module, name)) or type(name, (Inert,), {"__module__": module})

    def persistent_load(self, identity: Any) -> Any:
        """A storage."""
        if identity[0] != "storage":
            return identity[1]  # The source of a module's class, in legacy files.
        _, dtype, key, _, count, *view = identity
        if not isinstance(dtype, np.dtype) or not isinstance(count, int) or count < 0:
            raise ValueError(f"a storage of {count} elements")
        if key not in self._storages:
            self._storages[key] = _Storage(self._load(key, dtype, count))
        storage = self._storages[key]
        if view and view[0] is not None:
            _, first, length = view[0]
            return _Storage(storage.flat[first : first + length])
        return storage


def _read_archive(archive: zipfile.ZipFile, path: Path, values: bool) -> Any:
    names = [name for name in archive.namelist() if re.fullmatch(r"([^/]+/)?data\.pkl", name)]
    if not names:
        raise UserError(f"{path} is a zip archive without the data.pkl of PyTorch's files.")
    folder = names[0].removesuffix("data.pkl")
    if f"{folder}constants.pkl" in archive.namelist():
        raise UserError(f"{path} is a TorchScript program; save the state_dict() of the model that it was made of.")
    order = ">" if f"{folder}byteorder" in archive.namelist() and archive.read(f"{folder}byteorder") == b"big" else "<"

    def load(key: str, dtype: np.dtype, count: int) -> np.ndarray:
        entry = archive.getinfo(f"{folder}data/{key}")
        if entry.file_size < count * dtype.itemsize:
            raise ValueError(f"the storage {key} has {entry.file_size} bytes, not {count * dtype.itemsize}")
        if not values:
            return np.broadcast_to(np.zeros((), dtype), (count,))
        return _native(np.frombuffer(archive.read(entry), dtype, count), order)

    return _Unpickler(io.BytesIO(archive.read(names[0])), load).load()


def _native(flat: np.ndarray, order: str) -> np.ndarray:
    return flat if order == "<>"[sys.byteorder == "big"] else flat.byteswap()


def _read_legacy(file: BinaryIO, path: Path) -> Any:
    size = os.fstat(file.fileno()).st_size
    loaded: dict[str, np.ndarray] = {}

    def load(key: str, dtype: np.dtype, count: int) -> np.ndarray:
        if count * dtype.itemsize > size:
            raise ValueError(f"a storage of {count} elements in a file of {size} bytes")
        # Its bytes come after the pickle.
        loaded[key] = np.empty(count, dtype)
        return loaded[key]

    def next_object() -> Any:
        return _Unpickler(file, load).load()

    try:
        head = [next_object(), next_object()]
    except Exception:
        head = []
    if head != [_LEGACY_MAGIC, _LEGACY_PROTOCOL]:
        raise UserError(f"{path} is not a file of PyTorch, safetensors or Keras{_other_kind(file)}.")
    little = next_object().get("little_endian", True)
    tree = next_object()
    for key in next_object():
        flat = loaded[key]
        file.read(8)  # the number of elements
        if file.readinto(flat.view(np.uint8)) != flat.nbytes:  # type: ignore[attr-defined]
            raise ValueError("it ends in the middle of a tensor")
        flat[:] = _native(flat, "<" if little else ">")
    return tree


def _other_kind(file: BinaryIO) -> str:
    """Kind of a file that is not PyTorch's, in words; "" if unknown."""
    file.seek(0)
    start = file.read(512)
    file.seek(-min(8, os.fstat(file.fileno()).st_size), os.SEEK_END)
    if file.read() == bytes.fromhex("57fb808b247547db"):  # the end of LevelDB's tables
        return ": it is a checkpoint of TensorFlow, whose weights Keras can save as .h5"
    if start[:4] == b"\x89HDF":
        return ", but HDF5: name it .h5 and give --format keras"
    if start[257:262] == b"ustar":
        return ": it is a tar archive; unpack it"
    return ""
