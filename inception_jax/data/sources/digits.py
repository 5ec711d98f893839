"""scikit-learn's 1,797 digits of 8x8 pixels, the images that every installation has."""

import functools

import numpy as np

from inception_jax.data.sources.source import Source, read_array


def open_digits(split: str) -> Source:
    """The digits; every fifth of each class is for validation."""
    from sklearn.datasets import load_digits  # here because it takes a second and only this source needs it

    digits = load_digits()
    # Each image's number within its class: every fifth of a class is for validation.
    occurrence = np.zeros(len(digits.target), int)
    for label in range(10):
        members = digits.target == label
        occurrence[members] = np.arange(members.sum())
    chosen = (occurrence % 5 == 4) == (split == "validation")
    # The pixels are counts from 0 to 16.
    images = np.round(digits.images[chosen] * (255 / 16)).astype(np.uint8)
    read = functools.partial(read_array, images, digits.target[chosen], f"digits {split}")
    return Source(tuple("0123456789"), len(images), read)
