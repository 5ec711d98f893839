"""Predictor: one object for any number of pictures of any kind, from any thread, and what it refuses."""

import io
from concurrent.futures import ThreadPoolExecutor

import jax
import numpy as np
import PIL.Image
import pytest
from helpers import Shallow

import inception_jax
from inception_jax import models
from inception_jax.data.preprocess import Preprocessing
from inception_jax.errors import BrokenImage, UserError
from inception_jax.models.initialize import initial_variables
from inception_jax.predict import predict
from inception_jax.weights.checkpoint import save_checkpoint

NAMES = ("ant", "bee", "cat", "dog", "elk", "fox")
PIXELS = np.random.default_rng(0).integers(0, 256, (5, 90, 80, 3), np.uint8)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A checkpoint of a network that compiles in a second, with a background and names for all but two classes."""
    folder = tmp_path_factory.mktemp("predict")
    network = Shallow(num_classes=9)
    variables = initial_variables(network, 0, 75)
    variables["params"]["classifier"]["kernel"] *= 6
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(models._NETWORKS, "shallow", models.Entry(Shallow, aux_head=True, residual=False))
        save_checkpoint(
            folder / "net", network, variables, Preprocessing(image_size=75, label_offset=1, class_names=NAMES)
        )
        for number, pixels in enumerate(PIXELS):
            PIL.Image.fromarray(pixels).save(folder / f"{number}.png")
        yield folder


@pytest.fixture(scope="module")
def predictor(folder):
    return inception_jax.Predictor(folder / "net", batch_size=2)


def test_every_kind_of_picture_gives_the_same_answer(folder, predictor):
    path = folder / "0.png"
    with PIL.Image.open(path) as opened:
        kinds = [path, str(path), path.read_bytes(), PIXELS[0], jax.numpy.asarray(PIXELS[0]), opened]
        palette = opened.convert("P")
        found = predictor.probabilities(kinds)
    assert found.shape == (6, 8) and (found == found[0]).all()
    np.testing.assert_allclose(found.sum(-1), 1, atol=1e-6)
    classes = predictor(kinds[:1], top=8)[0]
    assert [c.index for c in classes] == np.argsort(-found[0]).tolist()
    assert [c.name for c in sorted(classes, key=lambda c: c.index)] == [*NAMES, "class 6", "class 7"]
    assert [c.probability for c in classes] == sorted(found[0].tolist(), reverse=True)
    file = io.BytesIO()
    palette.save(file, "PNG")
    assert (predictor.probabilities([palette]) == predictor.probabilities([file.getvalue()])).all()


def test_any_number_of_pictures_from_any_thread_compiles_nothing(folder, predictor):
    singly = np.concatenate([predictor.probabilities([image]) for image in PIXELS])
    compiled = []

    def listen(event, seconds, **others):
        compiled.append(event)

    jax.monitoring.register_event_duration_secs_listener(listen)
    try:
        assert predictor.probabilities([]).shape == (0, 8) and predictor([]) == []
        assert (predictor.probabilities(PIXELS) == singly).all()
        with ThreadPoolExecutor(4) as threads:
            for found in threads.map(predictor.probabilities, [PIXELS[:3]] * 20):
                assert (found == singly[:3]).all()
    finally:
        jax.monitoring.unregister_event_duration_listener(listen)
    assert not [event for event in compiled if "compile" in event]


def test_files_that_cannot_be_read_are_named_and_passed_over(folder, predictor, tmp_path):
    (tmp_path / "words.jpg").write_text("words")
    paths = [folder / "0.png", tmp_path / "none.png", tmp_path / "words.jpg", folder / "1.png"]
    answers = list(predict(predictor, paths, top=1))
    assert [answer["image"] for answer in answers] == list(map(str, paths))
    assert [("classes" in answer, len(answer.get("classes", ()))) for answer in answers] == [
        *((True, 1), (False, 0), (False, 0), (True, 1))
    ]
    assert all(str(answer["image"]) in answer["error"] for answer in answers[1:3])
    assert answers[3]["classes"][0]["name"] == predictor([PIXELS[1]])[0][0].name


@pytest.mark.parametrize(
    ("images", "named"),
    [
        ("a.png", ["str", "[picture]"]),
        (b"bytes", ["bytes", "[picture]"]),
        (PIXELS[0], ["ndarray", "[picture]"]),
        (PIL.Image.fromarray(PIXELS[0]), ["Image", "[picture]"]),
        ([PIXELS[0], PIXELS[1] / 255], ["position 1", "float64", "uint8"]),
        ([PIXELS[0], PIXELS[1], b"GIF"], ["position 2", "47 49 46"]),
        (["none.png"], ["none.png", "No such file"]),
        ([PIL.Image.fromarray(PIXELS[0]).convert("F")], ["position 0", "mode F", "RGB"]),
    ],
)
def test_what_is_no_list_of_pictures_is_refused(predictor, images, named):
    with pytest.raises(UserError) as error:
        predictor(images)
    assert all(word in str(error.value) for word in named), error.value
    assert isinstance(error.value, BrokenImage) == isinstance(images, list)


@pytest.mark.parametrize(("call", "named"), [({"batch_size": 0}, "batch_size is 0"), ({"best": True}, "net")])
def test_settings_that_do_not_fit_are_refused(folder, predictor, call, named):
    with pytest.raises(UserError, match=named):
        inception_jax.Predictor(folder / "net", **call)
    with pytest.raises(UserError, match="top is 0"):
        predictor([PIXELS[0]], top=0)
