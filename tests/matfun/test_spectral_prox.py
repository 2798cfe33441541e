"""Proximal operators, against formulas of NumPy and SciPy for the eigenvalues."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.optimize
import scipy.special

from jaxla.matfun._perspective_cones import INVERSE, LOG
from jaxla.matfun._spectral_prox import _entropy_root

from .spectral_table import CASES, jitted, matrix, recomposed


def shrink(w, s):
    return np.sign(w) * np.maximum(np.abs(w) - s, 0)


def cubic_root(x, s):
    roots = np.roots([1, -x, 0, -s])
    return roots[np.abs(roots.imag) < 1e-9].real.max()


def by_hull(rows, w, s):
    """`w` minus the nearest point of `s` times the convex hull of `rows`."""
    heavy = 1e3
    a = np.vstack([rows.T, heavy * np.ones((1, len(rows)))])
    b = np.append(w, heavy * s)
    weights = scipy.optimize.lsq_linear(a, b, (0, np.inf), "bvls", tol=1e-15).x
    return w - rows.T @ weights


def two_largest(w, s):
    chosen = itertools.combinations(range(4), 2)
    return by_hull(np.array([[i in c for i in range(4)] for c in chosen]) * 1.0, w, s)


ORACLES = {
    "prox_nuclear": shrink,
    "prox_spectral_norm": lambda w, s: by_hull(np.vstack([np.eye(4), -np.eye(4)]), w, s),
    "prox_sum_of_largest": two_largest,
    "prox_neg_log_det": lambda w, s: (w + np.sqrt(w**2 + 4 * s)) / 2,
    "prox_trace_inverse": lambda w, s: np.array([cubic_root(x, s) for x in w]),
    "prox_entropy": lambda w, s: s * scipy.special.wrightomega((w - s) / s - np.log(s)),
}
SPECTRA = [[3.0, 1.6, 0.8, -1.1], [2.0, 2.0, 0.4, 0.4], [0.0] * 4, [-2.0, -2.0, 1.0, 5.0]]


@pytest.mark.parametrize("name", ORACLES)
def test_matches_the_formula(getkey, dtype, name):
    key, case = getkey(), CASES[name]
    eps = float(jnp.finfo(dtype).eps)
    for spectrum, step in itertools.product(SPECTRA, (0.3, 1.0, 5.0)):
        w = np.array(spectrum) if case.symmetric else np.abs(spectrum)
        actual = jitted(name)(matrix(key, case, w).astype(dtype), dtype.type(step))[0]
        desired = ORACLES[name](w, step)
        # The oracles by least squares weight a condition, 1e3 to 1.
        hull = 1e-5 if name in ("prox_spectral_norm", "prox_sum_of_largest") else 0
        wanted = recomposed(key, case, desired)
        np.testing.assert_allclose(actual, wanted, atol=100 * eps + hull)


@pytest.mark.parametrize("step", [0.0, -1.0])
def test_without_a_step_it_is_the_projection_onto_the_domain(getkey, step):
    for name, case in CASES.items():
        if not name.startswith("prox"):
            continue
        x = matrix(getkey(), case, [3.0, 1.0, -1.0, -2.0]).astype("float32")
        domain = name in ("prox_neg_log_det", "prox_trace_inverse", "prox_entropy")
        desired = jitted("project_psd")(x)[0] if domain else x
        np.testing.assert_allclose(jitted(name)(x, step)[0], desired, atol=3e-6)


@pytest.mark.parametrize("barrier", [LOG, INVERSE])
def test_scalar_equations_over_all_scales(dtype, barrier):
    """No cancellation for negative entries, and no overflow."""
    top = 18 if dtype == np.float32 else 100
    sizes = 10.0 ** np.arange(-top, top + 1, 2)
    y = np.concatenate([-sizes, [0], sizes])[:, None].astype(dtype)
    mu = (10.0 ** np.arange(-14, 15, 2)).astype(dtype)
    xi = barrier.prox(jnp.asarray(y), jnp.asarray(mu))
    eps = float(jnp.finfo(dtype).eps)
    y, mu, xi = (np.asarray(a, "longdouble") for a in (y, mu, xi))
    term = mu / xi if barrier is LOG else mu / xi**2
    assert (np.abs(xi - y - term) <= 8 * eps * (xi + np.abs(y) + term)).all()


def test_entropy_over_all_scales(dtype):
    sizes = 10.0 ** np.arange(-4, 7)
    w = np.concatenate([-sizes[:6], [0], sizes]).astype(dtype)[:, None]
    step = np.array([1e-3, 0.1, 1, 10, 1e3], dtype)
    y, log_y = _entropy_root(jnp.asarray(w), jnp.asarray(step))
    y, log_y, w, step = (np.asarray(a, "float64") for a in (y, log_y, w, step))
    size = y + np.abs(w) + step * (1 + np.abs(log_y))
    residual = np.abs(y + step * (log_y + 1) - w)
    assert (residual <= 16 * float(jnp.finfo(dtype).eps) * size).all()


def test_entropy_of_large_values_is_right_to_the_last_digit():
    """`y + s (log y + 1) = w` for w far above s, where y is close to w."""
    w = np.geomspace(10, 1e6, 50).astype("float32")
    y, _ = jax.jit(_entropy_root)(w, np.float32(0.7))
    exact = w.astype("float64")
    for _ in range(50):  # of Newton's method
        exact = exact - (exact + 0.7 * (np.log(exact) + 1) - w) / (1 + 0.7 / exact)
    np.testing.assert_allclose(y, exact, rtol=3e-7)


def test_gradients_at_zero_are_finite():
    """Where nothing says what to scale by."""
    for name in ("prox_neg_log_det", "prox_trace_inverse"):
        fn = lambda x, step, name=name: jnp.sum(CASES[name].call(x, step)[0])
        x = jnp.zeros((4, 4), jnp.float32)
        for gradient in jax.jit(jax.grad(fn, (0, 1)))(x, jnp.float32(0)):
            assert jnp.isfinite(gradient).all()
