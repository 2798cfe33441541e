import re

import jax
import jax.export
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

from jaxla.factor import svd
from tests.helpers import assert_close


svd_of = jax.jit(svd, static_argnames=("method", "broadening"))


def matrices(shape):
    """Generic, of low rank, with zero columns, graded, zero, of ones."""
    m, n = shape
    g = np.random.default_rng(m + 10 * n).standard_normal((20, m, n))
    low = g[:, :, :1] * g[:, :1] + 1e-9 * (np.arange(20) % 2)[:, None, None] * g
    holes = g * (np.arange(n) % 2)
    graded = g * np.geomspace(1, 1e-4, n)
    special = [np.zeros(shape), np.ones(shape), np.eye(m, n), np.eye(m, n)[::-1]]
    return np.concatenate([g, low, holes, graded, np.array(special)])


def check(matrix, out):
    matrix, k = np.asarray(matrix, "float64"), min(matrix.shape[-2:])
    u, s, vt = (np.asarray(x, "float64") for x in out)
    tolerance = 8 * k * float(jnp.finfo(out.s.dtype).eps)
    norm = np.linalg.norm(matrix, axis=(-2, -1))
    rest = np.linalg.norm((u * s[..., None, :]) @ vt - matrix, axis=(-2, -1))
    assert (rest <= tolerance * norm).all()
    for gram in (u.swapaxes(-2, -1) @ u, vt @ vt.swapaxes(-2, -1)):
        assert (np.linalg.norm(gram - np.eye(k), axis=(-2, -1)) <= tolerance).all()
    assert (np.diff(s) <= 0).all()
    assert (s >= 0).all()
    error = abs(s - np.linalg.svd(matrix, compute_uv=False)).max(-1, initial=0)
    assert (error <= tolerance * norm).all()


@pytest.mark.parametrize("shape", [(2, 2), (4, 4), (7, 3), (3, 7), (5, 1)])
def test_decomposes_matrices_of_any_rank(dtype, shape):
    given = jnp.asarray(matrices(shape), dtype)
    out = svd_of(given, method="jacobi")
    assert all(x.dtype == dtype for x in out)
    check(given, out)


@pytest.mark.parametrize("shape", [(4, 4), (20, 9)])
def test_auto_and_lapack(shape):
    given = jnp.asarray(matrices(shape), jnp.float32)
    check(given, svd_of(given))
    check(given[0], svd_of(given[0]))
    check(given, svd_of(given, method="lapack"))


def test_native_batch_vmap_and_loop_agree():
    given = jnp.asarray(matrices((4, 4)), jnp.float32)
    native, mapped = svd_of(given), jax.jit(jax.vmap(svd))(given)
    assert all((x == y).all() for x, y in zip(native, mapped, strict=True))
    assert_close(svd_of(given[0]).s, native.s[0], amplification=10)


@pytest.mark.usefixtures("x64")
def test_small_singular_values_of_scaled_columns_are_accurate():
    rng = np.random.default_rng(0)
    b = np.linalg.qr(rng.standard_normal((6, 6)))[0] + 0.1 * rng.standard_normal((6, 6))
    b, d = (
        b.astype("float32").astype("float64"),
        10.0 ** np.array([0, -9, -3, -6, -1, -4]),
    )
    given = b * d
    # In higher precision: eigenvalues of the inverse, of which the largest are exact.
    inverse = np.linalg.inv(b) / d[:, None]
    smallest = 1 / np.linalg.norm(inverse, 2)
    actual = svd_of(given, method="jacobi").s
    np.testing.assert_allclose(actual[-1], smallest, rtol=1e-13)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_bad_matrix_is_nan_and_touches_no_other(bad):
    clean = jnp.asarray(matrices((4, 4)), jnp.float32)
    desired = svd_of(clean, method="jacobi")
    out = svd_of(clean.at[1, 0, 3].set(bad), method="jacobi")
    others = np.arange(len(clean)) != 1
    for actual, wanted in zip(out, desired, strict=True):
        assert jnp.isnan(actual[1]).all()
        assert (actual[others] == wanted[others]).all()


def test_scale(dtype):
    given = jnp.asarray(matrices((4, 4)), dtype)
    plain = svd_of(given, method="jacobi")
    for power in (-100, 100):
        out = svd_of(given * 2.0**power, method="jacobi")
        assert (out.s == plain.s * 2.0**power).all()
        assert (out.u == plain.u).all()


@pytest.mark.parametrize("method", ["jacobi", "lapack"])
def test_empty(dtype, method):
    for shape in [(0, 0), (0, 3, 2), (2, 0, 3), (2, 3, 0)]:
        out = svd(jnp.ones(shape, dtype), method=method)
        k = min(shape[-2:])
        assert out.u.shape == (*shape[:-1], k)
        assert out.vt.shape == (*shape[:-2], k, shape[-1])
        assert out.s.shape == (*shape[:-2], k)


@pytest.mark.usefixtures("strict")
def test_half_precision_promotes_nothing_silently():
    given = jnp.asarray(matrices((4, 4)), jnp.bfloat16)
    jacobi = lambda a: svd_of(a, method="jacobi")
    out, wide = jacobi(given), jacobi(given.astype(jnp.float32))
    assert all((x == y.astype(x.dtype)).all() for x, y in zip(out, wide, strict=True))
    loss = lambda a: svd(a, broadening=0.1).u.sum()
    assert jax.jit(jax.grad(loss))(given[0]).dtype == jnp.bfloat16


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize(("shape", "method"), [((4, 3), "jacobi"), ((3, 4), "lapack")])
def test_derivatives_at_distinct_singular_values(shape, method):
    m, n = shape
    given = matrices(shape)[0]
    rng = np.random.default_rng(0)
    left, right, w = (rng.standard_normal(x) for x in ((m, 3), (3, n), 3))

    def loss(a):
        u, s, vt = svd(a, method=method, broadening=0.0)
        # The second is what one sign of a pair of vectors cannot change.
        mixed = (u[0] * vt[:, 0] * w).sum() + ((u * w) @ vt * (left @ right)).sum()
        return jnp.stack([(left * u**2).sum() + (right * vt**2).sum(), mixed, s @ w])

    check_grads(jax.jit(loss), (given,), order=1, rtol=1e-6, atol=1e-6)


@pytest.mark.usefixtures("x64")
def test_broadening_bounds_the_derivative():
    direction = np.random.default_rng(0).standard_normal((4, 3))
    for given in (np.eye(4, 3), np.zeros((4, 3)), np.diag([1.0, 1 + 1e-9, 0, 0])[:, :3]):
        for b in (0.0, 0.1):
            fn = lambda a, b=b: svd(a, broadening=b)
            _, tangents = jax.jvp(fn, (given,), (direction,))
            assert all(jnp.isfinite(x).all() for x in tangents)
            limit = 20 if b or given[1, 1] != 1 + 1e-9 else np.inf
            assert all(jnp.abs(x).max() < limit for x in tangents)


def test_derivatives_are_refused():
    for differentiate in (jax.grad, jax.jacfwd):
        with pytest.raises(NotImplementedError, match="`svd` has no derivative"):
            differentiate(lambda a: svd(a).s.sum())(jnp.eye(3))
    loss = lambda a: (svd(a, broadening=0.1).u ** 3).sum()
    for outer in (jax.jacfwd, jax.jacrev):
        with pytest.raises(NotImplementedError, match="differentiated once only"):
            outer(jax.grad(loss))(jnp.eye(3))


def test_lowers_for_accelerators():
    given = jax.ShapeDtypeStruct((64, 5, 4), jnp.float32)
    fn = lambda a: svd(a, broadening=0.1).u
    for one in (fn, jax.grad(lambda a: (fn(a) ** 3).sum())):
        exported = jax.export.export(jax.jit(one), platforms=["cuda", "tpu"])(given)
        assert exported.out_avals[0].shape in (given.shape, (64, 5, 4))


@pytest.mark.usefixtures("unchecked")
def test_messages():
    message = "`matrix` must have shape (..., m, n); got (3,)."
    with pytest.raises(ValueError, match=re.escape(message)):
        svd(jnp.ones(3))
    with pytest.raises(TypeError, match="`matrix` must have a real floating-point dtype"):
        svd(jnp.ones((2, 2), int))
    with pytest.raises(ValueError, match="`method` must be one of 'auto', 'jacobi'"):
        svd(jnp.eye(2), method="closed")
    with pytest.raises(ValueError, match="`broadening` must be a number of at least 0"):
        svd(jnp.eye(2), broadening=-1.0)
