"""Projections onto balls and epigraphs, against least squares with signs."""

import itertools

import hypothesis
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.optimize

from jaxla import matfun
from tests.helpers import assert_close

from .spectral_table import CASES, jitted, matrix, recomposed


N = 4

# All four functions are the largest of the products of w with these rows.
ROWS = {
    "project_nuclear_epigraph": np.array(list(itertools.product([-1, 1], repeat=N))),
    "project_spectral_epigraph": np.vstack([np.eye(N), -np.eye(N)]),
    "project_sum_of_largest_epigraph": np.array([
        [i in chosen for i in range(N)] for chosen in itertools.combinations(range(N), 2)
    ]).astype(float),
}  # fmt: skip

POINTS = [
    (0.5, [3.0, 1.6, 0.8, -1.1]),
    (-0.5, [3.0, 1.6, 0.8, -1.1]),
    (-4.0, [3.0, 1.0, -1.0, -2.0]),
    (1.0, [2.0, 2.0, 2.0, 0.5]),
    (0.1, [1.0, 1.0, 1.0, 1.0]),
    (9.0, [3.0, 1.0, 0.0, 0.0]),
    (4.0, [3.0, 1.0, 0.0, 0.0]),
    (-1.0, [0.0, 0.0, 0.0, 0.0]),
    (0.0, [0.0, -1.0, -1.0, -2.0]),
    (0.3, [1e-4, 1e-5, 0.0, 2.0]),
]


def nearest(rows, t, w):
    """The nearest point with `rows @ w <= t`: by Moreau's theorem, exactly."""
    normals = np.hstack([-np.ones((len(rows), 1)), rows]).T
    z = np.array([t, *w])
    weights = scipy.optimize.lsq_linear(normals, z, (0, np.inf), "bvls", tol=1e-15).x
    return z - normals @ weights


@pytest.mark.parametrize("name", ROWS)
@pytest.mark.parametrize(("t", "w"), POINTS)
def test_epigraphs(getkey, dtype, name, t, w):
    case, key = CASES[name], getkey()
    w = np.array(w) if case.symmetric else np.abs(w)
    desired = nearest(ROWS[name], t, w)
    x = matrix(key, case, w).astype(dtype)
    new_t, new_x = (np.asarray(a, "float64") for a in jitted(name)(x, dtype.type(t)))
    wanted = recomposed(key, case, desired[1:])
    size, eps = np.hypot(t, np.linalg.norm(w)), float(jnp.finfo(dtype).eps)
    np.testing.assert_allclose(new_t, desired[0], atol=20 * eps * size)
    np.testing.assert_allclose(new_x, wanted, atol=20 * eps * size)


def test_wide_matrices_are_transposed_tall_ones(getkey):
    x = matrix(getkey(), CASES["prox_nuclear"], [3.0, 2.0, 2.0, 0.1]).astype("float32")
    for name in ("project_nuclear_ball", "project_spectral_epigraph"):
        tall, wide = (jitted(name)(a, 1.0)[-1] for a in (x, x.T))
        assert_close(wide, tall.T, amplification=10)


def test_balls(getkey, dtype):
    key, case = getkey(), CASES["prox_nuclear"]
    for values, nuclear, spectral in (
        ([3.0, 2.0, 1.0, 0.0], [1.25, 0.25, 0.0, 0.0], [1.5, 1.5, 1.0, 0.0]),
        ([2.0, 2.0, 2.0, 2.0], [0.375] * 4, [1.5] * 4),
        ([0.5, 0.4, 0.3, 0.2], [0.5, 0.4, 0.3, 0.2], [0.5, 0.4, 0.3, 0.2]),
    ):
        x = matrix(key, case, values).astype(dtype)
        out = jitted("project_nuclear_ball")(x, 1.5)[0]
        desired = recomposed(key, case, nuclear)
        # {3, 2} lose (5 - 1.5) / 2.
        assert_close(out, desired, amplification=20)
        out = jitted("project_spectral_ball")(x, 1.5)[0]
        assert_close(out, recomposed(key, case, spectral), amplification=20)
        for name in ("project_nuclear_ball", "project_spectral_ball"):
            for radius in (0.0, -1.0):
                assert (jitted(name)(x, radius)[0] == 0).all()


def test_psd(getkey, dtype):
    key, case = getkey(), CASES["project_psd"]
    for values in ([3.0, 1, -1, -2], [2.0, 2, -1, -1], [-1.0] * 4, [1.0] * 4):
        x = matrix(key, case, values).astype(dtype)
        skew = np.triu(np.ones((4, 4)), 1).astype(dtype)
        out = jitted("project_psd")(x + skew - skew.T)[0]
        desired = recomposed(key, case, np.maximum(values, 0))
        eps = float(jnp.finfo(dtype).eps)
        np.testing.assert_allclose(out, desired, atol=30 * eps)
        assert (out == out.T).all()


@hypothesis.settings(deadline=None, max_examples=25)
@hypothesis.given(seed=st.integers(0, 2**16), t=st.floats(-5, 5), log=st.floats(-3, 3))
def test_moreau_and_contraction(seed, t, log):
    """The two epigraphs are dual to each other; projections are idempotent, contract."""
    with jax.enable_x64(True):
        rng = np.random.default_rng(seed)
        x, y = 10**log * rng.standard_normal((2, 6, 4))
        other = t + rng.standard_normal()
        nuclear, spectral = (
            jitted(f"project_{norm}_epigraph") for norm in ("nuclear", "spectral")
        )
        (t1, x1), (t2, x2) = nuclear(x, t), spectral(-x, -t)
        np.testing.assert_allclose(x1 - x2, x, atol=1e-12 * 10 ** abs(log))
        np.testing.assert_allclose(t1 - t2, t, atol=1e-12 * 10 ** abs(log))
        again = nuclear(x1, t1)
        np.testing.assert_allclose(again[1], x1, atol=1e-12 * 10 ** abs(log))
        t3, x3 = nuclear(y, other)
        moved = np.hypot(t3 - t1, np.linalg.norm(x3 - x1))
        assert moved <= np.hypot(other - t, np.linalg.norm(y - x)) * (1 + 1e-10)


@pytest.mark.usefixtures("x64")
def test_derivative_of_psd_at_zero_is_that_from_below():
    x, e = np.zeros((3, 3)), np.diag([1.0, -1, 2])
    assert (jax.jvp(matfun.project_psd, (x,), (e,))[1] == 0).all()
