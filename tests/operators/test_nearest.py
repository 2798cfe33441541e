import functools
import re

import jax
import jax.export
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

from jaxla.operators import (
    kronecker_svd,
    nearest_kronecker,
    nearest_kronecker_of_samples,
)
from tests.helpers import assert_close

from .cases import general, kron, S, T


nearest = jax.jit(nearest_kronecker, static_argnums=1, static_argnames="steps")
nearest_30 = functools.partial(nearest, steps=30)
of_samples = jax.jit(nearest_kronecker_of_samples, static_argnames="steps")
svd = jax.jit(kronecker_svd, static_argnums=1, static_argnames="rank")


def rearranged(matrix, p, q):
    m, n = matrix.shape[0] // p, matrix.shape[1] // q
    rows = [
        matrix[i * m : (i + 1) * m, j * n : (j + 1) * n].ravel()
        for i in range(p)
        for j in range(q)
    ]
    return np.array(rows)


def normal(seed, *shape):
    return np.random.default_rng(seed).standard_normal(shape)


def test_an_exact_product_is_found(dtype):
    """In one step, also where it has no trace."""
    skew = np.array([[0.0, 1.0], [-1.0, 0.0]])
    for a, b in [(normal(0, 2, 3), normal(1, 4, 2)), (skew, np.diag([1.0, -1, 1, -1]))]:
        matrix = jnp.asarray(kron(a, b), dtype)
        found = nearest(matrix, a.shape, steps=1)
        assert_close(kron(*map(np.asarray, found[:2])), kron(a, b), amplification=20)
        assert found.error <= 20 * jnp.finfo(dtype).eps
        sizes = [jnp.linalg.norm(part) for part in found[:2]]
        np.testing.assert_allclose(*sizes, rtol=1e-6)


def test_the_nearest_has_the_error_of_the_svd(dtype):
    matrix = normal(0, 6, 8) + 3 * kron(normal(1, 2, 4), normal(2, 3, 2))
    values = np.linalg.svd(rearranged(matrix, 2, 4))[1]
    best = np.sqrt((values[1:] ** 2).sum() / (values**2).sum())
    found = nearest_30(jnp.asarray(matrix, dtype), (2, 4))
    rest = matrix - kron(*map(np.asarray, found[:2]))
    np.testing.assert_allclose(found.error, best, rtol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(rest) / np.linalg.norm(matrix), best, 1e-5)
    terms = svd(jnp.asarray(matrix, dtype), (2, 4))
    assert_close(terms.singular_values, values, amplification=10)
    first = kron(np.asarray(terms.left[0]), np.asarray(terms.right[0])) * values[0]
    assert_close(kron(*map(np.asarray, found[:2])), first, amplification=1e4)


def test_a_sum_of_terms(dtype):
    matrix = kron(normal(0, 2, 2), S) + 0.5 * kron(normal(1, 2, 2), normal(2, 2, 2))
    terms = svd(jnp.asarray(matrix, dtype), (2, 2), rank=2)
    parts = np.asarray(terms.singular_values)[:, None, None] * np.asarray(
        kron(np.asarray(terms.left), np.asarray(terms.right))
    )
    assert terms.left.shape == (2, 2, 2)
    assert_close(parts.sum(0).astype(dtype), matrix, amplification=20)
    inner = np.einsum("kij,lij->kl", terms.left, terms.left)
    assert_close(inner.astype(dtype), np.eye(2), amplification=20)
    with pytest.raises(NotImplementedError, match="`kronecker_svd` has no derivative"):
        jax.grad(lambda a: kronecker_svd(a, (2, 2)).singular_values.sum())(jnp.eye(4))


def test_factors_of_a_semidefinite_matrix_are_semidefinite():
    """At once from a semidefinite start, and in the limit from any."""
    g = normal(0, 6, 9)
    matrix = jnp.float32(g @ g.T)
    for found in (
        nearest(matrix, (2, 2), steps=1, start=jnp.eye(3)),
        nearest_30(matrix, (2, 2)),
    ):
        for part in found[:2]:
            assert jnp.linalg.eigvalsh(part).min() > 0
            assert_close(part, part.T, amplification=10)


def test_a_warm_start_is_used():
    matrix = jnp.float32(normal(0, 6, 6))
    best = nearest_30(matrix, (2, 3))
    warm = nearest(matrix, (2, 3), steps=1, start=best.right)
    cold = nearest(matrix, (2, 3), steps=1)
    assert warm.error < cold.error
    assert_close(warm.error, best.error, amplification=20)


def test_samples_give_what_their_second_moment_gives(dtype):
    g = normal(0, 7, 2, 3)
    moment = np.mean([np.outer(one.ravel(), one.ravel()) for one in g], 0)
    eye = jnp.eye(3, dtype=dtype)
    formed = nearest(jnp.asarray(moment, dtype), (2, 2), steps=4, start=eye)
    found = of_samples(jnp.asarray(g, dtype), steps=4)
    for one, other in zip(found[:2], formed[:2], strict=True):
        assert_close(one, np.asarray(other), amplification=20)
    np.testing.assert_allclose(found.error, formed.error, rtol=1e-5)


def test_one_step_from_the_identity_is_shampoo():
    g = normal(0, 5, 3, 4)
    left = np.asarray(of_samples(jnp.float32(g), steps=1).left, "float64")
    statistic = np.einsum("tij,tkj->ik", g, g)
    scale = np.linalg.norm(left) / np.linalg.norm(statistic)
    assert_close(jnp.float32(left), scale * statistic, amplification=10)
    one = of_samples(jnp.float32(g[:1]), steps=1)
    outer = np.outer(g[0].ravel(), g[0].ravel())
    assert np.linalg.norm(outer) >= np.linalg.norm(kron(*map(np.asarray, one[:2])))


@pytest.mark.usefixtures("x64")
def test_derivatives():
    fn = jax.jit(lambda a: nearest_kronecker(a, (2, 2), steps=3)[:2])
    check_grads(fn, (general(0, 4, 4),), order=1, modes=["rev"], rtol=1e-5, atol=1e-5)
    fn = jax.jit(lambda g: nearest_kronecker_of_samples(g, steps=2)[:2])
    check_grads(fn, (normal(0, 4, 2, 3),), order=1, modes=["rev"], rtol=1e-5, atol=1e-5)


def test_batches_zeros_and_what_is_not_finite():
    matrices = np.stack(
        [normal(0, 4, 6), np.zeros((4, 6)), normal(1, 4, 6), normal(2, 4, 6)]
    )
    matrices[2, 0, 0] = np.inf
    found = nearest(jnp.float32(matrices), (2, 3))
    for i in (0, 1, 3):
        alone = nearest(jnp.float32(matrices[i]), (2, 3))
        for one, other in zip(found, alone, strict=True):
            assert_close(one[i], np.asarray(other), amplification=20)
    for part in (*found, *svd(jnp.float32(matrices), (2, 3))):
        assert jnp.isnan(part[2]).all()
        assert jnp.isfinite(part[jnp.array([0, 1, 3])]).all()
    assert not any(part[1].any() for part in found)
    samples = np.stack(
        [normal(0, 3, 2, 2), np.zeros((3, 2, 2)), np.full((3, 2, 2), np.nan)]
    )
    for part in of_samples(jnp.float32(samples)):
        assert jnp.isfinite(part[0]).all()
        assert not part[1].any()
        assert jnp.isnan(part[2]).all()
    slope = jax.grad(lambda a: nearest(a, (2, 3)).left.sum())(jnp.zeros((4, 6)))
    assert jnp.isfinite(slope).all()


def test_the_sign_is_that_of_the_trace_or_else_of_the_largest_entry():
    right = np.eye(2) + 0.1
    for left in ([[-3.0, 1], [0, 2]], [[0.0, -2], [1, 0]]):
        for sign in (1, -1):
            a = sign * np.array(left)
            rule = np.trace(a) or a.ravel()[np.abs(a).argmax()]
            found = nearest(jnp.float32(np.kron(a, right)), (2, 2)).left
            assert np.sign(found.ravel()[np.abs(a).argmax()]) == np.sign(
                a.ravel()[np.abs(a).argmax()] * rule
            )


def test_scale_and_dtypes():
    matrix = jnp.float32(normal(0, 4, 6))
    plain = nearest(matrix, (2, 3))
    for scale in (2.0**-100, 2.0**100):
        scaled = nearest(scale * matrix, (2, 3))
        assert_close(scaled.left / scale**0.5, np.asarray(plain.left), amplification=10)
        assert scaled.error == plain.error
        g = matrix.reshape(2, 3, 4) * scale**0.5
        assert jnp.isfinite(of_samples(g).left).all()
    half = nearest(matrix.astype(jnp.bfloat16), (2, 3))
    assert {part.dtype for part in half} == {jnp.dtype(jnp.bfloat16)}


@pytest.mark.usefixtures("strict")
def test_lowers_for_accelerators():
    loss = lambda a: nearest_kronecker(a, (2, 2)).left.sum()
    samples = lambda g: nearest_kronecker_of_samples(g).left.sum()
    for fn, shape in ((loss, (3, 4, 4)), (samples, (3, 5, 2, 2))):
        both = jax.jit(jax.value_and_grad(fn))
        jax.export.export(both, platforms=["cuda", "tpu"])(jnp.ones(shape, jnp.float32))


def test_small_and_empty():
    assert_close(nearest(jnp.full((1, 1), 4.0), (1, 1)).left, np.full((1, 1), 2.0))
    assert nearest(jnp.ones((0, 4, 4)), (2, 2)).left.shape == (0, 2, 2)
    assert nearest(jnp.ones((0, 4)), (2, 2)).right.shape == (0, 2)
    assert of_samples(jnp.ones((0, 2, 3))).right.shape == (3, 3)


@pytest.mark.usefixtures("unchecked")
def test_messages():
    matrix = jnp.ones((4, 6))
    for call, message in [
        (lambda: nearest_kronecker(matrix, (3, 2)), "`left_shape` must divide the shape"),
        (lambda: nearest_kronecker(matrix, (2,)), "`left_shape` must be two integers"),
        (lambda: nearest_kronecker(matrix, (2, 0)), "`left_shape[1]` must be an integer"),
        (lambda: nearest_kronecker(matrix, (2, 2), steps=0), "`steps` must be"),
        (
            lambda: nearest_kronecker(matrix, (2, 2), start=jnp.eye(2)),
            "`start` must have shape (..., 2, 3); got (2, 2).",
        ),
        (lambda: kronecker_svd(matrix, (2, 2), rank=5), "`rank` must be an integer"),
        (
            lambda: nearest_kronecker_of_samples(matrix),
            "`samples` must have shape (..., t, m, n); got (4, 6).",
        ),
    ]:
        with pytest.raises(ValueError, match=re.escape(message)):
            call()
    with pytest.raises(TypeError, match="`left_shape` must be two integers; got 5"):
        nearest_kronecker(matrix, 5)


def test_damped_statistics_of_gradients():
    """The factors of samples go straight into an operator."""
    found = of_samples(jnp.float32(kron(np.ones((4, 1, 1)), normal(0, 2, 3))))
    assert found.left.shape == (2, 2)
    assert found.right.shape == T.shape
