"""Derivatives along a random direction, against differences of what they come from."""

import functools

import jax
import jax.numpy as jnp
import numpy as np


def check_two_orders(fn, args, key, *, rtol: float = 1e-6, step: float = 1e-5) -> None:
    """Both modes of the first order of `fn`, and both mixed ones of the second.

    With respect to all arguments at once; the weights of the output are random. What is
    compiled serves all arguments of the same shapes.
    """
    rng = np.random.default_rng(np.asarray(jax.random.key_data(key)))
    along = tuple(rng.standard_normal(np.shape(x)) for x in args)
    weight = rng.standard_normal(jax.eval_shape(fn, *args).shape)
    rest = weight, along, tuple(args)
    first, second = _derivatives_along(fn)
    above, below = (np.array(first(t, *rest)) for t in (step, -step))
    quotients = (above - below) / (2 * step)
    for slope in first(0.0, *rest)[1:]:
        np.testing.assert_allclose(slope, quotients[0], rtol)
    for curvature in second(0.0, *rest):
        np.testing.assert_allclose(curvature, quotients[1], rtol)


@functools.cache
def _derivatives_along(fn):
    def f(t, weight, along, args):
        moved = (x + t * e for x, e in zip(args, along, strict=True))
        return jnp.sum(weight * fn(*moved))

    def first(t, *rest):
        line = lambda t: f(t, *rest)
        return line(t), jax.grad(line)(t), jax.jvp(line, (t,), (1.0,))[1]

    def second(t, *rest):
        line = lambda t: f(t, *rest)
        return jax.jacfwd(jax.grad(line))(t), jax.jacrev(jax.jacfwd(line))(t)

    return jax.jit(first), jax.jit(second)
