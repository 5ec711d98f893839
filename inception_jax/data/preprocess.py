"""Preprocessing on the host: decoding and square uint8 crops, as in TF-Slim's inception_preprocessing.

Colours are distorted on the device (`colour`).
"""

import dataclasses
import math
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any, get_args

import cv2
import numpy as np
import PIL.Image

from inception_jax.config import DataConfig, Resize
from inception_jax.data import formats, jpeg
from inception_jax.errors import BrokenImage, UserError

# OpenCV's own threads would contend with those of the pipeline.
cv2.setNumThreads(0)

_MAX_SIDE = 2**13
"""Maximum side of a network's input in pixels."""

_INTERPOLATION = {"bilinear": cv2.INTER_LINEAR, "bicubic": cv2.INTER_CUBIC, "area": cv2.INTER_AREA}
_ANTIALIASED = {
    "antialiased_bilinear": PIL.Image.Resampling.BILINEAR,
    "antialiased_bicubic": PIL.Image.Resampling.BICUBIC,
}


class Scratch(threading.local):
    """Per-thread buffer for decoded images; allocating one for each image takes a quarter of the decoding time."""

    def __init__(self) -> None:
        self._memory = np.empty(0, np.uint8)

    def buffer(self, size: int) -> np.ndarray:
        """This thread's reusable buffer of at least `size` bytes."""
        if self._memory.size < size:
            self._memory = np.empty(size, np.uint8)
        return self._memory


def decode(
    image: bytes | np.ndarray, name: str, scratch: Scratch | None = None, faults: list[str] | None = None
) -> np.ndarray:
    """Decodes an image to uint8 [H, W, 3] in RGB.

    The format is known by the first bytes. An image is read if all of its pixels are: faults elsewhere are passed over,
    in a JPEG by the rule of `decode_jpeg`, in a PNG those of chunks that hold no pixels. Grey images get three equal
    channels, CMYK is converted as in TensorFlow, an alpha channel is dropped without blending, and only the first frame
    of an animation is used. As in TensorFlow, the orientation in EXIF is not applied. A JPEG of more than 67 million
    pixels is decoded at 1/2, 1/4 or 1/8 of its sides. Values of 16 bits are divided by 256, of a TIFF of 12 bits by 16.

    Args:
      image: An encoded file of a format in `formats.SUFFIXES`, or uint8 [H, W], [H, W, 1], [H, W, 3] or [H, W, 4].
      name: Origin of the image, for messages.
      scratch: Buffer for the pixels, which the next call in the same thread may overwrite.
      faults: Receives the faults that were passed over.

    Raises:
      BrokenImage: the image cannot be decoded; or it is not a JPEG and has more than 67 million pixels, or is one of
        the progressive JPEGs that do not fit in memory; or the range of its values is unknown (floating point, integers
        of 32 bits, 16 bits of which less than a sixteenth of the range is used).
      MissingDecoder: the image is HEIC and pillow-heif is not installed.
    """
    if isinstance(image, np.ndarray):
        return _three_channels(image, name)
    try:
        if image.startswith(jpeg.START):
            return jpeg.decode_jpeg(image, scratch.buffer if scratch else None, faults)
        return formats.decode_with_pillow(image, faults)
    except formats.MissingDecoder as error:
        raise formats.MissingDecoder(f"the image {name} {error}") from error
    except formats.Refused as error:
        raise BrokenImage(f"the image {name} cannot be used: {error}.") from error
    except PIL.UnidentifiedImageError as error:
        start = f"starts with the bytes {image[:4].hex(' ')}" if image else "is empty"
        raise BrokenImage(f"the image {name} is not an image that can be read: the file {start}.") from error
    except Exception as error:  # the decoders raise a dozen types, among them SyntaxError and struct.error
        reason = " ".join(str(error).split()).rstrip(".")
        raise BrokenImage(f"the image {name} is broken: {reason}.") from error


def distorted_crop(
    image: np.ndarray,
    rng: np.random.Generator,
    *,
    size: int,
    area: tuple[float, float],
    aspect: tuple[float, float],
    flip: bool,
    resize: Resize,
    out: np.ndarray | None = None,
) -> np.ndarray:
    """Random crop of an image, resized to a square and randomly mirrored: uint8 [size, size, 3].

    Area and aspect are drawn uniformly (arXiv 1409.4842, section 6), then the position. After ten draws that do not
    fit, the crop is the full image.
    Differs from TF-Slim, whose sample_distorted_bounding_box draws the height uniformly (more small crops), refuses
    crops that cover less than a tenth of the annotated box, and picks one of four ways to resize.

    Args:
      image: uint8 [H, W, 3].
      rng: Random number generator.
      size: Side of the result in pixels.
      area: Minimum and maximum fraction of the image's area.
      aspect: Minimum and maximum width / height.
      flip: Mirror half of the crops, left to right.
      resize: Interpolation.
      out: Output array: uint8 [size, size, 3], contiguous.
    """
    top, left, height, width = _random_box(image.shape[0], image.shape[1], rng, area, aspect)
    # Drawn even without `flip`, so that the option changes nothing but the mirroring.
    mirrored = rng.random() < 0.5
    crop = resized(image[top : top + height, left : left + width], (size, size), resize, out)
    return cv2.flip(crop, 1, dst=crop) if flip and mirrored else crop


def central_crop(
    image: np.ndarray, *, size: int, fraction: float, resize: Resize, out: np.ndarray | None = None
) -> np.ndarray:
    """Central crop of an image, resized to a square without keeping its aspect: uint8 [size, size, 3].

    As in TF-Slim's evaluation, with tf.image.central_crop.
    Differs from TF-Slim in the interpolation, which takes pixels at their centres, as in all libraries today.

    Args:
      image: uint8 [H, W, 3].
      size: Side of the result in pixels.
      fraction: Fraction of each side that is kept, above 0 and up to 1.
      resize: Interpolation.
      out: Output array: uint8 [size, size, 3], contiguous.
    """
    height, width = image.shape[:2]
    # A pixel or two stay, however small the fraction is.
    top, left = (min(int((side - side * fraction) / 2), (side - 1) // 2) for side in (height, width))
    return resized(image[top : height - top, left : width - left], (size, size), resize, out)


def resized(image: np.ndarray, shape: tuple[int, int], resize: Resize, out: np.ndarray | None = None) -> np.ndarray:
    """Resizes an image to another height and width: uint8 [*shape, 3].

    Args:
      image: uint8 [H, W, 3].
      shape: New height and width in pixels.
      resize: Interpolation.
      out: Output array: uint8 [*shape, 3], contiguous.
    """
    height, width = shape
    if resize in _INTERPOLATION:
        return cv2.resize(image, (width, height), dst=out, interpolation=_INTERPOLATION[resize])
    # OpenCV has no antialiased interpolation; Pillow is slower.
    picture = PIL.Image.fromarray(np.ascontiguousarray(image)).resize((width, height), _ANTIALIASED[resize])
    out = np.empty((height, width, 3), np.uint8) if out is None else out
    out[:] = picture
    return out


def _random_box(
    height: int, width: int, rng: np.random.Generator, area: tuple[float, float], aspect: tuple[float, float]
) -> tuple[int, int, int, int]:
    """Top, left, height and width of a random crop."""
    for _ in range(10):
        pixels = rng.uniform(*area) * height * width
        ratio = rng.uniform(*aspect)
        crop_height, crop_width = round(math.sqrt(pixels / ratio)), round(math.sqrt(pixels * ratio))
        if 0 < crop_height <= height and 0 < crop_width <= width:
            top = int(rng.integers(height - crop_height, endpoint=True))
            left = int(rng.integers(width - crop_width, endpoint=True))
            return top, left, crop_height, crop_width
    return 0, 0, height, width


def _three_channels(image: np.ndarray, name: str) -> np.ndarray:
    if image.dtype != np.uint8 or image.ndim not in (2, 3) or image.size == 0:
        raise BrokenImage(
            f"the image {name} is {image.dtype} {list(image.shape)}; it must be uint8 [H, W] or [H, W, C]."
        )
    if image.ndim == 2 or image.shape[2] == 1:
        return np.repeat(image.reshape(*image.shape[:2], 1), 3, axis=2)
    if image.shape[2] not in (3, 4):
        raise BrokenImage(f"the image {name} has {image.shape[2]} channels; it must have 1, 3 or 4.")
    return np.ascontiguousarray(image[..., :3])


@dataclasses.dataclass(frozen=True)
class Preprocessing:
    """Preprocessing that weights were trained with, and the names of their classes."""

    image_size: int = DataConfig.image_size
    """Side of the square input, in pixels."""
    central_fraction: float = DataConfig.central_fraction
    """Fraction of each side that the central crop keeps."""
    resize: Resize = DataConfig.resize
    """Interpolation of the crop to `image_size` pixels."""
    mean: tuple[float, float, float] = (0.5, 0.5, 0.5)
    """Subtracted from each channel in [0, 1]; with a `std` of 0.5 the input is in [-1, 1]."""
    std: tuple[float, float, float] = (0.5, 0.5, 0.5)
    """Divisor of each channel after the mean is subtracted."""
    label_offset: int = 0
    """Number of outputs before the first class: 1 for TensorFlow's 1001 labels, whose first is the background."""
    class_names: tuple[str, ...] = ()
    """Names of the classes after the offset; empty where unknown."""

    @classmethod
    def from_config(cls, data: DataConfig, class_names: Sequence[str] = ()) -> "Preprocessing":
        """The preprocessing of evaluation with this configuration."""
        return cls(
            image_size=data.image_size,
            central_fraction=data.central_fraction,
            resize=data.resize,
            mean=data.mean,
            std=data.std,
            class_names=tuple(class_names),
        )

    def to_dict(self) -> dict[str, Any]:
        """The fields as JSON values."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "Preprocessing":
        """Inverse of `to_dict`; UserError for an unknown field, or a value of another type or out of range."""
        known = [field.name for field in dataclasses.fields(cls)]
        unknown = sorted(set(values) - set(known))
        if unknown:
            raise UserError(f"unknown field {unknown[0]} of the preprocessing; it must be one of {', '.join(known)}.")
        fields: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in values.items()}
        for name, value in fields.items():
            if not _ALLOWED[name](value):
                raise UserError(f"{name} of the preprocessing is {value!r}, which is no such value.")
        return cls(**fields)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _are_three_numbers(value: Any) -> bool:
    return isinstance(value, tuple) and len(value) == 3 and all(map(_is_number, value))


# The values that each field of `Preprocessing` may have in a file.
_ALLOWED: Mapping[str, Callable[[Any], bool]] = {
    "image_size": lambda value: type(value) is int and 1 <= value <= _MAX_SIDE,
    "central_fraction": lambda value: _is_number(value) and 0 < value <= 1,
    "resize": lambda value: isinstance(value, str) and value in get_args(Resize),
    "mean": _are_three_numbers,
    "std": lambda value: _are_three_numbers(value) and 0 not in value,
    "label_offset": lambda value: type(value) is int and value >= 0,
    "class_names": lambda value: isinstance(value, tuple) and all(isinstance(name, str) for name in value),
}
