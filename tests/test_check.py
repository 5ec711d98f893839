"""`data check`: counts in a folder of known files, and exit codes."""

import dataclasses
import io
import json
import threading

import numpy as np
import PIL.Image
import pytest

from inception_jax.cli.data import Check
from inception_jax.data.check import TRAITS, Spread, check, table
from inception_jax.data.sources import SplitOptions
from inception_jax.errors import UserError
from inception_jax.system.progress import Progress

PIXELS = np.random.default_rng(0).integers(0, 256, (40, 60, 3), np.uint8)


def encode(mode, format, size=(60, 40), **options):
    buffer = io.BytesIO()
    PIL.Image.fromarray(PIXELS).convert(mode).resize(size).save(buffer, format, **options)
    return buffer.getvalue()


def turned():
    exif = PIL.Image.Exif()
    exif[0x0112] = 6
    return encode("RGB", "JPEG", exif=exif)


def odd_exif():
    # A header that says Exif, and then no TIFF.
    jpeg, payload = encode("RGB", "JPEG"), b"Exif\0\0" + b"nonsense" * 3
    return jpeg[:2] + b"\xff\xe1" + (len(payload) + 2).to_bytes(2, "big") + payload + jpeg[2:]


def palette():
    image = PIL.Image.new("P", (60, 40))
    image.putpalette([255, 0, 0, 0, 255, 0])
    buffer = io.BytesIO()
    image.save(buffer, "PNG", transparency=0)
    return buffer.getvalue()


GOOD = {
    "train/cat/1.jpg": encode("RGB", "JPEG"),
    "train/cat/2.jpg": encode("L", "JPEG", (30, 20)),
    "train/cat/3.jpg": encode("RGB", "PNG", (90, 50)),
    "train/cat/4.png": encode("RGBA", "PNG"),
    "train/dog/1.jpg": encode("CMYK", "JPEG"),
    "train/dog/2.jpg": turned(),
    "train/dog/3.png": encode("LA", "PNG"),
    "train/dog/4.png": palette(),
    "train/dog/5.jpg": odd_exif(),
    "val/cat/1.jpg": encode("RGB", "JPEG"),
}
BROKEN = {
    "train/cat/cut.jpg": GOOD["train/cat/1.jpg"][:-300],
    "train/dog/text.png": b"no image",
    "train/dog/void.jpg": b"",
}


def write(root, files):
    for name, content in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(content)
    return f"folder:{root}"


def test_every_kind_is_counted_and_every_broken_file_named(tmp_path):
    report = check(write(tmp_path, GOOD | BROKEN), threads=2)
    train, validation = report.splits["train"], report.splits["validation"]
    sizes = [len(content) for name, content in GOOD.items() if name.startswith("train")]
    assert report.class_names == ("cat", "dog") and report.missing == {} and report.broken == 3
    assert (train.images, train.bytes, train.classes) == (9, sum(sizes), (4, 5))
    assert train.formats == {"JPEG": 5, "PNG": 4}
    assert train.traits == {"grey": 2, "CMYK": 1, "with alpha": 3, "turned by EXIF": 1} | dict.fromkeys(TRAITS[4:], 0)
    # 30 once, 90 once, 60 otherwise; turned by EXIF or not, as the pixels are stored.
    assert (train.width, train.height) == (Spread(30, 60, 90), Spread(20, 40, 50))
    assert train.image_bytes == Spread(min(sizes), sorted(sizes)[4], max(sizes))
    assert [str(tmp_path / name) in sentence for name, sentence in zip(BROKEN, train.broken, strict=True)] == [True] * 3
    assert (validation.images, validation.classes, validation.broken) == (1, (1, 0), ())


def test_the_command_prints_the_report_and_exits_with_1_for_a_broken_image(tmp_path, capsys):
    spec = write(tmp_path, GOOD | BROKEN)
    assert Check(spec)([]) == 1
    out = capsys.readouterr().out
    assert all(str(tmp_path / name) in out for name in BROKEN)
    rows = {line[:20].strip(): line[20:].split() for line in out.splitlines()}
    assert rows["images"] == ["9", "1"] and rows["broken images"] == ["3", "0"] and rows["dog"] == ["5", "0"]
    assert rows["classes with images"] == ["2", "1"]
    assert rows["width in pixels"] == "30 / 60 / 90 60 / 60 / 60".split()
    for name in BROKEN:
        (tmp_path / name).unlink()
    assert Check(spec, json=True, threads=1)([]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed == json.loads(json.dumps(dataclasses.asdict(check(spec, threads=3))))
    assert printed["splits"]["train"]["classes"] == [4, 5]


def test_a_split_that_does_not_exist_is_reported(tmp_path):
    report = check(
        write(tmp_path, {"val/cat/1.jpg": GOOD["val/cat/1.jpg"], "val/dog/1.jpg": GOOD["val/cat/1.jpg"]}), threads=1
    )
    assert list(report.splits) == ["validation"] and report.broken == 0
    assert f"folder:{tmp_path}" in report.missing["train"] and report.missing["train"] in table(report)


def test_mistakes(tmp_path):
    with pytest.raises(UserError, match="none "):
        check(f"folder:{tmp_path}/none", threads=1)
    with pytest.raises(UserError, match="threads.* 0.* 1 or more"):
        check("digits", threads=0)


def test_a_split_of_broken_images_alone(tmp_path):
    files = {"train/cat/1.jpg": b"", "train/dog/1.jpg": b"", "val/cat/1.jpg": GOOD["val/cat/1.jpg"]}
    report = check(write(tmp_path, files), threads=1)
    train = report.splits["train"]
    assert (train.images, train.bytes, train.classes, train.width, train.formats) == (0, 0, (0, 0), None, {})
    assert "0" in table(report)


def test_arrays_and_more_images_than_a_thread_takes_at_once():
    report = check("digits")
    train, validation = report.splits["train"], report.splits["validation"]
    assert (train.images, train.bytes, validation.images) == (1442, 1442 * 64, 355)
    assert train.formats == {"array": 1442} and train.traits["grey"] == 1442
    assert (train.width, train.image_bytes) == (Spread(8, 8, 8), Spread(64, 64, 64))
    # load_digits has 178, 182, 177, 183, 181, 182, 181, 179, 174 and 180 of each; a fifth, rounded down.
    assert validation.classes == (35, 36, 35, 36, 36, 36, 36, 35, 34, 36)


def test_many_classes_are_folded_to_those_with_the_fewest_images(tmp_path):
    image = GOOD["train/cat/1.jpg"]
    # Class 7 has one image, class 9 two, the others three.
    counts = {f"class{i:02}": {7: 1, 9: 2}.get(i, 3) for i in range(51)}
    files = {f"train/{name}/{i}.jpg": image for name, count in counts.items() for i in range(count)}
    files["val/class00/0.jpg"] = image
    report = check(write(tmp_path, files), threads=2)
    text = table(report)
    assert "fewest in train: class07 1, class09 2, class00 3, class01 3, class02 3\n" in text + "\n"
    assert len(text.splitlines()) < 25 and len(report.splits["train"].classes) == 51
    rows = {line[:20].strip(): line[20:].split() for line in text.splitlines()}
    assert rows["images of a class"] == "1 / 3 / 3 0 / 0 / 1".split()


def test_an_interruption_ends_the_threads(tmp_path, monkeypatch):
    def interrupt(*arguments):
        raise KeyboardInterrupt

    before = threading.active_count()
    monkeypatch.setattr(Progress, "show", interrupt)
    with pytest.raises(KeyboardInterrupt):
        check("digits", threads=2)
    assert threading.active_count() == before


def test_faults_outside_the_pixels_are_listed_and_no_error(tmp_path, capsys):
    jpeg = GOOD["train/cat/1.jpg"]
    files = {f"train/cat/{i:02}.jpg": jpeg[:-2] + bytes(30 + i) + jpeg[-2:] for i in range(12)}
    assert Check(write(tmp_path, GOOD | files), threads=2)([]) == 0
    out = capsys.readouterr().out
    rows = {line[:20].strip(): line[20:].split() for line in out.splitlines()}
    assert rows["with faults"] == ["12", "0"] and "and 2 more" in out
    assert f"{tmp_path}/train/cat/00.jpg: Corrupt JPEG data" in out


def test_duplicates_are_counted_by_kind_and_named(tmp_path):
    a, b, c = (encode("RGB", "PNG", (20 + i, 20)) for i in range(3))
    files = {
        # Once in each class and twice in one, and once in validation.
        **{f"train/{name}.png": a for name in ("cat/a1", "cat/a2", "dog/a1")},
        "val/cat/a3.png": a,
        # In both splits, and twice in validation.
        **{f"{name}.png": b for name in ("train/dog/b", "val/dog/b1", "val/dog/b2")},
        "train/cat/c.png": c,
        # Broken images are no duplicates.
        **{f"train/cat/x{i}.png": b"" for i in range(2)},
    }
    report = check(write(tmp_path, files), threads=2)
    found, text = report.duplicates, table(report)
    assert (found.across_splits, found.between_classes, found.within_class) == (3, 4, 2)

    def paths(*names):
        return tuple(f"{tmp_path}/{name}.png" for name in names)

    assert found.examples["between_classes"] == paths("train/cat/a1", "train/dog/a1")
    # Of two groups the one with the smaller hash is the example.
    assert found.examples["across_splits"] in (paths("train/cat/a1", "val/cat/a3"), paths("train/dog/b", "val/dog/b1"))
    assert found.examples["within_class"] in (paths("train/cat/a1", "train/cat/a2"), paths("val/dog/b1", "val/dog/b2"))
    assert "validation images that are also training images, which lowers the validation error: 3, " in text


def test_classes_that_only_one_split_has_are_told(tmp_path):
    # As 'train[:90%]' leaves them of a set in the order of its classes.
    files = {f"train/{name}/{i}.jpg": encode("RGB", "JPEG", quality=80 + i) for name in ("cat", "dog") for i in (1, 2)}
    files["val/dog/3.jpg"] = encode("RGB", "JPEG", quality=90)
    assert "\n- classes without validation images: 1, cat" in table(check(write(tmp_path, files), threads=1))
    report = check(f"folder:{tmp_path}", threads=1)
    swapped = {"train": report.splits["validation"], "validation": report.splits["train"]}
    assert "\n- classes without training images: 1, cat" in table(dataclasses.replace(report, splits=swapped))


def test_single_images_colours_and_sizes_are_told(tmp_path):
    one = io.BytesIO()
    PIL.Image.new("RGB", (60, 40), (200, 60, 60)).save(one, "JPEG")
    files = {f"{split}/cat/{i}.jpg": encode("RGB", "JPEG", quality=90 + i) for i, split in enumerate(("train", "val"))}
    same = check(write(tmp_path, files | {"train/dog/1.jpg": one.getvalue()}), threads=1)
    assert same.splits["train"].one_colour == (f"{tmp_path}/train/dog/1.jpg",)
    text = table(same)
    assert "classes of a single training image: 2, cat, dog" in text and "all, 60 x 40 pixels" in text
    assert f"images of a single colour: 1, {tmp_path}/train/dog/1.jpg" in text
    files |= {
        f"train/{name}/{i}.jpg": GOOD["train/cat/2.jpg"][:-2] + bytes(i) + b"\xff\xd9" + bytes([j])
        for j, name in enumerate(("cat", "dog"))
        for i in (3, 4)
    }
    files["val/dog/5.jpg"] = encode("RGB", "JPEG", quality=70)
    (tmp_path / "train/dog/1.jpg").unlink()
    assert "worth a look" not in table(check(write(tmp_path, files), threads=1))


def test_what_is_done_with_more_than_eight_bits_is_printed(tmp_path):
    buffer = io.BytesIO()
    PIL.Image.fromarray(np.arange(2400, dtype=np.uint16).reshape(40, 60) * 27).save(buffer, "PNG")
    report = check(write(tmp_path, GOOD | {"train/cat/16.png": buffer.getvalue()}), threads=1)
    assert report.splits["train"].traits["over 8 bits"] == 1 and "divided by 256" in table(report)


def test_how_the_source_was_understood_is_reported(tmp_path, capsys):
    image = GOOD["train/cat/1.jpg"]
    files = {
        f"{split}/{name}/{i}.jpg": image for split in ("train", "valid", "test") for name in "ab" for i in range(2)
    }
    junk = {"train/a/x.txt": b"", "valid/b/x.txt": b"", "valid/b/Thumbs.db": b"", "notes.md": b""}
    spec = write(tmp_path, files | junk)
    report = check(spec, threads=1)
    assert report.passed_over == {".txt": 2, ".md": 1, "Thumbs.db": 1}
    assert report.layout == "training images in train/, validation images in valid/, test/ not used"
    assert Check(spec, threads=1)([]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[1] == f"{report.layout.capitalize()}." and "2 .txt, 1 .md." in lines[2] and "1 Thumbs.db." in lines[3]
    # As one split, of which a part is held out.
    report = check(spec + "/train", threads=1, options=SplitOptions(validation_fraction=0.5))
    assert {name: split.images for name, split in report.splits.items()} == {"train": 2, "validation": 2}
    assert report.passed_over == {".txt": 1} and "50 % of each class" in table(report)
    assert Check(spec, validation_split="test", threads=1)([]) == 0
    assert "in test/, valid/ not used" in capsys.readouterr().out
    with pytest.raises(UserError, match="data.validation_fraction is 1.0"):
        Check(spec, validation_fraction=1.0)([])
