"""Folders of images on a disk and in a bucket, and the error for each mistake."""

import errno
import os
import pickle
import time
from pathlib import Path

import pytest
from source_helpers import bucket_in_memory, expect, jpeg

from inception_jax.data import open_source
from inception_jax.data.sources import retry
from inception_jax.errors import BrokenImage, UserError

PAUSES = retry._PAUSES


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
    expect("folder val .*folder train", f"folder:{tmp_path}")


def test_folder_mistakes(tmp_path):
    expect(f"{tmp_path}/none ", f"folder:{tmp_path}/none")
    expect(f"{tmp_path} has no folders", f"folder:{tmp_path}")
    (tmp_path / "train/cat").mkdir(parents=True)
    expect("train/cat .*.jpg, .jpeg, .*.png", f"folder:{tmp_path}")
    fill(tmp_path / "train", "cat/1.jpg")
    expect("folder train .*validation, val or test", f"folder:{tmp_path}", "validation")
    fill(tmp_path / "val", "cow/1.jpg")
    expect("'cow'", f"folder:{tmp_path}", "validation")
    fill(tmp_path / "small", "cat/1.jpg")
    expect("small .*two or more images", f"folder:{tmp_path}/small", "validation")
    source = open_source(f"folder:{tmp_path}", "train")
    (tmp_path / "train/cat/1.jpg").unlink()
    with pytest.raises(UserError, match="train/cat/1.jpg .*No such file"):
        source[0]


def test_names_that_are_not_plain(tmp_path):
    names = ["été/mont blanc 1%#?.jpg", "日本/富士 山/雪.JPEG", "a b/c.png"]
    fill(tmp_path / "train", *names)
    # A name that is no UTF-8, as a disk may have.
    raw = os.fsencode(tmp_path / "train/a b") + b"/\xff.jpg"
    Path(os.fsdecode(raw)).write_bytes(jpeg(9))
    source = pickle.loads(pickle.dumps(open_source(f"folder:{tmp_path}", "train")))
    assert source.class_names == ("a b", "été", "日本")
    assert [record.label for record in source] == [0, 0, 1, 2]
    assert os.fsencode(source[1].name) == raw and source[1].image == jpeg(9)
    assert source[2].name == f"{tmp_path}/train/{names[0]}"


def test_links_are_followed_but_never_in_a_circle(tmp_path):
    fill(tmp_path / "elsewhere", "x/1.jpg")
    fill(tmp_path / "train", "cat/1.jpg", "dog/inside/2.jpg")
    for link, target in {
        "train/cat/up": "..",
        "train/cat/top": "../..",
        "train/dog/inside/self": "self",
        "train/dog/inside/again": ".",
        "train/dog/x": "../../elsewhere/x",
        "elsewhere/x/back": "../../train/dog",
    }.items():
        (tmp_path / link).symlink_to(target)
    (tmp_path / "train/eel").symlink_to("../elsewhere/x")
    source = open_source(f"folder:{tmp_path}", "train")
    assert listing(source, tmp_path / "train") == [
        ("cat/1.jpg", 0),
        ("dog/inside/2.jpg", 1),
        ("dog/x/1.jpg", 1),
        ("eel/1.jpg", 2),
        # From eel, dog is no folder above: it is gone through once.
        ("eel/back/inside/2.jpg", 2),
    ]


def test_files_that_cannot_be_read_are_broken_images(tmp_path):
    fill(tmp_path / "train", "cat/1.jpg")
    (tmp_path / "train/cat/2.jpg").symlink_to("nowhere.jpg")
    (tmp_path / "train/cat/3.jpg").symlink_to("..")
    source = open_source(f"folder:{tmp_path}", "train")
    (tmp_path / "train/cat/1.jpg").unlink()
    (tmp_path / "train/cat/1.jpg").mkdir()
    for index, reason in enumerate(["Is a directory", "No such file or directory", "Is a directory"]):
        with pytest.raises(BrokenImage, match=rf"train/cat/{index + 1}\.jpg .*{reason}"):
            source[index]


def test_a_folder_that_may_not_be_listed(tmp_path, monkeypatch):
    fill(tmp_path / "train", "cat/1.jpg", "cat/closed/2.jpg")
    scandir = os.scandir

    def guarded(path):
        if str(path).rstrip("/").endswith("closed"):
            raise PermissionError(errno.EACCES, "Permission denied", path)
        return scandir(path)

    monkeypatch.setattr(os, "scandir", guarded)
    expect(f"{tmp_path}/train/cat/closed/ .*Permission denied", f"folder:{tmp_path}")


@pytest.mark.parametrize(("error", "attempts"), [(errno.ESTALE, 5), (errno.ETIMEDOUT, 5), (errno.EACCES, 1)])
def test_reads_from_a_network_disk_are_retried(tmp_path, monkeypatch, error, attempts):
    fill(tmp_path / "train", "cat/1.jpg")
    source = open_source(f"folder:{tmp_path}", "train")
    monkeypatch.setattr("inception_jax.data.sources.retry._PAUSES", (0, 0, 0, 0))
    read, failures, calls = Path.read_bytes, [], []

    def flaky(path):
        calls.append(path)
        if failures:
            raise OSError(failures.pop(), "away")
        return read(path)

    monkeypatch.setattr(Path, "read_bytes", flaky)
    failures[:] = [error] * (attempts - 1)
    assert source[0].image == jpeg() and len(calls) == attempts
    failures[:], calls[:] = [error] * attempts, []
    with pytest.raises(BrokenImage, match="train/cat/1.jpg .*away"):
        source[0]
    assert len(calls) == attempts


# In a bucket


@pytest.fixture
def bucket(monkeypatch):
    return bucket_in_memory(monkeypatch)


def put(bucket, *names):
    for name in names:
        bucket.pipe_file(f"gs://pets/{name}", jpeg())
    bucket.calls.clear()


def test_a_folder_in_a_bucket(bucket):
    put(
        bucket,
        *(f"big/train/cat/{i:02}.jpg" for i in range(12)),
        "big/train/dög 1/deep/er/b#%.JPEG",
        "big/val/cat/1.png",
    )
    put(
        bucket,
        "big/train/cat/.hidden.jpg",
        "big/train/cat/.thumbs/1.jpg",
        "big/train/.git/1.jpg",
        "big/train/cat/a.txt",
    )
    train = open_source("folder:gs://pets/big/", "train")
    # A call for the splits, one for the classes and one for each class.
    assert sorted(bucket.calls) == [
        ("find", "/pets/big/train/cat"),
        ("find", "/pets/big/train/dög 1"),
        ("ls", "/pets/big"),
        ("ls", "/pets/big/train"),
    ]
    assert train.class_names == ("cat", "dög 1") and len(train) == 13
    assert train[12] == (jpeg(), 1, "gs://pets/big/train/dög 1/deep/er/b#%.JPEG")
    assert [record.label for record in train] == [0] * 12 + [1]
    assert listing(open_source("folder:gs://pets/big", "validation"), "gs://pets/big") == [("val/cat/1.png", 0)]
    # Without folders for the splits.
    validation = open_source("folder:gs://pets/big/train", "validation")
    assert listing(validation, "gs://pets/big/train") == [("cat/01.jpg", 0), ("cat/11.jpg", 0)]
    assert pickle.loads(pickle.dumps(train))[0] == train[0]


def test_a_bucket_that_is_unreachable_for_a_while(bucket):
    put(bucket, "train/cat/1.jpg")
    errors = [OSError("reset"), TimeoutError(), ConnectionError("refused"), EOFError()]
    bucket.failures.update(ls=list(errors), find=list(errors), cat_file=list(errors))
    source = open_source("folder:gs://pets", "train")
    assert source[0].image == jpeg()
    assert [call for call, _ in bucket.calls] == ["ls"] * 6 + ["find"] * 5 + ["cat_file"] * 5


def test_a_bucket_that_stays_unreachable_is_not_a_broken_image(bucket):
    put(bucket, "train/cat/1.jpg")
    source = open_source("folder:gs://pets", "train")
    bucket.failures["cat_file"] = [OSError("reset\nby peer")] * 9
    with pytest.raises(UserError, match=r"gs://pets/train/cat/1.jpg .*\b0 s .*reset by peer") as e:
        source[0]
    assert not isinstance(e.value, BrokenImage) and len(bucket.failures["cat_file"]) == 4
    bucket.failures["ls"] = [ConnectionError("refused")] * 5
    expect("gs://pets .*refused", "folder:gs://pets")


def test_pauses_grow_until_the_deadline(bucket, monkeypatch):
    put(bucket, "train/cat/1.jpg")
    source = open_source("folder:gs://pets", "train")
    pauses = []
    monkeypatch.setattr(retry, "_PAUSES", PAUSES)
    monkeypatch.setattr(time, "sleep", pauses.append)
    bucket.failures["cat_file"] = [TimeoutError()] * 4
    assert source[0].image == jpeg() and pauses == [0.5, 1, 2, 4]
    # What tries for long itself is not asked again for ever.
    monkeypatch.setattr(retry, "_DEADLINE", -1)
    bucket.failures["cat_file"] = [TimeoutError()] * 4
    with pytest.raises(UserError, match="TimeoutError"):
        source[0]
    assert len(bucket.failures["cat_file"]) == 3


def test_an_image_missing_in_a_bucket_is_broken_and_not_retried(bucket):
    put(bucket, "train/cat/1.jpg")
    source = open_source("folder:gs://pets", "train")
    bucket.rm("gs://pets/train/cat/1.jpg")
    with pytest.raises(BrokenImage, match="gs://pets/train/cat/1.jpg "):
        source[0]
    assert [call for call, _ in bucket.calls].count("cat_file") == 1


def test_a_mistake_in_the_program_is_not_taken_for_the_network(bucket):
    put(bucket, "train/cat/1.jpg")
    source = open_source("folder:gs://pets", "train")
    bucket.failures["cat_file"] = [TypeError("ours")]
    with pytest.raises(TypeError, match="ours"):
        source[0]


def test_bucket_mistakes(bucket):
    put(bucket, "one/train/cat/1.jpg", "two/cat/note.txt")
    expect("gs://pets/none ", "folder:gs://pets/none")
    expect("gs://pets/two/cat .*.jpg, .jpeg, .*.png", "folder:gs://pets/two")
    expect("folder train .*validation, val or test", "folder:gs://pets/one", "validation")
    expect("nosuch://pets .*Protocol not known", "folder:nosuch://pets")
    bucket.failures["ls"] = [PermissionError("anonymous may not")]
    expect("gs://pets/one .*anonymous may not", "folder:gs://pets/one")


def test_the_package_of_a_bucket_that_is_not_installed(monkeypatch):
    import fsspec

    def missing(url, **options):
        raise ImportError("Please install gcsfs to access Google Storage")

    monkeypatch.setattr(fsspec, "url_to_fs", missing)
    expect("gs://pets .*install gcsfs", "folder:gs://pets")
