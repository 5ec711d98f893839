"""Batches of training and validation: independent of threads, processes and start."""

import contextlib
import dataclasses
import itertools
import re
import subprocess
import sys
import threading
from collections import Counter

import numpy as np
import pytest
from conftest import PATIENCE

from inception_jax.config import DataConfig
from inception_jax.data import evaluation_batches, training_batches
from inception_jax.data.prefetch import Loading, Shard
from inception_jax.data.sources import Record, Source
from inception_jax.errors import BrokenImage, UserError

# 23 images that can be told apart: number i is i + 1 all over, so that no crop changes it, and its label is i.
COUNT = 23


def read_number(index):
    return Record(np.full((6, 9), index + 1, np.uint8), index, f"number {index}")


def read_noise(index):
    return Record(np.random.default_rng(index).integers(0, 256, (12, 9, 3), np.uint8), index, f"noise {index}")


NUMBERS = Source(tuple(map(str, range(COUNT))), COUNT, read_number)
NOISE = Source(tuple(map(str, range(COUNT))), COUNT, read_noise)


DATA = DataConfig(image_size=8, crop_area=(0.1, 1.0), crop_aspect=(0.5, 2.0))


def where_and_how(process_index=0, process_count=1, devices=2, threads=2, prefetch=2, **options):
    return {
        "shard": Shard(process_index, process_count, devices),
        "loading": Loading(threads, prefetch, **options),
    }


def train(source=NOISE, count=4, *, batch_size=12, seed=3, start=0, data=DATA, **options):
    options = where_and_how(**options)
    batches = training_batches(source, data, batch_size=batch_size, seed=seed, start=start, **options)
    with contextlib.closing(batches):
        return list(itertools.islice(batches, count))


def evaluate(source=NUMBERS, *, batch_size=8, **options):
    return list(evaluation_batches(source, DATA, batch_size=batch_size, **where_and_how(**options)))


def assert_same(ours, theirs):
    assert len(ours) == len(theirs)
    for one, other in zip(ours, theirs, strict=True):
        assert one.keys() == other.keys()
        for key in one:
            np.testing.assert_array_equal(one[key], other[key])


def labels(batches):
    return np.concatenate([batch["labels"].ravel() for batch in batches])


def test_the_shape_of_a_batch():
    (batch,) = train(count=1)
    assert batch["images"].shape == (2, 6, 8, 8, 3) and batch["images"].dtype == np.uint8
    assert batch["labels"].shape == (2, 6) and batch["labels"].dtype == np.int32
    assert batch.keys() == {"images", "labels", "skipped"} and not batch["skipped"].any()


def test_images_keep_their_labels():
    for batch in train(NUMBERS, count=8):
        assert (batch["images"] == batch["labels"][..., None, None, None] + 1).all()


def test_threads_and_prefetch_change_nothing():
    one = train(count=8, threads=1, prefetch=1)
    assert_same(one, train(count=8, threads=4, prefetch=1))
    assert_same(one, train(count=8, threads=2, prefetch=7))


@pytest.mark.parametrize("start", [1, 3, 20])
def test_a_resumed_run_has_the_same_batches(start):
    assert_same(train(count=start + 3)[start:], train(count=3, start=start))


def test_every_epoch_is_a_permutation_of_its_own():
    # 23 batches of 12 are 12 epochs; their ends fall within batches.
    epochs = labels(train(count=COUNT)).reshape(12, COUNT)
    assert (np.sort(epochs, axis=1) == np.arange(COUNT)).all()
    assert len(np.unique(epochs, axis=0)) == 12


def test_the_augmentation_of_an_image_differs_between_epochs():
    batches = train(count=COUNT)
    images = np.concatenate([batch["images"].reshape(-1, 8, 8, 3) for batch in batches])
    of_number_five = images[labels(batches) == 5]
    assert len(np.unique(of_number_five.reshape(12, -1), axis=0)) == 12


def test_seeds_differ_and_none_continues_another():
    streams = [labels(train(count=COUNT, seed=seed)).reshape(12, COUNT).tolist() for seed in (0, 1, 2, 2**40)]
    orders = [tuple(order) for stream in streams for order in stream]
    assert len(set(orders)) == 4 * 12
    assert_same(train(seed=0), train(seed=0))


@pytest.mark.parametrize("processes", [2, 3, 6])
def test_processes_give_each_device_what_one_process_would(processes):
    alone = train(count=6, devices=6)
    shares = [
        train(count=6, devices=6 // processes, process_index=p, process_count=processes) for p in range(processes)
    ]
    for k, batch in enumerate(alone):
        for key in ("images", "labels"):
            np.testing.assert_array_equal(np.concatenate([share[k][key] for share in shares]), batch[key])


def test_a_batch_larger_than_the_source():
    (batch,) = train(NUMBERS, count=1, batch_size=46)
    assert np.bincount(batch["labels"].ravel()).tolist() == [2] * COUNT


@pytest.mark.parametrize("processes", [1, 2, 3])
@pytest.mark.parametrize("batch_size", [6, 24, 30])
def test_evaluation_sees_every_image_once(batch_size, processes):
    shares = [
        evaluate(batch_size=batch_size, devices=2 if processes != 2 else 1, process_index=p, process_count=processes)
        for p in range(processes)
    ]
    assert {len(share) for share in shares} == {-(-COUNT // batch_size)}
    seen = []
    for batch in itertools.chain(*shares):
        mask = batch["mask"]
        assert mask.dtype == bool and mask.shape == batch["labels"].shape
        assert (batch["images"][mask] == batch["labels"][mask][:, None, None, None] + 1).all()
        assert (batch["images"][~mask] == 0).all() and (batch["labels"][~mask] == 0).all()
        seen += batch["labels"][mask].tolist()
    assert sorted(seen) == list(range(COUNT))


def test_evaluation_is_in_order():
    batches = evaluate(threads=3)
    assert labels(batches)[:COUNT].tolist() == list(range(COUNT))
    assert batches[-1]["mask"].tolist() == [[True] * 4, [True] * 3 + [False]]


def test_a_batch_size_that_cannot_be_shared_names_those_that_can():
    with pytest.raises(UserError, match=r"\b50\b.*\b16 devices.*\b48 or 64\b"):
        train(batch_size=50, devices=8, process_count=2)
    with pytest.raises(UserError, match=r"\b7\b.*\b8 devices.*\b8\.$"):
        evaluate(batch_size=7, devices=8)


BROKEN = {4, 11, 12}


def read_broken(index):
    return read_number(index)._replace(image=b"") if index in BROKEN else read_number(index)


SOME_BROKEN = Source(NUMBERS.class_names, COUNT, read_broken)


def test_a_broken_image_comes_out_as_the_users_error():
    with pytest.raises(BrokenImage, match="number (4|11|12) "):
        train(SOME_BROKEN, count=COUNT)
    # In the order of the source, whichever thread was first.
    with pytest.raises(BrokenImage, match="number 4 "):
        evaluate(SOME_BROKEN, threads=4)


def test_a_skipped_image_is_replaced_by_the_next_and_counted():
    said = []
    stopping = train(NUMBERS, count=COUNT)
    skipping = train(SOME_BROKEN, count=COUNT, on_error="skip", report=said.append)
    replaced = np.array([{4: 5, 11: 13, 12: 13}.get(i, i) for i in range(COUNT)])
    cost = replaced - np.arange(COUNT)
    for whole, batch in zip(stopping, skipping, strict=True):
        np.testing.assert_array_equal(batch["labels"], replaced[whole["labels"]])
        assert (batch["images"] == batch["labels"][..., None, None, None] + 1).all()
        np.testing.assert_array_equal(batch["skipped"], cost[whole["labels"]])
    # 12 epochs; where 11 is drawn, 12 is found broken too.
    assert Counter(map(broken_number, said)) == {4: 12, 11: 12, 12: 24}
    assert_same(skipping, train(SOME_BROKEN, count=COUNT, on_error="skip", threads=5))


def broken_number(message):
    return int(re.search(r"number (\d+) ", message)[1])


def test_evaluation_leaves_a_skipped_image_out():
    said = []
    batches = evaluate(SOME_BROKEN, on_error="skip", report=said.append)
    mask = np.concatenate([batch["mask"].ravel() for batch in batches])
    assert set(np.flatnonzero(~mask)) == BROKEN | {23}
    assert list(map(broken_number, said)) == sorted(BROKEN)
    assert set(np.flatnonzero(np.concatenate([batch["skipped"].ravel() for batch in batches]))) == BROKEN


def test_a_source_of_broken_images_alone_is_an_error():
    source = Source(NUMBERS.class_names, COUNT, lambda index: Record(b"", 0, f"number {index}"))
    with pytest.raises(UserError, match="^23 images .*number "):
        train(source, on_error="skip")


# Balanced sampling

BALANCED = dataclasses.replace(DATA, sampling="balanced")

# 2, 15 and 6 images of three classes, mixed; the second of four classes has none.
LABEL_OF = [0, 3, 2, 2, 3, 2, 2, 2, 3, 2, 2, 2, 3, 2, 2, 2, 3, 2, 2, 0, 3, 2, 2]
SIZES = {0: 2, 2: 15, 3: 6}


def uneven(read=read_number, locate=True):
    return Source(
        ("ant", "bee", "cat", "dog"),
        COUNT,
        lambda index: read(index)._replace(label=LABEL_OF[index]),
        (lambda index: (f"number {index}", LABEL_OF[index])) if locate else None,
    )


def images_of(batches):
    """Numbers of the images, which are told by their pixels, in the order of the stream."""
    return np.concatenate([batch["images"][..., 0, 0, 0].ravel() for batch in batches]).astype(int) - 1


def test_balanced_sampling_draws_each_class_once_a_block():
    assert {label: LABEL_OF.count(label) for label in set(LABEL_OF)} == SIZES
    batches = train(uneven(), count=45, batch_size=20, data=BALANCED)
    images = images_of(batches)
    assert (labels(batches) == np.array(LABEL_OF)[images]).all()
    blocks = labels(batches).reshape(300, 3)
    assert (np.sort(blocks, axis=1) == [0, 2, 3]).all()
    # All six orders, about 50 times each.
    _, often = np.unique(blocks, axis=0, return_counts=True)
    assert len(often) == 6 and often.min() > 25


def test_balanced_sampling_goes_through_the_images_of_a_class_in_shuffled_epochs():
    batches = train(uneven(), count=45, batch_size=20, data=BALANCED)
    for label, size in SIZES.items():
        epochs = images_of(batches)[labels(batches) == label].reshape(-1, size)
        assert len(epochs) == 300 // size
        assert (np.sort(epochs, axis=1) == np.flatnonzero(np.array(LABEL_OF) == label)).all()
        assert len(np.unique(epochs, axis=0)) == (2 if size == 2 else len(epochs))


def test_balanced_batches_do_not_depend_on_start_threads_or_processes():
    whole = train(uneven(read_noise), count=12, devices=6, data=BALANCED)
    assert_same(whole[7:], train(uneven(read_noise), count=5, start=7, devices=6, threads=5, prefetch=7, data=BALANCED))
    shares = [
        train(uneven(read_noise), count=12, devices=2, process_index=p, process_count=3, data=BALANCED)
        for p in range(3)
    ]
    for k, batch in enumerate(whole):
        for key in ("images", "labels"):
            np.testing.assert_array_equal(np.concatenate([share[k][key] for share in shares]), batch[key])
    orders = [images_of(train(uneven(), count=12, seed=seed, data=BALANCED)).tolist() for seed in (0, 1, 2**40)]
    assert len(set(map(tuple, orders))) == 3


def test_a_broken_image_is_replaced_by_one_of_its_class_in_balanced_sampling():
    # Of these all of class 0 but the last, and some of class 2.
    broken = {0, 7, 9, 22}

    def read(index):
        return read_number(index)._replace(image=b"") if index in broken else read_number(index)

    batches = train(uneven(read), count=12, on_error="skip", data=BALANCED)
    whole = images_of(train(uneven(), count=12, data=BALANCED))
    replaced = {0: (19, 1), 7: (10, 2), 9: (10, 1), 22: (2, 1)}
    np.testing.assert_array_equal(images_of(batches), [replaced.get(i, (i, 0))[0] for i in whole.tolist()])
    skipped = np.concatenate([batch["skipped"].ravel() for batch in batches])
    np.testing.assert_array_equal(skipped, [replaced.get(i, (i, 0))[1] for i in whole.tolist()])


def test_labels_are_read_once_and_only_where_they_are_not_known():
    read = []

    def count(index):
        read.append(index)
        if index == 4:
            raise BrokenImage("number 4 is broken")
        return read_number(index)

    assert uneven(count).labels.tolist() == LABEL_OF and not read
    source = uneven(count, locate=False)
    assert source.labels.tolist() == [-1 if i == 4 else label for i, label in enumerate(LABEL_OF)]
    assert source.labels is source.labels and read == list(range(COUNT))
    with pytest.raises(BrokenImage, match="number 4 "):
        train(source, data=BALANCED)
    said = []
    batches = train(source, count=15, on_error="skip", report=said.append, data=BALANCED)
    assert set(images_of(batches)) == set(range(COUNT)) - {4} and said == ["number 4 is broken"]
    nothing = Source(("a", "b"), 1, lambda index: count(4))
    with pytest.raises(UserError, match="no label of the training images"):
        train(nothing, on_error="skip", data=BALANCED)


MEMORY = """
import itertools, resource
from inception_jax.config import DataConfig
from inception_jax.data import open_source, training_batches
from inception_jax.data.prefetch import Loading, Shard

batches = training_batches(
    open_source("digits", "train"), DataConfig(image_size=64, crop_area=(0.5, 1.0)), batch_size=4, seed=0,
    shard=Shard(), loading=Loading(threads=2),
)
peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
next(itertools.islice(batches, 500, None))
before = peak()
next(itertools.islice(batches, 5000, None))
print(peak() - before)
"""


def test_the_memory_of_a_long_run_is_flat():
    done = subprocess.run([sys.executable, "-c", MEMORY], capture_output=True, text=True, check=True)
    assert int(done.stdout) < 50


def test_closing_and_errors_end_the_threads():
    before = set(threading.enumerate())
    batches = evaluation_batches(NUMBERS, DATA, batch_size=1, shard=Shard(), loading=Loading(threads=3, prefetch=3))
    next(batches)
    assert set(threading.enumerate()) - before
    batches.close()
    with pytest.raises(BrokenImage):
        evaluate(SOME_BROKEN, threads=5)
    for thread in set(threading.enumerate()) - before:
        thread.join(timeout=PATIENCE)
        assert not thread.is_alive()


INTERRUPTED = """
import gc, os, signal, threading, time
import numpy as np
from inception_jax.config import DataConfig
from inception_jax.data import training_batches
from inception_jax.data.prefetch import Loading, Shard
from inception_jax.data.sources import Record, Source

def read(index):
    time.sleep(0.1)
    return Record(np.zeros((4, 4), np.uint8), 0, "x")

batches = training_batches(
    Source(("0",), 10**6, read), DataConfig(image_size=8), batch_size=10**4, seed=0, shard=Shard(),
    loading=Loading(threads=4),
)
gc.disable()  # JAX's callback of the collector swallows what is raised in it.
threading.Timer(1.0, os.kill, (os.getpid(), signal.SIGINT)).start()
try:
    next(batches)
except KeyboardInterrupt:
    print("interrupted")
"""


def test_an_interrupted_program_ends_at_once():
    # Its four batches are 1,000 s of reading each.
    done = subprocess.run([sys.executable, "-c", INTERRUPTED], capture_output=True, text=True, timeout=PATIENCE)
    assert done.stdout == "interrupted\n" and done.returncode == 0, done.stderr
