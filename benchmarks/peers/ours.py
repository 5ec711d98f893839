"""This project's step: what `inception-jax evaluate` and `inception-jax train` run on a batch."""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from inception_jax import build, steps
from inception_jax.config import DataConfig, Experiment, ModelConfig, OptimConfig, TrainConfig
from inception_jax.models.initialize import initial_variables
from inception_jax.models.summary import count_parameters, summarize
from peers.cases import Case
from peers.step import Contestant, jax_peak_megabytes


def prepare(case: Case) -> Contestant:
    """The step of the paper's recipe, but for the distortion of colours, which no peer does on the device."""
    steps.use_synchronous_cpu_dispatch()
    experiment = Experiment(
        model=ModelConfig(name=case.model, num_classes=case.classes, dtype=case.dtype),
        data=DataConfig(image_size=case.image_size, colour=False),
        optim=OptimConfig(learning_rate=case.learning_rate),
        train=TrainConfig(batch_size=case.batch_size),
    )
    model = build.make_model(experiment)
    variables = initial_variables(model, experiment.seed, case.image_size)
    make = inference if case.mode == "infer" else training
    launch, wait = make(experiment, model, variables)
    return Contestant(
        launch=launch,
        wait=wait,
        units=case.batch_size,
        device=jax.devices()[0].device_kind,
        peak_megabytes=jax_peak_megabytes,
        parameters=count_parameters(variables["params"]),
        multiply_adds=sum(stage.multiply_adds for stage in summarize(model, case.image_size)),
    )


def inference(experiment: Experiment, model: Any, variables: Any) -> tuple[Callable[[], Any], Callable[[Any], float]]:
    """Images float32 in [-1, 1] -> probabilities."""
    step = steps.parallel(
        steps.predict_step, model=model, preprocess=lambda images: images, mirrored=False, label_offset=0
    )
    placed = steps.place(variables)
    images = np.random.default_rng(0).uniform(-1, 1, shape(experiment)).astype(np.float32)
    batch = {"images": jax.device_put(images)}
    return lambda: step(placed, batch)["probabilities"], lambda result: float(np.sum(result))


def training(experiment: Experiment, model: Any, variables: Any) -> tuple[Callable[[], Any], Callable[[Any], float]]:
    """Images uint8 -> the next state and the loss."""
    optimizer = build.make_optimizer(experiment, build.make_schedule(experiment, steps_per_epoch=1e6))
    step = build.train_step(experiment, model, optimizer)
    state = steps.place(steps.create_state(variables, optimizer, experiment.seed))
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, shape(experiment), np.uint8)
    labels = rng.integers(0, model.num_classes, images.shape[:2]).astype(np.int32)
    batch = jax.device_put({"images": images, "labels": labels, "skipped": np.zeros_like(labels)})

    def launch() -> Any:
        nonlocal state
        state, metrics = step(state, batch)
        return metrics["loss"]

    # All that one program gives is there at the same time, the parameters too.
    return launch, float


def shape(experiment: Experiment) -> tuple[int, ...]:
    """Shape of the images, with the axis of the devices in front."""
    size, devices = experiment.data.image_size, jax.local_device_count()
    return (devices, experiment.train.batch_size // devices, size, size, 3)
