r"""Grafting: the direction of one method with the size of another's step."""

from typing import Any

import jax
import jax.numpy as jnp

from jaxla._dtypes import norms


def graft(direction: Any, magnitude: Any) -> Any:
    r"""Rescales each array of `direction` to the norm of its like in `magnitude`.

    $D \, \|M\| / \|D\|$, over the whole of each array; zero where $D$ is zero.

    **Arguments:**

    - `direction`: $D$, an array or a tree of arrays, in `float32` at least. A norm
        beyond about 1e-19 or 1e19 in `float32` under- or overflows, and gives zero.
    - `magnitude`: $M$, a tree of the same structure; only the norms count.

    **Returns:**

    A tree like `direction`.

    **Differentiation:** both modes; the derivative at $D = 0$ is zero.

    !!! example

        >>> import jax.numpy as jnp
        >>> print(jaxla.kron.graft(jnp.array([3.0, 4.0]), jnp.array([10.0])))
        [6. 8.]

    ??? cite "Reference"

        Agarwal, Anil, Hazan, Koren and Zhang, *Disentangling Adaptive Gradient
        Methods from Learning Rates*, 2020.
    """
    leaves, tree = jax.tree.flatten(direction)
    if not leaves:
        return direction
    size, norm = jnp.split(norms([*jax.tree.leaves(magnitude), *leaves]), 2)
    ratio = jnp.where(norm > 0, size / jnp.where(norm > 0, norm, 1), 0)
    scaled = [x * r.astype(x.dtype) for x, r in zip(leaves, ratio, strict=True)]
    return tree.unflatten(scaled)
