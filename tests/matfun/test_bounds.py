import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

from jaxla.matfun import eigenvalue_bound
from tests.helpers import assert_close, psd_with_spectrum, random_psd


bound_of = jax.jit(eigenvalue_bound)
SPECTRA = [
    np.geomspace(1e-6, 1, 8),
    np.ones(8),
    np.array([0, 0, 0, 0, 0, 0, 0, 1.0]),
    np.linspace(-2, 1, 8),  # not definite
]


@pytest.mark.parametrize("values", SPECTRA)
def test_is_the_eighth_power_mean_of_the_spectrum(getkey, dtype, values):
    matrix = psd_with_spectrum(getkey(), values)
    bound = bound_of(jnp.asarray(matrix, dtype))
    assert bound.dtype == dtype
    assert_close(bound, np.sum(values**8) ** (1 / 8), amplification=20)


def test_is_an_upper_bound_within_the_promised_factor(getkey, dtype):
    for values in SPECTRA:
        matrices = [psd_with_spectrum(getkey(), values) for _ in range(20)]
        bounds = np.asarray(bound_of(jnp.array(matrices, dtype)), "float64")
        largest = np.abs(np.linalg.eigvalsh(np.array(matrices, dtype))).max(-1)
        assert (bounds >= largest).all()
        assert (bounds <= 1.001 * 8 ** (1 / 8) * np.abs(values).max()).all()


@pytest.mark.parametrize("scale", [1e-30, 1e-12, 1e12, 1e30])
def test_scale_equivariance(getkey, dtype, scale):
    matrix = psd_with_spectrum(getkey(), SPECTRA[0])
    bound = float(bound_of(jnp.asarray(matrix, dtype)))
    scaled = bound_of(jnp.asarray(scale * matrix, dtype))
    assert_close(scaled, np.asarray(scale * bound), amplification=20)


def test_bounds_what_is_near_the_largest_number():
    assert bound_of(jnp.diag(jnp.array([1e38, 1e38], jnp.float32))) >= 1e38


def test_rotation_equivariance(getkey, dtype):
    matrix = psd_with_spectrum(getkey(), SPECTRA[3])
    q, _ = np.linalg.qr(random_psd(getkey(), 8, 8))
    turned = bound_of(jnp.asarray(q @ matrix @ q.T, dtype))
    assert_close(turned, bound_of(jnp.asarray(matrix, dtype)), amplification=20)


def test_jit_vmap_and_loop_agree(getkey):
    matrices = [psd_with_spectrum(getkey(), np.linspace(-1, 2, 4)) for _ in range(6)]
    matrices = jnp.array(matrices, jnp.float32).reshape(2, 3, 4, 4)
    native = eigenvalue_bound(matrices)
    loop = jnp.array([[bound_of(a) for a in row] for row in matrices])
    mapped = jax.vmap(jax.vmap(bound_of))(matrices)
    for other in (bound_of(matrices), mapped, loop):
        np.testing.assert_allclose(other, native, rtol=1e-6)


@pytest.mark.parametrize("half", [jnp.bfloat16, jnp.float16])
def test_half_precision_is_computed_in_float32(half):
    bound = bound_of(jnp.diag(jnp.array([3, 4], half)))
    assert bound.dtype == jnp.float32
    np.testing.assert_allclose(bound, (3.0**8 + 4.0**8) ** (1 / 8), rtol=1e-5)


@pytest.mark.usefixtures("strict")
def test_promotes_nothing_silently():
    for dtype in (jnp.float32, jnp.bfloat16):
        jax.jit(jax.grad(eigenvalue_bound))(jnp.eye(3, dtype=dtype))
        bound_of(jnp.ones((2, 3, 3), dtype))


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_bad_matrix_shows_and_touches_no_other(getkey, bad):
    clean = jnp.array([psd_with_spectrum(getkey(), [0.1, 1, 2])] * 3, jnp.float32)
    desired = bound_of(clean)
    for where in [(1, 0, 0), (1, 0, 2)]:
        out = bound_of(clean.at[where].set(bad))
        assert not jnp.isfinite(out[1])
        assert (out[::2] == desired[::2]).all()


def test_zero_small_and_empty(dtype):
    assert bound_of(jnp.zeros((3, 3), dtype)) == 0
    assert bound_of(jnp.zeros((0, 0), dtype)) == 0
    assert bound_of(jnp.zeros((0, 3, 3), dtype)).shape == (0,)
    assert_close(bound_of(jnp.full((1, 1), -5, dtype)), np.float64(5), amplification=20)


@pytest.mark.usefixtures("x64")
def test_derivatives(getkey):
    """In both modes, at generic points and at repeated eigenvalues."""
    generic = psd_with_spectrum(getkey(), [-0.5, 0.8, 1.5, 2])
    for matrix in (generic, np.eye(4), np.diag([1.0, 1, 2, 3])):
        check_grads(bound_of, (matrix,), order=1, rtol=1e-6, atol=1e-6)
        # Differences of derivatives have fewer digits.
        check_grads(bound_of, (matrix,), order=2, rtol=1e-3, atol=1e-3)


def test_gradient_at_zero_is_zero():
    assert (jax.grad(lambda a: bound_of(a).sum())(jnp.zeros((2, 3, 3))) == 0).all()


@pytest.mark.usefixtures("unchecked")
def test_messages():
    for shape in [(3,), (2, 3), (4, 2, 3)]:
        message = f"`matrix` must have shape (..., n, n); got {shape}."
        with pytest.raises(ValueError, match=re.escape(message)):
            eigenvalue_bound(jnp.ones(shape))
    message = "`matrix` must have a real floating-point dtype; got complex64."
    with pytest.raises(TypeError, match=re.escape(message)):
        eigenvalue_bound(jnp.ones((2, 2), "complex64"))
