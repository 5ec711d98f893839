"""Images on a local or network disk, listed without opening a file."""

import errno
import os
from collections.abc import Callable
from pathlib import Path

from inception_jax.data.sources.retry import Result, with_retries
from inception_jax.data.sources.storage import Images, is_image
from inception_jax.errors import BrokenImage, UserError

# Errors of a network disk while it is unreachable.
_TRANSIENT = (errno.ESTALE, errno.EIO, errno.ETIMEDOUT)

Identity = tuple[int, int]
"""Device and inode of a folder, which do not depend on the link that leads to it."""


class Disk:
    """A `Storage` below a folder of this machine."""

    def __init__(self, root: Path):
        """UserError where `root` is not a folder."""
        self.root = str(root)
        if not root.is_dir():
            raise UserError(f"folder:{root} is not a folder.")

    def subfolders(self, folder: str) -> list[str]:
        """As `Storage.subfolders`."""
        return sorted(_list_folder(os.path.join(self.root, folder))[1])

    def images(self, folder: str) -> Images:
        """As `Storage.images`."""
        path = Path(self.root, folder).resolve()
        names = self.subfolders(folder)
        ancestors = frozenset(_identity(os.stat(parent)) for parent in (path, *path.parents))
        # Without threads, which are slower on a local disk, because listing holds the GIL.
        return {name: _list_class(path / name, ancestors) for name in names}

    def read(self, file: str) -> bytes:
        """As `Storage.read`."""
        path = os.path.join(self.root, file)
        try:
            return _with_retries(Path(path).read_bytes)
        except OSError as error:
            raise BrokenImage(f"the image {path} cannot be read: {error.strerror}.") from error


def _list_class(path: Path, ancestors: frozenset[Identity]) -> list[str]:
    """Images at any depth below the folder of a class, sorted; `ancestors` are its parent folders."""
    files: list[str] = []
    pending = [("", ancestors)]
    while pending:
        relative, ancestors = pending.pop()
        identity, folders, images = _list_folder(os.path.join(path, relative))
        if identity in ancestors:
            continue  # a link to a parent folder, which would not end
        files += [relative + image for image in images]
        pending += [(f"{relative}{folder}/", ancestors | {identity}) for folder in folders]
    return sorted(files)


def _list_folder(path: str) -> tuple[Identity, list[str], list[str]]:
    """Identity of a folder and the names of the folders and images in it, without hidden ones."""
    try:
        return _with_retries(lambda: (_identity(os.stat(path)), *_scan(path)))
    except OSError as error:
        raise UserError(f"the folder {path} cannot be listed: {error.strerror}.") from error


def _scan(path: str) -> tuple[list[str], list[str]]:
    folders, images = [], []
    with os.scandir(path) as entries:
        for entry in entries:
            if entry.name.startswith("."):
                continue
            image = is_image(entry.name)
            if _is_folder(entry, follow=not image):
                folders.append(entry.name)
            elif image:
                images.append(entry.name)
    return folders, images


def _is_folder(entry: os.DirEntry[str], *, follow: bool) -> bool:
    """Whether an entry is a folder or, with `follow`, a link to one."""
    # Links with the name of an image are not followed, because each would cost an access to the disk.
    try:
        return entry.is_dir(follow_symlinks=follow)
    except OSError as error:
        if error.errno == errno.ELOOP:
            return False  # a link to itself
        raise


def _identity(status: os.stat_result) -> Identity:
    return status.st_dev, status.st_ino


def _with_retries(action: Callable[[], Result]) -> Result:
    return with_retries(action, lambda error: isinstance(error, OSError) and error.errno in _TRANSIENT)
