"""Layout of a folder of images: which of its folders are splits and which are classes."""

import dataclasses
import re
from collections import Counter
from collections.abc import Collection, Sequence

from inception_jax.data.sources.source import class_name, folders_by_class, list_kinds, list_names
from inception_jax.data.sources.splits import USUAL_NAMES, SplitOptions, kind_of_split
from inception_jax.data.sources.storage import IMAGE_SUFFIXES, Contents, Storage
from inception_jax.errors import UserError

_IMAGENET = re.compile(r"ILSVRC2012_(val|test)_\d{8}\.JPEG")


@dataclasses.dataclass(frozen=True)
class FolderSplits:
    """The folders of the splits of a source."""

    train: str | None
    """Folder of the training images; "" is the source itself, None where there are none."""
    validation: str | None = None
    """Folder of the validation images; None where they are held out of the training images."""
    unused: tuple[str, ...] = ()
    """Other folders beside them."""
    notes: tuple[str, ...] = ()
    """As `Layout.notes`."""


@dataclasses.dataclass(frozen=True)
class ClassImages:
    """The images of a split by class."""

    files: dict[str, list[str]]
    """Classes in the order of their names, each with its images, relative to the folder of the class."""
    notes: tuple[str, ...]
    """As `Layout.notes`."""
    passed_over: Counter[str]
    """As `Contents.passed_over`, of the whole folder."""


def find_splits(storage: Storage, root: Contents, options: SplitOptions) -> FolderSplits:
    """Finds the splits in `root`, the contents of a source, by `options` or by their names.

    Without any its folders are classes. One with the name of a split is a class, too, where it holds images and other
    folders stand beside it.

    Raises:
      UserError: the folders may be splits as well as classes, two are named after one split, or one is missing.
    """
    given = {
        kind: _given_split(storage, root.folders, f"data.{kind}_split", folder)
        for kind, folder in (("train", options.train_split), ("validation", options.validation_split))
        if folder is not None
    }
    found = _named_splits(storage, root.folders, given) | given
    if not found:
        named = [name for name in root.folders if kind_of_split(name)]
        notes = (f"{list_names('folder', named)} beside others counted among the classes",) if named else ()
        return FolderSplits("", notes=notes)
    train, validation, test = (found.get(kind) for kind in USUAL_NAMES)
    notes = ()
    if validation is None and test is not None:
        if train is None or _class_names(storage, test) & _class_names(storage, train):
            validation = test
        else:
            notes = (f"{test}/ has no class of {train}/ and is not used for validation",)
    if train is not None and validation is not None and storage.overlap(train, validation):
        raise UserError(
            f"the training images are in {train!r} and the validation images in {validation!r} of {storage.root}, "
            "which are the same folder or one within the other; they must have no images in common: set "
            "data.train_split and data.validation_split, or remove the one that is a link."
        )
    if train is None and validation is not None:
        # Here, because that training images are missing, too, says less.
        check_folders(storage, validation, storage.contents(validation))
    used = {folder.split("/")[0] for folder in (train, validation) if folder}
    return FolderSplits(train, validation, tuple(name for name in root.folders if name not in used), notes)


def _named_splits(storage: Storage, names: Sequence[str], given: Collection[str]) -> dict[str, str]:
    """Folder of each kind of split; empty where all are classes. The kinds `given` are known otherwise."""
    named = {name: kind for name in names if (kind := kind_of_split(name))}
    if not named:
        return _loosely_named_splits(storage, names)
    others = [name for name in names if name not in named]
    if others:
        classes = {name: _class_folders(storage, name) for name in named}
        if not any(classes.values()):
            return {}
        # Only folders of one layout share the names of classes.
        alike = len(set.union(*classes.values())) < sum(map(len, classes.values()))
        beside = next(
            (name for name in others if not (alike or given) and storage.images("", [name])[name].images), None
        )
        if beside is not None:
            split = next(name for name, found in classes.items() if found)
            raise UserError(
                f"{storage.root} has a folder {split}, as if it were split, and {beside} beside it, as if both "
                f"were classes; rename {split} if it is a class, or else give folder:{storage.root}/{split}."
            )
    by_kind = {kind: [name for name in named if named[name] == kind] for kind in named.values()}
    for kind, same in by_kind.items():
        # A test split counts where there is no validation split.
        field = "train" if kind == "train" else "validation"
        if len(same) > 1 and field not in given and (kind == field or field not in by_kind):
            raise UserError(
                f"{storage.root} has {list_names('folder', same)}, each of which may be its {kind} split; name one in "
                f"data.{field}_split, or rename the others."
            )
    return {kind: same[0] for kind, same in by_kind.items()}


def _loosely_named_splits(storage: Storage, names: Sequence[str]) -> dict[str, str]:
    """Splits whose names only contain a usual one, such as seg_train and seg_test."""
    by_kind: dict[str, str] = {}
    for name in names:
        kinds = {kind for word in re.split(r"[^a-z]+", name.lower()) if (kind := kind_of_split(word))}
        if len(kinds) == 1:
            if by_kind.setdefault(kinds.pop(), name) != name:
                return {}
    several = "train" in by_kind and len(by_kind) > 1
    return by_kind if several and all(_class_folders(storage, name) for name in by_kind.values()) else {}


def _class_folders(storage: Storage, folder: str) -> set[str]:
    """Names of the classes in a folder that may be a split, which holds no images itself."""
    return set() if storage.contents(folder).images else _class_names(storage, folder)


def _class_names(storage: Storage, folder: str) -> set[str]:
    """Names of the classes in a folder: by them, not by its bytes, é is the same on every disk."""
    return set(map(class_name, storage.contents(folder).folders))


def _given_split(storage: Storage, names: Sequence[str], field: str, folder: str) -> str:
    folder = folder.strip("/")
    try:
        storage.contents(folder)
    except UserError as error:
        raise UserError(
            f"{field} is {folder!r}; it must be a folder in {storage.root}, which has {list_names('folder', names)}."
        ) from error
    return folder


def list_classes(storage: Storage, folder: str, contents: Contents, *, least: int) -> ClassImages:
    """Lists the images of each class.

    Args:
      storage: the source.
      folder: folder of a split, "" for the source itself.
      contents: what is in `folder`.
      least: number of classes that it must have.

    Raises:
      UserError: there are no folders or fewer than `least`, or one holds no image.
    """
    check_folders(storage, folder, contents)
    path = join(storage, folder)
    found = storage.images(folder, contents.folders)
    _check_count(storage, folder, [name for name, inside in found.items() if inside.images], least)
    for name, inside in found.items():
        if not inside.images:
            raise UserError(f"{path}/{name} holds no image{_instead(inside)}; {_ADD_IMAGES} or remove the folder.")
    passed_over = sum((inside.passed_over for inside in found.values()), contents.passed_over)
    images = {folder: found[folder].images for folder in folders_by_class(found, path).values()}
    return ClassImages(images, _nested_alike(path, found), passed_over)


_ADD_IMAGES = f"add images ({', '.join(IMAGE_SUFFIXES)})"


def check_folders(storage: Storage, folder: str, contents: Contents) -> None:
    """Raises UserError where there are no folders of classes in `folder`, whose contents these are."""
    path = join(storage, folder)
    if contents.folders:
        return
    if any(_IMAGENET.fullmatch(name) for name in contents.images):
        raise UserError(
            f"{path} holds ImageNet's images without folders of their classes; run inception-jax data prepare "
            "imagenet:DIR OUT, which knows their classes, on the directory of ILSVRC2012_img_train.tar and "
            "ILSVRC2012_img_val.tar."
        )
    if contents.images:
        raise UserError(
            f"{path} holds {len(contents.images):,} images and no folders; it must have one folder per class, or give "
            "csv:FILE with a file that lists the class of each image."
        )
    raise UserError(f"{path} has no folders{_instead(contents)}; it must have one per class.")


def _instead(contents: Contents) -> str:
    return f", but {list_kinds(contents.passed_over)}" if contents.passed_over else ""


def _check_count(storage: Storage, folder: str, classes: Sequence[str], least: int) -> None:
    """Raises UserError where there are too few classes, or the only one holds what look like the classes."""
    if len(classes) > 1 or not classes:
        return
    likely = _likely_folder(storage, f"{folder}/{classes[0]}".lstrip("/"))
    if likely is None and least < 2:
        return
    path = join(storage, folder)
    if likely is None:
        raise UserError(f"{path} has only {list_names('class', classes)}; it must have two or more.")
    place, inside = join(storage, likely), storage.contents(likely).folders
    what = f"give folder:{place}" if folder == "" else f"move them to {path}"
    raise UserError(
        f"{path} has only {list_names('class', classes)}; it must have two or more. If they are "
        f"{list_names('folder', inside)} in {place}, {what}."
    )


def _likely_folder(storage: Storage, folder: str) -> str | None:
    """The first folder, from `folder` downwards, with more than one folder and no images in it."""
    contents = storage.contents(folder)
    if contents.images or not contents.folders:
        return None
    return folder if len(contents.folders) > 1 else _likely_folder(storage, f"{folder}/{contents.folders[0]}")


def _nested_alike(path: str, classes: dict[str, Contents]) -> tuple[str, ...]:
    """A note where each class has the same folders, which are more likely the classes."""
    alike: set[str] | None = None
    for inside in classes.values():
        if not all("/" in file for file in inside.images):
            return ()
        folders = {file.partition("/")[0] for file in inside.images}
        if len(folders) < 2 or folders != (alike or folders):
            return ()
        alike = folders
    if len(classes) < 2 or not alike:
        return ()
    return (f"each class of {path} has {list_names('folder', sorted(alike))}, which may be meant as the classes",)


def join(storage: Storage, folder: str) -> str:
    """Path or URL of a folder of a source."""
    return f"{storage.root}/{folder}".rstrip("/")
