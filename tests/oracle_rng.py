"""Weights and images from which the numbers in golden/ were computed, drawn by name with NumPy alone.

`stats` are the 11 numbers that describe a stage's output there.
"""

import math
import zlib

import numpy as np


def weight(name, shape, kind, layout):
    """A float32 array, drawn in the peer's own layout: "OIHW" (PyTorch) or "HWIO" (Keras)."""
    draws = _generator(name)
    if kind == "count":
        return np.zeros(shape, np.int64)
    if kind == "kernel":
        fan_in = math.prod(shape[1:] if layout == "OIHW" else shape[:-1])
        return (draws.standard_normal(shape) * math.sqrt(2.0 / fan_in)).astype(np.float32)
    if kind in ("bias", "mean"):
        return (0.1 * draws.standard_normal(shape)).astype(np.float32)
    assert kind in ("gamma", "var"), kind
    return draws.uniform(0.7, 1.3, shape).astype(np.float32)


def images(n, height, width):
    """[n, height, width, 3] float32 in [-1, 1]."""
    return _generator("input").uniform(-1.0, 1.0, (n, height, width, 3)).astype(np.float32)


def stats(x):
    """Mean, standard deviation, the first 8 values, and sum(x_i cos(i)) / sqrt(n), which depends on positions."""
    x = np.asarray(x, np.float64).ravel()
    projection = np.dot(x, np.cos(np.arange(x.size, dtype=np.float64))) / math.sqrt(x.size)
    return np.array([x.mean(), x.std(), *x[:8], projection])


def _generator(name):
    return np.random.Generator(np.random.Philox(key=zlib.crc32(name.encode())))
