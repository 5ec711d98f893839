"""Data sets prepared by tensorflow-datasets, on a disk and in a bucket, and the error for each mistake."""

import io
import json
import os
import pickle
import resource
import shutil
import sys
import types
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
from helpers import write_tfds
from source_helpers import bucket_in_memory, expect, jpeg

from inception_jax.data import open_source
from inception_jax.data.sources import SplitOptions
from inception_jax.errors import BrokenImage, UserError


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

    splits = {"train": 1, "validation": 2, "test": 3}
    write_tfds(tmp_path, "icons", splits=splits, example=lambda i: {"image": io.BytesIO(png(i)), "label": 0})
    validation = open_source("tfds:icons", "validation", data_dir=str(tmp_path))
    assert [record.image for record in validation] == [png(0), png(1)]


@pytest.mark.parametrize(
    ("names", "options", "train", "validation", "whole"),
    [
        # Without a split for validation a part of each class, whose labels alternate here.
        (["train"], {}, [0, 1, *range(4, 20)], [2, 3], range(20)),
        (
            ["train"],
            {"validation_fraction": 0.5},
            [i for i in range(20) if i // 2 % 2 == 0],
            [i for i in range(20) if i // 2 % 2],
            range(20),
        ),
        (["full"], {}, [0, 1, *range(4, 20)], [2, 3], range(20)),
        (["train", "valid", "test"], {}, range(20), range(20), range(20)),
        (["train"], {"train_split": "train[:90%]", "validation_split": "train[90%:]"}, range(18), [18, 19], [18, 19]),
        (["test"], {"train_split": "test[:4]", "validation_split": "test[-2:]"}, range(4), [18, 19], [18, 19]),
        (["train", "test"], {"validation_split": "test[3:5]"}, range(20), [3, 4], [3, 4]),
        (["train"], {"train_split": "train[:2]+train[4:8]"}, [0, 1, 6, 7], [4, 5], [0, 1, 4, 5, 6, 7]),
    ],
)
def test_splits_of_a_tfds_set(tmp_path, names, options, train, validation, whole):
    write_tfds(tmp_path, "pets", splits=dict.fromkeys(names, 20), shards=3)

    def numbers(split):
        source = open_source("tfds:pets", split, data_dir=str(tmp_path), options=SplitOptions(**options))
        return [jpegs.index(record.image) for record in source]

    jpegs = [jpeg(i) for i in range(20)]
    expected = [list(train), list(validation), list(whole)]
    assert [numbers(split) for split in ("train", "validation", "evaluation")] == expected


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"train_split": "trian"}, "data.train_split is 'trian'.*train, test"),
        ({"train_split": "train[:x]"}, r"data.train_split is 'train\[:x\]'.*Unrecognized"),
        ({"validation_split": "train[90%:]"}, "'train'.*'train.90%:.'.* 2 images"),
        ({"train_split": "train[:90%]", "validation_split": "train[80%:]"}, " 2 images"),
        ({"train_split": "train+test"}, " 3 images"),
        # tfds itself gives other images.
        ({"train_split": "train[10%:5%]"}, r"no images.*train\[10%:5%\]"),
        ({"train_split": "train[:1%]"}, r"no images.*train\[:1%\]"),
    ],
)
def test_splits_of_a_tfds_set_that_are_refused(tmp_path, options, named):
    write_tfds(tmp_path, "pets", splits={"train": 20, "test": 3})
    expect(named, "tfds:pets", data_dir=str(tmp_path), options=SplitOptions(**options))


def test_tfds_mistakes(tmp_path):
    import tensorflow_datasets as tfds

    place = {"data_dir": str(tmp_path)}
    expect(f"tfds:nosuch .*{tmp_path}.*not found", "tfds:nosuch", **place)
    expect("tfds:no such ", "tfds:no such", **place)
    expect("tfds:mnist:9.9.9 ", "tfds:mnist:9.9.9", **place)
    expect(f"tfds:mnist .*{tmp_path}/mnist/3.0.1.*download_and_prepare", "tfds:mnist", **place)
    write_tfds(tmp_path, "old", splits={"train": 1}, file_format="tfrecord")
    expect(
        f"tfrecord.*inception-jax data prepare tfds:{tmp_path}/old/1.0.0 OUT",
        "tfds:old",
        **place,
    )
    ages = {"image": tfds.features.Image(), "label": tfds.features.Scalar(np.int64)}
    write_tfds(tmp_path, "ages", splits={"train": 1}, features=ages)
    expect("tfds:ages .*image, label", "tfds:ages", **place)
    write_tfds(tmp_path, "none", splits={"train": 0})
    expect("tfds:none .*train", "tfds:none", **place)
    write_tfds(tmp_path, "half", splits={"train": 1})
    expect("tfds:half .*two or more images", "tfds:half", "validation", **place)
    write_tfds(tmp_path, "best", splits={"test": 9})
    expect(r"tfds:best .*'test'.*data.train_split.*'test\[:90%\]'", "tfds:best", **place)
    one = {"image": tfds.features.Image(), "label": tfds.features.ClassLabel(names=["cat"])}
    write_tfds(
        tmp_path,
        "cats",
        splits={"train": 9},
        features=one,
        example=lambda i: {"image": io.BytesIO(jpeg(i)), "label": 0},
    )
    expect("tfds:cats .*'cat'.*two or more", "tfds:cats", **place)


def test_a_description_that_is_broken(tmp_path):
    for file, content in (("dataset_info.json", "{"), ("features.json", "{"), ("features.json", "{}")):
        folder = write_tfds(tmp_path / str(len(content)) / file, "pets", splits={"train": 1})
        (folder / file).write_text(content)
        expect(f"tfds:{folder} ", f"tfds:{folder}")


def test_a_tfds_set_of_several_versions(tmp_path):
    for version, count in (("1.9.0", 1), ("1.10.0", 2)):
        write_tfds(tmp_path, "pets", splits={"train": count}, version=version)
    place = {"data_dir": str(tmp_path)}
    lengths = {"pets": 2, f"{tmp_path}/pets": 2, "pets:1.9.0": 1, "pets/1.9.0": 1, f"{tmp_path}/pets/1.9.0": 1}
    assert {name: len(open_source(f"tfds:{name}", "evaluation", **place)) for name in lengths} == lengths
    # tensorflow-datasets knows mnist 3.0.1.
    write_tfds(tmp_path, "mnist", splits={"train": 1}, version="2.0.0")
    expect("mnist/3.0.1.*tfds:mnist:2.0.0.*download_and_prepare", "tfds:mnist", **place)
    assert len(open_source("tfds:mnist:2.0.0", "evaluation", **place)) == 1


def test_features_of_other_names(tmp_path):
    import tensorflow_datasets as tfds

    features = {
        "picture": tfds.features.Image(),
        "objects": tfds.features.ClassLabel(num_classes=3),
        "boxes": tfds.features.Sequence(tfds.features.BBoxFeature()),
        "mask": tfds.features.LabeledImage(labels=2),
        "text": tfds.features.Text(),
    }
    boxes = [tfds.features.BBox(0.0, 0.0, 1.0, 1.0)]

    def example(i):
        return {
            "picture": io.BytesIO(jpeg(i)),
            "objects": 2 - i,
            "boxes": boxes,
            "mask": io.BytesIO(jpeg()),
            "text": "été",
        }

    write_tfds(tmp_path, "scenes", splits={"train": 3}, features=features, example=example)
    source = open_source("tfds:scenes", "evaluation", data_dir=str(tmp_path))
    assert source.class_names == ("0", "1", "2")
    assert [(r.image, r.label) for r in source] == [(jpeg(0), 2), (jpeg(1), 1), (jpeg(2), 0)]


def test_two_labels_of_which_one_is_called_so(tmp_path):
    import tensorflow_datasets as tfds

    kinds = {"image": tfds.features.Image(), "coarse": tfds.features.ClassLabel(names=["animal"])}
    example = {"image": io.BytesIO(jpeg()), "coarse": 0, "label": 1, "fine": 1}
    fine = tfds.features.ClassLabel(names=["cat", "dog"])
    for name, key in (("cifar", "label"), ("rafic", "fine")):
        features = {**kinds, key: fine}
        write_tfds(
            tmp_path,
            name,
            splits={"train": 1},
            features=features,
            example=lambda i, f=features: {k: example[k] for k in f},
        )
    place = {"data_dir": str(tmp_path)}
    assert open_source("tfds:cifar", "train", **place).class_names == ("cat", "dog")
    expect("tfds:rafic .*coarse, fine, image", "tfds:rafic", **place)


def example_bytes(**features):
    """A serialised tf.train.Example of lists of bytes and of numbers."""
    from tensorflow_datasets.proto import tf_example_pb2

    example = tf_example_pb2.Example()
    for name, values in features.items():
        feature = example.features.feature[name]
        (feature.bytes_list if isinstance(values[0], bytes) else feature.int64_list).value.extend(values)
    return example.SerializeToString()


BROKEN = {
    "cut short": (lambda record: record[:-9], "image 0 of tfds:pets train "),
    "garbage": (lambda record: bytes(range(255, 5, -1)), "image 0 of tfds:pets train "),
    "empty": (lambda record: b"", "image 0 of tfds:pets train .*0 images and 0 labels"),
    "no label": (lambda record: example_bytes(image=[b"x"]), "1 images and 0 labels"),
    "a label that is text": (lambda record: example_bytes(image=[b"x"], label=[b"1"]), "1 images and 0 labels"),
    "two images": (lambda record: example_bytes(image=[b"x", b"y"], label=[1]), "2 images and 1 labels"),
    "negative": (
        lambda record: example_bytes(image=[b"x"], label=[-1], file_name=[b"n01.JPEG"]),
        "image 0 of tfds:pets train .*n01.JPEG.*label -1 of 2",
    ),
    "too large": (lambda record: example_bytes(image=[b"x"], label=[2]), "label 2 of 2"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_broken_record_is_a_broken_image(tmp_path, case):
    damage, pattern = BROKEN[case]
    write_tfds(tmp_path, "pets", splits={"train": 2}, damage=lambda i, record: record if i else damage(record))
    source = open_source("tfds:pets", "evaluation", data_dir=str(tmp_path))
    with pytest.raises(BrokenImage, match=pattern) as caught:
        source[0]
    assert "\n" not in str(caught.value)
    # Its neighbour is intact.
    assert source[1] == (jpeg(1), 1, "pets train 1")


def test_a_file_whose_bytes_were_changed(tmp_path):
    folder = write_tfds(tmp_path, "pets", splits={"train": 4}, shards=2)
    file = folder / "pets-train.array_record-00000-of-00002"
    content = bytearray(file.read_bytes())
    middle = content.index(jpeg(0)[:20])
    content[middle : middle + 20] = bytes(20)
    file.write_bytes(content)
    source = open_source("tfds:pets", "evaluation", data_dir=str(tmp_path))
    with pytest.raises(BrokenImage, match="image 0 of tfds:pets train "):
        source[0]
    assert source[2].image == jpeg(2)


def test_many_threads_read_a_set_of_many_files(tmp_path):
    write_tfds(tmp_path, "pets", splits={"train": 60}, shards=20)
    source = open_source("tfds:pets", "evaluation", data_dir=str(tmp_path))
    indices = np.random.default_rng(0).permutation(np.tile(np.arange(60), 5)).tolist()
    with ThreadPoolExecutor(8) as pool:
        records = list(pool.map(source.__getitem__, indices))
    assert [(record.image, record.label) for record in records] == [(jpeg(i), i % 2) for i in indices]


def test_a_set_of_which_files_are_missing(tmp_path):
    folder = write_tfds(tmp_path, "pets", splits={"train": 4}, shards=3)
    for shard in (1, 2):
        (folder / f"pets-train.array_record-0000{shard}-of-00003").unlink()
    expect(
        f"tfds:pets .*2 of .*3 files .*{folder}.*pets-train.array_record-00001-of-00003",
        "tfds:pets",
        data_dir=str(tmp_path),
    )


def test_more_files_than_a_process_may_open_at_first(tmp_path, monkeypatch):
    # ImageNet's 1,024 files are all open at once, and 1,024 is a usual limit.
    write_tfds(tmp_path, "pets", splits={"train": 40}, shards=40)
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    in_use = len(os.listdir("/dev/fd"))
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (in_use + 20, limits[1]))
        source = open_source("tfds:pets", "evaluation", data_dir=str(tmp_path))
        assert [record.image for record in source] == [jpeg(i) for i in range(40)]
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    monkeypatch.setattr(resource, "getrlimit", lambda _: (256, 256))
    expect(
        "tfds:pets .*40 files .*256.*ulimit -n 296",
        "tfds:pets",
        data_dir=str(tmp_path),
    )


def test_a_tfds_set_whose_file_is_gone(tmp_path):
    folder = write_tfds(tmp_path, "pets", splits={"train": 2})
    source = open_source("tfds:pets", "evaluation", data_dir=str(tmp_path))
    next(folder.glob("*train*")).unlink()
    with pytest.raises(UserError, match="image 1 of tfds:pets train .*No such file"):
        source[1]


# In a bucket


@pytest.fixture
def bucket(monkeypatch):
    return bucket_in_memory(monkeypatch)


@pytest.fixture
def far(bucket, tmp_path):
    """The URL of a set in the bucket: 3 files of 5 training images and 3 of 3 to test."""
    folder = write_tfds(tmp_path / "far", "pets", splits={"train": 5, "test": 3}, shards=3)
    for file in folder.iterdir():
        bucket.pipe_file(f"gs://sets/pets/1.0.0/{file.name}", file.read_bytes())
    shutil.rmtree(tmp_path / "far")
    return "gs://sets/pets/1.0.0"


def copied(bucket):
    """The shards that were copied since last asked."""
    names = [path.rpartition("/")[2] for method, path in bucket.calls if method == "get_file"]
    bucket.calls.clear()
    return sorted(name.removesuffix("-of-00003") for name in names if "-of-" in name)


TRAIN = [f"pets-train.array_record-0000{shard}" for shard in range(3)]


def test_a_set_in_a_bucket_is_copied_once_and_only_the_split_that_is_wanted(bucket, far, tmp_path, capsys):
    place = {"data_dir": str(tmp_path / "near")}
    train = open_source(f"tfds:{far}", "train", **place)
    assert [(r.image, r.label) for r in train] == [(jpeg(i), i % 2) for i in range(5)]
    assert copied(bucket) == TRAIN
    assert capsys.readouterr().err.startswith("copying 3 files, 0.0 GB, of gs://sets/pets/1.0.0 to ")
    assert len(open_source(f"tfds:{far}", "train", **place)) == 5
    assert copied(bucket) == [] and capsys.readouterr().err == ""
    # By its name the other split is not there; by its URL it comes.
    expect("tfds:pets .*3 of .*3 files", "tfds:pets", "validation", **place)
    assert open_source(f"tfds:{far}", "validation", **place)[2].image == jpeg(2)
    assert copied(bucket) == [name.replace("train", "test") for name in TRAIN]
    assert open_source("tfds:pets", "train", **place)[0] == train[0]


def test_an_incomplete_copy_is_resumed(bucket, far, tmp_path):
    place = {"data_dir": str(tmp_path)}
    folder = tmp_path / "pets/1.0.0"
    open_source(f"tfds:{far}", "train", **place)
    copied(bucket)
    (folder / f"{TRAIN[0]}-of-00003").unlink()
    with open(folder / f"{TRAIN[1]}-of-00003", "r+b") as file:
        file.truncate(7)
    assert len(list(open_source(f"tfds:{far}", "train", **place))) == 5
    assert copied(bucket) == TRAIN[:2]
    assert [path.name for path in folder.iterdir() if path.name.startswith(".")] == []


def test_a_bucket_that_goes_away_while_a_set_is_copied(bucket, far, tmp_path, monkeypatch):
    monkeypatch.setattr("inception_jax.data.sources.tfds_bucket._COPYING_THREADS", 1)
    place = {"data_dir": str(tmp_path)}
    bucket.failures["get_file"] = [ConnectionError("reset")] * 4
    open_source(f"tfds:{far}", "validation", **place)
    copied(bucket)
    bucket.failures["get_file"] = [ConnectionError("reset")] * 5
    expect("train.array_record-00000-of-00003 .*reset", f"tfds:{far}", **place)
    assert not list((tmp_path / "pets/1.0.0").glob(f"*{TRAIN[0]}*"))
    bucket.failures.clear()
    copied(bucket)
    assert len(list(open_source(f"tfds:{far}", "train", **place))) == 5


def test_an_incomplete_file_is_not_kept(bucket, far, tmp_path, monkeypatch):
    monkeypatch.setattr(type(bucket), "get_file", lambda self, url, path, **options: Path(path).write_bytes(b"x"))
    expect(r"\b1 of \d+ bytes", f"tfds:{far}", data_dir=str(tmp_path))
    assert not list((tmp_path / "pets/1.0.0").iterdir())


def test_mistakes_with_a_set_in_a_bucket(bucket, far, tmp_path, monkeypatch):
    place = {"data_dir": str(tmp_path)}
    expect(f"tfds:{far} .*data_dir", f"tfds:{far}")
    expect("tfds:gs://sets/pets .*dataset_info.json", "tfds:gs://sets/pets", **place)
    expect("gs://none ", "tfds:gs://none", **place)
    bucket.failures["cat_file"] = [ConnectionError("reset")] * 5
    expect(f"{far}/dataset_info.json .*reset", f"tfds:{far}", **place)
    (tmp_path / "file").write_text("")
    expect("file/pets/1.0.0 .*Not a directory", f"tfds:{far}", data_dir=str(tmp_path / "file"))
    monkeypatch.setattr(shutil, "disk_usage", lambda _: types.SimpleNamespace(free=500))
    expect("0.0 GB free", f"tfds:{far}", **place)
    bucket.rm(f"{far}/{TRAIN[1]}-of-00003")
    expect(f"tfds:{far} .*1 of .*3 files.*{TRAIN[1]}-of-00003", f"tfds:{far}", **place)


@pytest.mark.parametrize(
    "info", [b"{", b"[]", {"name": "../../pets"}, {"version": "/1.0.0"}, {"name": 3}, {"version": ""}]
)
def test_a_bucket_cannot_cause_writes_outside_data_dir(bucket, far, tmp_path, info):
    if isinstance(info, dict):
        info = json.dumps({"name": "pets", "version": "1.0.0", **info}).encode()
    bucket.pipe_file(f"{far}/dataset_info.json", info)
    expect("dataset_info.json ", f"tfds:{far}", data_dir=str(tmp_path / "near"))
    assert not (tmp_path / "near").exists()


def test_a_set_of_tfrecords_in_a_bucket(bucket, tmp_path):
    folder = write_tfds(tmp_path / "far", "old", splits={"train": 1}, file_format="tfrecord")
    for file in folder.iterdir():
        bucket.pipe_file(f"gs://sets/old/{file.name}", file.read_bytes())
    expect("tfrecord.* copy .*inception-jax data prepare", "tfds:gs://sets/old", data_dir=str(tmp_path))
    assert copied(bucket) == []
