import functools
import re

import jax
import jax.export
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

from jaxla.factor import eigvals_tridiagonal, sturm_count


eigvals = jax.jit(eigvals_tridiagonal, static_argnames="indices")
count = jax.jit(sturm_count)


def entries(key, *shape):
    """The diagonal and what is beside it of random matrices, in float64."""
    rng = np.random.default_rng(np.asarray(jax.random.key_data(key)))
    return rng.normal(size=shape), rng.normal(size=(*shape[:-1], shape[-1] - 1))


def dense(d, e) -> np.ndarray:
    d, e = np.asarray(d, "float64"), np.asarray(e, "float64")
    return np.diag(d) + np.diag(e, 1) + np.diag(e, -1)


def wilkinson(n: int):
    """Pairs of eigenvalues that agree to many digits."""
    return np.abs(np.arange(n) - (n - 1) / 2), np.ones(n - 1)


def split():
    """Two equal blocks, so that each eigenvalue is there twice."""
    return np.array([2.0, 0, 1, 2, 0, 1]), np.array([1.0, 0.5, 0, 1, 0.5])


def graded():
    d = 10.0 ** -np.arange(6)
    return d, 0.1 * np.sqrt(d[1:] * d[:-1])


def scalar():
    return np.full(6, 3.0), np.zeros(5)


CASES = {
    "generic": lambda: entries(jax.random.key(7), 6),
    "wilkinson": lambda: wilkinson(21),
    "split": split,
    "graded": graded,
    "scalar": scalar,
    "zero": lambda: (np.zeros(6), np.zeros(5)),
}
cases = pytest.mark.parametrize("case", CASES)


def assert_eigenvalues(actual, d, e, indices=slice(None)):
    """Absolute errors of at most 2 u |T|, and what the oracle's last digits take."""
    desired = np.linalg.eigvalsh(dense(d, e))
    norm = np.abs(desired).max()
    u = float(jnp.finfo(actual.dtype).eps) / 2
    tolerance = (2 * u + 30 * np.finfo("float64").eps) * norm
    assert (np.abs(np.asarray(actual, "float64") - desired[indices]) <= tolerance).all()


@cases
def test_matches_numpy(dtype, case):
    d, e = (jnp.asarray(a, dtype) for a in CASES[case]())
    actual = eigvals(d, e)
    assert actual.dtype == dtype
    assert (np.diff(actual) >= 0).all()
    assert_eigenvalues(actual, d, e)


@pytest.mark.parametrize("indices", [(0, 1), (2, 4), (5, 6), (3, 3)])
def test_some_of_them(dtype, indices):
    d, e = (jnp.asarray(a, dtype) for a in split())
    assert_eigenvalues(eigvals(d, e, indices=indices), d, e, slice(*indices))


def test_a_size_that_is_not_small(getkey, dtype):
    d, e = (jnp.asarray(a, dtype) for a in entries(getkey(), 133))
    assert_eigenvalues(eigvals(d, e), d, e)
    assert_eigenvalues(eigvals(d, e, indices=(66, 70)), d, e, slice(66, 70))


@cases
def test_counts_are_exact_away_from_eigenvalues(dtype, case):
    d, e = (jnp.asarray(a, dtype) for a in CASES[case]())
    values = np.linalg.eigvalsh(dense(d, e))
    norm = np.abs(values).max()
    u = float(jnp.finfo(dtype).eps) / 2
    spread = np.random.default_rng(0).uniform(-1.5, 1.5, 300) * norm
    beside = np.add.outer(values, [-8 * u * norm, 8 * u * norm, 1e-3]).ravel()
    x = np.asarray(jnp.asarray(np.concatenate([spread, beside]), dtype), "float64")
    far = np.abs(x[:, None] - values).min(-1) > 3 * u * norm
    desired = (values < x[:, None]).sum(-1)
    actual = count(d, e, jnp.asarray(x, dtype))
    assert actual.dtype == jnp.int32
    assert (actual == desired)[far].all()
    assert far.sum() >= 300 or case == "zero"


def test_an_eigenvalue_is_not_below_itself(dtype):
    d = jnp.array([1.0, 3.0, 3.0, 4.0], dtype)
    actual = count(
        d, jnp.zeros(3, dtype), jnp.array([1, 3, 3.5, 4, np.inf, -np.inf], dtype)
    )
    assert actual.tolist() == [0, 1, 3, 3, 4, 0]


def test_counts_broadcast(getkey):
    d, e = (jnp.asarray(a, jnp.float32) for a in entries(getkey(), 3, 4))
    values = np.stack([np.linalg.eigvalsh(dense(*de)) for de in zip(d, e, strict=True)])
    x = jnp.linspace(-2, 2, 4, dtype=jnp.float32)
    desired = (values[None] < np.asarray(x)[:, None, None]).sum(-1)
    assert (count(d, e, x[:, None]) == desired).all()
    assert (count(d, e, 0.5) == (values < 0.5).sum(-1)).all()
    assert count(d[0], e[0], 0.5).shape == ()


def test_jit_vmap_and_loop_agree(getkey):
    d, e = (jnp.asarray(a, jnp.float32) for a in entries(getkey(), 2, 3, 5))
    native = eigvals_tridiagonal(d, e, indices=(1, 4))
    jitted = eigvals(d, e, indices=(1, 4))
    mapped = jax.vmap(jax.vmap(functools.partial(eigvals, indices=(1, 4))))(d, e)
    loop = [
        [eigvals(d[i, j], e[i, j], indices=(1, 4)) for j in range(3)] for i in range(2)
    ]
    for other in (jitted, mapped, jnp.array(loop)):
        assert (native == other).all()
    assert (eigvals(d, e[0, 0]) == eigvals(d, jnp.broadcast_to(e[0, 0], e.shape))).all()


def test_small_and_empty():
    dtype = jnp.float32
    assert eigvals(jnp.array([-3.0], dtype), jnp.zeros(0, dtype)).tolist() == [-3]
    for shape in [(0,), (2, 0), (0, 3)]:
        d = jnp.ones(shape, dtype)
        e = jnp.ones((*shape[:-1], max(shape[-1] - 1, 0)), dtype)
        assert eigvals(d, e).shape == shape
        assert count(d, e, jnp.zeros(shape[:-1], dtype)).shape == shape[:-1]
        assert not count(d, e, jnp.zeros(shape[:-1], dtype)).any()
        assert jax.grad(lambda d, e=e: eigvals(d, e).sum())(d).shape == shape


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_bad_member_stays_alone(getkey, bad):
    d, e = (jnp.asarray(a, jnp.float32) for a in entries(getkey(), 3, 4))
    clean, counts = eigvals(d, e), count(d, e, jnp.float32(0.1))
    grad = jax.jit(jax.grad(lambda d, e: (eigvals(d, e) ** 2).sum(), argnums=(0, 1)))
    clean_grads, others = grad(d, e), jnp.array([0, 2])
    for spoilt in [(d.at[1, 2].set(bad), e), (d, e.at[1, 0].set(bad))]:
        out = eigvals(*spoilt)
        assert jnp.isnan(out[1]).all()
        assert (out[others] == clean[others]).all()
        number = count(*spoilt, jnp.float32(0.1))
        assert number[1] == -1
        assert (number[others] == counts[others]).all()
        for actual, desired in zip(grad(*spoilt), clean_grads, strict=True):
            assert jnp.isnan(actual[1]).all()
            assert (actual[others] == desired[others]).all()
    assert count(d, e, jnp.float32(np.nan)).tolist() == [-1, -1, -1]


def test_scale_equivariance(getkey, dtype):
    d, e = (jnp.asarray(a, dtype) for a in entries(getkey(), 6))
    plain, counts = eigvals(d, e), count(d, e, d)
    for exponent in (-100, -40, 40, 100):
        scale = jnp.asarray(2.0**exponent, dtype)
        assert (eigvals(scale * d, scale * e) == scale * plain).all()
        assert (count(scale * d, scale * e, scale * d) == counts).all()


@pytest.mark.parametrize("half", [jnp.bfloat16, jnp.float16])
def test_half_precision_is_computed_in_float32(getkey, half):
    d, e = (jnp.asarray(a, half) for a in entries(getkey(), 6))
    wide = eigvals(d.astype(jnp.float32), e.astype(jnp.float32))
    assert eigvals(d, e).dtype == half
    assert (eigvals(d, e) == wide.astype(half)).all()


@pytest.mark.usefixtures("strict")
@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float32])
def test_promotes_nothing_silently(dtype):
    d, e = jnp.ones((2, 5), dtype), jnp.ones((2, 4), dtype)
    jax.eval_shape(jax.grad(lambda d: eigvals_tridiagonal(d, e).sum()), d)
    jax.eval_shape(sturm_count, d[0], e, jnp.ones((3, 1), dtype))


def exact_slopes(d, e, dd, de) -> np.ndarray:
    _, v = np.linalg.eigh(dense(d, e))
    return np.diag(v.T @ dense(dd, de) @ v)


@pytest.mark.usefixtures("x64")
def test_forward_derivative_where_that_of_jax_is_wrong():
    """JAX differentiates the first bracket of its bisection, silently."""
    d, e = np.array([1.0, -0.5, 0.3, 2, -1, 0.7]), np.array([0.9, -0.4, 1.1, 0.6, -0.8])
    dd, de = np.array([-1.0, -1, -1, -0.5, -1, -0.7]), np.full(5, 0.1)
    desired = exact_slopes(d, e, dd, de)
    jvp = lambda fn: jax.jvp(fn, (d, e), (dd, de))[1]
    np.testing.assert_allclose(jvp(eigvals), desired, rtol=1e-12)
    theirs = functools.partial(jax.scipy.linalg.eigh_tridiagonal, eigvals_only=True)
    np.testing.assert_allclose(theirs(d, e), eigvals(d, e), atol=1e-12)
    # The day that this fails, the docs must not speak of it any more.
    assert np.abs(jvp(theirs) - desired).max() > 0.1


@pytest.mark.usefixtures("x64")
def test_derivatives(getkey):
    d, e = entries(getkey(), 6)
    some = functools.partial(eigvals, indices=(1, 4))
    check_grads(some, (d, e), order=1, rtol=1e-6, atol=1e-6)


@pytest.mark.usefixtures("x64")
def test_symmetric_functions_at_repeated_eigenvalues():
    fn = jax.jit(lambda d, e: jnp.exp(eigvals_tridiagonal(d, e) / 3).sum())
    for case in ("split", "scalar", "zero"):
        check_grads(fn, CASES[case](), order=1, rtol=1e-6, atol=1e-6)


BLOCKS = np.tile([2.0, 0, 1, 5], 16), np.tile([1, 0.5, 0.2, 0], 16)[:-1]
# With a number of eigenvalues that cuts no cluster.
LARGE = {
    "generic": (6, entries(jax.random.key(3), 64)),
    "wilkinson": (6, tuple(-a for a in wilkinson(64))),
    "split": (16, BLOCKS),
    "close": (6, (np.arange(64) // 3 + 1e-9 * np.arange(64), np.zeros(63))),
}


@pytest.mark.parametrize("case", LARGE)
def test_inverse_iteration(dtype, case):
    """The same derivatives as from all eigenvectors, also in clusters."""
    kept, (d, e) = LARGE[case]
    dd, de = entries(jax.random.key(4), 64)
    values, v = np.linalg.eigh(dense(d, e))
    slopes = np.exp(values / 3) / 3 * np.diag(v.T @ dense(dd, de) @ v)
    d, e, dd, de = (jnp.asarray(a, dtype) for a in (d, e, dd, de))
    loss = lambda d, e: jnp.exp(eigvals(d, e, indices=(0, kept)) / 3).sum()
    actual = jax.jvp(loss, (d, e), (dd, de))[1]
    tolerance = 300 * float(jnp.finfo(dtype).eps)
    np.testing.assert_allclose(actual, slopes[:kept].sum(), tolerance, tolerance)


def test_inverse_iteration_where_all_eigenvalues_are_equal(dtype):
    """Any orthonormal eigenvectors will do: a multiple of the identity moves all."""
    d, e = jnp.full(64, 3.0, dtype), jnp.zeros(63, dtype)
    fn = lambda d: eigvals(d, e, indices=(0, 6))
    slopes = jax.jvp(fn, (d,), (jnp.ones_like(d),))[1]
    np.testing.assert_allclose(slopes, 1, rtol=50 * jnp.finfo(dtype).eps)


@pytest.mark.usefixtures("x64")
def test_inverse_iteration_resolves_close_eigenvalues():
    n, gap = 64, 1e-9
    d = np.arange(n, dtype="float64")
    d[1] = gap
    e = np.zeros(n - 1)
    e[0] = gap
    dd, de = entries(jax.random.key(5), n)
    actual = jax.jvp(functools.partial(eigvals, indices=(0, 3)), (d, e), (dd, de))[1]
    np.testing.assert_allclose(actual, exact_slopes(d, e, dd, de)[:3], atol=1e-5)


@pytest.mark.parametrize(
    "second", [jax.hessian, lambda f: jax.grad(lambda d: jax.grad(f)(d).sum())]
)
def test_a_second_derivative_is_refused(second):
    message = "`eigvals_tridiagonal` can be differentiated once only."
    for n, indices in [(3, None), (64, (0, 2))]:
        e = jnp.ones(n - 1)
        fn = lambda d, e=e, i=indices: (eigvals(d, e, indices=i) ** 2).sum()
        with pytest.raises(NotImplementedError, match=re.escape(message)):
            jax.eval_shape(second(fn), jnp.ones(n))


def test_lowers_for_gpu_and_tpu():
    d = jax.ShapeDtypeStruct((2, 64), jnp.float32)
    e = jax.ShapeDtypeStruct((2, 63), jnp.float32)
    for indices in (None, (0, 3)):
        fn = lambda d, e, i=indices: (eigvals_tridiagonal(d, e, indices=i) ** 2).sum()
        for f in (fn, jax.grad(fn)):
            jax.export.export(jax.jit(f), platforms=["cuda", "tpu"])(d, e)
    x = jax.ShapeDtypeStruct((2,), jnp.float32)
    jax.export.export(jax.jit(sturm_count), platforms=["cuda", "tpu"])(d, e, x)


@pytest.mark.usefixtures("unchecked")
def test_messages():
    three, two = jnp.ones(3), jnp.ones(2)
    for fn in (eigvals_tridiagonal, lambda d, e: sturm_count(d, e, 0.0)):
        with pytest.raises(
            ValueError, match=re.escape("`d` must have shape (..., n); got ().")
        ):
            fn(jnp.float32(1), two)
        message = "`e` must have shape (..., 2); got (3,)."
        with pytest.raises(ValueError, match=re.escape(message)):
            fn(three, three)
        message = "`d` must have a real floating-point dtype; got int32."
        with pytest.raises(TypeError, match=re.escape(message)):
            fn(jnp.arange(3, dtype="int32"), two)
        message = "`e` must have a real floating-point dtype; got complex64."
        with pytest.raises(TypeError, match=re.escape(message)):
            fn(three, two.astype("complex64"))
    message = "`x` must have a real floating-point dtype; got int32."
    with pytest.raises(TypeError, match=re.escape(message)):
        sturm_count(three, two, jnp.int32(1))
    for indices, message in [
        ((-1, 2), "`indices[0]` must be an integer, between 0 and 3; got -1."),
        ((2, 1), "`indices[1]` must be an integer, between 2 and 3; got 1."),
        ((0, 4), "`indices[1]` must be an integer, between 0 and 3; got 4."),
    ]:
        with pytest.raises(ValueError, match=re.escape(message)):
            eigvals_tridiagonal(three, two, indices=indices)
    with pytest.raises(TypeError, match="`indices` must be two integers; got 1"):
        eigvals_tridiagonal(three, two, indices=1)
