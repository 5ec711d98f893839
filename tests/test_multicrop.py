"""Crops of the paper's evaluation: boxes by hand, pixels by another derivation, batches, and the exclude list."""

import contextlib
import dataclasses
from collections import Counter

import numpy as np
import PIL.Image
import pytest
from helpers import write_tfds
from source_helpers import jpeg

from inception_jax.data import Protocol, excluded, multicrop_batches, open_source
from inception_jax.data import preprocess as pixels_of
from inception_jax.data.multicrop import boxes, cut, scaled_shapes
from inception_jax.data.multicrop_batches import batch_count
from inception_jax.data.prefetch import Loading, Shard
from inception_jax.data.preprocess import Preprocessing
from inception_jax.data.sources import Record, Source
from inception_jax.errors import BrokenImage, UserError

RNG = np.random.default_rng


def noise(height, width, seed=0):
    return RNG(seed).integers(0, 256, (height, width, 3), np.uint8)


# Where the crops lie.


def geometry(height, width, crops, size, scales=()):
    """The shapes at each scale, and the views as (scale, top, left, side)."""
    protocol = Protocol(crops, scales)
    shapes = scaled_shapes(height, width, protocol, size)
    return shapes, [tuple(box) for box in boxes(shapes, protocol, size)]


def square_by_hand(scale, top, left, side, room, centre, size):
    """A square's six views; `room` and `centre` are where its last corner and its centre crop begin."""
    corners = [(top, left), (top, left + room), (top + room, left), (top + room, left + room)]
    return [
        *((scale, y, x, size) for y, x in [*corners, (top + centre, left + centre)]),
        (scale, top, left, side),
    ]


def test_a_landscape_at_299():
    shapes, views = geometry(375, 500, 144, 299)
    assert shapes == [(342, 456), (384, 512), (427, 569), (470, 627)]
    assert views == [
        *square_by_hand(0, 0, 0, 342, 43, 21, 299),
        *square_by_hand(0, 0, 57, 342, 43, 21, 299),
        *square_by_hand(0, 0, 114, 342, 43, 21, 299),
        *square_by_hand(1, 0, 0, 384, 85, 42, 299),
        *square_by_hand(1, 0, 64, 384, 85, 42, 299),
        *square_by_hand(1, 0, 128, 384, 85, 42, 299),
        *square_by_hand(2, 0, 0, 427, 128, 64, 299),
        *square_by_hand(2, 0, 71, 427, 128, 64, 299),
        *square_by_hand(2, 0, 142, 427, 128, 64, 299),
        *square_by_hand(3, 0, 0, 470, 171, 85, 299),
        *square_by_hand(3, 0, 78, 470, 171, 85, 299),
        *square_by_hand(3, 0, 157, 470, 171, 85, 299),
    ]
    centre = views[6:12]
    assert geometry(375, 500, 12, 299) == (shapes[:1], centre)
    assert geometry(375, 500, 10, 299) == (shapes[:1], centre[:5])


def test_a_portrait_at_75():
    shapes, views = geometry(500, 375, 144, 75)
    assert shapes == [(115, 86), (128, 96), (143, 107), (157, 118)]
    assert views[:18] == [
        *square_by_hand(0, 0, 0, 86, 11, 5, 75),
        *square_by_hand(0, 14, 0, 86, 11, 5, 75),
        *square_by_hand(0, 29, 0, 86, 11, 5, 75),
    ]
    assert geometry(500, 375, 12, 75) == (shapes[:1], views[6:12])


def test_a_square_image_has_the_same_square_three_times():
    shapes, views = geometry(640, 640, 144, 299)
    assert shapes == [(342, 342), (384, 384), (427, 427), (470, 470)]
    assert views[:18] == 3 * square_by_hand(0, 0, 0, 342, 43, 21, 299) and len(views) == 72


def test_a_tiny_image_is_enlarged():
    assert geometry(1, 1, 12, 299) == ([(342, 342)], square_by_hand(0, 0, 0, 342, 43, 21, 299))
    assert geometry(2, 3, 12, 75) == ([(86, 129)], square_by_hand(0, 0, 21, 86, 11, 5, 75))


def test_other_scales():
    shapes, views = geometry(100, 100, 12, 224, (224, 448))
    # At 224 every crop is the whole image.
    assert shapes == [(224, 224), (448, 448)]
    assert views == [*6 * [(0, 0, 0, 224)], *square_by_hand(1, 0, 0, 448, 224, 112, 224)]


@pytest.mark.parametrize(
    "crops, scales, views, total",
    [(1, (), 1, 1), (10, (), 5, 10), (12, (), 6, 12), (144, (), 72, 144), (12, (256, 300), 12, 24)]
    + [(10, (256, 300, 320), 15, 30), (144, (256, 300), 36, 72), (144, (512,), 18, 36)],
)
def test_number_of_crops(crops, scales, views, total):
    protocol = Protocol(crops, scales)
    assert (protocol.views, protocol.total, protocol.mirrored) == (views, total, crops > 1)
    shown = cut(noise(9, 12), protocol, size=8, central_fraction=0.875, resize="bilinear")
    assert shown.shape == (views, 8, 8, 3) and shown.dtype == np.uint8


@pytest.mark.parametrize(
    "crops, scales, message",
    [
        (11, (), "crops.* 11.* 1, 10, 12 or 144"),
        (1, (256,), "scales.* 10, 12 or 144"),
        (12, (256, 223), "scale 223.* 224 to 2240"),
        (144, (2241,), "scale 2241.* 224 to 2240"),
        (144, (256, 300, 256), "scales 256, 300, 256"),
    ],
)
def test_mistakes(crops, scales, message):
    with pytest.raises(UserError, match=message):
        Protocol(crops, scales)


# What they show.


def bilinear(image, height, width):
    """By the definition, in float64: no outside, the centres of pixels are at halves."""

    def along(length, count):
        place = np.clip((np.arange(count) + 0.5) * length / count - 0.5, 0, length - 1)
        below = place.astype(int)
        return below, np.minimum(below + 1, length - 1), place - below

    y0, y1, dy = along(image.shape[0], height)
    x0, x1, dx = along(image.shape[1], width)
    rows = image[y0] * (1.0 - dy)[:, None, None] + image[y1] * dy[:, None, None]
    return rows[:, x0] * (1.0 - dx)[:, None] + rows[:, x1] * dx[:, None]


def pillow(image, height, width):
    return np.asarray(PIL.Image.fromarray(image).resize((width, height), PIL.Image.Resampling.BICUBIC))


def derived(image, size, scales, squares, resized):
    """The views as the text has them; `squares` are 0 for the left or top one, 1/2 for the middle, 1 for the last."""
    views = []
    for scale in scales:
        short = int(scale * size / 224 + 0.5)
        shape = [int(length * short / min(image.shape[:2]) + 0.5) for length in image.shape[:2]]
        big = resized(image, *shape)
        for place in squares:
            top, left = (int((length - short) * place) for length in shape)
            square = big[top : top + short, left : left + short]
            for y, x in ((0, 0), (0, 1), (1, 0), (1, 1), (0.5, 0.5)):
                down, right = int(y * (short - size)), int(x * (short - size))
                views.append(square[down : down + size, right : right + size])
            views.append(resized(square, size, size))
    return np.stack(views)


@pytest.mark.parametrize("resize, resized, tolerance", [("bilinear", bilinear, 2), ("antialiased_bicubic", pillow, 0)])
@pytest.mark.parametrize(
    "shape, size", [((60, 97), 75), ((97, 60), 75), ((400, 301), 32), ((5, 7), 75), ((300, 300), 75)]
)
def test_every_view_agrees_with_another_derivation(shape, size, resize, resized, tolerance):
    image = noise(*shape)
    expected = derived(image, size, (256, 288, 320, 352), (0, 0.5, 1), resized)
    options = {"size": size, "central_fraction": 0.875, "resize": resize}
    views = cut(image, Protocol(144), **options)
    assert np.abs(views - expected).max() <= tolerance
    np.testing.assert_array_equal(cut(image, Protocol(12), **options), views[6:12])
    np.testing.assert_array_equal(cut(image, Protocol(10), **options), views[6:11])


def test_a_single_crop_is_the_central_one():
    image, options = noise(50, 40), {"size": 30, "resize": "bicubic"}
    (view,) = cut(image, Protocol(), central_fraction=0.6, **options)
    np.testing.assert_array_equal(view, pixels_of.central_crop(image, fraction=0.6, **options))


@pytest.mark.parametrize("crops", [1, 10, 12, 144])
def test_views_are_written_to_out(crops):
    protocol, options = Protocol(crops), {"size": 16, "central_fraction": 0.875, "resize": "bilinear"}
    out = np.zeros((protocol.views, 16, 16, 3), np.uint8)
    assert cut(noise(30, 20), protocol, out=out, **options) is out
    np.testing.assert_array_equal(out, cut(noise(30, 20), protocol, **options))


@pytest.mark.parametrize("turned", [False, True])
def test_a_line_of_pixels_is_not_resized_in_full(turned, monkeypatch):
    # Brighter from left to right, so that a view's brightness says where it is.
    line = np.repeat((np.arange(3000) * 255 / 3000).astype(np.uint8)[None, :, None], 3, axis=2)
    sides = []

    def spied(image, shape, *rest):
        sides.append(max(shape))
        return resized(image, shape, *rest)

    resized = pixels_of.resized
    monkeypatch.setattr(pixels_of, "resized", spied)
    views = cut(line.swapaxes(0, 1) if turned else line, Protocol(144), size=8, central_fraction=1, resize="bilinear")
    brightness = views.reshape(4, 3, 6, -1).mean(axis=(0, 2, 3))
    assert np.abs(brightness - (0, 127, 254)).max() < 1
    assert max(sides) == 24 * 13


# Batches.

COUNT = 13
BROKEN = 4


def read(index):
    return Record(noise(9 + index % 3, 8 + index % 4, index), index % 5, f"number {index}")


SOURCE = Source(tuple("01234"), COUNT, read)
# Image 4 of the source is the seventh.
INDICES = np.array([12, 0, 11, 2, 7, 5, 4, 10, 1, 9, 3])


def one_broken(index):
    return read(index)._replace(image=b"") if index == BROKEN else read(index)


SOME_BROKEN = dataclasses.replace(SOURCE, read=one_broken)


def stream(source=SOURCE, *, crops=12, indices=INDICES, rows=8, process_index=0, process_count=1, devices=2, **options):
    return multicrop_batches(
        source,
        Preprocessing(image_size=8),
        protocol=Protocol(crops),
        indices=indices,
        rows=rows,
        shard=Shard(process_index, process_count, devices),
        loading=Loading(**{"threads": 2, "prefetch": 2, **options}),
    )


def rows(batches):
    """The rows of batches one after another, by what they hold."""
    batches = list(batches)
    return {key: np.concatenate([b[key].reshape(-1, *b[key].shape[2:]) for b in batches]) for key in batches[0]}


def expected_views(position, crops):
    image = read(INDICES[position]).image
    return cut(image, Protocol(crops), size=8, central_fraction=0.875, resize="bilinear")


def test_the_shape_of_a_batch():
    batch = next(stream(process_count=2, rows=20, devices=2))
    assert batch["images"].shape == (2, 5, 8, 8, 3) and batch["images"].dtype == np.uint8
    for key in ("positions", "labels", "skipped"):
        assert batch[key].shape == (2, 5) and batch[key].dtype == np.int32
    assert len(batch) == 4


@pytest.mark.parametrize("crops, row_count", [(1, 4), (10, 8), (12, 4), (12, 32), (144, 32), (144, 1024)])
@pytest.mark.parametrize("processes", [1, 2, 4])
def test_every_view_of_every_image_once(crops, row_count, processes):
    views = Protocol(crops).views
    for process in range(processes):
        options = {"rows": row_count, "devices": 4 // processes}
        batches = list(stream(crops=crops, process_index=process, process_count=processes, **options))
        assert len(batches) == batch_count(
            len(INDICES), protocol=Protocol(crops), rows=row_count, process_count=processes
        )
        # Every process makes as many as the first, which has the most images.
        assert len(batches) == -(-(len(range(0, 11, processes)) * views) // (row_count // processes))
        mine, got = range(process, 11, processes), rows(batches)
        real = len(mine) * views
        np.testing.assert_array_equal(got["positions"][:real], np.repeat(mine, views))
        np.testing.assert_array_equal(got["labels"][:real], np.repeat(INDICES[mine] % 5, views))
        np.testing.assert_array_equal(got["images"][:real], np.concatenate([expected_views(p, crops) for p in mine]))
        assert (got["positions"][real:] == -1).all() and not got["skipped"].any()
        assert not got["images"][real:].any() and not got["labels"][real:].any()


def test_threads_and_prefetch_change_nothing():
    one = rows(stream(threads=1, prefetch=1))
    for other in (rows(stream(threads=4, prefetch=1)), rows(stream(threads=2, prefetch=9))):
        for key in one:
            np.testing.assert_array_equal(one[key], other[key])


def test_nothing_is_evaluated_where_all_images_are_excluded():
    assert list(stream(indices=np.array([], int))) == []


def counting():
    """A source, and how often each of its images was read."""
    reads = Counter()

    def count(index):
        reads[index] += 1
        return read(index)

    return dataclasses.replace(SOURCE, read=count), reads


@pytest.mark.parametrize("crops, row_count", [(1, 32), (12, 4), (144, 32)])
def test_an_image_is_decoded_once(crops, row_count):
    source, reads = counting()
    rows(stream(source, crops=crops, rows=row_count))
    assert reads == Counter(INDICES.tolist())


@pytest.mark.parametrize("crops, images_of_a_batch, ahead", [(144, 1, 3), (12, 1, 3), (1, 4, 4)])
def test_number_of_prefetched_images(crops, images_of_a_batch, ahead):
    source, reads = counting()
    with contextlib.closing(stream(source, crops=crops, rows=4, threads=2, prefetch=1)) as batches:
        next(batches)
        assert images_of_a_batch <= reads.total() <= images_of_a_batch + ahead < len(INDICES)


@pytest.mark.parametrize("crops", [1, 12])
def test_a_broken_image_is_left_out_and_reported_once(crops):
    said, views = [], Protocol(crops).views
    got, whole = rows(stream(SOME_BROKEN, crops=crops, on_error="skip", report=said.append)), rows(stream(crops=crops))
    place = slice(6 * views, 7 * views)
    assert (got["positions"][place] == -1).all() and not got["images"][place].any() and not got["labels"][place].any()
    assert np.flatnonzero(got["skipped"]).tolist() == [6 * views] and got["skipped"].sum() == 1
    for key in ("positions", "images", "labels"):
        np.testing.assert_array_equal(np.delete(got[key], place, 0), np.delete(whole[key], place, 0))
    assert len(said) == 1 and "number 4 " in said[0]


# The exclude list.


def named(*numbers):
    """A source that has ILSVRC's images of these numbers, and how often one of them was read."""
    reads = Counter()

    def count(index):
        reads[index] += 1
        name = f"imagenet2012 validation ILSVRC2012_val_{numbers[index]:08d}.JPEG"
        return Record(np.zeros((1, 1), np.uint8), 0, name)

    return Source(("0",), len(numbers), count), reads


@pytest.fixture
def listed(tmp_path):
    """Writes a list and gives its path."""

    def write(text):
        (tmp_path / "list.txt").write_text(text)
        return tmp_path / "list.txt"

    return write


def test_a_folder_sorted_by_class(tmp_path, listed):
    for number, name in ((1, "snake"), (2, "alp"), (36, "dog"), (4, "alp"), (5, "snake")):
        path = tmp_path / "images" / "val" / name / f"ILSVRC2012_val_{number:08d}.JPEG"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"not even read")
    # In the order alp 2, 4; dog 36; snake 1, 5.
    source = open_source(f"folder:{tmp_path / 'images'}", "validation")
    left_out = excluded(listed("36\n1\n\n 2\r\n"), source)
    assert left_out.tolist() == [0, 2, 3] and left_out.dtype == np.int64


def test_a_set_whose_order_is_another(tmp_path, listed):
    import tensorflow_datasets as tfds

    numbers = (7, 3, 12, 1)
    features = {"image": tfds.features.Image(), "label": tfds.features.ClassLabel(names=["cat", "dog"])}
    folder = write_tfds(
        tmp_path,
        "imagenet2012",
        splits={"validation": 4},
        features={**features, "file_name": tfds.features.Text()},
        # None of the images can be decoded, and none need be.
        example=lambda i: {"image": jpeg(i), "label": 0, "file_name": f"ILSVRC2012_val_{numbers[i]:08d}.JPEG"},
        damage=lambda i, record: record.replace(b"\xff\xd8\xff", b"???"),
    )
    said = []
    path = listed("1\n7\n")
    assert excluded(path, open_source(f"tfds:{folder}", "validation"), said.append).tolist() == [0, 3]
    assert said == [f"reading the names of 4 images for {path}"]


def test_of_a_set_in_the_order_of_its_numbers_few_names_are_read(listed):
    source, reads = named(*range(1, 101))
    assert excluded(listed("36\n99\n1\n"), source).tolist() == [0, 35, 98]
    assert reads == {0: 1, 35: 1, 98: 1}


def test_an_image_that_is_there_twice_is_left_out_twice(listed):
    assert excluded(listed("5\n"), named(1, 5, 9, 5)[0]).tolist() == [1, 3]


def test_an_empty_list_leaves_nothing_out(listed):
    assert excluded(listed("\n"), named(1, 2)[0]).tolist() == []


def test_a_broken_image_has_no_number(listed):
    def fails(index):
        if index == 1:
            raise BrokenImage("the record is broken.")
        return named(3, 0, 1)[0][index]

    assert excluded(listed("1\n"), Source(("0",), 3, fails)).tolist() == [2]


@pytest.mark.parametrize(
    "text, message",
    [
        ("36\n\nx7\n", "line 3: 'x7'"),
        ("-1\n", "line 1: '-1'"),
        ("1 2\n", "line 1: '1 2'"),
        ("123456789\n", "line 1: '123456789'"),
        ("2\n0\n", "line 2: .*ILSVRC2012_val_00000000"),
        ("2\n3\n50001\n50001\n", "line 3: .*ILSVRC2012_val_00050001"),
        ("\u0661\n", "plain text"),
    ],
)
def test_mistakes_in_a_list_name_the_line(text, message, listed):
    with pytest.raises(UserError, match=f"list.txt.*{message}"):
        excluded(listed(text), named(3, 2, 1)[0])


def test_a_list_that_is_not_there(tmp_path):
    for path, why in ((tmp_path / "none", "No such file"), (tmp_path, "Is a directory")):
        with pytest.raises(UserError, match=f"{path} .*{why}"):
            excluded(path, named(1)[0])


def test_images_that_ilsvrc_did_not_name(listed):
    with pytest.raises(UserError, match="ILSVRC2012_val_NNNNNNNN.*number"):
        excluded(listed("1\n"), SOURCE)
