"""Host-side preprocessing: decoding, square uint8 crops, and the input that a network was trained with.

Follows TF-Slim's inception_preprocessing; colour is distorted later, on the device (`colour`).
"""

import dataclasses
import io
import math
import threading
from collections.abc import Callable, Mapping
from typing import Any, get_args

import cv2
import numpy as np
import PIL.Image
import simplejpeg

from inception_jax.config import DataConfig, Resize
from inception_jax.errors import BrokenImage, UserError

# The pipeline has its own threads, one image each; more inside OpenCV would only contend with them.
cv2.setNumThreads(0)

# Of a decoded image, 200 MB. A larger JPEG (the format ends at 65,535 x 65,535) is decoded at a half, a quarter or an
# eighth of its sides.
_MAX_PIXELS = 2**26

# Of a network's input.
_MAX_SIDE = 2**13

_INTERPOLATION = {"bilinear": cv2.INTER_LINEAR, "bicubic": cv2.INTER_CUBIC, "area": cv2.INTER_AREA}
_ANTIALIASED = {
    "antialiased_bilinear": PIL.Image.Resampling.BILINEAR,
    "antialiased_bicubic": PIL.Image.Resampling.BICUBIC,
}


class Scratch(threading.local):
    """Per-thread memory for decoded images: allocating it anew for each costs a quarter of the time."""

    def __init__(self) -> None:
        self._memory = np.empty(0, np.uint8)

    def buffer(self, size: int) -> np.ndarray:
        """This thread's reusable buffer of at least `size` bytes."""
        if self._memory.size < size:
            self._memory = np.empty(size, np.uint8)
        return self._memory


def decode(image: bytes | np.ndarray, name: str, scratch: Scratch | None = None) -> np.ndarray:
    """The pixels of an image as a source stores it: uint8 [H, W, 3] in RGB.

    JPEG is known by its first bytes, not by a name, and every fault in its data is an error. Grey images get three
    equal channels, CMYK is converted as TensorFlow does, an alpha channel is dropped without blending, an animation is
    its first frame. Orientation in EXIF is not applied; TensorFlow does not apply it either. A JPEG of more than 67
    million pixels comes at a half, a quarter or an eighth of its sides.

    Args:
      image: An encoded JPEG, PNG or other file that Pillow reads, or uint8 [H, W], [H, W, 1], [H, W, 3] or [H, W, 4].
      name: Where it comes from, for the message.
      scratch: Where the pixels may be, until the same thread decodes the next image with it.

    Raises:
      BrokenImage: the image is broken, no image at all, or no JPEG and of more than 67 million pixels.
    """
    if isinstance(image, np.ndarray):
        return _three_channels(image, name)
    try:
        return _decode_jpeg(image, scratch) if image[:3] == b"\xff\xd8\xff" else _decode_other(image)
    except PIL.UnidentifiedImageError as error:
        start = f"starts with the bytes {image[:4].hex(' ')}" if image else "is empty"
        raise BrokenImage(f"the image {name} is not an image that can be read: the file {start}.") from error
    except Exception as error:  # the decoders raise a dozen types, among them SyntaxError and struct.error
        raise BrokenImage(f"the image {name} is broken: {str(error).rstrip('.')}.") from error


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
    """A random part of an image, resized to a square and perhaps mirrored: uint8 [size, size, 3].

    The area is drawn uniformly, as the paper on the first Inception (arXiv 1409.4842, section 6) has it, and so is
    the aspect; then the place. After ten draws that do not fit, the whole image is the crop.
    Differs from TF-Slim, whose sample_distorted_bounding_box draws the height uniformly (more small crops), refuses
    crops that cover less than a tenth of the annotated box, and picks one of four ways to resize.

    Args:
      image: uint8 [H, W, 3].
      rng: Where every draw comes from.
      size: Side of the result in pixels.
      area: Least and greatest share of the image's area.
      aspect: Least and greatest width / height.
      flip: Mirror half of the crops, left to right.
      resize: How pixels are interpolated.
      out: Where the result shall be written: uint8 [size, size, 3], contiguous.
    """
    top, left, height, width = _random_box(image.shape[0], image.shape[1], rng, area, aspect)
    # The draw is made even where flip is off, so that the option changes nothing but the mirroring.
    mirrored = rng.random() < 0.5
    crop = resized(image[top : top + height, left : left + width], (size, size), resize, out)
    return cv2.flip(crop, 1, dst=crop) if flip and mirrored else crop


def central_crop(
    image: np.ndarray, *, size: int, fraction: float, resize: Resize, out: np.ndarray | None = None
) -> np.ndarray:
    """The middle of an image, resized to a square whatever its shape: uint8 [size, size, 3].

    As TF-Slim evaluates: of each side the middle `fraction` stays (tf.image.central_crop), then the aspect is lost.
    Differs from TF-Slim in that pixels are interpolated between their centres, as every library does today.

    Args:
      image: uint8 [H, W, 3].
      size: Side of the result in pixels.
      fraction: Share of each side that is kept, above 0 and up to 1.
      resize: How pixels are interpolated.
      out: Where the result shall be written: uint8 [size, size, 3], contiguous.
    """
    height, width = image.shape[:2]
    # A pixel or two stay, however small the fraction is.
    top, left = (min(int((side - side * fraction) / 2), (side - 1) // 2) for side in (height, width))
    return resized(image[top : height - top, left : width - left], (size, size), resize, out)


def resized(image: np.ndarray, shape: tuple[int, int], resize: Resize, out: np.ndarray | None = None) -> np.ndarray:
    """A whole image at another height and width: uint8 [*shape, 3].

    Args:
      image: uint8 [H, W, 3].
      shape: The new height and width, in pixels.
      resize: How pixels are interpolated.
      out: Where the result shall be written: uint8 [*shape, 3], contiguous.
    """
    height, width = shape
    if resize in _INTERPOLATION:
        return cv2.resize(image, (width, height), dst=out, interpolation=_INTERPOLATION[resize])
    # Slower than OpenCV, which does not have these.
    picture = PIL.Image.fromarray(np.ascontiguousarray(image)).resize((width, height), _ANTIALIASED[resize])
    out = np.empty((height, width, 3), np.uint8) if out is None else out
    out[:] = picture
    return out


def _random_box(
    height: int, width: int, rng: np.random.Generator, area: tuple[float, float], aspect: tuple[float, float]
) -> tuple[int, int, int, int]:
    """Top, left, height and width of a crop that lies within the image."""
    for _ in range(10):
        pixels = rng.uniform(*area) * height * width
        ratio = rng.uniform(*aspect)
        crop_height, crop_width = round(math.sqrt(pixels / ratio)), round(math.sqrt(pixels * ratio))
        if 0 < crop_height <= height and 0 < crop_width <= width:
            top = int(rng.integers(height - crop_height, endpoint=True))
            left = int(rng.integers(width - crop_width, endpoint=True))
            return top, left, crop_height, crop_width
    return 0, 0, height, width


def _decode_jpeg(data: bytes, scratch: Scratch | None) -> np.ndarray:
    height, width, colourspace, _ = simplejpeg.decode_jpeg_header(data)
    denominator = next(k for k in (1, 2, 4, 8) if height * width <= _MAX_PIXELS * k * k)
    smaller = {"min_height": height // denominator, "min_width": width // denominator} if denominator > 1 else {}
    if colourspace not in ("CMYK", "YCCK"):
        buffer = scratch.buffer(height * width * 3) if scratch and denominator == 1 else None
        return simplejpeg.decode_jpeg(data, "RGB", buffer=buffer, **smaller)
    cmyk = simplejpeg.decode_jpeg(data, "CMYK", **smaller).astype(np.uint16)
    # Adobe's programs store the inks inverted and leave a marker that says who wrote the file.
    unmultiplied = cmyk if b"Adobe" in data[:4096] else 255 - cmyk
    return (unmultiplied[..., :3] * unmultiplied[..., 3:] // 255).astype(np.uint8)


def _decode_other(data: bytes) -> np.ndarray:
    with PIL.Image.open(io.BytesIO(data)) as image:
        if image.width * image.height > _MAX_PIXELS:
            raise ValueError(f"it has {image.width} x {image.height} pixels; only a JPEG may have over {_MAX_PIXELS}")
        if image.mode.startswith("I;16"):
            # Pillow would cut 16-bit values off at 255.
            return _three_channels((np.asarray(image) >> 8).astype(np.uint8), "")
        # By way of RGBA where there is a palette, because Pillow warns of one with transparency otherwise.
        return np.array(image.convert("RGBA").convert("RGB") if image.mode == "P" else image.convert("RGB"))


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
    """The preprocessing that weights were trained with, and the names of their classes."""

    image_size: int = DataConfig.image_size
    """Side of the square input, in pixels."""
    central_fraction: float = DataConfig.central_fraction
    """Fraction of each side of a picture that is kept."""
    resize: Resize = DataConfig.resize
    """Interpolation of the crop to `image_size` pixels."""
    mean: tuple[float, float, float] = (0.5, 0.5, 0.5)
    """Subtracted from each channel in [0, 1]; with a `std` of 0.5 the input is in [-1, 1]."""
    std: tuple[float, float, float] = (0.5, 0.5, 0.5)
    """Divisor of each channel after the mean is subtracted."""
    label_offset: int = 0
    """Number of outputs before the first class: 1 for TensorFlow's 1001 labels, whose first is the background."""
    class_names: tuple[str, ...] = ()
    """Names of the classes after the offset, where they are known."""

    def to_dict(self) -> dict[str, Any]:
        """The fields as JSON values."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "Preprocessing":
        """The inverse of `to_dict`; UserError names a field that there is not, or one of another type or range."""
        known = [field.name for field in dataclasses.fields(cls)]
        unknown = sorted(set(values) - set(known))
        if unknown:
            raise UserError(f"unknown field {unknown[0]} of the preprocessing; there are {', '.join(known)}.")
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
