"""Several processes: real ones, over loopback, two devices each."""

import json
import os
import re
import signal
import subprocess
import sys

import pytest
from conftest import QUICK
from helpers import SMALL, changed, finish, start, without_times, write_experiment

from inception_jax import checkpoint, runs, train
from inception_jax.cli.arguments import Processes
from inception_jax.errors import UserError
from inception_jax.system import hosts


def wait_for(text, process):
    """Reads the output of a process up to a line that contains `text`."""
    for line in process.stdout:
        if text in line:
            return
    raise AssertionError(f"the process ended without {text!r}")


# Statistics, dropout and colours belong to the replicas, so that results depend on the devices only by the order of
# sums; test_steps.py holds their updates to 1e-10 in float64.
MOVING = changed(
    SMALL,
    # At the paper's learning rate this network amplifies rounding errors a hundredfold per step.
    optim={"learning_rate": 1e-6},
    train={"steps": 10, "checkpoint_every": 3, "replicas": 4},
    evaluation={"every_epochs": 100.0},
)


@pytest.mark.slow
def test_a_run_survives_the_loss_of_a_process_and_moves_to_other_devices(tmp_path):
    script = write_experiment(tmp_path, MOVING)
    command = ["-m", "inception_jax", "train", str(script), "--workdir", str(tmp_path / "moved"), "--train.steps"]
    # A heartbeat that is missed sooner than by default.
    pair = start([*command, "10", "--heartbeat-timeout", "10"])
    wait_for("step 5/10", pair[0])
    pair[1].send_signal(signal.SIGKILL)
    codes, outputs = finish(pair)
    assert codes[1] == -signal.SIGKILL and codes[0] != 0
    assert "another task died" in outputs[0]
    before = runs.read_metrics(tmp_path / "moved")

    # The same two resume with the same numbers; only process 0 prints and writes.
    codes, outputs = finish(start([*command, "6"]))
    assert codes == [0, 0], outputs
    assert "steps 3 to 6" in outputs[0] and "4 devices x 2" in outputs[0]
    assert "step" not in outputs[1].replace("[Gloo]", "")
    again = [m for m in runs.read_metrics(tmp_path / "moved") if m["split"] == "train"]
    shared = min(len(before), len(again))
    assert without_times(again[:shared]) == without_times(before[:shared]) and shared >= 5

    # Then one process with two devices, and with one.
    for steps, devices in (("8", "2 devices"), ("10", "1 device;")):
        flags = f"--xla_force_host_platform_device_count={devices[0]} {QUICK}"
        environment = {**os.environ, "XLA_FLAGS": flags}
        done = subprocess.run([sys.executable, *command, steps], capture_output=True, text=True, env=environment)
        assert done.returncode == 0 and f"4 replicas x 2 on {devices}" in done.stderr, done.stderr
    assert checkpoint.read(tmp_path / "moved").next_batch == 10

    # A single process with four devices sees the same batches and states.
    uninterrupted = train.fit(MOVING, tmp_path / "uninterrupted")
    moved = [m for m in runs.read_metrics(tmp_path / "moved") if m["split"] == "train"]
    expected = [m for m in uninterrupted.metrics if m["split"] == "train"]
    assert [m["step"] for m in moved] == [m["step"] for m in expected] == list(range(1, 11))
    for ours, theirs in zip(moved, expected, strict=True):
        assert ours["loss"] == pytest.approx(theirs["loss"], rel=1e-5)


AGREEMENT = """
import json, sys
from pathlib import Path
from inception_jax.system import hosts
from inception_jax.errors import UserError

_, folder, _, coordinator, _, count, _, number = sys.argv[1:]
hosts.join(coordinator, int(count), int(number))
hosts.check_shared(Path(folder) / "shared")
hosts.check_agreement({"rate": 0.1, "source": "é"})
errors = []
for check in (
    lambda: hosts.check_shared(Path(folder) / number),
    lambda: hosts.check_agreement({"rate": int(number), "same": [1], "own" + number: None}),
):
    try:
        check()
    except UserError as error:
        errors.append(str(error))
print(json.dumps(errors))
"""


def test_every_process_names_the_differences(tmp_path):
    codes, outputs = finish(start(["-c", AGREEMENT, "--folder", str(tmp_path)]))
    assert codes == [0, 0], outputs
    first, second = (json.loads(output.splitlines()[-1]) for output in outputs)
    assert re.search(f"process 1 .*{tmp_path}/0.*--workdir", first[0])
    assert second[0] == first[0].replace(f"{tmp_path}/0", f"{tmp_path}/1")
    assert first[1] == second[1] and re.search("rate .*0.*process 0.*1.*process 1", first[1])
    assert not list((tmp_path / "shared").iterdir())


def test_one_process_always_agrees(tmp_path):
    hosts.check_shared(tmp_path / "none")
    hosts.check_agreement({"rate": 1})
    assert not (tmp_path / "none").exists()


def test_incomplete_arguments_are_refused():
    with pytest.raises(UserError, match="--coordinator.*--processes.*--process-id"):
        hosts.join("127.0.0.1:1", 2)
    with pytest.raises(UserError, match="--process-id.* 2.* 0 to 1"):
        hosts.join("127.0.0.1:1", 2, 2)
    with pytest.raises(UserError, match="--coordinator"):
        hosts.join()
    with pytest.raises(UserError, match="--heartbeat-timeout.* 0"):
        hosts.join("127.0.0.1:1", 2, 1, 0)
    with pytest.raises(UserError, match="--heartbeat-timeout.*--distributed"):
        Processes(heartbeat_timeout=10).join()
