"""Damaged files of every kind that is read: the right answer or one sentence, never a traceback, a hang or all memory.

One valid file of each kind is changed at random, by a seed. `MUTATIONS=1000 pytest tests/test_mutations.py` is the long
form of this test.
"""

import contextlib
import dataclasses
import hashlib
import io
import json
import os
import re
import resource
import shutil
import tarfile
import time
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import jax
import numpy as np
import PIL.Image
import prepare_helpers
import pytest
from helpers import write_tfds
from prepare_helpers import jpeg
from test_prepare import write_tfrecord
from test_sources import write_idx

from inception_jax import checkpoint, compare, runs
from inception_jax.data import open_source, preprocess
from inception_jax.data.prepare.imagenet import list_imagenet
from inception_jax.data.prepare.tfrecord import list_tfrecord
from inception_jax.data.preprocess import Preprocessing
from inception_jax.errors import BrokenImage, RunFailed, UserError
from inception_jax.evaluation import predictions
from inception_jax.evaluation.predictions import Images, Model, Predictions
from inception_jax.weights import importer, metadata, saved_metadata
from inception_jax.weights.checkpoint import load_checkpoint
from inception_jax.weights.peers import files

COUNT = int(os.environ.get("MUTATIONS", "10"))
SECONDS = 60  # of one reading, on a loaded machine; a hang ends the suite
MEMORY = 2 << 30  # more than before, in bytes
GOLDEN = Path(__file__).parent / "golden" / "format_1.tar.xz"


# Changes


def mutate(data: bytes, rng: np.random.Generator) -> bytes:
    """The bytes after one to three changes, half of them near the start, where most formats have their numbers."""
    text = data[:1].isascii() and b"\0" not in data
    for _ in range(rng.integers(1, 4)):
        change = rng.choice(TEXT_CHANGES if text and rng.random() < 0.6 else BYTE_CHANGES)
        near = min(len(data), 512) if rng.random() < 0.5 else len(data)
        place = int(rng.integers(max(near, 1)))
        data = change(data, place, rng)
    return data


def flip(data, place, rng):
    return data[:place] + bytes([data[place] ^ 1 << rng.integers(8)]) + data[place + 1 :] if data else data


def extreme(data, place, rng):
    size = int(rng.choice([1, 2, 4, 8]))
    value = int(rng.choice([0, 1, 0x7F, 0x80, 0xFF]))
    order = rng.choice(["big", "little"])
    number = {0: 0, 1: 1, 0x7F: 2 ** (8 * size - 1) - 1, 0x80: 2 ** (8 * size - 1), 0xFF: 2 ** (8 * size) - 1}[value]
    return data[:place] + number.to_bytes(size, order) + data[place + size :]


def cut_short(data, place, rng):
    return data[:place]


def leave_out(data, place, rng):
    return data[:place] + data[place + int(rng.integers(1, 64)) :]


def repeat(data, place, rng):
    part = data[place : place + int(rng.integers(1, 64))]
    return data[:place] + part * int(rng.integers(2, 40)) + data[place:]


def insert(data, place, rng):
    return data[:place] + rng.bytes(int(rng.integers(1, 32))) + data[place:]


def blank(data, place, rng):
    size = int(rng.integers(1, 200))
    return data[:place] + bytes([rng.choice([0, 255])]) * len(data[place : place + size]) + data[place + size :]


def transplant(data, place, rng):
    size, other = int(rng.integers(1, 100)), int(rng.integers(max(len(data), 1)))
    return data[:place] + data[other : other + size] + data[place + size :]


TOKEN = re.compile(rb'"(?:[^"\\]|\\.)*"|-?\d[\d.eE+-]*|true|false|null')
VALUES = (
    b'0 -1 1 0.5 1e999 -1e-400 NaN 99999999999999999999999 null true "" "x" "\\ud800" [] {} [1,"a"] {"a":1}'.split()
)


def other_value(data, place, rng):
    """Replaces a number, a text or a word of JSON."""
    tokens = list(TOKEN.finditer(data, place)) or list(TOKEN.finditer(data))
    if not tokens:
        return data
    token = tokens[int(rng.integers(min(len(tokens), 30)))]
    return data[: token.start()] + bytes(rng.choice(VALUES)) + data[token.end() :]


BYTE_CHANGES = [flip, extreme, cut_short, leave_out, repeat, insert, blank, transplant]
TEXT_CHANGES = [other_value, other_value, leave_out, transplant]


# Kinds


@dataclasses.dataclass(frozen=True)
class Kind:
    """A valid file or several, and what reads them."""

    write: Callable[[Path], list[Path]]
    """Makes the files in an empty folder and returns those that are to be changed."""
    read: Callable[[Path], Any]
    """Reads them, and checks what can be checked of the answer."""
    share: float = 1.0
    """Of the changes: less for what is slow to read."""
    checked: bool = False
    """Whether it has checksums, so that every answer must be that of the file as it was."""


def encoded(image, form, **options):
    buffer = io.BytesIO()
    image.save(buffer, form, **options)
    return buffer.getvalue()


def picture(mode="RGB", size=(40, 30)):
    pixels = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), np.uint8)
    if mode == "I;16":
        return PIL.Image.fromarray(pixels[..., 0].astype(np.uint16) * 257)
    return PIL.Image.fromarray(pixels).convert(mode)


def image_kind(*images):
    def write(folder):
        paths = [folder / f"{number}.image" for number in range(len(images))]
        for path, data in zip(paths, images, strict=True):
            path.write_bytes(data)
        return paths

    def read(folder):
        for path in sorted(folder.iterdir()):
            pixels = preprocess.decode(path.read_bytes(), str(path))
            assert pixels.dtype == np.uint8 and pixels.ndim == 3 and pixels.shape[2] == 3 and pixels.size
            assert pixels.shape[0] * pixels.shape[1] <= 2**26

    return Kind(write, read)


def write_imagenet(folder):
    tars = {"train": prepare_helpers.TRAINING, "val": prepare_helpers.VALIDATION}
    for split, members in tars.items():
        (folder / f"ILSVRC2012_img_{split}.tar").write_bytes(prepare_helpers.tar(members))
    return sorted(folder.iterdir())


def read_dataset(dataset):
    for split in dataset.splits:
        for number in range(split.length):
            example = split.read(number)
            for image in example.images:
                preprocess.decode(image, example.name)


def read_source(spec):
    for split in ("train", "validation"):
        source = open_source(spec, split)
        for number in range(len(source)):
            record = source[number]
            assert 0 <= record.label < source.num_classes
            preprocess.decode(record.image, record.name)


def write_array_record_set(folder):
    return sorted(write_tfds(folder, "pets", splits={"train": 4, "validation": 2}).iterdir())


def write_tfrecord_set(folder):
    return sorted(write_tfrecord(folder / "pets" / "1.0.0", {"train": [3, 1], "validation": [2]}).iterdir())


def write_idx_set(folder):
    for split, count in (("train", 6), ("t10k", 3)):
        suffix = "" if split == "train" else ".gz"
        images = np.arange(count * 20, dtype=np.uint8).reshape(count, 4, 5)
        write_idx(folder / f"{split}-images-idx3-ubyte{suffix}", images)
        write_idx(folder / f"{split}-labels-idx1-ubyte{suffix}", np.arange(count, dtype=np.uint8) % 3)
    return sorted(folder.iterdir())


def write_label_file(folder):
    lines = ["path,label,split"]
    for number in range(8):
        (folder / f"{number}.jpg").write_bytes(jpeg(number))
        lines.append(f"{number}.jpg,{'cat' if number % 2 else 'dog'},{'val' if number > 5 else 'train'}")
    (folder / "labels.csv").write_text("\n".join(lines))
    return [folder / "labels.csv"]


def write_class_names(folder):
    (folder / "names.txt").write_text("caf\u00e9\r\ndog\r\nfox\r\n", encoding="utf-8")
    return [folder / "names.txt"]


def read_class_names(folder):
    names = importer.read_class_names(folder / "names.txt", 3)
    assert len(names) == 3 and all(name and "\n" not in name for name in names)


def write_timm_configuration(folder):
    configuration = {
        "architecture": "inception_v4",
        "label_names": {"0": "cat", "1": "dog", "2": "fox"},
        "pretrained_cfg": {
            "input_size": [3, 299, 299],
            "crop_pct": 0.875,
            "interpolation": "bicubic",
            "mean": [0.5, 0.5, 0.5],
            "std": [0.5, 0.5, 0.5],
        },
    }
    (folder / "config.json").write_text(json.dumps(configuration))
    return [folder / "config.json"]


def read_timm_configuration(folder):
    path = folder / "model.safetensors"
    preprocessing = importer._peer_preprocessing("timm", "inception_v4", path)
    names = importer._peer_class_names(path, 3, 0)
    assert len(names) in (0, 3) and Preprocessing.from_dict(preprocessing.to_dict()) == preprocessing


def write_predictions(folder):
    network = {"name": "inception_v4", "width": 1.0, "depths": None}
    model = Model("runs/v4", network, 7, "averaged", "abc", 10, (256,), 10, 75, 0.875, "bilinear")
    chances = np.full((1, 6, 8), 1 / 8, np.float32)
    names = np.array([f"image {i}" for i in range(6)])
    found = Predictions(Images("folder:x", 6), (model,), np.arange(6, dtype=np.int32), names, chances)
    predictions.write(folder / "saved.npz", found)
    return [folder / "saved.npz"]


def read_predictions(folder):
    from inception_jax.evaluation import report

    found = predictions.read(folder / "saved.npz")
    report.markdown(report.summarize(predictions.join([found])))
    predictions.write(folder / "again.npz", found)


def write_safetensors(folder):
    unpack(folder, "format_1/exported.safetensors")
    return [folder / "exported.safetensors"]


def read_weights(folder):
    (path,) = folder.iterdir()
    format = "inception_jax" if path.suffix == ".safetensors" else "keras"
    metadata.preprocessing_in(path, saved_metadata(path))
    arrays = files.read(path, format)
    assert all(isinstance(array, np.ndarray) for array in arrays.values())


def write_h5(name):
    def write(folder):
        arrays = {"conv2d/kernel": np.ones((3, 3, 3, 4), np.float32), "dense/bias": np.zeros(4, np.float32)}
        path = folder / name
        if name == "old.h5":
            with h5py.File(path, "w") as file:
                for entry, array in arrays.items():
                    file.create_dataset(f"model_weights/{entry.split('/')[0]}/{entry}:0", data=array)
        elif name == "own.weights.h5":
            files.write_weights_h5(path, arrays, {"conv2d": "conv2d", "dense": "dense"}, {"inception_jax.model": "{}"})
        else:
            files.write_weights_h5(folder / "model.weights.h5", arrays, {"conv2d": "conv2d", "dense": "dense"}, {})
            with zipfile.ZipFile(path, "w") as archive:
                archive.write(folder / "model.weights.h5", "model.weights.h5")
            (folder / "model.weights.h5").unlink()
        return [path]

    return write


def unpack(folder, *names):
    """Files and directories of the golden archive, without the first part of their paths."""
    with tarfile.open(GOLDEN) as archive:
        members = [m for m in archive if m.name in names or any(m.name.startswith(f"{n}/") for n in names)]
        for member in members:
            member.name = member.name.split("/", 1)[1]
        archive.extractall(folder, members, filter="data")


def write_exported(folder):
    unpack(folder, "format_1/exported")
    return [path for path in folder.rglob("*") if path.is_file()]


def read_exported(folder):
    model, variables, preprocessing = load_checkpoint(folder / "exported")
    return model, [float(np.sum(leaf, dtype=np.float64)) for leaf in jax.tree.leaves(variables)], preprocessing


def write_saved_run(folder):
    unpack(folder, "format_1/half")
    return [path for path in folder.rglob("checkpoints/3/*") if path.is_file()]


def read_saved_run(folder):
    return dataclasses.replace(checkpoint.read(folder / "half"), path=folder)


def write_json_of(name, file):
    def write(folder):
        unpack(folder, f"format_1/{name}")
        return [folder / name / file]

    return write


def with_right_sums(read):
    """Reads a checkpoint whose checksums are of the changed files: as its author, or someone else, wrote it."""

    def read_with_sums(folder):
        for sums in folder.rglob("SHA256SUMS"):
            names = [line.split("  ")[1] for line in sums.read_text().splitlines()]
            lines = [f"{hashlib.sha256((sums.parent / name).read_bytes()).hexdigest()}  {name}\n" for name in names]
            sums.write_text("".join(lines))
        read(folder)

    return read_with_sums


def read_run(folder):
    runs.read_run(folder / "finished").finished  # noqa: B018
    compare.compare([folder / "finished"], folder / "out")
    runs.MetricsWriter(folder / "finished", step=4).close()


KINDS = {
    "JPEG": image_kind(jpeg(1), encoded(picture(), "JPEG", progressive=True), encoded(picture("CMYK"), "JPEG")),
    "PNG": image_kind(*(encoded(picture(mode), "PNG") for mode in ("RGB", "P", "L", "1", "RGBA", "I;16"))),
    "GIF": image_kind(encoded(picture("P"), "GIF", save_all=True, append_images=[picture("P", (40, 30))] * 2)),
    "TIFF": image_kind(*(encoded(picture(), "TIFF", compression=c) for c in (None, "tiff_lzw", "tiff_adobe_deflate"))),
    "WebP": image_kind(encoded(picture(), "WEBP"), encoded(picture(), "WEBP", lossless=True)),
    "BMP": image_kind(encoded(picture(), "BMP"), encoded(picture("P"), "BMP")),
    "tar": Kind(write_imagenet, lambda folder: read_dataset(list_imagenet(str(folder)))),
    "TFRecord": Kind(write_tfrecord_set, lambda folder: read_dataset(list_tfrecord(f"{folder}/pets/1.0.0"))),
    "array_record": Kind(write_array_record_set, lambda folder: read_source(f"tfds:{folder}/pets/1.0.0")),
    "idx": Kind(write_idx_set, lambda folder: read_source(f"idx:{folder}")),
    "csv": Kind(write_label_file, lambda folder: read_source(f"csv:{folder}/labels.csv")),
    "class names": Kind(write_class_names, read_class_names),
    "timm's config.json": Kind(write_timm_configuration, read_timm_configuration),
    "predictions": Kind(write_predictions, read_predictions),
    "safetensors": Kind(write_safetensors, read_weights),
    "h5": Kind(write_h5("old.h5"), read_weights),
    "weights.h5": Kind(write_h5("own.weights.h5"), read_weights),
    "keras": Kind(write_h5("model.keras"), read_weights),
    "exported checkpoint": Kind(write_exported, read_exported, share=0.3, checked=True),
    "checkpoint of a run": Kind(write_saved_run, read_saved_run, checked=True),
    "checkpoint.json": Kind(
        write_json_of("exported", "checkpoint.json"),
        with_right_sums(lambda f: load_checkpoint(f / "exported")),
        share=0.3,
    ),
    "run.json": Kind(
        write_json_of("half", "checkpoints/3/run.json"), with_right_sums(lambda f: checkpoint.read(f / "half"))
    ),
    "config.json": Kind(write_json_of("finished", "config.json"), read_run),
    "metrics.jsonl": Kind(write_json_of("finished", "metrics.jsonl"), read_run),
}


@contextlib.contextmanager
def limited_memory():
    """Lets the process have so much more than now: what asks for more fails, and not the machine."""
    before = resource.getrlimit(resource.RLIMIT_AS)
    now = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (now + MEMORY, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)


@pytest.mark.filterwarnings("ignore")  # Pillow's, of what it reads all the same.
@pytest.mark.parametrize("name", KINDS)
def test_a_damaged_file_gives_an_answer_or_one_sentence(name, tmp_path, monkeypatch, capfd):
    monkeypatch.setattr(compare, "draw_errors", lambda groups: {"png": b"", "svg": b""})
    kind, folder = KINDS[name], tmp_path / "files"
    folder.mkdir()
    targets = kind.write(folder)
    original = shutil.copytree(folder, tmp_path / "original")
    expected = kind.read(folder)
    for number in range(max(1, int(COUNT * kind.share))):
        rng = np.random.default_rng([zlib.crc32(name.encode()), number])
        shutil.rmtree(folder)
        shutil.copytree(original, folder)
        target = targets[int(rng.integers(len(targets)))]
        target.write_bytes(mutate(target.read_bytes(), rng))
        began = time.monotonic()
        try:
            with limited_memory():
                answer = kind.read(folder)
            assert not kind.checked or answer == expected, number
        except (UserError, RunFailed) as error:
            said = str(error)
            assert said and "\n" not in said and len(said) < 1000, (number, said)
            assert isinstance(error, BrokenImage) or str(folder) in said or target.name in said, (number, said)
        except BaseException as error:
            error.add_note(f"mutation {number} of {target}")
            raise
        assert time.monotonic() - began < SECONDS, number
