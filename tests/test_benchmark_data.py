"""`benchmark data`: its photographs, and the consistency of its numbers. Nothing here is timed."""

import json
import re

import numpy as np
import pytest

from inception_jax.benchmark import data
from inception_jax.benchmark.photographs import HEIGHT, WIDTH, write_photographs
from inception_jax.cli.benchmark import MeasureData
from inception_jax.data import open_source, preprocess
from inception_jax.errors import UserError


@pytest.fixture(scope="module")
def photographs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("photographs")
    write_photographs(folder, 64)
    return open_source(f"folder:{folder}", "evaluation")


def test_photographs_have_the_sizes_of_imagenets(photographs):
    assert len(photographs) == 64 and photographs.class_names == ("china", "flower")
    assert [record.label for record in photographs] == [0] * 32 + [1] * 32
    assert {preprocess.decode(r.image, r.name).shape for r in photographs} == {(HEIGHT, WIDTH, 3)} == {(375, 500, 3)}
    assert 95_000 < np.mean([len(record.image) for record in photographs]) < 105_000


def test_photographs_are_all_different_and_always_the_same(photographs, tmp_path):
    images = {record.image for record in photographs}
    assert len(images) == 64
    write_photographs(tmp_path, 6)
    again = [record.image for record in open_source(f"folder:{tmp_path}", "evaluation")]
    assert len(again) == 6 and set(again) < images


def test_photographs_look_like_photographs(photographs):
    # Neighbouring pixels of a photograph are alike: of noise the correlation would be 0, of one colour undefined.
    for record in list(photographs)[::8]:
        grey = preprocess.decode(record.image, record.name).mean(-1)
        assert np.corrcoef(grey[:, 1:].ravel(), grey[:, :-1].ravel())[0, 1] > 0.9


def run(capsys, *source, **options):
    tiny = {"image_size": 75, "batch_size": 8, "threads": 1, "seconds": 0.05, "repeats": 3}
    assert MeasureData(*source, **{**tiny, **options})([]) == 0
    return capsys.readouterr().out


def test_the_numbers_belong_together(capsys):
    report = json.loads(run(capsys, "digits", json=True))
    asked = {"source": "digits", "image_size": 75, "batch_size": 8, "threads": 1, "repeats": 3, "bytes_per_image": 64}
    assert {key: report[key] for key in asked} == asked
    assert 0 < report["images_per_second_least"] <= report["images_per_second"] <= report["images_per_second_greatest"]
    assert report["megabytes_per_second"] == pytest.approx(report["images_per_second"] * 64 / 1e6)
    assert report["busy_cores"] > 0 and report["images_per_second_per_core"] > 0
    assert report["peak_megabytes"] > report["growth_megabytes"] >= 0 and report["peak_megabytes"] > 50
    assert list(report["stages"]) == ["read", "decode", "crop_and_resize", "colour"]
    assert all(rate > 0 for rate in report["stages"].values())
    assert report["device"] == "cpu" and report["cores"] >= 1


def test_without_a_source_it_makes_photographs_and_leaves_none(capsys, tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setattr(data, "write_photographs", lambda folder: write_photographs(folder, 8))
    lines = run(capsys).splitlines()
    assert re.fullmatch(
        r"8 photographs, [\d.]+ KB an image; crops of 75 pixels, batches of 8; threads: 1, cores: .*", lines[0]
    )
    assert [line[:20].strip() for line in lines[1:4]] == ["whole pipeline", "per core", "memory"]
    assert [line[:20].strip() for line in lines[6:]] == ["read", "decode", "crop and resize", "colour"]
    assert list(tmp_path.iterdir()) == []


def test_the_stages_are_rates_of_images_not_of_batches(capsys, monkeypatch):
    monkeypatch.setattr(data, "_rate", lambda things, seconds: float(next(things) is not None))
    report = json.loads(run(capsys, "digits", json=True))
    assert report["images_per_second"] == 8
    assert report["stages"] == {"read": 1, "decode": 1, "crop_and_resize": 1, "colour": 8}


def test_a_rate_by_hand(monkeypatch):
    clock = iter([10.0, 11.0, 12.0, 13.0, 14.0])
    monkeypatch.setattr(data.time, "perf_counter", lambda: next(clock))
    # Begun at 10, looked at the clock at 11, 12 and 12.5 or later: three things in three seconds.
    assert data._rate(iter("abcdef"), 2.5) == 1.0


def test_mistakes(capsys):
    for message, options in {
        "0 repeats": {"repeats": 0},
        "nan seconds": {"seconds": float("nan")},
        "data.threads.* 0": {"threads": 0},
        "train.batch_size.* 0": {"batch_size": 0},
        "batch size 7 .*4 devices": {"batch_size": 7},
    }.items():
        with pytest.raises(UserError, match=message):
            run(capsys, "digits", **options)
    with pytest.raises(UserError, match="'nothing'.*idx:PATH"):
        run(capsys, "nothing")
