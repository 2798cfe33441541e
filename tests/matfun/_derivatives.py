"""Derivatives along a random direction, against differences of what they come from."""

import jax
import jax.numpy as jnp
import numpy as np


def check_two_orders(fn, args, key, *, rtol: float = 1e-6, step: float = 1e-5) -> None:
    """Both modes of the first order of `fn`, and both mixed ones of the second.

    With respect to all arguments at once; the weights of the output are random.
    """
    rng = np.random.default_rng(np.asarray(jax.random.key_data(key)))
    along = [rng.standard_normal(np.shape(x)) for x in args]
    weight = rng.standard_normal(jax.eval_shape(fn, *args).shape)

    @jax.jit
    def first(t):
        return f(t), jax.grad(f)(t), jax.jvp(f, (t,), (1.0,))[1]

    @jax.jit
    def second(t):
        return jax.jacfwd(jax.grad(f))(t), jax.jacrev(jax.jacfwd(f))(t)

    def f(t):
        moved = (x + t * e for x, e in zip(args, along, strict=True))
        return jnp.sum(weight * fn(*moved))

    above, below = (np.array(first(t)) for t in (step, -step))
    quotients = (above - below) / (2 * step)
    for slope in first(0.0)[1:]:
        np.testing.assert_allclose(slope, quotients[0], rtol)
    for curvature in second(0.0):
        np.testing.assert_allclose(curvature, quotients[1], rtol)
