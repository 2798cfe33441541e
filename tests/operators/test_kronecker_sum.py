import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.linalg
from jax.test_util import check_grads

from jaxla.operators import KroneckerSum
from tests.helpers import assert_close, psd_with_spectrum

from .cases import A, B, kron_sum, S, T


def of(a, b):
    return KroneckerSum(a, b, symmetric=True)


def test_it_is_a_sylvester_operator(dtype):
    """`(A (+) B) vec(X) = vec(A X + X B^T)`, row-major."""
    x = np.linspace(-1, 2, 6).reshape(2, 3)
    operator = KroneckerSum(jnp.asarray(A, dtype), jnp.asarray(B, dtype))
    actual = operator.mv(jnp.asarray(x.ravel(), dtype))
    assert_close(actual, (A @ x + x @ B.T).ravel(), amplification=10)
    operator = of(jnp.asarray(S, dtype), jnp.asarray(T, dtype))
    desired = scipy.linalg.solve_sylvester(S, T, x).ravel()
    actual = operator.solve(jnp.asarray(x.ravel(), dtype))
    assert_close(actual, desired, amplification=30)


def test_symmetric_factors_are_asked_for():
    plain = KroneckerSum(jnp.float32(A), jnp.float32(B))
    for call in (plain.eigh, plain.logdet, lambda: plain.solve(jnp.ones(6))):
        with pytest.raises(NotImplementedError, match=re.escape("symmetric=True")):
            call()
    halves = of(jnp.float32(A), jnp.float32(B)).as_matrix()
    assert_close(halves, kron_sum((A + A.T) / 2, (B + B.T) / 2), amplification=10)
    with pytest.raises(ValueError, match="`KroneckerSum` needs square factors"):
        KroneckerSum(jnp.ones((2, 3)))


@pytest.mark.usefixtures("x64")
def test_derivatives_at_repeated_eigenvalues(getkey):
    """Against finite differences: of a sum of a logarithm and a solution."""
    a, b = (psd_with_spectrum(getkey(), values) for values in ([1, 1], [1.0, 2.0, 2.0]))
    x = np.linspace(1, 2, 6)
    fn = jax.jit(lambda a, b, x: (of(a, b).logdet(), of(a, b).solve(x)))
    check_grads(fn, (a, b, x), order=1, rtol=1e-6, atol=1e-6)
    with pytest.raises(NotImplementedError, match="once only"):
        jax.hessian(lambda a: of(a, b).logdet())(a)


def test_the_laplacian_of_a_grid():
    """Its eigenvalues are sums of known ones, some of them repeated."""
    n = 5
    laplacian = 2 * np.eye(n) - np.eye(n, k=1) - np.eye(n, k=-1)
    operator = of(jnp.float32(laplacian), jnp.float32(laplacian))
    known = 2 - 2 * np.cos(np.pi * np.arange(1, n + 1) / (n + 1))
    values = np.sort(operator.eigh().eigenvalues)
    assert_close(values, np.sort((known[:, None] + known).ravel()), amplification=10)
