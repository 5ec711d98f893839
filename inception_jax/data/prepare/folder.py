"""Data sets of labelled image files: folder:PATH and csv:FILE, and the basis of imagenet:DIR."""

import dataclasses
import functools
import hashlib
import operator
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from inception_jax.data.prepare.dataset import Dataset, Example, Split
from inception_jax.data.sources import Source, SplitOptions, describe_layout, open_source
from inception_jax.system.names import printable
from inception_jax.system.progress import say


def list_folder(place: str, options: SplitOptions) -> Dataset:
    """Lists both splits of folder:PATH, with file names relative to it."""
    sources = _open_both(f"folder:{place}", options)
    return list_sources(dataset_name(Path(place).name), "1.0.0", sources, root=f"{place}/")


def list_label_file(place: str, options: SplitOptions) -> Dataset:
    """Lists both splits of csv:FILE, with file names relative to its folder."""
    path = Path(place)
    return list_sources(dataset_name(path.stem), "1.0.0", _open_both(f"csv:{place}", options), root=f"{path.parent}/")


def _open_both(spec: str, options: SplitOptions) -> dict[str, Source]:
    """Both splits of a source; prints how it was understood."""
    sources = {split: open_source(spec, split, options=options) for split in ("train", "validation")}
    layout = functools.reduce(operator.or_, (source.layout for source in sources.values()))
    source = dataclasses.replace(sources["train"], layout=layout)
    say("\n".join([describe_layout(spec, source), *layout.notes]))
    return sources


def dataset_name(folder: str) -> str:
    """Name of a folder as a valid name in tensorflow-datasets: a letter, then letters, digits and underscores."""
    name = re.sub(r"[^a-z0-9]+", "_", folder.lower()).strip("_")
    return name if name[:1].isalpha() else f"images_{name}".rstrip("_")


def list_sources(name: str, version: str, sources: Mapping[str, Source], *, root: str = "") -> Dataset:
    """Data set of sources that know the name and the label of every image beforehand.

    Args:
      name: Name of the data set.
      version: Version of the data set, such as "1.0.0".
      sources: Source of each split; all have the same classes.
      root: Prefix to remove from the names of the images.
    """
    class_names = next(iter(sources.values())).class_names
    info = _describe(name, version, class_names)
    digest = hashlib.sha256("\n".join(class_names).encode())
    for split, source in sources.items():
        digest.update(f"\n{split}".encode())
        assert source.locate, "only sources of files are prepared"
        for path, label in map(source.locate, range(len(source))):
            digest.update(f"\n{label} {_file_name(path, root)}".encode())
    splits = [
        Split(split, len(source), functools.partial(_read, source, info.features, _serializer(info.features), root))
        for split, source in sources.items()
    ]
    return Dataset(info, tuple(splits), digest.hexdigest())


def _describe(name: str, version: str, class_names: Sequence[str]) -> Any:
    import tensorflow_datasets as tfds  # here because it is slow to import

    identity = tfds.core.dataset_info.DatasetIdentity(
        name=name, version=tfds.core.Version(version), data_dir="", module_name="inception_jax"
    )
    features = tfds.features.FeaturesDict(
        {
            "image": tfds.features.Image(),
            "label": tfds.features.ClassLabel(names=list(class_names)),
            "file_name": tfds.features.Text(),
        }
    )
    return tfds.core.DatasetInfo(builder=identity, features=features, supervised_keys=("image", "label"))


def _serializer(features: Any) -> Callable[[Any], bytes]:
    from tensorflow_datasets.core.example_serializer import ExampleSerializer

    serializer = ExampleSerializer(features.get_serialized_info())
    # Unlike `features.serialize_example` deterministic: a shard that is written again must have the same bytes.
    return lambda example: serializer.get_tf_example(example).SerializeToString(deterministic=True)


def _file_name(path: str, root: str) -> str:
    # A name that is not UTF-8 contains lone surrogates, which neither JSON nor a Text feature can encode.
    return printable(path.removeprefix(root))


def _read(source: Source, features: Any, serialize: Callable[[Any], bytes], root: str, index: int) -> Example:
    image, label, path = source[index]
    assert isinstance(image, bytes)
    example = {"image": image, "label": label, "file_name": _file_name(path, root)}
    return Example(serialize(features.encode_example(example)), (image,), path)
