"""Muon against the textbook, and against what is wrong elsewhere."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxla.matfun import polar_express, quintic
from jaxla.optim import Axes, Layer, Layers, muon, scale_by_muon

from . import textbook_muon
from .test_shampoo import assert_close, random_grads, run, trajectory


def orthogonality(x):
    """The largest distance of a singular value from 1."""
    return np.abs(np.linalg.svd(np.asarray(x, "float64"), compute_uv=False) - 1).max()


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize(
    ("engine", "rows", "choices"),
    [
        ("exact", (), {}),
        ("exact", (), {"nesterov": False, "weight_decay": 0.1, "scale": "rms"}),
        ("polar_express", polar_express(5), {"scale": "adam", "b1": 0.8}),
        ("quintic", quintic(5), {"scale": "none"}),
        (polar_express(3), polar_express(3), {}),
    ],
    ids=str,
)
def test_equals_the_textbook(engine, rows, choices):
    choices = {"b1": 0.95} | choices
    # Outputs and inputs as Equinox and as Flax have them; wide and tall.
    start = {"a": {"weight": (7, 5)}, "b": {"kernel": (7, 5)}}
    rng = np.random.default_rng(0)
    make = lambda _: jnp.asarray(rng.normal(size=(7, 5)))
    is_shape = lambda x: isinstance(x, tuple)
    params, *grads = (jax.tree.map(make, start, is_leaf=is_shape) for _ in range(7))
    actual = trajectory(muon(0.1, **choices, engine=engine), params, grads)

    book = textbook_muon.Muon(**choices, rows=rows)
    w, k = params["a"]["weight"], params["b"]["kernel"]
    expected = book.run(w, [g["a"]["weight"] for g in grads])
    turned = book.run(k.T, [g["b"]["kernel"].T for g in grads])
    # Of the step, not of the parameter. The weights of averages are of float32.
    assert_close([x["a"]["weight"] - w for x in actual], [y - w for y in expected], 1e-5)
    assert_close(
        [x["b"]["kernel"].T - k.T for x in actual], [y - k.T for y in turned], 1e-5
    )


def test_equals_the_textbook_in_float32():
    grads = random_grads((6, 9), num_steps=8)
    start = jnp.zeros((6, 9))
    actual = trajectory(muon(0.1), start, grads)
    book = textbook_muon.Muon(rows=polar_express(5))
    assert_close(actual, book.run(start, grads), 1e-4)


def test_convolutions_and_stacked_layers():
    conv = random_grads((6, 2, 2, 2), num_steps=3)
    stack = random_grads((3, 6, 8), num_steps=3)
    grads = [{"conv": c, "stack": s} for c, s in zip(conv, stack, strict=True)]
    updates, _ = run(scale_by_muon(), grads[0], grads)
    flat = [
        {"conv": g["conv"].reshape(6, 8), **dict(zip("xyz", g["stack"], strict=True))}
        for g in grads
    ]
    expected, _ = run(scale_by_muon(), flat[0], flat)
    for update, want in zip(updates, expected, strict=True):
        assert_close([update["conv"].reshape(6, 8)], [want["conv"]], 1e-5)
        assert_close(update["stack"], [want[key] for key in "xyz"], 1e-5)


def test_what_is_no_hidden_matrix_is_left_to_adam():
    shapes = {"bias": (4,), "embed": (9, 4), "head": (9, 4), "blocks": {"norm": (3, 4)}}
    rng = np.random.default_rng(1)
    make = lambda shape: jnp.asarray(rng.normal(size=shape), "float32")
    is_shape = lambda x: isinstance(x, tuple)
    grads = [jax.tree.map(make, shapes, is_leaf=is_shape) for _ in range(6)]
    updates, state = run(scale_by_muon(0.95, 0.8, 0.9, 1e-3, 0.5), grads[0], grads)
    expected, _ = run(optax.scale_by_adam(0.8, 0.9, 1e-3), grads[0], grads)
    for update, want in zip(updates, expected, strict=True):
        pairs = zip(jax.tree.leaves(update), jax.tree.leaves(want), strict=True)
        for x, y in pairs:
            assert_close([x], [0.5 * y], 1e-5)
    assert jax.tree.map(jnp.shape, state[-1].nu) == shapes


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_refused_gradient_has_never_happened(bad):
    good = [{"bias": g[0], "v": g + 1, "w": g} for g in random_grads((6, 5), num_steps=5)]
    spoiled = list(good)
    spoiled[2] = good[2] | {"w": good[2]["w"].at[1, 2].set(bad)}
    opt = scale_by_muon()
    expected, _ = run(opt, good[0], good)
    updates, states = run(opt, good[0], spoiled)
    flags = [optax.tree.get(s, "nonfinite") for s in states[1:]]
    assert [bool(flag["w"]) for flag in flags] == [False, False, True, False, False]
    assert not any(flag["bias"] or flag["v"] for flag in flags)
    assert jax.tree.map(int, states[-1].steps) == {"bias": 5, "v": 5, "w": 4}
    assert not updates[2]["w"].any()
    np.testing.assert_array_equal(states[3].mu["w"], states[2].mu["w"])
    for update, other in zip(updates, expected, strict=True):
        for name in ("bias", "v"):  # `v` is in the stack of `w`
            np.testing.assert_array_equal(update[name], other[name])
    without, _ = run(opt, good[0], good[:2] + good[3:])
    for update, other in zip(updates[3:], without[2:], strict=True):
        np.testing.assert_array_equal(update["w"], other["w"])


def test_moments_are_stored_as_asked():
    params = {"w": jnp.ones((4, 3), jnp.bfloat16), "b": jnp.ones(3, jnp.bfloat16)}
    state = scale_by_muon(mu_dtype="bfloat16").init(params)
    assert state.mu["w"].dtype == jnp.bfloat16
    assert state.nu["b"].dtype == jnp.float32
    assert state.nu["w"].shape == ()


def test_matrices_are_chosen_by_rules():
    rules = {"last/*": "head", "odd": Layer("hidden", Axes(rows=(0, 1), cols=(2,)))}
    rng = np.random.default_rng(2)
    grads = {
        "last": {"weight": jnp.asarray(rng.normal(size=(4, 3)), "float32")},
        "odd": jnp.asarray(rng.normal(size=(2, 2, 3)), "float32"),
    }
    opt = scale_by_muon(engine="exact", scale="none", layers=Layers(rules=rules))
    updates, _ = opt.update(grads, opt.init(grads))
    np.testing.assert_allclose(jnp.abs(updates["last"]["weight"]), 0.015, rtol=1e-4)
    assert orthogonality(updates["odd"].reshape(4, 3)) < 1e-5


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    ("choices", "error", "message"),
    [
        ({"engine": "cubic"}, ValueError, "`engine` must be one of 'polar_express'"),
        ({"scale": "one"}, ValueError, "`scale` must be one of 'muon', 'rms', 'adam'"),
        ({"layers": {}}, TypeError, r"`layers` must be a `jaxla\.kron\.Layers`; got {}"),
    ],
)
def test_bad_choices(choices, error, message):
    with pytest.raises(error, match=message):
        muon(0.1, **choices).init(jnp.ones((3, 2)))


# What was found wrong in the Muon of Optax 0.2.8. Each test sees it there, too: when it
# no longer does, Optax has been repaired.

THEIRS = optax.contrib.muon


def test_each_engine_that_the_documentation_names_is_there():
    for engine in re.findall(r'`"(\w+)"`', scale_by_muon.__doc__.split("- `engine`")[1])[
        :3
    ]:
        scale_by_muon(engine=engine)
    with pytest.raises(ValueError, match=r"ns_coeffs|Unknown"):
        THEIRS(0.1, ns_coeffs="muon").init({"w": jnp.ones((3, 2))})


def test_as_many_steps_are_made_as_there_are_coefficients():
    g = jnp.asarray(np.random.default_rng(3).normal(size=(12, 10)), "float32")
    errors = []
    for steps in (2, 5, 8):
        opt = scale_by_muon(engine=polar_express(steps), scale="none")
        errors.append(orthogonality(opt.update({"w": g}, opt.init({"w": g}))[0]["w"]))
    assert errors[2] < 1e-3 < errors[1] < 0.3 < errors[0]
    with pytest.raises(ValueError, match="Not enough coeffs"):
        THEIRS(0.1, ns_coeffs="dion", ns_steps=3).init({"w": g})


def test_stacked_layers_are_matrices_and_stacked_biases_are_none():
    rng = np.random.default_rng(4)
    grads = {
        "bias": jnp.asarray(rng.normal(size=(4, 6)), "float32"),
        "weight": jnp.asarray(rng.normal(size=(2, 6, 6)), "float32"),
    }
    opt = scale_by_muon(engine="exact", adam_scale=1.0)
    ours, _ = opt.update(grads, opt.init(grads))
    theirs, _ = THEIRS(-1.0).update(grads, THEIRS(-1.0).init(grads), grads)
    # The first step of Adam has one size in all entries.
    is_sign = lambda x: bool(jnp.abs(x).max() < 1.001 * jnp.abs(x).min())
    assert (is_sign(ours["bias"]), is_sign(ours["weight"])) == (True, False)
    assert all(orthogonality(x) < 1e-5 for x in ours["weight"])
    assert (is_sign(theirs["bias"]), is_sign(theirs["weight"])) == (False, True)


def test_tiny_gradients_are_orthogonalized():
    g = jnp.asarray(np.random.default_rng(5).normal(size=(6, 5)), "float32")

    def change(opt, scale):
        plain, tiny = ({"w": s * g} for s in (1.0, scale))
        x, y = (opt.update(p, opt.init(p), p)[0]["w"] for p in (plain, tiny))
        return float(jnp.linalg.norm(x - y) / jnp.linalg.norm(x))

    assert change(muon(1.0), 1e-12) < 1e-4
    assert change(muon(1.0), 1e-30) < 1e-4
    assert change(THEIRS(1.0), 1e-12) > 0.3


def test_the_first_steps_look_ahead_as_the_reference_does():
    grads = random_grads((6, 6), num_steps=3, seed=7)
    book = textbook_muon.Muon(learning_rate=-1.0, scale="none", rows=quintic(5))
    expected = np.diff([np.zeros((6, 6)), *book.run(np.zeros((6, 6)), grads)], axis=0)
    ours, _ = run(scale_by_muon(engine="quintic", scale="none"), grads[0], grads)
    assert_close(ours, expected, 1e-3)
    # The source of the second step, before it is orthogonalized, by both formulas.
    g1, g2 = (np.asarray(g, "float64") for g in grads[:2])
    b, mean = 0.95, 0.05 * (0.95 * g1 + g2)
    right = g2 + b * (b * g1 + g2)
    theirs = b * mean / (1 - b**3) + (1 - b) * g2 / (1 - b**2)
    # With coefficients and steps enough to be exact.
    contrib = optax.contrib.scale_by_muon(ns_coeffs=(2.0, -1.5, 0.5), ns_steps=40)
    second = run(contrib, grads[0], grads[:2])[0][1]
    exact = textbook_muon.Muon()
    off, near = (np.linalg.norm(second - exact.orthogonal(x)) for x in (right, theirs))
    assert 10 * near < off


def test_leaves_of_a_shape_share_their_products():
    def products(opt, number):
        params = [jnp.ones((6, 4)) for _ in range(number)]
        update = jax.jit(opt.update).lower(params, opt.init(params), params)
        return update.as_text().count("dot_general")

    assert products(muon(0.1), 6) == products(muon(0.1), 2)
    assert products(THEIRS(0.1), 6) == 3 * products(THEIRS(0.1), 2)
    # Nor is any step a factorization.
    params = [jnp.ones((6, 4))]
    text = (
        jax.jit(muon(0.1).update).lower(params, muon(0.1).init(params), params).as_text()
    )
    assert "lapack" not in text
