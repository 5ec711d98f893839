"""The views of an image that the paper evaluates on: 1, 10, 12 or 144 crops (section 4, after arXiv 1409.4842).

Sizes are said for a network's input of 224 pixels, as there, and grow with the input: the shorter sides of 256, 288,
320 and 352 become 342, 384, 427 and 470 at 299.

Made on the host, which measured faster on CPUs: of a JPEG of 500x375 one thread decodes and cuts the views of 12 crops
at 299 in 1.2 ms and of 144 in 5.4 ms; XLA took 14 and 239 ms on two cores, and compiles anew for each size of image.
"""

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Literal, NamedTuple

import numpy as np

from inception_jax.config import Resize
from inception_jax.data import preprocess
from inception_jax.errors import UserError

_INPUT = 224
"""The side of the network's input, in pixels, that scales are said for."""

_SCALES = {1: (), 10: (256,), 12: (256,), 144: (256, 288, 320, 352)}
"""Default scales for each number of crops."""

# Ten times the crops, which then show a hundredth of a square; without an end, a slip would fill the memory.
_MAX_SCALE = 2240

# Unmirrored, at one scale: a square's four corners and its centre; with the square itself; those of three squares.
_VIEWS_PER_SCALE = {1: 1, 10: 5, 12: 6, 144: 18}

# In shorter sides: a third of the longest image that is resized whole.
_PIECE = 8


@dataclasses.dataclass(frozen=True)
class Protocol:
    """The crops of an image that a network is evaluated on; their softmax is averaged."""

    crops: Literal[1, 10, 12, 144] = 1
    """1: the central part of the image, whatever its shape. 10: the four corners and the centre of the centre square,
    each also mirrored. 12: that square itself as well. 144: as 12, of the squares at both ends and in the middle."""
    scales: tuple[int, ...] = ()
    """Lengths of the shorter side for an input of 224 pixels, at each of which the crops are made: 12 at two scales are
    24, 144 are 72. () is the paper's: 256, and with 144 crops 288, 320 and 352 as well."""

    def __post_init__(self) -> None:
        """UserError where there are no such crops."""
        if self.crops not in _SCALES:
            raise UserError(f"the number of crops is {self.crops}; it must be 1, 10, 12 or 144.")
        if self.crops == 1 and self.scales:
            raise UserError("a single crop has no scales; ask for 10, 12 or 144 crops, or for no scales.")
        for scale in self.scales:
            if not _INPUT <= scale <= _MAX_SCALE:
                raise UserError(
                    f"the scale {scale} must be from {_INPUT} to {_MAX_SCALE}: it is the length of an image's shorter "
                    f"side for crops of {_INPUT} pixels."
                )
        if len(set(self.scales)) < len(self.scales):
            raise UserError(f"the scales {', '.join(map(str, self.scales))} must differ from each other.")

    @property
    def mirrored(self) -> bool:
        """Whether the network is also shown the mirror image of every view."""
        return self.crops > 1

    @property
    def views(self) -> int:
        """Number of crops cut from an image, mirror images not counted."""
        return _VIEWS_PER_SCALE[self.crops] * max(1, len(self._scales))

    @property
    def total(self) -> int:
        """Number of crops of an image shown to the network."""
        return self.views * (2 if self.mirrored else 1)

    def sides(self, size: int) -> tuple[int, ...]:
        """The image's shorter side at each scale, in pixels, for an input of `size` pixels; () for a single crop."""
        return tuple(round(scale * size / _INPUT) for scale in self._scales)

    @property
    def _scales(self) -> tuple[int, ...]:
        return self.scales or _SCALES[self.crops]


Views = np.ndarray | Sequence[np.ndarray]
"""uint8 [views, size, size, 3], or as many of uint8 [size, size, 3]."""


class Box(NamedTuple):
    """The square that becomes a view, in pixels of the image at its scale."""

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
    """The views of an image, without their mirror images, which the device makes: uint8 [views, size, size, 3].

    At each scale the image is resized once, its aspect kept, to that shorter side; it grows where it is smaller. All
    views are parts of it; the whole square is resized once more. Their order is that of `boxes`. An image over 24 times
    as long as wide first loses what lies far from the three squares.

    Args:
      image: uint8 [H, W, 3].
      protocol: Which views.
      size: Side of the views in pixels.
      central_fraction: As `fraction` of `preprocess.central_crop`, for a single crop; the others do not look at it.
      resize: How pixels are interpolated.
      out: Where the views shall be written, which may lie apart: of each uint8 [size, size, 3], contiguous.
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
    """Height and width, in pixels, of an image at each of the protocol's scales, for an input of `size` pixels."""
    shorter = min(height, width)
    return [(round(height * side / shorter), round(width * side / shorter)) for side in protocol.sides(size)]


def boxes(shapes: Sequence[tuple[int, int]], protocol: Protocol, size: int) -> list[Box]:
    """Positions of the views in an image that has these shapes at the protocol's scales; none for a single crop.

    Scale by scale; with 144 crops square by square, from the left or the top, and else of the centre square alone; of a
    square the corners (top left, top right, bottom left, bottom right), the centre and, but for 10 crops, the whole of
    it. The three squares of a square image are the same, and are still counted three times.

    Args:
      shapes: As `scaled_shapes` gives them.
      protocol: Which views.
      size: Side of the network's input in pixels.
    """
    found = []
    for scale, (height, width) in enumerate(shapes):
        for top, left in _squares(height, width, three=protocol.crops == 144):
            square = Box(scale, top, left, min(height, width))
            found += [*_corners_and_centre(square, size), *([] if protocol.crops == 10 else [square])]
    return found


def _squares(height: int, width: int, *, three: bool) -> Iterator[tuple[int, int]]:
    """Top and left of the largest squares: at both ends and in the middle, or there alone."""
    down, right = max(0, height - width), max(0, width - height)
    for halves in (0, 1, 2) if three else (1,):
        yield down * halves // 2, right * halves // 2


def _corners_and_centre(square: Box, size: int) -> Iterator[Box]:
    margin = square.side - size
    for down, right in ((0, 0), (0, margin), (margin, 0), (margin, margin), (margin // 2, margin // 2)):
        yield Box(square.scale, square.top + down, square.left + right, size)


def _drop_unseen_parts(image: np.ndarray) -> np.ndarray:
    """An image; of one over 24 times as long as wide its ends and its middle, put together."""
    # All of a line of 65,535 pixels would be 40 GB at a shorter side of 470, most of it between the squares.
    along = int(image.shape[1] > image.shape[0])
    length, piece = image.shape[along], _PIECE * image.shape[1 - along]
    if length <= 3 * piece:
        return image
    firsts = (0, (length - piece) // 2, length - piece)
    return np.concatenate([image.take(range(first, first + piece), along) for first in firsts], along)
