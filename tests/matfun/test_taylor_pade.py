import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxla.matfun import pade_sqrtm, taylor_sqrtm
from jaxla.matfun._taylor_pade import _binomial_series, _pade_coefficients
from tests.helpers import assert_close, assert_lowers_for_accelerators, psd_with_spectrum


BOTH = [taylor_sqrtm, pade_sqrtm]
compiled = {
    fn: jax.jit(fn, static_argnames=("inverse", "degree", "backward_steps"))
    for fn in BOTH
}


def exact(matrix, exponent):
    values, vectors = np.linalg.eigh(matrix)
    return (vectors * values**exponent) @ vectors.T


@pytest.mark.parametrize("degree", [1, 5, 8])
def test_pade_approximants_agree_with_the_series_to_twice_their_degree(degree):
    above, below = _pade_coefficients(degree)
    product = np.convolve(_binomial_series(0.5, 2 * degree + 1), below)
    product[: degree + 1] -= above
    np.testing.assert_allclose(product[: 2 * degree + 1], 0, atol=1e-15)
    assert abs(product[2 * degree + 1]) > 1e-12
    assert len(above) == len(below) == degree + 1


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize(
    ("fn", "options", "errors"),
    [
        # Measured apart from this code, with the formulas of the paper.
        (taylor_sqrtm, {}, (8.7e-2, 2.3e-1, 3.7e-1, 4.8e-1)),
        (pade_sqrtm, {}, (1.0e-2, 6.4e-2, 1.4e-1, 2.1e-1)),
        (pade_sqrtm, {"inverse": True}, (2.5e-2, 2.8e-1, 6.5e-1, 8.7e-1)),
        (pade_sqrtm, {"degree": 10}, (2.7e-4, 1.1e-2, 4.7e-2, 8.6e-2)),
    ],
)
def test_the_papers_accuracy(getkey, fn, options, errors):
    """At condition 10 to 1e4, n = 64: that of the method, not of rounding errors."""
    for condition, expected in zip((1e1, 1e2, 1e3, 1e4), errors, strict=True):
        matrix = psd_with_spectrum(getkey(), np.geomspace(1 / condition, 1, 64))
        desired = exact(matrix, -0.5 if "inverse" in options else 0.5)
        actual = compiled[fn](matrix, **options).root
        error = np.linalg.norm(actual - desired) / np.linalg.norm(desired)
        np.testing.assert_allclose(error, expected, rtol=0.05)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("fn", BOTH)
@pytest.mark.parametrize("inverse", [False, True])
def test_converges_to_the_root(getkey, fn, inverse):
    matrix = psd_with_spectrum(getkey(), [0.8, 1, 1, 1.2])
    desired = exact(matrix, -0.5 if inverse else 0.5)
    errors = []
    for degree in (3, 6, 12, 40 if fn is taylor_sqrtm else 12):
        root, residual = compiled[fn](matrix, inverse=inverse, degree=degree)
        errors.append(np.linalg.norm(root - desired))
    assert (np.diff(errors) <= 0).all()
    assert errors[-1] < 1e-9
    assert residual < 1e-9


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("inverse", [False, True])
def test_derivatives_where_all_has_converged(getkey, inverse):
    """Of first and second order, in both modes, at repeated eigenvalues too."""
    direction = psd_with_spectrum(getkey(), [-0.2, 0.1, 0.3, 0.5])
    options = {"inverse": inverse, "degree": 20, "backward_steps": 16}
    sign = -0.5 if inverse else 0.5

    def along(t, matrix):
        return (
            pade_sqrtm(matrix + t * direction, **options).root * (direction + 1)
        ).sum()

    def truth(t, matrix):
        return (exact(matrix + t * direction, sign) * (direction + 1)).sum()

    first = jax.jit(jax.grad(along))
    second = jax.jit(jax.jacfwd(jax.grad(along)))
    for spectrum in ([1, 1, 1, 1], [0.7, 1, 1, 1.3], [0.6, 0.8, 1, 1.2]):
        matrix, h = psd_with_spectrum(getkey(), spectrum), 1e-3
        plus, zero, minus = (truth(t, matrix) for t in (h, 0, -h))
        np.testing.assert_allclose(first(0.0, matrix), (plus - minus) / 2 / h, rtol=1e-5)
        curvature = (plus - 2 * zero + minus) / h**2
        np.testing.assert_allclose(second(0.0, matrix), curvature, rtol=1e-4)


@pytest.mark.usefixtures("x64")
def test_backward_steps_are_those_of_newton_and_schulz(getkey):
    """One step by hand, from the paper's equations."""
    matrix = psd_with_spectrum(getkey(), [0.5, 1, 1.5])
    g = psd_with_spectrum(getkey(), [-1, 2, 3])
    s, pullback = jax.vjp(lambda a: taylor_sqrtm(a, backward_steps=1).root, matrix)
    norm = np.linalg.norm(s)
    b, c, eye = np.asarray(s) / norm, g / norm, np.eye(3)
    c = (c @ (3 * eye - b @ b) - b @ b @ c + b @ c @ b) / 2
    assert_close(pullback(jnp.asarray(g))[0], c / 2, amplification=20)


@pytest.mark.parametrize("fn", BOTH)
def test_batches_are_normalized_one_by_one(getkey, dtype, fn):
    matrices = [s * psd_with_spectrum(getkey(), [0.5, 1, 1, 2]) for s in (1e-9, 1, 1e9)]
    matrices = jnp.asarray(np.stack(matrices), dtype)
    for inverse in (False, True):
        native = compiled[fn](matrices, inverse=inverse)
        mapped = jax.vmap(lambda a, i=inverse: fn(a, inverse=i))(matrices)
        for k, matrix in enumerate(matrices):
            single = compiled[fn](matrix, inverse=inverse)
            assert_close(native.root[k], single.root, amplification=20)
            assert_close(mapped.root[k], single.root, amplification=20)


@pytest.mark.parametrize("fn", BOTH)
@pytest.mark.parametrize("inverse", [False, True])
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_bad_matrix_is_flagged_and_touches_no_other(getkey, fn, inverse, bad):
    clean = jnp.array([psd_with_spectrum(getkey(), [0.5, 1, 2])] * 3, jnp.float32)
    desired = compiled[fn](clean, inverse=inverse)
    out = compiled[fn](clean.at[1, 0, 2].set(bad), inverse=inverse)
    assert (out.root[1] == 0).all()
    assert out.residual[1] == jnp.inf
    assert (out.root[::2] == desired.root[::2]).all()
    assert (out.residual[::2] == desired.residual[::2]).all()


@pytest.mark.parametrize("fn", BOTH)
def test_zero_small_and_empty(dtype, fn):
    zero = jnp.zeros((3, 3), dtype)
    assert (compiled[fn](zero).root == 0).all()
    assert compiled[fn](zero, inverse=True).residual == jnp.inf
    assert jnp.isfinite(jax.grad(lambda a: fn(a).root.sum())(zero)).all()
    # The norm of a number is the number: no error at all.
    assert_close(compiled[fn](jnp.full((1, 1), 9.0, dtype)).root, np.full((1, 1), 3))
    for shape in [(0, 0), (0, 3, 3), (2, 0, 0)]:
        root, residual = compiled[fn](jnp.ones(shape, dtype))
        assert root.shape == shape
        assert residual.shape == shape[:-2]


@pytest.mark.usefixtures("strict")
@pytest.mark.parametrize("half", [jnp.bfloat16, jnp.float32])
@pytest.mark.parametrize("fn", BOTH)
def test_half_precision_and_strict_promotion(half, fn):
    loss = lambda a: fn(a, inverse=True).root.sum()
    assert jax.jit(jax.grad(loss))(jnp.eye(3, dtype=half)).dtype == half


@pytest.mark.parametrize("fn", BOTH)
def test_lowers_for_accelerators(fn):
    matrix = jnp.ones((2, 4, 4), jnp.float32)
    assert_lowers_for_accelerators(lambda a: fn(a).root, matrix)


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("fn", BOTH)
def test_messages(fn):
    message = "`matrix` must have shape (..., n, n); got (2, 3)."
    with pytest.raises(ValueError, match=re.escape(message)):
        fn(jnp.ones((2, 3)))
    for name in ("degree", "backward_steps"):
        with pytest.raises(ValueError, match=f"`{name}` must be an integer, at least 1"):
            fn(jnp.eye(2), **{name: 0})
