import re

import jax
import jax.export
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

from jaxla.factor import eigh
from tests.helpers import assert_close, psd_with_spectrum


WAYS = [(2, "closed"), (3, "closed"), (3, "jacobi"), (4, "jacobi"), (5, "lapack")]
eigh_of = jax.jit(eigh, static_argnames=("method", "broadening"))


def symmetric(key, size, count=None):
    """Of many kinds: generic, of two values, clustered, graded, sparse, zero."""
    rng = np.random.default_rng(np.asarray(jax.random.key_data(key)))
    g = rng.standard_normal((40, size, size))
    q = np.linalg.qr(g)[0]
    spectra = rng.choice([0.0, 1.0], (40, size))
    close = spectra + 10 ** rng.uniform(-7, -2, (40, size))
    graded = 10 ** rng.uniform(-5, 0, (40, size))
    two, near = ((q * w[:, None]) @ q.swapaxes(1, 2) for w in (spectra, close))
    s = (g + g.swapaxes(1, 2)) / 2
    kinds = [s, two, near, s * graded[:, :, None] * graded[:, None]]
    kinds += [np.sign(s), np.where(abs(s) > 1, s, 0), np.eye(size) + 1e-4 * s]
    special = [np.zeros((size, size)), np.ones((size, size)), np.diag(np.arange(size))]
    out = np.concatenate([*kinds, np.array(special, "float64"), -s])
    return out[:count] if count else out


def check(matrix, out):
    """Residual, orthogonality and order; and eigenvalues against NumPy's."""
    matrix, n = np.asarray(matrix, "float64"), matrix.shape[-1]
    w, v = (np.asarray(x, "float64") for x in out)
    eps = float(jnp.finfo(out.eigenvalues.dtype).eps)
    norm = np.linalg.norm(matrix, axis=(-2, -1))
    rest = np.linalg.norm(matrix @ v - v * w[..., None, :], axis=(-2, -1))
    assert (rest <= 4 * n**0.5 * eps * norm).all()
    turned = np.linalg.norm(v.swapaxes(-2, -1) @ v - np.eye(n), axis=(-2, -1))
    assert (turned <= 4 * n * eps).all()
    assert (np.diff(w) >= 0).all()
    error = abs(w - np.linalg.eigvalsh(matrix)).max(-1, initial=0)
    assert (error <= 4 * n**0.5 * eps * norm).all()


@pytest.mark.parametrize(("size", "method"), WAYS)
def test_decomposes_matrices_of_all_kinds(getkey, dtype, size, method):
    given = jnp.asarray(symmetric(getkey(), size), dtype)
    out = eigh_of(given, method=method)
    assert out.eigenvalues.dtype == out.eigenvectors.dtype == dtype
    check(given, out)


@pytest.mark.parametrize("size", [2, 4, 11])
def test_auto(getkey, size):
    given = jnp.asarray(symmetric(getkey(), size), jnp.float32)
    check(given, eigh_of(given))
    check(given[0], eigh_of(given[0]))


def test_auto_counts_what_vmap_adds(getkey):
    given = jnp.asarray(symmetric(getkey(), 4), jnp.float32)[:192].reshape(2, 96, 4, 4)
    native = eigh_of(given, method="jacobi")
    for fn in (eigh_of, jax.jit(jax.vmap(jax.vmap(eigh)))):
        for actual, desired in zip(fn(given), native, strict=True):
            assert (actual == desired).all()
    single = eigh_of(given[0, 3])
    assert_close(single.eigenvalues, native.eigenvalues[0, 3], amplification=10)


@pytest.mark.parametrize(("size", "method"), [(2, "closed"), (4, "jacobi")])
def test_vmap_and_loop_agree(getkey, size, method):
    given = jnp.asarray(symmetric(getkey(), size, 6), jnp.float32)
    fn = jax.jit(lambda a: eigh(a, method=method))
    native, mapped = fn(given), jax.vmap(fn)(given)
    loop = [fn(a) for a in given]
    for i, desired in enumerate(native):
        assert_close(mapped[i], desired, amplification=10)
        assert_close(jnp.array([x[i] for x in loop]), desired, amplification=10)


@pytest.mark.parametrize(
    ("size", "method"), [(2, "closed"), (3, "closed"), (4, "jacobi")]
)
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_bad_matrix_is_nan_and_touches_no_other(getkey, size, method, bad):
    clean = jnp.asarray(symmetric(getkey(), size), jnp.float32)
    desired = eigh_of(clean, method=method)
    out = eigh_of(clean.at[1, 0, size - 1].set(bad), method=method)
    others = np.arange(len(clean)) != 1
    for actual, wanted in zip(out, desired, strict=True):
        assert jnp.isnan(actual[1]).all()
        assert (actual[others] == wanted[others]).all()


def test_a_matrix_does_not_depend_on_its_batch(getkey):
    """Clustered eigenvalues take sweeps more, which leave the others as they are."""
    kinds = jnp.asarray(symmetric(getkey(), 8), jnp.float32)
    generic, clustered = kinds[:40], kinds[80:120]
    alone = eigh_of(jnp.concatenate([generic, generic]), method="jacobi")
    mixed = eigh_of(jnp.concatenate([generic, clustered]), method="jacobi")
    for one, other in zip(alone, mixed, strict=True):
        assert (one[:40] == other[:40]).all()


@pytest.mark.parametrize(
    ("size", "method"), [(2, "closed"), (3, "closed"), (4, "jacobi")]
)
def test_diagonal_matrices_have_unit_vectors(size, method):
    given = jnp.diag(jnp.arange(1.0, size + 1))[None]
    vectors = abs(eigh_of(given, method=method).eigenvectors)
    np.testing.assert_allclose(vectors[0], np.eye(size), atol=1e-15)


@pytest.mark.parametrize(
    ("size", "method"), [(2, "closed"), (3, "closed"), (4, "jacobi")]
)
def test_scale(getkey, dtype, size, method):
    given = jnp.asarray(symmetric(getkey(), size), dtype)
    plain = eigh_of(given, method=method)
    for power in (-40, 100):
        out = eigh_of(given * 2.0**power, method=method)
        assert (out.eigenvalues == plain.eigenvalues * 2.0**power).all()
        assert (out.eigenvectors == plain.eigenvectors).all()


@pytest.mark.usefixtures("x64")
def test_small_eigenvalue_of_2x2_is_from_the_determinant():
    w = eigh_of(np.array([[1.0, 1e-9], [1e-9, 1e-15]])).eigenvalues
    np.testing.assert_allclose(w, [1e-15 - 1e-18, 1.0], rtol=1e-9)


@pytest.mark.parametrize("method", ["auto", "jacobi", "lapack"])
def test_small_and_empty(dtype, method):
    out = eigh(jnp.full((2, 1, 1), -3.0, dtype), method=method)
    assert (out.eigenvalues == -3).all()
    assert (abs(out.eigenvectors) == 1).all()
    for shape in [(0, 0), (0, 3, 3), (0, 4, 4), (2, 0, 0)]:
        out = eigh(jnp.ones(shape, dtype), method=method)
        assert out.eigenvalues.shape == shape[:-1]
        assert out.eigenvectors.shape == shape
        assert out.eigenvectors.dtype == dtype


def test_takes_the_symmetric_part():
    given = jnp.array([[2.0, 3.0], [-1.0, 2.0]])
    np.testing.assert_allclose(eigh_of(given).eigenvalues, [1, 3], rtol=1e-6)


@pytest.mark.usefixtures("strict")
@pytest.mark.parametrize("half", [jnp.bfloat16, jnp.float32])
def test_promotes_nothing_silently(half):
    for size, method in ((3, "closed"), (4, "jacobi")):
        given = jnp.eye(size, dtype=half)[None]
        assert eigh_of(given, method=method).eigenvectors.dtype == half
    loss = lambda a: eigh(a, broadening=0.1).eigenvectors.sum()
    assert jax.grad(loss)(jnp.eye(3, dtype=half)).dtype == half


def test_half_precision_is_computed_in_float32(getkey):
    given = jnp.asarray(symmetric(getkey(), 4, 64), jnp.bfloat16)
    out, wide = eigh_of(given), eigh_of(given.astype(jnp.float32))
    assert (out.eigenvalues == wide.eigenvalues.astype(jnp.bfloat16)).all()


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize(("size", "method"), [(3, "closed"), (4, "lapack")])
def test_derivatives_at_distinct_eigenvalues(getkey, size, method):
    """Of a loss that does not depend on signs."""
    given = psd_with_spectrum(getkey(), [0.5, 0.9, 1.7, 2.6][:size])
    weights = np.random.default_rng(0).standard_normal((size, size))

    def loss(a):
        w, v = eigh(a, method=method, broadening=0.0)
        return jnp.stack([(weights * v**2).sum(), (weights[0] * w**2).sum()])

    check_grads(jax.jit(loss), (given,), order=1, rtol=1e-6, atol=1e-6)


@pytest.mark.usefixtures("x64")
def test_broadening_bounds_the_derivative_at_repeated_eigenvalues():
    direction = np.array([[0.0, 1, 0], [1, 0, 0], [0, 0, 0]])
    for gap in (0.0, 1e-9, 1e-3, 1.0):
        given = np.diag([1.0, 1.0 + gap, 5.0])
        run = lambda b, a=given: jax.jvp(
            lambda x: eigh(x, broadening=b), (a,), (direction,)
        )
        (w, _), (dw, dv) = run(1e-3)
        np.testing.assert_allclose(w, np.diag(given), rtol=1e-14)
        np.testing.assert_allclose(dw, 0, atol=1e-14)
        desired = gap / (gap**2 + (1e-3 * 5) ** 2)
        np.testing.assert_allclose(abs(dv[0, 1]), desired, rtol=1e-6)
        exact = abs(run(0.0)[1][1][0, 1])
        np.testing.assert_allclose(exact, 1 / gap if gap else 0, rtol=1e-6)
    zero = jax.jvp(lambda x: eigh(x, broadening=0.1), (np.zeros((3, 3)),), (direction,))
    assert (zero[1][1] == 0).all()


@pytest.mark.usefixtures("x64")
def test_the_gradient_of_the_trace_is_the_identity_at_repeated_eigenvalues():
    loss = lambda a: eigh(a, broadening=0.0).eigenvalues.sum()
    for given in (np.eye(3), np.zeros((3, 3)), np.diag([1.0, 1, 2, 3])):
        np.testing.assert_allclose(jax.grad(loss)(given), np.eye(len(given)), atol=1e-12)


def test_a_derivative_is_refused():
    message = "`jaxla.factor.eigvalsh`, for functions of a matrix"
    for method in ("auto", "jacobi"):
        loss = lambda a, m=method: eigh(a, method=m).eigenvalues.sum()
        for differentiate in (jax.grad, jax.jacfwd):
            with pytest.raises(NotImplementedError, match=re.escape(message)):
                differentiate(loss)(jnp.eye(3))
    stopped = lambda a: eigh(jax.lax.stop_gradient(a)).eigenvalues.sum() + a.sum()
    assert (jax.grad(stopped)(jnp.eye(3)) == 1).all()


def test_a_second_derivative_is_refused():
    loss = lambda a: (eigh(a, broadening=0.1).eigenvectors ** 3).sum()
    for outer in (jax.jacfwd, jax.jacrev):
        for inner in (jax.grad, jax.jacfwd):
            with pytest.raises(NotImplementedError, match="differentiated once only"):
                outer(inner(loss))(jnp.diag(jnp.arange(3.0)))


@pytest.mark.parametrize(("size", "method"), [(3, "closed"), (4, "jacobi")])
def test_lowers_for_accelerators(size, method):
    given = jax.ShapeDtypeStruct((64, size, size), jnp.float32)
    fn = lambda a: eigh(a, method=method, broadening=0.1).eigenvectors
    for one in (fn, jax.grad(lambda a: (fn(a) ** 3).sum())):
        exported = jax.export.export(jax.jit(one), platforms=["cuda", "tpu"])(given)
        assert exported.out_avals[0].shape == given.shape


@pytest.mark.usefixtures("unchecked")
def test_messages():
    for shape in [(3,), (2, 3)]:
        message = f"`matrix` must have shape (..., n, n); got {shape}."
        with pytest.raises(ValueError, match=re.escape(message)):
            eigh(jnp.ones(shape))
    with pytest.raises(TypeError, match="`matrix` must have a real floating-point dtype"):
        eigh(jnp.ones((2, 2), int))
    with pytest.raises(ValueError, match="`method` must be one of 'auto', 'closed'"):
        eigh(jnp.eye(2), method="qr")
    message = '`method` "closed" is for sizes up to 3; got (4, 4).'
    with pytest.raises(ValueError, match=re.escape(message)):
        eigh(jnp.eye(4), method="closed")
    for bad in (-1.0, np.nan, "a", True):
        message = f"`broadening` must be a number of at least 0, or None; got {bad!r}."
        with pytest.raises(ValueError, match=re.escape(message)):
            eigh(jnp.eye(2), broadening=bad)
