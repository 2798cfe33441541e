"""What functions of general matrices return: a value, and what speaks for it."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxla._dtypes import safe_sqrt


class MatrixFunction(NamedTuple):
    """The value of a function of a matrix, and what speaks for it.

    - `value`: zero where `residual` is infinite.
    - `residual`: how far the value is from solving the equation that defines it,
        as its function says; of the order of the dtype's `eps` where all is well, and
        infinite for a matrix with a non-finite entry or where the method broke down.
        It has no derivative.
    """

    value: Float[Array, "*batch n n"]
    residual: Float[Array, "*batch"]


def flat_where_not_finite(fn: Callable[[Array], tuple[Array, ...]]) -> Callable:
    """`fn` of a batch of matrices, with a derivative of zero where it is not finite.

    A loss that leaves a bad member out then has a gradient without NaN. Both modes and
    every order.
    """

    @jax.custom_jvp
    def call(a):
        return fn(a)

    @call.defjvp
    def rule(primals, tangents):
        # Linear maps with NaN in them, between two masks: no mode sees it.
        out, push = jax.linearize(fn, *primals)
        finite = jnp.stack([jnp.isfinite(x).all((-2, -1)) for x in out]).all(0)
        mask = lambda x: jnp.where(finite[..., None, None], x, 0)
        return out, tuple(map(mask, push(*map(mask, tangents))))

    return call


def norm_ratio(x: Array, y: Array) -> Array:
    """The ratio of Frobenius norms; the norm of `x` where that of `y` is zero."""
    size = frobenius(y)
    return frobenius(x) / jnp.where(size == 0, 1, size)


def frobenius(x: Array) -> Array:
    """Frobenius norms of matrices with entries near 1."""
    return safe_sqrt(jnp.sum(x * x, axis=(-2, -1)))
