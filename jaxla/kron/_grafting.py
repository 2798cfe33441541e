r"""Grafting: the direction of one method with the size of another's step."""

import functools

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxla._dtypes import safe_sqrt

from ._plan import Plan
from ._stacks import Stacks


def graft(stacks: Stacks, sizes: Float[Array, " leaves"], plan: Plan) -> Stacks:
    r"""Rescales the tiles of each parameter so that its norm is as given.

    $D \, s / \|D\|$ with the Frobenius norm over the whole of a parameter; zero where
    $D$ is zero.

    **Arguments:**

    - `stacks`: $D$, in the form of [`jaxla.kron.to_stacks`][]. A norm beyond
        about 1e-19 or 1e19 in `float32` under- or overflows, and gives zero.
    - `sizes`: $s$, one number a parameter of the plan.
    - `plan`: the plan.

    **Returns:**

    Stacks like `stacks`.

    **Differentiation:** both modes; the derivative at $D = 0$ is zero.

    !!! example

        >>> import jax.numpy as jnp
        >>> weight = jnp.array([[3.0, 0.0], [0.0, 4.0]])
        >>> plan = jaxla.kron.make_plan(["w"], [weight], jaxla.kron.Blocks())
        >>> stacks = jaxla.kron.to_stacks([weight], plan)
        >>> out = jaxla.kron.graft(stacks, jnp.array([10.0]), plan)
        >>> print(jaxla.kron.from_stacks(out, plan)[0])
        [[6. 0.]
         [0. 8.]]

    ??? cite "Reference"

        Agarwal, Anil, Hazan, Koren and Zhang, *Disentangling Adaptive Gradient
        Methods from Learning Rates*, 2020.
    """
    owners = {size: plan.owners_of_tiles(size) for size in stacks}
    totals = [
        jax.ops.segment_sum(jnp.sum(x * x, (1, 2)), owners[size], len(plan.leaves))
        for size, x in stacks.items()
    ]
    norms = safe_sqrt(functools.reduce(jnp.add, totals))
    ratio = jnp.where(norms == 0, 0, sizes / jnp.where(norms == 0, 1, norms))
    return {
        size: x * ratio[owners[size]][:, None, None].astype(x.dtype)
        for size, x in stacks.items()
    }
