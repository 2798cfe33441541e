import re

import jax
import jax.export
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.linalg

from jaxla.matfun import solve_discrete_lyapunov
from tests.helpers import assert_close

from ._derivatives import check_two_orders


solve = jax.jit(solve_discrete_lyapunov)
x_of = jax.jit(lambda a, q: solve_discrete_lyapunov(a, q).solution)
gradient = jax.jit(jax.grad(lambda a, q: x_of(a, q).sum(), (0, 1)))


def normal(key, *shape) -> np.ndarray:
    return np.asarray(jax.random.normal(key, shape), "float64")


def with_radius(key, radius: float, n: int = 4) -> np.ndarray:
    a = normal(key, n, n)
    return radius / np.abs(np.linalg.eigvals(a)).max() * a


@pytest.mark.parametrize("radius", [0.0, 0.5, 0.99])
def test_matches_scipy(getkey, dtype, radius):
    a, q = with_radius(getkey(), radius), normal(getkey(), 4, 4)
    x, residual = solve(jnp.asarray(a, dtype), jnp.asarray(q, dtype))
    assert x.dtype == residual.dtype == dtype
    assert residual <= jnp.finfo(dtype).eps
    desired = scipy.linalg.solve_discrete_lyapunov(a, q, method="direct")
    assert_close(x, desired, amplification=10 / (1 - radius))
    x, _ = solve(jnp.asarray(a, dtype), jnp.asarray(q + q.T, dtype))
    assert (x == x.T).all()


@pytest.mark.usefixtures("x64")
def test_a_slow_decay_needs_no_more_than_the_default():
    """rho = 0.999 and closer to one: x = q / (1 - a^2)."""
    for a in (0.999, -0.999, 1 - 1e-6):
        x, residual = solve(np.full((1, 1), a), np.ones((1, 1)))
        np.testing.assert_allclose(x[0, 0], 1 / ((1 - a) * (1 + a)), 1e-9)
        assert residual <= 1e-15


@pytest.mark.usefixtures("x64")
def test_residual_is_what_the_equation_leaves(getkey):
    a, q = with_radius(getkey(), 0.9), normal(getkey(), 4, 4)
    x, residual = solve_discrete_lyapunov(a, q, steps=5)
    x, norm = np.asarray(x), np.linalg.norm
    size = norm(a) ** 2 * norm(x) + norm(x) + norm(q)
    assert 1e-6 < residual < 0.1
    np.testing.assert_allclose(residual, norm(a @ x @ a.T + q - x) / size, 1e-9)


def test_unstable_matrices_are_flagged(getkey, dtype):
    turn = np.array([[0.0, 1], [-1, 0]])
    for a in (turn, 1.1 * turn, np.diag([0.5, 1.0]), np.diag([0.1, 1e30])):
        x, residual = solve(jnp.asarray(a, dtype), jnp.ones((2, 2), dtype))
        assert (x == 0).all()
        assert residual == jnp.inf
        for g in gradient(jnp.asarray(a, dtype), jnp.ones((2, 2), dtype)):
            assert (g == 0).all()


@pytest.mark.usefixtures("x64")
def test_derivatives(getkey):
    q = normal(getkey(), 3, 3)
    check_two_orders(x_of, (with_radius(getkey(), 0.7, 3), q), getkey())
    check_two_orders(x_of, (np.eye(3) / 2, q @ q.T), getkey())


def test_jit_vmap_loop_and_broadcast_agree(getkey):
    a = np.stack([with_radius(getkey(), s) for s in (0.1, 0.5, 0.9)])
    a, q = jnp.asarray(a, "float32"), jnp.asarray(normal(getkey(), 2, 1, 4, 4), "float32")
    native = solve(a, q)
    assert native.solution.shape == (2, 3, 4, 4)
    assert native.residual.shape == (2, 3)
    mapped = jax.vmap(solve, (None, 0))(a, q)
    loop = [[solve(a[j], q[i, 0]).solution for j in range(3)] for i in range(2)]
    eager = solve_discrete_lyapunov(a, q)
    for other in (mapped.solution, jnp.array(loop), eager.solution):
        assert_close(other, native.solution, amplification=50)


@pytest.mark.parametrize("bad", [np.nan, -np.inf, 2.0])
def test_a_bad_member_is_flagged_and_touches_no_other(getkey, bad):
    a = jnp.asarray([with_radius(getkey(), 0.5)] * 3, "float32")
    q = jnp.asarray(normal(getkey(), 3, 4, 4), "float32")
    clean = solve(a, q)
    spoiled = [(a.at[1].set(bad), q)]
    spoiled += [] if bad == 2 else [(a, q.at[1, 0, 1].set(bad))]
    for given in spoiled:
        x, residual = solve(*given)
        assert (x[1] == 0).all()
        assert residual[1] == jnp.inf
        for i in (0, 2):
            assert (x[i] == clean.solution[i]).all()
            assert residual[i] == clean.residual[i]
        assert all(jnp.isfinite(g).all() for g in gradient(*given))


def test_scale_equivariance(getkey, dtype):
    a, q = with_radius(getkey(), 0.5), normal(getkey(), 4, 4)
    plain = solve(jnp.asarray(a, dtype), jnp.asarray(q, dtype))
    for s in (2.0**-100, 2.0**100):
        x, residual = solve(jnp.asarray(a, dtype), jnp.asarray(s * q, dtype))
        np.testing.assert_array_equal(x, plain.solution * dtype.type(s))
        assert residual == plain.residual


@pytest.mark.usefixtures("strict")
def test_half_precision_is_computed_in_float32_and_nothing_promoted(getkey):
    a = jnp.asarray(with_radius(getkey(), 0.5), "bfloat16")
    q = jnp.asarray(normal(getkey(), 2, 4, 4), "bfloat16")
    x, residual = solve(a, q)
    assert x.dtype == "bfloat16"
    assert residual.dtype == "float32"
    wide = solve(a.astype("float32"), q.astype("float32"))
    assert (x == wide.solution.astype("bfloat16")).all()
    jax.eval_shape(gradient, a, q)


def test_small_and_empty(dtype):
    zero = jnp.zeros((2, 2), dtype)
    assert solve(zero, zero).residual == 0
    for shape in [(0, 0), (0, 2, 2), (3, 0, 0)]:
        x, residual = solve(jnp.zeros(shape, dtype), jnp.ones(shape[-2:], dtype))
        assert x.shape == shape
        assert residual.shape == shape[:-2]


def test_lowers_for_accelerators():
    args = [jax.ShapeDtypeStruct((2, 3, 3), "float32")] * 2
    for fn in (x_of, gradient):
        jax.export.export(fn, platforms=["cuda", "tpu"])(*args)


@pytest.mark.usefixtures("unchecked")
def test_messages():
    eye = jnp.eye(2)
    with pytest.raises(ValueError, match=re.escape("`a` must have shape (..., n, n)")):
        solve_discrete_lyapunov(jnp.ones((2, 3)), eye)
    message = "`q` must have shape (..., 2, 2); got (3, 3)."
    with pytest.raises(ValueError, match=re.escape(message)):
        solve_discrete_lyapunov(eye, jnp.eye(3))
    with pytest.raises(ValueError, match="`steps` must be an integer, at least 1"):
        solve_discrete_lyapunov(eye, eye, steps=0)
    with pytest.raises(TypeError, match="`q` must have a real floating-point dtype"):
        solve_discrete_lyapunov(eye, jnp.ones((2, 2), int))
