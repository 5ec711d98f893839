"""Checkpoints that are broken, cut short or cannot be written: found, named, gone round, never lost."""

import contextlib
import errno
import hashlib
import os
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
    """A state with a step's own numbers: some small enough that orbax keeps them in its index, some not."""
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
    """A run with whole checkpoints at steps 1, 2 and 3."""
    shutil.copytree(three, tmp_path / "run")
    return tmp_path / "run"


def test_what_is_saved_comes_back_bit_for_bit(run):
    assert_saved(checkpoint.newest(run), 3)
    assert_saved(checkpoint.read(run), 3)
    assert_saved(checkpoint.read(run / "checkpoints" / "2"), 2)


def test_the_sums_are_those_of_coreutils(run):
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


def cut_short(directory):
    path = largest(directory)
    os.truncate(path, path.stat().st_size // 2)


def flip_an_array(directory):
    flip(largest(directory))


def change_a_fact(directory):
    (path,) = directory.glob("*.json")
    path.write_text(path.read_text().replace('"next_batch": 103', '"next_batch": 102'))


def lose_an_array(directory):
    largest(directory).unlink()


def empty_the_metadata(directory):
    os.truncate(directory / "arrays" / "_METADATA", 0)


def lose_the_facts(directory):
    (directory / "run.json").unlink()


def lose_the_arrays(directory):
    shutil.rmtree(directory / "arrays")


def lose_the_sums(directory):
    (directory / "SHA256SUMS").unlink()


def empty_the_sums(directory):
    os.truncate(directory / "SHA256SUMS", 0)


def lose_the_last_sum(directory):
    path = directory / "SHA256SUMS"
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:-1]))


def write_noise_over_the_sums(directory):
    (directory / "SHA256SUMS").write_bytes(bytes(range(256)))


def add_a_file(directory):
    (directory / "arrays" / "d" / "more").write_text("")


def empty_the_directory(directory):
    shutil.rmtree(directory)
    directory.mkdir()


def put_a_file_in_its_place(directory):
    shutil.rmtree(directory)
    directory.write_text("")


def turn_a_file_into_a_loop(directory):
    (directory / "run.json").unlink()
    (directory / "run.json").symlink_to("run.json")


def forbid_a_file(directory):
    (directory / "run.json").chmod(0)
    if os.access(directory / "run.json", os.R_OK):
        pytest.skip("this user may read every file")


def forbid_the_directory(directory):
    directory.chmod(0)
    if os.access(directory, os.R_OK):
        pytest.skip("this user may read every directory")


FAULTS = {
    cut_short: r"arrays/.*/d/\w+ is not what was written",
    flip_an_array: r"arrays/.*/d/\w+ is not what was written",
    change_a_fact: r"(run|checkpoint)\.json is not what was written",
    lose_an_array: r"'arrays/.*/d/\w+' is missing",
    empty_the_metadata: r"arrays/_METADATA is empty",
    lose_the_facts: r"'run\.json' is missing",
    lose_the_arrays: r"'arrays/.*' is missing, and \d+ more",
    lose_the_sums: r"SHA256SUMS is missing",
    empty_the_sums: r"arrays/\S+ is not in its SHA256SUMS, and \d+ more",
    lose_the_last_sum: r"run\.json is not in its SHA256SUMS",
    write_noise_over_the_sums: r"arrays/\S+ is not in its SHA256SUMS, and \d+ more",
    add_a_file: r"arrays/d/more is not in its SHA256SUMS",
    empty_the_directory: r"SHA256SUMS is missing",
    put_a_file_in_its_place: r"3 cannot be read: Not a directory",
    turn_a_file_into_a_loop: r"run\.json cannot be read: Too many levels of symbolic links",
    forbid_a_file: r"run\.json cannot be read: Permission denied",
    forbid_the_directory: r"3 cannot be read: Permission denied",
}


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.__name__)
def test_a_broken_checkpoint_is_named_and_kept_and_the_one_before_is_used(run, fault, capfd):
    directory, aside = run / "checkpoints" / "3", run / "broken-checkpoints" / "3"
    fault(directory)
    for ask, advice in (
        (lambda: checkpoint.newest(run, strict=True), "leave out --strict to go on from an older one."),
        (lambda: checkpoint.read(run), f"try {run}/checkpoints/2 or {run}/checkpoints/1."),
    ):
        with pytest.raises(checkpoint.BrokenCheckpoint, match=f"{directory} is broken: .*{FAULTS[fault]}.*; {advice}"):
            ask()
    assert steps_of(run) == [1, 2, 3] and not aside.exists() and not capfd.readouterr().err

    assert_saved(checkpoint.newest(run), 2)
    (said,) = capfd.readouterr().err.splitlines()
    assert said.startswith(f"warning: {directory} is broken: ")
    assert said.endswith(f" (moved to {aside}); going on from {run / 'checkpoints' / '2'}.")
    assert steps_of(run) == [1, 2] and aside.exists()

    save(run, 3)
    assert_saved(checkpoint.newest(run, strict=True), 3)
    assert not capfd.readouterr().err


def test_a_disk_that_fails_while_a_file_is_read_is_named(run, monkeypatch):
    def fail(file, algorithm):
        raise OSError(errno.EIO, os.strerror(errno.EIO))  # as a read does: without the file's name

    monkeypatch.setattr(hashlib, "file_digest", fail)
    with pytest.raises(
        checkpoint.BrokenCheckpoint, match=r"arrays/\S+ cannot be read: Input/output error, and \d+ more"
    ):
        checkpoint.read(run)


def test_a_flipped_bit_is_found_in_every_file(run):
    directory = run / "checkpoints" / "3"
    files = [path for path in directory.rglob("*") if path.is_file()]
    assert len(files) > 8
    for number, path in enumerate(files):
        content = path.read_bytes()
        for position in {0, *np.linspace(0, len(content) - 1, 12).astype(int).tolist()}:
            flip(path, position, bit=(position + number) % 8)
            with pytest.raises(checkpoint.BrokenCheckpoint, match=f"{directory} is broken"):
                checkpoint.read(run)
        path.write_bytes(content)
    assert_saved(checkpoint.read(run), 3)


def test_several_broken_ones_make_one_warning_and_each_has_a_place_of_its_own(run, capfd):
    for name in ("3", "3-2", "2"):
        (run / "broken-checkpoints" / name).mkdir(parents=True)
    flip_an_array(run / "checkpoints" / "3")
    lose_the_sums(run / "checkpoints" / "2")
    assert_saved(checkpoint.newest(run), 1)
    (said,) = capfd.readouterr().err.splitlines()
    assert f"{run}/checkpoints/3 is broken" in said and f"(moved to {run}/broken-checkpoints/3-3)" in said
    assert f"{run}/checkpoints/2 is broken" in said and f"(moved to {run}/broken-checkpoints/2-2)" in said
    assert sorted(path.name for path in (run / "broken-checkpoints").iterdir()) == ["2", "2-2", "3", "3-2", "3-3"]


def test_no_whole_checkpoint_is_an_error_and_not_a_fresh_start(run):
    for step in ("1", "2", "3"):
        lose_the_facts(run / "checkpoints" / step)
    with pytest.raises(UserError, match="no checkpoint is left to go on from: .*/3 is broken.*/2 is.*/1 is.*anew"):
        checkpoint.newest(run)
    assert steps_of(run) == [1, 2, 3] and not (run / "broken-checkpoints").exists()


def test_no_checkpoint_at_all_is_a_fresh_start(tmp_path):
    assert checkpoint.newest(tmp_path / "nowhere") is None
    (tmp_path / "checkpoints").mkdir()
    assert checkpoint.newest(tmp_path) is None
    assert not list((tmp_path / "checkpoints").iterdir())


def test_a_whole_checkpoint_of_something_else_is_refused_but_not_called_broken(run):
    saved = checkpoint.newest(run)
    state = state_of(3)
    for other, difference in (
        (state._replace(step=np.zeros((2, 2), np.int32)), r"step is int32\[\] there and int32\[2, 2\] here\."),
        (state._replace(step=np.float32(0)), r"step is int32\[\] there and float32\[\] here\."),
        (state._replace(params={"bias": np.zeros(3)}), r"kernel is float32\[3, 3, 32, 8\] there and missing here\."),
        (state._replace(params={**state.params, "new": np.zeros(1)}), r"new is missing there and float64\[1\] here\."),
        (state._replace(opt_state=()), r"trace is bfloat16\[5\] there and missing here\."),
        (state_of(3)._replace(step=np.zeros(1), opt_state=()), r" is .* there and .* here, and 1 more differ\."),
    ):
        with pytest.raises(UserError, match=f"checkpoints/3 holds other arrays than are needed here: .*{difference}"):
            saved.state(template(other))
    assert steps_of(run) == [1, 2, 3]


def test_hidden_files_of_others_do_not_break_a_checkpoint(run):
    (run / "checkpoints" / "3" / ".DS_Store").write_text("left by a file browser")
    assert_saved(checkpoint.newest(run), 3)


def test_a_name_in_the_sums_is_not_followed_out_of_the_checkpoint(run):
    secret = run / "secret"
    secret.write_text("not part of it")
    sums = run / "checkpoints" / "3" / "SHA256SUMS"
    for name in ("../../secret", str(secret)):
        whole = sums.read_text()
        sums.write_text(whole + f"{hashlib.sha256(secret.read_bytes()).hexdigest()}  {name}\n")
        with pytest.raises(checkpoint.BrokenCheckpoint, match="secret' is missing"):
            checkpoint.read(run)
        sums.write_text(whole)


@pytest.mark.parametrize(
    ("errors", "kept"),
    [({}, [4, 5]), ({1: 0.5, 2: 0.1, 4: 0.3}, [2, 4, 5]), ({1: 0.2, 3: 0.2}, [1, 4, 5])],
)
def test_the_newest_and_the_best_are_kept(tmp_path, errors, kept):
    save(tmp_path, 1, 2, 3, keep=2, errors=errors)
    save(tmp_path, 4, 5, keep=2, errors=errors)
    assert steps_of(tmp_path) == kept
    assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoints"]


def test_an_old_checkpoint_that_cannot_be_read_does_not_stop_the_saving(run):
    lose_the_facts(run / "checkpoints" / "1")
    flip(run / "checkpoints" / "2" / "run.json", 0)
    save(run, 4, keep=3)
    assert steps_of(run) == [2, 3, 4]


def test_the_state_is_copied_before_the_next_step_writes_over_it(tmp_path):
    state = state_of(1)
    with contextlib.closing(checkpoint.Checkpoints(tmp_path)) as checkpoints:
        checkpoints.save(1, state, next_batch=101, experiment=EXPERIMENT, top1_error=None)
        state.params["conv"]["kernel"][:] = 0
    assert_saved(checkpoint.newest(tmp_path), 1)


def test_a_save_that_failed_is_told_at_the_next_one_and_at_the_end(tmp_path):
    (tmp_path / "checkpoints").write_text("in the way")
    checkpoints = checkpoint.Checkpoints(tmp_path)
    message = f"checkpoint 1 could not be written to {tmp_path}/checkpoints/1: File exists; mend that and start the "
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


def test_a_full_disk_is_one_sentence_and_loses_nothing(tmp_path):
    code = """
    import resource
    from inception_jax.checkpoint import save_variables
    run, exported = Path(sys.argv[1]), Path(sys.argv[2])
    save(run, 1)
    save_variables(exported, {"params": state_of(1).params}, {})
    # A file of these lengths breaks off in the middle of the arrays and of the facts.
    for length in (4000, 700):
        resource.setrlimit(resource.RLIMIT_FSIZE, (length, resource.RLIM_INFINITY))
        for write in (lambda: save(run, 2), lambda: save_variables(exported, {"params": state_of(2).params}, {})):
            try:
                write()
            except RunFailed as error:
                print(error)
    """
    out, err = in_another_process(code, tmp_path / "run", tmp_path / "exported")
    why = "File too large; free some space and start the same command again."
    run_says = f"checkpoint 2 could not be written to {tmp_path}/run/checkpoints/2: {why}"
    export_says = f"checkpoint exported could not be written to {tmp_path}/exported: {why}"
    assert out.splitlines() == [run_says, export_says] * 2
    assert not err
    assert steps_of(tmp_path / "run") == [1]
    assert_saved(checkpoint.newest(tmp_path / "run", strict=True), 1)
    np.testing.assert_array_equal(checkpoint.load_variables(tmp_path / "exported")[0]["params"]["bias"], np.zeros(3))
    save(tmp_path / "run", 2)
    exported_checkpoint(tmp_path / "exported")
    assert_saved(checkpoint.newest(tmp_path / "run", strict=True), 2)
    left = [path.relative_to(tmp_path).as_posix() for path in (*tmp_path.iterdir(), *(tmp_path / "run").iterdir())]
    assert sorted(left) == ["exported", "run", "run/checkpoints"]


def test_a_process_killed_at_any_moment_of_a_save_leaves_whole_checkpoints_only(tmp_path):
    # Each fork is killed at another of the file operations that it does; one import serves them all.
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
    with pytest.raises(UserError, match="exists and is not an exported checkpoint"):
        exported_checkpoint(run / "checkpoints" / "3")
    assert_saved(checkpoint.read(run), 3)
    with pytest.raises(UserError, match="is an imported or exported checkpoint"):
        checkpoint.read(exported_checkpoint(run / "out"))


def test_an_export_killed_as_it_replaced_an_older_one_is_put_right(tmp_path):
    exported_checkpoint(tmp_path / "out")
    place = tmp_path / ".out.unfinished" / "x"
    place.mkdir(parents=True)
    (tmp_path / "out").rename(place / "old")
    with pytest.raises(TypeError):
        checkpoint.save_variables(tmp_path / "out", {"params": state_of(1).params}, {"not JSON": object()})
    assert checkpoint.load_variables(tmp_path / "out")[1]["next_batch"] == 103
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_an_exported_checkpoint_comes_back_with_its_facts(tmp_path):
    variables, facts = checkpoint.load_variables(exported_checkpoint(tmp_path / "out"))
    assert facts == {"model": {"name": "x"}, "next_batch": 103}
    np.testing.assert_array_equal(variables["params"]["conv"]["kernel"], state_of(3).params["conv"]["kernel"])


@pytest.mark.parametrize(
    "fault", [cut_short, flip_an_array, lose_an_array, change_a_fact, lose_the_sums], ids=lambda fault: fault.__name__
)
def test_a_broken_exported_checkpoint_is_named(tmp_path, fault):
    directory = exported_checkpoint(tmp_path / "out")
    fault(directory)
    with pytest.raises(checkpoint.BrokenCheckpoint, match=f"{directory} is broken: .*{FAULTS[fault]}"):
        checkpoint.load_variables(directory)
