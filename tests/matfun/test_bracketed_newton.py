import jax
import jax.numpy as jnp
import numpy as np

from jaxla.matfun._bracketed_newton import bracketed_newton


def test_roots_of_a_batch(dtype):
    """Smooth, with a kink, with a jump, and flat away from the root."""
    roots = jnp.asarray([0.3, -2.0, 5.0, 1e-3, -9.9], dtype)

    def f(x):
        gap = x - roots
        return jnp.stack([
            jnp.exp(gap[0]) - 1,
            jnp.where(gap[1] < 0, 100 * gap[1], gap[1] / 100),
            jnp.where(gap[2] < 0, gap[2] - 1, gap[2] + 1),
            jnp.arctan(1e3 * gap[3]),
            gap[4] ** 3,
        ])  # fmt: skip

    bound = jnp.full_like(roots, 10)
    found = jax.jit(lambda b: bracketed_newton(f, -b, b, steps=60))(bound)
    assert found.dtype == dtype
    eps = float(jnp.finfo(dtype).eps)
    np.testing.assert_allclose(found[:4], roots[:4], atol=30 * eps)
    # A triple root has a third of the digits.
    np.testing.assert_allclose(found[4], roots[4], atol=30 * eps ** (1 / 3))


def test_without_a_root_it_goes_to_the_end():
    one = jnp.ones(1)
    for sign, desired in ((1.0, -1.0), (-1.0, 1.0)):
        f = lambda x, sign=sign: sign + x / 2
        np.testing.assert_allclose(
            bracketed_newton(f, -one, one, steps=30), desired, 1e-6
        )


def test_it_has_no_derivative():
    fn = lambda a: bracketed_newton(
        lambda x: x - jax.lax.stop_gradient(a), -a, a, steps=3
    )
    assert jax.grad(lambda a: fn(a).sum())(jnp.ones(2)).sum() == 0
