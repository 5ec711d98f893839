"""Names of classes and files that are not plain text, and text files of names."""

import io
import json
import os
import subprocess
import sys

import pytest
from source_helpers import expect, jpeg

from inception_jax.data import check, open_source
from inception_jax.data.prepare import prepare
from inception_jax.data.sources import class_name, with_classes
from inception_jax.errors import RunFailed, UserError
from inception_jax.predict import table
from inception_jax.system.names import check_path, printable, read_names, read_text
from inception_jax.system.progress import say
from inception_jax.weights.importer import read_class_names

FAMILY = "👩\u200d👧"  # One emoji of three characters.
# Bytes of the folder of a class, and the name of the class.
CLASSES = {
    b" lead": r"\x20lead",
    b"a  b": "a  b",
    b"caf\xe9": r"caf\udce9",
    "cafe\u0301s".encode(): "cafés",
    b"new\nline": r"new\nline",
    b"r\r": r"r\r",
    b"tab\there": r"tab\there",
    b"trail ": r"trail\x20",
    "zwei\u2028zeilen".encode(): r"zwei\u2028zeilen",
    "日本".encode(): "日本",
    FAMILY.encode(): FAMILY,
}


def fill(root, folders, count=2):
    for folder in folders:
        path = os.path.join(os.fsencode(root), folder)
        os.makedirs(path)
        for number in range(count):
            with open(os.path.join(path, b"%d.jpg" % number), "wb") as file:
                file.write(jpeg(number))
    return root


@pytest.fixture(scope="module")
def odd(tmp_path_factory):
    return fill(tmp_path_factory.mktemp("odd") / "odd", CLASSES)


def command(*arguments):
    """Ends a command on a terminal that knows ASCII alone and is strict about it."""
    environment = {**os.environ, "PYTHONIOENCODING": "ascii:strict"}
    command = [sys.executable, "-m", "inception_jax", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, env=environment)
    assert b"Traceback" not in done.stderr
    return done.returncode, done.stdout.decode("ascii"), done.stderr.decode("ascii")


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        *((os.fsdecode(raw), name) for raw, name in CLASSES.items()),
        ("\u3000 x\xa0", r"\u3000\x20x\xa0"),
        ("  ", r"\x20\x20"),
        ("", ""),
        ("\x00\x1b[31m", r"\x00\x1b[31m"),
        ("\n\u0301", "\\\u0144"),  # The accent does not change the escape a second time.
    ],
)
def test_the_name_of_a_class_is_printable_and_stays(name, shown):
    assert class_name(name) == shown == class_name(shown)
    assert shown.isascii() or printable(shown) == shown
    assert "\n".join([shown]).split() == shown.split() and shown.encode().decode() == shown


def test_odd_names_are_the_same_classes_in_every_format(odd, tmp_path):
    names = tuple(sorted(CLASSES.values()))
    straight = open_source(f"folder:{odd}", "train")
    assert straight.class_names == names and len(straight) == len(names)
    prepare(f"folder:{odd}", tmp_path / "out", shard_images=100, threads=1, skip_broken=False)
    for split in ("train", "validation"):
        read = open_source(f"tfds:{tmp_path / 'out'}", split)
        assert read.class_names == names
        assert [record.label for record in read] == [record.label for record in open_source(f"folder:{odd}", split)]


def test_odd_names_are_printed_on_a_strict_terminal(odd, tmp_path):
    code, out, _ = command("data", "check", f"folder:{odd}")
    assert code == 0 and all(name.encode("ascii", "backslashreplace").decode() in out for name in CLASSES.values())
    code, out, err = command("data", "check", "folder:" + os.fsdecode(b"no\xe9"))
    assert code == 2 and r"no\udce9" in err and err.count("\n") == 1


def test_a_line_of_progress_is_printed_on_a_strict_terminal(monkeypatch):
    terminal = io.TextIOWrapper(io.BytesIO(), encoding="ascii", errors="strict", write_through=True)
    monkeypatch.setattr("sys.stderr", terminal)
    say("caf\udce9 in café")
    assert terminal.buffer.getvalue() == rb"caf\udce9 in caf\xe9" + b"\n"


def test_a_broken_image_of_an_odd_name_takes_one_line(tmp_path, capfd):
    root = fill(tmp_path / "odd", [b"caf\xe9\n", b"x"], 3)
    with open(os.path.join(os.fsencode(root), b"caf\xe9\n", b"0\x85.jpg"), "wb") as file:
        file.write(b"no image")
    with pytest.raises(RunFailed, match="images: 1"):
        prepare(f"folder:{root}", tmp_path / "out", shard_images=100, threads=1, skip_broken=False)
    written = (tmp_path / "out" / "broken.txt").read_text().splitlines()
    assert len(written) == 1 and r"caf\udce9\n/0\udc85.jpg" in written[0]
    # After the line that says how the folder was understood.
    assert capfd.readouterr().err.splitlines()[1:] == written
    assert prepare(f"folder:{root}", tmp_path / "out", shard_images=100, threads=1, skip_broken=True).left_out == 1
    assert check.table(check.check(f"folder:{root}")).splitlines()[-1] == written[0]


@pytest.mark.parametrize("split", ["train", "validation"])
@pytest.mark.parametrize("parts", [("",), ("train/", "val/")])
def test_a_class_of_two_spellings_is_refused_by_name(tmp_path, parts, split):
    for part in parts:
        fill(tmp_path, [(part + name).encode() for name in ("ant", "caf\u00e9", "cafe\u0301")])
    expect(r"'café', 'cafe\\u0301' and 'caf\\xe9'", f"folder:{tmp_path}", split)


def test_the_spelling_of_training_and_validation_may_differ(tmp_path):
    fill(tmp_path, [name.encode() for name in ("train/ant", "train/caf\u00e9", "val/ant", "val/cafe\u0301")])
    source = open_source(f"folder:{tmp_path}", "validation")
    assert source.class_names == ("ant", "café") and [record.label for record in source] == [0, 0, 1, 1]


def test_classes_of_another_spelling_are_matched(odd):
    source = open_source(f"folder:{odd}", "train")
    raw = [os.fsdecode(folder) for folder in reversed(CLASSES)]
    matched = with_classes(source, raw, origin="the folder", trained="the run")
    assert matched.class_names == tuple(raw)
    assert [class_name(raw[record.label]) for record in matched] == list(source.class_names)


def test_pictures_and_classes_are_named_on_one_line():
    answer = {"image": "a\nb.jpg", "classes": [{"name": "new\nline", "probability": 0.5}]}
    assert table(answer).splitlines() == [r"a\nb.jpg", r"   50.00%  new\nline"]
    json.dumps(answer)


def test_a_path_that_is_no_text_is_refused_where_it_cannot_be_opened(odd, tmp_path):
    raw = os.fsdecode(os.fsencode(tmp_path) + b"/r\xe9")
    for call in (
        lambda: check_path(raw),
        lambda: prepare(f"folder:{odd}", raw, shard_images=9, threads=1, skip_broken=False),
    ):
        with pytest.raises(UserError, match=r"r\\udce9 is not UTF-8"):
            call()
    assert not os.path.exists(raw)


# Text files

BOM = "\ufeff"


@pytest.mark.parametrize(
    "data",
    [
        b"cat\ncaf\xc3\xa9\nfox",
        b"cat\ncafe\xcc\x81\nfox\n",
        b"cat\r\ncaf\xc3\xa9 \r\nfox\r\n\r\n \r\n",
        b"cat\rcaf\xc3\xa9\t\rfox\r",
        *((BOM + "cat\r\ncafé\r\nfox\r\n").encode(e) for e in ("utf-8", "utf-16-le", "utf-16-be", "utf-32-le")),
        *("cat\ncafé\nfox\n".encode(e) for e in ("utf-16-le", "utf-16-be")),
    ],
)
def test_class_names_as_programs_write_them(tmp_path, data):
    (tmp_path / "names.txt").write_bytes(data)
    assert read_class_names(tmp_path / "names.txt", 3) == ("cat", "café", "fox")


def test_a_name_may_hold_what_is_no_end_of_a_line(tmp_path):
    (tmp_path / "names.txt").write_text("a\x0bb\na\x85b\na\u2028b\ncrane\ncrane\n", encoding="utf-8")
    assert read_class_names(tmp_path / "names.txt", 5) == (r"a\x0bb", r"a\x85b", r"a\u2028b", "crane", "crane")


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"cat\n\nfox\n", "line 2, is blank"),
        (b"cat\ndog\ncaf\xe9\n", "line 3, is not UTF-8"),
        (b"cat\0dog\n\n", "not a text file"),
        (b"\xff\xfec\0a", "line 1, is not UTF-8"),
        (b"cat\ndog\n", "has 2 names, but the network has 3"),
        (b"", "has 0 names, but the network has 3"),
        (None, "cannot be read: no such file"),
    ],
)
def test_what_is_no_list_of_names_is_refused(tmp_path, data, message):
    path = tmp_path / "names\n.txt"
    if data is not None:
        path.write_bytes(data)
    with pytest.raises(UserError, match=message) as error:
        read_class_names(path, 3)
    assert str(error.value).startswith(str(tmp_path)) and "\n" not in str(error.value)


def test_bytes_that_are_no_text_are_kept_on_request(tmp_path):
    (tmp_path / "list").write_bytes(b"\xef\xbb\xbfcaf\xe9\n")
    assert read_text(tmp_path / "list", errors="surrogateescape") == "caf\udce9\n"
    assert read_names(os.devnull) == []
