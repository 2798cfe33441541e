import re

import jax
import jax.export
import jax.numpy as jnp
import numpy as np
import pytest

from jaxla.factor import eigh_relative
from tests.helpers import psd_with_spectrum, random_psd


relative_of = jax.jit(eigh_relative)
ORDERS = {
    "large to small": lambda d: d,
    "small to large": lambda d: d[::-1],
    "random": lambda d: np.random.default_rng(1).permutation(d),
}


def graded(key, size, spread, order, dtype):
    """`D H D` with a well-conditioned `H`, of numbers that `dtype` has."""
    h = psd_with_spectrum(key, np.linspace(0.5, 2, size))
    d = ORDERS[order](np.geomspace(1, spread**0.5, size))
    a = (h * d[:, None] * d).astype(dtype).astype("float64")
    return (a + a.T) / 2


def oracle(matrix):
    """Jacobi's method in long double, on rows in descending order of the diagonal."""
    order = np.argsort(-np.diag(matrix))
    a = matrix[np.ix_(order, order)].astype(np.longdouble)
    n = len(a)
    for _ in range(12):
        for i in range(n):
            for j in range(i + 1, n):
                if a[i, j] == 0:
                    continue
                theta = (a[j, j] - a[i, i]) / (2 * a[i, j])
                t = (1 if theta >= 0 else -1) / (abs(theta) + np.sqrt(1 + theta**2))
                c = 1 / np.sqrt(1 + t * t)
                turn = np.array([[c, -t * c], [t * c, c]])
                a[[i, j]] = turn @ a[[i, j]]
                a[:, [i, j]] = a[:, [i, j]] @ turn.T
    return np.sort(np.diag(a))


def check_vectors(matrix, out):
    matrix, v = np.asarray(matrix, "float64"), np.asarray(out.eigenvectors, "float64")
    w, n = np.asarray(out.eigenvalues, "float64"), len(matrix)
    eps = float(jnp.finfo(out.eigenvalues.dtype).eps)
    assert abs(v.T @ v - np.eye(n)).max() <= 4 * n * eps
    size = max(np.linalg.norm(matrix), np.finfo("float64").tiny)
    assert np.linalg.norm(v * w @ v.T - matrix) <= 4 * n * eps * size


@pytest.mark.parametrize("order", ORDERS)
def test_each_eigenvalue_is_accurate(getkey, dtype, order):
    """In float64 as Demmel and Veselic have it; in float32 the same."""
    matrix = graded(getkey(), 12, 1e-12, order, dtype)
    out = relative_of(jnp.asarray(matrix, dtype))
    error = abs(np.asarray(out.eigenvalues, np.longdouble) / oracle(matrix) - 1).max()
    assert error <= 40 * np.finfo(dtype).eps
    assert out.definite
    assert out.eigenvalues.dtype == out.eigenvectors.dtype == dtype
    check_vectors(matrix, out)


@pytest.mark.usefixtures("x64")
def test_lapack_is_not():
    key = jax.random.key(0)
    matrix = graded(key, 12, 1e-12, "small to large", "float64")
    error = abs(np.linalg.eigvalsh(matrix) / oracle(matrix) - 1).max()
    assert error > 1e-8


@pytest.mark.parametrize("rank", [0, 1, 3])
def test_rank_deficient_matrices_are_flagged(getkey, dtype, rank):
    matrix = random_psd(getkey(), 5, 3) if rank == 3 else np.diag([rank, 0, 0, 0, 0.0])
    out = relative_of(jnp.asarray(matrix, dtype))
    assert not out.definite
    assert (out.eigenvalues[: 5 - rank] == 0).all()
    assert (out.eigenvalues[5 - rank :] > 0).all()
    check_vectors(matrix, out)


def test_a_zero_row_does_not_end_elimination(dtype):
    """Its remainder of rounding errors is larger than what is left of a graded matrix."""
    matrix = np.diag([1.0, 1, 1e-16, 1e-20])
    matrix[0, 1] = matrix[1, 0] = 1
    out = relative_of(jnp.asarray(matrix, dtype))
    assert not out.definite
    np.testing.assert_allclose(out.eigenvalues, [0, 1e-20, 1e-16, 2], rtol=1e-6)


def test_indefinite_matrices_are_flagged(dtype):
    for matrix in (np.diag([1.0, -1, 2]), np.array([[1.0, 2], [2, 1]]), -np.eye(3)):
        out = relative_of(jnp.asarray(matrix, dtype))
        assert not out.definite
        assert (out.eigenvalues >= 0).all()
        v = np.asarray(out.eigenvectors, "float64")
        np.testing.assert_allclose(v.T @ v, np.eye(len(matrix)), atol=1e-6)


def test_native_batch_vmap_and_loop_agree(getkey):
    given = [graded(getkey(), 5, 1e-8, order, "float32") for order in ORDERS]
    given = jnp.array([*given, np.diag([1.0, 0, 0, 0, 0])], jnp.float32)
    native, mapped = relative_of(given), jax.jit(jax.vmap(eigh_relative))(given)
    assert all((x == y).all() for x, y in zip(native, mapped, strict=True))
    for i in (0, 3):
        single = relative_of(given[i])
        np.testing.assert_allclose(single.eigenvalues, native.eigenvalues[i], rtol=3e-6)
        assert single.definite == native.definite[i] == (i == 0)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_bad_matrix_is_nan_and_touches_no_other(getkey, bad):
    given = [graded(getkey(), 5, 1e-8, order, "float32") for order in ORDERS]
    clean = jnp.array([*given, np.eye(5)], jnp.float32)
    desired = relative_of(clean)
    out = relative_of(clean.at[1, 0, 2].set(bad))
    assert jnp.isnan(out.eigenvalues[1]).all()
    assert jnp.isnan(out.eigenvectors[1]).all()
    assert out.definite.tolist() == [True, False, True, True]
    others = np.array([0, 2, 3])
    for actual, wanted in zip(out, desired, strict=True):
        assert (actual[others] == wanted[others]).all()


def test_scale(getkey, dtype):
    given = jnp.asarray(graded(getkey(), 5, 1e-8, "random", dtype), dtype)
    plain = relative_of(given)
    for power in (-60, 100):
        out = relative_of(given * 2.0**power)
        assert (out.eigenvalues == plain.eigenvalues * 2.0**power).all()
        assert (out.eigenvectors == plain.eigenvectors).all()


def test_small_and_empty(dtype):
    out = eigh_relative(jnp.full((2, 1, 1), 3.0, dtype))
    np.testing.assert_allclose(out.eigenvalues, 3, rtol=1e-6)
    assert out.definite.all()
    for shape in [(0, 0), (0, 3, 3), (2, 0, 0)]:
        out = eigh_relative(jnp.ones(shape, dtype))
        assert out.eigenvalues.shape == shape[:-1]
        assert out.eigenvectors.shape == shape
        assert out.definite.shape == shape[:-2]
        assert out.eigenvalues.dtype == dtype


@pytest.mark.usefixtures("strict")
def test_half_precision_promotes_nothing_silently(getkey):
    given = jnp.asarray(graded(getkey(), 5, 1e-4, "random", "float32"), jnp.bfloat16)
    out, wide = relative_of(given), relative_of(given.astype(jnp.float32))
    assert (out.eigenvalues == wide.eigenvalues.astype(jnp.bfloat16)).all()


def test_derivatives_are_refused():
    for differentiate in (jax.grad, jax.jacfwd):
        with pytest.raises(NotImplementedError, match=r"`jaxla\.factor\.eigvalsh`"):
            differentiate(lambda a: eigh_relative(a).eigenvalues.sum())(jnp.eye(3))


def test_lowers_for_accelerators():
    given = jax.ShapeDtypeStruct((8, 5, 5), jnp.float32)
    exported = jax.export.export(relative_of, platforms=["cuda", "tpu"])(given)
    assert exported.out_avals[1].shape == given.shape


@pytest.mark.usefixtures("unchecked")
def test_messages():
    message = "`matrix` must have shape (..., n, n); got (2, 3)."
    with pytest.raises(ValueError, match=re.escape(message)):
        eigh_relative(jnp.ones((2, 3)))
    with pytest.raises(TypeError, match="`matrix` must have a real floating-point dtype"):
        eigh_relative(jnp.ones((2, 2), int))
