"""A run that is killed at the worst moments and started again is the run that was never disturbed."""

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
# Each step is saved, so that most moments are in a save, too.
OFTEN = changed(SMALL, train={"checkpoint_every": 1, "keep": 2})


@pytest.fixture(scope="module")
def chaos():
    return runpy.run_path(str(ROOT / "benchmarks" / "chaos.py"))


@pytest.mark.slow
def test_killed_in_a_step_in_a_save_and_in_an_evaluation(tmp_path, chaos):
    train.fit(OFTEN, tmp_path / "calm", name="only")
    script = write_experiment(tmp_path, OFTEN)
    command = [sys.executable, "-m", "inception_jax", "train", str(script), "--workdir", str(tmp_path / "killed")]
    for said, after in (("step 2/6", 0.0), ("validation top-1", 0.02), ("step 5/6", 0.05)):
        process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
        assert any(said in line for line in process.stderr), said
        time.sleep(after)
        process.send_signal(signal.SIGKILL)
        process.communicate()
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert chaos["timeless"](tmp_path / "calm/metrics.jsonl") == chaos["timeless"](tmp_path / "killed/metrics.jsonl")
    assert chaos["same_state"](tmp_path / "calm", tmp_path / "killed")


def test_a_difference_is_found(tmp_path, chaos):
    # The judge itself: two directories that differ in a picture and in a line.
    for name, error in (("calm", 0.5), ("killed", 0.25)):
        (tmp_path / name).mkdir()
        for picture in chaos["PICTURES"]:
            (tmp_path / name / picture).write_bytes(name.encode() if picture.endswith("png") else b"same")
        (tmp_path / name / "metrics.jsonl").write_text(f'{{"step": 1, "top1_error": {error}, "seconds": {error}}}\n')
    assert chaos["differences"](tmp_path / "calm", tmp_path / "killed") == ["differs: curves.png"]
    lines = [chaos["timeless"](tmp_path / name / "metrics.jsonl") for name in ("calm", "killed")]
    assert lines == [[{"step": 1, "top1_error": 0.5}], [{"step": 1, "top1_error": 0.25}]]
