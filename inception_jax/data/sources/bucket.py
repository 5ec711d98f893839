"""Images in a bucket: gs://, s3:// or another kind of URL with a package for fsspec."""

import functools
import logging
import posixpath
import time
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from inception_jax.data.sources.retry import Result, with_retries
from inception_jax.data.sources.storage import Contents, is_image, junk, suffix
from inception_jax.errors import BrokenImage, UserError, reason
from inception_jax.system import extras

_MISSING = (FileNotFoundError, NotADirectoryError, IsADirectoryError)
# Not retried: no permission, an invalid name, or the local disk is full.
_PERMANENT = (*_MISSING, PermissionError, FileExistsError, ValueError)

# Packages whose errors have no common base class.
_NETWORK_PACKAGES = {"aiohttp", "botocore", "gcsfs", "google", "s3fs"}

# A listing is a sequence of requests for a thousand names each.
_LISTING_THREADS = 16


class Bucket:
    """A `Storage` below a URL."""

    def __init__(self, url: str):
        """UserError where the package for such URLs is missing."""
        import fsspec  # here because only URLs need it

        # It logs every failure with a traceback; the last one is our error.
        logging.getLogger("gcsfs").setLevel(logging.CRITICAL)
        self.root = url.rstrip("/")
        try:
            # Without its cache, which would hold a dictionary for each of a million files.
            self._files, self._path = fsspec.url_to_fs(self.root, use_listings_cache=False)
        except (ImportError, ValueError) as error:  # package not installed; unknown kind of URL
            needed = f" ({extras.command('gcsfs')})" if url.startswith(("gs:", "gcs:")) else ""
            raise UserError(f"{url} cannot be opened: {reason(error)}{needed}.") from error

    def contents(self, folder: str) -> Contents:
        """As `Storage.contents`, with one request."""
        found = Contents([], [], Counter())
        for name, size in sorted(self.entries(folder).items()):
            kind = junk(name)
            if kind:
                found.passed_over[kind] += 1
            elif size is None:
                found.folders.append(name)
            elif is_image(name):
                found.images.append(name)
            else:
                found.passed_over[suffix(name)] += 1
        return found

    def images(self, folder: str, names: Sequence[str]) -> dict[str, Contents]:
        """As `Storage.images`, with one request per class and thousand images."""
        folders = [f"{folder}/{name}".lstrip("/") for name in names]
        pool = ThreadPoolExecutor(_LISTING_THREADS)
        try:
            return dict(zip(names, pool.map(self._list_class, folders), strict=True))
        finally:
            pool.shutdown(cancel_futures=True)

    def overlap(self, first: str, second: str) -> bool:
        """As `Storage.overlap`."""
        paths = [f"{posixpath.normpath(folder)}/" for folder in (first, second)]
        return paths[0].startswith(paths[1]) or paths[1].startswith(paths[0])

    def read(self, file: str) -> bytes:
        """As `Storage.read`."""
        url = self._url(file)
        try:
            return _with_retries(self._files.cat_file, url)
        except _MISSING as error:
            raise BrokenImage(f"the image {url} cannot be read: it is not there.") from error

    def entries(self, folder: str) -> dict[str, int | None]:
        """Contents of a folder: size of each file in bytes, None for a folder; UserError where it does not exist."""
        url = self._url(folder)
        try:
            found = _with_retries(functools.partial(self._files.ls, detail=True), url)
        except _MISSING as error:
            raise UserError(f"{url} is not a folder.") from error
        start = self._start(folder)
        sizes = {e["name"].rstrip("/"): None if e["type"] == "directory" else e["size"] for e in found}
        # A folder may itself be an object, and is then listed within itself.
        return {name.removeprefix(start): size for name, size in sizes.items() if name.startswith(start)}

    def copy(self, file: str, target: Path) -> None:
        """Copies a file to the local path `target`; UserError where it does not exist or stays unreachable."""
        url = self._url(file)
        try:
            _with_retries(lambda _: self._files.get_file(url, str(target)), url)
        except _MISSING as error:
            raise UserError(f"{url} is not there.") from error

    def _list_class(self, folder: str) -> Contents:
        start = self._start(folder)
        files = [file.removeprefix(start) for file in _with_retries(self._files.find, self._url(folder))]
        images: list[str] = []
        # By path, because a folder that is passed over counts once, as on a disk.
        passed_over: dict[str, str] = {}
        for file in files:
            parts = file.split("/")
            kinds = [(depth, kind) for depth, part in enumerate(parts, 1) if (kind := junk(part))]
            if kinds:
                depth, kind = kinds[0]
                passed_over["/".join(parts[:depth])] = kind
            elif is_image(file):
                images.append(file)
            else:
                passed_over[file] = suffix(file)
        return Contents([], sorted(images), Counter(passed_over.values()))

    def _start(self, folder: str) -> str:
        """Prefix of fsspec's names of the contents of a folder."""
        return f"{self._path}/{folder}".rstrip("/") + "/"

    def _url(self, file: str) -> str:
        return f"{self.root}/{file}".rstrip("/")


def _with_retries(action: Callable[[str], Result], url: str) -> Result:
    """Result of `action` for a URL, with retries; UserError where it stays unreachable."""
    begin = time.monotonic()
    try:
        return with_retries(lambda: action(url), lambda error: _is_remote(error) and not isinstance(error, _PERMANENT))
    except _MISSING:
        raise
    except Exception as error:
        if not _is_remote(error):
            raise
        seconds = time.monotonic() - begin
        raise UserError(f"{url} could not be read in {seconds:.0f} s of trying: {reason(error)}.") from error


def _is_remote(error: Exception) -> bool:
    """Whether an error comes from the network or the storage rather than from this program."""
    network = type(error).__module__.partition(".")[0] in _NETWORK_PACKAGES
    return network or isinstance(error, OSError | EOFError | ValueError)
