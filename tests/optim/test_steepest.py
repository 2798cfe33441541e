"""Steepest descent: each layer's step against NumPy, and what makes it steepest."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxla import testing
from jaxla.kron import composite_norm, frobenius_norm, rms_norm, sign_norm, spectral_norm
from jaxla.optim import (
    Axes,
    Layer,
    Layers,
    prodigy_step_size,
    scale_by_steepest_descent,
    steepest_descent,
)


SHAPES = {
    "bias": (4,),
    "blocks": {"weight": (2, 5, 4)},
    "conv": {"weight": (4, 3, 2, 2)},
    "embed": {"weight": (7, 3)},
    "head": {"weight": (6, 4)},
    "mlp": {"kernel": (3, 5), "weight": (5, 3)},
}


def tree(seed, scale=1.0):
    rng = np.random.default_rng(seed)
    is_shape = lambda x: isinstance(x, tuple)
    make = lambda shape: jnp.asarray(scale * rng.normal(size=shape), "float32")
    return jax.tree.map(make, SHAPES, is_leaf=is_shape)


EXACT = {"hidden": spectral_norm()}


@functools.cache
def exact_update(dual_scale=False):
    return jax.jit(scale_by_steepest_descent(EXACT, dual_scale=dual_scale).update)


def apply(grads, dual_scale=False):
    opt = scale_by_steepest_descent(EXACT, dual_scale=dual_scale)
    return exact_update(dual_scale)(grads, opt.init(grads))


def orthogonal(g):
    u, _, vt = np.linalg.svd(np.asarray(g, "float64"), full_matrices=False)
    return u @ vt


def expected(grads):
    """The unit steps, written out for each layer."""
    conv, table, head = (
        np.asarray(grads[k]["weight"]) for k in ("conv", "embed", "head")
    )
    return {
        "bias": np.sign(grads["bias"]),
        "blocks": {
            "weight": np.stack([orthogonal(g) for g in grads["blocks"]["weight"]])
        },
        "conv": {"weight": orthogonal(conv.reshape(4, 12)).reshape(conv.shape)},
        # Tokens are the columns of the map, and the rows of the table.
        "embed": {"weight": table / np.linalg.norm(table, axis=1, keepdims=True)},
        "head": {"weight": head / np.linalg.norm(head, axis=1, keepdims=True)},
        "mlp": {name: orthogonal(g) for name, g in grads["mlp"].items()},
    }


def dual_of(grads, steps):
    pairs = zip(jax.tree.leaves(grads), jax.tree.leaves(steps), strict=True)
    return sum(np.sum(np.asarray(g, "float64") * t) for g, t in pairs)


def assert_trees_close(actual, desired, tolerance=1e-4):
    for x, y in zip(jax.tree.leaves(actual), jax.tree.leaves(desired), strict=True):
        np.testing.assert_allclose(x, y, atol=tolerance * np.abs(y).max())


def test_each_layer_steps_as_its_norm_has_it():
    grads = tree(0)
    updates, _ = apply(grads)
    assert_trees_close(updates, expected(grads))


def test_the_dual_norm_of_the_composite_scales_all():
    grads = tree(1)
    updates, _ = apply(grads, dual_scale=True)
    steps = expected(grads)
    dual = dual_of(grads, steps)
    assert_trees_close(updates, jax.tree.map(lambda t: dual * t, steps))
    # It is the dual norm, and the updates the minimum, of the composite norm.
    norms = {"hidden": spectral_norm(), "vector": sign_norm()}
    some = {"hidden": grads["mlp"]["weight"], "vector": grads["bias"][:, None]}
    composite = composite_norm(norms)
    np.testing.assert_allclose(
        composite.dual_norm(some),
        dual_of(
            [some], [{"hidden": steps["mlp"]["weight"], "vector": steps["bias"][:, None]}]
        ),
        rtol=1e-4,
    )


def test_tiny_gradients_have_the_same_direction():
    grads = tree(2)
    tiny = jax.tree.map(lambda g: 1e-20 * g, grads)
    assert_trees_close(apply(tiny)[0], apply(grads)[0], 1e-3)
    large = jax.tree.map(lambda g: 1e25 * g, grads)  # the square of which is infinite
    updates, state = apply(large)
    assert not any(jax.tree.leaves(state.nonfinite))
    assert_trees_close(updates, apply(grads)[0], 1e-3)


def test_a_zero_gradient_has_no_step_and_a_bad_one_is_refused():
    grads = tree(3)
    good, _ = apply(grads)
    bad = jax.tree.map(lambda g: g, grads)
    bad["mlp"]["weight"] = grads["mlp"]["weight"].at[0, 0].set(jnp.nan)
    bad["bias"] = 0 * grads["bias"]
    updates, state = apply(bad, dual_scale=True)
    flags = state.nonfinite
    assert bool(flags["mlp"].pop("weight"))
    assert not any(jax.tree.leaves(flags))
    assert not updates["mlp"]["weight"].any()
    assert not updates["bias"].any()
    # The others are scaled by the dual norm without those two.
    ratio = updates["head"]["weight"] / good["head"]["weight"]
    left = jax.tree.map(lambda g: g, grads) | {"bias": bad["bias"]}
    left["mlp"] = {"kernel": grads["mlp"]["kernel"], "weight": 0 * grads["mlp"]["weight"]}
    steps = expected(grads)
    np.testing.assert_allclose(ratio, dual_of(left, steps), rtol=1e-3)


def test_norms_and_axes_can_be_chosen():
    grads = {"a": tree(4)["mlp"]["weight"], "b": tree(4)["blocks"]["weight"]}
    rules = {"b": Layer("hidden", Axes(rows=(0, 2), cols=(1,)))}
    opt = scale_by_steepest_descent({"hidden": rms_norm()}, layers=Layers(rules=rules))
    updates, _ = opt.update(grads, opt.init(grads))
    np.testing.assert_allclose(
        updates["a"], (5 / 3) ** 0.5 * orthogonal(grads["a"]), atol=1e-4
    )
    b = np.asarray(grads["b"]).transpose(0, 2, 1).reshape(8, 5)
    wide = (8 / 5) ** 0.5 * orthogonal(b).reshape(2, 4, 5).transpose(0, 2, 1)
    np.testing.assert_allclose(updates["b"], wide, atol=1e-4)

    opt = scale_by_steepest_descent(frobenius_norm())
    updates, _ = opt.update(grads, opt.init(grads))
    np.testing.assert_allclose(jnp.linalg.norm(updates["a"]), 1, rtol=1e-5)


def test_weight_decay_is_decoupled():
    params = {"w": jnp.ones((3, 2))}
    zeros = jax.tree.map(jnp.zeros_like, params)
    opt = steepest_descent(0.1, weight_decay=0.5)
    updates, _ = opt.update(zeros, opt.init(params), params)
    np.testing.assert_allclose(updates["w"], -0.05 * params["w"], rtol=1e-6)


@pytest.mark.usefixtures("unchecked")
def test_bad_choices():
    with pytest.raises(
        TypeError, match=r"`norm` must be a `jaxla.kron.Norm` or a mapping"
    ):
        scale_by_steepest_descent({"hidden": "spectral"})
    with pytest.raises(
        ValueError, match=r"`norm` has roles \['bias'\]; expected some of"
    ):
        scale_by_steepest_descent({"bias": sign_norm()})
    with pytest.raises(TypeError, match=r"`layers` must be a `jaxla.kron.Layers`; got 3"):
        scale_by_steepest_descent(layers=3).init(jnp.ones(3))
    opt = scale_by_steepest_descent()
    with pytest.raises(ValueError, match=r"unexpected: \['b'\], missing: \['a'\]"):
        opt.update({"b": jnp.ones(3)}, opt.init({"a": jnp.ones(3)}))


CURVATURE = jnp.array([1.0, 5.0, 25.0])


@functools.cache
def prodigy_run(norm_name, initial=1e-3, steps=60):
    """Parameters and step sizes on the quadratic with the curvature above."""
    norm = {"sign": sign_norm(), "frobenius": frobenius_norm()}[norm_name]
    inner = scale_by_steepest_descent(norm)
    opt = optax.chain(
        prodigy_step_size(inner, norm, initial), optax.scale_by_learning_rate(1.0)
    )
    params = {"w": jnp.array([4.0, -3.0, 2.0])}

    def step(carry, _):
        params, state = carry
        grads = {"w": CURVATURE * params["w"]}
        updates, state = opt.update(grads, state, params)
        new = optax.apply_updates(params, updates)
        return (new, state), (new["w"], optax.tree.get(state, "step_size"))

    return jax.lax.scan(step, (params, opt.init(params)), length=steps)[1]


@pytest.mark.parametrize("norm", ["sign", "frobenius"])
def test_prodigy_equals_its_formula(norm):
    ws, sizes = prodigy_run(norm)
    w0 = w = np.array([4.0, -3.0, 2.0])
    eta, curvature = 1e-3, np.asarray(CURVATURE, "float64")
    for actual, size in zip(ws[:25], sizes[:25], strict=True):
        g = curvature * w
        signs = norm == "sign"
        dual = np.abs(g).sum() if signs else np.linalg.norm(g)
        new = w - eta * (np.sign(g) if signs else g / dual)
        eta = max(eta, g @ (w0 - w) / dual)
        w = new
        np.testing.assert_allclose(actual, w, rtol=1e-3, atol=1e-4)
        np.testing.assert_allclose(max(size, 1e-3), eta, rtol=1e-3)


@pytest.mark.parametrize("norm", ["sign", "frobenius"])
def test_prodigy_grows_towards_the_distance_and_never_beyond(norm):
    _, sizes = prodigy_run(norm)
    start = np.array([4.0, -3.0, 2.0])
    distance = np.abs(start).max() if norm == "sign" else np.linalg.norm(start)
    assert (np.diff(sizes) >= 0).all()
    assert distance / 10 < sizes[-1] <= distance
    # From wherever it starts, within the distance.
    _, small = prodigy_run(norm, initial=1e-6)
    assert distance / 10 < small[-1] <= distance


def test_prodigy_needs_parameters_and_survives_bad_gradients():
    norm = sign_norm()
    opt = prodigy_step_size(scale_by_steepest_descent(norm), norm, 0.5)
    params = {"a": jnp.ones(3), "b": jnp.ones(2)}
    state = opt.init(params)
    with pytest.raises(ValueError, match="`params` is needed by `prodigy_step_size`"):
        opt.update(params, state)
    moved = {"a": jnp.zeros(3), "b": jnp.ones(2)}
    grads = {"a": jnp.ones(3), "b": jnp.full(2, jnp.nan)}
    updates, state = opt.update(grads, state, moved)
    np.testing.assert_allclose(state.step_size, 1.0)  # <g, w0 - w> = 3 over 3, of `a`
    np.testing.assert_allclose(updates["a"], 0.5)
    assert not updates["b"].any()
    assert bool(optax.tree.get(state, "nonfinite")["b"])


def adaptive(learning_rate, initial=1e-2):
    inner = scale_by_steepest_descent(sign_norm())
    found = prodigy_step_size(inner, sign_norm(), initial)
    return optax.chain(found, optax.scale_by_learning_rate(learning_rate))


@pytest.mark.parametrize(
    "check",
    [
        testing.check_donation,
        testing.check_injection,
        testing.check_map_params,
        testing.check_empty_tree,
        testing.check_state_type,
        testing.check_serialisation,
    ],
)
def test_prodigy_is_a_transformation_like_others(check):
    check(adaptive)
