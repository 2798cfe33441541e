import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.linalg

from jaxla.matfun import signm
from tests.helpers import assert_close, assert_lowers_for_accelerators


sign_of = jax.jit(signm)
SIGNS = np.array([1.0, 1, -1, 1, -1])


def similar(seed, eigenvalues):
    """A matrix that is not symmetric, with these eigenvalues, and what turns it."""
    size = len(eigenvalues)
    basis = np.eye(size) + 0.3 * np.random.default_rng(seed).standard_normal((size, size))
    return (basis * eigenvalues) @ np.linalg.inv(basis), basis


@pytest.mark.parametrize("condition", [1, 30, 1e6])
def test_is_the_sign_of_the_eigenvalues(dtype, condition):
    sizes = np.geomspace(1 / condition, 1, 5)
    matrix, basis = similar(0, SIGNS * sizes)
    value, residual = sign_of(jnp.asarray(matrix, dtype))
    assert value.dtype == residual.dtype == dtype
    desired = (basis * SIGNS) @ np.linalg.inv(basis)
    assert_close(value, desired, amplification=30 * condition)
    if condition < 1e6:
        np.testing.assert_allclose(desired, scipy.linalg.signm(matrix), atol=1e-7)
    assert residual < 1e3 * jnp.finfo(dtype).eps


def test_complex_eigenvalues(dtype):
    turn = np.array([[1.0, -5], [5, 1]])  # 1 +- 5i: 11 degrees from the imaginary axis
    matrix = scipy.linalg.block_diag(turn, -2 * turn) + np.eye(4, k=2)
    value, residual = sign_of(jnp.asarray(matrix, dtype))
    assert_close(value, scipy.linalg.signm(matrix), amplification=50)
    assert residual < 50 * jnp.finfo(dtype).eps


@pytest.mark.usefixtures("x64")
def test_derivatives_of_first_and_second_order():
    rng = np.random.default_rng(0)
    direction, weights = rng.standard_normal((2, 4, 4))
    along = lambda t, a: (signm(a + t * direction).value * weights).sum()
    first = jax.jit(jax.grad(along))
    second = jax.jit(jax.jacfwd(jax.grad(along)))
    forward = jax.jit(lambda a: jax.jvp(lambda t: along(t, a), (0.0,), (1.0,))[1])
    for values in ([1, 2, -1, 0.5], [1, 1, -1, -1.0], [1, 1, 3, -2]):
        matrix, _ = similar(1, values)
        # N L + L N = E - S E S with N = A S (Higham, Theorem 5.3).
        s = scipy.linalg.signm(matrix)
        rest = direction - s @ direction @ s
        derivative = scipy.linalg.solve_sylvester(matrix @ s, matrix @ s, rest)
        desired = (derivative * weights).sum()
        np.testing.assert_allclose(first(0.0, matrix), desired, rtol=1e-8, atol=1e-8)
        np.testing.assert_allclose(forward(matrix), desired, rtol=1e-8, atol=1e-8)
        h = 1e-5
        difference = (first(h, matrix) - first(-h, matrix)) / (2 * h)
        np.testing.assert_allclose(second(0.0, matrix), difference, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("scale", [1e-30, 1e-12, 1e12, 1e30])
def test_scale_invariance(dtype, scale):
    matrix, _ = similar(2, [1.0, 2, -1])
    plain = np.asarray(sign_of(jnp.asarray(matrix, dtype)).value, "float64")
    scaled = sign_of(jnp.asarray(scale * matrix, dtype)).value
    assert_close(scaled, plain, amplification=30)


def test_batches_agree_with_single_matrices():
    matrices = np.stack([similar(k, [1.0, 10.0**k, -1])[0] for k in range(3)])
    matrices = jnp.asarray(matrices, jnp.float32)
    native, mapped = sign_of(matrices), jax.jit(jax.vmap(signm))(matrices)
    for k, matrix in enumerate(matrices):
        single = sign_of(matrix).value
        assert_close(native.value[k], single, amplification=1e3)
        assert_close(mapped.value[k], single, amplification=1e3)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_bad_matrix_is_flagged_and_touches_no_other(bad):
    clean = jnp.asarray(np.stack([similar(0, [1.0, 2, -1])[0]] * 3), jnp.float32)
    desired, out = sign_of(clean), sign_of(clean.at[1, 0, 2].set(bad))
    assert (out.value[1] == 0).all()
    assert out.residual[1] == jnp.inf
    assert (out.value[::2] == desired.value[::2]).all()


def test_matrices_without_a_sign_are_flagged(dtype):
    for matrix in ([[0.0, -1], [1, 0]], [[0, 0], [0, 0]], [[1, 0], [0, 0]]):
        assert sign_of(jnp.array(matrix, dtype)).residual > 1e-2


def test_small_and_empty(dtype):
    assert_close(sign_of(jnp.full((1, 1), -9.0, dtype)).value, np.full((1, 1), -1))
    for shape in [(0, 0), (0, 3, 3), (2, 0, 0)]:
        value, residual = sign_of(jnp.ones(shape, dtype))
        assert value.shape == shape
        assert residual.shape == shape[:-2]


@pytest.mark.usefixtures("strict")
@pytest.mark.parametrize("half", [jnp.bfloat16, jnp.float32])
def test_half_precision_and_strict_promotion(half):
    loss = lambda a: signm(a).value.sum()
    assert jax.jit(jax.grad(loss))(2 * jnp.eye(3, dtype=half)).dtype == half


def test_lowers_for_accelerators():
    matrix = jnp.ones((2, 3, 3), jnp.float32)
    assert_lowers_for_accelerators(lambda a: signm(a).value, matrix)


@pytest.mark.usefixtures("unchecked")
def test_messages():
    message = "`matrix` must have shape (..., n, n); got (2, 3)."
    with pytest.raises(ValueError, match=re.escape(message)):
        signm(jnp.ones((2, 3)))
    with pytest.raises(ValueError, match="`steps` must be an integer, at least 1"):
        signm(jnp.eye(2), steps=0)
