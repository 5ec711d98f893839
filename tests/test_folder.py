"""Folders of images on a disk and in a bucket, and the error for each mistake."""

import errno
import os
import pickle
import shutil
import time
from pathlib import Path

import pytest
from source_helpers import bucket_in_memory, expect, jpeg

from inception_jax.data import open_source
from inception_jax.data.sources import SplitOptions, disk, retry
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
    expect("train .*'cat'.* two or more", f"folder:{tmp_path}")
    fill(tmp_path / "train", "dog/1.jpg")
    expect(f"{tmp_path} .*two or more images", f"folder:{tmp_path}", "validation")
    fill(tmp_path / "val", "cow/1.jpg")
    expect("'cow'", f"folder:{tmp_path}", "validation")
    fill(tmp_path / "other/small", "cat/1.jpg", "dog/1.jpg")
    expect("small .*two or more images", f"folder:{tmp_path}/other/small", "validation")
    shutil.rmtree(tmp_path / "other")
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
    source = pickle.loads(pickle.dumps(open_source(f"folder:{tmp_path}", "evaluation")))
    assert source.class_names == ("a b", "été", "日本")
    assert [record.label for record in source] == [0, 0, 1, 2]
    assert os.fsencode(source[1].name) == raw and source[1].image == jpeg(9)
    assert source[2].name == f"{tmp_path}/train/{names[0]}"


def test_links_are_followed_but_never_in_a_circle(tmp_path):
    fill(tmp_path / "elsewhere", "x/1.jpg")
    fill(tmp_path / "set/train", "cat/1.jpg", "dog/inside/2.jpg")
    for link, target in {
        "set/train/cat/up": "..",
        "set/train/cat/top": "../..",
        "set/train/dog/inside/self": "self",
        "set/train/dog/inside/again": ".",
        "set/train/dog/x": "../../../elsewhere/x",
        "elsewhere/x/back": "../../set/train/dog",
    }.items():
        (tmp_path / link).symlink_to(target)
    (tmp_path / "set/train/eel").symlink_to("../../elsewhere/x")
    source = open_source(f"folder:{tmp_path / 'set'}", "evaluation")
    assert listing(source, tmp_path / "set/train") == [
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
    source = open_source(f"folder:{tmp_path}", "evaluation")
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
    source = open_source(f"folder:{tmp_path}", "evaluation")
    monkeypatch.setattr("inception_jax.data.sources.retry._PAUSES", (0, 0, 0, 0))
    read, failures, calls = disk.read_file, [], []

    def flaky(path):
        calls.append(path)
        if failures:
            raise OSError(failures.pop(), "away")
        return read(path)

    monkeypatch.setattr(disk, "read_file", flaky)
    failures[:] = [error] * (attempts - 1)
    assert source[0].image == jpeg() and len(calls) == attempts
    failures[:], calls[:] = [error] * attempts, []
    with pytest.raises(BrokenImage, match="train/cat/1.jpg .*away"):
        source[0]
    assert len(calls) == attempts


# Layouts, as people have them

CLASSES = ("cat/1.jpg", "cat/2.jpg", "dog/1.jpg", "dog/2.jpg")


def under(folder, *names):
    return [f"{folder}/{name}" for name in names or CLASSES]


@pytest.mark.parametrize(
    ("files", "train", "validation", "words"),
    [
        (
            under("train") + under("valid") + under("test"),
            "train",
            "valid",
            ["in train/", "in valid/", "test/ not used"],
        ),
        (under("train") + under("valid"), "train", "valid", ["in valid/"]),
        (under("Training") + under("Testing"), "Training", "Testing", ["in Training/", "in Testing/"]),
        (under("training_set") + under("test_set"), "training_set", "test_set", ["in test_set/"]),
        (under("TRAIN") + under("DEV") + under("Test"), "TRAIN", "DEV", ["Test/ not used"]),
        (under("seg_train") + under("seg_test"), "seg_train", "seg_test", ["in seg_test/"]),
        (under("train") + under("val") + ["labels/1.txt"], "train", "val", ["labels/ not used"]),
        (under("train") + under("val") + under("set/train"), "train", "val", ["set/ not used"]),
        (under("train") + under("val") + ["extra/cat/1.jpg"], "train", "val", ["extra/ not used"]),
    ],
)
def test_the_names_that_people_use_for_splits(tmp_path, files, train, validation, words):
    fill(tmp_path, *files)
    for split, folder in (("train", train), ("validation", validation), ("evaluation", validation)):
        source = open_source(f"folder:{tmp_path}", split)
        assert listing(source, tmp_path) == [(f"{folder}/{name}", int("dog" in name)) for name in CLASSES]
        assert split == "evaluation" or all(word in source.layout.splits for word in words)


@pytest.mark.parametrize(
    ("files", "prefix"),
    [
        (CLASSES, ""),
        (under("train"), "train/"),
        # Images for a competition, whose classes are not told.
        (under("train") + under("test", "1.jpg", "2.jpg"), "train/"),
        (under("train") + under("test", "unknown/1.jpg"), "train/"),
    ],
)
def test_a_part_is_held_out_where_there_is_one_split(tmp_path, files, prefix):
    fill(tmp_path, *files)
    train, validation, whole = (open_source(f"folder:{tmp_path}", s) for s in ("train", "validation", "evaluation"))
    assert listing(train, tmp_path) == [(f"{prefix}cat/1.jpg", 0), (f"{prefix}dog/1.jpg", 1)]
    assert listing(validation, tmp_path) == [(f"{prefix}cat/2.jpg", 0), (f"{prefix}dog/2.jpg", 1)]
    assert listing(whole, tmp_path) == [(prefix + name, int("dog" in name)) for name in CLASSES]
    assert "10 % of each class held out" in train.layout.splits and "all images" in whole.layout.splits
    assert ("test/ not used" in train.layout.splits) == ("test/" in str(files))


@pytest.mark.parametrize("split", ["train", "test"])
def test_a_class_with_the_name_of_a_split(tmp_path, split):
    fill(tmp_path, *under("bus", "1.jpg", "2.jpg"), *under("car", "1.jpg", "2.jpg"), *under(split, "1.jpg", "2.jpg"))
    source = open_source(f"folder:{tmp_path}", "train")
    assert source.class_names == ("bus", "car", split) and len(source) == 3
    assert f"the folder {split!r}" in source.layout.notes[0]


@pytest.mark.parametrize(
    ("files", "named"),
    [
        # One level too many.
        (under("photos"), ["'photos'", "folder:{root}/photos."]),
        (under("a/b"), ["'a'", "folder:{root}/a/b."]),
        (under("photos/train") + under("photos/val"), ["'photos'", "'train', 'val'", "folder:{root}/photos."]),
        (under("photos") + ["__MACOSX/photos/1.jpg"], ["folder:{root}/photos."]),
        (under("images") + ["notes/1.txt"], ["'images'", "folder:{root}/images."]),
        (under("train/photos") + under("val/photos"), ["{root}/train ", "'photos'", "move them to {root}/train"]),
        # Too few classes, and none.
        (["cat/1.jpg", "cat/2.jpg"], ["{root} ", "'cat'", "two or more"]),
        (["1.jpg", "2.jpg"], ["2 images", "csv:FILE"]),
        (["a.zip"], ["no folders", "1 .zip"]),
        (["cat/1.jpg", "dog/1.jpg", "eel/1.xyz", "eel/2.xyz"], ["{root}/eel ", "2 .xyz", ".jpg"]),
        # Splits or classes, and two of a kind.
        (under("train") + under("bus", "1.jpg"), ["a folder train", "bus", "rename", "folder:{root}/train"]),
        (under("train") + under("val") + under("valid"), ["'val', 'valid'", "data.validation_split"]),
        (under("train") + under("Train"), ["'Train', 'train'", "data.train_split"]),
        (under("train") + under("test", "cat/1.jpg", "cow/1.jpg"), ["'cow'"]),
        # ImageNet's validation images as they come.
        (["ILSVRC2012_val_00000001.JPEG"], ["data prepare imagenet:"]),
        (under("train") + ["val/ILSVRC2012_val_00000001.JPEG"], ["{root}/val ", "data prepare imagenet:"]),
        (["val/ILSVRC2012_val_00000001.JPEG"], ["{root}/val ", "data prepare imagenet:"]),
    ],
)
def test_layouts_that_are_refused(tmp_path, files, named):
    fill(tmp_path, *files)
    with pytest.raises(UserError) as error:
        for split in ("train", "validation"):
            open_source(f"folder:{tmp_path}", split)
    assert all(words.format(root=tmp_path) in str(error.value) for words in named), str(error.value)


def test_a_network_is_evaluated_on_one_class_but_not_on_the_folder_above(tmp_path):
    fill(tmp_path, "one/cat/1.jpg", "one/cat/2.jpg", *under("set/photos"))
    assert open_source(f"folder:{tmp_path}/one", "evaluation").class_names == ("cat",)
    expect(f"folder:{tmp_path}/set/photos", f"folder:{tmp_path}/set", "evaluation")


def test_folders_that_are_more_likely_splits_or_years_than_classes_are_noted(tmp_path):
    fill(tmp_path, *under("2023"), *under("2024"))
    assert "'cat', 'dog'" in open_source(f"folder:{tmp_path}", "train").layout.notes[0]


def test_splits_of_any_name_are_given(tmp_path):
    fill(tmp_path, *under("photos/all"), *under("photos/held", "cat/1.jpg"), *under("val"), *under("valid"))
    place = f"folder:{tmp_path}"
    options = SplitOptions(train_split="photos/all", validation_split="photos/held/")
    assert listing(open_source(place, "train", options=options), tmp_path)[3] == ("photos/all/dog/2.jpg", 1)
    assert listing(open_source(place, "evaluation", options=options), tmp_path) == [("photos/held/cat/1.jpg", 0)]
    assert len(open_source(place, "train", options=SplitOptions(train_split="val", validation_split="valid"))) == 4
    for field, value, named in (
        ("train_split", "trian", "data.train_split is 'trian'.*'photos', 'val', 'valid'"),
        ("validation_split", "none", "data.validation_split is 'none'"),
    ):
        expect(named, place, options=SplitOptions(**{field: value}))
    (tmp_path / "link").symlink_to("photos/all", target_is_directory=True)
    for one, other in (("photos", "photos/held"), ("val", "./val"), ("photos/all", "link"), ("val", "valid/../val")):
        expect(f"'{one}'.*'{other}'", place, options=SplitOptions(train_split=one, validation_split=other))


def test_splits_whose_classes_are_spelled_differently_belong_together(tmp_path):
    fill(tmp_path, *(f"train/{name}/{i}.jpg" for name in ("caf\u00e9", "th\u00e9") for i in range(2)))
    fill(tmp_path, *(f"test/{name}/9.jpg" for name in ("cafe\u0301", "the\u0301")))
    source = open_source(f"folder:{tmp_path}", "validation")
    assert len(source) == 2 and source.class_names == ("caf\u00e9", "th\u00e9") and not source.layout.notes


def test_classes_that_are_likely_one_are_noted(tmp_path):
    fill(tmp_path, *(f"{name}/{i}.jpg" for name in ("Cat", "cat", "dog", "fox", "01", "1") for i in range(2)))
    (note,) = open_source(f"folder:{tmp_path}", "train").layout.notes
    assert all(f"'{name}'" in note for name in ("Cat", "cat", "01", "1")) and "dog" not in note


@pytest.mark.parametrize("link", [False, True])
def test_a_pipe_is_broken_and_never_waited_for(tmp_path, link):
    fill(tmp_path, "cat/1.jpg", "dog/1.jpg", "dog/2.jpg")
    os.mkfifo(tmp_path / ("pipe" if link else "cat/0.jpg"))
    if link:
        (tmp_path / "cat/0.jpg").symlink_to("../pipe")
    with pytest.raises(BrokenImage, match=r"cat/0\.jpg .*not a file"):
        open_source(f"folder:{tmp_path}", "evaluation")[0]


@pytest.mark.parametrize("form", ["folder", "csv"])
def test_the_images_held_out_before_stay_so(tmp_path, form):
    files = [f"{name}/{i:02}.jpg" for name in ("cat", "dog") for i in range(10, 30)]
    fill(tmp_path, *files)
    table = tmp_path / "labels.csv"

    def held_out(options):
        table.write_text("".join(f"{p.parent.name}/{p.name},{p.parent.name}\n" for p in tmp_path.glob("*/*.jpg")))
        place = f"folder:{tmp_path}" if form == "folder" else f"csv:{table}"
        parts = [open_source(place, split, options=options) for split in ("train", "validation")]
        names = [{os.path.relpath(part.name(i), tmp_path) for i in range(len(part))} for part in parts]
        assert names[0] | names[1] == {f"{p.parent.name}/{p.name}" for p in tmp_path.glob("*/*.jpg")}
        assert not names[0] & names[1] and parts[0].held_out == parts[1].held_out
        return names[1], parts[0].held_out

    before, recorded = held_out(SplitOptions())
    # One more, before all others, would shift the choice, and so would one less.
    fill(tmp_path, "cat/00.jpg")
    (tmp_path / "dog/10.jpg").unlink()
    assert held_out(SplitOptions())[0] != before
    assert held_out(SplitOptions(held_out=recorded)) == (before, recorded)
    gone = sorted(before)[0]
    (tmp_path / gone).unlink()
    assert held_out(SplitOptions(held_out=recorded))[0] == before - {gone}
    # Another set, which has none of them.
    assert held_out(SplitOptions(held_out=frozenset([1])))[0] == held_out(SplitOptions())[0]


@pytest.mark.parametrize("bucketed", [False, True])
def test_what_is_passed_over_is_counted_and_is_never_a_class(tmp_path, bucketed, monkeypatch):
    files = [
        *CLASSES,
        *("cat/a.txt", "cat/deep/b.TXT", "dog/Thumbs.db", "dog/._1.jpg", "dog/LICENSE", "0.jpg", "list.csv"),
        *("@eaDir/1.jpg", "cat/@eaDir/1.jpg/SYNO.jpg", "cat/@eaDir/2.jpg/SYNO.jpg", "__MACOSX/cat/._1.jpg"),
        *("$RECYCLE.BIN/1.jpg", "lost+found/1.jpg", "desktop.ini", ".ipynb_checkpoints/1.jpg", ".hidden/1.jpg"),
    ]
    place = str(tmp_path)
    if bucketed:
        place = "gs://pets"
        put(bucket_in_memory(monkeypatch), *files)
    else:
        fill(tmp_path, *files)
    source = open_source(f"folder:{place}", "evaluation")
    assert listing(source, place) == [(name, int("dog" in name)) for name in CLASSES]
    names = ["$RECYCLE.BIN", "Thumbs.db", "__MACOSX", "desktop.ini", "lost+found", ".ipynb_checkpoints", "hidden"]
    others = {"._*": 1, ".csv": 1, "no suffix": 1, "images outside the folders of classes": 1}
    assert source.layout.kinds_passed_over == {".txt": 2, "@eaDir": 2, **dict.fromkeys(names, 1), **others}


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
    source = open_source("folder:gs://pets", "evaluation")
    assert source[0].image == jpeg()
    assert [call for call, _ in bucket.calls] == ["ls"] * 6 + ["find"] * 5 + ["ls"] + ["cat_file"] * 5


def test_a_bucket_that_stays_unreachable_is_not_a_broken_image(bucket):
    put(bucket, "train/cat/1.jpg")
    source = open_source("folder:gs://pets", "evaluation")
    bucket.failures["cat_file"] = [OSError("reset\nby peer")] * 9
    with pytest.raises(UserError, match=r"gs://pets/train/cat/1.jpg .*\b0 s .*reset by peer") as e:
        source[0]
    assert not isinstance(e.value, BrokenImage) and len(bucket.failures["cat_file"]) == 4
    bucket.failures["ls"] = [ConnectionError("refused")] * 5
    expect("gs://pets .*refused", "folder:gs://pets")


def test_pauses_grow_until_the_deadline(bucket, monkeypatch):
    put(bucket, "train/cat/1.jpg")
    source = open_source("folder:gs://pets", "evaluation")
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
    source = open_source("folder:gs://pets", "evaluation")
    bucket.rm("gs://pets/train/cat/1.jpg")
    with pytest.raises(BrokenImage, match="gs://pets/train/cat/1.jpg "):
        source[0]
    assert [call for call, _ in bucket.calls].count("cat_file") == 1


def test_a_mistake_in_the_program_is_not_taken_for_the_network(bucket):
    put(bucket, "train/cat/1.jpg")
    source = open_source("folder:gs://pets", "evaluation")
    bucket.failures["cat_file"] = [TypeError("ours")]
    with pytest.raises(TypeError, match="ours"):
        source[0]


def test_bucket_mistakes(bucket):
    put(bucket, "one/train/cat/1.jpg", "one/train/dog/1.jpg", "two/cat/note.txt", "two/dog/1.jpg", "two/eel/1.jpg")
    expect("gs://pets/none ", "folder:gs://pets/none")
    expect("gs://pets/two/cat .*.jpg, .jpeg, .*.png", "folder:gs://pets/two")
    expect("gs://pets/one .*two or more images", "folder:gs://pets/one", "validation")
    expect("nosuch://pets .*Protocol not known", "folder:nosuch://pets")
    bucket.failures["ls"] = [PermissionError("anonymous may not")]
    expect("gs://pets/one .*anonymous may not", "folder:gs://pets/one")


def test_the_package_of_a_bucket_that_is_not_installed(monkeypatch):
    import fsspec

    def missing(url, **options):
        raise ImportError("Please install gcsfs to access Google Storage")

    monkeypatch.setattr(fsspec, "url_to_fs", missing)
    expect("gs://pets .*install gcsfs", "folder:gs://pets")
