"""Keras' networks on JAX, with the steps of `Model.fit` and `Model.predict`."""

import jax
import keras
import numpy as np

from peers import cases
from peers.cases import Case
from peers.step import Contestant, jax_peak_megabytes


def prepare(case: Case) -> Contestant:
    """Prepare the network of keras.applications."""
    keras.utils.set_random_seed(0)
    if case.dtype == "bfloat16":
        keras.config.set_dtype_policy("mixed_bfloat16")
    create = getattr(keras.applications, cases.KERAS[case.model])
    sides = (case.image_size, case.image_size, 3)
    network = create(weights=None, input_shape=sides, classes=case.classes, classifier_activation=None)
    rng = np.random.default_rng(0)
    images = jax.device_put(rng.uniform(-1, 1, (case.batch_size, *sides)).astype(np.float32))
    labels = jax.device_put(np.eye(case.classes, dtype=np.float32)[rng.integers(0, case.classes, case.batch_size)])
    network.compile(
        optimizer(case),
        loss=keras.losses.CategoricalCrossentropy(from_logits=True, label_smoothing=cases.LABEL_SMOOTHING),
    )
    train = case.mode == "train"
    return Contestant(
        launch=(lambda: network.train_on_batch(images, labels))
        if train
        else (lambda: network.predict_on_batch(images)),
        # Both return NumPy arrays, so the step has ended.
        wait=lambda result: float(np.sum(result)),
        units=case.batch_size,
        device=jax.devices()[0].device_kind,
        peak_megabytes=jax_peak_megabytes,
        parameters=sum(int(np.prod(variable.shape)) for variable in network.trainable_variables),
    )


def optimizer(case: Case) -> keras.optimizers.Optimizer:
    """Keras' RMSprop with weight decay on kernels, clipping and an average of the parameters."""
    rms = keras.optimizers.RMSprop(
        learning_rate=case.learning_rate,
        rho=cases.RMS_DECAY,
        momentum=cases.MOMENTUM,
        epsilon=cases.RMS_EPSILON,
        weight_decay=cases.WEIGHT_DECAY,
        global_clipnorm=cases.CLIP_NORM,
        use_ema=True,
        ema_momentum=cases.EMA_DECAY,
    )
    rms.exclude_from_weight_decay(var_names=["beta", "gamma", "bias"])
    return rms
