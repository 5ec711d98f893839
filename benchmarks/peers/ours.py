"""Steps of this package, as in `inception-jax evaluate` and `inception-jax train`."""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from inception_jax import build, steps
from inception_jax.config import DataConfig, Experiment, ModelConfig, OptimConfig, TrainConfig
from inception_jax.models.initialize import variable_shapes
from inception_jax.models.summary import count_parameters, summarize
from peers.cases import Case
from peers.step import Contestant, jax_peak_megabytes


def prepare(case: Case) -> Contestant:
    """Prepare a step of the paper's recipe without colour distortion, which no peer does on the device."""
    steps.use_synchronous_cpu_dispatch()
    experiment = Experiment(
        model=ModelConfig(name=case.model, num_classes=case.classes, dtype=case.dtype),
        data=DataConfig(image_size=case.image_size, colour=False),
        optim=OptimConfig(learning_rate=case.learning_rate),
        train=TrainConfig(batch_size=case.batch_size),
    )
    setup = build.build(experiment)
    launch, wait = (inference if case.mode == "infer" else training)(setup)
    return Contestant(
        launch=launch,
        wait=wait,
        units=case.batch_size,
        device=jax.devices()[0].device_kind,
        peak_megabytes=jax_peak_megabytes,
        parameters=count_parameters(variable_shapes(setup.model, case.image_size)["params"]),
        multiply_adds=sum(stage.multiply_adds for stage in summarize(setup.model, case.image_size)),
    )


def inference(setup: build.Setup) -> tuple[Callable[[], Any], Callable[[Any], float]]:
    """Functions that launch inference on float32 images in [-1, 1] and wait for the probabilities."""
    step = steps.parallel(
        steps.predict_step, model=setup.model, preprocess=lambda images: images, mirrored=False, label_offset=0
    )
    placed = steps.place(setup.initial_variables())
    images = np.random.default_rng(0).uniform(-1, 1, shape(setup.experiment)).astype(np.float32)
    batch = {"images": jax.device_put(images)}
    return lambda: step(placed, batch)["probabilities"], lambda result: float(np.sum(result))


def training(setup: build.Setup) -> tuple[Callable[[], Any], Callable[[Any], float]]:
    """Functions that launch a training step on uint8 images and wait for its loss."""
    state = setup.initial_state()
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, shape(setup.experiment), np.uint8)
    labels = rng.integers(0, setup.model.num_classes, images.shape[:2]).astype(np.int32)
    batch = jax.device_put({"images": images, "labels": labels, "skipped": np.zeros_like(labels)})

    def launch() -> Any:
        nonlocal state
        state, metrics = setup.train_step(state, batch)
        return metrics["loss"]

    # All outputs of a program, including the parameters, are ready at the same time.
    return launch, float


def shape(experiment: Experiment) -> tuple[int, ...]:
    """Shape of the images, with a leading device axis."""
    size, devices = experiment.data.image_size, jax.local_device_count()
    return (devices, experiment.train.batch_size // devices, size, size, 3)
