"""Matrices with known answers, and one idea of how close is close."""

import jax
import jax.export
import jax.numpy as jnp
import numpy as np


def random_psd(key, size: int, rank: int) -> np.ndarray:
    """A positive semi-definite matrix of a rank, in float64, with entries of order 1."""
    g = _generator(key).standard_normal((size, rank))
    return g @ g.T / rank


def psd_with_spectrum(key, eigenvalues) -> np.ndarray:
    """A symmetric matrix with these eigenvalues in a random basis, in float64."""
    n = len(eigenvalues)
    q, _ = np.linalg.qr(_generator(key).standard_normal((n, n)))
    a = (q * np.asarray(eigenvalues, "float64")) @ q.T
    return (a + a.T) / 2


def with_singular_values(key, shape, values) -> np.ndarray:
    """A matrix with these singular values (and zeros), in float64."""
    left, right = jax.random.split(key)
    u, _ = np.linalg.qr(random_psd(left, shape[0], shape[0]))
    v, _ = np.linalg.qr(random_psd(right, shape[1], shape[1]))
    k = len(values)
    return (u[:, :k] * values) @ v[:, :k].T


def power_oracle(matrix, exponent: float, damping: float = 0.0) -> np.ndarray:
    """`(max(A, 0) + damping * bound(A) I) ** exponent`, by NumPy in float64."""
    a = np.asarray(matrix, "float64")
    bound = np.linalg.norm(np.linalg.matrix_power(a, 4), axis=(-2, -1)) ** 0.25
    values, vectors = np.linalg.eigh(a)
    values = np.maximum(values, 0) + damping * np.asarray(bound)[..., None]
    return (vectors * values[..., None, :] ** exponent) @ vectors.swapaxes(-2, -1)


def assert_close(actual, desired, *, amplification: float = 1.0) -> None:
    """Every matrix (or vector, or scalar) is as close as its dtype allows.

    The norm of the difference must be at most `2 eps sqrt(n) amplification` times the
    norm of what is desired, with the eps of `actual` and the longest side `n` of a
    matrix. `amplification` is the condition number of the problem, or what else
    theory says the rounding errors are multiplied by.
    """
    actual, desired = np.asarray(actual), np.asarray(desired)
    assert actual.shape == desired.shape, f"{actual.shape} is not {desired.shape}"
    eps = float(jnp.finfo(actual.dtype).eps)
    tolerance = 2 * eps * max(actual.shape[-2:], default=1) ** 0.5 * amplification
    error, size = _norm(actual.astype("float64") - desired), _norm(desired)
    # By negation: a comparison with NaN is false.
    bad = ~(error <= tolerance * size)
    assert not bad.any(), f"{error[bad]} is above {tolerance:.2e} times {size[bad]}"


def assert_lowers_for_accelerators(fn, *args) -> None:
    """`fn` and its gradient compile for CUDA and TPU, as far as it can be told here."""
    specs = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), args)
    total = lambda *args: sum(jnp.sum(x) for x in jax.tree.leaves(fn(*args)))
    for each in (fn, jax.grad(total, argnums=tuple(range(len(args))))):
        jax.export.export(jax.jit(each), platforms=["cuda", "tpu"])(*specs)


def _norm(x: np.ndarray) -> np.ndarray:
    x = x.astype("float64")
    return np.sqrt(np.sum(x * x, axis=tuple(range(-min(x.ndim, 2), 0))))


def _generator(key) -> np.random.Generator:
    return np.random.default_rng(np.asarray(jax.random.key_data(key)))
