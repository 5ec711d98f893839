"""Interface of sources: labelled images by number."""

import collections
import contextlib
import dataclasses
import functools
import re
import unicodedata
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from inception_jax.errors import BrokenImage, UserError
from inception_jax.system.names import printable
from inception_jax.system.progress import Progress


class Record(NamedTuple):
    """One labelled image as its source stores it."""

    image: bytes | np.ndarray
    """An encoded file, or uint8 [H, W] or [H, W, C]."""
    label: int
    """Index into the source's `class_names`."""
    name: str
    """Origin of the image, for messages: a path, or 'digits train 17'."""


@dataclasses.dataclass(frozen=True)
class Layout:
    """Description of how a source was understood."""

    splits: str = ""
    """Origin of the training and validation images, in words."""
    notes: tuple[str, ...] = ()
    """Possible misunderstandings, in words."""
    passed_over: Mapping[str, Mapping[str, int]] = dataclasses.field(default_factory=dict)
    """Number of files and folders passed over, by the folder and then by their kind."""

    def __or__(self, other: "Layout") -> "Layout":
        """The layout of a source of which another split was opened too."""
        notes = tuple(dict.fromkeys(self.notes + other.notes))
        return Layout(self.splits or other.splits, notes, {**self.passed_over, **other.passed_over})

    @property
    def kinds_passed_over(self) -> dict[str, int]:
        """Number of files and folders passed over of each kind, the most frequent first."""
        total = sum(map(collections.Counter, self.passed_over.values()), collections.Counter())
        return dict(sorted(total.items(), key=lambda item: (-item[1], item[0])))


@dataclasses.dataclass(frozen=True)
class Source:
    """Labelled images by number; `source[i]` is safe to call from several threads."""

    class_names: tuple[str, ...]
    """Names of the classes in the order of their labels."""
    length: int
    """Number of images."""
    read: Callable[[int], Record]
    """Reads an image by its number; UserError where it cannot be read."""
    locate: Callable[[int], tuple[str, int]] | None = None
    """Returns the name and label of an image without reading it; None where they are not known beforehand."""
    layout: Layout = Layout()
    """Description of how the source was understood."""
    held_out: frozenset[int] = frozenset()
    """Digests of the names of the images held out for validation; empty where the source has splits or no names."""

    @property
    def num_classes(self) -> int:
        """Number of classes."""
        return len(self.class_names)

    def name(self, index: int) -> str:
        """Name of an image, which is read only where its name is not known beforehand."""
        return self.locate(index)[0] if self.locate else self[index].name

    def label(self, index: int) -> int:
        """Label of an image, which is read only where its label is not known beforehand."""
        return self.locate(index)[1] if self.locate else self[index].label

    @functools.cached_property
    def labels(self) -> np.ndarray:
        """Labels of all images: int32 [length], -1 where the image cannot be read.

        Where they are not known beforehand all images are read, but not decoded, and their progress is shown.
        """
        if self.locate:
            return np.fromiter((self.label(index) for index in range(self.length)), np.int32, self.length)
        labels = np.full(self.length, -1, np.int32)
        with contextlib.closing(Progress("reading labels", self.length, "images")) as progress:
            for index in range(self.length):
                with contextlib.suppress(BrokenImage):
                    labels[index] = self.label(index)
                progress.advance()
                progress.show()
        return labels

    def __len__(self) -> int:
        """Number of images."""
        return self.length

    def __getitem__(self, index: int) -> Record:
        """Reads an image; IndexError outside 0 .. length - 1, so that a source can be iterated."""
        if not 0 <= index < self.length:
            raise IndexError(f"image {index} of {self.length}")
        return self.read(index)


def class_name(name: str) -> str:
    """Name of a class from the name of its folder, or from a line or a cell of a text file.

    It is printable, so that every file format and terminal can hold it, and composed (Unicode's NFC), so that é has one
    spelling on every disk. The name of a class remains as it is.
    """
    # Composed after the escapes, whose last letter could take up an accent.
    return unicodedata.normalize("NFC", printable(name))


def folders_by_class(folders: Iterable[str], place: str) -> dict[str, str]:
    """Folders of the classes by the names of the classes, which are sorted.

    Args:
      folders: names of the folders.
      place: what holds the folders, for messages.

    Raises:
      UserError: two folders have one name, such as é in one and two characters.
    """
    found: dict[str, str] = {}
    for folder in folders:
        other = found.setdefault(class_name(folder), folder)
        if other != folder:
            raise UserError(
                f"{place} has two folders for the class '{class_name(folder)}', {ascii(other)} and {ascii(folder)}; "
                "move the images of both into one."
            )
    return dict(sorted(found.items()))


def note_alike(class_names: Iterable[str]) -> tuple[str, ...]:
    """A note on classes whose names differ only in case, blanks or leading zeros, which are more likely one class."""
    found: dict[str, list[str]] = {}
    for name in class_names:
        plain = re.sub(r"\\x20|\s", "", name.casefold())
        found.setdefault(plain.lstrip("0") if plain.isdecimal() else plain, []).append(name)
    alike = [name for names in found.values() if len(names) > 1 for name in names]
    return (f"{list_names('class', alike)} differ only in case, blanks or leading zeros",) if alike else ()


def sample(source: Source, count: int) -> Source:
    """Random sample of a source, always the same, in the source's order; UserError where it has fewer images."""
    if count > len(source):
        raise UserError(f"the sample has {count:,} images; it must have no more than the source, {len(source):,}.")
    return subset(source, np.sort(np.random.default_rng(0).permutation(len(source))[:count]))


def subset(source: Source, numbers: np.ndarray) -> Source:
    """Some images of a source, by their numbers."""
    locate = source.locate
    return dataclasses.replace(
        source,
        length=len(numbers),
        read=lambda index: source.read(int(numbers[index])),
        locate=None if locate is None else lambda index: locate(int(numbers[index])),
    )


def with_classes(source: Source, class_names: Sequence[str], *, origin: str, trained: str) -> Source:
    """The source with its labels numbered as in `class_names`, matched by name.

    Args:
      source: some or all of the classes.
      class_names: the classes in the order of the new labels.
      origin: the source, for messages.
      trained: whose classes these are, for messages.

    Raises:
      UserError: the source has classes that are not in `class_names`, or two classes of a name.
    """
    if source.class_names == tuple(class_names):
        return source
    own, wanted = (tuple(map(class_name, names)) for names in (source.class_names, class_names))
    for names, whose in ((own, origin), (wanted, trained)):
        twice = [name for name, count in collections.Counter(names).items() if count > 1]
        if twice:
            raise UserError(f"{whose} has two classes named {twice[0]!r}, so the classes cannot be matched by name.")
    numbers = {name: number for number, name in enumerate(wanted)}
    unknown = [name for name in own if name not in numbers]
    if unknown:
        raise UserError(f"{origin} has {list_names('class', unknown)}, which {trained} does not know.")
    return relabel(source, [numbers[name] for name in own], class_names)


def relabel(source: Source, labels: Sequence[int], class_names: Sequence[str]) -> Source:
    """The source with label i replaced by `labels[i]`, an index into `class_names` or -1."""

    def read(index: int) -> Record:
        record = source.read(index)
        return record._replace(label=labels[record.label])

    def new_label(located: tuple[str, int]) -> tuple[str, int]:
        return located[0], labels[located[1]]

    locate = source.locate
    return dataclasses.replace(
        source,
        class_names=tuple(class_names),
        read=read,
        locate=None if locate is None else lambda index: new_label(locate(index)),
    )


def list_names(noun: str, names: Sequence[str], most: int = 5) -> str:
    """Names for a message: "the class 'a'", or "the classes 'a', 'b' and 7 more"."""
    plural = f"the {noun}{'es' if noun.endswith('s') else 's'}"
    # Not repr(), which would escape the escapes.
    quoted = [f"'{printable(name)}'" for name in names[:most]]
    if len(names) == 1:
        return f"the {noun} {quoted[0]}"
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return f"{plural} {', '.join(quoted)}{more}"


def list_kinds(kinds: Mapping[str, int], most: int = 8) -> str:
    """Kinds of files for a message: "45 .txt, 2 Thumbs.db and 3 other kinds"."""
    listed = ", ".join(f"{count:,} {printable(kind)}" for kind, count in list(kinds.items())[:most])
    return listed + (f" and {len(kinds) - most} other kinds" if len(kinds) > most else "")


def from_arrays(
    class_names: Sequence[str], images: np.ndarray, labels: np.ndarray, name: str, layout: Layout
) -> Source:
    """Source of images in memory; `name` is what image 17 is named after: NAME 17."""

    def locate(index: int) -> tuple[str, int]:
        return f"{name} {index}", int(labels[index])

    def read(index: int) -> Record:
        return Record(images[index], int(labels[index]), f"{name} {index}")

    return Source(tuple(class_names), len(images), read, locate, layout)
