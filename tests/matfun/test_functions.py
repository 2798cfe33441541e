import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.linalg
from jax.test_util import check_grads

from jaxla.matfun import symmetric_function
from jaxla.matfun._functions import mean_slope
from tests.helpers import assert_close, assert_lowers_for_accelerators, psd_with_spectrum


def spectral(matrix, function):
    values, vectors = np.linalg.eigh(matrix)
    return (vectors * function(values)) @ vectors.T


FUNCTIONS = {
    "exp": (jnp.exp, lambda a: spectral(a, np.exp)),  # SciPy's has fewer digits
    "log": (jnp.log, scipy.linalg.logm),
    "tanh": (jnp.tanh, scipy.linalg.tanhm),
    "square": (jnp.square, lambda a: a @ a),
    "root": (
        lambda x: x**-0.25,
        lambda a: scipy.linalg.fractional_matrix_power(a, -0.25),
    ),
}
SPECTRA = ([0.5, 0.8, 1.5, 2], [1, 1, 1, 1], [1, 1, 2, 3], [1, 1 + 1e-9, 1 + 1e-4, 3])
compiled = {
    name: jax.jit(lambda a, f=f: symmetric_function(a, f))
    for name, (f, _) in FUNCTIONS.items()
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_matches_scipy(getkey, dtype, name):
    matrix = psd_with_spectrum(getkey(), [0.1, 0.5, 0.5, 1, 3])
    actual = compiled[name](jnp.asarray(matrix, dtype))
    assert actual.dtype == dtype
    assert_close(actual, FUNCTIONS[name][1](matrix), amplification=30)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("name", FUNCTIONS)
def test_derivatives_at_generic_and_repeated_eigenvalues(getkey, name):
    for spectrum in SPECTRA:
        matrix = psd_with_spectrum(getkey(), spectrum)
        check_grads(compiled[name], (matrix,), order=1, rtol=1e-7, atol=1e-7)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("gap", [0, 1e-14, 1e-9, 1e-5, 1e-2, 0.3, 1, 30])
def test_the_derivative_of_the_exponential_is_exact_at_every_gap(getkey, gap):
    """The block triangular formula needs no eigenvalues at all."""
    matrix = psd_with_spectrum(getkey(), [1, 1 + gap, 2])
    direction = psd_with_spectrum(getkey(), [-1, 1, 3])
    _, desired = scipy.linalg.expm_frechet(matrix, direction)
    jvp = lambda a, e: jax.jvp(compiled["exp"], (a,), (e,))[1]
    assert_close(jvp(matrix, direction), desired, amplification=100 * (1 + gap))


SLOPES = {
    "exp": (jnp.exp, np.exp, np.exp, (-30, 30)),
    "log": (jnp.log, np.log, lambda x: 1 / x, None),
    "cube": (lambda x: x**3, lambda x: x**3, lambda x: 3 * x**2, (-5, 5)),
    "inverse": (lambda x: 1 / x, lambda x: 1 / x, lambda x: -1 / x**2, None),
}


@pytest.mark.parametrize("name", SLOPES)
def test_divided_differences_lose_no_digits(dtype, name):
    """Whatever the gap. The oracle: a quotient, or quadrature, with more digits."""
    traced, f, slope, domain = SLOPES[name]
    rng = np.random.default_rng(0)
    x = rng.uniform(*domain, 2000) if domain else 10 ** rng.uniform(-6, 6, 2000)
    relative = 10 ** rng.uniform(-9, 0.3, 2000)
    x, y = x.astype(dtype), (x * (1 + relative)).astype(dtype)
    wide = [v.astype(np.longdouble) for v in (x, y)]
    nodes, weights = np.polynomial.legendre.leggauss(40)
    mean = sum(
        weight / 2 * slope((wide[0] + wide[1]) / 2 + node / 2 * (wide[0] - wide[1]))
        for node, weight in zip(nodes, weights, strict=True)
    )
    apart = np.abs(wide[0] - wide[1]) > 0.01 * np.abs(wide[0])
    gap = np.where(apart, wide[0] - wide[1], 1)
    desired = np.where(apart, (f(wide[0]) - f(wide[1])) / gap, mean)
    actual = np.asarray(mean_slope(traced, jnp.asarray(x), jnp.asarray(y)))
    # The exponential itself has the relative error of its argument, 30 eps here.
    np.testing.assert_allclose(actual, desired.astype(float), 100 * np.finfo(dtype).eps)


def test_kinks_at_zero():
    """Between eigenvalues of opposite signs the quotient, on each side the slope."""
    x, y = jnp.array([1.0, -1, 1, -1, 1]), jnp.array([1.0, -1, -1, -0.9, -0.9])
    np.testing.assert_allclose(mean_slope(jax.nn.relu, x, y), [1, 0, 0.5, 0, 1 / 1.9])
    np.testing.assert_allclose(
        mean_slope(jnp.abs, x, y), [1, -1, 0, -1, 0.1 / 1.9], rtol=1e-5, atol=1e-7
    )


def test_a_divided_difference_of_the_user_is_used(getkey):
    matrix = jnp.asarray(psd_with_spectrum(getkey(), [1, 1, 2]), jnp.float32)
    half = lambda x, y: 0.5 * (x + y)  # half of that of the square
    given = lambda a: symmetric_function(a, jnp.square, divided_difference=half).sum()
    plain = lambda a: symmetric_function(a, jnp.square).sum()
    assert_close(2 * jax.grad(given)(matrix), jax.grad(plain)(matrix), amplification=20)


def test_jit_vmap_and_native_batches_agree(getkey):
    matrices = [psd_with_spectrum(getkey(), [0.1, 0.5, 1, 1]) for _ in range(6)]
    matrices = jnp.array(matrices, jnp.float32).reshape(2, 3, 4, 4)
    native = symmetric_function(matrices, jnp.exp)
    mapped = jax.vmap(jax.vmap(compiled["exp"]))(matrices)
    for other in (compiled["exp"](matrices), mapped):
        assert_close(other, native, amplification=20)
    loss = lambda a: (symmetric_function(a, jnp.exp) ** 2).sum()
    grads = jax.grad(loss)(matrices)
    mapped = jax.vmap(jax.vmap(jax.grad(loss)))(matrices)
    assert_close(mapped, grads, amplification=20)


def test_the_symmetric_part_is_taken_and_a_gradient_symmetric(getkey):
    matrix = psd_with_spectrum(getkey(), [1.0, 2.0, 3.0])
    skew = np.array([[0, 1, 2], [-1, 0, 3], [-2, -3, 0]])
    given = jnp.asarray(matrix + skew, jnp.float32)
    plain = jnp.asarray(matrix, jnp.float32)
    assert_close(compiled["exp"](given), compiled["exp"](plain), amplification=10)
    weights = jnp.arange(9.0).reshape(3, 3)
    grad = jax.grad(lambda a: (weights * compiled["exp"](a)).sum())(given)
    assert_close(grad, grad.T, amplification=10)


def test_small_and_empty(dtype):
    assert_close(compiled["exp"](jnp.full((1, 1), 2.0, dtype)), np.full((1, 1), np.e**2))
    for shape in [(0, 0), (0, 3, 3), (2, 0, 0)]:
        out = compiled["exp"](jnp.ones(shape, dtype))
        assert out.shape == shape
        assert out.dtype == dtype
    assert_close(compiled["exp"](jnp.zeros((3, 3), dtype)), np.eye(3))


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_bad_matrix_is_nan_and_touches_no_other(getkey, bad):
    clean = jnp.array([psd_with_spectrum(getkey(), [0.1, 1, 2])] * 4, jnp.float32)
    desired = compiled["exp"](clean)
    others = jnp.array([0, 2, 3])
    for where in [(1, 0, 0), (1, 0, 2)]:
        out = compiled["exp"](clean.at[where].set(bad))
        assert jnp.isnan(out[1]).all()
        assert (out[others] == desired[others]).all()


@pytest.mark.parametrize("scale", [1e-20, 1e-12, 1e12, 1e20])
def test_scale_equivariance(getkey, dtype, scale):
    matrix = psd_with_spectrum(getkey(), [0.1, 0.5, 1, 2])
    plain = compiled["root"](jnp.asarray(matrix, dtype))
    scaled = compiled["root"](jnp.asarray(scale * matrix, dtype))
    desired = np.asarray(plain, "float64") * scale**-0.25
    assert_close(scaled, desired, amplification=40)
    grad = lambda a: jax.grad(lambda a: compiled["root"](a).sum())(a)
    desired = np.asarray(grad(jnp.asarray(matrix, dtype)), "float64") * scale**-1.25
    assert_close(grad(jnp.asarray(scale * matrix, dtype)), desired, amplification=400)


@pytest.mark.usefixtures("strict")
@pytest.mark.parametrize("half", [jnp.bfloat16, jnp.float32])
def test_half_precision_and_strict_promotion(half):
    loss = lambda a: symmetric_function(a, jnp.exp).sum()
    assert jax.jit(jax.grad(loss))(jnp.eye(3, dtype=half)).dtype == half


def test_a_second_derivative_is_refused():
    loss = lambda a: symmetric_function(a, jnp.exp).sum()
    for second in (jax.jacfwd(jax.grad(loss)), jax.jacfwd(jax.jacfwd(loss))):
        with pytest.raises(NotImplementedError, match="differentiated once only"):
            second(jnp.eye(2))


def test_lowers_for_accelerators():
    fn = lambda a: symmetric_function(a, jnp.tanh)
    assert_lowers_for_accelerators(fn, jnp.ones((2, 3, 3), jnp.float32))


@pytest.mark.usefixtures("unchecked")
def test_messages():
    message = "`matrix` must have shape (..., n, n); got (2, 3)."
    with pytest.raises(ValueError, match=re.escape(message)):
        symmetric_function(jnp.ones((2, 3)), jnp.exp)
    with pytest.raises(TypeError, match="`function` must be callable; got 'exp'"):
        symmetric_function(jnp.eye(2), "exp")
