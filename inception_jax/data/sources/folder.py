"""A folder of images with one folder per class, with or without folders for the splits above them."""

import functools
import os
from collections.abc import Sequence
from pathlib import Path

from inception_jax.data.sources.source import Record, Source
from inception_jax.errors import BrokenImage, UserError

_IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png")


def open_folder(path: Path, split: str) -> Source:
    """The images of one split; without folders for the splits, a tenth of each class is for validation."""
    if not path.is_dir():
        raise UserError(f"folder:{path} is not a folder.")
    folders = {"train": path / "train"}
    folders["validation"] = next((path / n for n in ("validation", "val", "test") if (path / n).is_dir()), path / "val")
    present = [folder for folder in folders.values() if folder.is_dir()]
    if not present:
        return _split_folder(path, split)
    if not folders[split].is_dir():
        wanted = "train" if split == "train" else "validation, val or test"
        raise UserError(f"folder:{path} has a folder {present[0].name} but no folder {wanted}.")
    # The classes are those of training, but a folder with only validation images can be evaluated.
    class_names = tuple(_class_folders(present[0]))
    images = _images_by_class(folders[split])
    unknown = sorted(set(images) - set(class_names))
    if unknown:
        raise UserError(f"{folders[split]} has the class {unknown[0]!r}, which {present[0]} has not.")
    files = [(file, label) for label, name in enumerate(class_names) for file in images.get(name, ())]
    return Source(class_names, len(files), functools.partial(_read_file, files), files.__getitem__)


def _split_folder(path: Path, split: str) -> Source:
    """A folder without splits: of each class the second, twelfth, ... image is for validation."""
    images = _images_by_class(path)
    files = [
        (file, label)
        for label, members in enumerate(images.values())
        for number, file in enumerate(members)
        # The second and not the first, so that a class of one image is trained on.
        if (number % 10 == 1) == (split == "validation")
    ]
    if not files:
        raise UserError(f"folder:{path} is too small to split; it must have two images or more of some class.")
    return Source(tuple(images), len(files), functools.partial(_read_file, files), files.__getitem__)


def _class_folders(path: Path) -> list[str]:
    return sorted(entry.name for entry in os.scandir(path) if entry.is_dir() and not entry.name.startswith("."))


def _images_by_class(path: Path) -> dict[str, list[str]]:
    images = {name: _image_files(path / name) for name in _class_folders(path)}
    if not images:
        raise UserError(f"{path} has no folders; it must have one per class.")
    for name, files in images.items():
        if not files:
            raise UserError(
                f"{path / name} holds no {', '.join(_IMAGE_SUFFIXES)} file; add images or remove the folder."
            )
    return images


def _image_files(folder: Path) -> list[str]:
    """Every image at any depth below `folder`, hidden files and folders left out, sorted."""
    files = []
    for parent, folders, names in os.walk(folder, followlinks=True):
        folders[:] = [name for name in folders if not name.startswith(".")]
        files += [os.path.join(parent, n) for n in names if n.lower().endswith(_IMAGE_SUFFIXES) and n[0] != "."]
    return sorted(files)


def _read_file(files: Sequence[tuple[str, int]], index: int) -> Record:
    path, label = files[index]
    try:
        return Record(Path(path).read_bytes(), label, path)
    except OSError as error:
        raise BrokenImage(f"the image {path} cannot be read: {error.strerror}.") from error
