"""What is read of each format, and what is refused: faults of JPEG and PNG, bit depths, frames, sizes, suffixes."""

import io
import struct
import sys
import zlib

import cv2
import numpy as np
import PIL.Image
import pytest

from inception_jax import predict
from inception_jax.data import formats, jpeg
from inception_jax.data.preprocess import decode
from inception_jax.data.sources import open_source
from inception_jax.errors import BrokenImage, UserError

RNG = np.random.default_rng(0)
NOISE = RNG.integers(0, 256, (48, 64, 3), np.uint8)
ROWS, COLUMNS = np.mgrid[:48, :64]
SMOOTH = np.stack([COLUMNS * 3, ROWS * 5, ROWS * 0 + 90], -1).astype(np.uint8)
BLUE = PIL.Image.new("RGB", (64, 48), "blue")


def encode(pixels, kind, mode=None, **options):
    image = pixels if isinstance(pixels, PIL.Image.Image) else PIL.Image.fromarray(pixels)
    buffer = io.BytesIO()
    (image.convert(mode) if mode else image).save(buffer, kind, **options)
    return buffer.getvalue()


def patch(data, place, new):
    return data[:place] + new + data[place + len(new) :]


# JPEG: what libjpeg warns of

PLAIN = {
    "smooth": encode(SMOOTH, "JPEG"),
    "noise": encode(NOISE, "JPEG", quality=95),
    "flat": encode(BLUE, "JPEG"),
    "grey": encode(NOISE, "JPEG", "L"),
    "CMYK": encode(NOISE, "JPEG", "CMYK"),
    "progressive": encode(NOISE, "JPEG", progressive=True),
    "flat, progressive": encode(BLUE, "JPEG", progressive=True),
    "restarts": encode(NOISE, "JPEG", restart_marker_rows=1),
}
SMOOTH_JPEG, NOISE_JPEG, RESTARTS = PLAIN["smooth"], PLAIN["noise"], PLAIN["restarts"]


def scan_of(data):
    """Place of the parameters of the first scan, and of its first pixel."""
    start = data.index(b"\xff\xda")
    return start, start + 2 + int.from_bytes(data[start + 2 : start + 4], "big")


def one_of_three_scans():
    """A sequential JPEG with the first of its three channels."""
    grey = PLAIN["grey"]
    frame = grey.index(b"\xff\xc0")
    size = grey[frame + 4 : frame + 9]
    three = b"\xff\xc0\0\x11" + size + b"\3" + b"\1\x11\0" + b"\2\x11\0" + b"\3\x11\0"
    return grey[:frame] + three + grey[frame + 13 :]


@pytest.mark.parametrize("strays", [b"\0" * 40, b"of a camera " * 20, b"\xff\0" * 5000, bytes(range(255)) * 9], ids=len)
@pytest.mark.parametrize("kind", PLAIN)
def test_stray_bytes_before_the_end_are_passed_over(kind, strays):
    faults = []
    pixels = decode(PLAIN[kind][:-2] + strays + PLAIN[kind][-2:], "x.jpg", None, faults)
    np.testing.assert_array_equal(pixels, decode(PLAIN[kind], "x.jpg"))
    # libjpeg's count may be of some of them, and the rest is found by another look.
    assert faults and "extraneous bytes before marker 0xd9" in faults[0]


APP0 = SMOOTH_JPEG.index(b"JFIF\0") + 5
ADOBE = PLAIN["CMYK"].index(b"Adobe") + 11
SCAN, PIXELS = scan_of(SMOOTH_JPEG)
OUTSIDE = {
    "no fault": (SMOOTH_JPEG, SMOOTH_JPEG, []),
    "bytes after the end": (SMOOTH_JPEG, SMOOTH_JPEG + b"hello" * 1000 + NOISE_JPEG, []),
    "no end": (SMOOTH_JPEG, SMOOTH_JPEG[:-2], ["Premature end"]),
    "half of the end": (SMOOTH_JPEG, SMOOTH_JPEG[:-1], ["Premature end"]),
    "no end, restarts": (RESTARTS, RESTARTS[:-2], ["Premature end"]),
    "between segments": (SMOOTH_JPEG, SMOOTH_JPEG[:20] + b"stray" + SMOOTH_JPEG[20:], ["before marker 0xdb"]),
    "revision of JFIF": (SMOOTH_JPEG, patch(SMOOTH_JPEG, APP0, b"\0\0"), ["JFIF revision"]),
    # libjpeg assumes YCCK.
    "transform of Adobe": (
        patch(PLAIN["CMYK"], ADOBE, b"\2"),
        patch(PLAIN["CMYK"], ADOBE, b"\7"),
        ["Adobe color transform"],
    ),
    "parameters of the scan": (SMOOTH_JPEG, patch(SMOOTH_JPEG, PIXELS - 3, b"\0\0\0"), ["Invalid SOS parameters"]),
    "three at once": (
        SMOOTH_JPEG,
        patch(SMOOTH_JPEG[:20] + b"stray" + SMOOTH_JPEG[20:-2] + b"\0" * 50 + b"\xff\xd9", APP0, b"\0\0"),
        ["JFIF revision", "before marker 0xdb", "before marker 0xd9"],
    ),
}


@pytest.mark.parametrize("case", OUTSIDE)
def test_a_jpeg_with_faults_outside_its_pixels_is_read_as_without(case):
    sound, data, named = OUTSIDE[case]
    faults = []
    pixels = decode(data, "x.jpg", None, faults)
    np.testing.assert_array_equal(pixels, decode(sound, "x.jpg"))
    assert all(words in fault for words, fault in zip(named, faults, strict=True))


MIDDLE = (PIXELS + len(SMOOTH_JPEG)) // 2
RST1 = RESTARTS.index(b"\xff\xd1")
FRAME = NOISE_JPEG.index(b"\xff\xc0")
WRONG = {
    "cut in the middle": SMOOTH_JPEG[:MIDDLE],
    "cut in the middle, with an end": SMOOTH_JPEG[:MIDDLE] + b"\xff\xd9",
    "cut by a byte of the pixels": SMOOTH_JPEG[:-3],
    "cut by a byte, with an end": NOISE_JPEG[:-3] + b"\xff\xd9",
    "progressive, no end": PLAIN["progressive"][:-2],
    "progressive, cut in the middle": PLAIN["progressive"][: len(PLAIN["progressive"]) // 2],
    "one of three scans": one_of_three_scans()[:-2],
    "stray bytes before a restart": RESTARTS[:RST1] + bytes(40) + RESTARTS[RST1:],
    "a restart out of order": patch(RESTARTS, RST1, b"\xff\xd3"),
    "wrong codes": patch(SMOOTH_JPEG, MIDDLE, b"\xff\0" * 40),
    "pixels left over": patch(NOISE_JPEG, FRAME + 5, b"\0\x10"),
    "no tables": SMOOTH_JPEG[:20] + SMOOTH_JPEG[SCAN:],
    "12 bits": patch(SMOOTH_JPEG, SMOOTH_JPEG.index(b"\xff\xc0") + 4, b"\x0c"),
    "nothing but the start": SMOOTH_JPEG[:4],
    "an interrupted download": SMOOTH_JPEG[:MIDDLE] + bytes(len(SMOOTH_JPEG) - MIDDLE),
    "zeros and no end": SMOOTH_JPEG[:-2] + bytes(50),
    "stray bytes and cut": SMOOTH_JPEG[:20] + b"stray" + SMOOTH_JPEG[20:MIDDLE],
}


@pytest.mark.parametrize("case", WRONG)
def test_a_jpeg_with_missing_or_wrong_pixels_is_broken(case):
    faults = []
    with pytest.raises(BrokenImage, match="pets/9.jpg "):
        decode(WRONG[case], "pets/9.jpg", None, faults)
    assert not faults


def test_the_first_fault_is_the_one_named():
    with pytest.raises(BrokenImage, match="3 extraneous bytes before marker 0xdb"):
        decode(SMOOTH_JPEG[:20] + b"xyz" + SMOOTH_JPEG[20:MIDDLE], "x")


def test_a_progressive_jpeg_that_fits_in_no_memory_is_refused():
    data = PLAIN["progressive"]
    frame = data.index(b"\xff\xc2")
    with pytest.raises(BrokenImage, match="65000 x 65000 pixels"):
        decode(patch(data, frame + 5, struct.pack(">HH", 65000, 65000)), "x")
    start, end = scan_of(data)
    many = patch(data, frame + 5, struct.pack(">HH", 2000, 2000))
    with pytest.raises(BrokenImage, match="over 500 scans"):
        decode(many[:end] + data[start:end] * 500 + many[end:], "x")


def flat_jpeg(*factors):
    """A grey JPEG of three channels with these sampling factors: all blocks are 0."""
    frame, (_, pixels) = SMOOTH_JPEG.index(b"\xff\xc0"), scan_of(SMOOTH_JPEG)
    header = bytearray(SMOOTH_JPEG[:pixels])
    for channel, (h, v) in enumerate(factors):
        header[frame + 11 + 3 * channel] = h * 16 + v
    units = -(-64 // (8 * max(h for h, _ in factors))) * -(-48 // (8 * max(v for _, v in factors)))
    codes = "".join(("0000" if channel else "001010") * h * v for channel, (h, v) in enumerate(factors)) * units
    codes += "1" * (-len(codes) % 8)
    scan = int(codes, 2).to_bytes(len(codes) // 8, "big")
    return bytes(header) + scan.replace(b"\xff", b"\xff\0") + b"\xff\xd9"


@pytest.mark.parametrize(
    "factors",
    [
        [(1, 1), (1, 1), (1, 1)],
        [(4, 1), (1, 1), (1, 1)],
        [(1, 4), (1, 1), (1, 1)],
        [(4, 2), (1, 1), (1, 1)],
        [(3, 1), (1, 1), (1, 1)],
        [(2, 2), (2, 1), (1, 2)],
        [(1, 1), (2, 2), (2, 2)],
    ],
)
def test_every_chroma_subsampling_is_read(factors):
    data = flat_jpeg(*factors)
    np.testing.assert_array_equal(decode(data, "x"), np.full((48, 64, 3), 128))
    assert jpeg.describe(data) == []
    for cut in (100, 500, -30):
        with pytest.raises(BrokenImage, match="x.jpg is broken: .*(short|[Pp]remature|[Tt]runcated)"):
            decode(data[:cut], "x.jpg")


# PNG


def chunk(name, content):
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))


PNG = encode(NOISE, "PNG")
HUGE_TEXT = chunk(b"zTXt", b"k\0\0" + zlib.compress(bytes(2_000_000)))


@pytest.mark.parametrize(
    ("data", "faults"),
    [
        (PNG + b"hello", 0),
        (PNG[:-12], 0),
        (PNG[:33] + HUGE_TEXT + PNG[33:], 1),
        (PNG[:33] + patch(chunk(b"tEXt", b"a\0b"), 8, b"x") + PNG[33:], 1),
        (PNG[:33] + chunk(b"abCd", b"unknown") + PNG[33:], 0),
    ],
    ids=["bytes after the end", "no end", "text bomb", "checksum of a text", "unknown chunk"],
)
def test_a_png_is_read_whatever_its_other_chunks_are(data, faults):
    found = []
    np.testing.assert_array_equal(decode(data, "x", None, found), NOISE)
    assert len(found) == faults and formats.describe(data) == ("PNG", [])


@pytest.mark.parametrize("place", [20, 29, 2000, -30], ids=["size", "checksum", "pixels", "end"])
def test_a_png_with_damage_to_its_pixels_is_broken(place):
    place %= len(PNG)
    with pytest.raises(BrokenImage, match="x.png "):
        decode(patch(PNG, place, bytes([PNG[place] ^ 1])), "x.png")


# sizes


@pytest.mark.parametrize(
    "data",
    [
        b"P6 60000 60000 255\n" + bytes(100),
        patch(encode(BLUE, "GIF"), 6, struct.pack("<HH", 65000, 65000)),
        patch(encode(BLUE, "BMP"), 18, struct.pack("<ii", 60000, 60000)),
        PNG[:8] + chunk(b"IHDR", struct.pack(">II", 60000, 60000) + PNG[24:29]) + PNG[33:],
    ],
    ids=["PPM", "GIF", "BMP", "PNG"],
)
def test_a_small_file_of_a_huge_image_is_refused(data):
    with pytest.raises(BrokenImage, match="x.bin cannot be used: .*(60000 x 60000|over) .*67108864"):
        decode(data, "x.bin")


# bits a channel


def tiff(rows, bits, *, photometric=1, sample_format=1):
    """A TIFF of one strip: rows are bytes, of `bits` a pixel."""
    tags = {
        256: len(rows[0]) * 8 // bits,
        257: len(rows),
        258: bits,
        259: 1,
        262: photometric,
        273: 8,
        277: 1,
        278: len(rows),
        279: len(b"".join(rows)),
        339: sample_format,
    }
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags.items())
    pixels = b"".join(rows)
    return b"II*\0" + struct.pack("<I", 8 + len(pixels)) + pixels + struct.pack("<H", len(tags)) + entries + bytes(4)


RAMP = np.arange(64, dtype=np.uint16) * 1024
DEEP = [RAMP.tobytes()] * 4
HIGH = np.broadcast_to((RAMP >> 8)[None, :, None], (4, 64, 3))
TWELVE = [bytes([0x10, 0x0F, 0xFF] * 32)] * 4  # 0x100 and 0xFFF
BIG = DEEP[0] * 2


@pytest.mark.parametrize(
    ("data", "pixels"),
    [
        (encode(np.tile(RAMP, (4, 1)), "PNG"), HIGH),
        (tiff(DEEP, 16), HIGH),
        (tiff(DEEP, 16, photometric=0), 255 - HIGH),
        (tiff(TWELVE, 12), np.broadcast_to(np.array([0x10, 0xFF] * 32)[None, :, None], (4, 64, 3))),
        (b"P5 64 4 65535\n" + b"".join([RAMP.astype(">u2").tobytes()] * 4), HIGH),
        (b"P5 64 4 4095\n" + (np.tile(RAMP, (4, 1)) >> 4).astype(">u2").tobytes(), HIGH),
        (cv2.imencode(".png", np.dstack([np.tile(RAMP, (4, 1))] * 3))[1].tobytes(), HIGH),
    ],
    ids=["PNG", "TIFF", "TIFF, zero is white", "TIFF of 12", "PGM", "PGM of 12", "colour PNG"],
)
def test_the_high_eight_bits_are_used(data, pixels):
    assert "over 8 bits" in formats.describe(data)[1]
    # Pillow rounds where it scales a PGM.
    assert np.abs(decode(data, "x").astype(int) - pixels).max() <= ("P5" in str(data[:2]))


@pytest.mark.parametrize(
    ("data", "named"),
    [
        (encode(np.tile(RAMP >> 4, (4, 1)), "PNG"), "12 bits in 16"),
        (encode(np.tile(RAMP >> 8, (4, 1)), "PNG"), "12 bits in 16"),
        (cv2.imencode(".png", np.dstack([np.tile(RAMP >> 4, (4, 1))] * 3))[1].tobytes(), "12 bits in 16"),
        (tiff([(RAMP >> 4).tobytes()] * 4, 16), "12 bits in 16"),
        (tiff(DEEP, 16, sample_format=2), "32 bits or with a sign"),
        (tiff([BIG] * 4, 32), "32 bits or with a sign"),
        (tiff([BIG] * 4, 32, sample_format=2), "32 bits or with a sign"),
        (encode(np.tile(np.arange(64, dtype=np.float32) / 64, (4, 1)), "TIFF"), "floating-point"),
        (encode(np.tile(np.arange(64, dtype=np.float32), (4, 1)), "PPM"), "floating-point"),
        (encode(PIL.Image.new("LAB", (9, 9)), "TIFF"), "CIELAB"),
    ],
    ids="PNG-12 PNG-8 RGB-12 TIFF-12 int16 uint32 int32 float PFM LAB".split(),
)
def test_values_of_unknown_range_are_refused(data, named):
    with pytest.raises(BrokenImage, match=f"x.tif cannot be used: .*{named}.* convert it"):
        decode(data, "x.tif")


@pytest.mark.parametrize(
    ("mode", "kinds"),
    {
        "1": ["PNG", "TIFF", "GIF", "BMP", "PPM"],
        "L": ["PNG", "TIFF", "BMP", "WEBP", "PPM", "JPEG2000"],
        "LA": ["PNG", "TIFF", "JPEG2000"],
        "P": ["PNG", "TIFF", "GIF", "BMP"],
        "RGBA": ["PNG", "TIFF", "WEBP", "AVIF", "JPEG2000", "GIF"],
        "CMYK": ["TIFF"],
        "YCbCr": ["TIFF"],
    }.items(),
)
def test_every_mode_is_read(mode, kinds):
    # Black and white halves, which every mode has.
    halves = np.repeat(np.where(COLUMNS < 32, 0, 255).astype(np.uint8)[..., None], 3, 2)
    for kind in kinds:
        options = {"lossless": True} if kind == "WEBP" else {}
        pixels = decode(encode(halves, kind, mode, **options), f"x.{kind}")
        assert np.abs(pixels.astype(int) - halves).max() <= 3, kind
    with_mask = encode(PIL.Image.new("P", (4, 4), 0), "GIF", transparency=0)
    assert decode(with_mask, "x").shape == (4, 4, 3)


# formats and suffixes


@pytest.mark.parametrize("kind", [kind for kind in formats.SUFFIXES if kind != "HEIF"])
def test_every_suffix_is_read_from_a_folder(kind, tmp_path):
    for number, suffix in enumerate(formats.SUFFIXES[kind]):
        for split in ("train", "val"):
            (tmp_path / split / "a").mkdir(parents=True, exist_ok=True)
            (tmp_path / split / "b").mkdir(exist_ok=True)
            (tmp_path / split / "ab"[number % 2] / f"{number}{suffix.upper()}").write_bytes(encode(SMOOTH, kind))
            (tmp_path / split / "b" / "x.jpg").write_bytes(SMOOTH_JPEG)
    source = open_source(f"folder:{tmp_path}", "train")
    assert len(source) == len(formats.SUFFIXES[kind]) + 1
    for image, _, name in (source[number] for number in range(len(source))):
        assert np.abs(decode(image, name).astype(int) - SMOOTH).mean() < 8
    # The name says nothing.
    assert decode(encode(SMOOTH, kind), "x.jpg").shape == SMOOTH.shape


@pytest.mark.parametrize("kind", ["GIF", "PNG", "WEBP", "TIFF", "AVIF"])
def test_the_first_of_several_frames_is_read(kind):
    data = encode(BLUE, kind, save_all=True, append_images=[PIL.Image.new("RGB", BLUE.size, "red")])
    assert np.abs(decode(data, "x").astype(int) - [0, 0, 255]).max() <= 3
    assert formats.describe(data)[1] == ["several frames"]
    assert formats.describe(encode(BLUE, kind))[1] == []


def test_other_kinds_of_files_are_refused():
    # Pillow would start Ghostscript, and take anything for a TGA.
    postscript = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n"
    for data in (postscript, encode(BLUE, "TGA"), encode(BLUE, "PCX"), b"<svg/>", b"%PDF-1.7"):
        with pytest.raises(BrokenImage, match=f"x.jpg .*{data[:4].hex(' ')}"):
            decode(data, "x.jpg")


HEIC = b"\0\0\0\x1cftypheic\0\0\0\0mif1heicmiaf" + bytes(99)


def test_heic_names_the_package_that_reads_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    with pytest.raises(UserError, match=r"pets/9.heic .*pip install 'inception_jax\[heic\]'") as caught:
        decode(HEIC, "pets/9.heic")
    # `on_error="skip"` would leave out all of them otherwise.
    assert not isinstance(caught.value, BrokenImage)


def test_a_folder_with_heic_says_so_when_it_is_opened(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    for name in "ab":
        (tmp_path / name).mkdir()
        for number, suffix in enumerate((".jpg", ".png", ".HEIC")):
            (tmp_path / name / f"{number}{suffix}").write_bytes(b"")
    with pytest.raises(UserError, match=r"/a/2.HEIC .*pip install"):
        open_source(f"folder:{tmp_path}", "train")


def test_predict_reads_what_folders_read(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    for kind in formats.SUFFIXES:
        (tmp_path / kind).write_bytes(HEIC if kind == "HEIF" else encode(SMOOTH, kind))
        picture = predict._read_or_reason(tmp_path / kind)
        if kind == "HEIF":
            assert "pip install" in picture and str(tmp_path / kind) in picture
        else:
            assert picture.shape == SMOOTH.shape


def test_heic_is_read_with_its_package():
    pytest.importorskip("pillow_heif").register_heif_opener()
    data = encode(SMOOTH, "HEIF")
    assert np.abs(decode(data, "x.heic").astype(int) - SMOOTH).mean() < 8
    assert formats.describe(data) == ("HEIF", [])
    for broken in (HEIC, data[: len(data) // 2]):
        with pytest.raises(BrokenImage, match="x.heic "):
            decode(broken, "x.heic")


@pytest.mark.filterwarnings("ignore")  # Pillow warns of odd tags
@pytest.mark.parametrize("kind", [kind for kind in formats.SUFFIXES if kind != "HEIF"])
def test_damage_ends_in_pixels_or_in_one_sentence(kind):
    sound, rng = encode(SMOOTH, kind), np.random.default_rng(1)
    for _ in range(60):
        data = bytearray(sound[: rng.integers(1, len(sound) + 1)] if rng.random() < 0.3 else sound)
        for place in rng.integers(0, len(data), rng.integers(1, 4)):
            data[place] = rng.integers(256)
        try:
            pixels = decode(bytes(data), "pets/9")
        except BrokenImage as error:
            assert "the image pets/9 " in str(error) and "\n" not in str(error)
        else:
            assert pixels.dtype == np.uint8 and pixels.ndim == 3 and pixels.shape[2] == 3
            kinds = jpeg.describe if data.startswith(jpeg.START) else formats.describe
            kinds(bytes(data))
