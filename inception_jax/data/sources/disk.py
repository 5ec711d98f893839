"""Images on a local or network disk, listed without opening a file."""

import errno
import os
import stat
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

from inception_jax.data.sources.retry import Result, with_retries
from inception_jax.data.sources.storage import Contents, is_image, junk, suffix
from inception_jax.errors import BrokenImage, UserError, reason

# Errors of a network disk while it is unreachable.
_TRANSIENT = (errno.ESTALE, errno.EIO, errno.ETIMEDOUT)

Identity = tuple[int, int]
"""Device and inode of a folder, which do not depend on the link that leads to it."""


class Disk:
    """A `Storage` below a folder of this machine."""

    def __init__(self, root: Path):
        """UserError where `root` is not a folder."""
        self.root = str(root)
        if not os.path.isdir(root):
            raise UserError(f"folder:{root} {_what_else(root)}.")

    def contents(self, folder: str) -> Contents:
        """As `Storage.contents`."""
        found = _list_folder(os.path.join(self.root, folder))[1]
        return Contents(sorted(found.folders), sorted(found.images), found.passed_over)

    def images(self, folder: str, names: Sequence[str]) -> dict[str, Contents]:
        """As `Storage.images`."""
        path = Path(self.root, folder).resolve()
        ancestors = frozenset(_identity(os.stat(parent)) for parent in (path, *path.parents))
        # Without threads, which are slower on a local disk, because listing holds the GIL.
        return {name: _list_class(path / name, ancestors) for name in names}

    def overlap(self, first: str, second: str) -> bool:
        """As `Storage.overlap`, also by links."""
        paths = [Path(self.root, folder).resolve() for folder in (first, second)]
        return paths[0].is_relative_to(paths[1]) or paths[1].is_relative_to(paths[0])

    def read(self, file: str) -> bytes:
        """As `Storage.read`."""
        path = os.path.join(self.root, file)
        try:
            return _with_retries(lambda: read_file(path))
        except OSError as error:
            raise BrokenImage(f"the image {path} cannot be read: {error.strerror or reason(error)}.") from error


def read_file(path: str | os.PathLike) -> bytes:
    """Contents of a file; OSError where it cannot be read or is a pipe or a device, which would never end."""
    # Without waiting: opening a pipe waits for a writer otherwise.
    with open(path, "rb", buffering=0, opener=lambda name, flags: os.open(name, flags | os.O_NONBLOCK)) as file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise OSError("it is not a file")
        return file.read()


def _list_class(path: Path, ancestors: frozenset[Identity]) -> Contents:
    """Images at any depth below the folder of a class; `ancestors` are its parent folders."""
    files: list[str] = []
    passed_over: Counter[str] = Counter()
    pending = [("", ancestors)]
    while pending:
        relative, ancestors = pending.pop()
        identity, found = _list_folder(os.path.join(path, relative))
        if identity in ancestors:
            continue  # a link to a parent folder, which would not end
        files += [relative + image for image in found.images]
        passed_over += found.passed_over
        pending += [(f"{relative}{folder}/", ancestors | {identity}) for folder in found.folders]
    return Contents([], sorted(files), passed_over)


def _list_folder(path: str) -> tuple[Identity, Contents]:
    """Identity and unsorted contents of a folder."""
    try:
        return _with_retries(lambda: (_identity(os.stat(path)), _scan(path)))
    except OSError as error:
        raise UserError(f"the folder {path} cannot be listed: {error.strerror}.") from error


def _scan(path: str) -> Contents:
    found = Contents([], [], Counter())
    with os.scandir(path) as entries:
        for entry in entries:
            kind = junk(entry.name)
            if kind:
                found.passed_over[kind] += 1
                continue
            image = is_image(entry.name)
            if _is_folder(entry, follow=not image):
                found.folders.append(entry.name)
            elif image:
                found.images.append(entry.name)
            else:
                found.passed_over[suffix(entry.name)] += 1
    return found


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


def _what_else(root: Path) -> str:
    """End of a sentence about a path that is not a folder."""
    if not os.path.exists(root):
        return "does not exist"
    archive = root.name.lower().endswith((".zip", ".tar", ".tgz", ".gz", ".7z", ".rar"))
    return "is an archive; unpack it and give the folder" if archive else "is a file, not a folder"
