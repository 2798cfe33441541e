import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxla.kron import graft


def norm(x) -> float:
    return float(np.linalg.norm(np.ravel(np.asarray(x, "float64"))))


@pytest.mark.usefixtures("strict")
@pytest.mark.parametrize("shape", [(5,), (3, 4), (2, 3, 4), ()])
def test_has_the_direction_of_one_and_the_norm_of_the_other(getkey, shape):
    direction = jax.random.normal(getkey(), shape, "float32")
    magnitude = jax.random.normal(getkey(), (7,), "float32")
    out = graft(direction, magnitude)
    assert out.shape == shape
    assert out.dtype == direction.dtype
    np.testing.assert_allclose(norm(out), norm(magnitude), rtol=1e-6)
    desired = np.asarray(direction) * norm(magnitude) / norm(direction)
    np.testing.assert_allclose(out, desired, rtol=2e-6)


def test_trees_are_grafted_array_by_array(getkey):
    make = lambda: {
        "b": jax.random.normal(getkey(), (3,)),
        "w": (jax.random.normal(getkey(), (4, 2)),),
    }
    direction, magnitude = make(), make()
    out = graft(direction, magnitude)
    desired = jax.tree.map(graft, direction, magnitude)
    for x, y in zip(jax.tree.leaves(out), jax.tree.leaves(desired), strict=True):
        np.testing.assert_allclose(x, y, rtol=1e-6)
    assert jax.tree.structure(out) == jax.tree.structure(direction)
    assert graft({}, {}) == {}


def test_float64_stays_exact(x64, getkey):
    direction = jax.random.normal(getkey(), (4, 3))
    magnitude = 1e30 * jax.random.normal(getkey(), (5,))
    out = graft(1e-30 * direction, magnitude)
    desired = np.asarray(direction) * norm(magnitude) / norm(direction)
    np.testing.assert_allclose(out, desired, rtol=1e-14)


@pytest.mark.parametrize("scale", [1e-15, 1e-6, 1e6, 1e15])
def test_the_norm_of_the_direction_does_not_count(getkey, scale):
    direction = jax.random.normal(getkey(), (4, 3), "float32")
    out = graft(jnp.float32(scale) * direction, jnp.array([2.0], "float32"))
    np.testing.assert_allclose(out, graft(direction, jnp.array([2.0])), rtol=2e-6)


@pytest.mark.parametrize("scale", [1e-15, 1e15])
def test_the_norm_of_the_magnitude_gets_through(scale):
    out = graft(jnp.array([3.0, 4.0], "float32"), jnp.array([scale, 0], "float32"))
    np.testing.assert_allclose(out / scale, [0.6, 0.8], rtol=1e-6)


@pytest.mark.parametrize("tiny", [0.0, 1e-30])
def test_a_zero_direction_gives_zero(tiny):
    """And what counts as one: a quotient of numbers that have lost their digits."""
    out = graft(jnp.full(3, tiny, "float32"), jnp.ones(3, "float32"))
    assert (out == 0).all()


def test_a_zero_magnitude_gives_zero():
    assert (graft(jnp.ones(3), jnp.zeros(2)) == 0).all()


def test_derivative_at_zero_is_zero():
    loss = lambda d, m: (graft(d, m) * jnp.arange(1.0, 4)).sum()
    grads = jax.grad(loss, (0, 1))(jnp.zeros(3), jnp.ones(3))
    assert all((grad == 0).all() for grad in grads)
    _, tangent = jax.jvp(loss, (jnp.zeros(3), jnp.ones(3)), (jnp.ones(3), jnp.ones(3)))
    assert tangent == 0
    grads = jax.grad(loss, (0, 1))(jnp.ones(3), jnp.zeros(3))
    assert all(jnp.isfinite(grad).all() for grad in grads)


def test_derivatives(getkey):
    """Of D |M| / |D| by hand, and the reverse mode against the forward mode."""
    shapes = [(4, 3), (5,), (4, 3), (5,), (4, 3)]
    d, m, dd, dm, weights = (jax.random.normal(getkey(), s, "float32") for s in shapes)
    ratio = norm(m) / norm(d)
    cosines = np.vdot(m, dm) / norm(m) ** 2 - np.vdot(d, dd) / norm(d) ** 2
    desired = ratio * (np.asarray(dd) + np.asarray(d) * cosines)
    _, tangent = jax.jvp(graft, (d, m), (dd, dm))
    np.testing.assert_allclose(tangent, desired, rtol=1e-4, atol=1e-5)
    back = jax.grad(lambda d, m: (weights * graft(d, m)).sum(), (0, 1))(d, m)
    forward, reverse = (
        np.vdot(weights, tangent),
        np.vdot(back[0], dd) + np.vdot(back[1], dm),
    )
    np.testing.assert_allclose(forward, reverse, rtol=1e-4)
