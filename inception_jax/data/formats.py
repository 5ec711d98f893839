"""Formats of image files: their suffixes, and the decoding of those that Pillow reads."""

import io
import struct
from collections.abc import Iterable

import numpy as np
import PIL.ExifTags
import PIL.Image
import PIL.ImageMode

from inception_jax.errors import UserError

SUFFIXES = {
    "JPEG": (".jpg", ".jpeg", ".jpe", ".jfif", ".mpo"),
    "PNG": (".png", ".apng"),
    "GIF": (".gif",),
    "BMP": (".bmp",),
    "TIFF": (".tif", ".tiff"),
    "WEBP": (".webp",),
    "AVIF": (".avif",),
    "JPEG2000": (".jp2", ".j2k", ".j2c", ".jpc", ".jpf", ".jpx"),
    "PPM": (".ppm", ".pgm", ".pbm", ".pnm"),
    "HEIF": (".heic", ".heif", ".hif"),
}
"""Suffixes of each format. A file is decoded by its content: each format is known by its first bytes.

Pillow's other formats are left out: they have no signature (TGA), start other programs (EPS) or hold no photographs.
"""

IMAGE_SUFFIXES = tuple(suffix for suffixes in SUFFIXES.values() for suffix in suffixes)
"""Suffixes of the files that are images, in lower case."""

# 200 MB decoded.
MAX_PIXELS = 2**26

_PILLOW_FORMATS = [name for name in SUFFIXES if name not in ("JPEG", "HEIF")]
_PNG_START = b"\x89PNG\r\n\x1a\n"
_PIXEL_CHUNKS = (b"IHDR", b"PLTE", b"IDAT")
_HEIF_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1")
_TIFF_BITS, _TIFF_PHOTOMETRIC = 258, 262


class MissingDecoder(UserError):
    """An image of a format whose decoder is not installed.

    No BrokenImage, because `data.on_error` "skip" would leave out every picture of a telephone.
    """


class Refused(ValueError):
    """An intact image that is not used; the message continues "the image NAME cannot be used: "."""


def decode_with_pillow(data: bytes, faults: list[str] | None = None) -> np.ndarray:
    """Decodes the first frame of an image that is not a JPEG: uint8 [H, W, 3].

    Args:
      data: The file.
      faults: Receives faults that leave the pixels intact.

    Raises:
      Refused: the image is too large, or the range of its values is unknown.
      MissingDecoder: HEIC without pillow-heif; the message continues "the image NAME ".
      Exception: the image is broken; Pillow raises a dozen types, among them SyntaxError and struct.error.
    """
    try:
        return _decode(data)
    except (Refused, MissingDecoder):
        raise
    except PIL.Image.DecompressionBombError as error:
        raise Refused(
            f"it claims over {PIL.Image.MAX_IMAGE_PIXELS} pixels, and may not have over {MAX_PIXELS}"
        ) from error
    except Exception as error:
        if not data.startswith(_PNG_START):
            raise
        # Pillow refuses a PNG with a wrong checksum or more than 1 MB in a text or colour profile, unlike others.
        try:
            pixels = _decode(_pixel_chunks(data))
        except (ValueError, OSError, SyntaxError):
            raise error from None
        if faults is not None:
            faults.append(f"a PNG chunk without pixels is passed over: {error}")
        return pixels


def describe(data: bytes) -> tuple[str, list[str]]:
    """Format of an intact image that is not a JPEG, and those of `check.TRAITS` that it has."""
    if data.startswith(_PNG_START):
        data = _pixel_chunks(data, also=(b"tRNS", b"acTL", b"fcTL", b"eXIf"))
    with _open(data) as image:
        traits = {
            "grey": PIL.ImageMode.getmode(image.mode).basemode == "L" or image.mode.startswith("I"),
            "CMYK": image.mode == "CMYK",
            "with alpha": image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info,
            # TIFF is turned by Pillow and HEIC by its decoder, as their formats demand.
            "turned by EXIF": image.format not in ("TIFF", "HEIF") and orientation(image) > 1,
            "several frames": getattr(image, "is_animated", False),
            "over 8 bits": _bits(image, data) > 8,
        }
        return image.format or "other", [trait for trait, has in traits.items() if has]


def require_decoders(files: Iterable[str], folder: str) -> None:
    """MissingDecoder where one of the files in a folder, by its suffix, is HEIC, and pillow-heif is not installed."""
    heic = next((file for file in files if file.lower().endswith(SUFFIXES["HEIF"])), None)
    if heic is not None:
        try:
            _register_heif()
        except MissingDecoder as error:
            raise MissingDecoder(f"the image {folder}{heic} {error}") from error


def orientation(image: PIL.Image.Image) -> int:
    """Orientation in the EXIF of an opened image; 1 is upright."""
    try:
        return image.getexif().get(PIL.ExifTags.Base.Orientation, 1)
    except Exception:  # Pillow raises half a dozen types at odd EXIF, which rotates nothing
        return 1


def _open(data: bytes) -> PIL.Image.Image:
    heif = data[4:8] == b"ftyp" and data[8:12] in _HEIF_BRANDS and b"avif" not in data[:64]
    if heif:
        _register_heif()
    return PIL.Image.open(io.BytesIO(data), formats=["HEIF"] if heif else _PILLOW_FORMATS)


def _register_heif() -> None:
    try:
        import pillow_heif
    except ImportError as error:
        raise MissingDecoder(
            "is HEIC, which is read by pillow-heif, which is not installed: pip install 'inception_jax[heic]', or "
            "pip install pillow-heif, or convert it to JPEG."
        ) from error
    pillow_heif.register_heif_opener()


def _decode(data: bytes) -> np.ndarray:
    with _open(data) as image:
        if image.width * image.height > MAX_PIXELS:
            raise Refused(f"it has {image.width} x {image.height} pixels; only a JPEG may have over {MAX_PIXELS}")
        bits = _bits(image, data)
        pixels = _eight_bits(image, bits) if image.mode.startswith("I") else _rgb(image)
    if bits > 8 and pixels.max() < 16:
        raise Refused(
            f"none of its {bits}-bit values reaches a sixteenth of the range, so that it would be black; they may be "
            "12 bits in 16: convert it to 8 bits, or scale its values to the whole range"
        )
    return pixels


def _rgb(image: PIL.Image.Image) -> np.ndarray:
    if image.mode in ("F", "LAB"):
        held = "floating-point numbers, whose range is unknown" if image.mode == "F" else "CIELAB colours"
        raise Refused(f"it holds {held}; convert it to 8 bits of grey or RGB")
    # A palette is converted by way of RGBA, because Pillow warns of one with transparency otherwise.
    return np.array(image.convert("RGBA").convert("RGB") if image.mode == "P" else image.convert("RGB"))


def _eight_bits(image: PIL.Image.Image, bits: int) -> np.ndarray:
    """Grey of 9 to 16 bits as the high eight, which Pillow would clip to 255: uint8 [H, W, 3]."""
    # Pillow scales a PGM of any range to 16 bits, in the same mode as numbers of 32 bits or with a sign.
    if not image.mode.startswith("I;16") and image.format != "PPM":
        raise Refused("it holds integers of 32 bits or with a sign, whose range is unknown; convert it to 8 bits")
    grey = (np.asarray(image) >> (bits - 8)).astype(np.uint8)
    if image.format == "TIFF" and image.getexif().get(_TIFF_PHOTOMETRIC) == 0:
        grey = 255 - grey  # zero is white
    return np.repeat(grey[..., None], 3, axis=2)


def _bits(image: PIL.Image.Image, data: bytes) -> int:
    """Bits a channel of an opened image, for those over 8; AVIF and HEIC are converted to 8 by their decoders."""
    if image.format == "PNG":
        return data[24]
    if image.format == "TIFF":
        return max(image.tag_v2.get(_TIFF_BITS, (1,)))  # type: ignore[attr-defined]
    if image.format == "PPM" and image.mode == "RGB":
        parameters = image.tile[0].args  # type: ignore[attr-defined]
        return 16 if isinstance(parameters, tuple) and parameters[1] > 255 else 8
    return 16 if image.mode.startswith("I") else 8


def _pixel_chunks(png: bytes, also: tuple[bytes, ...] = ()) -> bytes:
    """A PNG reduced to the chunks that hold its pixels and those named in `also`."""
    parts, place = [png[:8]], 8
    while place + 8 <= len(png):
        length, name = struct.unpack_from(">I4s", png, place)
        end = place + 12 + length
        parts += [png[place:end]] if name in _PIXEL_CHUNKS + also else []
        place = end
    return b"".join(parts)
