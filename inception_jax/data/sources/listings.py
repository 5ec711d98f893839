"""Long listings kept between runs, in the user's cache directory.

A network disk takes minutes to list ImageNet's training images and a second to say when each class's folder last
changed. A listing is used while every folder that it went through has the time and the number it had then.
"""

import contextlib
import gzip
import hashlib
import json
import os
import tempfile
import time
import zlib
from pathlib import Path

from inception_jax.data.sources.storage import Images

Stamp = list[int]
"""A folder's time of last change in nanoseconds and its number on the disk."""

Stamps = dict[str, Stamp]
"""The stamps of the folders that a listing went through, by their paths from the listed folder."""

_FEWEST_IMAGES = 10_000
"""Shorter listings take no time worth keeping."""

_SETTLED = 3_000_000_000
"""Nanoseconds: the times of some disks are that coarse, so that a younger folder may change and keep its time."""


def stamp(status: os.stat_result) -> Stamp:
    """The stamp of a folder."""
    return [status.st_mtime_ns, status.st_ino]


def load(folder: Path) -> Images | None:
    """The kept listing of a folder, or None where there is none, it cannot be read, or a folder has changed since."""
    try:
        kept = json.loads(gzip.decompress(_file(folder).read_bytes()))
        if all(stamp(os.stat(folder / inside)) == then for inside, then in kept["stamps"].items()):
            return kept["images"]
    except (OSError, EOFError, zlib.error, ValueError, LookupError, TypeError, AttributeError, RuntimeError):
        pass  # a cache that cannot be read is none
    return None


def save(folder: Path, images: Images, stamps: Stamps) -> None:
    """Keeps a listing that is long, and old enough to be told from what comes later; where that fails, it is not kept.

    Args:
      folder: What was listed.
      images: What was found.
      stamps: Of every folder that was listed, from before it was.
    """
    newest = max(changed for changed, _ in stamps.values())
    if sum(map(len, images.values())) < _FEWEST_IMAGES or newest > time.time_ns() - _SETTLED:
        return
    # Nothing that goes wrong here is worth stopping for.
    with contextlib.suppress(OSError, RuntimeError):
        place = _file(folder)
        place.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=place.parent, delete=False) as temporary:
            try:
                text = json.dumps({"folder": str(folder), "stamps": stamps, "images": images})
                temporary.write(gzip.compress(text.encode(), compresslevel=1))
                temporary.close()
                os.replace(temporary.name, place)
            except BaseException:
                os.unlink(temporary.name)
                raise


def _file(folder: Path) -> Path:
    """Where a folder's listing is kept; RuntimeError where the user has no home."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    name = hashlib.sha256(os.fsencode(folder)).hexdigest()[:32]
    return cache / "inception_jax" / "listings" / f"{name}.json.gz"
