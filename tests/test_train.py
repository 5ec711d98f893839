"""Small runs from start to end: what they write, how they resume and how they stop."""

import dataclasses
import io
import itertools
import json
import math
import os
import re
import shutil
import signal
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import PIL.Image
import pytest
from conftest import PATIENCE
from helpers import SMALL, TIMES, changed, without_times, write_experiment

from inception_jax import build, checkpoint, evaluation, optim, runs, train
from inception_jax.data import open_source
from inception_jax.errors import BrokenImage, RunFailed, UserError
from inception_jax.optim import averaged_params
from inception_jax.system import workdir
from inception_jax.train import in_flight


def final_state(directory, experiment=SMALL):
    saved = checkpoint.read(directory)
    assert saved.next_batch == saved.step
    return saved.step, saved.state(build.build(saved.experiment).state_shapes())


@pytest.fixture(scope="module")
def reference(tmp_path_factory):
    directory = tmp_path_factory.mktemp("runs") / "reference"
    return train.fit(SMALL, directory, name="reference")


def test_a_run_writes_configuration_metrics_and_events(reference):
    assert reference.finished and reference.info.steps == 6 and reference.info.training_images == 1442
    assert reference.experiment.model.num_classes == 10
    lines = [json.loads(line) for line in (reference.directory / "metrics.jsonl").read_text().splitlines()]
    assert lines == reference.metrics
    training = [m for m in lines if m["split"] == "train"]
    assert [m["step"] for m in training] == [1, 2, 3, 4, 5, 6]
    every = {
        *("step", "epoch", "split", "loss", "top1_error", "top5_error", "zero_share", "gradient_norm"),
        *("least_variance", "learning_rate", "skipped_images", "seconds"),
    }
    # The first step compiles, so its speed is not known.
    assert set(training[0]) == every and set(training[1]) == {*every, *TIMES}
    assert training[0]["epoch"] == pytest.approx(8 / 1442) and training[0]["learning_rate"] == pytest.approx(0.045)
    validation = [m for m in lines if m["split"] == "validation"]
    assert [(m["step"], m["parameters"]) for m in validation] == [(s, p) for s in (3, 6) for p in ("averaged", "raw")]
    assert {m["images"] for m in validation} == {355}
    assert all(0 <= m["top5_error"] <= m["top1_error"] <= 1 for m in lines)
    assert list((reference.directory / "tensorboard").glob("events*"))


def test_the_speed_of_a_line_covers_only_its_steps(tmp_path):
    # A line at every second step and at each evaluation, after steps 3 and 6, so that some follow another by one step.
    run = train.fit(changed(SMALL, train={"log_every": 2, "steps": 7}), tmp_path / "run")
    lines = [m for m in run.metrics if m["split"] == "train"]
    assert [m["step"] for m in lines] == [2, 3, 4, 6, 7]
    assert all(m["images_per_second"] > 0 and 0 <= m["data_wait_share"] <= 1 for m in lines)
    validated = {m["step"] for m in run.metrics if m["split"] == "validation"}
    assert validated == {3, 6, 7}
    for before, after in itertools.pairwise(lines):
        images, seconds = 8 * (after["step"] - before["step"]), after["seconds"] - before["seconds"]
        if before["step"] not in validated:
            assert after["images_per_second"] == pytest.approx(images / seconds)
        else:  # The time of evaluating and saving is excluded.
            assert after["images_per_second"] > images / seconds
    seconds = [m["seconds"] for m in run.metrics]
    assert seconds == sorted(seconds)


@pytest.mark.slow
def test_a_run_resumed_in_a_new_process_is_equal_bit_for_bit(reference, tmp_path):
    train.fit(changed(SMALL, train={"steps": 3}), tmp_path / "halves", name="halves")
    script = write_experiment(tmp_path, SMALL)
    command = [sys.executable, "-m", "inception_jax", "train", script, "--workdir", tmp_path / "halves"]
    done = subprocess.run([*command, "--train.steps", "6"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    halves = runs.read_run(tmp_path / "halves")
    assert without_times(halves.metrics) == without_times(reference.metrics)
    (step, ours), (expected_step, expected) = final_state(tmp_path / "halves"), final_state(reference.directory)
    assert step == expected_step == 6
    for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(expected), strict=True):
        np.testing.assert_array_equal(a, b)


def test_a_finished_run_is_left_alone(reference, capfd):
    before = (reference.directory / "metrics.jsonl").read_bytes()
    assert train.fit(SMALL, reference.directory, name="reference").metrics == reference.metrics
    assert (reference.directory / "metrics.jsonl").read_bytes() == before
    assert "already trained to step 6" in capfd.readouterr().err


def test_a_finished_run_whose_last_checkpoint_is_broken_is_finished_again(reference, tmp_path, capfd):
    directory = tmp_path / "run"
    shutil.copytree(reference.directory, directory)
    metadata = directory / "checkpoints" / "6" / "arrays" / "_METADATA"
    metadata.write_text("")
    with pytest.raises(UserError, match="6 .*arrays/_METADATA.*--strict"):
        train.fit(SMALL, directory, name="again", strict=True)
    again = train.fit(SMALL, directory, name="again")
    err = capfd.readouterr().err
    assert err.count("warning: ") == 1 and "steps 3 to 6\n" in err
    assert re.search(f"warning: .*broken-checkpoints/6.*{directory}/checkpoints/3", err)
    assert without_times(again.metrics) == without_times(reference.metrics)
    (_, ours), (_, expected) = final_state(directory), final_state(reference.directory)
    for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(expected), strict=True):
        np.testing.assert_array_equal(a, b)


def test_another_experiment_is_refused_and_the_differences_are_named(reference):
    other = changed(SMALL, optim={"learning_rate": 0.1}, model={"width": 0.1}, train={"log_every": 5})
    with pytest.raises(UserError) as error:
        train.fit(other, reference.directory)
    message = str(error.value)
    assert re.search(r"model\.width.* 0\.1 .* 0\.05 .*optim\.learning_rate.* 0\.1 .* 0\.045", message)
    assert "log_every" not in message


def test_a_cosine_schedule_keeps_its_length(reference, tmp_path, monkeypatch):
    # The finished run, as if it had been started with this schedule.
    directory = tmp_path / "run"
    shutil.copytree(reference.directory, directory)
    started = changed(reference.experiment, optim={"schedule": "cosine"})
    runs.write_config(directory, reference.info, started)
    newest = checkpoint.newest
    monkeypatch.setattr(checkpoint, "newest", lambda *a, **k: dataclasses.replace(newest(*a, **k), experiment=started))
    epochs = {"steps": None, "epochs": 2.0}
    for length, field, steps in (({"steps": 8}, "train.steps", 8), (epochs, "train.epochs", 360)):
        with pytest.raises(UserError, match=rf"{directory} .*6 steps.*cosine.*{field}.* {steps}: .*--train.steps 6"):
            train.fit(changed(started, train=length), directory)
    for same in ({}, {"steps": None, "epochs": 6 * 8 / 1442}):
        assert train.fit(changed(started, train=same), directory).metrics == reference.metrics


def diverging_from(step):
    """The usual schedule, times 1e30 from `step` on."""
    usual = optim.learning_rate_schedule
    return lambda *plan: lambda at: usual(*plan)(at) * jnp.where(at < step, 1.0, 1e30)


def test_a_non_finite_loss_stops_the_run_or_rolls_it_back(tmp_path, monkeypatch, capfd):
    monkeypatch.setattr(optim, "learning_rate_schedule", diverging_from(3))
    wild = changed(SMALL, optim={"clip_norm": None}, evaluation={"every_epochs": 99.0})
    with pytest.raises(RunFailed) as error:
        train.fit(wild, tmp_path / "wild")
    message = str(error.value)
    assert "at step 5 (learning rate 4.5e+28)" in message
    assert str(tmp_path / "wild" / "checkpoints" / "3") in message
    assert sorted(p.name for p in (tmp_path / "wild" / "checkpoints").iterdir()) == ["3"]
    assert [m["step"] for m in runs.read_metrics(tmp_path / "wild")] == [1, 2, 3, 4]

    # Two rollbacks, each followed by the next images; then the run fails.
    patient = changed(wild, train={"on_nonfinite": "rollback", "rollbacks": 2})
    with pytest.raises(RunFailed, match="2 rollbacks.*checkpoints/3;"):
        train.fit(patient, tmp_path / "wild")
    assert capfd.readouterr().err.count(f"{tmp_path / 'wild' / 'checkpoints' / '3'} (rollback ") == 2
    assert [m["step"] for m in runs.read_metrics(tmp_path / "wild")] == [1, 2, 3, 4]


def test_a_rollback_continues_with_other_images_and_writes_each_step_once(tmp_path, monkeypatch, capfd):
    # The metrics of the fifth step are made NaN as they are read; the state stays finite.
    fetch = in_flight._fetch
    fetched = []

    def poisoned(metrics):
        values, when = fetch(metrics)
        fetched.append(values["loss"])
        return (values | {"loss": math.nan} if len(fetched) == 5 else values), when

    monkeypatch.setattr(in_flight, "_fetch", poisoned)
    run = train.fit(changed(SMALL, train={"on_nonfinite": "rollback"}), tmp_path / "run", name="run")
    assert "run: the loss is nan" in capfd.readouterr().err
    assert run.finished and [m["step"] for m in run.metrics if m["split"] == "train"] == [1, 2, 3, 4, 5, 6]
    saved = checkpoint.read(tmp_path / "run")
    # Steps 4, 5 and 6 were repeated with the batches after the last one launched before the rollback.
    assert saved.step == 6 and saved.next_batch == 9
    assert len(fetched) >= 8


@pytest.mark.parametrize(
    ("part", "field"),
    [("train_batches", r"train\.batch_size is 8"), ("validate", r"evaluation\.batch_size is 128")],
)
def test_exhausted_memory_names_the_batch(part, field, reference, tmp_path, monkeypatch):
    def fail(*arguments):
        raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 99 bytes")

    shutil.copytree(reference.directory, tmp_path / "run")
    monkeypatch.setattr(f"inception_jax.train.loop.{part}", fail)
    with pytest.raises(UserError, match=f"{field}: .* GB .* would fit"):
        train.fit(changed(SMALL, train={"steps": 7}), tmp_path / "run")


def test_a_dying_network_is_warned_of_once(tmp_path, capfd):
    dying = changed(SMALL, train={"dead_share": 1e-9, "dead_steps": 2, "steps": 4})
    train.fit(dying, tmp_path / "run", name="run")
    assert capfd.readouterr().err.count("run: warning: since step 1 ") == 1


def test_a_second_training_in_a_directory_is_refused(reference):
    with (
        workdir.lock_workdir(reference.directory),
        pytest.raises(UserError, match=f"process {os.getpid()} "),
    ):
        train.fit(SMALL, reference.directory)


@pytest.mark.slow
def test_a_run_stopped_by_sigterm_resumes_to_the_same_numbers(reference, tmp_path):
    script = write_experiment(tmp_path, SMALL)
    command = [sys.executable, "-m", "inception_jax", "train", script, "--workdir", tmp_path / "run"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    assert any("step 1/6" in line for line in process.stderr)
    process.send_signal(signal.SIGTERM)
    err = process.communicate(timeout=PATIENCE)[1]
    stopped = runs.read_metrics(tmp_path / "run")[-1]["step"]
    assert process.returncode == 75 and 1 <= stopped < 6
    assert f"SIGTERM after step {stopped};" in err
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0 and f"steps {stopped} to 6" in done.stderr
    assert without_times(runs.read_run(tmp_path / "run").metrics) == without_times(reference.metrics)
    for a, b in zip(
        jax.tree.leaves(final_state(tmp_path / "run")), jax.tree.leaves(final_state(reference.directory)), strict=True
    ):
        np.testing.assert_array_equal(a, b)


def write_digits(folder, broken):
    """Writes three digits of each class as PNG files; the first one of `broken` classes is truncated."""
    digits = open_source("digits", "train")
    counts = dict.fromkeys(range(10), 0)
    for record in digits:
        number, counts[record.label] = counts[record.label], counts[record.label] + 1
        if number < 3:
            buffer = io.BytesIO()
            PIL.Image.fromarray(record.image).save(buffer, "PNG")
            path = folder / str(record.label) / f"{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(buffer.getvalue()[: 60 if record.label < broken and number == 0 else None])


def test_a_broken_image_stops_the_run_or_is_skipped_and_counted(tmp_path, capfd):
    images = tmp_path / "images"
    write_digits(images / "train", broken=4)
    write_digits(images / "val", broken=1)
    # The same schedule in steps as in the other tests, whose compiled program is reused.
    same = {"optim": {"decay_epochs": 360 / (30 / 8)}, "evaluation": {"every_epochs": 3 / (30 / 8)}}
    stopping = changed(SMALL, data={"source": f"folder:{images}"}, **same)
    with pytest.raises(BrokenImage, match=rf"{images}/train/[0-3]/0\.png"):
        train.fit(stopping, tmp_path / "run")
    # Resumes the same run.
    skipping = changed(stopping, data={"on_error": "skip"})
    run = train.fit(skipping, tmp_path / "run")
    err = capfd.readouterr().err
    training = [m["skipped_images"] for m in run.metrics if m["split"] == "train"]
    assert len(training) == 6 and sum(training) >= 4
    for label in range(4):
        assert err.count(f"{images}/train/{label}/0.png") == 1
    validation = [m for m in run.metrics if m["split"] == "validation"]
    assert {(m["images"], m["skipped_images"]) for m in validation} == {(29, 1)}
    assert err.count("val/0/0.png") == 1


@pytest.mark.parametrize("parameters", ["averaged", "raw"])
def test_evaluating_a_checkpoint_repeats_the_runs_numbers(reference, parameters, monkeypatch):
    # The training images, which may be in a bucket, are not opened.
    opened, source = [], build.source
    monkeypatch.setattr(build, "source", lambda e, split, *held: opened.append(split) or source(e, split, *held))
    paths = [str(reference.directory), str(reference.directory / "checkpoints" / "3")]
    found = evaluation.evaluate(paths, evaluation.EvaluationOptions(raw=parameters == "raw", tta_batch=128))
    assert opened == ["validation"]
    assert found["images"] == 355 and found["source"] == "digits"
    assert [(model["step"], model["parameters"]) for model in found["models"]] == [(6, parameters), (3, parameters)]
    for model in found["models"]:
        (line,) = (m for m in reference.metrics if m.get("parameters") == parameters and m["step"] == model["step"])
        assert model["top1_error"] == pytest.approx(line["top1_error"])
        assert model["top5_error"] == pytest.approx(line["top5_error"])
        assert model["loss"] == pytest.approx(line["loss"], rel=1e-5)


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("nowhere", "nowhere"),
        ("checkpoints/4", "checkpoints/4 .* 3, 6"),
    ],
)
def test_a_path_without_checkpoint_is_one_sentence(reference, path, message):
    with pytest.raises(UserError, match=message):
        evaluation.evaluate([str(reference.directory / path)], evaluation.EvaluationOptions())


@pytest.mark.slow
def test_a_run_can_start_from_another(reference, tmp_path, capfd):
    frozen = {"optim": {"learning_rate": 1e-12}, "evaluation": {"every_epochs": 9.0}}
    start = {"init_from": str(reference.directory), "steps": 1}
    train.fit(changed(SMALL, train=start, **frozen), tmp_path / "next", name="next")
    assert f"starts from {reference.directory}; the head is kept" in capfd.readouterr().err
    before, after = final_state(reference.directory)[1], final_state(tmp_path / "next")[1]
    for a, b in zip(jax.tree.leaves(averaged_params(before.opt_state)), jax.tree.leaves(after.params), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-7)


def test_too_few_classes_are_refused(tmp_path):
    with pytest.raises(UserError, match=r"model\.num_classes.* 5.* 10"):
        train.fit(changed(SMALL, model={"num_classes": 5}), tmp_path)
    assert not os.listdir(tmp_path)


def test_a_plan_covers_each_epoch_and_ends_with_an_evaluation():
    plan = build.make_plan(changed(SMALL, train={"steps": None, "epochs": 2.0, "batch_size": 100}), 1442)
    assert plan.steps == 29 and plan.steps_per_epoch == 14.42
    plan = build.make_plan(
        changed(SMALL, train={"steps": 30, "batch_size": 100}, evaluation={"every_epochs": 1.0}), 1442
    )
    assert plan.evaluations == {14, 29, 30}


def test_small_programs_are_cached_unless_the_user_has_a_cache(tmp_path):
    names = ("jax_compilation_cache_dir", "jax_persistent_cache_min_compile_time_secs")
    before = {name: getattr(jax.config, name) for name in names}
    try:
        for own, expected in ((str(tmp_path / "own"), before[names[1]]), (None, 0)):
            jax.config.update(names[0], own)
            train.enable_compilation_cache(tmp_path)
            assert jax.config.jax_compilation_cache_dir == (own or str(tmp_path / ".compilation-cache"))
            assert jax.config.jax_persistent_cache_min_compile_time_secs == expected
    finally:
        for name, value in before.items():
            jax.config.update(name, value)
