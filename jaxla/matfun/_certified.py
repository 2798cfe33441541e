"""What functions of general matrices return: a value, and what speaks for it."""

from typing import NamedTuple

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


def norm_ratio(x: Array, y: Array) -> Array:
    """The ratio of Frobenius norms; the norm of `x` where that of `y` is zero."""
    size = frobenius(y)
    return frobenius(x) / jnp.where(size == 0, 1, size)


def frobenius(x: Array) -> Array:
    """Frobenius norms of matrices with entries near 1."""
    return safe_sqrt(jnp.sum(x * x, axis=(-2, -1)))
