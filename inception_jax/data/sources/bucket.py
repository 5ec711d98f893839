"""Images in a bucket, gs://, s3:// or whatever else fsspec has a package for."""

import functools
import logging
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from inception_jax.data.sources.retry import Result, with_retries
from inception_jax.data.sources.storage import Images, is_image
from inception_jax.errors import BrokenImage, UserError, reason

_MISSING = (FileNotFoundError, NotADirectoryError, IsADirectoryError)
# Trying again would not help: no permission, a name that cannot be, or our own disk is full.
_PERMANENT = (*_MISSING, PermissionError, FileExistsError, ValueError)

# Packages whose errors have no base class that says so.
_NETWORK_PACKAGES = {"aiohttp", "botocore", "gcsfs", "google", "s3fs"}

# A listing comes a thousand names at a time, each page a request that waits for the one before it.
_LISTING_THREADS = 16


class Bucket:
    """A `Storage` below a URL."""

    def __init__(self, url: str):
        """UserError where the package for such URLs is missing."""
        import fsspec  # here because only URLs need it

        # It logs every failure with a traceback; the last one becomes our sentence.
        logging.getLogger("gcsfs").setLevel(logging.CRITICAL)
        self.root = url.rstrip("/")
        try:
            # Its cache would hold a dictionary for each of a million files.
            self._files, self._path = fsspec.url_to_fs(self.root, use_listings_cache=False)
        except (ImportError, ValueError) as error:  # not installed; no such kind of URL
            raise UserError(f"{url} cannot be opened: {reason(error)}.") from error

    def subfolders(self, folder: str) -> list[str]:
        """As `Storage.subfolders`, by one call."""
        return sorted(name for name, size in self.entries(folder).items() if size is None and not name.startswith("."))

    def images(self, folder: str) -> Images:
        """As `Storage.images`, by one call per class and thousand images."""
        names = self.subfolders(folder)
        folders = [f"{folder}/{name}".lstrip("/") for name in names]
        pool = ThreadPoolExecutor(_LISTING_THREADS)
        try:
            return dict(zip(names, pool.map(self._list_class, folders), strict=True))
        finally:
            pool.shutdown(cancel_futures=True)

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
        # A folder may be an object of its own, and is then listed within itself.
        return {name.removeprefix(start): size for name, size in sizes.items() if name.startswith(start)}

    def copy(self, file: str, target: Path) -> None:
        """Copies a file to the local path `target`; UserError where it is not there or the bucket stays away."""
        url = self._url(file)
        try:
            _with_retries(lambda _: self._files.get_file(url, str(target)), url)
        except _MISSING as error:
            raise UserError(f"{url} is not there.") from error

    def _list_class(self, folder: str) -> list[str]:
        found = _with_retries(self._files.find, self._url(folder))
        files = [file.removeprefix(self._start(folder)) for file in found]
        return sorted(file for file in files if is_image(file) and "/." not in f"/{file}")

    def _start(self, folder: str) -> str:
        """How fsspec starts the names of what is in a folder."""
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
