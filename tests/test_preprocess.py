"""Decoding, crops and colour: numbers by hand, by Pillow and by Python's colorsys, then ranges and fractions."""

import colorsys
import io
from concurrent.futures import ThreadPoolExecutor
from typing import get_args

import jax
import jax.numpy as jnp
import numpy as np
import PIL.Image
import pytest
import simplejpeg

from inception_jax.data import colour
from inception_jax.data.preprocess import Resize, Scratch, _random_box, central_crop, decode, distorted_crop
from inception_jax.errors import BrokenImage, UserError

RNG = np.random.default_rng
ROWS, COLUMNS = np.mgrid[:40, :60]
GRADIENT = np.stack([COLUMNS * 4, ROWS * 5, ROWS * 0 + 90], -1).astype(np.uint8)


def encode(pixels, kind, mode=None, **options):
    image = pixels if isinstance(pixels, PIL.Image.Image) else PIL.Image.fromarray(pixels)
    buffer = io.BytesIO()
    (image.convert(mode) if mode else image).save(buffer, kind, **options)
    return buffer.getvalue()


# decode


def test_jpeg_is_rgb_and_within_a_rounding_of_pillow():
    data = encode(GRADIENT, "JPEG", quality=95)
    pixels = decode(data, "x.jpg")
    assert pixels.shape == (40, 60, 3) and pixels.dtype == np.uint8
    pillow = np.asarray(PIL.Image.open(io.BytesIO(data)))
    assert np.abs(pixels.astype(int) - pillow).max() <= 1
    assert np.abs(pixels.astype(int) - GRADIENT).mean() < 3


def test_grey_jpeg_has_three_equal_channels():
    pixels = decode(encode(GRADIENT, "JPEG", "L"), "x.jpg")
    assert pixels.shape == (40, 60, 3) and (pixels == pixels[..., :1]).all()


def test_cmyk_jpeg_has_the_colours_of_pillow():
    data = encode(GRADIENT, "JPEG", "CMYK", quality=95)
    pillow = np.asarray(PIL.Image.open(io.BytesIO(data)).convert("RGB")).astype(int)
    assert np.abs(decode(data, "x.jpg") - pillow).max() <= 2
    # The same bytes without Adobe's marker hold the inks themselves: all of it is then the darkest part.
    white = encode(PIL.Image.new("CMYK", (8, 8), (0, 0, 0, 0)), "JPEG")
    assert decode(white, "x.jpg").min() > 250
    start = white.index(b"\xff\xee")
    unmarked = white[:start] + white[start + 2 + int.from_bytes(white[start + 2 : start + 4], "big") :]
    assert decode(unmarked, "x.jpg").max() < 5


def test_png_is_known_by_its_bytes_whatever_its_name():
    np.testing.assert_array_equal(decode(encode(GRADIENT, "PNG"), "x.jpg"), GRADIENT)


def test_alpha_is_dropped_without_blending():
    alpha = np.full((40, 60, 1), 7, np.uint8)
    np.testing.assert_array_equal(decode(encode(np.concatenate([GRADIENT, alpha], -1), "PNG"), "x.png"), GRADIENT)


def test_other_pngs():
    np.testing.assert_array_equal(decode(encode(GRADIENT[..., 0], "PNG"), "x")[..., 2], GRADIENT[..., 0])
    deep = GRADIENT[..., 0].astype(np.uint16) * 256
    np.testing.assert_array_equal(decode(encode(deep, "PNG"), "x")[..., 1], GRADIENT[..., 0])
    palette = encode(PIL.Image.new("P", (4, 4), 0), "PNG", transparency=b"\x00\x01")
    assert decode(palette, "x").shape == (4, 4, 3)


def test_exif_orientation_is_not_applied():
    exif = PIL.Image.Exif()
    exif[0x0112] = 6  # turn by 90 degrees
    assert decode(encode(GRADIENT, "JPEG", exif=exif), "x.jpg").shape == (40, 60, 3)


def test_arrays():
    grey = GRADIENT[..., 0]
    for array in (grey, grey[..., None]):
        np.testing.assert_array_equal(decode(array, "x"), np.stack([grey] * 3, -1))
    np.testing.assert_array_equal(decode(GRADIENT, "x"), GRADIENT)
    np.testing.assert_array_equal(decode(np.dstack([GRADIENT, grey]), "x"), GRADIENT)


NOISE = np.random.default_rng(0).integers(0, 256, (40, 60, 3), np.uint8)


@pytest.mark.parametrize("length", [3, 200, 700, -300])
@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_a_file_cut_short_is_named(kind, length):
    with pytest.raises(BrokenImage, match="pets/9.jpg "):
        decode(encode(NOISE, kind)[:length], "pets/9.jpg")


@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
@pytest.mark.parametrize("garbage", [bytes(100), b"\xff\xd9" * 50, b"\xff" * 100])
def test_a_file_corrupt_in_the_middle_is_named(kind, garbage):
    data = encode(NOISE, kind)
    middle = len(data) // 2
    with pytest.raises(BrokenImage, match="pets/9.jpg "):
        decode(data[:middle] + garbage + data[middle + 100 :], "pets/9.jpg")


def test_a_file_of_another_kind_is_named_with_its_first_bytes():
    with pytest.raises(BrokenImage, match="x.jpg .*empty"):
        decode(b"", "x.jpg")
    with pytest.raises(BrokenImage, match="x.jpg .*3c 68 74 6d"):
        decode(b"<html>Not found</html>", "x.jpg")


def test_gif_is_its_first_frame():
    frames = [PIL.Image.new("RGB", (6, 4), colour) for colour in ("red", "blue")]
    data = encode(frames[0], "GIF", save_all=True, append_images=frames[1:])
    np.testing.assert_array_equal(decode(data, "x"), np.broadcast_to([255, 0, 0], (4, 6, 3)))


def test_an_image_of_one_pixel_fills_the_crop():
    pixel = decode(encode(np.full((1, 1, 3), 77, np.uint8), "PNG"), "x")
    options = {"size": 5, "area": (0.05, 1.0), "aspect": (3 / 4, 4 / 3), "flip": True, "resize": "bilinear"}
    for crop in (
        central_crop(pixel, size=5, fraction=0.875, resize="bicubic"),
        distorted_crop(pixel, RNG(0), **options),
    ):
        np.testing.assert_array_equal(crop, np.full((5, 5, 3), 77))


def test_a_huge_jpeg_is_decoded_at_a_fraction():
    # 400 million pixels, of which 20 MB come to be.
    image = np.full((20_000, 20_000, 1), 40, np.uint8)
    image[:, 10_000:] = 200
    pixels = decode(simplejpeg.encode_jpeg(image, colorspace="GRAY"), "x", Scratch())
    assert pixels.shape == (5_000, 5_000, 3)
    some = pixels[::99].astype(int)
    assert abs(some[:, :2_499] - 40).max() <= 1 and abs(some[:, 2_501:] - 200).max() <= 1


def test_a_huge_png_is_refused():
    with pytest.raises(BrokenImage, match="9000 x 9000 pixels.*67108864"):
        decode(encode(PIL.Image.new("1", (9_000, 9_000)), "PNG"), "x")


def test_scratch_is_used_again_and_is_each_threads_own():
    scratch = Scratch()
    first = decode(encode(NOISE, "JPEG"), "x", scratch)
    kept = first.copy()
    assert np.shares_memory(decode(encode(255 - NOISE[:9], "JPEG"), "x", scratch), first)
    with ThreadPoolExecutor(1) as pool:
        other = pool.submit(decode, encode(NOISE, "JPEG"), "x", scratch).result()
    assert not np.shares_memory(other, first)
    np.testing.assert_array_equal(other, kept)
    np.testing.assert_array_equal(decode(encode(NOISE, "JPEG"), "x"), kept)


def test_crops_are_written_to_out():
    out = np.zeros((3, 8, 8, 3), np.uint8)
    options = {"size": 8, "area": (0.05, 1.0), "aspect": (3 / 4, 4 / 3), "flip": True, "resize": "bilinear"}
    for seed in range(6):
        distorted_crop(NOISE, RNG(seed), **options, out=out[1])
        np.testing.assert_array_equal(out[1], distorted_crop(NOISE, RNG(seed), **options))
    central_crop(NOISE, size=8, fraction=0.5, resize="area", out=out[1])
    np.testing.assert_array_equal(out[1], central_crop(NOISE, size=8, fraction=0.5, resize="area"))
    assert not out[[0, 2]].any()


def test_arrays_that_are_no_images_are_named():
    with pytest.raises(UserError, match=r"digits 3 .*float64 \[4, 4\].*uint8"):
        decode(np.zeros((4, 4)), "digits 3")
    with pytest.raises(UserError, match="digits 3 .*2 channels.*1, 3 or 4"):
        decode(np.zeros((4, 4, 2), np.uint8), "digits 3")


# central crop


def test_central_crop_by_hand():
    # Of 16 x 8 pixels 0.75 leaves rows 2-13 and columns 1-6; halving 12 x 6 to 3 x 3 needs the middles of 4 x 2 blocks.
    rows, columns = np.mgrid[:16, :8]
    image = np.stack([rows * 10, columns * 10, rows * 0], -1).astype(np.uint8)
    crop = central_crop(image, size=3, fraction=0.75, resize="bilinear")
    np.testing.assert_array_equal(crop[:, 0, 0], [35, 75, 115])
    np.testing.assert_array_equal(crop[0, :, 1], [15, 35, 55])
    averaged = central_crop(image, size=3, fraction=0.75, resize="area")
    np.testing.assert_array_equal(averaged, crop)  # the mean of a linear ramp is its middle


def test_antialiasing_by_hand():
    # Halved, the first pixel's middle lies between the first two; a kernel twice as wide reaches the third: weights
    # 0.75, 0.75 and 0.25 of 1.75.
    image = np.repeat(np.array([[0, 80, 160, 240]], np.uint8).T.reshape(4, 1, 1), 4, 1).repeat(3, 2)
    for resize, first in {"bilinear": 40, "antialiased_bilinear": round(100 / 1.75), "area": 40}.items():
        assert (central_crop(image, size=2, fraction=1.0, resize=resize)[0] == first).all(), resize
    pillows = np.asarray(PIL.Image.fromarray(NOISE).resize((9, 9), PIL.Image.Resampling.BICUBIC))
    np.testing.assert_array_equal(central_crop(NOISE, size=9, fraction=1.0, resize="antialiased_bicubic"), pillows)


def test_central_crop_of_everything_at_its_own_size_is_the_image():
    image = GRADIENT[:40, :40]
    for resize in get_args(Resize):
        np.testing.assert_array_equal(central_crop(image, size=40, fraction=1.0, resize=resize), image)


def test_central_crop_at_the_paper_size():
    image = np.zeros((342, 400, 3), np.uint8)
    image[22:320, 25:375] = 255  # int(21.375) and int(25.0) on each side, less a row that blends
    crop = central_crop(image, size=299, fraction=0.875, resize="bilinear")
    assert crop.shape == (299, 299, 3) and crop[2:-2].min() == 255


# distorted crop

WHOLE = {"area": (1.0, 1.0), "aspect": (1.0, 1.0), "flip": False, "resize": "bilinear"}


def test_a_crop_of_everything_is_the_identity_and_flip_mirrors_half():
    image = GRADIENT[:40, :40]
    np.testing.assert_array_equal(distorted_crop(image, np.random.default_rng(0), size=40, **WHOLE), image)
    rng = np.random.default_rng(0)
    mirrored = 0
    for _ in range(400):
        crop = distorted_crop(image, rng, size=40, **{**WHOLE, "flip": True})
        same, mirror = (crop == image).all(), (crop == image[:, ::-1]).all()
        assert same != mirror
        mirrored += mirror
    assert 160 < mirrored < 240


def test_crops_lie_within_the_ranges_and_everywhere():
    height, width = 150, 200
    rng = np.random.default_rng(0)
    boxes = np.array([_random_box(height, width, rng, (0.05, 0.5), (3 / 4, 4 / 3)) for _ in range(2000)])
    top, left, crop_height, crop_width = boxes.T
    assert (top >= 0).all() and (top + crop_height <= height).all()
    assert (left >= 0).all() and (left + crop_width <= width).all()
    area = crop_height * crop_width / (height * width)
    aspect = crop_width / crop_height
    # Rounding to whole pixels moves both by no more than a pixel's worth.
    assert area.min() > 0.045 and area.max() < 0.51
    assert aspect.min() > 0.72 and aspect.max() < 1.37
    # Uniform draws: the means are those of the ranges.
    assert abs(area.mean() - 0.275) < 0.01 and abs(aspect.mean() - (3 / 4 + 4 / 3) / 2) < 0.015
    # Both ends of the image are reached.
    assert top.min() == 0 and (top + crop_height).max() == height
    assert left.min() == 0 and (left + crop_width).max() == width


def test_a_crop_that_cannot_fit_is_the_full_image():
    image = GRADIENT  # 40 x 60: a square of the whole area does not fit
    crop = distorted_crop(image, np.random.default_rng(0), size=40, **WHOLE)
    np.testing.assert_array_equal(crop, central_crop(image, size=40, fraction=1.0, resize="bilinear"))


def test_a_crop_is_a_function_of_its_generator():
    options = {"size": 32, "area": (0.05, 1.0), "aspect": (3 / 4, 4 / 3), "flip": True, "resize": "bicubic"}
    first, second, third = (distorted_crop(GRADIENT, np.random.default_rng(s), **options) for s in (1, 1, 2))
    assert first.shape == (32, 32, 3) and first.dtype == np.uint8 and first.flags.c_contiguous
    assert (first == second).all() and (first != third).any()


# colour

PIXELS = np.array(
    [[0.9, 0.2, 0.1], [0.1, 0.8, 0.3], [0.2, 0.3, 0.7], [0.5, 0.5, 0.1], [0.3, 0.9, 0.9], [0.8, 0.1, 0.8], [0.4] * 3]
    + [[0.0] * 3, [1.0] * 3, [1.0, 0.0, 0.0], [0.0, 1.0, 1.0]],
    np.float32,
)


def adjusted(distortion, pixels, amount):
    """A distortion of pixels [..., H, 3]."""
    return np.stack(distortion(tuple(jnp.moveaxis(jnp.array(pixels), -1, 0)), amount), -1)


def by_hsv(pixel, change):
    hue, saturation, value = change(*colorsys.rgb_to_hsv(*(float(x) for x in pixel)))
    return colorsys.hsv_to_rgb(hue % 1.0, min(max(saturation, 0.0), 1.0), value)


NOTHING = {"brightness": 0.0, "saturation": (1.0, 1.0), "hue": 0.0, "contrast": (1.0, 1.0)}


@pytest.fixture(scope="module")
def distort():
    """`distort_colour` for float32 [64, 2, 2, 3] and any amounts, compiled once."""
    compiled = jax.jit(colour.distort_colour)

    def distort(images, **amounts):
        assert images.shape == (64, 2, 2, 3)
        return np.asarray(compiled(jax.random.key(0), jnp.float32(images), **NOTHING | amounts))

    return distort


@pytest.mark.parametrize("factor", [0.0, 0.5, 0.9, 1.2, 1.5, 20.0])
def test_saturation_is_that_of_colorsys(factor):
    expected = [by_hsv(p, lambda h, s, v: (h, s * factor, v)) for p in PIXELS]
    np.testing.assert_allclose(adjusted(colour._adjust_saturation, PIXELS, factor), expected, atol=1e-6)


@pytest.mark.parametrize("turn", [-1.2, -0.5, -0.2, 0.0, 0.05, 1 / 3, 0.9])
def test_hue_is_that_of_colorsys(turn):
    expected = [by_hsv(p, lambda h, s, v: (h + turn, s, v)) for p in PIXELS]
    np.testing.assert_allclose(adjusted(colour._adjust_hue, PIXELS, turn), expected, atol=2e-6)


def test_values_outside_the_unit_range_are_as_in_tensorflow():
    pixels = jnp.array([[1.2, 0.5, -0.1], [-0.1, -0.2, -0.3]])
    # HSV's saturation 1.3 / 1.2 is cut to 1, which lifts the least channel to 0; without a value there is only grey.
    np.testing.assert_allclose(
        adjusted(colour._adjust_saturation, pixels, 1.0), [[1.2, 1.2 - 0.7 / 1.3 * 1.2, 0.0], [-0.1] * 3], atol=1e-6
    )
    # A turn by a third moves each channel on by one, whatever the range.
    np.testing.assert_allclose(adjusted(colour._adjust_hue, pixels, 1 / 3), jnp.roll(pixels, 1, -1), atol=1e-6)


def test_contrast_and_brightness_by_hand():
    image = np.array([[[0.2, 0.4, 0.6], [0.6, 0.4, 0.0]]])  # the means are 0.4, 0.4 and 0.3
    expected = [[[0.3, 0.4, 0.45], [0.5, 0.4, 0.15]]]
    np.testing.assert_allclose(adjusted(colour._adjust_contrast, image, 0.5), expected, atol=1e-6)
    np.testing.assert_allclose(adjusted(colour._adjust_brightness, image, 0.1), image + 0.1, atol=1e-6)


RANDOM = np.random.default_rng(0).random((64, 2, 2, 3), np.float32)


def test_nothing_to_distort_is_the_identity(distort):
    np.testing.assert_allclose(distort(RANDOM), RANDOM, atol=2e-6)


def test_every_image_has_its_own_draws_within_the_limits(distort):
    half = np.full((64, 2, 2, 3), 0.5)
    shifts = distort(half, brightness=32 / 255) - half
    assert shifts.std(axis=(1, 2, 3)).max() < 1e-6 and len(np.unique(shifts[:, 0, 0, 0])) == 64
    assert -32 / 255 <= shifts.min() < -0.11 and 0.11 < shifts.max() <= 32 / 255
    # The green and blue of a pure red are 1 - saturation.
    red = np.broadcast_to([0.8, 0.4, 0.4], (64, 2, 2, 3))
    factors = (0.8 - distort(red, saturation=(0.5, 1.5))[:, 0, 0, 1]) / 0.4
    assert 0.5 <= factors.min() < 0.6 and 1.4 < factors.max() <= 1.5 + 1e-5
    # A turn of at most 0.2 stays short of green, and goes either way.
    hues = [colorsys.rgb_to_hsv(*p)[0] for p in distort(red, hue=0.2)[:, 0, 0]]
    turns = (np.array(hues) + 0.5) % 1.0 - 0.5
    assert -0.2 - 1e-5 <= turns.min() < -0.17 and 0.17 < turns.max() <= 0.2 + 1e-5


def test_everything_at_once_is_float32_within_the_unit_range(distort):
    images = distort(RANDOM, brightness=32 / 255, saturation=(0.5, 1.5), hue=0.2, contrast=(0.5, 1.5))
    assert images.dtype == np.float32 and images.min() == 0 and images.max() == 1


@pytest.mark.parametrize("images", [64, 6, 1])
def test_each_quarter_of_the_images_has_its_order(monkeypatch, images):
    # The name of each distortion becomes a digit, so that the result spells the order.
    digits = {"brightness": 1, "saturation": 2, "hue": 3, "contrast": 4}
    spell = {name: lambda planes, _, d=digit: tuple(x * 10 + d for x in planes) for name, digit in digits.items()}
    monkeypatch.setattr(colour, "_DISTORTIONS", spell)
    monkeypatch.setattr(colour.jnp, "clip", lambda x, *_: x)
    spelt = colour.distort_colour(jax.random.key(0), jnp.zeros((images, 1, 1, 3)))
    orders, counts = np.unique(np.asarray(spelt)[:, 0, 0, 0], return_counts=True)
    expected = {64: {1234: 16, 2143: 16, 4312: 16, 3241: 16}, 6: {1234: 1, 2143: 2, 4312: 1, 3241: 2}, 1: {3241: 1}}
    assert spelt.shape == (images, 1, 1, 3)
    assert dict(zip(orders.tolist(), counts.tolist(), strict=True)) == expected[images]


def test_network_range():
    images = np.array([0, 51, 255], np.uint8).reshape(1, 1, 1, 3)
    np.testing.assert_allclose(colour.to_network_range(images)[0, 0, 0], [-1.0, -0.6, 1.0], atol=1e-6)
    np.testing.assert_array_equal(colour.to_network_range(jnp.float32(images / 255.0)), colour.to_network_range(images))
    assert colour.to_network_range(jnp.zeros((2, 3, 4, 4, 3), jnp.bfloat16)).dtype == jnp.float32
