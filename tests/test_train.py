"""Whole runs, small: what they write, how they resume, how they stop."""

import contextlib
import io
import itertools
import json
import math
import os
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
from helpers import SMALL, TIMES, changed, timeless, write_experiment

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
def whole(tmp_path_factory):
    directory = tmp_path_factory.mktemp("runs") / "whole"
    return train.fit(SMALL, directory, name="whole")


def test_a_run_writes_what_others_read(whole):
    assert whole.finished and whole.info.steps == 6 and whole.info.training_images == 1442
    assert whole.experiment.model.num_classes == 10
    lines = [json.loads(line) for line in (whole.directory / "metrics.jsonl").read_text().splitlines()]
    assert lines == whole.metrics
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
    assert list((whole.directory / "tensorboard").glob("events*"))


def test_the_speed_of_a_line_is_that_of_its_steps(tmp_path):
    # A line at each second step and at each evaluation, after steps 3 and 6: some follow another by one step only.
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
        else:  # The time of evaluating and saving belongs to no step.
            assert after["images_per_second"] > images / seconds
    seconds = [m["seconds"] for m in run.metrics]
    assert seconds == sorted(seconds)


@pytest.mark.slow
def test_three_steps_and_three_in_a_new_process_are_six_bit_for_bit(whole, tmp_path):
    script = write_experiment(tmp_path, SMALL)
    for count in (3, 6):
        command = [sys.executable, "-m", "inception_jax", "train", script, "--workdir", tmp_path / "halves"]
        done = subprocess.run([*command, "--train.steps", str(count)], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
    halves = runs.read_run(tmp_path / "halves")
    assert timeless(halves.metrics) == timeless(whole.metrics)
    (step, ours), (expected_step, expected) = final_state(tmp_path / "halves"), final_state(whole.directory)
    assert step == expected_step == 6
    for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(expected), strict=True):
        np.testing.assert_array_equal(a, b)


def test_a_finished_run_is_left_alone(whole, capfd):
    before = (whole.directory / "metrics.jsonl").read_bytes()
    assert train.fit(SMALL, whole.directory, name="whole").metrics == whole.metrics
    assert (whole.directory / "metrics.jsonl").read_bytes() == before
    assert "already trained to step 6; nothing is left to do" in capfd.readouterr().err


def test_a_finished_run_with_a_broken_end_is_finished_again_to_the_same_numbers(whole, tmp_path, capfd):
    directory = tmp_path / "run"
    shutil.copytree(whole.directory, directory)
    metadata = directory / "checkpoints" / "6" / "arrays" / "_METADATA"
    metadata.write_text("")
    with pytest.raises(UserError, match="6 is broken: arrays/_METADATA is empty; leave out --strict"):
        train.fit(SMALL, directory, name="again", strict=True)
    again = train.fit(SMALL, directory, name="again")
    said = capfd.readouterr().err
    assert said.count("warning: ") == 1 and "steps 3 to 6\n" in said
    assert f"broken-checkpoints/6); going on from {directory}/checkpoints/3.\n" in said
    assert timeless(again.metrics) == timeless(whole.metrics)
    (_, ours), (_, expected) = final_state(directory), final_state(whole.directory)
    for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(expected), strict=True):
        np.testing.assert_array_equal(a, b)


def test_another_experiment_is_refused_and_the_differences_are_named(whole):
    other = changed(SMALL, optim={"learning_rate": 0.1}, model={"width": 0.1}, train={"log_every": 5})
    with pytest.raises(UserError) as error:
        train.fit(other, whole.directory)
    message = str(error.value)
    assert "model.width is 0.1 here and 0.05 there, optim.learning_rate is 0.1 here and 0.045 there" in message
    assert "log_every" not in message


def test_the_newest_and_the_best_checkpoints_are_kept(whole, tmp_path):
    state = final_state(whole.directory)[1]
    checkpoints = checkpoint.Checkpoints(tmp_path, keep=2)
    with contextlib.closing(checkpoints):
        for step, error in [(1, 0.5), (2, 0.1), (3, None), (4, 0.3), (5, None)]:
            checkpoints.save(step, state, next_batch=step, experiment=SMALL, top1_error=error)
    checkpoints = checkpoint.Checkpoints(tmp_path, keep=2)
    with contextlib.closing(checkpoints):  # What is best is remembered across processes.
        checkpoints.save(6, state, next_batch=6, experiment=SMALL, top1_error=0.2)
    assert checkpoint.read(tmp_path).step == 6
    assert sorted(int(p.name) for p in (tmp_path / "checkpoints").iterdir()) == [2, 5, 6]


def wild_from(step):
    """A schedule that is the usual one and from its step `step` on 1e30 times as high."""
    usual = optim.learning_rate_schedule
    return lambda config, per_epoch: lambda at: usual(config, per_epoch)(at) * jnp.where(at < step, 1.0, 1e30)


def test_a_loss_that_is_not_finite_stops_the_run_and_keeps_what_was_good(tmp_path, monkeypatch, capfd):
    monkeypatch.setattr(optim, "learning_rate_schedule", wild_from(3))
    wild = changed(SMALL, optim={"clip_norm": None}, evaluation={"every_epochs": 99.0})
    with pytest.raises(RunFailed) as error:
        train.fit(wild, tmp_path / "wild")
    message = str(error.value)
    assert "at step 5 (learning rate 4.5e+28)" in message
    assert f"last good checkpoint is {tmp_path / 'wild' / 'checkpoints' / '3'}" in message
    assert sorted(p.name for p in (tmp_path / "wild" / "checkpoints").iterdir()) == ["3"]
    assert [m["step"] for m in runs.read_metrics(tmp_path / "wild")] == [1, 2, 3, 4]

    # Back to it twice, each time with the images that come next, and then no more.
    patient = changed(wild, train={"on_nonfinite": "rollback", "rollbacks": 2})
    with pytest.raises(RunFailed, match="after 2 rollbacks; the last good checkpoint is .*checkpoints/3;"):
        train.fit(patient, tmp_path / "wild")
    said = capfd.readouterr().err
    assert said.count(f"back to {tmp_path / 'wild' / 'checkpoints' / '3'} (rollback ") == 2
    assert [m["step"] for m in runs.read_metrics(tmp_path / "wild")] == [1, 2, 3, 4]


def test_a_rollback_goes_on_with_other_images_and_each_step_is_written_once(tmp_path, monkeypatch, capfd):
    # Batch 4 is poison, for the numbers as they are read: the state itself stays sound.
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
    # Steps 4, 5 and 6 were trained on the batches after those that led to the fault: 5 or 6, when 7 was under way.
    assert saved.step == 6 and saved.next_batch == 9
    assert len(fetched) >= 8


def test_a_dying_network_is_said_to_die_once(tmp_path, capfd):
    dying = changed(SMALL, train={"dead_share": 1e-9, "dead_steps": 2, "steps": 4})
    train.fit(dying, tmp_path / "run", name="run")
    said = capfd.readouterr().err
    assert said.count("run: warning: since step 1 ") == 1 and "of the activations before the pool are zero" in said


def test_a_second_training_in_a_directory_is_refused(whole):
    with (
        workdir.lock_workdir(whole.directory),
        pytest.raises(UserError, match=f"is being trained by process {os.getpid()} "),
    ):
        train.fit(SMALL, whole.directory)


@pytest.mark.slow
def test_sigterm_saves_and_the_same_command_goes_on_to_the_same_numbers(whole, tmp_path):
    script = write_experiment(tmp_path, SMALL)
    command = [sys.executable, "-m", "inception_jax", "train", script, "--workdir", tmp_path / "run"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    assert any("step 1/6" in line for line in process.stderr)
    process.send_signal(signal.SIGTERM)
    said = process.communicate(timeout=PATIENCE)[1]
    stopped = runs.read_metrics(tmp_path / "run")[-1]["step"]
    assert process.returncode == 75 and 1 <= stopped < 6
    assert f"stopped by SIGTERM after step {stopped}; the same command goes on from there." in said
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0 and f"steps {stopped} to 6" in done.stderr
    assert timeless(runs.read_run(tmp_path / "run").metrics) == timeless(whole.metrics)
    for a, b in zip(
        jax.tree.leaves(final_state(tmp_path / "run")), jax.tree.leaves(final_state(whole.directory)), strict=True
    ):
        np.testing.assert_array_equal(a, b)


def write_digits(folder, broken):
    """Three digits of each class as PNG files, the first `broken` of them cut short."""
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
    write_digits(tmp_path / "train", broken=4)
    write_digits(tmp_path / "val", broken=1)
    # With this the staircase has the steps of the other tests' runs, and the program is compiled already.
    same = {"optim": {"decay_epochs": 360 / (30 / 8)}, "evaluation": {"every_epochs": 3 / (30 / 8)}}
    stopping = changed(SMALL, data={"source": f"folder:{tmp_path}"}, **same)
    with pytest.raises(BrokenImage, match=rf"the image {tmp_path}/train/[0-3]/0.png is broken: "):
        train.fit(stopping, tmp_path / "run")
    # The same run goes on, as the user would let it.
    skipping = changed(stopping, data={"on_error": "skip"})
    run = train.fit(skipping, tmp_path / "run")
    said = capfd.readouterr().err
    training = [m["skipped_images"] for m in run.metrics if m["split"] == "train"]
    assert len(training) == 6 and sum(training) >= 4
    for label in range(4):
        assert said.count(f"skipped: the image {tmp_path}/train/{label}/0.png is broken: ") == 1
    validation = [m for m in run.metrics if m["split"] == "validation"]
    assert {(m["images"], m["skipped_images"]) for m in validation} == {(29, 1)}
    assert said.count("val/0/0.png is broken") == 1


@pytest.mark.parametrize("parameters", ["averaged", "raw"])
def test_evaluating_a_checkpoint_repeats_the_runs_numbers(whole, parameters, monkeypatch):
    # The training images, which may be in a bucket, are not looked at.
    opened, source = [], build.source
    monkeypatch.setattr(build, "source", lambda e, split: opened.append(split) or source(e, split))
    paths = [str(whole.directory), str(whole.directory / "checkpoints" / "3")]
    found = evaluation.evaluate(paths, evaluation.EvaluationOptions(raw=parameters == "raw", tta_batch=128))
    assert opened == ["validation"]
    assert found["images"] == 355 and found["source"] == "digits"
    assert [(model["step"], model["parameters"]) for model in found["models"]] == [(6, parameters), (3, parameters)]
    for model in found["models"]:
        (line,) = (m for m in whole.metrics if m.get("parameters") == parameters and m["step"] == model["step"])
        assert model["top1_error"] == pytest.approx(line["top1_error"])
        assert model["top5_error"] == pytest.approx(line["top5_error"])
        assert model["loss"] == pytest.approx(line["loss"], rel=1e-5)


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("nowhere", "holds no checkpoint: give a run's directory"),
        ("checkpoints/4", "is not a checkpoint; .* has 3, 6"),
    ],
)
def test_a_path_without_checkpoint_is_one_sentence(whole, path, message):
    with pytest.raises(UserError, match=message):
        evaluation.evaluate([str(whole.directory / path)], evaluation.EvaluationOptions())


@pytest.mark.slow
def test_a_run_can_start_from_another(whole, tmp_path, capfd):
    still = {"optim": {"learning_rate": 1e-12}, "evaluation": {"every_epochs": 9.0}}
    start = {"init_from": str(whole.directory), "steps": 1}
    train.fit(changed(SMALL, train=start, **still), tmp_path / "next", name="next")
    assert f"next: starts from {whole.directory}\n" in capfd.readouterr().err
    before, after = final_state(whole.directory)[1], final_state(tmp_path / "next")[1]
    for a, b in zip(jax.tree.leaves(averaged_params(before.opt_state)), jax.tree.leaves(after.params), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-7)


def test_too_few_classes_are_refused(tmp_path):
    with pytest.raises(UserError, match="model.num_classes is 5, but digits has 10 classes"):
        train.fit(changed(SMALL, model={"num_classes": 5}), tmp_path)
    assert not os.listdir(tmp_path)


def test_a_plan_covers_each_epoch_and_ends_with_an_evaluation():
    plan = build.make_plan(changed(SMALL, train={"steps": None, "epochs": 2.0, "batch_size": 100}), 1442)
    assert plan.steps == 29 and plan.steps_per_epoch == 14.42
    plan = build.make_plan(
        changed(SMALL, train={"steps": 30, "batch_size": 100}, evaluation={"every_epochs": 1.0}), 1442
    )
    assert plan.evaluations == {14, 29, 30}


def test_small_programs_are_kept_too_unless_the_user_keeps_them(tmp_path):
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
