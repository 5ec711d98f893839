"""Sources: what each kind finds, in which order, and the sentence for each mistake."""

import gzip
import io
import pickle
import struct
import sys

import numpy as np
import PIL.Image
import pytest

from inception_jax.data import open_source
from inception_jax.errors import UserError


def jpeg(value=128, size=(12, 10)):
    buffer = io.BytesIO()
    PIL.Image.new("RGB", size, (value, value, value)).save(buffer, "JPEG")
    return buffer.getvalue()


def expect(message, spec, split="train", **options):
    with pytest.raises(UserError) as caught:
        open_source(spec, split, **options)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_an_unknown_spec_lists_the_four():
    for spec in ("imagenet", "digits:3", "idx:", "folder:", "tfds", ""):
        expect("must be digits, idx:PATH, folder:PATH or tfds:NAME.", spec)
    expect("'test' must be 'train' or 'validation'", "digits", "test")


def test_importing_data_imports_no_data_set_library():
    import subprocess

    code = "import sys, inception_jax.data; print({'sklearn', 'tensorflow_datasets', 'tensorflow'} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "set()\n"


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
        expect(f"name one by its prefix, as in idx:{tmp_path}/emnist-letters.", f"idx:{tmp_path}", split)


def test_idx_mistakes(idx):
    expect("idx:/no/such has no file train-images-idx3-ubyte", "idx:/no/such")
    write_idx(idx / "train-labels-idx1-ubyte", LABELS[:2])
    expect("holds 3 images and", f"idx:{idx}")
    write_idx(idx / "train-labels-idx1-ubyte", LABELS[1:2])
    expect("has the label 1; the training labels end at 0", f"idx:{idx}", "validation")
    (idx / "train-labels-idx1-ubyte").unlink()
    expect("has no file train-labels-idx1-ubyte, with or without .gz.", f"idx:{idx}")
    images = idx / "train-images-idx3-ubyte"
    write_idx(idx / "train-labels-idx1-ubyte", LABELS)
    whole = images.read_bytes()
    images.write_bytes(whole[:-1])
    expect(f"{images} holds 59 values; its header says 3 x 4 x 5.", f"idx:{idx}")
    images.write_bytes(b"\x00\x00\x0d" + whole[3:])
    expect("starts with 00000d03; an idx file must start with 00000803.", f"idx:{idx}")
    images.write_bytes(b"")
    expect(f"{images} starts with", f"idx:{idx}")
    (idx / "t10k-images-idx3-ubyte.gz").write_bytes(gzip.compress(whole)[:-12])
    expect("t10k-images-idx3-ubyte.gz cannot be read", f"idx:{idx}", "validation")


# folder


def fill(folder, *names):
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(jpeg())


def listing(source, root):
    return [(record.name.removeprefix(f"{root}/"), record.label) for record in source]


@pytest.mark.parametrize("validation", ["validation", "val", "test"])
def test_a_folder_with_splits(tmp_path, validation):
    fill(tmp_path / "train", "dog/b.JPG", "dog/deep/er/a.jpeg", "cat/2.png", "cat/10.jpg", "cat/.hidden.jpg")
    fill(tmp_path / "train", ".git/x.jpg", "cat/.thumbs/y.jpg", "cat/notes.txt")
    fill(tmp_path / validation, "dog/c.jpg")
    train = open_source(f"folder:{tmp_path}", "train")
    assert train.class_names == ("cat", "dog")
    assert listing(train, tmp_path / "train") == [
        ("cat/10.jpg", 0),
        ("cat/2.png", 0),
        ("dog/b.JPG", 1),
        ("dog/deep/er/a.jpeg", 1),
    ]
    assert train[0].image == jpeg()
    # 'dog' keeps the label of training although validation has no cats.
    assert listing(open_source(f"folder:{tmp_path}", "validation"), tmp_path / validation) == [("dog/c.jpg", 1)]


def test_a_folder_of_classes_gives_a_tenth_of_each_to_validation(tmp_path):
    fill(tmp_path, *(f"cat/{i:02}.jpg" for i in range(25)), *(f"dog/{i}.jpg" for i in range(2)), "eel/0.jpg")
    train, validation = (open_source(f"folder:{tmp_path}", split) for split in ("train", "validation"))
    assert listing(validation, tmp_path) == [("cat/01.jpg", 0), ("cat/11.jpg", 0), ("cat/21.jpg", 0), ("dog/1.jpg", 1)]
    assert len(train) == 24 and not set(listing(train, tmp_path)) & set(listing(validation, tmp_path))
    assert train.class_names == validation.class_names == ("cat", "dog", "eel")


def test_a_folder_with_only_validation_images_can_be_evaluated(tmp_path):
    fill(tmp_path / "val", "cat/1.jpg", "dog/2.jpg")
    assert listing(open_source(f"folder:{tmp_path}", "validation"), tmp_path / "val")[1] == ("dog/2.jpg", 1)
    expect("has a folder val but no folder train.", f"folder:{tmp_path}")


def test_folder_mistakes(tmp_path):
    expect(f"folder:{tmp_path}/none is not a folder.", f"folder:{tmp_path}/none")
    expect(f"{tmp_path} has no folders; it must have one per class.", f"folder:{tmp_path}")
    (tmp_path / "train/cat").mkdir(parents=True)
    expect("train/cat holds no .jpg, .jpeg, .png file", f"folder:{tmp_path}")
    fill(tmp_path / "train", "cat/1.jpg")
    expect("has a folder train but no folder validation, val or test.", f"folder:{tmp_path}", "validation")
    fill(tmp_path / "val", "cow/1.jpg")
    expect("has the class 'cow', which", f"folder:{tmp_path}", "validation")
    fill(tmp_path / "small", "cat/1.jpg")
    expect("is too small to split", f"folder:{tmp_path}/small", "validation")
    source = open_source(f"folder:{tmp_path}", "train")
    (tmp_path / "train/cat/1.jpg").unlink()
    with pytest.raises(UserError, match="train/cat/1.jpg cannot be read: No such file"):
        source[0]


# tfds


def write_tfds(root, name, *, splits, file_format="array_record", label=None, image=jpeg):
    """A prepared set as tensorflow-datasets writes it, by its parts that need neither TensorFlow nor anything more."""
    import tensorflow_datasets as tfds
    from array_record.python.array_record_module import ArrayRecordWriter

    folder = root / name / "1.0.0"
    folder.mkdir(parents=True)
    label = label or tfds.features.ClassLabel(names=["cat", "dog"])
    features = tfds.features.FeaturesDict({"image": tfds.features.Image(), "label": label})
    infos = []
    for split, count in splits.items():
        files = tfds.core.ShardedFileTemplate(
            data_dir=folder, dataset_name=name, split=split, filetype_suffix=file_format
        )
        writer = ArrayRecordWriter(str(files.sharded_filepath(shard_index=0, num_shards=1)), "group_size:1")
        for i in range(count):
            example = features.encode_example({"image": io.BytesIO(image(i)), "label": i % 2})
            writer.write(features.serialize_example(example))
        writer.close()
        infos.append(tfds.core.SplitInfo(name=split, shard_lengths=[count], num_bytes=0, filename_template=files))
    identity = tfds.core.dataset_info.DatasetIdentity(
        name=name, version=tfds.core.Version("1.0.0"), data_dir=str(folder), module_name="test"
    )
    info = tfds.core.DatasetInfo(builder=identity, features=features)
    info.set_file_format(file_format)
    info.set_splits(tfds.core.splits.SplitDict(infos))
    info.write_to_directory(folder)
    return folder


def test_a_tfds_set_without_tensorflow(tmp_path):
    folder = write_tfds(tmp_path, "pets", splits={"train": 5, "test": 3})
    train = open_source("tfds:pets", "train", data_dir=str(tmp_path))
    assert train.class_names == ("cat", "dog")
    assert [(r.image, r.label) for r in train] == [(jpeg(i), i % 2) for i in range(5)]
    assert train[4].name == "pets train 4"
    # Validation is 'test' where nothing is called 'validation'; a path works as well as a name.
    assert open_source(f"tfds:{folder}", "validation")[2].image == jpeg(2)
    assert open_source("tfds:pets/1.0.0", "validation", data_dir=str(tmp_path))[2].image == jpeg(2)
    assert pickle.loads(pickle.dumps(train))[1] == train[1]
    assert "tensorflow" not in sys.modules


def test_a_tfds_set_with_a_validation_split_and_pngs(tmp_path):
    def png(i):
        buffer = io.BytesIO()
        PIL.Image.new("RGBA", (4, 4), (i, 0, 0, 9)).save(buffer, "PNG")
        return buffer.getvalue()

    write_tfds(tmp_path, "icons", splits={"train": 1, "validation": 2, "test": 3}, image=png)
    validation = open_source("tfds:icons", "validation", data_dir=str(tmp_path))
    assert [record.image for record in validation] == [png(0), png(1)]


def test_tfds_mistakes(tmp_path):
    import tensorflow_datasets as tfds

    place = {"data_dir": str(tmp_path)}
    expect(f"tfds:nosuch cannot be opened, with data_dir {tmp_path}: Dataset nosuch not found.", "tfds:nosuch", **place)
    expect("tfds:no such cannot be opened", "tfds:no such", **place)
    expect("tfds:mnist:9.9.9 cannot be opened", "tfds:mnist:9.9.9", **place)
    expect(f"tfds:mnist is not prepared in {tmp_path}/mnist/3.0.1; run tensorflow_dataset", "tfds:mnist", **place)
    write_tfds(tmp_path, "old", splits={"train": 1}, file_format="tfrecord")
    expect("is prepared as tfrecord, which cannot be read at random; run", "tfds:old", **place)
    write_tfds(tmp_path, "ages", splits={"train": 1}, label=tfds.features.Scalar(np.int64))
    expect("tfds:ages has the features image, label; it must have an image and a class label.", "tfds:ages", **place)
    write_tfds(tmp_path, "half", splits={"train": 1})
    expect("tfds:half has the splits train; it must have", "tfds:half", "validation", **place)


def test_a_tfds_set_whose_file_is_gone(tmp_path):
    folder = write_tfds(tmp_path, "pets", splits={"train": 2})
    source = open_source("tfds:pets", "train", data_dir=str(tmp_path))
    next(folder.glob("*train*")).unlink()
    with pytest.raises(UserError, match="image 1 of tfds:pets train cannot be read: .*No such file"):
        source[1]
