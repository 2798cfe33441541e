import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

from jaxla.operators import DampedKronecker, Dense, Diagonal, Kronecker, Toeplitz
from tests.helpers import assert_close, psd_with_spectrum

from .cases import A, B, general, kron, S, T


damped_solve = jax.jit(lambda a, b, s, x: DampedKronecker(a, b, shift=s).solve(x))
damped_slogdet = jax.jit(lambda a, b, s: DampedKronecker(a, b, shift=s).slogdet())
damped_logdet = jax.jit(lambda a, b, s: DampedKronecker(a, b, shift=s).logdet())


def test_vec_is_row_major(dtype):
    """`(A (x) B) vec(X) = vec(A X B^T)` with NumPy's vec and its `kron`."""
    a, b, x = general(0, 2, 3), general(1, 5, 4), general(2, 3, 4)
    operator = Kronecker(jnp.asarray(a, dtype), jnp.asarray(b, dtype))
    actual = operator.mv(jnp.asarray(x.ravel(), dtype))
    assert_close(actual, (a @ x @ b.T).ravel(), amplification=20)
    assert_close(actual, np.kron(a, b) @ x.ravel(), amplification=20)
    # With column-major vectors, `X` is transposed and so the factors change places.
    column_major = x.ravel(order="F")
    swapped = Kronecker(jnp.asarray(b, dtype), jnp.asarray(a, dtype))
    actual = swapped.mv(jnp.asarray(column_major, dtype))
    assert_close(actual, (a @ x @ b.T).ravel(order="F"), amplification=20)


def test_mixed_product():
    """`(A (x) B)(C (x) D) = AC (x) BD`, of any kinds whose shapes fit."""
    c, d = general(3, 2, 4), np.array([1.0, 2.0, 3.0])
    one = Kronecker(jnp.float32(A), Toeplitz(jnp.arange(1.0, 4.0, dtype="float32")))
    two = Kronecker(jnp.float32(c), Diagonal(jnp.float32(d)))
    product = one @ two
    assert isinstance(product, Kronecker)
    assert product.shape == (6, 12)
    toeplitz = np.asarray(one.factors[1].as_matrix())
    assert_close(product.as_matrix(), kron(A @ c, toeplitz * d), amplification=20)
    with pytest.raises(NotImplementedError, match="has no structure"):
        Kronecker(jnp.ones((2, 3)), jnp.ones((2, 2))) @ Kronecker(jnp.ones((6, 6)))


def test_symmetric_factors_are_asked_for():
    plain = Kronecker(jnp.float32(A), jnp.float32(B))
    for call in (plain.eigh, lambda: plain.plus_identity(1.0)):
        with pytest.raises(NotImplementedError, match=re.escape("symmetric=True")):
            call()
    symmetric = Kronecker(jnp.float32(A), jnp.float32(B), symmetric=True)
    halves = kron((A + A.T) / 2, (B + B.T) / 2)
    assert_close(symmetric.as_matrix(), halves, amplification=10)
    damped = symmetric.plus_identity(0.5).plus_identity(0.25)
    assert isinstance(damped, DampedKronecker)
    assert_close(damped.as_matrix(), halves + 0.75 * np.eye(6), amplification=10)


def test_square_factors_are_asked_for():
    operator = Kronecker(jnp.ones((2, 3)), jnp.ones((3, 2)))
    for call in (lambda: operator.solve(jnp.ones(6)), operator.logdet, operator.trace):
        with pytest.raises(ValueError, match="needs square factors; one of"):
            call()
    with pytest.raises(ValueError, match="`DampedKronecker` needs square factors"):
        DampedKronecker(jnp.ones((2, 3)), shift=1.0)


SPECTRA = {
    "generic": ([0.3, 1.1], [0.2, 0.7, 2.0]),
    "identities": ([1.0, 1.0], [1.0, 1.0, 1.0]),
    "repeated": ([2.0, 2.0], [1.0, 1.0, 3.0]),
    "products repeated": ([1.0, 2.0], [1.0, 2.0, 4.0]),
    "singular": ([0.0, 1.0], [0.0, 0.0, 2.0]),
    "indefinite": ([-1.0, 1.0], [0.2, 1.0, 2.0]),
}


@jax.jit
def slopes(a, b, shift, x):
    """Gradients of the log-determinant, and of the sum of a solution."""
    total = lambda a, b, shift, x: DampedKronecker(a, b, shift=shift).solve(x).sum()
    return (
        jax.grad(damped_logdet, (0, 1, 2))(a, b, shift),
        jax.grad(total, (0, 1, 2, 3))(a, b, shift, x),
    )


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("gap", [0, 1e-12, 1e-6])
@pytest.mark.parametrize("name", SPECTRA)
def test_derivatives_of_damped_products(getkey, name, gap):
    """Against the inverse of the matrix, at ties and close to them."""
    first, second = (np.array(values, float) for values in SPECTRA[name])
    first[0] += gap
    a, b = psd_with_spectrum(getkey(), first), psd_with_spectrum(getkey(), second)
    x = np.linspace(1, 2, 6)
    inverse = np.linalg.inv(np.kron(a, b) + 0.3 * np.eye(6))
    solution, adjoint = inverse @ x, inverse @ np.ones(6)
    for found, slope in zip(
        slopes(a, b, 0.3, x), (inverse, -np.outer(adjoint, solution)), strict=True
    ):
        slope = (slope + slope.T).reshape(2, 3, 2, 3) / 2
        da, db, ds, *dx = found
        assert_close(da, np.einsum("ikjl,kl->ij", slope, b), amplification=1e3)
        assert_close(db, np.einsum("ikjl,ij->kl", slope, a), amplification=1e3)
        assert_close(ds, np.einsum("ikik", slope), amplification=1e3)
    assert_close(dx[0], adjoint, amplification=1e3)


@pytest.mark.usefixtures("x64")
def test_second_derivatives_of_a_solve_at_the_identity():
    args = np.eye(2), np.eye(3), 0.3, np.linspace(1, 2, 6)
    check_grads(damped_solve, args, order=2, modes=["rev"], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("second", [jax.hessian, lambda f: jax.jacrev(jax.jacrev(f))])
def test_a_second_derivative_of_logdet_is_refused(second):
    message = "can be differentiated once only; for higher derivatives use `Dense("
    with pytest.raises(NotImplementedError, match=re.escape(message)):
        second(lambda a: damped_logdet(a, jnp.eye(3), 0.5))(jnp.eye(2))


def test_sign_and_singular_operators():
    # det(A (x) B) = det(A)^q det(B)^p
    for p, q in [(1, 2), (2, 1), (2, 3)]:
        a, b = np.eye(p), np.eye(q)
        a[0, 0], b[0, 0] = -2, -3
        slogdet = Kronecker(jnp.float32(a), jnp.float32(b)).slogdet()
        np.testing.assert_allclose(slogdet, np.linalg.slogdet(np.kron(a, b)), 1e-6)
    sign, logabsdet = damped_slogdet(-jnp.float32(S), jnp.float32(T), 0.0)
    assert sign == 1
    assert_close(logabsdet, np.linalg.slogdet(np.kron(S, T))[1], amplification=10)
    # The product has the eigenvalues -1 (once) and 1 (twice, thrice).
    a, b = jnp.diag(jnp.array([-1.0, 1.0])), jnp.diag(jnp.array([1.0, 0.0, 0.0]))
    assert damped_slogdet(a, b, 0.5)[0] == -1
    assert damped_slogdet(a, b, 0.0)[1] == -jnp.inf
    assert not jnp.isfinite(damped_solve(a, b, 1.0, jnp.ones(6))).all()


def test_scale(dtype):
    """Only the product of the scales of the factors and of the shift can be seen."""
    a, b, x = jnp.asarray(S, dtype), jnp.asarray(T, dtype), jnp.ones(6, dtype)
    plain, logdet = damped_solve(a, b, 0.5, x), damped_logdet(a, b, 0.5)
    for left, right in [(2.0**60, 2.0**-60), (2.0**-40, 2.0**-40), (2.0**50, 1.0)]:
        shift = jnp.asarray(0.5 * left * right, dtype)
        scaled = damped_solve(left * a, right * b, shift, x)
        assert_close(scaled * (left * right), plain, amplification=20)
        scaled = damped_logdet(left * a, right * b, shift)
        expected = float(logdet) + 6 * np.log(left * right)
        assert_close(scaled, expected, amplification=20)


def test_ill_conditioned_solves_leave_a_small_residual(getkey):
    a = psd_with_spectrum(getkey(), np.geomspace(1e-4, 1, 4))
    b = psd_with_spectrum(getkey(), np.geomspace(1e-4, 1, 4))
    x = np.linspace(1, 2, 16)
    solution = np.asarray(damped_solve(jnp.float32(a), jnp.float32(b), 1e-6, x), "f8")
    matrix = np.kron(np.float32(a), np.float32(b)).astype("f8") + 1e-6 * np.eye(16)
    rest = np.linalg.norm(matrix @ solution - x)
    assert rest <= 30 * np.finfo("f4").eps * np.linalg.norm(solution)


def test_a_nan_stays_in_its_member():
    a = jnp.float32(np.stack([S, S, 2 * S]))
    spoiled = a.at[1, 0, 0].set(jnp.nan)
    b, x = jnp.float32(T), jnp.ones((3, 6))
    for fn in (
        lambda a: damped_solve(a, b, 0.5, x),
        lambda a: damped_logdet(a, b, 0.5),
        lambda a: Kronecker(a, b).solve(x),
        lambda a: Kronecker(a, b).logdet(),
    ):
        plain, other = fn(a), fn(spoiled)
        assert jnp.isnan(other[1]).any()
        assert (other[::2] == plain[::2]).all()


def test_small_and_empty():
    one = DampedKronecker(jnp.full((1, 1), 3.0), jnp.full((1, 1), 2.0), shift=2.0)
    assert_close(one.solve(jnp.full(1, 16.0)), np.full(1, 2.0))
    for shape in [(0, 0), (0, 2, 2)]:
        operator = DampedKronecker(jnp.ones(shape), jnp.eye(2), shift=1.0)
        size = operator.shape[-1]
        x = jnp.ones((*shape[:-2], size))
        assert operator.mv(x).shape == operator.solve(x).shape == x.shape
        assert operator.logdet().shape == shape[:-2]
        plain = Kronecker(jnp.ones(shape), jnp.eye(2))
        assert plain.mv(x).shape == x.shape
        assert plain.logdet().shape == plain.trace().shape == shape[:-2]


def test_rectangular_products_take_the_cheap_order():
    """A factor that shrinks the vector goes first, whichever its place."""
    text = jax.jit(lambda x: Kronecker(jnp.ones((9, 3)), jnp.ones((1, 4))).mv(x))
    flops = text.lower(jnp.ones(12)).compile().cost_analysis()["flops"]
    assert flops <= 2 * (3 * 4 + 9 * 3) + 10
    assert_close(text(jnp.ones(12)), np.full(9, 12.0))


def test_nested_products_are_products():
    inner = Kronecker(jnp.float32(A), jnp.float32(S))
    outer = Kronecker(inner, Dense(jnp.float32(B)))
    assert_close(outer.as_matrix(), kron(A, S, B), amplification=10)
    x = np.linspace(0, 1, 12)
    desired = np.linalg.solve(kron(A, S, B), x)
    assert_close(outer.solve(jnp.float32(x)), desired, amplification=200)
