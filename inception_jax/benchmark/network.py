"""Compiled training and inference steps, for timing.

They are the programs of `train` and `evaluate`, called in the same way: a step is launched before the results of the
previous one are read. Only the images are random, and already on the devices.
"""

import time
from typing import Any, Literal

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from inception_jax import build, config, steps
from inception_jax.config import DataConfig, EvaluationConfig, Experiment, ModelConfig, TrainConfig
from inception_jax.data import colour
from inception_jax.models.network import Network

Mode = Literal["train", "infer"]
DType = Literal["float32", "bfloat16"]


class CompiledStep:
    """A compiled step with its arguments on the devices; each call launches it once.

    To time it, call it a few times and then `finish`, as a warm-up; then time any number of calls and `finish`.
    """

    def __init__(self, step: Any, fixed: tuple[Any, ...], batch: Any, *, state: Any = None):
        """Compiles the step.

        Args:
          step: parallel step: (state, batch) -> (state, results), or (*fixed, batch) -> results.
          fixed: arguments before the batch of a step without a state.
          batch: arrays on the devices.
          state: initial state; each call passes its state on to the next.
        """
        self._step, self._fixed, self._batch, self._state = step, fixed, batch, state
        self._results: Any = None
        self.held_bytes = sum(array.nbytes for array in jax.tree.leaves(self._arguments()))
        """Bytes of the state, or of the fixed arguments, on one device."""
        begin = time.perf_counter()
        # JAX caches the program, so that the first call does not compile again.
        self.program = step.lower(*self._arguments(), batch).compile()
        self.compile_seconds = time.perf_counter() - begin

    def __call__(self) -> None:
        """Launches one step, then waits for the results of the previous one."""
        results = self._step(*self._arguments(), self._batch)
        if self._state is not None:
            self._state, results = results
        previous, self._results = self._results, results
        jax.device_get(previous)

    def finish(self) -> Any:
        """Waits for the step in flight; returns its metrics or predictions, on the host."""
        results, self._results = jax.device_get(self._results), None
        return results

    def steps_per_second(self, seconds: float) -> float:
        """Rate measured for about `seconds`, from the launch of the first step to the results of the last."""
        begin, launched = time.perf_counter(), 0
        while launched == 0 or time.perf_counter() - begin < seconds:
            self()
            launched += 1
        self.finish()
        return launched / (time.perf_counter() - begin)

    def _arguments(self) -> tuple[Any, ...]:
        return self._fixed if self._state is None else (self._state,)


def recipe(model: str, *, batch_size: int, image_size: int, dtype: DType) -> Experiment:
    """The paper's ImageNet recipe with this network, batch size and image size; UserError if a value is invalid."""
    experiment = Experiment(
        model=ModelConfig(name=model, num_classes=1000, dtype=dtype),
        data=DataConfig(image_size=image_size),
        train=TrainConfig(batch_size=batch_size),
        evaluation=EvaluationConfig(batch_size=batch_size),
    )
    config.check(experiment)
    build.check_batches(experiment)
    build.make_model(experiment)
    return experiment


def name(mode: Mode, experiment: Experiment) -> str:
    """File name of a measurement: train-inception_v4-299-16-float32."""
    e = experiment
    return f"{mode}-{e.model.name}-{e.data.image_size}-{e.train.batch_size}-{e.model.dtype}"


def compile_step(mode: Mode, experiment: Experiment) -> CompiledStep:
    """Compiles the training step of `experiment`, or the prediction step of its network.

    "train" is the training step of `build.Setup`, with its state donated. "infer" maps uint8 images to class
    probabilities of one crop per image. Both take `train.batch_size` random images over all devices of this machine.
    """
    setup = build.build(experiment)
    batch = _on_devices(_random_batch(experiment))
    if mode == "infer":
        variables = steps.place(setup.initial_variables())
        return CompiledStep(_predict_step(setup.model), (variables,), {"images": batch["images"]})
    return CompiledStep(setup.train_step, (), batch, state=setup.initial_state())


def _predict_step(model: Network) -> Any:
    return steps.parallel(
        steps.predict_step, model=model, preprocess=colour.to_network_range, mirrored=False, label_offset=0
    )


def _random_batch(experiment: Experiment) -> dict[str, np.ndarray]:
    rng, devices, size = np.random.default_rng(0), jax.local_device_count(), experiment.data.image_size
    shape = (devices, experiment.train.batch_size // devices)
    return {
        "images": rng.integers(0, 256, (*shape, size, size, 3), np.uint8),
        "labels": rng.integers(0, experiment.model.num_classes, shape, np.int32),
        "skipped": np.zeros(shape, np.int32),
    }


def _on_devices(batch: dict[str, np.ndarray]) -> dict[str, jax.Array]:
    mesh = Mesh(np.array(jax.local_devices()), (steps.AXIS,))
    return jax.device_put(batch, NamedSharding(mesh, PartitionSpec(steps.AXIS)))
