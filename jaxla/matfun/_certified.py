"""What functions of general matrices return: a value, and what speaks for it."""

from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float


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
    norm = lambda a: jnp.sqrt(jnp.sum(a * a, (-2, -1)))
    return norm(x) / jnp.where(norm(y) == 0, 1, norm(y))
