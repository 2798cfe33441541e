"""Projections onto the cones of the log-determinant and of the trace of the inverse."""

import jax.numpy as jnp
import numpy as np
import pytest

from .spectral_table import CASES, jitted, matrix


NAMES = ["project_log_det_cone", "project_trace_inverse_cone"]
SPECTRA = [[3.0, 1.6, 0.8, -1.1], [2.0, 2.0, 0.4, 0.4], [-1.0, -1.0, -2.0, 0.0]]
SCALARS = [(-0.3, 0.5), (0.4, 0.8), (1.0, -1.0), (-2.0, -0.5), (-2.0, 1.0)]


def function(name, x):
    if name == "project_log_det_cone":
        return -np.linalg.slogdet(x)[1]
    return np.trace(np.linalg.inv(x))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("spectrum", SPECTRA)
def test_feasible_and_complementary(getkey, dtype, name, spectrum):
    eps = float(jnp.finfo(dtype).eps)
    x = matrix(getkey(), CASES[name], spectrum)
    for scalars in SCALARS:
        out = jitted(name)(x.astype(dtype), *map(dtype.type, scalars))
        assert out[2].dtype == dtype
        t, v, new = (np.asarray(a, "float64") for a in out)
        w = np.linalg.eigvalsh(new)
        assert v >= 0
        assert w.min() >= -30 * eps
        if v > 1e-3 and w.min() > 1e-3:
            # The derivative of the function is that of 1 / w.
            assert v * function(name, new / v) <= t + 300 * eps / w.min()
        product = (scalars[0] - t) * t + (scalars[1] - v) * v + np.sum((x - new) * new)
        assert abs(product) <= 300 * eps


@pytest.mark.parametrize("name", NAMES)
def test_equations_of_the_nearest_point(getkey, name):
    """With the gradient of the perspective in matrices: an oracle without eigenvalues."""
    x = matrix(getkey(), CASES[name], [1.5, 0.7, 0.7, -0.4])
    out = jitted(name)(x.astype("float32"), np.float32(-0.3), np.float32(1.5))
    t, v, new = (np.asarray(a, "float64") for a in out)
    multiplier, inverse = t + 0.3, np.linalg.inv(new)
    assert multiplier > 0.01
    gradient = -v * inverse if "log" in name else -(v**2) * inverse @ inverse
    np.testing.assert_allclose(new + multiplier * gradient, x, atol=2e-5)
    if "log" in name:
        slope = 4 - np.linalg.slogdet(new / v)[1]
    else:
        slope = 2 * v * np.trace(inverse)
    np.testing.assert_allclose(v + multiplier * slope, 1.5, atol=2e-5)
    np.testing.assert_allclose(v * function(name, new / v), t, atol=2e-5)


def test_a_symmetric_part_is_taken(getkey):
    x = matrix(getkey(), CASES[NAMES[0]], SPECTRA[0]).astype("float32")
    skew = np.triu(np.ones((4, 4), "float32"), 1)
    for name in NAMES:
        plain, other = (jitted(name)(a, -0.3, 0.5) for a in (x, x + skew - skew.T))
        np.testing.assert_allclose(plain[2], other[2], atol=1e-5)
