"""The vectors behind the log-determinant and trace-inverse cones."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.optimize

from jaxla.matfun._perspective_cones import Barrier, INVERSE, LOG, perspective_cone


BARRIERS = {"log": LOG, "inverse": INVERSE}
EACH = pytest.mark.parametrize("name", BARRIERS)


def project(name: str, z: np.ndarray) -> np.ndarray:
    out = _PROJECT[name](z)
    return np.asarray(out, "float64")


def _projection(barrier: Barrier):
    @jax.jit
    def fn(z):
        (t, v), x, _ = perspective_cone(barrier)((z[..., 0], z[..., 1]), z[..., 2:])
        return jnp.concatenate([t[..., None], v[..., None], x], -1)

    return fn


_PROJECT = {name: _projection(barrier) for name, barrier in BARRIERS.items()}


def phi(name, xi):
    return np.sum(-np.log(xi) if name == "log" else 1 / xi, -1)


def random_points(count: int, n: int, spread: float, seed: int = 0) -> np.ndarray:
    """Of norm up to one, with entries of very different sizes and signs of all kinds."""
    rng = np.random.default_rng(seed)
    z = rng.standard_normal((count, n + 2)) * 10 ** rng.uniform(
        -spread, 0, (count, n + 2)
    )
    z[: count // 3, 2:] = np.abs(z[: count // 3, 2:])
    z[count // 3 : count // 2, 2:] *= -np.sign(z[count // 3 : count // 2, 2:])
    return z / np.abs(z).max(-1, keepdims=True)


def members(name, count: int, n: int) -> np.ndarray:
    """Points of the cone, also close to its corners."""
    rng = np.random.default_rng(1)
    v = 10 ** rng.uniform(-8, 1, count)
    x = 10 ** rng.uniform(-6, 1, (count, n))
    t = v * phi(name, x / v[:, None]) + np.abs(rng.standard_normal(count)) * (
        rng.uniform(size=count) < 0.5
    )
    return np.hstack([t[:, None], v[:, None], x])


@EACH
@pytest.mark.parametrize("spread", [0.0, 12.0])
def test_variational_inequality(dtype, name, spread):
    """The point is in the cone, and the residual makes obtuse angles with all of it."""
    z = random_points(3000, 3, spread)
    p, eps = project(name, z.astype(dtype)), float(jnp.finfo(dtype).eps)
    assert np.isfinite(p).all()
    t, v, x = p[:, 0], p[:, 1], p[:, 2:]
    assert (v >= 0).all()
    assert (x >= 0).all()
    live = (v > 0) & (x > 0).all(-1)
    safe_v, safe_x = np.where(live, v, 1), np.where(live[:, None], x, 1)
    violation = safe_v * phi(name, safe_x / safe_v[:, None]) - t
    assert (violation[live] <= 30 * eps).all()
    assert (t[v == 0] >= 0).all()
    residual = z - p
    assert (np.abs(np.sum(residual * p, -1)) <= 30 * eps).all()
    cone = members(name, 300, 3)
    products = residual @ (cone / np.linalg.norm(cone, axis=-1)[:, None]).T
    assert products.max() <= 100 * eps


@EACH
@pytest.mark.usefixtures("x64")
def test_against_a_general_solver(name):
    z = random_points(3000, 3, 0.0)[::250]
    p = project(name, random_points(3000, 3, 0.0))[::250]
    constraint = lambda q: q[0] - q[1] * phi(name, q[2:] / q[1])
    for given, actual in zip(z, p, strict=True):
        if actual[1] < 1e-3:  # where the solver meets the logarithm of zero
            continue
        solved = scipy.optimize.minimize(
            lambda q, given=given: np.sum((q - given) ** 2) / 2,
            np.array([8.0, 1, 1, 1, 1]),
            jac=lambda q, given=given: q - given,
            bounds=[(None, None)] + [(1e-9, None)] * 4,
            constraints={"type": "ineq", "fun": constraint},
            options={"ftol": 1e-14, "maxiter": 500},
        )
        np.testing.assert_allclose(actual, solved.x, atol=2e-5)


@EACH
def test_members_stay_and_projecting_twice_changes_nothing(dtype, name):
    inside = members(name, 3000, 3)
    inside[:, 0] += 1e-3 * np.abs(inside).max(-1)
    inside /= np.abs(inside).max(-1, keepdims=True)
    inside = inside.astype(dtype)
    assert (project(name, inside) == inside).all()
    p = project(name, random_points(3000, 3, 3.0).astype(dtype))
    eps = float(jnp.finfo(dtype).eps)
    np.testing.assert_allclose(project(name, p.astype(dtype)), p, atol=30 * eps)


@EACH
@pytest.mark.usefixtures("x64")
def test_polar_cone_goes_to_zero(name):
    """Minus the dual cone, in closed form."""
    rng = np.random.default_rng(0)
    tau, y = rng.uniform(0.1, 2, 3000), rng.uniform(0.1, 2, (3000, 3))
    if name == "log":
        least = -tau * np.sum(1 + np.log(y / tau[:, None]), -1)
    else:
        least = -2 * np.sum(np.sqrt(tau[:, None] * y), -1)
    dual = np.hstack([tau[:, None], (least + 1e-9)[:, None], y])
    assert (project(name, -dual) == 0).all()
    dual[:, 1] -= 1e-2
    assert (np.abs(project(name, -dual)).max(-1) > 0).all()


@pytest.mark.usefixtures("x64")
def test_faces_without_v():
    """In closed form: `t`, zero and `x`, each made non-negative."""
    z = np.array([[1, -1, 2, -1, 0.5], [0, 0, 1, -1, -2], [0.5, 0, -1, -1, -3]])
    for name in BARRIERS:
        desired = np.maximum(z, 0) * np.array([1, 0, 1, 1, 1])
        assert (project(name, z) == desired).all()
    # v_0 <= 2 sum sqrt(t_0 x_i) over the negative x_i.
    z = np.array([[-1.0, 3.9, 2.0, -1.0, -1.0]])
    assert (project("inverse", z) == [[0, 0, 2, 0, 0]]).all()
    assert project("inverse", z + np.array([0, 0.2, 0, 0, 0]))[0, 1] > 0


@EACH
@pytest.mark.usefixtures("x64")
def test_long_vectors(name):
    z = random_points(20, 400, 2.0)
    p = project(name, z)
    live = (p[:, 1] > 0) & (p[:, 2:] > 0).all(-1)
    v, x = p[live, 1], p[live, 2:]
    assert (v * phi(name, x / v[:, None]) - p[live, 0] <= 1e-12).all()
    assert (np.abs(np.sum((z - p) * p, -1)) <= 1e-12).all()


@EACH
@pytest.mark.usefixtures("x64")
def test_jacobian_is_that_of_a_projection(name):
    """Symmetric, with eigenvalues from 0 to 1, and right by differences."""
    z = random_points(3000, 3, 1.0)[::60]
    fn = _PROJECT[name]
    jacobians = jax.jit(jax.vmap(jax.jacfwd(lambda z: fn(z[None])[0])))(z)
    np.testing.assert_allclose(jacobians, jacobians.mT, atol=1e-10)
    values = np.linalg.eigvalsh(jacobians)
    assert values.min() >= -1e-10
    assert values.max() <= 1 + 1e-10
    h = 1e-6
    for i, e in enumerate(np.eye(5)):
        quotient = (project(name, z + h * e) - project(name, z - h * e)) / (2 * h)
        np.testing.assert_allclose(jacobians[:, :, i], quotient, atol=2e-6)
