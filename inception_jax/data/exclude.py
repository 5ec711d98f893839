"""Validation images excluded from evaluation: ILSVRC's blacklist, by the numbers in the images' names."""

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
# Names that are read ahead for each thread.
_AHEAD = 4


def excluded(path: str | Path, source: Source, report: Callable[[str], None] = lambda message: None) -> np.ndarray:
    """The images that a list leaves out: int64 [excluded], their numbers in `source`, ascending.

    Args:
      path: Of the list: a validation image's number a line, that of ILSVRC2012_val_00000036.JPEG being 36; blank lines
        are passed over.
      source: The validation images, in any order, named as ILSVRC named them. Where the source knows the names only by
        reading, all images are read but not decoded, unless they are in the order of their numbers, as those are that
        `inception-jax data prepare imagenet:` made.
      report: Told that all images must be read.

    Raises:
      UserError: the list cannot be read, a line is no number, no image has it, or the images are named otherwise.
    """
    lines = _read_list(Path(path))
    excluded_numbers = np.array(sorted(lines), np.int64)
    if _is_in_order(source, excluded_numbers):
        return excluded_numbers - 1
    if not source.locate:
        report(f"reading the names of {len(source):,} images for {path}")
    numbers = np.fromiter(_numbers(source), np.int64, len(source))
    if (numbers == _NO_NUMBER).all():
        raise UserError(
            f"{path} leaves out images by their ILSVRC numbers, but no image of the source is named "
            f"ILSVRC2012_val_NNNNNNNN; the first is {_name(source, 0)}."
        )
    for number in np.setdiff1d(excluded_numbers, numbers).tolist():
        raise UserError(f"{path}, line {lines[number]}: no image is named ILSVRC2012_val_{number:08d}.")
    return np.flatnonzero(np.isin(numbers, excluded_numbers))


def _read_list(path: Path) -> dict[int, int]:
    """The numbers in a list, with the line of each."""
    try:
        text = path.read_text("ascii")
    except (OSError, UnicodeDecodeError) as error:
        what = error.strerror if isinstance(error, OSError) else "it is not plain text"
        raise UserError(f"the exclude list {path} cannot be read: {what}.") from error
    lines: dict[int, int] = {}
    for line, value in enumerate(map(str.strip, text.splitlines()), 1):
        if value and not re.fullmatch(r"\d{1,8}", value):
            raise UserError(f"{path}, line {line}: {value!r} is not the number of a validation image, as 36 is.")
        if value:
            lines.setdefault(int(value), line)
    return lines


def _is_in_order(source: Source, excluded_numbers: np.ndarray) -> bool:
    """Whether each of these numbers is that of the image in its place, counted from 1."""
    if excluded_numbers.size and not 1 <= excluded_numbers[0] <= excluded_numbers[-1] <= len(source):
        return False
    return all(_number(source, number - 1) == number for number in excluded_numbers.tolist())


def _numbers(source: Source) -> Iterator[int]:
    """The number in the name of every image, or `_NO_NUMBER`."""
    threads = available_cores()
    numbers = grain.MapDataset.range(len(source)).map(functools.partial(_number, source))
    return iter(numbers.to_iter_dataset(grain.ReadOptions(threads, _AHEAD * threads)))


def _number(source: Source, index: int) -> int:
    found = _NAME.search(_name(source, index).rpartition("/")[2])
    return int(found[1]) if found else _NO_NUMBER


def _name(source: Source, index: int) -> str:
    try:
        return source.name(index)
    except BrokenImage:  # it is named when it is evaluated
        return ""
