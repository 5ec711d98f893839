"""Steps of training, evaluation and prediction, and their parallel execution: the only file that calls pmap.

Each step is a pure function of a per-device batch. `jax.pmap` is `jit(shard_map(...))`: with `in_axes` None the state
stays one replicated array, so nothing is ever replicated or unreplicated by hand.
"""

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from inception_jax.models.network import Network
from inception_jax.optim import averaged_params, extend_state, ramped_decay

AXIS = "batch"
"""Mapped axis over all devices of all hosts; `create_model(bn_axis_name=AXIS)` averages BN statistics over it."""

Batch = dict[str, jax.Array]
"""`images` [N, H, W, 3] uint8, `labels` and `skipped` [N] int32 and, in evaluation, `mask` [N] bool."""

Metrics = dict[str, jax.Array]


class TrainState(NamedTuple):
    """State of training: arrays only."""

    step: jax.Array
    params: Any
    batch_stats: Any
    opt_state: Any
    rng: jax.Array
    """Raw key data (uint32), from which each step derives its keys."""


def create_state(
    variables: dict[str, Any], optimizer: optax.GradientTransformation, seed: int, frozen: Sequence[str] = ()
) -> TrainState:
    """Creates the state before the first step; `place` replicates it over the devices.

    The optimiser's state covers the stages that are trained, all but the `frozen` ones.
    """
    return TrainState(
        step=jnp.zeros([], jnp.int32),
        params=variables["params"],
        batch_stats=variables["batch_stats"],
        opt_state=_init_optimizer(optimizer, _without(variables["params"], frozen)),
        rng=jax.random.key_data(jax.random.key(seed)),
    )


def unfreeze(state: TrainState, optimizer: optax.GradientTransformation) -> TrainState:
    """The state of training all stages, from one of training with frozen stages.

    The schedule and the average of the parameters go on; the optimiser's moments begin anew, for all stages alike.
    """
    return state._replace(opt_state=extend_state(state.opt_state, _init_optimizer(optimizer, state.params)))


def _init_optimizer(optimizer: optax.GradientTransformation, params: Any) -> Any:
    # Jitted, because op by op JAX compiles a program for each shape, about a hundred.
    return jax.jit(optimizer.init)(params)


def train_step(
    state: TrainState,
    batch: Batch,
    *,
    model: Network,
    optimizer: optax.GradientTransformation,
    preprocess: Callable[[jax.Array, jax.Array], jax.Array],
    label_smoothing: float,
    aux_weight: float,
    class_weights: Sequence[float] | None = None,
    stage_norms: bool = False,
    replicas: int = 1,
) -> tuple[TrainState, Metrics]:
    """Computes one training step on a per-device batch.

    The batch is divided between `replicas`, which the device works through one after another, in the memory of one.
    Each has its own BN statistics, dropout and colours, numbered over all devices: the paper's replicas, of which
    training is the same function however many devices they are spread over.

    The running BN statistics are averaged with `optim.ramped_decay` of the model's `bn_momentum`, counted from the
    first update of the run, as the parameters' average is. Differs from TF-Slim, whose decay of 0.9997 is constant: its
    statistics are those of the initial network for the first thousands of steps, so that a short run validates on
    another network than it trained, and a fine-tuned one on the statistics of other images.

    With `class_weights` the loss is the mean over a replica's images of weight * cross-entropy. It is divided by their
    number and not by the sum of their weights, so that gradients average linearly over replicas and devices: the update
    is that of the mean over the global batch, however its classes are spread.

    The model's `frozen` stages keep their parameters and running statistics, with which they normalise. No gradient is
    computed for them, nor before the first stage that is trained.

    Args:
      state: state of training, the same on all devices.
      batch: this device's images and labels.
      model: the network.
      optimizer: the optimiser, made by `optim.make_optimizer`.
      preprocess: function of a key and uint8 images that gives the network's input, with distorted colours.
      label_smoothing: fraction of the target spread evenly over all classes.
      aux_weight: weight of the auxiliary head's loss.
      class_weights: factor on the cross-entropies of the images of each class, by label; None is no factor.
      stage_norms: also return `activation_rms/STAGE`, the root mean square of each stage's output, and
        `gradient_norm/STAGE` of the parameters of each trained stage, the classifier's included.
      replicas: replicas on this device; must divide its images.

    Returns:
      The next state and the metrics, averaged over the replicas: `loss` (weighted), `error_metrics`, `zero_share`,
      `gradient_norm` (before weight decay and clipping), `least_variance` (minimum of all running BN variances;
      negative or non-finite if the run is broken) and, summed instead, `skipped_images`.
    """
    key = jax.random.fold_in(jax.random.wrap_key_data(state.rng), state.step)
    # Without momentum the new statistics are the batch's own, which are averaged below.
    forgetful = model.clone(bn_momentum=0.0)
    trained = _without(state.params, model.frozen)

    def gradients(number: Any, images_and_labels: Batch) -> tuple[Any, Any, Metrics]:
        """Gradients, batch statistics and metrics of one replica of this device."""
        replica = jax.lax.axis_index(AXIS) * replicas + number
        dropout_key, colour_key = jax.random.split(jax.random.fold_in(key, replica))
        images, labels = preprocess(colour_key, images_and_labels["images"]), images_and_labels["labels"]

        def loss_fn(params: Any) -> tuple[jax.Array, tuple[Any, Metrics]]:
            logits, new = forgetful.apply(
                {"params": {**state.params, **params}, "batch_stats": state.batch_stats},
                images,
                train=True,
                rngs={"dropout": dropout_key},
                mutable=["batch_stats", "intermediates"],
            )
            targets = optax.smooth_labels(jax.nn.one_hot(labels, logits.shape[-1]), label_smoothing)

            def mean_cross_entropy(logits: jax.Array) -> jax.Array:
                each = optax.softmax_cross_entropy(logits, targets)
                return (each if class_weights is None else each * jnp.asarray(class_weights, each.dtype)[labels]).mean()

            loss = mean_cross_entropy(logits)
            if "aux_logits" in new["intermediates"]:
                loss += aux_weight * mean_cross_entropy(new["intermediates"]["aux_logits"])
            metrics = {"loss": loss} | jax.tree.map(jnp.mean, error_metrics(logits, labels))
            metrics |= _select_sown(new["intermediates"], stage_norms)
            return loss, (_without(new["batch_stats"], model.frozen), metrics)

        grads, (batch_stats, metrics) = jax.grad(loss_fn, has_aux=True)(trained)
        return grads, batch_stats, metrics

    grads, batch_stats, metrics = _mean_over_replicas(gradients, batch, replicas)
    # Multiplied by the number of devices, so that the mean below gives the sum.
    metrics["skipped_images"] = jnp.sum(batch["skipped"], dtype=jnp.float32) * jax.lax.axis_size(AXIS)
    grads, batch_stats, metrics = _mean_over_devices((grads, batch_stats, metrics))
    metrics["gradient_norm"] = optax.tree.norm(grads)
    if stage_norms:
        metrics |= {f"gradient_norm/{stage}": optax.tree.norm(part) for stage, part in grads.items()}
    decay = ramped_decay(model.bn_momentum, state.step + 1)
    running = {stage: state.batch_stats[stage] for stage in batch_stats}
    running = jax.tree.map(lambda old, new: old + (1 - decay) * (new - old), running, batch_stats)
    updates, opt_state = optimizer.update(grads, state.opt_state, trained)
    new_state = state._replace(
        step=state.step + 1,
        params={**state.params, **optax.apply_updates(trained, updates)},
        batch_stats={**state.batch_stats, **running},
        opt_state=opt_state,
    )
    metrics["least_variance"] = _min_variance(new_state.batch_stats)
    return new_state, metrics


def evaluate_step(
    params: Any, batch_stats: Any, batch: Batch, *, model: Network, preprocess: Callable[[jax.Array], jax.Array]
) -> Metrics:
    """Computes one evaluation step on a per-device batch.

    Returns:
      Sums over the unmasked images of all devices: `images` (their number), `loss` (plain cross-entropy),
      `error_metrics` and `zero_share`; and `skipped_images`, the number of broken images left out.
    """
    logits, new = model.apply(
        {"params": params, "batch_stats": batch_stats}, preprocess(batch["images"]), mutable=["intermediates"]
    )
    per_image = {
        "images": jnp.ones_like(batch["labels"], jnp.float32),
        "loss": optax.softmax_cross_entropy_with_integer_labels(logits, batch["labels"]),
        **error_metrics(logits, batch["labels"]),
        "zero_share": jnp.full_like(batch["labels"], new["intermediates"]["zero_share"], jnp.float32),
    }
    sums = {name: jnp.sum(jnp.where(batch["mask"], values, 0.0)) for name, values in per_image.items()}
    sums["skipped_images"] = jnp.sum(batch["skipped"], dtype=jnp.float32)
    return jax.lax.psum(sums, AXIS)


def predict_step(
    variables: Any,
    batch: Batch,
    *,
    model: Network,
    preprocess: Callable[[jax.Array], jax.Array],
    mirrored: bool,
    label_offset: int,
) -> dict[str, jax.Array]:
    """Computes one prediction step on a per-device batch, and gathers the results of all devices on every process.

    Args:
      variables: `params` and `batch_stats`.
      batch: this device's `images`, and other arrays [N, ...] to return unchanged, in the same order.
      model: the network.
      preprocess: function of uint8 images that gives the network's input.
      mirrored: average the softmaxes (not the logits) of each image and its mirror image.
      label_offset: number of outputs before the first class, left out of the softmax.

    Returns:
      `probabilities` float32 [devices * N, classes] and the batch's other arrays [devices * N, ...].
    """
    images = batch["images"]
    # One pass over both: two passes would put the network into the program twice and double the time of compilation.
    views = jnp.concatenate([images, images[:, :, ::-1]]) if mirrored else images
    logits: Any = model.apply(variables, preprocess(views))
    probabilities = jax.nn.softmax(logits[:, label_offset:].astype(jnp.float32))
    if mirrored:
        probabilities = jnp.mean(probabilities.reshape(2, *images.shape[:1], -1), axis=0)
    passed_through = {name: array for name, array in batch.items() if name != "images"}
    return jax.lax.all_gather({"probabilities": probabilities, **passed_through}, AXIS, tiled=True)


def use_synchronous_cpu_dispatch() -> None:
    """Disables JAX's asynchronous CPU dispatch; call it before the backend is initialised.

    Programs then run in the thread that launches them and allocate from the main thread's heap, which keeps freed
    memory (malloc.py). Host and device share the same cores and XLA still uses its thread pool, so nothing is lost.
    """
    jax.config.update("jax_cpu_enable_async_dispatch", False)


def parallel(step: Callable[..., Any], *, donate: bool = False, **settings: Any) -> Any:
    """Compiles `step` for all devices: its last argument is split over them, the others and the results are replicated.

    Args:
      step: one of the steps above.
      donate: reuse the memory of the first argument for the result.
      **settings: keyword arguments of the step.
    """
    count = step.__code__.co_argcount
    return jax.pmap(
        functools.partial(step, **settings),
        AXIS,
        in_axes=(None,) * (count - 1) + (0,),
        out_axes=None,
        donate_argnums=(0,) if donate else (),
    )


def place(tree: Any) -> Any:
    """Replicates a tree of arrays over the local devices; a step can donate only a state placed so."""
    mesh = Mesh(np.array(jax.local_devices()), (AXIS,))
    return jax.device_put(tree, NamedSharding(mesh, PartitionSpec()))


def parameter_sets(state: TrainState) -> dict[str, Any]:
    """Parameters to evaluate, by their name in the metrics."""
    # Frozen stages have no average.
    return {"averaged": {**state.params, **averaged_params(state.opt_state)}, "raw": state.params}


def _without(by_stage: Mapping[str, Any], stages: Sequence[str]) -> dict[str, Any]:
    return {stage: part for stage, part in by_stage.items() if stage not in stages}


def _mean_over_replicas(compute: Callable[[Any, Batch], Any], batch: Batch, replicas: int) -> Any:
    """Mean of `compute(number, part of the batch)` over the replicas of this device, computed one after another."""
    if replicas == 1:
        return compute(0, batch)
    parts = jax.tree.map(lambda array: array.reshape(replicas, -1, *array.shape[1:]), batch)
    shapes = jax.eval_shape(compute, 0, jax.tree.map(lambda array: array[0], parts))
    zeros = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)

    def add(total: Any, numbered: tuple[jax.Array, Batch]) -> tuple[Any, None]:
        return jax.tree.map(jnp.add, total, compute(*numbered)), None

    total, _ = jax.lax.scan(add, zeros, (jnp.arange(replicas), parts))
    return jax.tree.map(lambda leaf: leaf / replicas, total)


def _mean_over_devices(tree: Any) -> Any:
    # XLA copies the operands of a reduction even for a single device.
    return jax.lax.pmean(tree, AXIS) if jax.lax.axis_size(AXIS) > 1 else tree


def _select_sown(intermediates: Metrics, stage_norms: bool) -> Metrics:
    prefixes = ("zero_share", "activation_rms") if stage_norms else ("zero_share",)
    return {name: value for name, value in intermediates.items() if name.split("/")[0] in prefixes}


def _min_variance(batch_stats: Any) -> jax.Array:
    leaves = jax.tree_util.tree_leaves_with_path(batch_stats)
    variances = [leaf.ravel() for path, leaf in leaves if path[-1].key == "var"]
    return jnp.min(jnp.concatenate(variances))


def error_metrics(logits: jax.Array, labels: jax.Array) -> Metrics:
    """Errors of each image, [N, C] and [N] -> bool [N]: `top1_error` and, for six or more classes, `top5_error`.

    Of fewer classes all are among the first five.
    """
    ranks = rank(logits, labels)
    return {"top1_error": ranks >= 1} | ({"top5_error": ranks >= 5} if logits.shape[-1] > 5 else {})


def rank(logits: jax.Array, labels: jax.Array) -> jax.Array:
    """Rank of the true class (0 is top-1 correct), [N, C] and [N] -> int [N]; ties and NaN count as errors."""
    right = jnp.take_along_axis(logits, labels[:, None], axis=-1)
    return logits.shape[-1] - 1 - jnp.sum(logits < right, axis=-1)
