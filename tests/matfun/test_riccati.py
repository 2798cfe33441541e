import re

import jax
import jax.export
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.linalg

from jaxla.matfun import solve_continuous_are, solve_discrete_are
from tests.helpers import assert_close

from ._derivatives import check_two_orders


def normal(key, *shape) -> np.ndarray:
    return np.asarray(jax.random.normal(key, shape), "float64")


def regulator(getkey, n: int = 4, m: int = 2):
    """Unstable, not symmetric; Q of low rank and R not the identity."""
    a, b = normal(getkey(), n, n), normal(getkey(), n, m)
    c, d = normal(getkey(), n, n - 1), normal(getkey(), m, m)
    return a, b, c @ c.T, d @ d.T + np.eye(m)


def gain(kind, a, b, x, r):
    if kind == "continuous":
        return np.linalg.solve(r, b.T @ x)
    return np.linalg.solve(r + b.T @ x @ b, b.T @ x @ a)


def relative_rest(kind, a, b, q, r, x) -> float:
    k, norm = gain(kind, a, b, x, r), np.linalg.norm
    if kind == "continuous":
        rest = a.T @ x + x @ a - x @ b @ k + q
        quadratic = norm(b @ np.linalg.solve(r, b.T)) * norm(x) ** 2
        return norm(rest) / (2 * norm(a) * norm(x) + quadratic + norm(q))
    closed = a - b @ k
    rest = a.T @ x @ closed + q - x
    return norm(rest) / (norm(a) * norm(x) * norm(closed) + norm(x) + norm(q))


def margin(kind, closed) -> float:
    """Positive if stable."""
    values = np.linalg.eigvals(closed)
    return -values.real.max() if kind == "continuous" else 1 - np.abs(values).max()


KINDS = ["continuous", "discrete"]
SOLVE = {
    "continuous": jax.jit(solve_continuous_are, static_argnames="steps"),
    "discrete": jax.jit(solve_discrete_are, static_argnames="steps"),
}
X_OF = {
    "continuous": jax.jit(lambda *z: solve_continuous_are(*z).solution),
    "discrete": jax.jit(lambda *z: solve_discrete_are(*z).solution),
}
ORACLE = {
    "continuous": scipy.linalg.solve_continuous_are,
    "discrete": scipy.linalg.solve_discrete_are,
}
GRADIENT = {
    kind: jax.jit(jax.grad(lambda *z, f=f: f(*z).sum(), (0, 1, 2, 3)))
    for kind, f in X_OF.items()
}


def cast(dtype, *arrays):
    return [jnp.asarray(array, dtype) for array in arrays]


@pytest.mark.parametrize("kind", KINDS)
def test_matches_scipy_and_stabilizes(getkey, dtype, kind):
    for _ in range(3):
        a, b, q, r = regulator(getkey)
        x, residual = SOLVE[kind](*cast(dtype, a, b, q, r))
        assert x.dtype == residual.dtype == dtype
        assert residual <= 4 * jnp.finfo(dtype).eps
        assert (x == x.T).all()
        assert_close(x, ORACLE[kind](a, b, q, r), amplification=500)
        x = np.asarray(x, "float64")
        assert margin(kind, a - b @ gain(kind, a, b, x, r)) > 0
        assert np.linalg.eigvalsh(x).min() > 0


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("kind", KINDS)
def test_hard_systems(getkey, kind):
    """Chains of integrators, a wide range of rates, little damping, a large R."""
    skew = normal(getkey(), 4, 4)
    skew = (skew - skew.T) / np.linalg.norm(skew - skew.T, 2)
    chain, last = np.eye(4, k=1), np.eye(4)[:, 2:]
    b, eye, eye2 = normal(getkey(), 4, 2), np.eye(4), np.eye(2)
    radius = 1e-3 if kind == "continuous" else 0.999
    damped = (
        skew - radius * eye if kind == "continuous" else scipy.linalg.expm(skew) * radius
    )
    for args in [
        (chain, last, 1e-6 * eye, eye2),
        (-np.diag(np.geomspace(1e-2, 1e2, 4)), b, eye, eye2),
        (damped, 1e-3 * b, 1e-2 * eye, eye2),
        (normal(getkey(), 4, 4), b, eye, 1e6 * eye2),
        (np.zeros((4, 4)), normal(getkey(), 4, 2) @ eye2, eye, eye2),
    ][: 4 if kind == "continuous" else 5]:
        x, residual = SOLVE[kind](*args)
        assert residual <= 1e-14
        assert relative_rest(kind, *args, np.asarray(x)) <= 1e-13
        np.testing.assert_allclose(
            x, ORACLE[kind](*args), 1e-6, atol=1e-8 * np.abs(x).max()
        )


@pytest.mark.usefixtures("x64")
def test_scalars_by_hand():
    one = np.ones((1, 1))
    # 2 a x - x^2 b^2 / r + q = 0
    x, _ = solve_continuous_are(3 * one, 2 * one, 7 * one, 2 * one)
    np.testing.assert_allclose(x, (3 + np.sqrt(9 + 2 * 7)) / 2, 1e-14)
    # x = a^2 x r / (r + b^2 x) + q with a = b = 1: x^2 - q x - q r = 0
    x, _ = solve_discrete_are(one, one, 2 * one, 3 * one)
    np.testing.assert_allclose(x, 1 + np.sqrt(7), 1e-14)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("kind", KINDS)
def test_residual_is_what_the_equation_leaves(getkey, kind):
    """Where it is not small, because there were too few doublings."""
    a, b, q, r = regulator(getkey)
    a = a / 9 if kind == "discrete" else a - 9 * np.diag([9, 3, 1, 0.3])
    x, residual = SOLVE[kind](a, b, q, r, steps=1)
    assert 1e-11 < residual < 0.1
    desired = relative_rest(kind, a, b, q, r, np.asarray(x))
    np.testing.assert_allclose(residual, desired, 1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_what_does_not_stabilize_is_flagged(kind):
    """Badly scaled systems with weak control, which rounding makes uncontrollable."""
    rng, n, batch = np.random.default_rng(0), 4, 60
    size, grade = (
        10 ** rng.uniform(-2, 3, batch),
        10 ** rng.uniform(-1.5, 1.5, (batch, n)),
    )
    a = rng.normal(size=(batch, n, n)) * size[:, None, None]
    a = a * grade[:, :, None] / grade[:, None, :]
    b = rng.normal(size=(batch, n, 2)) * 10 ** rng.uniform(-2, 1, (batch, 1, 1))
    x, residual = SOLVE[kind](*cast("float32", a, b, np.eye(n), np.eye(2)))
    flagged = np.isinf(residual)
    assert flagged.sum() < batch
    assert flagged.any() or kind == "continuous"  # where rounding may do no harm
    assert (x[flagged] == 0).all()
    for i in np.flatnonzero(~flagged):
        k = gain(kind, a[i], b[i], np.asarray(x[i], "float64"), np.eye(2))
        closed = a[i] - b[i] @ k
        # What is wrong misses by much more.
        assert margin(kind, closed) > -1e-3 * max(1, np.linalg.norm(closed))


@pytest.mark.parametrize("kind", KINDS)
def test_without_a_stabilizing_solution_it_is_flagged(getkey, dtype, kind):
    _, b, _, r = regulator(getkey)
    unstable = np.diag([2.0, 3, 0.5, -0.3])
    eye, zero = np.eye(4), np.zeros((4, 4))
    for args in [
        (unstable, 0 * b, eye, r),  # no control
        (unstable, b, zero, r),  # not seen by the cost
        (unstable, b, eye, np.zeros((2, 2))),  # control without a cost
    ]:
        x, residual = SOLVE[kind](*cast(dtype, *args))
        assert (x == 0).all()
        assert residual == jnp.inf
        if dtype == "float64":
            gradients = GRADIENT[kind](*args)
            assert all((g == 0).all() for g in gradients)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("kind", KINDS)
def test_derivatives(getkey, kind):
    """With respect to all arguments."""
    check_two_orders(X_OF[kind], regulator(getkey, 3, 1), getkey(), rtol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_jit_vmap_loop_and_broadcast_agree(getkey, kind):
    _, b, q, r = cast("float32", *regulator(getkey))
    a = jnp.asarray(normal(getkey(), 3, 4, 4), "float32")
    q = jnp.stack([q, 2 * q + jnp.eye(4, dtype=q.dtype)])
    solve = SOLVE[kind]
    native = solve(a, b, q[:, None], r)
    assert native.solution.shape == (2, 3, 4, 4)
    assert native.residual.shape == (2, 3)
    mapped = jax.vmap(solve, (None, None, 0, None))(a, b, q, r)
    loop = [[solve(a[j], b, q[i], r).solution for j in range(3)] for i in range(2)]
    for other in (mapped.solution, jnp.array(loop)):
        assert_close(other, native.solution, amplification=2e3)


@pytest.mark.parametrize("kind", KINDS)
def test_a_bad_member_is_flagged_and_touches_no_other(getkey, kind):
    args = [jnp.asarray([z] * 3, "float32") for z in regulator(getkey)]
    clean = SOLVE[kind](*args)
    for which, bad in enumerate((np.nan, -np.inf, np.inf, np.nan)):
        spoiled = list(args)
        spoiled[which] = args[which].at[1, 1, 0].set(bad)
        x, residual = SOLVE[kind](*spoiled)
        assert (x[1] == 0).all()
        assert residual[1] == jnp.inf
        for i in (0, 2):
            assert (x[i] == clean.solution[i]).all()
            assert residual[i] == clean.residual[i]
        assert all(jnp.isfinite(g).all() for g in GRADIENT[kind](*spoiled))


@pytest.mark.parametrize("kind", KINDS)
def test_scale_equivariance(getkey, dtype, kind):
    """X scales as Q and R together; in continuous time, A and Q as 1 / time, X as it."""
    a, b, q, r = regulator(getkey)
    plain = SOLVE[kind](*cast(dtype, a, b, q, r)).solution
    for s in (2.0**-80, 2.0**80):
        x, _ = SOLVE[kind](*cast(dtype, a, b, s * q, s * r))
        assert_close(x, np.asarray(plain, "float64") * s, amplification=500)
        x, _ = SOLVE[kind](*cast(dtype, a, b * s**0.5, q, s * r))
        assert_close(x, plain, amplification=500)
        if kind == "continuous":
            x, _ = SOLVE[kind](*cast(dtype, s * a, b, s * q, r / s))
            assert_close(x, plain, amplification=500)


@pytest.mark.parametrize("kind", KINDS)
def test_half_precision_is_computed_in_float32(getkey, kind):
    args = cast("bfloat16", *regulator(getkey))
    x, residual = SOLVE[kind](*args)
    assert x.dtype == "bfloat16"
    assert residual.dtype == "float32"
    wide = SOLVE[kind](*(z.astype("float32") for z in args))
    assert (x == wide.solution.astype("bfloat16")).all()


@pytest.mark.usefixtures("strict")
@pytest.mark.parametrize("kind", KINDS)
def test_nothing_is_promoted(getkey, kind):
    a, b, q, r = cast("bfloat16", *regulator(getkey))
    jax.eval_shape(GRADIENT[kind], a, b, jnp.stack([q, q]), r)


@pytest.mark.parametrize("kind", KINDS)
def test_empty(kind):
    for n, batch in [(0, ()), (2, (0,)), (0, (3,))]:
        eye = jnp.eye(n)
        out = SOLVE[kind](eye, jnp.ones((*batch, n, 1)), eye, jnp.eye(1))
        assert out.solution.shape == (*batch, n, n)
        assert (out.residual == 0).all()


@pytest.mark.parametrize("kind", KINDS)
def test_lowers_for_accelerators(kind):
    shapes = [(2, 3, 3), (2, 3, 2), (2, 3, 3), (2, 2, 2)]
    args = [jax.ShapeDtypeStruct(shape, "float32") for shape in shapes]
    for fn in (X_OF[kind], GRADIENT[kind]):
        jax.export.export(fn, platforms=["cuda", "tpu"])(*args)


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("solve", [solve_continuous_are, solve_discrete_are])
def test_messages(solve):
    good = [jnp.eye(3), jnp.ones((3, 2)), jnp.eye(3), jnp.eye(2)]
    bad = {
        "`a` must have shape (..., n, n); got (3, 2).": (0, jnp.ones((3, 2))),
        "`b` must have shape (..., 3, 2); got (4, 2).": (1, jnp.ones((4, 2))),
        "`b` must have shape (..., 3, m); got (3,).": (1, jnp.ones(3)),
        "`q` must have shape (..., 3, 3); got (2, 2).": (2, jnp.eye(2)),
        "`q` must have shape (..., 3, 3); got (3,).": (2, jnp.ones(3)),
        "`r` must have shape (..., 2, 2); got (2, 3).": (3, jnp.ones((2, 3))),
        "`r` must have shape (..., 2, 2); got (3, 3).": (3, jnp.eye(3)),
    }
    for message, (which, value) in bad.items():
        with pytest.raises(ValueError, match=re.escape(message)):
            solve(*good[:which], value, *good[which + 1 :])
    with pytest.raises(TypeError, match="`r` must have a real floating-point dtype"):
        solve(*good[:3], jnp.eye(2, dtype=int))
    with pytest.raises(ValueError, match="`steps` must be an integer, at least 1"):
        solve(*good, steps=0)
