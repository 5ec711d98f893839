"""Check of a source: decodes every image of both splits and reports sizes, formats, faults and duplicates."""

import dataclasses
import functools
import operator
import warnings
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from inception_jax.data import formats, jpeg, preprocess
from inception_jax.data.duplicates import Duplicates, digest, find_duplicates
from inception_jax.data.sources import Source, SplitOptions, list_kinds, open_source
from inception_jax.data.sources.storage import is_junk
from inception_jax.errors import BrokenImage, UserError
from inception_jax.system.cores import available_cores
from inception_jax.system.names import printable
from inception_jax.system.progress import Progress

_FAULTY = "with faults"
TRAITS = ("grey", "CMYK", "with alpha", "turned by EXIF", "several frames", "over 8 bits", _FAULTY)
"""Properties of images of any format.

The rotation by EXIF is not applied in training, and only the first frame is used; of over 8 bits the high eight are
used, and the faults are outside the pixels.
"""

# 28 bytes per image, so that a million of them take 28 MB.
_ROW = np.dtype(
    [("label", np.int32), ("width", np.int32), ("height", np.int32), ("bytes", np.int64), ("digest", np.uint64)]
)
_BROKEN = -1  # as a label

# Images per task of a thread: enough to make its overhead negligible, few enough for a quick Ctrl-C.
_CHUNK = 64
_CLASSES_LISTED = 50
_SMALLEST_LISTED = 5
# The report as JSON has all of them.
_FAULTS_LISTED = 10

# Most that a channel of an image of one colour varies by, after lossy compression.
_ONE_COLOUR = 2


@dataclasses.dataclass
class _Part:
    """Findings in some of the images, besides their rows."""

    kinds: Counter[str] = dataclasses.field(default_factory=Counter)
    """Number of images of each format, and with each of `TRAITS`."""
    broken: list[str] = dataclasses.field(default_factory=list)
    faults: list[str] = dataclasses.field(default_factory=list)
    one_colour: list[str] = dataclasses.field(default_factory=list)

    def add(self, other: "_Part") -> None:
        self.kinds.update(other.kinds)
        self.broken += other.broken
        self.faults += other.faults
        self.one_colour += other.one_colour


@dataclasses.dataclass(frozen=True)
class Spread:
    """Minimum, median and maximum of a set of values; of two middle values the median is the lower."""

    least: int
    median: int
    largest: int


@dataclasses.dataclass(frozen=True)
class SplitReport:
    """Contents of one split. All fields but `broken` are about the images that can be decoded."""

    images: int
    bytes: int
    """Total encoded size, or size of the pixels where a source stores pixels."""
    classes: tuple[int, ...]
    """Number of images of each class, in the order of the labels."""
    width: Spread | None
    """Widths in pixels, as decoded; None without images."""
    height: Spread | None
    """Heights in pixels."""
    image_bytes: Spread | None
    """Sizes of single images in bytes."""
    formats: dict[str, int]
    """Number of images of each format, by content rather than name: JPEG, PNG, ..., or array for pixels."""
    traits: dict[str, int]
    """Number of images with each of `TRAITS`."""
    broken: tuple[str, ...]
    """One message per broken image, with its name."""
    faults: tuple[str, ...]
    """One message per intact image with a fault outside its pixels, with its name."""
    one_colour: tuple[str, ...]
    """Names of the images of a single colour."""


@dataclasses.dataclass(frozen=True)
class SourceReport:
    """Contents of a source."""

    source: str
    class_names: tuple[str, ...]
    splits: dict[str, SplitReport]
    """Reports keyed by "train" and "validation"; one of the two may be missing."""
    missing: dict[str, str]
    """Reason why each missing split cannot be opened."""
    duplicates: Duplicates
    """Images with the same bytes."""
    layout: str = ""
    """Origin of the training and validation images, in words."""
    notes: tuple[str, ...] = ()
    """Possible misunderstandings of the layout, in words."""
    passed_over: dict[str, int] = dataclasses.field(default_factory=dict)
    """Number of files and folders of each kind that hold no images of the source."""

    @property
    def broken(self) -> int:
        """Number of broken images in both splits."""
        return sum(len(split.broken) for split in self.splits.values())


def check(
    source: str, *, data_dir: str | None = None, threads: int | None = None, options: SplitOptions | None = None
) -> SourceReport:
    """Reads and strictly decodes every image of both splits; shows progress on standard error.

    Args:
      source: `spec` of `open_source`.
      data_dir: As in `open_source`.
      threads: Number of threads; None is one per core.
      options: As in `open_source`.

    Raises:
      UserError: neither split can be opened, or the source can no longer be read.
    """
    threads = available_cores() if threads is None else threads
    if threads < 1:
        raise UserError(f"the number of threads is {threads}; it must be 1 or more.")
    opened: dict[str, Source] = {}
    missing: dict[str, str] = {}
    for split in ("train", "validation"):
        try:
            opened[split] = open_source(source, split, data_dir=data_dir, options=options)
        except formats.MissingDecoder:
            raise
        except UserError as error:
            missing[split] = str(error)
    if not opened:
        raise UserError(missing["train"])
    class_names = next(iter(opened.values())).class_names
    with warnings.catch_warnings():
        # Pillow warns, without a name, of odd EXIF and of very large images; both can be trained on.
        warnings.simplefilter("ignore")
        rows = {split: np.full(len(images), _BROKEN, _ROW) for split, images in opened.items()}
        splits = {split: _check_split(images, split, rows[split], threads) for split, images in opened.items()}
        counts, pairs = find_duplicates(rows)
        examples = {kind: (_name(opened, first), _name(opened, second)) for kind, (first, second) in pairs.items()}
    layout = functools.reduce(operator.or_, (images.layout for images in opened.values()))
    return SourceReport(
        source,
        class_names,
        splits,
        missing,
        Duplicates(**counts, examples=examples),
        layout.splits,
        layout.notes,
        layout.kinds_passed_over,
    )


def _name(opened: Mapping[str, Source], place: tuple[str, int]) -> str:
    split, number = place
    return opened[split][number].name


def _check_split(source: Source, split: str, rows: np.ndarray, threads: int) -> SplitReport:
    """Reads and decodes the images of a split, and fills in a row for each."""
    found = _Part()
    chunks = [range(first, min(first + _CHUNK, len(source))) for first in range(0, len(source), _CHUNK)]
    progress, pool = Progress(split, len(source), "images"), ThreadPoolExecutor(threads)
    try:
        parts = pool.map(functools.partial(_check_images, source, rows), chunks)
        for chunk, part in zip(chunks, parts, strict=True):
            found.add(part)
            progress.advance(len(chunk))
            progress.show()
    finally:
        # Cancelled, because Ctrl-C would wait for all remaining images otherwise.
        pool.shutdown(cancel_futures=True)
        progress.close()
    good = rows[rows["label"] != _BROKEN]
    return SplitReport(
        images=len(good),
        bytes=int(good["bytes"].sum()),
        classes=tuple(np.bincount(good["label"], minlength=source.num_classes).tolist()),
        width=_spread(good["width"]),
        height=_spread(good["height"]),
        image_bytes=_spread(good["bytes"]),
        formats={kind: count for kind, count in sorted(found.kinds.items()) if kind not in TRAITS},
        traits={trait: found.kinds[trait] for trait in TRAITS},
        broken=tuple(found.broken),
        faults=tuple(found.faults),
        one_colour=tuple(found.one_colour),
    )


def _check_images(source: Source, rows: np.ndarray, numbers: range) -> _Part:
    """Fills in the rows of these images; returns what else is found in them."""
    part, scratch = _Part(), preprocess.Scratch()
    for number in numbers:
        faults: list[str] = []
        try:
            image, label, name = source[number]
            pixels = preprocess.decode(image, name, scratch, faults)
        except BrokenImage as error:
            part.broken.append(printable(str(error)))
            continue
        height, width = pixels.shape[:2]
        size = image.nbytes if isinstance(image, np.ndarray) else len(image)
        rows[number] = (label, width, height, size, digest(image))
        part.kinds.update([*_kinds(image), *([_FAULTY] if faults else [])])
        part.faults += [printable(f"{name}: {fault}") for fault in faults[:1]]
        part.one_colour += [printable(name)] if _is_one_colour(pixels) else []
    return part


def _is_one_colour(pixels: np.ndarray) -> bool:
    # Most images are told by some of their pixels.
    for part in (pixels[::8, ::8], pixels):
        if (part.max((0, 1)).astype(int) - part.min((0, 1)) > _ONE_COLOUR).any():
            return False
    return True


def _kinds(image: bytes | np.ndarray) -> list[str]:
    """Format of an intact image, and those of `TRAITS` that it has."""
    if isinstance(image, np.ndarray):
        channels = image.shape[2] if image.ndim == 3 else 1
        return ["array", *(["grey"] if channels == 1 else ["with alpha"] if channels == 4 else [])]
    if image.startswith(jpeg.START):
        return ["JPEG", *jpeg.describe(image)]
    kind, traits = formats.describe(image)
    return [kind, *traits]


def _spread(values: np.ndarray) -> Spread | None:
    if not values.size:
        return None
    least, median, largest = np.percentile(values, (0, 50, 100), method="lower").tolist()
    return Spread(int(least), int(median), int(largest))


def table(report: SourceReport) -> str:
    """Report as text; of more than 50 classes only those with the fewest images are listed."""
    splits = list(report.splits.values())
    lines = [f"{report.source} (three numbers are minimum / median / maximum)"]
    lines += _layout_lines(report)
    lines += [f"{split} is missing: {reason}" for split, reason in report.missing.items()]
    lines += ["", _line("", report.splits), *(_line(name, cells) for name, cells in _rows(splits))]
    if len(report.class_names) <= _CLASSES_LISTED:
        counts = zip(report.class_names, *(split.classes for split in splits), strict=True)
        lines += ["", "images of each class", *(_line(name, map("{:,}".format, row)) for name, *row in counts)]
    else:
        lines += [
            "",
            *(f"fewest in {name}: {_smallest_classes(report.class_names, s)}" for name, s in report.splits.items()),
        ]
    findings = list(_findings(report))
    lines += ["", "worth a look", *(f"- {finding}" for finding in findings)] if findings else []
    faults = [sentence for split in splits for sentence in split.faults]
    if faults:
        lines += ["", "read in spite of faults outside the pixels", *faults[:_FAULTS_LISTED]]
        lines += [f"and {len(faults) - _FAULTS_LISTED:,} more"] if len(faults) > _FAULTS_LISTED else []
    broken = [sentence for split in splits for sentence in split.broken]
    return "\n".join([*lines, *([""] if broken else []), *broken])


def _findings(report: SourceReport) -> Iterator[str]:
    """Possible faults of intact images, one line each."""
    train, splits = report.splits.get("train"), report.splits.values()
    what = {
        "across_splits": "validation images that are also training images, which lowers the validation error",
        "between_classes": "images that are in several classes",
        "within_class": "copies of another image of the class",
    }
    for kind, (first, second) in report.duplicates.examples.items():
        yield f"{what[kind]}: {getattr(report.duplicates, kind):,}, e.g. {first} and {second}"
    for split, other in (("train", "validation"), ("validation", "train")):
        yield from _missing_classes(report, split, other)
    if train and 1 in train.classes:
        single = [name for name, count in zip(report.class_names, train.classes, strict=True) if count == 1]
        yield f"classes of a single training image: {_some(single)}"
    one_colour = [name for split in splits for name in split.one_colour]
    if one_colour:
        yield f"images of a single colour: {_some(one_colour)}"
    sizes = {(s.width.least, s.width.largest, s.height.least, s.height.largest) for s in splits if s.width and s.height}
    if len(sizes) == 1 and sum(split.images for split in splits) > 1:
        least, width, lowest, height = sizes.pop()
        if (least, lowest) == (width, height):
            yield f"images of a single size: all, {width} x {height} pixels, as if they had been resized before"
    if any(split.traits["over 8 bits"] for split in splits):
        yield "images of over 8 bits: values of 16 bits are divided by 256, of a TIFF of 12 bits by 16"


def _missing_classes(report: SourceReport, split: str, other: str) -> Iterator[str]:
    """A line where classes of the other split have no image in this one."""
    if split not in report.splits or other not in report.splits:
        return
    counts = zip(report.class_names, report.splits[split].classes, report.splits[other].classes, strict=True)
    if names := [name for name, here, there in counts if there and not here]:
        yield f"classes without {'training' if split == 'train' else split} images: {_some(names)}"


def _some(names: Sequence[str]) -> str:
    """Number of names, and the first of them."""
    rest = ", ..." if len(names) > _SMALLEST_LISTED else ""
    return f"{len(names):,}, {', '.join(names[:_SMALLEST_LISTED])}{rest}"


def _layout_lines(report: SourceReport) -> list[str]:
    """Lines that describe how the source was understood."""
    lines = [f"{report.layout[:1].upper()}{report.layout[1:]}."] if report.layout else []
    lines += [f"Note: {note}." for note in report.notes]
    groups = {
        "Passed over, since they are not images": {k: n for k, n in report.passed_over.items() if not is_junk(k)},
        "Passed over, since they are hidden or system files": {
            k: n for k, n in report.passed_over.items() if is_junk(k)
        },
    }
    return lines + [f"{why}: {list_kinds(kinds, most=20)}." for why, kinds in groups.items() if kinds]


def _rows(splits: Sequence[SplitReport]) -> Iterator[tuple[str, list[str]]]:
    """Rows of the table: a name, and a cell for each split."""
    yield "images", [f"{split.images:,}" for split in splits]
    yield "classes with images", [f"{np.count_nonzero(split.classes):,}" for split in splits]
    yield "broken images", [f"{len(split.broken):,}" for split in splits]
    yield "megabytes", [f"{split.bytes / 1e6:,.1f}" for split in splits]
    yield "bytes of an image", [_min_median_max(split.image_bytes) for split in splits]
    yield "width in pixels", [_min_median_max(split.width) for split in splits]
    yield "height in pixels", [_min_median_max(split.height) for split in splits]
    yield "images of a class", [_min_median_max(_spread(np.array(split.classes))) for split in splits]
    for format in sorted({format for split in splits for format in split.formats}):
        yield format, [f"{split.formats.get(format, 0):,}" for split in splits]
    for trait in TRAITS:
        if any(split.traits[trait] for split in splits):
            yield trait, [f"{split.traits[trait]:,}" for split in splits]


def _min_median_max(spread: Spread | None) -> str:
    return f"{spread.least:,} / {spread.median:,} / {spread.largest:,}" if spread else "-"


def _smallest_classes(class_names: Sequence[str], split: SplitReport) -> str:
    order = sorted(range(len(class_names)), key=split.classes.__getitem__)[:_SMALLEST_LISTED]
    return ", ".join(f"{class_names[label]} {split.classes[label]:,}" for label in order)


def _line(name: str, cells: Iterable[str]) -> str:
    return f"{name:<20}" + "".join(f"{cell:>30}" for cell in cells)
