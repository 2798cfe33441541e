"""The vectors behind the spectral projections, at sizes and in orders of their own."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxla.matfun._vector_cones import (
    l1_ball,
    l1_epigraph,
    max_epigraph,
    sum_of_largest_epigraph,
    sum_of_largest_prox,
)


N = 200


def points(seed: int, count: int = 8) -> np.ndarray:
    """Unordered, some with ties, of different sizes."""
    rng = np.random.default_rng(seed)
    w = rng.standard_normal((count, N)) * np.geomspace(0.1, 10, count)[:, None]
    w[::2] = np.round(4 * w[::2]) / 4
    return w


def sum_of_largest(w, k):
    return np.sort(w, -1)[..., -k:].sum(-1)


MAPS = {
    "l1": (l1_epigraph(), lambda w: np.abs(w).sum(-1), N),
    "max": (max_epigraph(), lambda w: np.abs(w).max(-1), 1),
    "largest": (sum_of_largest_epigraph(1), lambda w: w.max(-1), 1),
    "7 largest": (sum_of_largest_epigraph(7), lambda w: sum_of_largest(w, 7), 7),
    "all": (sum_of_largest_epigraph(N), lambda w: w.sum(-1), N),
}


@pytest.mark.parametrize("name", MAPS)
def test_epigraphs_of_long_vectors(dtype, name):
    """Feasible, and complementary: the residual supports the cone at the point."""
    vector_map, f, most = MAPS[name]
    w = points(0)
    project = jax.jit(lambda t, w: vector_map((t,), w)[:2])
    eps = 100 * float(jnp.finfo(dtype).eps)
    for share in (-2.0, -0.1, 0.3, 0.9, 1.0, 1.2):
        t = share * f(w)
        (new_t,), new_w = project(t.astype(dtype), w.astype(dtype))
        new_t, new_w = np.asarray(new_t, "float64"), np.asarray(new_w, "float64")
        size = np.sqrt(t**2 + np.sum(w**2, -1))
        assert (f(new_w) <= new_t + eps * size * most).all()
        dt, dw = t - new_t, w - new_w
        product = dt * new_t + np.sum(dw * new_w, -1)
        assert (np.abs(product) <= eps * size**2).all()
        # The residual is -dt times a convex combination of the gradients of f.
        assert (dt <= eps * size).all()
        largest = np.abs(dw).max(-1)
        if name == "max":
            assert (np.abs(dw).sum(-1) <= -dt + eps * size * N).all()
        else:
            assert (largest <= -dt + eps * size).all()
        if name in ("largest", "7 largest", "all"):
            assert (dw >= -eps * size[:, None]).all()
            np.testing.assert_allclose(dw.sum(-1), -most * dt, atol=eps * size.max() * N)
        if share >= 1.2 and (f(w) > 0).all():
            assert (new_w == w.astype(dtype)).all()


@pytest.mark.usefixtures("x64")
def test_permuting_the_entries_permutes_the_result():
    w, order = points(1), np.random.default_rng(2).permutation(N)
    t = 0.4 * np.abs(w).sum(-1)
    for vector_map in (l1_ball(), l1_epigraph(), sum_of_largest_prox(5)):
        project = jax.jit(lambda t, w, vector_map=vector_map: vector_map((t,), w)[1])
        np.testing.assert_allclose(
            project(t, w[:, order]), project(t, w)[:, order], rtol=1e-12, atol=1e-12
        )


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("k", [1, 3, 4])
def test_ties_that_just_leave_the_cone(k):
    """A floor that differs from the entries by less than their rounding."""
    w = np.array([[1, 1, 1, 1 + 2.0**-52]])
    vector_map = sum_of_largest_epigraph(k)
    project = jax.jit(lambda t, w: jax.jvp(lambda t: vector_map((t,), w)[:2], (t,), (t,)))
    for excess in (1e-15, 1e-12, 1e-6, 1e-2):
        given = np.array([k - excess])
        ((t,), new), ((dt,), _) = project(given, w)
        np.testing.assert_allclose(dt, given * (1 - 1 / (1 + k * k / 4)), rtol=1e-12)
        # theta (1 + k^2 / 4) = excess.
        theta = excess / (1 + k * k / 4)
        np.testing.assert_allclose(t, k - excess + theta, rtol=1e-15)
        np.testing.assert_allclose(new, 1 - k * theta / 4, rtol=2e-15)
