"""Photographs of ImageNet's size made from the two in scikit-learn, for measurements without a download."""

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
import numpy as np
import simplejpeg

WIDTH, HEIGHT = 500, 375
"""Size of every photograph in pixels, which is also the median of ImageNet."""

# Chosen for files of 95 to 105 KB on average, near ImageNet's 110 KB. The enlarged photographs are smoother than those
# of a camera, and without noise even the best quality would give smaller files.
_QUALITY = 96
_NOISE = 3.0


def write_photographs(folder: Path, count: int = 512) -> None:
    """Writes `count` JPEGs for `folder:`: FOLDER/train/china/00000.jpg, FOLDER/train/flower/00001.jpg, ...

    Each is a random crop of one of the two photographs, enlarged, randomly mirrored and tinted, with a sensor's noise.
    The same number always gives the same photograph.
    """
    from sklearn.datasets import load_sample_images  # here because it takes a second to import

    samples = load_sample_images()
    photographs = [(Path(name).stem, image) for name, image in zip(samples.filenames, samples.images, strict=True)]
    for name, _ in photographs:
        (folder / "train" / name).mkdir(parents=True)

    def write(number: int) -> None:
        name, photograph = photographs[number % len(photographs)]
        image = _variation(photograph, np.random.default_rng(number))
        jpeg = simplejpeg.encode_jpeg(image, quality=_QUALITY, colorsubsampling="420")
        (folder / "train" / name / f"{number:05d}.jpg").write_bytes(jpeg)

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        list(pool.map(write, range(count)))


def _variation(photograph: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Random variation of a photograph: uint8 [H, W, 3] -> uint8 [HEIGHT, WIDTH, 3]."""
    height = int(photograph.shape[0] * rng.uniform(0.6, 0.85))
    width = height * WIDTH // HEIGHT
    top, left = rng.integers(photograph.shape[0] - height + 1), rng.integers(photograph.shape[1] - width + 1)
    image = cv2.resize(
        photograph[top : top + height, left : left + width], (WIDTH, HEIGHT), interpolation=cv2.INTER_CUBIC
    )
    if rng.random() < 0.5:
        image = image[:, ::-1]
    tint = rng.uniform(0.8, 1.2, 3).astype(np.float32)
    noise = _NOISE * rng.standard_normal(image.shape, np.float32)
    return np.clip(image * tint + noise, 0, 255).astype(np.uint8)
