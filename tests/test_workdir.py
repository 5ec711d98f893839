"""Checks of a run's directory: one training at a time, and one sentence if it is not writable."""

import errno
import fcntl
import os
import re
import shutil
import subprocess
import sys
import types

import pytest
from helpers import with_value

from inception_jax import runs, train
from inception_jax.cli import main
from inception_jax.errors import UserError
from inception_jax.system import workdir


def locked_by(process, host=None):
    """Pattern of the error for a directory that a process has locked."""
    return (
        rf"run .*process {process} on host {re.escape(host or os.uname().nodename)} since \d{{4}}-\d\d-\d\d \d\d:\d\d"
    )


def assert_refused(message, directory):
    with pytest.raises(UserError, match=message) as error, workdir.lock_workdir(directory):
        pytest.fail("locked twice")
    assert "\n" not in str(error.value)


def holder(directory):
    """Starts a process that locks `directory`, and waits until it does."""
    script = (
        "import sys, time; from inception_jax.system import workdir\nwith workdir.lock_workdir(sys.argv[1]): "
        "print(flush=True); time.sleep(60)"
    )
    process = subprocess.Popen([sys.executable, "-c", script, directory], stdout=subprocess.PIPE)
    assert process.stdout.readline() == b"\n"
    return process


def test_a_second_training_is_refused_until_the_first_has_ended(tmp_path):
    run = tmp_path / "new" / "run"
    with workdir.lock_workdir(run):
        assert_refused(locked_by(os.getpid()) + ".*--workdir", run)
        with workdir.lock_workdir(tmp_path / "other"):
            pass
    with workdir.lock_workdir(run):
        pass
    assert os.listdir(run) == [".lock"]


def test_killing_a_process_releases_its_lock(tmp_path):
    process = holder(tmp_path / "run")
    assert_refused(locked_by(process.pid), tmp_path / "run")
    process.kill()
    process.communicate()
    with workdir.lock_workdir(tmp_path / "run"):
        assert_refused(locked_by(os.getpid()), tmp_path / "run")


def test_an_exception_within_the_lock_is_raised_and_releases_it(tmp_path):
    with pytest.raises(OSError, match="^from the run$"), workdir.lock_workdir(tmp_path):
        raise OSError("from the run")
    with workdir.lock_workdir(tmp_path):
        pass


def test_a_subprocess_does_not_keep_the_lock(tmp_path):
    with workdir.lock_workdir(tmp_path):
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
        child = subprocess.Popen([sys.executable, "-c", "input('ready\\n')"], **pipes, close_fds=False)
        assert child.stdout.readline() == b"ready\n"
    try:
        with workdir.lock_workdir(tmp_path):
            assert child.poll() is None
    finally:
        child.communicate(b"\n")


def test_removing_the_lock_is_suggested_only_for_another_host(tmp_path, monkeypatch):
    monkeypatch.setattr("socket.gethostname", lambda: "elsewhere")
    with workdir.lock_workdir(tmp_path / "run"):
        monkeypatch.undo()
        lock = re.escape(str(tmp_path / "run" / ".lock"))
        assert_refused(locked_by(os.getpid(), "elsewhere") + f".*remove {lock}", tmp_path / "run")


def test_a_lock_without_a_description_of_its_holder_is_respected(tmp_path):
    with (tmp_path / ".lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        assert_refused("another process.*--workdir", tmp_path)


def test_a_file_system_without_locks_is_reported_and_used(tmp_path, monkeypatch):
    def flock(file, operation):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", flock)
    lines = []
    with workdir.lock_workdir(tmp_path, report=lines.append):
        pass
    assert len(lines) == 1 and re.search(f"warning: {tmp_path} .*No locks available", lines[0])


def test_a_writable_directory_is_created_and_left_empty(tmp_path):
    workdir.check_writable(tmp_path / "new" / "run")
    with pytest.raises(UserError, match="gs://bucket/run"):
        workdir.check_writable("gs://bucket/run")
    assert os.listdir(tmp_path / "new" / "run") == []


@pytest.mark.parametrize(
    "check", [workdir.check_writable, lambda directory: workdir.lock_workdir(directory).__enter__()]
)
@pytest.mark.parametrize(("path", "reason"), [("file", "not a directory"), ("file/run", "part of the path")])
def test_a_path_through_a_file_is_refused(tmp_path, check, path, reason):
    (tmp_path / "file").write_text("kept")
    with pytest.raises(UserError, match=f"^{tmp_path / path} cannot be written: .*{reason}"):
        check(tmp_path / path)
    assert (tmp_path / "file").read_text() == "kept"


@pytest.mark.parametrize(
    ("number", "reason"), [(errno.EDQUOT, "disk quota exceeded"), (errno.EACCES, "permission denied")]
)
def test_an_error_that_shows_only_when_syncing_is_found(tmp_path, monkeypatch, number, reason):
    def fsync(descriptor):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "fsync", fsync)
    with pytest.raises(UserError, match=f"{tmp_path} cannot be written: {reason}"):
        workdir.check_writable(tmp_path)
    assert os.listdir(tmp_path) == []


def test_too_little_free_space_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda path: types.SimpleNamespace(free=12_040_000))
    workdir.check_writable(tmp_path, 12_040_000)
    with pytest.raises(UserError, match=rf"^{tmp_path} .*12\.0 MB .*2,080\.0 MB.*train\.keep"):
        workdir.check_writable(tmp_path, 2_080_000_000)


# Within the images

REFUSED = [
    ("folder:pets", "pets"),
    ("folder:pets", "pets/run"),
    ("folder:pets/", "pets/cat/runs/1"),
    ("folder:./pets/../pets", "link/run"),
    ("folder:link", "pets/run"),
    ("idx:pets", "pets/run"),
    ("tfds:set", "set/run"),
    ("tfds:name", "set/run"),
    ("digits", "set"),
    # The source does not name the folder: it is recognised.
    ("csv:labels.csv", "pets/run"),
    ("", "pets/run"),
    ("", "pets/cat"),
    ("", "parts/run"),
    ("", "parts/train/run"),
]
ALLOWED = [
    ("folder:pets", "runs/pets"),
    ("folder:pets", "petsrun"),
    ("folder:pets", "pets/../runs"),
    ("folder:gs://pets", "pets/run"),
    ("folder:none", "none/run"),
    ("tfds:pets", "runs"),
    ("csv:labels.csv", "runs"),
    ("csv:labels.csv", "run"),
    ("", "run"),
    ("", "figures/c"),
    ("", "alone/run"),
]


@pytest.fixture
def images(tmp_path, monkeypatch):
    """A working directory with folders of images, a prepared data set, and what only looks like either."""
    photos = ["pets/cat/1.jpg", "pets/dog/1.png", "pets/.hidden/x"]
    photos += [f"parts/{part}/{name}/1.JPG" for part in ("train", "val") for name in ("cat", "dog")]
    figures = ["figures/a/comparison.md", "figures/b/comparison.md", "alone/cat/1.jpg", "labels.csv"]
    for name in [*photos, *figures, "set/dataset_info.json"]:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "link").symlink_to("pets")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(("source", "directory"), REFUSED)
def test_a_directory_within_the_images_is_refused(images, source, directory):
    with pytest.raises(UserError, match=f"^{directory} lies within the images of ") as error:
        workdir.check_place(directory, *filter(None, [source]))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(("source", "directory"), ALLOWED)
def test_a_directory_beside_the_images_is_allowed(images, source, directory):
    workdir.check_place(directory, *filter(None, [source]))


@pytest.mark.parametrize(
    "command",
    [
        "train digits --run inception_v4 --data.source folder:pets --workdir pets/new",
        "compare digits --data.source folder:pets --workdir pets/new",
        "compare digits --data.source folder:pets --workdir runs --out pets/new",
        "compare run --out pets/new",
        "evaluate v4 --data folder:pets --out pets/new",
        "evaluate run --out pets/new",
        "evaluate run/checkpoints/4 --save-predictions pets/new/p.npz",
        "data prepare folder:pets pets/new",
        "data prepare csv:labels.csv pets/new",
        "data show folder:pets --out pets/cat/new.png",
        "export run pets/new --format orbax",
        "export v4 pets/new.safetensors --format safetensors",
        "import v4.h5 pets/new --model inception_v4 --format keras",
    ],
)
def test_no_verb_writes_within_the_images(images, capfd, command):
    runs.write_config(
        images / "run", runs.RunInfo("run", 4, 1, 1, 1, 1, "cpu"), with_value("data.source", "folder:pets")
    )
    (images / "run/checkpoints/4").mkdir(parents=True)
    before = sorted(images.rglob("*"))
    assert main(command.split()) == 2
    out, err = capfd.readouterr()
    assert "pets" in err and "lies within the images" in err and err.count("\n") == 1 and not out
    assert sorted(images.rglob("*")) == before


def test_training_in_python_does_not_write_within_the_images(images):
    with pytest.raises(UserError, match="pets/new lies within the images of folder:pets"):
        train.fit(with_value("data.source", "folder:pets"), images / "pets/new")
    assert not (images / "pets/new").exists()


# Mounted in a mount namespace, which a user namespace allows without being root.
MOUNTED = 'mount -t tmpfs -o {options} none "$1" && shift && exec "$@"'
CHECKS = """
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
for check in (workdir.check_writable, lambda path: workdir.lock_workdir(path).__enter__()):
    try:
        check(directory / "run")
    except errors.UserError as error:
        print(error)
"""


@pytest.mark.parametrize(
    ("kind", "options", "reason"),
    [("read-only", "ro", "read-only file system"), ("full", "size=64k", "no space left on device")],
)
def test_a_read_only_and_a_full_disk_are_refused(tmp_path, kind, options, reason):
    own = ["unshare", "--mount", "--map-root-user", "sh", "-ec", MOUNTED.format(options=options), "sh", tmp_path]
    if not shutil.which("unshare") or subprocess.run([*own, "true"], capture_output=True).returncode:
        pytest.skip("mounting is not permitted here")
    done = subprocess.run([*own, sys.executable, "-c", CHECKS, tmp_path, kind], capture_output=True, text=True)
    assert done.stderr == ""
    lines = done.stdout.splitlines()
    assert len(lines) == 2 and all(f"{tmp_path / 'run'} cannot be written: {reason}" in line for line in lines)
