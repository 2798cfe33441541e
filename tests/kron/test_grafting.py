import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxla.kron import Axes, Blocks, from_stacks, graft, make_plan, to_stacks


# Of one and of several tiles, in two sizes of tiles, and one that is no matrix.
SHAPES = [(5, 3), (20, 12), (7,), (2, 9, 4), (17, 2, 3), (6, 5)]
RULES = {"p3": Axes(rows=(1,), cols=(2,), batch=(0,))}
MATRICES = [0, 1, 3, 4, 5]


def plan_of(shapes):
    leaves = [jax.ShapeDtypeStruct(shape, "float32") for shape in shapes]
    paths = [f"p{i}" for i in range(len(shapes))]
    return make_plan(paths, leaves, Blocks(size=8, rules=RULES))


def grafted(leaves, sizes):
    plan = plan_of([x.shape for x in leaves])
    return from_stacks(graft(to_stacks(leaves, plan), sizes, plan), plan)


def one(x, size):
    """A single matrix."""
    return grafted([x], jnp.reshape(size, 1).astype(x.dtype))[0]


def some_leaves(getkey, dtype="float32"):
    return [jax.random.normal(getkey(), shape, dtype) for shape in SHAPES]


def norm(x) -> float:
    return float(np.linalg.norm(np.ravel(np.asarray(x, "float64"))))


@pytest.mark.usefixtures("strict")
def test_each_has_its_direction_and_the_given_size(getkey):
    leaves, sizes = some_leaves(getkey), jnp.arange(1.0, 7.0, dtype="float32")
    out = jax.jit(grafted)(leaves, sizes)
    assert sorted(out) == MATRICES
    for i, x in out.items():
        assert x.dtype == jnp.float32
        np.testing.assert_allclose(norm(x), i + 1, rtol=1e-6)
        desired = np.asarray(leaves[i]) * ((i + 1) / norm(leaves[i]))
        np.testing.assert_allclose(x, desired, rtol=3e-6)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_one_that_is_not_finite_touches_no_other(getkey, bad):
    leaves, sizes = some_leaves(getkey), jnp.ones(6, "float32")
    clean = grafted(leaves, sizes)
    leaves[1] = leaves[1].at[3, 2].set(bad)
    out = grafted(leaves, sizes)
    assert all((out[i] == clean[i]).all() for i in MATRICES if i != 1)
    assert not jnp.isfinite(out[1]).all()


def test_float64_stays_exact(x64, getkey):
    leaves = some_leaves(getkey, "float64")
    out = grafted([1e-30 * x for x in leaves], jnp.full(6, 1e30))
    for i, x in out.items():
        desired = np.asarray(leaves[i]) * 1e30 / norm(leaves[i])
        np.testing.assert_allclose(x, desired, rtol=1e-14)


@pytest.mark.parametrize("scale", [1e-15, 1e-6, 1e6, 1e15])
def test_the_norm_of_the_direction_does_not_count(getkey, scale):
    x = jax.random.normal(getkey(), (20, 12), "float32")
    np.testing.assert_allclose(one(jnp.float32(scale) * x, 2.0), one(x, 2.0), rtol=2e-6)


@pytest.mark.parametrize("scale", [1e-15, 1e15])
def test_the_size_gets_through(scale):
    out = one(jnp.diag(jnp.array([3.0, 4.0], "float32")), jnp.float32(scale))
    np.testing.assert_allclose(jnp.diag(out) / scale, [0.6, 0.8], rtol=1e-6)


@pytest.mark.parametrize("tiny", [0.0, 1e-30])
def test_a_zero_direction_gives_zero(tiny):
    """And what counts as one: a quotient of numbers that have lost their digits."""
    assert (one(jnp.full((3, 2), tiny, "float32"), 1.0) == 0).all()


def test_size_zero_gives_zero():
    assert (one(jnp.ones((3, 2)), 0.0) == 0).all()


def test_derivative_at_zero_is_zero():
    loss = lambda x, size: (one(x, size) * jnp.arange(1.0, 7).reshape(3, 2)).sum()
    grads = jax.grad(loss, (0, 1))(jnp.zeros((3, 2)), 1.0)
    assert all((grad == 0).all() for grad in grads)
    at = (jnp.zeros((3, 2)), 1.0)
    _, tangent = jax.jvp(loss, at, (jnp.ones((3, 2)), 1.0))
    assert tangent == 0
    grads = jax.grad(loss, (0, 1))(jnp.ones((3, 2)), 0.0)
    assert all(jnp.isfinite(grad).all() for grad in grads)


def test_derivatives(getkey):
    """Of D s / |D| by hand, and the reverse mode against the forward mode."""
    d, dd, weights = (jax.random.normal(getkey(), (20, 12), "float32") for _ in range(3))
    s, ds = jnp.float32(2.0), jnp.float32(0.3)
    along = ds / s - np.vdot(d, dd) / norm(d) ** 2
    desired = float(s) / norm(d) * (np.asarray(dd) + np.asarray(d) * along)
    _, tangent = jax.jvp(one, (d, s), (dd, ds))
    np.testing.assert_allclose(tangent, desired, rtol=1e-4, atol=1e-5)
    back = jax.grad(lambda d, s: (weights * one(d, s)).sum(), (0, 1))(d, s)
    forward, reverse = np.vdot(weights, tangent), np.vdot(back[0], dd) + back[1] * ds
    np.testing.assert_allclose(forward, reverse, rtol=1e-4)
