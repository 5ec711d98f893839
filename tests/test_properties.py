"""What holds for every input of a kind, tried by hypothesis: crops, experiments and their flags, splits, classes."""

import contextlib
import dataclasses
import io
import itertools
import json
import os
import shutil
import string
import tempfile
from pathlib import Path
from typing import get_args

import numpy as np
from helpers import with_value
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from inception_jax import config
from inception_jax.cli import experiment_files
from inception_jax.config import Experiment, Resize
from inception_jax.data import multicrop, preprocess, sources
from inception_jax.data.exclude import excluded
from inception_jax.data.multicrop import Protocol
from inception_jax.data.sources import Record, Source, class_name, open_source, sample
from inception_jax.errors import UserError
from inception_jax.system.names import read_names

# The same examples each time, and no deadline: the machine may be loaded.
settings.register_profile("suite", derandomize=True, deadline=None, max_examples=60, database=None)
settings.register_profile("long", deadline=None, max_examples=5_000, suppress_health_check=list(HealthCheck))
settings.load_profile("suite")

RESIZES = st.sampled_from(get_args(Resize))
SIDES = st.one_of(st.integers(1, 12), st.integers(60, 400), st.integers(1_000, 4_000))


@st.composite
def pictures(draw):
    """uint8 [H, W, 3] of any shape, in a few colours; and its least and greatest value in each channel."""
    height, width = draw(SIDES), draw(SIDES)
    assume(height * width <= 400_000)
    colours = draw(st.lists(st.tuples(*[st.integers(0, 255)] * 3), min_size=1, max_size=3))
    pattern = np.arange(height)[:, None] // 3 + np.arange(width) // 5
    image = np.array(colours, np.uint8)[pattern % len(colours)]
    return image, np.min(colours, axis=0), np.max(colours, axis=0)


def check_crop(crop, size, least, most, resize):
    assert crop.dtype == np.uint8 and crop.shape == (size, size, 3)
    if "bicubic" in resize and (least != most).any():
        return  # It overshoots at edges.
    assert (crop >= least).all() and (crop <= most).all()


# Crops


@given(pictures(), st.integers(1, 90), st.floats(0, 1, exclude_min=True), RESIZES)
def test_a_central_crop_of_any_image_shows_its_colours(picture, size, fraction, resize):
    image, least, most = picture
    check_crop(preprocess.central_crop(image, size=size, fraction=fraction, resize=resize), size, least, most, resize)


@given(
    pictures(),
    st.integers(1, 90),
    st.tuples(st.floats(1e-6, 1), st.floats(1e-6, 1)).map(sorted).map(tuple),
    st.tuples(st.floats(1e-3, 1e3), st.floats(1e-3, 1e3)).map(sorted).map(tuple),
    st.booleans(),
    RESIZES,
    st.integers(0, 2**32),
)
def test_a_training_crop_of_any_image_shows_its_colours(picture, size, area, aspect, flip, resize, seed):
    image, least, most = picture
    options = {"size": size, "area": area, "aspect": aspect, "resize": resize}
    crop = preprocess.distorted_crop(image, np.random.default_rng(seed), flip=flip, **options)
    check_crop(crop, size, least, most, resize)
    other = preprocess.distorted_crop(image, np.random.default_rng(seed), flip=not flip, **options)
    assert np.array_equal(crop, other) or np.array_equal(crop, other[:, ::-1])


@given(
    pictures(),
    st.integers(1, 60),
    st.one_of(
        st.builds(Protocol),
        st.builds(
            Protocol,
            st.sampled_from([10, 12, 144]),
            st.lists(st.integers(224, 400), unique=True, max_size=2).map(tuple),
        ),
    ),
    RESIZES,
)
@settings(max_examples=30)
def test_the_crops_of_any_image_are_as_many_as_the_protocol_says_and_show_its_colours(picture, size, protocol, resize):
    image, least, most = picture
    views = multicrop.cut(image, protocol, size=size, central_fraction=0.875, resize=resize)
    assert len(views) == protocol.views
    for view in views:
        check_crop(view, size, least, most, resize)


@given(st.integers(1, 65_535), st.integers(1, 65_535), st.integers(1, 600), st.sampled_from([10, 12, 144]))
def test_every_crop_lies_within_the_image(height, width, size, crops):
    protocol = Protocol(crops)
    shapes = multicrop.scaled_shapes(height, width, protocol, size)
    for box in multicrop.boxes(shapes, protocol, size):
        assert 0 <= box.top <= box.top + box.side <= shapes[box.scale][0]
        assert 0 <= box.left <= box.left + box.side <= shapes[box.scale][1]


# Experiments and flags

FIELDS = list(config.to_flat_dict(Experiment()))
SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(max_size=5),
    st.sampled_from(["float32", "stop", "area"]),
)
VALUES = st.one_of(
    SCALARS,
    st.lists(SCALARS, max_size=3),
    st.lists(SCALARS, max_size=3).map(tuple),
    st.dictionaries(st.text(max_size=2), SCALARS, max_size=2),
)


@given(st.sampled_from(FIELDS), VALUES)
@settings(max_examples=400)
def test_any_value_of_a_field_is_kept_or_refused_by_name(field, value):
    experiment = with_value(field, value)
    try:
        config.check(experiment)
    except UserError as error:
        assert str(error).startswith(f"{field} is {value!r}; it must be ") and "\n" not in repr(str(error))
        return
    again = config.from_dict(json.loads(json.dumps(config.to_dict(experiment))))
    assert again == experiment or value != value  # NaN


JSON = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=6,
)


@given(
    st.one_of(
        JSON,
        st.dictionaries(st.sampled_from(["seed", "model", "data", "train"]), JSON),
        st.dictionaries(st.just("model"), st.dictionaries(st.sampled_from(["name", "width", "depths"]), JSON)),
    )
)
@settings(max_examples=200)
def test_any_json_is_an_experiment_or_refused(values):
    with contextlib.suppress(UserError):
        experiment = config.from_dict(values)
        given = {
            f"{section}.{name}" for section, fields in values.items() if isinstance(fields, dict) for name in fields
        }
        for field, value in config.to_flat_dict(experiment).items():
            section, _, name = field.rpartition(".")
            if field in given:
                said = values[section][name]
                assert value == (tuple(said) if isinstance(said, list) else said) or value != value
            elif not section and field in values:
                assert value == values[field]


WORDS = st.one_of(
    st.integers().map(str),
    st.floats().map(str),
    st.sampled_from(
        ["None", "True", "1e3", "0x10", "1_000", "٣", "", " 1", "-", "--", "float32", "area", "nan", "1,2", "-1"]
    ),
    st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=6),
)


@given(st.sampled_from(FIELDS), st.lists(WORDS, max_size=3))
@settings(max_examples=40)
def test_any_words_of_a_flag_are_the_value_or_refused(field, words):
    """The value is what Python reads in the words; no other field changes."""
    said = io.StringIO()
    flag = f"--{field.replace('_', '-')}"
    try:
        with contextlib.redirect_stderr(said), contextlib.redirect_stdout(said):
            changed = experiment_files.override(Experiment(), [flag, *words], prog="train")
    except UserError as error:
        assert "\n" not in str(error) and field.rpartition(".")[2].replace("_", "-") in str(error).replace("_", "-")
        return
    except SystemExit as end:
        assert end.code == 2 and said.getvalue() or any(word in ("-h", "--help") for word in words)
        return
    differ = config.differences(changed, Experiment()) | config.differences(Experiment(), changed)
    values = config.to_flat_dict(changed)
    default = config.to_flat_dict(Experiment())
    assert {name for name in FIELDS if values[name] != default[name]} <= {field}
    assert set(differ) <= {field}
    value = values[field]
    if value is None:
        assert words == ["None"]
    elif isinstance(value, bool):
        assert words in (["True"], ["False"], [])
    elif isinstance(value, tuple):
        assert [float(word) for word in words] == list(value)
    else:
        assert words == [value] if isinstance(value, str) else float(words[0]) == value


# Splits


NAMES = (
    st.text(string.ascii_lowercase + string.digits + "_- .é", min_size=1, max_size=8)
    .map(str.strip)
    .filter(lambda name: name and not name.startswith(".") and name not in config_names())
)


def config_names():
    return {"train", "training", "val", "valid", "validation", "dev", "test"}


TREES = st.dictionaries(NAMES, st.sets(NAMES, min_size=1, max_size=25), min_size=2, max_size=4)


@contextlib.contextmanager
def folder_of(tree):
    root = Path(tempfile.mkdtemp())
    try:
        for name, files in tree.items():
            (root / name).mkdir()
            for file in files:
                (root / name / f"{file}.jpg").touch()
        yield root
    finally:
        shutil.rmtree(root)


@given(TREES)
@settings(max_examples=30)
def test_of_a_folder_every_image_is_in_one_split_and_each_class_in_proportion(tree):
    with folder_of(tree) as root:
        try:
            train, validation = (open_source(f"folder:{root}", split) for split in ("train", "validation"))
        except UserError as error:
            assert str(root) in str(error) and "\n" not in str(error)
            assert all(len(files) == 1 for files in tree.values()), error
            return
        assert train.class_names == validation.class_names == tuple(sorted(tree))
        found = [[source.locate(index) for index in range(len(source))] for source in (train, validation)]
        images = {
            (f"{root}/{name}/{file}.jpg", sorted(tree).index(name)) for name, files in tree.items() for file in files
        }
        assert set(itertools.chain(*found)) == images and sum(map(len, found)) == len(images)
        for label, name in enumerate(sorted(tree)):
            held = [path for path, its in found[1] if its == label]
            assert abs(len(held) - len(tree[name]) / 10) < 1
        # Always the same ones.
        assert [open_source(f"folder:{root}", "validation").locate(i) for i in range(len(validation))] == found[1]


def numbered(count, classes=3):
    def locate(index):
        return f"image {index}", index % classes

    return Source(
        tuple("abcdefgh"[:classes]), count, lambda index: Record(b"", index % classes, f"image {index}"), locate
    )


@given(st.lists(st.sampled_from("abcdefg")), st.lists(st.sampled_from("abcdefg")), st.integers(0, 20))
def test_classes_are_matched_by_name_or_refused_by_name(theirs, known, length):
    source = dataclasses.replace(numbered(length, max(len(theirs), 1)), class_names=tuple(theirs or "z"))
    before = [source.class_names[source[index].label] for index in range(length)]
    try:
        matched = sources.with_classes(source, known, origin="folder:x", trained="runs/y")
    except UserError as error:
        twice = {name for names in (source.class_names, known) for name in names if list(names).count(name) > 1}
        assert any(repr(name) in str(error) for name in twice | (set(source.class_names) - set(known)))
        return
    assert matched.class_names == tuple(known) and len(matched) == length
    assert [known[matched[index].label] for index in range(length)] == before
    assert [known[matched.locate(index)[1]] for index in range(length)] == before


@given(st.integers(0, 60), st.integers(0, 60))
def test_a_sample_is_of_different_images_in_order(length, count):
    source = numbered(length)
    try:
        drawn = sample(source, count)
    except UserError:
        assert count > length
        return
    names = [drawn[index].name for index in range(len(drawn))]
    numbers = [int(name.split()[1]) for name in names]
    assert len(names) == count and numbers == sorted(set(numbers))
    assert [drawn.locate(index)[0] for index in range(count)] == names


@given(
    st.one_of(st.text(max_size=30), st.lists(st.integers(-2, 40)).map(lambda numbers: "\r\n".join(map(str, numbers))))
)
def test_any_exclude_list_is_followed_or_refused_by_line(text):
    source = Source(
        ("a",), 30, lambda index: Record(b"", 0, ""), lambda index: (f"ILSVRC2012_val_{index + 1:08d}.JPEG", 0)
    )
    with tempfile.NamedTemporaryFile() as file:
        Path(file.name).write_bytes(text.encode(errors="surrogatepass"))
        try:
            found = excluded(file.name, source)
        except UserError as error:
            assert file.name in str(error)
            return
    assert found.tolist() == sorted({int(line) - 1 for line in text.split()})


CELLS = st.one_of(
    st.sampled_from(["a.png", "b.png", "path", "label", "split", "train", "val", "cat", "dog", ""]), st.text()
)
ROWS = st.lists(st.lists(CELLS, max_size=4), max_size=8)


@given(ROWS, st.sampled_from(",;\t"), st.sampled_from(["utf-8", "utf-8-sig", "utf-16"]))
def test_any_label_file_gives_its_images_or_is_refused_by_name(rows, separator, encoding):
    with tempfile.TemporaryDirectory() as folder:
        for name in ("a.png", "b.png"):
            (Path(folder) / name).touch()
        path = Path(folder) / "labels.csv"
        text = "\n".join(separator.join(row) for row in rows)
        path.write_bytes(text.encode(encoding, errors="surrogatepass"))
        try:
            found = [open_source(f"csv:{path}", split) for split in ("train", "validation")]
        except UserError as error:
            assert "labels.csv" in str(error) and "\n" not in str(error)
            return
    names = [source.name(index) for source in found for index in range(len(source))]
    assert len(names) == len(set(names)) and {os.path.basename(name) for name in names} <= {"a.png", "b.png"}


@given(st.text(), st.sampled_from(["utf-8", "utf-8-sig", "utf-16"]))
def test_any_file_of_class_names_is_read_line_by_line_or_refused_by_name(text, encoding):
    with tempfile.NamedTemporaryFile() as file:
        Path(file.name).write_bytes(text.encode(encoding, errors="surrogatepass"))
        try:
            names = read_names(Path(file.name))
        except UserError as error:
            assert file.name in str(error) and "\n" not in str(error)
            return
    assert all(name and "\n" not in name and class_name(name) == name for name in map(class_name, names))
