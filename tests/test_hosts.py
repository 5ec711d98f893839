"""Several processes: real ones, over loopback, two devices each."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time

import pytest
from conftest import QUICK
from test_train import SMALL, changed, timeless, to_json

from inception_jax import checkpoint, hosts, runs, train
from inception_jax.errors import UserError


def start(arguments, *, processes=2, devices=2):
    """Processes that know of one another, each `python ARGUMENTS`, an argument called ID being its number."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        coordinator = f"127.0.0.1:{free.getsockname()[1]}"
    environment = {**os.environ, "XLA_FLAGS": f"--xla_force_host_platform_device_count={devices} {QUICK}"}
    joined = ["--coordinator", coordinator, "--processes", str(processes), "--process-id", "ID"]
    commands = [
        [sys.executable, *(str(i) if argument == "ID" else argument for argument in [*arguments, *joined])]
        for i in range(processes)
    ]
    return [
        subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        for command in commands
    ]


def finish(processes):
    """Exit codes and what was said."""
    said = [process.communicate(timeout=120)[0] for process in processes]
    return [process.returncode for process in processes], said


def wait_for(what, process):
    """Reads what a process says up to a line that holds `what`."""
    for line in process.stdout:
        if what in line:
            return
    raise AssertionError(f"the process ended without {what!r}")


# The program of the other tests' runs, compiled already for one process.
PAIR = changed(SMALL, train={"steps": 12, "checkpoint_every": 4}, evaluation={"every_epochs": 100.0})


@pytest.mark.slow
def test_two_processes_are_one_and_survive_the_loss_of_one(tmp_path):
    script = tmp_path / "experiment.py"
    script.write_text(
        "import json\nfrom inception_jax import config\n"
        f"def runs():\n    return {{'only': config.from_dict(json.loads({to_json(PAIR)!r}))}}\n"
    )
    arguments = ["-m", "inception_jax", "train", str(script), "--workdir", str(tmp_path / "two")]
    pair = start(arguments)
    wait_for("step 6/12", pair[0])
    pair[1].send_signal(signal.SIGKILL)
    lost = time.monotonic()
    codes, said = finish(pair)
    assert codes[1] == -signal.SIGKILL and codes[0] != 0 and time.monotonic() - lost < 60
    assert "another task died" in said[0]

    before = runs.read_metrics(tmp_path / "two")

    # The same command, for both, goes on, to the same numbers; only the first process speaks and writes.
    pair = start(arguments)
    codes, said = finish(pair)
    assert codes == [0, 0], said
    assert "steps 4 to 12" in said[0] and "step" not in said[1].replace("[Gloo]", "")
    two = runs.read_run(tmp_path / "two")
    assert [m["step"] for m in two.metrics if m["split"] == "train"] == list(range(1, 13))
    assert timeless(two.metrics[: len(before)]) == timeless(before) and len(before) >= 6

    # One process with four devices has the same batches and the same state, but for the order of the sums over the
    # devices, which is the transport's: gloo's between processes, XLA's own within one. BN over two images a device
    # blows a rounding up step by step, so that bounds hold for the first.
    one = subprocess.run([sys.executable, *arguments[:-1], str(tmp_path / "one")], capture_output=True, text=True)
    assert one.returncode == 0, one.stderr
    alone = runs.read_run(tmp_path / "one")
    assert [m["step"] for m in alone.metrics] == [m["step"] for m in two.metrics]
    for key, bound in {"loss": 1e-6, "gradient_norm": 1e-5, "zero_share": 1e-6}.items():
        assert two.metrics[0][key] == pytest.approx(alone.metrics[0][key], rel=bound)
    for ours, theirs in zip(two.metrics[:4], alone.metrics[:4], strict=True):
        assert ours["loss"] == pytest.approx(theirs["loss"], rel=1e-2)


@pytest.mark.slow
def test_a_run_moves_to_other_devices_and_processes(tmp_path):
    # What a device does for itself left out, the numbers do not depend on the devices but for rounding.
    moving = changed(
        PAIR,
        model={"bn_statistics": "global", "dropout_rate": 0.0},
        data={"colour": False},
        train={"steps": 4, "checkpoint_every": 1, "keep": 4},
    )
    whole = train.fit(moving, tmp_path / "whole")
    script = tmp_path / "experiment.py"
    script.write_text(
        "import json\nfrom inception_jax import config\n"
        f"def runs():\n    return {{'only': config.from_dict(json.loads({to_json(moving)!r}))}}\n"
    )
    arguments = ["-m", "inception_jax", "train", str(script), "--workdir", str(tmp_path / "moved"), "--train.steps"]
    alone = {**os.environ, "XLA_FLAGS": f"--xla_force_host_platform_device_count=1 {QUICK}"}
    shutil.copytree(tmp_path / "whole", tmp_path / "moved")
    for step in (2, 3, 4):  # Back to step 1 of the four devices.
        shutil.rmtree(tmp_path / "moved/checkpoints" / str(step))
    codes, said = finish(start([*arguments, "3"], devices=1))
    assert codes == [0, 0] and "steps 1 to 3" in said[0] and "2 devices x 4" in said[0], said
    done = subprocess.run([sys.executable, *arguments, "4"], capture_output=True, text=True, env=alone)
    assert done.returncode == 0 and "1 device x 8" in done.stderr, done.stderr
    moved = runs.read_run(tmp_path / "moved")
    training = [[m for m in run.metrics if m["split"] == "train"] for run in (whole, moved)]
    for ours, theirs in zip(*training, strict=True):
        assert ours["loss"] == pytest.approx(theirs["loss"], rel=1e-3)
    assert checkpoint.read(tmp_path / "moved").next_batch == 4


AGREEMENT = """
import json, sys
from pathlib import Path
from inception_jax import hosts
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
    assert first[1] == second[1] == "the processes do not train the same: rate is 0 in process 0 and 1 in process 1."
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
