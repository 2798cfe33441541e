r"""Grafting: the direction of one method with the size of another's step."""

import jax.numpy as jnp
from jaxtyping import Array, Float


def graft(
    direction: Float[Array, "..."], magnitude: Float[Array, "..."]
) -> Float[Array, "..."]:
    r"""Rescales `direction` to the Euclidean norm of `magnitude`, over the whole array.

    $D \, \|M\| / \|D\|$; zero where $D$ is zero.

    **Arguments:**

    - `direction`: $D$, of any shape.
    - `magnitude`: $M$, of any shape; only its norm counts.

    **Returns:**

    An array of the shape and dtype of `direction`.

    **Differentiation:** both modes; the derivative at $D = 0$ is zero.

    !!! example

        >>> import jax.numpy as jnp
        >>> print(jaxla.kron.graft(jnp.array([3.0, 4.0]), jnp.array([10.0])))
        [6. 8.]

    ??? cite "Reference"

        Agarwal, Anil, Hazan, Koren and Zhang, *Disentangling Adaptive Gradient
        Methods from Learning Rates*, 2020.
    """
    unit, _ = _unit(direction)
    _, size = _unit(magnitude)
    return unit * size.astype(unit.dtype)


def _unit(x: Array) -> tuple[Array, Array]:
    """`x / |x|` and `|x|`, without over- or underflow; zero for zero."""
    largest = jnp.abs(x).max(initial=0)
    scale = jnp.where(largest > 0, largest, 1)
    x = x / scale
    norm = jnp.sqrt(jnp.where(largest > 0, jnp.sum(x * x), 1))
    return x / norm, jnp.where(largest > 0, norm * scale, 0)
