"""ImageNet 2012 in its two tars: imagenet:DIR."""

import re
from collections.abc import Sequence
from pathlib import Path

from inception_jax.data.prepare.byte_range import ByteRange, read_range
from inception_jax.data.prepare.dataset import Dataset
from inception_jax.data.prepare.folder import list_sources
from inception_jax.data.prepare.tars import list_members
from inception_jax.data.sources import Record, Source
from inception_jax.errors import UserError
from inception_jax.system.progress import say

_TARS = {"train": "ILSVRC2012_img_train.tar", "validation": "ILSVRC2012_img_val.tar"}


def list_imagenet(place: str) -> Dataset:
    """Lists the splits whose tars are in the folder; the classes are ImageNet's 1,000 in the order of their synsets."""
    tars = {split: Path(place) / name for split, name in _TARS.items()}
    present = {split: path for split, path in tars.items() if path.is_file()}
    if not present:
        raise UserError(f"imagenet:{place} has neither {' nor '.join(_TARS.values())}; put one or both there.")
    synsets = tuple(sorted(_read_tfds_list("labels.txt")))
    sources = {}
    for split, path in tars.items():
        if split not in present:
            say(f"imagenet:{place} has no {path.name}: the split {split} is left out")
            continue
        say(f"listing {path}")
        members = _training(path, synsets) if split == "train" else _validation(path, synsets)
        sources[split] = _source(path, members, synsets)
    return list_sources("imagenet2012", "5.1.0", sources)


def _read_tfds_list(name: str) -> list[str]:
    """Lines of a file in tensorflow-datasets' folder of ImageNet."""
    import tensorflow_datasets as tfds  # here because it is slow to import

    return tfds.core.tfds_path(f"datasets/imagenet2012/{name}").read_text().split()


def _training(path: Path, synsets: Sequence[str]) -> list[tuple[ByteRange, int]]:
    """Images and labels: the tar contains one tar for each class."""
    labels = {f"{synset}.tar": label for label, synset in enumerate(synsets)}
    found: list[tuple[ByteRange, int]] = []
    classes = list_members(path)
    for inner in classes:
        if inner.name not in labels:
            raise UserError(f"{path} holds {inner.name}, which is not the tar of one of ImageNet's 1,000 classes.")
        images = list_members(path, inner)
        if not images:
            raise UserError(f"{inner.name} in {path} holds no image; download it again.")
        found += [(image, labels[inner.name]) for image in images]
    if len(classes) != len(synsets):
        say(f"{path} has {len(classes):,} of the {len(synsets):,} classes")
    return found


def _validation(path: Path, synsets: Sequence[str]) -> list[tuple[ByteRange, int]]:
    """Images and labels in the order of the images' numbers, which is that of the list of labels."""
    labels = {synset: label for label, synset in enumerate(synsets)}
    answers = [labels[synset] for synset in _read_tfds_list("validation_labels.txt")]
    found = {_number(path, member.name, len(answers)): member for member in list_members(path)}
    if len(found) != len(answers):
        say(f"{path} has {len(found):,} of the {len(answers):,} validation images")
    return [(found[number], answers[number - 1]) for number in sorted(found)]


def _number(path: Path, name: str, last: int) -> int:
    match = re.fullmatch(r"ILSVRC2012_val_(\d{8})\.JPEG", name)
    if not match or not 1 <= int(match[1]) <= last:
        raise UserError(f"{path} holds {name}; its files must be ILSVRC2012_val_00000001.JPEG to {last:08d}.")
    return int(match[1])


def _source(path: Path, members: Sequence[tuple[ByteRange, int]], synsets: tuple[str, ...]) -> Source:
    if not members:
        raise UserError(f"{path} holds no image; download it again.")

    def locate(index: int) -> tuple[str, int]:
        member, label = members[index]
        return member.name, label

    def read(index: int) -> Record:
        member, label = members[index]
        return Record(read_range(path, member), label, member.name)

    return Source(synsets, len(members), read, locate)
