"""Runs that are killed at critical moments and resumed give the same results as undisturbed runs."""

import runpy
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from helpers import SMALL, changed, write_experiment

from inception_jax import train

ROOT = Path(__file__).parents[1]
# Every step is saved, so that most kills hit a save.
SAVE_EVERY_STEP = changed(SMALL, train={"checkpoint_every": 1, "keep": 2})


@pytest.fixture(scope="module")
def chaos():
    return runpy.run_path(str(ROOT / "benchmarks" / "chaos.py"))


@pytest.mark.slow
def test_killed_in_a_step_in_a_save_and_in_an_evaluation(tmp_path, chaos):
    train.fit(SAVE_EVERY_STEP, tmp_path / "undisturbed", name="only")
    script = write_experiment(tmp_path, SAVE_EVERY_STEP)
    command = [sys.executable, "-m", "inception_jax", "train", str(script), "--workdir", str(tmp_path / "killed")]
    for line_start, seconds in (("step 2/6", 0.0), ("validation top-1", 0.02), ("step 5/6", 0.05)):
        process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
        assert any(line_start in line for line in process.stderr), line_start
        time.sleep(seconds)
        process.send_signal(signal.SIGKILL)
        process.communicate()
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    directories = tmp_path / "undisturbed", tmp_path / "killed"
    ours, theirs = (chaos["without_times"](directory / "metrics.jsonl") for directory in directories)
    assert ours == theirs and chaos["same_state"](*directories)


def test_a_difference_is_found(tmp_path, chaos):
    for name, error in (("undisturbed", 0.5), ("killed", 0.25)):
        (tmp_path / name).mkdir()
        for figure in chaos["FIGURES"]:
            (tmp_path / name / figure).write_bytes(name.encode() if figure.endswith("png") else b"same")
        (tmp_path / name / "metrics.jsonl").write_text(f'{{"step": 1, "top1_error": {error}, "seconds": {error}}}\n')
    assert chaos["differences"](tmp_path / "undisturbed", tmp_path / "killed") == ["differs: curves.png"]
    records = [chaos["without_times"](tmp_path / name / "metrics.jsonl") for name in ("undisturbed", "killed")]
    assert records == [[{"step": 1, "top1_error": 0.5}], [{"step": 1, "top1_error": 0.25}]]
