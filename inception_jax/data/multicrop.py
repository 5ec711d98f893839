"""Crops of an image for evaluation: 1, 10, 12 or 144 (section 4, after arXiv 1409.4842).

As there, scales are given for an input of 224 pixels and grow with the input: the shorter sides of 256, 288, 320 and
352 become 342, 384, 427 and 470 at 299.

Crops are cut on the host, which is faster on CPUs: one thread decodes a JPEG of 500x375 and cuts the views of 12 crops
at 299 in 1.2 ms and of 144 in 5.4 ms; XLA took 14 and 239 ms on two cores, and compiles for each size of image.
"""

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Literal, NamedTuple

import numpy as np

from inception_jax.config import Resize
from inception_jax.data import preprocess
from inception_jax.errors import UserError

_INPUT = 224
"""Side of the input, in pixels, for which scales are given."""

_SCALES = {1: (), 10: (256,), 12: (256,), 144: (256, 288, 320, 352)}
"""Default scales for each number of crops."""

# Ten times the input; a larger scale is probably a typing error and would exhaust the memory.
_MAX_SCALE = 2240

# Without mirror images: four corners and the centre of a square; with the square itself; the six of three squares.
_VIEWS_PER_SCALE = {1: 1, 10: 5, 12: 6, 144: 18}

# Length, in shorter sides, of each of the three parts that are kept of a very long image.
_PIECE = 8


@dataclasses.dataclass(frozen=True)
class Protocol:
    """Crops of an image whose predictions are averaged."""

    crops: Literal[1, 10, 12, 144] = 1
    """1: the central part of the image. 10: the corners and the centre of the central square, and their mirror images.
    12: also the whole square, resized. 144: 12 of each of the squares at both ends and in the middle."""
    scales: tuple[int, ...] = ()
    """Lengths of the shorter side, for an input of 224 pixels, at which crops are cut. () is 256, and with 144 crops
    also 288, 320 and 352. With two scales 12 crops become 24, and 144 become 72."""

    def __post_init__(self) -> None:
        """Checks the fields; UserError where one is out of its range."""
        if self.crops not in _SCALES:
            raise UserError(f"the number of crops is {self.crops}; it must be 1, 10, 12 or 144.")
        if self.crops == 1 and self.scales:
            raise UserError("a single crop has no scales; give 10, 12 or 144 crops, or no scales.")
        for scale in self.scales:
            if not _INPUT <= scale <= _MAX_SCALE:
                raise UserError(
                    f"the scale {scale} must be from {_INPUT} to {_MAX_SCALE}: it is the length of the image's shorter "
                    f"side for an input of {_INPUT} pixels."
                )
        if len(set(self.scales)) < len(self.scales):
            raise UserError(f"the scales {', '.join(map(str, self.scales))} must differ from each other.")

    @property
    def mirrored(self) -> bool:
        """Whether the mirror image of every view is also a crop."""
        return self.crops > 1

    @property
    def views(self) -> int:
        """Number of crops of an image without mirror images."""
        return _VIEWS_PER_SCALE[self.crops] * max(1, len(self._scales))

    @property
    def total(self) -> int:
        """Number of crops of an image."""
        return self.views * (2 if self.mirrored else 1)

    def sides(self, size: int) -> tuple[int, ...]:
        """Shorter side of the image at each scale, in pixels, for an input of `size` pixels; () for a single crop."""
        return tuple(round(scale * size / _INPUT) for scale in self._scales)

    @property
    def _scales(self) -> tuple[int, ...]:
        return self.scales or _SCALES[self.crops]


Views = np.ndarray | Sequence[np.ndarray]
"""uint8 [views, size, size, 3], or a sequence of uint8 [size, size, 3]."""


class Box(NamedTuple):
    """Square of an image that becomes a view, in pixels at its scale."""

    scale: int
    """Index into the protocol's scales."""
    top: int
    left: int
    side: int


def cut(
    image: np.ndarray,
    protocol: Protocol,
    *,
    size: int,
    central_fraction: float,
    resize: Resize,
    out: Views | None = None,
) -> Views:
    """Cuts the views of an image in the order of `boxes`: uint8 [views, size, size, 3].

    Mirror images are made on the device. The image is resized once for each scale, with its aspect; a view of the whole
    square is resized once more. An image over 24 times as long as wide first loses parts far from its three squares.

    Args:
      image: uint8 [H, W, 3].
      protocol: Views to cut.
      size: Side of the views in pixels.
      central_fraction: `fraction` of `preprocess.central_crop` for a single crop, unused otherwise.
      resize: Interpolation.
      out: Output arrays, one for each view: uint8 [size, size, 3], contiguous.
    """
    out = np.empty((protocol.views, size, size, 3), np.uint8) if out is None else out
    if protocol.crops == 1:
        preprocess.central_crop(image, size=size, fraction=central_fraction, resize=resize, out=out[0])
        return out
    image = _drop_unseen_parts(image)
    shapes = scaled_shapes(image.shape[0], image.shape[1], protocol, size)
    scaled = [preprocess.resized(image, shape, resize) for shape in shapes]
    for view, box in zip(out, boxes(shapes, protocol, size), strict=True):
        square = scaled[box.scale][box.top : box.top + box.side, box.left : box.left + box.side]
        if box.side == size:
            view[:] = square
        else:
            preprocess.resized(square, (size, size), resize, view)
    return out


def scaled_shapes(height: int, width: int, protocol: Protocol, size: int) -> list[tuple[int, int]]:
    """Height and width of an image at each of the protocol's scales, in pixels, for an input of `size` pixels."""
    shorter = min(height, width)
    return [(round(height * side / shorter), round(width * side / shorter)) for side in protocol.sides(size)]


def boxes(shapes: Sequence[tuple[int, int]], protocol: Protocol, size: int) -> list[Box]:
    """Positions of the views in an image, in order; none for a single crop.

    Every scale has one square in the middle or, with 144 crops, three from left to right or from top to bottom. Every
    square has its corners (top left, top right, bottom left, bottom right), its centre and, except with 10 crops, the
    square itself. In a square image the three squares are equal, and are still counted three times.

    Args:
      shapes: Height and width at each scale, from `scaled_shapes`.
      protocol: Views to cut.
      size: Side of the network's input in pixels.
    """
    found = []
    for scale, (height, width) in enumerate(shapes):
        for top, left in _squares(height, width, three=protocol.crops == 144):
            square = Box(scale, top, left, min(height, width))
            found += [*_corners_and_centre(square, size), *([] if protocol.crops == 10 else [square])]
    return found


def _squares(height: int, width: int, *, three: bool) -> Iterator[tuple[int, int]]:
    """Top and left of the largest squares: at both ends and in the middle, or only in the middle."""
    down, right = max(0, height - width), max(0, width - height)
    for halves in (0, 1, 2) if three else (1,):
        yield down * halves // 2, right * halves // 2


def _corners_and_centre(square: Box, size: int) -> Iterator[Box]:
    margin = square.side - size
    for down, right in ((0, 0), (0, margin), (margin, 0), (margin, margin), (margin // 2, margin // 2)):
        yield Box(square.scale, square.top + down, square.left + right, size)


def _drop_unseen_parts(image: np.ndarray) -> np.ndarray:
    """Reduces an image over 24 times as long as wide to its ends and its middle."""
    # A line of 65,535 pixels would take 40 GB at a shorter side of 470, mostly between the squares.
    along = int(image.shape[1] > image.shape[0])
    length, piece = image.shape[along], _PIECE * image.shape[1 - along]
    if length <= 3 * piece:
        return image
    firsts = (0, (length - piece) // 2, length - piece)
    return np.concatenate([image.take(range(first, first + piece), along) for first in firsts], along)
