"""scikit-learn's 1,797 digits of 8x8 pixels, available without a download."""

import numpy as np

from inception_jax.data.sources.source import Layout, Source, from_arrays


def open_digits(split: str) -> Source:
    """Opens one split of the digits; every fifth of each class is for validation."""
    from sklearn.datasets import load_digits  # here because it takes a second to import

    digits = load_digits()
    # Number of each image within its class.
    occurrence = np.zeros(len(digits.target), int)
    for label in range(10):
        members = digits.target == label
        occurrence[members] = np.arange(members.sum())
    chosen = (occurrence % 5 == 4) == (split != "train")
    # The pixels are counts from 0 to 16.
    images = np.round(digits.images[chosen] * (255 / 16)).astype(np.uint8)
    layout = Layout("every fifth image of each class for validation")
    return from_arrays("0123456789", images, digits.target[chosen], f"digits {split}", layout)
