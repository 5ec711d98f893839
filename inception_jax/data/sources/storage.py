"""Interface of the storage that holds a folder of images; `disk` and `bucket` implement it."""

from typing import Protocol

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png")

Images = dict[str, list[str]]
"""The images of each class, by their paths from the class's folder, sorted; the classes are sorted, too."""


class Storage(Protocol):
    """Folders and files below `root`, given as paths from there; what starts with a dot is left out."""

    root: str
    """Path or URL, for messages."""

    def subfolders(self, folder: str) -> list[str]:
        """The names of the folders in `folder`, sorted; UserError where it cannot be listed."""
        ...

    def images(self, folder: str) -> Images:
        """Every image at any depth below each folder in `folder`; UserError where one cannot be listed."""
        ...

    def read(self, file: str) -> bytes:
        """A file's bytes; BrokenImage where it is missing or broken, UserError where its place stays away."""
        ...


def is_image(name: str) -> bool:
    """Whether a file of this name is listed as an image."""
    return name.lower().endswith(IMAGE_SUFFIXES)
