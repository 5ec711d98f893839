"""Validation images excluded from evaluation: those on a list, such as ILSVRC's blacklist, and of unknown classes."""

import functools
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import grain
import numpy as np

from inception_jax.data.sources import Source
from inception_jax.errors import BrokenImage, UserError
from inception_jax.system.cores import available_cores

_NAME = re.compile(r"ILSVRC2012_val_(\d{8})(?!\d)")
_NO_NUMBER = -1
# Names read ahead for each thread.
_AHEAD = 4


def excluded(path: str | Path, source: Source, report: Callable[[str], None] = lambda message: None) -> np.ndarray:
    """Numbers in `source` of the images on an exclude list: int64 [excluded], ascending.

    Args:
      path: The list: one ILSVRC number per line, such as 36 for ILSVRC2012_val_00000036.JPEG; blank lines are ignored.
      source: The validation images, in any order, with ILSVRC's names. All images are read, but not decoded, unless the
        source knows their names beforehand or has them in the order of their numbers, as `inception-jax data prepare
        imagenet:` writes them.
      report: Called with a message before all images are read.

    Raises:
      UserError: the list cannot be read, a line is not the number of an image, or the images have other names.
    """
    lines = _read_list(Path(path))
    excluded_numbers = np.array(sorted(lines), np.int64)
    if _is_in_order(source, excluded_numbers):
        return excluded_numbers - 1
    if not source.locate:
        report(f"reading the names of {len(source):,} images for {path}")
    numbers = np.fromiter(_of_each(source, functools.partial(_number, source)), np.int64, len(source))
    if (numbers == _NO_NUMBER).all():
        raise UserError(
            f"{path} lists ILSVRC numbers, but no image of the source is named ILSVRC2012_val_NNNNNNNN; the first is "
            f"{_name(source, 0)}."
        )
    for number in np.setdiff1d(excluded_numbers, numbers).tolist():
        raise UserError(f"{path}, line {lines[number]}: no image is named ILSVRC2012_val_{number:08d}.")
    return np.flatnonzero(np.isin(numbers, excluded_numbers))


def of_unknown_classes(source: Source, report: Callable[[str], None] = lambda message: None) -> np.ndarray:
    """Numbers in `source` of the images with a negative label, as `relabel` gives: int64 [images], ascending.

    All images are read, but not decoded, unless the source knows their labels beforehand; `report` is told before.
    """
    if not source.locate:
        report(f"reading the labels of {len(source):,} images")
    labels = np.fromiter(_of_each(source, functools.partial(_label, source)), np.int64, len(source))
    return np.flatnonzero(labels < 0)


def _label(source: Source, index: int) -> int:
    try:
        return source.label(index)
    except BrokenImage:  # reported when it is evaluated
        return 0


def _read_list(path: Path) -> dict[int, int]:
    """Numbers on a list, each with its line."""
    try:
        text = path.read_text("ascii")
    except (OSError, UnicodeDecodeError) as error:
        what = error.strerror if isinstance(error, OSError) else "it is not plain text"
        raise UserError(f"the exclude list {path} cannot be read: {what}.") from error
    lines: dict[int, int] = {}
    for line, value in enumerate(map(str.strip, text.splitlines()), 1):
        if value and not re.fullmatch(r"\d{1,8}", value):
            raise UserError(f"{path}, line {line}: {value!r} is not the number of a validation image, such as 36.")
        if value:
            lines.setdefault(int(value), line)
    return lines


def _is_in_order(source: Source, excluded_numbers: np.ndarray) -> bool:
    """Whether the image at position n, counted from 1, has the number n, for each of these numbers."""
    if excluded_numbers.size and not 1 <= excluded_numbers[0] <= excluded_numbers[-1] <= len(source):
        return False
    return all(_number(source, number - 1) == number for number in excluded_numbers.tolist())


def _of_each(source: Source, number_of: Callable[[int], int]) -> Iterator[int]:
    """A number of every image, computed in threads."""
    threads = available_cores()
    numbers = grain.MapDataset.range(len(source)).map(number_of)
    return iter(numbers.to_iter_dataset(grain.ReadOptions(threads, _AHEAD * threads)))


def _number(source: Source, index: int) -> int:
    """ILSVRC number of an image, or `_NO_NUMBER`."""
    found = _NAME.search(_name(source, index).rpartition("/")[2])
    return int(found[1]) if found else _NO_NUMBER


def _name(source: Source, index: int) -> str:
    try:
        return source.name(index)
    except BrokenImage:  # reported when it is evaluated
        return ""
