"""Shampoo against the textbook, and what follows from its definition."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxla.optim import Axes, Blocks, scale_by_shampoo, shampoo

from . import textbook


EVERY_STEP = Blocks(size=8, refresh_every=1)


def random_grads(shape, num_steps=12, dtype="float32", seed=0):
    """Gradients whose rows and columns differ in scale, with a common part."""
    rng = np.random.default_rng(seed)
    scale = np.ones(shape) * np.exp(rng.normal(size=shape[-1:]))
    common = rng.normal(size=shape)
    return [
        jnp.asarray(scale * (rng.normal(size=shape) + common), dtype)
        for _ in range(num_steps)
    ]


def run(opt, params, grads):
    """The updates and the states of some steps."""
    update, state = jax.jit(opt.update), opt.init(params)
    updates, states = [], [state]
    for grad in grads:
        out, state = update(grad, state, params)
        updates.append(out)
        states.append(state)
    return updates, states


def trajectory(opt, params, grads):
    """The parameters after each step."""
    update, state, out = jax.jit(opt.update), opt.init(params), []
    for grad in grads:
        updates, state = update(grad, state, params)
        params = optax.apply_updates(params, updates)
        out.append(params)
    return out


def assert_close(actual, expected, tolerance):
    """Every array of two lists agrees, relative to its own norm."""
    for x, y in zip(actual, expected, strict=True):
        x, y = np.asarray(x, "float64"), np.asarray(y, "float64")
        error = np.linalg.norm(x - y) / np.linalg.norm(y)
        assert error <= tolerance, f"{error:.1e} is above {tolerance:.1e}"


def against_textbook(blocks, tolerance, dtype="float64", shape=(7, 5), **choices):
    """Runs both from the same start on the same gradients."""
    static = {k: choices.pop(k) for k in ("graft", "momentum") if k in choices}
    ends = {k: choices.pop(k) for k in ("rows", "cols", "sides") if k in choices}
    numbers = {"b1": 0.9, "b2": 0.95, "damping": 1e-5} | choices
    grads = random_grads(shape, dtype=dtype)
    start = jnp.asarray(np.random.default_rng(1).normal(size=shape), dtype)
    opt = shampoo(0.1, **numbers, blocks=blocks, **static)
    book = textbook.Shampoo(
        **numbers,
        **static,
        **ends,
        exponent=blocks.exponent,
        normalize_trace=blocks.normalize_trace,
    )
    actual = trajectory(opt, start, grads)
    # Of the step, not of the parameter: an error of a small step must show.
    expected = book.run(start, grads)
    moved = [np.asarray(x, "float64") - np.asarray(start, "float64") for x in actual]
    assert_close(moved, [y - np.asarray(start, "float64") for y in expected], tolerance)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize(
    ("root", "choices"),
    [
        ("coupled", {}),
        ("coupled", {"graft": "none"}),
        ("coupled", {"graft": "sgd", "weight_decay": 0.1}),
        ("coupled", {"momentum": "after", "weight_decay": 0.1}),
        ("eigh", {}),
        ("eigh", {"momentum": "after", "graft": "none"}),
    ],
    ids=str,
)
def test_equals_the_textbook(root, choices):
    blocks = Blocks(size=8, refresh_every=1, root=root)
    # The weights of the averages are computed in float32.
    against_textbook(blocks, 1e-5, **choices)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize(
    ("shape", "sides", "choices"),
    [
        ((5, 7), "left", {}),
        ((7, 5), "right", {"exponent": 1 / 2, "normalize_trace": True}),
    ],
    ids=str,
)
def test_equals_the_textbook_on_the_shorter_side(shape, sides, choices):
    """A lone factor takes the exponent 1/2 of order one, as does the square."""
    blocks = Blocks(size=8, refresh_every=1, one_sided_above=6, **choices)
    graft = "sgd" if choices else "none"
    against_textbook(blocks, 1e-5, shape=shape, sides=sides, graft=graft)


def test_a_lone_trace_gives_no_size():
    blocks = Blocks(normalize_trace=True, rules={"w": "one-sided"})
    opt = shampoo(0.1, graft="none", blocks=blocks)
    message = (
        "`graft='none'` does not go with `normalize_trace=True` of `blocks` where 'w'"
    )
    with pytest.raises(ValueError, match=re.escape(message)):
        opt.init({"w": jnp.ones((4, 6))})


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("exponent", [1 / 2, 1.0, 0.3])
def test_equals_the_textbook_with_other_exponents(exponent):
    blocks = Blocks(size=8, refresh_every=1, exponent=exponent, normalize_trace=True)
    # No graft, which would hide a factor.
    against_textbook(blocks, 1e-5, graft="none")


def test_equals_the_textbook_in_float32():
    # A damping of 1e-5 multiplies the rounding errors of the statistics, 1e-7, by
    # at most 1e5 in directions that the gradients hardly have.
    against_textbook(EVERY_STEP, 2e-3, dtype="float32")


@pytest.mark.usefixtures("x64")
def test_blocked_equals_the_textbook_on_diagonal_blocks():
    # 12 rows in 2 blocks of 6, 20 columns in 3 of 7, the last one short.
    ends = {"rows": (6,), "cols": (7, 14)}
    against_textbook(EVERY_STEP, 1e-5, shape=(12, 20), **ends)


def test_a_convolution_is_the_matrix_of_its_filters():
    grads = random_grads((6, 2, 2, 3), num_steps=4)
    opt = scale_by_shampoo(blocks=Blocks(refresh_every=1))
    flat = [g.reshape(6, 12) for g in grads]
    conv, _ = run(opt, grads[0], grads)
    matrix, _ = run(opt, flat[0], flat)
    assert_close([u.reshape(6, 12) for u in conv], matrix, 1e-5)


def test_stacked_layers_are_each_layer_alone():
    grads = random_grads((3, 6, 5), num_steps=4)
    # Without grafting: its norms are over the whole parameter.
    rules = {"*": Axes(rows=(1,), cols=(2,), batch=(0,))}
    blocks = Blocks(refresh_every=1, rules=rules)
    stacked, _ = run(scale_by_shampoo(blocks=blocks, graft="none"), grads[0], grads)
    single = scale_by_shampoo(blocks=Blocks(refresh_every=1), graft="none")
    for layer in range(3):
        alone, _ = run(single, grads[0][layer], [g[layer] for g in grads])
        assert_close([u[layer] for u in stacked], alone, 1e-4)


@pytest.mark.parametrize("graft", ["none", "sgd", "adam"])
def test_the_step_does_not_depend_on_the_scale_of_the_loss(graft):
    grads = random_grads((6, 5), num_steps=4)
    opt = scale_by_shampoo(eps=0.0, blocks=EVERY_STEP, graft=graft)
    expected, _ = run(opt, grads[0], grads)
    for scale in (1e-15, 1e12):
        updates, states = run(opt, grads[0], [scale * g for g in grads])
        assert not any(jax.tree.leaves(states[-1].nonfinite))
        size = scale if graft == "sgd" else 1.0
        assert_close([u / size for u in updates], expected, 1e-3)


@pytest.mark.parametrize("graft", ["none", "sgd"])
def test_turns_with_the_parameter(graft):
    rng = np.random.default_rng(2)
    left, _ = np.linalg.qr(rng.normal(size=(7, 7)))
    right, _ = np.linalg.qr(rng.normal(size=(5, 5)))

    def turn(x):
        return jnp.asarray(left @ np.asarray(x, "float64") @ right, x.dtype)

    grads = random_grads((7, 5))
    opt = scale_by_shampoo(damping=1e-4, blocks=EVERY_STEP, graft=graft)
    plain, _ = run(opt, grads[0], grads)
    turned, _ = run(opt, grads[0], [turn(g) for g in grads])
    # Rounding errors of the factors, 1e-7, over the damping.
    assert_close(turned, [turn(u) for u in plain], 5e-3)
    # Adam does not turn: what is tested is not trivial.
    adam = optax.scale_by_adam()
    plain, _ = run(adam, grads[0], grads)
    turned, _ = run(adam, grads[0], [turn(g) for g in grads])
    with pytest.raises(AssertionError):
        assert_close(turned, [turn(u) for u in plain], 0.1)


@pytest.mark.parametrize("momentum", ["before", "after"])
def test_other_parameters_are_left_to_adam(momentum):
    params = {"bias": jnp.ones(3), "scale": jnp.ones(()), "row": jnp.ones((1, 4))}
    rng = np.random.default_rng(3)
    grads = [
        jax.tree.map(lambda p: jnp.asarray(rng.normal(size=p.shape), p.dtype), params)
        for _ in range(10)
    ]
    opt = scale_by_shampoo(0.8, 0.9, 1e-3, momentum=momentum)
    updates, _ = run(opt, params, grads)
    expected, _ = run(optax.scale_by_adam(0.8, 0.9, 1e-3), params, grads)
    if momentum == "after":  # the average of the steps, not the step of the average
        steps, _ = run(optax.scale_by_adam(0.0, 0.9, 1e-3), params, grads)
        means = {name: textbook.Average(0.8) for name in params}
        expected = [{k: means[k].add(u[k]) for k in params} for u in steps]
    for name in params:
        assert_close([u[name] for u in updates], [u[name] for u in expected], 1e-5)


@pytest.mark.parametrize("rule", ["diagonal", lambda path, leaf: "diagonal"])
def test_a_matrix_can_be_left_to_adam(rule):
    rules = {"embed/*": rule} if isinstance(rule, str) else rule
    grads = [{"embed": {"weight": g}} for g in random_grads((6, 5), num_steps=3)]
    updates, _ = run(scale_by_shampoo(blocks=Blocks(rules=rules)), grads[0], grads)
    expected, _ = run(optax.scale_by_adam(b2=0.99), grads[0], grads)
    assert_close(jax.tree.leaves(updates), jax.tree.leaves(expected), 1e-5)


@pytest.mark.parametrize("momentum", ["before", "after"])
@pytest.mark.parametrize("graft", ["adam", "sgd"])
def test_grafting_takes_the_norm_and_keeps_the_direction(graft, momentum):
    grads = random_grads((12, 10), num_steps=3)
    b1 = 0.0 if momentum == "after" else 0.9  # so that each step shows by itself
    blocks = Blocks(size=8, refresh_every=1)
    run_with = functools.partial(scale_by_shampoo, b1, blocks=blocks, momentum=momentum)
    updates, _ = run(run_with(graft=graft), grads[0], grads)
    directions, _ = run(run_with(graft="none"), grads[0], grads)
    adam = optax.scale_by_adam(b1, 0.99 if graft == "adam" else 0.0)
    if graft == "sgd":
        adam = optax.ema(b1)
    magnitudes, _ = run(adam, grads[0], grads)
    for update, direction, magnitude in zip(updates, directions, magnitudes, strict=True):
        expected = direction * (jnp.linalg.norm(magnitude) / jnp.linalg.norm(direction))
        assert_close([update], [expected], 1e-5)


def test_weight_decay_is_decoupled_and_masked():
    params = {"w": jnp.ones((4, 3)), "b": jnp.ones(3)}
    zeros = jax.tree.map(jnp.zeros_like, params)
    opt = shampoo(0.1, weight_decay=0.5, weight_decay_mask={"w": True, "b": False})
    updates, _ = run(opt, params, [zeros])
    np.testing.assert_allclose(updates[0]["w"], -0.05 * params["w"], rtol=1e-6)
    np.testing.assert_array_equal(updates[0]["b"], 0)


def test_momentum_is_stored_as_asked():
    params = jnp.ones((4, 3), jnp.bfloat16)
    assert scale_by_shampoo().init(params).mu.dtype == jnp.float32
    state = scale_by_shampoo(mu_dtype="bfloat16").init(params)
    assert (state.mu.dtype, state.nu.dtype) == (jnp.bfloat16, jnp.float32)
    assert {x.dtype for x in state.factors.values()} == {np.dtype("float32")}
