"""Interface of the storage of a folder of images, implemented by `disk` and `bucket`."""

from typing import Protocol

from inception_jax.data.formats import IMAGE_SUFFIXES

Images = dict[str, list[str]]
"""Sorted classes, each with the sorted paths of its images, relative to the folder of the class."""


class Storage(Protocol):
    """Folders and files by their paths relative to `root`; names that start with a dot are ignored."""

    root: str
    """Path or URL, for messages."""

    def subfolders(self, folder: str) -> list[str]:
        """Sorted names of the folders in `folder`; UserError where it cannot be listed."""
        ...

    def images(self, folder: str) -> Images:
        """Images at any depth below each folder in `folder`; UserError where one cannot be listed."""
        ...

    def read(self, file: str) -> bytes:
        """Reads a file; BrokenImage where it is missing or broken, UserError where its storage stays unreachable."""
        ...


def is_image(name: str) -> bool:
    """Whether a file of this name is an image."""
    return name.lower().endswith(IMAGE_SUFFIXES)
