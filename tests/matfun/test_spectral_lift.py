"""What all spectral projections and proximal operators have in common."""

import functools
import re

import jax
import jax.export
import jax.numpy as jnp
import numpy as np
import pytest

from jaxla import matfun
from tests.helpers import assert_close

from .spectral_table import CASES, jitted, matrix, SPECTRA


EACH = pytest.mark.parametrize("name", CASES)
# One for each way through the code that all go.
SOME = pytest.mark.parametrize(
    "name",
    [
        "project_nuclear_epigraph",
        "project_sum_of_largest_epigraph",
        "project_trace_inverse_cone",
        "prox_entropy",
    ],
)


def batch(key, case, dtype=np.float32):
    spectra = [SPECTRA["apart"], SPECTRA["repeated"], [0.5, 0.4, 0.3, 0.2]]
    return np.array([matrix(key, case, s) for s in spectra]).astype(dtype)


@SOME
def test_a_batch_is_its_members(getkey, name):
    """Also one that is mapped; and scalars are one for all, or one for each."""
    case = CASES[name]
    x = batch(getkey(), case)
    native = jitted(name)(x, *case.scalars)
    each = [np.full(3, s, np.float32) for s in case.scalars]
    mapped = jax.jit(jax.vmap(case.call))(x, *each)
    loop = [jitted(name)(a, *case.scalars) for a in x]
    for i, out in enumerate(native):
        assert out.dtype == jnp.float32
        for other in (mapped[i], jnp.stack([member[i] for member in loop])):
            assert_close(other, out, amplification=30)


@EACH
def test_scale_equivariance(getkey, name):
    case = CASES[name]
    x = batch(getkey(), case)
    plain = jitted(name)(x, *case.scalars)
    for scale in (2.0**-30, 1e-30, 1e12, 1e30):
        if case.degree is None or not 1e-37 < scale**case.degree < 1e37:
            continue
        scalars = [np.float32(s * scale**case.degree) for s in case.scalars]
        scaled = jitted(name)(np.float32(scale) * x, *scalars)
        for small, large in zip(plain, scaled, strict=True):
            desired = np.asarray(small, "float64") * scale
            assert_close(large, desired, amplification=100)


@EACH
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_bad_member_is_nan_and_touches_no_other(getkey, name, bad):
    case = CASES[name]
    x = batch(getkey(), case)
    desired = jitted(name)(x, *case.scalars)
    x[1, 2, 0] = bad
    for out, other in zip(jitted(name)(x, *case.scalars), desired, strict=True):
        assert jnp.isnan(out[1]).all()
        assert (out[::2] == other[::2]).all()


@SOME
def test_a_bad_scalar_is_like_a_bad_matrix(getkey, name):
    case = CASES[name]
    x = batch(getkey(), case)
    for bad in (np.nan, np.inf):
        scalars = [np.full(3, s, np.float32) for s in case.scalars]
        scalars[-1][1] = bad
        for out in jitted(name)(x, *scalars):
            assert jnp.isnan(out[1]).all()
            assert jnp.isfinite(out[::2]).all()


@SOME
def test_half_precision_is_computed_in_float32(getkey, name):
    case = CASES[name]
    x = jnp.asarray(batch(getkey(), case), jnp.bfloat16)
    wide = jitted(name)(x.astype(jnp.float32), *case.scalars)
    for out, desired in zip(jitted(name)(x, *case.scalars), wide, strict=True):
        assert out.dtype == jnp.bfloat16
        assert_close(out, desired)


@EACH
@pytest.mark.usefixtures("strict")
def test_promotes_nothing_silently(name):
    case = CASES[name]
    shape = (3, 3) if case.symmetric else (4, 3)
    scalars = [jnp.float32(s) for s in case.scalars]
    fn = lambda x: case.call(x, *scalars)[-1].sum()
    assert jax.eval_shape(jax.grad(fn), jnp.ones(shape, jnp.float32)).shape == shape
    half = jax.eval_shape(case.call, jnp.ones(shape, jnp.bfloat16), *scalars)
    assert {out.dtype for out in half} == {jnp.dtype(jnp.bfloat16)}


@SOME
def test_lowers_for_accelerators(name):
    case = CASES[name]
    x = jax.ShapeDtypeStruct((2, 4, 4), jnp.float32)
    fn = lambda x: jnp.sum(jnp.stack([a.sum() for a in case.call(x, *case.scalars)]))
    jax.export.export(jax.jit(jax.value_and_grad(fn)), platforms=["cuda", "tpu"])(x)


@EACH
def test_zero_stays_zero(getkey, name):
    case = CASES[name]
    zeros = [np.float32(0) * s for s in case.scalars]
    for out in jitted(name)(0 * batch(getkey(), case), *zeros):
        assert (out == 0).all()


@pytest.mark.parametrize("name", ["project_nuclear_ball", "project_trace_inverse_cone"])
def test_empty(dtype, name):
    case = CASES[name]
    for shape in [(0, 3, 3), (0, 0), (2, 0, 0)]:
        out = jitted(name)(jnp.ones(shape, dtype), *case.scalars)
        assert out[-1].shape == shape
        assert out[-1].dtype == dtype


def test_rectangular_empty():
    for shape in [(0, 3), (3, 0)]:
        out = jax.jit(matfun.prox_nuclear)(jnp.ones(shape, jnp.float32), 1.0)
        assert out.shape == shape


@functools.cache
def derivative(name):
    return jax.jit(lambda args, tangents: jax.jvp(CASES[name].call, args, tangents))


@EACH
@pytest.mark.usefixtures("x64")
def test_derivatives(getkey, name):
    """Along random directions in all arguments, at ties too."""
    case = CASES[name]
    rng, along = np.random.default_rng(0), derivative(name)
    for spectrum in SPECTRA.values():
        if spectrum is SPECTRA["zeros"] and name == "project_psd":
            continue  # a kink
        args = (matrix(getkey(), case, spectrum), *case.scalars)
        tangents = tuple(rng.standard_normal(np.shape(a)) for a in args)
        pairs = list(zip(args, tangents, strict=True))
        moved = [tuple(a + h * e for a, e in pairs) for h in (1e-6, -1e-6)]
        _, slopes = along(args, tangents)
        above, below = (along(m, tangents)[0] for m in moved)
        for slope, high, low in zip(slopes, above, below, strict=True):
            np.testing.assert_allclose(slope, (high - low) / 2e-6, rtol=2e-6, atol=3e-8)


@SOME
@pytest.mark.usefixtures("x64")
def test_gradients_are_adjoint_to_derivatives(getkey, name):
    case = CASES[name]
    rng = np.random.default_rng(0)
    gradient = jax.jit(lambda args, weights: jax.vjp(case.call, *args)[1](weights))
    dot = lambda a, b: sum(np.sum(x * y) for x, y in zip(a, b, strict=True))
    for spectrum in SPECTRA.values():
        args = (matrix(getkey(), case, spectrum), *case.scalars)
        tangents = tuple(rng.standard_normal(np.shape(a)) for a in args)
        out, slopes = derivative(name)(args, tangents)
        weights = tuple(rng.standard_normal(a.shape) for a in out)
        gradients = gradient(args, weights)
        np.testing.assert_allclose(dot(weights, slopes), dot(gradients, tangents), 1e-10)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("name", ["project_log_det_cone", "project_nuclear_epigraph"])
def test_derivative_between_close_values(getkey, name):
    """A quotient of differences would have lost its digits."""
    case = CASES[name]
    key, e = getkey(), np.random.default_rng(0).standard_normal((4, 4))
    e = e if case.symmetric else np.vstack([e, e[:2]])
    slope = jax.jit(
        lambda x: jax.jvp(lambda x: case.call(x, *case.scalars), (x,), (e,))[1]
    )
    close = [2.0, 2.0 + 1e-13, 1.0, 1.0 - 1e-12]
    tied = slope(matrix(key, case, [2.0, 2.0, 1.0, 1.0]))
    for actual, desired in zip(slope(matrix(key, case, close)), tied, strict=True):
        np.testing.assert_allclose(actual, desired, rtol=1e-10, atol=1e-10)


@EACH
@pytest.mark.usefixtures("x64")
def test_derivatives_are_finite_everywhere(getkey, name):
    check_finite(getkey, name, "float64")


@pytest.mark.parametrize("name", ["project_trace_inverse_cone"])
def test_derivatives_are_finite_everywhere_in_float32(getkey, name):
    check_finite(getkey, name, "float32")


def check_finite(getkey, name, dtype):
    case = CASES[name]
    for spectrum in ([0.0] * 4, [1.0] * 4, [-1.0] * 4, [1.0, 1, 0, 0]):
        x = matrix(getkey(), case, spectrum).astype(dtype)
        for scale in (0.0, 1e-20, 1.0, 1e3):
            args = x, *(np.dtype(dtype).type(s * scale) for s in case.scalars)
            tangents = tuple(np.ones_like(a) for a in args)
            for results in derivative(name)(args, tangents):
                assert all(jnp.isfinite(a).all() for a in results)


@EACH
def test_a_second_derivative_is_refused(name):
    case = CASES[name]
    x = jnp.ones((4, 4), jnp.float32)
    scalars = [jnp.float32(s) for s in case.scalars]
    fn = lambda *args: sum(jnp.sum(a) for a in case.call(*args))
    message = f"`{name}` can be differentiated once only."
    for i in range(1 + len(scalars)):
        first = jax.grad(fn, i)
        if case.symmetric:
            with pytest.raises(NotImplementedError, match=re.escape(message)):
                jax.jacfwd(first, i)(x, *scalars)
        with pytest.raises(NotImplementedError, match=re.escape(message)):
            jax.grad(lambda *args: first(*args).sum(), i)(x, *scalars)  # noqa: B023


@pytest.mark.usefixtures("unchecked")
def test_messages():
    def raises(error, message, fn, *args, **static):
        with pytest.raises(error, match=re.escape(message)):
            fn(*args, **static)

    square = "`x` must have shape (..., n, n); got (2, 3)."
    raises(ValueError, square, matfun.project_psd, jnp.ones((2, 3)))
    raises(ValueError, square, matfun.prox_entropy, jnp.ones((2, 3)), 1.0)
    vector = "`x` must have shape (..., m, n); got (3,)."
    raises(ValueError, vector, matfun.prox_nuclear, jnp.ones(3), 1.0)
    bad_dtype = "`x` must have a real floating-point dtype; got int32."
    raises(TypeError, bad_dtype, matfun.project_psd, jnp.ones((2, 2), "int32"))
    x = jnp.ones((5, 2, 2))
    shape = (
        "`radius` must have a shape that can be broadcast with the batch axes of `x`, "
        "(5,); got (2,)."
    )
    raises(ValueError, shape, matfun.project_nuclear_ball, x, jnp.ones(2))
    bad = "`v` must have a real dtype; got complex64."
    raises(TypeError, bad, matfun.project_log_det_cone, 1.0, jnp.complex64(1), x)
    for fn, args in (
        (matfun.project_sum_of_largest_epigraph, (1.0, x)),
        (matfun.prox_sum_of_largest, (x, 1.0)),
    ):
        for k in (0, 3):
            bound = f"`k` must be an integer, between 1 and 2; got {k}."
            raises(ValueError, bound, fn, *args, k=k)
