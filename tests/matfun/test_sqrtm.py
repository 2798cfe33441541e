import itertools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.linalg

from jaxla.matfun import inverse_sqrtm, sqrtm
from tests.helpers import assert_close, assert_lowers_for_accelerators, psd_with_spectrum


METHODS = ["auto", "eigh", "minimax"]
root_of = jax.jit(sqrtm, static_argnames="method")
inverse_of = jax.jit(inverse_sqrtm, static_argnames="method")


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("size", [5, 60])  # auto changes its mind on the way
def test_matches_scipy(getkey, dtype, method, size):
    matrix = psd_with_spectrum(getkey(), np.geomspace(1e-2, 3, size))
    root, residual = root_of(jnp.asarray(matrix, dtype), method=method)
    assert root.dtype == residual.dtype == dtype
    # The condition of the root is 1 / (2 sqrt(smallest)), of the inverse one more.
    desired = scipy.linalg.sqrtm(matrix)
    assert_close(root, desired, amplification=30)
    assert residual < 50 * jnp.finfo(dtype).eps
    inverse, residual = inverse_of(jnp.asarray(matrix, dtype), method=method)
    assert inverse.dtype == dtype
    assert_close(inverse, np.linalg.inv(desired), amplification=300)
    assert residual < 5e4 * jnp.finfo(dtype).eps


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("method", ["eigh", "minimax"])
def test_condition_1e12_in_float64(getkey, method):
    matrix = psd_with_spectrum(getkey(), np.geomspace(1e-12, 1, 6))
    values, vectors = np.linalg.eigh(matrix)
    root, residual = root_of(matrix, method=method)
    assert_close(root, (vectors * np.sqrt(values)) @ vectors.T, amplification=1e6)
    assert residual < 1e-9  # as A times its inverse root of norm 1e6


@pytest.mark.parametrize("method", METHODS)
def test_singular_matrices(dtype, method):
    matrix = jnp.diag(jnp.array([4.0, 0, 0, 1], dtype))
    root, residual = root_of(matrix, method=method)
    assert_close(root, np.diag([2.0, 0, 0, 1]), amplification=30)
    assert residual < 1e-5
    assert inverse_of(matrix, method=method).residual > 0.5
    assert (root_of(jnp.zeros((3, 3), dtype), method=method).root == 0).all()
    # A root that is not there is told.
    assert root_of(jnp.diag(jnp.array([1.0, -1], dtype)), method=method).residual > 0.1


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_bad_matrix_is_flagged_and_touches_no_other(getkey, method, bad):
    clean = jnp.array([psd_with_spectrum(getkey(), [0.1, 1, 2])] * 3, jnp.float32)
    for fn in (root_of, inverse_of):
        desired = fn(clean, method=method)
        out = fn(clean.at[1, 0, 2].set(bad), method=method)
        assert (out.root[1] == 0).all()
        assert out.residual[1] == jnp.inf
        assert (out.root[::2] == desired.root[::2]).all()


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("method", ["eigh", "minimax"])
@pytest.mark.parametrize("fn", [sqrtm, inverse_sqrtm])
def test_derivatives_of_every_order(getkey, fn, method):
    """Also where eigenvalues are repeated, or nearly so."""
    direction = np.array([[1.0, 2, -1], [0, 0.5, 1], [3, 1, -2]])  # not symmetric

    def along(t, matrix):
        root = fn(matrix + t * direction, method=method).root
        return (root * (direction + 1)).sum()

    orders = [along, jax.grad(along), jax.jacfwd(jax.grad(along))]
    if method == "eigh":  # the rule is the same
        orders.append(jax.jacfwd(jax.jacrev(jax.grad(along))))
    orders = list(map(jax.jit, orders))
    forward = jax.jit(lambda a: jax.jvp(lambda t: along(t, a), (0.0,), (1.0,))[1])
    for spectrum in ([1, 1, 1], [1, 1, 2.0], [0.5, 0.8, 2], [1, 1 + 1e-9, 2]):
        matrix = psd_with_spectrum(getkey(), spectrum)
        matrix = np.diag(spectrum) if spectrum[0] == spectrum[1] else matrix
        for fn_, derivative in itertools.pairwise(orders):
            h = 1e-5
            difference = (fn_(h, matrix) - fn_(-h, matrix)) / (2 * h)
            actual = derivative(0.0, matrix)
            np.testing.assert_allclose(actual, difference, rtol=1e-6, atol=1e-6)
        np.testing.assert_allclose(forward(matrix), orders[1](0.0, matrix), rtol=1e-8)


@pytest.mark.parametrize("gap", [0.0, 1e-7, 1e-5, 1e-3, 0.1])
def test_gradients_in_float32_at_every_gap(getkey, gap):
    """Where the derivative of an eigendecomposition loses all digits, or is NaN."""
    key, other = getkey(), getkey()
    matrix = psd_with_spectrum(key, [1, 1 + gap, 2, 3])
    direction = psd_with_spectrum(other, [-1, 0.5, 1, 2])
    values, vectors = np.linalg.eigh(np.asarray(matrix, "float32").astype("float64"))
    kernel = 1 / (np.sqrt(values)[:, None] + np.sqrt(values))
    desired = vectors @ (kernel * (vectors.T @ direction @ vectors)) @ vectors.T
    only = lambda a: root_of(a).root
    args = jnp.asarray(matrix, "float32"), jnp.asarray(direction, "float32")
    _, actual = jax.jvp(only, args[:1], args[1:])
    assert_close(actual, desired, amplification=20)
    _, transpose = jax.vjp(only, args[0])
    assert_close(transpose(args[1])[0], desired, amplification=20)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("scale", [1e-30, 1e-11, 1e12, 1e30])
def test_scale_equivariance(getkey, dtype, method, scale):
    matrix = psd_with_spectrum(getkey(), [0.1, 0.5, 1, 2])
    for fn, exponent in ((root_of, 0.5), (inverse_of, -0.5)):
        plain = fn(jnp.asarray(matrix, dtype), method=method)
        scaled = fn(jnp.asarray(scale * matrix, dtype), method=method)
        desired = np.asarray(plain.root, "float64") * scale**exponent
        assert_close(scaled.root, desired, amplification=60)
        assert scaled.residual < 400 * jnp.finfo(dtype).eps


def test_jit_vmap_and_native_batches_agree(getkey):
    matrices = [psd_with_spectrum(getkey(), [0.1, 0.5, 1, 1]) for _ in range(6)]
    matrices = jnp.array(matrices, jnp.float32).reshape(2, 3, 4, 4)
    for fn in (sqrtm, inverse_sqrtm):
        native = fn(matrices)
        mapped = jax.vmap(jax.vmap(fn))(matrices)
        assert_close(mapped.root, native.root, amplification=60)
        loss = lambda a, fn=fn: (fn(a).root ** 2).sum()
        grads = jax.jit(jax.grad(loss))(matrices)
        assert_close(
            jax.vmap(jax.vmap(jax.grad(loss)))(matrices), grads, amplification=300
        )


def test_small_and_empty(dtype):
    assert_close(root_of(jnp.full((1, 1), 9.0, dtype)).root, np.full((1, 1), 3))
    for shape in [(0, 0), (0, 3, 3), (2, 0, 0)]:
        for method in METHODS:
            root, residual = root_of(jnp.ones(shape, dtype), method=method)
            assert root.shape == shape
            assert residual.shape == shape[:-2]


@pytest.mark.usefixtures("strict")
@pytest.mark.parametrize("half", [jnp.bfloat16, jnp.float32])
@pytest.mark.parametrize("fn", [sqrtm, inverse_sqrtm])
def test_half_precision_and_strict_promotion(half, fn):
    loss = lambda a: fn(a).root.sum()
    assert jax.jit(jax.grad(loss))(jnp.eye(3, dtype=half)).dtype == half


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("fn", [sqrtm, inverse_sqrtm])
def test_lowers_for_accelerators(fn, method):
    matrix = jnp.ones((2, 60, 60), jnp.float32)
    assert_lowers_for_accelerators(lambda a: fn(a, method=method).root, matrix)


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("fn", [sqrtm, inverse_sqrtm])
def test_messages(fn):
    message = "`matrix` must have shape (..., n, n); got (2, 3)."
    with pytest.raises(ValueError, match=re.escape(message)):
        fn(jnp.ones((2, 3)))
    with pytest.raises(TypeError, match="real floating-point dtype; got int32"):
        fn(jnp.ones((2, 2), "int32"))
    with pytest.raises(ValueError, match=r"`method` must be one of .*; got 'svd'"):
        fn(jnp.eye(2), method="svd")
