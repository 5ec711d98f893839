"""Folders of images with one folder per class, with or without a folder per split above them."""

import bisect
import dataclasses
import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path

from inception_jax.data.formats import require_decoders
from inception_jax.data.sources.bucket import Bucket
from inception_jax.data.sources.disk import Disk
from inception_jax.data.sources.source import Record, Source, class_name, folders_by_class
from inception_jax.data.sources.storage import IMAGE_SUFFIXES, Images, Storage
from inception_jax.errors import UserError

_VALIDATION = ("validation", "val", "test")


def open_folder(place: str, split: str) -> Source:
    """Opens one split; without folders for the splits, a tenth of each class is for validation.

    Args:
      place: A path, or the URL of a folder in a bucket.
      split: As in `open_source`.

    Raises:
      UserError: the folder does not exist, or does not contain folders of images.
    """
    storage: Storage = Bucket(place) if "://" in place else Disk(Path(place).expanduser())
    names = storage.subfolders("")
    folders = {
        "train": "train" if "train" in names else None,
        "validation": next((name for name in _VALIDATION if name in names), None),
    }
    present = [folder for folder in folders.values() if folder]
    if not present:
        return _split_folder(storage, split)
    chosen = folders[split]
    if chosen is None:
        wanted = "train" if split == "train" else "validation, val or test"
        raise UserError(f"folder:{storage.root} has a folder {present[0]} but no folder {wanted}.")
    images = _images_by_class(storage, chosen)
    # The classes are those of training, but a folder with only validation images can be evaluated.
    root = storage.root
    trained = images if chosen == present[0] else storage.subfolders(present[0])
    class_names = folders_by_class(trained, f"{root}/{present[0]}")
    folders_here = {class_name(folder): folder for folder in images}
    unknown = sorted(set(folders_here) - set(class_names))
    if unknown:
        raise UserError(f"{root}/{chosen} has the class '{unknown[0]}', which {root}/{present[0]} does not have.")
    found = [folders_here.get(name, name) for name in class_names]
    return _source(storage, chosen, {folder: images.get(folder, []) for folder in found})


def _split_folder(storage: Storage, split: str) -> Source:
    """Source of one split of a folder without splits: every tenth image of each class is for validation."""
    chosen = {
        # From the second on, so that a class of one image is trained on.
        name: [file for number, file in enumerate(files) if (number % 10 == 1) == (split == "validation")]
        for name, files in _images_by_class(storage, "").items()
    }
    if not any(chosen.values()):
        raise UserError(f"folder:{storage.root} is too small to split; one class must have two or more images.")
    return _source(storage, "", chosen)


def _images_by_class(storage: Storage, folder: str) -> Images:
    images = storage.images(folder)
    path = f"{storage.root}/{folder}".rstrip("/")
    if not images:
        raise UserError(f"{path} has no folders; it must have one per class.")
    for name, files in images.items():
        if not files:
            raise UserError(
                f"{path}/{name} holds no {', '.join(IMAGE_SUFFIXES)} file; add images or remove the folder."
            )
    return {folder: images[folder] for folder in folders_by_class(images, path).values()}


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
