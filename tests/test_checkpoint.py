"""Checkpoints that are corrupt, truncated or cannot be written: detected, named, skipped, never lost."""

import contextlib
import errno
import hashlib
import os
import re
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import PATIENCE

from inception_jax import checkpoint
from inception_jax.config import DataConfig, Experiment, ModelConfig
from inception_jax.errors import RunFailed, UserError

EXPERIMENT = Experiment(model=ModelConfig(name="inception_v4", depths=(1, 2, 3)), data=DataConfig(source="digits"))


class State(NamedTuple):
    step: Any
    params: Any
    opt_state: Any


def state_of(step):
    """A state of values drawn for `step`; orbax keeps the small arrays in its index, the large one apart."""
    rng = np.random.default_rng(step)
    params = {"conv": {"kernel": rng.normal(size=(3, 3, 32, 8)).astype(np.float32)}, "bias": np.full(3, -0.0)}
    return State(np.int32(step), params, (None, {"trace": rng.normal(size=5).astype(jnp.bfloat16)}))


def template(state):
    return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), state)


def save(run, *steps, keep=3, errors=None):
    with contextlib.closing(checkpoint.Checkpoints(run, keep=keep)) as checkpoints:
        for step in steps:
            error = (errors or {}).get(step)
            checkpoints.save(step, state_of(step), next_batch=step + 100, experiment=EXPERIMENT, top1_error=error)


def steps_of(run):
    return sorted(int(path.name) for path in (run / "checkpoints").iterdir())


def assert_saved(saved, step):
    assert (saved.step, saved.next_batch, saved.experiment) == (step, step + 100, EXPERIMENT)
    expected = state_of(step)
    found = saved.state(template(expected))
    assert jax.tree.structure(found) == jax.tree.structure(expected)
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        assert a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()


@pytest.fixture(scope="module")
def three(tmp_path_factory):
    run = tmp_path_factory.mktemp("three")
    save(run, 1, 2, 3)
    return run


@pytest.fixture
def run(three, tmp_path):
    """A run with intact checkpoints at steps 1, 2 and 3."""
    shutil.copytree(three, tmp_path / "run")
    return tmp_path / "run"


def test_a_checkpoint_is_restored_bit_for_bit(run):
    assert_saved(checkpoint.newest(run), 3)
    assert_saved(checkpoint.read(run), 3)
    assert_saved(checkpoint.read(run / "checkpoints" / "2"), 2)


def test_checksums_are_those_of_coreutils(run):
    directory = run / "checkpoints" / "3"
    listed = dict(reversed(line.split("  ")) for line in (directory / "SHA256SUMS").read_text().splitlines())
    files = [path for path in directory.rglob("*") if path.is_file() and path.name != "SHA256SUMS"]
    assert listed == {str(p.relative_to(directory)): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}
    if shutil.which("sha256sum"):
        subprocess.run(["sha256sum", "--check", "--strict", "--quiet", "SHA256SUMS"], cwd=directory, check=True)


def largest(directory):
    return max((path for path in directory.rglob("*") if path.is_file()), key=lambda path: path.stat().st_size)


def flip(path, position=None, bit=0):
    content = bytearray(path.read_bytes())
    content[len(content) // 2 if position is None else position] ^= 1 << bit
    path.write_bytes(content)


def change_next_batch(directory):
    (path,) = directory.glob("*.json")
    path.write_text(path.read_text().replace('"next_batch": 103', '"next_batch": 102'))


def delete_last_checksum(directory):
    path = directory / "SHA256SUMS"
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:-1]))


def empty_directory(directory):
    shutil.rmtree(directory)
    directory.mkdir()


def replace_directory_by_file(directory):
    shutil.rmtree(directory)
    directory.touch()


def replace_metadata_by_loop(directory):
    (directory / "run.json").unlink()
    (directory / "run.json").symlink_to("run.json")


def make_unreadable(path):
    path.chmod(0)
    if os.access(path, os.R_OK):
        pytest.skip("this user can read everything")


# What damages a checkpoint's directory, and the file and fault that the error names.
FAULTS = {
    "truncated array": (lambda d: os.truncate(largest(d), largest(d).stat().st_size // 2), r"arrays/.*/d/\w+ "),
    "flipped bit": (lambda d: flip(largest(d)), r"arrays/.*/d/\w+ "),
    "changed metadata": (change_next_batch, r"(run|checkpoint)\.json "),
    "missing array": (lambda d: largest(d).unlink(), r"'arrays/.*/d/\w+' "),
    "empty index": (lambda d: os.truncate(d / "arrays" / "_METADATA", 0), r"arrays/_METADATA .*empty"),
    "missing metadata": (lambda d: (d / "run.json").unlink(), r"'run\.json' .*missing"),
    "missing arrays": (lambda d: shutil.rmtree(d / "arrays"), r"'arrays/.*' .* \d+ more"),
    "missing checksums": (lambda d: (d / "SHA256SUMS").unlink(), r"SHA256SUMS .*missing"),
    "empty checksums": (lambda d: os.truncate(d / "SHA256SUMS", 0), r"arrays/\S+ .*SHA256SUMS.* \d+ more"),
    "missing checksum": (delete_last_checksum, r"run\.json .*SHA256SUMS"),
    "binary checksums": (
        lambda d: (d / "SHA256SUMS").write_bytes(bytes(range(256))),
        r"arrays/\S+ .*SHA256SUMS.* \d+ more",
    ),
    "additional file": (lambda d: (d / "arrays" / "d" / "more").touch(), r"arrays/d/more .*SHA256SUMS"),
    "empty directory": (empty_directory, r"SHA256SUMS .*missing"),
    "file": (replace_directory_by_file, r"3 .*Not a directory"),
    "symlink loop": (replace_metadata_by_loop, r"run\.json .*Too many levels of symbolic links"),
    "unreadable file": (lambda d: make_unreadable(d / "run.json"), r"run\.json .*Permission denied"),
    "unreadable directory": (make_unreadable, r"3 .*Permission denied"),
}


def damage(directory, fault):
    """Applies a fault; returns the pattern of its error."""
    function, pattern = FAULTS[fault]
    function(directory)
    return f"{directory} .*{pattern}"


@pytest.mark.parametrize("fault", FAULTS)
def test_a_broken_checkpoint_is_named_and_kept_and_the_previous_one_is_used(run, fault, capfd):
    directory, aside = run / "checkpoints" / "3", run / "broken-checkpoints" / "3"
    pattern = damage(directory, fault)
    for open_checkpoint, advice in (
        (lambda: checkpoint.newest(run, strict=True), "--strict"),
        (lambda: checkpoint.read(run), f"{run}/checkpoints/2 or {run}/checkpoints/1"),
    ):
        with pytest.raises(checkpoint.BrokenCheckpoint, match=f"{pattern}.*{advice}"):
            open_checkpoint()
    assert steps_of(run) == [1, 2, 3] and not aside.exists() and not capfd.readouterr().err

    assert_saved(checkpoint.newest(run), 2)
    (warning,) = capfd.readouterr().err.splitlines()
    assert re.search(f"warning: {pattern}.*{aside}.*{run}/checkpoints/2", warning)
    assert steps_of(run) == [1, 2] and aside.exists()

    save(run, 3)
    assert_saved(checkpoint.newest(run, strict=True), 3)
    assert not capfd.readouterr().err


def test_a_read_error_names_the_file(run, monkeypatch):
    def fail(file, algorithm):
        raise OSError(errno.EIO, os.strerror(errno.EIO))  # as a read does: without the file's name

    monkeypatch.setattr(hashlib, "file_digest", fail)
    with pytest.raises(checkpoint.BrokenCheckpoint, match=r"arrays/\S+ .*Input/output error.* \d+ more"):
        checkpoint.read(run)


def test_a_flipped_bit_is_detected_in_every_file(run):
    directory = run / "checkpoints" / "3"
    files = [path for path in directory.rglob("*") if path.is_file()]
    assert len(files) > 8
    for number, path in enumerate(files):
        content = path.read_bytes()
        for position in {0, *np.linspace(0, len(content) - 1, 12).astype(int).tolist()}:
            flip(path, position, bit=(position + number) % 8)
            with pytest.raises(checkpoint.BrokenCheckpoint, match=f"{directory} "):
                checkpoint.read(run)
        path.write_bytes(content)
    assert_saved(checkpoint.read(run), 3)


def test_several_broken_checkpoints_are_moved_to_unused_names_with_one_warning(run, capfd):
    for name in ("3", "3-2", "2"):
        (run / "broken-checkpoints" / name).mkdir(parents=True)
    damage(run / "checkpoints" / "3", "flipped bit")
    damage(run / "checkpoints" / "2", "missing checksums")
    assert_saved(checkpoint.newest(run), 1)
    (warning,) = capfd.readouterr().err.splitlines()
    for name, moved in (("3", "3-3"), ("2", "2-2")):
        assert re.search(f"{run}/checkpoints/{name} .*{run}/broken-checkpoints/{moved}", warning)
    assert sorted(path.name for path in (run / "broken-checkpoints").iterdir()) == ["2", "2-2", "3", "3-2", "3-3"]


def test_without_an_intact_checkpoint_nothing_is_started_afresh(run):
    for step in ("1", "2", "3"):
        damage(run / "checkpoints" / step, "missing metadata")
    with pytest.raises(UserError, match=f"{run} .*/3 is broken.*/2 is.*/1 is.*{run}/checkpoints"):
        checkpoint.newest(run)
    assert steps_of(run) == [1, 2, 3] and not (run / "broken-checkpoints").exists()


def test_a_run_without_checkpoints_has_no_newest_one(tmp_path):
    assert checkpoint.newest(tmp_path / "nowhere") is None
    (tmp_path / "checkpoints").mkdir()
    assert checkpoint.newest(tmp_path) is None
    assert not list((tmp_path / "checkpoints").iterdir())


def test_an_intact_checkpoint_of_other_arrays_is_refused_but_not_broken(run):
    saved = checkpoint.newest(run)
    state = state_of(3)
    for other, difference in (
        (state._replace(step=np.zeros((2, 2), np.int32)), r"step .*int32\[\] .*int32\[2, 2\]"),
        (state._replace(step=np.float32(0)), r"step .*int32\[\] .*float32\[\]"),
        (state._replace(params={"bias": np.zeros(3)}), r"kernel .*float32\[3, 3, 32, 8\] .*missing"),
        (state._replace(params={**state.params, "new": np.zeros(1)}), r"new .*missing .*float64\[1\]"),
        (state._replace(opt_state=()), r"trace .*bfloat16\[5\] .*missing"),
        (state_of(3)._replace(step=np.zeros(1), opt_state=()), r" 1 more"),
    ):
        with pytest.raises(UserError, match=f"checkpoints/3 .*{difference}"):
            saved.state(template(other))
    assert steps_of(run) == [1, 2, 3]


def test_hidden_files_do_not_break_a_checkpoint(run):
    (run / "checkpoints" / "3" / ".DS_Store").write_text("left by a file browser")
    assert_saved(checkpoint.newest(run), 3)


def test_a_path_in_the_checksums_is_not_followed_out_of_the_checkpoint(run):
    secret = run / "secret"
    secret.write_text("outside the checkpoint")
    checksums = run / "checkpoints" / "3" / "SHA256SUMS"
    for name in ("../../secret", str(secret)):
        original = checksums.read_text()
        checksums.write_text(original + f"{hashlib.sha256(secret.read_bytes()).hexdigest()}  {name}\n")
        with pytest.raises(checkpoint.BrokenCheckpoint, match="secret' .*missing"):
            checkpoint.read(run)
        checksums.write_text(original)


@pytest.mark.parametrize(
    ("errors", "kept"),
    [({}, [4, 5]), ({1: 0.5, 2: 0.1, 4: 0.3}, [2, 4, 5]), ({1: 0.2, 3: 0.2}, [1, 4, 5])],
)
def test_the_newest_and_the_best_are_kept(tmp_path, errors, kept):
    save(tmp_path, 1, 2, 3, keep=2, errors=errors)
    save(tmp_path, 4, 5, keep=2, errors=errors)
    assert steps_of(tmp_path) == kept
    assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoints"]


def test_an_unreadable_old_checkpoint_does_not_prevent_saving(run):
    damage(run / "checkpoints" / "1", "missing metadata")
    flip(run / "checkpoints" / "2" / "run.json", 0)
    save(run, 4, keep=3)
    assert steps_of(run) == [2, 3, 4]


def test_the_state_is_copied_before_the_next_step_overwrites_it(tmp_path):
    state = state_of(1)
    with contextlib.closing(checkpoint.Checkpoints(tmp_path)) as checkpoints:
        checkpoints.save(1, state, next_batch=101, experiment=EXPERIMENT, top1_error=None)
        state.params["conv"]["kernel"][:] = 0
    assert_saved(checkpoint.newest(tmp_path), 1)


def test_a_failed_save_is_raised_by_the_next_one_and_by_close(tmp_path):
    (tmp_path / "checkpoints").write_text("in the way")
    checkpoints = checkpoint.Checkpoints(tmp_path)
    message = f"{tmp_path}/checkpoints/1: File exists"
    with contextlib.closing(checkpoints):
        for last in (lambda: save_one(checkpoints, 2), checkpoints.close):
            save_one(checkpoints, 1)
            with pytest.raises(RunFailed, match=message):
                last()
    (tmp_path / "checkpoints").unlink()
    save(tmp_path, 1)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoints"]


def save_one(checkpoints, step):
    checkpoints.save(step, state_of(step), next_batch=step + 100, experiment=EXPERIMENT, top1_error=None)


def in_another_process(code, *arguments):
    """Runs `code` with this file's names and `arguments` as `sys.argv[1:]`; returns its standard output and error."""
    start = f"import sys\nsys.path.insert(0, {str(Path(__file__).parent)!r})\nfrom test_checkpoint import *\n"
    command = [sys.executable, "-c", start + textwrap.dedent(code), *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE)
    assert done.returncode == 0, done.stderr
    return done.stdout, done.stderr


def test_a_full_disk_raises_one_sentence_and_loses_nothing(tmp_path):
    code = """
    import resource
    from inception_jax.checkpoint import save_variables
    run, exported = Path(sys.argv[1]), Path(sys.argv[2])
    save(run, 1)
    save_variables(exported, {"params": state_of(1).params}, {})
    # Limits at which writing fails within the arrays and within the metadata.
    for length in (4000, 700):
        resource.setrlimit(resource.RLIMIT_FSIZE, (length, resource.RLIM_INFINITY))
        for write in (lambda: save(run, 2), lambda: save_variables(exported, {"params": state_of(2).params}, {})):
            try:
                write()
            except RunFailed as error:
                print(error)
    """
    out, err = in_another_process(code, tmp_path / "run", tmp_path / "exported")
    assert not err
    for line, path in zip(out.splitlines(), ["run/checkpoints/2", "exported"] * 2, strict=True):
        assert re.search(f"{tmp_path}/{path}: File too large; free some space", line)
    assert steps_of(tmp_path / "run") == [1]
    assert_saved(checkpoint.newest(tmp_path / "run", strict=True), 1)
    np.testing.assert_array_equal(checkpoint.load_variables(tmp_path / "exported")[0]["params"]["bias"], np.zeros(3))
    save(tmp_path / "run", 2)
    exported_checkpoint(tmp_path / "exported")
    assert_saved(checkpoint.newest(tmp_path / "run", strict=True), 2)
    left = [path.relative_to(tmp_path).as_posix() for path in (*tmp_path.iterdir(), *(tmp_path / "run").iterdir())]
    assert sorted(left) == ["exported", "run", "run/checkpoints"]


def test_a_process_killed_at_any_moment_of_a_save_leaves_intact_checkpoints_only(tmp_path):
    # Each fork is killed at a different file operation; all share one import.
    code = """
    import signal
    run = Path(sys.argv[1])

    def killed_at(count):
        left = count

        def watch(event, arguments):
            nonlocal left
            if event in ("open", "os.mkdir", "os.rename", "os.remove", "os.rmdir") and str(run) in str(arguments[0]):
                left -= 1
                if not left:
                    os.kill(os.getpid(), signal.SIGKILL)

        saved = checkpoint.newest(run, strict=True)
        step = saved.step if saved else 0
        if saved:
            assert_saved(saved, step)
        sys.addaudithook(watch)
        save(run, step + 1, step + 2, keep=1)

    count, status = 1, signal.SIGKILL
    while status == signal.SIGKILL:
        child = os.fork()
        if not child:
            killed_at(count)
            os._exit(0)
        status = os.waitpid(child, 0)[1]
        print(count, status, *sorted(p.name for p in run.iterdir()))
        count += 5
    """
    tmp_path.joinpath("run").mkdir()
    out, err = in_another_process(code, tmp_path / "run")
    kills = [line.split() for line in out.splitlines()]
    assert kills[-1][1] == "0", err
    assert len(kills) > 8 and sum("unfinished-checkpoints" in names for _, _, *names in kills) > 4
    assert kills[-1][2:] == ["checkpoints"] and len(steps_of(tmp_path / "run")) == 1
    assert_saved(checkpoint.newest(tmp_path / "run", strict=True), steps_of(tmp_path / "run")[0])


def exported_checkpoint(directory):
    checkpoint.save_variables(directory, {"params": state_of(3).params}, {"model": {"name": "x"}, "next_batch": 103})
    return directory


def test_a_runs_checkpoint_is_never_replaced_by_an_export(run):
    with pytest.raises(UserError, match="checkpoints/3 .*not an exported checkpoint"):
        exported_checkpoint(run / "checkpoints" / "3")
    assert_saved(checkpoint.read(run), 3)
    with pytest.raises(UserError, match="out .*exported checkpoint"):
        checkpoint.read(exported_checkpoint(run / "out"))


def test_an_export_killed_while_replacing_an_older_one_is_recovered(tmp_path):
    exported_checkpoint(tmp_path / "out")
    place = tmp_path / ".out.unfinished" / "x"
    place.mkdir(parents=True)
    (tmp_path / "out").rename(place / "old")
    with pytest.raises(TypeError):
        checkpoint.save_variables(tmp_path / "out", {"params": state_of(1).params}, {"not JSON": object()})
    assert checkpoint.load_variables(tmp_path / "out")[1]["next_batch"] == 103
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_an_exported_checkpoint_is_restored_with_its_metadata(tmp_path):
    variables, metadata = checkpoint.load_variables(exported_checkpoint(tmp_path / "out"))
    assert metadata == {"model": {"name": "x"}, "next_batch": 103}
    np.testing.assert_array_equal(variables["params"]["conv"]["kernel"], state_of(3).params["conv"]["kernel"])


@pytest.mark.parametrize(
    "fault", ["truncated array", "flipped bit", "missing array", "changed metadata", "missing checksums"]
)
def test_a_broken_exported_checkpoint_is_named(tmp_path, fault):
    directory = exported_checkpoint(tmp_path / "out")
    with pytest.raises(checkpoint.BrokenCheckpoint, match=damage(directory, fault)):
        checkpoint.load_variables(directory)
