"""Interface of the storage of a folder of images, implemented by `disk` and `bucket`."""

import dataclasses
import os
from collections import Counter
from collections.abc import Sequence
from typing import Protocol

from inception_jax.data.formats import IMAGE_SUFFIXES

# Files and folders that systems, file servers and programs leave among images, in lower case.
_JUNK = frozenset(
    [
        *(".ds_store", "__macosx", "icon\r"),  # macOS
        *("thumbs.db", "ehthumbs.db", "desktop.ini", "$recycle.bin", "system volume information"),  # Windows
        *("lost+found", "lost.dir", ".trash", ".trashes", ".thumbnails", ".directory"),  # Linux and Android
        *("@eadir", "@tmp", "#recycle", "#snapshot", "@recycle", "@__thumb", ".@__thumb"),  # Synology and QNAP
        *(".ipynb_checkpoints", "__pycache__", ".git"),
    ]
)


@dataclasses.dataclass(frozen=True)
class Contents:
    """Names in a folder, sorted, and what was passed over there."""

    folders: list[str]
    images: list[str]
    passed_over: Counter[str]
    """Number of files and folders of each kind, by `junk` and `suffix`."""


class Storage(Protocol):
    """Folders and files by their paths relative to `root`."""

    root: str
    """Path or URL, for messages."""

    def contents(self, folder: str) -> Contents:
        """Lists a folder; UserError where it cannot be listed."""
        ...

    def images(self, folder: str, names: Sequence[str]) -> dict[str, Contents]:
        """Images at any depth below each of the folders `names` in `folder`, by paths relative to it.

        Raises:
          UserError: a folder cannot be listed.
        """
        ...

    def overlap(self, first: str, second: str) -> bool:
        """Whether two folders are one, or one of them is within the other."""
        ...

    def read(self, file: str) -> bytes:
        """Reads a file; BrokenImage where it is missing or broken, UserError where its storage stays unreachable."""
        ...


def is_image(name: str) -> bool:
    """Whether a file of this name is an image."""
    return name.lower().endswith(IMAGE_SUFFIXES)


def junk(name: str) -> str | None:
    """Kind of a hidden file or folder, or of one that a system or program left; None for any other."""
    if name.startswith("._"):
        return "._*"  # macOS' second file for each file on a foreign disk
    if name.lower() in _JUNK:
        return name
    return "hidden" if name.startswith(".") else None


def is_junk(kind: str) -> bool:
    """Whether files of this kind were passed over by `junk` rather than as no images."""
    return kind in ("hidden", "._*") or kind.lower() in _JUNK


def suffix(name: str) -> str:
    """Kind of a file that is no image."""
    return os.path.splitext(name)[1].lower() or "no suffix"
