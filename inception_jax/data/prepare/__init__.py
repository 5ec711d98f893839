"""From folders, ImageNet's tars and TFRecord to array_record, which is read at random: `inception-jax data prepare`."""

from inception_jax.data.prepare.conversion import PreparedDataset, prepare
from inception_jax.data.prepare.summary import summary

__all__ = ["PreparedDataset", "prepare", "summary"]
