import re

import jax
import jax.export
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

from jaxla.factor import eigvalsh
from tests.helpers import assert_close, psd_with_spectrum


SMALL, LARGE = 5, 40  # below and above the size from which matrices are reduced
eigvals = jax.jit(eigvalsh)
both_ways = pytest.mark.parametrize("n", [SMALL, LARGE])


def symmetric(key, *shape) -> np.ndarray:
    g = np.random.default_rng(np.asarray(jax.random.key_data(key))).normal(size=shape)
    return g + g.swapaxes(-2, -1)


def spectra(n: int) -> dict[str, np.ndarray]:
    return {
        "repeated": np.repeat([1.0, 2.0], [n // 2, n - n // 2]),
        "identity": np.ones(n),
        "close": 1 + 1e-9 * np.arange(n),
        "graded": np.geomspace(1e-12, 1, n),
        "rank one": np.eye(n)[-1],
        "zero": np.zeros(n),
    }


def assert_eigenvalues(actual, a):
    """Absolute errors of a few u |A|."""
    desired = np.linalg.eigvalsh(np.asarray(a, "float64"))
    eps = float(jnp.finfo(actual.dtype).eps)
    error = np.abs(np.asarray(actual, "float64") - desired).max()
    assert error <= 4 * eps * len(desired) ** 0.5 * np.abs(desired).max()


@both_ways
def test_matches_numpy(getkey, dtype, n):
    matrices = [symmetric(getkey(), n, n)]
    matrices += [psd_with_spectrum(getkey(), w) for w in spectra(n).values()]
    matrices += [np.diag(np.arange(n) - 2.0), np.eye(n), -np.ones((n, n))]
    for matrix in matrices:
        a = jnp.asarray(matrix, dtype)
        actual = eigvals(a)
        assert actual.dtype == dtype
        assert (np.diff(actual) >= 0).all()
        assert_eigenvalues(actual, a)


def test_many_small_matrices(getkey):
    a = jnp.asarray(symmetric(getkey(), 64, 12, 12), jnp.float32)
    desired = np.linalg.eigvalsh(np.asarray(a, "float64"))
    assert_close(eigvals(a), desired, amplification=4)
    text = jax.jit(eigvalsh).lower(a).as_text()
    assert "sytrd" in text
    assert "sytrd" not in jax.jit(eigvalsh).lower(a[:3]).as_text()


def test_both_ways_agree_where_they_meet(getkey, dtype, monkeypatch):
    a = jnp.asarray(symmetric(getkey(), 34, 34), dtype)
    monkeypatch.setattr("jaxla.factor._eigvalsh.LEAST_SIZE", 35)
    assert_close(eigvals(a), eigvalsh(a), amplification=4)


@both_ways
def test_jit_vmap_and_loop_agree(getkey, n):
    a = jnp.asarray(symmetric(getkey(), 2, 2, n, n), jnp.float32)
    native = eigvals(a)
    mapped = jax.jit(jax.vmap(jax.vmap(eigvalsh)))(a)
    loop = jnp.array([[eigvals(x) for x in row] for row in a])
    for other in (mapped, loop):
        assert_close(other, native, amplification=4)


def test_small_and_empty():
    dtype = jnp.float32
    assert eigvals(jnp.full((1, 1), -2.0, dtype)).tolist() == [-2]
    for shape in [(0, 0), (0, 3, 3), (2, 0, 0), (0, LARGE, LARGE)]:
        a = jnp.ones(shape, dtype)
        assert eigvals(a).shape == shape[:-1]
        assert jax.grad(lambda a: eigvals(a).sum())(a).shape == shape


@both_ways
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_bad_member_stays_alone(getkey, n, bad):
    a = jnp.asarray(symmetric(getkey(), 3, n, n), jnp.float32)
    spoilt = a.at[1, 0, n - 1].set(bad)
    grad = jax.jit(jax.grad(lambda a: (eigvalsh(a) ** 2).sum()))
    others = jnp.array([0, 2])
    for fn in (eigvals, grad):
        out, clean = fn(spoilt), fn(a)
        assert jnp.isnan(out[1]).all()
        assert (out[others] == clean[others]).all()


@both_ways
def test_scale_equivariance(getkey, n):
    dtype = jnp.float32
    a = jnp.asarray(symmetric(getkey(), n, n), dtype)
    plain = eigvals(a)
    for exponent in (-100, -40, 40, 100):
        scale = jnp.asarray(2.0**exponent, dtype)
        assert (eigvals(scale * a) == scale * plain).all()


def test_the_symmetric_part_is_taken(getkey):
    a = jnp.asarray(symmetric(getkey(), LARGE, LARGE), jnp.float32)
    skew = jnp.triu(a) - jnp.triu(a).T
    assert_close(eigvals(a + skew), eigvals(a), amplification=10)


@both_ways
def test_half_precision_is_computed_in_float32(getkey, n):
    a = jnp.asarray(symmetric(getkey(), n, n), jnp.bfloat16)
    assert eigvals(a).dtype == jnp.bfloat16
    assert (eigvals(a) == eigvals(a.astype(jnp.float32)).astype(jnp.bfloat16)).all()


@both_ways
@pytest.mark.usefixtures("strict")
def test_promotes_nothing_silently(n):
    a = jnp.ones((2, n, n), jnp.bfloat16)
    for fn in (eigvalsh, jax.grad(lambda a: eigvalsh(a).sum())):
        jax.eval_shape(fn, a)


@pytest.mark.usefixtures("x64")
def test_derivatives(getkey):
    a = symmetric(getkey(), SMALL, SMALL)
    check_grads(eigvals, (a,), order=1, rtol=1e-6, atol=1e-6)
    a, da = symmetric(getkey(), 2, LARGE, LARGE)
    _, v = np.linalg.eigh(a)
    value, actual = jax.jvp(eigvals, (a,), (da,))
    np.testing.assert_allclose(value, eigvals(a), atol=1e-12)
    np.testing.assert_allclose(actual, np.diag(v.T @ da @ v), atol=1e-10)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("values", spectra(SMALL).values(), ids=spectra(SMALL))
def test_symmetric_functions_at_repeated_eigenvalues(getkey, values):
    a = psd_with_spectrum(getkey(), values)
    check_grads(exponentials, (a,), order=1, rtol=1e-6, atol=1e-6)


@jax.jit
def exponentials(a):
    return jnp.exp(eigvalsh(a) / 2).sum()


def test_gradients_in_float32_at_repeated_eigenvalues(getkey):
    """The gradient of tr exp(A / 2) is exp(A / 2) / 2."""
    values = spectra(LARGE)["repeated"]
    a = jnp.asarray(psd_with_spectrum(getkey(), values), jnp.float32)
    actual = jax.jit(jax.grad(exponentials))(a)
    assert_close(actual, jax.scipy.linalg.expm(a / 2) / 2, amplification=4)


@both_ways
@pytest.mark.parametrize(
    "second", [jax.hessian, lambda f: jax.grad(lambda a: jax.grad(f)(a).sum())]
)
def test_a_second_derivative_is_refused(second, n):
    message = "`eigvalsh` can be differentiated once only."
    with pytest.raises(NotImplementedError, match=re.escape(message)):
        jax.eval_shape(second(lambda a: (eigvals(a) ** 2).sum()), jnp.eye(n))


@both_ways
def test_lowers_for_gpu_and_tpu(n):
    a = jax.ShapeDtypeStruct((2, n, n), jnp.float32)
    fn = lambda a: (eigvalsh(a) ** 2).sum()
    for f in (fn, jax.grad(fn)):
        # Not for CPU and TPU in one: JAX would want all branches for both.
        for platforms in (["cuda", "tpu"], ["cpu", "cuda"]):
            jax.export.export(jax.jit(f), platforms=platforms)(a)


@pytest.mark.usefixtures("unchecked")
def test_messages():
    for shape in [(3,), (2, 3), (4, 2, 3)]:
        message = f"`matrix` must have shape (..., n, n); got {shape}."
        with pytest.raises(ValueError, match=re.escape(message)):
            eigvalsh(jnp.ones(shape))
    for bad in ("int32", "complex64"):
        message = f"`matrix` must have a real floating-point dtype; got {bad}."
        with pytest.raises(TypeError, match=re.escape(message)):
            eigvalsh(jnp.ones((2, 2), bad))
