"""Conversion of folders, ImageNet's tars and TFRecord files to array_record: `inception-jax data prepare`."""

from inception_jax.data.prepare.conversion import PreparedDataset, prepare
from inception_jax.data.prepare.summary import summary

__all__ = ["PreparedDataset", "prepare", "summary"]
