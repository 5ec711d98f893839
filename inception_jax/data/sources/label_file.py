"""Image files with their labels in a text file beside them: csv:FILE."""

import csv
import dataclasses
import functools
import io
import itertools
import os
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from inception_jax.data.formats import require_decoders
from inception_jax.data.sources import splits
from inception_jax.data.sources.disk import Disk
from inception_jax.data.sources.source import Layout, Record, Source, class_name, list_names, note_alike
from inception_jax.data.sources.splits import SplitOptions
from inception_jax.data.sources.storage import is_image
from inception_jax.errors import UserError
from inception_jax.system.names import printable, read_text

# The first that fits: tabs are in no name, and commas in more names than semicolons.
_SEPARATORS = {"\t": "tab", ";": "semicolon", ",": "comma"}

# Names of columns, the best first; compared by `_plain`.
_PATH = "path file_path image_path img_path file_name image_file image_name img_name file image img image_id img_id id"
_LABEL = "label class class_name label_name category target species breed"
_SPLIT = "split subset data_set set partition phase"


class _Row(NamedTuple):
    """One image as the file describes it."""

    line: int
    file: str
    label: str
    split: str
    """"train", "validation" or "test"; "" without a column for it."""


class _Columns(NamedTuple):
    """Numbers of the columns."""

    path: int
    label: int
    split: int | None


def open_label_file(place: str, split: str, options: SplitOptions) -> Source:
    """Opens one split of the images that a text file lists.

    The file has a column of paths, one of labels and perhaps one of splits, separated by commas, semicolons or tabs.
    The columns are recognised by a header, or else by their contents. Paths are relative to the folder of the file. The
    classes are in the order of their names or, where all are whole numbers, of these. Without a column of splits, or
    with only one split in it, a part of each class is held out for validation.

    Args:
      place: The path of the file.
      split: As in `open_source`; "test" is used where there are no validation images.
      options: As in `open_source`.

    Raises:
      UserError: the file cannot be read or understood, an image is missing, or an image has two labels.
    """
    if "://" in place:
        raise UserError(f"csv:{place} is in a bucket; copy the file and the images to this machine.")
    path = Path(place).expanduser()
    if path.is_dir():
        raise UserError(f"csv:{printable(str(path))} is a folder; give the text file with the labels.")
    name = f"csv:{printable(str(path))}"
    rows, notes = _read_rows(path, name)
    rows = _unique(_locate(_settle_splits(rows), path.parent, name), name)
    divided = bool(rows[0].split)
    training = [row for row in rows if row.split in ("train", "")]
    validation = [row for row in rows if row.split == "validation"]
    classes = _class_names([row.label for row in training or validation])
    unknown = sorted({row.label for row in validation} - set(classes))
    if unknown:
        raise UserError(f"{name} has {list_names('class', unknown)} in its validation images and not in training.")
    held_out: frozenset[int] = frozenset()
    if divided:
        chosen = training if split == "train" else validation
    elif split == "evaluation":
        chosen = training
    else:
        chosen, held_out = _part(training, options, split)
    if not chosen and divided:
        raise UserError(f"{name} has no images for {'training' if split == 'train' else 'validation'}.")
    if not chosen:
        raise UserError(f"{name} is too small to split; one class must have two or more images.")
    if len(classes) < 2 and split == "train":
        raise UserError(f"{name} has only {list_names('class', classes)}; it must have two or more.")
    labels = {label: number for number, label in enumerate(classes)}
    found = sorted((labels[row.label], row.file) for row in chosen)
    require_decoders([row.file for row in chosen], f"{path.parent}/")
    reader = _Reader(Disk(path.parent), [file for _, file in found], [label for label, _ in found])
    train, held = ("rows marked for training", "rows marked for validation") if divided else ("", None)
    notes += note_alike(classes)
    layout = Layout(splits.describe(split, train, held, options.validation_fraction), notes)
    return Source(classes, len(found), reader.read, reader.locate, layout, held_out)


@dataclasses.dataclass(frozen=True)
class _Reader:
    """Reads images by number."""

    disk: Disk
    files: Sequence[str]
    """Paths relative to the folder of the disk."""
    labels: Sequence[int]

    def locate(self, index: int) -> tuple[str, int]:
        """Name and label of an image."""
        return os.path.join(self.disk.root, self.files[index]), self.labels[index]

    def read(self, index: int) -> Record:
        """Reads an image."""
        name, label = self.locate(index)
        return Record(self.disk.read(self.files[index]), label, name)


def _class_names(labels: Iterable[str]) -> tuple[str, ...]:
    """The classes in their order, which is that of the numbers where all are whole numbers."""
    classes = sorted(set(labels))
    return tuple(sorted(classes, key=int) if all(re.fullmatch("[0-9]{1,18}", label) for label in classes) else classes)


# Splits


def _settle_splits(rows: Sequence[_Row]) -> list[_Row]:
    """The rows with the splits "train" and "validation", or "" where all images are in one."""
    found = {row.split for row in rows}
    if len(found) == 1:
        return [row._replace(split="") for row in rows]
    if "validation" in found:
        return [row for row in rows if row.split != "test"]
    return [row._replace(split="validation") if row.split == "test" else row for row in rows]


def _part(rows: Iterable[_Row], options: SplitOptions, which: str) -> tuple[list[_Row], frozenset[int]]:
    """Training or validation rows of a set that is not split, and the digests of those held out.

    Of each class they are the images that a folder would give.
    """
    ordered = sorted(rows, key=lambda row: row.file)
    numbers = {label: number for number, label in enumerate(dict.fromkeys(row.label for row in ordered))}
    held_out, digests = splits.hold_out([row.file for row in ordered], [numbers[row.label] for row in ordered], options)
    return list(itertools.compress(ordered, held_out == (which == "validation"))), digests


def _unique(rows: Iterable[_Row], name: str) -> list[_Row]:
    """The rows without repetitions; UserError where an image has two labels or is in two splits."""
    found: dict[str, _Row] = {}
    for row in rows:
        other = found.setdefault(row.file, row)
        if (row.label, row.split) != (other.label, other.split):
            both = f"{other.label} {other.split}".strip(), f"{row.label} {row.split}".strip()
            raise UserError(
                f"{name}, lines {other.line} and {row.line}: {printable(row.file)} is '{both[0]}' and '{both[1]}'; an "
                "image must have one label and one split."
            )
    return list(found.values())


# Files


def _locate(rows: Sequence[_Row], folder: Path, name: str) -> list[_Row]:
    """The rows with the actual paths of their files, relative to the folder; UserError where files are missing."""
    files, found, missing, root = _Files(str(folder)), [], [], os.path.realpath(folder)
    resolve = functools.cache(os.path.realpath)
    for row in rows:
        file = files.find(row.file)
        if file is None:
            missing.append(f"{printable(row.file)} (line {row.line})")
        else:
            file = os.path.normpath(file) if ".." not in file else file
            if os.path.isabs(file) or ".." in file:
                # One spelling for a file. What is above a link to a folder depends on the link.
                head, tail = os.path.split(os.path.join(folder, file))
                actual = os.path.join(resolve(head), tail)
                file = os.path.relpath(actual, root) if actual.startswith(f"{root}{os.sep}") else actual
            found.append(row._replace(file=file))
    if missing:
        first = ", ".join(missing[:5]) + (f" and {len(missing) - 5:,} more" if len(missing) > 5 else "")
        raise UserError(
            f"{name}: {len(missing):,} of {len(rows):,} images cannot be found: {first}; paths are relative to "
            f"{printable(str(folder.resolve()))}."
        )
    return found


class _Files:
    """Files below a folder, by the names that a text file gives them; each folder is listed once."""

    def __init__(self, root: str):
        self._root = root
        self._resolve = functools.cache(self._resolve_folder)
        self._names = functools.cache(self._list_names)

    def find(self, file: str) -> str | None:
        """Path of a file relative to the root, also with backslashes, other accents, or without its suffix."""
        for spelling in dict.fromkeys((file, file.replace("\\", "/"))):
            head, tail = os.path.split(spelling)
            folder = self._resolve(head)
            actual = None if folder is None else self._actual(folder, tail)
            if folder is not None and actual:
                return os.path.join(folder, actual)
        return None

    def _resolve_folder(self, folder: str) -> str | None:
        if os.path.isdir(os.path.join(self._root, folder)):
            return folder
        head, tail = os.path.split(folder)
        if not tail:
            return None
        parent = self._resolve(head)
        actual = None if parent is None else self._actual(parent, tail)
        return None if parent is None or not actual else os.path.join(parent, actual)

    def _actual(self, folder: str, name: str) -> str | None:
        names = self._names(folder)
        return names.get(name) or names.get(_composed(name))

    def _list_names(self, folder: str) -> dict[str, str]:
        """Names in a folder by themselves, composed, and without the suffix of an image where only one fits."""
        path = os.path.join(self._root, folder)
        try:
            names = os.listdir(path or ".")
        except OSError as error:
            raise UserError(f"the folder {printable(path)} cannot be listed: {error.strerror}.") from error
        images = [name for name in names if is_image(name)]
        counts = Counter(map(_stem, images))
        unique = {_stem(name): name for name in images if counts[_stem(name)] == 1}
        return unique | {_composed(name): name for name in names} | {name: name for name in names}


def _composed(name: str) -> str:
    return unicodedata.normalize("NFC", name)


def _stem(name: str) -> str:
    return _composed(os.path.splitext(name)[0])


# The text


def _read_rows(path: Path, name: str) -> tuple[list[_Row], tuple[str, ...]]:
    """The rows, and a note on the columns that are not used."""
    # Bytes that are no text may be the name of a file.
    table = _read_table(read_text(path, errors="surrogateescape"), name)
    columns, has_header = _find_columns([cells for _, cells in table], name)
    rows = []
    for line, cells in table[has_header:]:
        split = "" if columns.split is None else _split_of(cells[columns.split], f"{name}, line {line}")
        file, label = cells[columns.path], class_name(cells[columns.label])
        # The published test images of a contest have no labels.
        if split == "test" and not label:
            continue
        if not file or not label:
            raise UserError(
                f"{name}, line {line}, has no {'label' if file else 'path'}; fill it in or remove the line."
            )
        rows.append(_Row(line, file, label, split))
    if not rows:
        raise UserError(f"{name} lists no image; it must have a line for each.")
    unused = [cell for i, cell in enumerate(table[0][1]) if has_header and cell and i not in columns]
    return rows, (f"{list_names('column', unused)} of {name} not used",) if unused else ()


def _split_of(cell: str, where: str) -> str:
    kind = splits.kind_of_split(cell)
    if kind is None:
        raise UserError(f"{where}: the split is '{printable(cell)}'; it must be train, validation or test.")
    return kind


def _read_table(text: str, name: str) -> list[tuple[int, list[str]]]:
    """Lines with their cells, without blanks around these; UserError unless all have equally many, two or more."""
    faults = {}
    for separator in _SEPARATORS:
        rows: list[tuple[int, list[str]]] = []
        reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator, strict=True, skipinitialspace=True)
        try:
            rows += [(reader.line_num, [cell.strip() for cell in cells]) for cells in reader if any(cells)]
        except csv.Error as error:
            faults[separator] = f"line {reader.line_num}: {error}"
        if not rows or len(rows[0][1]) < 2:
            continue
        width = len(rows[0][1])
        uneven = next((row for row in rows if len(row[1]) != width), None)
        if uneven:
            faults[separator] = f"line {uneven[0]} has {len(uneven[1])} columns and line {rows[0][0]} has {width}"
        if separator not in faults:
            return rows
    first = text.lstrip().partition("\n")[0]
    used = [separator for separator in _SEPARATORS if separator in first and separator in faults]
    if not text.strip():
        raise UserError(f"{name} is empty; it must have a line for each image.")
    if not used:
        raise UserError(
            f"{name} has one column; it must have a path and a label, separated by comma, semicolon or tab."
        )
    raise UserError(f"{name}, separated by {_SEPARATORS[used[-1]]}: {faults[used[-1]]}; correct that line.")


def _find_columns(table: Sequence[Sequence[str]], name: str) -> tuple[_Columns, bool]:
    """The columns, and whether the first line names them."""
    header = list(map(_plain, table[0]))
    path, label = _by_name(header, _PATH), _by_name(header, _LABEL)
    if path is not None and label is not None:
        also = [table[0][i] for i, cell in enumerate(header) if cell in map(_plain, _LABEL.split()) and i != label]
        if also and (header[label] != "label" or header.count("label") > 1):
            raise UserError(
                f"{name} has several columns of labels, {table[0][label]} and {also[0]}; name one of them label."
            )
        return _Columns(path, label, _find_split(table, _by_name(header, _SPLIT), header)), True
    body = table[1:] or table
    others = [i for i, cell in enumerate(table[0]) if any(row[i] for row in body)]
    images = [i for i in others if all(is_image(row[i]) for row in body)]
    if len(images) == 1:
        has_header = not os.path.splitext(table[0][images[0]])[1]
        # A column without a name is the numbering of another program.
        others = [i for i in others if i != images[0] and (table[0][i] or not has_header)]
        divided = [i for i in others if all(splits.kind_of_split(row[i]) for row in (body if has_header else table))]
        labels = [i for i in others if i not in divided]
        if len(labels) == 1 and len(divided) <= 1 and (has_header or is_image(table[0][images[0]])):
            return _Columns(images[0], labels[0], divided[0] if divided else None), has_header
    listed = ", ".join(f"'{printable(cell)}'" for cell in table[0][:8])
    raise UserError(
        f"{name}: it is not clear which column holds the paths and which the labels: the first line is {listed}; give "
        "the columns a header of path, label and, if there is one, split."
    )


def _by_name(header: Sequence[str], names: str) -> int | None:
    return next((header.index(name) for name in map(_plain, names.split()) if name in header), None)


def _plain(cell: str) -> str:
    """A name without case, blanks, hyphens, underscores and the s of a plural."""
    return re.sub(r"[\s_-]+", "", cell.lower()).removesuffix("s")


def _find_split(table: Sequence[Sequence[str]], column: int | None, header: Sequence[str]) -> int | None:
    """The column of splits; one of another name than split counts only where values of it are splits."""
    if column is None or header[column] == "split":
        return column
    are_splits = [bool(splits.kind_of_split(row[column])) for row in table[1:]]
    # Some alone may be a slip of the pen, and images for validation would be trained on: `_split_of` names it.
    return column if any(are_splits) else None
