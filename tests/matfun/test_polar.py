import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.linalg

from jaxla.matfun import polar
from tests.helpers import (
    assert_close,
    assert_lowers_for_accelerators,
    random_psd,
    with_singular_values,
)

from ._derivatives import check_two_orders


SHAPES = [(6, 4), (4, 6), (5, 5)]
polar_of = jax.jit(polar)
unitary_of = jax.jit(lambda a: polar(a).unitary)
hermitian_of = jax.jit(lambda a: polar(a).hermitian)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("smallest", [0.05, 1e-4])
def test_matches_scipy(getkey, dtype, shape, smallest):
    matrix = with_singular_values(getkey(), shape, np.geomspace(smallest, 2, min(shape)))
    u, h, residual = polar_of(jnp.asarray(matrix, dtype))
    desired_u, desired_h = scipy.linalg.polar(matrix)
    assert u.dtype == h.dtype == residual.dtype == dtype
    # The condition of U is 2 / (the sum of the two smallest singular values).
    assert_close(u, desired_u, amplification=4 / smallest)
    assert_close(h, desired_h, amplification=40)
    assert (h == h.T).all()
    assert residual < 40 * jnp.finfo(dtype).eps


@pytest.mark.parametrize("scale", [1, 0.6])
def test_every_number_of_steps_is_enough(getkey, scale):
    """However well or ill conditioned, in particular just within what a stage serves."""
    for condition in np.geomspace(1, 9e5, 60):
        for values in (
            np.geomspace(1 / condition, 1, 24),
            np.r_[1 / condition, 23 * [1]],
        ):
            matrix = scale * with_singular_values(getkey(), (24, 24), values)
            residual = polar_of(jnp.asarray(matrix, jnp.float32)).residual
            assert residual < 5e-6, condition


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("condition", [1e8, 1e12])
def test_ill_conditioned_matrices_in_float64(getkey, condition):
    matrix = with_singular_values(getkey(), (7, 5), np.geomspace(1 / condition, 1, 5))
    u, h, residual = polar_of(matrix)
    assert residual < 1e-13
    assert_close(u, scipy.linalg.polar(matrix)[0], amplification=4 * condition)
    assert_close(u @ h, matrix, amplification=40)


def test_the_hardest_of_a_batch_decides(getkey):
    easy = with_singular_values(getkey(), (5, 5), np.ones(5))
    hard = with_singular_values(getkey(), (5, 5), np.geomspace(1e-5, 1, 5))
    batch = jnp.asarray(np.stack([easy, hard]), jnp.float32)
    assert (polar_of(batch).residual < 5e-6).all()
    assert_close(polar_of(batch).unitary[0], easy, amplification=20)


@pytest.mark.parametrize("shape", SHAPES)
def test_rank_deficient_matrices_have_a_large_residual(getkey, shape):
    matrix = with_singular_values(getkey(), shape, np.array([1.0, 0.5]))
    u, h, residual = polar_of(jnp.asarray(matrix, jnp.float32))
    assert residual > 0.1
    left, _, right = np.linalg.svd(matrix, full_matrices=False)
    # On the range it is right; what rounding left in the kernel is raised a lot.
    projected = left[:, :2] @ left[:, :2].T @ np.asarray(u, "float64")
    np.testing.assert_allclose(projected, left[:, :2] @ right[:2], atol=5e-6)
    assert_close(u @ h, matrix, amplification=10)


def test_zero_small_and_empty(dtype):
    u, h, residual = polar_of(jnp.zeros((3, 2), dtype))
    assert (u == 0).all()
    assert (h == 0).all()
    assert residual == 1
    u, h, residual = polar_of(jnp.array([[[-5]], [[0]]], dtype))
    assert_close(u, np.array([[[-1]], [[0]]]), amplification=5)
    assert_close(h, np.array([[[5]], [[0]]]), amplification=5)
    for shape in [(0, 3), (3, 0), (0, 2, 2)]:
        u, h, residual = polar_of(jnp.zeros(shape, dtype))
        assert u.shape == shape
        assert h.shape == (*shape[:-2], shape[-1], shape[-1])
        assert residual.shape == shape[:-2]
        assert jnp.isfinite(residual).all()


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_bad_matrix_is_flagged_and_touches_no_other(getkey, bad, shape):
    matrix = with_singular_values(getkey(), shape, np.geomspace(0.1, 1, min(shape)))
    clean = jnp.array([matrix] * 3, jnp.float32)
    # Zero in its place, because the hardest of a batch decides on the steps.
    desired = polar_of(clean.at[1].set(0))
    out = polar_of(clean.at[1, 2, 0].set(bad))
    assert (out.unitary[1] == 0).all()
    assert out.residual[1] == jnp.inf
    for actual, expected in zip(out, desired, strict=True):
        assert (actual[::2] == expected[::2]).all()


@pytest.mark.parametrize("scale", [1e-30, 1e-12, 1e12, 1e30])
def test_scale_equivariance(getkey, dtype, scale):
    matrix = with_singular_values(getkey(), (6, 4), np.geomspace(0.1, 1, 4))
    u, h, _ = (np.asarray(x, "float64") for x in polar_of(jnp.asarray(matrix, dtype)))
    scaled_u, scaled_h, _ = polar_of(jnp.asarray(scale * matrix, dtype))
    assert_close(scaled_u, u, amplification=20)
    assert_close(scaled_h, scale * h, amplification=20)


def test_jit_vmap_and_loop_agree(getkey):
    keys = [getkey() for _ in range(6)]
    values = np.geomspace(0.1, 1, 4)
    matrices = jnp.array([with_singular_values(k, (5, 4), values) for k in keys])
    matrices = matrices.astype(jnp.float32).reshape(2, 3, 5, 4)
    native = polar(matrices)
    mapped = jax.vmap(jax.vmap(polar_of))(matrices)
    loop = jnp.array([[polar_of(a).unitary for a in row] for row in matrices])
    assert native.unitary.shape == (2, 3, 5, 4)
    assert native.hermitian.shape == (2, 3, 4, 4)
    assert native.residual.shape == (2, 3)
    for other in (polar_of(matrices).unitary, mapped.unitary, loop):
        assert_close(other, native.unitary, amplification=20)
    assert_close(mapped.hermitian, native.hermitian, amplification=20)


@pytest.mark.parametrize("half", [jnp.bfloat16, jnp.float16])
def test_half_precision_is_computed_in_float32(getkey, half):
    matrix = with_singular_values(getkey(), (5, 4), np.geomspace(0.1, 1, 4))
    matrix = jnp.asarray(matrix, half)
    actual, wide = polar_of(matrix), polar_of(matrix.astype(jnp.float32))
    assert actual.unitary.dtype == actual.hermitian.dtype == half
    assert actual.residual.dtype == jnp.float32
    for x, y in zip(actual, wide, strict=True):
        assert (x == y.astype(x.dtype)).all()


@pytest.mark.usefixtures("strict")
@pytest.mark.parametrize("half", [jnp.bfloat16, jnp.float32])
def test_promotes_nothing_silently(half):
    loss = lambda a: sum(x.sum().astype("float32") for x in polar(a))
    assert jax.jit(jax.grad(loss))(jnp.eye(3, 2, dtype=half)).dtype == half


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("shape", [(4, 3), (3, 4), (3, 3)])
def test_derivatives(getkey, shape):
    """In both modes, at generic points, repeated singular values, and orthogonal."""
    generic = with_singular_values(getkey(), shape, [0.5, 0.8, 2])
    repeated = with_singular_values(getkey(), shape, [1.0, 1, 3])
    orthogonal = with_singular_values(getkey(), shape, [1.0, 1, 1])
    for matrix in (generic, repeated, orthogonal):
        check_two_orders(unitary_of, (matrix,), getkey(), rtol=1e-5)
        check_two_orders(hermitian_of, (matrix,), getkey(), rtol=1e-5)


@pytest.mark.usefixtures("x64")
def test_derivative_is_that_of_the_polar_factor(getkey):
    """$dU = U W$ with the skew $W$ of $H W + W H = U^T E - E^T U$, Higham (8.10)."""
    matrix = with_singular_values(getkey(), (4, 4), [0.5, 0.5, 1, 2])
    direction = random_psd(getkey(), 4, 2) + np.triu(np.ones((4, 4)), 1)
    u, h = scipy.linalg.polar(matrix)
    skew = u.T @ direction
    w = scipy.linalg.solve_sylvester(h, h, skew - skew.T)
    _, actual = jax.jit(lambda a, e: jax.jvp(unitary_of, (a,), (e,)))(matrix, direction)
    assert_close(actual, u @ w, amplification=100)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("shape", [(5, 4), (4, 5), (4, 4)])
def test_derivative_at_constant_rank(shape):
    """Turning a singular matrix, A' = W A, turns its partial isometry."""
    # Diagonal, so that its kernel holds no rounding errors to be raised.
    matrix = np.zeros(shape)
    matrix[0, 0], matrix[1, 1] = 2, 1
    skew = np.triu(np.ones((shape[0],) * 2), 1)
    skew = skew - skew.T
    u, actual = jax.jvp(unitary_of, (matrix,), (skew @ matrix,))
    assert_close(actual, skew @ np.asarray(u), amplification=20)


def test_gradients_are_finite_at_rank_deficient_input(getkey):
    matrix = jnp.asarray(with_singular_values(getkey(), (5, 4), [1.0, 0.5]), jnp.float32)
    for each in (matrix, jnp.zeros((5, 4))):
        grad = jax.grad(lambda a: (polar(a).unitary ** 3).sum())(each)
        assert jnp.isfinite(grad).all()


def test_lowers_for_accelerators():
    assert_lowers_for_accelerators(polar, jnp.ones((2, 4, 3), jnp.float32))


@pytest.mark.usefixtures("unchecked")
def test_messages_on_matrix():
    message = "`matrix` must have shape (..., m, n); got (3,)."
    with pytest.raises(ValueError, match=re.escape(message)):
        polar(jnp.ones(3))
    message = "`matrix` must have a real floating-point dtype; got int32."
    with pytest.raises(TypeError, match=re.escape(message)):
        polar(jnp.ones((2, 2), "int32"))
