"""Several processes: real ones, over loopback, two devices each."""

import json
import os
import signal
import subprocess
import sys

import pytest
from conftest import QUICK
from helpers import SMALL, changed, finish, start, timeless, write_experiment

from inception_jax import checkpoint, runs, train
from inception_jax.errors import UserError
from inception_jax.system import hosts


def wait_for(what, process):
    """Reads what a process says up to a line that holds `what`."""
    for line in process.stdout:
        if what in line:
            return
    raise AssertionError(f"the process ended without {what!r}")


# What a device does for itself left out, so that the numbers do not depend on the devices but for the order of sums.
MOVING = changed(
    SMALL,
    model={"bn_statistics": "global", "dropout_rate": 0.0},
    # Small steps: at the paper's rate this net blows a rounding up a hundredfold a step.
    optim={"learning_rate": 1e-4},
    data={"colour": False},
    train={"steps": 10, "checkpoint_every": 3},
    evaluation={"every_epochs": 100.0},
)


@pytest.mark.slow
def test_a_run_survives_the_loss_of_a_process_and_moves_to_other_devices(tmp_path):
    script = write_experiment(tmp_path, MOVING)
    command = ["-m", "inception_jax", "train", str(script), "--workdir", str(tmp_path / "moved"), "--train.steps"]
    pair = start([*command, "10"])
    wait_for("step 5/10", pair[0])
    pair[1].send_signal(signal.SIGKILL)
    codes, said = finish(pair)
    assert codes[1] == -signal.SIGKILL and codes[0] != 0
    assert "another task died" in said[0]
    before = runs.read_metrics(tmp_path / "moved")

    # The same two go on, to the same numbers; only the first speaks and writes.
    codes, said = finish(start([*command, "6"]))
    assert codes == [0, 0], said
    assert "steps 3 to 6" in said[0] and "4 devices x 2" in said[0] and "step" not in said[1].replace("[Gloo]", "")
    again = [m for m in runs.read_metrics(tmp_path / "moved") if m["split"] == "train"]
    shared = min(len(before), len(again))
    assert timeless(again[:shared]) == timeless(before[:shared]) and shared >= 5

    # Then one process with two devices, and with one.
    for steps, devices in (("8", "2 devices x 4"), ("10", "1 device x 8")):
        flags = f"--xla_force_host_platform_device_count={devices[0]} {QUICK}"
        environment = {**os.environ, "XLA_FLAGS": flags}
        done = subprocess.run([sys.executable, *command, steps], capture_output=True, text=True, env=environment)
        assert done.returncode == 0 and devices in done.stderr, done.stderr
    assert checkpoint.read(tmp_path / "moved").next_batch == 10

    # Four devices of one process had the same batches and the same state all the way.
    whole = train.fit(MOVING, tmp_path / "whole")
    moved = [m for m in runs.read_metrics(tmp_path / "moved") if m["split"] == "train"]
    alone = [m for m in whole.metrics if m["split"] == "train"]
    assert [m["step"] for m in moved] == [m["step"] for m in alone] == list(range(1, 11))
    for ours, theirs in zip(moved, alone, strict=True):
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
said = []
for check in (
    lambda: hosts.check_shared(Path(folder) / number),
    lambda: hosts.check_agreement({"rate": int(number), "same": [1], "own" + number: None}),
):
    try:
        check()
    except UserError as error:
        said.append(str(error))
print(json.dumps(said))
"""


def test_what_the_processes_do_not_share_is_named_by_all(tmp_path):
    codes, said = finish(start(["-c", AGREEMENT, "--folder", str(tmp_path)]))
    assert codes == [0, 0], said
    first, second = (json.loads(text.splitlines()[-1]) for text in said)
    assert first[0] == (
        f"{tmp_path}/0 of process 0 is not what process 1 sees there; --workdir must be on a file system that all "
        "hosts share."
    )
    assert second[0] == first[0].replace(f"{tmp_path}/0", f"{tmp_path}/1")
    assert first[1] == second[1] == "the processes do not do the same: rate is 0 in process 0 and 1 in process 1."
    assert not list((tmp_path / "shared").iterdir())


def test_one_process_has_nothing_to_agree_on(tmp_path):
    hosts.check_shared(tmp_path / "none")
    hosts.check_agreement({"rate": 1})
    assert not (tmp_path / "none").exists()


def test_half_an_address_is_refused():
    with pytest.raises(UserError, match="--coordinator, --processes and --process-id go together"):
        hosts.join("127.0.0.1:1", 2)
    with pytest.raises(UserError, match="--process-id is 2; of 2 processes it must be 0 to 1"):
        hosts.join("127.0.0.1:1", 2, 2)
    with pytest.raises(UserError, match="the other processes cannot be found: .*elsewhere give --coordinator"):
        hosts.join()
