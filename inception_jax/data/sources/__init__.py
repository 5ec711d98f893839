"""Sources of labelled images: `open_source` opens digits, idx:PATH, folder:PATH, csv:FILE or tfds:NAME.

Sources read images by number, from any thread; their order does not depend on a seed.
"""

import os
from collections.abc import Sequence
from pathlib import Path

from inception_jax.config import DataConfig
from inception_jax.data.sources.digits import open_digits
from inception_jax.data.sources.folder import open_folder
from inception_jax.data.sources.idx import open_idx
from inception_jax.data.sources.label_file import open_label_file
from inception_jax.data.sources.source import (
    Record,
    Source,
    class_name,
    list_kinds,
    list_names,
    relabel,
    sample,
    with_classes,
)
from inception_jax.data.sources.splits import SPLITS, SplitOptions
from inception_jax.data.sources.tfds import open_tfds
from inception_jax.errors import UserError
from inception_jax.system.names import printable

__all__ = [
    "Record",
    "Source",
    "SplitOptions",
    "class_name",
    "describe_layout",
    "instead_of",
    "list_kinds",
    "list_names",
    "open_data",
    "open_source",
    "relabel",
    "same_source",
    "sample",
    "with_classes",
]

_KINDS = "digits, idx:PATH, folder:PATH, csv:FILE or tfds:NAME"


def open_source(spec: str, split: str, *, data_dir: str | None = None, options: SplitOptions | None = None) -> Source:
    """Opens one split of a source of labelled images.

    Args:
      spec: `digits`, scikit-learn's 1,797 digits of 8x8 pixels; `idx:PATH`, a folder of MNIST's files; `folder:PATH`, a
        folder with one folder of images per class, on a disk or in a bucket (gs://, s3://); `csv:FILE`, a text file
        with the paths and labels of images; `tfds:NAME`, a data set prepared by tensorflow-datasets, by its name, its
        directory or its URL in a bucket.
      split: "train", "validation", or "evaluation": the validation split where the source has one, else all images.
      data_dir: Directory of the data sets of tensorflow-datasets, to which those in a bucket are copied; only for
        `tfds:`.
      options: Names of the splits, and the fraction that is held out where there is only one.

    Raises:
      UserError: there is no such source or split, or it does not contain labelled images of two or more classes.
    """
    options = options or SplitOptions()
    if split not in SPLITS:
        raise UserError(f"the split {split!r} must be {', '.join(map(repr, SPLITS[:-1]))} or {SPLITS[-1]!r}.")
    kind, _, place = spec.partition(":")
    if kind == "folder" and place:
        return open_folder(place, split, options)
    if kind == "tfds" and place:
        return open_tfds(place, split, data_dir, options)
    if spec != "digits" and not (kind in ("idx", "csv") and place):
        raise UserError(f"the source {spec!r} {instead_of(spec, _KINDS)}.")
    for field in ("train_split", "validation_split"):
        if getattr(options, field) is not None:
            raise UserError(f"data.{field} is {getattr(options, field)!r}; it is only for folder:PATH and tfds:NAME.")
    if kind == "csv":
        return open_label_file(place, split, options)
    return open_digits(split) if spec == "digits" else open_idx(Path(os.path.expanduser(place)), split, options)


def open_data(data: DataConfig, split: str, held_out: frozenset[int] = frozenset()) -> Source:
    """Opens one split, as `open_source`, of the source of a data section; `held_out` as in `SplitOptions`."""
    return open_source(data.source, split, data_dir=data.data_dir, options=SplitOptions.from_config(data, held_out))


def describe_layout(spec: str, source: Source) -> str:
    """Description of a source on one line: its classes and splits, and what was passed over."""
    layout, names = source.layout, source.class_names
    words = [
        f"{len(names):,} class{'es' * (len(names) != 1)} ({_list_some(names)})",
        *([layout.splits] if layout.splits else []),
    ]
    kinds = layout.kinds_passed_over
    return f"{spec}: {', '.join(words)}" + (f"; passed over: {list_kinds(kinds)}" if kinds else "")


def _list_some(names: Sequence[str], most: int = 5) -> str:
    return ", ".join(map(printable, names[:most])) + (", ..." if len(names) > most else "")


def same_source(first: str, second: str) -> bool:
    """Whether two sources are the same, be it by another path."""
    kinds, places = zip(*((spec.partition(":")[0], spec.partition(":")[2]) for spec in (first, second)), strict=True)
    paths = {place if "://" in place else os.path.realpath(os.path.expanduser(place)) for place in places}
    return first == second or (len(set(kinds)) == len(paths) == 1 and all(places))


def instead_of(spec: str, kinds: str) -> str:
    """Replacement for a source that is none of `kinds`, as the end of a sentence."""
    if "://" in spec and not spec.startswith(("folder:", "csv:", "tfds:", "idx:")):
        return f"is a URL; give folder:{spec} or tfds:{spec}"
    path = os.path.expanduser(spec)
    if os.path.isdir(path):
        marks = {"tfds": "dataset_info.json", "idx": "*-ubyte*"}
        kind = next((kind for kind, mark in marks.items() if any(Path(path).glob(mark))), "folder")
        return f"is a folder; give {kind}:{spec}"
    return f"must be {kinds}"
