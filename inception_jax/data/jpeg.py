"""Decoding of JPEG, with the faults that leave the pixels intact mended."""

import io
import re
from collections.abc import Callable, Iterator

import numpy as np
import PIL.Image
import simplejpeg

from inception_jax.data.formats import MAX_PIXELS, Refused, orientation

START = b"\xff\xd8\xff"
"""First bytes of every JPEG."""

# A progressive JPEG is kept whole while it is decoded, with 6 bytes per pixel, whatever the size of the result.
_MAX_PROGRESSIVE_PIXELS = 2**28
# Each scan goes through all blocks, so that a file of 50 kB could take minutes where it is not small. Encoders write
# about ten.
_MAX_SCANS, _SMALL = 500, 2**20
# One of each kind.
_MOST_MENDS = 6

_SOI, _EOI = b"\xff\xd8", b"\xff\xd9"
_SOS = 0xDA
_SEQUENTIAL, _PROGRESSIVE = (0xC0, 0xC1, 0xC9), (0xC2, 0xCA)
_STRAY_BYTES = re.compile(r"(\d+) extraneous bytes before marker 0x(\w\w)")


def decode_jpeg(
    data: bytes, buffer: Callable[[int], np.ndarray] | None = None, faults: list[str] | None = None
) -> np.ndarray:
    """Decodes a JPEG to uint8 [H, W, 3] in RGB, unless a pixel would be made up.

    libjpeg's errors and warnings are faults. Those outside the coded pixels are mended; what is then decoded without
    another fault is intact:

    - stray bytes between the segments of the header or before the end marker,
    - a missing end marker after the only scan, in which all pixels are,
    - an unknown revision of JFIF, an unknown colour transform of Adobe (libjpeg assumes YCbCr, or YCCK of four
      channels), unused parameters of a sequential scan.

    Everything else is broken: data that ends early, wrong codes, misplaced restart markers, and a progressive JPEG
    without its end. Bytes after the end marker are no fault.

    Args:
      data: The file.
      buffer: Returns memory of a given size for the pixels.
      faults: Receives libjpeg's words for each fault that was mended.

    Raises:
      ValueError: a pixel is missing or wrong, as far as libjpeg can tell; Refused where the image is too large.
    """
    intact, mended = data, []
    for _ in range(_MOST_MENDS + 1):
        try:
            pixels = _decode_strictly(intact, buffer)
        except Refused:
            raise
        except ValueError as error:
            mended.append(error)
            other = _mend(intact, str(error))
            if other is None or other == intact:
                break
            intact = other
        else:
            if faults is not None:
                faults += map(str, mended)
            return pixels
    raise mended[0]


def describe(data: bytes) -> list[str]:
    """Those of `check.TRAITS` that an intact JPEG has."""
    colours = {1: ["grey"], 4: ["CMYK"]}.get(_frame_and_scan(data)[1], [])
    return [*colours, *(["turned by EXIF"] if _is_turned(data) else [])]


def _is_turned(data: bytes) -> bool:
    # Only where there is EXIF, because Pillow takes a fifth of the time of decoding.
    if b"Exif\0\0" not in data[:4096]:
        return False
    try:
        with PIL.Image.open(io.BytesIO(data), formats=["JPEG"]) as image:
            return orientation(image) > 1
    except Exception:  # Pillow raises half a dozen types at odd headers, which rotate nothing
        return False


def _decode_strictly(data: bytes, buffer: Callable[[int], np.ndarray] | None = None) -> np.ndarray:
    """Pixels of a JPEG without a fault; ValueError at the first one."""
    try:
        height, width, colourspace, _ = simplejpeg.decode_jpeg_header(data)
    except (ValueError, KeyError) as error:
        if isinstance(error, KeyError) or "subsampling level" in str(error):
            return _decode_unusual_sampling(data)
        raise
    if height * width > _SMALL and _frame_and_scan(data)[0] in _PROGRESSIVE:
        if height * width > _MAX_PROGRESSIVE_PIXELS:
            raise Refused(f"it is progressive and has {width} x {height} pixels, over {_MAX_PROGRESSIVE_PIXELS}")
        if data.count(b"\xff\xda") > _MAX_SCANS:
            raise Refused(f"it is progressive and has over {_MAX_SCANS} scans")
    denominator = next(k for k in (1, 2, 4, 8) if height * width <= MAX_PIXELS * k * k)
    smaller = {"min_height": height // denominator, "min_width": width // denominator} if denominator > 1 else {}
    if colourspace not in ("CMYK", "YCCK"):
        memory = buffer(height * width * 3) if buffer and denominator == 1 else None
        return simplejpeg.decode_jpeg(data, "RGB", buffer=memory, **smaller)
    cmyk = simplejpeg.decode_jpeg(data, "CMYK", **smaller).astype(np.uint16)
    # Adobe's programs store the inks inverted and add a marker with their name.
    unmultiplied = cmyk if b"Adobe" in data[:4096] else 255 - cmyk
    return (unmultiplied[..., :3] * unmultiplied[..., 3:] // 255).astype(np.uint8)


def _decode_unusual_sampling(data: bytes) -> np.ndarray:
    """Pixels of a JPEG of a chroma subsampling that TurboJPEG has no number for, e.g. 4:1:0.

    ValueError where it ends early. Other damage goes unnoticed, because Pillow passes over libjpeg's warnings.
    """
    try:
        with PIL.Image.open(io.BytesIO(data), formats=["JPEG"]) as image:
            if image.width * image.height > MAX_PIXELS:
                raise Refused(f"it has an unusual subsampling and {image.width} x {image.height} pixels")
            return np.array(image.convert("RGB"))
    except PIL.UnidentifiedImageError:
        raise ValueError("its header is cut short or damaged") from None
    except (OSError, SyntaxError) as error:
        raise ValueError(str(error)) from error


def _mend(data: bytes, fault: str) -> bytes | None:
    """The JPEG without a fault in libjpeg's words; None where the fault is one of the pixels."""
    strays = _STRAY_BYTES.search(fault)
    try:
        if strays and strays[2] == "d9":
            return _without_stray_end(data, int(strays[1]))
        if strays:
            return _SOI + b"".join(data[start:end] for _, start, end in _header(data)) + data[_start_of_scan(data) :]
        if "Premature end of JPEG file" in fault:
            # Not together with stray bytes, which are the zeros of an interrupted download.
            return data + _EOI if _has_one_scan(data) and not _fault(data + _EOI) else None
        if "unknown JFIF revision" in fault:
            return _with_bytes(data, data.index(b"JFIF\0") + 5, b"\1\1")
        if "Unknown Adobe color transform" in fault:
            return _with_bytes(data, data.index(b"Adobe") + 11, b"\1" if _frame_and_scan(data)[1] == 3 else b"\2")
        if "Invalid SOS parameters for sequential" in fault:
            return _with_bytes(data, _start_of_scan(data) - 3, b"\0\x3f\0")
    except (IndexError, ValueError):  # the header has no such segment
        pass
    return None


def _with_bytes(data: bytes, place: int, new: bytes) -> bytes:
    return data[:place] + new + data[place + len(new) :]


def _header(data: bytes) -> Iterator[tuple[int, int, int]]:
    """Marker, start and end of each segment up to the first scan; bytes between them are passed over."""
    place, marker = 2, 0
    while marker != _SOS:
        start = data.index(b"\xff", place)
        marker = data[start + 1]
        place = start + 1
        if marker not in (0, 0xFF):
            place = start + 2 + int.from_bytes(data[start + 2 : start + 4], "big")
            yield marker, start, place


def _start_of_scan(data: bytes) -> int:
    """Place of the first coded pixel."""
    return [end for _, _, end in _header(data)][-1]


def _frame_and_scan(data: bytes) -> tuple[int, int, int]:
    """Marker of the frame, and the number of channels in the frame and in the first scan."""
    segments = {marker: start for marker, start, _ in _header(data)}
    frame = next(marker for marker in (*_SEQUENTIAL, *_PROGRESSIVE, *segments) if marker in segments)
    return frame, data[segments[frame] + 9], data[segments[_SOS] + 4]


def _has_one_scan(data: bytes) -> bool:
    frame, channels, in_scan = _frame_and_scan(data)
    return frame in _SEQUENTIAL and channels == in_scan


def _without_stray_end(data: bytes, count: int) -> bytes | None:
    """The JPEG without stray bytes before its end marker; None where they may be pixels that a fault left over.

    Args:
      data: The file.
      count: Number of bytes that libjpeg counted, without those in its bit buffer.
    """
    end = data.index(_EOI, _start_of_scan(data))
    if _frame_and_scan(data)[0] in _PROGRESSIVE:
        # The last scan has only the lowest bits of the pixels.
        return data[: end - count] + _EOI
    # The shortest part of the scan that has all pixels. Up to 8 bytes more are in the bit buffer, and a byte of 255
    # takes two in the file, of which libjpeg may have counted one.
    enough = end - count
    stuffed = data.count(b"\xff\0", max(end - 2 * count - 32, 0), end)
    missing = max(enough - 9 - stuffed, data.rindex(b"\xff\xda", 0, end))
    while enough - missing > 1:
        middle = (missing + enough) // 2
        fault = _fault(data[:middle] + _EOI)
        if fault and not _STRAY_BYTES.search(fault):
            missing = middle
        else:
            enough = middle
    scan = data[:enough]
    if scan.endswith(b"\xff\0"):
        return scan + _EOI
    # The unused bits of the last byte of a scan are ones (ITU-T T.81, F.1.2.3), so that its last zero is part of a
    # pixel, which changes with it. Where damage led the decoding astray, that is so by chance, one time in four.
    last = scan[-1]
    changed = last | (last + 1)
    other = scan[:-1] + (b"\xff\0" if changed == 0xFF else bytes([changed])) + _EOI
    try:
        same = np.array_equal(_decode_strictly(scan + _EOI), _decode_strictly(other))
    except ValueError:
        same = False
    return None if same else scan + _EOI


def _fault(data: bytes) -> str:
    try:
        _decode_strictly(data)
    except ValueError as error:
        return str(error)
    return ""
