"""Sets prepared by tensorflow-datasets: what they give, and the sentence for each mistake."""

import io
import pickle
import sys

import numpy as np
import PIL.Image
import pytest
from source_helpers import expect, jpeg

from inception_jax.data import open_source
from inception_jax.errors import UserError


def write_tfds(root, name, *, splits, file_format="array_record", label=None, image=jpeg):
    """A prepared set as tensorflow-datasets writes it, by its parts that need neither TensorFlow nor anything more."""
    import tensorflow_datasets as tfds
    from array_record.python.array_record_module import ArrayRecordWriter

    folder = root / name / "1.0.0"
    folder.mkdir(parents=True)
    label = label or tfds.features.ClassLabel(names=["cat", "dog"])
    features = tfds.features.FeaturesDict({"image": tfds.features.Image(), "label": label})
    infos = []
    for split, count in splits.items():
        files = tfds.core.ShardedFileTemplate(
            data_dir=folder, dataset_name=name, split=split, filetype_suffix=file_format
        )
        writer = ArrayRecordWriter(str(files.sharded_filepath(shard_index=0, num_shards=1)), "group_size:1")
        for i in range(count):
            example = features.encode_example({"image": io.BytesIO(image(i)), "label": i % 2})
            writer.write(features.serialize_example(example))
        writer.close()
        infos.append(tfds.core.SplitInfo(name=split, shard_lengths=[count], num_bytes=0, filename_template=files))
    identity = tfds.core.dataset_info.DatasetIdentity(
        name=name, version=tfds.core.Version("1.0.0"), data_dir=str(folder), module_name="test"
    )
    info = tfds.core.DatasetInfo(builder=identity, features=features)
    info.set_file_format(file_format)
    info.set_splits(tfds.core.splits.SplitDict(infos))
    info.write_to_directory(folder)
    return folder


def test_a_tfds_set_without_tensorflow(tmp_path):
    folder = write_tfds(tmp_path, "pets", splits={"train": 5, "test": 3})
    train = open_source("tfds:pets", "train", data_dir=str(tmp_path))
    assert train.class_names == ("cat", "dog")
    assert [(r.image, r.label) for r in train] == [(jpeg(i), i % 2) for i in range(5)]
    assert train[4].name == "pets train 4"
    # Validation is 'test' where nothing is called 'validation'; a path works as well as a name.
    assert open_source(f"tfds:{folder}", "validation")[2].image == jpeg(2)
    assert open_source("tfds:pets/1.0.0", "validation", data_dir=str(tmp_path))[2].image == jpeg(2)
    assert pickle.loads(pickle.dumps(train))[1] == train[1]
    assert "tensorflow" not in sys.modules


def test_a_tfds_set_with_a_validation_split_and_pngs(tmp_path):
    def png(i):
        buffer = io.BytesIO()
        PIL.Image.new("RGBA", (4, 4), (i, 0, 0, 9)).save(buffer, "PNG")
        return buffer.getvalue()

    write_tfds(tmp_path, "icons", splits={"train": 1, "validation": 2, "test": 3}, image=png)
    validation = open_source("tfds:icons", "validation", data_dir=str(tmp_path))
    assert [record.image for record in validation] == [png(0), png(1)]


def test_tfds_mistakes(tmp_path):
    import tensorflow_datasets as tfds

    place = {"data_dir": str(tmp_path)}
    expect(f"tfds:nosuch cannot be opened, with data_dir {tmp_path}: Dataset nosuch not found.", "tfds:nosuch", **place)
    expect("tfds:no such cannot be opened", "tfds:no such", **place)
    expect("tfds:mnist:9.9.9 cannot be opened", "tfds:mnist:9.9.9", **place)
    expect(f"tfds:mnist is not prepared in {tmp_path}/mnist/3.0.1; run tensorflow_dataset", "tfds:mnist", **place)
    write_tfds(tmp_path, "old", splits={"train": 1}, file_format="tfrecord")
    expect("is prepared as tfrecord, which cannot be read at random; run", "tfds:old", **place)
    write_tfds(tmp_path, "ages", splits={"train": 1}, label=tfds.features.Scalar(np.int64))
    expect("tfds:ages has the features image, label; it must have an image and a class label.", "tfds:ages", **place)
    write_tfds(tmp_path, "half", splits={"train": 1})
    expect("tfds:half has the splits train; it must have", "tfds:half", "validation", **place)


def test_a_tfds_set_whose_file_is_gone(tmp_path):
    folder = write_tfds(tmp_path, "pets", splits={"train": 2})
    source = open_source("tfds:pets", "train", data_dir=str(tmp_path))
    next(folder.glob("*train*")).unlink()
    with pytest.raises(UserError, match="image 1 of tfds:pets train cannot be read: .*No such file"):
        source[1]
