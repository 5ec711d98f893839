"""Sources of labelled images: `open_source` opens digits, idx:PATH, folder:PATH, csv:FILE or tfds:NAME.

Sources read images by number, from any thread; their order does not depend on a seed.
"""

from pathlib import Path

from inception_jax.data.sources.digits import open_digits
from inception_jax.data.sources.folder import open_folder
from inception_jax.data.sources.idx import open_idx
from inception_jax.data.sources.label_file import open_label_file
from inception_jax.data.sources.source import Record, Source, class_name, list_names, relabel, sample, with_classes
from inception_jax.data.sources.tfds import open_tfds
from inception_jax.errors import UserError

__all__ = ["Record", "Source", "class_name", "list_names", "open_source", "relabel", "sample", "with_classes"]


def open_source(spec: str, split: str, *, data_dir: str | None = None) -> Source:
    """Opens one split of a source of labelled images.

    Args:
      spec: `digits`, scikit-learn's 1,797 digits of 8x8 pixels; `idx:PATH`, a folder of MNIST's files; `folder:PATH`, a
        folder with one folder of images per class, on a disk or in a bucket (gs://, s3://); `csv:FILE`, a text file
        with the paths and labels of images; `tfds:NAME`, a data set prepared by tensorflow-datasets, by its name, its
        directory or its URL in a bucket.
      split: "train" or "validation".
      data_dir: Directory of the data sets of tensorflow-datasets, to which those in a bucket are copied; only for
        `tfds:`.

    Raises:
      UserError: there is no such source or split, or it does not contain labelled images.
    """
    if split not in ("train", "validation"):
        raise UserError(f"the split {split!r} must be 'train' or 'validation'.")
    kind, _, place = spec.partition(":")
    if spec == "digits":
        return open_digits(split)
    if kind == "idx" and place:
        return open_idx(Path(place).expanduser(), split)
    if kind == "folder" and place:
        return open_folder(place, split)
    if kind == "csv" and place:
        return open_label_file(place, split)
    if kind == "tfds" and place:
        return open_tfds(place, split, data_dir)
    raise UserError(f"the source {spec!r} must be digits, idx:PATH, folder:PATH, csv:FILE or tfds:NAME.")
