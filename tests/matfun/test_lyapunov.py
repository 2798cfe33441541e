import re

import jax
import jax.export
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.linalg
from jax.test_util import check_grads

from jaxla.matfun import MatrixSolution, solve_symmetric_lyapunov
from tests.helpers import assert_close, psd_with_spectrum, random_psd


solve = jax.jit(solve_symmetric_lyapunov)
y_of = jax.jit(lambda x, r: solve_symmetric_lyapunov(x, r).solution)
SPECTRUM = [0.5, 1, 1, 3]


def square(key, *shape) -> np.ndarray:
    return np.asarray(jax.random.normal(key, shape), "float64")


def oracle(x, r) -> np.ndarray:
    return scipy.linalg.solve_sylvester(x, x, r)


def test_matches_scipy(getkey, dtype):
    x, r = psd_with_spectrum(getkey(), SPECTRUM), square(getkey(), 4, 4)
    y, residual = solve(jnp.asarray(x, dtype), jnp.asarray(r, dtype))
    assert y.dtype == residual.dtype == dtype
    assert residual <= 4 * jnp.finfo(dtype).eps
    assert_close(y, oracle(x, r), amplification=6)


@pytest.mark.usefixtures("x64")
def test_the_residual_is_what_the_equation_leaves(getkey):
    """By its definition, where it is not about zero: see the kernel of a singular X."""
    x, r = np.diag([1.0, 2.0, 0.0, 0.0]), square(getkey(), 4, 4)
    y, residual = solve(x, r)
    rest = x @ y + y @ x - r
    size = np.linalg.norm(r) + 2 * np.linalg.norm(x) * np.linalg.norm(y)
    np.testing.assert_allclose(residual, np.linalg.norm(rest) / size, 1e-12)
    np.testing.assert_allclose(rest[:2], 0, atol=1e-14)
    np.testing.assert_allclose(rest[2:, 2:], -r[2:, 2:])
    assert (np.asarray(y)[2:, 2:] == 0).all()


@pytest.mark.usefixtures("x64")
def test_eigenvalues_that_cancel_leave_their_part_zero(getkey):
    r = square(getkey(), 3, 3)
    y, residual = solve(np.diag([1.0, -1, 3]), r)
    assert y[0, 1] == y[1, 0] == 0
    np.testing.assert_allclose(y[0, 2], r[0, 2] / 4)
    np.testing.assert_allclose(y[1, 1], r[1, 1] / -2)
    assert 0.01 < residual < 1


def test_zero(dtype):
    zero, eye = jnp.zeros((3, 3), dtype), jnp.eye(3, dtype=dtype)
    for x, r, residual in ((zero, zero, 0), (eye, zero, 0), (zero, eye, 1)):
        out = solve(x, r)
        assert (out.solution == 0).all()
        assert out.residual == residual


@pytest.mark.usefixtures("x64")
def test_derivatives_in_both_modes_and_of_order_three():
    """At a generic point, at repeated and at very close eigenvalues."""
    key = jax.random.key(3)
    r, generic = square(key, 3, 3), psd_with_spectrum(key, [0.5, 1, 2])
    for x in (generic, np.eye(3), np.diag([1.0, 1 + 1e-9, 2])):
        check_grads(y_of, (x, r), order=1, rtol=1e-6, atol=1e-6)
    x = jnp.diag(jnp.array([1.0, 1, 2]))
    check_grads(y_of, (x, r), order=3, modes=["rev"], rtol=1e-5, atol=1e-5)


@pytest.mark.usefixtures("x64")
def test_derivatives_in_all_mixed_modes():
    """The second derivative of (x / 2)^-1 along a fixed direction, in closed form."""
    key = jax.random.key(4)
    x = jnp.asarray(psd_with_spectrum(key, [1, 1, 2, 3]))
    e = psd_with_spectrum(jax.random.fold_in(key, 1), [-1, 0.3, 1, 2])
    eye = jnp.eye(4)
    along = lambda t: jnp.sum(y_of(x + t * e, eye) * e)
    inverse = np.linalg.inv(x)
    desired = np.sum(inverse @ e @ inverse @ e @ inverse * e)  # Y = X^-1 / 2
    for outer in (jax.jacfwd, jax.jacrev):
        for inner in (jax.jacfwd, jax.jacrev):
            np.testing.assert_allclose(outer(inner(along))(0.0), desired, 1e-11)


def test_gradient_at_repeated_eigenvalues_in_float32():
    # Y = R / 2 at X = I; y' = -(x' y + y x') / 2.
    e = jnp.array([[0, 1, 2], [1, 0, 3], [2, 3, 1]], jnp.float32)
    r = jnp.ones((3, 3), jnp.float32)
    x = jnp.eye(3, dtype=jnp.float32)
    slope = jax.jvp(lambda x: y_of(x, r), (x,), (e,))[1]
    assert_close(
        slope, -(np.asarray(e) @ np.ones((3, 3)) / 2 + np.ones((3, 3)) @ e / 2) / 2
    )


def test_jit_vmap_loop_and_broadcast_agree(getkey):
    x = jnp.asarray([psd_with_spectrum(getkey(), SPECTRUM) for _ in range(3)], "float32")
    r = jnp.asarray(square(getkey(), 2, 1, 4, 4), "float32")
    native = solve(x, r)
    assert native.solution.shape == (2, 3, 4, 4)
    assert native.residual.shape == (2, 3)
    eager = solve_symmetric_lyapunov(x, r)
    mapped = jax.vmap(solve, (None, 0))(x, r)
    loop = [[solve(x[j], r[i, 0]).solution for j in range(3)] for i in range(2)]
    for other in (eager.solution, mapped.solution, jnp.array(loop)):
        assert_close(other, native.solution, amplification=10)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_bad_member_is_flagged_and_touches_no_other(getkey, bad):
    x = jnp.asarray([psd_with_spectrum(getkey(), SPECTRUM)] * 3, "float32")
    r = jnp.asarray(square(getkey(), 3, 4, 4), "float32")
    clean = solve(x, r)
    for y, residual in (
        solve(x.at[1, 0, 1].set(bad), r),
        solve(x, r.at[1, 2, 2].set(bad)),
    ):
        assert (y[1] == 0).all()
        assert residual[1] == jnp.inf
        for i in (0, 2):
            assert (y[i] == clean.solution[i]).all()
            assert residual[i] == clean.residual[i]
    gradient = jax.grad(lambda x: solve(x, r).solution.sum())(x.at[1].set(bad))
    assert jnp.isfinite(gradient).all()


def test_scale_equivariance(getkey, dtype):
    x, r = psd_with_spectrum(getkey(), SPECTRUM), square(getkey(), 4, 4)
    plain = solve(jnp.asarray(x, dtype), jnp.asarray(r, dtype))
    for s, t in (
        (2.0**-100, 1.0),
        (2.0**100, 2.0**100),
        (1.0, 2.0**-100),
        (2.0**60, 1.0),
    ):
        out = solve(jnp.asarray(s * x, dtype), jnp.asarray(t * r, dtype))
        desired = np.asarray(plain.solution, "float64") * (t / s)
        assert_close(out.solution, desired)
        np.testing.assert_allclose(out.residual, plain.residual, 0.1)


def test_what_overflows_is_flagged():
    x = jnp.float32(1e-30) * jnp.eye(2, dtype="float32")
    y, residual = solve(x, jnp.float32(1e30) * jnp.ones((2, 2), "float32"))
    assert (y == 0).all()
    assert residual == jnp.inf


@pytest.mark.usefixtures("strict")
def test_half_precision_is_computed_in_float32_and_nothing_promoted(getkey):
    x = jnp.asarray(psd_with_spectrum(getkey(), SPECTRUM), "bfloat16")
    r = jnp.asarray(random_psd(getkey(), 4, 4), "bfloat16")
    out = solve(x, jnp.stack([r, r]))
    wide = solve(x.astype("float32"), jnp.stack([r, r]).astype("float32"))
    assert out.solution.dtype == "bfloat16"
    assert out.residual.dtype == "float32"
    assert (out.solution == wide.solution.astype("bfloat16")).all()
    jax.jit(jax.grad(lambda x: solve(x, r).solution.sum()))(x)


def test_small_and_empty(dtype):
    out = solve(jnp.full((1, 1), 2.0, dtype), jnp.full((1, 1), 8.0, dtype))
    assert out.solution[0, 0] == 2
    for shape in [(0, 0), (0, 3, 3)]:
        out = solve(jnp.ones(shape, dtype), jnp.ones(shape, dtype))
        assert isinstance(out, MatrixSolution)
        assert out.solution.shape == shape
        assert out.residual.shape == shape[:-2]


def test_lowers_for_accelerators():
    args = [jax.ShapeDtypeStruct((2, 3, 3), "float32")] * 2
    gradient = jax.jit(jax.grad(lambda x, r: y_of(x, r).sum(), (0, 1)))
    for fn in (y_of, gradient):
        jax.export.export(fn, platforms=["cuda", "tpu"])(*args)


@pytest.mark.usefixtures("unchecked")
def test_messages():
    eye = jnp.eye(2)
    with pytest.raises(ValueError, match="broadcast"):
        solve_symmetric_lyapunov(jnp.ones((3, 2, 2)), jnp.ones((2, 2, 2)))
    cases = [
        ((jnp.ones((2, 3)), eye), "`x` must have shape (..., n, n); got (2, 3)."),
        ((eye, jnp.ones(3)), "`r` must have shape (..., n, n); got (3,)."),
        ((eye, jnp.eye(3)), "`r` must have shape (..., 2, 2); got (3, 3)."),
    ]
    for args, message in cases:
        with pytest.raises(ValueError, match=re.escape(message)):
            solve_symmetric_lyapunov(*args)
    for bad in ("int32", "complex64"):
        message = f"`x` must have a real floating-point dtype; got {bad}."
        with pytest.raises(TypeError, match=re.escape(message)):
            solve_symmetric_lyapunov(jnp.ones((2, 2), bad), eye)
