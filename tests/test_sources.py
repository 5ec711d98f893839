"""Sources: images and order of digits and idx files, and the error for each mistake."""

import gzip
import struct
import sys

import numpy as np
import pytest
from helpers import with_value
from source_helpers import expect

from inception_jax import config
from inception_jax.data import open_source
from inception_jax.data.sources import Record, Source, SplitOptions, describe_layout, sample, splits
from inception_jax.data.sources.source import Layout
from inception_jax.errors import UserError


def test_an_unknown_spec_lists_the_five():
    for spec in ("imagenet", "digits:3", "idx:", "folder:", "csv:", "tfds", ""):
        expect(f"{spec!r}.* digits, idx:PATH, folder:PATH, csv:FILE or tfds:NAME", spec)
    expect("'test'.*'train', 'validation' or 'evaluation'", "digits", "test")


def test_importing_data_imports_no_data_set_library():
    import subprocess

    code = "import sys, inception_jax.data; print({'sklearn', 'tensorflow_datasets', 'tensorflow'} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "set()\n"


def test_a_sample_is_always_the_same_images_of_every_class():
    whole = open_source("digits", "train")
    part = sample(whole, 300)
    names = [record.name for record in part]
    assert len(part) == len(set(names)) == 300 and part.class_names == whole.class_names
    assert names == [record.name for record in sample(whole, 300)] != [record.name for record in whole][:300]
    numbers = [int(name.split()[-1]) for name in names]
    assert numbers == sorted(numbers) and numbers[-1] > 1300  # drawn from all of it, in its order
    assert set(numbers) > {int(record.name.split()[-1]) for record in sample(whole, 100)}
    assert np.bincount([record.label for record in part]).min() >= 15
    with pytest.raises(IndexError):
        part[300]


def test_a_sample_is_located_without_being_read():
    def read(index):
        raise AssertionError("read")

    whole = Source(("a", "b"), 5, read, lambda index: (f"image {index}", index % 2))
    part = sample(whole, 2)
    assert part.locate(1)[0] in {f"image {i}" for i in range(1, 5)} and part.locate(1) != part.locate(0)
    assert sample(whole, 5).locate(3) == ("image 3", 1)
    assert sample(Source(("a",), 2, lambda i: Record(np.zeros((1, 1, 3), np.uint8), 0, "x")), 1).locate is None
    with pytest.raises(UserError, match=r"\b6 images.*\b5\b"):
        sample(whole, 6)


@pytest.mark.parametrize(
    ("fraction", "expected"),
    [
        (0.1, [1, 11, 21]),
        (0.5, [1, 3, 5, 7, 9, 11, 13, 15, 17, 19, 21, 23]),
        (0.25, [1, 5, 9, 13, 17, 21]),
        (0.3, [1, 4, 7, 11, 14, 17, 21]),
        (0.9, [1, 2, 3, 4, 5, 6, 7, 8, 9, 11, 12, 13, 14, 15, 16, 17, 18, 19, 21, 22, 23]),
        (0.01, [1]),
    ],
)
def test_the_images_held_out_are_spread_over_a_class(fraction, expected):
    assert np.flatnonzero(splits.held_out(np.arange(24), fraction)).tolist() == expected
    # To the last of a million, though 0.1 is no binary fraction.
    numbers = np.flatnonzero(splits.held_out(np.arange(1_000_000), fraction))
    assert abs(len(numbers) - 1_000_000 * fraction) <= 1 and not splits.held_out(np.arange(1), fraction).any()
    if fraction == 0.1:
        assert (numbers % 10 == 1).all()


def test_the_part_held_out_is_stratified_by_the_labels_in_any_order():
    labels = np.random.default_rng(0).permutation(np.repeat([0, 1, 2], [40, 20, 1]))
    train, validation = (splits.part(labels, 0.1, which) for which in ("train", "validation"))
    assert np.bincount(labels[validation]).tolist() == [4, 2]
    assert sorted([*train, *validation]) == list(range(61))
    assert validation[0] == min(np.flatnonzero(labels == label)[1] for label in (0, 1))


def test_the_field_of_the_fraction_has_a_range():
    for value in (0.0, 1.0, -1.0, float("nan")):
        with pytest.raises(UserError, match=rf"data.validation_fraction is {value}; .* above 0 and below 1"):
            config.check(with_value("data.validation_fraction", value))


def test_a_folder_or_url_without_its_kind_is_told_the_spec(idx, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "pets/cat").mkdir(parents=True)
    expect("'pets' is a folder; give folder:pets", "pets")
    expect(f"idx:{idx}", str(idx))
    (tmp_path / "sets").mkdir()
    (tmp_path / "sets/dataset_info.json").write_text("")
    expect("tfds:sets", "sets")
    for place in ("~nobody/x", "x" * 300, "a\0b"):
        expect("must be digits", place)
        expect("does not exist", f"folder:{place}")
    (tmp_path / "pets.zip").touch()
    expect("pets.zip is an archive; unpack it", f"folder:{tmp_path}/pets.zip")
    (tmp_path / "labels.txt").touch()
    expect("labels.txt is a file", f"folder:{tmp_path}/labels.txt")
    expect("folder:gs://pets or tfds:gs://pets", "gs://pets")
    expect(
        "data.train_split is 'train'.*folder:PATH and tfds:NAME", "digits", options=SplitOptions(train_split="train")
    )


def test_a_layout_is_described_on_one_line_of_printable_text():
    kinds = {".a\nb": 3, ".\udcff": 2, "été": 1}
    source = Source(("a\nb", "\udcff", "été"), 1, lambda index: None, layout=Layout("in x/", (), {"": kinds}))
    expected = "folder:x: 3 classes (a\\nb, \\udcff, été), in x/; passed over: 3 .a\\nb, 2 .\\udcff, 1 été"
    assert describe_layout("folder:x", source) == expected


# digits


def test_digits_are_split_four_to_one_in_every_class():
    from sklearn.datasets import load_digits

    train, validation = open_source("digits", "train"), open_source("digits", "validation")
    assert (len(train), len(validation)) == (1442, 355)
    assert train.num_classes == 10 and train.class_names == tuple("0123456789")
    counts = np.bincount([record.label for record in validation])
    # load_digits has 178, 182, 177, 183, 181, 182, 181, 179, 174 and 180 of each; a fifth, rounded down.
    assert counts.tolist() == [35, 36, 35, 36, 36, 36, 36, 35, 34, 36]
    # Together they are the whole set, each image once.
    ours = sorted((r.label, r.image.tobytes()) for source in (train, validation) for r in source)
    digits = load_digits()
    theirs = [np.round(i * 255 / 16).astype(np.uint8) for i in digits.images]
    assert ours == sorted((int(k), i.tobytes()) for k, i in zip(digits.target, theirs, strict=True))


def test_a_digit_is_uint8_and_named():
    record = open_source("digits", "train")[17]
    assert record.image.shape == (8, 8) and record.image.dtype == np.uint8 and record.image.max() == 255
    assert record.name == "digits train 17"
    with pytest.raises(IndexError):
        open_source("digits", "train")[1442]


# idx


def write_idx(path, array):
    data = bytes([0, 0, 8, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape) + array.tobytes()
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)


IMAGES = np.arange(3 * 4 * 5, dtype=np.uint8).reshape(3, 4, 5)
LABELS = np.array([2, 0, 1], np.uint8)


@pytest.fixture
def idx(tmp_path):
    write_idx(tmp_path / "train-images-idx3-ubyte", IMAGES)
    write_idx(tmp_path / "train-labels-idx1-ubyte", LABELS)
    write_idx(tmp_path / "t10k-images-idx3-ubyte.gz", IMAGES[:2] + 100)
    write_idx(tmp_path / "t10k-labels-idx1-ubyte.gz", LABELS[1:])
    return tmp_path


def test_idx_files_gzipped_or_not(idx):
    train, validation = open_source(f"idx:{idx}", "train"), open_source(f"idx:{idx}", "validation")
    np.testing.assert_array_equal([record.image for record in train], IMAGES)
    assert [record.label for record in train] == [2, 0, 1]
    np.testing.assert_array_equal([record.image for record in validation], IMAGES[:2] + 100)
    # The class names are those of training, though validation has no 2.
    assert train.class_names == validation.class_names == ("0", "1", "2")
    assert train[1].name == f"{idx / 'train-images-idx3-ubyte'} 1"


def test_idx_sets_with_a_prefix_as_emnist_has_them(tmp_path):
    for name, shift in (("letters", 0), ("mnist", 50)):
        write_idx(tmp_path / f"emnist-{name}-train-images-idx3-ubyte.gz", IMAGES + shift)
        write_idx(tmp_path / f"emnist-{name}-train-labels-idx1-ubyte.gz", LABELS)
        write_idx(tmp_path / f"emnist-{name}-test-images-idx3-ubyte.gz", IMAGES + shift)
        write_idx(tmp_path / f"emnist-{name}-test-labels-idx1-ubyte.gz", LABELS)
    assert open_source(f"idx:{tmp_path}/emnist-mnist", "train")[0].image[0, 0] == 50
    assert open_source(f"idx:{tmp_path}/emnist-letters", "validation")[0].image[0, 0] == 0
    for split in ("train", "validation"):
        expect(f"idx:{tmp_path}/emnist-letters", f"idx:{tmp_path}", split)


def test_idx_files_of_one_split(tmp_path):
    labels = np.array([0, 1] * 6, np.uint8)
    write_idx(tmp_path / "train-images-idx3-ubyte", np.arange(12, dtype=np.uint8).reshape(12, 1, 1))
    write_idx(tmp_path / "train-labels-idx1-ubyte", labels)
    sources = [open_source(f"idx:{tmp_path}", split) for split in ("train", "validation", "evaluation")]
    assert [[int(record.image[0, 0]) for record in source] for source in sources[1:]] == [[2, 3], list(range(12))]
    assert len(sources[0]) == 10 and "10 % of each class" in sources[0].layout.splits
    write_idx(tmp_path / "train-labels-idx1-ubyte", labels * 0)
    expect("two or more", f"idx:{tmp_path}")


def test_idx_mistakes(idx):
    expect("idx:/no/such .*train-images-idx3-ubyte", "idx:/no/such")
    write_idx(idx / "train-labels-idx1-ubyte", LABELS[:2])
    expect(r"\b3 images .*\b2 labels", f"idx:{idx}")
    write_idx(idx / "train-labels-idx1-ubyte", LABELS[1:2])
    expect(r"label 1\b.*\b0\b", f"idx:{idx}", "validation")
    (idx / "train-labels-idx1-ubyte").unlink()
    expect("train-labels-idx1-ubyte", f"idx:{idx}")
    images = idx / "train-images-idx3-ubyte"
    write_idx(idx / "train-labels-idx1-ubyte", LABELS)
    whole = images.read_bytes()
    images.write_bytes(whole[:-1])
    expect(f"{images} .*59 values.* 3 x 4 x 5", f"idx:{idx}")
    images.write_bytes(b"\x00\x00\x0d" + whole[3:])
    expect("00000d03.* 00000803", f"idx:{idx}")
    images.write_bytes(b"")
    expect(f"{images} starts", f"idx:{idx}")
    # 65,536 x 65,536 x 4,294,967,295 overflows 64 bits.
    images.write_bytes(whole[:4] + struct.pack(">3I", 1 << 16, 1 << 16, (1 << 32) - 1))
    expect(f"{images} .*0 values.* 65536 x 65536 x 4294967295", f"idx:{idx}")
    write_idx(images, IMAGES[:, :, :0])
    expect(f"{images} .* 4 x 0 pixels", f"idx:{idx}")
    images.write_bytes(bytes([0, 0, 8, 4]) + struct.pack(">4I", 3, 4, 5, 1) + IMAGES.tobytes())
    expect("00000804.* 00000803", f"idx:{idx}")
    images.unlink()
    images.mkdir()
    expect(f"{images} ", f"idx:{idx}")
    (idx / "t10k-images-idx3-ubyte.gz").write_bytes(gzip.compress(whole)[:-12])
    expect("t10k-images-idx3-ubyte.gz ", f"idx:{idx}", "validation")
