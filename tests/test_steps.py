"""Parallel steps against computations by hand on one device."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from helpers import Shallow

from inception_jax import optim, steps
from inception_jax.config import OptimConfig
from inception_jax.data import colour
from inception_jax.models.blocks import ConvNorm
from inception_jax.models.initialize import initial_variables

DEVICES = 4
PLAIN = optax.chain(optax.sgd(1.0), optim.params_ema(0.9))
STILL = optax.chain(optax.sgd(0.0), optim.params_ema(0.9))


def to_input(key, images):
    return colour.to_network_range(images)


def network(**options):
    return Shallow(**{"num_classes": 10, "dropout_rate": 0.0, "bn_momentum": 0.9, **options})


def a_batch(per_device, seed=0, size=75):
    rng = np.random.default_rng(seed)
    return {
        "images": rng.integers(0, 256, (DEVICES, per_device, size, size, 3), np.uint8),
        "labels": rng.integers(0, 10, (DEVICES, per_device)).astype(np.int32),
        "skipped": np.eye(DEVICES, per_device, dtype=np.int32) * 2,
    }


@functools.cache
def compiled(model, chain):
    settings = {"preprocess": to_input, "label_smoothing": 0.1, "aux_weight": 0.4}
    return steps.parallel(steps.train_step, donate=True, model=model, optimizer=chain, **settings)


def train(model, chain, state, batch, *, count=1):
    for _ in range(count):
        state, metrics = compiled(model, chain)(state, batch)
    return jax.device_get(state), jax.device_get(metrics)


def loss_and_statistics(model, params, batch_stats, images, labels, smoothing=0.1):
    logits, new = model.apply(
        {"params": params, "batch_stats": batch_stats},
        images.astype(np.float32) / 127.5 - 1,
        train=True,
        rngs={"dropout": jax.random.key(0)},
        mutable=["batch_stats"],
    )
    log_p = logits - jax.nn.logsumexp(logits, axis=-1, keepdims=True)
    targets = (1 - smoothing) * jnp.eye(10)[labels] + smoothing / 10
    return -(targets * log_p).sum(-1).mean(), new["batch_stats"]


def ramped(old, new):
    """Statistics after the first update, whose decay is 2/11, from `new` with that of the network, 0.9."""
    return old + (new - old) * (9 / 11) / 0.1


@pytest.fixture(scope="module")
def by_hand():
    """Gradients and statistics of each device's batch, computed and averaged on one device."""
    model, batch = network(), a_batch(4)
    variables = initial_variables(model, 0, 75)
    grad = jax.jit(jax.grad(functools.partial(loss_and_statistics, model), has_aux=True))
    each = [
        grad(variables["params"], variables["batch_stats"], batch["images"][d], batch["labels"][d]) for d in range(4)
    ]
    mean = jax.tree.map(lambda *leaves: np.mean(np.stack(leaves), axis=0, dtype=np.float64), *each)
    return model, batch, variables, mean


def test_parallel_gradient_is_the_mean_over_devices(by_hand):
    model, batch, variables, (gradient, batch_stats) = by_hand
    before = steps.place(steps.create_state(variables, PLAIN, 0))
    after, metrics = train(model, PLAIN, before, batch)
    assert jax.device_count() == DEVICES
    parallel = jax.tree.map(lambda a, b: a - b, variables["params"], after.params)
    for (path, a), b in zip(jax.tree_util.tree_leaves_with_path(parallel), jax.tree.leaves(gradient), strict=True):
        np.testing.assert_allclose(a, b, atol=2e-4 * np.abs(b).max() + 1e-6, err_msg=str(path))
    for old, a, b in zip(
        *map(jax.tree.leaves, (variables["batch_stats"], after.batch_stats, batch_stats)), strict=True
    ):
        np.testing.assert_allclose(a, ramped(old, b), atol=1e-3)
    norm = np.sqrt(sum((leaf**2).sum() for leaf in jax.tree.leaves(gradient)))
    assert float(metrics["gradient_norm"]) == pytest.approx(norm, rel=1e-3)


def statistics_of_the_batch(model, variables, batch):
    """BN statistics of each device's images, averaged over the devices in float64."""
    apply = jax.jit(
        functools.partial(
            model.clone(bn_momentum=0.0).apply,
            train=True,
            rngs={"dropout": jax.random.key(0)},
            mutable=["batch_stats"],
        )
    )
    each = [apply(variables, to_input(None, jnp.asarray(images)))[1]["batch_stats"] for images in batch["images"]]
    return jax.tree.map(lambda *leaves: np.mean(np.stack(leaves), axis=0, dtype=np.float64), *each)


@pytest.mark.parametrize(
    ("momentum", "dtype", "decays"),
    [
        (0.0, None, [0, 0, 0]),
        (0.3, None, [2 / 11, 3 / 12, 0.3]),
        (0.9997, None, [2 / 11, 3 / 12, 4 / 13]),
        (0.9997, jnp.bfloat16, [2 / 11, 3 / 12, 4 / 13]),
    ],
)
def test_running_statistics_are_averaged_with_a_ramped_decay(momentum, dtype, decays):
    model, batch = network(bn_momentum=momentum, dtype=dtype), a_batch(2)
    variables = initial_variables(model, 0, 75)
    # Far from the batch's, as those of weights trained on other images.
    variables["batch_stats"] = jax.tree.map(lambda a: a + np.float32(3), variables["batch_stats"])
    of_batch = statistics_of_the_batch(model, variables, batch)
    state, expected = steps.place(steps.create_state(variables, STILL, 0)), variables["batch_stats"]
    for decay in decays:  # The parameters do not move, so that each step has the same statistics.
        expected = jax.tree.map(lambda old, new, d=decay: d * np.float64(old) + (1 - d) * new, expected, of_batch)
        state, metrics = compiled(model, STILL)(state, batch)
        for a, b in zip(*map(jax.tree.leaves, (state.batch_stats, expected)), strict=True):
            assert a.dtype == np.float32
            np.testing.assert_allclose(a, b, atol=2e-2 if dtype else 1e-4)
        variances = [v for path, v in jax.tree_util.tree_leaves_with_path(state.batch_stats) if path[-1].key == "var"]
        assert float(metrics["least_variance"]) == min(float(v.min()) for v in variances)


def test_stage_norms_are_computed_for_each_stage(by_hand):
    model, batch, variables, (gradient, _) = by_hand
    state = steps.place(steps.create_state(variables, PLAIN, 0))
    settings = {"preprocess": to_input, "label_smoothing": 0.1, "aux_weight": 0.4, "stage_norms": True}
    _, metrics = steps.parallel(steps.train_step, model=model, optimizer=PLAIN, **settings)(state, batch)
    stages = {"stem", "reduction_b", "last"}
    assert {name for name in metrics if "/" in name} == {
        *(f"gradient_norm/{part}" for part in stages | {"classifier"}),
        *(f"activation_rms/{part}" for part in stages),
    }
    for part in (*stages, "classifier"):
        norm = np.sqrt(sum((leaf**2).sum() for leaf in jax.tree.leaves(gradient[part])))
        assert float(metrics[f"gradient_norm/{part}"]) == pytest.approx(norm, rel=1e-3)
    squares = {stage: [] for stage in stages}
    for device in range(DEVICES):
        images = to_input(None, jnp.asarray(batch["images"][device]))
        _, seen = model.apply(
            variables,
            images,
            train=True,
            rngs={"dropout": jax.random.key(0)},
            mutable=["batch_stats", "intermediates"],
            capture_intermediates=lambda module, _: isinstance(module, ConvNorm),
        )
        for stage in stages:
            (output,) = seen["intermediates"][stage]["__call__"]
            squares[stage].append(np.sqrt(np.mean(np.square(output))))
    for stage in stages:
        assert float(metrics[f"activation_rms/{stage}"]) == pytest.approx(np.mean(squares[stage]), rel=1e-4)


def test_update_of_the_parameters_is_computed_by_hand(by_hand):
    model, batch, variables, (gradient, _) = by_hand
    chain = optim.make_optimizer(OptimConfig(clip_norm=0.2), 1.0)
    after, _ = train(model, chain, steps.place(steps.create_state(variables, chain, 0)), batch)
    paths = [path for path, _ in jax.tree_util.tree_leaves_with_path(variables["params"])]
    params = [np.float64(leaf) for leaf in jax.tree.leaves(variables["params"])]
    decayed = [
        g + 4e-5 * p * (path[-1].key == "kernel")
        for path, p, g in zip(paths, params, jax.tree.leaves(gradient), strict=True)
    ]
    norm = np.sqrt(sum((g**2).sum() for g in decayed))
    assert norm > 0.2, "nothing is clipped"
    for path, p, g, new, average in zip(
        paths,
        params,
        decayed,
        jax.tree.leaves(after.params),
        jax.tree.leaves(optim.averaged_params(after.opt_state)),
        strict=True,
    ):
        g = g * 0.2 / norm
        by_hand = p - 0.045 * g / np.sqrt(0.9 + 0.1 * g**2 + 1.0)
        np.testing.assert_allclose(new, by_hand, atol=2e-6, err_msg=str(path))
        np.testing.assert_allclose(average, 2 / 11 * p + 9 / 11 * by_hand, atol=2e-6, err_msg=str(path))
    assert int(after.step) == 1


def test_statistics_over_all_devices_are_those_of_the_global_batch():
    per_replica, over_all = network(), network(bn_axis_name=steps.AXIS)
    batch = a_batch(2)
    batch["images"][0] //= 4  # So that the statistics differ between devices.
    variables = initial_variables(per_replica, 0, 75)
    joined = {k: v.reshape(-1, *v.shape[2:]) for k, v in batch.items()}
    loss, batch_stats = jax.jit(functools.partial(loss_and_statistics, per_replica))(
        variables["params"], variables["batch_stats"], joined["images"], joined["labels"]
    )

    batch_stats = jax.tree.map(ramped, variables["batch_stats"], batch_stats)

    def difference(model):
        after, metrics = train(model, PLAIN, steps.place(steps.create_state(variables, PLAIN, 0)), batch)
        pairs = zip(jax.tree.leaves(after.batch_stats), jax.tree.leaves(batch_stats), strict=True)
        return max(float(np.abs(a - b).max()) for a, b in pairs), abs(float(metrics["loss"]) - float(loss))

    statistics, losses = difference(over_all)
    assert statistics < 1e-3 and losses < 1e-3
    statistics, losses = difference(per_replica)
    assert statistics > 1e-2 and losses > 1e-2


def test_metrics_are_computed_by_hand():
    model = network()
    variables = initial_variables(model, 0, 75)
    batch = a_batch(4)
    _, metrics = train(model, PLAIN, steps.place(steps.create_state(variables, PLAIN, 0)), batch)

    @jax.jit
    def by_hand(images, labels):
        options = {"train": True, "rngs": {"dropout": jax.random.key(0)}, "mutable": ["batch_stats"]}
        logits = model.apply(variables, images / jnp.float32(127.5) - 1, **options)[0]
        targets = 0.9 * jnp.eye(10)[labels] + 0.01
        return -(targets * jax.nn.log_softmax(logits)).sum(-1).mean(), logits

    losses, top1, top5 = [], [], []
    for images, labels in zip(batch["images"], batch["labels"], strict=True):
        loss, logits = by_hand(images, labels)
        losses.append(loss)
        order = np.argsort(-np.asarray(logits), axis=-1)
        top1 += list(order[:, 0] != labels)
        top5 += [label not in row for row, label in zip(order[:, :5], labels, strict=True)]
    assert float(metrics["loss"]) == pytest.approx(float(np.mean(losses)), rel=1e-4)
    assert float(metrics["top1_error"]) == pytest.approx(np.mean(top1))
    assert float(metrics["top5_error"]) == pytest.approx(np.mean(top5))
    assert 0 < float(metrics["zero_share"]) < 1
    assert metrics["skipped_images"] == batch["skipped"].sum() > 0


def test_evaluation_sums_only_the_unmasked_images():
    model = network()
    variables = initial_variables(model, 0, 75)
    batch = a_batch(3)
    batch["mask"] = np.ones((4, 3), bool)
    batch["mask"][2, 1:] = False
    batch["mask"][3] = False
    step = steps.parallel(steps.evaluate_step, model=model, preprocess=colour.to_network_range)
    sums = jax.device_get(step(variables["params"], variables["batch_stats"], batch))
    keep = batch["mask"].reshape(-1)
    images = batch["images"].reshape(-1, 75, 75, 3)[keep] / np.float32(127.5) - 1
    labels = batch["labels"].reshape(-1)[keep]
    logits = np.asarray(jax.jit(model.apply)(variables, images), np.float64)
    log_p = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    assert sums["images"] == 7 == len(labels) and sums["skipped_images"] == batch["skipped"].sum() > 0
    assert sums["loss"] == pytest.approx(-log_p[np.arange(7), labels].sum(), rel=1e-4)
    assert sums["top1_error"] == (logits.argmax(-1) != labels).sum()
    assert sums["top5_error"] == 7 - (np.argsort(-logits, -1)[:, :5] == labels[:, None]).any(-1).sum()


def test_dropout_differs_by_device_and_step_and_repeats_by_seed():
    model = network(dropout_rate=0.5)
    variables = initial_variables(model, 0, 75)
    one = a_batch(2)
    same = {k: np.stack([v[0]] * DEVICES) for k, v in one.items()}

    def loss(seed, count=1):
        state = steps.place(steps.create_state(variables, STILL, seed))
        return float(train(model, STILL, state, same, count=count)[1]["loss"])

    assert loss(0) == loss(0)
    assert len({loss(0), loss(1), loss(0, count=2)}) == 3


def test_auxiliary_loss_is_weighted():
    model = network(aux_head=True, width=0.5)
    variables = initial_variables(model, 0, 75)
    batch = a_batch(2)
    _, metrics = train(model, STILL, steps.place(steps.create_state(variables, STILL, 0)), batch)

    @jax.jit
    def losses(images, labels):
        logits, new = model.apply(variables, images / 127.5 - 1, train=True, mutable=["batch_stats", "intermediates"])
        targets = 0.9 * jnp.eye(10)[labels] + 0.01
        each = [logits, new["intermediates"]["aux_logits"]]
        return jnp.stack([-(targets * jax.nn.log_softmax(each)).sum(-1).mean() for each in each])

    main, auxiliary = np.mean([losses(*pair) for pair in zip(batch["images"], batch["labels"], strict=True)], axis=0)
    assert auxiliary > 1
    assert float(metrics["loss"]) == pytest.approx(main + 0.4 * auxiliary, rel=1e-4)


# Class weights


def test_the_weighted_loss_and_its_gradient_are_computed_by_hand():
    weights = np.linspace(0.25, 2.5, 10)
    model, batch = network(aux_head=True, width=0.5), a_batch(4, seed=2)
    of_two_devices = {name: array.reshape(2, 8, *array.shape[2:]) for name, array in batch.items()}

    def loss_of_replica(params, images, labels):
        replaced = {**variables, "params": params}
        logits, new = model.apply(replaced, images / 127.5 - 1, train=True, mutable=["batch_stats", "intermediates"])
        targets, factors = 0.9 * jnp.eye(10)[labels] + 0.01, jnp.array(weights)[labels]
        main, auxiliary = (
            -(factors[:, None] * targets * jax.nn.log_softmax(each)).sum() / 4
            for each in (logits, new["intermediates"]["aux_logits"])
        )
        return main + 0.4 * auxiliary

    with jax.enable_x64(True):
        variables = jax.tree.map(lambda leaf: leaf.astype(np.float64), initial_variables(model, 0, 75))
        by_hand = jax.jit(jax.value_and_grad(loss_of_replica))
        replicas = zip(batch["images"], batch["labels"], strict=True)
        losses, gradients = zip(*(by_hand(variables["params"], *replica) for replica in replicas), strict=True)
        gradient = jax.tree.map(lambda *leaves: np.mean(leaves, axis=0), *gradients)
        options = {"preprocess": lambda key, images: images / 127.5 - 1, "class_weights": weights, "replicas": 2}
        step = on_devices(2, model, PLAIN, **options)
        after, metrics = jax.device_get(step(steps.create_state(variables, PLAIN, 0), of_two_devices))
    assert metrics["loss"] == pytest.approx(np.mean(losses), rel=1e-6)
    moved = jax.tree.map(lambda a, b: a - b, variables["params"], after.params)
    for (path, a), b in zip(jax.tree_util.tree_leaves_with_path(moved), jax.tree.leaves(gradient), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-6 * np.abs(b).max(), err_msg=str(path))


# Replicas


def noisy_input(key, images):
    """Differs per replica, as distorted colours do."""
    images = images.astype(jnp.float64) / 127.5 - 1
    return images + 0.1 * jax.random.normal(key, images.shape, jnp.float64)


def on_devices(count, model, chain, **options):
    """The training step on the first devices, which share the replicas."""
    settings = {"preprocess": noisy_input, "label_smoothing": 0.1, "aux_weight": 0.4, **options}
    step = functools.partial(steps.train_step, model=model, optimizer=chain, **settings)
    return jax.pmap(step, steps.AXIS, in_axes=(None, 0), out_axes=None, devices=jax.devices()[:count])


def test_replicas_train_the_same_on_any_number_of_devices():
    config = OptimConfig(ema_decay=0.9)
    model = network(dropout_rate=0.2, aux_head=True)
    batches = [a_batch(4, seed=seed) for seed in range(6)]
    results = []
    with jax.enable_x64(True):
        chain = optim.make_optimizer(config, lambda step: 1.0)
        variables = jax.tree.map(lambda leaf: leaf.astype(np.float64), initial_variables(model, 0, 75))
        for devices in (4, 2, 1):
            step = on_devices(devices, model, chain, replicas=4 // devices)
            state = steps.create_state(variables, chain, 0)
            for batch in batches:
                split = {name: array.reshape(devices, -1, *array.shape[2:]) for name, array in batch.items()}
                state, metrics = step(state, split)
            # The metrics have parts in float32.
            results.append((jax.device_get(state._replace(rng=())), jax.device_get(metrics)))
    (expected, expected_metrics), *others = results
    for found, metrics in others:
        leaves = jax.tree_util.tree_leaves_with_path(expected)
        for (path, a), b in zip(leaves, jax.tree.leaves(found), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-10, atol=1e-10, err_msg=str(path))
        for name, value in expected_metrics.items():
            assert metrics[name] == pytest.approx(value, rel=1e-6), name
        assert metrics["skipped_images"] == 8


# Frozen stages


@pytest.mark.parametrize("frozen", [("stem",), ("reduction_b",), ("stem", "reduction_b", "last")])
def test_frozen_stages_stay_bit_for_bit_and_have_no_state(frozen):
    model, chain = network(frozen=frozen), optim.make_optimizer(OptimConfig(), lambda step: 1.0)
    variables = initial_variables(model, 0, 75)
    state = steps.place(steps.create_state(variables, chain, 0, frozen))
    trained = {"stem", "reduction_b", "last", "classifier"} - set(frozen)
    after, _ = train(model, chain, state, a_batch(4), count=3)
    for kind in ("params", "batch_stats"):
        before, now = variables[kind], getattr(after, kind)
        for stage in before:
            same = [
                np.array_equal(a, b) for a, b in zip(*map(jax.tree.leaves, (before[stage], now[stage])), strict=True)
            ]
            assert all(same) if stage in frozen else not any(same), (kind, stage)
    averaged = steps.parameter_sets(after)["averaged"]
    assert set(averaged) == set(variables["params"])
    assert set(optim.averaged_params(after.opt_state)) == trained
