"""Newton's method between two bounds, for a batch of equations in one unknown each."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import Array


def bracketed_newton(
    f: Callable[[Array], Array], low: Array, high: Array, *, steps: int
) -> Array:
    """The root between `low` and `high` of functions that change sign once, from below.

    A Newton step is taken where it stays between the bounds and is at most half as long
    as the last one, and a bisection otherwise: at worst each of the `steps` halves the
    interval. The result is where `f` was smallest, and has no derivative.
    """
    low, high = jax.lax.stop_gradient((low, high))

    def step(_, state):
        low, high, x, last, best, least = state
        y, slope = jax.jvp(f, (x,), (jnp.ones_like(x),))
        low, high = jnp.where(y < 0, x, low), jnp.where(y < 0, high, x)
        # In the noise around the root, steps are rejected and bisections lead away.
        better = jnp.abs(y) < least
        best, least = jnp.where(better, x, best), jnp.where(better, jnp.abs(y), least)
        # An infinite slope would keep it where it is.
        sound = (slope > 0) & jnp.isfinite(slope)
        newton = x - y / jnp.where(sound, slope, 1)
        inside = (newton >= low) & (newton <= high) & (jnp.abs(newton - x) <= last / 2)
        new = jnp.where(sound & inside, newton, (low + high) / 2)
        return low, high, new, jnp.abs(new - x), best, least

    middle = (low + high) / 2
    state = low, high, middle, high - low, middle, jnp.full_like(low, jnp.inf)
    return jax.lax.fori_loop(0, steps, step, state)[4]
