"""Directory of a run: its files can be read back, also by TensorBoard and after a kill and a resume."""

import json
import struct

import pytest
from tensorboardX.proto.event_pb2 import Event, SessionLog

from inception_jax import config, runs
from inception_jax.errors import UserError

INFO = runs.RunInfo("a-run", 100, 1437, 360, 54_321, 987_654_321, "1 cpu, jax 0.10.2")


def train(step, **values):
    return {"step": step, "epoch": step / 10, "split": "train", "loss": 1.5, "seconds": step / 4, **values}


def validation(step, parameters="averaged", **values):
    return {**train(step), "split": "validation", "parameters": parameters, "top1_error": 0.25, **values}


def write(directory, records, *, step=0):
    writer = runs.MetricsWriter(directory, step=step)
    for record in records:
        writer.write(record)
    writer.close()


def events(directory):
    """TensorBoard's events in the order of their files, which are framed as TFRecords."""
    found = []
    for path in sorted((directory / "tensorboard").iterdir()):
        data = path.read_bytes()
        while data:
            (length,) = struct.unpack("<Q", data[:8])
            found.append(Event.FromString(data[12 : 12 + length]))
            data = data[12 + length + 4 :]
    return found


def scalars(directory):
    return {(e.step, v.tag): v.simple_value for e in events(directory) for v in e.summary.value}


def test_the_configuration_is_read_as_it_was_written(tmp_path):
    experiment = config.Experiment(
        seed=7,
        model=config.ModelConfig(name="inception_v4", depths=(1, 2, 3), residual_scales=(0.1,)),
        optim=config.OptimConfig(clip_norm=None, learning_rate=0.1 + 0.2),
        data=config.DataConfig(source="idx:/a/ü", crop_area=(0.25, 1.0)),
    )
    runs.write_config(tmp_path / "new" / "run", INFO, experiment)
    run = runs.read_run(str(tmp_path / "new" / "run"))
    assert run == runs.Run(tmp_path / "new" / "run", INFO, experiment, [])
    assert [path.name for path in run.directory.iterdir()] == ["config.json"]  # no temporary file is left


def edit(directory, change):
    path = directory / runs.CONFIG
    values = json.loads(path.read_text())
    change(values)
    path.write_text(json.dumps(values))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda v: v["experiment"]["model"].update(widht=1.0), r"model\.widht.*name, "),
        (lambda v: v["experiment"].update(other=1), r"other.*seed, model, "),
        (lambda v: v["info"].update(colour="red"), "colour"),
        (lambda v: v["info"].pop("steps"), "steps"),
        (lambda v: v.pop("info"), "info"),
    ],
)
def test_a_configuration_of_another_version_is_refused(tmp_path, change, message):
    runs.write_config(tmp_path, INFO, config.Experiment())
    edit(tmp_path, change)
    with pytest.raises(UserError, match=rf"config\.json .*{message}"):
        runs.read_run(tmp_path)


def test_a_directory_without_a_run_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"config\.json"):
        runs.read_run(tmp_path)
    (tmp_path / runs.CONFIG).write_text('{"info": ')
    with pytest.raises(UserError, match=r"config\.json"):
        runs.read_run(tmp_path)


def test_a_run_is_finished_once_its_last_step_is_evaluated(tmp_path):
    runs.write_config(tmp_path, INFO, config.Experiment())
    write(tmp_path, [validation(90), train(100)])
    assert not runs.read_run(tmp_path).finished
    write(tmp_path, [validation(100)], step=100)
    assert runs.read_run(tmp_path).finished


def test_metrics_are_read_as_they_were_written(tmp_path):
    records = [train(10, learning_rate=1 / 3), validation(10), validation(10, "raw", top1_error=0.5)]
    write(tmp_path, records)
    assert runs.read_metrics(tmp_path) == records


def test_each_line_is_flushed(tmp_path):
    writer = runs.MetricsWriter(tmp_path, step=0)
    writer.write(train(10))
    assert runs.read_metrics(tmp_path) == [train(10)]
    writer.close()


@pytest.mark.parametrize("kept", [1, 20, -2])
def test_an_incomplete_last_line_is_dropped(tmp_path, kept):
    write(tmp_path, [train(10), train(20)])
    with (tmp_path / runs.METRICS).open("a") as file:
        file.write(json.dumps(train(30))[:kept])
    assert runs.read_metrics(tmp_path) == [train(10), train(20)]


def test_a_last_line_without_a_newline_is_kept(tmp_path):
    write(tmp_path, [train(10)])
    with (tmp_path / runs.METRICS).open("a") as file:
        file.write(json.dumps(train(20)))
    assert runs.read_metrics(tmp_path) == [train(10), train(20)]
    write(tmp_path, [train(30)], step=20)  # which gets a line of its own
    assert runs.read_metrics(tmp_path) == [train(10), train(20), train(30)]


def test_a_broken_line_in_the_middle_is_refused(tmp_path):
    (tmp_path / runs.METRICS).write_text(f'{{"step": 1\n{json.dumps(train(2))}\n')
    with pytest.raises(UserError, match=r"metrics\.jsonl, line 1 "):
        runs.read_metrics(tmp_path)


def test_resuming_drops_the_lines_after_the_checkpoint(tmp_path):
    write(tmp_path, [train(40), validation(50), validation(50, "raw"), train(60), train(70)])
    with (tmp_path / runs.METRICS).open("a") as file:
        file.write('{"step": 80')
    writer = runs.MetricsWriter(tmp_path, step=50)

    assert runs.read_metrics(tmp_path) == [train(40), validation(50), validation(50, "raw")]
    writer.write(train(60, loss=9.0))
    writer.close()
    assert runs.read_metrics(tmp_path)[3:] == [train(60, loss=9.0)]


def test_a_new_run_has_no_metrics(tmp_path):
    runs.MetricsWriter(tmp_path / "run", step=0).close()
    assert runs.read_metrics(tmp_path / "run") == runs.read_metrics(tmp_path / "nowhere") == []


def test_tensorboard_holds_the_same_numbers(tmp_path):
    write(tmp_path, [train(10, learning_rate=0.25), validation(10), validation(20, "raw", images=360)])
    assert scalars(tmp_path) == {
        **{(10, f"train/{k}"): v for k, v in {"epoch": 1, "loss": 1.5, "seconds": 2.5, "learning_rate": 0.25}.items()},
        **{
            (10, f"validation/averaged/{k}"): v
            for k, v in {"epoch": 1, "loss": 1.5, "seconds": 2.5, "top1_error": 0.25}.items()
        },
        **{
            (20, f"validation/raw/{k}"): v
            for k, v in {"epoch": 2, "loss": 1.5, "seconds": 5, "top1_error": 0.25, "images": 360}.items()
        },
    }


def test_tensorboard_is_opened_at_the_first_record(tmp_path):
    writer = runs.MetricsWriter(tmp_path, step=0)
    assert not (tmp_path / "tensorboard").exists()
    writer.write(train(10))
    assert (tmp_path / "tensorboard").exists()
    writer.close()


def test_tensorboard_hides_only_what_a_resume_drops(tmp_path):
    write(tmp_path, [train(10), train(20)])
    write(tmp_path, [train(20, loss=9.0)], step=10)  # within the same second
    found = events(tmp_path)
    starts = [e.step for e in found if e.HasField("session_log") and e.session_log.status == SessionLog.START]
    assert starts == [1, 11]  # TensorBoard hides earlier events from these steps on
    losses = [(e.step, v.simple_value) for e in found for v in e.summary.value if v.tag == "train/loss"]
    assert losses == [(10, 1.5), (20, 1.5), (20, 9.0)]
