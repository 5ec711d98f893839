"""Packaged experiments by name: listed, printed, trained, and distinguished from files and from runs."""

import re
import sys

import pytest

from inception_jax import compare, train
from inception_jax.cli import main, packaged
from inception_jax.cli.experiment_files import load_runs

NAMES = sorted(packaged.files())


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    """Run in an empty directory, with no experiment imported before or after."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    forget()
    yield
    forget()


def forget():
    for name in NAMES:
        sys.modules.pop(name, None)


@pytest.mark.parametrize("name", NAMES)
def test_every_packaged_experiment_is_found_by_its_name(name):
    assert load_runs(name)


def test_the_list_has_a_line_for_each(capfd):
    assert main(["experiments"]) == 0
    out, err = capfd.readouterr()
    assert [line.split()[0] for line in out.splitlines()] == NAMES and not err
    assert all(packaged.first_line(packaged.file(name)) in out for name in NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_a_printed_experiment_runs_from_any_directory(capfd, tmp_path, name):
    assert main(["experiments", name]) == 0
    out, err = capfd.readouterr()
    assert out == packaged.file(name).read_text()
    imported = packaged.neighbours(packaged.file(name))
    assert all(neighbour in err for neighbour in imported) and bool(err) == bool(imported)
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "mine.py").write_text(out)
    assert load_runs("deep/mine.py") == load_runs(name)


def test_a_users_file_takes_precedence_over_a_packaged_one(tmp_path):
    (tmp_path / "digits.py").write_text(packaged.file("digits").read_text().replace("epochs=8", "epochs=9"))
    assert {e.train.epochs for e in load_runs("digits.py").values()} == {9}
    assert {e.train.epochs for e in load_runs("digits").values()} == {8}
    # Copies beside it import it, too.
    (tmp_path / "rates.py").write_text(packaged.file("digits_rates").read_text())
    assert {e.train.epochs for e in load_runs("rates.py").values()} == {9}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("train digts --workdir x", "digts.* digits, "),
        ("train inception_v4 --workdir x", "imagenet --run inception_v4"),
        ("train digits.py --workdir x", "digits.py.* digits"),
        ("train digits --workdir x", "digits.* --run.* inception_v3, "),
        ("compare digts --workdir x", "digts.* digits, "),
        ("compare digits", "digits.* --workdir"),
        ("compare digts --out x", "digts.* config.json"),
        ("benchmark save digits", "digits.* --run"),
        ("experiments digts", "digts.* digits, digits_rates, "),
    ],
)
def test_mistakes_are_one_line_and_exit_2(capfd, arguments, message):
    assert main(arguments.split()) == 2
    out, err = capfd.readouterr()
    assert re.search(message, err) and len(err.splitlines()) == 1 and not out


def test_help_with_a_name_lists_its_fields(capfd):
    with pytest.raises(SystemExit) as end:
        main(["train", "imagenet", "--help"])
    assert not end.value.code and "--optim.learning-rate" in capfd.readouterr().out


def test_compare_tells_a_name_from_a_run(monkeypatch, tmp_path):
    drawn, trained = [], []
    monkeypatch.setattr(compare, "compare", lambda directories, out: drawn.append([str(d) for d in directories]) or [])
    monkeypatch.setattr(train.run, "fit", lambda experiment, directory, **options: trained.append(str(directory)))
    names = ["inception_v3", "inception_resnet_v1", "inception_v4", "inception_resnet_v2"]
    # The second time a workdir of the same name exists, and the command resumes.
    for _ in range(2):
        assert main(["compare", "digits", "--workdir", "digits"]) == 0
        assert trained == drawn.pop() == [f"digits/{name}" for name in names]
        trained.clear()
        (tmp_path / "digits").mkdir(exist_ok=True)
    assert main(["compare", "digits", "--out", "pictures"]) == 0
    assert drawn == [["digits"]] and not trained
