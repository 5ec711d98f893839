"""The optimisers against TensorFlow's RMSProp and optax, and the averaged parameters against computations by hand."""

import math
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from helpers import SMALL, changed

from inception_jax import build, optim
from inception_jax.config import OptimConfig

RMSPROP = np.load(Path(__file__).parent / "golden" / "rmsprop.npz")
BARE = {"learning_rate": 1.0, "weight_decay": 0.0, "clip_norm": None, "ema_decay": 0.0}


def trajectory(chain, params, gradients):
    """Parameters and optimiser states after each step."""
    state, seen = chain.init(params), []
    for gradient in gradients:
        updates, state = chain.update(gradient, state, params)
        params = optax.apply_updates(params, updates)
        seen.append((params, state))
    return seen


@pytest.mark.parametrize(
    ("case", "momentum", "staircase"), [("m9", 0.9, False), ("m0", 0.0, False), ("m9s", 0.9, True)]
)
def test_rmsprop_is_tensorflows(case, momentum, staircase):
    rate = float(RMSPROP["lr_const"])
    if staircase:
        rates = jnp.asarray(RMSPROP["lr_sched"], jnp.float32)
        rate = rates.__getitem__
        ours = optim.learning_rate_schedule(OptimConfig(), 2, 20)
        np.testing.assert_allclose([0.045 * ours(i) for i in range(20)], rates, rtol=1e-6)
    chain = optim.make_optimizer(OptimConfig(momentum=momentum, **BARE), rate)
    params = {i: jnp.asarray(RMSPROP[f"p0_{i}"], jnp.float32) for i in range(3)}
    gradients = [{i: jnp.asarray(RMSPROP[f"g_{i}"][t], jnp.float32) for i in range(3)} for t in range(20)]
    for t, (ours, _) in enumerate(trajectory(chain, params, gradients)):
        for i in range(3):
            np.testing.assert_allclose(ours[i], RMSPROP[f"{case}_f64_p_{i}"][t], atol=1e-6, rtol=1e-6)


def test_staircase_smooth_decay_and_warm_up():
    stairs = optim.learning_rate_schedule(OptimConfig(), 5, 30)
    assert [float(stairs(s)) for s in (0, 9)] == pytest.approx([1.0, 1.0])
    assert [float(stairs(s)) for s in (10, 19, 20)] == pytest.approx([0.94, 0.94, 0.94**2])
    smooth = optim.learning_rate_schedule(OptimConfig(staircase=False), 5, 30)
    assert float(smooth(5)) == pytest.approx(0.94**0.5)
    warm = optim.learning_rate_schedule(OptimConfig(warmup_epochs=0.8), 5, 30)
    assert [float(warm(s)) for s in range(5)] == pytest.approx([0.25, 0.5, 0.75, 1, 1])
    assert float(warm(10)) == pytest.approx(0.94)


@pytest.mark.parametrize(("warmup_epochs", "warmup_steps"), [(0.0, 0), (0.8, 4), (9.0, 45)])
def test_a_cosine_falls_over_the_steps_after_the_warm_up(warmup_epochs, warmup_steps):
    config = OptimConfig(schedule="cosine", warmup_epochs=warmup_epochs, decay_epochs=0.1)
    ours = optim.learning_rate_schedule(config, 5, 24)
    expected = [
        (s + 1) / warmup_steps
        if s < warmup_steps
        else (1 + math.cos(math.pi * (s - warmup_steps) / (24 - warmup_steps))) / 2
        for s in range(24)
    ]
    assert [float(ours(s)) for s in range(24)] == pytest.approx(expected, abs=1e-6)
    assert 0 < expected[-1] and (warmup_steps > 24 or float(ours(24)) == pytest.approx(0, abs=1e-6))


def test_one_program_for_all_learning_rates():
    schedule = optim.learning_rate_schedule(OptimConfig(), 1, 5)
    params, gradient = {"kernel": jnp.arange(4.0)}, {"kernel": jnp.array([1.0, -2.0, 0.5, 3.0])}
    chains = [optim.make_optimizer(OptimConfig(learning_rate=rate), schedule) for rate in (0.045, 0.3)]
    texts = {jax.jit(c.update).lower(gradient, c.init(params), params).as_text() for c in chains}
    assert len(texts) == 1
    for rate, chain in zip((0.045, 0.3), chains, strict=True):
        scaled = optim.make_optimizer(OptimConfig(learning_rate=1.0), lambda step, rate=rate: rate * schedule(step))
        for (ours, _), (theirs, _) in zip(
            *(trajectory(c, params, [gradient] * 5) for c in (chain, scaled)), strict=True
        ):
            np.testing.assert_allclose(ours["kernel"], theirs["kernel"], rtol=1e-6)


PARAMS = {
    "stem": {"kernel": jnp.array([1.0, -2.0]), "bias": jnp.array([0.5])},
    "classifier": {"kernel": jnp.array([3.0]), "bias": jnp.array([-1.0])},
}
GRADIENTS = [
    {
        "stem": {"kernel": jnp.array([a, -0.3]), "bias": jnp.array([0.2])},
        "classifier": {"kernel": jnp.array([0.7 * a]), "bias": jnp.array([a - 1])},
    }
    for a in (0.5, -1.0, 0.0, 2.0, 0.25)
]


def agree(ours, theirs):
    for (a, _), (b, _) in zip(ours, theirs, strict=True):
        jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=2e-6, atol=1e-7), a, b)


@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
def test_adamw_is_optaxs(weight_decay):
    settings = {"momentum": 0.8, "adam_b2": 0.95, "adam_epsilon": 1e-3, "weight_decay": weight_decay, "clip_norm": None}
    # What is RMSProp's alone does nothing.
    config = OptimConfig(name="adamw", learning_rate=0.1, schedule="cosine", rms_decay=0.5, rms_epsilon=7.0, **settings)
    schedule = optim.learning_rate_schedule(config, 5, 5)
    theirs = optax.adamw(
        lambda step: 0.1 * schedule(step), 0.8, 0.95, 1e-3, weight_decay=weight_decay, mask=optim.is_kernel
    )
    agree(*(trajectory(c, PARAMS, GRADIENTS) for c in (optim.make_optimizer(config, schedule), theirs)))


def test_adamws_decay_is_neither_clipped_nor_part_of_the_moments():
    config = OptimConfig(name="adamw", learning_rate=0.1, weight_decay=0.5, clip_norm=1.0, momentum=0.0, adam_b2=0.75)
    value, second = 3.0, 0.0
    steps = trajectory(
        optim.make_optimizer(config, lambda s: 0.5**s),
        {"kernel": jnp.array([3.0])},
        [{"kernel": jnp.array([g])} for g in (4.0, 0.5, -0.1)],
    )
    for n, (gradient, (params, _)) in enumerate(zip((1.0, 0.5, -0.1), steps, strict=True), start=1):
        second = 0.75 * second + 0.25 * gradient**2
        step = gradient / (math.sqrt(second / (1 - 0.75**n)) + 1e-8)
        value -= 0.1 * 0.5 ** (n - 1) * (step + 0.5 * value)
        assert float(params["kernel"][0]) == pytest.approx(value, rel=1e-5)


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_sgd_is_optaxs_at_a_constant_rate(momentum):
    config = OptimConfig(name="sgd", momentum=momentum, rms_decay=0.5, **{**BARE, "learning_rate": 0.1})
    theirs = optax.sgd(0.1, momentum=momentum or None)
    agree(*(trajectory(c, PARAMS, GRADIENTS) for c in (optim.make_optimizer(config, lambda step: 1.0), theirs)))


def test_sgd_decays_clips_and_has_the_rate_inside_the_momentum():
    config = OptimConfig(name="sgd", learning_rate=0.1, momentum=0.8, weight_decay=0.5, clip_norm=2.0)
    value, buffer = 3.0, 0.0
    steps = trajectory(
        optim.make_optimizer(config, lambda s: 0.5**s),
        {"kernel": jnp.array([3.0])},
        [{"kernel": jnp.array([g])} for g in (4.0, 0.5, -1.0)],
    )
    for n, (gradient, (params, _)) in enumerate(zip((4.0, 0.5, -1.0), steps, strict=True)):
        total = min(gradient + 0.5 * value, 2.0)
        buffer = 0.8 * buffer + 0.1 * 0.5**n * total
        value -= buffer
        assert float(params["kernel"][0]) == pytest.approx(value, rel=1e-5)


NAMES = ("rmsprop", "sgd", "adamw")


@pytest.mark.parametrize("name", NAMES)
def test_the_heads_rate_is_a_factor_on_its_own_updates(name):
    def changes(head_rate, parts=tuple(PARAMS)):
        chain = optim.make_optimizer(
            OptimConfig(name=name, head_rate=head_rate, clip_norm=None), lambda step: 0.5**step
        )
        # Gradients that do not depend on the parameters, and without decay: the changes are proportional to the rate.
        params = {part: {"bias": PARAMS[part]["bias"]} for part in parts}
        gradients = [{part: {"bias": g[part]["bias"]} for part in parts} for g in GRADIENTS]
        last = trajectory(chain, params, gradients)[-1][0]
        return {part: float((last[part]["bias"] - params[part]["bias"])[0]) for part in parts}

    plain, faster = changes(1.0), changes(10)
    assert faster["stem"] == pytest.approx(plain["stem"], rel=1e-6)
    assert faster["classifier"] == pytest.approx(10 * plain["classifier"], rel=1e-5)
    # As where all other stages are frozen.
    assert changes(10, ("classifier",))["classifier"] == pytest.approx(faster["classifier"], rel=1e-6)


def test_one_program_for_all_rates_of_the_head():
    chains = [optim.make_optimizer(OptimConfig(head_rate=rate), lambda step: 1.0) for rate in (2.0, 10.0)]
    assert len({jax.jit(c.update).lower(GRADIENTS[0], c.init(PARAMS), PARAMS).as_text() for c in chains}) == 1


@pytest.mark.parametrize("head_rate", [1.0, 5.0])
@pytest.mark.parametrize("name", NAMES)
def test_schedule_and_average_go_on_where_stages_are_unfrozen(name, head_rate):
    config = OptimConfig(name=name, head_rate=head_rate, ema_decay=0.5)
    chain = optim.make_optimizer(config, lambda step: 0.5**step)
    head = {"classifier": PARAMS["classifier"]}
    (_, _), (trained, old) = trajectory(chain, head, [{"classifier": g["classifier"]} for g in GRADIENTS[:2]])
    params = {**PARAMS, **trained}
    fresh = chain.init(params)
    state = optim.extend_state(old, fresh)
    assert jax.tree.structure(state) == jax.tree.structure(fresh)
    average = optim.averaged_params(state)
    np.testing.assert_array_equal(average["classifier"]["bias"], optim.averaged_params(old)["classifier"]["bias"])
    np.testing.assert_array_equal(average["stem"]["bias"], PARAMS["stem"]["bias"])
    # The moments begin anew: the next step is the first one, at the rate of the third.
    (updates, after), (first, _) = (chain.update(GRADIENTS[2], s, params) for s in (state, fresh))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, 0.25 * b, rtol=1e-6), updates, first)
    assert [int(s.updates) for s in after if isinstance(s, optim.ParamsEmaState)] == [3]


def test_the_rate_is_in_proportion_to_the_batch():
    def step_size(**options):
        setup = build.build(changed(SMALL, model={"num_classes": 10}, train={"batch_size": 16}, optim=options))
        return [s.hyperparams["step_size"] for s in setup.optimizer.init(PARAMS) if hasattr(s, "hyperparams")]

    assert step_size(learning_rate=0.5) == [0.5]
    assert step_size(learning_rate=0.5, reference_batch=64) == [0.125]
    config = OptimConfig(reference_batch=64)
    with pytest.raises(ValueError, match="batch_size"):
        optim.make_optimizer(config, lambda step: 1.0)


def test_the_papers_state_is_that_of_earlier_versions():
    paths = [
        jax.tree_util.keystr(path)
        for path, _ in jax.tree_util.tree_leaves_with_path(
            optim.make_optimizer(OptimConfig(), lambda step: 1.0).init({"kernel": jnp.ones(2)})
        )
    ]
    assert paths == [
        "[2].nu['kernel']",
        "[3].count",
        "[4].count",
        "[4].hyperparams['step_size']",
        "[5].trace['kernel']",
        "[6].updates",
        "[6].average['kernel']",
    ]


def test_average_of_the_parameters_across_a_staircase_edge():
    # One parameter with gradient 1, no momentum, epsilon 1.
    config = OptimConfig(**{**BARE, "learning_rate": 0.1, "decay_rate": 0.5, "momentum": 0.0, "ema_decay": 0.3})
    chain = optim.make_optimizer(config, optim.learning_rate_schedule(config, 1, 4))
    seen = trajectory(chain, {"kernel": jnp.array(1.0)}, [{"kernel": jnp.array(1.0)}] * 4)
    # The mean square stays 0.9 * 1 + 0.1 * 1 = 1, so each step is rate / sqrt(2).
    value, average = 1.0, 1.0
    for n, (rate, (params, state)) in enumerate(zip([0.1, 0.1, 0.05, 0.05], seen, strict=True), start=1):
        value -= rate / np.sqrt(2)
        decay = min(0.3, (1 + n) / (10 + n))
        average = decay * average + (1 - decay) * value
        assert float(params["kernel"]) == pytest.approx(value, abs=1e-6)
        assert float(optim.averaged_params(state)["kernel"]) == pytest.approx(average, abs=1e-6)
    # The ramp determines steps 1 and 2 (2/11, 3/12), the decay the others (4/13 > 0.3).
    assert (1 + 2) / (10 + 2) < 0.3 < (1 + 3) / (10 + 3)


def test_a_long_run_forgets_the_ramp():
    decay, count = 0.9997, 100_000
    ramped = np.float64(optim.ramped_decay(decay, np.arange(1, count + 1)))
    assert np.argmax(ramped >= np.float32(decay)) == pytest.approx(29_990, abs=3)  # in float32
    # Of what was there before the first update, after 150: the product of (1 + n) / (10 + n) in closed form.
    kept = math.factorial(10) * math.factorial(151) / math.factorial(160)
    assert np.prod(ramped[:150]) == pytest.approx(kept, rel=1e-5) and kept < math.factorial(10) / 150**9
    # The two averages of the same values approach each other by the decay at each later update.
    values, ours, constant = np.random.default_rng(0).uniform(-1, 1, count), 5.0, 5.0
    differences = []
    for d, value in zip(ramped, values, strict=True):
        ours, constant = d * ours + (1 - d) * value, decay * constant + (1 - decay) * value
        differences.append(abs(ours - constant))
    assert differences[149] > 4
    assert differences[-1] < 6 * decay ** (count - 29_990) + 1e-6 < 2e-6


def test_params_ema_averages_parameters_and_passes_updates_through():
    ema = optim.params_ema(0.5)
    params, updates = {"a": jnp.array([2.0])}, {"a": jnp.array([-1.0])}
    passed, state = ema.update(updates, ema.init(params), params)
    assert passed is updates
    np.testing.assert_allclose(state.average["a"], [2 / 11 * 2 + 9 / 11 * 1], rtol=1e-6)


def test_weight_decay_is_l2_on_kernels_before_clipping():
    params = {"conv": {"kernel": jnp.array([3.0]), "bias": jnp.array([3.0])}, "bn": {"scale": jnp.array([3.0])}}
    zero = jax.tree.map(jnp.zeros_like, params)
    options = {"learning_rate": 1.0, "momentum": 0.0, "ema_decay": 0.0, "rms_decay": 0.0}

    def step(gradients, **more):
        chain = optim.make_optimizer(OptimConfig(**options, **more), 1.0)
        return chain.update(gradients, chain.init(params), params)[0]

    decayed = step(zero, weight_decay=0.5, clip_norm=None)
    assert float(decayed["conv"]["kernel"][0]) == pytest.approx(-1.5 / np.sqrt(1.5**2 + 1))
    assert float(decayed["conv"]["bias"][0]) == float(decayed["bn"]["scale"][0]) == 0
    clipped = step(zero, weight_decay=0.5, clip_norm=1.0)
    assert float(clipped["conv"]["kernel"][0]) == pytest.approx(-1 / np.sqrt(2))
    bias = {**zero, "bn": {"scale": jnp.array([8.0])}}
    both = step(bias, weight_decay=2.0, clip_norm=1.0)  # (6, 8) has norm 10
    assert float(both["conv"]["kernel"][0]) == pytest.approx(-0.6 / np.sqrt(1.36))
    assert float(both["bn"]["scale"][0]) == pytest.approx(-0.8 / np.sqrt(1.64))


def test_epsilon_and_initial_mean_square():
    def first(**options):
        chain = optim.make_optimizer(OptimConfig(momentum=0.0, **BARE, **options), 1.0)
        params = {"kernel": jnp.array([1.0])}
        return -float(chain.update({"kernel": jnp.array([2.0])}, chain.init(params), params)[0]["kernel"][0])

    # ms = 0.9 * 1 + 0.1 * 4 = 1.3
    assert first() == pytest.approx(2 / np.sqrt(2.3), rel=1e-6)
    assert first(epsilon_in_sqrt=False) == pytest.approx(2 / (np.sqrt(1.3) + 1), rel=1e-6)
    assert first(rms_initial=0.0) == pytest.approx(2 / np.sqrt(1.4), rel=1e-6)
    assert first(rms_epsilon=1e-8) == pytest.approx(2 / np.sqrt(1.3), rel=1e-6)
