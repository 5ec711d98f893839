"""From folders, ImageNet's tars and TFRecord to array_record, which is read at random: `inception-jax data prepare`."""

from inception_jax.data.prepare.summary import summary
from inception_jax.data.prepare.work import Prepared, prepare

__all__ = ["Prepared", "prepare", "summary"]
