"""Helpers of several test files: a network that compiles in a second, a short run, processes, a tfds data set."""

import dataclasses
import functools
import io
import json
import os
import socket
import subprocess
import sys

import numpy as np
from conftest import PATIENCE, QUICK
from source_helpers import jpeg

from inception_jax import config
from inception_jax.config import DataConfig, EvaluationConfig, Experiment, ModelConfig, OptimConfig, TrainConfig
from inception_jax.models.blocks import ConvNorm
from inception_jax.models.network import Network


class Shallow(Network):
    """Three convolutions, which compile in a second; steps treat them as any network."""

    def stages(self):
        return [
            ("stem", functools.partial(ConvNorm, features=12, kernel=5, strides=4)),
            ("reduction_b", functools.partial(ConvNorm, features=16, kernel=3, strides=2)),
            ("last", functools.partial(ConvNorm, features=20, kernel=3)),
        ]


TIMES = ("seconds", "images_per_second", "data_wait_share")


SMALL = Experiment(
    model=ModelConfig(name="inception_resnet_v1", width=0.05, depths=(1, 1, 1), bn_momentum=0.9),
    data=DataConfig(source="digits", image_size=75, flip=False, threads=2, prefetch=1),
    optim=OptimConfig(ema_decay=0.9),
    train=TrainConfig(batch_size=8, steps=6, log_every=1, checkpoint_every=3),
    evaluation=EvaluationConfig(every_epochs=3 / (1442 / 8), batch_size=128),
)


def changed(experiment, **parts):
    new = {name: dataclasses.replace(getattr(experiment, name), **values) for name, values in parts.items()}
    return dataclasses.replace(experiment, **new)


def without_times(metrics):
    return [{k: v for k, v in record.items() if k not in TIMES} for record in metrics]


def write_experiment(folder, experiment):
    """Writes an experiment file for a subprocess."""
    script = folder / "experiment.py"
    values = json.dumps(config.to_dict(experiment))
    script.write_text(
        "import json\nfrom inception_jax import config\n"
        f"def runs():\n    return {{'only': config.from_dict(json.loads({values!r}))}}\n"
    )
    return script


def with_value(field, value):
    experiment = Experiment()
    part, _, name = field.rpartition(".")
    if not part:
        return dataclasses.replace(experiment, **{name: value})
    return dataclasses.replace(experiment, **{part: dataclasses.replace(getattr(experiment, part), **{name: value})})


def start(arguments, *, processes=2, devices=2):
    """Starts processes `python ARGUMENTS` that join each other; the argument ID is replaced by a process's index."""
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
    """Waits for processes; returns their exit codes and outputs."""
    outputs = [process.communicate(timeout=PATIENCE)[0] for process in processes]
    return [process.returncode for process in processes], outputs


def write_tfds(
    root,
    name,
    *,
    splits,
    file_format="array_record",
    features=None,
    example=lambda i: {"image": io.BytesIO(jpeg(i)), "label": i % 2},
    version="1.0.0",
    shards=1,
    damage=lambda i, record: record,
):
    """Writes a data set as tensorflow-datasets does, but without TensorFlow, and returns its directory.

    Example i of a split is `example(i)`; `damage` may change its record.
    """
    import tensorflow_datasets as tfds
    from array_record.python.array_record_module import ArrayRecordWriter

    folder = root / name / version
    folder.mkdir(parents=True)
    default = {"image": tfds.features.Image(), "label": tfds.features.ClassLabel(names=["cat", "dog"])}
    features = tfds.features.FeaturesDict(features or default)
    infos = []
    for split, count in splits.items():
        files = tfds.core.ShardedFileTemplate(
            data_dir=folder, dataset_name=name, split=split, filetype_suffix=file_format
        )
        numbers = np.array_split(np.arange(count), shards)
        for shard, members in enumerate(numbers):
            path = files.sharded_filepath(shard_index=shard, num_shards=shards)
            writer = ArrayRecordWriter(str(path), "group_size:1")
            for i in members.tolist():
                writer.write(damage(i, features.serialize_example(features.encode_example(example(i)))))
            writer.close()
        lengths = [len(members) for members in numbers]
        infos.append(tfds.core.SplitInfo(name=split, shard_lengths=lengths, num_bytes=0, filename_template=files))
    identity = tfds.core.dataset_info.DatasetIdentity(
        name=name, version=tfds.core.Version(version), data_dir=str(folder), module_name="test"
    )
    info = tfds.core.DatasetInfo(builder=identity, features=features)
    info.set_file_format(file_format)
    info.set_splits(tfds.core.splits.SplitDict(infos))
    info.write_to_directory(folder)
    return folder
