import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.linalg

from jaxla.matfun import logm
from tests.helpers import assert_close, assert_lowers_for_accelerators, psd_with_spectrum


log_of = jax.jit(logm)


def general(seed, size=5):
    """A matrix that is not symmetric, with a logarithm of norm about 2."""
    generator = np.random.default_rng(seed)
    return scipy.linalg.expm(0.8 * generator.standard_normal((size, size)))


@pytest.mark.parametrize("seed", range(3))
def test_matches_scipy(dtype, seed):
    matrix = general(seed)
    value, residual = log_of(jnp.asarray(matrix, dtype))
    assert value.dtype == residual.dtype == dtype
    assert_close(value, scipy.linalg.logm(matrix), amplification=200)
    assert residual < 2e2 * jnp.finfo(dtype).eps


def test_known_logarithms(dtype):
    angle = 3.0  # near pi, where the eigenvalues are near the negative axis
    turn = np.array([[0.0, -1], [1, 0]])
    rotation = np.cos(angle) * np.eye(2) + np.sin(angle) * turn
    assert_close(
        log_of(jnp.asarray(rotation, dtype)).value, angle * turn, amplification=50
    )
    jordan = np.eye(3) + np.diag([1.0, 1], 1)
    desired = np.diag([1.0, 1], 1) + np.diag([-0.5], 2)
    assert_close(log_of(jnp.asarray(jordan, dtype)).value, desired, amplification=50)
    assert (log_of(jnp.eye(3, dtype=dtype)).value == 0).all()
    graded = np.diag([1e-6, 1, 1e6])
    desired = np.diag(np.log(np.diag(graded)))
    assert_close(log_of(jnp.asarray(graded, dtype)).value, desired, amplification=50)


def test_near_the_identity_no_digit_is_lost(dtype):
    """One root too many would double the relative error."""
    small = 1e-3 * np.array([[1.0, 2], [3, -1]])
    matrix = np.asarray(jnp.asarray(np.eye(2) + small, dtype), "float64")
    z = matrix - np.eye(2)
    series = sum(np.linalg.matrix_power(-z, k) / -k for k in range(1, 12))
    assert_close(log_of(jnp.asarray(matrix, dtype)).value, series, amplification=3)


@pytest.mark.usefixtures("x64")
def test_derivatives_of_first_and_second_order():
    rng = np.random.default_rng(0)
    direction, weights = rng.standard_normal((2, 3, 3))
    along = lambda t, a: (logm(a + t * direction).value * weights).sum()
    first = jax.jit(jax.grad(along))
    second = jax.jit(jax.jacfwd(jax.grad(along)))
    forward = jax.jit(lambda a: jax.jvp(lambda t: along(t, a), (0.0,), (1.0,))[1])
    points = [general(1, 3), np.eye(3), np.diag([1.0, 1, 2]), np.eye(3) + np.eye(3, k=1)]
    for matrix in points:
        # The block triangular formula (Higham, Section 3.2) is independent of it.
        block = np.block([[matrix, direction], [np.zeros((3, 3)), matrix]])
        desired = (scipy.linalg.logm(block).real[:3, 3:] * weights).sum()
        np.testing.assert_allclose(first(0.0, matrix), desired, rtol=1e-7, atol=1e-7)
        np.testing.assert_allclose(forward(matrix), desired, rtol=1e-7, atol=1e-7)
        h = 1e-5
        difference = (first(h, matrix) - first(-h, matrix)) / (2 * h)
        np.testing.assert_allclose(second(0.0, matrix), difference, rtol=1e-5, atol=1e-5)


def test_batches_agree_with_single_matrices():
    """Though each takes another number of square roots."""
    matrices = np.stack([general(0, 3), np.eye(3), 1e9 * general(1, 3), 1.1 * np.eye(3)])
    matrices = jnp.asarray(matrices, jnp.float32)
    native = log_of(matrices)
    mapped = jax.jit(jax.vmap(logm))(matrices)
    for k, matrix in enumerate(matrices):
        single = log_of(matrix).value
        assert_close(native.value[k], single, amplification=50)
        assert_close(mapped.value[k], single, amplification=50)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_bad_matrix_is_flagged_and_touches_no_other(bad):
    clean = jnp.broadcast_to(jnp.asarray(general(0, 3), jnp.float32), (3, 3, 3))
    desired, out = log_of(clean), log_of(clean.at[1, 0, 2].set(bad))
    assert (out.value[1] == 0).all()
    assert out.residual[1] == jnp.inf
    assert (out.value[::2] == desired.value[::2]).all()


def test_matrices_without_a_logarithm_are_flagged(dtype):
    for diagonal in ([1.0, -1], [1, 0], [-2, -2]):
        assert log_of(jnp.diag(jnp.array(diagonal, dtype))).residual > 0.1
    value, residual = log_of(jnp.zeros((2, 2), dtype))
    assert (value == 0).all()
    assert residual > 0.1


def test_small_and_empty(dtype):
    assert_close(log_of(jnp.full((1, 1), 9.0, dtype)).value, np.full((1, 1), np.log(9)))
    for shape in [(0, 0), (0, 3, 3), (2, 0, 0)]:
        value, residual = log_of(jnp.ones(shape, dtype))
        assert value.shape == shape
        assert residual.shape == shape[:-2]


@pytest.mark.usefixtures("strict")
@pytest.mark.parametrize("half", [jnp.bfloat16, jnp.float32])
def test_half_precision_and_strict_promotion(half):
    loss = lambda a: logm(a).value.sum()
    assert jax.jit(jax.grad(loss))(2 * jnp.eye(3, dtype=half)).dtype == half


def test_of_a_symmetric_matrix_it_is_that_of_the_eigenvalues(getkey, dtype):
    matrix = psd_with_spectrum(getkey(), [0.1, 1, 1, 5])
    values, vectors = np.linalg.eigh(matrix)
    desired = (vectors * np.log(values)) @ vectors.T
    assert_close(log_of(jnp.asarray(matrix, dtype)).value, desired, amplification=100)


def test_lowers_for_accelerators():
    matrix = jnp.ones((2, 3, 3), jnp.float32)
    assert_lowers_for_accelerators(lambda a: logm(a).value, matrix)


@pytest.mark.usefixtures("unchecked")
def test_messages():
    message = "`matrix` must have shape (..., n, n); got (2, 3)."
    with pytest.raises(ValueError, match=re.escape(message)):
        logm(jnp.ones((2, 3)))
    with pytest.raises(ValueError, match="`roots` must be an integer, at least 1"):
        logm(jnp.eye(2), roots=0)
