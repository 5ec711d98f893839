"""`data prepare`: round trips of each kind of source, resuming after a kill, and the error for each mistake."""

import contextlib
import functools
import io
import json
import os
import re
import signal
import struct
import subprocess
import sys
import tarfile
import textwrap
import time

import pytest
from prepare_helpers import LONG, TRAINING, VALIDATION, jpeg, tar, write
from source_helpers import bucket_in_memory

from inception_jax.cli.data import Prepare
from inception_jax.data import open_source
from inception_jax.data.prepare import prepare, shards
from inception_jax.data.prepare.folder import dataset_name
from inception_jax.data.prepare.imagenet import list_imagenet
from inception_jax.data.sources import SplitOptions
from inception_jax.errors import BrokenImage, RunFailed, UserError
from inception_jax.system.progress import Progress


def run(source, out, *, shard_images=4, threads=2, skip_broken=False, **splits):
    options = SplitOptions(**splits)
    return prepare(
        str(source), out, shard_images=shard_images, threads=threads, skip_broken=skip_broken, options=options
    )


def expect(pattern, source, out, error=UserError, **options):
    with pytest.raises(error, match=pattern) as caught:
        run(source, out, **options)
    assert "\n" not in str(caught.value)


@pytest.fixture
def photos(tmp_path):
    """Ten training images of two classes, three for validation."""
    for i in range(10):
        write(tmp_path / "my photos" / "train" / ("cat", "dög 2")[i % 2] / f"{i}.jpg", jpeg(i))
    for i in range(3):
        write(tmp_path / "my photos" / "val" / ("cat", "dög 2")[i % 2] / "deep" / f"{i}.jpg", jpeg(100 + i))
    return tmp_path / "my photos"


def records(out, split):
    """Image, label and file name of each example, as tensorflow-datasets reads them."""
    import tensorflow_datasets as tfds

    skip = {"image": tfds.decode.SkipDecoding()}
    source = tfds.builder_from_directory(out).as_data_source(split, decoders=skip)
    return [(r["image"], int(r["label"]), r["file_name"].decode()) for r in source]


def contents(folder):
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


# folder


def test_a_folder_round_trip(photos, tmp_path):
    out = tmp_path / "out"
    made = run(f"folder:{photos}", out)
    assert made.images == {"train": 10, "validation": 3} and made.shards == {"train": 3, "validation": 1}
    assert made.checked == 13 and made.left_out == 0
    cats, dogs = [0, 2, 4, 6, 8], [1, 3, 5, 7, 9]
    assert records(out, "train") == [
        *((jpeg(i), 0, f"train/cat/{i}.jpg") for i in cats),
        *((jpeg(i), 1, f"train/dög 2/{i}.jpg") for i in dogs),
    ]
    validation = open_source(f"tfds:{out}", "validation")
    assert validation.class_names == ("cat", "dög 2")
    assert [(r.image, r.label) for r in validation] == [(jpeg(100), 0), (jpeg(102), 0), (jpeg(101), 1)]
    assert "tensorflow" not in sys.modules
    # Nothing but the set is left, and the sizes are those of the files.
    assert set(contents(out)) == {
        "dataset_info.json",
        "features.json",
        "label.labels.txt",
        "prepared.json",
        *(f"my_photos-train.array_record-{i:05}-of-00003" for i in range(3)),
        "my_photos-validation.array_record-00000-of-00001",
    }
    sizes = {split: sum(p.stat().st_size for p in out.glob(f"*-{split}.array_record*")) for split in made.bytes}
    assert made.bytes == sizes
    info = json.loads((out / "dataset_info.json").read_text())
    assert info["name"] == "my_photos" and info["version"] == "1.0.0"
    assert [s["shardLengths"] for s in info["splits"]] == [["4", "4", "2"], ["3"]]


def test_a_folder_without_splits_is_split_as_the_source_splits_it(tmp_path):
    for i in range(12):
        write(tmp_path / "pets" / "cat" / f"{i:02}.jpg", jpeg(i))
    write(tmp_path / "pets" / "dog" / "00.jpg", jpeg(99))
    run(f"folder:{tmp_path / 'pets'}", tmp_path / "out")
    for split in ("train", "validation"):
        straight = open_source(f"folder:{tmp_path / 'pets'}", split)
        assert [r.image for r in open_source(f"tfds:{tmp_path / 'out'}", split)] == [r.image for r in straight]
    assert [name for _, _, name in records(tmp_path / "out", "validation")] == ["cat/01.jpg", "cat/11.jpg"]


def test_the_part_held_out_can_be_chosen(tmp_path):
    pets, out = tmp_path / "pets", tmp_path / "out"
    for i in range(16):
        write(pets / ("cat", "dog")[i % 2] / f"{i:02}.jpg", jpeg(i))
    assert run(f"folder:{pets}", out, validation_fraction=0.25).images == {"train": 12, "validation": 4}
    # Complete, but not with this fraction.
    expect("validation_fraction 0.25, not 0.5", f"folder:{pets}", out, validation_fraction=0.5)
    assert run(f"folder:{pets}", out, validation_fraction=0.25) is None
    # As a set was marked that an earlier version prepared.
    plan = json.loads((out / "prepared.json").read_text())
    fields = {key: plan[key] for key in ("source", "shard_images", "listing")}
    (out / "prepared.json").write_text(json.dumps(fields))
    expect("validation_fraction 0.1, not 0.25", f"folder:{pets}", out, validation_fraction=0.25)
    assert run(f"folder:{pets}", out) is None


def test_splits_can_be_named(photos, tmp_path):
    swapped = {"train_split": "val", "validation_split": "train"}
    assert run(f"folder:{photos}", tmp_path / "out", **swapped).images == {"train": 3, "validation": 10}
    for source in ("imagenet:x", "tfds:x"):
        expect("splits of its own", source, tmp_path / "none", **swapped)
    assert not (tmp_path / "none").exists()


def test_a_folder_in_a_bucket(tmp_path, monkeypatch):
    bucket = bucket_in_memory(monkeypatch)
    for split, i in (("train", 1), ("train", 2), ("val", 3)):
        bucket.pipe_file(f"b/pets/{split}/cat/{i}.jpg", jpeg(i))
    bucket.pipe_file("b/pets/train/dog/3.jpg", jpeg(3))
    run("folder:gs://b/pets/", tmp_path / "out")
    assert records(tmp_path / "out", "train") == [
        *((jpeg(i), 0, f"train/cat/{i}.jpg") for i in (1, 2)),
        (jpeg(3), 1, "train/dog/3.jpg"),
    ]
    assert json.loads((tmp_path / "out" / "prepared.json").read_text())["source"] == "folder:gs://b/pets"
    assert json.loads((tmp_path / "out" / "dataset_info.json").read_text())["name"] == "pets"


def test_the_bytes_depend_neither_on_threads_nor_on_the_directory(photos, tmp_path):
    for threads, out in ((1, "one"), (4, "four")):
        run(f"folder:{photos}", tmp_path / out, threads=threads)
    assert contents(tmp_path / "one") == contents(tmp_path / "four")


@pytest.mark.parametrize(
    ("folder", "name"),
    [("ImageNet-100", "imagenet_100"), ("2 dögs", "images_2_d_gs"), ("猫", "images"), ("pets", "pets")],
)
def test_a_folder_s_name_becomes_an_identifier(folder, name):
    from tensorflow_datasets.core import naming

    assert dataset_name(folder) == name and naming.is_valid_dataset_name(name)


def test_the_verb_prints_a_summary(photos, tmp_path, capfd):
    verb = Prepare(f"folder:{photos}", str(tmp_path / "out"), shard_images=4)
    assert verb([]) == 0
    out, err = capfd.readouterr()
    rows = [line.split() for line in out.splitlines()]
    assert rows[1][:3] == ["train", "10", "3"] and rows[2][:3] == ["validation", "3", "1"]
    assert rows[3][:3] == ["checked", "13", "images"]
    assert rows[4][-1] == f"tfds:{tmp_path / 'out'}"
    assert err == f"folder:{photos}: 2 classes (cat, dög 2), training images in train/, validation images in val/\n"
    before = contents(tmp_path / "out")
    assert verb([]) == 0
    assert "complete" in capfd.readouterr().out and contents(tmp_path / "out") == before


# What is already there


def test_another_source_or_size_is_refused_and_named(photos, tmp_path):
    out = tmp_path / "out"
    run(f"folder:{photos}", out)
    expect(" 4 images.* 5", f"folder:{photos}", out, shard_images=5)
    photos.rename(tmp_path / "moved")
    expect(f"folder:{photos}.*folder:{tmp_path / 'moved'}", f"folder:{tmp_path}/moved", out)
    # A whole set needs its source no more.
    assert run(f"folder:{photos}", out) is None


def test_another_listing_is_refused_on_resuming(photos, tmp_path):
    write(photos / "train" / "cat" / "bad.jpg", jpeg(1)[:400])
    expect("images: 1", f"folder:{photos}", tmp_path / "out", RunFailed)
    write(photos / "train" / "cat" / "new.jpg", jpeg(3))
    expect(f"{tmp_path / 'out'}.*folder:{photos}.*images", f"folder:{photos}", tmp_path / "out")
    (photos / "train" / "cat" / "new.jpg").unlink()
    # The same listing, and the image mended.
    write(photos / "train" / "cat" / "bad.jpg", jpeg(1))
    assert run(f"folder:{photos}", tmp_path / "out").images["train"] == 11


def test_a_directory_of_something_else_is_refused(photos, tmp_path):
    write(tmp_path / "out" / "notes.txt", b"mine")
    expect("out is not empty", f"folder:{photos}", tmp_path / "out")
    expect("notes.txt .*Not a directory", f"folder:{photos}", tmp_path / "out" / "notes.txt")
    expect("set .*Not a directory", f"folder:{photos}", tmp_path / "out" / "notes.txt" / "set")
    expect(f"{photos}/prepared ", f"folder:{photos}", photos / "prepared")
    assert contents(tmp_path / "out") == {"notes.txt": b"mine"} and not (photos / "prepared").exists()


def test_a_set_that_another_process_prepares_is_left_alone(photos, tmp_path):
    from inception_jax.data.prepare import output

    (photos / "train" / "cat" / "0.jpg").write_bytes(b"no image")
    with contextlib.suppress(RunFailed):
        run(f"folder:{photos}", tmp_path / "out")
    plan = output.ConversionPlan(**json.loads((tmp_path / "out" / "preparing" / "plan.json").read_text()))
    with output.claim(tmp_path / "out", plan):
        expect("another process", f"folder:{photos}", tmp_path / "out")


def test_mistakes_in_the_arguments(tmp_path, photos):
    for spec in ("digits", "folder:", "imagenet", "idx:/x", ""):
        expect("folder:PATH, csv:FILE, imagenet:DIR or tfds:DIR", spec, tmp_path / "out")
    expect(" 0 images per shard", f"folder:{photos}", tmp_path / "out", shard_images=0)
    expect(" 0 threads", f"folder:{photos}", tmp_path / "out", threads=0)
    expect("none does not exist", f"folder:{tmp_path}/none", tmp_path / "out")
    assert not (tmp_path / "out").exists()


# Broken images


def test_broken_images_are_named_and_left_out_with_skip_broken(photos, tmp_path, capfd):
    write(photos / "train" / "cat" / "4.jpg", jpeg(4)[:300])
    write(photos / "val" / "dög 2" / "deep" / "1.jpg", jpeg(101)[:-200])
    (photos / "train" / "dög 2" / "9.jpg").unlink()
    (photos / "train" / "dög 2" / "9.jpg").symlink_to("nowhere")
    out = tmp_path / "out"
    expect(f"images: 3.*{out}/broken.txt.*--skip-broken", f"folder:{photos}", out, RunFailed)
    lines = (out / "broken.txt").read_text().splitlines()
    for line, name in zip(lines, ("cat/4.jpg", "dög 2/9.jpg", "dög 2/deep/1.jpg"), strict=True):
        assert name in line
    assert capfd.readouterr().err.splitlines()[1:] == lines
    assert not (out / "dataset_info.json").exists()
    # Four and four and two: cat's 4.jpg is in the first of training, dög's 9.jpg in the last.
    whole = out / "my_photos-train.array_record-00001-of-00003"
    assert list(out.glob("*array_record*")) == [whole]
    # Going on without them makes the other three.
    before = whole.stat().st_mtime_ns
    made = run(f"folder:{photos}", out, skip_broken=True)
    assert made.checked == 4 + 2 + 3 and made.left_out == 3 and made.images == {"train": 8, "validation": 2}
    assert whole.stat().st_mtime_ns == before
    assert (out / "broken.txt").read_text().splitlines() == lines
    names = [name for _, _, name in records(out, "train")]
    assert len(names) == 8 and not {"train/cat/4.jpg", "train/dög 2/9.jpg"} & set(names)
    assert not (out / "preparing").exists()


def test_the_screen_names_twenty_broken_images_and_counts_the_rest(tmp_path, capfd):
    for i in range(30):
        write(tmp_path / "p" / ("cat", "dog")[i % 2] / f"{i:02}.jpg", b"no image" if i > 5 else jpeg(i))
    expect("images: 24", f"folder:{tmp_path / 'p'}", tmp_path / "out", RunFailed)
    lines = capfd.readouterr().err.splitlines()
    assert sum(line.startswith(f"the image {tmp_path / 'p'}/") for line in lines) == 20
    assert f"and 4 more, see {tmp_path / 'out' / 'broken.txt'}" in lines
    assert len((tmp_path / "out" / "broken.txt").read_text().splitlines()) == 24


def test_a_shard_of_broken_images_alone_is_empty_and_the_set_readable(photos, tmp_path):
    for i in (0, 2, 4, 6):
        write(photos / "train" / "cat" / f"{i}.jpg", b"no image")
    made = run(f"folder:{photos}", tmp_path / "out", skip_broken=True)
    assert made.images["train"] == 6
    assert [r.image for r in open_source(f"tfds:{tmp_path / 'out'}", "train")] == [jpeg(i) for i in (8, 1, 3, 5, 7, 9)]


def test_a_split_of_broken_images_alone_is_no_set(photos, tmp_path):
    for path in (photos / "val").rglob("*.jpg"):
        path.write_bytes(b"no image")
    expect("split validation", f"folder:{photos}", tmp_path / "o", RunFailed, skip_broken=True)
    assert not (tmp_path / "o" / "dataset_info.json").exists()


def test_images_left_out_before_are_broken_without_skip_broken(photos, tmp_path, monkeypatch):
    """Interrupted before its metadata, a data set with images left out is incomplete without --skip-broken."""
    from inception_jax.data.prepare import conversion

    write(photos / "train" / "cat" / "4.jpg", b"no image")
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(conversion, "write_metadata", interrupt)
        run(f"folder:{photos}", tmp_path / "out", skip_broken=True)
    expect("images: 1", f"folder:{photos}", tmp_path / "out", RunFailed)
    made = run(f"folder:{photos}", tmp_path / "out", skip_broken=True)
    assert made.left_out == 1 and made.images["train"] == 9 and made.checked == 0


def interrupt(*_):
    raise KeyboardInterrupt


# Ended at any moment


def slowing_down(photos, out):
    """A process that prepares a folder and takes half a second for each image after the twentieth."""
    code = f"""
        import itertools, time
        from inception_jax.data import preprocess, prepare
        decode, calls = preprocess.decode, itertools.count()
        def slow(*arguments):
            time.sleep(0.5 if next(calls) >= 20 else 0)
            return decode(*arguments)
        preprocess.decode = slow
        prepare.prepare({f"folder:{photos}"!r}, {str(out)!r}, shard_images=3, threads=2, skip_broken=False)
    """
    return subprocess.Popen([sys.executable, "-c", textwrap.dedent(code)], stderr=subprocess.DEVNULL)


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT], ids=["kill", "interrupt"])
def test_interrupted_in_the_middle_it_resumes_to_the_same_bytes(tmp_path, how):
    photos, out = tmp_path / "photos", tmp_path / "out"
    for i in range(60):
        write(photos / "cat" / f"{i:02}.jpg", jpeg(i))
    write(photos / "dog" / "00.jpg", jpeg(0))
    process = slowing_down(photos, out)
    while process.poll() is None and len(list(out.glob("*array_record*"))) < 4:
        time.sleep(0.01)
    process.send_signal(how)
    assert process.wait() != 0
    there = {path: path.stat().st_mtime_ns for path in out.glob("*array_record*")}
    assert 4 <= len(there) < 20 and not (out / "dataset_info.json").exists()
    if how == signal.SIGINT:
        assert os.listdir(out / "preparing") == ["plan.json"]
    made = run(f"folder:{photos}", out, shard_images=3)
    assert made.checked == 61 - sum(shards.count(path) for path in there)
    assert {path: path.stat().st_mtime_ns for path in there} == there
    run(f"folder:{photos}", tmp_path / "undisturbed", shard_images=3)
    assert contents(out) == contents(tmp_path / "undisturbed")


def test_killed_at_each_step_it_resumes_to_the_same_bytes(photos, tmp_path):
    """Every step ends in a rename; the process ends before the first, the second and so on."""
    write(photos / "train" / "cat" / "4.jpg", jpeg(4)[:300])
    code = f"""
        import os
        import tensorflow_datasets  # once, and not in every child
        from inception_jax.data import prepare
        replace, number = os.replace, 0
        def die_at_last(*arguments):
            global number
            number += 1
            os._exit(9) if number == last else replace(*arguments)
        os.replace = die_at_last
        def run(out):
            prepare.prepare({f"folder:{photos}"!r}, out, shard_images=4, threads=1, skip_broken=True)
        for last in range(1, 100):
            child = os.fork()
            if not child:
                run(f"{tmp_path}/{{last}}")
                os._exit(0)
            ended = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
            if ended == 0:
                break
            assert ended == 9
        steps, last = last, -1
        for out in range(1, steps):
            run(f"{tmp_path}/{{out}}")
        print(steps - 1)
    """
    ended = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    # The plan, four shards and why one lacks an image, broken.txt, three files of metadata, the end.
    assert ended.stdout == "11\n"
    undisturbed = contents(tmp_path / "12")
    assert "dataset_info.json" in undisturbed and "broken.txt" in undisturbed
    for step in range(1, 12):
        assert contents(tmp_path / str(step)) == undisturbed, step


def test_a_shard_cut_short_is_made_again(photos, tmp_path):
    write(photos / "val" / "cat" / "deep" / "0.jpg", b"no image")
    expect("images: 1", f"folder:{photos}", tmp_path / "out", RunFailed)
    shard = tmp_path / "out" / "my_photos-train.array_record-00001-of-00003"
    whole = shard.read_bytes()
    shard.write_bytes(whole[: len(whole) // 2])
    assert run(f"folder:{photos}", tmp_path / "out", skip_broken=True).checked == 4 + 3
    assert shard.read_bytes() == whole


def test_a_full_disk_is_one_error_and_complete_shards_stay(photos, tmp_path, monkeypatch):
    class Full(shards.ArrayRecordWriter):
        def close(self):
            super().close()
            if "00002" in made[0]:
                raise RuntimeError("write() failed: No space left on device; writing x; at byte 7")

        def __init__(self, path, options):
            made.insert(0, path)
            super().__init__(path, options)

    made = []
    with monkeypatch.context() as patch:
        patch.setattr(shards, "ArrayRecordWriter", Full)
        expect(
            "00002-of-00003.*No space left on device",
            f"folder:{photos}",
            tmp_path / "out",
            RunFailed,
            threads=1,
        )
    assert os.listdir(tmp_path / "out" / "preparing") == ["plan.json"]
    # The first two of training are kept, and the one of validation where it was made before all was ended.
    assert run(f"folder:{photos}", tmp_path / "out").checked in (2, 2 + 3)


def test_progress_without_a_terminal(photos, tmp_path, monkeypatch, capfd):
    monkeypatch.setattr(Progress, "__init__", functools.partialmethod(Progress.__init__, every_seconds=0.0))
    run(f"folder:{photos}", tmp_path / "out")
    lines = capfd.readouterr().err.splitlines()
    assert re.fullmatch(r"checked: 13 of 13 images  [\d,.]+ images/s  00:00 left", lines[-1])


# imagenet

SYNSETS = ["n01440764", "n01443537", "n15075141"]  # the first two and the last of the 1,000


@pytest.fixture
def imagenet(tmp_path):
    write(tmp_path / "tars" / "ILSVRC2012_img_train.tar", tar(TRAINING))
    write(tmp_path / "tars" / "ILSVRC2012_img_val.tar", tar(VALIDATION))
    return tmp_path / "tars"


def test_imagenet_s_tars_round_trip(imagenet, tmp_path, capfd):
    out = tmp_path / "out"
    made = run(f"imagenet:{imagenet}", out)
    assert made.images == {"train": 5, "validation": 3}
    assert records(out, "train") == [
        (jpeg(1), 999, "n15075141_54.JPEG"),
        (jpeg(2), 999, "n15075141_2.JPEG"),
        (jpeg(3), 0, "n01440764_18.JPEG"),
        (jpeg(4), 1, LONG),
        (jpeg(5), 1, "n01443537_7.JPEG"),
    ]
    validation = open_source(f"tfds:{out}", "validation")
    assert validation.num_classes == 1000 and [validation.class_names[i] for i in (0, 1, 999)] == SYNSETS
    # The first three validation images show a sea snake, an alp and a Shetland sheepdog.
    synsets = [validation.class_names[label] for _, label, _ in records(out, "validation")]
    assert synsets == ["n01751748", "n09193705", "n02105855"]
    assert [r.image for r in validation] == [jpeg(301), jpeg(302), jpeg(303)]
    assert validation[0].name.endswith("ILSVRC2012_val_00000001.JPEG")
    info = json.loads((out / "dataset_info.json").read_text())
    assert (info["name"], info["version"]) == ("imagenet2012", "5.1.0")
    err = capfd.readouterr().err
    assert re.search("3 of .*1,000", err) and re.search("3 of .*50,000", err)
    assert "tensorflow" not in sys.modules


def test_imagenet_with_one_tar_names_the_missing_split(imagenet, tmp_path, capfd):
    (imagenet / "ILSVRC2012_img_train.tar").unlink()
    assert run(f"imagenet:{imagenet}", tmp_path / "out").images == {"validation": 3}
    assert "ILSVRC2012_img_train.tar" in capfd.readouterr().err
    (imagenet / "ILSVRC2012_img_val.tar").unlink()
    expect("ILSVRC2012_img_train.tar nor ILSVRC2012_img_val.tar", f"imagenet:{imagenet}", tmp_path / "o")


def test_an_incomplete_tar_is_one_error(imagenet, tmp_path):
    """Between two files and within the closing blocks, too, where Python's tarfile sees no fault."""
    path = imagenet / "ILSVRC2012_img_val.tar"
    whole = path.read_bytes()
    with tarfile.open(path) as archive:
        members = archive.getmembers()
    last = members[-1]
    end = last.offset_data + -(-last.size // 512) * 512
    places = [0, 100, 512, members[1].offset, members[1].offset + 200, last.offset_data, last.offset_data + 9, end]
    for place in places:
        path.write_bytes(whole[:place])
        expect("ILSVRC2012_img_val.tar ", f"imagenet:{imagenet}", tmp_path / "out")
    path.write_bytes(whole[: members[1].offset + 5] + b"x" + whole[members[1].offset + 6 :])
    expect("ILSVRC2012_img_val.tar .* file 1", f"imagenet:{imagenet}", tmp_path / "out")
    path.write_bytes(b"something else " * 500)
    expect("ILSVRC2012_img_val.tar ", f"imagenet:{imagenet}", tmp_path / "out")


def test_an_inner_tar_cut_short_is_named(imagenet, tmp_path):
    inner = TRAINING["n01440764.tar"]
    for kept in (700, 512 * (1 + -(-len(jpeg(3)) // 512))):
        cut = TRAINING | {"n01440764.tar": inner[:kept]}
        write(imagenet / "ILSVRC2012_img_train.tar", tar(cut))
        expect("n01440764.tar in ", f"imagenet:{imagenet}", tmp_path / "out")
    write(imagenet / "ILSVRC2012_img_train.tar", tar(TRAINING | {"n01440764.tar": tar({})}))
    expect("n01440764.tar in ", f"imagenet:{imagenet}", tmp_path / "out")


def test_other_files_in_imagenet_s_tars_are_refused(imagenet, tmp_path):
    write(imagenet / "ILSVRC2012_img_train.tar", tar(TRAINING | {"n00000000.tar": tar({"a": b"a"})}))
    expect("ILSVRC2012_img_train.tar .*n00000000.tar", f"imagenet:{imagenet}", tmp_path / "out")
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        link = tarfile.TarInfo("n01440764.tar")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        archive.addfile(link)
    write(imagenet / "ILSVRC2012_img_train.tar", buffer.getvalue())
    expect("n01440764.tar.*regular file", f"imagenet:{imagenet}", tmp_path / "out")
    (imagenet / "ILSVRC2012_img_train.tar").unlink()
    for name in ("cat.jpg", "ILSVRC2012_val_00050001.JPEG", "ILSVRC2012_val_00000000.JPEG"):
        write(imagenet / "ILSVRC2012_img_val.tar", tar(VALIDATION | {name: jpeg(1)}))
        expect(f" {name}.*ILSVRC2012_val_00000001.JPEG", f"imagenet:{imagenet}", tmp_path / "out")


def test_a_broken_image_in_a_tar_is_named(imagenet, tmp_path):
    files = VALIDATION | {"ILSVRC2012_val_00000002.JPEG": b"no image"}
    write(imagenet / "ILSVRC2012_img_val.tar", tar(files))
    expect("images: 1", f"imagenet:{imagenet}", tmp_path / "out", RunFailed)
    assert (tmp_path / "out" / "broken.txt").read_text().startswith("the image ILSVRC2012_val_00000002.JPEG is ")


def test_a_tar_that_shrinks_while_it_is_read_is_no_broken_image(imagenet):
    split = list_imagenet(str(imagenet)).splits[1]
    path = imagenet / "ILSVRC2012_img_val.tar"
    path.write_bytes(path.read_bytes()[:600])
    for number, name in ((2, "ILSVRC2012_val_00000003.JPEG"), (0, "ILSVRC2012_val_00000001.JPEG")):
        with pytest.raises(UserError, match=f"ILSVRC2012_img_val.tar .*{name}") as caught:
            split.read(number)
        assert not isinstance(caught.value, BrokenImage)


# tfds


def framed(data):
    """A record of a TFRecord file, with checksums of 0, which readers ignore."""
    return struct.pack("<QI", len(data), 0) + data + bytes(4)


def write_tfrecord(folder, splits, *, image=jpeg, file_format="tfrecord"):
    """A set as tensorflow-datasets prepares it, with the given numbers of examples in the shards of each split."""
    import tensorflow_datasets as tfds

    folder.mkdir(parents=True)
    features = tfds.features.FeaturesDict(
        {
            "id": tfds.features.Text(),
            "image": tfds.features.Image(shape=(None, None, 3)),
            "label": tfds.features.ClassLabel(names=["cat", "dog", "eel"]),
            "box": tfds.features.BBoxFeature(),
        }
    )
    number, infos = 0, []
    for split, lengths in splits.items():
        files = tfds.core.ShardedFileTemplate(
            data_dir=folder, dataset_name="pets", split=split, filetype_suffix="tfrecord"
        )
        for shard, length in enumerate(lengths):
            data = b""
            for number in range(number, number + length):  # noqa: B020
                box = tfds.features.BBox(0.0, 0.25, 0.5, 1.0)
                example = {"id": f"pet {number}", "image": io.BytesIO(image(number)), "label": number % 3, "box": box}
                data += framed(features.serialize_example(features.encode_example(example)))
            number += bool(length)
            path = files.sharded_filepath(shard_index=shard, num_shards=len(lengths))
            path.write_bytes(data)
        infos.append(tfds.core.SplitInfo(name=split, shard_lengths=lengths, num_bytes=0, filename_template=files))
    identity = tfds.core.dataset_info.DatasetIdentity(
        name="pets", version=tfds.core.Version("2.3.0"), data_dir=str(folder), module_name="test"
    )
    info = tfds.core.DatasetInfo(builder=identity, features=features, description="Pets.", homepage="https://pets.org")
    info.set_file_format(file_format)
    info.set_splits(tfds.core.splits.SplitDict(infos))
    info.write_to_directory(folder)
    return folder


def test_tfrecord_round_trip_byte_for_byte(tmp_path):
    import grain
    import tensorflow_datasets as tfds
    from array_record.python.array_record_module import ArrayRecordReader

    place = write_tfrecord(tmp_path / "pets" / "2.3.0", {"train": [3, 0, 5, 1], "test": [2]})
    out = tmp_path / "out"
    assert run(f"tfds:{place}", out).images == {"train": 9, "test": 2}
    for split, files in (("train", 3), ("test", 1)):
        theirs = []
        for path in sorted(place.glob(f"*-{split}.tfrecord*")):
            theirs += list(grain.experimental.TFRecordIterDataset(str(path)))
        ours, paths = [], sorted(out.glob(f"pets-{split}.array_record*"))
        for path in paths:
            reader = ArrayRecordReader(str(path))
            ours += reader.read_all()
            reader.close()
        assert ours == theirs and len(paths) == files
    train = open_source(f"tfds:{out}", "train")
    assert train.class_names == ("cat", "dog", "eel")
    assert [(r.image, r.label) for r in train] == [(jpeg(i), i % 3) for i in range(9)]
    # Every other feature and what was said of the set are there still.
    example = tfds.builder_from_directory(out).as_data_source("test")[1]
    assert example["id"] == b"pet 10" and example["box"].tolist() == [0.0, 0.25, 0.5, 1.0]
    info = json.loads((out / "dataset_info.json").read_text())
    assert (info["name"], info["version"], info["description"]) == ("pets", "2.3.0", "Pets.")
    assert info["location"] == {"urls": ["https://pets.org"]} and info["fileFormat"] == "array_record"
    assert [s["shardLengths"] for s in info["splits"]] == [["4", "4", "1"], ["2"]]
    assert "tensorflow" not in sys.modules


def test_a_broken_image_or_record_in_tfrecord_is_named(tmp_path):
    place = write_tfrecord(tmp_path / "pets", {"train": [3]}, image=lambda i: b"no image" if i == 1 else jpeg(i))
    path = next(place.glob("*tfrecord*"))
    first = struct.unpack("<Q", path.read_bytes()[:8])[0]
    data = bytearray(path.read_bytes())
    data[12:40] = b"\xff" * 28
    path.write_bytes(data)
    assert first > 40
    expect("images: 2", f"tfds:{place}", tmp_path / "out", RunFailed)
    lines = (tmp_path / "out" / "broken.txt").read_text().splitlines()
    assert lines[0].startswith(f"the record train 0 in {path} is broken: ")
    assert lines[1].startswith(f"the image train 1 in {path} is ")


def test_incomplete_or_swapped_tfrecord_files_are_one_error(tmp_path):
    place = write_tfrecord(tmp_path / "pets", {"train": [2, 3]})
    path = next(place.glob("*00001-of*"))
    whole = path.read_bytes()
    second = 16 + struct.unpack("<Q", whole[:8])[0]
    for number, cut in enumerate((5, 12, 300, second + 3, second + 300, len(whole) - 1)):
        path.write_bytes(whole[:cut])
        expect(f"{path} .* record ", f"tfds:{place}", tmp_path / f"out{number}")
    path.write_bytes(whole[:second])
    expect(f"{path} .*\\b1 records.*\\b3\\b", f"tfds:{place}", tmp_path / "few")
    path.write_bytes(whole[:second] * 4)
    expect(f"{path} .*\\b4 records.*\\b3\\b", f"tfds:{place}", tmp_path / "many")
    path.write_bytes(struct.pack("<Q", 2**63) + whole[8:])
    expect("record 1 of 3", f"tfds:{place}", tmp_path / "huge")
    # The shard made of the other file alone is kept.
    assert not list((tmp_path / "huge").glob("*00001-of-00002"))
    path.unlink()
    expect(f"{path} .*No such file", f"tfds:{place}", tmp_path / "gone")


def test_tfds_mistakes(tmp_path):
    expect("dataset_info.json", f"tfds:{tmp_path}", tmp_path / "out")
    place = write_tfrecord(tmp_path / "array", {"train": [1]}, file_format="array_record")
    expect("stored as array_record", f"tfds:{place}", tmp_path / "out")
    place = write_tfrecord(tmp_path / "riegeli", {"train": [1]}, file_format="riegeli")
    expect("riegeli.*tfrecord", f"tfds:{place}", tmp_path / "out")
    place = write_tfrecord(tmp_path / "empty", {"train": [0]})
    expect(f"{place} has no examples", f"tfds:{place}", tmp_path / "out")
    place = write_tfrecord(tmp_path / "words", {"train": [1]})
    features = json.loads((place / "features.json").read_text())
    del features["featuresDict"]["features"]["image"]
    (place / "features.json").write_text(json.dumps(features))
    expect(f"{place} .*image", f"tfds:{place}", tmp_path / "out")
    place = write_tfrecord(tmp_path / "pets", {"train": [1]})
    (place / "dataset_info.json").write_text("{")
    expect(f"{place} cannot be opened", f"tfds:{place}", tmp_path / "out")
    (place / "dataset_info.json").unlink()
    expect("dataset_info.json", f"tfds:{place}", tmp_path / "out")
