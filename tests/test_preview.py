"""`data show`: its tiles are the images of the batches, pixel for pixel."""

import contextlib

import jax
import numpy as np
import PIL.Image
import pytest

from inception_jax.cli.data import Show
from inception_jax.config import DataConfig
from inception_jax.data import colour, evaluation_batches, open_source, preview, training_batches
from inception_jax.data.prefetch import Loading, Shard
from inception_jax.data.sources import Record, Source
from inception_jax.errors import UserError

SIZE, GAP = 75, 4
TITLE = preview.title_height(SIZE)
ALONE = {"shard": Shard(), "loading": Loading(threads=1, prefetch=1)}


def tiles(path, rows, columns):
    """The crops in a picture: uint8 [rows * columns, SIZE, SIZE, 3]."""
    picture = np.asarray(PIL.Image.open(path))
    assert picture.shape == (GAP + rows * (SIZE + TITLE + GAP), GAP + columns * (SIZE + GAP), 3)
    tops = [GAP + TITLE + row * (SIZE + TITLE + GAP) for row in range(rows)]
    lefts = [GAP + column * (SIZE + GAP) for column in range(columns)]
    return np.stack([picture[top : top + SIZE, left : left + SIZE] for top in tops for left in lefts])


def first_batch(count, seed):
    source = open_source("digits", "train")
    batches = training_batches(source, DataConfig(image_size=SIZE), batch_size=count, seed=seed, **ALONE)
    with contextlib.closing(batches):
        return next(batches)


def test_the_tiles_are_the_first_batch_of_a_training(tmp_path, capsys):
    out = tmp_path / "new" / "crops.png"
    asked = {"image_size": SIZE, "rows": 2, "columns": 3, "seed": 7}
    assert Show("digits", str(out), **asked, colour=False)([]) == 0
    assert capsys.readouterr().out == f"{out}\n" and list(out.parent.iterdir()) == [out]
    np.testing.assert_array_equal(tiles(out, 2, 3), first_batch(6, 7)["images"][0])


def test_the_colours_are_those_of_training():
    images = np.random.default_rng(0).integers(0, 256, (4, SIZE, SIZE, 3), np.uint8)
    source = Source(("a", "b"), 4, lambda number: Record(images[number], number % 2, f"{number}"))
    whole = {"crop_area": (1.0, 1.0), "crop_aspect": (1.0, 1.0), "flip": False}
    plain, labels = preview.training_crops(DataConfig(image_size=SIZE, colour=False, **whole), source, 4, 5)
    order = [next(k for k, image in enumerate(images) if (image == crop).all()) for crop in plain]
    assert sorted(order) == [0, 1, 2, 3] and labels.tolist() == [k % 2 for k in order]
    distorted, _ = preview.training_crops(DataConfig(image_size=SIZE, **whole), source, 4, 5)
    ours = np.asarray(jax.jit(colour.distort_colour)(jax.random.key(5), images[order]))
    # One part in 255 is left to rounding, half of it either way.
    np.testing.assert_allclose(distorted / 255, ours, atol=0.51 / 255)
    assert np.abs(distorted.astype(int) - plain).mean() > 5


def test_validation_shows_the_central_crops_of_images_of_many_classes(tmp_path):
    out = tmp_path / "validation.png"
    Show("digits", str(out), split="validation", image_size=SIZE, rows=3, columns=4)([])
    source = open_source("digits", "validation")
    everything = evaluation_batches(source, DataConfig(image_size=SIZE), batch_size=355, **ALONE)
    batch = next(everything)
    places = [np.flatnonzero((batch["images"][0] == tile).all((1, 2, 3))).tolist() for tile in tiles(out, 3, 4)]
    assert all(places)
    assert sorted(places) == places and len({batch["labels"][0][place[0]] for place in places}) > 3


def test_a_grid_with_more_places_than_images(tmp_path):
    image = PIL.Image.new("RGB", (80, 80), "red")
    for name in ("a", "b"):
        (tmp_path / "set" / "val" / name).mkdir(parents=True)
        image.save(tmp_path / "set" / "val" / name / "1.png")
    out = tmp_path / "few.png"
    Show(f"folder:{tmp_path / 'set'}", str(out), split="validation", image_size=SIZE, rows=2, columns=3)([])
    shown = np.asarray(PIL.Image.open(out))
    assert shown.shape[0] == GAP + SIZE + TITLE + GAP
    assert (shown[GAP + TITLE : -GAP, GAP : GAP + SIZE] == (255, 0, 0)).all()
    assert (shown[:, -SIZE:] == 255).all()


def test_titles_name_the_classes_and_are_cut_at_the_crop():
    images = np.zeros((3, SIZE, SIZE, 3), np.uint8)

    def ink(title):
        bars = np.asarray(preview.draw_grid(images, ["", title, ""], 3))[GAP : GAP + TITLE]
        left = 2 * GAP + SIZE
        assert (bars[:, : left - 1] == 255).all() and (bars[:, left + SIZE + 1 :] == 255).all()
        return bars[:, left : left + SIZE]

    assert (ink("") == 255).all() and (ink("cat") < 100).any()
    assert (ink("cat") != ink("dog")).any()
    np.testing.assert_array_equal(ink("a long name of a class"), ink("a long name of another class"))
    # A folder's name can be anything.
    np.testing.assert_array_equal(ink("two\nlines"), ink("two lines"))
    assert (ink("caf\udce9 $x$ Ωж") < 100).any()


def test_mistakes(tmp_path):
    def expect(pattern, out="x.png", **options):
        with pytest.raises(UserError, match=pattern):
            Show("digits", str(tmp_path / out), **options)([])
        assert not (tmp_path / out).exists()

    expect("x.jpg.*.png", out="x.jpg")
    expect("data.image_size.* 20.* 75", image_size=20)
    expect("data.crop_area", crop_area=(0.5, 2.0))
    expect("0 rows and 6 columns", rows=0)
    expect("200 columns.*8,192", columns=200)
    (tmp_path / "file").touch()
    expect("file .*directory", out="file/x.png")
