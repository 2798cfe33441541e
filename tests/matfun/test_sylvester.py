import functools
import re

import jax
import jax.export
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.linalg

from jaxla.matfun import solve_continuous_lyapunov, solve_sylvester
from tests.helpers import assert_close, psd_with_spectrum

from ._derivatives import check_two_orders


sylvester = jax.jit(solve_sylvester)
lyapunov = jax.jit(solve_continuous_lyapunov)
x_of = jax.jit(lambda a, b, c: solve_sylvester(a, b, c).solution)
gramian_of = jax.jit(lambda a, q: solve_continuous_lyapunov(a, q).solution)


def normal(key, *shape) -> np.ndarray:
    return np.asarray(jax.random.normal(key, shape), "float64")


def in_right_half_plane(key, n: int, least: float = 0.5) -> np.ndarray:
    """Not symmetric, with complex eigenvalues, the least of real part `least`."""
    a = normal(key, n, n)
    return a + (least - np.linalg.eigvals(a).real.min()) * np.eye(n)


def problem(getkey, m: int = 4, n: int = 3):
    a, b = in_right_half_plane(getkey(), m), in_right_half_plane(getkey(), n)
    return a, b, normal(getkey(), m, n)


def cast(dtype, *arrays):
    return [jnp.asarray(array, dtype) for array in arrays]


def relative_rest(a, b, c, x) -> float:
    norm = np.linalg.norm
    rest = a @ x + x @ b - c
    return norm(rest) / (norm(c) + (norm(a) + norm(b)) * norm(x))


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize("n", [3, 4])
def test_sylvester_matches_scipy(getkey, dtype, n, sign):
    a, b, c = problem(getkey, 4, n)
    x, residual = sylvester(*cast(dtype, sign * a, sign * b, c))
    assert x.dtype == residual.dtype == dtype
    assert residual <= 2 * jnp.finfo(dtype).eps
    assert_close(x, sign * scipy.linalg.solve_sylvester(a, b, c), amplification=50)


@pytest.mark.parametrize("sign", [1, -1])
def test_lyapunov_matches_scipy(getkey, dtype, sign):
    a, q = sign * in_right_half_plane(getkey(), 4), normal(getkey(), 4, 4)
    x, residual = lyapunov(*cast(dtype, a, q))
    assert residual <= 2 * jnp.finfo(dtype).eps
    assert_close(x, scipy.linalg.solve_continuous_lyapunov(a, q), amplification=50)
    x, _ = lyapunov(*cast(dtype, a, q + q.T))
    assert (x == x.T).all()


@pytest.mark.usefixtures("x64")
def test_residual_is_what_the_equation_leaves(getkey):
    """Where it is not small, because there were too few steps."""
    a, b, c = problem(getkey)
    a = 10 * a
    x, residual = solve_sylvester(a, b, c, steps=3)
    assert 1e-9 < residual < 0.1
    np.testing.assert_allclose(residual, relative_rest(a, b, c, np.asarray(x)), 1e-3)
    q = c @ c.T
    x, residual = solve_continuous_lyapunov(a, q, steps=3)
    assert 1e-9 < residual < 0.1
    np.testing.assert_allclose(residual, relative_rest(a, a.T, q, np.asarray(x)), 1e-3)


@pytest.mark.parametrize("n", [20])
def test_hard_spectra(getkey, dtype, n):
    """Ill-conditioned, far from normal, close to the axis, of two scales."""
    skew = normal(getkey(), n, n)
    skew = (skew - skew.T) / np.linalg.norm(skew - skew.T, 2)
    spd = psd_with_spectrum(getkey(), np.geomspace(1e-4, 1, n))
    far = np.triu(normal(getkey(), n, n), 1) + np.diag(np.linspace(0.1, 1, n))
    damped = skew + 1e-3 * np.eye(n)
    pairs = [(spd, spd), (far, far.T), (damped, damped), (1e4 * spd, far), (spd, damped)]
    c = normal(getkey(), n, n)
    a, b = (np.array(x) for x in zip(*pairs, strict=True))
    given = cast(dtype, a, b, c)
    x, residual = sylvester(*given)
    assert (residual <= 4 * jnp.finfo(dtype).eps).all()
    for i in range(len(pairs)):
        rest = relative_rest(
            *(np.asarray(z, "float64") for z in (given[0][i], given[1][i], c, x[i]))
        )
        assert rest <= 4 * jnp.finfo(dtype).eps


def test_what_is_not_in_one_half_plane_is_flagged(getkey, dtype):
    a, b, c = problem(getkey)
    mixed = np.diag([1.0, -1, 1, 2])
    turned = np.kron(np.eye(2), [[0, 1], [-1, 0]])
    for bad in (mixed, turned, np.zeros((4, 4)), np.diag([1.0, 0, 1, 1]), -a):
        x, residual = sylvester(*cast(dtype, bad, b, c))
        assert (x == 0).all()
        assert residual == jnp.inf
    for bad in (mixed, turned, np.zeros((4, 4))):
        x, residual = lyapunov(*cast(dtype, bad, c @ c.T))
        assert (x == 0).all()
        assert residual == jnp.inf
    if dtype == "float64":
        assert all((gradient == 0).all() for gradient in _gradients(mixed, b, c))


@pytest.mark.usefixtures("x64")
def test_a_shift_moves_the_spectra_into_the_half_plane(getkey):
    """As the docstring says."""
    a, b, c = problem(getkey)
    shift = np.eye(4), np.eye(3)
    x, residual = sylvester(a - 0.7 * shift[0], b + 0.7 * shift[1], c)
    assert residual == jnp.inf
    x, residual = sylvester(a, b, c)
    assert_close(
        x,
        scipy.linalg.solve_sylvester(a - 0.7 * shift[0], b + 0.7 * shift[1], c),
        amplification=50,
    )


@pytest.mark.usefixtures("x64")
def test_derivatives(getkey):
    """Also at repeated eigenvalues, and where Q is symmetric."""
    a, b, c = problem(getkey)
    check_two_orders(x_of, (a, b, c), getkey())
    check_two_orders(x_of, (-np.eye(4), -np.eye(3), c), getkey())
    check_two_orders(gramian_of, (-a, c @ c.T), getkey())


def test_jit_vmap_loop_and_broadcast_agree(getkey):
    a = np.stack([in_right_half_plane(getkey(), 4, s) for s in (0.05, 0.5, 5)])
    b, c = in_right_half_plane(getkey(), 3), normal(getkey(), 2, 1, 4, 3)
    a, b, c = cast("float32", a, b, c)
    native = sylvester(a, b, c)
    assert native.solution.shape == (2, 3, 4, 3)
    assert native.residual.shape == (2, 3)
    mapped = jax.vmap(sylvester, (None, None, 0))(a, b, c)
    loop = [[sylvester(a[j], b, c[i, 0]).solution for j in range(3)] for i in range(2)]
    for other in (mapped.solution, jnp.array(loop)):
        assert_close(other, native.solution, amplification=500)
    gradient = jax.jit(jax.grad(lambda a, c: x_of(a, b, c).sum()))
    mapped = jax.vmap(gradient, (0, None))(a, c[0, 0])
    assert_close(mapped, gradient(a, c[0]), amplification=500)


@pytest.mark.parametrize("bad", [np.nan, -np.inf])
def test_a_bad_member_is_flagged_and_touches_no_other(getkey, bad):
    a, b, c = (jnp.asarray([z] * 3, "float32") for z in problem(getkey, 4, 4))
    clean = sylvester(a, b, c)
    spoiled = [(a.at[1, 0, 1].set(bad), b, c), (a, b.at[1, 2, 2].set(bad), c)]
    spoiled += [(a, b, c.at[1, 0, 2].set(bad)), (a.at[1].set(0), b, c)]
    for given in spoiled:
        x, residual = sylvester(*given)
        assert (x[1] == 0).all()
        assert residual[1] == jnp.inf
        for i in (0, 2):
            assert (x[i] == clean.solution[i]).all()
            assert residual[i] == clean.residual[i]
        gradients = _gradients(*given)
        assert all(jnp.isfinite(z).all() for z in gradients)
    x, residual = lyapunov(a.at[1, 1, 0].set(bad), c)
    assert residual[1] == jnp.inf
    assert (x[0] == lyapunov(a, c).solution[0]).all()


_gradients = jax.jit(jax.grad(lambda *z: x_of(*z).sum(), (0, 1, 2)))


def test_scale_equivariance(getkey, dtype):
    a, b, c = problem(getkey)
    plain = sylvester(*cast(dtype, a, b, c))
    gramian = lyapunov(*cast(dtype, a, c @ c.T))
    for s, t in (
        (2.0**-100, 1.0),
        (2.0**100, 2.0**100),
        (1.0, 2.0**-100),
        (2.0**60, 1.0),
    ):
        out = sylvester(*cast(dtype, s * a, s * b, t * c))
        np.testing.assert_array_equal(out.solution, plain.solution * dtype.type(t / s))
        assert out.residual == plain.residual
        out = lyapunov(*cast(dtype, s * a, t * c @ c.T))
        np.testing.assert_array_equal(out.solution, gramian.solution * dtype.type(t / s))


def test_half_precision_is_computed_in_float32(getkey):
    args = cast("bfloat16", *problem(getkey))
    out = sylvester(*args)
    wide = sylvester(*(z.astype("float32") for z in args))
    assert out.solution.dtype == "bfloat16"
    assert out.residual.dtype == "float32"
    assert (out.solution == wide.solution.astype("bfloat16")).all()


@pytest.mark.usefixtures("strict")
def test_nothing_is_promoted(getkey):
    a, b, c = cast("bfloat16", *problem(getkey))
    out = jax.eval_shape(lyapunov, a, jnp.stack([a, a]))
    assert out.solution.dtype == "bfloat16"
    jax.eval_shape(_gradients, a, b, jnp.stack([c, c]))


def test_small_and_empty(dtype):
    one = functools.partial(jnp.full, (1, 1), dtype=dtype)
    assert sylvester(one(1.0), one(3.0), one(8.0)).solution == 2
    assert lyapunov(one(-2.0), one(8.0)).solution == -2
    assert sylvester(one(1.0), one(3.0), one(0.0)).residual == 0
    for m, n, batch in [(0, 2, ()), (2, 0, ()), (2, 2, (0,)), (0, 0, (3,))]:
        a, b = jnp.eye(m, dtype=dtype), jnp.eye(n, dtype=dtype)
        out = sylvester(a, b, jnp.ones((*batch, m, n), dtype))
        assert out.solution.shape == (*batch, m, n)
        assert (out.residual == 0).all()
        assert out.residual.shape == batch


def test_lowers_for_accelerators():
    a, b, c = (jax.ShapeDtypeStruct((2, *z), "float32") for z in [(4, 4), (3, 3), (4, 3)])
    platforms = ["cuda", "tpu"]
    jax.export.export(x_of, platforms=platforms)(a, b, c)
    jax.export.export(_gradients, platforms=platforms)(a, b, c)
    gradient = jax.jit(jax.grad(lambda a, q: gramian_of(a, q).sum(), (0, 1)))
    jax.export.export(gradient, platforms=platforms)(a, a)


@pytest.mark.usefixtures("unchecked")
def test_messages():
    eye = jnp.eye(2)
    cases = [
        (
            solve_sylvester,
            (jnp.ones((2, 3)), eye, eye),
            "`a` must have shape (..., n, n)",
        ),
        (solve_sylvester, (eye, jnp.ones(3), eye), "`b` must have shape (..., n, n)"),
        (
            solve_sylvester,
            (eye, jnp.eye(3), eye),
            "`c` must have shape (..., 2, 3); got (2, 2).",
        ),
        (
            solve_continuous_lyapunov,
            (eye, jnp.eye(3)),
            "`q` must have shape (..., 2, 2); got (3, 3).",
        ),
    ]
    for solve, args, message in cases:
        with pytest.raises(ValueError, match=re.escape(message)):
            solve(*args)
        with pytest.raises(ValueError, match="`steps` must be an integer, at least 1"):
            solve(*([eye] * len(args)), steps=0)
        with pytest.raises(TypeError, match="`a` must have a real floating-point dtype"):
            solve(*([jnp.ones((2, 2), int)] * len(args)))
