"""Folders of images with one folder per class, with or without a folder per split above them."""

import bisect
import dataclasses
import itertools
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from inception_jax.data.formats import require_decoders
from inception_jax.data.sources import splits
from inception_jax.data.sources.bucket import Bucket
from inception_jax.data.sources.disk import Disk
from inception_jax.data.sources.folder_layout import FolderSplits, find_splits, join, list_classes
from inception_jax.data.sources.source import (
    Layout,
    Record,
    Source,
    class_name,
    folders_by_class,
    list_names,
    note_alike,
)
from inception_jax.data.sources.splits import SplitOptions
from inception_jax.data.sources.storage import Contents, Storage
from inception_jax.errors import UserError
from inception_jax.system.names import printable


def open_folder(place: str, split: str, options: SplitOptions) -> Source:
    """Opens one split; without a folder for validation, a part of each class is held out.

    Args:
      place: A path, or the URL of a folder in a bucket.
      split: As in `open_source`.
      options: As in `open_source`.

    Raises:
      UserError: the folder does not exist, or does not contain two or more folders of images.
    """
    storage: Storage = Bucket(place) if "://" in place else Disk(Path(os.path.expanduser(place)))
    root = storage.contents("")
    found = find_splits(storage, root, options)
    folder, part = splits.choose(split, found.train, found.validation)
    if folder is None:
        raise UserError(
            f"folder:{storage.root} has a folder {found.validation} but no folder "
            f"{' or '.join(splits.USUAL_NAMES['train'])}; name it in data.train_split."
        )
    # Two classes, but a network that knows more can be evaluated on one, and training has the others.
    least = 1 if split == "evaluation" or (folder == found.validation and found.train is not None) else 2
    contents = storage.contents(folder) if folder else root
    classes = list_classes(storage, folder, contents, least=least)
    images: Mapping[str, Sequence[str]] = classes.files
    held_out: frozenset[int] = frozenset()
    if part:
        images, held_out = _part(storage, images, options, part)
    elif folder == found.validation and found.train is not None:
        images = _numbered_as_in_training(storage, images, folder, found.train)
    source = _source(storage, folder, images)
    passed_over = {folder: classes.passed_over + _outside(contents)}
    if folder:
        passed_over[""] = root.passed_over + _outside(root)
    layout = Layout(
        _in_words(split, found, options), found.notes + classes.notes + note_alike(source.class_names), passed_over
    )
    return dataclasses.replace(source, layout=layout, held_out=held_out)


def _in_words(split: str, found: FolderSplits, options: SplitOptions) -> str:
    train, validation = (folder and f"{printable(folder)}/" for folder in (found.train, found.validation))
    unused = [f"{printable(name)}/" for name in found.unused]
    return splits.describe(split, train, validation, options.validation_fraction, unused)


def _outside(contents: Contents) -> Counter[str]:
    return Counter({"images outside the folders of classes": len(contents.images)})


def _part(
    storage: Storage, images: Mapping[str, Sequence[str]], options: SplitOptions, part: str
) -> tuple[dict[str, list[str]], frozenset[int]]:
    """The images of "train" or "validation" in a folder that is not split, and the digests of those held out."""
    counts = [len(files) for files in images.values()]
    names = [f"{class_name(name)}/{file}" for name, files in images.items() for file in files]
    held_out, digests = splits.hold_out(names, np.repeat(np.arange(len(counts)), counts), options)
    wanted = np.split(held_out == (part == "validation"), np.cumsum(counts)[:-1])
    chosen = {
        name: list(itertools.compress(files, mask)) for (name, files), mask in zip(images.items(), wanted, strict=True)
    }
    if not any(chosen.values()):
        raise UserError(f"folder:{storage.root} is too small to split; one class must have two or more images.")
    return chosen, digests


def _numbered_as_in_training(
    storage: Storage, images: Mapping[str, Sequence[str]], folder: str, train: str
) -> dict[str, Sequence[str]]:
    """Validation images with all classes of training, in their order; UserError where there are others."""
    trained = folders_by_class(storage.contents(train).folders, join(storage, train))
    folders = {class_name(name): name for name in images}
    unknown = sorted(set(folders) - set(trained))
    if unknown:
        raise UserError(
            f"{join(storage, folder)} has {list_names('class', unknown)}, which {join(storage, train)} does not have."
        )
    return {folders.get(name, name): images.get(folders.get(name, name), []) for name in trained}


def _source(storage: Storage, folder: str, images: Mapping[str, Sequence[str]]) -> Source:
    """Source of the images in the folder of each class, one class after another."""
    ends = list(itertools.accumulate(len(files) for files in images.values()))
    starts = [f"{folder}/{name}/".lstrip("/") for name in images]
    for start, files in zip(starts, images.values(), strict=True):
        require_decoders(files, f"{storage.root}/{start}")
    reader = _Reader(storage, starts, list(images.values()), ends)
    return Source(tuple(map(class_name, images)), ends[-1], reader.read, reader.locate)


@dataclasses.dataclass(frozen=True)
class _Reader:
    """Reads images by number. Paths are joined on reading, because all paths of ImageNet would take 300 MB."""

    storage: Storage
    starts: Sequence[str]
    """Path of the folder of each class, with a slash at its end."""
    files: Sequence[Sequence[str]]
    """Images of each class."""
    ends: Sequence[int]
    """Number of the first image after each class."""

    def locate(self, index: int) -> tuple[str, int]:
        """Name and label of an image."""
        file, label = self._place(index)
        return f"{self.storage.root}/{file}", label

    def read(self, index: int) -> Record:
        """Reads an image."""
        file, label = self._place(index)
        return Record(self.storage.read(file), label, f"{self.storage.root}/{file}")

    def _place(self, index: int) -> tuple[str, int]:
        label = bisect.bisect_right(self.ends, index)
        # Counted from the end of the class.
        return self.starts[label] + self.files[label][index - self.ends[label]], label
