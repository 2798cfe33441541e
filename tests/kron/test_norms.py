"""Norms and their duals against singular values in float64, and what defines them."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxla.kron import (
    column_norm,
    composite_norm,
    frobenius_norm,
    Norm,
    rms_norm,
    row_norm,
    sign_norm,
    spectral_norm,
)
from jaxla.matfun import polar_express, psd_power, quintic


NORMS = {
    "sign": sign_norm(),
    "frobenius": frobenius_norm(),
    "column": column_norm(),
    "row": row_norm(),
    "spectral": spectral_norm(),
    "rms": rms_norm(),
}


def oracle(name, g):
    """Norm, dual norm and duality map of one matrix, in NumPy."""
    g = np.asarray(g, "float64")
    m, n = g.shape
    u, s, vt = np.linalg.svd(g, full_matrices=False)
    columns, rows = np.linalg.norm(g, axis=0), np.linalg.norm(g, axis=1)
    size, gain = np.linalg.norm(g), (m / n) ** 0.5
    return {
        "sign": (np.abs(g).max(), np.abs(g).sum(), np.sign(g)),
        "frobenius": (size, size, g / size),
        "column": (columns.max(), columns.sum(), g / columns),
        "row": (rows.max(), rows.sum(), g / rows[:, None]),
        "spectral": (s[0], s.sum(), u @ vt),
        "rms": (s[0] / gain, s.sum() * gain, gain * u @ vt),
    }[name]


@functools.cache
def jitted(name):
    norm = NORMS[name]
    return jax.jit(lambda g: (norm.norm(g), norm.dual_norm(g), norm.duality_map(g)))


def matrices(dtype="float32", seed=0, shape=(3, 5, 4)):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), dtype)


each = pytest.mark.parametrize("name", NORMS)


@each
def test_equals_the_oracle(name):
    gs = matrices()
    actual = jitted(name)(gs)
    expected = [
        np.stack(part) for part in zip(*(oracle(name, g) for g in gs), strict=True)
    ]
    for x, y in zip(actual, expected, strict=True):
        assert x.shape == y.shape
        np.testing.assert_allclose(x, y, rtol=2e-5, atol=2e-5)


@each
def test_the_duality_map_attains_the_dual_norm(name):
    gs = matrices(seed=1)
    _, dual, t = jitted(name)(gs)
    size, _, _ = jitted(name)(t)
    np.testing.assert_allclose(size, 1, rtol=1e-5)
    np.testing.assert_allclose(jnp.sum(gs * t, (1, 2)), dual, rtol=1e-5)


@each
def test_no_product_exceeds_norm_times_dual_norm(name):
    gs, ts = matrices(seed=2), matrices(seed=3)
    _, dual, direction = jitted(name)(gs)
    size, _, _ = jitted(name)(ts)
    assert (jnp.abs(jnp.sum(gs * ts, (1, 2))) <= (1 + 1e-5) * size * dual).all()
    # Nor does another direction of norm 1 lead further than the one of the map.
    other = jitted(name)(ts)[2]
    along = lambda t: jnp.sum(gs * t, (1, 2))
    assert (along(other) <= (1 + 1e-5) * along(direction)).all()


@each
@pytest.mark.parametrize("scale", [1e-20, 1e-34, 1e20])
def test_small_and_large_gradients_are_treated_alike(name, scale):
    gs = matrices(seed=4)
    size, dual, t = jitted(name)(gs)
    scaled = jitted(name)(scale * gs)
    np.testing.assert_allclose(scaled[0] / scale, size, rtol=1e-4)
    np.testing.assert_allclose(scaled[1] / scale, dual, rtol=1e-4)
    np.testing.assert_allclose(scaled[2], t, rtol=1e-3, atol=1e-3)


@each
def test_zero_has_no_direction_and_nan_stays_in_its_matrix(name):
    gs = matrices(seed=5)
    mixed = gs.at[0].set(0).at[2, 1, 1].set(jnp.nan)
    out, expected = jitted(name)(mixed), jitted(name)(gs)
    for x, y in zip(out, expected, strict=True):
        assert not x[0].any()
        np.testing.assert_allclose(x[1], y[1], rtol=1e-5, atol=1e-6)
        assert jnp.isnan(x[2]).all()


@each
def test_half_precision_comes_back(name):
    gs = matrices(seed=6)
    half = gs.astype(jnp.bfloat16)
    size, dual, t = jitted(name)(half)
    assert (size.dtype, dual.dtype, t.dtype) == (jnp.float32, jnp.float32, half.dtype)
    exact = jitted(name)(half.astype(jnp.float32))
    np.testing.assert_allclose(size, exact[0], rtol=1e-5)
    np.testing.assert_allclose(np.asarray(t, float), exact[2], atol=2e-2)


@each
def test_the_derivative_of_the_dual_norm_is_the_duality_map(name):
    gs = matrices(seed=7)
    slope = jax.jit(jax.grad(lambda g: jnp.sum(NORMS[name].dual_norm(g))))(gs)
    np.testing.assert_allclose(slope, jitted(name)(gs)[2], rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("name", ["sign", "frobenius", "column", "row"])
def test_derivatives_at_zero_are_finite(name):
    zero = jnp.zeros((1, 3, 2))
    norm = NORMS[name]
    total = lambda g: jnp.sum(norm.duality_map(g)) + jnp.sum(norm.dual_norm(g))
    assert jnp.isfinite(jax.grad(total)(zero)).all()


def test_shampoo_without_averages_is_the_spectral_duality_map():
    for shape, rank in (((5, 4), 4), ((4, 6), 4), ((6, 5), 2)):
        rng = np.random.default_rng(8)
        g = jnp.asarray(
            rng.normal(size=(shape[0], rank)) @ rng.normal(size=(rank, shape[1])),
            "float32",
        )
        left = psd_power(g @ g.T, -0.25, rcond=1e-5)
        right = psd_power(g.T @ g, -0.25, rcond=1e-5)
        u, s, vt = np.linalg.svd(np.asarray(g, "float64"))
        partial = u[:, :rank] @ vt[:rank]
        np.testing.assert_allclose(left @ g @ right, partial, atol=2e-3)
        # On the range; what rounding errors leave outside is not asked for.
        t = spectral_norm().duality_map(g)
        on_range = u[:, :rank].T @ np.asarray(t) @ vt[:rank].T
        np.testing.assert_allclose(
            on_range, u[:, :rank].T @ partial @ vt[:rank].T, atol=1e-4
        )
        np.testing.assert_allclose(jnp.sum(g * t), s.sum(), rtol=1e-4)


def test_columns_of_very_different_sizes_are_each_normalised():
    g = matrices(seed=9)[0] * jnp.array([1.0, 1e-15, 1e-30, 0.0])
    lengths = jnp.linalg.norm(column_norm().duality_map(g), axis=0)
    np.testing.assert_allclose(lengths, [1, 1, 1, 0], rtol=1e-5)


@pytest.mark.parametrize(
    ("coefficients", "error"), [(polar_express(8), 1e-2), (quintic(5), 0.4)], ids=str
)
def test_products_approximate_the_spectral_duality_map(coefficients, error):
    gs = matrices(seed=10)
    t = jax.jit(spectral_norm(coefficients).duality_map)(gs)
    exact = jitted("spectral")(gs)[2]
    assert jnp.abs(jnp.linalg.svd(t, compute_uv=False) - 1).max() < error
    assert jnp.linalg.norm(t - exact) < error * jnp.linalg.norm(exact)


def test_a_list_is_as_one_by_one():
    norm = rms_norm(polar_express(2), shapes=2)  # through `spectral_norm`
    gs = [
        matrices(shape=shape, seed=i)
        for i, shape in enumerate([(5, 4), (4, 5), (2, 5, 3), (9, 2)])
    ]
    together = jax.jit(norm.duality_maps)(gs)
    alone = jax.jit(lambda gs: [norm.duality_map(g) for g in gs])(gs)
    for x, y in zip(together, alone, strict=True):
        np.testing.assert_allclose(x, y, rtol=1e-4, atol=1e-5)


def test_the_composite_norm_is_the_largest_scaled_one():
    norms = {name: NORMS[name] for name in ("sign", "column", "spectral")}
    scales = {"sign": 1.0, "column": 2.0, "spectral": 0.5}
    composite = composite_norm(norms, scales)
    gs = {name: matrices(seed=i) for i, name in enumerate(norms)}
    ws = {name: matrices(seed=10 + i) for i, name in enumerate(norms)}

    def all_of(norm, tree):
        return norm.norm(tree), norm.dual_norm(tree), norm.duality_map(tree)

    size, dual, t = jax.jit(lambda tree: all_of(composite, tree))(gs)
    each = {name: [oracle(name, g) for g in gs[name]] for name in gs}
    sizes = [scales[name] * x[0] for name, xs in each.items() for x in xs]
    duals = [x[1] / scales[name] for name, xs in each.items() for x in xs]
    np.testing.assert_allclose(size, max(sizes), rtol=1e-5)
    np.testing.assert_allclose(dual, sum(duals), rtol=1e-5)

    inner = lambda x, y: sum(
        jax.tree.leaves(jax.tree.map(lambda a, b: jnp.sum(a * b), x, y))
    )
    np.testing.assert_allclose(inner(gs, t), dual, rtol=1e-5)
    np.testing.assert_allclose(composite.norm(t), 1, rtol=1e-5)
    assert inner(gs, ws) <= composite.norm(ws) * dual
    plain = composite_norm(norms)
    np.testing.assert_allclose(
        plain.norm(gs), max(x[0] for xs in each.values() for x in xs), rtol=1e-5
    )


def test_a_norm_of_your_own():
    half = Norm(
        lambda w: 2 * jnp.abs(w).max((-2, -1)),
        lambda g: jnp.abs(g).sum((-2, -1)) / 2,
        lambda g: jnp.sign(g) / 2,
    )
    (t,) = half.duality_maps([jnp.array([[3.0, -1.0]])])
    np.testing.assert_array_equal(t, [[0.5, -0.5]])


@pytest.mark.usefixtures("unchecked")
def test_bad_input():
    with pytest.raises(ValueError, match=r"`matrix` must have shape \(..., m, n\)"):
        sign_norm().norm(jnp.ones(3))
    with pytest.raises(TypeError, match="`matrix` must have a real floating-point dtype"):
        spectral_norm().duality_map(jnp.ones((2, 2), jnp.int32))
    with pytest.raises(
        ValueError, match="`shapes` must be an integer, at least 1; got 0"
    ):
        spectral_norm(shapes=0)
