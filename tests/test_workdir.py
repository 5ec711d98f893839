"""A run's directory: one training at a time, and what cannot be written is said in one sentence."""

import errno
import fcntl
import os
import re
import shutil
import subprocess
import sys
import types

import pytest

from inception_jax.errors import UserError
from inception_jax.system import workdir

TWICE = r"run is being trained by process {} on host {} since \d{{4}}-\d\d-\d\d \d\d:\d\d[+-]\d\d:\d\d; stop it"


def twice(process, host=None):
    return TWICE.format(process, re.escape(host or os.uname().nodename))


def holder(directory):
    """Another process that holds `directory`, once it does."""
    script = (
        "import sys, time; from inception_jax.system import workdir\nwith workdir.lock_workdir(sys.argv[1]): "
        "print(flush=True); time.sleep(60)"
    )
    process = subprocess.Popen([sys.executable, "-c", script, directory], stdout=subprocess.PIPE)
    assert process.stdout.readline() == b"\n"
    return process


def test_a_second_training_is_refused_until_the_first_is_over(tmp_path):
    run = tmp_path / "new" / "run"
    with workdir.lock_workdir(run):
        with pytest.raises(UserError, match=twice(os.getpid()) + ", or use another --workdir") as refused:
            with workdir.lock_workdir(run):
                pytest.fail("held twice")
        assert "\n" not in str(refused.value)
        with workdir.lock_workdir(tmp_path / "other"):
            pass
    with workdir.lock_workdir(run):
        pass
    assert os.listdir(run) == [".lock"]


def test_a_lock_goes_with_a_process_that_is_killed(tmp_path):
    process = holder(tmp_path / "run")
    with pytest.raises(UserError, match=twice(process.pid)):
        with workdir.lock_workdir(tmp_path / "run"):
            pytest.fail("held twice")
    process.kill()
    process.communicate()
    with workdir.lock_workdir(tmp_path / "run"), pytest.raises(UserError, match=twice(os.getpid())):
        with workdir.lock_workdir(tmp_path / "run"):
            pytest.fail("held twice")


def test_a_lock_goes_with_an_exception(tmp_path):
    with pytest.raises(OSError, match="^from the run$"), workdir.lock_workdir(tmp_path):
        raise OSError("from the run")
    with workdir.lock_workdir(tmp_path):
        pass


def test_a_program_that_was_started_meanwhile_does_not_keep_the_lock(tmp_path):
    with workdir.lock_workdir(tmp_path):
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
        child = subprocess.Popen([sys.executable, "-c", "input('ready\\n')"], **pipes, close_fds=False)
        assert child.stdout.readline() == b"ready\n"
    try:
        with workdir.lock_workdir(tmp_path):
            assert child.poll() is None
    finally:
        child.communicate(b"\n")


def test_only_on_another_host_may_the_lock_be_removed_by_hand(tmp_path, monkeypatch):
    monkeypatch.setattr("socket.gethostname", lambda: "elsewhere")
    with workdir.lock_workdir(tmp_path / "run"):
        monkeypatch.undo()
        lock = re.escape(str(tmp_path / "run" / ".lock"))
        expected = twice(os.getpid(), "elsewhere") + rf" \(should that host be gone: remove {lock}\), or use another"
        with pytest.raises(UserError, match=expected):
            with workdir.lock_workdir(tmp_path / "run"):
                pytest.fail("held twice")


def test_whoever_has_not_written_who_it_is_holds_all_the_same(tmp_path):
    with (tmp_path / ".lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.raises(UserError, match="is being trained by another process; stop it, or use"):
            with workdir.lock_workdir(tmp_path):
                pytest.fail("held twice")


def test_a_file_system_without_locks_is_reported_and_used(tmp_path, monkeypatch):
    def flock(file, operation):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", flock)
    said = []
    with workdir.lock_workdir(tmp_path, report=said.append):
        pass
    assert said == [
        f"warning: a second training in {tmp_path} would not be noticed, no lock can be had: No locks available."
    ]


def test_what_can_be_written_is_made_and_left_empty(tmp_path):
    workdir.check_writable(tmp_path / "new" / "run")
    with pytest.raises(UserError, match="gs://bucket/run is no path: mount the bucket"):
        workdir.check_writable("gs://bucket/run")
    assert os.listdir(tmp_path / "new" / "run") == []


@pytest.mark.parametrize(
    "check", [workdir.check_writable, lambda directory: workdir.lock_workdir(directory).__enter__()]
)
@pytest.mark.parametrize(
    ("path", "reason"), [("file", "it is a file and not a directory"), ("file/run", "a part of the path is a file")]
)
def test_a_file_is_no_directory(tmp_path, check, path, reason):
    (tmp_path / "file").write_text("kept")
    with pytest.raises(UserError, match=f"^{tmp_path / path} cannot be written: {reason}; use another directory.$"):
        check(tmp_path / path)
    assert (tmp_path / "file").read_text() == "kept"


@pytest.mark.parametrize(
    ("number", "reason"), [(errno.EDQUOT, "disk quota exceeded"), (errno.EACCES, "permission denied")]
)
def test_what_shows_only_once_it_is_on_the_disk_is_found(tmp_path, monkeypatch, number, reason):
    def fsync(descriptor):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "fsync", fsync)
    with pytest.raises(UserError, match=f"cannot be written: {reason}; use another"):
        workdir.check_writable(tmp_path)
    assert os.listdir(tmp_path) == []


def test_room_is_compared_with_need(tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda path: types.SimpleNamespace(free=12_040_000))
    workdir.check_writable(tmp_path, 12_040_000)
    expected = rf"^{tmp_path} has 12\.0 MB free, and the checkpoints of this run need 2,080\.0 MB; free some, lower"
    with pytest.raises(UserError, match=expected):
        workdir.check_writable(tmp_path, 2_080_000_000)


# Both in a mount namespace of their own, which a user namespace allows without being root.
MOUNTED = 'mount -t tmpfs -o {options} none "$1" && shift && exec "$@"'
ASK = """
import errno, pathlib, sys
from inception_jax import errors
from inception_jax.system import workdir

directory, fill = pathlib.Path(sys.argv[1]), sys.argv[2] == "full"
if fill:
    workdir.check_writable(directory / "run", 60_000)
    try:
        with (directory / "filler").open("wb", buffering=0) as file:
            while True:
                file.write(bytes(4096))
    except OSError as error:
        assert error.errno == errno.ENOSPC
for ask in (workdir.check_writable, lambda path: workdir.lock_workdir(path).__enter__()):
    try:
        ask(directory / "run")
    except errors.UserError as error:
        print(error)
"""


@pytest.mark.parametrize(
    ("kind", "options", "reason"),
    [("read-only", "ro", "read-only file system"), ("full", "size=64k", "no space left on device")],
)
def test_a_read_only_and_a_full_disk_are_one_sentence(tmp_path, kind, options, reason):
    own = ["unshare", "--mount", "--map-root-user", "sh", "-ec", MOUNTED.format(options=options), "sh", tmp_path]
    if not shutil.which("unshare") or subprocess.run([*own, "true"], capture_output=True).returncode:
        pytest.skip("mounting is not permitted here")
    done = subprocess.run([*own, sys.executable, "-c", ASK, tmp_path, kind], capture_output=True, text=True)
    assert done.stderr == ""
    assert done.stdout.splitlines() == [f"{tmp_path / 'run'} cannot be written: {reason}; use another directory."] * 2
