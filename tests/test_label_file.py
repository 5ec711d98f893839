"""csv:FILE, the labels of images in a text file: what is understood, and what is refused and how."""

import csv
import os

import pytest
from source_helpers import expect, jpeg

from inception_jax.data import check, open_source
from inception_jax.data.prepare import prepare
from inception_jax.errors import UserError


def fill(root, *names):
    for number, name in enumerate(names):
        path = os.path.join(os.fsencode(root), os.fsencode(name))
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, "wb") as file:
            file.write(jpeg(number))


def listing(root, split="train", text=None, name="labels.csv"):
    """Images and classes of a split of ROOT/NAME, into which `text` is written first."""
    if text is not None:
        (root / name).write_bytes(text if isinstance(text, bytes) else text.encode())
    source = open_source(f"csv:{root / name}", split)
    assert [source.name(i) for i in range(len(source))] == [record.name for record in source]
    return [(os.path.relpath(r.name, root), source.class_names[r.label]) for r in source]


ABC = [("a.jpg", "cat"), ("c.jpg", "cat"), ("b.jpg", "dog")]


@pytest.fixture
def flat(tmp_path):
    fill(tmp_path, "a.jpg", "b.jpg", "c.jpg")
    return tmp_path


@pytest.mark.parametrize(
    "text",
    [
        "path,label\na.jpg,cat\nb.jpg,dog\nc.jpg,cat\n",
        "a.jpg,cat\nb.jpg,dog\nc.jpg,cat",
        "cat,a.jpg\r\ndog,b.jpg\r\ncat,c.jpg\r\n",
        "\ufefffile name;Class\ra.jpg;cat\rb.jpg;dog\rc.jpg;cat\r",
        "filename\tlabel\na.jpg\t cat \n\nb.jpg\tdog\nc.jpg\tcat\n\n \t \n",
        '"filepaths", "labels"\n"a.jpg", "cat"\n"b.jpg", "dog"\n"c.jpg", "cat"\n',
        ",image,label\n0,a.jpg,cat\n1,b.jpg,dog\n2,c.jpg,cat\n",
        ",img,what\n0,a.jpg,cat\n1,b.jpg,dog\n2,c.jpg,cat\n",
        "class id,image,label,class\n0,a.jpg,cat,x\n1,b.jpg,dog,y\n0,c.jpg,cat,z\n",
        "id,breed\na,cat\nb,dog\nc,cat\n",
        "picture,kind\na.jpg,cat\n.\\b.jpg,dog\nc.jpg,cat\nc.jpg,cat\n",
        "path,label,dataset\na.jpg,cat,flickr\nb.jpg,dog,kaggle\nc.jpg,cat,kaggle\n",
        "path,label,split\na.jpg,cat,train\nb.jpg,dog,train\nc.jpg,cat,train\n",
    ],
)
def test_the_columns_are_found(flat, text):
    # One image of each class is the second, which is held out.
    assert listing(flat, text=text) + listing(flat, "validation") == [ABC[0], ABC[2], ABC[1]]


@pytest.mark.parametrize("encoding", ["utf-16", "utf-8-sig"])
def test_the_text_is_as_excel_saves_it(flat, encoding):
    text = "path\tlabel\r\na.jpg\tcafé\r\nb.jpg\tdog\r\nc.jpg\tcafe\u0301\r\n"
    assert listing(flat, text=text.encode(encoding)) == [("a.jpg", "café"), ("b.jpg", "dog")]


def test_a_folder_and_its_label_file_are_the_same_data(tmp_path):
    names = [f"{label}/{number:02}.jpg" for label in ("cat", "dog") for number in range(15)]
    fill(tmp_path / "pets", *names)
    with open(tmp_path / "labels.csv", "w", newline="") as file:
        csv.writer(file).writerows([f"pets/{name}", name.partition("/")[0]] for name in reversed(names))
    for split in ("train", "validation"):
        theirs, ours = (open_source(s, split) for s in (f"folder:{tmp_path}/pets", f"csv:{tmp_path}/labels.csv"))
        assert list(ours) == list(theirs) and ours.class_names == theirs.class_names


def test_it_is_prepared_and_checked(tmp_path):
    fill(tmp_path / "my pets", *(f"{number}.jpg" for number in range(6)))
    rows = "".join(f"{number}.jpg;{'cat' if number % 2 else 'new–dog'}\n" for number in range(6))
    (tmp_path / "my pets" / "all labels.csv").write_text(rows, encoding="utf-8")
    spec, out = f"csv:{tmp_path}/my pets/all labels.csv", tmp_path / "out"
    assert prepare(spec, out, shard_images=4, threads=1, skip_broken=False).images == {"train": 4, "validation": 2}
    for split in ("train", "validation"):
        straight, read = open_source(spec, split), open_source(f"tfds:{out}", split)
        assert read.class_names == straight.class_names == ("cat", "new–dog")
        assert [(r.image, r.label) for r in read] == [(r.image, r.label) for r in straight]
        assert read[0].name.endswith(os.path.basename(straight[0].name))
    report = check.check(spec)
    assert [split.classes for split in report.splits.values()] == [(2, 2), (1, 1)]


def test_numbers_are_classes_in_their_order(flat):
    fill(flat, "d.jpg")
    text = "image,label\na.jpg,10\nb.jpg,9\nc.jpg,100\nd.jpg,100\n"
    assert listing(flat, text=text) == [("b.jpg", "9"), ("a.jpg", "10"), ("c.jpg", "100")]


SPLIT = "a.jpg,cat,{}\nb.jpg,dog,{}\nc.jpg,cat,{}\n"


@pytest.mark.parametrize("header", ["", "path,label,split\n", "image_id,category,Data Set\n", "file,what,where\n"])
@pytest.mark.parametrize("names", [("train", "validation"), ("Training", "val"), ("train", "valid"), ("train", "test")])
def test_a_column_of_splits(flat, header, names):
    training, held = names
    text = header + SPLIT.format(training, training, held)
    assert listing(flat, text=text) == [ABC[0], ABC[2]] and listing(flat, "validation") == [ABC[1]]


def test_test_images_are_left_out_beside_validation_and_need_no_label(flat):
    fill(flat, "d.jpg")
    text = "path,label,split\n" + SPLIT.format("train", "train", "dev") + "d.jpg,,test\n"
    assert listing(flat, text=text) == [ABC[0], ABC[2]] and listing(flat, "validation") == [ABC[1]]


def test_files_are_found_by_other_spellings(tmp_path):
    fill(tmp_path / "deep", "cafe\u0301/o\u0308l.jpg", b"l\xe9.jpg", "1.png", "2.png", "2.jpg", "3", "a b.jpg")
    text = "deep\\caf\u00e9\\\u00f6l.jpg,x\n".encode() + b"deep/l\xe9.jpg,y\ndeep/1.png,x\n"
    found = {("deep/cafe\u0301/o\u0308l.jpg", "x"), ("deep/1.png", "x"), (os.fsdecode(b"deep/l\xe9.jpg"), "y")}
    assert set(listing(tmp_path, text=text) + listing(tmp_path, "validation")) == found
    text = f"path,label\n{tmp_path}/deep/1,x\ndeep/a b.jpg,y\n./deep/3,y\n"
    found = [("deep/1.png", "x"), ("deep/3", "y"), ("deep/a b.jpg", "y")]
    assert sorted(listing(tmp_path, text=text) + listing(tmp_path, "validation")) == found
    # Which of the two is meant is not guessed.
    (tmp_path / "labels.csv").write_text("path,label\ndeep/1,x\ndeep/2,y\n")
    expect(r"1 of 2 images cannot be found: deep/2 \(line 3\)", f"csv:{tmp_path}/labels.csv")


def test_a_path_relative_to_the_working_directory(flat, monkeypatch):
    (flat / "labels.csv").write_text("a.jpg,cat\nb.jpg,dog\n")
    monkeypatch.chdir(flat)
    assert open_source("csv:labels.csv", "train")[1].image == jpeg(1)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is empty"),
        ("a.jpg\nb.jpg\n", "one column"),
        ("a.jpg cat\nb.jpg dog\n", "one column.*comma, semicolon or tab"),
        ("path,label\n", "lists no image"),
        ("a.jpg,cat\nb.jpg,dog,x\n", "comma: line 2 has 3 columns and line 1 has 2"),
        ('a.jpg,cat\nb.jpg,"dog\nc.jpg,cat\n', "line 3: unexpected end"),
        ("path,label\na.jpg,cat\n,dog\n", "line 3, has no path"),
        ("path,label\na.jpg,cat\nb.jpg,\n", "line 3, has no label"),
        ("path,label\na.jpg,cat\nb.jpg,dog\na.jpg,dog\n", "lines 2 and 4: a.jpg is 'cat' and 'dog'"),
        ("path,label\na,cat\nb.jpg,dog\n./a.jpg,dog\n", "lines 2 and 4: a.jpg is 'cat' and 'dog'"),
        ("a.jpg,cat,train\nb.jpg,cat,val\na.jpg,cat,val\n", "lines 1 and 3: a.jpg is 'cat train' and 'cat validation'"),
        ("path,label,split\na.jpg,cat,train\nb.jpg,dog,tarin\n", "line 3: the split is 'tarin'; .*train, validation"),
        ("a.jpg,cat,0\nb.jpg,dog,1\n", "not clear.*'a.jpg', 'cat', '0'; .*header of path, label"),
        ("image,cat,dog\na.jpg,1,0\nb.jpg,0,1\n", "not clear.*'image', 'cat', 'dog'"),
        ("IMG.pdf,cat\na.jpg,dog\nb.jpg,dog\n", "not clear.*'IMG.pdf', 'cat'"),
        ("one,two\nx,cat\ny,dog\n", "not clear.*'one', 'two'"),
        ("path,class,category\na.jpg,x,1\n", "several columns of labels, class and category"),
        ("path,label,label\na.jpg,x,1\n", "several columns of labels, label and label"),
        (
            "path,label\nz.jpg,cat\na.jpg,dog\nn/b.jpg,cat\n",
            r"2 of 3 images cannot be found: z.jpg \(line 2\), n/b.jpg \(l",
        ),
        (
            "".join(f"{i}.jpg,cat\n" for i in range(9)),
            r"9 of 9 images cannot be found: 0.jpg .* and 4 more; .*relative to /",
        ),
        (b"PK\3\4\0\0\xff\xfe,", "is not a text file"),
    ],
)
def test_what_is_not_understood_is_refused_by_line_and_value(flat, text, message):
    (flat / "labels.csv").write_bytes(text if isinstance(text, bytes) else text.encode())
    expect(f"^csv:.*{message}" if "text file" not in message else message, f"csv:{flat / 'labels.csv'}")


@pytest.mark.parametrize(
    ("text", "split", "message"),
    [
        ("a.jpg,cat\nb.jpg,dog\n", "validation", "too small to split"),
        ("a.jpg,cat,val\nb.jpg,dog,test\n", "train", "has no images for training"),
        ("a.jpg,cat,train\nb.jpg,dog,val\n", "validation", "class 'dog' in its validation images and not in training"),
    ],
)
def test_a_split_that_is_not_there_is_refused(flat, text, split, message):
    (flat / "labels.csv").write_text(text)
    expect(message, f"csv:{flat / 'labels.csv'}", split)


def test_a_place_that_is_no_file_is_refused(tmp_path):
    expect("is a folder; give the text file", f"csv:{tmp_path}")
    expect("none.csv cannot be read: no such file", f"csv:{tmp_path}/none.csv")
    expect("gs://b/l.csv is in a bucket", "csv:gs://b/l.csv")


@pytest.mark.parametrize("other", ["{root}/b.jpg", "../{name}/b.jpg", "./b.jpg"])
def test_an_image_by_two_paths_is_one(flat, other):
    other = other.format(root=flat, name=flat.name)
    text = f"a.jpg,cat\nb.jpg,dog\n{other},{{}}\nc.jpg,cat\n"
    assert listing(flat, text=text.format("dog")) == [ABC[0], ABC[2]]
    with pytest.raises(UserError, match="lines 2 and 3.*b.jpg is 'dog' and 'cat'"):
        listing(flat, text=text.format("cat"))


def test_columns_that_are_not_used_are_noted_and_a_split_mistyped_is_refused(flat):
    header, text = "path,label,{},tags\n", "a.jpg,cat,{},\nb.jpg,dog,True,\nc.jpg,cat,False,\n"
    (flat / "labels.csv").write_text(header.format("is_valid") + text.format(False))
    (note,) = open_source(f"csv:{flat}/labels.csv", "evaluation").layout.notes
    assert "'is_valid', 'tags'" in note
    with pytest.raises(UserError, match="line 3.*split is 'True'"):
        listing(flat, text=header.format("partition") + text.format("train"))
